/* bench_cached.c - the caching backend: what a hit costs beside the backend it saves, and how many
   calls and round trips a walk and a folder of small files need over a link that takes its time. */
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_backend.h"
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"
#include "bench.h"

/* ---- a link: answers come one round trip later ---- */

enum { RTT_MS = 20 };
typedef struct wire {
    fsb_backend     base; /* first */
    fsb_backend    *memory;
    pthread_mutex_t lock;
    pthread_cond_t  wake;
    pthread_t       thread;
    fsb_op         *first, **last;
    uint64_t        calls;
    int             closing;
} wire;

static void *wire_main(void *arg)
{
    wire *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->closing) pthread_cond_wait(&w->wake, &w->lock);
        fsb_op *op = w->first;
        if (!op) break;
        w->first = op->next;
        if (!w->first) w->last = &w->first;
        pthread_mutex_unlock(&w->lock);
        double due;
        memcpy(&due, &op->layer[0], sizeof due);
        const double left = due - bench_now();
        if (left > 0) usleep((useconds_t)(left * 1e6));
        fsb_backend_call(w->memory, op);
        op->done(op);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void wire_submit(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    wire        *w = (wire *)b;
    const double due = bench_now() + RTT_MS * 1e-3;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < n; ++i, ++w->calls) {
        memcpy(&ops[i]->layer[0], &due, sizeof due);
        ops[i]->next = NULL, *w->last = ops[i], w->last = &ops[i]->next;
    }
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static int64_t wire_call(fsb_backend *b, fsb_op *op)
{
    if (op->code == FSB_OP_WATCH) {
        op->handle = 1;
        return op->result = 0;
    }
    if (op->code == FSB_OP_CLOSE && op->handle == 1) return op->result = 0;
    usleep(RTT_MS * 1000); /* by this it is known to be a distant host */
    return fsb_backend_call(((wire *)b)->memory, op);
}

static void wire_open(wire *w, fsb_backend *memory)
{
    memset(w, 0, sizeof *w);
    w->base.size = sizeof w->base, w->base.name = "wire", w->base.submit = wire_submit;
    for (int i = 1; i < FSB_OP_COUNT; ++i) w->base.call[i] = wire_call;
    w->memory = memory, w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    pthread_create(&w->thread, NULL, wire_main, w);
}

static void wire_close(wire *w)
{
    pthread_mutex_lock(&w->lock);
    w->closing = 1;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
}

/* ---- calls ---- */

static int64_t call(fsb_backend *b, fsb_op op)
{
    const int64_t n = fsb_backend_call(b, &op);
    fsb_slice_release(&op.slice);
    return n;
}
#define C(name, ...) call(b, (fsb_op){.code = FSB_OP_##name, __VA_ARGS__})
static int emit(fsb_op *op, const fsb_dirent *e) { return ++*(int *)op->user, (void)e, 0; }

static void fill(fsb_backend *b, int folders, int files)
{
    char path[64], body[10240];
    memset(body, 'x', sizeof body);
    for (int d = 0; d < folders; ++d) {
        snprintf(path, sizeof path, "/d%03d", d);
        C(MKDIR, .path = path);
        for (int i = 0; i < files; ++i) {
            snprintf(path, sizeof path, "/d%03d/f%03d", d, i);
            C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE, .data = body,
              .size = sizeof body);
        }
    }
}

static void walk(fsb_backend *b, int folders)
{
    char path[64];
    int  count = 0;
    C(STAT, .path = "/");
    C(LIST, .path = "/", .flags = FSB_LIST_STAT, .emit = emit, .user = &count);
    for (int d = 0; d < folders; ++d) {
        snprintf(path, sizeof path, "/d%03d", d);
        C(LIST, .path = path, .flags = FSB_LIST_STAT, .emit = emit, .user = &count);
    }
}

static void read_all(fsb_backend *b, int folders, int files)
{
    char path[64], got[10240];
    for (int d = 0; d < folders; ++d) {
        for (int i = 0; i < files; ++i) {
            snprintf(path, sizeof path, "/d%03d/f%03d", d, i);
            fsb_op op = {.code = FSB_OP_OPEN, .path = path, .flags = FSB_O_READ};
            if (fsb_backend_call(b, &op) < 0) continue;
            C(READ, .handle = op.handle, .buf = got, .size = sizeof got);
            C(CLOSE, .handle = op.handle);
        }
    }
}

