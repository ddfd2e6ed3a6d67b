/* test_tables.c - handles, mount tables, namespaces: alone, without FUSE.

   The handle table is run through every interleaving of its steps: FSB_TABLES_STEP_() stands before
   each access to shared memory, and here it hands over to a scheduler, so that it is the code
   itself that is explored, not a model of it. */
#include <stdint.h>
static void explore_step(void);
#define FSB_TABLES_STEP_() explore_step()
#define FSB_IMPLEMENTATION
#include <time.h>

static int later_s; /* the clock is ahead by so much */
static int late_clock(clockid_t which, struct timespec *t)
{
    const int result = clock_gettime(which, t);
    t->tv_sec += later_s;
    return result;
}
#define clock_gettime late_clock
#include "fsb_mount.h"
#undef clock_gettime
#include "fsb_backend.h"
#include "conformance.h"
#include "test.h"
#include <fcntl.h>
#include <setjmp.h>
#include <ucontext.h>

static void nap(int ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* ---- every interleaving ---- */

#if defined __SANITIZE_THREAD__ || defined __SANITIZE_ADDRESS__
static const char *const blind = "the sanitizers cannot follow the explorer";
#elif !defined __GLIBC__
static const char *const blind = "the explorer needs getcontext(), which this libc has not";
#define getcontext(c) ((void)(c), -1)
#define makecontext(c, f, n) ((void)(c), (void)(f))
#define swapcontext(from, to) ((void)(from), (void)(to))
#else
static const char *const blind = NULL;
#endif
enum { ACTORS = 3, DEPTH = 600 };
static struct {
    void (*actor[ACTORS])(void);
    int        actors, running, at, depth, alive[ACTORS];
    int        choice[DEPTH], choices[DEPTH]; /* of this run: what was chosen, out of how many */
    ucontext_t start, context[ACTORS];
    jmp_buf    main, place[ACTORS]; /* swapcontext() is two system calls */
    int        started[ACTORS];
    char       stack[ACTORS][64 << 10];
    int        bound; /* how often an actor that could go on is interrupted, at most; 0: any */
    uint64_t   runs;
} explore = {.running = -1};

static void explore_step(void)
{
    if (explore.running < 0) return;
    if (!_setjmp(explore.place[explore.running])) _longjmp(explore.main, 1);
}

static void explore_actor(void)
{
    explore.actor[explore.running]();
    explore.alive[explore.running] = 0;
    _longjmp(explore.main, 1);
}

static void explore_switch(void) /* to the running actor, until its next step */
{
    if (_setjmp(explore.main)) return;
    if (explore.started[explore.running]++) _longjmp(explore.place[explore.running], 1);
    swapcontext(&explore.start, &explore.context[explore.running]);
}

/* On its own because getcontext() may return twice, as compilers see it. */
static void explore_prepare(ucontext_t *c, char *stack, size_t size)
{
    getcontext(c);
    c->uc_stack.ss_sp = stack, c->uc_stack.ss_size = size, c->uc_link = NULL;
    makecontext(c, explore_actor, 0);
}

/* One run, with the choices made so far; new ones are the first. */
static void explore_run(void)
{
    for (int i = 0; i < explore.actors; ++i) {
        explore_prepare(&explore.context[i], explore.stack[i], sizeof explore.stack[i]);
        explore.alive[i] = 1, explore.started[i] = 0;
    }
    int last = -1, interrupted = 0;
    for (explore.at = 0;; ++explore.at) {
        int       ready[ACTORS], n = 0;
        const int goes_on = last >= 0 && explore.alive[last];
        if (goes_on) ready[n++] = last;
        for (int i = 0; i < explore.actors; ++i)
            if (explore.alive[i] && i != last
                && !(goes_on && explore.bound && interrupted == explore.bound))
                ready[n++] = i;
        if (!n) break;
        if (explore.at >= DEPTH) abort();
        if (explore.at == explore.depth) explore.choice[explore.depth++] = 0;
        explore.choices[explore.at] = n;
        last = explore.running = ready[explore.choice[explore.at]];
        interrupted += goes_on && explore.choice[explore.at] > 0;
        explore_switch();
        explore.running = -1;
    }
    ++explore.runs;
}

/* Runs begin(), the actors in every order of their steps, end(): depth first. */
static void explore_all(void (*begin)(void), void (*end)(void), int n, void (*const *actors)(void))
{
    explore.actors = n, explore.depth = 0, explore.runs = 0;
    memcpy(explore.actor, actors, (size_t)n * sizeof *actors);
    for (;;) {
        begin();
        explore_run();
        end();
        explore.depth = explore.at;
        while (explore.depth
               && explore.choice[explore.depth - 1] + 1 == explore.choices[explore.depth - 1])
            --explore.depth;
        if (!explore.depth || test_.bad) return;
        ++explore.choice[explore.depth - 1];
    }
}

/* ---- the slot protocol ---- */

static struct {
    fsb_handles *t;
    fsb_handle   old, id[ACTORS];
    int          object[8]; /* [0] is the first handle's */
    int          released[8];
    int          pinned;    /* how many hold object[0] */
    int          sweeps;    /* that let it live */
    int          used;      /* since the last of these */
} slots;

static void slots_release(void *user, fsb_handle id, void *object)
{
    (void)user, (void)id;
    const long i = (int *)object - slots.object;
    CHECK(i >= 0 && i < 8);
    ++slots.released[i];
    if (i == 0) CHECK_EQ(slots.pinned, 0);
}

static void slots_begin(void)
{
    static const fsb_handles_desc d = {.max_handles = 8, .shards = 1, .release = slots_release};
    memset(&slots, 0, sizeof slots);
    CHECK_EQ(fsb_handles_open(&slots.t, &d), 0);
    CHECK_EQ(fsb_handles_add(slots.t, &slots.object[0], 1, 0, &slots.old), 0);
    fsb_handles_at_(slots.t, (uint32_t)slots.old)->idle_ms = 5; /* and none for what comes later */
}

static void slots_end(void)
{
    void *object;
    for (int i = 0; i < ACTORS; ++i) { /* what was added is there, each in a slot of its own */
        if (!slots.id[i]) continue;
        CHECK_EQ(fsb_handles_get(slots.t, slots.id[i], 1, &object), 0);
        CHECK(object == &slots.object[1 + i]);
        for (int j = 0; j < i; ++j) CHECK(slots.id[i] != slots.id[j]);
        CHECK(slots.id[i] != slots.old);
    }
    fsb_handles_close(slots.t);
    CHECK_EQ(slots.released[0], 1);
    for (int i = 0; i < ACTORS; ++i) CHECK_EQ(slots.released[1 + i], slots.id[i] != 0);
}

static void actor_get(void)
{
    void     *object = NULL;
    const int before = slots.sweeps;
    if (fsb_handles_get(slots.t, slots.old, 1, &object) != 0) return;
    CHECK(object == &slots.object[0]);
    slots.used += before == slots.sweeps;
}

static void actor_get_other(void) /* by who does not own it */
{
    void     *object = NULL;
    const int err = fsb_handles_get(slots.t, slots.old, 2, &object);
    CHECK(!object && (err == -EACCES || err == -EBADF));
}

static void actor_pin(void)
{
    void *object = NULL;
    if (fsb_handles_pin(slots.t, slots.old, 1, &object) != 0) return;
    CHECK(object == &slots.object[0]);
    CHECK_EQ(slots.released[0], 0);
    ++slots.pinned;
    explore_step();
    CHECK_EQ(slots.released[0], 0);
    --slots.pinned;
    CHECK_EQ(fsb_handles_unpin(slots.t, slots.old), 0);
}

static void actor_remove(void) { fsb_handles_remove(slots.t, slots.old, 0); }

static void actor_reuse(void) /* the slot is the first to be used again */
{
    if (fsb_handles_remove(slots.t, slots.old, 0) < 0) return;
    CHECK_EQ(fsb_handles_add(slots.t, &slots.object[1], 1, 0, &slots.id[0]), 0);
}

static void actor_add2(void)
{
    CHECK_EQ(fsb_handles_add(slots.t, &slots.object[2], 1, 0, &slots.id[1]), 0);
}

static void actor_add_remove(void)
{
    fsb_handle id;
    CHECK_EQ(fsb_handles_add(slots.t, &slots.object[3], 1, 0, &id), 0);
    CHECK_EQ(fsb_handles_remove(slots.t, id, 0), 0);
    --slots.released[3];
}

/* What was used between two sweeps stays. An actor's last access to the table and what it does
   behind that are one step. */
static void actor_sweep(void)
{
    fsb_handles_slot_ *s = fsb_handles_at_(slots.t, (uint32_t)slots.old);
    for (uint32_t now = 1; now < 12; now += 10) {
        if (fsb_handles_expire_(slots.t, s, slots.old, now)) CHECK_EQ(slots.used, 0);
        else ++slots.sweeps, slots.used = 0;
    }
}

static void test_every_interleaving(void)
{
    static const struct {
        const char *name;
        int         n;
        void (*actor[ACTORS])(void);
    } cases[] = {
        {"get while reused", 2, {actor_get, actor_reuse}},
        {"pin while reused", 2, {actor_pin, actor_reuse}},
        {"pin, pin", 2, {actor_pin, actor_pin}},
        {"remove, remove", 2, {actor_remove, actor_reuse}},
        {"reuse, add", 2, {actor_reuse, actor_add2}},
        {"add, add and remove", 2, {actor_add2, actor_add_remove}},
        {"pin, remove, remove", 3, {actor_pin, actor_remove, actor_remove}},
        {"get, get, remove", 3, {actor_get, actor_get, actor_remove}},
        {"sweep, get", 2, {actor_sweep, actor_get}},
        {"sweep, get of another", 2, {actor_sweep, actor_get_other}},
        {"sweep, pin", 2, {actor_sweep, actor_pin}},
        {"sweep, sweep", 2, {actor_sweep, actor_sweep}},
        {"sweep, reuse", 2, {actor_sweep, actor_reuse}},
    };
    if (blind) SKIP(blind);
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !test_.bad; ++i) {
        explore_all(slots_begin, slots_end, cases[i].n, cases[i].actor);
        if (test_.bad) fprintf(stderr, "%s, run %llu\n", cases[i].name,
                               (unsigned long long)explore.runs);
        CHECK(explore.runs > 10);
    }
}

