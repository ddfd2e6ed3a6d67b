/* test_pool.c - the pool: limits, order, health, leases; and backends that are borrowed. */
#define FSB_POOL_IMPLEMENTATION
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_pool.h"
#include "fsb_backend.h"
#include "conformance.h"
#include <time.h>

/* What is pooled here: a thing that knows whether two use it at once. */
typedef struct thing {
    int  users, broken, uses, gone; /* gone: no more counted as alive */
    char key[16];
} thing;

typedef struct world {
    int opened, closed, checked, now, most; /* now and most: things alive */
    int opening, most_opening;
    int fail;
    int gather; /* who opens waits until so many wait for it, later ones for company */
    fsb_pool *pool;
    pthread_mutex_t lock;
} world;

static fsb_pool_stats stats_of(fsb_pool *p)
{
    fsb_pool_stats s;
    fsb_pool_get_stats(p, &s);
    return s;
}

static int open_thing(void *user, const char *key, uint32_t timeout_ms, void **out)
{
    world *w = user;
    CHECK(timeout_ms > 0);
    const int at_once = __atomic_add_fetch(&w->opening, 1, __ATOMIC_SEQ_CST);
    if (at_once > __atomic_load_n(&w->most_opening, __ATOMIC_SEQ_CST))
        __atomic_store_n(&w->most_opening, at_once, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&w->gather, __ATOMIC_SEQ_CST)) {
        const int all = __atomic_exchange_n(&w->gather, 1, __ATOMIC_SEQ_CST);
        if (all > 1) EVENTUALLY(stats_of(w->pool).waiting == (uint32_t)all);
        else EVENTUALLY(__atomic_load_n(&w->most_opening, __ATOMIC_SEQ_CST) > 1);
    }
    __atomic_sub_fetch(&w->opening, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&w->lock);
    ++w->opened;
    const int fail = w->fail;
    if (!fail && ++w->now > w->most) w->most = w->now;
    pthread_mutex_unlock(&w->lock);
    if (fail) return fail;
    thing *t = calloc(1, sizeof *t);
    snprintf(t->key, sizeof t->key, "%s", key);
    *out = t;
    return 0;
}

static void close_thing(void *user, const char *key, void *arg)
{
    world *w = user;
    thing *t = arg;
    CHECK_STR(t->key, key);
    CHECK_EQ(t->users, 0);
    pthread_mutex_lock(&w->lock);
    ++w->closed, w->now -= !t->gone;
    pthread_mutex_unlock(&w->lock);
    free(t);
}

static int check_thing(void *user, const char *key, void *arg)
{
    world *w = user;
    (void)key;
    pthread_mutex_lock(&w->lock);
    ++w->checked;
    pthread_mutex_unlock(&w->lock);
    return ((thing *)arg)->broken ? -EPIPE : 0;
}

static fsb_pool *make(world *w, fsb_pool_desc d)
{
    fsb_pool *p = NULL;
    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    d.open = open_thing, d.close = close_thing, d.user = w;
    CHECK_EQ(fsb_pool_open(&p, &d), 0);
    return p;
}

static void end(fsb_pool *p, world *w)
{
    fsb_pool_close(p);
    CHECK_EQ(w->now, 0); /* whatever was opened is closed, once */
}

static void test_desc(void)
{
    fsb_pool *p = NULL;
    CHECK_EQ(fsb_pool_open(&p, NULL), -EINVAL);
    CHECK_EQ(fsb_pool_open(&p, &(fsb_pool_desc){0}), -EINVAL);
    CHECK_EQ(fsb_pool_open(&p, &(fsb_pool_desc){.open = open_thing, .close = close_thing,
                                                .max_total = UINT32_MAX}), -EINVAL);
    fsb_pool_close(NULL);
}

static void test_lend_and_reuse(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){0});
    fsb_lease a, b;
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &b), 0);
    CHECK(a.thing == b.thing && a.id != b.id);
    CHECK_EQ(w.opened, 1);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_KEEP), -EBADF); /* the old lease of the same thing */
    CHECK_EQ(stats_of(p).lent, 1);
    CHECK_EQ(fsb_pool_release(p, b, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_release(p, b, FSB_POOL_KEEP), -EBADF);
    CHECK_EQ(fsb_pool_release(p, (fsb_lease){0}, FSB_POOL_KEEP), -EBADF);
    CHECK_EQ(fsb_pool_release(p, (fsb_lease){UINT64_MAX, NULL}, FSB_POOL_KEEP), -EBADF);
    CHECK_EQ(stats_of(p).refused, 4);
    CHECK_EQ(stats_of(p).idle, 1);
    CHECK_EQ(stats_of(p).hits, 1);
    end(p, &w);
}

