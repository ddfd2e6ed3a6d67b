/* test_mount.c - a real mount, used through system calls.

   A rig is a child process that mounts a backend; the tests run in this one, so that no thread
   which answers the kernel ever waits for itself. The same checks run over several stacks:

       memory    the memory backend, called on the mount's own threads
       local     a folder on the disk, the same way; the test may change it behind the mount's back
       workers   the same, called on other threads: writes are delayed
       chunk     behind the wire: writes are delayed; a second mount of it is at rig.other
       leased    local, with a lease: what others do is told of by tell() */
#include "test.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
static ssize_t test_writev(int fd, const struct iovec *iov, int count);
#define writev test_writev
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "fsb_mount.h"
#undef writev

enum { MEMORY = 1, LOCAL, WORKERS, CHUNK, LEASED };
static const char *const kind_names[] = {"", "memory", "local", "workers", "chunk", "leased"};

/* What both processes see: how often the backend was called, and what it is to do. */
typedef struct shared {
    uint32_t calls[FSB_OP_COUNT];
    uint32_t fail_code; /* this operation answers fail_with */
    int32_t  fail_with;
    uint32_t delay_code, delay_us; /* this one takes its time, or until these change */
    uint32_t hold;                 /* events wait until this is 0 */
    uint32_t inside, moved;        /* of check_crowd(): who is in the folder, how often it moved */
    size_t   memory, most;         /* bytes that the mount has allocated, and had; see counted() */
    uint32_t late, refuse, dawdles; /* LEASED: the kernel gets the answers to this operation when
                                       `late` changes, or refuses them; is one waiting? */
    uint32_t event;                 /* LEASED: to be told of, until it is 0 */
    char     path[100], path2[100];
} shared;

static struct {
    int     kind;
    pid_t   pid;
    char    at[300], other[300], host[300]; /* mount points; the folder behind, if there is one */
    shared *shared;
    int     allow_other;
} rig;

static int nap(int ms) { return poll(NULL, 0, ms); }

/* ---- the spy: a backend that counts, fails and dawdles on request ---------------------------- */

typedef struct spy {
    fsb_backend  base;
    fsb_backend *inner;
    shared      *shared;
} spy;

static int64_t spy_before(shared *s, fsb_op *op)
{
    __atomic_add_fetch(&s->calls[op->code], 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&s->fail_code, __ATOMIC_RELAXED) != op->code) return 0;
    return __atomic_load_n(&s->fail_with, __ATOMIC_RELAXED);
}

/* Passes on what the backend tells of, late if asked for. */
typedef struct spy_watch {
    shared *shared;
    void (*event)(void *user, const fsb_event *event);
    void   *user;
} spy_watch;
static void spy_event(void *user, const fsb_event *event)
{
    spy_watch *w = (spy_watch *)user;
    while (__atomic_load_n(&w->shared->hold, __ATOMIC_ACQUIRE)) usleep(1000);
    w->event(w->user, event);
}

static spy_watch    spy_lease; /* LEASED: what spy_teller() calls */
static fsb_backend *spy_files; /* and looks at */
static _Thread_local uint32_t last_code; /* LEASED: what this thread answers */

static int64_t spy_call(fsb_backend *b, fsb_op *op)
{
    spy *s = (spy *)b;
    last_code = op->code;
    if (rig.kind == LEASED && op->code == FSB_OP_WATCH) {
        spy_lease.user = op->user, op->handle = UINT64_MAX;
        __atomic_store_n(&spy_lease.event, op->event, __ATOMIC_RELEASE);
        return op->result = 0;
    }
    if (op->code == FSB_OP_CLOSE && op->handle == UINT64_MAX) return op->result = 0;
    for (uint32_t us = 0; us < __atomic_load_n(&s->shared->delay_us, __ATOMIC_RELAXED) &&
                          __atomic_load_n(&s->shared->delay_code, __ATOMIC_RELAXED) == op->code;
         us += 1000) {
        __atomic_store_n(&s->shared->dawdles, 1, __ATOMIC_RELEASE);
        usleep(1000);
    }
    const int64_t fail = spy_before(s->shared, op);
    if (fail) return op->result = fail;
    if (op->code == FSB_OP_WATCH) {
        static spy_watch w; /* the server watches a share once */
        w.shared = s->shared, w.event = op->event, w.user = op->user;
        op->event = spy_event, op->user = &w;
    }
    return fsb_backend_call(s->inner, op);
}

static void spy_close(fsb_backend *b)
{
    ((spy *)b)->inner->close(((spy *)b)->inner);
    free(b);
}

static fsb_backend *spy_open(fsb_backend *inner, shared *s)
{
    spy *y = calloc(1, sizeof *y);
    y->base = *inner, y->inner = inner, y->shared = s;
    y->base.close = spy_close, y->base.submit = NULL, y->base.cancel = NULL;
    for (int i = 1; i < FSB_OP_COUNT; ++i)
        if (inner->call[i]) y->base.call[i] = spy_call;
    return &y->base;
}

/* What the mount says to the kernel: an answer of LEASED comes late, or is not taken. */
static ssize_t test_writev(int fd, const struct iovec *iov, int count)
{
    const struct fuse_out_header *h = (const struct fuse_out_header *)iov[0].iov_base;
    if (rig.kind != LEASED || !last_code || iov[0].iov_len != sizeof *h || !h->unique || h->error)
        return writev(fd, iov, count);
    while (__atomic_load_n(&rig.shared->late, __ATOMIC_ACQUIRE) == last_code) {
        __atomic_store_n(&rig.shared->dawdles, 1, __ATOMIC_RELEASE);
        usleep(1000);
    }
    const int refused = __atomic_load_n(&rig.shared->refuse, __ATOMIC_ACQUIRE) == last_code;
    last_code = 0;
    if (!refused) return writev(fd, iov, count);
    const struct fuse_out_header instead = {sizeof instead, -EINTR, h->unique};
    (void)!write(fd, &instead, sizeof instead);
    errno = ENOENT;
    return -1;
}

