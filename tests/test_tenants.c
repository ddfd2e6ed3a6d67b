/* test_tenants.c - tenants: made once, apart from each other, gone when the last use has ended. */
#define FSB_IMPLEMENTATION
#include "fsb_mount.h"
#include "fsb_backend.h"
#include "conformance.h"
#include "test.h"
#include <time.h>

static void nap(int ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

typedef struct lines { /* of a log */
    int  count;
    char item[64], text[512];
} lines;

static void log_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    lines *l = user;
    (void)level;
    ++l->count;
    snprintf(l->item, sizeof l->item, "%s", item);
    snprintf(l->text, sizeof l->text, "%s", text);
}

/* ---- a set whose tenants have a memory backend each, with a file that says whose it is ---- */

typedef struct house {
    int      created, gone;
    int      err;      /* that create() answers */
    uint32_t max_handles, idle_ms;
    uint64_t max_bytes;
    fsb_backend *files; /* instead of one each */
} house;

static int house_create(void *user, fsb_tenant *tenant)
{
    house       *h = user;
    fsb_backend *files = h->files;
    __atomic_add_fetch(&h->created, 1, __ATOMIC_RELAXED);
    if (h->err) return h->err;
    if (!files) {
        CHECK_EQ(fsb_memory_open(&files, NULL), 0);
        CHECK_EQ(fsb_write_file(files, "/who", tenant->name, strlen(tenant->name), 0644), 0);
        tenant->data = files;
    }
    if (h->max_handles) tenant->max_handles = h->max_handles;
    if (h->max_bytes) tenant->max_bytes = h->max_bytes;
    if (h->idle_ms) tenant->idle_ms = h->idle_ms;
    const fsb_bind bind = {.backend = files};
    const int      err = fsb_mounts_add(tenant->mounts, "/", 1, &bind);
    if (err && tenant->data) files->close(files);
    return err;
}

static void house_gone(void *user, fsb_tenant *tenant)
{
    house       *h = user;
    fsb_backend *files = tenant->data;
    __atomic_add_fetch(&h->gone, 1, __ATOMIC_RELAXED);
    if (files) files->close(files); /* which is heard of if anything still used it */
}

static fsb_tenants *house_open(house *h, lines *log, test_memory *m)
{
    fsb_tenants     *t = NULL;
    fsb_tenants_desc d = {.create = house_create, .gone = house_gone, .user = h};
    if (log) d.log = (fsb_logger){log_line, log};
    if (m) d.allocator = (fsb_allocator){test_memory_fn, m};
    CHECK_EQ(fsb_tenants_open(&t, &d), 0);
    return t;
}

static fsb_backend *tenant(fsb_tenants *t, const char *name)
{
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_tenant_backend(&b, t, name), 0);
    return b;
}