static void test_limits(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.max_per_key = 2, .max_total = 3});
    fsb_lease a, b, c, d;
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &b), 0);
    CHECK_EQ(fsb_pool_acquire(p, "one", 30, &c), -ETIMEDOUT); /* of the key */
    CHECK_EQ(fsb_pool_acquire(p, "two", 0, &c), 0);
    CHECK_EQ(fsb_pool_acquire(p, "three", 30, &d), -ETIMEDOUT); /* of all */
    CHECK_EQ(stats_of(p).timed_out, 2);
    CHECK_EQ(fsb_pool_release(p, c, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_acquire(p, "three", 0, &d), 0); /* the idle one of "two" makes room */
    CHECK_EQ(stats_of(p).evicted, 1);
    CHECK_EQ(stats_of(p).keys, 2);
    CHECK_EQ(w.most, 3);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_release(p, b, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_release(p, d, FSB_POOL_KEEP), 0);
    end(p, &w);
}

static void age(fsb_pool *p, int64_t ms) /* of its first thing */
{
    pthread_mutex_lock(&p->lock);
    p->slots[0].since -= ms;
    pthread_mutex_unlock(&p->lock);
}

static void test_idle(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.idle_ms = 500000});
    fsb_lease a;
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_sweep(p), 0);
    age(p, 300000);
    CHECK_EQ(fsb_pool_sweep(p), 0);
    age(p, 200000);
    CHECK_EQ(fsb_pool_sweep(p), 1);
    CHECK_EQ(w.now, 0);
    CHECK_EQ(stats_of(p).keys, 0);
    end(p, &w);
    p = make(&w, (fsb_pool_desc){.idle_ms = 20, .sweep_ms = 10});
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    usleep(60000); /* what is lent is not idle */
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_KEEP), 0);
    EVENTUALLY(stats_of(p).swept != 0);
    CHECK_EQ(stats_of(p).swept, 1);
    end(p, &w);
}

static void test_health(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.check = check_thing, .check_ms = 1000000});
    fsb_lease a, b;
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &b), 0);
    ((thing *)b.thing)->broken = 1;
    CHECK_EQ(fsb_pool_release(p, b, FSB_POOL_KEEP), 0);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_DISCARD), 0); /* b becomes suspect */
    CHECK_EQ(w.closed, 1);
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &a), 0);
    CHECK_EQ(((thing *)a.thing)->broken, 0);
    CHECK_EQ(w.checked, 1);
    CHECK_EQ(w.opened, 3);
    CHECK_EQ(stats_of(p).unhealthy, 1);
    CHECK_EQ(stats_of(p).discarded, 1);
    CHECK_EQ(fsb_pool_release(p, a, FSB_POOL_SUSPECT), 0);
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &b), 0);
    CHECK(a.thing == b.thing);
    CHECK_EQ(w.checked, 2);
    CHECK_EQ(fsb_pool_release(p, b, FSB_POOL_KEEP), 0);
    end(p, &w);
}

static int fail_with(void *user, void *arg)
{
    ++((thing *)arg)->uses;
    return *(int *)user;
}

static void test_with(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.max_per_key = 1});
    int       result = 7;
    CHECK_EQ(fsb_pool_with(p, "one", 60000, fail_with, &result), 7);
    result = -ENOENT; /* no fault of the thing's */
    CHECK_EQ(fsb_pool_with(p, "one", 60000, fail_with, &result), -ENOENT);
    CHECK_EQ(w.opened, 1);
    result = -ECONNRESET;
    CHECK_EQ(fsb_pool_with(p, "one", 60000, fail_with, &result), -ECONNRESET);
    CHECK_EQ(w.closed, 1);
    result = 0;
    CHECK_EQ(fsb_pool_with(p, "one", 60000, fail_with, &result), 0);
    CHECK_EQ(w.opened, 2);
    w.fail = -EHOSTUNREACH;
    CHECK_EQ(fsb_pool_with(p, "two", 60000, fail_with, &result), -EHOSTUNREACH);
    end(p, &w);
}

