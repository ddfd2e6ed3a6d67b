/* bench_registry.c - the registry beside bare LMDB calls that do the same work, and a folder scan.

   Every case runs nine times, or five, ours and theirs in turn and now the one first, now the
   other; the note says the least that is promised of the ratio. Then the table that such registries
   publish, for both stores. --quick is five, and leaves the million documents out. */
#define FSB_REGISTRY_IMPLEMENTATION
#include "../fsb_registry.h"
#include "bench.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef FSB_WITH_LMDB
int main(void)
{
    puts("bench_registry: built without FSB_WITH_LMDB, nothing to measure");
    return 0;
}
#else

enum { MOST_ROUNDS = 9, CONTENT = 400, ID = 32 };

static struct {
    int           count;              /* documents */
    char          dir[200];
    char        (*ids)[ID];           /* [count], in the order of the loads: random */
    fsb_registry *reg, *cached;
    MDB_env      *env;
    MDB_txn      *txn;                /* reset between loads */
    MDB_cursor   *cursor;
    MDB_dbi       dbi;
    uint64_t      allocations, seen;
} bench;

static void need(int64_t result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "bench_registry: %s: %s\n", what, strerror((int)-result));
    exit(1);
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    sched_setaffinity(0, sizeof set, &set); /* not allowed: the spread will tell */
}

static void *count_memory(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)old_size;
    if (new_size) __atomic_add_fetch((uint64_t *)user, 1, __ATOMIC_RELAXED);
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

/* ---- measuring ---- */

/* Of a case with so many documents. */
static const char *case_of(const char *name)
{
    static char full[80];
    snprintf(full, sizeof full, "%s, %d documents", name, bench.count);
    return full;
}

/* Is one of these cases, a list that NULL ends, with so many documents wanted? */
static int any_wanted(int count, const char *const *names)
{
    bench.count = count;
    while (*names && !bench_wanted(case_of(*names))) ++names;
    return *names != NULL;
}

/* ours and theirs in turn; both return ns an operation. bar 0: nothing is promised. */
static void compare(const char *name, double (*ours)(int n), double (*theirs)(int n), int n,
                    const char *against, double bar)
{
    const int rounds = bench_.quick ? 5 : MOST_ROUNDS;
    double    a[MOST_ROUNDS], b[MOST_ROUNDS];
    char      note[20] = "";
    if (!bench_wanted(case_of(name))) return;
    ours(n / 10 + 1), theirs(n / 10 + 1);
    for (int i = 0; i < rounds; ++i) {
        if (i % 2) b[i] = theirs(n);
        a[i] = ours(n);
        if (i % 2 == 0) b[i] = theirs(n);
    }
    if (bar > 0) snprintf(note, sizeof note, "bar %g", bar);
    bench_row(case_of(name), a, rounds, "ns", against, b, rounds, BENCH_LESS, note);
}

/* ---- load ---- */

static double load_from(fsb_registry *reg, int n, const char *version)
{
    const double start = bench_now();
    uint64_t     seen = 0;
    for (int i = 0; i < n; ++i) {
        fsb_registry_view view;
        need(fsb_registry_load(reg, bench.ids[i % bench.count], version, &view), "load");
        seen += view.doc.size + ((const uint8_t *)view.doc.content)[view.doc.size / 2];
        fsb_registry_release(&view);
    }
    __atomic_add_fetch(&bench.seen, seen, __ATOMIC_RELAXED);
    return (bench_now() - start) * 1e9 / n;
}
static double load_latest(int n) { return load_from(bench.reg, n, NULL); }
static double load_exact(int n) { return load_from(bench.reg, n, "1.0.0"); }
static double load_cached(int n) { return load_from(bench.cached, n, NULL); }