/* The explorer finds what is wrong: a reader that looks at the generation only before. */
static int explore_wrong;
static void actor_get_carelessly(void)
{
    fsb_handles_slot_ *s = fsb_handles_at_(slots.t, (uint32_t)slots.old);
    if (fsb_tables_load_(&s->state) >> 32 != slots.old >> 32) return;
    explore_step();
    if (s->object != &slots.object[0]) ++explore_wrong;
}

static void test_explorer_finds(void)
{
    void (*const actors[])(void) = {actor_get_carelessly, actor_reuse};
    if (blind) SKIP(blind);
    explore_wrong = 0;
    explore_all(slots_begin, slots_end, 2, actors);
    CHECK(explore_wrong > 0);
}

/* ---- tenants: removed while they are used ---- */

typedef struct life { /* of one tenant: its backend, and what happened to it */
    fsb_backend base; /* first */
    int         inside, open, gone;
} life;
static struct {
    fsb_tenants *t;
    fsb_backend *held; /* of the first tenant */
    fsb_handle   file; /* open on it */
    life         lives[4];
    int          created;
} lives;

static int64_t life_call(fsb_backend *b, fsb_op *op)
{
    life *l = (life *)b;
    CHECK(!l->gone); /* whatever is called is there */
    ++l->inside;
    explore_step();
    CHECK(!l->gone);
    --l->inside;
    if (op->code == FSB_OP_OPEN) ++l->open, op->handle = 9;
    if (op->code == FSB_OP_CLOSE) CHECK(--l->open >= 0);
    return op->result = 0;
}

static int life_create(void *user, fsb_tenant *tenant)
{
    life *l = &lives.lives[lives.created++];
    (void)user;
    l->base.size = sizeof l->base;
    for (int i = 1; i < FSB_OP_COUNT; ++i) l->base.call[i] = life_call;
    const fsb_bind bind = {.backend = &l->base};
    tenant->data = l;
    return fsb_mounts_add(tenant->mounts, "/", 1, &bind);
}

static void life_gone(void *user, fsb_tenant *tenant)
{
    life *l = tenant->data;
    (void)user;
    CHECK_EQ(l->gone++, 0);
    CHECK_EQ(l->inside, 0);
    CHECK_EQ(l->open, 0);
}

static int64_t life_op(fsb_backend *b, uint32_t code, fsb_handle *handle)
{
    fsb_op op = {.code = code, .path = "/f", .flags = FSB_O_READ, .handle = *handle};
    if (code != FSB_OP_OPEN && code != FSB_OP_STAT) op.flags = 0;
    if (code == FSB_OP_STAT) op.flags = 0, op.handle = 0;
    const int64_t n = fsb_backend_call(b, &op);
    if (n == 0 && code == FSB_OP_OPEN) *handle = op.handle;
    return n;
}

static void lives_begin(void)
{
    static const fsb_tenants_desc d = {.create = life_create, .gone = life_gone, .max_tenants = 4,
                                       .max_handles = 3};
    memset(&lives, 0, sizeof lives);
    CHECK_EQ(fsb_tenants_open(&lives.t, &d), 0);
    CHECK_EQ(fsb_tenant_backend(&lives.held, lives.t, "a"), 0);
    CHECK_EQ(life_op(lives.held, FSB_OP_OPEN, &lives.file), 0);
}

static void lives_end(void)
{
    fsb_handle none = 0;
    CHECK_EQ(lives.lives[0].gone, 1); /* nothing uses it any more, though it is held */
    CHECK_EQ(life_op(lives.held, FSB_OP_STAT, &none), -ENODEV);
    lives.held->close(lives.held);
    fsb_tenants_close(lives.t);
    for (int i = 0; i < lives.created; ++i) {
        CHECK_EQ(lives.lives[i].gone, 1);
        CHECK_EQ(lives.lives[i].open, 0);
    }
}

static void actor_open(void) /* and leaves it open */
{
    fsb_handle h = 0;
    const int64_t n = life_op(lives.held, FSB_OP_OPEN, &h);
    CHECK(n == 0 || n == -ENODEV);
}

static void actor_read_close(void)
{
    int64_t n = life_op(lives.held, FSB_OP_READ, &lives.file);
    CHECK(n == 0 || n == -ENODEV || n == -EBADF);
    n = life_op(lives.held, FSB_OP_CLOSE, &lives.file);
    CHECK(n == 0 || n == -ENODEV || n == -EBADF);
}

static void actor_find(void) /* without the lock: it finds one of that name, or none */
{
    fsb_handle         none = 0;
    const uint64_t     hash = fsb_tenants_hash_(lives.t, "a", 1);
    fsb_tenant_ *const found = fsb_tenants_find_(lives.t, hash, "a", 1);
    if (!found) return;
    CHECK(!strcmp(found->name, "a"));
    const int64_t n = life_op(&found->ns.base, FSB_OP_STAT, &none);
    CHECK(n == 0 || n == -ENODEV);
    found->ns.base.close(&found->ns.base);
}

static void actor_remove_tenant(void) { CHECK(fsb_tenants_remove(lives.t, "a") >= 0); }

static void actor_replace_tenant(void)
{
    fsb_backend *b = NULL;
    fsb_handle   h = 0;
    CHECK(fsb_tenants_remove(lives.t, "a") >= 0);
    CHECK_EQ(fsb_tenant_backend(&b, lives.t, "a"), 0);
    CHECK(b != lives.held);
    CHECK_EQ(life_op(b, FSB_OP_OPEN, &h), 0);
    CHECK_EQ(life_op(b, FSB_OP_READ, &lives.file), -EBADF); /* of the one before */
    b->close(b);
}

