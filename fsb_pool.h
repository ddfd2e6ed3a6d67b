/* fsb_pool.h - v0.1.0 - a keyed pool of connections - single-header C library (C99, C++11)

   Lends connections, or anything else that takes long to open, by key ("user@host"): an idle one at
   once, a new one while the limits allow, else the next that comes back, in the order of asking
   but for short turns (fsb_pool_acquire()), which nobody who waits can lose to for long.

   QUICK START   (extracted, compiled and run by the tests)
       #define FSB_POOL_IMPLEMENTATION         // in ONE source file, before its other includes
       #include "fsb_pool.h"                   // (FSB_IMPLEMENTATION enables every fsb header)
       #include <stdio.h>
       #include <string.h>

       static int open_it(void *user, const char *key, uint32_t timeout_ms, void **thing)
       {
           (void)user, (void)timeout_ms;
           printf("opening %s\n", key);        // slow, and done once here
           *thing = stdout;
           return 0;
       }
       static void close_it(void *user, const char *key, void *thing)
       {
           (void)user, (void)key, (void)thing;
       }
       static int use_it(void *user, void *thing)
       {
           (void)user;
           return fputs("used\n", (FILE *)thing) < 0 ? -1 : 0;
       }

       int main(void)
       {
           fsb_pool_desc desc;
           memset(&desc, 0, sizeof desc);      // a zero field means "use the default"
           desc.open = open_it, desc.close = close_it;
           fsb_pool *pool = NULL;
           if (fsb_pool_open(&pool, &desc) < 0) return 1;
           for (int i = 0; i < 3; ++i)
               if (fsb_pool_with(pool, "somewhere", 0, use_it, NULL) < 0) return 1;
           fsb_pool_close(pool);
           return 0;
       }

   NEEDS     POSIX threads (-pthread). With a strict -std=, include this header before those of
             libc.
   OPTIONS   FSB_STATIC, FSB_API: once, before the first fsb header. They change the linkage only.
   THREADS   A pool, and a pooled backend, may be used by many threads at once. One lock, held
             for a moment, never around open(), check(), close() or fn(). A thread is started only
             by fsb_pool_open() with sweep_ms set; it blocks all signals.
   MEMORY    The desc's allocator only; without one, realloc and free. About 100 bytes for each of
             max_total things at open; a key while it has things or somebody waits for it.
   ERRORS    Negative errno values: -ETIMEDOUT nothing came free in time, -EBADF a lease that was
             given back already, -EINVAL, -ENOMEM, and what open() answers.
   DOES NOT  make a thing safe to share: what is lent is its borrower's alone until it is back (but
             see fsb_pooled_open()); interrupt an open() that hangs: keep to its timeout_ms.
   LICENCE   MIT, at the end of this file.
   CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_POOL_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_POOL_H
#define FSB_POOL_H
#include <stddef.h>
#include <stdint.h>

/* ==== fsb common 1: the same text in every fsb_*.h (master: tests/blocks/common.h) ============ */
#ifndef FSB_COMMON
#define FSB_COMMON 1
#define FSB_VERSION "0.1.0"
#if !defined(FSB_API) && defined(FSB_STATIC)
#define FSB_API static __attribute__((unused)) /* private to this source file, silent if unused */
#elif !defined(FSB_API)
#define FSB_API extern
#endif

/* Memory. One hook, so that it cannot be half overridden: new_size 0 frees, ptr NULL allocates,
   else it resizes. Returns memory aligned as malloc's, NULL when there is none.
   fn NULL: realloc and free of libc. Threads: any. */
typedef struct fsb_allocator {
    void *(*fn)(void *user, void *ptr, size_t old_size, size_t new_size);
    void *user;
} fsb_allocator;

/* Log. `item` is a stable name to filter by ("chunk/frame"), `text` one line without newline; both
   are valid during the call only. fn NULL: silence. Threads: any; it must not call the object. */
typedef enum fsb_log_level {
    FSB_LOG_ERROR, FSB_LOG_WARN, FSB_LOG_INFO, FSB_LOG_DEBUG
} fsb_log_level;
typedef struct fsb_logger {
    void (*fn)(void *user, fsb_log_level level, const char *item, const char *text);
    void *user;
} fsb_logger;

/* Threads. run() has job(arg) called once, soon, on another thread, and returns 0 without waiting,
   or -EAGAIN if it cannot. A job system fits it. run NULL: what the object's docs say. */
typedef struct fsb_runner {
    int (*run)(void *user, void (*job)(void *arg), void *arg);
    void *user;
} fsb_runner;

#define FSB_UNLIMITED UINT64_MAX /* in a desc: no bound at all, where 0 would mean the default */
#elif FSB_COMMON != 1
#error "fsb headers of different releases are mixed: copy them together"
#endif
/* ==== end of fsb common ======================================================================= */
/* ==== fsb vtable 1: the vocabulary of files (master: tests/blocks/vtable.h) =================== */
#ifndef FSB_VTABLE
#define FSB_VTABLE 1
/* A backend is a table of calls on paths, files and bytes; what transforms files is a backend that
   wraps another. Every call takes one fsb_op: the caller fills in what is asked, the backend what
   is answered. The constants are frozen: the same on every platform, in every release, on the wire.

   Paths    absolute inside the backend and normalised ("/", "/a/b": no "//", ".", "..", final "/"),
            at most FSB_PATH_MAX bytes; names are any bytes but '/' and NUL, at most FSB_NAME_MAX.
            A symbolic link is never followed as the last component; before it, it is, inside the
            backend only: what would lead outside answers -EACCES.
   Results  op->result is 0, a count, or a negative errno. Answers are written on success only.
   Memory   what an op points to is the caller's and stays until the op is done. */
enum { FSB_PATH_MAX = 8191, FSB_NAME_MAX = 255, FSB_IO_MAX = 1 << 20 /* bytes a READ or WRITE */ };

typedef struct fsb_backend fsb_backend;
typedef struct fsb_op fsb_op;
typedef uint64_t fsb_handle; /* an open file of one backend; 0: none; closed ones answer -EBADF */

/* What is known of a file. Times in ns since the epoch, sizes in bytes. */
typedef struct fsb_stat {
    uint64_t file_id; /* which file: kept over renames, not reused as inode numbers are; never 0 */
    uint64_t version; /* differs whenever the content may have changed */
    uint64_t ino;     /* the number to show people */
    uint64_t size;
    uint64_t blocks; /* allocated, in units of 512 bytes */
    int64_t  atime_ns, mtime_ns, ctime_ns;
    int64_t  btime_ns; /* creation; 0 if not known */
    uint32_t mode;     /* type and permissions as in POSIX: 0100644 */
    uint32_t nlink, uid, gid;
    uint32_t rdev_major, rdev_minor; /* of a device node */
    uint32_t blksize;                /* preferred for i/o */
    uint32_t reserved;
} fsb_stat;

/* What to set (SETATTR), or what a new file starts with (OPEN with CREATE, PUT, MKDIR, MKNOD,
   SYMLINK). A new file gets mode as it stands (no umask), and the owner asked for where the backend
   may set owners; in a set-group-id directory the directory's group rules. */
enum {
    FSB_ATTR_MODE = 1, FSB_ATTR_UID = 2, FSB_ATTR_GID = 4, FSB_ATTR_SIZE = 8,
    FSB_ATTR_ATIME = 16, FSB_ATTR_MTIME = 32, FSB_ATTR_ATIME_NOW = 64, FSB_ATTR_MTIME_NOW = 128,
    FSB_ATTR_KILL_PRIV = 256 /* besides, drop set-user-id, and set-group-id if group-executable */
};
typedef struct fsb_attr {
    uint32_t mask; /* FSB_ATTR_*: which fields count */
    uint32_t mode, uid, gid;
    uint32_t rdev_major, rdev_minor; /* MKNOD */
    uint64_t size;
    int64_t  atime_ns, mtime_ns;
} fsb_attr;

typedef struct fsb_statfs {
    uint64_t blocks, bfree, bavail; /* in units of frsize */
    uint64_t files, ffree;
    uint32_t bsize, frsize, namelen, reserved;
} fsb_statfs;

