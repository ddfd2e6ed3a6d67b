/* test_cache.c - fsb_cache.h: bytes in memory, chunks and records on disk. */
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"

#include "test.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

static uint64_t rng = 88172645463325252u; /* xorshift: the same numbers in every run */
static uint64_t next_random(void)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return rng;
}

static fsb_cache_key key_of(uint64_t n)
{
    fsb_cache_key key = {{n, n >> 3, 7, n * n}};
    return key;
}

/* The bytes that belong to a key in its n-th life: any of them tells both. */
static void fill(uint8_t *buf, size_t size, uint64_t key, uint64_t life)
{
    uint64_t x = key * 0x9E3779B97F4A7C15u + life + 1;
    for (size_t i = 0; i < size; ++i) {
        if (i % 8 == 0) x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
        buf[i] = (uint8_t)(x >> (i % 8 * 8));
    }
}

static int filled(const void *data, size_t size, uint64_t key, uint64_t life)
{
    static __thread uint8_t want[1 << 20];
    fill(want, size, key, life);
    return !size || memcmp(want, data, size) == 0;
}

/* ---- core: one thread ------------------------------------------------------------------------ */

enum { MODEL_KEYS = 3000 };
static struct {
    uint64_t life; /* 0: never put or removed */
    size_t   size;
} model[MODEL_KEYS];

static void model_step(fsb_cache *cache, test_memory *memory, uint8_t *buf)
{
    const uint64_t      r = next_random(), k = (r >> 8) % MODEL_KEYS;
    const fsb_cache_key key = key_of(k);
    fsb_slice           got;
    if (r % 100 < 40) {
        size_t size = (r >> 40) % 4 == 0 ? (r >> 44) % 60000 : (r >> 44) % 150;
        fill(buf, size, k, model[k].life + 1);
        const int err = fsb_cache_put(cache, &key, buf, size, 0);
        CHECK(err == 0);
        if (!err) ++model[k].life, model[k].size = size;
    } else if (r % 100 < 45) {
        const int err = fsb_cache_remove(cache, &key);
        CHECK(err == 0 || err == -ENOENT);
        model[k].size = SIZE_MAX;
    } else if (r % 100 < 70) {
        if (!fsb_cache_get(cache, &key, &got)) return; /* evicted, or not there */
        CHECK(model[k].life && got.size == model[k].size);
        CHECK(filled(got.data, got.size, k, model[k].life));
        fsb_slice_release(&got);
    } else {
        const int64_t n = fsb_cache_get_copy(cache, &key, buf, 1 << 20);
        if (n == -ENOENT) return;
        CHECK(model[k].life && (size_t)n == model[k].size);
        CHECK(filled(buf, (size_t)n, k, model[k].life));
    }
    CHECK(memory->live <= 2 << 20);
}

static void test_model(void)
{
    static uint8_t buf[1 << 20];
    test_memory    memory = {0};
    fsb_cache_desc desc = {0};
    fsb_cache     *cache = NULL;
    fsb_cache_stats stats;
    desc.max_bytes = 2 << 20, desc.shards = 2;
    desc.allocator.fn = test_memory_fn, desc.allocator.user = &memory;
    REQUIRE(fsb_cache_open(&cache, &desc) == 0);
    for (int i = 0; i < 300000 && !test_.bad; ++i) {
        model_step(cache, &memory, buf);
        if (i % 1000) continue;
        fsb_cache_get_stats(cache, &stats);
        CHECK_EQ(stats.bytes, memory.live);
        CHECK_EQ(stats.pinned, 0);
    }
    CHECK(stats.evictions > 1000 && stats.hits > 1000);
    fsb_cache_close(cache);
    CHECK_EQ(memory.live, 0);
    CHECK_EQ(memory.wrong_size, 0);
}

static fsb_cache *open_cache(uint64_t max_bytes, uint32_t shards)
{
    fsb_cache_desc desc = {0};
    fsb_cache     *cache = NULL;
    desc.max_bytes = max_bytes, desc.shards = shards;
    CHECK_EQ(fsb_cache_open(&cache, &desc), 0);
    return cache;
}

static void test_sizes(void)
{
    static const size_t sizes[] = {0, 1, 7, 8, 9, 55, 56, 57, 64, 4096, 1 << 20};
    static uint8_t      buf[1 << 20], back[1 << 20];
    fsb_cache          *cache = open_cache(0, 0);
    fsb_slice           got;
    REQUIRE(cache);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        const fsb_cache_key key = key_of(i);
        fill(buf, sizes[i], i, 1);
        CHECK_EQ(fsb_cache_put(cache, &key, buf, sizes[i], 0), 0);
        CHECK_EQ(fsb_cache_get_copy(cache, &key, back, sizeof back), sizes[i]);
        CHECK(filled(back, sizes[i], i, 1));
        memset(back, 0x55, sizeof back);
        if (sizes[i]) CHECK_EQ(fsb_cache_get_copy(cache, &key, back, sizes[i] - 1), sizes[i]);
        CHECK(back[0] == 0x55);
        CHECK_EQ(fsb_cache_get(cache, &key, &got), 1);
        CHECK(got.size == sizes[i] && filled(got.data, got.size, i, 1));
        fsb_slice_release(&got);
    }
    const fsb_cache_key key = key_of(99);
    CHECK_EQ(fsb_cache_put(cache, &key, buf, (size_t)fsb_cache_max_value(cache) + 1, 0), -E2BIG);
    CHECK_EQ(fsb_cache_get_copy(cache, &key, back, 10), -ENOENT);
    CHECK_EQ(fsb_cache_remove(cache, &key), -ENOENT);
    fsb_cache_close(cache);
    fsb_cache_close(NULL);
}