/* The same work by hand: the fields of a record, believing every length. */
static fsb_registry_doc bare_decode(const MDB_val *v)
{
    const uint8_t   *p = v->mv_data;
    fsb_registry_doc doc;
    uint32_t         n[6] = {0};
    uint16_t         header;
    memcpy(&header, p + 2, 2);
    memcpy(&n[0], p + 4, 2), memcpy(&n[1], p + 6, 2), memcpy(&n[2], p + 8, 16);
    doc.id           = (const char *)p + header;
    doc.version      = doc.id + n[0];
    doc.description  = doc.version + n[1];
    doc.content_type = doc.description + n[2];
    doc.tags         = doc.content_type + n[3];
    doc.fields       = doc.tags + n[4];
    doc.content      = doc.fields + n[5];
    memcpy(&doc.size, p + 24, 8), memcpy(&doc.created_ns, p + 40, 24);
    memcpy(doc.hash, p + 64, 32);
    return doc;
}

static double bare_get_in(MDB_txn *txn, int n)
{
    const double start = bench_now();
    uint64_t     seen = 0;
    for (int i = 0; i < n; ++i) {
        MDB_val k = {0, bench.ids[i % bench.count]}, v;
        k.mv_size = strlen((const char *)k.mv_data);
        if (mdb_txn_renew(txn) || mdb_get(txn, bench.dbi, &k, &v)) exit(1);
        const fsb_registry_doc doc = bare_decode(&v);
        seen += doc.size + ((const uint8_t *)doc.content)[doc.size / 2];
        mdb_txn_reset(txn);
    }
    __atomic_add_fetch(&bench.seen, seen, __ATOMIC_RELAXED);
    return (bench_now() - start) * 1e9 / n;
}
static double bare_get(int n) { return bare_get_in(bench.txn, n); }

typedef struct half {
    int    core, n, threads, bare;
    double begin, end;
} half;
static int start_line;

static void *load_half(void *arg)
{
    half       *h = arg;
    MDB_txn    *txn = NULL;
    pin(h->core);
    if (h->bare && mdb_txn_begin(bench.env, NULL, MDB_RDONLY, &txn)) exit(1);
    if (h->bare) mdb_txn_reset(txn);
    __atomic_add_fetch(&start_line, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&start_line, __ATOMIC_SEQ_CST) < h->threads) {}
    h->begin = bench_now();
    if (h->bare) bare_get_in(txn, h->n);
    else load_exact(h->n);
    h->end = bench_now();
    if (txn) mdb_txn_abort(txn);
    return NULL;
}

/* ns an operation of `threads` pinned threads that start together; one alone takes turns on the
   two cores */
static double loads_of(int threads, int n, int bare)
{
    static int turn;
    pthread_t  thread[2];
    const int  first = threads == 1 ? ++turn % 2 : 0;
    half       h[2] = {{first, n, threads, bare, 0, 0}, {1, n, threads, bare, 0, 0}};
    start_line = 0;
    for (int i = 0; i < threads; ++i) pthread_create(&thread[i], NULL, load_half, &h[i]);
    for (int i = 0; i < threads; ++i) pthread_join(thread[i], NULL);
    const double begin = threads == 1 || h[0].begin < h[1].begin ? h[0].begin : h[1].begin;
    const double end = threads == 1 || h[0].end > h[1].end ? h[0].end : h[1].end;
    return (end - begin) * 1e9 / n / threads;
}
static double loads_two(int n) { return loads_of(2, n, 0); }
static double loads_one(int n) { return loads_of(1, n, 0); }
static double bare_two(int n) { return loads_of(2, n, 1); }
static double bare_one(int n) { return loads_of(1, n, 1); }

/* ---- list ---- */

