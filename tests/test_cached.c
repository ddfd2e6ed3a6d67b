/* test_cached.c - the caching backend of fsb_cache.h.

   What is wrapped is a hub: a memory backend behind ports, each as a client of a host sees it.
   Ops of a port are run by threads, in any order and late if asked for; done() and events come on
   the port's one receiver thread, and a change is answered only after every other port's event()
   has returned. Calls are counted; a port can be cut off. */
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_backend.h"
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"
#include "conformance.h"

/* ---- the hub ---- */

enum { PORTS = 4, THREADS = 4, CALL_MAX = 64 };
typedef struct hub hub;
typedef struct item item; /* for a receiver: an answer or an event */
struct item {
    item      *next;
    fsb_op    *op;
    fsb_event *event; /* whose teller waits for `told` */
    int        told;
};
typedef struct port {
    fsb_backend base; /* first */
    hub        *hub;
    pthread_t   receiver, threads[THREADS];
    fsb_op     *queue, **queue_tail;
    item       *inbox, **inbox_tail;
    void (*event)(void *user, const fsb_event *event);
    void       *user;
    uint64_t    calls[CALL_MAX];
    int         busy; /* ops under way; of those submitted, until done() has returned */
    int         closing, threads_gone;
    int         lost;      /* errno that everything answers */
    unsigned    jitter_us; /* answers come up to so much late */
    unsigned    far_us;    /* who waits for an answer here waits so long */
    unsigned    seed;
    int         no_lease, plain;
    uint64_t    calls_all, fails; /* the call that answers `failure`, or -EAGAIN: too few bytes */
    int         failure;
} port;
struct hub {
    fsb_backend    *memory;
    pthread_mutex_t lock; /* all of this, and what runs on memory: each op is one step */
    pthread_cond_t  wake;
    port            ports[PORTS];
    int             count;
};

static int hub_changes(const fsb_op *op)
{
    switch (op->code) {
    case FSB_OP_OPEN: return (op->flags & (FSB_O_CREATE | FSB_O_TRUNC)) != 0;
    case FSB_OP_WRITE: case FSB_OP_MKDIR: case FSB_OP_UNLINK: case FSB_OP_RMDIR:
    case FSB_OP_RENAME: case FSB_OP_LINK: case FSB_OP_SYMLINK: case FSB_OP_MKNOD:
    case FSB_OP_SETATTR: case FSB_OP_ALLOCATE: case FSB_OP_PUT: case FSB_OP_SETXATTR:
    case FSB_OP_REMOVEXATTR: return 1;
    default: return 0;
    }
}

/* Puts an item into a port's inbox. Locked. */
static void hub_post(port *p, item *i)
{
    i->next = NULL, *p->inbox_tail = i, p->inbox_tail = &i->next;
    pthread_cond_broadcast(&p->hub->wake);
}

/* Tells all ports but `from` of an event, and waits until they have heard. Locked. */
static void hub_tell(hub *h, const port *from, fsb_event *event)
{
    item items[PORTS];
    int  count = 0;
    for (int i = 0; i < h->count; ++i) {
        if (&h->ports[i] == from || !h->ports[i].event || h->ports[i].lost) continue;
        memset(&items[count], 0, sizeof items[count]);
        items[count].event = event;
        hub_post(&h->ports[i], &items[count++]);
    }
    for (int i = 0; i < count; ++i)
        while (!items[i].told) pthread_cond_wait(&h->wake, &h->lock);
}

/* What others hear of an op that is done. */
static void hub_tell_op(hub *h, const port *from, const fsb_op *op, const char *path)
{
    fsb_event e = {0};
    e.path = path;
    switch (op->code) {
    case FSB_OP_MKDIR: case FSB_OP_SYMLINK: case FSB_OP_MKNOD: e.kind = FSB_EVENT_CREATED; break;
    case FSB_OP_OPEN: case FSB_OP_PUT:
        e.kind = op->flags & FSB_O_CREATE ? FSB_EVENT_CREATED : FSB_EVENT_CONTENT;
        hub_tell(h, from, &e);
        e.kind = FSB_EVENT_CONTENT;
        break;
    case FSB_OP_LINK: e.kind = FSB_EVENT_CREATED, e.path = op->path2; break;
    case FSB_OP_UNLINK: case FSB_OP_RMDIR: e.kind = FSB_EVENT_REMOVED; break;
    case FSB_OP_RENAME: e.kind = FSB_EVENT_RENAMED, e.path2 = op->path2; break;
    case FSB_OP_SETATTR: case FSB_OP_SETXATTR: case FSB_OP_REMOVEXATTR:
        e.kind = FSB_EVENT_ATTR;
        break;
    default: e.kind = FSB_EVENT_CONTENT;
    }
    if (e.path) hub_tell(h, from, &e);
}

/* Which path a handle was opened by: enough for these tests, where open files keep their names. */
static struct { fsb_handle handle; char path[64]; } hub_paths[4096];
static void hub_note(fsb_handle handle, const char *path)
{
    const size_t at = (uint32_t)handle % 4096;
    hub_paths[at].handle = handle;
    snprintf(hub_paths[at].path, sizeof hub_paths[at].path, "%s", path);
}

static void hub_watch(port *p, fsb_op *op)
{
    op->result = p->no_lease ? -ENOSYS : 0;
    if (op->result == 0) p->event = op->event, p->user = op->user, op->handle = UINT64_MAX;
}

static void port_run(port *p, fsb_op *op)
{
    hub *h = p->hub;
    fsb_op sub = *op; /* layer[] is not ours to change */
    ++p->calls[op->code];
    const int fails = ++p->calls_all == p->fails;
    if (p->lost) op->result = p->lost;
    else if (fails && p->failure != -EAGAIN) op->result = p->failure;
    else if (op->code == FSB_OP_WATCH && op->flags & FSB_WATCH_HELD) hub_watch(p, op);
    else if (op->code == FSB_OP_CLOSE && op->handle == UINT64_MAX) p->event = NULL, op->result = 0;
    else {
        (void)sub;
        if (p->plain && op->code == FSB_OP_LIST && op->flags > FSB_LIST_STAT) op->result = -EINVAL;
        else fsb_backend_call(h->memory, op);
        if (op->code == FSB_OP_OPEN && op->result >= 0) hub_note(op->handle, op->path);
        if (fails && op->result > 1 && op->code != FSB_OP_LIST) --op->result;
        const char *path = op->path;
        const int by_handle = op->code == FSB_OP_WRITE || op->code == FSB_OP_ALLOCATE ||
                              (op->handle && op->code != FSB_OP_OPEN);
        if (by_handle) path = hub_paths[(uint32_t)op->handle % 4096].path;
        if (op->result >= 0 && hub_changes(op)) hub_tell_op(h, p, op, path);
    }
}

