/* bench_tables.c - handle and mount tables beside the obvious alternatives, which are built here.

   handles   64 shards of rwlock and chained hash; one global rwlock and hash
   mounts    a byte radix trie; a hash probed with every prefix, longest first. Neither of the two
             is safe to change while it is read; ours is, and that is in its figures.

   Every case runs ROUNDS times, ours and theirs in turn; printed are medians. */
#define FSB_MOUNT_IMPLEMENTATION
#include "../fsb_mount.h"
#include "bench.h"

enum { ROUNDS = 7 };

static uint64_t random_next(uint64_t *state) /* xorshift */
{
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

/* ---- the obvious handle table ---- */

typedef struct entry {
    struct entry *next;
    uint64_t      id;
    void         *object;
} entry;
typedef struct shard {
    pthread_rwlock_t lock;
    entry          **bucket;
    uint32_t         mask;
    char             pad[32];
} shard;
static struct {
    shard    shard[64];
    uint32_t mask; /* 63, or 0: one lock for all */
    uint64_t next;
} plain;

static void plain_open(uint32_t shards, uint32_t count)
{
    uint32_t buckets = 1;
    while (buckets < count / shards) buckets *= 2;
    plain.mask = shards - 1, plain.next = 1;
    for (uint32_t i = 0; i < shards; ++i) {
        pthread_rwlock_init(&plain.shard[i].lock, NULL);
        plain.shard[i].mask = buckets - 1;
        plain.shard[i].bucket = calloc(buckets, sizeof(entry *));
    }
}

static void plain_close(void)
{
    for (uint32_t i = 0; i <= plain.mask; ++i) {
        for (uint32_t b = 0; b <= plain.shard[i].mask; ++b)
            for (entry *e = plain.shard[i].bucket[b], *next; e; e = next) next = e->next, free(e);
        free(plain.shard[i].bucket);
        pthread_rwlock_destroy(&plain.shard[i].lock);
    }
}

static uint64_t plain_hash(uint64_t id) { return (id * 0x9e3779b97f4a7c15u) >> 20; }

static void *plain_get(uint64_t id)
{
    const uint64_t h = plain_hash(id);
    shard         *s = &plain.shard[h & plain.mask];
    void          *found = NULL;
    pthread_rwlock_rdlock(&s->lock);
    for (entry *e = s->bucket[h >> 6 & s->mask]; e; e = e->next)
        if (e->id == id) {
            found = e->object;
            break;
        }
    pthread_rwlock_unlock(&s->lock);
    return found;
}

static uint64_t plain_add(void *object)
{
    const uint64_t id = __atomic_fetch_add(&plain.next, 1, __ATOMIC_RELAXED), h = plain_hash(id);
    shard         *s = &plain.shard[h & plain.mask];
    entry         *e = malloc(sizeof *e);
    e->id = id, e->object = object;
    pthread_rwlock_wrlock(&s->lock);
    e->next = s->bucket[h >> 6 & s->mask], s->bucket[h >> 6 & s->mask] = e;
    pthread_rwlock_unlock(&s->lock);
    return id;
}

static void plain_remove(uint64_t id)
{
    const uint64_t h = plain_hash(id);
    shard         *s = &plain.shard[h & plain.mask];
    pthread_rwlock_wrlock(&s->lock);
    entry **at = &s->bucket[h >> 6 & s->mask], *e;
    while ((*at)->id != id) at = &(*at)->next;
    e = *at, *at = e->next;
    pthread_rwlock_unlock(&s->lock);
    free(e);
}

/* ---- handles ---- */

static struct {
    fsb_handles *t; /* NULL: the plain one */
    uint64_t    *ids;
    uint32_t     live, loops;
    int          change, pin, threads, ready;
} run;
static int objects[1];

static void *handles_main(void *arg)
{
    const unsigned self = (unsigned)(uintptr_t)arg;
    uint64_t       seed = 88172645463325252u + self, sum = 0;
    const uint32_t share = run.live / 2; /* a thread changes its own half only */
    cpu_set_t      set;
    CPU_ZERO(&set);
    CPU_SET(self % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    __atomic_add_fetch(&run.ready, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&run.ready, __ATOMIC_ACQUIRE) < run.threads) {}
    const double begin = bench_now();
    for (uint32_t i = 0; i < run.loops; ++i) {
        const uint32_t at = (uint32_t)((random_next(&seed) >> 32) * run.live >> 32);
        void          *found = NULL;
        if (run.change) {
            uint64_t *id = &run.ids[share * self + at % share];
            if (run.t) {
                fsb_handles_remove(run.t, *id, 0);
                fsb_handles_add(run.t, objects, self + 1, 0, id);
            } else {
                plain_remove(*id);
                *id = plain_add(objects);
            }
        } else if (!run.t) {
            found = plain_get(run.ids[at]);
        } else if (run.pin) {
            fsb_handles_pin(run.t, run.ids[at], 0, &found);
            fsb_handles_unpin(run.t, run.ids[at]);
        } else {
            fsb_handles_get(run.t, run.ids[at], 0, &found);
        }
        sum += (uintptr_t)found;
    }
    __asm__ volatile("" : : "r"(sum));
    double *spent = malloc(sizeof *spent);
    *spent = (bench_now() - begin) / run.loops * 1e9;
    return spent;
}

static double handles_run(int threads) /* ns each, on each thread */
{
    pthread_t thread[2];
    double    total = 0;
    run.threads = threads, run.ready = 0;
    for (int i = 0; i < threads; ++i)
        pthread_create(&thread[i], NULL, handles_main, (void *)(uintptr_t)i);
    for (int i = 0; i < threads; ++i) {
        void *spent;
        pthread_join(thread[i], &spent);
        total += *(double *)spent;
        free(spent);
    }
    return total / threads;
}

static void handles_case(uint32_t live, int threads, int change, uint32_t shards, int pin)
{
    double       ours[ROUNDS], theirs[ROUNDS];
    char         name[64], note[64] = "";
    fsb_handles_desc d = {.max_handles = live + 2};
    fsb_handles *t = NULL;
    uint64_t    *mine = malloc(live * sizeof *mine), *other = malloc(live * sizeof *other);
    if (fsb_handles_open(&t, &d) != 0) exit(1);
    plain_open(shards, live);
    run.live = live, run.change = change, run.pin = pin;
    run.loops = bench_.quick ? 300000 : 2000000;
    for (uint32_t i = 0; i < live; ++i) {
        fsb_handles_add(t, objects, i / (live / 2) + 1, 0, &mine[i]);
        other[i] = plain_add(objects);
    }
    for (int i = 0; i < ROUNDS; ++i) {
        run.t = t, run.ids = mine, ours[i] = handles_run(threads);
        run.t = NULL, run.ids = other, theirs[i] = handles_run(threads);
    }
    snprintf(name, sizeof name, "handles %s, %uk, %d thread%s",
             change ? "remove+add" : pin ? "pin+unpin" : "get", live / 1000, threads,
             threads > 1 ? "s" : "");
    if (shards > 1 && !pin)
        snprintf(note, sizeof note, "bar %s", change ? "2.5" : threads > 1 ? "5" : "3.5");
    bench_row(name, ours, ROUNDS, "ns", shards > 1 ? "64 rwlock shards" : "one rwlock", theirs,
              ROUNDS, BENCH_LESS, note);
    fsb_handles_close(t);
    plain_close();
    free(mine);
    free(other);
}

/* ---- the obvious mount tables ---- */

typedef struct radix { /* a node: its text, then children by their first byte, sorted */
    const char    *text;
    uint32_t       size, count;
    struct radix **child;
    void          *mount;
} radix;

static radix *radix_new(const char *text, uint32_t size)
{
    radix *r = calloc(1, sizeof *r);
    r->text = text, r->size = size;
    return r;
}

static uint32_t radix_place(const radix *r, char c, int *exact)
{
    uint32_t low = 0, high = r->count;
    while (low < high) {
        const uint32_t m = (low + high) / 2;
        if ((unsigned char)r->child[m]->text[0] < (unsigned char)c) low = m + 1;
        else high = m;
    }
    *exact = low < r->count && r->child[low]->text[0] == c;
    return low;
}

static void radix_add(radix *r, const char *path, void *mount)
{
    while (*path) {
        int            exact;
        const uint32_t i = radix_place(r, *path, &exact);
        if (!exact) {
            r->child = realloc(r->child, (r->count + 1) * sizeof *r->child);
            memmove(r->child + i + 1, r->child + i, (r->count - i) * sizeof *r->child);
            ++r->count;
            r->child[i] = radix_new(path, (uint32_t)strlen(path));
            r->child[i]->mount = mount;
            return;
        }
        radix   *c = r->child[i];
        uint32_t n = 0;
        while (n < c->size && c->text[n] == path[n]) ++n;
        if (n < c->size) { /* split */
            radix *top = radix_new(c->text, n);
            top->child = malloc(sizeof *top->child);
            top->child[0] = c, top->count = 1;
            c->text += n, c->size -= n;
            r->child[i] = c = top;
        }
        r = c, path += n;
    }
    r->mount = mount;
}

static void *radix_get(const radix *r, const char *path)
{
    void *best = NULL;
    for (;;) {
        if (r->mount && (*path == '/' || !*path)) best = r->mount;
        if (!*path) return best;
        int            exact;
        const uint32_t i = radix_place(r, *path, &exact);
        if (!exact) return best;
        r = r->child[i];
        if (strncmp(r->text, path, r->size) != 0) return best;
        path += r->size;
    }
}

static struct {
    const char **path;
    uint32_t    *size, mask;
} by_part;

static uint64_t part_hash(uint64_t h, char c) { return (h ^ (unsigned char)c) * 0x100000001b3u; }
static const uint64_t part_seed = 0xcbf29ce484222325u;

static void parts_open(char **paths, uint32_t n)
{
    by_part.mask = 1;
    while (by_part.mask < n * 2) by_part.mask *= 2;
    by_part.path = calloc(by_part.mask, sizeof *by_part.path);
    by_part.size = calloc(by_part.mask, sizeof *by_part.size);
    --by_part.mask;
    for (uint32_t k = 0; k < n; ++k) {
        uint64_t h = part_seed;
        for (const char *p = paths[k]; *p; ++p) h = part_hash(h, *p);
        uint32_t i = (uint32_t)(h ^ h >> 32) & by_part.mask;
        while (by_part.path[i]) i = (i + 1) & by_part.mask;
        by_part.path[i] = paths[k], by_part.size[i] = (uint32_t)strlen(paths[k]);
    }
}

static const void *parts_get(const char *path)
{
    uint64_t hash[64];
    uint32_t end[64], n = 0;
    uint64_t h = part_seed;
    const char *p = path;
    for (;; ++p) {
        if ((!*p || *p == '/') && p > path) hash[n] = h, end[n++] = (uint32_t)(p - path);
        if (!*p) break;
        h = part_hash(h, *p);
    }
    while (n--) {
        uint32_t i = (uint32_t)(hash[n] ^ hash[n] >> 32) & by_part.mask;
        for (; by_part.path[i]; i = (i + 1) & by_part.mask)
            if (by_part.size[i] == end[n] && !memcmp(by_part.path[i], path, end[n]))
                return by_part.path[i];
    }
    return NULL;
}

/* ---- mounts ---- */

enum { LOOKUPS = 4096 };

/* ns each; which 0: ours, 1: the trie, 2: the hash. */
static double mounts_run(int which, fsb_mounts *t, const radix *trie, char (*paths)[96])
{
    const int    loops = bench_.quick ? 10 : 50;
    uintptr_t    sum = 0;
    const double begin = bench_now();
    for (int loop = 0; loop < loops; ++loop)
        for (int i = 0; i < LOOKUPS; ++i) {
            if (which == 1) sum += (uintptr_t)radix_get(trie, paths[i]);
            else if (which == 2) sum += (uintptr_t)parts_get(paths[i]);
            else {
                fsb_mounted at;
                if (fsb_mounts_resolve(t, paths[i], &at) != 0) continue;
                sum += at.number;
                fsb_mounts_release(t, &at);
            }
        }
    __asm__ volatile("" : : "r"(sum));
    return (bench_now() - begin) / loops / LOOKUPS * 1e9;
}

static uint64_t mount_memory;
static void *count_memory(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user, (void)old_size;
    if (new_size) return ++mount_memory, realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static void mounts_case(uint32_t n, int siblings)
{
    static char paths[LOOKUPS][96];
    double      ours[ROUNDS], trie[ROUNDS], parts[ROUNDS], miss[ROUNDS];
    char      **points = malloc(n * sizeof *points), name[64];
    fsb_mounts *t = NULL;
    radix      *r = radix_new("", 0);
    fsb_backend b = {.size = sizeof b};
    uint64_t    seed = 42;
    const fsb_mounts_desc d = {.allocator = {count_memory, NULL}};
    if (fsb_mounts_open(&t, &d) != 0) exit(1);
    for (uint32_t i = 0; i < n; ++i) {
        const fsb_bind bind = {.backend = &b};
        points[i] = malloc(96);
        if (siblings) snprintf(points[i], 96, "/mnt/volume-%06u", i);
        else snprintf(points[i], 96, "/srv/t%03u/%s%u", i % 1000, i % 3 ? "data" : "x/disk", i);
        if (fsb_mounts_add(t, points[i], strlen(points[i]), &bind) != 0) exit(1);
        radix_add(r, points[i], points[i]);
    }
    parts_open(points, n);
    for (int i = 0; i < LOOKUPS; ++i)
        snprintf(paths[i], 96, "%s/src/lib/file%d.c", points[random_next(&seed) % n], i);
    const uint64_t before = mount_memory;
    for (int i = 0; i < ROUNDS; ++i) {
        ours[i] = mounts_run(0, t, r, paths);
        trie[i] = mounts_run(1, t, r, paths);
        parts[i] = mounts_run(2, t, r, paths);
    }
    const int    better = bench_median(trie, ROUNDS) < bench_median(parts, ROUNDS);
    const double *best = better ? trie : parts;
    snprintf(name, sizeof name, "resolve, %u %s", n, siblings ? "siblings" : "mounts");
    bench_row(name, ours, ROUNDS, "ns", better ? "radix trie" : "component hash", best, ROUNDS,
              BENCH_LESS, mount_memory == before ? "bar 1.0; no allocation" : "ALLOCATES");
    if (siblings) {
        for (int i = 0; i < LOOKUPS; ++i)
            snprintf(paths[i], 96, "/mnt/volume-%06ux/src/file", (unsigned)random_next(&seed) % n);
        for (int i = 0; i < ROUNDS; ++i) miss[i] = mounts_run(0, t, r, paths);
        bench_row("resolve, a miss among them", miss, ROUNDS, "ns", "a hit", ours, ROUNDS,
                  BENCH_LESS, "bar 0.5");
    }
    fsb_mounts_close(t);
}

int main(int argc, char **argv)
{
    bench_begin("tables", argc, argv);
    const int two = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    for (int threads = 1; threads <= 1 + two; ++threads) {
        handles_case(10000, threads, 0, 64, 0);
        handles_case(10000, threads, 1, 64, 0);
        handles_case(10000, threads, 0, 64, 1);
        handles_case(10000, threads, 0, 1, 0);
        handles_case(10000, threads, 1, 1, 0);
    }
    handles_case(1000000, 1, 0, 64, 0);
    handles_case(1000000, 1, 1, 64, 0);
    mounts_case(100, 0);
    mounts_case(10000, 0);
    mounts_case(100000, 0);
    mounts_case(100000, 1);
    return 0;
}
