/* test_chunk.c - the wire: conformance over every kind of stream, and what breaks it. */
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

/* What the system refuses or delays when a test wants it to. */
static struct {
    int no_threads;    /* pthread_create() fails */
    int polls_fail;    /* so many times poll() of who waits for two things, and for ever, does */
    int event_nap_ms;  /* of who sends an event, before it does */
    int event_naps;    /* how many have begun */
    int later_s;       /* the clock goes ahead by so much */
} faults;

static int faulty_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                                 void *(*fn)(void *), void *arg)
{
    if (__atomic_load_n(&faults.no_threads, __ATOMIC_RELAXED)) return EAGAIN;
    return pthread_create(thread, attr, fn, arg);
}

static int faulty_poll(struct pollfd *p, nfds_t count, int patience)
{
    if (count == 2 && patience < 0 && __atomic_load_n(&faults.polls_fail, __ATOMIC_RELAXED) > 0) {
        __atomic_sub_fetch(&faults.polls_fail, 1, __ATOMIC_RELAXED);
        return errno = ENOMEM, -1;
    }
    return poll(p, count, patience);
}

static ssize_t faulty_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    const int            ms = __atomic_load_n(&faults.event_nap_ms, __ATOMIC_RELAXED);
    const size_t         size = msg->msg_iovlen ? msg->msg_iov[0].iov_len : 0;
    const unsigned char *head = size > 32 ? (unsigned char *)msg->msg_iov[0].iov_base : NULL;
    if (ms && head && head[12] == 2 && head[13] == 1) {
        __atomic_add_fetch(&faults.event_naps, 1, __ATOMIC_RELEASE);
        usleep((useconds_t)ms * 1000);
    }
    return sendmsg(fd, msg, flags);
}

static int faulty_clock_gettime(clockid_t which, struct timespec *t)
{
    const int result = clock_gettime(which, t);
    t->tv_sec += __atomic_load_n(&faults.later_s, __ATOMIC_RELAXED);
    return result;
}

#define clock_gettime faulty_clock_gettime
#define pthread_create faulty_pthread_create
#define poll faulty_poll
#define sendmsg faulty_sendmsg
#include "fsb_chunk.h"
#undef clock_gettime
#undef pthread_create
#undef poll
#undef sendmsg
#include "conformance.h"
#include "test.h"
#include "wire.h"
#include <netinet/in.h>
#include <signal.h>
#include <sys/un.h>

enum { RW = FSB_CHUNK_READ | FSB_CHUNK_WRITE };

static void nap(int ms)
{
    usleep((useconds_t)ms * 1000);
}

static int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static long long load(const void *counter)
{
    return (long long)__atomic_load_n((const int64_t *)counter, __ATOMIC_ACQUIRE);
}

/* ---- a host: a server of one share on a unix socket ---- */

typedef struct host {
    fsb_backend      *inner;
    fsb_chunk_server *server;
    test_memory       memory;
    char              address[400];
    int64_t           complaints; /* lines about clients that did wrong */
} host;

static void note_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    host *h = (host *)user;
    if (getenv("FSB_TEST_VERBOSE")) fprintf(stderr, "%d %s: %s\n", (int)level, item, text);
    for (const char *p = text; *p; ++p) CHECK((unsigned char)*p >= ' ');
    if (level <= FSB_LOG_WARN) __atomic_add_fetch(&h->complaints, 1, __ATOMIC_RELAXED);
}

static int host_open(host *h, fsb_backend *inner, uint32_t rights, fsb_chunk_server_desc d)
{
    static int      number;
    fsb_chunk_share share = {"share", inner, rights};
    char            asked[400];
    memset(h, 0, sizeof *h);
    h->inner = inner;
    d.shares = &share, d.share_count = 1;
    d.allocator.fn = test_memory_fn, d.allocator.user = &h->memory;
    d.log.fn = note_line, d.log.user = h;
    const int err = fsb_chunk_server_open(&h->server, &d);
    if (err) return err;
    snprintf(asked, sizeof asked, "unix:%s/%d.sock", test_dir(), ++number);
    return fsb_chunk_server_listen(h->server, asked, h->address, sizeof h->address);
}

static void host_close(host *h)
{
    fsb_chunk_server_close(h->server);
    CHECK_EQ(h->memory.live, 0);
    CHECK_EQ(h->memory.wrong_size, 0);
}

static fsb_backend *memory_open(void)
{
    fsb_memory_desc d = {0};
    fsb_backend    *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, &d), 0);
    return b;
}

static fsb_backend *dial_with(const host *h, uint32_t timeout_ms)
{
    fsb_chunk_client_desc d = {.address = h->address, .share = "share", .timeout_ms = timeout_ms};
    fsb_backend          *b = NULL;
    CHECK_EQ(fsb_chunk_client_open(&b, &d), 0);
    return b;
}

static fsb_backend *dial(const host *h)
{
    return dial_with(h, 0);
}

/* The byte at an offset of a file of the tests, so that a wrong one is seen. */
static unsigned char pattern(uint64_t offset)
{
    return (unsigned char)(offset * 31 + (offset >> 8) * 7 + (offset >> 16));
}

static int is_pattern(const unsigned char *p, size_t n, uint64_t offset)
{
    for (size_t i = 0; i < n; ++i)
        if (p[i] != pattern(offset + i)) return 0;
    return 1;
}

static void put_pattern(fsb_backend *b, const char *path, size_t size)
{
    static unsigned char bytes[1 << 20];
    fsb_op op = {.code = FSB_OP_OPEN, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE,
                 MODE(0644)};
    CHECK(fsb_backend_call(b, &op) >= 0);
    const fsb_handle handle = op.handle;
    for (size_t at = 0; at < size; at += sizeof bytes) {
        const size_t n = size - at < sizeof bytes ? size - at : sizeof bytes;
        for (size_t i = 0; i < n; ++i) bytes[i] = pattern(at + i);
        op = (fsb_op){.code = FSB_OP_WRITE, .handle = handle, .offset = at, .data = bytes,
                      .size = n};
        CHECK_EQ(fsb_backend_call(b, &op), (int64_t)n);
    }
    op = (fsb_op){.code = FSB_OP_CLOSE, .handle = handle};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
}

static int raw(const host *h)
{
    int fds[2] = {-1, -1};
    CHECK_EQ(fsb_chunk_dial(h->address, 0, fds), 0);
    fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) & ~O_NONBLOCK);
    return fds[0];
}

/* A raw connection that has said hello. */
static int raw_hello(const host *h, unsigned char *room)
{
    const int   fd = raw(h);
    wire_answer a;
    CHECK_EQ(wire_send(fd, room, wire_hello(room, "share", 1, 1)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.status, 0);
    return fd;
}

/* Did the server end it? What it still says is thrown away. */
static int raw_ended(int fd)
{
    char             junk[4096];
    const int64_t    until = clock_ms() + 20000;
    while (clock_ms() < until) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 1000) > 0 && recv(fd, junk, sizeof junk, 0) <= 0) return 1;
    }
    return 0;
}

/* ---- a backend that does as the test says: it counts, dawdles, fails ---- */

typedef struct odd {
    fsb_backend  base;
    fsb_backend *inner;
    int          delay_ms; /* of READ at offset 0 */
    int          error;    /* what STAT answers, if not 0 */
    int64_t      holds;    /* READ at offset 0 waits until it is 0 */
    int64_t      held;     /* how many do */
    int64_t      running, calls, most;
    fsb_op       seen; /* by PUT and the like: numbers only */
    char         path[300], path2[300];
} odd;

static int64_t odd_call(fsb_backend *b, fsb_op *op)
{
    odd *o = (odd *)b;
    const int64_t now = __atomic_add_fetch(&o->running, 1, __ATOMIC_RELAXED);
    if (now > load(&o->most)) __atomic_store_n(&o->most, now, __ATOMIC_RELAXED);
    __atomic_add_fetch(&o->calls, 1, __ATOMIC_RELAXED);
    if (op->code == FSB_OP_READ && !op->offset && o->delay_ms) nap(o->delay_ms);
    if (op->code == FSB_OP_READ && !op->offset && load(&o->holds)) {
        __atomic_add_fetch(&o->held, 1, __ATOMIC_RELEASE);
        while (load(&o->holds)) nap(1);
    }
    if (op->code == FSB_OP_STAT && o->error) op->result = -o->error;
    else op->result = o->inner->call[op->code](o->inner, op);
    __atomic_sub_fetch(&o->running, 1, __ATOMIC_RELAXED);
    return op->result;
}

typedef struct odd_job {
    odd    *o;
    fsb_op *op;
} odd_job;

static void *odd_main(void *arg)
{
    odd_job *job = (odd_job *)arg;
    odd     *o = job->o;
    fsb_op  *op = job->op;
    free(job);
    odd_call(&o->base, op);
    op->done(op);
    __atomic_sub_fetch(&o->running, 1000, __ATOMIC_RELEASE);
    return NULL;
}

static void odd_submit(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        odd_job  *job = (odd_job *)malloc(sizeof *job);
        pthread_t thread;
        job->o = (odd *)b, job->op = ops[i];
        __atomic_add_fetch(&job->o->running, 1000, __ATOMIC_RELAXED);
        if (pthread_create(&thread, NULL, odd_main, job) != 0) abort();
        pthread_detach(thread);
    }
}

static void odd_init(odd *o, fsb_backend *inner, int submits)
{
    memset(o, 0, sizeof *o);
    o->base.size = sizeof o->base, o->base.name = "odd", o->inner = inner;
    o->base.submit = submits ? odd_submit : NULL;
    for (int i = 1; i < FSB_OP_COUNT; ++i)
        if (inner->call[i] && i != FSB_OP_DESCRIPTOR) o->base.call[i] = odd_call;
}

/* ---- conformance over the streams there are ---- */

typedef struct pair {
    fsb_backend      *client;
    fsb_chunk_server *server;
    pthread_t         thread;
    int               to[2], from[2]; /* of the client: to[0] is read there */
    int               given;
} pair;

static void *pair_main(void *arg)
{
    pair *p = (pair *)arg;
    (void)fsb_chunk_server_serve(p->server, p->from[0], p->to[1]);
    close(p->from[0]);
    if (p->to[1] != p->from[0]) close(p->to[1]);
    return NULL;
}

static int pair_fds(void *user, int fds[2])
{
    pair *p = (pair *)user;
    fds[0] = p->to[0], fds[1] = p->from[1], p->given = 1;
    return 0;
}

static int pair_open(pair *p, fsb_backend *inner, int pipes, fsb_allocator a, fsb_runner runner)
{
    fsb_chunk_share       share = {"share", inner, RW};
    fsb_chunk_server_desc d = {.shares = &share, .share_count = 1, .allocator = a,
                               .runner = runner};
    fsb_chunk_client_desc where = {.connect = pair_fds, .user = p, .share = "share", .allocator = a,
                                   .timeout_ms = 20000};
    int                   err = fsb_chunk_server_open(&p->server, &d);
    if (err) return err;
    if (pipes) err = pipe2(p->to, O_CLOEXEC) | pipe2(p->from, O_CLOEXEC);
    else {
        err = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->to);
        p->from[0] = p->to[1], p->from[1] = p->to[0];
    }
    CHECK_EQ(err, 0);
    CHECK_EQ(pthread_create(&p->thread, NULL, pair_main, p), 0);
    p->given = 0;
    err = fsb_chunk_client_open(&p->client, &where);
    if (!err) return 0;
    if (!p->given) close(p->to[0]); /* it did not come so far */
    if (!p->given && pipes) close(p->from[1]);
    pthread_join(p->thread, NULL);
    fsb_chunk_server_close(p->server);
    return err;
}

static void pair_close(pair *p)
{
    p->client->close(p->client);
    pthread_join(p->thread, NULL);
    fsb_chunk_server_close(p->server);
}

static void conformance(fsb_backend *inner, int pipes, fsb_runner runner, const char *name)
{
    const fsb_allocator libc = {NULL, NULL};
    pair                p;
    conformance_traits  t = {.name = name, .can_chown = 1, .has_xattr = 1, .has_mknod = 1,
                             .has_sparse = 1, .has_punch = 1};
    if (strstr(name, "local"))
        t.can_chown = t.has_mknod = geteuid() == 0, t.scoped = conf_without_openat2();
    REQUIRE(pair_open(&p, inner, pipes, libc, runner) == 0);
    conformance_run(p.client, &t);
    pair_close(&p);
}

static const fsb_runner own_threads = {NULL, NULL};

static void test_conformance_memory(void)
{
    fsb_backend *inner = memory_open();
    conformance(inner, 0, own_threads, "chunk over memory");
    inner->close(inner);
}

static void test_conformance_local(void)
{
    char           root[512];
    fsb_local_desc d = {0};
    fsb_backend   *inner = NULL;
    snprintf(root, sizeof root, "%s/local", test_dir());
    REQUIRE(mkdir(root, 0755) == 0);
    d.root = root;
    REQUIRE(fsb_local_open(&inner, &d) == 0);
    conformance(inner, 0, own_threads, "chunk over local");
    conformance(inner, 1, own_threads, "pipes over local");
    inner->close(inner);
}

static void test_conformance_blocking(void) /* no submit, not quick: every call on a worker */
{
    fsb_backend *inner = memory_open();
    odd          o;
    odd_init(&o, inner, 0);
    conformance(&o.base, 1, own_threads, "pipes over blocking");
    inner->close(inner);
}

static void test_conformance_submit(void) /* done() on threads of the backend's */
{
    fsb_backend *inner = memory_open();
    odd          o;
    odd_init(&o, inner, 1);
    conformance(&o.base, 0, own_threads, "chunk over submit");
    EVENTUALLY(load(&o.running) == 0);
    inner->close(inner);
}

static void test_conformance_runner(void)
{
    fsb_workers     *workers = NULL;
    fsb_workers_desc d = {0};
    fsb_backend     *inner = memory_open();
    odd              o;
    odd_init(&o, inner, 0);
    REQUIRE(fsb_workers_open(&workers, &d) == 0);
    conformance(&o.base, 0, fsb_workers_runner(workers), "chunk over runner");
    fsb_workers_close(workers);
    inner->close(inner);
}

static void test_conformance_twice(void) /* a server whose backend is a client */
{
    const fsb_allocator libc = {NULL, NULL};
    fsb_backend        *inner = memory_open();
    pair                p;
    REQUIRE(pair_open(&p, inner, 0, libc, own_threads) == 0);
    conformance(p.client, 0, own_threads, "chunk over chunk");
    pair_close(&p);
    inner->close(inner);
}

/* ---- the wire's form ---- */

static int same_hex(const unsigned char *p, size_t n, const char *hex)
{
    char got[2048];
    for (size_t i = 0; i < n && i < 1000; ++i) snprintf(got + 2 * i, 3, "%02x", p[i]);
    if (strcmp(got, hex) == 0) return 1;
    fprintf(stderr, "frame %s\nisn't %s\n", got, hex);
    return 0;
}

/* A host that is no host of ours: says hello, then answers as the test's script does. */
typedef struct fake {
    int       fds[2];
    pthread_t thread;
    void (*script)(struct fake *f);
    const unsigned char *hello; /* instead of the right one */
    size_t    hello_size;
    int       kind; /* for the script */
    int64_t   goes_on; /* likewise: set by the test; by atomics */
    unsigned char first[64 << 10], room[WIRE_MAX], out[WIRE_MAX]; /* first: the client's hello */
} fake;

