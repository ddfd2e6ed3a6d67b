/* bench_pool.c - what a pool costs: the first and the next request, and a hundred threads that
   share four connections beside four threads with one each. */
#define FSB_POOL_IMPLEMENTATION
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_pool.h"
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "bench.h"
#include <pthread.h>
#include <unistd.h>

enum { RUNS = 5 };
static char         address[128];
static fsb_pool    *pool;
static int          connect_ms; /* what making a connection costs elsewhere */
static int          seconds_10; /* of each run, in tenths */

static int dial(void *user, const char *key, uint32_t timeout_ms, void **out)
{
    fsb_chunk_client_desc desc = {0};
    fsb_backend          *b = NULL;
    (void)user, (void)key;
    usleep((useconds_t)connect_ms * 1000);
    desc.address = address, desc.timeout_ms = timeout_ms;
    const int err = fsb_chunk_client_open(&b, &desc);
    *out = b;
    return err;
}

static int get(void *user, void *thing)
{
    char   buf[4096];
    fsb_op op = {0};
    (void)user;
    op.code = FSB_OP_GET, op.path = "/file", op.buf = buf, op.size = sizeof buf;
    return fsb_backend_call(thing, &op) == sizeof buf ? 0 : -1;
}

static int wait_ms(void *user, void *thing) /* a request on a link with a round trip of 1 ms */
{
    (void)user, (void)thing;
    usleep(1000);
    return 0;
}

typedef struct worker {
    int (*fn)(void *user, void *thing);
    fsb_backend *own; /* NULL: one of the pool's for each request */
    uint64_t     done;
    const int   *stop;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    while (!__atomic_load_n(w->stop, __ATOMIC_RELAXED)) {
        const int n = w->own ? w->fn(NULL, w->own) : fsb_pool_with(pool, "k", 0, w->fn, NULL);
        if (n) fprintf(stderr, "bench_pool: a request failed: %d\n", n), exit(1);
        ++w->done;
    }
    return NULL;
}

/* Requests a second of `count` threads. */
static double rate(int count, int pooled, int (*fn)(void *, void *), uint64_t *least)
{
    static worker workers[100];
    pthread_t     threads[100];
    int           stop = 0;
    uint64_t      sum = 0;
    fsb_lease     leases[4];
    for (int i = 0; i < 4 && !pooled; ++i)
        if (fsb_pool_acquire(pool, "k", 0, &leases[i])) exit(1);
    const double from = bench_now();
    for (int i = 0; i < count; ++i) {
        workers[i] = (worker){fn, pooled ? NULL : leases[i % 4].thing, 0, &stop};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    usleep((useconds_t)seconds_10 * 100000);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    *least = UINT64_MAX;
    for (int i = 0; i < count; ++i) {
        pthread_join(threads[i], NULL);
        sum += workers[i].done;
        if (workers[i].done < *least) *least = workers[i].done;
    }
    const double t = bench_now() - from;
    for (int i = 0; i < 4 && !pooled; ++i) fsb_pool_release(pool, leases[i], FSB_POOL_KEEP);
    return (double)sum / t;
}

static void compare(const char *which, int (*fn)(void *, void *))
{
    double   ours[RUNS], theirs[RUNS];
    uint64_t least = 0, ignored;
    char     note[120];
    fsb_pool_stats before, s;
    fsb_pool_get_stats(pool, &before);
    for (int i = 0; i < RUNS; ++i) {
        theirs[i] = rate(4, 0, fn, &ignored);
        ours[i] = rate(100, 1, fn, &least);
    }
    fsb_pool_get_stats(pool, &s);
    snprintf(note, sizeof note, "100 threads on 4; %.0f%% waited; the slowest thread got %llu",
             100 * (double)(s.waited - before.waited) / (double)(s.hits - before.hits),
             (unsigned long long)least);
    bench_row(which, ours, RUNS, "req/s", "4 threads, own", theirs, RUNS, BENCH_MORE, note);
}

static void first_and_next(void)
{
    double first[RUNS], next[RUNS];
    for (int i = 0; i < RUNS; ++i) {
        char key[16];
        snprintf(key, sizeof key, "first%d", i);
        double from = bench_now();
        fsb_pool_with(pool, key, 0, get, NULL);
        first[i] = 1e6 * (bench_now() - from);
        from = bench_now();
        for (int k = 0; k < 100; ++k) fsb_pool_with(pool, key, 0, get, NULL);
        next[i] = 1e4 * (bench_now() - from);
    }
    bench_row("a next request", next, RUNS, "us", "the first", first, RUNS, BENCH_LESS,
              "connecting takes 100 ms");
}

int main(int argc, char **argv)
{
    bench_begin("pool", argc, argv);
    static char   bytes[4096];
    fsb_backend  *memory = NULL;
    fsb_pool_desc desc = {0};
    seconds_10 = bench_.quick ? 3 : 10;
    fsb_chunk_server     *server = NULL;
    fsb_chunk_share       share = {0};
    fsb_chunk_server_desc server_desc = {0};
    if (fsb_memory_open(&memory, &(fsb_memory_desc){0})) return 1;
    if (fsb_write_file(memory, "/file", bytes, sizeof bytes, 0644)) return 1;
    share.name = "m", share.backend = memory, share.rights = FSB_CHUNK_READ;
    server_desc.shares = &share, server_desc.share_count = 1;
    if (fsb_chunk_server_open(&server, &server_desc)) return 1;
    if (fsb_chunk_server_listen(server, "127.0.0.1:0", address, sizeof address)) return 1;
    desc.open = dial, desc.close = fsb_pool_backend_close, desc.max_per_key = 4;
    if (fsb_pool_open(&pool, &desc)) return 1;
    connect_ms = 100;
    first_and_next();
    connect_ms = 0;
    compare("requests of 1 ms", wait_ms);
    compare("GET of 4 KiB over loopback", get);
    fsb_pool_close(pool);
    fsb_chunk_server_close(server);
    memory->close(memory);
    return 0;
}