static int see_row(void *user, const fsb_registry_doc *doc)
{
    (void)user;
    bench.seen += (uint8_t)doc->id[8] + (uint8_t)doc->version[0];
    return 0;
}
static double list_all(int n)
{
    const fsb_registry_query query = {.latest = 1};
    const double             start = bench_now();
    for (int i = 0; i < n; ++i)
        if (fsb_registry_each(bench.reg, &query, see_row, NULL) != bench.count) exit(1);
    return (bench_now() - start) * 1e9 / n / bench.count;
}
static double bare_scan(int n)
{
    const double start = bench_now();
    for (int i = 0; i < n; ++i) {
        MDB_val k, v;
        int     rows = 0;
        if (mdb_txn_renew(bench.txn) || mdb_cursor_renew(bench.txn, bench.cursor)) exit(1);
        while (!mdb_cursor_get(bench.cursor, &k, &v, MDB_NEXT)) {
            const fsb_registry_doc doc = bare_decode(&v);
            see_row(NULL, &doc);
            ++rows;
        }
        mdb_txn_reset(bench.txn);
        if (rows != bench.count) exit(1);
    }
    return (bench_now() - start) * 1e9 / n / bench.count;
}

/* ---- setting up ---- */

static void shuffle(void)
{
    uint64_t x = 88172645463325252u;
    for (int i = bench.count; i-- > 1;) {
        char t[ID];
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        const int j = (int)(x % (uint64_t)(i + 1));
        memcpy(t, bench.ids[i], ID), memcpy(bench.ids[i], bench.ids[j], ID);
        memcpy(bench.ids[j], t, ID);
    }
}

static fsb_registry_doc document(int i, char content[CONTENT])
{
    fsb_registry_doc doc = {0};
    memset(content, 'a' + i % 26, CONTENT);
    doc.id = bench.ids[i], doc.version = "1.0.0", doc.description = "A prompt of the bench";
    doc.content_type = "text/plain", doc.fields = "author=ann\0", doc.tags = "bench\0";
    doc.content = content, doc.size = CONTENT;
    return doc;
}

static fsb_registry *open_at(const char *name, fsb_registry_kind kind,
                             fsb_registry_durability level, uint64_t cache)
{
    char              path[300];
    fsb_registry     *reg;
    fsb_registry_desc desc = {0};
    snprintf(path, sizeof path, "%s/%s", bench.dir, name);
    desc.path = path, desc.kind = kind, desc.durability = level, desc.cache_bytes = cache;
    desc.allocator.fn = count_memory, desc.allocator.user = &bench.allocations;
    need(fsb_registry_open(&reg, &desc), path);
    return reg;
}

static void fill(fsb_registry *reg, int count)
{
    enum { AT_ONCE = 1000 };
    static char             content[AT_ONCE][CONTENT];
    static fsb_registry_doc docs[AT_ONCE];
    for (int from = 0; from < count; from += AT_ONCE) {
        const int n = count - from < AT_ONCE ? count - from : AT_ONCE;
        for (int i = 0; i < n; ++i) docs[i] = document(from + i, content[i]);
        need(fsb_registry_save_batch(reg, docs, (size_t)n, FSB_REGISTRY_NEW), "fill");
    }
}

static void open_bare(const char *name, unsigned flags)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", bench.dir, name);
    MDB_txn *txn;
    if (mdb_env_create(&bench.env) || mdb_env_set_mapsize(bench.env, (size_t)8 << 30)
        || mdb_env_open(bench.env, path, MDB_NOSUBDIR | MDB_NOTLS | flags, 0644)
        || mdb_txn_begin(bench.env, NULL, 0, &txn) || mdb_dbi_open(txn, NULL, 0, &bench.dbi)
        || mdb_txn_commit(txn))
        exit(1);
}

/* The same records under their ids, as bare LMDB keeps them. */
static void fill_bare(int count)
{
    MDB_txn          *txn;
    fsb_registry_desc desc = {0};
    for (int i = 0; i < count;) {
        if (mdb_txn_begin(bench.env, NULL, 0, &txn)) exit(1);
        for (int n = 0; n < 1000 && i < count; ++n, ++i) {
            char                   content[CONTENT];
            const fsb_registry_doc doc = document(i, content);
            fsb_registry_record_   rec;
            need(fsb_registry_encode_(&desc, &doc, &rec), "encode");
            MDB_val k = {strlen(doc.id), bench.ids[i]}, v = {rec.size, rec.data};
            if (mdb_put(txn, bench.dbi, &k, &v, 0)) exit(1);
            free(rec.data);
        }
        if (mdb_txn_commit(txn)) exit(1);
    }
}

