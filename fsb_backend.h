/* fsb_backend.h - v0.1.0 - files behind one small vtable - single-header C library (C99, C++11)

   A backend answers stat, open, read, write, list, rename, ... on paths of its own (see "vtable"
   below). Here are a folder of this machine (local), a folder that exists in memory only (memory),
   a part of any backend (scoped), a pool of threads to run blocking calls on, and what people
   expect of any backend: whole files, trees walked, removed and copied, batches.

   QUICK START   (extracted, compiled and run by the tests)
       #define FSB_BACKEND_IMPLEMENTATION      // in ONE source file, before its other includes
       #include "fsb_backend.h"                // (FSB_IMPLEMENTATION enables every fsb header)
       #include <stdio.h>
       #include <string.h>

       int main(void)
       {
           fsb_local_desc desc;
           memset(&desc, 0, sizeof desc);      // a zero field means "use the default"
           desc.root = "/usr/include";         // required: nothing outside is ever touched
           desc.flags = FSB_LOCAL_READ_ONLY;
           fsb_backend *files = NULL;
           if (fsb_local_open(&files, &desc) < 0) return 1;

           fsb_op op;
           memset(&op, 0, sizeof op);
           op.code = FSB_OP_STAT, op.path = "/stdio.h";
           if (fsb_backend_call(files, &op) == 0)
               printf("%llu bytes\n", (unsigned long long)op.stat.size);
           files->close(files);
           return 0;
       }

   NEEDS     Linux 4.16, better 5.6 (openat2), POSIX threads (-pthread), glibc 2.29 or musl 1.1.24.
             The local backend acts on descriptors through /proc/self/fd, so /proc must be mounted.
             With a strict -std=, include this header before those of libc.
   OPTIONS   FSB_STATIC, FSB_API: once, before the first fsb header. They change the linkage only.
   THREADS   Every backend may be used by many threads at once. Threads are started by
             fsb_workers_open(), by the first WATCH of a local or memory backend (one each), and
             by fsb_backend_copy() while it runs; they block all signals.
   MEMORY    The desc's allocator only; without one, realloc and free. Handles take 40 bytes,
             a local backend 22 KiB.
   ERRORS    Negative errno values; what each call answers is POSIX's, see the vtable, and:
             -EACCES a path leads outside the root, -ESTALE it leads to another file than file_id
             says, -EROFS the backend is read-only, -EINVAL unknown flags or a path that is not
             normalised, -EMSGSIZE more bytes than FSB_IO_MAX, -EBADF a closed or guessed handle,
             -ENXIO OPEN of a FIFO, socket or device: only regular files are opened.
   DOES NOT  check who calls (that is the server's and the kernel's part), lock files (LOCK is the
             server's), follow absolute symbolic links, emulate what a file system lacks.
   LICENCE   MIT, at the end of this file.
   CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_BACKEND_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_BACKEND_H
#define FSB_BACKEND_H
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

/* ---- paths and calls ------------------------------------------------------------------------- */

/* Makes a path from outside one that backends take: "a//b/./c/../" gives "/a/b". `out` gets at most
   `size` bytes with the '\0'; it may not overlap `in`. Symbolic links are not looked at.
   Errors: -EINVAL in or out is NULL; -EACCES ".." above the root; -ENAMETOOLONG a name over
   FSB_NAME_MAX, or the whole over FSB_PATH_MAX or size. Threads: any. */
FSB_API int fsb_path_normalize(const char *in, char *out, size_t size);

/* Runs op, op->code saying which call, and returns op->result. GET and PUT are composed of OPEN,
   WRITE and CLOSE where the backend has none.
   Errors: -ENOSYS the backend has no such call; else the call's. Threads: any; may block. */
FSB_API int64_t fsb_backend_call(fsb_backend *backend, fsb_op *op);

/* Starts n ops; done() of each is called once. A backend with submit() gets them whole; else each
   is run by `runner`, and on this thread before the call returns if there is no runner, if it has
   no room, or if the backend is FSB_BACKEND_QUICK and op is neither a SYNC nor an EXEC.
   Errors: none but in op->result. Threads: any. */
FSB_API void fsb_backend_submit(fsb_backend *backend, fsb_op *const *ops, size_t n,
                                fsb_runner runner);

/* Reads a whole file. *data is the caller's, to be freed through `allocator` (NULL: free()) as
   *size + 1 bytes: a '\0' stands behind the data.
   Errors: -EFBIG longer than `most` bytes; -ENOMEM; else OPEN's and READ's. Threads: any. */
FSB_API int fsb_read_file(fsb_backend *backend, const char *path, size_t most,
                          const fsb_allocator *allocator, void **data, size_t *size);

/* Makes the file, or replaces the bytes of the one there; `mode` (0644) is a new one's. Not atomic:
   write aside and RENAME where others may read meanwhile.
   Errors: OPEN's and WRITE's. Threads: any. */
FSB_API int fsb_write_file(fsb_backend *backend, const char *path, const void *data, size_t size,
                           uint32_t mode);

/* ---- files and trees, on any backend --------------------------------------------------------- */

/* Makes the file or replaces the one there, in one step: others see the old bytes or the new ones,
   also if this process or the machine stops in between. Folders above that are missing are made
   (0755). mode 0: that of the file there, else 0644.
   Errors: -EINVAL, -EISDIR; MKDIR's, OPEN's, WRITE's, SYNC's, RENAME's. Threads: any. */
FSB_API int fsb_file_replace(fsb_backend *backend, const char *path, const void *data, size_t size,
                             uint32_t mode);

/* Makes the folder and those above it that are missing; one that is there is fine.
   Errors: -EINVAL; -ENOTDIR a file is in the way; else MKDIR's. Threads: any. */
FSB_API int fsb_backend_mkdir_all(fsb_backend *backend, const char *path, uint32_t mode);

/* Removes a file, or a folder and all below it; symbolic links are removed, not followed. What
   cannot be removed stays, and the rest goes.
   Errors: -ENOENT nothing there; -EBUSY path is "/"; the first of UNLINK, RMDIR, LIST.
   Threads: any. */
FSB_API int fsb_backend_remove_all(fsb_backend *backend, const char *path,
                                   const fsb_allocator *allocator);

/* Makes an empty file if there is none, and sets the times of whatever is there; never a byte of
   it. mtime_ns NULL: now. Errors: SETATTR's, PUT's. Threads: any. */
FSB_API int fsb_backend_touch(fsb_backend *backend, const char *path, const int64_t *mtime_ns);

/* One step of a walk; its pointers are valid during visit() only. */
enum {
    FSB_WALK_FILE = 1, /* anything but a folder */
    FSB_WALK_FOLDER,   /* before what is in it; visit() answering 1 passes it by */
    FSB_WALK_LEAVE,    /* behind all that is in it */
    FSB_WALK_ERROR     /* the folder cannot be listed (further); LEAVE follows */
};
typedef struct fsb_walk_step {
    uint32_t        kind;  /* FSB_WALK_* */
    uint32_t        depth; /* 0: where the walk began */
    int             error;
    const char     *path;
    const fsb_stat *stat; /* as it was listed */
} fsb_walk_step;

/* Goes through a tree, depth first; symbolic links are files. visit() answers 0 to go on; what is
   negative ends the walk, and is its result. Names may come and go meanwhile, the visited one too.
   Memory: 16 KiB for each level. allocator NULL: libc's.
   Errors: STAT's of path; -ENOMEM; visit()'s. Threads: any; visit() runs on this one. */
FSB_API int fsb_backend_walk(fsb_backend *backend, const char *path, const fsb_allocator *allocator,
                             int (*visit)(void *user, const fsb_walk_step *step), void *user);

/* Submits n ops of any kinds and waits for all: done() need not be set, and emit() or output()
   is given a copy of the op, with its user. Each has its own result then. They run at the same
   time, in no order. Returns 0, or the result of the first in the array that failed.
   Errors: -ENOMEM nothing was started. Threads: any, but not one of the runner's. */
FSB_API int fsb_backend_batch(fsb_backend *backend, fsb_op *const *ops, size_t n, fsb_runner runner,
                              const fsb_allocator *allocator);

enum {
    FSB_COPY_RESUME = 1, /* passes over files of the same size and mtime, goes on with what an
                            earlier call has left, and leaves what this one could not finish */
    FSB_COPY_VERIFY = 2, /* reads back what was written and compares: -EBADMSG */
    FSB_COPY_OWNERS = 4  /* owners too, and set-user-id and set-group-id */
};
typedef struct fsb_copy_progress {
    uint64_t files, folders, bytes; /* done so far; bytes: without holes */
    uint64_t passed, failed;        /* files passed over (RESUME); names that failed */
    uint64_t found_bytes;           /* of the files met so far, not passed over */
    int      walked;                /* 1: that is all there are */
    int      error;                 /* the first, 0: none, and its name in the source */
    char     error_path[FSB_PATH_MAX + 1];
} fsb_copy_progress;
typedef struct fsb_copy_desc {
    fsb_backend *from, *to;          /* required; may be the same */
    const char  *from_path, *to_path; /* required: a file or folder, and what it becomes there */
    uint32_t     flags;              /* FSB_COPY_* */
    uint32_t     parallel;           /* threads, and files or MiB at once (default 8, 1-64) */
    /* On the caller's thread, now and then and at the end; not 0 ends the copy: -ECANCELED. */
    int (*progress)(void *user, const fsb_copy_progress *progress);
    void         *user;
    fsb_allocator allocator;
} fsb_copy_desc;

/* Copies a file, or a folder into a new or existing one, with modes and times. Large files are
   written aside (".fsb-copy-...") in pieces of 1 MiB, and renamed when whole; holes stay holes;
   within one backend its COPY moves the bytes. Hard links become files of their own. A name that
   fails is counted and the rest goes on. Starts `parallel` threads, which end with the call. *out
   (may be NULL) is the last progress.
   Errors: -EINVAL, also for a folder into itself; -ENOMEM, -EAGAIN; -ECANCELED; else the first
   name's. Threads: any; may block long. */
FSB_API int fsb_backend_copy(const fsb_copy_desc *desc, fsb_copy_progress *out);

/* ---- backends -------------------------------------------------------------------------------- */

enum { FSB_LOCAL_READ_ONLY = 1 }; /* what would change anything answers -EROFS */
typedef struct fsb_local_desc {
    const char   *root;        /* required: the folder, as the process sees it */
    uint32_t      flags;       /* FSB_LOCAL_* */
    uint32_t      max_handles; /* open files and watches (default 65536, at most 1 << 24); the
                                  process's descriptor limit is usually met first: -EMFILE */
    uint32_t      allow_exec;  /* 1: EXEC runs commands, as this user and not jailed (default 0:
                                  -EACCES) */
    const char *const *exec_env; /* what commands find in their environment, NULL behind the last;
                                    must outlive the backend (default: a PATH only; `environ` gives
                                    them this process's own) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_local_desc;

/* Serves a folder of this machine. Paths are resolved inside it by the kernel (openat2), so that
   "..", symbolic links and renames cannot lead outside, not even in the middle of a call; where the
   kernel has no openat2, symbolic links before the last component answer -EACCES. file_id is made
   of device, inode and creation time; version of ctime, mtime and size, so that a file system with
   coarse clocks can miss a same-size change within one tick (Linux before 6.13: 4 ms).
   WATCH starts a thread. As root (CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH), where nothing else is
   mounted below the root, it reads fanotify: exact, at any depth, and FSB_WATCH_FOREIGN leaves out
   what this process did itself; op->out_offset is 1 then. A folder that comes with what is in it is
   one event. Else it reads inotify, folder by folder, tells of everything, and out_offset is 0;
   past the limit of inotify watches folders are looked at once a second. A file of several names
   that loses one is told of by another with fanotify only. No kernel tells of stores
   through mmap(2) before the file is closed. Events are at most some 16,000 behind, then LOST.
   CLOSE of a watch waits for a running event() of it, unless called by it.
   EXEC blocks until the command has ended and its output with it; who keeps the pipes open behind
   it is waited for 100 ms. It needs SIGCHLD not to be ignored, and nobody else to wait for any
   child (-ECHILD).
   Errors: -EINVAL no root; -ENOENT, -ENOTDIR, -EACCES of the root; -EMFILE, -ENOMEM.
   Threads: any. */
FSB_API int fsb_local_open(fsb_backend **out, const fsb_local_desc *desc);

typedef struct fsb_memory_desc {
    uint64_t      max_bytes;   /* of file data, in bytes, then -ENOSPC (default FSB_UNLIMITED) */
    uint32_t      max_handles; /* open files and watches (default 65536, at most 1 << 24) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_memory_desc;

/* An empty folder (mode 0755, owned by this process) that lives in memory. Files are sparse in
   pieces of 64 KiB; reading leaves atime alone. WATCH starts a thread that calls event(), for every
   change, FSB_WATCH_FOREIGN or not (op->out_offset is 0); CLOSE of a watch waits for a running
   event() of it, unless called by it.
   Errors: -EINVAL, -ENOMEM. Threads: any. */
FSB_API int fsb_memory_open(fsb_backend **out, const fsb_memory_desc *desc);

typedef struct fsb_scoped_desc {
    fsb_backend  *inner;  /* required; not closed with the scope, and must outlive it */
    const char   *prefix; /* required: the folder of inner that becomes "/", normalised (copied) */
    fsb_allocator allocator;
} fsb_scoped_desc;

/* The part of a backend below a folder, as a backend; scopes nest. So that no symbolic link leads
   out of the scope, a path with one before its last component answers -EACCES.
   Race: the components are looked at first (a STAT each), then the call runs; who can change names
   in `inner` by another way can swap a folder for a symbolic link in between, and reach what inner
   holds, never more. Where that matters and the files are local, fsb_local_open() the folder.
   Errors: -EINVAL; -ENOTDIR prefix is no folder; -ENAMETOOLONG; -ENOMEM; STAT's. Threads: any. */
FSB_API int fsb_scoped_open(fsb_backend **out, const fsb_scoped_desc *desc);

/* ---- SFTP ------------------------------------------------------------------------------------ */

typedef struct fsb_sftp_desc {
    /* Required: makes a connection to an SFTP server (version 3, such as OpenSSH's), for instance
       by running "ssh -s HOST sftp". fds[0] is read, fds[1] written; they may be one; both become
       the backend's, which makes them non-blocking. Called again after a connection was lost.
       Returns 0 or a negative errno. Where writing to fds[1] can raise SIGPIPE (a pipe), block it.
       */
    int (*connect)(void *user, int fds[2]);
    void         *user;        /* handed to connect */
    const char   *root;        /* the folder that becomes "/"; a relative one starts where the
                                  server does, mostly the home folder (default "/"; copied) */
    uint32_t      timeout_ms;  /* of an operation without its own (default 30000) */
    uint32_t      max_handles; /* open files (default 4096, at most 1 << 24) */
    const char *const *exec_argv; /* EXEC: what runs a text in the user's shell there, as "ssh",
                                     "HOST", "--"; the text is put behind. NULL behind the last;
                                     must outlive the backend (default none: -ENOSYS) */
    const char *const *exec_env;  /* of that program, as fsb_local_desc's (default: a PATH only) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_sftp_desc;

/* The files of an SFTP server: its version 3, and of OpenSSH's extensions posix-rename, hardlink,
   lsetstat, statvfs, fsync, limits and copy-data (COPY, but not within one file, and holes become
   zeros). One connection; pieces of one operation are in flight together, and operations of several
   threads too.
   What the protocol cannot say:
   file_id  is made of the path: it does not outlive a RENAME, and hard links have one each. What
            this backend removes or replaces gets another one, what others do that to keeps it.
   version  is made of mtime (in seconds), size, and the changes of this backend: others' changes
            of the same second and size are missed. nlink is 1.
   Times    are whole seconds from 1970 to 2106: others become the nearest.
   Links    symbolic links before the last component are followed by the server, root or not: the
            limits are those of its user. WRITE with APPEND is atomic within this backend only.
   LIST     takes 4 Mi names (-E2BIG); in parts it goes on with what its first part has read, for
            10 s and until this backend changes something. DATA, not DEEP: it asks no second time
            whether what was listed as a regular file is one still; a link put in its place
            meanwhile is followed.
   Errors   the server tells few; EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, ENOSPC, ... are found by
            asking again.
   No EXCHANGE (-EINVAL), MKNOD of other than regular files (-EPERM), LINK of an open file
   (-ENOSYS), xattrs, locks, holes, watches; SYNC of a folder where the server opens it.
   EXEC     runs exec_argv here and a POSIX sh there, below root but not jailed. -EINVAL for
            variables that sh would not pass on: names are of letters, digits and '_'. sh cannot
            tell a signal N from exit code 128+N: 129 to 192 are taken for signals. A command that
            is to end is ended there within a second of that. -ENOTCONN: exec_argv ended before the
            command began, -ECONNRESET: after, -EACCES: another program answered; the log has what
            it said.
   A lost connection ends the open files (-ESTALE), and what was under way (-ECONNRESET; a timeout
   ends it, too); the next operation makes a new one.
   Errors: -EINVAL; -ENOMEM; -EPROTO no such server; -ENOENT, -ENOTDIR of root; connect()'s.
   Threads: any; may block. */
FSB_API int fsb_sftp_open(fsb_backend **out, const fsb_sftp_desc *desc);

/* ---- threads to run blocking calls on -------------------------------------------------------- */

typedef struct fsb_workers fsb_workers;
typedef struct fsb_workers_desc {
    uint32_t      threads;    /* default 4, at most 1024 */
    uint32_t      queue;      /* jobs that may wait (default 1024, at most 1 << 20) */
    size_t        stack_size; /* of each thread, bytes (default 256 KiB, at least 64 KiB) */
    fsb_allocator allocator;
} fsb_workers_desc;

/* Starts the threads. desc NULL: all defaults.
   Errors: -EINVAL, -ENOMEM, -EAGAIN no more threads. Threads: any. */
FSB_API int fsb_workers_open(fsb_workers **out, const fsb_workers_desc *desc);
/* Has job(arg) called once on one of the threads. Errors: -EAGAIN the queue is full.
   Threads: any, jobs too. */
FSB_API int fsb_workers_run(fsb_workers *workers, void (*job)(void *arg), void *arg);
/* The same as a hook. Errors: none. Threads: any. */
FSB_API fsb_runner fsb_workers_runner(fsb_workers *workers);
/* Runs what is still queued, ends the threads; NULL is fine.
   Errors: none. Threads: no other user left; not from a job. */
FSB_API void fsb_workers_close(fsb_workers *workers);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FSB_BACKEND_H */

/* ==== IMPLEMENTATION: [memory] [path] [check] [bytes] [handles] [call] [listing] [workers]
        [watch]
        [local: resolve, known, stat, create, files, attributes, list, watch, fanotify, exec]
        [memory backend] [conveniences: files, walk, batch, copy] [scoped]
        [sftp: wire, exchange, connection, stat, files, names, list, exec, calls] */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_BACKEND_IMPLEMENTATION)) && \
    !defined(FSB_BACKEND_DONE_)
#define FSB_BACKEND_DONE_
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#ifndef O_PATH
#error "fsb_backend.h: Linux is hidden; include it first, or compile with -D_GNU_SOURCE"
#else

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_backend_resize_(const fsb_allocator *a, void *ptr, size_t old_size, size_t size)
{
    if (a->fn) return a->fn(a->user, ptr, old_size, size);
    if (size) return realloc(ptr, size);
    free(ptr);
    return NULL;
}

static void *fsb_backend_new_(const fsb_allocator *a, size_t size) /* zeroed */
{
    void *p = fsb_backend_resize_(a, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void fsb_backend_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) fsb_backend_resize_(a, ptr, size, 0);
}

/* The finaliser of MurmurHash3 (Austin Appleby, public domain): every bit moves every other. */
static uint64_t fsb_backend_mix_(uint64_t x)
{
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

/* Threads of a library must not take the program's signals. */
static int fsb_backend_thread_(pthread_t *thread, size_t stack, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    sigset_t       all, old;
    if (pthread_attr_init(&attr)) return -ENOMEM;
    int err = pthread_attr_setstacksize(&attr, stack);
    if (!err) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        err = pthread_create(thread, &attr, fn, arg);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    pthread_attr_destroy(&attr);
    return -err;
}

/* ---- [path] ---------------------------------------------------------------------------------- */

FSB_API int fsb_path_normalize(const char *in, char *out, size_t size)
{
    if (!in || !out) return -EINVAL;
    size_t n = 0;
    for (;;) {
        while (*in == '/') ++in;
        if (!*in) break;
        const size_t part = strcspn(in, "/");
        if (part == 2 && in[0] == '.' && in[1] == '.') {
            if (!n) return -EACCES;
            while (out[--n] != '/') {}
        } else if (part != 1 || in[0] != '.') {
            if (part > FSB_NAME_MAX || n + 1 + part > FSB_PATH_MAX) return -ENAMETOOLONG;
            if (n + 1 + part >= size) return -ENAMETOOLONG;
            out[n++] = '/';
            memcpy(out + n, in, part);
            n += part;
        }
        in += part;
    }
    if (size < 2) return -ENAMETOOLONG;
    if (!n) out[n++] = '/';
    out[n] = '\0';
    return 0;
}

/* 0 if a path is as backends take it. */
static int fsb_backend_path_check_(const char *path)
{
    if (!path || path[0] != '/') return -EINVAL;
    const char *p = path + 1, *part = p;
    for (; *p || p > path + 1; ++p) {
        if (*p && *p != '/') continue;
        const size_t size = (size_t)(p - part);
        if (!size || (part[0] == '.' && (size == 1 || (size == 2 && part[1] == '.'))))
            return -EINVAL;
        if (size > FSB_NAME_MAX) return -ENAMETOOLONG;
        if (!*p) break;
        part = p + 1;
    }
    return p - path > FSB_PATH_MAX ? -ENAMETOOLONG : 0;
}

/* Where the last component starts; "" for the root. */
static const char *fsb_backend_name_(const char *path) { return strrchr(path, '/') + 1; }

/* ---- [check] --------------------------------------------------------------------------------- */

/* What each call takes, so that every backend refuses the same nonsense in the same way. */
enum {
    FSB_BACKEND_PATH_ = 1, FSB_BACKEND_AT_ = 2, FSB_BACKEND_HANDLE_ = 4, FSB_BACKEND_PATH2_ = 8,
    FSB_BACKEND_TEXT2_ = 16, FSB_BACKEND_DATA_ = 32, FSB_BACKEND_BYTES_ = 64,
    FSB_BACKEND_CHANGES_ = 128, FSB_BACKEND_CREATES_ = 256, FSB_BACKEND_HANDLE2_ = 512,
    FSB_BACKEND_BUF_ = 1024
};
typedef struct fsb_backend_rule_ {
    uint32_t takes; /* FSB_BACKEND_*_ */
    uint32_t flags; /* those the call names */
} fsb_backend_rule_;

static fsb_backend_rule_ fsb_backend_rule_of_(uint32_t code)
{
    enum { PATH = FSB_BACKEND_PATH_, AT = FSB_BACKEND_AT_, HANDLE = FSB_BACKEND_HANDLE_,
           PATH2 = FSB_BACKEND_PATH2_, TEXT2 = FSB_BACKEND_TEXT2_, DATA = FSB_BACKEND_DATA_,
           BYTES = FSB_BACKEND_BYTES_, CHANGES = FSB_BACKEND_CHANGES_, BUF = FSB_BACKEND_BUF_,
           CREATES = FSB_BACKEND_CREATES_ | FSB_BACKEND_CHANGES_,
           HANDLE2 = FSB_BACKEND_HANDLE2_ };
    static const fsb_backend_rule_ rules[FSB_OP_COUNT] = {
        {0, 0},
        {AT, 0},                     /* STAT */
        {AT | BYTES, 0},             /* READLINK */
        {AT, FSB_LIST_STAT | FSB_LIST_DATA | FSB_LIST_DEEP},
        {PATH | BYTES, 31},          /* OPEN: all of FSB_O_* */
        {HANDLE | BYTES, 0},         /* READ */
        {HANDLE | DATA | CHANGES, FSB_WRITE_APPEND | FSB_WRITE_KILL_PRIV},
        {AT, FSB_SYNC_DATA},         /* SYNC */
        {HANDLE, 0},                 /* CLOSE */
        {PATH | CREATES, 0},         /* MKDIR */
        {PATH | CHANGES, 0},         /* UNLINK */
        {PATH | CHANGES, 0},         /* RMDIR */
        {PATH | PATH2 | CHANGES, FSB_RENAME_NOREPLACE | FSB_RENAME_EXCHANGE},
        {AT | PATH2 | CHANGES, 0},   /* LINK */
        {PATH | TEXT2 | CREATES, 0}, /* SYMLINK */
        {PATH | CREATES, 0},         /* MKNOD */
        {AT | CHANGES, 0},           /* SETATTR */
        {HANDLE | CHANGES, FSB_ALLOC_KEEP_SIZE | FSB_ALLOC_PUNCH_HOLE | FSB_ALLOC_ZERO_RANGE},
        {HANDLE, FSB_SEEK_DATA | FSB_SEEK_HOLE},
        {HANDLE | HANDLE2 | CHANGES, 0}, /* COPY */
        {AT, 0},                         /* STATFS */
        {AT | TEXT2 | BUF, 0},           /* GETXATTR */
        {AT | TEXT2 | DATA | CHANGES, FSB_XATTR_CREATE | FSB_XATTR_REPLACE},
        {AT | BUF, 0},               /* LISTXATTR */
        {AT | TEXT2 | CHANGES, 0},   /* REMOVEXATTR */
        {PATH | BYTES, 0},           /* GET */
        {PATH | DATA | CREATES, 30}, /* PUT: all but FSB_O_READ */
        {HANDLE, 31},                /* LOCK: all of FSB_LOCK_* */
        {PATH, FSB_WATCH_DEEP | FSB_WATCH_FOREIGN | FSB_WATCH_HELD},
        {PATH | CHANGES, FSB_EXEC_SHELL}, /* EXEC */
        {HANDLE, 0},                 /* DESCRIPTOR */
    };
    return rules[code < FSB_OP_COUNT ? code : 0];
}

static int fsb_backend_check_open_(const fsb_op *op)
{
    const uint32_t f = op->flags;
    if (!(f & (FSB_O_READ | FSB_O_WRITE))) return -EINVAL;
    if ((f & FSB_O_EXCL) && !(f & FSB_O_CREATE)) return -EINVAL;
    if ((f & FSB_O_TRUNC) && !(f & FSB_O_WRITE)) return -EINVAL;
    return op->path[1] ? 0 : -EISDIR;
}

static int fsb_backend_check_attr_(const fsb_op *op)
{
    enum { A = FSB_ATTR_ATIME | FSB_ATTR_ATIME_NOW, M = FSB_ATTR_MTIME | FSB_ATTR_MTIME_NOW,
           ALL = 2 * FSB_ATTR_KILL_PRIV - 1 };
    const uint32_t mask = op->attr.mask;
    if (mask & ~(uint32_t)ALL || (mask & A) == A || (mask & M) == M) return -EINVAL;
    if ((mask & FSB_ATTR_SIZE) && op->attr.size > INT64_MAX) return -EFBIG;
    return 0;
}

/* A command comes from outside: what execve(2) could not be told as it is meant is refused. */
static int fsb_backend_check_exec_(const fsb_op *op)
{
    const fsb_exec *e = op->exec;
    enum { MOST = 4096 }; /* arguments, and variables */
    size_t n = 0;
    if (!e || !e->argv || !e->argv[0] || !e->argv[0][0]) return -EINVAL;
    if (op->flags & FSB_EXEC_SHELL && e->argv[1]) return -EINVAL;
    if (e->input_size && !e->input) return -EINVAL;
    while (e->argv[n])
        if (++n > MOST) return -E2BIG;
    n = 0;
    for (const char *const *v = e->env; v && *v; ++v) {
        if ((*v)[0] == '=' || !strchr(*v, '=')) return -EINVAL;
        if (++n > MOST) return -E2BIG;
    }
    return 0;
}

/* The checks of one call that are more than a table's row. */
static int fsb_backend_check_more_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_OPEN: return fsb_backend_check_open_(op);
    case FSB_OP_PUT:
        return op->flags & FSB_O_WRITE ? fsb_backend_check_open_(op) : -EINVAL;
    case FSB_OP_GET: return op->path[1] ? 0 : -EISDIR;
    case FSB_OP_SETATTR: return fsb_backend_check_attr_(op);
    case FSB_OP_LIST: /* DATA and DEEP go with STAT */
        return op->emit && (op->flags < FSB_LIST_DATA || op->flags & FSB_LIST_STAT) ? 0 : -EINVAL;
    case FSB_OP_WATCH: /* leases are for who answers from afar */
        if (!op->event) return -EINVAL;
        return op->flags & FSB_WATCH_HELD ? -ENOSYS : 0;
    case FSB_OP_EXEC: return fsb_backend_check_exec_(op);
    case FSB_OP_RENAME:
        if (op->flags == (FSB_RENAME_NOREPLACE | FSB_RENAME_EXCHANGE)) return -EINVAL;
        return op->path[1] && op->path2[1] ? 0 : -EBUSY;
    case FSB_OP_UNLINK: return op->path[1] ? 0 : -EISDIR;
    case FSB_OP_RMDIR: return op->path[1] ? 0 : -EBUSY;
    case FSB_OP_LINK: return op->path2[1] ? 0 : -EEXIST;
    case FSB_OP_SYMLINK: return op->path2[0] ? 0 : -ENOENT;
    case FSB_OP_SEEK:
        return op->flags == FSB_SEEK_DATA || op->flags == FSB_SEEK_HOLE ? 0 : -EINVAL;
    case FSB_OP_ALLOCATE:
        if (op->flags & FSB_ALLOC_PUNCH_HOLE && op->flags & FSB_ALLOC_ZERO_RANGE) return -EINVAL;
        if (!op->size64) return -EINVAL;
        return op->size64 > INT64_MAX || op->offset > INT64_MAX - op->size64 ? -EFBIG : 0;
    default: return 0;
    }
}

/* 0, or why op cannot be meant. Everything may come from outside. */
static int fsb_backend_check_(const fsb_op *op)
{
    const fsb_backend_rule_ rule = fsb_backend_rule_of_(op->code);
    if (!rule.takes || op->flags & ~rule.flags) return -EINVAL;
    const int by_path = rule.takes & FSB_BACKEND_PATH_
                        || (rule.takes & FSB_BACKEND_AT_ && !op->handle);
    int       err = by_path ? fsb_backend_path_check_(op->path) : 0;
    if (rule.takes & FSB_BACKEND_HANDLE_ && !op->handle) err = -EBADF;
    if (!err && rule.takes & FSB_BACKEND_PATH2_) err = fsb_backend_path_check_(op->path2);
    if (err) return err;
    if (rule.takes & FSB_BACKEND_TEXT2_) {
        if (!op->path2) return -EINVAL;
        if (strlen(op->path2) > FSB_PATH_MAX) return -ENAMETOOLONG;
    }
    if (rule.takes & FSB_BACKEND_DATA_ && !op->data && op->size) return -EINVAL;
    if (rule.takes & FSB_BACKEND_BUF_ && !op->buf && op->size) return -EINVAL;
    if (rule.takes & (FSB_BACKEND_DATA_ | FSB_BACKEND_BYTES_) && op->size > FSB_IO_MAX)
        return -EMSGSIZE;
    if (rule.takes & FSB_BACKEND_CREATES_) {
        if (op->attr.mask & ~(uint32_t)(FSB_ATTR_MODE | FSB_ATTR_UID | FSB_ATTR_GID))
            return -EINVAL;
        if (!op->path[1]) return op->code == FSB_OP_PUT ? -EISDIR : -EEXIST;
    }
    const int bytes = op->code == FSB_OP_READ || op->code == FSB_OP_WRITE;
    if (bytes && (op->offset > INT64_MAX || op->size > INT64_MAX - op->offset)) return -EFBIG;
    return fsb_backend_check_more_(op);
}

/* 1 if op would change something. */
static int fsb_backend_changes_(const fsb_op *op)
{
    if (op->code == FSB_OP_OPEN) return (op->flags & (uint32_t)~FSB_O_READ) != 0;
    return (fsb_backend_rule_of_(op->code).takes & FSB_BACKEND_CHANGES_) != 0;
}

static uint32_t fsb_backend_new_mode_(const fsb_op *op, uint32_t otherwise)
{
    return op->attr.mask & FSB_ATTR_MODE ? op->attr.mode & 07777 : otherwise;
}

/* Mode without what a write by somebody else must take away. */
static uint32_t fsb_backend_killed_(uint32_t mode)
{
    mode &= ~(uint32_t)S_ISUID;
    return mode & S_IXGRP ? mode & ~(uint32_t)S_ISGID : mode;
}

/* ---- [bytes] --------------------------------------------------------------------------------- */

/* Room for the bytes an op answers: the caller's, or a block that becomes its slice. */
typedef struct fsb_backend_block_ {
    fsb_allocator allocator;
    size_t        bytes; /* of the whole block */
    size_t        align; /* the data behind starts on 16 bytes */
} fsb_backend_block_;

static void fsb_backend_block_free_(void *owner)
{
    fsb_backend_block_ *block = (fsb_backend_block_ *)owner;
    const fsb_allocator a = block->allocator;
    fsb_backend_resize_(&a, block, block->bytes, 0);
}

static void *fsb_backend_room_(const fsb_allocator *a, const fsb_op *op)
{
    if (op->buf || !op->size) return op->buf;
    const size_t        bytes = sizeof(fsb_backend_block_) + op->size;
    fsb_backend_block_ *block = (fsb_backend_block_ *)fsb_backend_resize_(a, NULL, 0, bytes);
    if (!block) return NULL;
    block->allocator = *a, block->bytes = bytes, block->align = 0;
    return block + 1;
}

/* Hands n bytes of the room out, or takes it back if n is an error. */
static int64_t fsb_backend_answer_(fsb_op *op, void *room, int64_t n)
{
    if (op->buf || !room) return n;
    fsb_backend_block_ *block = (fsb_backend_block_ *)room - 1;
    if (n < 0) {
        fsb_backend_block_free_(block);
        return n;
    }
    op->slice.data = room, op->slice.size = (size_t)n;
    op->slice.release = fsb_backend_block_free_, op->slice.owner = block;
    return n;
}

/* ---- [handles] ------------------------------------------------------------------------------- */

/* A handle is generation << 32 | slot + 1. Slots never move, so a lookup takes no lock: it counts
   itself in as a user if the generation is right and the slot open. CLOSE takes the open bit away;
   the last user to leave drops what is behind. */
enum { FSB_BACKEND_SEGMENT_ = 256, FSB_BACKEND_HANDLES_MAX_ = 1 << 24 };
#define FSB_BACKEND_OPEN_ UINT64_C(0x80000000)

typedef struct fsb_backend_slot_ {
    uint64_t state;       /* generation << 32 | open bit << 31 | users */
    uint32_t index, next; /* next: free list, slot + 1 */
    int      fd;          /* local */
    uint32_t flags;       /* FSB_O_* of the handle; 0: a watch */
    void    *object;      /* memory: the node; a watch: the watch */
} fsb_backend_slot_;

typedef struct fsb_backend_handles_ {
    pthread_mutex_t      lock; /* leaf; guards all below but reading segments */
    const fsb_allocator *allocator;
    fsb_backend_slot_  **segments;
    uint32_t             limit, used, free; /* slots; ever used; free list, slot + 1 */
    int (*drop)(void *owner, fsb_backend_slot_ *slot);
    void *owner;
} fsb_backend_handles_;

static int fsb_backend_handles_open_(fsb_backend_handles_ *t, const fsb_allocator *a,
                                     uint32_t limit, int (*drop)(void *, fsb_backend_slot_ *),
                                     void *owner)
{
    const uint32_t n = limit ? limit : 65536;
    if (n > FSB_BACKEND_HANDLES_MAX_) return -EINVAL;
    t->limit = n, t->allocator = a, t->drop = drop, t->owner = owner;
    const size_t segments = (n + FSB_BACKEND_SEGMENT_ - 1) / FSB_BACKEND_SEGMENT_;
    t->segments = (fsb_backend_slot_ **)fsb_backend_new_(a, segments * sizeof *t->segments);
    if (!t->segments) return -ENOMEM;
    pthread_mutex_init(&t->lock, NULL);
    return 0;
}

static fsb_backend_slot_ *fsb_backend_slot_at_(fsb_backend_handles_ *t, uint32_t index)
{
    if (index >= t->limit) return NULL;
    fsb_backend_slot_ **at = &t->segments[index / FSB_BACKEND_SEGMENT_];
    fsb_backend_slot_  *segment = __atomic_load_n(at, __ATOMIC_ACQUIRE);
    return segment ? segment + index % FSB_BACKEND_SEGMENT_ : NULL;
}

/* A free slot; lock held. NULL: there is none, or no memory for it. */
static fsb_backend_slot_ *fsb_backend_slot_take_(fsb_backend_handles_ *t)
{
    if (t->free) {
        fsb_backend_slot_ *slot = fsb_backend_slot_at_(t, t->free - 1);
        t->free = slot->next;
        return slot;
    }
    if (t->used == t->limit) return NULL;
    if (t->used % FSB_BACKEND_SEGMENT_ == 0) {
        const size_t bytes = FSB_BACKEND_SEGMENT_ * sizeof(fsb_backend_slot_);
        void        *segment = fsb_backend_new_(t->allocator, bytes);
        if (!segment) return NULL;
        fsb_backend_slot_ **at = &t->segments[t->used / FSB_BACKEND_SEGMENT_];
        __atomic_store_n(at, (fsb_backend_slot_ *)segment, __ATOMIC_RELEASE);
    }
    fsb_backend_slot_ *slot = fsb_backend_slot_at_(t, t->used);
    slot->index = t->used++;
    return slot;
}

/* A slot for a handle to come, so that nothing is opened in vain. Errors: -ENFILE, -ENOMEM. */
static int fsb_backend_slot_reserve_(fsb_backend_handles_ *t, fsb_backend_slot_ **slot)
{
    pthread_mutex_lock(&t->lock);
    *slot = fsb_backend_slot_take_(t);
    const int err = *slot ? 0 : t->used == t->limit ? -ENFILE : -ENOMEM;
    pthread_mutex_unlock(&t->lock);
    return err;
}

static void fsb_backend_slot_return_(fsb_backend_handles_ *t, fsb_backend_slot_ *slot)
{
    pthread_mutex_lock(&t->lock);
    slot->next = t->free, t->free = slot->index + 1;
    pthread_mutex_unlock(&t->lock);
}

/* The handle of a reserved slot: it is open from now on. */
static fsb_handle fsb_backend_slot_open_(fsb_backend_slot_ *slot, int fd, uint32_t flags,
                                         void *object)
{
    uint64_t generation = (__atomic_load_n(&slot->state, __ATOMIC_RELAXED) >> 32) + 1;
    if (generation > UINT32_MAX) generation = 1;
    slot->fd = fd, slot->flags = flags, slot->object = object;
    __atomic_store_n(&slot->state, generation << 32 | FSB_BACKEND_OPEN_ | 1, __ATOMIC_RELEASE);
    return generation << 32 | (slot->index + 1);
}

/* Counts the caller in as a user; NULL: no such handle. */
static fsb_backend_slot_ *fsb_backend_pin_(fsb_backend_handles_ *t, fsb_handle handle)
{
    fsb_backend_slot_ *slot = fsb_backend_slot_at_(t, (uint32_t)handle - 1);
    if (!slot) return NULL;
    uint64_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
    do {
        if (state >> 32 != handle >> 32 || !(state & FSB_BACKEND_OPEN_)) return NULL;
    } while (!__atomic_compare_exchange_n(&slot->state, &state, state + 1, 1, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    return slot;
}

/* The caller leaves; what drop() says if it was the last. */
static int fsb_backend_unpin_(fsb_backend_handles_ *t, fsb_backend_slot_ *slot)
{
    if (__atomic_sub_fetch(&slot->state, 1, __ATOMIC_ACQ_REL) & UINT32_MAX) return 0;
    const int err = t->drop(t->owner, slot);
    fsb_backend_slot_return_(t, slot);
    return err;
}

/* Ends the handle for all but its present users. */
static int fsb_backend_handle_close_(fsb_backend_handles_ *t, fsb_handle handle)
{
    fsb_backend_slot_ *slot = fsb_backend_pin_(t, handle);
    if (!slot) return -EBADF;
    const uint64_t was = __atomic_fetch_and(&slot->state, ~FSB_BACKEND_OPEN_, __ATOMIC_ACQ_REL);
    if (was & FSB_BACKEND_OPEN_) fsb_backend_unpin_(t, slot); /* the reference of being open */
    const int err = fsb_backend_unpin_(t, slot);
    return was & FSB_BACKEND_OPEN_ ? err : -EBADF;
}

static void fsb_backend_handles_close_(fsb_backend_handles_ *t)
{
    for (uint32_t i = 0; i < t->used; ++i) {
        fsb_backend_slot_ *slot = fsb_backend_slot_at_(t, i);
        const uint64_t     state = __atomic_load_n(&slot->state, __ATOMIC_RELAXED);
        if (state & FSB_BACKEND_OPEN_) t->drop(t->owner, slot);
    }
    const size_t segments = (t->limit + FSB_BACKEND_SEGMENT_ - 1) / FSB_BACKEND_SEGMENT_;
    for (size_t i = 0; i < segments; ++i)
        fsb_backend_free_(t->allocator, t->segments[i],
                          FSB_BACKEND_SEGMENT_ * sizeof(fsb_backend_slot_));
    fsb_backend_free_(t->allocator, t->segments, segments * sizeof *t->segments);
    pthread_mutex_destroy(&t->lock);
}

/* ---- [call] ---------------------------------------------------------------------------------- */

static int fsb_backend_has_(const fsb_backend *b, uint32_t code)
{
    const size_t end = offsetof(fsb_backend, call) + (code + 1) * sizeof b->call[0];
    return code && code < FSB_OP_COUNT && end <= b->size && b->call[code];
}

/* GET of simple calls: OPEN answers the first bytes and the stat already. */
static int64_t fsb_backend_get_(fsb_backend *b, fsb_op *op)
{
    fsb_op sub = *op;
    sub.code = FSB_OP_OPEN, sub.flags = FSB_O_READ;
    if (fsb_backend_call(b, &sub) < 0) return sub.result;
    const int64_t n = sub.result;
    op->stat = sub.stat, op->slice = sub.slice;
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_backend_call(b, &sub);
    return n;
}

/* Opens the file of a PUT by *sub. 1: it was made by this, 0: it was there; or an error. */
static int fsb_backend_put_open_(fsb_backend *b, const fsb_op *op, fsb_op *sub)
{
    const uint32_t flags = op->flags | FSB_O_WRITE, create = flags & FSB_O_CREATE;
    for (int tries = 0;; ++tries) { /* somebody may make and remove it in between */
        *sub = *op;
        sub->code = FSB_OP_OPEN, sub->flags = flags | (create ? (uint32_t)FSB_O_EXCL : 0);
        sub->size = 0;
        int64_t n = fsb_backend_call(b, sub);
        if (n >= 0) return create != 0;
        if (n != -EEXIST || flags & FSB_O_EXCL) return (int)n;
        sub->flags = flags & ~create;
        n = fsb_backend_call(b, sub);
        if (n >= 0 || n != -ENOENT || tries == 100) return n < 0 ? (int)n : 0;
    }
}

/* PUT of simple calls. What it has made, and cannot fill, goes again. */
static int64_t fsb_backend_put_(fsb_backend *b, fsb_op *op)
{
    if (op->flags & FSB_O_READ) return -EINVAL;
    fsb_op    sub;
    const int made = fsb_backend_put_open_(b, op, &sub);
    if (made < 0) return made;
    const uint64_t file_id = sub.stat.file_id;
    int64_t        n = 0;
    if (op->size) {
        sub.code = FSB_OP_WRITE, sub.flags = 0, sub.offset = 0, sub.size = op->size;
        n = fsb_backend_call(b, &sub);
    }
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_backend_call(b, &sub);
    if (n >= 0 && sub.result < 0) n = sub.result;
    if (n >= 0) op->stat = sub.stat;
    else if (made) {
        sub.code = FSB_OP_STAT, sub.handle = 0, sub.file_id = file_id, sub.size = 0;
        if (fsb_backend_call(b, &sub) >= 0) {
            sub.code = FSB_OP_UNLINK;
            fsb_backend_call(b, &sub);
        }
    }
    return n;
}

FSB_API int64_t fsb_backend_call(fsb_backend *b, fsb_op *op)
{
    if (fsb_backend_has_(b, op->code)) return b->call[op->code](b, op);
    op->result = -ENOSYS;
    if (op->code == FSB_OP_GET && !op->flags) op->result = fsb_backend_get_(b, op);
    if (op->code == FSB_OP_PUT) op->result = fsb_backend_put_(b, op);
    return op->result;
}

static void fsb_backend_job_(void *arg)
{
    fsb_op *op = (fsb_op *)arg;
    fsb_backend_call((fsb_backend *)op->layer[0], op);
    op->done(op);
}

FSB_API void fsb_backend_submit(fsb_backend *b, fsb_op *const *ops, size_t n, fsb_runner runner)
{
    if (b->submit) {
        b->submit(b, ops, n);
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        fsb_op   *op = ops[i];
        const int slow = op->code == FSB_OP_SYNC || op->code == FSB_OP_EXEC;
        const int here = !runner.run || (b->flags & FSB_BACKEND_QUICK && !slow);
        op->layer[0] = b, op->layer[1] = NULL;
        if (here || runner.run(runner.user, fsb_backend_job_, op)) fsb_backend_job_(op);
    }
}

/* Reads on from what OPEN answered until the end, or `most` bytes. */
static int fsb_backend_read_rest_(fsb_backend *b, fsb_op *op, const fsb_allocator *a, size_t most,
                                  char **data, size_t *room, size_t *size)
{
    for (;;) {
        if (*size == *room - 1) {
            if (*size > most) return -EFBIG;
            const size_t more = *room < most / 2 ? *room * 2 : most + 2;
            char        *p = (char *)fsb_backend_resize_(a, *data, *room, more);
            if (!p) return -ENOMEM;
            *data = p, *room = more;
        }
        op->code = FSB_OP_READ, op->flags = 0, op->offset = *size, op->buf = *data + *size;
        op->size = *room - 1 - *size;
        if (op->size > FSB_IO_MAX) op->size = FSB_IO_MAX;
        const int64_t n = fsb_backend_call(b, op);
        if (n <= 0) return (int)n;
        *size += (size_t)n;
    }
}

FSB_API int fsb_read_file(fsb_backend *b, const char *path, size_t most,
                          const fsb_allocator *allocator, void **data, size_t *size)
{
    fsb_allocator a;
    memset(&a, 0, sizeof a);
    if (allocator) a = *allocator;
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_OPEN, op.path = path, op.flags = FSB_O_READ;
    if (most > SIZE_MAX - 2) most = SIZE_MAX - 2;
    if (fsb_backend_call(b, &op) < 0) return (int)op.result;
    size_t room = op.stat.size < most ? (size_t)op.stat.size + 2 : most + 2, n = 0;
    char  *p = (char *)fsb_backend_resize_(&a, NULL, 0, room);
    int    err = p ? fsb_backend_read_rest_(b, &op, &a, most, &p, &room, &n) : -ENOMEM;
    if (!err && n > most) err = -EFBIG;
    op.code = FSB_OP_CLOSE, op.flags = 0;
    fsb_backend_call(b, &op);
    char *exact = err ? NULL : (char *)fsb_backend_resize_(&a, p, room, n + 1);
    if (!err && !exact) err = -ENOMEM;
    if (err) {
        fsb_backend_free_(&a, p, room);
        return err;
    }
    exact[n] = '\0';
    *data = exact, *size = n;
    return 0;
}

FSB_API int fsb_write_file(fsb_backend *b, const char *path, const void *data, size_t size,
                           uint32_t mode)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_PUT, op.path = path, op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC;
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = mode;
    op.data = data, op.size = size;
    if (size <= FSB_IO_MAX) return fsb_backend_call(b, &op) < 0 ? (int)op.result : 0;
    op.code = FSB_OP_OPEN, op.size = 0;
    if (fsb_backend_call(b, &op) < 0) return (int)op.result;
    int err = 0;
    for (size_t at = 0; at < size && !err; at += op.size) {
        op.code = FSB_OP_WRITE, op.flags = 0, op.offset = at, op.data = (const char *)data + at;
        op.size = size - at < FSB_IO_MAX ? size - at : (size_t)FSB_IO_MAX;
        if (fsb_backend_call(b, &op) < 0) err = (int)op.result;
    }
    op.code = FSB_OP_CLOSE, op.flags = 0;
    if (fsb_backend_call(b, &op) < 0 && !err) err = (int)op.result;
    return err;
}

/* ---- [listing] ------------------------------------------------------------------------------- */

/* A LIST under way: what it has handed out, and the folders it goes into next, in the order they
   were found. The queue is bounded, however broad the tree: a folder that does not fit is left out,
   as one behind the budget is. */
enum { FSB_BACKEND_SMALL_ = 64 << 10, FSB_BACKEND_QUEUE_ = 4 << 20 /* bytes */ };

typedef struct fsb_backend_folder_ { /* the path with its '\0' follows */
    struct fsb_backend_folder_ *next;
    uint64_t                    file_id;
    size_t                      size;
} fsb_backend_folder_;

typedef struct fsb_backend_listing_ {
    fsb_op               *op;
    const fsb_allocator  *allocator;
    const char           *folder; /* the one being listed; NULL: op->path */
    char                 *room;   /* DATA: for a small file and a byte; NULL: none is read */
    uint64_t              spent;
    size_t                queued; /* bytes */
    fsb_backend_folder_  *first, **last;
} fsb_backend_listing_;

/* Lists one folder: 1 all of it, 0 stopped, or an error. *stat is its own, taken first. */
typedef int64_t (*fsb_backend_list_one_)(void *owner, fsb_backend_listing_ *ls, const char *path,
                                         uint64_t file_id, uint64_t offset, fsb_stat *stat);

/* folder + "/" + name; 0 if that is too long. */
static int fsb_backend_join_(char *out, const char *folder, const char *name)
{
    const size_t a = folder[1] ? strlen(folder) : 0, b = strlen(name);
    if (a + 1 + b > FSB_PATH_MAX) return 0;
    memcpy(out, folder, a);
    out[a] = '/';
    memcpy(out + a + 1, name, b + 1);
    return 1;
}

static void fsb_backend_listing_push_(fsb_backend_listing_ *ls, const fsb_dirent *entry)
{
    char path[FSB_PATH_MAX + 1];
    if (!fsb_backend_join_(path, ls->folder ? ls->folder : ls->op->path, entry->name)) return;
    const size_t         size = strlen(path) + 1, bytes = sizeof(fsb_backend_folder_) + size;
    fsb_backend_folder_ *f = NULL;
    if (ls->queued + bytes <= FSB_BACKEND_QUEUE_)
        f = (fsb_backend_folder_ *)fsb_backend_new_(ls->allocator, bytes);
    if (!f) return;
    memcpy(f + 1, path, size);
    f->file_id = entry->stat.file_id, f->size = size;
    *ls->last = f, ls->last = &f->next, ls->queued += bytes;
}

static fsb_backend_folder_ *fsb_backend_listing_pop_(fsb_backend_listing_ *ls)
{
    fsb_backend_folder_ *f = ls->first;
    if (!f) return NULL;
    ls->first = f->next, ls->queued -= sizeof *f + f->size;
    if (!ls->first) ls->last = &ls->first;
    return f;
}

/* Hands an entry out: 0 go on, 1 stop before it. */
static int fsb_backend_listing_emit_(fsb_backend_listing_ *ls, fsb_dirent *entry)
{
    fsb_op *op = ls->op;
    if (op->size64 && ls->spent >= op->size64) return 1;
    entry->folder = ls->folder;
    if (op->emit(op, entry)) return 1;
    ls->spent += sizeof entry->stat + entry->name_size + (entry->data ? entry->stat.size : 0);
    if (op->flags & FSB_LIST_DEEP && entry->name_size && S_ISDIR(entry->stat.mode))
        fsb_backend_listing_push_(ls, entry);
    return 0;
}

/* The folders below, as far as the budget goes; one that cannot be listed is left out. */
static void fsb_backend_listing_below_(fsb_backend_listing_ *ls, fsb_backend_list_one_ one,
                                       void *owner)
{
    fsb_backend_folder_ *f;
    int                  more = 1;
    while (more && (f = fsb_backend_listing_pop_(ls)) != NULL) {
        fsb_dirent whole;
        memset(&whole, 0, sizeof whole);
        ls->folder = (const char *)(const void *)(f + 1), whole.name = "";
        const int64_t n = one(owner, ls, ls->folder, f->file_id, 0, &whole.stat);
        if (n == 1) more = !fsb_backend_listing_emit_(ls, &whole);
        else more = n < 0;
        fsb_backend_free_(ls->allocator, f, sizeof *f + f->size);
    }
}

/* LIST, where `one` lists a folder. */
static int64_t fsb_backend_list_(fsb_op *op, const fsb_allocator *a, fsb_backend_list_one_ one,
                                 void *owner)
{
    fsb_backend_listing_ ls;
    fsb_stat             stat;
    memset(&ls, 0, sizeof ls);
    ls.op = op, ls.allocator = a, ls.last = &ls.first;
    if (op->flags & FSB_LIST_DATA)
        ls.room = (char *)fsb_backend_resize_(a, NULL, 0, FSB_BACKEND_SMALL_ + 1);
    const int64_t n = one(owner, &ls, op->path, op->file_id, op->offset, &stat);
    if (n >= 0 && op->flags & FSB_LIST_STAT) op->stat = stat;
    if (n == 1) fsb_backend_listing_below_(&ls, one, owner);
    for (fsb_backend_folder_ *f; (f = fsb_backend_listing_pop_(&ls)) != NULL;)
        fsb_backend_free_(a, f, sizeof *f + f->size);
    fsb_backend_free_(a, ls.room, FSB_BACKEND_SMALL_ + 1);
    return n;
}

/* ---- [workers] ------------------------------------------------------------------------------- */

typedef struct fsb_workers_job_ {
    void (*job)(void *arg);
    void *arg;
} fsb_workers_job_;

struct fsb_workers {
    fsb_allocator     allocator;
    pthread_mutex_t   lock; /* leaf; guards all below but threads */
    pthread_cond_t    wake;
    fsb_workers_job_ *ring;
    uint32_t          room, first, waiting; /* of ring */
    int               closing;
    uint32_t          count; /* of threads */
    pthread_t        *threads;
};

static void *fsb_workers_main_(void *arg)
{
    fsb_workers *w = (fsb_workers *)arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->waiting && !w->closing) pthread_cond_wait(&w->wake, &w->lock);
        if (!w->waiting) break;
        const fsb_workers_job_ next = w->ring[w->first];
        w->first = (w->first + 1) % w->room, --w->waiting;
        pthread_mutex_unlock(&w->lock);
        next.job(next.arg);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void fsb_workers_free_(fsb_workers *w, uint32_t threads)
{
    const fsb_allocator a = w->allocator;
    fsb_backend_free_(&a, w->ring, w->room * sizeof *w->ring);
    fsb_backend_free_(&a, w->threads, threads * sizeof *w->threads);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    fsb_backend_free_(&a, w, sizeof *w);
}

static void fsb_workers_join_(fsb_workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->closing = 1;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->count; ++i) pthread_join(w->threads[i], NULL);
}

FSB_API int fsb_workers_open(fsb_workers **out, const fsb_workers_desc *desc)
{
    fsb_workers_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (!d.threads) d.threads = 4;
    if (!d.queue) d.queue = 1024;
    if (!d.stack_size) d.stack_size = 256 << 10;
    if (!out || d.threads > 1024 || d.queue > 1 << 20 || d.stack_size < 64 << 10) return -EINVAL;
    fsb_workers *w = (fsb_workers *)fsb_backend_new_(&d.allocator, sizeof *w);
    if (!w) return -ENOMEM;
    w->allocator = d.allocator, w->room = d.queue;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    w->ring = (fsb_workers_job_ *)fsb_backend_new_(&d.allocator, d.queue * sizeof *w->ring);
    w->threads = (pthread_t *)fsb_backend_new_(&d.allocator, d.threads * sizeof *w->threads);
    int err = w->ring && w->threads ? 0 : -ENOMEM;
    while (!err && w->count < d.threads) {
        err = fsb_backend_thread_(&w->threads[w->count], d.stack_size, fsb_workers_main_, w);
        if (!err) ++w->count;
    }
    if (err) {
        fsb_workers_join_(w);
        fsb_workers_free_(w, d.threads);
        return err;
    }
    *out = w;
    return 0;
}

FSB_API int fsb_workers_run(fsb_workers *w, void (*job)(void *arg), void *arg)
{
    pthread_mutex_lock(&w->lock);
    const int full = w->waiting == w->room;
    if (!full) {
        fsb_workers_job_ *at = &w->ring[(w->first + w->waiting++) % w->room];
        at->job = job, at->arg = arg;
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
    return full ? -EAGAIN : 0;
}

static int fsb_workers_hook_(void *user, void (*job)(void *arg), void *arg)
{
    return fsb_workers_run((fsb_workers *)user, job, arg);
}

FSB_API fsb_runner fsb_workers_runner(fsb_workers *w)
{
    fsb_runner runner;
    runner.run = fsb_workers_hook_, runner.user = w;
    return runner;
}

FSB_API void fsb_workers_close(fsb_workers *w)
{
    if (!w) return;
    fsb_workers_join_(w);
    fsb_workers_free_(w, w->count);
}

/* ---- [watch] --------------------------------------------------------------------------------- */

/* Who wants to know. event() is called by one thread of the backend, under no lock; `running` tells
   whose it is, so that CLOSE can wait for it. */
typedef struct fsb_backend_watch_ {
    struct fsb_backend_watch_ *next;
    void (*event)(void *user, const fsb_event *event);
    void    *user;
    uint32_t deep, foreign;
    int      dead;      /* closed while running: the thread frees it */
    size_t   path_size; /* the path with its '\0' follows */
} fsb_backend_watch_;

typedef struct fsb_backend_watches_ {
    pthread_mutex_t      lock; /* guards all below; never held around event() */
    pthread_cond_t       idle;
    const fsb_allocator *allocator;
    fsb_backend_watch_  *list, *running;
    uint64_t             turn; /* counts event() calls */
    uint32_t             count;
    int                  started; /* thread is valid */
    pthread_t            thread;
} fsb_backend_watches_;

static void fsb_backend_watches_init_(fsb_backend_watches_ *ws, const fsb_allocator *a)
{
    ws->allocator = a;
    pthread_mutex_init(&ws->lock, NULL);
    pthread_cond_init(&ws->idle, NULL);
}

static void fsb_backend_watches_destroy_(fsb_backend_watches_ *ws)
{
    pthread_mutex_destroy(&ws->lock);
    pthread_cond_destroy(&ws->idle);
}

static const char *fsb_backend_watch_path_(const fsb_backend_watch_ *w)
{
    return (const char *)(const void *)(w + 1);
}

/* 1 if path is `folder` or below it. */
static int fsb_backend_below_(const char *folder, const char *path)
{
    const size_t n = folder[1] ? strlen(folder) : 0;
    return !strncmp(folder, path, n) && (!path[n] || path[n] == '/');
}

/* 1 if a change of `path` is the watch's business: itself, what is in it, or, deep, below it. */
static int fsb_backend_watch_wants_(const fsb_backend_watch_ *w, const char *path)
{
    const char *mine = fsb_backend_watch_path_(w);
    if (!path || !fsb_backend_below_(mine, path)) return 0;
    const size_t n = mine[1] ? strlen(mine) : 0;
    return w->deep || !path[n] || !strchr(path + n + 1, '/');
}

static void fsb_backend_watch_unlink_(fsb_backend_watches_ *ws, fsb_backend_watch_ *w)
{
    fsb_backend_watch_ **at = &ws->list;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    __atomic_sub_fetch(&ws->count, 1, __ATOMIC_RELAXED);
    fsb_backend_free_(ws->allocator, w, sizeof *w + w->path_size + 1);
}

static fsb_backend_watch_ *fsb_backend_watch_new_(fsb_backend_watches_ *ws, const fsb_op *op)
{
    const size_t        size = strlen(op->path);
    fsb_backend_watch_ *w = (fsb_backend_watch_ *)fsb_backend_new_(ws->allocator,
                                                                   sizeof *w + size + 1);
    if (!w) return NULL;
    memcpy(w + 1, op->path, size);
    w->event = op->event, w->user = op->user, w->deep = op->flags & FSB_WATCH_DEEP;
    w->foreign = op->flags & FSB_WATCH_FOREIGN;
    w->path_size = size;
    pthread_mutex_lock(&ws->lock);
    w->next = ws->list, ws->list = w;
    __atomic_add_fetch(&ws->count, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&ws->lock);
    return w;
}

/* No event() of w runs when this returns, unless this is called by it. */
static void fsb_backend_watch_close_(fsb_backend_watches_ *ws, fsb_backend_watch_ *w)
{
    pthread_mutex_lock(&ws->lock);
    if (ws->running != w) {
        fsb_backend_watch_unlink_(ws, w);
    } else {
        const uint64_t turn = ws->turn;
        w->dead = 1;
        while (!pthread_equal(pthread_self(), ws->thread) && ws->running && ws->turn == turn)
            pthread_cond_wait(&ws->idle, &ws->lock);
    }
    pthread_mutex_unlock(&ws->lock);
}

/* What watch w is told of the event; 0: nothing. */
static int fsb_backend_watch_view_(const fsb_backend_watch_ *w, const fsb_event *e, fsb_event *mine)
{
    const int one = fsb_backend_watch_wants_(w, e->path);
    const int two = fsb_backend_watch_wants_(w, e->path2);
    *mine = *e;
    if (e->kind == FSB_EVENT_LOST && fsb_backend_below_(e->path, fsb_backend_watch_path_(w))) {
        mine->path = fsb_backend_watch_path_(w);
        return 1;
    }
    if (e->kind != FSB_EVENT_RENAMED || (one && two)) return one;
    mine->kind = one ? FSB_EVENT_REMOVED : FSB_EVENT_CREATED;
    mine->path = one ? e->path : e->path2, mine->path2 = NULL;
    if (one) mine->stat = NULL;
    return one || two;
}

/* Tells everybody who wants to know; on the backend's thread only. own: this process did it. */
static void fsb_backend_watches_tell_(fsb_backend_watches_ *ws, const fsb_event *event, int own)
{
    fsb_event mine;
    pthread_mutex_lock(&ws->lock);
    for (fsb_backend_watch_ *w = ws->list, *next; w; w = next) {
        if (!(own && w->foreign) && fsb_backend_watch_view_(w, event, &mine)) {
            ws->running = w;
            pthread_mutex_unlock(&ws->lock);
            w->event(w->user, &mine);
            pthread_mutex_lock(&ws->lock);
            ws->running = NULL, ++ws->turn;
            pthread_cond_broadcast(&ws->idle);
        }
        next = w->next;
        if (w->dead) fsb_backend_watch_unlink_(ws, w);
    }
    pthread_mutex_unlock(&ws->lock);
}

/* 1 if a change of `path` concerns anybody; deep: a deep watch only. */
static int fsb_backend_watches_want_(fsb_backend_watches_ *ws, const char *path, uint32_t deep)
{
    int found = 0;
    pthread_mutex_lock(&ws->lock);
    for (const fsb_backend_watch_ *w = ws->list; w && !found; w = w->next)
        found = !w->dead && (!deep || w->deep) && fsb_backend_watch_wants_(w, path);
    pthread_mutex_unlock(&ws->lock);
    return found;
}

/* 1 if anybody wants to know what this process does itself. */
static int fsb_backend_watches_own_(fsb_backend_watches_ *ws)
{
    int found = 0;
    pthread_mutex_lock(&ws->lock);
    for (const fsb_backend_watch_ *w = ws->list; w && !found; w = w->next) found = !w->foreign;
    pthread_mutex_unlock(&ws->lock);
    return found;
}

/* 1 if somebody watches exactly `path`. */
static int fsb_backend_watches_rooted_(fsb_backend_watches_ *ws, const char *path)
{
    int found = 0;
    pthread_mutex_lock(&ws->lock);
    for (const fsb_backend_watch_ *w = ws->list; w && !found; w = w->next)
        found = !strcmp(fsb_backend_watch_path_(w), path);
    pthread_mutex_unlock(&ws->lock);
    return found;
}

/* ---- [local: resolve] ------------------------------------------------------------------------ */

enum { FSB_LOCAL_STRIPES_ = 16, FSB_LOCAL_LIST_BYTES_ = 32 << 10, FSB_LOCAL_KNOWN_ = 128 };

/* The kernel's, which not every libc declares: openat2, pwritev2, fallocate, statx. */
enum { FSB_LOCAL_NO_MAGICLINKS_ = 2, FSB_LOCAL_BENEATH_ = 8, FSB_LOCAL_RWF_APPEND_ = 16,
       FSB_LOCAL_ZERO_RANGE_ = 16,
       FSB_LOCAL_BTIME_ = 0x800, FSB_LOCAL_STATS_ = 0x7ff | FSB_LOCAL_BTIME_ };
#ifdef SYS_openat2
#define FSB_LOCAL_OPENAT2_ SYS_openat2
#else
#define FSB_LOCAL_OPENAT2_ 437
#endif
typedef struct fsb_local_how_ {
    uint64_t flags, mode, resolve;
} fsb_local_how_;
typedef struct fsb_local_time_ {
    int64_t  seconds;
    uint32_t ns, reserved;
} fsb_local_time_;
typedef struct fsb_local_statx_ {
    uint32_t        mask, blksize;
    uint64_t        attributes;
    uint32_t        nlink, uid, gid;
    uint16_t        mode, reserved;
    uint64_t        ino, size, blocks, attributes_mask;
    fsb_local_time_ atime, btime, ctime, mtime;
    uint32_t        rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t        more[14];
} fsb_local_statx_;

typedef struct fsb_local_folder_ fsb_local_folder_;
typedef struct fsb_local_polled_ fsb_local_polled_;
typedef struct fsb_local_run_ fsb_local_run_;
typedef struct fsb_local_fan_ fsb_local_fan_;

/* A path that led to a regular file when this backend last looked. */
typedef struct fsb_local_known_ {
    unsigned char busy; /* atomic: some thread is at it, and others do without */
    unsigned char size; /* of the path, without a '\0' */
    uint32_t      era;  /* the backend's at that time */
    char          path[120];
} fsb_local_known_;

typedef struct fsb_local_ {
    fsb_backend          base; /* first */
    fsb_allocator        allocator;
    fsb_logger           log;
    uint32_t             flags;
    int                  root;       /* O_PATH */
    int                  no_openat2; /* atomic: the kernel has none, or a filter forbids it */
    uint64_t             root_dev;
    fsb_backend_handles_ handles;
    uint32_t             allow_exec;
    const char *const   *env; /* of commands; NULL: a PATH only */
    uint32_t             era; /* atomic: counts what may have put something else behind a path */
    fsb_local_known_     known[FSB_LOCAL_KNOWN_];
    pthread_mutex_t      position[FSB_LOCAL_STRIPES_]; /* of descriptors: APPEND and SEEK use it */
    pthread_mutex_t      runs_lock; /* leaf; guards the next */
    fsb_local_run_      *runs;      /* commands under way */
    fsb_backend_watches_ watches;
    int                  inotify, wake[2];
    fsb_local_fan_      *fan; /* instead of inotify; NULL: it cannot be */
    pthread_mutex_t      folders_lock; /* before watches.lock; guards the next four */
    fsb_local_folder_   *folders; /* by wd */
    size_t               folder_count, folder_room;
    fsb_local_polled_   *polled; /* folders past the kernel's limit of watches */
    int64_t              polled_ms; /* when they are looked at next, CLOCK_MONOTONIC */
    uint32_t             moved_cookie; /* the watch thread's: a rename waits for its other half */
    char                 moved[FSB_PATH_MAX + 1];
} fsb_local_;

static int fsb_local_errno_(long result) { return result < 0 ? -errno : (int)result; }

/* Without openat2: one component after the other, none of them a symbolic link, unless the last is
   one and O_NOFOLLOW asks for it. `path` is cut up. */
static int fsb_local_walk_(fsb_local_ *l, char *path, int flags, mode_t mode)
{
    int dir = l->root;
    for (;;) {
        char *slash = strchr(path, '/');
        if (slash) *slash = '\0';
        const int want = slash ? O_PATH | O_DIRECTORY : flags;
        int       fd = fsb_local_errno_(openat(dir, path, want | O_NOFOLLOW | O_CLOEXEC, mode));
        if (fd == -ENOTDIR && !(want & O_NOFOLLOW)) {
            struct stat st;
            const int   found = !fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW);
            if (found && S_ISLNK(st.st_mode)) fd = -EACCES;
        }
        if (dir != l->root) close(dir);
        if (!slash || fd < 0) return fd;
        dir = fd, path = slash + 1;
    }
}

/* Opens `relative` below `dir`, and nothing outside it; mode: with O_CREAT, else 0. */
static int fsb_local_beneath_(int dir, const char *relative, int flags, mode_t mode)
{
    fsb_local_how_ how;
    memset(&how, 0, sizeof how);
    how.flags = (uint64_t)(uint32_t)(flags | O_CLOEXEC), how.mode = mode;
    how.resolve = FSB_LOCAL_BENEATH_ | FSB_LOCAL_NO_MAGICLINKS_;
    int fd, tries = 0;
    do { /* EAGAIN: a rename somewhere while ".." of a link was resolved */
        fd = fsb_local_errno_(syscall(FSB_LOCAL_OPENAT2_, dir, relative, &how, sizeof how));
    } while ((fd == -EAGAIN && ++tries < 1000) || fd == -EINTR);
    return fd == -EXDEV ? -EACCES : fd;
}

/* The kernel takes paths of less than PATH_MAX bytes: a longer one is opened in steps of whole
   folders. A symbolic link in one of these cannot lead above where that step begins. */
static int fsb_local_steps_(fsb_local_ *l, char *relative, int flags, mode_t mode)
{
    int    dir = l->root, fd = 0;
    size_t left = strlen(relative);
    while (fd >= 0 && left >= PATH_MAX) {
        size_t step = PATH_MAX - 1;
        while (relative[step] != '/') --step; /* names are shorter */
        relative[step] = '\0';
        fd = fsb_local_beneath_(dir, relative, O_PATH | O_DIRECTORY, 0);
        relative[step] = '/';
        relative += step + 1, left -= step + 1;
        if (dir != l->root) close(dir);
        dir = fd;
    }
    if (fd >= 0) fd = fsb_local_beneath_(dir, relative, flags, mode);
    if (dir >= 0 && dir != l->root) close(dir);
    return fd;
}

/* Opens the first `size` bytes of a checked path, inside the root whatever happens to names
   meanwhile; mode: with O_CREAT, else 0. A descriptor or a negative errno. */
static int fsb_local_open_or_make_(fsb_local_ *l, const char *path, size_t size, int flags,
                                   mode_t mode)
{
    char relative[FSB_PATH_MAX + 1];
    if (size < 2) memcpy(relative, ".", 2);
    else memcpy(relative, path + 1, size - 1), relative[size - 1] = '\0';
    if (!__atomic_load_n(&l->no_openat2, __ATOMIC_RELAXED)) {
        const int fd = size > PATH_MAX ? fsb_local_steps_(l, relative, flags, mode)
                                       : fsb_local_beneath_(l->root, relative, flags, mode);
        if (fd != -ENOSYS && fd != -EPERM) return fd;
        if (fd == -EPERM) { /* the file's own, or that of a filter, which looks at nothing else? */
            const long probe = syscall(FSB_LOCAL_OPENAT2_, l->root, NULL, NULL, 0);
            if (fsb_local_errno_(probe) != -EPERM) return fd;
        }
        __atomic_store_n(&l->no_openat2, 1, __ATOMIC_RELAXED);
    }
    return fsb_local_walk_(l, relative, flags, mode);
}

static int fsb_local_open_path_(fsb_local_ *l, const char *path, size_t size, int flags)
{
    return fsb_local_open_or_make_(l, path, size, flags, 0);
}

/* The folder a path's last component is in, and that component. */
typedef struct fsb_local_parent_ {
    int         fd;
    const char *name;
} fsb_local_parent_;

static int fsb_local_parent_open_(fsb_local_ *l, const char *path, fsb_local_parent_ *parent)
{
    parent->name = fsb_backend_name_(path);
    const size_t size = (size_t)(parent->name - path) - 1;
    parent->fd = size ? fsb_local_open_path_(l, path, size, O_PATH | O_DIRECTORY) : l->root;
    return parent->fd < 0 ? parent->fd : 0;
}

static void fsb_local_parent_close_(fsb_local_ *l, fsb_local_parent_ *parent)
{
    if (parent->fd >= 0 && parent->fd != l->root) close(parent->fd);
}

/* A descriptor as a name. What it leads to is the file itself, even a symbolic link. */
typedef struct fsb_local_proc_ {
    char text[32];
} fsb_local_proc_;

static fsb_local_proc_ fsb_local_proc_of_(int fd)
{
    fsb_local_proc_ name;
    snprintf(name.text, sizeof name.text, "/proc/self/fd/%d", fd);
    return name;
}

static int fsb_local_reopen_(int fd, int flags)
{
    const fsb_local_proc_ name = fsb_local_proc_of_(fd);
    int                   again;
    do again = fsb_local_errno_(open(name.text, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    while (again == -EINTR);
    return again;
}

/* ---- [local: known] -------------------------------------------------------------------------- */

/* Opening a FIFO or a device does things: it lets a writer go on, starts a watchdog, winds a tape
   back. So a file is looked at before it is opened (O_PATH, then once more through /proc), as Samba
   and virtiofsd do it, which takes more than twice as long as open(2). What a look has found to be
   a regular file is opened straight the next time, and looked at then: somebody who has put another
   thing there meanwhile gets it opened (O_NONBLOCK, O_NOCTTY) and closed again, and no byte moved.
   To have a device to put there takes root; what may move one through this backend makes it forget
   all it knew. Were everything opened straight, whoever may read could have a device touched. */

static void fsb_local_forget_(fsb_local_ *l)
{
    __atomic_add_fetch(&l->era, 1, __ATOMIC_RELAXED);
}

/* The entry for a path, the caller's alone until fsb_local_known_leave_(); NULL: none for now. */
static fsb_local_known_ *fsb_local_known_enter_(fsb_local_ *l, const char *path, size_t size)
{
    uint64_t end = 0; /* neighbours differ there */
    if (size > sizeof l->known[0].path) return NULL;
    memcpy(&end, size < 8 ? path : path + size - 8, size < 8 ? size : 8);
    fsb_local_known_ *k = &l->known[fsb_backend_mix_(end ^ size) % FSB_LOCAL_KNOWN_];
    return __atomic_exchange_n(&k->busy, 1, __ATOMIC_ACQUIRE) ? NULL : k;
}

static void fsb_local_known_leave_(fsb_local_known_ *k)
{
    __atomic_store_n(&k->busy, 0, __ATOMIC_RELEASE);
}

static int fsb_local_knows_(fsb_local_ *l, const char *path)
{
    const size_t      size = strlen(path);
    fsb_local_known_ *k = fsb_local_known_enter_(l, path, size);
    if (!k) return 0;
    const int same = k->size == size && !memcmp(k->path, path, size)
                     && k->era == __atomic_load_n(&l->era, __ATOMIC_RELAXED);
    fsb_local_known_leave_(k);
    return same;
}

/* era: the backend's before the look that found a regular file there. */
static void fsb_local_learn_(fsb_local_ *l, const char *path, uint32_t era)
{
    const size_t      size = strlen(path);
    fsb_local_known_ *k = fsb_local_known_enter_(l, path, size);
    if (!k) return;
    k->size = (unsigned char)size, k->era = era;
    memcpy(k->path, path, size);
    fsb_local_known_leave_(k);
}

/* ---- [local: stat] --------------------------------------------------------------------------- */

/* Times beyond what ns can say (1677 to 2262) are the nearest ones that it can. */
static int64_t fsb_local_ns_(const fsb_local_time_ *t)
{
    const int64_t second = INT64_C(1000000000), most = INT64_MAX / second;
    if (t->seconds >= most) return INT64_MAX;
    if (t->seconds < -most) return INT64_MIN;
    return t->seconds * second + t->ns;
}

static void fsb_local_stat_of_(const fsb_local_ *l, const fsb_local_statx_ *x, fsb_stat *st)
{
    const uint64_t dev = (uint64_t)x->dev_major << 32 | x->dev_minor;
    st->size = x->size, st->blocks = x->blocks, st->blksize = x->blksize;
    st->atime_ns = fsb_local_ns_(&x->atime), st->mtime_ns = fsb_local_ns_(&x->mtime);
    st->ctime_ns = fsb_local_ns_(&x->ctime);
    st->btime_ns = x->mask & FSB_LOCAL_BTIME_ ? fsb_local_ns_(&x->btime) : 0;
    st->mode = x->mode, st->nlink = x->nlink, st->uid = x->uid, st->gid = x->gid;
    st->rdev_major = x->rdev_major, st->rdev_minor = x->rdev_minor, st->reserved = 0;
    st->file_id = fsb_backend_mix_(fsb_backend_mix_(dev) ^ x->ino) ^ (uint64_t)st->btime_ns;
    st->file_id = fsb_backend_mix_(st->file_id);
    if (!st->file_id) st->file_id = 1;
    st->ino = dev == l->root_dev ? x->ino : fsb_backend_mix_(fsb_backend_mix_(dev) ^ x->ino);
    st->version = fsb_backend_mix_((uint64_t)st->ctime_ns) ^ (uint64_t)st->mtime_ns;
    st->version = fsb_backend_mix_(fsb_backend_mix_(st->version) ^ st->size);
}

/* name "": fd itself. */
static int fsb_local_look_(const fsb_local_ *l, int fd, const char *name, fsb_stat *st)
{
    fsb_local_statx_ x;
    const int        flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
    if (syscall(SYS_statx, fd, name, flags, FSB_LOCAL_STATS_, &x)) return -errno;
    fsb_local_stat_of_(l, &x, st);
    return 0;
}

/* What an "at" op acts on: the handle's descriptor, or an O_PATH one of the path. */
typedef struct fsb_local_at_ {
    fsb_backend_slot_ *slot; /* NULL: by path */
    int                fd;
    fsb_stat           stat; /* if asked for */
} fsb_local_at_;

static void fsb_local_at_close_(fsb_local_ *l, fsb_local_at_ *at)
{
    if (at->slot) fsb_backend_unpin_(&l->handles, at->slot);
    else if (at->fd >= 0) close(at->fd);
}

static int fsb_local_at_open_(fsb_local_ *l, const fsb_op *op, int stat, fsb_local_at_ *at)
{
    at->slot = NULL, at->fd = -1;
    if (op->handle) {
        at->slot = fsb_backend_pin_(&l->handles, op->handle);
        if (!at->slot) return -EBADF;
        at->fd = at->slot->fd;
        if (at->fd < 0) { /* a watch */
            fsb_local_at_close_(l, at);
            return -EBADF;
        }
    } else {
        at->fd = fsb_local_open_path_(l, op->path, strlen(op->path), O_PATH | O_NOFOLLOW);
        if (at->fd < 0) return at->fd;
    }
    const uint64_t want = op->handle ? 0 : op->file_id;
    int            err = stat || want ? fsb_local_look_(l, at->fd, "", &at->stat) : 0;
    if (!err && want && want != at->stat.file_id) err = -ESTALE;
    if (err) fsb_local_at_close_(l, at);
    return err;
}

static int64_t fsb_local_stat_(fsb_local_ *l, fsb_op *op)
{
    const uint32_t era = __atomic_load_n(&l->era, __ATOMIC_RELAXED);
    fsb_local_at_  at;
    int            err;
    if (!op->handle && !strchr(op->path + 1, '/')) { /* straight below the root: one system call */
        err = fsb_local_look_(l, l->root, op->path + 1, &at.stat);
        if (!err && op->file_id && op->file_id != at.stat.file_id) err = -ESTALE;
    } else {
        err = fsb_local_at_open_(l, op, 1, &at);
        if (!err) fsb_local_at_close_(l, &at);
    }
    if (err) return err;
    op->stat = at.stat;
    if (!op->handle && S_ISREG(at.stat.mode)) fsb_local_learn_(l, op->path, era);
    return 0;
}

static int64_t fsb_local_readlink_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = fsb_local_at_open_(l, op, 1, &at);
    if (err) return err;
    int64_t n = S_ISLNK(at.stat.mode) && op->size ? 0 : -EINVAL;
    void   *room = n ? NULL : fsb_backend_room_(&l->allocator, op);
    if (!n && !room) n = -ENOMEM;
    if (!n) n = fsb_local_errno_(readlinkat(at.fd, "", (char *)room, op->size));
    fsb_local_at_close_(l, &at);
    return fsb_backend_answer_(op, room, n);
}

static int64_t fsb_local_statfs_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    struct statfs s;
    int           err = fsb_local_at_open_(l, op, 0, &at);
    if (err) return err;
    err = fsb_local_errno_(fstatfs(at.fd, &s));
    fsb_local_at_close_(l, &at);
    if (err) return err;
    memset(&op->statfs, 0, sizeof op->statfs);
    op->statfs.blocks = s.f_blocks, op->statfs.bfree = s.f_bfree, op->statfs.bavail = s.f_bavail;
    op->statfs.files = s.f_files, op->statfs.ffree = s.f_ffree;
    op->statfs.bsize = (uint32_t)s.f_bsize, op->statfs.namelen = (uint32_t)s.f_namelen;
    op->statfs.frsize = (uint32_t)(s.f_frsize ? s.f_frsize : s.f_bsize);
    return 0;
}

/* ---- [local: create] ------------------------------------------------------------------------- */

/* The bits of a mode that a folder's default ACL (acl(5)) leaves to new files. The attribute is, in
   little-endian order, a version of 32 bits, then tag and rights of 16 bits each and an id of 32
   for each entry (Linux, posix_acl_xattr.h). */
static uint32_t fsb_local_acl_grants_(const fsb_local_parent_ *parent)
{
    enum { USER = 0x01, GROUP = 0x04, MASK = 0x10, OTHER = 0x20 };
    unsigned char         acl[4096];
    const fsb_local_proc_ name = fsb_local_proc_of_(parent->fd);
    const ssize_t         size = getxattr(name.text, "system.posix_acl_default", acl, sizeof acl);
    uint32_t              user = 7, group = 7, other = 7, masked = 0;
    if (size < 0) return errno == ERANGE ? 07700 : 07777; /* too many to be read: their owner's */
    for (ssize_t i = 4; i + 8 <= size; i += 8) {
        const uint32_t tag = acl[i] | (uint32_t)acl[i + 1] << 8, rights = acl[i + 2] & 7u;
        if (tag == USER) user = rights;
        if (tag == MASK || (tag == GROUP && !masked)) group = rights;
        if (tag == MASK) masked = 1;
        if (tag == OTHER) other = rights;
    }
    return 07000 | user << 6 | group << 3 | other;
}

/* What new files get from the folder that path is in: 1 if their group, else 0 or an errno; and
   which bits of a mode. */
static int fsb_local_inherits_(fsb_local_ *l, const char *path, uint32_t *grants)
{
    fsb_local_parent_ parent;
    fsb_stat          st;
    int               err = fsb_local_parent_open_(l, path, &parent);
    if (!err) err = fsb_local_look_(l, parent.fd, "", &st);
    if (!err) *grants = fsb_local_acl_grants_(&parent);
    fsb_local_parent_close_(l, &parent);
    return err ? err : (st.mode & S_ISGID) != 0;
}

typedef struct fsb_local_dirent_ { /* as getdents64(2) fills them in */
    uint64_t       ino;
    int64_t        offset;
    unsigned short size;
    unsigned char  type;
    char           name[1];
} fsb_local_dirent_;

/* Is there no name in the folder of fd? 1 also where it cannot be looked at, by who is not root. */
static int fsb_local_empty_(int fd)
{
    union { uint64_t align; char bytes[1024]; } buf;
    const int dir = fsb_local_reopen_(fd, O_RDONLY | O_DIRECTORY);
    long      n = 0, left = 2; /* "." and ".." */
    if (dir < 0) return dir == -EACCES;
    while (left >= 0 && (n = syscall(SYS_getdents64, dir, buf.bytes, sizeof buf.bytes)) > 0)
        for (long at = 0; at < n; --left)
            at += ((const fsb_local_dirent_ *)(const void *)(buf.bytes + at))->size;
    close(dir);
    return n >= 0 && left >= 0;
}

/* Is what was opened by name behind MKDIR, SYMLINK or MKNOD as it was made? Somebody may have put
   another there meanwhile, whose owner and mode are not ours to change. */
static int fsb_local_as_made_(const fsb_op *op, int fd, const fsb_stat *st)
{
    const uint32_t asked = op->attr.mask & FSB_ATTR_MODE ? op->attr.mode & S_IFMT : 0;
    const uint32_t type = op->code == FSB_OP_MKDIR ? S_IFDIR
        : op->code == FSB_OP_SYMLINK               ? S_IFLNK
        : asked                                    ? asked
                                                   : S_IFREG;
    if ((st->mode & S_IFMT) != type) return 0;
    if (type == S_IFDIR) return fsb_local_empty_(fd);
    if (st->nlink > 1 || (type == S_IFREG && st->size)) return 0;
    return (type != S_IFCHR && type != S_IFBLK) ||
        (st->rdev_major == op->attr.rdev_major && st->rdev_minor == op->attr.rdev_minor);
}

/* Gives what was just made (fd, name as for statx) the owner and then the mode asked for, and
   stats it. It was made with no more than `mode`, and if that owner is another, for nobody else. */
static int fsb_local_settle_(fsb_local_ *l, const fsb_op *op, int fd, uint32_t mode, fsb_stat *st)
{
    uint32_t mask = op->attr.mask, grants = 07777;
    int      err = fsb_local_look_(l, fd, "", st);
    const int other_mode = !err && !S_ISLNK(st->mode) && (st->mode & 07777) != mode;
    if (!err && (other_mode || (mask & FSB_ATTR_GID && op->attr.gid != st->gid)))
        err = fsb_local_inherits_(l, op->path, &grants);
    if (err < 0) return err;
    if (err) mask &= ~(uint32_t)FSB_ATTR_GID;
    mode &= grants;
    const uid_t uid = mask & FSB_ATTR_UID && op->attr.uid != st->uid ? op->attr.uid : (uid_t)-1;
    const gid_t gid = mask & FSB_ATTR_GID && op->attr.gid != st->gid ? op->attr.gid : (gid_t)-1;
    int         changed = 0;
    const int   sets = uid != (uid_t)-1 || gid != (gid_t)-1 || other_mode;
    const int   by_name = op->code != FSB_OP_OPEN && op->code != FSB_OP_PUT;
    if (sets && by_name && !fsb_local_as_made_(op, fd, st)) return -ESTALE;
    if (uid != (uid_t)-1 || gid != (gid_t)-1) { /* where it may and can be said, see fsb_attr */
        changed = !fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
        if (!changed && errno != EPERM && errno != EINVAL && errno != ENOSYS
            && errno != EOPNOTSUPP) return -errno;
    }
    if (S_ISDIR(st->mode)) mode |= st->mode & S_ISGID; /* inherited */
    if (!S_ISLNK(st->mode) && (changed || (st->mode & 07777) != mode)) {
        const fsb_local_proc_ name = fsb_local_proc_of_(fd);
        if (chmod(name.text, mode)) return -errno;
        changed = 1;
    }
    return changed ? fsb_local_look_(l, fd, "", st) : 0;
}

/* What was just made could not be settled: the name goes again, if it is still that of fd (fd < 0:
   it could not be opened). */
static void fsb_local_unmake_(const fsb_local_parent_ *parent, int fd, int folder)
{
    struct stat mine, there;
    const int   flag = folder ? AT_REMOVEDIR : 0;
    if (fd >= 0 && (fstat(fd, &mine)
                    || fstatat(parent->fd, parent->name, &there, AT_SYMLINK_NOFOLLOW)
                    || mine.st_dev != there.st_dev || mine.st_ino != there.st_ino)) return;
    if (unlinkat(parent->fd, parent->name, flag)) {} /* it stays, then */
}

/* The mode to make it with: what is to be another's is open to nobody else until it is. */
static mode_t fsb_local_first_mode_(const fsb_op *op, uint32_t mode)
{
    const fsb_attr *a = &op->attr;
    const int       given = (a->mask & FSB_ATTR_UID && a->uid != geteuid()) ||
                      (a->mask & FSB_ATTR_GID && a->gid != getegid());
    return (mode_t)(mode & (given ? 0700u : 0777u));
}

static int fsb_local_make_(const fsb_op *op, const fsb_local_parent_ *parent)
{
    const uint32_t mode = fsb_backend_new_mode_(op, op->code == FSB_OP_MKDIR ? 0755 : 0644);
    const mode_t   first = fsb_local_first_mode_(op, mode);
    const mode_t   type = (mode_t)(op->attr.mask & FSB_ATTR_MODE ? op->attr.mode & S_IFMT : 0);
    const dev_t    dev = makedev(op->attr.rdev_major, op->attr.rdev_minor);
    switch (op->code) {
    case FSB_OP_MKDIR: return fsb_local_errno_(mkdirat(parent->fd, parent->name, first));
    case FSB_OP_SYMLINK: return fsb_local_errno_(symlinkat(op->path2, parent->fd, parent->name));
    default:
        if (type == S_IFDIR) return -EPERM;
        if (type == S_IFLNK) return -EINVAL;
        return fsb_local_errno_(mknodat(parent->fd, parent->name, type | first, dev));
    }
}

/* MKDIR, SYMLINK, MKNOD */
static int64_t fsb_local_create_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_parent_ parent;
    int               err = fsb_local_parent_open_(l, op->path, &parent);
    fsb_local_forget_(l);
    if (!err) err = fsb_local_make_(op, &parent);
    fsb_local_forget_(l); /* what was learned while it was made, too */
    if (!err) {
        const uint32_t mode = fsb_backend_new_mode_(op, op->code == FSB_OP_MKDIR ? 0755 : 0644);
        const int      fd = openat(parent.fd, parent.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        fsb_stat       st;
        err = fd < 0 ? -errno : fsb_local_settle_(l, op, fd, mode, &st);
        if (err && err != -ENOENT && err != -ESTALE)
            fsb_local_unmake_(&parent, fd, op->code == FSB_OP_MKDIR);
        if (fd >= 0) close(fd);
        if (!err) op->stat = st;
    }
    fsb_local_parent_close_(l, &parent);
    return err;
}

static int64_t fsb_local_remove_(fsb_local_ *l, fsb_op *op) /* UNLINK, RMDIR */
{
    fsb_local_parent_ parent;
    const int         flag = op->code == FSB_OP_RMDIR ? AT_REMOVEDIR : 0;
    int               err = fsb_local_parent_open_(l, op->path, &parent);
    if (!err) err = fsb_local_errno_(unlinkat(parent.fd, parent.name, flag));
    fsb_local_parent_close_(l, &parent);
    return err;
}

static int64_t fsb_local_rename_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_parent_ from, to;
    to.fd = -1;
    int err = fsb_local_parent_open_(l, op->path, &from);
    fsb_local_forget_(l);
    if (!err) err = fsb_local_parent_open_(l, op->path2, &to);
    if (!err) /* the constants are the kernel's */
        err = fsb_local_errno_(syscall(SYS_renameat2, from.fd, from.name, to.fd, to.name,
                                       op->flags));
    fsb_local_forget_(l);
    fsb_local_parent_close_(l, &from);
    fsb_local_parent_close_(l, &to);
    return err;
}

static int64_t fsb_local_link_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_     at;
    fsb_local_parent_ to;
    int               err = fsb_local_at_open_(l, op, 1, &at);
    if (err) return err;
    if (S_ISDIR(at.stat.mode)) err = -EPERM;
    else err = fsb_local_parent_open_(l, op->path2, &to);
    if (!err) {
        const fsb_local_proc_ name = fsb_local_proc_of_(at.fd);
        fsb_local_forget_(l);
        err = fsb_local_errno_(linkat(AT_FDCWD, name.text, to.fd, to.name, AT_SYMLINK_FOLLOW));
        fsb_local_forget_(l);
        fsb_local_parent_close_(l, &to);
    }
    if (!err) err = fsb_local_look_(l, at.fd, "", &at.stat);
    if (!err) op->stat = at.stat;
    fsb_local_at_close_(l, &at);
    return err;
}

/* ---- [local: files] -------------------------------------------------------------------------- */

static int fsb_local_access_(uint32_t flags)
{
    const uint32_t both = FSB_O_READ | FSB_O_WRITE;
    if ((flags & both) == both) return O_RDWR;
    return flags & FSB_O_WRITE ? O_WRONLY : O_RDONLY;
}

/* The file of fd, just made at op->path, goes again. */
static void fsb_local_unmake_file_(fsb_local_ *l, const fsb_op *op, int fd)
{
    fsb_local_parent_ parent;
    if (!fsb_local_parent_open_(l, op->path, &parent)) fsb_local_unmake_(&parent, fd, 0);
    fsb_local_parent_close_(l, &parent);
    fsb_local_forget_(l);
}

static int fsb_local_open_new_(fsb_local_ *l, const fsb_op *op, uint32_t flags, fsb_stat *st)
{
    const uint32_t mode = fsb_backend_new_mode_(op, 0644);
    const int      how = O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | fsb_local_access_(flags);
    const int      fd = fsb_local_open_or_make_(l, op->path, strlen(op->path), how,
                                                fsb_local_first_mode_(op, mode));
    const int      err = fd < 0 ? fd : fsb_local_settle_(l, op, fd, mode, st);
    if (!err || fd < 0) return fd;
    fsb_local_unmake_file_(l, op, fd);
    close(fd);
    return err;
}

/* 0 if it is the regular file that op means. */
static int fsb_local_meant_(const fsb_op *op, const fsb_stat *st)
{
    if (op->file_id && op->file_id != st->file_id) return -ESTALE;
    if (S_ISDIR(st->mode)) return -EISDIR;
    if (S_ISLNK(st->mode)) return -ELOOP;
    return S_ISREG(st->mode) ? 0 : -ENXIO;
}

/* Looks at the file, then opens it. */
static int fsb_local_open_old_(fsb_local_ *l, const fsb_op *op, uint32_t flags, fsb_stat *st)
{
    const int path = fsb_local_open_path_(l, op->path, strlen(op->path), O_PATH | O_NOFOLLOW);
    if (path < 0) return path;
    int fd = fsb_local_look_(l, path, "", st);
    if (!fd) fd = fsb_local_meant_(op, st);
    if (!fd) {
        const int truncate = flags & FSB_O_TRUNC ? O_TRUNC : 0;
        fd = fsb_local_reopen_(path, fsb_local_access_(flags) | truncate);
        if (fd >= 0 && truncate) {
            const int err = fsb_local_look_(l, fd, "", st);
            if (err) close(fd), fd = err;
        }
    }
    close(path);
    return fd;
}

/* Opens what is known to be a regular file. Whatever goes wrong, fsb_local_open_old_() says why. */
static int fsb_local_open_known_(fsb_local_ *l, const fsb_op *op, uint32_t flags, fsb_stat *st)
{
    const int truncate = flags & FSB_O_TRUNC ? O_TRUNC : 0;
    const int how = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | fsb_local_access_(flags) | truncate;
    if (truncate && op->file_id) return -EINVAL; /* it could be another file's bytes */
    const int fd = fsb_local_open_path_(l, op->path, strlen(op->path), how);
    const int err = fd < 0 ? fd : fsb_local_look_(l, fd, "", st);
    if (fd < 0 || (!err && !fsb_local_meant_(op, st))) return fd;
    close(fd);
    return -EAGAIN;
}

/* A descriptor of the regular file that OPEN, GET or PUT means. *made: 1 if this made it. */
static int fsb_local_open_file_(fsb_local_ *l, const fsb_op *op, uint32_t flags, fsb_stat *st,
                                int *made)
{
    const uint32_t era = __atomic_load_n(&l->era, __ATOMIC_RELAXED);
    int            fd = -ENOENT;
    *made = 0;
    if (flags & FSB_O_CREATE && op->file_id) return -EINVAL;
    if (!(flags & FSB_O_EXCL) && fsb_local_knows_(l, op->path)) {
        fd = fsb_local_open_known_(l, op, flags, st);
        if (fd >= 0) return fd;
    }
    for (int tries = 0; tries < 100; ++tries) { /* somebody may make and remove it in between */
        fd = flags & FSB_O_CREATE ? fsb_local_open_new_(l, op, flags, st) : -EEXIST;
        *made = fd >= 0;
        if (fd != -EEXIST || flags & FSB_O_EXCL) break;
        fd = fsb_local_open_old_(l, op, flags, st);
        if (fd != -ENOENT || !(flags & FSB_O_CREATE)) break;
    }
    if (fd >= 0) fsb_local_learn_(l, op->path, era);
    return fd;
}

static int64_t fsb_local_pread_(int fd, void *buf, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        const ssize_t n = pread(fd, (char *)buf + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (!n) break;
        done += (size_t)n;
    }
    return (int64_t)done;
}

static int64_t fsb_local_pwrite_(int fd, const void *data, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        const ssize_t n = pwrite(fd, (const char *)data + done, size - done,
                                 (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? -errno : -EIO; /* nothing taken, and no word why */
        done += (size_t)n;
    }
    return (int64_t)done;
}

/* Reads into the room that op has, and answers it. */
static int64_t fsb_local_bytes_(fsb_local_ *l, fsb_op *op, int fd, uint64_t offset)
{
    if (!op->size) return 0;
    void *room = fsb_backend_room_(&l->allocator, op);
    if (!room) return -ENOMEM;
    return fsb_backend_answer_(op, room, fsb_local_pread_(fd, room, op->size, offset));
}

static int64_t fsb_local_open_op_(fsb_local_ *l, fsb_op *op)
{
    const int          reads = op->flags & FSB_O_READ && op->size;
    fsb_backend_slot_ *slot;
    fsb_stat           st;
    void              *room = NULL;
    int                made = 0;
    int64_t            n = fsb_backend_slot_reserve_(&l->handles, &slot);
    if (n) return n;
    if (reads && !(room = fsb_backend_room_(&l->allocator, op))) n = -ENOMEM;
    const int fd = n ? -1 : fsb_local_open_file_(l, op, op->flags, &st, &made);
    if (!n && fd < 0) n = fd;
    if (!n && reads) n = fsb_local_pread_(fd, room, op->size, 0);
    if (n < 0) {
        if (fd >= 0 && made) fsb_local_unmake_file_(l, op, fd);
        if (fd >= 0) close(fd);
        fsb_backend_slot_return_(&l->handles, slot);
    } else {
        op->handle = fsb_backend_slot_open_(slot, fd, op->flags, NULL), op->stat = st;
    }
    return fsb_backend_answer_(op, room, n);
}

static int64_t fsb_local_get_(fsb_local_ *l, fsb_op *op)
{
    fsb_stat  st;
    int       made;
    const int fd = fsb_local_open_file_(l, op, FSB_O_READ, &st, &made);
    if (fd < 0) return fd;
    const int64_t n = fsb_local_bytes_(l, op, fd, 0);
    close(fd);
    if (n >= 0) op->stat = st;
    return n;
}

static int64_t fsb_local_put_(fsb_local_ *l, fsb_op *op)
{
    fsb_stat  st;
    int       made;
    const int fd = fsb_local_open_file_(l, op, op->flags | FSB_O_WRITE, &st, &made);
    if (fd < 0) return fd;
    int64_t n = fsb_local_pwrite_(fd, op->data, op->size, 0);
    if (n > 0) {
        const int err = fsb_local_look_(l, fd, "", &st);
        if (err) n = err;
    }
    if (n < 0 && made) fsb_local_unmake_file_(l, op, fd);
    if (close(fd) && n >= 0 && errno != EINTR) n = -errno;
    if (n >= 0) op->stat = st;
    return n;
}

static int64_t fsb_local_read_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = fsb_local_at_open_(l, op, 0, &at);
    if (err) return err;
    const int64_t n = fsb_local_bytes_(l, op, at.fd, op->offset);
    fsb_local_at_close_(l, &at);
    return n;
}

/* Appends, and tells where: RWF_APPEND with offset -1 leaves the descriptor's position behind the
   bytes, whoever else appends meanwhile. Nothing else uses it, but SEEK, under the same lock. */
static int64_t fsb_local_append_(fsb_local_ *l, fsb_local_at_ *at, fsb_op *op, uint64_t *where)
{
    pthread_mutex_t *lock = &l->position[at->slot->index % FSB_LOCAL_STRIPES_];
    size_t           done = 0;
    int              err = 0, fd = at->fd, plain = -1;
    pthread_mutex_lock(lock);
    while (done < op->size && !err) {
        struct iovec io;
        io.iov_base = (void *)(uintptr_t)((const char *)op->data + done);
        io.iov_len = op->size - done;
        const long n = plain < 0 ? syscall(SYS_pwritev2, fd, &io, 1, -1L, -1L,
                                           FSB_LOCAL_RWF_APPEND_)
                                 : (long)writev(plain, &io, 1);
        if (n > 0) done += (size_t)n;
        else if (!n) err = -EIO;
        else if ((errno == EOPNOTSUPP || errno == ENOSYS) && plain < 0)
            plain = fd = fsb_local_reopen_(fd, O_WRONLY | O_APPEND), err = fd < 0 ? fd : 0;
        else if (errno != EINTR) err = -errno;
    }
    const off_t end = err ? 0 : lseek(fd, 0, op->size ? SEEK_CUR : SEEK_END);
    pthread_mutex_unlock(lock);
    if (plain >= 0) close(plain);
    if (end < 0) return -EIO;
    *where = (uint64_t)end - done;
    return err ? err : (int64_t)done;
}

static int fsb_local_kill_priv_(int fd, const fsb_stat *st)
{
    const uint32_t mode = st->mode & 07777, killed = fsb_backend_killed_(mode);
    if (killed == mode || !S_ISREG(st->mode)) return 0;
    const fsb_local_proc_ name = fsb_local_proc_of_(fd);
    return fsb_local_errno_(chmod(name.text, killed));
}

static int64_t fsb_local_write_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    const int     kill = (op->flags & FSB_WRITE_KILL_PRIV) != 0;
    uint64_t      where = op->offset;
    int64_t       n = fsb_local_at_open_(l, op, kill, &at);
    if (n) return n;
    if (!(at.slot->flags & FSB_O_WRITE)) n = -EBADF;
    if (!n && kill) n = fsb_local_kill_priv_(at.fd, &at.stat);
    if (!n && op->flags & FSB_WRITE_APPEND) n = fsb_local_append_(l, &at, op, &where);
    else if (!n) n = fsb_local_pwrite_(at.fd, op->data, op->size, op->offset);
    const int err = n < 0 ? 0 : fsb_local_look_(l, at.fd, "", &at.stat);
    fsb_local_at_close_(l, &at);
    if (err) return err;
    if (n >= 0) op->stat = at.stat, op->out_offset = where;
    return n;
}

static int64_t fsb_local_sync_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = fsb_local_at_open_(l, op, !op->handle, &at);
    if (err) return err;
    int fd = at.fd;
    if (!at.slot) {
        const int file = S_ISREG(at.stat.mode) || S_ISDIR(at.stat.mode);
        fd = file ? fsb_local_reopen_(at.fd, O_RDONLY) : -EINVAL;
    }
    if (fd < 0) err = fd;
    else err = fsb_local_errno_(op->flags & FSB_SYNC_DATA ? fdatasync(fd) : fsync(fd));
    if (fd >= 0 && !at.slot) close(fd);
    fsb_local_at_close_(l, &at);
    return err;
}

static int64_t fsb_local_close_op_(fsb_local_ *l, fsb_op *op)
{
    return fsb_backend_handle_close_(&l->handles, op->handle);
}

static int64_t fsb_local_allocate_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = fsb_local_at_open_(l, op, 0, &at), mode = 0;
    if (err) return err;
    if (op->flags & FSB_ALLOC_KEEP_SIZE) mode |= FALLOC_FL_KEEP_SIZE;
    if (op->flags & FSB_ALLOC_PUNCH_HOLE) mode |= FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (op->flags & FSB_ALLOC_ZERO_RANGE) mode |= FSB_LOCAL_ZERO_RANGE_;
    do err = fsb_local_errno_(fallocate(at.fd, mode, (off_t)op->offset, (off_t)op->size64));
    while (err == -EINTR);
    if (!err) err = fsb_local_look_(l, at.fd, "", &at.stat);
    if (!err) op->stat = at.stat;
    fsb_local_at_close_(l, &at);
    return err;
}

static int64_t fsb_local_seek_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = op->offset > INT64_MAX ? -ENXIO : fsb_local_at_open_(l, op, 0, &at);
    if (err) return err;
    pthread_mutex_t *lock = &l->position[at.slot->index % FSB_LOCAL_STRIPES_];
    pthread_mutex_lock(lock);
    const off_t found = lseek(at.fd, (off_t)op->offset,
                              op->flags == FSB_SEEK_DATA ? SEEK_DATA : SEEK_HOLE);
    err = found < 0 ? -errno : 0;
    pthread_mutex_unlock(lock);
    fsb_local_at_close_(l, &at);
    if (!err) op->out_offset = (uint64_t)found;
    return err;
}

/* Where the kernel cannot copy between the two: a part by hand. */
static int64_t fsb_local_copy_by_hand_(fsb_local_ *l, const fsb_op *op, int in, int out)
{
    const size_t room = 128 << 10, size = op->size64 < room ? (size_t)op->size64 : room;
    void        *buf = fsb_backend_resize_(&l->allocator, NULL, 0, room);
    if (!buf) return -ENOMEM;
    int64_t n = fsb_local_pread_(in, buf, size, op->offset);
    if (n > 0) n = fsb_local_pwrite_(out, buf, (size_t)n, op->offset2);
    fsb_backend_free_(&l->allocator, buf, room);
    return n;
}

static int64_t fsb_local_copy_(fsb_local_ *l, fsb_op *op)
{
    if (op->offset > INT64_MAX - op->size64 || op->offset2 > INT64_MAX - op->size64) return -EFBIG;
    fsb_local_at_ in, out;
    fsb_op        to = *op;
    to.handle = op->handle2;
    int64_t n = fsb_local_at_open_(l, op, 1, &in);
    if (n) return n;
    n = to.handle ? fsb_local_at_open_(l, &to, 1, &out) : -EBADF;
    if (n) {
        fsb_local_at_close_(l, &in);
        return n;
    }
    const uint64_t apart = op->offset < op->offset2 ? op->offset2 - op->offset
                                                    : op->offset - op->offset2;
    off_t          from = (off_t)op->offset, at = (off_t)op->offset2;
    const size_t   size = op->size64 < 1 << 30 ? (size_t)op->size64 : (size_t)1 << 30;
    if (in.stat.file_id == out.stat.file_id && apart < op->size64) n = -EINVAL;
    else if (!(in.slot->flags & FSB_O_READ) || !(out.slot->flags & FSB_O_WRITE)) n = -EBADF;
    else do n = copy_file_range(in.fd, &from, out.fd, &at, size, 0), n = n < 0 ? -errno : n;
    while (n == -EINTR);
    if (n == -EXDEV || n == -EOPNOTSUPP || n == -ENOSYS)
        n = fsb_local_copy_by_hand_(l, op, in.fd, out.fd);
    fsb_local_at_close_(l, &in);
    fsb_local_at_close_(l, &out);
    return n;
}

static int64_t fsb_local_descriptor_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           fd = fsb_local_at_open_(l, op, 0, &at);
    if (fd) return fd;
    fd = at.fd;
    fsb_local_at_close_(l, &at);
    return fd;
}

/* ---- [local: attributes] --------------------------------------------------------------------- */

static int fsb_local_set_size_(const fsb_local_at_ *at, uint64_t size)
{
    if (at->slot) {
        if (!(at->slot->flags & FSB_O_WRITE)) return -EBADF;
        return fsb_local_errno_(ftruncate(at->fd, (off_t)size));
    }
    if (S_ISDIR(at->stat.mode)) return -EISDIR;
    if (!S_ISREG(at->stat.mode)) return -EINVAL;
    const fsb_local_proc_ name = fsb_local_proc_of_(at->fd);
    return fsb_local_errno_(truncate(name.text, (off_t)size));
}

static void fsb_local_timespec_(uint32_t now, uint32_t set, int64_t ns, struct timespec *t)
{
    const int64_t second = 1000000000, rest = ns % second;
    t->tv_sec = (time_t)(ns / second - (rest < 0)), t->tv_nsec = UTIME_OMIT;
    if (now) t->tv_nsec = UTIME_NOW;
    else if (set) t->tv_nsec = (long)(rest < 0 ? rest + second : rest);
}

static int fsb_local_set_times_(const fsb_local_at_ *at, const fsb_attr *a)
{
    struct timespec t[2];
    fsb_local_timespec_(a->mask & FSB_ATTR_ATIME_NOW, a->mask & FSB_ATTR_ATIME, a->atime_ns, &t[0]);
    fsb_local_timespec_(a->mask & FSB_ATTR_MTIME_NOW, a->mask & FSB_ATTR_MTIME, a->mtime_ns, &t[1]);
    if (!utimensat(at->fd, "", t, AT_EMPTY_PATH)) return 0;
    if (errno != EINVAL) return -errno;
    const fsb_local_proc_ name = fsb_local_proc_of_(at->fd); /* Linux before 5.8 */
    return fsb_local_errno_(utimensat(AT_FDCWD, name.text, t, 0));
}

/* Size, owner, mode, times: each would undo a part of the next, if it came after it. */
static int fsb_local_set_(const fsb_local_at_ *at, const fsb_attr *a)
{
    enum { OWNER = FSB_ATTR_UID | FSB_ATTR_GID,
           TIMES = FSB_ATTR_ATIME | FSB_ATTR_MTIME | FSB_ATTR_ATIME_NOW | FSB_ATTR_MTIME_NOW };
    int err = a->mask & FSB_ATTR_SIZE ? fsb_local_set_size_(at, a->size) : 0;
    if (!err && a->mask & OWNER) {
        const uid_t uid = a->mask & FSB_ATTR_UID ? a->uid : (uid_t)-1;
        const gid_t gid = a->mask & FSB_ATTR_GID ? a->gid : (gid_t)-1;
        err = fsb_local_errno_(fchownat(at->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
    }
    uint32_t mode = (a->mask & FSB_ATTR_MODE ? a->mode : at->stat.mode) & 07777;
    if (a->mask & FSB_ATTR_KILL_PRIV && !S_ISDIR(at->stat.mode)) mode = fsb_backend_killed_(mode);
    if (!err && (a->mask & FSB_ATTR_MODE || mode != (at->stat.mode & 07777))) {
        const fsb_local_proc_ name = fsb_local_proc_of_(at->fd);
        err = fsb_local_errno_(chmod(name.text, mode));
    }
    if (!err && a->mask & TIMES) err = fsb_local_set_times_(at, a);
    return err;
}

static int64_t fsb_local_setattr_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    int           err = fsb_local_at_open_(l, op, 1, &at);
    if (err) return err;
    err = fsb_local_set_(&at, &op->attr);
    if (!err) err = fsb_local_look_(l, at.fd, "", &at.stat);
    if (!err) op->stat = at.stat;
    fsb_local_at_close_(l, &at);
    return err;
}

/* The four xattr calls; the names lead to the file itself, see fsb_local_proc_of_(). */
static int64_t fsb_local_xattr_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_at_ at;
    const int     err = fsb_local_at_open_(l, op, 0, &at);
    if (err) return err;
    const fsb_local_proc_ file = fsb_local_proc_of_(at.fd);
    int64_t               n;
    switch (op->code) { /* FSB_XATTR_* are the kernel's flags */
    case FSB_OP_GETXATTR: n = getxattr(file.text, op->path2, op->buf, op->size); break;
    case FSB_OP_LISTXATTR: n = listxattr(file.text, (char *)op->buf, op->size); break;
    case FSB_OP_REMOVEXATTR: n = removexattr(file.text, op->path2); break;
    default: n = setxattr(file.text, op->path2, op->data, op->size, (int)op->flags); break;
    }
    if (n < 0) n = -errno;
    fsb_local_at_close_(l, &at);
    return n;
}

/* ---- [local: list] --------------------------------------------------------------------------- */

/* The stat of a regular file, by an open descriptor (one walk of its name, not two), and all its
   bytes if it is small. The same stat behind the reading says that these are that version's. */
static int fsb_local_small_(fsb_local_ *l, fsb_backend_listing_ *ls, int dir, fsb_dirent *entry)
{
    const int how = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    const int fd = openat(dir, entry->name, how);
    if (fd < 0) return fsb_local_look_(l, dir, entry->name, &entry->stat);
    const fsb_stat *st = &entry->stat;
    fsb_stat        after;
    const int       err = fsb_local_look_(l, fd, "", &entry->stat);
    if (!err && S_ISREG(st->mode) && st->size <= FSB_BACKEND_SMALL_) {
        const ssize_t n = pread(fd, ls->room, (size_t)st->size + 1, 0);
        if (n >= 0 && (uint64_t)n == st->size && !fsb_local_look_(l, fd, "", &after)
            && after.version == st->version) entry->data = ls->room;
    }
    close(fd);
    return err;
}

/* A name could not be looked at. 0: it is left out, for it is gone, or what is mounted there is out
   of reach. Else the listing fails: the rest of it must not pass for all there is. */
static int fsb_local_unseen_(const fsb_local_ *l, int dir, int err)
{
    fsb_stat st;
    if (err == -EACCES) return fsb_local_look_(l, dir, ".", &st); /* of no name, or of this one? */
    return err == -ENOENT || err == -ESTALE || err == -ENOTCONN || err == -EHOSTDOWN ? 0 : err;
}

/* Emits one entry: 0 go on, 1 stop, or an error. */
static int fsb_local_emit_(fsb_local_ *l, fsb_backend_listing_ *ls, int dir,
                           const fsb_local_dirent_ *d)
{
    fsb_dirent  entry;
    const char *name = d->name;
    int         err = 0;
    if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) return 0;
    memset(&entry, 0, sizeof entry);
    entry.name = name, entry.name_size = strlen(name), entry.cookie = (uint64_t)d->offset;
    if (ls->room && d->type == DT_REG) err = fsb_local_small_(l, ls, dir, &entry);
    else if (ls->op->flags & FSB_LIST_STAT) err = fsb_local_look_(l, dir, name, &entry.stat);
    else entry.stat.ino = d->ino, entry.stat.mode = (uint32_t)d->type << 12;
    return err ? fsb_local_unseen_(l, dir, err) : fsb_backend_listing_emit_(ls, &entry);
}

static int64_t fsb_local_list_from_(fsb_local_ *l, fsb_backend_listing_ *ls, int dir,
                                    uint64_t offset)
{
    union { uint64_t align; char bytes[FSB_LOCAL_LIST_BYTES_]; } buf;
    if (offset > INT64_MAX) return -EINVAL;
    if (offset && lseek(dir, (off_t)offset, SEEK_SET) < 0) return -errno;
    for (;;) {
        const long n = syscall(SYS_getdents64, dir, buf.bytes, sizeof buf.bytes);
        if (n < 0) return -errno;
        if (!n) return 1;
        const fsb_local_dirent_ *d;
        for (long at = 0; at < n; at += d->size) {
            d = (const fsb_local_dirent_ *)(const void *)(buf.bytes + at);
            const int stop = fsb_local_emit_(l, ls, dir, d);
            if (stop) return stop < 0 ? stop : 0;
        }
    }
}

/* A folder found on the way is listed only if it is still the same one (file_id), so that a
   symbolic link put in its place is not followed. */
static int64_t fsb_local_list_one_(void *owner, fsb_backend_listing_ *ls, const char *path,
                                   uint64_t file_id, uint64_t offset, fsb_stat *st)
{
    fsb_local_ *l = (fsb_local_ *)owner;
    const int   how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
    const int   dir = fsb_local_open_path_(l, path, strlen(path), how);
    if (dir < 0) return dir;
    const int stat = file_id || ls->op->flags & FSB_LIST_STAT;
    int64_t   n = stat ? fsb_local_look_(l, dir, "", st) : 0;
    if (!n && file_id && file_id != st->file_id) n = -ESTALE;
    if (!n) n = fsb_local_list_from_(l, ls, dir, offset);
    close(dir);
    return n;
}

static int64_t fsb_local_list_(fsb_local_ *l, fsb_op *op)
{
    if (op->handle) { /* handles are of regular files */
        fsb_backend_slot_ *slot = fsb_backend_pin_(&l->handles, op->handle);
        if (slot) fsb_backend_unpin_(&l->handles, slot);
        return slot ? -ENOTDIR : -EBADF;
    }
    return fsb_backend_list_(op, &l->allocator, fsb_local_list_one_, l);
}

/* ---- [local: watch] -------------------------------------------------------------------------- */

/* One inotify descriptor and one thread, started by the first WATCH. Every watched folder has a
   watch descriptor; deep watches have one for each folder below, too. */
struct fsb_local_folder_ {
    int   wd;
    char *path; /* backend path, strlen + 1 bytes */
};

typedef struct fsb_local_todo_ { /* folders to go through; the path follows */
    struct fsb_local_todo_ *next;
    size_t                  size;
} fsb_local_todo_;

typedef struct fsb_local_scan_ {
    fsb_local_      *l;
    fsb_local_todo_ *todo;
    const char      *folder;
    int              report; /* names found are new: tell */
    int              err;
} fsb_local_scan_;

/* 1 if something was not done for lack of it, rather than for what was found: events are lost. */
static int fsb_local_lacks_(int64_t err)
{
    return err == -ENOSPC || err == -ENOMEM || err == -EMFILE || err == -ENFILE;
}

static void fsb_local_tell_by_(fsb_local_ *l, uint32_t kind, const char *path, const char *path2,
                               int own)
{
    fsb_event event;
    fsb_op    op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = path2 ? path2 : path;
    event.kind = kind, event.path = path, event.path2 = path2, event.stat = NULL;
    const int there = kind != FSB_EVENT_REMOVED && kind != FSB_EVENT_LOST;
    if (there && !fsb_local_stat_(l, &op)) event.stat = &op.stat;
    fsb_backend_watches_tell_(&l->watches, &event, own);
}

static void fsb_local_tell_(fsb_local_ *l, uint32_t kind, const char *path, const char *path2)
{
    fsb_local_tell_by_(l, kind, path, path2, 0);
}

static char *fsb_local_path_dup_(fsb_local_ *l, const char *path)
{
    const size_t size = strlen(path) + 1;
    char        *p = (char *)fsb_backend_resize_(&l->allocator, NULL, 0, size);
    if (p) memcpy(p, path, size);
    return p;
}

static void fsb_local_path_free_(fsb_local_ *l, char *path)
{
    if (path) fsb_backend_free_(&l->allocator, path, strlen(path) + 1);
}

/* The first folder whose wd is not below `wd`; folders locked. */
static size_t fsb_local_folder_at_(const fsb_local_ *l, int wd)
{
    size_t low = 0, high = l->folder_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (l->folders[middle].wd < wd) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void fsb_local_folder_drop_(fsb_local_ *l, size_t at)
{
    fsb_local_path_free_(l, l->folders[at].path);
    memmove(l->folders + at, l->folders + at + 1, (--l->folder_count - at) * sizeof *l->folders);
}

/* Notes that wd stands for path now; folders locked. */
static int fsb_local_folder_set_(fsb_local_ *l, int wd, const char *path)
{
    char *copy = fsb_local_path_dup_(l, path);
    if (!copy) return -ENOMEM;
    const size_t at = fsb_local_folder_at_(l, wd);
    if (at < l->folder_count && l->folders[at].wd == wd) {
        fsb_local_path_free_(l, l->folders[at].path);
        l->folders[at].path = copy;
        return 0;
    }
    if (l->folder_count == l->folder_room) {
        const size_t more = l->folder_room ? l->folder_room * 2 : 16;
        void        *p = fsb_backend_resize_(&l->allocator, l->folders,
                                             l->folder_room * sizeof *l->folders,
                                             more * sizeof *l->folders);
        if (!p) {
            fsb_local_path_free_(l, copy);
            return -ENOMEM;
        }
        l->folders = (fsb_local_folder_ *)p, l->folder_room = more;
    }
    memmove(l->folders + at + 1, l->folders + at, (l->folder_count++ - at) * sizeof *l->folders);
    l->folders[at].wd = wd, l->folders[at].path = copy;
    return 0;
}

/* Past the limit of watches a folder is compared with what it was a second ago. The thread alone
   looks at a snapshot once it is in the list, and frees it; others mark it dead. */
enum { FSB_LOCAL_POLL_MS_ = 1000 };

typedef struct fsb_local_seen_ { /* a name; it follows with its '\0' */
    struct fsb_local_seen_ *next; /* in its bucket */
    uint64_t                hash, file_id, version;
    size_t                  size; /* of the name with its '\0' */
    int                     folder;
} fsb_local_seen_;

typedef struct fsb_local_snapshot_ {
    fsb_local_       *l;
    fsb_local_seen_ **buckets;
    size_t            bucket_count, count; /* bucket_count: a power of two */
    int               err;
} fsb_local_snapshot_;

struct fsb_local_polled_ {
    struct fsb_local_polled_ *next;
    fsb_local_snapshot_       seen;
    int                       dead; /* under folders_lock */
    size_t                    size; /* of the path with its '\0', which follows */
};

static const char *fsb_local_seen_name_(const fsb_local_seen_ *e)
{
    return (const char *)(const void *)(e + 1);
}

static const char *fsb_local_polled_path_(const fsb_local_polled_ *f)
{
    return (const char *)(const void *)(f + 1);
}

static void fsb_local_snapshot_free_(fsb_local_snapshot_ *s)
{
    const fsb_allocator *a = &s->l->allocator;
    for (size_t i = 0; s->buckets && i < s->bucket_count; ++i) {
        for (fsb_local_seen_ *e = s->buckets[i], *next; e; e = next) {
            next = e->next;
            fsb_backend_free_(a, e, sizeof *e + e->size);
        }
    }
    fsb_backend_free_(a, s->buckets, s->bucket_count * sizeof *s->buckets);
    s->buckets = NULL;
}

static const fsb_local_seen_ *fsb_local_snapshot_find_(const fsb_local_snapshot_ *s,
                                                       const fsb_local_seen_ *like)
{
    const fsb_local_seen_ *e = s->buckets[like->hash & (s->bucket_count - 1)];
    while (e && (e->hash != like->hash
                 || strcmp(fsb_local_seen_name_(e), fsb_local_seen_name_(like)))) e = e->next;
    return e;
}

static int fsb_local_snapshot_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_local_snapshot_ *s = (fsb_local_snapshot_ *)op->user;
    const size_t         size = entry->name_size + 1;
    fsb_local_seen_     *e = (fsb_local_seen_ *)fsb_backend_new_(&s->l->allocator,
                                                                 sizeof *e + size);
    if (!e) s->err = -ENOMEM;
    if (!e) return 1;
    memcpy(e + 1, entry->name, size);
    e->size = size, e->file_id = entry->stat.file_id, e->version = entry->stat.version;
    e->folder = S_ISDIR(entry->stat.mode);
    for (size_t i = 0; i < size; ++i)
        e->hash = (e->hash ^ (unsigned char)entry->name[i]) * UINT64_C(0x100000001b3);
    e->hash = fsb_backend_mix_(e->hash);
    fsb_local_seen_ **bucket = &s->buckets[e->hash & (s->bucket_count - 1)];
    e->next = *bucket, *bucket = e, ++s->count;
    return 0;
}

/* Takes down what is in the folder; `expected` names or so. A folder that is gone is empty. */
static int fsb_local_snapshot_take_(fsb_local_ *l, const char *path, size_t expected,
                                    fsb_local_snapshot_ *s)
{
    memset(s, 0, sizeof *s);
    s->l = l, s->bucket_count = 16;
    while (s->bucket_count < expected) s->bucket_count *= 2;
    s->buckets = (fsb_local_seen_ **)fsb_backend_new_(&l->allocator,
                                                      s->bucket_count * sizeof *s->buckets);
    if (!s->buckets) return -ENOMEM;
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_LIST, op.path = path, op.flags = FSB_LIST_STAT;
    op.emit = fsb_local_snapshot_emit_, op.user = s;
    const int64_t n = fsb_local_list_(l, &op);
    if (!s->err && fsb_local_lacks_(n)) s->err = (int)n;
    if (s->err) fsb_local_snapshot_free_(s);
    return s->err;
}

static int fsb_local_polled_add_(fsb_local_ *l, const char *path)
{
    const size_t       size = strlen(path) + 1;
    fsb_local_polled_ *f = (fsb_local_polled_ *)fsb_backend_new_(&l->allocator, sizeof *f + size);
    if (!f) return -ENOMEM;
    memcpy(f + 1, path, size);
    f->size = size;
    const int err = fsb_local_snapshot_take_(l, path, 0, &f->seen);
    if (err) {
        fsb_backend_free_(&l->allocator, f, sizeof *f + size);
        return err;
    }
    pthread_mutex_lock(&l->folders_lock);
    for (fsb_local_polled_ *at = l->polled; at; at = at->next)
        if (!strcmp(fsb_local_polled_path_(at), path)) at->dead = 1; /* this one follows it */
    if (!l->polled && l->log.fn)
        l->log.fn(l->log.user, FSB_LOG_WARN, "backend/watch",
                  "no more inotify watches: further folders are looked at once a second");
    f->next = l->polled, l->polled = f;
    pthread_mutex_unlock(&l->folders_lock);
    if (write(l->wake[1], "", 1) < 0) {} /* full: it is awake, then */
    return 0;
}

static void fsb_local_polled_free_(fsb_local_ *l, fsb_local_polled_ *f)
{
    fsb_local_snapshot_free_(&f->seen);
    fsb_backend_free_(&l->allocator, f, sizeof *f + f->size);
}

/* Has the kernel tell of what happens in a folder (or to a file). */
static int fsb_local_folder_add_(fsb_local_ *l, const char *path)
{
    const uint32_t mask = IN_CREATE | IN_DELETE | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB
                          | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF;
    const int      fd = fsb_local_open_path_(l, path, strlen(path), O_PATH | O_NOFOLLOW);
    if (fd < 0) return fd;
    const fsb_local_proc_ name = fsb_local_proc_of_(fd);
    pthread_mutex_lock(&l->folders_lock);
    const int wd = fsb_local_errno_(inotify_add_watch(l->inotify, name.text, mask));
    const int err = wd < 0 ? wd : fsb_local_folder_set_(l, wd, path);
    pthread_mutex_unlock(&l->folders_lock);
    close(fd);
    return err == -ENOSPC ? fsb_local_polled_add_(l, path) : err;
}

static int fsb_local_todo_push_(fsb_local_scan_ *s, const char *path)
{
    const size_t     size = strlen(path) + 1;
    fsb_local_todo_ *t = (fsb_local_todo_ *)fsb_backend_resize_(&s->l->allocator, NULL, 0,
                                                                sizeof *t + size);
    if (!t) return -ENOMEM;
    memcpy(t + 1, path, size);
    t->size = size, t->next = s->todo, s->todo = t;
    return 0;
}

static int fsb_local_scan_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_local_scan_ *s = (fsb_local_scan_ *)op->user;
    char             path[FSB_PATH_MAX + 1];
    if (!fsb_backend_join_(path, s->folder, entry->name)) return 0;
    if (s->report) fsb_local_tell_(s->l, FSB_EVENT_CREATED, path, NULL);
    if (S_ISDIR(entry->stat.mode)) s->err = fsb_local_todo_push_(s, path);
    return s->err != 0;
}

/* Watches a folder and those below it. What appears while this runs is found by the listing or
   reported by inotify, since each folder is watched before it is listed. */
static int fsb_local_scan_from_(fsb_local_ *l, const char *path, int report)
{
    fsb_local_scan_ s;
    memset(&s, 0, sizeof s);
    s.l = l, s.report = report, s.err = fsb_local_todo_push_(&s, path);
    int first = 1;
    while (s.todo) {
        fsb_local_todo_ *t = s.todo;
        s.todo = t->next, s.folder = (const char *)(const void *)(t + 1);
        const int err = s.err ? 0 : fsb_local_folder_add_(l, s.folder);
        if (err && (first || fsb_local_lacks_(err))) s.err = err; /* else gone again */
        fsb_op op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_LIST, op.path = s.folder, op.emit = fsb_local_scan_emit_, op.user = &s;
        const int64_t n = s.err || err ? 0 : fsb_local_list_(l, &op);
        if (!s.err && fsb_local_lacks_(n)) s.err = (int)n;
        fsb_backend_free_(&l->allocator, t, sizeof *t + t->size);
        first = 0;
    }
    return s.err;
}

/* A folder moved: so did the paths below it. `to` NULL: out of sight. */
static int fsb_local_folders_move_(fsb_local_ *l, const char *from, const char *to)
{
    int err = 0;
    pthread_mutex_lock(&l->folders_lock);
    for (size_t i = 0; i < l->folder_count; ++i) {
        char  path[FSB_PATH_MAX + 1];
        char *old = l->folders[i].path;
        if (!fsb_backend_below_(from, old)) continue;
        const size_t tail = strlen(old + strlen(from));
        const int    fits = to && strlen(to) + tail <= FSB_PATH_MAX;
        if (fits) {
            memcpy(path, to, strlen(to));
            memcpy(path + strlen(to), old + strlen(from), tail + 1);
            char *copy = fsb_local_path_dup_(l, path);
            if (!copy) err = -ENOMEM;
            else fsb_local_path_free_(l, old), l->folders[i].path = copy;
        } else {
            inotify_rm_watch(l->inotify, l->folders[i].wd);
            fsb_local_folder_drop_(l, i--);
        }
    }
    for (fsb_local_polled_ *f = l->polled; f; f = f->next) /* the scan of `to` finds it again */
        if (fsb_backend_below_(from, fsb_local_polled_path_(f))) f->dead = 1;
    pthread_mutex_unlock(&l->folders_lock);
    return err;
}

static int fsb_local_wanted_(fsb_local_ *l, const char *path)
{
    char child[FSB_PATH_MAX + 1];
    if (fsb_backend_watches_want_(&l->watches, path, 0)) return 1;
    return fsb_backend_join_(child, path, "x") && fsb_backend_watches_want_(&l->watches, child, 0);
}

/* Forgets the folders that no watch asks for any more. */
static void fsb_local_folders_prune_(fsb_local_ *l)
{
    pthread_mutex_lock(&l->folders_lock);
    for (size_t i = 0; i < l->folder_count; ++i) {
        if (fsb_local_wanted_(l, l->folders[i].path)) continue;
        inotify_rm_watch(l->inotify, l->folders[i].wd);
        fsb_local_folder_drop_(l, i--);
    }
    for (fsb_local_polled_ *f = l->polled; f; f = f->next)
        if (!fsb_local_wanted_(l, fsb_local_polled_path_(f))) f->dead = 1;
    pthread_mutex_unlock(&l->folders_lock);
}

/* A name came: a folder that a deep watch covers is watched too, and gone through. */
static void fsb_local_came_(fsb_local_ *l, const char *path, uint32_t mask)
{
    char child[FSB_PATH_MAX + 1];
    if (!(mask & IN_ISDIR) || !fsb_backend_join_(child, path, "x")) return;
    if (!fsb_backend_watches_want_(&l->watches, child, 1)) return;
    const int err = fsb_local_scan_from_(l, path, 1);
    if (fsb_local_lacks_(err)) fsb_local_tell_(l, FSB_EVENT_LOST, path, NULL);
}

static void fsb_local_moved_away_(fsb_local_ *l)
{
    if (!l->moved[0]) return;
    fsb_local_tell_(l, FSB_EVENT_REMOVED, l->moved, NULL);
    fsb_local_folders_move_(l, l->moved, NULL);
    l->moved[0] = '\0';
}

/* A folder moved away from `path`. Is another there? Then they were exchanged: which of the watched
   folders is below which of the two is found out by going through them. */
static void fsb_local_swapped_(fsb_local_ *l, const char *path)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = path;
    if (!fsb_local_stat_(l, &op) && S_ISDIR(op.stat.mode)) fsb_local_came_(l, path, IN_ISDIR);
}

static void fsb_local_moved_here_(fsb_local_ *l, const struct inotify_event *e, const char *path)
{
    if (l->moved[0] && l->moved_cookie == e->cookie) {
        if (e->mask & IN_ISDIR && fsb_local_folders_move_(l, l->moved, path))
            fsb_local_tell_(l, FSB_EVENT_LOST, path, NULL);
        fsb_local_tell_(l, FSB_EVENT_RENAMED, l->moved, path);
        if (e->mask & IN_ISDIR) fsb_local_swapped_(l, l->moved);
        l->moved[0] = '\0';
    } else {
        fsb_local_tell_(l, FSB_EVENT_CREATED, path, NULL);
    }
    fsb_local_came_(l, path, e->mask);
}

/* One event of the kernel; `path` is what it is about. */
static void fsb_local_event_(fsb_local_ *l, const struct inotify_event *e, const char *path)
{
    if (e->mask & IN_MOVED_FROM) {
        fsb_local_moved_away_(l);
        memcpy(l->moved, path, strlen(path) + 1);
        l->moved_cookie = e->cookie;
    } else if (e->mask & IN_MOVED_TO) {
        fsb_local_moved_here_(l, e, path);
    } else if (e->mask & IN_CREATE) {
        fsb_local_tell_(l, FSB_EVENT_CREATED, path, NULL);
        fsb_local_came_(l, path, e->mask);
    } else if (e->mask & (IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF)) {
        fsb_local_tell_(l, FSB_EVENT_REMOVED, path, NULL);
    } else if (e->mask & (IN_MODIFY | IN_CLOSE_WRITE)) {
        fsb_local_tell_(l, FSB_EVENT_CONTENT, path, NULL);
    } else if (e->mask & IN_ATTRIB) {
        fsb_local_tell_(l, FSB_EVENT_ATTR, path, NULL);
    }
}

static void fsb_local_kernel_event_(fsb_local_ *l, const struct inotify_event *e)
{
    char path[FSB_PATH_MAX + 1];
    int  known;
    if (e->mask & IN_Q_OVERFLOW) {
        fsb_local_tell_(l, FSB_EVENT_LOST, "/", NULL);
        return;
    }
    pthread_mutex_lock(&l->folders_lock);
    const size_t at = fsb_local_folder_at_(l, e->wd);
    known = at < l->folder_count && l->folders[at].wd == e->wd;
    if (known && e->mask & IN_IGNORED) {
        fsb_local_folder_drop_(l, at);
        known = 0;
    }
    if (known && e->len) known = fsb_backend_join_(path, l->folders[at].path, e->name);
    else if (known) memcpy(path, l->folders[at].path, strlen(l->folders[at].path) + 1);
    pthread_mutex_unlock(&l->folders_lock);
    /* A folder below a watched one is told of by its parent; the watch's own is not. */
    const uint32_t self = IN_DELETE_SELF | IN_MOVE_SELF;
    if (known && e->mask & self) known = fsb_backend_watches_rooted_(&l->watches, path);
    if (known) fsb_local_event_(l, e, path);
}

/* Tells of names in one snapshot that the other has not; `changed`: of those that differ, too. */
static void fsb_local_compare_(fsb_local_ *l, const char *folder, const fsb_local_snapshot_ *in,
                               const fsb_local_snapshot_ *other, uint32_t missing, int changed)
{
    char path[FSB_PATH_MAX + 1];
    for (size_t i = 0; i < in->bucket_count; ++i) {
        for (const fsb_local_seen_ *e = in->buckets[i]; e; e = e->next) {
            const fsb_local_seen_ *was = fsb_local_snapshot_find_(other, e);
            if (was && (!changed || (was->version == e->version && was->file_id == e->file_id)))
                continue;
            if (!fsb_backend_join_(path, folder, fsb_local_seen_name_(e))) continue;
            fsb_local_tell_(l, was ? (uint32_t)FSB_EVENT_CONTENT : missing, path, NULL);
            if (!was && changed && e->folder) fsb_local_came_(l, path, IN_ISDIR);
        }
    }
}

static void fsb_local_poll_folder_(fsb_local_ *l, fsb_local_polled_ *f)
{
    const char         *path = fsb_local_polled_path_(f);
    fsb_local_snapshot_ now;
    if (fsb_local_snapshot_take_(l, path, f->seen.count * 2, &now)) {
        fsb_local_tell_(l, FSB_EVENT_LOST, path, NULL);
        return;
    }
    fsb_local_compare_(l, path, &f->seen, &now, FSB_EVENT_REMOVED, 0);
    fsb_local_compare_(l, path, &now, &f->seen, FSB_EVENT_CREATED, 1);
    fsb_local_snapshot_free_(&f->seen);
    f->seen = now;
}

static int64_t fsb_local_clock_ms_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* Looks at the polled folders, if it is time; new ones come in at the head of the list only, dead
   ones go here. */
static void fsb_local_poll_(fsb_local_ *l)
{
    if (fsb_local_clock_ms_() < l->polled_ms) return;
    pthread_mutex_lock(&l->folders_lock);
    for (fsb_local_polled_ **at = &l->polled, *f; (f = *at) != NULL;) {
        if (f->dead) {
            *at = f->next;
            fsb_local_polled_free_(l, f);
        } else {
            at = &f->next;
        }
    }
    fsb_local_polled_ *f = l->polled;
    pthread_mutex_unlock(&l->folders_lock);
    for (; f; f = f->next) fsb_local_poll_folder_(l, f);
    l->polled_ms = fsb_local_clock_ms_() + FSB_LOCAL_POLL_MS_;
}

/* ---- [local: fanotify] ----------------------------------------------------------------------- */

/* Where this process may (CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH) and the file system can, one mark
   reports all of it: no folder is missed, and who did it is known. An event names a folder by its
   handle; its path is looked up when the event is read, so it is where the folder is now. A folder
   that was renamed in between has been told of under its new path too early: that is found out when
   the rename comes (`told`), and everything below it is said to be LOST. */
enum { FSB_LOCAL_FAN_INIT_ = 1 | 2 | 0x200 | 0x400 | 0x800, /* CLOEXEC, NONBLOCK, REPORT_FID and
                                                               REPORT_DFID_NAME */
       FSB_LOCAL_FAN_ADD_ = 1 | 0x100,              /* to the file system */
       FSB_LOCAL_FAN_MODIFY_ = 2, FSB_LOCAL_FAN_ATTRIB_ = 4, FSB_LOCAL_FAN_CLOSE_WRITE_ = 8,
       FSB_LOCAL_FAN_CREATE_ = 0x100, FSB_LOCAL_FAN_DELETE_ = 0x200,
       FSB_LOCAL_FAN_OVERFLOW_ = 0x4000, FSB_LOCAL_FAN_RENAME_ = 0x10000000,
       FSB_LOCAL_FAN_ONDIR_ = 0x40000000 };
enum { FSB_LOCAL_FAN_FILE_ = 1, FSB_LOCAL_FAN_NAME_ = 2, /* records */
       FSB_LOCAL_FAN_OLD_ = 10, FSB_LOCAL_FAN_NEW_ = 12 };
enum { FSB_LOCAL_TOLD_ = 32 << 10, FSB_LOCAL_NAP_MS_ = 1 };

typedef struct fsb_local_record_ { /* as read(2) fills it in; the handle and the name follow */
    uint8_t  type, pad;
    uint16_t size;
    int32_t  fsid[2];
    uint32_t handle_bytes;
    int32_t  handle_type;
} fsb_local_record_;

struct fsb_local_fan_ {
    int    fd, mount; /* mount: the root, open for reading */
    int    own;       /* somebody wants this process's own events */
    size_t root_size;
    char   root[FSB_PATH_MAX + 1]; /* where the root is now */
    /* The last folder looked up, of this batch. */
    size_t known_size; /* of the handle, 0: none */
    char   known[160], folder[FSB_PATH_MAX + 1];
    int    inside;     /* it is in the root */
    /* Folders told of in this batch and the one before, each with its '\0'. */
    size_t told_size, told_old;
    int    told_full, told_full_old;
    char   told[FSB_LOCAL_TOLD_];
};

/* The path behind a descriptor; 0: there is none. */
static size_t fsb_local_path_of_(int fd, char *out)
{
    const fsb_local_proc_ name = fsb_local_proc_of_(fd);
    const ssize_t         n = readlink(name.text, out, FSB_PATH_MAX + 1);
    if (n <= 0 || n > FSB_PATH_MAX) return 0;
    out[n] = '\0';
    return (size_t)n;
}

/* 1 if something is mounted below the root: another file system, which the mark does not cover.
   mountinfo's fifth field is the place, with odd bytes as \ooo. */
static int fsb_local_mounts_below_(const char *root)
{
    char      text[4096], place[FSB_PATH_MAX + 1];
    size_t    n = 0, from = 0, field = 0;
    int       found = 0;
    const int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    ssize_t   got = fd < 0 ? -1 : 0;
    while (!found && fd >= 0 && (got = read(fd, text, sizeof text)) > 0) {
        for (ssize_t i = 0; i < got; ++i) {
            const char c = text[i];
            if (c == ' ' && ++field == 5) {
                place[n] = '\0';
                found |= strcmp(place, root) != 0 && fsb_backend_below_(root, place);
            }
            if (c == ' ' || c == '\n') n = from = 0;
            if (c == '\n') field = 0;
            if (c == ' ' || c == '\n' || field != 4 || n == FSB_PATH_MAX) continue;
            place[n++] = c;
            if (n < from + 4 || place[n - 4] != '\\') continue;
            place[n - 4] = (char)((place[n - 3] - '0') * 64 + (place[n - 2] - '0') * 8 + c - '0');
            from = n -= 3;
        }
    }
    if (fd >= 0) close(fd);
    return found || got < 0;
}

/* 0 if folders can be found by their handles. */
static int fsb_local_fan_probe_(int mount)
{
    union { struct file_handle align; char bytes[sizeof(struct file_handle) + 128]; } room;
    struct file_handle *handle = &room.align;
    int                 id;
    handle->handle_bytes = 128;
    if (name_to_handle_at(mount, "", handle, &id, AT_EMPTY_PATH)) return -errno;
    const int fd = open_by_handle_at(mount, handle, O_PATH | O_CLOEXEC);
    if (fd < 0) return -errno;
    close(fd);
    return 0;
}

static void fsb_local_fan_close_(fsb_local_ *l)
{
    if (!l->fan) return;
    if (l->fan->fd >= 0) close(l->fan->fd);
    if (l->fan->mount >= 0) close(l->fan->mount);
    fsb_backend_free_(&l->allocator, l->fan, sizeof *l->fan);
    l->fan = NULL;
}

/* Tries to; without, inotify does. Errors: -ENOMEM only. */
static int fsb_local_fan_open_(fsb_local_ *l)
{
    enum { MASK = FSB_LOCAL_FAN_MODIFY_ | FSB_LOCAL_FAN_ATTRIB_ | FSB_LOCAL_FAN_CLOSE_WRITE_
                  | FSB_LOCAL_FAN_CREATE_ | FSB_LOCAL_FAN_DELETE_ | FSB_LOCAL_FAN_RENAME_
                  | FSB_LOCAL_FAN_ONDIR_ };
    fsb_local_fan_ *f = (fsb_local_fan_ *)fsb_backend_new_(&l->allocator, sizeof *f);
    if (!f) return -ENOMEM;
    l->fan = f;
    f->mount = openat(l->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->fd = f->mount < 0 ? -1 : fanotify_init(FSB_LOCAL_FAN_INIT_, O_RDONLY | O_CLOEXEC);
    f->root_size = f->fd < 0 ? 0 : fsb_local_path_of_(l->root, f->root);
    if (!f->root_size || fsb_local_mounts_below_(f->root) || fsb_local_fan_probe_(f->mount)
        || fanotify_mark(f->fd, FSB_LOCAL_FAN_ADD_, MASK, f->mount, NULL)) fsb_local_fan_close_(l);
    return 0;
}

/* The folder a record names, as a path; NULL: it is not in the root, or gone. */
static const char *fsb_local_fan_folder_(fsb_local_ *l, const fsb_local_record_ *record)
{
    fsb_local_fan_    *f = l->fan;
    const char        *handle = (const char *)record + offsetof(fsb_local_record_, handle_bytes);
    const size_t       size = 8 + record->handle_bytes;
    char               path[FSB_PATH_MAX + 1];
    fsb_stat           st;
    if (f->known_size == size && !memcmp(f->known, handle, size))
        return f->inside ? f->folder : NULL;
    f->inside = 0, f->known_size = size <= sizeof f->known ? size : 0;
    memcpy(f->known, handle, f->known_size);
    const int fd = open_by_handle_at(f->mount, (struct file_handle *)(uintptr_t)handle,
                                     O_PATH | O_CLOEXEC);
    if (fd < 0) return NULL;
    const int    gone = fsb_local_look_(l, fd, "", &st) || !st.nlink;
    const size_t n = gone ? 0 : fsb_local_path_of_(fd, path);
    close(fd);
    if (!n || !fsb_backend_below_(f->root, path)) return NULL;
    const size_t skip = f->root_size > 1 ? f->root_size : 0;
    if (path[skip]) memcpy(f->folder, path + skip, n - skip + 1);
    else memcpy(f->folder, "/", 2);
    f->inside = 1;
    const size_t text = strlen(f->folder) + 1;
    if (f->told_size + text > sizeof f->told) f->told_full = 1;
    else memcpy(f->told + f->told_size, f->folder, text), f->told_size += text;
    return f->folder;
}

/* What a record is about, into `out`; 0: nothing in the root. */
static int fsb_local_fan_path_(fsb_local_ *l, const fsb_local_record_ *record, char *out)
{
    const char *folder = record ? fsb_local_fan_folder_(l, record) : NULL;
    if (!folder) return 0;
    const char *name = (const char *)(record + 1) + record->handle_bytes;
    if (strcmp(name, ".")) return fsb_backend_join_(out, folder, name);
    memcpy(out, folder, strlen(folder) + 1);
    return 1;
}

/* A file got or lost a name, which another event names: what is known of it by others is no longer
   true. This is its own, as the kernel finds it, for who may know that one. */
static void fsb_local_fan_linked_(fsb_local_ *l, const fsb_local_record_ *record, int own)
{
    fsb_local_fan_ *f = l->fan;
    char           *handle = (char *)(uintptr_t)record + offsetof(fsb_local_record_, handle_bytes);
    char            path[FSB_PATH_MAX + 1];
    fsb_event       event;
    fsb_stat        st;
    const int       fd = open_by_handle_at(f->mount, (struct file_handle *)(void *)handle,
                                           O_PATH | O_CLOEXEC);
    if (fd < 0) return; /* that was its last name */
    const int there = !fsb_local_look_(l, fd, "", &st) && st.nlink && !S_ISDIR(st.mode) &&
                      fsb_local_path_of_(fd, path);
    close(fd);
    if (!there || !fsb_backend_below_(f->root, path)) return;
    event.kind = FSB_EVENT_ATTR, event.path2 = NULL, event.stat = &st;
    event.path = path + (f->root_size > 1 ? f->root_size : 0);
    if (event.path[0] && event.path[1]) fsb_backend_watches_tell_(&l->watches, &event, own);
}

/* A folder is at `path` now. What was told of it before, under that name, came too early. */
static void fsb_local_fan_moved_(fsb_local_ *l, const char *path)
{
    fsb_local_fan_ *f = l->fan;
    int             early = f->told_full || f->told_full_old;
    for (size_t at = 0; at < f->told_size && !early; at += strlen(f->told + at) + 1)
        early = fsb_backend_below_(path, f->told + at);
    f->known_size = 0;
    if (early) fsb_local_tell_(l, FSB_EVENT_LOST, path, NULL);
}

static void fsb_local_fan_renamed_(fsb_local_ *l, const fsb_local_record_ *old,
                                   const fsb_local_record_ *fresh, int folder, int own)
{
    char      from[FSB_PATH_MAX + 1], to[FSB_PATH_MAX + 1];
    const int one = fsb_local_fan_path_(l, old, from), two = fsb_local_fan_path_(l, fresh, to);
    if (own && !l->fan->own) {} /* who did it tells of it */
    else if (one && two) fsb_local_tell_by_(l, FSB_EVENT_RENAMED, from, to, own);
    else if (one) fsb_local_tell_by_(l, FSB_EVENT_REMOVED, from, NULL, own);
    else if (two) fsb_local_tell_by_(l, FSB_EVENT_CREATED, to, NULL, own);
    if (two && folder) fsb_local_fan_moved_(l, to);
}

/* The kernel merges what happened to one name; the order is what leads to what is there now. */
static void fsb_local_fan_changed_(fsb_local_ *l, uint64_t mask, const char *path, int own)
{
    const int created = (mask & FSB_LOCAL_FAN_CREATE_) != 0;
    int       deleted = (mask & FSB_LOCAL_FAN_DELETE_) != 0;
    fsb_op    op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = path;
    if (created && deleted && !fsb_local_stat_(l, &op)) {
        fsb_local_tell_by_(l, FSB_EVENT_REMOVED, path, NULL, own);
        deleted = 0;
    }
    if (created) fsb_local_tell_by_(l, FSB_EVENT_CREATED, path, NULL, own);
    if (mask & (FSB_LOCAL_FAN_MODIFY_ | FSB_LOCAL_FAN_CLOSE_WRITE_))
        fsb_local_tell_by_(l, FSB_EVENT_CONTENT, path, NULL, own);
    if (mask & FSB_LOCAL_FAN_ATTRIB_) fsb_local_tell_by_(l, FSB_EVENT_ATTR, path, NULL, own);
    if (deleted) fsb_local_tell_by_(l, FSB_EVENT_REMOVED, path, NULL, own);
}

/* `bytes` is where the event stands, aligned to 4 only: *e is a copy of its head. */
static void fsb_local_fan_event_(fsb_local_ *l, const struct fanotify_event_metadata *e,
                                 const char *bytes, pid_t self)
{
    const fsb_local_record_ *file = NULL, *name = NULL, *old = NULL, *fresh = NULL, *record;
    char                     path[FSB_PATH_MAX + 1];
    const int                own = e->pid == self;
    if (e->mask & FSB_LOCAL_FAN_OVERFLOW_) fsb_local_tell_(l, FSB_EVENT_LOST, "/", NULL);
    const int quiet = own && !l->fan->own, folder = (e->mask & FSB_LOCAL_FAN_ONDIR_) != 0;
    const int renamed = (e->mask & FSB_LOCAL_FAN_RENAME_) != 0;
    if (e->mask & FSB_LOCAL_FAN_OVERFLOW_ || (quiet && !(renamed && folder))) return;
    for (size_t at = e->metadata_len; at + sizeof *record < e->event_len; at += record->size) {
        record = (const fsb_local_record_ *)(const void *)(bytes + at);
        if (record->size < sizeof *record) return;
        if (record->type == FSB_LOCAL_FAN_FILE_) file = record;
        if (record->type == FSB_LOCAL_FAN_NAME_) name = record;
        if (record->type == FSB_LOCAL_FAN_OLD_) old = record;
        if (record->type == FSB_LOCAL_FAN_NEW_) fresh = record;
    }
    if (renamed) fsb_local_fan_renamed_(l, old, fresh, folder, own);
    else if (file && !name && e->mask & FSB_LOCAL_FAN_ATTRIB_) fsb_local_fan_linked_(l, file, own);
    if (!quiet && fsb_local_fan_path_(l, name, path)) fsb_local_fan_changed_(l, e->mask, path, own);
}

/* A batch of events. 1: all of them are this process's own, and nobody wants those. */
static int fsb_local_fan_read_(fsb_local_ *l, const char *bytes, ssize_t size)
{
    fsb_local_fan_ *f = l->fan;
    char            root[FSB_PATH_MAX + 1];
    struct stat     st;
    const pid_t     self = getpid();
    const size_t    n = !fstat(l->root, &st) && st.st_nlink ? fsb_local_path_of_(l->root, root) : 0;
    if (n) memcpy(f->root, root, n + 1), f->root_size = n;
    memmove(f->told, f->told + f->told_old, f->told_size - f->told_old);
    f->told_old = f->told_size -= f->told_old;
    f->told_full_old = f->told_full, f->told_full = 0;
    f->known_size = 0, f->own = fsb_backend_watches_own_(&l->watches);
    int idle = !f->own;
    for (ssize_t at = 0; at < size;) {
        struct fanotify_event_metadata e;
        memcpy(&e, bytes + at, sizeof e);
        fsb_local_fan_event_(l, &e, bytes + at, self);
        idle &= e.pid == self;
        at += (ssize_t)e.event_len;
    }
    return idle;
}

/* ---- [local: watch thread] ------------------------------------------------------------------- */

/* How long the thread may sleep, ms. */
static int fsb_local_patience_(fsb_local_ *l)
{
    pthread_mutex_lock(&l->folders_lock);
    const int polled = l->polled != NULL;
    pthread_mutex_unlock(&l->folders_lock);
    if (l->moved[0]) return 20;
    if (!polled) return -1;
    const int64_t left = l->polled_ms - fsb_local_clock_ms_();
    return left > 0 ? (int)left : 0;
}

/* 1 if the next event of a batch says the same: a file is written to, and written to again. */
static int fsb_local_said_again_(const struct inotify_event *e, const char *end)
{
    const struct inotify_event *next =
        (const struct inotify_event *)(const void *)((const char *)(e + 1) + e->len);
    const uint32_t content = IN_MODIFY | IN_CLOSE_WRITE;
    if ((const char *)next == end || !(e->mask & content) || !(next->mask & content)) return 0;
    return next->wd == e->wd && next->len == e->len && !memcmp(next->name, e->name, e->len);
}

static void fsb_local_inotify_read_(fsb_local_ *l, const char *bytes, ssize_t size)
{
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *e = (const struct inotify_event *)(const void *)(bytes + at);
        at += (ssize_t)(sizeof *e + e->len);
        if (!fsb_local_said_again_(e, bytes + size)) fsb_local_kernel_event_(l, e);
    }
}

static void *fsb_local_watch_main_(void *arg)
{
    fsb_local_   *l = (fsb_local_ *)arg;
    struct pollfd p[2];
    union { uint64_t align; char bytes[16 << 10]; } buf;
    p[0].fd = l->fan ? l->fan->fd : l->inotify, p[0].events = POLLIN;
    p[1].fd = l->wake[0], p[1].events = POLLIN;
    for (;;) {
        const int ready = poll(p, 2, fsb_local_patience_(l));
        if (ready < 0 && errno != EINTR) poll(NULL, 0, 20); /* no memory; events stay queued */
        if (ready == 0) fsb_local_moved_away_(l); /* its other half would have been here */
        if (!read(l->wake[0], buf.bytes, sizeof buf.bytes)) break; /* closed */
        fsb_local_poll_(l);
        if (ready <= 0 || !p[0].revents) continue;
        const ssize_t n = read(p[0].fd, buf.bytes, sizeof buf.bytes);
        if (n > 0 && l->fan && fsb_local_fan_read_(l, buf.bytes, n))
            (void)poll(&p[1], 1, FSB_LOCAL_NAP_MS_); /* else each change made here wakes this */
        else if (n > 0 && !l->fan) fsb_local_inotify_read_(l, buf.bytes, n);
    }
    return NULL;
}

/* Where the kernel's events come from. */
static int fsb_local_watch_source_(fsb_local_ *l)
{
    l->inotify = -1;
    const int err = fsb_local_fan_open_(l);
    if (err || l->fan) return err;
    l->inotify = fsb_local_errno_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    return l->inotify < 0 ? l->inotify : 0;
}

static int fsb_local_watch_start_(fsb_local_ *l)
{
    int err = 0;
    pthread_mutex_lock(&l->folders_lock);
    if (!l->watches.started) {
        err = fsb_local_watch_source_(l);
        if (!err) err = fsb_local_errno_(pipe2(l->wake, O_CLOEXEC | O_NONBLOCK));
        if (!err) {
            err = fsb_backend_thread_(&l->watches.thread, 256 << 10, fsb_local_watch_main_, l);
            if (err) close(l->wake[0]), close(l->wake[1]);
        }
        if (err && l->inotify >= 0) close(l->inotify);
        if (err) fsb_local_fan_close_(l);
        l->watches.started = !err;
    }
    pthread_mutex_unlock(&l->folders_lock);
    return err;
}

/* Has what happens at and below op->path reported. */
static int fsb_local_watch_path_(fsb_local_ *l, const fsb_op *op)
{
    if (!l->fan && op->flags & FSB_WATCH_DEEP) return fsb_local_scan_from_(l, op->path, 0);
    if (!l->fan) return fsb_local_folder_add_(l, op->path);
    fsb_op there;
    memset(&there, 0, sizeof there);
    there.code = FSB_OP_STAT, there.path = op->path;
    return (int)fsb_local_stat_(l, &there);
}

static int64_t fsb_local_watch_(fsb_local_ *l, fsb_op *op)
{
    int err = fsb_local_watch_start_(l);
    if (err) return err;
    fsb_backend_watch_ *w = fsb_backend_watch_new_(&l->watches, op);
    if (!w) return -ENOMEM;
    fsb_backend_slot_ *slot = NULL;
    err = fsb_local_watch_path_(l, op);
    if (!err) err = fsb_backend_slot_reserve_(&l->handles, &slot);
    if (err) {
        fsb_backend_watch_close_(&l->watches, w);
        fsb_local_folders_prune_(l);
    } else {
        op->handle = fsb_backend_slot_open_(slot, -1, 0, w);
        op->out_offset = l->fan && op->flags & FSB_WATCH_FOREIGN;
    }
    return err;
}

static void fsb_local_watch_stop_(fsb_local_ *l)
{
    if (l->watches.started) {
        close(l->wake[1]);
        pthread_join(l->watches.thread, NULL);
        close(l->wake[0]);
        if (l->inotify >= 0) close(l->inotify);
        fsb_local_fan_close_(l);
    }
    while (l->folder_count) fsb_local_folder_drop_(l, l->folder_count - 1);
    for (fsb_local_polled_ *f = l->polled, *next; f; f = next) {
        next = f->next;
        fsb_local_polled_free_(l, f);
    }
    l->polled = NULL;
    fsb_backend_free_(&l->allocator, l->folders, l->folder_room * sizeof *l->folders);
}

/* ---- [local: exec] --------------------------------------------------------------------------- */

/* A command is one call that blocks: poll(2) on its end, its two pipes and a wake-up for cancel().
   What it reads comes from a memfd, so that nobody must feed it, and no SIGPIPE can come back. */
enum { FSB_LOCAL_RUN_BYTES_ = 64 << 10, FSB_LOCAL_KILL_MS_ = 2000, FSB_LOCAL_GRACE_MS_ = 100,
       FSB_LOCAL_REAP_MS_ = 5 };
enum { FSB_LOCAL_NOEXEC_SEAL_ = 8 };
#ifdef SYS_pidfd_open
#define FSB_LOCAL_PIDFD_OPEN_ SYS_pidfd_open
#else
#define FSB_LOCAL_PIDFD_OPEN_ 434
#endif

typedef struct fsb_local_run_pipe_ {
    int      fd; /* our end; -1: closed */
    uint64_t handed;
} fsb_local_run_pipe_;

struct fsb_local_run_ {
    fsb_local_run_     *next;
    fsb_local_         *l;
    fsb_op             *op;
    pid_t               pid;
    int                 pidfd; /* -1: this kernel has none */
    int                 wake;  /* eventfd: cancel() */
    fsb_local_run_pipe_ out[2];
    char               *room;
    int                 why;      /* 0, or the result once it is being ended */
    int                 stopping; /* SIGTERM was sent; 2: SIGKILL, too */
    int                 ended;    /* the command itself; its group may go on */
    int64_t             deadline_ms; /* when the next of these is due; INT64_MAX: none */
};

/* A descriptor above those that the child gives to stdin, stdout and stderr. */
static int fsb_local_high_(int fd)
{
    if (fd < 0 || fd > 2) return fd;
    const int high = fsb_local_errno_(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    close(fd);
    return high;
}

static int fsb_local_run_pipe_open_(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC)) return -errno;
    ends[0] = fsb_local_high_(ends[0]), ends[1] = fsb_local_high_(ends[1]);
    int err = ends[0] < 0 ? ends[0] : ends[1] < 0 ? ends[1] : 0;
    if (!err) err = fsb_local_errno_(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    for (int i = 0; err && i < 2; ++i)
        if (ends[i] >= 0) close(ends[i]);
    return err;
}

/* What the command reads: a descriptor of its own. */
static int fsb_local_run_input_(const fsb_exec *e)
{
    if (!e->input_size) return fsb_local_high_(fsb_local_errno_(open("/dev/null", O_RDONLY
                                                                     | O_CLOEXEC)));
    long fd = syscall(SYS_memfd_create, "fsb-exec", 1 | FSB_LOCAL_NOEXEC_SEAL_); /* 1: CLOEXEC */
    if (fd < 0 && errno == EINVAL) fd = syscall(SYS_memfd_create, "fsb-exec", 1);
    if (fd < 0) return -errno;
    const int64_t n = fsb_local_pwrite_((int)fd, e->input, e->input_size, 0);
    const int     again = n < 0 ? (int)n : fsb_local_reopen_((int)fd, O_RDONLY);
    close((int)fd);
    return fsb_local_high_(again);
}

static size_t fsb_local_env_count_(const char *const *env)
{
    size_t n = 0;
    while (env && env[n]) ++n;
    return n;
}

/* 1 if env sets the variable of `text`, "NAME=value". */
static int fsb_local_env_sets_(const char *const *env, size_t count, const char *text)
{
    const char  *equals = strchr(text, '=');
    const size_t size = equals ? (size_t)(equals - text) + 1 : strlen(text) + 1;
    for (size_t i = 0; i < count; ++i)
        if (!strncmp(env[i], text, size)) return 1;
    return 0;
}

/* The host's variables but those that are set anew, and these, each once: the last one counts. */
static const char **fsb_local_env_(fsb_local_ *l, const char *const *over, size_t *room)
{
    static const char *const path[] = {"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
    const char *const       *host = l->env ? l->env : path;
    const size_t             more = fsb_local_env_count_(over);
    size_t                   n = 0;
    *room = (fsb_local_env_count_(host) + more + 1) * sizeof(char *);
    const char **all = (const char **)fsb_backend_new_(&l->allocator, *room);
    if (!all) return NULL;
    for (; *host; ++host)
        if (!fsb_local_env_sets_(over, more, *host)) all[n++] = *host;
    for (size_t i = 0; i < more; ++i)
        if (!fsb_local_env_sets_(over + i + 1, more - i - 1, over[i])) all[n++] = over[i];
    return all;
}

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 34)
static int fsb_local_spawn_closes_(posix_spawn_file_actions_t *does)
{
    return posix_spawn_file_actions_addclosefrom_np(does, 3);
}
#else
/* Elsewhere (musl) they are closed one by one: all that are open now. What another thread opens
   meanwhile without O_CLOEXEC is inherited; nothing of fsb's is opened so. */
static int fsb_local_spawn_closes_(posix_spawn_file_actions_t *does)
{
    DIR                 *dir = opendir("/proc/self/fd");
    const struct dirent *e;
    int                  err = dir ? 0 : errno;
    while (!err && (e = readdir(dir))) {
        const int fd = atoi(e->d_name); /* "." and "..": 0 */
        if (fd > 2 && fd != dirfd(dir)) err = posix_spawn_file_actions_addclose(does, fd);
    }
    if (dir) closedir(dir);
    return err;
}
#endif

/* In the child: nothing of this process but the four descriptors, no signal blocked or ignored, a
   group of its own. dir, fds: where it runs; stdin, stdout, stderr. */
static int fsb_local_spawn_in_(pid_t *pid, const fsb_op *op, const char *const *env, int dir,
                               const int fds[3], posix_spawn_file_actions_t *does,
                               posix_spawnattr_t *attr)
{
    const char *const  line = op->exec->argv[0];
    const int          dash = line[0] == '-' || line[0] == '+'; /* sh would take it for options */
    const char *const  shell[] = {"/bin/sh", "-c", dash ? "--" : line, dash ? line : NULL, NULL};
    const char *const *argv = op->flags & FSB_EXEC_SHELL ? shell : op->exec->argv;
    const int          flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF
                               | POSIX_SPAWN_SETSIGMASK;
    sigset_t           none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int err = posix_spawnattr_setflags(attr, (short)flags);
    if (!err) err = posix_spawnattr_setsigmask(attr, &none);
    if (!err) err = posix_spawnattr_setsigdefault(attr, &all);
    if (!err) err = posix_spawn_file_actions_addfchdir_np(does, dir);
    for (int i = 0; i < 3 && !err; ++i) err = posix_spawn_file_actions_adddup2(does, fds[i], i);
    if (!err) err = fsb_local_spawn_closes_(does);
    if (!err)
        err = posix_spawnp(pid, argv[0], does, attr, (char *const *)(uintptr_t)argv,
                           (char *const *)(uintptr_t)env);
    return -err;
}

static int fsb_local_spawn_(fsb_local_run_ *r, int dir, const int fds[3])
{
    size_t                     room = 0;
    posix_spawn_file_actions_t does;
    posix_spawnattr_t          attr;
    const char               **env = fsb_local_env_(r->l, r->op->exec->env, &room);
    if (!env) return -ENOMEM;
    int err = -posix_spawn_file_actions_init(&does);
    if (!err) {
        err = -posix_spawnattr_init(&attr);
        if (!err) {
            err = fsb_local_spawn_in_(&r->pid, r->op, env, dir, fds, &does, &attr);
            posix_spawnattr_destroy(&attr);
        }
        posix_spawn_file_actions_destroy(&does);
    }
    fsb_backend_free_(&r->l->allocator, env, room);
    return err;
}

/* Opens all that the command needs, and starts it. */
static int fsb_local_run_start_(fsb_local_run_ *r)
{
    int out[2] = {-1, -1}, errs[2] = {-1, -1}, fds[3] = {-1, -1, -1}, dir = -1;
    int err = fsb_local_open_path_(r->l, r->op->path, strlen(r->op->path),
                                   O_PATH | O_DIRECTORY | O_NOFOLLOW);
    if (err >= 0) dir = fsb_local_high_(err), err = dir < 0 ? dir : 0;
    if (!err) fds[0] = fsb_local_run_input_(r->op->exec), err = fds[0] < 0 ? fds[0] : 0;
    if (!err && !(err = fsb_local_run_pipe_open_(out))) r->out[0].fd = out[0], fds[1] = out[1];
    if (!err && !(err = fsb_local_run_pipe_open_(errs))) r->out[1].fd = errs[0], fds[2] = errs[1];
    if (!err) err = fsb_local_spawn_(r, dir, fds);
    if (dir >= 0) close(dir);
    for (int i = 0; i < 3; ++i)
        if (fds[i] >= 0) close(fds[i]);
    if (!err) r->pidfd = (int)syscall(FSB_LOCAL_PIDFD_OPEN_, r->pid, 0);
    return err;
}

/* The next step of ending the group: SIGTERM, two seconds later SIGKILL. It leads the group until
   it is waited for, so that the number can be nobody else's. */
static void fsb_local_run_stop_(fsb_local_run_ *r, int why)
{
    if (!r->stopping) r->why = why;
    kill(-r->pid, r->stopping ? SIGKILL : SIGTERM);
    r->deadline_ms = r->stopping ? INT64_MAX : fsb_local_clock_ms_() + FSB_LOCAL_KILL_MS_;
    if (r->stopping < 2) ++r->stopping;
}

/* Hands n bytes of stdout (0) or stderr (1) out; the command ends if nobody wants more. */
static void fsb_local_run_hand_(fsb_local_run_ *r, int which, size_t n)
{
    fsb_exec            *e = r->op->exec;
    fsb_local_run_pipe_ *p = &r->out[which];
    const uint64_t       left = e->max_output ? e->max_output - p->handed : UINT64_MAX;
    size_t               take = n < left ? n : (size_t)left;
    if (!e->output || r->stopping) take = 0;
    e->cut[which] += n - take;
    p->handed += take;
    if (take && e->output(r->op, which + 1, r->room, take)) fsb_local_run_stop_(r, 0);
}

/* Reads once; the pipe closes at its end. 0: there is nothing more now. */
static size_t fsb_local_run_read_(fsb_local_run_ *r, int which, size_t most)
{
    fsb_local_run_pipe_ *p = &r->out[which];
    if (p->fd < 0) return 0;
    const ssize_t n = read(p->fd, r->room, most);
    if (n > 0) fsb_local_run_hand_(r, which, (size_t)n);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return n > 0 ? (size_t)n : 0;
    if (n < 0) fsb_local_run_stop_(r, -errno); /* what it wrote is lost */
    close(p->fd);
    p->fd = -1;
    return 0;
}

/* The command has ended and its time is up: takes what lies in the pipes now, and no more, since
   somebody may write to them for ever. */
static void fsb_local_run_drain_(fsb_local_run_ *r)
{
    for (int i = 0; i < 2; ++i) {
        int left = 0;
        if (r->out[i].fd < 0 || ioctl(r->out[i].fd, FIONREAD, &left)) continue;
        while (left > 0) {
            const int    most = left < FSB_LOCAL_RUN_BYTES_ ? left : (int)FSB_LOCAL_RUN_BYTES_;
            const size_t n = fsb_local_run_read_(r, i, (size_t)most);
            if (!n) break;
            left -= (int)n;
        }
    }
}

/* Notes its end, but leaves it to be waited for: the group keeps its number. */
static int fsb_local_run_ended_(fsb_local_run_ *r)
{
    siginfo_t info;
    memset(&info, 0, sizeof info);
    if (r->ended) return 0;
    if (waitid(P_PID, (id_t)r->pid, &info, WEXITED | WNOHANG | WNOWAIT)) {
        if (errno == EINTR) return 0;
        r->ended = 1; /* somebody else has waited for it */
        return -ECHILD;
    }
    if (!info.si_pid) return 0;
    r->ended = 1;
    r->op->exec->exit_code = info.si_code == CLD_EXITED ? info.si_status : 0;
    r->op->exec->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
    if (!r->stopping) r->deadline_ms = fsb_local_clock_ms_() + FSB_LOCAL_GRACE_MS_;
    return 0;
}

/* What is due by the clock; 1: the call is over. */
static int fsb_local_run_due_(fsb_local_run_ *r)
{
    const int closed = r->out[0].fd < 0 && r->out[1].fd < 0;
    if (r->ended && (closed || r->stopping == 2)) return 1;
    if (fsb_local_clock_ms_() < r->deadline_ms) return 0;
    if (r->ended && !r->stopping) return 1;
    fsb_local_run_stop_(r, -ETIMEDOUT);
    return 0;
}

static int fsb_local_run_wait_(fsb_local_run_ *r)
{
    struct pollfd p[4];
    int           err = 0;
    while (!err && !fsb_local_run_due_(r)) {
        int64_t left = -1; /* for ever */
        if (r->deadline_ms != INT64_MAX) left = r->deadline_ms - fsb_local_clock_ms_();
        if (r->deadline_ms != INT64_MAX && left < 0) left = 0;
        if (r->pidfd < 0 && !r->ended && (left < 0 || left > FSB_LOCAL_REAP_MS_))
            left = FSB_LOCAL_REAP_MS_;
        if (left > INT_MAX) left = INT_MAX;
        p[0].fd = r->ended ? -1 : r->pidfd, p[1].fd = r->stopping ? -1 : r->wake;
        p[2].fd = r->out[0].fd, p[3].fd = r->out[1].fd;
        for (int i = 0; i < 4; ++i) p[i].events = POLLIN, p[i].revents = 0;
        if (poll(p, 4, (int)left) < 0 && errno != EINTR) err = -errno;
        if (p[1].revents) fsb_local_run_stop_(r, -EINTR);
        for (int i = 0; i < 2; ++i)
            if (p[2 + i].revents) fsb_local_run_read_(r, i, FSB_LOCAL_RUN_BYTES_);
        if (!err && (p[0].revents || r->pidfd < 0)) err = fsb_local_run_ended_(r);
    }
    fsb_local_run_drain_(r);
    if (r->stopping || err) kill(-r->pid, SIGKILL); /* who of the group is left */
    int status;
    while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR) {}
    return err ? err : r->why;
}

/* In and out of the list that cancel() looks at. -EINTR: it was there before us. */
static int fsb_local_run_enter_(fsb_local_run_ *r)
{
    pthread_mutex_lock(&r->l->runs_lock);
    const int early = r->op->layer[1] == (void *)r->l;
    r->op->layer[1] = NULL;
    if (!early) r->next = r->l->runs, r->l->runs = r;
    pthread_mutex_unlock(&r->l->runs_lock);
    return early ? -EINTR : 0;
}

static void fsb_local_run_leave_(fsb_local_run_ *r)
{
    pthread_mutex_lock(&r->l->runs_lock);
    fsb_local_run_ **at = &r->l->runs;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    pthread_mutex_unlock(&r->l->runs_lock);
}

/* Ends a command; other calls end soon anyway. */
static void fsb_local_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_local_ *l = (fsb_local_ *)(void *)b;
    if (op->code != FSB_OP_EXEC) return;
    pthread_mutex_lock(&l->runs_lock);
    const fsb_local_run_ *r = l->runs;
    while (r && r->op != op) r = r->next;
    const uint64_t one = 1;
    if (!r) op->layer[1] = l; /* not begun */
    else if (write(r->wake, &one, sizeof one) < 0) {} /* it is awake, then */
    pthread_mutex_unlock(&l->runs_lock);
}

static int64_t fsb_local_exec_(fsb_local_ *l, fsb_op *op)
{
    fsb_local_run_ r;
    if (!l->allow_exec) return -EACCES;
    memset(&r, 0, sizeof r);
    r.l = l, r.op = op, r.pidfd = r.out[0].fd = r.out[1].fd = -1;
    r.deadline_ms = op->timeout_ms ? fsb_local_clock_ms_() + op->timeout_ms : INT64_MAX;
    op->exec->exit_code = op->exec->signal = 0, op->exec->cut[0] = op->exec->cut[1] = 0;
    r.wake = fsb_local_errno_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (r.wake < 0) return r.wake;
    r.room = (char *)fsb_backend_resize_(&l->allocator, NULL, 0, FSB_LOCAL_RUN_BYTES_);
    int err = r.room ? fsb_local_run_enter_(&r) : -ENOMEM;
    if (!err) {
        err = fsb_local_run_start_(&r);
        if (!err) err = fsb_local_run_wait_(&r);
        fsb_local_run_leave_(&r);
    }
    for (int i = 0; i < 2; ++i)
        if (r.out[i].fd >= 0) close(r.out[i].fd);
    if (r.pidfd >= 0) close(r.pidfd);
    close(r.wake);
    fsb_backend_free_(&l->allocator, r.room, FSB_LOCAL_RUN_BYTES_);
    return err;
}

/* ---- [local: open] --------------------------------------------------------------------------- */

static int64_t fsb_local_dispatch_(fsb_local_ *l, fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_STAT: return fsb_local_stat_(l, op);
    case FSB_OP_READLINK: return fsb_local_readlink_(l, op);
    case FSB_OP_LIST: return fsb_local_list_(l, op);
    case FSB_OP_OPEN: return fsb_local_open_op_(l, op);
    case FSB_OP_READ: return fsb_local_read_(l, op);
    case FSB_OP_WRITE: return fsb_local_write_(l, op);
    case FSB_OP_SYNC: return fsb_local_sync_(l, op);
    case FSB_OP_CLOSE: return fsb_local_close_op_(l, op);
    case FSB_OP_MKDIR: return fsb_local_create_(l, op);
    case FSB_OP_UNLINK: return fsb_local_remove_(l, op);
    case FSB_OP_RMDIR: return fsb_local_remove_(l, op);
    case FSB_OP_RENAME: return fsb_local_rename_(l, op);
    case FSB_OP_LINK: return fsb_local_link_(l, op);
    case FSB_OP_SYMLINK: return fsb_local_create_(l, op);
    case FSB_OP_MKNOD: return fsb_local_create_(l, op);
    case FSB_OP_SETATTR: return fsb_local_setattr_(l, op);
    case FSB_OP_ALLOCATE: return fsb_local_allocate_(l, op);
    case FSB_OP_SEEK: return fsb_local_seek_(l, op);
    case FSB_OP_COPY: return fsb_local_copy_(l, op);
    case FSB_OP_STATFS: return fsb_local_statfs_(l, op);
    case FSB_OP_GETXATTR: return fsb_local_xattr_(l, op);
    case FSB_OP_SETXATTR: return fsb_local_xattr_(l, op);
    case FSB_OP_LISTXATTR: return fsb_local_xattr_(l, op);
    case FSB_OP_REMOVEXATTR: return fsb_local_xattr_(l, op);
    case FSB_OP_GET: return fsb_local_get_(l, op);
    case FSB_OP_PUT: return fsb_local_put_(l, op);
    case FSB_OP_WATCH: return fsb_local_watch_(l, op);
    case FSB_OP_EXEC: return fsb_local_exec_(l, op);
    case FSB_OP_DESCRIPTOR: return fsb_local_descriptor_(l, op);
    default: return -ENOSYS;
    }
}

static int64_t fsb_local_call_(fsb_backend *b, fsb_op *op)
{
    fsb_local_ *l = (fsb_local_ *)(void *)b;
    const int   err = fsb_backend_check_(op);
    if (err) op->result = err;
    else if (l->flags & FSB_LOCAL_READ_ONLY && fsb_backend_changes_(op)) op->result = -EROFS;
    else op->result = fsb_local_dispatch_(l, op);
    return op->result;
}

static int fsb_local_drop_(void *owner, fsb_backend_slot_ *slot)
{
    fsb_local_ *l = (fsb_local_ *)owner;
    if (slot->fd < 0) {
        fsb_backend_watch_close_(&l->watches, (fsb_backend_watch_ *)slot->object);
        fsb_local_folders_prune_(l);
        return 0;
    }
    return close(slot->fd) && errno != EINTR ? -errno : 0;
}

static void fsb_local_close_(fsb_backend *b)
{
    fsb_local_         *l = (fsb_local_ *)(void *)b;
    const fsb_allocator a = l->allocator;
    fsb_local_watch_stop_(l);
    fsb_backend_handles_close_(&l->handles);
    fsb_backend_watches_destroy_(&l->watches);
    pthread_mutex_destroy(&l->folders_lock);
    pthread_mutex_destroy(&l->runs_lock);
    for (int i = 0; i < FSB_LOCAL_STRIPES_; ++i) pthread_mutex_destroy(&l->position[i]);
    close(l->root);
    fsb_backend_free_(&a, l, sizeof *l);
}

/* Every call of the table is one function, which goes by op->code. */
static void fsb_backend_fill_(fsb_backend *b, const char *name, void (*close_fn)(fsb_backend *),
                              int64_t (*call)(fsb_backend *, fsb_op *))
{
    b->size = (uint32_t)sizeof *b, b->flags = FSB_BACKEND_QUICK, b->name = name;
    b->close = close_fn;
    for (int i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) b->call[i] = call;
    b->call[FSB_OP_LOCK] = NULL; /* the server's */
}

FSB_API int fsb_local_open(fsb_backend **out, const fsb_local_desc *desc)
{
    if (!out || !desc || !desc->root) return -EINVAL;
    if (desc->flags & ~(uint32_t)FSB_LOCAL_READ_ONLY || desc->allow_exec > 1) return -EINVAL;
    fsb_local_ *l = (fsb_local_ *)fsb_backend_new_(&desc->allocator, sizeof *l);
    if (!l) return -ENOMEM;
    l->allocator = desc->allocator, l->log = desc->log, l->flags = desc->flags;
    l->allow_exec = desc->allow_exec, l->env = desc->exec_env;
    l->root = fsb_local_errno_(open(desc->root, O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat st;
    int         err = l->root < 0 ? l->root : fsb_local_errno_(fstat(l->root, &st));
    if (!err) err = fsb_local_errno_(faccessat(l->root, ".", R_OK | X_OK, AT_EACCESS));
    if (!err)
        err = fsb_backend_handles_open_(&l->handles, &l->allocator, desc->max_handles,
                                        fsb_local_drop_, l);
    if (err) {
        if (l->root >= 0) close(l->root);
        fsb_backend_free_(&desc->allocator, l, sizeof *l);
        return err;
    }
    l->root_dev = (uint64_t)major(st.st_dev) << 32 | minor(st.st_dev);
    for (int i = 0; i < FSB_LOCAL_STRIPES_; ++i) pthread_mutex_init(&l->position[i], NULL);
    pthread_mutex_init(&l->folders_lock, NULL);
    pthread_mutex_init(&l->runs_lock, NULL);
    fsb_backend_watches_init_(&l->watches, &l->allocator);
    fsb_backend_fill_(&l->base, "local", fsb_local_close_, fsb_local_call_);
    l->base.cancel = fsb_local_cancel_;
    *out = &l->base;
    return 0;
}

/* ---- [memory backend: files] ----------------------------------------------------------------- */

/* A file's bytes are pages of 64 KiB in a sorted array; a page that is not there reads as zeros. A
   page has room for what was written of it only, so that small files are small.
   Bytes of a page behind the end of the file are zero. */
enum { FSB_MEMORY_PAGE_ = 64 << 10, FSB_MEMORY_XATTR_MAX_ = 64 << 10, FSB_MEMORY_BATCH_ = 32 };

typedef struct fsb_memory_node_ fsb_memory_node_;

typedef struct fsb_memory_page_ {
    uint64_t index;
    char    *data;
    size_t   room; /* at most FSB_MEMORY_PAGE_ */
} fsb_memory_page_;

typedef struct fsb_memory_xattr_ {
    struct fsb_memory_xattr_ *next;
    size_t                    name_size, size; /* the name with its '\0' and the value follow */
} fsb_memory_xattr_;

/* A name in a folder. All of them are in one hash table, by folder and name. */
typedef struct fsb_memory_entry_ {
    struct fsb_memory_entry_ *next; /* in its bucket */
    struct fsb_memory_entry_ *same; /* another name of the node */
    fsb_memory_node_         *parent, *node;
    uint64_t                  hash, cookie;
    size_t                    name_size; /* the name with its '\0' follows */
} fsb_memory_entry_;

typedef struct fsb_memory_place_ { /* of a folder's list, sorted by cookie */
    uint64_t           cookie;
    fsb_memory_entry_ *entry; /* NULL: removed */
} fsb_memory_place_;

struct fsb_memory_node_ {
    fsb_stat           stat;
    uint64_t           users; /* handles and listings under way; atomic */
    fsb_memory_entry_ *names;
    fsb_memory_xattr_ *xattrs;
    char              *text; /* of a symbolic link, stat.size + 1 bytes */
    fsb_memory_page_  *pages;
    size_t             page_count, page_room;
    fsb_memory_place_ *places;
    size_t             place_count, place_room, live; /* live: names in the folder */
    uint64_t           last_cookie;
};

typedef struct fsb_memory_event_ { /* on its way to the watch thread; the path(s) follow */
    struct fsb_memory_event_ *next;
    uint32_t                  kind;
    size_t                    size, size2; /* of the paths with their '\0'; size2 0: none */
} fsb_memory_event_;

typedef struct fsb_memory_ {
    fsb_backend          base; /* first */
    fsb_allocator        allocator;
    fsb_logger           log;
    fsb_backend_handles_ handles;
    pthread_rwlock_t     lock; /* guards all below; never held around emit(), event() or done() */
    fsb_memory_node_    *root;
    fsb_memory_entry_  **buckets;
    size_t               bucket_count, entry_count; /* bucket_count: a power of two */
    uint64_t             node_count, last_ino, last_version, seed, bytes, max_bytes;
    fsb_backend_watches_ watches;
    pthread_mutex_t      queue_lock; /* after lock; guards all below */
    pthread_cond_t       queue_wake;
    fsb_memory_event_   *first, **last;
    size_t               queued;
    int                  lost, closing;
} fsb_memory_;

static int64_t fsb_memory_now_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* The node's content changed, or what is said about it only. */
static void fsb_memory_touch_(fsb_memory_ *m, fsb_memory_node_ *node, int content)
{
    node->stat.ctime_ns = fsb_memory_now_();
    if (content) node->stat.mtime_ns = node->stat.ctime_ns;
    node->stat.version = ++m->last_version;
}

/* The place of the first page not before `index`. */
static size_t fsb_memory_page_at_(const fsb_memory_node_ *node, uint64_t index)
{
    size_t low = 0, high = node->page_count;
    if (high && node->pages[high - 1].index < index) return high; /* behind the last: usual */
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (node->pages[middle].index < index) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void fsb_memory_page_free_(fsb_memory_ *m, fsb_memory_node_ *node, fsb_memory_page_ *page)
{
    fsb_backend_free_(&m->allocator, page->data, page->room);
    m->bytes -= page->room, node->stat.blocks -= page->room / 512;
}

static void fsb_memory_pages_drop_(fsb_memory_ *m, fsb_memory_node_ *node, size_t from, size_t to)
{
    if (from == to) return;
    for (size_t i = from; i < to; ++i) fsb_memory_page_free_(m, node, &node->pages[i]);
    memmove(node->pages + from, node->pages + to, (node->page_count - to) * sizeof *node->pages);
    node->page_count -= to - from;
}

/* Gives page number `index` room for its first `need` bytes. */
static int fsb_memory_page_grow_(fsb_memory_ *m, fsb_memory_node_ *node, uint64_t index,
                                 size_t need)
{
    const size_t at = fsb_memory_page_at_(node, index);
    const int    there = at < node->page_count && node->pages[at].index == index;
    const size_t had = there ? node->pages[at].room : 0;
    size_t       room = had ? had : 512;
    while (room < need) room *= 2;
    if (room == had) return 0;
    if (m->bytes + (room - had) > m->max_bytes) return -ENOSPC;
    if (!there && node->page_count == node->page_room) {
        const size_t more = node->page_room ? node->page_room * 2 : 1;
        void        *p = fsb_backend_resize_(&m->allocator, node->pages,
                                             node->page_room * sizeof *node->pages,
                                             more * sizeof *node->pages);
        if (!p) return -ENOMEM;
        node->pages = (fsb_memory_page_ *)p, node->page_room = more;
    }
    char *data = there ? node->pages[at].data : NULL;
    data = (char *)fsb_backend_resize_(&m->allocator, data, had, room);
    if (!data) return -ENOMEM;
    memset(data + had, 0, room - had);
    fsb_memory_page_ *page = &node->pages[at];
    if (!there) {
        memmove(page + 1, page, (node->page_count++ - at) * sizeof *page);
        page->index = index;
    }
    page->data = data, page->room = room;
    m->bytes += room - had, node->stat.blocks += (room - had) / 512;
    return 0;
}

/* Zeros [from, to); pages wholly inside go. */
static void fsb_memory_zero_(fsb_memory_ *m, fsb_memory_node_ *node, uint64_t from, uint64_t to)
{
    size_t first = fsb_memory_page_at_(node, from / FSB_MEMORY_PAGE_), last = first, gone = first;
    for (; last < node->page_count; ++last) {
        fsb_memory_page_ *page = &node->pages[last];
        const uint64_t    start = page->index * FSB_MEMORY_PAGE_;
        if (start >= to) break;
        const uint64_t a = from > start ? from - start : 0;
        const uint64_t b = to - start < page->room ? to - start : page->room;
        if (!a && to - start >= FSB_MEMORY_PAGE_) {
            gone = last + 1;
            continue; /* these are in a row */
        }
        if (a < b) memset(page->data + a, 0, (size_t)(b - a));
        if (a && first == last) first = gone = last + 1; /* the partial one before them stays */
    }
    if (gone > first) fsb_memory_pages_drop_(m, node, first, gone);
}

static void fsb_memory_resize_(fsb_memory_ *m, fsb_memory_node_ *node, uint64_t size)
{
    if (size < node->stat.size) {
        const size_t whole = fsb_memory_page_at_(node, (size + FSB_MEMORY_PAGE_ - 1)
                                                           / FSB_MEMORY_PAGE_);
        fsb_memory_pages_drop_(m, node, whole, node->page_count);
        fsb_memory_zero_(m, node, size, node->stat.size);
    }
    node->stat.size = size;
}

static void fsb_memory_load_(const fsb_memory_node_ *node, char *buf, size_t size, uint64_t offset)
{
    size_t at = fsb_memory_page_at_(node, offset / FSB_MEMORY_PAGE_);
    for (size_t done = 0; done < size;) {
        const uint64_t where = offset + done, index = where / FSB_MEMORY_PAGE_;
        const size_t   in = (size_t)(where % FSB_MEMORY_PAGE_), rest = FSB_MEMORY_PAGE_ - in;
        const size_t   n = size - done < rest ? size - done : rest;
        size_t         have = 0;
        if (at < node->page_count && node->pages[at].index == index) {
            const fsb_memory_page_ *page = &node->pages[at++];
            have = page->room > in ? page->room - in : 0;
            if (have > n) have = n;
            if (have) memcpy(buf + done, page->data + in, have);
        }
        memset(buf + done + have, 0, n - have);
        done += n;
    }
}

/* All or nothing. */
static int fsb_memory_store_(fsb_memory_ *m, fsb_memory_node_ *node, const char *data, size_t size,
                             uint64_t offset)
{
    int err = 0;
    for (size_t done = 0; done < size && !err;) {
        const size_t in = (size_t)((offset + done) % FSB_MEMORY_PAGE_);
        const size_t rest = FSB_MEMORY_PAGE_ - in, n = size - done < rest ? size - done : rest;
        err = fsb_memory_page_grow_(m, node, (offset + done) / FSB_MEMORY_PAGE_, in + n);
        done += n;
    }
    if (err) {
        const uint64_t end = (node->stat.size + FSB_MEMORY_PAGE_ - 1) / FSB_MEMORY_PAGE_;
        fsb_memory_pages_drop_(m, node, fsb_memory_page_at_(node, end), node->page_count);
        return err;
    }
    for (size_t done = 0; done < size;) {
        const size_t in = (size_t)((offset + done) % FSB_MEMORY_PAGE_);
        const size_t rest = FSB_MEMORY_PAGE_ - in, n = size - done < rest ? size - done : rest;
        const size_t at = fsb_memory_page_at_(node, (offset + done) / FSB_MEMORY_PAGE_);
        memcpy(node->pages[at].data + in, data + done, n);
        done += n;
    }
    if (offset + size > node->stat.size) node->stat.size = offset + size;
    fsb_memory_touch_(m, node, 1);
    return 0;
}

/* ---- [memory backend: names] ----------------------------------------------------------------- */

static char *fsb_memory_name_of_(const fsb_memory_entry_ *e)
{
    return (char *)(uintptr_t)(const void *)(e + 1);
}

/* FNV-1a, then mixed; the seed keeps others from choosing collisions. */
static uint64_t fsb_memory_hash_(const fsb_memory_ *m, const fsb_memory_node_ *folder,
                                 const char *name, size_t size)
{
    uint64_t h = m->seed ^ folder->stat.file_id;
    for (size_t i = 0; i < size; ++i) h = (h ^ (unsigned char)name[i]) * UINT64_C(0x100000001b3);
    return fsb_backend_mix_(h);
}

static fsb_memory_entry_ *fsb_memory_lookup_(const fsb_memory_ *m, const fsb_memory_node_ *folder,
                                             const char *name, size_t size)
{
    const uint64_t     hash = fsb_memory_hash_(m, folder, name, size);
    fsb_memory_entry_ *e = m->buckets[hash & (m->bucket_count - 1)];
    for (; e; e = e->next)
        if (e->hash == hash && e->parent == folder && e->name_size == size
            && !memcmp(fsb_memory_name_of_(e), name, size)) break;
    return e;
}

static int fsb_memory_rehash_(fsb_memory_ *m)
{
    const size_t        count = m->bucket_count ? m->bucket_count * 2 : 64;
    fsb_memory_entry_ **fresh = (fsb_memory_entry_ **)fsb_backend_new_(&m->allocator,
                                                                       count * sizeof *fresh);
    if (!fresh) return -ENOMEM;
    for (size_t i = 0; i < m->bucket_count; ++i) {
        for (fsb_memory_entry_ *e = m->buckets[i], *next; e; e = next) {
            fsb_memory_entry_ **at = &fresh[e->hash & (count - 1)];
            next = e->next, e->next = *at, *at = e;
        }
    }
    fsb_backend_free_(&m->allocator, m->buckets, m->bucket_count * sizeof *fresh);
    m->buckets = fresh, m->bucket_count = count;
    return 0;
}

/* Makes sure the folder's list takes one more; removed places go once they are most of it. */
static int fsb_memory_places_(fsb_memory_ *m, fsb_memory_node_ *folder)
{
    if (folder->place_count < folder->place_room) return 0;
    if (folder->live < folder->place_count / 2) {
        size_t n = 0;
        for (size_t i = 0; i < folder->place_count; ++i)
            if (folder->places[i].entry) folder->places[n++] = folder->places[i];
        folder->place_count = n;
        return 0;
    }
    const size_t more = folder->place_room ? folder->place_room * 2 : 4;
    void        *p = fsb_backend_resize_(&m->allocator, folder->places,
                                         folder->place_room * sizeof *folder->places,
                                         more * sizeof *folder->places);
    if (!p) return -ENOMEM;
    folder->places = (fsb_memory_place_ *)p, folder->place_room = more;
    return 0;
}

/* The place of the first name behind `cookie`. */
static size_t fsb_memory_place_after_(const fsb_memory_node_ *folder, uint64_t cookie)
{
    size_t low = 0, high = folder->place_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (folder->places[middle].cookie <= cookie) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int fsb_memory_is_dir_(const fsb_memory_node_ *node) { return S_ISDIR(node->stat.mode); }

static void fsb_memory_folder_changed_(fsb_memory_ *m, fsb_memory_node_ *folder, int subfolders)
{
    folder->stat.nlink += (uint32_t)subfolders;
    folder->stat.size = folder->live * 32;
    fsb_memory_touch_(m, folder, 1);
}

/* Gives the node a name. On failure nothing has changed. */
static int fsb_memory_add_(fsb_memory_ *m, fsb_memory_node_ *folder, const char *name, size_t size,
                           fsb_memory_node_ *node)
{
    if (m->entry_count >= m->bucket_count && fsb_memory_rehash_(m)) return -ENOMEM;
    if (fsb_memory_places_(m, folder)) return -ENOMEM;
    fsb_memory_entry_ *e =
        (fsb_memory_entry_ *)fsb_backend_new_(&m->allocator, sizeof *e + size + 1);
    if (!e) return -ENOMEM;
    memcpy(e + 1, name, size);
    e->name_size = size, e->parent = folder, e->node = node;
    e->hash = fsb_memory_hash_(m, folder, name, size), e->cookie = ++folder->last_cookie;
    fsb_memory_entry_ **bucket = &m->buckets[e->hash & (m->bucket_count - 1)];
    e->next = *bucket, *bucket = e, ++m->entry_count;
    e->same = node->names, node->names = e;
    fsb_memory_place_ *place = &folder->places[folder->place_count++];
    place->cookie = e->cookie, place->entry = e;
    ++folder->live;
    fsb_memory_folder_changed_(m, folder, fsb_memory_is_dir_(node));
    return 0;
}

/* Takes a name away; the node stays. */
static void fsb_memory_remove_(fsb_memory_ *m, fsb_memory_entry_ *e)
{
    fsb_memory_entry_ **at = &m->buckets[e->hash & (m->bucket_count - 1)];
    while (*at != e) at = &(*at)->next;
    *at = e->next, --m->entry_count;
    for (at = &e->node->names; *at != e;) at = &(*at)->same;
    *at = e->same;
    fsb_memory_node_ *folder = e->parent;
    folder->places[fsb_memory_place_after_(folder, e->cookie) - 1].entry = NULL;
    --folder->live;
    fsb_memory_folder_changed_(m, folder, -fsb_memory_is_dir_(e->node));
    fsb_backend_free_(&m->allocator, e, sizeof *e + e->name_size + 1);
}

static fsb_memory_node_ *fsb_memory_node_new_(fsb_memory_ *m, uint32_t mode)
{
    fsb_memory_node_ *node = (fsb_memory_node_ *)fsb_backend_new_(&m->allocator, sizeof *node);
    if (!node) return NULL;
    node->stat.ino = ++m->last_ino;
    node->stat.file_id = fsb_backend_mix_(node->stat.ino);
    node->stat.mode = mode, node->stat.nlink = S_ISDIR(mode) ? 2 : 1;
    node->stat.uid = (uint32_t)geteuid(), node->stat.gid = (uint32_t)getegid();
    node->stat.blksize = 4096;
    fsb_memory_touch_(m, node, 1);
    node->stat.atime_ns = node->stat.btime_ns = node->stat.mtime_ns;
    ++m->node_count;
    return node;
}

/* Frees the node if nothing leads to it any more. */
static void fsb_memory_node_put_(fsb_memory_ *m, fsb_memory_node_ *node)
{
    if (node->stat.nlink || __atomic_load_n(&node->users, __ATOMIC_RELAXED)) return;
    fsb_memory_pages_drop_(m, node, 0, node->page_count);
    fsb_backend_free_(&m->allocator, node->pages, node->page_room * sizeof *node->pages);
    fsb_backend_free_(&m->allocator, node->places, node->place_room * sizeof *node->places);
    if (node->text) fsb_backend_free_(&m->allocator, node->text, (size_t)node->stat.size + 1);
    for (fsb_memory_xattr_ *x = node->xattrs, *next; x; x = next) {
        next = x->next;
        fsb_backend_free_(&m->allocator, x, sizeof *x + x->name_size + 1 + x->size);
    }
    fsb_backend_free_(&m->allocator, node, sizeof *node);
    --m->node_count;
}

/* The node lost a name, already removed. */
static void fsb_memory_node_unlink_(fsb_memory_ *m, fsb_memory_node_ *node)
{
    if (fsb_memory_is_dir_(node)) node->stat.nlink = 0;
    else --node->stat.nlink;
    fsb_memory_touch_(m, node, 0);
    fsb_memory_node_put_(m, node);
}

/* ---- [memory backend: paths] ----------------------------------------------------------------- */

typedef struct fsb_memory_where_ {
    fsb_memory_node_  *parent; /* NULL: the root itself */
    const char        *name;
    size_t             name_size;
    fsb_memory_entry_ *entry; /* NULL: no such name */
    fsb_memory_node_  *node;  /* NULL: no such name */
    char               text[2 * (FSB_PATH_MAX + 1)]; /* what is left after a symbolic link */
} fsb_memory_where_;

/* Puts a link's text before what is left of the path behind it. */
static int fsb_memory_follow_(fsb_memory_where_ *w, const fsb_memory_node_ *link, const char *tail)
{
    const size_t head = (size_t)link->stat.size, left = strlen(tail);
    if (link->text[0] == '/') return -EACCES;
    if (head + 1 + left > FSB_PATH_MAX) return -ENAMETOOLONG;
    memmove(w->text + head + 1, tail, left + 1);
    memcpy(w->text, link->text, head);
    w->text[head] = '/';
    return 0;
}

/* One step down, or up. */
static int fsb_memory_step_(const fsb_memory_ *m, fsb_memory_node_ **node, const char *name,
                            size_t size)
{
    if (!fsb_memory_is_dir_(*node)) return -ENOTDIR;
    if (size == 1 && name[0] == '.') return 0;
    if (size == 2 && name[0] == '.' && name[1] == '.') {
        if (*node == m->root) return -EACCES;
        *node = (*node)->names->parent;
        return 0;
    }
    if (size > FSB_NAME_MAX) return -ENAMETOOLONG;
    const fsb_memory_entry_ *e = fsb_memory_lookup_(m, *node, name, size);
    if (!e) return -ENOENT;
    *node = e->node;
    return 0;
}

/* Resolves all but the last component, and looks that one up. 0 even if there is no such name. */
static int fsb_memory_find_(const fsb_memory_ *m, const char *path, fsb_memory_where_ *w)
{
    fsb_memory_node_ *node = m->root, *from;
    const char       *rest = path + 1;
    int               links = 0;
    w->parent = NULL, w->name = rest, w->name_size = 0, w->entry = NULL, w->node = node;
    while (*rest) {
        const size_t size = strcspn(rest, "/");
        if (!rest[size]) break;
        from = node;
        int err = size ? fsb_memory_step_(m, &node, rest, size) : 0;
        if (!err && S_ISLNK(node->stat.mode)) {
            err = ++links > 40 ? -ELOOP : fsb_memory_follow_(w, node, rest + size + 1);
            node = from, rest = w->text;
        } else {
            rest += size + 1;
        }
        if (err) return err;
    }
    if (!path[1]) return 0;
    if (!fsb_memory_is_dir_(node)) return -ENOTDIR;
    w->parent = node, w->name = rest, w->name_size = strlen(rest);
    w->entry = fsb_memory_lookup_(m, node, rest, w->name_size);
    w->node = w->entry ? w->entry->node : NULL;
    return 0;
}

/* A call under way: the handles it named are pinned. */
typedef struct fsb_memory_run_ {
    fsb_memory_       *m;
    fsb_op            *op;
    fsb_backend_slot_ *slot, *slot2;
} fsb_memory_run_;

/* The node an "at" op, or a path, means. */
static int fsb_memory_at_(const fsb_memory_run_ *r, fsb_memory_node_ **node)
{
    fsb_memory_where_ w;
    if (r->slot) {
        *node = (fsb_memory_node_ *)r->slot->object;
        return 0;
    }
    const int err = fsb_memory_find_(r->m, r->op->path, &w);
    if (err) return err;
    if (!w.node) return -ENOENT;
    if (r->op->file_id && r->op->file_id != w.node->stat.file_id) return -ESTALE;
    *node = w.node;
    return 0;
}

/* ---- [memory backend: watch] ----------------------------------------------------------------- */

enum { FSB_MEMORY_QUEUE_ = 16384 };

/* The path of a name into the end of `out`; NULL if it is too long for one. */
static char *fsb_memory_path_of_(const fsb_memory_ *m, const fsb_memory_entry_ *e, char *out)
{
    size_t at = FSB_PATH_MAX;
    out[at] = '\0';
    for (;;) {
        if (at < e->name_size + 1) return NULL;
        at -= e->name_size;
        memcpy(out + at, fsb_memory_name_of_(e), e->name_size);
        out[--at] = '/';
        if (e->parent == m->root) return out + at;
        if (!e->parent->names) return NULL; /* a folder that was removed */
        e = e->parent->names;
    }
}

/* Queues an event for the thread; past the bound all are lost. Tree locked. */
static void fsb_memory_queue_(fsb_memory_ *m, uint32_t kind, const char *path, const char *path2)
{
    const size_t size = path ? strlen(path) + 1 : 0, size2 = path2 ? strlen(path2) + 1 : 0;
    fsb_memory_event_ *e = NULL;
    pthread_mutex_lock(&m->queue_lock);
    if (path && m->queued < FSB_MEMORY_QUEUE_)
        e = (fsb_memory_event_ *)fsb_backend_new_(&m->allocator, sizeof *e + size + size2);
    if (e) {
        char *text = (char *)(e + 1);
        memcpy(text, path, size);
        if (size2) memcpy(text + size, path2, size2);
        e->kind = kind, e->size = size, e->size2 = size2;
        *m->last = e, m->last = &e->next, ++m->queued;
    } else {
        m->lost = 1;
    }
    pthread_cond_signal(&m->queue_wake);
    pthread_mutex_unlock(&m->queue_lock);
}

static int fsb_memory_watched_(const fsb_memory_ *m)
{
    return __atomic_load_n(&m->watches.count, __ATOMIC_RELAXED) != 0;
}

/* Something happened to one name. */
static void fsb_memory_tell_name_(fsb_memory_ *m, uint32_t kind, const fsb_memory_entry_ *e)
{
    char path[FSB_PATH_MAX + 1];
    if (fsb_memory_watched_(m)) fsb_memory_queue_(m, kind, fsb_memory_path_of_(m, e, path), NULL);
}

/* Something happened to a node, whatever its names. */
static void fsb_memory_tell_(fsb_memory_ *m, uint32_t kind, const fsb_memory_node_ *node)
{
    if (!fsb_memory_watched_(m)) return;
    if (node == m->root) fsb_memory_queue_(m, kind, "/", NULL);
    for (const fsb_memory_entry_ *e = node->names; e; e = e->same)
        fsb_memory_tell_name_(m, kind, e);
}

static void fsb_memory_tell_moved_(fsb_memory_ *m, const fsb_memory_entry_ *from,
                                   const fsb_memory_entry_ *to)
{
    char        one[FSB_PATH_MAX + 1], two[FSB_PATH_MAX + 1];
    if (!fsb_memory_watched_(m)) return;
    const char *a = fsb_memory_path_of_(m, from, one), *b = fsb_memory_path_of_(m, to, two);
    fsb_memory_queue_(m, FSB_EVENT_RENAMED, a && b ? a : NULL, b);
}

static void fsb_memory_tell_now_(fsb_memory_ *m, uint32_t kind, const char *path,
                                 const char *path2)
{
    fsb_event         event;
    fsb_memory_where_ w;
    fsb_stat          st;
    event.kind = kind, event.path = path, event.path2 = path2, event.stat = NULL;
    if (kind != FSB_EVENT_REMOVED && kind != FSB_EVENT_LOST) {
        pthread_rwlock_rdlock(&m->lock);
        if (!fsb_memory_find_(m, path2 ? path2 : path, &w) && w.node)
            st = w.node->stat, event.stat = &st;
        pthread_rwlock_unlock(&m->lock);
    }
    fsb_backend_watches_tell_(&m->watches, &event, 0);
}

static void *fsb_memory_watch_main_(void *arg)
{
    fsb_memory_ *m = (fsb_memory_ *)arg;
    pthread_mutex_lock(&m->queue_lock);
    for (;;) {
        while (!m->first && !m->lost && !m->closing)
            pthread_cond_wait(&m->queue_wake, &m->queue_lock);
        if (m->closing) break;
        fsb_memory_event_ *e = m->first;
        const int          lost = !e && m->lost;
        if (e) {
            m->first = e->next, --m->queued;
            if (!m->first) m->last = &m->first;
        } else {
            m->lost = 0;
        }
        pthread_mutex_unlock(&m->queue_lock);
        if (lost) fsb_memory_tell_now_(m, FSB_EVENT_LOST, "/", NULL);
        if (e) {
            const char *path = (const char *)(const void *)(e + 1);
            fsb_memory_tell_now_(m, e->kind, path, e->size2 ? path + e->size : NULL);
            fsb_backend_free_(&m->allocator, e, sizeof *e + e->size + e->size2);
        }
        pthread_mutex_lock(&m->queue_lock);
    }
    pthread_mutex_unlock(&m->queue_lock);
    return NULL;
}

static int64_t fsb_memory_watch_(fsb_memory_run_ *r)
{
    fsb_memory_      *m = r->m;
    fsb_memory_node_ *node;
    pthread_rwlock_wrlock(&m->lock);
    int err = fsb_memory_at_(r, &node);
    if (!err && !m->watches.started) {
        err = fsb_backend_thread_(&m->watches.thread, 256 << 10, fsb_memory_watch_main_, m);
        m->watches.started = !err;
    }
    pthread_rwlock_unlock(&m->lock);
    if (err) return err;
    fsb_backend_watch_ *w = fsb_backend_watch_new_(&m->watches, r->op);
    if (!w) return -ENOMEM;
    fsb_backend_slot_ *slot;
    err = fsb_backend_slot_reserve_(&m->handles, &slot);
    if (err) {
        fsb_backend_watch_close_(&m->watches, w);
        return err;
    }
    r->op->handle = fsb_backend_slot_open_(slot, -1, 0, w), r->op->out_offset = 0;
    return 0;
}

static void fsb_memory_watch_stop_(fsb_memory_ *m)
{
    if (m->watches.started) {
        pthread_mutex_lock(&m->queue_lock);
        m->closing = 1;
        pthread_cond_signal(&m->queue_wake);
        pthread_mutex_unlock(&m->queue_lock);
        pthread_join(m->watches.thread, NULL);
    }
    for (fsb_memory_event_ *e = m->first, *next; e; e = next) {
        next = e->next;
        fsb_backend_free_(&m->allocator, e, sizeof *e + e->size + e->size2);
    }
}

/* ---- [memory backend: calls] ----------------------------------------------------------------- */

static int64_t fsb_memory_stat_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    const int         err = fsb_memory_at_(r, &node);
    if (!err) r->op->stat = node->stat;
    return err;
}

static int64_t fsb_memory_readlink_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    const int         err = fsb_memory_at_(r, &node);
    if (err) return err;
    if (!S_ISLNK(node->stat.mode) || !r->op->size) return -EINVAL;
    void *room = fsb_backend_room_(&r->m->allocator, r->op);
    if (!room) return -ENOMEM;
    const size_t n = node->stat.size < r->op->size ? (size_t)node->stat.size : r->op->size;
    memcpy(room, node->text, n);
    return fsb_backend_answer_(r->op, room, (int64_t)n);
}

/* The bytes that op asks for, into its room. */
static int64_t fsb_memory_load_op_(fsb_op *op, void *room, const fsb_memory_node_ *node,
                                   uint64_t offset)
{
    const uint64_t size = node->stat.size, left = offset < size ? size - offset : 0;
    const size_t   n = left < op->size ? (size_t)left : op->size;
    fsb_memory_load_(node, (char *)room, n, offset);
    return fsb_backend_answer_(op, room, (int64_t)n);
}

/* A node with the name w, as the op's attr wants it. */
static int fsb_memory_create_at_(fsb_memory_ *m, const fsb_op *op, const fsb_memory_where_ *w,
                                 uint32_t mode, fsb_memory_node_ **made)
{
    fsb_memory_node_ *node = fsb_memory_node_new_(m, mode);
    if (!node) return -ENOMEM;
    if (op->attr.mask & FSB_ATTR_UID) node->stat.uid = op->attr.uid;
    if (op->attr.mask & FSB_ATTR_GID) node->stat.gid = op->attr.gid;
    if (w->parent->stat.mode & S_ISGID) {
        node->stat.gid = w->parent->stat.gid;
        if (S_ISDIR(mode)) node->stat.mode |= S_ISGID;
    }
    int err = 0;
    if (op->code == FSB_OP_SYMLINK) {
        const size_t size = strlen(op->path2);
        node->text = (char *)fsb_backend_resize_(&m->allocator, NULL, 0, size + 1);
        if (node->text) memcpy(node->text, op->path2, size + 1), node->stat.size = size;
        else err = -ENOMEM;
    }
    if (!err) err = fsb_memory_add_(m, w->parent, w->name, w->name_size, node);
    if (err) {
        node->stat.nlink = 0;
        fsb_memory_node_put_(m, node);
    } else {
        *made = node;
        fsb_memory_tell_(m, FSB_EVENT_CREATED, node);
    }
    return err;
}

static int64_t fsb_memory_create_(fsb_memory_run_ *r) /* MKDIR, SYMLINK, MKNOD */
{
    fsb_memory_where_ w;
    fsb_memory_node_ *node;
    const fsb_op     *op = r->op;
    uint32_t          mode;
    int               err = fsb_memory_find_(r->m, op->path, &w);
    if (err) return err;
    if (w.node) return -EEXIST;
    if (op->code == FSB_OP_MKDIR) mode = S_IFDIR | fsb_backend_new_mode_(op, 0755);
    else if (op->code == FSB_OP_SYMLINK) mode = S_IFLNK | 0777;
    else {
        const uint32_t type = op->attr.mask & FSB_ATTR_MODE ? op->attr.mode & S_IFMT : S_IFREG;
        mode = (type ? type : S_IFREG) | fsb_backend_new_mode_(op, 0644);
        if (S_ISDIR(mode)) return -EPERM;
        if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode) && !S_ISCHR(mode)
            && !S_ISBLK(mode)) return -EINVAL;
    }
    err = fsb_memory_create_at_(r->m, op, &w, mode, &node);
    if (err) return err;
    if (S_ISCHR(mode) || S_ISBLK(mode))
        node->stat.rdev_major = op->attr.rdev_major, node->stat.rdev_minor = op->attr.rdev_minor;
    r->op->stat = node->stat;
    return 0;
}

static int fsb_memory_open_node_(fsb_memory_run_ *r, fsb_memory_node_ **node)
{
    fsb_memory_where_ w;
    const fsb_op     *op = r->op;
    int               err = fsb_memory_find_(r->m, op->path, &w);
    if (err) return err;
    if (op->flags & FSB_O_CREATE && op->file_id) return -EINVAL;
    if (!w.node) {
        if (!(op->flags & FSB_O_CREATE)) return -ENOENT;
        return fsb_memory_create_at_(r->m, op, &w, S_IFREG | fsb_backend_new_mode_(op, 0644), node);
    }
    if (op->flags & FSB_O_EXCL) return -EEXIST;
    if (op->file_id && op->file_id != w.node->stat.file_id) return -ESTALE;
    if (fsb_memory_is_dir_(w.node)) return -EISDIR;
    if (S_ISLNK(w.node->stat.mode)) return -ELOOP;
    if (!S_ISREG(w.node->stat.mode)) return -ENXIO;
    *node = w.node;
    if (op->flags & FSB_O_TRUNC) {
        fsb_memory_resize_(r->m, w.node, 0);
        fsb_memory_touch_(r->m, w.node, 1);
        fsb_memory_tell_(r->m, FSB_EVENT_CONTENT, w.node);
    }
    return 0;
}

static int64_t fsb_memory_open_op_(fsb_memory_run_ *r)
{
    fsb_op            *op = r->op;
    const int          reads = op->flags & FSB_O_READ && op->size;
    fsb_memory_node_  *node;
    fsb_backend_slot_ *slot;
    void              *room = NULL;
    int                err = fsb_backend_slot_reserve_(&r->m->handles, &slot);
    if (err) return err;
    if (reads && !(room = fsb_backend_room_(&r->m->allocator, op))) err = -ENOMEM;
    if (!err) err = fsb_memory_open_node_(r, &node);
    if (err) {
        fsb_backend_slot_return_(&r->m->handles, slot);
        return fsb_backend_answer_(op, room, err);
    }
    __atomic_add_fetch(&node->users, 1, __ATOMIC_RELAXED);
    op->handle = fsb_backend_slot_open_(slot, -1, op->flags, node), op->stat = node->stat;
    return reads ? fsb_memory_load_op_(op, room, node, 0) : 0;
}

static int64_t fsb_memory_read_(fsb_memory_run_ *r)
{
    fsb_op *op = r->op;
    if (!(r->slot->flags & FSB_O_READ)) return -EBADF;
    if (!op->size) return 0;
    void *room = fsb_backend_room_(&r->m->allocator, op);
    if (!room) return -ENOMEM;
    const fsb_memory_node_ *node = (const fsb_memory_node_ *)r->slot->object;
    return fsb_memory_load_op_(op, room, node, op->offset);
}

static int64_t fsb_memory_write_(fsb_memory_run_ *r)
{
    fsb_op           *op = r->op;
    fsb_memory_node_ *node = (fsb_memory_node_ *)r->slot->object;
    if (!(r->slot->flags & FSB_O_WRITE)) return -EBADF;
    const uint64_t at = op->flags & FSB_WRITE_APPEND ? node->stat.size : op->offset;
    if (op->size > (uint64_t)INT64_MAX - at) return -EFBIG;
    const int err = op->size ? fsb_memory_store_(r->m, node, (const char *)op->data, op->size, at)
                             : 0;
    if (err) return err;
    if (op->flags & FSB_WRITE_KILL_PRIV) node->stat.mode = fsb_backend_killed_(node->stat.mode);
    fsb_memory_tell_(r->m, FSB_EVENT_CONTENT, node);
    op->stat = node->stat, op->out_offset = at;
    return (int64_t)op->size;
}

static int64_t fsb_memory_sync_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    const int         err = fsb_memory_at_(r, &node);
    if (err) return err;
    return S_ISREG(node->stat.mode) || fsb_memory_is_dir_(node) ? 0 : -EINVAL;
}

static int64_t fsb_memory_remove_op_(fsb_memory_run_ *r) /* UNLINK, RMDIR */
{
    fsb_memory_where_ w;
    const int         rmdir_ = r->op->code == FSB_OP_RMDIR;
    const int         err = fsb_memory_find_(r->m, r->op->path, &w);
    if (err) return err;
    if (!w.node) return -ENOENT;
    if (fsb_memory_is_dir_(w.node) != rmdir_) return rmdir_ ? -ENOTDIR : -EISDIR;
    if (w.node->live) return -ENOTEMPTY;
    fsb_memory_tell_name_(r->m, FSB_EVENT_REMOVED, w.entry);
    fsb_memory_remove_(r->m, w.entry);
    fsb_memory_tell_(r->m, FSB_EVENT_ATTR, w.node); /* by its other names */
    fsb_memory_node_unlink_(r->m, w.node);
    return 0;
}

/* 1 if node is `folder` or somewhere below it. */
static int fsb_memory_inside_(const fsb_memory_ *m, const fsb_memory_node_ *folder,
                              const fsb_memory_node_ *node)
{
    while (node != folder && node != m->root) node = node->names->parent;
    return node == folder;
}

/* What renameat(2) says about the two names, in the kernel's order. */
static int fsb_memory_rename_check_(const fsb_memory_ *m, uint32_t flags,
                                    const fsb_memory_where_ *from, const fsb_memory_where_ *to)
{
    const int exchange = (flags & FSB_RENAME_EXCHANGE) != 0;
    if (!from->node) return -ENOENT;
    if (to->node && flags & FSB_RENAME_NOREPLACE) return -EEXIST;
    if (!to->node && exchange) return -ENOENT;
    if (fsb_memory_inside_(m, from->node, to->parent)) return -EINVAL;
    if (!to->node) return 0;
    if (fsb_memory_inside_(m, to->node, from->parent)) return exchange ? -EINVAL : -ENOTEMPTY;
    if (exchange) return 0;
    if (fsb_memory_is_dir_(from->node) && !fsb_memory_is_dir_(to->node)) return -ENOTDIR;
    if (!fsb_memory_is_dir_(from->node) && fsb_memory_is_dir_(to->node)) return -EISDIR;
    return to->node->live && to->node != from->node ? -ENOTEMPTY : 0;
}

/* Takes entry e out of its node's names, or gives it to another. */
static void fsb_memory_point_(fsb_memory_entry_ *e, fsb_memory_node_ *node)
{
    fsb_memory_entry_ **at = &e->node->names;
    while (*at != e) at = &(*at)->same;
    *at = e->same;
    e->node = node, e->same = node->names, node->names = e;
}

static void fsb_memory_exchange_(fsb_memory_ *m, fsb_memory_where_ *from, fsb_memory_where_ *to)
{
    const int one = fsb_memory_is_dir_(from->node), two = fsb_memory_is_dir_(to->node);
    fsb_memory_point_(from->entry, to->node);
    fsb_memory_point_(to->entry, from->node);
    fsb_memory_folder_changed_(m, from->parent, two - one);
    fsb_memory_folder_changed_(m, to->parent, one - two);
    fsb_memory_touch_(m, from->node, 0);
    fsb_memory_touch_(m, to->node, 0);
}

static int64_t fsb_memory_rename_(fsb_memory_run_ *r)
{
    fsb_memory_where_ from, to;
    int               err = fsb_memory_find_(r->m, r->op->path, &from);
    if (!err) err = fsb_memory_find_(r->m, r->op->path2, &to);
    if (!err) err = fsb_memory_rename_check_(r->m, r->op->flags, &from, &to);
    if (err || from.node == to.node) return err;
    if (r->op->flags & FSB_RENAME_EXCHANGE) {
        fsb_memory_exchange_(r->m, &from, &to);
        fsb_memory_tell_moved_(r->m, from.entry, to.entry);
        fsb_memory_tell_moved_(r->m, to.entry, from.entry);
        return 0;
    }
    err = fsb_memory_add_(r->m, to.parent, to.name, to.name_size, from.node);
    if (err) return err;
    fsb_memory_tell_moved_(r->m, from.entry, from.node->names);
    fsb_memory_remove_(r->m, from.entry);
    if (to.entry) {
        fsb_memory_remove_(r->m, to.entry);
        fsb_memory_tell_(r->m, FSB_EVENT_ATTR, to.node);
        fsb_memory_node_unlink_(r->m, to.node);
    }
    fsb_memory_touch_(r->m, from.node, 0);
    return 0;
}

static int64_t fsb_memory_link_(fsb_memory_run_ *r)
{
    fsb_memory_where_ to;
    fsb_memory_node_ *node;
    int               err = fsb_memory_at_(r, &node);
    if (err) return err;
    if (fsb_memory_is_dir_(node)) return -EPERM;
    err = fsb_memory_find_(r->m, r->op->path2, &to);
    if (err) return err;
    if (to.node) return -EEXIST;
    if (!node->stat.nlink) return -ENOENT; /* its last name is gone */
    err = fsb_memory_add_(r->m, to.parent, to.name, to.name_size, node);
    if (err) return err;
    ++node->stat.nlink;
    fsb_memory_touch_(r->m, node, 0);
    fsb_memory_tell_name_(r->m, FSB_EVENT_CREATED, node->names);
    r->op->stat = node->stat;
    return 0;
}

static int fsb_memory_set_check_(const fsb_memory_run_ *r, const fsb_memory_node_ *node)
{
    const uint32_t mask = r->op->attr.mask;
    if (mask & FSB_ATTR_SIZE) {
        if (r->slot && !(r->slot->flags & FSB_O_WRITE)) return -EBADF;
        if (fsb_memory_is_dir_(node)) return -EISDIR;
        if (!S_ISREG(node->stat.mode)) return -EINVAL;
    }
    return mask & FSB_ATTR_MODE && S_ISLNK(node->stat.mode) ? -EOPNOTSUPP : 0;
}

static int64_t fsb_memory_setattr_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    const fsb_attr   *a = &r->op->attr;
    int               err = fsb_memory_at_(r, &node);
    if (!err) err = fsb_memory_set_check_(r, node);
    if (err) return err;
    fsb_stat *st = &node->stat;
    if (a->mask & FSB_ATTR_SIZE) fsb_memory_resize_(r->m, node, a->size);
    if (a->mask) fsb_memory_touch_(r->m, node, (a->mask & FSB_ATTR_SIZE) != 0);
    if (a->mask & FSB_ATTR_UID && a->uid != UINT32_MAX) st->uid = a->uid;
    if (a->mask & FSB_ATTR_GID && a->gid != UINT32_MAX) st->gid = a->gid;
    const uint32_t kill = FSB_ATTR_UID | FSB_ATTR_GID; /* chown(2) does so too */
    if (a->mask & kill && !fsb_memory_is_dir_(node)) st->mode = fsb_backend_killed_(st->mode);
    if (a->mask & FSB_ATTR_MODE) st->mode = (st->mode & S_IFMT) | (a->mode & 07777);
    if (a->mask & FSB_ATTR_KILL_PRIV && !fsb_memory_is_dir_(node))
        st->mode = fsb_backend_killed_(st->mode);
    if (a->mask & FSB_ATTR_ATIME) st->atime_ns = a->atime_ns;
    if (a->mask & FSB_ATTR_MTIME) st->mtime_ns = a->mtime_ns;
    if (a->mask & FSB_ATTR_ATIME_NOW) st->atime_ns = st->ctime_ns;
    if (a->mask & FSB_ATTR_MTIME_NOW) st->mtime_ns = st->ctime_ns;
    if (a->mask & FSB_ATTR_SIZE) fsb_memory_tell_(r->m, FSB_EVENT_CONTENT, node);
    else fsb_memory_tell_(r->m, FSB_EVENT_ATTR, node);
    r->op->stat = *st;
    return 0;
}

/* Reserves nothing: as on a sparse file elsewhere, what was not written is a hole. */
static int64_t fsb_memory_allocate_(fsb_memory_run_ *r)
{
    const fsb_op     *op = r->op;
    fsb_memory_node_ *node = (fsb_memory_node_ *)r->slot->object;
    const uint32_t    holes = FSB_ALLOC_PUNCH_HOLE | FSB_ALLOC_ZERO_RANGE;
    const uint64_t    end = op->offset + op->size64;
    if (!(r->slot->flags & FSB_O_WRITE)) return -EBADF;
    if (!(op->flags & holes) && op->size64 > r->m->max_bytes - r->m->bytes) return -ENOSPC;
    if (op->flags & holes) fsb_memory_zero_(r->m, node, op->offset, end);
    if (!(op->flags & (FSB_ALLOC_PUNCH_HOLE | FSB_ALLOC_KEEP_SIZE)) && end > node->stat.size)
        node->stat.size = end;
    fsb_memory_touch_(r->m, node, 1);
    fsb_memory_tell_(r->m, FSB_EVENT_CONTENT, node);
    r->op->stat = node->stat;
    return 0;
}

static int64_t fsb_memory_seek_(fsb_memory_run_ *r)
{
    const fsb_memory_node_ *node = (const fsb_memory_node_ *)r->slot->object;
    uint64_t                at = r->op->offset;
    const uint64_t          size = node->stat.size;
    if (at >= size) return -ENXIO;
    size_t i = fsb_memory_page_at_(node, at / FSB_MEMORY_PAGE_);
    if (r->op->flags == FSB_SEEK_DATA) {
        if (i == node->page_count) return -ENXIO;
        const uint64_t start = node->pages[i].index * FSB_MEMORY_PAGE_;
        if (start > at) at = start;
        if (at >= size) return -ENXIO;
    } else {
        for (; i < node->page_count && node->pages[i].index == at / FSB_MEMORY_PAGE_; ++i)
            at = (at / FSB_MEMORY_PAGE_ + 1) * FSB_MEMORY_PAGE_;
        if (at > size) at = size;
    }
    r->op->out_offset = at;
    return 0;
}

static int64_t fsb_memory_copy_(fsb_memory_run_ *r)
{
    const fsb_op     *op = r->op;
    fsb_memory_node_ *from = (fsb_memory_node_ *)r->slot->object;
    fsb_memory_node_ *to = (fsb_memory_node_ *)r->slot2->object;
    const uint64_t    apart = op->offset < op->offset2 ? op->offset2 - op->offset
                                                       : op->offset - op->offset2;
    if (!(r->slot->flags & FSB_O_READ) || !(r->slot2->flags & FSB_O_WRITE)) return -EBADF;
    if (op->offset > INT64_MAX - op->size64 || op->offset2 > INT64_MAX - op->size64) return -EFBIG;
    if (from == to && apart < op->size64) return -EINVAL;
    const uint64_t left = op->offset < from->stat.size ? from->stat.size - op->offset : 0;
    uint64_t       size = op->size64 < left ? op->size64 : left, done = 0;
    if (size > FSB_IO_MAX) size = FSB_IO_MAX;
    while (done < size) {
        char         part[8192];
        const size_t n = size - done < sizeof part ? (size_t)(size - done) : sizeof part;
        fsb_memory_load_(from, part, n, op->offset + done);
        const int err = fsb_memory_store_(r->m, to, part, n, op->offset2 + done);
        if (err) return done ? (int64_t)done : err;
        done += n;
    }
    if (done) fsb_memory_tell_(r->m, FSB_EVENT_CONTENT, to);
    return (int64_t)done;
}

static int64_t fsb_memory_statfs_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    const int         err = fsb_memory_at_(r, &node);
    if (err) return err;
    fsb_statfs    *s = &r->op->statfs;
    const uint64_t most = r->m->max_bytes < INT64_MAX ? r->m->max_bytes : INT64_MAX;
    memset(s, 0, sizeof *s);
    s->bsize = s->frsize = 4096, s->namelen = FSB_NAME_MAX;
    s->blocks = most / 4096, s->bfree = s->bavail = (most - r->m->bytes) / 4096;
    s->files = UINT32_MAX, s->ffree = UINT32_MAX - r->m->node_count;
    return 0;
}

/* ---- [memory backend: xattrs] ---------------------------------------------------------------- */

static char *fsb_memory_xattr_name_(fsb_memory_xattr_ *x) { return (char *)(x + 1); }

/* Linux's rules of names: which namespaces there are, and on what. */
static int fsb_memory_xattr_check_(const fsb_memory_node_ *node, const char *name, int write)
{
    const size_t size = strlen(name);
    if (!size || size > 255) return -ERANGE;
    if (!strncmp(name, "user.", 5)) {
        if (!name[5]) return -EINVAL;
        if (S_ISREG(node->stat.mode) || fsb_memory_is_dir_(node)) return 0;
        return write ? -EPERM : -ENODATA;
    }
    if (!strncmp(name, "trusted.", 8)) return name[8] ? 0 : -EINVAL;
    if (!strncmp(name, "security.", 9)) return name[9] ? 0 : -EINVAL;
    return -EOPNOTSUPP;
}

static fsb_memory_xattr_ **fsb_memory_xattr_at_(fsb_memory_node_ *node, const char *name)
{
    fsb_memory_xattr_ **at = &node->xattrs;
    while (*at && strcmp(fsb_memory_xattr_name_(*at), name)) at = &(*at)->next;
    return at;
}

static void fsb_memory_xattr_drop_(fsb_memory_ *m, fsb_memory_xattr_ **at)
{
    fsb_memory_xattr_ *x = *at;
    *at = x->next;
    fsb_backend_free_(&m->allocator, x, sizeof *x + x->name_size + 1 + x->size);
}

static int fsb_memory_xattr_set_(fsb_memory_ *m, fsb_memory_node_ *node, const fsb_op *op)
{
    fsb_memory_xattr_ **at = fsb_memory_xattr_at_(node, op->path2);
    if (op->size > FSB_MEMORY_XATTR_MAX_) return -E2BIG;
    if (*at && op->flags & FSB_XATTR_CREATE) return -EEXIST;
    if (!*at && op->flags & FSB_XATTR_REPLACE) return -ENODATA;
    const size_t       name_size = strlen(op->path2);
    fsb_memory_xattr_ *x = (fsb_memory_xattr_ *)fsb_backend_new_(
        &m->allocator, sizeof *x + name_size + 1 + op->size);
    if (!x) return -ENOMEM;
    x->name_size = name_size, x->size = op->size;
    memcpy(fsb_memory_xattr_name_(x), op->path2, name_size);
    if (op->size) memcpy(fsb_memory_xattr_name_(x) + name_size + 1, op->data, op->size);
    if (*at) fsb_memory_xattr_drop_(m, at);
    x->next = *at, *at = x;
    return 0;
}

static int64_t fsb_memory_xattr_list_(const fsb_memory_node_ *node, fsb_op *op)
{
    size_t total = 0;
    for (fsb_memory_xattr_ *x = node->xattrs; x; x = x->next) total += x->name_size + 1;
    if (!op->size) return (int64_t)total;
    if (total > op->size) return -ERANGE;
    char *at = (char *)op->buf;
    for (fsb_memory_xattr_ *x = node->xattrs; x; x = x->next) {
        memcpy(at, fsb_memory_xattr_name_(x), x->name_size + 1);
        at += x->name_size + 1;
    }
    return (int64_t)total;
}

static int64_t fsb_memory_xattr_op_(fsb_memory_run_ *r)
{
    fsb_memory_node_ *node;
    fsb_op           *op = r->op;
    const int         write = op->code == FSB_OP_SETXATTR || op->code == FSB_OP_REMOVEXATTR;
    int               err = fsb_memory_at_(r, &node);
    if (err) return err;
    if (op->code == FSB_OP_LISTXATTR) return fsb_memory_xattr_list_(node, op);
    err = fsb_memory_xattr_check_(node, op->path2, write);
    if (err) return err;
    fsb_memory_xattr_ **at = fsb_memory_xattr_at_(node, op->path2), *x = *at;
    if (op->code == FSB_OP_SETXATTR) err = fsb_memory_xattr_set_(r->m, node, op);
    else if (!x) err = -ENODATA;
    else if (op->code == FSB_OP_REMOVEXATTR) fsb_memory_xattr_drop_(r->m, at);
    else if (op->size && op->size < x->size) err = -ERANGE;
    if (err || write) {
        if (!err) {
            fsb_memory_touch_(r->m, node, 0);
            fsb_memory_tell_(r->m, FSB_EVENT_ATTR, node);
        }
        return err;
    }
    if (op->size && x->size)
        memcpy(op->buf, fsb_memory_xattr_name_(x) + x->name_size + 1, x->size);
    return (int64_t)x->size;
}

/* ---- [memory backend: list] ------------------------------------------------------------------ */

typedef struct fsb_memory_found_ {
    fsb_stat stat;
    uint64_t cookie;
    size_t   name_size;
    char     name[FSB_NAME_MAX + 1];
} fsb_memory_found_;

/* Takes up to a batch of names behind `cookie` out of the folder, so that emit() runs unlocked. */
static size_t fsb_memory_batch_(fsb_memory_ *m, fsb_memory_node_ *folder, uint64_t cookie,
                                fsb_memory_found_ *found)
{
    size_t n = 0;
    pthread_rwlock_rdlock(&m->lock);
    size_t i = fsb_memory_place_after_(folder, cookie);
    for (; i < folder->place_count && n < FSB_MEMORY_BATCH_; ++i) {
        const fsb_memory_entry_ *e = folder->places[i].entry;
        if (!e) continue;
        fsb_memory_found_ *f = &found[n++];
        f->stat = e->node->stat, f->cookie = e->cookie, f->name_size = e->name_size;
        memcpy(f->name, fsb_memory_name_of_(e), e->name_size + 1);
    }
    pthread_rwlock_unlock(&m->lock);
    return n;
}

/* All bytes of a small file, and its stat of the same moment. */
static const void *fsb_memory_small_(fsb_memory_ *m, fsb_backend_listing_ *ls,
                                     const fsb_memory_node_ *folder, fsb_memory_found_ *f)
{
    const void *data = NULL;
    if (!ls->room || !S_ISREG(f->stat.mode)) return NULL;
    pthread_rwlock_rdlock(&m->lock);
    const size_t             behind = fsb_memory_place_after_(folder, f->cookie);
    const fsb_memory_place_ *place = behind ? &folder->places[behind - 1] : NULL;
    if (place && place->cookie == f->cookie && place->entry
        && place->entry->node->stat.size <= FSB_BACKEND_SMALL_) {
        f->stat = place->entry->node->stat;
        fsb_memory_load_(place->entry->node, ls->room, (size_t)f->stat.size, 0);
        data = ls->room;
    }
    pthread_rwlock_unlock(&m->lock);
    return data;
}

static int fsb_memory_emit_(fsb_memory_ *m, fsb_backend_listing_ *ls,
                            const fsb_memory_node_ *folder, fsb_memory_found_ *f)
{
    fsb_dirent entry;
    memset(&entry, 0, sizeof entry);
    entry.data = fsb_memory_small_(m, ls, folder, f);
    entry.name = f->name, entry.name_size = f->name_size, entry.cookie = f->cookie;
    if (ls->op->flags & FSB_LIST_STAT) entry.stat = f->stat;
    else entry.stat.ino = f->stat.ino, entry.stat.mode = f->stat.mode & S_IFMT;
    return fsb_backend_listing_emit_(ls, &entry);
}

/* The folder at path, kept until fsb_memory_folder_put_(). */
static int fsb_memory_folder_get_(fsb_memory_ *m, const char *path, uint64_t file_id,
                                  fsb_memory_node_ **folder, fsb_stat *st)
{
    fsb_memory_where_ w;
    pthread_rwlock_rdlock(&m->lock);
    int err = fsb_memory_find_(m, path, &w);
    if (!err && !w.node) err = -ENOENT;
    if (!err && file_id && file_id != w.node->stat.file_id) err = -ESTALE;
    if (!err && !fsb_memory_is_dir_(w.node)) err = -ENOTDIR;
    if (!err) {
        __atomic_add_fetch(&w.node->users, 1, __ATOMIC_RELAXED);
        *folder = w.node, *st = w.node->stat;
    }
    pthread_rwlock_unlock(&m->lock);
    return err;
}

static void fsb_memory_folder_put_(fsb_memory_ *m, fsb_memory_node_ *folder)
{
    pthread_rwlock_wrlock(&m->lock);
    __atomic_sub_fetch(&folder->users, 1, __ATOMIC_RELAXED);
    fsb_memory_node_put_(m, folder);
    pthread_rwlock_unlock(&m->lock);
}

static int64_t fsb_memory_list_one_(void *owner, fsb_backend_listing_ *ls, const char *path,
                                    uint64_t file_id, uint64_t offset, fsb_stat *st)
{
    fsb_memory_      *m = (fsb_memory_ *)owner;
    fsb_memory_node_ *folder;
    fsb_memory_found_ found[FSB_MEMORY_BATCH_];
    const int         err = fsb_memory_folder_get_(m, path, file_id, &folder, st);
    if (err) return err;
    int64_t end = -1;
    while (end < 0) {
        const size_t n = fsb_memory_batch_(m, folder, offset, found);
        if (!n) end = 1;
        for (size_t i = 0; i < n && end < 0; ++i) {
            offset = found[i].cookie;
            if (fsb_memory_emit_(m, ls, folder, &found[i])) end = 0;
        }
    }
    fsb_memory_folder_put_(m, folder);
    return end;
}

static int64_t fsb_memory_list_(fsb_memory_run_ *r)
{
    if (r->slot) return -ENOTDIR; /* handles are of regular files */
    return fsb_backend_list_(r->op, &r->m->allocator, fsb_memory_list_one_, r->m);
}

/* ---- [memory backend: open] ------------------------------------------------------------------ */

static int64_t fsb_memory_dispatch_(fsb_memory_run_ *r)
{
    switch (r->op->code) {
    case FSB_OP_STAT: return fsb_memory_stat_(r);
    case FSB_OP_READLINK: return fsb_memory_readlink_(r);
    case FSB_OP_OPEN: return fsb_memory_open_op_(r);
    case FSB_OP_READ: return fsb_memory_read_(r);
    case FSB_OP_WRITE: return fsb_memory_write_(r);
    case FSB_OP_SYNC: return fsb_memory_sync_(r);
    case FSB_OP_MKDIR: return fsb_memory_create_(r);
    case FSB_OP_UNLINK: return fsb_memory_remove_op_(r);
    case FSB_OP_RMDIR: return fsb_memory_remove_op_(r);
    case FSB_OP_RENAME: return fsb_memory_rename_(r);
    case FSB_OP_LINK: return fsb_memory_link_(r);
    case FSB_OP_SYMLINK: return fsb_memory_create_(r);
    case FSB_OP_MKNOD: return fsb_memory_create_(r);
    case FSB_OP_SETATTR: return fsb_memory_setattr_(r);
    case FSB_OP_ALLOCATE: return fsb_memory_allocate_(r);
    case FSB_OP_SEEK: return fsb_memory_seek_(r);
    case FSB_OP_COPY: return fsb_memory_copy_(r);
    case FSB_OP_STATFS: return fsb_memory_statfs_(r);
    case FSB_OP_GETXATTR: return fsb_memory_xattr_op_(r);
    case FSB_OP_SETXATTR: return fsb_memory_xattr_op_(r);
    case FSB_OP_LISTXATTR: return fsb_memory_xattr_op_(r);
    case FSB_OP_REMOVEXATTR: return fsb_memory_xattr_op_(r);
    default: return -ENOSYS;
    }
}

/* Under the lock, for writing if anything may change. */
static int64_t fsb_memory_locked_(fsb_memory_run_ *r)
{
    if (fsb_backend_changes_(r->op)) pthread_rwlock_wrlock(&r->m->lock);
    else pthread_rwlock_rdlock(&r->m->lock);
    const int64_t n = fsb_memory_dispatch_(r);
    pthread_rwlock_unlock(&r->m->lock);
    return n;
}

static fsb_backend_slot_ *fsb_memory_pin_(fsb_memory_ *m, fsb_handle handle)
{
    fsb_backend_slot_ *slot = fsb_backend_pin_(&m->handles, handle);
    if (!slot || slot->flags) return slot;
    fsb_backend_unpin_(&m->handles, slot); /* a watch is no file */
    return NULL;
}

/* Handles are pinned before the lock is taken: the last user to leave takes it, too. */
static int64_t fsb_memory_pinned_(fsb_memory_ *m, fsb_op *op)
{
    fsb_memory_run_ r;
    const uint32_t  takes = fsb_backend_rule_of_(op->code).takes;
    int64_t         n = 0;
    r.m = m, r.op = op, r.slot = NULL, r.slot2 = NULL;
    if (takes & FSB_BACKEND_HANDLE_ || (takes & FSB_BACKEND_AT_ && op->handle)) {
        r.slot = fsb_memory_pin_(m, op->handle);
        if (!r.slot) return -EBADF;
    }
    if (takes & FSB_BACKEND_HANDLE2_) {
        r.slot2 = fsb_memory_pin_(m, op->handle2);
        if (!r.slot2) n = -EBADF;
    }
    if (n) {}
    else if (op->code == FSB_OP_LIST) n = fsb_memory_list_(&r);
    else if (op->code == FSB_OP_WATCH) n = fsb_memory_watch_(&r);
    else n = fsb_memory_locked_(&r);
    if (r.slot) fsb_backend_unpin_(&m->handles, r.slot);
    if (r.slot2) fsb_backend_unpin_(&m->handles, r.slot2);
    return n;
}

static int64_t fsb_memory_call_(fsb_backend *b, fsb_op *op)
{
    fsb_memory_ *m = (fsb_memory_ *)(void *)b;
    op->result = fsb_backend_check_(op);
    if (op->result) return op->result;
    if (op->code == FSB_OP_GET) op->result = fsb_backend_get_(b, op);
    else if (op->code == FSB_OP_PUT) op->result = fsb_backend_put_(b, op);
    else if (op->code == FSB_OP_CLOSE)
        op->result = fsb_backend_handle_close_(&m->handles, op->handle);
    else op->result = fsb_memory_pinned_(m, op);
    return op->result;
}

static int fsb_memory_drop_(void *owner, fsb_backend_slot_ *slot)
{
    fsb_memory_ *m = (fsb_memory_ *)owner;
    if (!slot->flags) {
        fsb_backend_watch_close_(&m->watches, (fsb_backend_watch_ *)slot->object);
        return 0;
    }
    fsb_memory_node_ *node = (fsb_memory_node_ *)slot->object;
    pthread_rwlock_wrlock(&m->lock);
    __atomic_sub_fetch(&node->users, 1, __ATOMIC_RELAXED);
    fsb_memory_node_put_(m, node);
    pthread_rwlock_unlock(&m->lock);
    return 0;
}

static void fsb_memory_free_(fsb_memory_ *m)
{
    const fsb_allocator a = m->allocator;
    for (size_t i = 0; i < m->bucket_count; ++i) {
        while (m->buckets[i]) {
            fsb_memory_entry_ *e = m->buckets[i];
            fsb_memory_node_  *node = e->node;
            m->buckets[i] = e->next;
            node->stat.nlink = 0; /* counted below by its names */
            fsb_memory_entry_ **at = &node->names;
            while (*at != e) at = &(*at)->same;
            *at = e->same;
            fsb_backend_free_(&a, e, sizeof *e + e->name_size + 1);
            if (!node->names) fsb_memory_node_put_(m, node);
        }
    }
    if (m->root) m->root->stat.nlink = 0, fsb_memory_node_put_(m, m->root);
    fsb_backend_free_(&a, m->buckets, m->bucket_count * sizeof *m->buckets);
    pthread_rwlock_destroy(&m->lock);
    pthread_mutex_destroy(&m->queue_lock);
    pthread_cond_destroy(&m->queue_wake);
    fsb_backend_watches_destroy_(&m->watches);
    fsb_backend_free_(&a, m, sizeof *m);
}

static void fsb_memory_close_(fsb_backend *b)
{
    fsb_memory_ *m = (fsb_memory_ *)(void *)b;
    fsb_memory_watch_stop_(m);
    fsb_backend_handles_close_(&m->handles);
    fsb_memory_free_(m);
}

FSB_API int fsb_memory_open(fsb_backend **out, const fsb_memory_desc *desc)
{
    fsb_memory_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (!out) return -EINVAL;
    fsb_memory_ *m = (fsb_memory_ *)fsb_backend_new_(&d.allocator, sizeof *m);
    if (!m) return -ENOMEM;
    m->allocator = d.allocator, m->log = d.log;
    m->max_bytes = d.max_bytes ? d.max_bytes : FSB_UNLIMITED;
    m->seed = fsb_backend_mix_((uint64_t)fsb_memory_now_() ^ (uint64_t)(uintptr_t)m);
    m->last_version = (uint64_t)fsb_memory_now_(); /* not that of another life */
    pthread_rwlock_init(&m->lock, NULL);
    pthread_mutex_init(&m->queue_lock, NULL);
    pthread_cond_init(&m->queue_wake, NULL);
    m->last = &m->first;
    fsb_backend_watches_init_(&m->watches, &m->allocator);
    int err = fsb_memory_rehash_(m);
    if (!err) m->root = fsb_memory_node_new_(m, S_IFDIR | 0755);
    if (!m->root) err = -ENOMEM;
    if (!err)
        err = fsb_backend_handles_open_(&m->handles, &m->allocator, d.max_handles, fsb_memory_drop_,
                                        m);
    if (err) {
        fsb_memory_free_(m);
        return err;
    }
    fsb_backend_fill_(&m->base, "memory", fsb_memory_close_, fsb_memory_call_);
    m->base.call[FSB_OP_DESCRIPTOR] = m->base.call[FSB_OP_EXEC] = NULL;
    *out = &m->base;
    return 0;
}

/* ---- [conveniences: files] ------------------------------------------------------------------- */

static fsb_op fsb_backend_op_(uint32_t code, const char *path)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = code, op.path = path;
    return op;
}

/* UNLINK, RMDIR, STAT: a path and no more. *st is zeros if it failed. */
static int fsb_backend_simple_(fsb_backend *b, uint32_t code, const char *path, fsb_stat *st)
{
    fsb_op        op = fsb_backend_op_(code, path);
    const int64_t n = fsb_backend_call(b, &op);
    if (n < 0) memset(&op.stat, 0, sizeof op.stat);
    if (st) *st = op.stat;
    return n < 0 ? (int)n : 0;
}

static int fsb_backend_mkdir_(fsb_backend *b, const char *path, uint32_t mode)
{
    fsb_op op = fsb_backend_op_(FSB_OP_MKDIR, path);
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = mode;
    return (int)fsb_backend_call(b, &op);
}

FSB_API int fsb_backend_mkdir_all(fsb_backend *b, const char *path, uint32_t mode)
{
    char part[FSB_PATH_MAX + 1];
    int  err = fsb_backend_path_check_(path);
    if (!err) err = path[1] ? fsb_backend_mkdir_(b, path, mode) : -EEXIST;
    if (err == -ENOENT) { /* from the top, then; what is missing is made, the last as well */
        err = 0;
        for (size_t at = 1; !err || err == -EEXIST; ++at) {
            if (path[at] && path[at] != '/') continue;
            memcpy(part, path, at);
            part[at] = '\0';
            err = fsb_backend_mkdir_(b, part, mode);
            if (!path[at]) break;
        }
    }
    if (err != -EEXIST) return err;
    fsb_stat st;
    err = fsb_backend_simple_(b, FSB_OP_STAT, path, &st);
    return !err && !S_ISDIR(st.mode) ? -ENOTDIR : err;
}

/* A name in the folder of `path` that nobody else has: ".fsb-KIND-" and 16 hex digits. */
static int fsb_backend_aside_(const char *path, const char *kind, uint64_t number, char *out)
{
    const size_t folder = (size_t)(fsb_backend_name_(path) - path);
    if (folder + 32 > FSB_PATH_MAX) return -ENAMETOOLONG;
    memcpy(out, path, folder);
    snprintf(out + folder, 32, ".fsb-%s-%016llx", kind, (unsigned long long)number);
    return 0;
}

/* Makes the new file at `aside`, with all its bytes on the disk. */
static int fsb_file_write_aside_(fsb_backend *b, const char *aside, const void *data, size_t size,
                                 uint32_t mode)
{
    fsb_op op = fsb_backend_op_(FSB_OP_OPEN, aside);
    op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_EXCL;
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = mode;
    if (fsb_backend_call(b, &op) < 0) return (int)op.result;
    int err = 0;
    for (size_t at = 0; at < size && !err; at += op.size) {
        op.code = FSB_OP_WRITE, op.flags = 0, op.offset = at, op.data = (const char *)data + at;
        op.size = size - at < FSB_IO_MAX ? size - at : (size_t)FSB_IO_MAX;
        if (fsb_backend_call(b, &op) < 0) err = (int)op.result;
    }
    op.code = FSB_OP_SYNC, op.flags = 0;
    if (!err && fsb_backend_call(b, &op) < 0 && op.result != -ENOSYS) err = (int)op.result;
    op.code = FSB_OP_CLOSE;
    if (fsb_backend_call(b, &op) < 0 && !err) err = (int)op.result;
    return err;
}

FSB_API int fsb_file_replace(fsb_backend *b, const char *path, const void *data, size_t size,
                             uint32_t mode)
{
    char            aside[FSB_PATH_MAX + 1], folder[FSB_PATH_MAX + 1];
    struct timespec now;
    fsb_stat        st;
    int             err = fsb_backend_path_check_(path);
    if (!err && !path[1]) err = -EISDIR;
    if (err || (!data && size)) return err ? err : -EINVAL;
    if (!mode && !fsb_backend_simple_(b, FSB_OP_STAT, path, &st) && S_ISREG(st.mode))
        mode = st.mode & 07777;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t number = fsb_backend_mix_((uint64_t)now.tv_nsec ^ (uint64_t)(uintptr_t)&now)
                      ^ (uint64_t)getpid();
    err = -EEXIST;
    for (int tries = 0; tries < 100 && (err == -EEXIST || (err == -ENOENT && tries < 2)); ++tries) {
        const size_t n = (size_t)(fsb_backend_name_(path) - path) - 1;
        memcpy(folder, path, n);
        folder[n] = '\0';
        if (err == -ENOENT && n) fsb_backend_mkdir_all(b, folder, 0755);
        number = fsb_backend_mix_(number + 1);
        err = fsb_backend_aside_(path, "new", number, aside);
        if (!err) err = fsb_file_write_aside_(b, aside, data, size, mode ? mode : 0644);
    }
    fsb_op op = fsb_backend_op_(FSB_OP_RENAME, aside);
    op.path2 = path;
    if (!err && fsb_backend_call(b, &op) < 0) err = (int)op.result;
    if (err && err != -EEXIST && err != -ENAMETOOLONG)
        fsb_backend_simple_(b, FSB_OP_UNLINK, aside, NULL);
    return err;
}

FSB_API int fsb_backend_touch(fsb_backend *b, const char *path, const int64_t *mtime_ns)
{
    fsb_op op = fsb_backend_op_(FSB_OP_SETATTR, path), put = fsb_backend_op_(FSB_OP_PUT, path);
    op.attr.mask = FSB_ATTR_ATIME_NOW | FSB_ATTR_MTIME_NOW;
    if (mtime_ns) {
        op.attr.mask = FSB_ATTR_ATIME | FSB_ATTR_MTIME;
        op.attr.atime_ns = op.attr.mtime_ns = *mtime_ns;
    }
    if (fsb_backend_call(b, &op) != -ENOENT) return (int)op.result;
    put.flags = FSB_O_WRITE | FSB_O_CREATE, put.data = "";
    put.attr.mask = FSB_ATTR_MODE, put.attr.mode = 0644;
    if (fsb_backend_call(b, &put) < 0) return (int)put.result;
    return (int)fsb_backend_call(b, &op); /* somebody else may have made it, long ago */
}

/* ---- [conveniences: walk] -------------------------------------------------------------------- */

/* A folder under way: a part of its listing, and where the next part starts. */
enum { FSB_WALK_ROOM_ = 16 << 10 };

typedef struct fsb_walk_name_ {
    fsb_stat stat;
    size_t   bytes; /* to the next one; the name with its '\0' follows */
} fsb_walk_name_;

typedef struct fsb_walk_level_ {
    struct fsb_walk_level_ *up;
    fsb_stat                stat;
    size_t                  path_size; /* of the folder's */
    uint64_t                cookie;
    uint64_t                parts, mark; /* listed so far; the cookie behind one of them */
    size_t                  used, at;    /* of room, bytes */
    int                     whole, ended; /* ended: take() wants no more */
    union { uint64_t align; char bytes[FSB_WALK_ROOM_]; } room;
} fsb_walk_level_;

typedef struct fsb_walk_ {
    fsb_backend     *b;
    fsb_allocator    allocator;
    fsb_walk_level_ *level;
    uint32_t         depth;
    int (*visit)(void *user, const fsb_walk_step *step);
    /* Is given the files whose bytes come with the listing, while it comes, and visit() is not;
       their folder is the one entered last. Not 0 ends the listing. Behind each part of a listing
       it is called with NULL. NULL itself: no bytes are asked for. */
    int (*take)(void *user, const char *path, const fsb_dirent *entry);
    void *user;
    char  path[FSB_PATH_MAX + 1];
} fsb_walk_;

static int fsb_walk_tell_(fsb_walk_ *w, uint32_t kind, const fsb_stat *st, int error)
{
    fsb_walk_step step;
    step.kind = kind, step.depth = w->depth, step.error = error;
    step.path = w->path, step.stat = st;
    return w->visit(w->user, &step);
}

/* A folder: told of, and gone into unless it is passed by. */
static int fsb_walk_enter_(fsb_walk_ *w, const fsb_stat *st)
{
    const fsb_stat copy = *st;
    const int      answer = fsb_walk_tell_(w, FSB_WALK_FOLDER, &copy, 0);
    if (answer) return answer < 0 ? answer : 0;
    fsb_walk_level_ *level =
        (fsb_walk_level_ *)fsb_backend_resize_(&w->allocator, NULL, 0, sizeof *level);
    if (!level) return -ENOMEM;
    level->up = w->level, level->stat = copy, level->path_size = strlen(w->path);
    level->cookie = level->parts = level->mark = 0, level->used = level->at = 0;
    level->whole = level->ended = 0;
    w->level = level, ++w->depth;
    return 0;
}

static int fsb_walk_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_walk_       *w = (fsb_walk_ *)op->user;
    fsb_walk_level_ *level = w->level;
    const size_t     bytes = (sizeof(fsb_walk_name_) + entry->name_size + 8) / 8 * 8;
    char             path[FSB_PATH_MAX + 1];
    if (entry->folder || !entry->name_size) return 0; /* not asked for */
    if (w->take && entry->data && S_ISREG(entry->stat.mode)
        && fsb_backend_join_(path, w->path, entry->name)) {
        level->ended = w->take(w->user, path, entry) != 0;
        if (!level->ended) level->cookie = entry->cookie;
        return level->ended;
    }
    if (bytes > FSB_WALK_ROOM_ - level->used) return 1;
    fsb_walk_name_ *name = (fsb_walk_name_ *)(void *)(level->room.bytes + level->used);
    name->stat = entry->stat, name->bytes = bytes;
    memcpy(name + 1, entry->name, entry->name_size);
    ((char *)(name + 1))[entry->name_size] = '\0';
    level->used += bytes, level->cookie = entry->cookie;
    return 0;
}

/* There is more of the listing. -EIO if it goes on nowhere, or in a circle: at a cookie that it was
   at before, which the one behind the 1st, 2nd, 4th, 8th, ... part is kept to see. */
static int fsb_walk_goes_on_(fsb_walk_level_ *level, uint64_t from)
{
    if (level->cookie == from || (level->parts && level->cookie == level->mark)) return -EIO;
    if (!(level->parts & (level->parts + 1))) level->mark = level->cookie;
    ++level->parts;
    return 0;
}

/* The next part of the folder's listing. */
static int fsb_walk_fill_(fsb_walk_ *w)
{
    fsb_walk_level_ *level = w->level;
    fsb_op           op = fsb_backend_op_(FSB_OP_LIST, w->path);
    level->used = level->at = 0;
    op.file_id = level->stat.file_id, op.flags = FSB_LIST_STAT, op.offset = level->cookie;
    op.size64 = FSB_WALK_ROOM_, op.emit = fsb_walk_emit_, op.user = w;
    if (w->take) op.flags |= FSB_LIST_DATA, op.size64 = FSB_IO_MAX;
    int64_t n = fsb_backend_call(w->b, &op);
    if (w->take) w->take(w->user, NULL, NULL);
    if (n == 0 && !level->ended) n = fsb_walk_goes_on_(level, op.offset);
    level->whole = n != 0 || level->ended;
    if (n >= 0) return 0;
    --w->depth;
    const int answer = fsb_walk_tell_(w, FSB_WALK_ERROR, &level->stat, (int)n);
    ++w->depth;
    return answer < 0 ? answer : 0;
}

/* Behind the last name: back up. */
static int fsb_walk_leave_(fsb_walk_ *w)
{
    fsb_walk_level_ *level = w->level;
    w->level = level->up, --w->depth;
    const int answer = fsb_walk_tell_(w, FSB_WALK_LEAVE, &level->stat, 0);
    fsb_backend_free_(&w->allocator, level, sizeof *level);
    return answer < 0 ? answer : 0;
}

static int fsb_walk_step_(fsb_walk_ *w)
{
    fsb_walk_level_ *level = w->level;
    w->path[level->path_size] = '\0';
    if (level->at == level->used) return level->whole ? fsb_walk_leave_(w) : fsb_walk_fill_(w);
    fsb_walk_name_ *name = (fsb_walk_name_ *)(void *)(level->room.bytes + level->at);
    char            path[FSB_PATH_MAX + 1];
    level->at += name->bytes;
    if (!fsb_backend_join_(path, w->path, (const char *)(name + 1)))
        return fsb_walk_tell_(w, FSB_WALK_ERROR, &level->stat, -ENAMETOOLONG) < 0 ? -ENAMETOOLONG
                                                                                 : 0;
    memcpy(w->path, path, strlen(path) + 1);
    if (S_ISDIR(name->stat.mode)) return fsb_walk_enter_(w, &name->stat);
    const int answer = fsb_walk_tell_(w, FSB_WALK_FILE, &name->stat, 0);
    return answer < 0 ? answer : 0;
}

/* The walk that *w describes, from `path` on. */
static int fsb_walk_run_(fsb_walk_ *w, const char *path)
{
    fsb_stat st;
    int      err = fsb_backend_path_check_(path);
    if (!err) err = fsb_backend_simple_(w->b, FSB_OP_STAT, path, &st);
    if (err) return err;
    memcpy(w->path, path, strlen(path) + 1);
    if (S_ISDIR(st.mode)) err = fsb_walk_enter_(w, &st);
    else err = fsb_walk_tell_(w, FSB_WALK_FILE, &st, 0);
    while (w->level && err >= 0) err = fsb_walk_step_(w);
    while (w->level) {
        fsb_walk_level_ *level = w->level;
        w->level = level->up;
        fsb_backend_free_(&w->allocator, level, sizeof *level);
    }
    return err < 0 ? err : 0;
}

FSB_API int fsb_backend_walk(fsb_backend *b, const char *path, const fsb_allocator *allocator,
                             int (*visit)(void *user, const fsb_walk_step *step), void *user)
{
    fsb_walk_ w;
    memset(&w, 0, sizeof w);
    w.b = b, w.visit = visit, w.user = user;
    if (allocator) w.allocator = *allocator;
    return visit ? fsb_walk_run_(&w, path) : -EINVAL;
}

typedef struct fsb_remove_ {
    fsb_backend *b;
    int          err; /* the first */
} fsb_remove_;

static int fsb_remove_visit_(void *user, const fsb_walk_step *step)
{
    fsb_remove_ *r = (fsb_remove_ *)user;
    int          err = 0;
    if (step->kind == FSB_WALK_ERROR) err = step->error == -ENOENT ? 0 : step->error;
    else if (step->kind != FSB_WALK_FOLDER)
        err = fsb_backend_simple_(r->b, step->kind == FSB_WALK_FILE ? FSB_OP_UNLINK : FSB_OP_RMDIR,
                                  step->path, NULL);
    if (err && !r->err && (err != -ENOENT || step->depth == 0)) r->err = err;
    return 0;
}

FSB_API int fsb_backend_remove_all(fsb_backend *b, const char *path, const fsb_allocator *allocator)
{
    fsb_remove_ r;
    r.b = b, r.err = 0;
    if (path && path[0] == '/' && !path[1]) return -EBUSY;
    const int err = fsb_backend_walk(b, path, allocator, fsb_remove_visit_, &r);
    return err ? err : r.err;
}

/* ---- [conveniences: batch] ------------------------------------------------------------------- */

typedef struct fsb_batch_ {
    fsb_allocator   allocator;
    pthread_mutex_t lock; /* guards left */
    pthread_cond_t  wake;
    size_t          left;
} fsb_batch_;

typedef struct fsb_batch_op_ {
    fsb_op       op; /* first: done() is given it */
    fsb_batch_  *batch;
} fsb_batch_op_;

/* Borrowed bytes are gone when done() returns. */
static void fsb_batch_keep_(fsb_batch_ *batch, fsb_op *op)
{
    fsb_op like;
    memset(&like, 0, sizeof like);
    like.size = op->slice.size;
    void *room = fsb_backend_room_(&batch->allocator, &like);
    if (room) memcpy(room, op->slice.data, like.size);
    if (room) fsb_backend_answer_(&like, room, (int64_t)like.size);
    else op->result = -ENOMEM;
    op->slice = like.slice;
}

static void fsb_batch_done_(fsb_op *op)
{
    fsb_batch_ *batch = ((fsb_batch_op_ *)(void *)op)->batch;
    if (op->result >= 0 && op->slice.size && !op->slice.release) fsb_batch_keep_(batch, op);
    pthread_mutex_lock(&batch->lock);
    if (!--batch->left) pthread_cond_signal(&batch->wake);
    pthread_mutex_unlock(&batch->lock);
}

/* Hands the answers to the caller's op, which keeps what is its own. */
static void fsb_batch_answer_(fsb_op *op, const fsb_op *from)
{
    fsb_op answer = *from;
    answer.done = op->done, answer.next = op->next;
    answer.layer[0] = op->layer[0], answer.layer[1] = op->layer[1];
    *op = answer;
}

FSB_API int fsb_backend_batch(fsb_backend *b, fsb_op *const *ops, size_t n, fsb_runner runner,
                              const fsb_allocator *allocator)
{
    fsb_allocator a;
    fsb_batch_    batch;
    memset(&a, 0, sizeof a);
    if (allocator) a = *allocator;
    batch.allocator = a;
    if (!n) return 0;
    const size_t each = sizeof(fsb_batch_op_) + sizeof(fsb_op *);
    if (n > SIZE_MAX / each) return -ENOMEM;
    fsb_batch_op_ *mine = (fsb_batch_op_ *)fsb_backend_new_(&a, n * each);
    if (!mine) return -ENOMEM;
    fsb_op **list = (fsb_op **)(void *)(mine + n);
    pthread_mutex_init(&batch.lock, NULL);
    pthread_cond_init(&batch.wake, NULL);
    batch.left = n;
    for (size_t i = 0; i < n; ++i) {
        mine[i].op = *ops[i], mine[i].batch = &batch, mine[i].op.done = fsb_batch_done_;
        memset(&mine[i].op.slice, 0, sizeof mine[i].op.slice);
        list[i] = &mine[i].op;
    }
    fsb_backend_submit(b, list, n, runner);
    pthread_mutex_lock(&batch.lock);
    while (batch.left) pthread_cond_wait(&batch.wake, &batch.lock);
    pthread_mutex_unlock(&batch.lock);
    int err = 0;
    for (size_t i = 0; i < n; ++i) {
        fsb_batch_answer_(ops[i], &mine[i].op);
        if (ops[i]->result < 0 && !err) err = (int)ops[i]->result;
    }
    pthread_cond_destroy(&batch.wake);
    pthread_mutex_destroy(&batch.lock);
    fsb_backend_free_(&a, mine, n * each);
    return err;
}

/* ---- [conveniences: copy] -------------------------------------------------------------------- */

/* The caller's thread walks the source and hands the names to workers, those whose bytes came with
   the listing many at a time: waking a worker costs as much as such a file. A large file goes in
   pieces, at most a window of them ahead of the first that is missing, so that an aside file is
   known to be whole up to a window before its end. */
enum { FSB_COPY_PIECE_ = FSB_IO_MAX, FSB_COPY_WINDOW_ = 64, FSB_COPY_TICK_MS_ = 100,
       FSB_COPY_BATCH_ = 32, FSB_COPY_BATCH_BYTES_ = 256 << 10 };

typedef struct fsb_copy_folder_ { /* its mode and times come last; its path follows */
    struct fsb_copy_folder_ *up;
    fsb_stat                 stat;
    uint64_t                 pending; /* names in it under way, and the walk */
    size_t                   size;
} fsb_copy_folder_;

typedef struct fsb_copy_ {
    fsb_copy_desc     d;
    fsb_workers      *workers;
    fsb_copy_folder_ *folder; /* that the walk is in; the walk's own, as the next four */
    struct fsb_copy_file_ *batch; /* not yet handed to a worker, the last one first */
    uint32_t          batched;
    size_t            batch_bytes;
    int64_t           tick_ms; /* when progress is due */
    int               stop;    /* atomic */
    pthread_mutex_t   lock; /* leaf; guards all below, and pending, low, bits of the others */
    pthread_cond_t    wake;
    fsb_copy_progress p;
    uint64_t          pending; /* jobs */
} fsb_copy_;

typedef struct fsb_copy_file_ { /* the paths follow: from, to; then data */
    fsb_copy_        *c;
    struct fsb_copy_file_ *next; /* of the batch */
    fsb_copy_folder_ *folder; /* NULL: the copy is of this file */
    fsb_stat          stat;
    fsb_handle        in, out;
    uint64_t          pending;   /* pieces, and who hands them out */
    uint64_t          low, bits; /* the first piece missing; which behind it are done */
    int               err;       /* atomic */
    const char       *to, *data; /* data: all its bytes; NULL: they are to be read */
    size_t            bytes;     /* of this, and what follows */
} fsb_copy_file_;

typedef struct fsb_copy_piece_ {
    fsb_copy_file_ *file;
    uint64_t        index;
} fsb_copy_piece_;

static const char *fsb_copy_from_(const fsb_copy_file_ *f)
{
    return (const char *)(const void *)(f + 1);
}

static void fsb_copy_failed_(fsb_copy_ *c, const char *path, int err)
{
    pthread_mutex_lock(&c->lock);
    if (!c->p.error) {
        c->p.error = err;
        memcpy(c->p.error_path, path, strlen(path) + 1);
    }
    ++c->p.failed;
    pthread_mutex_unlock(&c->lock);
}

/* What is kept of a source: set-user-id and set-group-id go only together with the owner. */
static void fsb_copy_attr_(const fsb_copy_ *c, const fsb_stat *st, fsb_attr *a)
{
    const int owners = (c->d.flags & FSB_COPY_OWNERS) != 0;
    memset(a, 0, sizeof *a);
    a->mask = FSB_ATTR_ATIME | FSB_ATTR_MTIME;
    if (!S_ISLNK(st->mode)) a->mask |= FSB_ATTR_MODE;
    if (owners) a->mask |= FSB_ATTR_UID | FSB_ATTR_GID;
    a->mode = st->mode & (owners ? 07777 : 01777), a->uid = st->uid, a->gid = st->gid;
    a->atime_ns = st->atime_ns, a->mtime_ns = st->mtime_ns;
}

/* `made` is what it is already; NULL: not known. */
static int fsb_copy_settle_(fsb_copy_ *c, const char *path, fsb_handle handle, const fsb_stat *st,
                            const fsb_stat *made)
{
    fsb_op op = fsb_backend_op_(FSB_OP_SETATTR, path);
    op.handle = handle;
    fsb_copy_attr_(c, st, &op.attr);
    if (made && !(c->d.flags & FSB_COPY_OWNERS) && (made->mode & 07777) == op.attr.mode)
        op.attr.mask &= ~(uint32_t)FSB_ATTR_MODE;
    if (handle) op.attr.mask |= FSB_ATTR_SIZE, op.attr.size = st->size;
    return (int)fsb_backend_call(c->d.to, &op);
}

/* Progress, on the walk's thread. -ECANCELED: stop. */
static int fsb_copy_tick_(fsb_copy_ *c, int force)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const int64_t now = t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
    if (!c->d.progress || (!force && now < c->tick_ms)) return c->stop ? -ECANCELED : 0;
    c->tick_ms = now + FSB_COPY_TICK_MS_;
    pthread_mutex_lock(&c->lock);
    const fsb_copy_progress p = c->p;
    pthread_mutex_unlock(&c->lock);
    if (!c->d.progress(c->d.user, &p)) return c->stop ? -ECANCELED : 0;
    __atomic_store_n(&c->stop, 1, __ATOMIC_RELAXED);
    return -ECANCELED;
}

/* Waits for a job to end, a moment at most; locked. */
static void fsb_copy_rest_(fsb_copy_ *c)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += FSB_COPY_TICK_MS_ * 1000000L;
    if (t.tv_nsec >= 1000000000L) t.tv_nsec -= 1000000000L, ++t.tv_sec;
    pthread_cond_timedwait(&c->wake, &c->lock, &t);
}

/* ---- folders ---- */

/* One name less is under way in the folder; the last one settles it, and leaves the one above. */
static void fsb_copy_folder_put_(fsb_copy_ *c, fsb_copy_folder_ *f)
{
    while (f) {
        pthread_mutex_lock(&c->lock);
        const uint64_t left = --f->pending;
        pthread_mutex_unlock(&c->lock);
        if (left) return;
        fsb_copy_folder_ *up = f->up;
        const char       *path = (const char *)(const void *)(f + 1);
        const int         err = fsb_copy_settle_(c, path, 0, &f->stat, NULL);
        if (err) fsb_copy_failed_(c, path, err);
        fsb_backend_free_(&c->d.allocator, f, sizeof *f + f->size);
        f = up;
    }
}

static int fsb_copy_folder_make_(fsb_copy_ *c, const char *to, const fsb_stat *st)
{
    fsb_stat  there;
    const int err = fsb_backend_mkdir_(c->d.to, to, (st->mode & 0777) | 0700);
    if (err != -EEXIST) return err;
    const int found = fsb_backend_simple_(c->d.to, FSB_OP_STAT, to, &there);
    return !found && !S_ISDIR(there.mode) ? -ENOTDIR : found;
}

static int fsb_copy_enter_(fsb_copy_ *c, const char *to, const fsb_stat *st)
{
    const size_t size = strlen(to) + 1;
    int          err = fsb_copy_folder_make_(c, to, st);
    if (err) return err;
    fsb_copy_folder_ *f = (fsb_copy_folder_ *)fsb_backend_new_(&c->d.allocator, sizeof *f + size);
    if (!f) return -ENOMEM;
    memcpy(f + 1, to, size);
    f->up = c->folder, f->stat = *st, f->pending = 1, f->size = size;
    pthread_mutex_lock(&c->lock);
    if (f->up) ++f->up->pending;
    ++c->p.folders;
    pthread_mutex_unlock(&c->lock);
    c->folder = f;
    return 0;
}

/* ---- one name, by a worker ---- */

static void fsb_copy_file_done_(fsb_copy_file_ *f, int err)
{
    fsb_copy_ *c = f->c;
    if (err) fsb_copy_failed_(c, fsb_copy_from_(f), err);
    fsb_copy_folder_put_(c, f->folder);
    fsb_backend_free_(&c->d.allocator, f, f->bytes);
    pthread_mutex_lock(&c->lock);
    if (!err) ++c->p.files;
    if (!--c->pending) pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

/* Some backends have seconds only. */
static int fsb_copy_same_time_(const fsb_stat *a, const fsb_stat *b)
{
    enum { SECOND = 1000000000 };
    if (a->mtime_ns == b->mtime_ns) return 1;
    return a->mtime_ns / SECOND == b->mtime_ns / SECOND
        && (a->mtime_ns % SECOND == 0 || b->mtime_ns % SECOND == 0);
}

static int fsb_copy_same_text_(const fsb_copy_file_ *f)
{
    char   a[FSB_PATH_MAX], b[FSB_PATH_MAX];
    fsb_op op = fsb_backend_op_(FSB_OP_READLINK, fsb_copy_from_(f));
    op.buf = a, op.size = sizeof a;
    const int64_t n = fsb_backend_call(f->c->d.from, &op);
    op = fsb_backend_op_(FSB_OP_READLINK, f->to);
    op.buf = b, op.size = sizeof b;
    return n >= 0 && fsb_backend_call(f->c->d.to, &op) == n && !memcmp(a, b, (size_t)n);
}

/* 1 if RESUME passes the file over. */
static int fsb_copy_there_(const fsb_copy_file_ *f)
{
    fsb_copy_ *c = f->c;
    fsb_stat   st;
    if (!(c->d.flags & FSB_COPY_RESUME)) return 0;
    if (fsb_backend_simple_(c->d.to, FSB_OP_STAT, f->to, &st)) return 0;
    if ((st.mode ^ f->stat.mode) & S_IFMT || st.size != f->stat.size) return 0;
    if (S_ISLNK(st.mode) ? !fsb_copy_same_text_(f)
                         : !S_ISREG(st.mode) || !fsb_copy_same_time_(&st, &f->stat)) return 0;
    pthread_mutex_lock(&c->lock);
    ++c->p.passed;
    c->p.found_bytes -= S_ISREG(f->stat.mode) ? f->stat.size : 0;
    pthread_mutex_unlock(&c->lock);
    return 1;
}

/* A link or a node; what is there is replaced. */
static int fsb_copy_special_(fsb_copy_file_ *f)
{
    fsb_copy_ *c = f->c;
    char       text[FSB_PATH_MAX + 1];
    fsb_op     make = fsb_backend_op_(FSB_OP_MKNOD, f->to);
    make.attr.mask = FSB_ATTR_MODE, make.attr.mode = f->stat.mode & (S_IFMT | 01777);
    make.attr.rdev_major = f->stat.rdev_major, make.attr.rdev_minor = f->stat.rdev_minor;
    if (S_ISLNK(f->stat.mode)) {
        fsb_op read = fsb_backend_op_(FSB_OP_READLINK, fsb_copy_from_(f));
        read.buf = text, read.size = FSB_PATH_MAX;
        if (fsb_backend_call(c->d.from, &read) < 0) return (int)read.result;
        text[read.result] = '\0';
        make.code = FSB_OP_SYMLINK, make.path2 = text;
        memset(&make.attr, 0, sizeof make.attr);
    }
    if (fsb_backend_call(c->d.to, &make) == -EEXIST) {
        const int err = fsb_backend_simple_(c->d.to, FSB_OP_UNLINK, f->to, NULL);
        if (err) return err;
        fsb_backend_call(c->d.to, &make);
    }
    if (make.result < 0) return (int)make.result;
    const int err = fsb_copy_settle_(c, f->to, 0, &f->stat, NULL);
    return err == -EOPNOTSUPP ? 0 : err; /* a link's times, where there are none */
}

static int fsb_copy_put_(fsb_copy_file_ *f, const char *data, size_t size)
{
    fsb_backend *to = f->c->d.to;
    fsb_op       op = fsb_backend_op_(FSB_OP_PUT, f->to);
    op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC, op.data = data, op.size = size;
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = f->stat.mode & 0777;
    if (fsb_backend_call(to, &op) == -ELOOP) { /* a link is replaced, not written through */
        const int err = fsb_backend_simple_(to, FSB_OP_UNLINK, f->to, NULL);
        if (err) return err;
        fsb_backend_call(to, &op);
    }
    if (op.result < 0) return (int)op.result;
    return fsb_copy_settle_(f->c, f->to, 0, &f->stat, &op.stat);
}

static int fsb_copy_get_(fsb_copy_file_ *f, char *buf)
{
    fsb_op op = fsb_backend_op_(FSB_OP_GET, fsb_copy_from_(f));
    op.buf = buf, op.size = f->stat.size ? (size_t)f->stat.size : 1, op.file_id = f->stat.file_id;
    if (fsb_backend_call(f->c->d.from, &op) < 0) return (int)op.result;
    if (op.stat.size > (uint64_t)op.result) return -EAGAIN; /* it grew meanwhile */
    f->stat.mtime_ns = op.stat.mtime_ns, f->stat.size = (uint64_t)op.result;
    return 0;
}

/* Whether it is there as `data`. */
static int fsb_copy_verify_(const fsb_copy_file_ *f, const char *data)
{
    const fsb_allocator *a = &f->c->d.allocator;
    const size_t         size = (size_t)f->stat.size;
    fsb_op               op = fsb_backend_op_(FSB_OP_GET, f->to);
    op.buf = fsb_backend_resize_(a, NULL, 0, size + 1), op.size = size + 1;
    int err = op.buf ? 0 : -ENOMEM;
    if (!err && fsb_backend_call(f->c->d.to, &op) < 0) err = (int)op.result;
    if (!err && ((size_t)op.result != size || memcmp(op.buf, data, size))) err = -EBADMSG;
    fsb_backend_free_(a, op.buf, size + 1);
    return err;
}

/* A small file: one call to read it, unless the listing brought it, one to write it, one for its
   times. */
static int fsb_copy_small_(fsb_copy_file_ *f)
{
    fsb_copy_   *c = f->c;
    const size_t room = (size_t)f->stat.size + 1;
    char *buf = f->data ? NULL : (char *)fsb_backend_resize_(&c->d.allocator, NULL, 0, room);
    const char *data = f->data ? f->data : buf;
    int         err = data ? 0 : -ENOMEM;
    if (buf) err = fsb_copy_get_(f, buf);
    if (!err) err = fsb_copy_put_(f, data, (size_t)f->stat.size);
    if (!err && c->d.flags & FSB_COPY_VERIFY) err = fsb_copy_verify_(f, data);
    fsb_backend_free_(&c->d.allocator, buf, room);
    pthread_mutex_lock(&c->lock);
    if (!err) c->p.bytes += f->stat.size;
    pthread_mutex_unlock(&c->lock);
    return err;
}

static void fsb_copy_job_(void *arg) /* a file, or a batch of them */
{
    for (fsb_copy_file_ *f = (fsb_copy_file_ *)arg, *next; f; f = next) {
        int err = 0;
        next = f->next;
        if (__atomic_load_n(&f->c->stop, __ATOMIC_RELAXED)) err = -ECANCELED;
        else if (fsb_copy_there_(f)) err = 0;
        else err = S_ISREG(f->stat.mode) ? fsb_copy_small_(f) : fsb_copy_special_(f);
        fsb_copy_file_done_(f, err);
    }
}

/* ---- a large file, in pieces ---- */

/* Where it is written to: the same place for the same version of the source. */
static int fsb_copy_aside_(const fsb_copy_file_ *f, char *out)
{
    uint64_t h = fsb_backend_mix_(f->stat.file_id) ^ f->stat.version;
    h = fsb_backend_mix_(h) ^ f->stat.size;
    for (const char *p = fsb_backend_name_(f->to); *p; ++p)
        h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
    return fsb_backend_aside_(f->to, "copy", fsb_backend_mix_(h), out);
}

static void fsb_copy_close_(fsb_backend *b, fsb_handle handle, int *err)
{
    fsb_op op = fsb_backend_op_(FSB_OP_CLOSE, NULL);
    op.handle = handle;
    if (handle && fsb_backend_call(b, &op) < 0 && !*err) *err = (int)op.result;
}

/* All pieces are there, or there is an error: the file gets its name, or goes. */
static void fsb_copy_finish_(fsb_copy_file_ *f)
{
    fsb_copy_ *c = f->c;
    char       aside[FSB_PATH_MAX + 1];
    int        err = f->err, ignored = 0;
    if (!err) err = fsb_copy_settle_(c, NULL, f->out, &f->stat, NULL);
    fsb_copy_close_(c->d.to, f->out, &err);
    fsb_copy_close_(c->d.from, f->in, &ignored);
    if (!fsb_copy_aside_(f, aside)) {
        fsb_op op = fsb_backend_op_(FSB_OP_RENAME, aside);
        op.path2 = f->to;
        if (!err && fsb_backend_call(c->d.to, &op) < 0) err = (int)op.result;
        if (err && !(c->d.flags & FSB_COPY_RESUME))
            fsb_backend_simple_(c->d.to, FSB_OP_UNLINK, aside, NULL);
    }
    fsb_copy_file_done_(f, err);
}

/* The first error counts. */
static void fsb_copy_piece_failed_(fsb_copy_file_ *f, int err)
{
    int none = 0;
    __atomic_compare_exchange_n(&f->err, &none, err, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Piece `index` is done (n bytes), or failed. */
static void fsb_copy_piece_done_(fsb_copy_file_ *f, uint64_t index, uint64_t n, int err)
{
    if (err) fsb_copy_piece_failed_(f, err);
    pthread_mutex_lock(&f->c->lock);
    f->bits |= UINT64_C(1) << (index - f->low);
    while (f->bits & 1) f->bits >>= 1, ++f->low;
    f->c->p.bytes += n;
    pthread_cond_signal(&f->c->wake);
    pthread_mutex_unlock(&f->c->lock);
}

static void fsb_copy_file_put_(fsb_copy_file_ *f)
{
    pthread_mutex_lock(&f->c->lock);
    const uint64_t left = --f->pending;
    pthread_mutex_unlock(&f->c->lock);
    if (!left) fsb_copy_finish_(f);
}

/* Within one backend. 1: it cannot. */
static int fsb_copy_within_(fsb_copy_file_ *f, uint64_t at, size_t size)
{
    fsb_op op = fsb_backend_op_(FSB_OP_COPY, NULL);
    op.handle = f->in, op.handle2 = f->out;
    for (size_t done = 0; done < size; done += (size_t)op.result) {
        op.offset = op.offset2 = at + done, op.size64 = size - done;
        const int64_t n = fsb_backend_call(f->c->d.to, &op);
        if (n == -ENOSYS || n == -EOPNOTSUPP) return 1;
        if (n <= 0) return n < 0 ? (int)n : -EAGAIN; /* it became shorter */
    }
    return 0;
}

static int fsb_copy_is_zero_(const char *p, size_t size)
{
    return !size || (!p[0] && !memcmp(p, p + 1, size - 1));
}

static int fsb_copy_bytes_(fsb_copy_file_ *f, uint64_t at, size_t size, char *buf)
{
    fsb_copy_ *c = f->c;
    fsb_op     op = fsb_backend_op_(FSB_OP_READ, NULL);
    op.handle = f->in, op.offset = at, op.size = size, op.buf = buf;
    if (fsb_backend_call(c->d.from, &op) < 0) return (int)op.result;
    if ((size_t)op.result != size) return -EAGAIN; /* it became shorter */
    if (fsb_copy_is_zero_(buf, size)) return 0;    /* stays a hole */
    op = fsb_backend_op_(FSB_OP_WRITE, NULL);
    op.handle = f->out, op.offset = at, op.size = size, op.data = buf;
    if (fsb_backend_call(c->d.to, &op) < 0) return (int)op.result;
    if (!(c->d.flags & FSB_COPY_VERIFY)) return 0;
    op = fsb_backend_op_(FSB_OP_READ, NULL);
    op.handle = f->out, op.offset = at, op.size = size, op.buf = buf + size;
    if (fsb_backend_call(c->d.to, &op) < 0) return (int)op.result;
    return (size_t)op.result == size && !memcmp(buf, buf + size, size) ? 0 : -EBADMSG;
}

static void fsb_copy_piece_job_(void *arg)
{
    const fsb_copy_piece_ piece = *(fsb_copy_piece_ *)arg;
    fsb_copy_file_       *f = piece.file;
    fsb_copy_            *c = f->c;
    const uint64_t        at = piece.index * FSB_COPY_PIECE_, left = f->stat.size - at;
    const size_t          size = left < FSB_COPY_PIECE_ ? (size_t)left : (size_t)FSB_COPY_PIECE_;
    const int             verify = (c->d.flags & FSB_COPY_VERIFY) != 0;
    fsb_backend_free_(&c->d.allocator, arg, sizeof piece);
    int err = __atomic_load_n(&f->err, __ATOMIC_RELAXED);
    if (!err && __atomic_load_n(&c->stop, __ATOMIC_RELAXED)) err = -ECANCELED;
    int by_hand = 1;
    if (!err && c->d.from == c->d.to && !verify) by_hand = fsb_copy_within_(f, at, size);
    if (!err && by_hand <= 0) err = by_hand;
    else if (!err) {
        char *buf = (char *)fsb_backend_resize_(&c->d.allocator, NULL, 0, size * 2);
        err = buf ? fsb_copy_bytes_(f, at, size, buf) : -ENOMEM;
        fsb_backend_free_(&c->d.allocator, buf, size * 2);
    }
    fsb_copy_piece_done_(f, piece.index, err ? 0 : size, err);
    fsb_copy_file_put_(f);
}

/* Hands a piece to a worker, once it is inside the window; `data` 0: a hole. */
static void fsb_copy_piece_start_(fsb_copy_file_ *f, uint64_t index, int data)
{
    fsb_copy_ *c = f->c;
    pthread_mutex_lock(&c->lock);
    while (index - f->low >= FSB_COPY_WINDOW_) fsb_copy_rest_(c);
    if (data) ++f->pending;
    pthread_mutex_unlock(&c->lock);
    fsb_copy_piece_ *piece = NULL;
    if (data) piece = (fsb_copy_piece_ *)fsb_backend_new_(&c->d.allocator, sizeof *piece);
    if (piece) {
        piece->file = f, piece->index = index;
        if (fsb_workers_run(c->workers, fsb_copy_piece_job_, piece)) fsb_copy_piece_job_(piece);
    } else {
        fsb_copy_piece_done_(f, index, 0, data ? -ENOMEM : 0);
        if (data) fsb_copy_file_put_(f);
    }
}

/* The end of what is data at `at`, and where it starts; a source that cannot tell is all data. */
static uint64_t fsb_copy_extent_(fsb_copy_file_ *f, uint64_t *at)
{
    fsb_op op = fsb_backend_op_(FSB_OP_SEEK, NULL);
    op.handle = f->in, op.offset = *at, op.flags = FSB_SEEK_DATA;
    const int64_t n = fsb_backend_call(f->c->d.from, &op);
    if (n == -ENXIO) return *at = f->stat.size; /* a hole to the end */
    if (n < 0) return f->stat.size;
    *at = op.out_offset > *at ? op.out_offset : *at;
    op.offset = *at, op.flags = FSB_SEEK_HOLE;
    if (fsb_backend_call(f->c->d.from, &op) < 0) return f->stat.size;
    return op.out_offset < f->stat.size ? op.out_offset : f->stat.size;
}

static void fsb_copy_pieces_(fsb_copy_file_ *f)
{
    const uint64_t count = (f->stat.size + FSB_COPY_PIECE_ - 1) / FSB_COPY_PIECE_;
    uint64_t       index = f->low;
    while (index < count) {
        uint64_t       at = index * FSB_COPY_PIECE_;
        const uint64_t end = fsb_copy_extent_(f, &at);
        const uint64_t last = (end + FSB_COPY_PIECE_ - 1) / FSB_COPY_PIECE_;
        while (index < count && index < at / FSB_COPY_PIECE_) fsb_copy_piece_start_(f, index++, 0);
        if (at >= f->stat.size) return;
        do fsb_copy_piece_start_(f, index++, 1);
        while (index < last);
        if (fsb_copy_tick_(f->c, 0) || __atomic_load_n(&f->err, __ATOMIC_RELAXED)) return;
    }
}

static int fsb_copy_large_open_(fsb_copy_file_ *f)
{
    fsb_copy_ *c = f->c;
    const int  resume = (c->d.flags & FSB_COPY_RESUME) != 0;
    char       aside[FSB_PATH_MAX + 1];
    fsb_op     op = fsb_backend_op_(FSB_OP_OPEN, fsb_copy_from_(f));
    op.file_id = f->stat.file_id, op.flags = FSB_O_READ;
    if (fsb_backend_call(c->d.from, &op) < 0) return (int)op.result;
    f->in = op.handle, f->stat = op.stat;
    const int err = fsb_copy_aside_(f, aside);
    if (err) return err;
    op = fsb_backend_op_(FSB_OP_OPEN, aside);
    op.flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE;
    if (!resume) op.flags |= FSB_O_TRUNC;
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0600;
    if (fsb_backend_call(c->d.to, &op) < 0) return (int)op.result;
    f->out = op.handle;
    const uint64_t whole = op.stat.size / FSB_COPY_PIECE_;
    if (whole > FSB_COPY_WINDOW_) f->low = whole - FSB_COPY_WINDOW_;
    return 0;
}

/* On the walk's thread. */
static void fsb_copy_large_(fsb_copy_file_ *f)
{
    if (fsb_copy_there_(f)) {
        fsb_copy_file_done_(f, 0);
        return;
    }
    f->err = fsb_copy_large_open_(f);
    if (!f->err) {
        fsb_copy_pieces_(f);
        if (fsb_copy_tick_(f->c, 0)) fsb_copy_piece_failed_(f, -ECANCELED);
    }
    fsb_copy_file_put_(f);
}

/* ---- the walk ---- */

/* Hands the batch to a worker; 0: they all have enough to do. */
static int fsb_copy_offer_(fsb_copy_ *c)
{
    if (c->batch && fsb_workers_run(c->workers, fsb_copy_job_, c->batch)) return 0;
    c->batch = NULL, c->batched = 0, c->batch_bytes = 0;
    return 1;
}

/* Does it here, if it must be. */
static void fsb_copy_flush_(fsb_copy_ *c)
{
    fsb_copy_file_ *f = c->batch;
    if (fsb_copy_offer_(c)) return;
    c->batch = NULL, c->batched = 0, c->batch_bytes = 0;
    fsb_copy_job_(f);
}

/* `data`: the bytes of a small file, in a listing: what writes it could wait for what that listing
   holds, and so is not done here. NULL: they are to be read. */
static int fsb_copy_file_start_(fsb_copy_ *c, const char *from, const char *to,
                                const fsb_stat *st, const void *data)
{
    const size_t    from_size = strlen(from) + 1, to_size = strlen(to) + 1;
    const size_t    bytes = sizeof(fsb_copy_file_) + from_size + to_size
                            + (data ? (size_t)st->size : 0);
    fsb_copy_file_ *f = (fsb_copy_file_ *)fsb_backend_resize_(&c->d.allocator, NULL, 0, bytes);
    if (!f) return -ENOMEM;
    memset(f, 0, sizeof *f);
    char *tail = (char *)(f + 1);
    memcpy(tail, from, from_size), memcpy(tail + from_size, to, to_size);
    f->c = c, f->folder = c->folder, f->stat = *st, f->pending = 1, f->bytes = bytes;
    f->to = tail + from_size;
    if (data) f->data = (char *)memcpy(tail + from_size + to_size, data, (size_t)st->size);
    pthread_mutex_lock(&c->lock);
    ++c->pending;
    if (f->folder) ++f->folder->pending;
    if (S_ISREG(st->mode)) c->p.found_bytes += st->size;
    pthread_mutex_unlock(&c->lock);
    if (S_ISREG(st->mode) && st->size > FSB_COPY_PIECE_) {
        fsb_copy_large_(f);
        return 0;
    }
    if (!data) fsb_copy_flush_(c);
    f->next = c->batch, c->batch = f, c->batch_bytes += bytes, ++c->batched;
    if (!data) fsb_copy_flush_(c);
    else if (c->batched >= FSB_COPY_BATCH_ || c->batch_bytes > FSB_COPY_BATCH_BYTES_)
        fsb_copy_offer_(c);
    return 0;
}

/* What `path` of the source becomes; to[FSB_PATH_MAX + 1]. */
static int fsb_copy_target_(const fsb_copy_ *c, const char *path, char *to)
{
    const char  *base = c->d.to_path, *tail = path;
    const size_t skip = c->d.from_path[1] ? strlen(c->d.from_path) : 0;
    const size_t n = base[1] ? strlen(base) : 0;
    tail += path[1] ? skip : 1;
    if (n + strlen(tail) > FSB_PATH_MAX) return -ENAMETOOLONG;
    memcpy(to, base, n), memcpy(to + n, tail, strlen(tail) + 1);
    if (!to[0]) memcpy(to, "/", 2);
    return 0;
}

static int fsb_copy_take_(void *user, const char *path, const fsb_dirent *entry)
{
    fsb_copy_ *c = (fsb_copy_ *)user;
    char       to[FSB_PATH_MAX + 1];
    if (!entry) {
        fsb_copy_flush_(c);
        return 0;
    }
    if (fsb_copy_tick_(c, 0)) return 1; /* visit() ends it */
    int err = fsb_copy_target_(c, path, to);
    if (!err) err = fsb_copy_file_start_(c, path, to, &entry->stat, entry->data);
    if (err) fsb_copy_failed_(c, path, err);
    return 0;
}

static int fsb_copy_visit_(void *user, const fsb_walk_step *step)
{
    fsb_copy_ *c = (fsb_copy_ *)user;
    char       to[FSB_PATH_MAX + 1];
    if (fsb_copy_tick_(c, 0)) return -ECANCELED;
    if (step->kind == FSB_WALK_LEAVE) {
        fsb_copy_folder_ *f = c->folder;
        c->folder = f->up;
        fsb_copy_folder_put_(c, f);
        return 0;
    }
    int err = fsb_copy_target_(c, step->path, to);
    if (step->kind == FSB_WALK_ERROR) err = step->error;
    else if (!err && step->kind == FSB_WALK_FOLDER) err = fsb_copy_enter_(c, to, step->stat);
    else if (!err) err = fsb_copy_file_start_(c, step->path, to, step->stat, NULL);
    if (err) fsb_copy_failed_(c, step->path, err);
    return err && step->kind == FSB_WALK_FOLDER;
}

static int fsb_copy_check_(const fsb_copy_desc *d)
{
    if (!d || !d->from || !d->to || d->flags > 7 || d->parallel > 64) return -EINVAL;
    int err = fsb_backend_path_check_(d->from_path);
    if (!err) err = fsb_backend_path_check_(d->to_path);
    if (!err && d->from == d->to && fsb_backend_below_(d->from_path, d->to_path)) err = -EINVAL;
    return err;
}

/* Walks, and waits for what is under way. */
static int fsb_copy_run_(fsb_copy_ *c)
{
    fsb_walk_ w;
    memset(&w, 0, sizeof w);
    w.b = c->d.from, w.allocator = c->d.allocator, w.visit = fsb_copy_visit_, w.user = c;
    if (!(c->d.flags & FSB_COPY_RESUME) && !(c->d.from->flags & FSB_BACKEND_QUICK))
        w.take = fsb_copy_take_; /* RESUME may need no bytes, and many threads read a disk sooner */
    int err = fsb_walk_run_(&w, c->d.from_path);
    fsb_copy_flush_(c);
    while (c->folder) { /* the walk ended inside */
        fsb_copy_folder_ *f = c->folder;
        c->folder = f->up;
        fsb_copy_folder_put_(c, f);
    }
    pthread_mutex_lock(&c->lock);
    c->p.walked = 1;
    pthread_mutex_unlock(&c->lock);
    uint64_t left = 1;
    while (left) {
        pthread_mutex_lock(&c->lock);
        if (c->pending) fsb_copy_rest_(c);
        left = c->pending;
        pthread_mutex_unlock(&c->lock);
        if (left && fsb_copy_tick_(c, 0)) err = -ECANCELED;
    }
    if (fsb_copy_tick_(c, 1)) err = -ECANCELED;
    return err ? err : c->p.error;
}

FSB_API int fsb_backend_copy(const fsb_copy_desc *desc, fsb_copy_progress *out)
{
    fsb_workers_desc w;
    int              err = fsb_copy_check_(desc);
    if (err) return err;
    fsb_copy_ *c = (fsb_copy_ *)fsb_backend_new_(&desc->allocator, sizeof *c);
    if (!c) return -ENOMEM;
    memset(&w, 0, sizeof w);
    c->d = *desc;
    w.threads = desc->parallel ? desc->parallel : 8, w.queue = 2 * w.threads;
    w.allocator = desc->allocator;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
    err = fsb_workers_open(&c->workers, &w);
    if (!err) {
        err = fsb_copy_run_(c);
        fsb_workers_close(c->workers);
        if (out) *out = c->p;
    }
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    fsb_backend_free_(&desc->allocator, c, sizeof *c);
    return err;
}

/* ---- [scoped] -------------------------------------------------------------------------------- */

typedef struct fsb_scoped_watch_ {
    struct fsb_scoped_watch_ *next;
    struct fsb_scoped_       *scope;
    fsb_handle                handle;
    void (*event)(void *user, const fsb_event *event);
    void *user;
} fsb_scoped_watch_;

typedef struct fsb_scoped_ {
    fsb_backend        base; /* first */
    fsb_allocator      allocator;
    fsb_backend       *inner;
    pthread_mutex_t    lock; /* held around inner's cancel() only; guards watches and runs */
    fsb_scoped_watch_ *watches;
    struct fsb_scoped_lift_ *runs; /* commands under way, for cancel() */
    size_t             prefix_size; /* 0: the whole of inner */
    char               prefix[FSB_PATH_MAX + 1];
} fsb_scoped_;

/* An op on its way down: a copy with inner's paths. */
typedef struct fsb_scoped_lift_ {
    fsb_op                   op;
    fsb_op                  *upper;
    fsb_scoped_             *scope;
    fsb_exec                 exec;
    struct fsb_scoped_lift_ *next; /* EXEC: in scope->runs */
    char                     path[FSB_PATH_MAX + 1], path2[FSB_PATH_MAX + 1];
} fsb_scoped_lift_;

/* Refuses symbolic links before the last component. `path` is inner's. */
static int fsb_scoped_check_(fsb_scoped_ *s, char *path)
{
    for (size_t at = s->prefix_size + 1; path[at]; ++at) {
        if (path[at] != '/') continue;
        fsb_op op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_STAT, op.path = path;
        path[at] = '\0';
        const int err = (int)fsb_backend_call(s->inner, &op);
        path[at] = '/';
        if (err < 0) return err;
        if (S_ISLNK(op.stat.mode)) return -EACCES;
        if (!S_ISDIR(op.stat.mode)) return -ENOTDIR;
    }
    return 0;
}

static int fsb_scoped_path_(fsb_scoped_ *s, const char *path, char *out)
{
    const size_t size = path[1] || !s->prefix_size ? strlen(path) : 0; /* "/" is the prefix */
    if (s->prefix_size + size > FSB_PATH_MAX) return -ENAMETOOLONG;
    memcpy(out, s->prefix, s->prefix_size);
    memcpy(out + s->prefix_size, path, size);
    out[s->prefix_size + size] = '\0';
    return fsb_scoped_check_(s, out);
}

/* Inner's path as the scope's; NULL: outside. */
static const char *fsb_scoped_strip_(const fsb_scoped_ *s, const char *path)
{
    if (!path || (s->prefix_size && !fsb_backend_below_(s->prefix, path))) return NULL;
    return path[s->prefix_size] ? path + s->prefix_size : "/";
}

static void fsb_scoped_event_(void *user, const fsb_event *event)
{
    const fsb_scoped_watch_ *w = (const fsb_scoped_watch_ *)user;
    const char              *one = fsb_scoped_strip_(w->scope, event->path);
    const char              *two = fsb_scoped_strip_(w->scope, event->path2);
    fsb_event                mine;
    mine.kind = event->kind, mine.path = one, mine.path2 = two, mine.stat = event->stat;
    if (event->kind == FSB_EVENT_LOST && !one) mine.path = "/";
    if (event->kind == FSB_EVENT_RENAMED && !two)
        mine.kind = FSB_EVENT_REMOVED, mine.stat = NULL;
    if (event->kind == FSB_EVENT_RENAMED && !one) {
        mine.kind = FSB_EVENT_CREATED, mine.path = two, mine.path2 = NULL;
    }
    if (mine.path) w->event(w->user, &mine); /* which may close the watch: w is gone then */
}

static int fsb_scoped_emit_(fsb_op *op, const fsb_dirent *entry)
{
    const fsb_scoped_lift_ *lift = (const fsb_scoped_lift_ *)op->user;
    fsb_dirent              mine = *entry;
    if (entry->folder) {
        mine.folder = fsb_scoped_strip_(lift->scope, entry->folder);
        if (!mine.folder) return 0; /* inner's mistake: not below op->path */
    }
    return lift->upper->emit(lift->upper, &mine);
}

/* Hands what inner answered up. */
static void fsb_scoped_answer_(fsb_op *upper, const fsb_op *op)
{
    upper->result = op->result;
    if (op->result < 0) return;
    upper->handle = op->handle, upper->out_offset = op->out_offset;
    upper->stat = op->stat, upper->statfs = op->statfs, upper->slice = op->slice;
}

static int fsb_scoped_output_(fsb_op *op, int fd, const void *data, size_t size)
{
    fsb_op *upper = ((fsb_scoped_lift_ *)op->user)->upper;
    return upper->exec->output(upper, fd, data, size);
}

/* EXEC: cancel() finds inner's op by the upper one. */
static void fsb_scoped_exec_(fsb_scoped_ *s, fsb_scoped_lift_ *lift)
{
    fsb_exec *exec = lift->upper->exec;
    lift->exec = *exec, lift->op.exec = &lift->exec, lift->op.user = lift;
    if (exec->output) lift->exec.output = fsb_scoped_output_;
    pthread_mutex_lock(&s->lock);
    const int early = lift->upper->layer[1] == (void *)s; /* cancelled */
    lift->op.layer[1] = lift->upper->layer[1] = NULL;
    lift->next = s->runs, s->runs = lift;
    pthread_mutex_unlock(&s->lock);
    if (early) lift->op.result = -EINTR;
    else fsb_backend_call(s->inner, &lift->op);
    pthread_mutex_lock(&s->lock);
    fsb_scoped_lift_ **at = &s->runs;
    while (*at != lift) at = &(*at)->next;
    *at = lift->next;
    pthread_mutex_unlock(&s->lock);
    exec->exit_code = lift->exec.exit_code, exec->signal = lift->exec.signal;
    exec->cut[0] = lift->exec.cut[0], exec->cut[1] = lift->exec.cut[1];
}

static void fsb_scoped_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_scoped_ *s = (fsb_scoped_ *)(void *)b;
    if (op->code != FSB_OP_EXEC) return;
    pthread_mutex_lock(&s->lock);
    fsb_scoped_lift_ *lift = s->runs;
    while (lift && lift->upper != op) lift = lift->next;
    if (lift) s->inner->cancel(s->inner, &lift->op);
    else op->layer[1] = s; /* not begun */
    pthread_mutex_unlock(&s->lock);
}

/* Calls that carry a path. */
static int64_t fsb_scoped_lifted_(fsb_scoped_ *s, fsb_op *op)
{
    const uint32_t   takes = fsb_backend_rule_of_(op->code).takes;
    const int        by_path = takes & FSB_BACKEND_PATH_ || !op->handle;
    int              err = 0;
    fsb_scoped_lift_ lift;
    lift.op = *op, lift.upper = op, lift.scope = s;
    if (by_path) err = fsb_scoped_path_(s, op->path, lift.path), lift.op.path = lift.path;
    if (!err && takes & FSB_BACKEND_PATH2_)
        err = fsb_scoped_path_(s, op->path2, lift.path2), lift.op.path2 = lift.path2;
    if (err) return op->result = err;
    if (op->code == FSB_OP_LIST) lift.op.emit = fsb_scoped_emit_, lift.op.user = &lift;
    if (op->code == FSB_OP_EXEC) fsb_scoped_exec_(s, &lift);
    else fsb_backend_call(s->inner, &lift.op);
    fsb_scoped_answer_(op, &lift.op);
    return op->result;
}

static int64_t fsb_scoped_watch_op_(fsb_scoped_ *s, fsb_op *op)
{
    fsb_scoped_watch_ *w = (fsb_scoped_watch_ *)fsb_backend_new_(&s->allocator, sizeof *w);
    if (!w) return op->result = -ENOMEM;
    w->scope = s, w->event = op->event, w->user = op->user;
    op->event = fsb_scoped_event_, op->user = w;
    fsb_scoped_lifted_(s, op);
    op->event = w->event, op->user = w->user;
    if (op->result < 0) {
        fsb_backend_free_(&s->allocator, w, sizeof *w);
    } else {
        w->handle = op->handle;
        pthread_mutex_lock(&s->lock);
        w->next = s->watches, s->watches = w;
        pthread_mutex_unlock(&s->lock);
    }
    return op->result;
}

/* CLOSE of what may be a watch: its context goes once inner calls it no more. */
static int64_t fsb_scoped_close_op_(fsb_scoped_ *s, fsb_op *op)
{
    pthread_mutex_lock(&s->lock);
    fsb_scoped_watch_ **at = &s->watches, *w;
    while (*at && (*at)->handle != op->handle) at = &(*at)->next;
    w = *at;
    if (w) *at = w->next;
    pthread_mutex_unlock(&s->lock);
    fsb_backend_call(s->inner, op);
    fsb_backend_free_(&s->allocator, w, sizeof *w);
    return op->result;
}

/* 1 if op carries no path, so that it is inner's as it stands. */
static int fsb_scoped_plain_(const fsb_op *op)
{
    const uint32_t takes = fsb_backend_rule_of_(op->code).takes;
    if (takes & (FSB_BACKEND_PATH_ | FSB_BACKEND_PATH2_)) return 0;
    return !(takes & FSB_BACKEND_AT_) || op->handle;
}

static int64_t fsb_scoped_call_(fsb_backend *b, fsb_op *op)
{
    fsb_scoped_ *s = (fsb_scoped_ *)(void *)b;
    const int    err = fsb_backend_check_(op);
    if (err) return op->result = err;
    if (op->code == FSB_OP_CLOSE) return fsb_scoped_close_op_(s, op);
    if (op->code == FSB_OP_WATCH) return fsb_scoped_watch_op_(s, op);
    if (fsb_scoped_plain_(op)) return fsb_backend_call(s->inner, op);
    return fsb_scoped_lifted_(s, op);
}

static void fsb_scoped_close_(fsb_backend *b)
{
    fsb_scoped_ *s = (fsb_scoped_ *)(void *)b;
    while (s->watches) {
        fsb_op op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_CLOSE, op.handle = s->watches->handle;
        fsb_scoped_close_op_(s, &op);
    }
    pthread_mutex_destroy(&s->lock);
    const fsb_allocator a = s->allocator;
    fsb_backend_free_(&a, s, sizeof *s);
}

FSB_API int fsb_scoped_open(fsb_backend **out, const fsb_scoped_desc *desc)
{
    if (!out || !desc || !desc->inner) return -EINVAL;
    int    err = fsb_backend_path_check_(desc->prefix);
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = desc->prefix;
    if (!err) err = (int)fsb_backend_call(desc->inner, &op);
    if (!err && !S_ISDIR(op.stat.mode)) err = -ENOTDIR;
    if (err) return err;
    fsb_scoped_ *s = (fsb_scoped_ *)fsb_backend_new_(&desc->allocator, sizeof *s);
    if (!s) return -ENOMEM;
    s->allocator = desc->allocator, s->inner = desc->inner;
    s->prefix_size = desc->prefix[1] ? strlen(desc->prefix) : 0;
    memcpy(s->prefix, desc->prefix, s->prefix_size);
    pthread_mutex_init(&s->lock, NULL);
    fsb_backend_fill_(&s->base, "scoped", fsb_scoped_close_, fsb_scoped_call_);
    s->base.flags = desc->inner->flags;
    if (desc->inner->cancel) s->base.cancel = fsb_scoped_cancel_;
    for (uint32_t i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) {
        const int composed = i == FSB_OP_GET || i == FSB_OP_PUT;
        s->base.call[i] = composed || fsb_backend_has_(s->inner, i) ? fsb_scoped_call_ : NULL;
    }
    *out = &s->base;
    return 0;
}

/* ---- [sftp: wire] ---------------------------------------------------------------------------- */

/* Version 3: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL file for the extensions. */
enum {
    FSB_SFTP_INIT_ = 1, FSB_SFTP_VERSION_ = 2, FSB_SFTP_OPEN_ = 3, FSB_SFTP_CLOSE_ = 4,
    FSB_SFTP_READ_ = 5, FSB_SFTP_WRITE_ = 6, FSB_SFTP_LSTAT_ = 7, FSB_SFTP_FSTAT_ = 8,
    FSB_SFTP_SETSTAT_ = 9, FSB_SFTP_FSETSTAT_ = 10, FSB_SFTP_OPENDIR_ = 11,
    FSB_SFTP_READDIR_ = 12, FSB_SFTP_REMOVE_ = 13, FSB_SFTP_MKDIR_ = 14, FSB_SFTP_RMDIR_ = 15,
    FSB_SFTP_REALPATH_ = 16, FSB_SFTP_STAT_ = 17, FSB_SFTP_RENAME_ = 18, FSB_SFTP_READLINK_ = 19,
    FSB_SFTP_SYMLINK_ = 20, FSB_SFTP_STATUS_ = 101, FSB_SFTP_HANDLE_ = 102, FSB_SFTP_DATA_ = 103,
    FSB_SFTP_NAME_ = 104, FSB_SFTP_ATTRS_ = 105, FSB_SFTP_EXTENDED_ = 200,
    FSB_SFTP_EXTENDED_REPLY_ = 201
};
enum { /* extensions that the server has */
    FSB_SFTP_POSIX_RENAME_ = 1, FSB_SFTP_STATVFS_ = 2, FSB_SFTP_HARDLINK_ = 4,
    FSB_SFTP_FSYNC_ = 8, FSB_SFTP_LSETSTAT_ = 16, FSB_SFTP_LIMITS_ = 32, FSB_SFTP_COPY_DATA_ = 64
};
enum { FSB_SFTP_PIECE_ = 32768, FSB_SFTP_PACKET_MAX_ = 1 << 20, FSB_SFTP_COUNTS_ = 1024,
       FSB_SFTP_MOST_ = 32, /* pieces in FSB_IO_MAX */
       FSB_SFTP_SEEN_ = 16384, FSB_SFTP_BUFFER_ = 64 << 10, FSB_SFTP_NOBODY_ = 0xffff };

typedef struct fsb_sftp_file_ { /* an open file */
    uint64_t      file_id, epoch; /* epoch: of the connection that it is open on */
    uint64_t     *writes;         /* the count of changes that makes its version */
    uint32_t      size;
    unsigned char name[256]; /* the server's handle */
} fsb_sftp_file_;

struct fsb_sftp_answer_;
struct fsb_sftp_listing_;
struct fsb_sftp_run_;
typedef struct fsb_sftp_ fsb_sftp_;

typedef struct fsb_sftp_host_ { /* the backend */
    fsb_backend          base; /* first */
    fsb_sftp_desc        desc;
    fsb_backend_handles_ handles;
    pthread_mutex_t      sending;   /* before lock: who writes to fds[1] */
    pthread_mutex_t      appending; /* before sending: one APPEND at a time */
    pthread_mutex_t      lock;      /* guards all below, unless it says otherwise */
    pthread_cond_t       calm;      /* making or users changed */
    int                  fds[2];    /* -1: not connected; they stay while there are users */
    int                  making;    /* somebody connects */
    int                  dead;      /* atomic; why the connection is given up; 0: it is not */
    uint64_t             epoch;     /* of the connection, counted */
    uint32_t             users;     /* exchanges under way */
    fsb_sftp_           *leader;    /* reads the answers, for all */
    fsb_sftp_          **talks, *idle; /* all there are, by index; those without an operation */
    uint32_t             talk_count, talk_room;
    unsigned char       *in; /* the leader's: what was read and not yet looked at */
    size_t               in_at, in_end, in_room;
    uint32_t             extensions, max_read, max_write; /* of this connection */
    struct fsb_sftp_listing_ *kept; /* the latest first */
    uint64_t             changes;   /* atomic; counted */
    uint64_t             writes[FSB_SFTP_COUNTS_], lives[FSB_SFTP_COUNTS_]; /* atomic; by path */
    uint32_t             seen[FSB_SFTP_SEEN_]; /* atomic; files and folders met of late */
    fsb_backend          *runner; /* EXEC: runs exec_argv; NULL: none */
    struct fsb_sftp_run_ *runs;   /* for cancel() */
    size_t                root_size;
    char                  root[FSB_PATH_MAX + 1]; /* known once connected */
    char                  home[FSB_PATH_MAX + 1]; /* root as it was asked for */
} fsb_sftp_host_;

/* One operation's part of the connection: requests are made in `out`, and exchanged for answers,
   while others do the same. The number of a request is the talk's index and a count. */
struct fsb_sftp_ {
    fsb_sftp_host_ *h;
    fsb_sftp_      *next; /* idle */
    pthread_cond_t  wake;
    int64_t         end;   /* when the operation times out, ms */
    uint64_t        epoch; /* of the connection that it runs on */
    uint32_t        extensions, max_read, max_write, index;
    uint16_t        next_id, first;
    int             broken;   /* why the requests in `out` are incomplete */
    unsigned char  *out, *in; /* requests to send; bodies of the answers */
    size_t          out_size, out_room, in_size, in_room;
    struct fsb_sftp_answer_ *answers; /* of the exchange; n, of which are missing: left */
    uint32_t                 n, left;
    int                      sent, err;
    int                      tells; /* the log of err */
};

/* One answer. A request's place among those of its exchange says where it goes. */
typedef struct fsb_sftp_answer_ {
    int            err; /* 0, or what STATUS says */
    int            eof, here;
    unsigned char *buf; /* where DATA goes, at most room bytes */
    size_t         room, got;
    fsb_stat       stat;   /* ATTRS */
    const unsigned char *body; /* HANDLE, NAME, EXTENDED_REPLY: until the next exchange */
    size_t         body_at, body_size;
} fsb_sftp_answer_;

static int64_t fsb_sftp_now_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void fsb_sftp_bytes_(fsb_sftp_ *s, const void *data, size_t size)
{
    if (s->out_room - s->out_size < size) {
        const size_t room = (s->out_size + size) * 2 + 512;
        void *p = fsb_backend_resize_(&s->h->desc.allocator, s->out, s->out_room, room);
        if (!p) {
            s->broken = -ENOMEM;
            return;
        }
        s->out = (unsigned char *)p, s->out_room = room;
    }
    if (size) memcpy(s->out + s->out_size, data, size);
    s->out_size += size;
}

static void fsb_sftp_u32_(fsb_sftp_ *s, uint32_t v)
{
    const unsigned char b[4] = {(unsigned char)(v >> 24), (unsigned char)(v >> 16),
                                (unsigned char)(v >> 8), (unsigned char)v};
    fsb_sftp_bytes_(s, b, 4);
}

static void fsb_sftp_u64_(fsb_sftp_ *s, uint64_t v)
{
    fsb_sftp_u32_(s, (uint32_t)(v >> 32));
    fsb_sftp_u32_(s, (uint32_t)v);
}

static void fsb_sftp_string_(fsb_sftp_ *s, const void *data, size_t size)
{
    fsb_sftp_u32_(s, (uint32_t)size);
    fsb_sftp_bytes_(s, data, size);
}

static void fsb_sftp_text_(fsb_sftp_ *s, const char *text)
{
    fsb_sftp_string_(s, text, strlen(text));
}

static void fsb_sftp_path_(fsb_sftp_ *s, const char *path) /* the server's, of ours */
{
    const size_t size = path[1] ? strlen(path) : 0;
    const size_t all = s->h->root_size + size;
    if (all > FSB_PATH_MAX) s->broken = -ENAMETOOLONG;
    fsb_sftp_u32_(s, all ? (uint32_t)all : 1);
    fsb_sftp_bytes_(s, s->h->root, s->h->root_size);
    if (all) fsb_sftp_bytes_(s, path, size);
    else fsb_sftp_bytes_(s, "/", 1);
}

/* Starts a request; fsb_sftp_finish_() with what it returned closes it. */
static size_t fsb_sftp_begin_(fsb_sftp_ *s, unsigned char type)
{
    const size_t at = s->out_size;
    fsb_sftp_u32_(s, 0);
    fsb_sftp_bytes_(s, &type, 1);
    fsb_sftp_u32_(s, s->index << 16 | s->next_id++);
    return at;
}

static void fsb_sftp_finish_(fsb_sftp_ *s, size_t at)
{
    if (s->broken) return;
    const size_t size = s->out_size - at - 4;
    for (int i = 0; i < 4; ++i) s->out[at + (size_t)i] = (unsigned char)(size >> (24 - 8 * i));
}

static void fsb_sftp_on_path_(fsb_sftp_ *s, unsigned char type, const char *path)
{
    const size_t at = fsb_sftp_begin_(s, type);
    fsb_sftp_path_(s, path);
    fsb_sftp_finish_(s, at);
}

static void fsb_sftp_on_file_(fsb_sftp_ *s, unsigned char type, const fsb_sftp_file_ *f)
{
    const size_t at = fsb_sftp_begin_(s, type);
    fsb_sftp_string_(s, f->name, f->size);
    fsb_sftp_finish_(s, at);
}

/* A CLOSE whose answer nobody waits for; it goes along with the next exchange. */
static void fsb_sftp_close_later_(fsb_sftp_ *s, const fsb_sftp_file_ *f)
{
    const size_t at = s->out_size;
    fsb_sftp_on_file_(s, FSB_SFTP_CLOSE_, f);
    --s->next_id;
    if (!s->broken) s->out[at + 5] = s->out[at + 6] = 0xff; /* FSB_SFTP_NOBODY_ */
}

/* ---- [sftp: exchange] ------------------------------------------------------------------------ */

/* Many operations share the connection. Each sends what it has to ask, and waits; one of those who
   wait, the leader, reads, and gives everybody theirs. Once it has its own, another one leads. */

static void fsb_sftp_hang_up_(fsb_sftp_host_ *h)
{
    if (h->fds[0] >= 0) close(h->fds[0]);
    if (h->fds[1] >= 0 && h->fds[1] != h->fds[0]) close(h->fds[1]);
    h->fds[0] = h->fds[1] = -1;
    h->in_at = h->in_end = 0;
}

/* s gives the connection up: who waits for it does no longer. Locked. */
static void fsb_sftp_die_(fsb_sftp_ *s, int err)
{
    fsb_sftp_host_ *h = s->h;
    if (h->dead) return;
    s->err = err, s->tells = 1;
    __atomic_store_n(&h->dead, err, __ATOMIC_RELAXED);
    shutdown(h->fds[0], SHUT_RDWR), shutdown(h->fds[1], SHUT_RDWR);
    for (uint32_t i = 0; i < h->talk_count; ++i) pthread_cond_signal(&h->talks[i]->wake);
}

static int fsb_sftp_poll_(fsb_sftp_ *s, int fd, short events)
{
    enum { SLICE = 100 }; /* ms: no longer unaware that the connection is dead */
    struct pollfd p;
    p.fd = fd, p.events = events;
    for (;;) {
        const int64_t left = s->end - fsb_sftp_now_();
        if (left <= 0) return -ETIMEDOUT;
        if (__atomic_load_n(&s->h->dead, __ATOMIC_RELAXED)) return -ECONNRESET;
        const int n = poll(&p, 1, left > SLICE ? SLICE : (int)left);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return -errno;
    }
}

static int fsb_sftp_send_(fsb_sftp_ *s)
{
    const int fd = s->h->fds[1];
    int       err = 0;
    for (size_t at = 0; !err && at < s->out_size;) {
        ssize_t n = send(fd, s->out + at, s->out_size - at, MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK) n = write(fd, s->out + at, s->out_size - at);
        if (n >= 0) at += (size_t)n;
        else if (errno == EAGAIN) err = fsb_sftp_poll_(s, fd, POLLOUT);
        else if (errno != EINTR) err = -ECONNRESET;
    }
    s->out_size = 0;
    return err;
}

/* Reads what is there, at most `most` bytes; waits for the first. A server that never stops sending
   does not outlast the operation either. */
static int64_t fsb_sftp_recv_(fsb_sftp_ *s, void *to, size_t most)
{
    for (;;) {
        if (fsb_sftp_now_() >= s->end) return -ETIMEDOUT;
        const ssize_t n = read(s->h->fds[0], to, most);
        if (n > 0) return n;
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) return -ECONNRESET;
        const int err = errno == EAGAIN ? fsb_sftp_poll_(s, s->h->fds[0], POLLIN) : 0;
        if (err) return err;
    }
}

/* Has `size` bytes ready at h->in + h->in_at. The leader's, as all that reads. */
static int fsb_sftp_fill_(fsb_sftp_ *s, size_t size)
{
    fsb_sftp_host_ *h = s->h;
    if (h->in_at && (h->in_at == h->in_end || h->in_room - h->in_at < size)) {
        memmove(h->in, h->in + h->in_at, h->in_end - h->in_at);
        h->in_end -= h->in_at, h->in_at = 0;
    }
    if (h->in_room < size || !h->in) {
        const size_t room = size > FSB_SFTP_BUFFER_ ? size : (size_t)FSB_SFTP_BUFFER_;
        void *p = fsb_backend_resize_(&h->desc.allocator, h->in, h->in_room, room);
        if (!p) return -ENOMEM;
        h->in = (unsigned char *)p, h->in_room = room;
    }
    while (h->in_end - h->in_at < size) {
        const int64_t n = fsb_sftp_recv_(s, h->in + h->in_end, h->in_room - h->in_end);
        if (n < 0) return (int)n;
        h->in_end += (size_t)n;
    }
    return 0;
}

/* Reads `size` bytes to where they belong. */
static int fsb_sftp_into_(fsb_sftp_ *s, unsigned char *to, size_t size)
{
    fsb_sftp_host_ *h = s->h;
    const size_t    have = h->in_end - h->in_at;
    size_t          got = size < have ? size : have;
    memcpy(to, h->in + h->in_at, got);
    h->in_at += got;
    while (got < size) {
        const int64_t n = fsb_sftp_recv_(s, to + got, size - got);
        if (n < 0) return (int)n;
        got += (size_t)n;
    }
    return 0;
}

/* What is read from an answer; err sticks once it was too short. */
typedef struct fsb_sftp_cursor_ {
    const unsigned char *at;
    size_t               left;
    int                  err;
} fsb_sftp_cursor_;

static const unsigned char *fsb_sftp_get_(fsb_sftp_cursor_ *c, size_t size)
{
    static const unsigned char zero[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (c->err || c->left < size) {
        c->err = -EPROTO, c->left = 0;
        return zero;
    }
    const unsigned char *p = c->at;
    c->at += size, c->left -= size;
    return p;
}

static uint32_t fsb_sftp_get32_(fsb_sftp_cursor_ *c)
{
    const unsigned char *p = fsb_sftp_get_(c, 4);
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t fsb_sftp_get64_(fsb_sftp_cursor_ *c)
{
    const uint64_t high = fsb_sftp_get32_(c);
    return high << 32 | fsb_sftp_get32_(c);
}

static const unsigned char *fsb_sftp_get_string_(fsb_sftp_cursor_ *c, size_t *size)
{
    *size = fsb_sftp_get32_(c);
    const unsigned char *p = fsb_sftp_get_(c, *size);
    if (c->err) *size = 0;
    return p;
}

static void fsb_sftp_get_stat_(fsb_sftp_cursor_ *c, fsb_stat *st)
{
    memset(st, 0, sizeof *st);
    const uint32_t flags = fsb_sftp_get32_(c);
    if (flags & 1) st->size = fsb_sftp_get64_(c);
    if (flags & 2) st->uid = fsb_sftp_get32_(c), st->gid = fsb_sftp_get32_(c);
    st->mode = flags & 4 ? fsb_sftp_get32_(c) : S_IFREG | 0644;
    if (flags & 8) {
        st->atime_ns = (int64_t)fsb_sftp_get32_(c) * 1000000000;
        st->mtime_ns = (int64_t)fsb_sftp_get32_(c) * 1000000000;
    }
    for (uint32_t n = flags & 0x80000000U ? fsb_sftp_get32_(c) : 0; n && !c->err; --n) {
        size_t size;
        (void)fsb_sftp_get_string_(c, &size), (void)fsb_sftp_get_string_(c, &size);
    }
    st->ctime_ns = st->mtime_ns, st->nlink = 1, st->blksize = 131072;
    st->blocks = st->size / 512 + (st->size % 512 != 0);
}

static int fsb_sftp_errno_(uint32_t status)
{
    switch (status) {
    case 0: return 0;
    case 2: case 10: return -ENOENT;
    case 3: return -EACCES;
    case 5: return -EINVAL;
    case 6: case 7: return -ECONNRESET;
    case 8: return -EOPNOTSUPP;
    case 11: return -EEXIST;
    case 12: return -EROFS;
    case 14: return -ENOSPC;
    case 15: return -EDQUOT;
    case 18: return -ENOTEMPTY;
    case 19: return -ENOTDIR;
    case 21: return -ELOOP;
    default: return -EIO; /* 4, Failure: anything */
    }
}

/* An answer that stays with who waits for it. */
static int fsb_sftp_keep_(fsb_sftp_ *s, fsb_sftp_answer_ *a, const fsb_sftp_cursor_ *c)
{
    const size_t need = s->in_size + c->left;
    if (s->in_room < need) {
        void *p = fsb_backend_resize_(&s->h->desc.allocator, s->in, s->in_room, 2 * need);
        if (!p) return -ENOMEM;
        s->in = (unsigned char *)p, s->in_room = 2 * need;
    }
    memcpy(s->in + s->in_size, c->at, c->left);
    a->body_at = s->in_size, a->body_size = c->left;
    a->body = s->in + s->in_size;
    s->in_size = need;
    return 0;
}

static int fsb_sftp_take_(fsb_sftp_ *s, fsb_sftp_answer_ *a, unsigned char type,
                          fsb_sftp_cursor_ c)
{
    if (type == FSB_SFTP_STATUS_) {
        const uint32_t status = fsb_sftp_get32_(&c);
        a->eof = status == 1;
        a->err = a->eof ? 0 : fsb_sftp_errno_(status);
    } else if (type == FSB_SFTP_ATTRS_) {
        fsb_sftp_get_stat_(&c, &a->stat);
    } else if (type == FSB_SFTP_HANDLE_ || type == FSB_SFTP_NAME_
               || type == FSB_SFTP_EXTENDED_REPLY_) {
        return fsb_sftp_keep_(s, a, &c);
    } else return -EPROTO;
    return c.err;
}

/* The bytes of a DATA: `left` bytes of the packet are to come. */
static int fsb_sftp_take_data_(fsb_sftp_ *s, fsb_sftp_answer_ *a, size_t left)
{
    int err = left < 4 ? -EPROTO : fsb_sftp_fill_(s, 4);
    if (err) return err;
    fsb_sftp_cursor_ c = {s->h->in + s->h->in_at, 4, 0};
    const uint32_t   size = fsb_sftp_get32_(&c);
    s->h->in_at += 4;
    if (size > a->room || !size || size != left - 4) return -EPROTO;
    a->got = size;
    return fsb_sftp_into_(s, a->buf, size);
}

/* Whose answer number `id` is; NULL and *err 0: nobody's. It waits, so that it stays. */
static fsb_sftp_ *fsb_sftp_whose_(fsb_sftp_host_ *h, uint32_t id, fsb_sftp_answer_ **a, int *err)
{
    const uint32_t index = id >> 16;
    fsb_sftp_     *to = NULL;
    pthread_mutex_lock(&h->lock);
    *err = index == FSB_SFTP_NOBODY_ ? 0 : -EPROTO;
    if (index < h->talk_count && h->talks[index]->left) {
        to = h->talks[index];
        const uint32_t at = (uint16_t)(id - to->first);
        if (at < to->n && !to->answers[at].here) *err = 0, *a = &to->answers[at];
        else to = NULL;
    }
    pthread_mutex_unlock(&h->lock);
    return to;
}

/* Reads one packet; *to is whose it was. */
static int fsb_sftp_packet_(fsb_sftp_ *s, fsb_sftp_ **to)
{
    fsb_sftp_host_   *h = s->h;
    fsb_sftp_answer_ *a = NULL;
    int               err = fsb_sftp_fill_(s, 9);
    if (err) return err;
    fsb_sftp_cursor_    c = {h->in + h->in_at, 9, 0};
    const uint32_t      size = fsb_sftp_get32_(&c);
    const unsigned char type = *fsb_sftp_get_(&c, 1);
    *to = fsb_sftp_whose_(h, fsb_sftp_get32_(&c), &a, &err);
    if (size < 5 || size > FSB_SFTP_PACKET_MAX_) return -EPROTO;
    if (err) return err;
    h->in_at += 9;
    if (*to && type == FSB_SFTP_DATA_) {
        err = fsb_sftp_take_data_(s, a, size - 5);
    } else {
        err = fsb_sftp_fill_(s, size - 5);
        if (err) return err;
        c.at = h->in + h->in_at, c.left = size - 5, c.err = 0;
        h->in_at += size - 5;
        if (*to) err = fsb_sftp_take_(*to, a, type, c);
    }
    if (a) a->here = 1;
    return err;
}

/* Reads for all until s has what it waits for. Locked, but not meanwhile. */
static void fsb_sftp_lead_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    h->leader = s;
    while (s->left && !h->dead) {
        fsb_sftp_ *to = NULL;
        pthread_mutex_unlock(&h->lock);
        const int err = fsb_sftp_packet_(s, &to);
        pthread_mutex_lock(&h->lock);
        if (err) {
            fsb_sftp_die_(s, err);
        } else if (to && !--to->left && to != s) {
            pthread_cond_signal(&to->wake);
        }
    }
    h->leader = NULL;
    for (uint32_t i = 0; i < h->talk_count; ++i) { /* the next one; all, if it is over */
        fsb_sftp_ *other = h->talks[i];
        if (!other->left || !other->sent || other == s) continue;
        pthread_cond_signal(&other->wake);
        if (!h->dead) break;
    }
}

/* Waits to be done or to lead; locked. */
static void fsb_sftp_wait_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    while (s->left && !(h->dead && !h->leader)) {
        struct timespec t;
        if (!h->leader) {
            fsb_sftp_lead_(s);
            continue;
        }
        t.tv_sec = (time_t)(s->end / 1000), t.tv_nsec = (long)(s->end % 1000) * 1000000;
        const int late = h->dead ? pthread_cond_wait(&s->wake, &h->lock)
                                 : pthread_cond_timedwait(&s->wake, &h->lock, &t);
        if (late == ETIMEDOUT && s->left) fsb_sftp_die_(s, -ETIMEDOUT);
    }
}

/* Into those that the connection is kept for, and out again. */
static int fsb_sftp_join_(fsb_sftp_ *s, fsb_sftp_answer_ *answers, uint32_t n)
{
    fsb_sftp_host_ *h = s->h;
    pthread_mutex_lock(&h->lock);
    const int gone = h->dead || h->fds[0] < 0 || s->epoch != h->epoch;
    if (!gone) {
        ++h->users;
        s->answers = answers, s->n = s->left = n, s->first = (uint16_t)(s->next_id - n);
        s->sent = s->err = s->tells = 0, s->in_size = 0;
    }
    pthread_mutex_unlock(&h->lock);
    return gone ? -ECONNRESET : 0;
}

static void fsb_sftp_part_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    if (s->left && !s->err) s->err = -ECONNRESET;
    s->left = 0;
    if (--h->users || !h->dead) return;
    fsb_sftp_hang_up_(h);
    pthread_cond_broadcast(&h->calm);
}

/* Sends the requests made since the last exchange, the last n of which have answers to wait for, in
   whatever order they come. 0, or why the connection is gone. */
static int fsb_sftp_exchange_(fsb_sftp_ *s, fsb_sftp_answer_ *answers, uint32_t n)
{
    fsb_sftp_host_ *h = s->h;
    int             err = s->broken;
    s->broken = 0;
    if (!err) err = fsb_sftp_join_(s, answers, n);
    if (err) {
        s->out_size = 0;
        return err;
    }
    pthread_mutex_lock(&h->sending);
    err = fsb_sftp_send_(s);
    pthread_mutex_unlock(&h->sending);
    pthread_mutex_lock(&h->lock);
    s->sent = 1;
    if (err) fsb_sftp_die_(s, err);
    fsb_sftp_wait_(s);
    fsb_sftp_part_(s);
    pthread_mutex_unlock(&h->lock);
    if (s->tells && h->desc.log.fn)
        h->desc.log.fn(h->desc.log.user, FSB_LOG_WARN, "sftp/connection", strerror(-s->err));
    for (uint32_t i = 0; i < n; ++i) /* `in` may have moved */
        if (answers[i].body) answers[i].body = s->in + answers[i].body_at;
    return s->err;
}

/* One request, already made, and its answer; *a may be NULL. */
static int fsb_sftp_one_(fsb_sftp_ *s, fsb_sftp_answer_ *a)
{
    fsb_sftp_answer_ mine;
    memset(&mine, 0, sizeof mine);
    const int err = fsb_sftp_exchange_(s, &mine, 1);
    if (a) *a = mine;
    return err ? err : mine.err;
}

/* The handle that OPEN or OPENDIR answers. */
static int fsb_sftp_named_(fsb_sftp_ *s, const fsb_sftp_answer_ *a, fsb_sftp_file_ *f)
{
    size_t               size = 0;
    fsb_sftp_cursor_     c = {a->body, a->body ? a->body_size : 0, 0};
    const unsigned char *name = fsb_sftp_get_string_(&c, &size);
    if (c.err || size > sizeof f->name) return -EPROTO;
    memcpy(f->name, name, size);
    f->size = (uint32_t)size, f->epoch = s->epoch;
    return 0;
}

/* ---- [sftp: connection] ---------------------------------------------------------------------- */

static void fsb_sftp_extension_(fsb_sftp_ *s, const unsigned char *name, size_t size)
{
    static const struct { const char *name; uint32_t bit; } known[] = {
        {"posix-rename@openssh.com", FSB_SFTP_POSIX_RENAME_},
        {"statvfs@openssh.com", FSB_SFTP_STATVFS_}, {"hardlink@openssh.com", FSB_SFTP_HARDLINK_},
        {"fsync@openssh.com", FSB_SFTP_FSYNC_}, {"lsetstat@openssh.com", FSB_SFTP_LSETSTAT_},
        {"limits@openssh.com", FSB_SFTP_LIMITS_}, {"copy-data", FSB_SFTP_COPY_DATA_}};
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
        if (strlen(known[i].name) == size && memcmp(known[i].name, name, size) == 0)
            s->extensions |= known[i].bit;
}

static size_t fsb_sftp_extended_(fsb_sftp_ *s, const char *name)
{
    const size_t at = fsb_sftp_begin_(s, FSB_SFTP_EXTENDED_);
    fsb_sftp_text_(s, name);
    return at;
}

static int fsb_sftp_hello_(fsb_sftp_ *s)
{
    static const unsigned char init[9] = {0, 0, 0, 5, FSB_SFTP_INIT_, 0, 0, 0, 3};
    fsb_sftp_host_            *h = s->h;
    s->out_size = 0, s->extensions = 0;
    fsb_sftp_bytes_(s, init, sizeof init);
    int err = s->broken ? s->broken : fsb_sftp_send_(s);
    s->broken = 0;
    if (!err) err = fsb_sftp_fill_(s, 4);
    if (err) return err == -ECONNRESET ? -EPROTO : err;
    fsb_sftp_cursor_ c = {h->in + h->in_at, 4, 0};
    const uint32_t   size = fsb_sftp_get32_(&c);
    if (size < 5 || size > 65536) return -EPROTO;
    err = fsb_sftp_fill_(s, 4 + size);
    if (err) return err == -ECONNRESET ? -EPROTO : err;
    c.at = h->in + h->in_at + 5, c.left = size - 1, c.err = 0;
    if (h->in[h->in_at + 4] != FSB_SFTP_VERSION_ || fsb_sftp_get32_(&c) < 3) return -EPROTO;
    while (c.left && !c.err) {
        size_t               n, m;
        const unsigned char *name = fsb_sftp_get_string_(&c, &n);
        (void)fsb_sftp_get_string_(&c, &m);
        if (!c.err) fsb_sftp_extension_(s, name, n);
    }
    h->in_at += 4 + size;
    return c.err;
}

static int fsb_sftp_limits_(fsb_sftp_ *s)
{
    fsb_sftp_answer_ a;
    s->max_read = s->max_write = FSB_SFTP_PIECE_;
    if (!(s->extensions & FSB_SFTP_LIMITS_)) return 0;
    fsb_sftp_finish_(s, fsb_sftp_extended_(s, "limits@openssh.com"));
    const int err = fsb_sftp_one_(s, &a);
    if (a.err || err || !a.body) return a.err ? 0 : err; /* refused: as if there were none */
    fsb_sftp_cursor_ c = {a.body, a.body_size, 0};
    (void)fsb_sftp_get64_(&c);
    const uint64_t reads = fsb_sftp_get64_(&c), writes = fsb_sftp_get64_(&c), most = 256 << 10;
    if (c.err) return c.err;
    if (reads > FSB_SFTP_PIECE_) s->max_read = (uint32_t)(reads < most ? reads : most);
    if (writes > FSB_SFTP_PIECE_) s->max_write = (uint32_t)(writes < most ? writes : most);
    return 0;
}

/* Root as the server names it, which must be a folder. */
static int fsb_sftp_find_root_(fsb_sftp_ *s)
{
    fsb_sftp_host_  *h = s->h;
    fsb_sftp_answer_ a;
    size_t           at = fsb_sftp_begin_(s, FSB_SFTP_REALPATH_), size = 0;
    fsb_sftp_text_(s, h->home);
    fsb_sftp_finish_(s, at);
    int err = fsb_sftp_one_(s, &a);
    if (err) return err;
    fsb_sftp_cursor_ c = {a.body, a.body ? a.body_size : 0, 0};
    const uint32_t       names = fsb_sftp_get32_(&c);
    const unsigned char *path = fsb_sftp_get_string_(&c, &size);
    if (names != 1 || c.err || !size || path[0] != '/' || size > FSB_PATH_MAX) return -EPROTO;
    memcpy(h->root, path, size);
    h->root_size = size > 1 ? size : 0, h->root[h->root_size] = '\0';
    at = fsb_sftp_begin_(s, FSB_SFTP_OPENDIR_); /* follows a link, unlike LSTAT */
    fsb_sftp_path_(s, "/");
    fsb_sftp_finish_(s, at);
    err = fsb_sftp_one_(s, &a);
    if (err) return err == -EIO ? -ENOTDIR : err;
    fsb_sftp_file_ folder;
    err = fsb_sftp_named_(s, &a, &folder);
    if (err) return err;
    fsb_sftp_close_later_(s, &folder);
    return fsb_sftp_exchange_(s, NULL, 0);
}

/* Makes the connection, while everybody else waits. */
static int fsb_sftp_make_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    int             fds[2] = {-1, -1};
    int             err = h->desc.connect(h->desc.user, fds);
    pthread_mutex_lock(&h->lock);
    __atomic_store_n(&h->dead, 0, __ATOMIC_RELAXED);
    if (err >= 0) h->fds[0] = fds[0], h->fds[1] = fds[1];
    s->epoch = ++h->epoch;
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; err >= 0 && i < 2; ++i)
        if (fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK) < 0) err = -errno;
    if (err >= 0) err = fsb_sftp_hello_(s);
    if (!err) err = fsb_sftp_limits_(s);
    if (!err && !h->root[0]) err = fsb_sftp_find_root_(s);
    pthread_mutex_lock(&h->lock);
    if (err) fsb_sftp_hang_up_(h);
    h->extensions = s->extensions, h->max_read = s->max_read, h->max_write = s->max_write;
    h->making = 0;
    pthread_cond_broadcast(&h->calm);
    pthread_mutex_unlock(&h->lock);
    return err;
}

/* Connects if there is no connection. */
static int fsb_sftp_connect_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    pthread_mutex_lock(&h->lock);
    while (h->making || (h->dead && h->users)) pthread_cond_wait(&h->calm, &h->lock);
    const int up = h->fds[0] >= 0 && !h->dead;
    if (!up) h->making = 1;
    s->epoch = h->epoch, s->extensions = h->extensions;
    s->max_read = h->max_read, s->max_write = h->max_write;
    pthread_mutex_unlock(&h->lock);
    return up ? 0 : fsb_sftp_make_(s);
}

static int fsb_sftp_alive_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    pthread_mutex_lock(&h->lock);
    const int alive = h->fds[0] >= 0 && !h->dead && s->epoch == h->epoch;
    pthread_mutex_unlock(&h->lock);
    return alive;
}

static fsb_sftp_ *fsb_sftp_talk_new_(fsb_sftp_host_ *h)
{
    const fsb_allocator *a = &h->desc.allocator;
    pthread_condattr_t   attr;
    if (h->talk_count == h->talk_room) {
        const uint32_t room = h->talk_room * 2 + 16;
        void *more = h->talk_count >= FSB_SFTP_NOBODY_ - 1 ? NULL
            : fsb_backend_resize_(a, h->talks, h->talk_room * sizeof *h->talks,
                                  room * sizeof *h->talks);
        if (!more) return NULL;
        h->talks = (fsb_sftp_ **)more, h->talk_room = room;
    }
    fsb_sftp_ *s = (fsb_sftp_ *)fsb_backend_new_(a, sizeof *s);
    if (!s) return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    s->h = h, s->index = h->talk_count;
    return h->talks[h->talk_count++] = s;
}

/* A talk for one operation, and back. */
static fsb_sftp_ *fsb_sftp_talk_(fsb_sftp_host_ *h, uint32_t timeout_ms)
{
    pthread_mutex_lock(&h->lock);
    fsb_sftp_ *s = h->idle ? h->idle : fsb_sftp_talk_new_(h);
    if (s) {
        h->idle = s->next, s->next = NULL, s->epoch = h->epoch, s->extensions = h->extensions;
        s->max_read = h->max_read, s->max_write = h->max_write;
    }
    pthread_mutex_unlock(&h->lock);
    if (s) s->end = fsb_sftp_now_() + (timeout_ms ? timeout_ms : h->desc.timeout_ms);
    return s;
}

static void fsb_sftp_talked_(fsb_sftp_ *s)
{
    fsb_sftp_host_ *h = s->h;
    s->out_size = 0;
    pthread_mutex_lock(&h->lock);
    s->next = h->idle, h->idle = s;
    pthread_mutex_unlock(&h->lock);
}

/* ---- [sftp: stat] ---------------------------------------------------------------------------- */

static uint64_t fsb_sftp_hash_(const char *path) /* FNV-1a, finished */
{
    uint64_t h = 0xcbf29ce484222325ULL;
    for (; *path; ++path) h = (h ^ (unsigned char)*path) * 0x100000001b3ULL;
    return fsb_backend_mix_(h);
}

static uint64_t *fsb_sftp_writes_(fsb_sftp_ *s, const char *path)
{
    return &s->h->writes[fsb_sftp_hash_(path) % FSB_SFTP_COUNTS_];
}

/* This backend changed something: what is counted of it, and that a kept listing may be wrong. */
static void fsb_sftp_count_(fsb_sftp_ *s, uint64_t *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&s->h->changes, 1, __ATOMIC_RELEASE);
}

static uint64_t fsb_sftp_id_(fsb_sftp_ *s, const char *path)
{
    const uint64_t h = fsb_sftp_hash_(path);
    const uint64_t lives = __atomic_load_n(&s->h->lives[h % FSB_SFTP_COUNTS_], __ATOMIC_RELAXED);
    const uint64_t id = fsb_backend_mix_(h + lives);
    return id ? id : 1;
}

/* OPEN of a FIFO hangs the server, and all who use the connection: so what is to be opened is
   looked at first, or was found to be a regular file within a minute. An entry: half of the path's
   hash, the last bit of it turned for a folder, and when, in quarters of a second. */
static uint32_t *fsb_sftp_seen_(fsb_sftp_ *s, const char *path, int folder, uint32_t *entry)
{
    const uint64_t h = fsb_sftp_hash_(path);
    const uint32_t tag = (uint32_t)(h >> 48) ^ (folder ? 1u : 0);
    *entry = tag << 16 | (uint32_t)(fsb_sftp_now_() >> 8 & 0xffff);
    return &s->h->seen[h % FSB_SFTP_SEEN_];
}

static int fsb_sftp_is_known_(fsb_sftp_ *s, const char *path, int folder)
{
    enum { MINUTE = 240 };
    uint32_t       now;
    const uint32_t was = __atomic_load_n(fsb_sftp_seen_(s, path, folder, &now), __ATOMIC_RELAXED);
    return was >> 16 == now >> 16 && (uint16_t)(now - was) < MINUTE;
}

static void fsb_sftp_note_(fsb_sftp_ *s, const char *path, uint32_t mode)
{
    uint32_t  entry, *at = fsb_sftp_seen_(s, path, S_ISDIR(mode), &entry);
    const int known = S_ISREG(mode) || S_ISDIR(mode);
    if (known || __atomic_load_n(at, __ATOMIC_RELAXED) >> 17 == entry >> 17)
        __atomic_store_n(at, known ? entry : ~entry, __ATOMIC_RELAXED);
}

static void fsb_sftp_identify_(fsb_stat *st, uint64_t id, const uint64_t *counter)
{
    const uint64_t writes = __atomic_load_n(counter, __ATOMIC_RELAXED);
    st->file_id = st->ino = id;
    st->version = fsb_backend_mix_((uint64_t)st->mtime_ns + fsb_backend_mix_(st->size + writes));
    if (!st->version) st->version = 1;
}

/* Makes `path` the folder that it is in. */
static void fsb_sftp_up_(char *path)
{
    char *slash = strrchr(path, '/');
    slash[slash == path] = '\0';
}

/* A folder got or lost the name `path`: another version of it. */
static void fsb_sftp_folder_changed_(fsb_sftp_ *s, const char *path)
{
    char folder[FSB_PATH_MAX + 1];
    memcpy(folder, path, strlen(path) + 1);
    fsb_sftp_up_(folder);
    fsb_sftp_count_(s, fsb_sftp_writes_(s, folder));
}

/* The name is another file's from now on, or nobody's. */
static void fsb_sftp_gone_(fsb_sftp_ *s, const char *path)
{
    fsb_sftp_count_(s, &s->h->lives[fsb_sftp_hash_(path) % FSB_SFTP_COUNTS_]);
    fsb_sftp_count_(s, fsb_sftp_writes_(s, path));
    fsb_sftp_note_(s, path, 0);
    fsb_sftp_folder_changed_(s, path);
}

/* What LSTAT of path has answered. */
static int fsb_sftp_looked_(fsb_sftp_ *s, const char *path, const fsb_sftp_answer_ *a,
                            fsb_stat *st)
{
    if (a->err) return a->err;
    *st = a->stat;
    fsb_sftp_identify_(st, fsb_sftp_id_(s, path), fsb_sftp_writes_(s, path));
    fsb_sftp_note_(s, path, st->mode);
    return 0;
}

static int fsb_sftp_lstat_(fsb_sftp_ *s, const char *path, fsb_stat *st)
{
    fsb_sftp_answer_ a;
    fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, path);
    const int err = fsb_sftp_one_(s, &a);
    return err ? err : fsb_sftp_looked_(s, path, &a, st);
}

/* Servers say "no such file" of a path below a file, too: -ENOENT or -ENOTDIR. What is above is
   asked in one exchange, unless the folder of path was met of late. */
static int fsb_sftp_missing_(fsb_sftp_ *s, const char *path)
{
    enum { MOST = FSB_SFTP_MOST_ };
    fsb_sftp_answer_ a[MOST];
    char             up[FSB_PATH_MAX + 1];
    uint32_t         n = 0;
    memset(a, 0, sizeof a);
    memcpy(up, path, strlen(path) + 1);
    for (fsb_sftp_up_(up); up[1] && n < MOST; fsb_sftp_up_(up), ++n) {
        if (!n && fsb_sftp_is_known_(s, up, 1)) return -ENOENT;
        fsb_sftp_on_path_(s, FSB_SFTP_STAT_, up);
    }
    if (!n || fsb_sftp_exchange_(s, a, n)) return -ENOENT;
    for (uint32_t i = 0; i < n; ++i)
        if (!a[i].err) return S_ISDIR(a[i].stat.mode) ? -ENOENT : -ENOTDIR;
    return -ENOENT;
}

/* -ESTALE: op->path is not the file that was meant. */
static int fsb_sftp_meant_(fsb_sftp_ *s, const fsb_op *op)
{
    return op->file_id && op->file_id != fsb_sftp_id_(s, op->path) ? -ESTALE : 0;
}

/* LSTAT of op->path, which must be the file that was meant. */
static int fsb_sftp_look_(fsb_sftp_ *s, fsb_op *op, fsb_stat *st)
{
    const int err = fsb_sftp_meant_(s, op);
    return err ? err : fsb_sftp_lstat_(s, op->path, st);
}

static int fsb_sftp_is_regular_(const fsb_stat *st)
{
    if (S_ISDIR(st->mode)) return -EISDIR;
    if (S_ISLNK(st->mode)) return -ELOOP;
    return S_ISREG(st->mode) ? 0 : -ENXIO;
}

/* ---- [sftp: files] --------------------------------------------------------------------------- */

static int fsb_sftp_drop_(void *owner, fsb_backend_slot_ *slot)
{
    fsb_sftp_host_ *h = (fsb_sftp_host_ *)owner;
    fsb_backend_free_(&h->desc.allocator, slot->object, sizeof(fsb_sftp_file_));
    return 0;
}

static void fsb_sftp_ask_open_(fsb_sftp_ *s, const char *path, uint32_t pflags, uint32_t mode)
{
    const size_t at = fsb_sftp_begin_(s, FSB_SFTP_OPEN_);
    fsb_sftp_path_(s, path);
    fsb_sftp_u32_(s, pflags);
    fsb_sftp_u32_(s, 4);
    fsb_sftp_u32_(s, mode);
    fsb_sftp_finish_(s, at);
}

static int fsb_sftp_opened_(fsb_sftp_ *s, const char *path, const fsb_sftp_answer_ *a,
                            fsb_sftp_file_ *f)
{
    if (a->err) return a->err;
    f->file_id = fsb_sftp_id_(s, path), f->writes = fsb_sftp_writes_(s, path);
    return fsb_sftp_named_(s, a, f);
}

static int fsb_sftp_open_(fsb_sftp_ *s, const char *path, uint32_t pflags, uint32_t mode,
                          fsb_sftp_file_ *f)
{
    fsb_sftp_answer_ a;
    fsb_sftp_ask_open_(s, path, pflags, mode);
    const int err = fsb_sftp_one_(s, &a);
    return err ? err : fsb_sftp_opened_(s, path, &a, f);
}

static int fsb_sftp_close_file_(fsb_sftp_ *s, const fsb_sftp_file_ *f)
{
    fsb_sftp_on_file_(s, FSB_SFTP_CLOSE_, f);
    return fsb_sftp_one_(s, NULL);
}

/* Closes a file that nothing was written to. */
static void fsb_sftp_drop_file_(fsb_sftp_ *s, const fsb_sftp_file_ *f)
{
    fsb_sftp_close_later_(s, f);
    (void)fsb_sftp_exchange_(s, NULL, 0);
}

static void fsb_sftp_seconds_(fsb_sftp_ *s, int64_t t) /* from 1970 to 2106 */
{
    fsb_sftp_u32_(s, t < 0 ? 0 : t > UINT32_MAX ? UINT32_MAX : (uint32_t)t);
}

static void fsb_sftp_attrs_(fsb_sftp_ *s, const fsb_attr *a, const fsb_stat *now, uint32_t mask)
{
    const uint32_t owner = mask & (FSB_ATTR_UID | FSB_ATTR_GID);
    const uint32_t times = mask & (FSB_ATTR_ATIME | FSB_ATTR_MTIME | FSB_ATTR_ATIME_NOW
                                   | FSB_ATTR_MTIME_NOW);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    fsb_sftp_u32_(s, (mask & FSB_ATTR_SIZE ? 1u : 0) | (owner ? 2u : 0)
                         | (mask & FSB_ATTR_MODE ? 4u : 0) | (times ? 8u : 0));
    if (mask & FSB_ATTR_SIZE) fsb_sftp_u64_(s, a->size);
    if (owner) fsb_sftp_u32_(s, mask & FSB_ATTR_UID ? a->uid : now->uid);
    if (owner) fsb_sftp_u32_(s, mask & FSB_ATTR_GID ? a->gid : now->gid);
    if (mask & FSB_ATTR_MODE) fsb_sftp_u32_(s, a->mode & 07777);
    if (!times) return;
    const int64_t atime = mask & FSB_ATTR_ATIME ? a->atime_ns / 1000000000
        : mask & FSB_ATTR_ATIME_NOW             ? t.tv_sec
                                                : now->atime_ns / 1000000000;
    const int64_t mtime = mask & FSB_ATTR_MTIME ? a->mtime_ns / 1000000000
        : mask & FSB_ATTR_MTIME_NOW             ? t.tv_sec
                                                : now->mtime_ns / 1000000000;
    fsb_sftp_seconds_(s, atime);
    fsb_sftp_seconds_(s, mtime);
}

/* Makes the requests that set what `mask` says of a file (f) or a path, whose stat is *now; returns
   their number. The owner first: it takes set-user-id away. */
static uint32_t fsb_sftp_ask_set_(fsb_sftp_ *s, const char *path, const fsb_sftp_file_ *f,
                                  const fsb_attr *attr, uint32_t mask, const fsb_stat *now)
{
    const uint32_t owner = FSB_ATTR_UID | FSB_ATTR_GID, link = !f && S_ISLNK(now->mode);
    const uint32_t parts[2] = {mask & owner, mask & ~owner};
    uint32_t       n = 0;
    for (int i = 0; i < 2; ++i) {
        if (!parts[i]) continue;
        const size_t at = link ? fsb_sftp_extended_(s, "lsetstat@openssh.com")
                               : fsb_sftp_begin_(s, f ? FSB_SFTP_FSETSTAT_ : FSB_SFTP_SETSTAT_);
        if (f) fsb_sftp_string_(s, f->name, f->size);
        else fsb_sftp_path_(s, path);
        fsb_sftp_attrs_(s, attr, now, parts[i]);
        fsb_sftp_finish_(s, at);
        ++n;
    }
    return n;
}

/* n answers without an error; the last is a stat. */
static int fsb_sftp_well_(const fsb_sftp_answer_ *answers, uint32_t n)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < n; ++i) err = answers[i].err;
    return err;
}

/* Sets what attr asks of a file (f) or a path whose stat is *st; *st is new afterwards. */
static int fsb_sftp_set_(fsb_sftp_ *s, const char *path, const fsb_sftp_file_ *f,
                         const fsb_attr *attr, uint32_t mask, fsb_stat *st)
{
    const int        link = S_ISLNK(st->mode);
    fsb_sftp_answer_ answers[3];
    memset(answers, 0, sizeof answers);
    if (link && mask & FSB_ATTR_MODE) return -EOPNOTSUPP;
    if (link && mask && !(s->extensions & FSB_SFTP_LSETSTAT_)) return -EOPNOTSUPP;
    const uint32_t n = fsb_sftp_ask_set_(s, path, f, attr, mask, st);
    if (f) fsb_sftp_on_file_(s, FSB_SFTP_FSTAT_, f);
    else fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, path);
    int err = fsb_sftp_exchange_(s, answers, n + 1);
    if (!err) err = fsb_sftp_well_(answers, n + 1);
    if (err) return err;
    uint64_t *writes = f ? f->writes : fsb_sftp_writes_(s, path);
    if (mask) fsb_sftp_count_(s, writes);
    *st = answers[n].stat;
    fsb_sftp_identify_(st, f ? f->file_id : fsb_sftp_id_(s, path), writes);
    return 0;
}

static void fsb_sftp_ask_read_(fsb_sftp_ *s, const fsb_sftp_file_ *f, uint64_t offset, size_t size)
{
    const size_t at = fsb_sftp_begin_(s, FSB_SFTP_READ_);
    fsb_sftp_string_(s, f->name, f->size);
    fsb_sftp_u64_(s, offset);
    fsb_sftp_u32_(s, (uint32_t)size);
    fsb_sftp_finish_(s, at);
}

/* Reads up to size bytes, all pieces in flight at once; fewer only at the end of the file. With
   `last`, the file is closed behind them: what is short then is its end, as servers promise. */
static int64_t fsb_sftp_read_(fsb_sftp_ *s, const fsb_sftp_file_ *f, uint64_t offset, void *buf,
                              size_t size, int last)
{
    enum { MOST = FSB_SFTP_MOST_ };
    fsb_sftp_answer_ answers[MOST];
    unsigned char   *to = (unsigned char *)buf;
    size_t           done = 0;
    while (done < size) {
        uint32_t n = 0;
        memset(answers, 0, sizeof answers);
        for (size_t from = done; from < size && n < MOST; from += answers[n++].room) {
            answers[n].buf = to + from;
            answers[n].room = size - from < s->max_read ? size - from : s->max_read;
            fsb_sftp_ask_read_(s, f, offset + from, answers[n].room);
        }
        if (last) fsb_sftp_close_later_(s, f);
        const int err = fsb_sftp_exchange_(s, answers, n);
        if (err) return err;
        for (uint32_t i = 0; i < n; ++i) { /* a short piece: what is behind it is asked again */
            if (answers[i].err) return answers[i].err;
            if (answers[i].eof) return (int64_t)done;
            done += answers[i].got;
            if (answers[i].got < answers[i].room) break;
        }
        if (last) break;
    }
    return (int64_t)done;
}

/* Why a server said no more than Failure to a write. */
static int fsb_sftp_why_(fsb_sftp_ *s, int err)
{
    fsb_sftp_answer_ a;
    if (err != -EIO || !(s->extensions & FSB_SFTP_STATVFS_)) return err;
    const size_t at = fsb_sftp_extended_(s, "statvfs@openssh.com");
    fsb_sftp_path_(s, "/");
    fsb_sftp_finish_(s, at);
    if (fsb_sftp_one_(s, &a) || !a.body || a.body_size < 40) return err;
    fsb_sftp_cursor_ c = {a.body + 32, 8, 0}; /* f_bavail */
    return fsb_sftp_get64_(&c) ? err : -ENOSPC;
}

/* Makes the requests of a WRITE; returns their number. */
static uint32_t fsb_sftp_ask_write_(fsb_sftp_ *s, const fsb_sftp_file_ *f, uint64_t offset,
                                    const void *data, size_t size)
{
    const unsigned char *from = (const unsigned char *)data;
    uint32_t             n = 0;
    for (size_t done = 0, piece; done < size; done += piece, ++n) {
        piece = size - done < s->max_write ? size - done : s->max_write;
        const size_t at = fsb_sftp_begin_(s, FSB_SFTP_WRITE_);
        fsb_sftp_string_(s, f->name, f->size);
        fsb_sftp_u64_(s, offset + done);
        fsb_sftp_string_(s, from + done, piece);
        fsb_sftp_finish_(s, at);
    }
    return n;
}

static int64_t fsb_sftp_write_(fsb_sftp_ *s, const fsb_sftp_file_ *f, uint64_t offset,
                               const void *data, size_t size, fsb_stat *st)
{
    fsb_sftp_answer_ answers[FSB_SFTP_MOST_ + 1];
    memset(answers, 0, sizeof answers);
    const uint32_t n = fsb_sftp_ask_write_(s, f, offset, data, size);
    fsb_sftp_on_file_(s, FSB_SFTP_FSTAT_, f);
    int err = fsb_sftp_exchange_(s, answers, n + 1);
    if (!err) err = fsb_sftp_well_(answers, n + 1);
    if (err) return fsb_sftp_why_(s, err);
    if (size) fsb_sftp_count_(s, f->writes);
    *st = answers[n].stat;
    fsb_sftp_identify_(st, f->file_id, f->writes);
    return (int64_t)size;
}

/* What a file that was just opened is to get: all in one exchange. */
typedef struct fsb_sftp_fill_with_ {
    uint32_t    mask; /* of op->attr: a new file's; SIZE: an old one's is cut to 0 */
    const void *data;
    size_t      size;
    int         close;
} fsb_sftp_fill_with_;

static int fsb_sftp_fill_file_(fsb_sftp_ *s, fsb_op *op, const fsb_sftp_file_ *f,
                               const fsb_sftp_fill_with_ *with)
{
    fsb_sftp_answer_ answers[FSB_SFTP_MOST_ + 4];
    fsb_attr         attr = op->attr;
    memset(answers, 0, sizeof answers);
    attr.mode = fsb_backend_new_mode_(op, 0644), attr.size = 0;
    uint32_t n = fsb_sftp_ask_set_(s, NULL, f, &attr, with->mask, &op->stat);
    n += fsb_sftp_ask_write_(s, f, 0, with->data, with->size);
    fsb_sftp_on_file_(s, FSB_SFTP_FSTAT_, f);
    if (with->close) fsb_sftp_on_file_(s, FSB_SFTP_CLOSE_, f);
    int err = fsb_sftp_exchange_(s, answers, n + 1 + (with->close != 0));
    if (!err) err = fsb_sftp_well_(answers, n + 1 + (with->close != 0));
    if (err) return fsb_sftp_why_(s, err);
    fsb_sftp_count_(s, f->writes);
    op->stat = answers[n].stat;
    fsb_sftp_identify_(&op->stat, f->file_id, f->writes);
    return 0;
}

/* LSTAT and OPEN in one exchange: of a file that is known to be regular (mask NULL), or of one that
   must not be there; *mask is then what it is to get yet. A set-group-id folder gives its group.
   1: it is there, and not opened. */
static int fsb_sftp_try_open_(fsb_sftp_ *s, fsb_op *op, uint32_t pflags, uint32_t *mask,
                              fsb_sftp_file_ *f)
{
    const uint32_t   owner = mask ? op->attr.mask & (FSB_ATTR_UID | FSB_ATTR_GID) : 0;
    fsb_sftp_answer_ a[4];
    char             folder[FSB_PATH_MAX + 1];
    memset(a, 0, sizeof a);
    fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, op->path);
    fsb_sftp_ask_open_(s, op->path, pflags | (mask ? 8u | 32u : 0),
                       fsb_backend_new_mode_(op, 0644));
    memcpy(folder, op->path, strlen(op->path) + 1);
    fsb_sftp_up_(folder);
    if (owner) fsb_sftp_on_path_(s, FSB_SFTP_STAT_, folder);
    if (owner) fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, op->path); /* who it is owned by as it is */
    int err = fsb_sftp_exchange_(s, a, owner ? 4 : 2);
    if (err) return err;
    const int looked = fsb_sftp_looked_(s, op->path, &a[0], &op->stat);
    if (a[1].err) return looked == -ENOENT ? a[1].err : looked ? looked : mask ? 1 : a[1].err;
    err = fsb_sftp_opened_(s, op->path, &a[1], f);
    if (mask) {
        fsb_sftp_note_(s, op->path, S_IFREG);
        fsb_sftp_count_(s, fsb_sftp_writes_(s, folder));
        op->stat = a[3].stat;
        *mask = FSB_ATTR_MODE | (a[2].stat.mode & S_ISGID ? owner & FSB_ATTR_UID : owner);
        return err;
    }
    if (err) return err;
    err = looked ? looked : fsb_sftp_is_regular_(&op->stat);
    if (err) fsb_sftp_drop_file_(s, f);
    return err;
}

/* OPEN, GET and PUT share this: the file that op means, opened; *mask is what it is to get yet. */
static int fsb_sftp_open_op_(fsb_sftp_ *s, fsb_op *op, uint32_t flags, fsb_sftp_file_ *f,
                             uint32_t *mask)
{
    const uint32_t pflags = (flags & FSB_O_READ ? 1u : 0) | (flags & FSB_O_WRITE ? 2u : 0);
    const int      create = (flags & FSB_O_CREATE) != 0, only = (flags & FSB_O_EXCL) != 0;
    int            err = fsb_sftp_meant_(s, op);
    *mask = flags & FSB_O_TRUNC ? (uint32_t)FSB_ATTR_SIZE : 0;
    if (err) return err;
    if (!only && fsb_sftp_is_known_(s, op->path, 0)) {
        err = fsb_sftp_try_open_(s, op, pflags, NULL, f);
        if (err != -ENOENT || !create) return err;
    }
    for (int i = 0; i < 3; ++i) { /* others may make and remove it meanwhile */
        err = 1;
        if (create) err = fsb_sftp_try_open_(s, op, pflags, mask, f);
        if (err <= 0) return fsb_sftp_why_(s, err);
        if (only) return -EEXIST;
        err = create ? 0 : fsb_sftp_lstat_(s, op->path, &op->stat);
        if (!err) err = fsb_sftp_is_regular_(&op->stat);
        if (!err) err = fsb_sftp_open_(s, op->path, pflags, 0, f);
        if (err != -ENOENT || !create) return err;
    }
    return err;
}

static int64_t fsb_sftp_on_remove_(fsb_sftp_ *s, fsb_op *op);

/* What could not be settled or filled goes again, if this call has made it: then there was a mode
   to set. */
static void fsb_sftp_unmake_(fsb_sftp_ *s, const fsb_op *op, const fsb_sftp_fill_with_ *with)
{
    fsb_op gone = *op;
    gone.code = FSB_OP_UNLINK;
    if (with->mask & FSB_ATTR_MODE) (void)fsb_sftp_on_remove_(s, &gone);
}

static int64_t fsb_sftp_on_open_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_sftp_fill_with_ with;
    fsb_backend_slot_  *slot;
    void               *room = NULL;
    int64_t             n = fsb_backend_slot_reserve_(&s->h->handles, &slot);
    if (n) return n;
    fsb_sftp_file_ *f = (fsb_sftp_file_ *)fsb_backend_new_(&s->h->desc.allocator, sizeof *f);
    memset(&with, 0, sizeof with);
    n = f ? fsb_sftp_open_op_(s, op, op->flags, f, &with.mask) : -ENOMEM;
    if (n) {
        fsb_backend_free_(&s->h->desc.allocator, f, sizeof *f);
        fsb_backend_slot_return_(&s->h->handles, slot);
        return n;
    }
    if (with.mask) n = fsb_sftp_fill_file_(s, op, f, &with);
    if (n < 0) fsb_sftp_unmake_(s, op, &with);
    if (!n && op->flags & FSB_O_READ && op->size) {
        room = fsb_backend_room_(&s->h->desc.allocator, op);
        n = room ? fsb_sftp_read_(s, f, 0, room, op->size, 0) : -ENOMEM;
    }
    if (n >= 0) {
        op->handle = fsb_backend_slot_open_(slot, -1, op->flags & 3, f);
    } else {
        fsb_sftp_drop_file_(s, f);
        fsb_backend_free_(&s->h->desc.allocator, f, sizeof *f);
        fsb_backend_slot_return_(&s->h->handles, slot);
    }
    return fsb_backend_answer_(op, room, n);
}

static int64_t fsb_sftp_on_get_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_sftp_file_ f;
    uint32_t       none;
    int64_t        n = fsb_sftp_open_op_(s, op, FSB_O_READ, &f, &none);
    if (n) return n;
    void *room = op->size ? fsb_backend_room_(&s->h->desc.allocator, op) : NULL;
    if (room) n = fsb_sftp_read_(s, &f, 0, room, op->size, 1);
    else if (op->size) n = -ENOMEM;
    if (!room || n == -ENOMEM) fsb_sftp_drop_file_(s, &f); /* the CLOSE was not sent */
    return fsb_backend_answer_(op, room, n);
}

static int64_t fsb_sftp_on_put_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_sftp_fill_with_ with;
    fsb_sftp_file_      f;
    memset(&with, 0, sizeof with);
    const int64_t n = fsb_sftp_open_op_(s, op, op->flags, &f, &with.mask);
    if (n) return n;
    with.data = op->data, with.size = op->size, with.close = 1;
    const int err = fsb_sftp_fill_file_(s, op, &f, &with);
    if (err == -ENOMEM) fsb_sftp_drop_file_(s, &f); /* the CLOSE was not sent */
    if (err) fsb_sftp_unmake_(s, op, &with);
    return err ? err : (int64_t)op->size;
}

static int64_t fsb_sftp_on_read_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_file_ *f)
{
    if (!op->size) return 0;
    void *room = fsb_backend_room_(&s->h->desc.allocator, op);
    if (!room) return -ENOMEM;
    return fsb_backend_answer_(op, room, fsb_sftp_read_(s, f, op->offset, room, op->size, 0));
}

static int64_t fsb_sftp_on_write_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_file_ *f)
{
    fsb_stat st;
    memset(&st, 0, sizeof st);
    if (op->flags & FSB_WRITE_APPEND) {
        const int err = fsb_sftp_set_(s, NULL, f, &op->attr, 0, &st);
        if (err) return err;
        op->out_offset = st.size;
    }
    const uint64_t at = op->flags & FSB_WRITE_APPEND ? op->out_offset : op->offset;
    int64_t        n = fsb_sftp_write_(s, f, at, op->data, op->size, &st);
    if (n >= 0 && op->flags & FSB_WRITE_KILL_PRIV) {
        fsb_attr attr;
        memset(&attr, 0, sizeof attr);
        attr.mode = fsb_backend_killed_(st.mode);
        const int err = attr.mode != st.mode
            ? fsb_sftp_set_(s, NULL, f, &attr, FSB_ATTR_MODE, &st) : 0;
        if (err) n = err;
    }
    if (n >= 0) op->stat = st;
    return n;
}

/* A piece: the server does nothing else meanwhile, and fails where there are fewer bytes. */
static int64_t fsb_sftp_copy_(fsb_sftp_ *s, const fsb_op *op, const fsb_sftp_file_ *in,
                              const fsb_sftp_file_ *out)
{
    const uint64_t apart = op->offset < op->offset2 ? op->offset2 - op->offset
                                                    : op->offset - op->offset2;
    fsb_stat       st;
    fsb_attr       none;
    uint64_t       size = op->size64;
    memset(&none, 0, sizeof none), memset(&st, 0, sizeof st);
    int err = fsb_sftp_set_(s, NULL, in, &none, 0, &st);
    if (!err && in->file_id == out->file_id) err = apart < size ? -EINVAL : -EOPNOTSUPP;
    if (err || !size || st.size <= op->offset) return err;
    if (size > st.size - op->offset) size = st.size - op->offset;
    if (size > FSB_IO_MAX) size = FSB_IO_MAX;
    const size_t at = fsb_sftp_extended_(s, "copy-data");
    fsb_sftp_string_(s, in->name, in->size);
    fsb_sftp_u64_(s, op->offset);
    fsb_sftp_u64_(s, size);
    fsb_sftp_string_(s, out->name, out->size);
    fsb_sftp_u64_(s, op->offset2);
    fsb_sftp_finish_(s, at);
    err = fsb_sftp_one_(s, NULL);
    if (err) return fsb_sftp_why_(s, err);
    fsb_sftp_count_(s, out->writes);
    return (int64_t)size;
}

static int64_t fsb_sftp_on_copy_(fsb_sftp_ *s, fsb_op *op, const fsb_sftp_file_ *in, uint32_t flags)
{
    const uint64_t    most = INT64_MAX;
    fsb_backend_slot_ *slot = fsb_backend_pin_(&s->h->handles, op->handle2);
    if (!slot) return -EBADF;
    const fsb_sftp_file_ *out = (const fsb_sftp_file_ *)slot->object;
    int64_t               n = 0;
    if (!(flags & FSB_O_READ) || !(slot->flags & FSB_O_WRITE)) n = -EBADF;
    else if (out->epoch != s->epoch) n = -ESTALE;
    else if (!(s->extensions & FSB_SFTP_COPY_DATA_)) n = -ENOSYS;
    else if (op->size64 > most || op->offset > most - op->size64
             || op->offset2 > most - op->size64) n = -EFBIG;
    else n = fsb_sftp_copy_(s, op, in, out);
    fsb_backend_unpin_(&s->h->handles, slot);
    return n;
}

/* ---- [sftp: names] --------------------------------------------------------------------------- */

/* A server that says no more than Failure is asked what is there: an error of `there` for a file,
   `folder` for a folder. */
static int fsb_sftp_better_(fsb_sftp_ *s, const char *path, int err, int there, int folder)
{
    fsb_stat st;
    if (err != -EIO && err != -EACCES && err != -EEXIST) return err;
    if (fsb_sftp_lstat_(s, path, &st)) return err;
    const int better = S_ISDIR(st.mode) ? folder : there;
    return better && (err == -EIO || better == -EEXIST || better == -EISDIR) ? better : err;
}

/* Runs the one request made, which makes the name, and looks at it. */
static int fsb_sftp_made_(fsb_sftp_ *s, const char *path, fsb_stat *st)
{
    fsb_sftp_answer_ a[2];
    memset(a, 0, sizeof a);
    fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, path);
    const int err = fsb_sftp_exchange_(s, a, 2);
    if (err) return err;
    if (a[0].err) return fsb_sftp_better_(s, path, a[0].err, -EEXIST, -EEXIST);
    fsb_sftp_gone_(s, path);
    return fsb_sftp_looked_(s, path, &a[1], st);
}

static int64_t fsb_sftp_on_mkdir_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_attr     attr = op->attr;
    uint32_t     owner = attr.mask & (FSB_ATTR_UID | FSB_ATTR_GID);
    const size_t at = fsb_sftp_begin_(s, FSB_SFTP_MKDIR_);
    attr.mode = fsb_backend_new_mode_(op, 0755);
    fsb_sftp_path_(s, op->path);
    fsb_sftp_attrs_(s, &attr, &op->stat, FSB_ATTR_MODE);
    fsb_sftp_finish_(s, at);
    int err = fsb_sftp_made_(s, op->path, &op->stat);
    if (op->stat.mode & S_ISGID) owner &= ~(uint32_t)FSB_ATTR_GID;
    attr.mode |= op->stat.mode & S_ISGID; /* both handed down by the folder it is in */
    if (err || (!owner && (op->stat.mode & 07777) == attr.mode)) return err;
    return fsb_sftp_set_(s, op->path, NULL, &attr, FSB_ATTR_MODE | owner, &op->stat);
}

static int64_t fsb_sftp_on_remove_(fsb_sftp_ *s, fsb_op *op)
{
    const int folder = op->code == FSB_OP_RMDIR;
    fsb_sftp_on_path_(s, folder ? FSB_SFTP_RMDIR_ : FSB_SFTP_REMOVE_, op->path);
    int err = fsb_sftp_one_(s, NULL);
    if (err) err = fsb_sftp_better_(s, op->path, err, folder ? -ENOTDIR : 0,
                                    folder ? -ENOTEMPTY : -EISDIR);
    if (!err) fsb_sftp_gone_(s, op->path);
    return err == -ENOENT && folder ? fsb_sftp_lstat_(s, op->path, &op->stat) ? err : -ENOTDIR
                                    : err;
}

static int64_t fsb_sftp_on_rename_(fsb_sftp_ *s, fsb_op *op)
{
    const size_t n = strlen(op->path);
    fsb_stat     st;
    if (op->flags & FSB_RENAME_EXCHANGE) return -EINVAL;
    if (strncmp(op->path, op->path2, n) == 0 && op->path2[n] == '/') return -EINVAL;
    const int    replace = !op->flags && s->extensions & FSB_SFTP_POSIX_RENAME_;
    const size_t at = replace ? fsb_sftp_extended_(s, "posix-rename@openssh.com")
                              : fsb_sftp_begin_(s, FSB_SFTP_RENAME_);
    fsb_sftp_path_(s, op->path);
    fsb_sftp_path_(s, op->path2);
    fsb_sftp_finish_(s, at);
    int err = fsb_sftp_one_(s, NULL);
    const int vague = err == -EIO /* of a folder onto a file, it says there is no such file */
        || (err == -ENOENT && !fsb_sftp_lstat_(s, op->path, &st));
    if (vague && !fsb_sftp_lstat_(s, op->path2, &st)) {
        if (!replace) err = -EEXIST;
        else err = S_ISDIR(st.mode) ? -ENOTEMPTY : -ENOTDIR;
        if (replace && S_ISDIR(st.mode) && !fsb_sftp_lstat_(s, op->path, &st)
            && !S_ISDIR(st.mode)) err = -EISDIR;
    }
    if (!err) fsb_sftp_gone_(s, op->path), fsb_sftp_gone_(s, op->path2);
    return err;
}

static int64_t fsb_sftp_on_link_(fsb_sftp_ *s, fsb_op *op)
{
    if (!(s->extensions & FSB_SFTP_HARDLINK_) || op->handle) return -ENOSYS;
    int err = fsb_sftp_look_(s, op, &op->stat);
    if (!err && S_ISDIR(op->stat.mode)) err = -EPERM;
    if (err) return err;
    const size_t at = fsb_sftp_extended_(s, "hardlink@openssh.com");
    fsb_sftp_path_(s, op->path);
    fsb_sftp_path_(s, op->path2);
    fsb_sftp_finish_(s, at);
    return fsb_sftp_made_(s, op->path2, &op->stat);
}

static int64_t fsb_sftp_on_symlink_(fsb_sftp_ *s, fsb_op *op)
{
    const size_t at = fsb_sftp_begin_(s, FSB_SFTP_SYMLINK_);
    fsb_sftp_text_(s, op->path2); /* OpenSSH, and all who follow it, take the text first */
    fsb_sftp_path_(s, op->path);
    fsb_sftp_finish_(s, at);
    return fsb_sftp_made_(s, op->path, &op->stat);
}

static int64_t fsb_sftp_on_mknod_(fsb_sftp_ *s, fsb_op *op)
{
    if ((op->attr.mode & S_IFMT) && !S_ISREG(op->attr.mode)) return -EPERM;
    op->flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_EXCL, op->size = 0;
    const int64_t err = fsb_sftp_on_put_(s, op);
    op->flags = 0;
    return err;
}

static int64_t fsb_sftp_on_readlink_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_sftp_answer_ a[2];
    size_t           size = 0;
    if (op->handle) return -EINVAL;
    int err = fsb_sftp_meant_(s, op);
    if (err) return err;
    memset(a, 0, sizeof a);
    fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, op->path);
    fsb_sftp_on_path_(s, FSB_SFTP_READLINK_, op->path);
    err = fsb_sftp_exchange_(s, a, 2);
    if (!err) err = fsb_sftp_looked_(s, op->path, &a[0], &op->stat);
    if (!err && !S_ISLNK(op->stat.mode)) err = -EINVAL;
    if (!err) err = a[1].err;
    if (err) return err;
    fsb_sftp_cursor_     c = {a[1].body, a[1].body ? a[1].body_size : 0, 0};
    const uint32_t       names = fsb_sftp_get32_(&c);
    const unsigned char *text = fsb_sftp_get_string_(&c, &size);
    if (names != 1 || c.err) return -EPROTO;
    if (size > op->size) size = op->size;
    void *room = fsb_backend_room_(&s->h->desc.allocator, op);
    if (!room) return op->size ? -ENOMEM : 0;
    memcpy(room, text, size);
    return fsb_backend_answer_(op, room, (int64_t)size);
}

/* ---- [sftp: list] ---------------------------------------------------------------------------- */

/* A folder is read whole and handed out in the order of its names' hashes, which are the cookies:
   they keep while names come and go. What was handed out in part is kept for who goes on with it:
   else 10,000 names in parts of 100 were 100 times 10,000. */
enum { FSB_SFTP_KEPT_ = 4, FSB_SFTP_KEPT_MS_ = 10000, FSB_SFTP_NAMES_ = 4 << 20 };

typedef struct fsb_sftp_entry_ {
    uint64_t cookie;
    fsb_stat stat;
    size_t   name; /* where it begins in names */
} fsb_sftp_entry_;

typedef struct fsb_sftp_listing_ { /* the folder's path follows */
    struct fsb_sftp_listing_ *next;
    size_t           path_size; /* with its '\0' */
    fsb_stat         stat;      /* the folder's, older than its names */
    uint64_t         changes;   /* when it was read; and until when it serves, ms */
    int64_t          end;
    fsb_sftp_entry_ *entries;
    size_t           count, room;
    char            *names;
    size_t           size, names_room;
} fsb_sftp_listing_;

static void fsb_sftp_list_free_(fsb_sftp_host_ *h, fsb_sftp_listing_ *l)
{
    const fsb_allocator *a = &h->desc.allocator;
    fsb_backend_free_(a, l->entries, l->room);
    fsb_backend_free_(a, l->names, l->names_room);
    fsb_backend_free_(a, l, sizeof *l + l->path_size);
}

/* Takes the listing that op goes on with out of those that are kept; NULL: there is none. */
static fsb_sftp_listing_ *fsb_sftp_list_resume_(fsb_sftp_ *s, const fsb_op *op)
{
    fsb_sftp_host_     *h = s->h;
    const int64_t       now = fsb_sftp_now_();
    fsb_sftp_listing_ **at = &h->kept, *found = NULL;
    if (!op->offset) return NULL;
    pthread_mutex_lock(&h->lock);
    while (*at && strcmp((const char *)(*at + 1), op->path)) at = &(*at)->next;
    if (*at) found = *at, *at = found->next;
    pthread_mutex_unlock(&h->lock);
    const uint64_t changes = __atomic_load_n(&h->changes, __ATOMIC_ACQUIRE);
    if (!found || (found->changes == changes && now < found->end)) return found;
    fsb_sftp_list_free_(h, found);
    return NULL;
}

/* Keeps l (unless it is NULL), and frees those that are too many or too old. */
static void fsb_sftp_list_keep_(fsb_sftp_host_ *h, fsb_sftp_listing_ *l)
{
    const int64_t now = fsb_sftp_now_();
    int           n = 0;
    pthread_mutex_lock(&h->lock);
    if (l) l->next = h->kept, h->kept = l;
    fsb_sftp_listing_ **at = &h->kept;
    while (*at && n < FSB_SFTP_KEPT_ && now < (*at)->end) at = &(*at)->next, ++n;
    fsb_sftp_listing_ *old = *at;
    *at = NULL;
    pthread_mutex_unlock(&h->lock);
    while (old) {
        fsb_sftp_listing_ *next = old->next;
        fsb_sftp_list_free_(h, old);
        old = next;
    }
}

static int fsb_sftp_entry_order_(const void *a, const void *b)
{
    const uint64_t x = ((const fsb_sftp_entry_ *)a)->cookie;
    const uint64_t y = ((const fsb_sftp_entry_ *)b)->cookie;
    return (x > y) - (x < y);
}

static int fsb_sftp_room_(const fsb_allocator *a, void **p, size_t *room, size_t need)
{
    if (need <= *room) return 0;
    void *more = fsb_backend_resize_(a, *p, *room, need * 2);
    if (!more) return -ENOMEM;
    *p = more, *room = need * 2;
    return 0;
}

static int fsb_sftp_list_add_(fsb_sftp_ *s, fsb_sftp_listing_ *l, const unsigned char *name,
                              size_t size, const fsb_stat *st)
{
    const fsb_allocator *a = &s->h->desc.allocator;
    void                *entries = l->entries, *names = l->names;
    if (!size || size > FSB_NAME_MAX || memchr(name, '/', size) || memchr(name, 0, size)) return 0;
    if (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'))) return 0;
    if (l->count == FSB_SFTP_NAMES_) return -E2BIG;
    int err = fsb_sftp_room_(a, &entries, &l->room, (l->count + 1) * sizeof *l->entries);
    l->entries = (fsb_sftp_entry_ *)entries;
    if (!err) err = fsb_sftp_room_(a, &names, &l->names_room, l->size + size + 1);
    l->names = (char *)names;
    if (err) return err;
    fsb_sftp_entry_ *e = &l->entries[l->count++];
    e->name = l->size, e->stat = *st;
    memcpy(l->names + l->size, name, size);
    l->names[l->size + size] = '\0', l->size += size + 1;
    e->cookie = fsb_sftp_hash_(l->names + e->name) >> 1 | 1;
    return 0;
}

static int fsb_sftp_list_take_(fsb_sftp_ *s, fsb_sftp_listing_ *l, const fsb_sftp_answer_ *a)
{
    int              err = a->err;
    fsb_sftp_cursor_ c = {a->body, a->body ? a->body_size : 0, 0};
    if (err) return err;
    for (uint32_t n = fsb_sftp_get32_(&c); n && !c.err && !err; --n) {
        size_t               size, longer;
        fsb_stat             st;
        const unsigned char *name = fsb_sftp_get_string_(&c, &size);
        (void)fsb_sftp_get_string_(&c, &longer);
        fsb_sftp_get_stat_(&c, &st);
        if (!c.err) err = fsb_sftp_list_add_(s, l, name, size, &st);
    }
    return err ? err : c.err;
}

/* All names, by two READDIRs at once, then four, ...: most folders need one and the end. */
static int fsb_sftp_read_folder_(fsb_sftp_ *s, const fsb_sftp_file_ *dir, fsb_sftp_listing_ *l)
{
    enum { MOST = 16 };
    for (uint32_t n = 2;; n = n < MOST ? 2 * n : n) {
        fsb_sftp_answer_ a[MOST];
        memset(a, 0, sizeof a);
        for (uint32_t i = 0; i < n; ++i) fsb_sftp_on_file_(s, FSB_SFTP_READDIR_, dir);
        int err = fsb_sftp_exchange_(s, a, n);
        for (uint32_t i = 0; !err && i < n; ++i) {
            if (a[i].eof) return 0;
            err = fsb_sftp_list_take_(s, l, &a[i]);
        }
        if (!err && fsb_sftp_now_() >= s->end) err = -ETIMEDOUT; /* it answers, and never ends */
        if (err) return err;
    }
}

/* LSTAT and OPENDIR of op->path, which must be a folder. */
static int fsb_sftp_open_folder_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_file_ *dir)
{
    fsb_sftp_answer_ a[2];
    int              err = fsb_sftp_meant_(s, op);
    if (err) return err;
    memset(a, 0, sizeof a);
    fsb_sftp_on_path_(s, FSB_SFTP_LSTAT_, op->path);
    fsb_sftp_on_path_(s, FSB_SFTP_OPENDIR_, op->path);
    err = fsb_sftp_exchange_(s, a, 2);
    if (!err) err = fsb_sftp_looked_(s, op->path, &a[0], &op->stat);
    const int folder = !err && S_ISDIR(op->stat.mode);
    if (err || a[1].err) return err ? err : folder ? a[1].err : -ENOTDIR;
    err = fsb_sftp_named_(s, &a[1], dir);
    if (!err && !folder) fsb_sftp_drop_file_(s, dir), err = -ENOTDIR; /* a link to one */
    return err;
}

static int fsb_sftp_fill_listing_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_listing_ *l)
{
    fsb_sftp_file_ dir;
    l->changes = __atomic_load_n(&s->h->changes, __ATOMIC_ACQUIRE);
    l->end = fsb_sftp_now_() + FSB_SFTP_KEPT_MS_;
    int err = fsb_sftp_open_folder_(s, op, &dir);
    if (err) return err;
    l->stat = op->stat;
    err = fsb_sftp_read_folder_(s, &dir, l);
    fsb_sftp_drop_file_(s, &dir);
    char         path[FSB_PATH_MAX + FSB_NAME_MAX + 2];
    const size_t folder = op->path[1] ? strlen(op->path) : 0;
    memcpy(path, op->path, folder);
    path[folder] = '/';
    for (size_t i = 0; !err && i < l->count; ++i) {
        fsb_sftp_entry_ *e = &l->entries[i];
        memcpy(path + folder + 1, l->names + e->name, strlen(l->names + e->name) + 1);
        fsb_sftp_identify_(&e->stat, fsb_sftp_id_(s, path), fsb_sftp_writes_(s, path));
        fsb_sftp_note_(s, path, e->stat.mode);
    }
    if (l->count) qsort(l->entries, l->count, sizeof *l->entries, fsb_sftp_entry_order_);
    return err;
}

/* Where the names behind a cookie begin. */
static size_t fsb_sftp_list_find_(const fsb_sftp_listing_ *l, uint64_t cookie)
{
    size_t low = 0, high = l->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (l->entries[middle].cookie <= cookie) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* DATA: small files are opened many at once, then read and closed many at once; whatever is in the
   way of one leaves it out. So does being one of a few: these two round trips would keep who lists
   from the next folder, while others can ask for such files. */
enum { FSB_SFTP_GROUP_ = 128, FSB_SFTP_FEW_ = 16 };

typedef struct fsb_sftp_small_ {
    size_t          entry, at; /* in the listing; in the group's data */
    int             whole;     /* so far */
    fsb_sftp_file_  file;
} fsb_sftp_small_;

typedef struct fsb_sftp_group_ {
    size_t           end;     /* the first entry that is not looked at yet */
    uint32_t         n, next; /* files; the first that was not handed out */
    uint64_t         spent;   /* bytes of files */
    unsigned char   *data;
    size_t           room, used;
    fsb_sftp_answer_ answers[FSB_SFTP_GROUP_];
    fsb_sftp_small_  files[FSB_SFTP_GROUP_];
} fsb_sftp_group_;

/* The entries from g->end on whose files are to be read: what hand_out() has room for. */
static void fsb_sftp_group_pick_(const fsb_sftp_ *s, fsb_sftp_group_ *g,
                                 const fsb_sftp_listing_ *l, uint64_t room)
{
    const uint64_t most = s->max_read <= FSB_BACKEND_SMALL_ ? s->max_read - 1
                                                            : (uint32_t)FSB_BACKEND_SMALL_;
    uint64_t       used = 0; /* as hand_out() counts */
    g->n = g->next = 0, g->used = 0;
    for (; g->end < l->count && g->n < FSB_SFTP_GROUP_ && used < room; ++g->end) {
        const fsb_sftp_entry_ *e = &l->entries[g->end];
        fsb_sftp_small_       *f = &g->files[g->n];
        used += strlen(l->names + e->name) + sizeof e->stat;
        if (!S_ISREG(e->stat.mode) || !e->stat.size || e->stat.size > most) continue;
        if (g->spent >= FSB_IO_MAX) break; /* without size64: it is to end in time */
        f->entry = g->end, f->at = g->used, f->whole = 0;
        g->used += (size_t)e->stat.size + 1; /* a byte more: whether that was all */
        g->spent += e->stat.size, used += e->stat.size, ++g->n;
    }
    if (!g->n) g->end = l->count; /* there is no more to come */
    if (g->n < FSB_SFTP_FEW_) g->n = 0;
}

static int fsb_sftp_group_open_(fsb_sftp_ *s, fsb_sftp_group_ *g, const fsb_sftp_listing_ *l,
                                const char *folder)
{
    char path[FSB_PATH_MAX + 1];
    for (uint32_t i = 0; i < g->n; ++i) {
        const char *name = l->names + l->entries[g->files[i].entry].name;
        if (!fsb_backend_join_(path, folder, name)) s->broken = -ENAMETOOLONG;
        else fsb_sftp_ask_open_(s, path, 1, 0);
    }
    memset(g->answers, 0, g->n * sizeof *g->answers);
    const int err = fsb_sftp_exchange_(s, g->answers, g->n);
    for (uint32_t i = 0; !err && i < g->n; ++i)
        g->files[i].whole = !g->answers[i].err
            && !fsb_sftp_named_(s, &g->answers[i], &g->files[i].file);
    return err;
}

static int fsb_sftp_group_read_(fsb_sftp_ *s, fsb_sftp_group_ *g, const fsb_sftp_listing_ *l)
{
    uint32_t n = 0, i;
    memset(g->answers, 0, g->n * sizeof *g->answers);
    for (i = 0; i < g->n; ++i) {
        const fsb_sftp_small_ *f = &g->files[i];
        if (!f->whole) continue;
        g->answers[n].buf = g->data + f->at;
        g->answers[n].room = (size_t)l->entries[f->entry].stat.size + 1;
        fsb_sftp_ask_read_(s, &f->file, 0, g->answers[n++].room);
        fsb_sftp_close_later_(s, &f->file);
    }
    const int err = fsb_sftp_exchange_(s, g->answers, n);
    for (i = n = 0; i < g->n; ++i) {
        if (!g->files[i].whole) continue;
        const fsb_sftp_answer_ *a = &g->answers[n++];
        g->files[i].whole = !a->err && a->got == a->room - 1; /* it is as long as it was */
    }
    return err;
}

/* Reads the files of the entries from `i` on. */
static void fsb_sftp_group_fill_(fsb_sftp_ *s, fsb_sftp_group_ *g, const fsb_op *op,
                                 const fsb_sftp_listing_ *l, size_t i, uint64_t room)
{
    void *data = g->data;
    g->end = i;
    fsb_sftp_group_pick_(s, g, l, room);
    int err = fsb_sftp_room_(&s->h->desc.allocator, &data, &g->room, g->used);
    g->data = (unsigned char *)data;
    if (!err && g->n) err = fsb_sftp_group_open_(s, g, l, op->path);
    if (!err && g->n) err = fsb_sftp_group_read_(s, g, l);
    if (err) g->n = 0, g->end = l->count;
}

/* All bytes of entry `i`; NULL: they are not known. */
static const void *fsb_sftp_group_data_(fsb_sftp_group_ *g, const fsb_sftp_listing_ *l, size_t i)
{
    const fsb_stat *st = &l->entries[i].stat;
    if (S_ISREG(st->mode) && !st->size) return "";
    if (g->next == g->n || g->files[g->next].entry != i) return NULL;
    const fsb_sftp_small_ *f = &g->files[g->next++];
    return f->whole ? g->data + f->at : NULL;
}

/* Hands the names out; g: with the bytes of small files. */
static int64_t fsb_sftp_hand_out_(fsb_sftp_ *s, fsb_op *op, const fsb_sftp_listing_ *l,
                                  fsb_sftp_group_ *g)
{
    const uint64_t most = op->size64 ? op->size64 : UINT64_MAX;
    uint64_t       used = 0;
    for (size_t i = fsb_sftp_list_find_(l, op->offset); i < l->count; ++i) {
        const fsb_sftp_entry_ *e = &l->entries[i];
        fsb_dirent             d;
        if (used >= most) return 0;
        if (g && i >= g->end) fsb_sftp_group_fill_(s, g, op, l, i, most - used);
        memset(&d, 0, sizeof d);
        d.name = l->names + e->name, d.name_size = strlen(d.name), d.cookie = e->cookie;
        d.stat = e->stat;
        if (g) d.data = fsb_sftp_group_data_(g, l, i);
        if (op->emit(op, &d)) return 0;
        used += d.name_size + (op->flags & FSB_LIST_STAT ? sizeof d.stat : 16)
              + (d.data ? (size_t)d.stat.size : 0);
    }
    return 1;
}

static int64_t fsb_sftp_list_out_(fsb_sftp_ *s, fsb_op *op, const fsb_sftp_listing_ *l)
{
    const fsb_allocator *a = &s->h->desc.allocator;
    fsb_sftp_group_     *g = NULL;
    if (op->flags & FSB_LIST_DATA)
        g = (fsb_sftp_group_ *)fsb_backend_resize_(a, NULL, 0, sizeof *g);
    if (g) g->end = g->n = g->next = 0, g->spent = 0, g->data = NULL, g->room = 0;
    const int64_t n = fsb_sftp_hand_out_(s, op, l, g);
    if (g) fsb_backend_free_(a, g->data, g->room);
    fsb_backend_free_(a, g, sizeof *g);
    return n;
}

/* ---- [sftp: exec] ---------------------------------------------------------------------------- */

/* A local command (as "ssh HOST TEXT") runs a shell there, and that the command. On stderr the
   shell says "\001MARK start", and last "\001MARK STATUS": what is before the one is the local
   command's own, and without the other it was cut off. sshd makes its shell the leader of a process
   group; it is ended there once sshd's process, the parent, is gone. */
enum { FSB_SFTP_MARK_ = 17, FSB_SFTP_HOLD_ = 48, FSB_SFTP_SAID_ = 400 };

static const char fsb_sftp_shell_[] =
    "d=$1 m=$2; shift 2; exec 3>&2 2>/dev/null; "
    "say() { printf \"\\001%s %s\\n\" $m $1 >&3; }; "
    "up() { [ -d /proc/$PPID ] || kill -0 $PPID; }; "
    "say start; "
    "cd -- \"$d\" || { if [ -d \"$d\" ]; then say acces; elif [ -e \"$d\" ]; then say notdir; "
    "else say noent; fi; exit 0; }; "
    "case $1 in -*/*) p=./$1 ;; -*) p=$(command -v -- \"$1\") ;; *) p=$1 ;; esac; "
    "case $p in */*) [ -x \"$p\" ] ;; *) command -v \"$p\" >&2 ;; esac || "
    "{ if [ -e \"$1\" ]; then say acces; else say noent; fi; exit 0; }; "
    "shift; set -- \"$p\" \"$@\"; "
    "up && { trap \"\" TERM; while up; do sleep 1; done; "
    "kill -TERM -$$; sleep 2; kill -KILL -$$; } "
    "</dev/null >/dev/null 3>&- & w=$!; (exec \"$@\") 2>&3 3>&-; s=$?; kill -KILL $w; say $s";

typedef struct fsb_sftp_script_ { /* what is handed to the shell there */
    const fsb_allocator *allocator;
    char                *text;
    size_t               size, room;
    int                  err;
} fsb_sftp_script_;

static void fsb_sftp_say_(fsb_sftp_script_ *t, const char *text, size_t size)
{
    if (t->size + size + 1 > t->room) {
        const size_t room = (t->size + size) * 2 + 1024;
        char *more = (char *)fsb_backend_resize_(t->allocator, t->text, t->room, room);
        if (!more) t->err = -ENOMEM;
        else t->text = more, t->room = room;
    }
    if (t->err) return;
    memcpy(t->text + t->size, text, size);
    t->size += size, t->text[t->size] = '\0';
}

/* A word in single quotes, but for what some shells do not take as it stands there: a quote, a
   backslash (fish), an exclamation mark (csh). */
static void fsb_sftp_quote_(fsb_sftp_script_ *t, const char *word)
{
    fsb_sftp_say_(t, " '", 2);
    for (;;) {
        const size_t n = strcspn(word, "'\\!");
        fsb_sftp_say_(t, word, n);
        if (!word[n]) break;
        fsb_sftp_say_(t, "'\\", 2);
        fsb_sftp_say_(t, word + n, 1);
        fsb_sftp_say_(t, "'", 1);
        word += n + 1;
    }
    fsb_sftp_say_(t, "'", 1);
}

typedef struct fsb_sftp_run_ fsb_sftp_run_;
struct fsb_sftp_run_ {
    fsb_op         op; /* first: of the local command */
    fsb_exec       exec;
    fsb_op        *upper; /* whose answer this is */
    fsb_sftp_host_ *h;
    fsb_sftp_run_ *next; /* in h->runs */
    int            begun, result; /* result: 1 until the shell there has told */
    int            ended;         /* by output() */
    uint64_t       handed[2];
    size_t         mark_size, hold_size, said_size;
    char           mark[FSB_SFTP_MARK_ + 2]; /* "\001MARK " */
    char           hold[FSB_SFTP_HOLD_];     /* of stderr: what may become a mark's line */
    char           said[FSB_SFTP_SAID_];     /* before it began */
};

static int fsb_sftp_run_hand_(fsb_sftp_run_ *r, int fd, const char *data, size_t size)
{
    fsb_exec      *e = r->upper->exec;
    const uint64_t left = e->max_output ? e->max_output - r->handed[fd - 1] : UINT64_MAX;
    const size_t   take = r->ended || !e->output ? 0 : size < left ? size : (size_t)left;
    if (fd == 2 && !r->begun) {
        const size_t room = sizeof r->said - 1 - r->said_size, n = size < room ? size : room;
        memcpy(r->said + r->said_size, data, n);
        r->said_size += n;
        return 0;
    }
    r->handed[fd - 1] += take, e->cut[fd - 1] += size - take;
    if (take && e->output(r->upper, fd, data, take)) r->ended = 1;
    return r->ended;
}

/* The word of a mark's line. */
static void fsb_sftp_run_told_(fsb_sftp_run_ *r, const char *word)
{
    static const struct { const char *word; int err; } errors[] = {
        {"noent", -ENOENT}, {"notdir", -ENOTDIR}, {"acces", -EACCES}};
    fsb_exec *e = r->upper->exec;
    if (!strcmp(word, "start")) {
        r->begun = 1;
        return;
    }
    r->result = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; ++i)
        if (!strcmp(word, errors[i].word)) r->result = errors[i].err;
    const int status = atoi(word);
    if (status > 128 && status <= 192) e->signal = status - 128;
    else e->exit_code = status;
}

static int fsb_sftp_run_stderr_(fsb_sftp_run_ *r, const char *data, size_t size)
{
    int stop = 0;
    while (size) {
        if (!r->hold_size) { /* all up to where a mark may begin */
            const char  *mark = (const char *)memchr(data, r->mark[0], size);
            const size_t n = mark ? (size_t)(mark - data) : size;
            if (n) stop |= fsb_sftp_run_hand_(r, 2, data, n);
            data += n, size -= n;
            if (!size) break;
        }
        r->hold[r->hold_size++] = *data++, --size;
        const size_t n = r->hold_size - 1;
        if (n < r->mark_size ? r->hold[n] != r->mark[n] : r->hold_size == sizeof r->hold) {
            r->hold_size = 0; /* it was none */
            stop |= fsb_sftp_run_hand_(r, 2, r->hold, n);
            --data, ++size;
        } else if (n >= r->mark_size && r->hold[n] == '\n') {
            r->hold[n] = '\0', r->hold_size = 0;
            fsb_sftp_run_told_(r, r->hold + r->mark_size);
        }
    }
    return stop;
}

static int fsb_sftp_run_output_(fsb_op *op, int fd, const void *data, size_t size)
{
    fsb_sftp_run_ *r = (fsb_sftp_run_ *)(void *)op;
    if (fd == 2) return fsb_sftp_run_stderr_(r, (const char *)data, size);
    return fsb_sftp_run_hand_(r, fd, (const char *)data, size);
}

/* 1 if sh takes the name of "NAME=value" for that of a variable; others it may not pass on. */
static int fsb_sftp_names_(const char *text)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
    const size_t      n = strspn(text, letters);
    return text[n] == '=' && !(text[0] >= '0' && text[0] <= '9');
}

/* "exec env A=b /bin/sh -c SCRIPT fsb FOLDER MARK WORD ...", for whatever shell the user has. */
static int fsb_sftp_run_text_(fsb_sftp_run_ *r, const char *folder, fsb_sftp_script_ *t)
{
    const fsb_exec *e = r->upper->exec;
    char            mark[FSB_SFTP_MARK_];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t h = fsb_backend_mix_((uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 30
                                        ^ (uint64_t)(uintptr_t)r);
    snprintf(mark, sizeof mark, "%016llx", (unsigned long long)h);
    r->mark_size = (size_t)snprintf(r->mark, sizeof r->mark, "\001%s ", mark);
    fsb_sftp_say_(t, "exec", 4);
    if (e->env && e->env[0]) fsb_sftp_say_(t, " env", 4);
    for (const char *const *v = e->env; v && *v; ++v) {
        if (!fsb_sftp_names_(*v)) return -EINVAL;
        fsb_sftp_quote_(t, *v);
    }
    fsb_sftp_say_(t, " /bin/sh -c", 11);
    fsb_sftp_quote_(t, fsb_sftp_shell_);
    fsb_sftp_say_(t, " fsb", 4);
    fsb_sftp_quote_(t, folder);
    fsb_sftp_quote_(t, mark);
    const int shell = (r->upper->flags & FSB_EXEC_SHELL) != 0;
    if (shell) fsb_sftp_say_(t, " /bin/sh -c", 11);
    if (shell && (e->argv[0][0] == '-' || e->argv[0][0] == '+')) fsb_sftp_say_(t, " --", 3);
    for (const char *const *word = e->argv; *word; ++word) fsb_sftp_quote_(t, *word);
    return t->err;
}

/* In and out of the list that cancel() looks at. -EINTR: it was there before us. */
static int fsb_sftp_run_enter_(fsb_sftp_run_ *r)
{
    fsb_sftp_host_ *h = r->h;
    pthread_mutex_lock(&h->lock);
    const int early = r->upper->layer[1] == (void *)h;
    r->upper->layer[1] = NULL;
    if (!early) r->next = h->runs, h->runs = r;
    pthread_mutex_unlock(&h->lock);
    return early ? -EINTR : 0;
}

static void fsb_sftp_run_leave_(fsb_sftp_run_ *r)
{
    pthread_mutex_lock(&r->h->lock);
    fsb_sftp_run_ **at = &r->h->runs;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    pthread_mutex_unlock(&r->h->lock);
}

static void fsb_sftp_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_sftp_host_ *h = (fsb_sftp_host_ *)(void *)b;
    if (op->code != FSB_OP_EXEC || !h->runner) return;
    pthread_mutex_lock(&h->lock);
    fsb_sftp_run_ *r = h->runs;
    while (r && r->upper != op) r = r->next;
    if (r) h->runner->cancel(h->runner, &r->op);
    else op->layer[1] = h; /* not begun */
    pthread_mutex_unlock(&h->lock);
}

/* What the local command's end means. */
static int64_t fsb_sftp_run_result_(fsb_sftp_run_ *r)
{
    fsb_logger log = r->h->desc.log;
    if (r->ended) r->upper->exec->exit_code = 0, r->upper->exec->signal = SIGTERM;
    if (r->ended || r->result <= 0) return r->ended ? 0 : r->result;
    if (r->op.result == -ETIMEDOUT || r->op.result == -EINTR || r->op.result == -ENOMEM
        || r->op.result == -E2BIG) return r->op.result;
    while (r->said_size && strchr("\r\n", r->said[r->said_size - 1])) --r->said_size;
    r->said[r->said_size] = '\0';
    for (char *p = r->said; *p; ++p)
        if ((unsigned char)*p < 32) *p = ' ';
    const char *why = r->op.result == -ENOENT ? "there is no such program here" : r->said;
    if (log.fn) log.fn(log.user, FSB_LOG_ERROR, "sftp/exec", *why ? why : "cut off");
    if (r->begun) return -ECONNRESET;
    return r->op.result < 0 || r->exec.signal || r->exec.exit_code == 255 ? -ENOTCONN : -EACCES;
}

static int64_t fsb_sftp_run_start_(fsb_sftp_run_ *r, const char *text)
{
    const char *const  *words = r->h->desc.exec_argv;
    const fsb_allocator *a = &r->h->desc.allocator;
    const size_t        n = fsb_local_env_count_(words), room = (n + 2) * sizeof *words;
    const char        **argv = (const char **)fsb_backend_new_(a, room);
    if (!argv) return -ENOMEM;
    memcpy(argv, words, n * sizeof *words);
    argv[n] = text;
    r->exec.argv = argv, r->exec.output = fsb_sftp_run_output_;
    r->exec.input = r->upper->exec->input, r->exec.input_size = r->upper->exec->input_size;
    r->op = fsb_backend_op_(FSB_OP_EXEC, "/");
    r->op.exec = &r->exec, r->op.timeout_ms = r->upper->timeout_ms;
    int64_t err = fsb_sftp_run_enter_(r);
    if (!err) {
        fsb_backend_call(r->h->runner, &r->op);
        fsb_sftp_run_leave_(r);
        if (r->hold_size) fsb_sftp_run_hand_(r, 2, r->hold, r->hold_size);
        err = fsb_sftp_run_result_(r);
    }
    fsb_backend_free_(a, argv, room);
    return err;
}

static int64_t fsb_sftp_exec_(fsb_sftp_host_ *h, fsb_op *op)
{
    char           folder[2 * FSB_PATH_MAX + 2];
    fsb_sftp_script_ text;
    fsb_sftp_run_  r;
    memset(&r, 0, sizeof r), memset(&text, 0, sizeof text);
    r.h = h, r.upper = op, r.result = 1, text.allocator = &h->desc.allocator;
    op->exec->exit_code = op->exec->signal = 0, op->exec->cut[0] = op->exec->cut[1] = 0;
    pthread_mutex_lock(&h->lock);
    snprintf(folder, sizeof folder, "%s%s", h->root, op->path[1] || !h->root_size ? op->path : "");
    pthread_mutex_unlock(&h->lock);
    int64_t n = fsb_sftp_run_text_(&r, folder, &text);
    if (!n) n = fsb_sftp_run_start_(&r, text.text);
    fsb_backend_free_(&h->desc.allocator, text.text, text.room);
    return n;
}

/* EXEC's local side is a backend of its own, which runs commands. */
static int fsb_sftp_runner_(fsb_sftp_host_ *h)
{
    fsb_local_desc desc;
    if (!h->desc.exec_argv) return 0;
    memset(&desc, 0, sizeof desc);
    desc.root = "/", desc.max_handles = 1, desc.allow_exec = 1, desc.exec_env = h->desc.exec_env;
    desc.allocator = h->desc.allocator, desc.log = h->desc.log;
    h->base.cancel = fsb_sftp_cancel_;
    return fsb_local_open(&h->runner, &desc);
}

/* ---- [sftp: calls] --------------------------------------------------------------------------- */

static int64_t fsb_sftp_on_setattr_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_file_ *f, uint32_t flags)
{
    fsb_attr attr = op->attr;
    uint32_t mask = attr.mask & ~(uint32_t)FSB_ATTR_KILL_PRIV;
    fsb_stat st;
    memset(&st, 0, sizeof st);
    if (f && mask & FSB_ATTR_SIZE && !(flags & FSB_O_WRITE)) return -EBADF;
    int err = f ? fsb_sftp_set_(s, NULL, f, &attr, 0, &st) : fsb_sftp_look_(s, op, &st);
    if (err) return err;
    if (mask & FSB_ATTR_SIZE && !S_ISREG(st.mode)) return S_ISDIR(st.mode) ? -EISDIR : -EINVAL;
    if (attr.mask & FSB_ATTR_KILL_PRIV) {
        attr.mode = fsb_backend_killed_(mask & FSB_ATTR_MODE ? attr.mode : st.mode);
        mask |= FSB_ATTR_MODE;
    }
    err = fsb_sftp_set_(s, op->path, f, &attr, mask, &st);
    if (!err) op->stat = st;
    return fsb_sftp_why_(s, err);
}

static int64_t fsb_sftp_on_sync_(fsb_sftp_ *s, fsb_op *op, fsb_sftp_file_ *f)
{
    fsb_sftp_file_ mine;
    if (!f) {
        int err = fsb_sftp_look_(s, op, &op->stat);
        const int folder = S_ISDIR(op->stat.mode);
        if (!err && !S_ISREG(op->stat.mode) && !folder) err = -EINVAL;
        if (err) return err;
        err = fsb_sftp_open_(s, op->path, 1, 0, &mine);
        if (err) return folder ? -ENOSYS : err; /* OpenSSH's opens it as if it were a file */
    }
    int err = -ENOSYS;
    if (s->extensions & FSB_SFTP_FSYNC_) {
        const size_t at = fsb_sftp_extended_(s, "fsync@openssh.com");
        fsb_sftp_string_(s, f ? f->name : mine.name, f ? f->size : mine.size);
        fsb_sftp_finish_(s, at);
        err = fsb_sftp_one_(s, NULL);
    }
    if (!f) fsb_sftp_drop_file_(s, &mine);
    return err;
}

static int64_t fsb_sftp_on_statfs_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_sftp_answer_ a;
    uint64_t         v[11];
    if (!(s->extensions & FSB_SFTP_STATVFS_) || op->handle) return -ENOSYS;
    const size_t at = fsb_sftp_extended_(s, "statvfs@openssh.com");
    fsb_sftp_path_(s, op->path);
    fsb_sftp_finish_(s, at);
    const int err = fsb_sftp_one_(s, &a);
    if (err) return err;
    fsb_sftp_cursor_ c = {a.body, a.body ? a.body_size : 0, 0};
    for (int i = 0; i < 11; ++i) v[i] = fsb_sftp_get64_(&c);
    if (c.err) return -EPROTO;
    memset(&op->statfs, 0, sizeof op->statfs);
    op->statfs.bsize = (uint32_t)v[0], op->statfs.frsize = (uint32_t)v[1];
    op->statfs.blocks = v[2], op->statfs.bfree = v[3], op->statfs.bavail = v[4];
    op->statfs.files = v[5], op->statfs.ffree = v[6], op->statfs.namelen = (uint32_t)v[10];
    return 0;
}

static int64_t fsb_sftp_on_path_op_(fsb_sftp_ *s, fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_STAT: return fsb_sftp_look_(s, op, &op->stat);
    case FSB_OP_READLINK: return fsb_sftp_on_readlink_(s, op);
    case FSB_OP_OPEN: return fsb_sftp_on_open_(s, op);
    case FSB_OP_GET: return fsb_sftp_on_get_(s, op);
    case FSB_OP_PUT: return fsb_sftp_on_put_(s, op);
    case FSB_OP_SYNC: return fsb_sftp_on_sync_(s, op, NULL);
    case FSB_OP_MKDIR: return fsb_sftp_on_mkdir_(s, op);
    case FSB_OP_UNLINK: case FSB_OP_RMDIR: return fsb_sftp_on_remove_(s, op);
    case FSB_OP_RENAME: return fsb_sftp_on_rename_(s, op);
    case FSB_OP_LINK: return fsb_sftp_on_link_(s, op);
    case FSB_OP_SYMLINK: return fsb_sftp_on_symlink_(s, op);
    case FSB_OP_MKNOD: return fsb_sftp_on_mknod_(s, op);
    case FSB_OP_SETATTR: return fsb_sftp_on_setattr_(s, op, NULL, 0);
    case FSB_OP_STATFS: return fsb_sftp_on_statfs_(s, op);
    default: return -ENOSYS;
    }
}

static int64_t fsb_sftp_on_handle_op_(fsb_sftp_ *s, fsb_op *op, fsb_backend_slot_ *slot)
{
    fsb_sftp_file_ *f = (fsb_sftp_file_ *)slot->object;
    const int       alive = f->epoch == s->epoch && fsb_sftp_alive_(s);
    if (op->code == FSB_OP_CLOSE) {
        const int ended = fsb_backend_handle_close_(&s->h->handles, op->handle);
        if (ended || !alive) return ended;
        if (slot->flags & FSB_O_WRITE) return fsb_sftp_close_file_(s, f);
        fsb_sftp_drop_file_(s, f);
        return 0;
    }
    if (op->code == FSB_OP_READ && !(slot->flags & FSB_O_READ)) return -EBADF;
    if (op->code == FSB_OP_WRITE && !(slot->flags & FSB_O_WRITE)) return -EBADF;
    if (!alive) return -ESTALE;
    switch (op->code) {
    case FSB_OP_STAT: return fsb_sftp_set_(s, NULL, f, &op->attr, 0, &op->stat);
    case FSB_OP_READ: return fsb_sftp_on_read_(s, op, f);
    case FSB_OP_WRITE:
        if (!(op->flags & FSB_WRITE_APPEND)) return fsb_sftp_on_write_(s, op, f);
        pthread_mutex_lock(&s->h->appending);
        op->result = fsb_sftp_on_write_(s, op, f);
        pthread_mutex_unlock(&s->h->appending);
        return op->result;
    case FSB_OP_SYNC: return fsb_sftp_on_sync_(s, op, f);
    case FSB_OP_SETATTR: return fsb_sftp_on_setattr_(s, op, f, slot->flags);
    case FSB_OP_COPY: return fsb_sftp_on_copy_(s, op, f, slot->flags);
    case FSB_OP_LINK: case FSB_OP_STATFS: return -ENOSYS;
    default: return -EINVAL;
    }
}

static int64_t fsb_sftp_on_handle_(fsb_sftp_ *s, fsb_op *op)
{
    fsb_backend_slot_ *slot = fsb_backend_pin_(&s->h->handles, op->handle);
    if (!slot) return -EBADF;
    const int64_t n = fsb_sftp_on_handle_op_(s, op, slot);
    fsb_backend_unpin_(&s->h->handles, slot);
    return n;
}

static int64_t fsb_sftp_on_list_(fsb_sftp_ *s, fsb_op *op)
{
    int64_t n = op->handle ? -EBADF : fsb_sftp_connect_(s);
    if (!n) n = fsb_sftp_meant_(s, op);
    if (n) return n;
    fsb_sftp_listing_ *l = fsb_sftp_list_resume_(s, op);
    if (!l) {
        const size_t path_size = strlen(op->path) + 1;
        l = (fsb_sftp_listing_ *)fsb_backend_new_(&s->h->desc.allocator, sizeof *l + path_size);
        if (!l) return -ENOMEM;
        memcpy(l + 1, op->path, path_size);
        l->path_size = path_size;
        n = fsb_sftp_fill_listing_(s, op, l);
    }
    if (!n) op->stat = l->stat, n = fsb_sftp_list_out_(s, op, l);
    const int more = !n;
    if (!more) fsb_sftp_list_free_(s->h, l);
    fsb_sftp_list_keep_(s->h, more ? l : NULL);
    return n;
}

static int64_t fsb_sftp_call_(fsb_backend *b, fsb_op *op)
{
    fsb_sftp_host_ *h = (fsb_sftp_host_ *)(void *)b;
    const fsb_stat  before = op->stat;
    int64_t         n = fsb_backend_check_(op);
    if (n) return op->result = n;
    if (op->code == FSB_OP_EXEC) return op->result = fsb_sftp_exec_(h, op);
    const uint32_t takes = fsb_backend_rule_of_(op->code).takes;
    const int      by_handle = takes & FSB_BACKEND_HANDLE_
        || (takes & FSB_BACKEND_AT_ && op->handle);
    fsb_sftp_ *s = fsb_sftp_talk_(h, op->timeout_ms);
    if (!s) return op->result = -ENOMEM;
    if (op->code == FSB_OP_LIST) n = fsb_sftp_on_list_(s, op);
    else if (by_handle) n = fsb_sftp_on_handle_(s, op);
    else if (!(n = fsb_sftp_connect_(s))) n = fsb_sftp_on_path_op_(s, op);
    if (n == -ENOENT && !by_handle) n = fsb_sftp_missing_(s, op->path);
    if (n == -ENOENT && (op->code == FSB_OP_RENAME || op->code == FSB_OP_LINK))
        n = fsb_sftp_missing_(s, op->path2);
    fsb_sftp_talked_(s);
    if (n < 0) op->stat = before;
    return op->result = n;
}

static void fsb_sftp_close_(fsb_backend *b)
{
    fsb_sftp_host_     *h = (fsb_sftp_host_ *)(void *)b;
    const fsb_allocator a = h->desc.allocator;
    fsb_sftp_hang_up_(h);
    if (h->runner) h->runner->close(h->runner);
    fsb_backend_handles_close_(&h->handles);
    while (h->kept) {
        fsb_sftp_listing_ *l = h->kept;
        h->kept = l->next;
        fsb_sftp_list_free_(h, l);
    }
    for (uint32_t i = 0; i < h->talk_count; ++i) {
        fsb_sftp_ *s = h->talks[i];
        pthread_cond_destroy(&s->wake);
        fsb_backend_free_(&a, s->out, s->out_room);
        fsb_backend_free_(&a, s->in, s->in_room);
        fsb_backend_free_(&a, s, sizeof *s);
    }
    fsb_backend_free_(&a, h->talks, h->talk_room * sizeof *h->talks);
    fsb_backend_free_(&a, h->in, h->in_room);
    pthread_mutex_destroy(&h->lock), pthread_mutex_destroy(&h->sending);
    pthread_mutex_destroy(&h->appending), pthread_cond_destroy(&h->calm);
    fsb_backend_free_(&a, h, sizeof *h);
}

FSB_API int fsb_sftp_open(fsb_backend **out, const fsb_sftp_desc *desc)
{
    static const unsigned char none[] = {
        FSB_OP_ALLOCATE, FSB_OP_SEEK, FSB_OP_GETXATTR, FSB_OP_SETXATTR, FSB_OP_LISTXATTR,
        FSB_OP_REMOVEXATTR, FSB_OP_LOCK, FSB_OP_WATCH, FSB_OP_DESCRIPTOR};
    if (!out || !desc || !desc->connect) return -EINVAL;
    const char *root = desc->root ? desc->root : "/";
    if (!*root || strlen(root) > FSB_PATH_MAX) return -EINVAL;
    fsb_sftp_host_ *h = (fsb_sftp_host_ *)fsb_backend_new_(&desc->allocator, sizeof *h);
    if (!h) return -ENOMEM;
    h->desc = *desc, h->fds[0] = h->fds[1] = -1;
    if (!h->desc.timeout_ms) h->desc.timeout_ms = 30000;
    memcpy(h->home, root, strlen(root) + 1);
    int err = fsb_backend_handles_open_(&h->handles, &h->desc.allocator,
                                        desc->max_handles ? desc->max_handles : 4096,
                                        fsb_sftp_drop_, h);
    if (err) {
        fsb_backend_free_(&desc->allocator, h, sizeof *h);
        return err;
    }
    pthread_mutex_init(&h->lock, NULL), pthread_mutex_init(&h->sending, NULL);
    pthread_mutex_init(&h->appending, NULL), pthread_cond_init(&h->calm, NULL);
    fsb_backend_fill_(&h->base, "sftp", fsb_sftp_close_, fsb_sftp_call_);
    h->base.flags = 0;
    for (size_t i = 0; i < sizeof none; ++i) h->base.call[none[i]] = NULL;
    if (!h->desc.exec_argv) h->base.call[FSB_OP_EXEC] = NULL;
    fsb_sftp_ *s = fsb_sftp_talk_(h, 0);
    err = s ? fsb_sftp_connect_(s) : -ENOMEM;
    if (s) fsb_sftp_talked_(s);
    if (!err) err = fsb_sftp_runner_(h);
    if (err) {
        fsb_sftp_close_(&h->base);
        return err;
    }
    *out = &h->base;
    return 0;
}

#endif /* O_PATH */
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
