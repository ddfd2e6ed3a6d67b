/* fsb_mount.h - v0.1.0 - mounts any fsb backend through FUSE - single-header C library (C99, C++11)

   A mount shows the files of one backend (see "vtable" below) as a folder of this machine. It talks
   to the kernel through libfuse3's low-level interface, and passes each request on without waiting:
   the thread that has the backend's answer gives it to the kernel.
   Beside it are tables for whoever serves many, usable alone: handles (ids that never reach what
   uses their slot later), mounts (which backend a path belongs to), the backend that routes through
   them, tenants (such backends by name, apart from each other), plugins (backends out of shared
   objects), and tokens (signed texts that say who may do what). They need neither FUSE nor any
   other fsb header.

   QUICK START   (extracted, compiled and run by the tests)
       #define FSB_MOUNT_IMPLEMENTATION     // in ONE source file, before its other includes
       #include "fsb_mount.h"               // (FSB_IMPLEMENTATION enables every fsb header)
       #include <string.h>

       // Serves `files` at `folder` until somebody unmounts it: fusermount3 -u FOLDER.
       static int serve(fsb_backend *files, const char *folder)
       {
           fsb_mount_desc desc;
           memset(&desc, 0, sizeof desc);   // a zero field means "use the default"
           desc.backend = files;
           desc.mountpoint = folder;
           fsb_mount *mount = NULL;
           int err = fsb_mount_open(&mount, &desc);
           if (err) return err;             // -ENOSYS: built without FSB_WITH_FUSE
           err = fsb_mount_serve(mount);    // a signal handler may call fsb_mount_stop(mount)
           fsb_mount_close(mount);
           return err;
       }
       int main(void) { return serve(NULL, "/mnt") == 0; }

   NEEDS     Linux, POSIX threads (-pthread). With FSB_WITH_FUSE libfuse 3.14 or newer (-lfuse3),
             /dev/fuse and the right to mount: root, or fusermount3. Plugins: -ldl where glibc is
             older than 2.34. With a strict -std=, include this header before those of libc.
   OPTIONS   FSB_WITH_FUSE: without it fsb_mount_open() answers -ENOSYS. FSB_WITH_OPENSSL (3.0 or
             newer, -lcrypto): without it fsb_tokens_open() does. FSB_STATIC, FSB_API: once, before
             the first fsb header. They change the linkage only.
   THREADS   fsb_mount_serve() starts desc.threads threads and has ended them when it returns; they
             block all signals. Requests are answered on these and on the backend's threads. A
             backend without submit() is called on desc.runner's threads, or on those of the mount
             when it is FSB_BACKEND_QUICK or there is no runner: then a slow call delays others.
             A plugin has up to desc.workers + max_stuck threads, a table with sweep_ms one.
   MEMORY    The desc's allocator; libfuse has its own. A known file takes about 500 bytes and its
             names, a thread 1 MiB to receive (of which it touches what requests fill), writes on
             their way up to desc.write_behind bytes, small files fetched ahead up to 16 MiB; what a
             second of quiet finds unused is freed.
   ERRORS    Negative errno values; whatever the backend answers reaches the application. What
             was refused and why is told through desc.log, the last text by fsb_mount_errmsg().
             A delayed write that fails is reported once: by the next write, fsync or close.
   COHERENCE A backend that gives a lease (WATCH with FSB_WATCH_HELD: fsb_chunk.h's client, the
             caching backend of fsb_cache.h) says when something changes. Until then the kernel
             keeps names, attributes, listings and pages, a known file is opened without a word to
             the host, and the small files of a folder that is read file by file are fetched
             together. The kernel lists what it knows without a word to the mount; where nothing
             can be written (desc.read_only, the option ro) and locks are local it opens and reads
             files so, too. Who stands in a folder that others move stays in it, though getcwd(3)
             fails until the new path is looked up; where it went to a folder that nobody has
             looked up here, names in it answer ESTALE until then. Without a lease open asks for the
             version of the file (close-to-open), and names and attributes are believed for
             entry_timeout and attr_timeout.
   LINKS     The text of a symbolic link is the backend's, but this machine's kernel follows it: a
             malicious host could lead programs, root's too, to files of this machine. With
             desc.contain_symlinks reading a link fails with EPERM, and so does following it, where
             its text is absolute (it would start at this machine's root), goes up more folders than
             there are above the link in the mount, or goes up behind a name ("a/..": a may be a
             link itself, to anywhere deeper or higher). lstat works, so `ls -l` shows such a link,
             without its text, and says why; the first is named in the log. The depth that counts
             is the least at which the kernel may have known the link; a folder that the host moves
             up is taken for another one, so who stands in it gets ESTALE. Links in the mount to the
             mount's own absolute path are refused too: make them relative. Set-user-id programs
             and device nodes count for nothing in any mount (nosuid, nodev), unless root gives the
             options suid or dev.
   DOES NOT  use the kernel's write-back cache: a store through mmap reaches the host when the
             kernel writes it (msync, munmap, close). Two mounts that write one file at once,
             without locks or a lease, may keep old parts of it cached until it changes again. A
             file that was opened under a lease, not yet read, and removed by another client
             answers ESTALE; on a read-only mount so does one that was read in part, if 256 other
             large files were read between. No files without a name (O_TMPFILE), whiteouts, flags
             of chattr(1), times after 2262 or before 1677, nor paths of more than 8191 bytes below
             the mount; POSIX ACLs are kept but not obeyed. That reading has changed a time of
             access is seen once the attributes are asked for anew.
             Locks act within the mount, unless the option remote_locks is given. What a mapping
             has dirty is lost when the mount is stopped while in use. libfuse's own messages are
             silenced, for the whole process. A plugin that crashes once it is loaded takes the
             program with it.
   LICENCE   MIT, at the end of this file.
   CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_MOUNT_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_MOUNT_H
#define FSB_MOUNT_H
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

/* ---- tables: usable alone, without FSB_WITH_FUSE --------------------------------------------- */

/* Handles: 64-bit ids for objects of yours. An id names a slot and its generation, so that the id
   of a closed handle never reaches what uses its slot later. Looking one up takes no lock. */
typedef struct fsb_handles fsb_handles;
typedef struct fsb_handles_desc {
    uint32_t max_handles; /* live at once (default 65536, at most 1 << 28); a slot is 32 bytes */
    uint32_t shards;      /* lists of free slots, a power of two (default 16, at most 256) */
    uint32_t idle_ms;     /* close what is not used for so long (default 0: never) */
    uint32_t sweep_ms;    /* a thread sweeps so often (default 0: none, the caller sweeps) */
    /* Called once for each handle that is gone and pinned no more, by the thread that made it so,
       under no lock. NULL: objects need no release. */
    void (*release)(void *user, fsb_handle id, void *object);
    void         *user;
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_handles_desc;
typedef struct fsb_handles_stats {
    uint64_t live, slots;            /* now */
    uint64_t added, expired, refused; /* so far; refused: the table was full */
} fsb_handles_stats;

/* Makes a table; it starts a thread only if desc.sweep_ms is set. desc NULL: all defaults.
   Errors: -EINVAL, -ENOMEM, -EAGAIN no thread. Threads: any. */
FSB_API int fsb_handles_open(fsb_handles **out, const fsb_handles_desc *desc);
/* Removes all handles, pinned ones too, and frees the table. NULL is fine.
   Errors: none. Threads: no other user left. */
FSB_API void fsb_handles_close(fsb_handles *t);
/* Gives `object` (not NULL) an id. `owner` is a tag to look up and release by, 0: nobody's.
   idle_ms: 0 the table's, UINT32_MAX never, at most 1 << 30.
   Errors: -EMFILE the table is full, -ENOMEM, -EINVAL. Threads: any. */
FSB_API int fsb_handles_add(fsb_handles *t, void *object, uint32_t owner, uint32_t idle_ms,
                            fsb_handle *id);
/* The object of a live handle, which counts as used now. It is live when it is looked up; whoever
   may be overtaken by a removal pins instead. owner 0: whosever it is.
   Errors: -EBADF closed, or never given out; -EACCES another owner's. Threads: any. */
FSB_API int fsb_handles_get(fsb_handles *t, fsb_handle id, uint32_t owner, void **object);
/* The same, and the object is not released before the unpin. Handles in use do not expire.
   Errors: as fsb_handles_get(); -EAGAIN two thousand million pins. Threads: any. */
FSB_API int fsb_handles_pin(fsb_handles *t, fsb_handle id, uint32_t owner, void **object);
/* Ends one pin; releases the object if the handle was removed meanwhile and this was the last.
   Errors: -EBADF not pinned. Threads: any. */
FSB_API int fsb_handles_unpin(fsb_handles *t, fsb_handle id);
/* Removes a handle: no later call reaches it. Returns 0, or 1 if pins keep its object for now.
   Errors: as fsb_handles_get(). Threads: any. */
FSB_API int fsb_handles_remove(fsb_handles *t, fsb_handle id, uint32_t owner);
/* Removes all handles of `owner` (not 0) and returns how many they were. Those that are being added
   meanwhile may stay.
   Errors: none. Threads: any. */
FSB_API size_t fsb_handles_release(fsb_handles *t, uint32_t owner);
/* Removes handles that were idle for their time, never early, and late by no more than the time
   between two sweeps; returns how many. Their ids go to ids[], if that is not NULL: then no more
   than `room`. To be called at least once in ten days.
   Errors: none. Threads: any. */
FSB_API size_t fsb_handles_sweep(fsb_handles *t, fsb_handle *ids, size_t room);
/* Calls fn for each live handle of `owner` (0: of all), pinned meanwhile, until fn returns not 0,
   which is returned. Those added or removed meanwhile may be missed.
   Errors: fn's. Threads: any; fn may call the table. */
FSB_API int fsb_handles_each(fsb_handles *t, uint32_t owner,
                             int (*fn)(void *user, fsb_handle id, void *object), void *user);
/* Counts; a walk over all slots. Errors: none. Threads: any. */
FSB_API void fsb_handles_stat(fsb_handles *t, fsb_handles_stats *stats);

/* Mount tables: which backend a path belongs to. The mount point with the longest path that is the
   path or a folder above it wins; several backends on one point are a union: a name is the first
   one's that has it, new names are made in the first. Resolving takes no lock and no memory. */
typedef struct fsb_mounts fsb_mounts;
typedef struct fsb_mounts_desc {
    uint32_t      max_mounts; /* mount points (default 1 << 20, at most 1 << 24) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_mounts_desc;
enum { /* where in the union on its point; none of them: the point must be new */
    FSB_BIND_BEFORE = 1, FSB_BIND_AFTER = 2, FSB_BIND_REPLACE = 4,
    FSB_BIND_READ_ONLY = 8 /* what would change anything answers -EROFS */
};
enum { FSB_BIND_DEPTH_MAX = 62, FSB_BIND_UNION_MAX = 16 };
typedef struct fsb_bind {
    fsb_backend *backend; /* required; not closed with the table, and must outlive the bind */
    const char  *prefix;  /* the folder of backend that appears, normalised (NULL: "/"; copied) */
    uint32_t     flags;   /* FSB_BIND_* */
    uint32_t     number;  /* -> tells the binds of a table apart; not reused */
} fsb_bind;
typedef struct fsb_mounted { /* where a path leads, until it is released */
    const fsb_bind *binds;   /* [count] */
    uint32_t        count, number;
    const char     *rest;    /* of the path, behind the point: "" or "/..."; "" for "/" too */
} fsb_mounted;

/* desc NULL: all defaults. Errors: -EINVAL, -ENOMEM. Threads: any. */
FSB_API int fsb_mounts_open(fsb_mounts **out, const fsb_mounts_desc *desc);
/* Forgets all binds. NULL is fine.
   Errors: none. Threads: no other user left, nothing unreleased. */
FSB_API void fsb_mounts_close(fsb_mounts *t);
/* Binds a backend to `path`, of `size` bytes (normalised: "/", "/a/b"; copied).
   Errors: -EINVAL no normalised path ("", "a", "//", "/a/", "/."); -EACCES "/.."; -EILSEQ a NUL in
   it; -ENAMETOOLONG; -E2BIG more than FSB_BIND_DEPTH_MAX components or FSB_BIND_UNION_MAX backends;
   -EEXIST the point is taken and no flag says where; -EBUSY REPLACE of what is in use; -ENOSPC too
   many points; -ENOMEM. Threads: any. */
FSB_API int fsb_mounts_add(fsb_mounts *t, const char *path, size_t size, const fsb_bind *bind);
/* Takes a backend (NULL: all) off a point. When it returns 0, no call or handle uses it.
   Errors: -ENOENT no such bind, -EBUSY the point is in use, -ENOMEM. Threads: any. */
FSB_API int fsb_mounts_remove(fsb_mounts *t, const char *path, const fsb_backend *backend);
/* Where a normalised path leads. To be released.
   Errors: -ENOENT nothing is mounted above it; -ENAMETOOLONG. Threads: any. */
FSB_API int fsb_mounts_resolve(fsb_mounts *t, const char *path, fsb_mounted *out);
/* Errors: none. Threads: any. */
FSB_API void fsb_mounts_release(fsb_mounts *t, const fsb_mounted *at);
/* Copies the next mount point at or below folder `top` behind `path` ("": the first), by name,
   parents first, into `path` (FSB_PATH_MAX + 1 bytes). Returns 1, or 0 behind the last.
   Errors: none. Threads: any. */
FSB_API int fsb_mounts_next(fsb_mounts *t, const char *top, char *path);

typedef struct fsb_namespace_desc {
    fsb_mounts   *mounts;  /* required; must outlive the namespace, and may change meanwhile */
    fsb_handles  *handles; /* where its open files are (default: a table of its own); its release()
                              must be fsb_namespace_release, and it must outlive the namespace */
    uint32_t      owner;   /* the tag of its handles (default 1): others' answer -EACCES */
    fsb_runner    runner;  /* for what has to wait: with it there is a submit() (default: none) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_namespace_desc;

/* A backend that routes every call to what is mounted where its path leads. Mount points are seen
   in the listings of their folders, and the folders that lead to them as read-only ones even where
   no backend has them. RENAME, LINK, COPY between two binds answer -EXDEV; RMDIR and RENAME of what
   holds mount points -EBUSY. Each bind has its own file_ids. A union looks a name up with a STAT of
   each member. A prefix is no jail against symbolic links: bind an fsb_scoped_open() for that.
   WATCH joins the watches of what its folder shows: of all members of a union and, FSB_WATCH_DEEP,
   of the mount points below it as they are then; event() comes on the threads of all these. If one
   of them cannot watch it is refused; FSB_WATCH_HELD answers -ENOSYS. Until the watch is closed
   these points are in use: they cannot be removed. What is bound later is not joined, and neither
   is the binding an event: watch anew behind it. What a later point hides is told of no more.
   With desc.runner it has submit(), which hands on what one backend can answer to that one's
   submit(), several together; what has to wait is run by the runner: ops of a backend without
   submit() (but not of one that is FSB_BACKEND_QUICK), COPY, WATCH, names of a union, folders that
   several show. A mount point is in use until done(). If meanwhile the op was cancelled, or its
   handle released by others, bytes that would only be lent to done() are lost: -EINTR.
   Its close() closes its files. Errors: -EINVAL, -ENOMEM. Threads: any. */
FSB_API int fsb_namespace_backend(fsb_backend **out, const fsb_namespace_desc *desc);
/* What a shared handle table needs as its release(). Errors: none. Threads: any. */
FSB_API void fsb_namespace_release(void *user, fsb_handle id, void *object);

/* Tenants: namespaces by name, side by side in one process. Each has mount points, open files and
   quotas of its own, is made when it is first asked for, and no call of one reaches what is
   another's: neither by path, nor by handle. Looking up one that exists takes no lock. */
typedef struct fsb_tenants fsb_tenants;
enum { FSB_TENANT_NAME_MAX = 255 }; /* bytes; any but '/' and NUL; not "", ".", ".." */
typedef struct fsb_tenant { /* what create() fills in, and gone() gets back */
    const char *name;
    fsb_mounts *mounts;      /* what it sees: bind to it. It may be changed until gone() */
    void       *data;        /* yours */
    uint32_t    max_handles; /* open files and watches at once; more answer -EMFILE */
    uint32_t    idle_ms;     /* files not used for so long are closed; UINT32_MAX: never */
    uint64_t    max_bytes;   /* of reads and writes on their way at once; more answer -EAGAIN,
                                unless there are no others */
} fsb_tenant;
typedef struct fsb_tenant_stats {
    uint64_t calls, handles, bytes; /* now on their way, open, of calls on their way */
    uint64_t done;                  /* calls ended so far */
    uint64_t refused_handles, refused_bytes; /* calls that a quota stopped, so far */
} fsb_tenant_stats;
typedef struct fsb_tenants_desc {
    /* Makes a tenant: binds what it is to see to tenant->mounts, and may change its limits. Called
       once however many ask for the name at once; they wait for it, and nobody else does. What is
       not 0 they all get as their error. It must not ask for its own name. Required. */
    int (*create)(void *user, fsb_tenant *tenant);
    /* The tenant has ended, and nothing of it is in use any more: what it was bound to may be
       closed. Called once for each that create() made, by the thread that ended its last use.
       NULL: there is nothing to do. */
    void (*gone)(void *user, fsb_tenant *tenant);
    void    *user;
    uint32_t max_tenants; /* at once (default 65536, at most 1 << 24) */
    uint32_t max_handles; /* of all together (default 1 << 20, at most 1 << 28) */
    uint32_t sweep_ms;    /* a thread closes idle files so often (default 0: none, the caller sweeps
                             fsb_tenants_handles()) */
    /* what a tenant has if create() does not change it */
    uint32_t      tenant_handles; /* default 16384 */
    uint32_t      idle_ms;        /* default 0: never */
    uint64_t      tenant_bytes;   /* default 64 MiB */
    fsb_runner    runner;         /* of their backends: see fsb_namespace_desc */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_tenants_desc;

/* Makes an empty set; it starts a thread only if desc.sweep_ms is set.
   Errors: -EINVAL, -ENOMEM, -EAGAIN no thread. Threads: any. */
FSB_API int fsb_tenants_open(fsb_tenants **out, const fsb_tenants_desc *desc);
/* Ends all tenants and frees the set. NULL is fine.
   Errors: none. Threads: no other user left, no backend of it unclosed. */
FSB_API void fsb_tenants_close(fsb_tenants *t);
/* The backend of the tenant `name`, which is made if there is none. All who ask get the same one;
   each calls its close() once, which closes no files. It routes as fsb_namespace_backend() does;
   its handles are of the table that all tenants share, checked on every use: closed, guessed and
   other tenants' ones answer -EBADF, with a line in the log that says which. Once the tenant was
   removed it answers -ENODEV.
   Errors: -EINVAL, -ENAMETOOLONG no such name can be; -EMFILE too many tenants; -ENOMEM; what
   create() says. Threads: any; may block while it is made, else not. */
FSB_API int fsb_tenant_backend(fsb_backend **out, fsb_tenants *t, const char *name);
/* Removes a tenant: when this returns no call of it begins any more and its files are closed, but
   those that calls on their way use, which are when these end. The name may be used again at once,
   for another tenant. Returns 0, or 1 if calls on their way keep something of it for now.
   Errors: -ENOENT. Threads: any. */
FSB_API int fsb_tenants_remove(fsb_tenants *t, const char *name);
/* Calls fn for each tenant until fn returns not 0, which is returned. Those made or removed
   meanwhile may be missed. Errors: fn's. Threads: any; fn may call the set. */
FSB_API int fsb_tenants_each(fsb_tenants *t,
                             int (*fn)(void *user, const fsb_tenant *tenant,
                                       const fsb_tenant_stats *stats),
                             void *user);
/* Their open files: to sweep, to count. Errors: none. Threads: any. */
FSB_API fsb_handles *fsb_tenants_handles(fsb_tenants *t);

/* Plugins: backends in shared objects that are loaded while the program runs. A plugin defines, in
   one of its source files (the README has a page on it, tests/plugin_example.c is one):

       static int hello_open(fsb_backend **out, const char *config, const fsb_logger *log);
       FSB_PLUGIN("hello", hello_open);

   It runs in this process, so it can do whatever the program can; what is bounded here is what it
   costs others when it is slow, hangs or fails. Its calls run on threads of its own. */
enum { FSB_PLUGIN_ABI = 1 };
typedef struct fsb_plugin_info { /* what a plugin was compiled with */
    uint32_t    abi;
    uint32_t    size, backend_size, op_size, dirent_size; /* of these structs */
    const char *name;
    /* Makes its backend; `config` is for it to understand, log as long as the backend is open. */
    int (*open)(fsb_backend **out, const char *config, const fsb_logger *log);
} fsb_plugin_info;
extern __attribute__((visibility("default"))) const fsb_plugin_info fsb_plugin; /* the plugin's */
#define FSB_PLUGIN(name, open)                                                                     \
    const fsb_plugin_info fsb_plugin = {FSB_PLUGIN_ABI,      sizeof(fsb_plugin_info),              \
                                        sizeof(fsb_backend), sizeof(fsb_op),                       \
                                        sizeof(fsb_dirent),  name, open}

typedef struct fsb_plugin_desc {
    const char   *path;        /* required: of the shared object, with a '/' */
    const char   *config;      /* handed to its open() (default "") */
    uint32_t      load_ms;     /* for it to load and to open (default 10000, at most 1 hour) */
    uint32_t      deadline_ms; /* for a call, or the op's timeout_ms if that is less (default 5000,
                                  at most 1 hour) */
    uint32_t      workers;     /* threads that call it, as are needed (default 4, most 64) */
    uint32_t      max_stuck;   /* threads in the place of those that did not return in time (default
                                  16, at most 1024); when these hang too, calls wait in vain */
    uint32_t      max_calls;   /* on their way and waiting (default 64); more answer -EAGAIN */
    uint32_t      failures;    /* in a row, then the breaker opens: calls answer -EAGAIN at once
                                  (default 5; UINT32_MAX: never). -ETIMEDOUT, -EIO, -ENOTCONN,
                                  -EHOSTUNREACH, -EPROTO are failures; other errors are answers */
    uint32_t      pause_ms;    /* then one call is let through to see, and closes the breaker if it
                                  is answered; else the next one is after twice that time, up to 64
                                  times (default 1000, at most 1 hour) */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_plugin_desc;
typedef struct fsb_plugin_stats {
    uint64_t calls, stuck; /* now: on their way; of those, beyond their time */
    uint64_t threads;      /* now */
    uint64_t done, timeouts, failures; /* so far: ended; of these without an answer; failed */
    uint64_t refused, busy; /* so far: by the breaker; because of max_calls */
    uint64_t opened;        /* how often the breaker opened */
    int      open;          /* it is now */
} fsb_plugin_stats;

/* Loads a plugin, first in a child process, which may crash. Its backend has the plugin's calls but
   EXEC, WATCH, LOCK and DESCRIPTOR, which answer -ENOSYS; no submit(): who must not wait calls it
   from a runner. What a call points to is copied, so that one that returns late finds nothing of
   its caller's; what it opened late is closed. close() gives the calls on their way deadline_ms;
   if some hang even then, they, their threads, the plugin and the allocator's memory stay until
   they return.
   Errors: -EINVAL; -ENOENT, -EACCES no such file, or not readable; -ENOEXEC no shared object, or it
   needs what is not there; -EFAULT it crashed; -ETIMEDOUT it did not load, or open, in time;
   -ENOSYS it has no `fsb_plugin`; -EPROTO it was compiled for another ABI; what its open() says;
   -ENOMEM, -EAGAIN no process or thread. The log says which and why. Threads: any; blocks. */
FSB_API int fsb_plugin_load(fsb_backend **out, const fsb_plugin_desc *desc);
/* Counts of a plugin's backend. Errors: none. Threads: any. */
FSB_API void fsb_plugin_stat(fsb_backend *plugin, fsb_plugin_stats *stats);

/* Tokens: signed texts that say who may do what, and until when, checked without asking anybody.
       fsb1:KEY:TENANT:RIGHTS:UNTIL:ID:MAC
   KEY is the number of the key that signed it, UNTIL seconds since the epoch, ID 16 hex digits of
   its own, MAC the HMAC-SHA-256 by that key of all before its ':', in base64url. A token has one
   spelling only. Whoever has the whole text has the rights: it is a secret, unlike what stands
   before the MAC, its identity. */
typedef struct fsb_tokens fsb_tokens;
enum { FSB_TOKEN_READ = 1, FSB_TOKEN_WRITE = 2, FSB_TOKEN_EXEC = 4 }; /* "ro", "rw", "rwx" */
enum { FSB_TOKEN_TENANT_MAX = 63, FSB_TOKEN_SIZE = 160 /* bytes that hold any, with its '\0' */ };
typedef struct fsb_token_claims {
    char     tenant[FSB_TOKEN_TENANT_MAX + 1]; /* letters, digits, -._@; first letter or digit */
    uint32_t rights; /* FSB_TOKEN_READ, or with it WRITE, or with both EXEC */
    uint32_t key;    /* number of the key, not 0 */
    uint64_t id;     /* not 0 */
    int64_t  until_ns; /* since the epoch, whole seconds: from then on it is worth nothing */
} fsb_token_claims;
typedef struct fsb_token_key {
    uint32_t      number; /* not 0 */
    unsigned char secret[32];
} fsb_token_key;
typedef struct fsb_tokens_desc {
    const fsb_token_key *keys; /* [key_count], copied; the last one signs; at least one */
    size_t               key_count;
    uint32_t cache_entries; /* checks remembered, each in 64 bytes (default 16384, at most 1 << 24;
                               UINT32_MAX: none) */
    int64_t (*now_ns)(void *user); /* since the epoch (default the system's clock) */
    void         *user;
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_tokens_desc;
typedef struct fsb_tokens_stats {
    uint64_t cached, bytes;   /* now: checks remembered; memory of the object */
    uint64_t revoked;         /* now: in the list */
    uint64_t checks, hits;    /* so far; hits: of these, answered from the cache */
    uint64_t forged, expired, ended, malformed; /* refused so far; ended: revoked */
} fsb_tokens_stats;

/* Makes a checker of tokens; its memory for the cache is taken at once.
   Errors: -EINVAL, -ENOMEM, -ENOSYS built without FSB_WITH_OPENSSL. Threads: any. */
FSB_API int fsb_tokens_open(fsb_tokens **out, const fsb_tokens_desc *desc);
/* Wipes the keys and frees it. NULL is fine. Errors: none. Threads: no other user left. */
FSB_API void fsb_tokens_close(fsb_tokens *t);
/* Other keys and another list of revoked tokens (by id) instead of those before, both copied. No
   check that begins afterwards knows what was before, the cache included.
   Errors: -EINVAL, -ENOMEM; nothing is changed then. Threads: any. */
FSB_API int fsb_tokens_set(fsb_tokens *t, const fsb_token_key *keys, size_t key_count,
                           const uint64_t *revoked, size_t revoked_count);
/* One more revoked token. Errors: -EINVAL id 0, -ENOMEM. Threads: any. */
FSB_API int fsb_tokens_revoke(fsb_tokens *t, uint64_t id);
/* Writes the token of these claims into out (size bytes, FSB_TOKEN_SIZE are enough). Key 0 is the
   last one, id 0 a new one by chance: they are filled in.
   Errors: -EINVAL no such claims or key; -ENAMETOOLONG size; -EIO OpenSSL; what getrandom(2) says.
   Threads: any. */
FSB_API int fsb_tokens_sign(fsb_tokens *t, fsb_token_claims *claims, char *out, size_t size);
/* Is this text, of `size` bytes, a token that is good now? Then its claims are copied out. Each
   refusal is told in the log, without the secret.
   Errors: -EINVAL malformed, truncated; -EBADMSG forged: none of the keys signed it; -EKEYEXPIRED;
   -EKEYREVOKED. Threads: any, several at once. */
FSB_API int fsb_tokens_check(fsb_tokens *t, const char *text, size_t size,
                             fsb_token_claims *claims);
/* The whole token of an identity that somebody claims, so that he can be asked to prove that he has
   it: never to be shown to him. Refuses as fsb_tokens_check() does, but cannot know what is forged:
   -EBADMSG is a key that is not here. out has FSB_TOKEN_SIZE bytes.
   Errors: as fsb_tokens_check(). Threads: any. */
FSB_API int fsb_tokens_complete(fsb_tokens *t, const char *identity, size_t size, char *out,
                                fsb_token_claims *claims);
/* What a token, or an identity, says of itself: nothing of it is proven.
   Errors: -EINVAL. Threads: any. */
FSB_API int fsb_token_read(const char *text, size_t size, fsb_token_claims *claims);
/* Counts. Errors: none. Threads: any. */
FSB_API void fsb_tokens_stat(fsb_tokens *t, fsb_tokens_stats *stats);

/* ---- FUSE ------------------------------------------------------------------------------------ */

typedef struct fsb_mount fsb_mount;
typedef struct fsb_mount_desc {
    fsb_backend *backend;    /* required; not closed with the mount, and must outlive it */
    const char  *mountpoint; /* required: a folder, empty unless the option nonempty is given */
    const char  *options;    /* as behind mount's -o: "ro,allow_other" (default none). Ours are
                                remote_locks (flock and fcntl locks are the backend's),
                                contain_symlinks or no_contain_symlinks (over the field below),
                                nonempty, attr_timeout=SECONDS, entry_timeout=SECONDS;
                                the others are FUSE's: man 8 mount.fuse3 */
    const char   *fsname;            /* shown as what is mounted (default "fsb") */
    uint32_t      threads;           /* that take requests, at most 64 (default 2; 1, which is
                                        faster, where the backend has submit()) */
    int32_t       attr_timeout_ms;   /* believe attributes so long (default 1000); -1: never */
    int32_t       entry_timeout_ms;  /* the same for names (default 1000); -1: never */
    int64_t       write_behind;      /* bytes of writes that may be on their way when write() has
                                        returned (default 16 MiB, at most 1 GiB); -1: none. Only
                                        where the backend has submit(), or a runner calls it */
    uint32_t      timeout_ms;        /* fsb_op.timeout_ms of each call (default the backend's) */
    uint32_t      read_only;         /* not 0: nothing can be changed, as with the option ro */
    uint32_t      contain_symlinks;  /* not 0: links that could lead out of the mount cannot be
                                        followed: see LINKS */
    fsb_runner    runner;            /* for a backend without submit() */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_mount_desc;

/* Mounts the backend; requests wait until fsb_mount_serve() runs, which may be after a fork(). The
   desc's strings are copied. The file system's type is "fuse.fsb"; rights are checked by the
   kernel (default_permissions); who mounted sees it, others with the option allow_other.
   Errors: -EINVAL desc or an option; -ENOENT, -ENOTDIR the mount point; -ENOTEMPTY it holds files;
   -EBUSY a FUSE file system is mounted there; -ENOTCONN one that has died is; -ENODEV no /dev/fuse;
   -EPERM the right to mount is missing; -ENOSYS built without FSB_WITH_FUSE; -EOPNOTSUPP
   remote_locks, but the backend has none; -ENOMEM, -EMFILE; STAT's of the backend's root. The log
   has the text. Threads: any; may block. */
FSB_API int fsb_mount_open(fsb_mount **out, const fsb_mount_desc *desc);
/* Answers requests until the mount is unmounted or fsb_mount_stop() is called, then waits for the
   answers still due. A stopped mount is unmounted first; if files on it are in use they answer
   errors from fsb_mount_close() on. Once a mount.
   Errors: -EINVAL called before; -ENOMEM, -EAGAIN no threads. Threads: one; blocks. */
FSB_API int fsb_mount_serve(fsb_mount *mount);
/* Has fsb_mount_serve() unmount and return, now or when it is called. NULL is fine.
   Errors: none. Threads: any, and signal handlers. */
FSB_API void fsb_mount_stop(fsb_mount *mount);
/* Unmounts if that has not happened, closes what is open on the backend, ends the mount. NULL is
   fine. Errors: none. Threads: no other user left; may block. */
FSB_API void fsb_mount_close(fsb_mount *mount);
/* Copies the text of the last failure into buf, cut to size; "" if there was none. Returns buf.
   Errors: none. Threads: any. */
FSB_API const char *fsb_mount_errmsg(fsb_mount *mount, char *buf, size_t size);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* FSB_MOUNT_H */

/* ==== IMPLEMENTATION: [memory] [tokens] [handle table] [mount table] [namespace] [tenants]
   [plugins] and, with FSB_WITH_FUSE, [log] [table] [nodes] [names] [requests] [handles] [gate]
   [start] [attr] [lookup] [change] [open] [read] [write] [list] [ahead] [xattr] [locks] [lease]
   [session] [threads] [public] ================================================================= */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_MOUNT_IMPLEMENTATION)) && !defined(FSB_MOUNT_DONE_)
#define FSB_MOUNT_DONE_
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifndef CPU_SETSIZE
#error "fsb_mount.h: GNU extensions are hidden; include it first, or compile with -D_GNU_SOURCE"
#else
#ifdef FSB_WITH_OPENSSL
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "fsb_mount.h: FSB_WITH_OPENSSL needs OpenSSL 3.0 or newer"
#endif
#endif

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_mount_libc_(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user, (void)old_size;
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static fsb_allocator fsb_tables_allocator_(const fsb_allocator *wanted)
{
    fsb_allocator a = *wanted;
    if (!a.fn) a.fn = fsb_mount_libc_;
    return a;
}

static void *fsb_tables_new_(const fsb_allocator *a, size_t size) /* zeroed */
{
    void *p = a->fn(a->user, NULL, 0, size);
    if (p) memset(p, 0, size);
    return p;
}

static void fsb_tables_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) a->fn(a->user, ptr, size, 0);
}

__attribute__((format(printf, 4, 5))) static void
fsb_tables_log_(const fsb_logger *log, fsb_log_level level, const char *item, const char *format,
                ...)
{
    char    text[512];
    va_list args;
    if (!log->fn) return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log->fn(log->user, level, item, text);
}

static uint64_t fsb_tables_mix_(uint64_t x)
{
    x ^= x >> 32, x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32, x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* Of a hash, so that nobody can choose names that collide. */
static uint64_t fsb_tables_seed_(const void *table)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return fsb_tables_mix_((uint64_t)(uintptr_t)table ^ ((uint64_t)now.tv_nsec << 32));
}

static int64_t fsb_tables_now_ms_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The next 8 bytes of a text, the first one in the lowest bits; zeros behind its end. */
static uint64_t fsb_tables_word_(const char *p, size_t left)
{
    uint64_t w = 0;
    if (left >= sizeof w) memcpy(&w, p, sizeof w);
    else
        for (size_t i = 0; i < left; ++i) ((char *)&w)[i] = p[i];
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    return w;
}

/* The tests walk through every interleaving of the steps below: each access to shared memory is
   one. */
#ifndef FSB_TABLES_STEP_
#define FSB_TABLES_STEP_() ((void)0)
#endif

static uint64_t fsb_tables_load_(const uint64_t *p)
{
    FSB_TABLES_STEP_();
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* 1 if *p was *was and is now `is`; else *was is what it is. */
static int fsb_tables_swap_(uint64_t *p, uint64_t *was, uint64_t is)
{
    FSB_TABLES_STEP_();
    return __atomic_compare_exchange_n(p, was, is, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* ---- [tokens] -------------------------------------------------------------------------------- */

enum {
    FSB_TOKEN_MAC_ = 43,       /* characters of base64url for 32 bytes */
    FSB_TOKEN_SHARDS_ = 16,    /* of the cache, at most */
    FSB_TOKEN_SLOTS_EACH_ = 2  /* per entry: probes stay short, and shards need not be equal */
};

/* What is remembered of a good token: that it was good. Its claims are read from the text anew, of
   which the tag is a keyed hash: nobody who does not know the hash's key can make another text with
   this tag. */
typedef struct fsb_token_entry_ {
    uint64_t tag[2];
    int64_t  until_ns;
    uint32_t era;  /* of keys and revocations that it was checked under; 0: nothing is here */
    uint32_t used; /* since the hand of the clock last passed */
} fsb_token_entry_;

typedef struct fsb_token_shard_ {
    pthread_mutex_t   lock;
    fsb_token_entry_ *slots; /* by tag, then the next free one; no gaps */
    uint32_t          count, hand;
    uint64_t          hits;
} fsb_token_shard_;

struct fsb_tokens {
    fsb_tokens_desc  desc;
    size_t           bytes;   /* of this, the shards' slots behind it */
    uint64_t         seed[2]; /* of the tags */
    pthread_rwlock_t lock;    /* guards these five; era is read by atomics too */
    fsb_token_key   *keys;
    size_t           key_count;
    uint64_t        *revoked; /* sorted */
    size_t           revoked_count;
    uint32_t         era;
    uint32_t         shard_count, slots_each; /* a power of two; any number */
    uint64_t         cached; /* by atomics, these too */
    uint64_t         misses, forged, expired, ended, malformed;
    fsb_token_shard_ shards[FSB_TOKEN_SHARDS_];
};

#ifdef FSB_WITH_OPENSSL
static int fsb_token_hmac_(const unsigned char key[32], const char *text, size_t size,
                           unsigned char out[32])
{
    unsigned length = 0;
    return HMAC(EVP_sha256(), key, 32, (const unsigned char *)text, size, out, &length) &&
            length == 32
        ? 0
        : -EIO;
}

static int fsb_token_same_(const char *a, const char *b, size_t size) /* in constant time */
{
    return CRYPTO_memcmp(a, b, size) == 0;
}
#else
static int fsb_token_hmac_(const unsigned char key[32], const char *text, size_t size,
                           unsigned char out[32])
{
    (void)key, (void)text, (void)size, (void)out;
    return -ENOSYS;
}

static int fsb_token_same_(const char *a, const char *b, size_t size)
{
    (void)a, (void)b, (void)size;
    return 0;
}
#endif

/* ---- [tokens: text] -------------------------------------------------------------------------- */

/* A number without leading zeros, up to the ':' behind it. 0: it is none, or over most. */
static uint64_t fsb_token_number_(const char **at, const char *end, uint64_t most)
{
    uint64_t    value = 0;
    const char *p = *at, *stop = end - p > 19 ? p + 19 : end; /* 19 digits are under 2^64 */
    if (p == end || *p == '0') return 0;
    for (; p < stop && (unsigned char)(*p - '0') < 10; ++p)
        value = value * 10 + (unsigned char)(*p - '0');
    if (p == end || *p != ':' || value > most) return 0;
    *at = p + 1;
    return value;
}

/* Eight digits at once, lower case, into the lower half of the value: 1 if they are digits. */
static int fsb_token_hex8_(uint64_t w, uint64_t *value)
{
    const uint64_t each = UINT64_C(0x0101010101010101);
    uint64_t       x = (w & each * 15) + (w >> 6 & each) * 9; /* a digit a byte */
    const uint64_t letters = (x + each * 6) >> 4 & each;
    if ((x & each * 0xf0) | (w ^ (x + each * '0' + letters * ('a' - '0' - 10)))) return 0;
    x = (x << 4 | x >> 8) & UINT64_C(0x00ff00ff00ff00ff);
    x = (x << 8 | x >> 16) & UINT64_C(0x0000ffff0000ffff);
    *value = *value << 32 | (x << 16 & 0xffff0000u) | (x >> 32 & 0xffff);
    return 1;
}

static uint64_t fsb_token_hex_(const char **at, const char *end) /* 16 digits */
{
    uint64_t value = 0;
    if (end - *at < 16 || !fsb_token_hex8_(fsb_tables_word_(*at, 8), &value) ||
        !fsb_token_hex8_(fsb_tables_word_(*at + 8, 8), &value))
        return 0;
    *at += 16;
    return value;
}

static int fsb_token_plain_(char c) /* a letter or a digit */
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int fsb_token_named_(char c) /* that, or one of -._@ */
{
    const unsigned char u = (unsigned char)c;
    /* a bit for each byte below 64, and for each from there to 127 */
    const uint64_t      low = UINT64_C(0x03ff600000000000), high = UINT64_C(0x07fffffe87ffffff);
    return u < 128 && (u < 64 ? low >> u : high >> (u - 64)) & 1;
}

/* The tenant's name and the ':' behind it: bytes of the name, 0 if it is none. */
static size_t fsb_token_tenant_(const char *at, const char *end)
{
    size_t n = 0;
    if (at == end || !fsb_token_plain_(*at)) return 0;
    while (at + n < end && fsb_token_named_(at[n]))
        if (++n > (size_t)FSB_TOKEN_TENANT_MAX) return 0;
    return at + n < end && at[n] == ':' ? n : 0;
}

static const char *fsb_token_rights_(uint32_t rights)
{
    const uint32_t write = FSB_TOKEN_READ | FSB_TOKEN_WRITE;
    return rights == FSB_TOKEN_READ         ? "ro"
        : rights == write                   ? "rw"
        : rights == (write | FSB_TOKEN_EXEC) ? "rwx"
                                            : NULL;
}

/* Bytes of the identity, which the text begins with, or 0: there is none. */
static size_t fsb_token_parse_(const char *text, size_t size, fsb_token_claims *claims)
{
    const char *p = text + 5, *end = text + size;
    if (size >= (size_t)FSB_TOKEN_SIZE || size < 5 || memcmp(text, "fsb1:", 5) != 0) return 0;
    claims->key = (uint32_t)fsb_token_number_(&p, end, UINT32_MAX);
    const size_t name = claims->key ? fsb_token_tenant_(p, end) : 0;
    if (!name) return 0;
    memcpy(claims->tenant, p, name);
    claims->tenant[name] = '\0', p += name + 1;
    if (end - p < 4 || p[0] != 'r' || (p[1] != 'o' && p[1] != 'w')) return 0;
    const int writes = p[1] == 'w', runs = writes && p[2] == 'x';
    claims->rights = FSB_TOKEN_READ | (writes ? (uint32_t)FSB_TOKEN_WRITE : 0u) |
        (runs ? (uint32_t)FSB_TOKEN_EXEC : 0u);
    p += 2 + runs;
    if (*p++ != ':') return 0;
    const uint64_t until = fsb_token_number_(&p, end, INT64_MAX / 1000000000);
    claims->until_ns = (int64_t)until * 1000000000;
    claims->id = until ? fsb_token_hex_(&p, end) : 0;
    return claims->id ? (size_t)(p - text) : 0;
}

/* Behind the identity stands ':' and what may be a MAC. */
static int fsb_token_whole_(const char *text, size_t size, size_t identity)
{
    if (size != identity + 1 + FSB_TOKEN_MAC_ || text[identity] != ':') return 0;
    for (const char *p = text + identity + 1; p < text + size; ++p)
        if (!fsb_token_plain_(*p) && *p != '-' && *p != '_') return 0;
    return 1;
}

static void fsb_token_base64_(const unsigned char in[32], char out[FSB_TOKEN_MAC_])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned          bits = 0, have = 0;
    for (size_t i = 0; i < 32; ++i) {
        bits = bits << 8 | in[i];
        for (have += 8; have >= 6; have -= 6) *out++ = digits[bits >> (have - 6) & 63];
    }
    *out = digits[bits << (6 - have) & 63];
}

/* The MAC, as it stands in a token. */
static int fsb_token_mac_(const fsb_token_key *key, const char *identity, size_t size,
                          char out[FSB_TOKEN_MAC_])
{
    unsigned char mac[32];
    const int     err = fsb_token_hmac_(key->secret, identity, size, mac);
    if (!err) fsb_token_base64_(mac, out);
    explicit_bzero(mac, sizeof mac);
    return err;
}

FSB_API int fsb_token_read(const char *text, size_t size, fsb_token_claims *claims)
{
    fsb_token_claims c;
    if (!text || !claims) return -EINVAL;
    memset(&c, 0, sizeof c);
    const size_t identity = fsb_token_parse_(text, size, &c);
    if (!identity || (identity != size && !fsb_token_whole_(text, size, identity))) return -EINVAL;
    *claims = c;
    return 0;
}

/* ---- [tokens: cache] ------------------------------------------------------------------------- */

static uint64_t fsb_token_turn_(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

/* Inlined by force: it keeps the four in registers, which halves the time of a check. */
__attribute__((always_inline)) static inline void fsb_token_round_(uint64_t *a, uint64_t *b,
                                                                   uint64_t *c, uint64_t *d)
{
    *a += *b, *c += *d;
    *b = fsb_token_turn_(*b, 13) ^ *a, *d = fsb_token_turn_(*d, 16) ^ *c;
    *a = fsb_token_turn_(*a, 32);
    *c += *b, *a += *d;
    *b = fsb_token_turn_(*b, 17) ^ *c, *d = fsb_token_turn_(*d, 21) ^ *a;
    *c = fsb_token_turn_(*c, 32);
}

/* SipHash-2-4 with 128 bits of result: a hash that cannot be steered by who does not know the
   seed, and is made for short texts. */
static void fsb_token_tag_(const uint64_t seed[2], const char *text, size_t size, uint64_t tag[2])
{
    uint64_t a = seed[0] ^ 0x736f6d6570736575u, b = seed[1] ^ 0x646f72616e646f6du ^ 0xee;
    uint64_t c = seed[0] ^ 0x6c7967656e657261u, d = seed[1] ^ 0x7465646279746573u;
    for (size_t i = 0; i <= size / 8; ++i) {
        const size_t left = size - i * 8;
        uint64_t     word = 0;
        if (left >= 8) memcpy(&word, text + i * 8, 8); /* in this machine's order: it stays here */
        else {
            memcpy(&word, text + i * 8, left);
            word |= (uint64_t)size << 56;
        }
        d ^= word;
        fsb_token_round_(&a, &b, &c, &d);
        fsb_token_round_(&a, &b, &c, &d);
        a ^= word;
    }
    c ^= 0xee;
    for (int i = 0; i < 4; ++i) fsb_token_round_(&a, &b, &c, &d);
    tag[0] = a ^ b ^ c ^ d;
    b ^= 0xdd;
    for (int i = 0; i < 4; ++i) fsb_token_round_(&a, &b, &c, &d);
    tag[1] = a ^ b ^ c ^ d;
}

static fsb_token_shard_ *fsb_token_shard_of_(fsb_tokens *t, const uint64_t tag[2])
{
    return &t->shards[tag[1] & (t->shard_count - 1)];
}

static uint32_t fsb_token_home_(const fsb_tokens *t, const uint64_t tag[2])
{
    return (uint32_t)((tag[0] >> 32) * t->slots_each >> 32);
}

static uint32_t fsb_token_next_(const fsb_tokens *t, uint32_t i)
{
    return i + 1 < t->slots_each ? i + 1 : 0;
}

/* Where it is, or the free slot where it would be. Lock held. */
static uint32_t fsb_token_find_(const fsb_tokens *t, const fsb_token_shard_ *s,
                                const uint64_t tag[2])
{
    uint32_t i = fsb_token_home_(t, tag);
    while (s->slots[i].era && (s->slots[i].tag[0] != tag[0] || s->slots[i].tag[1] != tag[1]))
        i = fsb_token_next_(t, i);
    return i;
}

/* Frees a slot; those behind it that were pushed on by it move up. Lock held. */
static void fsb_token_drop_(fsb_tokens *t, fsb_token_shard_ *s, uint32_t hole)
{
    for (uint32_t i = fsb_token_next_(t, hole); s->slots[i].era; i = fsb_token_next_(t, i)) {
        const uint32_t home = fsb_token_home_(t, s->slots[i].tag);
        const int      stays = hole <= i ? hole < home && home <= i : hole < home || home <= i;
        if (stays) continue;
        s->slots[hole] = s->slots[i], hole = i;
    }
    memset(&s->slots[hole], 0, sizeof s->slots[hole]);
    --s->count;
    (void)__atomic_sub_fetch(&t->cached, 1, __ATOMIC_RELAXED);
}

/* Drops one: the first in the hand's way that is worth nothing any more, or was not used since the
   hand was there. Lock held. */
static void fsb_token_evict_(fsb_tokens *t, fsb_token_shard_ *s, uint32_t era, int64_t now)
{
    while (s->count) {
        fsb_token_entry_ *e = &s->slots[s->hand];
        if (e->era && (!e->used || e->era != era || e->until_ns <= now)) {
            fsb_token_drop_(t, s, s->hand); /* what moves into its place is looked at next */
            return;
        }
        e->used = 0;
        s->hand = fsb_token_next_(t, s->hand);
    }
}

/* Was it found good under these keys and revocations? */
static int fsb_token_remembered_(fsb_tokens *t, const uint64_t tag[2], uint32_t era)
{
    fsb_token_shard_ *s = fsb_token_shard_of_(t, tag);
    if (!t->slots_each) return 0;
    pthread_mutex_lock(&s->lock);
    fsb_token_entry_ *e = &s->slots[fsb_token_find_(t, s, tag)];
    const int         found = e->era == era;
    if (found) e->used = 1, ++s->hits;
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void fsb_token_remember_(fsb_tokens *t, const uint64_t tag[2], uint32_t era,
                                int64_t until_ns, int64_t now)
{
    fsb_token_shard_ *s = fsb_token_shard_of_(t, tag);
    if (!t->slots_each) return;
    pthread_mutex_lock(&s->lock);
    uint32_t i = fsb_token_find_(t, s, tag);
    if (!s->slots[i].era) { /* full: the set, or nearly, this shard */
        const uint64_t most = t->desc.cache_entries;
        while (s->count && (__atomic_load_n(&t->cached, __ATOMIC_RELAXED) >= most ||
                            s->count >= t->slots_each - 1 - t->slots_each / 8))
            fsb_token_evict_(t, s, era, now);
        i = fsb_token_find_(t, s, tag);
        if (__atomic_add_fetch(&t->cached, 1, __ATOMIC_RELAXED) <= most) ++s->count;
        else {
            (void)__atomic_sub_fetch(&t->cached, 1, __ATOMIC_RELAXED);
            pthread_mutex_unlock(&s->lock);
            return;
        }
    }
    s->slots[i].tag[0] = tag[0], s->slots[i].tag[1] = tag[1];
    s->slots[i].until_ns = until_ns, s->slots[i].era = era, s->slots[i].used = 0;
    pthread_mutex_unlock(&s->lock);
}

static void fsb_token_forget_(fsb_tokens *t, const uint64_t tag[2])
{
    fsb_token_shard_ *s = fsb_token_shard_of_(t, tag);
    if (!t->slots_each) return;
    pthread_mutex_lock(&s->lock);
    const uint32_t i = fsb_token_find_(t, s, tag);
    if (s->slots[i].era) fsb_token_drop_(t, s, i);
    pthread_mutex_unlock(&s->lock);
}

/* ---- [tokens: checks] ------------------------------------------------------------------------ */

static int64_t fsb_tokens_now_(const fsb_tokens *t)
{
    struct timespec now;
    if (t->desc.now_ns) return t->desc.now_ns(t->desc.user);
    clock_gettime(CLOCK_REALTIME_COARSE, &now); /* some ms late, of what counts in seconds */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int fsb_token_by_id_(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int fsb_token_revoked_(const fsb_tokens *t, uint64_t id) /* lock held */
{
    return t->revoked_count &&
        bsearch(&id, t->revoked, t->revoked_count, sizeof id, fsb_token_by_id_) != NULL;
}

static const fsb_token_key *fsb_token_key_of_(const fsb_tokens *t, uint32_t number) /* lock held */
{
    for (size_t i = 0; i < t->key_count; ++i)
        if (t->keys[i].number == number) return &t->keys[i];
    return NULL;
}

/* Counts a refusal and tells of it; claims NULL: not even those could be read. */
static int fsb_token_refuse_(fsb_tokens *t, int err, const fsb_token_claims *claims)
{
    uint64_t *const counter = err == -EBADMSG ? &t->forged
        : err == -EKEYEXPIRED                 ? &t->expired
        : err == -EKEYREVOKED                 ? &t->ended
                                              : &t->malformed;
    const char *const why = err == -EBADMSG ? "forged: no key here signed it"
        : err == -EKEYEXPIRED               ? "expired"
        : err == -EKEYREVOKED               ? "revoked"
        : err == -EINVAL                    ? "malformed or cut off"
                                            : strerror(-err);
    (void)__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
    fsb_tables_log_(&t->desc.log, FSB_LOG_WARN, "token/refused", "token %016llx of tenant %s: %s",
                    (unsigned long long)(claims ? claims->id : 0), claims ? claims->tenant : "(?)",
                    why);
    return err;
}

/* The token of that identity, and whether it counts now: 0, or why not. The MAC comes first, so
   that whoever does not know it learns nothing of the rest. */
static int fsb_token_judge_(fsb_tokens *t, const char *text, size_t identity, const char *shown,
                            char mac[FSB_TOKEN_MAC_], const fsb_token_claims *claims, int64_t now,
                            uint32_t *era)
{
    pthread_rwlock_rdlock(&t->lock);
    const fsb_token_key *key = fsb_token_key_of_(t, claims->key);
    int                  err = key ? fsb_token_mac_(key, text, identity, mac) : -EBADMSG;
    if (!err && shown && !fsb_token_same_(mac, shown, FSB_TOKEN_MAC_)) err = -EBADMSG;
    if (!err && fsb_token_revoked_(t, claims->id)) err = -EKEYREVOKED;
    if (!err && claims->until_ns <= now) err = -EKEYEXPIRED;
    *era = t->era;
    pthread_rwlock_unlock(&t->lock);
    return err;
}

FSB_API int fsb_tokens_check(fsb_tokens *t, const char *text, size_t size, fsb_token_claims *claims)
{
    fsb_token_claims c;
    uint64_t         tag[2];
    char             mac[FSB_TOKEN_MAC_];
    if (!t || !text || !claims) return -EINVAL;
    if (size >= (size_t)FSB_TOKEN_SIZE) return fsb_token_refuse_(t, -EINVAL, NULL);
    fsb_token_tag_(t->seed, text, size, tag);
    __builtin_prefetch(&fsb_token_shard_of_(t, tag)->slots[fsb_token_home_(t, tag)]);
    const size_t identity = fsb_token_parse_(text, size, &c); /* while that comes from memory */
    if (!identity || size != identity + 1 + FSB_TOKEN_MAC_)
        return fsb_token_refuse_(t, -EINVAL, NULL);
    uint32_t      era = __atomic_load_n(&t->era, __ATOMIC_ACQUIRE);
    const int64_t now = fsb_tokens_now_(t);
    if (!fsb_token_remembered_(t, tag, era)) {
        if (!fsb_token_whole_(text, size, identity)) return fsb_token_refuse_(t, -EINVAL, NULL);
        (void)__atomic_add_fetch(&t->misses, 1, __ATOMIC_RELAXED);
        const int err =
            fsb_token_judge_(t, text, identity, text + identity + 1, mac, &c, now, &era);
        explicit_bzero(mac, sizeof mac);
        if (err) return fsb_token_refuse_(t, err, &c);
        fsb_token_remember_(t, tag, era, c.until_ns, now);
    } else if (c.until_ns <= now) {
        fsb_token_forget_(t, tag);
        return fsb_token_refuse_(t, -EKEYEXPIRED, &c);
    }
    *claims = c;
    return 0;
}

FSB_API int fsb_tokens_complete(fsb_tokens *t, const char *identity, size_t size, char *out,
                                fsb_token_claims *claims)
{
    fsb_token_claims c;
    uint32_t         era;
    if (!t || !identity || !out || !claims) return -EINVAL;
    if (fsb_token_parse_(identity, size, &c) != size || size + 2 + FSB_TOKEN_MAC_ > FSB_TOKEN_SIZE)
        return fsb_token_refuse_(t, -EINVAL, NULL);
    (void)__atomic_add_fetch(&t->misses, 1, __ATOMIC_RELAXED);
    const int err = fsb_token_judge_(t, identity, size, NULL, out + size + 1, &c,
                                     fsb_tokens_now_(t), &era);
    if (err) {
        explicit_bzero(out, FSB_TOKEN_SIZE);
        return fsb_token_refuse_(t, err, &c);
    }
    memcpy(out, identity, size);
    out[size] = ':', out[size + 1 + FSB_TOKEN_MAC_] = '\0';
    *claims = c;
    return 0;
}

FSB_API int fsb_tokens_sign(fsb_tokens *t, fsb_token_claims *claims, char *out, size_t size)
{
    char             text[FSB_TOKEN_SIZE];
    fsb_token_claims c, same;
    if (!t || !claims || !out) return -EINVAL;
    c = *claims;
    c.tenant[sizeof c.tenant - 1] = '\0';
    while (!c.id)
        if (getrandom(&c.id, sizeof c.id, 0) != (ssize_t)sizeof c.id) return -errno;
    pthread_rwlock_rdlock(&t->lock);
    const fsb_token_key *key =
        c.key ? fsb_token_key_of_(t, c.key) : &t->keys[t->key_count - 1];
    const char *rights = fsb_token_rights_(c.rights);
    int         n = 0, err = key && rights ? 0 : -EINVAL;
    if (!err) {
        c.key = key->number;
        n = snprintf(text, sizeof text, "fsb1:%u:%s:%s:%lld:%016llx", (unsigned)c.key, c.tenant,
                     rights, (long long)(c.until_ns / 1000000000), (unsigned long long)c.id);
        if (fsb_token_parse_(text, (size_t)n, &same) != (size_t)n) err = -EINVAL;
        else if ((size_t)n + 2 + FSB_TOKEN_MAC_ > size) err = -ENAMETOOLONG;
        else err = fsb_token_mac_(key, text, (size_t)n, out + n + 1);
    }
    pthread_rwlock_unlock(&t->lock);
    if (err) return err;
    memcpy(out, text, (size_t)n);
    out[n] = ':', out[n + 1 + FSB_TOKEN_MAC_] = '\0';
    c.until_ns = same.until_ns;
    *claims = c;
    return 0;
}

/* ---- [tokens: public] ------------------------------------------------------------------------ */

static void fsb_token_keys_free_(const fsb_allocator *a, fsb_token_key *keys, size_t count)
{
    if (keys) explicit_bzero(keys, count * sizeof *keys);
    fsb_tables_free_(a, keys, count * sizeof *keys);
}

static int fsb_token_keys_check_(const fsb_token_key *keys, size_t count)
{
    if (!keys || !count || count > 1024) return -EINVAL;
    for (size_t i = 0; i < count; ++i) {
        if (!keys[i].number) return -EINVAL;
        for (size_t j = 0; j < i; ++j)
            if (keys[j].number == keys[i].number) return -EINVAL;
    }
    return 0;
}

FSB_API int fsb_tokens_set(fsb_tokens *t, const fsb_token_key *keys, size_t key_count,
                           const uint64_t *revoked, size_t revoked_count)
{
    if (!t || (revoked_count && !revoked) || revoked_count > SIZE_MAX / sizeof *revoked)
        return -EINVAL;
    if (fsb_token_keys_check_(keys, key_count) != 0) return -EINVAL;
    const fsb_allocator *a = &t->desc.allocator;
    const size_t         list_size = revoked_count * sizeof *revoked;
    fsb_token_key *list = (fsb_token_key *)fsb_tables_new_(a, key_count * sizeof *keys);
    uint64_t      *ids = list && list_size ? (uint64_t *)fsb_tables_new_(a, list_size) : NULL;
    if (!list || (list_size && !ids)) {
        fsb_token_keys_free_(a, list, key_count);
        return -ENOMEM;
    }
    memcpy(list, keys, key_count * sizeof *keys);
    if (ids) {
        memcpy(ids, revoked, list_size);
        qsort(ids, revoked_count, sizeof *ids, fsb_token_by_id_);
    }
    pthread_rwlock_wrlock(&t->lock);
    fsb_token_key *const old = t->keys;
    uint64_t *const      old_ids = t->revoked;
    const size_t         old_count = t->key_count, old_size = t->revoked_count * sizeof *ids;
    t->keys = list, t->key_count = key_count, t->revoked = ids, t->revoked_count = revoked_count;
    __atomic_store_n(&t->era, t->era + 1, __ATOMIC_RELEASE);
    pthread_rwlock_unlock(&t->lock);
    fsb_token_keys_free_(a, old, old_count);
    fsb_tables_free_(a, old_ids, old_size);
    return 0;
}

FSB_API int fsb_tokens_revoke(fsb_tokens *t, uint64_t id)
{
    int err = 0;
    if (!t || !id) return -EINVAL;
    pthread_rwlock_wrlock(&t->lock);
    if (!fsb_token_revoked_(t, id)) {
        const size_t size = t->revoked_count * sizeof id;
        uint64_t    *ids = (uint64_t *)t->desc.allocator.fn(t->desc.allocator.user, t->revoked,
                                                            size, size + sizeof id);
        if (!ids) err = -ENOMEM;
        else {
            size_t at = t->revoked_count++;
            for (t->revoked = ids; at && ids[at - 1] > id; --at) ids[at] = ids[at - 1];
            ids[at] = id;
            __atomic_store_n(&t->era, t->era + 1, __ATOMIC_RELEASE);
        }
    }
    pthread_rwlock_unlock(&t->lock);
    return err;
}

FSB_API int fsb_tokens_open(fsb_tokens **out, const fsb_tokens_desc *desc)
{
    unsigned char probe[32];
    if (!out || !desc || fsb_token_keys_check_(desc->keys, desc->key_count) != 0) return -EINVAL;
    if (fsb_token_hmac_(desc->keys[0].secret, "", 0, probe) == -ENOSYS) {
        fsb_tables_log_(&desc->log, FSB_LOG_ERROR, "token/open", "built without FSB_WITH_OPENSSL");
        return -ENOSYS;
    }
    fsb_tokens_desc d = *desc;
    if (!d.cache_entries) d.cache_entries = 16384;
    if (d.cache_entries == UINT32_MAX) d.cache_entries = 0;
    if (d.cache_entries > 1u << 24) return -EINVAL;
    d.allocator = fsb_tables_allocator_(&desc->allocator);
    const uint32_t shards = d.cache_entries < 1024 ? 1 : (uint32_t)FSB_TOKEN_SHARDS_;
    const uint32_t each = (d.cache_entries + shards - 1) / shards;
    const uint32_t slots = each ? each * FSB_TOKEN_SLOTS_EACH_ + 8 : 0;
    const size_t   whole = sizeof(fsb_token_entry_), /* where one begins: none is in two lines */
        bytes = sizeof(fsb_tokens) + whole - 1 + (size_t)shards * slots * whole;
    fsb_tokens *t = (fsb_tokens *)fsb_tables_new_(&d.allocator, bytes);
    if (!t) return -ENOMEM;
    t->desc = d, t->bytes = bytes, t->shard_count = shards, t->slots_each = slots;
    t->desc.keys = NULL, t->desc.key_count = 0;
    fsb_token_entry_ *entries =
        (fsb_token_entry_ *)(((uintptr_t)(t + 1) + whole - 1) & ~(uintptr_t)(whole - 1));
    int err = getrandom(t->seed, sizeof t->seed, 0) == (ssize_t)sizeof t->seed ? 0 : -errno;
    if (pthread_rwlock_init(&t->lock, NULL) != 0) err = -ENOMEM;
    for (uint32_t i = 0; i < shards; ++i) {
        t->shards[i].slots = entries + (size_t)i * slots;
        if (pthread_mutex_init(&t->shards[i].lock, NULL) != 0) err = -ENOMEM;
    }
    if (!err) err = fsb_tokens_set(t, desc->keys, desc->key_count, NULL, 0);
    if (err) fsb_tokens_close(t);
    else *out = t;
    return err;
}

FSB_API void fsb_tokens_close(fsb_tokens *t)
{
    if (!t) return;
    const fsb_allocator a = t->desc.allocator;
    for (uint32_t i = 0; i < t->shard_count; ++i) pthread_mutex_destroy(&t->shards[i].lock);
    pthread_rwlock_destroy(&t->lock);
    fsb_token_keys_free_(&a, t->keys, t->key_count);
    fsb_tables_free_(&a, t->revoked, t->revoked_count * sizeof *t->revoked);
    explicit_bzero(t->seed, sizeof t->seed);
    fsb_tables_free_(&a, t, t->bytes);
}

FSB_API void fsb_tokens_stat(fsb_tokens *t, fsb_tokens_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    for (uint32_t i = 0; i < t->shard_count; ++i) {
        pthread_mutex_lock(&t->shards[i].lock);
        stats->hits += t->shards[i].hits;
        pthread_mutex_unlock(&t->shards[i].lock);
    }
    pthread_rwlock_rdlock(&t->lock);
    stats->revoked = t->revoked_count;
    stats->bytes = t->bytes + t->key_count * sizeof *t->keys + stats->revoked * sizeof *t->revoked;
    pthread_rwlock_unlock(&t->lock);
    stats->cached = __atomic_load_n(&t->cached, __ATOMIC_RELAXED);
    stats->forged = __atomic_load_n(&t->forged, __ATOMIC_RELAXED);
    stats->expired = __atomic_load_n(&t->expired, __ATOMIC_RELAXED);
    stats->ended = __atomic_load_n(&t->ended, __ATOMIC_RELAXED);
    stats->malformed = __atomic_load_n(&t->malformed, __ATOMIC_RELAXED);
    stats->checks =
        stats->hits + stats->malformed + __atomic_load_n(&t->misses, __ATOMIC_RELAXED);
}

/* ---- [handle table] -------------------------------------------------------------------------- */

/* An id is generation << 32 | slot. A slot's state is generation << 32 | IDLE | pins; odd
   generations are live ones. What a slot holds is written while its generation is even and nobody
   pins it, by the one thread that took it from a list of free slots; a reader that saw its own
   generation before and after has read what belongs to its id. Slots move never and are freed with
   the table, so that reading one that is gone is harmless.
   IDLE is set by a sweep, and taken off by whoever uses the handle; dead slots have it too. So one
   comparison tells a reader that the handle is live and that there is nothing to be noted. */
#define FSB_HANDLES_IDLE_ (UINT64_C(1) << 31)
#define FSB_HANDLES_PINS_ (FSB_HANDLES_IDLE_ - 1)
typedef struct fsb_handles_slot_ {
    uint64_t state;
    void    *object;
    uint32_t owner;
    uint32_t since;   /* of an IDLE one: when a sweep saw that, in ms */
    uint32_t idle_ms; /* 0: never expires */
    uint32_t next;    /* in a list of free slots: number + 1 */
} fsb_handles_slot_;
typedef char fsb_handles_slot_is_32_bytes_[sizeof(fsb_handles_slot_) <= 32 ? 1 : -1];

/* Slots are in slabs, whose memory is touched as it is needed: they are handed out in blocks, in
   the order of their numbers, each to the shard that needs it. Slabs are of one size: counting
   the leading zeros of a number, as doubling ones need, makes one lookup wait for the last. */
enum {
    FSB_HANDLES_BLOCK_ = 256,
    FSB_HANDLES_SLAB_ = 1 << 20,
    FSB_HANDLES_PAD_ = 64 /* slots share no line with strangers */
};
typedef struct fsb_handles_shard_ { /* a cache line each */
    uint64_t free;                  /* turn << 32 | number + 1 of the first free slot */
    char     pad[56];
} fsb_handles_shard_;

struct fsb_handles {
    uint32_t            ready; /* slots there are; written under grow */
    uint32_t            shard_mask;
    fsb_handles_shard_ *shards;
    fsb_handles_slot_ **slabs; /* [slab_count] */
    char                pad[64]; /* the above is only read, mostly; below, what is written more */
    uint64_t            expired, refused;
    uint32_t            strayed; /* an owner has slots outside its shard */
    uint32_t            slab_count;
    void              **memory; /* [slab_count] what they are in */
    uint8_t            *block_shard; /* [blocks] whose they are */
    fsb_handles_desc    desc;
    int64_t             epoch_ms;
    pthread_mutex_t     grow; /* leaf */
    pthread_mutex_t     lock; /* of the sweeper; leaf */
    pthread_cond_t      wake;
    pthread_t           sweeper;
    int                 sweeping, quit;
};

static fsb_handles_slot_ *fsb_handles_ready_(const fsb_handles *t, uint32_t number)
{
    return &t->slabs[number / FSB_HANDLES_SLAB_][number % FSB_HANDLES_SLAB_];
}

static fsb_handles_slot_ *fsb_handles_at_(const fsb_handles *t, uint32_t number)
{
    if (number >= __atomic_load_n(&t->ready, __ATOMIC_ACQUIRE)) return NULL;
    return fsb_handles_ready_(t, number);
}

/* The handles of an owner are in one shard, so that releasing them is a walk over that one only. */
static uint32_t fsb_handles_shard_of_(const fsb_handles *t, uint32_t owner)
{
    return (owner ? (uint32_t)fsb_tables_mix_(owner) : (uint32_t)sched_getcpu()) & t->shard_mask;
}

/* The turn counts all changes: a list that was changed and changed back is not taken for itself. */
static void fsb_handles_push_(fsb_handles *t, uint32_t shard, uint32_t first,
                              fsb_handles_slot_ *last)
{
    uint64_t *head = &t->shards[shard].free;
    uint64_t  was = fsb_tables_load_(head);
    do __atomic_store_n(&last->next, (uint32_t)was, __ATOMIC_RELAXED);
    while (!fsb_tables_swap_(head, &was, ((was >> 32) + 1) << 32 | (first + 1)));
}

/* Inlined by force, as finish_ and kill_ are: remove and add take an eighth less for it. */
__attribute__((always_inline)) static inline fsb_handles_slot_ *
fsb_handles_pop_(fsb_handles *t, uint32_t shard, uint32_t *number)
{
    uint64_t *head = &t->shards[shard].free;
    uint64_t  was = fsb_tables_load_(head);
    while ((uint32_t)was) {
        fsb_handles_slot_ *s = fsb_handles_ready_(t, (uint32_t)was - 1);
        const uint32_t     next = __atomic_load_n(&s->next, __ATOMIC_RELAXED);
        *number = (uint32_t)was - 1;
        if (fsb_tables_swap_(head, &was, ((was >> 32) + 1) << 32 | next)) return s;
    }
    return NULL;
}

static size_t fsb_handles_slab_size_(const fsb_handles *t, uint32_t slab)
{
    const uint32_t left = t->desc.max_handles - slab * FSB_HANDLES_SLAB_;
    const uint32_t n = left < FSB_HANDLES_SLAB_ ? left : (uint32_t)FSB_HANDLES_SLAB_;
    return n * sizeof(fsb_handles_slot_) + FSB_HANDLES_PAD_;
}

/* With large pages a handle among a million is replaced by another in 160 ns, without in 270. */
static void fsb_handles_large_pages_(char *memory, size_t size)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, from = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t to = ((uintptr_t)memory + size) & ~(page - 1);
    if (from < to) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

/* Lock held. Memory for a slab, not touched. */
static int fsb_handles_slab_(fsb_handles *t, uint32_t slab)
{
    const size_t size = fsb_handles_slab_size_(t, slab);
    char *memory = (char *)t->desc.allocator.fn(t->desc.allocator.user, NULL, 0, size);
    if (!memory) return -ENOMEM;
    fsb_handles_large_pages_(memory, size);
    const size_t off = (FSB_HANDLES_PAD_ - (uintptr_t)memory % FSB_HANDLES_PAD_) % FSB_HANDLES_PAD_;
    t->memory[slab] = memory;
    t->slabs[slab] = (fsb_handles_slot_ *)(void *)(memory + off);
    return 0;
}

/* Lock held. A block more for the shard. -ENOSPC: there are as many slots as there may be. */
static int fsb_handles_grow_(fsb_handles *t, uint32_t shard)
{
    const uint32_t first = t->ready, left = t->desc.max_handles - first;
    const uint32_t n = left < FSB_HANDLES_BLOCK_ ? left : (uint32_t)FSB_HANDLES_BLOCK_;
    const uint32_t slab = first / FSB_HANDLES_SLAB_;
    if (!n) return -ENOSPC;
    const int err = t->slabs[slab] ? 0 : fsb_handles_slab_(t, slab);
    if (err) return err;
    fsb_handles_slot_ *slots = &t->slabs[slab][first % FSB_HANDLES_SLAB_];
    memset(slots, 0, n * sizeof *slots);
    for (uint32_t i = 0; i < n; ++i)
        slots[i].state = FSB_HANDLES_IDLE_, slots[i].next = i + 1 < n ? first + i + 2 : 0;
    t->block_shard[first / FSB_HANDLES_BLOCK_] = (uint8_t)shard;
    __atomic_store_n(&t->ready, first + n, __ATOMIC_RELEASE);
    fsb_handles_push_(t, shard, first, &slots[n - 1]);
    return 0;
}

/* No free slot in the shard: more memory, or what other shards have to spare. */
static fsb_handles_slot_ *fsb_handles_more_(fsb_handles *t, uint32_t shard, uint32_t *number,
                                            int *err)
{
    fsb_handles_slot_ *s = NULL;
    *err = 0;
    while (!*err && !s) {
        pthread_mutex_lock(&t->grow);
        s = fsb_handles_pop_(t, shard, number);
        if (!s) *err = fsb_handles_grow_(t, shard);
        pthread_mutex_unlock(&t->grow);
        if (!s && !*err) s = fsb_handles_pop_(t, shard, number);
    }
    for (uint32_t i = 0; !s && *err == -ENOSPC && i <= t->shard_mask; ++i)
        if ((s = fsb_handles_pop_(t, i, number))) {
            __atomic_store_n(&t->strayed, 1, __ATOMIC_SEQ_CST);
            *err = 0;
        }
    if (*err == -ENOSPC) *err = -EMFILE;
    return s;
}

__attribute__((noinline)) static int fsb_handles_bad_(const fsb_handles *t, fsb_handle id, int err)
{
    fsb_tables_log_(&t->desc.log, FSB_LOG_WARN, "handles/bad", "handle %llx: %s",
                    (unsigned long long)id,
                    err == -EACCES ? "another owner's" : "closed, or never given out");
    return err;
}

FSB_API int fsb_handles_add(fsb_handles *t, void *object, uint32_t owner, uint32_t idle_ms,
                            fsb_handle *id)
{
    if (!object || !id || (idle_ms > 1u << 30 && idle_ms != UINT32_MAX)) return -EINVAL;
    int            err = 0;
    uint32_t       number = 0;
    const uint32_t shard = fsb_handles_shard_of_(t, owner);
    fsb_handles_slot_ *s = fsb_handles_pop_(t, shard, &number);
    if (!s) s = fsb_handles_more_(t, shard, &number, &err);
    if (!s) {
        __atomic_add_fetch(&t->refused, 1, __ATOMIC_RELAXED);
        if (err == -EMFILE)
            fsb_tables_log_(&t->desc.log, FSB_LOG_WARN, "handles/full", "%u handles are open",
                            t->desc.max_handles);
        return err;
    }
    const uint64_t generation = (fsb_tables_load_(&s->state) >> 32) + 1;
    const uint32_t ttl = idle_ms == UINT32_MAX ? 0 : idle_ms ? idle_ms : t->desc.idle_ms;
    __atomic_store_n(&s->owner, owner, __ATOMIC_RELEASE);
    __atomic_store_n(&s->idle_ms, ttl, __ATOMIC_RELEASE);
    FSB_TABLES_STEP_();
    __atomic_store_n(&s->object, object, __ATOMIC_RELEASE);
    FSB_TABLES_STEP_();
    __atomic_store_n(&s->state, generation << 32, __ATOMIC_RELEASE);
    *id = generation << 32 | number;
    return 0;
}

/* Live, of this id, and not IDLE. */
static int fsb_handles_used_(uint64_t state, fsb_handle id)
{
    return state >> 31 == id >> 32 << 1;
}

static int fsb_handles_live_(uint64_t state, fsb_handle id)
{
    return state >> 32 == id >> 32 && state >> 32 & 1;
}

/* Of an IDLE handle, which is used now; and what is wrong with one that cannot be had. */
__attribute__((noinline)) static int fsb_handles_get_idle_(fsb_handles *t, fsb_handle id,
                                                           uint32_t owner, void **object)
{
    fsb_handles_slot_ *s = fsb_handles_at_(t, (uint32_t)id);
    uint64_t           was = s ? fsb_tables_load_(&s->state) : 0;
    do
        if (!fsb_handles_live_(was, id)) return fsb_handles_bad_(t, id, -EBADF);
    while (was & FSB_HANDLES_IDLE_
           && !fsb_tables_swap_(&s->state, &was, was & ~FSB_HANDLES_IDLE_));
    FSB_TABLES_STEP_();
    void *const    found = __atomic_load_n(&s->object, __ATOMIC_ACQUIRE);
    const uint32_t whose = __atomic_load_n(&s->owner, __ATOMIC_ACQUIRE);
    if (!fsb_handles_live_(fsb_tables_load_(&s->state), id))
        return fsb_handles_bad_(t, id, -EBADF);
    if (owner && whose != owner) return fsb_handles_bad_(t, id, -EACCES);
    *object = found;
    return 0;
}

/* Every instruction counts where the slots are cached: with 28 of them a lookup takes an eighth
   less than with 37. Elsewhere it waits for memory, whatever the size of a slot. */
FSB_API int fsb_handles_get(fsb_handles *t, fsb_handle id, uint32_t owner, void **object)
{
    const uint32_t number = (uint32_t)id;
    if (number < __atomic_load_n(&t->ready, __ATOMIC_ACQUIRE)) {
        const fsb_handles_slot_ *s = fsb_handles_ready_(t, number);
        if (fsb_handles_used_(fsb_tables_load_(&s->state), id)) {
            FSB_TABLES_STEP_();
            void *const found = __atomic_load_n(&s->object, __ATOMIC_ACQUIRE);
            const int   ours = !owner || __atomic_load_n(&s->owner, __ATOMIC_ACQUIRE) == owner;
            if (ours && fsb_handles_used_(fsb_tables_load_(&s->state), id)) {
                *object = found;
                return 0;
            }
        }
    }
    return fsb_handles_get_idle_(t, id, owner, object);
}

/* The slot is dead and unpinned: ours alone, until it is in the list again. */
__attribute__((always_inline)) static inline void
fsb_handles_finish_(fsb_handles *t, fsb_handles_slot_ *s, uint32_t number, uint32_t generation)
{
    const fsb_handle id = (uint64_t)(generation - 1) << 32 | number;
    if (t->desc.release) {
        void *object = __atomic_load_n(&s->object, __ATOMIC_RELAXED);
        t->desc.release(t->desc.user, id, object);
    }
    if (!generation) return; /* all its ids are used up: retired, so that none comes twice */
    fsb_handles_push_(t, t->block_shard[number / FSB_HANDLES_BLOCK_], number, s);
}

/* Unless `last`, it returns 1 and keeps the pin if ending it would release the object. */
static int fsb_handles_unpin_(fsb_handles *t, fsb_handle id, int last)
{
    fsb_handles_slot_ *s = fsb_handles_at_(t, (uint32_t)id);
    if (!s || !(id >> 32 & 1)) return fsb_handles_bad_(t, id, -EBADF);
    uint64_t was = fsb_tables_load_(&s->state);
    do {
        const uint32_t ahead = (uint32_t)(was >> 32) - (uint32_t)(id >> 32);
        if (ahead > 1 || !(was & FSB_HANDLES_PINS_)) return fsb_handles_bad_(t, id, -EBADF);
        if (!last && ahead && (was & FSB_HANDLES_PINS_) == 1) return 1;
    } while (!fsb_tables_swap_(&s->state, &was, was - 1));
    if (!(was >> 32 & 1) && (was & FSB_HANDLES_PINS_) == 1)
        fsb_handles_finish_(t, s, (uint32_t)id, (uint32_t)(was >> 32));
    return 0;
}

FSB_API int fsb_handles_unpin(fsb_handles *t, fsb_handle id)
{
    return fsb_handles_unpin_(t, id, 1);
}

FSB_API int fsb_handles_pin(fsb_handles *t, fsb_handle id, uint32_t owner, void **object)
{
    fsb_handles_slot_ *s = fsb_handles_at_(t, (uint32_t)id);
    if (!s) return fsb_handles_bad_(t, id, -EBADF);
    uint64_t was = fsb_tables_load_(&s->state);
    do {
        if (!fsb_handles_live_(was, id)) return fsb_handles_bad_(t, id, -EBADF);
        if ((was & FSB_HANDLES_PINS_) == FSB_HANDLES_PINS_) return -EAGAIN;
    } while (!fsb_tables_swap_(&s->state, &was, (was + 1) & ~FSB_HANDLES_IDLE_));
    if (owner && __atomic_load_n(&s->owner, __ATOMIC_RELAXED) != owner) {
        fsb_handles_unpin(t, id);
        return fsb_handles_bad_(t, id, -EACCES);
    }
    *object = __atomic_load_n(&s->object, __ATOMIC_RELAXED);
    return 0;
}

/* `idle`: only if nobody uses it. */
__attribute__((always_inline)) static inline int
fsb_handles_kill_(fsb_handles *t, fsb_handles_slot_ *s, fsb_handle id, int idle)
{
    const uint32_t generation = (uint32_t)(id >> 32) + 1;
    const uint64_t dead = (uint64_t)generation << 32 | FSB_HANDLES_IDLE_;
    uint64_t       was = fsb_tables_load_(&s->state);
    do {
        if (!fsb_handles_live_(was, id)) return -EBADF;
        if (idle && (uint32_t)was != FSB_HANDLES_IDLE_) return -EBUSY;
    } while (!fsb_tables_swap_(&s->state, &was, dead | (was & FSB_HANDLES_PINS_)));
    if (was & FSB_HANDLES_PINS_) return 1;
    fsb_handles_finish_(t, s, (uint32_t)id, generation);
    return 0;
}

FSB_API int fsb_handles_remove(fsb_handles *t, fsb_handle id, uint32_t owner)
{
    fsb_handles_slot_ *s = fsb_handles_at_(t, (uint32_t)id);
    if (!s) return fsb_handles_bad_(t, id, -EBADF);
    if (owner) { /* a stale id finds a stranger's slot: the removal itself tells */
        const uint32_t whose = __atomic_load_n(&s->owner, __ATOMIC_ACQUIRE);
        const uint64_t state = fsb_tables_load_(&s->state);
        if (fsb_handles_live_(state, id) && whose != owner)
            return fsb_handles_bad_(t, id, -EACCES);
    }
    const int err = fsb_handles_kill_(t, s, id, 0);
    return err < 0 ? fsb_handles_bad_(t, id, err) : err;
}

/* The next live handle from *number on, of `owner` unless that is 0; 0: there is none. */
static fsb_handle fsb_handles_next_(fsb_handles *t, uint32_t owner, uint64_t *number,
                                    fsb_handles_slot_ **slot)
{
    const uint32_t count = __atomic_load_n(&t->ready, __ATOMIC_ACQUIRE);
    const int      one = owner && !__atomic_load_n(&t->strayed, __ATOMIC_SEQ_CST);
    const uint32_t shard = owner ? fsb_handles_shard_of_(t, owner) : 0;
    while (*number < count) {
        if (one && t->block_shard[*number / FSB_HANDLES_BLOCK_] != shard) {
            *number = (*number / FSB_HANDLES_BLOCK_ + 1) * FSB_HANDLES_BLOCK_;
            continue;
        }
        const uint32_t     n = (uint32_t)(*number)++;
        fsb_handles_slot_ *s = fsb_handles_at_(t, n);
        const uint64_t     state = fsb_tables_load_(&s->state);
        if (!(state >> 32 & 1)) continue;
        if (owner && __atomic_load_n(&s->owner, __ATOMIC_ACQUIRE) != owner) continue;
        if (fsb_tables_load_(&s->state) >> 32 != state >> 32) continue;
        *slot = s;
        return state >> 32 << 32 | n;
    }
    return 0;
}

FSB_API size_t fsb_handles_release(fsb_handles *t, uint32_t owner)
{
    size_t             n = 0;
    uint64_t           number = 0;
    fsb_handles_slot_ *s = NULL;
    fsb_handle         id;
    if (!owner) return 0;
    while ((id = fsb_handles_next_(t, owner, &number, &s)))
        if (fsb_handles_kill_(t, s, id, 0) >= 0) ++n;
    return n;
}

/* What a sweep does at `now`: 1 if the handle is gone. A use takes IDLE off and asks no clock; it
   happened before now, so idle time begins here. */
static int fsb_handles_expire_(fsb_handles *t, fsb_handles_slot_ *s, fsb_handle id, uint32_t now)
{
    const uint32_t ttl = __atomic_load_n(&s->idle_ms, __ATOMIC_ACQUIRE);
    uint64_t       was = fsb_tables_load_(&s->state);
    if (!ttl || !fsb_handles_live_(was, id)) return 0;
    if (!(was & FSB_HANDLES_IDLE_)) {
        __atomic_store_n(&s->since, now, __ATOMIC_RELEASE);
        fsb_tables_swap_(&s->state, &was, was | FSB_HANDLES_IDLE_);
        return 0;
    }
    const uint32_t idle = now - __atomic_load_n(&s->since, __ATOMIC_ACQUIRE);
    return idle <= INT32_MAX && idle >= ttl && fsb_handles_kill_(t, s, id, 1) == 0;
}

FSB_API size_t fsb_handles_sweep(fsb_handles *t, fsb_handle *ids, size_t room)
{
    const uint32_t     now = (uint32_t)(fsb_tables_now_ms_() - t->epoch_ms);
    size_t             n = 0;
    uint64_t           number = 0;
    fsb_handles_slot_ *s = NULL;
    fsb_handle         id;
    while ((!ids || n < room) && (id = fsb_handles_next_(t, 0, &number, &s))) {
        if (!fsb_handles_expire_(t, s, id, now)) continue;
        if (ids) ids[n] = id;
        ++n;
    }
    __atomic_add_fetch(&t->expired, n, __ATOMIC_RELAXED);
    return n;
}

FSB_API int fsb_handles_each(fsb_handles *t, uint32_t owner,
                             int (*fn)(void *user, fsb_handle id, void *object), void *user)
{
    int                err = 0;
    uint64_t           number = 0;
    fsb_handles_slot_ *s = NULL;
    fsb_handle         id;
    while (!err && (id = fsb_handles_next_(t, owner, &number, &s))) {
        uint64_t was = fsb_tables_load_(&s->state);
        while (was >> 32 == id >> 32 && !fsb_tables_swap_(&s->state, &was, was + 1)) {}
        if (was >> 32 != id >> 32) continue; /* pinned without counting as a use */
        err = fn(user, id, __atomic_load_n(&s->object, __ATOMIC_RELAXED));
        fsb_handles_unpin(t, id);
    }
    return err;
}

FSB_API void fsb_handles_stat(fsb_handles *t, fsb_handles_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->slots = __atomic_load_n(&t->ready, __ATOMIC_ACQUIRE);
    stats->expired = __atomic_load_n(&t->expired, __ATOMIC_RELAXED);
    stats->refused = __atomic_load_n(&t->refused, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < stats->slots; ++i) {
        const uint64_t state = fsb_tables_load_(&fsb_handles_at_(t, i)->state);
        stats->live += (state >> 32 & 1) || (state & FSB_HANDLES_PINS_);
        stats->added += ((state >> 32) + 1) / 2; /* each use of a slot took two generations */
    }
}

static void *fsb_handles_sweeper_(void *arg)
{
    fsb_handles *t = (fsb_handles *)arg;
    pthread_mutex_lock(&t->lock);
    while (!t->quit) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        const int64_t ns = until.tv_nsec + (int64_t)(t->desc.sweep_ms % 1000) * 1000000;
        until.tv_sec += (time_t)(t->desc.sweep_ms / 1000) + (time_t)(ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
        if (pthread_cond_timedwait(&t->wake, &t->lock, &until) == 0) continue;
        pthread_mutex_unlock(&t->lock);
        fsb_handles_sweep(t, NULL, 0);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

/* Threads of a library must not take the program's signals. */
static int fsb_tables_thread_(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int err = pthread_create(thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -err;
}

static size_t fsb_handles_blocks_(const fsb_handles *t)
{
    return (t->desc.max_handles + FSB_HANDLES_BLOCK_ - 1) / FSB_HANDLES_BLOCK_;
}

static void fsb_handles_free_(fsb_handles *t)
{
    const fsb_allocator a = t->desc.allocator;
    for (uint32_t i = 0; t->memory && i < t->slab_count; ++i)
        if (t->memory[i]) fsb_tables_free_(&a, t->memory[i], fsb_handles_slab_size_(t, i));
    fsb_tables_free_(&a, t->memory, t->slab_count * sizeof *t->memory);
    fsb_tables_free_(&a, t->slabs, t->slab_count * sizeof *t->slabs);
    fsb_tables_free_(&a, t->block_shard, fsb_handles_blocks_(t));
    fsb_tables_free_(&a, t->shards, (t->shard_mask + 1) * sizeof *t->shards);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->grow);
    fsb_tables_free_(&a, t, sizeof *t);
}

FSB_API void fsb_handles_close(fsb_handles *t)
{
    if (!t) return;
    if (t->sweeping) {
        pthread_mutex_lock(&t->lock);
        t->quit = 1;
        pthread_cond_signal(&t->wake);
        pthread_mutex_unlock(&t->lock);
        pthread_join(t->sweeper, NULL);
    }
    for (uint32_t i = 0; t->desc.release && i < t->ready; ++i) {
        fsb_handles_slot_ *s = fsb_handles_at_(t, i);
        const uint64_t     live = s->state >> 32 & 1; /* else dead, but held by a pin */
        if (live || (s->state & FSB_HANDLES_PINS_))
            t->desc.release(t->desc.user, ((s->state >> 32) - !live) << 32 | i, s->object);
    }
    fsb_handles_free_(t);
}

FSB_API int fsb_handles_open(fsb_handles **out, const fsb_handles_desc *desc)
{
    fsb_handles_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (!d.max_handles) d.max_handles = 65536;
    if (!d.shards) d.shards = 16;
    if (!out || d.max_handles > 1u << 28 || d.shards > 256 || d.shards & (d.shards - 1)
        || d.idle_ms > 1u << 30)
        return -EINVAL;
    d.allocator = fsb_tables_allocator_(&d.allocator);
    fsb_handles *t = (fsb_handles *)fsb_tables_new_(&d.allocator, sizeof *t);
    if (!t) return -ENOMEM;
    t->desc = d, t->shard_mask = d.shards - 1, t->epoch_ms = fsb_tables_now_ms_();
    pthread_mutex_init(&t->grow, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    t->slab_count = (d.max_handles + FSB_HANDLES_SLAB_ - 1) / FSB_HANDLES_SLAB_;
    t->slabs = (fsb_handles_slot_ **)fsb_tables_new_(&d.allocator,
                                                     t->slab_count * sizeof *t->slabs);
    t->memory = (void **)fsb_tables_new_(&d.allocator, t->slab_count * sizeof *t->memory);
    t->block_shard = (uint8_t *)fsb_tables_new_(&d.allocator, fsb_handles_blocks_(t));
    t->shards = (fsb_handles_shard_ *)fsb_tables_new_(&d.allocator, d.shards * sizeof *t->shards);
    int err = t->slabs && t->memory && t->block_shard && t->shards ? 0 : -ENOMEM;
    if (!err && d.sweep_ms) err = fsb_tables_thread_(&t->sweeper, fsb_handles_sweeper_, t);
    if (err) {
        fsb_handles_free_(t);
        return err;
    }
    t->sweeping = d.sweep_ms != 0;
    *out = t;
    return 0;
}

/* ---- [mount table] --------------------------------------------------------------------------- */

/* Points are found by the hash of their path in an open table of hash << 32 | number + 1. A reader
   tries the prefixes of its path, longest first, but only those as deep as some point is, and pins
   what it finds: then nothing of it changes until it is unpinned. Every change of the table is one
   store, and is counted before it; a reader that saw the count move tries again, so that what it
   found was there at one moment. Points and tables are memory that is not freed before the end, so
   that a late reader reads something, and learns that it is too late. */
enum { FSB_MOUNTS_BLOCK_ = 32, FSB_MOUNTS_INLINE_ = 28, FSB_MOUNTS_ALIGN_ = 64 };
#define FSB_MOUNTS_LIVE_ (UINT64_C(1) << 32)
#define FSB_MOUNTS_FROZEN_ (UINT64_C(2) << 32) /* about to be replaced or removed */
#define FSB_MOUNTS_AGAIN_ UINT32_MAX
#define FSB_MOUNTS_GONE_ ((uint64_t)UINT32_MAX) /* an entry that was removed */

typedef struct fsb_mounts_point_ {
    uint64_t  state; /* LIVE or FROZEN, and pins */
    uint32_t  hash;
    uint16_t  size;         /* of path */
    uint8_t   count, room;  /* of binds */
    fsb_bind *binds;
    char     *path; /* is `inlined` if it fits; not ended by NUL */
    uint32_t  ghost;        /* dead, but pinned when it died */
    char      inlined[FSB_MOUNTS_INLINE_];
} fsb_mounts_point_;

#define FSB_MOUNTS_BLOCK_SIZE_ \
    (FSB_MOUNTS_BLOCK_ * sizeof(fsb_mounts_point_) + FSB_MOUNTS_ALIGN_)

typedef struct fsb_mounts_block_ { /* where points are */
    fsb_mounts_point_ *points; /* [FSB_MOUNTS_BLOCK_] */
    void              *memory;
} fsb_mounts_block_;

typedef struct fsb_mounts_table_ {
    uint32_t mask;
    uint32_t used; /* entries that are not 0 */
    uint64_t entry[1]; /* [mask + 1] */
} fsb_mounts_table_;

struct fsb_mounts {
    uint64_t            changes;
    uint64_t            depths; /* bit d: there are points of d components */
    fsb_mounts_table_  *table;
    uint64_t            seed;
    fsb_mounts_block_  *blocks; /* [block_count]; the one of blocks_of[] in use */
    /* lock held */
    pthread_mutex_t lock; /* leaf */
    uint32_t        block_count, count, next_number, free_count, room, ghosts;
    fsb_mounts_block_ *blocks_of[32]; /* by the logarithm of their size */
    uint32_t       *sorted; /* [room] the points by path */
    uint32_t       *spare;  /* [room] numbers of unused points */
    fsb_mounts_table_ *tables[32][2]; /* by the logarithm of their size */
    uint32_t        of_depth[FSB_BIND_DEPTH_MAX + 1];
    fsb_mounts_desc desc;
};

static fsb_mounts_point_ *fsb_mounts_at_(const fsb_mounts *t, uint32_t number)
{
    const fsb_mounts_block_ *blocks = __atomic_load_n(&t->blocks, __ATOMIC_ACQUIRE);
    return &blocks[number / FSB_MOUNTS_BLOCK_].points[number % FSB_MOUNTS_BLOCK_];
}

/* 0 if a path is normalised. */
static int fsb_mounts_path_(const char *path, size_t size)
{
    if (!path || !size || path[0] != '/') return -EINVAL;
    if (memchr(path, '\0', size)) return -EILSEQ;
    if (size > FSB_PATH_MAX) return -ENAMETOOLONG;
    for (size_t i = 1, n; i < size || (i > 1 && i == size); i += n + 1) {
        const char *slash = i < size ? (const char *)memchr(path + i, '/', size - i) : NULL;
        n = slash ? (size_t)(slash - path) - i : size - i;
        if (!n || (n == 1 && path[i] == '.')) return -EINVAL;
        if (n == 2 && path[i] == '.' && path[i + 1] == '.') return -EACCES;
        if (n > FSB_NAME_MAX) return -ENAMETOOLONG;
        if (!slash) break;
    }
    return 0;
}

/* Hashes the component at *p, which ends before a '/' or at `end`, into h; *p is its end then. */
static inline uint64_t fsb_mounts_hash_(uint64_t h, const char **p, const char *end)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), slashes = ones * '/';
    for (const char *at = *p;;) {
        const size_t   left = (size_t)(end - at);
        uint64_t       w = fsb_tables_word_(at, left);
        const uint64_t x = w ^ slashes, slash = (x - ones) & ~x & (ones << 7); /* its top bit */
        size_t         n = slash ? (size_t)__builtin_ctzll(slash) / 8 : 8;
        if (n < 8) w &= (UINT64_C(1) << (8 * n)) - 1;
        h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 32;
        if (n > left) n = left;
        at += n;
        if (n < 8) {
            *p = at;
            return h;
        }
    }
}

static int fsb_mounts_pin_(fsb_mounts_point_ *p)
{
    uint64_t was = __atomic_load_n(&p->state, __ATOMIC_RELAXED);
    do {
        if (!(was & FSB_MOUNTS_LIVE_) || (uint32_t)was == UINT32_MAX) return 0;
    } while (!__atomic_compare_exchange_n(&p->state, &was, was + 1, 1, __ATOMIC_ACQUIRE,
                                          __ATOMIC_RELAXED));
    return 1;
}

/* Lock held. The point is dead and nobody pins it. */
static void fsb_mounts_finish_(fsb_mounts *t, uint32_t number)
{
    const fsb_allocator *a = &t->desc.allocator;
    fsb_mounts_point_   *p = fsb_mounts_at_(t, number);
    for (uint32_t i = 0; i < p->count; ++i)
        fsb_tables_free_(a, (char *)(uintptr_t)p->binds[i].prefix, strlen(p->binds[i].prefix) + 1);
    fsb_tables_free_(a, p->binds, p->room * sizeof *p->binds);
    if (p->path != p->inlined) fsb_tables_free_(a, p->path, p->size);
    p->binds = NULL, p->count = p->room = 0, p->path = p->inlined;
    if (p->ghost) p->ghost = 0, --t->ghosts;
    t->spare[t->free_count++] = number;
}

static void fsb_mounts_unpin_(fsb_mounts *t, uint32_t number)
{
    const uint64_t left = __atomic_sub_fetch(&fsb_mounts_at_(t, number)->state, 1,
                                             __ATOMIC_ACQ_REL);
    if (left) return;
    pthread_mutex_lock(&t->lock);
    fsb_mounts_finish_(t, number);
    pthread_mutex_unlock(&t->lock);
}

/* The point with exactly this path, pinned; 0: none, AGAIN, else number + 1. */
static uint32_t fsb_mounts_find_(fsb_mounts *t, const fsb_mounts_table_ *table, uint64_t hash,
                                 const char *path, size_t size)
{
    const uint32_t top = (uint32_t)(hash >> 32);
    for (uint32_t i = (uint32_t)hash & table->mask;; i = (i + 1) & table->mask) {
        const uint64_t e = __atomic_load_n(&table->entry[i], __ATOMIC_ACQUIRE);
        if (!e) return 0;
        if (e >> 32 != top || e == FSB_MOUNTS_GONE_) continue;
        const uint32_t     number = (uint32_t)e - 1;
        fsb_mounts_point_ *p = fsb_mounts_at_(t, number);
        if (!fsb_mounts_pin_(p)) {
            if (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) & FSB_MOUNTS_FROZEN_)
                return FSB_MOUNTS_AGAIN_;
            continue;
        }
        if (p->size == size && memcmp(p->path, path, size) == 0) return number + 1;
        fsb_mounts_unpin_(t, number);
    }
}

/* Once over the table: number + 1, pinned; *size is how much of the path is the point's. */
static uint32_t fsb_mounts_try_(fsb_mounts *t, const char *path, const char *end, size_t *size)
{
    const fsb_mounts_table_ *table = __atomic_load_n(&t->table, __ATOMIC_ACQUIRE);
    const uint64_t depths = __atomic_load_n(&t->depths, __ATOMIC_RELAXED);
    uint64_t       hash[FSB_BIND_DEPTH_MAX + 1];
    uint32_t       ends[FSB_BIND_DEPTH_MAX + 1];
    unsigned       depth = 0;
    const char    *p = path;
    hash[0] = t->seed, ends[0] = 0;
    if (path + 1 == end) p = end;
    while (p < end && depths >> depth > 1) {
        ++p, ++depth;
        hash[depth] = fsb_mounts_hash_(hash[depth - 1], &p, end);
        ends[depth] = (uint32_t)(p - path);
        if (depths >> depth & 1)
            __builtin_prefetch(&table->entry[(uint32_t)hash[depth] & table->mask]);
    }
    uint64_t left = depths & ((UINT64_C(2) << depth) - 1);
    while (left) {
        const unsigned d = 63u - (unsigned)__builtin_clzll(left);
        left ^= UINT64_C(1) << d;
        const uint32_t found = fsb_mounts_find_(t, table, hash[d], path, ends[d]);
        *size = ends[d];
        if (found) return found;
    }
    return 0;
}

FSB_API int fsb_mounts_resolve(fsb_mounts *t, const char *path, fsb_mounted *out)
{
    const size_t length = strlen(path);
    if (length > FSB_PATH_MAX) return -ENAMETOOLONG;
    for (;;) {
        const uint64_t before = __atomic_load_n(&t->changes, __ATOMIC_ACQUIRE);
        size_t         size = 0;
        const uint32_t found = fsb_mounts_try_(t, path, path + length, &size);
        if (found == FSB_MOUNTS_AGAIN_) {
            sched_yield();
            continue;
        }
        if (__atomic_load_n(&t->changes, __ATOMIC_ACQUIRE) == before) {
            if (!found) return -ENOENT;
            const fsb_mounts_point_ *p = fsb_mounts_at_(t, found - 1);
            out->binds = p->binds, out->count = p->count, out->number = found - 1;
            out->rest = length == 1 ? path + 1 : path + size;
            return 0;
        }
        if (found) fsb_mounts_unpin_(t, found - 1);
    }
}

FSB_API void fsb_mounts_release(fsb_mounts *t, const fsb_mounted *at)
{
    fsb_mounts_unpin_(t, at->number);
}

/* ---- [mount table: changes] ------------------------------------------------------------------ */

/* How a path is stored: the root is "", so that every point's path goes on with '/'. */
static size_t fsb_mounts_stored_(const char *path, size_t size)
{
    return size == 1 && path[0] == '/' ? 0 : size;
}

static uint64_t fsb_mounts_hash_all_(const fsb_mounts *t, const char *path, size_t size,
                                     unsigned *depth)
{
    const char *p = path, *end = path + size;
    uint64_t    h = t->seed;
    for (*depth = 0; p < end && *depth <= FSB_BIND_DEPTH_MAX; ++*depth) {
        ++p;
        h = fsb_mounts_hash_(h, &p, end);
    }
    return h;
}

/* By components: a folder comes before what is below it, and that before its other siblings. */
static int fsb_mounts_order_(const char *a, size_t n, const char *b, size_t m)
{
    for (size_t i = 0; i < n && i < m; ++i) {
        const int x = a[i] == '/' ? 0 : (unsigned char)a[i] + 1;
        const int y = b[i] == '/' ? 0 : (unsigned char)b[i] + 1;
        if (x != y) return x - y;
    }
    return n < m ? -1 : n > m;
}

/* Lock held. Where in sorted[] the path is, or belongs. */
static uint32_t fsb_mounts_place_(const fsb_mounts *t, const char *path, size_t size, int *exact)
{
    uint32_t low = 0, high = t->count;
    *exact = 0;
    while (low < high) {
        const uint32_t           middle = low + (high - low) / 2;
        const fsb_mounts_point_ *p = fsb_mounts_at_(t, t->sorted[middle]);
        const int order = fsb_mounts_order_(p->path, p->size, path, size);
        if (!order) return *exact = 1, middle;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Lock held. The entry that holds `value`; value 0: one that is free for a new one. */
static uint64_t *fsb_mounts_entry_(fsb_mounts_table_ *table, uint64_t hash, uint64_t value)
{
    uint32_t i = (uint32_t)hash & table->mask;
    while (table->entry[i] != value && !(!value && table->entry[i] == FSB_MOUNTS_GONE_))
        i = (i + 1) & table->mask;
    return &table->entry[i];
}

static size_t fsb_mounts_table_size_(uint32_t slots)
{
    return sizeof(fsb_mounts_table_) + (size_t)slots * sizeof(uint64_t);
}

/* Lock held. Makes room for one more entry: in a table without removed ones, perhaps a larger one.
   There are two of each size, used in turn, so that none is written while it is in use. */
static int fsb_mounts_room_(fsb_mounts *t)
{
    fsb_mounts_table_ *old = t->table;
    if (old && old->used < old->mask / 2) return 0;
    unsigned level = old ? (unsigned)__builtin_ctz(old->mask + 1) : 6;
    if (old && t->count >= old->mask / 4) ++level;
    const uint32_t      slots = UINT32_C(1) << level;
    fsb_mounts_table_ **place = &t->tables[level][t->tables[level][0] == old && old];
    if (!*place)
        *place = (fsb_mounts_table_ *)fsb_tables_new_(&t->desc.allocator,
                                                      fsb_mounts_table_size_(slots));
    fsb_mounts_table_ *fresh = *place;
    if (!fresh) return -ENOMEM;
    __atomic_add_fetch(&t->changes, 1, __ATOMIC_SEQ_CST);
    fresh->mask = slots - 1;
    for (uint32_t i = 0; i < slots; ++i) __atomic_store_n(&fresh->entry[i], 0, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < t->count; ++i) {
        const fsb_mounts_point_ *p = fsb_mounts_at_(t, t->sorted[i]);
        unsigned                 depth;
        const uint64_t h = fsb_mounts_hash_all_(t, p->path, p->size, &depth);
        __atomic_store_n(fsb_mounts_entry_(fresh, h, 0), h >> 32 << 32 | (t->sorted[i] + 1),
                         __ATOMIC_RELEASE);
    }
    fresh->used = t->count;
    __atomic_store_n(&t->table, fresh, __ATOMIC_RELEASE);
    return 0;
}

/* Lock held. Twice as much room for blocks, and for points in sorted[] and spare[]; old lists of
   blocks stay for late readers. */
static int fsb_mounts_widen_(fsb_mounts *t)
{
    const fsb_allocator *a = &t->desc.allocator;
    const uint32_t       n = t->block_count, old = t->room;
    const unsigned     level = n ? (unsigned)__builtin_ctz(n) + 1 : 0; /* for 1 << level of them */
    const uint32_t     room = (uint32_t)FSB_MOUNTS_BLOCK_ << level;
    uint32_t          *sorted = (uint32_t *)fsb_tables_new_(a, room * sizeof *sorted);
    uint32_t          *spare = (uint32_t *)fsb_tables_new_(a, room * sizeof *spare);
    fsb_mounts_block_ *blocks = (fsb_mounts_block_ *)fsb_tables_new_(a, sizeof *blocks << level);
    if (!sorted || !spare || !blocks) {
        fsb_tables_free_(a, sorted, room * sizeof *sorted);
        fsb_tables_free_(a, spare, room * sizeof *spare);
        fsb_tables_free_(a, blocks, sizeof *blocks << level);
        return -ENOMEM;
    }
    if (n) memcpy(blocks, t->blocks, n * sizeof *blocks);
    if (t->count) memcpy(sorted, t->sorted, t->count * sizeof *sorted);
    fsb_tables_free_(a, t->sorted, old * sizeof *sorted);
    fsb_tables_free_(a, t->spare, old * sizeof *spare);
    t->sorted = sorted, t->spare = spare, t->room = room, t->blocks_of[level] = blocks;
    __atomic_store_n(&t->blocks, blocks, __ATOMIC_RELEASE);
    return 0;
}

/* Lock held. Sees to it that spare[] has a number. */
static int fsb_mounts_grow_(fsb_mounts *t)
{
    if (t->free_count) return 0;
    const int err = t->room == t->block_count * FSB_MOUNTS_BLOCK_ ? fsb_mounts_widen_(t) : 0;
    if (err) return err;
    char *memory = (char *)fsb_tables_new_(&t->desc.allocator, FSB_MOUNTS_BLOCK_SIZE_);
    if (!memory) return -ENOMEM;
    const size_t       off = (FSB_MOUNTS_ALIGN_ - (uintptr_t)memory % FSB_MOUNTS_ALIGN_)
                       % FSB_MOUNTS_ALIGN_;
    fsb_mounts_block_ *block = &t->blocks[t->block_count];
    block->memory = memory, block->points = (fsb_mounts_point_ *)(void *)(memory + off);
    for (uint32_t i = FSB_MOUNTS_BLOCK_; i--;)
        t->spare[t->free_count++] = t->block_count * FSB_MOUNTS_BLOCK_ + i;
    ++t->block_count;
    return 0;
}

/* Lock held. A new point of `count` binds, copied, not yet to be found. */
static int fsb_mounts_point_new_(fsb_mounts *t, const char *path, size_t size, uint64_t hash,
                                 const fsb_bind *binds, uint32_t count, uint32_t *number)
{
    const fsb_allocator *a = &t->desc.allocator;
    int                  err = fsb_mounts_grow_(t);
    if (err) return err;
    *number = t->spare[--t->free_count];
    fsb_mounts_point_ *p = fsb_mounts_at_(t, *number);
    p->hash = (uint32_t)(hash >> 32), p->size = (uint16_t)size, p->count = 0, p->ghost = 0;
    p->path = p->inlined;
    p->binds = (fsb_bind *)fsb_tables_new_(a, count * sizeof *p->binds);
    p->room = (uint8_t)count;
    if (size > sizeof p->inlined) p->path = (char *)fsb_tables_new_(a, size);
    for (; p->binds && p->path && p->count < count; ++p->count) {
        const char *prefix = binds[p->count].prefix ? binds[p->count].prefix : "";
        char       *copy = (char *)fsb_tables_new_(a, strlen(prefix) + 1);
        if (!copy) break;
        memcpy(copy, prefix, strlen(prefix));
        p->binds[p->count] = binds[p->count], p->binds[p->count].prefix = copy;
    }
    if (p->count < count) {
        if (!p->path) p->path = p->inlined;
        fsb_mounts_finish_(t, *number);
        return -ENOMEM;
    }
    if (size) memcpy(p->path, path, size);
    return 0;
}

/* Lock held. Takes a point that nobody uses, nor a dead one of its path, out of reach; -EBUSY.
   Readers that meet it meanwhile try again. */
static int fsb_mounts_freeze_(fsb_mounts *t, fsb_mounts_point_ *p)
{
    uint64_t was = FSB_MOUNTS_LIVE_;
    for (uint32_t i = 0; t->ghosts && i < t->block_count * FSB_MOUNTS_BLOCK_; ++i) {
        const fsb_mounts_point_ *q = fsb_mounts_at_(t, i);
        if (q->ghost && q->size == p->size && !memcmp(q->path, p->path, p->size)) return -EBUSY;
    }
    return __atomic_compare_exchange_n(&p->state, &was, FSB_MOUNTS_FROZEN_, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED) ? 0 : -EBUSY;
}

/* Lock held. The union on a point changes: `fresh` takes the place of `old`, which lives on for
   those who use it. */
static void fsb_mounts_swap_(fsb_mounts *t, uint32_t place, uint64_t hash, uint32_t old,
                             uint32_t fresh)
{
    const uint64_t     top = hash >> 32 << 32;
    fsb_mounts_point_ *p = fsb_mounts_at_(t, old);
    __atomic_store_n(&fsb_mounts_at_(t, fresh)->state, FSB_MOUNTS_LIVE_, __ATOMIC_RELEASE);
    __atomic_add_fetch(&t->changes, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(fsb_mounts_entry_(t->table, hash, top | (old + 1)), top | (fresh + 1),
                     __ATOMIC_RELEASE);
    t->sorted[place] = fresh;
    p->ghost = 1, ++t->ghosts;
    if (!(uint32_t)__atomic_and_fetch(&p->state, UINT32_MAX, __ATOMIC_ACQ_REL))
        fsb_mounts_finish_(t, old);
}

/* Lock held. A path that no point had. */
static void fsb_mounts_insert_(fsb_mounts *t, uint32_t place, uint64_t hash, unsigned depth,
                               uint32_t fresh)
{
    memmove(t->sorted + place + 1, t->sorted + place, (t->count - place) * sizeof *t->sorted);
    t->sorted[place] = fresh;
    ++t->count;
    __atomic_store_n(&fsb_mounts_at_(t, fresh)->state, FSB_MOUNTS_LIVE_, __ATOMIC_RELEASE);
    __atomic_add_fetch(&t->changes, 1, __ATOMIC_SEQ_CST);
    ++t->of_depth[depth];
    __atomic_or_fetch(&t->depths, UINT64_C(1) << depth, __ATOMIC_RELEASE);
    uint64_t *entry = fsb_mounts_entry_(t->table, hash, 0);
    if (!*entry) ++t->table->used;
    __atomic_store_n(entry, hash >> 32 << 32 | (fresh + 1), __ATOMIC_RELEASE);
}

/* Lock held. The frozen point goes. */
static void fsb_mounts_drop_(fsb_mounts *t, uint32_t place, uint64_t hash, unsigned depth)
{
    const uint32_t old = t->sorted[place];
    __atomic_add_fetch(&t->changes, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(fsb_mounts_entry_(t->table, hash, hash >> 32 << 32 | (old + 1)),
                     FSB_MOUNTS_GONE_, __ATOMIC_RELEASE);
    if (!--t->of_depth[depth])
        __atomic_and_fetch(&t->depths, ~(UINT64_C(1) << depth), __ATOMIC_RELEASE);
    memmove(t->sorted + place, t->sorted + place + 1, (t->count - place - 1) * sizeof *t->sorted);
    --t->count;
    __atomic_store_n(&fsb_mounts_at_(t, old)->state, 0, __ATOMIC_RELEASE);
    fsb_mounts_finish_(t, old);
}

/* Lock held. */
static int fsb_mounts_add_(fsb_mounts *t, const char *path, size_t size, const fsb_bind *bind)
{
    fsb_bind       binds[FSB_BIND_UNION_MAX];
    uint32_t       n = 0, fresh = 0;
    unsigned       depth;
    int            exact;
    const uint32_t where = bind->flags & (FSB_BIND_BEFORE | FSB_BIND_AFTER | FSB_BIND_REPLACE);
    const uint64_t hash = fsb_mounts_hash_all_(t, path, size, &depth);
    if (depth > FSB_BIND_DEPTH_MAX) return -E2BIG;
    int            err = fsb_mounts_room_(t);
    const uint32_t place = fsb_mounts_place_(t, path, size, &exact);
    if (err) return err;
    if (exact && !where) return -EEXIST;
    if (!exact && t->count >= t->desc.max_mounts) return -ENOSPC;
    const fsb_mounts_point_ *old = exact ? fsb_mounts_at_(t, t->sorted[place]) : NULL;
    const uint32_t           kept = old && where != FSB_BIND_REPLACE ? old->count : 0;
    if (kept == FSB_BIND_UNION_MAX) return -E2BIG;
    if (where == FSB_BIND_BEFORE) binds[n++] = *bind;
    for (uint32_t i = 0; i < kept; ++i) binds[n++] = old->binds[i];
    if (where != FSB_BIND_BEFORE) binds[n++] = *bind;
    binds[where == FSB_BIND_BEFORE ? 0 : n - 1].number = ++t->next_number;
    err = fsb_mounts_point_new_(t, path, size, hash, binds, n, &fresh);
    if (err) return err;
    if (exact && where == FSB_BIND_REPLACE) {
        err = fsb_mounts_freeze_(t, fsb_mounts_at_(t, t->sorted[place]));
        if (err) {
            fsb_mounts_finish_(t, fresh);
            return err;
        }
    }
    if (exact) fsb_mounts_swap_(t, place, hash, t->sorted[place], fresh);
    else fsb_mounts_insert_(t, place, hash, depth, fresh);
    return 0;
}

FSB_API int fsb_mounts_add(fsb_mounts *t, const char *path, size_t size, const fsb_bind *bind)
{
    const uint32_t where = bind ? bind->flags & 7 : 0;
    if (!bind || !bind->backend || (where & (where - 1)) || bind->flags > 15) return -EINVAL;
    fsb_bind b = *bind;
    int      err = fsb_mounts_path_(path, size);
    if (!err && b.prefix) err = fsb_mounts_path_(b.prefix, strlen(b.prefix));
    if (b.prefix && !b.prefix[1]) b.prefix = NULL;
    if (!err) {
        pthread_mutex_lock(&t->lock);
        err = fsb_mounts_add_(t, path, fsb_mounts_stored_(path, size), &b);
        pthread_mutex_unlock(&t->lock);
    }
    if (err)
        fsb_tables_log_(&t->desc.log, FSB_LOG_WARN, "mounts/add", "cannot bind %.*s: %s",
                        (int)(path && size < 200 ? size : 0), path ? path : "",
                        err == -EACCES ? ".. leads out" : err == -EILSEQ ? "a NUL in the path"
                        : err == -ENAMETOOLONG ? "the path is too long"
                        : err == -EINVAL ? "the path is not normalised"
                        : err == -EEXIST ? "there is one already"
                        : err == -EBUSY ? "it is in use" : "no room");
    return err;
}

/* Lock held. */
static int fsb_mounts_remove_(fsb_mounts *t, const char *path, size_t size,
                              const fsb_backend *backend)
{
    fsb_bind       binds[FSB_BIND_UNION_MAX];
    uint32_t       n = 0, fresh = 0;
    unsigned       depth;
    int            exact;
    const uint64_t hash = fsb_mounts_hash_all_(t, path, size, &depth);
    const uint32_t place = fsb_mounts_place_(t, path, size, &exact);
    if (!exact) return -ENOENT;
    fsb_mounts_point_ *p = fsb_mounts_at_(t, t->sorted[place]);
    for (uint32_t i = 0; backend && i < p->count; ++i)
        if (p->binds[i].backend != backend) binds[n++] = p->binds[i];
    if (n == p->count) return -ENOENT;
    int err = n ? fsb_mounts_point_new_(t, path, size, hash, binds, n, &fresh) : 0;
    if (err) return err;
    err = fsb_mounts_freeze_(t, p);
    if (err && n) fsb_mounts_finish_(t, fresh);
    if (err) return err;
    if (n) fsb_mounts_swap_(t, place, hash, t->sorted[place], fresh);
    else fsb_mounts_drop_(t, place, hash, depth);
    return 0;
}

FSB_API int fsb_mounts_remove(fsb_mounts *t, const char *path, const fsb_backend *backend)
{
    const size_t size = path ? strlen(path) : 0;
    int          err = fsb_mounts_path_(path, size);
    if (err) return err;
    pthread_mutex_lock(&t->lock);
    err = fsb_mounts_remove_(t, path, fsb_mounts_stored_(path, size), backend);
    pthread_mutex_unlock(&t->lock);
    return err;
}

FSB_API int fsb_mounts_next(fsb_mounts *t, const char *top, char *path)
{
    int          exact, found = 0;
    const size_t below = fsb_mounts_stored_(top, strlen(top));
    const int    root = path[0] == '/' && !path[1];
    pthread_mutex_lock(&t->lock);
    uint32_t at = path[0] ? fsb_mounts_place_(t, path, root ? 0 : strlen(path), &exact)
                          : fsb_mounts_place_(t, top, below, &exact);
    if (path[0] && exact) ++at;
    if (at < t->count) {
        const fsb_mounts_point_ *p = fsb_mounts_at_(t, t->sorted[at]);
        found = p->size >= below && !memcmp(p->path, top, below)
                && (p->size == below || p->path[below] == '/');
        if (found) {
            memcpy(path, p->size ? p->path : "/", p->size ? p->size : 1u);
            path[p->size ? p->size : 1] = '\0';
        }
    }
    pthread_mutex_unlock(&t->lock);
    return found;
}

FSB_API void fsb_mounts_close(fsb_mounts *t)
{
    if (!t) return;
    const fsb_allocator a = t->desc.allocator;
    while (t->count) fsb_mounts_finish_(t, t->sorted[--t->count]);
    for (uint32_t i = 0; i < t->block_count; ++i)
        fsb_tables_free_(&a, t->blocks[i].memory, FSB_MOUNTS_BLOCK_SIZE_);
    for (unsigned level = 0; level < 32; ++level)
        fsb_tables_free_(&a, t->blocks_of[level], sizeof *t->blocks << level);
    for (unsigned level = 0; level < 2 * 32; ++level)
        fsb_tables_free_(&a, t->tables[level / 2][level % 2],
                         fsb_mounts_table_size_(UINT32_C(1) << level / 2));
    fsb_tables_free_(&a, t->sorted, t->room * sizeof *t->sorted);
    fsb_tables_free_(&a, t->spare, t->room * sizeof *t->spare);
    pthread_mutex_destroy(&t->lock);
    fsb_tables_free_(&a, t, sizeof *t);
}

FSB_API int fsb_mounts_open(fsb_mounts **out, const fsb_mounts_desc *desc)
{
    fsb_mounts_desc d;
    memset(&d, 0, sizeof d);
    if (desc) d = *desc;
    if (!d.max_mounts) d.max_mounts = 1u << 20;
    if (!out || d.max_mounts > 1u << 24) return -EINVAL;
    d.allocator = fsb_tables_allocator_(&d.allocator);
    fsb_mounts *t = (fsb_mounts *)fsb_tables_new_(&d.allocator, sizeof *t);
    if (!t) return -ENOMEM;
    t->seed = fsb_tables_seed_(t);
    t->desc = d;
    pthread_mutex_init(&t->lock, NULL);
    if (fsb_mounts_room_(t) != 0) {
        fsb_mounts_close(t);
        return -ENOMEM;
    }
    *out = t;
    return 0;
}

/* ---- [namespace] ----------------------------------------------------------------------------- */

typedef struct fsb_namespace_ {
    fsb_backend        base; /* first */
    fsb_namespace_desc desc;
    int                own_handles;
    uint32_t           idle_ms; /* as fsb_handles_add() takes it */
    /* of a tenant, else 0 */
    uint64_t open, max_open, refused; /* files and watches */
    void (*ended)(struct fsb_namespace_ *ns); /* open became 0 */
    /* A submitted call is over, which had *bytes of the quota. 1: its end has to be where waiting
       is allowed, and it is not over yet. */
    int (*leave)(struct fsb_namespace_ *ns, uint64_t *bytes, int may_wait);
    pthread_mutex_t lock; /* of layer[0] of what was submitted, of holds and landed, and of runs;
                             leaf, but for cancel() of the backend of one of these */
    struct fsb_namespace_lift_ *runs; /* commands under way in call[] */
} fsb_namespace_;

typedef struct fsb_namespace_file_ { /* an open file or watch; it pins its mount point */
    fsb_namespace_ *ns;
    fsb_mounted     at; /* binds NULL: another one of the watch pins it */
    fsb_bind        bind;
    fsb_handle      handle; /* of bind.backend; 0: closed */
    void (*event)(void *user, const fsb_event *event);
    void                       *user;
    struct fsb_namespace_file_ *more; /* of a watch: on the other backends that it sees */
    size_t mount_size;
    char   mount[1]; /* [mount_size + 1] of a watch: the path of the point; "" for "/" */
} fsb_namespace_file_;

/* An op on its way down: a copy with the member's paths. */
typedef struct fsb_namespace_lift_ {
    fsb_op          op;
    fsb_op         *upper;
    fsb_namespace_ *ns;
    fsb_mounted     at;
    const fsb_bind *bind;
    fsb_namespace_file_ *file; /* that OPEN makes */
    fsb_bind   own;    /* of that: once it has a handle, others may close it and all that it pins */
    fsb_exec   exec;
    struct fsb_namespace_lift_ *next; /* in ns->runs */
    /* of a submitted one */
    fsb_handle id;     /* pinned, or 0 */
    int        kept;   /* at is not to be released, or not resolved */
    int        quick;  /* the backend is called here rather than elsewhere */
    int        holds, landed; /* cancel() uses it; its answer is there */
    uint64_t   bytes;  /* of the tenant's quota */
    /* of a merged listing */
    uint32_t member;
    uint64_t ordinal, skip, last; /* last: the member's cookie behind the last name */
    int      stopped, merged, err;
    char     path[FSB_PATH_MAX + 1], path2[FSB_PATH_MAX + 1];
} fsb_namespace_lift_;

static int64_t fsb_namespace_inner_(fsb_backend *b, fsb_op *op);

/* GET of simple calls: OPEN answers the first bytes and the stat already. */
static int64_t fsb_namespace_get_(fsb_backend *b, fsb_op *op)
{
    fsb_op sub = *op;
    sub.code = FSB_OP_OPEN, sub.flags = FSB_O_READ;
    if (fsb_namespace_inner_(b, &sub) < 0) return sub.result;
    const int64_t n = sub.result;
    op->stat = sub.stat, op->slice = sub.slice;
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_namespace_inner_(b, &sub);
    return n;
}

/* Opens the file of a PUT by *sub. 1: it was made by this, 0: it was there; or an error. */
static int fsb_namespace_put_open_(fsb_backend *b, const fsb_op *op, fsb_op *sub)
{
    const uint32_t flags = op->flags | FSB_O_WRITE, create = flags & FSB_O_CREATE;
    for (int tries = 0;; ++tries) { /* somebody may make and remove it in between */
        *sub = *op;
        sub->code = FSB_OP_OPEN, sub->flags = flags | (create ? (uint32_t)FSB_O_EXCL : 0);
        sub->size = 0;
        int64_t n = fsb_namespace_inner_(b, sub);
        if (n >= 0) return create != 0;
        if (n != -EEXIST || flags & FSB_O_EXCL) return (int)n;
        sub->flags = flags & ~create;
        n = fsb_namespace_inner_(b, sub);
        if (n >= 0 || n != -ENOENT || tries == 100) return n < 0 ? (int)n : 0;
    }
}

/* PUT of simple calls. What it has made, and cannot fill, goes again. */
static int64_t fsb_namespace_put_(fsb_backend *b, fsb_op *op)
{
    if (op->flags & FSB_O_READ) return -EINVAL;
    fsb_op    sub;
    const int made = fsb_namespace_put_open_(b, op, &sub);
    if (made < 0) return made;
    const uint64_t file_id = sub.stat.file_id;
    int64_t        n = 0;
    if (op->size) {
        sub.code = FSB_OP_WRITE, sub.flags = 0, sub.offset = 0, sub.size = op->size;
        n = fsb_namespace_inner_(b, &sub);
    }
    sub.code = FSB_OP_CLOSE, sub.flags = 0;
    fsb_namespace_inner_(b, &sub);
    if (n >= 0 && sub.result < 0) n = sub.result;
    if (n >= 0) op->stat = sub.stat;
    else if (made) {
        sub.code = FSB_OP_STAT, sub.handle = 0, sub.file_id = file_id, sub.size = 0;
        if (fsb_namespace_inner_(b, &sub) >= 0) {
            sub.code = FSB_OP_UNLINK;
            fsb_namespace_inner_(b, &sub);
        }
    }
    return n;
}

/* Runs op on b; GET and PUT are composed where b has none. */
static int64_t fsb_namespace_inner_(fsb_backend *b, fsb_op *op)
{
    const size_t end = offsetof(fsb_backend, call) + (op->code + 1) * sizeof b->call[0];
    if (op->code < FSB_OP_COUNT && end <= b->size && b->call[op->code])
        return b->call[op->code](b, op);
    op->result = -ENOSYS;
    if (op->code == FSB_OP_GET) op->result = fsb_namespace_get_(b, op);
    if (op->code == FSB_OP_PUT) op->result = fsb_namespace_put_(b, op);
    return op->result;
}

/* Files of two binds may have one file_id; here they differ. Its own inverse; 0 stays 0. */
static uint64_t fsb_namespace_id_(const fsb_bind *bind, uint64_t id)
{
    const uint64_t salt = fsb_tables_mix_(bind->number - 1);
    return !id || id == salt ? id : id ^ salt;
}

static int fsb_namespace_changes_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_OPEN: return (op->flags & ~(uint32_t)FSB_O_READ) != 0;
    case FSB_OP_WRITE: case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR:
    case FSB_OP_RENAME: case FSB_OP_LINK: case FSB_OP_SYMLINK: case FSB_OP_MKNOD:
    case FSB_OP_SETATTR: case FSB_OP_ALLOCATE: case FSB_OP_SETXATTR: case FSB_OP_REMOVEXATTR:
    case FSB_OP_PUT: case FSB_OP_EXEC: return 1;
    default: return 0;
    }
}

/* Prefix and rest are the member's path. */
static int fsb_namespace_path_(const fsb_bind *bind, const char *rest, char *out)
{
    const size_t n = strlen(bind->prefix), m = strlen(rest);
    if (n + m > FSB_PATH_MAX) return -ENAMETOOLONG;
    memcpy(out, bind->prefix, n);
    memcpy(out + n, rest, m + 1);
    if (n + m == 0) memcpy(out, "/", 2);
    return 0;
}

/* 1 if there are mount points below the path. */
static int fsb_namespace_holds_(const fsb_namespace_ *ns, const char *path)
{
    char at[FSB_PATH_MAX + 1];
    memcpy(at, path, strlen(path) + 1);
    return fsb_mounts_next(ns->desc.mounts, path, at);
}

static int64_t fsb_namespace_stat_at_(const fsb_bind *bind, const char *path, fsb_stat *stat)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = path;
    if (fsb_namespace_inner_(bind->backend, &op) >= 0) *stat = op.stat;
    return op.result;
}

/* Which member of a union has the name; the first, if none. lift->path is its path then. */
static int fsb_namespace_choose_(fsb_namespace_lift_ *l)
{
    fsb_stat stat;
    for (uint32_t i = 0; i < l->at.count; ++i) {
        l->bind = &l->at.binds[i];
        const int err = fsb_namespace_path_(l->bind, l->at.rest, l->path);
        if (err || l->at.count == 1) return err;
        const int64_t found = fsb_namespace_stat_at_(l->bind, l->path, &stat);
        if (found != -ENOENT && found != -ENOTDIR) return 0;
    }
    l->bind = l->at.binds;
    return fsb_namespace_path_(l->bind, l->at.rest, l->path);
}

/* The second path of RENAME and LINK: of the same bind, or -EXDEV. */
static int fsb_namespace_second_(fsb_namespace_lift_ *l, const char *path)
{
    fsb_mounted two;
    int         err = path ? fsb_mounts_path_(path, strlen(path)) : -EINVAL;
    if (!err) err = fsb_mounts_resolve(l->ns->desc.mounts, path, &two);
    if (err) return err == -EACCES ? -EINVAL : err;
    int same = -EXDEV;
    for (uint32_t i = 0; i < two.count; ++i)
        if (two.binds[i].number == l->bind->number) same = 0;
    if (!same && !two.rest[0] && l->bind->prefix[0]) same = -EBUSY;
    if (!same) same = fsb_namespace_path_(l->bind, two.rest, l->path2);
    fsb_mounts_release(l->ns->desc.mounts, &two);
    l->op.path2 = l->path2;
    return same;
}

/* What inner answered, as the namespace's. */
static int64_t fsb_namespace_answer_(fsb_op *upper, const fsb_op *op, const fsb_bind *bind)
{
    upper->result = op->result;
    if (op->result < 0) return op->result;
    upper->stat = op->stat, upper->stat.file_id = fsb_namespace_id_(bind, op->stat.file_id);
    upper->statfs = op->statfs, upper->slice = op->slice, upper->out_offset = op->out_offset;
    if (op->code == FSB_OP_LOCK) /* TEST */
        upper->flags = op->flags, upper->offset = op->offset, upper->size64 = op->size64,
        upper->pid = op->pid;
    if (op->code == FSB_OP_EXEC) {
        fsb_exec *e = upper->exec;
        e->exit_code = op->exec->exit_code, e->signal = op->exec->signal;
        e->cut[0] = op->exec->cut[0], e->cut[1] = op->exec->cut[1];
    }
    return op->result;
}

static const fsb_allocator *fsb_namespace_memory_(const fsb_namespace_ *ns)
{
    return &ns->desc.allocator;
}

/* 1 if the path, which is below the watch's mount point, is below another one too. */
static int fsb_namespace_hidden_(const fsb_namespace_file_ *f, const char *path)
{
    fsb_mounted at;
    if (fsb_mounts_resolve(f->ns->desc.mounts, path, &at) != 0) return 1;
    const size_t mount = path[1] ? (size_t)(at.rest - path) : 0;
    fsb_mounts_release(f->ns->desc.mounts, &at);
    return mount != f->mount_size;
}

static void fsb_namespace_event_path_(const fsb_namespace_file_ *f, const char **path, char *out)
{
    const size_t cut = strlen(f->bind.prefix);
    const int    inside = *path && !strncmp(*path, f->bind.prefix, cut)
                       && (!cut || (*path)[cut] == '/' || !(*path)[cut]);
    const char  *rest = inside ? *path + cut : "";
    if (f->mount_size && !strcmp(rest, "/")) rest = "";
    const size_t size = strlen(rest);
    if (!inside || f->mount_size + size > FSB_PATH_MAX) {
        *path = NULL;
        return;
    }
    memcpy(out, f->mount, f->mount_size);
    memcpy(out + f->mount_size, rest, size + 1);
    if (!out[0]) memcpy(out, "/", 2);
    *path = fsb_namespace_hidden_(f, out) ? NULL : out;
}

static void fsb_namespace_event_(void *user, const fsb_event *event)
{
    const fsb_namespace_file_ *f = (const fsb_namespace_file_ *)user;
    char                       one[FSB_PATH_MAX + 1], two[FSB_PATH_MAX + 1];
    fsb_event                  mine = *event;
    fsb_stat                   stat;
    fsb_namespace_event_path_(f, &mine.path, one);
    fsb_namespace_event_path_(f, &mine.path2, two);
    if (event->kind == FSB_EVENT_LOST && !mine.path) mine.path = f->mount_size ? f->mount : "/";
    if (event->kind == FSB_EVENT_RENAMED && !mine.path2) mine.kind = FSB_EVENT_REMOVED;
    if (event->kind == FSB_EVENT_RENAMED && !mine.path)
        mine.kind = FSB_EVENT_CREATED, mine.path = mine.path2, mine.path2 = NULL;
    if (f->at.count > 1) mine.stat = NULL; /* of a union another member may have the name first */
    if (mine.stat) {
        stat = *event->stat, stat.file_id = fsb_namespace_id_(&f->bind, stat.file_id);
        mine.stat = &stat;
    }
    if (mine.path) f->event(f->user, &mine); /* which may close the watch: f is gone then */
}

/* One file more, if that is not too many. */
static int fsb_namespace_opens_(fsb_namespace_ *ns)
{
    uint64_t was = fsb_tables_load_(&ns->open);
    do
        if (ns->max_open && was >= ns->max_open) {
            __atomic_add_fetch(&ns->refused, 1, __ATOMIC_RELAXED);
            fsb_tables_log_(&ns->desc.log, FSB_LOG_WARN, "namespace/full", "%llu files are open",
                            (unsigned long long)was - 1);
            return -EMFILE;
        }
    while (!fsb_tables_swap_(&ns->open, &was, was + 1));
    return 0;
}

/* One less. Returns 1 if that has ended a tenant, which may be freed now. */
static int fsb_namespace_closed_(fsb_namespace_ *ns)
{
    FSB_TABLES_STEP_();
    if (__atomic_sub_fetch(&ns->open, 1, __ATOMIC_ACQ_REL) || !ns->ended) return 0;
    ns->ended(ns);
    return 1;
}

/* What the handle table says; a tenant does not learn what others have. */
static int fsb_namespace_bad_(const fsb_namespace_ *ns, int err)
{
    return ns->ended && err == -EACCES ? -EBADF : err;
}

/* Closes the file, or the watch, on each backend: no event() runs when this is done. */
static void fsb_namespace_shut_(fsb_namespace_file_ *f)
{
    for (; f; f = f->more) {
        fsb_op op;
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_CLOSE, op.handle = f->handle;
        if (f->handle) fsb_namespace_inner_(f->bind.backend, &op);
        f->handle = 0;
    }
}

static void fsb_namespace_free_(fsb_namespace_ *ns, fsb_namespace_file_ *f)
{
    for (fsb_namespace_file_ *next; f; f = next) {
        next = f->more;
        if (f->at.binds) fsb_mounts_release(ns->desc.mounts, &f->at);
        fsb_tables_free_(fsb_namespace_memory_(ns), f, sizeof *f + f->mount_size);
    }
}

FSB_API void fsb_namespace_release(void *user, fsb_handle id, void *object)
{
    fsb_namespace_file_ *f = (fsb_namespace_file_ *)object;
    fsb_namespace_      *ns = f->ns;
    (void)user, (void)id;
    fsb_namespace_shut_(f);
    fsb_namespace_free_(ns, f);
    fsb_namespace_closed_(ns);
}

/* OPEN, resolved: what it opens takes over the pin of the mount point. */
static int fsb_namespace_open_begin_(fsb_namespace_lift_ *l)
{
    fsb_namespace_ *ns = l->ns;
    fsb_namespace_file_ *f =
        (fsb_namespace_file_ *)fsb_tables_new_(fsb_namespace_memory_(ns), sizeof *f);
    const int err = f ? fsb_namespace_opens_(ns) : -ENOMEM;
    if (err) {
        fsb_tables_free_(fsb_namespace_memory_(ns), f, sizeof *f);
        return err;
    }
    f->ns = ns, f->at = l->at, f->bind = *l->bind;
    l->own = *l->bind, l->bind = &l->own;
    l->file = f;
    return 0;
}

/* The backend has answered: 0, or why there is no handle for what it opened. */
static int fsb_namespace_opened_(fsb_namespace_lift_ *l)
{
    fsb_namespace_      *ns = l->ns;
    fsb_namespace_file_ *f = l->file;
    if (l->op.result < 0) {
        fsb_tables_free_(fsb_namespace_memory_(ns), f, sizeof *f);
        fsb_namespace_closed_(ns);
        return 0;
    }
    f->handle = l->op.handle, l->kept = 1;
    return fsb_handles_add(ns->desc.handles, f, ns->desc.owner, ns->idle_ms, &l->upper->handle);
}

/* Closes what got no handle. */
static void fsb_namespace_open_undo_(fsb_namespace_lift_ *l, int err)
{
    fsb_slice_release(&l->op.slice);
    fsb_namespace_release(NULL, 0, l->file);
    l->op.result = err;
}

static int64_t fsb_namespace_open_(fsb_namespace_lift_ *l)
{
    int err = fsb_namespace_open_begin_(l);
    if (err) return err;
    l->op.result = fsb_namespace_inner_(l->file->bind.backend, &l->op);
    err = fsb_namespace_opened_(l);
    if (err) fsb_namespace_open_undo_(l, err);
    return l->op.result;
}

/* ---- [namespace: watches] -------------------------------------------------------------------- */

/* Watches the folder on the backend behind f, which is `rest` there. */
static int64_t fsb_namespace_watch_on_(fsb_namespace_file_ *f, fsb_op *op, const char *rest)
{
    char   path[FSB_PATH_MAX + 1];
    fsb_op sub = *op;
    sub.path = path, sub.event = fsb_namespace_event_, sub.user = f, sub.out_offset = 0;
    const int err = fsb_namespace_path_(&f->bind, rest, path);
    if (err) return err;
    const int64_t n = fsb_namespace_inner_(f->bind.backend, &sub);
    if (n < 0) return n;
    f->handle = sub.handle;
    op->out_offset &= sub.out_offset != 0;
    return 0;
}

/* Adds to *all the watches on the backends of the mount point that is at or above the folder, if
   there is one. A backend that has no such folder is left out; but at the point itself it has to
   have it, or what comes there later would not be seen. */
static int64_t fsb_namespace_watch_at_(fsb_namespace_ *ns, fsb_op *op, const char *folder,
                                       fsb_namespace_file_ **all)
{
    fsb_mounted at;
    int64_t     err = fsb_mounts_resolve(ns->desc.mounts, folder, &at);
    if (err) return err == -ENOENT ? 0 : err;
    const size_t mount = folder[1] ? (size_t)(at.rest - folder) : 0;
    int          pinned = 0;
    for (uint32_t i = 0; !err && i < at.count; ++i) {
        fsb_namespace_file_ *f =
            (fsb_namespace_file_ *)fsb_tables_new_(fsb_namespace_memory_(ns), sizeof *f + mount);
        if (!f) {
            err = -ENOMEM;
            break;
        }
        f->ns = ns, f->at = at, f->bind = at.binds[i], f->event = op->event, f->user = op->user;
        f->mount_size = mount;
        memcpy(f->mount, folder, mount);
        err = fsb_namespace_watch_on_(f, op, at.rest);
        if (pinned || err) f->at.binds = NULL;
        if (!err) f->more = *all, *all = f, pinned = 1;
        else fsb_namespace_free_(ns, f);
        if (at.rest[0] && (err == -ENOENT || err == -ENOTDIR)) err = 0;
    }
    if (!pinned) fsb_mounts_release(ns->desc.mounts, &at);
    return err;
}

/* WATCH: joins the watches of all backends that the folder shows and, if it is DEEP, of those at
   the mount points below. */
static int64_t fsb_namespace_watch_(fsb_namespace_ *ns, fsb_op *op)
{
    char                 point[FSB_PATH_MAX + 1];
    fsb_namespace_file_ *all = NULL;
    if (!op->event) return -EINVAL;
    if (op->flags & FSB_WATCH_HELD) return -ENOSYS;
    int64_t n = fsb_namespace_opens_(ns);
    if (n) return n;
    memcpy(point, op->path, strlen(op->path) + 1);
    op->out_offset = 1; /* unless one of them cannot leave out what is not foreign */
    n = fsb_namespace_watch_at_(ns, op, op->path, &all);
    while (!n && op->flags & FSB_WATCH_DEEP && fsb_mounts_next(ns->desc.mounts, op->path, point))
        n = fsb_namespace_watch_at_(ns, op, point, &all);
    if (!n && !all) n = -ENOENT;
    if (!n) n = fsb_handles_add(ns->desc.handles, all, ns->desc.owner, UINT32_MAX, &op->handle);
    if (!n) return 0;
    fsb_namespace_shut_(all);
    fsb_namespace_free_(ns, all);
    fsb_namespace_closed_(ns);
    return n;
}

/* ---- [namespace: lists] ---------------------------------------------------------------------- */

/* Cookies of a folder that several show: those of the first backend, then bit 63, the stage (0: the
   mount points, i: member i of the union) << 56, and which of its names it is. */
#define FSB_NAMESPACE_MERGED_ (UINT64_C(1) << 63)

/* 1 if an earlier stage, or a mount point, shows the name. */
static int fsb_namespace_shown_(fsb_namespace_lift_ *l, const char *name, size_t size)
{
    char           path[FSB_PATH_MAX + 1], first[FSB_PATH_MAX + 1] = "";
    fsb_stat       stat;
    const size_t   n = l->upper->path[1] ? strlen(l->upper->path) : 0;
    if (n + 1 + size > FSB_PATH_MAX) return 0;
    memcpy(path, l->upper->path, n);
    path[n] = '/';
    memcpy(path + n + 1, name, size);
    path[n + 1 + size] = '\0';
    if (fsb_mounts_next(l->ns->desc.mounts, path, first)) return 1;
    for (uint32_t i = 0; i < l->member; ++i) {
        const char *rest = path + (l->at.rest - l->upper->path);
        if (!l->upper->path[1]) rest = path;
        if (fsb_namespace_path_(&l->at.binds[i], rest, first) == 0
            && fsb_namespace_stat_at_(&l->at.binds[i], first, &stat) >= 0)
            return 1;
    }
    return 0;
}

static int fsb_namespace_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_namespace_lift_ *l = (fsb_namespace_lift_ *)op->user;
    fsb_dirent           e = *entry;
    char                 folder[FSB_PATH_MAX + 1];
    e.stat.file_id = fsb_namespace_id_(l->bind, e.stat.file_id);
    if (e.folder) { /* below op->path: the same names follow ours */
        const size_t cut = l->path[1] ? strlen(l->path) : 0;
        if (strncmp(e.folder, l->path, cut)) return 0; /* inner's mistake */
        const char *rest = e.folder + cut;
        if (rest[0] && rest[0] != '/') return 0;
        if (!rest[0] || !rest[1]) rest = "";
        const size_t n = l->upper->path[1] ? strlen(l->upper->path) : 0, m = strlen(rest);
        if (n + m > FSB_PATH_MAX) return 0;
        memcpy(folder, l->upper->path, n);
        memcpy(folder + n, rest, m + 1);
        e.folder = n + m ? folder : "/";
    }
    if (l->merged) {
        l->last = e.cookie;
        if (l->member && l->ordinal++ < l->skip) return 0;
        if (fsb_namespace_shown_(l, e.name, e.name_size)) return 0;
        if (e.cookie & FSB_NAMESPACE_MERGED_) return l->err = -EOVERFLOW;
        if (l->member)
            e.cookie = FSB_NAMESPACE_MERGED_ | (uint64_t)l->member << 56 | l->ordinal;
    }
    return l->stopped = l->upper->emit(l->upper, &e);
}

static void fsb_namespace_virtual_(const char *path, fsb_stat *stat)
{
    uint64_t id = 1;
    for (; *path; ++path) id = fsb_tables_mix_(id ^ (unsigned char)*path);
    memset(stat, 0, sizeof *stat);
    stat->file_id = stat->ino = id | 1;
    stat->version = 1, stat->mode = 0040555, stat->nlink = 2, stat->blksize = 4096;
}

static int64_t fsb_namespace_call_(fsb_backend *b, fsb_op *op);

/* The mount points in the folder, from the skip-th on. Not 0: emit() stopped. */
static int fsb_namespace_points_(fsb_namespace_lift_ *l, uint64_t skip)
{
    fsb_namespace_ *ns = l->ns;
    char            at[FSB_PATH_MAX + 1];
    uint64_t        ordinal = 0;
    const size_t    n = l->upper->path[1] ? strlen(l->upper->path) : 0;
    memcpy(at, l->upper->path, strlen(l->upper->path) + 1);
    memset(l->path2, 0, sizeof l->path2); /* the last name shown */
    while (fsb_mounts_next(ns->desc.mounts, l->upper->path, at)) {
        const size_t size = strcspn(at + n + 1, "/");
        fsb_dirent   e;
        fsb_op       op;
        if (!strncmp(l->path2, at + n + 1, size) && !l->path2[size]) continue; /* further down */
        memcpy(l->path2, at + n + 1, size);
        l->path2[size] = '\0';
        if (ordinal++ < skip) continue;
        memcpy(l->path, at, n + 1 + size);
        l->path[n + 1 + size] = '\0';
        memset(&op, 0, sizeof op);
        memset(&e, 0, sizeof e);
        op.code = FSB_OP_STAT, op.path = l->path;
        if (fsb_namespace_call_(&ns->base, &op) < 0) fsb_namespace_virtual_(l->path, &op.stat);
        e.name = l->path2, e.name_size = size, e.stat = op.stat;
        e.cookie = FSB_NAMESPACE_MERGED_ | ordinal;
        if (l->upper->emit(l->upper, &e)) return 1;
    }
    return 0;
}

/* The names of the member, from its cookie on, until there are no more or emit() stops. All of one
   part may be names that are not shown, and nobody could go on behind none. */
static int64_t fsb_namespace_member_(fsb_namespace_lift_ *l, uint64_t cookie)
{
    enum { PARTS = 4096 }; /* at most */
    l->bind = &l->at.binds[l->member];
    int64_t n = fsb_namespace_path_(l->bind, l->at.rest, l->path);
    for (int parts = 0; !n && !l->stopped; cookie = l->last, ++parts) {
        if (parts == PARTS || (parts && !cookie)) return -EIO;
        l->op.offset = l->last = cookie;
        n = fsb_namespace_inner_(l->bind->backend, &l->op);
        if (l->err) return l->err;
        if (!n && !l->stopped && l->last == cookie) return -EIO; /* it does not go on */
    }
    return n > 0 && l->stopped ? 0 : n;
}

/* A folder that several show: stage by stage. */
static int64_t fsb_namespace_merge_(fsb_namespace_lift_ *l, int covered)
{
    fsb_op        *op = l->upper;
    const uint64_t cookie = op->offset;
    uint32_t       stage = cookie & FSB_NAMESPACE_MERGED_ ? (uint32_t)(cookie >> 56 & 127) : 0;
    uint64_t       skip = cookie & FSB_NAMESPACE_MERGED_ ? cookie & ((UINT64_C(1) << 56) - 1) : 0;
    int            found = !covered;
    l->merged = 1;
    l->op.flags &= ~(uint32_t)(FSB_LIST_DATA | FSB_LIST_DEEP), l->op.size64 = 0;
    for (int first = !(cookie & FSB_NAMESPACE_MERGED_);; first = 0) {
        if (first || stage) {
            l->member = first ? 0 : stage, l->ordinal = 0, l->skip = first ? 0 : skip;
            if (covered && l->member < l->at.count) {
                const int64_t n = fsb_namespace_member_(l, first ? cookie : 0);
                if (n < 0 && n != -ENOENT && n != -ENOTDIR) return n;
                if (n == 0) return 0;
                found |= n > 0;
            }
        } else if (fsb_namespace_points_(l, skip)) {
            return 0;
        }
        if (!first && (!covered || ++stage >= l->at.count)) break;
        if (!first) skip = 0;
    }
    return found || fsb_namespace_holds_(l->ns, op->path) || op->offset ? 1 : -ENOENT;
}

/* ---- [namespace: calls] ---------------------------------------------------------------------- */

/* A path that no backend covers, or where it has nothing: perhaps a folder above mount points. */
static int64_t fsb_namespace_above_(fsb_namespace_ *ns, fsb_op *op, int64_t err)
{
    if ((err != -ENOENT && err != -ENOTDIR) || !fsb_namespace_holds_(ns, op->path)) return err;
    if (op->code == FSB_OP_STAT) return fsb_namespace_virtual_(op->path, &op->stat), 0;
    return fsb_namespace_changes_(op) ? -EROFS : err;
}

static int fsb_namespace_output_(fsb_op *op, int fd, const void *data, size_t size)
{
    fsb_op *upper = ((fsb_namespace_lift_ *)op->user)->upper;
    return upper->exec->output(upper, fd, data, size);
}

/* What the command writes goes to the upper op. */
static int fsb_namespace_aim_exec_(fsb_namespace_lift_ *l)
{
    if (!l->upper->exec) return -EINVAL;
    l->exec = *l->upper->exec, l->op.exec = &l->exec, l->op.user = l;
    if (l->exec.output) l->exec.output = fsb_namespace_output_;
    return 0;
}

/* EXEC: cancel() finds the member's op by the upper one. */
static int64_t fsb_namespace_exec_(fsb_namespace_lift_ *l)
{
    fsb_namespace_ *ns = l->ns;
    pthread_mutex_lock(&ns->lock);
    const int early = l->upper->layer[1] == (void *)ns; /* cancelled */
    l->op.layer[0] = l->op.layer[1] = l->upper->layer[1] = NULL;
    l->next = ns->runs, ns->runs = l;
    pthread_mutex_unlock(&ns->lock);
    if (early) l->op.result = -EINTR;
    else fsb_namespace_inner_(l->bind->backend, &l->op);
    pthread_mutex_lock(&ns->lock);
    fsb_namespace_lift_ **at = &ns->runs;
    while (*at != l) at = &(*at)->next;
    *at = l->next;
    pthread_mutex_unlock(&ns->lock);
    return l->op.result;
}

/* Resolved: what the member is asked. */
static int fsb_namespace_aim_(fsb_namespace_lift_ *l)
{
    fsb_op    *op = l->upper;
    const int  root = !l->at.rest[0];
    const int  err = fsb_namespace_choose_(l);
    const int  moves = op->code == FSB_OP_RMDIR || op->code == FSB_OP_RENAME;
    if (err) return err;
    l->op.path = l->path, l->op.file_id = fsb_namespace_id_(l->bind, op->file_id);
    if (l->bind->flags & FSB_BIND_READ_ONLY && fsb_namespace_changes_(op)) return -EROFS;
    if (root && l->bind->prefix[0] && op->code == FSB_OP_UNLINK) return -EISDIR;
    if (root && l->bind->prefix[0] && moves) return -EBUSY;
    if (op->path[1] && moves && fsb_namespace_holds_(l->ns, op->path)) return -EBUSY;
    if (op->code == FSB_OP_LIST) {
        if (!op->emit) return -EINVAL;
        l->op.emit = fsb_namespace_emit_, l->op.user = l;
    }
    if (op->code == FSB_OP_EXEC) return fsb_namespace_aim_exec_(l);
    if (op->code == FSB_OP_RENAME || op->code == FSB_OP_LINK)
        return fsb_namespace_second_(l, op->path2);
    return 0;
}

static int fsb_namespace_merged_(const fsb_namespace_lift_ *l)
{
    return l->op.code == FSB_OP_LIST
           && (l->at.count > 1 || fsb_namespace_holds_(l->ns, l->upper->path));
}

static int64_t fsb_namespace_resolved_(fsb_namespace_lift_ *l)
{
    const int err = fsb_namespace_aim_(l);
    if (err) return err;
    if (fsb_namespace_merged_(l)) return l->op.result = fsb_namespace_merge_(l, 1);
    if (l->op.code == FSB_OP_EXEC) return fsb_namespace_exec_(l);
    return l->op.code == FSB_OP_OPEN ? fsb_namespace_open_(l)
                                     : fsb_namespace_inner_(l->bind->backend, &l->op);
}

/* What was resolved has ended with n. */
static void fsb_namespace_by_path_end_(fsb_namespace_lift_ *l, int64_t n)
{
    l->op.result = n;
    if (n >= 0) fsb_namespace_answer_(l->upper, &l->op, l->bind);
    else l->upper->result = fsb_namespace_above_(l->ns, l->upper, n);
}

static void fsb_namespace_lift_init_(fsb_namespace_lift_ *l, fsb_namespace_ *ns, fsb_op *op)
{
    memset(l, 0, offsetof(fsb_namespace_lift_, path));
    l->op = *op, l->upper = op, l->ns = ns;
    l->op.stat.file_id = 0, l->path[0] = '\0';
}

static int64_t fsb_namespace_by_path_(fsb_namespace_ *ns, fsb_op *op)
{
    fsb_namespace_lift_ l;
    int64_t             n = op->path ? fsb_mounts_path_(op->path, strlen(op->path)) : -EINVAL;
    if (n == -EACCES) n = -EINVAL; /* "..": as backends do */
    if (n < 0) return op->result = n;
    if (op->code == FSB_OP_WATCH) return op->result = fsb_namespace_watch_(ns, op);
    fsb_namespace_lift_init_(&l, ns, op);
    l.op.handle = 0;
    n = fsb_mounts_resolve(ns->desc.mounts, op->path, &l.at);
    if (n < 0) {
        if (op->code == FSB_OP_LIST && op->emit) return op->result = fsb_namespace_merge_(&l, 0);
        return op->result = fsb_namespace_above_(ns, op, n);
    }
    fsb_namespace_by_path_end_(&l, fsb_namespace_resolved_(&l));
    if (!l.kept) fsb_mounts_release(ns->desc.mounts, &l.at);
    return op->result;
}

/* The op's own handle is pinned: f. What its backend is asked. */
static int fsb_namespace_aim_on_(fsb_namespace_lift_ *l, const fsb_namespace_file_ *f)
{
    fsb_op *op = l->upper;
    l->bind = &f->bind, l->op.handle = __atomic_load_n(&f->handle, __ATOMIC_RELAXED);
    l->op.file_id = fsb_namespace_id_(&f->bind, op->file_id);
    if (f->event && op->code != FSB_OP_CLOSE) return -EBADF;
    if (f->bind.flags & FSB_BIND_READ_ONLY && fsb_namespace_changes_(op)) return -EROFS;
    if (op->code == FSB_OP_LIST) {
        if (!op->emit) return -EINVAL;
        l->op.emit = fsb_namespace_emit_, l->op.user = l;
    }
    return op->code == FSB_OP_LINK ? fsb_namespace_second_(l, op->path2) : 0;
}

static int64_t fsb_namespace_on_(fsb_namespace_lift_ *l, const fsb_namespace_file_ *f)
{
    fsb_op              *op = l->upper;
    fsb_namespace_file_ *two = NULL;
    void                *found = NULL;
    int                  err = fsb_namespace_aim_on_(l, f);
    if (err) return err;
    if (op->code == FSB_OP_COPY) {
        err = fsb_handles_pin(l->ns->desc.handles, op->handle2, l->ns->desc.owner, &found);
        if (err) return fsb_namespace_bad_(l->ns, err);
        two = (fsb_namespace_file_ *)found;
        l->op.handle2 = __atomic_load_n(&two->handle, __ATOMIC_RELAXED);
        if (two->bind.number != f->bind.number) err = -EXDEV;
        if (two->bind.flags & FSB_BIND_READ_ONLY) err = -EROFS;
    }
    if (!err) fsb_namespace_inner_(f->bind.backend, &l->op);
    if (two) fsb_handles_unpin(l->ns->desc.handles, op->handle2);
    return err ? err : l->op.result;
}

static int64_t fsb_namespace_by_handle_(fsb_namespace_ *ns, fsb_op *op)
{
    fsb_namespace_lift_ l;
    void               *found = NULL;
    const fsb_handle    id = op->handle;
    int                 err = fsb_handles_pin(ns->desc.handles, id, ns->desc.owner, &found);
    if (err) return op->result = fsb_namespace_bad_(ns, err);
    fsb_namespace_file_ *f = (fsb_namespace_file_ *)found;
    fsb_namespace_lift_init_(&l, ns, op);
    if (op->code == FSB_OP_CLOSE && fsb_handles_remove(ns->desc.handles, id, 0) < 0) err = -EBADF;
    l.op.result = err ? err : fsb_namespace_on_(&l, f);
    if (op->code == FSB_OP_CLOSE && !err) {
        __atomic_store_n(&f->handle, 0, __ATOMIC_RELAXED);
        fsb_namespace_shut_(f->more);
    }
    fsb_namespace_answer_(op, &l.op, &f->bind);
    fsb_handles_unpin(ns->desc.handles, id);
    return op->result;
}

/* Whether op acts on its handle. */
static int fsb_namespace_by_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_READ: case FSB_OP_WRITE: case FSB_OP_CLOSE: case FSB_OP_ALLOCATE:
    case FSB_OP_SEEK: case FSB_OP_COPY: case FSB_OP_LOCK: case FSB_OP_DESCRIPTOR: return 1;
    case FSB_OP_OPEN: case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR:
    case FSB_OP_RENAME: case FSB_OP_SYMLINK: case FSB_OP_MKNOD: case FSB_OP_GET:
    case FSB_OP_PUT: case FSB_OP_WATCH: case FSB_OP_EXEC: return 0;
    default: return op->handle != 0;
    }
}

static int64_t fsb_namespace_call_(fsb_backend *b, fsb_op *op)
{
    fsb_namespace_ *ns = (fsb_namespace_ *)(void *)b;
    return fsb_namespace_by_(op) ? fsb_namespace_by_handle_(ns, op)
                                 : fsb_namespace_by_path_(ns, op);
}

/* ---- [namespace: submitted] ------------------------------------------------------------------ */

/* An op that one backend with submit() can answer is a lift in memory of its own, which is that
   one's until its done(). That comes on a thread that must not wait for the backend: so if the end
   of an op would close something there (its handle was removed meanwhile, its tenant has died), or
   be the end of a tenant, the runner does it. What cannot be sent is run by call[], there too.
   Where the runner cannot, it is done here, as without one. */

static void fsb_namespace_elsewhere_(fsb_namespace_lift_ *l, void (*job)(void *arg))
{
    const fsb_runner *r = &l->ns->desc.runner;
    if (r->run(r->user, job, l)) job(l);
}

/* Ends the op: 1 if that has to be where waiting is allowed, and is not done yet. */
static int fsb_namespace_over_(fsb_namespace_lift_ *l, int may_wait)
{
    fsb_namespace_     *ns = l->ns;
    fsb_op             *op = l->upper;
    const fsb_allocator a = *fsb_namespace_memory_(ns);
    const int           last = may_wait || op->code == FSB_OP_CLOSE; /* closes nothing below */
    if (l->id && fsb_handles_unpin_(ns->desc.handles, l->id, last)) return 1;
    l->id = 0;
    if (!l->kept) fsb_mounts_release(ns->desc.mounts, &l->at);
    l->kept = 1;
    if (ns->leave && ns->leave(ns, &l->bytes, may_wait)) return 1;
    fsb_tables_free_(&a, l, sizeof *l);
    op->done(op);
    return 0;
}

static void fsb_namespace_over_job_(void *arg)
{
    fsb_namespace_lift_ *l = (fsb_namespace_lift_ *)arg;
    if (l->err) {
        fsb_namespace_open_undo_(l, l->err);
        fsb_namespace_by_path_end_(l, l->err);
    }
    fsb_namespace_over_(l, 1);
}

/* The answer is left to another thread: what was lent with it is gone by then. */
static void fsb_namespace_late_(fsb_op *op)
{
    const int bytes = op->code == FSB_OP_READ || op->code == FSB_OP_GET || op->code == FSB_OP_OPEN
                      || op->code == FSB_OP_READLINK;
    if (!bytes || op->result <= 0 || op->buf || op->slice.release) return;
    if (op->code == FSB_OP_OPEN) op->result = 0; /* it is opened nonetheless */
    else op->result = -EINTR;
    op->slice.data = NULL, op->slice.size = 0;
}

static void fsb_namespace_land_(fsb_namespace_lift_ *l)
{
    fsb_op *op = l->upper;
    if (op->code == FSB_OP_OPEN) l->err = fsb_namespace_opened_(l);
    if (l->id) fsb_namespace_answer_(op, &l->op, l->bind);
    else if (!l->err) fsb_namespace_by_path_end_(l, l->op.result);
    if (!l->err && !fsb_namespace_over_(l, 0)) return;
    fsb_namespace_late_(op);
    fsb_namespace_elsewhere_(l, fsb_namespace_over_job_);
}

static void fsb_namespace_done_(fsb_op *op)
{
    fsb_namespace_lift_ *l = (fsb_namespace_lift_ *)(void *)op;
    fsb_namespace_      *ns = l->ns;
    pthread_mutex_lock(&ns->lock);
    l->upper->layer[0] = NULL, l->landed = 1;
    const int held = l->holds; /* cancel() goes on with it */
    if (held) fsb_namespace_late_(&l->op);
    pthread_mutex_unlock(&ns->lock);
    if (!held) fsb_namespace_land_(l);
}

static void fsb_namespace_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_namespace_ *ns = (fsb_namespace_ *)(void *)b;
    pthread_mutex_lock(&ns->lock);
    fsb_namespace_lift_ *run = ns->runs, *l = NULL;
    while (run && run->upper != op) run = run->next;
    if (run && run->bind->backend->cancel)
        run->bind->backend->cancel(run->bind->backend, &run->op);
    if (!run && b->submit) l = (fsb_namespace_lift_ *)op->layer[0];
    if (l) ++l->holds;
    else if (!run && op->code == FSB_OP_EXEC) op->layer[1] = ns; /* not begun */
    pthread_mutex_unlock(&ns->lock);
    if (!l) return;
    fsb_backend *below = l->bind->backend;
    if (below->cancel) below->cancel(below, &l->op);
    pthread_mutex_lock(&ns->lock);
    const int landed = !--l->holds && l->landed;
    pthread_mutex_unlock(&ns->lock);
    if (landed) fsb_namespace_land_(l);
}

static int fsb_namespace_can_send_(fsb_namespace_lift_ *l, const fsb_backend *b)
{
    const uint32_t code = l->op.code;
    const size_t   end = offsetof(fsb_backend, call) + (code + 1) * sizeof b->call[0];
    l->quick = !b->submit && b->flags & FSB_BACKEND_QUICK
               && code != FSB_OP_SYNC && code != FSB_OP_EXEC;
    return b->submit && end <= b->size && b->call[code];
}

/* Aims a lift at its handle's backend: 1 if it can be sent there. */
static int fsb_namespace_lift_on_(fsb_namespace_lift_ *l)
{
    fsb_namespace_ *ns = l->ns;
    fsb_op         *op = l->upper;
    void           *found = NULL;
    l->kept = 1;
    if (op->code == FSB_OP_COPY
        || fsb_handles_pin(ns->desc.handles, op->handle, ns->desc.owner, &found) != 0)
        return 0;
    fsb_namespace_file_ *f = (fsb_namespace_file_ *)found;
    l->id = op->handle;
    if (f->event || !fsb_namespace_can_send_(l, f->bind.backend)) return 0;
    if (fsb_namespace_aim_on_(l, f) != 0) return 0;
    if (op->code != FSB_OP_CLOSE) return 1;
    if (fsb_handles_remove(ns->desc.handles, l->id, 0) < 0) return 0;
    __atomic_store_n(&f->handle, 0, __ATOMIC_RELAXED); /* this one closes it */
    return 1;
}

/* The same by its path. Less than 0: that is the answer. */
static int fsb_namespace_lift_to_(fsb_namespace_lift_ *l)
{
    fsb_op *op = l->upper;
    l->kept = 1;
    if (op->code == FSB_OP_WATCH || !op->path || fsb_mounts_path_(op->path, strlen(op->path)) != 0
        || fsb_mounts_resolve(l->ns->desc.mounts, op->path, &l->at) != 0)
        return 0;
    l->kept = 0, l->op.handle = 0;
    if (l->at.count > 1 || fsb_namespace_merged_(l)) return 0;
    if (!fsb_namespace_can_send_(l, l->at.binds->backend) || fsb_namespace_aim_(l) != 0) return 0;
    const int err = op->code == FSB_OP_OPEN ? fsb_namespace_open_begin_(l) : 0;
    return err ? err : 1;
}

/* What is not sent: a call like any other. */
static void fsb_namespace_call_job_(void *arg)
{
    fsb_namespace_lift_ *l = (fsb_namespace_lift_ *)arg;
    if (l->id) fsb_handles_unpin(l->ns->desc.handles, l->id);
    if (!l->kept) fsb_mounts_release(l->ns->desc.mounts, &l->at);
    l->id = 0, l->kept = 1;
    fsb_namespace_call_(&l->ns->base, l->upper);
    fsb_namespace_over_(l, 1);
}

/* A CLOSE that there is no memory for a lift for. */
static void fsb_namespace_close_job_(void *arg)
{
    fsb_op         *op = (fsb_op *)arg;
    fsb_namespace_ *ns = (fsb_namespace_ *)op->layer[1];
    uint64_t        bytes = op->size; /* as counted */
    fsb_namespace_call_(&ns->base, op);
    if (ns->leave) ns->leave(ns, &bytes, 1);
    op->done(op);
}

enum { FSB_NAMESPACE_BATCH_ = 32 };
typedef struct fsb_namespace_batch_ { /* for one backend */
    fsb_backend *to;
    size_t       n;
    fsb_op      *ops[FSB_NAMESPACE_BATCH_];
} fsb_namespace_batch_;

static void fsb_namespace_flush_(fsb_namespace_batch_ *batch)
{
    const size_t n = batch->n;
    batch->n = 0;
    if (n) batch->to->submit(batch->to, batch->ops, n);
}

/* Starts an op that has `bytes` of its tenant's quota; it may wait in the batch. */
static void fsb_namespace_start_(fsb_namespace_ *ns, fsb_op *op, uint64_t bytes,
                                 fsb_namespace_batch_ *batch)
{
    const fsb_allocator *a = fsb_namespace_memory_(ns);
    fsb_namespace_lift_ *l = (fsb_namespace_lift_ *)a->fn(a->user, NULL, 0, sizeof *l);
    op->layer[0] = op->layer[1] = NULL;
    if (!l && op->code == FSB_OP_CLOSE) { /* it has to be gone whatever happens */
        op->layer[1] = ns;
        if (ns->desc.runner.run(ns->desc.runner.user, fsb_namespace_close_job_, op))
            fsb_namespace_close_job_(op);
        return;
    }
    if (!l) {
        op->result = -ENOMEM;
        if (ns->leave) ns->leave(ns, &bytes, 1);
        op->done(op);
        return;
    }
    fsb_namespace_lift_init_(l, ns, op);
    l->bytes = bytes;
    const int sent = fsb_namespace_by_(op) ? fsb_namespace_lift_on_(l) : fsb_namespace_lift_to_(l);
    if (sent <= 0) {
        if (sent < 0) op->result = sent;
        if (l->quick) fsb_namespace_call_job_(l);
        else fsb_namespace_elsewhere_(l, sent ? fsb_namespace_over_job_ : fsb_namespace_call_job_);
        return;
    }
    if (batch->n == FSB_NAMESPACE_BATCH_ || batch->to != l->bind->backend)
        fsb_namespace_flush_(batch);
    batch->to = l->bind->backend;
    l->op.done = fsb_namespace_done_, op->layer[0] = l;
    batch->ops[batch->n++] = &l->op;
}

static void fsb_namespace_submit_(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    fsb_namespace_batch_ batch;
    batch.to = NULL, batch.n = 0;
    for (size_t i = 0; i < n; ++i)
        fsb_namespace_start_((fsb_namespace_ *)(void *)b, ops[i], 0, &batch);
    fsb_namespace_flush_(&batch);
}

static void fsb_namespace_close_(fsb_backend *b)
{
    fsb_namespace_ *ns = (fsb_namespace_ *)(void *)b;
    fsb_handles_release(ns->desc.handles, ns->desc.owner);
    if (ns->own_handles) fsb_handles_close(ns->desc.handles);
    pthread_mutex_destroy(&ns->lock);
    const fsb_allocator a = ns->desc.allocator;
    fsb_tables_free_(&a, ns, sizeof *ns);
}

static void fsb_namespace_init_(fsb_namespace_ *ns, const fsb_namespace_desc *desc,
                                const char *name, int64_t (*call)(fsb_backend *b, fsb_op *op),
                                void (*submit)(fsb_backend *b, fsb_op *const *ops, size_t n),
                                void (*close)(fsb_backend *b))
{
    ns->desc = *desc;
    pthread_mutex_init(&ns->lock, NULL);
    ns->base.size = sizeof ns->base, ns->base.name = name, ns->base.close = close;
    ns->base.cancel = fsb_namespace_cancel_;
    if (desc->runner.run) ns->base.submit = submit;
    for (uint32_t i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) ns->base.call[i] = call;
}

FSB_API int fsb_namespace_backend(fsb_backend **out, const fsb_namespace_desc *desc)
{
    if (!out || !desc || !desc->mounts) return -EINVAL;
    const fsb_allocator a = fsb_tables_allocator_(&desc->allocator);
    fsb_namespace_     *ns = (fsb_namespace_ *)fsb_tables_new_(&a, sizeof *ns);
    if (!ns) return -ENOMEM;
    fsb_namespace_init_(ns, desc, "namespace", fsb_namespace_call_, fsb_namespace_submit_,
                        fsb_namespace_close_);
    ns->desc.allocator = a;
    if (!ns->desc.owner) ns->desc.owner = 1;
    if (!ns->desc.handles) {
        fsb_handles_desc d;
        memset(&d, 0, sizeof d);
        d.release = fsb_namespace_release, d.allocator = a, d.log = desc->log;
        const int err = fsb_handles_open(&ns->desc.handles, &d);
        if (err) {
            pthread_mutex_destroy(&ns->lock);
            fsb_tables_free_(&a, ns, sizeof *ns);
            return err;
        }
        ns->own_handles = 1;
    }
    *out = &ns->base;
    return 0;
}

/* ---- [tenants] ------------------------------------------------------------------------------- */

/* A tenant is a namespace, kept in a handle table of its own: its id there is what the table of
   names holds, so that a late reader of a name never gets who has its slot later, and the slot's
   pins are those who hold its backend. Two counts say when it ends: the calls on their way, which
   are refused once DEAD is among them, and what is open, of which the tenant itself is one. Whoever
   ends the last call of a dead one closes its files, as one may have been opened by that call;
   whoever closes the last of these is the last to use anything of it. */
#define FSB_TENANT_DEAD_ (UINT64_C(1) << 63)
#define FSB_TENANTS_GONE_ UINT64_C(1) /* an entry that was removed; no id: it has no generation */

typedef struct fsb_tenant_ {
    fsb_namespace_ ns; /* first; its base is what is handed out */
    fsb_tenant     own;
    fsb_tenants   *set;
    fsb_handle     self; /* in set->slots */
    uint64_t       hash; /* of its name */
    uint64_t       calls, bytes, done, refused_bytes;
    size_t         size; /* of its name */
    char           name[1];
} fsb_tenant_;

typedef struct fsb_tenants_table_ { /* open; by the hash of the name */
    uint32_t   mask;
    uint32_t   used; /* entries that are not 0 */
    fsb_handle entry[1]; /* [mask + 1] */
} fsb_tenants_table_;

typedef struct fsb_tenants_making_ { /* a creation; on its thread's stack */
    struct fsb_tenants_making_ *next;
    const char                 *name;
    uint32_t                    waiting;
    int                         done, err;
} fsb_tenants_making_;

struct fsb_tenants {
    fsb_tenants_table_  *table;
    fsb_handles         *slots;   /* the tenants */
    fsb_handles         *handles; /* their files */
    uint64_t             seed;
    fsb_tenants_desc     desc;
    pthread_mutex_t      lock; /* leaf; of the following, and of changes of the table */
    pthread_cond_t       made;
    uint32_t             count;
    fsb_tenants_making_ *making;
    fsb_tenants_table_  *tables[32][2]; /* by the logarithm of their size */
};

/* Lock held, or not: then it may miss one whose table is being replaced, but never finds another.
   Pinned. */
static fsb_tenant_ *fsb_tenants_find_(fsb_tenants *t, uint64_t hash, const char *name, size_t size)
{
    const fsb_tenants_table_ *table = __atomic_load_n(&t->table, __ATOMIC_ACQUIRE);
    for (uint32_t i = (uint32_t)hash & table->mask;; i = (i + 1) & table->mask) {
        const fsb_handle id = fsb_tables_load_(&table->entry[i]);
        void            *found = NULL;
        if (!id) return NULL;
        if (id == FSB_TENANTS_GONE_ || fsb_handles_pin(t->slots, id, 0, &found) != 0) continue;
        fsb_tenant_ *tenant = (fsb_tenant_ *)found;
        if (tenant->size == size && memcmp(tenant->name, name, size) == 0) return tenant;
        fsb_handles_unpin(t->slots, id);
    }
}

static uint64_t fsb_tenants_hash_(const fsb_tenants *t, const char *name, size_t size)
{
    uint64_t h = t->seed ^ size;
    for (size_t i = 0; i < size; i += 8)
        h = fsb_tables_mix_(h ^ fsb_tables_word_(name + i, size - i));
    return h;
}

/* Lock held. The entry that holds `id`; 0: one that is free for a new one. */
static fsb_handle *fsb_tenants_entry_(fsb_tenants_table_ *table, uint64_t hash, fsb_handle id)
{
    uint32_t i = (uint32_t)hash & table->mask;
    while (table->entry[i] != id && !(!id && table->entry[i] == FSB_TENANTS_GONE_))
        i = (i + 1) & table->mask;
    return &table->entry[i];
}

static size_t fsb_tenants_table_size_(unsigned level)
{
    return sizeof(fsb_tenants_table_) + (sizeof(fsb_handle) << level);
}

/* Lock held. Makes room for one more entry, as fsb_mounts_room_() does. */
static int fsb_tenants_room_(fsb_tenants *t)
{
    fsb_tenants_table_ *old = t->table;
    if (old && old->used < old->mask / 2) return 0;
    unsigned level = old ? (unsigned)__builtin_ctz(old->mask + 1) : 6;
    if (old && t->count >= old->mask / 4) ++level;
    fsb_tenants_table_ **place = &t->tables[level][t->tables[level][0] == old && old];
    if (!*place)
        *place = (fsb_tenants_table_ *)fsb_tables_new_(&t->desc.allocator,
                                                       fsb_tenants_table_size_(level));
    fsb_tenants_table_ *fresh = *place;
    if (!fresh) return -ENOMEM;
    fresh->mask = (UINT32_C(1) << level) - 1, fresh->used = t->count;
    for (uint32_t i = 0; i <= fresh->mask; ++i)
        __atomic_store_n(&fresh->entry[i], 0, __ATOMIC_RELEASE);
    for (uint32_t i = 0; old && i <= old->mask; ++i) {
        void *found = NULL; /* what the table holds is live */
        if (old->entry[i] <= FSB_TENANTS_GONE_) continue;
        if (fsb_handles_get(t->slots, old->entry[i], 0, &found) != 0) continue;
        __atomic_store_n(fsb_tenants_entry_(fresh, ((fsb_tenant_ *)found)->hash, 0),
                         old->entry[i], __ATOMIC_RELEASE);
    }
    __atomic_store_n(&t->table, fresh, __ATOMIC_RELEASE);
    return 0;
}

/* ---- [tenants: life] ------------------------------------------------------------------------- */

static uint32_t fsb_tenant_owner_(const fsb_tenant_ *tenant) { return (uint32_t)tenant->self + 1; }

/* Nothing uses it: see fsb_namespace_closed_(). */
static void fsb_tenant_ended_(fsb_namespace_ *ns)
{
    fsb_tenant_ *tenant = (fsb_tenant_ *)(void *)ns;
    fsb_tenants *t = tenant->set;
    if (t->desc.gone) t->desc.gone(t->desc.user, &tenant->own);
    fsb_mounts_close(tenant->own.mounts);
    fsb_handles_unpin(t->slots, tenant->self);
}

/* Nobody holds it any more: see fsb_handles_desc.release. */
static void fsb_tenant_free_(void *user, fsb_handle id, void *object)
{
    fsb_tenant_        *tenant = (fsb_tenant_ *)object;
    const fsb_allocator a = ((const fsb_tenants *)user)->desc.allocator;
    (void)id;
    pthread_mutex_destroy(&tenant->ns.lock);
    fsb_tables_free_(&a, tenant, sizeof *tenant + tenant->size);
}

static int fsb_tenant_enter_(fsb_tenant_ *tenant)
{
    uint64_t was = fsb_tables_load_(&tenant->calls);
    do
        if (was & FSB_TENANT_DEAD_) return -ENODEV;
    while (!fsb_tables_swap_(&tenant->calls, &was, was + 1));
    return 0;
}

/* Returns 1 if it was the last that used anything of the tenant, which may be freed now. */
static int fsb_tenant_leave_(fsb_tenant_ *tenant)
{
    FSB_TABLES_STEP_();
    if (__atomic_sub_fetch(&tenant->calls, 1, __ATOMIC_ACQ_REL) != FSB_TENANT_DEAD_) return 0;
    fsb_handles_release(tenant->set->handles, fsb_tenant_owner_(tenant));
    return fsb_namespace_closed_(&tenant->ns);
}

/* Out of the table of names already. Returns 1 if something of it is still in use. */
static int fsb_tenant_kill_(fsb_tenant_ *tenant)
{
    fsb_tenants *t = tenant->set;
    uint64_t     was = fsb_tables_load_(&tenant->calls);
    while (!fsb_tables_swap_(&tenant->calls, &was, (was + 1) | FSB_TENANT_DEAD_)) {}
    fsb_handles_remove(t->slots, tenant->self, 0);
    fsb_handles_release(t->handles, fsb_tenant_owner_(tenant));
    return !fsb_tenant_leave_(tenant);
}

/* What a call moves, into the bytes on their way. */
static int fsb_tenant_load_(fsb_tenant_ *tenant, uint64_t bytes)
{
    uint64_t was = __atomic_load_n(&tenant->bytes, __ATOMIC_RELAXED);
    do {
        if (was && bytes > tenant->own.max_bytes - (was < tenant->own.max_bytes
                                                    ? was : tenant->own.max_bytes)) {
            __atomic_add_fetch(&tenant->refused_bytes, 1, __ATOMIC_RELAXED);
            return -EAGAIN;
        }
    } while (!__atomic_compare_exchange_n(&tenant->bytes, &was, was + bytes, 1, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return 0;
}

/* Refused, it has not entered: leaving may have to wait. */
static int fsb_tenant_begin_(fsb_tenant_ *tenant, uint64_t bytes)
{
    if (__atomic_load_n(&tenant->calls, __ATOMIC_RELAXED) & FSB_TENANT_DEAD_) return -ENODEV;
    int err = bytes ? fsb_tenant_load_(tenant, bytes) : 0;
    if (err) {
        __atomic_add_fetch(&tenant->done, 1, __ATOMIC_RELAXED);
        return err;
    }
    err = fsb_tenant_enter_(tenant);
    if (err && bytes) __atomic_sub_fetch(&tenant->bytes, bytes, __ATOMIC_RELAXED);
    return err;
}

/* See fsb_namespace_.leave. */
static int fsb_tenant_end_(fsb_namespace_ *ns, uint64_t *bytes, int may_wait)
{
    fsb_tenant_ *tenant = (fsb_tenant_ *)(void *)ns;
    if (*bytes) __atomic_sub_fetch(&tenant->bytes, *bytes, __ATOMIC_RELAXED);
    *bytes = 0;
    __atomic_add_fetch(&tenant->done, 1, __ATOMIC_RELAXED); /* first: then it may be gone */
    if (may_wait) return fsb_tenant_leave_(tenant), 0;
    uint64_t was = fsb_tables_load_(&tenant->calls);
    while (!(was & FSB_TENANT_DEAD_))
        if (fsb_tables_swap_(&tenant->calls, &was, was - 1)) return 0;
    __atomic_sub_fetch(&tenant->done, 1, __ATOMIC_RELAXED);
    return 1;
}

static int64_t fsb_tenant_call_(fsb_backend *b, fsb_op *op)
{
    fsb_tenant_ *tenant = (fsb_tenant_ *)(void *)b;
    uint64_t     bytes = op->size; /* op->size may be an answer later */
    const int    err = fsb_tenant_begin_(tenant, bytes);
    if (err) return op->result = err;
    fsb_namespace_call_(b, op);
    fsb_tenant_end_(&tenant->ns, &bytes, 1);
    return op->result;
}

static void fsb_tenant_submit_(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    fsb_tenant_         *tenant = (fsb_tenant_ *)(void *)b;
    fsb_namespace_batch_ batch;
    batch.to = NULL, batch.n = 0;
    for (size_t i = 0; i < n; ++i) {
        fsb_op   *op = ops[i];
        const int err = fsb_tenant_begin_(tenant, op->size);
        if (!err) {
            fsb_namespace_start_(&tenant->ns, op, op->size, &batch);
            continue;
        }
        op->result = err;
        op->done(op);
    }
    fsb_namespace_flush_(&batch);
}

static void fsb_tenant_close_(fsb_backend *b)
{
    fsb_tenant_ *tenant = (fsb_tenant_ *)(void *)b;
    fsb_handles_unpin(tenant->set->slots, tenant->self);
}

/* The namespace of a tenant that create() has made. */
static void fsb_tenant_init_(fsb_tenants *t, fsb_tenant_ *tenant)
{
    fsb_namespace_    *ns = &tenant->ns;
    fsb_namespace_desc d;
    memset(&d, 0, sizeof d);
    d.mounts = tenant->own.mounts, d.handles = t->handles;
    d.runner = t->desc.runner, d.allocator = t->desc.allocator, d.log = t->desc.log;
    fsb_namespace_init_(ns, &d, "tenant", fsb_tenant_call_, fsb_tenant_submit_,
                        fsb_tenant_close_);
    ns->leave = fsb_tenant_end_;
    ns->max_open = (uint64_t)tenant->own.max_handles + 1, ns->open = 1; /* itself */
    ns->idle_ms = tenant->own.idle_ms, ns->ended = fsb_tenant_ended_;
}

/* A tenant that nobody can find yet, pinned for itself and for the caller. */
static int fsb_tenant_new_(fsb_tenants *t, const char *name, size_t size, fsb_tenant_ **out)
{
    const fsb_allocator *a = &t->desc.allocator;
    fsb_tenant_         *tenant = (fsb_tenant_ *)fsb_tables_new_(a, sizeof *tenant + size);
    fsb_mounts_desc      d;
    void                *found;
    if (!tenant) return -ENOMEM;
    memset(&d, 0, sizeof d);
    d.allocator = *a, d.log = t->desc.log;
    memcpy(tenant->name, name, size);
    tenant->size = size, tenant->set = t, tenant->hash = fsb_tenants_hash_(t, name, size);
    tenant->own.name = tenant->name, tenant->own.idle_ms = t->desc.idle_ms;
    tenant->own.max_handles = t->desc.tenant_handles, tenant->own.max_bytes = t->desc.tenant_bytes;
    int       err = fsb_mounts_open(&tenant->own.mounts, &d);
    const int bare = err;
    if (!err) err = t->desc.create(t->desc.user, &tenant->own);
    const int made = !err;
    if (!err) fsb_tenant_init_(t, tenant);
    if (!err) err = fsb_handles_add(t->slots, tenant, 0, 0, &tenant->self);
    if (err) {
        if (made && t->desc.gone) t->desc.gone(t->desc.user, &tenant->own);
        if (made) pthread_mutex_destroy(&tenant->ns.lock);
        if (!bare) fsb_mounts_close(tenant->own.mounts);
        fsb_tables_free_(a, tenant, sizeof *tenant + size);
        return err;
    }
    tenant->ns.desc.owner = fsb_tenant_owner_(tenant);
    fsb_handles_pin(t->slots, tenant->self, 0, &found);
    fsb_handles_pin(t->slots, tenant->self, 0, &found);
    *out = tenant;
    return 0;
}

/* Lock held. Waits for another thread that makes this one; 1 if there is none. */
static int fsb_tenants_wait_(fsb_tenants *t, const char *name, int *err)
{
    fsb_tenants_making_ *m = t->making;
    while (m && strcmp(m->name, name) != 0) m = m->next;
    if (!m) return 1;
    ++m->waiting;
    while (!m->done) pthread_cond_wait(&t->made, &t->lock);
    *err = m->err;
    if (!--m->waiting) pthread_cond_broadcast(&t->made); /* m is its creator's again */
    return 0;
}

/* Lock held, but not while it is made; nobody else makes it. *out is made even if there is no room
   for it. */
static int fsb_tenants_create_(fsb_tenants *t, uint64_t hash, const char *name, size_t size,
                               fsb_tenant_ **out)
{
    fsb_tenants_making_ **link, mine;
    memset(&mine, 0, sizeof mine);
    mine.name = name, mine.next = t->making, t->making = &mine;
    pthread_mutex_unlock(&t->lock);
    int err = fsb_tenant_new_(t, name, size, out);
    pthread_mutex_lock(&t->lock);
    if (!err) err = fsb_tenants_room_(t);
    if (!err) {
        fsb_handle *entry = fsb_tenants_entry_(t->table, hash, 0);
        if (!*entry) ++t->table->used;
        ++t->count;
        __atomic_store_n(entry, (*out)->self, __ATOMIC_RELEASE);
    }
    for (link = &t->making; *link != &mine;) link = &(*link)->next;
    *link = mine.next;
    mine.done = 1, mine.err = err;
    pthread_cond_broadcast(&t->made);
    while (mine.waiting) pthread_cond_wait(&t->made, &t->lock);
    return err;
}

/* The tenant, pinned, which did not seem to be there. */
static int fsb_tenants_make_(fsb_tenants *t, uint64_t hash, const char *name, size_t size,
                             fsb_tenant_ **out)
{
    int err = 0;
    pthread_mutex_lock(&t->lock);
    while (!err && !(*out = fsb_tenants_find_(t, hash, name, size))) {
        if (!fsb_tenants_wait_(t, name, &err)) continue;
        err = fsb_tenants_create_(t, hash, name, size, out);
        break;
    }
    pthread_mutex_unlock(&t->lock);
    if (err && *out) {
        fsb_tenant_kill_(*out);
        fsb_handles_unpin(t->slots, (*out)->self);
    }
    return err;
}

/* ---- [tenants: calls] ------------------------------------------------------------------------ */

FSB_API int fsb_tenant_backend(fsb_backend **out, fsb_tenants *t, const char *name)
{
    const size_t size = name ? strlen(name) : 0;
    if (!out || !size || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        return -EINVAL;
    if (size > FSB_TENANT_NAME_MAX) return -ENAMETOOLONG;
    const uint64_t hash = fsb_tenants_hash_(t, name, size);
    fsb_tenant_   *tenant = fsb_tenants_find_(t, hash, name, size);
    const int      err = tenant ? 0 : fsb_tenants_make_(t, hash, name, size, &tenant);
    if (err) {
        fsb_tables_log_(&t->desc.log, FSB_LOG_WARN, "tenants/make", "no tenant %s: %s", name,
                        err == -EMFILE ? "there are too many" : strerror(-err));
        return err;
    }
    *out = &tenant->ns.base;
    return 0;
}

FSB_API int fsb_tenants_remove(fsb_tenants *t, const char *name)
{
    const size_t   size = strlen(name);
    const uint64_t hash = fsb_tenants_hash_(t, name, size);
    pthread_mutex_lock(&t->lock);
    fsb_tenant_ *tenant = fsb_tenants_find_(t, hash, name, size);
    if (tenant) {
        __atomic_store_n(fsb_tenants_entry_(t->table, hash, tenant->self), FSB_TENANTS_GONE_,
                         __ATOMIC_RELEASE);
        --t->count;
    }
    pthread_mutex_unlock(&t->lock);
    if (!tenant) return -ENOENT;
    const int kept = fsb_tenant_kill_(tenant);
    fsb_handles_unpin(t->slots, tenant->self);
    return kept;
}

typedef struct fsb_tenants_walk_ {
    int (*fn)(void *user, const fsb_tenant *tenant, const fsb_tenant_stats *stats);
    void *user;
} fsb_tenants_walk_;

static int fsb_tenants_each_(void *user, fsb_handle id, void *object)
{
    const fsb_tenants_walk_ *walk = (const fsb_tenants_walk_ *)user;
    fsb_tenant_             *tenant = (fsb_tenant_ *)object;
    fsb_tenant_stats         stats;
    (void)id;
    if (fsb_tenant_enter_(tenant) != 0) return 0;
    memset(&stats, 0, sizeof stats);
    stats.calls = (__atomic_load_n(&tenant->calls, __ATOMIC_RELAXED) & ~FSB_TENANT_DEAD_) - 1;
    stats.handles = __atomic_load_n(&tenant->ns.open, __ATOMIC_RELAXED) - 1;
    stats.bytes = __atomic_load_n(&tenant->bytes, __ATOMIC_RELAXED);
    stats.done = __atomic_load_n(&tenant->done, __ATOMIC_RELAXED);
    stats.refused_handles = __atomic_load_n(&tenant->ns.refused, __ATOMIC_RELAXED);
    stats.refused_bytes = __atomic_load_n(&tenant->refused_bytes, __ATOMIC_RELAXED);
    const int err = walk->fn(walk->user, &tenant->own, &stats);
    fsb_tenant_leave_(tenant);
    return err;
}

FSB_API int fsb_tenants_each(fsb_tenants *t,
                             int (*fn)(void *user, const fsb_tenant *tenant,
                                       const fsb_tenant_stats *stats),
                             void *user)
{
    fsb_tenants_walk_ walk;
    walk.fn = fn, walk.user = user;
    return fsb_handles_each(t->slots, 0, fsb_tenants_each_, &walk);
}

FSB_API fsb_handles *fsb_tenants_handles(fsb_tenants *t) { return t->handles; }

static int fsb_tenants_end_(void *user, fsb_handle id, void *object)
{
    (void)user, (void)id;
    fsb_tenant_kill_((fsb_tenant_ *)object);
    return 0;
}

FSB_API void fsb_tenants_close(fsb_tenants *t)
{
    if (!t) return;
    const fsb_allocator a = t->desc.allocator;
    if (t->slots) fsb_handles_each(t->slots, 0, fsb_tenants_end_, NULL);
    fsb_handles_close(t->handles);
    fsb_handles_close(t->slots);
    for (unsigned level = 0; level < 32; ++level)
        for (unsigned i = 0; i < 2; ++i)
            fsb_tables_free_(&a, t->tables[level][i], fsb_tenants_table_size_(level));
    pthread_cond_destroy(&t->made);
    pthread_mutex_destroy(&t->lock);
    fsb_tables_free_(&a, t, sizeof *t);
}

FSB_API int fsb_tenants_open(fsb_tenants **out, const fsb_tenants_desc *desc)
{
    if (!out || !desc || !desc->create || desc->max_tenants > 1u << 24) return -EINVAL;
    fsb_handles_desc    slots, files;
    const fsb_allocator a = fsb_tables_allocator_(&desc->allocator);
    fsb_tenants        *t = (fsb_tenants *)fsb_tables_new_(&a, sizeof *t);
    if (!t) return -ENOMEM;
    t->desc = *desc, t->desc.allocator = a, t->seed = fsb_tables_seed_(t);
    if (!t->desc.tenant_handles) t->desc.tenant_handles = 16384;
    if (!t->desc.tenant_bytes) t->desc.tenant_bytes = UINT64_C(64) << 20;
    memset(&slots, 0, sizeof slots);
    memset(&files, 0, sizeof files);
    slots.max_handles = desc->max_tenants ? desc->max_tenants : 65536;
    slots.release = fsb_tenant_free_, slots.user = t, slots.allocator = a;
    files.max_handles = desc->max_handles ? desc->max_handles : 1u << 20;
    files.sweep_ms = desc->sweep_ms, files.release = fsb_namespace_release, files.allocator = a;
    files.log = desc->log;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->made, NULL);
    int err = fsb_handles_open(&t->slots, &slots);
    if (!err) err = fsb_handles_open(&t->handles, &files);
    if (!err) err = fsb_tenants_room_(t);
    if (err) fsb_tenants_close(t);
    else *out = t;
    return err;
}

/* ---- [plugins] ------------------------------------------------------------------------------- */

/* A call is a job: a copy of the op with all that it points to, which belongs to the worker that
   runs it when its caller has left (`orphan`), and to the caller else. Workers are started when
   there is work and none is idle; those whose job is beyond its time are not counted, up to
   max_stuck of them. The plugin ends with its last worker. */
enum { FSB_PLUGIN_LISTED_ = 1 << 20 }; /* bytes of names, fetched at once */

typedef struct fsb_plugin_ fsb_plugin_;
typedef struct fsb_plugin_job_ fsb_plugin_job_;
struct fsb_plugin_job_ {
    fsb_op           op; /* first */
    fsb_plugin_     *p;
    fsb_plugin_job_ *next; /* of those that wait, or that run */
    void           (*run)(fsb_plugin_job_ *job);
    pthread_cond_t   ended;
    int64_t          until; /* monotonic ms */
    size_t           size;  /* of it all: the op's bytes stand behind it */
    int              probe, running, done, orphan;
    char            *listed; /* LIST: entries, each an fsb_plugin_entry_ and its bytes */
    size_t           listed_size, listed_room;
    int              cut; /* there was no room for more */
};
typedef struct fsb_plugin_entry_ {
    fsb_dirent e; /* its pointers: not NULL where there is something */
    size_t     size; /* of it all; name, folder, data stand behind it, the first two with '\0' */
} fsb_plugin_entry_;

struct fsb_plugin_ {
    fsb_backend           base; /* first */
    fsb_plugin_desc       desc;
    fsb_logger            log; /* what open() was given */
    void                 *object;
    const fsb_plugin_info *info;
    fsb_backend          *inner;
    int64_t               opened; /* what its open() said */
    char                  name[64];
    pthread_mutex_t       lock; /* leaf; of the following */
    pthread_cond_t        work, ended;
    fsb_plugin_job_      *first, **last; /* waiting */
    fsb_plugin_job_      *running;
    uint32_t              threads, idle, calls, failed; /* failed: in a row */
    int64_t               open_until; /* monotonic ms; 0: the breaker is closed */
    uint32_t              pause_ms;
    int                   probing, quit, left; /* left: close() has gone, the last worker frees */
    fsb_plugin_stats      stats;
};

/* Until a monotonic time in ms; not 0: it has passed. The condition's clock is monotonic. */
static int fsb_plugin_wait_(fsb_plugin_ *p, pthread_cond_t *cond, int64_t until)
{
    struct timespec t;
    t.tv_sec = (time_t)(until / 1000), t.tv_nsec = (long)(until % 1000) * 1000000;
    return pthread_cond_timedwait(cond, &p->lock, &t);
}

static void fsb_plugin_cond_(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static void fsb_plugin_job_free_(fsb_plugin_job_ *job)
{
    const fsb_allocator a = job->p->desc.allocator;
    fsb_tables_free_(&a, job->listed, job->listed_room);
    pthread_cond_destroy(&job->ended);
    fsb_tables_free_(&a, job, job->size);
}

/* ---- [plugins: workers] ---------------------------------------------------------------------- */

static void fsb_plugin_free_(fsb_plugin_ *p)
{
    const fsb_allocator a = p->desc.allocator;
    while (p->first) {
        fsb_plugin_job_ *job = p->first;
        p->first = job->next;
        fsb_plugin_job_free_(job);
    }
    pthread_cond_destroy(&p->ended);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    fsb_tables_free_(&a, p, sizeof *p);
}

/* Lock held. How many jobs are beyond their time. */
static uint32_t fsb_plugin_stuck_(const fsb_plugin_ *p)
{
    const int64_t now = fsb_tables_now_ms_();
    uint32_t      n = 0;
    for (const fsb_plugin_job_ *job = p->running; job; job = job->next) n += job->until <= now;
    return n;
}

/* The caller of a job has left: what came too late is given back. */
static void fsb_plugin_late_(fsb_plugin_job_ *job)
{
    fsb_op *op = &job->op;
    if (op->result < 0) return;
    if (op->slice.release) fsb_slice_release(&op->slice);
    if (op->code == FSB_OP_OPEN) {
        fsb_op end;
        memset(&end, 0, sizeof end);
        end.code = FSB_OP_CLOSE, end.handle = op->handle;
        fsb_namespace_inner_(job->p->inner, &end);
    }
}

/* Lock held, but not while the job runs. */
static void fsb_plugin_work_(fsb_plugin_ *p)
{
    fsb_plugin_job_ *job = p->first, **at = &p->running;
    p->first = job->next;
    if (!p->first) p->last = &p->first;
    if (job->orphan) job->until = fsb_tables_now_ms_() + p->desc.deadline_ms;
    job->next = p->running, p->running = job, job->running = 1;
    pthread_mutex_unlock(&p->lock);
    job->run(job);
    pthread_mutex_lock(&p->lock);
    job->done = 1;
    if (job->orphan) {
        pthread_mutex_unlock(&p->lock);
        fsb_plugin_late_(job);
        pthread_mutex_lock(&p->lock);
    }
    while (*at != job) at = &(*at)->next;
    *at = job->next;
    if (job->orphan) fsb_plugin_job_free_(job);
    else pthread_cond_signal(&job->ended);
}

static void *fsb_plugin_main_(void *arg)
{
    fsb_plugin_ *p = (fsb_plugin_ *)arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->first) fsb_plugin_work_(p);
        if (p->quit || p->threads - fsb_plugin_stuck_(p) > p->desc.workers) break;
        ++p->idle;
        pthread_cond_wait(&p->work, &p->lock);
        --p->idle;
    }
    if (p->threads == 1 && p->quit) { /* the last */
        pthread_mutex_unlock(&p->lock);
        if (p->inner) p->inner->close(p->inner);
        if (p->object) dlclose(p->object);
        pthread_mutex_lock(&p->lock);
    }
    const int last = --p->threads == 0 && p->left;
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
    if (last) fsb_plugin_free_(p);
    return NULL;
}

/* Lock held. Work waits: is there, or can there be, a worker for it? */
static int fsb_plugin_staff_(fsb_plugin_ *p)
{
    pthread_t              thread;
    const uint32_t         stuck = fsb_plugin_stuck_(p);
    const fsb_plugin_job_ *more = p->first; /* than those who are idle take, once they are awake */
    for (uint32_t i = 0; more && i < p->idle; ++i) more = more->next;
    if (p->idle) pthread_cond_signal(&p->work);
    if (more && p->threads - stuck < p->desc.workers
        && p->threads < p->desc.workers + p->desc.max_stuck
        && fsb_tables_thread_(&thread, fsb_plugin_main_, p) == 0)
        pthread_detach(thread), ++p->threads;
    return p->threads ? 0 : -EAGAIN;
}

/* Lock held. Has a worker run the job until its time is over. What was begun then is the worker's:
   job->orphan. */
static int fsb_plugin_run_(fsb_plugin_ *p, fsb_plugin_job_ *job)
{
    fsb_plugin_job_ **at = &p->first;
    job->next = NULL;
    *p->last = job, p->last = &job->next;
    int err = fsb_plugin_staff_(p);
    while (!err && !job->done)
        if (fsb_plugin_wait_(p, &job->ended, job->until) != 0 && !job->done) err = -ETIMEDOUT;
    if (!err) return 0;
    if (job->running || job->op.code == FSB_OP_CLOSE) { /* which is done however late */
        job->orphan = 1;
        if (p->first) fsb_plugin_staff_(p); /* this worker is not counted any more */
        return err;
    }
    while (*at != job) at = &(*at)->next;
    *at = job->next;
    if (!job->next) p->last = at;
    return err;
}

/* ---- [plugins: breaker] ---------------------------------------------------------------------- */

/* Lock held. Whether a call may begin; the first one after a pause is a probe. */
static int fsb_plugin_admit_(fsb_plugin_ *p, fsb_plugin_job_ *job)
{
    if (p->open_until && (p->probing || fsb_tables_now_ms_() < p->open_until)) {
        ++p->stats.refused;
        return -EAGAIN;
    }
    if (p->calls >= p->desc.max_calls) {
        ++p->stats.busy;
        return -EAGAIN;
    }
    if (p->open_until) p->probing = job->probe = 1;
    ++p->calls;
    return 0;
}

/* Lock held. A call has ended with `result`. Returns 1 if the breaker opened, -1 if it closed. */
static int fsb_plugin_judge_(fsb_plugin_ *p, int64_t result, int probe)
{
    const int bad = result == -ETIMEDOUT || result == -EIO || result == -ENOTCONN
                    || result == -EHOSTUNREACH || result == -EPROTO;
    const int was = p->open_until != 0;
    --p->calls, ++p->stats.done, p->stats.failures += (uint64_t)bad;
    if (probe) p->probing = 0;
    if (!bad) {
        p->failed = 0;
        if (probe) p->open_until = 0, p->pause_ms = p->desc.pause_ms;
        return probe ? -1 : 0;
    }
    if (p->failed < UINT32_MAX) ++p->failed;
    if (was && !probe) return 0; /* it began before */
    if (!was && p->failed < p->desc.failures) return 0;
    if (was && p->pause_ms < p->desc.pause_ms * 64) p->pause_ms *= 2;
    p->open_until = fsb_tables_now_ms_() + p->pause_ms;
    if (!was) ++p->stats.opened;
    return !was;
}

static void fsb_plugin_tell_(fsb_plugin_ *p, int turned, int64_t result)
{
    const fsb_logger *log = &p->desc.log;
    if (turned < 0)
        fsb_tables_log_(log, FSB_LOG_INFO, "plugin/breaker", "%s answers again", p->name);
    if (turned <= 0) return;
    fsb_tables_log_(log, FSB_LOG_WARN, "plugin/breaker",
                    "%s is left alone: %u calls in a row failed, the last one with: %s", p->name,
                    p->desc.failures, strerror((int)-result));
}

/* ---- [plugins: calls] ------------------------------------------------------------------------ */

static int fsb_plugin_collect_(fsb_op *op, const fsb_dirent *e)
{
    fsb_plugin_job_    *job = (fsb_plugin_job_ *)(void *)op;
    const fsb_allocator a = job->p->desc.allocator;
    const size_t        folder = e->folder ? strlen(e->folder) + 1 : 0;
    const size_t        data = e->data && e->stat.size <= FSB_IO_MAX ? (size_t)e->stat.size : 0;
    const size_t        size = (sizeof(fsb_plugin_entry_) + e->name_size + 1 + folder + data + 15)
                               & ~(size_t)15;
    fsb_plugin_entry_   entry;
    if (job->listed_size && job->listed_size + size > FSB_PLUGIN_LISTED_) return job->cut = 1;
    if (job->listed_size + size > job->listed_room) {
        const size_t room = (job->listed_size + size) * 2;
        char        *more = (char *)a.fn(a.user, job->listed, job->listed_room, room);
        if (!more) return job->cut = -ENOMEM;
        job->listed = more, job->listed_room = room;
    }
    char *to = job->listed + job->listed_size;
    entry.e = *e, entry.size = size;
    if (!data && e->stat.size) entry.e.data = NULL;
    memcpy(to, &entry, sizeof entry);
    to += sizeof entry;
    memcpy(to, e->name, e->name_size);
    to[e->name_size] = '\0';
    if (folder) memcpy(to + e->name_size + 1, e->folder, folder);
    if (data) memcpy(to + e->name_size + 1 + folder, e->data, data);
    job->listed_size += size;
    return 0;
}

/* Hands out on the caller's thread what was collected; the LIST's result. */
static int64_t fsb_plugin_emit_(fsb_plugin_job_ *job, fsb_op *op)
{
    fsb_plugin_entry_ entry;
    if (job->cut < 0 && !job->listed_size) return job->cut;
    for (size_t at = 0; at < job->listed_size; at += entry.size) {
        memcpy(&entry, job->listed + at, sizeof entry);
        const char *name = job->listed + at + sizeof entry;
        const char *behind = name + entry.e.name_size + 1;
        entry.e.name = name;
        if (entry.e.folder) entry.e.folder = behind, behind += strlen(behind) + 1;
        if (entry.e.data) entry.e.data = behind;
        if (op->emit(op, &entry.e)) return 0;
    }
    return job->cut ? 0 : job->op.result;
}

static void fsb_plugin_call_inner_(fsb_plugin_job_ *job)
{
    fsb_namespace_inner_(job->p->inner, &job->op);
}

/* A copy of the op and of what it points to. */
static fsb_plugin_job_ *fsb_plugin_job_new_(fsb_plugin_ *p, const fsb_op *op)
{
    const size_t path = op->path ? strlen(op->path) + 1 : 0;
    const size_t path2 = op->path2 ? strlen(op->path2) + 1 : 0;
    const size_t data = op->data ? op->size : 0, room = op->buf ? op->size : 0;
    const size_t     size = sizeof(fsb_plugin_job_) + path + path2 + data + room;
    fsb_plugin_job_ *job = (fsb_plugin_job_ *)p->desc.allocator.fn(p->desc.allocator.user, NULL, 0,
                                                                   size);
    if (!job) return NULL;
    memset(job, 0, sizeof *job);
    job->p = p, job->size = size, job->op = *op, job->run = fsb_plugin_call_inner_;
    fsb_plugin_cond_(&job->ended);
    char *at = (char *)(job + 1);
    if (op->buf) job->op.buf = at;
    at += room;
    if (data) job->op.data = memcpy(at, op->data, data);
    at += data;
    if (path) job->op.path = (const char *)memcpy(at, op->path, path);
    at += path;
    if (path2) job->op.path2 = (const char *)memcpy(at, op->path2, path2);
    if (op->code == FSB_OP_LIST) job->op.emit = fsb_plugin_collect_;
    job->op.user = NULL, job->op.done = NULL, job->op.next = NULL, job->op.exec = NULL;
    return job;
}

/* What the plugin answered, into the caller's op. */
static int64_t fsb_plugin_answer_(fsb_plugin_job_ *job, fsb_op *op)
{
    const fsb_op *from = &job->op;
    int64_t       n = from->result;
    const int     counts = from->buf && n > 0; /* bytes in buf; of xattrs it may ask for more */
    if (counts && (uint64_t)n > op->size && op->size) n = -EIO;
    if (n < 0) return n;
    if (counts && op->size) memcpy(op->buf, from->buf, (size_t)n);
    op->handle = from->handle, op->stat = from->stat, op->statfs = from->statfs;
    op->out_offset = from->out_offset, op->slice = from->slice;
    return op->code == FSB_OP_LIST ? fsb_plugin_emit_(job, op) : n;
}

static int fsb_plugin_takes_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_EXEC: case FSB_OP_WATCH: case FSB_OP_LOCK: case FSB_OP_DESCRIPTOR: return -ENOSYS;
    case FSB_OP_LIST: return op->emit ? 0 : -EINVAL;
    default: return op->size > FSB_IO_MAX ? -EINVAL : 0;
    }
}

static int64_t fsb_plugin_call_(fsb_backend *b, fsb_op *op)
{
    fsb_plugin_     *p = (fsb_plugin_ *)(void *)b;
    const int        closes = op->code == FSB_OP_CLOSE;
    int              err = fsb_plugin_takes_(op), turned = 0;
    fsb_plugin_job_ *job = err ? NULL : fsb_plugin_job_new_(p, op);
    if (!job) return op->result = err ? err : -ENOMEM;
    const uint32_t ms = op->timeout_ms && op->timeout_ms < p->desc.deadline_ms
                        ? op->timeout_ms : p->desc.deadline_ms;
    pthread_mutex_lock(&p->lock);
    err = fsb_plugin_admit_(p, job);
    job->until = fsb_tables_now_ms_() + (err && closes ? 0 : ms); /* that one is not waited for */
    const int admitted = !err, probe = job->probe;
    if (admitted || closes) err = fsb_plugin_run_(p, job);
    const int     orphan = job->orphan;
    const int64_t result = err ? err : job->op.result;
    if (admitted) turned = fsb_plugin_judge_(p, result, probe);
    if (admitted && err == -ETIMEDOUT) ++p->stats.timeouts;
    pthread_mutex_unlock(&p->lock);
    if (admitted && err == -ETIMEDOUT)
        fsb_tables_log_(&p->desc.log, FSB_LOG_WARN, "plugin/call",
                        "%s: call %u was not answered in %u ms", p->name, op->code, ms);
    fsb_plugin_tell_(p, turned, result);
    if (closes && err == -ETIMEDOUT && !admitted) err = 0;
    op->result = err ? err : orphan ? 0 : fsb_plugin_answer_(job, op);
    if (!orphan) fsb_plugin_job_free_(job);
    return op->result;
}

FSB_API void fsb_plugin_stat(fsb_backend *b, fsb_plugin_stats *stats)
{
    fsb_plugin_ *p = (fsb_plugin_ *)(void *)b;
    pthread_mutex_lock(&p->lock);
    *stats = p->stats;
    stats->calls = p->calls, stats->stuck = fsb_plugin_stuck_(p), stats->threads = p->threads;
    stats->open = p->open_until != 0;
    pthread_mutex_unlock(&p->lock);
}

/* ---- [plugins: loading] ---------------------------------------------------------------------- */

/* In the child: it may crash here. Its last word is a byte. */
static void fsb_plugin_try_(const char *path, int fd)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGTERM};
    struct rlimit    none;
    struct sigaction plain;
    sigset_t         all;
    memset(&none, 0, sizeof none);
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; ++i) sigaction(fatal[i], &plain, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, NULL);
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* why it cannot be, the parent finds too */
    _exit(write(fd, object ? "y" : "n", 1) == 1 ? 0 : 1);
}

/* Waits for the child's word. 0; else the log says what became of it. */
static int fsb_plugin_await_(const fsb_plugin_desc *d, pid_t child, int fd)
{
    const int64_t until = fsb_tables_now_ms_() + d->load_ms;
    struct pollfd at;
    char          word = 0;
    int           status = 0, n = 0;
    at.fd = fd, at.events = POLLIN, at.revents = 0;
    for (int64_t left; (left = until - fsb_tables_now_ms_()) > 0;)
        if ((n = poll(&at, 1, (int)left)) >= 0 || errno != EINTR) break;
    if (n > 0 && read(fd, &word, 1) != 1) word = 0;
    if (!word) kill(child, n > 0 ? 0 : SIGKILL); /* one that has ended is only asked */
    pid_t got;
    while ((got = waitpid(child, &status, 0)) < 0 && errno == EINTR) {}
    if (word) return 0;
    if (n <= 0)
        fsb_tables_log_(&d->log, FSB_LOG_ERROR, "plugin/load", "%s: does not load in %u ms",
                        d->path, d->load_ms);
    else if (got == child && WIFSIGNALED(status))
        fsb_tables_log_(&d->log, FSB_LOG_ERROR, "plugin/load", "%s: crashes when it is loaded: "
                        "signal %d, %s", d->path, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        fsb_tables_log_(&d->log, FSB_LOG_ERROR, "plugin/load", "%s: ends the program when it is "
                        "loaded", d->path);
    return n <= 0 ? -ETIMEDOUT : -EFAULT;
}

/* 0 if a child could load it, or found why it cannot be. */
static int fsb_plugin_probe_(const fsb_plugin_desc *d)
{
    int       ends[2];
    const int fd = open(d->path, O_RDONLY | O_CLOEXEC);
    int       err = fd < 0 ? -errno : 0;
    if (!err) close(fd), err = pipe2(ends, O_CLOEXEC) ? -errno : 0;
    if (err) {
        fsb_tables_log_(&d->log, FSB_LOG_ERROR, "plugin/load", "%s: %s", d->path, strerror(-err));
        return err;
    }
    const pid_t child = fork();
    if (child == 0) fsb_plugin_try_(d->path, ends[1]);
    close(ends[1]);
    err = child < 0 ? -EAGAIN : fsb_plugin_await_(d, child, ends[0]);
    close(ends[0]);
    return err;
}

/* Loads it and looks whether it is one, and of this ABI. */
static int fsb_plugin_object_(fsb_plugin_ *p)
{
    const char       *path = p->desc.path;
    const fsb_logger *log = &p->desc.log;
    p->object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!p->object) {
        fsb_tables_log_(log, FSB_LOG_ERROR, "plugin/load", "%s", dlerror());
        return -ENOEXEC;
    }
    const fsb_plugin_info *info = (const fsb_plugin_info *)dlsym(p->object, "fsb_plugin");
    if (!info) {
        fsb_tables_log_(log, FSB_LOG_ERROR, "plugin/load",
                        "%s: no plugin: it exports no fsb_plugin", path);
        return -ENOSYS;
    }
    if (info->abi != FSB_PLUGIN_ABI || info->size < sizeof *info || info->op_size != sizeof(fsb_op)
        || info->backend_size > sizeof(fsb_backend) || info->dirent_size != sizeof(fsb_dirent)) {
        fsb_tables_log_(log, FSB_LOG_ERROR, "plugin/load",
                        "%s: compiled for ABI %u (%u, %u, %u, %u bytes), this is %d (%zu, %zu, "
                        "%zu, %zu)", path, info->abi, info->size, info->backend_size,
                        info->op_size, info->dirent_size, FSB_PLUGIN_ABI, sizeof *info,
                        sizeof(fsb_backend), sizeof(fsb_op), sizeof(fsb_dirent));
        return -EPROTO;
    }
    if (!info->name || !info->open) return -EPROTO;
    p->info = info;
    snprintf(p->name, sizeof p->name, "%s", info->name);
    return 0;
}

static void fsb_plugin_open_inner_(fsb_plugin_job_ *job)
{
    fsb_plugin_ *p = job->p;
    fsb_backend *inner = NULL;
    const char  *config = (const char *)(job + 1);
    int          err = p->info->open(&inner, config, &p->log);
    if (!err && (!inner || inner->size > sizeof *inner || !inner->close)) err = -EPROTO;
    if (!err) p->inner = inner;
    job->op.result = err;
}

static int fsb_plugin_start_(fsb_plugin_ *p)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.path = p->desc.config ? p->desc.config : "";
    fsb_plugin_job_ *job = fsb_plugin_job_new_(p, &op);
    if (!job) return -ENOMEM;
    job->run = fsb_plugin_open_inner_;
    pthread_mutex_lock(&p->lock);
    job->until = fsb_tables_now_ms_() + p->desc.load_ms;
    int       err = fsb_plugin_run_(p, job);
    const int orphan = job->orphan;
    pthread_mutex_unlock(&p->lock);
    if (!err) err = (int)job->op.result;
    if (!orphan) fsb_plugin_job_free_(job);
    if (err)
        fsb_tables_log_(&p->desc.log, FSB_LOG_ERROR, "plugin/load", "%s: does not open: %s",
                        p->desc.path, strerror(-err));
    return err;
}

static void fsb_plugin_close_(fsb_backend *b)
{
    fsb_plugin_  *p = (fsb_plugin_ *)(void *)b;
    const int64_t until = fsb_tables_now_ms_() + p->desc.deadline_ms;
    pthread_mutex_lock(&p->lock);
    p->quit = 1;
    pthread_cond_broadcast(&p->work);
    const int none = !p->threads;
    while (p->threads && fsb_plugin_wait_(p, &p->ended, until) == 0) {}
    const uint32_t   left = p->threads;
    const fsb_logger log = p->desc.log; /* p goes with its last worker, once the lock is free */
    char             name[sizeof p->name];
    memcpy(name, p->name, sizeof name);
    p->left = left != 0;
    pthread_mutex_unlock(&p->lock);
    if (left)
        fsb_tables_log_(&log, FSB_LOG_WARN, "plugin/close", "%s stays loaded: %u calls did not "
                        "return", name, left);
    if (none && p->object) dlclose(p->object);
    if (!left) fsb_plugin_free_(p);
}

FSB_API int fsb_plugin_load(fsb_backend **out, const fsb_plugin_desc *desc)
{
    enum { HOUR = 3600000 };
    if (!out || !desc || !desc->path || !strchr(desc->path, '/') || desc->load_ms > HOUR
        || desc->deadline_ms > HOUR || desc->pause_ms > HOUR || desc->workers > 64
        || desc->max_stuck > 1024)
        return -EINVAL;
    fsb_plugin_desc d = *desc;
    d.allocator = fsb_tables_allocator_(&desc->allocator);
    if (!d.load_ms) d.load_ms = 10000;
    if (!d.deadline_ms) d.deadline_ms = 5000;
    if (!d.workers) d.workers = 4;
    if (!d.max_stuck) d.max_stuck = 16;
    if (!d.max_calls) d.max_calls = 64;
    if (!d.failures) d.failures = 5;
    if (!d.pause_ms) d.pause_ms = 1000;
    int err = fsb_plugin_probe_(&d);
    if (err) return err;
    fsb_plugin_ *p = (fsb_plugin_ *)fsb_tables_new_(&d.allocator, sizeof *p);
    if (!p) return -ENOMEM;
    p->desc = d, p->log = d.log, p->pause_ms = d.pause_ms, p->last = &p->first;
    pthread_mutex_init(&p->lock, NULL);
    fsb_plugin_cond_(&p->work);
    fsb_plugin_cond_(&p->ended);
    p->base.size = sizeof p->base, p->base.name = p->name, p->base.close = fsb_plugin_close_;
    for (uint32_t i = FSB_OP_STAT; i < FSB_OP_COUNT; ++i) p->base.call[i] = fsb_plugin_call_;
    err = fsb_plugin_object_(p);
    if (!err) err = fsb_plugin_start_(p);
    if (err) fsb_plugin_close_(&p->base);
    else *out = &p->base;
    return err;
}

#ifndef FSB_WITH_FUSE

FSB_API int fsb_mount_open(fsb_mount **out, const fsb_mount_desc *desc)
{
    (void)out;
    if (desc && desc->log.fn)
        desc->log.fn(desc->log.user, FSB_LOG_ERROR, "mount/open", "built without FSB_WITH_FUSE");
    return -ENOSYS;
}

FSB_API int fsb_mount_serve(fsb_mount *m)
{
    (void)m;
    return -ENOSYS;
}

FSB_API void fsb_mount_stop(fsb_mount *m) { (void)m; }
FSB_API void fsb_mount_close(fsb_mount *m) { (void)m; }

FSB_API const char *fsb_mount_errmsg(fsb_mount *m, char *buf, size_t size)
{
    (void)m;
    if (size) buf[0] = '\0';
    return buf;
}

#else /* FSB_WITH_FUSE */

#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <fuse3/fuse_lowlevel.h>
#undef FUSE_USE_VERSION /* ours alone */
#ifndef SEEK_HOLE
#error "fsb_mount.h: GNU extensions are hidden; include it first, or compile with -D_GNU_SOURCE"
#endif

enum {
    FSB_MOUNT_RECEIVE_ = FSB_IO_MAX + 8192, /* the largest request: a WRITE and its header */
    FSB_MOUNT_HEAD_ = 16 << 10,  /* bytes asked for with OPEN: what the kernel reads first */
    FSB_MOUNT_WHOLE_ = 32 << 10, /* a file of up to so many bytes is asked for whole */
    FSB_MOUNT_HEADS_ = 4 << 20,             /* such bytes kept in all */
    FSB_MOUNT_HANDOVER_ = 256 << 10,        /* smaller writes are copied: a buffer is 1 MiB */
    FSB_MOUNT_FLIGHT_ = 1024,               /* delayed writes on their way, at most */
    FSB_MOUNT_SPARE_REQS_ = 64,
    FSB_MOUNT_TOGETHER_ = 16, /* operations sent at once, at most */
    FSB_MOUNT_BATCH_MIN_ = 32 << 10, /* of a listing, fetched at once; doubles while it is used */
    FSB_MOUNT_BATCH_MAX_ = 256 << 10,
    FSB_MOUNT_REPLY_MAX_ = 128 << 10, /* of a listing, handed to the kernel at once */
    FSB_MOUNT_DIRS_ = 16,             /* such batches kept, at most */
    FSB_MOUNT_NODES_ = 1 << 26,       /* files known at once, at most */
    FSB_MOUNT_KEPT_ = 256,            /* files open on the backend that nobody will close */
    FSB_MOUNT_LOOK_NS_ = 60000,
    FSB_MOUNT_QUIET_MS_ = 1000,       /* then unused memory is given back */
    FSB_MOUNT_TRIES_ = 4              /* of an operation whose path changed meanwhile */
};
/* Of [ahead] */
enum {
    FSB_MOUNT_AHEAD_BYTES_ = 1 << 20, /* of one listing */
    FSB_MOUNT_AHEAD_FILE_ = 64 << 10, /* of one file, at most */
    FSB_MOUNT_AHEAD_OPENS_ = 2,       /* that begin it */
    FSB_MOUNT_AHEAD_FOLDERS_ = 2,     /* that follow are fetched too */
    FSB_MOUNT_AHEAD_FLIGHT_ = 3,
    FSB_MOUNT_AHEAD_RUN_ = 8,         /* listings behind each other, at most */
    FSB_MOUNT_AHEAD_HELD_ = 16 << 20, /* bytes that the kernel has not taken yet, at most */
    FSB_MOUNT_AHEAD_TRIAL_ = 512,     /* files fetched; less than a quarter opened: enough */
    FSB_MOUNT_FAR_NS_ = 1000000       /* a round trip to a distant host */
};
#define FSB_MOUNT_COPY_MAX_ ((uint64_t)64 << 20) /* of one COPY, so that it ends in good time */
#define FSB_MOUNT_CAREFUL_NS_ ((int64_t)10 * 1000000000)
#define FSB_MOUNT_KILL_WRITE_ (1u << 2)          /* FUSE_WRITE_KILL_SUIDGID */
#define FSB_MOUNT_KILL_SETATTR_ (1 << 11)        /* FATTR_KILL_SUIDGID */
#define FSB_MOUNT_INIT_FLAGS_ (1u << 18 | 1u << 28) /* PARALLEL_DIROPS, HANDLE_KILLPRIV_V2 */

/* Where an operation acts, and what it waits for. */
enum {
    FSB_MOUNT_AT_ = 1,      /* op.path is a name of node, checked by file_id */
    FSB_MOUNT_CHILD_ = 2,   /* op.path is `name` in node */
    FSB_MOUNT_TO_ = 4,      /* op.path2 is `name2` in node2 */
    FSB_MOUNT_PATHS_ = 7,   /* any of these: it and the move of a folder wait for each other */
    FSB_MOUNT_MOVE_ = 8,    /* moves a folder */
    FSB_MOUNT_DRAINED_ = 16, /* waits for the delayed writes of node */
    FSB_MOUNT_DRAINED2_ = 32 /* and of node2 */
};
enum { FSB_MOUNT_INVAL_ATTR_ = 1, FSB_MOUNT_INVAL_PAGES_ = 2,
       FSB_MOUNT_INVAL_NAMES_ = 4 /* in a folder, any of them */ };

typedef struct fsb_mount_link_ fsb_mount_link_;
struct fsb_mount_link_ { /* first in what a table holds */
    fsb_mount_link_ *next;
    uint64_t         hash;
};
typedef struct fsb_mount_table_ {
    fsb_mount_link_ **bucket;
    size_t            size, count; /* size: a power of two */
} fsb_mount_table_;

typedef struct fsb_mount_node_ fsb_mount_node_;
typedef struct fsb_mount_file_ fsb_mount_file_;
typedef struct fsb_mount_dir_ fsb_mount_dir_;
typedef struct fsb_mount_req_ fsb_mount_req_;
typedef struct fsb_mount_queue_ {
    fsb_mount_req_ *head, *tail;
} fsb_mount_queue_;
typedef struct fsb_mount_bytes_ fsb_mount_bytes_;

enum { FSB_MOUNT_ELSEWHERE_ = 1, FSB_MOUNT_NOWHERE_ = 2 };

/* One name: an entry of a folder. It belongs to its node and pins the folder. */
typedef struct fsb_mount_name_ fsb_mount_name_;
struct fsb_mount_name_ {
    fsb_mount_link_  link; /* in mount->names */
    fsb_mount_name_ *next; /* of the same node */
    fsb_mount_node_ *node, *parent;
    uint32_t         size;
    int              doubted; /* of a folder: others changed it, so it may lead elsewhere, or
                                 nowhere; 0: it does not */
    char             text[1];
};

/* One file, whatever its names. All fields are guarded by mount->lock. */
struct fsb_mount_node_ {
    fsb_mount_link_  link; /* in mount->nodes, by file_id */
    uint64_t         id, file_id;
    uint64_t         lookups; /* how often the kernel was told id, less what it forgot */
    uint32_t         pins;    /* names in this folder, requests, open files */
    uint32_t         dead;    /* on its way out */
    uint32_t         least;   /* folders above it, at least, wherever it was; contain_symlinks */
    fsb_mount_name_ *names;
    fsb_mount_node_ *next_dead;

    fsb_stat attr;
    int64_t  attr_until; /* monotonic ns: attr is believed so long */
    int64_t  bare_until; /* monotonic ns: made here a moment ago, it has no security.capability */
    uint64_t version;    /* the content that the kernel's pages show; 0: not known */
    uint64_t change;     /* mount->changes when this mount changed it last */
    int      removed;    /* by this mount, the last name */
    int      gone;       /* a folder that others removed, it seems */

    fsb_mount_file_ *reader, *writer; /* on the backend; writer may serve readers too */
    uint32_t         readers, writers; /* files that applications have open */
    int              locked;           /* remote locks were taken */

    fsb_mount_req_  *flight; /* delayed writes on their way */
    uint32_t         writes; /* their number */
    int              burst;  /* attr is the answer of one of them */
    int              error;    /* the first failure not yet reported */
    uint64_t         reported; /* mount->changes when one was: what was sent before is not news */
    uint64_t         flight_begin, flight_end; /* no write of the burst is outside */
    fsb_mount_queue_ waiting;                  /* for them, or for room to be one */
    int              pumping, wants_room;
    fsb_mount_node_ *next_room;

    uint32_t         inval; /* FSB_MOUNT_INVAL_* that the kernel is to be told */
    fsb_mount_node_ *next_inval;
    uint64_t         next_folder; /* id of the folder listed behind this one; see [ahead] */
    int64_t          fetched;  /* monotonic ns: when the bytes of its small files were asked for */
    int              fetching; /* they are on their way */
    uint64_t         fetched_to; /* cookie: of the files behind it they were not; 0: of all */
    uint32_t         run;      /* listings to ask for at once, behind one that had what was missing;
                                  0: they are not read in that order, or nothing is known of it */
    uint32_t         wave;     /* of these, still to be asked for */
    uint32_t         pieces;   /* listings that were, from the first name on */
    uint32_t         small;    /* opens of small files in it before they were asked for */
    uint32_t         stored;   /* a file: its bytes were fetched, and not opened since */
    fsb_mount_queue_ readers_waiting; /* for them */
    uint64_t         below; /* mount->changes when others last changed a name in this folder */
};

/* A name that the kernel is to forget, on others' behalf. */
typedef struct fsb_mount_note_ {
    struct fsb_mount_note_ *next;
    fsb_mount_node_        *parent; /* pinned */
    uint64_t                folder; /* id of the folder that had the name; 0: none had */
    size_t                  size;
    char                    name[1];
} fsb_mount_note_;

/* What every operation of ours begins with; op.done knows what it is part of. */
typedef struct fsb_mount_task_ {
    fsb_op     op;
    fsb_mount *mount;
} fsb_mount_task_;

/* An open file of the backend. */
struct fsb_mount_file_ {
    fsb_mount_task_  task; /* for CLOSE: it must not fail for want of memory */
    fsb_mount_node_ *node; /* pinned */
    fsb_handle       handle;
    uint32_t         rights; /* FSB_O_READ, FSB_O_WRITE */
    uint32_t         pins;   /* the node's, and of operations on their way */
    fsb_slice        head;   /* the first bytes, for the reads that follow OPEN */
    int              head_whole; /* the file ends there */
    uint64_t         head_change; /* node->change when they came: good as long as it stands */
    fsb_mount_file_ *next;       /* to be closed */
};

/* A receive buffer; the request stands right behind it. */
typedef struct fsb_mount_buf_ fsb_mount_buf_;
struct fsb_mount_buf_ {
    fsb_mount_buf_ *next;
    uint32_t        pins; /* its thread, and writes whose bytes are in it */
    uint32_t        used; /* it was filled beyond what a small request fills */
};

struct fsb_mount_req_ {
    fsb_mount_task_  task;
    fuse_req_t       fuse; /* NULL: nobody waits, or was answered already */
    void           (*apply)(fsb_mount *m, fsb_mount_req_ *r); /* lock held: names that changed,
                                                 before another operation's path is written */
    void           (*then)(fsb_mount_req_ *r);
    uint32_t         how; /* FSB_MOUNT_AT_ ... */
    uint32_t         tries;
    uint64_t         started; /* mount->changes when it was sent */
    fsb_mount_node_ *node, *node2; /* pinned */
    fsb_mount_file_ *file, *file2; /* pinned */
    fsb_mount_dir_  *dir;
    fsb_mount_buf_  *buf;
    void            *extra; /* owned: bytes of the operation */
    size_t           extra_size;
    fsb_mount_req_  *next, *prev; /* in a queue, in flight, spare */
    struct fuse_file_info fi;
    uint64_t         list_offset;
    size_t           reply_size; /* of a listing, most; of a write */
    int64_t          error; /* to answer when the operation that cleans up is done */
    struct { /* what waits until a file is open on the backend: see fsb_mount_open_first_ */
        fsb_op   op;
        uint32_t how;
        void   (*apply)(fsb_mount *m, fsb_mount_req_ *r);
        void   (*then)(fsb_mount_req_ *r);
        fsb_mount_node_ *node;
    } later;
    fsb_mount_node_ *sure;    /* pinned: a folder that is asked for first; see make_sure_ */
    int              lazy;    /* the operation needs a handle that its node may not have yet */
    int              tainted; /* the answer may be older than what others did since */
    int              fresh; /* its handler runs: see fsb_mount_together_take_ */
    int              in_gate, plus, delayed, elsewhere;
    int              locks, waits, sent, holds, cancelled; /* of LOCK: see [locks] */
    char             name[FSB_NAME_MAX + 1], name2[FSB_NAME_MAX + 1]; /* from here not zeroed */
    char             path[FSB_PATH_MAX + 1], path2[FSB_PATH_MAX + 1];
    fsb_op           unsure; /* what waits for that */
};

/* Part of a folder's listing: names fetched and not yet asked for. It is a request's, or kept in
   mount->dirs until the kernel asks for more. */
struct fsb_mount_dir_ {
    fsb_mount_dir_  *next;
    fsb_mount_node_ *node; /* pinned */
    char            *batch; /* entries, each an fsb_mount_entry_ and its name */
    size_t           size, room;
    size_t           want; /* bytes to fetch at once */
    size_t           at;   /* where the entry behind `cookie` begins */
    uint64_t         first, last, cookie; /* the batch follows `first`; `last` is its end */
    uint64_t         folder; /* id of the last one among the names so far */
    int              end, plus, bad;
    uint64_t         started; /* mount->changes when it was fetched */
    int64_t          fetched; /* monotonic ns; 0: no batch */
};
typedef struct fsb_mount_entry_ {
    fsb_stat stat;
    uint64_t cookie;
    uint32_t size, name_size; /* size: of it all, a multiple of 8 */
} fsb_mount_entry_;

/* A RENAME of this mount's, or of a folder by others, while what was done to its names before may
   still be told. */
typedef struct fsb_mount_move_ {
    int64_t until; /* monotonic ns */
    char   *from, *to; /* one block of `size` bytes */
    size_t  size;
    int     swaps;
} fsb_mount_move_;
enum { FSB_MOUNT_MOVES_ = 128 };
#define FSB_MOUNT_MOVE_NS_ INT64_C(2000000000)

struct fsb_mount {
    fsb_backend    *backend;
    fsb_runner      runner;
    fsb_allocator   allocator;
    fsb_logger      log;
    uint32_t        threads, timeout_ms;
    int64_t         attr_ns, entry_ns; /* 0: not at all */
    uint64_t        behind_max;        /* 0: no delayed writes */
    int             inlined; /* calls end before the handler does */
    fsb_handle      lease;   /* what the backend answers is good until it says otherwise; 0: no */
    int             given_attr, given_entry; /* timeouts that were asked for */
    int             dirs_unopened;  /* folders are listed without being opened; see [list] */
    int             files_unopened; /* files are read so, too; see [open] */
    int             remote_locks, nonempty, read_only;
    int             contain, refused; /* symbolic links; refused, by atomics: one was */
    char           *mountpoint; /* absolute */

    struct fuse_session *session;
    int             fd, epoll, wake, quit; /* wake: for serve(); quit: for its threads */
    int             greeted, tuned;        /* atomic: INIT was answered; read-ahead was raised */
    int             stopping, ended;       /* atomic */
    int             looking;               /* atomic: a thread polls for the next request */
    int             served, unmounted;

    pthread_mutex_t lock; /* leaf: nothing is called with it but the allocator */
    pthread_cond_t  quiet; /* live became 0 */
    fsb_mount_table_ nodes, names;
    fsb_handles     *ids; /* of nodes: a late FORGET never meets another file */
    fsb_mount_node_ *root, *dead;
    fsb_mount_dir_  *dirs; /* at most FSB_MOUNT_DIRS_, the latest first */
    uint64_t         kept[FSB_MOUNT_KEPT_]; /* ids of nodes, in the order they were opened in */
    uint32_t         kept_next;
    uint64_t        changes; /* counts what this mount changes */
    uint64_t        moved;   /* changes when others last moved a folder, or perhaps did */
    uint32_t        doubts;  /* names that are doubted */
    fsb_mount_file_ *closing;
    uint32_t        live; /* requests and CLOSEs not ended */
    fsb_mount_req_ *spare_reqs;
    uint32_t        spare_req_count;
    fsb_mount_buf_ *spare_bufs;
    size_t          head_bytes;

    fsb_op         *together[FSB_MOUNT_TOGETHER_]; /* to be sent when no request is left to read */
    uint32_t        together_count;
    uint32_t        path_ops; /* in the gate */
    int             moving, gate_pumping;
    fsb_mount_queue_ gate;

    int64_t         careful_until; /* monotonic ns: one failed, none is delayed; 0: none did */
    uint64_t        behind; /* bytes of delayed writes on their way */
    uint32_t        behind_count;
    fsb_mount_node_ *room_head, *room_tail;
    fsb_mount_node_ *inval_head, *inval_tail;
    fsb_mount_note_ *notes, **notes_tail;
    fsb_mount_note_ *noting; /* the kernel is being told of this one */
    int              all_stale; /* the kernel is to forget every name */
    fsb_mount_move_  moves[FSB_MOUNT_MOVES_]; /* the last ones, in a ring */
    uint32_t         move_count; /* ever */
    fsb_mount_table_ bytes;    /* of small files, fetched and not handed out yet */
    fsb_mount_bytes_ *oldest, *newest; /* of these */
    fsb_mount_bytes_ *unoffered; /* the kernel was not offered this one, and those behind it */
    size_t          held;      /* bytes they take */
    uint32_t        fetches;   /* on their way */
    int64_t         streak;    /* monotonic ns: until then folders are being read file by file */
    uint32_t        brought, opened; /* files fetched so, and those of them opened */
    int             far;            /* a cache before a distant host does that: see root_ */
    fsb_mount_queue_ granted; /* locks to answer when the kernel has forgotten old pages */
    fsb_statfs      statfs;
    int64_t         statfs_until;
    char            error[256];
};

/* ---- [log] ----------------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void
fsb_mount_log_(fsb_mount *m, fsb_log_level level, const char *item, const char *format, ...)
{
    char    text[sizeof m->error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (level == FSB_LOG_ERROR) {
        pthread_mutex_lock(&m->lock);
        memcpy(m->error, text, sizeof text);
        pthread_mutex_unlock(&m->lock);
    }
    if (m->log.fn) m->log.fn(m->log.user, level, item, text);
}

static void *fsb_mount_alloc_(fsb_mount *m, size_t size)
{
    return m->allocator.fn(m->allocator.user, NULL, 0, size);
}

static void fsb_mount_free_(fsb_mount *m, void *ptr, size_t size)
{
    if (ptr) m->allocator.fn(m->allocator.user, ptr, size, 0);
}

static void *fsb_mount_zeroed_(fsb_mount *m, size_t size)
{
    void *p = fsb_mount_alloc_(m, size);
    if (p) memset(p, 0, size);
    return p;
}

static int64_t fsb_mount_now_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fsb_mount_signal_(int fd)
{
    const uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0) return; /* the counter is full: it is signalled */
}

/* ---- [table] --------------------------------------------------------------------------------- */

static int fsb_mount_table_grow_(fsb_mount *m, fsb_mount_table_ *t, size_t size)
{
    fsb_mount_link_ **bucket = (fsb_mount_link_ **)fsb_mount_zeroed_(m, size * sizeof *bucket);
    if (!bucket) return -ENOMEM;
    for (size_t i = 0; i < t->size; ++i) {
        while (t->bucket[i]) {
            fsb_mount_link_ *l = t->bucket[i];
            t->bucket[i] = l->next;
            l->next = bucket[l->hash & (size - 1)];
            bucket[l->hash & (size - 1)] = l;
        }
    }
    fsb_mount_free_(m, t->bucket, t->size * sizeof *bucket);
    t->bucket = bucket, t->size = size;
    return 0;
}

static void fsb_mount_table_add_(fsb_mount *m, fsb_mount_table_ *t, fsb_mount_link_ *l)
{
    if (t->count >= t->size) fsb_mount_table_grow_(m, t, t->size * 2); /* if not: long chains */
    l->next = t->bucket[l->hash & (t->size - 1)];
    t->bucket[l->hash & (t->size - 1)] = l;
    ++t->count;
}

static void fsb_mount_table_remove_(fsb_mount_table_ *t, fsb_mount_link_ *l)
{
    fsb_mount_link_ **at = &t->bucket[l->hash & (t->size - 1)];
    while (*at != l) at = &(*at)->next;
    *at = l->next;
    --t->count;
}

static fsb_mount_link_ *fsb_mount_table_first_(const fsb_mount_table_ *t, uint64_t hash)
{
    return t->bucket[hash & (t->size - 1)];
}

static uint64_t fsb_mount_mix_(uint64_t x)
{
    x ^= x >> 32, x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

/* ---- [nodes] --------------------------------------------------------------------------------- */

static fsb_mount_node_ *fsb_mount_node_find_(const fsb_mount *m, uint64_t file_id)
{
    const uint64_t hash = fsb_mount_mix_(file_id);
    for (fsb_mount_link_ *l = fsb_mount_table_first_(&m->nodes, hash); l; l = l->next)
        if (((fsb_mount_node_ *)(void *)l)->file_id == file_id) return (fsb_mount_node_ *)(void *)l;
    return NULL;
}

/* Lock held. The node that the kernel knows by this id; NULL: there is none, or no more. */
static fsb_mount_node_ *fsb_mount_node_at_(const fsb_mount *m, uint64_t id)
{
    void *node = NULL;
    if (id == FUSE_ROOT_ID) return m->root;
    return fsb_handles_get(m->ids, id, 0, &node) ? NULL : (fsb_mount_node_ *)node;
}

static fsb_mount_node_ *fsb_mount_node_new_(fsb_mount *m, const fsb_stat *stat)
{
    fsb_mount_node_ *n = (fsb_mount_node_ *)fsb_mount_zeroed_(m, sizeof *n);
    if (!n) return NULL;
    if (fsb_handles_add(m->ids, n, 0, 0, &n->id)) {
        fsb_mount_free_(m, n, sizeof *n);
        return NULL;
    }
    n->file_id = stat->file_id, n->attr = *stat, n->least = UINT32_MAX;
    n->link.hash = fsb_mount_mix_(n->file_id);
    fsb_mount_table_add_(m, &m->nodes, &n->link);
    return n;
}

static void fsb_mount_name_remove_(fsb_mount *m, fsb_mount_name_ *name);

/* Lock held. Frees the node if nobody has use for it, and the folders that only it kept. */
static void fsb_mount_node_check_(fsb_mount *m, fsb_mount_node_ *n)
{
    if (n->lookups || n->pins || n->dead || n == m->root) return;
    const int nested = m->dead != NULL;
    n->dead = 1, n->next_dead = m->dead, m->dead = n;
    if (nested) return; /* the loop below, further up the stack, gets to it */
    while (m->dead) {
        fsb_mount_node_ *d = m->dead;
        if (d->names) {
            fsb_mount_name_remove_(m, d->names); /* may put its folder in front of d */
            continue;
        }
        m->dead = d->next_dead;
        fsb_mount_table_remove_(&m->nodes, &d->link);
        fsb_handles_remove(m->ids, d->id, 0);
        fsb_mount_free_(m, d, sizeof *d);
    }
}

static void fsb_mount_unpin_(fsb_mount *m, fsb_mount_node_ *n)
{
    if (!n) return;
    --n->pins;
    fsb_mount_node_check_(m, n);
}

/* Lock held. Marks the node as changed by this mount, just now. */
static void fsb_mount_changed_(fsb_mount *m, fsb_mount_node_ *n)
{
    n->change = ++m->changes, n->attr_until = 0;
}

/* Lock held. The node is of another file than its file_id says: it is found by that no more. */
static void fsb_mount_node_disown_(fsb_mount *m, fsb_mount_node_ *n)
{
    fsb_mount_table_remove_(&m->nodes, &n->link);
    n->file_id = 0, n->link.hash = 0;
    fsb_mount_table_add_(m, &m->nodes, &n->link);
    while (n->names) fsb_mount_name_remove_(m, n->names);
}

/* ---- [names] --------------------------------------------------------------------------------- */

static uint64_t fsb_mount_name_hash_(const fsb_mount *m, const fsb_mount_node_ *parent,
                                     const char *text, size_t size)
{
    uint64_t h = fsb_mount_mix_((uint64_t)(uintptr_t)m ^ parent->id);
    for (size_t i = 0; i < size; ++i) h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return fsb_mount_mix_(h);
}

static fsb_mount_name_ *fsb_mount_name_find_(const fsb_mount *m, const fsb_mount_node_ *parent,
                                             const char *text, size_t size)
{
    const uint64_t hash = fsb_mount_name_hash_(m, parent, text, size);
    for (fsb_mount_link_ *l = fsb_mount_table_first_(&m->names, hash); l; l = l->next) {
        fsb_mount_name_ *name = (fsb_mount_name_ *)(void *)l;
        if (l->hash == hash && name->parent == parent && name->size == size &&
            memcmp(name->text, text, size) == 0)
            return name;
    }
    return NULL;
}

/* Lock held. How many folders are above what is in `parent`, or were, as far as the kernel may
   still believe: what the host says has moved stays where it was for the kernel until it is told.
   */
static uint32_t fsb_mount_depth_(const fsb_mount *m, const fsb_mount_node_ *parent)
{
    uint32_t up = 0, least = UINT32_MAX;
    for (const fsb_mount_node_ *n = parent; n != m->root && n->names; n = n->names->parent, ++up)
        if (n->least < UINT32_MAX - up && n->least + up < least) least = n->least + up;
    return up < least ? up : least;
}

static void fsb_mount_least_(const fsb_mount *m, fsb_mount_node_ *node,
                             const fsb_mount_node_ *parent)
{
    const uint32_t depth = m->contain ? fsb_mount_depth_(m, parent) + 1 : 0;
    if (m->contain && depth < node->least) node->least = depth;
}

/* Lock held. With contain_symlinks: would the folder come nearer to the root than it ever was? */
static int fsb_mount_rises_(const fsb_mount *m, const fsb_mount_node_ *node,
                            const fsb_mount_node_ *parent)
{
    return m->contain && S_ISDIR(node->attr.mode) && node->least != UINT32_MAX &&
           fsb_mount_depth_(m, parent) + 1 < node->least;
}

static void fsb_mount_name_remove_(fsb_mount *m, fsb_mount_name_ *name)
{
    fsb_mount_name_ **at = &name->node->names;
    fsb_mount_least_(m, name->node, name->parent);
    while (*at != name) at = &(*at)->next;
    *at = name->next;
    if (name->doubted) --m->doubts;
    fsb_mount_table_remove_(&m->names, &name->link);
    fsb_mount_node_ *parent = name->parent;
    fsb_mount_free_(m, name, offsetof(fsb_mount_name_, text) + name->size + 1);
    fsb_mount_unpin_(m, parent);
}

/* Lock held. Is `node` on the way from `from` up to the root? */
static int fsb_mount_above_(const fsb_mount *m, const fsb_mount_node_ *node,
                            const fsb_mount_node_ *from)
{
    while (from != node && from != m->root && from->names) from = from->names->parent;
    return from == node;
}

/* Lock held. Others changed the name, or it was seen to lead where it should: 0. */
static void fsb_mount_name_doubt_(fsb_mount *m, fsb_mount_name_ *name, int doubted)
{
    if (name->doubted) --m->doubts;
    if (doubted) ++m->doubts;
    name->doubted = doubted;
}

/* Lock held. The doubted name nearest to the root among those that lead to the node, or NULL. */
static fsb_mount_name_ *fsb_mount_doubted_(const fsb_mount *m, const fsb_mount_node_ *node)
{
    fsb_mount_name_ *found = NULL;
    for (const fsb_mount_node_ *n = m->doubts ? node : m->root; n != m->root && n->names;
         n = n->names->parent)
        if (n->names->doubted) found = n->names;
    return found;
}

/* Lock held. Says that `text` in `parent` is `node`, and nothing else. */
static int fsb_mount_name_set_(fsb_mount *m, fsb_mount_node_ *parent, const char *text,
                               fsb_mount_node_ *node)
{
    const size_t     size = strlen(text);
    fsb_mount_name_ *old = fsb_mount_name_find_(m, parent, text, size);
    if (old && old->node == node) return 0;
    const int folder = S_ISDIR(node->attr.mode);
    if (node == m->root || (folder && fsb_mount_above_(m, node, parent))) return -ELOOP;
    fsb_mount_name_ *name =
        (fsb_mount_name_ *)fsb_mount_alloc_(m, offsetof(fsb_mount_name_, text) + size + 1);
    if (!name) return -ENOMEM;
    if (old) fsb_mount_name_remove_(m, old); /* parent is pinned: by the request */
    while (folder && node->names) fsb_mount_name_remove_(m, node->names); /* it has moved */
    name->node = node, name->parent = parent, name->size = (uint32_t)size, name->doubted = 0;
    memcpy(name->text, text, size + 1);
    name->next = node->names, node->names = name;
    fsb_mount_least_(m, node, parent);
    name->link.hash = fsb_mount_name_hash_(m, parent, text, size);
    fsb_mount_table_add_(m, &m->names, &name->link);
    ++parent->pins;
    return 0;
}

static void fsb_mount_name_drop_(fsb_mount *m, fsb_mount_node_ *parent, const char *text)
{
    fsb_mount_name_ *name = fsb_mount_name_find_(m, parent, text, strlen(text));
    if (name) fsb_mount_name_remove_(m, name);
}

/* Lock held. Writes the path of the node, or of `name` in it. */
static int fsb_mount_path_(const fsb_mount *m, const fsb_mount_node_ *node, const char *name,
                           char *path)
{
    const size_t tail = name ? strlen(name) : 0;
    size_t       size = name ? tail + 1 : 0;
    for (const fsb_mount_node_ *n = node; n != m->root; n = n->names->parent) {
        if (!n->names) return n->gone ? -ENOENT : -ESTALE;
        size += n->names->size + 1;
        if (size > FSB_PATH_MAX) return -ENAMETOOLONG;
    }
    if (size > FSB_PATH_MAX) return -ENAMETOOLONG;
    if (!size) path[size++] = '/';
    path[size] = '\0';
    if (name) size -= tail + 1, path[size] = '/', memcpy(path + size + 1, name, tail);
    for (const fsb_mount_node_ *n = node; n != m->root; n = n->names->parent) {
        size -= n->names->size + 1;
        path[size] = '/', memcpy(path + size + 1, n->names->text, n->names->size);
    }
    return 0;
}

/* ---- [requests] ------------------------------------------------------------------------------ */

static void fsb_mount_task_start_(fsb_mount *m, fsb_op *op);

/* Takes the lock's deferred work along: CLOSE must not be called with it. */
static void fsb_mount_unlock_(fsb_mount *m)
{
    fsb_mount_file_ *f = m->closing;
    m->closing = NULL;
    pthread_mutex_unlock(&m->lock);
    while (f) {
        fsb_mount_file_ *next = f->next;
        fsb_slice_release(&f->head);
        fsb_mount_task_start_(m, &f->task.op);
        f = next;
    }
}

static void fsb_mount_live_end_(fsb_mount *m)
{
    if (!--m->live) pthread_cond_signal(&m->quiet);
}

static void fsb_mount_push_(fsb_mount_queue_ *q, fsb_mount_req_ *r)
{
    r->next = NULL, r->fresh = 0;
    if (q->tail) q->tail->next = r;
    else q->head = r;
    q->tail = r;
}

static fsb_mount_req_ *fsb_mount_pop_(fsb_mount_queue_ *q)
{
    fsb_mount_req_ *r = q->head;
    q->head = r->next;
    if (!q->head) q->tail = NULL;
    return r;
}

/* A request object with its operation all zero; NULL: no memory. */
static fsb_mount_req_ *fsb_mount_req_new_(fsb_mount *m, fuse_req_t fuse, uint32_t code)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_req_ *r = m->spare_reqs;
    if (r) m->spare_reqs = r->next, --m->spare_req_count;
    else r = (fsb_mount_req_ *)fsb_mount_alloc_(m, sizeof *r);
    if (r) ++m->live;
    pthread_mutex_unlock(&m->lock);
    if (!r) return NULL;
    memset(r, 0, offsetof(fsb_mount_req_, name));
    r->fuse = fuse, r->task.mount = m, r->fresh = 1;
    r->task.op.code = code, r->task.op.timeout_ms = m->timeout_ms;
    return r;
}

static void fsb_mount_file_unpin_(fsb_mount *m, fsb_mount_file_ *f);
static void fsb_mount_buf_unpin_(fsb_mount *m, fsb_mount_buf_ *b);

/* Gives everything back that the request holds; it must have been answered. */
static void fsb_mount_end_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_slice_release(&r->task.op.slice);
    fsb_mount_free_(m, r->extra, r->extra_size);
    pthread_mutex_lock(&m->lock);
    if (r->buf) fsb_mount_buf_unpin_(m, r->buf);
    if (r->file) fsb_mount_file_unpin_(m, r->file);
    if (r->file2) fsb_mount_file_unpin_(m, r->file2);
    fsb_mount_unpin_(m, r->node);
    fsb_mount_unpin_(m, r->node2);
    if (m->spare_req_count < FSB_MOUNT_SPARE_REQS_) {
        r->next = m->spare_reqs, m->spare_reqs = r, ++m->spare_req_count;
    } else {
        fsb_mount_free_(m, r, sizeof *r);
    }
    fsb_mount_live_end_(m);
    fsb_mount_unlock_(m);
}

/* What the kernel may be told; a backend's own numbers mean nothing to it. */
static int fsb_mount_errno_(int64_t result) { return result < -999 ? EIO : (int)-result; }

static void fsb_mount_fail_(fsb_mount_req_ *r, int64_t error)
{
    if (r->fuse) fuse_reply_err(r->fuse, fsb_mount_errno_(error));
    fsb_mount_end_(r);
}

/* The answer to what answers nothing but an error: then(). */
static void fsb_mount_reply_err_(fsb_mount_req_ *r)
{
    const int64_t result = r->task.op.result;
    fsb_mount_fail_(r, result < 0 ? result : 0);
}

static fsb_mount *fsb_mount_of_(fuse_req_t q) { return (fsb_mount *)fuse_req_userdata(q); }

/* Begins the request about node `ino` (and `name` in it), or refuses it: NULL. */
static fsb_mount_req_ *fsb_mount_begin_(fuse_req_t q, uint32_t code, fuse_ino_t ino,
                                        const char *name)
{
    fsb_mount      *m = fsb_mount_of_(q);
    const size_t    size = name ? strlen(name) : 0;
    fsb_mount_req_ *r = size > FSB_NAME_MAX ? NULL : fsb_mount_req_new_(m, q, code);
    if (!r) {
        fuse_reply_err(q, size > FSB_NAME_MAX ? ENAMETOOLONG : ENOMEM);
        return NULL;
    }
    if (name) memcpy(r->name, name, size + 1), r->how = FSB_MOUNT_CHILD_;
    pthread_mutex_lock(&m->lock);
    r->node = fsb_mount_node_at_(m, ino);
    if (r->node) ++r->node->pins;
    pthread_mutex_unlock(&m->lock);
    if (r->node) return r;
    fsb_mount_fail_(r, -ESTALE);
    return NULL;
}

/* The same for a second node and name; 0: it was refused. */
static int fsb_mount_begin2_(fsb_mount_req_ *r, fuse_ino_t ino, const char *name)
{
    fsb_mount   *m = r->task.mount;
    const size_t size = name ? strlen(name) : 0;
    if (size > FSB_NAME_MAX) {
        fsb_mount_fail_(r, -ENAMETOOLONG);
        return 0;
    }
    if (name) memcpy(r->name2, name, size + 1), r->how |= FSB_MOUNT_TO_;
    pthread_mutex_lock(&m->lock);
    r->node2 = fsb_mount_node_at_(m, ino);
    if (r->node2) ++r->node2->pins;
    pthread_mutex_unlock(&m->lock);
    if (!r->node2) fsb_mount_fail_(r, -ESTALE);
    return r->node2 != NULL;
}

/* Room that ends with the request; NULL: the request was refused. */
static void *fsb_mount_extra_(fsb_mount_req_ *r, size_t size)
{
    r->extra = fsb_mount_alloc_(r->task.mount, size ? size : 1);
    r->extra_size = size ? size : 1;
    if (!r->extra) fsb_mount_fail_(r, -ENOMEM);
    return r->extra;
}

/* ---- [handles] ------------------------------------------------------------------------------- */

/* Lock held. Takes the first bytes away; the caller gives them back without the lock. */
static fsb_slice fsb_mount_head_take_(fsb_mount *m, fsb_mount_file_ *f)
{
    fsb_slice head;
    memset(&head, 0, sizeof head);
    if (!f || !f->head.data) return head;
    head = f->head;
    memset(&f->head, 0, sizeof f->head);
    m->head_bytes -= head.size;
    return head;
}

/* This mount is about to change the node: what is known of it is not to be relied on. Returns the
   mode that it was known with. */
static uint32_t fsb_mount_changing_(fsb_mount_req_ *r, fsb_mount_node_ *n)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, n);
    fsb_slice      head = fsb_mount_head_take_(m, n->reader);
    const uint32_t mode = n->attr.mode;
    pthread_mutex_unlock(&m->lock);
    fsb_slice_release(&head);
    return mode;
}

static void fsb_mount_closed_(fsb_op *op)
{
    fsb_mount_file_ *f = (fsb_mount_file_ *)(void *)op;
    fsb_mount       *m = f->task.mount;
    if (op->result < 0 && op->result != -ENOTCONN)
        fsb_mount_log_(m, FSB_LOG_WARN, "mount/close", "closing a file: %s",
                       strerror(fsb_mount_errno_(op->result)));
    pthread_mutex_lock(&m->lock);
    fsb_mount_unpin_(m, f->node);
    fsb_mount_free_(m, f, sizeof *f);
    fsb_mount_live_end_(m);
    fsb_mount_unlock_(m);
}

/* Lock held; the last pin has it closed when the lock is released. */
static void fsb_mount_file_unpin_(fsb_mount *m, fsb_mount_file_ *f)
{
    if (--f->pins) return;
    if (f->head.data) m->head_bytes -= f->head.size; /* given back without the lock, too */
    memset(&f->task.op, 0, sizeof f->task.op);
    f->task.op.code = FSB_OP_CLOSE, f->task.op.handle = f->handle;
    f->task.op.timeout_ms = m->timeout_ms, f->task.op.done = fsb_mount_closed_;
    f->next = m->closing, m->closing = f;
    ++m->live;
}

/* Lock held. The node's open file that has the rights, if there is one. */
static fsb_mount_file_ *fsb_mount_file_for_(const fsb_mount_node_ *n, uint32_t rights)
{
    if (n->reader && (n->reader->rights & rights) == rights) return n->reader;
    if (n->writer && (n->writer->rights & rights) == rights) return n->writer;
    return NULL;
}

/* Lock held. Makes an open file the node's, unless the one there can do as much. */
static void fsb_mount_file_keep_(fsb_mount *m, fsb_mount_node_ *n, fsb_mount_file_ *f)
{
    fsb_mount_file_ **slot = f->rights & FSB_O_WRITE ? &n->writer : &n->reader, *old = *slot;
    if (old && (old->rights & f->rights) == f->rights) return;
    *slot = f, ++f->pins;
    if (old) fsb_mount_file_unpin_(m, old);
}

/* Lock held. Takes an opened handle for the request and, if it is needed, for the node. */
static int fsb_mount_file_add_(fsb_mount *m, fsb_mount_req_ *r, fsb_mount_node_ *n,
                               fsb_handle handle, uint32_t rights)
{
    fsb_mount_file_ *f = (fsb_mount_file_ *)fsb_mount_zeroed_(m, sizeof *f);
    if (!f) return -ENOMEM;
    f->task.mount = m, f->node = n, f->handle = handle, f->rights = rights, f->pins = 1;
    ++n->pins;
    r->file = f;
    fsb_mount_file_keep_(m, n, f);
    return 0;
}

/* Lock held. An application closed the file; the backend's files that nobody needs go too. */
static void fsb_mount_file_leave_(fsb_mount *m, fsb_mount_node_ *n, int writer)
{
    if (writer && n->writers) --n->writers;
    if (!writer && n->readers) --n->readers;
    fsb_mount_file_ *reader = n->reader, *w = n->writer;
    if (reader && !n->readers) {
        n->reader = NULL;
        fsb_mount_file_unpin_(m, reader);
    }
    if (w && !n->writers && (!n->readers || n->reader)) {
        n->writer = NULL;
        fsb_mount_file_unpin_(m, w);
    }
}

/* Points the operation at the node: an open file of it if there is one, else its path. */
static void fsb_mount_by_node_(fsb_mount_req_ *r, uint32_t rights)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    r->file = fsb_mount_file_for_(r->node, rights);
    if (r->file) ++r->file->pins;
    else r->how |= FSB_MOUNT_AT_;
    pthread_mutex_unlock(&m->lock);
}

/* Points it at an open file; 0: there is none, the request was refused. Under a lease an
   application can have opened a file to read it that is not yet open on the backend. */
static int fsb_mount_by_handle_(fsb_mount_req_ *r, uint32_t rights)
{
    fsb_mount_by_node_(r, rights);
    if (r->file) return 1;
    r->how &= ~(uint32_t)FSB_MOUNT_AT_;
    r->lazy = r->task.mount->lease && !(rights & FSB_O_WRITE);
    if (!r->lazy) fsb_mount_fail_(r, -EBADF);
    return r->lazy;
}

/* ---- [gate] ---------------------------------------------------------------------------------- */
/* The path of what an operation acts on must not change while it is on its way to the host: the
   move of a folder waits until no other operation with a path is, and they wait for it. What moves
   files only is not worth that: see fsb_mount_again_. */

static int fsb_mount_gate_open_(const fsb_mount *m, const fsb_mount_req_ *r)
{
    return !m->moving && !(r->how & FSB_MOUNT_MOVE_ && m->path_ops);
}

static void fsb_mount_gate_take_(fsb_mount *m, fsb_mount_req_ *r)
{
    r->in_gate = 1;
    if (r->how & FSB_MOUNT_MOVE_) m->moving = 1;
    else ++m->path_ops;
}

static void fsb_mount_admitted_(fsb_mount_req_ *r);

/* Lock held, but not while a request runs. */
static void fsb_mount_gate_leave_(fsb_mount *m, fsb_mount_req_ *r)
{
    if (!r->in_gate) return;
    r->in_gate = 0;
    if (r->how & FSB_MOUNT_MOVE_) m->moving = 0;
    else --m->path_ops;
    if (m->gate_pumping) return; /* whoever does sees to it, so the stack cannot pile up */
    m->gate_pumping = 1;
    while (m->gate.head && fsb_mount_gate_open_(m, m->gate.head)) {
        fsb_mount_req_ *next = fsb_mount_pop_(&m->gate);
        fsb_mount_gate_take_(m, next);
        fsb_mount_unlock_(m);
        fsb_mount_admitted_(next);
        pthread_mutex_lock(&m->lock);
    }
    m->gate_pumping = 0;
}

/* ---- [start] --------------------------------------------------------------------------------- */

static void fsb_mount_job_(void *arg)
{
    fsb_mount_task_ *task = (fsb_mount_task_ *)arg;
    fsb_backend     *b = task->mount->backend;
    int64_t (*call)(fsb_backend *, fsb_op *) = b->call[task->op.code];
    if (call) call(b, &task->op);
    else task->op.result = -ENOSYS;
    task->op.done(&task->op);
}

static void fsb_mount_task_start_(fsb_mount *m, fsb_op *op)
{
    if (m->backend->submit) m->backend->submit(m->backend, &op, 1);
    else if (!m->runner.run || m->runner.run(m->runner.user, fsb_mount_job_, op) < 0)
        fsb_mount_job_(op);
}

/* The operation failed because a name of its node leads elsewhere by now. Is there another path
   to it? Names that are wrong are forgotten, so that in the end the kernel looks them up again. */
static int fsb_mount_again_(fsb_mount_req_ *r)
{
    fsb_mount    *m = r->task.mount;
    const int64_t result = r->task.op.result;
    if (!(r->how & FSB_MOUNT_AT_) || r->node == m->root || ++r->tries >= FSB_MOUNT_TRIES_) return 0;
    if (result != -ESTALE && (result != -ENOENT || r->how & FSB_MOUNT_TO_)) return 0;
    char *now = r->path2; /* not in use: TO was excluded, or is written again */
    pthread_mutex_lock(&m->lock);
    int err = fsb_mount_path_(m, r->node, NULL, now);
    if (!err && strcmp(now, r->path) == 0 && !fsb_mount_doubted_(m, r->node))
        fsb_mount_name_remove_(m, r->node->names);
    err = fsb_mount_path_(m, r->node, NULL, now);
    fsb_mount_unlock_(m);
    if (err) r->task.op.result = -ESTALE;
    return !err;
}

static void fsb_mount_run_(fsb_mount_req_ *r);
static void fsb_mount_done_(fsb_op *op);

static int fsb_mount_nowhere_(int64_t result)
{
    return result == -ENOENT || result == -ENOTDIR || result == -ESTALE;
}

/* Others moved a folder while a name was looked up, or not found, in it or below: once more, with
   the path of now. */
static int fsb_mount_moved_meanwhile_(fsb_mount_req_ *r)
{
    fsb_mount    *m = r->task.mount;
    const int64_t result = r->task.op.result;
    if (!(r->how & FSB_MOUNT_CHILD_)) return 0;
    if (!fsb_mount_nowhere_(result) && r->task.op.code != FSB_OP_STAT) return 0;
    pthread_mutex_lock(&m->lock);
    const int moved = r->started < m->moved;
    pthread_mutex_unlock(&m->lock);
    return moved && ++r->tries < FSB_MOUNT_TRIES_;
}

/* A name in a folder is found by a path alone. Where others changed the name of a folder on it,
   that one is asked for first, by its file_id, so that nothing is found, made or removed in what
   may have taken its place. What acts on a file by its own id is sent at once, and asks if it
   fails. */

/* Lock held; the operation is ready. The one that asks takes its place, if that is needed. */
static void fsb_mount_make_sure_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_op                *op = &r->task.op;
    const fsb_mount_name_ *doubted = NULL;
    if (r->how & FSB_MOUNT_CHILD_ || (r->how & FSB_MOUNT_AT_ && r->tries))
        doubted = fsb_mount_doubted_(m, r->node);
    if (r->how & FSB_MOUNT_TO_ && !doubted) doubted = fsb_mount_doubted_(m, r->node2);
    if (!doubted || fsb_mount_path_(m, doubted->node, NULL, r->path)) return;
    r->unsure = *op, r->sure = doubted->node, ++r->sure->pins;
    memset(op, 0, sizeof *op);
    op->code = FSB_OP_STAT, op->path = r->path, op->file_id = r->sure->file_id;
    op->timeout_ms = m->timeout_ms, op->done = fsb_mount_done_;
}

/* The folder was asked for: its name is good, or none any more. On with the operation. */
static void fsb_mount_made_sure_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = r->sure;
    const int64_t    result = r->task.op.result;
    const int found = result >= 0 && r->task.op.stat.file_id == n->file_id;
    const int gone = (result >= 0 && !found) || fsb_mount_nowhere_(result);
    r->task.op = r->unsure, r->sure = NULL;
    pthread_mutex_lock(&m->lock);
    fsb_mount_name_ *name = r->started < m->moved ? NULL : fsb_mount_doubted_(m, n);
    if (name && found) fsb_mount_name_doubt_(m, name, 0);
    else if (name && gone) n->gone = name->doubted == FSB_MOUNT_NOWHERE_ && result == -ENOENT;
    if (name && gone) fsb_mount_name_remove_(m, name);
    fsb_mount_unpin_(m, n);
    fsb_mount_unlock_(m);
    if (found || gone) fsb_mount_run_(r);
    else r->task.op.result = result, fsb_mount_done_(&r->task.op);
}

static void fsb_mount_done_(fsb_op *op)
{
    fsb_mount_req_ *r = (fsb_mount_req_ *)(void *)op;
    fsb_mount      *m = r->task.mount;
    if (r->sure) {
        fsb_mount_made_sure_(r);
        return;
    }
    if (fsb_mount_moved_meanwhile_(r) || (op->result < 0 && fsb_mount_again_(r))) {
        fsb_mount_run_(r);
        return;
    }
    if (r->in_gate) {
        pthread_mutex_lock(&m->lock);
        if (r->apply && op->result >= 0) r->apply(m, r);
        fsb_mount_gate_leave_(m, r);
        fsb_mount_unlock_(m);
    }
    r->then(r);
}

/* Lock held. The last moment before the operation is sent: where it acts is written down. */
static int fsb_mount_aim_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_op *op = &r->task.op;
    r->started = m->changes;
    if (r->file) op->handle = r->file->handle;
    if (r->file2) op->handle2 = r->file2->handle;
    int err = 0;
    if (r->how & (FSB_MOUNT_AT_ | FSB_MOUNT_CHILD_)) {
        err = fsb_mount_path_(m, r->node, r->how & FSB_MOUNT_CHILD_ ? r->name : NULL, r->path);
        op->path = r->path;
    }
    if (r->how & FSB_MOUNT_AT_) op->file_id = r->node->file_id;
    if (!err && r->how & FSB_MOUNT_TO_) {
        err = fsb_mount_path_(m, r->node2, r->name2, r->path2);
        op->path2 = r->path2;
    }
    return err;
}

/* Requests that are there at the same time go to the backend in one submit(), so that a remote one
   gets them in one message: what a handler sends is put by until its thread finds no more requests
   to read, or there is no room to put by another. */

/* Lock held. Empties it into ops and returns their number. */
static uint32_t fsb_mount_together_take_(fsb_mount *m, fsb_op **ops)
{
    const uint32_t n = m->together_count;
    memcpy(ops, m->together, n * sizeof *ops);
    m->together_count = 0;
    return n;
}

static void fsb_mount_send_together_(fsb_mount *m)
{
    fsb_op *ops[FSB_MOUNT_TOGETHER_];
    pthread_mutex_lock(&m->lock);
    const uint32_t n = fsb_mount_together_take_(m, ops);
    pthread_mutex_unlock(&m->lock);
    if (n) m->backend->submit(m->backend, ops, n);
}

static void fsb_mount_run_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op, *ops[FSB_MOUNT_TOGETHER_];
    uint32_t   n = 0;
    op->done = fsb_mount_done_;
    pthread_mutex_lock(&m->lock);
    op->result = fsb_mount_aim_(m, r);
    if (!op->result) fsb_mount_make_sure_(m, r);
    const int send = !op->result && op->code;
    const int wait = send && r->fresh && m->backend->submit && op->size < FSB_MOUNT_HANDOVER_;
    r->fresh = 0;
    if (wait) m->together[m->together_count++] = op;
    if (wait && m->together_count == FSB_MOUNT_TOGETHER_) n = fsb_mount_together_take_(m, ops);
    pthread_mutex_unlock(&m->lock);
    if (n) m->backend->submit(m->backend, ops, n);
    else if (!send) fsb_mount_done_(op);
    else if (!wait) fsb_mount_task_start_(m, op);
}

static int fsb_mount_busy_(const fsb_mount_node_ *n) { return n->writes || n->waiting.head; }

/* The delayed writes of node are done; perhaps those of node2 are not. */
static void fsb_mount_drained_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->how & FSB_MOUNT_DRAINED2_) {
        r->how &= ~(uint32_t)FSB_MOUNT_DRAINED2_;
        pthread_mutex_lock(&m->lock);
        const int wait = r->node2 != r->node && fsb_mount_busy_(r->node2);
        if (wait) fsb_mount_push_(&r->node2->waiting, r);
        pthread_mutex_unlock(&m->lock);
        if (wait) return;
    }
    fsb_mount_run_(r);
}

/* It is through the gate. */
static void fsb_mount_admitted_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->how & FSB_MOUNT_DRAINED_) {
        pthread_mutex_lock(&m->lock);
        const int wait = fsb_mount_busy_(r->node);
        if (wait) fsb_mount_push_(&r->node->waiting, r);
        pthread_mutex_unlock(&m->lock);
        if (wait) return;
    }
    fsb_mount_drained_(r);
}

static void fsb_mount_open_first_(fsb_mount_req_ *r, fsb_mount_node_ *node,
                                  void (*then)(fsb_mount_req_ *));

/* Sends the operation when it may be sent, and calls then() when it is done; op.code 0: only waits.
   No thread waits: the request does. */
static void fsb_mount_go_(fsb_mount_req_ *r, void (*then)(fsb_mount_req_ *))
{
    fsb_mount *m = r->task.mount;
    if (r->lazy) {
        r->lazy = 0;
        fsb_mount_open_first_(r, r->node, then);
        return;
    }
    r->then = then;
    if (r->how & FSB_MOUNT_PATHS_) {
        pthread_mutex_lock(&m->lock);
        const int wait = m->gate.head || !fsb_mount_gate_open_(m, r);
        if (wait) fsb_mount_push_(&m->gate, r);
        else fsb_mount_gate_take_(m, r);
        pthread_mutex_unlock(&m->lock);
        if (wait) return;
    }
    fsb_mount_admitted_(r);
}

/* ---- [attr] ---------------------------------------------------------------------------------- */

/* Is it the answer of a sane backend? */
static int fsb_mount_stat_ok_(fsb_mount *m, const fsb_stat *s)
{
    const uint32_t type = s->mode & S_IFMT;
    const int      known = type == S_IFREG || type == S_IFDIR || type == S_IFLNK ||
                      type == S_IFIFO || type == S_IFSOCK || type == S_IFCHR || type == S_IFBLK;
    if (s->file_id && known && s->size <= INT64_MAX) return 1;
    fsb_mount_log_(m, FSB_LOG_ERROR, "mount/stat",
                   "the backend described a file in a way that makes no sense: "
                   "file_id %llu, mode %o, size %llu",
                   (unsigned long long)s->file_id, (unsigned)s->mode, (unsigned long long)s->size);
    return 0;
}

static struct timespec fsb_mount_time_(int64_t ns)
{
    struct timespec t;
    int64_t         s = ns / 1000000000, rest = ns % 1000000000;
    if (rest < 0) rest += 1000000000, --s;
    t.tv_sec = (time_t)s, t.tv_nsec = (long)rest;
    return t;
}

static struct stat fsb_mount_stat_(const fsb_stat *s)
{
    struct stat    st;
    const uint32_t size = s->blksize;
    memset(&st, 0, sizeof st);
    st.st_ino = (ino_t)s->ino, st.st_mode = (mode_t)(s->mode & (S_IFMT | 07777));
    st.st_nlink = (nlink_t)s->nlink, st.st_uid = (uid_t)s->uid, st.st_gid = (gid_t)s->gid;
    st.st_rdev = makedev(s->rdev_major, s->rdev_minor);
    st.st_size = (off_t)s->size, st.st_blocks = (blkcnt_t)s->blocks;
    st.st_blksize = size >= 512 && size <= FSB_IO_MAX && !(size & (size - 1)) ? (int)size : 4096;
    st.st_atim = fsb_mount_time_(s->atime_ns);
    st.st_mtim = fsb_mount_time_(s->mtime_ns);
    st.st_ctim = fsb_mount_time_(s->ctime_ns);
    return st;
}

/* Lock held. Is this mount in the middle of changing the node, or has it since `started`? Then an
   answer on its way since then may be older than what the application has already seen. */
static int fsb_mount_outdated_(const fsb_mount_node_ *n, uint64_t started)
{
    return n->change > started || fsb_mount_busy_(n);
}

/* Lock held. The backend said so; sent at `started`. */
static void fsb_mount_attr_set_(fsb_mount *m, fsb_mount_node_ *n, const fsb_stat *s,
                                uint64_t started)
{
    if (s->file_id != n->file_id || fsb_mount_outdated_(n, started)) return;
    n->attr = *s;
    n->attr_until = m->attr_ns ? fsb_mount_now_() + m->attr_ns : 0;
}

/* Lock held. A change by this mount itself ended in `s`: the kernel's pages, which have the change
   too, stay good for the new version. */
static void fsb_mount_own_version_(fsb_mount_node_ *n, const fsb_stat *s)
{
    if (n->version && s->file_id == n->file_id) n->version = s->version;
}

static double fsb_mount_seconds_(int64_t ns) { return ns > 0 ? (double)ns / 1e9 : 0; }

/* Lock held. Has serve() tell the kernel to forget what it has of the node: telling it may have to
   wait for a request that this very thread would answer. */
static void fsb_mount_inval_(fsb_mount *m, fsb_mount_node_ *n, uint32_t what)
{
    const int queued = n->inval != 0;
    n->inval |= what;
    if (queued) return;
    ++n->pins;
    n->next_inval = NULL;
    if (m->inval_tail) m->inval_tail->next_inval = n;
    else m->inval_head = n;
    m->inval_tail = n;
    fsb_mount_signal_(m->wake);
}

/* Has the kernel forget the attributes, at once: that never waits. */
static void fsb_mount_inval_attr_(fsb_mount *m, uint64_t id)
{
    fuse_lowlevel_notify_inval_inode(m->session, id, -1, 0);
}

static void fsb_mount_got_attr_(fsb_mount_req_ *r)
{
    fsb_mount    *m = r->task.mount;
    const int64_t result = r->task.op.result;
    if (result < 0 || !fsb_mount_stat_ok_(m, &r->task.op.stat)) {
        fsb_mount_fail_(r, result < 0 ? result : -EIO);
        return;
    }
    pthread_mutex_lock(&m->lock);
    const int same = r->task.op.stat.file_id == r->node->file_id;
    fsb_mount_attr_set_(m, r->node, &r->task.op.stat, r->started);
    pthread_mutex_unlock(&m->lock);
    const struct stat st = fsb_mount_stat_(&r->task.op.stat);
    if (!same) {
        fsb_mount_fail_(r, -ESTALE);
        return;
    }
    fuse_reply_attr(r->fuse, &st, fsb_mount_seconds_(m->attr_ns));
    fsb_mount_end_(r);
}

/* Lock held. Answers from memory: 1 if that is known well enough. A removed folder that somebody
   still works in is described as it was, without a name. */
static int fsb_mount_attr_known_(const fsb_mount_node_ *n, fsb_stat *s, int64_t *left)
{
    if (fsb_mount_busy_(n)) return 0;
    *s = n->attr, *left = n->attr_until - fsb_mount_now_();
    if (n->removed && !n->names && !n->reader && !n->writer) {
        s->nlink = 0, *left = 0;
        return 1;
    }
    return n->attr_until && *left > 0;
}

static void fsb_mount_on_getattr_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_STAT, ino, NULL);
    if (!r) return;
    fsb_mount *m = r->task.mount;
    fsb_stat   s;
    int64_t    left = 0;
    pthread_mutex_lock(&m->lock);
    const int known = fsb_mount_attr_known_(r->node, &s, &left);
    pthread_mutex_unlock(&m->lock);
    if (known) {
        const struct stat st = fsb_mount_stat_(&s);
        fuse_reply_attr(q, &st, fsb_mount_seconds_(left));
        fsb_mount_end_(r);
        return;
    }
    fsb_mount_by_node_(r, 0);
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_got_attr_);
}

static void fsb_mount_set_done_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->task.op.result >= 0) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_changed_(m, r->node);
        r->started = m->changes;
        fsb_mount_own_version_(r->node, &r->task.op.stat);
        pthread_mutex_unlock(&m->lock);
    }
    fsb_mount_got_attr_(r);
}

/* Times beyond what ns can say (1677 to 2262) are the nearest ones that it can. */
static int64_t fsb_mount_ns_(struct timespec t)
{
    const int64_t second = 1000000000, most = INT64_MAX / second;
    if (t.tv_sec >= most) return INT64_MAX;
    if (t.tv_sec < -most) return INT64_MIN;
    return (int64_t)t.tv_sec * second + t.tv_nsec;
}

static void fsb_mount_attr_from_(fsb_attr *a, const struct stat *st, int set)
{
    if (set & FUSE_SET_ATTR_MODE) a->mask |= FSB_ATTR_MODE, a->mode = st->st_mode & 07777;
    if (set & FUSE_SET_ATTR_UID) a->mask |= FSB_ATTR_UID, a->uid = st->st_uid;
    if (set & FUSE_SET_ATTR_GID) a->mask |= FSB_ATTR_GID, a->gid = st->st_gid;
    if (set & FUSE_SET_ATTR_SIZE) a->mask |= FSB_ATTR_SIZE, a->size = (uint64_t)st->st_size;
    if (set & FUSE_SET_ATTR_ATIME_NOW) a->mask |= FSB_ATTR_ATIME_NOW;
    else if (set & FUSE_SET_ATTR_ATIME)
        a->mask |= FSB_ATTR_ATIME, a->atime_ns = fsb_mount_ns_(st->st_atim);
    if (set & FUSE_SET_ATTR_MTIME_NOW) a->mask |= FSB_ATTR_MTIME_NOW;
    else if (set & FUSE_SET_ATTR_MTIME)
        a->mask |= FSB_ATTR_MTIME, a->mtime_ns = fsb_mount_ns_(st->st_mtim);
    if (set & FSB_MOUNT_KILL_SETATTR_) a->mask |= FSB_ATTR_KILL_PRIV;
}

static void fsb_mount_on_setattr_(fuse_req_t q, fuse_ino_t ino, struct stat *st, int set,
                               struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SETATTR, ino, NULL);
    if (!r) return;
    fsb_attr *a = &r->task.op.attr;
    fsb_mount_attr_from_(a, st, set);
    fsb_mount_by_node_(r, set & FUSE_SET_ATTR_SIZE ? FSB_O_WRITE : 0);
    r->how |= FSB_MOUNT_DRAINED_;
    /* Who owns it changes: with HANDLE_KILLPRIV_V2 the rest is up to the file system. */
    const uint32_t mode = fsb_mount_changing_(r, r->node);
    const int owner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
    if ((set & owner || !a->mask) && !S_ISDIR(mode)) /* chown(path, -1, -1) comes with nothing */
        a->mask |= FSB_ATTR_KILL_PRIV;
    fsb_mount_go_(r, fsb_mount_set_done_);
}

/* ---- [lookup] -------------------------------------------------------------------------------- */

/* Lock held. The node of the file that `s` describes, `name` in `parent`; one more that the kernel
   knows of. */
static int fsb_mount_learn_(fsb_mount *m, fsb_mount_node_ *parent, const char *name,
                            const fsb_stat *s, uint64_t started, fsb_mount_node_ **out)
{
    fsb_mount_node_ *n = fsb_mount_node_find_(m, s->file_id);
    const int        turned = n && (n->attr.mode & S_IFMT) != (s->mode & S_IFMT);
    /* The kernel would move the folder, under the feet of who follows a link from it just now. */
    const int risen = n && !turned && fsb_mount_rises_(m, n, parent);
    const int buried = n && n->removed && S_ISDIR(s->mode); /* by the kernel; others had moved it */
    if (turned || risen || buried) { /* another one; the kernel would call a turned one bad */
        fsb_mount_node_disown_(m, n);
        n = NULL;
    }
    if (!n) n = fsb_mount_node_new_(m, s);
    if (!n) return -ENOMEM;
    ++n->lookups;
    const int err = fsb_mount_name_set_(m, parent, name, n);
    if (err) {
        --n->lookups;
        fsb_mount_node_check_(m, n);
        return err;
    }
    n->removed = n->gone = 0;
    if (n->names->doubted && parent->below <= started) fsb_mount_name_doubt_(m, n->names, 0);
    fsb_mount_attr_set_(m, n, s, started);
    *out = n;
    return 0;
}

static void fsb_mount_forget_one_(fsb_mount *m, fuse_ino_t ino, uint64_t count)
{
    fsb_mount_node_ *n = fsb_mount_node_at_(m, ino);
    if (!n) return;
    n->lookups -= count < n->lookups ? count : n->lookups;
    if (m->files_unopened && !n->lookups) fsb_mount_file_leave_(m, n, 0);
    fsb_mount_node_check_(m, n);
}

static void fsb_mount_on_forget_(fuse_req_t q, fuse_ino_t ino, uint64_t count)
{
    fsb_mount *m = fsb_mount_of_(q);
    pthread_mutex_lock(&m->lock);
    fsb_mount_forget_one_(m, ino, count);
    fsb_mount_unlock_(m);
    fuse_reply_none(q);
}

static void fsb_mount_on_forget_multi_(fuse_req_t q, size_t count, struct fuse_forget_data *forgets)
{
    fsb_mount *m = fsb_mount_of_(q);
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < count; ++i)
        fsb_mount_forget_one_(m, forgets[i].ino, forgets[i].nlookup);
    fsb_mount_unlock_(m);
    fuse_reply_none(q);
}

static struct fuse_entry_param fsb_mount_entry_param_(const fsb_mount *m, uint64_t id,
                                                      const fsb_stat *s, int64_t attr_ns)
{
    struct fuse_entry_param e;
    memset(&e, 0, sizeof e);
    e.ino = id, e.generation = 1;
    e.attr = fsb_mount_stat_(s);
    e.attr_timeout = fsb_mount_seconds_(attr_ns);
    e.entry_timeout = fsb_mount_seconds_(m->entry_ns);
    return e;
}

/* Answers with r->node2, which was learnt; if the kernel does not take it, it knows of nothing. */
static void fsb_mount_reply_entry_(fsb_mount_req_ *r)
{
    fsb_mount              *m = r->task.mount;
    const uint64_t          id = r->node2->id;
    struct fuse_entry_param e =
        fsb_mount_entry_param_(m, id, &r->task.op.stat, r->tainted ? 0 : m->attr_ns);
    if (r->tainted) e.entry_timeout = 0;
    if (fuse_reply_entry(r->fuse, &e) < 0) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_forget_one_(m, id, 1);
        fsb_mount_unlock_(m);
    }
    fsb_mount_end_(r);
}

/* The answer that was looked up is outdated by a change of this mount, so the node was asked. */
static void fsb_mount_looked_again_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_mount_node_ *n = r->node;
    r->node = r->node2, r->node2 = n; /* as they were: see below */
    if (r->task.op.result >= 0 && r->task.op.stat.file_id == n->file_id &&
        fsb_mount_stat_ok_(m, &r->task.op.stat)) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_attr_set_(m, n, &r->task.op.stat, r->started);
        pthread_mutex_unlock(&m->lock);
        fsb_mount_reply_entry_(r);
        return;
    }
    pthread_mutex_lock(&m->lock);
    fsb_mount_forget_one_(m, n->id, 1);
    fsb_mount_unlock_(m);
    fsb_mount_fail_(r, r->task.op.result < 0 ? r->task.op.result : -ESTALE);
}

/* Learns what LOOKUP, MKDIR, ... found or made at name in parent; it becomes r->node2. */
static int fsb_mount_found_(fsb_mount_req_ *r, fsb_mount_node_ *parent, const char *name,
                            int *outdated)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = NULL;
    if (!fsb_mount_stat_ok_(m, &r->task.op.stat)) return -EIO;
    pthread_mutex_lock(&m->lock);
    const int err = fsb_mount_learn_(m, parent, name, &r->task.op.stat, r->started, &n);
    if (!err) {
        *outdated = fsb_mount_outdated_(n, r->started);
        r->tainted = parent->below > r->started;
        if (r->tainted) n->attr_until = 0;
        ++n->pins;
        fsb_mount_unpin_(m, r->node2);
        r->node2 = n;
    }
    fsb_mount_unlock_(m);
    if (err == -ELOOP)
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/lookup",
                       "the backend shows a folder within itself: %s", name);
    return err == -ELOOP ? -EIO : err;
}

/* There is no such file: that is an answer to remember, too. */
static void fsb_mount_missing_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_name_drop_(m, r->node, r->name);
    const int tainted = r->node->below > r->started || fsb_mount_path_(m, r->node, NULL, r->path);
    fsb_mount_unlock_(m);
    if (!m->entry_ns || tainted) {
        fsb_mount_fail_(r, -ENOENT);
        return;
    }
    struct fuse_entry_param e;
    memset(&e, 0, sizeof e);
    e.entry_timeout = fsb_mount_seconds_(m->entry_ns);
    fuse_reply_entry(r->fuse, &e);
    fsb_mount_end_(r);
}

static void fsb_mount_looked_(fsb_mount_req_ *r)
{
    const int64_t result = r->task.op.result;
    int           outdated = 0;
    if (result == -ENOENT) {
        fsb_mount_missing_(r);
        return;
    }
    const int64_t err = result < 0 ? result : fsb_mount_found_(r, r->node, r->name, &outdated);
    if (err) {
        fsb_mount_fail_(r, err);
    } else if (!outdated) {
        fsb_mount_reply_entry_(r);
    } else {
        fsb_mount_node_ *n = r->node2;
        r->node2 = r->node, r->node = n; /* the request now is about the node that was found */
        r->how = FSB_MOUNT_DRAINED_, r->tries = 0;
        memset(&r->task.op, 0, sizeof r->task.op);
        r->task.op.code = FSB_OP_STAT, r->task.op.timeout_ms = r->task.mount->timeout_ms;
        fsb_mount_by_node_(r, 0);
        fsb_mount_go_(r, fsb_mount_looked_again_);
    }
}

static void fsb_mount_on_lookup_(fuse_req_t q, fuse_ino_t parent, const char *name)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_STAT, parent, name);
    if (r) fsb_mount_go_(r, fsb_mount_looked_);
}

/* Does the text lead out of the mount, or could it, from so many folders below its root? */
static int fsb_mount_leads_out_(const char *text, size_t size, uint32_t depth)
{
    int named = 0;
    if (!size || text[0] == '/' || memchr(text, 0, size)) return 1;
    for (size_t at = 0, n; at < size; at += n + 1) {
        const char *slash = (const char *)memchr(text + at, '/', size - at);
        n = slash ? (size_t)(slash - (text + at)) : size - at;
        const int up = n == 2 && text[at] == '.' && text[at + 1] == '.';
        if (up && (named || !depth--)) return 1;
        named |= !up && n && !(n == 1 && text[at] == '.');
    }
    return 0;
}

/* With contain_symlinks: is the link one that may be followed? The node's names of now count, and
   those it had, in the shallowest folder of all. */
static int fsb_mount_contained_(fsb_mount_req_ *r, const char *text, size_t size)
{
    fsb_mount *m = r->task.mount;
    if (!m->contain) return 1;
    pthread_mutex_lock(&m->lock);
    for (const fsb_mount_name_ *n = r->node->names; n; n = n->next)
        fsb_mount_least_(m, r->node, n->parent);
    const uint32_t least = r->node->least;
    if (fsb_mount_path_(m, r->node, NULL, r->path) != 0) r->path[0] = '\0';
    pthread_mutex_unlock(&m->lock);
    if (!fsb_mount_leads_out_(text, size, least && least != UINT32_MAX ? least - 1 : 0)) return 1;
    if (!__atomic_exchange_n(&m->refused, 1, __ATOMIC_RELAXED))
        fsb_mount_log_(m, FSB_LOG_WARN, "mount/links",
                       "%.200s: a link that leads out of the mount is not followed, nor are "
                       "others; the option no_contain_symlinks lets them",
                       r->path);
    return 0;
}

static void fsb_mount_link_read_(fsb_mount_req_ *r)
{
    fsb_op       *op = &r->task.op;
    const int64_t n = op->result;
    const char   *text = (const char *)op->slice.data;
    if (n < 0 || n > FSB_PATH_MAX || !text || (size_t)n > op->slice.size)
        fsb_mount_fail_(r, n < 0 ? n : -EIO);
    else if (!fsb_mount_contained_(r, text, (size_t)n))
        fsb_mount_fail_(r, -EPERM);
    else
        fuse_reply_buf(r->fuse, text, (size_t)n), fsb_mount_end_(r);
}

static void fsb_mount_on_readlink_(fuse_req_t q, fuse_ino_t ino)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_READLINK, ino, NULL);
    if (!r) return;
    r->task.op.size = PATH_MAX - 1;
    r->how |= FSB_MOUNT_AT_;
    fsb_mount_go_(r, fsb_mount_link_read_);
}

static void fsb_mount_statfs_done_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->task.op.result < 0) {
        fsb_mount_fail_(r, r->task.op.result);
        return;
    }
    const fsb_statfs *s = &r->task.op.statfs;
    struct statvfs    v;
    pthread_mutex_lock(&m->lock);
    m->statfs = *s, m->statfs_until = fsb_mount_now_() + 1000000000;
    pthread_mutex_unlock(&m->lock);
    memset(&v, 0, sizeof v);
    v.f_bsize = s->bsize, v.f_frsize = s->frsize ? s->frsize : s->bsize;
    v.f_blocks = s->blocks, v.f_bfree = s->bfree, v.f_bavail = s->bavail;
    v.f_files = s->files, v.f_ffree = s->ffree;
    v.f_namemax = s->namelen ? s->namelen : (uint32_t)FSB_NAME_MAX;
    fuse_reply_statfs(r->fuse, &v);
    fsb_mount_end_(r);
}

static void fsb_mount_on_statfs_(fuse_req_t q, fuse_ino_t ino)
{
    (void)ino;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_STATFS, FUSE_ROOT_ID, NULL);
    if (!r) return;
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    const int known = m->statfs_until > fsb_mount_now_();
    if (known) r->task.op.statfs = m->statfs;
    pthread_mutex_unlock(&m->lock);
    r->how |= FSB_MOUNT_AT_;
    if (known) r->how = 0, r->task.op.code = 0;
    fsb_mount_go_(r, fsb_mount_statfs_done_);
}

/* ---- [change] -------------------------------------------------------------------------------- */

/* What a new file starts with: the caller's ids, and the mode as the kernel has masked it. */
static void fsb_mount_new_attr_(fsb_mount_req_ *r, uint32_t mode)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(r->fuse);
    fsb_attr              *a = &r->task.op.attr;
    a->mask = FSB_ATTR_MODE | FSB_ATTR_UID | FSB_ATTR_GID;
    a->mode = mode, a->uid = ctx->uid, a->gid = ctx->gid;
}

static void fsb_mount_folder_changed_(fsb_mount *m, fsb_mount_node_ *folder)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, folder);
    pthread_mutex_unlock(&m->lock);
}

/* After MKDIR, MKNOD, SYMLINK: name in node is new. */
static void fsb_mount_made_(fsb_mount_req_ *r)
{
    int     outdated = 0;
    int64_t err = r->task.op.result;
    if (err >= 0) {
        fsb_mount_folder_changed_(r->task.mount, r->node);
        err = fsb_mount_found_(r, r->node, r->name, &outdated);
    }
    if (err < 0) fsb_mount_fail_(r, err);
    else fsb_mount_reply_entry_(r);
}

static void fsb_mount_on_mkdir_(fuse_req_t q, fuse_ino_t parent, const char *name, mode_t mode)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_MKDIR, parent, name);
    if (!r) return;
    fsb_mount_new_attr_(r, mode & 07777);
    fsb_mount_go_(r, fsb_mount_made_);
}

static void fsb_mount_on_mknod_(fuse_req_t q, fuse_ino_t parent, const char *name, mode_t mode,
                             dev_t rdev)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_MKNOD, parent, name);
    if (!r) return;
    fsb_mount_new_attr_(r, mode);
    r->task.op.attr.rdev_major = major(rdev), r->task.op.attr.rdev_minor = minor(rdev);
    fsb_mount_go_(r, fsb_mount_made_);
}

static void fsb_mount_on_symlink_(fuse_req_t q, const char *text, fuse_ino_t parent,
                                  const char *name)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SYMLINK, parent, name);
    const size_t    size = strlen(text) + 1;
    if (!r || !fsb_mount_extra_(r, size)) return;
    memcpy(r->extra, text, size);
    r->task.op.path2 = (const char *)r->extra;
    fsb_mount_new_attr_(r, 0777);
    fsb_mount_go_(r, fsb_mount_made_);
}

static void fsb_mount_linked_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    int        outdated = 0;
    int64_t    err = r->task.op.result;
    if (err >= 0) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_changed_(m, r->node2);
        fsb_mount_changed_(m, r->node);
        r->started = m->changes;
        pthread_mutex_unlock(&m->lock);
        err = fsb_mount_found_(r, r->node2, r->name2, &outdated);
    }
    if (err < 0) fsb_mount_fail_(r, err);
    else fsb_mount_reply_entry_(r);
}

static void fsb_mount_on_link_(fuse_req_t q, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_LINK, ino, NULL);
    if (!r || !fsb_mount_begin2_(r, parent, name)) return;
    r->how |= FSB_MOUNT_AT_ | FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_linked_);
}

/* Lock held. This mount took the name away from whatever it led to. */
static void fsb_mount_name_gone_(fsb_mount *m, fsb_mount_node_ *parent, const char *text)
{
    fsb_mount_name_ *name = fsb_mount_name_find_(m, parent, text, strlen(text));
    if (!name) return;
    fsb_mount_node_ *n = name->node;
    const int        sure = !name->doubted;
    ++n->pins;
    fsb_mount_changed_(m, n);
    fsb_mount_name_remove_(m, name);
    n->removed = sure && !n->names;
    if (!sure) fsb_mount_node_disown_(m, n); /* others may have moved it; the kernel buries it */
    fsb_mount_unpin_(m, n);
}

/* The next note, from the one that the kernel is being told of on; NULL at first. */
static fsb_mount_note_ *fsb_mount_note_next_(const fsb_mount *m, const fsb_mount_note_ *note)
{
    if (!note && m->noting) return m->noting;
    return !note || note == m->noting ? m->notes : note->next;
}

static int fsb_mount_note_is_(const fsb_mount_note_ *note, const fsb_mount_node_ *parent,
                              const char *text)
{
    const size_t size = strlen(text);
    return note->parent == parent && note->size == size && memcmp(note->name, text, size) == 0;
}

/* Lock held. Is the kernel still to be told of the name, or were others changed in its folder since
   `started`? Then it may have another file there than the backend had. */
static int fsb_mount_crossed_(const fsb_mount *m, const fsb_mount_node_ *parent, const char *text,
                              uint64_t started)
{
    const fsb_mount_note_ *note = fsb_mount_note_next_(m, NULL);
    while (note && !fsb_mount_note_is_(note, parent, text)) note = fsb_mount_note_next_(m, note);
    return note || parent->below > started || m->all_stale;
}

/* Lock held. The name went, or is another's now, while the kernel was still to be told that others
   had moved the folder of that name: then it has buried that one, and says for ever that nothing
   is in it. When it is found again it gets another node. */
static void fsb_mount_buried_(fsb_mount *m, const fsb_mount_node_ *parent, const char *text,
                              const fsb_mount_node_ *moved)
{
    const fsb_mount_note_ *note = NULL;
    while ((note = fsb_mount_note_next_(m, note)) != NULL) {
        const int same = note->folder && fsb_mount_note_is_(note, parent, text);
        fsb_mount_node_ *n = same ? fsb_mount_node_at_(m, note->folder) : NULL;
        if (n && n != moved) fsb_mount_node_disown_(m, n);
    }
}

/* Lock held. */
static void fsb_mount_unlinked_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_mount_changed_(m, r->node);
    fsb_mount_name_gone_(m, r->node, r->name);
    fsb_mount_buried_(m, r->node, r->name, NULL);
}

static int fsb_mount_hold_(fsb_mount_req_ *r, fsb_mount_node_ *parent, const char *text,
                           void (*then)(fsb_mount_req_ *));

static void fsb_mount_remove_(fuse_req_t q, uint32_t code, fuse_ino_t parent, const char *name)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, code, parent, name);
    if (!r) return;
    r->apply = fsb_mount_unlinked_;
    if (!fsb_mount_hold_(r, r->node, r->name, fsb_mount_reply_err_))
        fsb_mount_go_(r, fsb_mount_reply_err_);
}

static void fsb_mount_on_unlink_(fuse_req_t q, fuse_ino_t parent, const char *name)
{
    fsb_mount_remove_(q, FSB_OP_UNLINK, parent, name);
}

static void fsb_mount_on_rmdir_(fuse_req_t q, fuse_ino_t parent, const char *name)
{
    fsb_mount_remove_(q, FSB_OP_RMDIR, parent, name);
}

/* Lock held. The names lead to what they lead to now. */
static void fsb_mount_names_moved_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_mount_changed_(m, r->node);
    fsb_mount_changed_(m, r->node2);
    fsb_mount_name_ *from = fsb_mount_name_find_(m, r->node, r->name, strlen(r->name));
    fsb_mount_name_ *to = fsb_mount_name_find_(m, r->node2, r->name2, strlen(r->name2));
    fsb_mount_node_ *n = from ? from->node : NULL, *n2 = to ? to->node : NULL;
    if (n && n == n2) return; /* two names of one file: rename(2) does nothing */
    if (n) ++n->pins, fsb_mount_changed_(m, n);
    if (n2) ++n2->pins;
    if (from) fsb_mount_name_remove_(m, from);
    if (r->task.op.flags & FSB_RENAME_EXCHANGE) {
        if (to) fsb_mount_name_remove_(m, to);
        if (n2) fsb_mount_changed_(m, n2);
        if (n2) fsb_mount_name_set_(m, r->node, r->name, n2);
    } else {
        fsb_mount_name_gone_(m, r->node2, r->name2);
        fsb_mount_buried_(m, r->node2, r->name2, n);
    }
    if (n) fsb_mount_name_set_(m, r->node2, r->name2, n); /* if not, it is looked up again */
    fsb_mount_unpin_(m, n);
    fsb_mount_unpin_(m, n2);
}

static void fsb_mount_move_note_(fsb_mount *m, const char *from, const char *to, int swaps);
static fsb_mount_node_ *fsb_mount_name_in_stale_(fsb_mount *m, fsb_mount_node_ *folder,
                                                 const char *name);

/* Lock held. Where others changed these names meanwhile, what moved may be another file than the
   one that had the name here. */
static void fsb_mount_moved_(fsb_mount *m, fsb_mount_req_ *r)
{
    const int crossed = fsb_mount_crossed_(m, r->node, r->name, r->started) ||
                        fsb_mount_crossed_(m, r->node2, r->name2, r->started);
    fsb_mount_names_moved_(m, r);
    if (m->lease)
        fsb_mount_move_note_(m, r->path, r->path2, r->task.op.flags & FSB_RENAME_EXCHANGE);
    if (!crossed) return;
    (void)fsb_mount_name_in_stale_(m, r->node, r->name);
    (void)fsb_mount_name_in_stale_(m, r->node2, r->name2);
}

/* Lock held. Does the name lead to a folder, or to something not known? */
static int fsb_mount_maybe_folder_(const fsb_mount *m, const fsb_mount_node_ *parent,
                                   const char *text)
{
    const fsb_mount_name_ *name = fsb_mount_name_find_(m, parent, text, strlen(text));
    return !name || S_ISDIR(name->node->attr.mode);
}

static void fsb_mount_on_rename_(fuse_req_t q, fuse_ino_t parent, const char *name,
                                 fuse_ino_t parent2, const char *name2, unsigned flags)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_RENAME, parent, name);
    if (!r || !fsb_mount_begin2_(r, parent2, name2)) return;
    fsb_mount *m = r->task.mount;
    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
        fsb_mount_fail_(r, -EINVAL);
        return;
    }
    if (flags & RENAME_NOREPLACE) r->task.op.flags |= FSB_RENAME_NOREPLACE;
    if (flags & RENAME_EXCHANGE) r->task.op.flags |= FSB_RENAME_EXCHANGE;
    pthread_mutex_lock(&m->lock);
    if (fsb_mount_maybe_folder_(m, r->node, r->name) ||
        (flags & RENAME_EXCHANGE && fsb_mount_maybe_folder_(m, r->node2, r->name2)))
        r->how |= FSB_MOUNT_MOVE_;
    pthread_mutex_unlock(&m->lock);
    r->apply = fsb_mount_moved_;
    if (!fsb_mount_hold_(r, r->node2, r->name2, fsb_mount_reply_err_))
        fsb_mount_go_(r, fsb_mount_reply_err_);
}

/* ---- [open] ---------------------------------------------------------------------------------- */
/* OPEN asks the host, so that the application sees the file as it is now: with the first bytes if
   there is no handle yet, else by STAT on that handle. The kernel keeps its pages if they are of
   this version. */

/* Lock held. How the file is opened: what there is that serves is shared. */
static void fsb_mount_open_how_(fsb_mount *m, fsb_mount_req_ *r, uint32_t rights)
{
    fsb_op *op = &r->task.op;
    r->file = fsb_mount_file_for_(r->node, rights);
    if (r->file) {
        ++r->file->pins;
        op->code = FSB_OP_STAT;
        return;
    }
    r->how |= FSB_MOUNT_AT_;
    op->code = FSB_OP_OPEN;
    op->flags = rights & FSB_O_WRITE ? FSB_O_READ | FSB_O_WRITE : FSB_O_READ;
    if (rights == FSB_O_READ && !r->node->version && !(r->fi.flags & O_DIRECT) &&
        m->head_bytes < FSB_MOUNT_HEADS_)
        op->size = r->node->attr.size > FSB_MOUNT_WHOLE_ ? (size_t)FSB_MOUNT_HEAD_
                                                         : (size_t)FSB_MOUNT_WHOLE_;
}

typedef struct fsb_mount_copy_ { /* bytes of ours behind a slice follow */
    fsb_mount *mount;
    size_t     size;
} fsb_mount_copy_;

static void fsb_mount_copy_free_(void *owner)
{
    fsb_mount_copy_ *copy = (fsb_mount_copy_ *)owner;
    fsb_mount_free_(copy->mount, copy, sizeof *copy + copy->size);
}

/* The first bytes that came with OPEN, as a slice that can be kept; data NULL: none. */
static fsb_slice fsb_mount_head_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op;
    fsb_slice  head;
    memset(&head, 0, sizeof head);
    if (op->code != FSB_OP_OPEN || op->result <= 0 || !op->slice.data ||
        (size_t)op->result > op->slice.size || op->slice.size > op->size)
        return head;
    const size_t size = (size_t)op->result;
    if (op->slice.release || !m->backend->submit) {
        head = op->slice;
        memset(&op->slice, 0, sizeof op->slice);
    } else {
        fsb_mount_copy_ *copy = (fsb_mount_copy_ *)fsb_mount_alloc_(m, sizeof *copy + size);
        if (!copy) return head;
        copy->mount = m, copy->size = size;
        memcpy(copy + 1, op->slice.data, size);
        head.data = copy + 1, head.release = fsb_mount_copy_free_, head.owner = copy;
    }
    head.size = size;
    return head;
}

/* Answers `error` when the handle that nobody will use is closed. */
static void fsb_mount_refused_(fsb_mount_req_ *r) { fsb_mount_fail_(r, r->error); }

static void fsb_mount_refuse_(fsb_mount_req_ *r, fsb_handle handle, int64_t error)
{
    fsb_slice_release(&r->task.op.slice);
    memset(&r->task.op, 0, sizeof r->task.op);
    r->task.op.code = FSB_OP_CLOSE, r->task.op.handle = handle;
    r->how = 0, r->error = error;
    fsb_mount_go_(r, fsb_mount_refused_);
}

/* Lock held. Compares the file with what the kernel has of it: 1 if its pages are good. */
static int fsb_mount_revalidate_(fsb_mount *m, fsb_mount_node_ *n, const fsb_stat *s,
                                 uint64_t started, int *changed)
{
    const int outdated = fsb_mount_outdated_(n, started);
    const int keep = !outdated && n->version && n->version == s->version;
    *changed = !keep && (n->attr.version != s->version || n->attr.size != s->size);
    n->version = outdated ? 0 : s->version;
    fsb_mount_attr_set_(m, n, s, started);
    return keep;
}

/* Nobody may read it: opens it for writing only. 1 if that is worth trying. */
static int fsb_mount_open_blind_(fsb_mount_req_ *r, void (*then)(fsb_mount_req_ *))
{
    fsb_op *op = &r->task.op;
    if (op->code != FSB_OP_OPEN || (op->result != -EACCES && op->result != -EPERM) ||
        op->flags != (FSB_O_READ | FSB_O_WRITE) || (r->fi.flags & O_ACCMODE) != O_WRONLY)
        return 0;
    op->flags = FSB_O_WRITE;
    fsb_mount_go_(r, then);
    return 1;
}

/* The application has the file open from now on. */
static void fsb_mount_reply_open_(fsb_mount_req_ *r, int changed)
{
    fsb_mount *m = r->task.mount;
    if (changed) fsb_mount_inval_attr_(m, r->node->id);
    if (fuse_reply_open(r->fuse, &r->fi) == -ENOENT) { /* nobody wants it any more */
        pthread_mutex_lock(&m->lock);
        r->node->version = 0; /* the kernel did not drop older pages */
        fsb_mount_file_leave_(m, r->node, (r->fi.flags & O_ACCMODE) != O_RDONLY);
        fsb_mount_unlock_(m);
    }
    fsb_mount_end_(r);
}

/* The host has opened it, or described it: then() of both. */
static void fsb_mount_opened_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op;
    int        changed = 0, err = 0;
    if (fsb_mount_open_blind_(r, fsb_mount_opened_)) return;
    if (op->result < 0) {
        fsb_mount_fail_(r, op->result);
        return;
    }
    if (!fsb_mount_stat_ok_(m, &op->stat)) err = -EIO;
    else if (op->stat.file_id != r->node->file_id) err = -ESTALE;
    fsb_slice head = fsb_mount_head_(r);
    pthread_mutex_lock(&m->lock);
    if (!err && op->code == FSB_OP_OPEN)
        err = fsb_mount_file_add_(m, r, r->node, op->handle, op->flags);
    else if (!err)
        fsb_mount_file_keep_(m, r->node, r->file); /* the last who had it open may have left */
    if (!err) {
        if (head.data && !r->file->head.data) {
            r->file->head = head, r->file->head_whole = head.size < op->size;
            r->file->head_change = r->node->change;
            m->head_bytes += head.size;
            memset(&head, 0, sizeof head);
        }
        r->fi.keep_cache =
            fsb_mount_revalidate_(m, r->node, &op->stat, r->started, &changed) ? 1 : 0;
        if ((r->fi.flags & O_ACCMODE) != O_RDONLY) ++r->node->writers;
        else ++r->node->readers;
    }
    pthread_mutex_unlock(&m->lock);
    fsb_slice_release(&head);
    if (!err) fsb_mount_reply_open_(r, changed);
    else if (op->code == FSB_OP_OPEN) fsb_mount_refuse_(r, op->handle, err);
    else fsb_mount_fail_(r, err);
}

/* Where nothing can be written, the kernel is told that files need not be opened at all. Nobody
   says then when one is closed: what a read has opened on the backend stays open until the kernel
   forgets the file, or many others were opened since. So what others remove can be read to its
   end. */

/* Lock held. The node's file, just opened, stays. */
static void fsb_mount_file_stay_(fsb_mount *m, fsb_mount_node_ *n)
{
    uint64_t        *place = &m->kept[m->kept_next++ % FSB_MOUNT_KEPT_];
    fsb_mount_node_ *oldest = fsb_mount_node_at_(m, *place);
    *place = n->id, n->readers = 1;
    if (oldest && oldest != n) fsb_mount_file_leave_(m, oldest, 0);
}

/* The file is open on the backend, or cannot be: on with what waited for that. */
static void fsb_mount_opened_first_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = r->node, *node = r->later.node;
    const fsb_op     opened = r->task.op;
    int64_t          err = opened.result < 0                       ? opened.result
                         : opened.stat.file_id != n->file_id ? -ESTALE
                                                                   : 0;
    r->node = node, r->how = r->later.how, r->apply = r->later.apply;
    r->task.op = r->later.op;
    pthread_mutex_lock(&m->lock);
    if (!err) err = fsb_mount_file_add_(m, r, n, opened.handle, FSB_O_READ);
    if (!err && m->files_unopened) fsb_mount_file_stay_(m, n);
    if (!err && !n->readers && !n->writers && n->reader) { /* nobody has it open any more */
        fsb_mount_file_unpin_(m, n->reader);
        n->reader = NULL;
    }
    if (!err && n != node) fsb_mount_file_unpin_(m, r->file), r->file = NULL;
    if (n != node) fsb_mount_unpin_(m, n);
    fsb_mount_unlock_(m);
    r->task.op.slice = opened.slice;
    if (err && opened.result >= 0) fsb_mount_refuse_(r, opened.handle, err);
    else if (err && n == node) fsb_mount_fail_(r, err);
    else if (r->task.op.code == FSB_OP_READ && opened.size && opened.size == r->task.op.size) {
        r->task.op.result = opened.result; /* the bytes came with it */
        r->later.then(r);
    } else {
        fsb_slice_release(&r->task.op.slice);
        fsb_mount_go_(r, r->later.then);
    }
}

/* Opens the node on the backend, to be read, before the request's operation; it is the request's,
   or one that is pinned for this and that the operation is about to take the name from. */
static void fsb_mount_open_first_(fsb_mount_req_ *r, fsb_mount_node_ *node,
                                  void (*then)(fsb_mount_req_ *))
{
    fsb_op *op = &r->task.op;
    r->later.op = *op, r->later.how = r->how, r->later.apply = r->apply, r->later.then = then;
    r->later.node = r->node, r->node = node;
    r->apply = NULL, r->how = FSB_MOUNT_AT_ | (r->how & FSB_MOUNT_DRAINED_);
    memset(op, 0, sizeof *op);
    op->code = FSB_OP_OPEN, op->flags = FSB_O_READ, op->timeout_ms = r->task.mount->timeout_ms;
    if (r->later.op.code == FSB_OP_READ && !r->later.op.offset) op->size = r->later.op.size;
    fsb_mount_go_(r, fsb_mount_opened_first_);
}

/* Name in parent is about to go, or to be another file. If an application has that open, but the
   backend has not, this is the last moment: 1, then it is opened first. */
static int fsb_mount_hold_(fsb_mount_req_ *r, fsb_mount_node_ *parent, const char *text,
                           void (*then)(fsb_mount_req_ *))
{
    fsb_mount *m = r->task.mount;
    if (!m->lease) return 0;
    pthread_mutex_lock(&m->lock);
    const fsb_mount_name_ *name = fsb_mount_name_find_(m, parent, text, strlen(text));
    fsb_mount_node_       *n = name ? name->node : NULL;
    const int              hold = n && n->readers && !n->reader && !n->writer;
    if (hold) ++n->pins;
    pthread_mutex_unlock(&m->lock);
    if (hold) fsb_mount_open_first_(r, n, then);
    return hold;
}

/* Lock held. Opens the file without a word to the backend: what is known of it is good. The kernel
   checks the rights. */
static int fsb_mount_open_here_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_mount_node_ *n = r->node;
    fsb_stat         s;
    int64_t          left;
    if (!m->lease || m->remote_locks || (r->fi.flags & O_ACCMODE) != O_RDONLY) return 0;
    if (!fsb_mount_attr_known_(n, &s, &left) || left <= 0 || !S_ISREG(s.mode)) return 0;
    r->fi.keep_cache = n->version && n->version == s.version;
    n->version = s.version;
    ++n->readers;
    return 1;
}

/* What FUSE is told of an open file. Appends go past the page cache, which would put them where the
   kernel believes the end to be, and send one that crosses a page in two: lines of two clients
   would mix. Who can also read keeps the cache, and mmap. */
static struct fuse_file_info fsb_mount_file_info_(const struct fuse_file_info *asked)
{
    struct fuse_file_info fi = *asked;
    fi.fh = 0; /* the node has the handles */
    fi.direct_io = (fi.flags & (O_ACCMODE | O_APPEND)) == (O_WRONLY | O_APPEND);
    return fi;
}

static int fsb_mount_small_(fsb_mount *m, fsb_mount_node_ *n, fsb_mount_req_ **out);
static void fsb_mount_fetched_(fsb_mount_req_ *r);

static void fsb_mount_on_open_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fsb_mount *m = fsb_mount_of_(q);
    if (m->files_unopened) {
        fuse_reply_err(q, ENOSYS);
        return;
    }
    fsb_mount_req_ *r = fsb_mount_begin_(q, 0, ino, NULL);
    if (!r) return;
    const int       mode = fi->flags & O_ACCMODE;
    fsb_mount_req_ *ahead[1 + FSB_MOUNT_AHEAD_FOLDERS_];
    r->fi = fsb_mount_file_info_(fi);
    r->fi.noflush = mode == O_RDONLY && !m->remote_locks;
    pthread_mutex_lock(&m->lock);
    const int count = m->lease ? fsb_mount_small_(m, r->node, ahead) : 0;
    const int here = fsb_mount_open_here_(m, r);
    if (!here) fsb_mount_open_how_(m, r, mode == O_RDONLY   ? FSB_O_READ
                              : mode == O_WRONLY ? FSB_O_WRITE
                                                 : FSB_O_READ | FSB_O_WRITE);
    pthread_mutex_unlock(&m->lock);
    for (int i = 0; i < count; ++i) fsb_mount_go_(ahead[i], fsb_mount_fetched_);
    if (here) {
        fsb_mount_reply_open_(r, 0);
        return;
    }
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_opened_);
}

/* Answers CREATE with r->node2 and r->file. */
static void fsb_mount_reply_create_(fsb_mount_req_ *r)
{
    fsb_mount      *m = r->task.mount;
    const int       writer = (r->fi.flags & O_ACCMODE) != O_RDONLY;
    const uint64_t  id = r->node2->id;
    const struct fuse_entry_param e =
        fsb_mount_entry_param_(m, id, &r->task.op.stat, m->attr_ns);
    if (fuse_reply_create(r->fuse, &e, &r->fi) < 0) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_file_leave_(m, r->node2, writer);
        fsb_mount_forget_one_(m, id, 1);
        fsb_mount_unlock_(m);
    }
    fsb_mount_end_(r);
}

/* The file was there already, made by another client, and now is cut to nothing. */
static void fsb_mount_create_cut_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->task.op.result >= 0 && fsb_mount_stat_ok_(m, &r->task.op.stat)) {
        fsb_mount_reply_create_(r);
        return;
    }
    pthread_mutex_lock(&m->lock);
    fsb_mount_file_leave_(m, r->node2, (r->fi.flags & O_ACCMODE) != O_RDONLY);
    fsb_mount_forget_one_(m, r->node2->id, 1);
    fsb_mount_unlock_(m);
    fsb_mount_fail_(r, r->task.op.result < 0 ? r->task.op.result : -EIO);
}

static void fsb_mount_created_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op;
    int        outdated = 0;
    if (op->result < 0) {
        fsb_mount_fail_(r, op->result);
        return;
    }
    fsb_mount_folder_changed_(m, r->node);
    int err = fsb_mount_found_(r, r->node, r->name, &outdated);
    if (!err) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_node_ *n = r->node2;
        err = fsb_mount_file_add_(m, r, n, op->handle, FSB_O_READ | FSB_O_WRITE);
        n->version = outdated ? 0 : op->stat.version;
        n->bare_until = fsb_mount_now_() + m->attr_ns;
        if (err) fsb_mount_forget_one_(m, n->id, 1);
        else if ((r->fi.flags & O_ACCMODE) != O_RDONLY) ++n->writers;
        else ++n->readers;
        fsb_mount_unlock_(m);
    }
    if (err) {
        fsb_mount_refuse_(r, op->handle, err);
    } else if (r->fi.flags & O_TRUNC && op->stat.size) {
        op->code = FSB_OP_SETATTR, op->flags = 0, r->how = 0;
        op->attr.mask = FSB_ATTR_SIZE | FSB_ATTR_KILL_PRIV, op->attr.size = 0;
        fsb_mount_go_(r, fsb_mount_create_cut_);
    } else {
        fsb_mount_reply_create_(r);
    }
}

static void fsb_mount_on_create_(fuse_req_t q, fuse_ino_t parent, const char *name, mode_t mode,
                              struct fuse_file_info *fi)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_OPEN, parent, name);
    if (!r) return;
    r->fi = fsb_mount_file_info_(fi);
    r->task.op.flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE;
    if (fi->flags & O_EXCL) r->task.op.flags |= FSB_O_EXCL;
    fsb_mount_new_attr_(r, mode & 07777);
    fsb_mount_go_(r, fsb_mount_created_);
}

/* ---- [read] ---------------------------------------------------------------------------------- */

static void fsb_mount_read_done_(fsb_mount_req_ *r)
{
    const fsb_op *op = &r->task.op;
    const int64_t n = op->result;
    if (n < 0 || (n > 0 && !op->slice.data) || (size_t)n > op->slice.size ||
        (size_t)n > op->size) {
        fsb_mount_fail_(r, n < 0 ? n : -EIO);
        return;
    }
    fuse_reply_buf(r->fuse, (const char *)op->slice.data, (size_t)n);
    fsb_mount_end_(r);
}

/* Lock held. Does the read lie within the first bytes that came with OPEN? They serve until read to
   their end, or passed over. */
static int fsb_mount_head_serves_(const fsb_mount_file_ *f, size_t size, uint64_t offset)
{
    if (!f->head.data) return 0;
    return f->head_whole || (offset < f->head.size && size <= f->head.size - offset);
}

/* Answers from the first bytes: 1 if it could. */
static int fsb_mount_read_head_(fsb_mount *m, fuse_req_t q, fuse_ino_t ino, size_t size,
                                uint64_t offset)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_node_ *n = fsb_mount_node_at_(m, ino);
    fsb_mount_file_ *f = n ? n->reader : NULL;
    if (!f || !f->head.data) {
        pthread_mutex_unlock(&m->lock);
        return 0;
    }
    const int      serves = fsb_mount_head_serves_(f, size, offset) && !fsb_mount_busy_(n) &&
                       f->head_change == n->change;
    const uint64_t change = n->change;
    fsb_slice head = fsb_mount_head_take_(m, f);
    ++f->pins;
    pthread_mutex_unlock(&m->lock);
    const size_t from = offset < head.size ? (size_t)offset : head.size;
    const size_t count = size < head.size - from ? size : head.size - from;
    if (serves) fuse_reply_buf(q, (const char *)head.data + from, count);
    pthread_mutex_lock(&m->lock);
    if (serves && from + count < head.size && !f->head.data && f->node->change == change) {
        f->head = head, m->head_bytes += head.size;
        memset(&head, 0, sizeof head);
    }
    fsb_mount_file_unpin_(m, f);
    fsb_mount_unlock_(m);
    fsb_slice_release(&head);
    return serves;
}

static int fsb_mount_read_waits_(fsb_mount_req_ *r);
static int fsb_mount_read_held_(fsb_mount_req_ *r);

/* A small file came whole: bytes, and what it is now. */
static void fsb_mount_got_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    const fsb_stat  *s = &r->task.op.stat;
    fsb_mount_node_ *n = r->node;
    int              changed = 0;
    if (r->task.op.result >= 0) {
        if (!fsb_mount_stat_ok_(m, s) || s->file_id != n->file_id) r->task.op.result = -ESTALE;
        pthread_mutex_lock(&m->lock);
        changed = n->attr.version != s->version || n->attr.size != s->size;
        if (n->version != s->version) n->version = 0; /* other pages may be of another version */
        fsb_mount_attr_set_(m, n, s, r->started);
        pthread_mutex_unlock(&m->lock);
    }
    if (changed) fsb_mount_inval_attr_(m, n->id);
    fsb_mount_read_done_(r);
}

static void fsb_mount_on_read_(fuse_req_t q, fuse_ino_t ino, size_t size, off_t offset,
                            struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount *m = fsb_mount_of_(q);
    if (fsb_mount_read_head_(m, q, ino, size, (uint64_t)offset)) return;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_READ, ino, NULL);
    if (!r || !fsb_mount_by_handle_(r, FSB_O_READ)) return;
    fsb_mount_req_ *ahead[1 + FSB_MOUNT_AHEAD_FOLDERS_];
    r->task.op.offset = (uint64_t)offset;
    r->task.op.size = size < FSB_IO_MAX ? size : (size_t)FSB_IO_MAX;
    r->how |= FSB_MOUNT_DRAINED_;
    pthread_mutex_lock(&m->lock);
    const uint64_t most = size < FSB_MOUNT_WHOLE_ ? size : (uint64_t)FSB_MOUNT_WHOLE_;
    const int      whole = r->lazy && !offset && r->node->attr.size <= most &&
                      !r->node->removed && m->backend->call[FSB_OP_GET];
    const int count = m->files_unopened && whole ? fsb_mount_small_(m, r->node, ahead) : 0;
    pthread_mutex_unlock(&m->lock);
    for (int i = 0; i < count; ++i) fsb_mount_go_(ahead[i], fsb_mount_fetched_);
    if (!whole) {
        fsb_mount_go_(r, fsb_mount_read_done_);
        return;
    }
    r->lazy = 0, r->task.op.code = FSB_OP_GET, r->how |= FSB_MOUNT_AT_;
    pthread_mutex_lock(&m->lock);
    const int waits = fsb_mount_read_waits_(r);
    pthread_mutex_unlock(&m->lock);
    if (!waits && !fsb_mount_read_held_(r)) fsb_mount_go_(r, fsb_mount_got_);
}

/* ---- [write] --------------------------------------------------------------------------------- */
/* A delayed write is acknowledged before the host has it. Until it does, nobody is shown the file
   without it: what asks about the node waits in node->waiting, in order, and so does a write that
   overlaps one on its way, or that finds no room (then its answer, and so the application, waits).
   The first failure is kept until one write, fsync or close has reported it. For a while after one
   no write is delayed: a full disk stays full, and many look at what write() says only. */

static void fsb_mount_buf_unpin_(fsb_mount *m, fsb_mount_buf_ *b)
{
    if (__atomic_sub_fetch(&b->pins, 1, __ATOMIC_ACQ_REL)) return;
    b->next = m->spare_bufs, m->spare_bufs = b;
}

/* The request that the bytes of a WRITE came in: the buffer begins with it. */
static const char *fsb_mount_raw_(const char *data)
{
    return data - sizeof(struct fuse_write_in) - sizeof(struct fuse_in_header);
}

/* Sees to it that the bytes outlive the handler: big ones keep their buffer, small ones are copied.
   0: the request was refused. */
static int fsb_mount_keep_(fsb_mount_req_ *r, const char *data, size_t size)
{
    r->task.op.data = data, r->task.op.size = size;
    if (r->task.mount->inlined) return 1;
    if (size >= FSB_MOUNT_HANDOVER_) {
        r->buf = (fsb_mount_buf_ *)(void *)(uintptr_t)fsb_mount_raw_(data) - 1;
        __atomic_add_fetch(&r->buf->pins, 1, __ATOMIC_ACQ_REL);
        return 1;
    }
    if (!fsb_mount_extra_(r, size)) return 0;
    memcpy(r->extra, data, size);
    r->task.op.data = r->extra;
    return 1;
}

static int fsb_mount_overlaps_(const fsb_mount_node_ *n, uint64_t begin, uint64_t end)
{
    if (begin >= n->flight_end || end <= n->flight_begin) return 0; /* streams never do */
    for (const fsb_mount_req_ *r = n->flight; r; r = r->next) {
        const fsb_op *op = &r->task.op;
        if (begin < op->offset + op->size && op->offset < end) return 1;
    }
    return 0;
}

/* Lock held. May the delayed write be sent, as the first that waits? */
static int fsb_mount_may_fly_(fsb_mount *m, const fsb_mount_req_ *r)
{
    fsb_mount_node_ *n = r->node;
    const fsb_op    *op = &r->task.op;
    if (n->writes && fsb_mount_overlaps_(n, op->offset, op->offset + op->size)) return 0;
    if (!m->behind_count || (m->behind_count < FSB_MOUNT_FLIGHT_ && m->behind < m->behind_max &&
                             op->size <= m->behind_max - m->behind))
        return 1;
    if (!n->wants_room) {
        n->wants_room = 1, n->next_room = NULL;
        ++n->pins;
        if (m->room_tail) m->room_tail->next_room = n;
        else m->room_head = n;
        m->room_tail = n;
    }
    return 0;
}

/* Lock held. */
static void fsb_mount_take_off_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_mount_node_ *n = r->node;
    const uint64_t   begin = r->task.op.offset, end = begin + r->task.op.size;
    if (!n->writes) n->burst = 0, n->flight_begin = begin, n->flight_end = end;
    if (begin < n->flight_begin) n->flight_begin = begin;
    if (end > n->flight_end) n->flight_end = end;
    r->prev = NULL, r->next = n->flight;
    if (r->next) r->next->prev = r;
    n->flight = r;
    ++n->writes, ++m->behind_count, m->behind += r->task.op.size;
    fsb_mount_changed_(m, n);
}

static void fsb_mount_landed_(fsb_mount_req_ *r);

/* Tells the application that it is written, and sends it. */
static void fsb_mount_fly_(fsb_mount_req_ *r)
{
    fuse_req_t q = r->fuse;
    r->fuse = NULL;
    fuse_reply_write(q, r->task.op.size);
    r->then = fsb_mount_landed_;
    fsb_mount_run_(r);
}

/* Lock held. The failure to report, which then is. */
static int fsb_mount_error_take_(fsb_mount *m, fsb_mount_node_ *n)
{
    const int error = n->error;
    if (error) n->error = 0, n->reported = m->changes;
    return error;
}

/* Lock held, but not while a request runs. Runs what waits at the node and may go. */
static void fsb_mount_pump_(fsb_mount *m, fsb_mount_node_ *n)
{
    if (n->pumping) return; /* whoever does sees to it, so the stack cannot pile up */
    n->pumping = 1;
    ++n->pins;
    while (n->waiting.head) {
        fsb_mount_req_ *r = n->waiting.head;
        if (r->delayed ? !n->error && !fsb_mount_may_fly_(m, r) : n->writes != 0) break;
        fsb_mount_pop_(&n->waiting);
        const int error = r->delayed ? fsb_mount_error_take_(m, n) : 0;
        if (r->delayed && !error) fsb_mount_take_off_(m, r);
        fsb_mount_unlock_(m);
        if (error) fsb_mount_fail_(r, error);
        else if (r->delayed) fsb_mount_fly_(r);
        else fsb_mount_drained_(r);
        pthread_mutex_lock(&m->lock);
    }
    n->pumping = 0;
    fsb_mount_unpin_(m, n);
}

/* Lock held, but not while a request runs. There is room again: first come, first served. */
static void fsb_mount_pump_room_(fsb_mount *m)
{
    fsb_mount_node_ *n = m->room_head;
    m->room_head = m->room_tail = NULL;
    while (n) {
        fsb_mount_node_ *next = n->next_room;
        n->wants_room = 0;
        fsb_mount_pump_(m, n);
        fsb_mount_unpin_(m, n);
        n = next;
    }
}

/* Lock held. The write failed: the kernel's pages show what the file does not have. */
static void fsb_mount_lost_(fsb_mount *m, const fsb_mount_req_ *r)
{
    fsb_mount_node_ *n = r->node;
    const int64_t    result = r->task.op.result;
    if (!n->error && r->started > n->reported)
        n->error = result < 0 ? -fsb_mount_errno_(result) : -EIO;
    n->version = 0;
    m->careful_until = fsb_mount_now_() + FSB_MOUNT_CAREFUL_NS_;
    fsb_mount_inval_(m, n, FSB_MOUNT_INVAL_PAGES_);
}

/* Lock held. What a write of a burst answered; the latest of them describes the file at the end. */
static void fsb_mount_burst_(fsb_mount *m, fsb_mount_node_ *n, const fsb_stat *s)
{
    const int later = !n->burst || s->ctime_ns > n->attr.ctime_ns ||
                      (s->ctime_ns == n->attr.ctime_ns && s->size >= n->attr.size);
    if (s->file_id == n->file_id && later) {
        n->burst = 1, n->attr = *s;
        fsb_mount_own_version_(n, s);
    }
    n->attr_until = !n->writes && n->burst && m->attr_ns ? fsb_mount_now_() + m->attr_ns : 0;
}

/* The host has a delayed write, or will not have it: then(). */
static void fsb_mount_landed_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = r->node;
    const fsb_op    *op = &r->task.op;
    const int        ok = op->result == (int64_t)op->size;
    if (!ok)
        fsb_mount_log_(m, FSB_LOG_WARN, "mount/write", "a delayed write failed: %s",
                       strerror(op->result < 0 ? fsb_mount_errno_(op->result) : EIO));
    pthread_mutex_lock(&m->lock);
    if (r->prev) r->prev->next = r->next;
    else n->flight = r->next;
    if (r->next) r->next->prev = r->prev;
    --n->writes, --m->behind_count, m->behind -= op->size;
    n->change = ++m->changes;
    if (ok) fsb_mount_burst_(m, n, &op->stat);
    else fsb_mount_lost_(m, r);
    fsb_mount_pump_(m, n);
    fsb_mount_pump_room_(m);
    fsb_mount_unlock_(m);
    fsb_mount_end_(r);
}

/* 0: it is not to be delayed. */
static int fsb_mount_delay_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = r->node;
    pthread_mutex_lock(&m->lock);
    const int error = fsb_mount_error_take_(m, n);
    if (!error && m->careful_until && fsb_mount_now_() < m->careful_until) {
        pthread_mutex_unlock(&m->lock);
        return 0;
    }
    r->delayed = 1;
    const int go = !error && !n->waiting.head && fsb_mount_may_fly_(m, r);
    if (go) fsb_mount_take_off_(m, r);
    else if (!error) fsb_mount_push_(&n->waiting, r);
    pthread_mutex_unlock(&m->lock);
    if (error) fsb_mount_fail_(r, error);
    else if (go) fsb_mount_fly_(r);
    return 1;
}

/* Answers a write that was not delayed, once it is on the host's disk if that was asked for. */
static void fsb_mount_write_reply_(fsb_mount_req_ *r)
{
    fsb_mount    *m = r->task.mount;
    const int64_t result = r->task.op.result;
    if (result < 0) {
        fsb_mount_fail_(r, result);
        return;
    }
    fuse_reply_write(r->fuse, r->reply_size);
    if (r->elsewhere) { /* the kernel believes the bytes to be elsewhere in the file */
        pthread_mutex_lock(&m->lock);
        fsb_mount_inval_(m, r->node, FSB_MOUNT_INVAL_PAGES_);
        pthread_mutex_unlock(&m->lock);
    }
    fsb_mount_end_(r);
}

static void fsb_mount_written_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *n = r->node;
    fsb_op          *op = &r->task.op;
    if (op->result != (int64_t)op->size) {
        fsb_mount_fail_(r, op->result < 0 ? op->result : -EIO);
        return;
    }
    const int append = (op->flags & FSB_WRITE_APPEND) != 0;
    r->elsewhere = append && op->out_offset != op->offset;
    r->reply_size = op->size;
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, n);
    if (r->elsewhere) n->version = 0; /* a change of somebody else is in it */
    else fsb_mount_own_version_(n, &op->stat);
    fsb_mount_attr_set_(m, n, &op->stat, m->changes);
    pthread_mutex_unlock(&m->lock);
    if (r->elsewhere || op->flags & FSB_WRITE_KILL_PRIV) fsb_mount_inval_attr_(m, n->id);
    if (r->fi.flags & (O_SYNC | O_DSYNC)) {
        op->code = FSB_OP_SYNC, op->flags = (r->fi.flags & O_SYNC) == O_SYNC ? 0 : FSB_SYNC_DATA;
        fsb_mount_go_(r, fsb_mount_write_reply_);
    } else {
        fsb_mount_write_reply_(r);
    }
}

static void fsb_mount_on_write_(fuse_req_t q, fuse_ino_t ino, const char *data, size_t size,
                             off_t offset, struct fuse_file_info *fi)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_WRITE, ino, NULL);
    if (!r || !fsb_mount_by_handle_(r, FSB_O_WRITE) || !fsb_mount_keep_(r, data, size)) return;
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op;
    struct fuse_write_in in;
    memcpy(&in, fsb_mount_raw_(data) + sizeof(struct fuse_in_header), sizeof in);
    r->fi = *fi;
    op->offset = (uint64_t)offset;
    if (fi->flags & O_APPEND && !fi->writepage) op->flags |= FSB_WRITE_APPEND;
    if (in.write_flags & FSB_MOUNT_KILL_WRITE_) op->flags |= FSB_WRITE_KILL_PRIV;
    const uint32_t mode = fsb_mount_changing_(r, r->node);
    const int      loses = op->flags & FSB_WRITE_KILL_PRIV && mode & (S_ISUID | S_ISGID);
    if (m->behind_max && !loses && !(op->flags & FSB_WRITE_APPEND) &&
        !(fi->flags & (O_DIRECT | O_SYNC | O_DSYNC)) && fsb_mount_delay_(r))
        return;
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_written_);
}

/* The failed delayed write of the node, if nobody has heard of it, else `result`. */
static int64_t fsb_mount_report_(fsb_mount_req_ *r, int64_t result)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    const int error = fsb_mount_error_take_(m, r->node);
    pthread_mutex_unlock(&m->lock);
    return error ? error : result < 0 ? result : 0;
}

static void fsb_mount_synced_(fsb_mount_req_ *r)
{
    fsb_mount_fail_(r, fsb_mount_report_(r, r->task.op.result));
}

static void fsb_mount_on_fsync_(fuse_req_t q, fuse_ino_t ino, int data_only,
                                struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SYNC, ino, NULL);
    if (!r) return;
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    r->file = r->node->writer ? r->node->writer : r->node->reader;
    if (r->file) ++r->file->pins;
    else r->how |= FSB_MOUNT_AT_;
    pthread_mutex_unlock(&m->lock);
    r->task.op.flags = data_only ? FSB_SYNC_DATA : 0;
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_synced_);
}

static void fsb_mount_fallocated_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    fsb_op    *op = &r->task.op;
    if (op->result >= 0 && op->code == FSB_OP_ALLOCATE && op->stat.mode & (S_ISUID | S_ISGID) &&
        fuse_req_ctx(r->fuse)->uid != 0) { /* no flag of the kernel's says so, as with WRITE */
        op->code = FSB_OP_SETATTR, op->flags = 0, op->attr.mask = FSB_ATTR_KILL_PRIV;
        fsb_mount_go_(r, fsb_mount_fallocated_);
        return;
    }
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, r->node);
    if (r->task.op.result >= 0) {
        fsb_mount_own_version_(r->node, &r->task.op.stat);
        fsb_mount_attr_set_(m, r->node, &r->task.op.stat, m->changes);
    }
    pthread_mutex_unlock(&m->lock);
    fsb_mount_reply_err_(r);
}

static void fsb_mount_on_fallocate_(fuse_req_t q, fuse_ino_t ino, int mode, off_t offset,
                                    off_t length, struct fuse_file_info *fi)
{
    (void)fi;
    const int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_ALLOCATE, ino, NULL);
    if (!r || !fsb_mount_by_handle_(r, FSB_O_WRITE)) return;
    if (mode & ~known) {
        fsb_mount_fail_(r, -EOPNOTSUPP);
        return;
    }
    fsb_op *op = &r->task.op;
    if (mode & FALLOC_FL_KEEP_SIZE) op->flags |= FSB_ALLOC_KEEP_SIZE;
    if (mode & FALLOC_FL_PUNCH_HOLE) op->flags |= FSB_ALLOC_PUNCH_HOLE;
    if (mode & FALLOC_FL_ZERO_RANGE) op->flags |= FSB_ALLOC_ZERO_RANGE;
    op->offset = (uint64_t)offset, op->size64 = (uint64_t)length;
    fsb_mount_changing_(r, r->node);
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_fallocated_);
}

/* Copied into a file that loses its set-user-id bit by that: answers how much it was. */
static void fsb_mount_copy_killed_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, r->node);
    pthread_mutex_unlock(&m->lock);
    if (r->task.op.result < 0) {
        fsb_mount_fail_(r, r->task.op.result);
        return;
    }
    fsb_mount_inval_attr_(m, r->node->id);
    fuse_reply_write(r->fuse, r->reply_size);
    fsb_mount_end_(r);
}

static void fsb_mount_copied_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *to = r->node2;
    fsb_mount_file_ *file = r->file2;
    fsb_op          *op = &r->task.op;
    const int64_t    n = op->result;
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, to);
    to->version = 0;
    const int loses = n > 0 && to->attr.mode & (S_ISUID | S_ISGID);
    pthread_mutex_unlock(&m->lock);
    if (n < 0 || (uint64_t)n > op->size64) {
        fsb_mount_fail_(r, n < 0 ? n : -EIO);
        return;
    }
    r->reply_size = (size_t)n;
    if (loses && fuse_req_ctx(r->fuse)->uid != 0) { /* as with fallocate */
        r->node2 = r->node, r->node = to, r->file2 = r->file, r->file = file;
        memset(op, 0, sizeof *op);
        op->code = FSB_OP_SETATTR, op->attr.mask = FSB_ATTR_KILL_PRIV;
        op->timeout_ms = m->timeout_ms, r->how = 0;
        fsb_mount_go_(r, fsb_mount_copy_killed_);
        return;
    }
    fuse_reply_write(r->fuse, r->reply_size);
    fsb_mount_end_(r);
}

static void fsb_mount_on_copy_(fuse_req_t q, fuse_ino_t ino, off_t offset,
                                  struct fuse_file_info *fi, fuse_ino_t ino2, off_t offset2,
                                  struct fuse_file_info *fi2, size_t size, int flags)
{
    (void)fi, (void)fi2, (void)flags;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_COPY, ino, NULL);
    if (!r || !fsb_mount_begin2_(r, ino2, NULL) || !fsb_mount_by_handle_(r, FSB_O_READ)) return;
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    r->file2 = fsb_mount_file_for_(r->node2, FSB_O_WRITE);
    if (r->file2) ++r->file2->pins;
    pthread_mutex_unlock(&m->lock);
    if (!r->file2) {
        fsb_mount_fail_(r, -EBADF);
        return;
    }
    r->task.op.offset = (uint64_t)offset, r->task.op.offset2 = (uint64_t)offset2;
    r->task.op.size64 = size < FSB_MOUNT_COPY_MAX_ ? size : FSB_MOUNT_COPY_MAX_;
    fsb_mount_changing_(r, r->node2);
    r->how |= FSB_MOUNT_DRAINED_ | FSB_MOUNT_DRAINED2_;
    fsb_mount_go_(r, fsb_mount_copied_);
}

static void fsb_mount_sought_(fsb_mount_req_ *r)
{
    const int64_t result = r->task.op.result;
    if (result < 0 || r->task.op.out_offset > INT64_MAX) {
        fsb_mount_fail_(r, result < 0 ? result : -EIO);
        return;
    }
    fuse_reply_lseek(r->fuse, (off_t)r->task.op.out_offset);
    fsb_mount_end_(r);
}

static void fsb_mount_on_lseek_(fuse_req_t q, fuse_ino_t ino, off_t offset, int whence,
                             struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SEEK, ino, NULL);
    if (!r) return;
    if ((whence != SEEK_DATA && whence != SEEK_HOLE) || offset < 0) {
        fsb_mount_fail_(r, offset < 0 ? -ENXIO : -EINVAL);
        return;
    }
    if (!fsb_mount_by_handle_(r, 0)) return;
    r->task.op.flags = whence == SEEK_DATA ? FSB_SEEK_DATA : FSB_SEEK_HOLE;
    r->task.op.offset = (uint64_t)offset;
    r->how |= FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_sought_);
}

/* ---- [list] ---------------------------------------------------------------------------------- */
/* A listing is fetched in batches larger than what the kernel asks for at once. Its offsets are the
   backend's cookies, shifted to make room for "." and "..": offset 1 stands behind ".", 2 behind
   "..". INT64_MAX stays, as many file systems end a folder with it; it trades places with what
   would be shifted there. So every cookie of 63 bits has an offset of its own. */

static uint64_t fsb_mount_offset_(uint64_t cookie)
{
    if (cookie == (uint64_t)INT64_MAX) return cookie;
    return cookie == (uint64_t)INT64_MAX - 2 ? (uint64_t)INT64_MAX + 2 : cookie + 2;
}

static uint64_t fsb_mount_cookie_(uint64_t offset)
{
    if (offset == (uint64_t)INT64_MAX) return offset;
    return offset == (uint64_t)INT64_MAX + 2 ? (uint64_t)INT64_MAX - 2 : offset - 2;
}

/* Under a lease the kernel keeps listings until an event drops them, so a folder need not be opened
   at all: once it is told so it does not ask again. */
static void fsb_mount_on_opendir_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    const fsb_mount      *m = fsb_mount_of_(q);
    struct fuse_file_info answer = *fi;
    (void)ino;
    answer.fh = 0;
    if (m->dirs_unopened) fuse_reply_err(q, ENOSYS);
    else fuse_reply_open(q, &answer);
}

/* Lock held. */
static void fsb_mount_dir_free_(fsb_mount *m, fsb_mount_dir_ *d)
{
    fsb_mount_unpin_(m, d->node);
    fsb_mount_free_(m, d->batch, d->room);
    fsb_mount_free_(m, d, sizeof *d);
}

/* Lock held. Frees all but the latest `most`. */
static void fsb_mount_dirs_trim_(fsb_mount *m, uint32_t most)
{
    fsb_mount_dir_ **at = &m->dirs;
    for (; *at && most; --most) at = &(*at)->next;
    while (*at) {
        fsb_mount_dir_ *d = *at;
        *at = d->next;
        fsb_mount_dir_free_(m, d);
    }
}

/* Lock held. Takes the part of the node's listing that may go on at the cookie, or a new one. Who
   begins starts anew; several who list one folder at once do not get into each other's way. */
static fsb_mount_dir_ *fsb_mount_dir_take_(fsb_mount *m, fsb_mount_node_ *node, uint64_t cookie)
{
    fsb_mount_dir_ **found = NULL, *d;
    for (fsb_mount_dir_ **at = &m->dirs; *at && cookie; at = &(*at)->next)
        if ((*at)->node == node && (!found || (*at)->cookie == cookie)) found = at;
    if (found) {
        d = *found;
        *found = d->next;
        return d;
    }
    d = (fsb_mount_dir_ *)fsb_mount_zeroed_(m, sizeof *d);
    if (d) d->node = node, ++node->pins, d->want = FSB_MOUNT_BATCH_MIN_;
    return d;
}

/* Keeps it for whoever asks for more, unless there is no more. */
static void fsb_mount_dir_put_(fsb_mount *m, fsb_mount_dir_ *d)
{
    const int over = !d->fetched || (d->at == d->size && d->end);
    pthread_mutex_lock(&m->lock);
    if (over) {
        fsb_mount_dir_free_(m, d);
    } else {
        d->next = m->dirs, m->dirs = d;
        fsb_mount_dirs_trim_(m, FSB_MOUNT_DIRS_);
    }
    fsb_mount_unlock_(m);
}

static int fsb_mount_name_ok_(const char *name, size_t size)
{
    if (!size || size > FSB_NAME_MAX || memchr(name, '/', size) || memchr(name, '\0', size))
        return 0;
    return name[0] != '.' || (size > 1 && (name[1] != '.' || size > 2));
}

/* Packs a name into the batch: LIST's emit(). */
static int fsb_mount_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_mount_dir_  *d = ((fsb_mount_req_ *)(void *)op)->dir;
    fsb_mount_entry_ e;
    const uint64_t   offset = fsb_mount_offset_(entry->cookie);
    if (d->bad || !fsb_mount_name_ok_(entry->name, entry->name_size) || !entry->cookie ||
        offset < 2) {
        d->bad = 1;
        return 1;
    }
    const size_t size = (sizeof e + entry->name_size + 1 + 7) & ~(size_t)7;
    if (size > d->room - d->size) return 1;
    memset(&e, 0, sizeof e);
    e.stat = entry->stat, e.cookie = entry->cookie;
    e.size = (uint32_t)size, e.name_size = (uint32_t)entry->name_size;
    memcpy(d->batch + d->size, &e, sizeof e);
    memcpy(d->batch + d->size + sizeof e, entry->name, entry->name_size);
    d->batch[d->size + sizeof e + entry->name_size] = '\0';
    d->size += size, d->last = entry->cookie;
    return 0;
}

static fsb_mount_entry_ fsb_mount_entry_at_(const fsb_mount_dir_ *d, size_t at)
{
    fsb_mount_entry_ e;
    memcpy(&e, d->batch + at, sizeof e);
    return e;
}

/* Sets d->at behind the cookie: 1, or 0 if the batch is of no use for that. */
static int fsb_mount_seek_batch_(fsb_mount *m, fsb_mount_dir_ *d, uint64_t cookie, int plus)
{
    pthread_mutex_lock(&m->lock);
    const int changed = d->node->change > d->started || d->node->below > d->started;
    pthread_mutex_unlock(&m->lock);
    if (!d->fetched || (plus && !d->plus)) return 0;
    if (changed || fsb_mount_now_() - d->fetched > (int64_t)FSB_MOUNT_QUIET_MS_ * 1000000) {
        d->want = FSB_MOUNT_BATCH_MIN_; /* what changes meanwhile is not worth large batches */
        return 0;
    }
    if (cookie != d->cookie) d->at = 0, d->cookie = d->first;
    while (d->cookie != cookie && d->at < d->size) {
        const fsb_mount_entry_ e = fsb_mount_entry_at_(d, d->at);
        d->at += e.size, d->cookie = e.cookie;
    }
    return d->cookie == cookie && (d->at < d->size || d->end);
}

/* One more entry into the reply; 0: it does not fit. */
static size_t fsb_mount_add_(fsb_mount_req_ *r, size_t used, const char *name, uint64_t offset,
                             const struct fuse_entry_param *e)
{
    char        *to = (char *)r->extra + used;
    const size_t left = r->reply_size - used;
    const size_t size =
        r->plus ? fuse_add_direntry_plus(r->fuse, to, left, name, e, (off_t)offset)
                : fuse_add_direntry(r->fuse, to, left, name, &e->attr, (off_t)offset);
    return size <= left ? size : 0;
}

static size_t fsb_mount_add_dots_(fsb_mount_req_ *r)
{
    fsb_mount              *m = r->task.mount;
    struct fuse_entry_param e;
    size_t                  used = 0, size = 0;
    memset(&e, 0, sizeof e); /* no node: the kernel knows these two */
    e.attr.st_mode = S_IFDIR;
    pthread_mutex_lock(&m->lock);
    const fsb_mount_node_ *n = r->node, *up = n->names ? n->names->parent : n;
    const ino_t            self = (ino_t)n->attr.ino, parent = (ino_t)up->attr.ino;
    pthread_mutex_unlock(&m->lock);
    e.attr.st_ino = self;
    if (r->list_offset == 0 && (size = fsb_mount_add_(r, used, ".", 1, &e)) != 0)
        used += size, r->list_offset = 1;
    e.attr.st_ino = parent;
    if (r->list_offset == 1 && (size = fsb_mount_add_(r, used, "..", 2, &e)) != 0)
        used += size, r->list_offset = 2;
    return used;
}

/* The folder of that id is listed behind the one before: they may be read in this order. */
static void fsb_mount_follows_(fsb_mount *m, fsb_mount_dir_ *d, uint64_t id)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_node_ *before = fsb_mount_node_at_(m, d->folder);
    if (before) before->next_folder = id;
    d->folder = id;
    pthread_mutex_unlock(&m->lock);
}

/* With readdirplus: the node of an entry, as for a lookup. What this mount is changing, or has
   changed since the batch was fetched, is left for the kernel to look up. */
static int fsb_mount_entry_node_(fsb_mount_req_ *r, const fsb_mount_entry_ *at, const char *name,
                                 int64_t age, struct fuse_entry_param *e)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_dir_  *d = r->dir;
    fsb_mount_node_ *n = NULL;
    memset(e, 0, sizeof *e);
    e->attr.st_ino = (ino_t)at->stat.ino, e->attr.st_mode = (mode_t)at->stat.mode;
    if (!r->plus) return 0;
    if (!fsb_mount_stat_ok_(m, &at->stat)) return -EIO;
    pthread_mutex_lock(&m->lock);
    const fsb_mount_node_ *known = fsb_mount_node_find_(m, at->stat.file_id);
    int err = known && fsb_mount_outdated_(known, d->started) ? -EAGAIN : 0;
    if (!err) err = fsb_mount_learn_(m, d->node, name, &at->stat, d->started, &n);
    const int tainted = d->node->below > d->started;
    if (n && tainted) n->attr_until = 0;
    const uint64_t id = n ? n->id : 0;
    fsb_mount_unlock_(m);
    if (err == -ENOMEM) return err;
    if (!err && S_ISDIR(at->stat.mode)) fsb_mount_follows_(m, d, id);
    if (!err) *e = fsb_mount_entry_param_(m, id, &at->stat, tainted ? 0 : m->attr_ns - age);
    if (!err && tainted) e->entry_timeout = 0;
    return 0;
}

/* Fills the reply from the batch. */
static int64_t fsb_mount_fill_(fsb_mount_req_ *r)
{
    fsb_mount_dir_ *d = r->dir;
    size_t          used = fsb_mount_add_dots_(r);
    const int64_t   age = fsb_mount_now_() - d->fetched;
    while (r->list_offset >= 2 && d->at < d->size) {
        const fsb_mount_entry_  at = fsb_mount_entry_at_(d, d->at);
        const char             *name = d->batch + d->at + sizeof at;
        struct fuse_entry_param e;
        const size_t need = r->plus ? fuse_add_direntry_plus(r->fuse, NULL, 0, name, NULL, 0)
                                    : fuse_add_direntry(r->fuse, NULL, 0, name, NULL, 0);
        if (need > r->reply_size - used) break;
        const int err = fsb_mount_entry_node_(r, &at, name, age, &e);
        if (err && !used) return err;
        if (err) break;
        used += fsb_mount_add_(r, used, name, fsb_mount_offset_(at.cookie), &e);
        d->at += at.size, d->cookie = at.cookie;
    }
    if (!used && !(d->at == d->size && d->end)) return -EINVAL; /* room for no entry at all */
    return (int64_t)used;
}

/* The kernel has not taken the listing: it knows nothing of the nodes in it. */
static void fsb_mount_unlisted_(fsb_mount_req_ *r, size_t size)
{
    fsb_mount  *m = r->task.mount;
    const char *reply = (const char *)r->extra;
    pthread_mutex_lock(&m->lock);
    for (size_t at = 0; r->plus && at < size;) {
        const struct fuse_direntplus *e =
            (const struct fuse_direntplus *)(const void *)(reply + at);
        fsb_mount_forget_one_(m, e->entry_out.nodeid, 1);
        at += FUSE_DIRENTPLUS_SIZE(e);
    }
    fsb_mount_unlock_(m);
}

static void fsb_mount_list_end_(fsb_mount_req_ *r, int64_t result)
{
    /* Before the answer: the next request can be here before that call ends. */
    fsb_mount_dir_put_(r->task.mount, r->dir);
    if (result < 0) fuse_reply_err(r->fuse, fsb_mount_errno_(result));
    else if (fuse_reply_buf(r->fuse, (const char *)r->extra, (size_t)result) < 0)
        fsb_mount_unlisted_(r, (size_t)result);
    fsb_mount_end_(r);
}

static void fsb_mount_listed_(fsb_mount_req_ *r)
{
    fsb_mount_dir_ *d = r->dir;
    int64_t         result = r->task.op.result;
    d->end = result == 1, d->started = r->started, d->fetched = fsb_mount_now_();
    if (result >= 0 && (d->bad || (!d->end && !d->size))) {
        fsb_mount_log_(r->task.mount, FSB_LOG_ERROR, "mount/list",
                       "the backend lists what cannot be a name, or does not get on: %s", r->path);
        result = -EIO;
    }
    if (result < 0) d->fetched = 0;
    fsb_mount_list_end_(r, result < 0 ? result : fsb_mount_fill_(r));
}

/* Fetches the batch behind the cookie; larger than the last one if that was used up. */
static void fsb_mount_fetch_(fsb_mount_req_ *r, uint64_t cookie)
{
    fsb_mount      *m = r->task.mount;
    fsb_mount_dir_ *d = r->dir;
    fsb_op         *op = &r->task.op;
    if (d->fetched && d->want < FSB_MOUNT_BATCH_MAX_) d->want *= 2;
    if (d->room < d->want) {
        char *batch = (char *)fsb_mount_alloc_(m, d->want);
        if (!batch) {
            fsb_mount_list_end_(r, -ENOMEM);
            return;
        }
        fsb_mount_free_(m, d->batch, d->room);
        d->batch = batch, d->room = d->want;
    }
    d->size = d->at = 0, d->bad = 0, d->fetched = 0;
    d->first = d->last = d->cookie = cookie, d->plus = r->plus;
    op->offset = cookie, op->flags = r->plus ? FSB_LIST_STAT : 0, op->emit = fsb_mount_emit_;
    r->how = FSB_MOUNT_AT_;
    fsb_mount_go_(r, fsb_mount_listed_);
}

static void fsb_mount_list_(fuse_req_t q, fuse_ino_t ino, size_t size, off_t offset, int plus)
{
    const size_t    room = size < FSB_MOUNT_REPLY_MAX_ ? size : (size_t)FSB_MOUNT_REPLY_MAX_;
    const uint64_t  cookie = offset > 2 || offset < 0 ? fsb_mount_cookie_((uint64_t)offset) : 0;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_LIST, ino, NULL);
    if (!r || !fsb_mount_extra_(r, room)) return;
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_dir_ *d = fsb_mount_dir_take_(m, r->node, cookie);
    const int       removed = r->node->removed && !r->node->names;
    pthread_mutex_unlock(&m->lock);
    if (!d) {
        fsb_mount_fail_(r, -ENOMEM);
        return;
    }
    r->dir = d, r->plus = plus, r->list_offset = (uint64_t)offset;
    r->reply_size = room;
    if (removed) fsb_mount_list_end_(r, 0);
    else if (offset && fsb_mount_seek_batch_(m, d, cookie, plus))
        fsb_mount_list_end_(r, fsb_mount_fill_(r));
    else fsb_mount_fetch_(r, cookie);
}

static void fsb_mount_on_readdir_(fuse_req_t q, fuse_ino_t ino, size_t size, off_t offset,
                               struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_list_(q, ino, size, offset, 0);
}

static void fsb_mount_on_readdirplus_(fuse_req_t q, fuse_ino_t ino, size_t size, off_t offset,
                                   struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_list_(q, ino, size, offset, 1);
}

/* A folder that is open but gone has nothing left to write. */
static void fsb_mount_dir_synced_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    const int gone = r->node->removed && !r->node->names;
    pthread_mutex_unlock(&m->lock);
    if (gone) r->task.op.result = 0;
    fsb_mount_reply_err_(r);
}

static void fsb_mount_on_fsyncdir_(fuse_req_t q, fuse_ino_t ino, int data_only,
                                struct fuse_file_info *fi)
{
    (void)fi;
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SYNC, ino, NULL);
    if (!r) return;
    r->task.op.flags = data_only ? FSB_SYNC_DATA : 0;
    r->how |= FSB_MOUNT_AT_;
    fsb_mount_go_(r, fsb_mount_dir_synced_);
}

/* ---- [ahead] --------------------------------------------------------------------------------- */
/* Who opens small files of a folder one after another will open the others, and those of the next
   folder: the bytes of many are asked for in one listing, and offered to the kernel's page cache;
   what it does not take, perhaps because nobody has looked up the name yet, is held for who reads
   it. What one listing has no room for is asked for when a file is missing. If that brings the file
   the folder is read in the order it is listed in, and the next time more listings follow at once;
   if not, each file that is missing asks for one, as long as enough of what came is opened and all
   of it can be held.
   Under a lease only, for otherwise each open asks the host anyway. */

#define FSB_MOUNT_AHEAD_STREAK_ ((int64_t)2 * 1000000000)
#define FSB_MOUNT_AHEAD_AGAIN_ ((int64_t)10 * 1000000000)

struct fsb_mount_bytes_ {            /* of one file; they lie behind */
    fsb_mount_link_   link;          /* in mount->bytes, by file_id */
    fsb_mount_bytes_ *older, *newer;
    uint64_t          file_id, version;
    uint64_t          started;       /* mount->changes when they were asked for */
    uint32_t          pins;          /* of who holds, offers, reads them */
    int               held;
    size_t            size;
};

typedef struct fsb_mount_pack_ { /* what one listing brings */
    fsb_mount_bytes_ *first, **last; /* by `newer` */
    size_t            size;          /* of these */
    uint32_t          count;
    uint64_t          cookie;        /* of the last name */
} fsb_mount_pack_;

/* Takes a file's bytes: LIST's emit(). They are not the listing that the kernel asked for. Where a
   host has no more room for bytes, the names behind come without: there the next one begins. */
static int fsb_mount_emit_bytes_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_mount_req_  *r = (fsb_mount_req_ *)(void *)op;
    fsb_mount_pack_ *p = (fsb_mount_pack_ *)r->extra;
    const uint64_t   size = entry->stat.size;
    if (S_ISREG(entry->stat.mode) && size && size <= FSB_MOUNT_AHEAD_FILE_) {
        const size_t      all = sizeof(fsb_mount_bytes_) + (size_t)size;
        const int         full = p->size > FSB_MOUNT_AHEAD_BYTES_ / 2;
        fsb_mount_bytes_ *b = NULL;
        if (entry->data && all <= FSB_MOUNT_AHEAD_BYTES_ - p->size)
            b = (fsb_mount_bytes_ *)fsb_mount_alloc_(r->task.mount, all);
        if (!b && (full || entry->data)) return 1;
        if (b) {
            b->file_id = entry->stat.file_id, b->version = entry->stat.version;
            b->size = (size_t)size, b->newer = NULL;
            memcpy(b + 1, entry->data, b->size);
            *p->last = b, p->last = &b->newer, p->size += all, ++p->count;
        }
    }
    p->cookie = entry->cookie;
    return 0;
}

/* Lock held. */
static void fsb_mount_bytes_unpin_(fsb_mount *m, fsb_mount_bytes_ *b)
{
    if (!--b->pins) fsb_mount_free_(m, b, sizeof *b + b->size);
}

/* Lock held. What is held of the file; NULL: nothing. */
static fsb_mount_bytes_ *fsb_mount_bytes_find_(const fsb_mount *m, uint64_t file_id)
{
    const uint64_t   hash = fsb_mount_mix_(file_id);
    fsb_mount_link_ *l = fsb_mount_table_first_(&m->bytes, hash);
    while (l && ((fsb_mount_bytes_ *)(void *)l)->file_id != file_id) l = l->next;
    return (fsb_mount_bytes_ *)(void *)l;
}

/* Lock held. They are held no more; the pin is the caller's. */
static void fsb_mount_bytes_take_(fsb_mount *m, fsb_mount_bytes_ *b)
{
    fsb_mount_table_remove_(&m->bytes, &b->link);
    if (m->unoffered == b) m->unoffered = b->newer;
    *(b->older ? &b->older->newer : &m->oldest) = b->newer;
    *(b->newer ? &b->newer->older : &m->newest) = b->older;
    m->held -= sizeof *b + b->size;
    b->held = 0;
}

/* Lock held. Holds them, instead of what was held of the file. */
static void fsb_mount_bytes_hold_(fsb_mount *m, fsb_mount_bytes_ *b)
{
    fsb_mount_bytes_ *before = fsb_mount_bytes_find_(m, b->file_id);
    if (before) {
        fsb_mount_bytes_take_(m, before);
        fsb_mount_bytes_unpin_(m, before);
    }
    b->link.hash = fsb_mount_mix_(b->file_id);
    fsb_mount_table_add_(m, &m->bytes, &b->link);
    b->older = m->newest, b->newer = NULL, b->pins = 1, b->held = 1;
    *(m->newest ? &m->newest->newer : &m->oldest) = b;
    m->newest = b;
    if (!m->unoffered) m->unoffered = b;
    m->held += sizeof *b + b->size;
}

/* Lock held. Holds the newest only, `most` bytes of them. */
static void fsb_mount_bytes_trim_(fsb_mount *m, size_t most)
{
    while (m->held > most) {
        fsb_mount_bytes_ *b = m->oldest;
        fsb_mount_bytes_take_(m, b);
        fsb_mount_bytes_unpin_(m, b);
    }
}

/* Lock held. Are these the bytes that the node has now, as far as is known? */
static int fsb_mount_bytes_good_(const fsb_mount_node_ *n, const fsb_mount_bytes_ *b)
{
    return n->attr_until && n->attr.version == b->version && n->attr.size == b->size &&
           !fsb_mount_outdated_(n, b->started);
}

/* Answers a read of the whole file from what is held: 1, or 0 if that does not have it. */
static int fsb_mount_read_held_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_bytes_ *b = fsb_mount_bytes_find_(m, r->node->file_id);
    const int         good = b && fsb_mount_bytes_good_(r->node, b);
    if (b) fsb_mount_bytes_take_(m, b);
    if (good) ++m->opened;
    else if (b) fsb_mount_bytes_unpin_(m, b);
    pthread_mutex_unlock(&m->lock);
    if (!good) return 0;
    const size_t most = r->task.op.size;
    fuse_reply_buf(r->fuse, (const char *)(b + 1), b->size < most ? b->size : most);
    fsb_mount_end_(r);
    pthread_mutex_lock(&m->lock);
    fsb_mount_bytes_unpin_(m, b);
    pthread_mutex_unlock(&m->lock);
    return 1;
}

/* Offers the kernel the next bytes, unless they are out of date, or it has some. Here, on serve()'s
   thread, for the one that brings the answers to reads must not wait for pages. */
static void fsb_mount_offer_(fsb_mount *m)
{
    struct fuse_bufvec bytes;
    pthread_mutex_lock(&m->lock);
    fsb_mount_bytes_ *b = m->unoffered;
    fsb_mount_node_  *n = b ? fsb_mount_node_find_(m, b->file_id) : NULL;
    const int good = n && n->lookups && !n->version && fsb_mount_bytes_good_(n, b);
    if (b) m->unoffered = b->newer;
    if (good) ++b->pins, ++n->pins;
    pthread_mutex_unlock(&m->lock);
    if (!good) return;
    memset(&bytes, 0, sizeof bytes);
    bytes.count = 1, bytes.buf[0].mem = b + 1, bytes.buf[0].size = b->size, bytes.buf[0].fd = -1;
    const enum fuse_buf_copy_flags none = (enum fuse_buf_copy_flags)0;
    const int err = fuse_lowlevel_notify_store(m->session, n->id, 0, &bytes, none);
    pthread_mutex_lock(&m->lock);
    if (!err && !n->version && fsb_mount_bytes_good_(n, b)) n->version = b->version, n->stored = 1;
    if (!err && b->held) {
        fsb_mount_bytes_take_(m, b);
        fsb_mount_bytes_unpin_(m, b);
    }
    fsb_mount_bytes_unpin_(m, b);
    fsb_mount_unpin_(m, n);
    fsb_mount_unlock_(m);
}

/* Lock held. Takes a request to fetch the bytes of the folder's small files with, from the cookie
   on, or NULL: not now. */
static fsb_mount_req_ *fsb_mount_fetch_new_(fsb_mount *m, fsb_mount_node_ *folder, uint64_t from)
{
    if (m->fetches >= FSB_MOUNT_AHEAD_FLIGHT_) return NULL;
    fsb_mount_req_ *r = (fsb_mount_req_ *)fsb_mount_alloc_(m, sizeof *r);
    if (!r) return NULL;
    memset(r, 0, offsetof(fsb_mount_req_, name));
    r->extra_size = sizeof(fsb_mount_pack_);
    r->extra = fsb_mount_zeroed_(m, r->extra_size);
    if (!r->extra) {
        fsb_mount_free_(m, r, sizeof *r);
        return NULL;
    }
    fsb_mount_pack_ *p = (fsb_mount_pack_ *)r->extra;
    p->last = &p->first;
    r->task.mount = m, r->node = folder, r->how = FSB_MOUNT_AT_;
    r->task.op.code = FSB_OP_LIST, r->task.op.flags = FSB_LIST_STAT | FSB_LIST_DATA;
    r->task.op.offset = from, r->task.op.size64 = FSB_MOUNT_AHEAD_BYTES_;
    r->task.op.emit = fsb_mount_emit_bytes_, r->task.op.timeout_ms = m->timeout_ms;
    ++folder->pins, ++m->live, ++m->fetches;
    folder->fetched = fsb_mount_now_(), folder->fetching = 1, folder->small = 0;
    folder->fetched_to = from, folder->pieces = from ? folder->pieces + 1 : 1;
    m->streak = folder->fetched + FSB_MOUNT_AHEAD_STREAK_;
    return r;
}

/* Lock held. Holds what the listing brought, and looks whether that has what was missing. */
static void fsb_mount_brought_(fsb_mount *m, fsb_mount_req_ *r)
{
    fsb_mount_pack_ *p = (fsb_mount_pack_ *)r->extra;
    fsb_mount_node_ *folder = r->node;
    folder->fetched_to = r->task.op.result ? 0 : p->cookie;
    m->brought += p->count;
    for (fsb_mount_bytes_ *b = p->first, *next; b; b = next) {
        next = b->newer, b->started = r->started;
        fsb_mount_bytes_hold_(m, b);
    }
    fsb_mount_bytes_trim_(m, FSB_MOUNT_AHEAD_HELD_);
    if (r->node2) {
        const int found = fsb_mount_bytes_find_(m, r->node2->file_id) != NULL;
        folder->wave = found ? folder->run : 0;
        folder->run = !found ? 0 : folder->run ? folder->run * 2 : 1;
        if (folder->run > FSB_MOUNT_AHEAD_RUN_) folder->run = FSB_MOUNT_AHEAD_RUN_;
        if (found && m->files_unopened) m->opened += p->count; /* opens are not seen */
    }
    if (m->brought > 2 * FSB_MOUNT_AHEAD_TRIAL_) m->brought /= 2, m->opened /= 2;
}

/* The listing is here: the reads that wait for it first, then the next one of the wave. */
static void fsb_mount_fetched_(fsb_mount_req_ *r)
{
    fsb_mount       *m = r->task.mount;
    fsb_mount_node_ *folder = r->node;
    pthread_mutex_lock(&m->lock);
    fsb_mount_req_ *waiting = folder->readers_waiting.head, *next = NULL;
    folder->readers_waiting.head = folder->readers_waiting.tail = NULL;
    folder->fetching = 0, --m->fetches;
    fsb_mount_brought_(m, r);
    if (folder->wave && folder->fetched_to)
        next = fsb_mount_fetch_new_(m, folder, folder->fetched_to);
    if (next) --folder->wave;
    pthread_mutex_unlock(&m->lock);
    while (waiting) {
        fsb_mount_req_ *then = waiting->next;
        if (!fsb_mount_read_held_(waiting)) fsb_mount_go_(waiting, fsb_mount_got_);
        waiting = then;
    }
    fsb_mount_signal_(m->wake);
    if (next) fsb_mount_go_(next, fsb_mount_fetched_);
    fsb_mount_end_(r);
}

/* Lock held. Too little of what was fetched is opened. */
static int fsb_mount_ahead_unread_(const fsb_mount *m)
{
    return m->brought > FSB_MOUNT_AHEAD_TRIAL_ && m->opened < m->brought / 4;
}

/* Lock held. Is it in vain to go on? Too little of what was fetched is opened, or the folder is not
   read in its order and there is more of it than can be held. */
static int fsb_mount_ahead_vain_(const fsb_mount *m, const fsb_mount_node_ *folder)
{
    return fsb_mount_ahead_unread_(m) ||
           (!folder->run && folder->pieces >= FSB_MOUNT_AHEAD_HELD_ / FSB_MOUNT_AHEAD_BYTES_);
}

/* Lock held. A request to fetch the folder's bytes with: the first, or where a file is missing
   (NULL: none is) those behind; NULL: neither. */
static fsb_mount_req_ *fsb_mount_fetch_more_(fsb_mount *m, fsb_mount_node_ *folder,
                                             fsb_mount_node_ *missing)
{
    uint64_t from = folder->fetched_to;
    if (folder->fetching) return NULL;
    const int anew = !folder->fetched ||
                     (fsb_mount_now_() - folder->fetched >= FSB_MOUNT_AHEAD_AGAIN_ &&
                      !(from && folder->run));
    if (anew) from = 0;
    else if (!from || !missing || fsb_mount_ahead_vain_(m, folder)) return NULL;
    fsb_mount_req_ *r = fsb_mount_fetch_new_(m, folder, from);
    if (r && missing) r->node2 = missing, ++missing->pins;
    return r;
}

/* Lock held. A small file was opened: perhaps its folder is being read file by file. Writes what is
   to be fetched to out and returns how many. */
static int fsb_mount_small_(fsb_mount *m, fsb_mount_node_ *n, fsb_mount_req_ **out)
{
    fsb_mount_node_ *folder = n->names ? n->names->parent : NULL, *missing = NULL;
    int              count = 0;
    if (n->stored) n->stored = 0, ++m->opened;
    else if (n->version) return 0; /* the kernel has it already */
    else if (!fsb_mount_bytes_find_(m, n->file_id)) missing = n;
    if (!folder || n->attr.size > FSB_MOUNT_AHEAD_FILE_ || m->far) return 0;
    const int64_t now = fsb_mount_now_();
    if (now >= m->streak + FSB_MOUNT_AHEAD_AGAIN_) m->brought = m->opened = 0; /* another reader */
    if (!m->files_unopened && fsb_mount_ahead_unread_(m)) return 0;
    const uint32_t enough = now < m->streak ? 1 : FSB_MOUNT_AHEAD_OPENS_;
    if (!folder->fetching && ++folder->small < enough && !folder->fetched) return 0;
    for (int i = 0; folder && i <= FSB_MOUNT_AHEAD_FOLDERS_; ++i) {
        out[count] = fsb_mount_fetch_more_(m, folder, missing);
        if (out[count]) ++count;
        folder = fsb_mount_node_at_(m, folder->next_folder);
        missing = NULL;
    }
    return count;
}

/* Lock held. Waits with the read for the folder's bytes, if they are on their way and likely to be
   those: 1. */
static int fsb_mount_read_waits_(fsb_mount_req_ *r)
{
    fsb_mount_node_ *folder = r->node->names ? r->node->names->parent : NULL;
    if (!folder || !folder->fetching || (folder->fetched_to && !folder->run)) return 0;
    if (fsb_mount_bytes_find_(r->task.mount, r->node->file_id)) return 0;
    fsb_mount_push_(&folder->readers_waiting, r);
    return 1;
}

/* ---- [xattr] --------------------------------------------------------------------------------- */

/* The answer to GETXATTR and LISTXATTR: the bytes, or how many there are. */
static void fsb_mount_xattr_got_(fsb_mount_req_ *r)
{
    const int64_t n = r->task.op.result;
    const size_t  size = r->task.op.size;
    if (n < 0 || n > INT32_MAX || (size && (size_t)n > size))
        fsb_mount_fail_(r, n < 0 ? n : -EIO);
    else if (!size)
        fuse_reply_xattr(r->fuse, (size_t)n), fsb_mount_end_(r);
    else
        fuse_reply_buf(r->fuse, (const char *)r->task.op.buf, (size_t)n), fsb_mount_end_(r);
}

/* Sets op.path2 to the attribute's name, and returns the room behind it; NULL: was refused. */
static char *fsb_mount_xattr_(fsb_mount_req_ *r, const char *name, size_t size)
{
    const size_t length = strlen(name) + 1;
    if (length > 256 || size > 65536) { /* XATTR_NAME_MAX, XATTR_SIZE_MAX */
        fsb_mount_fail_(r, length > 256 ? -ERANGE : -E2BIG);
        return NULL;
    }
    char *extra = (char *)fsb_mount_extra_(r, length + size);
    if (!extra) return NULL;
    memcpy(extra, name, length);
    r->task.op.path2 = extra, r->task.op.size = size;
    fsb_mount_by_node_(r, 0);
    return extra + length;
}

/* The kernel asks before the first write to a file whether that must drop capabilities: a message
   for each file that is made, saved where the answer is known. A host drops them itself. */
static int fsb_mount_is_bare_(fsb_mount *m, fuse_ino_t ino, const char *name)
{
    if (strcmp(name, "security.capability") != 0) return 0;
    pthread_mutex_lock(&m->lock);
    const fsb_mount_node_ *n = fsb_mount_node_at_(m, ino);
    const int64_t          until = n ? n->bare_until : 0;
    pthread_mutex_unlock(&m->lock);
    return until && fsb_mount_now_() < until;
}

static void fsb_mount_on_getxattr_(fuse_req_t q, fuse_ino_t ino, const char *name, size_t size)
{
    if (fsb_mount_is_bare_(fsb_mount_of_(q), ino, name)) {
        fuse_reply_err(q, ENODATA);
        return;
    }
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_GETXATTR, ino, NULL);
    char *room = r ? fsb_mount_xattr_(r, name, size < 65536 ? size : 65536) : NULL;
    if (!room) return;
    r->task.op.buf = room;
    fsb_mount_go_(r, fsb_mount_xattr_got_);
}

static void fsb_mount_on_listxattr_(fuse_req_t q, fuse_ino_t ino, size_t size)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_LISTXATTR, ino, NULL);
    char *room = r ? fsb_mount_xattr_(r, "", size < 65536 ? size : 65536) : NULL;
    if (!room) return;
    r->task.op.path2 = NULL, r->task.op.buf = room;
    fsb_mount_go_(r, fsb_mount_xattr_got_);
}

static void fsb_mount_xattr_set_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_changed_(m, r->node); /* its ctime, perhaps its mode */
    r->node->bare_until = 0;
    pthread_mutex_unlock(&m->lock);
    /* The kernel itself forgets the ctime only; an ACL is the mode, too. */
    if (strcmp(r->task.op.path2, "system.posix_acl_access") == 0)
        fsb_mount_inval_attr_(m, r->node->id);
    fsb_mount_reply_err_(r);
}

static void fsb_mount_on_setxattr_(fuse_req_t q, fuse_ino_t ino, const char *name,
                                   const char *value, size_t size, int flags)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_SETXATTR, ino, NULL);
    char *room = r ? fsb_mount_xattr_(r, name, size) : NULL;
    if (!room) return;
    if (size) memcpy(room, value, size);
    r->task.op.data = room;
    if (flags & XATTR_CREATE) r->task.op.flags |= FSB_XATTR_CREATE;
    if (flags & XATTR_REPLACE) r->task.op.flags |= FSB_XATTR_REPLACE;
    fsb_mount_go_(r, fsb_mount_xattr_set_);
}

static void fsb_mount_on_removexattr_(fuse_req_t q, fuse_ino_t ino, const char *name)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_REMOVEXATTR, ino, NULL);
    char *room = r ? fsb_mount_xattr_(r, name, 0) : NULL;
    if (room) fsb_mount_go_(r, fsb_mount_xattr_set_);
}

/* ---- [locks] --------------------------------------------------------------------------------- */
/* Without the option remote_locks the kernel keeps locks, and only flush and release come here.
   With it a lock may be waited for, and the wait be interrupted: r->holds counts who still needs
   the request - the operation, the handler that sends it, an interrupt - and the last one
   answers. */

/* Answers a lock; what is cached may be older than the lock, so serve() has it dropped first. */
static void fsb_mount_lock_answer_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    if (r->task.op.result < 0 || !r->locks) {
        fsb_mount_reply_err_(r);
        return;
    }
    pthread_mutex_lock(&m->lock);
    r->node->locked = 1;
    r->node->version = 0, r->node->attr_until = 0;
    fsb_mount_push_(&m->granted, r);
    pthread_mutex_unlock(&m->lock);
    fsb_mount_signal_(m->wake);
}

/* Lock held. 1 if this was the last hold. */
static int fsb_mount_hold_end_(fsb_mount_req_ *r) { return --r->holds == 0; }

static void fsb_mount_lock_done_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    const int last = fsb_mount_hold_end_(r);
    pthread_mutex_unlock(&m->lock);
    if (!last) return;
    if (r->waits) fuse_req_interrupt_func(r->fuse, NULL, NULL); /* waits for one that runs */
    fsb_mount_lock_answer_(r);
}

/* libfuse calls it, with its own lock of the request held, which lock_done_ would wait for. */
static void fsb_mount_lock_interrupt_(fuse_req_t q, void *data)
{
    fsb_mount_req_ *r = (fsb_mount_req_ *)data;
    fsb_mount      *m = fsb_mount_of_(q);
    pthread_mutex_lock(&m->lock);
    const int act = r->holds && !r->cancelled && r->sent;
    r->cancelled = 1;
    if (act) ++r->holds;
    pthread_mutex_unlock(&m->lock);
    if (!act) return;
    m->backend->cancel(m->backend, &r->task.op);
    pthread_mutex_lock(&m->lock);
    const int last = fsb_mount_hold_end_(r);
    pthread_mutex_unlock(&m->lock);
    if (last) fsb_mount_lock_answer_(r);
}

static void fsb_mount_lock_send_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    r->locks = (r->task.op.flags & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE)) != 0;
    r->waits = r->task.op.flags & FSB_LOCK_WAIT && m->backend->submit && m->backend->cancel;
    if (!r->locks) r->how |= FSB_MOUNT_DRAINED_; /* who locks next must see what was written */
    r->holds = 1 + r->waits;
    if (r->waits) fuse_req_interrupt_func(r->fuse, fsb_mount_lock_interrupt_, r);
    const int waits = r->waits;
    r->fresh = 0; /* what may be cancelled must have been sent */
    fsb_mount_go_(r, fsb_mount_lock_done_);
    if (!waits) return;
    pthread_mutex_lock(&m->lock);
    r->sent = 1;
    const int cancel = r->cancelled && r->holds > 1;
    pthread_mutex_unlock(&m->lock);
    if (cancel) m->backend->cancel(m->backend, &r->task.op);
    fsb_mount_lock_done_(r);
}

/* A LOCK on the node; NULL: refused. */
static fsb_mount_req_ *fsb_mount_lock_begin_(fuse_req_t q, fuse_ino_t ino, uint64_t owner)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, FSB_OP_LOCK, ino, NULL);
    if (!r) return NULL;
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    r->file = r->node->writer ? r->node->writer : r->node->reader;
    if (r->file) ++r->file->pins;
    pthread_mutex_unlock(&m->lock);
    r->task.op.owner = owner;
    if (!r->file) fsb_mount_fail_(r, -EBADF);
    return r->file ? r : NULL;
}

static void fsb_mount_on_flock_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi, int how)
{
    fsb_mount_req_ *r = fsb_mount_lock_begin_(q, ino, fi->lock_owner);
    if (!r) return;
    uint32_t *flags = &r->task.op.flags;
    *flags = FSB_LOCK_FLOCK;
    if (how & LOCK_SH) *flags |= FSB_LOCK_SHARED;
    if (how & LOCK_EX) *flags |= FSB_LOCK_EXCLUSIVE;
    if (!(how & (LOCK_NB | LOCK_UN))) *flags |= FSB_LOCK_WAIT;
    r->task.op.pid = (uint32_t)fuse_req_ctx(q)->pid;
    fsb_mount_lock_send_(r);
}

static void fsb_mount_lock_range_(fsb_op *op, const struct flock *lock)
{
    op->offset = (uint64_t)lock->l_start, op->size64 = (uint64_t)lock->l_len;
    op->pid = (uint32_t)lock->l_pid;
    if (lock->l_type == F_RDLCK) op->flags |= FSB_LOCK_SHARED;
    if (lock->l_type == F_WRLCK) op->flags |= FSB_LOCK_EXCLUSIVE;
}

static void fsb_mount_on_setlk_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi,
                             struct flock *lock, int wait)
{
    fsb_mount_req_ *r = fsb_mount_lock_begin_(q, ino, fi->lock_owner);
    if (!r) return;
    fsb_mount_lock_range_(&r->task.op, lock);
    if (wait && lock->l_type != F_UNLCK) r->task.op.flags |= FSB_LOCK_WAIT;
    fsb_mount_lock_send_(r);
}

static void fsb_mount_lock_tested_(fsb_mount_req_ *r)
{
    const fsb_op *op = &r->task.op;
    if (op->result < 0) {
        fsb_mount_fail_(r, op->result);
        return;
    }
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = op->flags & FSB_LOCK_EXCLUSIVE ? F_WRLCK
                  : op->flags & FSB_LOCK_SHARED  ? F_RDLCK
                                                 : F_UNLCK;
    lock.l_whence = SEEK_SET, lock.l_pid = (pid_t)op->pid;
    lock.l_start = (off_t)op->offset, lock.l_len = (off_t)op->size64;
    fuse_reply_lock(r->fuse, &lock);
    fsb_mount_end_(r);
}

static void fsb_mount_on_getlk_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi,
                             struct flock *lock)
{
    fsb_mount_req_ *r = fsb_mount_lock_begin_(q, ino, fi->lock_owner);
    if (!r) return;
    fsb_mount_lock_range_(&r->task.op, lock);
    r->task.op.flags |= FSB_LOCK_TEST;
    fsb_mount_go_(r, fsb_mount_lock_tested_);
}

/* Lock held. Makes the request give up all locks of the owner, if this mount took any. */
static void fsb_mount_unlock_all_(fsb_mount_req_ *r, uint64_t owner, uint32_t flags)
{
    r->file = r->node->writer ? r->node->writer : r->node->reader;
    if (!r->node->locked || !r->file) {
        r->file = NULL;
        return;
    }
    ++r->file->pins;
    r->task.op.code = FSB_OP_LOCK, r->task.op.flags = flags | FSB_LOCK_UNLOCK;
    r->task.op.owner = owner;
}

/* Somebody closed a descriptor: what was written is on the host before that returns. */
static void fsb_mount_on_flush_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fsb_mount *m = fsb_mount_of_(q);
    if (m->files_unopened) {
        fuse_reply_err(q, ENOSYS); /* there is nothing to write, nor to unlock, ever */
        return;
    }
    fsb_mount_req_ *r = fsb_mount_begin_(q, 0, ino, NULL);
    if (!r) return;
    pthread_mutex_lock(&m->lock);
    fsb_mount_unlock_all_(r, fi->lock_owner, 0);
    pthread_mutex_unlock(&m->lock);
    r->how = FSB_MOUNT_DRAINED_;
    fsb_mount_go_(r, fsb_mount_synced_);
}

/* The last descriptor of an open file is gone; nobody waits for that. */
static void fsb_mount_released_(fsb_mount_req_ *r)
{
    fsb_mount *m = r->task.mount;
    pthread_mutex_lock(&m->lock);
    fsb_mount_node_ *n = r->node;
    fsb_mount_file_leave_(m, n, (r->fi.flags & O_ACCMODE) != O_RDONLY);
    const int error = n->writers ? 0 : fsb_mount_error_take_(m, n);
    if (!n->readers && !n->writers) n->locked = 0;
    fsb_mount_unlock_(m);
    if (error)
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/write",
                       "a delayed write failed after the file was closed: %s", strerror(-error));
    fsb_mount_fail_(r, 0);
}

static void fsb_mount_on_release_(fuse_req_t q, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fsb_mount_req_ *r = fsb_mount_begin_(q, 0, ino, NULL);
    if (!r) return;
    fsb_mount *m = r->task.mount;
    r->fi = *fi;
    pthread_mutex_lock(&m->lock);
    if (fi->flock_release) fsb_mount_unlock_all_(r, fi->lock_owner, FSB_LOCK_FLOCK);
    pthread_mutex_unlock(&m->lock);
    r->how = FSB_MOUNT_DRAINED_;
    r->fresh = 0; /* nobody waits for it, but who locks next must come behind it */
    fsb_mount_go_(r, fsb_mount_released_);
}

/* ---- [lease] --------------------------------------------------------------------------------- */
/* Where the backend gives a lease, the kernel keeps names, attributes and pages until an event says
   otherwise. An event marks what it touches, so that answers which are on their way believe
   themselves no longer, and leaves it to serve()'s thread to tell the kernel: the name first, which
   waits for lookups in that folder to be applied, then the attributes and pages. */

/* Lock held. What is known of the node is not to be relied on. */
static void fsb_mount_stale_(fsb_mount *m, fsb_mount_node_ *n, int pages)
{
    fsb_mount_changed_(m, n);
    if (pages) n->version = 0;
    fsb_mount_inval_(m, n, FSB_MOUNT_INVAL_ATTR_ | (pages ? FSB_MOUNT_INVAL_PAGES_ : 0));
}

/* Lock held. The folder that path lies in, if it is known, and where the last name begins. */
static fsb_mount_node_ *fsb_mount_folder_of_(const fsb_mount *m, const char *path,
                                             const char **name)
{
    fsb_mount_node_ *n = m->root;
    for (;;) {
        const size_t size = strcspn(++path, "/");
        *name = path;
        if (!path[size]) return n;
        const fsb_mount_name_ *next = fsb_mount_name_find_(m, n, path, size);
        if (!next || !S_ISDIR(next->node->attr.mode)) return NULL;
        n = next->node, path += size;
    }
}

/* Lock held. Others made, removed or moved that name. Returns its node, if it is known. */
static fsb_mount_node_ *fsb_mount_name_in_stale_(fsb_mount *m, fsb_mount_node_ *folder,
                                                 const char *name)
{
    const size_t size = strlen(name);
    folder->below = ++m->changes;
    fsb_mount_stale_(m, folder, 0);
    fsb_mount_name_ *known = fsb_mount_name_find_(m, folder, name, size);
    const int        is_folder = known && S_ISDIR(known->node->attr.mode);
    fsb_mount_note_ *note =
        (fsb_mount_note_ *)fsb_mount_alloc_(m, offsetof(fsb_mount_note_, name) + size + 1);
    if (note) {
        note->next = NULL, note->parent = folder, note->size = size;
        note->folder = is_folder ? known->node->id : 0;
        memcpy(note->name, name, size + 1);
        ++folder->pins;
        *m->notes_tail = note, m->notes_tail = &note->next;
    } else m->all_stale = 1;
    if (is_folder) fsb_mount_name_doubt_(m, known, FSB_MOUNT_ELSEWHERE_), m->moved = m->changes;
    return known ? known->node : NULL;
}

static fsb_mount_node_ *fsb_mount_name_stale_(fsb_mount *m, const char *path)
{
    const char      *name;
    fsb_mount_node_ *folder = fsb_mount_folder_of_(m, path, &name);
    return folder && name[0] ? fsb_mount_name_in_stale_(m, folder, name) : folder;
}

/* Lock held. */
static void fsb_mount_move_note_(fsb_mount *m, const char *from, const char *to, int swaps)
{
    fsb_mount_move_ *v = &m->moves[m->move_count++ % FSB_MOUNT_MOVES_];
    const size_t     size = strlen(from) + 1, size2 = strlen(to) + 1;
    fsb_mount_free_(m, v->from, v->size);
    memset(v, 0, sizeof *v);
    v->from = (char *)fsb_mount_alloc_(m, size + size2);
    if (!v->from) return;
    v->to = v->from + size, v->size = size + size2;
    memcpy(v->from, from, size);
    memcpy(v->to, to, size2);
    v->swaps = swaps;
    v->until = fsb_mount_now_() + FSB_MOUNT_MOVE_NS_;
}

/* What was at or below `from` is there at `to`: the path likewise; 0: it is neither. */
static int fsb_mount_carried_(char *path, const char *from, const char *to)
{
    const size_t n = strlen(from), size = strlen(to);
    if (strncmp(path, from, n) || (path[n] && path[n] != '/')) return 0;
    const size_t tail = strlen(path + n) + 1;
    if (size + tail > FSB_PATH_MAX + 1) return 0;
    memmove(path + size, path + n, tail);
    memcpy(path, to, size);
    return 1;
}

/* Lock held. Others changed a name, maybe before one of the renames of late, of which who tells did
   not know: then it is the new name that leads to something else. */
static void fsb_mount_moved_since_(fsb_mount *m, const char *path)
{
    const uint32_t end = m->move_count;
    const uint32_t first = end > FSB_MOUNT_MOVES_ ? end - FSB_MOUNT_MOVES_ : 0;
    const int64_t  now = fsb_mount_now_();
    for (uint32_t i = end; i-- > first && m->moves[i % FSB_MOUNT_MOVES_].until > now;) {
        char at[FSB_PATH_MAX + 1];
        int  carried = 0;
        memcpy(at, path, strlen(path) + 1);
        for (uint32_t k = i; k < end && (k == i || carried); ++k) {
            const fsb_mount_move_ *v = &m->moves[k % FSB_MOUNT_MOVES_];
            if (!v->from) continue;
            if (!fsb_mount_carried_(at, v->from, v->to) &&
                !(v->swaps && fsb_mount_carried_(at, v->to, v->from)))
                continue;
            fsb_mount_node_ *n = fsb_mount_name_stale_(m, at);
            if (n) fsb_mount_stale_(m, n, 0);
            carried = 1;
        }
    }
}

/* Is that what is known already? Then somebody tells of what we did. */
static int fsb_mount_known_(const fsb_mount_node_ *n, const fsb_stat *s)
{
    const fsb_stat *a = &n->attr;
    return n->attr_until && s->file_id == n->file_id && s->version == a->version &&
        s->size == a->size && s->mode == a->mode && s->nlink == a->nlink && s->uid == a->uid &&
        s->gid == a->gid && s->mtime_ns == a->mtime_ns && s->ctime_ns == a->ctime_ns;
}

/* Lock held. Anything may have changed. */
static void fsb_mount_all_stale_(fsb_mount *m)
{
    m->all_stale = 1;
    for (size_t i = 0; i < m->nodes.size; ++i)
        for (fsb_mount_link_ *l = m->nodes.bucket[i]; l; l = l->next) {
            fsb_mount_node_ *n = (fsb_mount_node_ *)(void *)l;
            fsb_mount_stale_(m, n, 1);
            n->below = m->moved = m->changes;
            if (!S_ISDIR(n->attr.mode)) continue;
            fsb_mount_inval_(m, n, FSB_MOUNT_INVAL_NAMES_);
            if (n->names) fsb_mount_name_doubt_(m, n->names, FSB_MOUNT_ELSEWHERE_);
        }
}

/* Lock held. The node at the path, or the one that the event describes. */
static fsb_mount_node_ *fsb_mount_event_node_(const fsb_mount *m, const fsb_event *e)
{
    const char            *name;
    fsb_mount_node_       *n = e->stat ? fsb_mount_node_find_(m, e->stat->file_id) : NULL;
    const fsb_mount_node_ *folder = n ? NULL : fsb_mount_folder_of_(m, e->path, &name);
    if (!folder) return n;
    if (!name[0]) return m->root;
    const fsb_mount_name_ *known = fsb_mount_name_find_(m, folder, name, strlen(name));
    return known ? known->node : NULL;
}

/* Lock held. The bytes or attributes of a file changed: its folder's names did not, but an answer
   on its way may be the first to tell of the file. */
static void fsb_mount_event_file_(fsb_mount *m, const fsb_event *e)
{
    const char      *name;
    fsb_mount_node_ *n = fsb_mount_event_node_(m, e);
    if (n && e->stat && fsb_mount_known_(n, e->stat)) {
        /* The kernel may know less: it drops the younger of two answers that it took in the other
           order, and its pages can be older than both. */
        const int pages = S_ISREG(n->attr.mode) && n->version != e->stat->version;
        if (pages) n->version = 0;
        fsb_mount_inval_(m, n, FSB_MOUNT_INVAL_ATTR_ | (pages ? FSB_MOUNT_INVAL_PAGES_ : 0));
        return;
    }
    if (n) {
        const int pages = e->kind == FSB_EVENT_CONTENT || !e->stat ||
                          e->stat->version != n->attr.version;
        fsb_mount_stale_(m, n, pages);
        return;
    }
    fsb_mount_node_ *folder = fsb_mount_folder_of_(m, e->path, &name);
    if (folder) folder->below = ++m->changes;
}

/* Lock held. The file that got or lost a name may be known by another. */
static void fsb_mount_event_known_(fsb_mount *m, const fsb_event *e)
{
    fsb_mount_node_ *n = e->stat ? fsb_mount_node_find_(m, e->stat->file_id) : NULL;
    if (n) fsb_mount_stale_(m, n, 0);
}

/* Lock held. */
static void fsb_mount_event_created_(fsb_mount *m, const fsb_event *e)
{
    const char            *name;
    fsb_mount_node_       *n, *folder = fsb_mount_folder_of_(m, e->path, &name);
    const fsb_mount_name_ *known =
        folder && e->stat ? fsb_mount_name_find_(m, folder, name, strlen(name)) : NULL;
    if (known && fsb_mount_known_(known->node, e->stat)) {
        fsb_mount_stale_(m, folder, 0); /* its times and its listing may be from before */
        return;
    }
    n = fsb_mount_name_stale_(m, e->path);
    if (n) fsb_mount_stale_(m, n, 1);
    fsb_mount_event_known_(m, e); /* one more name of it */
}

/* Lock held. That is no longer a name of the file; it may have others. */
static void fsb_mount_name_lost_(fsb_mount *m, const char *path, const fsb_mount_node_ *n)
{
    const char            *name;
    const fsb_mount_node_ *folder = fsb_mount_folder_of_(m, path, &name);
    fsb_mount_name_ *known = folder ? fsb_mount_name_find_(m, folder, name, strlen(name)) : NULL;
    if (known && known->node == n) fsb_mount_name_remove_(m, known);
}

/* Lock held. A folder came to where this one was: it was empty, and is gone, or is now where the
   other came from. Until that is told it may be there. */
static void fsb_mount_displaced_(fsb_mount *m, const char *path, fsb_mount_node_ *n)
{
    const char      *name;
    fsb_mount_node_ *folder = fsb_mount_folder_of_(m, path, &name);
    if (!folder || n->names || fsb_mount_rises_(m, n, folder)) return;
    if (fsb_mount_name_find_(m, folder, name, strlen(name))) return;
    if (!fsb_mount_name_set_(m, folder, name, n))
        fsb_mount_name_doubt_(m, n->names, FSB_MOUNT_NOWHERE_);
}

/* Lock held. What is known has moved: so has what is below it, for those who are in there. */
static void fsb_mount_event_moved_(fsb_mount *m, const fsb_event *e)
{
    const char      *name;
    fsb_mount_node_ *n = e->stat ? fsb_mount_node_find_(m, e->stat->file_id) : NULL;
    fsb_mount_node_ *folder = n ? fsb_mount_folder_of_(m, e->path2, &name) : NULL;
    if (!folder || !name[0] || n->removed || fsb_mount_rises_(m, n, folder)) return;
    const int is_folder = S_ISDIR(n->attr.mode);
    fsb_mount_name_ *there = fsb_mount_name_find_(m, folder, name, strlen(name));
    fsb_mount_node_ *other = there && there->node != n ? there->node : NULL;
    ++folder->pins; /* the names that go may have been all that kept it */
    ++n->pins;
    if (other) ++other->pins;
    if (is_folder) m->moved = ++m->changes;
    else fsb_mount_name_lost_(m, e->path, n);
    if (!fsb_mount_name_set_(m, folder, name, n)) {
        n->gone = 0;
        if (is_folder) fsb_mount_name_doubt_(m, n->names, 0);
        if (other && S_ISDIR(other->attr.mode)) fsb_mount_displaced_(m, e->path, other);
    }
    fsb_mount_unpin_(m, other);
    fsb_mount_unpin_(m, n);
    fsb_mount_unpin_(m, folder);
}

/* The backend's thread: must not wait. When it returns, nothing old is answered any more. */
static void fsb_mount_event_(void *user, const fsb_event *e)
{
    fsb_mount       *m = (fsb_mount *)user;
    fsb_mount_node_ *n = NULL;
    pthread_mutex_lock(&m->lock);
    switch (m->root ? e->kind : 0) {
    case 0: break; /* nothing is known yet */
    case FSB_EVENT_CREATED: fsb_mount_event_created_(m, e); break;
    case FSB_EVENT_RENAMED:
        n = fsb_mount_name_stale_(m, e->path2);
        if (n) fsb_mount_stale_(m, n, 0); /* it was replaced */
        n = fsb_mount_name_stale_(m, e->path);
        if (n) fsb_mount_stale_(m, n, 0);
        fsb_mount_event_known_(m, e);
        fsb_mount_event_moved_(m, e);
        break;
    case FSB_EVENT_REMOVED:
        n = fsb_mount_name_stale_(m, e->path);
        if (n) fsb_mount_stale_(m, n, 0);
        if (n && n->names && n->names->doubted) n->names->doubted = FSB_MOUNT_NOWHERE_;
        fsb_mount_event_known_(m, e);
        break;
    case FSB_EVENT_CONTENT: case FSB_EVENT_ATTR: fsb_mount_event_file_(m, e); break;
    default: fsb_mount_all_stale_(m);
    }
    if (m->root && (e->kind <= FSB_EVENT_REMOVED || e->path2)) {
        fsb_mount_moved_since_(m, e->path);
        if (e->path2) fsb_mount_moved_since_(m, e->path2);
        if (e->path2 && (!e->stat || S_ISDIR(e->stat->mode)))
            fsb_mount_move_note_(m, e->path, e->path2, 0);
    }
    fsb_mount_signal_(m->wake);
    fsb_mount_unlock_(m);
}

/* Asks for the lease. What it covers is believed for a year. */
static void fsb_mount_lease_(fsb_mount *m)
{
    const int64_t year = (int64_t)365 * 86400 * 1000000000;
    fsb_op        op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_WATCH, op.path = "/", op.flags = FSB_WATCH_HELD | FSB_WATCH_DEEP;
    op.event = fsb_mount_event_, op.user = m, op.timeout_ms = m->timeout_ms;
    if (!m->backend->call[FSB_OP_WATCH] || m->backend->call[FSB_OP_WATCH](m->backend, &op) < 0)
        return;
    m->lease = op.handle;
    if (!m->given_attr) m->attr_ns = year;
    if (!m->given_entry) m->entry_ns = year;
    fsb_mount_log_(m, FSB_LOG_DEBUG, "mount/lease", "what is known is kept until it changes");
}

static void fsb_mount_lease_end_(fsb_mount *m)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_CLOSE, op.handle = m->lease;
    if (m->lease) m->backend->call[FSB_OP_CLOSE](m->backend, &op);
    m->lease = 0;
}

/* ---- [session] ------------------------------------------------------------------------------- */

/* Capabilities: no write-back cache, which shows old data as new; no AUTO_INVAL_DATA, which drops
   what is still good; no ATOMIC_O_TRUNC; no splice, which is slower. */
static void fsb_mount_on_init_(void *user, struct fuse_conn_info *conn)
{
    fsb_mount *m = (fsb_mount *)user;
    uint64_t   want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_READDIRPLUS |
                    FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_PARALLEL_DIROPS;
    if (m->remote_locks) want |= FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS;
    if (m->contain) want &= ~(uint64_t)FUSE_CAP_CACHE_SYMLINKS; /* folders move: asked each time */
    conn->want = (unsigned)want & conn->capable;
    m->dirs_unopened = m->lease && conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
    m->files_unopened = m->lease && m->read_only && !m->remote_locks &&
                        conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
    conn->max_write = FSB_IO_MAX, conn->max_read = FSB_IO_MAX, conn->max_readahead = FSB_IO_MAX;
    conn->max_background = 64, conn->congestion_threshold = 48;
    conn->time_gran = 1;
}

/* Sends an answer. The first one is that to INIT, where libfuse 3.14 leaves out two capabilities
   that matter: without them the kernel sends one lookup a folder at a time, and asks for
   security.capability before every write. */
static ssize_t fsb_mount_send_(int fd, struct iovec *iov, int count, void *user)
{
    fsb_mount *m = (fsb_mount *)user;
    if (!__atomic_load_n(&m->greeted, __ATOMIC_ACQUIRE)) {
        if (count > 1 && iov[1].iov_len >= offsetof(struct fuse_init_out, flags) + 4) {
            char    *at = (char *)iov[1].iov_base + offsetof(struct fuse_init_out, flags);
            uint32_t flags;
            memcpy(&flags, at, sizeof flags);
            flags |= FSB_MOUNT_INIT_FLAGS_;
            memcpy(at, &flags, sizeof flags);
        }
        __atomic_store_n(&m->greeted, 1, __ATOMIC_RELEASE);
    }
    return writev(fd, iov, count);
}

/* libfuse wants it, and never calls it: requests are read by fsb_mount_receive_. */
static ssize_t fsb_mount_no_read_(int fd, void *buf, size_t size, void *user)
{
    (void)user;
    return read(fd, buf, size);
}

static struct fuse_lowlevel_ops fsb_mount_ops_(const fsb_mount *m)
{
    struct fuse_lowlevel_ops o;
    memset(&o, 0, sizeof o);
    o.init = fsb_mount_on_init_;
    o.lookup = fsb_mount_on_lookup_, o.forget = fsb_mount_on_forget_;
    o.forget_multi = fsb_mount_on_forget_multi_;
    o.getattr = fsb_mount_on_getattr_, o.setattr = fsb_mount_on_setattr_;
    o.readlink = fsb_mount_on_readlink_, o.statfs = fsb_mount_on_statfs_;
    o.mknod = fsb_mount_on_mknod_, o.mkdir = fsb_mount_on_mkdir_, o.symlink = fsb_mount_on_symlink_;
    o.link = fsb_mount_on_link_, o.unlink = fsb_mount_on_unlink_, o.rmdir = fsb_mount_on_rmdir_;
    o.rename = fsb_mount_on_rename_;
    o.create = fsb_mount_on_create_, o.open = fsb_mount_on_open_, o.release = fsb_mount_on_release_;
    o.flush = fsb_mount_on_flush_, o.fsync = fsb_mount_on_fsync_;
    o.read = fsb_mount_on_read_, o.write = fsb_mount_on_write_;
    o.fallocate = fsb_mount_on_fallocate_, o.copy_file_range = fsb_mount_on_copy_;
    o.lseek = fsb_mount_on_lseek_;
    o.opendir = fsb_mount_on_opendir_;
    o.readdir = fsb_mount_on_readdir_, o.readdirplus = fsb_mount_on_readdirplus_;
    o.fsyncdir = fsb_mount_on_fsyncdir_;
    o.setxattr = fsb_mount_on_setxattr_, o.getxattr = fsb_mount_on_getxattr_;
    o.listxattr = fsb_mount_on_listxattr_, o.removexattr = fsb_mount_on_removexattr_;
    if (m->remote_locks)
        o.getlk = fsb_mount_on_getlk_, o.setlk = fsb_mount_on_setlk_, o.flock = fsb_mount_on_flock_;
    return o;
}

static void fsb_mount_silence_(enum fuse_log_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
}

/* One option of ours: 1 if it was. */
static int fsb_mount_option_(fsb_mount *m, const char *text, size_t size)
{
    const char *value = (const char *)memchr(text, '=', size);
    const size_t key = value ? (size_t)(value - text) : size;
    if (size == 12 && memcmp(text, "remote_locks", 12) == 0) return m->remote_locks = 1;
    if (size == 8 && memcmp(text, "nonempty", 8) == 0) return m->nonempty = 1;
    if (size == 16 && memcmp(text, "contain_symlinks", 16) == 0) return m->contain = 1;
    if (size == 19 && memcmp(text, "no_contain_symlinks", 19) == 0) return !(m->contain = 0);
    if (size == 2 && memcmp(text, "ro", 2) == 0) return !(m->read_only = 1); /* FUSE's, too */
    int64_t *timeout = NULL;
    if (key == 12 && memcmp(text, "attr_timeout", 12) == 0) timeout = &m->attr_ns;
    if (key == 13 && memcmp(text, "entry_timeout", 13) == 0) timeout = &m->entry_ns;
    if (!timeout || !value) return 0;
    if (timeout == &m->attr_ns) m->given_attr = 1;
    else m->given_entry = 1;
    char        *end = NULL;
    const double seconds = strtod(value + 1, &end);
    if (end != text + size || !(seconds >= 0 && seconds <= 1e9)) return -EINVAL;
    *timeout = (int64_t)(seconds * 1e9);
    return 1;
}

/* Appends an option to those for FUSE. With a key the text is a value: its commas are its own. */
static int fsb_mount_add_option_(fsb_mount *m, char **out, const char *key, const char *text,
                                 size_t size)
{
    const size_t length = strlen(key), room = length + size + 1;
    char        *one = (char *)fsb_mount_alloc_(m, room);
    if (!one) return -ENOMEM;
    memcpy(one, key, length), memcpy(one + length, text, size), one[length + size] = '\0';
    const int bad = length ? fuse_opt_add_opt_escaped(out, one) : fuse_opt_add_opt(out, one);
    fsb_mount_free_(m, one, room);
    return bad ? -ENOMEM : 0;
}

/* Takes our options out and hands the others to FUSE, with those that a mount always has. */
static int fsb_mount_options_(fsb_mount *m, const fsb_mount_desc *desc, char **out)
{
    char        max_read[32];
    const char *at = desc->options ? desc->options : "";
    const char *fsname = desc->fsname ? desc->fsname : "fsb";
    int         err = 0;
    snprintf(max_read, sizeof max_read, "max_read=%d", (int)FSB_IO_MAX);
    if (fuse_opt_add_opt(out, "default_permissions,subtype=fsb") || fuse_opt_add_opt(out, max_read))
        err = -ENOMEM;
    if (!err) err = fsb_mount_add_option_(m, out, "fsname=", fsname, strlen(fsname));
    while (*at && !err) {
        size_t size = 0;
        while (at[size] && at[size] != ',') size += at[size] == '\\' && at[size + 1] ? 2 : 1;
        const int ours = fsb_mount_option_(m, at, size);
        if (ours < 0) {
            err = ours;
        } else if (!ours && size) {
            err = fsb_mount_add_option_(m, out, "", at, size);
        }
        at += size + (at[size] == ',');
    }
    if (!err && m->read_only && fuse_opt_add_opt(out, "ro")) err = -ENOMEM;
    return err;
}

static int fsb_mount_session_new_(fsb_mount *m, const fsb_mount_desc *desc)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    char            *options = NULL;
    int              err = fsb_mount_options_(m, desc, &options);
    const struct fuse_lowlevel_ops ops = fsb_mount_ops_(m); /* they depend on the options */
    if (err == -EINVAL)
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open", "options \"%s\": a timeout is no number",
                       desc->options);
    if (!err && (fuse_opt_add_arg(&args, "fsb") || fuse_opt_add_arg(&args, "-o") ||
                 fuse_opt_add_arg(&args, options)))
        err = -ENOMEM;
    fuse_set_log_func(fsb_mount_silence_);
    if (!err) {
        m->session = fuse_session_new(&args, &ops, sizeof ops, m);
        if (!m->session) err = -EINVAL;
        if (err)
            fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open", "FUSE does not take the options \"%s\"",
                           desc->options ? desc->options : "");
    }
    fuse_opt_free_args(&args);
    free(options);
    return err;
}

/* Is the folder a good place to mount on? Says what is wrong with it. */
static int fsb_mount_place_(fsb_mount *m, const char *path)
{
    struct stat   st;
    struct statfs fs;
    const char   *why = NULL;
    int           err = stat(path, &st) ? -errno : !S_ISDIR(st.st_mode) ? -ENOTDIR : 0;
    if (!err && statfs(path, &fs) != 0) err = -errno; /* what the kernel remembers can be dead */
    if (err == -ENOTCONN)
        why = "a dead mount is there; fusermount3 -u removes it";
    else if (err)
        why = strerror(-err);
    else if (!m->nonempty && fs.f_type == 0x65735546)
        err = -EBUSY, why = "a FUSE file system is mounted there; fusermount3 -u removes it";
    if (!err && !m->nonempty) {
        DIR *d = opendir(path);
        if (!d) err = -errno, why = strerror(-err);
        for (struct dirent *e = d ? readdir(d) : NULL; e && !err; e = readdir(d))
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) err = -ENOTEMPTY;
        if (d) closedir(d);
        if (err == -ENOTEMPTY) why = "the folder is not empty; the option nonempty hides its files";
    }
    if (err) fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open", "%s: %s", path, why);
    return err;
}

/* Asks about the root; returns how long that took, in ns. */
static int64_t fsb_mount_ask_(fsb_mount *m, uint32_t code, fsb_op *op)
{
    const int64_t start = fsb_mount_now_();
    memset(op, 0, sizeof *op);
    op->code = code, op->path = "/", op->timeout_ms = m->timeout_ms;
    op->result = -ENOSYS;
    if (m->backend->call[code]) m->backend->call[code](m->backend, op);
    return fsb_mount_now_() - start;
}

/* The root's STAT took so long: is there a cache, which answers the next one, before a distant
   host, which STATFS has to ask? A busy machine may have been late once. */
static int fsb_mount_far_(fsb_mount *m, int64_t took)
{
    fsb_op op;
    if (took <= FSB_MOUNT_FAR_NS_ || fsb_mount_ask_(m, FSB_OP_STAT, &op) > took / 8) return 0;
    for (int i = 0; i < 7 && (!i || took < 10 * FSB_MOUNT_FAR_NS_); ++i) {
        const int64_t again = fsb_mount_ask_(m, FSB_OP_STATFS, &op);
        if (op.result >= 0 && again < FSB_MOUNT_FAR_NS_) return 0;
    }
    return 1;
}

/* The root is the one node that is known without a lookup. */
static int fsb_mount_root_(fsb_mount *m)
{
    fsb_op        op;
    const int64_t took = fsb_mount_ask_(m, FSB_OP_STAT, &op);
    m->far = op.result >= 0 && fsb_mount_far_(m, took);
    int err = op.result < 0 ? (int)op.result : 0;
    if (!err && !fsb_mount_stat_ok_(m, &op.stat)) return -EIO;
    if (!err && !S_ISDIR(op.stat.mode)) err = -ENOTDIR;
    if (err) {
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open", "the root of what is mounted: %s",
                       strerror(fsb_mount_errno_(err)));
        return err;
    }
    pthread_mutex_lock(&m->lock); /* the lease may have events already */
    m->root = fsb_mount_node_new_(m, &op.stat);
    if (m->root) m->root->id = FUSE_ROOT_ID; /* as the kernel calls it, unasked */
    pthread_mutex_unlock(&m->lock);
    return m->root ? 0 : -ENOMEM;
}

static int fsb_mount_attach_(fsb_mount *m)
{
    if (access("/dev/fuse", F_OK) != 0) {
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open",
                       "there is no /dev/fuse: the kernel module fuse is not loaded");
        return -ENODEV;
    }
    errno = 0;
    if (fuse_session_mount(m->session, m->mountpoint) != 0) {
        const int err = geteuid() == 0 && errno ? -errno : -EPERM;
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open", "mounting on %s: %s%s", m->mountpoint,
                       strerror(-err),
                       err == -EPERM ? "; root may, others with fusermount3 who may open /dev/fuse"
                                     : "");
        return err;
    }
    struct fuse_custom_io io;
    memset(&io, 0, sizeof io);
    io.writev = fsb_mount_send_, io.read = fsb_mount_no_read_;
    m->fd = fuse_session_fd(m->session);
    int err = fuse_session_custom_io(m->session, &io, m->fd);
    if (!err && fcntl(m->fd, F_SETFL, fcntl(m->fd, F_GETFL) | O_NONBLOCK) != 0) err = -errno;
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN | EPOLLET; /* each request wakes one thread, which reads until EAGAIN */
    if (!err && epoll_ctl(m->epoll, EPOLL_CTL_ADD, m->fd, &event) != 0) err = -errno;
    event.events = EPOLLIN; /* stays set: it ends all threads */
    if (!err && epoll_ctl(m->epoll, EPOLL_CTL_ADD, m->quit, &event) != 0) err = -errno;
    if (err) fuse_session_unmount(m->session);
    return err < 0 ? err : err ? -EIO : 0;
}

/* The kernel reads ahead 128 KiB only, unless told by another way than FUSE's; root may. */
static void fsb_mount_read_ahead_(fsb_mount *m)
{
    struct statx sx;
    char         path[64];
    memset(&sx, 0, sizeof sx);
    if (statx(AT_FDCWD, m->mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &sx) != 0) return;
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", sx.stx_dev_major,
             sx.stx_dev_minor);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    const int ok = fd >= 0 && write(fd, "1024", 4) == 4;
    if (fd >= 0) close(fd);
    if (!ok) fsb_mount_log_(m, FSB_LOG_DEBUG, "mount/read-ahead", "stays at 128 KiB: %s", path);
}

/* ---- [threads] ------------------------------------------------------------------------------- */

/* A buffer to receive in, with one pin. */
static fsb_mount_buf_ *fsb_mount_buf_new_(fsb_mount *m)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_buf_ *b = m->spare_bufs;
    if (b) m->spare_bufs = b->next;
    pthread_mutex_unlock(&m->lock);
    if (!b) b = (fsb_mount_buf_ *)fsb_mount_alloc_(m, sizeof *b + FSB_MOUNT_RECEIVE_);
    if (b) b->next = NULL, b->pins = 1, b->used = 0;
    return b;
}

static void fsb_mount_bufs_free_(fsb_mount *m)
{
    pthread_mutex_lock(&m->lock);
    fsb_mount_buf_ *b = m->spare_bufs;
    m->spare_bufs = NULL;
    pthread_mutex_unlock(&m->lock);
    while (b) {
        fsb_mount_buf_ *next = b->next;
        fsb_mount_free_(m, b, sizeof *b + FSB_MOUNT_RECEIVE_);
        b = next;
    }
}

/* Nothing has happened for a while: what big writes have touched goes back. */
static fsb_mount_buf_ *fsb_mount_trim_(fsb_mount *m, fsb_mount_buf_ *b)
{
    fsb_mount_bufs_free_(m);
    pthread_mutex_lock(&m->lock);
    fsb_mount_dirs_trim_(m, 0);
    if (fsb_mount_now_() >= m->streak) fsb_mount_bytes_trim_(m, 0); /* else others are reading */
    fsb_mount_unlock_(m);
    if (!b->used) return b;
    fsb_mount_buf_ *fresh =
        (fsb_mount_buf_ *)fsb_mount_alloc_(m, sizeof *b + FSB_MOUNT_RECEIVE_);
    if (!fresh) return b;
    fresh->next = NULL, fresh->pins = 1, fresh->used = 0;
    fsb_mount_free_(m, b, sizeof *b + FSB_MOUNT_RECEIVE_);
    return fresh;
}

/* Waits for a request; 0: it is time to end. */
static int fsb_mount_wait_(fsb_mount *m, fsb_mount_buf_ **b)
{
    pthread_mutex_lock(&m->lock);
    int tidy = !(*b)->used && !m->spare_bufs && !m->dirs && !m->oldest;
    pthread_mutex_unlock(&m->lock);
    for (;;) {
        struct epoll_event event;
        const int n = epoll_wait(m->epoll, &event, 1, tidy ? -1 : FSB_MOUNT_QUIET_MS_);
        if (__atomic_load_n(&m->ended, __ATOMIC_ACQUIRE)) return 0;
        if (n > 0) return 1;
        if (n < 0 && errno != EINTR) return 0;
        if (n < 0) continue;
        *b = fsb_mount_trim_(m, *b);
        pthread_mutex_lock(&m->lock);
        tidy = !m->oldest;
        pthread_mutex_unlock(&m->lock);
    }
}

/* The connection is over, or the threads are asked to end. */
static void fsb_mount_ended_(fsb_mount *m)
{
    __atomic_store_n(&m->ended, 1, __ATOMIC_RELEASE);
    fsb_mount_signal_(m->quit);
    fsb_mount_signal_(m->wake);
}

static void fsb_mount_handle_(fsb_mount *m, fsb_mount_buf_ *b, size_t size)
{
    struct fuse_buf in;
    memset(&in, 0, sizeof in);
    in.size = size, in.mem = b + 1;
    if (size > 64 << 10) b->used = 1;
    fuse_session_process_buf(m->session, &in);
    if (!__atomic_load_n(&m->tuned, __ATOMIC_ACQUIRE) &&
        __atomic_load_n(&m->greeted, __ATOMIC_ACQUIRE) &&
        !__atomic_exchange_n(&m->tuned, 1, __ATOMIC_ACQ_REL))
        fsb_mount_read_ahead_(m);
}

/* After a request the next one often follows at once: looking for it a moment is cheaper than to be
   woken, 35 us on an idle core (measured). One thread at a time; 1: there is something. */
static int fsb_mount_look_(fsb_mount *m)
{
    struct pollfd p;
    p.fd = m->fd, p.events = POLLIN;
    int found = 0;
    if (__atomic_exchange_n(&m->looking, 1, __ATOMIC_ACQUIRE)) return 0;
    for (const int64_t until = fsb_mount_now_() + FSB_MOUNT_LOOK_NS_;
         !found && fsb_mount_now_() < until;) {
        found = poll(&p, 1, 0) > 0;
        if (!found) sched_yield();
    }
    __atomic_store_n(&m->looking, 0, __ATOMIC_RELEASE);
    return found;
}

static void *fsb_mount_receive_(void *arg)
{
    fsb_mount      *m = (fsb_mount *)arg;
    fsb_mount_buf_ *b = fsb_mount_buf_new_(m);
    while (b && !__atomic_load_n(&m->ended, __ATOMIC_ACQUIRE)) {
        const ssize_t n = read(m->fd, b + 1, FSB_MOUNT_RECEIVE_);
        const int     err = n < 0 ? errno : 0;
        if (n > 0) {
            fsb_mount_handle_(m, b, (size_t)n);
            if (__atomic_load_n(&b->pins, __ATOMIC_ACQUIRE) == 1) continue;
            pthread_mutex_lock(&m->lock);
            fsb_mount_buf_unpin_(m, b); /* a write keeps it */
            pthread_mutex_unlock(&m->lock);
            while (!(b = fsb_mount_buf_new_(m))) poll(NULL, 0, 10); /* memory will come back */
        } else if (err == EAGAIN) {
            fsb_mount_send_together_(m);
            if (fsb_mount_look_(m)) continue;
            if (!fsb_mount_wait_(m, &b)) break;
        } else if (err != EINTR && err != ENOENT) {
            break; /* ENODEV: unmounted; ENOENT: the request was interrupted */
        }
    }
    fsb_mount_send_together_(m);
    fsb_mount_ended_(m);
    pthread_mutex_lock(&m->lock);
    if (b) fsb_mount_buf_unpin_(m, b);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static int fsb_mount_thread_(pthread_t *thread, fsb_mount *m)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int err = pthread_create(thread, NULL, fsb_mount_receive_, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -err;
}

/* Lock held. The next name that the kernel is to forget, off the queue. */
static fsb_mount_note_ *fsb_mount_note_take_(fsb_mount *m)
{
    fsb_mount_note_ *note = m->notes;
    if (!note) return NULL;
    m->notes = note->next, m->noting = note;
    if (!m->notes) m->notes_tail = &m->notes;
    return note;
}

static void fsb_mount_note_free_(fsb_mount *m, fsb_mount_note_ *note)
{
    fsb_mount_unpin_(m, note->parent);
    fsb_mount_free_(m, note, offsetof(fsb_mount_note_, name) + note->size + 1);
}

/* A new epoch (Linux 6.16) has the kernel look up every name again: 1, or 0 if it knows of none. */
static int fsb_mount_epoch_(fsb_mount *m)
{
    struct fuse_out_header epoch;
    memset(&epoch, 0, sizeof epoch);
    epoch.len = sizeof epoch, epoch.error = 8; /* FUSE_NOTIFY_INC_EPOCH */
    return write(m->fd, &epoch, sizeof epoch) == (ssize_t)sizeof epoch;
}

/* Every name is suspect. Where there are no epochs those that are known are taken one by one, and
   negative ones stay until they time out. */
static void fsb_mount_notify_all_(fsb_mount *m)
{
    if (fsb_mount_epoch_(m)) return;
    for (size_t i = 0;; ++i) {
        pthread_mutex_lock(&m->lock);
        fsb_mount_note_ *notes = NULL;
        const int        more = i < m->names.size;
        for (fsb_mount_link_ *l = more ? m->names.bucket[i] : NULL; l; l = l->next) {
            const fsb_mount_name_ *name = (const fsb_mount_name_ *)(const void *)l;
            fsb_mount_note_ *note = (fsb_mount_note_ *)fsb_mount_alloc_(
                m, offsetof(fsb_mount_note_, name) + name->size + 1);
            if (!note) break;
            note->parent = name->parent, ++note->parent->pins, note->size = name->size;
            memcpy(note->name, name->text, name->size + 1);
            note->next = notes, notes = note;
        }
        pthread_mutex_unlock(&m->lock);
        while (notes) {
            fsb_mount_note_ *next = notes->next;
            fuse_lowlevel_notify_inval_entry(m->session, notes->parent->id, notes->name,
                                             notes->size);
            pthread_mutex_lock(&m->lock);
            fsb_mount_note_free_(m, notes);
            fsb_mount_unlock_(m);
            notes = next;
        }
        if (!more) return;
    }
}

/* Waits until what was answered about names in the folder is applied; whether there is such a name
   does not matter. */
static void fsb_mount_barrier_(fsb_mount *m, uint64_t id)
{
    fuse_lowlevel_notify_inval_entry(m->session, id, ".fsb", 4);
}

/* The kernel forgets the node's attributes and pages; or not the pages, if `from` is -1. If it does
   not know the node, an answer that tells it may be on its way: then once more when the lookups of
   its folders are applied. */
static void fsb_mount_notify_node_(fsb_mount *m, fsb_mount_node_ *n, off_t from)
{
    enum { MOST = 8 };
    uint64_t parents[MOST];
    int      count = 0;
    if (fuse_lowlevel_notify_inval_inode(m->session, n->id, from, 0) != -ENOENT || !m->lease)
        return;
    pthread_mutex_lock(&m->lock);
    for (const fsb_mount_name_ *name = n->names; name && count < MOST; name = name->next)
        parents[count++] = name->parent->id;
    pthread_mutex_unlock(&m->lock);
    for (int i = 0; i < count; ++i) fsb_mount_barrier_(m, parents[i]);
    if (count) fuse_lowlevel_notify_inval_inode(m->session, n->id, from, 0);
}

/* Tells the kernel what to forget, and answers the locks that wait for that. Here only: telling it
   waits for requests that are on their way. */
static void fsb_mount_notify_(fsb_mount *m)
{
    for (;;) {
        pthread_mutex_lock(&m->lock);
        const int        all = m->all_stale;
        fsb_mount_note_ *note = all ? NULL : fsb_mount_note_take_(m);
        fsb_mount_node_ *n = all || note ? NULL : m->inval_head;
        fsb_mount_req_  *r = all || note || n ? NULL : m->granted.head;
        const int        offer = !all && !note && !n && !r && m->unoffered;
        off_t            from = 0; /* a folder's pages are its listing */
        uint32_t         what = 0;
        m->all_stale = 0;
        if (n) {
            m->inval_head = n->next_inval;
            if (!m->inval_head) m->inval_tail = NULL;
            what = n->inval, n->inval = 0;
            if (S_ISREG(n->attr.mode) && !(what & FSB_MOUNT_INVAL_PAGES_)) from = -1;
        } else if (r) {
            fsb_mount_pop_(&m->granted);
        }
        pthread_mutex_unlock(&m->lock);
        if (!all && !note && !n && !r && !offer) return;
        if (offer) fsb_mount_offer_(m);
        if (all) fsb_mount_notify_all_(m);
        if (note)
            fuse_lowlevel_notify_inval_entry(m->session, note->parent->id, note->name, note->size);
        if (what & FSB_MOUNT_INVAL_NAMES_) {
            fsb_mount_barrier_(m, n->id);
            (void)fsb_mount_epoch_(m); /* a listing that was applied late is of the one before */
        }
        if (n) fsb_mount_notify_node_(m, n, from);
        if (r) fuse_lowlevel_notify_inval_inode(m->session, r->node->id, 0, 0);
        if (r && r->waits) fuse_req_interrupt_func(r->fuse, NULL, NULL);
        if (r) fsb_mount_fail_(r, 0);
        pthread_mutex_lock(&m->lock);
        if (note) fsb_mount_note_free_(m, note), m->noting = NULL;
        if (n) fsb_mount_unpin_(m, n);
        fsb_mount_unlock_(m);
    }
}

/* Unmounts while requests are still answered, so that dirty pages are written: 0 if it could. */
static int fsb_mount_detach_(fsb_mount *m)
{
    if (umount2(m->mountpoint, UMOUNT_NOFOLLOW) == 0) return 0;
    if (errno != EPERM) return -errno;
    char  program[] = "fusermount3", u[] = "-u", q[] = "-q", dashes[] = "--";
    char *const argv[] = {program, u, q, dashes, m->mountpoint, NULL};
    char *const none[] = {NULL};
    pid_t pid = 0;
    int   status = 0;
    if (posix_spawnp(&pid, program, NULL, NULL, argv, none) != 0) return -EPERM;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static void fsb_mount_drain_(fsb_mount *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->live) {
        if (m->granted.head || m->inval_head || m->notes || m->all_stale) {
            pthread_mutex_unlock(&m->lock);
            fsb_mount_notify_(m);
            pthread_mutex_lock(&m->lock);
            continue;
        }
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 100000000;
        if (soon.tv_nsec >= 1000000000) soon.tv_nsec -= 1000000000, ++soon.tv_sec;
        pthread_cond_timedwait(&m->quiet, &m->lock, &soon);
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- [public] -------------------------------------------------------------------------------- */

static void fsb_mount_free_nodes_(fsb_mount *m)
{
    fsb_mount_dirs_trim_(m, 0);
    fsb_mount_bytes_trim_(m, 0);
    for (size_t i = 0; i < m->names.size; ++i)
        for (fsb_mount_link_ *l = m->names.bucket[i], *next; l; l = next) {
            fsb_mount_name_ *name = (fsb_mount_name_ *)(void *)l;
            next = l->next;
            fsb_mount_free_(m, name, offsetof(fsb_mount_name_, text) + name->size + 1);
        }
    for (size_t i = 0; i < m->nodes.size; ++i)
        for (fsb_mount_link_ *l = m->nodes.bucket[i], *next; l; l = next) {
            next = l->next;
            fsb_mount_free_(m, l, sizeof(fsb_mount_node_));
        }
    fsb_mount_free_(m, m->bytes.bucket, m->bytes.size * sizeof *m->bytes.bucket);
    fsb_mount_free_(m, m->names.bucket, m->names.size * sizeof *m->names.bucket);
    fsb_mount_free_(m, m->nodes.bucket, m->nodes.size * sizeof *m->nodes.bucket);
    fsb_handles_close(m->ids);
}

static void fsb_mount_free_all_(fsb_mount *m)
{
    if (m->session) fuse_session_destroy(m->session);
    while (m->notes) {
        fsb_mount_note_ *note = m->notes;
        m->notes = note->next;
        fsb_mount_free_(m, note, offsetof(fsb_mount_note_, name) + note->size + 1);
    }
    for (uint32_t i = 0; i < FSB_MOUNT_MOVES_; ++i)
        fsb_mount_free_(m, m->moves[i].from, m->moves[i].size);
    fsb_mount_free_nodes_(m);
    fsb_mount_bufs_free_(m);
    while (m->spare_reqs) {
        fsb_mount_req_ *r = m->spare_reqs;
        m->spare_reqs = r->next;
        fsb_mount_free_(m, r, sizeof *r);
    }
    if (m->epoll >= 0) close(m->epoll);
    if (m->wake >= 0) close(m->wake);
    if (m->quit >= 0) close(m->quit);
    if (m->mountpoint) fsb_mount_free_(m, m->mountpoint, strlen(m->mountpoint) + 1);
    pthread_cond_destroy(&m->quiet);
    pthread_mutex_destroy(&m->lock);
    const fsb_allocator a = m->allocator;
    a.fn(a.user, m, sizeof *m, 0);
}

static int64_t fsb_mount_ns_of_(int32_t ms)
{
    return ms < 0 ? 0 : (int64_t)(ms ? ms : 1000) * 1000000;
}

static void fsb_mount_settings_(fsb_mount *m, const fsb_mount_desc *d)
{
    const int64_t behind = d->write_behind ? d->write_behind : 16 << 20;
    m->backend = d->backend, m->runner = d->runner, m->log = d->log;
    m->threads = d->threads ? d->threads : d->backend->submit ? 1 : 2;
    m->timeout_ms = d->timeout_ms;
    m->attr_ns = fsb_mount_ns_of_(d->attr_timeout_ms);
    m->entry_ns = fsb_mount_ns_of_(d->entry_timeout_ms);
    m->inlined = !d->backend->submit && (!d->runner.run || d->backend->flags & FSB_BACKEND_QUICK);
    if (m->inlined) m->runner.run = NULL;
    m->behind_max = !m->inlined && behind > 0 ? (uint64_t)behind : 0;
    m->read_only = d->read_only != 0, m->contain = d->contain_symlinks != 0;
    m->fd = m->epoll = m->wake = m->quit = -1;
    m->notes_tail = &m->notes;
    m->given_attr = d->attr_timeout_ms != 0, m->given_entry = d->entry_timeout_ms != 0;
}

static int fsb_mount_tables_(fsb_mount *m)
{
    fsb_handles_desc d;
    memset(&d, 0, sizeof d);
    d.max_handles = FSB_MOUNT_NODES_, d.shards = 1, d.allocator = m->allocator;
    int err = fsb_handles_open(&m->ids, &d);
    if (!err) err = fsb_mount_table_grow_(m, &m->nodes, 64);
    if (!err) err = fsb_mount_table_grow_(m, &m->names, 64);
    if (!err) err = fsb_mount_table_grow_(m, &m->bytes, 64);
    return err;
}

static int fsb_mount_prepare_(fsb_mount *m, const fsb_mount_desc *desc)
{
    char path[PATH_MAX];
    int  err = fsb_mount_tables_(m);
    if (err) return err;
    m->epoll = epoll_create1(EPOLL_CLOEXEC);
    m->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), m->quit = eventfd(0, EFD_CLOEXEC);
    if (m->epoll < 0 || m->wake < 0 || m->quit < 0) return -errno;
    err = fsb_mount_session_new_(m, desc);
    if (err) return err;
    if (m->remote_locks && !m->backend->submit && !m->backend->call[FSB_OP_LOCK]) {
        fsb_mount_log_(m, FSB_LOG_ERROR, "mount/open",
                       "remote_locks: what is mounted has no locks");
        return -EOPNOTSUPP;
    }
    err = fsb_mount_place_(m, desc->mountpoint);
    if (err) return err;
    if (!realpath(desc->mountpoint, path)) return -errno;
    m->mountpoint = (char *)fsb_mount_alloc_(m, strlen(path) + 1);
    if (!m->mountpoint) return -ENOMEM;
    memcpy(m->mountpoint, path, strlen(path) + 1);
    fsb_mount_lease_(m);
    err = fsb_mount_root_(m);
    return err ? err : fsb_mount_attach_(m);
}

FSB_API int fsb_mount_open(fsb_mount **out, const fsb_mount_desc *desc)
{
    if (!out || !desc || !desc->backend || !desc->mountpoint || desc->threads > 64 ||
        desc->write_behind > (int64_t)1 << 30)
        return -EINVAL;
    const fsb_allocator libc = {fsb_mount_libc_, NULL};
    const fsb_allocator a = desc->allocator.fn ? desc->allocator : libc;
    fsb_mount          *m = (fsb_mount *)a.fn(a.user, NULL, 0, sizeof *m);
    if (!m) return -ENOMEM;
    memset(m, 0, sizeof *m);
    m->allocator = a;
    fsb_mount_settings_(m, desc);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->quiet, NULL);
    const int err = fsb_mount_prepare_(m, desc);
    if (err) fsb_mount_lease_end_(m), fsb_mount_free_all_(m);
    else *out = m;
    return err;
}

/* Waits until it is over: 1 if somebody else unmounted it. */
static int fsb_mount_attend_(fsb_mount *m)
{
    struct pollfd p;
    p.fd = m->wake, p.events = POLLIN;
    for (;;) {
        uint64_t count;
        if (poll(&p, 1, -1) > 0 && read(m->wake, &count, sizeof count) < 0) continue;
        if (__atomic_load_n(&m->ended, __ATOMIC_ACQUIRE)) return 1;
        if (__atomic_load_n(&m->stopping, __ATOMIC_ACQUIRE)) return 0;
        fsb_mount_notify_(m);
    }
}

FSB_API int fsb_mount_serve(fsb_mount *m)
{
    pthread_t threads[64];
    uint32_t  count = 0;
    int       err = 0;
    if (m->served) return -EINVAL;
    m->served = 1;
    while (count < m->threads && !err) {
        err = fsb_mount_thread_(&threads[count], m);
        if (!err) ++count;
    }
    if (count && !fsb_mount_attend_(m)) {
        const int busy = fsb_mount_detach_(m);
        m->unmounted = !busy;
        if (busy)
            fsb_mount_log_(m, FSB_LOG_WARN, "mount/stop", "%s is in use: it goes nevertheless",
                           m->mountpoint);
    }
    fsb_mount_ended_(m);
    for (uint32_t i = 0; i < count; ++i) pthread_join(threads[i], NULL);
    fsb_mount_drain_(m);
    return count ? 0 : err;
}

FSB_API void fsb_mount_stop(fsb_mount *m)
{
    if (!m) return;
    const int saved = errno;
    __atomic_store_n(&m->stopping, 1, __ATOMIC_RELEASE);
    fsb_mount_signal_(m->wake);
    errno = saved;
}

/* What the kernel had open when the connection ended is closed here. */
static void fsb_mount_close_files_(fsb_mount *m)
{
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->nodes.size; ++i)
        for (fsb_mount_link_ *l = m->nodes.bucket[i]; l; l = l->next) {
            fsb_mount_node_ *n = (fsb_mount_node_ *)(void *)l;
            fsb_mount_file_ *reader = n->reader, *writer = n->writer;
            n->reader = n->writer = NULL;
            n->error = 0;   /* nobody is left to be told */
            n->lookups = 1; /* it stays, for fsb_mount_free_nodes_() */
            if (reader) fsb_mount_file_unpin_(m, reader);
            if (writer) fsb_mount_file_unpin_(m, writer);
        }
    fsb_mount_unlock_(m);
    fsb_mount_drain_(m);
}

FSB_API void fsb_mount_close(fsb_mount *m)
{
    if (!m) return;
    struct pollfd p;
    p.fd = m->fd, p.events = 0;
    const int gone = poll(&p, 1, 0) == 1 && p.revents & POLLERR;
    /* Unmounted here, but alive in another mount namespace: to unmount it once more would hit what
       lies below. */
    if (gone || !m->unmounted) fuse_session_unmount(m->session);
    fsb_mount_lease_end_(m);
    fsb_mount_close_files_(m);
    fsb_mount_free_all_(m);
}

FSB_API const char *fsb_mount_errmsg(fsb_mount *m, char *buf, size_t size)
{
    if (!size) return buf;
    pthread_mutex_lock(&m->lock);
    snprintf(buf, size, "%s", m->error);
    pthread_mutex_unlock(&m->lock);
    return buf;
}

#endif /* FSB_WITH_FUSE */
#endif /* what is hidden */
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