/* One name of a listing; its pointers are valid during emit() only. */
typedef struct fsb_dirent {
    const char *name; /* '\0' stands behind it; "." and ".." are never listed */
    size_t      name_size;
    uint64_t    cookie; /* the op->offset that goes on behind it; keeps while names change; not 0 */
    fsb_stat    stat;   /* whole with FSB_LIST_STAT; else ino, and type in mode (0: not known) */
    const char *folder; /* DEEP: the path it is in; NULL: op->path. name_size 0: that was all of it
                           (stat: its own, older than its names) */
    const void *data;   /* DATA: all stat.size bytes of the file, or NULL: not included */
} fsb_dirent;

/* A command to run (EXEC). It leads a process group of its own, which is ended with SIGTERM, two
   seconds later SIGKILL, at the op's timeout, on cancel, and when output() asks for it. */
typedef struct fsb_exec {
    const char *const *argv; /* NULL behind the last; with FSB_EXEC_SHELL one text for sh -c */
    const char *const *env;  /* "NAME=value" over the host's own; NULL behind the last, or NULL */
    const void        *input; /* what it reads from stdin, then end of file */
    size_t             input_size;
    uint64_t           max_output; /* bytes of each stream to hand out; 0: all */
    /* Hands out what it writes: fd 1 stdout, 2 stderr, each in order; not 0 ends the command. */
    int (*output)(fsb_op *op, int fd, const void *data, size_t size);
    int32_t  exit_code, signal; /* -> of which one is 0 */
    uint64_t cut[2];            /* -> bytes of stdout and stderr that were too many */
} fsb_exec;

/* Bytes handed out without a copy. release NULL: borrowed, valid until done() returns (what call[]
   hands out can be kept). Else they are the receiver's, who calls fsb_slice_release(). */
typedef struct fsb_slice {
    const void *data;
    size_t      size;
    void (*release)(void *owner);
    void *owner;
} fsb_slice;
/* Gives the bytes back, whichever kind; *s is empty then. Errors: none. Threads: any. */
static inline void fsb_slice_release(fsb_slice *s)
{
    if (s->release) s->release(s->owner);
    s->data = NULL, s->size = 0, s->release = NULL, s->owner = NULL;
}

/* Something changed (WATCH); paths are valid during the call only. */
enum {
    FSB_EVENT_CREATED = 1, FSB_EVENT_REMOVED, FSB_EVENT_CONTENT, FSB_EVENT_ATTR,
    FSB_EVENT_RENAMED, /* path is now path2; if one side is not watched: REMOVED or CREATED. Of an
                          EXCHANGE two, one each way */
    FSB_EVENT_LOST     /* events were lost: anything at or below path may have changed */
};
typedef struct fsb_event {
    uint32_t    kind; /* FSB_EVENT_* */
    const char *path, *path2;
    const fsb_stat *stat; /* of path (RENAMED: path2) as it is now, where known, else NULL; REMOVED:
                             of a file that has other names, as it was before */
} fsb_event;

/* The calls. "at": op->handle unless it is 0, else op->path; a path that leads to another file than
   op->file_id (unless that is 0) answers -ESTALE. "bytes": into op->buf, or if that is NULL handed
   out in op->slice. "->": what is answered. Flags that a call does not name answer -EINVAL. */
enum {
    FSB_OP_STAT = 1, /* at -> stat */
    FSB_OP_READLINK, /* at, size -> bytes of the text; result their number */
    FSB_OP_LIST,     /* at, offset (0 or a cookie), flags FSB_LIST_*, size64 (about how many bytes
                        of names, stats, data; 0: any); emit() for each name -> stat (with
                        LIST_STAT, older than the names), result 1 at the end, 0 if there is more
                        behind the last cookie: emit() stopped it, or it was enough for one call */
    FSB_OP_OPEN,     /* path, file_id, flags FSB_O_*, attr -> handle, stat; with FSB_O_READ and
                        size > 0 also bytes from 0 on; result their number */
    FSB_OP_READ,     /* handle, offset, size -> bytes; result below size only at the end of file */
    FSB_OP_WRITE,    /* handle, offset, data, size, flags FSB_WRITE_* -> result size (never less),
                        stat as it is afterwards; APPEND: out_offset is where the bytes went */
    FSB_OP_SYNC,     /* at, flags FSB_SYNC_*: on the disk when it returns */
    FSB_OP_CLOSE,    /* handle: gone even if an error comes back, which tells of earlier writes */
    FSB_OP_MKDIR,    /* path, attr -> stat */
    FSB_OP_UNLINK,   /* path: no directory */
    FSB_OP_RMDIR,    /* path */
    FSB_OP_RENAME,   /* path, path2, flags FSB_RENAME_* */
    FSB_OP_LINK,     /* at, path2: the new name -> stat */
    FSB_OP_SYMLINK,  /* path, path2: the text, kept as it is; attr -> stat */
    FSB_OP_MKNOD,    /* path, attr: mode with the type, rdev -> stat */
    FSB_OP_SETATTR,  /* at, attr -> stat */
    FSB_OP_ALLOCATE, /* handle, offset, size64, flags FSB_ALLOC_* -> stat */
    FSB_OP_SEEK,     /* handle, offset, flags FSB_SEEK_* -> out_offset; -ENXIO behind the last */
    FSB_OP_COPY,     /* handle, offset -> handle2, offset2, size64; result bytes, may be fewer */
    FSB_OP_STATFS,   /* at -> statfs */
    FSB_OP_GETXATTR, /* at, path2: name, buf, size -> result; size 0 asks for it; -ERANGE: more */
    FSB_OP_SETXATTR, /* at, path2: name, data, size, flags FSB_XATTR_* */
    FSB_OP_LISTXATTR,   /* at, buf, size -> names, each with its '\0'; result as GETXATTR */
    FSB_OP_REMOVEXATTR, /* at, path2: name */
    FSB_OP_GET,         /* path, file_id, size: OPEN, READ at 0, CLOSE in one -> stat, bytes */
    FSB_OP_PUT,         /* path, flags FSB_O_*, attr, data, size: OPEN, WRITE at 0, CLOSE in one
                           -> stat, result size */
    FSB_OP_LOCK,        /* handle, offset, size64 (0: to the end), owner, pid, flags FSB_LOCK_*;
                           -EAGAIN if taken; TEST -> flags (UNLOCK: free), offset, size64, pid */
    FSB_OP_WATCH,       /* path, flags FSB_WATCH_*; event(user, ...) on the backend's own thread,
                           until the handle is closed -> handle */
    FSB_OP_EXEC,        /* path: where it runs; exec, flags FSB_EXEC_*, timeout_ms -> exec; result 0
                           however the command ended, -ETIMEDOUT, -EACCES not allowed here */
    FSB_OP_DESCRIPTOR,  /* handle -> result: the kernel's descriptor behind it, borrowed while the
                           handle is open; never on the wire */
    FSB_OP_COUNT
};
enum { /* OPEN, PUT: READ or WRITE or both. A symbolic link answers -ELOOP */
    FSB_O_READ = 1, FSB_O_WRITE = 2, FSB_O_CREATE = 4, FSB_O_EXCL = 8, FSB_O_TRUNC = 16
};
enum { /* LIST: DATA and DEEP go with STAT, as far as size64 allows; leaving out is no error */
    FSB_LIST_STAT = 1, FSB_LIST_DATA = 2, /* the bytes of small files too */
    FSB_LIST_DEEP = 4 /* behind the last name the folders below, breadth first */
};
enum { FSB_WRITE_APPEND = 1, FSB_WRITE_KILL_PRIV = 2 /* as FSB_ATTR_KILL_PRIV */ };
enum { FSB_SYNC_DATA = 1 /* as fdatasync(2) */ };
enum { FSB_RENAME_NOREPLACE = 1, FSB_RENAME_EXCHANGE = 2 };
enum { FSB_ALLOC_KEEP_SIZE = 1, FSB_ALLOC_PUNCH_HOLE = 2, FSB_ALLOC_ZERO_RANGE = 4 };
enum { FSB_SEEK_DATA = 1, FSB_SEEK_HOLE = 2 };
enum { FSB_XATTR_CREATE = 1, FSB_XATTR_REPLACE = 2 };
enum { FSB_LOCK_UNLOCK = 0, FSB_LOCK_SHARED = 1, FSB_LOCK_EXCLUSIVE = 2, FSB_LOCK_TEST = 4,
       FSB_LOCK_WAIT = 8, FSB_LOCK_FLOCK = 16 /* as flock(2): the file, apart from fcntl(2)'s */ };
