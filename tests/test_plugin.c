/* test_plugin.c - plugins: the example, broken ones, and one that hangs and fails as it is told. */
#define FSB_IMPLEMENTATION
#include <time.h>

static int later_s; /* the clock is ahead by so much */
static int late_clock(clockid_t which, struct timespec *t)
{
    const int result = clock_gettime(which, t);
    t->tv_sec += __atomic_load_n(&later_s, __ATOMIC_RELAXED);
    return result;
}
#define clock_gettime late_clock
#include "fsb_mount.h"
#undef clock_gettime
#include "fsb_backend.h"
#include "plugin_moody.h"
#include "test.h"

typedef struct lines { /* of a log */
    int  count;
    char item[64], text[512];
} lines;

static void log_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    lines                 *l = user;
    (void)level;
    pthread_mutex_lock(&lock);
    ++l->count;
    snprintf(l->item, sizeof l->item, "%s", item);
    snprintf(l->text, sizeof l->text, "%s", text);
    pthread_mutex_unlock(&lock);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap(int ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* One call on backend b: C(STAT, .path = "/a") is its result, the answer is in call_op. */
static __thread fsb_op call_op;
#define C(name, ...) call(b, (fsb_op){.code = FSB_OP_##name, __VA_ARGS__})
static int64_t call(fsb_backend *b, fsb_op op)
{
    call_op = op;
    return fsb_backend_call(b, &call_op);
}

static fsb_handle open_file(fsb_backend *b, const char *path, uint32_t flags)
{
    CHECK_EQ(C(OPEN, .path = path, .flags = flags), 0);
    return call_op.handle;
}

/* What threads of a plugin change too. */
#define NOW(what) __atomic_load_n(&(what), __ATOMIC_SEQ_CST)

/* Plugins are beside the test program. 0: they were not built. */
static int plugin_path(char *path, size_t size, const char *name)
{
    char          self[512];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return 0;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    snprintf(path, size, "%s/plugin_%s.so", self, name);
    return access(path, R_OK) == 0;
}
#define NEED_PLUGIN(path, name) \
    do { if (!plugin_path((path), sizeof(path), (name))) SKIP("plugins were not built"); } while (0)

/* ---- the example ---- */

static int see_now(fsb_op *op, const fsb_dirent *e)
{
    CHECK_STR(e->name, "now");
    ++*(int *)op->user;
    return 0;
}

static void test_plugin_example(void)
{
    char         path[600], text[32] = "";
    test_memory  m = {0};
    fsb_backend *b = NULL;
    int          names = 0;
    NEED_PLUGIN(path, "example");
    const fsb_plugin_desc d = {.path = path, .allocator = {test_memory_fn, &m}};
    REQUIRE(fsb_plugin_load(&b, &d) == 0);
    CHECK_STR(b->name, "now");
    CHECK_EQ(C(STAT, .path = "/"), 0);
    CHECK(call_op.stat.mode == 0040555);
    CHECK_EQ(C(STAT, .path = "/then"), -ENOENT);
    CHECK_EQ(C(LIST, .path = "/", .emit = see_now, .user = &names), 1);
    CHECK_EQ(names, 1);
    CHECK_EQ(C(LIST, .path = "/now", .emit = see_now, .user = &names), -ENOTDIR);
    CHECK_EQ(C(GET, .path = "/now", .buf = text, .size = sizeof text - 1), 11);
    CHECK(llabs(atoll(text) - (long long)time(NULL)) < 10);
    const fsb_handle h = open_file(b, "/now", FSB_O_READ);
    CHECK_EQ(C(READ, .handle = h, .buf = text, .size = 4, .offset = 9), 2);
    CHECK(text[1] == '\n');
    CHECK_EQ(C(STAT, .handle = h), 0);
    CHECK_EQ(call_op.stat.size, 11);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(OPEN, .path = "/now", .flags = FSB_O_WRITE), -EROFS);
    CHECK_EQ(C(UNLINK, .path = "/now"), -ENOSYS);
    CHECK_EQ(C(WATCH, .path = "/"), -ENOSYS);
    b->close(b);
    CHECK_EQ(NOW(m.live), 0);
    CHECK_EQ(m.wrong_size, 0);
}