static void test_bad_desc(void)
{
    static const struct { uint64_t bytes, entries; uint32_t shards, small; } bad[] = {
        {1, 0, 0, 0}, {1 << 20, 0, 3, 0}, {1 << 20, 0, 128, 0}, {1 << 20, 0, 64, 0},
        {1 << 20, 0, 0, 5000}, {1 << 20, 1 << 20, 0, 0}, {1 << 20, UINT64_MAX, 0, 0},
        {UINT64_MAX, UINT64_MAX, 0, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        fsb_cache_desc desc = {0};
        fsb_cache     *cache = NULL;
        desc.max_bytes = bad[i].bytes, desc.max_entries = bad[i].entries;
        desc.shards = bad[i].shards, desc.small_bytes = bad[i].small;
        CHECK_EQ(fsb_cache_open(&cache, &desc), -EINVAL);
        CHECK(!cache);
    }
}

/* Bytes that somebody holds stay, count, and are not given to others. */
static void test_pins(void)
{
    enum { SIZE = 20000 };
    static uint8_t      buf[SIZE];
    const fsb_cache_key key = key_of(1);
    fsb_slice           first, again, many[200];
    fsb_cache_stats     stats;
    fsb_cache          *cache = open_cache(1 << 20, 1);
    int                 held = 0;
    REQUIRE(cache);
    fill(buf, SIZE, 1, 1);
    CHECK_EQ(fsb_cache_put(cache, &key, buf, SIZE, 0), 0);
    CHECK_EQ(fsb_cache_get(cache, &key, &first), 1);
    CHECK_EQ(fsb_cache_get(cache, &key, &again), 1);
    CHECK(first.data == again.data); /* no copy */
    fill(buf, SIZE, 1, 2);
    CHECK_EQ(fsb_cache_put(cache, &key, buf, SIZE, 0), 0);
    CHECK(filled(first.data, SIZE, 1, 1));
    CHECK_EQ(fsb_cache_remove(cache, &key), 0);
    fsb_cache_get_stats(cache, &stats);
    CHECK_EQ(stats.pinned, SIZE);
    CHECK_EQ(stats.entries, 0);
    fsb_slice_release(&first);
    CHECK(filled(again.data, SIZE, 1, 1));
    fsb_slice_release(&again);
    fsb_cache_get_stats(cache, &stats);
    CHECK_EQ(stats.pinned, 0);
    for (; held < 200; ++held) { /* until all that there may be is held */
        const fsb_cache_key k = key_of((uint64_t)held + 10);
        const int           err = fsb_cache_put(cache, &k, buf, SIZE, 0);
        if (err) CHECK_EQ(err, -ENOMEM);
        if (err || !fsb_cache_get(cache, &k, &many[held])) break;
        fsb_cache_get_stats(cache, &stats);
        CHECK(stats.bytes <= stats.max_bytes);
    }
    CHECK(held > 20 && held < 60);
    for (int i = 0; i < held; ++i) {
        CHECK(filled(many[i].data, SIZE, 1, 2));
        fsb_slice_release(&many[i]);
    }
    CHECK_EQ(fsb_cache_put(cache, &key, buf, SIZE, 0), 0);
    fsb_cache_close(cache);
}

static int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void test_ttl(void)
{
    const fsb_cache_key brief = key_of(1), lasting = key_of(2);
    char                buf[8];
    fsb_cache_stats     stats;
    fsb_cache          *cache = NULL;
    int64_t             begin = 0, n = -ENOENT;
    uint32_t            ms = 10;
    while (n == -ENOENT && clock_ms() - begin >= ms) { /* late: one that lasts longer */
        fsb_cache_close(cache);
        REQUIRE((cache = open_cache(0, 0)) != NULL);
        begin = clock_ms(), ms *= 4;
        CHECK_EQ(fsb_cache_put(cache, &brief, "brief", 5, ms), 0);
        CHECK_EQ(fsb_cache_put(cache, &lasting, "lasts", 5, 0), 0);
        n = fsb_cache_get_copy(cache, &brief, buf, sizeof buf);
    }
    CHECK_EQ(n, 5);
    usleep((ms + 20) * 1000);
    CHECK_EQ(fsb_cache_get_copy(cache, &brief, buf, sizeof buf), -ENOENT);
    CHECK_EQ(fsb_cache_get_copy(cache, &lasting, buf, sizeof buf), 5);
    fsb_cache_get_stats(cache, &stats);
    CHECK_EQ(stats.expired, 1);
    CHECK_EQ(stats.entries, 1);
    CHECK_EQ(stats.hits, 2);
    CHECK_EQ(stats.misses, 1);
    fsb_cache_close(cache);
}

/* A scan of keys that are never asked for again leaves those that are where they were. */
static void test_scan(void)
{
    static char     value[1000];
    fsb_cache_stats stats;
    fsb_cache      *cache = open_cache(4 << 20, 1);
    char            buf[1000];
    int             kept = 0;
    REQUIRE(cache);
    for (int round = 0; round < 3; ++round)
        for (uint64_t i = 0; i < 1000; ++i) {
            const fsb_cache_key key = key_of(i);
            if (fsb_cache_get_copy(cache, &key, buf, sizeof buf) < 0)
                CHECK_EQ(fsb_cache_put(cache, &key, value, sizeof value, 0), 0);
        }
    for (uint64_t i = 0; i < 20000; ++i) {
        const fsb_cache_key key = key_of(i + 100000);
        CHECK_EQ(fsb_cache_put(cache, &key, value, sizeof value, 0), 0);
    }
    for (uint64_t i = 0; i < 1000; ++i) {
        const fsb_cache_key key = key_of(i);
        kept += fsb_cache_get_copy(cache, &key, buf, sizeof buf) >= 0;
    }
    CHECK(kept > 900); /* LRU: none */
    fsb_cache_get_stats(cache, &stats);
    CHECK(stats.evictions > 15000 && stats.bytes <= stats.max_bytes);
    fsb_cache_close(cache);
}

/* ---- core: memory that fails ----------------------------------------------------------------- */

static int64_t load_some(void *user, void *buf, size_t size)
{
    memset(buf, 7, size / 2);
    return *(int *)user ? *(int *)user : (int64_t)size / 2;
}

static void test_out_of_memory(void)
{
    static uint8_t value[5000];
    for (uint64_t k = 1; k < 40; ++k) {
        test_memory    memory = {0};
        fsb_cache_desc desc = {0};
        fsb_cache     *cache = NULL;
        fsb_slice      got;
        int            fine = 0;
        memory.fail_at = k;
        desc.max_bytes = 1 << 20, desc.shards = 2;
        desc.allocator.fn = test_memory_fn, desc.allocator.user = &memory;
        const int err = fsb_cache_open(&cache, &desc);
        CHECK(err == 0 || err == -ENOMEM);
        if (err) CHECK_EQ(memory.live, 0);
        for (uint64_t i = 0; cache && i < 10; ++i) {
            const fsb_cache_key key = key_of(i);
            int64_t             n = fsb_cache_put(cache, &key, value, sizeof value, 0);
            CHECK(n == 0 || n == -ENOMEM);
            const fsb_cache_key other = key_of(i + 50);
            n = fsb_cache_fetch(cache, &other, 6000, load_some, &fine, 0, &got);
            CHECK(n == 0 || n == -ENOMEM);
            if (n == 0) fsb_slice_release(&got);
        }
        fsb_cache_close(cache);
        CHECK_EQ(memory.live, 0);
        CHECK_EQ(memory.wrong_size, 0);
    }
}

/* ---- core: the bound ------------------------------------------------------------------------- */

static struct {
    int64_t    live, most; /* bytes of the allocator's, by atomics */
    fsb_cache *cache;
} bound;

static void *bound_memory(void *user, void *ptr, size_t old_size, size_t new_size)
{
    void *to = NULL;
    (void)user;
    if (new_size && !(to = realloc(ptr, new_size))) return NULL;
    if (!new_size) free(ptr);
    const int64_t change = (int64_t)new_size - (int64_t)old_size;
    const int64_t now = __atomic_add_fetch(&bound.live, change, __ATOMIC_RELAXED);
    int64_t       most = __atomic_load_n(&bound.most, __ATOMIC_RELAXED);
    while (now > most && !__atomic_compare_exchange_n(&bound.most, &most, now, 0, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {}
    return to;
}

/* Small values and large ones, put, fetched, removed, some of them pinned meanwhile. */
static void *insert_many(void *arg)
{
    static const uint8_t value[128 << 10];
    uint64_t             x = *(uint64_t *)arg;
    int                  fine = 0;
    fsb_slice            held = {NULL, 0, NULL, NULL};
    for (int i = 0; i < 4000; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        const fsb_cache_key key = key_of(x % 300);
        const size_t        size = x >> 20 & 1 ? x >> 32 & 0xff : x >> 32 & 0x1ffff;
        fsb_slice           got;
        int                 err = 0;
        if (x >> 10 & 1) err = fsb_cache_put(bound.cache, &key, value, size, 0);
        else if ((err = fsb_cache_fetch(bound.cache, &key, size, load_some, &fine, 0, &got)) >= 0) {
            fsb_slice_release(&held);
            held = got;
        }
        CHECK(err >= 0 || err == -ENOMEM);
        if (x % 50 == 0) fsb_cache_remove(bound.cache, &key);
    }
    fsb_slice_release(&held);
    return NULL;
}

/* Not a byte more than max_bytes is ever held, and what it says it holds is what it holds. */
static void test_bound(void)
{
    fsb_cache_desc  desc = {0};
    fsb_cache_stats stats;
    pthread_t       thread[4];
    uint64_t        seed[4] = {1001, 2002, 3003, 4004};
    desc.max_bytes = 4 << 20, desc.shards = 2;
    desc.allocator.fn = bound_memory;
    REQUIRE(fsb_cache_open(&bound.cache, &desc) == 0);
    for (int i = 0; i < 4; ++i)
        REQUIRE(pthread_create(&thread[i], NULL, insert_many, &seed[i]) == 0);
    for (int i = 0; i < 4; ++i) pthread_join(thread[i], NULL);
    fsb_cache_get_stats(bound.cache, &stats);
    CHECK_EQ(stats.bytes, bound.live);
    CHECK(bound.most <= 4 << 20);
    CHECK(bound.most > (4 << 20) - (512 << 10)); /* it was full */
    CHECK(stats.evictions > 1000);
    fsb_cache_close(bound.cache);
    CHECK_EQ(bound.live, 0);
}

/* ---- core: fetch ----------------------------------------------------------------------------- */

static struct {
    fsb_cache *cache;
    int        loads, result, meddle; /* what load_slowly() answers, and does besides */
} flight;

static int64_t load_slowly(void *user, void *buf, size_t size)
{
    const fsb_cache_key key = key_of(5);
    fsb_cache_stats     stats = {0};
    (void)user;
    __atomic_add_fetch(&flight.loads, 1, __ATOMIC_RELAXED);
    EVENTUALLY((fsb_cache_get_stats(flight.cache, &stats), stats.waits >= 7)); /* the others do */
    if (flight.meddle == 1) fsb_cache_remove(flight.cache, &key);
    if (flight.meddle == 2) fsb_cache_put(flight.cache, &key, "newer", 5, 0);
    if (flight.result) return flight.result;
    fill((uint8_t *)buf, size / 2, 5, 1);
    return (int64_t)size / 2;
}

static void *fetch_once(void *arg)
{
    const fsb_cache_key key = key_of(5);
    const size_t        size = *(size_t *)arg;
    fsb_slice           got;
    const int           err = fsb_cache_fetch(flight.cache, &key, size, load_slowly, NULL, 0, &got);
    if (flight.result) {
        CHECK_EQ(err, flight.result);
    } else {
        CHECK(err >= 0);
        CHECK(got.size == size / 2 && filled(got.data, got.size, 5, 1));
        fsb_slice_release(&got);
    }
    return NULL;
}

static void fetch_by_many(size_t size, int result, int meddle)
{
    pthread_t     thread[8];
    fsb_cache_key key = key_of(5);
    char          buf[16] = "";
    flight.cache = open_cache(0, 0), flight.loads = 0;
    flight.result = result, flight.meddle = meddle;
    REQUIRE(flight.cache);
    for (int i = 0; i < 8; ++i) pthread_create(&thread[i], NULL, fetch_once, &size);
    for (int i = 0; i < 8; ++i) pthread_join(thread[i], NULL);
    CHECK_EQ(flight.loads, 1);
    const int64_t n = fsb_cache_get_copy(flight.cache, &key, buf, sizeof buf);
    if (result || meddle == 1) CHECK_EQ(n, -ENOENT);
    else if (meddle == 2) CHECK(n == 5 && !strcmp(buf, "newer"));
    else CHECK_EQ(n, size / 2);
    fsb_cache_stats stats;
    fsb_cache_get_stats(flight.cache, &stats);
    CHECK_EQ(stats.loads, 1);
    CHECK_EQ(stats.waits, 7);
    CHECK_EQ(stats.pinned, 0);
    fsb_cache_close(flight.cache);
}

static void test_single_flight(void)
{
    fetch_by_many(100, 0, 0);
    fetch_by_many(100000, 0, 0);
    fetch_by_many(100, -EIO, 0);
    fetch_by_many(100000, -EIO, 0);
    fetch_by_many(100000, 0, 1);
    fetch_by_many(20, 0, 1);
    fetch_by_many(100000, 0, 2);
}

/* Flights that end in every way, with others waiting: the loader fails, brings less, or what it
   loads is put, removed or cleared meanwhile; there is no memory. */
typedef struct odd_load {
    fsb_cache_key key;
    uint64_t      how, number;
} odd_load;

static void *odd_memory(void *user, void *ptr, size_t old_size, size_t new_size)
{
    uint64_t *count = user;
    if (new_size && __atomic_add_fetch(count, 1, __ATOMIC_RELAXED) % 37 == 0) return NULL;
    return bound_memory(NULL, ptr, old_size, new_size);
}

static int64_t load_oddly(void *user, void *buf, size_t size)
{
    const odd_load *l = user;
    const size_t    some = l->how & 8 ? size : size / 3;
    if (l->how & 16) usleep(50);
    fill(buf, some, l->number, 1);
    switch (l->how % 8) {
    case 0: return -EIO;
    case 1: (void)fsb_cache_remove(bound.cache, &l->key); break;
    case 2: (void)fsb_cache_put(bound.cache, &l->key, buf, some, 0); break;
    case 3: if (!(l->how >> 8 & 15)) fsb_cache_clear(bound.cache); break;
    case 4: return (int64_t)size + 1;
    default: break;
    }
    return (int64_t)some;
}

static void *fetch_oddly(void *arg)
{
    uint64_t  x = *(uint64_t *)arg;
    fsb_slice held = {NULL, 0, NULL, NULL};
    for (int i = 0; i < 4000; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        odd_load     l = {key_of(x % 7), x >> 20, x % 7};
        const size_t size = x >> 40 & 1 ? x >> 41 & 0xff : x >> 41 & 0x1ffff;
        fsb_slice    got;
        const int    err = fsb_cache_fetch(bound.cache, &l.key, size, load_oddly, &l, 0, &got);
        CHECK(err >= 0 || err == -EIO || err == -EINVAL || err == -ENOMEM);
        if (err < 0) continue;
        CHECK(filled(got.data, got.size, l.number, 1));
        fsb_slice_release(&held);
        held = got;
    }
    fsb_slice_release(&held);
    return NULL;
}

static void test_odd_flights(void)
{
    fsb_cache_desc  desc = {0};
    fsb_cache_stats stats;
    pthread_t       thread[4];
    uint64_t        seed[4] = {11, 22, 33, 44}, count = 0;
    desc.max_bytes = 2 << 20, desc.shards = 1;
    desc.allocator.fn = odd_memory, desc.allocator.user = &count;
    bound.live = 0, bound.cache = NULL;
    REQUIRE(fsb_cache_open(&bound.cache, &desc) == 0);
    for (int i = 0; i < 4; ++i)
        REQUIRE(pthread_create(&thread[i], NULL, fetch_oddly, &seed[i]) == 0);
    for (int i = 0; i < 4; ++i) pthread_join(thread[i], NULL);
    fsb_cache_get_stats(bound.cache, &stats);
    CHECK_EQ(stats.pinned, 0);
    CHECK_EQ(stats.bytes, bound.live);
    fsb_cache_close(bound.cache);
    CHECK_EQ(bound.live, 0);
}

/* ---- core: many threads ---------------------------------------------------------------------- */

static fsb_cache *shared;

/* Values say which key they belong to, in every byte: no reader may ever see another's. */
static void *hammer(void *arg)
{
    enum { KEYS = 300 };
    uint64_t      x = 1 + (uint64_t)(uintptr_t)arg;
    uint8_t       buf[3000];
    fsb_slice     held[16];
    uint64_t      held_key[16];
    memset(held, 0, sizeof held);
    for (int i = 0; i < 60000; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        const uint64_t      k = (x >> 8) % KEYS, slot = (x >> 40) % 16;
        const fsb_cache_key key = key_of(k);
        int64_t             n = 0;
        if (x % 16 < 3) {
            const size_t size = (x >> 30) % 4 ? (x >> 34) % 56 : (x >> 34) % sizeof buf;
            memset(buf, (int)(k & 0xff), size);
            CHECK_EQ(fsb_cache_put(shared, &key, buf, size, (uint32_t)((x >> 50) % 3)), 0);
        } else if (x % 16 < 4) {
            (void)fsb_cache_remove(shared, &key);
        } else if (x % 16 < 10) {
            n = fsb_cache_get_copy(shared, &key, buf, sizeof buf);
            for (int64_t b = 0; b < n; ++b)
                if (buf[b] != (k & 0xff)) return CHECK(!"a copy of another key's bytes"), NULL;
        } else {
            for (size_t b = 0; b < held[slot].size; ++b)
                if (((const uint8_t *)held[slot].data)[b] != (held_key[slot] & 0xff))
                    return CHECK(!"pinned bytes changed"), NULL;
            fsb_slice_release(&held[slot]);
            if (fsb_cache_get(shared, &key, &held[slot])) held_key[slot] = k;
        }
    }
    for (int i = 0; i < 16; ++i) fsb_slice_release(&held[i]);
    return NULL;
}

static void test_threads(void)
{
    test_memory     memory = {0};
    pthread_t       thread[4];
    fsb_cache_desc  desc = {0};
    fsb_cache_stats stats;
    desc.max_bytes = 128 << 10, desc.shards = 1;
    desc.allocator.fn = test_memory_fn, desc.allocator.user = &memory;
    REQUIRE(fsb_cache_open(&shared, &desc) == 0);
    for (uintptr_t i = 0; i < 4; ++i) pthread_create(&thread[i], NULL, hammer, (void *)(i * 77));
    for (int i = 0; i < 4; ++i) pthread_join(thread[i], NULL);
    fsb_cache_get_stats(shared, &stats);
    CHECK(stats.evictions + stats.expired > 100);
    CHECK_EQ(stats.pinned, 0);
    CHECK_EQ(stats.bytes, memory.live);
    fsb_cache_close(shared);
    CHECK_EQ(memory.live, 0);
}

/* ---- disk ------------------------------------------------------------------------------------ */

static const char *disk_dir(const char *name)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    return path;
}

static fsb_cache_disk *disk_open(const char *name, uint64_t max_bytes)
{
    fsb_cache_disk_desc desc = {0};
    fsb_cache_disk     *disk = NULL;
    desc.dir = disk_dir(name), desc.max_bytes = max_bytes;
    CHECK_EQ(fsb_cache_disk_open(&disk, &desc), 0);
    return disk;
}

/* Each allocation of an open fails in turn: what cannot be read for want of memory stays there. */
static void test_disk_out_of_memory(void)
{
    static uint8_t      large[400 << 10], back[sizeof large];
    fsb_cache_disk_desc desc = {0};
    fsb_cache_disk     *disk = disk_open("memory", 64 << 20);
    int                 failed = 0;
    REQUIRE(disk);
    memset(large, 'x', sizeof large); /* more than is read at once */
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "a", 1, large, sizeof large), 0);
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "b", 1, large, 5), 0);
    fsb_cache_disk_close(disk);
    desc.dir = disk_dir("memory"), desc.max_bytes = 64 << 20;
    desc.allocator.fn = test_memory_fn;
    for (int done = 0; !done; ++failed) {
        test_memory m = {0};
        m.fail_at = (uint64_t)failed + 1, desc.allocator.user = &m, disk = NULL;
        const int err = fsb_cache_disk_open(&disk, &desc);
        done = !err;
        CHECK(err == 0 || err == -ENOMEM);
        if (disk) {
            CHECK_EQ(fsb_cache_disk_meta_get(disk, "a", 1, back, sizeof back), sizeof large);
            CHECK_EQ(fsb_cache_disk_meta_get(disk, "b", 1, back, sizeof back), 5);
        }
        fsb_cache_disk_close(disk);
        CHECK(m.live == 0 && m.wrong_size == 0);
    }
    CHECK(failed > 5);
}