/* ---- many threads ---- */

typedef struct crowd {
    fsb_pool *pool;
    world     w;
    int       rounds, result;
    int       most_wait_ms;
} crowd;

static int use_thing(void *user, void *arg)
{
    crowd *c = user;
    thing *t = arg;
    CHECK_EQ(__atomic_add_fetch(&t->users, 1, __ATOMIC_SEQ_CST), 1); /* never two at once */
    usleep(50);
    __atomic_sub_fetch(&t->users, 1, __ATOMIC_SEQ_CST);
    if (__atomic_add_fetch(&c->rounds, 1, __ATOMIC_SEQ_CST) % 97) return 0;
    pthread_mutex_lock(&c->w.lock); /* from here on it only waits to be closed, for however long */
    t->gone = 1, --c->w.now;
    pthread_mutex_unlock(&c->w.lock);
    return -EPIPE;
}

static void *crowd_member(void *arg)
{
    crowd *c = arg;
    for (int i = 0; i < 30; ++i) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        const int n = fsb_pool_with(c->pool, "host", 60000, use_thing, c);
        clock_gettime(CLOCK_MONOTONIC, &to);
        const int ms = (int)((to.tv_sec - from.tv_sec) * 1000
                             + (to.tv_nsec - from.tv_nsec) / 1000000);
        CHECK(n == 0 || n == -EPIPE);
        int most = __atomic_load_n(&c->most_wait_ms, __ATOMIC_SEQ_CST);
        while (ms > most && !__atomic_compare_exchange_n(&c->most_wait_ms, &most, ms, 0,
                                                         __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    }
    return NULL;
}

static void test_crowd(void)
{
    crowd     c = {0};
    pthread_t threads[100];
    c.pool = make(&c.w, (fsb_pool_desc){.max_per_key = 4, .check = check_thing, .sweep_ms = 1,
                                        .idle_ms = 1});
    for (int i = 0; i < 100; ++i) pthread_create(&threads[i], NULL, crowd_member, &c);
    for (int i = 0; i < 100; ++i) pthread_join(threads[i], NULL);
    const fsb_pool_stats s = stats_of(c.pool);
    CHECK_EQ(c.rounds, 3000);
    CHECK(c.w.most <= 16); /* four, and those that a sweep is just closing */
    CHECK_EQ(s.discarded, 3000 / 97);
    CHECK_EQ(s.lent + s.waiting + s.opening, 0);
    CHECK_EQ(s.timed_out + s.refused + s.open_failed, 0);
    end(c.pool, &c.w);
}

typedef struct patient {
    fsb_pool *pool;
    int       may_go; /* atomic */
} patient;

static void *wait_a_turn(void *arg)
{
    patient  *a = arg;
    fsb_lease l;
    CHECK_EQ(fsb_pool_acquire(a->pool, "one", 60000, &l), 0);
    while (!__atomic_load_n(&a->may_go, __ATOMIC_SEQ_CST)) usleep(100);
    CHECK_EQ(fsb_pool_release(a->pool, l, FSB_POOL_KEEP), 0);
    return NULL;
}

/* Somebody waits for the one thing, which was handed over just now: it may be left idle. */
static pthread_t start_waiting(patient *a)
{
    pthread_t thread;
    a->may_go = 0;
    pthread_create(&thread, NULL, wait_a_turn, a);
    EVENTUALLY(stats_of(a->pool).waiting == 1);
    pthread_mutex_lock(&a->pool->lock);
    a->pool->wary = 0;
    a->pool->slots[0].turn = fsb_pool_now_(), a->pool->slots[0].past = 0;
    pthread_mutex_unlock(&a->pool->lock);
    return thread;
}

/* Who comes back at once goes on with the thing, but only so often: then who waits gets it. */
static void test_turns(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.max_per_key = 1});
    patient   a = {p, 0};
    fsb_lease l;
    int       most = 0;
    for (int round = 0; round < 500 && !most; ++round) {
        int n = 0, err = 0;
        CHECK_EQ(fsb_pool_acquire(p, "one", 0, &l), 0);
        const pthread_t thread = start_waiting(&a);
        do { /* 1 ms is more than enough for what is idle */
            CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_KEEP), 0);
            err = fsb_pool_acquire(p, "one", 1, &l);
            n += !err;
        } while (!err && n < 1000);
        CHECK_EQ(err, -ETIMEDOUT);
        CHECK(n <= 32);
        if (n > most) most = n;
        __atomic_store_n(&a.may_go, 1, __ATOMIC_SEQ_CST);
        pthread_join(thread, NULL);
    }
    CHECK(most > 0);
    end(p, &w);
}