enum {
    FSB_WATCH_DEEP = 1,    /* folders below too */
    FSB_WATCH_FOREIGN = 2, /* where it can be told, not what this process did itself */
    FSB_WATCH_HELD = 4     /* a lease on "/": what this backend answers may be kept until an event
                              says otherwise; others' changes wait until event() has returned; own
                              ones tell nothing. -ENOSYS: nothing may be kept */
};
enum { FSB_EXEC_SHELL = 1 };

struct fsb_op {
    /* asked */
    uint32_t    code; /* FSB_OP_* */
    uint32_t    flags;
    const char *path, *path2;
    fsb_handle  handle, handle2; /* OPEN and WATCH answer in handle */
    uint64_t    file_id;
    uint64_t    offset, offset2;
    uint64_t    size64;     /* of a range */
    size_t      size;       /* of data or buf; without buf the most that slice may hold */
    const void *data;       /* bytes in */
    void       *buf;        /* room for bytes out */
    uint64_t    owner;      /* LOCK: whose */
    uint32_t    pid;        /* LOCK: to tell others */
    uint32_t    timeout_ms; /* 0: the backend's own; passed, the op ends with -ETIMEDOUT */
    fsb_attr    attr;
    fsb_exec   *exec;       /* EXEC */
    int (*emit)(fsb_op *op, const fsb_dirent *entry);  /* LIST: 0 goes on, 1 stops before entry */
    void (*event)(void *user, const fsb_event *event); /* WATCH */
    /* answered */
    int64_t    result;
    uint64_t   out_offset;
    fsb_stat   stat;
    fsb_statfs statfs;
    fsb_slice  slice;
    /* submit() only. done() is called once, on any thread, perhaps before submit() returns, never
       under a lock; it may submit more, but not wait for it. */
    void (*done)(fsb_op *op);
    void   *user;     /* the caller's */
    void   *layer[2]; /* the backend's until done() */
    fsb_op *next;     /* the holder's, for a list */
};

enum { FSB_BACKEND_QUICK = 1 /* answers from memory or a local disk: not worth another thread */ };
struct fsb_backend {
    uint32_t    size;  /* sizeof(fsb_backend) where the backend was compiled */
    uint32_t    flags; /* FSB_BACKEND_* */
    const char *name;  /* of the kind: "local" */
    /* Ends it, its handles too, not what it wraps. Threads: no other user left. */
    void (*close)(fsb_backend *backend);
    /* Starts n operations; the array is the caller's again on return. NULL: none, then call[] on a
       thread that may block does (fsb_backend_submit() of fsb_backend.h). Threads: any. */
    void (*submit)(fsb_backend *backend, fsb_op *const *ops, size_t n);
    /* Asks a submitted op to end soon with -EINTR; done() is called as ever. NULL: it cannot be
       hurried. Threads: any; the caller sees to it that op is not done meanwhile. */
    void (*cancel)(fsb_backend *backend, fsb_op *op);
    /* The synchronous calls, by FSB_OP_*; NULL stands for -ENOSYS. Each sets op->result and returns
       it. Threads: any, several at once; may block. */
    int64_t (*call[FSB_OP_COUNT])(fsb_backend *backend, fsb_op *op);
};
#elif FSB_VTABLE != 1
#error "fsb headers of different releases are mixed: copy them together"
#endif
/* ==== end of fsb vtable ======================================================================= */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fsb_pool fsb_pool;
#define FSB_POOL_NO_END UINT32_MAX /* a timeout_ms: wait as long as it takes */

typedef struct fsb_pool_desc {
    /* Makes a thing for key, within timeout_ms; 0 or a negative errno. Required. */
    int (*open)(void *user, const char *key, uint32_t timeout_ms, void **thing);
    void (*close)(void *user, const char *key, void *thing); /* required */
    /* Looks whether a thing that was idle still works, before it is lent; not 0: it is closed and
       another one made. NULL: they always do. */
    int (*check)(void *user, const char *key, void *thing);
    void    *user;        /* handed to the three */
    uint32_t max_per_key; /* things of one key, but those being closed (default 8) */
    uint32_t max_total;   /* things of all keys (default 64, at most 1 << 20) */
    uint32_t wait_ms;     /* of an acquire without a timeout (default 30000) */
    uint32_t idle_ms;     /* a sweep closes what is idle for so long (default 60000) */
    uint32_t check_ms;    /* what is idle for so long is checked (default 1000) */
    uint32_t sweep_ms;    /* a thread sweeps so often (default: none, see fsb_pool_sweep()) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_pool_desc;

/* What is lent. A copy is the same lease: only one of them can be given back. */
typedef struct fsb_lease {
    uint64_t id; /* 0: none */
    void    *thing;
} fsb_lease;

typedef enum fsb_pool_fate {
    FSB_POOL_KEEP,    /* it works */
    FSB_POOL_SUSPECT, /* check it before it is lent again */
    FSB_POOL_DISCARD  /* it is broken: close it, and check its key's others before they are lent */
} fsb_pool_fate;

typedef struct fsb_pool_stats {
    uint32_t lent, idle, opening, waiting, keys; /* now */
    uint64_t hits;                  /* since open, as all below: an idle one was there */
    uint64_t opened, open_failed;   /* by open() */
    uint64_t waited, timed_out;     /* acquires that had to; of these in vain */
    uint64_t swept, evicted;        /* closed for being idle; to make room for another key */
    uint64_t unhealthy, discarded;  /* closed for a check; for a DISCARD */
    uint64_t refused;               /* leases given back twice */
} fsb_pool_stats;

/* Makes an empty pool; with sweep_ms, starts its thread.
   Errors: -EINVAL a field (the log names it); -ENOMEM; -EAGAIN no thread. Threads: any. */
FSB_API int fsb_pool_open(fsb_pool **out, const fsb_pool_desc *desc);

/* Lends a thing of `key` (copied): an idle one, else a new one, else the next that is given back,
   in the order of asking, but for this: who asks when a thing has just come back may get it past
   those who wait, up to 32 times and for 3 ms, then it goes to the first of them; where nobody
   asked, after 2 ms. Where max_total is reached, another key's idle one makes room. While the first
   thing of a key is being made, others that ask for it wait for how that goes, and if it fails,
   fail with it. timeout_ms 0: the desc's wait_ms.
   Errors: -ETIMEDOUT; -EINVAL; -ENOMEM; what open() says. Threads: any; may block. */
FSB_API int fsb_pool_acquire(fsb_pool *pool, const char *key, uint32_t timeout_ms,
                             fsb_lease *out);

/* Gives a thing back, once. Errors: -EBADF it is back already, or was never lent: nothing happens.
   Threads: any; calls close() for DISCARD. */
FSB_API int fsb_pool_release(fsb_pool *pool, fsb_lease lease, fsb_pool_fate fate);

/* Has fn(user, thing) called with a thing of `key` and gives it back, whatever fn answers: for
   -ENOTCONN, -ECONNRESET, -ECONNABORTED, -EPIPE, -ESHUTDOWN and -EPROTO it is discarded, for
   -ETIMEDOUT it is suspect. Errors: fsb_pool_acquire()'s, else fn's result.
   Threads: any; may block. */
FSB_API int fsb_pool_with(fsb_pool *pool, const char *key, uint32_t timeout_ms,
                          int (*fn)(void *user, void *thing), void *user);

/* Closes what is idle for idle_ms or more; how many that were. Errors: none.
   Threads: any; calls close(). */
FSB_API uint32_t fsb_pool_sweep(fsb_pool *pool);

/* Counters, all of one moment. Errors: none. Threads: any. */
FSB_API void fsb_pool_get_stats(fsb_pool *pool, fsb_pool_stats *out);

/* Ends the thread, closes all things (a lent one too, which is a mistake and logged), frees the
   pool; NULL is fine. Errors: none. Threads: no other user left. */
FSB_API void fsb_pool_close(fsb_pool *pool);

/* ---- pools of backends ---- */

/* A close() and a check() for pools whose things are fsb_backend*: the check is a STAT of "/".
   Errors: none; the STAT's. Threads: any. */
FSB_API void fsb_pool_backend_close(void *user, const char *key, void *thing);
FSB_API int  fsb_pool_backend_check(void *user, const char *key, void *thing);

typedef struct fsb_pooled_desc {
    fsb_pool   *pool;         /* required: its things are fsb_backend*; must outlive this */
    const char *key;          /* required; copied */
    uint32_t    timeout_ms;   /* to wait for a backend, if the op has none (default: wait_ms) */
    uint32_t    max_handles;  /* open files and watches (default 65536, at most 1 << 24) */
    fsb_allocator allocator;
} fsb_pooled_desc;

/* A backend that borrows one of the pool's for each operation: as many run at once as the pool has.
   An open file stays with the backend that opened it, but does not occupy it: that one goes back to
   the pool, and is lent to others while operations on the file use it too (backends may be used by
   many threads); the pool keeps it from being swept, and what is discarded is closed with its last
   open file. COPY between files of two backends answers -EXDEV. After an answer that means a lost
   connection (see fsb_pool_with()) the backend is discarded, or if the operation was on an open
   file checked before it is lent again; the operation is not repeated.
   Errors: -EINVAL, -ENOMEM; nothing is connected yet. Threads: any. */
FSB_API int fsb_pooled_open(fsb_backend **out, const fsb_pooled_desc *desc);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FSB_POOL_H */

/* ==== IMPLEMENTATION: [memory] [things] [waiters] [lend] [sweep] [open] [backends] [pooled] === */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_POOL_IMPLEMENTATION)) && !defined(FSB_POOL_DONE_)
#define FSB_POOL_DONE_
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if !defined(CLOCK_MONOTONIC) || !defined(SIG_BLOCK)
#error "fsb_pool.h: POSIX is hidden; include it first, or compile with -D_GNU_SOURCE"
#else

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_pool_resize_(const fsb_allocator *a, void *ptr, size_t old_size, size_t size)
{
    if (a->fn) return a->fn(a->user, ptr, old_size, size);
    if (size) return realloc(ptr, size);
    free(ptr);
    return NULL;
}