static void test_every_removal(void)
{
    static const struct {
        const char *name;
        int         n, bound;
        void (*actor[ACTORS])(void);
    } cases[] = {
        {"open while removed", 2, 3, {actor_open, actor_remove_tenant}},
        {"read and close while removed", 2, 3, {actor_read_close, actor_remove_tenant}},
        {"find while replaced", 2, 3, {actor_find, actor_replace_tenant}},
        {"open, find, replaced", 3, 2, {actor_open, actor_find, actor_replace_tenant}},
    };
    cpu_set_t before, one;
    if (blind) SKIP(blind);
    sched_getaffinity(0, sizeof before, &before); /* which shard a tenant is in must not change */
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !test_.bad; ++i) {
        explore.bound = cases[i].bound;
        explore_all(lives_begin, lives_end, cases[i].n, cases[i].actor);
        if (test_.bad) fprintf(stderr, "%s, run %llu\n", cases[i].name,
                               (unsigned long long)explore.runs);
        CHECK(explore.runs > 100);
    }
    explore.bound = 0;
    sched_setaffinity(0, sizeof before, &before);
}

/* ---- handles ---- */

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

static void count_release(void *user, fsb_handle id, void *object)
{
    (void)id, (void)object;
    __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static void test_handles(void)
{
    int              gone = 0, a, b;
    lines            log = {0};
    test_memory      m = {0};
    fsb_handles     *t = NULL;
    fsb_handles_desc d = {.max_handles = 3, .release = count_release, .user = &gone,
                          .allocator = {test_memory_fn, &m}, .log = {log_line, &log}};
    fsb_handle       h[4];
    void            *object = NULL;
    REQUIRE(fsb_handles_open(&t, &d) == 0);
    CHECK_EQ(fsb_handles_add(t, &a, 7, 0, &h[0]), 0);
    CHECK_EQ(fsb_handles_add(t, &b, 8, 0, &h[1]), 0);
    CHECK_EQ(fsb_handles_add(t, &b, 0, 0, &h[2]), 0);
    CHECK_EQ(fsb_handles_add(t, &b, 0, 0, &h[3]), -EMFILE);
    CHECK_STR(log.item, "handles/full");
    CHECK_EQ(fsb_handles_add(t, NULL, 0, 0, &h[3]), -EINVAL);
    CHECK_EQ(fsb_handles_get(t, h[0], 7, &object), 0);
    CHECK(object == &a);
    CHECK_EQ(log.count, 1);
    CHECK_EQ(fsb_handles_get(t, h[0], 8, &object), -EACCES); /* another's */
    CHECK(strstr(log.text, "another owner's"));
    CHECK_EQ(fsb_handles_pin(t, h[0], 8, &object), -EACCES);
    CHECK_EQ(fsb_handles_remove(t, h[0], 8), -EACCES);
    const fsb_handle guesses[] = {0, 1, h[0] + 3, h[0] ^ UINT64_C(2) << 32, UINT64_MAX,
                                  h[0] & UINT32_MAX, h[0] + (UINT64_C(1) << 32), UINT32_MAX};
    for (size_t i = 0; i < sizeof guesses / sizeof *guesses; ++i) {
        const int before = log.count;
        CHECK_EQ(fsb_handles_get(t, guesses[i], 0, &object), -EBADF);
        CHECK_EQ(fsb_handles_pin(t, guesses[i], 0, &object), -EBADF);
        CHECK_EQ(fsb_handles_unpin(t, guesses[i]), -EBADF);
        CHECK_EQ(fsb_handles_remove(t, guesses[i], 0), -EBADF);
        CHECK_EQ(log.count, before + 4);
    }
    CHECK_EQ(fsb_handles_pin(t, h[0], 7, &object), 0);
    CHECK_EQ(fsb_handles_remove(t, h[0], 7), 1); /* held by the pin */
    CHECK_EQ(gone, 0);
    CHECK_EQ(fsb_handles_get(t, h[0], 7, &object), -EBADF);
    CHECK_EQ(fsb_handles_unpin(t, h[0]), 0);
    CHECK_EQ(gone, 1);
    CHECK_EQ(fsb_handles_unpin(t, h[0]), -EBADF);
    CHECK_EQ(fsb_handles_release(t, 8), 1);
    CHECK_EQ(fsb_handles_release(t, 8), 0);
    CHECK_EQ(gone, 2);
    CHECK_EQ(fsb_handles_pin(t, h[2], 0, &object), 0);
    CHECK_EQ(fsb_handles_remove(t, h[2], 0), 1);
    fsb_handles_close(t); /* releases what is pinned, too */
    CHECK_EQ(gone, 3);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

static void test_handles_retire(void)
{
    int          object;
    fsb_handles *t = NULL;
    fsb_handle   last, next;
    void        *found;
    REQUIRE(fsb_handles_open(&t, &(fsb_handles_desc){.shards = 1}) == 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &last), 0);
    CHECK_EQ(fsb_handles_remove(t, last, 0), 0);
    fsb_handles_at_(t, (uint32_t)last)->state =
        (uint64_t)(UINT32_MAX - 1) << 32 | FSB_HANDLES_IDLE_;
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &last), 0);
    CHECK_EQ(last >> 32, UINT32_MAX);
    CHECK_EQ(fsb_handles_get(t, last, 0, &found), 0);
    CHECK_EQ(fsb_handles_remove(t, last, 0), 0);
    for (int i = 0; i < 600; ++i) {
        CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &next), 0);
        CHECK((uint32_t)next != (uint32_t)last);
    }
    fsb_handles_close(t);
}

static void test_handles_idle(void)
{
    int              gone = 0, object;
    fsb_handles     *t = NULL;
    fsb_handles_desc d = {.idle_ms = 1000000, .release = count_release, .user = &gone};
    fsb_handle       idle, busy, pinned, never, ids[4] = {0};
    void            *found;
    REQUIRE(fsb_handles_open(&t, &d) == 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &idle), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &busy), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &pinned), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, UINT32_MAX, &never), 0);
    CHECK_EQ(fsb_handles_pin(t, pinned, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 0);
    later_s += 550;
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 0);
    later_s += 550;
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 1);
    CHECK_EQ(ids[0], idle);
    CHECK_EQ(fsb_handles_get(t, idle, 0, &found), -EBADF);
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_get(t, pinned, 0, &found), 0);
    CHECK_EQ(fsb_handles_get(t, never, 0, &found), 0);
    fsb_handles_close(t);
    CHECK_EQ(gone, 4);
    gone = 0, later_s = 0, d.idle_ms = 60, d.sweep_ms = 5; /* a thread does it */
    REQUIRE(fsb_handles_open(&t, &d) == 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &idle), 0);
    fsb_handles_stats stats;
    EVENTUALLY((fsb_handles_stat(t, &stats), stats.expired)); /* which is counted last */
    CHECK_EQ(__atomic_load_n(&gone, __ATOMIC_RELAXED), 1);
    CHECK_EQ(stats.live, 0);
    CHECK_EQ(stats.expired, 1);
    CHECK_EQ(stats.added, 1);
    fsb_handles_close(t);
}

static int count_each(void *user, fsb_handle id, void *object)
{
    (void)id, (void)object;
    return ++*(int *)user == 1000000 ? -ECANCELED : 0;
}

static void test_handles_million(void)
{
    enum { N = 1000000 };
    int          object, n = 0;
    fsb_handles *t = NULL;
    test_memory  m = {0};
    fsb_handle   id;
    REQUIRE(fsb_handles_open(&t, &(fsb_handles_desc){.max_handles = N,
                                                     .allocator = {test_memory_fn, &m}}) == 0);
    for (uint32_t i = 0; i < N; ++i) CHECK_EQ(fsb_handles_add(t, &object, i % 100 + 1, 0, &id), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &id), -EMFILE);
    CHECK(m.live < 33 * N);
    CHECK_EQ(fsb_handles_each(t, 5, count_each, &n), 0);
    CHECK_EQ(n, N / 100);
    n = 0;
    CHECK_EQ(fsb_handles_each(t, 0, count_each, &n), -ECANCELED);
    for (uint32_t i = 0; i < 100; ++i) CHECK_EQ(fsb_handles_release(t, i + 1), N / 100);
    for (uint32_t i = 0; i < N; ++i) { /* all of one owner: slots of other shards are taken */
        const int err = fsb_handles_add(t, &object, 1, 0, &id);
        if (err) CHECK_EQ(err, 0);
    }
    CHECK_EQ(fsb_handles_release(t, 1), N);
    fsb_handles_close(t);
    CHECK_EQ(m.live, 0);
}