/* Every call of the disk against a model, with a close and an open now and then. */
static void test_disk_model(void)
{
    static uint8_t        buf[FSB_CACHE_CHUNK];
    static struct { uint64_t life; size_t size; } chunk[100], record[100]; /* life 0: removed */
    static uint64_t       life;
    fsb_cache_disk       *disk = disk_open("model", 16 << 20);
    uint64_t              found = 0;
    REQUIRE(disk);
    for (int i = 0; i < 20000 && !test_.bad; ++i) {
        const uint64_t      r = next_random(), k = (r >> 8) % 100;
        const fsb_cache_key key = key_of(k);
        char                name[40];
        const size_t        name_size = (size_t)snprintf(name, sizeof name, "name %d", (int)k);
        int64_t             n;
        switch (r % 7) {
        case 0:
            chunk[k].size = (r >> 20) % (r >> 60 ? 3000 : FSB_CACHE_CHUNK + 1);
            fill(buf, chunk[k].size, k, chunk[k].life = ++life);
            CHECK_EQ(fsb_cache_disk_put(disk, &key, buf, chunk[k].size), 0);
            break;
        case 1: case 2:
            n = fsb_cache_disk_get(disk, &key, buf, sizeof buf);
            if (n == -ENOENT) break; /* evicted, perhaps */
            CHECK(chunk[k].life && (size_t)n == chunk[k].size);
            CHECK(filled(buf, (size_t)n, k, chunk[k].life));
            ++found;
            break;
        case 3:
            record[k].size = (r >> 20) % 3000;
            fill(buf, record[k].size, k, record[k].life = ++life);
            CHECK_EQ(fsb_cache_disk_meta_put(disk, name, name_size, buf, record[k].size), 0);
            break;
        case 4: case 5:
            n = fsb_cache_disk_meta_get(disk, name, name_size, buf, sizeof buf);
            CHECK(record[k].life ? n == (int64_t)record[k].size : n == -ENOENT);
            if (n >= 0) CHECK(filled(buf, (size_t)n, k, record[k].life));
            break;
        default:
            if ((r >> 30) % 40 == 0) {
                fsb_cache_disk_close(disk);
                disk = disk_open("model", 16 << 20);
                REQUIRE(disk);
            } else if ((r >> 30) % 3 == 0) {
                n = fsb_cache_disk_meta_remove(disk, name, name_size);
                CHECK_EQ(n, record[k].life ? 0 : -ENOENT);
                record[k].life = 0;
            } else if ((r >> 30) % 3 == 1) {
                n = fsb_cache_disk_remove(disk, &key);
                CHECK(n == 0 || n == -ENOENT);
                chunk[k].life = 0;
            }
        }
    }
    fsb_cache_disk_stats stats;
    fsb_cache_disk_get_stats(disk, &stats);
    CHECK(found > 1000 && stats.damaged == 0 && stats.chunks > 50 && stats.records > 50);
    fsb_cache_disk_close(disk);
}