/* Nobody comes back: who waits finds it idle. */
static void test_left_idle(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.max_per_key = 1});
    patient   a = {p, 0};
    fsb_lease l;
    uint32_t  wary = 0;
    for (int round = 0; round < 500 && wary < 128; ++round) {
        CHECK_EQ(fsb_pool_acquire(p, "one", 0, &l), 0);
        const pthread_t thread = start_waiting(&a);
        CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_KEEP), 0);
        __atomic_store_n(&a.may_go, 1, __ATOMIC_SEQ_CST);
        pthread_join(thread, NULL);
        CHECK_EQ(stats_of(p).waiting, 0);
        CHECK(!p->lookout);
        if (p->wary > wary) wary = p->wary;
    }
    CHECK_EQ(wary, 128); /* each time in vain makes it wary for twice as long */
    CHECK_EQ(stats_of(p).timed_out, 0);
    end(p, &w);
}

typedef struct asker {
    fsb_pool *pool;
    int       place, *turn;
} asker;

static void *ask(void *arg)
{
    asker    *a = arg;
    fsb_lease l;
    CHECK_EQ(fsb_pool_acquire(a->pool, "one", 60000, &l), 0);
    CHECK_EQ(__atomic_fetch_add(a->turn, 1, __ATOMIC_SEQ_CST), a->place);
    CHECK_EQ(fsb_pool_release(a->pool, l, FSB_POOL_KEEP), 0);
    return NULL;
}

static void test_first_come(void)
{
    world     w;
    fsb_pool *p = make(&w, (fsb_pool_desc){.max_per_key = 1});
    asker     askers[20];
    pthread_t threads[20];
    int       turn = 0;
    fsb_lease l;
    CHECK_EQ(fsb_pool_acquire(p, "one", 0, &l), 0);
    for (int i = 0; i < 20; ++i) {
        askers[i] = (asker){p, i, &turn};
        pthread_create(&threads[i], NULL, ask, &askers[i]);
        EVENTUALLY(stats_of(p).waiting == (uint32_t)i + 1);
    }
    CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_KEEP), 0);
    for (int i = 0; i < 20; ++i) pthread_join(threads[i], NULL);
    CHECK_EQ(turn, 20);
    end(p, &w);
}

static void *ask_cold(void *arg)
{
    crowd    *c = arg;
    fsb_lease l;
    const int n = fsb_pool_acquire(c->pool, "cold", 60000, &l);
    CHECK_EQ(n, c->result);
    usleep(20000);
    if (!n) CHECK_EQ(fsb_pool_release(c->pool, l, FSB_POOL_KEEP), 0);
    return NULL;
}

static void run_cold(crowd *c, int result)
{
    pthread_t threads[30];
    c->result = result, c->w.fail = result, c->w.gather = 29;
    for (int i = 0; i < 30; ++i) pthread_create(&threads[i], NULL, ask_cold, c);
    for (int i = 0; i < 30; ++i) pthread_join(threads[i], NULL);
}

static void test_single_flight(void)
{
    crowd c = {0};
    c.pool = make(&c.w, (fsb_pool_desc){.max_per_key = 8});
    c.w.pool = c.pool;
    run_cold(&c, -ECONNREFUSED);
    CHECK_EQ(c.w.opened, 1); /* one attempt told all thirty */
    CHECK_EQ(stats_of(c.pool).keys, 0);
    run_cold(&c, 0);
    CHECK(c.w.opened > 2 && c.w.opened <= 9); /* once warm, more at a time */
    CHECK(c.w.most_opening > 1);
    end(c.pool, &c.w);
}

/* ---- no memory ---- */