static void *fake_main(void *arg)
{
    fake       *f = (fake *)arg;
    wire_answer a;
    if (wire_next(f->fds[1], f->first, &a) == 1) {
        if (f->hello) wire_send(f->fds[1], f->hello, f->hello_size);
        else wire_send(f->fds[1], f->out, wire_hello_answer(f->out));
        if (f->script) f->script(f);
    }
    close(f->fds[1]);
    return NULL;
}

static int fake_fds(void *user, int fds[2])
{
    fds[0] = fds[1] = ((fake *)user)->fds[0];
    return 0;
}

static int fake_open(fake *f, fsb_backend **out, uint32_t timeout_ms)
{
    fsb_chunk_client_desc d = {.connect = fake_fds, .user = f, .share = "share",
                               .timeout_ms = timeout_ms};
    for (int i = 0; i < 16; ++i) d.id[i] = (unsigned char)(i + 1);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->fds) != 0) return -errno;
    if (pthread_create(&f->thread, NULL, fake_main, f) != 0) return -EAGAIN;
    return fsb_chunk_client_open(out, &d);
}

static void fake_answer(fake *f, const wire_answer *to, int32_t status, const wire *meta,
                        const void *data, size_t size)
{
    wire_send(f->fds[1], f->out, wire_frame(f->out, to->op, 1, to->tag, status, meta, data, size));
}

/* Bytes of version 1, for ever: if one fails, old and new no longer understand each other. */
static const char *const frozen[] = {
    /* HELLO */
    "46534231200000000000000000010000000000000000000000000000bd933a540100010000000000"
    "0102030405060708090a0b0c0d0e0f1006007368617265000000000000000000",
    /* STAT */
    "465342311800000000000000010000000000000000000000e8030000e1f109df0900000000000000"
    "000000000000000003002f6100000000",
    /* LIST */
    "465342312800000000000000030000000000000001000000e80300004effc70a0100000000000000"
    "00000000000000000000000002000000000000000300000002002f0000000000",
    /* OPEN */
    "465342314800000000000000040000000000000002000000e8030000669d94c40500000006000000"
    "0000000007000000ff010000a4010000010000000200000003000000040000000500000000000000"
    "0600000000000000070000000000000003002f6100000000",
    /* READ */
    "465342311800000000000000050000000000000003000000e80300004d232ed70800000000000000"
    "09000000000000000a00000000000000",
    /* WRITE */
    "465342311800000003000000060000000000000004000000e80300005a6e9e240100000008000000"
    "0000000009000000000000000000000078797a",
    /* RENAME */
    "4653423110000000000000000c0000000000000005000000e8030000ec578a350100000003002f61"
    "0004002f62630000",
    /* COPY */
    "465342312800000000000000130000000000000006000000e803000057b0774d0100000000000000"
    "0200000000000000030000000000000004000000000000000500000000000000",
    /* LOCK */
    "4653423128000000000000001b0000000000000007000000e80300004d3cb2470200000001000000"
    "0000000002000000000000000300000000000000040000000000000005000000"
};

static void frozen_script(fake *f)
{
    const int   n = (int)(sizeof frozen / sizeof *frozen);
    wire_answer a;
    f->kind = same_hex(f->first, 72, frozen[0]);
    for (int i = 1; i < n && wire_next(f->fds[1], f->room, &a) == 1; ++i) {
        f->kind += same_hex(f->room, 32 + a.meta_size + a.data_size, frozen[i]);
        fake_answer(f, &a, -2, NULL, NULL, 0);
    }
}

static int count_name(fsb_op *op, const fsb_dirent *e)
{
    ++*(int *)op->user;
    CHECK_EQ(strlen(e->name), e->name_size);
    return 0;
}

/* Sends what is frozen, and returns how many frames were right, or -ETIMEDOUT: the second that
   stands in each was over. */
static int send_frozen(void)
{
    enum { N = sizeof frozen / sizeof *frozen - 1 };
    static fake  f;
    fsb_backend *b = NULL;
    fsb_attr     attr = {511, 0644, 1, 2, 3, 4, 5, 6, 7};
    fsb_op       ops[N] = {
        {.code = FSB_OP_STAT, .path = "/a", .file_id = 9},
        {.code = FSB_OP_LIST, .path = "/", .flags = 1, .offset = 2, .size = 3, .emit = count_name},
        {.code = FSB_OP_OPEN, .path = "/a", .flags = 5, .file_id = 6, .size = 7, .attr = attr},
        {.code = FSB_OP_READ, .handle = 8, .offset = 9, .size = 10},
        {.code = FSB_OP_WRITE, .handle = 8, .offset = 9, .flags = 1, .data = "xyz", .size = 3},
        {.code = FSB_OP_RENAME, .path = "/a", .path2 = "/bc", .flags = 1},
        {.code = FSB_OP_COPY, .handle = 1, .handle2 = 2, .offset = 3, .offset2 = 4, .size64 = 5},
        {.code = FSB_OP_LOCK, .handle = 1, .offset = 2, .size64 = 3, .flags = 2, .owner = 4,
         .pid = 5}};
    int64_t n = -ENOENT;
    f.script = frozen_script, f.kind = 0;
    const int err = fake_open(&f, &b, 0);
    if (err) return err;
    for (int i = 0; i < N && n != -ETIMEDOUT; ++i) {
        ops[i].timeout_ms = 1000;
        n = fsb_backend_call(b, &ops[i]);
        CHECK(n == -ENOENT || n == -ETIMEDOUT);
    }
    b->close(b);
    pthread_join(f.thread, NULL);
    return n == -ETIMEDOUT ? -ETIMEDOUT : f.kind;
}

static void test_frozen_requests(void)
{
    int right = -ETIMEDOUT;
    for (int i = 0; i < 20 && right == -ETIMEDOUT; ++i) right = send_frozen();
    CHECK_EQ(right, sizeof frozen / sizeof *frozen);
}

/* The answers of our server, byte for byte. */
static void test_frozen_answers(void)
{
    static unsigned char room[WIRE_MAX], frame[WIRE_MAX];
    fsb_backend         *b = memory_open();
    host                 h;
    wire_answer          a;
    REQUIRE(host_open(&h, b, RW, (fsb_chunk_server_desc){0}) == 0);
    conf_put(b, "/f", "abc");
    const int fd = raw_hello(&h, room);
    CHECK_EQ(wire_send(fd, frame, wire_stat(frame, 0x0102030405060708, "/none")), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK(same_hex(room, 32, "465342310000000000000000010001000807060504030201feffffff5c3b06c3"));
    CHECK_EQ(wire_send(fd, frame, wire_open(frame, 1, "/f", 1)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.meta_size, 112);
    const fsb_stat st = conf_stat(b, "/f");
    const uint64_t wide[9] = {st.file_id, st.version, st.ino, st.size, st.blocks,
                              (uint64_t)st.atime_ns, (uint64_t)st.mtime_ns, (uint64_t)st.ctime_ns,
                              (uint64_t)st.btime_ns};
    const uint64_t handle = wire_get(a.meta, 8); /* HANDLE stands before STAT */
    for (int i = 0; i < 9; ++i)
        if (i != 5) CHECK_EQ(wire_get(a.meta + 8 + 8 * i, 8), wide[i]);
    CHECK_EQ(wire_get(a.meta + 80, 4), st.mode);
    CHECK_EQ(wire_get(a.meta + 84, 4), st.nlink);
    CHECK_EQ(handle, 1);
    CHECK_EQ(wire_send(fd, frame, wire_read(frame, 2, handle, 1, 10)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK(same_hex(room, 34,
                   "465342310000000002000000050001000200000000000000020000006cda78506263"));
    close(fd);
    host_close(&h);
    b->close(b);
}

static const struct { int wire, err; } errors[] = {
    {1, EPERM}, {2, ENOENT}, {4, EINTR}, {5, EIO}, {6, ENXIO}, {7, E2BIG}, {9, EBADF}, {11, EAGAIN},
    {12, ENOMEM}, {13, EACCES}, {16, EBUSY}, {17, EEXIST}, {18, EXDEV}, {19, ENODEV}, {20, ENOTDIR},
    {21, EISDIR}, {22, EINVAL}, {23, ENFILE}, {24, EMFILE}, {25, ENOTTY}, {26, ETXTBSY},
    {27, EFBIG},
    {28, ENOSPC}, {29, ESPIPE}, {30, EROFS}, {31, EMLINK}, {32, EPIPE}, {34, ERANGE}, {35, EDEADLK},
    {36, ENAMETOOLONG}, {37, ENOLCK}, {38, ENOSYS}, {39, ENOTEMPTY}, {40, ELOOP}, {61, ENODATA},
    {71, EPROTO}, {74, EBADMSG}, {75, EOVERFLOW}, {84, EILSEQ}, {90, EMSGSIZE}, {95, EOPNOTSUPP},
    {104, ECONNRESET}, {107, ENOTCONN}, {110, ETIMEDOUT}, {113, EHOSTUNREACH}, {116, ESTALE},
    {122, EDQUOT}, {125, ECANCELED}, {5, 4000 /* not known: EIO */}};

static void test_frozen_errors(void)
{
    static unsigned char room[WIRE_MAX];
    fsb_backend         *inner = memory_open(), *b;
    odd                  o;
    host                 h;
    wire_answer          a;
    odd_init(&o, inner, 0);
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){0}) == 0);
    const int fd = raw_hello(&h, room);
    b = dial(&h);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; ++i) {
        o.error = errors[i].err;
        CHECK_EQ(wire_send(fd, room, wire_stat(room, i, "/")), 0);
        CHECK_EQ(wire_next(fd, room, &a), 1);
        CHECK_EQ(a.status, -errors[i].wire);
        CHECK_EQ(a.tag, i);
        CHECK_EQ(C(STAT, .path = "/"), o.error == 4000 ? -EIO : -errors[i].err);
    }
    b->close(b);
    close(fd);
    host_close(&h);
    inner->close(inner);
}

/* ---- clients that break the rules ---- */

/* Sends bytes on a connection of its own, before or after hello, and has it ended with a line in
   the log, while another client is served. */
static void expect_ended(host *h, fsb_backend *b, int hello, const void *bytes, size_t size)
{
    static unsigned char room[WIRE_MAX];
    const long long      before = load(&h->complaints);
    const int            fd = hello ? raw_hello(h, room) : raw(h);
    (void)wire_send(fd, bytes, size);
    CHECK(raw_ended(fd));
    close(fd);
    EVENTUALLY(load(&h->complaints) == before + 1);
    CHECK_EQ(C(STAT, .path = "/"), 0);
}