static void fill_disk(const char *name, uint64_t life)
{
    static uint8_t  buf[FSB_CACHE_CHUNK];
    fsb_cache_disk *disk = disk_open(name, 8 << 20);
    for (uint64_t k = 0; disk && k < 20; ++k) {
        const fsb_cache_key key = key_of(k);
        char                path[40];
        const size_t        n = (size_t)snprintf(path, sizeof path, "/a/%d", (int)k);
        fill(buf, 3000 + k, k, life);
        CHECK_EQ(fsb_cache_disk_put(disk, &key, buf, 3000 + k), 0);
        CHECK_EQ(fsb_cache_disk_meta_put(disk, path, n, buf, 200 + k), 0);
    }
    fsb_cache_disk_close(disk);
}

/* Opens what was damaged: whatever is still there is right. Returns how many chunks and records. */
static int look_disk(const char *name, uint64_t life)
{
    static uint8_t  buf[FSB_CACHE_CHUNK];
    fsb_cache_disk *disk = disk_open(name, 8 << 20);
    int             found = 0;
    for (uint64_t k = 0; disk && k < 20; ++k) {
        const fsb_cache_key key = key_of(k);
        char                path[40];
        const size_t        size = (size_t)snprintf(path, sizeof path, "/a/%d", (int)k);
        int64_t             n = fsb_cache_disk_get(disk, &key, buf, sizeof buf);
        if (n >= 0) CHECK(n == (int64_t)(3000 + k) && filled(buf, (size_t)n, k, life));
        found += n >= 0;
        n = fsb_cache_disk_meta_get(disk, path, size, buf, sizeof buf);
        if (n >= 0) CHECK(n == (int64_t)(200 + k) && filled(buf, (size_t)n, k, life));
        found += n >= 0;
    }
    if (disk) { /* and it goes on working */
        const fsb_cache_key key = key_of(77);
        CHECK_EQ(fsb_cache_disk_put(disk, &key, "new", 3), 0);
        CHECK_EQ(fsb_cache_disk_get(disk, &key, buf, sizeof buf), 3);
        CHECK_EQ(fsb_cache_disk_meta_put(disk, "n", 1, "new", 3), 0);
        CHECK_EQ(fsb_cache_disk_meta_get(disk, "n", 1, buf, sizeof buf), 3);
    }
    fsb_cache_disk_close(disk);
    return found;
}

