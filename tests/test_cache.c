/* test_cache.c - fsb_cache.h: bytes in memory, chunks and records on disk. */
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"

#include "test.h"
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

/* Every call of the disk against a model, with a close and an open now and then. */
static void test_disk_model(void)
{
    static uint8_t        buf[FSB_CACHE_CHUNK];
    static struct { uint64_t life; size_t size; } chunk[100], record[100];
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
            fill(buf, chunk[k].size, k, ++chunk[k].life);
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
            fill(buf, record[k].size, k, ++record[k].life);
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
        if (record[k].life == 0) record[k].life = 0;
    }
    fsb_cache_disk_stats stats;
    fsb_cache_disk_get_stats(disk, &stats);
    CHECK(found > 1000 && stats.damaged == 0 && stats.chunks > 50 && stats.records > 50);
    fsb_cache_disk_close(disk);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_model);
    TEST(test_disk_model);
    return test_end("test_cache");
}