static void test_broken_frames(void)
{
    static unsigned char f[WIRE_MAX], bad[WIRE_MAX];
    static const int     at[] = {0, 3, 4, 6, 7, 8, 11, 12, 14, 16, 24, 28, 31, 32, 40, 48};
    fsb_backend         *inner = memory_open(), *b;
    unsigned char        meta[64] = {0};
    wire                 m = {meta, 8};
    host                 h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const size_t n = wire_stat(f, 1, "/");
    for (size_t i = 0; i < sizeof at / sizeof *at; ++i) { /* one bit wrong: magic, lengths, CRC */
        memcpy(bad, f, n);
        bad[at[i]] ^= 0x80;
        memset(bad + n, 0, 4096);
        expect_ended(&h, b, 1, bad, WIRE_MAX / 2);
    }
    expect_ended(&h, b, 0, f, n);                                               /* before hello */
    expect_ended(&h, b, 0, bad, wire_frame(bad, WIRE_CANCEL, 0, 1, 0, &m, NULL, 0));
    expect_ended(&h, b, 0, bad, wire_hello(bad, "none", 1, 1));                 /* no such share */
    expect_ended(&h, b, 0, bad, wire_hello(bad, "a\nforged line", 1, 1));
    expect_ended(&h, b, 0, bad, wire_hello(bad, "share", 2, 9));                /* no version */
    expect_ended(&h, b, 1, bad, wire_hello(bad, "share", 1, 1));                /* a second one */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 0, 0, 1, 0, &m, NULL, 0));      /* unknown ops */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 30, 0, 1, 0, &m, NULL, 0));     /* DESCRIPTOR */
    expect_ended(&h, b, 1, bad, wire_frame(bad, WIRE_SEEN, 0, 1, 0, NULL, NULL, 0)); /* no lease */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 0xffff, 0, 1, 0, &m, NULL, 0));
    expect_ended(&h, b, 1, bad, wire_frame(bad, 8, 1, 1, 0, &m, NULL, 0));      /* flags */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 8, 2, 1, 0, &m, NULL, 0));
    expect_ended(&h, b, 1, bad, wire_frame(bad, 8, 0, 1, 0, &m, "data", 4));    /* data for CLOSE */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 8, 0, 1, 0, NULL, NULL, 0));    /* no meta */
    m.n = 16;
    expect_ended(&h, b, 1, bad, wire_frame(bad, 8, 0, 1, 0, &m, NULL, 0));      /* too much of it */
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_broken_strings(void)
{
    static unsigned char bad[WIRE_MAX], room[40 << 10];
    static const struct { const char *bytes; size_t said, size; } texts[] = {
        {"/abc", 4, 4}, {"/a\0b", 5, 5}, {"/ab\0", 6, 5}, {"/ab", 3000, 4}, {"\0", 2, 2}};
    fsb_backend *inner = memory_open(), *b;
    host         h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        wire m = {room, 0};
        wire_int(&m, 0, 8), wire_int(&m, 0, 8), wire_int(&m, texts[i].said, 2);
        wire_bytes(&m, texts[i].bytes, texts[i].size);
        expect_ended(&h, b, 1, bad, wire_frame(bad, 1, 0, 1, 0, &m, NULL, 0));
    }
    wire m = {room, 0};
    memset(room, 'a', sizeof room);
    m.n = 17 << 10; /* more meta than there may be */
    expect_ended(&h, b, 1, bad, wire_frame(bad, 1, 0, 1, 0, &m, NULL, 0));
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_truncated_frames(void)
{
    static unsigned char f[WIRE_MAX], room[WIRE_MAX];
    fsb_backend         *inner = memory_open(), *b;
    host                 h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const size_t n = wire_stat(f, 1, "/abc");
    for (size_t cut = 0; cut <= n; ++cut) {
        const int fd = raw_hello(&h, room);
        CHECK_EQ(wire_send(fd, f, cut), 0);
        close(fd);
    }
    const size_t m = wire_hello(f, "share", 1, 1);
    for (size_t cut = 0; cut < m; ++cut) {
        const int fd = raw(&h);
        CHECK_EQ(wire_send(fd, f, cut), 0);
        close(fd);
    }
    CHECK_EQ(C(STAT, .path = "/"), 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_random_bytes(void)
{
    static unsigned char f[WIRE_MAX], room[WIRE_MAX];
    uint32_t             seed = 4711;
    fsb_backend         *inner = memory_open(), *b;
    host                 h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    for (int round = 0; round < 300; ++round) {
        const int fd = raw_hello(&h, room);
        size_t    n = wire_open(f, 1, "/abcdefg", 7);
        for (int i = 0; i < 1 + round % 5; ++i) { /* the meta is noise, the frame's form is right */
            seed = seed * 1664525u + 1013904223u;
            f[32 + (seed >> 8) % (n - 32)] = (unsigned char)(seed >> 24);
        }
        wire m = {f + 32, n - 32};
        n = wire_frame(f, 1 + (unsigned)round % 27, 0, 9, 0, &m, f, round % 2 ? 0 : 100);
        (void)wire_send(fd, f, n);
        if (round % 3) nap(1);
        close(fd);
    }
    CHECK_EQ(C(STAT, .path = "/"), 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static int32_t status_of(int fd, unsigned char *frame, size_t n)
{
    static unsigned char room[WIRE_MAX];
    wire_answer          a;
    CHECK_EQ(wire_send(fd, frame, n), 0);
    if (wire_next(fd, room, &a) != 1) return -9999;
    return a.status;
}

static void test_bad_paths_and_handles(void)
{
    static unsigned char     room[WIRE_MAX];
    static const char *const paths[] = {"..", "a", "//", "/a/", "/..", "/a/..", "/a/../b", "/./a",
                                        "/a//b", "/.", NULL};
    char                     longer[FSB_PATH_MAX + 100];
    fsb_backend             *inner = memory_open(), *b = inner;
    host                     h;
    wire_answer              a;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    conf_put(b, "/secret", "s");
    const int one = raw_hello(&h, room), two = raw_hello(&h, room);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; ++i)
        CHECK_EQ(status_of(one, room, wire_stat(room, i, paths[i])), -22);
    memset(longer, 'n', sizeof longer);
    longer[0] = '/', longer[257] = 0;
    CHECK_EQ(status_of(one, room, wire_stat(room, 1, longer)), -36);
    longer[257] = 'n', longer[sizeof longer - 1] = 0;
    for (size_t i = 0; i < sizeof longer - 1; i += 100) longer[i] = '/';
    CHECK_EQ(status_of(one, room, wire_stat(room, 1, longer)), -36);
    CHECK_EQ(wire_send(one, room, wire_open(room, 1, "/secret", 1)), 0);
    CHECK_EQ(wire_next(one, room, &a), 1);
    const uint64_t handle = wire_get(a.meta, 8);
    CHECK_EQ(status_of(one, room, wire_read(room, 1, handle, 0, 10)), 1);
    for (uint64_t guess = 0; guess < 20; ++guess) { /* the first's are not the second's */
        CHECK_EQ(status_of(two, room, wire_read(room, 1, guess, 0, 10)), -9);
        CHECK_EQ(status_of(two, room, wire_read(room, 1, guess << 32 | 1, 0, 10)), -9);
    }
    CHECK_EQ(status_of(one, room, wire_read(room, 1, UINT64_MAX, 0, 10)), -9);
    CHECK_EQ(status_of(one, room, wire_read(room, 1, handle, UINT64_MAX, 10)), -22);
    CHECK_EQ(status_of(one, room, wire_read(room, 1, handle, 0, 1u << 21)), -22);
    close(one), close(two);
    host_close(&h);
    inner->close(inner);
}

static void pass_time(const host *h, int seconds) /* and has the clients' threads look */
{
    __atomic_add_fetch(&faults.later_s, seconds, __ATOMIC_RELAXED);
    pthread_mutex_lock(&h->server->lock);
    for (fsb_chunk_conn_ *c = h->server->conns; c; c = c->next) fsb_chunk_kick_(c->kick);
    pthread_mutex_unlock(&h->server->lock);
}

static void test_slow_clients(void)
{
    static unsigned char room[WIRE_MAX];
    fsb_backend         *inner = memory_open(), *b;
    host                 h;
    fsb_chunk_server_desc patient = {.hello_ms = 60000, .frame_ms = 60000};
    REQUIRE(host_open(&h, inner, RW, patient) == 0);
    b = dial(&h);
    const int silent = raw(&h), slow = raw_hello(&h, room);
    CHECK_EQ(wire_send(slow, room, 40), 0); /* of a frame that never ends */
    EVENTUALLY((pass_time(&h, 61), load(&h.complaints) == 2)); /* from when each was noticed */
    CHECK(raw_ended(silent));
    CHECK(raw_ended(slow));
    pass_time(&h, 61); /* one who has nothing to say may stay */
    CHECK_EQ(C(STAT, .path = "/"), 0);
    CHECK_EQ(load(&h.complaints), 2);
    close(silent), close(slow);
    b->close(b);
    host_close(&h);
    inner->close(inner);
    __atomic_store_n(&faults.later_s, 0, __ATOMIC_RELAXED);
}

static void test_max_clients(void)
{
    fsb_backend          *inner = memory_open(), *b, *c = NULL;
    fsb_chunk_client_desc d = {.share = "share"};
    host                  h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.max_clients = 1}) == 0);
    b = dial(&h);
    d.address = h.address;
    CHECK(fsb_chunk_client_open(&c, &d) < 0);
    CHECK_EQ(C(STAT, .path = "/"), 0);
    EVENTUALLY(load(&h.complaints) == 1);
    b->close(b);
    fsb_chunk_server_stats s;
    do nap(1), fsb_chunk_server_get_stats(h.server, &s);
    while (s.clients);
    int silent[20]; /* who says nothing makes room */
    for (int i = 0; i < 20; ++i) silent[i] = raw(&h), nap(1);
    b = dial(&h); /* there is room again */
    b->close(b);
    for (int i = 0; i < 20; ++i) close(silent[i]);
    host_close(&h);
    inner->close(inner);
}

/* Asks for more than it may, and takes nothing: its memory is bounded, others are served, and it
   is ended when it took nothing for long enough. */
static void greedy(int descriptors)
{
    static unsigned char frame[WIRE_MAX];
    char                 root[500];
    fsb_local_desc       d = {.root = root};
    fsb_backend         *inner = NULL, *b;
    host                 h;
    int64_t              most = 0;
    wire_answer          a;
    snprintf(root, sizeof root, "%s/greedy", test_dir());
    if (descriptors) mkdir(root, 0755), CHECK_EQ(fsb_local_open(&inner, &d), 0);
    else inner = memory_open();
    put_pattern(inner, "/small", 10);
    put_pattern(inner, "/large", 1 << 20);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.max_bytes = 4 << 20,
                                                             .frame_ms = 1500}) == 0);
    b = dial(&h);
    for (int large = 0; large < 2; ++large) {
        const long long before = load(&h.complaints);
        const int       fd = raw_hello(&h, frame);
        CHECK_EQ(wire_send(fd, frame, wire_open(frame, 1, large ? "/large" : "/small", 1)), 0);
        CHECK_EQ(wire_next(fd, frame, &a), 1);
        const size_t n = wire_read(frame, 2, wire_get(a.meta, 8), 0, 1 << 20);
        for (int i = 0, stuck = 0; load(&h.complaints) == before && stuck < 5000; ++i) {
            if (send(fd, frame, n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)n) ++stuck, nap(2);
            if (load(&h.memory.live) > most) most = load(&h.memory.live);
            if (i % 500 == 0) CHECK_EQ(C(STAT, .path = "/"), 0);
        }
        CHECK(most < 8 << 20);
        EVENTUALLY(load(&h.complaints) == before + 1);
        CHECK(raw_ended(fd));
        close(fd);
    }
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_greedy_client_memory(void)
{
    greedy(0);
}

static void test_greedy_client_local(void)
{
    greedy(1);
}

/* ---- hosts that break the rules ---- */

enum { LIE_GARBAGE, LIE_TAG, LIE_OP, LIE_NO_ANSWER_FLAG, LIE_TOO_MUCH, LIE_COUNT, LIE_CUT_META,
       LIE_NO_ID, LIE_DATA, LIE_HUGE, LIE_TWICE, LIE_COUNT_ };

static void lie_script(fake *f) /* to a READ of 8 bytes, or a STAT */
{
    unsigned char meta[104] = {1};
    wire_answer   a;
    wire          m = {meta, 104};
    if (wire_next(f->fds[1], f->room, &a) != 1) return;
    const wire_answer other_tag = {.op = a.op, .tag = a.tag + 1};
    const wire_answer other_op = {.op = 8, .tag = a.tag};
    if (f->kind == LIE_GARBAGE) memset(f->out, 'x', 4096), wire_send(f->fds[1], f->out, 4096);
    if (f->kind == LIE_TAG) fake_answer(f, &other_tag, 8, NULL, "12345678", 8);
    if (f->kind == LIE_OP) fake_answer(f, &other_op, 0, NULL, NULL, 0);
    if (f->kind == LIE_NO_ANSWER_FLAG)
        wire_send(f->fds[1], f->out, wire_frame(f->out, a.op, 0, a.tag, 8, NULL, "12345678", 8));
    if (f->kind == LIE_TOO_MUCH) fake_answer(f, &a, 9, NULL, "123456789", 9);
    if (f->kind == LIE_COUNT) fake_answer(f, &a, 8, NULL, "1234", 4);
    if (f->kind == LIE_CUT_META) m.n = 96, fake_answer(f, &a, 0, &m, NULL, 0);
    if (f->kind == LIE_NO_ID) meta[0] = 0, fake_answer(f, &a, 0, &m, NULL, 0);
    if (f->kind == LIE_DATA) fake_answer(f, &a, 0, &m, "data", 4);
    if (f->kind == LIE_HUGE) wire_frame(f->out, a.op, 1, a.tag, 8, NULL, NULL, 0),
        f->out[11] = 0x7f, wire_send(f->fds[1], f->out, 4096);
    if (f->kind == LIE_TWICE) {
        fake_answer(f, &a, 8, NULL, "12345678", 8);
        fake_answer(f, &a, 8, NULL, "12345678", 8);
    }
    (void)wire_next(f->fds[1], f->room, &a); /* until the client hangs up */
}

static void test_lying_hosts(void)
{
    static fake  f;
    fsb_backend *b = NULL;
    char         room[16];
    for (int kind = 0; kind < LIE_COUNT_; ++kind) {
        const int stats = kind == LIE_CUT_META || kind == LIE_NO_ID || kind == LIE_DATA;
        f.script = lie_script, f.kind = kind;
        REQUIRE(fake_open(&f, &b, 0) == 0);
        const int64_t n = stats ? C(STAT, .path = "/")
                                : C(READ, .handle = 1, .buf = room, .size = 8);
        CHECK_EQ(n, kind == LIE_TWICE ? 8 : -EPROTO);
        if (kind == LIE_TWICE) EVENTUALLY(C(STAT, .path = "/", .timeout_ms = 10) == -EPROTO);
        CHECK_EQ(C(STAT, .path = "/"), -EPROTO);
        b->close(b);
        pthread_join(f.thread, NULL);
    }
}

/* Why a connection ended is said as long as it is asked, whoever else notices that it did. */
typedef struct talker {
    fsb_backend *b;
    pthread_t    thread;
    fsb_op       ops[1000];
    int64_t      ended;
} talker;

static void talker_ended(fsb_op *op)
{
    __atomic_add_fetch((int64_t *)op->user, 1, __ATOMIC_RELEASE);
}

static void *talker_main(void *arg)
{
    talker *t = arg;
    int     n = 0;
    for (; n < 1000 && !load(&t->ended); ++n) {
        t->ops[n] = (fsb_op){.code = FSB_OP_STAT, .path = "/", .user = &t->ended,
                             .done = talker_ended};
        fsb_op *op = &t->ops[n];
        t->b->submit(t->b, &op, 1);
    }
    EVENTUALLY(load(&t->ended) == n);
    return NULL;
}

static void babble_script(fake *f)
{
    wire_answer a;
    for (int i = 0; i < 5; ++i)
        if (wire_next(f->fds[1], f->room, &a) != 1) return;
    memset(f->out, 'x', 4096), wire_send(f->fds[1], f->out, 4096);
    while (wire_next(f->fds[1], f->room, &a) == 1) {}
}

static void test_reason_stays(void)
{
    static fake   f;
    static talker t[2];
    fsb_backend  *b = NULL;
    int           others = 0;
    for (int round = 0; round < 200; ++round) {
        f.script = babble_script;
        REQUIRE(fake_open(&f, &b, 0) == 0);
        for (int i = 0; i < 2; ++i) {
            t[i].b = b, t[i].ended = 0;
            CHECK_EQ(pthread_create(&t[i].thread, NULL, talker_main, &t[i]), 0);
        }
        for (int i = 0; i < 2; ++i) pthread_join(t[i].thread, NULL);
        others += C(STAT, .path = "/") != -EPROTO;
        b->close(b);
        pthread_join(f.thread, NULL);
    }
    CHECK_EQ(others, 0);
}

static void names_script(fake *f)
{
    static const struct { const char *name; size_t size; } names[] = {
        {"a/b", 3}, {"a\0b", 3}, {"..", 2}, {".", 1}, {"", 0}};
    unsigned char room[400];
    wire_answer   a;
    wire          m = {room, 0};
    if (wire_next(f->fds[1], f->room, &a) != 1) return;
    for (int i = 0; i < 2; ++i) { /* a good one, then a bad one */
        const char  *name = i ? names[f->kind].name : "good";
        const size_t size = i ? names[f->kind].size : 4;
        wire_int(&m, 7, 8);
        for (int k = 0; k < 13; ++k) wire_int(&m, 1, 8);
        wire_int(&m, size, 2), wire_bytes(&m, name, size);
    }
    unsigned char stat[104] = {0};
    const wire    meta = {stat, sizeof stat};
    fake_answer(f, &a, 1, &meta, room, m.n);
    (void)wire_next(f->fds[1], f->room, &a);
}

/* A DEEP listing of "/d" that goes into another folder. */
static const char *const folders[] = {"/d/e", "/d", "/",  "/e",   "/dd",
                                      "/d/../e", "/d/", "d", "/d//e"};
static void folders_script(fake *f)
{
    unsigned char room[400], stat[104] = {0};
    const char   *folder = folders[f->kind];
    wire_answer   a;
    wire          m = {room, 0};
    if (wire_next(f->fds[1], f->room, &a) != 1) return;
    wire_int(&m, 7, 8);
    for (int k = 0; k < 13; ++k) wire_int(&m, 1, 8);
    wire_int(&m, 1, 2), wire_bytes(&m, "n", 1);
    wire_int(&m, strlen(folder), 2), wire_bytes(&m, folder, strlen(folder)), wire_int(&m, 0, 4);
    const wire meta = {stat, sizeof stat};
    fake_answer(f, &a, 1, &meta, room, m.n);
    (void)wire_next(f->fds[1], f->room, &a);
}

static void test_bad_folders(void)
{
    static fake  f;
    fsb_backend *b = NULL;
    for (f.kind = 0; f.kind < (int)(sizeof folders / sizeof *folders); ++f.kind) {
        int names = 0;
        f.script = folders_script;
        REQUIRE(fake_open(&f, &b, 0) == 0);
        CHECK_EQ(C(LIST, .path = "/d", .flags = 5, .emit = count_name, .user = &names),
                 f.kind < 2 ? 1 : -EPROTO);
        CHECK_EQ(names, f.kind < 2);
        b->close(b);
        pthread_join(f.thread, NULL);
    }
}