static void copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    FILE       *a = fopen(from, "rb"), *b = fopen(to, "wb");
    for (size_t n; a && b && (n = fread(buf, 1, sizeof buf, a)) > 0;) fwrite(buf, 1, n, b);
    CHECK(a && b);
    if (a) fclose(a);
    if (b) fclose(b);
}

static const char *const disk_files[] = {"table", "records", "slots", "lock"};

/* Fresh copies of the files of "whole" in "hurt". */
static const char *hurt(const char *file)
{
    static char path[700];
    char        from[700];
    for (int i = 0; i < 4; ++i) {
        if (i == 2) continue; /* slots: large, and refilled where it was hurt */
        snprintf(from, sizeof from, "%s/whole/%s", test_dir(), disk_files[i]);
        snprintf(path, sizeof path, "%s/hurt/%s", test_dir(), disk_files[i]);
        copy_file(from, path);
    }
    snprintf(path, sizeof path, "%s/hurt/%s", test_dir(), file);
    return path;
}

static void flip(const char *path, off_t at, uint8_t bits)
{
    uint8_t   byte;
    const int f = open(path, O_RDWR);
    CHECK(f >= 0 && pread(f, &byte, 1, at) == 1);
    byte ^= bits;
    CHECK(pwrite(f, &byte, 1, at) == 1);
    close(f);
}