static void *port_thread(void *arg)
{
    port *p = arg;
    hub  *h = p->hub;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!p->queue && !p->closing) pthread_cond_wait(&h->wake, &h->lock);
        fsb_op *op = p->queue;
        if (!op) break;
        p->queue = op->next;
        if (!p->queue) p->queue_tail = &p->queue;
        unsigned early = 0, late = 0;
        if (p->jitter_us) {
            early = (unsigned)rand_r(&p->seed) % p->jitter_us;
            late = (unsigned)rand_r(&p->seed) % p->jitter_us;
        }
        if (early) pthread_mutex_unlock(&h->lock), usleep(early), pthread_mutex_lock(&h->lock);
        port_run(p, op);
        if (late) pthread_mutex_unlock(&h->lock), usleep(late), pthread_mutex_lock(&h->lock);
        item *answer = calloc(1, sizeof *answer);
        answer->op = op;
        hub_post(p, answer);
    }
    ++p->threads_gone;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static void *port_receiver(void *arg)
{
    port *p = arg;
    hub  *h = p->hub;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        while (!p->inbox && p->threads_gone < THREADS) pthread_cond_wait(&h->wake, &h->lock);
        item *i = p->inbox;
        if (!i) break;
        p->inbox = i->next;
        if (!p->inbox) p->inbox_tail = &p->inbox;
        void (*const tell)(void *, const fsb_event *) = p->event;
        pthread_mutex_unlock(&h->lock);
        const int answer = i->op != NULL;
        if (answer) i->op->done(i->op), free(i);
        else if (tell) tell(p->user, i->event);
        pthread_mutex_lock(&h->lock);
        if (answer) --p->busy;
        else i->told = 1, pthread_cond_broadcast(&h->wake);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static void port_submit(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    port *p = (port *)b;
    pthread_mutex_lock(&p->hub->lock);
    for (size_t i = 0; i < n; ++i)
        ops[i]->next = NULL, *p->queue_tail = ops[i], p->queue_tail = &ops[i]->next, ++p->busy;
    pthread_cond_broadcast(&p->hub->wake);
    pthread_mutex_unlock(&p->hub->lock);
}

static int64_t port_call(fsb_backend *b, fsb_op *op)
{
    port *p = (port *)b;
    if (p->far_us) usleep(p->far_us);
    pthread_mutex_lock(&p->hub->lock);
    port_run(p, op);
    pthread_mutex_unlock(&p->hub->lock);
    return op->result;
}

static fsb_backend *hub_port(hub *h)
{
    port *p = &h->ports[h->count++];
    p->hub = h, p->queue_tail = &p->queue, p->inbox_tail = &p->inbox, p->seed = (unsigned)h->count;
    p->base.size = sizeof p->base, p->base.name = "port", p->base.submit = port_submit;
    for (int i = 1; i < FSB_OP_COUNT; ++i)
        if (h->memory->call[i]) p->base.call[i] = port_call;
    pthread_create(&p->receiver, NULL, port_receiver, p);
    for (int i = 0; i < THREADS; ++i) pthread_create(&p->threads[i], NULL, port_thread, p);
    return &p->base;
}

static void hub_open(hub *h)
{
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, NULL);
    fsb_memory_open(&h->memory, NULL);
}

static void hub_close(hub *h)
{
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->count; ++i) h->ports[i].closing = 1;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; i < h->count; ++i) {
        for (int j = 0; j < THREADS; ++j) pthread_join(h->ports[i].threads[j], NULL);
        pthread_join(h->ports[i].receiver, NULL);
    }
    h->memory->close(h->memory);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->wake);
}

static int hub_busy(hub *h, int which)
{
    pthread_mutex_lock(&h->lock);
    const int busy = h->ports[which].busy;
    pthread_mutex_unlock(&h->lock);
    return busy;
}

static uint64_t hub_calls(hub *h, int which)
{
    uint64_t sum = 0;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < CALL_MAX; ++i) sum += h->ports[which].calls[i];
    pthread_mutex_unlock(&h->lock);
    return sum;
}

static fsb_backend *cached_over(fsb_backend *inner, fsb_cache_backend_desc d)
{
    fsb_backend *b = NULL;
    d.inner = inner;
    CHECK_EQ(fsb_cached_backend(&b, &d), 0);
    return b;
}

/* The same of a host that seems to be far away. */
static fsb_backend *cached_far(hub *h)
{
    fsb_backend *inner = hub_port(h);
    port        *p = &h->ports[h->count - 1];
    p->far_us = 3000;
    fsb_backend *b = cached_over(inner, (fsb_cache_backend_desc){0});
    p->far_us = 0;
    return b;
}

/* Waits until nothing is under way that nobody waits for, and nothing more comes. */
static void settle(hub *h, int which)
{
    uint64_t before = UINT64_MAX;
    for (int i = 0, quiet = 0; i < 3000 && quiet < 3; ++i, usleep(20000)) {
        const uint64_t now = hub_calls(h, which);
        quiet = now == before && !hub_busy(h, which) ? quiet + 1 : 0, before = now;
    }
}

/* A change that another client makes: all leases have heard when it returns. */
static int64_t elsewhere(hub *h, fsb_op op)
{
    pthread_mutex_lock(&h->lock);
    const int64_t n = fsb_backend_call(h->memory, &op);
    if (n >= 0) hub_tell_op(h, NULL, &op, op.path);
    pthread_mutex_unlock(&h->lock);
    return n;
}
#define ELSEWHERE(name, ...) elsewhere(&h, (fsb_op){.code = FSB_OP_##name, __VA_ARGS__})
static void elsewhere_put(hub *h, const char *path, const char *text)
{
    CHECK_EQ(elsewhere(h, (fsb_op){.code = FSB_OP_PUT, .path = path, .data = text,
                                   .size = strlen(text), MODE(0644),
                                   .flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC}),
             (int64_t)strlen(text));
}

/* ---- the tests ---- */

static const conformance_traits over_memory = {
    .name = "cached(memory)", .can_chown = 1, .has_xattr = 1, .has_mknod = 1, .has_sparse = 1,
    .has_punch = 1, .has_watch = 1, .many = 1000};

static void test_conformance_memory(void)
{
    fsb_backend *memory = NULL, *b;
    REQUIRE(fsb_memory_open(&memory, NULL) == 0);
    b = cached_over(memory, (fsb_cache_backend_desc){0});
    conformance_run(b, &over_memory);
    b->close(b);
    memory->close(memory);
}

static void test_conformance_leased(void)
{
    hub h;
    hub_open(&h);
    fsb_backend       *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    conformance_traits t = over_memory;
    t.name = "cached(leased)";
    conformance_run(b, &t);
    b->close(b);
    hub_close(&h);
}

static void test_conformance_local(void)
{
    char           root[300];
    fsb_backend   *local = NULL, *b;
    fsb_local_desc d = {0};
    snprintf(root, sizeof root, "%s/served", test_dir());
    REQUIRE(mkdir(root, 0755) == 0);
    d.root = root;
    REQUIRE(fsb_local_open(&local, &d) == 0);
    b = cached_over(local, (fsb_cache_backend_desc){0});
    conformance_traits t = over_memory;
    t.name = "cached(local)", t.can_chown = geteuid() == 0, t.has_mknod = geteuid() == 0;
    t.has_descriptor = 1;
    conformance_run(b, &t);
    b->close(b);
    local->close(local);
}

static int command_output(fsb_op *op, int fd, const void *data, size_t size)
{
    if (op->user != op || fd != 1 || size > 20) return 1; /* it is not the op that was asked */
    memcpy(op->buf, data, size);
    return 0;
}

/* A command's output goes to the op that ran it, and its end, too. */
static void test_exec(void)
{
    static const char *argv[] = {"echo it; exit 3", NULL};
    fsb_backend       *local = NULL, *b;
    char               text[21] = "";
    REQUIRE(fsb_local_open(&local, &(fsb_local_desc){.root = test_dir(), .allow_exec = 1}) == 0);
    b = cached_over(local, (fsb_cache_backend_desc){0});
    fsb_exec exec = {.argv = argv, .output = command_output};
    fsb_op   op = {.code = FSB_OP_EXEC, .path = "/", .flags = FSB_EXEC_SHELL, .exec = &exec,
                   .buf = text};
    op.user = &op;
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    CHECK_STR(text, "it\n");
    CHECK_EQ(exec.exit_code, 3);
    b->close(b);
    local->close(local);
}

