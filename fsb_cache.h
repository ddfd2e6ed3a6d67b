/* fsb_cache.h - v0.1.0 - caches: in memory, on disk, and in front of any backend
   One header, C99 to C17 and C++11 to C++20.

   Three parts, each usable alone: bytes in memory under 256-bit keys (fsb_cache_...), chunks and
   small records on disk that survive a restart and kill -9 (fsb_cache_disk_...), and a backend that
   keeps both in front of another one (fsb_cached_...).

   QUICK START
       #define FSB_CACHE_IMPLEMENTATION     // in ONE source file, before its other includes
       #include "fsb_cache.h"               // (FSB_IMPLEMENTATION enables every fsb header)
       #include <stdio.h>

       static int64_t load(void *user, void *buf, size_t size) // once, however many threads ask
       {
           return snprintf((char *)buf, size, "loaded for %s", (const char *)user);
       }
       int main(void)
       {
           fsb_cache_desc desc = {0};       // a zero field means "use the default"
           desc.max_bytes = 16 << 20;
           fsb_cache *cache = NULL;
           if (fsb_cache_open(&cache, &desc) < 0) return 1;

           const fsb_cache_key key = {{1, 2, 3, 4}};
           char                who[] = "you";
           fsb_slice           bytes;
           if (fsb_cache_fetch(cache, &key, 100, load, who, 0, &bytes) >= 0) {
               printf("%.*s\n", (int)bytes.size, (const char *)bytes.data);
               fsb_slice_release(&bytes);   // until then the bytes stay where they are
           }
           fsb_cache_close(cache);
           return 0;
       }

   NEEDS     POSIX threads (-pthread), Linux. With a strict -std=, include it before libc's.
   OPTIONS   FSB_STATIC, FSB_API: once, before the first fsb header.
   THREADS   Every object may be shared by any number of threads. A hit in memory takes no lock.
             A loader that fsb_cache_fetch() calls runs without any lock of the cache held.
   MEMORY    desc.allocator only. What fsb_cache has from it never exceeds desc.max_bytes: tables
             and pinned bytes are included. fsb_cache_disk needs 70 bytes a chunk, 40 a record.
   ERRORS    0, a count, or a negative errno. -ENOENT it is not there; -E2BIG a value is larger than
             this cache takes; -ENOMEM there is no memory, or all that there may be is pinned.
   DOES NOT  keep what is in memory over a restart, tell the threads of a process apart, lock the
             directory against programs that are not fsb.
   LICENCE   MIT, at the end of this file.            CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_CACHE_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_CACHE_H
#define FSB_CACHE_H
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

/* What bytes are kept under: any 256 bits, packed or hashed by the caller. */
typedef struct fsb_cache_key {
    uint64_t word[4];
} fsb_cache_key;

/* ---- [core] bytes in memory ------------------------------------------------------------------ */

/* What is used goes on living, what was asked for once goes first (S3-FIFO). */
typedef struct fsb_cache fsb_cache;

typedef struct fsb_cache_desc {
    uint64_t max_bytes;   /* of all its memory (default 64 MiB; at least 64 KiB) */
    uint32_t shards;      /* parts with a lock each: a power of two up to 64 (default: as many as
                             leave each 4 MiB) */
    uint32_t small_bytes; /* values up to this size live in the table itself and are copied out
                             without a pin (default 56, up to 1024; rounded up to 8 n) */
    uint64_t max_entries; /* in the table at most; 12 bytes each are taken at once, and when it is
                             used 72 + small_bytes more (default: max_bytes / 256) */
    uint32_t ttl_ms;      /* how long a value is kept where the call names no time (default: for
                             ever) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_cache_desc;

/* Makes a cache from *desc (copied; NULL: all defaults). *out is the caller's until
   fsb_cache_close(). Errors: EINVAL a field is out of range, ENOMEM. Threads: any. */
FSB_API int fsb_cache_open(fsb_cache **out, const fsb_cache_desc *desc);

/* Frees the cache and all it holds; NULL is fine. Every slice must have been released.
   Errors: none. Threads: no other user left. */
FSB_API void fsb_cache_close(fsb_cache *cache);

/* 1: *out is the value, pinned where it is until fsb_slice_release(out), even if it is replaced,
   removed or evicted meanwhile; 0: there is none, *out is empty.
   Errors: none. Threads: any; takes no lock unless others change the same shard all the time. */
FSB_API int fsb_cache_get(fsb_cache *cache, const fsb_cache_key *key, fsb_slice *out);

/* Copies the value to buf and returns its size; a size above `size` means that nothing was copied.
   Errors: ENOENT. Threads: any, as fsb_cache_get(). */
FSB_API int64_t fsb_cache_get_copy(fsb_cache *cache, const fsb_cache_key *key, void *buf,
                                   size_t size);

/* Keeps a copy of `size` bytes (0 is fine) under *key instead of what was there, for ttl_ms
   milliseconds (0: desc.ttl_ms). Errors: E2BIG (fsb_cache_max_value()), ENOMEM also where all is
   pinned; what was there is unchanged then. Threads: any. */
FSB_API int fsb_cache_put(fsb_cache *cache, const fsb_cache_key *key, const void *data, size_t size,
                          uint32_t ttl_ms);

/* The value, pinned as by fsb_cache_get(); if there is none, load() makes it, once for all who ask
   meanwhile: it writes at most max_size bytes to buf, which is where they stay, and returns their
   number, or a negative errno, which everybody gets. It runs on this thread; it may use the cache,
   but not fetch the same key. What was loaded is handed out but not kept if its key was put or
   removed meanwhile. Returns 1 if the value was there, 0 if it was loaded.
   Errors: load()'s own, E2BIG, ENOMEM as put. Threads: any; waits for another's load(). */
FSB_API int fsb_cache_fetch(fsb_cache *cache, const fsb_cache_key *key, size_t max_size,
                            int64_t (*load)(void *user, void *buf, size_t size), void *user,
                            uint32_t ttl_ms, fsb_slice *out);

/* Forgets the value of a key; a load under way for it is not kept.
   Errors: ENOENT there was none. Threads: any. */
FSB_API int fsb_cache_remove(fsb_cache *cache, const fsb_cache_key *key);

/* Forgets everything, as fsb_cache_remove() does. Errors: none. Threads: any. */
FSB_API void fsb_cache_clear(fsb_cache *cache);

/* The largest value that it takes, in bytes. Errors: none. Threads: any. */
FSB_API uint64_t fsb_cache_max_value(const fsb_cache *cache);

typedef struct fsb_cache_stats {
    uint64_t hits, misses; /* of get, get_copy, fetch; who waited for a load missed, too */
    uint64_t insertions, evictions, expired, removed;
    uint64_t loads, waits;     /* of fetch: what load() was called for; who waited for another */
    uint64_t entries;          /* values in it now */
    uint64_t bytes, max_bytes; /* of all its memory now, tables and pinned values included */
    uint64_t pinned;           /* bytes of values that are gone, but still pinned */
} fsb_cache_stats;

/* Counts since the cache was opened; of hits and misses a few may be lost where threads meet.
   Errors: none. Threads: any. */
FSB_API void fsb_cache_get_stats(fsb_cache *cache, fsb_cache_stats *out);

/* ---- [disk] chunks and records that survive -------------------------------------------------- */

/* A folder of its own holds `slots` (chunks of up to 128 KiB, one a slot, sparse), `table` (what is
   in which slot), `records` (metadata) and `lock`. Everything is checked whenever it is read: what
   was damaged is a miss. kill -9 at any moment loses what was being written at most. */
typedef struct fsb_cache_disk fsb_cache_disk;
enum { FSB_CACHE_CHUNK = 128 << 10 }; /* bytes of a chunk at most */

typedef struct fsb_cache_disk_desc {
    const char *dir;       /* the folder, made if it is not there */
    uint64_t    max_bytes; /* of its files (default 10 GiB; at least 4 MiB) */
    int         read_only; /* 1: change nothing; also what happens where nothing can be changed */
    /* 32 bytes over `size` bytes of data, say fsb_blake3_hash() of fsb_chunk.h. NULL: one of 128
       bits (rounds of AES where the processor has them, else XXH3), which finds every accident, but
       no forgery. A folder that was written with another one starts empty. */
    void (*hash)(const void *data, size_t size, unsigned char out[32]);
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_cache_disk_desc;

/* Opens the folder for this process alone; what does not make sense in it is thrown away, what
   cannot be written is opened for reading only, with a warning. *out is the caller's until
   fsb_cache_disk_close(). Errors: EBUSY another process has it (the log names it), EINVAL, ENOMEM,
   those of open(2) where there is nothing to read either. Threads: any. */
FSB_API int fsb_cache_disk_open(fsb_cache_disk **out, const fsb_cache_disk_desc *desc);

/* Frees everything; NULL is fine. Errors: none.
   Threads: no other user left. */
FSB_API void fsb_cache_disk_close(fsb_cache_disk *disk);

/* Reads a chunk to buf, checked, and returns its size; a size above `size` means that nothing was
   read. Processors of AMD fill a buf that begins 1 to 31 bytes behind a page's begin, as malloc()
   gives large ones, at an eighth of their speed: better one at a multiple of 64.
   Errors: ENOENT, also where it was damaged: then it is dropped and counted.
   Threads: any; one system call, no lock meanwhile. */
FSB_API int64_t fsb_cache_disk_get(fsb_cache_disk *disk, const fsb_cache_key *key, void *buf,
                                   size_t size);

/* Keeps a chunk instead of what was there. Errors: E2BIG, EROFS, ENOSPC the disk is full or broken:
   nothing is written any more, which the log says once; reads go on. Threads: any. */
FSB_API int fsb_cache_disk_put(fsb_cache_disk *disk, const fsb_cache_key *key, const void *data,
                               size_t size);

/* Forgets a chunk. Errors: ENOENT there was none, EROFS. Threads: any. */
FSB_API int fsb_cache_disk_remove(fsb_cache_disk *disk, const fsb_cache_key *key);

/* Records are values of up to 16 MiB under keys of 1 to 8200 bytes: attributes, names, listings.
   They are written at once and in the order of the calls; of too many the oldest go. Where a key's
   record is damaged there is none: never an older one.

   Copies the value to buf and returns its size; a size above `size` means that nothing was copied.
   Errors: ENOENT, EINVAL. Threads: any. */
FSB_API int64_t fsb_cache_disk_meta_get(fsb_cache_disk *disk, const void *key, size_t key_size,
                                        void *buf, size_t size);

/* Keeps a record instead of what was there, which is gone in any case but EROFS and E2BIG.
   Errors: EINVAL, E2BIG, ENOMEM, EROFS, ENOSPC as fsb_cache_disk_put(). Threads: any. */
FSB_API int fsb_cache_disk_meta_put(fsb_cache_disk *disk, const void *key, size_t key_size,
                                    const void *value, size_t value_size);

/* Forgets a record. Errors: ENOENT there was none, EINVAL, ENOMEM, EROFS. Threads: any. */
FSB_API int fsb_cache_disk_meta_remove(fsb_cache_disk *disk, const void *key, size_t key_size);

/* Calls each() for every record whose key begins with the prefix (size 0: all), in no order; not 0
   ends the walk and is returned. What each() gets is valid during the call; it may put and remove.
   Errors: each()'s own, ENOMEM. Threads: any; no lock is held during each(). */
FSB_API int fsb_cache_disk_meta_walk(fsb_cache_disk *disk, const void *prefix, size_t prefix_size,
                                     int (*each)(void *user, const void *key, size_t key_size,
                                                 const void *value, size_t value_size),
                                     void *user);

typedef struct fsb_cache_disk_stats {
    uint64_t hits, misses, puts, evictions;
    uint64_t damaged;               /* chunks and records that were dropped for what was in them */
    uint64_t chunks, slots;         /* chunks in it now, and how many there can be */
    uint64_t chunk_bytes;           /* of those chunks */
    uint64_t records, record_bytes; /* of metadata */
    uint64_t memory;                /* bytes that it holds of the allocator's */
    uint64_t max_bytes;
    int32_t  read_only; /* 1: it cannot be written, or not any more */
    int32_t  reserved;
} fsb_cache_disk_stats;

/* Counts since it was opened. Errors: none. Threads: any. */
FSB_API void fsb_cache_disk_get_stats(fsb_cache_disk *disk, fsb_cache_disk_stats *out);

typedef struct fsb_cache_disk_report {
    uint64_t chunks, chunk_bytes;   /* that are well */
    uint64_t records, record_bytes; /* the same */
    uint64_t damaged_chunks, damaged_records;
} fsb_cache_disk_report;

/* Reads and checks every chunk and record of desc->dir; unless desc->read_only, what is damaged is
   dropped. 0 with damage too: the report tells. Errors: as fsb_cache_disk_open(). Threads: any. */
FSB_API int fsb_cache_disk_verify(const fsb_cache_disk_desc *desc, fsb_cache_disk_report *out);

/* Removes every chunk and record of desc->dir. Errors: EBUSY, EROFS, ENOENT no such folder, those
   of open(2). Threads: any. */
FSB_API int fsb_cache_disk_clear(const fsb_cache_disk_desc *desc);

/* ---- a backend that remembers ---------------------------------------------------------------- */

typedef struct fsb_cache_backend_desc {
    fsb_backend    *inner;   /* required unless offline; borrowed, and must outlive this one */
    const char     *share;   /* names what inner serves (copied): a part of every key, so that one
                                L2 directory serves many (default "") */
    uint64_t        max_bytes; /* of memory: data, attributes, names (default 128 MiB; at least
                                  1 MiB of data) */
    fsb_cache_disk *disk;      /* L2, borrowed; NULL: none */
    uint32_t        ttl_ms;    /* how long an answer is kept where inner gives no lease: WATCH with
                                  FSB_WATCH_HELD answered -ENOSYS (default 1000) */
    uint64_t        read_ahead; /* most bytes fetched ahead of a sequential reader (default 8 MiB,
                                   FSB_UNLIMITED: an eighth of max_bytes) */
    int             offline;    /* 1: begin as if the host were away: answer from what is there */
    fsb_allocator   allocator;
    fsb_logger      log;
} fsb_cache_backend_desc;

/* Wraps `inner`: answers STAT, LIST, READLINK, OPEN for reading, READ, GET and GETXATTR of missing
   names from memory or L2 while they are known to hold, passes on everything else, and keeps what
   comes back. submit() calls done() before it returns for what is known.
   Where inner has submit(), a change to a folder's names is followed by a STAT of the folder, which
   whoever goes on there asks for next.
   Where a round trip takes more than 1 ms, and inner has submit(): a name that is looked up brings
   the first 16 KiB of its file along, while at least one in four is opened; and small files read
   one after another bring those behind them (in the order of the listing, of their names, or of
   the numbers in these), in a window that grows while the link keeps up. LIST with FSB_LIST_DATA
   then gives the bytes that are here. Where it takes less, and there is no disk, the
   bytes of large files and those of a LIST with FSB_LIST_DATA are passed on and not kept.
   What is known holds as long as inner's lease (WATCH of "/" with FSB_WATCH_HELD), else ttl_ms.
   A WATCH with FSB_WATCH_HELD of this backend hears of others' changes after they were forgotten
   here. Attributes of files with several names (hard links) are not kept, since a change through
   another name may not be told.
   OPEN for reading of a known file asks nobody; inner's own handle is opened with the first READ
   that cannot be answered, which is -ESTALE or -ENOENT if another client removed the file
   meanwhile; what goes through this backend (UNLINK, RENAME) opens it first.
   While the host is away (inner answers -ENOTCONN, -ETIMEDOUT, -EHOSTDOWN and the like) everything
   remembered is answered, however old; what would change anything answers -ENETDOWN, and what is
   not there the error of inner. It asks once a second whether the host is back.
   GETXATTR "user.fsb.status" of "/": "online", or "offline since 2026-01-31T12:00:00Z".
   Starts one thread if there is a disk.
   Errors: -EINVAL; -ENOMEM; -EAGAIN no thread. Threads: any. */
FSB_API int fsb_cached_backend(fsb_backend **out, const fsb_cache_backend_desc *desc);

typedef struct fsb_cached_stats {
    uint64_t attr_hits, attr_misses;   /* STAT, OPEN */
    uint64_t negative_hits;            /* of names that are not there */
    uint64_t listing_hits, listing_misses;
    uint64_t data_hits, data_misses;   /* READ, GET */
    uint64_t disk_hits;                /* chunks that came from L2 */
    uint64_t ahead_bytes;              /* fetched before they were asked for */
    uint64_t calls;                    /* sent to inner */
    uint64_t events;                   /* that came from inner */
    uint64_t folders, folder_bytes;    /* attributes and names held, and their memory */
    uint64_t offline_since_ns;         /* since the epoch; 0: online */
    int      leased;                   /* 1: inner tells of changes, 0: ttl_ms */
} fsb_cached_stats;

/* Counts so far. `cached` is one of fsb_cached_backend(). Errors: none. Threads: any. */
FSB_API void fsb_cached_get_stats(fsb_backend *cached, fsb_cached_stats *out);

#ifdef __cplusplus
}
#endif
#endif /* FSB_CACHE_H */

/* ==== IMPLEMENTATION: [memory] [core] [disk] ================================================== */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_CACHE_IMPLEMENTATION)) && !defined(FSB_CACHE_DONE_)
#define FSB_CACHE_DONE_ /* a second inclusion is harmless */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(CLOCK_MONOTONIC) || !defined(O_CLOEXEC)
#error "fsb_cache.h: POSIX is hidden; include it first, or compile with -D_GNU_SOURCE"
#else
#ifdef __cplusplus
extern "C" {
#endif

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_cache_resize_(const fsb_allocator *a, void *ptr, size_t old_size, size_t new_size)
{
    if (a->fn) return a->fn(a->user, ptr, old_size, new_size);
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static void *fsb_cache_alloc_(const fsb_allocator *a, size_t size)
{
    void *ptr = fsb_cache_resize_(a, NULL, 0, size);
    if (ptr) memset(ptr, 0, size);
    return ptr;
}

static void fsb_cache_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) (void)fsb_cache_resize_(a, ptr, size, 0);
}

static uint64_t fsb_cache_random_(void) /* need not be secret, only differ */
{
    uint64_t value = 0;
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        value = ((uint64_t)t.tv_sec << 32) ^ (uint64_t)t.tv_nsec ^ ((uint64_t)getpid() << 20);
    }
    return value;
}

/* ---- [core] tables --------------------------------------------------------------------------- */

/* A shard has a table of entries, which never move and are never freed, and an index of their
   numbers by hash. Readers look without the lock and check afterwards that `changes` stands where
   it stood and is even (a seqlock): what they see meanwhile may be nonsense, but every word of it
   exists. That check needs no fence, as readers load with acquire and writers store with release:
   who saw a new word also sees that `changes` moved.

   An entry lives while its `refs` are not 0: the map holds one, each pin another. A reader takes a
   pin only from an entry that lives, and only then checks `changes`: so if the check holds, the map
   still had it, and if not, the pin is given back as any other. The last reference frees. */
typedef struct fsb_cache_entry_ {
    uint64_t key[4];
    uint8_t *block;   /* the value; NULL: it is behind the entry itself */
    uint64_t expires; /* in ms of the monotonic clock; 0: never */
    uint32_t size, refs;
    uint32_t back; /* bytes from the segment's first to the entry's */
    uint8_t  hit;  /* since it stands where it stands in its queue */
    uint8_t  queue;
    uint16_t reserved;
    uint32_t next, prev; /* numbers in the queue (next: towards the tail), or in the free list */
} fsb_cache_entry_;

enum {
    FSB_CACHE_SEGMENT_ = 64, /* entries that are allocated at once */
    FSB_CACHE_STRIPES_ = 64, /* counters that threads do not share, if they are lucky */
    FSB_CACHE_TRIES_   = 16, /* without the lock */
    FSB_CACHE_WAYS_    = 4,  /* of the ghosts */
    FSB_CACHE_ALIGN_   = 64, /* of large values, from this size on: */
    FSB_CACHE_APART_   = 4096,
    FSB_CACHE_SMALL_   = 0,  /* the queue of what is new ... */
    FSB_CACHE_MAIN_    = 1,  /* ... and of what was asked for again */
    FSB_CACHE_GONE_    = 2   /* in no queue */
};

struct fsb_cache_shard_;
typedef struct fsb_cache_segment_ { /* its entries follow; at a multiple of 64 */
    struct fsb_cache_shard_ *shard;
    uint32_t                 number;
    uint32_t                 shift; /* bytes from what was allocated to here */
    uint64_t                 reserved[6];
} fsb_cache_segment_;

typedef struct fsb_cache_queue_ {
    uint32_t head, tail;
    uint64_t bytes;
} fsb_cache_queue_;

/* A load under way. Who finds one waits for it. */
typedef struct fsb_cache_flight_ {
    struct fsb_cache_flight_ *next;
    uint64_t                  key[4];
    pthread_cond_t            landed;
    uint32_t                  users; /* the loader and those who wait */
    int                       done;
    int64_t                   result;
    fsb_cache_entry_         *entry; /* with a pin for each who waits */
} fsb_cache_flight_;

typedef struct fsb_cache_shard_ {
    /* what readers need */
    uint32_t             changes;
    uint32_t             index_mask;  /* positions - 1 */
    uint32_t             number_mask; /* of an index word: the number; above it bits of the hash */
    uint32_t             stride;      /* bytes from an entry to the next */
    uint32_t            *index;
    fsb_cache_segment_ **segments;
    fsb_cache           *cache;
    uint8_t              apart[24]; /* the lock's cache line is another one */
    /* what the lock guards */
    pthread_mutex_t    lock;
    uint64_t           bytes, max_bytes, pinned;
    uint32_t           count, free;                /* entries in the map; first of the free list */
    uint32_t           segment_count, segment_max; /* of segments[] */
    fsb_cache_queue_   queue[2];
    uint32_t          *ghosts; /* fingerprints of evicted keys, with the time in the low 12 bits */
    uint32_t           ghost_mask; /* sets - 1 */
    uint32_t           ghost_time, ghost_ticks;
    fsb_cache_flight_ *flights;
    uint64_t           insertions, evictions, expired, removed, loads, waits;
} fsb_cache_shard_;

typedef struct fsb_cache_stripe_ {
    uint64_t hits, misses, apart[6];
} fsb_cache_stripe_;

struct fsb_cache {
    fsb_cache_desc    desc; /* with the defaults filled in */
    uint64_t          seed, max_value;
    uint32_t          shard_mask;
    size_t            shard_bytes; /* of a shard's tables */
    fsb_cache_stripe_ stripes[FSB_CACHE_STRIPES_];
    fsb_cache_shard_  shards[1]; /* as many as there are */
};

/* What a hit runs through; in line it costs 60 instructions less. */
#define FSB_CACHE_HOT_ static inline __attribute__((always_inline))
#define FSB_CACHE_LOAD_(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define FSB_CACHE_STORE_(p, value) __atomic_store_n((p), (value), __ATOMIC_RELEASE)

FSB_CACHE_HOT_ uint64_t fsb_cache_mix_(uint64_t h, uint64_t word)
{
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

FSB_CACHE_HOT_ uint64_t fsb_cache_hash_(uint64_t seed, const uint64_t key[4])
{
    const uint64_t a = fsb_cache_mix_(fsb_cache_mix_(seed, key[0]), key[1]);
    const uint64_t b = fsb_cache_mix_(fsb_cache_mix_(~seed, key[2]), key[3]);
    return fsb_cache_mix_(a, b); /* two halves at once: what is looked up waits for it */
}

FSB_CACHE_HOT_ fsb_cache_shard_ *fsb_cache_shard_of_(fsb_cache *c, uint64_t hash)
{
    return &c->shards[(hash >> 26) & c->shard_mask];
}

FSB_CACHE_HOT_ fsb_cache_entry_ *fsb_cache_entry_at_(fsb_cache_shard_ *s, uint32_t number)
{
    uint8_t *segment = (uint8_t *)FSB_CACHE_LOAD_(&s->segments[number / FSB_CACHE_SEGMENT_]);
    return (fsb_cache_entry_ *)(void *)(segment + sizeof(fsb_cache_segment_) +
                                        (number % FSB_CACHE_SEGMENT_) * s->stride);
}

static fsb_cache_shard_ *fsb_cache_home_(const fsb_cache_entry_ *e)
{
    return ((const fsb_cache_segment_ *)(const void *)((const uint8_t *)e - e->back))->shard;
}

static uint32_t fsb_cache_number_(const fsb_cache_shard_ *s, const fsb_cache_entry_ *e)
{
    const fsb_cache_segment_ *segment =
        (const fsb_cache_segment_ *)(const void *)((const uint8_t *)e - e->back);
    return segment->number * FSB_CACHE_SEGMENT_ +
           (e->back - (uint32_t)sizeof *segment) / s->stride;
}

FSB_CACHE_HOT_ int fsb_cache_is_(const fsb_cache_entry_ *e, const uint64_t key[4])
{
    return FSB_CACHE_LOAD_(&e->key[0]) == key[0] && FSB_CACHE_LOAD_(&e->key[1]) == key[1] &&
           FSB_CACHE_LOAD_(&e->key[2]) == key[2] && FSB_CACHE_LOAD_(&e->key[3]) == key[3];
}

/* The entry of a key. Without the lock its answer counts only if `changes` did not move. */
FSB_CACHE_HOT_ fsb_cache_entry_ *fsb_cache_find_(fsb_cache_shard_ *s, uint64_t hash,
                                                 const uint64_t key[4])
{
    const uint32_t tag = (uint32_t)(hash >> 32) & ~s->number_mask;
    for (uint32_t at = (uint32_t)hash & s->index_mask;; at = (at + 1) & s->index_mask) {
        const uint32_t word = FSB_CACHE_LOAD_(&s->index[at]);
        if (!word) return NULL;
        if ((word ^ tag) > s->number_mask) continue;
        fsb_cache_entry_ *e = fsb_cache_entry_at_(s, word & s->number_mask);
        if (fsb_cache_is_(e, key)) return e;
    }
}

static void fsb_cache_index_add_(fsb_cache_shard_ *s, uint64_t hash, uint32_t number)
{
    uint32_t at = (uint32_t)hash & s->index_mask;
    while (s->index[at]) at = (at + 1) & s->index_mask;
    FSB_CACHE_STORE_(&s->changes, s->changes + 1);
    FSB_CACHE_STORE_(&s->index[at], ((uint32_t)(hash >> 32) & ~s->number_mask) | number);
    FSB_CACHE_STORE_(&s->changes, s->changes + 1);
}

/* Takes a number out and moves up what stands behind it and would not be found any more. */
static void fsb_cache_index_remove_(fsb_cache_shard_ *s, uint64_t hash, uint32_t number)
{
    const uint32_t mask = s->index_mask;
    uint32_t       hole = (uint32_t)hash & mask;
    while ((s->index[hole] & s->number_mask) != number) hole = (hole + 1) & mask;
    FSB_CACHE_STORE_(&s->changes, s->changes + 1);
    for (uint32_t at = (hole + 1) & mask; s->index[at]; at = (at + 1) & mask) {
        const fsb_cache_entry_ *e = fsb_cache_entry_at_(s, s->index[at] & s->number_mask);
        const uint32_t          home = (uint32_t)fsb_cache_hash_(s->cache->seed, e->key) & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue;
        FSB_CACHE_STORE_(&s->index[hole], s->index[at]);
        hole = at;
    }
    FSB_CACHE_STORE_(&s->index[hole], 0u);
    FSB_CACHE_STORE_(&s->changes, s->changes + 1);
}

static uint64_t fsb_cache_now_ms_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int fsb_cache_expired_(const fsb_cache_entry_ *e)
{
    const uint64_t expires = FSB_CACHE_LOAD_(&e->expires);
    return expires && fsb_cache_now_ms_() >= expires;
}

/* ---- [core] queues --------------------------------------------------------------------------- */

static uint64_t fsb_cache_weight_(const fsb_cache_shard_ *s, const fsb_cache_entry_ *e)
{
    return s->stride + (e->block ? e->size : 0);
}

static void fsb_cache_enqueue_(fsb_cache_shard_ *s, fsb_cache_entry_ *e, uint8_t queue)
{
    fsb_cache_queue_ *q = &s->queue[queue];
    const uint32_t    number = fsb_cache_number_(s, e);
    e->queue = queue, e->prev = 0, e->next = q->head;
    if (q->head) fsb_cache_entry_at_(s, q->head)->prev = number;
    else q->tail = number;
    q->head = number, q->bytes += fsb_cache_weight_(s, e);
}

static void fsb_cache_dequeue_(fsb_cache_shard_ *s, fsb_cache_entry_ *e)
{
    fsb_cache_queue_ *q = &s->queue[e->queue];
    if (e->prev) fsb_cache_entry_at_(s, e->prev)->next = e->next;
    else q->head = e->next;
    if (e->next) fsb_cache_entry_at_(s, e->next)->prev = e->prev;
    else q->tail = e->prev;
    q->bytes -= fsb_cache_weight_(s, e);
    e->queue = FSB_CACHE_GONE_;
}

/* The ghosts remember what was evicted, for as long as about as many again were. A set of four
   fingerprints of 20 bits, newest first; the time of 12 bits moves 256 times while the cache turns
   over once. What stands there longer than the 12 bits can tell may count as young again: that
   costs a little precision, nothing else. */
static uint32_t *fsb_cache_ghost_set_(fsb_cache_shard_ *s, uint64_t hash)
{
    return s->ghosts + FSB_CACHE_WAYS_ * ((uint32_t)(hash >> 8) & s->ghost_mask);
}

static void fsb_cache_ghost_add_(fsb_cache_shard_ *s, uint64_t hash)
{
    uint32_t *set = fsb_cache_ghost_set_(s, hash);
    if (++s->ghost_ticks * 256 >= s->count) s->ghost_ticks = 0, ++s->ghost_time;
    memmove(set + 1, set, (FSB_CACHE_WAYS_ - 1) * sizeof *set);
    set[0] = ((uint32_t)(hash >> 44) << 12) | (s->ghost_time & 0xfff);
}

static int fsb_cache_ghost_take_(fsb_cache_shard_ *s, uint64_t hash)
{
    uint32_t *set = fsb_cache_ghost_set_(s, hash);
    for (int i = 0; i < FSB_CACHE_WAYS_; ++i) {
        if ((set[i] ^ ((uint32_t)(hash >> 44) << 12)) > 0xfff || !set[i]) continue;
        const uint32_t age = (s->ghost_time - set[i]) & 0xfff;
        set[i] = 0;
        return age <= 256;
    }
    return 0;
}

/* ---- [core] entries -------------------------------------------------------------------------- */

/* A large value begins at a multiple of 64, the byte before it says how far behind its allocation.
   Where malloc() puts it, 16 bytes into a page, processors of AMD (Zen 3 and 4) copy from the page
   cache at an eighth of their speed. */
static size_t fsb_cache_block_bytes_(size_t size)
{
    return size < FSB_CACHE_APART_ ? size : size + FSB_CACHE_ALIGN_;
}

static uint8_t *fsb_cache_block_base_(uint8_t *block, size_t size)
{
    return size < FSB_CACHE_APART_ ? block : block - block[-1];
}

static uint8_t *fsb_cache_block_alloc_(const fsb_allocator *a, size_t size)
{
    uint8_t *base = (uint8_t *)fsb_cache_resize_(a, NULL, 0, fsb_cache_block_bytes_(size));
    if (!base || size < FSB_CACHE_APART_) return base;
    const size_t shift = FSB_CACHE_ALIGN_ - ((uintptr_t)base & (FSB_CACHE_ALIGN_ - 1));
    base[shift - 1] = (uint8_t)shift;
    return base + shift;
}

static void fsb_cache_block_free_(const fsb_allocator *a, uint8_t *block, size_t size)
{
    fsb_cache_free_(a, fsb_cache_block_base_(block, size), fsb_cache_block_bytes_(size));
}

/* Gives back all but `size` bytes of a block, which moves if it has to. */
static uint8_t *fsb_cache_block_trim_(const fsb_allocator *a, uint8_t *block, size_t had,
                                      size_t size)
{
    uint8_t     *base = fsb_cache_block_base_(block, had);
    const size_t shift = (size_t)(block - base), less = fsb_cache_block_bytes_(size);
    const int    stays = less >= size + shift;
    if (!stays) memmove(base, block, size);
    uint8_t *now = (uint8_t *)fsb_cache_resize_(a, base, fsb_cache_block_bytes_(had), less);
    if (!now && !stays) base[shift - 1] = (uint8_t)shift; /* it is freed by that */
    return now && stays ? now + shift : now;
}

static void fsb_cache_give_back_(fsb_cache_shard_ *s, fsb_cache_entry_ *e) /* lock held, refs 0 */
{
    if (e->block) {
        fsb_cache_block_free_(&s->cache->desc.allocator, e->block, e->size);
        s->bytes -= fsb_cache_block_bytes_(e->size);
    }
    FSB_CACHE_STORE_(&e->block, (uint8_t *)NULL);
    e->next = s->free, s->free = fsb_cache_number_(s, e);
}

static void fsb_cache_release_(void *owner) /* of slices */
{
    fsb_cache_entry_ *e = (fsb_cache_entry_ *)owner;
    if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL)) return;
    fsb_cache_shard_ *s = fsb_cache_home_(e);
    pthread_mutex_lock(&s->lock);
    s->pinned -= e->block ? e->size : 0;
    fsb_cache_give_back_(s, e);
    pthread_mutex_unlock(&s->lock);
}

/* Takes an entry out of the map. Who has it pinned keeps it. Lock held. */
static void fsb_cache_drop_(fsb_cache_shard_ *s, fsb_cache_entry_ *e, uint64_t hash)
{
    fsb_cache_index_remove_(s, hash, fsb_cache_number_(s, e));
    fsb_cache_dequeue_(s, e);
    --s->count;
    s->pinned += e->block ? e->size : 0; /* before the last pin can go */
    if (__atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL)) return;
    s->pinned -= e->block ? e->size : 0;
    fsb_cache_give_back_(s, e);
}

/* Evicts one value; 0: every one is pinned. What is new and was not asked for again goes first, as
   long as a tenth of the bytes are left to the new; else the main queue's oldest that was not asked
   for since it was last looked at. Lock held. */
static int fsb_cache_evict_(fsb_cache_shard_ *s)
{
    for (uint64_t left = 2 * (uint64_t)s->count + 1; left; --left) {
        const int fresh = s->queue[FSB_CACHE_SMALL_].tail &&
            (!s->queue[FSB_CACHE_MAIN_].tail ||
             s->queue[FSB_CACHE_SMALL_].bytes * 10 >= s->max_bytes);
        const uint32_t tail = s->queue[fresh ? FSB_CACHE_SMALL_ : FSB_CACHE_MAIN_].tail;
        if (!tail) return 0;
        fsb_cache_entry_ *e = fsb_cache_entry_at_(s, tail);
        if (__atomic_load_n(&e->refs, __ATOMIC_RELAXED) > 1 ||
            (__atomic_load_n(&e->hit, __ATOMIC_RELAXED) && left > s->count)) {
            __atomic_store_n(&e->hit, 0, __ATOMIC_RELAXED);
            fsb_cache_dequeue_(s, e);
            fsb_cache_enqueue_(s, e, FSB_CACHE_MAIN_);
            continue;
        }
        const uint64_t hash = fsb_cache_hash_(s->cache->seed, e->key);
        if (fresh) fsb_cache_ghost_add_(s, hash);
        fsb_cache_drop_(s, e, hash);
        ++s->evictions;
        return 1;
    }
    return 0;
}

static size_t fsb_cache_segment_bytes_(uint32_t stride)
{
    return 63 + sizeof(fsb_cache_segment_) + (size_t)FSB_CACHE_SEGMENT_ * stride;
}

/* Adds a segment of entries to the free list. Lock held. */
static int fsb_cache_grow_(fsb_cache_shard_ *s)
{
    const size_t size = fsb_cache_segment_bytes_(s->stride);
    if (s->segment_count == s->segment_max || s->bytes + size > s->max_bytes) return 0;
    uint8_t *block = (uint8_t *)fsb_cache_alloc_(&s->cache->desc.allocator, size);
    if (!block) return 0;
    const uint32_t      shift = (uint32_t)(-(uintptr_t)block & 63);
    const uint32_t      first = s->segment_count * FSB_CACHE_SEGMENT_;
    fsb_cache_segment_ *segment = (fsb_cache_segment_ *)(void *)(block + shift);
    segment->shard = s, segment->number = s->segment_count, segment->shift = shift;
    FSB_CACHE_STORE_(&s->segments[s->segment_count], segment);
    s->bytes += size, ++s->segment_count;
    for (uint32_t i = FSB_CACHE_SEGMENT_; i-- > 0;) {
        fsb_cache_entry_ *e = fsb_cache_entry_at_(s, first + i);
        e->back = (uint32_t)(sizeof *segment + i * s->stride);
        e->queue = FSB_CACHE_GONE_;
        if (first + i == 0) continue; /* number 0 means none */
        e->next = s->free, s->free = first + i;
    }
    return 1;
}

/* Takes `bytes` of what there may be, and evicts for them. Lock held. */
static int fsb_cache_take_(fsb_cache_shard_ *s, uint64_t bytes)
{
    while (bytes > s->max_bytes - s->bytes)
        if (!fsb_cache_evict_(s)) return -ENOMEM;
    s->bytes += bytes;
    return 0;
}

/* An entry that nobody sees yet, with room for `size` bytes. Called with the lock, which it lets go
   to allocate. */
static int fsb_cache_make_(fsb_cache_shard_ *s, size_t size, fsb_cache_entry_ **out)
{
    const fsb_cache_desc *desc = &s->cache->desc;
    while (!s->free)
        if (!fsb_cache_grow_(s) && !fsb_cache_evict_(s)) return -ENOMEM;
    fsb_cache_entry_ *e = fsb_cache_entry_at_(s, s->free);
    s->free = e->next;
    FSB_CACHE_STORE_(&e->size, (uint32_t)size);
    *out = e;
    if (size <= desc->small_bytes) return 0;
    int err = fsb_cache_take_(s, fsb_cache_block_bytes_(size));
    if (!err) {
        pthread_mutex_unlock(&s->lock);
        uint8_t *block = fsb_cache_block_alloc_(&desc->allocator, size);
        pthread_mutex_lock(&s->lock);
        if (!block) s->bytes -= fsb_cache_block_bytes_(size), err = -ENOMEM;
        FSB_CACHE_STORE_(&e->block, block);
    }
    if (err) fsb_cache_give_back_(s, e);
    return err;
}

FSB_CACHE_HOT_ uint8_t *fsb_cache_value_(fsb_cache_entry_ *e)
{
    return e->block ? e->block : (uint8_t *)(e + 1);
}

/* Writes a small value: in words, as readers may be looking at what was there before. */
static void fsb_cache_write_small_(fsb_cache_entry_ *e, const void *data, size_t size)
{
    uint64_t      *to = (uint64_t *)(void *)(e + 1);
    const uint8_t *from = (const uint8_t *)data;
    for (size_t at = 0; at < size; at += 8, ++to) {
        uint64_t word = 0;
        memcpy(&word, from + at, size - at < 8 ? size - at : 8);
        FSB_CACHE_STORE_(to, word);
    }
}

/* Puts a filled entry into the map instead of what is there, with `pins` besides the map's. */
static void fsb_cache_link_(fsb_cache_shard_ *s, fsb_cache_entry_ *e, const uint64_t key[4],
                            uint64_t hash, uint32_t ttl_ms, uint32_t pins)
{
    fsb_cache_entry_ *old = fsb_cache_find_(s, hash, key);
    uint8_t           queue = FSB_CACHE_SMALL_;
    if (old) {
        queue = old->queue;
        fsb_cache_drop_(s, old, hash);
    } else if (fsb_cache_ghost_take_(s, hash)) {
        queue = FSB_CACHE_MAIN_;
    }
    if (!ttl_ms) ttl_ms = s->cache->desc.ttl_ms;
    for (int i = 0; i < 4; ++i) FSB_CACHE_STORE_(&e->key[i], key[i]);
    FSB_CACHE_STORE_(&e->expires, ttl_ms ? fsb_cache_now_ms_() + ttl_ms : 0);
    __atomic_store_n(&e->hit, 0, __ATOMIC_RELAXED);
    FSB_CACHE_STORE_(&e->refs, 1 + pins);
    fsb_cache_index_add_(s, hash, fsb_cache_number_(s, e));
    fsb_cache_enqueue_(s, e, queue);
    ++s->count, ++s->insertions;
}

/* Who loads this key now must not keep what it gets. Lock held. */
static void fsb_cache_divert_(fsb_cache_shard_ *s, const uint64_t key[4])
{
    for (fsb_cache_flight_ **at = &s->flights; *at; at = &(*at)->next)
        if (memcmp((*at)->key, key, sizeof (*at)->key) == 0) {
            *at = (*at)->next;
            return;
        }
}

/* ---- [core] read ----------------------------------------------------------------------------- */

/* Threads have stacks of their own, whose addresses tell them apart at no cost. Where two of them
   share one all the same, counts may get lost: an exact one would cost as much as the hit. */
FSB_CACHE_HOT_ void fsb_cache_count_(fsb_cache *c, int hit)
{
    const uint64_t     where = (uint64_t)(uintptr_t)__builtin_frame_address(0) >> 16;
    fsb_cache_stripe_ *stripe = &c->stripes[(where * 0x9E3779B97F4A7C15u) >> 58];
    uint64_t          *counter = hit ? &stripe->hits : &stripe->misses;
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

FSB_CACHE_HOT_ void fsb_cache_touch_(fsb_cache_entry_ *e) /* the one byte that a hit writes, once */
{
    if (!__atomic_load_n(&e->hit, __ATOMIC_RELAXED))
        __atomic_store_n(&e->hit, 1, __ATOMIC_RELAXED);
}

FSB_CACHE_HOT_ int fsb_cache_pin_(fsb_cache_entry_ *e) /* 0: it does not live */
{
    uint32_t refs = __atomic_load_n(&e->refs, __ATOMIC_RELAXED);
    while (refs)
        if (__atomic_compare_exchange_n(&e->refs, &refs, refs + 1, 1, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
            return 1;
    return 0;
}

/* Lock held. */
static fsb_cache_entry_ *fsb_cache_find_live_(fsb_cache_shard_ *s, uint64_t hash,
                                              const uint64_t key[4])
{
    fsb_cache_entry_ *e = fsb_cache_find_(s, hash, key);
    if (!e || !fsb_cache_expired_(e)) return e;
    fsb_cache_drop_(s, e, hash);
    ++s->expired;
    return NULL;
}

__attribute__((noinline)) static fsb_cache_entry_ *
fsb_cache_look_locked_(fsb_cache_shard_ *s, uint64_t hash,
                                                const uint64_t key[4])
{
    pthread_mutex_lock(&s->lock);
    fsb_cache_entry_ *e = fsb_cache_find_live_(s, hash, key);
    if (e) __atomic_add_fetch(&e->refs, 1, __ATOMIC_ACQ_REL);
    pthread_mutex_unlock(&s->lock);
    return e;
}

/* The entry of a key with a pin for the caller, or NULL. */
FSB_CACHE_HOT_ fsb_cache_entry_ *fsb_cache_look_(fsb_cache_shard_ *s, uint64_t hash,
                                                 const uint64_t key[4])
{
    for (int i = 0; i < FSB_CACHE_TRIES_; ++i) {
        const uint32_t changes = FSB_CACHE_LOAD_(&s->changes);
        if (changes & 1) continue;
        fsb_cache_entry_ *e = fsb_cache_find_(s, hash, key);
        if (!e) {
            if (FSB_CACHE_LOAD_(&s->changes) == changes) return NULL;
            continue;
        }
        if (FSB_CACHE_LOAD_(&e->expires) && fsb_cache_expired_(e)) break;
        if (!fsb_cache_pin_(e)) continue;
        if (FSB_CACHE_LOAD_(&s->changes) == changes) return e;
        fsb_cache_release_(e);
    }
    return fsb_cache_look_locked_(s, hash, key);
}

FSB_CACHE_HOT_ void fsb_cache_hand_out_(fsb_cache_entry_ *e, fsb_slice *out)
{
    out->data = fsb_cache_value_(e), out->size = e->size;
    out->release = fsb_cache_release_, out->owner = e;
}

FSB_API int fsb_cache_get(fsb_cache *cache, const fsb_cache_key *key, fsb_slice *out)
{
    const uint64_t    hash = fsb_cache_hash_(cache->seed, key->word);
    fsb_cache_entry_ *e = fsb_cache_look_(fsb_cache_shard_of_(cache, hash), hash, key->word);
    fsb_cache_count_(cache, e != NULL);
    if (!e) {
        out->data = NULL, out->size = 0, out->release = NULL, out->owner = NULL;
        return 0;
    }
    fsb_cache_touch_(e);
    fsb_cache_hand_out_(e, out);
    return 1;
}

/* Copies a small value without a pin. -EAGAIN: it is not small, or others changed something. */
FSB_CACHE_HOT_ int64_t fsb_cache_copy_small_(fsb_cache_shard_ *s, uint64_t hash,
                                             const uint64_t key[4], uint8_t *buf, size_t room)
{
    const uint32_t changes = FSB_CACHE_LOAD_(&s->changes);
    if (changes & 1) return -EAGAIN;
    fsb_cache_entry_ *e = fsb_cache_find_(s, hash, key);
    if (!e) return FSB_CACHE_LOAD_(&s->changes) == changes ? -ENOENT : -EAGAIN;
    const size_t size = FSB_CACHE_LOAD_(&e->size);
    if (FSB_CACHE_LOAD_(&e->block) || FSB_CACHE_LOAD_(&e->expires) || size > room ||
        size > s->stride - sizeof *e)
        return -EAGAIN;
    const uint64_t *from = (const uint64_t *)(const void *)(e + 1);
    const size_t    words = size / 8;
    for (size_t i = 0; i < words; ++i) {
        const uint64_t word = FSB_CACHE_LOAD_(&from[i]);
        memcpy(buf + 8 * i, &word, 8);
    }
    if (size % 8) {
        const uint64_t word = FSB_CACHE_LOAD_(&from[words]);
        memcpy(buf + 8 * words, &word, size % 8);
    }
    if (FSB_CACHE_LOAD_(&s->changes) != changes) return -EAGAIN;
    fsb_cache_touch_(e);
    return (int64_t)size;
}

__attribute__((noinline)) static int64_t fsb_cache_copy_pinned_(fsb_cache *cache,
                                                                const fsb_cache_key *key, void *buf,
                                                                size_t size)
{
    fsb_slice slice;
    if (!fsb_cache_get(cache, key, &slice)) return -ENOENT;
    const int64_t n = (int64_t)slice.size;
    if (n && slice.size <= size) memcpy(buf, slice.data, slice.size);
    fsb_slice_release(&slice);
    return n;
}

FSB_API int64_t fsb_cache_get_copy(fsb_cache *cache, const fsb_cache_key *key, void *buf,
                                   size_t size)
{
    const uint64_t    hash = fsb_cache_hash_(cache->seed, key->word);
    fsb_cache_shard_ *s = fsb_cache_shard_of_(cache, hash);
    const int64_t     n = fsb_cache_copy_small_(s, hash, key->word, (uint8_t *)buf, size);
    if (n == -EAGAIN) return fsb_cache_copy_pinned_(cache, key, buf, size);
    fsb_cache_count_(cache, n >= 0);
    return n;
}

/* ---- [core] write ---------------------------------------------------------------------------- */

FSB_API int fsb_cache_put(fsb_cache *cache, const fsb_cache_key *key, const void *data, size_t size,
                          uint32_t ttl_ms)
{
    const uint64_t    hash = fsb_cache_hash_(cache->seed, key->word);
    fsb_cache_shard_ *s = fsb_cache_shard_of_(cache, hash);
    fsb_cache_entry_ *e = NULL;
    if (size > cache->max_value) return -E2BIG;
    pthread_mutex_lock(&s->lock);
    const int err = fsb_cache_make_(s, size, &e);
    if (!err && e->block) { /* a large copy is made without the lock */
        pthread_mutex_unlock(&s->lock);
        memcpy(e->block, data, size);
        pthread_mutex_lock(&s->lock);
    } else if (!err) {
        fsb_cache_write_small_(e, data, size);
    }
    if (!err) {
        fsb_cache_divert_(s, key->word);
        fsb_cache_link_(s, e, key->word, hash, ttl_ms, 0);
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

FSB_API int fsb_cache_remove(fsb_cache *cache, const fsb_cache_key *key)
{
    const uint64_t    hash = fsb_cache_hash_(cache->seed, key->word);
    fsb_cache_shard_ *s = fsb_cache_shard_of_(cache, hash);
    pthread_mutex_lock(&s->lock);
    fsb_cache_entry_ *e = fsb_cache_find_live_(s, hash, key->word);
    if (e) fsb_cache_drop_(s, e, hash), ++s->removed;
    fsb_cache_divert_(s, key->word);
    pthread_mutex_unlock(&s->lock);
    return e ? 0 : -ENOENT;
}

FSB_API void fsb_cache_clear(fsb_cache *cache)
{
    for (uint32_t i = 0; i <= cache->shard_mask; ++i) {
        fsb_cache_shard_ *s = &cache->shards[i];
        pthread_mutex_lock(&s->lock);
        for (int q = 0; q < 2; ++q)
            while (s->queue[q].tail) {
                fsb_cache_entry_ *e = fsb_cache_entry_at_(s, s->queue[q].tail);
                fsb_cache_drop_(s, e, fsb_cache_hash_(cache->seed, e->key));
                ++s->removed;
            }
        s->flights = NULL;
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- [core] fetch ---------------------------------------------------------------------------- */

static fsb_cache_flight_ *fsb_cache_flight_of_(fsb_cache_shard_ *s, const uint64_t key[4])
{
    fsb_cache_flight_ *f = s->flights;
    while (f && memcmp(f->key, key, sizeof f->key) != 0) f = f->next;
    return f;
}

/* Lock held. */
static void fsb_cache_leave_(fsb_cache_shard_ *s, fsb_cache_flight_ *f)
{
    if (--f->users) return;
    pthread_cond_destroy(&f->landed);
    fsb_cache_free_(&s->cache->desc.allocator, f, sizeof *f);
    s->bytes -= sizeof *f;
}

/* Starts a flight, and makes the entry that it fills. Lock held; fsb_cache_make_() lets it go, so
   the flight is seen before. */
static int fsb_cache_take_off_(fsb_cache_shard_ *s, const uint64_t key[4], size_t size,
                               fsb_cache_flight_ **out)
{
    const fsb_allocator *a = &s->cache->desc.allocator;
    int                  err = fsb_cache_take_(s, sizeof **out);
    if (err) return err;
    fsb_cache_flight_ *f = (fsb_cache_flight_ *)fsb_cache_alloc_(a, sizeof *f);
    if (!f) {
        s->bytes -= sizeof *f;
        return -ENOMEM;
    }
    memcpy(f->key, key, sizeof f->key);
    (void)pthread_cond_init(&f->landed, NULL); /* cannot fail in glibc and musl */
    f->users = 1, f->next = s->flights, s->flights = f;
    *out = f, ++s->loads;
    return fsb_cache_make_(s, size, &f->entry);
}

/* Makes the entry as small as what was loaded into it. */
static void fsb_cache_trim_(fsb_cache_shard_ *s, fsb_cache_entry_ *e, size_t size)
{
    const fsb_cache_desc *desc = &s->cache->desc;
    uint8_t              *block = e->block;
    const size_t          had = e->size;
    if (!block || size == had) {
        FSB_CACHE_STORE_(&e->size, (uint32_t)size);
        return;
    }
    if (size <= desc->small_bytes) {
        fsb_cache_write_small_(e, block, size);
        fsb_cache_block_free_(&desc->allocator, block, had);
        block = NULL;
    } else {
        uint8_t *less = fsb_cache_block_trim_(&desc->allocator, block, had, size);
        if (!less) return; /* said to be impossible; `had` is the size then, and it is not kept */
        block = less;
    }
    pthread_mutex_lock(&s->lock);
    s->bytes -= fsb_cache_block_bytes_(had) - (block ? fsb_cache_block_bytes_(size) : 0);
    pthread_mutex_unlock(&s->lock);
    FSB_CACHE_STORE_(&e->block, block);
    FSB_CACHE_STORE_(&e->size, (uint32_t)size);
}

/* Ends a flight with its entry filled, or with an error; everybody who waits gets the same. */
static int fsb_cache_land_(fsb_cache_shard_ *s, fsb_cache_flight_ *f, uint64_t hash,
                           uint32_t ttl_ms, int64_t result, fsb_slice *out)
{
    fsb_cache_entry_ *e = f->entry;
    const int         kept = fsb_cache_flight_of_(s, f->key) == f;
    if (kept) fsb_cache_divert_(s, f->key);
    if (result < 0) {
        if (e) fsb_cache_give_back_(s, e);
        f->entry = NULL;
    } else if (kept) {
        fsb_cache_link_(s, e, f->key, hash, ttl_ms, f->users);
    } else {
        s->pinned += e->block ? e->size : 0;
        FSB_CACHE_STORE_(&e->refs, f->users);
    }
    f->result = result, f->done = 1;
    pthread_cond_broadcast(&f->landed);
    if (result >= 0) fsb_cache_hand_out_(e, out);
    fsb_cache_leave_(s, f);
    return result < 0 ? (int)result : 0;
}

static int fsb_cache_wait_(fsb_cache_shard_ *s, fsb_cache_flight_ *f, fsb_slice *out)
{
    ++f->users, ++s->waits;
    while (!f->done) pthread_cond_wait(&f->landed, &s->lock);
    const int err = f->result < 0 ? (int)f->result : 0;
    if (!err) fsb_cache_hand_out_(f->entry, out);
    fsb_cache_leave_(s, f);
    return err;
}

static int fsb_cache_load_(fsb_cache_shard_ *s, fsb_cache_flight_ *f, size_t max_size,
                           int64_t (*load)(void *user, void *buf, size_t size), void *user)
{
    fsb_cache_entry_ *e = f->entry;
    uint64_t          room[128]; /* a small value is written where readers may look: in words */
    uint8_t          *buf = e->block ? e->block : (uint8_t *)room;
    const int64_t     n = load(user, buf, max_size);
    if (n < 0) return (int)n;
    if ((uint64_t)n > max_size) return -EINVAL;
    if (!e->block) fsb_cache_write_small_(e, room, (size_t)n);
    fsb_cache_trim_(s, e, (size_t)n);
    return (uint64_t)n == e->size ? 0 : -ENOMEM;
}

FSB_API int fsb_cache_fetch(fsb_cache *cache, const fsb_cache_key *key, size_t max_size,
                            int64_t (*load)(void *user, void *buf, size_t size), void *user,
                            uint32_t ttl_ms, fsb_slice *out)
{
    if (fsb_cache_get(cache, key, out)) return 1;
    if (max_size > cache->max_value) return -E2BIG;
    const uint64_t     hash = fsb_cache_hash_(cache->seed, key->word);
    fsb_cache_shard_  *s = fsb_cache_shard_of_(cache, hash);
    fsb_cache_flight_ *f = NULL;
    int                err;
    pthread_mutex_lock(&s->lock);
    fsb_cache_entry_ *e = fsb_cache_find_live_(s, hash, key->word);
    if (e) { /* it came between the two looks */
        __atomic_add_fetch(&e->refs, 1, __ATOMIC_ACQ_REL);
        fsb_cache_hand_out_(e, out);
        err = 1;
    } else if ((f = fsb_cache_flight_of_(s, key->word)) != NULL) {
        err = fsb_cache_wait_(s, f, out);
    } else {
        err = fsb_cache_take_off_(s, key->word, max_size, &f);
        if (!err) {
            pthread_mutex_unlock(&s->lock);
            err = fsb_cache_load_(s, f, max_size, load, user);
            pthread_mutex_lock(&s->lock);
        } else if (f) {
            f->entry = NULL;
        }
        if (f) err = fsb_cache_land_(s, f, hash, ttl_ms, err, out);
    }
    pthread_mutex_unlock(&s->lock);
    return err;
}

/* ---- [core] open ----------------------------------------------------------------------------- */

static uint32_t fsb_cache_power_(uint64_t least) /* of two, at least that */
{
    uint32_t n = 1;
    while (n < least) n *= 2;
    return n;
}

static int fsb_cache_defaults_(fsb_cache_desc *d)
{
    if (!d->max_bytes) d->max_bytes = 64 << 20;
    if (!d->small_bytes) d->small_bytes = 56;
    d->small_bytes = (d->small_bytes + 7) & ~7u;
    if (d->max_bytes < 64 << 10 || d->small_bytes > 1024) return -EINVAL;
    if (!d->shards)
        for (d->shards = 64; d->shards > 1 && d->max_bytes / d->shards < 4 << 20;) d->shards /= 2;
    if (d->shards > 64 || (d->shards & (d->shards - 1)) || d->max_bytes / d->shards < 64 << 10)
        return -EINVAL;
    if (!d->max_entries) d->max_entries = d->max_bytes / 256;
    return d->max_entries / d->shards < 1 << 25 ? 0 : -EINVAL;
}

/* The tables of a shard, one allocation: pointers first. */
static int fsb_cache_shard_open_(fsb_cache *c, fsb_cache_shard_ *s, uint32_t segments)
{
    const uint32_t entries = segments * FSB_CACHE_SEGMENT_;
    const uint32_t positions = fsb_cache_power_((uint64_t)entries * 4 / 3);
    const uint32_t ghosts = fsb_cache_power_(entries) / 2;
    uint8_t       *tables = (uint8_t *)fsb_cache_alloc_(&c->desc.allocator, c->shard_bytes);
    if (!tables) return -ENOMEM;
    if (pthread_mutex_init(&s->lock, NULL)) {
        fsb_cache_free_(&c->desc.allocator, tables, c->shard_bytes);
        return -ENOMEM;
    }
    s->cache = c;
    s->stride = (uint32_t)sizeof(fsb_cache_entry_) + c->desc.small_bytes;
    s->segments = (fsb_cache_segment_ **)(void *)tables;
    s->index = (uint32_t *)(void *)(tables + segments * sizeof *s->segments);
    s->ghosts = s->index + positions;
    s->segment_max = segments;
    s->index_mask = positions - 1;
    s->number_mask = fsb_cache_power_(entries) - 1;
    s->ghost_mask = ghosts / FSB_CACHE_WAYS_ - 1;
    return 0;
}

FSB_API int fsb_cache_open(fsb_cache **out, const fsb_cache_desc *desc)
{
    fsb_cache_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (fsb_cache_defaults_(&d)) return -EINVAL;
    const size_t size = sizeof(fsb_cache) + (d.shards - 1) * sizeof(fsb_cache_shard_);
    const uint64_t   room = (d.max_bytes - size) / d.shards;
    const uint32_t   stride = (uint32_t)sizeof(fsb_cache_entry_) + d.small_bytes;
    const uint64_t   each = fsb_cache_segment_bytes_(stride);
    const uint32_t   segments =
        (uint32_t)((d.max_entries / d.shards + FSB_CACHE_SEGMENT_) / FSB_CACHE_SEGMENT_);
    const uint32_t entries = segments * FSB_CACHE_SEGMENT_;
    const uint64_t tables = segments * sizeof(void *) +
        4 * ((uint64_t)fsb_cache_power_((uint64_t)entries * 4 / 3) + fsb_cache_power_(entries) / 2);
    const uint64_t taken =
        tables + segments * each + sizeof(fsb_cache_flight_) + FSB_CACHE_ALIGN_;
    if (taken >= room) return -EINVAL; /* max_entries leave nothing for values */
    fsb_cache *c = (fsb_cache *)fsb_cache_alloc_(&d.allocator, size);
    if (!c) return -ENOMEM;
    c->desc = d, c->seed = fsb_cache_random_(), c->shard_bytes = (size_t)tables;
    c->max_value = room - taken < 1 << 30 ? room - taken : 1 << 30;
    c->shard_mask = d.shards - 1;
    for (uint32_t i = 0; i < d.shards; ++i) {
        if (fsb_cache_shard_open_(c, &c->shards[i], segments)) {
            fsb_cache_close(c);
            return -ENOMEM;
        }
        c->shards[i].max_bytes = room, c->shards[i].bytes = tables;
    }
    *out = c;
    return 0;
}

FSB_API void fsb_cache_close(fsb_cache *cache)
{
    if (!cache) return;
    const fsb_allocator a = cache->desc.allocator;
    const size_t        size = sizeof *cache + cache->shard_mask * sizeof(fsb_cache_shard_);
    fsb_cache_clear(cache);
    for (uint32_t i = 0; i <= cache->shard_mask; ++i) {
        fsb_cache_shard_ *s = &cache->shards[i];
        if (!s->segments) break; /* it was not opened */
        for (uint32_t n = 0; n < s->segment_count; ++n)
            fsb_cache_free_(&a, (uint8_t *)s->segments[n] - s->segments[n]->shift,
                            fsb_cache_segment_bytes_(s->stride));
        fsb_cache_free_(&a, s->segments, cache->shard_bytes);
        pthread_mutex_destroy(&s->lock);
    }
    fsb_cache_free_(&a, cache, size);
}

FSB_API uint64_t fsb_cache_max_value(const fsb_cache *cache) { return cache->max_value; }

FSB_API void fsb_cache_get_stats(fsb_cache *cache, fsb_cache_stats *out)
{
    memset(out, 0, sizeof *out);
    out->max_bytes = cache->desc.max_bytes;
    out->bytes = sizeof *cache + cache->shard_mask * sizeof(fsb_cache_shard_);
    for (int i = 0; i < FSB_CACHE_STRIPES_; ++i) {
        out->hits += __atomic_load_n(&cache->stripes[i].hits, __ATOMIC_RELAXED);
        out->misses += __atomic_load_n(&cache->stripes[i].misses, __ATOMIC_RELAXED);
    }
    for (uint32_t i = 0; i <= cache->shard_mask; ++i) {
        fsb_cache_shard_ *s = &cache->shards[i];
        pthread_mutex_lock(&s->lock);
        out->insertions += s->insertions, out->evictions += s->evictions;
        out->expired += s->expired, out->removed += s->removed;
        out->loads += s->loads, out->waits += s->waits;
        out->entries += s->count, out->bytes += s->bytes, out->pinned += s->pinned;
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- [disk] checksums ------------------------------------------------------------------------ */

static uint32_t fsb_cache_get32_(const uint8_t *p) /* little endian; compilers make it one load */
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t fsb_cache_get64_(const uint8_t *p)
{
    return fsb_cache_get32_(p) | (uint64_t)fsb_cache_get32_(p + 4) << 32;
}

static void fsb_cache_set_(uint8_t *p, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; ++i) p[i] = (uint8_t)(value >> 8 * i);
}

/* 64 bits over bytes. Each step maps both what was and what comes one to one: that eight bytes
   differ never goes unseen, that more do once in 2^64. */
static uint64_t fsb_cache_check_(uint64_t seed, const uint8_t *p, size_t size)
{
    uint64_t h = seed ^ (size * 0xA0761D6478BD642Fu);
    for (; size >= 8; p += 8, size -= 8) h = fsb_cache_mix_(h, fsb_cache_get64_(p));
    uint64_t tail = 0;
    for (size_t i = 0; i < size; ++i) tail |= (uint64_t)p[i] << 8 * i;
    h = (h ^ tail) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

/* The sum of a chunk, with a secret that comes from the folder's seed. A folder that was written
   with the other sum starts empty, as its header says something else of its seed.

   The loop that XXH3 with 128 bits has for long inputs (Yann Collet, the XXH3 specification), short
   inputs padded: eight lanes take 64 bytes at a time, and are scrambled every 1024. */
enum { FSB_CACHE_SECRET_ = 192, FSB_CACHE_STRIPE_ = 64, FSB_CACHE_BLOCK_ = 16 /* stripes */ };
typedef struct fsb_cache_sum_ {
    uint64_t word[2];
} fsb_cache_sum_;

static void fsb_cache_secret_(uint8_t *secret, uint64_t seed) /* splitmix64 */
{
    for (int i = 0; i < FSB_CACHE_SECRET_; i += 8) {
        uint64_t x = seed += 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        fsb_cache_set_(secret + i, x ^ x >> 31, 8);
    }
}

/* Takes n stripes, the first of them the first of a block. */
static void fsb_cache_stripes_(uint64_t lanes[8], const uint8_t *p, const uint8_t *secret, size_t n)
{
    const uint8_t *last = secret + FSB_CACHE_SECRET_ - FSB_CACHE_STRIPE_;
    for (size_t k = 1; k <= n; ++k, p += FSB_CACHE_STRIPE_) {
        const uint8_t *s = secret + (k - 1) % FSB_CACHE_BLOCK_ * 8;
        for (int i = 0; i < 8; ++i) {
            const uint64_t data = fsb_cache_get64_(p + 8 * i);
            const uint64_t mixed = data ^ fsb_cache_get64_(s + 8 * i);
            lanes[i ^ 1] += data;
            lanes[i] += (mixed & 0xffffffffu) * (mixed >> 32);
        }
        for (int i = 0; i < 8 && k % FSB_CACHE_BLOCK_ == 0; ++i) /* a block ends: scramble */
            lanes[i] = (lanes[i] ^ lanes[i] >> 47 ^ fsb_cache_get64_(last + 8 * i)) * 0x9E3779B1u;
    }
}

static uint64_t fsb_cache_merge_(const uint64_t lanes[8], const uint8_t *secret, uint64_t h)
{
    for (int i = 0; i < 8; ++i) h = fsb_cache_mix_(h, lanes[i] ^ fsb_cache_get64_(secret + 8 * i));
    h = (h ^ h >> 37) * 0x165667919E3779F9u;
    return h ^ h >> 32;
}

static fsb_cache_sum_ fsb_cache_xxh3_(const uint8_t *secret, const void *data, size_t size)
{
    static const uint64_t start[8] = {
        0x00000000C2B2AE3D, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
        0x85EBCA77C2B2AE63, 0x0000000085EBCA77, 0x27D4EB2F165667C5, 0x000000009E3779B1};
    const uint8_t *p = (const uint8_t *)data;
    uint64_t       lanes[8];
    uint8_t        padded[FSB_CACHE_STRIPE_];
    size_t         left = size;
    memcpy(lanes, start, sizeof lanes);
    if (size < sizeof padded) {
        memset(padded, 0, sizeof padded);
        if (size) memcpy(padded, data, size);
        p = padded, left = sizeof padded;
    }
    fsb_cache_stripes_(lanes, p, secret, left / FSB_CACHE_STRIPE_);
    fsb_cache_stripes_(lanes, p + left - FSB_CACHE_STRIPE_,
                       secret + FSB_CACHE_SECRET_ - FSB_CACHE_STRIPE_ - 7, 1);
    fsb_cache_sum_ sum;
    sum.word[0] = fsb_cache_merge_(lanes, secret + 11, size * 0x9E3779B185EBCA87u);
    sum.word[1] = fsb_cache_merge_(lanes, secret + FSB_CACHE_SECRET_ - FSB_CACHE_STRIPE_ - 11,
                                   ~(size * 0xC2B2AE3D27D4EB4Fu));
    return sum;
}

#if defined(__x86_64__)
/* Where the processor has instructions for AES, they make a sum in about half the time of XXH3 with
   AVX2 (measured: 1.6 us a chunk, 2.6): reads wait for it. Eight lanes; a round of each takes 16
   bytes as its key. A round is one to one in the lane and in the key: a change within 16 bytes
   never goes unseen, random bytes do once in 2^128. */
__attribute__((target("aes"))) static inline __m128i fsb_cache_aes_load_(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

__attribute__((target("aes"))) static void fsb_cache_aes_take_(__m128i lanes[8], const uint8_t *p,
                                                               size_t n)
{
    __m128i a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
    __m128i e = lanes[4], f = lanes[5], g = lanes[6], h = lanes[7];
    for (; n; --n, p += 128) { /* in registers: an array of them is kept in memory */
        a = _mm_aesenc_si128(a, fsb_cache_aes_load_(p));
        b = _mm_aesenc_si128(b, fsb_cache_aes_load_(p + 16));
        c = _mm_aesenc_si128(c, fsb_cache_aes_load_(p + 32));
        d = _mm_aesenc_si128(d, fsb_cache_aes_load_(p + 48));
        e = _mm_aesenc_si128(e, fsb_cache_aes_load_(p + 64));
        f = _mm_aesenc_si128(f, fsb_cache_aes_load_(p + 80));
        g = _mm_aesenc_si128(g, fsb_cache_aes_load_(p + 96));
        h = _mm_aesenc_si128(h, fsb_cache_aes_load_(p + 112));
    }
    lanes[0] = a, lanes[1] = b, lanes[2] = c, lanes[3] = d;
    lanes[4] = e, lanes[5] = f, lanes[6] = g, lanes[7] = h;
}

__attribute__((target("aes"))) static fsb_cache_sum_ fsb_cache_aes_(const uint8_t *secret,
                                                                    const void *data, size_t size)
{
    const uint8_t *p = (const uint8_t *)data;
    const size_t   whole = size / 128, rest = size % 128;
    __m128i        lanes[8], all = _mm_set_epi64x(0x243F6A8885A308D3, (long long)size);
    uint8_t        padded[128];
    fsb_cache_sum_ sum;
    for (int i = 0; i < 8; ++i) lanes[i] = fsb_cache_aes_load_(secret + 16 * i);
    fsb_cache_aes_take_(lanes, p, whole);
    memset(padded, 0, sizeof padded);
    if (rest) memcpy(padded, p + 128 * whole, rest);
    fsb_cache_aes_take_(lanes, padded, rest != 0);
    for (int i = 0; i < 8; ++i) { /* three rounds for each: one more than spreads it over all */
        all = _mm_aesenc_si128(all, lanes[i]);
        all = _mm_aesenc_si128(all, fsb_cache_aes_load_(secret + 128));
        all = _mm_aesenc_si128(all, fsb_cache_aes_load_(secret + 144));
    }
    memcpy(sum.word, &all, sizeof sum.word);
    return sum;
}
#endif

/* ---- [disk] the folder ----------------------------------------------------------------------- */

/* In memory a slot is what its record on disk says, and a few bits. */
typedef struct fsb_cache_slot_ {
    uint64_t       key[4];
    fsb_cache_sum_ sum;
    uint32_t       size;
    uint8_t        state; /* FSB_CACHE_FREE_ ... */
    uint8_t        hit;   /* since the hand passed */
    uint8_t        doomed; /* removed while it was being written */
    uint8_t        reserved;
} fsb_cache_slot_;

/* Where the last record of a key is. */
typedef struct fsb_cache_record_ {
    uint64_t hash;   /* of the key */
    uint64_t offset; /* in the file; 0: this place is empty */
    uint32_t value_size;
    uint32_t key_size;
} fsb_cache_record_;

enum {
    FSB_CACHE_FREE_ = 0, FSB_CACHE_USED_ = 1, FSB_CACHE_BUSY_ = 2, /* being written */
    FSB_CACHE_ROW_    = 64, /* bytes of a slot's record, and of each file's header */
    FSB_CACHE_FORMAT_ = 1,
    FSB_CACHE_KEY_    = 8200,     /* longest key of a record: a share and a path */
    FSB_CACHE_VALUE_  = 16 << 20, /* longest value */
    FSB_CACHE_HEAD_   = 32        /* bytes before a record's key */
};

struct fsb_cache_disk {
    fsb_cache_disk_desc desc; /* with the defaults filled in; dir is not kept */
    int                 dir, lock_file, slot_file, table_file, record_file;
    uint64_t            seed; /* of this folder's checksums */
    uint8_t             secret[FSB_CACHE_SECRET_];
    int                 read_only; /* atomic; 1 also after a failed write */
    int                 outdated;  /* the records on disk miss changes: not to be read again */
    pthread_mutex_t     lock; /* chunks; never held around i/o of data */
    fsb_cache_slot_    *slots;
    uint32_t           *index; /* slot + 1 by hash of its key; 0: empty */
    uint32_t            slot_count, index_mask, hand;
    uint32_t            known; /* slots below it mean something */
    uint64_t            hits, misses, puts, evictions, damaged, chunks, chunk_bytes; /* atomic */
    pthread_mutex_t     record_lock; /* records; leaf */
    fsb_cache_record_  *records;
    size_t              record_room, record_count; /* places, a power of two, and those in use */
    uint64_t            record_bytes;              /* of those in use */
    uint64_t            record_end, record_noted;  /* size of the file; as its header has it */
    uint64_t            record_max;
    uint64_t            record_seed, damaged_records;
};

__attribute__((format(printf, 3, 4))) static void fsb_cache_log_(const fsb_logger *log,
                                                                 fsb_log_level     level,
                                                                 const char       *format, ...)
{
    char    text[512];
    va_list args;
    if (!log->fn) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log->fn(log->user, level, "cache/disk", text);
}

/* All of it, or a negative errno. */
static int fsb_cache_write_(int file, const void *data, size_t size, uint64_t offset)
{
    const uint8_t *p = (const uint8_t *)data;
    while (size) {
        const ssize_t n = pwrite(file, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? -errno : -EIO;
        p += n, size -= (size_t)n, offset += (uint64_t)n;
    }
    return 0;
}

/* The bytes that are there, at most size. */
static size_t fsb_cache_read_(int file, void *data, size_t size, uint64_t offset)
{
    uint8_t *p = (uint8_t *)data;
    size_t   got = 0;
    while (got < size) {
        const ssize_t n = pread(file, p + got, size - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        got += (size_t)n;
    }
    return got;
}

static int fsb_cache_is_read_only_(fsb_cache_disk *d)
{
    return __atomic_load_n(&d->read_only, __ATOMIC_RELAXED);
}

/* A write failed: nothing is written any more, so that a full disk is not asked again and again.
   What was half written is found out by its checksum. */
static int fsb_cache_failed_(fsb_cache_disk *d, int err)
{
    if (!__atomic_exchange_n(&d->read_only, 1, __ATOMIC_RELAXED))
        fsb_cache_log_(&d->desc.log, FSB_LOG_WARN,
                       "the disk cache cannot be written any more: %s; it is only read now",
                       strerror(-err));
    return -ENOSPC;
}

static void fsb_cache_add_(uint64_t *counter, uint64_t n)
{
    __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

/* ---- [disk] slots ---------------------------------------------------------------------------- */

/* A row of the table: key 32, sum 16, size 4, zero 4, check 8. The check knows the slot's number,
   so that a row that strayed is not believed. A row of zeros is a free slot. */
static void fsb_cache_encode_(const fsb_cache_disk *d, uint32_t number, const fsb_cache_slot_ *slot,
                              uint8_t row[FSB_CACHE_ROW_])
{
    for (int i = 0; i < 4; ++i) fsb_cache_set_(row + 8 * i, slot->key[i], 8);
    for (int i = 0; i < 2; ++i) fsb_cache_set_(row + 32 + 8 * i, slot->sum.word[i], 8);
    fsb_cache_set_(row + 48, slot->size, 8);
    fsb_cache_set_(row + 56, fsb_cache_check_(d->seed + number, row, 56), 8);
}

/* 1: it is a chunk's; 0: it is free; -1: it is damaged. */
static int fsb_cache_decode_(const fsb_cache_disk *d, uint32_t number,
                             const uint8_t row[FSB_CACHE_ROW_], fsb_cache_slot_ *slot)
{
    uint64_t any = 0;
    for (int i = 0; i < 8; ++i) any |= fsb_cache_get64_(row + 8 * i);
    memset(slot, 0, sizeof *slot);
    if (!any) return 0;
    const uint64_t size = fsb_cache_get64_(row + 48);
    if (fsb_cache_get64_(row + 56) != fsb_cache_check_(d->seed + number, row, 56)) return -1;
    if (size > FSB_CACHE_CHUNK) return -1;
    for (int i = 0; i < 4; ++i) slot->key[i] = fsb_cache_get64_(row + 8 * i);
    for (int i = 0; i < 2; ++i) slot->sum.word[i] = fsb_cache_get64_(row + 32 + 8 * i);
    slot->size = (uint32_t)size, slot->state = FSB_CACHE_USED_;
    return 1;
}

static int fsb_cache_write_row_(fsb_cache_disk *d, uint32_t number, const fsb_cache_slot_ *slot)
{
    uint8_t row[FSB_CACHE_ROW_];
    memset(row, 0, sizeof row);
    if (slot) fsb_cache_encode_(d, number, slot, row);
    return fsb_cache_write_(d->table_file, row, sizeof row,
                            ((uint64_t)number + 1) * FSB_CACHE_ROW_);
}

static uint32_t fsb_cache_place_(const fsb_cache_disk *d, const uint64_t key[4])
{
    return (uint32_t)fsb_cache_hash_(d->seed, key) & d->index_mask;
}

/* The number of a key's slot + 1, or 0. Lock held, as below. */
static uint32_t fsb_cache_slot_find_(const fsb_cache_disk *d, const uint64_t key[4])
{
    for (uint32_t at = fsb_cache_place_(d, key); d->index[at]; at = (at + 1) & d->index_mask)
        if (memcmp(d->slots[d->index[at] - 1].key, key, 32) == 0) return d->index[at];
    return 0;
}

static void fsb_cache_slot_add_(fsb_cache_disk *d, uint32_t number)
{
    uint32_t at = fsb_cache_place_(d, d->slots[number].key);
    while (d->index[at]) at = (at + 1) & d->index_mask;
    d->index[at] = number + 1;
}

static void fsb_cache_slot_remove_(fsb_cache_disk *d, uint32_t number)
{
    const uint32_t mask = d->index_mask;
    uint32_t       hole = fsb_cache_place_(d, d->slots[number].key);
    while (d->index[hole] != number + 1) hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; d->index[at]; at = (at + 1) & mask) {
        const uint32_t home = fsb_cache_place_(d, d->slots[d->index[at] - 1].key);
        if (((at - home) & mask) < ((at - hole) & mask)) continue;
        d->index[hole] = d->index[at];
        hole = at;
    }
    d->index[hole] = 0;
}

static void fsb_cache_slot_drop_(fsb_cache_disk *d, uint32_t number)
{
    fsb_cache_slot_ *slot = &d->slots[number];
    fsb_cache_slot_remove_(d, number);
    if (slot->state == FSB_CACHE_USED_) --d->chunks, d->chunk_bytes -= slot->size;
    memset(slot, 0, sizeof *slot);
}

/* A slot for something new: the next free one, or the next that was not read since the hand last
   passed. -1: all are being written. */
static int64_t fsb_cache_slot_take_(fsb_cache_disk *d)
{
    for (uint64_t left = 2 * (uint64_t)d->slot_count + 1; left; --left) {
        const uint32_t number = d->hand;
        d->hand = number + 1 == d->slot_count ? 0 : number + 1;
        if (number == d->known) memset(&d->slots[d->known++], 0, sizeof *d->slots);
        fsb_cache_slot_ *slot = &d->slots[number];
        if (slot->state == FSB_CACHE_FREE_) return number;
        if (slot->state == FSB_CACHE_BUSY_) continue;
        if (slot->hit) {
            slot->hit = 0;
            continue;
        }
        fsb_cache_slot_drop_(d, number);
        ++d->evictions;
        return number;
    }
    return -1;
}

/* ---- [disk] chunks --------------------------------------------------------------------------- */

static fsb_cache_sum_ fsb_cache_sum_of_(const fsb_cache_disk *d, const void *data, size_t size)
{
    unsigned char  bytes[32];
    fsb_cache_sum_ sum;
#if defined(__x86_64__)
    if (!d->desc.hash && __builtin_cpu_supports("aes"))
        return fsb_cache_aes_(d->secret, data, size);
#endif
    if (!d->desc.hash) return fsb_cache_xxh3_(d->secret, data, size);
    d->desc.hash(data, size, bytes);
    for (int i = 0; i < 2; ++i) sum.word[i] = fsb_cache_get64_(bytes + 8 * i);
    return sum;
}

/* What is in a slot is not what its record says: unless others changed it meanwhile, it goes. */
static void fsb_cache_chunk_damaged_(fsb_cache_disk *d, uint32_t number, const fsb_cache_slot_ *was)
{
    pthread_mutex_lock(&d->lock);
    const fsb_cache_slot_ *slot = &d->slots[number];
    const int same = slot->state == FSB_CACHE_USED_ && memcmp(slot->key, was->key, 48) == 0;
    if (same) {
        fsb_cache_slot_drop_(d, number);
        ++d->damaged;
    }
    pthread_mutex_unlock(&d->lock);
    if (!same) return;
    fsb_cache_log_(&d->desc.log, FSB_LOG_WARN, "slot %lu of the disk cache is damaged: dropped",
                   (unsigned long)number);
    if (!fsb_cache_is_read_only_(d)) (void)fsb_cache_write_row_(d, number, NULL);
}

FSB_API int64_t fsb_cache_disk_get(fsb_cache_disk *disk, const fsb_cache_key *key, void *buf,
                                   size_t size)
{
    fsb_cache_slot_ slot;
    memset(&slot, 0, sizeof slot);
    pthread_mutex_lock(&disk->lock);
    const uint32_t found = fsb_cache_slot_find_(disk, key->word);
    if (found) slot = disk->slots[found - 1], disk->slots[found - 1].hit = 1;
    pthread_mutex_unlock(&disk->lock);
    if (slot.state != FSB_CACHE_USED_) return fsb_cache_add_(&disk->misses, 1), -ENOENT;
    if (slot.size > size) return slot.size;
    const uint64_t       offset = (uint64_t)(found - 1) * FSB_CACHE_CHUNK;
    const size_t         got = fsb_cache_read_(disk->slot_file, buf, slot.size, offset);
    const fsb_cache_sum_ sum = fsb_cache_sum_of_(disk, buf, got);
    if (got != slot.size || memcmp(&sum, &slot.sum, sizeof sum) != 0) {
        fsb_cache_chunk_damaged_(disk, found - 1, &slot);
        return fsb_cache_add_(&disk->misses, 1), -ENOENT;
    }
    fsb_cache_add_(&disk->hits, 1);
    return slot.size;
}

/* The slot that a chunk goes to, BUSY and in the index; -1: somebody is writing that chunk now. */
static int64_t fsb_cache_chunk_begin_(fsb_cache_disk *d, const fsb_cache_slot_ *chunk)
{
    const uint32_t found = fsb_cache_slot_find_(d, chunk->key);
    int64_t        number = (int64_t)found - 1;
    if (!found) {
        number = fsb_cache_slot_take_(d);
        if (number < 0) return -1;
        d->slots[number] = *chunk;
        fsb_cache_slot_add_(d, (uint32_t)number);
    } else if (d->slots[number].state == FSB_CACHE_BUSY_) {
        return -1;
    } else {
        --d->chunks, d->chunk_bytes -= d->slots[number].size;
        d->slots[number] = *chunk;
    }
    d->slots[number].state = FSB_CACHE_BUSY_;
    return number;
}

/* First the data, then the record. Whatever moment it ends at: a record whose data are not there is
   found out by the sum, as is what was there before and is half overwritten. */
FSB_API int fsb_cache_disk_put(fsb_cache_disk *disk, const fsb_cache_key *key, const void *data,
                               size_t size)
{
    fsb_cache_slot_ chunk;
    if (size > FSB_CACHE_CHUNK) return -E2BIG;
    if (fsb_cache_is_read_only_(disk)) { /* at least what was there must not stay */
        const int err = fsb_cache_disk_remove(disk, key);
        return err == -EROFS ? err : -ENOSPC;
    }
    memset(&chunk, 0, sizeof chunk);
    memcpy(chunk.key, key->word, sizeof chunk.key);
    chunk.sum = fsb_cache_sum_of_(disk, data, size);
    chunk.size = (uint32_t)size;
    pthread_mutex_lock(&disk->lock);
    const int64_t number = fsb_cache_chunk_begin_(disk, &chunk);
    pthread_mutex_unlock(&disk->lock);
    if (number < 0) return 0; /* as if the other had come later */
    int err = fsb_cache_write_(disk->slot_file, data, size, (uint64_t)number * FSB_CACHE_CHUNK);
    if (!err) err = fsb_cache_write_row_(disk, (uint32_t)number, &chunk);
    pthread_mutex_lock(&disk->lock);
    const int doomed = disk->slots[number].doomed;
    if (err || doomed) {
        (void)fsb_cache_write_row_(disk, (uint32_t)number, NULL);
        fsb_cache_slot_drop_(disk, (uint32_t)number);
    } else {
        disk->slots[number].state = FSB_CACHE_USED_;
        ++disk->chunks, disk->chunk_bytes += size, ++disk->puts;
    }
    pthread_mutex_unlock(&disk->lock);
    return err ? fsb_cache_failed_(disk, err) : 0;
}

FSB_API int fsb_cache_disk_remove(fsb_cache_disk *disk, const fsb_cache_key *key)
{
    int err = 0;
    pthread_mutex_lock(&disk->lock);
    const uint32_t found = fsb_cache_slot_find_(disk, key->word);
    if (!found) {
        err = -ENOENT;
    } else if (disk->slots[found - 1].state == FSB_CACHE_BUSY_) {
        disk->slots[found - 1].doomed = 1;
    } else {
        if (!disk->desc.read_only) err = fsb_cache_write_row_(disk, found - 1, NULL);
        fsb_cache_slot_drop_(disk, found - 1);
    }
    pthread_mutex_unlock(&disk->lock);
    if (disk->desc.read_only) return -EROFS;
    return err && err != -ENOENT ? fsb_cache_failed_(disk, err) : err;
}

/* ---- [disk] records -------------------------------------------------------------------------- */

/* The file of records is a log: a header, then records one after another, the last one of a key
   counts. A record: check of head and key 8, check of the value 8, size of the value 4 (all ones:
   the key is removed), size of the key 4, zero 8; key; value; zeros to a multiple of 8. The checks
   know the record's offset. The header says up to where the file was whole at some time: so a file
   that was cut is known from one whose last record a kill tore. Nothing is mapped into memory: no
   damage and no cutting, at whatever moment, ends the program. */
#define FSB_CACHE_REMOVED_ UINT32_MAX

static uint64_t fsb_cache_record_size_(uint64_t key_size, uint32_t value_size)
{
    const uint64_t value = value_size == FSB_CACHE_REMOVED_ ? 0 : value_size;
    return (FSB_CACHE_HEAD_ + key_size + value + 7) & ~(uint64_t)7;
}

static uint64_t fsb_cache_record_hash_(const fsb_cache_disk *d, const void *key, size_t size)
{
    return fsb_cache_check_(d->record_seed, (const uint8_t *)key, size);
}

/* The place of a hash: its record's, or the empty one where it belongs. */
static fsb_cache_record_ *fsb_cache_record_find_(const fsb_cache_disk *d, uint64_t hash)
{
    size_t at = (size_t)hash & (d->record_room - 1);
    while (d->records[at].offset && d->records[at].hash != hash)
        at = (at + 1) & (d->record_room - 1);
    return &d->records[at];
}

/* Room for one more at 3/4 of the places. */
static int fsb_cache_record_grow_(fsb_cache_disk *d)
{
    if (d->record_count + 1 <= d->record_room / 4 * 3) return 0;
    const size_t       room = d->record_room, more = room * 2;
    fsb_cache_record_ *was = d->records;
    fsb_cache_record_ *now =
        (fsb_cache_record_ *)fsb_cache_alloc_(&d->desc.allocator, more * sizeof *now);
    if (!now) return -ENOMEM;
    d->records = now, d->record_room = more;
    for (size_t i = 0; i < room; ++i)
        if (was[i].offset) *fsb_cache_record_find_(d, was[i].hash) = was[i];
    fsb_cache_free_(&d->desc.allocator, was, room * sizeof *was);
    return 0;
}

static void fsb_cache_record_forget_(fsb_cache_disk *d, fsb_cache_record_ *r)
{
    const size_t mask = d->record_room - 1;
    size_t       hole = (size_t)(r - d->records);
    d->record_bytes -= fsb_cache_record_size_(r->key_size, r->value_size);
    --d->record_count;
    for (size_t at = (hole + 1) & mask; d->records[at].offset; at = (at + 1) & mask) {
        const size_t home = (size_t)d->records[at].hash & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue;
        d->records[hole] = d->records[at];
        hole = at;
    }
    d->records[hole].offset = 0;
}

/* Notes that the last record of this hash is there now. Room was made before. */
static void fsb_cache_record_note_(fsb_cache_disk *d, const fsb_cache_record_ *r)
{
    fsb_cache_record_ *place = fsb_cache_record_find_(d, r->hash);
    if (r->value_size == FSB_CACHE_REMOVED_) {
        if (place->offset) fsb_cache_record_forget_(d, place);
        return;
    }
    if (place->offset) d->record_bytes -= fsb_cache_record_size_(place->key_size,
                                                                 place->value_size);
    else ++d->record_count;
    *place = *r;
    d->record_bytes += fsb_cache_record_size_(r->key_size, r->value_size);
}

static void fsb_cache_record_head_(const fsb_cache_disk *d, uint8_t head[FSB_CACHE_HEAD_],
                                   uint64_t offset, const void *key, size_t key_size,
                                   const void *value, uint32_t value_size)
{
    const size_t size = value_size == FSB_CACHE_REMOVED_ ? 0 : value_size;
    memset(head, 0, FSB_CACHE_HEAD_);
    fsb_cache_set_(head + 8, fsb_cache_check_(d->record_seed + offset, (const uint8_t *)value,
                                              size), 8);
    fsb_cache_set_(head + 16, value_size, 4);
    fsb_cache_set_(head + 20, key_size, 4);
    const uint64_t of_key = fsb_cache_check_(d->record_seed, (const uint8_t *)key, key_size);
    fsb_cache_set_(head, fsb_cache_check_(of_key + offset, head + 8, FSB_CACHE_HEAD_ - 8), 8);
}

/* Whether head and key belong together at this offset. The sizes are checked by the caller. */
static int fsb_cache_record_is_(const fsb_cache_disk *d, const uint8_t head[FSB_CACHE_HEAD_],
                                uint64_t offset, uint64_t hash)
{
    (void)d;
    return fsb_cache_get64_(head) ==
           fsb_cache_check_(hash + offset, head + 8, FSB_CACHE_HEAD_ - 8);
}

/* The header of the file, which is written when it has grown by much, and at the end. */
static int fsb_cache_record_header_(fsb_cache_disk *d, int file, uint64_t end)
{
    uint8_t row[FSB_CACHE_ROW_];
    memset(row, 0, sizeof row);
    memcpy(row, "FSBRECRD", 8);
    fsb_cache_set_(row + 8, FSB_CACHE_FORMAT_, 8);
    fsb_cache_set_(row + 16, d->record_seed, 8);
    fsb_cache_set_(row + 24, d->outdated ? UINT64_MAX : end, 8);
    fsb_cache_set_(row + 56, fsb_cache_check_(0, row, 56), 8);
    return fsb_cache_write_(file, row, sizeof row, 0);
}

/* Starts a new, empty file of records. Either of its two steps is enough for the old ones not to be
   believed any more: they are cut off, or of another seed. */
static void fsb_cache_record_reset_(fsb_cache_disk *d)
{
    memset(d->records, 0, d->record_room * sizeof *d->records);
    d->record_count = 0, d->record_bytes = 0;
    d->record_end = d->record_noted = FSB_CACHE_ROW_, d->outdated = 0;
    if (fsb_cache_is_read_only_(d)) return;
    d->record_seed = fsb_cache_random_();
    const int cut = ftruncate(d->record_file, 0) ? -errno : 0;
    const int err = fsb_cache_record_header_(d, d->record_file, FSB_CACHE_ROW_);
    if (cut || err) fsb_cache_failed_(d, cut ? cut : err);
}

/* Appends a record and notes it. Lock held. */
static int fsb_cache_record_append_(fsb_cache_disk *d, const void *key, size_t key_size,
                                    const void *value, uint32_t value_size)
{
    static const uint8_t zeros[8] = {0};
    const size_t         size = value_size == FSB_CACHE_REMOVED_ ? 0 : value_size;
    const uint64_t       total = fsb_cache_record_size_(key_size, value_size);
    uint8_t              head[FSB_CACHE_HEAD_];
    fsb_cache_record_    r;
    struct iovec         parts[4];
    fsb_cache_record_head_(d, head, d->record_end, key, key_size, value, value_size);
    parts[0].iov_base = head, parts[0].iov_len = sizeof head;
    parts[1].iov_base = (void *)(uintptr_t)key, parts[1].iov_len = key_size;
    parts[2].iov_base = (void *)(uintptr_t)value, parts[2].iov_len = size;
    parts[3].iov_base = (void *)(uintptr_t)zeros;
    parts[3].iov_len = (size_t)(total - sizeof head - key_size - size);
    ssize_t n;
    do n = pwritev(d->record_file, parts, 4, (off_t)d->record_end);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)total) return n < 0 ? -errno : -ENOSPC; /* the next one is written over it */
    r.hash = fsb_cache_record_hash_(d, key, key_size), r.offset = d->record_end;
    r.key_size = (uint32_t)key_size, r.value_size = value_size;
    fsb_cache_record_note_(d, &r);
    d->record_end += total;
    if (d->record_end - d->record_noted < 64 << 10) return 0;
    d->record_noted = d->record_end;
    return fsb_cache_record_header_(d, d->record_file, d->record_end);
}

/* Reads head, key and value of a record: 1 all is well, 0 its value is damaged, -1 it is not that
   record at all. */
static int fsb_cache_record_read_(const fsb_cache_disk *d, const fsb_cache_record_ *r, uint8_t *key,
                                  uint8_t *value)
{
    uint8_t      head[FSB_CACHE_HEAD_];
    struct iovec parts[3];
    parts[0].iov_base = head, parts[0].iov_len = sizeof head;
    parts[1].iov_base = key, parts[1].iov_len = r->key_size;
    parts[2].iov_base = value, parts[2].iov_len = r->value_size;
    ssize_t n;
    do n = preadv(d->record_file, parts, 3, (off_t)r->offset);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)(sizeof head + r->key_size + r->value_size)) return -1;
    if (!fsb_cache_record_is_(d, head, r->offset, r->hash) ||
        fsb_cache_record_hash_(d, key, r->key_size) != r->hash ||
        fsb_cache_get32_(head + 16) != r->value_size)
        return -1;
    return fsb_cache_get64_(head + 8) ==
           fsb_cache_check_(d->record_seed + r->offset, value, r->value_size);
}

/* Bytes of a file from front to end, through a buffer. */
typedef struct fsb_cache_scan_ {
    fsb_cache_disk *disk;
    uint8_t        *buf;
    size_t          room, have;
    uint64_t        offset; /* of the buffer's first byte */
    int             err;    /* there was no memory: what is not seen may be there */
} fsb_cache_scan_;
enum { FSB_CACHE_SCAN_ = 256 << 10 };

/* The `size` bytes at an offset, valid until the next call, or NULL: they are not there. */
static const uint8_t *fsb_cache_scan_at_(fsb_cache_scan_ *s, uint64_t offset, size_t size)
{
    if (offset >= s->offset && offset - s->offset <= s->have &&
        size <= s->have - (size_t)(offset - s->offset))
        return s->buf + (offset - s->offset);
    if (size > s->room) {
        uint8_t *grown =
            (uint8_t *)fsb_cache_resize_(&s->disk->desc.allocator, s->buf, s->room, size);
        if (!grown) return s->err = -ENOMEM, (const uint8_t *)NULL;
        s->buf = grown, s->room = size;
    }
    s->offset = offset;
    s->have = fsb_cache_read_(s->disk->record_file, s->buf, s->room, offset);
    return size <= s->have ? s->buf : NULL;
}

/* Reads the record at *offset and moves on. 1: *r is it; 0: its value is damaged, *r says which key
   had it; -1: there is none. */
static int fsb_cache_scan_next_(fsb_cache_scan_ *s, uint64_t *offset, fsb_cache_record_ *r)
{
    const fsb_cache_disk *d = s->disk;
    uint8_t               copy[FSB_CACHE_HEAD_];
    const uint8_t        *head = fsb_cache_scan_at_(s, *offset, FSB_CACHE_HEAD_);
    if (!head) return -1;
    memcpy(copy, head, sizeof copy);
    r->value_size = fsb_cache_get32_(copy + 16);
    r->key_size = fsb_cache_get32_(copy + 20), r->offset = *offset;
    if (!r->key_size || r->key_size > FSB_CACHE_KEY_) return -1;
    const int removed = r->value_size == FSB_CACHE_REMOVED_;
    if (!removed && r->value_size > FSB_CACHE_VALUE_) return -1;
    const uint8_t *key = fsb_cache_scan_at_(s, *offset + FSB_CACHE_HEAD_, r->key_size);
    if (!key) return -1;
    r->hash = fsb_cache_record_hash_(d, key, r->key_size);
    if (!fsb_cache_record_is_(d, copy, *offset, r->hash)) return -1;
    const size_t   size = removed ? 0 : r->value_size;
    const uint64_t total = fsb_cache_record_size_(r->key_size, r->value_size);
    const uint8_t *all = fsb_cache_scan_at_(s, *offset, (size_t)total);
    if (!all) return -1;
    *offset += total;
    return fsb_cache_get64_(copy + 8) ==
           fsb_cache_check_(d->record_seed + r->offset, all + FSB_CACHE_HEAD_ + r->key_size, size);
}

/* Reads the file at open. What was damaged inside takes everything with it, as what it replaced
   must not come back; only a value's damage stays alone, as its key is known. */
static int fsb_cache_record_load_(fsb_cache_disk *d)
{
    uint8_t           row[FSB_CACHE_ROW_];
    fsb_cache_scan_   scan;
    fsb_cache_record_ r;
    uint64_t          end = FSB_CACHE_ROW_;
    int               err = 0, found;
    if (fsb_cache_read_(d->record_file, row, sizeof row, 0) != sizeof row ||
        memcmp(row, "FSBRECRD", 8) != 0 || fsb_cache_get64_(row + 8) != FSB_CACHE_FORMAT_ ||
        fsb_cache_get64_(row + 56) != fsb_cache_check_(0, row, 56)) {
        fsb_cache_record_reset_(d);
        return 0;
    }
    d->record_seed = fsb_cache_get64_(row + 16), d->record_noted = fsb_cache_get64_(row + 24);
    memset(&scan, 0, sizeof scan);
    scan.disk = d, scan.room = FSB_CACHE_SCAN_;
    scan.buf = (uint8_t *)fsb_cache_resize_(&d->desc.allocator, NULL, 0, scan.room);
    if (!scan.buf) return -ENOMEM;
    while (!err && (found = fsb_cache_scan_next_(&scan, &end, &r)) >= 0) {
        if (!found) r.value_size = FSB_CACHE_REMOVED_, ++d->damaged_records;
        err = fsb_cache_record_grow_(d);
        if (!err) fsb_cache_record_note_(d, &r);
    }
    fsb_cache_free_(&d->desc.allocator, scan.buf, scan.room);
    if (!err) err = scan.err;
    d->record_end = end;
    /* Behind the end there may be a torn record, or one that was: they must not come back. */
    if (!err && end >= d->record_noted && !d->read_only && ftruncate(d->record_file, (off_t)end))
        fsb_cache_failed_(d, -errno);
    if (err || end >= d->record_noted) return err;
    ++d->damaged_records;
    fsb_cache_log_(&d->desc.log, FSB_LOG_WARN,
                   "the records of the disk cache are damaged: they start anew");
    fsb_cache_record_reset_(d);
    return 0;
}

/* ---- [disk] records, rewritten --------------------------------------------------------------- */

static int fsb_cache_by_offset_(const void *a, const void *b)
{
    const uint64_t x = ((const fsb_cache_record_ *)a)->offset;
    const uint64_t y = ((const fsb_cache_record_ *)b)->offset;
    return (x > y) - (x < y);
}

/* Copies one record to the end of the new file, whose seed is the same. */
static int fsb_cache_record_copy_(fsb_cache_disk *d, const fsb_cache_record_ *r, int file,
                                  uint64_t *end, uint8_t *buf)
{
    const uint64_t total = fsb_cache_record_size_(r->key_size, r->value_size);
    uint8_t       *key = buf + FSB_CACHE_HEAD_, *value = key + r->key_size;
    memset(buf, 0, (size_t)total);
    if (fsb_cache_record_read_(d, r, key, value) != 1) return 0; /* it is left behind */
    fsb_cache_record_head_(d, buf, *end, key, r->key_size, value, r->value_size);
    const int err = fsb_cache_write_(file, buf, (size_t)total, *end);
    *end += total;
    return err;
}

/* The records that stay, oldest first, in the front of list[]; returns how many. */
static size_t fsb_cache_record_choose_(fsb_cache_disk *d, fsb_cache_record_ *list)
{
    size_t   n = 0, first = 0;
    uint64_t bytes = d->record_bytes;
    for (size_t i = 0; i < d->record_room; ++i)
        if (d->records[i].offset) list[n++] = d->records[i];
    qsort(list, n, sizeof *list, fsb_cache_by_offset_);
    while (bytes > d->record_max / 4) {
        bytes -= fsb_cache_record_size_(list[first].key_size, list[first].value_size);
        ++first;
    }
    memmove(list, list + first, (n - first) * sizeof *list);
    return n - first;
}

static int fsb_cache_record_rewrite_to_(fsb_cache_disk *d, int file, fsb_cache_record_ *list,
                                        uint8_t *buf)
{
    const size_t n = fsb_cache_record_choose_(d, list);
    d->outdated = 0; /* what is copied is what counts now */
    uint64_t     end = FSB_CACHE_ROW_;
    int          err = 0;
    for (size_t i = 0; i < n && !err; ++i)
        err = fsb_cache_record_copy_(d, &list[i], file, &end, buf);
    if (!err) err = fsb_cache_record_header_(d, file, end);
    if (!err && renameat(d->dir, "records.new", d->dir, "records")) err = -errno;
    if (err) return err;
    (void)close(d->record_file);
    d->record_file = file;
    memset(d->records, 0, d->record_room * sizeof *d->records);
    d->record_count = 0, d->record_bytes = 0;
    return fsb_cache_record_load_(d);
}

/* Writes what counts to a new file when half of the old one does not, or there is too much of it:
   then the oldest are left behind. Where that fails, all of them are. Lock held. */
static void fsb_cache_record_tidy_(fsb_cache_disk *d, uint64_t more)
{
    const fsb_allocator *a = &d->desc.allocator;
    const uint64_t       end = d->record_end + more;
    if (end < d->record_max / 2 && (end < 1 << 20 || end < 2 * d->record_bytes)) return;
    const size_t size = (d->record_count + 1) * sizeof(fsb_cache_record_);
    const size_t room = FSB_CACHE_HEAD_ + FSB_CACHE_KEY_ + FSB_CACHE_VALUE_ + 8;
    fsb_cache_record_ *list = (fsb_cache_record_ *)fsb_cache_resize_(a, NULL, 0, size);
    uint8_t           *buf = (uint8_t *)fsb_cache_resize_(a, NULL, 0, room);
    int                err = list && buf ? 0 : -ENOMEM;
    if (!err) {
        const int how = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC;
        const int file = openat(d->dir, "records.new", how, 0600);
        err = file < 0 ? -errno : fsb_cache_record_rewrite_to_(d, file, list, buf);
        if (file >= 0 && file != d->record_file) (void)close(file);
    }
    fsb_cache_free_(a, list, size);
    fsb_cache_free_(a, buf, room);
    if (!err) return;
    (void)unlinkat(d->dir, "records.new", 0);
    fsb_cache_record_reset_(d);
}

/* ---- [disk] records, public ------------------------------------------------------------------ */

/* A change could not be written: the key has no record any more, here and now, and the file is
   marked so that the next one to open it does not believe what it still says. Lock held. */
static void fsb_cache_record_lose_(fsb_cache_disk *d, uint64_t hash)
{
    fsb_cache_record_ *r = fsb_cache_record_find_(d, hash);
    if (!r->offset) return;
    fsb_cache_record_forget_(d, r);
    if (d->desc.read_only || d->outdated) return;
    d->outdated = 1;
    (void)fsb_cache_record_header_(d, d->record_file, 0); /* in place: needs no room on the disk */
}

static int fsb_cache_record_write_(fsb_cache_disk *d, uint64_t hash, const void *key,
                                   size_t key_size, const void *value, uint32_t value_size)
{
    const int known = fsb_cache_record_find_(d, hash)->offset != 0;
    if (value_size == FSB_CACHE_REMOVED_ && !known) return -ENOENT;
    if (fsb_cache_is_read_only_(d)) return -EROFS;
    const int err = fsb_cache_record_grow_(d);
    if (err) return err;
    fsb_cache_record_tidy_(d, fsb_cache_record_size_(key_size, value_size));
    return fsb_cache_record_append_(d, key, key_size, value, value_size);
}

static int fsb_cache_record_change_(fsb_cache_disk *d, const void *key, size_t key_size,
                                    const void *value, uint32_t value_size)
{
    if (!key_size || key_size > FSB_CACHE_KEY_) return -EINVAL;
    pthread_mutex_lock(&d->record_lock);
    const uint64_t hash = fsb_cache_record_hash_(d, key, key_size);
    const int      err = fsb_cache_record_write_(d, hash, key, key_size, value, value_size);
    if (err && err != -ENOENT) fsb_cache_record_lose_(d, hash);
    pthread_mutex_unlock(&d->record_lock);
    if (!err || err == -ENOENT || err == -ENOMEM) return err;
    if (err == -EROFS) return d->desc.read_only ? -EROFS : -ENOSPC;
    return fsb_cache_failed_(d, err);
}

FSB_API int fsb_cache_disk_meta_put(fsb_cache_disk *disk, const void *key, size_t key_size,
                                    const void *value, size_t value_size)
{
    if (value_size > FSB_CACHE_VALUE_ || value_size > disk->record_max / 8) return -E2BIG;
    return fsb_cache_record_change_(disk, key, key_size, value, (uint32_t)value_size);
}

FSB_API int fsb_cache_disk_meta_remove(fsb_cache_disk *disk, const void *key, size_t key_size)
{
    return fsb_cache_record_change_(disk, key, key_size, "", FSB_CACHE_REMOVED_);
}

FSB_API int64_t fsb_cache_disk_meta_get(fsb_cache_disk *disk, const void *key, size_t key_size,
                                        void *buf, size_t size)
{
    uint8_t copy[FSB_CACHE_KEY_];
    int64_t result = -ENOENT;
    if (!key_size || key_size > FSB_CACHE_KEY_) return -EINVAL;
    pthread_mutex_lock(&disk->record_lock);
    fsb_cache_record_ *r =
        fsb_cache_record_find_(disk, fsb_cache_record_hash_(disk, key, key_size));
    if (r->offset && r->key_size == key_size) {
        result = r->value_size;
        if (r->value_size <= size) {
            const int well = fsb_cache_record_read_(disk, r, copy, (uint8_t *)buf);
            if (well != 1) ++disk->damaged_records, fsb_cache_record_forget_(disk, r);
            if (well != 1 || memcmp(copy, key, key_size) != 0) result = -ENOENT;
        }
    }
    pthread_mutex_unlock(&disk->record_lock);
    return result;
}

FSB_API int fsb_cache_disk_meta_walk(fsb_cache_disk *disk, const void *prefix, size_t prefix_size,
                                     int (*each)(void *user, const void *key, size_t key_size,
                                                 const void *value, size_t value_size),
                                     void *user)
{
    const fsb_allocator *a = &disk->desc.allocator;
    size_t               room = 0, n = 0;
    int                  err = 0;
    uint8_t             *buf = NULL;
    pthread_mutex_lock(&disk->record_lock);
    const size_t       count = disk->record_count;
    fsb_cache_record_ *list =
        (fsb_cache_record_ *)fsb_cache_resize_(a, NULL, 0, (count + 1) * sizeof *list);
    for (size_t i = 0; list && i < disk->record_room; ++i)
        if (disk->records[i].offset) list[n++] = disk->records[i];
    pthread_mutex_unlock(&disk->record_lock);
    if (!list) return -ENOMEM;
    for (size_t i = 0; i < n && !err; ++i) {
        const size_t need = (size_t)list[i].key_size + list[i].value_size;
        if (list[i].key_size < prefix_size) continue;
        if (need > room) {
            uint8_t *grown = (uint8_t *)fsb_cache_resize_(a, buf, room, need);
            if (!grown) {
                err = -ENOMEM;
                break;
            }
            buf = grown, room = need;
        }
        /* The file may have been rewritten: what is there now, if it is still there. */
        pthread_mutex_lock(&disk->record_lock);
        const fsb_cache_record_ *r = fsb_cache_record_find_(disk, list[i].hash);
        const int same = r->offset && r->key_size == list[i].key_size &&
            r->value_size == list[i].value_size &&
            fsb_cache_record_read_(disk, r, buf, buf + r->key_size) == 1;
        pthread_mutex_unlock(&disk->record_lock);
        if (same && (!prefix_size || memcmp(buf, prefix, prefix_size) == 0))
            err = each(user, buf, list[i].key_size, buf + list[i].key_size, list[i].value_size);
    }
    fsb_cache_free_(a, buf, room);
    fsb_cache_free_(a, list, (count + 1) * sizeof *list);
    return err;
}

/* ---- [disk] open ----------------------------------------------------------------------------- */

/* The folder's lock. Where nothing can be written, it is shared: readers do no harm. */
static int fsb_cache_lock_(fsb_cache_disk *d, const char *name)
{
    char pid[24];
    const int how = d->read_only ? O_RDONLY : O_RDWR | O_CREAT;
    d->lock_file = openat(d->dir, "lock", how | O_CLOEXEC, 0600);
    if (!d->read_only && d->lock_file < 0 && (errno == EACCES || errno == EROFS)) {
        d->read_only = 1;
        fsb_cache_log_(&d->desc.log, FSB_LOG_WARN,
                       "the disk cache %s cannot be written: %s; it is only read", name,
                       strerror(errno));
        return fsb_cache_lock_(d, name);
    }
    if (d->lock_file < 0) return d->read_only ? 0 : -errno; /* nobody can have locked it */
    if (flock(d->lock_file, (d->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB)) {
        const int err = errno == EWOULDBLOCK ? -EBUSY : -errno;
        pid[fsb_cache_read_(d->lock_file, pid, sizeof pid - 1, 0)] = '\0';
        if (err == -EBUSY)
            fsb_cache_log_(&d->desc.log, FSB_LOG_ERROR,
                           "the disk cache %s is in use by process %d; give each mount its own",
                           name, atoi(pid));
        return err;
    }
    if (d->read_only) return 0;
    const int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(d->lock_file, 0) == 0) (void)fsb_cache_write_(d->lock_file, pid, (size_t)n, 0);
    return 0;
}

/* A file of the folder; where it is only read and there is none, an empty one stands in. */
static int fsb_cache_file_(fsb_cache_disk *d, const char *name, int *file)
{
    *file = openat(d->dir, name, (d->read_only ? O_RDONLY : O_RDWR | O_CREAT) | O_CLOEXEC, 0600);
    if (*file < 0 && d->read_only && errno == ENOENT)
        *file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return *file < 0 ? -errno : 0;
}

/* The table's header: seed, and what its hash says of the seed, so that another hash is noticed. */
static void fsb_cache_table_header_(fsb_cache_disk *d, uint64_t seed, uint8_t row[FSB_CACHE_ROW_])
{
    memset(row, 0, FSB_CACHE_ROW_);
    memcpy(row, "FSBCACHE", 8);
    fsb_cache_set_(row + 8, FSB_CACHE_FORMAT_, 8);
    fsb_cache_set_(row + 16, seed, 8);
    fsb_cache_secret_(d->secret, seed);
    const fsb_cache_sum_ sum = fsb_cache_sum_of_(d, row, 24);
    for (int i = 0; i < 2; ++i) fsb_cache_set_(row + 32 + 8 * i, sum.word[i], 8);
    fsb_cache_set_(row + 56, fsb_cache_check_(0, row, 56), 8);
    d->seed = seed;
}

static void fsb_cache_table_reset_(fsb_cache_disk *d)
{
    uint8_t row[FSB_CACHE_ROW_];
    memset(d->index, 0, ((size_t)d->index_mask + 1) * sizeof *d->index);
    d->known = d->hand = 0, d->chunks = 0, d->chunk_bytes = 0;
    fsb_cache_table_header_(d, fsb_cache_random_(), row);
    if (fsb_cache_is_read_only_(d)) return;
    if (ftruncate(d->table_file, 0) || fsb_cache_write_(d->table_file, row, sizeof row, 0))
        fsb_cache_failed_(d, -errno);
}

static void fsb_cache_table_row_(fsb_cache_disk *d, uint32_t number, const uint8_t *row)
{
    fsb_cache_slot_ *slot = &d->slots[number];
    const int        found = fsb_cache_decode_(d, number, row, slot);
    if (found < 0) ++d->damaged;
    if (found <= 0) return;
    const uint32_t twin = fsb_cache_slot_find_(d, slot->key);
    if (twin) { /* never written by us: neither is believed */
        memset(slot, 0, sizeof *slot);
        fsb_cache_slot_drop_(d, twin - 1);
        ++d->damaged;
        return;
    }
    fsb_cache_slot_add_(d, number);
    ++d->chunks, d->chunk_bytes += slot->size;
}

static int fsb_cache_table_load_(fsb_cache_disk *d)
{
    uint8_t header[FSB_CACHE_ROW_], want[FSB_CACHE_ROW_];
    const size_t had = fsb_cache_read_(d->table_file, header, sizeof header, 0);
    if (had == sizeof header) fsb_cache_table_header_(d, fsb_cache_get64_(header + 16), want);
    if (had != sizeof header || memcmp(header, want, sizeof header) != 0) {
        if (had)
            fsb_cache_log_(&d->desc.log, FSB_LOG_WARN,
                           "the table of the disk cache is damaged or of another kind: it starts "
                           "anew");
        fsb_cache_table_reset_(d);
        return 0;
    }
    uint8_t *rows = (uint8_t *)fsb_cache_resize_(&d->desc.allocator, NULL, 0, FSB_CACHE_SCAN_);
    if (!rows) return -ENOMEM;
    for (size_t n = 1; n && d->known < d->slot_count;) {
        n = fsb_cache_read_(d->table_file, rows, FSB_CACHE_SCAN_,
                            ((uint64_t)d->known + 1) * FSB_CACHE_ROW_) / FSB_CACHE_ROW_;
        for (size_t i = 0; i < n && d->known < d->slot_count; ++i) {
            if (i + 16 < n) { /* the index is larger than the processor's caches */
                uint64_t key[4];
                for (int w = 0; w < 4; ++w)
                    key[w] = fsb_cache_get64_(rows + (i + 16) * FSB_CACHE_ROW_ + 8 * w);
                __builtin_prefetch(&d->index[fsb_cache_place_(d, key)], 1);
            }
            fsb_cache_table_row_(d, d->known, rows + i * FSB_CACHE_ROW_);
            ++d->known;
        }
    }
    fsb_cache_free_(&d->desc.allocator, rows, FSB_CACHE_SCAN_);
    d->hand = d->known < d->slot_count ? d->known : (uint32_t)(fsb_cache_random_() % d->slot_count);
    return 0;
}

/* Cuts off what a smaller size leaves no room for. */
static void fsb_cache_fit_(fsb_cache_disk *d)
{
    const uint64_t slots = (uint64_t)d->slot_count * FSB_CACHE_CHUNK;
    struct stat    st;
    if (d->read_only) return;
    (void)unlinkat(d->dir, "records.new", 0); /* that a kill left behind */
    if (fstat(d->slot_file, &st) == 0 && (uint64_t)st.st_size != slots)
        (void)!ftruncate(d->slot_file, (off_t)slots); /* it grows by itself where this fails */
    if (fstat(d->table_file, &st) == 0 &&
        (uint64_t)st.st_size > ((uint64_t)d->slot_count + 1) * FSB_CACHE_ROW_)
        (void)!ftruncate(d->table_file, (off_t)(((uint64_t)d->slot_count + 1) * FSB_CACHE_ROW_));
}

/* Asks for large pages: with them a million slots are filled in 115 ms, without in 185. */
static void fsb_cache_large_pages_(void *p, size_t size)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, from = ((uintptr_t)p + page - 1) & ~(page - 1);
    const uintptr_t to = ((uintptr_t)p + size) & ~(page - 1);
    if (from < to) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)p, (void)size;
#endif
}

static int fsb_cache_disk_start_(fsb_cache_disk *d, const char *dir)
{
    const fsb_allocator *a = &d->desc.allocator;
    int                  err = 0;
    if (!d->read_only && mkdir(dir, 0700) && errno != EEXIST && errno != EROFS && errno != EACCES)
        return -errno;
    d->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir < 0) return -errno;
    err = fsb_cache_lock_(d, dir);
    if (!err) err = fsb_cache_file_(d, "slots", &d->slot_file);
    if (!err) err = fsb_cache_file_(d, "table", &d->table_file);
    if (!err) err = fsb_cache_file_(d, "records", &d->record_file);
    if (err) return err;
    d->slots = (fsb_cache_slot_ *)fsb_cache_resize_(a, NULL, 0, d->slot_count * sizeof *d->slots);
    d->index = (uint32_t *)fsb_cache_alloc_(a, ((size_t)d->index_mask + 1) * sizeof *d->index);
    d->record_room = 1024;
    d->records = (fsb_cache_record_ *)fsb_cache_alloc_(a, d->record_room * sizeof *d->records);
    if (!d->slots || !d->index || !d->records) return -ENOMEM;
    fsb_cache_large_pages_(d->slots, d->slot_count * sizeof *d->slots);
    err = fsb_cache_table_load_(d);
    if (!err) err = fsb_cache_record_load_(d);
    if (!err) fsb_cache_fit_(d);
    return err;
}

FSB_API int fsb_cache_disk_open(fsb_cache_disk **out, const fsb_cache_disk_desc *desc)
{
    const uint64_t max_bytes = desc->max_bytes ? desc->max_bytes : (uint64_t)10 << 30;
    if (!desc->dir || max_bytes < 4 << 20 || max_bytes > (uint64_t)1 << 47) return -EINVAL;
    fsb_cache_disk *d = (fsb_cache_disk *)fsb_cache_alloc_(&desc->allocator, sizeof *d);
    if (!d) return -ENOMEM;
    d->desc = *desc, d->desc.max_bytes = max_bytes, d->desc.dir = NULL;
    d->dir = d->lock_file = d->slot_file = d->table_file = d->record_file = -1;
    d->read_only = desc->read_only != 0;
    d->record_max = max_bytes / 16 < 1 << 30 ? max_bytes / 16 : 1 << 30;
    d->slot_count = (uint32_t)((max_bytes - d->record_max - FSB_CACHE_ROW_) /
                               ((uint64_t)FSB_CACHE_CHUNK + FSB_CACHE_ROW_));
    d->index_mask = fsb_cache_power_((uint64_t)d->slot_count * 4 / 3 + 1) - 1;
    int err = -ENOMEM;
    if (pthread_mutex_init(&d->lock, NULL)) {
        fsb_cache_free_(&desc->allocator, d, sizeof *d);
        return err;
    }
    if (pthread_mutex_init(&d->record_lock, NULL)) {
        pthread_mutex_destroy(&d->lock);
        fsb_cache_free_(&desc->allocator, d, sizeof *d);
        return err;
    }
    err = fsb_cache_disk_start_(d, desc->dir);
    if (!err) d->desc.read_only = d->read_only;
    if (err) fsb_cache_disk_close(d);
    else *out = d;
    return err;
}

FSB_API void fsb_cache_disk_close(fsb_cache_disk *disk)
{
    if (!disk) return;
    const fsb_allocator a = disk->desc.allocator;
    const int files[5] = {disk->slot_file, disk->table_file, disk->record_file, disk->dir,
                          disk->lock_file};
    if (disk->record_end != disk->record_noted && !disk->read_only)
        (void)fsb_cache_record_header_(disk, disk->record_file, disk->record_end);
    for (int i = 0; i < 5; ++i)
        if (files[i] >= 0) (void)close(files[i]);
    fsb_cache_free_(&a, disk->slots, disk->slot_count * sizeof *disk->slots);
    fsb_cache_free_(&a, disk->index, ((size_t)disk->index_mask + 1) * sizeof *disk->index);
    fsb_cache_free_(&a, disk->records, disk->record_room * sizeof *disk->records);
    pthread_mutex_destroy(&disk->lock);
    pthread_mutex_destroy(&disk->record_lock);
    fsb_cache_free_(&a, disk, sizeof *disk);
}

/* ---- [disk] look after ----------------------------------------------------------------------- */

FSB_API void fsb_cache_disk_get_stats(fsb_cache_disk *disk, fsb_cache_disk_stats *out)
{
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&disk->lock);
    out->hits = __atomic_load_n(&disk->hits, __ATOMIC_RELAXED);
    out->misses = __atomic_load_n(&disk->misses, __ATOMIC_RELAXED);
    out->puts = disk->puts, out->evictions = disk->evictions;
    out->chunks = disk->chunks, out->chunk_bytes = disk->chunk_bytes;
    out->slots = disk->slot_count, out->max_bytes = disk->desc.max_bytes;
    out->memory = sizeof *disk + disk->slot_count * sizeof *disk->slots +
        ((size_t)disk->index_mask + 1) * sizeof *disk->index;
    out->read_only = fsb_cache_is_read_only_(disk);
    out->damaged = disk->damaged;
    pthread_mutex_unlock(&disk->lock);
    pthread_mutex_lock(&disk->record_lock);
    out->damaged += disk->damaged_records;
    out->records = disk->record_count, out->record_bytes = disk->record_bytes;
    out->memory += disk->record_room * sizeof *disk->records;
    pthread_mutex_unlock(&disk->record_lock);
}

/* Reads every chunk; reading drops what is damaged. */
static int fsb_cache_verify_chunks_(fsb_cache_disk *d)
{
    uint8_t *buf = (uint8_t *)fsb_cache_resize_(&d->desc.allocator, NULL, 0, FSB_CACHE_CHUNK);
    if (!buf) return -ENOMEM;
    for (uint32_t i = 0; i < d->known; ++i) {
        fsb_cache_key key;
        if (d->slots[i].state != FSB_CACHE_USED_) continue;
        memcpy(key.word, d->slots[i].key, sizeof key.word);
        (void)fsb_cache_disk_get(d, &key, buf, FSB_CACHE_CHUNK);
    }
    fsb_cache_free_(&d->desc.allocator, buf, FSB_CACHE_CHUNK);
    return 0;
}

FSB_API int fsb_cache_disk_verify(const fsb_cache_disk_desc *desc, fsb_cache_disk_report *out)
{
    fsb_cache_disk *d = NULL;
    int             err = fsb_cache_disk_open(&d, desc); /* which reads every record */
    if (err) return err;
    err = fsb_cache_verify_chunks_(d);
    memset(out, 0, sizeof *out);
    out->chunks = d->chunks, out->chunk_bytes = d->chunk_bytes, out->damaged_chunks = d->damaged;
    out->records = d->record_count, out->record_bytes = d->record_bytes;
    out->damaged_records = d->damaged_records;
    fsb_cache_disk_close(d);
    return err;
}

FSB_API int fsb_cache_disk_clear(const fsb_cache_disk_desc *desc)
{
    fsb_cache_disk *d = NULL;
    struct stat     st;
    if (desc->read_only) return -EROFS;
    if (!desc->dir || stat(desc->dir, &st)) return desc->dir ? -errno : -EINVAL;
    const int err = fsb_cache_disk_open(&d, desc);
    if (err) return err;
    const int read_only = d->read_only;
    if (!read_only) {
        fsb_cache_table_reset_(d);
        fsb_cache_record_reset_(d);
        (void)!ftruncate(d->slot_file, 0); /* gives the disk space back */
    }
    fsb_cache_disk_close(d);
    return read_only ? -EROFS : 0;
}

/* ---- [backend: parts] ------------------------------------------------------------------------

   What is known of names lies in folders, found by path: a folder holds its names, each with its
   attributes, in the order of inner's listing. File data lies in the core cache under {share,
   file_id, version, chunk}, so that only attributes have to be kept honest.

   Honest: every change, ours (when sent and when answered) or told by an event, takes the next
   number of c->now and notes it for the names it touches (c->changed, by hash). A request notes
   c->now when it is sent; its answer is kept only if no later number stands at its name. A change
   notes its number first and forgets under the shard's lock then; keeping looks at the number under
   that lock. So a stale answer is not kept, whatever the order in which things come. What is told
   of a file under one name, which got others, is noted for the file (c->linked, by hash): what is
   kept of it under the name that it had alone counts no more.

   Folders are held below true directories only: a path through a symbolic link would be a second
   name for the same file, of which no event tells.

   Locks: shard -> nothing; file -> nothing. Neither is held around inner, emit(), done(), event().
   Memory of answers: an answer that is not kept is handed on all the same. */

enum {
    FSB_CACHED_SHARDS_ = 64, FSB_CACHED_STRIPES_ = 8192, FSB_CACHED_CHUNK_ = 128 << 10,
    FSB_CACHED_BLOCK_ = 256, FSB_CACHED_BLOCKS_ = 4096, FSB_CACHED_TRIES_ = 6,
    FSB_CACHED_SMALL_ = 64 << 10, /* files whose bytes come with a LIST */
    FSB_CACHED_PIECE_ = 32,    /* names copied out at once */
    FSB_CACHED_MISSING_ = 4,   /* xattr names remembered as missing, of one file */
    FSB_CACHED_AHEAD_ = 64,    /* folders on their way at once */
    FSB_CACHED_FIRST_ = 16 << 10, /* bytes asked for with a name that is far */
    FSB_CACHED_BATCH_ = 64,    /* files asked for at once */
    FSB_CACHED_PAGES_ = 4,     /* of a folder's names, listed ahead */
    FSB_CACHED_WINDOW_ = 256 << 10, /* bytes of small files asked for ahead, at first */
    FSB_CACHED_NEAR_NS_ = 1000000, /* a round trip to a host that is near, at most */
    FSB_CACHED_WRONG_ = 8      /* guesses about a folder before it is left alone */
};
typedef struct fsb_cached_ fsb_cached_;
typedef struct fsb_cached_call_ fsb_cached_call_;

/* A path that may outlive the op that brought it. */
typedef struct fsb_cached_path_ {
    uint32_t refs;
    uint32_t size;
    char     text[1]; /* and more behind it */
} fsb_cached_path_;

/* A path as folder and name. "/" is the name "" in the folder "". */
typedef struct fsb_cached_name_ {
    const char *folder, *name;
    size_t      folder_size, name_size;
    uint64_t    folder_hash, hash; /* of the folder; of both */
} fsb_cached_name_;

typedef enum fsb_cached_state_ {
    FSB_CACHED_UNKNOWN_, /* it may be there or not */
    FSB_CACHED_ABSENT_,
    FSB_CACHED_NAMED_,   /* it is there; of its attributes only the cookie is known */
    FSB_CACHED_STAT_
} fsb_cached_state_;

typedef struct fsb_cached_entry_ fsb_cached_entry_;
struct fsb_cached_entry_ {
    fsb_cached_entry_ *next; /* in its bucket */
    uint64_t           hash, cookie;
    int64_t            until; /* monotonic ms: when it is no longer fresh */
    uint64_t           epoch; /* c->epoch when it was learned; 0: it came from disk */
    uint64_t           seq;   /* c->now when what is in stat was asked */
    fsb_stat           stat;
    uint32_t           place;     /* in folder->order + 1; 0: not there */
    uint32_t           missing[FSB_CACHED_MISSING_]; /* hashes of xattr names it has not; 0: none */
    uint32_t           missing_epoch; /* c->xattr_epoch when they were; else they mean nothing */
    uint8_t            state, missing_next, name_size;
    uint32_t           rank; /* in folder->guess + 1, if that is where it is */
    /* the name and a '\0' stand behind it */
};

typedef struct fsb_cached_folder_ fsb_cached_folder_;
struct fsb_cached_folder_ {
    fsb_cached_folder_ *next; /* in its bucket */
    uint64_t            hash;
    fsb_cached_entry_ **table; /* table_size is a power of two */
    fsb_cached_entry_ **order; /* as inner lists them */
    uint32_t            table_size, count, order_count, order_room;
    const void         *lister;  /* the call that fills order; only compared */
    uint64_t            list_seq, list_epoch, last_cookie;
    uint64_t            verified; /* c->epoch when its path was known for a directory's */
    int64_t             list_until;
    uint8_t             listed;   /* FSB_CACHED_UNKNOWN_, _NAMED_ a part, _STAT_ all, in order */
    uint8_t             complete; /* all names are in table: what is not is absent */
    uint8_t             used, loaded, tried; /* by the hand; from disk; listed ahead */
    uint32_t            small_reads; /* of files in it */
    uint32_t            walk;        /* folders in it that were listed or read */
    uint32_t            walk_next;   /* place from which on no folder was listed ahead */
    fsb_cached_entry_  *last_read;   /* a small file */
    fsb_cached_entry_ **guess;       /* the names, as they are likely to be read */
    uint32_t            guess_count, guess_room;
    uint32_t            guess_next;  /* from there on nothing was asked for */
    uint32_t            guess_wake;  /* what is read from there on asks for more */
    uint32_t            wrong;       /* guesses, since one was right */
    uint64_t            window;      /* bytes to be asked for ahead of the reader */
    uint32_t            path_size;
    /* the path and a '\0' stand behind it */
};

typedef struct fsb_cached_shard_ {
    pthread_mutex_t      lock; /* leaf; guards all here, and the folders */
    fsb_cached_folder_ **table;
    uint32_t             table_size, count, hand;
    fsb_cached_call_    *flights; /* LISTs and READs on their way, by folder or file */
    char                 pad[64];
} fsb_cached_shard_;

/* An open file. */
typedef struct fsb_cached_file_ {
    uint64_t          state; /* atomic: generation << 32 | CLOSED | pins */
    uint32_t          index, next_free;
    uint32_t          flags; /* FSB_O_* */
    uint64_t          file_id;
    pthread_mutex_t   lock; /* leaf; guards what follows */
    fsb_cached_path_ *path; /* as of the last rename that is known */
    uint64_t          mover; /* file_id of what others moved then, this file along with it; or 0 */
    size_t            mover_size; /* of its path since then, which path begins with */
    int               unnamed; /* 1: that may be the name of another file by now, or of none */
    fsb_handle        inner; /* 0: not opened yet */
    int               opening, open_error, lazy; /* c->lazy counts it */
    fsb_cached_call_ *waiting; /* for inner */
    uint64_t          last, next, ahead, window; /* of reading ahead: see [backend: ahead] */
    int64_t           stride;
    uint32_t          run;
} fsb_cached_file_;
#define FSB_CACHED_CLOSED_ 0x80000000u   /* in state */
#define FSB_CACHED_WATCHING_ 0x80000000u /* in flags: no file, a WATCH of inner's */

struct fsb_cached_call_ {
    fsb_op            op;    /* inner's; first */
    fsb_cached_      *c;
    fsb_op           *upper; /* to be answered; NULL: nobody waits */
    fsb_exec          exec;  /* EXEC: upper's, but for its output() */
    void            (*then)(fsb_cached_call_ *k); /* op is answered; frees k */
    fsb_cached_call_ *next;    /* in a list of flights, or of waiters */
    fsb_cached_call_ *waiters; /* to be started again when this is answered */
    fsb_cached_file_ *file, *file2; /* pinned, or NULL */
    fsb_cached_path_ *path;
    uint64_t          seq; /* c->now when it was sent */
    uint32_t          xattr_epoch; /* c->xattr_epoch then */
    uint64_t          hash; /* of the name it is about; of a LIST the folder's */
    uint64_t          file_id, version; /* of a READ */
    uint64_t          offset, size;
    int               tries, flying, shown;
    int               cut; /* LIST: 2 no more is shown, 1 nothing below; RENAME: of a folder */
    uint64_t          shown_bytes;
    fsb_cached_path_ *deep; /* LIST: the folder that entries are coming from now */
    int               top_done, begun; /* -1: there was no memory for it, nothing is kept */
    int               hurried;         /* cancel() may find it, in upper->layer[0] */
    int               holds, landed;   /* it has; its answer is there; both by disk_lock */
};

typedef struct fsb_cached_watch_ fsb_cached_watch_;
struct fsb_cached_watch_ {
    fsb_cached_watch_ *next;
    fsb_handle         handle;
    void             (*event)(void *user, const fsb_event *event);
    void              *user;
};

/* What waits for the disk: a chunk that memory holds, or a folder's record. */
typedef struct fsb_cached_record_ {
    struct fsb_cached_record_ *next;
    fsb_cache_key     key;
    fsb_slice         slice;
    fsb_cached_path_ *path;
    void             *value;
    size_t            size;
} fsb_cached_record_;

struct fsb_cached_ {
    fsb_backend     base; /* first */
    fsb_backend    *inner;
    uint32_t        xattr_epoch; /* by atomics: counts what may give files xattrs */
    int             streams;     /* near: large files and listed bytes go past the memory */
    int             distant;     /* a round trip costs more than bytes nobody reads; both: see
                                    fsb_cached_distance_ */
    int64_t         rtt_ns;
    int64_t         counted_ns;       /* atomic, as the next three: see fsb_cached_carried_ */
    uint64_t        counted, carried;
    int             surveyed;
    uint32_t        firsts, firsts_used; /* atomic: see fsb_cached_first_ok_ */
    fsb_allocator   allocator;
    fsb_logger      log;
    fsb_cache      *core;
    fsb_cache_disk *disk;
    uint64_t        share, seed;
    uint64_t        folder_max, read_ahead;
    uint32_t        ttl_ms;
    int             leased; /* atomic */
    int             watchable; /* atomic: a lease may be asked for */
    fsb_handle      lease; /* atomic */
    uint64_t        now, all_changed, epoch; /* atomic */
    uint64_t        changed[FSB_CACHED_STRIPES_], linked[FSB_CACHED_STRIPES_]; /* atomic */
    fsb_cached_shard_ shards[FSB_CACHED_SHARDS_];
    uint64_t        folder_bytes, hand;  /* atomic */
    uint64_t        live;                /* atomic: calls not ended */
    uint64_t        lists_ahead;         /* atomic */
    int             plain;               /* atomic: inner knows LIST with STAT at most */
    int             away;                /* atomic */
    int64_t         away_since_ns, probed_ms; /* atomic */
    fsb_cached_stats stats;              /* atomic, each */

    pthread_mutex_t    file_lock; /* leaf; guards the free list and new blocks */
    fsb_cached_file_  *blocks[FSB_CACHED_BLOCKS_];
    uint32_t           file_count, free_file; /* index + 1 */
    uint32_t           lazy; /* atomic: files whose inner handle was never opened */

    pthread_mutex_t    watch_lock; /* leaf */
    pthread_cond_t     watch_idle;
    fsb_cached_watch_ *watches;
    fsb_handle         last_watch;
    int                telling;
    pthread_t          teller;

    pthread_mutex_t    disk_lock; /* leaf */
    pthread_cond_t     disk_wake, quiet;
    pthread_t          disk_thread;
    int                disk_started, closing;
    fsb_cached_record_ *records, **last_record;
    uint64_t           record_bytes, record_max;
};

static void fsb_cached_start_(fsb_cached_ *c, fsb_op *op, int tries, int64_t error);

#define FSB_CACHED_COUNT_(c, field) \
    ((void)__atomic_add_fetch(&(c)->stats.field, 1, __ATOMIC_RELAXED))

static void *fsb_cached_resize_(fsb_cached_ *c, void *ptr, size_t old_size, size_t size)
{
    return fsb_cache_resize_(&c->allocator, ptr, old_size, size);
}

static void *fsb_cached_new_(fsb_cached_ *c, size_t size) /* zeroed */
{
    void *p = fsb_cached_resize_(c, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void fsb_cached_free_(fsb_cached_ *c, void *ptr, size_t size)
{
    if (ptr) (void)fsb_cached_resize_(c, ptr, size, 0);
}

static void fsb_cached_log_(fsb_cached_ *c, fsb_log_level level, const char *item, const char *text)
{
    if (c->log.fn) c->log.fn(c->log.user, level, item, text);
}

static int64_t fsb_cached_clock_ns_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t fsb_cached_clock_ms_(void) { return fsb_cached_clock_ns_() / 1000000; }

static uint64_t fsb_cached_mix_(uint64_t x)
{
    x ^= x >> 33, x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

static uint64_t fsb_cached_hash_(uint64_t seed, const char *text, size_t size)
{
    uint64_t h = seed ^ size * 0x9e3779b97f4a7c15ULL, part;
    for (; size >= 8; text += 8, size -= 8) {
        memcpy(&part, text, 8);
        h = (h ^ part) * 0xff51afd7ed558ccdULL;
        h ^= h >> 32;
    }
    part = 0;
    if (size) memcpy(&part, text, size);
    return fsb_cached_mix_(h ^ part);
}

/* ---- [backend: paths] ------------------------------------------------------------------------ */

static fsb_cached_name_ fsb_cached_join_(const fsb_cached_ *c, const char *folder,
                                         size_t folder_size, const char *name, size_t name_size)
{
    fsb_cached_name_ n;
    n.folder = folder, n.folder_size = folder_size, n.name = name, n.name_size = name_size;
    n.folder_hash = fsb_cached_hash_(c->seed, folder, folder_size);
    n.hash = fsb_cached_hash_(n.folder_hash, name, name_size);
    return n;
}

static fsb_cached_name_ fsb_cached_split_(const fsb_cached_ *c, const char *path)
{
    const size_t size = strlen(path);
    size_t       at = size;
    if (size <= 1) return fsb_cached_join_(c, "", 0, "", 0);
    while (at && path[at - 1] != '/') --at;
    return fsb_cached_join_(c, path, at > 1 ? at - 1 : 1, path + at, size - at);
}

static fsb_cached_path_ *fsb_cached_path_new_(fsb_cached_ *c, const char *folder,
                                              size_t folder_size, const char *name,
                                              size_t name_size)
{
    const size_t slash = folder_size > 1 && name_size, size = folder_size + slash + name_size;
    if (size > FSB_PATH_MAX) return NULL;
    fsb_cached_path_ *p =
        (fsb_cached_path_ *)fsb_cached_resize_(c, NULL, 0, sizeof *p + size);
    if (!p) return NULL;
    memcpy(p->text, folder, folder_size);
    if (slash) p->text[folder_size] = '/';
    if (name_size) memcpy(p->text + folder_size + slash, name, name_size);
    p->text[size] = '\0';
    p->refs = 1, p->size = (uint32_t)size;
    return p;
}

static fsb_cached_path_ *fsb_cached_path_copy_(fsb_cached_ *c, const char *path)
{
    return fsb_cached_path_new_(c, path, strlen(path), "", 0);
}

static void fsb_cached_path_put_(fsb_cached_ *c, fsb_cached_path_ *p)
{
    if (p && !__atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL))
        fsb_cached_free_(c, p, sizeof *p + p->size);
}

/* 1 if path is `top` or below it. */
static int fsb_cached_below_(const char *top, size_t top_size, const char *path, size_t size)
{
    if (top_size <= 1) return 1;
    if (size < top_size || memcmp(top, path, top_size)) return 0;
    return size == top_size || path[top_size] == '/';
}

/* ---- [backend: honesty] ---------------------------------------------------------------------- */

static uint64_t fsb_cached_seq_(fsb_cached_ *c)
{
    return __atomic_load_n(&c->now, __ATOMIC_SEQ_CST);
}

static void fsb_cached_raise_(uint64_t *at, uint64_t to)
{
    uint64_t is = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (is < to && !__atomic_compare_exchange_n(at, &is, to, 0, __ATOMIC_SEQ_CST,
                                                   __ATOMIC_SEQ_CST)) {}
}

static void fsb_cached_bump_(fsb_cached_ *c, uint64_t hash)
{
    const uint64_t seq = __atomic_add_fetch(&c->now, 1, __ATOMIC_SEQ_CST);
    fsb_cached_raise_(&c->changed[hash % FSB_CACHED_STRIPES_], seq);
}

static uint64_t *fsb_cached_linked_at_(fsb_cached_ *c, uint64_t file_id)
{
    return &c->linked[fsb_cached_mix_(file_id ^ c->seed) % FSB_CACHED_STRIPES_];
}

/* The file changed, and which names it has is not known. */
static void fsb_cached_bump_file_(fsb_cached_ *c, uint64_t file_id)
{
    fsb_cached_raise_(fsb_cached_linked_at_(c, file_id),
                      __atomic_add_fetch(&c->now, 1, __ATOMIC_SEQ_CST));
}

/* 1 if what was asked at seq, and is of that file, still holds whatever names the file got. */
static int fsb_cached_alone_(fsb_cached_ *c, uint64_t file_id, uint64_t seq)
{
    return __atomic_load_n(fsb_cached_linked_at_(c, file_id), __ATOMIC_SEQ_CST) <= seq;
}

static void fsb_cached_bump_all_(fsb_cached_ *c)
{
    fsb_cached_raise_(&c->all_changed, __atomic_add_fetch(&c->now, 1, __ATOMIC_SEQ_CST));
}

/* 1 if what was asked at seq about `hash` holds still. */
static int fsb_cached_holds_(fsb_cached_ *c, uint64_t hash, uint64_t seq)
{
    return __atomic_load_n(&c->changed[hash % FSB_CACHED_STRIPES_], __ATOMIC_SEQ_CST) <= seq &&
           __atomic_load_n(&c->all_changed, __ATOMIC_SEQ_CST) <= seq;
}

static int64_t fsb_cached_until_(const fsb_cached_ *c)
{
    const int leased = __atomic_load_n(&c->leased, __ATOMIC_RELAXED);
    return leased ? INT64_MAX : fsb_cached_clock_ms_() + c->ttl_ms;
}

static int fsb_cached_fresh_(fsb_cached_ *c, uint64_t epoch, int64_t until)
{
    if (__atomic_load_n(&c->away, __ATOMIC_RELAXED)) return 1; /* better than nothing */
    if (epoch != __atomic_load_n(&c->epoch, __ATOMIC_SEQ_CST)) return 0;
    return until == INT64_MAX || fsb_cached_clock_ms_() < until;
}

/* The same of an entry: what it says of its name, and of the file. */
static int fsb_cached_entry_fresh_(fsb_cached_ *c, const fsb_cached_entry_ *e)
{
    if (!fsb_cached_fresh_(c, e->epoch, e->until)) return 0;
    if (e->state != FSB_CACHED_STAT_ || __atomic_load_n(&c->away, __ATOMIC_RELAXED)) return 1;
    return fsb_cached_alone_(c, e->stat.file_id, e->seq);
}

/* ---- [backend: folders] ---------------------------------------------------------------------- */

static fsb_cached_shard_ *fsb_cached_shard_of_(fsb_cached_ *c, uint64_t hash)
{
    return &c->shards[hash >> 58];
}

static char *fsb_cached_entry_name_(fsb_cached_entry_ *e)
{
    return (char *)(e + 1);
}

static char *fsb_cached_folder_path_(fsb_cached_folder_ *f)
{
    return (char *)(f + 1);
}

static void fsb_cached_account_(fsb_cached_ *c, int64_t bytes)
{
    (void)__atomic_add_fetch(&c->folder_bytes, (uint64_t)bytes, __ATOMIC_RELAXED);
}

/* As resize, counted. */
static void *fsb_cached_counted_(fsb_cached_ *c, void *ptr, size_t old_size, size_t size)
{
    void *p = fsb_cached_resize_(c, ptr, old_size, size);
    if (p || !size) fsb_cached_account_(c, (int64_t)size - (int64_t)old_size);
    return p;
}

static size_t fsb_cached_entry_bytes_(const fsb_cached_entry_ *e)
{
    return sizeof *e + e->name_size + 1u;
}

static void fsb_cached_folder_free_(fsb_cached_ *c, fsb_cached_folder_ *f)
{
    for (uint32_t i = 0; i < f->table_size; ++i) {
        for (fsb_cached_entry_ *e = f->table[i], *next; e; e = next) {
            next = e->next;
            (void)fsb_cached_counted_(c, e, fsb_cached_entry_bytes_(e), 0);
        }
    }
    if (f->table) (void)fsb_cached_counted_(c, f->table, f->table_size * sizeof *f->table, 0);
    if (f->order) (void)fsb_cached_counted_(c, f->order, f->order_room * sizeof *f->order, 0);
    if (f->guess) (void)fsb_cached_counted_(c, f->guess, f->guess_room * sizeof *f->guess, 0);
    (void)fsb_cached_counted_(c, f, sizeof *f + f->path_size + 1, 0);
}

static fsb_cached_folder_ **fsb_cached_folder_at_(fsb_cached_shard_ *s, uint64_t hash,
                                                  const char *path, size_t size)
{
    fsb_cached_folder_ **at = &s->table[hash & (s->table_size - 1)];
    while (*at && ((*at)->hash != hash || (*at)->path_size != size ||
                   memcmp(fsb_cached_folder_path_(*at), path, size) != 0))
        at = &(*at)->next;
    return at;
}

/* The folder, or NULL. Shard locked. */
static fsb_cached_folder_ *fsb_cached_folder_of_(fsb_cached_shard_ *s, const fsb_cached_name_ *n)
{
    fsb_cached_folder_ *f = *fsb_cached_folder_at_(s, n->folder_hash, n->folder, n->folder_size);
    if (f) f->used = 1;
    return f;
}

static void fsb_cached_folder_remove_(fsb_cached_ *c, fsb_cached_shard_ *s,
                                      fsb_cached_folder_ **at)
{
    fsb_cached_folder_ *f = *at;
    *at = f->next;
    --s->count;
    (void)__atomic_sub_fetch(&c->stats.folders, 1, __ATOMIC_RELAXED);
    fsb_cached_folder_free_(c, f);
}

static void fsb_cached_shard_grow_(fsb_cached_ *c, fsb_cached_shard_ *s)
{
    const uint32_t       size = s->table_size * 2;
    fsb_cached_folder_ **table =
        (fsb_cached_folder_ **)fsb_cached_counted_(c, NULL, 0, size * sizeof *table);
    if (!table) return; /* longer chains */
    memset(table, 0, size * sizeof *table);
    for (uint32_t i = 0; i < s->table_size; ++i) {
        for (fsb_cached_folder_ *f = s->table[i], *next; f; f = next) {
            next = f->next;
            f->next = table[f->hash & (size - 1)], table[f->hash & (size - 1)] = f;
        }
    }
    (void)fsb_cached_counted_(c, s->table, s->table_size * sizeof *table, 0);
    s->table = table, s->table_size = size;
}

/* The folder, made if it is not there; the caller knows it for a true directory. Shard locked. */
static fsb_cached_folder_ *fsb_cached_folder_make_(fsb_cached_ *c, fsb_cached_shard_ *s,
                                                   const fsb_cached_name_ *n, uint64_t epoch)
{
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, n);
    if (f) {
        f->verified = epoch;
        return f;
    }
    if (s->count >= s->table_size) fsb_cached_shard_grow_(c, s);
    f = (fsb_cached_folder_ *)fsb_cached_counted_(c, NULL, 0, sizeof *f + n->folder_size + 1);
    if (!f) return NULL;
    memset(f, 0, sizeof *f);
    f->hash = n->folder_hash, f->path_size = (uint32_t)n->folder_size, f->used = 1;
    f->verified = epoch;
    memcpy(fsb_cached_folder_path_(f), n->folder, n->folder_size);
    fsb_cached_folder_path_(f)[n->folder_size] = '\0';
    fsb_cached_folder_ **at = &s->table[f->hash & (s->table_size - 1)];
    f->next = *at, *at = f;
    ++s->count;
    (void)__atomic_add_fetch(&c->stats.folders, 1, __ATOMIC_RELAXED);
    return f;
}

static fsb_cached_entry_ *fsb_cached_entry_of_(const fsb_cached_folder_ *f,
                                               const fsb_cached_name_ *n)
{
    if (!f || !f->table_size) return NULL;
    fsb_cached_entry_ *e = f->table[n->hash & (f->table_size - 1)];
    while (e && (e->hash != n->hash || e->name_size != n->name_size ||
                 memcmp(fsb_cached_entry_name_(e), n->name, n->name_size) != 0))
        e = e->next;
    return e;
}

static int fsb_cached_folder_grow_(fsb_cached_ *c, fsb_cached_folder_ *f)
{
    const uint32_t      size = f->table_size ? f->table_size * 2 : 8;
    fsb_cached_entry_ **table =
        (fsb_cached_entry_ **)fsb_cached_counted_(c, NULL, 0, size * sizeof *table);
    if (!table) return f->table_size ? 0 : -ENOMEM;
    memset(table, 0, size * sizeof *table);
    for (uint32_t i = 0; i < f->table_size; ++i) {
        for (fsb_cached_entry_ *e = f->table[i], *next; e; e = next) {
            next = e->next;
            e->next = table[e->hash & (size - 1)], table[e->hash & (size - 1)] = e;
        }
    }
    if (f->table) (void)fsb_cached_counted_(c, f->table, f->table_size * sizeof *table, 0);
    f->table = table, f->table_size = size;
    return 0;
}

/* The entry, made UNKNOWN if it is not there. Shard locked. */
static fsb_cached_entry_ *fsb_cached_entry_make_(fsb_cached_ *c, fsb_cached_folder_ *f,
                                                 const fsb_cached_name_ *n)
{
    fsb_cached_entry_ *e = fsb_cached_entry_of_(f, n);
    if (e) return e;
    if (f->count >= f->table_size && fsb_cached_folder_grow_(c, f)) return NULL;
    e = (fsb_cached_entry_ *)fsb_cached_counted_(c, NULL, 0, sizeof *e + n->name_size + 1);
    if (!e) return NULL;
    memset(e, 0, sizeof *e);
    e->hash = n->hash, e->name_size = (uint8_t)n->name_size;
    memcpy(fsb_cached_entry_name_(e), n->name, n->name_size);
    fsb_cached_entry_name_(e)[n->name_size] = '\0';
    fsb_cached_entry_ **at = &f->table[e->hash & (f->table_size - 1)];
    e->next = *at, *at = e;
    ++f->count;
    return e;
}

/* The order of the names is no longer known. Shard locked. */
static void fsb_cached_unlist_(fsb_cached_folder_ *f)
{
    for (uint32_t i = 0; i < f->order_count; ++i) f->order[i]->place = 0;
    f->order_count = 0, f->listed = FSB_CACHED_UNKNOWN_, f->lister = NULL;
    f->walk_next = f->guess_count = 0;
}

/* Forgets folders until they fit their part of max_bytes. No lock held. */
static void fsb_cached_trim_(fsb_cached_ *c)
{
    for (int rounds = 0; rounds < 4 * FSB_CACHED_SHARDS_; ++rounds) {
        if (__atomic_load_n(&c->folder_bytes, __ATOMIC_RELAXED) <= c->folder_max) return;
        const uint64_t     turn = __atomic_add_fetch(&c->hand, 1, __ATOMIC_RELAXED);
        fsb_cached_shard_ *s = &c->shards[turn % FSB_CACHED_SHARDS_];
        pthread_mutex_lock(&s->lock);
        for (uint32_t i = 0; i < s->table_size; ++i) {
            fsb_cached_folder_ **at = &s->table[s->hand++ & (s->table_size - 1)];
            while (*at) {
                if ((*at)->used && rounds < 3 * FSB_CACHED_SHARDS_) {
                    (*at)->used = 0;
                    at = &(*at)->next;
                } else fsb_cached_folder_remove_(c, s, at);
            }
            if (__atomic_load_n(&c->folder_bytes, __ATOMIC_RELAXED) <= c->folder_max) break;
        }
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- [backend: names] ------------------------------------------------------------------------ */

/* What is known of a name: STAT and *out, ABSENT, or UNKNOWN. */
static fsb_cached_state_ fsb_cached_look_(fsb_cached_ *c, const fsb_cached_name_ *n, fsb_stat *out)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    fsb_cached_state_  state = FSB_CACHED_UNKNOWN_;
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, n);
    fsb_cached_entry_  *e = fsb_cached_entry_of_(f, n);
    if (e && (e->state == FSB_CACHED_STAT_ || e->state == FSB_CACHED_ABSENT_)) {
        if (fsb_cached_entry_fresh_(c, e)) state = (fsb_cached_state_)e->state;
        if (state == FSB_CACHED_STAT_) *out = e->stat;
    } else if (f && !e && f->complete && fsb_cached_fresh_(c, f->list_epoch, f->list_until)) {
        state = FSB_CACHED_ABSENT_;
    }
    pthread_mutex_unlock(&s->lock);
    return state;
}

/* 1 if the folder may be held in this epoch: it is known for a directory, not for a link to one. */
static int fsb_cached_holdable_(fsb_cached_ *c, const fsb_cached_name_ *of, uint64_t epoch)
{
    char path[FSB_PATH_MAX + 1];
    if (of->folder_size <= 1) return 1;
    if (of->folder_size > FSB_PATH_MAX) return 0;
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, of->folder_hash);
    pthread_mutex_lock(&s->lock);
    const fsb_cached_folder_ *f = fsb_cached_folder_of_(s, of);
    int                       is = f && f->verified == epoch;
    pthread_mutex_unlock(&s->lock);
    if (is) return 1;
    memcpy(path, of->folder, of->folder_size);
    path[of->folder_size] = '\0';
    const fsb_cached_name_ n = fsb_cached_split_(c, path);
    s = fsb_cached_shard_of_(c, n.folder_hash);
    pthread_mutex_lock(&s->lock);
    const fsb_cached_entry_ *e = fsb_cached_entry_of_(fsb_cached_folder_of_(s, &n), &n);
    is = e && e->state == FSB_CACHED_STAT_ && S_ISDIR(e->stat.mode) && e->epoch == epoch;
    pthread_mutex_unlock(&s->lock);
    return is;
}

static uint64_t fsb_cached_epoch_(fsb_cached_ *c)
{
    return __atomic_load_n(&c->epoch, __ATOMIC_SEQ_CST);
}

/* Attributes that another name may change untold are not kept. */
static int fsb_cached_keepable_(const fsb_stat *st)
{
    return S_ISDIR(st->mode) || st->nlink == 1;
}

/* Writes what is known into an entry: known in an epoch that was looked at before it was seen to
   hold, for the next one may have begun since; asked at seq. Shard locked. */
static void fsb_cached_entry_set_(fsb_cached_ *c, fsb_cached_entry_ *e, uint64_t epoch,
                                  uint64_t seq, const fsb_stat *st)
{
    e->epoch = epoch, e->seq = seq, e->until = fsb_cached_until_(c);
    e->state = FSB_CACHED_ABSENT_;
    if (st) {
        if (e->stat.file_id != st->file_id) memset(e->missing, 0, sizeof e->missing);
        e->stat = *st;
        e->state = fsb_cached_keepable_(st) ? FSB_CACHED_STAT_ : FSB_CACHED_NAMED_;
    }
}

/* Keeps what an answer told of a name: its attributes, or (NULL) that it is not there. */
static void fsb_cached_keep_(fsb_cached_ *c, const fsb_cached_name_ *n, uint64_t seq,
                             const fsb_stat *st)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    const uint64_t     epoch = fsb_cached_epoch_(c);
    if (!fsb_cached_holdable_(c, n, epoch)) return;
    pthread_mutex_lock(&s->lock);
    if (fsb_cached_holds_(c, n->hash, seq)) {
        fsb_cached_folder_ *f = fsb_cached_folder_make_(c, s, n, epoch);
        fsb_cached_entry_  *e = f ? fsb_cached_entry_make_(c, f, n) : NULL;
        if (e) {
            fsb_cached_entry_set_(c, e, epoch, seq, st);
            const int lacks = st && !e->place && f->listed == FSB_CACHED_STAT_;
            if (lacks || (!st && e->place)) fsb_cached_unlist_(f); /* the order is not true */
        }
    }
    pthread_mutex_unlock(&s->lock);
    fsb_cached_trim_(c);
}

/* The attributes of a name may have changed, with `names` also whether it is there: what was held
   is no longer. The number is taken under the lock, so that settling is one step. Shard locked. */
static fsb_cached_entry_ *fsb_cached_forget_(fsb_cached_ *c, fsb_cached_folder_ *f,
                                             const fsb_cached_name_ *n, int names)
{
    fsb_cached_entry_ *e = fsb_cached_entry_of_(f, n);
    fsb_cached_bump_(c, n->hash);
    if (names) fsb_cached_bump_(c, n->folder_hash);
    if (f && !e && f->complete) { /* what is not in a complete folder is absent */
        e = fsb_cached_entry_make_(c, f, n);
        if (!e) f->complete = 0;
    } else if (e) {
        memset(e->missing, 0, sizeof e->missing); /* SETXATTR may be what happened */
        if (names) e->state = FSB_CACHED_UNKNOWN_;
        else if (e->state == FSB_CACHED_STAT_) e->state = FSB_CACHED_NAMED_;
        else if (e->state == FSB_CACHED_ABSENT_) e->state = FSB_CACHED_UNKNOWN_;
    }
    if (f && names) fsb_cached_unlist_(f);
    return e;
}

/* Returns what was held of it before: STAT with *was, ABSENT, or UNKNOWN. */
static fsb_cached_state_ fsb_cached_touch_(fsb_cached_ *c, const fsb_cached_name_ *n, int names,
                                           fsb_stat *was)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    fsb_cached_state_  state = FSB_CACHED_UNKNOWN_;
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_       *f = fsb_cached_folder_of_(s, n);
    const fsb_cached_entry_ *e = fsb_cached_entry_of_(f, n);
    if (e) state = (fsb_cached_state_)e->state, *was = e->stat;
    else if (f && f->complete) state = FSB_CACHED_ABSENT_;
    (void)fsb_cached_forget_(c, f, n, names);
    pthread_mutex_unlock(&s->lock);
    return state;
}

/* A change of ours sent at seq is done, st is what it left behind (NULL: nothing): forgets what
   was, and keeps this unless something else happened to the name meanwhile. */
static void fsb_cached_settle_(fsb_cached_ *c, const fsb_cached_name_ *n, int names, uint64_t seq,
                               const fsb_stat *st)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    const uint64_t     epoch = fsb_cached_epoch_(c);
    const int          may = fsb_cached_holdable_(c, n, epoch);
    pthread_mutex_lock(&s->lock);
    const int           ok = may && fsb_cached_holds_(c, n->hash, seq);
    fsb_cached_folder_ *f =
        ok ? fsb_cached_folder_make_(c, s, n, epoch) : fsb_cached_folder_of_(s, n);
    fsb_cached_entry_ *e = fsb_cached_forget_(c, f, n, names);
    if (ok && f && !e) e = fsb_cached_entry_make_(c, f, n);
    if (ok && e) fsb_cached_entry_set_(c, e, epoch, seq, st);
    pthread_mutex_unlock(&s->lock);
    fsb_cached_trim_(c);
}

/* Forgets the folder of that path, and with `deep` those below. */
static void fsb_cached_drop_(fsb_cached_ *c, const char *path, int deep)
{
    const size_t   size = strlen(path);
    const uint64_t hash = fsb_cached_hash_(c->seed, path, size);
    if (deep) fsb_cached_bump_all_(c);
    for (uint32_t i = 0; i < FSB_CACHED_SHARDS_; ++i) {
        fsb_cached_shard_ *s = deep ? &c->shards[i] : fsb_cached_shard_of_(c, hash);
        pthread_mutex_lock(&s->lock);
        if (!deep) {
            fsb_cached_folder_ **at = fsb_cached_folder_at_(s, hash, path, size);
            fsb_cached_bump_(c, hash);
            if (*at) fsb_cached_folder_remove_(c, s, at);
        }
        for (uint32_t j = 0; deep && j < s->table_size; ++j) {
            for (fsb_cached_folder_ **at = &s->table[j]; *at;) {
                const char *other = fsb_cached_folder_path_(*at);
                if (fsb_cached_below_(path, size, other, (*at)->path_size))
                    fsb_cached_folder_remove_(c, s, at);
                else at = &(*at)->next;
            }
        }
        pthread_mutex_unlock(&s->lock);
        if (!deep) return;
    }
}

static void fsb_cached_touch_attr_(fsb_cached_ *c, const char *path)
{
    fsb_stat               was;
    const fsb_cached_name_ n = fsb_cached_split_(c, path);
    (void)fsb_cached_touch_(c, &n, 0, &was);
}

static void fsb_cached_touch_parent_(fsb_cached_ *c, const fsb_cached_name_ *n)
{
    char up[FSB_PATH_MAX + 1];
    if (!n->folder_size) return;
    memcpy(up, n->folder, n->folder_size);
    up[n->folder_size] = '\0';
    fsb_cached_touch_attr_(c, up);
}

/* A name came, went, or became another: so did what was held below it, and its folder's own
   attributes. deep: 1 it may have been a folder that was not empty, -1 see what it was. Returns 1
   if everything below was forgotten. */
static int fsb_cached_touch_name_(fsb_cached_ *c, const char *path, int deep)
{
    fsb_stat                was;
    const fsb_cached_name_  n = fsb_cached_split_(c, path);
    const fsb_cached_state_ state = fsb_cached_touch_(c, &n, 1, &was);
    if (deep < 0)
        deep = state == FSB_CACHED_STAT_ ? S_ISDIR(was.mode) : state != FSB_CACHED_ABSENT_;
    fsb_cached_drop_(c, path, deep);
    fsb_cached_touch_parent_(c, &n);
    return deep;
}

/* Everything is suspect: it is answered only while the host is away. */
static void fsb_cached_suspect_(fsb_cached_ *c)
{
    fsb_cached_bump_all_(c);
    (void)__atomic_add_fetch(&c->epoch, 1, __ATOMIC_SEQ_CST);
    fsb_cached_bump_all_(c);
}

/* ---- [backend: files] ------------------------------------------------------------------------ */

static fsb_cached_file_ *fsb_cached_file_at_(fsb_cached_ *c, uint32_t index)
{
    fsb_cached_file_ *block =
        __atomic_load_n(&c->blocks[index / FSB_CACHED_BLOCK_], __ATOMIC_ACQUIRE);
    return block ? &block[index % FSB_CACHED_BLOCK_] : NULL;
}

/* The open file behind a handle, pinned; NULL: there is none. */
static fsb_cached_file_ *fsb_cached_pin_(fsb_cached_ *c, fsb_handle handle)
{
    const uint32_t    index = (uint32_t)handle - 1;
    const uint64_t    generation = handle >> 32;
    fsb_cached_file_ *f = (uint32_t)handle && index / FSB_CACHED_BLOCK_ < FSB_CACHED_BLOCKS_
                              ? fsb_cached_file_at_(c, index)
                              : NULL;
    if (!f) return NULL;
    uint64_t state = __atomic_load_n(&f->state, __ATOMIC_ACQUIRE);
    do {
        if (state >> 32 != generation || state & FSB_CACHED_CLOSED_) return NULL;
    } while (!__atomic_compare_exchange_n(&f->state, &state, state + 1, 0, __ATOMIC_ACQ_REL,
                                          __ATOMIC_ACQUIRE));
    return f;
}

static fsb_handle fsb_cached_handle_(const fsb_cached_file_ *f)
{
    return (__atomic_load_n(&f->state, __ATOMIC_RELAXED) >> 32) << 32 | (f->index + 1);
}

static void fsb_cached_unpin_(fsb_cached_ *c, fsb_cached_file_ *f)
{
    if (!f) return;
    const uint64_t state = __atomic_sub_fetch(&f->state, 1, __ATOMIC_ACQ_REL);
    if ((uint32_t)state != FSB_CACHED_CLOSED_) return;
    fsb_cached_path_put_(c, f->path);
    f->path = NULL;
    pthread_mutex_lock(&c->file_lock);
    const uint64_t generation = (state >> 32) + 1;
    __atomic_store_n(&f->state, (generation & 0xffffffffu) << 32 | FSB_CACHED_CLOSED_,
                     __ATOMIC_RELEASE);
    f->next_free = c->free_file, c->free_file = f->index + 1;
    pthread_mutex_unlock(&c->file_lock);
}

static int fsb_cached_files_grow_(fsb_cached_ *c) /* file_lock held */
{
    const uint32_t n = c->file_count / FSB_CACHED_BLOCK_;
    if (n == FSB_CACHED_BLOCKS_) return -ENFILE;
    fsb_cached_file_ *block =
        (fsb_cached_file_ *)fsb_cached_new_(c, FSB_CACHED_BLOCK_ * sizeof *block);
    if (!block) return -ENOMEM;
    for (uint32_t i = FSB_CACHED_BLOCK_; i-- > 0;) {
        pthread_mutex_init(&block[i].lock, NULL);
        block[i].index = c->file_count + i;
        block[i].state = 1ull << 32 | FSB_CACHED_CLOSED_;
        block[i].next_free = c->free_file, c->free_file = block[i].index + 1;
    }
    __atomic_store_n(&c->blocks[n], block, __ATOMIC_RELEASE);
    __atomic_store_n(&c->file_count, c->file_count + FSB_CACHED_BLOCK_, __ATOMIC_RELEASE);
    return 0;
}

/* A new open file, pinned once for the caller. */
static int fsb_cached_file_new_(fsb_cached_ *c, fsb_cached_file_ **out, const char *path,
                                uint32_t flags, uint64_t file_id, fsb_handle inner)
{
    fsb_cached_path_ *copy = fsb_cached_path_copy_(c, path);
    if (!copy) return -ENOMEM;
    pthread_mutex_lock(&c->file_lock);
    const int         err = c->free_file ? 0 : fsb_cached_files_grow_(c);
    fsb_cached_file_ *f = err ? NULL : fsb_cached_file_at_(c, c->free_file - 1);
    if (f) c->free_file = f->next_free;
    pthread_mutex_unlock(&c->file_lock);
    if (err) {
        fsb_cached_path_put_(c, copy);
        return err;
    }
    pthread_mutex_lock(&f->lock);
    f->flags = flags, f->file_id = file_id, f->path = copy, f->inner = inner;
    f->opening = f->open_error = 0, f->lazy = !inner, f->waiting = NULL;
    f->unnamed = 0, f->mover = 0, f->mover_size = 0;
    f->last = f->next = f->ahead = f->window = 0, f->stride = 0, f->run = 0;
    pthread_mutex_unlock(&f->lock);
    if (!inner) (void)__atomic_add_fetch(&c->lazy, 1, __ATOMIC_RELAXED);
    const uint64_t state = __atomic_load_n(&f->state, __ATOMIC_RELAXED);
    __atomic_store_n(&f->state, (state & ~(uint64_t)0xffffffffu) | 1, __ATOMIC_RELEASE);
    *out = f;
    return 0;
}

/* Its path, to be put. */
static fsb_cached_path_ *fsb_cached_path_of_(fsb_cached_file_ *f)
{
    pthread_mutex_lock(&f->lock);
    fsb_cached_path_ *p = f->path;
    (void)__atomic_add_fetch(&p->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&f->lock);
    return p;
}

/* Calls each() with every open file, pinned, until it returns not 0. */
static int fsb_cached_each_file_(fsb_cached_ *c, int (*each)(fsb_cached_ *c, fsb_cached_file_ *f,
                                                            const fsb_op *op), const fsb_op *op)
{
    const uint32_t count = __atomic_load_n(&c->file_count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < count; ++i) {
        fsb_cached_file_ *f = fsb_cached_file_at_(c, i);
        f = fsb_cached_pin_(c, fsb_cached_handle_(f));
        if (!f) continue;
        if (each(c, f, op)) return 1; /* it keeps the pin */
        fsb_cached_unpin_(c, f);
    }
    return 0;
}

/* The name that op removes, makes or replaces is no longer that of who has it open. */
static int fsb_cached_unname_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_op *op)
{
    const char *gone = op->code == FSB_OP_RENAME ? op->path2 : op->path;
    (void)c;
    pthread_mutex_lock(&f->lock);
    if (f->path && !strcmp(f->path->text, gone)) f->unnamed = 1;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

/* 1 if the file is what `id` tells is at path, or came there with it, or may have: the first half
   of an exchange brings something else to where the second takes this from. File locked. */
static int fsb_cached_went_(const fsb_cached_file_ *f, size_t size, uint64_t id)
{
    if (!id) return 1;
    if (f->path->size == size) return f->file_id == id;
    return !f->mover || f->mover == id || f->mover_size != size;
}

/* After op->path became op->path2 (EXCHANGE: and the reverse), so did what is open there. When
   others did it, op->file_id is what moved. */
static int fsb_cached_moved_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_op *op)
{
    const char *from = op->path, *to = op->path2;
    pthread_mutex_lock(&f->lock);
    fsb_cached_path_ *p = f->path, *moved = NULL;
    size_t            size = strlen(from);
    if (fsb_cached_below_(from, size, p->text, p->size)) {
        if (!fsb_cached_went_(f, size, op->file_id)) from = NULL;
        else if (op->file_id && p->size == size) f->unnamed = 0; /* an exchange, not replaced */
    } else {
        from = op->flags & FSB_RENAME_EXCHANGE ? op->path2 : NULL, to = op->path;
        size = from ? strlen(from) : 0;
        if (from && !fsb_cached_below_(from, size, p->text, p->size)) from = NULL;
    }
    if (from) moved = fsb_cached_path_new_(c, to, strlen(to),
                                           p->size > size ? p->text + size + 1 : "",
                                           p->size > size ? p->size - size - 1 : 0);
    if (moved) f->path = moved, f->mover = op->file_id, f->mover_size = strlen(to);
    pthread_mutex_unlock(&f->lock);
    if (moved) fsb_cached_path_put_(c, p);
    return 0;
}

/* It is open at inner, or nobody's any more. File locked. */
static void fsb_cached_not_lazy_(fsb_cached_ *c, fsb_cached_file_ *f)
{
    if (f->lazy) (void)__atomic_sub_fetch(&c->lazy, 1, __ATOMIC_RELAXED);
    f->lazy = 0;
}

static int fsb_cached_is_lazy_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_op *op)
{
    (void)c;
    pthread_mutex_lock(&f->lock);
    const fsb_cached_path_ *p = f->path;
    int lazy = !f->inner && !f->open_error &&
               fsb_cached_below_(op->path, strlen(op->path), p->text, p->size);
    if (!f->inner && !f->open_error && op->code == FSB_OP_RENAME)
        lazy |= fsb_cached_below_(op->path2, strlen(op->path2), p->text, p->size);
    pthread_mutex_unlock(&f->lock);
    return lazy;
}

static int fsb_cached_find_lazy_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_op *op)
{
    if (!fsb_cached_is_lazy_(c, f, op)) return 0;
    *(fsb_cached_file_ **)op->user = f;
    return 1;
}

/* ---- [backend: data] ------------------------------------------------------------------------- */

static fsb_cache_key fsb_cached_key_(const fsb_cached_ *c, uint64_t file_id, uint64_t version,
                                     uint64_t chunk)
{
    fsb_cache_key key;
    key.word[0] = c->share, key.word[1] = file_id, key.word[2] = version, key.word[3] = chunk;
    return key;
}

static size_t fsb_cached_chunk_size_(uint64_t size, uint64_t chunk)
{
    const uint64_t at = chunk * FSB_CACHED_CHUNK_;
    if (at >= size) return 0;
    return size - at < FSB_CACHED_CHUNK_ ? (size_t)(size - at) : (size_t)FSB_CACHED_CHUNK_;
}

static void fsb_cached_record_chunk_(fsb_cached_ *c, const fsb_cache_key *key);

/* Keeps the whole chunks among bytes that were read at `offset`. */
static void fsb_cached_put_(fsb_cached_ *c, uint64_t file_id, uint64_t version, uint64_t file_size,
                            uint64_t offset, const void *data, size_t size)
{
    uint64_t chunk = (offset + FSB_CACHED_CHUNK_ - 1) / FSB_CACHED_CHUNK_;
    for (;; ++chunk) {
        const uint64_t at = chunk * FSB_CACHED_CHUNK_;
        const size_t   part = fsb_cached_chunk_size_(file_size, chunk);
        if (!part || at - offset > size || part > size - (at - offset)) return;
        const fsb_cache_key key = fsb_cached_key_(c, file_id, version, chunk);
        if (fsb_cache_put(c->core, &key, (const char *)data + (at - offset), part, 0) == 0)
            fsb_cached_record_chunk_(c, &key);
    }
}

typedef struct fsb_cached_load_ {
    fsb_cached_         *c;
    const fsb_cache_key *key;
    size_t               size; /* which it must have */
} fsb_cached_load_;

/* A chunk from L2, straight to where it stays in memory. */
static int64_t fsb_cached_from_disk_(void *user, void *buf, size_t size)
{
    const fsb_cached_load_ *l = (const fsb_cached_load_ *)user;
    const int64_t           n = fsb_cache_disk_get(l->c->disk, l->key, buf, size);
    if (n != (int64_t)l->size) return -ENOENT;
    FSB_CACHED_COUNT_(l->c, disk_hits);
    return n;
}

/* One chunk, pinned. With `disk` it may read that: for the caller's thread only. */
static int fsb_cached_chunk_(fsb_cached_ *c, const fsb_stat *st, uint64_t chunk, int disk,
                             fsb_slice *out)
{
    const fsb_cache_key key = fsb_cached_key_(c, st->file_id, st->version, chunk);
    const size_t        size = fsb_cached_chunk_size_(st->size, chunk);
    fsb_cached_load_    load = {c, &key, size};
    int                 hit = fsb_cache_get(c->core, &key, out) == 1;
    if (!hit && disk && c->disk && fsb_cache_disk_get(c->disk, &key, NULL, 0) == (int64_t)size)
        hit = fsb_cache_fetch(c->core, &key, size, fsb_cached_from_disk_, &load, 0, out) >= 0;
    if (hit && out->size != size) {
        fsb_slice_release(out);
        hit = 0;
    }
    return hit;
}

/* The first bytes of a larger file lie under a chunk that no file can have. */
static void fsb_cached_first_put_(fsb_cached_ *c, const fsb_stat *st, const void *data, size_t size)
{
    const fsb_cache_key key = fsb_cached_key_(c, st->file_id, st->version, UINT64_MAX);
    (void)fsb_cache_put(c->core, &key, data, size, 0);
}

/* They, pinned, if they reach as far as `least`. */
static int fsb_cached_first_bytes_(fsb_cached_ *c, const fsb_stat *st, uint64_t least,
                                   fsb_slice *out)
{
    const fsb_cache_key key = fsb_cached_key_(c, st->file_id, st->version, UINT64_MAX);
    if (!c->distant || least > FSB_CACHED_FIRST_) return 0;
    if (fsb_cache_get(c->core, &key, out) != 1) return 0;
    if (out->size >= least && out->size <= st->size) return 1;
    fsb_slice_release(out);
    return 0;
}

typedef struct fsb_cached_holder_ {
    fsb_cached_ *c;
    size_t       size; /* of the bytes behind it */
} fsb_cached_holder_;

static void fsb_cached_holder_free_(void *owner)
{
    fsb_cached_holder_ *h = (fsb_cached_holder_ *)owner;
    fsb_cached_free_(h->c, h, sizeof *h + h->size);
}

/* Room for size bytes of the answer: op->buf, or new memory in op->slice. */
static char *fsb_cached_room_(fsb_cached_ *c, fsb_op *op, size_t size)
{
    if (op->buf) return (char *)op->buf;
    fsb_cached_holder_ *h =
        (fsb_cached_holder_ *)fsb_cached_resize_(c, NULL, 0, sizeof *h + size);
    if (!h) return NULL;
    h->c = c, h->size = size;
    op->slice.data = h + 1, op->slice.size = size;
    op->slice.release = fsb_cached_holder_free_, op->slice.owner = h;
    return (char *)(h + 1);
}

static void fsb_cached_no_slice_(fsb_op *op)
{
    op->slice.data = NULL, op->slice.size = 0, op->slice.release = NULL, op->slice.owner = NULL;
}

/* Answers op with the bytes of a file from memory or L2: 1, or 0 and the chunk that is missing. */
static int fsb_cached_bytes_(fsb_cached_ *c, fsb_op *op, const fsb_stat *st, uint64_t offset,
                             uint64_t *missing)
{
    fsb_slice      part[(size_t)FSB_IO_MAX / (size_t)FSB_CACHED_CHUNK_ + 2];
    const uint64_t left = offset < st->size ? st->size - offset : 0;
    const size_t   want = left < op->size ? (size_t)left : op->size;
    const uint64_t first = offset / FSB_CACHED_CHUNK_;
    const uint64_t skip = offset % FSB_CACHED_CHUNK_;
    size_t         n = 0, count = want ? (size_t)((skip + want - 1) / FSB_CACHED_CHUNK_) + 1 : 0;
    fsb_cached_no_slice_(op);
    if (want > (size_t)FSB_IO_MAX) return 0;
    while (n < count && fsb_cached_chunk_(c, st, first + n, 1, &part[n])) ++n;
    if (!n && count == 1 && !first)
        n = (size_t)fsb_cached_first_bytes_(c, st, skip + want, &part[0]);
    int   ok = n == count;
    char *to = NULL;
    if (!ok) *missing = first + n;
    if (ok && count == 1 && !op->buf) {
        op->slice = part[0], n = 0;
        op->slice.data = (const char *)part[0].data + skip, op->slice.size = want;
    } else if (ok && want) {
        to = fsb_cached_room_(c, op, want);
        ok = to != NULL, *missing = first;
    }
    size_t at = 0;
    for (size_t i = 0; i < n; ++i) {
        const size_t from = i ? 0 : (size_t)skip;
        const size_t size = part[i].size - from < want - at ? part[i].size - from : want - at;
        if (to) memcpy(to + at, (const char *)part[i].data + from, size);
        at += to ? size : 0;
        fsb_slice_release(&part[i]);
    }
    if (ok) op->result = (int64_t)want;
    return ok;
}

/* ---- [backend: calls] ------------------------------------------------------------------------ */

static fsb_cached_call_ *fsb_cached_call_new_(fsb_cached_ *c, fsb_op *upper, uint32_t code,
                                              void (*then)(fsb_cached_call_ *k))
{
    fsb_cached_call_ *k = (fsb_cached_call_ *)fsb_cached_new_(c, sizeof *k);
    if (!k) return NULL;
    if (upper) k->op = *upper, k->op.layer[0] = k->op.layer[1] = NULL, k->op.next = NULL;
    k->op.code = code, k->c = c, k->upper = upper, k->then = then;
    fsb_cached_no_slice_(&k->op);
    (void)__atomic_add_fetch(&c->live, 1, __ATOMIC_ACQ_REL);
    return k;
}

static void fsb_cached_call_free_(fsb_cached_call_ *k)
{
    fsb_cached_ *c = k->c;
    fsb_cached_unpin_(c, k->file);
    fsb_cached_unpin_(c, k->file2);
    fsb_cached_path_put_(c, k->path);
    fsb_cached_path_put_(c, k->deep);
    fsb_cached_free_(c, k, sizeof *k);
    pthread_mutex_lock(&c->disk_lock);
    if (!__atomic_sub_fetch(&c->live, 1, __ATOMIC_ACQ_REL)) pthread_cond_broadcast(&c->quiet);
    pthread_mutex_unlock(&c->disk_lock);
}

static void fsb_cached_finish_(fsb_op *op, int64_t result)
{
    op->result = result;
    op->done(op);
}

static int fsb_cached_lost_(int64_t result)
{
    return result == -ENOTCONN || result == -ETIMEDOUT || result == -EHOSTDOWN ||
           result == -EHOSTUNREACH || result == -ENETDOWN || result == -ENETUNREACH ||
           result == -ECONNRESET || result == -ECONNREFUSED || result == -EPIPE;
}

static int64_t fsb_cached_wall_ns_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fsb_cached_go_away_(fsb_cached_ *c, const char *why)
{
    if (__atomic_exchange_n(&c->away, 1, __ATOMIC_ACQ_REL)) return;
    __atomic_store_n(&c->away_since_ns, fsb_cached_wall_ns_(), __ATOMIC_RELEASE);
    __atomic_store_n(&c->probed_ms, fsb_cached_clock_ms_(), __ATOMIC_RELEASE);
    fsb_cached_log_(c, FSB_LOG_WARN, "cache/offline", why);
}

static void fsb_cached_lease_(fsb_cached_ *c);

static void fsb_cached_come_back_(fsb_cached_ *c)
{
    fsb_cached_suspect_(c); /* before anybody asks as if nothing had been */
    if (!__atomic_exchange_n(&c->away, 0, __ATOMIC_ACQ_REL)) return;
    __atomic_store_n(&c->away_since_ns, 0, __ATOMIC_RELEASE);
    fsb_cached_lease_(c);
    fsb_cached_log_(c, FSB_LOG_WARN, "cache/online", "the host answers again");
}

/* What an answer tells of the host itself. */
static void fsb_cached_heard_(fsb_cached_ *c, const fsb_op *op)
{
    const int waits = op->code == FSB_OP_EXEC || op->code == FSB_OP_LOCK;
    const int lost = fsb_cached_lost_(op->result) && !(waits && op->result == -ETIMEDOUT);
    if (lost) fsb_cached_go_away_(c, "the host is away: what is remembered is served as it was");
    else if (__atomic_load_n(&c->away, __ATOMIC_RELAXED) && c->inner) fsb_cached_come_back_(c);
}

static void fsb_cached_then_(fsb_cached_call_ *k)
{
    fsb_cached_heard_(k->c, &k->op);
    k->then(k);
}

/* Who cancels it goes on with it, if he is at it just now. */
static void fsb_cached_done_(fsb_op *op)
{
    fsb_cached_call_ *k = (fsb_cached_call_ *)(void *)op;
    fsb_cached_      *c = k->c;
    int               held = 0;
    if (k->hurried) {
        pthread_mutex_lock(&c->disk_lock);
        k->upper->layer[0] = NULL, k->landed = 1, held = k->holds;
        pthread_mutex_unlock(&c->disk_lock);
    }
    if (!held) fsb_cached_then_(k);
}

static void fsb_cached_send_(fsb_cached_call_ *k)
{
    fsb_cached_ *c = k->c;
    fsb_op      *op = &k->op;
    op->done = fsb_cached_done_;
    FSB_CACHED_COUNT_(c, calls);
    if (!c->inner) op->result = -ENOTCONN;
    else if (!c->inner->call[op->code]) op->result = -ENOSYS;
    else if (c->inner->submit) {
        c->inner->submit(c->inner, &op, 1);
        return;
    } else (void)c->inner->call[op->code](c->inner, op);
    op->done(op);
}

/* Several at once, so that a remote inner gets them in one message; it has submit(). */
static void fsb_cached_send_all_(fsb_cached_ *c, fsb_cached_call_ **calls, uint32_t n)
{
    fsb_op *ops[FSB_CACHED_BATCH_];
    for (uint32_t i = 0; i < n; ++i) {
        ops[i] = &calls[i]->op;
        ops[i]->done = fsb_cached_done_;
        FSB_CACHED_COUNT_(c, calls);
    }
    if (n) c->inner->submit(c->inner, ops, n);
}

static int fsb_cached_can_(const fsb_cached_ *c, uint32_t code)
{
    return !c->inner || c->inner->call[code] != NULL;
}

/* 1 if calls can be sent that nobody waits for. */
static int fsb_cached_ahead_ok_(fsb_cached_ *c)
{
    return c->inner && c->inner->submit && !__atomic_load_n(&c->away, __ATOMIC_RELAXED);
}

/* Starts again what waited for a call. */
static void fsb_cached_again_(fsb_cached_ *c, fsb_cached_call_ *waiters)
{
    while (waiters) {
        fsb_cached_call_ *k = waiters;
        fsb_op           *upper = k->upper;
        const int         tries = k->tries + 1;
        waiters = k->next;
        fsb_cached_call_free_(k);
        fsb_cached_start_(c, upper, tries, 0);
    }
}

/* Hands inner's answer up. */
static void fsb_cached_answer_(fsb_cached_call_ *k)
{
    fsb_op *to = k->upper;
    const fsb_op *from = &k->op;
    const int64_t result = from->result;
    if (result >= 0) {
        to->handle = from->handle, to->out_offset = from->out_offset;
        to->stat = from->stat, to->statfs = from->statfs, to->slice = from->slice;
        if (from->code == FSB_OP_LOCK) {
            to->flags = from->flags, to->offset = from->offset;
            to->size64 = from->size64, to->pid = from->pid;
        }
        if (from->code == FSB_OP_EXEC) {
            fsb_exec *e = to->exec;
            e->exit_code = k->exec.exit_code, e->signal = k->exec.signal;
            e->cut[0] = k->exec.cut[0], e->cut[1] = k->exec.cut[1];
        }
    }
    fsb_cached_call_free_(k);
    fsb_cached_finish_(to, result);
}

/* The other calls' then(): nothing to keep. The handle is ours as before. */
static void fsb_cached_passed_(fsb_cached_call_ *k)
{
    k->op.handle = k->upper->handle;
    fsb_cached_answer_(k);
}

/* Asks every second whether the host is back. */
static void fsb_cached_probed_(fsb_cached_call_ *k)
{
    fsb_cached_call_free_(k);
}

static void fsb_cached_probe_(fsb_cached_ *c)
{
    const int64_t now = fsb_cached_clock_ms_();
    int64_t       last = __atomic_load_n(&c->probed_ms, __ATOMIC_ACQUIRE);
    if (!c->inner || !c->inner->submit || now - last < 1000) return;
    if (!__atomic_compare_exchange_n(&c->probed_ms, &last, now, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE))
        return;
    fsb_cached_call_ *k = fsb_cached_call_new_(c, NULL, FSB_OP_STAT, fsb_cached_probed_);
    if (!k) return;
    k->op.path = "/", k->op.timeout_ms = 1000;
    fsb_cached_send_(k);
}

/* ---- [backend: flights] ----------------------------------------------------------------------

   READs and LISTs on their way, so that who wants the same waits for them. Nobody joins one that
   was sent before the last change: its answer may be older than that. */

static fsb_cached_shard_ *fsb_cached_flight_shard_(fsb_cached_ *c, const fsb_cached_call_ *k)
{
    return fsb_cached_shard_of_(c, k->file_id ? fsb_cached_mix_(k->file_id) : k->hash);
}

static void fsb_cached_fly_(fsb_cached_call_ *k)
{
    fsb_cached_shard_ *s = fsb_cached_flight_shard_(k->c, k);
    pthread_mutex_lock(&s->lock);
    k->flying = 1, k->next = s->flights, s->flights = k;
    pthread_mutex_unlock(&s->lock);
}

/* Returns who waited for it. */
static fsb_cached_call_ *fsb_cached_land_(fsb_cached_call_ *k)
{
    if (!k->flying) return NULL;
    fsb_cached_shard_ *s = fsb_cached_flight_shard_(k->c, k);
    pthread_mutex_lock(&s->lock);
    fsb_cached_call_ **at = &s->flights;
    while (*at != k) at = &(*at)->next;
    *at = k->next, k->flying = 0;
    fsb_cached_call_ *waiters = k->waiters;
    k->waiters = NULL;
    pthread_mutex_unlock(&s->lock);
    return waiters;
}

static int fsb_cached_wait_for_(fsb_cached_call_ *k, fsb_op *upper, int tries) /* shard locked */
{
    fsb_cached_call_ *w = fsb_cached_call_new_(k->c, upper, upper->code, NULL);
    if (!w) return 0;
    w->tries = tries, w->next = k->waiters, k->waiters = w;
    return 1;
}

/* 1 if a READ on its way brings the byte at `offset`; with upper != NULL it waits for that. */
static int fsb_cached_join_read_(fsb_cached_ *c, const fsb_stat *st, uint64_t offset,
                                 fsb_op *upper, int tries)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, fsb_cached_mix_(st->file_id));
    int                found = 0;
    pthread_mutex_lock(&s->lock);
    for (fsb_cached_call_ *k = s->flights; k && !found; k = k->next)
        if (k->op.code != FSB_OP_LIST && k->file_id == st->file_id && k->version == st->version &&
            offset >= k->offset && offset - k->offset < k->size &&
            fsb_cached_holds_(c, k->hash, k->seq))
            found = upper ? fsb_cached_wait_for_(k, upper, tries) : 1;
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* 1 if a call of that kind about n is on its way: a STAT, or a GET of a file of unknown size. */
static int fsb_cached_join_name_(fsb_cached_ *c, const fsb_cached_name_ *n, uint32_t code,
                                 fsb_op *upper, int tries)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->hash);
    int                found = 0;
    pthread_mutex_lock(&s->lock);
    for (fsb_cached_call_ *k = s->flights; k && !found; k = k->next)
        if (k->op.code == code && !k->file_id && k->hash == n->hash &&
            fsb_cached_holds_(c, k->hash, k->seq))
            found = upper ? fsb_cached_wait_for_(k, upper, tries) : 1;
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* 1 if the first bytes of n are on their way, `least` of them if it is larger than that. */
static int fsb_cached_join_first_(fsb_cached_ *c, const fsb_cached_name_ *n, uint64_t least,
                                  fsb_op *upper, int tries)
{
    return c->distant && least <= FSB_CACHED_FIRST_ &&
           fsb_cached_join_name_(c, n, FSB_OP_GET, upper, tries);
}

/* Do the bytes of this LIST stay here? Who asked a near host for them has them, as with those of a
   large file: in a mount, the kernel. */
static int fsb_cached_keeps_data_(const fsb_cached_call_ *k)
{
    return !(k->c->streams && k->upper && k->upper->flags & FSB_LIST_DATA);
}

/* 1 if a LIST of n's folder on its way brings n's attributes, with FSB_LIST_DATA in flags its bytes
   too, with FSB_LIST_DEEP perhaps its names. */
static int fsb_cached_join_list_(fsb_cached_ *c, const fsb_cached_name_ *n, uint32_t flags,
                                 fsb_op *upper, int tries)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    int                found = 0;
    pthread_mutex_lock(&s->lock);
    const fsb_cached_entry_ *e = fsb_cached_entry_of_(fsb_cached_folder_of_(s, n), n);
    const uint64_t           place = e && e->place ? e->place - 1 : 0;
    for (fsb_cached_call_ *k = s->flights; k && !found; k = k->next)
        if (k->op.code == FSB_OP_LIST && k->hash == n->folder_hash &&
            fsb_cached_holds_(c, n->hash, k->seq) && place >= k->offset &&
            place - k->offset < k->size && (k->op.flags & flags) == flags &&
            (!(flags & FSB_LIST_DATA) || fsb_cached_keeps_data_(k)))
            found = upper ? fsb_cached_wait_for_(k, upper, tries) : 1;
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void fsb_cached_record_folder_(fsb_cached_ *c, const fsb_cached_path_ *path);

/* ---- [backend: listing] ---------------------------------------------------------------------- */

/* Entries come from `folder` now: from the first name, or where the list so far ends. */
static void fsb_cached_list_begin_(fsb_cached_call_ *k, const char *folder, uint64_t offset)
{
    fsb_cached_           *c = k->c;
    const fsb_cached_name_ n = fsb_cached_join_(c, folder, strlen(folder), "", 0);
    fsb_cached_shard_     *s = fsb_cached_shard_of_(c, n.folder_hash);
    const uint64_t epoch = fsb_cached_epoch_(c);
    const int      may = fsb_cached_holdable_(c, &n, epoch);
    if (k->begun < 0) return; /* what began in the middle would lack names */
    fsb_cached_path_put_(c, k->deep);
    k->deep = fsb_cached_path_copy_(c, folder), k->begun = k->deep ? 1 : -1;
    if (!k->deep) return;
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = may && fsb_cached_holds_(c, n.folder_hash, k->seq)
                                ? fsb_cached_folder_make_(c, s, &n, epoch)
                                : NULL;
    if (f && !offset && !f->lister) {
        fsb_cached_unlist_(f);
        f->lister = k, f->list_seq = k->seq, f->last_cookie = 0;
    } else if (f && offset && !f->lister && f->listed == FSB_CACHED_NAMED_ &&
               f->last_cookie == offset) {
        f->lister = k;
    }
    pthread_mutex_unlock(&s->lock);
}

/* No more entries of that folder in this answer; all: there are none behind either. */
static void fsb_cached_list_end_(fsb_cached_call_ *k, int all)
{
    fsb_cached_ *c = k->c;
    if (!k->deep) return;
    const fsb_cached_name_ n = fsb_cached_join_(c, k->deep->text, k->deep->size, "", 0);
    fsb_cached_shard_     *s = fsb_cached_shard_of_(c, n.folder_hash);
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, &n);
    if (f && f->lister == k) {
        f->lister = NULL;
        f->list_epoch = __atomic_load_n(&c->epoch, __ATOMIC_SEQ_CST);
        f->list_until = fsb_cached_until_(c);
        if (!fsb_cached_holds_(c, n.folder_hash, f->list_seq)) fsb_cached_unlist_(f);
        else if (all) f->listed = FSB_CACHED_STAT_, f->complete = 1;
        else f->listed = FSB_CACHED_NAMED_;
    }
    const int record = f && all && f->listed == FSB_CACHED_STAT_;
    pthread_mutex_unlock(&s->lock);
    if (record) fsb_cached_record_folder_(c, k->deep);
    fsb_cached_path_put_(c, k->deep);
    k->deep = NULL;
}

/* The next place in the order is e's. Shard locked. */
static void fsb_cached_place_(fsb_cached_ *c, fsb_cached_folder_ *f, fsb_cached_entry_ *e)
{
    if (e->place) return;
    if (f->order_count == f->order_room) {
        const uint32_t      room = f->order_room ? f->order_room * 2 : 16;
        fsb_cached_entry_ **order = (fsb_cached_entry_ **)fsb_cached_counted_(
            c, f->order, f->order_room * sizeof *order, room * sizeof *order);
        if (!order) {
            fsb_cached_unlist_(f);
            return;
        }
        f->order = order, f->order_room = room;
    }
    f->order[f->order_count++] = e;
    e->place = f->order_count;
}

static void fsb_cached_list_entry_(fsb_cached_call_ *k, const fsb_dirent *entry)
{
    fsb_cached_ *c = k->c;
    if (!k->deep || entry->name_size > FSB_NAME_MAX) return;
    const fsb_cached_name_ n =
        fsb_cached_join_(c, k->deep->text, k->deep->size, entry->name, entry->name_size);
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n.folder_hash);
    const uint64_t     epoch = fsb_cached_epoch_(c);
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, &n);
    fsb_cached_entry_  *e = f ? fsb_cached_entry_make_(c, f, &n) : NULL;
    const int           holds = fsb_cached_holds_(c, n.hash, k->seq);
    if (e && holds && f->verified == epoch)
        fsb_cached_entry_set_(c, e, epoch, k->seq, &entry->stat);
    if (f && f->lister == k) {
        if (!e) fsb_cached_unlist_(f);
        else {
            e->cookie = entry->cookie;
            if (e->state == FSB_CACHED_UNKNOWN_) e->state = FSB_CACHED_NAMED_;
            fsb_cached_place_(c, f, e);
            f->last_cookie = entry->cookie;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (holds && fsb_cached_keeps_data_(k) && entry->data && S_ISREG(entry->stat.mode) &&
        entry->stat.size <= (uint64_t)FSB_IO_MAX)
        fsb_cached_put_(c, entry->stat.file_id, entry->stat.version, entry->stat.size, 0,
                        entry->data, (size_t)entry->stat.size);
    fsb_cached_trim_(c);
}

/* An entry of ours on to who asked, as far as it was asked for. */
static void fsb_cached_show_(fsb_cached_call_ *k, const fsb_dirent *entry, int top)
{
    fsb_op    *up = k->upper;
    fsb_dirent mine = *entry;
    if (!up || k->cut || (!(up->flags & FSB_LIST_DEEP) && (!top || !entry->name_size))) return;
    int stop = up->size64 && k->shown_bytes >= up->size64;
    if (!stop) {
        if (!(up->flags & FSB_LIST_DATA)) mine.data = NULL;
        if (top) mine.folder = NULL;
        stop = up->emit(up, &mine) != 0;
    }
    if (stop) {
        k->cut = top ? 2 : 1; /* 1: all of the folder itself was shown */
        return;
    }
    ++k->shown, k->shown_bytes += sizeof mine.stat + mine.name_size;
    if (mine.data) k->shown_bytes += mine.stat.size;
}

static int fsb_cached_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_cached_call_ *k = (fsb_cached_call_ *)(void *)op;
    const char       *folder = entry->folder ? entry->folder : k->path->text;
    const int         top = strcmp(folder, k->path->text) == 0;
    if (!top && (strlen(folder) > FSB_PATH_MAX ||
                 !fsb_cached_below_(k->path->text, k->path->size, folder, strlen(folder))))
        return 0; /* not what was asked for */
    if (op->flags & FSB_LIST_STAT && (!k->deep || strcmp(k->deep->text, folder) != 0)) {
        if (!top && !k->top_done) { /* folders below come behind the last name */
            k->top_done = 1;
            fsb_cached_list_end_(k, 1);
        } else fsb_cached_list_end_(k, 0);
        if (!top || !k->top_done) fsb_cached_list_begin_(k, folder, top ? op->offset : 0);
    }
    if (entry->name_size && op->flags & FSB_LIST_STAT) fsb_cached_list_entry_(k, entry);
    if (!entry->name_size) {
        if (top) k->top_done = 1;
        fsb_cached_list_end_(k, 1);
    }
    fsb_cached_show_(k, entry, top);
    return 0;
}

static void fsb_cached_list_send_(fsb_cached_call_ *k);
static void fsb_cached_names_ahead_(fsb_cached_ *c, const fsb_cached_name_ *n, int listed);
static void fsb_cached_resume_(fsb_cached_ *c, const fsb_cached_name_ *folder);

static void fsb_cached_listed_(fsb_cached_call_ *k)
{
    fsb_cached_ *c = k->c;
    fsb_op      *up = k->upper;
    int64_t      result = k->op.result;
    if (result == -EINVAL && k->op.flags & ~(uint32_t)FSB_LIST_STAT && !k->shown) {
        __atomic_store_n(&c->plain, 1, __ATOMIC_RELAXED); /* inner knows no DATA and DEEP */
        k->op.flags = FSB_LIST_STAT;
        fsb_cached_send_(k);
        return;
    }
    if (result >= 0 && k->op.flags & FSB_LIST_STAT) {
        if (!k->begun && !k->op.offset)
            fsb_cached_list_begin_(k, k->path->text, 0); /* an empty folder */
        fsb_cached_list_end_(k, result == 1 && !k->top_done); /* below, only a mark says so */
        if (k->op.stat.file_id && !k->op.offset) {
            const fsb_cached_name_ n = fsb_cached_split_(c, k->path->text);
            fsb_cached_keep_(c, &n, k->seq, &k->op.stat);
        }
    }
    fsb_cached_list_end_(k, 0);
    fsb_cached_call_ *waiters = fsb_cached_land_(k);
    if (!up && result >= 0 && c->distant) {
        const fsb_cached_name_ n = fsb_cached_join_(c, k->path->text, k->path->size, "", 0);
        if (result) fsb_cached_resume_(c, &n);
        else fsb_cached_names_ahead_(c, &n, 1);
    }
    if (result >= 0) result = k->cut == 2 ? 0 : result == 1 || k->top_done;
    const int again = up && !k->shown && !k->cut && fsb_cached_lost_(result) && !k->tries;
    if (up && result >= 0) up->stat = k->op.stat;
    if (!up) (void)__atomic_sub_fetch(&c->lists_ahead, 1, __ATOMIC_RELAXED);
    fsb_cached_call_free_(k);
    fsb_cached_again_(c, waiters);
    if (again) fsb_cached_start_(c, up, 1, result);
    else if (up) fsb_cached_finish_(up, result);
}

/* Sends a LIST of k->path from k->op.offset on. */
static void fsb_cached_list_send_(fsb_cached_call_ *k)
{
    fsb_cached_ *c = k->c;
    k->op.path = k->path->text, k->op.handle = 0, k->op.emit = fsb_cached_emit_;
    if (__atomic_load_n(&c->plain, __ATOMIC_RELAXED)) k->op.flags &= FSB_LIST_STAT;
    k->hash = fsb_cached_hash_(c->seed, k->path->text, k->path->size);
    k->seq = fsb_cached_seq_(c);
    memset(&k->op.stat, 0, sizeof k->op.stat);
    fsb_cached_fly_(k);
    fsb_cached_send_(k);
}

/* Lists n's folder, which nobody asked for yet: about `size` bytes. */
static void fsb_cached_list_ahead_(fsb_cached_ *c, const fsb_cached_name_ *n, uint32_t flags,
                                   uint64_t cookie, uint64_t size)
{
    fsb_cached_name_ all = *n;
    all.name = "", all.name_size = 0, all.hash = all.folder_hash;
    if (!fsb_cached_ahead_ok_(c)) return;
    if (fsb_cached_join_list_(c, &all, flags & FSB_LIST_DATA, NULL, 0))
        return; /* somebody does already */
    if (__atomic_add_fetch(&c->lists_ahead, 1, __ATOMIC_RELAXED) > FSB_CACHED_AHEAD_) {
        (void)__atomic_sub_fetch(&c->lists_ahead, 1, __ATOMIC_RELAXED);
        return;
    }
    fsb_cached_call_ *k = fsb_cached_call_new_(c, NULL, FSB_OP_LIST, fsb_cached_listed_);
    if (k) k->path = fsb_cached_path_new_(c, n->folder, n->folder_size, "", 0);
    if (!k || !k->path) {
        if (k) fsb_cached_call_free_(k);
        (void)__atomic_sub_fetch(&c->lists_ahead, 1, __ATOMIC_RELAXED);
        return;
    }
    k->op.flags = flags, k->op.offset = cookie;
    k->op.size64 = size, k->size = UINT64_MAX;
    fsb_cached_list_send_(k);
}

/* Lists what is below n's folder, about `size` bytes, unless its names are not known, or those of
   its first folder are. */
static void fsb_cached_list_below_(fsb_cached_ *c, const fsb_cached_name_ *n, uint64_t size)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    fsb_cached_path_  *first = NULL;
    pthread_mutex_lock(&s->lock);
    const fsb_cached_folder_ *f = fsb_cached_folder_of_(s, n);
    for (uint32_t i = 0; f && i < f->order_count && !first; ++i)
        if (S_ISDIR(f->order[i]->stat.mode))
            first = fsb_cached_path_new_(c, n->folder, n->folder_size,
                                         fsb_cached_entry_name_(f->order[i]),
                                         f->order[i]->name_size);
    pthread_mutex_unlock(&s->lock);
    if (!first) return;
    const fsb_cached_name_ m = fsb_cached_join_(c, first->text, first->size, "", 0);
    fsb_cached_shard_     *t = fsb_cached_shard_of_(c, m.folder_hash);
    pthread_mutex_lock(&t->lock);
    f = fsb_cached_folder_of_(t, &m);
    const int known = f && f->listed == FSB_CACHED_STAT_ &&
                      fsb_cached_fresh_(c, f->list_epoch, f->list_until);
    pthread_mutex_unlock(&t->lock);
    if (!known)
        fsb_cached_list_ahead_(c, n, FSB_LIST_STAT | FSB_LIST_DEEP, 0, size);
    fsb_cached_path_put_(c, first);
}

/* The folders behind this one in its parent, which are likely to be walked next. */
static void fsb_cached_walk_(fsb_cached_ *c, const char *path, uint32_t flags)
{
    fsb_cached_path_      *next[FSB_CACHED_AHEAD_];
    uint32_t               count = 0;
    const fsb_cached_name_ n = fsb_cached_split_(c, path);
    if (!n.folder_size || !fsb_cached_ahead_ok_(c)) return;
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n.folder_hash);
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, &n);
    if (f && f->order_count) {
        const fsb_cached_entry_ *e = fsb_cached_entry_of_(f, &n);
        const uint32_t here = e ? e->place : 0, steps = f->walk < 5 ? f->walk++ : 5;
        uint32_t most = flags & FSB_LIST_DATA ? 2 : (uint32_t)FSB_CACHED_AHEAD_ >> (5 - steps);
        uint32_t ahead = here;
        if (f->walk_next < here) f->walk_next = here;
        for (; ahead < f->walk_next; ++ahead) /* those that were asked for count */
            if (S_ISDIR(f->order[ahead]->stat.mode) && most) --most;
        while (most && steps && f->walk_next < f->order_count) {
            fsb_cached_entry_ *o = f->order[f->walk_next++];
            if (o->state != FSB_CACHED_STAT_ || !S_ISDIR(o->stat.mode)) continue;
            next[count] = fsb_cached_path_new_(c, n.folder, n.folder_size,
                                               fsb_cached_entry_name_(o), o->name_size);
            if (next[count]) ++count;
            --most;
        }
    }
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < count; ++i) {
        const fsb_cached_name_ m =
            fsb_cached_join_(c, next[i]->text, next[i]->size, "", 0);
        fsb_cached_shard_ *t = fsb_cached_shard_of_(c, m.folder_hash);
        pthread_mutex_lock(&t->lock);
        const fsb_cached_folder_ *o = fsb_cached_folder_of_(t, &m);
        const int known = o && o->listed == FSB_CACHED_STAT_ && !(flags & FSB_LIST_DATA) &&
                          fsb_cached_fresh_(c, o->list_epoch, o->list_until);
        pthread_mutex_unlock(&t->lock);
        if (!known) fsb_cached_list_ahead_(c, &m, flags, 0,
                                           flags & FSB_LIST_DATA ? FSB_IO_MAX : FSB_IO_MAX / 4);
        fsb_cached_path_put_(c, next[i]);
    }
}

/* Names copied out of a folder, to be shown without its lock. */
typedef struct fsb_cached_piece_ {
    uint32_t   count, end; /* end: nothing is behind them */
    fsb_dirent entries[FSB_CACHED_PIECE_];
    fsb_slice  data[FSB_CACHED_PIECE_]; /* pinned */
    char       names[FSB_CACHED_PIECE_][FSB_NAME_MAX + 1];
    char       bytes[FSB_CACHED_SMALL_]; /* data of these, from L2 */
} fsb_cached_piece_;

/* Does a LIST bring the bytes of a file? */
static int fsb_cached_lists_data_(const fsb_op *op, const fsb_stat *st)
{
    return op->flags & FSB_LIST_DATA && S_ISREG(st->mode) && st->size <= FSB_CACHED_SMALL_;
}

/* Are bytes that a LIST is to bring, and that are not here, inner's to bring? */
static int fsb_cached_inner_lists_(const fsb_cached_ *c)
{
    return !c->distant && !__atomic_load_n(&c->away, __ATOMIC_RELAXED);
}

/* The names behind *place (UINT32_MAX: look for the cookie). 0: not known here. Shard locked. */
static int fsb_cached_copy_names_(fsb_cached_ *c, fsb_cached_folder_ *f, const fsb_op *op,
                                  uint64_t cookie, uint32_t *place, fsb_cached_piece_ *p)
{
    p->count = p->end = 0;
    if (!f || f->lister || f->listed == FSB_CACHED_UNKNOWN_ ||
        !fsb_cached_fresh_(c, f->list_epoch, f->list_until))
        return 0;
    if (!cookie) *place = 0;
    else if (*place > f->order_count || !*place || f->order[*place - 1]->cookie != cookie) {
        for (*place = 0; *place < f->order_count; ++*place)
            if (f->order[*place]->cookie == cookie) break;
        if ((*place)++ == f->order_count) return 0;
    }
    while (p->count < FSB_CACHED_PIECE_ && *place < f->order_count) {
        fsb_cached_entry_ *e = f->order[*place];
        const int whole = e->state == FSB_CACHED_STAT_ && fsb_cached_entry_fresh_(c, e);
        if (!whole && (op->flags & FSB_LIST_STAT || !e->stat.ino)) break;
        fsb_dirent *to = &p->entries[p->count];
        fsb_slice  *data = &p->data[p->count];
        memset(to, 0, sizeof *to), memset(data, 0, sizeof *data);
        const int wants = fsb_cached_lists_data_(op, &e->stat);
        if (wants && e->stat.size && !fsb_cached_chunk_(c, &e->stat, 0, 0, data) && !c->disk &&
            fsb_cached_inner_lists_(c))
            break;
        to->data = wants && !e->stat.size ? "" : data->data;
        memcpy(p->names[p->count], fsb_cached_entry_name_(e), e->name_size + 1u);
        to->name = p->names[p->count++], to->name_size = e->name_size;
        to->cookie = e->cookie, to->stat = e->stat;
        ++*place;
    }
    p->end = f->listed == FSB_CACHED_STAT_ && *place == f->order_count;
    return p->count || p->end;
}

/* The bytes that are in L2 and not in memory. Where they are in neither, and inner is to be asked,
   or there is no more room, the piece ends. Returns the number of names left out. */
static uint32_t fsb_cached_fill_piece_(fsb_cached_ *c, const fsb_op *op, fsb_cached_piece_ *p)
{
    size_t used = 0;
    for (uint32_t i = 0; i < p->count; ++i) {
        fsb_dirent         *e = &p->entries[i];
        const fsb_cache_key key = fsb_cached_key_(c, e->stat.file_id, e->stat.version, 0);
        const size_t        size = (size_t)e->stat.size;
        if (!fsb_cached_lists_data_(op, &e->stat) || e->data) continue;
        if (size <= sizeof p->bytes - used &&
            fsb_cache_disk_get(c->disk, &key, p->bytes + used, size) == (int64_t)size) {
            FSB_CACHED_COUNT_(c, disk_hits);
            e->data = p->bytes + used, used += size;
        } else if (fsb_cached_inner_lists_(c) || size > sizeof p->bytes - used) {
            const uint32_t left_out = p->count - i;
            for (uint32_t k = i; k < p->count; ++k) fsb_slice_release(&p->data[k]);
            p->count = i, p->end = 0;
            return left_out;
        }
    }
    return 0;
}

/* Shows a piece. 1: it was enough. */
static int fsb_cached_show_piece_(fsb_op *op, fsb_cached_piece_ *p, uint64_t *bytes,
                                  uint64_t *cookie)
{
    int stop = 0;
    for (uint32_t i = 0; i < p->count; ++i) {
        const fsb_dirent *e = &p->entries[i];
        if (!stop) stop = (op->size64 && *bytes >= op->size64) || op->emit(op, e) != 0;
        if (!stop) {
            *cookie = e->cookie, *bytes += sizeof e->stat + e->name_size;
            if (e->data) *bytes += e->stat.size;
        }
        fsb_slice_release(&p->data[i]);
    }
    return stop;
}

static void fsb_cached_load_folder_(fsb_cached_ *c, const fsb_cached_name_ *n);
static fsb_cached_state_ fsb_cached_find_(fsb_cached_ *c, const fsb_cached_name_ *n, fsb_stat *st);

/* Answers a LIST from memory: 1, or 0 if only names up to *cookie were shown, or none. */
static int fsb_cached_list_known_(fsb_cached_ *c, fsb_op *op, uint64_t *cookie, uint64_t *bytes)
{
    const fsb_cached_name_ n = fsb_cached_join_(c, op->path, strlen(op->path), "", 0);
    const fsb_cached_name_ own = fsb_cached_split_(c, op->path);
    fsb_cached_shard_     *s = fsb_cached_shard_of_(c, n.folder_hash);
    uint32_t               place = UINT32_MAX;
    fsb_stat               st;
    if (fsb_cached_find_(c, &own, &st) != FSB_CACHED_STAT_ || !S_ISDIR(st.mode)) return 0;
    if (op->file_id && op->file_id != st.file_id) return 0;
    if (c->disk && __atomic_load_n(&c->away, __ATOMIC_RELAXED)) fsb_cached_load_folder_(c, &n);
    fsb_cached_piece_ *p = (fsb_cached_piece_ *)fsb_cached_resize_(c, NULL, 0, sizeof *p);
    if (!p) return 0;
    int stop = 0, ok = 1;
    do {
        pthread_mutex_lock(&s->lock);
        ok = fsb_cached_copy_names_(c, fsb_cached_folder_of_(s, &n), op, *cookie, &place, p);
        pthread_mutex_unlock(&s->lock);
        if (ok && c->disk && op->flags & FSB_LIST_DATA) {
            place -= fsb_cached_fill_piece_(c, op, p);
            ok = p->count || p->end;
        }
        if (ok) stop = fsb_cached_show_piece_(op, p, bytes, cookie);
        if (!ok) break;
    } while (!stop && !p->end);
    fsb_cached_free_(c, p, sizeof *p);
    op->stat = st, op->result = ok && !stop;
    return ok;
}

static void fsb_cached_list_(fsb_cached_ *c, fsb_op *op, int tries, int64_t error)
{
    const int deep = op->flags & FSB_LIST_DEEP && !__atomic_load_n(&c->away, __ATOMIC_RELAXED);
    const fsb_cached_name_ n = fsb_cached_join_(c, op->path, strlen(op->path), "", 0);
    uint64_t               cookie = op->offset, bytes = 0;
    /* what lies below is inner's to tell */
    if (!deep && fsb_cached_list_known_(c, op, &cookie, &bytes)) {
        if (!tries) FSB_CACHED_COUNT_(c, listing_hits);
        if (!op->offset && c->distant) fsb_cached_list_below_(c, &n, FSB_IO_MAX / 4);
        if (!op->offset) fsb_cached_walk_(c, op->path, FSB_LIST_STAT);
        op->done(op);
        return;
    }
    const fsb_cached_name_ own = fsb_cached_split_(c, op->path);
    if (!error && !deep && !cookie && tries < FSB_CACHED_TRIES_ &&
        (fsb_cached_join_list_(c, &n, c->distant ? 0 : op->flags & FSB_LIST_DATA, op, tries) ||
         (c->distant && fsb_cached_join_list_(c, &own, FSB_LIST_DEEP, op, tries))))
        return;
    fsb_cached_call_ *k =
        error ? NULL : fsb_cached_call_new_(c, op, FSB_OP_LIST, fsb_cached_listed_);
    if (k) k->path = fsb_cached_path_copy_(c, op->path);
    if (!k || !k->path) {
        if (k) fsb_cached_call_free_(k);
        fsb_cached_finish_(op, error ? error : -ENOMEM);
        return;
    }
    if (!tries) FSB_CACHED_COUNT_(c, listing_misses);
    k->op.flags |= FSB_LIST_STAT, k->op.offset = cookie;
    k->shown = cookie != op->offset, k->shown_bytes = bytes; /* it goes on behind those */
    if (c->distant) k->op.flags &= ~(uint32_t)FSB_LIST_DATA; /* [backend: ahead] asks for bytes */
    if (!cookie && fsb_cached_ahead_ok_(c)) k->op.flags |= FSB_LIST_DEEP;
    if (k->op.size64 < FSB_IO_MAX / 4) k->op.size64 = FSB_IO_MAX / 4;
    k->tries = tries, k->size = cookie ? 0 : UINT64_MAX;
    const int first = !op->offset;
    fsb_cached_path_ *path = first ? fsb_cached_path_copy_(c, op->path) : NULL;
    fsb_cached_list_send_(k);
    if (path) fsb_cached_walk_(c, path->text, FSB_LIST_STAT);
    fsb_cached_path_put_(c, path);
}

/* ---- [backend: ahead] ------------------------------------------------------------------------ */

static void fsb_cached_read_done_(fsb_cached_call_ *k);

/* Sends a READ of whole chunks that nobody asked for yet. File unlocked, pinned. */
static void fsb_cached_read_ahead_(fsb_cached_ *c, fsb_cached_file_ *f, fsb_handle inner,
                                   const fsb_stat *st, uint64_t hash, uint64_t from, uint64_t to)
{
    if (to > st->size) to = st->size;
    while (from < to) {
        const fsb_cache_key key =
            fsb_cached_key_(c, st->file_id, st->version, from / FSB_CACHED_CHUNK_);
        fsb_slice part;
        uint64_t  size = FSB_IO_MAX - from % FSB_IO_MAX; /* as large READs are cut by the kernel */
        if (size > to - from) size = to - from;
        if (fsb_cache_get(c->core, &key, &part) == 1) {
            fsb_slice_release(&part);
            from += FSB_CACHED_CHUNK_;
            continue;
        }
        if (fsb_cached_join_read_(c, st, from, NULL, 0)) {
            from += FSB_CACHED_CHUNK_;
            continue;
        }
        fsb_cached_call_ *k = fsb_cached_call_new_(c, NULL, FSB_OP_READ, fsb_cached_read_done_);
        if (!k) return;
        k->op.handle = inner, k->op.offset = from, k->op.size = (size_t)size;
        k->file_id = st->file_id, k->version = st->version, k->offset = from, k->size = size;
        k->hash = hash, k->seq = fsb_cached_seq_(c);
        k->op.stat = *st;
        k->path = fsb_cached_path_of_(f);
        (void)__atomic_add_fetch(&c->stats.ahead_bytes, size, __ATOMIC_RELAXED);
        fsb_cached_fly_(k);
        fsb_cached_send_(k);
        from += size;
    }
}

/* What a READ says about the next ones: the range to fetch ahead of it, as chunks from..to.
   File locked. */
static void fsb_cached_pattern_(const fsb_cached_ *c, fsb_cached_file_ *f, uint64_t offset,
                                uint64_t size, uint64_t file_size, uint64_t *from, uint64_t *to)
{
    const uint64_t end = offset + size, chunk = FSB_CACHED_CHUNK_;
    const int64_t  stride = (int64_t)(offset - f->last);
    const uint64_t apart = FSB_IO_MAX; /* the kernel's threads do not keep to the order */
    const int forward = f->next && offset + apart >= f->next && offset <= f->next + apart &&
                        end > f->last;
    const int backward = f->next && !forward && end <= f->last + chunk && f->last <= end + apart;
    const int strided = f->next && !forward && !backward && stride && stride == f->stride;
    *from = *to = 0;
    if (forward || backward || strided || (!f->next && !offset)) ++f->run;
    else f->run = 0, f->window = 0, f->ahead = 0;
    if ((f->stride < 0) != (stride < 0)) f->ahead = 0;
    f->stride = stride, f->last = offset;
    f->next = !forward || end > f->next ? end : f->next;
    if (f->run < 2 || !c->read_ahead) return;
    f->window = f->window ? f->window * 2 : 2 * size;
    if (f->window < 2 * chunk) f->window = 2 * chunk;
    if (f->window > c->read_ahead) f->window = c->read_ahead;
    if (strided) { /* one step at a time: what lies between is not wanted */
        *from = (offset + (uint64_t)stride) / chunk * chunk;
        if (stride < 0 && offset < 0 - (uint64_t)stride) *from = file_size;
        *to = *from + (size + chunk - 1) / chunk * chunk;
    } else if (backward) {
        const uint64_t low = offset > f->window ? offset - f->window : 0;
        *from = low / chunk * chunk, *to = (offset + chunk - 1) / chunk * chunk;
        if (f->ahead && *from + f->window / 2 > f->ahead) *from = *to;
        else if (f->ahead && f->ahead < *to) *to = f->ahead;
        if (*from < *to) f->ahead = *from;
    } else {
        *from = (end + chunk - 1) / chunk * chunk;
        if (f->ahead > *from + f->window / 2) *from = *to = 0; /* enough is on its way */
        else {
            *to = (end + f->window + chunk - 1) / chunk * chunk;
            if (f->ahead > *from) *from = f->ahead;
            f->ahead = *to;
        }
    }
}

static void fsb_cached_read_more_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_stat *st,
                                  uint64_t hash, uint64_t offset, uint64_t size)
{
    uint64_t from, to;
    if (!fsb_cached_ahead_ok_(c)) return;
    pthread_mutex_lock(&f->lock);
    const fsb_handle inner = f->inner;
    fsb_cached_pattern_(c, f, offset, size, st->size, &from, &to);
    pthread_mutex_unlock(&f->lock);
    if (inner && from < to) fsb_cached_read_ahead_(c, f, inner, st, hash, from, to);
}

/* Names in the order of their text, where digits count as numbers. */
static int fsb_cached_counts_before_(const char *a, const char *b)
{
    for (;; ++a, ++b) {
        const char *x = a + strspn(a, "0"), *y = b + strspn(b, "0");
        const size_t n = strspn(x, "0123456789"), m = strspn(y, "0123456789");
        if ((n || x > a) && (m || y > b)) {
            const int order = n == m ? memcmp(x, y, n) : n < m ? -1 : 1;
            if (order) return order < 0;
            a = x + n, b = y + m;
        }
        if (*a != *b || !*a) return (unsigned char)*a < (unsigned char)*b;
    }
}

enum { FSB_CACHED_BY_LIST_, FSB_CACHED_BY_COUNT_, FSB_CACHED_BY_NAME_, FSB_CACHED_ORDERS_ };

static int fsb_cached_before_(fsb_cached_entry_ *a, fsb_cached_entry_ *b, int by)
{
    const char *x = fsb_cached_entry_name_(a), *y = fsb_cached_entry_name_(b);
    if (by == FSB_CACHED_BY_LIST_) return a->place < b->place;
    return by == FSB_CACHED_BY_NAME_ ? strcmp(x, y) < 0 : fsb_cached_counts_before_(x, y);
}

/* Heap sort: no memory, no recursion. */
static void fsb_cached_sort_(fsb_cached_entry_ **v, uint32_t n, int by)
{
    for (uint32_t end = n, top = n / 2; end > 1;) {
        fsb_cached_entry_ *e;
        if (top) e = v[--top];
        else e = v[--end], v[end] = v[0];
        uint32_t at = top, child;
        for (; end && (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && fsb_cached_before_(v[child], v[child + 1], by)) ++child;
            if (!fsb_cached_before_(e, v[child], by)) break;
            v[at] = v[child];
        }
        v[at] = e;
    }
}

/* The order in which `last` and then e would be read: that with the fewest names between, if they
   are few; -1: none. Without `last`, that in which e is the first of all. Shard locked. */
static int fsb_cached_order_(const fsb_cached_folder_ *f, fsb_cached_entry_ *last,
                             fsb_cached_entry_ *e)
{
    int best = -1, least = last ? 4 : 1;
    for (int by = 0; by < FSB_CACHED_ORDERS_ && least; ++by) {
        int between = 0;
        if (last && !fsb_cached_before_(last, e, by)) continue;
        for (uint32_t i = 0; i < f->order_count && between < least; ++i)
            between += (!last || fsb_cached_before_(last, f->order[i], by)) &&
                       fsb_cached_before_(f->order[i], e, by);
        if (between < least) best = by, least = between;
    }
    return best;
}

/* Files of the folder are read one after another, e behind `last` (NULL: it is the first): guesses
   how that goes on.
   Shard locked. */
static void fsb_cached_guess_(fsb_cached_ *c, fsb_cached_folder_ *f, fsb_cached_entry_ *last,
                              fsb_cached_entry_ *e)
{
    const int by = ++f->wrong > FSB_CACHED_WRONG_ ? -1 : fsb_cached_order_(f, last, e);
    f->guess_count = 0;
    if (by < 0) return;
    if (f->guess_room < f->order_count) {
        fsb_cached_entry_ **room = (fsb_cached_entry_ **)fsb_cached_counted_(
            c, f->guess, f->guess_room * sizeof *room, f->order_count * sizeof *room);
        if (!room) return;
        f->guess = room, f->guess_room = f->order_count;
    }
    memcpy(f->guess, f->order, f->order_count * sizeof *f->guess);
    if (by != FSB_CACHED_BY_LIST_) fsb_cached_sort_(f->guess, f->order_count, by);
    f->guess_count = f->order_count;
    for (uint32_t i = 0; i < f->guess_count; ++i) f->guess[i]->rank = i + 1;
    f->guess_next = f->guess_wake = e->rank, f->window = 0;
}

/* How many bytes of small files to have on their way to a distant reader: three times what the way
   carries. More is asked for when a quarter of it was read, so that the rest keeps the way busy.
   Where what is lost on it holds up what follows, bytes come in bursts, which count as more than it
   carries: so there is more then, too. */
static uint64_t fsb_cached_window_(fsb_cached_ *c)
{
    const uint64_t most = 3 * __atomic_load_n(&c->carried, __ATOMIC_RELAXED);
    return most > FSB_CACHED_WINDOW_ ? most : (uint64_t)FSB_CACHED_WINDOW_;
}

/* A small file is read: does the guess about its folder hold, and is it time to ask for more?
   Shard locked. */
static int fsb_cached_follow_(fsb_cached_ *c, fsb_cached_folder_ *f, fsb_cached_entry_ *e,
                              int missed)
{
    fsb_cached_entry_ *last = f->last_read;
    if (e == last) return 0;
    f->last_read = e;
    if (!e->place) return 0;
    if (f->guess_count && e->rank > f->guess_next) f->guess_count = 0; /* nobody asked for that */
    if (f->guess_count && missed && (!e->rank || (last && e->rank < last->rank)))
        f->guess_count = 0; /* nor for that; without a rank, its name came later than the guess */
    if (!f->guess_count && (c->distant ? last || f->complete : last && missed))
        fsb_cached_guess_(c, f, last, e);
    if (!f->guess_count || e->rank < f->guess_wake) return 0;
    if (f->window) f->wrong = 0;
    f->window = f->window ? 2 * f->window : (uint64_t)FSB_CACHED_WINDOW_;
    if (c->distant) f->window = fsb_cached_window_(c);
    if (f->window > c->read_ahead) f->window = c->read_ahead;
    if (f->window < FSB_CACHED_SMALL_) f->window = FSB_CACHED_SMALL_;
    return 1;
}

static uint64_t fsb_cached_weight_(const fsb_cached_entry_ *e)
{
    const int light = S_ISREG(e->stat.mode) && e->stat.size <= FSB_CACHED_SMALL_;
    return 512 + (light ? e->stat.size : 0);
}

static void fsb_cached_got_(fsb_cached_call_ *k);

/* A GET of a file that nobody asked for yet, of known size or not; the caller sends it. */
static fsb_cached_call_ *fsb_cached_get_ahead_(fsb_cached_ *c, const fsb_cached_name_ *n,
                                               const fsb_stat *st)
{
    fsb_cached_call_ *k = fsb_cached_call_new_(c, NULL, FSB_OP_GET, fsb_cached_got_);
    if (!k) return NULL;
    k->path = fsb_cached_path_new_(c, n->folder, n->folder_size, n->name, n->name_size);
    if (!k->path) {
        fsb_cached_call_free_(k);
        return NULL;
    }
    k->op.path = k->path->text, k->hash = n->hash, k->seq = fsb_cached_seq_(c);
    k->op.size = st ? (size_t)st->size : (size_t)FSB_CACHED_FIRST_;
    k->size = k->op.size;
    if (st) k->op.file_id = k->file_id = st->file_id, k->version = st->version;
    return k;
}

/* The GETs of what the guess says will be read behind e, until the window is full or there is no
   room for more. Shard locked. */
static uint32_t fsb_cached_fetch_(fsb_cached_ *c, fsb_cached_folder_ *f, const fsb_cached_entry_ *e,
                                 fsb_cached_call_ **out)
{
    uint64_t bytes = 0, read = 0;
    uint32_t n = 0, i = e->rank;
    for (; i < f->guess_next; ++i) bytes += fsb_cached_weight_(f->guess[i]);
    for (; f->guess_next < f->guess_count && bytes < f->window && n < FSB_CACHED_BATCH_;
         ++f->guess_next) {
        fsb_cached_entry_ *o = f->guess[f->guess_next];
        fsb_slice          part;
        bytes += fsb_cached_weight_(o);
        if (o->state != FSB_CACHED_STAT_ || !S_ISREG(o->stat.mode) || !o->stat.size ||
            o->stat.size > FSB_CACHED_SMALL_)
            continue;
        if (fsb_cached_chunk_(c, &o->stat, 0, 0, &part)) {
            fsb_slice_release(&part);
            continue;
        }
        const fsb_cached_name_ name = fsb_cached_join_(c, fsb_cached_folder_path_(f), f->path_size,
                                                       fsb_cached_entry_name_(o), o->name_size);
        out[n] = fsb_cached_get_ahead_(c, &name, &o->stat);
        if (out[n]) ++n;
    }
    for (i = e->rank; i < f->guess_next && read < bytes / 4; ++i)
        read += fsb_cached_weight_(f->guess[i]);
    f->guess_wake = i + 1 < f->guess_count ? i + 1 : UINT32_MAX;
    return n;
}

/* Small files of n's folder are read one by one: asks for those behind it, and for the folders
   behind that one. */
static void fsb_cached_data_ahead_(fsb_cached_ *c, const fsb_cached_name_ *n, int missed)
{
    fsb_cached_call_ *calls[FSB_CACHED_BATCH_];
    uint32_t          count = 0;
    int               whole = 0, walk = 0, more = 0, first = 1;
    uint64_t          cookie = 0;
    if (c->streams) return; /* so near, asking for one costs less than waiting for many */
    if (!fsb_cached_ahead_ok_(c) || __atomic_load_n(&c->plain, __ATOMIC_RELAXED)) return;
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    do {
        pthread_mutex_lock(&s->lock);
        fsb_cached_folder_ *f = fsb_cached_folder_of_(s, n);
        fsb_cached_entry_  *e = fsb_cached_entry_of_(f, n);
        if (f && missed && first) ++f->small_reads;
        whole = f && f->small_reads >= 2 && f->listed != FSB_CACHED_STAT_ && missed && !c->distant;
        if (whole && f->listed == FSB_CACHED_NAMED_) cookie = f->last_cookie; /* it goes on there */
        if (f && e && first) more = fsb_cached_follow_(c, f, e, missed);
        count = more && f && e && f->guess_count ? fsb_cached_fetch_(c, f, e, calls) : 0;
        walk = more && f && f->guess_next == f->guess_count;
        pthread_mutex_unlock(&s->lock);
        for (uint32_t i = 0; i < count; ++i) fsb_cached_fly_(calls[i]);
        fsb_cached_send_all_(c, calls, count);
        first = 0;
    } while (count == FSB_CACHED_BATCH_);
    const uint32_t flags = FSB_LIST_STAT | FSB_LIST_DATA;
    if (whole) fsb_cached_list_ahead_(c, n, flags, cookie, FSB_IO_MAX);
    fsb_cached_path_ *folder =
        walk ? fsb_cached_path_new_(c, n->folder, n->folder_size, "", 0) : NULL;
    if (folder) fsb_cached_walk_(c, folder->text, flags);
    fsb_cached_path_put_(c, folder);
}

/* All names of a folder have come: if one of its files was read, what was not known then can be
   guessed now. */
static void fsb_cached_resume_(fsb_cached_ *c, const fsb_cached_name_ *folder)
{
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, folder->folder_hash);
    fsb_cached_path_  *path = NULL;
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, folder);
    fsb_cached_entry_  *e = f && f->guess_count < f->order_count ? f->last_read : NULL;
    if (e) {
        f->guess_count = 0; /* if there is one, it was made of fewer names */
        path = fsb_cached_path_new_(c, folder->folder, folder->folder_size,
                                    fsb_cached_entry_name_(e), e->name_size);
        f->last_read = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    if (!path) return;
    const fsb_cached_name_ n = fsb_cached_split_(c, path->text);
    fsb_cached_data_ahead_(c, &n, 0);
    fsb_cached_path_put_(c, path);
}

/* The first names of a folder are asked for: others are likely to follow. The first one alone is
   worth a listing only where that takes less than a round trip, and then a short one. listed: a
   part of them has come; it goes on if one was asked for meanwhile. */
static void fsb_cached_names_ahead_(fsb_cached_ *c, const fsb_cached_name_ *n, int listed)
{
    const uint64_t way = __atomic_load_n(&c->carried, __ATOMIC_RELAXED) / 4;
    int            wanted = 0, first = 0;
    uint64_t       cookie = 0, size = FSB_IO_MAX / 4;
    if (!n->folder_size || !fsb_cached_ahead_ok_(c)) return;
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_of_(s, n);
    if (f && !listed && f->tried < 2 && f->listed == FSB_CACHED_UNKNOWN_ && !f->lister)
        wanted = ++f->tried == 2, first = !wanted;
    else if (f && f->tried < 2 + FSB_CACHED_PAGES_ && !f->lister &&
             f->listed == FSB_CACHED_NAMED_ && (!listed || f->tried == 1))
        wanted = 1, ++f->tried, cookie = f->last_cookie; /* it is in none of the names so far */
    pthread_mutex_unlock(&s->lock);
    const uint64_t epoch = fsb_cached_epoch_(c);
    if (!f && !listed && fsb_cached_holdable_(c, n, epoch)) {
        pthread_mutex_lock(&s->lock);
        f = fsb_cached_folder_make_(c, s, n, epoch);
        if (f && !f->tried) f->tried = 1, first = 1;
        pthread_mutex_unlock(&s->lock);
    }
    if (first && c->distant && way < size)
        size = way > FSB_CACHED_FIRST_ ? way : (uint64_t)FSB_CACHED_FIRST_;
    if (wanted || (first && c->distant))
        fsb_cached_list_ahead_(c, n, FSB_LIST_STAT, cookie, size);
}

/* Who asks for a name that is far is likely to open it: its first bytes are asked for with it. That
   is left alone while fewer than one in four is opened, as in a tree that is only walked. */
static int fsb_cached_first_ok_(fsb_cached_ *c)
{
    const uint32_t sent = __atomic_load_n(&c->firsts, __ATOMIC_RELAXED);
    const uint32_t used = __atomic_load_n(&c->firsts_used, __ATOMIC_RELAXED);
    return c->distant && fsb_cached_ahead_ok_(c) && c->inner->call[FSB_OP_GET] &&
           (sent < 16 || used >= sent / 4);
}

static void fsb_cached_first_sent_(fsb_cached_ *c)
{
    if (__atomic_add_fetch(&c->firsts, 1, __ATOMIC_RELAXED) < 32) return;
    const uint32_t used = __atomic_load_n(&c->firsts_used, __ATOMIC_RELAXED);
    __atomic_store_n(&c->firsts, 16, __ATOMIC_RELAXED);
    __atomic_store_n(&c->firsts_used, used / 2, __ATOMIC_RELAXED);
}

/* A file is opened. */
static void fsb_cached_first_used_(fsb_cached_ *c)
{
    if (!c->distant) return;
    const uint32_t sent = __atomic_load_n(&c->firsts, __ATOMIC_RELAXED);
    if (__atomic_load_n(&c->firsts_used, __ATOMIC_RELAXED) < sent)
        (void)__atomic_add_fetch(&c->firsts_used, 1, __ATOMIC_RELAXED);
}

/* Sends a STAT of path, and with it what is likely to be wanted next. */
static void fsb_cached_stat_first_(fsb_cached_call_ *stat, const char *path)
{
    fsb_cached_           *c = stat->c;
    fsb_cached_path_      *copy = fsb_cached_path_copy_(c, path); /* the op may be over by then */
    const fsb_cached_name_ n = fsb_cached_split_(c, copy ? copy->text : "/");
    fsb_cached_call_      *k = copy && !fsb_cached_join_first_(c, &n, 0, NULL, 0)
                                   ? fsb_cached_get_ahead_(c, &n, NULL)
                                   : NULL;
    fsb_cached_call_      *both[2] = {stat, k};
    if (k) {
        fsb_cached_first_sent_(c);
        fsb_cached_fly_(k);
    }
    fsb_cached_send_all_(c, both, k ? 2 : 1);
    if (k) { /* or it is a folder */
        const fsb_cached_name_ in = fsb_cached_join_(c, copy->text, copy->size, "", 0);
        fsb_cached_list_ahead_(c, &in, FSB_LIST_STAT, 0, FSB_CACHED_FIRST_);
    }
    if (copy) fsb_cached_names_ahead_(c, &n, 0);
    fsb_cached_path_put_(c, copy);
}

/* ---- [backend: answers] ---------------------------------------------------------------------- */

/* Tries once more from what is remembered where the host is lost; else hands the answer up. */
static void fsb_cached_up_(fsb_cached_call_ *k, fsb_cached_call_ *waiters)
{
    fsb_cached_  *c = k->c;
    fsb_op       *up = k->upper;
    const int64_t result = k->op.result;
    if (!up) {
        if (result >= 0) fsb_slice_release(&k->op.slice);
        fsb_cached_call_free_(k);
    } else if (fsb_cached_lost_(result)) {
        fsb_cached_call_free_(k);
        fsb_cached_start_(c, up, FSB_CACHED_TRIES_, result);
    } else {
        k->op.handle = up->handle;
        fsb_cached_answer_(k);
    }
    fsb_cached_again_(c, waiters);
}

static void fsb_cached_stat_done_(fsb_cached_call_ *k)
{
    fsb_cached_           *c = k->c;
    const char            *path = k->path ? k->path->text : k->op.path;
    const fsb_cached_name_ n = fsb_cached_split_(c, path);
    if (k->op.result >= 0 && !k->file) fsb_cached_keep_(c, &n, k->seq, &k->op.stat);
    if (k->op.result == -ENOENT && !k->file) fsb_cached_keep_(c, &n, k->seq, NULL);
    fsb_cached_up_(k, fsb_cached_land_(k));
}

static void fsb_cached_load_folder_(fsb_cached_ *c, const fsb_cached_name_ *n);

/* As look, and while the host is away also in L2. */
static fsb_cached_state_ fsb_cached_find_(fsb_cached_ *c, const fsb_cached_name_ *n, fsb_stat *st)
{
    fsb_cached_state_ state = fsb_cached_look_(c, n, st);
    if (state == FSB_CACHED_UNKNOWN_ && c->disk && __atomic_load_n(&c->away, __ATOMIC_RELAXED)) {
        fsb_cached_load_folder_(c, n);
        state = fsb_cached_look_(c, n, st);
    }
    return state;
}

/* STAT by path, or of an open file that still has its name. */
static void fsb_cached_stat_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f, int tries,
                             int64_t error)
{
    fsb_cached_path_      *path = f ? fsb_cached_path_of_(f) : NULL;
    const fsb_cached_name_ n = fsb_cached_split_(c, path ? path->text : op->path);
    const uint64_t         id = f ? f->file_id : op->file_id;
    fsb_cached_state_      state = fsb_cached_find_(c, &n, &op->stat);
    if (state == FSB_CACHED_STAT_ && id && id != op->stat.file_id) state = FSB_CACHED_UNKNOWN_;
    if (f && state == FSB_CACHED_ABSENT_) state = FSB_CACHED_UNKNOWN_;
    if (state != FSB_CACHED_UNKNOWN_ || error) {
        if (state == FSB_CACHED_STAT_) FSB_CACHED_COUNT_(c, attr_hits);
        if (state == FSB_CACHED_ABSENT_) FSB_CACHED_COUNT_(c, negative_hits);
        op->result = state == FSB_CACHED_STAT_ ? 0 : state == FSB_CACHED_ABSENT_ ? -ENOENT : error;
        fsb_cached_path_put_(c, path);
        fsb_cached_unpin_(c, f);
        op->done(op);
        return;
    }
    if (!f && tries < FSB_CACHED_TRIES_ &&
        fsb_cached_join_name_(c, &n, FSB_OP_STAT, op, tries))
        return;
    const int first = !f && !tries && !op->file_id && n.folder_size && fsb_cached_first_ok_(c);
    if (!f && !first && tries < FSB_CACHED_TRIES_ && fsb_cached_join_list_(c, &n, 0, op, tries))
        return;
    FSB_CACHED_COUNT_(c, attr_misses);
    fsb_cached_call_ *k = fsb_cached_call_new_(c, op, FSB_OP_STAT, fsb_cached_stat_done_);
    if (!k) {
        fsb_cached_path_put_(c, path);
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -ENOMEM);
        return;
    }
    k->file = f, k->path = path, k->seq = fsb_cached_seq_(c);
    if (f) {
        pthread_mutex_lock(&f->lock);
        k->op.handle = f->inner;
        pthread_mutex_unlock(&f->lock);
        if (!k->op.handle) k->op.path = path->text, k->op.file_id = f->file_id;
    }
    if (first) {
        fsb_cached_stat_first_(k, op->path);
        return;
    }
    if (!f && !tries) fsb_cached_names_ahead_(c, &n, 0);
    fsb_cached_send_(k);
}

static void fsb_cached_link_done_(fsb_cached_call_ *k)
{
    const fsb_op *op = &k->op;
    const void   *text = op->buf ? op->buf : op->slice.data;
    if (op->result > 0 && (uint64_t)op->result == k->size && text &&
        fsb_cached_holds_(k->c, k->hash, k->seq))
        fsb_cached_put_(k->c, k->file_id, k->version, k->size, 0, text, (size_t)op->result);
    fsb_cached_up_(k, NULL);
}

static void fsb_cached_readlink_(fsb_cached_ *c, fsb_op *op, int64_t error)
{
    const fsb_cached_name_ n = fsb_cached_split_(c, op->path);
    fsb_stat               st;
    uint64_t               missing;
    const int known = fsb_cached_find_(c, &n, &st) == FSB_CACHED_STAT_ && S_ISLNK(st.mode) &&
                      (!op->file_id || op->file_id == st.file_id) && op->size;
    if (known && fsb_cached_bytes_(c, op, &st, 0, &missing)) {
        op->done(op);
        return;
    }
    fsb_cached_call_ *k =
        error ? NULL : fsb_cached_call_new_(c, op, FSB_OP_READLINK, fsb_cached_link_done_);
    if (!k) {
        fsb_cached_finish_(op, error ? error : -ENOMEM);
        return;
    }
    k->hash = n.hash, k->seq = fsb_cached_seq_(c);
    if (known) k->file_id = st.file_id, k->version = st.version, k->size = st.size;
    fsb_cached_send_(k);
}

/* ---- [backend: reading] ---------------------------------------------------------------------- */

/* Bytes came over a way that is far. What came within a round trip is what it carries, if that is
   more than before; what it carried once is forgotten little by little. When that grows no more,
   the folders near the root, which are the likeliest to be asked for, take the way for as long. */
static void fsb_cached_carried_(fsb_cached_ *c, uint64_t bytes)
{
    const int64_t  now = fsb_cached_clock_ns_();
    const uint64_t came = __atomic_add_fetch(&c->counted, bytes, __ATOMIC_RELAXED);
    const uint64_t before = __atomic_load_n(&c->carried, __ATOMIC_RELAXED);
    int64_t        since = __atomic_load_n(&c->counted_ns, __ATOMIC_RELAXED);
    if (now - since < c->rtt_ns ||
        !__atomic_compare_exchange_n(&c->counted_ns, &since, now, 0, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return;
    const uint64_t one = (uint64_t)((double)came * (double)c->rtt_ns / (double)(now - since));
    const uint64_t kept = before - before / 16, most = FSB_IO_MAX / 4;
    (void)__atomic_sub_fetch(&c->counted, came, __ATOMIC_RELAXED);
    __atomic_store_n(&c->carried, one > kept ? one : kept, __ATOMIC_RELAXED);
    const fsb_cached_name_ root = fsb_cached_join_(c, "/", 1, "", 0);
    if (before && one <= before && !__atomic_exchange_n(&c->surveyed, 1, __ATOMIC_RELAXED))
        fsb_cached_list_below_(c, &root, before < most ? before : most);
}

/* Answers those waiting READs that want nothing but what has just come: without another copy.
   Returns the others. */
static fsb_cached_call_ *fsb_cached_share_(fsb_cached_call_ *k, const void *data, uint64_t size,
                                           fsb_cached_call_ *waiters)
{
    fsb_cached_      *c = k->c;
    fsb_cached_call_ *rest = NULL;
    while (waiters) {
        fsb_cached_call_ *w = waiters;
        fsb_op           *up = w->upper;
        const uint64_t    file = k->op.stat.size;
        waiters = w->next;
        const uint64_t left = up->offset < file ? file - up->offset : 0;
        const uint64_t want = up->size < left ? up->size : left;
        if (up->code != FSB_OP_READ || up->offset < k->offset || !want ||
            up->offset - k->offset > size || want > size - (up->offset - k->offset)) {
            w->next = rest, rest = w;
            continue;
        }
        fsb_cached_call_free_(w);
        fsb_cached_no_slice_(up);
        const char *from = (const char *)data + (up->offset - k->offset);
        if (up->buf) memcpy(up->buf, from, (size_t)want);
        else up->slice.data = from, up->slice.size = (size_t)want;
        FSB_CACHED_COUNT_(c, data_hits);
        fsb_cached_finish_(up, (int64_t)want);
    }
    return rest;
}

/* Bytes of a known version have come, whoever asked for them. */
static void fsb_cached_read_done_(fsb_cached_call_ *k)
{
    fsb_cached_  *c = k->c;
    const fsb_op *op = &k->op;
    const void   *data = op->buf ? op->buf : op->slice.data;
    fsb_cached_call_ *waiters = NULL;
    int               ok = 0;
    if (op->result > 0 && c->distant) fsb_cached_carried_(c, (uint64_t)op->result);
    if (op->result >= 0 && k->file_id && fsb_cached_holds_(c, k->hash, k->seq)) {
        const uint64_t left = k->op.stat.size > k->offset ? k->op.stat.size - k->offset : 0;
        const uint64_t want = k->size < left ? k->size : left;
        if ((uint64_t)op->result < want) fsb_cached_touch_attr_(c, k->path->text); /* it shrank */
        else if (data) {
            ok = 1;
            fsb_cached_put_(c, k->file_id, k->version, k->op.stat.size, k->offset, data,
                            (size_t)op->result);
        }
    }
    waiters = fsb_cached_land_(k);
    if (ok) waiters = fsb_cached_share_(k, data, (uint64_t)op->result, waiters);
    if (k->upper) k->op.stat = k->upper->stat;
    fsb_cached_up_(k, waiters);
}

static void fsb_cached_close_inner_(fsb_cached_ *c, fsb_cached_file_ *f);

/* Inner's handle of a file is there, or why not; all who wait for it go on. */
static void fsb_cached_opened_late_(fsb_cached_call_ *k)
{
    fsb_cached_      *c = k->c;
    fsb_cached_file_ *f = k->file;
    const fsb_op     *op = &k->op;
    const int         ok = op->result >= 0;
    if (ok) {
        const fsb_cached_name_ n = fsb_cached_split_(c, k->path->text);
        fsb_cached_keep_(c, &n, k->seq, &op->stat);
        if (op->slice.data)
            fsb_cached_put_(c, op->stat.file_id, op->stat.version, op->stat.size, 0,
                            op->slice.data, (size_t)op->result);
        fsb_slice_release(&k->op.slice);
    }
    pthread_mutex_lock(&f->lock);
    f->opening = 0;
    if (ok) f->inner = op->handle, fsb_cached_not_lazy_(c, f);
    f->open_error = ok ? 0 : (int)op->result;
    fsb_cached_call_ *waiters = f->waiting;
    f->waiting = NULL;
    pthread_mutex_unlock(&f->lock);
    const int64_t error = ok ? 0 : op->result;
    if (ok && __atomic_load_n(&f->state, __ATOMIC_ACQUIRE) & FSB_CACHED_CLOSED_)
        fsb_cached_close_inner_(c, f);
    fsb_cached_call_free_(k);
    while (waiters) {
        fsb_cached_call_ *w = waiters;
        fsb_op           *up = w->upper;
        const int         tries = w->tries + 1;
        const int through = up->code == FSB_OP_UNLINK || up->code == FSB_OP_RENAME;
        waiters = w->next;
        fsb_cached_call_free_(w);
        fsb_cached_start_(c, up, error ? FSB_CACHED_TRIES_ : tries, through ? 0 : error);
    }
}

/* Opens inner's handle of a file (pinned by the caller, who gives that up); op goes on then. */
static void fsb_cached_open_late_(fsb_cached_ *c, fsb_cached_file_ *f, fsb_op *op, int tries,
                                  size_t size)
{
    fsb_cached_call_ *w = fsb_cached_call_new_(c, op, op->code, NULL);
    fsb_cached_call_ *k = w ? fsb_cached_call_new_(c, NULL, FSB_OP_OPEN, fsb_cached_opened_late_)
                            : NULL;
    if (!k) {
        if (w) fsb_cached_call_free_(w);
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -ENOMEM);
        return;
    }
    w->tries = tries, k->file = f;
    k->path = fsb_cached_path_of_(f), k->seq = fsb_cached_seq_(c);
    pthread_mutex_lock(&f->lock);
    const int send = !f->opening && !f->inner, wait = f->opening || send;
    if (wait) w->next = f->waiting, f->waiting = w;
    if (send) f->opening = 1;
    pthread_mutex_unlock(&f->lock);
    k->op.path = k->path->text, k->op.flags = f->flags; /* what opens late only reads */
    k->op.file_id = f->file_id, k->op.size = size;
    if (send) {
        fsb_cached_send_(k);
        return;
    }
    fsb_cached_call_free_(k);
    if (!wait) fsb_cached_again_(c, w);
}

/* Hands up what a GET brought: to a GET all of it, to a READ its part. */
static void fsb_cached_got_(fsb_cached_call_ *k)
{
    fsb_cached_           *c = k->c;
    fsb_op                *op = &k->op, *up = k->upper;
    const fsb_cached_name_ n = fsb_cached_split_(c, k->path->text);
    const void            *data = op->buf ? op->buf : op->slice.data;
    if (op->result >= 0) {
        fsb_cached_keep_(c, &n, k->seq, &op->stat);
        if (data && fsb_cached_holds_(c, n.hash, k->seq))
            fsb_cached_put_(c, op->stat.file_id, op->stat.version, op->stat.size, 0, data,
                            (size_t)op->result);
        if (data && !up && (uint64_t)op->result < op->stat.size &&
            fsb_cached_holds_(c, n.hash, k->seq))
            fsb_cached_first_put_(c, &op->stat, data, (size_t)op->result);
    } else if (op->result == -ENOENT) fsb_cached_keep_(c, &n, k->seq, NULL);
    if (op->result > 0 && c->distant) fsb_cached_carried_(c, (uint64_t)op->result);
    if (op->result > 0 && !up)
        (void)__atomic_add_fetch(&c->stats.ahead_bytes, (uint64_t)op->result, __ATOMIC_RELAXED);
    fsb_cached_call_ *waiters = fsb_cached_land_(k);
    if (up && up->code == FSB_OP_READ && op->result >= 0) {
        const uint64_t got = (uint64_t)op->result;
        const uint64_t left = up->offset < got ? got - up->offset : 0;
        const size_t   part = left < up->size ? (size_t)left : up->size;
        const int      short_ = got < op->stat.size && part < up->size;
        const char    *from = (const char *)op->slice.data + (part ? up->offset : 0);
        if (short_ || !part || up->buf) {
            if (!short_ && part) memcpy(up->buf, from, part);
            fsb_slice_release(&op->slice);
        } else op->slice.data = from, op->slice.size = part;
        op->result = (int64_t)part;
        op->stat = up->stat;
        if (short_) {
            fsb_cached_call_free_(k);
            fsb_cached_again_(c, waiters);
            fsb_cached_start_(c, up, 1, 0);
            return;
        }
    }
    fsb_cached_up_(k, waiters);
}

/* A whole small file in one round trip, for a GET or a READ. */
static int fsb_cached_get_send_(fsb_cached_ *c, fsb_op *op, const char *path, const fsb_stat *st,
                                int tries)
{
    fsb_cached_call_ *k = fsb_cached_call_new_(c, op, FSB_OP_GET, fsb_cached_got_);
    if (k) k->path = fsb_cached_path_copy_(c, path);
    if (!k || !k->path) {
        if (k) fsb_cached_call_free_(k);
        return 0;
    }
    const fsb_cached_name_ n = fsb_cached_split_(c, k->path->text);
    k->op.path = k->path->text, k->op.handle = 0, k->op.flags = 0;
    k->tries = tries, k->hash = n.hash, k->seq = fsb_cached_seq_(c);
    if (op->code == FSB_OP_READ) {
        k->op.file_id = st->file_id, k->op.buf = NULL, k->op.offset = 0;
        k->op.size = (size_t)st->size;
    }
    if (st) {
        k->file_id = st->file_id, k->version = st->version, k->size = st->size;
        fsb_cached_fly_(k);
    }
    fsb_cached_send_(k);
    return 1;
}

static int fsb_cached_small_(const fsb_stat *st)
{
    return S_ISREG(st->mode) && st->size <= FSB_CACHED_CHUNK_;
}

/* GET of a path. */
static void fsb_cached_get_(fsb_cached_ *c, fsb_op *op, int tries, int64_t error)
{
    const fsb_cached_name_ n = fsb_cached_split_(c, op->path);
    fsb_stat               st;
    uint64_t               missing = 0;
    fsb_cached_state_      state = fsb_cached_find_(c, &n, &st);
    const int file = state == FSB_CACHED_STAT_ && S_ISREG(st.mode) && st.mode & 0444 &&
                     (!op->file_id || op->file_id == st.file_id);
    if (state == FSB_CACHED_ABSENT_ || (file && fsb_cached_bytes_(c, op, &st, 0, &missing))) {
        if (file) FSB_CACHED_COUNT_(c, data_hits), op->stat = st;
        else FSB_CACHED_COUNT_(c, negative_hits), op->result = -ENOENT;
        if (file && fsb_cached_small_(&st)) fsb_cached_data_ahead_(c, &n, 0);
        op->done(op);
        return;
    }
    if (error) {
        fsb_cached_finish_(op, error);
        return;
    }
    if (!tries) fsb_cached_first_used_(c);
    fsb_cached_path_      *path = fsb_cached_path_copy_(c, op->path); /* op may be over by then */
    const fsb_cached_name_ same = fsb_cached_split_(c, path ? path->text : "/");
    const uint64_t         least = !file || op->size < st.size ? op->size : st.size;
    const int ahead = path && !tries && file && fsb_cached_small_(&st);
    int       joined = 0;
    if (tries < FSB_CACHED_TRIES_)
        joined = (file && fsb_cached_join_read_(c, &st, 0, op, tries)) ||
                 fsb_cached_join_first_(c, &n, least, op, tries) ||
                 fsb_cached_join_list_(c, &n, FSB_LIST_DATA, op, tries);
    if (!joined && !tries) FSB_CACHED_COUNT_(c, data_misses);
    if (!joined && !fsb_cached_get_send_(c, op, op->path, file ? &st : NULL, tries))
        fsb_cached_finish_(op, -ENOMEM);
    if (ahead) fsb_cached_data_ahead_(c, &same, !joined);
    else if (path && !tries && !joined) fsb_cached_names_ahead_(c, &same, 0);
    fsb_cached_path_put_(c, path);
}

/* READ straight from inner, of a known version or not. Gives up the pin. */
static void fsb_cached_read_send_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f,
                                  const fsb_stat *st, uint64_t hash, int tries)
{
    pthread_mutex_lock(&f->lock);
    const fsb_handle inner = f->inner;
    pthread_mutex_unlock(&f->lock);
    fsb_cached_call_ *k = fsb_cached_call_new_(c, op, FSB_OP_READ, fsb_cached_read_done_);
    if (!k) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -ENOMEM);
        return;
    }
    k->file = f, k->op.handle = inner, k->tries = tries;
    k->path = fsb_cached_path_of_(f), k->hash = hash, k->seq = fsb_cached_seq_(c);
    if (st) {
        k->file_id = st->file_id, k->version = st->version;
        k->offset = op->offset, k->size = op->size, k->op.stat = *st;
        fsb_cached_fly_(k);
    }
    fsb_cached_send_(k);
}

/* The bytes are not here, or it is not known which are right. Takes over the pin. */
static void fsb_cached_read_miss_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f,
                                  const fsb_cached_name_ *n, const fsb_stat *st, int tries)
{
    pthread_mutex_lock(&f->lock);
    const fsb_handle inner = f->inner;
    const int        random = f->run == 0;
    pthread_mutex_unlock(&f->lock);
    const int ahead = !tries && st && fsb_cached_small_(st);
    if (!tries) FSB_CACHED_COUNT_(c, data_misses);
    if (!inner) {
        const int get = !tries && st && fsb_cached_small_(st) && fsb_cached_can_(c, FSB_OP_GET);
        if (get) {
            fsb_cached_path_ *path = fsb_cached_path_of_(f);
            const int         sent = fsb_cached_get_send_(c, op, path->text, st, tries);
            fsb_cached_path_put_(c, path);
            fsb_cached_unpin_(c, f);
            if (!sent) fsb_cached_finish_(op, -ENOMEM);
            if (ahead) fsb_cached_data_ahead_(c, n, 1);
            return;
        }
        const size_t first = op->offset < FSB_CACHED_CHUNK_ ? (size_t)FSB_CACHED_CHUNK_ : 0;
        fsb_cached_open_late_(c, f, op, tries, first);
        if (ahead) fsb_cached_data_ahead_(c, n, 1);
        return;
    }
    const uint64_t from = op->offset / FSB_CACHED_CHUNK_ * FSB_CACHED_CHUNK_, end = op->offset
                                                                                    + op->size;
    const uint64_t to = (end + FSB_CACHED_CHUNK_ - 1) / FSB_CACHED_CHUNK_ * FSB_CACHED_CHUNK_;
    const int      rest = st && !random && op->size < FSB_CACHED_CHUNK_ && fsb_cached_ahead_ok_(c);
    fsb_stat       copy;
    memset(&copy, 0, sizeof copy);
    if (st) copy = *st;
    if (rest) (void)__atomic_add_fetch(&f->state, 1, __ATOMIC_ACQ_REL);
    const uint64_t hash = n->hash;
    fsb_cached_read_send_(c, op, f, st, hash, tries);
    if (rest) { /* behind the wanted range, the rest of its chunk */
        fsb_cached_read_ahead_(c, f, inner, &copy, hash, from, to);
        fsb_cached_unpin_(c, f);
    }
    if (ahead) fsb_cached_data_ahead_(c, n, 1);
}

/* READ. Takes over the pin. */
static void fsb_cached_read_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f, int tries,
                             int64_t error)
{
    if (!(f->flags & FSB_O_READ)) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -EBADF);
        return;
    }
    fsb_cached_path_      *path = fsb_cached_path_of_(f);
    const fsb_cached_name_ n = fsb_cached_split_(c, path->text);
    fsb_stat               st;
    uint64_t               missing = 0;
    const int known = fsb_cached_find_(c, &n, &st) == FSB_CACHED_STAT_ && S_ISREG(st.mode) &&
                      st.file_id == f->file_id && op->size <= (size_t)FSB_IO_MAX;
    if (known && !tries && st.size > FSB_CACHED_CHUNK_)
        fsb_cached_read_more_(c, f, &st, n.hash, op->offset, op->size);
    if (known && fsb_cached_bytes_(c, op, &st, op->offset, &missing)) {
        if (!tries) FSB_CACHED_COUNT_(c, data_hits);
        if (fsb_cached_small_(&st)) fsb_cached_data_ahead_(c, &n, 0);
        fsb_cached_path_put_(c, path);
        fsb_cached_unpin_(c, f);
        op->done(op);
        return;
    }
    uint64_t at = missing * FSB_CACHED_CHUNK_ > op->offset ? missing * FSB_CACHED_CHUNK_
                                                           : op->offset;
    const uint64_t end = op->offset + op->size < st.size ? op->offset + op->size : st.size;
    const int joined = !error && known && tries < FSB_CACHED_TRIES_ &&
                       (fsb_cached_join_read_(c, &st, at, op, tries) ||
                        fsb_cached_join_first_(c, &n, end, op, tries) ||
                        (fsb_cached_small_(&st) &&
                         fsb_cached_join_list_(c, &n, FSB_LIST_DATA, op, tries)));
    if (joined && !tries && fsb_cached_small_(&st)) fsb_cached_data_ahead_(c, &n, 0);
    if (joined || error) {
        fsb_cached_path_put_(c, path);
        fsb_cached_unpin_(c, f);
        if (!joined) fsb_cached_finish_(op, error);
        return;
    }
    fsb_cached_read_miss_(c, op, f, &n, known ? &st : NULL, tries);
    fsb_cached_path_put_(c, path);
}

/* ---- [backend: open and close] --------------------------------------------------------------- */

static void fsb_cached_quiet_(fsb_cached_call_ *k)
{
    fsb_cached_call_free_(k);
}

/* Closes inner's handle of a file that is closed here, once. Nobody waits for it. */
static void fsb_cached_close_inner_(fsb_cached_ *c, fsb_cached_file_ *f)
{
    pthread_mutex_lock(&f->lock);
    const fsb_handle inner = f->inner;
    f->inner = 0;
    pthread_mutex_unlock(&f->lock);
    fsb_cached_call_ *k =
        inner ? fsb_cached_call_new_(c, NULL, FSB_OP_CLOSE, fsb_cached_quiet_) : NULL;
    if (!k) return;
    k->op.handle = inner;
    fsb_cached_send_(k);
}

static void fsb_cached_touch_call_(fsb_cached_call_ *k, int settle);
static fsb_cached_call_ *fsb_cached_folder_ahead_(const fsb_cached_call_ *k);

static void fsb_cached_opened_(fsb_cached_call_ *k)
{
    fsb_cached_      *c = k->c;
    fsb_op           *op = &k->op;
    fsb_cached_file_ *f = NULL;
    const uint32_t    changes = op->flags & (FSB_O_CREATE | FSB_O_TRUNC);
    const char       *path = k->path->text;
    if (changes) fsb_cached_touch_call_(k, 1);
    fsb_cached_call_ *folder = changes ? fsb_cached_folder_ahead_(k) : NULL;
    if (op->result >= 0) {
        const fsb_cached_name_ n = fsb_cached_split_(c, path);
        const void            *data = op->buf ? op->buf : op->slice.data;
        if (!changes) fsb_cached_keep_(c, &n, k->seq, &op->stat);
        if (op->flags & FSB_O_READ && data && fsb_cached_holds_(c, n.hash, k->seq))
            fsb_cached_put_(c, op->stat.file_id, op->stat.version, op->stat.size, 0, data,
                            (size_t)op->result);
        const int err =
            fsb_cached_file_new_(c, &f, path, op->flags, op->stat.file_id, op->handle);
        if (err) {
            fsb_cached_call_ *x = fsb_cached_call_new_(c, NULL, FSB_OP_CLOSE, fsb_cached_quiet_);
            if (x) x->op.handle = op->handle, fsb_cached_send_(x);
            fsb_slice_release(&op->slice);
            op->result = err;
        }
    }
    if (op->result == -ENOENT && !changes) {
        const fsb_cached_name_ n = fsb_cached_split_(c, path);
        fsb_cached_keep_(c, &n, k->seq, NULL);
    }
    if (fsb_cached_lost_(op->result) && !changes && !(op->flags & FSB_O_WRITE)) {
        fsb_cached_up_(k, NULL);
        return;
    }
    k->op.handle = f ? fsb_cached_handle_(f) : 0;
    fsb_cached_answer_(k);
    if (folder) fsb_cached_send_(folder);
}

/* OPEN of a known file, for reading: nobody is asked. Its bytes, if wanted, must be here, too. */
static int fsb_cached_open_known_(fsb_cached_ *c, fsb_op *op, const fsb_cached_name_ *n)
{
    fsb_cached_file_ *f;
    fsb_stat          st;
    uint64_t          missing;
    const fsb_cached_state_ state = fsb_cached_find_(c, n, &st);
    fsb_cached_no_slice_(op);
    if (state == FSB_CACHED_ABSENT_) {
        FSB_CACHED_COUNT_(c, negative_hits);
        op->result = -ENOENT;
        return 1;
    }
    if (state != FSB_CACHED_STAT_ || !S_ISREG(st.mode) || !(st.mode & 0444)) return 0;
    if (op->file_id && op->file_id != st.file_id) return 0;
    op->result = 0;
    if (op->size && !fsb_cached_bytes_(c, op, &st, 0, &missing)) return 0;
    const int err = fsb_cached_file_new_(c, &f, op->path, op->flags, st.file_id, 0);
    if (err) {
        fsb_slice_release(&op->slice);
        op->result = err;
        return 1;
    }
    FSB_CACHED_COUNT_(c, attr_hits);
    op->stat = st, op->handle = fsb_cached_handle_(f);
    if (op->size && fsb_cached_small_(&st)) fsb_cached_data_ahead_(c, n, 0);
    return 1;
}

static void fsb_cached_open_(fsb_cached_ *c, fsb_op *op, int tries, int64_t error)
{
    const fsb_cached_name_ n = fsb_cached_split_(c, op->path);
    const int              plain = op->flags == FSB_O_READ;
    if (plain && fsb_cached_open_known_(c, op, &n)) {
        op->done(op);
        return;
    }
    if (error) {
        fsb_cached_finish_(op, error);
        return;
    }
    if (plain && !tries) fsb_cached_first_used_(c);
    if (plain && tries < FSB_CACHED_TRIES_ &&
        (fsb_cached_join_first_(c, &n, op->size, op, tries) ||
         fsb_cached_join_list_(c, &n, op->size > 0, op, tries)))
        return;
    if (!tries) FSB_CACHED_COUNT_(c, attr_misses);
    fsb_cached_call_ *k = fsb_cached_call_new_(c, op, FSB_OP_OPEN, fsb_cached_opened_);
    if (k) k->path = fsb_cached_path_copy_(c, op->path);
    if (!k || !k->path) {
        if (k) fsb_cached_call_free_(k);
        fsb_cached_finish_(op, -ENOMEM);
        return;
    }
    fsb_stat st;
    if (plain && !tries) {
        fsb_cached_names_ahead_(c, &n, 0);
        if (fsb_cached_look_(c, &n, &st) == FSB_CACHED_STAT_ && fsb_cached_small_(&st))
            fsb_cached_data_ahead_(c, &n, 1);
    }
    if (op->flags & (FSB_O_CREATE | FSB_O_TRUNC)) fsb_cached_touch_call_(k, 0);
    k->seq = fsb_cached_seq_(c);
    fsb_cached_send_(k);
}

static fsb_cached_watch_ *fsb_cached_watch_take_(fsb_cached_ *c, fsb_handle handle);

/* CLOSE: what only read has nothing to tell; what wrote waits for inner's answer. */
static void fsb_cached_close_op_(fsb_cached_ *c, fsb_op *op)
{
    fsb_cached_watch_ *w = op->handle >> 32 == UINT32_MAX ? fsb_cached_watch_take_(c, op->handle)
                                                          : NULL;
    if (w) {
        fsb_cached_free_(c, w, sizeof *w);
        fsb_cached_finish_(op, 0);
        return;
    }
    fsb_cached_file_ *f = fsb_cached_pin_(c, op->handle);
    uint64_t          state = f ? __atomic_load_n(&f->state, __ATOMIC_ACQUIRE) : 0;
    do {
        if (f && !(state & FSB_CACHED_CLOSED_)) continue;
        if (f) fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -EBADF);
        return;
    } while (!__atomic_compare_exchange_n(&f->state, &state, (state | FSB_CACHED_CLOSED_) - 1, 0,
                                          __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    pthread_mutex_lock(&f->lock);
    const fsb_handle inner = f->inner;
    const int        wait = inner && f->flags & ~(uint32_t)FSB_O_READ;
    if (wait) f->inner = 0;
    fsb_cached_not_lazy_(c, f);
    pthread_mutex_unlock(&f->lock);
    fsb_cached_call_ *k = wait ? fsb_cached_call_new_(c, op, FSB_OP_CLOSE, fsb_cached_passed_)
                               : NULL;
    if (k) {
        k->op.handle = inner, k->file = f;
        fsb_cached_send_(k);
        return;
    }
    if (inner && !wait) fsb_cached_close_inner_(c, f);
    fsb_cached_unpin_(c, f);
    fsb_cached_finish_(op, wait ? -ENOMEM : 0);
}

/* ---- [backend: changes] ---------------------------------------------------------------------- */

static void fsb_cached_touch_or_settle_(fsb_cached_call_ *k, const char *path, const fsb_stat *st,
                                        int settle)
{
    fsb_cached_           *c = k->c;
    const fsb_cached_name_ n = fsb_cached_split_(c, path);
    if (settle && k->op.result >= 0 && st) fsb_cached_settle_(c, &n, 0, k->seq, st);
    else fsb_cached_touch_attr_(c, path);
}

/* Names that a call makes or removes. */
static void fsb_cached_touch_names_(fsb_cached_call_ *k, int settle)
{
    fsb_cached_  *c = k->c;
    const fsb_op *op = &k->op;
    const int     ok = settle && op->result >= 0;
    const char   *path = op->code == FSB_OP_LINK ? op->path2 : op->path;
    if (op->code == FSB_OP_RENAME) {
        k->cut |= fsb_cached_touch_name_(c, op->path, settle ? k->cut : -1);
        k->cut |= fsb_cached_touch_name_(c, op->path2, settle ? k->cut : -1);
        if (settle && !(op->flags & FSB_RENAME_EXCHANGE))
            (void)fsb_cached_each_file_(c, fsb_cached_unname_, op);
        if (ok) (void)fsb_cached_each_file_(c, fsb_cached_moved_, op);
        return;
    }
    if (settle && op->code == FSB_OP_UNLINK)
        (void)fsb_cached_each_file_(c, fsb_cached_unname_, op);
    if (ok) {
        const int gone = op->code == FSB_OP_UNLINK || op->code == FSB_OP_RMDIR;
        const fsb_cached_name_ n = fsb_cached_split_(c, path);
        fsb_cached_settle_(c, &n, 1, k->seq, gone ? NULL : &op->stat);
        fsb_cached_drop_(c, path, 0);
        fsb_cached_touch_parent_(c, &n);
    } else (void)fsb_cached_touch_name_(c, path, 0);
}

/* Does it change which names a folder has? */
static int fsb_cached_in_folder_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR: case FSB_OP_RENAME:
    case FSB_OP_LINK: case FSB_OP_SYMLINK: case FSB_OP_MKNOD: return 1;
    case FSB_OP_OPEN: case FSB_OP_PUT: return (op->flags & FSB_O_CREATE) != 0;
    default: return 0;
    }
}

/* A folder was changed, and with it its own attributes, which whoever goes on in it asks for first:
   the kernel, to see whether he may. A STAT of it that he can wait for, to be sent when the change
   is answered; NULL: nothing was changed, or nobody could wait. */
static fsb_cached_call_ *fsb_cached_folder_ahead_(const fsb_cached_call_ *k)
{
    fsb_cached_  *c = k->c;
    const fsb_op *op = &k->op;
    const int     two = op->code == FSB_OP_LINK || op->code == FSB_OP_RENAME;
    if (op->result < 0 || !fsb_cached_in_folder_(op) || !fsb_cached_ahead_ok_(c)) return NULL;
    const fsb_cached_name_ in = fsb_cached_split_(c, two ? op->path2 : op->path);
    fsb_cached_path_ *path = fsb_cached_path_new_(c, in.folder, in.folder_size, "", 0);
    if (!path) return NULL;
    const fsb_cached_name_ n = fsb_cached_split_(c, path->text);
    fsb_cached_call_      *ahead = fsb_cached_join_name_(c, &n, FSB_OP_STAT, NULL, 0)
                                       ? NULL
                                       : fsb_cached_call_new_(c, NULL, FSB_OP_STAT,
                                                              fsb_cached_stat_done_);
    if (!ahead) {
        fsb_cached_path_put_(c, path);
        return NULL;
    }
    ahead->path = path, ahead->op.path = path->text;
    ahead->hash = n.hash, ahead->seq = fsb_cached_seq_(c);
    fsb_cached_fly_(ahead);
    return ahead;
}

/* A change of ours is about to be sent, or (settle) was answered. */
static void fsb_cached_touch_call_(fsb_cached_call_ *k, int settle)
{
    fsb_cached_      *c = k->c;
    const fsb_op     *op = &k->op;
    const fsb_stat   *st = NULL;
    fsb_cached_file_ *f = op->code == FSB_OP_COPY ? k->file2 : k->file;
    const int         names = fsb_cached_in_folder_(op);
    if (names) fsb_cached_touch_names_(k, settle);
    if (names && op->code != FSB_OP_LINK) return;
    if (op->code == FSB_OP_WRITE || op->code == FSB_OP_SETATTR || op->code == FSB_OP_ALLOCATE ||
        op->code == FSB_OP_OPEN || op->code == FSB_OP_PUT)
        st = &op->stat;
    if (settle && st && !st->file_id) st = NULL;
    const char *path = op->code == FSB_OP_OPEN || op->code == FSB_OP_PUT || !f
                           ? (k->path ? k->path->text : op->path)
                           : k->path->text;
    fsb_cached_path_ *now = f && settle ? fsb_cached_path_of_(f) : NULL;
    int unnamed = 0;
    if (now) {
        pthread_mutex_lock(&f->lock);
        unnamed = f->unnamed;
        pthread_mutex_unlock(&f->lock);
    }
    if (now && (unnamed || now != k->path)) { /* it was renamed meanwhile, or removed */
        fsb_cached_touch_attr_(c, path);
        fsb_cached_touch_attr_(c, now->text);
        if (unnamed) fsb_cached_bump_file_(c, f->file_id);
    } else fsb_cached_touch_or_settle_(k, path, st, settle);
    fsb_cached_path_put_(c, now);
}

/* Bytes written by us are known: whole chunks of them are kept. */
static void fsb_cached_written_(fsb_cached_call_ *k)
{
    fsb_cached_  *c = k->c;
    const fsb_op *op = &k->op;
    const uint64_t at = op->code == FSB_OP_PUT                ? 0
                        : k->op.flags & FSB_WRITE_APPEND ? op->out_offset
                                                         : op->offset;
    fsb_stat       st;
    const fsb_cached_name_ n = fsb_cached_split_(c, k->path->text);
    if (!op->size || !op->stat.file_id || fsb_cached_look_(c, &n, &st) != FSB_CACHED_STAT_) return;
    if (st.file_id == op->stat.file_id && st.version == op->stat.version)
        fsb_cached_put_(c, st.file_id, st.version, st.size, at, op->data, op->size);
}

static int fsb_cached_names_(uint32_t code);

static void fsb_cached_changed_(fsb_cached_call_ *k)
{
    const fsb_handle handle = k->upper->handle;
    const uint32_t   code = k->op.code;
    fsb_cached_touch_call_(k, 1);
    if (fsb_cached_names_(code)) (void)__atomic_add_fetch(&k->c->xattr_epoch, 1, __ATOMIC_SEQ_CST);
    if ((code == FSB_OP_WRITE || code == FSB_OP_PUT) && k->op.result >= 0) fsb_cached_written_(k);
    if (code == FSB_OP_EXEC && !__atomic_load_n(&k->c->leased, __ATOMIC_RELAXED))
        fsb_cached_suspect_(k->c); /* who knows what it did */
    fsb_cached_call_ *folder = fsb_cached_folder_ahead_(k);
    k->op.handle = handle;
    fsb_cached_answer_(k);
    if (folder) fsb_cached_send_(folder);
}

/* ---- [backend: the rest] --------------------------------------------------------------------- */

/* GETXATTR of "user.fsb.status" of "/". */
static void fsb_cached_status_(fsb_cached_ *c, fsb_op *op)
{
    char          text[64] = "online";
    const int64_t ns = __atomic_load_n(&c->away_since_ns, __ATOMIC_ACQUIRE);
    const time_t  since = (time_t)(ns / 1000000000);
    struct tm     t;
    if (ns && gmtime_r(&since, &t)) strftime(text, sizeof text, "offline since %FT%TZ", &t);
    const size_t size = strlen(text);
    op->result = (int64_t)size;
    if (op->size && op->size < size) op->result = -ERANGE;
    else if (op->size) memcpy(op->buf, text, size);
    op->done(op);
}

static uint32_t fsb_cached_xattr_hash_(const fsb_cached_ *c, const char *name)
{
    return (uint32_t)fsb_cached_hash_(c->seed, name, strlen(name)) | 1;
}

/* 1 if the file is known not to have that xattr. With `keep` it is now: if nothing of the kind was
   changed here since it was asked for, in epoch `asked`. */
static int fsb_cached_missing_(fsb_cached_ *c, const fsb_cached_name_ *n, const char *name,
                               int keep, uint64_t seq, uint32_t asked)
{
    const uint32_t     hash = fsb_cached_xattr_hash_(c, name);
    fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
    int                known = 0;
    pthread_mutex_lock(&s->lock);
    fsb_cached_entry_ *e = fsb_cached_entry_of_(fsb_cached_folder_of_(s, n), n);
    const uint32_t     epoch = __atomic_load_n(&c->xattr_epoch, __ATOMIC_SEQ_CST);
    if (e && e->missing_epoch != epoch) {
        memset(e->missing, 0, sizeof e->missing);
        e->missing_epoch = epoch;
    }
    if (keep && epoch != asked) e = NULL;
    if (e && e->state == FSB_CACHED_STAT_ && e->stat.nlink < 2 && fsb_cached_entry_fresh_(c, e)) {
        for (int i = 0; i < FSB_CACHED_MISSING_; ++i) known |= e->missing[i] == hash;
        if (keep && !known && fsb_cached_holds_(c, n->hash, seq))
            e->missing[e->missing_next++ % FSB_CACHED_MISSING_] = hash;
    }
    pthread_mutex_unlock(&s->lock);
    return known;
}

static void fsb_cached_xattr_done_(fsb_cached_call_ *k)
{
    if (k->op.result == -ENODATA) {
        const fsb_cached_name_ n = fsb_cached_split_(k->c, k->path->text);
        (void)fsb_cached_missing_(k->c, &n, k->op.path2, 1, k->seq, k->xattr_epoch);
    }
    fsb_cached_up_(k, NULL);
}

static int fsb_cached_changes_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_OPEN: return (op->flags & (FSB_O_CREATE | FSB_O_TRUNC)) != 0;
    case FSB_OP_WRITE: case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR:
    case FSB_OP_RENAME: case FSB_OP_LINK: case FSB_OP_SYMLINK: case FSB_OP_MKNOD:
    case FSB_OP_SETATTR: case FSB_OP_ALLOCATE: case FSB_OP_COPY: case FSB_OP_SETXATTR:
    case FSB_OP_REMOVEXATTR: case FSB_OP_PUT: case FSB_OP_EXEC: return 1;
    default: return 0;
    }
}

/* May it give a file xattrs, or a name to another file? */
static int fsb_cached_names_(uint32_t code)
{
    return code == FSB_OP_SETXATTR || code == FSB_OP_REMOVEXATTR || code == FSB_OP_SETATTR ||
           code == FSB_OP_RENAME || code == FSB_OP_LINK || code == FSB_OP_UNLINK ||
           code == FSB_OP_EXEC;
}

/* May its answer bring bytes that are only lent? */
static int fsb_cached_lends_(uint32_t code)
{
    return code == FSB_OP_READ || code == FSB_OP_GET || code == FSB_OP_OPEN ||
           code == FSB_OP_READLINK;
}

/* Which calls name an open file: 1 must, 2 may. */
static int fsb_cached_takes_handle_(uint32_t code)
{
    switch (code) {
    case FSB_OP_READ: case FSB_OP_WRITE: case FSB_OP_ALLOCATE: case FSB_OP_SEEK:
    case FSB_OP_COPY: case FSB_OP_LOCK: case FSB_OP_DESCRIPTOR: return 1;
    case FSB_OP_STAT: case FSB_OP_READLINK: case FSB_OP_LIST: case FSB_OP_SYNC:
    case FSB_OP_LINK: case FSB_OP_SETATTR: case FSB_OP_STATFS: case FSB_OP_GETXATTR:
    case FSB_OP_SETXATTR: case FSB_OP_LISTXATTR: case FSB_OP_REMOVEXATTR: return 2;
    default: return 0;
    }
}

/* WATCH without a lease: inner's, under a handle of ours. */
static void fsb_cached_watched_(fsb_cached_call_ *k)
{
    fsb_cached_file_ *f = NULL;
    fsb_op           *op = &k->op;
    int               err = 0;
    if (op->result >= 0)
        err = fsb_cached_file_new_(k->c, &f, k->path->text, FSB_CACHED_WATCHING_, 0, op->handle);
    if (err) {
        fsb_cached_call_ *x = fsb_cached_call_new_(k->c, NULL, FSB_OP_CLOSE, fsb_cached_quiet_);
        if (x) x->op.handle = op->handle, fsb_cached_send_(x);
        op->result = err;
    }
    op->handle = f ? fsb_cached_handle_(f) : 0;
    fsb_cached_answer_(k);
}

/* What a command writes is the upper op's. */
static int fsb_cached_output_(fsb_op *op, int fd, const void *data, size_t size)
{
    fsb_op *up = ((fsb_cached_call_ *)(void *)op)->upper;
    return up->exec->output(up, fd, data, size);
}

/* Everything that is not answered here: on to inner, with inner's handles. Takes over the pin. */
static void fsb_cached_pass_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f, int tries)
{
    fsb_cached_file_ *f2 = op->code == FSB_OP_COPY ? fsb_cached_pin_(c, op->handle2) : NULL;
    if (op->code == FSB_OP_COPY && !f2) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -EBADF);
        return;
    }
    fsb_handle inner[2] = {0, 0};
    for (int i = 0; i < 2; ++i) {
        fsb_cached_file_ *one = i ? f2 : f, *other = i ? f : f2;
        if (!one) continue;
        pthread_mutex_lock(&one->lock);
        inner[i] = one->inner;
        pthread_mutex_unlock(&one->lock);
        if (inner[i]) continue;
        fsb_cached_unpin_(c, other);
        fsb_cached_open_late_(c, one, op, tries, 0);
        return;
    }
    const int change = fsb_cached_changes_(op);
    fsb_cached_call_ *k = fsb_cached_call_new_(
        c, op, op->code, change                             ? fsb_cached_changed_
                         : op->code == FSB_OP_GETXATTR ? fsb_cached_xattr_done_
                         : op->code == FSB_OP_WATCH    ? fsb_cached_watched_
                                                       : fsb_cached_passed_);
    if (k) {
        if (op->code == FSB_OP_EXEC && op->exec) {
            k->exec = *op->exec, k->op.exec = &k->exec;
            if (k->exec.output) k->exec.output = fsb_cached_output_;
        }
        if (f) k->op.handle = inner[0];
        if (f2) k->op.handle2 = inner[1];
        k->file = f, k->file2 = f2;
        if (f2) k->path = fsb_cached_path_of_(f2);
        else if (f) k->path = fsb_cached_path_of_(f);
        else if (op->path) k->path = fsb_cached_path_copy_(c, op->path);
    }
    if (!k || (!k->path && (f || op->path))) {
        if (k) fsb_cached_call_free_(k);
        else fsb_cached_unpin_(c, f), fsb_cached_unpin_(c, f2);
        fsb_cached_finish_(op, -ENOMEM);
        return;
    }
    if (change && op->code != FSB_OP_EXEC) fsb_cached_touch_call_(k, 0);
    if (fsb_cached_names_(op->code)) (void)__atomic_add_fetch(&c->xattr_epoch, 1, __ATOMIC_SEQ_CST);
    k->xattr_epoch = __atomic_load_n(&c->xattr_epoch, __ATOMIC_SEQ_CST);
    k->seq = fsb_cached_seq_(c);
    if (!fsb_cached_lends_(op->code)) {
        pthread_mutex_lock(&c->disk_lock);
        op->layer[0] = k, k->hurried = 1;
        pthread_mutex_unlock(&c->disk_lock);
    }
    fsb_cached_send_(k);
}

/* UNLINK and RENAME take a name from files that are open, but not at inner yet: those first. */
static int fsb_cached_lazy_first_(fsb_cached_ *c, fsb_op *op, int tries)
{
    fsb_cached_file_ *f = NULL;
    fsb_op            ask;
    if ((op->code != FSB_OP_UNLINK && op->code != FSB_OP_RENAME) ||
        !__atomic_load_n(&c->lazy, __ATOMIC_ACQUIRE))
        return 0;
    ask = *op, ask.user = &f;
    if (!fsb_cached_each_file_(c, fsb_cached_find_lazy_, &ask)) return 0;
    fsb_cached_open_late_(c, f, op, tries, 0);
    return 1;
}

static void fsb_cached_watch_op_(fsb_cached_ *c, fsb_op *op);

static int fsb_cached_check_(const fsb_op *op)
{
    const int takes = fsb_cached_takes_handle_(op->code);
    if (takes == 1) return op->handle ? 0 : -EBADF;
    if (takes == 2 && op->handle) return 0;
    if (op->code == FSB_OP_CLOSE) return 0;
    if (!op->path || op->path[0] != '/') return -EINVAL;
    const size_t size = strlen(op->path);
    if (size > FSB_PATH_MAX) return -ENAMETOOLONG;
    if (op->code == FSB_OP_LIST && !op->emit) return -EINVAL;
    const int two = op->code == FSB_OP_RENAME || op->code == FSB_OP_LINK;
    if (two && (!op->path2 || op->path2[0] != '/')) return -EINVAL;
    if (two && strlen(op->path2) > FSB_PATH_MAX) return -ENAMETOOLONG;
    return 0;
}

/* 1 if op is odd enough to be inner's to refuse: what is answered here is well-formed. */
static int fsb_cached_odd_(const fsb_op *op)
{
    const char *p = op->path;
    if (op->handle || !p) return op->flags != 0;
    if (op->code == FSB_OP_LIST) {
        if (op->flags > (FSB_LIST_STAT | FSB_LIST_DATA | FSB_LIST_DEEP)) return 1;
        if (op->flags && !(op->flags & FSB_LIST_STAT)) return 1;
    } else if (op->code == FSB_OP_OPEN) {
        if (!p[1]) return 1;
    } else if (op->flags || ((op->code == FSB_OP_GET) && !p[1])) return 1;
    if (op->size > (size_t)FSB_IO_MAX) return 1;
    for (; *p; ++p) { /* "//", "/.", "/..", a '/' at the end, a name that is too long */
        const char  *name = p + 1;
        const size_t size = strcspn(name, "/");
        if (*p != '/' || size > FSB_NAME_MAX) return 1;
        if (!size) return p != op->path || name[0];
        if (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'))) return 1;
        p += size;
    }
    return 0;
}

/* A large piece of a file that would fill a good part of the memory, from near by? */
static int fsb_cached_stream_(fsb_cached_ *c, const fsb_op *op, fsb_cached_file_ *f)
{
    fsb_stat st;
    if (!c->streams || op->code != FSB_OP_READ || op->flags || op->size < FSB_CACHED_CHUNK_ ||
        !(f->flags & FSB_O_READ) || __atomic_load_n(&c->away, __ATOMIC_RELAXED))
        return 0;
    fsb_cached_path_      *path = fsb_cached_path_of_(f);
    const fsb_cached_name_ n = fsb_cached_split_(c, path->text);
    const int large = fsb_cached_look_(c, &n, &st) == FSB_CACHED_STAT_ &&
                      st.size > c->record_max; /* an eighth of the memory */
    fsb_cached_path_put_(c, path);
    return large;
}

/* Ops that may be answered from memory. Takes over the pin; 0: it was left to pass. */
static int fsb_cached_serve_(fsb_cached_ *c, fsb_op *op, fsb_cached_file_ *f, int tries,
                             int64_t error)
{
    const int odd = fsb_cached_odd_(op);
    if (f && !tries && !error && fsb_cached_stream_(c, op, f)) return 0;
    if (op->code == FSB_OP_READ && !op->flags) fsb_cached_read_(c, op, f, tries, error);
    else if (odd) return 0;
    else if (op->code == FSB_OP_STAT) fsb_cached_stat_(c, op, f, tries, error);
    else if (f) return 0;
    else if (op->code == FSB_OP_LIST) fsb_cached_list_(c, op, tries, error);
    else if (op->code == FSB_OP_READLINK) fsb_cached_readlink_(c, op, error);
    else if (op->code == FSB_OP_GET) fsb_cached_get_(c, op, tries, error);
    else if (op->code == FSB_OP_OPEN) fsb_cached_open_(c, op, tries, error);
    else return 0;
    return 1;
}

/* Starts an op, or starts it again: `tries` times what it waited for came to nothing, `error` is
   what inner answered it already. */
static void fsb_cached_start_(fsb_cached_ *c, fsb_op *op, int tries, int64_t error)
{
    fsb_cached_file_ *f = NULL;
    const int         takes = fsb_cached_takes_handle_(op->code);
    const int         away = __atomic_load_n(&c->away, __ATOMIC_RELAXED);
    const int         err = tries ? 0 : fsb_cached_check_(op);
    if (away) fsb_cached_probe_(c);
    if (takes && op->handle) f = fsb_cached_pin_(c, op->handle);
    if (err || (takes && op->handle && (!f || f->flags == FSB_CACHED_WATCHING_))) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, err ? err : -EBADF);
    } else if (op->code == FSB_OP_CLOSE) {
        fsb_cached_close_op_(c, op);
    } else if (op->code == FSB_OP_LIST && f) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -ENOTDIR);
    } else if (op->code == FSB_OP_WATCH && op->flags & FSB_WATCH_HELD) {
        fsb_cached_watch_op_(c, op);
    } else if (op->code == FSB_OP_GETXATTR && !f && !op->path[1] && op->path2 &&
               !strcmp(op->path2, "user.fsb.status")) {
        fsb_cached_status_(c, op);
    } else if (fsb_cached_serve_(c, op, f, tries, error)) {
    } else if (error) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, error);
    } else if (away && fsb_cached_changes_(op) && (!c->inner || c->inner->submit)) {
        fsb_cached_unpin_(c, f);
        fsb_cached_finish_(op, -ENETDOWN);
    } else if (!fsb_cached_lazy_first_(c, op, tries)) {
        const int ask = op->code == FSB_OP_GETXATTR && !f && op->path2 && !fsb_cached_odd_(op);
        const fsb_cached_name_ n = fsb_cached_split_(c, ask ? op->path : "/");
        if (ask && fsb_cached_missing_(c, &n, op->path2, 0, 0, 0)) fsb_cached_finish_(op, -ENODATA);
        else fsb_cached_pass_(c, op, f, tries);
    }
}

/* ---- [backend: events] ----------------------------------------------------------------------- */

/* 1 if an event tells of what is known already. */
static int fsb_cached_known_event_(fsb_cached_ *c, const fsb_event *event)
{
    fsb_stat        st;
    const fsb_stat *is = event->stat;
    if (!is || (event->kind != FSB_EVENT_CONTENT && event->kind != FSB_EVENT_ATTR)) return 0;
    const fsb_cached_name_ n = fsb_cached_split_(c, event->path);
    if (fsb_cached_look_(c, &n, &st) != FSB_CACHED_STAT_) return 0;
    return st.file_id == is->file_id && st.version == is->version && st.size == is->size &&
           st.mode == is->mode && st.uid == is->uid && st.gid == is->gid &&
           st.nlink == is->nlink && st.mtime_ns == is->mtime_ns && st.ctime_ns == is->ctime_ns;
}

/* Forgets what an event tells of. */
static void fsb_cached_apply_(fsb_cached_ *c, const fsb_event *event)
{
    fsb_op moved;
    memset(&moved, 0, sizeof moved);
    moved.path = event->path, moved.path2 = event->path2;
    moved.file_id = event->path2 && event->stat ? event->stat->file_id : 0;
    if (event->stat && !fsb_cached_keepable_(event->stat))
        fsb_cached_bump_file_(c, event->stat->file_id);
    if (event->kind == FSB_EVENT_REMOVED || event->kind == FSB_EVENT_CREATED)
        (void)fsb_cached_each_file_(c, fsb_cached_unname_, &moved);
    switch (event->kind) {
    case FSB_EVENT_CREATED: (void)fsb_cached_touch_name_(c, event->path, 0); break;
    case FSB_EVENT_REMOVED: (void)fsb_cached_touch_name_(c, event->path, -1); break;
    case FSB_EVENT_CONTENT: case FSB_EVENT_ATTR: fsb_cached_touch_attr_(c, event->path); break;
    case FSB_EVENT_RENAMED:
        (void)fsb_cached_touch_name_(c, event->path, -1);
        if (!event->path2) break;
        (void)fsb_cached_touch_name_(c, event->path2, -1);
        moved.code = FSB_OP_RENAME;
        (void)fsb_cached_each_file_(c, fsb_cached_unname_, &moved);
        (void)fsb_cached_each_file_(c, fsb_cached_moved_, &moved);
        break;
    default:
        if (!event->path[1]) fsb_cached_suspect_(c);
        else (void)fsb_cached_touch_name_(c, event->path, 1);
    }
}

/* On inner's thread; who made the change waits until this returns. */
static void fsb_cached_event_(void *user, const fsb_event *event)
{
    fsb_cached_ *c = (fsb_cached_ *)user;
    if (!event->path || event->path[0] != '/' || strlen(event->path) > FSB_PATH_MAX) return;
    if (event->path2 && (event->path2[0] != '/' || strlen(event->path2) > FSB_PATH_MAX)) return;
    FSB_CACHED_COUNT_(c, events);
    /* Known here is not known above: a listing brings attributes that nobody there asked for. */
    const int quiet = !__atomic_load_n(&c->live, __ATOMIC_ACQUIRE);
    if (!quiet || !fsb_cached_known_event_(c, event)) fsb_cached_apply_(c, event);
    pthread_mutex_lock(&c->watch_lock);
    while (c->telling) pthread_cond_wait(&c->watch_idle, &c->watch_lock);
    c->telling = 1, c->teller = pthread_self();
    fsb_handle last = 0;
    for (;;) { /* by rising handle, so that the list may change meanwhile */
        fsb_cached_watch_ *w = NULL;
        for (fsb_cached_watch_ *i = c->watches; i; i = i->next)
            if (i->handle > last && (!w || i->handle < w->handle)) w = i;
        if (!w) break;
        last = w->handle;
        void (*const tell)(void *, const fsb_event *) = w->event;
        void *const whom = w->user;
        pthread_mutex_unlock(&c->watch_lock);
        tell(whom, event);
        pthread_mutex_lock(&c->watch_lock);
    }
    c->telling = 0;
    pthread_cond_broadcast(&c->watch_idle);
    pthread_mutex_unlock(&c->watch_lock);
}

static void fsb_cached_watch_op_(fsb_cached_ *c, fsb_op *op)
{
    fsb_cached_watch_ *w = NULL;
    int                err = 0;
    if (op->path[1] || !op->event) err = -EINVAL;
    else if (!__atomic_load_n(&c->leased, __ATOMIC_RELAXED)) err = -ENOSYS;
    else w = (fsb_cached_watch_ *)fsb_cached_new_(c, sizeof *w);
    if (!err && !w) err = -ENOMEM;
    if (w) {
        w->event = op->event, w->user = op->user;
        pthread_mutex_lock(&c->watch_lock);
        w->handle = (uint64_t)UINT32_MAX << 32 | ++c->last_watch;
        w->next = c->watches, c->watches = w;
        op->handle = w->handle;
        pthread_mutex_unlock(&c->watch_lock);
    }
    fsb_cached_finish_(op, err);
}

/* Out of the list, once its event() is not running, unless that is who asks. */
static fsb_cached_watch_ *fsb_cached_watch_take_(fsb_cached_ *c, fsb_handle handle)
{
    pthread_mutex_lock(&c->watch_lock);
    fsb_cached_watch_ **at = &c->watches, *w;
    while (*at && (*at)->handle != handle) at = &(*at)->next;
    w = *at;
    if (w) *at = w->next;
    while (w && c->telling && !pthread_equal(c->teller, pthread_self()))
        pthread_cond_wait(&c->watch_idle, &c->watch_lock);
    pthread_mutex_unlock(&c->watch_lock);
    return w;
}

/* ---- [backend: disk] -------------------------------------------------------------------------

   A thread writes to L2, so that who brings bytes never waits for a disk. What is too much for its
   queue is not written. A folder's record is its names and attributes under share and path. */

typedef struct fsb_cached_head_ {
    uint32_t magic, stat_size; /* another layout is no record */
    uint32_t count, complete;
    fsb_stat stat; /* of the folder; file_id 0: not known */
} fsb_cached_head_;
enum { FSB_CACHED_MAGIC_ = 0x46425346 };

static void fsb_cached_record_free_(fsb_cached_ *c, fsb_cached_record_ *r)
{
    fsb_slice_release(&r->slice);
    fsb_cached_free_(c, r->value, r->size);
    fsb_cached_path_put_(c, r->path);
    fsb_cached_free_(c, r, sizeof *r);
}

/* Queues a record, which is the queue's then. */
static void fsb_cached_record_put_(fsb_cached_ *c, fsb_cached_record_ *r)
{
    const uint64_t bytes = r->slice.size + r->size + sizeof *r;
    pthread_mutex_lock(&c->disk_lock);
    const int room = c->disk_started && c->record_bytes + bytes <= c->record_max;
    if (room) {
        r->next = NULL, *c->last_record = r, c->last_record = &r->next;
        c->record_bytes += bytes;
        pthread_cond_signal(&c->disk_wake);
    }
    pthread_mutex_unlock(&c->disk_lock);
    if (!room) fsb_cached_record_free_(c, r);
}

static void fsb_cached_record_chunk_(fsb_cached_ *c, const fsb_cache_key *key)
{
    fsb_cached_record_ *r =
        c->disk ? (fsb_cached_record_ *)fsb_cached_new_(c, sizeof *r) : NULL;
    if (!r) return;
    r->key = *key;
    if (fsb_cache_get(c->core, key, &r->slice) == 1) fsb_cached_record_put_(c, r);
    else fsb_cached_free_(c, r, sizeof *r);
}

/* The folder's names and attributes in one piece. Shard locked. */
static char *fsb_cached_pack_(fsb_cached_ *c, const fsb_cached_folder_ *f, const fsb_stat *st,
                              size_t *size)
{
    fsb_cached_head_ head;
    memset(&head, 0, sizeof head);
    head.magic = FSB_CACHED_MAGIC_, head.stat_size = sizeof(fsb_stat);
    head.count = f->order_count, head.complete = 1, head.stat = *st;
    *size = sizeof head;
    for (uint32_t i = 0; i < f->order_count; ++i)
        *size += sizeof(fsb_stat) + 2u + f->order[i]->name_size;
    char *value = *size > FSB_CACHE_VALUE_
                      ? NULL
                      : (char *)fsb_cached_resize_(c, NULL, 0, *size);
    if (!value) return NULL;
    char *at = value;
    memcpy(at, &head, sizeof head), at += sizeof head;
    for (uint32_t i = 0; i < f->order_count; ++i) {
        fsb_cached_entry_ *e = f->order[i];
        const uint16_t     name_size = e->name_size;
        fsb_stat           none;
        memset(&none, 0, sizeof none);
        memcpy(at, e->state == FSB_CACHED_STAT_ ? &e->stat : &none, sizeof none);
        at += sizeof none;
        memcpy(at, &name_size, 2), at += 2;
        memcpy(at, fsb_cached_entry_name_(e), name_size), at += name_size;
    }
    return value;
}

static void fsb_cached_record_folder_(fsb_cached_ *c, const fsb_cached_path_ *path)
{
    if (!c->disk) return;
    fsb_stat               st;
    const fsb_cached_name_ own = fsb_cached_split_(c, path->text);
    const fsb_cached_name_ n = fsb_cached_join_(c, path->text, path->size, "", 0);
    fsb_cached_shard_     *s = fsb_cached_shard_of_(c, n.folder_hash);
    if (fsb_cached_look_(c, &own, &st) != FSB_CACHED_STAT_) memset(&st, 0, sizeof st);
    fsb_cached_record_ *r = (fsb_cached_record_ *)fsb_cached_new_(c, sizeof *r);
    if (r) r->path = fsb_cached_path_copy_(c, path->text);
    if (r && r->path) {
        pthread_mutex_lock(&s->lock);
        fsb_cached_folder_ *f = fsb_cached_folder_of_(s, &n);
        if (f && f->listed == FSB_CACHED_STAT_)
            r->value = fsb_cached_pack_(c, f, &st, &r->size);
        pthread_mutex_unlock(&s->lock);
    }
    const int large = r && r->size > FSB_CACHE_VALUE_; /* the record that was must go */
    if (r && !r->value) r->size = 0;
    if (r && r->path && (r->value || large)) fsb_cached_record_put_(c, r);
    else if (r) fsb_cached_record_free_(c, r);
}

/* A record's key: the share and the path. */
static size_t fsb_cached_record_key_(const fsb_cached_ *c, const char *path, size_t size, char *out)
{
    memcpy(out, &c->share, 8);
    memcpy(out + 8, path, size);
    return 8 + size;
}

/* Where the folder is too much for a record, an older one of it goes all the same. */
static void fsb_cached_record_write_(fsb_cached_ *c, const fsb_cached_record_ *r)
{
    char         key[FSB_PATH_MAX + 9];
    const size_t size = fsb_cached_record_key_(c, r->path->text, r->path->size, key);
    const int    err =
        r->value ? fsb_cache_disk_meta_put(c->disk, key, size, r->value, r->size) : -E2BIG;
    if (err == -E2BIG) (void)fsb_cache_disk_meta_remove(c->disk, key, size);
}

static void *fsb_cached_disk_main_(void *arg)
{
    fsb_cached_ *c = (fsb_cached_ *)arg;
    pthread_mutex_lock(&c->disk_lock);
    for (;;) {
        while (!c->records && !c->closing) pthread_cond_wait(&c->disk_wake, &c->disk_lock);
        fsb_cached_record_ *r = c->records;
        if (!r) break;
        c->records = r->next;
        if (!r->next) c->last_record = &c->records;
        pthread_mutex_unlock(&c->disk_lock);
        const uint64_t bytes = r->slice.size + r->size + sizeof *r;
        if (r->path) fsb_cached_record_write_(c, r);
        else (void)fsb_cache_disk_put(c->disk, &r->key, r->slice.data, r->slice.size);
        fsb_cached_record_free_(c, r);
        pthread_mutex_lock(&c->disk_lock);
        c->record_bytes -= bytes;
    }
    pthread_mutex_unlock(&c->disk_lock);
    return NULL;
}

/* One entry of a record, as it was: good enough while the host is away. Shard locked. */
static void fsb_cached_unpack_one_(fsb_cached_ *c, fsb_cached_folder_ *f, const char *path,
                                   const fsb_stat *st, const char *name, size_t name_size)
{
    const fsb_cached_name_ n = fsb_cached_join_(c, path, strlen(path), name, name_size);
    if (!name_size || name_size > FSB_NAME_MAX || memchr(name, '/', name_size)) return;
    fsb_cached_entry_ *e = fsb_cached_entry_of_(f, &n);
    if (!e) {
        e = fsb_cached_entry_make_(c, f, &n);
        if (!e) return;
        e->stat = *st;
        e->state = st->file_id ? FSB_CACHED_STAT_ : FSB_CACHED_NAMED_;
    }
    if (e->place) return;
    e->cookie = f->order_count + 1;
    fsb_cached_place_(c, f, e);
}

static void fsb_cached_unpack_(fsb_cached_ *c, fsb_cached_folder_ *f, const char *path,
                               const char *value, size_t size)
{
    fsb_cached_head_ head;
    if (size < sizeof head) return;
    memcpy(&head, value, sizeof head);
    if (head.magic != FSB_CACHED_MAGIC_ || head.stat_size != sizeof(fsb_stat)) return;
    size_t at = sizeof head;
    for (uint32_t i = 0; i < head.count; ++i) {
        fsb_stat st;
        uint16_t name_size;
        if (size - at < sizeof st + 2) return;
        memcpy(&st, value + at, sizeof st);
        memcpy(&name_size, value + at + sizeof st, 2);
        at += sizeof st + 2;
        if (size - at < name_size) return;
        fsb_cached_unpack_one_(c, f, path, &st, value + at, name_size);
        at += name_size;
    }
    f->listed = FSB_CACHED_STAT_, f->complete = 1;
}

/* A folder's record from L2, which is the caller's, and its size. NULL: there is none. */
static char *fsb_cached_record_get_(fsb_cached_ *c, const char *path, size_t path_size,
                                    size_t *size)
{
    char          key[FSB_PATH_MAX + 9];
    const size_t  key_size = fsb_cached_record_key_(c, path, path_size, key);
    const int64_t is = fsb_cache_disk_meta_get(c->disk, key, key_size, NULL, 0);
    char *value = is > 0 ? (char *)fsb_cached_resize_(c, NULL, 0, (size_t)is) : NULL;
    if (!value) return NULL;
    *size = (size_t)is;
    if (fsb_cache_disk_meta_get(c->disk, key, key_size, value, *size) == is) return value;
    fsb_cached_free_(c, value, *size);
    return NULL;
}

/* What L2 remembers of a folder, to be answered while the host is away. Reads the disk. */
static void fsb_cached_load_path_(fsb_cached_ *c, const char *path, size_t path_size)
{
    const fsb_cached_name_ n = fsb_cached_join_(c, path, path_size, "", 0);
    fsb_cached_shard_     *s = fsb_cached_shard_of_(c, n.folder_hash);
    size_t                 size = 0;
    pthread_mutex_lock(&s->lock);
    const fsb_cached_folder_ *was = fsb_cached_folder_of_(s, &n);
    const int                 known = was && (was->loaded || was->listed == FSB_CACHED_STAT_);
    pthread_mutex_unlock(&s->lock);
    char *value = known ? NULL : fsb_cached_record_get_(c, path, path_size, &size);
    if (!value) return;
    pthread_mutex_lock(&s->lock);
    fsb_cached_folder_ *f = fsb_cached_folder_make_(c, s, &n, 0);
    if (f && !f->loaded) {
        f->loaded = 1;
        if (f->listed == FSB_CACHED_UNKNOWN_ && !f->lister) {
            fsb_cached_unlist_(f);
            fsb_cached_unpack_(c, f, fsb_cached_folder_path_(f), value, size);
        }
    }
    pthread_mutex_unlock(&s->lock);
    fsb_cached_free_(c, value, size);
    fsb_cached_trim_(c);
}

static void fsb_cached_load_folder_(fsb_cached_ *c, const fsb_cached_name_ *n)
{
    fsb_cached_head_ head;
    size_t           size = 0;
    if (n->folder_size) {
        fsb_cached_load_path_(c, n->folder, n->folder_size);
        return;
    }
    /* the root has no folder: its attributes stand in its own record */
    char *value = fsb_cached_record_get_(c, "/", 1, &size);
    if (!value) return;
    if (size >= sizeof head) {
        memcpy(&head, value, sizeof head);
        fsb_cached_shard_ *s = fsb_cached_shard_of_(c, n->folder_hash);
        pthread_mutex_lock(&s->lock);
        fsb_cached_folder_ *f = fsb_cached_folder_make_(c, s, n, 0);
        fsb_cached_entry_  *e = f ? fsb_cached_entry_make_(c, f, n) : NULL;
        if (e && e->state == FSB_CACHED_UNKNOWN_ && head.magic == FSB_CACHED_MAGIC_ &&
            head.stat_size == sizeof(fsb_stat) && head.stat.file_id)
            e->stat = head.stat, e->state = FSB_CACHED_STAT_;
        pthread_mutex_unlock(&s->lock);
    }
    fsb_cached_free_(c, value, size);
}

/* ---- [backend: public] ----------------------------------------------------------------------- */

static void fsb_cached_submit_(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        fsb_op *op = ops[i];
        op->layer[0] = NULL;
        fsb_cached_no_slice_(op);
        fsb_cached_start_((fsb_cached_ *)(void *)b, op, 0, 0);
    }
}

/* Only what waits long can be hurried: LOCK, EXEC, and other calls that were passed on as they
   are. */
static void fsb_cached_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_cached_ *c = (fsb_cached_ *)(void *)b;
    pthread_mutex_lock(&c->disk_lock);
    fsb_cached_call_ *k = (fsb_cached_call_ *)op->layer[0];
    if (k) ++k->holds;
    pthread_mutex_unlock(&c->disk_lock);
    if (!k) return;
    if (c->inner && c->inner->cancel) c->inner->cancel(c->inner, &k->op);
    pthread_mutex_lock(&c->disk_lock);
    const int landed = !--k->holds && k->landed;
    pthread_mutex_unlock(&c->disk_lock);
    if (landed) fsb_cached_then_(k);
}

typedef struct fsb_cached_waiter_ {
    fsb_cached_    *c;
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    int             done;
} fsb_cached_waiter_;

/* What was only lent until now is copied, for the caller to keep. */
static void fsb_cached_wake_(fsb_op *op)
{
    fsb_cached_waiter_ *w = (fsb_cached_waiter_ *)op->layer[1];
    if (op->result > 0 && !op->buf && op->slice.data && !op->slice.release) {
        const fsb_slice lent = op->slice;
        char           *to = fsb_cached_room_(w->c, op, lent.size);
        if (to) memcpy(to, lent.data, lent.size);
        else fsb_cached_no_slice_(op), op->result = -ENOMEM;
    }
    pthread_mutex_lock(&w->lock);
    w->done = 1;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static int64_t fsb_cached_call_wait_(fsb_backend *b, fsb_op *op)
{
    void (*const done)(fsb_op *) = op->done;
    void *const        layer = op->layer[1];
    fsb_cached_waiter_ w;
    w.c = (fsb_cached_ *)(void *)b, w.done = 0;
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.cond, NULL);
    op->done = fsb_cached_wake_, op->layer[1] = &w;
    fsb_cached_submit_(b, &op, 1);
    pthread_mutex_lock(&w.lock);
    while (!w.done) pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    op->done = done, op->layer[1] = layer;
    return op->result;
}

/* The lease is there: answers of requests sent before it are not under it. */
static void fsb_cached_leased_(fsb_cached_ *c, const fsb_op *op)
{
    if (op->result == -ENOSYS || op->result == -EINVAL)
        __atomic_store_n(&c->watchable, 0, __ATOMIC_RELEASE);
    if (op->result < 0) return;
    fsb_cached_bump_all_(c);
    __atomic_store_n(&c->lease, op->handle, __ATOMIC_RELEASE);
    __atomic_store_n(&c->leased, 1, __ATOMIC_RELEASE);
    fsb_cached_suspect_(c);
}

static void fsb_cached_lease_done_(fsb_cached_call_ *k)
{
    fsb_cached_leased_(k->c, &k->op);
    fsb_cached_call_free_(k);
}

static void fsb_cached_lease_op_(fsb_cached_ *c, fsb_op *op)
{
    op->code = FSB_OP_WATCH, op->path = "/", op->flags = FSB_WATCH_HELD | FSB_WATCH_DEEP;
    op->event = fsb_cached_event_, op->user = c;
}

/* Asks for the lease, where it could not be had when this was opened. */
static void fsb_cached_lease_(fsb_cached_ *c)
{
    if (__atomic_load_n(&c->leased, __ATOMIC_ACQUIRE) || !c->inner || !c->inner->submit ||
        !c->inner->call[FSB_OP_WATCH] || !__atomic_load_n(&c->watchable, __ATOMIC_ACQUIRE))
        return;
    fsb_cached_call_ *k = fsb_cached_call_new_(c, NULL, FSB_OP_WATCH, fsb_cached_lease_done_);
    if (!k) return;
    fsb_cached_lease_op_(c, &k->op);
    fsb_cached_send_(k);
}

static void fsb_cached_destroy_(fsb_cached_ *c)
{
    for (uint32_t i = 0; i < FSB_CACHED_SHARDS_; ++i) {
        fsb_cached_shard_ *s = &c->shards[i];
        for (uint32_t j = 0; s->table && j < s->table_size; ++j)
            while (s->table[j]) fsb_cached_folder_remove_(c, s, &s->table[j]);
        if (s->table) (void)fsb_cached_counted_(c, s->table, s->table_size * sizeof *s->table, 0);
        pthread_mutex_destroy(&s->lock);
    }
    for (uint32_t i = 0; i < c->file_count; ++i) {
        fsb_cached_file_ *f = fsb_cached_file_at_(c, i);
        fsb_cached_path_put_(c, f->path);
        pthread_mutex_destroy(&f->lock);
    }
    for (uint32_t i = 0; i < c->file_count / FSB_CACHED_BLOCK_; ++i)
        fsb_cached_free_(c, c->blocks[i], FSB_CACHED_BLOCK_ * sizeof *c->blocks[i]);
    while (c->watches) {
        fsb_cached_watch_ *w = c->watches;
        c->watches = w->next;
        fsb_cached_free_(c, w, sizeof *w);
    }
    fsb_cache_close(c->core);
    pthread_mutex_destroy(&c->file_lock);
    pthread_mutex_destroy(&c->watch_lock);
    pthread_mutex_destroy(&c->disk_lock);
    pthread_cond_destroy(&c->watch_idle);
    pthread_cond_destroy(&c->disk_wake);
    pthread_cond_destroy(&c->quiet);
    fsb_cached_free_(c, c, sizeof *c);
}

/* Handles that were left open are closed at inner. */
static int fsb_cached_close_left_(fsb_cached_ *c, fsb_cached_file_ *f, const fsb_op *op)
{
    (void)op;
    fsb_cached_close_inner_(c, f);
    return 0;
}

static void fsb_cached_close_(fsb_backend *b)
{
    fsb_cached_ *c = (fsb_cached_ *)(void *)b;
    fsb_op       op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_CLOSE;
    (void)fsb_cached_each_file_(c, fsb_cached_close_left_, NULL);
    do { /* another lease may have been on its way */
        op.handle = __atomic_exchange_n(&c->lease, 0, __ATOMIC_ACQ_REL);
        if (op.handle) (void)c->inner->call[FSB_OP_CLOSE](c->inner, &op);
        pthread_mutex_lock(&c->disk_lock);
        while (__atomic_load_n(&c->live, __ATOMIC_ACQUIRE))
            pthread_cond_wait(&c->quiet, &c->disk_lock);
        pthread_mutex_unlock(&c->disk_lock);
    } while (__atomic_load_n(&c->lease, __ATOMIC_ACQUIRE));
    pthread_mutex_lock(&c->disk_lock);
    c->closing = 1;
    pthread_cond_broadcast(&c->disk_wake);
    pthread_mutex_unlock(&c->disk_lock);
    if (c->disk_started) pthread_join(c->disk_thread, NULL);
    fsb_cached_destroy_(c);
}

static int fsb_cached_open_parts_(fsb_cached_ *c, const fsb_cache_backend_desc *d)
{
    const uint64_t most = d->max_bytes ? d->max_bytes : 128u << 20;
    fsb_cache_desc core;
    memset(&core, 0, sizeof core);
    core.max_entries = most / 4096; /* their table is taken at once */
    core.max_bytes = most - most / 4, core.allocator = d->allocator, core.log = d->log;
    if (core.max_bytes < 1 << 20) core.max_bytes = 1 << 20;
    c->folder_max = most / 4, c->record_max = most / 8;
    c->read_ahead = d->read_ahead ? d->read_ahead : 8u << 20;
    if (c->read_ahead > most / 8) c->read_ahead = most / 8;
    for (uint32_t i = 0; i < FSB_CACHED_SHARDS_; ++i) {
        fsb_cached_shard_ *s = &c->shards[i];
        s->table = (fsb_cached_folder_ **)fsb_cached_counted_(c, NULL, 0, 16 * sizeof *s->table);
        if (!s->table) return -ENOMEM;
        memset(s->table, 0, 16 * sizeof *s->table);
        s->table_size = 16;
    }
    int err = fsb_cache_open(&c->core, &core);
    if (!err && c->disk) {
        sigset_t all, old;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old); /* threads of ours take no signals */
        err = -pthread_create(&c->disk_thread, NULL, fsb_cached_disk_main_, c);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        c->disk_started = !err;
    }
    return err;
}

static void fsb_cached_fill_(fsb_cached_ *c)
{
    c->base.size = sizeof c->base, c->base.name = "cached";
    c->base.flags = c->inner ? c->inner->flags : 0;
    c->base.close = fsb_cached_close_;
    if (!c->inner || c->inner->submit) c->base.submit = fsb_cached_submit_;
    c->base.cancel = fsb_cached_cancel_;
    for (uint32_t i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) {
        const int ours = i == FSB_OP_GETXATTR || i == FSB_OP_WATCH;
        if (ours || fsb_cached_can_(c, i)) c->base.call[i] = fsb_cached_call_wait_;
    }
}

/* How long a round trip takes, in ns; 0: not known. A host that is near is asked again rather than
   that a large file is kept here: to copy its bytes twice more costs a third of the speed of a
   local socket (measured), and drives out what is worth keeping. One that is far is asked for more
   than is wanted yet. */
static int64_t fsb_cached_distance_(fsb_cached_ *c)
{
    int64_t least = INT64_MAX;
    for (int i = 0; i < 8 && least > FSB_CACHED_NEAR_NS_; ++i) { /* it may be late on a busy day */
        const int64_t start = fsb_cached_clock_ns_();
        fsb_op        op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_STAT, op.path = "/";
        if (!c->inner->call[FSB_OP_STAT] || c->inner->call[FSB_OP_STAT](c->inner, &op) < 0)
            return 0;
        const int64_t took = fsb_cached_clock_ns_() - start;
        if (took < least) least = took;
        if (i && least > 10000000) break; /* far enough */
    }
    return least;
}

FSB_API int fsb_cached_backend(fsb_backend **out, const fsb_cache_backend_desc *d)
{
    if (!out || !d || (!d->inner && !d->offline)) return -EINVAL;
    if (d->inner && d->inner->size < sizeof *d->inner) return -EINVAL;
    fsb_cached_ *c = (fsb_cached_ *)fsb_cache_alloc_(&d->allocator, sizeof *c);
    if (!c) return -ENOMEM;
    c->inner = d->inner, c->allocator = d->allocator, c->log = d->log, c->disk = d->disk;
    c->ttl_ms = d->ttl_ms ? d->ttl_ms : 1000, c->epoch = 1, c->watchable = 1;
    c->seed = fsb_cache_random_(), c->last_record = &c->records;
    c->share = fsb_cached_hash_(0, d->share ? d->share : "", d->share ? strlen(d->share) : 0);
    for (uint32_t i = 0; i < FSB_CACHED_SHARDS_; ++i)
        pthread_mutex_init(&c->shards[i].lock, NULL);
    pthread_mutex_init(&c->file_lock, NULL);
    pthread_mutex_init(&c->watch_lock, NULL);
    pthread_mutex_init(&c->disk_lock, NULL);
    pthread_cond_init(&c->watch_idle, NULL);
    pthread_cond_init(&c->disk_wake, NULL);
    pthread_cond_init(&c->quiet, NULL);
    const int err = fsb_cached_open_parts_(c, d);
    if (err) {
        fsb_cached_destroy_(c);
        return err;
    }
    fsb_cached_fill_(c);
    if (d->offline) fsb_cached_go_away_(c, "offline: what is remembered is served as it was");
    else if (c->inner->call[FSB_OP_WATCH]) {
        fsb_op op;
        memset(&op, 0, sizeof op);
        fsb_cached_lease_op_(c, &op);
        (void)c->inner->call[FSB_OP_WATCH](c->inner, &op);
        fsb_cached_leased_(c, &op);
        fsb_cached_heard_(c, &op);
        c->rtt_ns = fsb_cached_distance_(c);
        c->distant = c->rtt_ns > FSB_CACHED_NEAR_NS_;
        c->streams = !c->disk && c->rtt_ns && !c->distant;
    }
    *out = &c->base;
    return 0;
}

FSB_API void fsb_cached_get_stats(fsb_backend *cached, fsb_cached_stats *out)
{
    fsb_cached_    *c = (fsb_cached_ *)(void *)cached;
    uint64_t       *to = (uint64_t *)(void *)out;
    const uint64_t *from = (const uint64_t *)(const void *)&c->stats;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < offsetof(fsb_cached_stats, leased) / sizeof *to; ++i)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    out->folder_bytes = __atomic_load_n(&c->folder_bytes, __ATOMIC_RELAXED);
    out->offline_since_ns = (uint64_t)__atomic_load_n(&c->away_since_ns, __ATOMIC_RELAXED);
    out->leased = __atomic_load_n(&c->leased, __ATOMIC_RELAXED);
}

#ifdef __cplusplus
}
#endif
#endif /* POSIX */
#endif /* implementation */

/* MIT License

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
SOFTWARE. */
