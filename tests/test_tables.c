/* test_tables.c - handles, mount tables, namespaces and tokens: alone, without FUSE.

   The handle table is run through every interleaving of its steps: FSB_TABLES_STEP_() stands before
   each access to shared memory, and here it hands over to a scheduler, so that it is the code
   itself that is explored, not a model of it. */
#include <stdint.h>
static void explore_step(void);
#define FSB_TABLES_STEP_() explore_step()
#define FSB_IMPLEMENTATION
#include "fsb_mount.h"
#include "fsb_backend.h"
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

#ifdef __SANITIZE_THREAD__
enum { BLIND = 1 };
#else
enum { BLIND = 0 };
#endif
enum { ACTORS = 3, DEPTH = 200 };
static struct {
    void (*actor[ACTORS])(void);
    int        actors, running, at, depth, alive[ACTORS];
    int        choice[DEPTH], choices[DEPTH]; /* of this run: what was chosen, out of how many */
    ucontext_t start, context[ACTORS];
    jmp_buf    main, place[ACTORS]; /* swapcontext() is two system calls */
    int        started[ACTORS];
    char       stack[ACTORS][64 << 10];
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

/* One run, with the choices made so far; new ones are the first. */
static void explore_run(void)
{
    for (int i = 0; i < explore.actors; ++i) {
        getcontext(&explore.context[i]);
        explore.context[i].uc_stack.ss_sp = explore.stack[i];
        explore.context[i].uc_stack.ss_size = sizeof explore.stack[i];
        explore.context[i].uc_link = NULL;
        makecontext(&explore.context[i], explore_actor, 0);
        explore.alive[i] = 1, explore.started[i] = 0;
    }
    for (explore.at = 0;; ++explore.at) {
        int ready[ACTORS], n = 0;
        for (int i = 0; i < explore.actors; ++i)
            if (explore.alive[i]) ready[n++] = i;
        if (!n) break;
        if (explore.at >= DEPTH) abort();
        if (explore.at == explore.depth) explore.choice[explore.depth++] = 0;
        explore.choices[explore.at] = n;
        explore.running = ready[explore.choice[explore.at]];
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
    void *object = NULL;
    if (fsb_handles_get(slots.t, slots.old, 1, &object) == 0) CHECK(object == &slots.object[0]);
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

static void actor_expire(void) /* what a sweep does to an idle one */
{
    fsb_handles_kill_(slots.t, fsb_handles_at_(slots.t, (uint32_t)slots.old), slots.old, 1);
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
        {"expire, pin", 2, {actor_expire, actor_pin}},
        {"expire, reuse", 2, {actor_expire, actor_reuse}},
    };
    if (BLIND) SKIP("the thread sanitizer cannot follow the explorer");
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
    if (BLIND) SKIP("the thread sanitizer cannot follow the explorer");
    explore_wrong = 0;
    explore_all(slots_begin, slots_end, 2, actors);
    CHECK(explore_wrong > 0);
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
    const fsb_handle guesses[] = {0, 1, h[0] + 1, h[0] ^ UINT64_C(2) << 32, UINT64_MAX,
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
    fsb_handles_at_(t, (uint32_t)last)->state = (uint64_t)(UINT32_MAX - 1) << 32;
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
    fsb_handles_desc d = {.idle_ms = 60, .release = count_release, .user = &gone};
    fsb_handle       idle, busy, pinned, never, ids[4] = {0};
    void            *found;
    REQUIRE(fsb_handles_open(&t, &d) == 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &idle), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &busy), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &pinned), 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, UINT32_MAX, &never), 0);
    CHECK_EQ(fsb_handles_pin(t, pinned, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 0);
    nap(40);
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 0);
    nap(40);
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_sweep(t, ids, 4), 1);
    CHECK_EQ(ids[0], idle);
    CHECK_EQ(fsb_handles_get(t, idle, 0, &found), -EBADF);
    CHECK_EQ(fsb_handles_get(t, busy, 0, &found), 0);
    CHECK_EQ(fsb_handles_get(t, pinned, 0, &found), 0);
    CHECK_EQ(fsb_handles_get(t, never, 0, &found), 0);
    fsb_handles_close(t);
    CHECK_EQ(gone, 4);
    gone = 0, d.sweep_ms = 5; /* a thread does it */
    REQUIRE(fsb_handles_open(&t, &d) == 0);
    CHECK_EQ(fsb_handles_add(t, &object, 0, 0, &idle), 0);
    for (int i = 0; i < 500 && !__atomic_load_n(&gone, __ATOMIC_RELAXED); ++i) nap(10);
    CHECK_EQ(__atomic_load_n(&gone, __ATOMIC_RELAXED), 1);
    fsb_handles_stats stats;
    fsb_handles_stat(t, &stats);
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

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_every_interleaving);
    TEST(test_explorer_finds);
    TEST(test_handles);
    TEST(test_handles_retire);
    TEST(test_handles_idle);
    TEST(test_handles_million);
    TEST(test_handles_stress);
    return test_end("test_tables");
}