/* Every byte of the table and the records, and some of each chunk. */
static void test_disk_flips(void)
{
    char from[700], path[700];
    fill_disk("whole", 1);
    fill_disk("hurt", 1);
    snprintf(from, sizeof from, "%s/whole/slots", test_dir());
    int least = 40, flips = 0;
    for (int i = 0; i < 2; ++i) {
        struct stat st;
        REQUIRE(stat(hurt(disk_files[i]), &st) == 0);
        for (off_t at = 0; at < st.st_size; at += at < 200 ? 1 : 7, ++flips) {
            flip(hurt(disk_files[i]), at, (uint8_t)(1 << at % 8));
            const int found = look_disk("hurt", 1);
            if (found < least) least = found;
            if (found < 39) copy_file(from, hurt("slots")); /* it started anew, over the old */
            if (test_.bad) return;
        }
    }
    CHECK(flips > 500 && least <= 20); /* a header's damage costs one file */
    for (off_t k = 0; k < 20; ++k) {
        snprintf(path, sizeof path, "%s", hurt("slots"));
        copy_file(from, path);
        flip(path, k * FSB_CACHE_CHUNK + 1500 + k, 64);
        CHECK_EQ(look_disk("hurt", 1), 39);
    }
}

static void test_disk_cuts(void)
{
    char from[700], path[700];
    fill_disk("whole", 1);
    fill_disk("hurt", 1);
    for (int i = 0; i < 4; ++i)
        for (int cut = 0; cut <= 10; ++cut) {
            struct stat st;
            snprintf(from, sizeof from, "%s/whole/slots", test_dir());
            snprintf(path, sizeof path, "%s", hurt("slots"));
            copy_file(from, path);
            snprintf(path, sizeof path, "%s", hurt(disk_files[i]));
            REQUIRE(stat(path, &st) == 0);
            if (cut == 10) CHECK(unlink(path) == 0);
            else CHECK(truncate(path, st.st_size * cut / 10 + (cut & 1)) == 0);
            CHECK(look_disk("hurt", 1) <= 40);
        }
    for (int i = 0; i < 3; ++i) { /* while it is open, too */
        static uint8_t      buf[FSB_CACHE_CHUNK];
        fsb_cache_disk     *disk = disk_open("whole", 8 << 20);
        const fsb_cache_key key = key_of(3);
        REQUIRE(disk);
        snprintf(path, sizeof path, "%s/whole/%s", test_dir(), disk_files[i]);
        CHECK(truncate(path, 100) == 0);
        int64_t n = fsb_cache_disk_get(disk, &key, buf, sizeof buf);
        CHECK(n == -ENOENT || filled(buf, (size_t)n, 3, 1));
        n = fsb_cache_disk_meta_get(disk, "/a/3", 4, buf, sizeof buf);
        CHECK(n == -ENOENT || filled(buf, (size_t)n, 3, 1));
        CHECK_EQ(fsb_cache_disk_meta_put(disk, "/a/3", 4, "x", 1), 0);
        fsb_cache_disk_close(disk);
        fill_disk("whole", 1);
        CHECK_EQ(look_disk("whole", 1), 40);
    }
}

static void test_disk_two(void)
{
    fsb_cache_disk_desc desc = {0};
    fsb_cache_disk     *disk = disk_open("two", 0), *other = NULL;
    fsb_cache_disk_report report;
    REQUIRE(disk);
    desc.dir = disk_dir("two");
    CHECK_EQ(fsb_cache_disk_open(&other, &desc), -EBUSY);
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), -EBUSY);
    CHECK_EQ(fsb_cache_disk_clear(&desc), -EBUSY);
    CHECK(!other);
    fsb_cache_disk_close(disk);
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), 0);
}

static int count_record(void *user, const void *key, size_t key_size, const void *value,
                        size_t value_size)
{
    CHECK(key_size >= 4 && value_size == 3 && !memcmp(key, "/b/", 3) && !memcmp(value, "abc", 3));
    return ++*(int *)user == 1000 ? 7 : 0;
}

static void test_disk_walk(void)
{
    fsb_cache_disk *disk = disk_open("walk", 0);
    char            name[20];
    int             count = 0;
    REQUIRE(disk);
    for (int i = 0; i < 2000; ++i) {
        const size_t n = (size_t)snprintf(name, sizeof name, "/%c/%d", i % 4 ? 'a' : 'b', i);
        CHECK_EQ(fsb_cache_disk_meta_put(disk, name, n, "abc", 3), 0);
    }
    CHECK_EQ(fsb_cache_disk_meta_walk(disk, "/b/", 3, count_record, &count), 0);
    CHECK_EQ(count, 500);
    count = 900;
    CHECK_EQ(fsb_cache_disk_meta_walk(disk, "/b/", 3, count_record, &count), 7);
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "", 0, "abc", 3), -EINVAL);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "", 0, name, 3), -EINVAL);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "/b/0", 4, name, 2), 3);
    fsb_cache_disk_close(disk);
}

static uint64_t disk_bytes(const char *name)
{
    uint64_t all = 0;
    for (int i = 0; i < 4; ++i) {
        char        path[700];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", disk_dir(name), disk_files[i]);
        if (stat(path, &st) == 0) all += (uint64_t)st.st_size;
    }
    return all;
}

/* Far more records and chunks than there is room for: the newest are there, the bound holds. */
static void test_disk_tidy(void)
{
    static uint8_t  buf[1000];
    fsb_cache_disk *disk = disk_open("tidy", 8 << 20);
    char            name[20];
    REQUIRE(disk);
    for (int i = 0; i < 20000; ++i) {
        const size_t        n = (size_t)snprintf(name, sizeof name, "%d", i % 5000);
        const fsb_cache_key key = key_of((uint64_t)i);
        fill(buf, 500, (uint64_t)i, 1);
        CHECK_EQ(fsb_cache_disk_meta_put(disk, name, n, buf, 500), 0);
        CHECK_EQ(fsb_cache_disk_meta_get(disk, name, n, buf, sizeof buf), 500);
        CHECK(filled(buf, 500, (uint64_t)i, 1));
        if (i % 100 == 0) CHECK_EQ(fsb_cache_disk_put(disk, &key, buf, 500), 0);
        if (i % 500 == 0) CHECK(disk_bytes("tidy") <= 8 << 20);
    }
    fsb_cache_disk_close(disk);
    disk = disk_open("tidy", 8 << 20);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "4999", 4, buf, sizeof buf), 500);
    CHECK(filled(buf, 500, 19999, 1));
    fsb_cache_disk_stats stats;
    fsb_cache_disk_get_stats(disk, &stats);
    CHECK(stats.records > 100 && stats.records < 1000 && stats.damaged == 0);
    CHECK(stats.chunks == stats.slots);
    fsb_cache_disk_close(disk);
    disk = disk_open("tidy", 4 << 20); /* smaller than it was */
    CHECK(disk_bytes("tidy") <= 4 << 20);
    fsb_cache_disk_close(disk);
}