/* What was asked once is not asked again; what others change is seen at once. */
static void test_hits_and_events(void)
{
    hub h;
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/d", MODE(0755)), 0);
    elsewhere_put(&h, "/d/a", "one");
    conf_stat(b, "/"), conf_stat(b, "/d");
    conf_is(b, "/d/a", "one");
    CHECK_EQ(C(STAT, .path = "/d/no"), -ENOENT);
    CHECK_EQ(conf_count(b, "/d"), 1);
    settle(&h, 0);
    const uint64_t before = hub_calls(&h, 0);
    for (int i = 0; i < 10; ++i) {
        conf_stat(b, "/d/a");
        conf_is(b, "/d/a", "one");
        CHECK_EQ(C(STAT, .path = "/d/no"), -ENOENT);
        CHECK_EQ(C(STAT, .path = "/d/neither"), -ENOENT);
        CHECK_EQ(conf_count(b, "/d"), 1);
        const fsb_handle f = conf_open(b, "/d/a", FSB_O_READ);
        char             got[10];
        CHECK_EQ(C(READ, .handle = f, .buf = got, .size = sizeof got), 3);
        CHECK_EQ(C(CLOSE, .handle = f), 0);
    }
    CHECK_EQ(hub_calls(&h, 0), before);
    elsewhere_put(&h, "/d/a", "two");
    conf_is(b, "/d/a", "two");
    elsewhere_put(&h, "/d/no", "now");
    conf_is(b, "/d/no", "now");
    CHECK_EQ(conf_count(b, "/d"), 2);
    settle(&h, 0);
    const uint64_t again = hub_calls(&h, 0);
    CHECK_EQ(conf_count(b, "/d"), 2);
    CHECK_EQ(hub_calls(&h, 0), again);
    CHECK_EQ(ELSEWHERE(RENAME, .path = "/d", .path2 = "/e"), 0);
    CHECK_EQ(C(STAT, .path = "/d/a"), -ENOENT);
    conf_is(b, "/e/a", "two");
    CHECK_EQ(ELSEWHERE(SETATTR, .path = "/e/a", .attr = {.mask = FSB_ATTR_MODE, .mode = 0600}), 0);
    CHECK_EQ(conf_stat(b, "/e/a").mode & 0777, 0600);
    CHECK_EQ(ELSEWHERE(UNLINK, .path = "/e/a"), 0);
    CHECK_EQ(C(GET, .path = "/e/a", .size = 10), -ENOENT);
    b->close(b);
    hub_close(&h);
}

/* While the host is away: what is known, and nothing else; then as before. */
static void test_offline(void)
{
    hub  h;
    char text[64] = "";
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    elsewhere_put(&h, "/a", "kept"), elsewhere_put(&h, "/b", "not read");
    conf_stat(b, "/");
    CHECK_EQ(conf_count(b, "/"), 2);
    conf_is(b, "/a", "kept");
    settle(&h, 0);
    CHECK_EQ(C(GETXATTR, .path = "/", .path2 = "user.fsb.status", .buf = text, .size = 63), 6);
    CHECK_STR(text, "online");
    h.ports[0].lost = -ENOTCONN;
    CHECK_EQ(C(GET, .path = "/b", .size = 100), -ENOTCONN);
    conf_is(b, "/a", "kept");
    CHECK_EQ(conf_count(b, "/"), 2);
    CHECK_EQ(C(UNLINK, .path = "/a"), -ENETDOWN);
    CHECK_EQ(C(GET, .path = "/b", .size = 100), -ENOTCONN);
    CHECK(C(GETXATTR, .path = "/", .path2 = "user.fsb.status", .buf = text, .size = 63) > 20);
    CHECK(strncmp(text, "offline since 20", 16) == 0);
    h.ports[0].lost = 0;
    elsewhere_put(&h, "/a", "changed meanwhile");
    CHECK_EQ(C(GET, .path = "/b", .buf = text, .size = 60), 8);
    conf_is(b, "/a", "changed meanwhile");
    CHECK_EQ(C(UNLINK, .path = "/a"), 0);
    CHECK_EQ(C(STAT, .path = "/a"), -ENOENT);
    b->close(b);
    hub_close(&h);
}

/* Many small files one after another cost few calls; a walk does, too. */
static void test_few_calls(void)
{
    hub  h;
    char path[64], body[10240];
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    memset(body, 'x', sizeof body);
    for (int d = 0; d < 50; ++d) {
        snprintf(path, sizeof path, "/d%02d", d);
        CHECK_EQ(ELSEWHERE(MKDIR, .path = path, MODE(0755)), 0);
        for (int i = 0; i < 10; ++i) {
            snprintf(path, sizeof path, "/d%02d/f%d", d, i);
            CHECK_EQ(ELSEWHERE(PUT, .path = path, .data = body, .size = sizeof body,
                               .flags = FSB_O_WRITE | FSB_O_CREATE),
                     (int64_t)sizeof body);
        }
    }
    h.ports[0].jitter_us = 5000;
    conf_stat(b, "/");
    CHECK_EQ(conf_count(b, "/"), 50);
    for (int d = 0; d < 50; ++d) {
        snprintf(path, sizeof path, "/d%02d", d);
        CHECK_EQ(conf_count(b, path), 10);
    }
    settle(&h, 0);
    const uint64_t before = hub_calls(&h, 0);
    CHECK(before <= 60); /* each folder once, whatever of it was asked for before */
    for (int d = 0; d < 50; ++d) {
        for (int i = 0; i < 10; ++i) {
            snprintf(path, sizeof path, "/d%02d/f%d", d, i);
            conf_stat(b, path);
        }
    }
    CHECK_EQ(hub_calls(&h, 0), before);
    b->close(b);
    hub_close(&h);
}

/* ---- readers and writers against a model ---- */

/* A file's generation g says all: it is there unless g % 4 == 3, has 100 + g bytes, each g. Who
   reads must see a generation between the last that was acknowledged before and the last that was
   begun by then. */
enum { FILES = 8, GENERATIONS = 120 };
typedef struct race {
    fsb_backend *clients[3];
    uint64_t     begun[FILES], done[FILES];
    int          over;
    unsigned     seed;
    uint64_t     looked;
} race;
typedef struct racer {
    race        *r;
    fsb_backend *b;
    int          first;
    unsigned     seed;
} racer;

static void race_path(int file, char *out) { sprintf(out, "/r%d/f%d", file % 2, file); }
static int  race_there(uint64_t g) { return g % 4 != 3; }

static void race_step(fsb_backend *b, int file, uint64_t g, unsigned how)
{
    char path[32], aside[40], body[1000];
    race_path(file, path);
    snprintf(aside, sizeof aside, "%s.new", path);
    memset(body, (int)(g & 255), sizeof body);
    const size_t   size = 100 + (size_t)g;
    const uint32_t flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC;
    if (!race_there(g)) CHECK_EQ(C(UNLINK, .path = path), 0);
    else if (how % 3 == 0 && race_there(g - 1))
        CHECK_EQ(C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_TRUNC, .data = body,
                   .size = size), (int64_t)size);
    else if (how % 3 == 1)
        CHECK_EQ(C(PUT, .path = path, .flags = flags, .data = body, .size = size, MODE(0644)),
                 (int64_t)size);
    else {
        CHECK_EQ(C(PUT, .path = aside, .flags = flags, .data = body, .size = size, MODE(0644)),
                 (int64_t)size);
        CHECK_EQ(C(RENAME, .path = aside, .path2 = path), 0);
    }
}

static void *race_writer(void *arg)
{
    racer *w = arg;
    for (uint64_t g = 1; g < GENERATIONS; ++g) {
        for (int f = w->first; f < FILES; f += 3) {
            __atomic_store_n(&w->r->begun[f], g, __ATOMIC_SEQ_CST);
            race_step(w->b, f, g, (unsigned)rand_r(&w->seed));
            __atomic_store_n(&w->r->done[f], g, __ATOMIC_SEQ_CST);
        }
        if (rand_r(&w->seed) % 2 == 0) usleep((unsigned)rand_r(&w->seed) % 60000);
    }
    return NULL;
}

/* size: what was seen of it, -1: that it is not there. */
static void race_check(race *r, int file, uint64_t low, int64_t size, const char *how)
{
    const uint64_t high = __atomic_load_n(&r->begun[file], __ATOMIC_SEQ_CST);
    int            ok = 0;
    for (uint64_t g = low; g <= high; ++g)
        ok |= race_there(g) ? size == (int64_t)(100 + g) : size == -1;
    if (!ok) fprintf(stderr, "%s of %d: size %lld, generation %llu to %llu\n", how, file,
                     (long long)size, (unsigned long long)low, (unsigned long long)high);
    CHECK(ok);
}