static void name_documents(int count)
{
    bench.count = count;
    bench.ids = realloc(bench.ids, (size_t)count * ID);
    if (!bench.ids) exit(1);
    for (int i = 0; i < count; ++i)
        snprintf(bench.ids[i], ID, "prompts/group-%02d/%07d", i % 50, i);
    shuffle();
}

/* Of documents that nobody has loaded since the last commit, each once. */
static double load_first(int n)
{
    char                   content[CONTENT];
    const fsb_registry_doc doc = document(0, content);
    need(fsb_registry_save(bench.reg, &doc, FSB_REGISTRY_REPLACE), "save");
    return load_latest(n);
}
static double bare_first(int n)
{
    MDB_txn *txn;
    char     record[4096];
    MDB_val  k = {strlen(bench.ids[0]), bench.ids[0]}, v;
    if (mdb_txn_begin(bench.env, NULL, 0, &txn) || mdb_get(txn, bench.dbi, &k, &v)) exit(1);
    memcpy(record, v.mv_data, v.mv_size); /* a put moves what it reads */
    v.mv_data = record;
    if (mdb_put(txn, bench.dbi, &k, &v, 0) || mdb_txn_commit(txn)) exit(1);
    return bare_get(n);
}

static void reads(int count)
{
    static const char *const names[] = {"load latest", "load exact", "list", "two threads",
                                        "two threads of bare LMDB", "first load after a commit",
                                        "load latest, decoded cache", NULL};
    char ours[40], bare[40];
    const int n = bench_.quick ? 60000 : 300000;
    if (!any_wanted(count, names)) return;
    name_documents(count);
    snprintf(ours, sizeof ours, "ours-%d", count), snprintf(bare, sizeof bare, "bare-%d", count);
    bench.reg = open_at(ours, FSB_REGISTRY_LMDB, FSB_REGISTRY_UNSAFE, 0);
    fill(bench.reg, count);
    open_bare(bare, MDB_NOSYNC);
    fill_bare(count);
    if (mdb_txn_begin(bench.env, NULL, MDB_RDONLY, &bench.txn)
        || mdb_cursor_open(bench.txn, bench.dbi, &bench.cursor))
        exit(1);
    mdb_txn_reset(bench.txn);
    load_latest(1000);
    const uint64_t before = bench.allocations;
    compare("load latest", load_latest, bare_get, n, "renewed mdb_get", 0.9);
    compare("load exact", load_exact, bare_get, n, "renewed mdb_get", 0.9);
    if (bench.allocations != before) need(-ENOMEM, "a view load allocated");
    compare("list", list_all, bare_scan, bench_.quick ? 200000 / count + 1 : 1000000 / count + 1,
            "bare cursor scan", 0.8);
    if (count == 10000) { /* the bare pair tells what these two cores give to anybody */
        compare("two threads", loads_two, loads_one, n, "one thread", 1.8);
        compare("two threads of bare LMDB", bare_two, bare_one, n, "one thread of it", 0);
    }
    compare("first load after a commit", load_first, bare_first, n < count ? n : count,
            "first mdb_get", 0.9);
    fsb_registry_close(bench.reg);
    bench.cached = open_at(ours, FSB_REGISTRY_LMDB, FSB_REGISTRY_UNSAFE, (uint64_t)2 << 30);
    load_from(bench.cached, count, NULL);
    compare("load latest, decoded cache", load_cached, bare_get, n, "renewed mdb_get", 4);
    fsb_registry_close(bench.cached);
    mdb_cursor_close(bench.cursor), mdb_txn_abort(bench.txn), mdb_env_close(bench.env);
}

/* ---- save ---- */

enum { FLUSH_FILE = 16 << 20, FLUSH_PAGES = 8 }; /* a save dirties 8 or 9 pages, here and there */
static int flush_fd, flush_meta;

/* What a commit cannot do without: its pages and a flush, then the page that makes them valid and a
   flush (through O_DSYNC, as LMDB does it). */