static void *fsb_pool_new_(const fsb_allocator *a, size_t size) /* zeroed */
{
    void *p = fsb_pool_resize_(a, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void fsb_pool_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) fsb_pool_resize_(a, ptr, size, 0);
}

static int64_t fsb_pool_now_(void) /* ms */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void fsb_pool_cond_init_(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* Waits until woken or `end` (fsb_pool_now_()'s clock); not 0: it has passed. */
static int fsb_pool_cond_wait_(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t end)
{
    struct timespec t;
    if (end == INT64_MAX) return pthread_cond_wait(cond, lock);
    t.tv_sec = (time_t)(end / 1000), t.tv_nsec = (long)(end % 1000) * 1000000;
    return pthread_cond_timedwait(cond, lock, &t);
}

/* ---- [things] -------------------------------------------------------------------------------- */

/* A slot holds one thing, or the right to make one. Its generation goes up whenever it is lent and
   when it comes back, so that an old lease is known. */
typedef enum fsb_pool_state_ {
    FSB_POOL_FREE_, FSB_POOL_IDLE_, FSB_POOL_OPENING_, FSB_POOL_LENT_,
    FSB_POOL_DEAD_ /* discarded, but pinned: closed with the last pin */
} fsb_pool_state_;

typedef struct fsb_pool_slot_ {
    struct fsb_pool_slot_ *next; /* of the free ones, or of the key's idle ones: last back first */
    struct fsb_pool_key_  *key;
    void                  *thing;
    int64_t                since;   /* idle, ms */
    int64_t                turn;    /* when it was handed over last, ms; */
    uint32_t               past;    /* and how often it was lent since past those who wait */
    uint32_t               generation, pins;
    fsb_pool_state_        state;
    int                    suspect; /* check it, however short it was idle */
} fsb_pool_slot_;

typedef struct fsb_pool_key_ {
    struct fsb_pool_key_ *next; /* in its bucket */
    fsb_pool_slot_       *idle;
    uint64_t              hash;
    uint32_t              things, working, opening; /* slots; with a thing; that make one */
    uint32_t              waiters; /* who needs the key to stay */
    char                  name[1];                  /* [size of it], with '\0' */
} fsb_pool_key_;

typedef struct fsb_pool_waiter_ {
    struct fsb_pool_waiter_ *next, *prev;
    fsb_pool_key_           *key;
    fsb_pool_slot_          *slot;   /* what it was given, */
    void                    *victim; /* after closing this, of victim_key, */
    fsb_pool_key_           *victim_key;
    int                      result; /* or why it gets nothing */
    int                      done;
    pthread_cond_t           wake;
} fsb_pool_waiter_;

struct fsb_pool {
    fsb_pool_desc     desc; /* defaults filled in; read-only after open */
    pthread_mutex_t   lock; /* leaf; guards all below */
    pthread_cond_t    wake; /* of the sweeping thread */
    fsb_pool_slot_   *slots, *free;
    fsb_pool_key_   **buckets;
    uint32_t          bucket_count;
    fsb_pool_waiter_ *first, *last; /* in the order of asking */
    fsb_pool_waiter_ *lookout;      /* one of them; NULL: nobody looks out for idle things */
    uint32_t          wary, caution; /* things to hand over before one is left idle again; the next
                                        time that is in vain */
    fsb_pool_stats    stats;        /* waiting, lent, ... are kept up to date too */
    int               closing, has_thread;
    pthread_t         thread;
};

static void fsb_pool_log_(const fsb_pool *p, fsb_log_level level, const char *key,
                          const char *text)
{
    char line[256];
    if (!p->desc.log.fn) return;
    snprintf(line, sizeof line, "%.100s: %s", key, text);
    p->desc.log.fn(p->desc.log.user, level, "pool/thing", line);
}

/* FNV-1a (Fowler, Noll, Vo; public domain). */
static uint64_t fsb_pool_hash_(const char *text)
{
    uint64_t h = 0xcbf29ce484222325ULL;
    for (; *text; ++text) h = (h ^ (unsigned char)*text) * 0x100000001b3ULL;
    return h ^ h >> 32;
}

/* The key of that name, made if it is not there; NULL: no memory. Lock held. */
static fsb_pool_key_ *fsb_pool_key_of_(fsb_pool *p, const char *name)
{
    const uint64_t  hash = fsb_pool_hash_(name);
    fsb_pool_key_ **at = &p->buckets[hash % p->bucket_count], *key;
    for (key = *at; key; key = key->next)
        if (key->hash == hash && strcmp(key->name, name) == 0) return key;
    const size_t size = strlen(name);
    key = (fsb_pool_key_ *)fsb_pool_new_(&p->desc.allocator, sizeof *key + size);
    if (!key) return NULL;
    key->hash = hash, key->next = *at, *at = key;
    memcpy(key->name, name, size + 1);
    ++p->stats.keys;
    return key;
}

/* Frees a key that nothing holds. Lock held. */
static void fsb_pool_key_drop_(fsb_pool *p, fsb_pool_key_ *key)
{
    if (key->things || key->waiters) return;
    fsb_pool_key_ **at = &p->buckets[key->hash % p->bucket_count];
    while (*at != key) at = &(*at)->next;
    *at = key->next;
    --p->stats.keys;
    fsb_pool_free_(&p->desc.allocator, key, sizeof *key + strlen(key->name));
}

static void fsb_pool_unlink_idle_(fsb_pool *p, fsb_pool_slot_ *slot)
{
    fsb_pool_slot_ **at = &slot->key->idle;
    while (*at != slot) at = &(*at)->next;
    *at = slot->next;
    --p->stats.idle;
}

/* The slot holds nothing any more. Its key is dropped by the caller. Lock held. */
static void fsb_pool_empty_(fsb_pool *p, fsb_pool_slot_ *slot)
{
    --slot->key->things;
    slot->state = FSB_POOL_FREE_, slot->key = NULL, slot->thing = NULL, slot->suspect = 0;
    slot->next = p->free, p->free = slot;
}

/* ---- [waiters] ------------------------------------------------------------------------------- */

/* Handing each thing to the next who waits costs two changes of threads for every lease, more than
   a short one takes. So what comes back while others wait is left idle for a moment, within a turn
   of FSB_POOL_TURN_ leases and FSB_POOL_TURN_MS_ since it was handed over: whoever asks next,
   mostly the same thread, goes on with it. One of those who wait looks out for what nobody came
   back for, and hands it over; for a while nothing is left idle then. */
enum { FSB_POOL_TURN_ = 32, FSB_POOL_TURN_MS_ = 3, FSB_POOL_LOOK_MS_ = 2,
       FSB_POOL_WARY_ = 64, FSB_POOL_WARIEST_ = 1 << 16 };

/* The idle thing that is longest so, of all keys, to make room; NULL: none. Lock held. */
static fsb_pool_slot_ *fsb_pool_oldest_(fsb_pool *p)
{
    fsb_pool_slot_ *oldest = NULL;
    for (uint32_t i = 0; p->stats.idle && i < p->desc.max_total; ++i) {
        fsb_pool_slot_ *slot = &p->slots[i];
        if (slot->state != FSB_POOL_IDLE_ || slot->pins) continue;
        if (!oldest || slot->since < oldest->since) oldest = slot;
    }
    return oldest;
}

/* Gives w an idle thing of its key, or the right to make one; 0: neither can be. Lock held. */
static int fsb_pool_grant_(fsb_pool *p, fsb_pool_waiter_ *w)
{
    fsb_pool_key_  *key = w->key;
    fsb_pool_slot_ *slot = key->idle;
    if (slot) {
        fsb_pool_unlink_idle_(p, slot);
        slot->state = FSB_POOL_LENT_, ++slot->generation, ++p->stats.lent, ++p->stats.hits;
        ++slot->past;
        w->slot = slot;
        return 1;
    }
    if (key->things >= p->desc.max_per_key) return 0;
    if (key->opening && !key->working) return 0; /* the first of them decides */
    if (!p->free) {
        slot = fsb_pool_oldest_(p);
        if (!slot) return 0;
        fsb_pool_unlink_idle_(p, slot);
        w->victim = slot->thing, w->victim_key = slot->key;
        ++slot->key->waiters; /* its name is needed yet */
        --slot->key->working, ++p->stats.evicted;
        fsb_pool_empty_(p, slot);
    }
    slot = p->free, p->free = slot->next;
    slot->key = key, slot->state = FSB_POOL_OPENING_, ++slot->generation;
    ++key->things, ++key->opening, ++p->stats.opening;
    w->slot = slot;
    return 1;
}

static void fsb_pool_leave_(fsb_pool *p, fsb_pool_waiter_ *w)
{
    if (p->lookout == w) p->lookout = NULL;
    *(w->prev ? &w->prev->next : &p->first) = w->next;
    *(w->next ? &w->next->prev : &p->last) = w->prev;
    --p->stats.waiting;
}

/* Something is free: in the order of asking, whoever can use it gets it; how many did. Then nothing
   is left idle that somebody waits for. Lock held. */
static uint32_t fsb_pool_serve_(fsb_pool *p)
{
    const int64_t now = p->first ? fsb_pool_now_() : 0;
    uint32_t      n = 0;
    for (fsb_pool_waiter_ *w = p->first, *next; w; w = next) {
        next = w->next;
        if (!fsb_pool_grant_(p, w)) continue;
        fsb_pool_leave_(p, w);
        w->slot->turn = now, w->slot->past = 0;
        w->done = 1, ++n;
        pthread_cond_signal(&w->wake);
    }
    return n;
}

/* 1 if what is idle since `now` may stay it although somebody waits. Lock held. */
static int fsb_pool_leave_idle_(fsb_pool *p, const fsb_pool_slot_ *slot, int64_t now)
{
    if (!p->lookout) return 0;
    if (p->wary) {
        --p->wary;
        return 0;
    }
    if (slot->past < FSB_POOL_TURN_ && now - slot->turn < FSB_POOL_TURN_MS_) return 1;
    if (slot->past) p->caution = FSB_POOL_WARY_; /* somebody came back for it */
    return 0;
}

/* The moment is over: what was left idle in vain is handed over. Lock held. */
static void fsb_pool_look_(fsb_pool *p)
{
    if (!fsb_pool_serve_(p)) return;
    p->wary = p->caution;
    if (p->caution < FSB_POOL_WARIEST_) p->caution *= 2;
}

/* Waits on the list for a slot. Lock held. */
static int fsb_pool_wait_(fsb_pool *p, fsb_pool_waiter_ *w, int64_t end)
{
    fsb_pool_cond_init_(&w->wake);
    w->prev = p->last, w->next = NULL;
    *(p->last ? &p->last->next : &p->first) = w;
    p->last = w;
    ++p->stats.waiting, ++p->stats.waited;
    while (!w->done) {
        int64_t until = end;
        if (!p->lookout) p->lookout = w;
        if (p->lookout == w) until = fsb_pool_now_() + FSB_POOL_LOOK_MS_;
        if (until > end) until = end;
        if (fsb_pool_cond_wait_(&w->wake, &p->lock, until) != ETIMEDOUT || w->done) continue;
        fsb_pool_look_(p);
        if (w->done || until < end) continue;
        fsb_pool_leave_(p, w);
        w->done = 1, w->result = -ETIMEDOUT, ++p->stats.timed_out;
    }
    pthread_cond_destroy(&w->wake);
    return w->result;
}

/* A key's first thing could not be made: nobody who waits for it needs to try again. Lock held. */
static void fsb_pool_fail_(fsb_pool *p, const fsb_pool_key_ *key, int err)
{
    for (fsb_pool_waiter_ *w = p->first, *next; w; w = next) {
        next = w->next;
        if (w->key != key) continue;
        fsb_pool_leave_(p, w);
        w->done = 1, w->result = err;
        pthread_cond_signal(&w->wake);
    }
}

/* ---- [lend] ---------------------------------------------------------------------------------- */

/* Ends a thing that is lent: what is behind is the caller's to close, NULL if pins hold it.
   *key stays until fsb_pool_retired_(). Lock held. */
static void *fsb_pool_retire_(fsb_pool *p, fsb_pool_slot_ *slot, fsb_pool_key_ **key)
{
    void *thing = slot->pins ? NULL : slot->thing;
    --p->stats.lent, --slot->key->working, ++slot->generation;
    for (fsb_pool_slot_ *s = slot->key->idle; s; s = s->next) s->suspect = 1;
    *key = slot->key;
    ++(*key)->waiters; /* holds it */
    if (slot->pins) slot->state = FSB_POOL_DEAD_;
    else fsb_pool_empty_(p, slot);
    fsb_pool_serve_(p);
    return thing;
}

/* Closes what was retired or pushed out, and lets go of its key. Lock not held. */
static void fsb_pool_retired_(fsb_pool *p, void *thing, fsb_pool_key_ *key)
{
    if (thing) p->desc.close(p->desc.user, key->name, thing);
    pthread_mutex_lock(&p->lock);
    --key->waiters;
    fsb_pool_key_drop_(p, key);
    pthread_mutex_unlock(&p->lock);
}

/* Makes the thing of a slot that was granted for it. */
static int fsb_pool_make_(fsb_pool *p, fsb_pool_slot_ *slot, int64_t end)
{
    const int64_t left = end == INT64_MAX ? FSB_POOL_NO_END : end - fsb_pool_now_();
    void         *thing = NULL;
    int           err = -ETIMEDOUT;
    if (left > 0) err = p->desc.open(p->desc.user, slot->key->name, (uint32_t)left, &thing);
    pthread_mutex_lock(&p->lock);
    --p->stats.opening, --slot->key->opening;
    if (err < 0) {
        fsb_pool_key_ *key = slot->key;
        ++p->stats.open_failed;
        fsb_pool_empty_(p, slot);
        if (!key->working) fsb_pool_fail_(p, key, err);
    } else {
        slot->thing = thing, slot->state = FSB_POOL_LENT_, slot->suspect = 0;
        ++slot->key->working, ++p->stats.opened, ++p->stats.lent;
    }
    fsb_pool_serve_(p); /* a place is free, or the key has its first thing: others may make more */
    pthread_mutex_unlock(&p->lock);
    return err < 0 ? err : 0;
}

/* 1 if a thing that was idle is to be looked at before it is lent. Lock held. */
static int fsb_pool_doubtful_(const fsb_pool *p, const fsb_pool_slot_ *slot)
{
    if (!p->desc.check) return 0;
    return slot->suspect || fsb_pool_now_() - slot->since >= p->desc.check_ms;
}

/* 1 if a doubtful thing may be lent; else it is gone. */
static int fsb_pool_healthy_(fsb_pool *p, fsb_pool_slot_ *slot)
{
    fsb_pool_key_ *key = slot->key;
    if (p->desc.check(p->desc.user, key->name, slot->thing) == 0) {
        pthread_mutex_lock(&p->lock);
        slot->suspect = 0;
        pthread_mutex_unlock(&p->lock);
        return 1;
    }
    fsb_pool_log_(p, FSB_LOG_INFO, key->name, "did not work any more");
    pthread_mutex_lock(&p->lock);
    ++p->stats.unhealthy;
    void *thing = fsb_pool_retire_(p, slot, &key);
    pthread_mutex_unlock(&p->lock);
    fsb_pool_retired_(p, thing, key);
    return 0;
}

/* One round: 0 with w->slot lent, 1 to try again, or a negative errno. Lock held, but let go of
   while callbacks run. */
static int fsb_pool_try_(fsb_pool *p, fsb_pool_waiter_ *w, int64_t end)
{
    w->slot = NULL, w->victim = NULL, w->victim_key = NULL, w->done = 0;
    int       err = fsb_pool_grant_(p, w) ? 0 : fsb_pool_wait_(p, w, end);
    const int make = !err && w->slot->state == FSB_POOL_OPENING_;
    if (err || (!make && !fsb_pool_doubtful_(p, w->slot))) return err;
    pthread_mutex_unlock(&p->lock);
    if (w->victim_key) fsb_pool_retired_(p, w->victim, w->victim_key);
    if (make) err = fsb_pool_make_(p, w->slot, end);
    else err = fsb_pool_healthy_(p, w->slot) ? 0 : 1;
    pthread_mutex_lock(&p->lock);
    return err;
}

FSB_API int fsb_pool_acquire(fsb_pool *p, const char *name, uint32_t timeout_ms, fsb_lease *out)
{
    if (!p || !name || !out) return -EINVAL;
    const uint32_t   ms = timeout_ms ? timeout_ms : p->desc.wait_ms;
    const int64_t    end = ms == FSB_POOL_NO_END ? INT64_MAX : fsb_pool_now_() + ms;
    int              err = -ENOMEM;
    fsb_pool_waiter_ w;
    memset(&w, 0, sizeof w);
    pthread_mutex_lock(&p->lock);
    w.key = fsb_pool_key_of_(p, name);
    if (w.key) {
        ++w.key->waiters;
        do err = fsb_pool_try_(p, &w, end);
        while (err > 0);
        --w.key->waiters;
        fsb_pool_key_drop_(p, w.key);
    }
    if (!err) {
        const uint64_t index = (uint64_t)(w.slot - p->slots);
        out->id = (uint64_t)w.slot->generation << 32 | (index + 1), out->thing = w.slot->thing;
    }
    pthread_mutex_unlock(&p->lock);
    return err;
}

/* The slot of a lease that is not back yet. Lock held. */
static fsb_pool_slot_ *fsb_pool_lent_(fsb_pool *p, fsb_lease lease)
{
    const uint64_t index = (lease.id & UINT32_MAX) - 1;
    if (index >= p->desc.max_total) return NULL;
    fsb_pool_slot_ *slot = &p->slots[index];
    return slot->state == FSB_POOL_LENT_ && slot->generation == lease.id >> 32 ? slot : NULL;
}

FSB_API int fsb_pool_release(fsb_pool *p, fsb_lease lease, fsb_pool_fate fate)
{
    void           *thing = NULL;
    fsb_pool_key_  *key = NULL;
    pthread_mutex_lock(&p->lock);
    fsb_pool_slot_ *slot = fsb_pool_lent_(p, lease);
    if (!slot) {
        ++p->stats.refused;
    } else if (fate == FSB_POOL_DISCARD) {
        ++p->stats.discarded;
        thing = fsb_pool_retire_(p, slot, &key);
    } else {
        slot->state = FSB_POOL_IDLE_, ++slot->generation, slot->since = fsb_pool_now_();
        if (fate == FSB_POOL_SUSPECT) slot->suspect = 1;
        slot->next = slot->key->idle, slot->key->idle = slot;
        --p->stats.lent, ++p->stats.idle;
        if (!fsb_pool_leave_idle_(p, slot, slot->since)) fsb_pool_serve_(p);
    }
    pthread_mutex_unlock(&p->lock);
    if (key) fsb_pool_retired_(p, thing, key);
    return slot ? 0 : -EBADF;
}

/* What an answer of a thing says about the thing. */
static fsb_pool_fate fsb_pool_fate_of_(int64_t result)
{
    switch (result) {
    case -ENOTCONN: case -ECONNRESET: case -ECONNABORTED: case -EPIPE: case -ESHUTDOWN:
    case -EPROTO: return FSB_POOL_DISCARD;
    case -ETIMEDOUT: return FSB_POOL_SUSPECT;
    default: return FSB_POOL_KEEP;
    }
}

FSB_API int fsb_pool_with(fsb_pool *p, const char *key, uint32_t timeout_ms,
                          int (*fn)(void *user, void *thing), void *user)
{
    fsb_lease lease;
    const int err = fsb_pool_acquire(p, key, timeout_ms, &lease);
    if (err) return err;
    const int result = fn(user, lease.thing);
    fsb_pool_release(p, lease, fsb_pool_fate_of_(result));
    return result;
}

/* ---- [sweep] --------------------------------------------------------------------------------- */

FSB_API uint32_t fsb_pool_sweep(fsb_pool *p)
{
    uint32_t swept = 0;
    pthread_mutex_lock(&p->lock);
    for (uint32_t i = 0; i < p->desc.max_total; ++i) {
        fsb_pool_slot_ *slot = &p->slots[i];
        if (slot->state != FSB_POOL_IDLE_ || slot->pins) continue;
        if (fsb_pool_now_() - slot->since < p->desc.idle_ms) continue;
        fsb_pool_key_ *key = slot->key;
        void          *thing = slot->thing;
        fsb_pool_unlink_idle_(p, slot);
        --key->working, ++p->stats.swept, ++swept;
        ++key->waiters; /* holds it */
        fsb_pool_empty_(p, slot);
        fsb_pool_serve_(p);
        pthread_mutex_unlock(&p->lock);
        fsb_pool_retired_(p, thing, key);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return swept;
}

static void *fsb_pool_main_(void *arg)
{
    fsb_pool *p = (fsb_pool *)arg;
    pthread_mutex_lock(&p->lock);
    while (!p->closing) {
        const int64_t end = fsb_pool_now_() + p->desc.sweep_ms;
        if (!fsb_pool_cond_wait_(&p->wake, &p->lock, end)) continue;
        pthread_mutex_unlock(&p->lock);
        fsb_pool_sweep(p);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

FSB_API void fsb_pool_get_stats(fsb_pool *p, fsb_pool_stats *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    pthread_mutex_unlock(&p->lock);
}

/* ---- [open] ---------------------------------------------------------------------------------- */

static int fsb_pool_reject_(const fsb_pool_desc *d, const char *what)
{
    if (d->log.fn) d->log.fn(d->log.user, FSB_LOG_ERROR, "pool/desc", what);
    return -EINVAL;
}

static int fsb_pool_check_desc_(fsb_pool_desc *d)
{
    if (!d->open) return fsb_pool_reject_(d, "fsb_pool_desc.open is NULL");
    if (!d->close) return fsb_pool_reject_(d, "fsb_pool_desc.close is NULL");
    if (!d->max_per_key) d->max_per_key = 8;
    if (!d->max_total) d->max_total = 64;
    if (!d->wait_ms) d->wait_ms = 30000;
    if (!d->idle_ms) d->idle_ms = 60000;
    if (!d->check_ms) d->check_ms = 1000;
    if (d->max_total > 1 << 20) return fsb_pool_reject_(d, "fsb_pool_desc.max_total is too large");
    return 0;
}

static void fsb_pool_free_all_(fsb_pool *p)
{
    const fsb_allocator a = p->desc.allocator;
    fsb_pool_free_(&a, p->slots, p->desc.max_total * sizeof *p->slots);
    fsb_pool_free_(&a, p->buckets, p->bucket_count * sizeof *p->buckets);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    fsb_pool_free_(&a, p, sizeof *p);
}

/* Threads of a library must not take the program's signals. */
static int fsb_pool_start_(fsb_pool *p)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int err = pthread_create(&p->thread, NULL, fsb_pool_main_, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    p->has_thread = !err;
    return -err;
}

FSB_API int fsb_pool_open(fsb_pool **out, const fsb_pool_desc *desc)
{
    if (!out || !desc) return -EINVAL;
    fsb_pool_desc d = *desc;
    int           err = fsb_pool_check_desc_(&d);
    if (err) return err;
    fsb_pool *p = (fsb_pool *)fsb_pool_new_(&d.allocator, sizeof *p);
    if (!p) return -ENOMEM;
    p->desc = d, p->bucket_count = d.max_total;
    p->wary = p->caution = FSB_POOL_WARY_;
    pthread_mutex_init(&p->lock, NULL);
    fsb_pool_cond_init_(&p->wake);
    p->slots = (fsb_pool_slot_ *)fsb_pool_new_(&d.allocator, d.max_total * sizeof *p->slots);
    p->buckets = (fsb_pool_key_ **)fsb_pool_new_(&d.allocator,
                                                 p->bucket_count * sizeof *p->buckets);
    if (!p->slots || !p->buckets) err = -ENOMEM;
    for (uint32_t i = d.max_total; !err && i-- > 0; p->free = &p->slots[i])
        p->slots[i].next = p->free;
    if (!err && d.sweep_ms) err = fsb_pool_start_(p);
    if (err) {
        fsb_pool_free_all_(p);
        return err;
    }
    *out = p;
    return 0;
}

FSB_API void fsb_pool_close(fsb_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->closing = 1;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    if (p->has_thread) pthread_join(p->thread, NULL);
    for (uint32_t i = 0; i < p->desc.max_total; ++i) {
        fsb_pool_slot_ *slot = &p->slots[i];
        if (slot->state == FSB_POOL_FREE_) continue;
        if (slot->state == FSB_POOL_LENT_)
            fsb_pool_log_(p, FSB_LOG_WARN, slot->key->name, "was still lent when the pool closed");
        p->desc.close(p->desc.user, slot->key->name, slot->thing);
        fsb_pool_key_ *key = slot->key;
        fsb_pool_empty_(p, slot);
        fsb_pool_key_drop_(p, key);
    }
    fsb_pool_free_all_(p);
}

/* ---- [backends] ------------------------------------------------------------------------------ */

FSB_API void fsb_pool_backend_close(void *user, const char *key, void *thing)
{
    fsb_backend *b = (fsb_backend *)thing;
    (void)user, (void)key;
    b->close(b);
}

static int64_t fsb_pool_call_(fsb_backend *b, fsb_op *op);

/* GET of simple calls: OPEN answers the first bytes and the stat already. */
static int64_t fsb_pool_get_(fsb_backend *b, fsb_op *op)
{
    fsb_op sub = *op;
    sub.code = FSB_OP_OPEN, sub.flags = FSB_O_READ;
    if (fsb_pool_call_(b, &sub) < 0) return sub.result;
    const int64_t n = sub.result;
    op->stat = sub.stat, op->slice = sub.slice;
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_pool_call_(b, &sub);
    return n;
}

/* Opens the file of a PUT by *sub. 1: it was made by this, 0: it was there; or an error. */
static int fsb_pool_put_open_(fsb_backend *b, const fsb_op *op, fsb_op *sub)
{
    const uint32_t flags = op->flags | FSB_O_WRITE, create = flags & FSB_O_CREATE;
    for (int tries = 0;; ++tries) { /* somebody may make and remove it in between */
        *sub = *op;
        sub->code = FSB_OP_OPEN, sub->flags = flags | (create ? (uint32_t)FSB_O_EXCL : 0);
        sub->size = 0;
        int64_t n = fsb_pool_call_(b, sub);
        if (n >= 0) return create != 0;
        if (n != -EEXIST || flags & FSB_O_EXCL) return (int)n;
        sub->flags = flags & ~create;
        n = fsb_pool_call_(b, sub);
        if (n >= 0 || n != -ENOENT || tries == 100) return n < 0 ? (int)n : 0;
    }
}

/* PUT of simple calls. What it has made, and cannot fill, goes again. */
static int64_t fsb_pool_put_(fsb_backend *b, fsb_op *op)
{
    if (op->flags & FSB_O_READ) return -EINVAL;
    fsb_op    sub;
    const int made = fsb_pool_put_open_(b, op, &sub);
    if (made < 0) return made;
    const uint64_t file_id = sub.stat.file_id;
    int64_t        n = 0;
    if (op->size) {
        sub.code = FSB_OP_WRITE, sub.flags = 0, sub.offset = 0, sub.size = op->size;
        n = fsb_pool_call_(b, &sub);
    }
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_pool_call_(b, &sub);
    if (n >= 0 && sub.result < 0) n = sub.result;
    if (n >= 0) op->stat = sub.stat;
    else if (made) {
        sub.code = FSB_OP_STAT, sub.handle = 0, sub.file_id = file_id, sub.size = 0;
        if (fsb_pool_call_(b, &sub) >= 0) {
            sub.code = FSB_OP_UNLINK;
            fsb_pool_call_(b, &sub);
        }
    }
    return n;
}

/* Runs op on b; GET and PUT are composed where b has none, on the same connection. */
static int64_t fsb_pool_call_(fsb_backend *b, fsb_op *op)
{
    const size_t end = offsetof(fsb_backend, call) + (op->code + 1) * sizeof b->call[0];
    op->result = -ENOSYS;
    if (!op->code || op->code >= FSB_OP_COUNT) return op->result;
    if (end <= b->size && b->call[op->code]) return b->call[op->code](b, op);
    if (op->code == FSB_OP_GET) op->result = fsb_pool_get_(b, op);
    if (op->code == FSB_OP_PUT) op->result = fsb_pool_put_(b, op);
    return op->result;
}

FSB_API int fsb_pool_backend_check(void *user, const char *key, void *thing)
{
    fsb_op op;
    (void)user, (void)key;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = "/";
    return (int)fsb_pool_call_((fsb_backend *)thing, &op);
}

/* ---- [pooled] -------------------------------------------------------------------------------- */

/* An open file: the slot whose backend has it, which is pinned meanwhile, and its handle there. */
typedef struct fsb_pooled_file_ {
    fsb_handle inner; /* 0: a free entry */
    uint32_t   slot, generation;
    uint32_t   next; /* of the free ones, + 1 */
} fsb_pooled_file_;

typedef struct fsb_pooled_ {
    fsb_backend       base; /* first */
    fsb_allocator     allocator;
    fsb_pool         *pool;
    uint32_t          timeout_ms, limit;
    pthread_mutex_t   lock; /* leaf; guards all below */
    fsb_pooled_file_ *files;
    uint32_t          room, used, free;
    char             *key;
} fsb_pooled_;

/* Keeps the thing of a slot from being closed. */
static void *fsb_pool_pin_(fsb_pool *p, uint32_t index)
{
    pthread_mutex_lock(&p->lock);
    ++p->slots[index].pins;
    void *thing = p->slots[index].thing;
    pthread_mutex_unlock(&p->lock);
    return thing;
}

/* What an answer of a pinned thing means for who borrows it next. */
static void fsb_pool_suspect_(fsb_pool *p, uint32_t index, int64_t result)
{
    if (fsb_pool_fate_of_(result) == FSB_POOL_KEEP) return;
    pthread_mutex_lock(&p->lock);
    p->slots[index].suspect = 1;
    pthread_mutex_unlock(&p->lock);
}

static void fsb_pool_unpin_(fsb_pool *p, uint32_t index)
{
    fsb_pool_slot_ *slot = &p->slots[index];
    fsb_pool_key_  *key = NULL;
    void           *thing = NULL;
    pthread_mutex_lock(&p->lock);
    if (--slot->pins == 0 && slot->state == FSB_POOL_DEAD_) {
        key = slot->key, thing = slot->thing;
        ++key->waiters; /* holds it */
        fsb_pool_empty_(p, slot);
        fsb_pool_serve_(p);
    } else if (slot->pins == 0 && slot->state == FSB_POOL_IDLE_) {
        fsb_pool_serve_(p); /* it can make room for another key now */
    }
    pthread_mutex_unlock(&p->lock);
    if (key) fsb_pool_retired_(p, thing, key);
}

/* The entry of a handle; NULL: there is none. Lock held. */
static fsb_pooled_file_ *fsb_pooled_file_of_(fsb_pooled_ *b, fsb_handle handle)
{
    const uint64_t index = (handle & UINT32_MAX) - 1;
    if (index >= b->used) return NULL;
    fsb_pooled_file_ *f = &b->files[index];
    return f->inner && f->generation == handle >> 32 ? f : NULL;
}

/* A handle for inner's on that slot, which gets a pin; 0: no more. */
static fsb_handle fsb_pooled_add_(fsb_pooled_ *b, fsb_handle inner, uint32_t slot)
{
    fsb_handle handle = 0;
    pthread_mutex_lock(&b->lock);
    if (!b->free && b->used == b->room && b->room < b->limit) {
        const uint32_t room = b->room ? b->room * 2 : 16;
        void *files = fsb_pool_resize_(&b->allocator, b->files, b->room * sizeof *b->files,
                                       room * sizeof *b->files);
        if (files) {
            b->files = (fsb_pooled_file_ *)files, b->room = room;
            memset(b->files + b->used, 0, (room - b->used) * sizeof *b->files);
        }
    }
    const uint32_t index = b->free ? b->free - 1 : b->used;
    if (b->free || (b->used < b->room && b->used < b->limit)) {
        fsb_pooled_file_ *f = &b->files[index];
        if (b->free) b->free = f->next;
        else ++b->used;
        f->inner = inner, f->slot = slot;
        if (!++f->generation) f->generation = 1;
        handle = (uint64_t)f->generation << 32 | (index + 1);
    }
    pthread_mutex_unlock(&b->lock);
    if (handle) fsb_pool_pin_(b->pool, slot);
    return handle;
}

/* Looks a handle up and pins its slot for the operation; `take` ends it. */
static int fsb_pooled_enter_(fsb_pooled_ *b, fsb_handle handle, int take, fsb_pooled_file_ *out)
{
    pthread_mutex_lock(&b->lock);
    fsb_pooled_file_ *f = fsb_pooled_file_of_(b, handle);
    if (f) {
        *out = *f;
        fsb_pool_pin_(b->pool, f->slot); /* lock order: pooled -> pool */
        if (take) f->inner = 0, f->next = b->free, b->free = (uint32_t)(f - b->files) + 1;
    }
    pthread_mutex_unlock(&b->lock);
    return f ? 0 : -EBADF;
}

/* An operation on an open file: by the backend that opened it. */
static int64_t fsb_pooled_on_handle_(fsb_pooled_ *b, fsb_op *op)
{
    const fsb_handle handle = op->handle, handle2 = op->handle2;
    const int        closes = op->code == FSB_OP_CLOSE;
    fsb_pooled_file_ one, two;
    memset(&two, 0, sizeof two);
    int err = fsb_pooled_enter_(b, handle, closes, &one);
    if (err) return op->result = err;
    if (op->code == FSB_OP_COPY) {
        err = fsb_pooled_enter_(b, handle2, 0, &two);
        if (!err && two.slot != one.slot) err = -EXDEV;
    }
    if (!err) {
        op->handle = one.inner, op->handle2 = two.inner;
        fsb_pool_call_((fsb_backend *)b->pool->slots[one.slot].thing, op);
        op->handle = handle, op->handle2 = handle2;
        fsb_pool_suspect_(b->pool, one.slot, op->result);
    } else op->result = err;
    if (two.inner) fsb_pool_unpin_(b->pool, two.slot);
    if (closes) fsb_pool_unpin_(b->pool, one.slot); /* the pin of being open */
    fsb_pool_unpin_(b->pool, one.slot);
    return op->result;
}

/* 1 if op acts on its handle, which may be left in it from another call. */
static int fsb_pooled_by_handle_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_OPEN: case FSB_OP_GET: case FSB_OP_PUT: case FSB_OP_MKDIR: case FSB_OP_UNLINK:
    case FSB_OP_RMDIR: case FSB_OP_RENAME: case FSB_OP_SYMLINK: case FSB_OP_MKNOD:
    case FSB_OP_WATCH: case FSB_OP_EXEC: return 0;
    default: return op->handle != 0;
    }
}

static int64_t fsb_pooled_call_(fsb_backend *base, fsb_op *op)
{
    fsb_pooled_ *b = (fsb_pooled_ *)(void *)base;
    fsb_lease    lease;
    if (fsb_pooled_by_handle_(op)) return fsb_pooled_on_handle_(b, op);
    int err = fsb_pool_acquire(b->pool, b->key, op->timeout_ms ? op->timeout_ms : b->timeout_ms,
                               &lease);
    if (err) return op->result = err;
    fsb_backend *inner = (fsb_backend *)lease.thing;
    fsb_pool_call_(inner, op);
    if (op->result >= 0 && (op->code == FSB_OP_OPEN || op->code == FSB_OP_WATCH)) {
        const fsb_handle mine = op->handle;
        op->handle = fsb_pooled_add_(b, mine, (uint32_t)lease.id - 1);
        if (!op->handle) {
            fsb_op sub;
            memset(&sub, 0, sizeof sub);
            sub.code = FSB_OP_CLOSE, sub.handle = mine;
            fsb_pool_call_(inner, &sub);
            if (!op->buf) fsb_slice_release(&op->slice);
            op->result = -EMFILE;
        }
    }
    fsb_pool_release(b->pool, lease, fsb_pool_fate_of_(op->result));
    return op->result;
}

static void fsb_pooled_close_(fsb_backend *base)
{
    fsb_pooled_ *b = (fsb_pooled_ *)(void *)base;
    for (uint32_t i = 0; i < b->used; ++i) {
        if (!b->files[i].inner) continue;
        fsb_op op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_CLOSE, op.handle = (uint64_t)b->files[i].generation << 32 | (i + 1);
        fsb_pooled_on_handle_(b, &op);
    }
    const fsb_allocator a = b->allocator;
    pthread_mutex_destroy(&b->lock);
    fsb_pool_free_(&a, b->files, b->room * sizeof *b->files);
    fsb_pool_free_(&a, b->key, strlen(b->key) + 1);
    fsb_pool_free_(&a, b, sizeof *b);
}

FSB_API int fsb_pooled_open(fsb_backend **out, const fsb_pooled_desc *desc)
{
    if (!out || !desc || !desc->pool || !desc->key || desc->max_handles > 1 << 24) return -EINVAL;
    fsb_pooled_ *b = (fsb_pooled_ *)fsb_pool_new_(&desc->allocator, sizeof *b);
    if (!b) return -ENOMEM;
    const size_t size = strlen(desc->key) + 1;
    b->key = (char *)fsb_pool_new_(&desc->allocator, size);
    if (!b->key) {
        fsb_pool_free_(&desc->allocator, b, sizeof *b);
        return -ENOMEM;
    }
    memcpy(b->key, desc->key, size);
    b->allocator = desc->allocator, b->pool = desc->pool, b->timeout_ms = desc->timeout_ms;
    b->limit = desc->max_handles ? desc->max_handles : 65536;
    pthread_mutex_init(&b->lock, NULL);
    b->base.size = sizeof b->base, b->base.name = "pooled", b->base.close = fsb_pooled_close_;
    for (uint32_t i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) b->base.call[i] = fsb_pooled_call_;
    *out = &b->base;
    return 0;
}

#endif /* CLOCK_MONOTONIC */
#endif /* implementation */
/*
MIT License

Copyright (c) 2026 the fsb authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
*/
