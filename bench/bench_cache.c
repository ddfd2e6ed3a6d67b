/* bench_cache.c - the cache beside what it replaces: in memory a GHashTable with a GQueue behind a
   mutex (LRU), on disk plain pread and pwrite of the same bytes.

   bench_cache --hits N (or --copies N) does N hits and little else, to count instructions:
       valgrind --tool=callgrind build/bench/bench_cache --hits 1000000   (less: --hits 0) */
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"

#include "bench.h"
#include <sys/wait.h>
#ifdef BENCH_GLIB
#include <glib.h>
#endif

enum { KEYS = 100000, PICKS = 1 << 20, VALUE = 56, ROUNDS = 7 };

static struct {
    uint32_t     *picks; /* key numbers, some far more often than others */
    fsb_cache    *cache;
    long          hits; /* of one thread and round */
    char          dir[300];
} bench;

static void need(int64_t result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "bench_cache: %s: %s\n", what, strerror((int)-result));
    exit(1);
}

static uint64_t next_random(void)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

static fsb_cache_key key_of(uint64_t n)
{
    const fsb_cache_key key = {{n * 0x9E3779B97F4A7C15u, n, 1, 2}};
    return key;
}

/* Zipf's law with exponent 1: the n-th key is asked for 1/n as often as the first. */
static void make_picks(uint32_t keys)
{
    double *sum = malloc(keys * sizeof *sum), all = 0;
    if (!bench.picks) bench.picks = malloc(PICKS * sizeof *bench.picks);
    if (!sum || !bench.picks) need(-ENOMEM, "picks");
    for (uint32_t i = 0; i < keys; ++i) sum[i] = all += 1.0 / (i + 1);
    for (int i = 0; i < PICKS; ++i) {
        const double at = (double)(next_random() >> 11) / 9007199254740992.0 * all;
        uint32_t     low = 0, high = keys - 1;
        while (low < high) {
            const uint32_t middle = (low + high) / 2;
            if (sum[middle] < at) low = middle + 1;
            else high = middle;
        }
        bench.picks[i] = (uint32_t)(low * 2654435761u) % keys; /* not all in one place */
    }
    free(sum);
}

/* ---- memory: ours ---------------------------------------------------------------------------- */

static void fill_cache(uint32_t keys)
{
    char           value[VALUE] = "value";
    fsb_cache_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_bytes = keys < 50000 ? 8 << 20 : 40 << 20;
    need(fsb_cache_open(&bench.cache, &desc), "open");
    for (uint32_t i = 0; i < keys; ++i) {
        const fsb_cache_key key = key_of(i);
        need(fsb_cache_put(bench.cache, &key, value, sizeof value, 0), "put");
    }
}

static void *copy_hits(void *first)
{
    char   value[VALUE];
    size_t at = *(size_t *)first;
    for (long i = 0; i < bench.hits; ++i) {
        const fsb_cache_key key = key_of(bench.picks[at++ % PICKS]);
        need(fsb_cache_get_copy(bench.cache, &key, value, sizeof value), "get_copy");
    }
    return NULL;
}

static void *pin_hits(void *first)
{
    fsb_slice slice;
    size_t    at = *(size_t *)first;
    for (long i = 0; i < bench.hits; ++i) {
        const fsb_cache_key key = key_of(bench.picks[at++ % PICKS]);
        need(fsb_cache_get(bench.cache, &key, &slice) ? 0 : -ENOENT, "get");
        fsb_slice_release(&slice);
    }
    return NULL;
}

/* Millions of hits a second by some threads at once. */
static double rate(void *(*hits)(void *), int threads)
{
    pthread_t    thread[8];
    size_t       first[8];
    const double begin = bench_now();
    for (int i = 0; i < threads; ++i) {
        first[i] = (size_t)i * (PICKS / 8);
        need(-pthread_create(&thread[i], NULL, hits, &first[i]), "thread");
    }
    for (int i = 0; i < threads; ++i) pthread_join(thread[i], NULL);
    return (double)bench.hits * threads / (bench_now() - begin) / 1e6;
}

/* ---- memory: theirs -------------------------------------------------------------------------- */

#ifdef BENCH_GLIB
typedef struct item {
    fsb_cache_key key;
    GList         link; /* in the queue, last used first */
    char          value[VALUE];
} item;
static struct {
    pthread_mutex_t lock;
    GHashTable     *table;
    GQueue          queue;
} lru = {PTHREAD_MUTEX_INITIALIZER, NULL, G_QUEUE_INIT};