/* Threads that use, reuse and guess each other's handles. Objects know their own id. */
typedef struct stress_object {
    uint64_t live; /* 1 while it may be reached through a pin */
    uint64_t id;
} stress_object;
enum { STRESS_IDS = 64 };
static struct {
    fsb_handles *t;
    uint64_t     id[STRESS_IDS];
    int          quit;
} stress;

static void stress_release(void *user, fsb_handle id, void *object)
{
    stress_object *o = object;
    (void)user;
    CHECK_EQ(__atomic_load_n(&o->id, __ATOMIC_RELAXED), id);
    CHECK_EQ(__atomic_exchange_n(&o->live, 0, __ATOMIC_RELAXED), 1);
    free(o);
}

static void stress_add(unsigned at)
{
    stress_object *o = malloc(sizeof *o);
    fsb_handle     id = 0;
    o->live = 1, o->id = 0;
    if (fsb_handles_add(stress.t, o, at % 3, 0, &id) != 0) {
        free(o);
        return;
    }
    void *found;
    CHECK_EQ(fsb_handles_get(stress.t, id, 0, &found), 0);
    CHECK(found == o);
    __atomic_store_n(&o->id, id, __ATOMIC_RELAXED);
    id = __atomic_exchange_n(&stress.id[at], id, __ATOMIC_ACQ_REL);
    if (id) CHECK(fsb_handles_remove(stress.t, id, 0) >= 0);
}

static void *stress_main(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    while (!__atomic_load_n(&stress.quit, __ATOMIC_RELAXED)) {
        const unsigned at = (unsigned)rand_r(&seed) % STRESS_IDS;
        void          *found = NULL;
        const uint64_t id = __atomic_load_n(&stress.id[at], __ATOMIC_ACQUIRE);
        switch (rand_r(&seed) % 4) {
        case 0: stress_add(at); break;
        case 1:
            if (id && fsb_handles_pin(stress.t, id, 0, &found) == 0) {
                const stress_object *o = found;
                CHECK_EQ(__atomic_load_n(&o->live, __ATOMIC_RELAXED), 1);
                CHECK_EQ(__atomic_load_n(&o->id, __ATOMIC_RELAXED), id);
                CHECK_EQ(fsb_handles_unpin(stress.t, id), 0);
            }
            break;
        default:
            if (id) (void)fsb_handles_get(stress.t, id, 0, &found);
        }
    }
    return NULL;
}