typedef struct race_list {
    int64_t  size[FILES];
    uint64_t cookie;
} race_list;
static int race_emit(fsb_op *op, const fsb_dirent *e)
{
    race_list *l = op->user;
    int        file;
    char       rest;
    l->cookie = e->cookie;
    if (sscanf(e->name, "f%d%c", &file, &rest) == 1) l->size[file] = (int64_t)e->stat.size;
    return 0;
}

static void race_read(racer *w, int file)
{
    fsb_backend *b = w->b;
    char         path[32], got[1000];
    const uint64_t low = __atomic_load_n(&w->r->done[file], __ATOMIC_SEQ_CST);
    race_path(file, path);
    const int how = rand_r(&w->seed) % 3;
    if (how == 0) {
        const int64_t n = C(STAT, .path = path);
        race_check(w->r, file, low, n == 0 ? (int64_t)conf_op.stat.size : -1, "STAT");
    } else if (how == 1) {
        const int64_t n = C(GET, .path = path, .buf = got, .size = sizeof got);
        race_check(w->r, file, low, n >= 0 ? n : -1, "GET");
        for (int64_t i = 0; i < n; ++i)
            if ((unsigned char)got[i] != ((n - 100) & 255)) {
                CHECK(!"bytes of another version");
                break;
            }
    } else {
        race_list l;
        uint64_t  lows[FILES];
        memset(&l, 0xff, sizeof l);
        for (int i = 0; i < FILES; ++i) lows[i] = __atomic_load_n(&w->r->done[i], __ATOMIC_SEQ_CST);
        int64_t n = 0;
        for (l.cookie = 0; n == 0;) /* an answer may be a part of it */
            n = C(LIST, .path = file % 2 ? "/r1" : "/r0", .flags = FSB_LIST_STAT,
                  .offset = l.cookie, .emit = race_emit, .user = &l);
        CHECK_EQ(n, 1);
        for (int i = file % 2; i < FILES && n == 1; i += 2)
            race_check(w->r, i, lows[i], l.size[i], "LIST");
    }
    __atomic_add_fetch(&w->r->looked, 1, __ATOMIC_RELAXED);
}

static void *race_reader(void *arg)
{
    racer *w = arg;
    while (!__atomic_load_n(&w->r->over, __ATOMIC_ACQUIRE)) {
        race_read(w, rand_r(&w->seed) % FILES);
        if (rand_r(&w->seed) % 4 == 0) usleep(200);
    }
    return NULL;
}

static void race_run(hub *h, race *r)
{
    pthread_t writers[3], readers[6];
    racer     w[9];
    for (int i = 0; i < 3; ++i) {
        w[i] = (racer){r, r->clients[i], i, 100u + (unsigned)i};
        pthread_create(&writers[i], NULL, race_writer, &w[i]);
    }
    for (int i = 0; i < 6; ++i) {
        w[3 + i] = (racer){r, r->clients[i % 3], 0, 200u + (unsigned)i};
        pthread_create(&readers[i], NULL, race_reader, &w[3 + i]);
    }
    for (int i = 0; i < 3; ++i) pthread_join(writers[i], NULL);
    __atomic_store_n(&r->over, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 6; ++i) pthread_join(readers[i], NULL);
    (void)h;
}

/* Three clients, each writer and reader, with answers that come late and in any order. */
static void never_stale(int far)
{
    hub  h;
    race r = {0};
    hub_open(&h);
    for (int i = 0; i < 3; ++i) {
        r.clients[i] = far ? cached_far(&h)
                           : cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
        h.ports[i].jitter_us = 300;
        conf_stat(r.clients[i], "/");
    }
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/r0", MODE(0755)), 0);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/r1", MODE(0755)), 0);
    for (int i = 0; i < FILES; ++i) {
        char path[32];
        race_path(i, path);
        fsb_backend *b = r.clients[0];
        char         body[100] = {0};
        CHECK_EQ(C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE, .data = body,
                   .size = 100, MODE(0644)), 100);
    }
    for (int i = 0; i < 3; ++i) conf_stat(r.clients[i], "/r0"), conf_stat(r.clients[i], "/r1");
    race_run(&h, &r);
    fsb_cached_stats s;
    fsb_cached_get_stats(r.clients[1], &s);
    CHECK(s.attr_hits > 50 && s.data_hits > 50 && s.listing_hits > 10); /* else nothing was tried */
    for (int i = 0; i < 3; ++i) r.clients[i]->close(r.clients[i]);
    hub_close(&h);
}

static void test_never_stale(void) { never_stale(0); }
static void test_never_stale_far(void) { never_stale(1); }

/* What changed untold is seen when events were lost, or where there is no lease, in time. */
static void test_lost_and_ttl(void)
{
    hub h;
    hub_open(&h);
    fsb_cache_backend_desc d = {.ttl_ms = 50};
    fsb_backend           *b = cached_over(hub_port(&h), d);
    elsewhere_put(&h, "/a", "one");
    conf_stat(b, "/"), conf_is(b, "/a", "one");
    settle(&h, 0);
    CHECK_EQ(fsb_write_file(h.memory, "/a", "two", 3, 0644), 0); /* nobody is told */
    usleep(70000);
    conf_is(b, "/a", "one");
    fsb_event e = {.kind = FSB_EVENT_LOST, .path = "/"};
    pthread_mutex_lock(&h.lock);
    hub_tell(&h, NULL, &e);
    pthread_mutex_unlock(&h.lock);
    conf_is(b, "/a", "two");
    b->close(b);
    fsb_backend *inner = hub_port(&h);
    h.ports[1].no_lease = 1;
    b = cached_over(inner, d);
    conf_stat(b, "/"), conf_is(b, "/a", "two");
    CHECK_EQ(C(STAT, .path = "/later"), -ENOENT);
    CHECK_EQ(fsb_write_file(h.memory, "/a", "three", 5, 0644), 0);
    CHECK_EQ(fsb_write_file(h.memory, "/later", "x", 1, 0644), 0);
    usleep(70000);
    conf_is(b, "/a", "three"), conf_is(b, "/later", "x");
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_HELD | FSB_WATCH_DEEP, .event = conf_event),
             -ENOSYS);
    b->close(b);
    hub_close(&h);
}

static int told;
static void count_told(void *user, const fsb_event *e)
{
    (void)user;
    told += strcmp(e->path, "/a") == 0;
}

/* A listing has brought what an event tells of: who asked for less is told all the same. */
static void test_told_of_the_known(void)
{
    hub h;
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    elsewhere_put(&h, "/a", "one");
    conf_stat(b, "/");
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_HELD | FSB_WATCH_DEEP, .event = count_told),
             0);
    CHECK_EQ(conf_stat(b, "/a").size, 3);
    CHECK_EQ(fsb_write_file(h.memory, "/a", "longer", 6, 0644), 0); /* told of below */
    elsewhere_put(&h, "/b", "makes the listing out of date");
    settle(&h, 0);
    told = 0;
    CHECK_EQ(conf_count(b, "/"), 2);
    settle(&h, 0);
    CHECK_EQ(conf_stat(b, "/a").size, 6);
    const fsb_stat is = conf_stat(h.memory, "/a");
    fsb_event      e = {.kind = FSB_EVENT_CONTENT, .path = "/a", .stat = &is};
    pthread_mutex_lock(&h.lock);
    hub_tell(&h, NULL, &e);
    pthread_mutex_unlock(&h.lock);
    CHECK_EQ(told, 1);
    b->close(b);
    hub_close(&h);
}