/* The page of the README is the example, word for word. */
static void test_plugin_readme(void)
{
    static char readme[1 << 20], code[1 << 14];
    FILE       *f = fopen("README.md", "r"), *g = fopen("tests/plugin_example.c", "r");
    if (!f || !g) SKIP("not run in the project's folder");
    CHECK(fread(readme, 1, sizeof readme - 1, f) > 0);
    CHECK(fread(code, 1, sizeof code - 1, g) > 0);
    fclose(f);
    fclose(g);
    CHECK(strstr(readme, strchr(code, '\n') + 1) != NULL);
}

/* ---- broken ones ---- */

static void refused(const char *path, int err, const char *why)
{
    lines           log = {0};
    test_memory     m = {0};
    fsb_backend    *b = NULL;
    fsb_plugin_desc d = {.path = path, .load_ms = err == -ETIMEDOUT ? 300 : 20000,
                         .deadline_ms = 20000, .log = {log_line, &log},
                         .allocator = {test_memory_fn, &m}};
    CHECK_EQ(fsb_plugin_load(&b, &d), err);
    CHECK(!b);
    if (why && !strstr(log.text, why)) CHECK_STR(log.text, why);
    CHECK_EQ(NOW(m.live), 0);
}

static void test_plugin_refused(void)
{
    static const struct { const char *name; int err; const char *why; } cases[] = {
        {"crash", -EFAULT, "signal 11"},   {"exit", -EFAULT, "ends the program"},
        {"hang", -ETIMEDOUT, "300 ms"},    {"abi", -EPROTO, "ABI 2"},
        {"size", -EPROTO, "compiled for"}, {"symbol", -ENOSYS, "exports no fsb_plugin"},
        {"refuses", -EACCES, "Permission denied"},
    };
    char path[600];
    NEED_PLUGIN(path, "abi");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        CHECK(plugin_path(path, sizeof path, cases[i].name));
        refused(path, cases[i].err, cases[i].why);
    }
    refused("/no/such/plugin.so", -ENOENT, "No such file");
    refused("plugin.so", -EINVAL, NULL);
    snprintf(path, sizeof path, "%s/text.so", test_dir());
    FILE *f = fopen(path, "w");
    REQUIRE(f);
    fputs("no object\n", f);
    fclose(f);
    refused(path, -ENOEXEC, "text.so");
    refused(test_dir(), -ENOEXEC, test_dir());
}

/* One that takes too long to open is given up, and frees what it has when it is done. */
static void test_plugin_opens_late(void)
{
    static test_memory m; /* they outlive the call */
    static lines       log;
    char               path[600];
    fsb_backend       *b = NULL;
    NEED_PLUGIN(path, "sleeps");
    fsb_plugin_desc d = {.path = path, .load_ms = 1000, .deadline_ms = 10, .log = {log_line, &log},
                         .allocator = {test_memory_fn, &m}};
    const int64_t begin = now_ms();
    CHECK_EQ(fsb_plugin_load(&b, &d), -ETIMEDOUT);
    CHECK(NOW(m.live) > 0 || now_ms() - begin >= 2000);
    EVENTUALLY(NOW(m.live) == 0);
}

/* ---- one that hangs ---- */

typedef struct fixture {
    moody        mood;
    lines        log;
    test_memory  m;
    char         path[600], config[32];
    fsb_backend *b;
} fixture;

static int moody_open(fixture *f, fsb_plugin_desc d)
{
    memset(f, 0, sizeof *f);
    if (!plugin_path(f->path, sizeof f->path, "moody")) return 0;
    snprintf(f->config, sizeof f->config, "%p", (void *)&f->mood);
    d.path = f->path, d.config = f->config;
    d.allocator = (fsb_allocator){test_memory_fn, &f->m};
    d.log = (fsb_logger){log_line, &f->log};
    CHECK_EQ(fsb_plugin_load(&f->b, &d), 0);
    return f->b != NULL;
}