static guint item_hash(gconstpointer key)
{
    const fsb_cache_key *k = key;
    return (guint)((k->word[0] ^ k->word[1] ^ k->word[2] ^ k->word[3]) >> 32);
}
static gboolean item_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(fsb_cache_key)) == 0;
}
static void fill_lru(uint32_t keys)
{
    lru.table = g_hash_table_new(item_hash, item_equal);
    for (uint32_t i = 0; i < keys; ++i) {
        item *it = g_new0(item, 1);
        it->key = key_of(i), it->link.data = it;
        g_hash_table_insert(lru.table, &it->key, it);
        g_queue_push_head_link(&lru.queue, &it->link);
    }
}
static void *lru_hits(void *first)
{
    char   value[VALUE];
    size_t at = *(size_t *)first;
    for (long i = 0; i < bench.hits; ++i) {
        const fsb_cache_key key = key_of(bench.picks[at++ % PICKS]);
        pthread_mutex_lock(&lru.lock);
        item *it = g_hash_table_lookup(lru.table, &key);
        need(it ? 0 : -ENOENT, "lookup");
        g_queue_unlink(&lru.queue, &it->link);
        g_queue_push_head_link(&lru.queue, &it->link);
        memcpy(value, it->value, sizeof value);
        pthread_mutex_unlock(&lru.lock);
        __asm__ volatile("" ::"r"(value) : "memory");
    }
    return NULL;
}
#endif

static void bench_memory(void)
{
    const char *name = NULL;
    double      copy[ROUNDS], pin[ROUNDS], *beside = NULL;
    bench.hits = bench_.quick ? 1000000 : 5000000;
    make_picks(KEYS);
    fill_cache(KEYS);
#ifdef BENCH_GLIB
    double theirs[ROUNDS];
    fill_lru(KEYS);
    name = "GHashTable+GQueue", beside = theirs;
#endif
    for (int threads = 1; threads <= 2; ++threads) {
        char note[40];
        snprintf(note, sizeof note, "%d thread%s", threads, threads > 1 ? "s" : "");
        for (int i = 0; i < ROUNDS; ++i) {
            copy[i] = rate(copy_hits, threads);
            pin[i] = rate(pin_hits, threads);
#ifdef BENCH_GLIB
            theirs[i] = rate(lru_hits, threads);
#endif
        }
        bench_row(threads == 1 ? "hit, copied" : "hit, copied, 2 threads", copy, ROUNDS, "M/s",
                  name, beside, ROUNDS, BENCH_MORE, note);
        bench_row(threads == 1 ? "hit, pinned" : "hit, pinned, 2 threads", pin, ROUNDS, "M/s",
                  name, beside, ROUNDS, BENCH_MORE, note);
    }
    fsb_cache_close(bench.cache);
}

/* ---- memory: chunks -------------------------------------------------------------------------- */

static const uint8_t chunk[FSB_CACHE_CHUNK];

static fsb_cache *chunk_cache(uint64_t max_bytes)
{
    fsb_cache     *cache = NULL;
    fsb_cache_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.max_bytes = max_bytes, desc.max_entries = max_bytes >> 12;
    need(fsb_cache_open(&cache, &desc), "open");
    return cache;
}

/* 512 MiB through 256 MiB, each chunk once: beside malloc, memcpy and free of as many. */
static void bench_eviction(void)
{
    enum { CHUNKS = 4096, KEPT = CHUNKS / 2 };
    double          ours[3], theirs[3];
    void           *kept[KEPT] = {NULL};
    fsb_cache_stats stats;
    for (int r = 0; r < 3; ++r) {
        fsb_cache *cache = chunk_cache(256 << 20);
        double     t = bench_now();
        for (uint64_t i = 0; i < CHUNKS; ++i) {
            const fsb_cache_key key = key_of(i);
            need(fsb_cache_put(cache, &key, chunk, sizeof chunk, 0), "put");
        }
        ours[r] = (bench_now() - t) / CHUNKS * 1e6;
        fsb_cache_get_stats(cache, &stats);
        if (stats.bytes > stats.max_bytes || !stats.evictions) need(-E2BIG, "the bound");
        fsb_cache_close(cache);
        t = bench_now();
        for (int i = 0; i < CHUNKS; ++i) {
            free(kept[i % KEPT]);
            if (!(kept[i % KEPT] = malloc(sizeof chunk))) need(-ENOMEM, "malloc");
            memcpy(kept[i % KEPT], chunk, sizeof chunk);
        }
        theirs[r] = (bench_now() - t) / CHUNKS * 1e6;
        for (int i = 0; i < KEPT; ++i) free(kept[i]), kept[i] = NULL;
    }
    bench_row("chunk, put, 512 MiB through 256", ours, 3, "us", "malloc+memcpy+free", theirs, 3,
              BENCH_LESS, "128 KiB each, half of them evicted");
}