/* Tells of what others did straight to what is shared; *is: as it is now at `path`, unless NULL. */
static void hub_say(hub *h, uint32_t kind, const char *path, const char *path2, const char *at)
{
    const fsb_stat is = at ? conf_stat(h->memory, at) : (fsb_stat){0};
    fsb_event      e = {.kind = kind, .path = path, .path2 = path2, .stat = at ? &is : NULL};
    pthread_mutex_lock(&h->lock);
    hub_tell(h, NULL, &e);
    pthread_mutex_unlock(&h->lock);
}

/* A file that was known by one name gets another: what changes by that one is seen by the first. */
static void test_second_name(void)
{
    hub h;
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0}), *m = h.memory;
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/d", MODE(0755)), 0);
    elsewhere_put(&h, "/a", "one");
    conf_stat(b, "/");
    CHECK_EQ(conf_stat(b, "/a").nlink, 1);
    CHECK_EQ(conf_call(m, (fsb_op){.code = FSB_OP_LINK, .path = "/a", .path2 = "/d/b"}), 0);
    hub_say(&h, FSB_EVENT_CREATED, "/d/b", NULL, "/d/b");
    CHECK_EQ(conf_stat(b, "/a").nlink, 2);
    CHECK_EQ(fsb_write_file(m, "/d/b", "longer", 6, 0644), 0);
    hub_say(&h, FSB_EVENT_CONTENT, "/d/b", NULL, "/d/b");
    conf_is(b, "/a", "longer");
    b->close(b);
    hub_close(&h);
}

/* Others exchange two folders, which is told as two renames: what is open in them stays itself. */
static void test_exchanged(void)
{
    hub  h;
    char got[10];
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0}), *m = h.memory;
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/a", MODE(0755)), 0);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/b", MODE(0755)), 0);
    const char *const names[] = {"/a/f", "/b/f", "/x", "/y"};
    fsb_handle        open[4];
    conf_stat(b, "/"), conf_stat(b, "/a"), conf_stat(b, "/b");
    for (int i = 0; i < 4; ++i) {
        elsewhere_put(&h, names[i], names[i]);
        conf_stat(b, names[i]);
        open[i] = conf_open(b, names[i], FSB_O_READ); /* not at inner: its bytes are not known */
    }
    for (int i = 0; i < 4; i += 2) {
        const char *one = i ? "/x" : "/a", *two = i ? "/y" : "/b";
        CHECK_EQ(conf_call(m, (fsb_op){.code = FSB_OP_RENAME, .path = one, .path2 = two,
                                       .flags = FSB_RENAME_EXCHANGE}), 0);
        hub_say(&h, FSB_EVENT_RENAMED, one, two, two);
        hub_say(&h, FSB_EVENT_RENAMED, two, one, one);
    }
    for (int i = 0; i < 4; ++i) {
        memset(got, 0, sizeof got);
        CHECK_EQ(C(READ, .handle = open[i], .buf = got, .size = 9), (int64_t)strlen(names[i]));
        CHECK(strcmp(got, names[i]) == 0);
        CHECK_EQ(C(CLOSE, .handle = open[i]), 0);
        conf_is(b, names[i], names[i ^ 1]);
    }
    b->close(b);
    hub_close(&h);
}