static void hang(fixture *f, int on) { __atomic_store_n(&f->mood.hang, on, __ATOMIC_SEQ_CST); }
static void fail(fixture *f, int err) { __atomic_store_n(&f->mood.err, err, __ATOMIC_SEQ_CST); }

static uint64_t stuck(fixture *f)
{
    fsb_plugin_stats s;
    fsb_plugin_stat(f->b, &s);
    return s.stuck;
}

/* A call that hangs in the plugin, in the end: one that no worker took in time is repeated. Returns
   the number of calls. */
static int stick(fixture *f, fsb_op op)
{
    const uint64_t before = stuck(f);
    int            calls = 0;
    do ++calls, CHECK_EQ(call(f->b, op), -ETIMEDOUT);
    while (stuck(f) == before && calls < 100);
    CHECK_EQ(stuck(f), before + 1);
    return calls;
}

/* A call that does not hang, but may be late for a short deadline on a busy machine: again then. */
static int64_t insist(fixture *f, fsb_op op)
{
    int64_t n = call(f->b, op);
    for (int i = 0; i < 100 && n == -ETIMEDOUT; ++i) n = call(f->b, op);
    EVENTUALLY(!stuck(f));
    return n;
}

static void moody_close(fixture *f)
{
    f->b->close(f->b);
    EVENTUALLY(NOW(f->m.live) == 0); /* a worker may be on its way out */
    CHECK_EQ(NOW(f->mood.ended), 1);
    CHECK_EQ(f->m.wrong_size, 0);
}

static void test_plugin_deadline(void)
{
    static fixture   f;
    char             buf[64];
    fsb_plugin_stats s;
    const fsb_plugin_desc d = {.deadline_ms = 60, .workers = 2, .failures = UINT32_MAX};
    if (!moody_open(&f, d)) SKIP("plugins were not built");
    fsb_backend *b = f.b;
    CHECK_EQ(insist(&f, (fsb_op){.code = FSB_OP_OPEN, .path = "/x", .flags = FSB_O_READ}), 0);
    const fsb_handle h = call_op.handle;
    memset(buf, '-', sizeof buf);
    CHECK_EQ(insist(&f, (fsb_op){.code = FSB_OP_READ, .handle = h, .buf = buf, .size = 8}), 8);
    CHECK(buf[0] == 'L' && buf[7] == 'L' && buf[8] == '-');
    memset(buf, '-', sizeof buf);
    const int opened = NOW(f.mood.opened), closed = NOW(f.mood.closed);
    fsb_plugin_stat(b, &s);
    uint64_t timeouts = s.timeouts, hanging = 7;
    hang(&f, 1);
    int64_t begin = now_ms();
    for (int i = 0; i < 5; ++i) /* more than there are workers: each has one of its own to hang */
        timeouts += (uint64_t)stick(&f, (fsb_op){.code = FSB_OP_READ, .handle = h, .buf = buf,
                                                 .size = sizeof buf});
    CHECK(now_ms() - begin >= 5 * 60 && now_ms() - begin < 20000);
    CHECK_STR(f.log.item, "plugin/call");
    int64_t least = 60;
    for (int i = 0; i < 20 && least >= 60; ++i, ++hanging) { /* the op's own, if less */
        begin = now_ms();
        timeouts += (uint64_t)stick(&f, (fsb_op){.code = FSB_OP_STAT, .path = "/",
                                                 .timeout_ms = 10});
        if (now_ms() - begin < least) least = now_ms() - begin;
    }
    CHECK(least < 60);
    timeouts += (uint64_t)stick(&f, (fsb_op){.code = FSB_OP_OPEN, .path = "/x",
                                             .flags = FSB_O_READ});
    {
        char data[16];
        memset(data, 'w', sizeof data);
        timeouts += (uint64_t)stick(&f, (fsb_op){.code = FSB_OP_WRITE, .handle = h, .data = data,
                                                 .size = sizeof data});
        memset(data, 'x', sizeof data); /* which it does not see */
    }
    CHECK_EQ(stuck(&f), hanging);
    CHECK_EQ(NOW(f.mood.opened), opened);
    hang(&f, 0);
    EVENTUALLY(!stuck(&f) && NOW(f.mood.closed) != closed);
    CHECK(buf[0] == '-' && buf[63] == '-'); /* written late, but not here */
    CHECK_EQ(NOW(f.mood.changed), 0);
    CHECK_EQ(NOW(f.mood.opened), opened + 1);
    CHECK_EQ(NOW(f.mood.closed), closed + 1); /* what was opened too late */
    fsb_plugin_stat(b, &s);
    CHECK_EQ(s.timeouts, timeouts);
    CHECK_EQ(insist(&f, (fsb_op){.code = FSB_OP_STAT, .path = "/"}), 0);
    EVENTUALLY((fsb_plugin_stat(b, &s), s.threads <= 2)); /* those in their place have gone */
    (void)C(CLOSE, .handle = h); /* which happens, however late */
    moody_close(&f);
    CHECK_EQ(NOW(f.mood.closed), closed + 2);
}