static void test_tenants_conformance(void)
{
    house        h = {0};
    test_memory  m = {0};
    fsb_tenants *t = house_open(&h, NULL, &m);
    REQUIRE(t);
    fsb_backend *b = tenant(t, "alice");
    const conformance_traits traits = {.name = "tenant", .can_chown = 1, .has_xattr = 1,
                                       .has_mknod = 1, .has_sparse = 1, .has_punch = 1,
                                       .has_watch = 1};
    CHECK_EQ(C(UNLINK, .path = "/who"), 0);
    conformance_run(b, &traits);
    b->close(b);
    fsb_tenants_close(t);
    CHECK_EQ(h.gone, 1);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

static void who(fsb_backend *b, const char *name)
{
    char buf[300] = "";
    CHECK_EQ(C(GET, .path = "/who", .buf = buf, .size = sizeof buf - 1), (int64_t)strlen(name));
    CHECK_STR(buf, name);
}

static void test_tenants(void)
{
    house        h = {.max_handles = 2};
    lines        log = {0};
    test_memory  m = {0};
    fsb_tenants *t = house_open(&h, &log, &m);
    REQUIRE(t);
    fsb_backend *a = tenant(t, "alice"), *b = tenant(t, "bob"), *again = tenant(t, "alice");
    CHECK(a == again && a != b);
    CHECK_EQ(h.created, 2);
    who(a, "alice");
    who(b, "bob");
    const fsb_handle of_a = conf_open(a, "/who", FSB_O_READ);
    /* another's handle, and guesses: nothing says that they are anybody's, but to the log */
    for (uint32_t code = FSB_OP_STAT; code < FSB_OP_COUNT; ++code) {
        fsb_op op = {.code = code, .handle = of_a};
        if (!fsb_namespace_by_(&op)) continue;
        CHECK_EQ(fsb_backend_call(b, &op), -EBADF);
        CHECK_STR(log.item, "handles/bad");
        CHECK(strstr(log.text, "another owner's"));
    }
    const fsb_handle of_b = conf_open(b, "/who", FSB_O_READ);
    CHECK_EQ(C(COPY, .handle = of_b, .handle2 = of_a, .size64 = 1), -EBADF);
    CHECK(strstr(log.text, "another owner's"));
    const fsb_handle guesses[] = {0, 1, of_b + 1, of_b ^ UINT64_C(2) << 32, UINT64_MAX,
                                  of_b & UINT32_MAX};
    for (size_t i = 0; i < sizeof guesses / sizeof *guesses; ++i) {
        const int before = log.count;
        CHECK_EQ(C(READ, .handle = guesses[i], .size = 1), -EBADF);
        CHECK_EQ(log.count, before + 1);
        CHECK(strstr(log.text, "never given out"));
    }
    CHECK_EQ(C(OPEN, .path = "/../alice/who", .flags = FSB_O_READ), -EINVAL);
    /* a quota of its own, given back by CLOSE */
    (void)conf_open(b, "/who", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/who", .flags = FSB_O_READ), -EMFILE);
    CHECK_STR(log.item, "namespace/full");
    CHECK_EQ(C(CLOSE, .handle = of_b), 0);
    CHECK_EQ(C(CLOSE, .handle = of_b), -EBADF);
    (void)conf_open(b, "/who", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/none", .flags = FSB_O_READ), -EMFILE);
    (void)conf_open(a, "/who", FSB_O_READ);
    a->close(a);
    again->close(again);
    b->close(b);
    b = tenant(t, "alice"); /* closed by all, yet there: with the file that is open */
    CHECK_EQ(h.created, 2);
    CHECK_EQ(C(STAT, .handle = of_a), 0);
    b->close(b);
    CHECK_EQ(h.gone, 0);
    fsb_tenants_close(t); /* with files open */
    CHECK_EQ(h.gone, 2);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

static void test_tenants_names(void)
{
    house        h = {0};
    lines        log = {0};
    fsb_tenants *t = house_open(&h, &log, NULL);
    fsb_backend *b = NULL;
    char         name[300];
    REQUIRE(t);
    const char *const wrong[] = {"", ".", "..", "a/b", "/", "../a"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        CHECK_EQ(fsb_tenant_backend(&b, t, wrong[i]), -EINVAL);
    CHECK_EQ(fsb_tenant_backend(&b, t, NULL), -EINVAL);
    memset(name, 'x', sizeof name);
    name[256] = '\0';
    CHECK_EQ(fsb_tenant_backend(&b, t, name), -ENAMETOOLONG);
    CHECK_EQ(h.created, 0);
    name[255] = '\0';
    CHECK_EQ(fsb_tenant_backend(&b, t, name), 0);
    who(b, name);
    b->close(b);
    name[254] = '\0';
    b = tenant(t, name);
    who(b, name);
    b->close(b);
    h.err = -EACCES;
    CHECK_EQ(fsb_tenant_backend(&b, t, "nobody"), -EACCES);
    CHECK_STR(log.item, "tenants/make");
    CHECK(strstr(log.text, "nobody"));
    CHECK_EQ(fsb_tenants_remove(t, "nobody"), -ENOENT);
    CHECK_EQ(fsb_tenants_remove(t, name), 0);
    CHECK_EQ(fsb_tenants_remove(t, name), -ENOENT);
    CHECK_EQ(h.gone, 1);
    fsb_tenants_close(t);
    CHECK_EQ(h.gone, 2);
}

static int count_tenant(void *user, const fsb_tenant *tenant, const fsb_tenant_stats *stats)
{
    CHECK(tenant->data != NULL);
    CHECK_EQ(stats->calls, 0);
    return ++*(int *)user == 3000 ? -ECANCELED : 0;
}

/* More than the first table of names holds; some go, and the rest is found. */
static void test_tenants_many(void)
{
    enum { N = 3000 };
    house        h = {0};
    test_memory  m = {0};
    fsb_tenants *t = house_open(&h, NULL, &m);
    char         name[32];
    int          n = 0;
    REQUIRE(t);
    for (int i = 0; i < N; ++i) {
        snprintf(name, sizeof name, "tenant-%d", i);
        fsb_backend *b = tenant(t, name);
        if (i % 3 == 0) (void)conf_open(b, "/who", FSB_O_READ);
        b->close(b);
    }
    CHECK_EQ(fsb_tenants_each(t, count_tenant, &n), -ECANCELED);
    CHECK_EQ(n, N);
    for (int i = 0; i < N; i += 2) {
        snprintf(name, sizeof name, "tenant-%d", i);
        CHECK_EQ(fsb_tenants_remove(t, name), 0);
    }
    CHECK_EQ(h.gone, N / 2);
    for (int round = 0; round < 20; ++round) /* names that were removed are in the way no more */
        for (int i = 0; i < 100; ++i) {
            snprintf(name, sizeof name, "passing-%d-%d", round, i);
            fsb_backend *b = tenant(t, name);
            b->close(b);
            CHECK_EQ(fsb_tenants_remove(t, name), 0);
        }
    CHECK(t->table->mask < 16384);
    h.err = -EACCES;
    for (int i = 1; i < N; i += 2) {
        snprintf(name, sizeof name, "tenant-%d", i);
        fsb_backend *b = tenant(t, name);
        REQUIRE(b);
        if (i < 100) who(b, name);
        b->close(b);
    }
    fsb_tenants_close(t);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(h.gone, N + 2000);
}

/* ---- a backend whose READ waits until it is let go ---- */

typedef struct slow {
    fsb_backend     base;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    int             reading, open, go;
} slow;

static int64_t slow_open(fsb_backend *b, fsb_op *op)
{
    slow *s = (slow *)b;
    pthread_mutex_lock(&s->lock);
    ++s->open;
    pthread_mutex_unlock(&s->lock);
    op->handle = 7;
    return op->result = 0;
}

static int64_t slow_close(fsb_backend *b, fsb_op *op)
{
    slow *s = (slow *)b;
    pthread_mutex_lock(&s->lock);
    --s->open;
    pthread_mutex_unlock(&s->lock);
    return op->result = 0;
}

static int64_t slow_read(fsb_backend *b, fsb_op *op)
{
    slow *s = (slow *)b;
    pthread_mutex_lock(&s->lock);
    ++s->reading;
    pthread_cond_broadcast(&s->changed);
    while (!s->go) pthread_cond_wait(&s->changed, &s->lock);
    --s->reading;
    pthread_mutex_unlock(&s->lock);
    return op->result = (int64_t)op->size;
}

static void slow_begin(slow *s)
{
    memset(s, 0, sizeof *s);
    s->base.size = sizeof s->base;
    s->base.call[FSB_OP_OPEN] = slow_open, s->base.call[FSB_OP_CLOSE] = slow_close;
    s->base.call[FSB_OP_READ] = slow_read;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
}

static void slow_go(slow *s, int go)
{
    pthread_mutex_lock(&s->lock);
    s->go = go;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

typedef struct reader {
    fsb_backend *b;
    fsb_handle   handle;
    size_t       size;
    int64_t      result;
    pthread_t    thread;
} reader;

static void *reader_main(void *arg)
{
    reader *r = arg;
    fsb_op  op = {.code = FSB_OP_READ, .handle = r->handle, .size = r->size};
    r->result = fsb_backend_call(r->b, &op);
    return NULL;
}

static void reader_start(reader *r, slow *s, fsb_backend *b, fsb_handle handle, size_t size)
{
    *r = (reader){.b = b, .handle = handle, .size = size};
    pthread_create(&r->thread, NULL, reader_main, r);
    pthread_mutex_lock(&s->lock);
    while (!s->reading) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

static int see_tenant(void *user, const fsb_tenant *tenant, const fsb_tenant_stats *stats)
{
    (void)tenant;
    *(fsb_tenant_stats *)user = *stats;
    return 0;
}

static void test_tenants_bytes(void)
{
    slow             s;
    reader           r;
    fsb_tenant_stats stats;
    slow_begin(&s);
    house        h = {.max_bytes = 1000, .files = &s.base};
    fsb_tenants *t = house_open(&h, NULL, NULL);
    REQUIRE(t);
    fsb_backend *b = tenant(t, "a"), *other = tenant(t, "b");
    const fsb_handle f = conf_open(b, "/f", FSB_O_READ), g = conf_open(other, "/f", FSB_O_READ);
    reader_start(&r, &s, b, f, 600);
    CHECK_EQ(C(READ, .handle = f, .size = 401), -EAGAIN);
    CHECK_EQ(fsb_tenants_each(t, see_tenant, &stats), 0); /* the last: b's */
    CHECK_EQ(fsb_tenants_remove(t, "b"), 0);              /* now only a's */
    CHECK_EQ(fsb_tenants_each(t, see_tenant, &stats), 0);
    CHECK_EQ(stats.calls, 1);
    CHECK_EQ(stats.bytes, 600);
    CHECK_EQ(stats.handles, 1);
    CHECK_EQ(stats.refused_bytes, 1);
    slow_go(&s, 1);
    CHECK_EQ(C(READ, .handle = f, .size = 400), 400);
    pthread_join(r.thread, NULL);
    CHECK_EQ(r.result, 600);
    CHECK_EQ(C(READ, .handle = f, .size = 5000), 5000); /* alone */
    fsb_op op = {.code = FSB_OP_READ, .handle = g, .size = 1};
    CHECK_EQ(fsb_backend_call(other, &op), -ENODEV);
    other->close(other);
    b->close(b);
    fsb_tenants_close(t);
    CHECK_EQ(s.open, 0);
    CHECK_EQ(h.gone, 2);
}

static void test_tenants_removed_in_use(void)
{
    slow         s;
    reader       r;
    test_memory  m = {0};
    slow_begin(&s);
    house        h = {.files = &s.base};
    fsb_tenants *t = house_open(&h, NULL, &m);
    REQUIRE(t);
    fsb_backend *b = tenant(t, "a");
    const fsb_handle f = conf_open(b, "/f", FSB_O_READ), idle = conf_open(b, "/g", FSB_O_READ);
    reader_start(&r, &s, b, f, 1);
    CHECK_EQ(fsb_tenants_remove(t, "a"), 1);
    CHECK_EQ(s.open, 1); /* the one that is being read */
    CHECK_EQ(h.gone, 0);
    CHECK_EQ(C(READ, .handle = f, .size = 1), -ENODEV);
    CHECK_EQ(C(READ, .handle = idle, .size = 1), -ENODEV);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ), -ENODEV);
    fsb_backend *fresh = tenant(t, "a"); /* another of that name, meanwhile */
    CHECK(fresh != b);
    CHECK_EQ(h.created, 2);
    fsb_op op = {.code = FSB_OP_READ, .handle = f, .size = 1};
    CHECK_EQ(fsb_backend_call(fresh, &op), -EBADF);
    slow_go(&s, 1);
    pthread_join(r.thread, NULL);
    CHECK_EQ(r.result, 1);
    CHECK_EQ(s.open, 0);
    CHECK_EQ(h.gone, 1);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ), -ENODEV); /* still held */
    b->close(b);
    fresh->close(fresh);
    fsb_tenants_close(t);
    CHECK_EQ(h.gone, 2);
    CHECK_EQ(m.live, 0);
}

static void test_tenants_idle(void)
{
    house        h = {.idle_ms = 500};
    fsb_tenants *t = house_open(&h, NULL, NULL);
    REQUIRE(t);
    fsb_backend *b = tenant(t, "a");
    const fsb_handle idle = conf_open(b, "/who", FSB_O_READ);
    const fsb_handle used = conf_open(b, "/who", FSB_O_READ);
    CHECK_EQ(fsb_handles_sweep(fsb_tenants_handles(t), NULL, 0), 0);
    nap(550);
    CHECK_EQ(C(STAT, .handle = used), 0);
    CHECK_EQ(fsb_handles_sweep(fsb_tenants_handles(t), NULL, 0), 1);
    CHECK_EQ(C(STAT, .handle = idle), -EBADF);
    CHECK_EQ(C(STAT, .handle = used), 0);
    b->close(b);
    fsb_tenants_close(t);
}

/* ---- submitted: a backend that has threads of its own, which must never wait for it ---- */

enum { PORT_THREADS = 2, MANY = 200 };
typedef struct port {
    fsb_backend     base;
    fsb_backend    *inner; /* memory */
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    fsb_op         *queue; /* linked by next */
    int             queued, sent, hold, quit; /* hold: nothing is taken off the queue */
    int             open;
    pthread_t       thread[PORT_THREADS];
} port;

static int64_t port_inner(port *p, fsb_op *op)
{
    const int64_t n = fsb_backend_call(p->inner, op);
    const int     opened = op->code == FSB_OP_OPEN || op->code == FSB_OP_WATCH;
    if (n >= 0 && opened) __atomic_add_fetch(&p->open, 1, __ATOMIC_RELAXED);
    if (op->code == FSB_OP_CLOSE) __atomic_sub_fetch(&p->open, 1, __ATOMIC_RELAXED);
    return n;
}

static int64_t port_call(fsb_backend *b, fsb_op *op)
{
    port *p = (port *)b;
    for (int i = 0; i < PORT_THREADS; ++i) CHECK(!pthread_equal(pthread_self(), p->thread[i]));
    return port_inner(p, op);
}

static void port_submit(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    port *p = (port *)b;
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < n; ++i) ops[i]->next = p->queue, p->queue = ops[i];
    p->queued += (int)n, p->sent += (int)n;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void port_cancel(fsb_backend *b, fsb_op *op)
{
    port *p = (port *)b;
    pthread_mutex_lock(&p->lock);
    fsb_op **at = &p->queue;
    while (*at && *at != op) at = &(*at)->next;
    const int found = *at == op;
    if (found) *at = op->next, --p->queued;
    pthread_mutex_unlock(&p->lock);
    if (!found) return;
    op->result = -EINTR;
    op->done(op);
}

static void *port_main(void *arg)
{
    port *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->quit && (p->hold || !p->queue)) pthread_cond_wait(&p->changed, &p->lock);
        if (p->quit) break;
        fsb_op *op = p->queue;
        p->queue = op->next, --p->queued;
        pthread_mutex_unlock(&p->lock);
        port_inner(p, op);
        op->done(op);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void port_begin(port *p)
{
    memset(p, 0, sizeof *p);
    CHECK_EQ(fsb_memory_open(&p->inner, NULL), 0);
    CHECK_EQ(fsb_write_file(p->inner, "/f", "file", 4, 0644), 0);
    p->base.size = sizeof p->base, p->base.submit = port_submit, p->base.cancel = port_cancel;
    for (int i = 1; i < FSB_OP_COUNT; ++i) p->base.call[i] = port_call;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    for (int i = 0; i < PORT_THREADS; ++i) pthread_create(&p->thread[i], NULL, port_main, p);
}

static void port_hold(port *p, int hold)
{
    pthread_mutex_lock(&p->lock);
    p->hold = hold;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void port_end(port *p)
{
    pthread_mutex_lock(&p->lock);
    p->quit = 1;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < PORT_THREADS; ++i) pthread_join(p->thread[i], NULL);
    CHECK_EQ(p->queued, 0);
    CHECK_EQ(p->open, 0);
    p->inner->close(p->inner);
}

/* An op that somebody waits for. */
typedef struct sent {
    fsb_op op; /* first */
    int    dones;
    char   path[16], buf[1000];
} sent;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  changed;
} sends = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};

static void sent_done(fsb_op *op)
{
    pthread_mutex_lock(&sends.lock);
    ++((sent *)op)->dones;
    pthread_cond_broadcast(&sends.changed);
    pthread_mutex_unlock(&sends.lock);
}

static int64_t sent_wait(sent *s)
{
    pthread_mutex_lock(&sends.lock);
    while (!s->dones) pthread_cond_wait(&sends.changed, &sends.lock);
    pthread_mutex_unlock(&sends.lock);
    CHECK_EQ(s->dones, 1);
    return s->op.result;
}

static sent *send_op(fsb_backend *b, sent *s, fsb_op op)
{
    fsb_op *const one = &s->op;
    memset(s, 0, sizeof *s);
    s->op = op, s->op.done = sent_done;
    b->submit(b, &one, 1);
    return s;
}

static sent *send_read(fsb_backend *b, sent *s, fsb_handle handle, size_t size)
{
    return send_op(b, s, (fsb_op){.code = FSB_OP_READ, .handle = handle, .size = size,
                                  .buf = s->buf});
}

/* A backend whose calls are submitted to another one, and waited for. */
typedef struct patient {
    fsb_backend  base;
    fsb_backend *inner;
} patient;

static int64_t patient_call(fsb_backend *b, fsb_op *op)
{
    sent         s;
    fsb_backend *inner = ((patient *)b)->inner;
    fsb_op      *one = &s.op;
    void (*const done)(fsb_op *op) = op->done;
    s.op = *op, s.op.done = sent_done, s.dones = 0;
    inner->submit(inner, &one, 1);
    sent_wait(&s);
    *op = s.op, op->done = done;
    return op->result;
}

static void test_submit_conformance(void)
{
    port         p;
    patient      w = {.base = {.size = sizeof w.base, .name = "patient"}};
    test_memory  m = {0};
    house        h = {0};
    fsb_workers *workers = NULL;
    fsb_tenants *t = NULL;
    port_begin(&p);
    CHECK_EQ(fsb_workers_open(&workers, NULL), 0);
    h.files = &p.base;
    fsb_tenants_desc d = {.create = house_create, .gone = house_gone, .user = &h,
                          .runner = fsb_workers_runner(workers),
                          .allocator = {test_memory_fn, &m}};
    REQUIRE(fsb_tenants_open(&t, &d) == 0);
    w.inner = tenant(t, "alice");
    for (int i = 1; i < FSB_OP_COUNT; ++i) w.base.call[i] = patient_call;
    const conformance_traits traits = {.name = "submitted", .can_chown = 1, .has_xattr = 1,
                                       .has_mknod = 1, .has_sparse = 1, .has_punch = 1,
                                       .has_watch = 1};
    fsb_op unlink = {.code = FSB_OP_UNLINK, .path = "/f"};
    CHECK_EQ(fsb_backend_call(&w.base, &unlink), 0);
    conformance_run(&w.base, &traits);
    CHECK(p.sent > 100);
    w.inner->close(w.inner);
    fsb_tenants_close(t);
    fsb_workers_close(workers);
    CHECK_EQ(h.gone, 1);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
    port_end(&p);
}

/* Of 200 ops half are one backend's that has submit(), half another's that has not; one mount
   point is a union. */
static void submit_many(fsb_backend *b, port *p, fsb_mounts *mounts)
{
    static sent  all[MANY];
    fsb_op      *ops[MANY];
    memset(all, 0, sizeof all);
    for (int i = 0; i < MANY; ++i) {
        sent *s = &all[i];
        snprintf(s->path, sizeof s->path, "%s/f", i % 2 ? "/plain" : i % 10 ? "/port" : "/both");
        s->op = (fsb_op){.code = FSB_OP_GET, .path = s->path, .buf = s->buf,
                         .size = sizeof s->buf, .done = sent_done};
        ops[i] = &s->op;
    }
    port_hold(p, 1);
    p->sent = 0;
    b->submit(b, ops, MANY);
    CHECK_EQ(p->sent, MANY * 4 / 10); /* on their way at once */
    CHECK_EQ(fsb_mounts_remove(mounts, "/port", NULL), -EBUSY);
    port_hold(p, 0);
    for (int i = 0; i < MANY; ++i) {
        CHECK_EQ(sent_wait(&all[i]), i % 2 ? 5 : 4);
        CHECK_STR(all[i].buf, i % 2 ? "plain" : "file");
    }
}

static void submit_handles(fsb_backend *b, port *p, fsb_handles *handles)
{
    sent open, one, two, stat;
    CHECK_EQ(sent_wait(send_op(b, &open, (fsb_op){.code = FSB_OP_OPEN, .path = "/port/f",
                                                  .flags = FSB_O_READ})), 0);
    CHECK_EQ(p->open, 1);
    for (int i = 0; i < 300; ++i) { /* done and cancelled at once: it ends one way, once */
        port_hold(p, i % 2);
        send_op(b, &two, (fsb_op){.code = FSB_OP_STAT, .path = "/port/f"});
        b->cancel(b, &two.op);
        const int64_t n = sent_wait(&two);
        CHECK(n == -EINTR || (n == 0 && i % 2 == 0));
    }
    port_hold(p, 1);
    send_read(b, &one, open.op.handle, 8);
    send_read(b, &two, open.op.handle, 8);
    b->cancel(b, &two.op);
    CHECK_EQ(sent_wait(&two), -EINTR);
    CHECK_EQ(fsb_handles_release(handles, 1), 1); /* what is being read is closed behind that */
    CHECK_EQ(sent_wait(send_op(b, &stat, (fsb_op){.code = FSB_OP_STAT,
                                                  .handle = open.op.handle})), -EBADF);
    CHECK_EQ(p->open, 1);
    port_hold(p, 0);
    CHECK_EQ(sent_wait(&one), 4);
    CHECK_EQ(p->open, 0);
    CHECK_EQ(sent_wait(send_op(b, &open, (fsb_op){.code = FSB_OP_OPEN, .path = "/port/none",
                                                  .flags = FSB_O_READ})), -ENOENT);
    CHECK_EQ(sent_wait(send_op(b, &open, (fsb_op){.code = FSB_OP_OPEN, .path = "/port/f",
                                                  .flags = FSB_O_READ})), 0);
    CHECK_EQ(sent_wait(send_op(b, &one, (fsb_op){.code = FSB_OP_CLOSE,
                                                 .handle = open.op.handle})), 0);
    CHECK_EQ(sent_wait(send_op(b, &one, (fsb_op){.code = FSB_OP_CLOSE,
                                                 .handle = open.op.handle})), -EBADF);
    CHECK_EQ(sent_wait(send_op(b, &one, (fsb_op){.code = FSB_OP_STAT, .path = "/.."})), -EINVAL);
    CHECK_EQ(sent_wait(send_op(b, &one, (fsb_op){.code = FSB_OP_STAT, .path = "/none"})), -ENOENT);
    CHECK_EQ(p->open, 0);
}

static void test_submit(void)
{
    port         p;
    test_memory  m = {0};
    fsb_backend *plain = NULL, *b = NULL;
    fsb_mounts  *mounts = NULL;
    fsb_handles *handles = NULL;
    fsb_workers *workers = NULL;
    port_begin(&p);
    CHECK_EQ(fsb_memory_open(&plain, NULL), 0);
    CHECK_EQ(fsb_write_file(plain, "/f", "plain", 5, 0644), 0);
    CHECK_EQ(fsb_workers_open(&workers, NULL), 0);
    REQUIRE(fsb_mounts_open(&mounts, NULL) == 0);
    CHECK_EQ(fsb_handles_open(&handles, &(fsb_handles_desc){.release = fsb_namespace_release}), 0);
    const fsb_bind to_port = {.backend = &p.base}, to_plain = {.backend = plain};
    const fsb_bind after = {.backend = plain, .flags = FSB_BIND_AFTER};
    CHECK_EQ(fsb_mounts_add(mounts, "/port", 5, &to_port), 0);
    CHECK_EQ(fsb_mounts_add(mounts, "/plain", 6, &to_plain), 0);
    CHECK_EQ(fsb_mounts_add(mounts, "/both", 5, &to_port), 0);
    CHECK_EQ(fsb_mounts_add(mounts, "/both", 5, &after), 0);
    const fsb_namespace_desc d = {.mounts = mounts, .handles = handles,
                                  .runner = fsb_workers_runner(workers),
                                  .allocator = {test_memory_fn, &m}};
    REQUIRE(fsb_namespace_backend(&b, &d) == 0);
    submit_many(b, &p, mounts);
    submit_handles(b, &p, handles);
    sent s; /* no memory */
    m.calls = 0, m.fail_at = 1;
    CHECK_EQ(sent_wait(send_op(b, &s, (fsb_op){.code = FSB_OP_STAT, .path = "/port/f"})), -ENOMEM);
    m.fail_at = 0;
    CHECK_EQ(fsb_mounts_remove(mounts, "/port", NULL), 0);
    b->close(b);
    CHECK_EQ(m.live, 0);
    fsb_handles_close(handles);
    fsb_mounts_close(mounts);
    fsb_workers_close(workers);
    plain->close(plain);
    port_end(&p);
}

static void test_submit_quotas(void)
{
    port             p;
    sent             open, one, two, three;
    fsb_tenant_stats stats;
    fsb_workers     *workers = NULL;
    fsb_tenants     *t = NULL;
    port_begin(&p);
    CHECK_EQ(fsb_workers_open(&workers, NULL), 0);
    house            h = {.max_bytes = 1000, .max_handles = 1, .files = &p.base};
    fsb_tenants_desc d = {.create = house_create, .gone = house_gone, .user = &h,
                          .runner = fsb_workers_runner(workers)};
    REQUIRE(fsb_tenants_open(&t, &d) == 0);
    fsb_backend *b = tenant(t, "a");
    const fsb_op ask = {.code = FSB_OP_OPEN, .path = "/f", .flags = FSB_O_READ};
    CHECK_EQ(sent_wait(send_op(b, &open, ask)), 0);
    CHECK_EQ(sent_wait(send_op(b, &one, ask)), -EMFILE);
    port_hold(&p, 1);
    send_read(b, &one, open.op.handle, 600);
    CHECK_EQ(sent_wait(send_read(b, &two, open.op.handle, 401)), -EAGAIN);
    send_read(b, &two, open.op.handle, 400);
    CHECK_EQ(fsb_tenants_each(t, see_tenant, &stats), 0);
    CHECK_EQ(stats.calls, 2);
    CHECK_EQ(stats.bytes, 1000);
    CHECK_EQ(stats.handles, 1);
    CHECK_EQ(stats.done, 3);
    CHECK_EQ(stats.refused_handles, 1);
    CHECK_EQ(stats.refused_bytes, 1);
    port_hold(&p, 0);
    CHECK_EQ(sent_wait(&one), 4);
    CHECK_EQ(sent_wait(&two), 4);
    CHECK_EQ(fsb_tenants_each(t, see_tenant, &stats), 0);
    CHECK_EQ(stats.calls + stats.bytes, 0);
    CHECK_EQ(stats.done, 5);
    port_hold(&p, 1); /* removed while two are on their way */
    send_read(b, &one, open.op.handle, 600);
    send_read(b, &two, open.op.handle, 400);
    CHECK_EQ(fsb_tenants_remove(t, "a"), 1);
    CHECK_EQ(sent_wait(send_read(b, &three, open.op.handle, 1)), -ENODEV);
    CHECK_EQ(h.gone, 0);
    port_hold(&p, 0);
    CHECK_EQ(sent_wait(&one), 4);
    CHECK_EQ(sent_wait(&two), 4);
    CHECK_EQ(__atomic_load_n(&h.gone, __ATOMIC_RELAXED), 1);
    b->close(b);
    b = tenant(t, "b"); /* and while it opens a file, which nobody would close */
    port_hold(&p, 1);
    send_op(b, &open, ask);
    CHECK_EQ(fsb_tenants_remove(t, "b"), 1);
    port_hold(&p, 0);
    CHECK_EQ(sent_wait(&open), 0);
    CHECK_EQ(p.open, 0);
    CHECK_EQ(__atomic_load_n(&h.gone, __ATOMIC_RELAXED), 2);
    b->close(b);
    fsb_tenants_close(t);
    fsb_workers_close(workers);
    port_end(&p);
}

/* ---- made once ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    int             created, waits, go, err;
} once = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0};

static int once_create(void *user, fsb_tenant *tenant)
{
    house fast = {0};
    (void)user;
    if (strcmp(tenant->name, "slow") != 0) return house_create(&fast, tenant);
    pthread_mutex_lock(&once.lock);
    ++once.created, once.waits = 1;
    pthread_cond_broadcast(&once.changed);
    while (!once.go) pthread_cond_wait(&once.changed, &once.lock);
    pthread_mutex_unlock(&once.lock);
    return once.err ? once.err : house_create(&fast, tenant);
}

typedef struct asker {
    fsb_tenants *t;
    int          err;
    fsb_backend *b;
    pthread_t    thread;
} asker;

static void *asker_main(void *arg)
{
    asker *a = arg;
    a->err = fsb_tenant_backend(&a->b, a->t, "slow");
    return NULL;
}

static int waiting_in(fsb_tenants *t) /* for one that is being made */
{
    pthread_mutex_lock(&t->lock);
    const int waiting = t->making ? (int)t->making->waiting : 0;
    pthread_mutex_unlock(&t->lock);
    return waiting;
}

static void once_run(fsb_tenants *t, int err)
{
    asker a[6];
    once.created = once.waits = once.go = 0, once.err = err;
    for (int i = 0; i < 6; ++i) {
        a[i] = (asker){.t = t};
        pthread_create(&a[i].thread, NULL, asker_main, &a[i]);
    }
    pthread_mutex_lock(&once.lock);
    while (!once.waits) pthread_cond_wait(&once.changed, &once.lock);
    pthread_mutex_unlock(&once.lock);
    /* nobody else waits for it: not who asks for one that exists, or for another new one */
    fsb_backend *b = tenant(t, "old");
    who(b, "old");
    b->close(b);
    b = tenant(t, err ? "new" : "newer");
    b->close(b);
    CHECK_EQ(fsb_tenants_remove(t, "slow"), -ENOENT);
    EVENTUALLY(waiting_in(t) == 5);
    pthread_mutex_lock(&once.lock);
    once.go = 1;
    pthread_cond_broadcast(&once.changed);
    pthread_mutex_unlock(&once.lock);
    for (int i = 0; i < 6; ++i) {
        pthread_join(a[i].thread, NULL);
        CHECK_EQ(a[i].err, err);
        CHECK(err || a[i].b == a[0].b);
        if (!a[i].err) a[i].b->close(a[i].b);
    }
    CHECK_EQ(once.created, 1);
}

static void test_tenants_made_once(void)
{
    house            h = {0};
    fsb_tenants     *t = NULL;
    fsb_tenants_desc d = {.create = once_create, .gone = house_gone, .user = &h};
    REQUIRE(fsb_tenants_open(&t, &d) == 0);
    fsb_backend *b = tenant(t, "old");
    b->close(b);
    once_run(t, -EHOSTUNREACH);
    once_run(t, 0);
    CHECK_EQ(fsb_tenants_remove(t, "slow"), 0);
    fsb_tenants_close(t);
    CHECK_EQ(h.gone, 4);
}

/* Every allocation fails once; nothing is lost. */
static void test_tenants_no_memory(void)
{
    fsb_backend *files = NULL;
    CHECK_EQ(fsb_memory_open(&files, NULL), 0);
    CHECK_EQ(fsb_write_file(files, "/who", "w", 1, 0644), 0);
    for (uint64_t k = 1; k < 200; ++k) {
        test_memory      m = {.fail_at = k};
        house            h = {.files = files};
        fsb_tenants     *t = NULL;
        fsb_tenants_desc d = {.create = house_create, .gone = house_gone, .user = &h,
                              .allocator = {test_memory_fn, &m}};
        fsb_backend     *b = NULL;
        int              err = fsb_tenants_open(&t, &d);
        for (int i = 0; !err && i < 40; ++i) { /* the table of names grows */
            char name[16];
            snprintf(name, sizeof name, "%d", i);
            err = fsb_tenant_backend(&b, t, name);
            if (!err) err = (int)C(OPEN, .path = "/who", .flags = FSB_O_READ);
            if (b) b->close(b);
            b = NULL;
        }
        fsb_tenants_close(t);
        CHECK(h.gone <= h.created); /* fewer where create() itself had no memory */
        CHECK_EQ(m.live, 0);
        CHECK_EQ(m.wrong_size, 0);
        if (!err && m.calls < k) break;
        CHECK(err == -ENOMEM || m.calls >= k);
    }
    files->close(files);
}

/* ---- threads that use and remove them ---- */

enum { NAMES = 3 };
static struct {
    fsb_tenants *t;
    int          quit;
    fsb_handle   seen[NAMES]; /* somebody's open file */
    uint64_t     used, removed;
} storm;

static void storm_use(fsb_backend *b, unsigned i, uint64_t seed)
{
    char buf[16] = "";
    if (C(OPEN, .path = "/who", .flags = FSB_O_READ) == 0) {
        const fsb_handle mine = conf_op.handle;
        __atomic_store_n(&storm.seen[i], mine, __ATOMIC_RELAXED);
        if (C(READ, .handle = mine, .buf = buf, .size = 15) > 0) {
            CHECK_EQ(atoi(buf), i);
            __atomic_add_fetch(&storm.used, 1, __ATOMIC_RELAXED);
        }
        if (seed & 1) (void)C(CLOSE, .handle = mine);
    }
    /* a handle of another, or of one that had this name: it is never that one's file */
    const fsb_handle other = __atomic_load_n(&storm.seen[(i + 1) % NAMES], __ATOMIC_RELAXED);
    if (other) CHECK(C(READ, .handle = other, .buf = buf, .size = 15) < 0);
}

static void *storm_main(void *arg)
{
    uint64_t seed = 88172645463325252u + (uintptr_t)arg;
    char     name[4];
    for (int n = 0; n < 20000 && !__atomic_load_n(&storm.quit, __ATOMIC_RELAXED); ++n) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        const unsigned i = (unsigned)(seed >> 32) % NAMES;
        fsb_backend   *b = NULL;
        snprintf(name, sizeof name, "%u", i);
        if ((seed & 63) == 0) {
            if (fsb_tenants_remove(storm.t, name) >= 0)
                __atomic_add_fetch(&storm.removed, 1, __ATOMIC_RELAXED);
            continue;
        }
        CHECK_EQ(fsb_tenant_backend(&b, storm.t, name), 0);
        if (!b) return NULL;
        for (int k = 0; k < 4; ++k) storm_use(b, i, seed >> k);
        b->close(b);
    }
    return NULL;
}