static void test_bad_names(void)
{
    static fake  f;
    fsb_backend *b = NULL;
    for (f.kind = 0; f.kind < 5; ++f.kind) {
        int names = 0;
        f.script = names_script;
        REQUIRE(fake_open(&f, &b, 0) == 0);
        CHECK_EQ(C(LIST, .path = "/", .flags = 1, .emit = count_name, .user = &names), -EPROTO);
        CHECK_EQ(names, 1);
        b->close(b);
        pthread_join(f.thread, NULL);
    }
}

static void test_bad_hellos(void)
{
    static unsigned char bytes[256];
    static fake          f;
    fsb_backend         *b = NULL;
    for (int kind = 0; kind < 6; ++kind) {
        memset(bytes, 'x', sizeof bytes);
        size_t n = wire_hello_answer(bytes);
        unsigned char meta[32];
        wire   m = {meta, 32};
        memcpy(meta, bytes + 32, 32);
        if (kind == 0) memset(bytes, 'x', n);
        if (kind == 1) n = 20; /* and the end */
        if (kind == 2) bytes[40] ^= 1;
        if (kind == 3) m.n = 8, n = wire_frame(bytes, WIRE_HELLO, 1, 0, 0, &m, NULL, 0);
        if (kind == 4) meta[0] = 2, n = wire_frame(bytes, WIRE_HELLO, 1, 0, 0, &m, NULL, 0);
        if (kind == 5) n = wire_frame(bytes, WIRE_HELLO, 1, 0, -2, NULL, NULL, 0);
        memset(&f, 0, sizeof f);
        f.hello = bytes, f.hello_size = n;
        CHECK_EQ(fake_open(&f, &b, 0), kind == 1 ? -ENOTCONN : kind == 5 ? -ENOENT : -EPROTO);
        pthread_join(f.thread, NULL);
    }
}

/* Answers nothing in time; later it does, and shall be asked to close what it opened. What a LOCK
   may have got is taken back at once, so that it is not taken from who asks again. */
static void late_script(fake *f)
{
    unsigned char meta[112] = {42, 0, 0, 0, 0, 0, 0, 0, 1};
    wire_answer   open, lock, unlock, again, a;
    wire          m = {meta, 112};
    CHECK_EQ(wire_next(f->fds[1], f->room, &open), 1);
    CHECK_EQ(wire_next(f->fds[1], f->room, &lock), 1);
    CHECK_EQ(wire_next(f->fds[1], f->room, &a), 1);
    CHECK_EQ(a.op, WIRE_CANCEL); /* the lock's time was up */
    CHECK_EQ(wire_get(a.meta, 8), lock.tag);
    CHECK_EQ(wire_next(f->fds[1], f->room, &unlock), 1);
    CHECK_EQ(unlock.op, FSB_OP_LOCK);
    CHECK_EQ(wire_get(unlock.meta, 4), FSB_LOCK_UNLOCK);
    CHECK_EQ(wire_get(unlock.meta + 4, 8), 5);
    CHECK_EQ(wire_next(f->fds[1], f->room, &again), 1);
    CHECK_EQ(again.op, FSB_OP_LOCK);
    CHECK_EQ(wire_get(again.meta, 4), FSB_LOCK_EXCLUSIVE);
    fake_answer(f, &open, 0, &m, NULL, 0);
    CHECK_EQ(wire_next(f->fds[1], f->room, &a), 1);
    CHECK_EQ(a.op, FSB_OP_CLOSE);
    CHECK_EQ(wire_get(a.meta, 8), 42);
    fake_answer(f, &a, 0, NULL, NULL, 0);
    m.n = 32;
    fake_answer(f, &lock, 0, &m, NULL, 0); /* granted all the same: nothing is to be undone now */
    fake_answer(f, &unlock, 0, &m, NULL, 0);
    fake_answer(f, &again, 0, &m, NULL, 0);
    m.n = 104, meta[0] = 1;
    CHECK_EQ(wire_next(f->fds[1], f->room, &a), 1);
    CHECK_EQ(a.op, FSB_OP_STAT);
    fake_answer(f, &a, 0, &m, NULL, 0);
    (void)wire_next(f->fds[1], f->room, &a);
}

static void test_late_answers(void)
{
    static fake  f;
    fsb_backend *b = NULL;
    f.script = late_script;
    REQUIRE(fake_open(&f, &b, 20000) == 0);
    const int64_t start = clock_ms();
    CHECK_EQ(C(OPEN, .path = "/a", .flags = FSB_O_READ, .timeout_ms = 400), -ETIMEDOUT);
    CHECK_EQ(C(LOCK, .handle = 5, .flags = FSB_LOCK_EXCLUSIVE | FSB_LOCK_WAIT, .timeout_ms = 400),
             -ETIMEDOUT);
    CHECK(clock_ms() - start < 10000);
    CHECK_EQ(C(LOCK, .handle = 5, .flags = FSB_LOCK_EXCLUSIVE), 0);
    nap(50);
    CHECK_EQ(C(STAT, .path = "/"), 0); /* the connection is as good as ever */
    b->close(b);
    pthread_join(f.thread, NULL);
}

typedef struct flight {
    fsb_op  op;
    char    buf[4096];
    int64_t done;
} flight;

static void flight_done(fsb_op *op)
{
    __atomic_add_fetch(&((flight *)op->user)->done, 1, __ATOMIC_RELEASE);
}

static void launch(fsb_backend *b, flight *f, fsb_op op)
{
    f->op = op, f->done = 0;
    f->op.user = f, f->op.done = flight_done;
    fsb_op *p = &f->op;
    b->submit(b, &p, 1);
}

static void landed(const flight *f)
{
    EVENTUALLY(__atomic_load_n(&f->done, __ATOMIC_ACQUIRE) == 1);
}

/* Takes nothing of large WRITEs before their time is up, then all of those that have begun. */
static void half_script(fake *f)
{
    unsigned char meta[112] = {1};
    wire_answer   a;
    wire          m = {meta, 112};
    int           writes = 0;
    EVENTUALLY(load(&f->goes_on));
    if (f->kind) return;
    while (wire_next(f->fds[1], f->room, &a) == 1 && a.op == FSB_OP_WRITE) {
        CHECK_EQ(a.data_size, FSB_IO_MAX);
        CHECK(is_pattern(a.data, a.data_size, 0)); /* as it was, whatever its owner did since */
        fake_answer(f, &a, FSB_IO_MAX, &m, NULL, 0);
        ++writes;
    }
    CHECK(writes > 0 && writes < 16);
    CHECK_EQ(a.op, FSB_OP_STAT);
    m.n = 104, fake_answer(f, &a, 0, &m, NULL, 0);
    (void)wire_next(f->fds[1], f->room, &a);
}

/* A request that is half sent when its time is up is sent to its end: the connection lives. Who
   takes nothing for as long again is gone. */
static void test_half_sent(void)
{
    enum { WRITES = 16 };
    static fake    f;
    static flight  flights[WRITES];
    fsb_op        *ops[WRITES];
    fsb_backend   *b = NULL;
    unsigned char *data = (unsigned char *)malloc(FSB_IO_MAX);
    for (int dead = 0; dead < 2; ++dead) {
        f.script = half_script, f.kind = dead, f.goes_on = 0;
        REQUIRE(data && fake_open(&f, &b, dead ? 200 : 20000) == 0);
        for (size_t i = 0; i < FSB_IO_MAX; ++i) data[i] = pattern(i);
        for (int i = 0; i < WRITES; ++i) {
            flights[i].op = (fsb_op){.code = FSB_OP_WRITE, .handle = 1, .data = data,
                                     .size = FSB_IO_MAX, .timeout_ms = 50,
                                     .done = flight_done, .user = &flights[i]};
            flights[i].done = 0, ops[i] = &flights[i].op;
        }
        b->submit(b, ops, WRITES);
        for (int i = 0; i < WRITES; ++i) {
            landed(&flights[i]);
            CHECK_EQ(flights[i].op.result, -ETIMEDOUT);
        }
        memset(data, 'x', FSB_IO_MAX);
        if (!dead) __atomic_store_n(&f.goes_on, 1, __ATOMIC_RELEASE);
        CHECK_EQ(C(STAT, .path = "/", .timeout_ms = 20000), dead ? -ETIMEDOUT : 0);
        b->close(b);
        __atomic_store_n(&f.goes_on, 1, __ATOMIC_RELEASE);
        pthread_join(f.thread, NULL);
    }
    free(data);
}

static void cut_script(fake *f)
{
    wire_answer a;
    for (int i = 0; i < 20; ++i)
        if (wire_next(f->fds[1], f->room, &a) != 1) return;
    const size_t n = wire_frame(f->out, a.op, 1, a.tag, 4096, NULL, f->room, 4096);
    wire_send(f->fds[1], f->out, n - 1); /* all but a byte */
}

static void test_cut_in_flight(void)
{
    static fake   f;
    static flight flights[20];
    fsb_backend  *b = NULL;
    f.script = cut_script;
    REQUIRE(fake_open(&f, &b, 0) == 0);
    for (int i = 0; i < 20; ++i)
        launch(b, &flights[i], (fsb_op){.code = FSB_OP_READ, .handle = 1, .buf = flights[i].buf,
                                        .size = 4096});
    for (int i = 0; i < 20; ++i) {
        landed(&flights[i]);
        CHECK_EQ(flights[i].op.result, -ENOTCONN);
    }
    CHECK_EQ(C(STAT, .path = "/"), -ENOTCONN);
    b->close(b);
    pthread_join(f.thread, NULL);
}

/* ---- many at once ---- */

typedef struct reader {
    pthread_t   thread;
    const host *h;
    int64_t     end_ms;
    int         rounds;
} reader;

static void *reader_main(void *arg)
{
    reader              *r = (reader *)arg;
    fsb_backend         *b = dial(r->h);
    unsigned char       *buf = (unsigned char *)malloc(32 << 10);
    const fsb_handle     handle = conf_open(b, "/f", FSB_O_READ);
    for (int i = 0; i < r->rounds; ++i) {
        const uint64_t at = (uint64_t)(i * 7919) % ((1 << 20) - (32 << 10));
        CHECK_EQ(C(READ, .handle = handle, .offset = at, .buf = buf, .size = 32 << 10), 32 << 10);
        CHECK(is_pattern(buf, 32 << 10, at));
    }
    CHECK_EQ(C(CLOSE, .handle = handle), 0);
    r->end_ms = clock_ms();
    free(buf);
    b->close(b);
    return NULL;
}

static void test_hundred_clients(void)
{
    enum { CLIENTS = 100, ROUNDS = 20 };
    static reader          readers[CLIENTS];
    fsb_backend           *inner = memory_open();
    fsb_chunk_server_stats s;
    host                   h;
    int64_t                most = 0;
    put_pattern(inner, "/f", 1 << 20);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    for (int i = 0; i < CLIENTS; ++i) {
        readers[i] = (reader){.h = &h, .rounds = ROUNDS};
        CHECK_EQ(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0);
        if (load(&h.memory.live) > most) most = load(&h.memory.live);
    }
    for (int i = 0; i < CLIENTS; ++i) {
        pthread_join(readers[i].thread, NULL);
        if (load(&h.memory.live) > most) most = load(&h.memory.live);
    }
    CHECK(most < CLIENTS * (256 << 10));
    do nap(1), fsb_chunk_server_get_stats(h.server, &s);
    while (s.clients);
    CHECK_EQ(s.accepted, CLIENTS);
    CHECK_EQ(s.requests, CLIENTS * (ROUNDS + 2));
    CHECK_EQ(s.errors, 0);
    /* hello 64; OPEN 32 + 112; READ 32 + data; CLOSE 32 */
    CHECK_EQ(s.bytes_out, (uint64_t)CLIENTS * (64 + 144 + ROUNDS * (32 + (32 << 10)) + 32));
    host_close(&h);
    inner->close(inner);
}

typedef struct submitter {
    pthread_t    thread;
    fsb_backend *b;
    fsb_handle   handle;
} submitter;

static void *submitter_main(void *arg)
{
    submitter *s = (submitter *)arg;
    flight    *flights = (flight *)calloc(64, sizeof *flights);
    fsb_op    *ops[64];
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 64; ++i) {
            flight *f = &flights[i];
            f->done = 0;
            f->op = (fsb_op){.code = FSB_OP_READ, .handle = s->handle, .buf = f->buf, .size = 4096,
                             .offset = (uint64_t)(i * 997 + round), .user = f, .done = flight_done};
            ops[i] = &f->op;
        }
        s->b->submit(s->b, ops, 64);
        for (int i = 0; i < 64; ++i) {
            landed(&flights[i]);
            CHECK_EQ(flights[i].op.result, 4096);
            CHECK(is_pattern((unsigned char *)flights[i].buf, 4096, flights[i].op.offset));
        }
    }
    free(flights);
    return NULL;
}

/* ---- leases ---- */

typedef struct holder {
    pthread_mutex_t lock;
    int             events, lost;
    char            text[4000]; /* "kind path path2 size;" of each */
} holder;

static void hold(void *user, const fsb_event *e)
{
    holder *h = (holder *)user;
    pthread_mutex_lock(&h->lock);
    const size_t n = strlen(h->text);
    if (n < 3000)
        snprintf(h->text + n, sizeof h->text - n, "%d %s %s %lld;", (int)e->kind, e->path,
                 e->path2 ? e->path2 : "-", e->stat ? (long long)e->stat->size : -1ll);
    __atomic_add_fetch(&h->events, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&h->lost, e->kind == FSB_EVENT_LOST, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&h->lock);
}

/* Were there these events? What was seen is forgotten. */
static int held_both(holder *h, const char *one, const char *two)
{
    pthread_mutex_lock(&h->lock);
    const int found = strstr(h->text, one) && strstr(h->text, two);
    if (!found) fprintf(stderr, "want %s %s have %s\n", one, two, h->text);
    h->text[0] = '\0';
    pthread_mutex_unlock(&h->lock);
    return found;
}

static int held(holder *h, const char *text)
{
    return held_both(h, text, "");
}

static void lease(fsb_backend *b, holder *h)
{
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_HELD | FSB_WATCH_DEEP, .event = hold,
               .user = h), 0);
}