/* As many hang as may: the rest waits in vain, within its time, and all is well afterwards. */
static void test_plugin_all_stuck(void)
{
    static fixture   f;
    fsb_plugin_stats s;
    const fsb_plugin_desc d = {.deadline_ms = 20, .workers = 1, .max_stuck = 2,
                               .failures = UINT32_MAX};
    if (!moody_open(&f, d)) SKIP("plugins were not built");
    fsb_backend *b = f.b;
    CHECK_EQ(insist(&f, (fsb_op){.code = FSB_OP_OPEN, .path = "/x", .flags = FSB_O_READ}), 0);
    const fsb_handle h = call_op.handle;
    const int        closed = NOW(f.mood.closed), calls = NOW(f.mood.calls);
    hang(&f, 1);
    for (int i = 0; i < 3; ++i) stick(&f, (fsb_op){.code = FSB_OP_STAT, .path = "/"});
    for (int i = 0; i < 5; ++i) CHECK_EQ(C(STAT, .path = "/"), -ETIMEDOUT);
    EVENTUALLY(NOW(f.mood.calls) >= calls + 3);
    fsb_plugin_stat(b, &s);
    CHECK_EQ(s.threads, 3);
    CHECK_EQ(s.stuck, 3);
    CHECK_EQ(NOW(f.mood.calls), calls + 3);
    CHECK_EQ(C(CLOSE, .handle = h), -ETIMEDOUT); /* happens later */
    CHECK_EQ(NOW(f.mood.closed), closed);
    hang(&f, 0);
    EVENTUALLY(NOW(f.mood.closed) != closed);
    CHECK_EQ(NOW(f.mood.closed), closed + 1);
    CHECK_EQ(insist(&f, (fsb_op){.code = FSB_OP_STAT, .path = "/"}), 0);
    moody_close(&f);
}

/* Calls that begin at once have a worker each, if there are enough: none waits behind another. */
static void *ask_once(void *arg)
{
    fsb_backend *b = (fsb_backend *)arg;
    CHECK_EQ(C(STAT, .path = "/"), 0);
    return NULL;
}

static void test_plugin_at_once(void)
{
    enum { N = 6 };
    static fixture f;
    pthread_t      thread[N];
    const fsb_plugin_desc d = {.deadline_ms = 60000, .workers = N};
    for (int round = 0; round < 5; ++round) {
        if (!moody_open(&f, d)) SKIP("plugins were not built");
        hang(&f, 1);
        for (int i = 0; i < N; ++i) pthread_create(&thread[i], NULL, ask_once, f.b);
        EVENTUALLY(NOW(f.mood.calls) == N);
        hang(&f, 0);
        for (int i = 0; i < N; ++i) pthread_join(thread[i], NULL);
        moody_close(&f);
    }
}

/* close() with a call that hangs: it does not wait for ever, and nothing is pulled away. */
static void test_plugin_close_stuck(void)
{
    static fixture f;
    const fsb_plugin_desc d = {.deadline_ms = 20};
    if (!moody_open(&f, d)) SKIP("plugins were not built");
    hang(&f, 1);
    stick(&f, (fsb_op){.code = FSB_OP_STAT, .path = "/"});
    const int64_t begin = now_ms();
    f.b->close(f.b);
    CHECK(now_ms() - begin < 10000);
    CHECK_STR(f.log.item, "plugin/close");
    CHECK_EQ(NOW(f.mood.ended), 0);
    hang(&f, 0);
    EVENTUALLY(NOW(f.m.live) == 0);
    CHECK_EQ(NOW(f.mood.ended), 1);
}