/* Tells of what tell() says, in the mount's process. */
static void *spy_teller(void *arg)
{
    shared *s = (shared *)arg;
    for (;; usleep(200)) {
        fsb_op          op = {.code = FSB_OP_STAT, .path = s->path2[0] ? s->path2 : s->path};
        const uint32_t  kind = __atomic_load_n(&s->event, __ATOMIC_ACQUIRE);
        const int       gone = kind == FSB_EVENT_REMOVED || kind == FSB_EVENT_LOST;
        if (!kind || !__atomic_load_n(&spy_lease.event, __ATOMIC_ACQUIRE)) continue;
        const int       known = !gone && fsb_backend_call(spy_files, &op) >= 0;
        const fsb_event e = {kind, s->path, s->path2[0] ? s->path2 : NULL, known ? &op.stat : NULL};
        spy_lease.event(spy_lease.user, &e);
        __atomic_store_n(&s->event, 0, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* ---- the rig --------------------------------------------------------------------------------- */

static void child_log(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user;
    if (level <= FSB_LOG_ERROR && getenv("VERBOSE")) fprintf(stderr, "%s: %s\n", item, text);
}

static fsb_mount *child_mount[2];
static void child_stop(int number)
{
    (void)number;
    fsb_mount_stop(child_mount[0]);
    fsb_mount_stop(child_mount[1]);
}

static int child_dial(void *user, int fds[2])
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, (char *)user, strlen((char *)user) + 1);
    fds[0] = fds[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(fds[0], (struct sockaddr *)&a, sizeof a) ? -errno : 0;
}

static void *child_serve(void *arg)
{
    fsb_mount_serve((fsb_mount *)arg);
    return NULL;
}

typedef struct child {
    fsb_backend      *files, *client[2];
    fsb_chunk_server *server;
    fsb_workers      *workers;
    char              socket[100];
} child;

static void child_files(child *c, uint64_t max_bytes)
{
    fsb_local_desc  local = {.root = rig.host};
    fsb_memory_desc memory = {.max_bytes = max_bytes};
    fsb_backend    *b = NULL;
    int             err = rig.host[0] ? fsb_local_open(&b, &local) : fsb_memory_open(&b, &memory);
    if (err) exit(100);
    c->files = c->client[0] = spy_open(b, rig.shared);
    spy_files = b;
    if (rig.kind == WORKERS || rig.kind == CHUNK) c->files->flags &= ~(uint32_t)FSB_BACKEND_QUICK;
    if (rig.kind == WORKERS && fsb_workers_open(&c->workers, NULL)) exit(101);
    if (rig.kind != CHUNK) return;
    snprintf(c->socket, sizeof c->socket, "%.60s/s%d", test_.dir, (int)getpid());
    char address[120];
    snprintf(address, sizeof address, "unix:%s", c->socket);
    fsb_chunk_share       share = {"files", c->files, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
    fsb_chunk_server_desc sd = {.shares = &share, .share_count = 1};
    if (fsb_chunk_server_open(&c->server, &sd)) exit(102);
    if (fsb_chunk_server_listen(c->server, address, NULL, 0)) exit(103);
    fsb_chunk_client_desc cd = {.connect = child_dial, .user = c->socket};
    for (int i = 0; i < 2; ++i)
        if (fsb_chunk_client_open(&c->client[i], &cd)) exit(104);
}

static void child_main(int ready, const char *options, uint64_t max_bytes, fsb_mount_desc desc)
{
    child     c = {0};
    pthread_t thread;
    child_files(&c, max_bytes);
    desc.backend = c.client[0], desc.mountpoint = rig.at, desc.options = options;
    desc.log.fn = child_log;
    if (c.workers) desc.runner = fsb_workers_runner(c.workers);
    signal(SIGTERM, child_stop);
    if (rig.kind == LEASED) pthread_create(&thread, NULL, spy_teller, rig.shared);
    int err = fsb_mount_open(&child_mount[0], &desc);
    desc.backend = c.client[1], desc.mountpoint = rig.other;
    if (!err && rig.kind == CHUNK) err = fsb_mount_open(&child_mount[1], &desc);
    if (write(ready, &err, sizeof err) != sizeof err) exit(105);
    if (err) exit(106);
    if (child_mount[1]) pthread_create(&thread, NULL, child_serve, child_mount[1]);
    const int served = fsb_mount_serve(child_mount[0]);
    if (child_mount[1]) fsb_mount_stop(child_mount[1]), pthread_join(thread, NULL);
    fsb_mount_close(child_mount[0]);
    fsb_mount_close(child_mount[1]);
    if (rig.kind == CHUNK)
        for (int i = 0; i < 2; ++i) c.client[i]->close(c.client[i]);
    fsb_chunk_server_close(c.server);
    fsb_workers_close(c.workers);
    c.files->close(c.files);
    exit(served ? 107 : 0);
}

static void run(const char *program, ...)
{
    char   *argv[8] = {(char *)(uintptr_t)program};
    va_list args;
    va_start(args, program);
    for (int i = 1; i < 7 && (argv[i] = va_arg(args, char *)); ++i) {}
    va_end(args);
    const pid_t pid = fork();
    if (pid == 0) {
        const int null = open("/dev/null", O_RDWR);
        dup2(null, 1), dup2(null, 2);
        execvp(program, argv);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

/* Whatever happened: no mount is left behind. */
static void clean_up(void)
{
    if (rig.pid > 0) kill(rig.pid, SIGKILL), waitpid(rig.pid, NULL, 0);
    rig.pid = 0;
    if (rig.at[0]) umount2(rig.at, MNT_DETACH), umount2(rig.other, MNT_DETACH);
    if (rig.at[0] && geteuid()) {
        run("fusermount3", "-uqz", rig.at, NULL);
        run("fusermount3", "-uqz", rig.other, NULL);
    }
}

static const char *rig_start_with(int kind, const char *options, uint64_t max_bytes,
                                  fsb_mount_desc desc)
{
    static int number;
    if (access("/dev/fuse", F_OK) != 0) return "no /dev/fuse";
    if (geteuid() && access("/usr/bin/fusermount3", X_OK) != 0)
        return "neither root nor fusermount3";
    rig.kind = kind, ++number;
    snprintf(rig.at, sizeof rig.at, "%.200s/m%d", test_dir(), number);
    snprintf(rig.other, sizeof rig.other, "%.200s/o%d", test_dir(), number);
    snprintf(rig.host, sizeof rig.host, "%.200s/h%d", test_dir(), number);
    mkdir(rig.at, 0755), mkdir(rig.other, 0755), mkdir(rig.host, 0755);
    if (kind == MEMORY || max_bytes) rig.host[0] = '\0';
    if (!rig.shared) {
        atexit(clean_up);
        rig.shared = mmap(NULL, sizeof *rig.shared, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    memset(rig.shared, 0, sizeof *rig.shared);
    int ready[2], err = -1;
    if (pipe(ready)) return "no pipe";
    rig.pid = fork();
    if (rig.pid == 0) {
        close(ready[0]);
        child_main(ready[1], options, max_bytes, desc);
    }
    close(ready[1]);
    if (read(ready[0], &err, sizeof err) != sizeof err) err = -EIO;
    close(ready[0]);
    if (!err) return NULL;
    waitpid(rig.pid, NULL, 0);
    rig.pid = 0;
    if (err == -EPERM) return "not allowed to mount";
    CHECK_EQ(err, 0);
    return NULL;
}

static const char *rig_start(int kind)
{
    fsb_mount_desc desc = {0};
    rig.allow_other = geteuid() == 0;
    return rig_start_with(kind, rig.allow_other ? "allow_other" : NULL, 0, desc);
}

/* Ends it by `how` and says how the child ended. */
enum { UNMOUNT, SIGNAL };
static int rig_stop(int how)
{
    int status = -1;
    if (rig.pid <= 0) return -1;
    if (how == UNMOUNT && geteuid() == 0) umount2(rig.at, 0);
    else if (how == UNMOUNT) run("fusermount3", "-u", rig.at, NULL);
    else kill(rig.pid, SIGTERM);
    for (int i = 0; i < 1200; ++i) { /* a minute, as sanitizers are slow */
        if (waitpid(rig.pid, &status, WNOHANG) == rig.pid) {
            rig.pid = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
        }
        nap(50);
    }
    clean_up();
    return -1;
}

static uint32_t calls(int code)
{
    return __atomic_load_n(&rig.shared->calls[code], __ATOMIC_RELAXED);
}

/* ---- helpers --------------------------------------------------------------------------------- */

/* A path in the mount; eight at a time. */
__attribute__((format(printf, 1, 2))) static const char *p(const char *format, ...)
{
    static char paths[8][PATH_MAX];
    static int  next;
    char       *to = paths[next++ % 8];
    char        name[1000];
    va_list     args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    snprintf(to, PATH_MAX, "%s/%s", rig.at, name);
    return to;
}

static int put(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return -errno;
    const ssize_t n = write(fd, text, strlen(text));
    if (close(fd) || n != (ssize_t)strlen(text)) return -1;
    return 0;
}

static const char *get(const char *path)
{
    static char text[4][5000];
    static int  next;
    char       *to = text[next++ % 4];
    const int   fd = open(path, O_RDONLY);
    ssize_t     n = fd < 0 ? -1 : read(fd, to, sizeof text[0] - 1);
    if (n < 0) n = snprintf(to, sizeof text[0], "(%s)", strerror(errno));
    to[n] = '\0';
    if (fd >= 0) close(fd);
    return to;
}

static struct stat st_of(const char *path)
{
    struct stat st;
    memset(&st, 0, sizeof st);
    if (lstat(path, &st)) st.st_ino = 0, st.st_size = -errno;
    return st;
}

static int error_of(int result) { return result < 0 ? errno : 0; }
static void holds(int line, const char *got, const char *want) /* asks once, unlike CHECK_STR */
{
    if (strcmp(got, want) != 0) test_str_(__FILE__, line, got, want);
}
#define HOLDS(got, want) holds(__LINE__, got, want)
#define FAILS(call, error) CHECK_EQ(error_of((int)(call)), error)

/* Runs fn as nobody, in a process of its own; returns its result (0-255). */
static int as_nobody(int (*fn)(void))
{
    const pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) || setgid(65534) || setuid(65534)) _exit(200);
        _exit(fn());
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 201;
}

/* ---- checks: files --------------------------------------------------------------------------- */

static void check_create_read_write(void)
{
    const char *f = p("file");
    CHECK_EQ(put(f, "hello"), 0);
    HOLDS(get(f), "hello");
    CHECK_EQ(st_of(f).st_size, 5);
    CHECK_EQ(st_of(f).st_mode, S_IFREG | 0644);
    CHECK_EQ(st_of(f).st_uid, getuid());
    FAILS(open(f, O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
    FAILS(open(p("missing"), O_RDONLY), ENOENT);
    FAILS(open(p("file/x"), O_RDONLY), ENOTDIR);

    int fd = open(f, O_WRONLY | O_APPEND);
    CHECK_EQ(write(fd, " world", 6), 6);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 11);
    close(fd);
    HOLDS(get(f), "hello world");

    fd = open(f, O_RDWR);
    CHECK_EQ(pwrite(fd, "J", 1, 0), 1);
    CHECK_EQ(pwrite(fd, "!", 1, 20), 1); /* a hole in between */
    char buf[32];
    CHECK_EQ(pread(fd, buf, sizeof buf, 0), 21);
    CHECK(memcmp(buf, "Jello world\0\0\0\0\0\0\0\0\0!", 21) == 0);
    CHECK_EQ(pread(fd, buf, sizeof buf, 21), 0);
    CHECK_EQ(ftruncate(fd, 3), 0);
    CHECK_EQ(pread(fd, buf, sizeof buf, 0), 3);
    CHECK_EQ(ftruncate(fd, 6), 0);
    CHECK_EQ(pread(fd, buf, sizeof buf, 0), 6);
    CHECK(memcmp(buf, "Jel\0\0\0", 6) == 0);
    close(fd);
    CHECK_EQ(truncate(f, 2), 0);
    HOLDS(get(f), "Je");
    fd = open(f, O_RDWR | O_TRUNC);
    CHECK_EQ(st_of(f).st_size, 0);
    close(fd);
    CHECK_EQ(unlink(f), 0);
    CHECK_EQ(st_of(f).st_size, -ENOENT);
    FAILS(unlink(f), ENOENT);
}

static void check_large_file(void)
{
    enum { SIZE = 5 << 20 };
    unsigned char *a = malloc(SIZE), *b = malloc(SIZE);
    for (int i = 0; i < SIZE; ++i) a[i] = (unsigned char)(i * 7 + i / 4096);
    const int steps[] = {SIZE, 1 << 20, 300000, 65536, 4096, 1000};
    for (int k = 0; k < 6; ++k) {
        int fd = open(p("large"), O_RDWR | O_CREAT | O_TRUNC, 0600);
        REQUIRE(fd >= 0);
        const int end = steps[k] < 65536 ? SIZE / 8 : SIZE;
        for (int at = 0; at < end;) {
            const int     step = end - at < steps[k] ? end - at : steps[k];
            const ssize_t n = write(fd, a + at, (size_t)step);
            REQUIRE(n > 0);
            at += (int)n;
        }
        struct stat st; /* of a file with writes on their way */
        CHECK(fstat(fd, &st) == 0 && st.st_size == end);
        CHECK_EQ(pread(fd, b, SIZE, 0), end);
        CHECK(memcmp(a, b, (size_t)end) == 0);
        CHECK_EQ(close(fd), 0);
        fd = open(p("large"), O_RDONLY);
        for (int at = 0; at < end;) {
            const ssize_t n = read(fd, b, 123457);
            REQUIRE(n > 0);
            CHECK(memcmp(a + at, b, (size_t)n) == 0);
            at += (int)n;
        }
        CHECK_EQ(read(fd, b, 1), 0);
        close(fd);
    }
    free(a), free(b);
    unlink(p("large"));
}

static void check_direct_and_sync(void)
{
    void *buf = NULL;
    CHECK_EQ(posix_memalign(&buf, 4096, 8192), 0);
    memset(buf, 'x', 8192);
    int fd = open(p("direct"), O_RDWR | O_CREAT | O_DIRECT, 0644);
    REQUIRE(fd >= 0);
    CHECK_EQ(write(fd, buf, 8192), 8192);
    memset(buf, 0, 8192);
    CHECK_EQ(pread(fd, buf, 4096, 4096), 4096);
    CHECK(((char *)buf)[0] == 'x' && ((char *)buf)[4095] == 'x');
    CHECK_EQ(pread(fd, buf, 4096, 8192), 0);
    close(fd);
    const uint32_t before = calls(FSB_OP_SYNC);
    fd = open(p("direct"), O_WRONLY | O_SYNC);
    CHECK_EQ(write(fd, "sync", 4), 4);
    CHECK(calls(FSB_OP_SYNC) > before);
    close(fd);
    fd = open(p("direct"), O_RDWR);
    CHECK_EQ(write(fd, "a", 1), 1);
    const uint32_t once = calls(FSB_OP_SYNC);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(calls(FSB_OP_SYNC), once + 2);
    CHECK(strncmp(get(p("direct")), "aync", 4) == 0);
    close(fd);
    free(buf);
    unlink(p("direct"));
}

static void check_mmap(void)
{
    const int fd = open(p("map"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(ftruncate(fd, 10000), 0);
    char *shared_map = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *own = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    REQUIRE(shared_map != MAP_FAILED && own != MAP_FAILED);
    memcpy(shared_map + 5000, "shared", 6);
    memcpy(own, "private", 7);
    CHECK_EQ(msync(shared_map, 10000, MS_SYNC), 0);
    char buf[8] = "";
    CHECK_EQ(pread(fd, buf, 6, 5000), 6);
    CHECK_STR(buf, "shared");
    CHECK_EQ(pread(fd, buf, 7, 0), 7);
    CHECK(buf[0] == 0);
    memcpy(shared_map + 9990, "last", 4);
    munmap(shared_map, 10000), munmap(own, 10000);
    close(fd);
    const int again = open(p("map"), O_RDONLY);
    char      last[5] = "";
    CHECK_EQ(pread(again, last, 4, 9990), 4);
    CHECK_STR(last, "last");
    close(again);
    if (rig.kind == LOCAL) {
        char path[400];
        snprintf(path, sizeof path, "%s/map", rig.host);
        const int host = open(path, O_RDONLY);
        CHECK(pread(host, last, 4, 9990) == 4 && strcmp(last, "last") == 0);
        close(host);
    }
    unlink(p("map"));
}

static void check_unlinked_but_open(void)
{
    const int fd = open(p("gone"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(write(fd, "abc", 3), 3);
    CHECK_EQ(unlink(p("gone")), 0);
    struct stat st;
    char        buf[8];
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_nlink, 0);
    CHECK_EQ(st.st_size, 3);
    CHECK_EQ(pwrite(fd, "DEF", 3, 3), 3);
    CHECK_EQ(pread(fd, buf, 8, 0), 6);
    CHECK(memcmp(buf, "abcDEF", 6) == 0);
    CHECK_EQ(ftruncate(fd, 2), 0);
    CHECK_EQ(fchmod(fd, 0600), 0);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 2 && (st.st_mode & 0777) == 0600);
    CHECK_EQ(put(p("gone"), "another"), 0); /* the name is free for another file */
    CHECK(pread(fd, buf, 8, 0) == 2 && memcmp(buf, "ab", 2) == 0);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(close(fd), 0);
    /* replaced by rename while open */
    const int old = open(p("gone"), O_RDONLY);
    CHECK_EQ(put(p("new"), "newer"), 0);
    CHECK_EQ(rename(p("new"), p("gone")), 0);
    CHECK(read(old, buf, 8) == 7 && memcmp(buf, "another", 7) == 0);
    close(old);
    HOLDS(get(p("gone")), "newer");
    unlink(p("gone"));
}

static void check_appenders(void)
{
    enum { LINES = 300, WRITERS = 2 };
    const char *mounts[2] = {rig.at, rig.kind == CHUNK ? rig.other : rig.at};
    CHECK_EQ(put(p("log"), ""), 0);
    pid_t pids[WRITERS];
    for (int w = 0; w < WRITERS; ++w) {
        if ((pids[w] = fork()) != 0) continue;
        char path[400], line[64];
        snprintf(path, sizeof path, "%s/log", mounts[w]);
        const int fd = open(path, O_WRONLY | O_APPEND);
        for (int i = 0; i < LINES; ++i) {
            const int n = snprintf(line, sizeof line, "%d %05d %.*s\n", w, i, i % 20,
                                   "....................");
            if (write(fd, line, (size_t)n) != n) _exit(1);
        }
        _exit(close(fd) != 0);
    }
    for (int w = 0; w < WRITERS; ++w) {
        int status = 1;
        waitpid(pids[w], &status, 0);
        CHECK_EQ(status, 0);
    }
    FILE *f = fopen(p("log"), "r");
    char  line[100];
    int   next[WRITERS] = {0}, bad = 0;
    while (f && fgets(line, sizeof line, f)) {
        int w = -1, i = -1;
        if (sscanf(line, "%d %d", &w, &i) != 2 || w < 0 || w >= WRITERS || i != next[w]) ++bad;
        else ++next[w];
    }
    if (f) fclose(f);
    CHECK_EQ(bad, 0);
    CHECK_EQ(next[0], LINES);
    CHECK_EQ(next[1], LINES);
    unlink(p("log"));
}

static void check_times(void)
{
    CHECK_EQ(put(p("t"), "x"), 0);
    const struct timespec set[2] = {{1000000001, 123456789}, {-5, 987654321}};
    CHECK_EQ(utimensat(AT_FDCWD, p("t"), set, 0), 0);
    struct stat st = st_of(p("t"));
    CHECK_EQ(st.st_atim.tv_sec, 1000000001);
    CHECK_EQ(st.st_atim.tv_nsec, 123456789);
    CHECK_EQ(st.st_mtim.tv_sec, -5);
    CHECK_EQ(st.st_mtim.tv_nsec, 987654321);
    const struct timespec far[2] = {{20000000000, 0}, {-20000000000, 0}}; /* 2603 and 1336 */
    CHECK_EQ(utimensat(AT_FDCWD, p("t"), far, 0), 0);
    CHECK(st_of(p("t")).st_atim.tv_sec > 9000000000); /* as far as it goes */
    CHECK(st_of(p("t")).st_mtim.tv_sec < -2000000000);
    CHECK_EQ(utimensat(AT_FDCWD, p("t"), set, 0), 0);
    const struct timespec omit[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
    CHECK_EQ(utimensat(AT_FDCWD, p("t"), omit, 0), 0);
    st = st_of(p("t"));
    CHECK(st.st_atim.tv_sec > 1500000000);
    CHECK_EQ(st.st_mtim.tv_sec, -5);
    const int fd = open(p("t"), O_WRONLY); /* a write sets mtime, and stat right after it knows */
    CHECK_EQ(write(fd, "y", 1), 1);
    CHECK(st_of(p("t")).st_mtim.tv_sec > 1500000000);
    CHECK_EQ(futimens(fd, set), 0);
    close(fd); /* what was set last counts */
    CHECK_EQ(st_of(p("t")).st_mtim.tv_sec, -5);
    unlink(p("t"));
}

static void check_seek_and_allocate(void)
{
    const int fd = open(p("sparse"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(pwrite(fd, "data", 4, 4 << 20), 4);
    CHECK_EQ(ftruncate(fd, 8 << 20), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_DATA), 4 << 20);
    CHECK_EQ(lseek(fd, 0, SEEK_HOLE), 0);
    CHECK(lseek(fd, 4 << 20, SEEK_HOLE) > 4 << 20);
    FAILS(lseek(fd, 9 << 20, SEEK_DATA), ENXIO);
    FAILS(lseek(fd, -1, SEEK_DATA), ENXIO);
    CHECK_EQ(lseek(fd, 0, SEEK_END), 8 << 20);
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 << 20, 65536), 0);
    char buf[5] = "????";
    CHECK_EQ(pread(fd, buf, 4, 4 << 20), 4);
    CHECK(memcmp(buf, "\0\0\0\0", 4) == 0);
    CHECK_EQ(fallocate(fd, 0, 8 << 20, 1000), 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size == (8 << 20) + 1000);
    CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 9 << 20, 1000), 0);
    CHECK(fstat(fd, &st) == 0 && st.st_size == (8 << 20) + 1000);
    FAILS(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
    CHECK_EQ(ftruncate(fd, (off_t)1 << 40), 0); /* a terabyte, read at its end */
    CHECK_EQ(pwrite(fd, "end", 3, ((off_t)1 << 40) - 3), 3);
    CHECK(pread(fd, buf, 4, ((off_t)1 << 40) - 3) == 3 && memcmp(buf, "end", 3) == 0);
    close(fd);
    unlink(p("sparse"));
}

static void check_copy_range(void)
{
    enum { SIZE = 300000 };
    char *a = malloc(SIZE), *b = malloc(SIZE);
    for (int i = 0; i < SIZE; ++i) a[i] = (char)(i % 251);
    const int in = open(p("from"), O_RDWR | O_CREAT, 0644);
    const int out = open(p("to"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(write(in, a, SIZE), SIZE);
    CHECK_EQ(pwrite(out, "old old", 7, 0), 7);
    off_t from = 0, to = 0;
    while (from < SIZE) {
        const ssize_t n = copy_file_range(in, &from, out, &to, (size_t)(SIZE - from), 0);
        if (n <= 0) break;
    }
    CHECK_EQ(from, SIZE);
    CHECK_EQ(pread(out, b, SIZE, 0), SIZE);
    CHECK(memcmp(a, b, SIZE) == 0);
    CHECK(calls(FSB_OP_COPY) > 0);
    close(in), close(out);
    CHECK_EQ(st_of(p("to")).st_size, SIZE);
    unlink(p("from")), unlink(p("to"));
    free(a), free(b);
}

/* ---- checks: names --------------------------------------------------------------------------- */

static void check_rename(void)
{
    put(p("a"), "A"), put(p("b"), "B"), mkdir(p("d"), 0755), mkdir(p("e"), 0755);
    const ino_t ino = st_of(p("a")).st_ino;
    CHECK_EQ(rename(p("a"), p("c")), 0);
    CHECK_EQ(st_of(p("c")).st_ino, ino);
    CHECK_EQ(st_of(p("a")).st_size, -ENOENT);
    CHECK_EQ(rename(p("c"), p("b")), 0); /* replaces */
    HOLDS(get(p("b")), "A");
    CHECK_EQ(st_of(p("b")).st_ino, ino);
    CHECK_EQ(put(p("a"), "A2"), 0);
    FAILS(syscall(SYS_renameat2, AT_FDCWD, p("a"), AT_FDCWD, p("b"), 1), EEXIST);
    CHECK_EQ(syscall(SYS_renameat2, AT_FDCWD, p("a"), AT_FDCWD, p("b"), 2), 0);
    HOLDS(get(p("a")), "A");
    HOLDS(get(p("b")), "A2");
    CHECK_EQ(syscall(SYS_renameat2, AT_FDCWD, p("a"), AT_FDCWD, p("n"), 1), 0);
    HOLDS(get(p("n")), "A");
    FAILS(rename(p("n"), p("d")), EISDIR);
    FAILS(rename(p("d"), p("n")), ENOTDIR);
    FAILS(rename(p("missing"), p("x")), ENOENT);
    put(p("e/f"), "F");
    FAILS(rename(p("d"), p("e")), ENOTEMPTY);
    FAILS(rename(p("e"), p("e/g")), EINVAL);
    CHECK_EQ(rename(p("e"), p("d")), 0); /* an empty folder may be replaced */
    HOLDS(get(p("d/f")), "F");
    /* exchange of a file and a folder */
    CHECK_EQ(syscall(SYS_renameat2, AT_FDCWD, p("d"), AT_FDCWD, p("n"), 2), 0);
    HOLDS(get(p("d")), "A");
    HOLDS(get(p("n/f")), "F");
    unlink(p("n/f")), rmdir(p("n")), unlink(p("d")), unlink(p("b"));
}

static void check_rename_folder(void)
{
    CHECK_EQ(mkdir(p("x"), 0755), 0);
    CHECK_EQ(mkdir(p("x/y"), 0755), 0);
    CHECK_EQ(mkdir(p("to"), 0755), 0);
    CHECK_EQ(put(p("x/y/f"), "deep"), 0);
    const int   fd = open(p("x/y/f"), O_RDWR), dir = open(p("x/y"), O_RDONLY | O_DIRECTORY);
    const ino_t ino = st_of(p("x/y/f")).st_ino;
    CHECK_EQ(rename(p("x"), p("to/z")), 0);
    HOLDS(get(p("to/z/y/f")), "deep");
    CHECK_EQ(st_of(p("to/z/y/f")).st_ino, ino);
    CHECK_EQ(st_of(p("x/y/f")).st_size, -ENOENT);
    CHECK_EQ(pwrite(fd, "DEEP", 4, 0), 4);
    CHECK_EQ(fchmod(fd, 0640), 0);
    struct stat st;
    CHECK(fstatat(dir, "f", &st, 0) == 0 && st.st_ino == ino && (st.st_mode & 0777) == 0640);
    const int made = openat(dir, "made", O_WRONLY | O_CREAT, 0644); /* in a folder that has moved */
    CHECK(made >= 0);
    close(made);
    CHECK_EQ(st_of(p("to/z/y/made")).st_size, 0);
    CHECK_EQ(mkdir(p("x"), 0755), 0); /* the name is another folder now */
    CHECK_EQ(st_of(p("x/y")).st_size, -ENOENT);
    CHECK_EQ(fstatat(dir, "made", &st, 0), 0);
    close(fd), close(dir);
    HOLDS(get(p("to/z/y/f")), "DEEP");
    unlink(p("to/z/y/f")), unlink(p("to/z/y/made"));
    rmdir(p("to/z/y")), rmdir(p("to/z")), rmdir(p("to")), rmdir(p("x"));
}

static void check_links(void)
{
    put(p("one"), "linked");
    CHECK_EQ(link(p("one"), p("two")), 0);
    CHECK_EQ(st_of(p("one")).st_ino, st_of(p("two")).st_ino);
    CHECK_EQ(st_of(p("one")).st_nlink, 2);
    CHECK_EQ(chmod(p("two"), 0600), 0);
    CHECK_EQ(st_of(p("one")).st_mode & 0777, 0600);
    CHECK_EQ(put(p("two"), "through two"), 0);
    HOLDS(get(p("one")), "through two");
    CHECK_EQ(st_of(p("one")).st_size, 11);
    CHECK_EQ(unlink(p("one")), 0);
    CHECK_EQ(st_of(p("two")).st_nlink, 1);
    HOLDS(get(p("two")), "through two");
    CHECK_EQ(chmod(p("two"), 0644), 0);
    FAILS(link(p("two"), p("two")), EEXIST);
    mkdir(p("dir"), 0755);
    FAILS(link(p("dir"), p("dir2")), EPERM);
    CHECK_EQ(link(p("two"), p("dir/three")), 0);
    CHECK_EQ(rename(p("two"), p("dir/three")), 0); /* one file: nothing happens */
    CHECK_EQ(unlink(p("two")), 0);
    HOLDS(get(p("dir/three")), "through two");
    unlink(p("dir/three")), rmdir(p("dir"));
}

static void check_symlinks(void)
{
    char text[PATH_MAX], buf[PATH_MAX];
    memset(text, 'x', sizeof text);
    CHECK_EQ(symlink("target", p("l")), 0);
    CHECK_EQ(readlink(p("l"), buf, sizeof buf), 6);
    CHECK(memcmp(buf, "target", 6) == 0);
    CHECK_EQ(st_of(p("l")).st_mode, S_IFLNK | 0777);
    FAILS(open(p("l"), O_RDONLY), ENOENT);
    put(p("target"), "T");
    HOLDS(get(p("l")), "T");
    FAILS(symlink("y", p("l")), EEXIST);
    FAILS(open(p("l"), O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK_EQ(symlink("self", p("self")), 0);
    FAILS(open(p("self"), O_RDONLY), ELOOP);
    text[4000] = '\0';
    CHECK_EQ(symlink(text, p("long")), 0);
    CHECK_EQ(readlink(p("long"), buf, sizeof buf), 4000);
    CHECK(memcmp(buf, text, 4000) == 0);
    const struct timespec set[2] = {{7, 7}, {8, 8}};
    CHECK_EQ(utimensat(AT_FDCWD, p("l"), set, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(st_of(p("l")).st_mtim.tv_sec, 8);
    unlink(p("l")), unlink(p("target")), unlink(p("self")), unlink(p("long"));
}

static void check_special_files(void)
{
    CHECK_EQ(mkfifo(p("fifo"), 0640), 0);
    CHECK_EQ(st_of(p("fifo")).st_mode, S_IFIFO | 0640);
    const int r = open(p("fifo"), O_RDONLY | O_NONBLOCK), w = open(p("fifo"), O_WRONLY);
    char      c = 0;
    CHECK(write(w, "z", 1) == 1 && read(r, &c, 1) == 1 && c == 'z');
    close(r), close(w);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const int          s = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", p("sock"));
    CHECK_EQ(bind(s, (struct sockaddr *)&a, sizeof a), 0);
    CHECK_EQ(st_of(p("sock")).st_mode & S_IFMT, S_IFSOCK);
    close(s);
    CHECK_EQ(mknod(p("plain"), S_IFREG | 0600, 0), 0);
    CHECK_EQ(st_of(p("plain")).st_mode, S_IFREG | 0600);
    if (geteuid() == 0) {
        CHECK_EQ(mknod(p("dev"), S_IFCHR | 0600, makedev(1, 300)), 0);
        CHECK_EQ(st_of(p("dev")).st_rdev, makedev(1, 300));
        unlink(p("dev"));
    }
    unlink(p("fifo")), unlink(p("sock")), unlink(p("plain"));
}

static void check_folders(void)
{
    CHECK_EQ(mkdir(p("d"), 0750), 0);
    CHECK_EQ(st_of(p("d")).st_mode, S_IFDIR | 0750);
    CHECK_EQ(st_of(p("d")).st_nlink, 2);
    FAILS(mkdir(p("d"), 0755), EEXIST);
    FAILS(mkdir(p("no/d"), 0755), ENOENT);
    put(p("d/f"), "");
    FAILS(rmdir(p("d")), ENOTEMPTY);
    FAILS(unlink(p("d")), EISDIR);
    FAILS(rmdir(p("d/f")), ENOTDIR);
    FAILS(open(p("d"), O_WRONLY), EISDIR);
    CHECK_EQ(unlink(p("d/f")), 0);
    DIR      *dir = opendir(p("d"));
    const int fd = open(p("d"), O_RDONLY | O_DIRECTORY);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(rmdir(p("d")), 0);
    int n = 0; /* an open folder that was removed is empty */
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.') ++n;
    CHECK_EQ(n, 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0);
    FAILS(openat(fd, "x", O_WRONLY | O_CREAT, 0644), ENOENT);
    if (dir) closedir(dir);
    close(fd);
    const mode_t old = umask(027);
    CHECK_EQ(mkdir(p("masked"), 0777), 0);
    CHECK_EQ(st_of(p("masked")).st_mode & 0777, 0750);
    umask(old);
    rmdir(p("masked"));
}

static void check_odd_names(void)
{
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = '\0';
    CHECK_EQ(put(p("%s", name), "255"), 0);
    HOLDS(get(p("%s", name)), "255");
    CHECK_EQ(unlink(p("%s", name)), 0);
    name[255] = 'n', name[256] = '\0';
    FAILS(open(p("%s", name), O_RDONLY), ENAMETOOLONG);
    FAILS(mkdir(p("%s", name), 0755), ENAMETOOLONG);
    mkdir(p("odd"), 0755);
    int made = 0, seen = 0;
    for (int c = 1; c < 256; ++c) {
        if (c == '/' || c == '.') continue;
        made += put(p("odd/%c", c), "odd") == 0;
    }
    CHECK_EQ(made, 253);
    DIR *dir = opendir(p("odd"));
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.') ++seen, unlinkat(dirfd(dir), e->d_name, 0), rewinddir(dir);
    if (dir) closedir(dir);
    CHECK_EQ(seen, 253);
    CHECK_EQ(rmdir(p("odd")), 0);
}

/* A path longer than the backend takes is refused, and nothing else breaks. */
static void check_deep(void)
{
    char name[251];
    memset(name, 'd', 250), name[250] = '\0';
    CHECK_EQ(mkdir(p("deep"), 0755), 0);
    int  fd = open(p("deep"), O_RDONLY | O_DIRECTORY), depth = 0, error = 0;
    int  fds[40];
    while (depth < 40) {
        if (mkdirat(fd, name, 0755)) {
            error = errno;
            break;
        }
        fds[depth++] = fd;
        fd = openat(fd, name, O_RDONLY | O_DIRECTORY);
        if (fd < 0) break;
    }
    CHECK_EQ(error, ENAMETOOLONG);
    CHECK_EQ(depth, (FSB_PATH_MAX - 5) / 251); /* "/deep", and so many */
    close(fd);
    while (depth--) {
        CHECK_EQ(unlinkat(fds[depth], name, AT_REMOVEDIR), 0);
        close(fds[depth]);
    }
    CHECK_EQ(rmdir(p("deep")), 0);
}

/* ---- checks: listings ------------------------------------------------------------------------ */

enum { MANY = 20000 };

static int many_make(const char *dir, int count)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY);
    int       made = 0;
    for (int i = 0; i < count; ++i) {
        char name[32];
        snprintf(name, sizeof name, "file-%05d", i);
        const int f = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (f >= 0) ++made, close(f);
    }
    close(fd);
    return made;
}

/* Lists by getdents64 with this buffer; counts what is seen twice or not at all. */
static int many_list(const char *dir, int count, size_t size, int *dots)
{
    unsigned char *seen = calloc((size_t)count, 1);
    char          *buf = malloc(size);
    const int      fd = open(dir, O_RDONLY | O_DIRECTORY);
    int            bad = 0;
    for (long n; (n = syscall(SYS_getdents64, fd, buf, size)) != 0;) {
        if (n < 0) {
            bad = -errno;
            break;
        }
        for (long at = 0; at < n;) {
            struct dirent64 *e = (struct dirent64 *)(void *)(buf + at);
            int              i = -1;
            if (e->d_name[0] == '.') ++*dots;
            else if (sscanf(e->d_name, "file-%d", &i) != 1 || i < 0 || i >= count) ++bad;
            else if (seen[i]++) ++bad;
            at += e->d_reclen;
        }
    }
    for (int i = 0; i < count; ++i) bad += !seen[i];
    close(fd);
    free(buf), free(seen);
    return bad;
}

static void check_list_many(void)
{
    const int count = rig.kind == CHUNK || rig.kind == MEMORY ? MANY : 3000;
    mkdir(p("many"), 0755);
    CHECK_EQ(many_make(p("many"), count), count);
    const size_t sizes[] = {1 << 20, 32768, 4096, 300};
    const uint32_t before = calls(FSB_OP_LIST);
    for (int i = 0; i < 4; ++i) {
        int dots = 0;
        CHECK_EQ(many_list(p("many"), count, sizes[i], &dots), 0);
        CHECK_EQ(dots, 2);
    }
    CHECK(calls(FSB_OP_LIST) - before < (uint32_t)count / 20); /* not one for every buffer */
    /* positions can be told and sought */
    DIR *dir = opendir(p("many"));
    long at[4] = {0};
    char names[4][256] = {{0}};
    for (int i = 0; i < 1000; ++i) {
        const long     here = telldir(dir);
        struct dirent *e = readdir(dir);
        if (!e) break;
        if (i % 250 == 1) at[i / 250] = here, strcpy(names[i / 250], e->d_name);
    }
    for (int i = 3; i >= 0; --i) {
        seekdir(dir, at[i]);
        struct dirent *e = readdir(dir);
        CHECK_STR(e ? e->d_name : "(end)", names[i]);
    }
    closedir(dir);
    /* removed while it is listed: each goes once, none is left */
    dir = opendir(p("many"));
    int removed = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.') removed += unlinkat(dirfd(dir), e->d_name, 0) == 0;
    closedir(dir);
    CHECK_EQ(removed, count);
    CHECK_EQ(rmdir(p("many")), 0);
}

/* More at once than the mount keeps parts of listings for, each some names at a time. */
static void check_listers(void)
{
    enum { LISTERS = 20, NAMES = 400, PIECE = 700 };
    int fds[LISTERS], seen[LISTERS] = {0}, open_still = LISTERS;
    mkdir(p("listed"), 0755);
    CHECK_EQ(many_make(p("listed"), NAMES), NAMES);
    for (int i = 0; i < LISTERS; ++i) fds[i] = open(p("listed"), O_RDONLY | O_DIRECTORY);
    while (open_still) {
        open_still = 0;
        for (int i = 0; i < LISTERS; ++i) {
            char       buf[PIECE];
            const long n = syscall(SYS_getdents64, fds[i], buf, sizeof buf);
            CHECK(n >= 0);
            open_still += n > 0;
            for (long at = 0; at < n; at += ((struct dirent64 *)(void *)(buf + at))->d_reclen)
                ++seen[i];
        }
    }
    for (int i = 0; i < LISTERS; ++i) {
        CHECK_EQ(seen[i], NAMES + 2);
        close(fds[i]);
    }
    for (int i = 0; i < NAMES; ++i) unlink(p("listed/file-%05d", i));
    CHECK_EQ(rmdir(p("listed")), 0);
}

/* What a listing brings along must not be older than what this mount did in the meantime. */
static void check_list_is_fresh(void)
{
    mkdir(p("fresh"), 0755);
    CHECK_EQ(many_make(p("fresh"), 400), 400);
    DIR *dir = opendir(p("fresh"));
    for (int i = 0; i < 10; ++i) CHECK(readdir(dir) != NULL);
    struct stat st;
    CHECK_EQ(fstatat(dirfd(dir), "file-00399", &st, 0), 0);
    int fd = openat(dirfd(dir), "file-00399", O_WRONLY);
    CHECK_EQ(write(fd, "grown", 5), 5);
    int other = openat(dirfd(dir), "file-00200", O_WRONLY);
    CHECK_EQ(write(other, "also", 4), 4);
    unlinkat(dirfd(dir), "file-00398", 0);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {}
    CHECK(fstatat(dirfd(dir), "file-00399", &st, 0) == 0 && st.st_size == 5);
    CHECK(fstatat(dirfd(dir), "file-00200", &st, 0) == 0 && st.st_size == 4);
    CHECK(fstatat(dirfd(dir), "file-00398", &st, 0) != 0);
    close(fd), close(other);
    for (int i = 0; i < 400; ++i) {
        char name[32];
        snprintf(name, sizeof name, "file-%05d", i);
        unlinkat(dirfd(dir), name, 0);
    }
    closedir(dir);
    CHECK_EQ(rmdir(p("fresh")), 0);
}

/* ---- checks: the rest ------------------------------------------------------------------------ */

static void check_xattr(void)
{
    put(p("x"), "x");
    char       buf[256];
    const char binary[] = {0, 1, 2, 'z'};
    if (setxattr(p("x"), "user.a", "value", 5, 0) && errno == EOPNOTSUPP) SKIP("no xattr here");
    CHECK_EQ(getxattr(p("x"), "user.a", NULL, 0), 5);
    CHECK_EQ(getxattr(p("x"), "user.a", buf, sizeof buf), 5);
    CHECK(memcmp(buf, "value", 5) == 0);
    FAILS(getxattr(p("x"), "user.a", buf, 2), ERANGE);
    FAILS(getxattr(p("x"), "user.none", buf, 2), ENODATA);
    FAILS(setxattr(p("x"), "user.a", "v", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr(p("x"), "user.b", "v", 1, XATTR_REPLACE), ENODATA);
    FAILS(setxattr(p("x"), "user.a", "v", 1, XATTR_CREATE | XATTR_REPLACE), EEXIST);
    FAILS(setxattr(p("x"), "user.b", "v", 1, XATTR_CREATE | XATTR_REPLACE), ENODATA);
    CHECK_EQ(setxattr(p("x"), "user.b", binary, sizeof binary, XATTR_CREATE), 0);
    CHECK_EQ(setxattr(p("x"), "user.empty", "", 0, 0), 0);
    CHECK_EQ(getxattr(p("x"), "user.empty", buf, sizeof buf), 0);
    CHECK_EQ(getxattr(p("x"), "user.b", buf, sizeof buf), sizeof binary);
    const ssize_t n = listxattr(p("x"), buf, sizeof buf);
    CHECK(n >= 7 + 7 + 11);
    CHECK_EQ(listxattr(p("x"), NULL, 0), n);
    CHECK_EQ(removexattr(p("x"), "user.a"), 0);
    FAILS(removexattr(p("x"), "user.a"), ENODATA);
    /* An ACL with a mask of rw- is a mode, which who asks for that alone must be told of. */
    const uint32_t acl[] = {2, 6 << 16 | 0x01, ~0u, 6 << 16 | 0x02, 1234,      4 << 16 | 0x04,
                            ~0u, 6 << 16 | 0x10, ~0u, 0x20,          ~0u};
    struct statx   stx;
    CHECK_EQ(chmod(p("x"), 0600), 0);
    if (setxattr(p("x"), "system.posix_acl_access", acl, sizeof acl, 0) == 0) {
        CHECK_EQ(statx(AT_FDCWD, p("x"), 0, STATX_MODE, &stx), 0);
        CHECK_EQ(stx.stx_mode & 07777, 0660);
    }
    const int fd = open(p("x"), O_RDWR);
    unlink(p("x"));
    CHECK_EQ(fgetxattr(fd, "user.b", buf, sizeof buf), sizeof binary);
    close(fd);
}

static void check_statfs(void)
{
    struct statvfs v;
    CHECK_EQ(statvfs(rig.at, &v), 0);
    CHECK(v.f_bsize > 0 && v.f_blocks > 0);
    CHECK_EQ(v.f_namemax, 255);
    const uint32_t before = calls(FSB_OP_STATFS);
    for (int i = 0; i < 100; ++i) statvfs(rig.at, &v);
    CHECK(calls(FSB_OP_STATFS) <= before + 5); /* remembered for a second */
}

static void check_local_locks(void)
{
    put(p("lock"), "");
    const int a = open(p("lock"), O_RDWR), b = open(p("lock"), O_RDWR);
    CHECK_EQ(flock(a, LOCK_EX), 0);
    FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_EQ(flock(a, LOCK_UN), 0);
    CHECK_EQ(flock(b, LOCK_SH | LOCK_NB), 0);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK_EQ(fcntl(a, F_SETLK, &l), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        struct flock mine = l;
        int          bad = fcntl(b, F_SETLK, &mine) == 0 || (errno != EAGAIN && errno != EACCES);
        mine = l;
        bad += fcntl(b, F_GETLK, &mine) != 0 || mine.l_type != F_WRLCK || mine.l_start != 10;
        mine.l_type = F_WRLCK, mine.l_start = 15;
        bad += fcntl(b, F_SETLK, &mine) != 0;
        _exit(bad);
    }
    int status = 1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    close(a), close(b);
    CHECK_EQ(calls(FSB_OP_LOCK), 0);
    unlink(p("lock"));
}

static int nobody_tries(void)
{
    int bad = 0;
    bad += error_of(open(p("private"), O_RDONLY)) != EACCES ? 1 : 0;
    bad += error_of(open(p("readable"), O_WRONLY)) != EACCES ? 2 : 0;
    bad += error_of(open(p("readable"), O_RDONLY)) != 0 ? 4 : 0;
    bad += error_of(open(p("made"), O_WRONLY | O_CREAT, 0644)) != EACCES ? 8 : 0;
    bad += error_of(chmod(p("readable"), 0666)) != EPERM ? 16 : 0;
    bad += error_of(open(p("closed/x"), O_RDONLY)) != EACCES ? 32 : 0;
    bad += error_of(unlink(p("sticky/root"))) != EPERM && errno != EACCES ? 64 : 0;
    return bad;
}

static int nobody_makes(void)
{
    struct stat st;
    if (put(p("sticky/own"), "mine")) return 1;
    st = st_of(p("sticky/own"));
    if (st.st_uid != 65534 || st.st_gid != 65534) return 2;
    if (mkdir(p("sticky/dir"), 0700) || st_of(p("sticky/dir")).st_uid != 65534) return 3;
    if (symlink("x", p("sticky/link")) || st_of(p("sticky/link")).st_uid != 65534) return 4;
    if (mkfifo(p("sticky/fifo"), 0600) || st_of(p("sticky/fifo")).st_uid != 65534) return 5;
    return unlink(p("sticky/own")) || rmdir(p("sticky/dir")) || unlink(p("sticky/link")) ||
           unlink(p("sticky/fifo"));
}

static void check_rights(void)
{
    if (!rig.allow_other) SKIP("not root");
    chmod(test_dir(), 0755);
    put(p("private"), "p"), chmod(p("private"), 0600);
    put(p("readable"), "r"), chmod(p("readable"), 0644);
    mkdir(p("closed"), 0700), put(p("closed/x"), "");
    mkdir(p("sticky"), 0755), chmod(p("sticky"), 01777), put(p("sticky/root"), "");
    CHECK_EQ(as_nobody(nobody_tries), 0);
    CHECK_EQ(as_nobody(nobody_makes), 0);
    /* in a set-group-id folder new files are of its group */
    mkdir(p("group"), 0755);
    CHECK_EQ(chown(p("group"), 0, 1234), 0);
    CHECK_EQ(chmod(p("group"), 02777), 0);
    put(p("group/f"), "");
    CHECK_EQ(st_of(p("group/f")).st_gid, 1234);
    mkdir(p("group/d"), 0755);
    CHECK(st_of(p("group/d")).st_mode & S_ISGID);
    CHECK_EQ(chown(p("readable"), 65534, 65534), 0);
    CHECK_EQ(st_of(p("readable")).st_uid, 65534);
    unlink(p("private")), unlink(p("readable")), unlink(p("closed/x")), rmdir(p("closed"));
    unlink(p("sticky/root")), rmdir(p("sticky"));
    unlink(p("group/f")), rmdir(p("group/d")), rmdir(p("group"));
}

static int nobody_writes(void)
{
    const int fd = open(p("suid"), O_WRONLY);
    if (fd < 0 || write(fd, "x", 1) != 1) return 1;
    if (st_of(p("suid")).st_mode & (S_ISUID | S_ISGID)) return 2;
    return close(fd);
}

static int nobody_truncates(void)
{
    if (truncate(p("suid"), 1)) return 1;
    return st_of(p("suid")).st_mode & (S_ISUID | S_ISGID) ? 2 : 0;
}

static int nobody_copies(void)
{
    const int from = open(p("from"), O_RDONLY), to = open(p("suid"), O_WRONLY);
    if (from < 0 || to < 0 || copy_file_range(from, NULL, to, NULL, 3, 0) != 3) return 1;
    if (st_of(p("suid")).st_mode & (S_ISUID | S_ISGID)) return 2;
    return close(from) | close(to);
}

static void check_set_user_id(void)
{
    if (!rig.allow_other) SKIP("not root");
    chmod(test_dir(), 0755);
    put(p("suid"), "#!/bin/true\n");
    CHECK_EQ(chmod(p("suid"), 06777), 0);
    CHECK_EQ(st_of(p("suid")).st_mode & 07777, 06777);
    const int fd = open(p("suid"), O_WRONLY); /* root keeps the bits */
    CHECK_EQ(pwrite(fd, "#", 1, 0), 1);
    close(fd);
    CHECK_EQ(st_of(p("suid")).st_mode & 07777, 06777);
    CHECK_EQ(as_nobody(nobody_writes), 0);
    CHECK_EQ(st_of(p("suid")).st_mode & 07777, 0777);
    chmod(p("suid"), 06777);
    CHECK_EQ(as_nobody(nobody_truncates), 0);
    chmod(p("suid"), 06777);
    CHECK_EQ(chown(p("suid"), 65534, 65534), 0); /* a new owner does not inherit them */
    CHECK_EQ(st_of(p("suid")).st_mode & 07777, 0777);
    chmod(p("suid"), 06777);
    CHECK_EQ(chown(p("suid"), (uid_t)-1, (gid_t)-1), 0); /* not even if it is nobody new */
    CHECK_EQ(st_of(p("suid")).st_mode & 07777, 0777);
    put(p("from"), "abc");
    chmod(p("suid"), 06777);
    CHECK_EQ(as_nobody(nobody_copies), 0);
    const uint32_t before = calls(FSB_OP_GETXATTR);
    const int      again = open(p("suid"), O_WRONLY);
    for (int i = 0; i < 50; ++i) CHECK_EQ(pwrite(again, "x", 1, i), 1);
    close(again);
    CHECK(calls(FSB_OP_GETXATTR) <= before + 2); /* not once for every write */
    unlink(p("suid")), unlink(p("from"));
}

/* ---- checks: many at once -------------------------------------------------------------------- */

/* Works in a folder while its parent is renamed again and again, till that was seen to happen. */
static int crowd_member(int number)
{
    char name[64];
    const int fd = open(p("crowd/a"), O_RDONLY | O_DIRECTORY);
    if (fd < 0) return 1;
    __atomic_add_fetch(&rig.shared->inside, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 150 || __atomic_load_n(&rig.shared->moved, __ATOMIC_RELAXED) <= 2; ++i) {
        struct stat st;
        snprintf(name, sizeof name, "f%d-%d", number, i);
        const int f = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (f < 0) return 2;
        if (write(f, name, strlen(name)) != (ssize_t)strlen(name)) return 3;
        if (close(f)) return 4;
        if (fstatat(fd, name, &st, 0) || st.st_size != (off_t)strlen(name)) return 5;
        if (unlinkat(fd, name, 0)) return 6;
    }
    close(fd);
    return 0;
}

static void check_crowd(void)
{
    enum { MEMBERS = 4 };
    pid_t     pids[MEMBERS];
    uint32_t *inside = &rig.shared->inside, *moves = &rig.shared->moved;
    *inside = *moves = 0;
    CHECK_EQ(mkdir(p("crowd"), 0755), 0);
    CHECK_EQ(mkdir(p("crowd/a"), 0755), 0);
    const int root = open(rig.at, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < MEMBERS; ++i)
        if ((pids[i] = fork()) == 0) _exit(crowd_member(i));
    EVENTUALLY(__atomic_load_n(inside, __ATOMIC_RELAXED) == MEMBERS);
    int left = MEMBERS, moved = 0;
    while (left) {
        int         status = 0;
        const pid_t pid = waitpid(-1, &status, WNOHANG);
        for (int i = 0; i < MEMBERS; ++i)
            if (pid > 0 && pids[i] == pid) --left, CHECK_EQ(status, 0);
        if (renameat(root, moved % 2 ? "moved" : "crowd", root, moved % 2 ? "crowd" : "moved") == 0)
            ++moved, __atomic_add_fetch(moves, 1, __ATOMIC_RELAXED);
    }
    CHECK(moved > 2);
    if (moved % 2) CHECK_EQ(renameat(root, "moved", root, "crowd"), 0);
    close(root);
    CHECK_EQ(rmdir(p("crowd/a")), 0);
    CHECK_EQ(rmdir(p("crowd")), 0);
}

/* Random writes, truncations and reads of one file against the same done in memory. */
static void check_model(void)
{
    enum { SIZE = 600000, STEPS = 400 };
    char    *model = calloc(1, SIZE), *buf = malloc(SIZE);
    uint32_t seed = 12345;
    off_t    size = 0;
    int      fd = open(p("model"), O_RDWR | O_CREAT, 0644), bad = 0;
    for (int i = 0; i < STEPS; ++i) {
        seed = seed * 1664525 + 1013904223;
        const int   what = (int)(seed >> 28);
        const off_t at = (off_t)(seed >> 4) % (SIZE / 2);
        const int   n = (int)(seed >> 7) % (what < 3 ? SIZE / 2 : 5000);
        if (what < 9) {
            memset(buf, i, (size_t)n);
            bad += pwrite(fd, buf, (size_t)n, at) != n;
            memcpy(model + at, buf, (size_t)n);
            if (n && at + n > size) size = at + n;
        } else if (what < 12) {
            const off_t want = size > at ? (size - at < n ? size - at : n) : 0;
            bad += pread(fd, buf, (size_t)n, at) != want;
            bad += memcmp(buf, model + at, (size_t)want) != 0;
        } else if (what == 12) {
            bad += ftruncate(fd, at) != 0;
            if (at < size) memset(model + at, 0, (size_t)(size - at));
            size = at;
        } else if (what == 13) {
            struct stat st = st_of(p("model"));
            bad += st.st_size != size;
        } else if (what == 14) {
            bad += close(fd) != 0;
            fd = open(p("model"), O_RDWR);
        } else {
            bad += fsync(fd) != 0;
        }
    }
    CHECK_EQ(bad, 0);
    close(fd);
    CHECK_EQ(st_of(p("model")).st_size, size);
    fd = open(p("model"), O_RDONLY);
    CHECK_EQ(pread(fd, buf, SIZE, 0), size);
    CHECK(memcmp(buf, model, (size_t)size) == 0);
    close(fd);
    free(model), free(buf);
    unlink(p("model"));
}

/* ---- checks: caches and changes from elsewhere ----------------------------------------------- */

static void check_cache_is_kept(void)
{
    char  *buf = malloc(300000);
    int    fd = open(p("kept"), O_RDWR | O_CREAT, 0644);
    memset(buf, 'k', 300000);
    CHECK_EQ(write(fd, buf, 300000), 300000);
    CHECK_EQ(pread(fd, buf, 300000, 0), 300000);
    close(fd);
    const uint32_t reads = calls(FSB_OP_READ);
    for (int i = 0; i < 3; ++i) { /* own writes leave the pages good */
        fd = open(p("kept"), O_RDONLY);
        CHECK_EQ(read(fd, buf, 300000), 300000);
        CHECK(buf[0] == 'k' && buf[299999] == 'k');
        close(fd);
    }
    CHECK_EQ(calls(FSB_OP_READ), reads);
    free(buf);
    unlink(p("kept"));
    put(p("first"), "first bytes");
    if (rig.kind != LOCAL) return;
    char path[400];
    snprintf(path, sizeof path, "%s/second", rig.host);
    put(path, "came with the open");
    const uint32_t before = calls(FSB_OP_READ);
    HOLDS(get(p("second")), "came with the open");
    CHECK_EQ(calls(FSB_OP_READ), before);
    unlink(p("second"));
}

static const char *elsewhere(const char *name)
{
    static char path[2][400];
    static int  next;
    char       *to = path[next++ % 2];
    snprintf(to, sizeof path[0], "%s/%s", rig.kind == CHUNK ? rig.other : rig.host, name);
    return to;
}

static void check_foreign_changes(void)
{
    if (rig.kind == MEMORY) SKIP("nobody else can change it");
    CHECK_EQ(put(p("f"), "one"), 0);
    HOLDS(get(p("f")), "one");
    CHECK_EQ(put(elsewhere("f"), "TWO"), 0); /* the same size */
    HOLDS(get(p("f")), "TWO");
    CHECK_EQ(put(elsewhere("f"), "longer than before"), 0);
    HOLDS(get(p("f")), "longer than before");
    CHECK_EQ(put(elsewhere("f"), "short"), 0);
    HOLDS(get(p("f")), "short");
    int fd = open(p("f"), O_RDONLY); /* appended to while open */
    char buf[32];
    CHECK_EQ(read(fd, buf, 32), 5);
    const int out = open(elsewhere("f"), O_WRONLY | O_APPEND);
    CHECK_EQ(write(out, " more", 5), 5);
    close(out);
    nap(1100); /* attributes are believed for a second */
    CHECK_EQ(read(fd, buf, 32), 5);
    close(fd);
    /* replaced: open looks the name up again, however fresh it is here */
    CHECK_EQ(put(elsewhere("g"), "replaced"), 0);
    CHECK_EQ(rename(elsewhere("g"), elsewhere("f")), 0);
    HOLDS(get(p("f")), "replaced");
    /* replaced, removed, made */
    CHECK_EQ(put(elsewhere("g"), "another file"), 0);
    CHECK_EQ(rename(elsewhere("g"), elsewhere("f")), 0);
    nap(1100);
    HOLDS(get(p("f")), "another file");
    CHECK_EQ(unlink(elsewhere("f")), 0);
    nap(1100);
    FAILS(open(p("f"), O_RDONLY), ENOENT);
    CHECK_EQ(put(elsewhere("f"), "again"), 0);
    nap(1100);
    HOLDS(get(p("f")), "again");
    /* a folder moves, with a file of it open here */
    CHECK_EQ(mkdir(p("dir"), 0755), 0);
    CHECK_EQ(put(p("dir/in"), "in"), 0);
    fd = open(p("dir/in"), O_RDWR);
    CHECK_EQ(rename(elsewhere("dir"), elsewhere("moved")), 0);
    CHECK_EQ(pwrite(fd, "IN", 2, 0), 2);
    CHECK_EQ(fsync(fd), 0);
    nap(1100);
    HOLDS(get(p("moved/in")), "IN");
    CHECK_EQ(st_of(p("dir/in")).st_size, -ENOENT);
    close(fd);
    unlink(p("moved/in")), rmdir(p("moved")), unlink(p("f"));
}

/* ---- running them ---------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*fn)(void);
} checks[] = {
    {"create_read_write", check_create_read_write}, {"large_file", check_large_file},
    {"direct_and_sync", check_direct_and_sync},     {"mmap", check_mmap},
    {"unlinked_but_open", check_unlinked_but_open}, {"appenders", check_appenders},
    {"times", check_times},                         {"seek_and_allocate", check_seek_and_allocate},
    {"copy_range", check_copy_range},               {"rename", check_rename},
    {"rename_folder", check_rename_folder},         {"links", check_links},
    {"symlinks", check_symlinks},                   {"special_files", check_special_files},
    {"folders", check_folders},                     {"odd_names", check_odd_names},
    {"deep", check_deep},                           {"list_many", check_list_many},
    {"listers", check_listers},
    {"list_is_fresh", check_list_is_fresh},         {"xattr", check_xattr},
    {"statfs", check_statfs},                       {"local_locks", check_local_locks},
    {"rights", check_rights},                       {"set_user_id", check_set_user_id},
    {"crowd", check_crowd},                         {"model", check_model},
    {"cache_is_kept", check_cache_is_kept},         {"foreign_changes", check_foreign_changes},
};

static const char *rig_trouble;
static void        rig_missing(void) { SKIP(rig_trouble); }
static int         rig_ended;
static void        rig_end(void) { CHECK_EQ(rig_ended, 0); }

static void run_checks(int kind)
{
    char name[100];
    int  wanted = 0;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; ++i) {
        snprintf(name, sizeof name, "%s:%s", kind_names[kind], checks[i].name);
        wanted += test_wanted_(name);
    }
    if (!wanted) return;
    rig_trouble = rig_start(kind);
    for (size_t i = 0; i < sizeof checks / sizeof *checks; ++i) {
        snprintf(name, sizeof name, "%s:%s", kind_names[kind], checks[i].name);
        test_run_(name, rig_trouble ? rig_missing : checks[i].fn);
    }
    if (rig_trouble) return;
    rig_ended = rig_stop(kind % 2 ? UNMOUNT : SIGNAL);
    snprintf(name, sizeof name, "%s:end", kind_names[kind]);
    test_run_(name, rig_end);
}

/* ---- without a message ----------------------------------------------------------------------- */
/* Under a lease the kernel answers alone what it has: the mount's process is stopped meanwhile. */

/* Runs fn in a process of its own while nobody answers the kernel: its result, 255 if it waits. */
static int alone_once(int (*fn)(void))
{
    int status = 255 << 8;
    kill(rig.pid, SIGSTOP);
    const pid_t pid = fork();
    if (pid == 0) _exit(fn());
    for (int i = 0; i < 300 && waitpid(pid, &status, WNOHANG) == 0; ++i) nap(10);
    kill(pid, SIGKILL);
    kill(rig.pid, SIGCONT);
    waitpid(pid, NULL, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 254;
}

/* The same, when what is still told of earlier changes has made the kernel forget for the last
   time: fn asks again before each try. */
static int alone(int (*fn)(void))
{
    int got = 255;
    for (int i = 0; i < 10 && got == 255; ++i) {
        if (i) fn();
        got = alone_once(fn);
    }
    return got;
}

static int lists_at(int in) /* how many names are listed */
{
    const int fd = openat(in, ".", O_RDONLY | O_DIRECTORY);
    DIR      *d = fd < 0 ? NULL : fdopendir(fd);
    int       names = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) names += e->d_name[0] != '.';
    if (d) closedir(d);
    return names;
}

static int lists(void)
{
    const int in = open(p("dir"), O_RDONLY | O_DIRECTORY), names = lists_at(in);
    close(in);
    return names;
}

static int reads(void) { return strcmp(get(p("f")), "second") == 0; }

static const char *behind(const char *name) /* a path past the mount */
{
    static char path[4][400];
    static int  next;
    char       *to = path[next++ % 4];
    snprintf(to, sizeof path[0], "%s/%s", rig.host, name);
    return to;
}

#define SOON EVENTUALLY /* asks until it is so: what the host tells takes a moment */

static void test_unopened_folders(void)
{
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    mkdir(behind("dir"), 0755), put(behind("dir/a"), "a"), put(behind("dir/b"), "b");
    for (int i = 0; i < 2; ++i) CHECK_EQ(lists(), 2);
    CHECK_EQ(alone(lists), 2);
    put(behind("dir/c"), "c");
    SOON(lists() == 3);
    CHECK_EQ(lists(), 3);
    CHECK_EQ(alone(lists), 3);
    unlink(behind("dir/a")), rename(behind("dir/b"), behind("dir/c"));
    SOON(lists() == 1);
    SOON(strcmp(get(p("dir/c")), "b") == 0); /* of which another event tells */
    put(p("dir/d"), "d"); /* made here */
    CHECK_EQ(lists(), 2);
    CHECK_EQ(lists(), 2);
    CHECK_EQ(alone(lists), 2);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Answers show a change before the event tells of it; the kernel has other things that are old. */
static void test_told_late(void)
{
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    mkdir(behind("dir"), 0755), put(behind("dir/a"), "a");
    SOON(lists() == 1);
    FAILS(open(p("dir/b"), O_RDONLY), ENOENT);
    CHECK_EQ(lists(), 1);
    nap(50);
    __atomic_store_n(&rig.shared->hold, 1, __ATOMIC_RELEASE);
    link(behind("dir/a"), behind("dir/b")), put(behind("dir/c"), "c");
    close(open(p("dir/a"), O_RDWR)); /* asks the host */
    CHECK_EQ(st_of(p("dir/a")).st_nlink, 2);
    HOLDS(get(p("dir/c")), "c");
    __atomic_store_n(&rig.shared->hold, 0, __ATOMIC_RELEASE);
    SOON(lists() == 3);
    SOON(st_of(p("dir/b")).st_nlink == 2);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* What has moved to where the mount never asked, or has another name there, is told of as well. */
static void test_told_elsewhere(void)
{
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    mkdir(behind("here"), 0755), mkdir(behind("there"), 0755), mkdir(behind("here/sub"), 0755);
    put(behind("here/sub/own"), "own");
    put(behind("here/linked"), "link"), link(behind("here/linked"), behind("there/linked"));
    put(behind("here/moves"), "moves");
    CHECK_EQ(st_of(p("here/linked")).st_nlink, 2);
    HOLDS(get(p("here/sub/own")), "own");
    const int fd = open(p("here/moves"), O_RDWR);
    nap(50);
    put(behind("there/linked"), "is longer");
    SOON(st_of(p("here/linked")).st_size == 9);
    struct stat st;
    rename(behind("here/moves"), behind("there/moved"));
    SOON(st_of(p("here/moves")).st_size == -ENOENT);
    CHECK_EQ(fstat(fd, &st), 0);
    put(behind("there/moved"), "longer by far");
    SOON(fstat(fd, &st) == 0 && st.st_size == 13);
    close(fd);
    CHECK_EQ(rename(p("here"), p("new")), 0); /* the kernel keeps what it knows below */
    HOLDS(get(p("new/sub/own")), "own");
    put(behind("new/sub/own"), "others'");
    SOON(st_of(p("new/sub/own")).st_size == 7);
    HOLDS(get(p("new/sub/own")), "others'");
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Files of the host that the mount's process has open; gone: removed ones only. */
static int held(int gone)
{
    char           path[64], to[500];
    const size_t   size = strlen(rig.host);
    int            count = 0;
    struct dirent *e;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)rig.pid);
    DIR *d = opendir(path);
    while (d && (e = readdir(d)) != NULL) {
        const ssize_t n = readlinkat(dirfd(d), e->d_name, to, sizeof to - 1);
        if (n < 0) continue;
        to[n] = '\0';
        count += strncmp(to, rig.host, size) == 0 && to[size] == '/' && /* not the folder itself */
                 (!gone || strstr(to, "(deleted)"));
    }
    if (d) closedir(d);
    return count;
}

static void put_many(const char *path, char c, size_t size)
{
    char     *text = malloc(size);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    memset(text, c, size);
    CHECK_EQ(write(fd, text, size), (ssize_t)size);
    close(fd), free(text);
}

/* Nothing can be written: files are neither opened nor closed as far as the mount is told. */
static void test_unopened_files(void)
{
    enum { BIG = 4 << 20, FILES = 300, SIZE = 40 << 10 };
    fsb_mount_desc desc = {.read_only = 1};
    const char    *trouble = rig_start_with(CHUNK, NULL, 0, desc);
    char           byte = 0;
    if (trouble) SKIP(trouble);
    FAILS(access(p("f"), F_OK), ENOENT); /* known not to be there, until it is told of */
    put(behind("g"), "first!"), rename(behind("g"), behind("f"));
    SOON(access(p("f"), F_OK) == 0); /* nothing told later drops what is read now */
    HOLDS(get(p("f")), "first!");
    const int old = open(p("f"), O_RDONLY);
    put(behind("g"), "second"), rename(behind("g"), behind("f")); /* replaced, while it is open */
    SOON(reads());
    CHECK(pread(old, &byte, 1, 0) == 1 && byte == 'f');
    close(old);
    CHECK_EQ(alone(reads), 1);
    FAILS(open(p("f"), O_RDWR), EROFS);
    const int same = open(p("f"), O_RDONLY); /* changed in place, while it is open */
    put(behind("f"), "SECOND");
    SOON(pread(same, &byte, 1, 0) == 1 && byte == 'S');
    close(same);
    HOLDS(get(p("f")), "SECOND");
    put_many(behind("big"), 'b', BIG); /* removed, while it is open, most of it not yet read */
    const int big = open(p("big"), O_RDONLY);
    CHECK_EQ(pread(big, &byte, 1, 0), 1);
    unlink(behind("big"));
    SOON(access(p("big"), F_OK) != 0);
    byte = 0;
    CHECK(pread(big, &byte, 1, BIG - 1) == 1 && byte == 'b');
    struct stat st;
    CHECK(fstat(big, &st) == 0 && st.st_size == BIG);
    CHECK_EQ(held(1), 1);
    close(big);
    SOON(held(1) == 0);
    for (int i = 0; i < FILES; ++i) {
        char name[32];
        snprintf(name, sizeof name, "m%d", i);
        put_many(behind(name), 'm', SIZE);
        HOLDS(get(p("%s", name)) + 4998, "m");
    }
    SOON(held(0) <= 256);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* ---- answers that the kernel does not take, or late ------------------------------------------ */

static void *counted(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    void        *now = new_size ? realloc(ptr, new_size) : NULL;
    const size_t change = new_size - old_size; /* may wrap, and wraps back */
    if (!new_size) free(ptr);
    if (new_size && !now) return NULL;
    const size_t bytes = __atomic_add_fetch(&rig.shared->memory, change, __ATOMIC_RELAXED);
    size_t       most = __atomic_load_n(&rig.shared->most, __ATOMIC_RELAXED);
    while (bytes > most && !__atomic_compare_exchange_n(&rig.shared->most, &most, bytes, 0,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return now;
}

/* Has the mount told of it: what others did at the path, or when it was moved to path2. */
static void tell(uint32_t kind, const char *path, const char *path2)
{
    snprintf(rig.shared->path, sizeof rig.shared->path, "%s", path);
    snprintf(rig.shared->path2, sizeof rig.shared->path2, "%s", path2 ? path2 : "");
    __atomic_store_n(&rig.shared->event, kind, __ATOMIC_RELEASE);
    SOON(!__atomic_load_n(&rig.shared->event, __ATOMIC_ACQUIRE));
}

static void refuse(uint32_t code) { __atomic_store_n(&rig.shared->refuse, code, __ATOMIC_RELEASE); }

/* What the kernel was not told of is not kept for it. */
static void test_refused_answers(void)
{
    enum { FOLDERS = 5, FILES = 200, ROOM = 200 << 10 };
    fsb_mount_desc desc = {.allocator.fn = counted};
    const char    *trouble = rig_start_with(LEASED, NULL, 0, desc);
    char           name[64];
    if (trouble) SKIP(trouble);
    for (int i = 0; i < FOLDERS * FILES; ++i) {
        snprintf(name, sizeof name, "%d", i / FILES), mkdir(behind(name), 0755);
        snprintf(name, sizeof name, "%d/%d", i / FILES, i), put(behind(name), "");
    }
    CHECK_EQ(put(p("f"), "f"), 0);
    for (int i = 0; i < FOLDERS; ++i) access(p("%d", i), F_OK);
    const size_t before = rig.shared->memory;
    refuse(FSB_OP_LIST);
    for (int i = 0; i < FOLDERS; ++i) {
        DIR *d = opendir(p("%d", i));
        errno = 0;
        CHECK(d && !readdir(d) && errno == EINTR);
        if (d) closedir(d);
    }
    refuse(FSB_OP_STAT);
    for (int i = 0; i < FILES; ++i) FAILS(access(p("0/%d", i), F_OK), EINTR);
    refuse(FSB_OP_MKDIR);
    for (int i = 0; i < FILES; ++i) FAILS(mkdir(p("mkdir%d", i), 0755), EINTR);
    refuse(FSB_OP_MKNOD);
    for (int i = 0; i < FILES; ++i) FAILS(mknod(p("mknod%d", i), S_IFIFO | 0644, 0), EINTR);
    refuse(FSB_OP_SYMLINK);
    for (int i = 0; i < FILES; ++i) FAILS(symlink("f", p("symlink%d", i)), EINTR);
    refuse(FSB_OP_LINK);
    for (int i = 0; i < FILES; ++i) FAILS(link(p("f"), p("link%d", i)), EINTR);
    refuse(FSB_OP_OPEN);
    for (int i = 0; i < FILES; ++i) FAILS(open(p("open%d", i), O_CREAT | O_RDWR, 0644), EINTR);
    refuse(0);
    CHECK_EQ(access(behind("open0"), F_OK), 0);
    SOON(rig.shared->memory < before + ROOM);
    SOON(held(0) == 0);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Events are lost while the kernel has not yet got a listing from before: who stands in the folder
   sees what is there nevertheless. The times show nothing, and the file that is gone has another
   name. */
static void test_lost_late(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("dir"), 0755), put(behind("dir/a"), "a"), link(behind("dir/a"), behind("link"));
    CHECK_EQ(st_of(p("link")).st_nlink, 2);
    const struct stat st = st_of(p("dir"));
    const int         in = open(p("dir"), O_RDONLY | O_DIRECTORY);
    __atomic_store_n(&rig.shared->late, FSB_OP_LIST, __ATOMIC_RELEASE);
    const pid_t pid = fork();
    if (pid == 0) _exit(lists_at(in) < 1);
    SOON(__atomic_load_n(&rig.shared->dawdles, __ATOMIC_ACQUIRE));
    unlink(behind("dir/a")), put(behind("dir/b"), "b"), put(behind("dir/c"), "c");
    const struct timespec times[] = {st.st_atim, st.st_mtim};
    utimensat(AT_FDCWD, behind("dir"), times, 0);
    tell(FSB_EVENT_LOST, "/", NULL);
    nap(50); /* if the kernel does not wait it forgets too early */
    __atomic_store_n(&rig.shared->late, 0, __ATOMIC_RELEASE);
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    SOON(lists_at(in) == 2);
    SOON(faccessat(in, "a", F_OK, 0) != 0);
    HOLDS(get(p("dir/b")), "b");
    CHECK_EQ(st_of(p("link")).st_nlink, 1);
    close(in);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

static const char *get_at(int dir, const char *name)
{
    static char text[100];
    const int   fd = openat(dir, name, O_RDONLY);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0) snprintf(text, sizeof text, "(%s)", strerror(errno));
    else text[n] = '\0';
    if (fd >= 0) close(fd);
    return text;
}

/* Who stands in a folder stays in it while others move it, or one above. */
static void test_moved_by_others(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("a"), 0755), mkdir(behind("a/in"), 0755), put(behind("a/in/x"), "first");
    const int in = open(p("a/in"), O_RDONLY | O_DIRECTORY);
    HOLDS(get_at(in, "x"), "first");
    FAILS(openat(in, "none", O_RDONLY), ENOENT);

    rename(behind("a"), behind("b")), tell(FSB_EVENT_RENAMED, "/a", "/b");
    HOLDS(get_at(in, "x"), "first");
    put(behind("b/in/none"), "is"), tell(FSB_EVENT_CREATED, "/b/in/none", NULL);
    SOON(strcmp(get_at(in, "none"), "is") == 0);
    CHECK_EQ(mkdirat(in, "made", 0755), 0);
    CHECK_EQ(access(behind("b/in/made"), F_OK), 0);
    SOON(access(p("a"), F_OK) != 0);
    HOLDS(get(p("b/in/x")), "first");
    char path[64], was[500] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", in);
    CHECK(readlink(path, was, sizeof was - 1) > 0);
    HOLDS(was, p("b/in"));

    mkdir(behind("a"), 0755), mkdir(behind("a/in"), 0755), put(behind("a/in/x"), "other");
    tell(FSB_EVENT_CREATED, "/a", NULL);
    SOON(strcmp(get(p("a/in/x")), "other") == 0);
    syscall(SYS_renameat2, AT_FDCWD, behind("a"), AT_FDCWD, behind("b"), 2 /* EXCHANGE */);
    tell(FSB_EVENT_RENAMED, "/a", "/b"), tell(FSB_EVENT_RENAMED, "/b", "/a");
    HOLDS(get_at(in, "x"), "first");
    SOON(strcmp(get(p("b/in/x")), "other") == 0);
    HOLDS(get(p("a/in/x")), "first");

    syscall(SYS_renameat2, AT_FDCWD, behind("a"), AT_FDCWD, behind("b"), 2);
    tell(FSB_EVENT_REMOVED, "/a", NULL), tell(FSB_EVENT_REMOVED, "/b", NULL); /* no more is said */
    FAILS(mkdirat(in, "here", 0755), ESTALE);
    SOON(strcmp(get(p("a/in/x")), "other") == 0);
    HOLDS(get(p("b/in/x")), "first");
    CHECK_EQ(mkdirat(in, "here", 0755), 0);
    CHECK_EQ(access(behind("b/in/here"), F_OK), 0);

    tell(FSB_EVENT_REMOVED, "/b", NULL); /* of what was there before: it comes late */
    CHECK_EQ(mkdirat(in, "there", 0755), 0);
    mkdir(behind("far"), 0755), mkdir(behind("far/away"), 0755);
    rename(behind("b"), behind("far/away/b")), tell(FSB_EVENT_RENAMED, "/b", "/far/away/b");
    FAILS(faccessat(in, "x", F_OK, 0), ESTALE); /* nobody has asked for that folder */
    HOLDS(get(p("far/away/b/in/x")), "first");
    HOLDS(get_at(in, "x"), "first");
    run("rm", "-r", behind("far"), NULL), tell(FSB_EVENT_REMOVED, "/far", NULL);
    FAILS(openat(in, "y", O_RDONLY), ENOENT);
    FAILS(mkdirat(in, "y", 0755), ENOENT);
    FAILS(unlinkat(in, "x", 0), ENOENT);
    close(in);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Between the two renames that others' exchange is told as, who stands in the folder that is told
   of last stays in it, too. */
static void test_exchanged_by_others(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("a"), 0755), mkdir(behind("b"), 0755);
    put(behind("a/x"), "ax"), put(behind("b/x"), "bx");
    const int a = open(p("a"), O_RDONLY | O_DIRECTORY), b = open(p("b"), O_RDONLY | O_DIRECTORY);
    HOLDS(get_at(a, "x"), "ax");
    HOLDS(get_at(b, "x"), "bx");
    put(behind("a/y"), "ay"), put(behind("b/y"), "by"), put(behind("a/z"), "az");
    syscall(SYS_renameat2, AT_FDCWD, behind("a"), AT_FDCWD, behind("b"), 2 /* EXCHANGE */);
    tell(FSB_EVENT_RENAMED, "/a", "/b");
    HOLDS(get_at(a, "y"), "ay");
    HOLDS(get_at(b, "y"), "by");
    tell(FSB_EVENT_RENAMED, "/b", "/a");
    HOLDS(get_at(a, "z"), "az");
    FAILS(openat(b, "z", O_RDONLY), ENOENT);
    SOON(strcmp(get(p("a/x")), "bx") == 0);
    HOLDS(get(p("b/z")), "az");
    close(a), close(b);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

static int is_as_behind(const char *name)
{
    struct stat here, there;
    return !lstat(p("%s", name), &here) && !lstat(behind(name), &there) &&
           here.st_ino == there.st_ino;
}

/* Others replaced a file just before it was renamed here, and are heard of after that: it is theirs
   that has the new name. So it is below a folder that was renamed here. */
static void test_replaced_before_rename(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    put(behind("a"), "old"), mkdir(behind("d"), 0755), put(behind("d/a"), "old");
    HOLDS(get(p("a")), "old");
    HOLDS(get(p("d/a")), "old");
    put(behind("t"), "new"), rename(behind("t"), behind("a"));
    put(behind("t"), "new"), rename(behind("t"), behind("d/a"));
    CHECK_EQ(rename(p("a"), p("b")), 0);
    CHECK_EQ(rename(p("b"), p("c")), 0);
    CHECK_EQ(rename(p("d"), p("e")), 0);
    tell(FSB_EVENT_RENAMED, "/t", "/a"), tell(FSB_EVENT_RENAMED, "/t", "/d/a");
    SOON(is_as_behind("c"));
    SOON(is_as_behind("e/a"));
    HOLDS(get(p("c")), "new");
    HOLDS(get(p("e/a")), "new");
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* A file of two names loses the one that this mount has never heard of. */
static void test_other_name_gone(void)
{
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    char zero[400], one[400], two[400], three[400];
    snprintf(zero, sizeof zero, "%s/f", rig.other);
    snprintf(one, sizeof one, "%s/d/one", rig.other);
    snprintf(two, sizeof two, "%s/d/two", rig.other);
    snprintf(three, sizeof three, "%s/d/three", rig.other);
    put(behind("f"), "f"), mkdir(behind("d"), 0755);
    link(zero, one), link(one, two), put(three, "3");
    SOON(st_of(p("f")).st_nlink == 3);
    CHECK_EQ(unlink(one), 0);
    SOON(st_of(p("f")).st_nlink == 2);
    CHECK_EQ(rename(three, two), 0);
    SOON(st_of(p("f")).st_nlink == 1);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Others moved the folder that the kernel takes for the one that a rename here has replaced; it is
   told of that before the rename is answered, or after. */
static void moved_before(int told_before)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("a"), 0755), mkdir(behind("b"), 0755), put(behind("b/x"), "x");
    mkdir(behind("to"), 0755);
    const int in = open(p("b"), O_RDONLY | O_DIRECTORY);
    CHECK_EQ(lists_at(in), 1);
    CHECK_EQ(access(p("to"), F_OK), 0);
    rig.shared->delay_us = UINT32_MAX / 2, rig.shared->delay_code = FSB_OP_RENAME;
    const pid_t pid = fork();
    if (pid == 0) _exit(rename(p("a"), p("b")) ? errno : 0);
    SOON(__atomic_load_n(&rig.shared->dawdles, __ATOMIC_ACQUIRE)); /* it is being done */
    rename(behind("b"), behind("to/b"));
    if (told_before) tell(FSB_EVENT_RENAMED, "/b", "/to/b");
    rig.shared->delay_code = 0;
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    if (!told_before) tell(FSB_EVENT_RENAMED, "/b", "/to/b");
    HOLDS(get(p("to/b/x")), "x");
    const int again = open(p("to/b"), O_RDONLY | O_DIRECTORY);
    CHECK_EQ(lists_at(again), 1);
    close(in), close(again);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

static void test_moved_before(void) { moved_before(1); }
static void test_moved_before_told_late(void) { moved_before(0); }

/* What is new was looked up before it is told of: its folder's times are not older than that. */
static void test_known_before(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("dir"), 0755);
    const struct timespec old[] = {{1000, 0}, {1000, 0}};
    utimensat(AT_FDCWD, behind("dir"), old, 0);
    CHECK_EQ(st_of(p("dir")).st_mtime, 1000);
    put(behind("dir/x"), "x");
    HOLDS(get(p("dir/x")), "x");
    tell(FSB_EVENT_CREATED, "/dir/x", NULL);
    SOON(st_of(p("dir")).st_mtime == st_of(behind("dir")).st_mtime);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* A folder is moved by others while a name in it is looked up. */
static void test_moved_meanwhile(void)
{
    const char *trouble = rig_start(LEASED);
    if (trouble) SKIP(trouble);
    mkdir(behind("a"), 0755), mkdir(behind("a/in"), 0755), put(behind("a/in/x"), "first");
    const int in = open(p("a/in"), O_RDONLY | O_DIRECTORY);
    rig.shared->delay_us = UINT32_MAX / 2, rig.shared->delay_code = FSB_OP_STAT;
    const pid_t pid = fork();
    if (pid == 0) _exit(faccessat(in, "x", F_OK, 0) ? errno : 0);
    SOON(__atomic_load_n(&rig.shared->dawdles, __ATOMIC_ACQUIRE)); /* for /a/in/x */
    rename(behind("a"), behind("b")), tell(FSB_EVENT_RENAMED, "/a", "/b");
    rig.shared->delay_code = 0;
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    HOLDS(get_at(in, "x"), "first");
    close(in);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* ---- small files fetched ahead --------------------------------------------------------------- */

typedef struct small {
    char name[16];
} small;

/* Makes files that begin with their names; the rest is a hole. */
static void make_small(const char *folder, int count, off_t size)
{
    mkdir(behind(folder), 0755);
    for (int i = 0; i < count; ++i) {
        char path[500];
        snprintf(path, sizeof path, "%s/f%05d", behind(folder), i);
        put(path, strrchr(path, '/') + 1);
        CHECK_EQ(truncate(path, size), 0);
    }
}

static int small_order(const void *a, const void *b)
{
    return strcmp(((const small *)a)->name, ((const small *)b)->name);
}

/* The names of a folder, as they are listed. */
static int small_names(const char *path, small *names, int most)
{
    DIR *d = opendir(path);
    int  count = 0;
    for (struct dirent *e; d && count < most && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            snprintf(names[count++].name, sizeof names[0].name, "%.15s", e->d_name);
    if (d) closedir(d);
    return count;
}

static void read_small(const char *folder, const small *names, int count, int step)
{
    static char bytes[64 << 10];
    int         right = 0;
    for (int i = 0; i < count; i += step) {
        const int     fd = open(p("%s/%s", folder, names[i].name), O_RDONLY);
        const ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
        right += n >= 10 << 10 && strcmp(bytes, names[i].name) == 0 && !bytes[n - 1];
        if (fd >= 0) close(fd);
    }
    CHECK_EQ(right, (count + step - 1) / step);
}

static uint32_t asked(void) /* requests for a file that reached the host */
{
    return calls(FSB_OP_GET) + calls(FSB_OP_OPEN) + calls(FSB_OP_READ);
}

/* A large folder is fetched in few requests, in whichever order its files are read; who reads few
   of them does not pull it whole; and what is fetched and not read does not pile up. */
static void test_ahead(void)
{
    enum { SOME = 400, LOT = 1300, LARGE = 31 << 10, MIB = 1 << 20 }; /* of LARGE: 39 MiB */
    static small   names[LOT];
    fsb_mount_desc desc = {.allocator.fn = counted};
    const char    *trouble = rig_start_with(CHUNK, NULL, 0, desc);
    if (trouble) SKIP(trouble);
    make_small("listed", SOME, 10 << 10), make_small("sorted", SOME, 10 << 10);
    make_small("few", LOT, LARGE), make_small("third", LOT, LARGE);

    CHECK_EQ(small_names(p("listed"), names, LOT), SOME);
    uint32_t before = asked(), lists_before = calls(FSB_OP_LIST);
    read_small("listed", names, SOME, 1);
    CHECK(asked() - before <= SOME / 10);
    CHECK(calls(FSB_OP_LIST) - lists_before <= 8);

    CHECK_EQ(small_names(p("sorted"), names, LOT), SOME);
    qsort(names, SOME, sizeof names[0], small_order);
    before = asked(), lists_before = calls(FSB_OP_LIST);
    rig.shared->delay_us = 20000, rig.shared->delay_code = FSB_OP_GET; /* listings overtake them */
    read_small("sorted", names, SOME, 1);
    rig.shared->delay_code = 0;
    CHECK(asked() - before <= SOME / 4);
    CHECK(calls(FSB_OP_LIST) - lists_before <= 8);

    CHECK_EQ(small_names(p("few"), names, LOT), LOT);
    lists_before = calls(FSB_OP_LIST);
    for (int i = 0; i < 5; ++i) read_small("few", &names[LOT - 1 - i * 200], 1, 1);
    CHECK(calls(FSB_OP_LIST) - lists_before <= 5); /* of 1 MiB at most */

    CHECK_EQ(small_names(behind("third"), names, LOT), LOT); /* the kernel knows no name */
    const size_t memory = rig.shared->memory;
    lists_before = calls(FSB_OP_LIST);
    rig.shared->most = memory;
    read_small("third", names, LOT, 3);
    CHECK(calls(FSB_OP_LIST) - lists_before >= 20); /* nearly 39 MiB, of which 26 nobody read */
    CHECK(rig.shared->most - memory <= 21 * (size_t)MIB); /* 16, what comes, and the names */
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* ---- delayed writes that fail ---------------------------------------------------------------- */

/* The disk is full: write, fsync or close says so, whichever comes first, and only once. */
static void test_no_space(void)
{
    fsb_mount_desc desc = {0};
    const char    *trouble = rig_start_with(CHUNK, NULL, 1 << 20, desc);
    if (trouble) SKIP(trouble);
    char *buf = calloc(1, 1 << 16);
    memset(buf, 1, 1 << 16);
    for (int end = 0; end < 2; ++end) {
        int       told = 0, error = 0;
        const int fd = open(p("full"), O_RDWR | O_CREAT | O_TRUNC, 0644);
        for (int i = 0; i < 64 && !error; ++i)
            if (write(fd, buf, 1 << 16) != 1 << 16) ++told, error = errno;
        if (!told && end && fsync(fd)) ++told, error = errno;
        if (!told && close(dup(fd))) ++told, error = errno;
        CHECK_EQ(told, 1);
        CHECK_EQ(error, ENOSPC);
        CHECK_EQ(ftruncate(fd, 0), 0);
        CHECK_EQ(pwrite(fd, "ok", 2, 0), 2);
        CHECK_EQ(fsync(fd), 0); /* not told again */
        CHECK_EQ(close(fd), 0);
        HOLDS(get(p("full")), "ok");
    }
    free(buf);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

static void fail(uint32_t code, int with)
{
    __atomic_store_n(&rig.shared->fail_with, with, __ATOMIC_RELAXED);
    __atomic_store_n(&rig.shared->fail_code, code, __ATOMIC_RELAXED);
}

static void test_write_errors(void)
{
    const char *trouble = rig_start(WORKERS);
    if (trouble) SKIP(trouble);
    put(p("f"), "before");
    int fd = open(p("f"), O_RDWR);
    fail(FSB_OP_WRITE, -EDQUOT);
    CHECK_EQ(pwrite(fd, "AFTER!", 6, 0), 6); /* accepted */
    FAILS(fsync(fd), EDQUOT);
    CHECK_EQ(fsync(fd), 0);
    FAILS(pwrite(fd, "AFTER!", 6, 0), EDQUOT); /* the next ones are not delayed */
    CHECK_EQ(close(fd), 0);
    fail(0, 0);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
    if ((trouble = rig_start(WORKERS)) != NULL) SKIP(trouble);
    put(p("f"), "before");
    fd = open(p("f"), O_RDWR);
    fail(FSB_OP_WRITE, -EDQUOT);
    CHECK_EQ(pwrite(fd, "AFTER!", 6, 0), 6);
    FAILS(close(fd), EDQUOT);
    fail(0, 0);
    SOON(strcmp(get(p("f")), "before") == 0); /* another thread has the kernel forget the bytes */
    fd = open(p("f"), O_WRONLY | O_APPEND); /* not delayed: the write itself fails */
    fail(FSB_OP_WRITE, -EIO);
    FAILS(write(fd, "x", 1), EIO);
    CHECK_EQ(close(fd), 0);
    const int codes[] = {FSB_OP_STAT, FSB_OP_READ, FSB_OP_LIST, FSB_OP_OPEN, FSB_OP_MKDIR};
    for (int i = 0; i < 5; ++i) {
        put(p("g%d", i), "g");
        fd = i == 1 ? open(p("g%d", i), O_RDONLY | O_DIRECT) : -1;
        void *buf = NULL;
        if (posix_memalign(&buf, 4096, 4096)) return;
        fail((uint32_t)codes[i], -EREMOTEIO);
        if (i == 0) FAILS(access(p("not-known-yet"), F_OK), EREMOTEIO);
        if (i == 1) FAILS(read(fd, buf, 4096), EREMOTEIO);
        if (i == 2) {
            DIR *dir = opendir(rig.at);
            errno = 0;
            CHECK(dir && !readdir(dir) && errno == EREMOTEIO);
            if (dir) closedir(dir);
        }
        if (i == 3) FAILS(open(p("g%d", i), O_RDONLY), EREMOTEIO);
        if (i == 4) FAILS(mkdir(p("h"), 0755), EREMOTEIO);
        fail(0, 0);
        if (fd >= 0) close(fd);
        free(buf);
    }
    fail(FSB_OP_MKDIR, -123456); /* not an errno at all */
    FAILS(mkdir(p("h"), 0755), EIO);
    fail(0, 0);
    CHECK_EQ(rig_stop(SIGNAL), 0);
}

/* Slow writes: what asks meanwhile waits and sees them; other files do not wait. */
static void test_slow_writes(void)
{
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    char       *buf = malloc(1 << 20);
    struct stat st;
    memset(buf, 0, 1 << 20);
    put(p("other"), "o");
    const uint32_t before = calls(FSB_OP_WRITE);
    rig.shared->delay_us = 20000000;
    __atomic_store_n(&rig.shared->delay_code, FSB_OP_WRITE, __ATOMIC_RELAXED);
    int fd = open(p("slow"), O_RDWR | O_CREAT, 0644);
    for (int i = 0; i < 4; ++i) CHECK_EQ(pwrite(fd, buf, 1 << 20, i << 20), 1 << 20);
    HOLDS(get(p("other")), "o");
    CHECK_EQ(calls(FSB_OP_WRITE), before); /* none has been let through yet */
    __atomic_store_n(&rig.shared->delay_us, 100000, __ATOMIC_RELAXED);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 4 << 20);
    CHECK_EQ(pwrite(fd, "first", 5, 100), 5); /* these two overlap: the later one wins */
    CHECK_EQ(pwrite(fd, "SECOND", 6, 102), 6);
    close(fd);
    __atomic_store_n(&rig.shared->delay_code, 0, __ATOMIC_RELAXED);
    fd = open(elsewhere("slow"), O_RDONLY);
    CHECK_EQ(pread(fd, buf, 9, 100), 9);
    CHECK(memcmp(buf, "fiSECOND", 8) == 0);
    close(fd);
    /* more than the window holds, and many small ones */
    rig.shared->delay_us = 2000;
    __atomic_store_n(&rig.shared->delay_code, FSB_OP_WRITE, __ATOMIC_RELAXED);
    fd = open(p("window"), O_RDWR | O_CREAT, 0644);
    for (int i = 0; i < 40; ++i) CHECK_EQ(write(fd, buf, 1 << 20), 1 << 20);
    for (int i = 0; i < 1500; ++i) CHECK_EQ(write(fd, buf, 100), 100);
    CHECK(fstat(fd, &st) == 0 && st.st_size == (40 << 20) + 150000);
    CHECK_EQ(close(fd), 0);
    __atomic_store_n(&rig.shared->delay_code, 0, __ATOMIC_RELAXED);
    free(buf);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* ---- locks across mounts --------------------------------------------------------------------- */

static void on_alarm(int number) { (void)number; }

/* close() returns before it has given up the lock, but who locks next comes behind that. */
static void locks_in_order(void)
{
    for (int i = 0; i < 200; ++i) {
        const int a = open(p("l"), O_RDWR), b = open(p("l"), O_RDWR);
        CHECK_EQ(flock(a, LOCK_EX), 0);
        close(a);
        CHECK_EQ(flock(b, LOCK_EX | LOCK_NB), 0);
        close(b);
    }
}

static void test_remote_locks(void)
{
    fsb_mount_desc desc = {0};
    const char    *trouble = rig_start_with(CHUNK, "remote_locks", 0, desc);
    if (trouble) SKIP(trouble);
    put(p("l"), "1234567890");
    nap(1100);
    int a = open(p("l"), O_RDWR), b = open(elsewhere("l"), O_RDWR);
    CHECK_EQ(flock(a, LOCK_EX), 0);
    FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    const pid_t pid = fork();
    if (pid == 0) { /* waits for the lock, and then sees what was written under it */
        char c[4] = "";
        if (pread(b, c, 3, 0) != 3) _exit(1);
        if (flock(b, LOCK_EX)) _exit(2);
        if (pread(b, c, 3, 0) != 3) _exit(3);
        _exit(memcmp(c, "new", 3) != 0 ? 4 : 0);
    }
    nap(200);
    int status = -1;
    CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
    CHECK_EQ(pwrite(a, "new", 3, 0), 3);
    CHECK_EQ(flock(a, LOCK_UN), 0);
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    close(b); /* that gives up the lock, the child being gone */
    CHECK_EQ(flock(a, LOCK_EX), 0);

    /* ranges, who holds them, a wait that a signal ends */
    b = open(elsewhere("l"), O_RDWR);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3}, m = l;
    CHECK_EQ(fcntl(a, F_SETLK, &l), 0);
    FAILS(fcntl(b, F_SETLK, &m), EAGAIN);
    m = l, m.l_start = 0, m.l_len = 0;
    CHECK_EQ(fcntl(b, F_GETLK, &m), 0);
    CHECK_EQ(m.l_type, F_WRLCK);
    CHECK_EQ(m.l_start, 2);
    CHECK_EQ(m.l_len, 3);
    m = l, m.l_start = 5;
    CHECK_EQ(fcntl(b, F_SETLK, &m), 0);
    struct sigaction act = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &act, NULL);
    const struct itimerval soon = {.it_value = {0, 200000}, .it_interval = {0, 200000}};
    const struct itimerval never = {.it_value = {0, 0}};
    setitimer(ITIMER_REAL, &soon, NULL); /* once more if it was early */
    m = l;
    FAILS(fcntl(b, F_SETLKW, &m), EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
    close(open(p("l"), O_RDONLY)); /* closing any descriptor gives up the process's locks */
    m = l;
    CHECK_EQ(fcntl(b, F_SETLK, &m), 0);
    close(a), close(b);
    /* killed while waiting */
    a = open(p("l"), O_RDWR);
    CHECK_EQ(flock(a, LOCK_EX), 0);
    const pid_t killed = fork();
    if (killed == 0) _exit(flock(open(elsewhere("l"), O_RDWR), LOCK_EX));
    nap(200);
    kill(killed, SIGKILL);
    waitpid(killed, &status, 0);
    CHECK(WIFSIGNALED(status));
    close(a);
    b = open(elsewhere("l"), O_RDWR);
    CHECK_EQ(flock(b, LOCK_EX), 0);
    close(b);
    locks_in_order();
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* ---- mounting and unmounting ----------------------------------------------------------------- */

static int mounted(const char *path)
{
    char  line[2000], want[400];
    int   found = 0;
    FILE *f = fopen("/proc/self/mountinfo", "r");
    snprintf(want, sizeof want, " %s ", path);
    while (f && fgets(line, sizeof line, f)) found += strstr(line, want) != NULL;
    if (f) fclose(f);
    return found;
}

static void test_stop(void)
{
    for (int how = 0; how < 2; ++how) {
        const char *trouble = rig_start(LOCAL);
        if (trouble) SKIP(trouble);
        put(p("f"), "f");
        CHECK_EQ(mounted(rig.at), 1);
        CHECK_EQ(rig_stop(how), 0);
        CHECK_EQ(mounted(rig.at), 0);
        CHECK_EQ(st_of(p("f")).st_size, -ENOENT);
    }
    /* in use: umount refuses, a signal does not wait; files then answer errors */
    const char *trouble = rig_start(CHUNK);
    if (trouble) SKIP(trouble);
    const int fd = open(p("busy"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(write(fd, "x", 1), 1);
    if (geteuid() == 0) FAILS(umount2(rig.at, 0), EBUSY);
    CHECK_EQ(rig_stop(SIGNAL), 0);
    CHECK_EQ(mounted(rig.at), 0);
    char c;
    CHECK(pread(fd, &c, 1, 0) < 0 || c == 'x'); /* perhaps from the page cache */
    FAILS(pwrite(fd, "y", 1, 0), ENOTCONN);
    close(fd);
}

/* Dirty pages of a mapping are written when the mount is stopped. */
static void test_stop_writes_back(void)
{
    const char *trouble = rig_start(LOCAL);
    if (trouble) SKIP(trouble);
    const int fd = open(p("map"), O_RDWR | O_CREAT, 0644);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(map != MAP_FAILED);
    strcpy(map, "stored");
    munmap(map, 4096);
    close(fd);
    char path[400];
    snprintf(path, sizeof path, "%s/map", rig.host);
    CHECK_EQ(rig_stop(SIGNAL), 0);
    CHECK(strcmp(get(path), "stored") == 0);
}

static void test_killed(void)
{
    const char *trouble = rig_start(LOCAL);
    if (trouble) SKIP(trouble);
    const int fd = open(p("f"), O_RDWR | O_CREAT, 0644);
    kill(rig.pid, SIGKILL);
    waitpid(rig.pid, NULL, 0);
    rig.pid = 0;
    FAILS(access(p("f"), F_OK), ENOTCONN);
    fsb_backend    *files = NULL;
    fsb_memory_desc md = {0};
    CHECK_EQ(fsb_memory_open(&files, &md), 0);
    fsb_mount_desc desc = {.backend = files, .mountpoint = rig.at};
    fsb_mount     *m = NULL;
    CHECK_EQ(fsb_mount_open(&m, &desc), -ENOTCONN); /* says how to remove it */
    files->close(files);
    close(fd);
    clean_up();
}

static char last_error[300];
static void keep_error(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)item;
    if (level == FSB_LOG_ERROR) snprintf(last_error, sizeof last_error, "%s", text);
}

static void refused(fsb_mount_desc desc, int error, const char *words)
{
    fsb_mount *m = NULL;
    last_error[0] = '\0';
    desc.log.fn = keep_error;
    CHECK_EQ(fsb_mount_open(&m, &desc), error);
    CHECK(!m);
    if (words && !strstr(last_error, words)) CHECK_STR(last_error, words);
    if (desc.mountpoint) CHECK(mounted(desc.mountpoint) == 0);
}

static void test_refusals(void)
{
    if (access("/dev/fuse", F_OK) != 0) SKIP("no /dev/fuse");
    fsb_backend    *files = NULL;
    fsb_memory_desc md = {0};
    char            dir[300], file[300], full[300], missing[300];
    snprintf(dir, sizeof dir, "%.200s/empty", test_dir()), mkdir(dir, 0755);
    snprintf(file, sizeof file, "%.200s/file", test_dir()), put(file, "");
    snprintf(full, sizeof full, "%.200s/full", test_dir()), mkdir(full, 0755);
    snprintf(missing, sizeof missing, "%.200s/full/f", test_dir()), put(missing, "");
    snprintf(missing, sizeof missing, "%.200s/missing", test_dir());
    CHECK_EQ(fsb_memory_open(&files, &md), 0);
    fsb_mount_desc good = {.backend = files, .mountpoint = dir}, d = good;
    CHECK_EQ(fsb_mount_open(NULL, &good), -EINVAL);
    d.backend = NULL, refused(d, -EINVAL, NULL);
    d = good, d.mountpoint = NULL, refused(d, -EINVAL, NULL);
    d = good, d.threads = 65, refused(d, -EINVAL, NULL);
    d = good, d.write_behind = INT64_MAX, refused(d, -EINVAL, NULL);
    d = good, d.mountpoint = missing, refused(d, -ENOENT, "missing");
    d = good, d.mountpoint = file, refused(d, -ENOTDIR, "file");
    d = good, d.mountpoint = full, refused(d, -ENOTEMPTY, "nonempty");
    d = good, d.options = "no_such_option", refused(d, -EINVAL, "no_such_option");
    d = good, d.options = "attr_timeout=x", refused(d, -EINVAL, "number");
    d = good, d.options = "attr_timeout=-1", refused(d, -EINVAL, "number");
    d = good, d.options = "remote_locks", refused(d, -EOPNOTSUPP, "remote_locks");
    files->close(files);
    const char *trouble = rig_start(MEMORY);
    if (trouble) SKIP(trouble);
    CHECK_EQ(fsb_memory_open(&files, &md), 0);
    fsb_mount_desc twice = {.backend = files, .mountpoint = rig.at, .log = {keep_error, NULL}};
    fsb_mount     *m = NULL;
    CHECK_EQ(fsb_mount_open(&m, &twice), -EBUSY);
    CHECK(strstr(last_error, "fusermount3 -u"));
    files->close(files);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Options act: read-only, over files, the names in the mount table, timeouts. */
static void test_options(void)
{
    fsb_mount_desc desc = {.fsname = "a,b\\c", .attr_timeout_ms = -1, .entry_timeout_ms = -1};
    const char    *trouble = rig_start_with(LOCAL, "attr_timeout=0,nosuid", 0, desc);
    if (trouble) SKIP(trouble);
    char  line[2000];
    int   found = 0;
    FILE *f = fopen("/proc/self/mountinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (strstr(line, rig.at))
            found = strstr(line, "fuse.fsb") && strstr(line, "a,b\\134c") && strstr(line, "nosuid");
    if (f) fclose(f);
    CHECK(found);
    put(p("f"), "1"); /* without timeouts changes show at once */
    put(elsewhere("f"), "12");
    CHECK_EQ(st_of(p("f")).st_size, 2);
    put(elsewhere("f"), "123");
    CHECK_EQ(st_of(p("f")).st_size, 3);
    unlink(elsewhere("f"));
    CHECK_EQ(st_of(p("f")).st_size, -ENOENT);
    put(elsewhere("f"), "1234");
    CHECK_EQ(st_of(p("f")).st_size, 4);
    CHECK_EQ(rig_stop(UNMOUNT), 0);

    fsb_mount_desc plain = {0};
    trouble = rig_start_with(LOCAL, "ro", 0, plain);
    if (trouble) SKIP(trouble);
    put(elsewhere("f"), "r");
    HOLDS(get(p("f")), "r");
    FAILS(open(p("f"), O_WRONLY), EROFS);
    FAILS(mkdir(p("d"), 0755), EROFS);
    CHECK_EQ(rig_stop(UNMOUNT), 0);
}

/* Whatever call of the allocator fails: an error, nothing left, the next try works. */
static void test_out_of_memory(void)
{
    if (access("/dev/fuse", F_OK) != 0) SKIP("no /dev/fuse");
    if (geteuid()) SKIP("not root");
    char dir[300];
    snprintf(dir, sizeof dir, "%.200s/oom", test_dir()), mkdir(dir, 0755);
    fsb_backend    *files = NULL;
    fsb_memory_desc md = {0};
    CHECK_EQ(fsb_memory_open(&files, &md), 0);
    int k = 1, err = -ENOMEM;
    for (; err && k < 50; ++k) {
        test_memory    memory = {.fail_at = (uint64_t)k};
        fsb_mount_desc desc = {.backend = files, .mountpoint = dir,
                               .allocator = {test_memory_fn, &memory}};
        fsb_mount     *m = NULL;
        err = fsb_mount_open(&m, &desc);
        CHECK(err == 0 || err == -ENOMEM);
        if (err == -EPERM) break;
        if (!err) fsb_mount_close(m);
        CHECK_EQ(memory.live, 0);
        CHECK_EQ(memory.wrong_size, 0);
        CHECK_EQ(mounted(dir), 0);
    }
    CHECK(k > 4 && k < 50);
    files->close(files);
}

/* ---- a backend that lies --------------------------------------------------------------------- */

static const char *lie;

static int64_t liar_call(fsb_backend *b, fsb_op *op)
{
    const int64_t n = fsb_backend_call(((spy *)b)->inner, op);
    const int     root = op->path && strcmp(op->path, "/") == 0;
    if (n < 0 || (root && op->code != FSB_OP_LIST)) return n;
    if (strcmp(lie, "file_id 0") == 0) op->stat.file_id = 0;
    if (strcmp(lie, "no type") == 0) op->stat.mode = 0644;
    if (strcmp(lie, "size") == 0) op->stat.size = UINT64_MAX;
    if (strcmp(lie, "block size") == 0) op->stat.blksize = 3;
    if (strcmp(lie, "root again") == 0) {
        fsb_op at = {.code = FSB_OP_STAT, .path = "/"};
        fsb_backend_call(((spy *)b)->inner, &at);
        op->stat.file_id = at.stat.file_id, op->stat.mode = at.stat.mode;
    }
    const char *names[] = {"a/b", "", ".", "..", "nul\0nul"};
    const int   k = strncmp(lie, "name", 4) == 0 ? lie[4] - '0' : -1;
    if (op->code == FSB_OP_LIST && k >= 0) {
        fsb_dirent e = {.name = names[k], .name_size = k == 4 ? 7 : strlen(names[k]), .cookie = 9};
        op->emit(op, &e);
    }
    if (op->code == FSB_OP_LIST && strcmp(lie, "no progress") == 0) return op->result = 0;
    if (op->code == FSB_OP_READ && strcmp(lie, "too much") == 0) op->result = n + 100000;
    return op->result;
}

/* An error for the caller, not a crash, and the mount goes on. */
static int liar_visit(void)
{
    char        buf[100];
    struct stat st;
    DIR        *dir = opendir(rig.at);
    int         errors = 0;
    errno = 0;
    while (dir && readdir(dir)) {}
    errors += errno == EIO;
    if (dir) closedir(dir);
    errors += stat(p("f"), &st) != 0;
    const int fd = open(p("f"), O_RDONLY | O_DIRECT);
    errors += fd < 0 || read(fd, buf, sizeof buf) < 0;
    if (fd >= 0) close(fd);
    return errors + (stat(rig.at, &st) ? 100 : 0);
}

static void test_lying_backend(void)
{
    static const char *const lies[] = {"file_id 0", "no type", "size",  "root again", "name0",
                                       "name1",     "name2",   "name3", "name4",      "no progress",
                                       "too much",  "block size", "truth"};
    if (access("/dev/fuse", F_OK) != 0) SKIP("no /dev/fuse");
    snprintf(rig.at, sizeof rig.at, "%.200s/liar", test_dir()), mkdir(rig.at, 0755);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i) {
        lie = lies[i];
        int ready[2];
        CHECK_EQ(pipe(ready), 0);
        rig.pid = fork();
        if (rig.pid == 0) {
            fsb_memory_desc md = {0};
            fsb_backend    *inner = NULL;
            fsb_mount_desc  desc = {.mountpoint = rig.at, .log.fn = child_log};
            if (fsb_memory_open(&inner, &md) || fsb_write_file(inner, "/f", "x", 1, 0644)) exit(1);
            spy liar = {.base = *inner, .inner = inner};
            for (int c = 1; c < FSB_OP_COUNT; ++c)
                if (inner->call[c]) liar.base.call[c] = liar_call;
            desc.backend = &liar.base;
            const int err = fsb_mount_open(&child_mount[0], &desc);
            if (write(ready[1], &err, sizeof err) < 0 || err) exit(1);
            fsb_mount_serve(child_mount[0]);
            fsb_mount_close(child_mount[0]);
            inner->close(inner);
            exit(0);
        }
        int err = -1;
        close(ready[1]);
        CHECK_EQ(read(ready[0], &err, sizeof err), sizeof err);
        close(ready[0]);
        if (err == -EPERM) SKIP("not allowed to mount");
        const int errors = liar_visit(), harmless = strcmp(lie, "truth") == 0 ||
                                                    strcmp(lie, "block size") == 0;
        if (harmless ? errors > 1 : errors < 1 || errors >= 100) CHECK_STR(lie, "another outcome");
        CHECK_EQ(rig_stop(UNMOUNT), 0);
    }
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    for (int kind = MEMORY; kind <= CHUNK; ++kind) run_checks(kind);
    TEST(test_unopened_folders);
    TEST(test_told_late);
    TEST(test_told_elsewhere);
    TEST(test_unopened_files);
    TEST(test_refused_answers);
    TEST(test_lost_late);
    TEST(test_moved_by_others);
    TEST(test_exchanged_by_others);
    TEST(test_replaced_before_rename);
    TEST(test_other_name_gone);
    TEST(test_moved_meanwhile);
    TEST(test_moved_before);
    TEST(test_moved_before_told_late);
    TEST(test_known_before);
    TEST(test_ahead);
    TEST(test_no_space);
    TEST(test_write_errors);
    TEST(test_slow_writes);
    TEST(test_remote_locks);
    TEST(test_stop);
    TEST(test_stop_writes_back);
    TEST(test_killed);
    TEST(test_refusals);
    TEST(test_options);
    TEST(test_out_of_memory);
    TEST(test_lying_backend);
    return test_end("test_mount");
}