/* What one client does, the other has seen when the call returns; itself it is not told. */
static void test_leases(void)
{
    fsb_backend *inner = memory_open(), *b, *other;
    holder       mine, others;
    host         h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    put_pattern(inner, "/f", 100);
    other = dial(&h), b = other;
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = hold), -EINVAL);
    CHECK_EQ(C(WATCH, .path = "/f", .flags = 5, .event = hold), -EINVAL);
    lease(other, &others);
    CHECK_EQ(C(STAT, .path = "/f"), 0);
    CHECK_EQ(C(STAT, .path = "/d/e"), -ENOENT);
    b = dial(&h);
    lease(b, &mine);
    CHECK_EQ(C(PUT, .path = "/new", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    CHECK(held(&others, "1 /new - 3;"));
    const fsb_handle handle = conf_open(b, "/f", FSB_O_WRITE);
    CHECK_EQ(C(WRITE, .handle = handle, .data = "x", .size = 1, .offset = 200), 1);
    CHECK(held(&others, "3 /f - 201;"));
    CHECK_EQ(C(SETATTR, .handle = handle, .attr.mask = FSB_ATTR_MODE, .attr.mode = 0600), 0);
    CHECK(held(&others, "4 /f - 201;"));
    CHECK_EQ(C(RENAME, .path = "/f", .path2 = "/g"), 0);
    CHECK(held(&others, "5 /f /g 201;"));
    CHECK_EQ(C(RENAME, .path = "/g", .path2 = "/new", .flags = FSB_RENAME_EXCHANGE), 0);
    CHECK(held_both(&others, "5 /g /new 201;", "5 /new /g 3;"));
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK(held(&others, "1 /d - "));
    CHECK_EQ(C(SYMLINK, .path = "/d/e", .path2 = "x"), 0);
    CHECK(held(&others, "1 /d/e - 1;"));
    CHECK_EQ(C(LINK, .path = "/g", .path2 = "/d/g"), 0);
    CHECK(held(&others, "1 /d/g - "));
    CHECK_EQ(C(UNLINK, .path = "/d/e"), 0);
    CHECK(held(&others, "2 /d/e - -1;"));
    CHECK_EQ(C(UNLINK, .path = "/d/g"), 0);
    CHECK(held(&others, "2 /d/g - 3;")); /* it was /g, too: that has a name less */
    CHECK_EQ(C(LINK, .path = "/g", .path2 = "/h"), 0);
    CHECK_EQ(C(RENAME, .path = "/new", .path2 = "/h"), 0);
    CHECK(held_both(&others, "2 /h - 3;", "5 /new /h 201;"));
    CHECK_EQ(C(UNLINK, .path = "/d/nothing"), -ENOENT);
    CHECK_EQ(C(MKDIR, .path = "/far", MODE(0755)), 0);
    CHECK(held(&others, "1 /far - "));
    CHECK_EQ(C(PUT, .path = "/far/f", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    CHECK_EQ(C(PUT, .path = "/i", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    pthread_mutex_lock(&others.lock);
    CHECK(strstr(others.text, "1 /i - 3;") != NULL);
    CHECK(strstr(others.text, "/far/f") == NULL); /* of /far it has never heard */
    pthread_mutex_unlock(&others.lock);
    const int before = __atomic_load_n(&others.events, __ATOMIC_RELAXED);
    b->close(b);
    b = inner; /* past the server: both are told */
    CHECK_EQ(C(PUT, .path = "/d/h", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    EVENTUALLY(__atomic_load_n(&others.events, __ATOMIC_RELAXED) > before);
    host_close(&h);
    EVENTUALLY(__atomic_load_n(&others.lost, __ATOMIC_RELAXED) == 1);
    other->close(other);
    inner->close(inner);
}

/* One who holds a lease and does not answer is dropped, and holds up nobody for long. */
static void test_lease_ignored(void)
{
    static unsigned char room[WIRE_MAX];
    unsigned char        meta[64];
    wire                 m = {meta, 0};
    wire_answer          a;
    fsb_backend         *inner = memory_open(), *b;
    host                 h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const int fd = raw_hello(&h, room);
    wire_int(&m, 5, 4), wire_int(&m, 2, 2), wire_bytes(&m, "/", 2);
    wire_send(fd, room, wire_frame(room, FSB_OP_WATCH, 0, 9, 0, &m, NULL, 0));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.status, 0);
    wire_send(fd, room, wire_stat(room, 10, "/f"));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    int64_t start = clock_ms();
    CHECK_EQ(C(PUT, .path = "/f", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    const int64_t took = clock_ms() - start;
    CHECK(took >= 1900);
    CHECK(took < 10000);
    CHECK_EQ(wire_next(fd, room, &a), 1); /* the event was sent */
    CHECK_EQ(a.op, WIRE_EVENT);
    CHECK(raw_ended(fd));
    close(fd);
    start = clock_ms();
    CHECK_EQ(C(PUT, .path = "/g", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    CHECK(clock_ms() - start < 1900); /* nobody is waited for */
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static int64_t silent_watch(fsb_backend *b, fsb_op *op) /* of a file that nobody has open */
{
    (void)b;
    op->handle = UINT64_MAX;
    return op->result = 0;
}

/* A client with the folders /old and /e, and another one that holds a lease and has asked for
   /new/f and /e/f. What others change is told by `watch`. */
typedef struct renamed {
    fsb_backend *inner, *b, *other;
    holder       others;
    odd          o;
    host         h;
} renamed;

static int renamed_open(renamed *r, int64_t (*watch)(fsb_backend *b, fsb_op *op))
{
    r->inner = memory_open();
    odd_init(&r->o, r->inner, 0);
    r->o.base.flags = FSB_BACKEND_QUICK, r->o.base.call[FSB_OP_WATCH] = watch;
    const int err = host_open(&r->h, &r->o.base, RW, (fsb_chunk_server_desc){0});
    if (err) return err;
    fsb_backend *b = r->other = dial(&r->h);
    lease(b, &r->others);
    CHECK_EQ(C(STAT, .path = "/new/f"), -ENOENT);
    CHECK_EQ(C(STAT, .path = "/e/f"), -ENOENT);
    b = r->b = dial(&r->h);
    CHECK_EQ(C(MKDIR, .path = "/old", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/e", MODE(0755)), 0);
    return 0;
}

static void renamed_close(renamed *r)
{
    r->b->close(r->b);
    r->other->close(r->other);
    host_close(&r->h);
    r->inner->close(r->inner);
}

/* What is written to a file that was renamed while it was open is told by its name of now. */
static void test_lease_renamed(void)
{
    renamed r;
    REQUIRE(renamed_open(&r, silent_watch) == 0);
    fsb_backend *const b = r.b;
    conf_put(b, "/old/f", "abc");
    const fsb_handle handle = conf_open(b, "/old/f", FSB_O_WRITE);
    CHECK_EQ(C(RENAME, .path = "/old", .path2 = "/new"), 0);
    CHECK(held(&r.others, "5 /old /new "));
    CHECK_EQ(C(WRITE, .handle = handle, .data = "x", .size = 1, .offset = 3), 1);
    CHECK(held(&r.others, "3 /new/f - 4;"));
    CHECK_EQ(C(RENAME, .path = "/e", .path2 = "/new", .flags = FSB_RENAME_EXCHANGE), 0);
    CHECK(held_both(&r.others, "5 /e /new ", "5 /new /e "));
    CHECK_EQ(C(WRITE, .handle = handle, .data = "x", .size = 1, .offset = 4), 1);
    CHECK(held(&r.others, "3 /e/f - 5;"));
    renamed_close(&r);
}

static void (*caught_event)(void *user, const fsb_event *event);
static void *caught_user;
static int64_t caught_watch(fsb_backend *b, fsb_op *op) /* tells what say() says */
{
    caught_event = op->event, caught_user = op->user;
    return silent_watch(b, op);
}

static void say_renamed(fsb_backend *inner, const char *path, const char *path2)
{
    const fsb_stat  is = conf_stat(inner, path2);
    const fsb_event e = {FSB_EVENT_RENAMED, path, path2, &is};
    caught_event(caught_user, &e);
}

/* The same where it was renamed past the server. */
static void test_lease_renamed_past(void)
{
    renamed r;
    REQUIRE(renamed_open(&r, caught_watch) == 0);
    fsb_backend *const b = r.b;
    conf_put(b, "/old/f", "abc"), conf_put(b, "/e/f", "abcdef");
    const fsb_handle one = conf_open(b, "/old/f", FSB_O_WRITE), two = conf_open(b, "/e/f", 2);
    CHECK_EQ(conf_call(r.inner, (fsb_op){.code = FSB_OP_RENAME, .path = "/old", .path2 = "/new"}),
             0);
    say_renamed(r.inner, "/old", "/new");
    CHECK_EQ(C(WRITE, .handle = one, .data = "x", .size = 1, .offset = 3), 1);
    CHECK(held(&r.others, "3 /new/f - 4;"));
    CHECK_EQ(conf_call(r.inner, (fsb_op){.code = FSB_OP_RENAME, .path = "/e", .path2 = "/new",
                                         .flags = FSB_RENAME_EXCHANGE}), 0);
    say_renamed(r.inner, "/e", "/new"), say_renamed(r.inner, "/new", "/e");
    CHECK_EQ(C(WRITE, .handle = one, .data = "x", .size = 1, .offset = 4), 1);
    CHECK_EQ(C(WRITE, .handle = two, .data = "x", .size = 1, .offset = 6), 1);
    CHECK(held_both(&r.others, "3 /e/f - 5;", "3 /new/f - 7;"));
    renamed_close(&r);
}

static void *put_main(void *arg)
{
    fsb_backend *b = (fsb_backend *)arg;
    CHECK_EQ(C(PUT, .path = "/x", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
    return NULL;
}

/* An answer that is ready while another client's thread sends an event goes out behind that. */
static void test_answer_behind_event(void)
{
    static unsigned char room[WIRE_MAX];
    unsigned char        meta[64];
    wire                 m = {meta, 0};
    wire_answer          a;
    pthread_t            thread;
    fsb_backend         *inner = memory_open(), *b;
    odd                  o;
    host                 h;
    odd_init(&o, inner, 0);
    o.base.flags = FSB_BACKEND_QUICK, o.base.call[FSB_OP_WATCH] = silent_watch;
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const int fd = raw_hello(&h, room);
    wire_int(&m, 5, 4), wire_int(&m, 2, 2), wire_bytes(&m, "/", 2);
    wire_send(fd, room, wire_frame(room, FSB_OP_WATCH, 0, 9, 0, &m, NULL, 0));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    wire_send(fd, room, wire_stat(room, 10, "/f"));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    faults.event_naps = 0;
    __atomic_store_n(&faults.event_nap_ms, 400, __ATOMIC_RELAXED);
    CHECK_EQ(pthread_create(&thread, NULL, put_main, b), 0);
    EVENTUALLY(__atomic_load_n(&faults.event_naps, __ATOMIC_ACQUIRE) == 1);
    wire_send(fd, room, wire_stat(room, 11, "/f"));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.op, WIRE_EVENT);
    const uint64_t number = a.tag;
    CHECK_EQ(wire_next(fd, room, &a), 1); /* it has not said yet that it saw the event */
    CHECK(a.op == FSB_OP_STAT && a.tag == 11);
    __atomic_store_n(&faults.event_nap_ms, 0, __ATOMIC_RELAXED);
    wire_send(fd, room, wire_frame(room, WIRE_SEEN, 0, number, 0, NULL, NULL, 0));
    pthread_join(thread, NULL);
    close(fd);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* Two who change the same folder at once and hold leases both: each waits for the other. */
static void *busy_changer(void *arg)
{
    fsb_backend *b = (fsb_backend *)arg;
    for (int i = 0; i < 300; ++i) {
        CHECK_EQ(C(PUT, .path = "/x", .flags = 6, .data = "abc", .size = 3, MODE(0644)), 3);
        CHECK_EQ(C(STAT, .path = "/x"), 0);
    }
    return NULL;
}

static void test_lease_crowd(void)
{
    enum { N = 4 };
    fsb_backend *inner = memory_open(), *b[N];
    pthread_t    threads[N];
    holder       holders[N];
    host         h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    for (int i = 0; i < N; ++i) b[i] = dial(&h), lease(b[i], &holders[i]);
    const int64_t start = clock_ms();
    for (int i = 0; i < N; ++i) pthread_create(&threads[i], NULL, busy_changer, b[i]);
    for (int i = 0; i < N; ++i) pthread_join(threads[i], NULL);
    fprintf(stderr, "%d changes of %d clients: %lld ms\n", 300 * N, N,
            (long long)(clock_ms() - start));
    for (int i = 0; i < N; ++i) {
        CHECK(holders[i].events >= 300 * (N - 1));
        CHECK_EQ(holders[i].lost, 0);
        b[i]->close(b[i]);
    }
    host_close(&h);
    inner->close(inner);
}

static void test_pipelined_submit(void) /* out of order too: the inner backend has many threads */
{
    submitter    submitters[8];
    fsb_backend *inner = memory_open(), *b;
    odd          o;
    host         h;
    put_pattern(inner, "/f", 128 << 10);
    odd_init(&o, inner, 0);
    o.delay_ms = 20; /* of offset 0: the first asked for is the last answered */
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    for (int i = 0; i < 8; ++i) {
        submitters[i].b = b, submitters[i].handle = handle;
        CHECK_EQ(pthread_create(&submitters[i].thread, NULL, submitter_main, &submitters[i]), 0);
    }
    for (int i = 0; i < 8; ++i) pthread_join(submitters[i].thread, NULL);
    CHECK(load(&o.most) > 1); /* several at once */
    CHECK(load(&o.most) <= 8);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_answers_overtake(void)
{
    static flight slow, quick;
    fsb_backend  *inner = memory_open(), *b;
    odd           o;
    host          h;
    put_pattern(inner, "/f", 100);
    odd_init(&o, inner, 0);
    o.holds = 1;
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    launch(b, &slow, (fsb_op){.code = FSB_OP_READ, .handle = handle, .buf = slow.buf, .size = 10});
    launch(b, &quick, (fsb_op){.code = FSB_OP_READ, .handle = handle, .buf = quick.buf, .size = 10,
                               .offset = 1});
    landed(&quick);
    CHECK_EQ(__atomic_load_n(&slow.done, __ATOMIC_ACQUIRE), 0);
    CHECK_EQ(C(CLOSE, .handle = handle), 0); /* the file stays open for the one under way */
    __atomic_store_n(&o.holds, 0, __ATOMIC_RELEASE);
    landed(&slow);
    CHECK_EQ(slow.op.result, 10);
    CHECK_EQ(C(READ, .handle = handle, .buf = slow.buf, .size = 1), -EBADF);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* A client of a submitting backend closes a file that is being read: the last use ends on the inner
   client's own thread, which must not wait for the CLOSE. */
static void test_close_under_read_of_client(void)
{
    const fsb_allocator libc = {NULL, NULL};
    static flight       slow;
    fsb_backend        *inner = memory_open(), *b;
    odd                 o;
    pair                p;
    host                h;
    put_pattern(inner, "/f", 100);
    odd_init(&o, inner, 0);
    o.holds = 1;
    REQUIRE(pair_open(&p, &o.base, 0, libc, own_threads) == 0);
    REQUIRE(host_open(&h, p.client, RW, (fsb_chunk_server_desc){.max_handles = 1}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ), -EMFILE);
    launch(b, &slow, (fsb_op){.code = FSB_OP_READ, .handle = handle, .buf = slow.buf, .size = 10});
    EVENTUALLY(load(&o.held) == 1);
    CHECK_EQ(C(CLOSE, .handle = handle), 0);
    __atomic_store_n(&o.holds, 0, __ATOMIC_RELEASE);
    landed(&slow);
    CHECK_EQ(slow.op.result, 10);
    CHECK_EQ(C(STAT, .path = "/f"), 0);
    EVENTUALLY(C(OPEN, .path = "/f", .flags = FSB_O_READ) == 0); /* closed: its place is free */
    b->close(b);
    host_close(&h);
    pair_close(&p);
    inner->close(inner);
}

/* ---- locks ---- */

#define LOCKED(fl, off, len, own)                                                                  \
    C(LOCK, .handle = handle, .flags = (fl), .offset = (off), .size64 = (len), .owner = (own),     \
      .pid = 99)

/* What owner 9 would meet at off: the kind, 0 if free. */
static uint32_t lock_at(fsb_backend *b, fsb_handle handle, uint64_t off)
{
    CHECK_EQ(LOCKED(FSB_LOCK_TEST | FSB_LOCK_EXCLUSIVE, off, 1, 9), 0);
    return conf_op.flags;
}

static void test_lock_ranges(void)
{
    fsb_backend *inner = memory_open(), *b;
    host         h;
    conf_put(inner, "/f", "x");
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.max_locks = 8}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 0, 100, 1), 0);
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 40, 20, 1), 0); /* split */
    CHECK_EQ(lock_at(b, handle, 39), FSB_LOCK_EXCLUSIVE);
    CHECK_EQ(conf_op.offset, 0);
    CHECK_EQ(conf_op.size64, 40);
    CHECK_EQ(conf_op.pid, 99);
    CHECK_EQ(lock_at(b, handle, 40), 0);
    CHECK_EQ(lock_at(b, handle, 59), 0);
    CHECK_EQ(lock_at(b, handle, 60), FSB_LOCK_EXCLUSIVE);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 40, 20, 1), 0); /* merged */
    CHECK_EQ(lock_at(b, handle, 50), FSB_LOCK_EXCLUSIVE);
    CHECK_EQ(conf_op.size64, 100);
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED, 50, 0, 1), 0); /* downgraded, and to the end */
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED, 70, 10, 2), 0);
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED, 49, 2, 2), -EAGAIN);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 75, 1, 1), -EAGAIN); /* no upgrade beside another */
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, 2), 0);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 75, 1, 1), 0);
    CHECK_EQ(lock_at(b, handle, 74), FSB_LOCK_SHARED);
    CHECK_EQ(lock_at(b, handle, 75), FSB_LOCK_EXCLUSIVE);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE | FSB_LOCK_FLOCK, 0, 0, 3), 0); /* another kind altogether */
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED | FSB_LOCK_FLOCK, 0, 0, 4), -EAGAIN);
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, 1), 0);
    CHECK_EQ(lock_at(b, handle, 10), 0);
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED | FSB_LOCK_FLOCK, 0, 0, 4), -EAGAIN);
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED | FSB_LOCK_EXCLUSIVE, 0, 0, 1), -EINVAL);
    CHECK_EQ(LOCKED(64, 0, 0, 1), -EINVAL);
    CHECK_EQ(LOCKED(FSB_LOCK_SHARED, INT64_MAX, 2, 1), -EINVAL);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 0, 0, 1), 0);
    int64_t n = 0; /* splitting is bounded, freeing all is always allowed */
    for (uint64_t at = 1; at < 100 && n == 0; at += 2) n = LOCKED(FSB_LOCK_UNLOCK, at, 1, 1);
    CHECK_EQ(n, -ENOLCK);
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, 1), 0);
    CHECK_EQ(lock_at(b, handle, 0), 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static fsb_op lock_wait(fsb_handle handle, uint64_t owner)
{
    return (fsb_op){.code = FSB_OP_LOCK, .handle = handle, .owner = owner,
                    .flags = FSB_LOCK_EXCLUSIVE | FSB_LOCK_WAIT};
}

static void test_lock_waiters(void)
{
    static flight one, two, three;
    fsb_backend  *inner = memory_open(), *b, *c;
    host          h;
    conf_put(inner, "/f", "x");
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h), c = dial(&h);
    const fsb_handle theirs = conf_open(c, "/f", FSB_O_READ);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 0, 0, 1), 0);
    launch(c, &one, lock_wait(theirs, 1)); /* the same owner number, another client */
    CHECK_EQ(conf_stat(c, "/f").size, 1);
    launch(b, &two, lock_wait(handle, 2));
    CHECK_EQ(conf_stat(b, "/f").size, 1);
    launch(c, &three, lock_wait(theirs, 3));
    CHECK_EQ(conf_stat(c, "/f").size, 1);
    CHECK_EQ(load(&one.done) + load(&two.done) + load(&three.done), 0);
    b->cancel(b, &two.op);
    landed(&two);
    CHECK_EQ(two.op.result, -EINTR);
    launch(b, &two, lock_wait(handle, 2)); /* behind three now */
    CHECK_EQ(conf_stat(b, "/f").size, 1);
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, 1), 0);
    landed(&one);
    CHECK_EQ(one.op.result, 0);
    nap(20);
    CHECK_EQ(load(&two.done) + load(&three.done), 0);
    fsb_op unlock = {.code = FSB_OP_LOCK, .handle = theirs, .owner = 1};
    CHECK_EQ(c->call[FSB_OP_LOCK](c, &unlock), 0);
    landed(&three);
    nap(20);
    CHECK_EQ(load(&two.done), 0);
    c->close(c); /* three goes with its client */
    landed(&two);
    CHECK_EQ(two.op.result, 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* More waiting LOCKs than requests may be in flight: the UNLOCK behind them is read nevertheless,
   and so is the end of a client who waits for himself. */
static void test_lock_crowd(void)
{
    enum { CROWD = 40 };
    static flight crowd[CROWD];
    static unsigned char room[WIRE_MAX];
    fsb_backend         *inner = memory_open(), *b;
    host                 h;
    wire_answer          a;
    conf_put(inner, "/f", "x");
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.max_requests = 4}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(LOCKED(FSB_LOCK_EXCLUSIVE, 0, 0, 1000), 0);
    for (int i = 0; i < CROWD; ++i) {
        launch(b, &crowd[i], lock_wait(handle, (uint64_t)i + 1));
        crowd[i].op.timeout_ms = 0;
    }
    CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, 1000), 0);
    for (int i = 0; i < CROWD; ++i) {
        landed(&crowd[i]);
        CHECK_EQ(LOCKED(FSB_LOCK_UNLOCK, 0, 0, (uint64_t)i + 1), 0);
    }
    const int fd = raw_hello(&h, room);
    CHECK_EQ(wire_send(fd, room, wire_open(room, 1, "/f", 1)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    const uint64_t id = wire_get(a.meta, 8);
    CHECK_EQ(status_of(fd, room, wire_lock(room, 1, id, FSB_LOCK_EXCLUSIVE, 1)), 0);
    for (uint64_t i = 2; i < 20; ++i) {
        const uint32_t wait = FSB_LOCK_EXCLUSIVE | FSB_LOCK_WAIT;
        CHECK_EQ(wire_send(fd, room, wire_lock(room, i, id, wait, i)), 0);
    }
    EVENTUALLY(lock_at(b, handle, 0) == FSB_LOCK_EXCLUSIVE);
    close(fd);
    EVENTUALLY(lock_at(b, handle, 0) == 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* ---- rights ---- */

static void test_read_only(void)
{
    fsb_backend           *inner = memory_open(), *b = inner;
    fsb_chunk_client_info  info;
    host                   h;
    char                   room[8];
    conf_put(b, "/f", "abc");
    REQUIRE(host_open(&h, inner, FSB_CHUNK_READ, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    fsb_chunk_client_get_info(b, &info);
    CHECK_EQ(info.rights, FSB_CHUNK_READ);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_WRITE), -EACCES);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ | FSB_O_TRUNC), -EACCES);
    CHECK_EQ(C(OPEN, .path = "/g", .flags = FSB_O_READ | FSB_O_CREATE, MODE(0600)), -EACCES);
    CHECK_EQ(C(WRITE, .handle = handle, .data = "x", .size = 1), -EACCES);
    CHECK_EQ(C(PUT, .path = "/g", .flags = FSB_O_WRITE | FSB_O_CREATE, .data = "x", .size = 1),
             -EACCES);
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), -EACCES);
    CHECK_EQ(C(UNLINK, .path = "/f"), -EACCES);
    CHECK_EQ(C(RMDIR, .path = "/f"), -EACCES);
    CHECK_EQ(C(RENAME, .path = "/f", .path2 = "/g"), -EACCES);
    CHECK_EQ(C(LINK, .path = "/f", .path2 = "/g"), -EACCES);
    CHECK_EQ(C(SYMLINK, .path = "/s", .path2 = "f"), -EACCES);
    CHECK_EQ(C(MKNOD, .path = "/p", MODE(0010644)), -EACCES);
    CHECK_EQ(C(SETATTR, .path = "/f", MODE(0600)), -EACCES);
    CHECK_EQ(C(SETATTR, .handle = handle, MODE(0600)), -EACCES);
    CHECK_EQ(C(ALLOCATE, .handle = handle, .size64 = 10), -EACCES);
    CHECK_EQ(C(COPY, .handle = handle, .handle2 = handle, .size64 = 1), -EACCES);
    CHECK_EQ(C(SETXATTR, .path = "/f", .path2 = "user.a", .data = "x", .size = 1), -EACCES);
    CHECK_EQ(C(REMOVEXATTR, .path = "/f", .path2 = "user.a"), -EACCES);
    CHECK_EQ(C(READ, .handle = handle, .buf = room, .size = 8), 3);
    CHECK_EQ(C(CLOSE, .handle = handle), 0);
    b->close(b);
    conf_is(inner, "/f", "abc");
    host_close(&h);
    inner->close(inner);
}