/* The plugin is not asked before its pause is over, and is then, when it answers `result`. */
static void left_alone(fixture *f, int pause_s, int64_t result)
{
    enum { SLOW_S = 400 }; /* nothing here takes so long, on whatever machine */
    fsb_backend *b = f->b;
    const int    calls = NOW(f->mood.calls);
    __atomic_add_fetch(&later_s, pause_s - SLOW_S, __ATOMIC_RELAXED);
    CHECK_EQ(C(STAT, .path = "/"), -EAGAIN);
    CHECK_EQ(NOW(f->mood.calls), calls);
    __atomic_add_fetch(&later_s, SLOW_S, __ATOMIC_RELAXED);
    CHECK_EQ(C(STAT, .path = "/"), result);
    CHECK_EQ(NOW(f->mood.calls), calls + 1);
}

static void test_plugin_breaker(void)
{
    static fixture   f;
    fsb_plugin_stats s;
    const fsb_plugin_desc d = {.deadline_ms = 20000, .failures = 3, .pause_ms = 500000};
    if (!moody_open(&f, d)) SKIP("plugins were not built");
    fsb_backend     *b = f.b;
    const fsb_handle h = open_file(b, "/x", FSB_O_READ);
    fail(&f, -ENOENT); /* an answer */
    for (int i = 0; i < 5; ++i) CHECK_EQ(C(STAT, .path = "/"), -ENOENT);
    fail(&f, -EIO);
    for (int i = 0; i < 2; ++i) CHECK_EQ(C(STAT, .path = "/"), -EIO);
    fail(&f, 0);
    CHECK_EQ(C(STAT, .path = "/"), 0); /* not in a row */
    fail(&f, -EIO);
    for (int i = 0; i < 2; ++i) CHECK_EQ(C(STAT, .path = "/"), -EIO);
    CHECK_EQ(C(STAT, .path = "/"), -EIO);
    CHECK_STR(f.log.item, "plugin/breaker");
    CHECK(strstr(f.log.text, "left alone"));
    CHECK_EQ(C(CLOSE, .handle = h), 0); /* is done all the same, or would be lost */
    EVENTUALLY(NOW(f.mood.closed) == 1);
    left_alone(&f, 500, -EIO); /* the probe */
    fail(&f, 0);
    left_alone(&f, 1000, 0); /* twice the pause */
    CHECK(strstr(f.log.text, "answers again"));
    for (int i = 0; i < 5; ++i) CHECK_EQ(C(STAT, .path = "/"), 0);
    fsb_plugin_stat(b, &s);
    CHECK_EQ(s.opened, 1);
    CHECK_EQ(s.open, 0);
    CHECK_EQ(s.refused, 3); /* one in each pause, and the CLOSE */
    CHECK_EQ(s.failures, 6);
    moody_close(&f);
    __atomic_store_n(&later_s, 0, __ATOMIC_RELAXED);
}

/* ---- answers ---- */

typedef struct seen {
    uint64_t next, stop; /* stop: after so many, for now */
    uint64_t now;
} seen;

static int see_name(fsb_op *op, const fsb_dirent *e)
{
    seen *s = op->user;
    if (s->now++ == s->stop) return 1;
    char name[16];
    snprintf(name, sizeof name, "%llu", (unsigned long long)s->next);
    if (strcmp(name, e->name) != 0 || e->name_size != strlen(name)) CHECK_STR(e->name, name);
    CHECK((e->data != NULL) == (s->next % 2 == 1));
    if (e->data) CHECK(!memcmp(e->data, "abc", 3));
    CHECK((e->folder != NULL) == (s->next % 3 == 0));
    if (e->folder) CHECK_STR(e->folder, "/in");
    CHECK_EQ(e->cookie, s->next + 1);
    ++s->next;
    return 0;
}