static double two_flushes(int n)
{
    static char     page[4096];
    static uint32_t at;
    const double    start = bench_now();
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < FLUSH_PAGES; ++k) {
            at = at * 1664525u + 1013904223u;
            const off_t place = 8192 + (off_t)(at >> 8) % 4000 * 4096;
            need(pwrite(flush_fd, page, sizeof page, place), "pwrite");
        }
        need(fdatasync(flush_fd), "fdatasync");
        need(pwrite(flush_meta, page, 120, 4096 * (i % 2)), "pwrite");
    }
    return (bench_now() - start) * 1e9 / n;
}

static int serial;
static double save_single(int n)
{
    const double start = bench_now();
    for (int i = 0; i < n; ++i, ++serial) {
        char             content[CONTENT], version[20];
        fsb_registry_doc doc = document(serial % bench.count, content);
        snprintf(version, sizeof version, "2.%d.0", serial);
        doc.version = version;
        need(fsb_registry_save(bench.reg, &doc, FSB_REGISTRY_NEW), "save");
    }
    return (bench_now() - start) * 1e9 / n;
}
static double save_batches(int n)
{
    static char      content[1000][CONTENT], version[1000][20];
    fsb_registry_doc docs[1000];
    const double     start = bench_now();
    for (int b = 0; b < n; ++b) {
        for (int i = 0; i < 1000; ++i, ++serial) {
            docs[i] = document(serial % bench.count, content[i]);
            snprintf(version[i], sizeof version[i], "2.%d.0", serial);
            docs[i].version = version[i];
        }
        need(fsb_registry_save_batch(bench.reg, docs, 1000, FSB_REGISTRY_NEW), "batch");
    }
    return (bench_now() - start) * 1e9 / n / 1000;
}
static double bare_put(int n)
{
    const double start = bench_now();
    for (int i = 0; i < n; ++i, ++serial) {
        MDB_txn *txn;
        char     value[600] = {0}, key[60];
        MDB_val  k = {0, key}, v = {sizeof value, value};
        k.mv_size = (size_t)snprintf(key, sizeof key, "%s 2.%d.0", bench.ids[serial % bench.count],
                                     serial);
        if (mdb_txn_begin(bench.env, NULL, 0, &txn) || mdb_put(txn, bench.dbi, &k, &v, 0)
            || mdb_txn_commit(txn))
            exit(1);
    }
    return (bench_now() - start) * 1e9 / n;
}

static void *save_some(void *arg)
{
    for (int i = 0; i < *(int *)arg; ++i) {
        char             content[CONTENT], version[20];
        const int        mine = __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED);
        fsb_registry_doc doc = document(mine % bench.count, content);
        snprintf(version, sizeof version, "3.%d.0", mine);
        doc.version = version;
        need(fsb_registry_save(bench.reg, &doc, FSB_REGISTRY_NEW), "save");
    }
    return NULL;
}
static double save_eight(int n)
{
    pthread_t    threads[8];
    int          each = n / 8 + 1;
    const double start = bench_now();
    for (int i = 0; i < 8; ++i) pthread_create(&threads[i], NULL, save_some, &each);
    for (int i = 0; i < 8; ++i) pthread_join(threads[i], NULL);
    return (bench_now() - start) * 1e9 / each / 8;
}