/* 200 MB in 256 MiB: after one pass everything is a hit, in any order. */
static void bench_hit_rate(void)
{
    enum { CHUNKS = 200000000 / FSB_CACHE_CHUNK };
    double     rate[1];
    long       hits = 0;
    fsb_cache *cache = chunk_cache(256 << 20);
    for (long i = 0; i < 10 * CHUNKS; ++i) {
        const fsb_cache_key key = key_of(i < CHUNKS ? (uint64_t)i : next_random() % CHUNKS);
        fsb_slice           got;
        if (fsb_cache_get(cache, &key, &got)) {
            fsb_slice_release(&got);
            hits += i >= CHUNKS;
        } else need(fsb_cache_put(cache, &key, chunk, sizeof chunk, 0), "put");
    }
    rate[0] = 100.0 * (double)hits / (9 * CHUNKS);
    bench_row("hit rate, 200 MB set in 256 MiB", rate, 1, "%", "", NULL, 0, BENCH_MORE,
              "chunks, in random order after the first pass");
    fsb_cache_close(cache);
}

/* ---- disk ------------------------------------------------------------------------------------ */

static fsb_cache_disk *open_disk(const char *name, uint64_t max_bytes)
{
    char                path[400];
    fsb_cache_disk     *disk = NULL;
    fsb_cache_disk_desc desc;
    memset(&desc, 0, sizeof desc);
    snprintf(path, sizeof path, "%s/%s", bench.dir, name);
    desc.dir = path, desc.max_bytes = max_bytes;
    need(fsb_cache_disk_open(&disk, &desc), path);
    return disk;
}

static void bench_chunks(void)
{
    enum { CHUNKS = 512 };
    static uint8_t  buf[FSB_CACHE_CHUNK];
    double          write[ROUNDS], pwrites[ROUNDS], read[ROUNDS], preads[ROUNDS];
    char            path[400];
    fsb_cache_disk *disk = open_disk("chunks", 256 << 20);
    snprintf(path, sizeof path, "%s/plain", bench.dir);
    const int plain = open(path, O_RDWR | O_CREAT, 0600);
    need(plain < 0 ? -errno : 0, path);
    for (size_t i = 0; i < sizeof buf; ++i) buf[i] = (uint8_t)next_random();
    for (int round = -1; round < ROUNDS; ++round) { /* the first one only makes the files */
        const int r = round < 0 ? 0 : round;
        double    t = bench_now();
        for (uint64_t i = 0; i < CHUNKS; ++i) {
            const fsb_cache_key key = key_of(i);
            need(fsb_cache_disk_put(disk, &key, buf, sizeof buf), "put");
        }
        write[r] = (bench_now() - t) / CHUNKS * 1e6, t = bench_now();
        for (int i = 0; i < CHUNKS; ++i)
            need(pwrite(plain, buf, sizeof buf, (off_t)i * FSB_CACHE_CHUNK), "pwrite");
        pwrites[r] = (bench_now() - t) / CHUNKS * 1e6, t = bench_now();
        for (uint64_t i = 0; i < CHUNKS; ++i) {
            const fsb_cache_key key = key_of(i * 7 % CHUNKS);
            need(fsb_cache_disk_get(disk, &key, buf, sizeof buf), "get");
        }
        read[r] = (bench_now() - t) / CHUNKS * 1e6, t = bench_now();
        for (int i = 0; i < CHUNKS; ++i)
            need(pread(plain, buf, sizeof buf, (off_t)(i * 7 % CHUNKS) * FSB_CACHE_CHUNK), "pread");
        preads[r] = (bench_now() - t) / CHUNKS * 1e6;
    }
    bench_row("chunk, write", write, ROUNDS, "us", "pwrite", pwrites, ROUNDS, BENCH_LESS,
              "128 KiB, summed");
    bench_row("chunk, warm read", read, ROUNDS, "us", "pread", preads, ROUNDS, BENCH_LESS,
              "128 KiB, checked");
    fsb_cache_disk_close(disk);
    close(plain);
}