static void list_all(fsb_backend *b, uint64_t names, uint64_t stop, int least_calls)
{
    seen s = {.stop = stop};
    int  calls = 0;
    for (int64_t n = 0; n == 0 && calls < 100000; ++calls) {
        s.now = 0;
        n = C(LIST, .path = "/", .offset = s.next, .emit = see_name, .user = &s);
        CHECK(n >= 0);
        if (n < 0) break;
    }
    CHECK_EQ(s.next, names);
    CHECK(calls >= least_calls);
}

static void test_plugin_answers(void)
{
    static fixture f;
    char           buf[8] = "-------";
    const fsb_plugin_desc d = {.failures = UINT32_MAX};
    if (!moody_open(&f, d)) SKIP("plugins were not built");
    fsb_backend *b = f.b;
    f.mood.names = 100;
    list_all(b, 100, UINT64_MAX, 1);
    list_all(b, 100, 7, 14);
    f.mood.names = 20000; /* more than is fetched at once */
    list_all(b, 20000, UINT64_MAX, 2);
    const fsb_handle h = open_file(b, "/x", FSB_O_READ);
    f.mood.too_many = 1; /* bytes than there is room for */
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 4), -EIO);
    CHECK_STR(buf, "-------");
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = FSB_IO_MAX + 1), -EINVAL);
    CHECK_EQ(C(LIST, .path = "/"), -EINVAL);
    moody_close(&f);
}

/* ---- threads ---- */

static struct {
    fixture f;
    int     quit, ended[6]; /* results by kind */
} crowd;

static void *crowd_main(void *arg)
{
    fsb_backend *b = crowd.f.b;
    char         buf[256];
    (void)arg;
    while (!__atomic_load_n(&crowd.quit, __ATOMIC_RELAXED)) {
        memset(buf, '-', sizeof buf);
        int64_t   n = C(OPEN, .path = "/x", .flags = FSB_O_READ);
        const int open = n == 0;
        if (open) n = C(READ, .handle = 5, .buf = buf, .size = sizeof buf);
        CHECK(n != (int64_t)sizeof buf || (buf[0] == 'L' && buf[255] == 'L'));
        if (n < 0) CHECK(buf[0] == '-' && buf[255] == '-');
        if (open) (void)C(CLOSE, .handle = 5);
        CHECK(n == -ETIMEDOUT || n == -EAGAIN || n >= 0);
        __atomic_add_fetch(&crowd.ended[n == -ETIMEDOUT ? 0 : n == -EAGAIN ? 1 : 2], 1,
                           __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_plugin_stress(void)
{
    pthread_t thread[6];
    memset(&crowd, 0, sizeof crowd);
    const fsb_plugin_desc d = {.deadline_ms = 5, .workers = 3, .max_calls = 5, .failures = 4,
                               .pause_ms = 5};
    if (!moody_open(&crowd.f, d)) SKIP("plugins were not built");
    for (int i = 0; i < 6; ++i) pthread_create(&thread[i], NULL, crowd_main, NULL);
    for (int i = 0; i < 40 || (i < 2000 && !(NOW(crowd.ended[0]) && NOW(crowd.ended[2]))); ++i) {
        hang(&crowd.f, i % 2);
        nap(i % 4 == 1 ? 3 : 20);
    }
    hang(&crowd.f, 0);
    __atomic_store_n(&crowd.quit, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 6; ++i) pthread_join(thread[i], NULL);
    CHECK(crowd.ended[0] && crowd.ended[2]);
    crowd.f.b->close(crowd.f.b);
    EVENTUALLY(NOW(crowd.f.m.live) == 0);
    CHECK_EQ(NOW(crowd.f.mood.opened), NOW(crowd.f.mood.closed)); /* late ones too */
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_plugin_example);
    TEST(test_plugin_readme);
    TEST(test_plugin_refused);
    TEST(test_plugin_opens_late);
    TEST(test_plugin_deadline);
    TEST(test_plugin_all_stuck);
    TEST(test_plugin_at_once);
    TEST(test_plugin_close_stuck);
    TEST(test_plugin_breaker);
    TEST(test_plugin_answers);
    TEST(test_plugin_stress);
    return test_end("test_plugin");
}