static void writes(void)
{
    static const char *const names[] = {"durable save", "batch of 1,000, a document",
                                        "8 threads saving", NULL};
    char      path[300];
    const int n = bench_.quick ? 100 : 400;
    if (!any_wanted(10000, names)) return;
    snprintf(path, sizeof path, "%s/flush", bench.dir);
    flush_fd = open(path, O_CREAT | O_RDWR, 0644);
    static char zero[1 << 20];
    for (int i = 0; i < FLUSH_FILE >> 20; ++i) need(write(flush_fd, zero, sizeof zero), "write");
    need(fsync(flush_fd), "fsync");
    flush_meta = open(path, O_WRONLY | O_DSYNC);
    name_documents(10000);
    bench.reg = open_at("durable", FSB_REGISTRY_LMDB, FSB_REGISTRY_DURABLE, 0);
    fill(bench.reg, bench.count);
    open_bare("bare-durable", 0);
    fill_bare(bench.count);
    compare("durable save", save_single, two_flushes, n, "its two flushes", 0.75);
    compare("durable save", save_single, bare_put, n, "bare mdb_put, no indexes", 0);
    compare("batch of 1,000, a document", save_batches, save_single, n / 50 + 1, "single saves",
            10);
    compare("8 threads saving", save_eight, save_single, n, "one thread", 1);
    fsb_registry_close(bench.reg);
    mdb_env_close(bench.env);
    close(flush_fd), close(flush_meta);
}

/* ---- backup ---- */

static int copies;
static double our_backup(int n)
{
    char         path[300];
    const double start = bench_now();
    for (int i = 0; i < n; ++i) {
        snprintf(path, sizeof path, "%s/copy-%d", bench.dir, ++copies);
        need(fsb_registry_backup(bench.reg, path, 0), "backup");
    }
    const double ns = (bench_now() - start) * 1e9 / n;
    strcat(path, "/data.mdb");
    unlink(path);
    return ns;
}
static double bare_copy(int n)
{
    char         path[300];
    const double start = bench_now();
    for (int i = 0; i < n; ++i) {
        snprintf(path, sizeof path, "%s/copy-%d", bench.dir, ++copies);
        if (mdb_env_copy2(bench.reg->envs[0].env, path, 0)) exit(1);
        const int fd = open(path, O_RDONLY);
        need(fsync(fd), "fsync"); /* a backup that is not on the disk is none */
        close(fd);
    }
    const double ns = (bench_now() - start) * 1e9 / n;
    unlink(path);
    return ns;
}

static void backups(void)
{
    static const char *const names[] = {"backup", NULL};
    const int                count = bench_.quick ? 50000 : 200000;
    if (!any_wanted(count, names)) return;
    name_documents(count);
    bench.reg = open_at("backup", FSB_REGISTRY_LMDB, FSB_REGISTRY_UNSAFE, 0);
    fill(bench.reg, bench.count);
    need(fsb_registry_sync(bench.reg), "sync");
    compare("backup", our_backup, bare_copy, 1, "mdb_env_copy2 and fsync", 0.9);
    fsb_registry_close(bench.reg);
}

/* ---- the published table ---- */

/* A lookup where every file is read until one fits: the folder scan of other registries. */
static double folder_scan(const char *name)
{
    fsb_registry            *reg = open_at(name, FSB_REGISTRY_FOLDER, FSB_REGISTRY_UNSAFE, 0);
    const fsb_registry_query query = {.field = "author=nobody"};
    const double             start = bench_now();
    need(fsb_registry_each(reg, &query, NULL, NULL), "scan");
    const double ms = (bench_now() - start) * 1e3;
    fsb_registry_close(reg);
    return ms;
}

typedef struct worker {
    fsb_registry *reg;
    int           n, from;
} worker;
static void *look_up(void *arg)
{
    const worker *w = arg;
    for (int i = 0; i < w->n; ++i) {
        fsb_registry_view view;
        const char *id = bench.ids[(w->from + i) % bench.count];
        need(fsb_registry_load(w->reg, id, NULL, &view), "load");
        fsb_registry_release(&view);
    }
    return NULL;
}
static double lookups_a_second(fsb_registry *reg, int workers, int n)
{
    pthread_t threads[20];
    worker    w[20];
    const double start = bench_now();
    for (int i = 0; i < workers; ++i) {
        w[i].reg = reg, w[i].n = n / workers, w[i].from = i * 97;
        pthread_create(&threads[i], NULL, look_up, &w[i]);
    }
    for (int i = 0; i < workers; ++i) pthread_join(threads[i], NULL);
    return n / workers * workers / (bench_now() - start);
}