/* ---- commands ---- */

typedef struct heard { /* what a command wrote */
    char     text[2][256];
    uint64_t size[2], sum;
    uint64_t stop_at; /* bytes of stdout, then output() wants no more; 0: never */
    int64_t  done, calls, nap_ms;
} heard;

static int hear(fsb_op *op, int fd, const void *data, size_t size)
{
    heard *h = (heard *)op->user;
    CHECK(fd == 1 || fd == 2);
    const uint64_t had = h->size[fd - 1], room = sizeof h->text[0] - 1;
    if (had < room) memcpy(h->text[fd - 1] + had, data, size < room - had ? size : room - had);
    for (size_t i = 0; i < size; ++i) h->sum = h->sum * 31 + ((const unsigned char *)data)[i];
    h->size[fd - 1] += size;
    if (load(&h->nap_ms)) nap((int)load(&h->nap_ms));
    __atomic_add_fetch(&h->calls, 1, __ATOMIC_RELEASE);
    return h->stop_at && h->size[0] >= h->stop_at;
}

static void heard_done(fsb_op *op)
{
    __atomic_store_n(&((heard *)op->user)->done, 1, __ATOMIC_RELEASE);
}

static int64_t shell(fsb_backend *b, const char *line, fsb_exec *e, heard *h, uint32_t timeout_ms)
{
    const char *argv[] = {line, NULL};
    fsb_op op = {.code = FSB_OP_EXEC, .path = "/", .flags = FSB_EXEC_SHELL, .exec = e, .user = h,
                 .timeout_ms = timeout_ms};
    memset(h->text, 0, sizeof h->text);
    h->size[0] = h->size[1] = 0, h->sum = 0, h->calls = 0;
    e->argv = argv, e->output = hear;
    const int64_t n = b->call[FSB_OP_EXEC](b, &op);
    CHECK_EQ(n, op.result);
    e->argv = NULL;
    return n;
}

static fsb_backend *local_open(const char *name)
{
    static const char *const env[] = {"PATH=/usr/bin:/bin", NULL};
    char           root[512];
    fsb_local_desc d = {.root = root, .allow_exec = 1, .exec_env = env};
    fsb_backend   *b = NULL;
    snprintf(root, sizeof root, "%s/%s", test_dir(), name);
    CHECK_EQ(mkdir(root, 0755), 0);
    CHECK_EQ(fsb_local_open(&b, &d), 0);
    return b;
}

enum { RWX = RW | FSB_CHUNK_EXEC };

