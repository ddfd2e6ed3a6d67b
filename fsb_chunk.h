/* fsb_chunk.h - v0.1.0 - any backend over a stream of bytes - single-header C library (C99, C++11)

   A server gives shares (a name, a backend, rights; see "vtable" below) to any number of clients,
   over unix sockets, TLS (to who knows a join code, or has a token), loopback TCP, or one pair of
   descriptors such as stdin and stdout. A client is a backend like any other: its submit() sends
   and does not wait, answers come in any order, its call[] waits for one answer. BLAKE3
   (fsb_blake3_*) stands alone.

   QUICK START
       #define FSB_CHUNK_IMPLEMENTATION     // in ONE source file, before its other includes
       #include "fsb_chunk.h"               // (FSB_IMPLEMENTATION enables every fsb header)

       unsigned char sum[32];
       fsb_blake3_hash("abc", 3, sum);
       if (sum[0] != 0x64) return 1;

       fsb_backend *files = NULL;           // yours, or one of fsb_backend.h
       fsb_chunk_share share = {"work", files, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
       fsb_chunk_server_desc desc = {0};    // a zero field means "use the default"
       desc.shares = &share, desc.share_count = files ? 1 : 0;
       fsb_chunk_server *server = NULL;     // on the host
       if (fsb_chunk_server_open(&server, &desc) == 0) {
           fsb_chunk_server_listen(server, "unix:/run/work.sock", NULL, 0);
           fsb_chunk_server_close(server);
       }

       fsb_chunk_client_desc where = {0};   // elsewhere: a backend like any other
       where.address = "unix:/run/work.sock", where.share = "work";
       fsb_backend *remote = NULL;
       if (fsb_chunk_client_open(&remote, &where) == 0) {
           fsb_op op = {0};
           op.code = FSB_OP_STAT, op.path = "/";
           remote->call[FSB_OP_STAT](remote, &op);
           remote->close(remote);
       }

   THE WIRE   version 1, little endian. A frame is a 32-byte header, meta, data; answers come in any
       order:
        0  u32  magic, "FSB1"             16  u64  tag: the client's, echoed in the answer
        4  u32  bytes of meta, 8 n        24  i32  answer: the result, or minus an error of the wire
        8  u32  bytes of data                      request: time left in ms, 0 for the server's own
       12  u16  op: FSB_OP_*, or below    28  u32  CRC-32 (zlib's, ISO 3309) of bytes 0-27 and meta
       14  u16  flags: 1 answer; 2 READ's, the last 8 bytes of data, an i64, say how many before
                them count (the others are zeros), or minus an error: the file was cut meanwhile
       Meta is the op's fields in the order of FSB_CHUNK_FIELDS_ below, each present or absent by op
       (the two tables behind it), packed without gaps, then zeros to a multiple of 8; at most
       16384 bytes. Numbers have the size they have in fsb_op; `size` is u32, and `owner` is
       followed by u32 pid. Stat (104 bytes), attr (48) and statfs (56) are the fields of fsb_stat,
       fsb_attr and fsb_statfs in order. A string is a u16 count, its bytes and a '\0', both
       counted; count 0 is no string. Data are what is written, or read: at most 1 MiB, and the 8
       bytes of flag 2. An error answer has neither meta nor data. Errors have Linux's numbers of
       the generic ABI, whatever the platform. LIST's `size` is about how much data the answer may
       have, 0: 128 KiB. These are entries: u64 cookie, stat, u16 size of the name, the name without
       '\0'.
       With LIST's flags DATA or DEEP the name is followed by: string of u16 size without '\0', the
       folder (empty: that of the entry before, at first the one asked for), u32 bytes of data that
       follow plus 1, or 0: not included. An entry without a name ends its folder.
       WATCH, flags HELD and DEEP, path "/", gives the client a lease: from its answer on the server
       sends 0x102 EVENT (tag: 1, 2, ...; meta: u32 FSB_EVENT_*, stat, or zeros if that is not
       known, strings path, path2) for what others change in folders that the client's requests led
       through, and answers the one who changed it when this client has sent 0x103 SEEN (tag: up to
       which event; no meta), 2 s at most: then it is disconnected. Neither has an answer.
       EXEC's size64 is max_output; its data: u32 number of arguments, u32 of variables, these
       strings, each with its '\0', then what the command reads from stdin. Time left 0 is no limit.
       Before the answer come 0x106 OUTPUT, tag the request's, meta u32 1 stdout or 2 stderr, u32 0,
       data 1 to 65536 bytes; they have no answer. CANCEL ends the command, as the connection's end
       does. The answer's meta: i32 exit code, i32 signal, u64 bytes cut of stdout, u64 of stderr.
       0x100 HELLO must come first. Meta: u16 lowest and u16 highest version, u32 flags, 16 bytes
       client id (random: who has it is taken for that client), string share (none: the first).
       Answer: u16 version, u16 rights, u32 requests that may be in flight, u64 boot id of the
       server, u64 bit n set: FSB_OP n is served, u32 bytes of data at most, u32 flags; or 2, no
       such share, or 71, none of these versions, and that was all. Both sides pass over flags of
       HELLO, and the client over fields behind these, that they do not know. Of the client's flags
       1 says that it STAYS: it sends 0x104 PING (no meta; answered) every 7 s, for it is taken for
       lost when nothing came from it for 15 s, nor was taken of what waits for it (while it is not
       read, PING's answer comes unasked, tag 0, so that both ends know of each other); and 0x105
       GOODBYE (no answer) before it leaves for good, as the server does before it stops; what it
       has is kept for a while if the connection just ends. The low half of a tag is then a slot,
       the high half its turn: a slot's next turn begins only when the last was answered or given
       up. 2, with 1: it is BACK, with the id that it had before. The answer's flag 1 says: files,
       locks and answers are still here. Then the client repeats what was not answered, each request
       with its tag; of what must not be done twice the server has kept the last answer of each slot
       below 4096: in the others that is not to be repeated.
       0x101 CANCEL, meta u64 tag: that request may end early with EINTR. It has no answer itself.
       Requests past those that may be in flight, or past 14 MiB of them and their answers, are not
       read before some are answered (8 MiB are, to look for a SEEN that others wait for: it, PING
       and GOODBYE overtake them): take answers while you send. Each 64 KiB of a frame must come
       within 30 s; of answers some byte must be taken within as long. (These are defaults.) An op
       of the table that is not served is answered with 38, ENOSYS; any other breaks the rules.
       Who closes the half that he sends on has left, and is not answered any more.
       Who breaks these rules is disconnected, with a line in the log.
       Over bare TCP all of this is in records of 1 to 65536 bytes, each behind u32 "FSBS", u32
       size, u32 its complement, u32 the first of the BLAKE3 of the bytes; a wrong one ends the
       connection. A server takes them wherever a client begins with one, and on TCP frames without
       them, too.
       Over TLS all of this is inside: version 1.3, suites with SHA-256, an external PSK with
       (EC)DHE, no certificates, no tickets. A join code is 26 symbols of Crockford's base 32 and
       two that are their number modulo 1021; in capitals, in fours with dashes, it is the key
       material of two BLAKE3 derive_key: "fsb 2026 join code: the key of TLS", 32 bytes, and "fsb
       2026 join code: its name on the wire", 16 bytes: in hex, the PSK's identity. A token is
       IDENTITY:SECRET: up to its last ':' it is the PSK's identity as it stands, readable to all
       on the way; all of it is the key material of "fsb 2026 token: the key of TLS", 32 bytes.

   COMING BACK   With desc.reconnect a client outlives its connection. It finds out at once, or if
       nothing is heard, within 15 s; then it connects anew, after 0.1 s, doubled up to 2 s, for
       good. Meanwhile calls wait, each its own time, then end with -ETIMEDOUT; with -EACCES at
       once when the code opens nothing any more. On the same host, within its desc.away_ms, open
       files (without a name too) and locks are as they were, and what was under way is done
       exactly once; of more than 4096 requests some may end with the -EIO below. A LOCK that was
       given up is not held, even if it was granted just then. On a host that was started anew, or
       later, files are opened again by their names, as this client's own renames left them: -ESTALE
       if another file is there now. The locks held on them are asked for again before anything
       else; where another client was faster, the file's next call and all later ones end with -EIO.
       One who took a lock and gave it back in between is not noticed. What may have been done but
       cannot safely be repeated (making, removing and renaming names, appending, exclusive
       creation) ends with -EIO: look before you try again.

   NEEDS     POSIX threads (-pthread), Linux 4.14. With a strict -std=, include it before libc's.
   OPTIONS   FSB_STATIC, FSB_API: once, before the first fsb header. FSB_WITH_OPENSSL: TLS, with
             OpenSSL 3.0 or newer (-lssl -lcrypto).
   THREADS   fsb_chunk_server_listen() starts a thread that accepts, then one per client, so that a
             client who stalls stalls itself; calls that may wait for a disk go to at most
             desc.threads more, or to desc.runner. fsb_chunk_client_open() starts one: the receiver.
             While there is traffic both ends look for more for 120 us before they sleep, but not
             behind connect(), nor where fsb_chunk_server_serve() has two descriptors.
   MEMORY    desc.allocator only, but for OpenSSL's own. A server holds at most desc.max_bytes of a
             client's requests and answers, then reads no more from it; half as much again while
             others wait for its SEEN. Idle clients cost a thread's stack and 16 KiB.
   ERRORS    0 or a negative errno. -EPROTO the peer broke the protocol, -ENOTCONN the connection is
             gone, -ETIMEDOUT no answer in time; details go to the log.
   DOES NOT  encrypt but by "tls:" (else loopback TCP and unix sockets only, unless asked for by
             name), checksum the bytes of files where neither TLS nor TCP is used (headers and meta
             are), detect deadlocks of locks. Locks live in the server: they bind its clients, not
             the host's own programs.
   LICENCE   MIT, at the end of this file.            CHANGES   0.1.0 first version. */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_CHUNK_IMPLEMENTATION)) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1 /* helps only if no libc header came first: verified below */
#endif
#ifndef FSB_CHUNK_H
#define FSB_CHUNK_H
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

/* ---- server ---- */

typedef struct fsb_chunk_server fsb_chunk_server;
enum { /* rights */
    FSB_CHUNK_READ = 1, FSB_CHUNK_WRITE = 2,
    FSB_CHUNK_EXEC = 4 /* to run commands, where the backend lets: they may do as the host may */
};

typedef struct fsb_chunk_share {
    const char  *name;    /* what clients ask for: 1 to 255 bytes */
    fsb_backend *backend; /* borrowed until the server is closed */
    uint32_t     rights;  /* FSB_CHUNK_READ, with it perhaps FSB_CHUNK_WRITE, FSB_CHUNK_EXEC */
} fsb_chunk_share;

#define FSB_CHUNK_NEVER UINT32_MAX /* a duration that means: not at all */

/* Who did what. Texts come from clients and may hold any byte but 0; valid during the call. */
typedef struct fsb_chunk_audit {
    uint64_t    client;      /* the number that the log has too; 0: turned away before it had one */
    const char *code;        /* name of its join code; "": it needed none, or the code has none */
    const char *share;       /* "": none yet */
    const char *what;        /* "connect", "leave", "refused", "exec" (path2: its first word), or a
                                change: "write", ... */
    const char *path, *path2; /* that it was done to, as far as it is known; NULL: none */
    int64_t     result;      /* bytes or 0, or a negative errno */
} fsb_chunk_audit;

/* What a tenant may take at most; what comes faster waits, up to 5 s, unread. 0: no limit. */
typedef struct fsb_chunk_limits {
    uint32_t requests_per_s, request_burst; /* the burst: at once, after a pause (default what
                                               a second brings) */
    uint64_t bytes_per_s, byte_burst; /* of what is read and written */
    uint32_t max_running; /* requests on desc.threads at once (default all but a quarter of them) */
} fsb_chunk_limits;

/* What a client may do that comes with a token: a text IDENTITY:SECRET that both ends know, as
   those of fsb_tokens_sign() in fsb_mount.h. Only the identity crosses the wire. */
enum { FSB_CHUNK_TOKEN_MAX = 255 }; /* bytes; the secret, behind the last ':', at least 22 */
typedef struct fsb_chunk_pass {
    char            token[FSB_CHUNK_TOKEN_MAX + 1]; /* all of it */
    fsb_chunk_share share;      /* what it opens, and its tenant's name; the name is copied */
    int64_t         expires_ns; /* since the epoch; 0: never */
    fsb_chunk_limits limits; /* of all clients of this backend together: they are one tenant, and
                                have one turn among the others: while these ask, half of the
                                processors serve it at most; as they were last said */
    int quick; /* 1: treated as FSB_BACKEND_QUICK, where a tenant's files may be closed under it,
                  as those of fsb_tenants, and so are not read by their descriptors */
} fsb_chunk_pass;

/* Whose files are whose, where a client's numbers of users and groups are not this host's. What a
   client asks for (the owner of a new file, chown) is translated by the pairs, and what it is shown
   by the same pairs backwards; what no pair names stays as it is, or becomes the anonymous one as
   NFS's root_squash and all_squash have it. Squashed clients cannot make device nodes or set
   attributes named security.* or trusted.*: -EPERM. None of this decides who may open a file: the
   server acts as the user it runs as, and the kernels of clients check modes. */
typedef struct fsb_chunk_id { uint32_t client, host; } fsb_chunk_id;
enum { FSB_CHUNK_SQUASH_ROOT = 1, FSB_CHUNK_SQUASH_ALL = 2 };
typedef struct fsb_chunk_ids {
    uint32_t squash;              /* FSB_CHUNK_SQUASH_*: 0 alone, or root and group 0, or all */
    uint32_t anon_uid, anon_gid;  /* the anonymous ones (default 65534, nobody) */
    const fsb_chunk_id *users, *groups; /* [user_count], [group_count]: the first that fits */
    size_t              user_count, group_count;
} fsb_chunk_ids;

typedef struct fsb_chunk_server_desc {
    const fsb_chunk_share *shares; /* [share_count], copied; at least one, or admit */
    size_t                 share_count;
    const fsb_chunk_ids   *ids; /* borrowed until the server is closed (default: as they are) */
    uint32_t               max_clients;  /* at once; more are turned away (default 1024), unless
                                            somebody has not said hello yet: then the oldest is */
    uint32_t               max_requests; /* in flight per client, 1 to 65536 (default 256) */
    uint32_t               max_handles;  /* open files per client, 1 to 2^24 (default 16384) */
    uint64_t      max_bytes; /* of requests and answers held per client (default 16 MiB, least 2) */
    uint32_t      max_locks;  /* held and waited for, per client, besides (default 8192: each
                                 request looks at all of a file's) */
    uint32_t      max_events; /* on their way to a client that holds a lease, of which it can have
                                 one; more, or more than max_bytes, and it is dropped (default
                                 16384) */
    uint32_t      hello_ms;  /* from connect to hello, at most (default 10000) */
    uint32_t      max_unproven;      /* "tls:": at once, before they show a code (default 64); one
                                         more, and the oldest of them is disconnected */
    uint32_t      max_unproven_each; /* of these from one address, of IPv6 from one /64 (default
                                        16) */
    uint32_t      frame_ms;  /* for each 64 KiB of a frame that comes, and without a byte taken of
                                what goes (default 30000) */
    uint32_t      request_ms;   /* a request's time where the client sets none (default 30000) */
    uint32_t      away_ms;      /* what a client had is kept so long for it to come back (default
                                   60000; FSB_CHUNK_NEVER: not at all) */
    uint32_t      threads;      /* that may wait for a disk, at most, 1 to 1024 (default 8) */
    uint32_t      max_execs;    /* commands at once, of all clients, each on a thread besides; more
                                   wait, per client up to max_requests and half of max_bytes, then
                                   -EAGAIN; 1 to 1024 (default 64) */
    uint32_t      max_execs_each; /* of these, of one client (default a quarter of them) */
    uint32_t      socket_mode;  /* permissions of a unix socket (default 0600) */
    int           insecure_tcp; /* 1: listen on other addresses than loopback too, unprotected */
    fsb_runner    runner;       /* runs blocking calls instead of own threads */
    fsb_allocator allocator;
    fsb_logger    log;
    /* Is told of every change that was asked for, done or not, and of clients that come and go, on
       the thread that has the answer, before it is sent: be quick, and do not call the server. */
    void (*audit)(void *user, const fsb_chunk_audit *entry);
    void *audit_user; /* handed to audit */
    /* Asked about each client of a "tls:" address whose code is none of ours: who has this identity
       (`size` bytes, printable)? Fills in *pass and returns 0, or an error: it is refused. Asked
       again after fsb_chunk_server_recheck(). The backend must last until the server is closed.
       On the connection's thread; be quick, and do not call the server. NULL: no tokens. */
    int (*admit)(void *user, const char *identity, size_t size, fsb_chunk_pass *pass);
    void *admit_user; /* handed to admit */
} fsb_chunk_server_desc;

enum { FSB_CHUNK_LATENCIES = 24 };
typedef struct fsb_chunk_server_stats {
    uint64_t clients;          /* connected now */
    uint64_t leases;           /* of these, told of what others change */
    uint64_t accepted;         /* since open; likewise all below */
    uint64_t returned;         /* clients that came back after their connection was lost */
    uint64_t requests, errors; /* answered; of these with an error */
    uint64_t bytes_in, bytes_out;
    uint64_t events; /* sent to who holds a lease */
    uint64_t refused;  /* codes and tokens that opened nothing */
    uint64_t tokens;   /* clients that came with a good token */
    uint64_t delayed;  /* requests that waited because of a tenant's rates ... */
    uint64_t delayed_ms; /* ... for so long together */
    uint64_t held;     /* times that a tenant had work waiting behind its max_running, or a client
                          behind others of its tenant while there were other tenants */
    uint64_t timeouts; /* requests whose time was over before their turn */
    /* [i]: requests that took under 2^i microseconds, but not under 2^(i-1); the last: all that
       took longer. Without LOCKs, which may wait for others. */
    uint64_t latency[FSB_CHUNK_LATENCIES];
    uint64_t latency_us; /* of these together */
} fsb_chunk_server_stats;

/* Makes a server of *desc; it serves nobody yet. The caller owns *out until
   fsb_chunk_server_close(). Errors: -EINVAL (the log names the field), -ENOMEM. Threads: any. */
FSB_API int fsb_chunk_server_open(fsb_chunk_server **out, const fsb_chunk_server_desc *desc);

/* Accepts clients on "unix:PATH", "HOST:PORT" or "[V6]:PORT" (port 0: any free one; HOST "*": every
   address), or with "tls:" before the last two those that know a join code, until the server is
   closed; may be called for several addresses. A stale socket of a dead server is replaced. The
   address in use ("unix:PATH", "tls:127.0.0.1:4711") goes to bound (size bytes) unless that is
   NULL. Errors: -EINVAL no address, -EADDRINUSE, -EACCES (also: not loopback), -ENOSYS no TLS,
   -ENAMETOOLONG, -EEXIST a file that is no socket, -EHOSTUNREACH no address for that name, -ENOMEM,
   -EAGAIN no more threads, what socket(2) and bind(2) say. Threads: any; starts one. */
FSB_API int fsb_chunk_server_listen(fsb_chunk_server *server, const char *address, char *bound,
                                    size_t size);

/* A join code: what a client must know to connect by "tls:". It carries 130 random bits in letters
   and digits that can be read aloud, in groups of four, and tells typing errors by itself. */
enum { FSB_CHUNK_CODE_SIZE = 35 }; /* bytes of its text, with the '\0' */
typedef struct fsb_chunk_code {
    const char *code;       /* as fsb_chunk_code_create() makes them */
    const char *share;      /* the one that it opens; NULL: each */
    uint32_t    rights;     /* FSB_CHUNK_READ, or that and others; the share's at most */
    const char *name;       /* for the log, up to 63 bytes; NULL: none */
    int64_t     expires_ns; /* since the epoch; 0: never */
} fsb_chunk_code;

/* Makes a join code of fresh random bits; `size` bytes of out, at least FSB_CHUNK_CODE_SIZE.
   Errors: -EINVAL, -ENAMETOOLONG, what getrandom(2) says. Threads: any; may block at boot. */
FSB_API int fsb_chunk_code_create(char *out, size_t size);

/* Writes the usual form of a code that a person typed, in any case, with any dashes and spaces, I
   or L for 1, O for 0. Errors: -EINVAL it is mistyped (one wrong symbol, or two swapped, always
   show), -ENAMETOOLONG size is under FSB_CHUNK_CODE_SIZE. Threads: any. */
FSB_API int fsb_chunk_code_parse(const char *text, char *out, size_t size);

/* Sets the codes that clients of "tls:" addresses may come with, instead of those before; copied.
   Who is connected with a code that is not among them any more, or not with these rights, is
   disconnected. Errors: -EINVAL a code is mistyped, rights or a share's name are wrong, -ENOMEM;
   nothing is changed then. Threads: any. */
FSB_API int fsb_chunk_server_set_codes(fsb_chunk_server *server, const fsb_chunk_code *codes,
                                       size_t count);

/* Has desc.admit asked again about each client that came with a token: who is refused now, or gets
   another key, backend or rights, is disconnected. Errors: none. Threads: any. */
FSB_API void fsb_chunk_server_recheck(fsb_chunk_server *server);

/* Serves one client on this thread, over a socket given twice or two descriptors such as stdin and
   stdout, which are made non-blocking and stay the caller's; returns when the client leaves or the
   server closes. Errors: 0 the client left, -ENOMEM, -EAGAIN too many clients, -ECANCELED closing,
   -EPROTO, -ETIMEDOUT, -ECONNRESET and the like. Threads: any; blocks. */
FSB_API int fsb_chunk_server_serve(fsb_chunk_server *server, int read_fd, int write_fd);

/* Counters; each is exact, together they may be of slightly different moments.
   Errors: none. Threads: any. */
FSB_API void fsb_chunk_server_get_stats(fsb_chunk_server *server, fsb_chunk_server_stats *out);

/* The desc with the defaults filled in; shares is NULL. Errors: none. Threads: any. */
FSB_API void fsb_chunk_server_get_desc(const fsb_chunk_server *server, fsb_chunk_server_desc *out);

/* Stops listening, disconnects the clients, waits for calls that are under way, closes the clients'
   files, removes unix sockets. NULL is fine. Errors: none. Threads: no other user left but
   fsb_chunk_server_serve(), for which it waits; may block. */
FSB_API void fsb_chunk_server_close(fsb_chunk_server *server);

/* ---- client ---- */

typedef struct fsb_chunk_client_desc {
    const char *address; /* "unix:PATH", "HOST:PORT", "[V6]:PORT", "tls:HOST:PORT"; copied */
    const char *share;   /* its name (default: the server's first) */
    const char *code;    /* the join code, or the token, of a "tls:" address (with connect: TLS
                            over that) */
    /* Instead of address: makes the connection. fds[0] is read, fds[1] written; they may be one.
       They become the client's, which makes them non-blocking. Returns 0 or a negative errno. */
    int (*connect)(void *user, int fds[2]);
    void    *user;        /* handed to connect */
    uint32_t timeout_ms;  /* of connecting, and of an operation without its own (default 30000),
                             unless it is a LOCK that waits: that has none */
    int      reconnect;   /* 1: when the connection is lost, calls wait up to their time while it
                             connects anew, and is where it was: see COMING BACK */
    unsigned char id[16]; /* names this client; all zero: random */
    fsb_allocator allocator;
    fsb_logger    log;
} fsb_chunk_client_desc;

typedef struct fsb_chunk_client_info {
    uint32_t rights; /* FSB_CHUNK_* as the host granted them */
    uint32_t max_requests;
    uint64_t boot_id; /* differs whenever the host was started anew */
    uint64_t reconnects; /* since open */
} fsb_chunk_client_info;

/* Connects and says hello; *out is the share as a backend, ended by its close(). Its call[] waits
   for the answer; its submit() only a moment, for room in a full socket; done() runs on the
   receiver's thread (or on this one if the connection is gone): be quick there, and submit() does
   not wait at all. Bytes handed out there are borrowed, not kept. EXEC's output() runs there too;
   if it is not 0 the command is ended, and its signal said to be SIGTERM. EXEC has no time limit
   but its own timeout_ms, takes arguments, variables and input of 1 MiB together (else -E2BIG), and
   ends with -ENOTCONN when the connection is lost, as does the command: it is never repeated.
   Errors: -EINVAL (also: the code is mistyped), -ENOMEM, -ENOENT no such share, -EPROTO no fsb
   host, -EACCES the host does not know the code (any more), -ENOSYS no TLS, -ECONNREFUSED,
   -ENOTCONN turned away, -ETIMEDOUT, -ENAMETOOLONG, -EAGAIN no more threads, what connect() says.
   Threads: any; starts one; blocks up to timeout_ms. */
FSB_API int fsb_chunk_client_open(fsb_backend **out, const fsb_chunk_client_desc *desc);

/* What hello said; backend is one of fsb_chunk_client_open()'s. Errors: none. Threads: any. */
FSB_API void fsb_chunk_client_get_info(fsb_backend *backend, fsb_chunk_client_info *out);

/* Connects to "unix:PATH", "HOST:PORT" or "[V6]:PORT" within timeout_ms (0: 30000); fds[0] and
   fds[1] are the one socket, the caller's. Errors: -EINVAL no such form, -ENAMETOOLONG,
   -EHOSTUNREACH no address for that name, -ETIMEDOUT, what connect(2) says. Threads: any; blocks.
   */
FSB_API int fsb_chunk_dial(const char *address, uint32_t timeout_ms, int fds[2]);

/* ---- BLAKE3 ---- */

/* ---- BLAKE3 ------------------------------------------------------------------------------------
   A 256-bit cryptographic hash, also keyed (a MAC) and as a key derivation function. Start with one
   of the three init calls, update as often as needed, ask for any number of output bytes. Nothing
   here allocates, starts threads or fails. A hasher is a plain value: it may live on the stack, be
   copied (to hash a common beginning once) and be dropped at any time without a call. */

/* A running hash, 1.9 KiB. `lanes` may be lowered after init (for tests and measurements: every
   width gives the same result); the fields with an underscore are private. */
typedef struct fsb_blake3 {
    unsigned      lanes;         /* chunks hashed at a time: 1, 4, 8, 16; init: most the CPU can */
    uint32_t      flags_;        /* of the mode, in every compression */
    uint32_t      key_[8];       /* what every chunk starts from */
    uint32_t      cv_[8];        /* chaining value of the current chunk ... */
    uint32_t      blocks_;       /* ... after this many whole blocks (0-15), then ... */
    uint32_t      fill_;         /* ... this many bytes of block_ (0-64) */
    unsigned char block_[64];
    uint64_t      chunks_;       /* whole chunks before the current one */
    uint32_t      depth_;        /* entries in stack_ */
    unsigned char stack_[55 * 32]; /* subtrees that wait for their right neighbour */
} fsb_blake3;

/* Starts a plain hash. Errors: none. Threads: any, one at a time per hasher. */
FSB_API void fsb_blake3_init(fsb_blake3 *hasher);

/* Starts a keyed hash (a MAC) with a secret of 32 bytes.
   Errors: none. Threads: any, one at a time per hasher. */
FSB_API void fsb_blake3_init_keyed(fsb_blake3 *hasher, const unsigned char key[32]);

/* Starts the derivation of a key: `context` is a constant, unique text that says what the key is
   for, best with the application and a date; the key material comes through update.
   Errors: none. Threads: any, one at a time per hasher. */
FSB_API void fsb_blake3_init_derive_key(fsb_blake3 *hasher, const char *context);

/* Adds `size` bytes; any split of the input gives the same result, large pieces are the fastest
   (from 64 KiB on). data may be NULL if size is 0.
   Errors: none. Threads: any, one at a time per hasher. */
FSB_API void fsb_blake3_update(fsb_blake3 *hasher, const void *data, size_t size);

/* Writes the first `size` bytes of the output for all input so far: 32 is a hash, more is a stream
   whose beginning is that hash. The hasher is unchanged: update may go on.
   Errors: none. Threads: any; several may call it on one hasher that nobody updates. */
FSB_API void fsb_blake3_final(const fsb_blake3 *hasher, void *out, size_t size);

/* The 32-byte hash of one piece of memory. Errors: none. Threads: any. */
FSB_API void fsb_blake3_hash(const void *data, size_t size, unsigned char out[32]);

#ifdef __cplusplus
}
#endif
#endif /* FSB_CHUNK_H */

/* ==== IMPLEMENTATION: [memory] [crc] [blake3] [codes] [errors] [cursor] [fields] [frame] [stream]
   [tls] [sums] [address] [ids] [replies] [handles] [locks] [leases] [requests] [keys] [connection]
   [return] [server] [slots] [receiver] [reconnect] [client] ==================================== */
#if (defined(FSB_IMPLEMENTATION) || defined(FSB_CHUNK_IMPLEMENTATION)) && !defined(FSB_CHUNK_DONE_)
#define FSB_CHUNK_DONE_ /* a second inclusion is harmless */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if !defined(CLOCK_MONOTONIC) || !defined(SOCK_CLOEXEC)
#error "fsb_chunk.h: POSIX is hidden; include it first, or compile with -D_GNU_SOURCE"
#else
#ifdef FSB_WITH_OPENSSL
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "fsb_chunk.h: FSB_WITH_OPENSSL needs OpenSSL 3.0 or newer"
#endif
#endif
#ifdef __cplusplus
extern "C" {
#endif

/* ---- [memory] -------------------------------------------------------------------------------- */

static void *fsb_chunk_resize_(const fsb_allocator *a, void *ptr, size_t old_size, size_t new_size)
{
    if (a->fn) return a->fn(a->user, ptr, old_size, new_size);
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static void *fsb_chunk_alloc_(const fsb_allocator *a, size_t size)
{
    void *ptr = fsb_chunk_resize_(a, NULL, 0, size);
    if (ptr) memset(ptr, 0, size);
    return ptr;
}

static void fsb_chunk_free_(const fsb_allocator *a, void *ptr, size_t size)
{
    if (ptr) (void)fsb_chunk_resize_(a, ptr, size, 0);
}

static char *fsb_chunk_strdup_(const fsb_allocator *a, const char *text)
{
    const size_t size = strlen(text) + 1;
    char        *copy = (char *)fsb_chunk_resize_(a, NULL, 0, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

static void fsb_chunk_strfree_(const fsb_allocator *a, char *text)
{
    if (text) fsb_chunk_free_(a, text, strlen(text) + 1);
}

/* path, or what lies below it, is path2 now: *text too if it is that. 1: it was; 0; or -ENOMEM or
   -ENAMETOOLONG, and it is as before. */
static int fsb_chunk_renamed_(const fsb_allocator *a, char **text, const char *path,
                              const char *path2)
{
    const size_t n = strlen(path), m = strlen(path2), all = strlen(*text);
    if (strncmp(*text, path, n) != 0 || ((*text)[n] && (*text)[n] != '/')) return 0;
    if (m + all - n > FSB_PATH_MAX) return -ENAMETOOLONG;
    char *name = (char *)fsb_chunk_resize_(a, NULL, 0, m + all - n + 1);
    if (!name) return -ENOMEM;
    memcpy(name, path2, m);
    memcpy(name + m, *text + n, all - n + 1);
    fsb_chunk_strfree_(a, *text);
    *text = name;
    return 1;
}

__attribute__((format(printf, 4, 5))) static void fsb_chunk_log_(const fsb_logger *log,
                                                                 fsb_log_level     level,
                                                                 const char       *item,
                                                                 const char       *format, ...)
{
    if (!log->fn) return;
    char    text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *p = text; *p; ++p) /* names come from strangers */
        if ((unsigned char)*p < ' ' || *p == 127) *p = '?';
    log->fn(log->user, level, item, text);
}

static int64_t fsb_chunk_now_us_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t fsb_chunk_now_ms_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A random number; the clock's only where the kernel has no randomness at all to give. */
static uint64_t fsb_chunk_random_(void)
{
    uint64_t value = 0;
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        value = ((uint64_t)t.tv_sec << 32) ^ (uint64_t)t.tv_nsec ^ ((uint64_t)getpid() << 20);
    }
    return value;
}

/* When bytes came, on one connection: what comes at once after one another is looked for. */
typedef struct fsb_chunk_pace_ {
    int64_t came;  /* monotonic us */
    int     brisk; /* soon after those before */
} fsb_chunk_pace_;

/* As poll(), but looks for a moment before it sleeps: who asks one thing after another is answered
   without waking an idle processor, which takes longer than most answers (measured: 35 us a wake,
   four a request). Others run meanwhile; where nothing comes, it sleeps after that moment. Only
   where bytes have just come so: on a busy machine a look, with its sched_yield(), puts the thread
   behind all others for milliseconds. p[0] is where bytes come. pace NULL: it never looks. */
static int fsb_chunk_poll_(struct pollfd *p, nfds_t count, int patience, fsb_chunk_pace_ *pace)
{
    enum { LOOK_US = 120, BRISK_US = 250 };
    const int64_t begin = pace && pace->brisk && patience ? fsb_chunk_now_us_() : 0;
    int           n = 0;
    while (begin && !n && fsb_chunk_now_us_() - begin < LOOK_US) {
        n = poll(p, count, 0);
        if (!n) sched_yield();
    }
    if (!n) n = poll(p, count, patience);
    if (pace && n > 0 && p[0].revents) {
        const int64_t now = fsb_chunk_now_us_();
        pace->brisk = now - pace->came < BRISK_US, pace->came = now;
    }
    return n;
}

static int fsb_chunk_cond_init_(pthread_cond_t *cond) /* waits by CLOCK_MONOTONIC */
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0) return -ENOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    const int err = pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
    return -err;
}

/* Starts fn(arg) with a small stack, there may be a thousand of these, and without the program's
   signals, which are for its own threads. */
static int fsb_chunk_thread_(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    sigset_t       all, old;
    if (pthread_attr_init(&attr) != 0) return -ENOMEM;
    const size_t least = (size_t)PTHREAD_STACK_MIN + (128u << 10);
    pthread_attr_setstacksize(&attr, least < (256u << 10) ? (256u << 10) : least);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int err = pthread_create(thread, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}

/* ---- [crc] ----------------------------------------------------------------------------------- */

/* CRC-32 of ISO 3309, polynomial 0xedb88320 reflected, a byte a step (Sarwate, 1988). It guards
   headers and meta, some 100 bytes a frame: not worth larger tables. */
static uint32_t fsb_chunk_crc_(uint32_t crc, const unsigned char *data, size_t size)
{
    static const uint32_t table[256] = {
    0x00000000, 0x77073096, 0xee0e612c, 0x990951ba, 0x076dc419, 0x706af48f, 0xe963a535, 0x9e6495a3,
    0x0edb8832, 0x79dcb8a4, 0xe0d5e91e, 0x97d2d988, 0x09b64c2b, 0x7eb17cbd, 0xe7b82d07, 0x90bf1d91,
    0x1db71064, 0x6ab020f2, 0xf3b97148, 0x84be41de, 0x1adad47d, 0x6ddde4eb, 0xf4d4b551, 0x83d385c7,
    0x136c9856, 0x646ba8c0, 0xfd62f97a, 0x8a65c9ec, 0x14015c4f, 0x63066cd9, 0xfa0f3d63, 0x8d080df5,
    0x3b6e20c8, 0x4c69105e, 0xd56041e4, 0xa2677172, 0x3c03e4d1, 0x4b04d447, 0xd20d85fd, 0xa50ab56b,
    0x35b5a8fa, 0x42b2986c, 0xdbbbc9d6, 0xacbcf940, 0x32d86ce3, 0x45df5c75, 0xdcd60dcf, 0xabd13d59,
    0x26d930ac, 0x51de003a, 0xc8d75180, 0xbfd06116, 0x21b4f4b5, 0x56b3c423, 0xcfba9599, 0xb8bda50f,
    0x2802b89e, 0x5f058808, 0xc60cd9b2, 0xb10be924, 0x2f6f7c87, 0x58684c11, 0xc1611dab, 0xb6662d3d,
    0x76dc4190, 0x01db7106, 0x98d220bc, 0xefd5102a, 0x71b18589, 0x06b6b51f, 0x9fbfe4a5, 0xe8b8d433,
    0x7807c9a2, 0x0f00f934, 0x9609a88e, 0xe10e9818, 0x7f6a0dbb, 0x086d3d2d, 0x91646c97, 0xe6635c01,
    0x6b6b51f4, 0x1c6c6162, 0x856530d8, 0xf262004e, 0x6c0695ed, 0x1b01a57b, 0x8208f4c1, 0xf50fc457,
    0x65b0d9c6, 0x12b7e950, 0x8bbeb8ea, 0xfcb9887c, 0x62dd1ddf, 0x15da2d49, 0x8cd37cf3, 0xfbd44c65,
    0x4db26158, 0x3ab551ce, 0xa3bc0074, 0xd4bb30e2, 0x4adfa541, 0x3dd895d7, 0xa4d1c46d, 0xd3d6f4fb,
    0x4369e96a, 0x346ed9fc, 0xad678846, 0xda60b8d0, 0x44042d73, 0x33031de5, 0xaa0a4c5f, 0xdd0d7cc9,
    0x5005713c, 0x270241aa, 0xbe0b1010, 0xc90c2086, 0x5768b525, 0x206f85b3, 0xb966d409, 0xce61e49f,
    0x5edef90e, 0x29d9c998, 0xb0d09822, 0xc7d7a8b4, 0x59b33d17, 0x2eb40d81, 0xb7bd5c3b, 0xc0ba6cad,
    0xedb88320, 0x9abfb3b6, 0x03b6e20c, 0x74b1d29a, 0xead54739, 0x9dd277af, 0x04db2615, 0x73dc1683,
    0xe3630b12, 0x94643b84, 0x0d6d6a3e, 0x7a6a5aa8, 0xe40ecf0b, 0x9309ff9d, 0x0a00ae27, 0x7d079eb1,
    0xf00f9344, 0x8708a3d2, 0x1e01f268, 0x6906c2fe, 0xf762575d, 0x806567cb, 0x196c3671, 0x6e6b06e7,
    0xfed41b76, 0x89d32be0, 0x10da7a5a, 0x67dd4acc, 0xf9b9df6f, 0x8ebeeff9, 0x17b7be43, 0x60b08ed5,
    0xd6d6a3e8, 0xa1d1937e, 0x38d8c2c4, 0x4fdff252, 0xd1bb67f1, 0xa6bc5767, 0x3fb506dd, 0x48b2364b,
    0xd80d2bda, 0xaf0a1b4c, 0x36034af6, 0x41047a60, 0xdf60efc3, 0xa867df55, 0x316e8eef, 0x4669be79,
    0xcb61b38c, 0xbc66831a, 0x256fd2a0, 0x5268e236, 0xcc0c7795, 0xbb0b4703, 0x220216b9, 0x5505262f,
    0xc5ba3bbe, 0xb2bd0b28, 0x2bb45a92, 0x5cb36a04, 0xc2d7ffa7, 0xb5d0cf31, 0x2cd99e8b, 0x5bdeae1d,
    0x9b64c2b0, 0xec63f226, 0x756aa39c, 0x026d930a, 0x9c0906a9, 0xeb0e363f, 0x72076785, 0x05005713,
    0x95bf4a82, 0xe2b87a14, 0x7bb12bae, 0x0cb61b38, 0x92d28e9b, 0xe5d5be0d, 0x7cdcefb7, 0x0bdbdf21,
    0x86d3d2d4, 0xf1d4e242, 0x68ddb3f8, 0x1fda836e, 0x81be16cd, 0xf6b9265b, 0x6fb077e1, 0x18b74777,
    0x88085ae6, 0xff0f6a70, 0x66063bca, 0x11010b5c, 0x8f659eff, 0xf862ae69, 0x616bffd3, 0x166ccf45,
    0xa00ae278, 0xd70dd2ee, 0x4e048354, 0x3903b3c2, 0xa7672661, 0xd06016f7, 0x4969474d, 0x3e6e77db,
    0xaed16a4a, 0xd9d65adc, 0x40df0b66, 0x37d83bf0, 0xa9bcae53, 0xdebb9ec5, 0x47b2cf7f, 0x30b5ffe9,
    0xbdbdf21c, 0xcabac28a, 0x53b39330, 0x24b4a3a6, 0xbad03605, 0xcdd70693, 0x54de5729, 0x23d967bf,
    0xb3667a2e, 0xc4614ab8, 0x5d681b02, 0x2a6f2b94, 0xb40bbe37, 0xc30c8ea1, 0x5a05df1b, 0x2d02ef8d
    };
    crc = ~crc;
    for (size_t i = 0; i < size; ++i) crc = table[(crc ^ data[i]) & 0xff] ^ (crc >> 8);
    return ~crc;
}

/* ---- [blake3] -------------------------------------------------------------------------------- */
/* O'Connor, Aumasson, Neves, Wilcox-O'Hearn: "BLAKE3, one function, fast everywhere" (2020).
   The input is cut into chunks of 1 KiB, each a chain of 16 compressions of 64 bytes; a binary tree
   of further compressions joins the chunks' values, left subtrees being as large as possible.
   Chunks are independent, so a vector unit hashes one in each lane, and the tree's levels too. */
#define FSB_BLAKE3_START_   1u  /* flags: first block of a chunk */
#define FSB_BLAKE3_END_     2u  /* last block of a chunk */
#define FSB_BLAKE3_PARENT_  4u  /* block of two children's chaining values */
#define FSB_BLAKE3_ROOT_    8u  /* the compression that gives the output */
#define FSB_BLAKE3_KEYED_   16u /* modes */
#define FSB_BLAKE3_CONTEXT_ 32u
#define FSB_BLAKE3_DERIVE_  64u
#define FSB_BLAKE3_BATCH_   128 /* chunks hashed before their values are joined: 4 KiB of stack */

static const uint32_t fsb_blake3_iv_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                           0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The compression, whatever the words are: numbers, rows of one state, or one word of many. */
#define FSB_BLAKE3_ROT_(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define FSB_BLAKE3_ROT16_(x) FSB_BLAKE3_ROT_(x, 16)
#define FSB_BLAKE3_ROT8_(x) FSB_BLAKE3_ROT_(x, 8)
#define FSB_BLAKE3_G_(R16, R8, a, b, c, d, x, y)                                                   \
    a += (x), a += b, d = R16(d ^ a), c += d, b = FSB_BLAKE3_ROT_(b ^ c, 12);                      \
    a += (y), a += b, d = R8(d ^ a), c += d, b = FSB_BLAKE3_ROT_(b ^ c, 7)
#define FSB_BLAKE3_ROUND_(R16, R8, v, m, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd,   \
                          se, sf)                                                                  \
    FSB_BLAKE3_G_(R16, R8, v[0], v[4], v[8], v[12], m[s0], m[s1]);                                 \
    FSB_BLAKE3_G_(R16, R8, v[1], v[5], v[9], v[13], m[s2], m[s3]);                                 \
    FSB_BLAKE3_G_(R16, R8, v[2], v[6], v[10], v[14], m[s4], m[s5]);                                \
    FSB_BLAKE3_G_(R16, R8, v[3], v[7], v[11], v[15], m[s6], m[s7]);                                \
    FSB_BLAKE3_G_(R16, R8, v[0], v[5], v[10], v[15], m[s8], m[s9]);                                \
    FSB_BLAKE3_G_(R16, R8, v[1], v[6], v[11], v[12], m[sa], m[sb]);                                \
    FSB_BLAKE3_G_(R16, R8, v[2], v[7], v[8], v[13], m[sc], m[sd]);                                 \
    FSB_BLAKE3_G_(R16, R8, v[3], v[4], v[9], v[14], m[se], m[sf])
/* The order of the message words in the seven rounds: each permutes the one before. */
#define FSB_BLAKE3_ROUNDS_(R, ...)                                                                 \
    R(__VA_ARGS__, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);                          \
    R(__VA_ARGS__, 2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8);                          \
    R(__VA_ARGS__, 3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1);                          \
    R(__VA_ARGS__, 10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6);                          \
    R(__VA_ARGS__, 12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4);                          \
    R(__VA_ARGS__, 9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7);                          \
    R(__VA_ARGS__, 11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

static uint32_t fsb_blake3_get_(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void fsb_blake3_put_(unsigned char *p, const uint32_t *words, size_t count)
{
    for (size_t i = 0; i < count; ++i, p += 4) { /* compilers make one store of the four */
        p[0] = (unsigned char)words[i], p[1] = (unsigned char)(words[i] >> 8);
        p[2] = (unsigned char)(words[i] >> 16), p[3] = (unsigned char)(words[i] >> 24);
    }
}

static uint32_t fsb_blake3_edge_(size_t block) /* the flag of a block that begins or ends a chunk */
{
    return block == 0 ? FSB_BLAKE3_START_ : block == 15 ? FSB_BLAKE3_END_ : 0;
}

/* One compression in plain C. out: the 16 words of the new state, of which the first 8 are the new
   chaining value; it may be cv. */
static void fsb_blake3_compress1_(const uint32_t cv[8], const unsigned char *block,
                                  uint64_t counter, uint32_t size, uint32_t flags,
                                  uint32_t out[16])
{
    const uint32_t *iv = fsb_blake3_iv_;
    uint32_t        m[16], v[16] = {cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7],
                                    iv[0], iv[1], iv[2], iv[3], 0,     0,     size,  flags};
    v[12] = (uint32_t)counter, v[13] = (uint32_t)(counter >> 32);
    for (int i = 0; i < 16; ++i) m[i] = fsb_blake3_get_(block + 4 * i);
    FSB_BLAKE3_ROUNDS_(FSB_BLAKE3_ROUND_, FSB_BLAKE3_ROT16_, FSB_BLAKE3_ROT8_, v, m);
    for (int i = 0; i < 8; ++i) {
        out[i + 8] = v[i + 8] ^ cv[i];
        out[i] = v[i] ^ v[i + 8];
    }
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) /* gcc 12, clang */
#if defined(__x86_64__) || defined(__i386__)
#define FSB_BLAKE3_X86_ 1
#define FSB_BLAKE3_VECTORS_ 1
#define FSB_BLAKE3_TARGET4_ __attribute__((target("sse4.1")))
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FSB_BLAKE3_VECTORS_ 1
#define FSB_BLAKE3_TARGET4_ /* NEON is always there */
#endif
#endif
#endif

#ifdef FSB_BLAKE3_VECTORS_
typedef uint32_t fsb_blake3_v4_ __attribute__((vector_size(16)));
typedef uint32_t fsb_blake3_v8_ __attribute__((vector_size(32)));
typedef uint32_t fsb_blake3_v16_ __attribute__((vector_size(64)));
typedef uint64_t fsb_blake3_q4_ __attribute__((vector_size(16))); /* the same in pairs of words */
typedef uint64_t fsb_blake3_q8_ __attribute__((vector_size(32)));
typedef uint64_t fsb_blake3_q16_ __attribute__((vector_size(64)));
typedef uint8_t fsb_blake3_b4_ __attribute__((vector_size(16)));
typedef uint8_t fsb_blake3_b8_ __attribute__((vector_size(32)));
typedef uint32_t fsb_blake3_any_ __attribute__((vector_size(16), aligned(1), may_alias));
#define FSB_BLAKE3_LOAD_(p) (*(const fsb_blake3_any_ *)(p))

/* Index lists for shuffles that stay inside 128-bit lanes, which are the cheap ones: L for each
   such lane, given its first element and where the second operand begins. */
#define FSB_BLAKE3_EACH4_(L) L(0, 4)
#define FSB_BLAKE3_EACH8_(L) L(0, 8), L(4, 8)
#define FSB_BLAKE3_EACH16_(L) L(0, 16), L(4, 16), L(8, 16), L(12, 16)
#define FSB_BLAKE3_IOTA_(i, n) (i), (i) + 1, (i) + 2, (i) + 3
#define FSB_BLAKE3_LO32_(i, n) (i), (i) + (n), (i) + 1, (i) + (n) + 1
#define FSB_BLAKE3_HI32_(i, n) (i) + 2, (i) + (n) + 2, (i) + 3, (i) + (n) + 3
#define FSB_BLAKE3_LO64_(i, n) (i) / 2, ((i) + (n)) / 2
#define FSB_BLAKE3_HI64_(i, n) (i) / 2 + 1, ((i) + (n)) / 2 + 1
#define FSB_BLAKE3_MIX_(N, L, a, b) __builtin_shufflevector(a, b, FSB_BLAKE3_EACH##N##_(L))
#define FSB_BLAKE3_MIX64_(N, L, a, b)                                                              \
    (fsb_blake3_v##N##_) FSB_BLAKE3_MIX_(N, L, (fsb_blake3_q##N##_)(a), (fsb_blake3_q##N##_)(b))
#define FSB_BLAKE3_TRANSPOSE_(N, V, t, r0, r1, r2, r3)                                             \
    do {                                                                                           \
        const V a0 = FSB_BLAKE3_MIX_(N, FSB_BLAKE3_LO32_, r0, r1);                                 \
        const V a1 = FSB_BLAKE3_MIX_(N, FSB_BLAKE3_HI32_, r0, r1);                                 \
        const V a2 = FSB_BLAKE3_MIX_(N, FSB_BLAKE3_LO32_, r2, r3);                                 \
        const V a3 = FSB_BLAKE3_MIX_(N, FSB_BLAKE3_HI32_, r2, r3);                                 \
        (t)[0] = FSB_BLAKE3_MIX64_(N, FSB_BLAKE3_LO64_, a0, a2);                                   \
        (t)[1] = FSB_BLAKE3_MIX64_(N, FSB_BLAKE3_HI64_, a0, a2);                                   \
        (t)[2] = FSB_BLAKE3_MIX64_(N, FSB_BLAKE3_LO64_, a1, a3);                                   \
        (t)[3] = FSB_BLAKE3_MIX64_(N, FSB_BLAKE3_HI64_, a1, a3);                                   \
    } while (0)

/* 16 bytes at p of row r, of row r + 4 in the next 128-bit lane, and so on. */
#define FSB_BLAKE3_CAT_(N, a, b) FSB_BLAKE3_MIX_(N, FSB_BLAKE3_IOTA_, a, b)
#define FSB_BLAKE3_ROWS4_(row, r, at) FSB_BLAKE3_LOAD_(row[r] + (at))
#define FSB_BLAKE3_ROWS8_(row, r, at)                                                              \
    FSB_BLAKE3_CAT_(8, FSB_BLAKE3_ROWS4_(row, r, at), FSB_BLAKE3_ROWS4_(row, (r) + 4, at))
#define FSB_BLAKE3_ROWS16_(row, r, at)                                                             \
    FSB_BLAKE3_CAT_(16, FSB_BLAKE3_ROWS8_(row, r, at), FSB_BLAKE3_ROWS8_(row, (r) + 8, at))

/* Words 0-3 of all rows, from 16 bytes of each. */
#define FSB_BLAKE3_WORDS_(N, V, m, row, at)                                                        \
    FSB_BLAKE3_TRANSPOSE_(N, V, m, FSB_BLAKE3_ROWS##N##_(row, 0, at),                              \
                          FSB_BLAKE3_ROWS##N##_(row, 1, at), FSB_BLAKE3_ROWS##N##_(row, 2, at),    \
                          FSB_BLAKE3_ROWS##N##_(row, 3, at))

/* Rotations by whole bytes, where moving bytes is one instruction and rotating is not. */
#define FSB_BLAKE3_BY8_(i) (i) + 1, (i) + 2, (i) + 3, (i)
#define FSB_BLAKE3_BY16_(i) (i) + 2, (i) + 3, (i), (i) + 1
#define FSB_BLAKE3_BYTES4_(x, B)                                                                   \
    (fsb_blake3_v4_) __builtin_shufflevector((fsb_blake3_b4_)(x), (fsb_blake3_b4_)(x), B(0), B(4), \
                                             B(8), B(12))
#define FSB_BLAKE3_BYTES8_(x, B)                                                                   \
    (fsb_blake3_v8_) __builtin_shufflevector((fsb_blake3_b8_)(x), (fsb_blake3_b8_)(x), B(0), B(4), \
                                             B(8), B(12), B(16), B(20), B(24), B(28))
#define FSB_BLAKE3_ROT16_4_(x) FSB_BLAKE3_BYTES4_(x, FSB_BLAKE3_BY16_)
#define FSB_BLAKE3_ROT8_4_(x) FSB_BLAKE3_BYTES4_(x, FSB_BLAKE3_BY8_)
#define FSB_BLAKE3_ROT16_8_(x) FSB_BLAKE3_BYTES8_(x, FSB_BLAKE3_BY16_)
#define FSB_BLAKE3_ROT8_8_(x) FSB_BLAKE3_BYTES8_(x, FSB_BLAKE3_BY8_)

/* The kernel for N lanes: hashes `count` (1 to N) inputs that lie back to back, whole chunks or,
   with FSB_BLAKE3_PARENT_ in flags, pairs of chaining values; writes their chaining values to out,
   which may be `in`. A macro since a function cannot be generic in its vector type: an inline
   helper outside the `target` would be compiled for narrower registers. */
#define FSB_BLAKE3_KERNEL_(N, NAME, TARGET, R16, R8)                                               \
    TARGET static void NAME(const unsigned char *in, size_t count, const uint32_t key[8],          \
                            uint64_t counter, uint32_t flags, unsigned char *out)                  \
    {                                                                                              \
        typedef fsb_blake3_v##N##_ V;                                                              \
        const uint32_t      *iv = fsb_blake3_iv_;                                                  \
        const int            parent = (flags & FSB_BLAKE3_PARENT_) != 0;                           \
        const size_t         size = parent ? 64 : 1024;                                            \
        const unsigned char *row[N];                                                               \
        const V zero = {0}, iota = {FSB_BLAKE3_EACH##N##_(FSB_BLAKE3_IOTA_)};                      \
        const V low = zero + (uint32_t)counter + (parent ? zero : iota);                           \
        const V high = zero + (uint32_t)(counter >> 32) - (V)(low < zero + (uint32_t)counter);     \
        V       h[8] = {zero + key[0], zero + key[1], zero + key[2], zero + key[3],                \
                        zero + key[4], zero + key[5], zero + key[6], zero + key[7]};               \
        for (size_t i = 0; i < N; ++i) row[i] = in + (i < count ? i : 0) * size;                   \
        for (size_t at = 0; at < size; at += 64) {                                                 \
            const uint32_t edge = parent ? 0 : fsb_blake3_edge_(at / 64);                          \
            V m[16], v[16] = {h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7],                      \
                              zero + iv[0], zero + iv[1], zero + iv[2], zero + iv[3],              \
                              low, high, zero + 64u, zero + (flags | edge)};                       \
            if (at + 128 < size) /* more streams than the hardware follows by itself */            \
                for (size_t i = 0; i < N; ++i) __builtin_prefetch(row[i] + at + 128);              \
            FSB_BLAKE3_WORDS_(N, V, m, row, at);                                                   \
            FSB_BLAKE3_WORDS_(N, V, m + 4, row, at + 16);                                          \
            FSB_BLAKE3_WORDS_(N, V, m + 8, row, at + 32);                                          \
            FSB_BLAKE3_WORDS_(N, V, m + 12, row, at + 48);                                         \
            FSB_BLAKE3_ROUNDS_(FSB_BLAKE3_ROUND_, R16, R8, v, m);                                  \
            h[0] = v[0] ^ v[8], h[1] = v[1] ^ v[9], h[2] = v[2] ^ v[10], h[3] = v[3] ^ v[11];      \
            h[4] = v[4] ^ v[12], h[5] = v[5] ^ v[13], h[6] = v[6] ^ v[14], h[7] = v[7] ^ v[15];    \
        }                                                                                          \
        FSB_BLAKE3_TRANSPOSE_(N, V, h, h[0], h[1], h[2], h[3]);                                    \
        FSB_BLAKE3_TRANSPOSE_(N, V, h + 4, h[4], h[5], h[6], h[7]);                                \
        for (size_t i = 0; i < count; ++i) {                                                       \
            memcpy(out + 32 * i, (const unsigned char *)&h[i % 4] + 16 * (i / 4), 16);             \
            memcpy(out + 32 * i + 16, (const unsigned char *)&h[4 + i % 4] + 16 * (i / 4), 16);    \
        }                                                                                          \
    }
FSB_BLAKE3_KERNEL_(4, fsb_blake3_kernel4_, FSB_BLAKE3_TARGET4_, FSB_BLAKE3_ROT16_4_,
                   FSB_BLAKE3_ROT8_4_)
#ifdef FSB_BLAKE3_X86_
FSB_BLAKE3_KERNEL_(8, fsb_blake3_kernel8_, __attribute__((target("avx2"))), FSB_BLAKE3_ROT16_8_,
                   FSB_BLAKE3_ROT8_8_)
FSB_BLAKE3_KERNEL_(16, fsb_blake3_kernel16_, __attribute__((target("avx512f"))), FSB_BLAKE3_ROT16_,
                   FSB_BLAKE3_ROT8_) /* AVX-512 rotates: compilers see it in the shifts */
#endif

/* One compression with a row of the state in each vector, so that the four G of half a round are
   one. Between the halves the rows turn against each other; b stays, as the next G waits for it. */
#define FSB_BLAKE3_TURN_(x, n)                                                                     \
    x = __builtin_shufflevector(x, x, (n) % 4, ((n) + 1) % 4, ((n) + 2) % 4, ((n) + 3) % 4)
#define FSB_BLAKE3_ROW_ROUND_(m, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf)   \
    do {                                                                                           \
        const fsb_blake3_v4_ x0 = {m[s0], m[s2], m[s4], m[s6]}, y0 = {m[s1], m[s3], m[s5], m[s7]}; \
        const fsb_blake3_v4_ x1 = {m[se], m[s8], m[sa], m[sc]}, y1 = {m[sf], m[s9], m[sb], m[sd]}; \
        FSB_BLAKE3_G_(FSB_BLAKE3_ROT16_4_, FSB_BLAKE3_ROT8_4_, a, b, c, d, x0, y0);                \
        FSB_BLAKE3_TURN_(a, 3), FSB_BLAKE3_TURN_(c, 1), FSB_BLAKE3_TURN_(d, 2);                    \
        FSB_BLAKE3_G_(FSB_BLAKE3_ROT16_4_, FSB_BLAKE3_ROT8_4_, a, b, c, d, x1, y1);                \
        FSB_BLAKE3_TURN_(a, 1), FSB_BLAKE3_TURN_(c, 3), FSB_BLAKE3_TURN_(d, 2);                    \
    } while (0)

FSB_BLAKE3_TARGET4_ static void fsb_blake3_compress4_(const uint32_t cv[8],
                                                      const unsigned char *block, uint64_t counter,
                                                      uint32_t size, uint32_t flags,
                                                      uint32_t out[16])
{
    const fsb_blake3_v4_ h0 = FSB_BLAKE3_LOAD_(cv), h1 = FSB_BLAKE3_LOAD_(cv + 4);
    fsb_blake3_v4_       a = h0, b = h1, c = FSB_BLAKE3_LOAD_(fsb_blake3_iv_);
    fsb_blake3_v4_       d = {(uint32_t)counter, (uint32_t)(counter >> 32), size, flags};
    uint32_t             m[16];
    memcpy(m, block, 64);
    FSB_BLAKE3_ROUNDS_(FSB_BLAKE3_ROW_ROUND_, m);
    a ^= c, b ^= d, c ^= h0, d ^= h1;
    memcpy(out, &a, 16), memcpy(out + 4, &b, 16), memcpy(out + 8, &c, 16), memcpy(out + 12, &d, 16);
}
#endif

/* The widest kernel this CPU runs. Cheap: libgcc reads the CPU's features before main(). */
static unsigned fsb_blake3_lanes_(void)
{
#if defined(FSB_BLAKE3_X86_)
    if (__builtin_cpu_supports("avx512f")) return 16;
    if (__builtin_cpu_supports("avx2")) return 8;
    return __builtin_cpu_supports("sse4.1") ? 4 : 1;
#elif defined(FSB_BLAKE3_VECTORS_)
    return 4;
#else
    return 1;
#endif
}

typedef void fsb_blake3_kernel_(const unsigned char *in, size_t count, const uint32_t key[8],
                                uint64_t counter, uint32_t flags, unsigned char *out);

static fsb_blake3_kernel_ *fsb_blake3_kernel_for_(unsigned lanes)
{
#ifdef FSB_BLAKE3_X86_
    if (lanes == 16) return fsb_blake3_kernel16_;
    if (lanes == 8) return fsb_blake3_kernel8_;
#endif
#ifdef FSB_BLAKE3_VECTORS_
    if (lanes == 4) return fsb_blake3_kernel4_;
#endif
    (void)lanes;
    return NULL;
}

static void fsb_blake3_compress_(unsigned lanes, const uint32_t cv[8], const unsigned char *block,
                                 uint64_t counter, uint32_t size, uint32_t flags, uint32_t out[16])
{
#ifdef FSB_BLAKE3_VECTORS_
    if (lanes > 1) {
        fsb_blake3_compress4_(cv, block, counter, size, flags, out);
        return;
    }
#endif
    (void)lanes;
    fsb_blake3_compress1_(cv, block, counter, size, flags, out);
}

/* One whole chunk or pair of chaining values, see the kernel. */
static void fsb_blake3_one_(unsigned lanes, const unsigned char *in, const uint32_t key[8],
                            uint64_t counter, uint32_t flags, unsigned char *out)
{
    const size_t size = flags & FSB_BLAKE3_PARENT_ ? 64 : 1024;
    uint32_t     state[16];
    memcpy(state, key, 32);
    for (size_t at = 0; at < size; at += 64) {
        const uint32_t edge = size == 64 ? 0 : fsb_blake3_edge_(at / 64);
        fsb_blake3_compress_(lanes, state, in + at, counter, 64, flags | edge, state);
    }
    fsb_blake3_put_(out, state, 8);
}

/* Any number of them; out may be `in`. A kernel takes as long for one lane as for all: about as
   long as three single ones. */
static void fsb_blake3_many_(unsigned lanes, const unsigned char *in, size_t count,
                             const uint32_t key[8], uint64_t counter, uint32_t flags,
                             unsigned char *out)
{
    fsb_blake3_kernel_ *kernel = fsb_blake3_kernel_for_(lanes);
    const int           parent = (flags & FSB_BLAKE3_PARENT_) != 0;
    for (size_t n; count; count -= n) {
        n = !kernel || count < 3 ? 1 : count < lanes ? count : lanes;
        if (n > 1) kernel(in, n, key, counter, flags, out);
        else fsb_blake3_one_(lanes, in, key, counter, flags, out);
        in += n * (parent ? 64 : 1024), out += 32 * n;
        if (!parent) counter += n;
    }
}

/* Joins subtrees of equal size, to be called once more input is known to follow: had it ended, the
   parent might have been the root. What stays are subtrees of falling size, one for each bit that
   is set in the number of chunks, as in a binary counter. */
static void fsb_blake3_join_(fsb_blake3 *h)
{
    while (h->depth_ > (uint32_t)__builtin_popcountll(h->chunks_)) {
        unsigned char *pair = h->stack_ + 32 * (--h->depth_ - 1);
        fsb_blake3_one_(h->lanes, pair, h->key_, 0, h->flags_ | FSB_BLAKE3_PARENT_, pair);
    }
}

/* Adds the chaining value of a subtree of `chunks` chunks on the right. */
static void fsb_blake3_push_(fsb_blake3 *h, const unsigned char cv[32], uint64_t chunks)
{
    fsb_blake3_join_(h);
    memcpy(h->stack_ + 32 * h->depth_++, cv, 32);
    h->chunks_ += chunks;
}

/* Hashes `count` whole chunks, which do not cross a multiple of the batch, into the stack. */
static void fsb_blake3_batch_(fsb_blake3 *h, const unsigned char *data, size_t count)
{
    unsigned char cvs[FSB_BLAKE3_BATCH_ * 32], *cv = cvs;
    fsb_blake3_many_(h->lanes, data, count, h->key_, h->chunks_, h->flags_, cvs);
    while (count) {
        size_t whole = FSB_BLAKE3_BATCH_; /* the largest subtree that may begin here */
        while (whole > count || h->chunks_ % whole) whole /= 2;
        size_t left = whole; /* its halves stay apart: their parent may be the root */
        for (; left > 2; left /= 2)
            fsb_blake3_many_(h->lanes, cv, left / 2, h->key_, 0,
                             h->flags_ | FSB_BLAKE3_PARENT_, cv);
        for (size_t i = 0; i < left; ++i) fsb_blake3_push_(h, cv + 32 * i, whole / left);
        cv += 32 * whole, count -= whole;
    }
}

/* Adds one block that is known not to be the last one. */
static void fsb_blake3_block_(fsb_blake3 *h, const unsigned char *block)
{
    uint32_t      state[16];
    unsigned char cv[32];
    fsb_blake3_compress_(h->lanes, h->cv_, block, h->chunks_, 64,
                         h->flags_ | fsb_blake3_edge_(h->blocks_), state);
    memcpy(h->cv_, state, 32);
    if (++h->blocks_ < 16) return;
    fsb_blake3_put_(cv, state, 8);
    fsb_blake3_push_(h, cv, 1);
    memcpy(h->cv_, h->key_, 32);
    h->blocks_ = 0;
}

static void fsb_blake3_start_(fsb_blake3 *h, const uint32_t key[8], uint32_t flags)
{
    h->lanes = fsb_blake3_lanes_();
    h->flags_ = flags;
    memcpy(h->key_, key, 32);
    memcpy(h->cv_, key, 32);
    h->blocks_ = h->fill_ = h->depth_ = 0;
    h->chunks_ = 0;
}

static void fsb_blake3_start_bytes_(fsb_blake3 *h, const unsigned char key[32], uint32_t flags)
{
    uint32_t words[8];
    for (int i = 0; i < 8; ++i) words[i] = fsb_blake3_get_(key + 4 * i);
    fsb_blake3_start_(h, words, flags);
}

FSB_API void fsb_blake3_init(fsb_blake3 *hasher) { fsb_blake3_start_(hasher, fsb_blake3_iv_, 0); }

FSB_API void fsb_blake3_init_keyed(fsb_blake3 *hasher, const unsigned char key[32])
{
    fsb_blake3_start_bytes_(hasher, key, FSB_BLAKE3_KEYED_);
}

FSB_API void fsb_blake3_init_derive_key(fsb_blake3 *hasher, const char *context)
{
    unsigned char key[32];
    fsb_blake3_start_(hasher, fsb_blake3_iv_, FSB_BLAKE3_CONTEXT_);
    fsb_blake3_update(hasher, context, strlen(context));
    fsb_blake3_final(hasher, key, sizeof key);
    fsb_blake3_start_bytes_(hasher, key, FSB_BLAKE3_DERIVE_);
}

/* Begins or continues a chunk with some bytes of p; returns how many. */
static size_t fsb_blake3_bytes_(fsb_blake3 *h, const unsigned char *p, size_t size)
{
    if (h->fill_ == 0 && h->blocks_ == 0) fsb_blake3_join_(h);
    if (h->fill_ == 0 && size > 64) {
        fsb_blake3_block_(h, p);
        return 64;
    }
    const size_t room = 64 - h->fill_, n = size < room ? size : room;
    memcpy(h->block_ + h->fill_, p, n);
    h->fill_ += (uint32_t)n;
    return n;
}

FSB_API void fsb_blake3_update(fsb_blake3 *hasher, const void *data, size_t size)
{
    const unsigned char *p = (const unsigned char *)data;
    for (size_t n = 0; size; p += n, size -= n) {
        if (hasher->fill_ == 64) { /* more follows, so it was not the last */
            fsb_blake3_block_(hasher, hasher->block_);
            hasher->fill_ = 0;
        }
        if (hasher->fill_ || hasher->blocks_ || size <= 1024) {
            n = fsb_blake3_bytes_(hasher, p, size);
        } else {
            const size_t room = FSB_BLAKE3_BATCH_ - (size_t)(hasher->chunks_ % FSB_BLAKE3_BATCH_);
            n = size / 1024 < room ? size / 1024 : room;
            fsb_blake3_batch_(hasher, p, n);
            n *= 1024;
        }
    }
}

FSB_API void fsb_blake3_final(const fsb_blake3 *hasher, void *out, size_t size)
{
    unsigned char   block[64] = {0}, *to = (unsigned char *)out;
    const int       tail = hasher->fill_ || !hasher->chunks_; /* a last chunk, or only subtrees? */
    const uint32_t *cv = hasher->key_;
    uint32_t        flags = FSB_BLAKE3_PARENT_, length = 64, depth = hasher->depth_, state[16];
    uint64_t        counter = 0;
    if (tail) {
        cv = hasher->cv_, counter = hasher->chunks_, length = hasher->fill_;
        flags = FSB_BLAKE3_END_ | (hasher->blocks_ ? 0 : FSB_BLAKE3_START_);
        memcpy(block, hasher->block_, length);
    } else {
        depth -= 2;
        memcpy(block, hasher->stack_ + 32 * depth, 64);
    }
    for (; depth; --depth) { /* join it to the subtrees on its left, smallest first */
        fsb_blake3_compress_(hasher->lanes, cv, block, counter, length, hasher->flags_ | flags,
                             state);
        memcpy(block, hasher->stack_ + 32 * (depth - 1), 32);
        fsb_blake3_put_(block + 32, state, 8);
        cv = hasher->key_, counter = 0, length = 64, flags = FSB_BLAKE3_PARENT_;
    }
    /* The last compression is the root: repeated with a counter, it gives any length of output. */
    flags |= hasher->flags_ | FSB_BLAKE3_ROOT_;
    for (counter = 0; size; ++counter) {
        unsigned char bytes[64];
        const size_t  n = size < 64 ? size : 64;
        fsb_blake3_compress_(hasher->lanes, cv, block, counter, length, flags, state);
        fsb_blake3_put_(bytes, state, 16);
        memcpy(to, bytes, n);
        to += n, size -= n;
    }
}

FSB_API void fsb_blake3_hash(const void *data, size_t size, unsigned char out[32])
{
    fsb_blake3 hasher;
    fsb_blake3_init(&hasher);
    fsb_blake3_update(&hasher, data, size);
    fsb_blake3_final(&hasher, out, 32);
}

/* ---- [codes] --------------------------------------------------------------------------------- */

/* A join code is 26 random symbols of Crockford's base 32, and two that check them: the number that
   they write modulo 1021. That is a prime: one symbol mistyped, or two swapped, always shows. */
enum { FSB_CHUNK_SYMBOLS_ = 26, FSB_CHUNK_CHECKED_ = 28, FSB_CHUNK_SECRET_MIN_ = 22,
       FSB_CHUNK_IDENTITY_ = FSB_CHUNK_TOKEN_MAX - FSB_CHUNK_SECRET_MIN_ };

static const char *fsb_chunk_alphabet_(void)
{
    return "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
}

static void fsb_chunk_code_check_(const char *symbols, char check[2])
{
    const char *alphabet = fsb_chunk_alphabet_();
    unsigned    rest = 0;
    for (int i = 0; i < FSB_CHUNK_SYMBOLS_; ++i)
        rest = (rest * 32 + (unsigned)(strchr(alphabet, symbols[i]) - alphabet)) % 1021;
    check[0] = alphabet[rest / 32], check[1] = alphabet[rest % 32];
}

/* In groups of four, as it is read aloud. */
static int fsb_chunk_code_write_(const char *symbols, char *out, size_t size)
{
    if (size < FSB_CHUNK_CODE_SIZE) return -ENAMETOOLONG;
    for (int i = 0; i < FSB_CHUNK_CHECKED_; ++i) {
        if (i && i % 4 == 0) *out++ = '-';
        *out++ = symbols[i];
    }
    *out = '\0';
    return 0;
}

FSB_API int fsb_chunk_code_create(char *out, size_t size)
{
    unsigned char random[FSB_CHUNK_SYMBOLS_];
    char          symbols[FSB_CHUNK_CHECKED_];
    if (!out) return -EINVAL;
    const ssize_t n = getrandom(random, sizeof random, 0);
    if (n != (ssize_t)sizeof random) return n < 0 ? -errno : -EIO;
    for (int i = 0; i < FSB_CHUNK_SYMBOLS_; ++i)
        symbols[i] = fsb_chunk_alphabet_()[random[i] % 32];
    fsb_chunk_code_check_(symbols, symbols + FSB_CHUNK_SYMBOLS_);
    return fsb_chunk_code_write_(symbols, out, size);
}

FSB_API int fsb_chunk_code_parse(const char *text, char *out, size_t size)
{
    char   symbols[FSB_CHUNK_CHECKED_], check[2];
    size_t n = 0;
    if (!text || !out) return -EINVAL;
    for (; *text; ++text) {
        char c = *text >= 'a' && *text <= 'z' ? (char)(*text - 'a' + 'A') : *text;
        if (c == '-' || c == ' ') continue;
        c = c == 'I' || c == 'L' ? '1' : c == 'O' ? '0' : c;
        if (n == sizeof symbols || !strchr(fsb_chunk_alphabet_(), c)) return -EINVAL;
        symbols[n++] = c;
    }
    if (n != sizeof symbols) return -EINVAL;
    fsb_chunk_code_check_(symbols, check);
    if (memcmp(check, symbols + FSB_CHUNK_SYMBOLS_, sizeof check) != 0) return -EINVAL;
    return fsb_chunk_code_write_(symbols, out, size);
}

/* What the two ends make of a code: the key itself, and the name that the client asks for it by,
   from which neither key nor code can be told. */
typedef struct fsb_chunk_key_ {
    unsigned char secret[32];
    char          identity[FSB_CHUNK_IDENTITY_];
} fsb_chunk_key_;

/* A token's key is made of all of it, its name is what stands before the secret. */
static int fsb_chunk_key_of_token_(const char *token, fsb_chunk_key_ *key)
{
    fsb_blake3   hasher;
    const size_t size = strlen(token), identity = (size_t)(strrchr(token, ':') - token);
    if (!identity || size > FSB_CHUNK_TOKEN_MAX || size - identity - 1 < FSB_CHUNK_SECRET_MIN_)
        return -EINVAL;
    for (const char *p = token; *p; ++p)
        if (*p <= ' ' || *p >= 127) return -EINVAL;
    memset(key, 0, sizeof *key);
    memcpy(key->identity, token, identity);
    fsb_blake3_init_derive_key(&hasher, "fsb 2026 token: the key of TLS");
    fsb_blake3_update(&hasher, token, size);
    fsb_blake3_final(&hasher, key->secret, sizeof key->secret);
    explicit_bzero(&hasher, sizeof hasher);
    return 0;
}

static int fsb_chunk_key_of_(const char *code, fsb_chunk_key_ *key)
{
    char          text[FSB_CHUNK_CODE_SIZE];
    unsigned char name[16];
    fsb_blake3    hasher;
    if (code && strchr(code, ':')) return fsb_chunk_key_of_token_(code, key);
    const int err = fsb_chunk_code_parse(code, text, sizeof text);
    if (err) return err;
    fsb_blake3_init_derive_key(&hasher, "fsb 2026 join code: the key of TLS");
    fsb_blake3_update(&hasher, text, strlen(text));
    fsb_blake3_final(&hasher, key->secret, sizeof key->secret);
    fsb_blake3_init_derive_key(&hasher, "fsb 2026 join code: its name on the wire");
    fsb_blake3_update(&hasher, text, strlen(text));
    fsb_blake3_final(&hasher, name, sizeof name);
    for (size_t i = 0; i < sizeof name; ++i) snprintf(key->identity + 2 * i, 3, "%02x", name[i]);
    explicit_bzero(text, sizeof text);
    explicit_bzero(&hasher, sizeof hasher);
    return 0;
}

/* ---- [errors] -------------------------------------------------------------------------------- */

/* The wire's numbers are those of Linux's generic ABI, frozen here; few platforms differ. */
#define FSB_CHUNK_ERRORS_(X)                                                                       \
    X(1, EPERM) X(2, ENOENT) X(4, EINTR) X(5, EIO) X(6, ENXIO) X(7, E2BIG) X(9, EBADF)             \
    X(11, EAGAIN) X(12, ENOMEM) X(13, EACCES) X(14, EFAULT) X(16, EBUSY) X(17, EEXIST)             \
    X(18, EXDEV) X(19, ENODEV) X(20, ENOTDIR) X(21, EISDIR) X(22, EINVAL) X(23, ENFILE)            \
    X(24, EMFILE) X(25, ENOTTY) X(26, ETXTBSY) X(27, EFBIG) X(28, ENOSPC) X(29, ESPIPE)            \
    X(30, EROFS) X(31, EMLINK) X(32, EPIPE) X(33, EDOM) X(34, ERANGE) X(35, EDEADLK)               \
    X(36, ENAMETOOLONG) X(37, ENOLCK) X(38, ENOSYS) X(39, ENOTEMPTY) X(40, ELOOP) X(61, ENODATA)   \
    X(71, EPROTO) X(74, EBADMSG) X(75, EOVERFLOW) X(84, EILSEQ) X(90, EMSGSIZE)                    \
    X(95, EOPNOTSUPP) X(98, EADDRINUSE) X(104, ECONNRESET) X(105, ENOBUFS) X(107, ENOTCONN)        \
    X(110, ETIMEDOUT) X(111, ECONNREFUSED) X(112, EHOSTDOWN) X(113, EHOSTUNREACH)                  \
    X(115, EINPROGRESS) X(116, ESTALE) X(122, EDQUOT) X(125, ECANCELED)

static int32_t fsb_chunk_error_to_wire_(int err) /* a positive errno */
{
    switch (err) {
#define FSB_CHUNK_CASE_(wire, name) case name: return wire;
        FSB_CHUNK_ERRORS_(FSB_CHUNK_CASE_)
#undef FSB_CHUNK_CASE_
    default: return 5; /* EIO */
    }
}

static int fsb_chunk_error_from_wire_(int32_t wire)
{
    switch (wire) {
#define FSB_CHUNK_CASE_(number, name) case number: return name;
        FSB_CHUNK_ERRORS_(FSB_CHUNK_CASE_)
#undef FSB_CHUNK_CASE_
    default: return EIO;
    }
}

/* ---- [cursor] -------------------------------------------------------------------------------- */

/* Reads and writes little-endian numbers in bounds; a step outside sets bad, which sticks. */
typedef struct fsb_chunk_cursor_ {
    unsigned char *at, *end;
    int            bad;
} fsb_chunk_cursor_;

static unsigned char *fsb_chunk_step_(fsb_chunk_cursor_ *c, size_t size)
{
    if (c->bad || (size_t)(c->end - c->at) < size) {
        c->bad = 1;
        return NULL;
    }
    unsigned char *p = c->at;
    c->at += size;
    return p;
}

static void fsb_chunk_put_(fsb_chunk_cursor_ *c, uint64_t value, size_t size)
{
    unsigned char *p = fsb_chunk_step_(c, size);
    if (!p) return;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p, &value, size);
#else
    for (size_t i = 0; i < size; ++i) p[i] = (unsigned char)(value >> (8 * i));
#endif
}

static uint64_t fsb_chunk_get_(fsb_chunk_cursor_ *c, size_t size)
{
    const unsigned char *p = fsb_chunk_step_(c, size);
    uint64_t             value = 0;
    if (!p) return 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&value, p, size);
#else
    for (size_t i = 0; i < size; ++i) value |= (uint64_t)p[i] << (8 * i);
#endif
    return value;
}

static void fsb_chunk_put16_(fsb_chunk_cursor_ *c, uint32_t v)
{
    fsb_chunk_put_(c, v, 2);
}
static void fsb_chunk_put32_(fsb_chunk_cursor_ *c, uint32_t v)
{
    fsb_chunk_put_(c, v, 4);
}
static void fsb_chunk_put64_(fsb_chunk_cursor_ *c, uint64_t v)
{
    fsb_chunk_put_(c, v, 8);
}
static uint32_t fsb_chunk_get16_(fsb_chunk_cursor_ *c)
{
    return (uint32_t)fsb_chunk_get_(c, 2);
}
static uint32_t fsb_chunk_get32_(fsb_chunk_cursor_ *c)
{
    return (uint32_t)fsb_chunk_get_(c, 4);
}
static uint64_t fsb_chunk_get64_(fsb_chunk_cursor_ *c)
{
    return fsb_chunk_get_(c, 8);
}

static void fsb_chunk_put_string_(fsb_chunk_cursor_ *c, const char *text)
{
    const size_t   size = text ? strlen(text) + 1 : 0;
    unsigned char *p;
    if (size > 0xffff) {
        c->bad = 1;
        return;
    }
    fsb_chunk_put16_(c, (uint32_t)size);
    if (size && (p = fsb_chunk_step_(c, size)) != NULL) memcpy(p, text, size);
}

/* Points into the frame: the '\0' is on the wire, and checked to be the only one. */
static const char *fsb_chunk_get_string_(fsb_chunk_cursor_ *c)
{
    const size_t   size = fsb_chunk_get16_(c);
    unsigned char *p = size ? fsb_chunk_step_(c, size) : NULL;
    if (p && memchr(p, 0, size) != p + size - 1) c->bad = 1;
    return c->bad ? NULL : (const char *)p;
}

/* ---- [fields] -------------------------------------------------------------------------------- */

/* The fields of requests and answers, in their order on the wire. */
#define FSB_CHUNK_FIELDS_(X)                                                                       \
    X(FLAGS) X(FILE_ID) X(HANDLE) X(HANDLE2) X(OFFSET) X(OFFSET2) X(SIZE64) X(SIZE) X(OWNER)       \
    X(ATTR) X(STAT) X(OUT_OFFSET) X(STATFS) X(ENDING) X(PATH) X(PATH2) X(DATA)
enum {
#define FSB_CHUNK_INDEX_(name) FSB_CHUNK_INDEX_##name##_,
    FSB_CHUNK_FIELDS_(FSB_CHUNK_INDEX_)
#undef FSB_CHUNK_INDEX_
        FSB_CHUNK_INDEX_COUNT_
};
enum {
#define FSB_CHUNK_BIT_(name) FSB_CHUNK_##name##_ = 1 << FSB_CHUNK_INDEX_##name##_,
    FSB_CHUNK_FIELDS_(FSB_CHUNK_BIT_)
#undef FSB_CHUNK_BIT_
        FSB_CHUNK_AT_ = FSB_CHUNK_FILE_ID_ | FSB_CHUNK_HANDLE_ | FSB_CHUNK_PATH_
};

/* What the tables say of an op besides its fields. */
enum {
    FSB_CHUNK_CHANGES_ = 1, /* needs the right to write (OPEN: if its flags say so) */
    FSB_CHUNK_WAITS_ = 2,   /* may wait long for a disk: not on the thread that reads the client */
    FSB_CHUNK_SMALL_ = 4    /* may take a little: elsewhere if other requests stand behind it */
};

typedef struct fsb_chunk_shape_ {
    uint32_t request, answer; /* FSB_CHUNK_*_ fields; DATA in an answer: bytes */
    uint32_t traits;
} fsb_chunk_shape_;

static const fsb_chunk_shape_ *fsb_chunk_shape_of_(uint32_t code) /* NULL: not on the wire */
{
    static const fsb_chunk_shape_ shapes[FSB_OP_COUNT] = {
        {0, 0, 0},
        /* STAT */ {FSB_CHUNK_AT_, FSB_CHUNK_STAT_, 0},
        /* READLINK */ {FSB_CHUNK_AT_ | FSB_CHUNK_SIZE_, FSB_CHUNK_DATA_, 0},
        /* LIST */
        {FSB_CHUNK_AT_ | FSB_CHUNK_FLAGS_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_SIZE_,
         FSB_CHUNK_STAT_ | FSB_CHUNK_DATA_, FSB_CHUNK_SMALL_},
        /* OPEN */
        {FSB_CHUNK_FLAGS_ | FSB_CHUNK_FILE_ID_ | FSB_CHUNK_SIZE_ | FSB_CHUNK_ATTR_ |
             FSB_CHUNK_PATH_,
         FSB_CHUNK_STAT_ | FSB_CHUNK_HANDLE_ | FSB_CHUNK_DATA_, FSB_CHUNK_SMALL_},
        /* READ */ {FSB_CHUNK_HANDLE_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_SIZE_, FSB_CHUNK_DATA_, 0},
        /* WRITE */
        {FSB_CHUNK_HANDLE_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_FLAGS_ | FSB_CHUNK_DATA_,
         FSB_CHUNK_STAT_ | FSB_CHUNK_OUT_OFFSET_, FSB_CHUNK_CHANGES_},
        /* SYNC */ {FSB_CHUNK_AT_ | FSB_CHUNK_FLAGS_, 0, FSB_CHUNK_WAITS_},
        /* CLOSE */ {FSB_CHUNK_HANDLE_, 0, 0},
        /* MKDIR */
        {FSB_CHUNK_PATH_ | FSB_CHUNK_ATTR_, FSB_CHUNK_STAT_, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* UNLINK */ {FSB_CHUNK_PATH_, 0, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* RMDIR */ {FSB_CHUNK_PATH_, 0, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* RENAME */
        {FSB_CHUNK_PATH_ | FSB_CHUNK_PATH2_ | FSB_CHUNK_FLAGS_, 0,
         FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* LINK */
        {FSB_CHUNK_AT_ | FSB_CHUNK_PATH2_, FSB_CHUNK_STAT_, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* SYMLINK */
        {FSB_CHUNK_PATH_ | FSB_CHUNK_PATH2_ | FSB_CHUNK_ATTR_, FSB_CHUNK_STAT_,
         FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* MKNOD */
        {FSB_CHUNK_PATH_ | FSB_CHUNK_ATTR_, FSB_CHUNK_STAT_, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* SETATTR */
        {FSB_CHUNK_AT_ | FSB_CHUNK_ATTR_, FSB_CHUNK_STAT_, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* ALLOCATE */
        {FSB_CHUNK_HANDLE_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_SIZE64_ | FSB_CHUNK_FLAGS_,
         FSB_CHUNK_STAT_, FSB_CHUNK_CHANGES_ | FSB_CHUNK_WAITS_},
        /* SEEK */
        {FSB_CHUNK_HANDLE_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_FLAGS_, FSB_CHUNK_OUT_OFFSET_, 0},
        /* COPY */
        {FSB_CHUNK_HANDLE_ | FSB_CHUNK_HANDLE2_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_OFFSET2_ |
             FSB_CHUNK_SIZE64_,
         0, FSB_CHUNK_CHANGES_ | FSB_CHUNK_WAITS_},
        /* STATFS */ {FSB_CHUNK_AT_, FSB_CHUNK_STATFS_, 0},
        /* GETXATTR */
        {FSB_CHUNK_AT_ | FSB_CHUNK_PATH2_ | FSB_CHUNK_SIZE_, FSB_CHUNK_DATA_, 0},
        /* SETXATTR */
        {FSB_CHUNK_AT_ | FSB_CHUNK_PATH2_ | FSB_CHUNK_FLAGS_ | FSB_CHUNK_DATA_, 0,
         FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* LISTXATTR */ {FSB_CHUNK_AT_ | FSB_CHUNK_SIZE_, FSB_CHUNK_DATA_, 0},
        /* REMOVEXATTR */
        {FSB_CHUNK_AT_ | FSB_CHUNK_PATH2_, 0, FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* GET */
        {FSB_CHUNK_FILE_ID_ | FSB_CHUNK_SIZE_ | FSB_CHUNK_PATH_, FSB_CHUNK_STAT_ | FSB_CHUNK_DATA_,
         0},
        /* PUT */
        {FSB_CHUNK_PATH_ | FSB_CHUNK_FLAGS_ | FSB_CHUNK_ATTR_ | FSB_CHUNK_DATA_, FSB_CHUNK_STAT_,
         FSB_CHUNK_CHANGES_ | FSB_CHUNK_SMALL_},
        /* LOCK */
        {FSB_CHUNK_HANDLE_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_SIZE64_ | FSB_CHUNK_FLAGS_ |
             FSB_CHUNK_OWNER_,
         FSB_CHUNK_FLAGS_ | FSB_CHUNK_OFFSET_ | FSB_CHUNK_SIZE64_ | FSB_CHUNK_OWNER_, 0},
        /* WATCH */ {FSB_CHUNK_FLAGS_ | FSB_CHUNK_PATH_, FSB_CHUNK_HANDLE_, FSB_CHUNK_WAITS_},
        /* EXEC */
        {FSB_CHUNK_FLAGS_ | FSB_CHUNK_SIZE64_ | FSB_CHUNK_PATH_ | FSB_CHUNK_DATA_,
         FSB_CHUNK_ENDING_, FSB_CHUNK_WAITS_},
        /* DESCRIPTOR */ {0, 0, 0}};
    return code < FSB_OP_COUNT && shapes[code].request ? &shapes[code] : NULL;
}

static void fsb_chunk_put_stat_(fsb_chunk_cursor_ *c, const fsb_stat *s)
{
    const uint64_t wide[9] = {s->file_id,
                              s->version,
                              s->ino,
                              s->size,
                              s->blocks,
                              (uint64_t)s->atime_ns,
                              (uint64_t)s->mtime_ns,
                              (uint64_t)s->ctime_ns,
                              (uint64_t)s->btime_ns};
    const uint32_t narrow[8] = {s->mode,       s->nlink,      s->uid,     s->gid,
                                s->rdev_major, s->rdev_minor, s->blksize, 0};
    for (int i = 0; i < 9; ++i) fsb_chunk_put64_(c, wide[i]);
    for (int i = 0; i < 8; ++i) fsb_chunk_put32_(c, narrow[i]);
}

static void fsb_chunk_get_stat_(fsb_chunk_cursor_ *c, fsb_stat *s)
{
    s->file_id = fsb_chunk_get64_(c), s->version = fsb_chunk_get64_(c);
    s->ino = fsb_chunk_get64_(c), s->size = fsb_chunk_get64_(c), s->blocks = fsb_chunk_get64_(c);
    s->atime_ns = (int64_t)fsb_chunk_get64_(c), s->mtime_ns = (int64_t)fsb_chunk_get64_(c);
    s->ctime_ns = (int64_t)fsb_chunk_get64_(c), s->btime_ns = (int64_t)fsb_chunk_get64_(c);
    s->mode = fsb_chunk_get32_(c), s->nlink = fsb_chunk_get32_(c);
    s->uid = fsb_chunk_get32_(c), s->gid = fsb_chunk_get32_(c);
    s->rdev_major = fsb_chunk_get32_(c), s->rdev_minor = fsb_chunk_get32_(c);
    s->blksize = fsb_chunk_get32_(c), s->reserved = 0;
    (void)fsb_chunk_get32_(c);
}

static void fsb_chunk_put_attr_(fsb_chunk_cursor_ *c, const fsb_attr *a)
{
    const uint32_t narrow[6] = {a->mask, a->mode, a->uid, a->gid, a->rdev_major, a->rdev_minor};
    for (int i = 0; i < 6; ++i) fsb_chunk_put32_(c, narrow[i]);
    fsb_chunk_put64_(c, a->size);
    fsb_chunk_put64_(c, (uint64_t)a->atime_ns);
    fsb_chunk_put64_(c, (uint64_t)a->mtime_ns);
}

static void fsb_chunk_get_attr_(fsb_chunk_cursor_ *c, fsb_attr *a)
{
    a->mask = fsb_chunk_get32_(c), a->mode = fsb_chunk_get32_(c);
    a->uid = fsb_chunk_get32_(c), a->gid = fsb_chunk_get32_(c);
    a->rdev_major = fsb_chunk_get32_(c), a->rdev_minor = fsb_chunk_get32_(c);
    a->size = fsb_chunk_get64_(c), a->atime_ns = (int64_t)fsb_chunk_get64_(c);
    a->mtime_ns = (int64_t)fsb_chunk_get64_(c);
}

static void fsb_chunk_put_statfs_(fsb_chunk_cursor_ *c, const fsb_statfs *f)
{
    const uint64_t wide[5] = {f->blocks, f->bfree, f->bavail, f->files, f->ffree};
    const uint32_t narrow[4] = {f->bsize, f->frsize, f->namelen, 0};
    for (int i = 0; i < 5; ++i) fsb_chunk_put64_(c, wide[i]);
    for (int i = 0; i < 4; ++i) fsb_chunk_put32_(c, narrow[i]);
}

static void fsb_chunk_get_statfs_(fsb_chunk_cursor_ *c, fsb_statfs *f)
{
    f->blocks = fsb_chunk_get64_(c), f->bfree = fsb_chunk_get64_(c);
    f->bavail = fsb_chunk_get64_(c), f->files = fsb_chunk_get64_(c);
    f->ffree = fsb_chunk_get64_(c), f->bsize = fsb_chunk_get32_(c);
    f->frsize = fsb_chunk_get32_(c), f->namelen = fsb_chunk_get32_(c), f->reserved = 0;
    (void)fsb_chunk_get32_(c);
}

static void fsb_chunk_put_ending_(fsb_chunk_cursor_ *c, const fsb_exec *e)
{
    fsb_chunk_put32_(c, (uint32_t)e->exit_code), fsb_chunk_put32_(c, (uint32_t)e->signal);
    fsb_chunk_put64_(c, e->cut[0]), fsb_chunk_put64_(c, e->cut[1]);
}

static void fsb_chunk_get_ending_(fsb_chunk_cursor_ *c, fsb_exec *e)
{
    e->exit_code = (int32_t)fsb_chunk_get32_(c), e->signal = (int32_t)fsb_chunk_get32_(c);
    e->cut[0] = fsb_chunk_get64_(c), e->cut[1] = fsb_chunk_get64_(c);
}

/* Writes the fields of op (all but DATA) behind one another, then zeros to a multiple of 8. */
static void fsb_chunk_encode_(fsb_chunk_cursor_ *c, uint32_t fields, const fsb_op *op)
{
    const unsigned char *const start = c->at;
    if (fields & FSB_CHUNK_FLAGS_) fsb_chunk_put32_(c, op->flags);
    if (fields & FSB_CHUNK_FILE_ID_) fsb_chunk_put64_(c, op->file_id);
    if (fields & FSB_CHUNK_HANDLE_) fsb_chunk_put64_(c, op->handle);
    if (fields & FSB_CHUNK_HANDLE2_) fsb_chunk_put64_(c, op->handle2);
    if (fields & FSB_CHUNK_OFFSET_) fsb_chunk_put64_(c, op->offset);
    if (fields & FSB_CHUNK_OFFSET2_) fsb_chunk_put64_(c, op->offset2);
    if (fields & FSB_CHUNK_SIZE64_) fsb_chunk_put64_(c, op->size64);
    if (fields & FSB_CHUNK_SIZE_)
        fsb_chunk_put32_(c, op->size > FSB_IO_MAX ? (uint32_t)FSB_IO_MAX : (uint32_t)op->size);
    if (fields & FSB_CHUNK_OWNER_) fsb_chunk_put64_(c, op->owner), fsb_chunk_put32_(c, op->pid);
    if (fields & FSB_CHUNK_ATTR_) fsb_chunk_put_attr_(c, &op->attr);
    if (fields & FSB_CHUNK_STAT_) fsb_chunk_put_stat_(c, &op->stat);
    if (fields & FSB_CHUNK_OUT_OFFSET_) fsb_chunk_put64_(c, op->out_offset);
    if (fields & FSB_CHUNK_STATFS_) fsb_chunk_put_statfs_(c, &op->statfs);
    if (fields & FSB_CHUNK_ENDING_) fsb_chunk_put_ending_(c, op->exec);
    if (fields & FSB_CHUNK_PATH_) fsb_chunk_put_string_(c, op->path);
    if (fields & FSB_CHUNK_PATH2_) fsb_chunk_put_string_(c, op->path2);
    while ((c->at - start) % 8 && !c->bad) fsb_chunk_put_(c, 0, 1);
}

/* The reverse. Strings point into the frame. c->bad if fields are cut or bytes are left over. */
static void fsb_chunk_decode_(fsb_chunk_cursor_ *c, uint32_t fields, fsb_op *op)
{
    if (fields & FSB_CHUNK_FLAGS_) op->flags = fsb_chunk_get32_(c);
    if (fields & FSB_CHUNK_FILE_ID_) op->file_id = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_HANDLE_) op->handle = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_HANDLE2_) op->handle2 = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_OFFSET_) op->offset = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_OFFSET2_) op->offset2 = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_SIZE64_) op->size64 = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_SIZE_) op->size = fsb_chunk_get32_(c);
    if (fields & FSB_CHUNK_OWNER_) op->owner = fsb_chunk_get64_(c), op->pid = fsb_chunk_get32_(c);
    if (fields & FSB_CHUNK_ATTR_) fsb_chunk_get_attr_(c, &op->attr);
    if (fields & FSB_CHUNK_STAT_) fsb_chunk_get_stat_(c, &op->stat);
    if (fields & FSB_CHUNK_OUT_OFFSET_) op->out_offset = fsb_chunk_get64_(c);
    if (fields & FSB_CHUNK_STATFS_) fsb_chunk_get_statfs_(c, &op->statfs);
    if (fields & FSB_CHUNK_ENDING_) fsb_chunk_get_ending_(c, op->exec);
    if (fields & FSB_CHUNK_PATH_) op->path = fsb_chunk_get_string_(c);
    if (fields & FSB_CHUNK_PATH2_) op->path2 = fsb_chunk_get_string_(c);
    if (c->end - c->at >= 8) c->bad = 1; /* less is padding */
}

/* Bytes of meta for fields that have a fixed size, which those of answers have. */
static size_t fsb_chunk_fixed_size_(uint32_t fields)
{
    static const unsigned char sizes[FSB_CHUNK_INDEX_COUNT_] = {4,  8,  8,   8, 8,  8, 8, 4,
                                                                12, 48, 104, 8, 56, 24, 0, 0, 0};
    size_t                     total = 0;
    for (unsigned i = 0; i < FSB_CHUNK_INDEX_COUNT_; ++i)
        if (fields & (1u << i)) total += sizes[i];
    return (total + 7) & ~(size_t)7;
}

/* ---- [frame] --------------------------------------------------------------------------------- */

enum {
    FSB_CHUNK_MAGIC_ = 0x31425346, /* "FSB1" */
    FSB_CHUNK_HEADER_ = 32,
    FSB_CHUNK_META_MAX_ = 16 << 10,
    FSB_CHUNK_DATA_MAX_ = FSB_IO_MAX + 8, /* 8: a trailer */
    FSB_CHUNK_FRAME_MAX_ = FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_ + FSB_CHUNK_DATA_MAX_,
    FSB_CHUNK_ANSWER_ = 1, /* flags */
    FSB_CHUNK_TRAILER_ = 2,
    FSB_CHUNK_HELLO_ = 0x100, /* op, besides FSB_OP_* */
    FSB_CHUNK_CANCEL_ = 0x101,
    FSB_CHUNK_EVENT_ = 0x102,
    FSB_CHUNK_SEEN_ = 0x103,
    FSB_CHUNK_PING_ = 0x104,
    FSB_CHUNK_GOODBYE_ = 0x105,
    FSB_CHUNK_OUTPUT_ = 0x106,
    FSB_CHUNK_OUTPUT_MAX_ = 64 << 10, /* bytes of data of one */
    FSB_CHUNK_WORDS_MAX_ = 4096,      /* arguments, and variables, of a command */
    FSB_CHUNK_STAYS_ = 1, /* of HELLO: it sends PINGs, and comes back */
    FSB_CHUNK_BACK_ = 2,  /* it was here before; in the answer 1: what it had is still here */
    FSB_CHUNK_PING_MS_ = 7000,    /* a client that stays asks so often ... */
    FSB_CHUNK_SILENT_MS_ = 15000, /* ... and without a word for so long the connection is lost */
    FSB_CHUNK_KEPT_SLOTS_ = 4096, /* of tags, whose last answers are kept */
    FSB_CHUNK_KEPT_BYTES_ = FSB_CHUNK_HEADER_ + 112, /* OPEN's and WRITE's have most */
    FSB_CHUNK_VERSION_ = 1
};

#define FSB_CHUNK_LEASE_HANDLE_ UINT64_MAX /* what WATCH answers: there is only one */

typedef struct fsb_chunk_frame_ {
    uint32_t       meta_size, data_size;
    uint32_t       op, flags;
    uint64_t       tag;
    int32_t        status;
    unsigned char *meta, *data;
    size_t         placed; /* of a client: so many bytes of data are in op->buf, not at data */
} fsb_chunk_frame_;

/* Writes the header before meta_size bytes of meta that are there already. */
static void fsb_chunk_seal_(unsigned char *header, const fsb_chunk_frame_ *f)
{
    fsb_chunk_cursor_ c = {header, header + FSB_CHUNK_HEADER_, 0};
    fsb_chunk_put32_(&c, FSB_CHUNK_MAGIC_);
    fsb_chunk_put32_(&c, f->meta_size);
    fsb_chunk_put32_(&c, f->data_size);
    fsb_chunk_put16_(&c, f->op);
    fsb_chunk_put16_(&c, f->flags);
    fsb_chunk_put64_(&c, f->tag);
    fsb_chunk_put32_(&c, (uint32_t)f->status);
    const uint32_t crc = fsb_chunk_crc_(0, header, FSB_CHUNK_HEADER_ - 4);
    fsb_chunk_put32_(&c, fsb_chunk_crc_(crc, header + FSB_CHUNK_HEADER_, f->meta_size));
}

/* Looks at the bytes received so far. Returns the size of the frame that starts there once its
   header is known, 0 before; -EPROTO if it is none. *f is filled, its meta checked, once it is all
   there. */
static int64_t fsb_chunk_unseal_(unsigned char *bytes, size_t size, fsb_chunk_frame_ *f)
{
    if (size < FSB_CHUNK_HEADER_) return 0;
    fsb_chunk_cursor_ c = {bytes, bytes + FSB_CHUNK_HEADER_, 0};
    const uint32_t    magic = fsb_chunk_get32_(&c);
    f->meta_size = fsb_chunk_get32_(&c), f->data_size = fsb_chunk_get32_(&c);
    f->op = fsb_chunk_get16_(&c), f->flags = fsb_chunk_get16_(&c);
    f->tag = fsb_chunk_get64_(&c), f->status = (int32_t)fsb_chunk_get32_(&c);
    const uint32_t crc = fsb_chunk_get32_(&c);
    if (magic != FSB_CHUNK_MAGIC_ || f->meta_size > FSB_CHUNK_META_MAX_ || f->meta_size % 8 ||
        f->data_size > FSB_CHUNK_DATA_MAX_)
        return -EPROTO;
    f->meta = bytes + FSB_CHUNK_HEADER_, f->data = f->meta + f->meta_size;
    const size_t whole = (size_t)FSB_CHUNK_HEADER_ + f->meta_size + f->data_size;
    if (size < (size_t)FSB_CHUNK_HEADER_ + f->meta_size) return (int64_t)whole;
    const uint32_t head = fsb_chunk_crc_(0, bytes, FSB_CHUNK_HEADER_ - 4);
    if (fsb_chunk_crc_(head, f->meta, f->meta_size) != crc) return -EPROTO;
    return (int64_t)whole;
}

/* ---- [stream] -------------------------------------------------------------------------------- */

/* Two descriptors, non-blocking, that may be one, and what is between them and us. */
typedef struct fsb_chunk_tls_ fsb_chunk_tls_;
typedef struct fsb_chunk_sums_ fsb_chunk_sums_;
typedef struct fsb_chunk_stream_ {
    int              in, out;
    int              socket; /* 1: out is a socket */
    fsb_chunk_tls_  *tls;    /* NULL: nothing */
    fsb_chunk_sums_ *sums;   /* likewise; never both */
} fsb_chunk_stream_;

static int fsb_chunk_stream_init_(fsb_chunk_stream_ *s, int in, int out)
{
    struct stat st;
    int         one = 1;
    const int   in_flags = fcntl(in, F_GETFL), out_flags = fcntl(out, F_GETFL);
    if (in_flags < 0 || out_flags < 0 || fstat(out, &st) != 0) return -errno;
    if (fcntl(in, F_SETFL, in_flags | O_NONBLOCK) != 0) return -errno;
    if (fcntl(out, F_SETFL, out_flags | O_NONBLOCK) != 0) return -errno;
    s->in = in, s->out = out, s->socket = S_ISSOCK(st.st_mode);
    if (s->socket) (void)setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return 0;
}

/* Both return bytes moved, -EAGAIN when that would block, another error; recv 0 at the end. */
static int64_t fsb_chunk_raw_recv_(const fsb_chunk_stream_ *s, void *to, size_t size)
{
    ssize_t n;
    do n = read(s->in, to, size);
    while (n < 0 && errno == EINTR);
    return n >= 0 ? n : -errno;
}

/* writev() or, with no parts, sendfile(), without the SIGPIPE that both raise where the other side
   is gone: unlike sendmsg() they know no flag against it. */
static ssize_t fsb_chunk_send_quietly_(int out, struct iovec *parts, int count, int file,
                                       off_t *from, size_t size)
{
    const struct timespec now = {0, 0};
    sigset_t              pipe_only, old, pending;
    ssize_t               n;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
    sigpending(&pending);
    do n = parts ? writev(out, parts, count) : sendfile(out, file, from, size);
    while (n < 0 && errno == EINTR);
    const int err = errno;
    if (n < 0 && err == EPIPE && !sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&pipe_only, NULL, &now) < 0 && errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = err;
    return n;
}

static int64_t fsb_chunk_raw_send_(const fsb_chunk_stream_ *s, struct iovec *parts, int count,
                                   int more)
{
    struct msghdr msg;
    ssize_t       n;
    memset(&msg, 0, sizeof msg);
    msg.msg_iov = parts;
    msg.msg_iovlen = (__typeof__(msg.msg_iovlen))count; /* size_t, or int with musl */
    do {
        if (s->socket)
            n = sendmsg(s->out, &msg, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
        else n = fsb_chunk_send_quietly_(s->out, parts, count, -1, NULL, 0);
    } while (n < 0 && errno == EINTR);
    return n >= 0 ? n : -errno;
}

static void fsb_chunk_stream_shut_(const fsb_chunk_stream_ *s) /* wakes the peer and ourselves */
{
    if (s->socket) (void)shutdown(s->out, SHUT_RDWR);
}

/* ---- [tls] ----------------------------------------------------------------------------------- */

/* TLS 1.3 where both ends prove that they know the join code, and nothing else will do: an external
   key with (EC)DHE, no certificate, no tickets. Reading and writing share one lock, as an SSL wants
   it; both only ever move what is there, so nobody waits under it. */
#ifdef FSB_WITH_OPENSSL

enum {
    FSB_CHUNK_RECORD_ = 16 << 10,
    FSB_CHUNK_SEALED_ = FSB_CHUNK_RECORD_ + 256, /* at most, encrypted */
    FSB_CHUNK_LEFT_ = 80 << 10, /* a few records: one system call for all of them ... */
    FSB_CHUNK_AHEAD_ = 64 << 10, /* ... and for about as many when they come */
    FSB_CHUNK_SMALL_PART_ = 4 << 10
};

/* What the connections of a server, or of a client, have in common. */
typedef struct fsb_chunk_secure_ {
    SSL_CTX    *context;
    BIO_METHOD *method;
} fsb_chunk_secure_;

#define FSB_CHUNK_NO_SECURE_ ENOMEM /* why there is none */

struct fsb_chunk_tls_ {
    fsb_chunk_stream_ raw;
    fsb_allocator     allocator;
    pthread_mutex_t   lock;
    SSL              *ssl;
    int               more;  /* of the next bytes: others follow at once */
    int               error; /* the errno that ended the stream below */
    int               ended;
    int               ready; /* bytes are decrypted that the last recv had no room for */
    int               proven; /* the handshake is over: the peer knows the code */
    unsigned char    *left;  /* records that are not sent yet, or NULL */
    size_t            left_at, left_size; /* left_size by atomics: who polls asks */
    int               stuck; /* the socket took a part of them only */
    unsigned char    *ahead; /* bytes that came behind those that were asked for, or NULL */
    size_t            ahead_at, ahead_size;
};

static void fsb_chunk_left_set_(fsb_chunk_tls_ *t, size_t at, size_t size)
{
    t->left_at = at;
    __atomic_store_n(&t->left_size, size, __ATOMIC_RELAXED);
}

static int fsb_chunk_bio_keep_(fsb_chunk_tls_ *t, const char *bytes, size_t size)
{
    const size_t end = t->left_at + t->left_size;
    if (!t->left)
        t->left = (unsigned char *)fsb_chunk_resize_(&t->allocator, NULL, 0, FSB_CHUNK_LEFT_);
    if (!t->left || size > FSB_CHUNK_LEFT_ - end) return t->error = ENOMEM, -1;
    memcpy(t->left + end, bytes, size);
    fsb_chunk_left_set_(t, t->left_at, t->left_size + size);
    return 0;
}

/* Records that others follow are kept and sent together. So is what the socket does not take, so
   that SSL_write() never has to be repeated: what it said is sent, will be. Nothing but a handshake
   writes while it is stuck. */
static int fsb_chunk_bio_write_(BIO *bio, const char *bytes, int size)
{
    fsb_chunk_tls_ *t = (fsb_chunk_tls_ *)BIO_get_data(bio);
    const size_t    before = t->left_size, all = before + (size_t)size;
    struct iovec    parts[2];
    if (t->stuck || (t->more && all + FSB_CHUNK_SEALED_ <= FSB_CHUNK_LEFT_))
        return fsb_chunk_bio_keep_(t, bytes, (size_t)size) ? -1 : size;
    parts[0].iov_base = t->left, parts[0].iov_len = before;
    parts[1].iov_base = (void *)(uintptr_t)bytes, parts[1].iov_len = (size_t)size;
    const int64_t n = fsb_chunk_raw_send_(&t->raw, before ? parts : parts + 1, before ? 2 : 1,
                                          t->more);
    if (n < 0 && n != -EAGAIN) return t->error = (int)-n, -1;
    const size_t sent = n < 0 ? 0 : (size_t)n, skip = sent > before ? sent - before : 0;
    fsb_chunk_left_set_(t, skip || sent == before ? 0 : sent, before - (sent - skip));
    if (sent == all) return size;
    t->stuck = 1;
    return fsb_chunk_bio_keep_(t, bytes + skip, (size_t)size - skip) ? -1 : size;
}

/* Once bytes come in numbers, more than a record wants are taken at a time. */
static int64_t fsb_chunk_bio_ahead_(fsb_chunk_tls_ *t, char *to, size_t size)
{
    struct iovec parts[2];
    ssize_t      n;
    if (t->ahead_size) {
        if (size > t->ahead_size) size = t->ahead_size;
        memcpy(to, t->ahead + t->ahead_at, size);
        t->ahead_at += size, t->ahead_size -= size;
        return (int64_t)size;
    }
    if (!t->ahead && t->proven)
        t->ahead = (unsigned char *)fsb_chunk_resize_(&t->allocator, NULL, 0, FSB_CHUNK_AHEAD_);
    if (!t->ahead) return fsb_chunk_raw_recv_(&t->raw, to, size);
    parts[0].iov_base = to, parts[0].iov_len = size;
    parts[1].iov_base = t->ahead, parts[1].iov_len = FSB_CHUNK_AHEAD_;
    do n = readv(t->raw.in, parts, 2);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    if ((size_t)n <= size) return n;
    t->ahead_at = 0, t->ahead_size = (size_t)n - size;
    return (int64_t)size;
}

static int fsb_chunk_bio_read_(BIO *bio, char *to, int size)
{
    fsb_chunk_tls_ *t = (fsb_chunk_tls_ *)BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    const int64_t n = fsb_chunk_bio_ahead_(t, to, (size_t)size);
    if (n > 0) return (int)n;
    if (n == -EAGAIN) BIO_set_retry_read(bio);
    else if (!n) t->ended = 1;
    else t->error = (int)-n;
    return -1;
}

static long fsb_chunk_bio_ctrl_(BIO *bio, int command, long number, void *pointer)
{
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

/* AES where the processor has instructions for it, else ChaCha20, which needs none. */
static const char *fsb_chunk_ciphers_(void)
{
    int aes = 0;
#if defined(__x86_64__) || defined(__i386__)
    aes = __builtin_cpu_supports("aes") != 0;
#elif defined(__aarch64__)
    aes = (getauxval(AT_HWCAP) & (1u << 3)) != 0; /* HWCAP_AES */
#endif
    return aes ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
               : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
}

/* A key as the session that an external PSK is to OpenSSL. */
static SSL_SESSION *fsb_chunk_tls_session_(SSL *ssl, const fsb_chunk_key_ *key)
{
    static const unsigned char aes_128_gcm_sha256[2] = {0x13, 0x01}; /* what counts is SHA-256 */
    SSL_SESSION               *session = SSL_SESSION_new();
    if (session && SSL_SESSION_set1_master_key(session, key->secret, sizeof key->secret) == 1 &&
        SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, aes_128_gcm_sha256)) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

/* The thread uses OpenSSL no more: what that keeps for it is freed now, for at the thread's end,
   which nobody waits for, OpenSSL itself may be gone. */
static void fsb_chunk_secure_leave_(void) { OPENSSL_thread_stop(); }

static void fsb_chunk_secure_free_(fsb_chunk_secure_ *secure, const fsb_allocator *a)
{
    if (!secure) return;
    SSL_CTX_free(secure->context);
    BIO_meth_free(secure->method);
    fsb_chunk_free_(a, secure, sizeof *secure);
}

static int fsb_chunk_secure_set_(SSL_CTX *c)
{
    SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                            SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    return SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_ciphersuites(c, fsb_chunk_ciphers_()) == 1 &&
        SSL_CTX_set_num_tickets(c, 0) == 1 && SSL_CTX_set1_groups_list(c, "X25519:P-256") == 1;
}

static fsb_chunk_secure_ *fsb_chunk_secure_new_(const fsb_allocator *a, int serves)
{
    fsb_chunk_secure_ *s = (fsb_chunk_secure_ *)fsb_chunk_alloc_(a, sizeof *s);
    if (!s) return NULL;
    s->context = SSL_CTX_new(serves ? TLS_server_method() : TLS_client_method());
    if (s->context && !serves) /* no certificate is good: there are no roots */
        SSL_CTX_set_verify(s->context, SSL_VERIFY_PEER, NULL);
    s->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "fsb");
    if (s->context && s->method && fsb_chunk_secure_set_(s->context) &&
        BIO_meth_set_write(s->method, fsb_chunk_bio_write_) == 1 &&
        BIO_meth_set_read(s->method, fsb_chunk_bio_read_) == 1 &&
        BIO_meth_set_ctrl(s->method, fsb_chunk_bio_ctrl_) == 1)
        return s;
    fsb_chunk_secure_free_(s, a);
    return NULL;
}

static void fsb_chunk_tls_close_(fsb_chunk_stream_ *s)
{
    fsb_chunk_tls_ *t = s->tls;
    if (!t) return;
    const fsb_allocator a = t->allocator;
    s->tls = NULL;
    SSL_free(t->ssl);
    fsb_chunk_free_(&a, t->left, FSB_CHUNK_LEFT_);
    fsb_chunk_free_(&a, t->ahead, FSB_CHUNK_AHEAD_);
    pthread_mutex_destroy(&t->lock);
    fsb_chunk_free_(&a, t, sizeof *t);
}

/* Puts TLS between the stream and us; the handshake comes with the first bytes. `user` is what the
   callbacks that know the keys get. */
static int fsb_chunk_tls_open_(const fsb_chunk_secure_ *secure, fsb_chunk_stream_ *s, int serves,
                               void *user, const fsb_allocator *a)
{
    fsb_chunk_tls_ *t = (fsb_chunk_tls_ *)fsb_chunk_alloc_(a, sizeof *t);
    BIO            *bio = t ? BIO_new(secure->method) : NULL;
    if (!t) return -ENOMEM;
    t->raw = *s, t->allocator = *a;
    t->ssl = bio ? SSL_new(secure->context) : NULL;
    if (pthread_mutex_init(&t->lock, NULL) != 0 || !t->ssl) {
        SSL_free(t->ssl);
        BIO_free(bio);
        fsb_chunk_free_(a, t, sizeof *t);
        return -ENOMEM;
    }
    BIO_set_data(bio, t), BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, user);
    if (serves) SSL_set_accept_state(t->ssl);
    else SSL_set_connect_state(t->ssl);
    s->tls = t;
    return 0;
}

/* Why SSL_read() and the like said so: -EAGAIN, 0 the end, -EACCES the codes differ, -EPROTO. */
static int fsb_chunk_tls_error_(fsb_chunk_tls_ *t, int said)
{
    const int why = SSL_get_error(t->ssl, said);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return -EAGAIN;
    if (t->error) return -t->error;
    if (t->ended || why == SSL_ERROR_ZERO_RETURN) return 0;
    const int reason = ERR_GET_REASON(ERR_peek_last_error());
    ERR_clear_error();
    if (t->proven) return -EPROTO;
    const int differ = reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE ||
        reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR || reason == SSL_R_BINDER_DOES_NOT_VERIFY ||
        reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM ||
        reason == SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER; /* the identity is known, the key another */
    return differ ? -EACCES : -EPROTO;
}

/* Sends the records that are left: 0, -EAGAIN, another error. Lock held. */
static int fsb_chunk_tls_drain_(fsb_chunk_tls_ *t)
{
    while (t->left_size) {
        struct iovec part;
        part.iov_base = t->left + t->left_at, part.iov_len = t->left_size;
        const int64_t n = fsb_chunk_raw_send_(&t->raw, &part, 1, 0);
        t->stuck = n != (int64_t)t->left_size;
        if (n < 0) return (int)n;
        fsb_chunk_left_set_(t, t->left_at + (size_t)n, t->left_size - (size_t)n);
    }
    fsb_chunk_free_(&t->allocator, t->left, FSB_CHUNK_LEFT_);
    t->left = NULL, t->left_at = 0, t->stuck = 0;
    return 0;
}

static int64_t fsb_chunk_tls_recv_(fsb_chunk_tls_ *t, void *to, size_t size)
{
    unsigned char *at = (unsigned char *)to;
    size_t         got = 0;
    int            n = 1, err = 0;
    t->ready = 0;
    while (got < size && !err) {
        const size_t want = size - got < FSB_CHUNK_RECORD_ ? size - got : (size_t)FSB_CHUNK_RECORD_;
        pthread_mutex_lock(&t->lock);
        ERR_clear_error();
        t->more = !t->proven; /* why somebody is refused is sent once that is noted, by who calls */
        n = SSL_read(t->ssl, at + got, (int)want);
        t->more = 0;
        if (n <= 0) err = fsb_chunk_tls_error_(t, n);
        else if (!t->proven) t->proven = SSL_session_reused(t->ssl);
        if ((!err || err == -EAGAIN) && t->left_size && !t->stuck) (void)fsb_chunk_tls_drain_(t);
        t->ready = got + (n > 0 ? (size_t)n : 0) == size &&
            (SSL_pending(t->ssl) > 0 || t->ahead_size);
        if (n <= 0 && !t->ahead_size) { /* a client at rest has none */
            fsb_chunk_free_(&t->allocator, t->ahead, FSB_CHUNK_AHEAD_);
            t->ahead = NULL;
        }
        pthread_mutex_unlock(&t->lock);
        if (n <= 0) break;
        if (!t->proven) return -EACCES; /* by what means else? there are none */
        got += (size_t)n;
    }
    return got ? (int64_t)got : err;
}

/* One record of the parts from `at` on: a large one as it lies, small ones gathered. Lock held. */
static int64_t fsb_chunk_tls_record_(fsb_chunk_tls_ *t, const struct iovec *parts, int count,
                                     size_t at, int more)
{
    unsigned char gathered[FSB_CHUNK_RECORD_];
    const void   *bytes = (const unsigned char *)parts->iov_base + at;
    size_t        size = parts->iov_len - at;
    if (size < FSB_CHUNK_SMALL_PART_ && count > 1) {
        size = 0;
        for (int i = 0; i < count && size < sizeof gathered; ++i) {
            const size_t skip = i ? 0 : at, room = sizeof gathered - size;
            const size_t part = parts[i].iov_len - skip < room ? parts[i].iov_len - skip : room;
            if (part) memcpy(gathered + size, (const char *)parts[i].iov_base + skip, part);
            size += part;
            more |= part == room;
        }
        bytes = gathered;
    } else more |= count > 1 || size > FSB_CHUNK_RECORD_;
    t->more = more;
    ERR_clear_error();
    const int n = SSL_write(t->ssl, bytes,
                            (int)(size < FSB_CHUNK_RECORD_ ? size : (size_t)FSB_CHUNK_RECORD_));
    t->more = 0;
    if (n > 0) return n;
    const int err = fsb_chunk_tls_error_(t, n);
    return err ? err : -EPIPE;
}

static int64_t fsb_chunk_tls_send_(fsb_chunk_tls_ *t, const struct iovec *parts, int count,
                                   int more)
{
    size_t  sent = 0, at = 0;
    int64_t n = 0;
    pthread_mutex_lock(&t->lock);
    n = t->stuck || !count ? fsb_chunk_tls_drain_(t) : 0;
    while (!t->stuck && n >= 0) {
        while (count && at >= parts->iov_len) at -= parts->iov_len, ++parts, --count;
        if (!count) break;
        n = fsb_chunk_tls_record_(t, parts, count, at, more);
        if (n > 0) sent += (size_t)n, at += (size_t)n;
    }
    if (!more && n >= 0 && !t->stuck) (void)fsb_chunk_tls_drain_(t); /* the room is given back */
    pthread_mutex_unlock(&t->lock);
    return sent || n >= 0 ? (int64_t)sent : n;
}

/* A client's handshake; who does not know the code does not get past it. */
static int fsb_chunk_tls_greet_(fsb_chunk_stream_ *s, int64_t deadline)
{
    fsb_chunk_tls_ *t = s->tls;
    for (;;) {
        pthread_mutex_lock(&t->lock);
        ERR_clear_error();
        const int said = SSL_do_handshake(t->ssl);
        int       err = said == 1 ? 0 : fsb_chunk_tls_error_(t, said);
        const int over = said == 1;
        if (over) t->proven = SSL_session_reused(t->ssl), err = t->proven ? 0 : -EACCES;
        if (!err || err == -EAGAIN) {
            const int drained = fsb_chunk_tls_drain_(t);
            if (drained) err = drained;
        }
        const size_t left_size = t->left_size;
        pthread_mutex_unlock(&t->lock);
        if (over && err != -EAGAIN) return err;
        if (err != -EAGAIN) return err ? err : -ENOTCONN;
        struct pollfd p = {left_size ? s->out : s->in, (short)(left_size ? POLLOUT : POLLIN), 0};
        const int64_t left = deadline - fsb_chunk_now_ms_();
        if (left <= 0) return -ETIMEDOUT;
        if (poll(&p, 1, left < INT_MAX ? (int)left : INT_MAX) < 0 && errno != EINTR) return -errno;
    }
}

static int fsb_chunk_tls_unsent_(const fsb_chunk_tls_ *t)
{
    return __atomic_load_n(&t->left_size, __ATOMIC_RELAXED) != 0;
}

static int fsb_chunk_tls_ready_(const fsb_chunk_tls_ *t)
{
    return t->ready;
}

#else
typedef struct fsb_chunk_secure_ {
    int none;
} fsb_chunk_secure_;

#define FSB_CHUNK_NO_SECURE_ ENOSYS

static fsb_chunk_secure_ *fsb_chunk_secure_new_(const fsb_allocator *a, int serves)
{
    (void)a, (void)serves;
    return NULL;
}

static void fsb_chunk_secure_leave_(void) {}

static void fsb_chunk_secure_free_(fsb_chunk_secure_ *secure, const fsb_allocator *a)
{
    (void)secure, (void)a;
}

static int fsb_chunk_tls_open_(const fsb_chunk_secure_ *secure, fsb_chunk_stream_ *s, int serves,
                               void *user, const fsb_allocator *a)
{
    (void)secure, (void)s, (void)serves, (void)user, (void)a;
    return -ENOSYS;
}

static void fsb_chunk_tls_close_(fsb_chunk_stream_ *s)
{
    (void)s;
}

static int64_t fsb_chunk_tls_recv_(fsb_chunk_tls_ *t, void *to, size_t size)
{
    (void)t, (void)to, (void)size;
    return -ENOSYS;
}

static int64_t fsb_chunk_tls_send_(fsb_chunk_tls_ *t, const struct iovec *parts, int count,
                                   int more)
{
    (void)t, (void)parts, (void)count, (void)more;
    return -ENOSYS;
}

static int fsb_chunk_tls_greet_(fsb_chunk_stream_ *s, int64_t deadline)
{
    (void)s, (void)deadline;
    return -ENOSYS;
}

static int fsb_chunk_tls_unsent_(const fsb_chunk_tls_ *t)
{
    (void)t;
    return 0;
}

static int fsb_chunk_tls_ready_(const fsb_chunk_tls_ *t)
{
    (void)t;
    return 0;
}
#endif /* FSB_WITH_OPENSSL */

/* ---- [sums] ---------------------------------------------------------------------------------- */

/* Bare TCP has a sum of 16 bits, and what stands between two hosts computes it anew. So there the
   bytes go in records: a head of u32 "FSBS", size, its complement, the first of the BLAKE3 of the
   bytes, then the bytes. One thread at a time sends, one receives. */
enum {
    FSB_CHUNK_SUM_MAGIC_ = 0x53425346, /* "FSBS" */
    FSB_CHUNK_SUM_HEAD_ = 16,
    FSB_CHUNK_SUM_MAX_ = 64 << 10,
    FSB_CHUNK_SUM_ROOM_ = FSB_CHUNK_SUM_HEAD_ + FSB_CHUNK_SUM_MAX_
};

struct fsb_chunk_sums_ {
    fsb_chunk_stream_ raw;
    fsb_allocator     allocator;
    size_t            at, good, end; /* in[at..good) is checked, in[..end) is what came */
    int               ready;         /* more is there than the last recv had room for */
    size_t            left_at, left; /* of out; left by atomics: who polls asks */
    unsigned char     in[FSB_CHUNK_SUM_ROOM_], out[FSB_CHUNK_SUM_ROOM_];
};

static uint32_t fsb_chunk_sum_of_(const unsigned char *bytes, size_t size)
{
    unsigned char     hash[32];
    fsb_chunk_cursor_ c = {hash, hash + sizeof hash, 0};
    fsb_blake3_hash(bytes, size, hash);
    return fsb_chunk_get32_(&c);
}

/* Is it bare TCP? */
static int fsb_chunk_wants_sums_(const fsb_chunk_stream_ *s)
{
    int       domain = 0;
    socklen_t size = sizeof domain;
    return !s->tls && s->in == s->out && s->socket &&
        getsockopt(s->out, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain != AF_UNIX;
}

/* Puts records between the stream and us; bytes that have come already are the first of one. */
static int fsb_chunk_sums_open_(fsb_chunk_stream_ *s, const void *bytes, size_t size,
                                const fsb_allocator *a)
{
    fsb_chunk_sums_ *t =
        size <= FSB_CHUNK_SUM_ROOM_ ? (fsb_chunk_sums_ *)fsb_chunk_alloc_(a, sizeof *t) : NULL;
    if (!t) return -ENOMEM;
    t->raw = *s, t->allocator = *a;
    if (size) memcpy(t->in, bytes, size);
    t->end = size, t->ready = size != 0;
    s->sums = t;
    return 0;
}

static void fsb_chunk_sums_close_(fsb_chunk_stream_ *s)
{
    if (!s->sums) return;
    const fsb_allocator a = s->sums->allocator;
    fsb_chunk_free_(&a, s->sums, sizeof *s->sums);
    s->sums = NULL;
}

/* The size of the record at t->at with its head, 0 if not even that has come; -EBADMSG. */
static int64_t fsb_chunk_sums_size_(const fsb_chunk_sums_ *t, uint32_t *sum)
{
    unsigned char    *head = (unsigned char *)(uintptr_t)t->in + t->at;
    fsb_chunk_cursor_ c = {head, head + FSB_CHUNK_SUM_HEAD_, 0};
    if (t->end - t->at < FSB_CHUNK_SUM_HEAD_) return 0;
    const uint32_t magic = fsb_chunk_get32_(&c), size = fsb_chunk_get32_(&c);
    if (magic != FSB_CHUNK_SUM_MAGIC_ || fsb_chunk_get32_(&c) != ~size || !size ||
        size > FSB_CHUNK_SUM_MAX_)
        return -EBADMSG;
    *sum = fsb_chunk_get32_(&c);
    return (int64_t)size + FSB_CHUNK_SUM_HEAD_;
}

/* Goes on to the next record: 1, 0 if it is not all there, -EBADMSG. */
static int fsb_chunk_sums_next_(fsb_chunk_sums_ *t)
{
    uint32_t      sum = 0;
    const int64_t size = fsb_chunk_sums_size_(t, &sum);
    if (size <= 0) return (int)size;
    if ((size_t)size > t->end - t->at) return 0;
    const unsigned char *bytes = t->in + t->at + FSB_CHUNK_SUM_HEAD_;
    if (fsb_chunk_sum_of_(bytes, (size_t)size - FSB_CHUNK_SUM_HEAD_) != sum) return -EBADMSG;
    t->good = t->at + (size_t)size, t->at += FSB_CHUNK_SUM_HEAD_;
    return 1;
}

static int64_t fsb_chunk_sums_fill_(fsb_chunk_sums_ *t)
{
    memmove(t->in, t->in + t->at, t->end - t->at);
    t->end -= t->at, t->at = t->good = 0;
    const int64_t n = fsb_chunk_raw_recv_(&t->raw, t->in + t->end, sizeof t->in - t->end);
    if (n > 0) t->end += (size_t)n;
    return n;
}

static int64_t fsb_chunk_sums_recv_(fsb_chunk_sums_ *t, void *to, size_t size)
{
    size_t   got = 0;
    int64_t  n = 1;
    uint32_t sum;
    while (got < size && n > 0) {
        const size_t have = t->good > t->at ? t->good - t->at : 0;
        const size_t part = have < size - got ? have : size - got;
        if (part) memcpy((unsigned char *)to + got, t->in + t->at, part);
        got += part, t->at += part;
        if (part) continue;
        n = fsb_chunk_sums_next_(t);
        if (!n) n = fsb_chunk_sums_fill_(t);
    }
    const int64_t next = fsb_chunk_sums_size_(t, &sum);
    t->ready = t->good > t->at || next < 0 || (next > 0 && (size_t)next <= t->end - t->at);
    return got && n != -EBADMSG ? (int64_t)got : n;
}

/* Sends what is left of a record: 0, -EAGAIN, another error. */
static int fsb_chunk_sums_drain_(fsb_chunk_sums_ *t, int more)
{
    while (t->left) {
        struct iovec part;
        part.iov_base = t->out + t->left_at, part.iov_len = t->left;
        const int64_t n = fsb_chunk_raw_send_(&t->raw, &part, 1, more);
        if (n < 0) return (int)n;
        t->left_at += (size_t)n;
        __atomic_store_n(&t->left, t->left - (size_t)n, __ATOMIC_RELAXED);
    }
    return 0;
}

/* A record of the parts from `at` on; returns how many bytes of them are in it. */
static size_t fsb_chunk_sums_record_(fsb_chunk_sums_ *t, const struct iovec *parts, int count,
                                     size_t at)
{
    fsb_chunk_cursor_ c = {t->out, t->out + FSB_CHUNK_SUM_HEAD_, 0};
    unsigned char    *bytes = t->out + FSB_CHUNK_SUM_HEAD_;
    size_t            size = 0;
    for (int i = 0; i < count && size < FSB_CHUNK_SUM_MAX_; ++i) {
        const size_t skip = i ? 0 : at, room = FSB_CHUNK_SUM_MAX_ - size;
        const size_t part = parts[i].iov_len - skip < room ? parts[i].iov_len - skip : room;
        if (part) memcpy(bytes + size, (const char *)parts[i].iov_base + skip, part);
        size += part;
    }
    fsb_chunk_put32_(&c, FSB_CHUNK_SUM_MAGIC_);
    fsb_chunk_put32_(&c, (uint32_t)size), fsb_chunk_put32_(&c, ~(uint32_t)size);
    fsb_chunk_put32_(&c, fsb_chunk_sum_of_(bytes, size));
    t->left_at = 0;
    __atomic_store_n(&t->left, FSB_CHUNK_SUM_HEAD_ + size, __ATOMIC_RELAXED);
    return size;
}

static int64_t fsb_chunk_sums_send_(fsb_chunk_sums_ *t, const struct iovec *parts, int count,
                                    int more)
{
    size_t sent = 0, at = 0;
    int    err = fsb_chunk_sums_drain_(t, more || count);
    while (!err) {
        while (count && at >= parts->iov_len) at -= parts->iov_len, ++parts, --count;
        if (!count) break;
        const size_t n = fsb_chunk_sums_record_(t, parts, count, at);
        sent += n, at += n;
        err = fsb_chunk_sums_drain_(t, more);
    }
    return sent || !err ? (int64_t)sent : err;
}

/* What the rest of this file calls: bytes moved, -EAGAIN, another error; recv 0 at the end. */
static int64_t fsb_chunk_recv_(const fsb_chunk_stream_ *s, void *to, size_t size)
{
    return s->tls ? fsb_chunk_tls_recv_(s->tls, to, size)
        : s->sums ? fsb_chunk_sums_recv_(s->sums, to, size)
                  : fsb_chunk_raw_recv_(s, to, size);
}

static int64_t fsb_chunk_send_(const fsb_chunk_stream_ *s, struct iovec *parts, int count, int more)
{
    return s->tls ? fsb_chunk_tls_send_(s->tls, parts, count, more)
        : s->sums ? fsb_chunk_sums_send_(s->sums, parts, count, more)
                  : fsb_chunk_raw_send_(s, parts, count, more);
}

static int fsb_chunk_unsent_(const fsb_chunk_stream_ *s) /* a send of nothing would go on */
{
    return s->tls ? fsb_chunk_tls_unsent_(s->tls)
                  : s->sums && __atomic_load_n(&s->sums->left, __ATOMIC_RELAXED) != 0;
}

static int fsb_chunk_ready_(const fsb_chunk_stream_ *s) /* a recv gives bytes, whatever poll says */
{
    return s->tls ? fsb_chunk_tls_ready_(s->tls) : s->sums && s->sums->ready;
}

/* ---- [address] ------------------------------------------------------------------------------- */

typedef struct fsb_chunk_address_ {
    struct sockaddr_storage name;
    socklen_t               size;
    int                     family;
} fsb_chunk_address_;

static int fsb_chunk_address_unix_(const char *path, fsb_chunk_address_ *out)
{
    struct sockaddr_un un;
    if (!*path) return -EINVAL;
    if (strlen(path) >= sizeof un.sun_path) return -ENAMETOOLONG;
    memset(&un, 0, sizeof un);
    un.sun_family = AF_UNIX;
    memcpy(un.sun_path, path, strlen(path));
    memset(out, 0, sizeof *out);
    memcpy(&out->name, &un, sizeof un);
    out->size = (socklen_t)sizeof un, out->family = AF_UNIX;
    return 0;
}

/* "HOST:PORT" or "[V6]:PORT" to its parts, each at most size bytes. */
static int fsb_chunk_address_split_(const char *address, char *host, char *port, size_t size)
{
    const char *colon = strrchr(address, ':');
    const int   bracket = address[0] == '[';
    if (!colon || !colon[1] || (bracket && (colon < address + 2 || colon[-1] != ']')))
        return -EINVAL;
    const size_t length = (size_t)(colon - address) - (bracket ? 2 : 0);
    if (length >= size || strlen(colon + 1) >= size) return -ENAMETOOLONG;
    if (!length || strspn(colon + 1, "0123456789") != strlen(colon + 1)) return -EINVAL;
    if (strtoul(colon + 1, NULL, 10) > 65535) return -EINVAL; /* getaddrinfo() would cut it */
    memcpy(host, address + (bracket ? 1 : 0), length);
    host[length] = '\0';
    memcpy(port, colon + 1, strlen(colon + 1) + 1);
    return !bracket && strchr(host, ':') ? -EINVAL : 0;
}

/* Up to `most` addresses that `address` stands for; returns their number or an error. */
static int fsb_chunk_resolve_(const char *address, int passive, fsb_chunk_address_ *out, int most)
{
    char            host[256], port[256];
    struct addrinfo hints, *list = NULL;
    int             count = 0;
    if (strncmp(address, "unix:", 5) == 0) {
        const int err = fsb_chunk_address_unix_(address + 5, out);
        return err ? err : 1;
    }
    const int err = fsb_chunk_address_split_(address, host, port, sizeof host);
    if (err) return err;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    const int bad = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &hints, &list);
    if (bad) return bad == EAI_MEMORY ? -ENOMEM : bad == EAI_SERVICE ? -EINVAL : -EHOSTUNREACH;
    for (struct addrinfo *a = list; a && count < most; a = a->ai_next) {
        if (a->ai_addrlen > sizeof out->name) continue;
        memset(&out[count], 0, sizeof *out);
        memcpy(&out[count].name, a->ai_addr, a->ai_addrlen);
        out[count].size = a->ai_addrlen, out[count].family = a->ai_family;
        ++count;
    }
    freeaddrinfo(list);
    return count ? count : -EHOSTUNREACH;
}

static int fsb_chunk_is_local_(const fsb_chunk_address_ *a)
{
    if (a->family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &a->name, sizeof in);
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    if (a->family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &a->name, sizeof in6);
        return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) != 0;
    }
    return a->family == AF_UNIX;
}

/* Losses on a long way are no sign of crowding: there BBR carries 4 to 9 times as much (measured,
   at 1 to 5 %). It is asked for where the kernel lets us; not on loopback, where it halves. 1: it
   is there. */
static int fsb_chunk_congestion_(int fd)
{
    fsb_chunk_address_ peer;
    memset(&peer, 0, sizeof peer);
    peer.size = sizeof peer.name;
    if (getpeername(fd, (struct sockaddr *)&peer.name, &peer.size) != 0) return 0;
    peer.family = peer.name.ss_family;
    return !fsb_chunk_is_local_(&peer) &&
           setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3) == 0;
}

/* BBR begins at the pace of the ten packets that a new connection may have on its way (RFC 6928),
   and keeps to that until it has seen a faster one. What was said so far has let the window grow:
   begun anew it begins at that, so that the first 16 KiB take 0.22 round trips, not 0.30
   (measured). */
static void fsb_chunk_congestion_anew_(int fd)
{
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3);
}

/* A socket connected to that one address by the deadline, or an error. A unix socket whose queue of
   newcomers is full says EAGAIN at once: it is asked again. */
static int fsb_chunk_connect_(const fsb_chunk_address_ *a, int64_t deadline)
{
    int       err = 0;
    socklen_t size = sizeof err;
    const int fd = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    while (connect(fd, (const struct sockaddr *)&a->name, a->size) != 0) {
        const struct timespec pause = {0, 5000000};
        err = errno;
        if (err != EAGAIN || fsb_chunk_now_ms_() >= deadline) break;
        nanosleep(&pause, NULL);
        err = 0;
    }
    if (err == EINPROGRESS || err == EINTR) {
        struct pollfd p = {fd, POLLOUT, 0};
        int           n;
        do {
            const int64_t left = deadline - fsb_chunk_now_ms_();
            n = poll(&p, 1, left <= 0 ? 0 : left < INT_MAX ? (int)left : INT_MAX);
        } while (n < 0 && errno == EINTR);
        if (n <= 0) err = n ? errno : ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) != 0) err = errno;
    }
    if (!err) return fd;
    close(fd);
    return -err;
}

FSB_API int fsb_chunk_dial(const char *address, uint32_t timeout_ms, int fds[2])
{
    fsb_chunk_address_ to[8];
    const int64_t      deadline = fsb_chunk_now_ms_() + (timeout_ms ? timeout_ms : 30000);
    const int          count = fsb_chunk_resolve_(address, 0, to, 8);
    int                fd = count < 0 ? count : -EHOSTUNREACH;
    for (int i = 0; i < count && fd < 0; ++i) fd = fsb_chunk_connect_(&to[i], deadline);
    if (fd < 0) return fd;
    fds[0] = fds[1] = fd;
    return 0;
}

/* The reverse of resolve, for people: "unix:PATH", "127.0.0.1:4711", "[::1]:4711". */
static void fsb_chunk_address_text_(int fd, const char *asked, char *to, size_t size)
{
    struct sockaddr_storage name;
    socklen_t               length = sizeof name;
    char                    host[INET6_ADDRSTRLEN] = "?";
    if (!size) return;
    snprintf(to, size, "%s", asked);
    if (getsockname(fd, (struct sockaddr *)&name, &length) != 0) return;
    if (name.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &name, sizeof in);
        inet_ntop(AF_INET, &in.sin_addr, host, sizeof host);
        snprintf(to, size, "%s:%u", host, (unsigned)ntohs(in.sin_port));
    } else if (name.ss_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &name, sizeof in6);
        inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof host);
        snprintf(to, size, "[%s]:%u", host, (unsigned)ntohs(in6.sin6_port));
    }
}

/* ---- server: types --------------------------------------------------------------------------- */

typedef struct fsb_chunk_conn_    fsb_chunk_conn_;
typedef struct fsb_chunk_request_ fsb_chunk_request_;
typedef struct fsb_chunk_block_   fsb_chunk_block_;
typedef struct fsb_chunk_lock_    fsb_chunk_lock_;

enum { FSB_CHUNK_SENDFILE_, FSB_CHUNK_COPY_, FSB_CHUNK_PAD_ };

/* Bytes on their way to a client: answers one after another, then perhaps a stretch of a file. */
struct fsb_chunk_block_ {
    fsb_chunk_block_ *next;
    size_t            capacity, size, sent; /* of the bytes behind this struct */
    int               file;                 /* descriptor, or -1: none */
    int               slot;                 /* of the handle that keeps it open */
    int               way;                  /* of sending the file: FSB_CHUNK_SENDFILE_, ... */
    size_t            weight;               /* memory, counted in conn->queued */
    uint64_t          offset;
    size_t            file_left, file_good;
    int32_t           file_error; /* of the wire */
    unsigned char     trailer[8];
    size_t            trailer_sent;
};

/* An open file of a client. Its id on the wire is generation << 32 | index + 1. */
typedef struct fsb_chunk_slot_ {
    fsb_handle handle; /* the backend's; 0: free */
    uint64_t   file_id;
    uint64_t   tag; /* of the OPEN */
    uint32_t   generation, pins;
    char      *path;       /* it was opened by, as renames left it; for those who hold a lease.
                              NULL: not known */
    uint64_t   mover;      /* file_id of what others moved last, this file along with it; or 0 */
    size_t     mover_size; /* of its path since then, which path begins with */
    int        descriptor; /* or -1 */
    int        closing;    /* gone for the client; closed with the last pin */
    int        next;       /* in the list of free ones, or of gone ones */
} fsb_chunk_slot_;

struct fsb_chunk_request_ {
    fsb_op                  op;
    fsb_chunk_conn_        *conn;
    fsb_chunk_request_     *next;
    const fsb_chunk_shape_ *shape;
    uint64_t                tag;
    int64_t                 begun;       /* monotonic us */
    int64_t                 deadline;    /* monotonic ms */
    int                     slot, slot2; /* pinned, or -1 */
    fsb_chunk_block_       *block;       /* where the answer goes, from `at` on */
    size_t                  at, room;    /* room: bytes of data that may be answered */
    size_t                  listed;      /* LIST: bytes of data so far */
    size_t                  size;        /* allocated, the frame's copy included; 0: on the stack */
    size_t                  held;        /* counted in conn->held */
    size_t                  folder, folder_size; /* LIST: where in the data the last one stands */
    uint32_t                acks; /* by atomics: what the answer waits for, itself among them */
    struct fsb_chunk_command_ *run; /* EXEC */
    fsb_stat                loser; /* the file whose name this takes, if it has others */
};

/* A command; its words' pointers stand behind this. */
typedef struct fsb_chunk_command_ {
    struct fsb_chunk_command_ *next; /* in server->runs */
    fsb_chunk_request_    *req;
    fsb_exec               exec;
    size_t                 size;      /* allocated */
    int                    counted;   /* in conn->running; guarded by server->lock */
    int                    begun;     /* guarded by server->runs_lock, as the next */
    int                    cancelled;
    int                    error;     /* output was lost */
} fsb_chunk_command_;

/* A range held, or waited for. */
struct fsb_chunk_lock_ {
    fsb_chunk_lock_    *next;
    fsb_chunk_conn_    *conn;
    const void         *share;
    uint64_t            file_id, owner, first, last; /* bytes, both included */
    uint32_t            kind;                        /* FSB_LOCK_SHARED or _EXCLUSIVE, | _FLOCK */
    uint32_t            pid;
    fsb_chunk_request_ *waiter; /* NULL: held */
    fsb_chunk_lock_    *spare;  /* of one that waits: memory for a split when it is granted */
};

/* The last answer of a tag's slot, as it was sent, without the bytes of a file. */
typedef struct fsb_chunk_kept_ {
    uint64_t      tag;
    uint32_t      size; /* 0: none */
    unsigned char bytes[FSB_CHUNK_KEPT_BYTES_];
} fsb_chunk_kept_;

/* An address that wrong codes came from. */
enum { FSB_CHUNK_FAILURES_ = 64 };
typedef struct fsb_chunk_failure_ {
    unsigned char from[16]; /* as IPv6 */
    uint32_t      count;    /* since a right one */
    int64_t       until;    /* the next is looked at then, ms */
} fsb_chunk_failure_;

/* What a join code opens. */
typedef struct fsb_chunk_grant_ {
    fsb_chunk_key_ key;
    uint32_t       rights;
    int64_t        expires_ns; /* 0: never */
    char           name[64], share[256]; /* share "": any */
} fsb_chunk_grant_;

/* An answer that waits until a client has seen an event. */
typedef struct fsb_chunk_ack_ {
    struct fsb_chunk_ack_ *next;
    fsb_chunk_request_    *req;
    uint64_t               number; /* of the event */
    int64_t                deadline;
} fsb_chunk_ack_;

/* The watch that the leases of a share stand on. */
typedef struct fsb_chunk_watch_ {
    fsb_chunk_server *server;
    fsb_backend      *backend;
    fsb_handle        handle; /* 0: not yet watched */
} fsb_chunk_watch_;

/* Who takes turns at the workers: a client, or a tenant with all of its clients. */
typedef struct fsb_chunk_party_ {
    struct fsb_chunk_party_   *next;
    struct fsb_chunk_tenant_  *tenant;            /* NULL: it is one client */
    fsb_chunk_conn_           *line, **line_tail; /* of it, those with requests, in turn */
    int                        lined;             /* 1: it is in the server's line */
} fsb_chunk_party_;

/* A tenant: all clients whose tokens lead to one backend. It stays until the server is closed. */
typedef struct fsb_chunk_tenant_ {
    struct fsb_chunk_tenant_ *next;
    fsb_chunk_share           share; /* its rights: all; those of each client are in its grant */
    fsb_chunk_watch_          watch;
    /* guarded by server->lock */
    fsb_chunk_party_ party;
    uint32_t         running; /* requests of it that workers have */
    int              quick;   /* as pass.quick; by atomics */
    pthread_mutex_t  lock;    /* of what follows; the last one of all */
    uint32_t         turns;   /* of its clients, those that are served right now */
    pthread_cond_t   turn;    /* one of these is done */
    fsb_chunk_limits limits;  /* changed under server->lock too */
    int64_t          requests_at, bytes_at; /* up to when its rates are used up, us */
} fsb_chunk_tenant_;

typedef struct fsb_chunk_listener_ {
    struct fsb_chunk_listener_ *next;
    int                         fd;
    int                         secure; /* 1: TLS */
    char                       *path; /* of a unix socket, removed at the end */
} fsb_chunk_listener_;

struct fsb_chunk_conn_ {
    fsb_chunk_server      *server;
    fsb_chunk_conn_       *prev, *next; /* guarded by server->lock */
    fsb_chunk_stream_      stream;
    int                    owns;   /* 1: closes the descriptors */
    int                    kick;   /* eventfd: look at the queue and the limits again */
    const fsb_chunk_share *share;  /* NULL before hello */
    uint32_t               rights; /* of the share, as far as the code allows; from hello on */
    uint64_t               number; /* for the log */
    int                    secure; /* 1: TLS, and grant says what its code opens */
    int                    revoked; /* 1: it no longer does; by atomics */
    fsb_chunk_grant_       grant;
    fsb_chunk_tenant_     *tenant;  /* NULL: it came without a token; with it, from the key on */
    uint32_t               checked; /* which recheck its token has passed */
    int64_t                turn_at; /* ms: a frame waits until then for its tenant's rates; 0 */
    uint32_t               turn;    /* not 0: counted in tenant->turns; of its thread alone */
    fsb_chunk_party_       own;     /* guarded by server->lock */
    unsigned char          from[16]; /* its address, if secure */
    int                    unproven; /* 1: has not said hello; 2: had to make room before it did;
                                        guarded by server->lock */
    fsb_chunk_conn_       *line_next; /* likewise, these three: its requests for the workers */
    fsb_chunk_request_    *jobs, **jobs_tail;
    uint32_t               running; /* likewise: its EXECs that have a thread */
    unsigned char          id[16];  /* of the client; with the next, from hello on */
    int                    stays;   /* 1: it comes back; what it has is kept for a while */
    int                    resumed; /* 1: it has come back, and has it again */
    int64_t                heard;   /* when bytes came, or were taken that it had no room for, ms */
    int                    asked;   /* not read, it was told that we are here; is that taken? */
    fsb_chunk_conn_       *heir;    /* has come back with this one's id; by atomics */
    int                    leaves;  /* 1: it will not come back; by atomics */
    /* of the connection's thread alone */
    unsigned char    *in;
    size_t            in_size, in_start, in_end;
    size_t            in_waits; /* bytes of the frames from in_start on that were looked through */
    fsb_chunk_pace_   pace;
    int64_t           in_deadline, in_mark; /* of the frame that is incomplete */
    fsb_chunk_block_ *batch;                /* answers not yet queued */
    /* guarded by lock */
    pthread_mutex_t   lock;
    pthread_cond_t    quiet; /* pending became 0; or the queue is shorter; or broken */
    fsb_chunk_block_ *head, *tail;
    size_t            queued; /* weight of blocks */
    int64_t           moved;  /* when bytes of the queue last went out, ms */
    int               sending;
    int               slow;    /* of who sends: BBR is to begin anew with the first large answer */
    int               broken;  /* the error that ends it */
    uint32_t          pending; /* requests under way on other threads */
    uint32_t          parked;  /* of these, LOCKs, bounded by desc.max_locks only, and EXECs */
    uint64_t          held;    /* bytes of these */
    uint32_t          runs;      /* of parked, EXECs */
    uint64_t          runs_held; /* bytes of these, not in held: CANCELs must still be read */
    fsb_chunk_slot_  *slots;
    int               slot_count, slot_free;
    fsb_chunk_kept_  *kept; /* [kept_count] by the slot of the tag */
    uint32_t          kept_count;
    int               slot_gone; /* unpinned, to be closed by the connection's thread */
    uint32_t          locks; /* guarded by server->locks_lock */
    /* a lease: guarded by server->leases_lock */
    unsigned char   *told; /* a bit by the hash of each folder it may know of; NULL: no lease */
    fsb_chunk_conn_ *leased_next;
    uint64_t         events, seen; /* numbers of the last one sent, and seen */
    fsb_chunk_ack_  *acks, **acks_tail;
    int64_t          ack_deadline; /* by atomics: of the first of these, ms; 0: none */
};

enum { FSB_CHUNK_BUCKETS_ = 64 };

struct fsb_chunk_server {
    fsb_chunk_server_desc  desc; /* defaults filled in; read-only after open */
    fsb_chunk_share       *shares;
    uint64_t               boot_id;
    int                    wake;  /* eventfd, readable for good once the server closes */
    fsb_chunk_server_stats stats; /* by atomics */
    /* order: lock before any conn->lock; conn->lock -> nothing; locks_lock -> nothing; runs_lock:
       the backend's cancel() */
    pthread_mutex_t      lock;
    pthread_cond_t       changed; /* a connection, listener or worker ended */
    pthread_cond_t       work;
    fsb_chunk_conn_     *conns;
    fsb_chunk_listener_ *listeners;
    uint32_t             threads, idle, queued, listening, connections;
    uint64_t             numbers;
    int                  closing;
    fsb_chunk_party_    *line, **line_tail; /* those with requests for the workers, in turn */
    fsb_chunk_tenant_   *tenants;           /* guarded by lock; they stay */
    uint32_t             turns;             /* of a tenant at once, when there are others */
    const void          *turn_last;         /* by atomics: the tenant that was last served, ... */
    int64_t              turn_mixed;        /* ... and when it was not the one before, ms */
    uint32_t             rechecks;          /* by atomics */
    uint32_t             unproven;          /* connections that have not shown a code yet */
    uint32_t             leaving;           /* had to make room, and are not gone yet */
    uint32_t             turned_away;       /* since one was told of last, at ... */
    int64_t              told_at;           /* ms */
    fsb_chunk_failure_   failures[FSB_CHUNK_FAILURES_];
    fsb_chunk_grant_    *grants; /* guarded by lock */
    size_t               grant_count;
    fsb_chunk_secure_   *secure; /* set once, before the first listener that needs it */
    fsb_chunk_request_  *exec_line, **exec_tail; /* EXECs that wait for a thread */
    uint32_t             execs;                  /* threads that run them */
    pthread_mutex_t      runs_lock;              /* guards runs; their ops are not done under it */
    fsb_chunk_command_  *runs;
    pthread_mutex_t      locks_lock;
    fsb_chunk_lock_     *held[FSB_CHUNK_BUCKETS_], *waiting[FSB_CHUNK_BUCKETS_];
    pthread_mutex_t      leases_lock; /* before any conn->lock */
    fsb_chunk_conn_     *leased;
    uint32_t             leases;  /* by atomics: their number */
    fsb_chunk_watch_    *watches; /* [share_count] */
};

static void fsb_chunk_count_(uint64_t *counter, uint64_t n)
{
    __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static void fsb_chunk_count_latency_(fsb_chunk_server_stats *stats, int64_t us)
{
    unsigned i = 0;
    while (i < FSB_CHUNK_LATENCIES - 1 && us >> i) ++i;
    fsb_chunk_count_(&stats->latency[i], 1);
    fsb_chunk_count_(&stats->latency_us, (uint64_t)us);
}

static void fsb_chunk_audit_(const fsb_chunk_server *s, const fsb_chunk_conn_ *conn,
                             const char *what, const char *path, const char *path2, int64_t result)
{
    fsb_chunk_audit entry;
    if (!s->desc.audit) return;
    entry.client = conn ? conn->number : 0, entry.code = conn ? conn->grant.name : "";
    entry.share = conn && conn->share ? conn->share->name : "";
    entry.what = what, entry.path = path, entry.path2 = path2, entry.result = result;
    s->desc.audit(s->desc.audit_user, &entry);
}

static void fsb_chunk_kick_(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

/* ---- [ids] ----------------------------------------------------------------------------------- */

static uint32_t fsb_chunk_id_host_(const fsb_chunk_id *pairs, size_t count, uint32_t squash,
                                   uint32_t anon, uint32_t id)
{
    for (size_t i = 0; i < count; ++i)
        if (pairs[i].client == id) return pairs[i].host;
    if (squash == FSB_CHUNK_SQUASH_ALL || (squash && !id)) return anon ? anon : 65534;
    return id;
}

static uint32_t fsb_chunk_id_client_(const fsb_chunk_id *pairs, size_t count, uint32_t id)
{
    for (size_t i = 0; i < count; ++i)
        if (pairs[i].host == id) return pairs[i].client;
    return id;
}

/* A stat as a client is to see it; *room is for one that differs. */
static const fsb_stat *fsb_chunk_shown_(const fsb_chunk_server *s, const fsb_stat *stat,
                                        fsb_stat *room)
{
    const fsb_chunk_ids *ids = s->desc.ids;
    if (!ids) return stat;
    *room = *stat;
    room->uid = fsb_chunk_id_client_(ids->users, ids->user_count, stat->uid);
    room->gid = fsb_chunk_id_client_(ids->groups, ids->group_count, stat->gid);
    return room;
}

/* The owners that a client asks for as the host has them. Who is squashed and asks for none is
   not given the server's own. -EPERM for what only root may do. */
static int fsb_chunk_translate_(const fsb_chunk_ids *ids, fsb_op *op)
{
    fsb_attr      *a = &op->attr;
    const uint32_t code = op->code, type = a->mode & 0170000u;
    const int      makes = code == FSB_OP_MKDIR || code == FSB_OP_SYMLINK || code == FSB_OP_MKNOD ||
        ((code == FSB_OP_OPEN || code == FSB_OP_PUT) && (op->flags & FSB_O_CREATE));
    if (makes && ids->squash) {
        if (!(a->mask & FSB_ATTR_UID)) a->uid = 0;
        if (!(a->mask & FSB_ATTR_GID)) a->gid = 0;
        a->mask |= FSB_ATTR_UID | FSB_ATTR_GID;
    }
    a->uid = fsb_chunk_id_host_(ids->users, ids->user_count, ids->squash, ids->anon_uid, a->uid);
    a->gid = fsb_chunk_id_host_(ids->groups, ids->group_count, ids->squash, ids->anon_gid, a->gid);
    if (!ids->squash) return 0;
    if (code == FSB_OP_MKNOD && (type == 0020000u || type == 0060000u)) return -EPERM;
    const int sets = code == FSB_OP_SETXATTR || code == FSB_OP_REMOVEXATTR;
    if (sets && op->path2 &&
        (!strncmp(op->path2, "security.", 9) || !strncmp(op->path2, "trusted.", 8)))
        return -EPERM;
    return 0;
}

/* ---- [replies] ------------------------------------------------------------------------------- */

static unsigned char *fsb_chunk_block_bytes_(fsb_chunk_block_ *b)
{
    return (unsigned char *)(b + 1);
}

static fsb_chunk_block_ *fsb_chunk_block_new_(const fsb_allocator *a, size_t capacity)
{
    fsb_chunk_block_ *b = (fsb_chunk_block_ *)fsb_chunk_resize_(a, NULL, 0, sizeof *b + capacity);
    if (!b) return NULL;
    memset(b, 0, sizeof *b);
    b->capacity = capacity, b->file = b->slot = -1;
    return b;
}

static void fsb_chunk_unpin_(fsb_chunk_conn_ *conn, int slot);

static void fsb_chunk_block_free_(fsb_chunk_conn_ *conn, fsb_chunk_block_ *b)
{
    if (!b) return;
    fsb_chunk_unpin_(conn, b->slot);
    fsb_chunk_free_(&conn->server->desc.allocator, b, sizeof *b + b->capacity);
}

/* One step of the file behind a block: bytes sent, 0 if the way of sending changed, or an error,
   -EAGAIN among them. What is missing of the length promised is padded, and told in the trailer. */
static int64_t fsb_chunk_block_file_(fsb_chunk_conn_ *conn, fsb_chunk_block_ *b)
{
    static const unsigned char zeros[4096] = {0};
    unsigned char              copy[16 << 10];
    struct iovec               part;
    off_t                      from = (off_t)(b->offset + b->file_good);
    ssize_t                    n;
    const int wrapped = conn->stream.tls || conn->stream.sums;
    if (b->way == FSB_CHUNK_SENDFILE_ && wrapped) b->way = FSB_CHUNK_COPY_;
    if (b->way == FSB_CHUNK_SENDFILE_) {
        n = fsb_chunk_send_quietly_(conn->stream.out, NULL, 0, b->file, &from, b->file_left);
        if (n > 0) b->file_good += (size_t)n;
        if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EPIPE || errno == ECONNRESET)))
            return n > 0 ? n : -errno;
        b->way = n == 0 ? FSB_CHUNK_PAD_ : FSB_CHUNK_COPY_; /* a real error comes again there */
        return 0;
    }
    if (b->way == FSB_CHUNK_COPY_) {
        do n = pread(b->file, copy, b->file_left < sizeof copy ? b->file_left : sizeof copy, from);
        while (n < 0 && errno == EINTR);
        if (n < 0) b->file_error = fsb_chunk_error_to_wire_(errno);
        if (n <= 0) b->way = FSB_CHUNK_PAD_;
        if (n <= 0) return 0;
        part.iov_base = copy, part.iov_len = (size_t)n;
        const int64_t sent = fsb_chunk_send_(&conn->stream, &part, 1, 1);
        if (sent > 0) b->file_good += (size_t)sent;
        return sent;
    }
    part.iov_base = (void *)(uintptr_t)zeros;
    part.iov_len = b->file_left < sizeof zeros ? b->file_left : sizeof zeros;
    return fsb_chunk_send_(&conn->stream, &part, 1, 1);
}

enum { FSB_CHUNK_LARGE_ = 8 << 10 }; /* bytes of an answer that the pace of BBR counts for */

/* Sends what it can of a block. 1: all of it; 0: the client takes no more now; or an error. */
static int fsb_chunk_block_send_(fsb_chunk_conn_ *conn, fsb_chunk_block_ *b)
{
    struct iovec part;
    int64_t      n;
    if (conn->slow && b->size + b->file_left > FSB_CHUNK_LARGE_) {
        conn->slow = 0;
        fsb_chunk_congestion_anew_(conn->stream.out);
    }
    while (b->sent < b->size) {
        part.iov_base = fsb_chunk_block_bytes_(b) + b->sent, part.iov_len = b->size - b->sent;
        n = fsb_chunk_send_(&conn->stream, &part, 1, b->file >= 0);
        if (n < 0) return n == -EAGAIN ? 0 : (int)n;
        b->sent += (size_t)n;
    }
    if (b->file < 0) return 1;
    while (b->file_left) {
        n = fsb_chunk_block_file_(conn, b);
        if (n < 0) return n == -EAGAIN ? 0 : (int)n;
        b->file_left -= (size_t)n;
    }
    if (!b->trailer_sent) {
        fsb_chunk_cursor_ c = {b->trailer, b->trailer + sizeof b->trailer, 0};
        fsb_chunk_put64_(&c, b->file_error ? (uint64_t) - (int64_t)b->file_error : b->file_good);
    }
    while (b->trailer_sent < sizeof b->trailer) {
        part.iov_base = b->trailer + b->trailer_sent;
        part.iov_len = sizeof b->trailer - b->trailer_sent;
        n = fsb_chunk_send_(&conn->stream, &part, 1, 0);
        if (n < 0) return n == -EAGAIN ? 0 : (int)n;
        b->trailer_sent += (size_t)n;
    }
    return 1;
}

/* Sends the queue as far as the client takes it; one thread at a time, the others leave it to that
   one. What is left then is for the connection's thread, which waits until the client takes more.
   Another thread stops behind `last`, its own answer: else a client who asks and takes without a
   pause would keep it for ever; and it wakes that one, which may sleep in the belief that nothing
   is left for it. */
static void fsb_chunk_flush_(fsb_chunk_conn_ *conn, const fsb_chunk_block_ *last)
{
    int enough = 0;
    pthread_mutex_lock(&conn->lock);
    if (conn->sending) {
        pthread_mutex_unlock(&conn->lock);
        return;
    }
    conn->sending = 1;
    if (fsb_chunk_unsent_(&conn->stream)) {
        const int64_t n = fsb_chunk_send_(&conn->stream, NULL, 0, 0);
        if (!n) conn->moved = fsb_chunk_now_ms_();
        else if (n != -EAGAIN) conn->broken = (int)n;
    }
    while (conn->head && !conn->broken && !enough) {
        fsb_chunk_block_ *b = conn->head;
        const size_t      before = b->sent + b->trailer_sent - b->file_left;
        pthread_mutex_unlock(&conn->lock);
        const int    done = fsb_chunk_block_send_(conn, b);
        const size_t sent = b->sent + b->trailer_sent - b->file_left - before;
        fsb_chunk_count_(&conn->server->stats.bytes_out, sent);
        pthread_mutex_lock(&conn->lock);
        if (sent) conn->moved = fsb_chunk_now_ms_();
        if (done < 0) conn->broken = done;
        if (done != 1) break;
        conn->head = b->next;
        if (!conn->head) conn->tail = NULL;
        conn->queued -= b->weight;
        if (conn->runs) pthread_cond_broadcast(&conn->quiet);
        enough = b == last;
        pthread_mutex_unlock(&conn->lock);
        fsb_chunk_block_free_(conn, b);
        pthread_mutex_lock(&conn->lock);
    }
    conn->sending = 0;
    const int left = conn->head || conn->broken || fsb_chunk_unsent_(&conn->stream);
    pthread_mutex_unlock(&conn->lock);
    if (left && last) fsb_chunk_kick_(conn->kick);
}

/* Queues a block, which is the queue's from here on, and sends: all of the queue if this is the
   connection's thread. */
static void fsb_chunk_push_(fsb_chunk_conn_ *conn, fsb_chunk_block_ *b, int own)
{
    b->weight = sizeof *b + b->capacity + b->file_left; /* small answers may have large room */
    pthread_mutex_lock(&conn->lock);
    if (conn->tail) conn->tail->next = b;
    else conn->head = b, conn->moved = fsb_chunk_now_ms_();
    conn->tail = b;
    conn->queued += b->weight;
    pthread_mutex_unlock(&conn->lock);
    fsb_chunk_flush_(conn, own ? NULL : b);
}

static void fsb_chunk_push_batch_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_block_ *b = conn->batch;
    if (!b || (!b->size && b->file < 0)) return;
    conn->batch = NULL;
    fsb_chunk_push_(conn, b, 1);
}

/* A place for an answer with up to room bytes of data: in the batch if inlined, else on its own. */
static int fsb_chunk_reserve_(fsb_chunk_request_ *req, int inlined)
{
    enum { BATCH = 16 << 10 };
    fsb_chunk_conn_     *conn = req->conn;
    const fsb_allocator *a = &conn->server->desc.allocator;
    const size_t need = FSB_CHUNK_HEADER_ + fsb_chunk_fixed_size_(req->shape->answer) + req->room;
    if (!inlined) {
        req->block = fsb_chunk_block_new_(a, need);
        req->at = 0;
        return req->block ? 0 : -ENOMEM;
    }
    if (conn->batch && conn->batch->capacity - conn->batch->size < need)
        fsb_chunk_push_batch_(conn);
    if (conn->batch && conn->batch->capacity < need) { /* it was empty, and is too small */
        fsb_chunk_block_free_(conn, conn->batch);
        conn->batch = NULL;
    }
    if (!conn->batch) conn->batch = fsb_chunk_block_new_(a, need < BATCH ? (size_t)BATCH : need);
    req->block = conn->batch;
    req->at = conn->batch ? conn->batch->size : 0;
    return conn->batch ? 0 : -ENOMEM;
}

static unsigned char *fsb_chunk_answer_data_(fsb_chunk_request_ *req)
{
    return fsb_chunk_block_bytes_(req->block) + req->at + FSB_CHUNK_HEADER_ +
        fsb_chunk_fixed_size_(req->shape->answer);
}

/* Is its answer kept, as it must not be done twice? */
static int fsb_chunk_keeps_(const fsb_chunk_request_ *req)
{
    const uint32_t code = req->op.code;
    return req->conn->stays && (uint32_t)req->tag < FSB_CHUNK_KEPT_SLOTS_ &&
        (code == FSB_OP_OPEN || code == FSB_OP_CLOSE || req->shape->traits & FSB_CHUNK_CHANGES_);
}

/* Makes the place for such an answer before anything is done, so that nothing can fail afterwards:
   0 or -ENOMEM. */
static int fsb_chunk_keep_room_(fsb_chunk_request_ *req)
{
    fsb_chunk_conn_ *conn = req->conn;
    const uint32_t   slot = (uint32_t)req->tag, code = req->op.code;
    int              err = 0;
    if (!fsb_chunk_keeps_(req)) return 0;
    pthread_mutex_lock(&conn->lock);
    if (slot >= conn->kept_count) {
        uint32_t count = conn->kept_count ? conn->kept_count : 8;
        while (count <= slot) count *= 2;
        fsb_chunk_kept_ *kept = (fsb_chunk_kept_ *)fsb_chunk_resize_(
            &conn->server->desc.allocator, conn->kept, conn->kept_count * sizeof *kept,
            count * sizeof *kept);
        if (kept) {
            memset(kept + conn->kept_count, 0, (count - conn->kept_count) * sizeof *kept);
            conn->kept = kept, conn->kept_count = count;
        } else err = -ENOMEM;
    }
    pthread_mutex_unlock(&conn->lock);
    return code == FSB_OP_CLOSE ? 0 : err; /* done twice it says -EBADF, which nobody waits for */
}

/* Keeps the answer in place of the one before of that slot. Where there was no memory for the place
   it is the answer that says so, which can be said again. */
static void fsb_chunk_keep_answer_(fsb_chunk_request_ *req, const unsigned char *bytes, size_t size)
{
    fsb_chunk_conn_ *conn = req->conn;
    const uint32_t   slot = (uint32_t)req->tag;
    if (!fsb_chunk_keeps_(req) || size > FSB_CHUNK_KEPT_BYTES_) return;
    pthread_mutex_lock(&conn->lock);
    if (slot < conn->kept_count) {
        conn->kept[slot].tag = req->tag, conn->kept[slot].size = (uint32_t)size;
        memcpy(conn->kept[slot].bytes, bytes, size);
    }
    pthread_mutex_unlock(&conn->lock);
}

/* When a rate that is used up to *at lets n more pass; it is used up further then. A rate that was
   not used for its burst's time is whole again. us. */
static int64_t fsb_chunk_rate_take_(int64_t *at, uint64_t n, uint64_t per_s, uint64_t burst,
                                    int64_t now)
{
    if (!per_s) return now;
    const double  us = (double)(burst ? burst : per_s) * 1e6 / (double)per_s;
    const int64_t whole = us < 9e15 ? (int64_t)us : (int64_t)9e15; /* FSB_UNLIMITED, for instance */
    if (*at < now) *at = now;
    *at += (int64_t)((double)n * 1e6 / (double)per_s);
    return *at - whole;
}

/* Takes requests and bytes from a tenant's rates; returns the ms when they may pass. */
static int64_t fsb_chunk_rate_(fsb_chunk_tenant_ *t, uint64_t requests, uint64_t bytes)
{
    const int64_t now = fsb_chunk_now_us_();
    pthread_mutex_lock(&t->lock);
    const fsb_chunk_limits *l = &t->limits;
    const int64_t           a = fsb_chunk_rate_take_(&t->requests_at, requests, l->requests_per_s,
                                                     l->request_burst, now);
    const int64_t b = fsb_chunk_rate_take_(&t->bytes_at, bytes, l->bytes_per_s, l->byte_burst, now);
    pthread_mutex_unlock(&t->lock);
    const int64_t at = a > b ? a : b;
    if (at <= now) return now / 1000;
    return ((at > now + 5000000 ? now + 5000000 : at) + 999) / 1000; /* PINGs wait meanwhile too */
}

/* Writes header and meta of the answer; data_size bytes of data stand behind them or will follow.
   */
static void fsb_chunk_answer_(fsb_chunk_request_ *req, int64_t result, size_t data_size,
                              uint32_t flags)
{
    unsigned char   *header = fsb_chunk_block_bytes_(req->block) + req->at;
    fsb_chunk_frame_ f;
    fsb_stat         stat;
    memset(&f, 0, sizeof f);
    f.op = req->op.code, f.flags = FSB_CHUNK_ANSWER_ | flags, f.tag = req->tag;
    if (result >= 0) {
        f.meta_size = (uint32_t)fsb_chunk_fixed_size_(req->shape->answer);
        fsb_chunk_cursor_ c = {header + FSB_CHUNK_HEADER_, header + FSB_CHUNK_HEADER_ + f.meta_size,
                               0};
        if (req->conn->server->desc.ids)
            (void)fsb_chunk_shown_(req->conn->server, &req->op.stat, &stat), req->op.stat = stat;
        fsb_chunk_encode_(&c, req->shape->answer, &req->op);
        f.data_size = (uint32_t)data_size, f.status = (int32_t)result;
    } else f.status = -fsb_chunk_error_to_wire_((int)-result);
    fsb_chunk_seal_(header, &f);
    req->block->size = req->at + FSB_CHUNK_HEADER_ + f.meta_size;
    if (!flags) req->block->size += f.data_size;
    fsb_chunk_count_(&req->conn->server->stats.requests, 1);
    if (result < 0) fsb_chunk_count_(&req->conn->server->stats.errors, 1);
    if (req->op.code != FSB_OP_LOCK)
        fsb_chunk_count_latency_(&req->conn->server->stats, fsb_chunk_now_us_() - req->begun);
    if (req->conn->tenant && data_size) (void)fsb_chunk_rate_(req->conn->tenant, 0, data_size);
    fsb_chunk_keep_answer_(req, header, FSB_CHUNK_HEADER_ + f.meta_size);
}

/* ---- [handles] ------------------------------------------------------------------------------- */

static int fsb_chunk_slots_grow_(fsb_chunk_conn_ *conn) /* lock held */
{
    const int limit = (int)conn->server->desc.max_handles;
    int       count = conn->slot_count ? conn->slot_count * 2 : 8;
    if (conn->slot_count >= limit) return -EMFILE;
    if (count > limit) count = limit;
    fsb_chunk_slot_ *slots = (fsb_chunk_slot_ *)fsb_chunk_resize_(
        &conn->server->desc.allocator, conn->slots, (size_t)conn->slot_count * sizeof *slots,
        (size_t)count * sizeof *slots);
    if (!slots) return -ENOMEM;
    for (int i = conn->slot_count; i < count; ++i) {
        memset(&slots[i], 0, sizeof slots[i]);
        slots[i].next = i + 1 < count ? i + 1 : -1;
    }
    conn->slot_free = conn->slot_count;
    conn->slots = slots, conn->slot_count = count;
    return 0;
}

/* Takes a place for a file before it is opened, pinned, so that nothing can fail afterwards; it is
   free again with that pin unless it was filled. Returns its index or an error. */
static int fsb_chunk_slot_new_(fsb_chunk_conn_ *conn)
{
    pthread_mutex_lock(&conn->lock);
    const int err = conn->slot_free < 0 ? fsb_chunk_slots_grow_(conn) : 0;
    const int i = conn->slot_free;
    if (!err) {
        fsb_chunk_slot_ *s = &conn->slots[i];
        conn->slot_free = s->next;
        s->closing = 1, s->pins = 1;
    }
    pthread_mutex_unlock(&conn->lock);
    return err ? err : i;
}

/* The backend's handle gets that place; returns its id for the client. */
static uint64_t fsb_chunk_slot_fill_(fsb_chunk_conn_ *conn, int i, const fsb_op *op, int fd,
                                     uint64_t tag)
{
    char *path = fsb_chunk_strdup_(&conn->server->desc.allocator, op->path);
    pthread_mutex_lock(&conn->lock);
    fsb_chunk_slot_ *s = &conn->slots[i];
    s->path = path, s->mover = 0, s->mover_size = 0, s->tag = tag;
    s->handle = op->handle, s->file_id = op->stat.file_id, s->descriptor = fd, s->closing = 0;
    const uint64_t id = ((uint64_t)s->generation << 32) | ((uint32_t)i + 1);
    pthread_mutex_unlock(&conn->lock);
    return id;
}

/* Finds the client's handle and keeps it open until unpinned; -EBADF. With closing it is gone for
   the client from here on. */
static int fsb_chunk_pin_(fsb_chunk_conn_ *conn, uint64_t id, int closing, fsb_chunk_slot_ *copy)
{
    const uint64_t i = (id & 0xffffffffu) - 1;
    int            found = -EBADF;
    pthread_mutex_lock(&conn->lock);
    if (i < (uint64_t)conn->slot_count) {
        fsb_chunk_slot_ *s = &conn->slots[i];
        if (s->handle && !s->closing && s->generation == id >> 32) {
            ++s->pins, s->closing = closing, *copy = *s;
            found = (int)i;
        }
    }
    pthread_mutex_unlock(&conn->lock);
    return found;
}

static int64_t fsb_chunk_close_handle_(fsb_chunk_conn_ *conn, fsb_handle handle)
{
    fsb_backend *b = conn->share->backend;
    fsb_op       op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_CLOSE, op.handle = handle;
    return b->call[FSB_OP_CLOSE] ? b->call[FSB_OP_CLOSE](b, &op) : 0;
}

static fsb_handle fsb_chunk_slot_clear_(fsb_chunk_conn_ *conn, int slot) /* lock held */
{
    fsb_chunk_slot_ *s = &conn->slots[slot];
    const fsb_handle handle = s->handle;
    fsb_chunk_strfree_(&conn->server->desc.allocator, s->path);
    s->handle = 0, s->path = NULL, s->descriptor = -1, ++s->generation;
    s->next = conn->slot_free, conn->slot_free = slot;
    return handle;
}

/* Gives a pin back. The last one of a handle that is closing leaves it to the connection's thread:
   this one may be a backend's that runs done(), where CLOSE could wait for itself. */
static void fsb_chunk_unpin_(fsb_chunk_conn_ *conn, int slot)
{
    if (slot < 0) return;
    pthread_mutex_lock(&conn->lock);
    fsb_chunk_slot_ *s = &conn->slots[slot];
    if (--s->pins == 0 && s->closing) {
        if (!s->handle) (void)fsb_chunk_slot_clear_(conn, slot);
        else s->next = conn->slot_gone, conn->slot_gone = slot;
    }
    pthread_mutex_unlock(&conn->lock);
}

/* CLOSE itself: closes the file and returns what that said, unless other requests still use it. */
static int64_t fsb_chunk_unpin_close_(fsb_chunk_conn_ *conn, int slot)
{
    fsb_handle handle = 0;
    pthread_mutex_lock(&conn->lock);
    if (--conn->slots[slot].pins == 0) handle = fsb_chunk_slot_clear_(conn, slot);
    pthread_mutex_unlock(&conn->lock);
    return handle ? fsb_chunk_close_handle_(conn, handle) : 0;
}

/* Closes what others left to this thread, the connection's. */
static void fsb_chunk_close_gone_(fsb_chunk_conn_ *conn)
{
    pthread_mutex_lock(&conn->lock);
    while (conn->slot_gone >= 0) {
        const int slot = conn->slot_gone;
        conn->slot_gone = conn->slots[slot].next;
        const fsb_handle handle = fsb_chunk_slot_clear_(conn, slot);
        pthread_mutex_unlock(&conn->lock);
        (void)fsb_chunk_close_handle_(conn, handle);
        pthread_mutex_lock(&conn->lock);
    }
    pthread_mutex_unlock(&conn->lock);
}

/* An OPEN whose answer was not kept is repeated: what it opened before has no other end. */
static void fsb_chunk_close_repeated_(fsb_chunk_conn_ *conn, uint64_t tag)
{
    pthread_mutex_lock(&conn->lock);
    for (int i = 0; i < conn->slot_count; ++i) {
        fsb_chunk_slot_ *s = &conn->slots[i];
        if (!s->handle || s->closing || s->tag != tag) continue;
        s->closing = 1;
        if (!s->pins) s->next = conn->slot_gone, conn->slot_gone = i;
    }
    pthread_mutex_unlock(&conn->lock);
    fsb_chunk_close_gone_(conn);
}

/* ---- [locks] --------------------------------------------------------------------------------- */

/* Locks of all clients, by the file's id: ranges as fcntl(2) knows them and whole files as
   flock(2), each kind blind to the other. Requests that wait stand in a queue a bucket, oldest
   first. */

static int fsb_chunk_lock_same_file_(const fsb_chunk_lock_ *a, const fsb_chunk_lock_ *b)
{
    return a->file_id == b->file_id && a->share == b->share &&
        !((a->kind ^ b->kind) & FSB_LOCK_FLOCK);
}

static int fsb_chunk_lock_same_owner_(const fsb_chunk_lock_ *a, const fsb_chunk_lock_ *b)
{
    return a->conn == b->conn && a->owner == b->owner;
}

static unsigned fsb_chunk_lock_bucket_(const fsb_chunk_lock_ *l)
{
    return (unsigned)((l->file_id * UINT64_C(0x9e3779b97f4a7c15)) >> 58); /* 64 buckets */
}

/* What keeps `l` from being held, or NULL. */
static fsb_chunk_lock_ *fsb_chunk_lock_conflict_(fsb_chunk_server *s, const fsb_chunk_lock_ *l)
{
    fsb_chunk_lock_ *h = s->held[fsb_chunk_lock_bucket_(l)];
    for (; h; h = h->next)
        if (fsb_chunk_lock_same_file_(h, l) && !fsb_chunk_lock_same_owner_(h, l) &&
            h->first <= l->last && l->first <= h->last &&
            ((h->kind | l->kind) & FSB_LOCK_EXCLUSIVE))
            return h;
    return NULL;
}

static void fsb_chunk_lock_drop_(const fsb_allocator *a, fsb_chunk_lock_ *l)
{
    if (l->conn) --l->conn->locks; /* a client's own list has no connections */
    fsb_chunk_free_(a, l->spare, sizeof *l->spare);
    fsb_chunk_free_(a, l, sizeof *l);
}

/* Do they meet? */
static int fsb_chunk_lock_own_(const fsb_chunk_lock_ *h, const fsb_chunk_lock_ *l)
{
    return fsb_chunk_lock_same_file_(h, l) && fsb_chunk_lock_same_owner_(h, l) &&
        h->first <= l->last && l->first <= h->last;
}

/* Would l split a lock of its owner in two? */
static int fsb_chunk_lock_splits_(const fsb_chunk_server *s, const fsb_chunk_lock_ *l)
{
    const fsb_chunk_lock_ *h = s->held[fsb_chunk_lock_bucket_(l)];
    for (; h; h = h->next)
        if (fsb_chunk_lock_own_(h, l) && h->first < l->first && h->last > l->last) return 1;
    return 0;
}

/* Takes the range first..last of l's owner out of what that one holds in the list; `spare` is used
   up when a lock is split in two. Returns 1 if some of it was exclusive. */
static int fsb_chunk_lock_carve_(const fsb_allocator *a, fsb_chunk_lock_ **p,
                                 const fsb_chunk_lock_ *l, fsb_chunk_lock_ **spare)
{
    fsb_chunk_lock_ *h;
    int              weakened = 0;
    while ((h = *p) != NULL) {
        if (!fsb_chunk_lock_own_(h, l)) {
            p = &h->next;
            continue;
        }
        weakened |= (h->kind & FSB_LOCK_EXCLUSIVE) != 0;
        if (h->first < l->first && h->last > l->last) {
            fsb_chunk_lock_ *right = *spare;
            *spare = NULL;
            *right = *h;
            if (right->conn) ++right->conn->locks;
            right->first = l->last + 1, h->last = l->first - 1;
            h->next = right;
            return weakened;
        } else if (h->first < l->first) {
            h->last = l->first - 1;
            p = &h->next;
        } else if (h->last > l->last) {
            h->first = l->last + 1;
            p = &h->next;
        } else {
            *p = h->next;
            fsb_chunk_lock_drop_(a, h);
        }
    }
    return weakened;
}

/* Holds l, which becomes the list's; neighbours of the same owner and kind melt into it. */
static void fsb_chunk_lock_hold_(const fsb_allocator *a, fsb_chunk_lock_ **list, fsb_chunk_lock_ *l)
{
    fsb_chunk_lock_ **p = list, *h;
    while ((h = *p) != NULL) {
        const int beside = (h->last != UINT64_MAX && h->last + 1 == l->first) ||
            (l->last != UINT64_MAX && l->last + 1 == h->first);
        if (beside && h->kind == l->kind && fsb_chunk_lock_same_file_(h, l) &&
            fsb_chunk_lock_same_owner_(h, l)) {
            if (h->first < l->first) l->first = h->first;
            if (h->last > l->last) l->last = h->last;
            *p = h->next;
            fsb_chunk_lock_drop_(a, h);
        } else p = &h->next;
    }
    l->waiter = NULL;
    l->next = *list, *list = l;
}

/* Grants what can be held now, oldest first; returns their requests, to be answered without the
   lock. A grant cannot fail: what waits has the memory that it needs. */
static fsb_chunk_request_ *fsb_chunk_lock_grant_(fsb_chunk_server *s, unsigned bucket)
{
    fsb_chunk_request_ *granted = NULL, **tail = &granted;
    fsb_chunk_lock_   **p = &s->waiting[bucket], *w;
    while ((w = *p) != NULL) {
        if (fsb_chunk_lock_conflict_(s, w)) {
            p = &w->next;
            continue;
        }
        fsb_chunk_lock_ *spare = w->spare;
        *p = w->next, w->spare = NULL;
        w->waiter->op.result = 0;
        *tail = w->waiter, tail = &w->waiter->next;
        const int weakened = fsb_chunk_lock_carve_(&s->desc.allocator, &s->held[bucket], w, &spare);
        fsb_chunk_lock_hold_(&s->desc.allocator, &s->held[bucket], w);
        fsb_chunk_free_(&s->desc.allocator, spare, sizeof *spare);
        if (weakened) p = &s->waiting[bucket]; /* a downgrade: perhaps some that were passed over */
    }
    *tail = NULL;
    return granted;
}

static void fsb_chunk_finish_(fsb_chunk_request_ *req);

static void fsb_chunk_finish_list_(fsb_chunk_request_ *list)
{
    while (list) {
        fsb_chunk_request_ *next = list->next;
        fsb_chunk_finish_(list);
        list = next;
    }
}

/* Takes the waiter of that tag (or every one, tag NULL) of conn out of the queues; they end with
   -EINTR. With held, what conn holds goes too, and others get it. */
static void fsb_chunk_lock_leave_(fsb_chunk_conn_ *conn, const uint64_t *tag, int held)
{
    fsb_chunk_server *s = conn->server;
    for (unsigned i = 0; i < FSB_CHUNK_BUCKETS_; ++i) {
        fsb_chunk_request_ *gone = NULL, *granted;
        fsb_chunk_lock_   **p, *l;
        pthread_mutex_lock(&s->locks_lock);
        for (p = &s->waiting[i]; (l = *p) != NULL;) {
            if (l->conn != conn || (tag && l->waiter->tag != *tag)) {
                p = &l->next;
                continue;
            }
            *p = l->next;
            l->waiter->op.result = -EINTR;
            l->waiter->next = gone, gone = l->waiter;
            fsb_chunk_lock_drop_(&s->desc.allocator, l);
        }
        for (p = &s->held[i]; held && (l = *p) != NULL;) {
            if (l->conn == conn) *p = l->next, fsb_chunk_lock_drop_(&s->desc.allocator, l);
            else p = &l->next;
        }
        granted = held ? fsb_chunk_lock_grant_(s, i) : NULL;
        pthread_mutex_unlock(&s->locks_lock);
        fsb_chunk_finish_list_(gone);
        fsb_chunk_finish_list_(granted);
    }
}

/* Answers FSB_LOCK_TEST: the lock in the way of l, or none. */
static void fsb_chunk_lock_test_(fsb_chunk_server *s, const fsb_chunk_lock_ *l, fsb_op *op)
{
    const fsb_chunk_lock_ *in_way = fsb_chunk_lock_conflict_(s, l);
    op->flags = FSB_LOCK_UNLOCK, op->result = 0;
    if (!in_way) return;
    op->flags = in_way->kind & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE);
    op->offset = in_way->first, op->pid = in_way->pid;
    op->size64 = in_way->last == UINT64_MAX ? 0 : in_way->last - in_way->first + 1;
}

/* Runs a LOCK of `wanted`, which is the table's or freed from here on; so is spare. Returns 1 if
   the request waits, else 0, its result set. *granted: others to be answered. locks_lock is held.
   */
static int fsb_chunk_lock_set_(fsb_chunk_request_ *req, fsb_chunk_lock_ *wanted,
                               fsb_chunk_lock_ *spare, fsb_chunk_request_ **granted)
{
    fsb_chunk_server    *s = req->conn->server;
    const fsb_allocator *a = &s->desc.allocator;
    const unsigned       bucket = fsb_chunk_lock_bucket_(wanted);
    const uint32_t       flags = req->op.flags;
    const int            unlocks = !(wanted->kind & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE));
    int                  waits = 0;
    req->op.result = 0;
    if (flags & FSB_LOCK_TEST) fsb_chunk_lock_test_(s, wanted, &req->op);
    else if (req->conn->locks >= s->desc.max_locks &&
             (!unlocks || fsb_chunk_lock_splits_(s, wanted)))
        req->op.result = -ENOLCK;
    else if (unlocks) {
        (void)fsb_chunk_lock_carve_(a, &s->held[bucket], wanted, &spare);
        *granted = fsb_chunk_lock_grant_(s, bucket);
    } else if (!fsb_chunk_lock_conflict_(s, wanted)) {
        ++req->conn->locks;
        (void)fsb_chunk_lock_carve_(a, &s->held[bucket], wanted, &spare);
        fsb_chunk_lock_hold_(a, &s->held[bucket], wanted);
        *granted = fsb_chunk_lock_grant_(s, bucket); /* it may have been a downgrade */
        wanted = NULL;
    } else if (flags & FSB_LOCK_WAIT) {
        fsb_chunk_lock_ **p = &s->waiting[bucket];
        ++req->conn->locks;
        wanted->waiter = req, wanted->spare = spare;
        while (*p) p = &(*p)->next;
        *p = wanted, waits = 1;
        wanted = spare = NULL;
    } else req->op.result = -EAGAIN;
    fsb_chunk_free_(a, wanted, sizeof *wanted);
    fsb_chunk_free_(a, spare, sizeof *spare);
    return waits;
}

/* What a LOCK asks for as a range; the rest of *l is zero. */
static void fsb_chunk_lock_of_(fsb_chunk_lock_ *l, const fsb_op *op, uint64_t file_id)
{
    const int whole = (op->flags & FSB_LOCK_FLOCK) != 0;
    l->file_id = file_id, l->owner = op->owner, l->pid = op->pid;
    l->kind = op->flags & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE | FSB_LOCK_FLOCK);
    l->first = whole ? 0 : op->offset;
    l->last = whole || !op->size64 ? UINT64_MAX : op->offset + op->size64 - 1;
}

/* Runs a LOCK request; it is finished here, or when what it waits for is free. */
static void fsb_chunk_lock_run_(fsb_chunk_request_ *req, uint64_t file_id)
{
    const fsb_op        *op = &req->op;
    const fsb_allocator *a = &req->conn->server->desc.allocator;
    const uint32_t       known =
        FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE | FSB_LOCK_TEST | FSB_LOCK_WAIT | FSB_LOCK_FLOCK;
    const uint32_t      type = op->flags & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE);
    fsb_chunk_request_ *granted = NULL;
    fsb_chunk_lock_    *l = (fsb_chunk_lock_ *)fsb_chunk_alloc_(a, sizeof *l);
    fsb_chunk_lock_    *spare = (fsb_chunk_lock_ *)fsb_chunk_alloc_(a, sizeof *spare);
    int                 waits = 0;
    req->op.result = -EINVAL;
    if (!l || !spare) req->op.result = -ENOMEM;
    else if (!(op->flags & ~known) && type != 3 && op->offset <= INT64_MAX &&
             op->size64 <= INT64_MAX - op->offset) {
        l->conn = req->conn, l->share = req->conn->share;
        fsb_chunk_lock_of_(l, op, file_id);
        pthread_mutex_lock(&req->conn->server->locks_lock);
        waits = fsb_chunk_lock_set_(req, l, spare, &granted);
        pthread_mutex_unlock(&req->conn->server->locks_lock);
        l = spare = NULL;
    }
    fsb_chunk_free_(a, l, sizeof *l);
    fsb_chunk_free_(a, spare, sizeof *spare);
    if (!waits) fsb_chunk_finish_(req);
    fsb_chunk_finish_list_(granted);
}

/* ---- [leases] -------------------------------------------------------------------------------- */

/* A client that holds a lease may keep what it was answered: it is told of every change, and what
   changes through this server is acknowledged only when the others have seen the event. Who is told
   is decided by a table of bits for each client, one by the hash of each folder that its requests
   led through: set before the backend is asked, looked at after a change. Bits are never cleared,
   so a client may be told of more than it knows. */
enum {
    FSB_CHUNK_TOLD_ = 1 << 16,   /* bits */
    FSB_CHUNK_LEASE_MS_ = 2000   /* to see an event within; then the client is dropped */
};
#define FSB_CHUNK_HASH_SEED_ 2166136261u /* of FNV-1a, 32 bits */

static uint32_t fsb_chunk_hash_(uint32_t h, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; ++i) h = (h ^ (unsigned char)bytes[i]) * 16777619u;
    return h;
}

static void fsb_chunk_told_set_(unsigned char *told, uint32_t h)
{
    h = (h ^ h >> 16) % FSB_CHUNK_TOLD_;
    const unsigned char bit = (unsigned char)(1u << h % 8);
    if (!(__atomic_load_n(&told[h / 8], __ATOMIC_SEQ_CST) & bit))
        (void)__atomic_fetch_or(&told[h / 8], bit, __ATOMIC_SEQ_CST);
}

/* Before the backend is asked about path: the client may know each folder on the way, and itself.
   What lies below, if it lists that too, can be anything. */
static void fsb_chunk_told_(fsb_chunk_conn_ *conn, const char *path, int below)
{
    unsigned char *told = __atomic_load_n(&conn->told, __ATOMIC_ACQUIRE);
    uint32_t       h = FSB_CHUNK_HASH_SEED_;
    if (!told || !path) return;
    if (below)
        for (size_t i = 0; i < FSB_CHUNK_TOLD_ / 8; ++i)
            __atomic_store_n(&told[i], (unsigned char)0xff, __ATOMIC_SEQ_CST);
    fsb_chunk_told_set_(told, h); /* the root */
    while (path[0] && path[1]) {
        const size_t n = 1 + strcspn(path + 1, "/");
        h = fsb_chunk_hash_(h, path, n);
        fsb_chunk_told_set_(told, h);
        path += n;
    }
}

/* May the client know something of that folder, whose path has `size` bytes? */
static int fsb_chunk_knows_(const fsb_chunk_conn_ *conn, const char *path, size_t size)
{
    uint32_t h = fsb_chunk_hash_(FSB_CHUNK_HASH_SEED_, path, size);
    h = (h ^ h >> 16) % FSB_CHUNK_TOLD_;
    return __atomic_load_n(&conn->told[h / 8], __ATOMIC_SEQ_CST) >> h % 8 & 1;
}

static int fsb_chunk_knows_folder_of_(const fsb_chunk_conn_ *conn, const char *path)
{
    const char *name = path ? strrchr(path, '/') : NULL;
    return name && fsb_chunk_knows_(conn, path, (size_t)(name - path));
}

/* A file of several names may be known by another than the one that it was changed by. */
static int fsb_chunk_concerns_(const fsb_chunk_conn_ *conn, const fsb_event *event)
{
    const fsb_stat *s = event->stat;
    return event->kind == FSB_EVENT_LOST || (s && s->nlink > 1 && !S_ISDIR(s->mode)) ||
        fsb_chunk_knows_folder_of_(conn, event->path) ||
        fsb_chunk_knows_folder_of_(conn, event->path2);
}

/* Is a folder at the path, or may one be? A slow backend is not asked: others would wait. */
static int fsb_chunk_may_be_folder_(fsb_backend *b, const char *path)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STAT, op.path = path;
    if (!(b->flags & FSB_BACKEND_QUICK) || b->call[FSB_OP_STAT](b, &op) < 0) return 1;
    return S_ISDIR(op.stat.mode);
}

/* The event as a frame to be sent. */
static fsb_chunk_block_ *fsb_chunk_event_block_(const fsb_chunk_server *s, const fsb_event *event,
                                                uint64_t number)
{
    const fsb_allocator  *a = &s->desc.allocator;
    static const fsb_stat unknown = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const size_t          room = FSB_CHUNK_HEADER_ + 128 + strlen(event->path) +
        (event->path2 ? strlen(event->path2) : 0);
    fsb_chunk_block_ *b = fsb_chunk_block_new_(a, room);
    fsb_chunk_frame_  f;
    fsb_stat          room_stat;
    if (!b) return NULL;
    unsigned char    *header = fsb_chunk_block_bytes_(b), *meta = header + FSB_CHUNK_HEADER_;
    fsb_chunk_cursor_ c = {meta, header + room, 0};
    fsb_chunk_put32_(&c, event->kind);
    fsb_chunk_put_stat_(&c, fsb_chunk_shown_(s, event->stat ? event->stat : &unknown, &room_stat));
    fsb_chunk_put_string_(&c, event->path);
    fsb_chunk_put_string_(&c, event->path2);
    while ((c.at - meta) % 8) fsb_chunk_put_(&c, 0, 1);
    memset(&f, 0, sizeof f);
    f.op = FSB_CHUNK_EVENT_, f.tag = number, f.meta_size = (uint32_t)(c.at - meta);
    fsb_chunk_seal_(header, &f);
    b->size = FSB_CHUNK_HEADER_ + f.meta_size;
    return b;
}

/* That client can be told no more: it loses the connection, and with it the lease. Lock held. */
static void fsb_chunk_lease_break_(fsb_chunk_conn_ *conn, int err)
{
    pthread_mutex_lock(&conn->lock);
    if (!conn->broken) conn->broken = err;
    pthread_mutex_unlock(&conn->lock);
    fsb_chunk_kick_(conn->kick);
}

/* Sends the event to one client; if it is a request's, its answer waits for that. Lock held. */
static void fsb_chunk_tell_one_(fsb_chunk_conn_ *conn, const fsb_event *event,
                                fsb_chunk_request_ *req)
{
    const fsb_chunk_server_desc *d = &conn->server->desc;
    const fsb_allocator         *a = &d->allocator;
    pthread_mutex_lock(&conn->lock);
    const int full = conn->events - conn->seen >= d->max_events || conn->queued > d->max_bytes;
    pthread_mutex_unlock(&conn->lock);
    fsb_chunk_block_ *b =
        full ? NULL : fsb_chunk_event_block_(conn->server, event, conn->events + 1);
    fsb_chunk_ack_   *ack = req ? (fsb_chunk_ack_ *)fsb_chunk_alloc_(a, sizeof *ack) : NULL;
    if (!b || (req && !ack)) {
        if (b) fsb_chunk_free_(a, b, sizeof *b + b->capacity);
        fsb_chunk_free_(a, ack, sizeof *ack);
        fsb_chunk_lease_break_(conn, -ENOBUFS);
        return;
    }
    ++conn->events;
    fsb_chunk_count_(&conn->server->stats.events, 1);
    if (ack) {
        (void)__atomic_add_fetch(&req->acks, 1, __ATOMIC_RELAXED);
        ack->req = req, ack->number = conn->events;
        ack->deadline = fsb_chunk_now_ms_() + FSB_CHUNK_LEASE_MS_;
        *conn->acks_tail = ack, conn->acks_tail = &ack->next;
        if (conn->acks == ack) { /* its thread must look at the clock from now on */
            __atomic_store_n(&conn->ack_deadline, ack->deadline, __ATOMIC_RELAXED);
            fsb_chunk_kick_(conn->kick);
        }
    }
    fsb_chunk_push_(conn, b, 0);
}

/* Tells who holds a lease and may be concerned, but for the one who did it. */
static void fsb_chunk_tell_(fsb_chunk_server *s, const fsb_backend *backend,
                            const fsb_chunk_conn_ *by, const fsb_event *event,
                            fsb_chunk_request_ *req)
{
    pthread_mutex_lock(&s->leases_lock);
    for (fsb_chunk_conn_ *conn = s->leased; conn; conn = conn->leased_next) {
        if (conn == by || conn->share->backend != backend) continue;
        if (!fsb_chunk_concerns_(conn, event)) continue;
        if (event->kind == FSB_EVENT_RENAMED) /* what it knows is there now */
            fsb_chunk_told_(conn, event->path2, !event->stat || S_ISDIR(event->stat->mode));
        fsb_chunk_tell_one_(conn, event, req);
    }
    pthread_mutex_unlock(&s->leases_lock);
}

static void fsb_chunk_slots_renamed_(fsb_chunk_server *s, const fsb_backend *backend,
                                     const fsb_op *op);

/* What the backend has seen others do. */
static void fsb_chunk_foreign_(void *user, const fsb_event *event)
{
    fsb_chunk_watch_ *w = (fsb_chunk_watch_ *)user;
    fsb_op            renamed;
    memset(&renamed, 0, sizeof renamed);
    renamed.path = event->path, renamed.path2 = event->path2;
    renamed.file_id = event->stat ? event->stat->file_id : 0;
    if (event->kind == FSB_EVENT_RENAMED)
        fsb_chunk_slots_renamed_(w->server, w->backend, &renamed);
    if (__atomic_load_n(&w->server->leases, __ATOMIC_SEQ_CST))
        fsb_chunk_tell_(w->server, w->backend, NULL, event, NULL);
}

/* Is there another client that must be told of what this one changes? */
static int fsb_chunk_leased_elsewhere_(const fsb_chunk_conn_ *conn)
{
    const uint32_t own = __atomic_load_n(&conn->told, __ATOMIC_ACQUIRE) ? 1 : 0;
    return __atomic_load_n(&conn->server->leases, __ATOMIC_SEQ_CST) > own;
}

static void fsb_chunk_release_(fsb_chunk_request_ *req);

static void fsb_chunk_acked_(fsb_chunk_request_ *req)
{
    if (__atomic_sub_fetch(&req->acks, 1, __ATOMIC_ACQ_REL) == 0) fsb_chunk_release_(req);
}

/* The client has seen the events up to that number; answers that waited for it go on. */
static void fsb_chunk_seen_(fsb_chunk_conn_ *conn, uint64_t number)
{
    fsb_chunk_server *s = conn->server;
    fsb_chunk_ack_   *seen, *rest;
    pthread_mutex_lock(&s->leases_lock);
    if (number > conn->seen && number <= conn->events) conn->seen = number;
    for (rest = seen = conn->acks; rest && rest->number <= number;) rest = rest->next;
    conn->acks = rest;
    if (!rest) conn->acks_tail = &conn->acks;
    __atomic_store_n(&conn->ack_deadline, rest ? rest->deadline : 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->leases_lock);
    while (seen != rest) {
        fsb_chunk_ack_ *next = seen->next;
        fsb_chunk_acked_(seen->req);
        fsb_chunk_free_(&s->desc.allocator, seen, sizeof *seen);
        seen = next;
    }
}

/* Has the share watched, on behalf of the first who asks. */
static int fsb_chunk_watch_share_(fsb_chunk_server *s, const fsb_chunk_share *share,
                                  fsb_chunk_tenant_ *tenant)
{
    fsb_chunk_watch_ *w = tenant ? &tenant->watch : &s->watches[share - s->shares];
    fsb_op            op;
    memset(&op, 0, sizeof op); /* another tenant may have the same folder: all is foreign */
    op.code = FSB_OP_WATCH, op.path = "/";
    op.flags = FSB_WATCH_DEEP | (tenant ? 0u : (uint32_t)FSB_WATCH_FOREIGN);
    op.event = fsb_chunk_foreign_, op.user = w;
    if (!share->backend->call[FSB_OP_WATCH]) return -ENOSYS;
    if (__atomic_load_n(&w->handle, __ATOMIC_ACQUIRE)) return 0;
    if (share->backend->call[FSB_OP_WATCH](share->backend, &op) < 0) return (int)op.result;
    fsb_handle none = 0;
    if (!__atomic_compare_exchange_n(&w->handle, &none, op.handle, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) { /* somebody was faster */
        op.code = FSB_OP_CLOSE;
        (void)share->backend->call[FSB_OP_CLOSE](share->backend, &op);
    }
    return 0;
}

static void fsb_chunk_unwatch_(fsb_chunk_watch_ *w)
{
    fsb_op op;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_CLOSE, op.handle = w->handle;
    if (w->handle) (void)w->backend->call[FSB_OP_CLOSE](w->backend, &op);
}

/* Gives a client its lease: WATCH with HELD. */
static int fsb_chunk_lease_(fsb_chunk_conn_ *conn, fsb_op *op)
{
    fsb_chunk_server *s = conn->server;
    if (op->flags != (FSB_WATCH_HELD | FSB_WATCH_DEEP) || op->path[1]) return -EINVAL;
    const int err = fsb_chunk_watch_share_(s, conn->share, conn->tenant);
    if (err) return err;
    unsigned char *told =
        (unsigned char *)fsb_chunk_alloc_(&s->desc.allocator, FSB_CHUNK_TOLD_ / 8);
    if (!told) return -ENOMEM;
    pthread_mutex_lock(&s->leases_lock);
    const int has = conn->told != NULL;
    if (!has) {
        conn->acks_tail = &conn->acks;
        __atomic_store_n(&conn->told, told, __ATOMIC_RELEASE);
        conn->leased_next = s->leased, s->leased = conn;
        (void)__atomic_add_fetch(&s->leases, 1, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&s->leases_lock);
    if (has) fsb_chunk_free_(&s->desc.allocator, told, FSB_CHUNK_TOLD_ / 8);
    op->handle = FSB_CHUNK_LEASE_HANDLE_;
    return 0;
}

/* The connection ends: nobody waits for what it sees any more. */
static void fsb_chunk_lease_leave_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_server *s = conn->server;
    if (!__atomic_load_n(&conn->told, __ATOMIC_ACQUIRE)) return;
    pthread_mutex_lock(&s->leases_lock);
    fsb_chunk_conn_ **p = &s->leased;
    while (*p != conn) p = &(*p)->leased_next;
    *p = conn->leased_next;
    (void)__atomic_sub_fetch(&s->leases, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&s->leases_lock);
    fsb_chunk_seen_(conn, UINT64_MAX);
    unsigned char *told = conn->told;
    __atomic_store_n(&conn->told, (unsigned char *)NULL, __ATOMIC_RELEASE);
    fsb_chunk_free_(&s->desc.allocator, told, FSB_CHUNK_TOLD_ / 8);
}

/* The stat of what is at path, or of what was changed, where the answer itself has none. */
static const fsb_stat *fsb_chunk_stat_of_(const fsb_chunk_request_ *req, const char *path,
                                          fsb_op *op)
{
    fsb_backend *b = req->conn->share->backend;
    memset(op, 0, sizeof *op);
    op->code = FSB_OP_STAT, op->path = path;
    op->handle = req->op.code == FSB_OP_COPY ? req->op.handle2 : req->op.handle;
    return b->call[FSB_OP_STAT](b, op) == 0 ? &op->stat : NULL;
}

/* Does it take a name away from what has it? */
static int fsb_chunk_takes_name_(const fsb_op *op)
{
    return op->code == FSB_OP_UNLINK ||
        (op->code == FSB_OP_RENAME && !(op->flags & FSB_RENAME_EXCHANGE));
}

/* Before a request is run: a file that loses a name is known by others, which others hold. */
static void fsb_chunk_look_first_(fsb_chunk_request_ *req)
{
    fsb_op stat;
    if (!fsb_chunk_takes_name_(&req->op) || !fsb_chunk_leased_elsewhere_(req->conn)) return;
    const fsb_stat *s = fsb_chunk_stat_of_(
        req, req->op.code == FSB_OP_RENAME ? req->op.path2 : req->op.path, &stat);
    if (s && s->nlink > 1 && !S_ISDIR(s->mode)) req->loser = *s;
}

enum { FSB_CHUNK_PATH_ROOM_ = FSB_PATH_MAX + 1 };

/* The name of the file that a request is about, in `room`: a rename may change it at any time. */
static const char *fsb_chunk_slot_path_(fsb_chunk_request_ *req, char room[FSB_CHUNK_PATH_ROOM_])
{
    const int slot = req->op.code == FSB_OP_COPY ? req->slot2 : req->slot;
    pthread_mutex_lock(&req->conn->lock);
    const char *path = slot >= 0 ? req->conn->slots[slot].path : NULL;
    if (path) memcpy(room, path, strlen(path) + 1);
    pthread_mutex_unlock(&req->conn->lock);
    return path ? room : NULL;
}

/* 1 if `path` of that size leads to the file by what `id` tells is there: the first half of an
   exchange, as others tell of it, brings something else to where the second takes this from. */
static int fsb_chunk_slot_went_(const fsb_chunk_slot_ *slot, size_t size, uint64_t id)
{
    if (!id) return 1;
    if (!slot->path[size]) return slot->file_id == id;
    return !slot->mover || slot->mover == id || slot->mover_size != size;
}

/* A file that is open by the old name, or below it, has the new one. Connection locked. */
static void fsb_chunk_slot_renamed_(const fsb_allocator *a, fsb_chunk_slot_ *slot, const fsb_op *op)
{
    const char  *from = op->path, *to = op->path2;
    const size_t size = strlen(from);
    if (!slot->path) return;
    if (strlen(slot->path) >= size && !fsb_chunk_slot_went_(slot, size, op->file_id)) return;
    int is = fsb_chunk_renamed_(a, &slot->path, from, to);
    if (is > 0) slot->mover = op->file_id, slot->mover_size = strlen(to);
    if (!is && op->flags & FSB_RENAME_EXCHANGE) is = fsb_chunk_renamed_(a, &slot->path, to, from);
    if (is < 0) fsb_chunk_strfree_(a, slot->path), slot->path = NULL;
}

/* A RENAME was done, or seen: files that are open by that name, whoever has them, have the other
   one. What is written to them from here on is told to those who know that. op->file_id is what
   moved, if others did it. */
static void fsb_chunk_slots_renamed_(fsb_chunk_server *s, const fsb_backend *backend,
                                     const fsb_op *op)
{
    pthread_mutex_lock(&s->lock);
    for (fsb_chunk_conn_ *conn = s->conns; conn; conn = conn->next) {
        pthread_mutex_lock(&conn->lock);
        const int same = conn->slot_count && conn->share->backend == backend;
        for (int i = 0; same && i < conn->slot_count; ++i)
            fsb_chunk_slot_renamed_(&s->desc.allocator, &conn->slots[i], op);
        pthread_mutex_unlock(&conn->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Tells the others what a request did; its answer waits for them, unless it was run before there
   were any. */
static void fsb_chunk_tell_did_(fsb_chunk_request_ *req, uint32_t kind, const char *path,
                                const char *path2, const fsb_stat *stat)
{
    const fsb_event e = {kind, path, path2, stat};
    fsb_chunk_tell_(req->conn->server, req->conn->share->backend, req->conn, &e,
                    req->size ? req : NULL);
}

static void fsb_chunk_tell_rename_(fsb_chunk_request_ *req)
{
    const fsb_op *op = &req->op;
    fsb_op        stat;
    if (req->loser.file_id)
        fsb_chunk_tell_did_(req, FSB_EVENT_REMOVED, op->path2, NULL, &req->loser);
    fsb_chunk_tell_did_(req, FSB_EVENT_RENAMED, op->path, op->path2,
                        fsb_chunk_stat_of_(req, op->path2, &stat));
    if (op->flags & FSB_RENAME_EXCHANGE)
        fsb_chunk_tell_did_(req, FSB_EVENT_RENAMED, op->path2, op->path,
                            fsb_chunk_stat_of_(req, op->path, &stat));
}

static void fsb_chunk_tell_change_(fsb_chunk_request_ *req)
{
    char                room[FSB_CHUNK_PATH_ROOM_];
    fsb_op             *op = &req->op, stat;
    const int           named = op->code == FSB_OP_OPEN || !op->handle;
    fsb_event           e = {FSB_EVENT_CONTENT, op->path, NULL, &op->stat};
    if (!named) e.path = fsb_chunk_slot_path_(req, room);
    switch (op->code) {
    case FSB_OP_OPEN:
        if (!(op->flags & (FSB_O_CREATE | FSB_O_TRUNC))) return;
        if (op->flags & FSB_O_CREATE) e.kind = FSB_EVENT_CREATED;
        break;
    case FSB_OP_WRITE: case FSB_OP_ALLOCATE: break;
    case FSB_OP_COPY: e.stat = fsb_chunk_stat_of_(req, op->path, &stat); break;
    case FSB_OP_SETATTR:
        if (!(op->attr.mask & FSB_ATTR_SIZE)) e.kind = FSB_EVENT_ATTR;
        break;
    case FSB_OP_SETXATTR: case FSB_OP_REMOVEXATTR:
        e.kind = FSB_EVENT_ATTR, e.stat = fsb_chunk_stat_of_(req, op->path, &stat);
        break;
    case FSB_OP_LINK: e.kind = FSB_EVENT_CREATED, e.path = op->path2; break;
    case FSB_OP_UNLINK: case FSB_OP_RMDIR:
        e.kind = FSB_EVENT_REMOVED, e.stat = req->loser.file_id ? &req->loser : NULL;
        break;
    case FSB_OP_RENAME: fsb_chunk_tell_rename_(req); return;
    default: e.kind = FSB_EVENT_CREATED; /* MKDIR, SYMLINK, MKNOD, PUT */
    }
    if (!e.path) e.kind = FSB_EVENT_LOST, e.path = "/", e.stat = NULL;
    fsb_chunk_tell_did_(req, e.kind, e.path, NULL, e.stat);
}

/* ---- [requests] ------------------------------------------------------------------------------ */

enum {
    FSB_CHUNK_SENDFILE_MIN_ = 64 << 10, /* bytes from which sendfile beats a copy (measured) */
    FSB_CHUNK_LIST_MIN_ = 8 << 10,      /* room that any one entry fits in, its folder as well */
    FSB_CHUNK_LIST_DEFAULT_ = 128 << 10
};

/* 0 if the path has the form that every path has, else why not. */
static int fsb_chunk_path_check_(const char *path)
{
    if (!path || path[0] != '/') return -EINVAL;
    const char *p = path;
    while (p[1] || p == path) {
        const size_t n = strcspn(p + 1, "/");
        if (!n) return p == path && !p[1] ? 0 : -EINVAL;
        if (n == 1 && p[1] == '.') return -EINVAL;
        if (n == 2 && p[1] == '.' && p[2] == '.') return -EINVAL;
        if (n > FSB_NAME_MAX) return -ENAMETOOLONG;
        p += n + 1;
        if (!*p) return p - path > FSB_PATH_MAX ? -ENAMETOOLONG : 0;
    }
    return -EINVAL; /* a '/' at the end */
}

/* One entry of a listing into the answer. With DATA or DEEP it also has its folder, if that is not
   the entry's before, and bytes. */
static int fsb_chunk_emit_(fsb_op *op, const fsb_dirent *entry)
{
    fsb_chunk_request_ *req = (fsb_chunk_request_ *)op; /* op is its first member */
    unsigned char      *data = fsb_chunk_answer_data_(req);
    fsb_chunk_cursor_   c = {data + req->listed, data + req->room, 0};
    const int           more = (op->flags & (FSB_LIST_DATA | FSB_LIST_DEEP)) != 0;
    const char         *folder = more ? entry->folder : NULL;
    const size_t        folder_size = folder ? strlen(folder) : 0;
    if (entry->name_size > FSB_NAME_MAX || (!entry->name_size && !more)) return 0;
    if (folder_size > FSB_PATH_MAX) return 0;
    const int same = folder_size == req->folder_size &&
        (!folder || memcmp(folder, data + req->folder, folder_size) == 0);
    fsb_stat   room;
    fsb_chunk_put64_(&c, entry->cookie);
    fsb_chunk_put_stat_(&c, fsb_chunk_shown_(req->conn->server, &entry->stat, &room));
    fsb_chunk_put16_(&c, (uint32_t)entry->name_size);
    unsigned char *to = fsb_chunk_step_(&c, entry->name_size);
    if (to) memcpy(to, entry->name, entry->name_size);
    if (more) {
        fsb_chunk_put16_(&c, same ? 0 : (uint32_t)folder_size);
        unsigned char *at = same ? NULL : fsb_chunk_step_(&c, folder_size);
        if (at) memcpy(at, folder, folder_size);
        const size_t size = (size_t)(c.end - c.at); /* bytes are left out where they do not fit */
        const int    fits = entry->data && size > 4 && entry->stat.size <= size - 4;
        fsb_chunk_put32_(&c, fits ? (uint32_t)entry->stat.size + 1 : 0);
        unsigned char *bytes = fits ? fsb_chunk_step_(&c, (size_t)entry->stat.size) : NULL;
        if (bytes) memcpy(bytes, entry->data, (size_t)entry->stat.size);
        if (at && !c.bad) req->folder = (size_t)(at - data), req->folder_size = folder_size;
    }
    if (c.bad) return 1;
    req->listed = (size_t)(c.at - data);
    return 0;
}

/* Bytes of data that the answer may need. */
static size_t fsb_chunk_room_(const fsb_chunk_request_ *req)
{
    const size_t size = req->op.size < (size_t)FSB_IO_MAX ? req->op.size : (size_t)FSB_IO_MAX;
    if (!(req->shape->answer & FSB_CHUNK_DATA_)) return 0;
    if (req->op.code != FSB_OP_LIST) return size;
    return !size                     ? (size_t)FSB_CHUNK_LIST_DEFAULT_
        : size < FSB_CHUNK_LIST_MIN_ ? (size_t)FSB_CHUNK_LIST_MIN_
                                     : size;
}

/* Does it need the right to write? */
static int fsb_chunk_changes_(const fsb_chunk_request_ *req)
{
    return req->op.code == FSB_OP_OPEN
        ? (req->op.flags & (FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC)) != 0
        : (req->shape->traits & FSB_CHUNK_CHANGES_) != 0;
}

/* A client may run commands, but not have any number of them wait. */
static int fsb_chunk_may_run_(const fsb_chunk_request_ *req)
{
    fsb_chunk_conn_             *conn = req->conn;
    const fsb_chunk_server_desc *d = &conn->server->desc;
    if (!(conn->rights & FSB_CHUNK_EXEC)) return -EACCES;
    pthread_mutex_lock(&conn->lock);
    const int full =
        conn->runs >= d->max_requests || conn->runs_held + req->op.size > d->max_bytes / 2;
    pthread_mutex_unlock(&conn->lock);
    return full ? -EAGAIN : 0;
}

/* May this client ask that? Pins the handles and puts the backend's in their place. */
static int fsb_chunk_admit_(fsb_chunk_request_ *req, fsb_chunk_slot_ *slot)
{
    fsb_op                *op = &req->op;
    const fsb_chunk_conn_ *conn = req->conn;
    const fsb_backend     *b = conn->share->backend;
    const uint32_t         fields = req->shape->request;
    fsb_chunk_slot_        other;
    int                    err;
    const int              changes = fsb_chunk_changes_(req);
    if (op->code != FSB_OP_LOCK && !b->call[op->code]) return -ENOSYS;
    if (changes && !(conn->rights & FSB_CHUNK_WRITE)) return -EACCES;
    if (op->code == FSB_OP_EXEC && (err = fsb_chunk_may_run_(req)) != 0) return err;
    if (conn->server->desc.ids && (err = fsb_chunk_translate_(conn->server->desc.ids, op)) != 0)
        return err;
    if ((fields & FSB_CHUNK_SIZE_) && op->size > (size_t)FSB_IO_MAX) return -EINVAL;
    if (op->offset > INT64_MAX || op->offset2 > INT64_MAX || op->size64 > INT64_MAX) {
        if (op->code != FSB_OP_LIST) return -EINVAL; /* there it is a cookie */
    }
    if (op->handle) {
        req->slot = fsb_chunk_pin_(req->conn, op->handle, op->code == FSB_OP_CLOSE, slot);
        if (req->slot < 0) return -EBADF;
        op->handle = slot->handle;
    } else if (!(fields & FSB_CHUNK_PATH_)) return -EBADF;
    else if ((err = fsb_chunk_path_check_(op->path)) != 0) return err;
    if (fields & FSB_CHUNK_HANDLE2_) {
        req->slot2 = fsb_chunk_pin_(req->conn, op->handle2, 0, &other);
        if (req->slot2 < 0) return -EBADF;
        op->handle2 = other.handle;
    }
    if ((fields & FSB_CHUNK_PATH2_) && !op->path2) return -EINVAL;
    if (op->code == FSB_OP_OPEN) req->slot = fsb_chunk_slot_new_(req->conn);
    if (op->code == FSB_OP_OPEN && req->slot < 0) return req->slot;
    const int renames = op->code == FSB_OP_RENAME || op->code == FSB_OP_LINK;
    if (renames && (err = fsb_chunk_path_check_(op->path2)) != 0) return err;
    fsb_chunk_told_(req->conn, op->path, op->code == FSB_OP_LIST && (op->flags & FSB_LIST_DEEP));
    if (renames && __atomic_load_n(&conn->told, __ATOMIC_ACQUIRE)) { /* a folder takes all along */
        const int below = op->code == FSB_OP_RENAME &&
            (op->flags & FSB_RENAME_EXCHANGE ||
             fsb_chunk_may_be_folder_(req->conn->share->backend, op->path));
        fsb_chunk_told_(req->conn, op->path2, below);
    }
    return 0;
}

/* The id of what OPEN opened, instead of the backend's handle. */
static void fsb_chunk_opened_(fsb_chunk_request_ *req)
{
    fsb_backend *b = req->conn->share->backend;
    fsb_op       op;
    int64_t      fd = -1;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_DESCRIPTOR, op.handle = req->op.handle;
    if (b->call[FSB_OP_DESCRIPTOR]) fd = b->call[FSB_OP_DESCRIPTOR](b, &op);
    req->op.handle = fsb_chunk_slot_fill_(req->conn, req->slot, &req->op, fd < 0 ? -1 : (int)fd,
                                          req->tag);
}

/* Has a change written down: all but the opening of a file that was there, unless it is refused;
   and commands, which may change anything. */
static void fsb_chunk_audit_change_(fsb_chunk_request_ *req, int64_t result)
{
    char          room[FSB_CHUNK_PATH_ROOM_];
    const fsb_op *op = &req->op;
    const char   *what = NULL;
    if (op->code == FSB_OP_OPEN && result >= 0 && !(op->flags & (FSB_O_CREATE | FSB_O_TRUNC)))
        return;
    switch (op->code) {
    case FSB_OP_OPEN: what = op->flags & FSB_O_CREATE ? "create" : "open"; break;
    case FSB_OP_WRITE: what = "write"; break;
    case FSB_OP_MKDIR: what = "mkdir"; break;
    case FSB_OP_UNLINK: what = "unlink"; break;
    case FSB_OP_RMDIR: what = "rmdir"; break;
    case FSB_OP_RENAME: what = "rename"; break;
    case FSB_OP_LINK: what = "link"; break;
    case FSB_OP_SYMLINK: what = "symlink"; break;
    case FSB_OP_MKNOD: what = "mknod"; break;
    case FSB_OP_SETATTR: what = "setattr"; break;
    case FSB_OP_ALLOCATE: what = "allocate"; break;
    case FSB_OP_COPY: what = "copy"; break;
    case FSB_OP_SETXATTR: what = "setxattr"; break;
    case FSB_OP_REMOVEXATTR: what = "removexattr"; break;
    case FSB_OP_PUT: what = "put"; break;
    case FSB_OP_EXEC: what = "exec"; break;
    default: what = "change";
    }
    const fsb_chunk_command_ *run = req->run;
    fsb_chunk_audit_(req->conn->server, req->conn, what,
                     op->path ? op->path : fsb_chunk_slot_path_(req, room),
                     run ? run->exec.argv[0] : op->path2, result);
}

/* The operation is done: unpins, writes the answer, and if it was not run in line, sends it, once
   those who hold a lease have seen what it changed. */
static void fsb_chunk_finish_(fsb_chunk_request_ *req)
{
    fsb_op *op = &req->op;
    int64_t result = op->result;
    size_t  size = 0;
    if (result >= 0 && op->code == FSB_OP_OPEN) fsb_chunk_opened_(req);
    if (result >= 0 && (req->shape->answer & FSB_CHUNK_DATA_)) {
        size = op->code == FSB_OP_LIST ? req->listed : req->room ? (size_t)result : 0;
        if (size > req->room) result = -EIO; /* the backend is at fault */
    }
    if (result > INT32_MAX) result = INT32_MAX;
    fsb_slice_release(&op->slice);
    req->acks = 1;
    if (result >= 0 && op->code == FSB_OP_RENAME)
        fsb_chunk_slots_renamed_(req->conn->server, req->conn->share->backend, op);
    if (result >= 0 && fsb_chunk_leased_elsewhere_(req->conn) && fsb_chunk_changes_(req))
        fsb_chunk_tell_change_(req);
    if (req->conn->server->desc.audit && (fsb_chunk_changes_(req) || op->code == FSB_OP_EXEC))
        fsb_chunk_audit_change_(req, result);
    fsb_chunk_unpin_(req->conn, req->slot);
    fsb_chunk_unpin_(req->conn, req->slot2);
    fsb_chunk_answer_(req, result, size, 0);
    if (req->size) fsb_chunk_acked_(req);
}

static void fsb_chunk_submitted_(fsb_op *op)
{
    fsb_chunk_finish_((fsb_chunk_request_ *)op);
}

/* May it wait long for what is no work of ours? */
static int fsb_chunk_parks_(const fsb_op *op)
{
    return op->code == FSB_OP_LOCK || op->code == FSB_OP_EXEC;
}

/* Sends the answer of a request that was run elsewhere and forgets it. */
static void fsb_chunk_release_(fsb_chunk_request_ *req)
{
    fsb_chunk_conn_  *conn = req->conn;
    fsb_chunk_block_ *b = req->block;
    const size_t      held = req->held;
    const int         runs = req->op.code == FSB_OP_EXEC, parks = fsb_chunk_parks_(&req->op);
    if (req->run) fsb_chunk_free_(&conn->server->desc.allocator, req->run, req->run->size);
    fsb_chunk_free_(&conn->server->desc.allocator, req, req->size);
    fsb_chunk_push_(conn, b, 0);
    pthread_mutex_lock(&conn->lock);
    --conn->pending, *(runs ? &conn->runs_held : &conn->held) -= held;
    if (parks) --conn->parked;
    if (runs) --conn->runs;
    if (!conn->pending) pthread_cond_broadcast(&conn->quiet);
    fsb_chunk_kick_(conn->kick); /* under the lock: conn goes once pending is 0 */
    pthread_mutex_unlock(&conn->lock);
}

/* Lets the backend write its answer where it will be sent from. */
static fsb_op *fsb_chunk_aim_(fsb_chunk_request_ *req)
{
    fsb_op *op = &req->op;
    if (op->code == FSB_OP_LIST)
        op->emit = fsb_chunk_emit_, op->size64 = op->size ? op->size : req->room;
    if (req->room && op->code != FSB_OP_LIST) op->buf = fsb_chunk_answer_data_(req);
    if (req->room) op->size = req->room;
    op->done = fsb_chunk_submitted_;
    return op;
}

/* Runs a request on this thread. */
static void fsb_chunk_run_(fsb_chunk_request_ *req)
{
    fsb_backend *b = req->conn->share->backend;
    if (req->op.code == FSB_OP_CLOSE) {
        req->op.result = fsb_chunk_unpin_close_(req->conn, req->slot);
        req->slot = -1;
    } else if (req->op.code == FSB_OP_WATCH) req->op.result = fsb_chunk_lease_(req->conn, &req->op);
    else {
        fsb_chunk_look_first_(req);
        req->op.result = b->call[req->op.code](b, fsb_chunk_aim_(req));
    }
    fsb_chunk_finish_(req);
}

static void fsb_chunk_job_(void *arg)
{
    fsb_chunk_request_ *req = (fsb_chunk_request_ *)arg;
    if (fsb_chunk_now_ms_() < req->deadline) {
        fsb_chunk_run_(req);
        return;
    }
    fsb_chunk_count_(&req->conn->server->stats.timeouts, 1);
    req->op.result = -ETIMEDOUT;
    fsb_chunk_finish_(req);
}

/* May a worker take one of its requests? Lock held. */
static int fsb_chunk_may_take_(fsb_chunk_server *s, const fsb_chunk_tenant_ *t)
{
    const uint32_t all = s->desc.threads, most = all - all / 4;
    return !t || t->running < (t->limits.max_running ? t->limits.max_running : most);
}

/* The party has requests: it is its turn after the others. Lock held. */
static void fsb_chunk_line_up_party_(fsb_chunk_server *s, fsb_chunk_party_ *p)
{
    if (p->lined || !p->line) return;
    if (!fsb_chunk_may_take_(s, p->tenant)) {
        fsb_chunk_count_(&s->stats.held, 1);
        return; /* when one of its requests is done */
    }
    p->next = NULL, p->lined = 1;
    *s->line_tail = p, s->line_tail = &p->next;
}

/* The workers take one request of each party in turn, and of a party's clients in turn, so that
   nobody waits behind all that another has asked for. Lock held. */
static void fsb_chunk_line_up_(fsb_chunk_server *s, fsb_chunk_conn_ *conn)
{
    fsb_chunk_party_ *p = conn->tenant ? &conn->tenant->party : &conn->own;
    if (!p->line) p->line_tail = &p->line;
    conn->line_next = NULL;
    *p->line_tail = conn, p->line_tail = &conn->line_next;
    fsb_chunk_line_up_party_(s, p);
}

/* The next request, NULL if there is none; its tenant has one more running. Lock held. */
static fsb_chunk_request_ *fsb_chunk_take_job_(fsb_chunk_server *s)
{
    fsb_chunk_party_ *p = s->line;
    if (!p) return NULL;
    s->line = p->next, p->lined = 0;
    if (!s->line) s->line_tail = &s->line;
    fsb_chunk_conn_    *conn = p->line;
    fsb_chunk_request_ *req = conn->jobs;
    p->line = conn->line_next;
    conn->jobs = req->next, --s->queued;
    if (p->tenant) ++p->tenant->running;
    if (conn->jobs) fsb_chunk_line_up_(s, conn);
    else fsb_chunk_line_up_party_(s, p);
    return req;
}

static void *fsb_chunk_worker_(void *arg)
{
    fsb_chunk_server *s = (fsb_chunk_server *)arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->line && !s->closing) {
            ++s->idle;
            pthread_cond_wait(&s->work, &s->lock);
            --s->idle;
        }
        fsb_chunk_request_ *req = fsb_chunk_take_job_(s);
        if (!req) break;
        fsb_chunk_tenant_ *tenant = req->conn->tenant;
        pthread_mutex_unlock(&s->lock);
        fsb_chunk_job_(req);
        pthread_mutex_lock(&s->lock);
        if (!tenant) continue;
        --tenant->running;
        fsb_chunk_line_up_party_(s, &tenant->party);
    }
    --s->threads;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Has the request run on a thread that may wait, started if all that are idle have work waiting for
   them; here if there can be none. */
static void fsb_chunk_run_elsewhere_(fsb_chunk_request_ *req)
{
    fsb_chunk_server *s = req->conn->server;
    pthread_t         thread;
    if (s->desc.runner.run) {
        if (s->desc.runner.run(s->desc.runner.user, fsb_chunk_job_, req) != 0) fsb_chunk_job_(req);
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (s->queued >= s->idle && s->threads < s->desc.threads &&
        fsb_chunk_thread_(&thread, fsb_chunk_worker_, s) == 0) {
        pthread_detach(thread);
        ++s->threads;
    }
    const int none = !s->threads;
    if (!none) {
        fsb_chunk_conn_ *conn = req->conn;
        if (!conn->jobs) conn->jobs_tail = &conn->jobs, fsb_chunk_line_up_(s, conn);
        req->next = NULL;
        *conn->jobs_tail = req, conn->jobs_tail = &req->next, ++s->queued;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    if (none) fsb_chunk_job_(req);
}

/* Moves a request off the stack, with a copy of its frame, so that it can outlive both. */
static fsb_chunk_request_ *fsb_chunk_keep_(const fsb_chunk_request_ *req, const fsb_chunk_frame_ *f)
{
    fsb_chunk_conn_     *conn = req->conn;
    const fsb_allocator *a = &conn->server->desc.allocator;
    const size_t         body = (size_t)f->meta_size + f->data_size, size = sizeof *req + body;
    fsb_chunk_request_  *kept = (fsb_chunk_request_ *)fsb_chunk_resize_(a, NULL, 0, size);
    if (!kept) return NULL;
    *kept = *req;
    kept->size = size;
    unsigned char *copy = (unsigned char *)(kept + 1);
    memcpy(copy, f->meta, body);
    if (req->op.path) kept->op.path = (const char *)copy + (req->op.path - (const char *)f->meta);
    if (req->op.path2)
        kept->op.path2 = (const char *)copy + (req->op.path2 - (const char *)f->meta);
    kept->op.data = copy + f->meta_size;
    if (fsb_chunk_reserve_(kept, 0) != 0) {
        fsb_chunk_free_(a, kept, size);
        return NULL;
    }
    const int runs = req->op.code == FSB_OP_EXEC;
    kept->held = req->op.code == FSB_OP_LOCK ? 0 : size + kept->block->capacity;
    pthread_mutex_lock(&conn->lock);
    ++conn->pending, *(runs ? &conn->runs_held : &conn->held) += kept->held;
    if (fsb_chunk_parks_(&req->op)) ++conn->parked;
    if (runs) ++conn->runs;
    pthread_mutex_unlock(&conn->lock);
    return kept;
}

/* Answers with an error, or without one where nothing but the result is to be said. -ENOMEM: not
   even that; then the connection ends, and the pins must not outlive it. */
static int fsb_chunk_refuse_(fsb_chunk_request_ *req, int err)
{
    req->room = 0;
    if (fsb_chunk_reserve_(req, 1) != 0) {
        fsb_chunk_unpin_(req->conn, req->slot);
        fsb_chunk_unpin_(req->conn, req->slot2);
        return -ENOMEM;
    }
    req->op.result = err;
    fsb_chunk_finish_(req);
    return 0;
}

/* A piece of what a command writes on its way to the client, whom it waits for if he is slow. */
static int fsb_chunk_output_piece_(fsb_chunk_request_ *req, int fd, const void *data, size_t size)
{
    fsb_chunk_conn_        *conn = req->conn;
    const fsb_chunk_server *s = conn->server;
    fsb_chunk_frame_        f;
    pthread_mutex_lock(&conn->lock);
    while (!conn->broken && conn->queued > s->desc.max_bytes / 4)
        pthread_cond_wait(&conn->quiet, &conn->lock);
    const int broken = conn->broken;
    pthread_mutex_unlock(&conn->lock);
    if (broken) return broken;
    fsb_chunk_block_ *b = fsb_chunk_block_new_(&s->desc.allocator, FSB_CHUNK_HEADER_ + 8 + size);
    if (!b) return -ENOMEM;
    unsigned char    *header = fsb_chunk_block_bytes_(b), *meta = header + FSB_CHUNK_HEADER_;
    fsb_chunk_cursor_ c = {meta, meta + 8, 0};
    fsb_chunk_put64_(&c, (uint64_t)fd);
    memcpy(meta + 8, data, size);
    memset(&f, 0, sizeof f);
    f.op = FSB_CHUNK_OUTPUT_, f.tag = req->tag, f.meta_size = 8, f.data_size = (uint32_t)size;
    fsb_chunk_seal_(header, &f);
    b->size = b->capacity;
    fsb_chunk_push_(conn, b, 0);
    return 0;
}

static int fsb_chunk_output_(fsb_op *op, int fd, const void *data, size_t size)
{
    fsb_chunk_request_ *req = (fsb_chunk_request_ *)op; /* op is its first member */
    const char         *p = (const char *)data;
    while (size && !req->run->error) {
        const size_t n = size < FSB_CHUNK_OUTPUT_MAX_ ? size : (size_t)FSB_CHUNK_OUTPUT_MAX_;
        req->run->error = fsb_chunk_output_piece_(req, fd, p, n);
        p += n, size -= n;
    }
    return req->run->error;
}

/* Looks at the words of a command, and with `words` notes where they are, each kind with a NULL
   behind. Returns the bytes they take, or -EPROTO. */
static int64_t fsb_chunk_words_(const unsigned char *data, size_t size, uint32_t counts[2],
                                const char **words)
{
    unsigned char    *at = (unsigned char *)(uintptr_t)data; /* only read */
    fsb_chunk_cursor_ c = {at, at + size, 0};
    counts[0] = fsb_chunk_get32_(&c), counts[1] = fsb_chunk_get32_(&c);
    if (c.bad || !counts[0] || counts[0] > FSB_CHUNK_WORDS_MAX_ ||
        counts[1] > FSB_CHUNK_WORDS_MAX_)
        return -EPROTO;
    for (int kind = 0; kind < 2; ++kind) {
        for (uint32_t i = 0; i < counts[kind]; ++i) {
            const size_t left = (size_t)(c.end - c.at);
            const void  *end = left ? memchr(c.at, 0, left) : NULL;
            if (!end) return -EPROTO;
            if (words) *words++ = (const char *)c.at;
            c.at += (const unsigned char *)end - c.at + 1;
        }
        if (words) *words++ = NULL;
    }
    return c.at - data;
}

static fsb_chunk_command_ *fsb_chunk_command_new_(fsb_chunk_request_ *req)
{
    const fsb_allocator *a = &req->conn->server->desc.allocator;
    const unsigned char *data = (const unsigned char *)req->op.data;
    uint32_t             counts[2];
    if (fsb_chunk_words_(data, req->op.size, counts, NULL) < 0) return NULL;
    const size_t        count = (size_t)counts[0] + counts[1] + 2;
    const size_t        size = sizeof(fsb_chunk_command_) + count * sizeof(char *);
    fsb_chunk_command_ *run = (fsb_chunk_command_ *)fsb_chunk_alloc_(a, size);
    if (!run) return NULL;
    const char **words = (const char **)(void *)(run + 1);
    const size_t used = (size_t)fsb_chunk_words_(data, req->op.size, counts, words);
    run->req = req, run->size = size;
    run->exec.argv = words, run->exec.env = words + counts[0] + 1;
    run->exec.input = data + used, run->exec.input_size = req->op.size - used;
    run->exec.max_output = req->op.size64, run->exec.output = fsb_chunk_output_;
    req->op.exec = &run->exec, req->op.data = NULL, req->op.size = 0, req->op.size64 = 0;
    return run;
}

/* Runs a command to its end, on a thread of its own. */
static void fsb_chunk_exec_run_(fsb_chunk_request_ *req)
{
    fsb_chunk_server *s = req->conn->server;
    fsb_backend      *b = req->conn->share->backend;
    fsb_chunk_command_ *run = req->run, **at;
    const int64_t     left = req->deadline - fsb_chunk_now_ms_();
    pthread_mutex_lock(&s->runs_lock);
    const int early = run->cancelled;
    run->begun = 1;
    pthread_mutex_unlock(&s->runs_lock);
    if (req->op.timeout_ms && left > 0) req->op.timeout_ms = (uint32_t)left;
    if (early) req->op.result = -EINTR;
    else if (left <= 0) req->op.result = run->error ? run->error : -ETIMEDOUT;
    else (void)b->call[FSB_OP_EXEC](b, &req->op);
    pthread_mutex_lock(&s->runs_lock);
    for (at = &s->runs; *at != run;) at = &(*at)->next;
    *at = run->next;
    pthread_mutex_unlock(&s->runs_lock);
    pthread_mutex_lock(&s->lock);
    if (run->counted) --req->conn->running;
    pthread_mutex_unlock(&s->lock);
    if (req->op.result >= 0 && run->error) req->op.result = run->error;
    fsb_chunk_finish_(req);
}

/* Takes the first command in the line whose client has not enough of them already; such wait for
   one of their own to end, whose thread then looks again. Lock held. NULL: there is none. */
static fsb_chunk_request_ *fsb_chunk_exec_next_(fsb_chunk_server *s)
{
    fsb_chunk_request_ **at = &s->exec_line, *req;
    while ((req = *at) != NULL && req->conn->running >= s->desc.max_execs_each) at = &req->next;
    if (!req) return NULL;
    *at = req->next;
    if (!*at) s->exec_tail = at;
    ++req->conn->running, req->run->counted = 1;
    return req;
}

static void *fsb_chunk_exec_main_(void *arg)
{
    fsb_chunk_server   *s = (fsb_chunk_server *)arg;
    fsb_chunk_request_ *req;
    pthread_mutex_lock(&s->lock);
    while ((req = fsb_chunk_exec_next_(s)) != NULL) {
        pthread_mutex_unlock(&s->lock);
        fsb_chunk_exec_run_(req);
        pthread_mutex_lock(&s->lock);
    }
    --s->execs;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Commands have threads besides the workers, whom others' disks need: they may run for hours. */
static void fsb_chunk_exec_start_(fsb_chunk_request_ *req)
{
    fsb_chunk_server *s = req->conn->server;
    pthread_t         thread;
    int               none = 0;
    req->run = fsb_chunk_command_new_(req);
    if (!req->run) {
        req->op.result = -ENOMEM;
        fsb_chunk_finish_(req);
        return;
    }
    pthread_mutex_lock(&s->runs_lock);
    req->run->next = s->runs, s->runs = req->run;
    pthread_mutex_unlock(&s->runs_lock);
    pthread_mutex_lock(&s->lock);
    if (s->execs < s->desc.max_execs) {
        if (fsb_chunk_thread_(&thread, fsb_chunk_exec_main_, s) == 0)
            pthread_detach(thread), ++s->execs;
        none = !s->execs;
    }
    if (!none) req->next = NULL, *s->exec_tail = req, s->exec_tail = &req->next;
    pthread_mutex_unlock(&s->lock);
    if (!none) return;
    req->deadline = 0, req->run->error = -EAGAIN; /* it ends before it begins */
    fsb_chunk_exec_run_(req);
}

/* Ends the command of that tag (or every one, tag NULL) of conn; their requests are answered. */
static void fsb_chunk_exec_cancel_(fsb_chunk_conn_ *conn, const uint64_t *tag)
{
    fsb_chunk_server   *s = conn->server;
    fsb_chunk_request_ *req, **at, *waiting = NULL;
    pthread_mutex_lock(&s->runs_lock);
    for (fsb_chunk_command_ *run = s->runs; run; run = run->next) {
        fsb_backend *b = conn->share->backend;
        if (run->req->conn != conn || (tag && run->req->tag != *tag)) continue;
        run->cancelled = 1;
        if (run->begun && b->cancel) b->cancel(b, &run->req->op);
    }
    pthread_mutex_unlock(&s->runs_lock);
    pthread_mutex_lock(&s->lock);
    for (at = &s->exec_line; (req = *at) != NULL;) {
        if (req->conn != conn || (tag && req->tag != *tag)) {
            at = &req->next;
            continue;
        }
        *at = req->next;
        req->next = waiting, waiting = req;
    }
    s->exec_tail = at;
    pthread_mutex_unlock(&s->lock);
    while (waiting) {
        req = waiting, waiting = req->next;
        fsb_chunk_exec_run_(req);
    }
}

/* Starts a request that is not run in line. */
static int fsb_chunk_defer_(fsb_chunk_request_ *req, const fsb_chunk_frame_ *f, uint64_t file_id)
{
    fsb_backend        *b = req->conn->share->backend;
    fsb_chunk_request_ *kept = fsb_chunk_keep_(req, f);
    if (!kept) return fsb_chunk_refuse_(req, -ENOMEM);
    if (kept->op.code == FSB_OP_LOCK) fsb_chunk_lock_run_(kept, file_id);
    else if (kept->op.code == FSB_OP_EXEC) fsb_chunk_exec_start_(kept);
    else if (b->submit && kept->op.code != FSB_OP_CLOSE &&
             !(fsb_chunk_takes_name_(&kept->op) && fsb_chunk_leased_elsewhere_(kept->conn))) {
        fsb_op *op = fsb_chunk_aim_(kept);
        b->submit(b, &op, 1);
    } else fsb_chunk_run_elsewhere_(kept);
    return 0;
}

/* As preadv2(), which not every libc declares, with RWF_NOWAIT: only what is in memory. */
static ssize_t fsb_chunk_pread_now_(int fd, void *to, size_t size, uint64_t offset)
{
#if defined(SYS_preadv2) && defined(RWF_NOWAIT)
    struct iovec part;
    part.iov_base = to, part.iov_len = size;
    const ssize_t n = (ssize_t)syscall(SYS_preadv2, fd, &part, 1L, (long)offset,
                                       (long)(offset >> 32), (long)RWF_NOWAIT);
    if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS)) return n;
#endif
    return pread(fd, to, size, (off_t)offset);
}

/* Are that file's bytes in memory, as far as two looks can tell? */
static int fsb_chunk_cached_(int fd, uint64_t offset, size_t size)
{
    char byte;
    return fsb_chunk_pread_now_(fd, &byte, 1, offset) == 1 &&
        fsb_chunk_pread_now_(fd, &byte, 1, offset + size - 1) == 1;
}

/* Does a READ need the disk? No more than a guess, where the descriptor may be another file's by
   now: nothing of what it reads is kept. */
static int fsb_chunk_on_disk_(const fsb_chunk_request_ *req, int fd)
{
    char byte;
    if (req->op.code != FSB_OP_READ || fd < 0 || !req->room) return 0;
    return fsb_chunk_pread_now_(fd, &byte, 1, req->op.offset) < 0 ||
        fsb_chunk_pread_now_(fd, &byte, 1, req->op.offset + req->room - 1) < 0;
}

/* Answers a READ from the page cache: large ones by sendfile, without a copy, small ones into the
   batch. Returns 1 if the disk is needed; else 0, or an error that ends the connection. */
static int fsb_chunk_read_now_(fsb_chunk_request_ *req, int fd)
{
    fsb_op     *op = &req->op;
    struct stat st;
    size_t      size = req->room;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return 1;
    const uint64_t end = st.st_size > 0 ? (uint64_t)st.st_size : 0;
    const uint64_t left = op->offset < end ? end - op->offset : 0;
    if (size > left) size = (size_t)left;
    if (size >= FSB_CHUNK_SENDFILE_MIN_) {
        if (req->conn->stream.sums || !fsb_chunk_cached_(fd, op->offset, size)) return 1;
        req->room = 0;
        if (fsb_chunk_reserve_(req, 1) != 0) return fsb_chunk_refuse_(req, -ENOMEM);
        fsb_chunk_block_ *b = req->block;
        fsb_chunk_answer_(req, (int64_t)size, size + 8, FSB_CHUNK_TRAILER_);
        b->file = fd, b->slot = req->slot, b->offset = op->offset, b->file_left = size;
        fsb_chunk_push_batch_(req->conn);
        return 0;
    }
    req->room = size ? size : 1; /* at the end: is it? files of /proc have size 0 */
    if (fsb_chunk_reserve_(req, 1) != 0) return fsb_chunk_refuse_(req, -ENOMEM);
    const ssize_t n =
        fsb_chunk_pread_now_(fd, fsb_chunk_answer_data_(req), req->room, op->offset);
    if (n != (ssize_t)size) return 1; /* not in memory, or it was cut just now */
    op->result = n;
    fsb_chunk_finish_(req);
    return 0;
}

/* Was this done already, and only the answer lost with a connection? Then it is given again; the
   bytes that an OPEN brings are read again. 1: so it is; 0: it was not done; -ENOMEM: it was, but
   that cannot be said now, and the connection ends, so that it is asked again. */
static int fsb_chunk_repeat_(fsb_chunk_request_ *req)
{
    fsb_chunk_conn_     *conn = req->conn;
    const fsb_allocator *a = &conn->server->desc.allocator;
    const uint32_t       slot = (uint32_t)req->tag;
    fsb_chunk_kept_      kept;
    fsb_chunk_frame_     f;
    fsb_chunk_slot_      file;
    kept.size = 0;
    if (req->op.code == FSB_OP_OPEN && slot >= FSB_CHUNK_KEPT_SLOTS_)
        fsb_chunk_close_repeated_(conn, req->tag);
    pthread_mutex_lock(&conn->lock);
    if (slot < conn->kept_count && conn->kept[slot].tag == req->tag) kept = conn->kept[slot];
    pthread_mutex_unlock(&conn->lock);
    if (!kept.size || fsb_chunk_unseal_(kept.bytes, kept.size, &f) <= 0 || f.op != req->op.code)
        return 0;
    fsb_chunk_block_ *b = fsb_chunk_block_new_(a, kept.size + f.data_size);
    if (!b) return -ENOMEM;
    unsigned char *header = fsb_chunk_block_bytes_(b);
    memcpy(header, kept.bytes, kept.size);
    if (f.data_size) {
        fsb_backend      *backend = conn->share->backend;
        fsb_chunk_cursor_ c = {f.meta, f.meta + f.meta_size, 0};
        fsb_op            op;
        memset(&op, 0, sizeof op);
        memset(&file, 0, sizeof file);
        const int pinned = fsb_chunk_pin_(conn, fsb_chunk_get64_(&c), 0, &file);
        op.code = FSB_OP_READ, op.handle = file.handle, op.size = f.data_size;
        op.buf = header + kept.size;
        if (pinned < 0 || backend->call[FSB_OP_READ](backend, &op) < 0) op.result = 0;
        fsb_chunk_unpin_(conn, pinned);
        f.status = (int32_t)op.result, f.data_size = (uint32_t)op.result;
        fsb_chunk_seal_(header, &f);
    }
    b->size = kept.size + f.data_size;
    fsb_chunk_push_(conn, b, 1);
    return 1;
}

/* One request. `more`: others stand behind it in the buffer. 0, or an error that ends the
   connection. */
static int fsb_chunk_request_run_(fsb_chunk_conn_ *conn, const fsb_chunk_frame_ *f, int more)
{
    fsb_chunk_request_ req;
    fsb_chunk_slot_    slot;
    const fsb_backend *b = conn->share->backend;
    memset(&req, 0, sizeof req);
    memset(&slot, 0, sizeof slot);
    req.conn = conn, req.tag = f->tag, req.slot = req.slot2 = -1;
    req.shape = fsb_chunk_shape_of_(f->op);
    if (!req.shape || f->flags) return -EPROTO;
    const uint32_t limit = conn->server->desc.request_ms, asked = (uint32_t)f->status;
    req.op.code = f->op, req.op.timeout_ms = asked && asked < limit ? asked : limit;
    req.begun = fsb_chunk_now_us_(), req.deadline = req.begun / 1000 + req.op.timeout_ms;
    if (f->op == FSB_OP_EXEC) { /* it may take as long as its client likes */
        req.op.timeout_ms = asked;
        req.deadline = asked ? fsb_chunk_now_ms_() + asked : INT64_MAX;
    }
    fsb_chunk_cursor_ c = {f->meta, f->meta + f->meta_size, 0};
    fsb_chunk_decode_(&c, req.shape->request, &req.op);
    if (c.bad || (f->data_size && !(req.shape->request & FSB_CHUNK_DATA_))) return -EPROTO;
    const int repeats = conn->resumed ? fsb_chunk_repeat_(&req) : 0;
    if (repeats) return repeats < 0 ? repeats : 0;
    if (req.shape->request & FSB_CHUNK_DATA_) {
        if (f->data_size > (uint32_t)FSB_IO_MAX) return -EPROTO;
        req.op.data = f->data, req.op.size = f->data_size;
    }
    uint32_t counts[2];
    if (f->op == FSB_OP_EXEC && fsb_chunk_words_(f->data, f->data_size, counts, NULL) < 0)
        return -EPROTO;
    int err = fsb_chunk_keep_room_(&req);
    if (!err) err = fsb_chunk_admit_(&req, &slot);
    if (err) return fsb_chunk_refuse_(&req, err);
    req.room = fsb_chunk_room_(&req);
    const int as_quick = conn->tenant && __atomic_load_n(&conn->tenant->quick, __ATOMIC_RELAXED);
    const int direct = f->op == FSB_OP_READ && slot.descriptor >= 0 && !as_quick;
    const int later = !(as_quick || b->flags & FSB_BACKEND_QUICK) || f->op == FSB_OP_LOCK ||
        (req.shape->traits & FSB_CHUNK_WAITS_) ||
        (more && (req.shape->traits & FSB_CHUNK_SMALL_)) ||
        (as_quick && fsb_chunk_on_disk_(&req, slot.descriptor));
    if (!later && direct) {
        const int missed = fsb_chunk_read_now_(&req, slot.descriptor);
        if (missed <= 0) return missed;
        req.room = fsb_chunk_room_(&req);
    } else if (!later && fsb_chunk_changes_(&req) && fsb_chunk_leased_elsewhere_(conn)) {
        fsb_chunk_request_ *kept = fsb_chunk_keep_(&req, f); /* its answer may have to wait */
        if (!kept) return fsb_chunk_refuse_(&req, -ENOMEM);
        fsb_chunk_run_(kept);
        return 0;
    } else if (!later) {
        if (fsb_chunk_reserve_(&req, 1) != 0) return fsb_chunk_refuse_(&req, -ENOMEM);
        fsb_chunk_run_(&req);
        return 0;
    }
    return fsb_chunk_defer_(&req, f, slot.file_id);
}

/* ---- [keys] ---------------------------------------------------------------------------------- */

static int64_t fsb_chunk_wall_ns_(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int fsb_chunk_expired_(const fsb_chunk_grant_ *g)
{
    return g->expires_ns && fsb_chunk_wall_ns_() >= g->expires_ns;
}

/* The tenant of a pass, which is made when it first comes; its limits are those of the pass. */
static fsb_chunk_tenant_ *fsb_chunk_tenant_of_(fsb_chunk_server *s, const fsb_chunk_pass *pass)
{
    const fsb_allocator *a = &s->desc.allocator;
    fsb_chunk_tenant_   *made = (fsb_chunk_tenant_ *)fsb_chunk_alloc_(a, sizeof *made), *t;
    if (!made) return NULL;
    made->share = pass->share;
    made->share.rights = FSB_CHUNK_READ | FSB_CHUNK_WRITE | FSB_CHUNK_EXEC;
    made->share.name = fsb_chunk_strdup_(a, pass->share.name);
    made->watch.server = s, made->watch.backend = pass->share.backend;
    made->party.tenant = made;
    const int bad =
        pthread_mutex_init(&made->lock, NULL) != 0 || fsb_chunk_cond_init_(&made->turn) != 0;
    pthread_mutex_lock(&s->lock);
    for (t = s->tenants; t && t->share.backend != pass->share.backend;) t = t->next;
    if (!t && !bad && made->share.name) t = made, t->next = s->tenants, s->tenants = t, made = NULL;
    if (t) {
        pthread_mutex_lock(&t->lock);
        t->limits = pass->limits;
        __atomic_store_n(&t->quick, pass->quick, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (made) {
        if (!bad) pthread_mutex_destroy(&made->lock), pthread_cond_destroy(&made->turn);
        fsb_chunk_strfree_(a, (char *)(uintptr_t)made->share.name);
        fsb_chunk_free_(a, made, sizeof *made);
    }
    return t;
}

static void fsb_chunk_tenants_free_(fsb_chunk_server *s)
{
    fsb_chunk_tenant_ *t;
    while ((t = s->tenants) != NULL) {
        s->tenants = t->next;
        fsb_chunk_unwatch_(&t->watch);
        pthread_mutex_destroy(&t->lock);
        pthread_cond_destroy(&t->turn);
        fsb_chunk_strfree_(&s->desc.allocator, (char *)(uintptr_t)t->share.name);
        fsb_chunk_free_(&s->desc.allocator, t, sizeof *t);
    }
}

/* What a token's identity opens: its grant and its tenant, or an error. */
static int fsb_chunk_admit_token_(fsb_chunk_server *s, const char *identity, size_t size,
                                  fsb_chunk_grant_ *grant, fsb_chunk_tenant_ **tenant)
{
    fsb_chunk_pass pass;
    char           text[FSB_CHUNK_IDENTITY_];
    if (!s->desc.admit || !size || size >= sizeof text) return -EACCES;
    memset(&pass, 0, sizeof pass), memset(grant, 0, sizeof *grant);
    for (size_t i = 0; i < size; ++i)
        if (identity[i] <= ' ' || identity[i] >= 127) return -EACCES;
    memcpy(text, identity, size), text[size] = '\0';
    int err = s->desc.admit(s->desc.admit_user, text, size, &pass);
    pass.token[FSB_CHUNK_TOKEN_MAX] = '\0';
    const fsb_chunk_share *share = &pass.share;
    const size_t           name = !err && share->name ? strlen(share->name) : 0;
    if (!err && (!name || name >= sizeof grant->share || !share->backend ||
                 share->backend->size < sizeof(fsb_backend) || !(share->rights & FSB_CHUNK_READ) ||
                 !strchr(pass.token, ':')))
        err = -EINVAL;
    if (!err) err = fsb_chunk_key_of_token_(pass.token, &grant->key);
    if (!err && strcmp(grant->key.identity, text) != 0) err = -EINVAL;
    if (!err && !(*tenant = fsb_chunk_tenant_of_(s, &pass))) err = -ENOMEM;
    if (!err) {
        grant->rights = share->rights, grant->expires_ns = pass.expires_ns;
        memcpy(grant->share, share->name, name + 1);
        snprintf(grant->name, sizeof grant->name, "%s", share->name);
    }
    explicit_bzero(&pass, sizeof pass);
    return err;
}

/* Does the token still open what it did? Asked when its thread hears of a recheck. */
static int fsb_chunk_recheck_(fsb_chunk_conn_ *conn)
{
    const uint32_t     now = __atomic_load_n(&conn->server->rechecks, __ATOMIC_ACQUIRE);
    fsb_chunk_tenant_ *tenant = NULL;
    fsb_chunk_grant_   g;
    if (!conn->tenant || conn->checked == now) return 0;
    conn->checked = now;
    const char *identity = conn->grant.key.identity;
    const int   err = fsb_chunk_admit_token_(conn->server, identity, strlen(identity), &g, &tenant);
    const int   same = !err && tenant == conn->tenant && g.rights == conn->grant.rights &&
        memcmp(g.key.secret, conn->grant.key.secret, sizeof g.key.secret) == 0;
    if (same) __atomic_store_n(&conn->grant.expires_ns, g.expires_ns, __ATOMIC_RELAXED);
    explicit_bzero(&g, sizeof g);
    return same ? 0 : -EACCES;
}

FSB_API void fsb_chunk_server_recheck(fsb_chunk_server *s)
{
    (void)__atomic_add_fetch(&s->rechecks, 1, __ATOMIC_ACQ_REL);
    pthread_mutex_lock(&s->lock);
    for (fsb_chunk_conn_ *conn = s->conns; conn; conn = conn->next) fsb_chunk_kick_(conn->kick);
    pthread_mutex_unlock(&s->lock);
}

#ifdef FSB_WITH_OPENSSL
/* A client names its key: which one is it? None ends the handshake as a wrong one does. */
static int fsb_chunk_find_key_(SSL *ssl, const unsigned char *identity, size_t size,
                               SSL_SESSION **session)
{
    fsb_chunk_conn_  *conn = (fsb_chunk_conn_ *)SSL_get_app_data(ssl);
    fsb_chunk_server *s = conn->server;
    int               found = 0;
    fsb_chunk_grant_  grant;
    *session = NULL;
    pthread_mutex_lock(&s->lock);
    conn->tenant = NULL;
    for (size_t i = 0; i < s->grant_count && !found; ++i) {
        const fsb_chunk_grant_ *g = &s->grants[i];
        if (size != strlen(g->key.identity) || memcmp(g->key.identity, identity, size) != 0 ||
            fsb_chunk_expired_(g))
            continue;
        conn->grant = *g, found = 1;
    }
    pthread_mutex_unlock(&s->lock);
    if (!found) {
        fsb_chunk_tenant_ *tenant = NULL;
        conn->checked = __atomic_load_n(&s->rechecks, __ATOMIC_ACQUIRE);
        found = fsb_chunk_admit_token_(s, (const char *)identity, size, &grant, &tenant) == 0;
        pthread_mutex_lock(&s->lock);
        if (found) conn->grant = grant, conn->tenant = tenant;
        pthread_mutex_unlock(&s->lock);
        explicit_bzero(&grant, sizeof grant);
    }
    if (found) *session = fsb_chunk_tls_session_(ssl, &conn->grant.key);
    return !found || *session;
}

static fsb_chunk_secure_ *fsb_chunk_secure_server_(const fsb_allocator *a)
{
    fsb_chunk_secure_ *secure = fsb_chunk_secure_new_(a, 1);
    if (secure) SSL_CTX_set_psk_find_session_callback(secure->context, fsb_chunk_find_key_);
    return secure;
}
#else
static fsb_chunk_secure_ *fsb_chunk_secure_server_(const fsb_allocator *a)
{
    return fsb_chunk_secure_new_(a, 1);
}
#endif

/* How often have wrong codes come from there? An entry for it, the stalest if it has none. */
static fsb_chunk_failure_ *fsb_chunk_failure_of_(fsb_chunk_server *s, const unsigned char *from)
{
    fsb_chunk_failure_ *stalest = &s->failures[0];
    for (int i = 0; i < FSB_CHUNK_FAILURES_; ++i) {
        fsb_chunk_failure_ *f = &s->failures[i];
        if (memcmp(f->from, from, sizeof f->from) == 0) return f;
        if (f->until < stalest->until) stalest = f;
    }
    memset(stalest, 0, sizeof *stalest);
    memcpy(stalest->from, from, sizeof stalest->from);
    return stalest;
}

/* Who failed before has to wait, 0.2 s, doubled up to 3.2 s; others do not. Unproven connections
   are few for each address, so that not more than those wait. */
static int fsb_chunk_hold_back_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_server *s = conn->server;
    struct pollfd     p[2] = {{s->wake, POLLIN, 0}, {conn->stream.in, 0, 0}};
    if (!conn->secure) return 0;
    pthread_mutex_lock(&s->lock);
    const int64_t wait = fsb_chunk_failure_of_(s, conn->from)->until - fsb_chunk_now_ms_();
    pthread_mutex_unlock(&s->lock);
    return wait > 0 && poll(p, 2, (int)wait) > 0 ? -ECANCELED : 0;
}

/* It has shown a right code, or a wrong one, or is gone before. 1: it had to make room. */
static int fsb_chunk_judge_(fsb_chunk_conn_ *conn, int right, int wrong)
{
    fsb_chunk_server *s = conn->server;
    pthread_mutex_lock(&s->lock);
    const int ousted = conn->unproven == 2;
    if (conn->secure) s->unproven -= conn->unproven == 1;
    s->leaving -= ousted ? 1 : 0, conn->unproven = 0;
    if (conn->secure && (right || wrong)) {
        fsb_chunk_failure_ *f = fsb_chunk_failure_of_(s, conn->from);
        if (right) f->count = 0, f->until = 0;
        if (wrong) fsb_chunk_count_(&s->stats.refused, 1);
        if (wrong) f->until = fsb_chunk_now_ms_() + (100ll << (f->count < 5 ? ++f->count : 5));
    }
    pthread_mutex_unlock(&s->lock);
    return ousted;
}

/* Who has a code shows it in no time, and who has none to show says hello: so those who just sit
   there make room for others, the oldest first, and however many they are, they keep nobody out. */

/* Lock held. */
static void fsb_chunk_oust_(fsb_chunk_server *s, fsb_chunk_conn_ *conn)
{
    fsb_chunk_stream_shut_(&conn->stream);
    if (conn->secure) --s->unproven;
    conn->unproven = 2, ++s->leaving;
}

/* Is there a place for one more, or somebody who has to give up his? Lock held. */
static int fsb_chunk_has_room_(fsb_chunk_server *s)
{
    fsb_chunk_conn_ *oldest = NULL;
    if (s->connections - s->leaving < s->desc.max_clients) return 1;
    for (fsb_chunk_conn_ *c = s->conns; c; c = c->next) /* the youngest comes first */
        if (c->unproven == 1) oldest = c;
    if (!oldest || s->leaving >= s->desc.max_unproven) return 0;
    fsb_chunk_oust_(s, oldest);
    return 1;
}

/* One more that has not shown a code: if there are too many of these, the oldest goes, of its own
   address if that has its share. Lock held. */
static void fsb_chunk_let_in_(fsb_chunk_server *s, fsb_chunk_conn_ *conn)
{
    fsb_chunk_conn_ *oldest = NULL, *own = NULL;
    uint32_t         same = 0;
    for (fsb_chunk_conn_ *c = s->conns; c; c = c->next) { /* the youngest comes first */
        if (c->unproven != 1 || !c->secure) continue;
        oldest = c;
        if (memcmp(c->from, conn->from, sizeof c->from) == 0) own = c, ++same;
    }
    fsb_chunk_conn_ *goes = same >= s->desc.max_unproven_each ? own
        : s->unproven >= s->desc.max_unproven                 ? oldest
                                                              : NULL;
    if (goes) fsb_chunk_oust_(s, goes);
    ++s->unproven;
}

/* The peer's address as IPv6, but only its first half, which is one customer's; zero if it has
   none. */
static void fsb_chunk_from_(int fd, unsigned char from[16])
{
    struct sockaddr_storage name;
    socklen_t               size = sizeof name;
    memset(from, 0, 16);
    if (getpeername(fd, (struct sockaddr *)&name, &size) != 0) return;
    if (name.ss_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &name, sizeof in6);
        memcpy(from, &in6.sin6_addr, IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) ? 16 : 8);
    } else if (name.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &name, sizeof in);
        from[10] = from[11] = 0xff;
        memcpy(from + 12, &in.sin_addr, 4);
    }
}

static int fsb_chunk_grant_set_(fsb_chunk_grant_ *g, const fsb_chunk_code *code)
{
    const size_t share = code->share ? strlen(code->share) : 0;
    const int    rights = FSB_CHUNK_READ | FSB_CHUNK_WRITE | FSB_CHUNK_EXEC;
    if (!code->code || share >= sizeof g->share || !(code->rights & FSB_CHUNK_READ) ||
        code->rights & ~(uint32_t)rights)
        return -EINVAL;
    memset(g, 0, sizeof *g);
    g->rights = code->rights, g->expires_ns = code->expires_ns;
    if (share) memcpy(g->share, code->share, share);
    snprintf(g->name, sizeof g->name, "%s", code->name ? code->name : "");
    return fsb_chunk_key_of_(code->code, &g->key);
}

static void fsb_chunk_grants_free_(const fsb_allocator *a, fsb_chunk_grant_ *grants, size_t count)
{
    if (grants) explicit_bzero(grants, count * sizeof *grants);
    fsb_chunk_free_(a, grants, count * sizeof *grants);
}

/* Has those go whose code is not in the list any more as it was. Lock held. */
static void fsb_chunk_revoke_(fsb_chunk_server *s)
{
    for (fsb_chunk_conn_ *conn = s->conns; conn; conn = conn->next) {
        int stays = !conn->secure || !conn->grant.rights || conn->tenant;
        for (size_t i = 0; i < s->grant_count && !stays; ++i) {
            const fsb_chunk_grant_ *g = &s->grants[i];
            stays = strcmp(g->key.identity, conn->grant.key.identity) == 0 &&
                g->rights == conn->grant.rights && strcmp(g->share, conn->grant.share) == 0;
            if (stays) __atomic_store_n(&conn->grant.expires_ns, g->expires_ns, __ATOMIC_RELAXED);
        }
        if (!stays) __atomic_store_n(&conn->revoked, 1, __ATOMIC_RELAXED);
        if (!stays || conn->grant.expires_ns) fsb_chunk_kick_(conn->kick); /* it counts the time */
    }
}

FSB_API int fsb_chunk_server_set_codes(fsb_chunk_server *s, const fsb_chunk_code *codes,
                                       size_t count)
{
    fsb_chunk_grant_ *grants = NULL;
    if (!s || (count && !codes) || count > SIZE_MAX / sizeof *grants) return -EINVAL;
    const fsb_allocator *a = &s->desc.allocator;
    if (count) grants = (fsb_chunk_grant_ *)fsb_chunk_alloc_(a, count * sizeof *grants);
    int err = count && !grants ? -ENOMEM : 0;
    for (size_t i = 0; i < count && !err; ++i) err = fsb_chunk_grant_set_(&grants[i], &codes[i]);
    if (err) {
        fsb_chunk_grants_free_(a, grants, count);
        return err;
    }
    pthread_mutex_lock(&s->lock);
    fsb_chunk_grant_ *const old = s->grants;
    const size_t            old_count = s->grant_count;
    s->grants = grants, s->grant_count = count;
    fsb_chunk_revoke_(s);
    pthread_mutex_unlock(&s->lock);
    fsb_chunk_grants_free_(a, old, old_count);
    return 0;
}

/* ---- [connection] ---------------------------------------------------------------------------- */

enum { FSB_CHUNK_IN_ = 16 << 10 }; /* bytes of the buffer of a client at rest */

/* A share that the client's code does not open is not there for it. */
static const fsb_chunk_share *fsb_chunk_share_find_(const fsb_chunk_conn_ *conn, const char *name)
{
    const fsb_chunk_server *s = conn->server;
    const char             *only = conn->secure && conn->grant.share[0] ? conn->grant.share : NULL;
    if (conn->tenant) {
        const fsb_chunk_share *own = &conn->tenant->share;
        return !name || strcmp(own->name, name) == 0 ? own : NULL;
    }
    for (size_t i = 0; i < s->desc.share_count; ++i)
        if ((!name || strcmp(s->shares[i].name, name) == 0) &&
            (!only || strcmp(s->shares[i].name, only) == 0))
            return &s->shares[i];
    return NULL;
}

static uint64_t fsb_chunk_served_(const fsb_chunk_share *share) /* bit n: FSB_OP n */
{
    uint64_t bits = UINT64_C(1) << FSB_OP_LOCK;
    for (uint32_t i = 1; i < FSB_OP_COUNT; ++i)
        if (share->backend->call[i] && fsb_chunk_shape_of_(i)) bits |= UINT64_C(1) << i;
    return bits;
}

/* ---- [return] -------------------------------------------------------------------------------- */

/* A client that comes back. Its former connection, which may not know yet that it is lost, first
   ends what was under way; then files, locks and answers pass to the new one, and what the client
   repeats because the answer was lost is answered from those. */

static int fsb_chunk_say_(fsb_chunk_conn_ *conn, uint32_t op, uint32_t flags, uint64_t tag)
{
    fsb_chunk_block_ *b = fsb_chunk_block_new_(&conn->server->desc.allocator, FSB_CHUNK_HEADER_);
    fsb_chunk_frame_  f;
    if (!b) return -ENOMEM;
    memset(&f, 0, sizeof f);
    f.op = op, f.flags = flags, f.tag = tag;
    fsb_chunk_seal_(fsb_chunk_block_bytes_(b), &f);
    b->size = FSB_CHUNK_HEADER_;
    fsb_chunk_push_(conn, b, 1);
    return 0;
}

/* The same client's last connection before this one, which may be waiting for one before it. Nobody
   but the client knows the id, yet the code must be the same too. Lock held. */
static fsb_chunk_conn_ *fsb_chunk_former_(const fsb_chunk_conn_ *conn, const fsb_chunk_share *share)
{
    for (fsb_chunk_conn_ *c = conn->server->conns; c; c = c->next)
        if (c->number < conn->number && c->stays && c->share == share &&
            c->secure == conn->secure &&
            memcmp(c->id, conn->id, sizeof c->id) == 0 &&
            strcmp(c->grant.key.identity, conn->grant.key.identity) == 0)
            return c;
    return NULL;
}

/* Hello of a client that stays: waits until its former connection has passed on what it had, or, if
   this is a new life of the client, has given it up. */
static void fsb_chunk_return_(fsb_chunk_conn_ *conn, const fsb_chunk_share *share, uint32_t wants)
{
    fsb_chunk_server *s = conn->server;
    fsb_chunk_conn_  *former;
    pthread_mutex_lock(&s->lock);
    conn->share = share, conn->heard = fsb_chunk_now_ms_();
    conn->stays = s->desc.away_ms != FSB_CHUNK_NEVER && conn->owns; /* the next finds this one */
    while ((former = fsb_chunk_former_(conn, share)) != NULL) {
        fsb_chunk_conn_ *none = NULL;
        if (!(wants & FSB_CHUNK_BACK_)) __atomic_store_n(&former->leaves, 1, __ATOMIC_RELAXED);
        else (void)__atomic_compare_exchange_n(&former->heir, &none, conn, 0, __ATOMIC_ACQ_REL,
                                               __ATOMIC_ACQUIRE);
        fsb_chunk_kick_(former->kick);
        pthread_cond_wait(&s->changed, &s->lock);
    }
    conn->heard = fsb_chunk_now_ms_();
    pthread_mutex_unlock(&s->lock);
}

/* Passes on what the client had. The heir waits for this in its hello. */
static void fsb_chunk_bequeath_(fsb_chunk_conn_ *conn, fsb_chunk_conn_ *heir)
{
    fsb_chunk_server *s = conn->server;
    fsb_chunk_close_gone_(conn);
    pthread_mutex_lock(&s->locks_lock);
    for (unsigned i = 0; i < FSB_CHUNK_BUCKETS_; ++i)
        for (fsb_chunk_lock_ *l = s->held[i]; l; l = l->next)
            if (l->conn == conn) l->conn = heir;
    heir->locks = conn->locks, conn->locks = 0;
    pthread_mutex_unlock(&s->locks_lock);
    pthread_mutex_lock(&s->lock); /* who renames something looks at the slots of both */
    pthread_mutex_lock(&heir->lock);
    heir->slots = conn->slots, heir->slot_count = conn->slot_count;
    heir->slot_free = conn->slot_free;
    heir->kept = conn->kept, heir->kept_count = conn->kept_count;
    heir->resumed = 1;
    pthread_mutex_unlock(&heir->lock);
    conn->slots = NULL, conn->slot_count = 0, conn->slot_free = -1;
    conn->kept = NULL, conn->kept_count = 0;
    pthread_mutex_unlock(&s->lock);
}

/* A descriptor that is readable once the process at the other end of a unix socket has ended: it
   will not come back, and others wait for its locks. -1: not to be told; -ESRCH it has ended. */
static int fsb_chunk_peer_(int fd)
{
#ifdef SYS_pidfd_open
    struct ucred peer;
    socklen_t    size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0) {
        const int process = (int)syscall(SYS_pidfd_open, (long)peer.pid, 0L);
        return process >= 0 ? process : errno == ESRCH ? -ESRCH : -1;
    }
#endif
    (void)fd;
    return -1;
}

/* The connection is lost, the client may come back: waits for that. Returns the new connection, or
   NULL when it is time to give up what the client had. */
static fsb_chunk_conn_ *fsb_chunk_linger_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_server *s = conn->server;
    const int64_t     until = fsb_chunk_now_ms_() + s->desc.away_ms;
    const int         peer = fsb_chunk_peer_(conn->stream.in);
    struct pollfd     p[3] = {{conn->kick, POLLIN, 0}, {s->wake, POLLIN, 0}, {peer, POLLIN, 0}};
    fsb_chunk_conn_  *heir;
    uint64_t          count;
    fsb_chunk_tls_close_(&conn->stream);
    if (conn->stream.in != conn->stream.out) close(conn->stream.in);
    close(conn->stream.out);
    conn->owns = 0;
    fsb_chunk_free_(&s->desc.allocator, conn->in, conn->in_size);
    conn->in = NULL, conn->in_size = 0;
    for (;;) {
        const int64_t left = until - fsb_chunk_now_ms_();
        heir = __atomic_load_n(&conn->heir, __ATOMIC_ACQUIRE);
        if (heir || left <= 0 || peer == -ESRCH || p[1].revents || p[2].revents ||
            __atomic_load_n(&conn->leaves, __ATOMIC_RELAXED) ||
            __atomic_load_n(&conn->revoked, __ATOMIC_RELAXED) || fsb_chunk_recheck_(conn) != 0)
            break;
        if (poll(p, 3, left < INT_MAX ? (int)left : INT_MAX) > 0 && p[0].revents)
            (void)!read(conn->kick, &count, sizeof count);
    }
    if (peer >= 0) close(peer);
    return heir;
}

/* The first frame. An error ends the connection, once the client was told. */
static int fsb_chunk_hello_(fsb_chunk_conn_ *conn, const fsb_chunk_frame_ *f)
{
    fsb_chunk_cursor_ c = {f->meta, f->meta + f->meta_size, 0};
    const uint32_t    low = fsb_chunk_get16_(&c), high = fsb_chunk_get16_(&c);
    const uint32_t    wants = fsb_chunk_get32_(&c);
    const void *const id = fsb_chunk_step_(&c, sizeof conn->id);
    const char *const name = fsb_chunk_get_string_(&c);
    if (f->op != FSB_CHUNK_HELLO_ || f->flags || f->data_size || c.bad || c.end - c.at >= 8)
        return -EPROTO;
    fsb_chunk_block_ *b = fsb_chunk_block_new_(&conn->server->desc.allocator, 64);
    if (!b) return -ENOMEM;
    const fsb_chunk_share *share = fsb_chunk_share_find_(conn, name);
    unsigned char         *header = fsb_chunk_block_bytes_(b), *meta = header + FSB_CHUNK_HEADER_;
    fsb_chunk_frame_       answer;
    memset(&answer, 0, sizeof answer);
    answer.op = f->op, answer.flags = FSB_CHUNK_ANSWER_, answer.tag = f->tag;
    const int err = low > FSB_CHUNK_VERSION_ || high < FSB_CHUNK_VERSION_ ? -EPROTO
        : share                                                           ? 0
                                                                          : -ENOENT;
    memcpy(conn->id, id, sizeof conn->id);
    (void)fsb_chunk_judge_(conn, 1, 0);
    if (!err && (wants & FSB_CHUNK_STAYS_)) fsb_chunk_return_(conn, share, wants);
    if (err) answer.status = -fsb_chunk_error_to_wire_(-err);
    else {
        fsb_chunk_cursor_ w = {meta, meta + 32, 0};
        fsb_chunk_put16_(&w, FSB_CHUNK_VERSION_);
        conn->rights = conn->secure ? share->rights & conn->grant.rights : share->rights;
        fsb_chunk_put16_(&w, conn->rights);
        fsb_chunk_put32_(&w, conn->server->desc.max_requests);
        fsb_chunk_put64_(&w, conn->server->boot_id);
        fsb_chunk_put64_(&w, fsb_chunk_served_(share));
        fsb_chunk_put32_(&w, FSB_IO_MAX);
        fsb_chunk_put32_(&w, conn->resumed ? 1 : 0);
        answer.meta_size = 32;
    }
    fsb_chunk_seal_(header, &answer);
    b->size = FSB_CHUNK_HEADER_ + answer.meta_size;
    if (!err) conn->share = share;
    fsb_chunk_push_(conn, b, 1);
    if (conn->resumed) fsb_chunk_count_(&conn->server->stats.returned, 1);
    if (conn->tenant) fsb_chunk_count_(&conn->server->stats.tokens, 1);
    if (!err) fsb_chunk_audit_(conn->server, conn, "connect", NULL, NULL, 0);
    fsb_chunk_log_(&conn->server->desc.log, FSB_LOG_INFO, "chunk/client",
                   "client %llu: share %.255s%s%s%s", (unsigned long long)conn->number,
                   share ? share->name : "that is none", err ? ": refused" : "",
                   conn->tenant             ? ", token of "
                       : conn->grant.name[0] ? ", code "
                                             : "",
                   conn->grant.name);
    return err;
}

static int fsb_chunk_frame_run_(fsb_chunk_conn_ *conn, const fsb_chunk_frame_ *f, int more)
{
    if (!conn->share) return fsb_chunk_hello_(conn, f);
    if (f->op == FSB_CHUNK_PING_ || f->op == FSB_CHUNK_GOODBYE_) {
        if (f->flags || f->data_size || f->meta_size) return -EPROTO;
        if (f->op == FSB_CHUNK_PING_) return fsb_chunk_say_(conn, f->op, FSB_CHUNK_ANSWER_, f->tag);
        __atomic_store_n(&conn->leaves, 1, __ATOMIC_RELAXED);
        return 0;
    }
    if (f->op == FSB_CHUNK_SEEN_) {
        if (f->flags || f->data_size || f->meta_size) return -EPROTO;
        if (!__atomic_load_n(&conn->told, __ATOMIC_ACQUIRE)) return -EPROTO;
        fsb_chunk_seen_(conn, f->tag);
        return 0;
    }
    if (f->op != FSB_CHUNK_CANCEL_) return fsb_chunk_request_run_(conn, f, more);
    fsb_chunk_cursor_ c = {f->meta, f->meta + f->meta_size, 0};
    const uint64_t    tag = fsb_chunk_get64_(&c);
    if (c.bad || f->flags || f->data_size) return -EPROTO;
    fsb_chunk_lock_leave_(conn, &tag, 0);
    fsb_chunk_exec_cancel_(conn, &tag);
    return 0;
}

/* Past its limits a client is not read: what it asked for must be done, or taken, first. LOCKs do
   not count: what they wait for may be an UNLOCK of this very client. */
static int fsb_chunk_throttled_(fsb_chunk_conn_ *conn)
{
    const fsb_chunk_server_desc *d = &conn->server->desc;
    pthread_mutex_lock(&conn->lock);
    const int yes = conn->pending - conn->parked >= d->max_requests ||
        conn->held + conn->queued > d->max_bytes - (2u << 20); /* room for one more */
    pthread_mutex_unlock(&conn->lock);
    return yes;
}

/* Does its tenant's rate have it wait with this frame? Its turn, once given, stays. */
static int fsb_chunk_waits_turn_(fsb_chunk_conn_ *conn, const fsb_chunk_frame_ *f)
{
    if (!conn->tenant || !conn->share || f->op >= FSB_OP_COUNT) return 0;
    const int64_t now = fsb_chunk_now_ms_();
    if (!conn->turn_at) {
        conn->turn_at = fsb_chunk_rate_(conn->tenant, 1, f->data_size);
        if (conn->turn_at > now) {
            fsb_chunk_count_(&conn->server->stats.delayed, 1);
            fsb_chunk_count_(&conn->server->stats.delayed_ms, (uint64_t)(conn->turn_at - now));
        }
    }
    if (conn->turn_at > now) return 1;
    conn->turn_at = 0;
    return 0;
}

/* How many clients of the tenant are served at once: any number, while no other tenant asks for
   anything; else a part of the processors. The kernel is fair to threads, so that a tenant with
   many clients would have most of them, and others wait behind each. Lock held. */
static uint32_t fsb_chunk_turns_(fsb_chunk_server *s, const fsb_chunk_tenant_ *t)
{
    enum { MIXED_MS = 100 };
    const int64_t now = fsb_chunk_now_ms_();
    if (__atomic_exchange_n(&s->turn_last, t, __ATOMIC_RELAXED) != t)
        __atomic_store_n(&s->turn_mixed, now, __ATOMIC_RELAXED);
    const int64_t mixed = __atomic_load_n(&s->turn_mixed, __ATOMIC_RELAXED);
    return now - mixed < MIXED_MS ? s->turns : UINT32_MAX;
}

/* A tenant's client waits until it may be served; not for ever, as one of those that are may wait
   for a disk itself; but for longer than a round of many takes, or they are all served at once. */
static void fsb_chunk_turn_take_(fsb_chunk_conn_ *conn)
{
    enum { PATIENCE_MS = 200 };
    fsb_chunk_tenant_ *t = conn->tenant;
    if (!t || !conn->share) return;
    pthread_mutex_lock(&t->lock);
    if (t->turns >= fsb_chunk_turns_(conn->server, t)) {
        const int64_t         ms = fsb_chunk_now_ms_() + PATIENCE_MS;
        const struct timespec until = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
        int                   err = 0;
        fsb_chunk_count_(&conn->server->stats.held, 1);
        while (!err && t->turns >= fsb_chunk_turns_(conn->server, t))
            err = pthread_cond_timedwait(&t->turn, &t->lock, &until);
    }
    conn->turn = 1, ++t->turns;
    pthread_mutex_unlock(&t->lock);
}

static void fsb_chunk_turn_give_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_tenant_ *t = conn->tenant;
    if (!conn->turn) return;
    conn->turn = 0;
    pthread_mutex_lock(&t->lock);
    --t->turns;
    pthread_cond_signal(&t->turn);
    pthread_mutex_unlock(&t->lock);
}

/* Before each frame of a turn. The kernel lets who runs go on for milliseconds, also when others'
   threads have been woken: a client with many requests leaves them the processor now and then. */
static void fsb_chunk_turn_share_(fsb_chunk_conn_ *conn)
{
    enum { AT_ONCE = 8 };
    if (!conn->turn || ++conn->turn <= AT_ONCE) return;
    conn->turn = 1;
    if (fsb_chunk_turns_(conn->server, conn->tenant) != UINT32_MAX) sched_yield();
}

/* The first frame has to wait. What stands behind it and costs the host nothing does not wait with
   it: others may wait for that. It is taken out of the buffer. Returns 1, or an error. */
static int fsb_chunk_look_ahead_(fsb_chunk_conn_ *conn)
{
    unsigned char *const in = conn->in + conn->in_start;
    const size_t         have = conn->in_end - conn->in_start;
    size_t               at = conn->in_waits, kept = at;
    fsb_chunk_frame_     f;
    int64_t              whole;
    while ((whole = fsb_chunk_unseal_(in + at, have - at, &f)) > 0 && (size_t)whole <= have - at) {
        const int free = f.op == FSB_CHUNK_SEEN_ || f.op == FSB_CHUNK_PING_ ||
            f.op == FSB_CHUNK_GOODBYE_;
        const int err = free ? fsb_chunk_frame_run_(conn, &f, 0) : 0;
        if (err) return err;
        if (!free) {
            if (kept != at) memmove(in + kept, in + at, (size_t)whole);
            kept += (size_t)whole;
        }
        at += (size_t)whole;
    }
    if (kept != at) memmove(in + kept, in + at, have - at);
    conn->in_waits = kept, conn->in_end -= at - kept;
    return whole < 0 ? (int)whole : 1;
}

/* Is a client that is past its limits read all the same? While others wait for its SEEN, which may
   stand behind what has to wait: so far as the buffer may grow. */
static int fsb_chunk_reads_on_(fsb_chunk_conn_ *conn)
{
    return __atomic_load_n(&conn->ack_deadline, __ATOMIC_RELAXED) &&
        conn->in_end - conn->in_start <= conn->server->desc.max_bytes / 2;
}

/* Runs the frames that are whole. Returns 1 if it stopped at a limit, 0 if it wants more bytes. */
static int fsb_chunk_frames_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_frame_ f, next;
    for (;;) {
        const size_t  have = conn->in_end - conn->in_start;
        const int64_t whole = fsb_chunk_unseal_(conn->in + conn->in_start, have, &f);
        if (whole < 0) return (int)whole;
        if (!whole || (size_t)whole > have) return 0;
        conn->in_deadline = 0;
        if (fsb_chunk_throttled_(conn) || fsb_chunk_waits_turn_(conn, &f))
            return fsb_chunk_look_ahead_(conn);
        fsb_chunk_turn_share_(conn);
        const size_t  rest = have - (size_t)whole;
        const int64_t after = fsb_chunk_unseal_(conn->in + conn->in_start + whole, rest, &next);
        conn->in_start += (size_t)whole;
        conn->in_waits -= conn->in_waits ? (size_t)whole : 0;
        const int err = fsb_chunk_frame_run_(conn, &f, after > 0 && (size_t)after <= rest);
        if (err) return err;
    }
}

static int fsb_chunk_in_resize_(fsb_chunk_conn_ *conn, size_t size)
{
    unsigned char *in = (unsigned char *)fsb_chunk_resize_(&conn->server->desc.allocator, conn->in,
                                                           conn->in_size, size);
    if (!in) return -ENOMEM;
    conn->in = in, conn->in_size = size;
    return 0;
}

/* Makes room behind the bytes that are there: for the whole of the frame that is not. Behind others
   that wait the buffer grows by halves, as it may have to grow far. */
static int fsb_chunk_make_room_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_frame_     f;
    const size_t         have = conn->in_end - conn->in_start, waits = conn->in_waits;
    unsigned char *const rest = conn->in + conn->in_start + waits;
    const int64_t        whole = fsb_chunk_unseal_(rest, have - waits, &f);
    if (whole < 0) return (int)whole;
    const size_t need =
        waits + (waits && whole < FSB_CHUNK_IN_ ? (size_t)FSB_CHUNK_IN_ : (size_t)whole);
    if (conn->in_start &&
        (!have || conn->in_size - conn->in_start < FSB_CHUNK_IN_ / 2 ||
         conn->in_size - conn->in_start < need)) {
        memmove(conn->in, conn->in + conn->in_start, have);
        conn->in_start = 0, conn->in_end = have;
    }
    if (need <= conn->in_size) return 0;
    const size_t more = waits && need < conn->in_size + conn->in_size / 2
        ? conn->in_size + conn->in_size / 2 : need;
    return fsb_chunk_in_resize_(conn, (more + 0xffff) & ~(size_t)0xffff);
}

/* A client that begins with a record goes on with records, and is answered in them. */
static int fsb_chunk_take_sums_(fsb_chunk_conn_ *conn)
{
    static const unsigned char magic[4] = {'F', 'S', 'B', 'S'};
    if (conn->stream.sums || conn->in_end < 4 || memcmp(conn->in, magic, 4) != 0) return 0;
    const size_t size = conn->in_end;
    conn->in_end = 0;
    return fsb_chunk_sums_open_(&conn->stream, conn->in, size, &conn->server->desc.allocator);
}

/* Reads what is there, up to the end of a large frame. Returns 0, or an error: -EPIPE at the end.
   */
static int fsb_chunk_fill_(fsb_chunk_conn_ *conn)
{
    const int err = fsb_chunk_make_room_(conn);
    if (err) return err;
    const int64_t n =
        fsb_chunk_recv_(&conn->stream, conn->in + conn->in_end, conn->in_size - conn->in_end);
    if (n == -EAGAIN) return 0;
    if (n <= 0) return n ? (int)n : -EPIPE;
    conn->in_end += (size_t)n, conn->heard = fsb_chunk_now_ms_();
    fsb_chunk_count_(&conn->server->stats.bytes_in, (uint64_t)n);
    return conn->share || conn->secure ? 0 : fsb_chunk_take_sums_(conn);
}

/* A frame once begun must go on: each 64 KiB of it within frame_ms; so must answers that are taken,
   and hello must come. Returns ms to wait, -1 for ever, or -ETIMEDOUT. */
static int fsb_chunk_patience_(fsb_chunk_conn_ *conn, int reads, int64_t now, int64_t hello)
{
    const int64_t limit = conn->server->desc.frame_ms;
    int64_t       until = conn->share ? INT64_MAX : hello;
    const int64_t have =
        reads ? (int64_t)(conn->in_end - conn->in_start - conn->in_waits) : 0;
    if (have && (!conn->in_deadline || have - conn->in_mark >= (64 << 10)))
        conn->in_deadline = now + limit, conn->in_mark = have;
    if (have && conn->in_deadline < until) until = conn->in_deadline;
    if (conn->stays && conn->heard + FSB_CHUNK_SILENT_MS_ < until)
        until = conn->heard + FSB_CHUNK_SILENT_MS_;
    const int64_t look = conn->heard + (conn->asked ? 2 : 1) * FSB_CHUNK_PING_MS_;
    const int64_t ack = __atomic_load_n(&conn->ack_deadline, __ATOMIC_RELAXED);
    if (ack && ack < until) until = ack;
    pthread_mutex_lock(&conn->lock);
    if ((conn->head || fsb_chunk_unsent_(&conn->stream)) && conn->moved + limit < until)
        until = conn->moved + limit;
    pthread_mutex_unlock(&conn->lock);
    const int64_t expires = __atomic_load_n(&conn->grant.expires_ns, __ATOMIC_RELAXED);
    int64_t       most = INT64_MAX; /* the wall clock may be set: at least a look a minute */
    if (expires) most = (expires - fsb_chunk_wall_ns_()) / 1000000 + 1;
    if (expires && most > 60000) most = 60000;
    if (most < 1 || conn->in_size > FSB_CHUNK_IN_ || conn->batch) most = most < 1000 ? most : 1000;
    if (until <= now) return -ETIMEDOUT;
    if (conn->stays && !reads && now < look && look < until) until = look;
    if (conn->turn_at && conn->turn_at < until) until = conn->turn_at > now ? conn->turn_at : now;
    if (until - now > most) return most > 0 ? (int)most : 1;
    return until == INT64_MAX ? -1 : until - now < INT_MAX ? (int)(until - now) : INT_MAX;
}

/* Nothing for a second: back to the memory of a client at rest. */
static void fsb_chunk_rest_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_block_free_(conn, conn->batch);
    conn->batch = NULL;
    if (conn->in_end == conn->in_start && conn->in_size > FSB_CHUNK_IN_) {
        conn->in_start = conn->in_end = 0;
        (void)fsb_chunk_in_resize_(conn, FSB_CHUNK_IN_);
    }
}

/* Is a client that stays silent only because nobody listens to it? What stands unread now was said
   in time. One that is not read, as its requests have to wait, is told now and then that we are
   here, and is there itself if it takes that. */
static void fsb_chunk_listen_(fsb_chunk_conn_ *conn, int reads, int64_t now)
{
    struct pollfd p = {conn->stream.in, POLLIN, 0};
    int           left = 0;
    if (reads) conn->asked = 0;
    if (!conn->stays || now - conn->heard < FSB_CHUNK_PING_MS_) return;
    if (reads) {
        if (poll(&p, 1, 0) > 0 && p.revents & POLLIN) conn->heard = now;
    } else if (!conn->asked) {
        conn->asked = fsb_chunk_say_(conn, FSB_CHUNK_PING_, FSB_CHUNK_ANSWER_, 0) == 0;
    } else {
        (void)ioctl(conn->stream.out, TIOCOUTQ, &left); /* what its system has not got yet */
        if (!left) conn->heard = now, conn->asked = 0;
    }
}

/* Waits for bytes, for room to send, for a kick. Returns 1 when there are bytes to read. A client
   that is not read is still watched: what it holds, locks above all, ends when it goes. */
static int fsb_chunk_wait_(fsb_chunk_conn_ *conn, int reads, int64_t hello)
{
    struct pollfd p[4] = {{conn->stream.in, POLLIN, 0},
                          {conn->kick, POLLIN, 0},
                          {conn->server->wake, POLLIN, 0},
                          {conn->stream.out, POLLOUT, 0}};
    uint64_t      count;
    const int64_t now = fsb_chunk_now_ms_();
    fsb_chunk_listen_(conn, reads, now);
    const int patience = fsb_chunk_patience_(conn, reads, now, hello);
    if (patience == -ETIMEDOUT) return -ETIMEDOUT;
    if (__atomic_load_n(&conn->revoked, __ATOMIC_RELAXED) || fsb_chunk_expired_(&conn->grant))
        return -EACCES;
    if (fsb_chunk_recheck_(conn) != 0) return -EACCES;
    if (__atomic_load_n(&conn->heir, __ATOMIC_ACQUIRE)) return -ENOTCONN;
    if (__atomic_load_n(&conn->leaves, __ATOMIC_RELAXED)) return -ECONNRESET;
    const int ready = reads && fsb_chunk_ready_(&conn->stream);
    pthread_mutex_lock(&conn->lock);
    const int sends =
        (conn->head != NULL || fsb_chunk_unsent_(&conn->stream)) && !conn->sending;
    const int broken = conn->broken;
    pthread_mutex_unlock(&conn->lock);
    if (broken) return broken;
    if (!reads) p[0].events = POLLRDHUP;
    const int own = conn->stream.in == conn->stream.out; /* no command's, see the client's wait */
    const int n = fsb_chunk_poll_(p, sends ? 4 : 3, ready ? 0 : patience, own ? &conn->pace : NULL);
    if (n < 0) return errno == EINTR ? 0 : -errno;
    if (n == 0) {
        if (!ready) fsb_chunk_rest_(conn);
        return ready;
    }
    if (p[2].revents) return -ECANCELED;
    if (p[1].revents) (void)!read(conn->kick, &count, sizeof count);
    if (sends && p[3].revents & POLLOUT) conn->heard = fsb_chunk_now_ms_(); /* who takes is there */
    fsb_chunk_flush_(conn, NULL);
    if (!reads) return p[0].revents ? -EPIPE : 0;
    return ready || p[0].revents != 0;
}

/* Serves until the client leaves or breaks the rules; the return value says which. */
static int fsb_chunk_loop_(fsb_chunk_conn_ *conn)
{
    const int64_t hello = fsb_chunk_now_ms_() + conn->server->desc.hello_ms;
    for (;;) {
        const int full = fsb_chunk_frames_(conn);
        fsb_chunk_push_batch_(conn);
        fsb_chunk_close_gone_(conn);
        fsb_chunk_turn_give_(conn);
        if (full < 0) return full;
        const int ready = fsb_chunk_wait_(conn, !full || fsb_chunk_reads_on_(conn), hello);
        if (ready < 0) return ready;
        if (ready || conn->in_end > conn->in_start) fsb_chunk_turn_take_(conn);
        if (ready) {
            const int err = fsb_chunk_fill_(conn);
            if (err) fsb_chunk_turn_give_(conn);
            if (err) return err == -EPIPE && conn->in_end == conn->in_start ? 0 : err;
        }
    }
}

/* What was not sent never will be: the files behind it are unpinned while they are still ours. */
static void fsb_chunk_drop_queue_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_block_free_(conn, conn->batch);
    conn->batch = NULL;
    while (conn->head) {
        fsb_chunk_block_ *b = conn->head;
        conn->head = b->next;
        fsb_chunk_block_free_(conn, b);
    }
    conn->tail = NULL, conn->queued = 0;
}

static void fsb_chunk_conn_free_(fsb_chunk_conn_ *conn)
{
    const fsb_allocator *a = &conn->server->desc.allocator;
    for (int i = 0; i < conn->slot_count; ++i)
        if (conn->slots[i].handle) {
            (void)fsb_chunk_close_handle_(conn, conn->slots[i].handle);
            fsb_chunk_strfree_(a, conn->slots[i].path);
        }
    fsb_chunk_free_(a, conn->slots, (size_t)conn->slot_count * sizeof *conn->slots);
    fsb_chunk_free_(a, conn->kept, conn->kept_count * sizeof *conn->kept);
    fsb_chunk_free_(a, conn->in, conn->in_size);
    if (conn->kick >= 0) close(conn->kick);
    fsb_chunk_tls_close_(&conn->stream);
    fsb_chunk_sums_close_(&conn->stream);
    explicit_bzero(&conn->grant, sizeof conn->grant);
    if (conn->owns) {
        close(conn->stream.in);
        if (conn->stream.out != conn->stream.in) close(conn->stream.out);
    }
    pthread_cond_destroy(&conn->quiet);
    pthread_mutex_destroy(&conn->lock);
    fsb_chunk_free_(a, conn, sizeof *conn);
}

/* Makes a connection and counts it; the descriptors are its own from here on if owns is 1. */
static int fsb_chunk_conn_new_(fsb_chunk_server *s, int in, int out, int owns, int secure,
                               fsb_chunk_conn_ **made)
{
    fsb_chunk_conn_ *conn = (fsb_chunk_conn_ *)fsb_chunk_alloc_(&s->desc.allocator, sizeof *conn);
    int              err = conn ? 0 : -ENOMEM;
    if (conn) {
        conn->server = s, conn->slot_free = conn->slot_gone = -1;
        conn->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (conn->kick < 0) err = -errno;
        if (pthread_mutex_init(&conn->lock, NULL) != 0 || fsb_chunk_cond_init_(&conn->quiet) != 0)
            err = -ENOMEM;
        if (!err) err = fsb_chunk_stream_init_(&conn->stream, in, out);
        conn->slow = fsb_chunk_congestion_(out);
        conn->secure = secure;
        if (secure) fsb_chunk_from_(in, conn->from);
        if (!err && secure)
            err = fsb_chunk_tls_open_(s->secure, &conn->stream, 1, conn, &s->desc.allocator);
        if (!err) err = fsb_chunk_in_resize_(conn, FSB_CHUNK_IN_);
    }
    pthread_mutex_lock(&s->lock);
    if (!err && s->closing) err = -ECANCELED;
    if (!err && !fsb_chunk_has_room_(s)) err = -EAGAIN;
    if (!err) {
        if (secure) fsb_chunk_let_in_(s, conn);
        ++s->connections, conn->unproven = 1;
        conn->number = ++s->numbers, conn->owns = owns;
        conn->next = s->conns, s->conns = conn;
        if (conn->next) conn->next->prev = conn;
        fsb_chunk_count_(&s->stats.accepted, 1);
    }
    pthread_mutex_unlock(&s->lock);
    if (err && conn) fsb_chunk_conn_free_(conn);
    *made = conn;
    return err;
}

/* The whole life of a connection, on this thread. */
static int fsb_chunk_conn_run_(fsb_chunk_conn_ *conn)
{
    fsb_chunk_server *s = conn->server;
    int               err = fsb_chunk_hold_back_(conn);
    if (!err) err = fsb_chunk_loop_(conn);
    if (fsb_chunk_judge_(conn, 0, err == -EACCES && !conn->share)) err = -EAGAIN;
    if (err < 0) (void)fsb_chunk_send_(&conn->stream, NULL, 0, 0); /* what is left: why */
    const int said = err == 0 || __atomic_load_n(&conn->leaves, __ATOMIC_RELAXED); /* goodbye */
    fsb_chunk_log_(&s->desc.log, said || err == -ECANCELED ? FSB_LOG_INFO : FSB_LOG_WARN,
                   "chunk/client", "client %llu: %s", (unsigned long long)conn->number,
                   said                    ? "left"
                       : err == -EPROTO    ? "disconnected: it broke the protocol"
                       : err == -EBADMSG   ? "disconnected: bytes were changed on the way"
                       : err == -ETIMEDOUT ? "disconnected: it was too slow"
                       : err == -ECANCELED ? "disconnected: closing"
                       : err == -EACCES    ? "disconnected: its code does not open anything here"
                       : err == -EAGAIN    ? "turned away: it had said nothing, and another came"
                       : err == -ENOENT    ? "disconnected: no such share"
                       : err == -EPIPE     ? "lost in the middle of a frame"
                                           : "lost");
    fsb_chunk_audit_(s, conn, conn->share ? "leave" : "refused", NULL, NULL, said ? 0 : err);
    const int stays = conn->stays && err != -ECANCELED && err != -EACCES &&
        !__atomic_load_n(&conn->leaves, __ATOMIC_RELAXED);
    if (conn->stays && err == -ECANCELED) (void)fsb_chunk_say_(conn, FSB_CHUNK_GOODBYE_, 0, 0);
    fsb_chunk_lock_leave_(conn, NULL, !stays);
    fsb_chunk_lease_leave_(conn);
    pthread_mutex_lock(&conn->lock);
    conn->broken = err ? err : -ENOTCONN;
    pthread_cond_broadcast(&conn->quiet);
    pthread_mutex_unlock(&conn->lock);
    if (conn->share) fsb_chunk_exec_cancel_(conn, NULL);
    pthread_mutex_lock(&conn->lock);
    while (conn->pending) pthread_cond_wait(&conn->quiet, &conn->lock);
    pthread_mutex_unlock(&conn->lock);
    fsb_chunk_lease_leave_(conn); /* also one that was granted meanwhile */
    fsb_chunk_drop_queue_(conn);
    fsb_chunk_conn_ *const heir = stays ? fsb_chunk_linger_(conn) : NULL;
    if (heir) fsb_chunk_bequeath_(conn, heir);
    else fsb_chunk_lock_leave_(conn, NULL, 1); /* also what was granted meanwhile */
    pthread_mutex_lock(&s->lock);
    if (conn->prev) conn->prev->next = conn->next;
    else s->conns = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    pthread_mutex_unlock(&s->lock);
    fsb_chunk_conn_free_(conn);
    return err;
}

/* Its last word: the server may be gone when this returns. */
static void fsb_chunk_conn_gone_(fsb_chunk_server *s)
{
    pthread_mutex_lock(&s->lock);
    --s->connections;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void *fsb_chunk_conn_main_(void *arg)
{
    fsb_chunk_conn_  *conn = (fsb_chunk_conn_ *)arg;
    fsb_chunk_server *s = conn->server;
    (void)fsb_chunk_conn_run_(conn);
    fsb_chunk_secure_leave_();
    fsb_chunk_conn_gone_(s);
    return NULL;
}

/* ---- [server] -------------------------------------------------------------------------------- */

/* Anybody can connect: of those turned away one a second is told of, with the number of the others,
   or a stranger could fill the disk with our log. */
static void fsb_chunk_turn_away_(fsb_chunk_server *s, int err)
{
    const int64_t now = fsb_chunk_now_ms_();
    pthread_mutex_lock(&s->lock);
    const uint32_t others = s->turned_away;
    const int      quiet = s->told_at && now - s->told_at < 1000;
    s->turned_away = quiet ? others + 1 : 0;
    if (!quiet) s->told_at = now;
    pthread_mutex_unlock(&s->lock);
    if (quiet) return;
    fsb_chunk_audit_(s, NULL, "refused", NULL, NULL, err);
    fsb_chunk_log_(&s->desc.log, FSB_LOG_WARN, "chunk/accept",
                   "a client is turned away, and %u before it: %s", others,
                   err == -EAGAIN ? "there are too many" : strerror(-err));
}

static void fsb_chunk_accept_(fsb_chunk_server *s, int listener, int secure)
{
    fsb_chunk_conn_ *conn = NULL;
    pthread_t        thread;
    const int        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        const struct timespec pause = {0, 50000000};
        const int full = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
        if (full) nanosleep(&pause, NULL);
        return;
    }
    int err = fsb_chunk_conn_new_(s, fd, fd, 1, secure, &conn);
    if (err) { /* it owns nothing before it is counted */
        close(fd);
    } else {
        err = fsb_chunk_thread_(&thread, fsb_chunk_conn_main_, conn);
        if (!err) pthread_detach(thread);
        else {
            conn->share = NULL;
            fsb_chunk_stream_shut_(&conn->stream);
            (void)fsb_chunk_conn_run_(conn);
            fsb_chunk_conn_gone_(s);
        }
    }
    if (err) fsb_chunk_turn_away_(s, err);
}

typedef struct fsb_chunk_acceptor_ {
    fsb_chunk_server *server;
    int               fd, secure;
} fsb_chunk_acceptor_;

static void *fsb_chunk_acceptor_main_(void *arg)
{
    fsb_chunk_acceptor_ *acceptor = (fsb_chunk_acceptor_ *)arg;
    fsb_chunk_server    *s = acceptor->server;
    const int            secure = acceptor->secure;
    struct pollfd        p[2] = {{acceptor->fd, POLLIN, 0}, {s->wake, POLLIN, 0}};
    fsb_chunk_free_(&s->desc.allocator, acceptor, sizeof *acceptor);
    for (;;) {
        if (poll(p, 2, -1) < 0) { /* the kernel has no memory: it will again */
            const struct timespec pause = {0, 50000000};
            if (errno != EINTR) nanosleep(&pause, NULL);
            continue;
        }
        if (p[1].revents) break;
        if (p[0].revents) fsb_chunk_accept_(s, p[0].fd, secure);
    }
    pthread_mutex_lock(&s->lock);
    --s->listening;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* A dead server's socket is in the way of ours; a living one answers. */
static int fsb_chunk_clear_stale_(const fsb_chunk_address_ *a, const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) return -EEXIST;
    const int fd = fsb_chunk_connect_(a, fsb_chunk_now_ms_() + 1000);
    if (fd >= 0) close(fd);
    if (fd != -ECONNREFUSED) return fd >= 0 || fd == -EAGAIN || fd == -ETIMEDOUT ? -EADDRINUSE : fd;
    return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int fsb_chunk_bind_(fsb_chunk_server *s, const fsb_chunk_address_ *a, const char *path)
{
    int one = 1, err = path ? fsb_chunk_clear_stale_(a, path) : 0;
    if (err) return err;
    const int fd = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (path && fchmod(fd, s->desc.socket_mode) != 0) err = -errno; /* Linux: of the name to be */
    if (!path) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!err && bind(fd, (const struct sockaddr *)&a->name, a->size) != 0) err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    if (path && chmod(path, s->desc.socket_mode) != 0) err = -errno; /* the umask had a say */
    if (!err && listen(fd, SOMAXCONN) != 0) err = -errno;
    if (!err) return fd;
    if (path) (void)unlink(path);
    close(fd);
    return err;
}

/* Starts the thread that accepts; the listener is the server's from here on. */
static int fsb_chunk_listen_start_(fsb_chunk_server *s, fsb_chunk_listener_ *l)
{
    pthread_t            thread;
    fsb_chunk_acceptor_ *a = (fsb_chunk_acceptor_ *)fsb_chunk_alloc_(&s->desc.allocator, sizeof *a);
    if (!a) return -ENOMEM;
    a->server = s, a->fd = l->fd, a->secure = l->secure;
    pthread_mutex_lock(&s->lock);
    const int err =
        s->closing ? -ECANCELED : fsb_chunk_thread_(&thread, fsb_chunk_acceptor_main_, a);
    if (!err) {
        pthread_detach(thread);
        ++s->listening;
        l->next = s->listeners, s->listeners = l;
    }
    pthread_mutex_unlock(&s->lock);
    if (err) fsb_chunk_free_(&s->desc.allocator, a, sizeof *a);
    return err;
}

static void fsb_chunk_listener_free_(fsb_chunk_server *s, fsb_chunk_listener_ *l)
{
    if (l->path && l->fd >= 0) (void)unlink(l->path); /* first: then it cannot be another's yet */
    if (l->fd >= 0) close(l->fd);
    fsb_chunk_strfree_(&s->desc.allocator, l->path);
    fsb_chunk_free_(&s->desc.allocator, l, sizeof *l);
}

/* What TLS needs, made when it is first wanted; NULL: it is not built in, or there is no memory. */
static fsb_chunk_secure_ *fsb_chunk_secure_of_(fsb_chunk_server *s)
{
    fsb_chunk_secure_ *made = fsb_chunk_secure_server_(&s->desc.allocator);
    pthread_mutex_lock(&s->lock);
    fsb_chunk_secure_ *spare = s->secure ? made : NULL;
    if (!s->secure) s->secure = made;
    fsb_chunk_secure_ *const secure = s->secure;
    pthread_mutex_unlock(&s->lock);
    fsb_chunk_secure_free_(spare, &s->desc.allocator);
    if (!secure)
        fsb_chunk_log_(&s->desc.log, FSB_LOG_ERROR, "chunk/tls",
                       "no TLS: this was built without FSB_WITH_OPENSSL, or OpenSSL failed");
    return secure;
}

FSB_API int fsb_chunk_server_listen(fsb_chunk_server *s, const char *address, char *bound,
                                    size_t size)
{
    fsb_chunk_address_ at[8];
    if (!s || !address) return -EINVAL;
    const int secure = strncmp(address, "tls:", 4) == 0;
    address += secure ? 4 : 0;
    const int count = fsb_chunk_resolve_(address, 1, at, 8);
    if (count < 0) return count;
    if (secure && at[0].family == AF_UNIX) return -EINVAL;
    if (secure && !fsb_chunk_secure_of_(s)) return -FSB_CHUNK_NO_SECURE_;
    const char *path = at[0].family == AF_UNIX ? address + 5 : NULL;
    for (int i = 0; i < count; ++i) {
        if (secure || fsb_chunk_is_local_(&at[i]) || s->desc.insecure_tcp) continue;
        fsb_chunk_log_(&s->desc.log, FSB_LOG_ERROR, "chunk/listen",
                       "%s is not loopback, and nothing would be protected", address);
        return -EACCES;
    }
    fsb_chunk_listener_ *l = (fsb_chunk_listener_ *)fsb_chunk_alloc_(&s->desc.allocator, sizeof *l);
    if (!l) return -ENOMEM;
    l->fd = -1, l->secure = secure;
    if (path && !(l->path = fsb_chunk_strdup_(&s->desc.allocator, path))) {
        fsb_chunk_listener_free_(s, l);
        return -ENOMEM;
    }
    for (int i = 0; i < count && l->fd < 0 && address[0] == '*'; ++i) /* IPv4 with IPv6 */
        if (at[i].family == AF_INET6) l->fd = fsb_chunk_bind_(s, &at[i], path);
    for (int i = 0; i < count && l->fd < 0; ++i) /* "localhost" may be ::1 where there is no IPv6 */
        l->fd = fsb_chunk_bind_(s, &at[i], path);
    if (l->fd >= 0 && bound && secure) snprintf(bound, size, "tls:");
    if (l->fd >= 0 && bound && size > 4u * (unsigned)secure)
        fsb_chunk_address_text_(l->fd, address, bound + 4 * secure, size - 4u * (unsigned)secure);
    const int err = l->fd < 0 ? l->fd : fsb_chunk_listen_start_(s, l);
    if (err) fsb_chunk_listener_free_(s, l);
    return err;
}

FSB_API int fsb_chunk_server_serve(fsb_chunk_server *s, int read_fd, int write_fd)
{
    fsb_chunk_conn_ *conn = NULL;
    const int        in_flags = fcntl(read_fd, F_GETFL), out_flags = fcntl(write_fd, F_GETFL);
    int              err = fsb_chunk_conn_new_(s, read_fd, write_fd, 0, 0, &conn);
    if (!err) {
        err = fsb_chunk_conn_run_(conn);
        fsb_chunk_conn_gone_(s);
    }
    if (in_flags >= 0) (void)fcntl(read_fd, F_SETFL, in_flags);
    if (out_flags >= 0) (void)fcntl(write_fd, F_SETFL, out_flags);
    return err;
}

FSB_API void fsb_chunk_server_get_stats(fsb_chunk_server *s, fsb_chunk_server_stats *out)
{
    const uint64_t *from = &s->stats.clients;
    uint64_t       *to = &out->clients;
    for (size_t i = 0; i < sizeof *out / sizeof *to; ++i)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    pthread_mutex_lock(&s->lock);
    out->clients = s->connections;
    pthread_mutex_unlock(&s->lock);
    out->leases = __atomic_load_n(&s->leases, __ATOMIC_RELAXED);
}

FSB_API void fsb_chunk_server_get_desc(const fsb_chunk_server *s, fsb_chunk_server_desc *out)
{
    *out = s->desc;
}

static int fsb_chunk_server_check_(const fsb_chunk_server_desc *d)
{
    const char *wrong = NULL;
    if ((!d->shares || !d->share_count) && (!d->admit || d->share_count))
        wrong = "shares: there is none";
    for (size_t i = 0; !wrong && i < d->share_count; ++i) {
        const size_t n = d->shares[i].name ? strlen(d->shares[i].name) : 0;
        if (!n || n > 255) wrong = "shares: a name is empty or over 255 bytes";
        else if (!d->shares[i].backend) wrong = "shares: a backend is NULL";
        else if (d->shares[i].backend->size < sizeof(fsb_backend))
            wrong = "shares: an older backend";
        else if (!(d->shares[i].rights & FSB_CHUNK_READ) ||
                 d->shares[i].rights &
                     ~(uint32_t)(FSB_CHUNK_READ | FSB_CHUNK_WRITE | FSB_CHUNK_EXEC))
            wrong = "shares: rights must be read, and perhaps write and exec";
    }
    if (d->max_requests > 65536) wrong = "max_requests is over 65536";
    if (d->max_handles > 1u << 24) wrong = "max_handles is over 2^24";
    if (d->max_bytes && d->max_bytes < (2u << 20)) wrong = "max_bytes is under 2 MiB";
    if (d->threads > 1024) wrong = "threads is over 1024";
    if (d->max_execs > 1024) wrong = "max_execs is over 1024";
    if (d->ids && d->ids->squash > FSB_CHUNK_SQUASH_ALL) wrong = "ids: squash is unknown";
    if (d->ids && ((d->ids->user_count && !d->ids->users) ||
                   (d->ids->group_count && !d->ids->groups)))
        wrong = "ids: there are no pairs";
    if (d->socket_mode & ~0777u) wrong = "socket_mode has other bits than 0777";
    if (!wrong) return 0;
    fsb_chunk_log_(&d->log, FSB_LOG_ERROR, "chunk/desc", "fsb_chunk_server_desc.%s", wrong);
    return -EINVAL;
}

static void fsb_chunk_server_defaults_(fsb_chunk_server_desc *d)
{
    if (!d->max_clients) d->max_clients = 1024;
    if (!d->max_requests) d->max_requests = 256;
    if (!d->max_handles) d->max_handles = 16384;
    if (!d->max_bytes) d->max_bytes = 16u << 20;
    if (!d->max_locks) d->max_locks = 8192;
    if (!d->max_events) d->max_events = 16384;
    if (!d->hello_ms) d->hello_ms = 10000;
    if (!d->max_unproven) d->max_unproven = 64;
    if (!d->max_unproven_each) d->max_unproven_each = 16;
    if (!d->frame_ms) d->frame_ms = 30000;
    if (!d->request_ms) d->request_ms = 30000;
    if (!d->away_ms) d->away_ms = 60000;
    if (!d->threads) d->threads = 8;
    if (!d->max_execs) d->max_execs = 64;
    if (!d->max_execs_each) d->max_execs_each = (d->max_execs + 3) / 4;
    if (!d->socket_mode) d->socket_mode = 0600;
}

static void fsb_chunk_server_free_(fsb_chunk_server *s)
{
    const fsb_allocator a = s->desc.allocator;
    while (s->listeners) {
        fsb_chunk_listener_ *l = s->listeners;
        s->listeners = l->next;
        fsb_chunk_listener_free_(s, l);
    }
    for (size_t i = 0; s->shares && i < s->desc.share_count; ++i)
        fsb_chunk_strfree_(&a, (char *)(uintptr_t)s->shares[i].name);
    fsb_chunk_free_(&a, s->shares, s->desc.share_count * sizeof *s->shares);
    if (s->wake >= 0) close(s->wake);
    fsb_chunk_grants_free_(&a, s->grants, s->grant_count);
    fsb_chunk_secure_free_(s->secure, &a);
    fsb_chunk_tenants_free_(s);
    for (size_t i = 0; s->watches && i < s->desc.share_count; ++i)
        fsb_chunk_unwatch_(&s->watches[i]);
    fsb_chunk_free_(&a, s->watches, s->desc.share_count * sizeof *s->watches);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->leases_lock);
    pthread_mutex_destroy(&s->runs_lock);
    pthread_mutex_destroy(&s->locks_lock);
    pthread_mutex_destroy(&s->lock);
    fsb_chunk_free_(&a, s, sizeof *s);
}

FSB_API int fsb_chunk_server_open(fsb_chunk_server **out, const fsb_chunk_server_desc *desc)
{
    int err = out && desc ? fsb_chunk_server_check_(desc) : -EINVAL;
    if (err) return err;
    const fsb_allocator a = desc->allocator;
    if (desc->share_count > SIZE_MAX / sizeof(fsb_chunk_share)) return -EINVAL;
    fsb_chunk_server *s = (fsb_chunk_server *)fsb_chunk_alloc_(&a, sizeof *s);
    if (!s) return -ENOMEM;
    s->desc = *desc, s->desc.shares = NULL, s->line_tail = &s->line;
    s->exec_tail = &s->exec_line;
    fsb_chunk_server_defaults_(&s->desc);
    s->boot_id = fsb_chunk_random_();
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    s->turns = processors > 2 ? (uint32_t)processors / 2 : 1;
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake < 0) err = -errno;
    if (pthread_mutex_init(&s->lock, NULL) != 0 || pthread_mutex_init(&s->locks_lock, NULL) != 0 ||
        pthread_mutex_init(&s->leases_lock, NULL) != 0 ||
        pthread_mutex_init(&s->runs_lock, NULL) != 0 ||
        pthread_cond_init(&s->changed, NULL) != 0 || pthread_cond_init(&s->work, NULL) != 0)
        err = -ENOMEM;
    if (desc->share_count) {
        s->shares = (fsb_chunk_share *)fsb_chunk_alloc_(&a, desc->share_count * sizeof *s->shares);
        s->watches =
            (fsb_chunk_watch_ *)fsb_chunk_alloc_(&a, desc->share_count * sizeof *s->watches);
    }
    if (desc->share_count && (!s->shares || !s->watches)) err = -ENOMEM;
    for (size_t i = 0; !err && i < desc->share_count; ++i) {
        s->shares[i] = desc->shares[i];
        s->watches[i].server = s, s->watches[i].backend = desc->shares[i].backend;
        s->shares[i].name = fsb_chunk_strdup_(&a, desc->shares[i].name);
        if (!s->shares[i].name) err = -ENOMEM;
    }
    if (err) fsb_chunk_server_free_(s);
    else *out = s;
    return err;
}

FSB_API void fsb_chunk_server_close(fsb_chunk_server *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->closing = 1;
    fsb_chunk_kick_(s->wake);
    while (s->listening || s->connections) pthread_cond_wait(&s->changed, &s->lock);
    pthread_cond_broadcast(&s->work);
    while (s->threads || s->execs) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    fsb_chunk_server_free_(s);
}

/* ---- [slots] --------------------------------------------------------------------------------- */

/* A call is one request on its way, from submit() to its answer, even if its op gave up waiting: so
   what comes late is known, and undone. Its tag is generation << 32 | index. */
enum { FSB_CHUNK_FREE_, FSB_CHUNK_QUEUED_, FSB_CHUNK_SENDING_, FSB_CHUNK_SENT_ };
enum { FSB_CHUNK_HEAD_ = 256, FSB_CHUNK_GATHER_ = 16, FSB_CHUNK_TICK_MS_ = 100,
       FSB_CHUNK_LATE_MAX_ = 65536 /* calls given up; then the connection is */ };

typedef struct fsb_chunk_call_ {
    struct fsb_chunk_call_ *next; /* in the queue, or free */
    fsb_op                 *op;   /* NULL: nobody waits for the answer */
    uint32_t                index, generation;
    uint32_t                code; /* FSB_OP_*; or CANCEL, SEEN, which have no answer */
    int                     state;
    int                     repeat; /* it was sent before, on a connection that is lost */
    int                     cancelled; /* a LOCK or EXEC is to end: that outlives the connection */
    int                     undoes;    /* a LOCK that takes back what a given up one may have got */
    fsb_handle              file;   /* CLOSE: ours, free when this is over */
    int64_t                 deadline;
    const void             *data; /* op->data at submit() */
    size_t                  head_size, data_size, sent;
    unsigned char          *pack; /* EXEC: its data; data_size bytes */
    int                     deaf; /* EXEC: output() wants no more */
    unsigned char          *head; /* inlined, or allocated where a path is long */
    unsigned char           inlined[FSB_CHUNK_HEAD_];
} fsb_chunk_call_;

/* A file that a client who comes back has open, so that it can open it again on another host. */
typedef struct fsb_chunk_file_ {
    fsb_handle remote; /* the host's */
    uint64_t   file_id;
    char      *path; /* NULL: free */
    uint32_t   flags, generation;
    uint32_t   next;   /* of the free ones: index + 1 */
    int        locked; /* it holds locks that are in no list: there was no memory */
    int        error;  /* why it cannot be used any more: another file is there now, a lost lock */
} fsb_chunk_file_;

/* A connection that stands, and what hello said on it. */
typedef struct fsb_chunk_way_ {
    fsb_chunk_stream_     stream;
    fsb_chunk_client_info info;
    uint64_t              served;
    int                   resumed; /* the host has what we had there */
} fsb_chunk_way_;

typedef struct fsb_chunk_client_ {
    fsb_backend           base; /* first: it is what callers hold */
    fsb_allocator         allocator;
    fsb_logger            log;
    fsb_chunk_client_info info;
    uint32_t              timeout_ms;
    fsb_chunk_key_        key;    /* of a "tls:" address */
    fsb_chunk_secure_    *secure; /* NULL: no TLS */
    char                 *address, *share; /* address: without "tls:" */
    int (*connect)(void *user, int fds[2]);
    void             *user;
    unsigned char     id[16];
    int               stays; /* it comes back when the connection is lost */
    fsb_chunk_stream_ stream;
    int                   kick; /* eventfd: look at the queue, or end */
    pthread_t             thread;
    pthread_t             receiver; /* the same, set by itself; by atomics */
    /* of the receiver alone */
    unsigned char *in;
    size_t         in_size, in_start, in_end;
    size_t         placed; /* of the frame at `in`, as fsb_chunk_frame_ has it */
    int64_t        next_tick;
    int64_t        heard, pinged; /* when bytes came, and a PING was sent, ms */
    fsb_chunk_pace_ pace;
    /* guarded by lock */
    pthread_mutex_t   lock;
    pthread_cond_t    unsent; /* a call is no longer SENDING, or event() is over */
    fsb_chunk_call_ **calls;
    uint32_t          call_count, call_room, in_flight, late;
    fsb_chunk_call_  *spare, *head, **tail;
    int               sending, blocked, closing;
    int               asleep; /* the receiver: it does not watch the clock */
    int               broken; /* why the connection is gone */
    void (*event)(void *user, const fsb_event *event); /* of whom the lease is; NULL: none */
    void *event_user;
    int   telling; /* event() runs; its end is told by unsent */
    int               lost;    /* 1: there is none now; what comes is queued */
    int               refused; /* why the host will not have us back, or 0 */
    int               found;   /* 1: way is the new one */
    fsb_chunk_way_    way;     /* of the connector alone, until found */
    fsb_chunk_file_  *files;   /* [file_count]; handles are generation << 32 | index + 1 */
    uint32_t          file_count, file_free;
    fsb_chunk_lock_  *locks; /* held on these; of the receiver, and of the connector meanwhile */
} fsb_chunk_client_;

static fsb_chunk_file_ *fsb_chunk_file_of_(fsb_chunk_client_ *c, fsb_handle handle) /* lock held */
{
    const uint32_t i = (uint32_t)handle - 1;
    if (i >= c->file_count || !c->files[i].path || c->files[i].generation != handle >> 32)
        return NULL;
    return &c->files[i];
}

static void fsb_chunk_file_drop_(fsb_chunk_client_ *c, fsb_handle handle) /* lock held */
{
    fsb_chunk_file_ *file = fsb_chunk_file_of_(c, handle);
    if (!file) return;
    fsb_chunk_strfree_(&c->allocator, file->path);
    file->path = NULL, ++file->generation;
    file->next = c->file_free, c->file_free = (uint32_t)handle;
}

/* A free call, counted as in flight. Lock held. */
static fsb_chunk_call_ *fsb_chunk_call_new_(fsb_chunk_client_ *c)
{
    fsb_chunk_call_ *call = c->spare;
    if (!call) {
        const size_t bytes = (size_t)c->call_room * sizeof *c->calls;
        if (c->call_count == c->call_room) { /* the table grows by 64 */
            fsb_chunk_call_ **calls = (fsb_chunk_call_ **)fsb_chunk_resize_(
                &c->allocator, c->calls, bytes, bytes + 64 * sizeof *calls);
            if (!calls) return NULL;
            c->calls = calls, c->call_room += 64;
        }
        call = (fsb_chunk_call_ *)fsb_chunk_alloc_(&c->allocator, sizeof *call);
        if (!call) return NULL;
        c->calls[c->call_count] = call;
        call->index = c->call_count++;
    } else c->spare = call->next;
    ++c->in_flight;
    call->next = NULL, call->op = NULL, call->sent = 0;
    call->head = call->inlined, call->data = NULL, call->data_size = 0;
    return call;
}

static void fsb_chunk_call_free_(fsb_chunk_client_ *c, fsb_chunk_call_ *call) /* lock held */
{
    if (call->head != call->inlined)
        fsb_chunk_free_(&c->allocator, call->head, FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_);
    if (call->file) fsb_chunk_file_drop_(c, call->file);
    fsb_chunk_free_(&c->allocator, call->pack, call->data_size);
    call->pack = NULL, call->deaf = 0;
    call->state = FSB_CHUNK_FREE_, call->op = NULL, call->file = 0, call->repeat = 0;
    call->cancelled = call->undoes = 0;
    ++call->generation;
    call->next = c->spare, c->spare = call;
    --c->in_flight;
}

static uint64_t fsb_chunk_tag_(const fsb_chunk_call_ *call)
{
    return ((uint64_t)call->generation << 32) | call->index;
}

/* A command's words and input as the data of the call's request. */
static int fsb_chunk_call_pack_(fsb_chunk_client_ *c, fsb_chunk_call_ *call, const fsb_exec *e)
{
    const char *const *words[2] = {e->argv, e->env};
    uint32_t           counts[2] = {0, 0};
    size_t             size = 8 + e->input_size;
    if (e->input_size > (size_t)FSB_IO_MAX) return -E2BIG;
    for (int kind = 0; kind < 2; ++kind)
        for (const char *const *w = words[kind]; w && *w; ++w) {
            size += strlen(*w) + 1;
            if (++counts[kind] > FSB_CHUNK_WORDS_MAX_ || size > (size_t)FSB_IO_MAX) return -E2BIG;
        }
    if (size > (size_t)FSB_IO_MAX) return -E2BIG;
    const size_t   had = call->pack ? call->data_size : 0;
    unsigned char *pack =
        (unsigned char *)fsb_chunk_resize_(&c->allocator, call->pack, had, size);
    if (!pack) return -ENOMEM;
    fsb_chunk_cursor_ w = {pack, pack + size, 0};
    call->pack = pack, call->data = pack, call->data_size = size;
    fsb_chunk_put32_(&w, counts[0]), fsb_chunk_put32_(&w, counts[1]);
    for (int kind = 0; kind < 2; ++kind)
        for (uint32_t i = 0; i < counts[kind]; ++i) {
            const size_t n = strlen(words[kind][i]) + 1;
            memcpy(fsb_chunk_step_(&w, n), words[kind][i], n);
        }
    if (e->input_size) memcpy(w.at, e->input, e->input_size);
    return 0;
}

/* How long the host may take for it (0: its own limit; EXEC: any time), and until when we wait. */
static uint32_t fsb_chunk_call_time_(const fsb_chunk_client_ *c, fsb_chunk_call_ *call,
                                     const fsb_op *op)
{
    enum { GRACE_MS = 5000 }; /* in which the host ends a command whose time is up */
    const int      exec = op->code == FSB_OP_EXEC;
    const uint32_t limit = op->timeout_ms || exec ? op->timeout_ms : c->timeout_ms;
    const int      waits = exec || (op->code == FSB_OP_LOCK && (op->flags & FSB_LOCK_WAIT));
    call->deadline = waits && !op->timeout_ms
        ? INT64_MAX
        : fsb_chunk_now_ms_() + limit + (exec ? (int64_t)GRACE_MS : 0);
    return limit;
}

/* Encodes op as the call's request. */
static int fsb_chunk_call_encode_(fsb_chunk_client_ *c, fsb_chunk_call_ *call, fsb_op *op)
{
    const fsb_chunk_shape_ *shape = fsb_chunk_shape_of_(op->code);
    const size_t            most = FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_;
    fsb_chunk_frame_        f;
    fsb_chunk_cursor_       w = {call->head + FSB_CHUNK_HEADER_, call->head + FSB_CHUNK_HEAD_, 0};
    fsb_chunk_encode_(&w, shape->request, op);
    if (w.bad) {
        call->head = (unsigned char *)fsb_chunk_resize_(&c->allocator, NULL, 0, most);
        if (!call->head) {
            call->head = call->inlined;
            return -ENOMEM;
        }
        w.at = call->head + FSB_CHUNK_HEADER_, w.end = call->head + most, w.bad = 0;
        fsb_chunk_encode_(&w, shape->request, op);
        if (w.bad) return -ENAMETOOLONG;
    }
    memset(&f, 0, sizeof f);
    call->code = op->code;
    const int err = op->code == FSB_OP_EXEC ? fsb_chunk_call_pack_(c, call, op->exec) : 0;
    if (err) return err;
    if ((shape->request & FSB_CHUNK_DATA_) && op->code != FSB_OP_EXEC)
        call->data = op->data, call->data_size = op->size;
    call->head_size = (size_t)(w.at - call->head);
    const uint32_t limit = fsb_chunk_call_time_(c, call, op);
    f.meta_size = (uint32_t)(call->head_size - FSB_CHUNK_HEADER_);
    f.data_size = (uint32_t)call->data_size;
    f.op = op->code, f.tag = fsb_chunk_tag_(call);
    f.status = limit > INT32_MAX ? INT32_MAX : (int32_t)limit;
    fsb_chunk_seal_(call->head, &f);
    return 0;
}

/* The host's handle for ours. Lock held. */
static int fsb_chunk_remote_(fsb_chunk_client_ *c, fsb_handle *handle)
{
    const fsb_chunk_file_ *file = fsb_chunk_file_of_(c, *handle);
    if (!*handle) return 0;
    if (!file) return -EBADF;
    *handle = file->remote;
    return file->error;
}

/* Encodes op with the host's handles in the place of ours. Lock held. */
static int fsb_chunk_call_prepare_(fsb_chunk_client_ *c, fsb_chunk_call_ *call, fsb_op *op)
{
    const uint32_t fields = fsb_chunk_shape_of_(op->code)->request;
    int            err = 0;
    const int      runs = op->code == FSB_OP_EXEC;
    if (!runs && (!c->stays || !(fields & FSB_CHUNK_HANDLE_)))
        return fsb_chunk_call_encode_(c, call, op);
    fsb_op theirs = *op;
    if (runs) {
        const uint64_t most = op->exec->max_output;
        theirs.size64 = most < INT64_MAX ? most : (uint64_t)INT64_MAX;
        return fsb_chunk_call_encode_(c, call, &theirs);
    }
    err = fsb_chunk_remote_(c, &theirs.handle);
    if (!err && (fields & FSB_CHUNK_HANDLE2_)) err = fsb_chunk_remote_(c, &theirs.handle2);
    if (err && op->code == FSB_OP_CLOSE) fsb_chunk_file_drop_(c, op->handle);
    if (!err) err = fsb_chunk_call_encode_(c, call, &theirs);
    if (!err && op->code == FSB_OP_CLOSE) call->file = op->handle;
    return err;
}

static void fsb_chunk_enqueue_(fsb_chunk_client_ *c, fsb_chunk_call_ *call) /* lock held */
{
    call->state = FSB_CHUNK_QUEUED_;
    *c->tail = call, c->tail = &call->next;
}

/* As that, before the others: behind the one that is half sent, if there is one. Lock held. */
static void fsb_chunk_enqueue_first_(fsb_chunk_client_ *c, fsb_chunk_call_ *call)
{
    fsb_chunk_call_ **at = c->head && c->head->sent ? &c->head->next : &c->head;
    call->state = FSB_CHUNK_QUEUED_, call->next = *at, *at = call;
    if (!call->next) c->tail = &call->next;
}

/* Queues word that the events up to that number are seen: others wait for that. Lock held. */
static int fsb_chunk_enqueue_seen_(fsb_chunk_client_ *c, uint64_t number)
{
    fsb_chunk_frame_ f;
    fsb_chunk_call_ *call = c->broken ? NULL : fsb_chunk_call_new_(c);
    if (!call) return -ENOMEM;
    memset(&f, 0, sizeof f);
    f.op = call->code = FSB_CHUNK_SEEN_, f.tag = number;
    fsb_chunk_seal_(call->head, &f);
    call->head_size = FSB_CHUNK_HEADER_;
    call->deadline = fsb_chunk_now_ms_() + c->timeout_ms;
    fsb_chunk_enqueue_first_(c, call);
    return 0;
}

/* Queues a CANCEL of the call of that tag. Lock held. */
static void fsb_chunk_enqueue_cancel_(fsb_chunk_client_ *c, uint64_t tag)
{
    fsb_chunk_frame_ f;
    fsb_chunk_call_ *call = c->broken || c->lost ? NULL : fsb_chunk_call_new_(c);
    if (!call) return;
    fsb_chunk_cursor_ w = {call->head + FSB_CHUNK_HEADER_, call->head + FSB_CHUNK_HEAD_, 0};
    memset(&f, 0, sizeof f);
    f.op = call->code = FSB_CHUNK_CANCEL_, f.tag = fsb_chunk_tag_(call), f.meta_size = 8;
    fsb_chunk_put64_(&w, tag);
    fsb_chunk_seal_(call->head, &f);
    call->head_size = FSB_CHUNK_HEADER_ + 8;
    call->deadline = fsb_chunk_now_ms_() + c->timeout_ms;
    fsb_chunk_enqueue_(c, call);
}

static void fsb_chunk_enqueue_ping_(fsb_chunk_client_ *c) /* lock held */
{
    fsb_chunk_frame_ f;
    fsb_chunk_call_ *call = c->broken || c->lost ? NULL : fsb_chunk_call_new_(c);
    if (!call) return;
    memset(&f, 0, sizeof f);
    f.op = call->code = FSB_CHUNK_PING_;
    fsb_chunk_seal_(call->head, &f);
    call->head_size = FSB_CHUNK_HEADER_;
    call->deadline = fsb_chunk_now_ms_() + c->timeout_ms;
    fsb_chunk_enqueue_(c, call);
}

/* Takes calls off the queue, as many as one send carries. Lock held. Returns their number. */
static int fsb_chunk_gather_(fsb_chunk_client_ *c, fsb_chunk_call_ **calls, struct iovec *parts,
                             int *count)
{
    int n = 0;
    *count = 0;
    while (c->head && n < FSB_CHUNK_GATHER_) {
        fsb_chunk_call_ *call = c->head;
        c->head = call->next, call->next = NULL;
        calls[n++] = call;
        call->state = FSB_CHUNK_SENDING_;
        if (call->sent < call->head_size) {
            parts[*count].iov_base = call->head + call->sent;
            parts[(*count)++].iov_len = call->head_size - call->sent;
        }
        const size_t skip = call->sent > call->head_size ? call->sent - call->head_size : 0;
        if (skip == call->data_size) continue;
        parts[*count].iov_base = (unsigned char *)(uintptr_t)call->data + skip;
        parts[(*count)++].iov_len = call->data_size - skip;
    }
    if (!c->head) c->tail = &c->head;
    return n;
}

/* After a send of `sent` bytes: what went out waits for its answer, the rest is first in the queue
   again. Returns 1 if there is none. Lock held. */
static int fsb_chunk_scatter_(fsb_chunk_client_ *c, fsb_chunk_call_ **calls, int n, size_t sent)
{
    fsb_chunk_call_ *rest = NULL, **end = &rest;
    for (int i = 0; i < n; ++i) {
        fsb_chunk_call_ *call = calls[i];
        const size_t     left = call->head_size + call->data_size - call->sent;
        const size_t     part = sent < left ? sent : left;
        call->sent += part, sent -= part;
        if (part < left) {
            call->state = FSB_CHUNK_QUEUED_;
            *end = call, end = &call->next;
        } else if (call->code < FSB_CHUNK_HELLO_) call->state = FSB_CHUNK_SENT_;
        else fsb_chunk_call_free_(c, call);
    }
    if (rest) {
        *end = c->head;
        if (!c->head) c->tail = end;
        c->head = rest;
    }
    pthread_cond_broadcast(&c->unsent);
    return !rest;
}

/* Waits a moment for room in the socket: a large write costs fewer hand-overs so. Not on the
   receiver's thread, on which the peer may depend to get rid of its answers. 1: there is room. */
static int fsb_chunk_wait_for_room_(fsb_chunk_client_ *c) /* lock held */
{
    struct pollfd p = {c->stream.out, POLLOUT, 0};
    pthread_t     receiver;
    __atomic_load(&c->receiver, &receiver, __ATOMIC_RELAXED);
    if (pthread_equal(receiver, pthread_self())) return 0;
    pthread_mutex_unlock(&c->lock);
    const int n = poll(&p, 1, FSB_CHUNK_TICK_MS_);
    pthread_mutex_lock(&c->lock);
    return n > 0;
}

/* Sends what is queued: one thread at a time, for all. What the socket does not take soon is the
   receiver's to send. */
static void fsb_chunk_client_flush_(fsb_chunk_client_ *c)
{
    fsb_chunk_call_ *calls[FSB_CHUNK_GATHER_];
    struct iovec     parts[2 * FSB_CHUNK_GATHER_];
    int              count;
    pthread_mutex_lock(&c->lock);
    if (c->sending) {
        pthread_mutex_unlock(&c->lock);
        return;
    }
    c->sending = 1, c->blocked = 0;
    while ((c->head || fsb_chunk_unsent_(&c->stream)) && !c->broken && !c->lost && !c->blocked) {
        const int n = fsb_chunk_gather_(c, calls, parts, &count);
        pthread_mutex_unlock(&c->lock);
        const int64_t sent = fsb_chunk_send_(&c->stream, parts, count, 0);
        pthread_mutex_lock(&c->lock);
        const int all = fsb_chunk_scatter_(c, calls, n, sent > 0 ? (size_t)sent : 0);
        if (sent < 0 && sent != -EAGAIN) {
            if (c->stays) c->lost = -ENOTCONN;
            else if (!c->broken) c->broken = -ENOTCONN; /* else the receiver said why */
        } else if (!all || fsb_chunk_unsent_(&c->stream)) c->blocked = !fsb_chunk_wait_for_room_(c);
    }
    c->sending = 0;
    const int kick = c->blocked || c->broken || c->lost;
    if (c->broken || c->lost) pthread_cond_broadcast(&c->unsent);
    pthread_mutex_unlock(&c->lock);
    if (kick) fsb_chunk_kick_(c->kick);
}

/* ---- [receiver] ------------------------------------------------------------------------------ */

static int fsb_chunk_name_ok_(const unsigned char *name, size_t size)
{
    if (!size || size > FSB_NAME_MAX || memchr(name, '/', size) || memchr(name, 0, size)) return 0;
    return !(name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.')));
}

/* Is it the folder that is listed, or below it? */
static int fsb_chunk_inside_(const fsb_op *op, const char *folder)
{
    if (op->handle || !op->path || !op->path[1]) return 1;
    const size_t n = strlen(op->path);
    return strncmp(folder, op->path, n) == 0 && (!folder[n] || folder[n] == '/');
}

/* One entry of a listing; folder is what the last one had. 0, or -EPROTO. */
static int fsb_chunk_entry_(fsb_chunk_cursor_ *c, const fsb_op *op, fsb_dirent *e, char *name,
                            char *folder)
{
    const int more = (op->flags & (FSB_LIST_DATA | FSB_LIST_DEEP)) != 0;
    memset(e, 0, sizeof *e);
    e->cookie = fsb_chunk_get64_(c);
    fsb_chunk_get_stat_(c, &e->stat);
    e->name_size = fsb_chunk_get16_(c);
    const unsigned char *bytes = fsb_chunk_step_(c, e->name_size);
    if (!bytes || ((e->name_size || !more) && !fsb_chunk_name_ok_(bytes, e->name_size)))
        return -EPROTO;
    memcpy(name, bytes, e->name_size);
    name[e->name_size] = '\0';
    e->name = name;
    if (more) {
        const size_t         size = fsb_chunk_get16_(c);
        const unsigned char *where = size > FSB_PATH_MAX ? NULL : fsb_chunk_step_(c, size);
        if (!where || memchr(where, 0, size)) return -EPROTO;
        if (size) memcpy(folder, where, size), folder[size] = '\0';
        if (size && (fsb_chunk_path_check_(folder) != 0 || !fsb_chunk_inside_(op, folder)))
            return -EPROTO;
        const uint32_t count = fsb_chunk_get32_(c);
        if (count) e->data = fsb_chunk_step_(c, count - 1);
        if (c->bad || (count && count - 1 != e->stat.size)) return -EPROTO;
        e->folder = folder[0] ? folder : NULL;
    }
    return e->cookie || !e->name_size ? 0 : -EPROTO;
}

/* The entries of a listing to op->emit(). Returns the result of the call, or -EPROTO. */
static int64_t fsb_chunk_listing_(fsb_op *op, unsigned char *data, size_t size, int64_t result)
{
    fsb_chunk_cursor_ c = {data, data + size, 0};
    char              name[FSB_NAME_MAX + 1], folder[FSB_PATH_MAX + 1];
    fsb_dirent        entry;
    folder[0] = '\0';
    while (c.at < c.end) {
        const int err = fsb_chunk_entry_(&c, op, &entry, name, folder);
        if (err) return err;
        if (op->emit(op, &entry)) return entry.folder != NULL; /* below: its own were all there */
    }
    return result > 1 ? -EPROTO : result;
}

/* Bytes into op->buf, or lent in op->slice. A trailer tells how many of them count. */
static int64_t fsb_chunk_bytes_(fsb_op *op, const fsb_chunk_frame_ *f)
{
    int64_t result = f->status;
    size_t  size = f->data_size;
    if (f->flags & FSB_CHUNK_TRAILER_) {
        if (size < 8) return -EPROTO;
        fsb_chunk_cursor_ c = {f->data + size - 8, f->data + size, 0};
        result = (int64_t)fsb_chunk_get64_(&c);
        size -= 8;
        if (result < 0)
            return result < -4095 ? -EIO : -fsb_chunk_error_from_wire_((int32_t)-result);
        if ((uint64_t)result > size) return -EPROTO;
        size = (size_t)result;
    }
    if (size > op->size || (size && size != (uint64_t)result)) return -EPROTO;
    if (!size && result && op->size) return -EPROTO; /* a count, but not the bytes */
    if (op->buf && size > f->placed)
        memcpy((unsigned char *)op->buf + f->placed, f->data + f->placed, size - f->placed);
    if (!op->buf) op->slice.data = f->data, op->slice.size = size;
    return result;
}

/* An answer into its op. Returns what op->result shall be; -EPROTO also ends the connection. */
static int64_t fsb_chunk_accept_answer_(fsb_op *op, const fsb_chunk_frame_ *f)
{
    const fsb_chunk_shape_ *shape = fsb_chunk_shape_of_(op->code);
    fsb_chunk_cursor_       c = {f->meta, f->meta + f->meta_size, 0};
    if (!(f->flags & FSB_CHUNK_ANSWER_)) return -EPROTO;
    if (f->status < 0) {
        if (f->meta_size || f->data_size || f->status < -4095) return -EPROTO;
        return -fsb_chunk_error_from_wire_(-f->status);
    }
    fsb_chunk_decode_(&c, shape->answer, op);
    if (c.bad || (f->data_size && !(shape->answer & FSB_CHUNK_DATA_))) return -EPROTO;
    if ((shape->answer & FSB_CHUNK_STAT_) && !op->stat.file_id && op->code != FSB_OP_WRITE &&
        op->code != FSB_OP_LIST)
        return -EPROTO;
    const int gives = op->code == FSB_OP_WRITE || op->code == FSB_OP_PUT;
    if (gives && (size_t)f->status != op->size) return -EPROTO;
    if (op->code == FSB_OP_COPY && (uint64_t)f->status > op->size64) return -EPROTO;
    if (op->code == FSB_OP_LIST) return fsb_chunk_listing_(op, f->data, f->data_size, f->status);
    if (shape->answer & FSB_CHUNK_DATA_) return fsb_chunk_bytes_(op, f);
    return gives || op->code == FSB_OP_COPY ? f->status : 0;
}

/* Ends an op without its answer. No lock is held. */
static void fsb_chunk_fail_(fsb_op *op, int err)
{
    op->result = err;
    op->done(op);
}

/* Queues a request that nobody waits for. Lock held. */
static fsb_chunk_call_ *fsb_chunk_enqueue_late_(fsb_chunk_client_ *c, fsb_op *op)
{
    fsb_chunk_call_ *call = c->broken ? NULL : fsb_chunk_call_new_(c);
    if (call && fsb_chunk_call_encode_(c, call, op) == 0) {
        fsb_chunk_enqueue_(c, call), ++c->late;
        return call;
    }
    if (call) fsb_chunk_call_free_(c, call);
    return NULL;
}

/* A file was opened that nobody waits for any more: it is closed again. Lock held. */
static void fsb_chunk_undo_(fsb_chunk_client_ *c, const fsb_chunk_frame_ *f)
{
    fsb_chunk_cursor_ r = {f->meta, f->meta + f->meta_size, 0};
    fsb_op            op;
    if (f->op != FSB_OP_OPEN || f->status < 0) return;
    memset(&op, 0, sizeof op);
    fsb_chunk_decode_(&r, fsb_chunk_shape_of_(FSB_OP_OPEN)->answer, &op);
    op.code = FSB_OP_CLOSE;
    if (!r.bad) (void)fsb_chunk_enqueue_late_(c, &op);
}

/* What a call asks to be locked, *op too. 0: it is no LOCK, or one that gives nothing. Lock held.
   */
static int fsb_chunk_asks_lock_(const fsb_chunk_client_ *c, const fsb_chunk_call_ *call,
                                fsb_op *op, fsb_chunk_lock_ *l)
{
    fsb_chunk_cursor_ r = {call->head + FSB_CHUNK_HEADER_, call->head + call->head_size, 0};
    uint64_t          file_id = 0; /* a client that does not come back has no list of its own */
    if (call->code != FSB_OP_LOCK) return 0;
    memset(op, 0, sizeof *op), memset(l, 0, sizeof *l);
    fsb_chunk_decode_(&r, fsb_chunk_shape_of_(FSB_OP_LOCK)->request, op);
    if (r.bad || op->flags & FSB_LOCK_TEST) return 0;
    for (uint32_t i = 0; i < c->file_count; ++i)
        if (c->files[i].path && c->files[i].remote == op->handle) file_id = c->files[i].file_id;
    fsb_chunk_lock_of_(l, op, file_id);
    return call->undoes || op->flags & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE);
}

/* What l's owner holds from `at` on by this list: its kind, or none, and *last: up to where. */
static uint32_t fsb_chunk_lock_held_(const fsb_chunk_lock_ *list, const fsb_chunk_lock_ *l,
                                     uint64_t at, uint64_t *last)
{
    *last = l->last;
    for (; list; list = list->next) {
        if (!fsb_chunk_lock_own_(list, l) || list->last < at) continue;
        if (list->first <= at) {
            if (list->last < *last) *last = list->last;
            return list->kind;
        }
        if (list->first <= *last) *last = list->first - 1;
    }
    return l->kind & FSB_LOCK_FLOCK;
}

/* A LOCK was given up that the host may have granted, or may yet: behind it goes what has the host
   hold in its range what our own list says, so that nothing is locked that nobody knows of, and
   nothing free that its owner had before. Not when it is answered: its owner may ask again, and
   then that one would be taken back. Lock held. */
static void fsb_chunk_take_back_(fsb_chunk_client_ *c, const fsb_chunk_call_ *late)
{
    fsb_op          op;
    fsb_chunk_lock_ l;
    uint64_t        last;
    if (!fsb_chunk_asks_lock_(c, late, &op, &l)) return;
    op.code = FSB_OP_LOCK;
    for (uint64_t at = l.first;; at = last + 1) {
        op.flags = fsb_chunk_lock_held_(c->locks, &l, at, &last);
        op.offset = at, op.size64 = last == UINT64_MAX ? 0 : last - at + 1;
        fsb_chunk_call_ *call = fsb_chunk_enqueue_late_(c, &op);
        if (call) call->undoes = 1;
        if (!call || last >= l.last) return;
    }
}

/* The host says that something has changed. It waits to hear that all who keep what they were
   answered have dropped it: that is when event() returns. */
static int fsb_chunk_event_(fsb_chunk_client_ *c, const fsb_chunk_frame_ *f)
{
    fsb_chunk_cursor_ r = {f->meta, f->meta + f->meta_size, 0};
    fsb_event         e;
    fsb_stat          stat;
    e.kind = fsb_chunk_get32_(&r);
    fsb_chunk_get_stat_(&r, &stat);
    e.path = fsb_chunk_get_string_(&r), e.path2 = fsb_chunk_get_string_(&r);
    e.stat = stat.file_id ? &stat : NULL;
    if (r.bad || f->flags || f->data_size || !e.kind || e.kind > FSB_EVENT_LOST) return -EPROTO;
    if (fsb_chunk_path_check_(e.path) != 0) return -EPROTO;
    if (e.kind == FSB_EVENT_RENAMED ? fsb_chunk_path_check_(e.path2) != 0 : e.path2 != NULL)
        return -EPROTO;
    pthread_mutex_lock(&c->lock);
    void (*const event)(void *, const fsb_event *) = c->event;
    void *const user = c->event_user;
    c->telling = 1;
    pthread_mutex_unlock(&c->lock);
    if (event) event(user, &e);
    pthread_mutex_lock(&c->lock);
    c->telling = 0;
    pthread_cond_broadcast(&c->unsent);
    const int err = fsb_chunk_enqueue_seen_(c, f->tag);
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_client_flush_(c);
    return err;
}

/* Whoever holds the lease learns that it is over: anything may have changed. */
static void fsb_chunk_client_lost_(fsb_chunk_client_ *c)
{
    const fsb_event e = {FSB_EVENT_LOST, "/", NULL, NULL};
    pthread_mutex_lock(&c->lock);
    void (*const event)(void *, const fsb_event *) = c->event;
    void *const user = c->event_user;
    c->telling = 1;
    pthread_mutex_unlock(&c->lock);
    if (event) event(user, &e);
    pthread_mutex_lock(&c->lock);
    c->telling = 0;
    pthread_cond_broadcast(&c->unsent);
    pthread_mutex_unlock(&c->lock);
}

/* The host gave a lease: from here on events go to who asked for it. */
static void fsb_chunk_leased_(fsb_chunk_client_ *c, const fsb_op *op)
{
    pthread_mutex_lock(&c->lock);
    c->event = op->event, c->event_user = op->user;
    pthread_mutex_unlock(&c->lock);
}

/* A file is open: our handle for it instead of the host's. Lock held. */
static int fsb_chunk_file_opened_(fsb_chunk_client_ *c, fsb_op *op)
{
    const uint32_t room = c->file_count ? c->file_count * 2 : 8;
    if (!c->file_free) {
        fsb_chunk_file_ *files = (fsb_chunk_file_ *)fsb_chunk_resize_(
            &c->allocator, c->files, c->file_count * sizeof *files, room * sizeof *files);
        if (!files) return -ENOMEM;
        memset(files + c->file_count, 0, (room - c->file_count) * sizeof *files);
        for (uint32_t i = room; i > c->file_count; --i)
            files[i - 1].next = c->file_free, c->file_free = i;
        c->files = files, c->file_count = room;
    }
    fsb_chunk_file_ *file = &c->files[c->file_free - 1];
    file->path = fsb_chunk_strdup_(&c->allocator, op->path);
    if (!file->path) return -ENOMEM;
    file->remote = op->handle, file->file_id = op->stat.file_id;
    file->flags = op->flags, file->error = file->locked = 0;
    op->handle = (uint64_t)file->generation << 32 | c->file_free;
    c->file_free = file->next;
    return 0;
}

/* A lock was granted, or given back: the same in our own list as in the host's. Lock held. */
static void fsb_chunk_note_lock_(fsb_chunk_client_ *c, fsb_chunk_file_ *file, const fsb_op *op)
{
    const fsb_allocator *a = &c->allocator;
    fsb_chunk_lock_     *l = (fsb_chunk_lock_ *)fsb_chunk_alloc_(a, sizeof *l);
    fsb_chunk_lock_     *spare = (fsb_chunk_lock_ *)fsb_chunk_alloc_(a, sizeof *spare);
    if (l && spare) {
        fsb_chunk_lock_of_(l, op, file->file_id);
        (void)fsb_chunk_lock_carve_(a, &c->locks, l, &spare);
        if (l->kind & (FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE))
            fsb_chunk_lock_hold_(a, &c->locks, l), l = NULL;
    } else file->locked = 1;
    fsb_chunk_free_(a, l, sizeof *l);
    fsb_chunk_free_(a, spare, sizeof *spare);
}

/* Notes what an answer says about the files that are open. Returns the result. */
static int64_t fsb_chunk_note_(fsb_chunk_client_ *c, fsb_op *op, int64_t result)
{
    fsb_chunk_file_ *file;
    fsb_op           undo;
    int              err = 0;
    pthread_mutex_lock(&c->lock);
    if (op->code == FSB_OP_OPEN) err = fsb_chunk_file_opened_(c, op);
    if (op->code == FSB_OP_LOCK && !(op->flags & FSB_LOCK_TEST) &&
        (file = fsb_chunk_file_of_(c, op->handle)) != NULL)
        fsb_chunk_note_lock_(c, file, op);
    for (uint32_t i = 0; op->code == FSB_OP_RENAME && i < c->file_count; ++i) {
        const int    swaps = (op->flags & FSB_RENAME_EXCHANGE) != 0;
        char **const name = &c->files[i].path;
        if (!*name) continue; /* on an error it is not found again, or not as the same: -ESTALE */
        if (!fsb_chunk_renamed_(&c->allocator, name, op->path, op->path2) && swaps)
            (void)fsb_chunk_renamed_(&c->allocator, name, op->path2, op->path);
    }
    if (err) { /* nobody gets to know of it */
        memset(&undo, 0, sizeof undo);
        undo.code = FSB_OP_CLOSE, undo.handle = op->handle;
        (void)fsb_chunk_enqueue_late_(c, &undo);
    }
    pthread_mutex_unlock(&c->lock);
    if (err) fsb_chunk_client_flush_(c);
    return err ? err : result;
}

/* The call that a frame is about. Lock held. NULL: there is none. */
static fsb_chunk_call_ *fsb_chunk_call_of_(fsb_chunk_client_ *c, uint64_t tag, uint32_t code)
{
    const uint32_t   index = (uint32_t)tag, generation = (uint32_t)(tag >> 32);
    fsb_chunk_call_ *call = index < c->call_count ? c->calls[index] : NULL;
    while (call && call->generation == generation && call->state == FSB_CHUNK_SENDING_)
        pthread_cond_wait(&c->unsent, &c->lock); /* its sender has not yet come back */
    const int good = call && call->generation == generation && call->state == FSB_CHUNK_SENT_ &&
        call->code == code;
    return good ? call : NULL;
}

/* A piece of what a command writes. */
static int fsb_chunk_heard_(fsb_chunk_client_ *c, const fsb_chunk_frame_ *f)
{
    fsb_chunk_cursor_ r = {f->meta, f->meta + f->meta_size, 0};
    const uint64_t    fd = fsb_chunk_get64_(&r);
    if (r.bad || r.at != r.end || f->flags || fd < 1 || fd > 2 || !f->data_size ||
        f->data_size > FSB_CHUNK_OUTPUT_MAX_)
        return -EPROTO;
    pthread_mutex_lock(&c->lock);
    fsb_chunk_call_ *call = fsb_chunk_call_of_(c, f->tag, FSB_OP_EXEC);
    fsb_op *const    op = call && !call->deaf ? call->op : NULL;
    pthread_mutex_unlock(&c->lock);
    if (!call) return -EPROTO;
    if (!op || !op->exec->output) return 0; /* only this thread ends ops: this one stays */
    if (!op->exec->output(op, (int)fd, f->data, f->data_size)) return 0;
    pthread_mutex_lock(&c->lock);
    call->deaf = 1;
    fsb_chunk_enqueue_cancel_(c, f->tag);
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_client_flush_(c);
    return 0;
}

/* One frame of the server's. */
static int fsb_chunk_answered_(fsb_chunk_client_ *c, const fsb_chunk_frame_ *f)
{
    if (f->op == FSB_CHUNK_OUTPUT_) return fsb_chunk_heard_(c, f);
    if (f->op == FSB_CHUNK_EVENT_) return fsb_chunk_event_(c, f);
    if (f->op == FSB_CHUNK_PING_ && c->stays) return 0;
    if (f->op == FSB_CHUNK_GOODBYE_ && c->stays) return -ECONNRESET;
    fsb_op *op = NULL;
    int     err = 0, deaf = 0;
    pthread_mutex_lock(&c->lock);
    fsb_chunk_call_ *call = fsb_chunk_call_of_(c, f->tag, f->op);
    if (!call) err = -EPROTO;
    else {
        op = call->op, deaf = call->deaf;
        if (!op) fsb_chunk_undo_(c, f), --c->late;
        fsb_chunk_call_free_(c, call);
    }
    pthread_mutex_unlock(&c->lock);
    if (err) return err;
    if (!op) {
        fsb_chunk_client_flush_(c);
        return 0;
    }
    int64_t result = fsb_chunk_accept_answer_(op, f);
    if (op->code == FSB_OP_WATCH && result >= 0) fsb_chunk_leased_(c, op);
    if (c->stays && result >= 0) result = fsb_chunk_note_(c, op, result);
    if (deaf && result == -EINTR) { /* its output() wanted it to end, and it did */
        op->exec->exit_code = 0, op->exec->signal = SIGTERM;
        result = 0;
    }
    op->result = result;
    op->done(op);
    return result == -EPROTO && f->status != -fsb_chunk_error_to_wire_(EPROTO) ? -EPROTO : 0;
}

/* Takes a call off the queue that no byte was sent of. Lock held. */
static void fsb_chunk_unqueue_(fsb_chunk_client_ *c, fsb_chunk_call_ *call)
{
    fsb_chunk_call_ **p = &c->head;
    while (*p != call) p = &(*p)->next;
    *p = call->next;
    if (!*p) c->tail = p;
    fsb_chunk_call_free_(c, call);
}

/* It is half sent, and its op is to be given up: what is left of its data is copied, as that is the
   caller's. It may take as long again as a request may; then the connection goes. Lock held. 0, or
   -ENOMEM. */
static int fsb_chunk_detach_(fsb_chunk_client_ *c, fsb_chunk_call_ *call, int64_t now)
{
    const size_t skip = call->sent > call->head_size ? call->sent - call->head_size : 0;
    call->deadline = now + c->timeout_ms;
    if (!call->data_size || call->pack) return 0;
    call->pack = (unsigned char *)fsb_chunk_resize_(&c->allocator, NULL, 0, call->data_size);
    if (!call->pack) return -ENOMEM;
    memcpy(call->pack + skip, (const unsigned char *)call->data + skip, call->data_size - skip);
    call->data = call->pack;
    return 0;
}

/* An UNLOCK was given up that the host will do: it is not to be undone by asking for the lock again
   on a host that was started anew. While there is none the list is the connector's. Lock held. */
static void fsb_chunk_note_unlock_(fsb_chunk_client_ *c, const fsb_op *op)
{
    const uint32_t   keeps = FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE | FSB_LOCK_TEST;
    fsb_chunk_file_ *file = op->code == FSB_OP_LOCK && !(op->flags & keeps) && !c->lost
        ? fsb_chunk_file_of_(c, op->handle)
        : NULL;
    if (file) fsb_chunk_note_lock_(c, file, op);
}

/* Its op was given up. Lock held. 0, or -ETIMEDOUT: too many were. */
static int fsb_chunk_give_up_(fsb_chunk_client_ *c, fsb_chunk_call_ *call)
{
    const uint32_t code = call->code;
    const int queued = call->state == FSB_CHUNK_QUEUED_ && !call->sent;
    const int undone = code == FSB_OP_OPEN || code == FSB_OP_LOCK || code == FSB_OP_CLOSE;
    const fsb_op *const op = call->op;
    call->op = NULL;
    if (queued && !(call->repeat && undone)) { /* or the connection that is lost had it done */
        fsb_chunk_unqueue_(c, call);
        return 0;
    }
    if (++c->late > FSB_CHUNK_LATE_MAX_) return -ETIMEDOUT;
    if (queued) return 0; /* that comes when the host is back, in fsb_chunk_settle_() */
    fsb_chunk_note_unlock_(c, op);
    if (code == FSB_OP_LOCK || code == FSB_OP_EXEC)
        fsb_chunk_enqueue_cancel_(c, fsb_chunk_tag_(call));
    fsb_chunk_take_back_(c, call);
    return 0;
}

/* Ends the ops whose time is up; the calls of those sent stay until their answers come, if ever.
   Of one that is half sent the rest follows; if that takes as long again, the connection ends.
   While there is none, what was cancelled ends too: it may have no limit of its own. */
static int fsb_chunk_expire_(fsb_chunk_client_ *c, int64_t now)
{
    fsb_op *late = NULL;
    int     err = 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->call_count; ++i) {
        fsb_chunk_call_ *call = c->calls[i];
        const int        cancelled = c->lost && call->cancelled;
        if (call->state == FSB_CHUNK_FREE_ || (now < call->deadline && !cancelled)) continue;
        const int half = call->state == FSB_CHUNK_QUEUED_ && call->sent;
        const int ends = half && (!call->op || fsb_chunk_detach_(c, call, now) != 0);
        if (ends) err = -ETIMEDOUT;
        if (!call->op || ends || call->state == FSB_CHUNK_SENDING_) continue;
        call->op->result = cancelled ? -EINTR : -ETIMEDOUT;
        call->op->next = late, late = call->op;
        if (fsb_chunk_give_up_(c, call) != 0) err = -ETIMEDOUT;
    }
    pthread_mutex_unlock(&c->lock);
    if (late) fsb_chunk_client_flush_(c);
    while (late) {
        fsb_op *next = late->next;
        late->done(late);
        late = next;
    }
    return err;
}

/* The connection is gone: so is everything in flight. */
static void fsb_chunk_fail_all_(fsb_chunk_client_ *c, int err)
{
    fsb_op *lost = NULL;
    pthread_mutex_lock(&c->lock);
    c->broken = err;
    while (c->sending) pthread_cond_wait(&c->unsent, &c->lock);
    c->head = NULL, c->tail = &c->head;
    for (uint32_t i = 0; i < c->call_count; ++i) {
        fsb_chunk_call_ *call = c->calls[i];
        if (call->state == FSB_CHUNK_FREE_) continue;
        if (call->op) call->op->next = lost, lost = call->op;
        fsb_chunk_call_free_(c, call);
    }
    pthread_mutex_unlock(&c->lock);
    while (lost) {
        fsb_op *next = lost->next;
        fsb_chunk_fail_(lost, err);
        lost = next;
    }
}

static int fsb_chunk_client_resize_(fsb_chunk_client_ *c, size_t size)
{
    unsigned char *in = (unsigned char *)fsb_chunk_resize_(&c->allocator, c->in, c->in_size, size);
    if (!in) return -ENOMEM;
    c->in = in, c->in_size = size;
    return 0;
}

enum { FSB_CHUNK_CLIENT_IN_ = 64 << 10 };

/* Runs the answers that are whole, and makes room for the one that is not. */
static int fsb_chunk_answers_(fsb_chunk_client_ *c)
{
    fsb_chunk_frame_ f;
    for (;;) {
        const size_t  have = c->in_end - c->in_start;
        const int64_t whole = fsb_chunk_unseal_(c->in + c->in_start, have, &f);
        if (whole < 0) return (int)whole;
        if (whole && (size_t)whole <= have) {
            c->in_start += (size_t)whole;
            f.placed = c->placed, c->placed = 0;
            const int err = fsb_chunk_answered_(c, &f);
            if (err) return err;
            continue;
        }
        if (c->in_start) memmove(c->in, c->in + c->in_start, have);
        c->in_start = 0, c->in_end = have;
        return (size_t)whole > c->in_size ? fsb_chunk_client_resize_(c, FSB_CHUNK_FRAME_MAX_) : 0;
    }
}

/* The rest of a large READ's answer, of which `have` bytes are there, goes where it is wanted, and
   is not copied once more: the bytes that may go to *to, or 0. What was placed counts as if it were
   in `in`, where the next frame begins behind it. Looked up each time: the op may have ended. */
static size_t fsb_chunk_place_(fsb_chunk_client_ *c, const fsb_chunk_frame_ *f, size_t have,
                               unsigned char **to)
{
    const size_t trailer = f->flags & FSB_CHUNK_TRAILER_ ? 8 : 0;
    const size_t head = (size_t)FSB_CHUNK_HEADER_ + f->meta_size;
    if (have < head) return 0;
    const size_t there = have - head;
    if (f->op != FSB_OP_READ || f->status < 0 || f->data_size < FSB_CHUNK_CLIENT_IN_ ||
        there >= f->data_size - trailer)
        return 0;
    pthread_mutex_lock(&c->lock);
    fsb_chunk_call_ *call = fsb_chunk_call_of_(c, f->tag, f->op);
    fsb_op          *op = call ? call->op : NULL;
    pthread_mutex_unlock(&c->lock);
    if (!op || !op->buf || f->data_size - trailer > op->size) return 0;
    unsigned char *buf = (unsigned char *)op->buf;
    memcpy(buf + c->placed, f->data + c->placed, there - c->placed);
    c->placed = there;
    *to = buf + there;
    return f->data_size - trailer - there;
}

/* Reads what is there, but of a frame in progress not past its end: large ones then begin at the
   start of the buffer and are never moved. */
static int fsb_chunk_client_fill_(fsb_chunk_client_ *c)
{
    fsb_chunk_frame_ f;
    unsigned char   *to = c->in + c->in_end;
    const int64_t    whole = fsb_chunk_unseal_(c->in, c->in_end, &f);
    size_t           most = FSB_CHUNK_CLIENT_IN_;
    if (whole > 0 && (size_t)whole > most) most = (size_t)whole;
    if (!whole) c->placed = 0;
    const size_t  room = whole > 0 ? fsb_chunk_place_(c, &f, c->in_end, &to) : 0;
    const int64_t n = fsb_chunk_recv_(&c->stream, to, room ? room : most - c->in_end);
    if (n == -EAGAIN) return 0;
    if (n <= 0) return n == -EBADMSG ? -EBADMSG : -ENOTCONN;
    if (room) c->placed += (size_t)n;
    c->in_end += (size_t)n, c->heard = fsb_chunk_now_ms_();
    return 0;
}

/* Ends what is overdue, now and then. */
static int fsb_chunk_tick_(fsb_chunk_client_ *c)
{
    const int64_t now = fsb_chunk_now_ms_();
    if (now < c->next_tick) return 0;
    c->next_tick = now + FSB_CHUNK_TICK_MS_;
    return fsb_chunk_expire_(c, now);
}

/* The host is asked now and then whether it is there, and so knows that we are: also while only it
   has something to say, as over a slow line. */
static int fsb_chunk_ask_(fsb_chunk_client_ *c)
{
    const int64_t now = fsb_chunk_now_ms_();
    if (!c->stays) return 0;
    if (now - c->heard >= FSB_CHUNK_SILENT_MS_) return -ETIMEDOUT;
    if (now - c->pinged < FSB_CHUNK_PING_MS_) return 0;
    c->pinged = now;
    pthread_mutex_lock(&c->lock);
    fsb_chunk_enqueue_ping_(c);
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_client_flush_(c);
    return 0;
}

/* Waits for answers, for room to send, for a kick. With nothing in flight for a second it gives
   memory back and sleeps until it is kicked. */
static int fsb_chunk_client_wait_(fsb_chunk_client_ *c)
{
    struct pollfd p[3] = {
        {c->stream.in, POLLIN, 0}, {c->kick, POLLIN, 0}, {c->stream.out, POLLOUT, 0}};
    uint64_t count;
    pthread_mutex_lock(&c->lock);
    const int over = c->closing || c->broken || c->lost;
    const int blocked = c->blocked, busy = c->in_flight != 0;
    if (busy) c->asleep = 0;
    const int sleeps = c->asleep, most = c->stays ? FSB_CHUNK_PING_MS_ / 2 : -1;
    const int patience = busy ? (int)FSB_CHUNK_TICK_MS_ : sleeps ? most : 1000;
    pthread_mutex_unlock(&c->lock);
    if (over) return -ENOTCONN;
    if (fsb_chunk_ready_(&c->stream)) return fsb_chunk_client_fill_(c);
    /* Behind connect() is a command such as ssh, which needs the processor to bring an answer:
       looking out for it instead of sleeping took 40 % of a copy's processor time. */
    const int n = fsb_chunk_poll_(p, blocked ? 3 : 2, patience, c->connect ? NULL : &c->pace);
    if (n < 0) return errno == EINTR ? 0 : -ENOTCONN;
    if (n == 0 && !busy) {
        pthread_mutex_lock(&c->lock);
        c->asleep = c->in_flight == 0;
        pthread_mutex_unlock(&c->lock);
        if (!c->in_end && c->in_size > FSB_CHUNK_CLIENT_IN_)
            (void)fsb_chunk_client_resize_(c, FSB_CHUNK_CLIENT_IN_);
    }
    if (p[1].revents) (void)!read(c->kick, &count, sizeof count);
    if (p[2].revents) fsb_chunk_client_flush_(c);
    int err = busy ? fsb_chunk_tick_(c) : 0;
    if (!err && p[0].revents) err = fsb_chunk_client_fill_(c);
    return err ? err : fsb_chunk_ask_(c);
}

/* ---- [reconnect] ----------------------------------------------------------------------------- */

/* Where a client that stays comes back to: the same host, which has kept what it had there for a
   while, or one that was started anew: then files are opened again by their names, if these still
   lead to the same files, and what may have been done but must not be done twice ends with -EIO. */

/* Moves all of size bytes before the deadline; it is only for hello, before there is a receiver. */
static int fsb_chunk_exchange_(fsb_chunk_stream_ *s, int sends, unsigned char *bytes, size_t size,
                               int64_t deadline)
{
    while (size || (sends && fsb_chunk_unsent_(s))) {
        struct iovec  part;
        struct pollfd p = {sends ? s->out : s->in, (short)(sends ? POLLOUT : POLLIN), 0};
        const int64_t left = deadline - fsb_chunk_now_ms_();
        part.iov_base = bytes, part.iov_len = size;
        const int64_t n = sends ? fsb_chunk_send_(s, &part, size != 0, 0)
                                : fsb_chunk_recv_(s, bytes, size);
        if (left <= 0 && n <= 0) return -ETIMEDOUT;
        if (n == -EAGAIN || (!n && sends)) {
            if (poll(&p, 1, left < INT_MAX ? (int)left : INT_MAX) < 0 && errno != EINTR)
                return -errno;
            continue;
        }
        if (!n || n == -EPIPE || n == -ECONNRESET) return -ENOTCONN;
        if (n < 0) return (int)n;
        bytes += n, size -= (size_t)n;
    }
    return 0;
}

/* A WRITE of a MiB in few pieces: the default of a unix socket is 208 KiB. TCP tunes its own. */
static void fsb_chunk_widen_(const fsb_chunk_stream_ *s)
{
    int       room = 1 << 20, domain = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(s->out, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX)
        (void)setsockopt(s->out, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
}

#ifdef FSB_WITH_OPENSSL
/* The client's key, where the host's digest is the one that it is for. */
static int fsb_chunk_use_key_(SSL *ssl, const EVP_MD *digest, const unsigned char **identity,
                              size_t *size, SSL_SESSION **session)
{
    const fsb_chunk_client_ *c = (const fsb_chunk_client_ *)SSL_get_app_data(ssl);
    *identity = NULL, *size = 0, *session = NULL;
    if (digest && EVP_MD_get_size(digest) != 32) return 1;
    *session = fsb_chunk_tls_session_(ssl, &c->key);
    *identity = (const unsigned char *)c->key.identity, *size = strlen(c->key.identity);
    return *session != NULL;
}

static fsb_chunk_secure_ *fsb_chunk_secure_client_(const fsb_allocator *a)
{
    fsb_chunk_secure_ *secure = fsb_chunk_secure_new_(a, 0);
    if (secure) SSL_CTX_set_psk_use_session_callback(secure->context, fsb_chunk_use_key_);
    return secure;
}
#else
static fsb_chunk_secure_ *fsb_chunk_secure_client_(const fsb_allocator *a)
{
    return fsb_chunk_secure_new_(a, 0);
}
#endif

static void fsb_chunk_way_close_(fsb_chunk_stream_ *s)
{
    fsb_chunk_tls_close_(s);
    fsb_chunk_sums_close_(s);
    if (s->in >= 0) close(s->in);
    if (s->out >= 0 && s->out != s->in) close(s->out);
    s->in = s->out = -1;
}

/* Sends a frame that stands in `bytes`. */
static int fsb_chunk_tell_host_(fsb_chunk_stream_ *s, unsigned char *bytes, fsb_chunk_cursor_ *w,
                                uint32_t op, uint64_t tag, int64_t deadline)
{
    fsb_chunk_frame_ f;
    while (!w->bad && (w->at - bytes) % 8) fsb_chunk_put_(w, 0, 1);
    if (w->bad) return -ENAMETOOLONG;
    memset(&f, 0, sizeof f);
    f.op = op, f.tag = tag, f.meta_size = (uint32_t)(w->at - bytes) - FSB_CHUNK_HEADER_;
    fsb_chunk_seal_(bytes, &f);
    return fsb_chunk_exchange_(s, 1, bytes, (size_t)(w->at - bytes), deadline);
}

/* The next answer, of room bytes at most; it has no data. */
static int fsb_chunk_hear_host_(fsb_chunk_stream_ *s, unsigned char *bytes, size_t room,
                                fsb_chunk_frame_ *f, int64_t deadline)
{
    int err = fsb_chunk_exchange_(s, 0, bytes, FSB_CHUNK_HEADER_, deadline);
    if (err) return err;
    if (fsb_chunk_unseal_(bytes, FSB_CHUNK_HEADER_, f) < 0 || f->data_size ||
        f->meta_size > room - FSB_CHUNK_HEADER_)
        return -EPROTO;
    err = fsb_chunk_exchange_(s, 0, bytes + FSB_CHUNK_HEADER_, f->meta_size, deadline);
    if (err) return err;
    if (fsb_chunk_unseal_(bytes, FSB_CHUNK_HEADER_ + f->meta_size, f) < 0) return -EPROTO;
    return f->flags != FSB_CHUNK_ANSWER_ || f->status < -4095 ? -EPROTO : 0;
}

static int fsb_chunk_say_hello_(fsb_chunk_client_ *c, fsb_chunk_way_ *way, int back,
                                int64_t deadline)
{
    unsigned char     bytes[FSB_CHUNK_HEADER_ + 296] = {0};
    fsb_chunk_cursor_ w = {bytes + FSB_CHUNK_HEADER_, bytes + sizeof bytes, 0};
    fsb_chunk_frame_  f;
    const uint32_t    wants = (c->stays ? (uint32_t)FSB_CHUNK_STAYS_ : 0) |
        (back ? (uint32_t)FSB_CHUNK_BACK_ : 0);
    fsb_chunk_put16_(&w, FSB_CHUNK_VERSION_), fsb_chunk_put16_(&w, FSB_CHUNK_VERSION_);
    fsb_chunk_put32_(&w, wants);
    memcpy(fsb_chunk_step_(&w, sizeof c->id), c->id, sizeof c->id);
    fsb_chunk_put_string_(&w, c->share);
    int err = fsb_chunk_tell_host_(&way->stream, bytes, &w, FSB_CHUNK_HELLO_, 0, deadline);
    if (!err) err = fsb_chunk_hear_host_(&way->stream, bytes, sizeof bytes, &f, deadline);
    if (err) return err;
    if (f.op != FSB_CHUNK_HELLO_ || f.tag) return -EPROTO;
    if (f.status < 0) return -fsb_chunk_error_from_wire_(-f.status);
    fsb_chunk_cursor_ r = {f.meta, f.meta + f.meta_size, 0};
    const uint32_t    version = fsb_chunk_get16_(&r);
    way->info.rights = fsb_chunk_get16_(&r);
    way->info.max_requests = fsb_chunk_get32_(&r);
    way->info.boot_id = fsb_chunk_get64_(&r);
    way->served = fsb_chunk_get64_(&r);
    const uint32_t most = fsb_chunk_get32_(&r);
    way->resumed = back && (fsb_chunk_get32_(&r) & 1) != 0;
    return r.bad || version != FSB_CHUNK_VERSION_ || most < (uint32_t)FSB_IO_MAX ? -EPROTO : 0;
}

/* A connection that has said hello, within timeout_ms. */
static int fsb_chunk_way_open_(fsb_chunk_client_ *c, fsb_chunk_way_ *way, int back,
                               uint32_t timeout_ms)
{
    const int64_t deadline = fsb_chunk_now_ms_() + timeout_ms;
    int           fds[2] = {-1, -1};
    memset(way, 0, sizeof *way);
    way->stream.in = way->stream.out = -1;
    int err = c->connect ? c->connect(c->user, fds) : fsb_chunk_dial(c->address, timeout_ms, fds);
    if (err) return err;
    way->stream.in = fds[0], way->stream.out = fds[1];
    err = fsb_chunk_stream_init_(&way->stream, fds[0], fds[1]);
    fsb_chunk_widen_(&way->stream);
    (void)fsb_chunk_congestion_(way->stream.out);
    if (!err && c->secure)
        err = fsb_chunk_tls_open_(c->secure, &way->stream, 0, c, &c->allocator);
    if (!err && c->secure) err = fsb_chunk_tls_greet_(&way->stream, deadline);
    if (!err && fsb_chunk_wants_sums_(&way->stream))
        err = fsb_chunk_sums_open_(&way->stream, NULL, 0, &c->allocator);
    if (!err) err = fsb_chunk_say_hello_(c, way, back, deadline);
    if (err) fsb_chunk_way_close_(&way->stream);
    return err;
}

enum { FSB_CHUNK_REOPEN_ = 32, /* files, or locks, asked for at a time */
       FSB_CHUNK_LOST_ = 1 << 16, /* in a lock's kind: another client was faster */
       FSB_CHUNK_OWN_TAG_ = 1 << 30 /* no slot that answers are kept of */ };

/* Asks for one file again. 1: it was asked for, 0: there is none at i, or an error. */
static int fsb_chunk_reopen_ask_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s, uint32_t i,
                                 unsigned char *bytes, int64_t deadline)
{
    fsb_chunk_cursor_ w = {bytes + FSB_CHUNK_HEADER_,
                           bytes + FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, 0};
    fsb_op            op;
    int               there = 0;
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_OPEN;
    pthread_mutex_lock(&c->lock);
    if (i < c->file_count && c->files[i].path && !c->files[i].error) {
        fsb_chunk_file_ *file = &c->files[i];
        const uint32_t   once = FSB_O_CREATE | FSB_O_EXCL | FSB_O_TRUNC;
        op.path = file->path, op.file_id = file->file_id, op.flags = file->flags & ~once;
        fsb_chunk_encode_(&w, fsb_chunk_shape_of_(FSB_OP_OPEN)->request, &op);
        file->error = file->locked ? -EIO : 0; /* some are gone; others may hold them */
        there = !file->error;
    }
    pthread_mutex_unlock(&c->lock);
    if (!there) return 0;
    const int err = fsb_chunk_tell_host_(s, bytes, &w, FSB_OP_OPEN,
                                         (uint64_t)FSB_CHUNK_OWN_TAG_ + i, deadline);
    return err ? err : 1;
}

/* Opens all files again on a host that knows nothing of them, some at a time. */
static int fsb_chunk_reopen_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s, unsigned char *bytes)
{
    fsb_chunk_frame_ f;
    fsb_op           op;
    uint32_t         i = 0, count;
    int              asked, err = 0;
    do {
        const int64_t deadline = fsb_chunk_now_ms_() + FSB_CHUNK_SILENT_MS_;
        pthread_mutex_lock(&c->lock);
        count = c->file_count;
        pthread_mutex_unlock(&c->lock);
        for (asked = 0; i < count && asked < FSB_CHUNK_REOPEN_ && err >= 0; ++i)
            asked += err = fsb_chunk_reopen_ask_(c, s, i, bytes, deadline);
        if (err < 0) return err;
        while (asked--) {
            err = fsb_chunk_hear_host_(s, bytes, FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, &f,
                                       deadline);
            const uint64_t k = f.tag - FSB_CHUNK_OWN_TAG_;
            if (err || f.op != FSB_OP_OPEN || k >= count) return err ? err : -EPROTO;
            fsb_chunk_cursor_ r = {f.meta, f.meta + f.meta_size, 0};
            memset(&op, 0, sizeof op);
            if (f.status >= 0)
                fsb_chunk_decode_(&r, fsb_chunk_shape_of_(FSB_OP_OPEN)->answer, &op);
            if (r.bad) return -EPROTO;
            pthread_mutex_lock(&c->lock);
            c->files[k].remote = op.handle;
            if (!op.handle || op.stat.file_id != c->files[k].file_id) c->files[k].error = -ESTALE;
            pthread_mutex_unlock(&c->lock);
        }
    } while (i < count);
    return 0;
}

/* All that we have open of that file cannot be used any more. */
static void fsb_chunk_unlocked_(fsb_chunk_client_ *c, uint64_t file_id)
{
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->file_count; ++i)
        if (c->files[i].path && c->files[i].file_id == file_id && !c->files[i].error)
            c->files[i].error = -EIO;
    pthread_mutex_unlock(&c->lock);
}

/* Asks for one lock, or gives it back, through any handle of its file. 1: it was asked for, 0: the
   file is not open any more, or an error. */
static int fsb_chunk_relock_ask_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s,
                                 const fsb_chunk_lock_ *l, int gives, uint64_t tag,
                                 unsigned char *bytes, int64_t deadline)
{
    fsb_chunk_cursor_ w = {bytes + FSB_CHUNK_HEADER_,
                           bytes + FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, 0};
    fsb_op            op;
    memset(&op, 0, sizeof op);
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->file_count && !op.handle; ++i) {
        const fsb_chunk_file_ *file = &c->files[i];
        if (file->path && file->file_id == l->file_id && file->error != -ESTALE)
            op.handle = file->remote;
    }
    pthread_mutex_unlock(&c->lock);
    if (!op.handle) return 0;
    op.flags = gives ? l->kind & FSB_LOCK_FLOCK : l->kind; /* without WAIT: now or never */
    op.owner = l->owner, op.pid = l->pid, op.offset = l->first;
    op.size64 = l->last == UINT64_MAX ? 0 : l->last - l->first + 1;
    fsb_chunk_encode_(&w, fsb_chunk_shape_of_(FSB_OP_LOCK)->request, &op);
    const int err = fsb_chunk_tell_host_(s, bytes, &w, FSB_OP_LOCK,
                                         (uint64_t)FSB_CHUNK_OWN_TAG_ + tag, deadline);
    return err ? err : 1;
}

static int fsb_chunk_is_lost_(const fsb_chunk_client_ *c, uint64_t file_id)
{
    for (const fsb_chunk_lock_ *l = c->locks; l; l = l->next)
        if (l->file_id == file_id && l->kind & FSB_CHUNK_LOST_) return 1;
    return 0;
}

/* Asks for some locks from *at on, which then is the next one; with `gives` for those back that
   stand beside one that is lost. */
static int fsb_chunk_relock_some_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s, fsb_chunk_lock_ **at,
                                  int gives, unsigned char *bytes)
{
    fsb_chunk_lock_ *asked[FSB_CHUNK_REOPEN_];
    fsb_chunk_frame_ f;
    uint64_t         n = 0;
    const int64_t    deadline = fsb_chunk_now_ms_() + FSB_CHUNK_SILENT_MS_;
    for (; *at && n < (uint64_t)FSB_CHUNK_REOPEN_; *at = (*at)->next) {
        fsb_chunk_lock_ *const l = *at;
        if (l->kind & FSB_CHUNK_LOST_ || (gives && !fsb_chunk_is_lost_(c, l->file_id))) continue;
        const int err = fsb_chunk_relock_ask_(c, s, l, gives, n, bytes, deadline);
        if (err < 0) return err;
        if (err) asked[n++] = l;
    }
    for (uint64_t i = 0; i < n; ++i) {
        const int err = fsb_chunk_hear_host_(s, bytes, FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, &f,
                                             deadline);
        const uint64_t k = f.tag - FSB_CHUNK_OWN_TAG_;
        if (err || f.op != FSB_OP_LOCK || k >= n) return err ? err : -EPROTO;
        if (f.status >= 0) continue;
        asked[k]->kind |= FSB_CHUNK_LOST_;
        fsb_chunk_log_(&c->log, FSB_LOG_WARN, "chunk/locks", "a lock is lost, and its file: %s",
                       strerror(fsb_chunk_error_from_wire_(-f.status)));
    }
    return 0;
}

/* Holds again what was held, on a host that knows nothing of it. Where another client has been
   faster, the file cannot be used any more, and its other locks are given back. */
static int fsb_chunk_relock_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s, unsigned char *bytes)
{
    fsb_chunk_lock_ **p, *l;
    int               err = 0;
    for (int gives = 0; gives < 2; ++gives)
        for (l = c->locks; l && !err;) err = fsb_chunk_relock_some_(c, s, &l, gives, bytes);
    if (err) return err;
    for (l = c->locks; l; l = l->next)
        if (fsb_chunk_is_lost_(c, l->file_id)) {
            l->kind |= FSB_CHUNK_LOST_;
            fsb_chunk_unlocked_(c, l->file_id);
        }
    for (p = &c->locks; (l = *p) != NULL;) {
        if (l->kind & FSB_CHUNK_LOST_) *p = l->next, fsb_chunk_lock_drop_(&c->allocator, l);
        else p = &l->next;
    }
    return 0;
}

/* The lease, if we held one: it is asked for anew before anything is answered. */
static int fsb_chunk_relet_(fsb_chunk_client_ *c, fsb_chunk_stream_ *s, unsigned char *bytes)
{
    fsb_chunk_cursor_ w = {bytes + FSB_CHUNK_HEADER_,
                           bytes + FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, 0};
    const int64_t     deadline = fsb_chunk_now_ms_() + FSB_CHUNK_SILENT_MS_;
    fsb_chunk_frame_  f;
    fsb_op            op;
    pthread_mutex_lock(&c->lock);
    const int held = c->event != NULL;
    pthread_mutex_unlock(&c->lock);
    if (!held) return 0;
    memset(&op, 0, sizeof op);
    op.path = "/", op.flags = FSB_WATCH_HELD | FSB_WATCH_DEEP;
    fsb_chunk_encode_(&w, fsb_chunk_shape_of_(FSB_OP_WATCH)->request, &op);
    int err = fsb_chunk_tell_host_(s, bytes, &w, FSB_OP_WATCH, FSB_CHUNK_OWN_TAG_, deadline);
    if (!err)
        err = fsb_chunk_hear_host_(s, bytes, FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_, &f, deadline);
    if (!err && f.op != FSB_OP_WATCH) err = -EPROTO;
    return err || f.status >= 0 ? err : -fsb_chunk_error_from_wire_(-f.status);
}

/* One attempt; the connection is where the one before was, or there is none. */
static int fsb_chunk_attempt_(fsb_chunk_client_ *c)
{
    const size_t   room = FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_;
    unsigned char *bytes = (unsigned char *)fsb_chunk_resize_(&c->allocator, NULL, 0, room);
    if (!bytes) return -ENOMEM;
    int err = fsb_chunk_way_open_(c, &c->way, 1, 5000);
    if (!err) {
        if (!c->way.resumed) err = fsb_chunk_reopen_(c, &c->way.stream, bytes);
        if (!err && !c->way.resumed) err = fsb_chunk_relock_(c, &c->way.stream, bytes);
        if (!err) err = fsb_chunk_relet_(c, &c->way.stream, bytes);
        if (err) fsb_chunk_way_close_(&c->way.stream);
    }
    fsb_chunk_free_(&c->allocator, bytes, room);
    return err;
}

/* Tries until it succeeds, on a thread of its own: the receiver has to watch the clock. */
static void *fsb_chunk_connector_(void *arg)
{
    fsb_chunk_client_    *c = (fsb_chunk_client_ *)arg;
    const struct timespec slice = {0, 50000000};
    for (int pause = 2;; pause = pause < 20 ? pause * 2 : 40) { /* slices: 0.1 s, doubled, 2 s */
        const int err = fsb_chunk_attempt_(c);
        pthread_mutex_lock(&c->lock);
        c->refused = err == -EACCES ? err : 0;
        c->found = !err;
        int over = c->found || c->closing;
        pthread_mutex_unlock(&c->lock);
        fsb_chunk_kick_(c->kick);
        for (int i = 0; i < pause && !over; ++i) {
            nanosleep(&slice, NULL);
            pthread_mutex_lock(&c->lock);
            over = c->closing;
            pthread_mutex_unlock(&c->lock);
        }
        if (over) return NULL;
    }
}

/* The connection is lost: what was sent is to be sent again, but for commands, which ended with it.
   What nobody waits for is forgotten, unless it has to be undone when it is answered. */
static void fsb_chunk_requeue_(fsb_chunk_client_ *c)
{
    fsb_op *ended = NULL;
    pthread_mutex_lock(&c->lock);
    c->lost = 1;
    while (c->sending) pthread_cond_wait(&c->unsent, &c->lock);
    c->head = NULL, c->tail = &c->head;
    for (uint32_t i = 0; i < c->call_count; ++i) {
        fsb_chunk_call_ *call = c->calls[i];
        const uint32_t   code = call->code;
        const int undone = code == FSB_OP_OPEN || code == FSB_OP_LOCK || code == FSB_OP_CLOSE;
        if (call->state == FSB_CHUNK_FREE_) continue;
        if (code >= FSB_CHUNK_HELLO_ || (!call->op && !undone)) {
            if (code < FSB_CHUNK_HELLO_) --c->late;
            fsb_chunk_call_free_(c, call);
            continue;
        }
        if (code == FSB_OP_EXEC && (call->state == FSB_CHUNK_SENT_ || call->sent)) {
            call->op->next = ended, ended = call->op;
            fsb_chunk_call_free_(c, call);
            continue;
        }
        call->repeat |= call->state == FSB_CHUNK_SENT_ || call->sent;
        call->sent = 0, call->next = NULL;
        fsb_chunk_enqueue_(c, call);
    }
    pthread_mutex_unlock(&c->lock);
    while (ended) {
        fsb_op *next = ended->next;
        fsb_chunk_fail_(ended, -ENOTCONN);
        ended = next;
    }
}

/* May it be done twice? */
static int fsb_chunk_repeats_(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_WRITE: return !(op->flags & FSB_WRITE_APPEND);
    case FSB_OP_OPEN: case FSB_OP_PUT: return !(op->flags & FSB_O_EXCL);
    case FSB_OP_SETXATTR: return !op->flags;
    case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR: case FSB_OP_RENAME:
    case FSB_OP_LINK: case FSB_OP_SYMLINK: case FSB_OP_MKNOD: case FSB_OP_REMOVEXATTR:
    case FSB_OP_EXEC: return 0;
    default: return 1;
    }
}

/* The host knows nothing of us: encodes what is queued anew, with its handles. Returns what cannot
   be repeated, each with its result. Lock held. */
static fsb_op *fsb_chunk_anew_(fsb_chunk_client_ *c)
{
    fsb_chunk_call_ *call = c->head, *next;
    fsb_op          *over = NULL;
    c->head = NULL, c->tail = &c->head;
    for (; call; call = next) {
        fsb_op *const op = call->op;
        const int64_t deadline = call->deadline;
        next = call->next, call->next = NULL;
        int err = op && call->repeat && !fsb_chunk_repeats_(op) ? -EIO : 0;
        if (call->head != call->inlined)
            fsb_chunk_free_(&c->allocator, call->head, FSB_CHUNK_HEADER_ + FSB_CHUNK_META_MAX_);
        call->head = call->inlined;
        const int done = !op || op->code == FSB_OP_CLOSE;
        if (!err && !done) err = fsb_chunk_call_prepare_(c, call, op);
        if (!err && !done) {
            call->deadline = deadline;
            fsb_chunk_enqueue_(c, call);
            continue;
        }
        if (op) op->result = err, op->next = over, over = op;
        else --c->late;
        fsb_chunk_call_free_(c, call);
    }
    return over;
}

/* The host still has what we had: what was given up meanwhile is taken back before anything else is
   asked, and what must not be done twice is repeated only if its answer was kept. Returns what is
   not, each with its result. Lock held. */
static fsb_op *fsb_chunk_settle_(fsb_chunk_client_ *c)
{
    fsb_chunk_call_ *const queue = c->head, *call, *next;
    fsb_op          *over = NULL, asked;
    fsb_chunk_lock_  l;
    c->head = NULL, c->tail = &c->head;
    for (call = queue; call; call = call->next)
        if (!call->op) fsb_chunk_take_back_(c, call);
    for (call = queue; call; call = next) {
        fsb_op *const op = call->op;
        const int     kept = !call->repeat || call->index < FSB_CHUNK_KEPT_SLOTS_;
        next = call->next, call->next = NULL;
        if (op ? kept || fsb_chunk_repeats_(op) : !fsb_chunk_asks_lock_(c, call, &asked, &l)) {
            fsb_chunk_enqueue_(c, call);
            continue;
        }
        if (op) op->result = -EIO, op->next = over, over = op;
        else --c->late;
        fsb_chunk_call_free_(c, call);
    }
    return over;
}

/* What was cancelled while there was no connection to say it on. Lock held. */
static void fsb_chunk_cancel_again_(fsb_chunk_client_ *c)
{
    for (fsb_chunk_call_ *call = c->head; call; call = call->next)
        if (call->cancelled) fsb_chunk_enqueue_cancel_(c, fsb_chunk_tag_(call));
}

/* Ends those ops, whose results are set. No lock is held. */
static void fsb_chunk_end_list_(fsb_op *list)
{
    while (list) {
        fsb_op *next = list->next;
        list->done(list);
        list = next;
    }
}

/* The host will not have us back: nobody shall wait for it. */
static void fsb_chunk_refused_(fsb_chunk_client_ *c, int err)
{
    fsb_op *over = NULL;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->call_count; ++i) {
        fsb_chunk_call_ *call = c->calls[i];
        if (call->state != FSB_CHUNK_QUEUED_ || !call->op) continue;
        call->op->result = err, call->op->next = over, over = call->op;
        fsb_chunk_unqueue_(c, call);
    }
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_end_list_(over);
}

/* Waits for the connector, or for close(), watching the clock for those who wait. */
static void fsb_chunk_await_(fsb_chunk_client_ *c)
{
    struct pollfd p = {c->kick, POLLIN, 0};
    uint64_t      count;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        const int found = c->found, closing = c->closing, refused = c->refused;
        pthread_mutex_unlock(&c->lock);
        if (closing || found) return;
        if (refused) fsb_chunk_refused_(c, refused);
        if (poll(&p, 1, FSB_CHUNK_TICK_MS_) > 0) (void)!read(c->kick, &count, sizeof count);
        (void)fsb_chunk_tick_(c);
    }
}

/* Has the connection replaced and goes on with what is queued. 0: the client closes instead. */
static int fsb_chunk_recover_(fsb_chunk_client_ *c)
{
    const int64_t begin = fsb_chunk_now_ms_();
    pthread_t     thread;
    fsb_chunk_requeue_(c);
    while (fsb_chunk_thread_(&thread, fsb_chunk_connector_, c) != 0) {
        const struct timespec pause = {0, 100000000};
        nanosleep(&pause, NULL);
        (void)fsb_chunk_tick_(c);
        pthread_mutex_lock(&c->lock);
        const int closing = c->closing;
        pthread_mutex_unlock(&c->lock);
        if (closing) return 0;
    }
    fsb_chunk_await_(c);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&c->lock);
    if (c->closing) {
        if (c->found) fsb_chunk_way_close_(&c->way.stream);
        pthread_mutex_unlock(&c->lock);
        return 0;
    }
    fsb_chunk_way_close_(&c->stream);
    c->stream = c->way.stream, c->found = 0, c->refused = 0;
    c->way.info.reconnects = c->info.reconnects + 1, c->info = c->way.info;
    c->in_start = c->in_end = 0, c->heard = c->pinged = fsb_chunk_now_ms_();
    fsb_op *over = c->way.resumed ? fsb_chunk_settle_(c) : fsb_chunk_anew_(c);
    c->lost = c->blocked = 0;
    fsb_chunk_cancel_again_(c);
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_log_(&c->log, FSB_LOG_WARN, "chunk/back", "the host is back after %lld ms%s",
                   (long long)(fsb_chunk_now_ms_() - begin),
                   c->way.resumed ? "" : ", started anew");
    fsb_chunk_end_list_(over);
    fsb_chunk_client_flush_(c);
    return 1;
}

static void *fsb_chunk_receiver_(void *arg)
{
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)arg;
    pthread_t          self = pthread_self();
    int                err;
    int               closing;
    __atomic_store(&c->receiver, &self, __ATOMIC_RELAXED);
    do {
        do {
            err = fsb_chunk_answers_(c);
            if (!err) err = fsb_chunk_client_wait_(c);
        } while (!err);
        pthread_mutex_lock(&c->lock);
        closing = c->closing;
        pthread_mutex_unlock(&c->lock);
        if (closing) break; /* close() has a word to say to the host */
        fsb_chunk_log_(&c->log, c->stays ? FSB_LOG_WARN : FSB_LOG_ERROR, "chunk/lost",
                       "the host is gone: %s",
                       err == -EPROTO          ? "it broke the protocol"
                           : err == -EBADMSG   ? "bytes were changed on the way"
                           : err == -ETIMEDOUT ? "it does not answer, or takes no more requests"
                           : err == -ENOMEM    ? "out of memory"
                           : err == -ECONNRESET ? "it has stopped"
                                               : "the connection ended");
        fsb_chunk_stream_shut_(&c->stream);
        fsb_chunk_client_lost_(c);
    } while (c->stays && fsb_chunk_recover_(c));
    fsb_chunk_fail_all_(c, err == -EPROTO || err == -ETIMEDOUT ? err : -ENOTCONN);
    return NULL;
}

/* ---- [client] -------------------------------------------------------------------------------- */

static int fsb_chunk_start_(fsb_chunk_client_ *c, fsb_op *op)
{
    const fsb_chunk_shape_ *shape = fsb_chunk_shape_of_(op->code);
    if (!shape || !c->base.call[op->code]) return -ENOSYS;
    if (op->flags && !(shape->request & FSB_CHUNK_FLAGS_)) return -EINVAL;
    const fsb_exec *e = op->exec;
    const int       runs = op->code == FSB_OP_EXEC;
    const int       gives = !runs && (shape->request & FSB_CHUNK_DATA_) != 0;
    if (runs && (!e || !e->argv || !e->argv[0] || (e->input_size && !e->input))) return -EINVAL;
    if ((gives || op->code == FSB_OP_READ) && op->size > (size_t)FSB_IO_MAX) return -EINVAL;
    if (gives && op->size && !op->data) return -EINVAL;
    if (op->code == FSB_OP_LIST && !op->emit) return -EINVAL;
    if (op->code == FSB_OP_WATCH && !op->event) return -EINVAL;
    if (op->code == FSB_OP_LIST && op->size64)
        op->size = op->size64 < (uint64_t)FSB_IO_MAX ? (size_t)op->size64 : (size_t)FSB_IO_MAX;
    op->slice.data = NULL, op->slice.size = 0, op->slice.release = NULL, op->slice.owner = NULL;
    op->layer[0] = NULL;
    pthread_mutex_lock(&c->lock);
    int              err = c->broken ? c->broken : c->refused;
    fsb_chunk_call_ *call = err ? NULL : fsb_chunk_call_new_(c);
    if (!err && !call) err = -ENOMEM;
    if (!err) err = fsb_chunk_call_prepare_(c, call, op);
    if (!err) {
        call->op = op;
        op->layer[0] = call;
        fsb_chunk_enqueue_(c, call);
        if (c->asleep) fsb_chunk_kick_(c->kick), c->asleep = 0;
    } else if (call) fsb_chunk_call_free_(c, call);
    pthread_mutex_unlock(&c->lock);
    return err;
}

/* CLOSE of a WATCH: event() is not called any more, nor running, once this is done. */
static void fsb_chunk_unlease_(fsb_chunk_client_ *c)
{
    pthread_t receiver;
    __atomic_load(&c->receiver, &receiver, __ATOMIC_RELAXED);
    pthread_mutex_lock(&c->lock);
    c->event = NULL;
    while (c->telling && !pthread_equal(receiver, pthread_self()))
        pthread_cond_wait(&c->unsent, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static void fsb_chunk_submit_(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)b;
    for (size_t i = 0; i < n; ++i) {
        const int over = ops[i]->code == FSB_OP_CLOSE && ops[i]->handle == FSB_CHUNK_LEASE_HANDLE_;
        const int err = over ? 0 : fsb_chunk_start_(c, ops[i]);
        if (over) fsb_chunk_unlease_(c);
        if (over || err) fsb_chunk_fail_(ops[i], err);
    }
    fsb_chunk_client_flush_(c);
}

/* Asks for an early end of the call that op is. There is no answer to this, only op's own. */
static void fsb_chunk_cancel_(fsb_backend *b, fsb_op *op)
{
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)b;
    fsb_chunk_call_   *call = (fsb_chunk_call_ *)op->layer[0];
    pthread_mutex_lock(&c->lock);
    if (call && call->op == op) {
        call->cancelled = call->code == FSB_OP_LOCK || call->code == FSB_OP_EXEC;
        fsb_chunk_enqueue_cancel_(c, fsb_chunk_tag_(call));
    }
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_client_flush_(c);
}

/* One who waits for an answer. */
typedef struct fsb_chunk_waiter_ {
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    int             done;
} fsb_chunk_waiter_;

static void fsb_chunk_wake_(fsb_op *op)
{
    fsb_chunk_waiter_ *w = (fsb_chunk_waiter_ *)op->layer[1];
    pthread_mutex_lock(&w->lock);
    w->done = 1;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* Bytes that call[] hands out; they stand behind this. */
typedef struct fsb_chunk_bytes_holder_ {
    fsb_allocator allocator;
    size_t        size;
} fsb_chunk_bytes_holder_;

static void fsb_chunk_bytes_free_(void *owner)
{
    fsb_chunk_bytes_holder_ *h = (fsb_chunk_bytes_holder_ *)owner;
    const fsb_allocator      a = h->allocator;
    fsb_chunk_free_(&a, h, sizeof *h + h->size);
}

static void fsb_chunk_wait_for_(fsb_backend *b, fsb_op *op)
{
    void (*const done)(fsb_op *) = op->done;
    fsb_chunk_waiter_ w;
    if (pthread_mutex_init(&w.lock, NULL) != 0 || pthread_cond_init(&w.cond, NULL) != 0) {
        op->result = -ENOMEM;
        return;
    }
    w.done = 0;
    op->done = fsb_chunk_wake_, op->layer[1] = &w;
    fsb_chunk_submit_(b, &op, 1);
    pthread_mutex_lock(&w.lock);
    while (!w.done) pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
    op->done = done;
}

/* Every call[]: submits and waits. Without op->buf the bytes come in memory of their own. */
static int64_t fsb_chunk_call_wait_(fsb_backend *b, fsb_op *op)
{
    const fsb_allocator     *a = &((fsb_chunk_client_ *)b)->allocator;
    const fsb_chunk_shape_  *shape = fsb_chunk_shape_of_(op->code);
    fsb_chunk_bytes_holder_ *h = NULL;
    if (shape && (shape->answer & FSB_CHUNK_DATA_) && op->code != FSB_OP_LIST && !op->buf &&
        op->size) {
        const size_t room = op->size < (size_t)FSB_IO_MAX ? op->size : (size_t)FSB_IO_MAX;
        h = (fsb_chunk_bytes_holder_ *)fsb_chunk_resize_(a, NULL, 0, sizeof *h + room);
        if (!h) return op->result = -ENOMEM;
        h->allocator = *a, h->size = room;
        op->buf = h + 1;
    }
    fsb_chunk_wait_for_(b, op);
    if (!h) return op->result;
    op->buf = NULL;
    if (op->result < 0) fsb_chunk_bytes_free_(h);
    else {
        op->slice.data = h + 1, op->slice.size = (size_t)op->result;
        op->slice.release = fsb_chunk_bytes_free_, op->slice.owner = h;
    }
    return op->result;
}

static void fsb_chunk_client_free_(fsb_chunk_client_ *c)
{
    const fsb_allocator a = c->allocator;
    for (uint32_t i = 0; i < c->call_count; ++i)
        fsb_chunk_free_(&a, c->calls[i], sizeof **c->calls);
    fsb_chunk_free_(&a, c->calls, (size_t)c->call_room * sizeof *c->calls);
    fsb_chunk_free_(&a, c->in, c->in_size);
    if (c->kick >= 0) close(c->kick);
    fsb_chunk_way_close_(&c->stream);
    fsb_chunk_secure_free_(c->secure, &a);
    explicit_bzero(&c->key, sizeof c->key);
    for (uint32_t i = 0; i < c->file_count; ++i) fsb_chunk_strfree_(&a, c->files[i].path);
    while (c->locks) {
        fsb_chunk_lock_ *l = c->locks;
        c->locks = l->next;
        fsb_chunk_lock_drop_(&a, l);
    }
    fsb_chunk_free_(&a, c->files, c->file_count * sizeof *c->files);
    fsb_chunk_strfree_(&a, c->address);
    fsb_chunk_strfree_(&a, c->share);
    pthread_cond_destroy(&c->unsent);
    pthread_mutex_destroy(&c->lock);
    fsb_chunk_free_(&a, c, sizeof *c);
}

static void fsb_chunk_client_close_(fsb_backend *b)
{
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)b;
    pthread_mutex_lock(&c->lock);
    c->closing = 1;
    pthread_mutex_unlock(&c->lock);
    fsb_chunk_kick_(c->kick);
    pthread_join(c->thread, NULL);
    if (c->stays && !c->lost) {
        unsigned char    bytes[FSB_CHUNK_HEADER_];
        fsb_chunk_frame_ f;
        memset(&f, 0, sizeof f);
        f.op = FSB_CHUNK_GOODBYE_;
        fsb_chunk_seal_(bytes, &f);
        (void)fsb_chunk_exchange_(&c->stream, 1, bytes, sizeof bytes, fsb_chunk_now_ms_() + 200);
    }
    fsb_chunk_client_free_(c);
}

static void fsb_chunk_client_ops_(fsb_chunk_client_ *c, uint64_t served)
{
    for (uint32_t i = 1; i < FSB_OP_COUNT; ++i)
        if ((served >> i & 1) && fsb_chunk_shape_of_(i)) c->base.call[i] = fsb_chunk_call_wait_;
}

/* Copies what the client needs to connect, now and later. */
static int fsb_chunk_client_init_(fsb_chunk_client_ *c, const fsb_chunk_client_desc *d)
{
    const int      tls = !d->connect && strncmp(d->address, "tls:", 4) == 0;
    const uint64_t random[2] = {fsb_chunk_random_(), fsb_chunk_random_()};
    int            given = 0;
    for (size_t i = 0; i < sizeof c->id; ++i) given |= d->id[i];
    memcpy(c->id, given ? (const void *)d->id : (const void *)random, sizeof c->id);
    c->connect = d->connect, c->user = d->user, c->stays = d->reconnect != 0;
    if (d->address) c->address = fsb_chunk_strdup_(&c->allocator, d->address + (tls ? 4 : 0));
    if (d->share) c->share = fsb_chunk_strdup_(&c->allocator, d->share);
    if ((d->address && !c->address) || (d->share && !c->share)) return -ENOMEM;
    if (!d->code) return tls ? -EINVAL : 0;
    if (!tls && !d->connect) return -EINVAL;
    const int err = fsb_chunk_key_of_(d->code, &c->key);
    if (err) return err;
    c->secure = fsb_chunk_secure_client_(&c->allocator);
    return c->secure ? 0 : -FSB_CHUNK_NO_SECURE_;
}

/* Connects, says hello, starts the receiver. */
static int fsb_chunk_client_start_(fsb_chunk_client_ *c, const fsb_chunk_client_desc *d)
{
    int err = fsb_chunk_client_init_(c, d);
    if (!err) err = fsb_chunk_way_open_(c, &c->way, 0, c->timeout_ms);
    if (err) return err;
    c->stream = c->way.stream, c->info = c->way.info;
    c->heard = c->pinged = fsb_chunk_now_ms_();
    fsb_chunk_client_ops_(c, c->way.served);
    err = fsb_chunk_client_resize_(c, FSB_CHUNK_CLIENT_IN_);
    return err ? err : fsb_chunk_thread_(&c->thread, fsb_chunk_receiver_, c);
}

FSB_API int fsb_chunk_client_open(fsb_backend **out, const fsb_chunk_client_desc *desc)
{
    if (!out || !desc || (!desc->address && !desc->connect)) return -EINVAL;
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)fsb_chunk_alloc_(&desc->allocator, sizeof *c);
    if (!c) return -ENOMEM;
    c->allocator = desc->allocator, c->log = desc->log;
    c->timeout_ms = desc->timeout_ms ? desc->timeout_ms : 30000;
    c->tail = &c->head, c->stream.in = c->stream.out = -1;
    c->base.size = sizeof c->base, c->base.name = "chunk";
    c->base.close = fsb_chunk_client_close_, c->base.submit = fsb_chunk_submit_;
    c->base.cancel = fsb_chunk_cancel_;
    c->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = c->kick < 0 ? -errno : 0;
    if (pthread_mutex_init(&c->lock, NULL) != 0 || pthread_cond_init(&c->unsent, NULL) != 0)
        err = -ENOMEM;
    if (!err) err = fsb_chunk_client_start_(c, desc);
    if (err) {
        fsb_chunk_log_(&c->log, FSB_LOG_ERROR, "chunk/connect", "%s: %s",
                       desc->address ? desc->address : "connect",
                       err == -EPROTO         ? "no fsb host of this version answers there"
                           : err == -EACCES   ? "the code opens nothing there"
                           : err == -ENOTCONN ? "it turned us away; its log says why"
                           : err == -ENOENT ? "no such share, or no such socket"
                                            : strerror(-err));
        fsb_chunk_client_free_(c);
        return err;
    }
    *out = &c->base;
    return 0;
}

FSB_API void fsb_chunk_client_get_info(fsb_backend *backend, fsb_chunk_client_info *out)
{
    fsb_chunk_client_ *c = (fsb_chunk_client_ *)backend;
    pthread_mutex_lock(&c->lock);
    *out = c->info;
    pthread_mutex_unlock(&c->lock);
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
