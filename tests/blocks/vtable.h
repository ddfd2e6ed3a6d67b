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