static void test_exec(void)
{
    static char           big[(1 << 20) - 100];
    fsb_backend          *inner = local_open("exec"), *b;
    fsb_chunk_client_info info;
    host                  h;
    heard                 got = {0}, want = {0};
    fsb_exec              e = {0};
    REQUIRE(host_open(&h, inner, RWX, (fsb_chunk_server_desc){.request_ms = 300}) == 0);
    b = dial(&h);
    fsb_chunk_client_get_info(b, &info);
    CHECK_EQ(info.rights, RWX);
    CHECK_EQ(shell(b, "echo out; echo err >&2; sleep 0.6; exit 7", &e, &got, 0), 0);
    CHECK_STR(got.text[0], "out\n");
    CHECK_STR(got.text[1], "err\n");
    CHECK_EQ(e.exit_code, 7);
    CHECK_EQ(shell(b, "kill -9 $$", &e, &got, 0), 0);
    CHECK_EQ(e.signal, 9);
    CHECK_EQ(e.exit_code, 0);
    CHECK_EQ(shell(b, "cat", &e, &got, 0), 0); /* no stdin: its end comes at once */
    CHECK_EQ(got.size[0], 0);
    memset(big, 'x', sizeof big);
    e.input = big, e.input_size = sizeof big;
    CHECK_EQ(shell(b, "wc -c", &e, &got, 0), 0);
    CHECK_EQ(atoi(got.text[0]), (int)sizeof big);
    e.input_size = 2 << 20;
    CHECK_EQ(shell(b, "wc -c", &e, &got, 0), -E2BIG);
    e.input = NULL, e.input_size = 0;
    CHECK_EQ(shell(inner, "seq 700000; seq 9 >&2", &e, &want, 0), 0); /* 5 MB, in order */
    CHECK_EQ(shell(b, "seq 700000; seq 9 >&2", &e, &got, 0), 0);
    CHECK_EQ(got.size[0], want.size[0]);
    CHECK(got.size[0] > 4000000);
    CHECK_STR(got.text[1], want.text[1]);
    CHECK_EQ(shell(inner, "seq 300000", &e, &want, 0), 0);
    CHECK_EQ(shell(b, "seq 300000", &e, &got, 0), 0);
    CHECK_EQ(got.sum, want.sum);
    e.max_output = 1000;
    CHECK_EQ(shell(b, "seq 100000; seq 500 >&2", &e, &got, 0), 0);
    CHECK_EQ(got.size[0], 1000);
    CHECK_EQ(e.cut[0], 588895 - 1000);
    CHECK_EQ(e.cut[1], 1892 - 1000);
    e.max_output = 0;
    got.size[0] = 0;
    for (uint32_t ms = 600; ms < 30000 && !got.size[0]; ms *= 4) /* till it had the time to begin */
        CHECK_EQ(shell(b, "echo begun; sleep 100", &e, &got, ms), -ETIMEDOUT);
    CHECK_STR(got.text[0], "begun\n");
    got.stop_at = 1;
    CHECK_EQ(shell(b, "while :; do echo y; done", &e, &got, 0), 0);
    CHECK_EQ(got.calls, 1);
    got.stop_at = 0;
    static const char *const env[] = {"FSB_A=1 2\n3", NULL};
    const char              *argv[] = {"sh", "-c", "printf '%s|' \"$FSB_A\" \"$@\"", "x", "", "a b",
                                       NULL};
    fsb_op op = {.code = FSB_OP_EXEC, .path = "/", .exec = &e, .user = &got};
    e.argv = argv, e.env = env, got = (heard){0};
    CHECK_EQ(b->call[FSB_OP_EXEC](b, &op), 0);
    CHECK_STR(got.text[0], "1 2\n3||a b|");
    op.path = "/none", e.env = NULL;
    CHECK_EQ(b->call[FSB_OP_EXEC](b, &op), -ENOENT);
    op.path = "/", op.flags = 64;
    CHECK_EQ(b->call[FSB_OP_EXEC](b, &op), -EINVAL);
    EVENTUALLY(C(STAT, .path = "/") == 0); /* which 300 ms may be too short for */
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static void test_exec_refused(void)
{
    fsb_backend *inner = local_open("refused"), *memory = memory_open(), *b;
    host         h;
    heard        got = {0};
    fsb_exec     e = {0};
    struct stat  st;
    char         path[512];
    snprintf(path, sizeof path, "touch %s/ran", test_dir());
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    CHECK_EQ(shell(b, path, &e, &got, 0), -EACCES);
    CHECK(stat(path + 6, &st) != 0);
    b->close(b);
    host_close(&h);
    REQUIRE(host_open(&h, memory, RWX, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    CHECK(!b->call[FSB_OP_EXEC]);
    b->close(b);
    host_close(&h);
    inner->close(inner);
    memory->close(memory);
}

typedef struct crowd {
    fsb_op      op;
    fsb_exec    exec;
    heard       heard;
    char        line[64];
    const char *argv[2];
} crowd;

static void crowd_start(fsb_backend *b, crowd *c, int n, const char *line)
{
    memset(c, 0, (size_t)n * sizeof *c);
    for (int i = 0; i < n; ++i) {
        fsb_op *op = &c[i].op;
        snprintf(c[i].line, sizeof c[i].line, line, i);
        c[i].argv[0] = c[i].line, c[i].exec.argv = c[i].argv, c[i].exec.output = hear;
        c[i].op = (fsb_op){.code = FSB_OP_EXEC, .path = "/", .flags = FSB_EXEC_SHELL,
                           .exec = &c[i].exec, .user = &c[i].heard, .done = heard_done};
        b->submit(b, &op, 1);
    }
}

static void crowd_ends(crowd *c, int n, int64_t result)
{
    for (int i = 0; i < n; ++i) {
        EVENTUALLY(load(&c[i].heard.done));
        CHECK_EQ(c[i].op.result, result);
    }
}

static void test_exec_crowd(void) /* a hundred at once, of whom some wait; others are served */
{
    static crowd c[100];
    fsb_backend *inner = local_open("crowd"), *b, *other;
    host         h;
    REQUIRE(host_open(&h, inner, RWX, (fsb_chunk_server_desc){.threads = 1}) == 0);
    b = dial(&h), other = dial(&h);
    crowd_start(b, c, 100, "sleep 0.2; echo %d");
    CHECK_EQ(C(SYNC, .path = "/", .timeout_ms = 20000), 0);
    crowd_ends(c, 100, 0);
    for (int i = 0; i < 100; ++i) CHECK_EQ(atoi(c[i].heard.text[0]), i);
    crowd_start(b, c, 100, "exec sleep 10%d");
    nap(200);
    for (int i = 100; i-- > 0;) b->cancel(b, &c[i].op);
    crowd_ends(c, 100, -EINTR);
    b->close(b);
    b = other;
    CHECK_EQ(C(STAT, .path = "/"), 0);
    crowd_start(b, c, 3, "yes"); /* nobody takes it fast: bounded memory, and it ends */
    __atomic_store_n(&c[0].heard.nap_ms, 2, __ATOMIC_RELEASE);
    EVENTUALLY(load(&c[2].heard.calls) > 20);
    CHECK(load(&h.memory.live) < (24 << 20));
    for (int i = 0; i < 3; ++i) b->cancel(b, &c[i].op);
    crowd_ends(c, 3, -EINTR);
    crowd_start(b, c, 2, "exec sleep 10%d");
    nap(100);
    host_close(&h); /* while they run */
    crowd_ends(c, 2, -ENOTCONN);
    other->close(other);
    inner->close(inner);
}

static size_t wire_exec(unsigned char *to, uint32_t count, const char *words, size_t size)
{
    unsigned char meta[64], data[4096];
    wire          m = {meta, 0}, d = {data, 0};
    wire_int(&m, 0, 4), wire_int(&m, 0, 8), wire_text(&m, "/");
    wire_int(&d, count, 4), wire_int(&d, 0, 4), wire_bytes(&d, words, size);
    return wire_frame(to, FSB_OP_EXEC, 0, 5, 0, &m, data, d.n);
}

static void test_exec_client_gone(void) /* the command dies with the connection */
{
    static unsigned char room[WIRE_MAX];
    fsb_backend         *inner = local_open("gone");
    host                 h;
    wire_answer          a;
    static const char    words[] = "sh\0-c\0echo $$; exec sleep 1000";
    REQUIRE(host_open(&h, inner, RWX, (fsb_chunk_server_desc){0}) == 0);
    const int fd = raw_hello(&h, room);
    CHECK_EQ(wire_send(fd, room, wire_exec(room, 3, words, sizeof words)), 0);
    REQUIRE(wire_next(fd, room, &a) == 1);
    CHECK_EQ(a.op, 0x106);
    CHECK_EQ(a.tag, 5);
    CHECK_EQ(a.meta_size, 8);
    CHECK_EQ(wire_get(a.meta, 8), 1);
    const pid_t pid = (pid_t)atoi((const char *)a.data);
    REQUIRE(pid > 1);
    CHECK_EQ(kill(pid, 0), 0);
    close(fd);
    EVENTUALLY(kill(pid, 0) != 0);
    host_close(&h);
    inner->close(inner);
}

static void test_exec_hostile(void)
{
    static unsigned char room[WIRE_MAX];
    static const struct { uint32_t count; size_t size; } bad[] = {
        {0, 5}, {3, 5}, {2, 4}, {UINT32_MAX, 5}, {5000, 5}, {1, 0}};
    fsb_backend         *inner = local_open("hostile");
    host                 h;
    wire_answer          a;
    REQUIRE(host_open(&h, inner, RWX, (fsb_chunk_server_desc){0}) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        const int fd = raw_hello(&h, room);
        CHECK_EQ(wire_send(fd, room, wire_exec(room, bad[i].count, "a\0bc", bad[i].size)), 0);
        CHECK(raw_ended(fd));
        close(fd);
    }
    const int fd = raw_hello(&h, room); /* that one is good: two words */
    CHECK_EQ(wire_send(fd, room, wire_exec(room, 2, "sh\0-", 5)), 0);
    do CHECK_EQ(wire_next(fd, room, &a), 1);
    while (a.op == 0x106);
    CHECK_EQ(a.op, FSB_OP_EXEC);
    CHECK_EQ(a.status, 0);
    CHECK_EQ(a.meta_size, 24);
    close(fd);
    host_close(&h);
    inner->close(inner);
}

static void output_script(fake *f) /* kind: what is wrong with the frame */
{
    unsigned char room[16] = {0};
    wire_answer   a;
    wire          m = {room, 0};
    if (wire_next(f->fds[1], f->room, &a) != 1) return;
    wire_int(&m, f->kind == 1 ? 3 : 1, 8);
    const size_t n = wire_frame(f->room, 0x106, f->kind == 2, a.tag + (f->kind == 0 ? 7 : 0), 0,
                                f->kind == 3 ? NULL : &m, room, f->kind == 4 ? 0 : 8);
    (void)wire_send(f->fds[1], f->room, n);
    (void)wire_next(f->fds[1], f->room, &a);
}

static void test_exec_lying_hosts(void)
{
    static fake  f;
    fsb_backend *b = NULL;
    for (f.kind = 0; f.kind < 5; ++f.kind) {
        heard    got = {0};
        fsb_exec e = {0};
        f.script = output_script;
        REQUIRE(fake_open(&f, &b, 0) == 0);
        REQUIRE(b->call[FSB_OP_STAT] != NULL);
        if (b->call[FSB_OP_EXEC]) CHECK_EQ(shell(b, "true", &e, &got, 0), -EPROTO);
        else CHECK_EQ(C(STAT, .path = "/"), -EPROTO); /* its OUTPUT is nobody's */
        CHECK_EQ(got.calls, 0);
        b->close(b);
        pthread_join(f.thread, NULL);
    }
}

/* ---- accidents ---- */

typedef struct victim {
    pthread_t    thread;
    fsb_backend *b;
    fsb_handle   handle;
    int64_t      reads, result;
} victim;

static void *victim_main(void *arg)
{
    victim        *v = (victim *)arg;
    unsigned char *buf = (unsigned char *)malloc(256 << 10);
    for (;;) {
        const uint64_t at = (uint64_t)(load(&v->reads) % 700) * 1024;
        fsb_op op = {.code = FSB_OP_READ, .handle = v->handle, .offset = at, .buf = buf,
                     .size = 256 << 10};
        v->result = v->b->call[FSB_OP_READ](v->b, &op);
        if (v->result < 0) break;
        CHECK_EQ(v->result, 256 << 10);
        CHECK(is_pattern(buf, 256 << 10, at));
        __atomic_add_fetch(&v->reads, 1, __ATOMIC_RELAXED);
    }
    free(buf);
    return NULL;
}

static void host_process(const char *dir, int ready) /* a process that serves until it is killed */
{
    host           h;
    fsb_local_desc d = {.root = dir};
    fsb_backend   *inner = NULL;
    if (fsb_local_open(&inner, &d) != 0) _exit(1);
    put_pattern(inner, "/f", 1 << 20);
    if (host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) != 0) _exit(1);
    if (write(ready, h.address, sizeof h.address) < 0) _exit(1);
    for (;;) pause();
}

static void test_killed_host(void) /* the first test: a process of many threads should not fork */
{
    victim v[4];
    char   dir[500];
    int    ready[2];
    host   h;
    snprintf(dir, sizeof dir, "%s/killed", test_dir());
    REQUIRE(mkdir(dir, 0755) == 0 && pipe(ready) == 0);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) host_process(dir, ready[1]);
    REQUIRE(read(ready[0], h.address, sizeof h.address) == (ssize_t)sizeof h.address);
    fsb_backend *b = dial(&h);
    for (int i = 0; i < 4; ++i) {
        v[i] = (victim){.b = b, .handle = conf_open(b, "/f", FSB_O_READ)};
        CHECK_EQ(pthread_create(&v[i].thread, NULL, victim_main, &v[i]), 0);
    }
    EVENTUALLY(load(&v[0].reads) > 3);
    const int64_t start = clock_ms();
    kill(pid, SIGKILL);
    for (int i = 0; i < 4; ++i) {
        pthread_join(v[i].thread, NULL);
        CHECK_EQ(v[i].result, -ENOTCONN);
    }
    CHECK(clock_ms() - start < 20000);
    b->close(b);
    waitpid(pid, NULL, 0);
    fsb_chunk_server_desc none = {0}; /* its socket is stale now, and in nobody's way */
    fsb_backend          *inner = memory_open();
    fsb_chunk_share       share = {"share", inner, RW};
    none.shares = &share, none.share_count = 1;
    REQUIRE(fsb_chunk_server_open(&h.server, &none) == 0);
    CHECK_EQ(fsb_chunk_server_listen(h.server, h.address, NULL, 0), 0);
    fsb_chunk_server_close(h.server);
    inner->close(inner);
    close(ready[0]), close(ready[1]);
}

/* A client that leaves while it is sent a file must not kill the host by SIGPIPE. */
static void test_leaves_under_sendfile(void)
{
    static unsigned char room[WIRE_MAX];
    char                 dir[500];
    fsb_local_desc       d = {.root = dir};
    fsb_backend         *inner = NULL, *b;
    host                 h;
    wire_answer          a;
    snprintf(dir, sizeof dir, "%s/leaves", test_dir());
    REQUIRE(mkdir(dir, 0755) == 0 && fsb_local_open(&inner, &d) == 0);
    put_pattern(inner, "/f", 1 << 20);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    for (int i = 0; i < 20; ++i) {
        const int fd = raw_hello(&h, room);
        CHECK_EQ(wire_send(fd, room, wire_open(room, 1, "/f", 1)), 0);
        CHECK_EQ(wire_next(fd, room, &a), 1);
        const uint64_t id = wire_get(a.meta, 8);
        for (uint64_t k = 0; k < 4; ++k)
            CHECK_EQ(wire_send(fd, room, wire_read(room, k, id, 0, 1 << 20)), 0);
        CHECK_EQ(wire_recv(fd, room, 1000), 1);
        close(fd);
    }
    CHECK_EQ(C(STAT, .path = "/f"), 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* A raw connection of a client that stays: `back` says that it was here before. */
static int raw_stays(const host *h, unsigned char *room, int back, int *resumed)
{
    unsigned char meta[64];
    wire          m = {meta, 0};
    wire_answer   a;
    const int     fd = raw(h);
    wire_int(&m, 1, 2), wire_int(&m, 1, 2), wire_int(&m, back ? 3 : 1, 4);
    wire_bytes(&m, "who comes back 1", 16);
    wire_text(&m, "share");
    CHECK_EQ(wire_send(fd, room, wire_frame(room, WIRE_HELLO, 0, 0, 0, &m, NULL, 0)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.status, 0);
    *resumed = a.meta_size == 32 && (wire_get(a.meta + 28, 4) & 1);
    return fd;
}

/* One that was lost while it was sent a file comes back: the file is still open, and can be closed.
   */
static void test_back_under_sendfile(void)
{
    static unsigned char room[WIRE_MAX];
    char                 dir[500];
    fsb_local_desc       d = {.root = dir};
    fsb_backend         *inner = NULL;
    odd                  o;
    host                 h;
    wire_answer          a;
    int                  resumed;
    snprintf(dir, sizeof dir, "%s/back", test_dir());
    REQUIRE(mkdir(dir, 0755) == 0 && fsb_local_open(&inner, &d) == 0);
    put_pattern(inner, "/f", 1 << 20);
    odd_init(&o, inner, 0);
    o.base.flags = FSB_BACKEND_QUICK, o.base.call[FSB_OP_DESCRIPTOR] = odd_call;
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){0}) == 0);
    int fd = raw_stays(&h, room, 0, &resumed);
    CHECK(!resumed);
    CHECK_EQ(wire_send(fd, room, wire_open(room, 1, "/f", 1)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    const uint64_t id = wire_get(a.meta, 8);
    for (uint64_t k = 2; k < 6; ++k)
        CHECK_EQ(wire_send(fd, room, wire_read(room, k, id, 0, 1 << 20)), 0);
    CHECK_EQ(wire_recv(fd, room, 1000), 1);
    close(fd);
    fd = raw_stays(&h, room, 1, &resumed);
    CHECK(resumed);
    CHECK_EQ(wire_send(fd, room, wire_read(room, 2, id, 0, 1000)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK(a.status == 1000 && a.data_size == 1000 && is_pattern(a.data, 1000, 0));
    const int64_t before = load(&o.calls);
    unsigned char handle[8];
    wire          m = {handle, 0};
    wire_int(&m, id, 8);
    CHECK_EQ(wire_send(fd, room, wire_frame(room, FSB_OP_CLOSE, 0, 6, 0, &m, NULL, 0)), 0);
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.status, 0);
    CHECK_EQ(load(&o.calls), before + 1); /* nothing else holds it open */
    close(fd);
    host_close(&h);
    inner->close(inner);
}

typedef struct cutter {
    pthread_t thread;
    int       fd;
    int       stop;
} cutter;

static void *cutter_main(void *arg)
{
    cutter              *c = (cutter *)arg;
    static unsigned char bytes[1 << 20];
    for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = pattern(i);
    while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
        CHECK_EQ(ftruncate(c->fd, 300001), 0);
        nap(1);
        CHECK_EQ(pwrite(c->fd, bytes, sizeof bytes, 0), (ssize_t)sizeof bytes);
        nap(1);
    }
    return NULL;
}

static void test_cut_while_sent(void)
{
    static unsigned char buf[1 << 20];
    char                 dir[500], path[520];
    fsb_local_desc       d = {.root = dir};
    fsb_backend         *inner = NULL, *b;
    host                 h;
    cutter               c = {0};
    snprintf(dir, sizeof dir, "%s/cut", test_dir());
    snprintf(path, sizeof path, "%s/f", dir);
    REQUIRE(mkdir(dir, 0755) == 0 && fsb_local_open(&inner, &d) == 0);
    put_pattern(inner, "/f", 1 << 20);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/f", FSB_O_READ);
    REQUIRE((c.fd = open(path, O_RDWR | O_CLOEXEC)) >= 0);
    CHECK_EQ(pthread_create(&c.thread, NULL, cutter_main, &c), 0);
    for (int i = 0; i < 300; ++i) {
        const int64_t n = C(READ, .handle = handle, .buf = buf, .size = sizeof buf);
        CHECK(n >= 300001 && n <= (int64_t)sizeof buf);
        CHECK(n < 300001 || is_pattern(buf, 300001, 0)); /* behind, holes may show while it grows */
        for (int64_t k = 300001; k < n; k += 997) CHECK(!buf[k] || buf[k] == pattern((uint64_t)k));
    }
    __atomic_store_n(&c.stop, 1, __ATOMIC_RELAXED);
    pthread_join(c.thread, NULL);
    const uint64_t far = (UINT64_C(5) << 30) + 123; /* behind 4 GiB, in a sparse file */
    memcpy(buf, "far away", 8);
    CHECK_EQ(pwrite(c.fd, buf, 200000, (off_t)far), 200000);
    CHECK_EQ(C(READ, .handle = handle, .offset = far, .buf = buf, .size = sizeof buf), 200000);
    CHECK(memcmp(buf, "far away", 8) == 0);
    CHECK_EQ(C(READ, .handle = handle, .offset = far - 4096, .buf = buf, .size = 4104), 4104);
    CHECK(buf[4095] == 0 && memcmp(buf + 4096, "far away", 8) == 0);
    CHECK_EQ(C(READ, .handle = handle, .offset = far + 200000, .buf = buf, .size = 10), 0);
    close(c.fd);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

static int gate, at_gate; /* gate: open: 1; at_gate: how many have come to it */

static int64_t gated_call(fsb_backend *b, fsb_op *op)
{
    __atomic_add_fetch(&at_gate, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&gate, __ATOMIC_ACQUIRE)) nap(1);
    return odd_call(b, op);
}

/* A client that stays, and is not read as its requests wait: its PINGs are not heard, but it is
   there, and hears that we are. One that takes nothing of it is lost. */
static void unread(int takes)
{
    static unsigned char room[WIRE_MAX];
    fsb_backend         *inner = memory_open();
    odd                  o;
    host                 h;
    wire_answer          a;
    int                  resumed;
    odd_init(&o, inner, 0);
    o.base.call[FSB_OP_STAT] = gated_call;
    at_gate = 0;
    __atomic_store_n(&gate, 0, __ATOMIC_RELEASE);
    REQUIRE(host_open(&h, &o.base, RW, (fsb_chunk_server_desc){.max_requests = 1}) == 0);
    const int     fd = raw_stays(&h, room, 0, &resumed);
    struct pollfd p = {fd, POLLIN, 0};
    for (uint64_t k = 1; k < 4; ++k) CHECK_EQ(wire_send(fd, room, wire_stat(room, k, "/")), 0);
    EVENTUALLY(__atomic_load_n(&at_gate, __ATOMIC_ACQUIRE) == 1); /* the others wait, unread */
    pass_time(&h, 8);
    CHECK_EQ(poll(&p, 1, 20000), 1);
    if (takes) {
        CHECK_EQ(wire_next(fd, room, &a), 1);
        CHECK(a.op == 0x104 && a.flags == 1 && a.tag == 0);
        pass_time(&h, 8);
        nap(50);
        CHECK_EQ(wire_send(fd, room, wire_frame(room, 0x104, 0, 9, 0, NULL, NULL, 0)), 0);
        pass_time(&h, 8);
        nap(50);
        CHECK_EQ(load(&h.complaints), 0);
    } else {
        pass_time(&h, 8);
        EVENTUALLY(load(&h.complaints) == 1);
    }
    __atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
    for (int k = 0; takes && k < 4;) {
        const int n = wire_next(fd, room, &a);
        CHECK_EQ(n, 1);
        if (n != 1) break;
        if (a.op != 0x104 || a.tag == 9) ++k, CHECK_EQ(a.status, 0);
    }
    close(fd);
    host_close(&h);
    inner->close(inner);
    __atomic_store_n(&faults.later_s, 0, __ATOMIC_RELAXED);
}

static void test_unread_clients(void)
{
    unread(1);
    unread(0);
}

static void test_files_without_size(void) /* those of /proc say 0 and are not empty */
{
    char           room[64];
    fsb_local_desc d = {.root = "/proc"};
    fsb_backend   *inner = NULL, *b;
    host           h;
    if (access("/proc/version", R_OK) != 0) SKIP("there is no /proc");
    REQUIRE(fsb_local_open(&inner, &d) == 0);
    REQUIRE(host_open(&h, inner, FSB_CHUNK_READ, (fsb_chunk_server_desc){0}) == 0);
    b = dial(&h);
    const fsb_handle handle = conf_open(b, "/version", FSB_O_READ);
    CHECK(C(READ, .handle = handle, .buf = room, .size = sizeof room) > 5);
    CHECK(memcmp(room, "Linux", 5) == 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* ---- no memory ---- */

static void use_a_little(fsb_backend *b)
{
    static char  big[100000];
    char         room[100];
    int          names = 0;
    static char  longer[400];
    memset(longer, 'n', sizeof longer - 1);
    longer[0] = longer[200] = '/';
    conf_op = (fsb_op){0};
    (void)C(PUT, .path = "/f", .flags = FSB_O_WRITE | FSB_O_CREATE, MODE(0644), .data = big,
            .size = sizeof big);
    if (C(OPEN, .path = "/f", .flags = FSB_O_READ | FSB_O_WRITE) >= 0) {
        const fsb_handle handle = conf_op.handle;
        (void)C(READ, .handle = handle, .buf = big, .size = sizeof big);
        if (C(READ, .handle = handle, .size = sizeof big) > 0) fsb_slice_release(&conf_op.slice);
        (void)C(WRITE, .handle = handle, .data = "abc", .size = 3);
        (void)C(SYNC, .handle = handle);
        (void)LOCKED(FSB_LOCK_EXCLUSIVE, 0, 100, 1);
        (void)LOCKED(FSB_LOCK_UNLOCK, 10, 10, 1);
        (void)C(CLOSE, .handle = handle);
    }
    (void)C(LIST, .path = "/", .flags = FSB_LIST_STAT, .emit = count_name, .user = &names);
    (void)C(STAT, .path = longer); /* does not fit where most requests do */
    (void)C(GETXATTR, .path = "/f", .path2 = "user.x", .buf = room, .size = sizeof room);
    (void)C(UNLINK, .path = "/f");
}

static void test_no_memory(void)
{
    for (uint64_t k = 1; k < 400; ++k) {
        test_memory   m = {0};
        fsb_allocator a = {test_memory_fn, &m};
        fsb_backend  *inner = memory_open();
        pair          p;
        m.fail_at = k;
        const int err = pair_open(&p, inner, (int)(k & 1), a, own_threads);
        if (!err) use_a_little(p.client), pair_close(&p);
        else CHECK(err == -ENOMEM || err == -ENOTCONN);
        inner->close(inner);
        CHECK_EQ(m.live, 0);
        CHECK_EQ(m.wrong_size, 0);
        if (m.calls < k) return; /* it got by with fewer */
    }
    CHECK(!"it asks for memory again and again");
}

/* ---- no threads, and a kernel without memory ---- */

static void *close_main(void *arg)
{
    fsb_backend *b = *(fsb_backend **)arg;
    b->close(b);
    __atomic_store_n((fsb_backend **)arg, (fsb_backend *)NULL, __ATOMIC_RELEASE);
    return NULL;
}

/* Whose host is gone, and who gets no thread to look for it, can be closed. */
static void test_close_without_threads(void)
{
    fsb_backend *inner = memory_open(), *b = NULL;
    pthread_t    thread;
    host         h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    fsb_chunk_client_desc d = {.address = h.address, .timeout_ms = 20000, .reconnect = 1};
    REQUIRE(fsb_chunk_client_open(&b, &d) == 0);
    __atomic_store_n(&faults.no_threads, 1, __ATOMIC_RELAXED);
    host_close(&h);
    CHECK_EQ(C(STAT, .path = "/", .timeout_ms = 300), -ETIMEDOUT);
    REQUIRE(pthread_create(&thread, NULL, close_main, &b) == 0);
    EVENTUALLY(!__atomic_load_n(&b, __ATOMIC_ACQUIRE));
    __atomic_store_n(&faults.no_threads, 0, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    inner->close(inner);
}

/* Who accepts goes on when it cannot wait for once, or cannot give a client a thread. */
static void test_accept_goes_on(void)
{
    fsb_backend *inner = memory_open(), *b = NULL;
    host         h;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    fsb_chunk_client_desc d = {.address = h.address, .timeout_ms = 20000};
    __atomic_store_n(&faults.polls_fail, 3, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; ++i) { /* the first has it wait again, and fail */
        REQUIRE(fsb_chunk_client_open(&b, &d) == 0);
        b->close(b);
    }
    EVENTUALLY(!__atomic_load_n(&faults.polls_fail, __ATOMIC_RELAXED));
    __atomic_store_n(&faults.no_threads, 1, __ATOMIC_RELAXED);
    CHECK_EQ(fsb_chunk_client_open(&b, &d), -ENOTCONN); /* turned away */
    __atomic_store_n(&faults.no_threads, 0, __ATOMIC_RELAXED);
    REQUIRE(fsb_chunk_client_open(&b, &d) == 0);
    b->close(b);
    host_close(&h);
    inner->close(inner);
}

/* ---- addresses ---- */

static void test_tcp(void)
{
    static const char *const asked[] = {"127.0.0.1:0", "localhost:0", "[::1]:0"};
    fsb_backend             *inner = memory_open(), *b;
    host                     h;
    const int                six = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6      any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const int has6 = six >= 0 && bind(six, (const struct sockaddr *)&any, sizeof any) == 0;
    close(six);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    for (int i = 0; i < (has6 ? 3 : 2); ++i) {
        CHECK_EQ(fsb_chunk_server_listen(h.server, asked[i], h.address, sizeof h.address), 0);
        CHECK(strcmp(h.address, asked[i]) != 0 && !strstr(h.address, ":0 "));
        b = dial(&h);
        conf_put(b, "/f", "tcp");
        conf_is(b, "/f", "tcp");
        b->close(b);
    }
    CHECK_EQ(fsb_chunk_server_listen(h.server, "0.0.0.0:0", NULL, 0), -EACCES);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "*:0", NULL, 0), -EACCES);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "[::]:0", NULL, 0), -EACCES);
    CHECK_EQ(fsb_chunk_server_listen(h.server, h.address, NULL, 0), -EADDRINUSE);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "nothing", NULL, 0), -EINVAL);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "127.0.0.1:x", NULL, 0), -EINVAL);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "127.0.0.1:65536", NULL, 0), -EINVAL);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "::1:80", NULL, 0), -EINVAL);
    host_close(&h);
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.insecure_tcp = 1}) == 0);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "0.0.0.0:0", h.address, sizeof h.address), 0);
    host_close(&h);
    inner->close(inner);
}