static void test_handles_stress(void)
{
    pthread_t threads[4];
    memset(&stress, 0, sizeof stress);
    REQUIRE(fsb_handles_open(&stress.t, &(fsb_handles_desc){.max_handles = 80, .shards = 2,
                                                            .release = stress_release}) == 0);
    for (int i = 0; i < 4; ++i)
        pthread_create(&threads[i], NULL, stress_main, (void *)(uintptr_t)(i + 1));
    nap(1500);
    __atomic_store_n(&stress.quit, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
    fsb_handles_close(stress.t);
}

/* ---- mounts ---- */

static const char *where(fsb_mounts *t, const char *path, char *out) /* number and rest */
{
    fsb_mounted at;
    const int   err = fsb_mounts_resolve(t, path, &at);
    if (err) return err == -ENOENT ? "none" : "error";
    sprintf(out, "%u%s", at.binds[0].number, at.rest);
    fsb_mounts_release(t, &at);
    return out;
}

static int add(fsb_mounts *t, const char *path, fsb_backend *b, uint32_t flags)
{
    const fsb_bind bind = {.backend = b, .flags = flags};
    return fsb_mounts_add(t, path, strlen(path), &bind);
}

static void test_mounts_paths(void)
{
    fsb_backend     a = {.size = sizeof a};
    lines           log = {0};
    fsb_mounts     *t = NULL;
    fsb_mounts_desc d = {.log = {log_line, &log}};
    fsb_mounted     at;
    char            out[FSB_PATH_MAX + 20], path[FSB_PATH_MAX + 20];
    REQUIRE(fsb_mounts_open(&t, &d) == 0);
    CHECK_EQ(add(t, "/", &a, 0), 0);
    memset(path, 'x', sizeof path);
    for (size_t i = 0; i < sizeof path; i += 200) path[i] = '/';
    const struct { const char *path; size_t size; int err; } bad[] = {
        {"", 0, -EINVAL}, {"a", 1, -EINVAL}, {"//", 2, -EINVAL}, {"/a/", 3, -EINVAL},
        {"/a//b", 5, -EINVAL}, {"/.", 2, -EINVAL}, {"/a/.", 4, -EINVAL}, {"/..", 3, -EACCES},
        {"/a/../b", 7, -EACCES}, {"/a\0b", 4, -EILSEQ}, {path, FSB_PATH_MAX + 1, -ENAMETOOLONG},
        {path + 1, 10, -EINVAL}, {NULL, 0, -EINVAL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        const fsb_bind bind = {.backend = &a};
        const int      before = log.count;
        CHECK_EQ(fsb_mounts_add(t, bad[i].path, bad[i].size, &bind), bad[i].err);
        CHECK_EQ(log.count, before + 1);
    }
    path[FSB_PATH_MAX] = '\0'; /* the longest there is, below the root: no depth to look for */
    CHECK_EQ(fsb_mounts_resolve(t, path, &at), 0);
    fsb_mounts_release(t, &at);
    CHECK_EQ(fsb_mounts_add(t, path, FSB_PATH_MAX, &(fsb_bind){.backend = &a}), 0);
    CHECK_STR(where(t, path, out), "2");
    for (size_t i = 0; i < 200; i += 2) memcpy(path + i, "/y", 2);
    CHECK_EQ(fsb_mounts_add(t, path, 2 * FSB_BIND_DEPTH_MAX, &(fsb_bind){.backend = &a}), 0);
    CHECK_EQ(fsb_mounts_add(t, path, 2 * FSB_BIND_DEPTH_MAX + 2, &(fsb_bind){.backend = &a}),
             -E2BIG);
    path[150] = '\0';
    CHECK_STR(where(t, path, out), "3/y/y/y/y/y/y/y/y/y/y/y/y/y");
    fsb_mounts_close(t);
}

static void test_mounts(void)
{
    fsb_backend     a = {.size = sizeof a}, b = {.size = sizeof b};
    lines           log = {0};
    test_memory     m = {0};
    fsb_mounts     *t = NULL;
    fsb_mounts_desc d = {.allocator = {test_memory_fn, &m}, .log = {log_line, &log}};
    fsb_mounted     at;
    char            out[FSB_PATH_MAX + 20];
    REQUIRE(fsb_mounts_open(&t, &d) == 0);
    CHECK_STR(where(t, "/", out), "none");
    CHECK_EQ(add(t, "/a", &a, 0), 0);
    CHECK_EQ(add(t, "/a/b/c", &a, 0), 0);
    CHECK_STR(where(t, "/", out), "none");
    CHECK_STR(where(t, "/ab", out), "none"); /* on component boundaries */
    CHECK_STR(where(t, "/a", out), "1");
    CHECK_STR(where(t, "/a/b", out), "1/b");
    CHECK_STR(where(t, "/a/b/cd/e", out), "1/b/cd/e");
    CHECK_STR(where(t, "/a/b/c", out), "2");
    CHECK_STR(where(t, "/a/b/c/d", out), "2/d");
    CHECK_EQ(add(t, "/", &b, 0), 0);
    CHECK_STR(where(t, "/", out), "3");
    CHECK_STR(where(t, "/x", out), "3/x");
    CHECK_EQ(add(t, "/a", &b, 0), -EEXIST);
    CHECK_STR(log.item, "mounts/add");
    CHECK_EQ(fsb_mounts_resolve(t, "/a/x", &at), 0); /* in use */
    CHECK_EQ(fsb_mounts_remove(t, "/a", NULL), -EBUSY);
    CHECK_STR(where(t, "/a", out), "1");
    CHECK_EQ(add(t, "/a", &b, FSB_BIND_REPLACE), -EBUSY);
    CHECK_EQ(add(t, "/a", &b, FSB_BIND_BEFORE), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/a", &a), -EBUSY); /* through the old union */
    CHECK_EQ(at.count, 1);
    CHECK(at.binds[0].backend == &a);
    fsb_mounts_release(t, &at);
    CHECK_EQ(fsb_mounts_resolve(t, "/a", &at), 0);
    CHECK_EQ(at.count, 2);
    CHECK(at.binds[0].backend == &b && at.binds[1].backend == &a);
    fsb_mounts_release(t, &at);
    CHECK_EQ(add(t, "/a", &b, FSB_BIND_AFTER), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/a", &a), 0);
    CHECK_EQ(add(t, "/a", &a, FSB_BIND_REPLACE), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/a", &b), -ENOENT);
    CHECK_EQ(fsb_mounts_remove(t, "/a", NULL), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/a", NULL), -ENOENT);
    CHECK_STR(where(t, "/a/b/x", out), "3/a/b/x");
    CHECK_STR(where(t, "/a/b/c", out), "2");

    char next[FSB_PATH_MAX + 1] = "", all[300] = "";
    CHECK_EQ(add(t, "/a!", &a, 0), 0);
    CHECK_EQ(add(t, "/a/b", &a, 0), 0);
    CHECK_EQ(add(t, "/b", &a, 0), 0);
    while (fsb_mounts_next(t, "/", next))
        if (strlen(next) < 20) strcat(strcat(all, next), " ");
    CHECK_STR(all, "/ /a/b /a/b/c /a! /b ");
    all[0] = next[0] = '\0';
    while (fsb_mounts_next(t, "/a", next)) strcat(strcat(all, next), " ");
    CHECK_STR(all, "/a/b /a/b/c ");
    fsb_mounts_close(t);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

/* Many points come and go; a plain array knows what is right. Resolving asks for no memory. */
static void test_mounts_random(void)
{
    enum { N = 3000 };
    static unsigned char there[N];
    fsb_backend          a = {.size = sizeof a};
    test_memory          m = {0};
    fsb_mounts          *t = NULL;
    unsigned             seed = 1;
    char                 path[64], out[100];
    REQUIRE(fsb_mounts_open(&t, &(fsb_mounts_desc){.allocator = {test_memory_fn, &m}}) == 0);
    for (unsigned i = 0; i < 60000; ++i) {
        const unsigned n = (unsigned)rand_r(&seed) % N;
        sprintf(path, "/%u/%u/%u-a-longer-name-than-fits", n / 300, n / 10 % 30, n % 10);
        if (there[n]) CHECK_EQ(fsb_mounts_remove(t, path, NULL), 0);
        else CHECK_EQ(add(t, path, &a, 0), 0);
        there[n] = !there[n];
        const unsigned k = (unsigned)rand_r(&seed) % N;
        sprintf(path, "/%u/%u/%u-a-longer-name-than-fits/x", k / 300, k / 10 % 30, k % 10);
        const uint64_t before = m.calls;
        CHECK_EQ(strcmp(where(t, path, out), "none") != 0, there[k]);
        CHECK_EQ(m.calls, before);
    }
    memset(there, 0, sizeof there);
    fsb_mounts_close(t);
    CHECK_EQ(m.live, 0);
}

/* "/a/b" is there, then "/a" too, then "/a/b" alone again: "/a/b/x" never leads to the root. */
static fsb_mounts *churn_table;
static int         churn_quit;
static void *churn_main(void *arg)
{
    fsb_backend *b = arg;
    while (!__atomic_load_n(&churn_quit, __ATOMIC_RELAXED)) {
        while (add(churn_table, "/a", b, 0)) {}
        while (fsb_mounts_remove(churn_table, "/a/b", NULL)) {}
        while (add(churn_table, "/a/b", b, 0)) {}
        while (add(churn_table, "/a/b", b, FSB_BIND_REPLACE)) {}
        while (add(churn_table, "/a/b", b, FSB_BIND_AFTER)) {}
        while (fsb_mounts_remove(churn_table, "/a", NULL)) {}
    }
    return NULL;
}

static void *churn_reader(void *arg)
{
    for (int i = 0; i < 200000; ++i) {
        fsb_mounted at;
        if (fsb_mounts_resolve(churn_table, "/a/b/x", &at) != 0) {
            CHECK(0);
            break;
        }
        CHECK(at.binds[0].backend == arg);
        fsb_mounts_release(churn_table, &at);
    }
    return NULL;
}

static void test_mounts_stress(void)
{
    fsb_backend a = {.size = sizeof a}, root = {.size = sizeof root};
    pthread_t   writer, readers[2];
    churn_quit = 0;
    REQUIRE(fsb_mounts_open(&churn_table, NULL) == 0);
    CHECK_EQ(add(churn_table, "/", &root, 0), 0);
    CHECK_EQ(add(churn_table, "/a/b", &a, 0), 0);
    pthread_create(&writer, NULL, churn_main, &a);
    for (int i = 0; i < 2; ++i) pthread_create(&readers[i], NULL, churn_reader, &a);
    for (int i = 0; i < 2; ++i) pthread_join(readers[i], NULL);
    __atomic_store_n(&churn_quit, 1, __ATOMIC_RELAXED);
    pthread_join(writer, NULL);
    fsb_mounts_close(churn_table);
}

/* ---- namespace ---- */

static fsb_backend *memory(void)
{
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, NULL), 0);
    return b;
}

static void test_namespace_conformance(void)
{
    fsb_backend *files = memory(), *b = NULL;
    fsb_mounts  *t = NULL;
    test_memory  m = {0};
    const conformance_traits traits = {.name = "namespace", .can_chown = 1, .has_xattr = 1,
                                       .has_mknod = 1, .has_sparse = 1, .has_punch = 1,
                                       .has_watch = 1};
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    CHECK_EQ(add(t, "/", files, 0), 0);
    CHECK_EQ(fsb_namespace_backend(&b, &(fsb_namespace_desc){
        .mounts = t, .allocator = {test_memory_fn, &m}}), 0);
    REQUIRE(b);
    conformance_run(b, &traits);
    b->close(b);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(fsb_mounts_remove(t, "/", NULL), 0);
    /* and the same where the files are a folder of a backend, at a point of the namespace */
    fsb_backend *inner = NULL, *all = NULL;
    CHECK_EQ(fsb_write_file(files, "/beside", "x", 1, 0644), 0);
    fsb_op mkdir = {.code = FSB_OP_MKDIR, .path = "/in",
                    .attr = {.mask = FSB_ATTR_MODE, .mode = 0755}};
    CHECK_EQ(fsb_backend_call(files, &mkdir), 0);
    CHECK_EQ(fsb_scoped_open(&inner, &(fsb_scoped_desc){.inner = files, .prefix = "/in"}), 0);
    CHECK_EQ(add(t, "/mnt/here", inner, 0), 0);
    CHECK_EQ(fsb_namespace_backend(&b, &(fsb_namespace_desc){.mounts = t}), 0);
    CHECK_EQ(fsb_scoped_open(&all, &(fsb_scoped_desc){.inner = b, .prefix = "/mnt/here"}), 0);
    conformance_traits scoped = traits;
    scoped.scoped = 1, scoped.name = "namespace below a point";
    conformance_run(all, &scoped);
    all->close(all);
    b->close(b);
    fsb_mounts_close(t);
    inner->close(inner);
    files->close(files);
}

typedef struct names { char text[2000]; uint64_t cookie; int stop; } names;
static int add_name(fsb_op *op, const fsb_dirent *e)
{
    names *n = op->user;
    if (n->stop && n->text[0]) return 1;
    strcat(strcat(n->text, e->name), S_ISDIR(e->stat.mode) ? "/ " : " ");
    n->cookie = e->cookie;
    return 0;
}

static const char *list(fsb_backend *b, const char *path, names *n)
{
    memset(n, 0, sizeof *n);
    fsb_op op = {.code = FSB_OP_LIST, .path = path, .emit = add_name, .user = n};
    const int64_t end = fsb_backend_call(b, &op);
    char whole[2000] = "";
    strcpy(whole, n->text);
    if (end < 0) return strcpy(n->text, strerror((int)-end));
    /* one name a call says the same */
    char     single[2000] = "";
    uint64_t cookie = 0;
    for (int i = 0; i < 100; ++i) {
        memset(n, 0, sizeof *n);
        n->stop = 1, op.offset = cookie;
        const int64_t more = fsb_backend_call(b, &op);
        strcat(single, n->text), cookie = n->cookie;
        CHECK(more >= 0);
        if (more) break;
    }
    CHECK_STR(single, whole);
    return strcpy(n->text, whole);
}

static void namespace_handles(fsb_backend *b, fsb_backend *other, fsb_mounts *t, const lines *log)
{
    const fsb_handle h = conf_open(b, "/u/f", FSB_O_READ | FSB_O_WRITE);
    const fsb_handle k = conf_open(b, "/f", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(C(COPY, .handle = h, .handle2 = k, .size64 = 3), -EXDEV);
    CHECK_EQ(fsb_mounts_remove(t, "/u", NULL), -EBUSY);
    fsb_op steal = {.code = FSB_OP_STAT, .handle = h};
    CHECK_EQ(fsb_backend_call(other, &steal), -EACCES);
    CHECK(strstr(log->text, "another owner's"));
    steal.code = FSB_OP_CLOSE;
    CHECK_EQ(fsb_backend_call(other, &steal), -EACCES);
    CHECK_EQ(C(STAT, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = h), -EBADF);
}

static void test_namespace(void)
{
    fsb_backend *one = memory(), *two = memory(), *three = memory(), *b = NULL, *other = NULL;
    fsb_mounts  *t = NULL, *theirs = NULL;
    fsb_handles *handles = NULL;
    lines        log = {0};
    names        n;
    void        *data = NULL;
    size_t       size;
    REQUIRE(fsb_mounts_open(&t, NULL) == 0 && fsb_mounts_open(&theirs, NULL) == 0);
    REQUIRE(fsb_handles_open(&handles, &(fsb_handles_desc){
        .release = fsb_namespace_release, .log = {log_line, &log}}) == 0);
    CHECK_EQ(fsb_write_file(one, "/f", "one", 3, 0644), 0);
    CHECK_EQ(fsb_write_file(two, "/f", "two", 3, 0644), 0);
    CHECK_EQ(fsb_write_file(two, "/g", "g", 1, 0644), 0);
    CHECK_EQ(fsb_write_file(three, "/h", "h", 1, 0644), 0);
    CHECK_EQ(add(t, "/", one, 0), 0);
    CHECK_EQ(add(t, "/u", two, 0), 0);
    CHECK_EQ(add(t, "/u", three, FSB_BIND_AFTER), 0);
    CHECK_EQ(add(t, "/deep/down/ro", three, FSB_BIND_READ_ONLY), 0);
    CHECK_EQ(add(theirs, "/", one, 0), 0);
    fsb_namespace_desc d = {.mounts = t, .handles = handles, .owner = 1};
    REQUIRE(fsb_namespace_backend(&b, &d) == 0);
    d.mounts = theirs, d.owner = 2;
    REQUIRE(fsb_namespace_backend(&other, &d) == 0);

    CHECK_STR(list(b, "/", &n), "f deep/ u/ ");
    CHECK_STR(list(b, "/deep", &n), "down/ ");
    CHECK_STR(list(b, "/deep/down", &n), "ro/ ");
    CHECK_STR(list(b, "/u", &n), "f g h ");
    CHECK_STR(list(b, "/none", &n), strerror(ENOENT));
    CHECK_EQ(C(STAT, .path = "/deep"), 0);
    CHECK(S_ISDIR(conf_op.stat.mode));
    CHECK_EQ(C(MKDIR, .path = "/deep", MODE(0755)), 0); /* the backend may still have it */
    CHECK_EQ(C(RMDIR, .path = "/deep"), -EBUSY);
    CHECK_EQ(C(RENAME, .path = "/deep", .path2 = "/x"), -EBUSY);
    CHECK_EQ(C(RMDIR, .path = "/u"), -EBUSY);
    CHECK_EQ(C(RENAME, .path = "/f", .path2 = "/u/x"), -EXDEV);
    CHECK_EQ(C(LINK, .path = "/f", .path2 = "/u/x"), -EXDEV);
    CHECK_EQ(C(RENAME, .path = "/u/h", .path2 = "/u/i"), 0); /* inside the member that has it */
    CHECK_EQ(C(RENAME, .path = "/u/i", .path2 = "/u/h"), 0);
    CHECK_EQ(C(PUT, .path = "/u/new", .flags = FSB_O_WRITE | FSB_O_CREATE, .data = "n", .size = 1,
               MODE(0644)), 1);
    CHECK_EQ(fsb_read_file(two, "/new", 10, NULL, &data, &size), 0); /* in the first */
    free(data);
    CHECK_EQ(C(UNLINK, .path = "/u/new"), 0);
    CHECK_EQ(C(UNLINK, .path = "/deep/down/ro/h"), -EROFS);
    CHECK_EQ(C(OPEN, .path = "/deep/down/ro/h", .flags = FSB_O_WRITE), -EROFS);
    const uint64_t first = conf_stat(b, "/f").file_id, second = conf_stat(b, "/u/f").file_id;
    CHECK(first != second); /* the backends call both the same */
    CHECK_EQ(C(STAT, .path = "/u/f", .file_id = second), 0);
    CHECK_EQ(C(STAT, .path = "/u/f", .file_id = first), -ESTALE);

    namespace_handles(b, other, t, &log);
    CHECK_EQ(fsb_mounts_remove(t, "/u", two), 0);
    CHECK_STR(list(b, "/u", &n), "h ");
    CHECK_EQ(C(STAT, .path = "/a/../f"), -EINVAL);
    CHECK_EQ(C(STAT, .path = "f"), -EINVAL);
    b->close(b); /* with an open file */
    other->close(other);
    CHECK_EQ(fsb_mounts_remove(t, "/", NULL), 0);
    fsb_handles_close(handles);
    fsb_mounts_close(t);
    fsb_mounts_close(theirs);
    one->close(one);
    two->close(two);
    three->close(three);
}

static int64_t write_full(fsb_backend *b, fsb_op *op)
{
    (void)b;
    return op->result = -ENOSPC;
}

static int64_t list_outside(fsb_backend *b, fsb_op *op) /* what nobody should list */
{
    static const char *const folders[] = {NULL, "/d/sub", "/", "/x", "/dx", "/elsewhere", "/d"};
    (void)b;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; ++i) {
        fsb_dirent e = {.name = "n", .name_size = 1, .cookie = i + 1, .folder = folders[i]};
        e.stat.mode = 0100644, e.stat.file_id = i + 1;
        if (op->emit(op, &e)) return op->result = 0;
    }
    return op->result = 1;
}

typedef struct command { /* a command over a namespace, on a thread of its own */
    fsb_backend *b;
    fsb_op       op;
    fsb_exec     exec;
    char         text[20];
    int          wrong, heard; /* by atomics */
} command;

static int command_output(fsb_op *op, int fd, const void *data, size_t size)
{
    command *c = op->user;
    if (op != &c->op || fd != 1 || strlen(c->text) + size >= sizeof c->text) return c->wrong = 1;
    memcpy(c->text + strlen(c->text), data, size);
    __atomic_add_fetch(&c->heard, 1, __ATOMIC_RELEASE);
    return 0;
}

static void *command_main(void *arg)
{
    command *c = arg;
    static const char *argv[] = {"echo begun; sleep 30", NULL};
    c->exec = (fsb_exec){.argv = argv, .output = command_output};
    c->op = (fsb_op){.code = FSB_OP_EXEC, .path = "/m", .flags = FSB_EXEC_SHELL, .user = c,
                     .exec = &c->exec, .layer = {NULL, c->op.layer[1]}};
    fsb_backend_call(c->b, &c->op);
    return NULL;
}

/* A command's output goes to the op that ran it, and its cancel() reaches the backend, before it
   has begun and while it runs. */
static void test_namespace_exec(void)
{
    fsb_backend *files = NULL, *b = NULL;
    fsb_mounts  *t = NULL;
    command      c = {0};
    pthread_t    thread;
    REQUIRE(fsb_local_open(&files, &(fsb_local_desc){.root = test_dir(), .allow_exec = 1}) == 0);
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    CHECK_EQ(add(t, "/m", files, 0), 0);
    REQUIRE(fsb_namespace_backend(&b, &(fsb_namespace_desc){.mounts = t}) == 0);
    REQUIRE(b->cancel != NULL);
    c.b = b, c.op.code = FSB_OP_EXEC;
    b->cancel(b, &c.op);
    command_main(&c);
    CHECK_EQ(c.op.result, -EINTR);
    CHECK_EQ(c.heard, 0);
    CHECK_EQ(pthread_create(&thread, NULL, command_main, &c), 0);
    for (int i = 0; i < 4000 && !__atomic_load_n(&c.heard, __ATOMIC_ACQUIRE); ++i) nap(5);
    b->cancel(b, &c.op), b->cancel(b, &c.op);
    pthread_join(thread, NULL);
    CHECK_EQ(c.op.result, -EINTR);
    CHECK_STR(c.text, "begun\n");
    CHECK_EQ(c.wrong, 0);
    CHECK_EQ(C(EXEC, .path = "/m"), -EINVAL);
    b->close(b);
    fsb_mounts_close(t);
    files->close(files);
}

static int no_thread(void *user, void (*job)(void *arg), void *arg)
{
    (void)user, (void)job, (void)arg;
    return -EAGAIN;
}

static void count_over(fsb_op *op) { ++*(int *)op->user; }

/* What cannot be sent for want of memory is closed nevertheless. */
static void test_namespace_close(void)
{
    fsb_backend       *files = memory(), *b = NULL;
    fsb_mounts        *t = NULL;
    test_memory        m = {0};
    int                over = 0;
    fsb_namespace_desc d = {.allocator = {test_memory_fn, &m}, .runner = {no_thread, NULL}};
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    CHECK_EQ(add(t, "/", files, 0), 0);
    d.mounts = t;
    REQUIRE(fsb_namespace_backend(&b, &d) == 0);
    conf_put(b, "/f", "x");
    fsb_op op = {.code = FSB_OP_CLOSE, .user = &over, .done = count_over}, *one = &op;
    op.handle = conf_open(b, "/f", FSB_O_READ);
    const fsb_handle handle = op.handle;
    m.fail_at = m.calls + 1;
    b->submit(b, &one, 1);
    CHECK_EQ(over, 1);
    CHECK_EQ(op.result, 0);
    CHECK_EQ(C(CLOSE, .handle = handle), -EBADF);
    b->close(b);
    CHECK_EQ(m.live, 0);
    fsb_mounts_close(t);
    files->close(files);
}

static int parts_of; /* names; one a call, and then none for ever (-1), or the end */
static int64_t list_parts(fsb_backend *b, fsb_op *op)
{
    char       name[2] = {(char)('a' + op->offset), 0};
    fsb_dirent e = {.name = name, .name_size = 1, .cookie = op->offset + 1};
    (void)b;
    e.stat.mode = 0100644, e.stat.file_id = op->offset + 1;
    if (parts_of < 0) return op->result = 0;
    if (op->offset >= (uint64_t)parts_of) return op->result = 1;
    (void)op->emit(op, &e);
    return op->result = 0;
}

/* A union shows all of a member that lists in parts, of which some show nothing new. */
static void test_namespace_parts(void)
{
    fsb_backend *one = memory(), *two = memory(), *b = NULL;
    fsb_mounts  *t = NULL;
    names        n;
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    CHECK_EQ(fsb_write_file(one, "/a", "1", 1, 0644), 0);
    CHECK_EQ(fsb_write_file(one, "/b", "1", 1, 0644), 0);
    CHECK_EQ(fsb_write_file(one, "/e", "1", 1, 0644), 0);
    two->call[FSB_OP_LIST] = list_parts, parts_of = 7;
    CHECK_EQ(add(t, "/", one, 0), 0);
    CHECK_EQ(add(t, "/", two, FSB_BIND_AFTER), 0);
    REQUIRE(fsb_namespace_backend(&b, &(fsb_namespace_desc){.mounts = t}) == 0);
    CHECK_STR(list(b, "/", &n), "a b e c d f g ");
    parts_of = -1;
    CHECK_STR(list(b, "/", &n), strerror(EIO));
    b->close(b);
    fsb_mounts_close(t);
    one->close(one), two->close(two);
}

static int add_folder(fsb_op *op, const fsb_dirent *entry)
{
    char *text = op->user;
    strcat(strcat(text, entry->folder ? entry->folder : "."), " ");
    return 0;
}

/* A PUT composed of simple calls leaves nothing that was not there; folders that a DEEP listing has
   no business with are not shown. */
static void test_namespace_over_odd(void)
{
    fsb_backend   *files = memory(), *b = NULL;
    fsb_mounts    *t = NULL;
    char           text[200] = "";
    const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    CHECK_EQ(fsb_backend_mkdir_all(files, "/d", 0755), 0);
    fsb_bind bind = {.backend = files, .prefix = "/d"};
    CHECK_EQ(fsb_mounts_add(t, "/m", 2, &bind), 0);
    REQUIRE(fsb_namespace_backend(&b, &(fsb_namespace_desc){.mounts = t}) == 0);
    files->call[FSB_OP_PUT] = files->call[FSB_OP_GET] = NULL;
    CHECK_EQ(C(PUT, .path = "/m/there", .flags = make, .data = "x", .size = 1, MODE(0644)), 1);
    conf_is(b, "/m/there", "x");
    CHECK_EQ(C(PUT, .path = "/m/there", .flags = make | FSB_O_EXCL, .data = "x", .size = 1),
             -EEXIST);
    CHECK_EQ(C(PUT, .path = "/m/none", .flags = FSB_O_WRITE, .data = "x", .size = 1), -ENOENT);
    int64_t (*const write)(fsb_backend *, fsb_op *) = files->call[FSB_OP_WRITE];
    files->call[FSB_OP_WRITE] = write_full;
    CHECK_EQ(C(PUT, .path = "/m/new", .flags = make, .data = "y", .size = 1, MODE(0644)), -ENOSPC);
    CHECK_EQ(C(STAT, .path = "/m/new"), -ENOENT);
    CHECK_EQ(C(PUT, .path = "/m/there", .flags = make, .data = "y", .size = 1), -ENOSPC);
    files->call[FSB_OP_WRITE] = write;
    conf_is(b, "/m/there", "x");
    files->call[FSB_OP_LIST] = list_outside;
    CHECK_EQ(C(LIST, .path = "/m", .flags = FSB_LIST_STAT | FSB_LIST_DEEP, .emit = add_folder,
               .user = text), 1);
    CHECK_STR(text, ". /m/sub /m ");
    b->close(b);
    fsb_mounts_close(t);
    files->close(files);
}

/* Every allocation fails once; nothing is lost. */
static void test_no_memory(void)
{
    fsb_backend *files = memory();
    for (uint64_t k = 1;; ++k) {
        test_memory   m = {.fail_at = k};
        fsb_allocator a = {test_memory_fn, &m};
        fsb_mounts   *t = NULL;
        fsb_backend  *b = NULL;
        int err = fsb_mounts_open(&t, &(fsb_mounts_desc){.allocator = a});
        if (!err) err = add(t, "/a-name-that-does-not-fit-into-a-point", files, 0);
        if (!err) err = add(t, "/a-name-that-does-not-fit-into-a-point", files, FSB_BIND_BEFORE);
        const fsb_namespace_desc d = {.mounts = t, .allocator = a};
        if (!err) err = fsb_namespace_backend(&b, &d);
        if (!err)
            err = (int)C(OPEN, .path = "/a-name-that-does-not-fit-into-a-point/f",
                         .flags = FSB_O_WRITE | FSB_O_CREATE, MODE(0644));
        if (b) b->close(b);
        fsb_mounts_close(t);
        CHECK_EQ(m.live, 0);
        if (!err) break;
        CHECK_EQ(err, -ENOMEM);
        if (k > 100) {
            CHECK(0);
            break;
        }
    }
    files->close(files);
}

/* What a watch saw, from threads of several backends: "+/x " made, "-/x " removed, "?/x " else. */
typedef struct sights {
    pthread_mutex_t lock;
    char            text[4000];
} sights;

static void see(void *user, const fsb_event *e)
{
    sights *s = user;
    pthread_mutex_lock(&s->lock);
    const size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s%s ",
             e->kind == FSB_EVENT_CREATED   ? "+"
                 : e->kind == FSB_EVENT_REMOVED ? "-"
                                                : "?", e->path);
    pthread_mutex_unlock(&s->lock);
}

static int sighted(sights *s, const char *what)
{
    pthread_mutex_lock(&s->lock);
    const int yes = strstr(s->text, what) != NULL;
    pthread_mutex_unlock(&s->lock);
    return yes;
}

static int wait_sight(sights *s, const char *what)
{
    int64_t napped = 0;
    while (!sighted(s, what))
        if (!test_nap(&napped)) return 0;
    return 1;
}

static void make(fsb_backend *b, const char *path) { fsb_write_file(b, path, "x", 1, 0644); }

/* The root, a folder of it that is hidden by a mount point, and a union: one watch sees them all,
   and nothing once it is closed. */
static void watch_joined(fsb_backend *b, fsb_backend *root, fsb_backend *data, fsb_backend *under)
{
    sights all = {.lock = PTHREAD_MUTEX_INITIALIZER}, flat = {.lock = PTHREAD_MUTEX_INITIALIZER};
    sights both = {.lock = PTHREAD_MUTEX_INITIALIZER};
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &all), 0);
    const fsb_handle deep = conf_op.handle;
    CHECK_EQ(C(WATCH, .path = "/", .event = see, .user = &flat), 0);
    const fsb_handle shallow = conf_op.handle;
    CHECK_EQ(C(WATCH, .path = "/u", .event = see, .user = &both), 0);
    const fsb_handle joint = conf_op.handle;
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_HELD, .event = see, .user = &all), -ENOSYS);
    CHECK_EQ(C(WATCH, .path = "/"), -EINVAL);
    make(root, "/data/hidden");
    make(data, "/y");
    CHECK(wait_sight(&all, "+/data/y "));
    CHECK_EQ(C(UNLINK, .path = "/data/y"), 0);
    CHECK(wait_sight(&all, "-/data/y "));
    make(under, "/w");
    make(b, "/u/z"); /* the first member's */
    CHECK(wait_sight(&all, "+/u/w ") && wait_sight(&all, "+/u/z "));
    CHECK(wait_sight(&both, "+/u/w ") && wait_sight(&both, "+/u/z "));
    make(root, "/end"); /* behind /data/hidden, on the same thread */
    CHECK(wait_sight(&all, "+/end ") && wait_sight(&flat, "+/end "));
    CHECK(!sighted(&all, "hidden"));
    CHECK(!sighted(&flat, "/data/") && !sighted(&flat, "/u/"));
    CHECK_EQ(C(CLOSE, .handle = deep), 0);
    CHECK_EQ(C(CLOSE, .handle = deep), -EBADF);
    make(data, "/late");
    make(under, "/late");
    CHECK(wait_sight(&both, "+/u/late "));
    CHECK(!sighted(&all, "late"));
    CHECK_EQ(C(CLOSE, .handle = shallow), 0);
    CHECK_EQ(C(CLOSE, .handle = joint), 0);
}