static void test_tenants_stress(void)
{
    house       h = {.idle_ms = 1};
    test_memory m = {0};
    pthread_t   thread[4];
    fsb_tenants_desc d = {.create = house_create, .gone = house_gone, .user = &h, .sweep_ms = 1,
                          .allocator = {test_memory_fn, &m}};
    memset(&storm, 0, sizeof storm);
    REQUIRE(fsb_tenants_open(&storm.t, &d) == 0);
    for (uintptr_t i = 0; i < 4; ++i) pthread_create(&thread[i], NULL, storm_main, (void *)i);
    nap(1500);
    EVENTUALLY(__atomic_load_n(&storm.used, __ATOMIC_RELAXED) > 100 &&
               __atomic_load_n(&storm.removed, __ATOMIC_RELAXED) > 1);
    __atomic_store_n(&storm.quit, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; ++i) pthread_join(thread[i], NULL);
    fsb_tenants_close(storm.t);
    CHECK(storm.used > 100 && storm.removed > 1);
    CHECK_EQ(h.created, h.gone);
    CHECK_EQ(m.live, 0);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_tenants_conformance);
    TEST(test_tenants);
    TEST(test_tenants_names);
    TEST(test_tenants_many);
    TEST(test_tenants_bytes);
    TEST(test_tenants_removed_in_use);
    TEST(test_tenants_idle);
    TEST(test_submit_conformance);
    TEST(test_submit);
    TEST(test_submit_quotas);
    TEST(test_tenants_made_once);
    TEST(test_tenants_no_memory);
    TEST(test_tenants_stress);
    return test_end("test_tenants");
}