static void test_unix_paths(void)
{
    char         address[500];
    struct stat  st;
    fsb_backend *inner = memory_open(), *b;
    host         h, other;
    REQUIRE(host_open(&h, inner, RW, (fsb_chunk_server_desc){.socket_mode = 0660}) == 0);
    REQUIRE(host_open(&other, inner, RW, (fsb_chunk_server_desc){0}) == 0);
    CHECK_EQ(stat(h.address + 5, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0660);
    CHECK_EQ(fsb_chunk_server_listen(other.server, h.address, NULL, 0), -EADDRINUSE);
    b = dial(&h); /* it lives on */
    CHECK_EQ(C(STAT, .path = "/"), 0);
    b->close(b);
    snprintf(address, sizeof address, "unix:%s/file", test_dir());
    const int fd = open(address + 5, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    CHECK_EQ(fsb_chunk_server_listen(h.server, address, NULL, 0), -EEXIST);
    CHECK_EQ(stat(address + 5, &st), 0);
    snprintf(address, sizeof address, "unix:%s/%0200d", test_dir(), 1);
    CHECK_EQ(fsb_chunk_server_listen(h.server, address, NULL, 0), -ENAMETOOLONG);
    snprintf(address, sizeof address, "unix:%s/none/s", test_dir());
    CHECK_EQ(fsb_chunk_server_listen(h.server, address, NULL, 0), -ENOENT);
    snprintf(address, sizeof address, "%s", h.address);
    host_close(&h);
    CHECK(stat(address + 5, &st) != 0 && errno == ENOENT);
    host_close(&other);
    inner->close(inner);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_killed_host);
    TEST(test_conformance_memory);
    TEST(test_conformance_local);
    TEST(test_conformance_blocking);
    TEST(test_conformance_submit);
    TEST(test_conformance_runner);
    TEST(test_conformance_twice);
    TEST(test_frozen_requests);
    TEST(test_frozen_answers);
    TEST(test_frozen_errors);
    TEST(test_broken_frames);
    TEST(test_broken_strings);
    TEST(test_truncated_frames);
    TEST(test_random_bytes);
    TEST(test_bad_paths_and_handles);
    TEST(test_slow_clients);
    TEST(test_max_clients);
    TEST(test_greedy_client_memory);
    TEST(test_greedy_client_local);
    TEST(test_lying_hosts);
    TEST(test_reason_stays);
    TEST(test_bad_names);
    TEST(test_bad_folders);
    TEST(test_bad_hellos);
    TEST(test_late_answers);
    TEST(test_half_sent);
    TEST(test_cut_in_flight);
    TEST(test_hundred_clients);
    TEST(test_leases);
    TEST(test_lease_ignored);
    TEST(test_lease_renamed);
    TEST(test_lease_renamed_past);
    TEST(test_answer_behind_event);
    TEST(test_lease_crowd);
    TEST(test_pipelined_submit);
    TEST(test_answers_overtake);
    TEST(test_close_under_read_of_client);
    TEST(test_lock_ranges);
    TEST(test_lock_waiters);
    TEST(test_lock_crowd);
    TEST(test_read_only);
    TEST(test_exec);
    TEST(test_exec_refused);
    TEST(test_exec_crowd);
    TEST(test_exec_client_gone);
    TEST(test_exec_hostile);
    TEST(test_exec_lying_hosts);
    TEST(test_leaves_under_sendfile);
    TEST(test_back_under_sendfile);
    TEST(test_cut_while_sent);
    TEST(test_unread_clients);
    TEST(test_files_without_size);
    TEST(test_no_memory);
    TEST(test_close_without_threads);
    TEST(test_accept_goes_on);
    TEST(test_tcp);
    TEST(test_unix_paths);
    return test_end("test_chunk");
}