/* Files keep being themselves when their names change; a second name tells what the first does. */
static void test_names(void)
{
    hub  h;
    char got[10];
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    conf_stat(b, "/");
    conf_put(b, "/d/a", "aaa"), conf_put(b, "/d/b", "bbb"), conf_put(b, "/d/c", "ccc");
    settle(&h, 0);
    const fsb_handle a = conf_open(b, "/d/a", FSB_O_READ), bb = conf_open(b, "/d/b", FSB_O_READ);
    CHECK_EQ(C(RENAME, .path = "/d/c", .path2 = "/d/b"), 0);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/e"), 0);
    CHECK_EQ(C(UNLINK, .path = "/e/a"), 0);
    conf_put(b, "/e/a", "new");
    CHECK_EQ(C(READ, .handle = a, .buf = got, .size = 3), 3);
    CHECK(memcmp(got, "aaa", 3) == 0);
    CHECK_EQ(C(READ, .handle = bb, .buf = got, .size = 3), 3);
    CHECK(memcmp(got, "bbb", 3) == 0);
    CHECK_EQ(C(CLOSE, .handle = a), 0);
    CHECK_EQ(C(CLOSE, .handle = bb), 0);
    conf_is(b, "/e/b", "ccc"), conf_is(b, "/e/a", "new");
    CHECK_EQ(C(STAT, .path = "/d/a"), -ENOENT);
    CHECK_EQ(C(LINK, .path = "/e/a", .path2 = "/link"), 0);
    CHECK_EQ(conf_stat(b, "/e/a").nlink, 2);
    conf_put(b, "/link", "through the link");
    conf_is(b, "/e/a", "through the link");
    conf_stat(b, "/e/b");
    CHECK_EQ(C(GETXATTR, .path = "/e/b", .path2 = "user.x", .buf = got, .size = 10), -ENODATA);
    CHECK_EQ(C(SETXATTR, .path = "/e/b", .path2 = "user.x", .data = "v", .size = 1), 0);
    conf_stat(b, "/e/b");
    CHECK_EQ(C(GETXATTR, .path = "/e/b", .path2 = "user.x", .buf = got, .size = 10), 1);
    const fsb_handle w = conf_open(b, "/e/b", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(C(RENAME, .path = "/e/b", .path2 = "/moved"), 0);
    conf_is(b, "/moved", "ccc");
    CHECK_EQ(C(WRITE, .handle = w, .data = "CCCC", .size = 4), 4);
    conf_is(b, "/moved", "CCCC");
    CHECK_EQ(C(CLOSE, .handle = w), 0);
    b->close(b);
    hub_close(&h);
}

/* Who changes a folder is asked for its attributes next: they are on their way by then, once for
   each change. */
static void test_changed_folder(void)
{
    hub h;
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    settle(&h, 0);
    const uint64_t *stats = &h.ports[0].calls[FSB_OP_STAT], before = *stats;
    CHECK_EQ(C(MKDIR, .path = "/d/in", MODE(0755)), 0);
    settle(&h, 0);
    CHECK_EQ(*stats, before + 1); /* nobody has asked yet */
    CHECK_EQ(conf_stat(b, "/d").nlink, 3);
    CHECK_EQ(*stats, before + 1);
    h.ports[0].jitter_us = 2000; /* who asks waits for what is on its way */
    CHECK_EQ(C(RMDIR, .path = "/d/in"), 0);
    CHECK_EQ(conf_stat(b, "/d").nlink, 2);
    CHECK_EQ(C(CLOSE, .handle = conf_open(b, "/d/a", FSB_O_WRITE | FSB_O_CREATE)), 0);
    const int64_t made_ns = conf_stat(b, "/d").mtime_ns;
    CHECK_EQ(C(RENAME, .path = "/d/a", .path2 = "/d/b"), 0);
    CHECK(conf_stat(b, "/d").mtime_ns > made_ns);
    CHECK_EQ(C(UNLINK, .path = "/d/a"), -ENOENT);
    settle(&h, 0);
    CHECK_EQ(*stats, before + 4);
    b->close(b);
    hub_close(&h);
}

/* What L2 holds: read again without the host being asked for data, and while it is away. */
static void test_disk(void)
{
    hub                    h;
    char                   dir[300], path[64], body[10240];
    fsb_cache_disk        *disk = NULL;
    fsb_cache_disk_desc    dd = {0};
    fsb_cache_backend_desc d = {0};
    snprintf(dir, sizeof dir, "%s/l2", test_dir());
    dd.dir = dir, dd.max_bytes = 64 << 20;
    hub_open(&h);
    for (int i = 0; i < 20; ++i) {
        memset(body, i, sizeof body);
        snprintf(path, sizeof path, "/d%d", i % 2);
        (void)ELSEWHERE(MKDIR, .path = path, MODE(0755));
        snprintf(path, sizeof path, "/d%d/f%d", i % 2, i);
        CHECK_EQ(ELSEWHERE(PUT, .path = path, .data = body, .size = sizeof body,
                           .flags = FSB_O_WRITE | FSB_O_CREATE), (int64_t)sizeof body);
    }
    for (int round = 0; round < 3; ++round) {
        REQUIRE(fsb_cache_disk_open(&disk, &dd) == 0);
        d.disk = disk, d.share = "share", d.offline = round == 2;
        h.ports[round].lost = 0;
        fsb_backend *inner = hub_port(&h);
        if (round == 2) h.ports[round].lost = -ENOTCONN;
        fsb_backend *b = cached_over(inner, d);
        conf_stat(b, "/");
        CHECK_EQ(conf_count(b, "/"), 2);
        CHECK_EQ(conf_count(b, "/d0"), 10);
        CHECK_EQ(conf_count(b, "/d1"), 10);
        CHECK_EQ(C(STAT, .path = "/d0/none"), -ENOENT);
        for (int i = 0; i < 20; ++i) {
            snprintf(path, sizeof path, "/d%d/f%d", i % 2, i);
            CHECK_EQ(C(GET, .path = path, .buf = body, .size = sizeof body), (int64_t)sizeof body);
            for (size_t k = 0; k < sizeof body; k += 1000) CHECK_EQ(body[k], i);
        }
        settle(&h, round);
        if (round) CHECK_EQ(h.ports[round].calls[FSB_OP_GET], 0);
        if (round == 2) CHECK_EQ(C(MKDIR, .path = "/new", MODE(0755)), -ENETDOWN);
        b->close(b);
        fsb_cache_disk_close(disk);
    }
    hub_close(&h);
}

/* A large file, sequentially: read ahead, every byte right. */
static void test_read_ahead(void)
{
    hub h;
    hub_open(&h);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    enum { SIZE = 5 * 1000 * 1000 };
    unsigned char *body = malloc(SIZE), *got = malloc(SIZE);
    for (int i = 0; i < SIZE; ++i) body[i] = (unsigned char)(i * 7 + i / 1000);
    CHECK_EQ(fsb_write_file(h.memory, "/big", body, SIZE, 0644), 0);
    conf_stat(b, "/"), conf_stat(b, "/big");
    h.ports[0].jitter_us = 500;
    const fsb_handle f = conf_open(b, "/big", FSB_O_READ);
    for (size_t at = 0; at < SIZE; at += 10000)
        CHECK_EQ(C(READ, .handle = f, .offset = at, .buf = got + at, .size = 10000), 10000);
    CHECK(memcmp(body, got, SIZE) == 0);
    memset(got, 0, SIZE);
    settle(&h, 0);
    CHECK(hub_calls(&h, 0) < 100);
    const uint64_t before = hub_calls(&h, 0);
    for (size_t at = SIZE; at > 0; at -= 100000)
        CHECK_EQ(C(READ, .handle = f, .offset = at - 100000, .buf = got + at - 100000,
                   .size = 100000), 100000);
    CHECK(memcmp(body, got, SIZE) == 0);
    CHECK_EQ(hub_calls(&h, 0), before);
    CHECK_EQ(C(READ, .handle = f, .offset = SIZE - 5, .buf = got, .size = 100), 5);
    CHECK_EQ(C(READ, .handle = f, .offset = SIZE, .buf = got, .size = 100), 0);
    CHECK_EQ(C(CLOSE, .handle = f), 0);
    b->close(b);
    free(body), free(got);
    hub_close(&h);
}

static uint64_t hub_gets(hub *h)
{
    pthread_mutex_lock(&h->lock);
    const uint64_t n = h->ports[0].calls[FSB_OP_GET];
    pthread_mutex_unlock(&h->lock);
    return n;
}

/* Looks a file up, opens, reads and closes it, as a mount does. */
static void far_read(fsb_backend *b, const char *path, size_t size, int mark)
{
    unsigned char got[40000];
    conf_stat(b, path);
    const fsb_handle f = conf_open(b, path, FSB_O_READ);
    CHECK_EQ(C(READ, .handle = f, .buf = got, .size = size), (int64_t)size);
    CHECK(got[0] == mark && got[size - 1] == mark);
    CHECK_EQ(C(CLOSE, .handle = f), 0);
}

/* What is far is asked for before it is wanted: a file's first bytes with its name, and the files
   behind it, in the order of their numbers; but not where nothing is opened. */
static void test_far(void)
{
    hub           h;
    char          path[64];
    unsigned char body[40000];
    enum { MANY = 60, SIZE = 9000 };
    hub_open(&h);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/e", MODE(0755)), 0);
    for (int i = 0; i < 2 * MANY; ++i) {
        memset(body, i, sizeof body);
        const int at = i < MANY ? i * 37 % MANY : i - MANY;
        if (i < MANY) memset(body, at, sizeof body);
        snprintf(path, sizeof path, i < MANY ? "/d/f%d" : "/e/f%d", at);
        CHECK_EQ(fsb_write_file(h.memory, path, body, SIZE, 0644), 0);
    }
    memset(body, 7, sizeof body);
    CHECK_EQ(fsb_write_file(h.memory, "/large", body, sizeof body, 0644), 0);
    fsb_backend *b = cached_far(&h);
    conf_stat(b, "/");
    conf_stat(b, "/large");
    settle(&h, 0);
    const uint64_t before = hub_calls(&h, 0);
    CHECK_EQ(hub_gets(&h), 1);
    far_read(b, "/large", 16384, 7); /* came with the name */
    CHECK_EQ(hub_calls(&h, 0), before);
    far_read(b, "/large", sizeof body, 7); /* did not */
    CHECK(hub_calls(&h, 0) > before);
    conf_stat(b, "/d");
    fsb_cached_stats s, t;
    for (int i = 0; i < MANY; ++i) {
        snprintf(path, sizeof path, "/d/f%d", i);
        if (i == 8) fsb_cached_get_stats(b, &s);
        far_read(b, path, SIZE, i);
        if (i < 8) settle(&h, 0);
    }
    fsb_cached_get_stats(b, &t);
    CHECK_EQ(t.data_misses, s.data_misses); /* all were asked for ahead, none twice */
    settle(&h, 0);
    CHECK(hub_gets(&h) <= MANY + 4);
    CHECK(t.ahead_bytes >= (MANY - 8) * SIZE);
    conf_stat(b, "/e");
    const uint64_t gets = hub_gets(&h);
    for (int i = 0; i < 300; ++i) {
        snprintf(path, sizeof path, "/e/g%d", i); /* there is none */
        CHECK_EQ(C(STAT, .path = path), -ENOENT);
    }
    settle(&h, 0);
    CHECK(hub_gets(&h) - gets < 60);
    b->close(b);
    hub_close(&h);
}

/* A walk over what is far: the names come with the folder's own, what is below in one call more;
   and who reads the first file of a folder is given the others without asking again. */
static void test_far_walk(void)
{
    hub           h;
    char          path[64];
    unsigned char body[9000];
    enum { FOLDERS = 12, FILES_EACH = 5 };
    hub_open(&h);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/tree", MODE(0755)), 0);
    for (int d = 0; d < FOLDERS; ++d) {
        snprintf(path, sizeof path, "/tree/d%d", d);
        CHECK_EQ(ELSEWHERE(MKDIR, .path = path, MODE(0755)), 0);
        for (int i = 0; i < FILES_EACH; ++i) {
            snprintf(path, sizeof path, "/tree/d%d/f%d", d, i);
            memset(body, i, sizeof body);
            CHECK_EQ(fsb_write_file(h.memory, path, body, sizeof body, 0644), 0);
        }
    }
    fsb_backend *b = cached_far(&h);
    conf_stat(b, "/");
    settle(&h, 0);
    uint64_t before = hub_calls(&h, 0);
    conf_stat(b, "/tree");
    settle(&h, 0);
    CHECK_EQ(hub_calls(&h, 0) - before, 4); /* STAT, GET, LIST of it and of "/": one round trip */
    CHECK_EQ(conf_count(b, "/tree"), FOLDERS);
    for (int d = 0; d < FOLDERS; ++d) { /* these wait for the one that is on its way */
        snprintf(path, sizeof path, "/tree/d%d", d);
        CHECK_EQ(conf_count(b, path), FILES_EACH);
    }
    settle(&h, 0);
    CHECK(hub_calls(&h, 0) - before <= 6); /* 5, or one that was late asks once more */
    before = hub_gets(&h);
    far_read(b, "/tree/d3/f0", sizeof body, 0);
    settle(&h, 0);
    CHECK_EQ(hub_gets(&h) - before, FILES_EACH);
    for (int i = 1; i < FILES_EACH; ++i) {
        snprintf(path, sizeof path, "/tree/d3/f%d", i);
        far_read(b, path, sizeof body, i);
    }
    settle(&h, 0);
    CHECK_EQ(hub_gets(&h) - before, FILES_EACH);
    far_read(b, "/tree/d5/f2", sizeof body, 2); /* not the first: nothing is guessed */
    settle(&h, 0);
    CHECK_EQ(hub_gets(&h) - before, FILES_EACH + 1);
    b->close(b);
    hub_close(&h);
}

/* Where the next step of a reader would be behind the last byte that can be. */
static void test_far_apart(void)
{
    static char body[200000];
    char        got;
    hub         h;
    hub_open(&h);
    CHECK_EQ(fsb_write_file(h.memory, "/a", body, sizeof body, 0644), 0);
    fsb_backend *b = cached_over(hub_port(&h), (fsb_cache_backend_desc){0});
    conf_stat(b, "/"), conf_stat(b, "/a");
    const fsb_handle f = conf_open(b, "/a", FSB_O_READ);
    for (uint64_t i = 0; i < 4; ++i)
        CHECK_EQ(C(READ, .handle = f, .offset = i << 61, .buf = &got, .size = 1), i == 0);
    for (uint64_t i = 4; i-- > 0;)
        CHECK_EQ(C(READ, .handle = f, .offset = i << 61, .buf = &got, .size = 1), i == 0);
    CHECK_EQ(C(CLOSE, .handle = f), 0);
    b->close(b);
    hub_close(&h);
}

/* Memory that is watched: one allocation of many can fail, something happen at one, and nobody gets
   away with reading what was freed. */
static struct {
    uint64_t taken, count, fails; /* atomic: bytes now; allocations; the one that fails */
    void   (*at)(void);           /* what happens at the next one, once */
} memory;

static void memory_fails(uint64_t number)
{
    __atomic_store_n(&memory.fails, number, __ATOMIC_SEQ_CST);
    __atomic_store_n(&memory.count, 0, __ATOMIC_SEQ_CST);
}

static void *memory_fn(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    if (new_size && !ptr) {
        void (*const at)(void) = memory.at;
        if (at) at();
        const uint64_t fails = __atomic_load_n(&memory.fails, __ATOMIC_SEQ_CST);
        if (__atomic_add_fetch(&memory.count, 1, __ATOMIC_SEQ_CST) == fails) return NULL;
    }
    void *to = new_size ? malloc(new_size) : NULL;
    if (new_size && !to) return NULL;
    if (to && ptr) memcpy(to, ptr, old_size < new_size ? old_size : new_size);
    if (ptr) memset(ptr, 0xdd, old_size);
    free(ptr);
    __atomic_add_fetch(&memory.taken, new_size - old_size, __ATOMIC_SEQ_CST);
    return to;
}

/* Events are lost while an answer is being kept: it is of before, and not believed. */
static hub *lost_hub;
static void lose(void)
{
    port     *p = &lost_hub->ports[0];
    fsb_event e = {.kind = FSB_EVENT_LOST, .path = "/"};
    if (!pthread_equal(pthread_self(), p->receiver)) return;
    memory.at = NULL;
    CHECK_EQ(fsb_write_file(lost_hub->memory, "/a", "longer", 6, 0644), 0);
    p->event(p->user, &e);
}

static void test_lost_while_kept(void)
{
    hub h;
    hub_open(&h);
    elsewhere_put(&h, "/a", "one");
    memset(&memory, 0, sizeof memory);
    fsb_cache_backend_desc d = {.allocator = {memory_fn, NULL}};
    fsb_backend           *b = cached_over(hub_port(&h), d);
    conf_stat(b, "/");
    settle(&h, 0);
    lost_hub = &h, memory.at = lose;
    (void)C(STAT, .path = "/a"); /* old or new */
    CHECK(!memory.at);
    CHECK_EQ(conf_stat(b, "/a").size, 6);
    b->close(b);
    CHECK_EQ(memory.taken, 0);
    hub_close(&h);
}

static int count_names(fsb_op *op, const fsb_dirent *e)
{
    (void)e;
    ++*(int *)op->user;
    return 0;
}

static int is_data(const char *text, int64_t n, int may)
{
    return (n == 4 || (n == 3 && may == -EAGAIN)) && !memcmp(text, "data", (size_t)n);
}

/* What asks for everything that is there, and must be answered right, or with the error `may`. */
static void ask_all(fsb_backend *b, int may)
{
    static const char *const path[] = {"/d/a", "/d/b", "/d/sub/c"};
    for (int i = 0; i < 2; ++i) {
        int           names = 0;
        const int64_t n = C(LIST, .path = i ? "/d/sub" : "/d", .flags = FSB_LIST_STAT,
                            .emit = count_names, .user = &names);
        CHECK((may && n == may) || (n == 1 && names == (i ? 1 : 3)));
    }
    for (int i = 0; i < 3; ++i) {
        fsb_op  op = {.code = FSB_OP_OPEN, .path = path[i], .flags = FSB_O_READ};
        char    text[8];
        int64_t n = C(STAT, .path = path[i]);
        CHECK(n == 0 || (may && n == may));
        n = C(GET, .path = path[i], .buf = text, .size = sizeof text);
        CHECK(is_data(text, n, may) || (may && n == may));
        n = fsb_backend_call(b, &op);
        CHECK(n == 0 || (may && n == may));
        if (n) continue;
        n = C(READ, .handle = op.handle, .buf = text, .size = sizeof text);
        CHECK(is_data(text, n, may) || (may && n == may));
        CHECK_EQ(C(CLOSE, .handle = op.handle), 0);
    }
    const int64_t n = C(STAT, .path = "/d/none");
    CHECK(n == -ENOENT || (may && n == may));
}

/* The allocation (failure -ENOMEM) or call of that number fails: who asks is told so or answered,
   what is there is never said not to be, then or later, and all memory comes back. Returns how many
   there were. */
static uint64_t ask_failing(uint64_t number, int failure, int far)
{
    hub h;
    hub_open(&h);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/d/sub", MODE(0755)), 0);
    elsewhere_put(&h, "/d/a", "data"), elsewhere_put(&h, "/d/b", "data");
    elsewhere_put(&h, "/d/sub/c", "data");
    memset(&memory, 0, sizeof memory);
    fsb_backend           *inner = hub_port(&h);
    fsb_cache_backend_desc d = {.allocator = {memory_fn, NULL}, .max_bytes = 4 << 20};
    h.ports[0].far_us = far ? 1200 : 0;
    fsb_backend *b = cached_over(inner, d);
    h.ports[0].far_us = 0;
    conf_stat(b, "/");
    pthread_mutex_lock(&h.lock);
    h.ports[0].calls_all = 0, h.ports[0].failure = failure;
    if (failure != -ENOMEM) h.ports[0].fails = number;
    pthread_mutex_unlock(&h.lock);
    memory_fails(failure == -ENOMEM ? number : 0);
    ask_all(b, failure);
    const uint64_t allocations = __atomic_load_n(&memory.count, __ATOMIC_SEQ_CST);
    memory_fails(0);
    pthread_mutex_lock(&h.lock);
    h.ports[0].fails = 0;
    const uint64_t all = failure == -ENOMEM ? allocations : h.ports[0].calls_all;
    pthread_mutex_unlock(&h.lock);
    ask_all(b, 0);
    ask_all(b, 0);
    b->close(b);
    CHECK_EQ(memory.taken, 0);
    hub_close(&h);
    return all;
}

static void test_failing(void)
{
    static const int failure[] = {-ENOMEM, -EIO, -ETIMEDOUT, -EAGAIN, -ENOMEM, -EIO};
    for (int i = 0; i < 6; ++i)
        for (uint64_t n = 1, all = 1; n <= all && n < 300; ++n)
            all = ask_failing(n, failure[i], i > 3);
}

/* The answer comes while somebody cancels: he has the op until he is done with it. */
static fsb_op *held_op;
static void    hold_locks(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        if (ops[i]->code == FSB_OP_LOCK) held_op = ops[i];
        else port_submit(b, &ops[i], 1);
}

static void *answer_held(void *op)
{
    held_op->result = -EINTR;
    held_op->done(held_op);
    return op;
}

static void cancel_held(fsb_backend *b, fsb_op *op)
{
    pthread_t thread;
    (void)b;
    CHECK(op == held_op);
    pthread_create(&thread, NULL, answer_held, op);
    pthread_join(thread, NULL);
    CHECK_EQ(op->code, FSB_OP_LOCK);
}

static void count_done(fsb_op *op) { ++*(int *)op->user; }

static void test_cancel(void)
{
    hub h;
    int done = 0;
    hub_open(&h);
    elsewhere_put(&h, "/a", "one");
    memset(&memory, 0, sizeof memory);
    fsb_cache_backend_desc d = {.allocator = {memory_fn, NULL}};
    fsb_backend           *inner = hub_port(&h);
    inner->submit = hold_locks, inner->cancel = cancel_held;
    inner->call[FSB_OP_LOCK] = port_call;
    fsb_backend     *b = cached_over(inner, d);
    const fsb_handle f = conf_open(b, "/a", FSB_O_READ | FSB_O_WRITE);
    fsb_op           op = {.code = FSB_OP_LOCK, .handle = f, .done = count_done, .user = &done,
                           .flags = FSB_LOCK_EXCLUSIVE | FSB_LOCK_WAIT};
    fsb_op          *ops = &op;
    b->submit(b, &ops, 1);
    CHECK_EQ(done, 0);
    b->cancel(b, &op);
    CHECK_EQ(done, 1);
    CHECK_EQ(op.result, -EINTR);
    CHECK_EQ(C(CLOSE, .handle = f), 0);
    b->close(b);
    CHECK_EQ(memory.taken, 0);
    hub_close(&h);
}

/* The host comes back, and is asked for the lease, while the cache is being closed: the lease ends
   with it all the same. */
static void hold_watch(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        if (ops[i]->code == FSB_OP_WATCH) held_op = ops[i];
        else port_submit(b, &ops[i], 1);
}

static void *send_held(void *to)
{
    usleep(30000);
    port_submit(to, &held_op, 1);
    return NULL;
}

static void test_close_leasing(void)
{
    hub       h;
    pthread_t thread;
    hub_open(&h);
    fsb_backend *inner = hub_port(&h);
    inner->submit = hold_watch, held_op = NULL;
    h.ports[0].lost = -ENOTCONN;
    fsb_backend *b = cached_over(inner, (fsb_cache_backend_desc){0});
    h.ports[0].lost = 0;
    conf_stat(b, "/");
    REQUIRE(held_op);
    pthread_create(&thread, NULL, send_held, inner);
    b->close(b);
    pthread_join(thread, NULL);
    CHECK(!h.ports[0].event);
    hub_close(&h);
}

/* Bounds hold within one listing, too, however much of it is asked for at once. */
static uint64_t most_held;
static int      watch_held(fsb_op *op, const fsb_dirent *e)
{
    fsb_cached_stats stats;
    (void)e;
    fsb_cached_get_stats(op->user, &stats);
    if (stats.folder_bytes > most_held) most_held = stats.folder_bytes;
    return 0;
}

static void test_bound_of_listing(void)
{
    char         path[300];
    fsb_backend *under = NULL;
    REQUIRE(fsb_memory_open(&under, NULL) == 0);
    for (int i = 0; i < 5000; ++i) {
        snprintf(path, sizeof path, "/%0200d", i);
        CHECK_EQ(fsb_write_file(under, path, "", 0, 0644), 0);
    }
    fsb_cache_backend_desc d = {.max_bytes = 1 << 20, .ttl_ms = 60000};
    fsb_backend           *b = cached_over(under, d);
    conf_stat(b, "/");
    most_held = 0;
    CHECK_EQ(C(LIST, .path = "/", .flags = FSB_LIST_STAT, .size64 = 1 << 30, .emit = watch_held,
               .user = b), 1);
    CHECK(most_held > 100 << 10);
    CHECK(most_held < 400 << 10); /* a quarter of 1 MiB, and a table that grows */
    b->close(b);
    under->close(under);
}

/* A folder with a path and a listing that are long: offline it is there. */
static void test_disk_large(void)
{
    enum { NAMES = 9000 };
    hub                    h;
    char                   dir[300], path[FSB_PATH_MAX + 1], *deep = path;
    fsb_cache_disk        *disk = NULL;
    fsb_cache_disk_desc    dd = {0};
    fsb_cache_backend_desc d = {0};
    snprintf(dir, sizeof dir, "%s/large", test_dir());
    dd.dir = dir, dd.max_bytes = 256 << 20;
    hub_open(&h);
    CHECK_EQ(ELSEWHERE(MKDIR, .path = "/many", MODE(0755)), 0);
    for (int i = 0; i < NAMES; ++i) {
        snprintf(path, sizeof path, "/many/%d", i);
        CHECK_EQ(fsb_write_file(h.memory, path, "", 0, 0644), 0);
    }
    for (int i = 0; i < 25; ++i) {
        deep += sprintf(deep, "/%0199d", i);
        CHECK_EQ(ELSEWHERE(MKDIR, .path = path, MODE(0755)), 0);
    }
    for (int round = 0; round < 2; ++round) {
        REQUIRE(fsb_cache_disk_open(&disk, &dd) == 0);
        d.disk = disk, d.offline = round;
        fsb_backend *inner = hub_port(&h);
        if (round) h.ports[round].lost = -ENOTCONN;
        fsb_backend *b = cached_over(inner, d);
        conf_stat(b, "/");
        CHECK_EQ(conf_count(b, "/"), 2);
        CHECK_EQ(conf_count(b, "/many"), NAMES);
        for (char *at = path + 1; at; at = strchr(at + 1, '/')) {
            char *end = strchr(at, '/');
            if (end) *end = '\0';
            CHECK_EQ(conf_count(b, path), end != NULL);
            if (end) *end = '/';
        }
        settle(&h, round);
        b->close(b);
        fsb_cache_disk_close(disk);
    }
    hub_close(&h);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_conformance_memory);
    TEST(test_conformance_leased);
    TEST(test_conformance_local);
    TEST(test_exec);
    TEST(test_hits_and_events);
    TEST(test_offline);
    TEST(test_few_calls);
    TEST(test_read_ahead);
    TEST(test_far);
    TEST(test_far_walk);
    TEST(test_lost_and_ttl);
    TEST(test_told_of_the_known);
    TEST(test_names);
    TEST(test_second_name);
    TEST(test_exchanged);
    TEST(test_changed_folder);
    TEST(test_disk);
    TEST(test_disk_large);
    TEST(test_far_apart);
    TEST(test_lost_while_kept);
    TEST(test_failing);
    TEST(test_cancel);
    TEST(test_close_leasing);
    TEST(test_bound_of_listing);
    TEST(test_never_stale);
    TEST(test_never_stale_far);
    return test_end("test_cached");
}