/* ---- what a hit costs ---- */

typedef struct load {
    fsb_backend *b;
    int          kind, rounds, start;
} load;
static void *load_main(void *arg)
{
    load       *l = arg;
    fsb_backend *b = l->b;
    char        path[64];
    int         count = 0;
    for (int i = l->start; i < l->start + l->rounds; ++i) {
        snprintf(path, sizeof path, "/d%03d/f%03d", i % 10, i / 10 % 100);
        if (l->kind == 0) C(STAT, .path = path);
        else if (l->kind == 1) C(GET, .path = path, .size = 10240);
        else C(LIST, .path = "/d003", .flags = FSB_LIST_STAT, .emit = emit, .user = &count);
    }
    return NULL;
}

static double rate(fsb_backend *b, int kind, int threads, int rounds)
{
    pthread_t    t[8];
    load         l[8];
    const double start = bench_now();
    for (int i = 0; i < threads; ++i) {
        l[i] = (load){b, kind, rounds, i * 37};
        pthread_create(&t[i], NULL, load_main, &l[i]);
    }
    for (int i = 0; i < threads; ++i) pthread_join(t[i], NULL);
    return threads * rounds / (bench_now() - start) / 1e6;
}

static void bench_hits(void)
{
    static const char *const names[] = {"stat-hit", "get-10k-hit", "list-100-hit"};
    fsb_backend            *memory = NULL, *b = NULL;
    fsb_cache_backend_desc  desc = {0};
    wire                    w;
    if (fsb_memory_open(&memory, NULL) < 0) exit(1);
    fill(memory, 10, 100);
    wire_open(&w, memory);
    desc.inner = &w.base;
    if (fsb_cached_backend(&b, &desc) < 0) exit(1);
    walk(b, 10), read_all(b, 10, 100);
    for (int kind = 0; kind < 3; ++kind) {
        for (int threads = 1; threads <= 2; ++threads) {
            const int    rounds = (kind == 2 ? 5000 : 200000) / (bench_.quick ? 4 : 1);
            double       ours[5], theirs[5];
            char         name[40];
            const uint64_t before = w.calls;
            for (int i = 0; i < 5; ++i) {
                ours[i] = rate(b, kind, threads, rounds);
                theirs[i] = rate(memory, kind, threads, rounds);
            }
            snprintf(name, sizeof name, "%s-%d", names[kind], threads);
            bench_row(name, ours, 5, "M/s", "memory backend", theirs, 5, BENCH_MORE,
                      w.calls == before ? "no call" : "CALLS");
        }
    }
    b->close(b);
    wire_close(&w);
    memory->close(memory);
}

/* ---- how many round trips ---- */

static void bench_trips(void)
{
    double calls[3], trips[3];
    for (int kind = 0; kind < 2; ++kind) {
        for (int i = 0; i < 3; ++i) {
            fsb_backend           *memory = NULL, *b = NULL;
            fsb_cache_backend_desc desc = {0};
            wire                   w;
            if (fsb_memory_open(&memory, NULL) < 0) exit(1);
            fill(memory, kind ? 5 : 50, kind ? 100 : 20);
            wire_open(&w, memory);
            desc.inner = &w.base;
            if (fsb_cached_backend(&b, &desc) < 0) exit(1);
            if (kind) walk(b, 0);
            const double start = bench_now();
            const uint64_t before = w.calls;
            if (kind) read_all(b, 5, 100);
            else walk(b, 50);
            trips[i] = (bench_now() - start) * 1e3 / RTT_MS;
            calls[i] = (double)(w.calls - before);
            b->close(b);
            wire_close(&w);
            memory->close(memory);
        }
        bench_row(kind ? "read-500x10k-trips" : "find-50-folders-trips", trips, 3, "RTT", "",
                  NULL, 0, BENCH_LESS, kind ? "5 folders, one file after another, cold" : "cold");
        bench_row(kind ? "read-500x10k-calls" : "find-50-folders-calls", calls, 3, "calls", "",
                  NULL, 0, BENCH_LESS, "");
    }
}

int main(int argc, char **argv)
{
    bench_begin("cached", argc, argv);
    bench_hits();
    bench_trips();
    return 0;
}