/* In a child, as limits and users are a process's: its checks come back as the exit status. */
static void in_child(void (*body)(void))
{
    int         status = -1;
    (void)test_dir(); /* made here, not by the child */
    const pid_t pid = fork();
    if (pid == 0) {
        test_.bad = 0;
        body();
        _exit(test_.bad ? 1 : 0);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void fill_until_full(void)
{
    static uint8_t      buf[FSB_CACHE_CHUNK];
    const struct rlimit limit = {2 << 20, 2 << 20};
    fsb_cache_disk     *disk;
    int                 err = 0;
    uint64_t            k = 0;
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    REQUIRE((disk = disk_open("full", 64 << 20)) != NULL);
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "a", 1, "old", 3), 0);
    for (; k < 100 && !err; ++k) {
        const fsb_cache_key key = key_of(k);
        fill(buf, sizeof buf, k, 1);
        err = fsb_cache_disk_put(disk, &key, buf, sizeof buf);
    }
    CHECK_EQ(err, -ENOSPC);
    CHECK(k > 10 && k < 20);
    for (uint64_t i = 0; i + 1 < k; ++i) { /* reads go on */
        const fsb_cache_key key = key_of(i);
        CHECK_EQ(fsb_cache_disk_get(disk, &key, buf, sizeof buf), sizeof buf);
        CHECK(filled(buf, sizeof buf, i, 1));
    }
    const fsb_cache_key key = key_of(2);
    CHECK_EQ(fsb_cache_disk_put(disk, &key, "x", 1), -ENOSPC);
    CHECK_EQ(fsb_cache_disk_get(disk, &key, buf, sizeof buf), -ENOENT); /* what it was is over */
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "a", 1, "new", 3), -ENOSPC);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "a", 1, buf, sizeof buf), -ENOENT);
    fsb_cache_disk_close(disk);
}

static void test_disk_full(void)
{
    static uint8_t  buf[FSB_CACHE_CHUNK];
    fsb_cache_disk *disk;
    in_child(fill_until_full);
    REQUIRE((disk = disk_open("full", 64 << 20)) != NULL);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "a", 1, buf, sizeof buf), -ENOENT); /* never "old" */
    for (uint64_t i = 0; i < 30; ++i) {
        const fsb_cache_key key = key_of(i);
        const int64_t       n = fsb_cache_disk_get(disk, &key, buf, sizeof buf);
        CHECK(n == -ENOENT || (i != 2 && filled(buf, (size_t)n, i, 1)));
    }
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "a", 1, "new", 3), 0); /* the disk has room again */
    fsb_cache_disk_close(disk);
}

static void read_as_nobody(void)
{
    static uint8_t       buf[FSB_CACHE_CHUNK];
    const fsb_cache_key  key = key_of(3), none = key_of(300);
    fsb_cache_disk      *disk;
    fsb_cache_disk_stats stats;
    if (geteuid() == 0) CHECK(setegid(65534) == 0 && seteuid(65534) == 0);
    REQUIRE((disk = disk_open("still", 8 << 20)) != NULL);
    fsb_cache_disk_get_stats(disk, &stats);
    CHECK_EQ(stats.read_only, 1);
    CHECK_EQ(fsb_cache_disk_get(disk, &key, buf, sizeof buf), 3003);
    CHECK(filled(buf, 3003, 3, 1));
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "/a/3", 4, buf, sizeof buf), 203);
    CHECK_EQ(fsb_cache_disk_put(disk, &none, "x", 1), -EROFS);
    CHECK_EQ(fsb_cache_disk_meta_put(disk, "/a/3", 4, "x", 1), -EROFS);
    CHECK_EQ(fsb_cache_disk_meta_get(disk, "/a/3", 4, buf, sizeof buf), -ENOENT);
    fsb_cache_disk_desc   desc = {0};
    fsb_cache_disk_report report;
    desc.dir = disk_dir("still"), desc.max_bytes = 8 << 20;
    CHECK_EQ(fsb_cache_disk_clear(&desc), -EROFS);
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), 0); /* readers do not exclude each other */
    CHECK_EQ(report.chunks, 20);
    CHECK_EQ(report.records, 20);
    fsb_cache_disk_close(disk);
}

static void test_disk_read_only(void)
{
    char path[700];
    fill_disk("still", 1);
    for (int i = 0; i < 4; ++i) {
        snprintf(path, sizeof path, "%s/%s", disk_dir("still"), disk_files[i]);
        CHECK(chmod(path, 0444) == 0);
    }
    CHECK(chmod(test_dir(), 0755) == 0 && chmod(disk_dir("still"), 0555) == 0);
    in_child(read_as_nobody);
    CHECK(chmod(disk_dir("still"), 0755) == 0);
}

static void other_hash(const void *data, size_t size, unsigned char out[32])
{
    memset(out, 0, 32);
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0; i < size; ++i) out[i % 32] = (unsigned char)(out[i % 32] * 31 + p[i]);
}

static void test_disk_hash(void)
{
    fsb_cache_disk_desc   desc = {0};
    fsb_cache_disk_report report;
    desc.dir = disk_dir("hash"), desc.max_bytes = 8 << 20;
    fill_disk("hash", 1);
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), 0);
    CHECK(report.chunks == 20 && report.records == 20);
    CHECK(report.damaged_chunks == 0 && report.damaged_records == 0);
    desc.hash = other_hash;
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), 0);
    CHECK_EQ(report.chunks, 0);
    fill_disk("hash", 1);
    desc.hash = NULL;
    CHECK_EQ(fsb_cache_disk_clear(&desc), 0);
    CHECK_EQ(fsb_cache_disk_verify(&desc, &report), 0);
    CHECK(report.chunks == 0 && report.records == 0);
}

/* ---- disk: kill -9 --------------------------------------------------------------------------- */