static void test_memory_fails(void)
{
    for (uint64_t k = 1; k < 20; ++k) {
        test_memory m = {.fail_at = k};
        world       w;
        fsb_pool   *p = NULL;
        fsb_lease   l;
        memset(&w, 0, sizeof w);
        pthread_mutex_init(&w.lock, NULL);
        const fsb_pool_desc d = {.open = open_thing, .close = close_thing, .user = &w,
                                 .allocator = {test_memory_fn, &m}};
        int err = fsb_pool_open(&p, &d);
        if (!err) err = fsb_pool_acquire(p, "one", 0, &l);
        if (!err) CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_KEEP), 0);
        CHECK(!err || err == -ENOMEM);
        fsb_pool_close(p);
        CHECK_EQ(m.live, 0);
        CHECK_EQ(m.wrong_size, 0);
        if (m.calls < k) return;
    }
    CHECK(!"it ends");
}

/* ---- backends ---- */

static int open_scope(void *user, const char *key, uint32_t timeout_ms, void **out)
{
    (void)key, (void)timeout_ms;
    fsb_backend *b = NULL;
    const int    err = fsb_scoped_open(&b, &(fsb_scoped_desc){.inner = user, .prefix = "/"});
    *out = b;
    return err;
}

static fsb_backend *memory_backend(void)
{
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, &(fsb_memory_desc){0}), 0);
    return b;
}

static fsb_pool *backend_pool(fsb_backend *inner, uint32_t most)
{
    fsb_pool *p = NULL;
    CHECK_EQ(fsb_pool_open(&p, &(fsb_pool_desc){.open = open_scope, .close = fsb_pool_backend_close,
                                                .check = fsb_pool_backend_check, .user = inner,
                                                .max_per_key = most, .idle_ms = 1}), 0);
    return p;
}

static void test_conformance(void)
{
    fsb_backend *inner = memory_backend(), *b = NULL;
    fsb_pool    *p = backend_pool(inner, 3);
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p}), -EINVAL);
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p, .key = "memory"}), 0);
    conformance_run(b, &(conformance_traits){.name = "pooled", .can_chown = 1, .has_xattr = 1,
                    .has_mknod = 1, .has_sparse = 1, .has_punch = 1, .has_watch = 1, .scoped = 1,
                    .many = 500});
    CHECK_EQ(stats_of(p).opened, 1); /* one thread needs one */
    b->close(b);
    fsb_pool_close(p);
    inner->close(inner);
}

static void test_open_files_stay(void)
{
    fsb_backend *inner = memory_backend(), *b = NULL;
    fsb_pool    *p = backend_pool(inner, 1);
    fsb_lease    l;
    char         buf[8] = "";
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p, .key = "m", .max_handles = 2}), 0);
    conf_put(b, "/f", "text");
    const fsb_handle h = conf_open(b, "/f", FSB_O_READ), h2 = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ), -EMFILE);
    CHECK_EQ(C(CLOSE, .handle = h2), 0);
    CHECK_EQ(stats_of(p).idle, 1); /* an open file does not occupy its connection */
    usleep(3000);
    CHECK_EQ(fsb_pool_sweep(p), 0); /* but keeps it */
    CHECK_EQ(fsb_pool_acquire(p, "m", 0, &l), 0);
    CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_DISCARD), 0);
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 8), 4); /* and is closed with the last file */
    CHECK_STR(buf, "text");
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = h), -EBADF);
    conf_is(b, "/f", "text"); /* by a new one */
    CHECK_EQ(stats_of(p).opened, 2);
    b->close(b);
    fsb_pool_close(p);
    inner->close(inner);
}

static int64_t lose_connection(fsb_backend *b, fsb_op *op)
{
    (void)b;
    return op->result = -ECONNRESET;
}

static int open_lossy(void *user, const char *key, uint32_t timeout_ms, void **out)
{
    const int err = open_scope(user, key, timeout_ms, out);
    if (!err) ((fsb_backend *)*out)->call[FSB_OP_READ] = lose_connection;
    return err;
}

static int fail_check(void *user, const char *key, void *arg)
{
    (void)user, (void)key, (void)arg;
    return -1; /* it is gone, indeed */
}

/* A connection that was lost under an open file is looked at before it is lent again; a handle left
   in an op that takes a path is none of its; a call that there is not is no call. */