/* A point that comes behind the watch: nothing of it is told, nor of what it hides, until somebody
   watches anew. */
static void watch_before_point(fsb_backend *b, fsb_mounts *t, fsb_backend *root, fsb_backend *later)
{
    sights old = {.lock = PTHREAD_MUTEX_INITIALIZER}, anew = {.lock = PTHREAD_MUTEX_INITIALIZER};
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &old), 0);
    const fsb_handle first = conf_op.handle;
    make(root, "/data/seen");
    CHECK(wait_sight(&old, "+/data/seen "));
    CHECK_EQ(add(t, "/data", later, 0), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &anew), 0);
    const fsb_handle second = conf_op.handle;
    make(root, "/data/unseen");
    make(later, "/new");
    make(root, "/behind");
    CHECK(wait_sight(&old, "+/behind ") && wait_sight(&anew, "+/behind "));
    CHECK(wait_sight(&anew, "+/data/new "));
    CHECK(!sighted(&old, "unseen") && !sighted(&old, "new"));
    CHECK(!sighted(&anew, "unseen"));
    CHECK_EQ(C(CLOSE, .handle = first), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/data", NULL), -EBUSY); /* the second one has joined it */
    CHECK_EQ(C(CLOSE, .handle = second), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/data", NULL), 0);
}

static void test_namespace_watch(void)
{
    fsb_backend *root = memory(), *data = memory(), *first = memory(), *under = memory(), *b = NULL;
    fsb_backend  dumb = {.size = sizeof dumb, .name = "dumb"};
    fsb_mounts  *t = NULL;
    test_memory  m = {0};
    sights       s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    REQUIRE(fsb_mounts_open(&t, NULL) == 0);
    REQUIRE(fsb_namespace_backend(&b, &(fsb_namespace_desc){
        .mounts = t, .allocator = {test_memory_fn, &m}}) == 0);
    CHECK_EQ(add(t, "/data", data, 0), 0);
    CHECK_EQ(C(WATCH, .path = "/", .event = see, .user = &s), -ENOENT); /* no backend has it */
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &s), 0);
    make(data, "/only");
    CHECK(wait_sight(&s, "+/data/only "));
    CHECK_EQ(fsb_mounts_remove(t, "/data", NULL), -EBUSY); /* it is watched */
    CHECK_EQ(C(CLOSE, .handle = conf_op.handle), 0);
    CHECK_EQ(add(t, "/", root, 0), 0);
    CHECK_EQ(add(t, "/u", first, 0), 0);
    CHECK_EQ(add(t, "/u", under, FSB_BIND_AFTER), 0);
    fsb_op mkdir = {.code = FSB_OP_MKDIR, .path = "/data",
                    .attr = {.mask = FSB_ATTR_MODE, .mode = 0755}};
    CHECK_EQ(fsb_backend_call(root, &mkdir), 0);
    watch_joined(b, root, data, under);
    CHECK_EQ(fsb_mounts_remove(t, "/data", NULL), 0);
    watch_before_point(b, t, root, data);
    CHECK_EQ(add(t, "/data", data, 0), 0);
    /* one that cannot be watched: no watch rather than one with holes, and nothing stays */
    CHECK_EQ(add(t, "/dumb", &dumb, 0), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &s), -ENOSYS);
    CHECK_EQ(fsb_mounts_remove(t, "/dumb", NULL), 0);
    for (uint64_t k = 1, err = 1; err; ++k) { /* no memory, wherever it is asked for */
        m.calls = 0, m.fail_at = k;
        const int64_t n =
            C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = see, .user = &s);
        m.fail_at = 0, err = n != 0;
        if (n) CHECK_EQ(n, -ENOMEM);
        REQUIRE(k < 100);
    }
    CHECK_EQ(fsb_mounts_remove(t, "/u", NULL), -EBUSY);
    b->close(b); /* with a watch */
    CHECK_EQ(m.live, 0);
    CHECK_EQ(fsb_mounts_remove(t, "/u", NULL), 0);
    CHECK_EQ(fsb_mounts_remove(t, "/data", NULL), 0);
    fsb_mounts_close(t);
    root->close(root), data->close(data), first->close(first), under->close(under);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_every_interleaving);
    TEST(test_explorer_finds);
    TEST(test_every_removal);
    TEST(test_handles);
    TEST(test_handles_retire);
    TEST(test_handles_idle);
    TEST(test_handles_million);
    TEST(test_handles_stress);
    TEST(test_mounts);
    TEST(test_mounts_paths);
    TEST(test_mounts_random);
    TEST(test_mounts_stress);
    TEST(test_namespace_conformance);
    TEST(test_namespace);
    TEST(test_namespace_over_odd);
    TEST(test_namespace_exec);
    TEST(test_namespace_close);
    TEST(test_namespace_parts);
    TEST(test_namespace_watch);
    TEST(test_no_memory);
    return test_end("test_tables");
}