static void bench_start(void)
{
    const uint64_t       chunks = bench_.quick ? 100000 : 1 << 20;
    const uint64_t       room = chunks * ((128 << 10) + 64) * 16 / 15 + (64 << 20);
    fsb_cache_disk_stats stats;
    double               ms[ROUNDS], bytes[1], lookup[ROUNDS];
    fsb_cache_disk      *disk = open_disk("million", room);
    for (uint64_t i = 0; i < chunks; ++i) { /* empty chunks: only the table counts here */
        const fsb_cache_key key = key_of(i);
        need(fsb_cache_disk_put(disk, &key, "", 0), "put");
    }
    for (int i = 0; i < ROUNDS; ++i) {
        fsb_cache_disk_close(disk);
        double t = bench_now();
        disk = open_disk("million", room);
        ms[i] = (bench_now() - t) * 1e3, t = bench_now();
        for (uint64_t n = 0; n < 100000; ++n) {
            char                c;
            const fsb_cache_key key = key_of(next_random() % chunks);
            need(fsb_cache_disk_get(disk, &key, &c, 1), "get");
        }
        lookup[i] = (bench_now() - t) / 100000 * 1e6;
    }
    fsb_cache_disk_get_stats(disk, &stats);
    bytes[0] = (double)stats.memory / (double)stats.slots;
    bench_row("start", ms, ROUNDS, "ms", "", NULL, 0, BENCH_LESS,
              bench_.quick ? "100,000 chunks" : "1,048,576 chunks");
    bench_row("memory and index a chunk", bytes, 1, "bytes", "", NULL, 0, BENCH_LESS, "");
    bench_row("look-up of an empty chunk", lookup, ROUNDS, "us", "", NULL, 0, BENCH_LESS, "");
    if (stats.chunks != chunks) need(-ENOENT, "chunks are missing after the start");
    fsb_cache_disk_close(disk);
}

static void bench_records(void)
{
    enum { RECORDS = 100000 };
    char            name[40], value[150] = "attributes";
    double          put[1], get[1];
    fsb_cache_disk *disk = open_disk("records", 1 << 30);
    double          t = bench_now();
    for (int i = 0; i < RECORDS; ++i) {
        const int n = snprintf(name, sizeof name, "/folder/%d/file %d", i % 100, i);
        need(fsb_cache_disk_meta_put(disk, name, (size_t)n, value, sizeof value), "meta_put");
    }
    put[0] = (bench_now() - t) / RECORDS * 1e6, t = bench_now();
    for (int i = 0; i < RECORDS; ++i) {
        const int n = snprintf(name, sizeof name, "/folder/%d/file %d", i % 100, i);
        need(fsb_cache_disk_meta_get(disk, name, (size_t)n, value, sizeof value), "meta_get");
    }
    get[0] = (bench_now() - t) / RECORDS * 1e6;
    bench_row("record, put", put, 1, "us", "", NULL, 0, BENCH_LESS, "150 bytes");
    bench_row("record, get", get, 1, "us", "", NULL, 0, BENCH_LESS, "150 bytes");
    fsb_cache_disk_close(disk);
}

static void remove_dir(void)
{
    const pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", bench.dir, (char *)NULL);
        _exit(127);
    }
    if (pid > 0) waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    const int pins = argc == 3 && strcmp(argv[1], "--hits") == 0;
    if (pins || (argc == 3 && strcmp(argv[1], "--copies") == 0)) {
        size_t first = 0;
        make_picks(1000);
        fill_cache(1000);
        bench.hits = atol(argv[2]);
        return (pins ? pin_hits : copy_hits)(&first), 0;
    }
    bench_begin("cache", argc, argv);
    const char *tmp = getenv("TMPDIR");
    snprintf(bench.dir, sizeof bench.dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(bench.dir)) need(-errno, bench.dir);
    bench_memory();
    bench_eviction();
    bench_hit_rate();
    bench_chunks();
    bench_start();
    bench_records();
    remove_dir();
    return 0;
}