static void test_pooled_odds(void)
{
    fsb_backend *inner = memory_backend(), *b = NULL;
    fsb_pool    *p = NULL;
    CHECK_EQ(fsb_pool_open(&p, &(fsb_pool_desc){.open = open_lossy, .user = inner,
                                                .close = fsb_pool_backend_close,
                                                .check = fail_check, .check_ms = 1u << 30}), 0);
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p, .key = "m"}), 0);
    conf_put(b, "/f", "text");
    const fsb_handle h = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(C(MKDIR, .path = "/d", .handle = 77), 0);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/e", .handle = h), 0);
    CHECK_EQ(C(RMDIR, .path = "/e", .handle = 77), 0);
    CHECK_EQ(stats_of(p).unhealthy, 0);
    CHECK_EQ(C(READ, .handle = h, .size = 4), -ECONNRESET);
    CHECK_EQ(C(STAT, .path = "/f"), 0); /* by another one */
    CHECK_EQ(stats_of(p).unhealthy, 1);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    fsb_op odd = {.code = UINT32_MAX, .path = "/f"};
    CHECK_EQ(b->call[FSB_OP_STAT](b, &odd), -ENOSYS);
    b->close(b);
    fsb_pool_close(p);
    inner->close(inner);
}

static int64_t write_full(fsb_backend *b, fsb_op *op)
{
    (void)b;
    return op->result = -ENOSPC;
}

/* A PUT composed of simple calls leaves nothing that was not there. */
static void test_put_fails(void)
{
    fsb_backend   *inner = memory_backend(), *b = NULL;
    fsb_pool      *p = backend_pool(inner, 1);
    fsb_lease      l;
    const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p, .key = "m"}), 0);
    CHECK_EQ(fsb_pool_acquire(p, "m", 0, &l), 0);
    fsb_backend *one = l.thing;
    one->call[FSB_OP_PUT] = one->call[FSB_OP_GET] = NULL;
    CHECK_EQ(fsb_pool_release(p, l, FSB_POOL_KEEP), 0);
    CHECK_EQ(C(PUT, .path = "/there", .flags = make, .data = "x", .size = 1, MODE(0644)), 1);
    conf_is(b, "/there", "x");
    one->call[FSB_OP_WRITE] = write_full;
    CHECK_EQ(C(PUT, .path = "/new", .flags = make, .data = "y", .size = 1, MODE(0644)), -ENOSPC);
    CHECK_EQ(C(STAT, .path = "/new"), -ENOENT);
    CHECK_EQ(C(PUT, .path = "/there", .flags = make, .data = "y", .size = 1), -ENOSPC);
    conf_is(b, "/there", "x");
    b->close(b);
    fsb_pool_close(p);
    inner->close(inner);
}

typedef struct busy {
    fsb_backend *b;
    int          number;
} busy;

static void *write_and_read(void *arg)
{
    busy        *me = arg;
    fsb_backend *b = me->b;
    char         path[32], text[32];
    for (int i = 0; i < 20; ++i) {
        snprintf(path, sizeof path, "/f%d", me->number);
        snprintf(text, sizeof text, "%d of %d", i, me->number);
        conf_put(b, path, text);
        conf_is(b, path, text);
        const fsb_handle h = conf_open(b, path, FSB_O_READ);
        CHECK_EQ(C(READ, .handle = h, .buf = path, .size = 1), 1);
        CHECK_EQ(C(CLOSE, .handle = h), 0);
    }
    return NULL;
}

static void test_hundred_on_four(void)
{
    fsb_backend *inner = memory_backend(), *b = NULL;
    fsb_pool    *p = backend_pool(inner, 4);
    busy         all[100];
    pthread_t    threads[100];
    CHECK_EQ(fsb_pooled_open(&b, &(fsb_pooled_desc){.pool = p, .key = "m"}), 0);
    for (int i = 0; i < 100; ++i) {
        all[i] = (busy){b, i};
        pthread_create(&threads[i], NULL, write_and_read, &all[i]);
    }
    for (int i = 0; i < 100; ++i) pthread_join(threads[i], NULL);
    CHECK(stats_of(p).opened <= 4);
    CHECK_EQ(conf_count(b, "/"), 100);
    b->close(b);
    fsb_pool_close(p);
    inner->close(inner);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_desc);
    TEST(test_lend_and_reuse);
    TEST(test_limits);
    TEST(test_idle);
    TEST(test_health);
    TEST(test_with);
    TEST(test_crowd);
    TEST(test_first_come);
    TEST(test_turns);
    TEST(test_left_idle);
    TEST(test_single_flight);
    TEST(test_memory_fails);
    TEST(test_conformance);
    TEST(test_open_files_stay);
    TEST(test_pooled_odds);
    TEST(test_put_fails);
    TEST(test_hundred_on_four);
    return test_end("test_pool");
}