enum { KILL_KEYS = 30 };
typedef struct acknowledged { /* shared with the child: what its calls had returned for */
    uint64_t chunk[KILL_KEYS], record[KILL_KEYS];
    int      wrote; /* anything yet */
} acknowledged;

static void write_until_killed(acknowledged *done, uint64_t life)
{
    static uint8_t  buf[FSB_CACHE_CHUNK];
    fsb_cache_disk *disk = disk_open("kill", 8 << 20);
    for (const uint64_t first = life;; ++life) {
        const uint64_t      k = next_random() % KILL_KEYS;
        const fsb_cache_key key = key_of(k);
        const size_t        size = 8 + next_random() % (sizeof buf - 8);
        if (life > first) __atomic_store_n(&done->wrote, 1, __ATOMIC_RELEASE);
        memcpy(buf, &life, 8);
        fill(buf + 8, size - 8, k, life);
        if (life % 2 && fsb_cache_disk_put(disk, &key, buf, size) == 0) done->chunk[k] = life;
        if (life % 2) continue;
        char         name[20];
        const size_t n = (size_t)snprintf(name, sizeof name, "key %d", (int)k);
        if (fsb_cache_disk_meta_put(disk, name, n, buf, size % 5000 + 8) == 0)
            done->record[k] = life;
    }
}

/* What is there is whole, and not older than what was acknowledged. */
static uint64_t look_after_kill(acknowledged *done)
{
    static uint8_t  buf[FSB_CACHE_CHUNK];
    fsb_cache_disk *disk = disk_open("kill", 8 << 20);
    uint64_t        life = 0, last = 0, lost = 0;
    for (uint64_t k = 0; disk && k < KILL_KEYS; ++k) {
        const fsb_cache_key key = key_of(k);
        char                name[20];
        const size_t        size = (size_t)snprintf(name, sizeof name, "key %d", (int)k);
        int64_t             n = fsb_cache_disk_get(disk, &key, buf, sizeof buf);
        if (n < 8) {
            lost += done->chunk[k] != 0, done->chunk[k] = 0;
        } else {
            memcpy(&life, buf, 8);
            CHECK(life >= done->chunk[k] && filled(buf + 8, (size_t)n - 8, k, life));
            last = life > last ? life : last;
        }
        n = fsb_cache_disk_meta_get(disk, name, size, buf, sizeof buf);
        CHECK(n >= 8 || !done->record[k]);
        if (n < 8) continue;
        memcpy(&life, buf, 8);
        CHECK(life >= done->record[k]);
        last = life > last ? life : last;
    }
    CHECK(lost <= 1); /* what was being written */
    fsb_cache_disk_close(disk);
    return last;
}

static void test_disk_kill(void)
{
    const int     flags = MAP_SHARED | MAP_ANONYMOUS;
    acknowledged *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE, flags, -1, 0);
    uint64_t      life = 2;
    int           wrote = 0;
    REQUIRE(done != MAP_FAILED && test_dir()); /* made here, not by each child */
    for (int i = 0; i < 60 && !test_.bad; ++i) {
        const struct timespec wait = {0, (long)(next_random() % 20000000)};
        __atomic_store_n(&done->wrote, 0, __ATOMIC_RELEASE);
        const pid_t           pid = fork();
        if (pid == 0) write_until_killed(done, life);
        if (i % 2) EVENTUALLY(__atomic_load_n(&done->wrote, __ATOMIC_ACQUIRE)); /* else early */
        nanosleep(&wait, NULL);
        CHECK(pid > 0 && kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
        const uint64_t last = look_after_kill(done);
        wrote += last >= life;
        life = (last > life ? last : life) + 2;
    }
    CHECK(wrote > 5); /* rounds that came that far: every second one, and some */
    munmap(done, sizeof *done);
}

/* ---- disk: threads --------------------------------------------------------------------------- */

static fsb_cache_disk *shared_disk;

static void *hammer_disk(void *arg)
{
    uint64_t x = 1 + (uint64_t)(uintptr_t)arg;
    uint8_t *buf = malloc(FSB_CACHE_CHUNK);
    for (int i = 0; buf && i < 2000; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        const uint64_t      k = (x >> 8) % 80;
        const fsb_cache_key key = key_of(k);
        char                name[20];
        const size_t        n = (size_t)snprintf(name, sizeof name, "%d", (int)k);
        int64_t             got = 0;
        memset(buf, (int)k, 20000);
        if (x % 8 < 3) CHECK_EQ(fsb_cache_disk_put(shared_disk, &key, buf, (x >> 40) % 20000), 0);
        else if (x % 8 < 4) (void)fsb_cache_disk_remove(shared_disk, &key);
        else if (x % 8 < 5) CHECK_EQ(fsb_cache_disk_meta_put(shared_disk, name, n, buf, 3000), 0);
        else if (x % 8 < 6) got = fsb_cache_disk_meta_get(shared_disk, name, n, buf, 3000);
        else got = fsb_cache_disk_get(shared_disk, &key, buf, FSB_CACHE_CHUNK);
        for (int64_t b = 0; b < got; ++b)
            if (buf[b] != k) return CHECK(!"another key's bytes"), free(buf), NULL;
    }
    free(buf);
    return NULL;
}

static void test_disk_threads(void)
{
    pthread_t            thread[4];
    fsb_cache_disk_stats stats;
    REQUIRE((shared_disk = disk_open("threads", 8 << 20)) != NULL);
    for (uintptr_t i = 0; i < 4; ++i)
        pthread_create(&thread[i], NULL, hammer_disk, (void *)(i * 9));
    for (int i = 0; i < 4; ++i) pthread_join(thread[i], NULL);
    fsb_cache_disk_get_stats(shared_disk, &stats);
    CHECK_EQ(stats.damaged, 0); /* overwritten while it is read is not damaged */
    CHECK(stats.evictions > 100 && stats.hits > 100 && stats.read_only == 0);
    fsb_cache_disk_close(shared_disk);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_model);
    TEST(test_sizes);
    TEST(test_bad_desc);
    TEST(test_pins);
    TEST(test_ttl);
    TEST(test_scan);
    TEST(test_out_of_memory);
    TEST(test_bound);
    TEST(test_single_flight);
    TEST(test_odd_flights);
    TEST(test_threads);
    TEST(test_disk_out_of_memory);
    TEST(test_disk_model);
    TEST(test_disk_flips);
    TEST(test_disk_cuts);
    TEST(test_disk_two);
    TEST(test_disk_walk);
    TEST(test_disk_tidy);
    TEST(test_disk_full);
    TEST(test_disk_read_only);
    TEST(test_disk_hash);
    TEST(test_disk_kill);
    TEST(test_disk_threads);
    return test_end("test_cache");
}