static double resident(void) /* MiB, without the pages of files */
{
    long  all = 0, pages = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld %ld", &all, &pages, &shared) != 3) pages = shared = 0;
    if (f) fclose(f);
    return (double)(pages - shared) * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void table_row(fsb_registry_kind kind, int count)
{
    char         name[40], full[40], note[300];
    const int    folder = kind == FSB_REGISTRY_FOLDER;
    const double before = resident();
    const fsb_registry_query all = {.latest = 1};
    snprintf(full, sizeof full, "table %s %d", folder ? "folder" : "lmdb", count);
    if (!bench_wanted(full)) return;
    name_documents(count);
    snprintf(name, sizeof name, "table-%d-%d", (int)kind, count);
    fsb_registry *reg = open_at(name, kind, FSB_REGISTRY_UNSAFE, 0);
    fill(reg, count);
    fsb_registry_close(reg);
    reg = open_at(name, kind, FSB_REGISTRY_DURABLE, 0);
    static const int workers[] = {1, 5, 10, 20};
    const int        lookups = (folder ? 4000 : 400000) / (bench_.quick ? 4 : 1);
    double           rate[4], start = bench_now();
    need(fsb_registry_each(reg, &all, see_row, NULL), "list");
    const double list_ms = (bench_now() - start) * 1e3;
    for (int i = 0; i < 4; ++i)
        rate[i] = lookups_a_second(reg, workers[i], lookups);
    const int n = bench_.quick ? 20 : 100;
    char      content[CONTENT];
    start = bench_now();
    for (int i = 0; i < n; ++i) {
        char             id[ID];
        fsb_registry_doc doc = document(0, content);
        snprintf(id, sizeof id, "prompts/new/%d", i);
        doc.id = id;
        need(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), "save");
    }
    const double save_ms = (bench_now() - start) * 1e3 / n;
    start = bench_now();
    for (int i = 0; i < n; ++i) {
        char id[ID];
        snprintf(id, sizeof id, "prompts/new/%d", i);
        need(fsb_registry_delete(reg, id, NULL), "delete");
    }
    const double       delete_ms = (bench_now() - start) * 1e3 / n, memory = resident() - before;
    fsb_registry_stats st;
    need(fsb_registry_stat(reg, &st), "stat");
    fsb_registry_close(reg);
    const double scan_ms = folder ? folder_scan(name) : 0;
    const char *format = "workers 5: %.0f, 10: %.0f, 20: %.0f; list %.3f ms, save %.3f ms, "
                         "delete %.3f ms, memory %.1f MiB, disk %.2f MiB";
    const int   used = snprintf(note, sizeof note, format, rate[1], rate[2], rate[3], list_ms,
                                save_ms, delete_ms, memory, (double)st.file_bytes / (1 << 20));
    if (folder) snprintf(note + used, sizeof note - (size_t)used, ", scan %.2f ms", scan_ms);
    bench_value(full, rate[0], 0, 1, "lookups/s", "", 0, BENCH_MORE, note);
}

static void table(void)
{
    static const int counts[] = {10, 50, 100, 10000};
    for (int i = 0; i < 4; ++i) {
        table_row(FSB_REGISTRY_FOLDER, counts[i]);
        table_row(FSB_REGISTRY_LMDB, counts[i]);
    }
}

static void remove_all(void)
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
    bench_begin("registry", argc, argv);
    const char *tmp = getenv("TMPDIR");
    snprintf(bench.dir, sizeof bench.dir, "%.150s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(bench.dir)) return perror(bench.dir), 1;
    atexit(remove_all);
    cpu_set_t any;
    sched_getaffinity(0, sizeof any, &any);
    pin(1);
    static const int counts[] = {10, 100, 10000, 1000000};
    for (int i = 0; i < (bench_.quick ? 3 : 4); ++i) reads(counts[i]);
    writes();
    backups();
    sched_setaffinity(0, sizeof any, &any); /* the table's workers run where they like */
    table();
    free(bench.ids);
    return 0;
}
#endif
