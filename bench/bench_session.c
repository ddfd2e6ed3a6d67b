/* bench_session.c - fsb_session.h beside the bare system calls and the bare SQLite statements that
   do the same work, in one run and by turns. Ratios above 1 mean that ours is better.

       build/bench/bench_session [--quick] [--json] [--case PART-OF-A-NAME]

   Every row of saves says how durable they are: "none" (the system's page cache), "checkpoint",
   "save". Allocations are those of the header's hook and of SQLite together. */
#define FSB_SESSION_IMPLEMENTATION
#include "fsb_session.h"
#include "bench.h"
#include <inttypes.h>

static struct {
    char dir[300];
    int  dirs;
} bench;

static uint64_t allocations;

static void *count_memory(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user, (void)old_size;
    if (!new_size) return free(ptr), NULL;
    ++allocations;
    return realloc(ptr, new_size);
}

#ifdef FSB_WITH_SQLITE
static sqlite3_mem_methods sqlite_memory;
static void *sqlite_malloc(int n) { return ++allocations, sqlite_memory.xMalloc(n); }
static void *sqlite_realloc(void *p, int n) { return ++allocations, sqlite_memory.xRealloc(p, n); }
#endif

/* ---- [measure] ------------------------------------------------------------------------------- */
static double clock_ns(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static double now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
static double cpu_ns(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

static double median(double *v, int n, double *spread)
{
    const double middle = bench_median(v, n); /* sorts a copy */
    if (spread) *spread = bench_spread(v, n);
    return middle;
}

/* theirs 0: nothing was measured beside it. */
static void row(const char *name, double value, const char *unit, const char *against,
                double theirs, double spread, int n, const char *note)
{
    bench_value(name, value, spread, n, unit, against, theirs, BENCH_LESS, note);
}

static void die(const char *what, int err)
{
    fprintf(stderr, "bench_session: %s: error %d\n", what, -err);
    exit(1);
}

/* ---- [parts] --------------------------------------------------------------------------------- */
enum { MESSAGE = 219 };
static char content[MESSAGE + 1];

static void fill_content(void)
{
    static const char *const words[] = {"the ", "message ", "has ", "words ", "of ", "some ",
                                        "length "};
    size_t n = 0;
    for (int i = 0; n < MESSAGE; ++i)
        for (const char *w = words[(i * 5 + i / 3) % 7]; *w && n < MESSAGE; ++w) content[n++] = *w;
}

static fsb_session_message message(int i)
{
    fsb_session_message m;
    memset(&m, 0, sizeof m);
    m.role = i & 1 ? "assistant" : "user";
    m.content.data = content, m.content.size = MESSAGE;
    return m;
}

static fsb_session_store *open_store(int kind, int durability, int no_search)
{
    fsb_session_store     *store = NULL;
    fsb_session_store_desc d;
    char                   path[400];
    memset(&d, 0, sizeof d);
    snprintf(path, sizeof path, "%s/%d", bench.dir, bench.dirs++);
    d.path = path, d.kind = kind, d.durability = durability, d.no_search = no_search;
    d.allocator.fn = count_memory;
    const int err = fsb_session_store_open(&store, &d);
    if (err) die("open", err);
    return store;
}

__attribute__((noinline)) static void append(fsb_session *s, int count)
{
    for (int i = 0; i < count; ++i) {
        const fsb_session_message m = message(i);
        const int                 err = fsb_session_append(s, &m, 1);
        if (err) die("append", err);
    }
}

static fsb_session *open_session(fsb_session_store *store, const char *id)
{
    fsb_session     *s = NULL;
    fsb_session_info info;
    memset(&info, 0, sizeof info);
    info.user = "ann", info.id = id, info.title = "A bench";
    const int err = fsb_session_create(&s, store, &info);
    if (err) die("create", err);
    return s;
}

static fsb_session *filled_session(fsb_session_store *store, const char *id, int messages)
{
    fsb_session         *s = open_session(store, id);
    fsb_session_message *m = (fsb_session_message *)calloc((size_t)messages, sizeof *m);
    for (int i = 0; i < messages; ++i) m[i] = message(i);
    const int err = fsb_session_append(s, m, (size_t)messages);
    if (err) die("append", err);
    free(m);
    return s;
}

/* ---- [table] the one that such stores publish ------------------------------------------------ */
static void save_table(int kind, const char *store_name)
{
    static const int sizes[3] = {10, 50, 100};
    for (int k = 0; k < 3; ++k) {
        char      name[80], note[160];
        double    ns[200], allocs = 0, total = 0;
        const int rounds = bench_.quick ? 60 : 200;
        snprintf(name, sizeof name, "%s: save, %d messages, one new", store_name, sizes[k]);
        if (!bench_wanted(name)) continue;
        fsb_session_store  *store = open_store(kind, FSB_SESSION_SYNC_NONE, 0);
        fsb_session_message m[101];
        uint64_t            bytes = 0;
        for (int i = 0; i < sizes[k]; ++i) m[i] = message(i);
        for (int r = 0; r < rounds; ++r) {
            char id[20];
            snprintf(id, sizeof id, "s%d", r);
            fsb_session *s = open_session(store, id);
            if (fsb_session_save(s, m, (size_t)sizes[k] - 1)) die("save", -EIO);
            const uint64_t before = fsb_session_about(s)->bytes, had = allocations;
            const double   begin = now_ns();
            if (fsb_session_save(s, m, (size_t)sizes[k])) die("save", -EIO);
            ns[r] = now_ns() - begin;
            total += ns[r], allocs += (double)(allocations - had);
            bytes = fsb_session_about(s)->bytes - before;
            fsb_session_close(s);
        }
        const double typical = bench_median(ns, rounds);
        snprintf(note, sizeof note, "%.0f saves/s; mean %.0f ns, %" PRIu64 " bytes, %.1f "
                 "allocations; durability none, full-text", 1e9 / typical, total / rounds, bytes,
                 allocs / rounds);
        bench_latencies(name, ns, rounds, "ns", "", NULL, 0, note);
        fsb_session_store_close(store);
    }
}

/* ---- [files] --------------------------------------------------------------------------------- */
static void files_append(int durability, const char *how)
{
    char name[80], note[160], path[400];
    snprintf(name, sizeof name, "files: append a message (%s)", how);
    if (!bench_wanted(name)) return;
    const int          rounds = 15, each = durability == FSB_SESSION_SYNC_SAVE ? 30 : 3000;
    double             ours[15], raw[15], spread = 0;
    fsb_session_store *store = open_store(FSB_SESSION_FILES, durability, 0);
    fsb_session       *s = open_session(store, "a");
    snprintf(path, sizeof path, "%s/raw.jsonl", bench.dir);
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    append(s, 10);
    const size_t size = s->line.size; /* of the last line: the raw write has the same bytes */
    char        *line = (char *)malloc(size);
    memcpy(line, s->line.data, size);
    const uint64_t had = allocations;
    for (int r = 0; r < rounds; ++r) {
        double begin = now_ns();
        append(s, each);
        ours[r] = (now_ns() - begin) / each;
        begin = now_ns();
        for (int i = 0; i < each; ++i)
            if (write(fd, line, size) != (ssize_t)size ||
                (durability == FSB_SESSION_SYNC_SAVE && fdatasync(fd)))
                die("write", -errno);
        raw[r] = (now_ns() - begin) / each;
    }
    const double a = median(ours, rounds, &spread), b = median(raw, rounds, NULL);
    snprintf(note, sizeof note, "%zu bytes, %.4f allocations; raw %.0f ns; durability %s", size,
             (double)(allocations - had) / (rounds * each), b, how);
    row(name, a, "ns", "write(2)", b, spread, rounds * each, note);
    free(line);
    close(fd);
    fsb_session_close(s);
    fsb_session_store_close(store);
}

static void files_rewrite(int durability, const char *how)
{
    char name[80], note[160], path[400], aside[400];
    snprintf(name, sizeof name, "files: whole save of 100 messages (%s)", how);
    if (!bench_wanted(name)) return;
    const int           rounds = 15, each = bench_.quick ? 20 : 60;
    double              ours[15], raw[15], spread = 0;
    fsb_session_store  *store = open_store(FSB_SESSION_FILES, durability, 0);
    fsb_session        *s = open_session(store, "a");
    fsb_session_message m[100];
    snprintf(path, sizeof path, "%s/raw.whole", bench.dir);
    snprintf(aside, sizeof aside, "%s/raw.aside", bench.dir);
    for (int i = 0; i < 100; ++i) m[i] = message(i);
    fsb_session_save(s, m, 100);
    const size_t   size = (size_t)s->size;
    char          *text = (char *)calloc(1, size);
    const uint64_t had = allocations;
    for (int r = 0; r < rounds; ++r) {
        double begin = now_ns();
        for (int i = 0; i < each; ++i) {
            m[0].content.size = MESSAGE - (size_t)(i & 1) - 1; /* the first message changes */
            if (fsb_session_save(s, m, 100)) die("save", -EIO);
        }
        ours[r] = (now_ns() - begin) / each;
        begin = now_ns();
        for (int i = 0; i < each; ++i) {
            const int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            if (fd < 0 || write(fd, text, size) != (ssize_t)size) die("write", -errno);
            if (durability != FSB_SESSION_SYNC_NONE && fdatasync(fd)) die("fdatasync", -errno);
            close(fd);
            if (rename(aside, path)) die("rename", -errno);
        }
        raw[r] = (now_ns() - begin) / each;
    }
    const double a = median(ours, rounds, &spread), b = median(raw, rounds, NULL);
    snprintf(note, sizeof note, "%zu bytes, %.1f allocations; raw %.0f ns; durability %s", size,
             (double)(allocations - had) / (rounds * each), b, how);
    row(name, a, "ns", "open+write+rename", b, spread, rounds * each, note);
    free(text);
    fsb_session_close(s);
    fsb_session_store_close(store);
}

static void long_session(int kind, const char *store_name)
{
    char name[80];
    snprintf(name, sizeof name, "%s: append, 10,000 messages there", store_name);
    if (!bench_wanted(name)) return;
    const int          rounds = 15, each = kind == FSB_SESSION_FILES ? 1000 : 200;
    double             few[15], many[15], spread = 0;
    fsb_session_store *store = open_store(kind, FSB_SESSION_SYNC_NONE, 1);
    fsb_session_store *other = open_store(kind, FSB_SESSION_SYNC_NONE, 1);
    fsb_session       *large = filled_session(store, "large", 10000);
    fsb_session       *small = filled_session(other, "small", 10);
    for (int r = 0; r < rounds; ++r) {
        double begin = cpu_ns();
        append(small, each);
        few[r] = (cpu_ns() - begin) / each;
        begin = cpu_ns();
        append(large, each);
        many[r] = (cpu_ns() - begin) / each;
    }
    const double a = median(many, rounds, &spread), b = median(few, rounds, NULL);
    row(name, a, "ns", "with 10 messages", b, spread, rounds * each,
        "CPU; durability none, no search");
    fsb_session_close(large), fsb_session_close(small);
    fsb_session_store_close(store), fsb_session_store_close(other);
}

/* What the rolling hash costs: a whole save, one message new, of a long conversation. */
static void long_save(int kind, const char *store_name)
{
    enum { MANY = 10000, ROUNDS = 21 };
    char name[80];
    snprintf(name, sizeof name, "%s: save, 10,000 messages, one new", store_name);
    if (!bench_wanted(name)) return;
    double               ns[ROUNDS], spread = 0;
    fsb_session_store   *store = open_store(kind, FSB_SESSION_SYNC_NONE, 1);
    fsb_session         *s = open_session(store, "a");
    fsb_session_message *m = (fsb_session_message *)calloc(MANY + ROUNDS, sizeof *m);
    for (int i = 0; i < MANY + ROUNDS; ++i) m[i] = message(i);
    if (fsb_session_save(s, m, MANY)) die("save", -EIO);
    for (int r = 0; r < ROUNDS; ++r) {
        const double begin = now_ns();
        if (fsb_session_save(s, m, (size_t)(MANY + r + 1))) die("save", -EIO);
        ns[r] = now_ns() - begin;
    }
    row(name, median(ns, ROUNDS, &spread) / 1000, "us", "", 0, spread, ROUNDS,
        "all of them hashed; an append is not");
    free(m);
    fsb_session_close(s);
    fsb_session_store_close(store);
}

/* ---- [sqlite] -------------------------------------------------------------------------------- */
#ifdef FSB_WITH_SQLITE
typedef struct bare {
    sqlite3      *db;
    sqlite3_stmt *begin, *commit, *touch, *insert;
    int64_t       id, revision;
} bare;

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL)) die(sql, -EIO);
    return st;
}

/* The same tables without the index of words, and the statements an append cannot do without. */
static void open_bare(bare *b, int durability)
{
    static const char *const sync[3] = {"PRAGMA synchronous=NORMAL", "PRAGMA synchronous=OFF",
                                        "PRAGMA synchronous=FULL"};
    char path[400];
    memset(b, 0, sizeof *b);
    snprintf(path, sizeof path, "%s/bare%d", bench.dir, bench.dirs++);
    if (sqlite3_open(path, &b->db)) die("sqlite3_open", -EIO);
    sqlite3_exec(b->db, "PRAGMA journal_mode=WAL; PRAGMA cache_size=-16384", NULL, NULL, NULL);
    sqlite3_exec(b->db, sync[durability], NULL, NULL, NULL);
    sqlite3_exec(b->db, fsb_session_schema_, NULL, NULL, NULL);
    sqlite3_exec(b->db, "INSERT INTO user VALUES(1,'ann'); INSERT INTO session VALUES(1,1,'a',"
                 "'A bench',NULL,NULL,NULL,0,0,NULL,0,0,0,0,0,0,1,0,NULL)", NULL, NULL, NULL);
    b->revision = 1;
    b->begin = prepare(b->db, "BEGIN IMMEDIATE"), b->commit = prepare(b->db, "COMMIT");
    b->touch = prepare(b->db, fsb_session_sql_text_[FSB_SESSION_TOUCH_]);
    b->insert = prepare(b->db, fsb_session_sql_text_[FSB_SESSION_INSERT_]);
}

static void step(sqlite3_stmt *st)
{
    if (sqlite3_step(st) != SQLITE_DONE) die(sqlite3_sql(st), -EIO);
    sqlite3_reset(st);
}

__attribute__((noinline)) static void bare_append(bare *b, int count)
{
    for (int i = 0; i < count; ++i) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        const int64_t time_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        step(b->begin);
        ++b->id;
        sqlite3_bind_int64(b->touch, 1, 1), sqlite3_bind_int64(b->touch, 2, b->revision++);
        sqlite3_bind_int64(b->touch, 3, time_ns), sqlite3_bind_int64(b->touch, 4, b->id);
        sqlite3_bind_int64(b->touch, 5, b->id), sqlite3_bind_int64(b->touch, 6, b->id * 300);
        step(b->touch);
        sqlite3_bind_int64(b->insert, 1, (1ll << 32) + b->id);
        sqlite3_bind_int64(b->insert, 2, time_ns);
        sqlite3_bind_text(b->insert, 3, i & 1 ? "assistant" : "user", -1, SQLITE_STATIC);
        sqlite3_bind_text(b->insert, 4, content, MESSAGE, SQLITE_STATIC);
        sqlite3_bind_text(b->insert, 5, "", 0, SQLITE_STATIC);
        sqlite3_bind_text(b->insert, 6, "", 0, SQLITE_STATIC);
        step(b->insert);
        step(b->commit);
    }
}

static void close_bare(bare *b)
{
    sqlite3_finalize(b->begin), sqlite3_finalize(b->commit);
    sqlite3_finalize(b->touch), sqlite3_finalize(b->insert);
    sqlite3_close(b->db);
}

/* CPU time stands in for instructions; `valgrind --tool=callgrind --toggle-collect=append`, and the
   same with bare_append, count them. */
static void sqlite_append(int durability, const char *how, int no_search)
{
    char name[80], note[200];
    snprintf(name, sizeof name, "sqlite: append a message (%s%s)", how,
             no_search ? "" : ", full-text");
    if (!bench_wanted(name)) return;
    const int durable = durability == FSB_SESSION_SYNC_SAVE;
    const int rounds = 15, each = durable ? 30 : bench_.quick ? 256 : 1024;
    double    ours[15], raw[15], spread = 0;
    bare      b;
    fsb_session_store *store = open_store(FSB_SESSION_SQLITE, durability, no_search);
    fsb_session       *s = filled_session(store, "a", 100);
    uint64_t           count = 0, bare_count = 0;
    open_bare(&b, durability);
    append(s, 500), bare_append(&b, 600); /* both logs past their first checkpoint */
    for (int r = 0; r < rounds; ++r) {
        uint64_t had = allocations;
        double   begin = durable ? now_ns() : cpu_ns();
        append(s, each);
        ours[r] = ((durable ? now_ns() : cpu_ns()) - begin) / each;
        count += allocations - had, had = allocations;
        begin = durable ? now_ns() : cpu_ns();
        bare_append(&b, each);
        raw[r] = ((durable ? now_ns() : cpu_ns()) - begin) / each;
        bare_count += allocations - had;
    }
    const double x = median(ours, rounds, &spread), y = median(raw, rounds, NULL);
    snprintf(note, sizeof note, "%.1f allocations (bare %.1f); bare %.0f ns%s; durability %s",
             (double)count / (rounds * each), (double)bare_count / (rounds * each), y,
             durable ? "" : " of CPU", how);
    row(name, x, "ns", "bare statements", y, spread, rounds * each, note);
    close_bare(&b);
    fsb_session_close(s);
    fsb_session_store_close(store);
}
#endif

static void load_session(int kind, const char *store_name)
{
    char name[80], note[80];
    snprintf(name, sizeof name, "%s: load 100 messages", store_name);
    if (!bench_wanted(name)) return;
    const int            rounds = 15, each = bench_.quick ? 100 : 500;
    double               ns[15], spread = 0;
    fsb_session_store   *store = open_store(kind, FSB_SESSION_SYNC_NONE, 0);
    fsb_session         *s = filled_session(store, "a", 100);
    fsb_session_messages all;
    const uint64_t       had = allocations;
    for (int r = 0; r < rounds; ++r) {
        const double begin = cpu_ns();
        for (int i = 0; i < each; ++i) {
            if (fsb_session_load(s, NULL, &all) || all.count != 100) die("load", -EIO);
            fsb_session_free(all.block);
        }
        ns[r] = (cpu_ns() - begin) / each;
    }
    snprintf(note, sizeof note, "%.1f allocations; CPU",
             (double)(allocations - had) / (rounds * each));
    row(name, median(ns, rounds, &spread) / 1000, "us", "", 0, spread, rounds * each, note);
    fsb_session_close(s);
    fsb_session_store_close(store);
}

/* ---- [search] -------------------------------------------------------------------------------- */
static void fill_history(fsb_session_store *store, int sessions, int each)
{
    static char         texts[100][300];
    fsb_session_message m[100];
    for (int s = 0; s < sessions; ++s) {
        char id[20];
        snprintf(id, sizeof id, "h%d", s);
        fsb_session *session = open_session(store, id);
        for (int i = 0; i < each; ++i) {
            const int n = s * each + i;
            snprintf(texts[i], sizeof texts[i], "%s %s number %d word%d topic%d",
                     n % 10 < 8 ? "common" : "other", content + n % 90, n, n % 257, n % 5003);
            m[i] = message(i);
            m[i].content = fsb_session_text(texts[i]);
        }
        const int err = fsb_session_append(session, m, (size_t)each);
        if (err) die("append", err);
        fsb_session_close(session);
    }
}

static void search_one(fsb_session_store *store, const char *store_name, const char *words,
                       int order, const char *what)
{
    const int         rounds = bench_.quick ? 21 : 51;
    double            us[51];
    fsb_session_query q;
    fsb_session_hits  h;
    char              name[100], note[120];
    snprintf(name, sizeof name, "%s: search 100,000, %s", store_name, what);
    memset(&q, 0, sizeof q);
    q.words = words, q.order = order;
    for (int r = 0; r < rounds; ++r) {
        const double begin = now_ns();
        const int    err = fsb_session_search(store, "ann", &q, &h);
        us[r] = (now_ns() - begin) / 1000;
        if (err || h.count < 1) die("search", err ? err : -EIO);
        snprintf(note, sizeof note, "%zu hits%s", h.count,
                 order == FSB_SESSION_BEST ? ", ranked among the newest 2,000" : "");
        fsb_session_free(h.block);
    }
    bench_latencies(name, us, rounds, "us", "", NULL, 0, note);
}

static void searches(int kind, const char *store_name)
{
    char              name[80];
    fsb_session_query q;
    fsb_session_hits  h;
    snprintf(name, sizeof name, "%s: search 100,000", store_name);
    if (!bench_wanted(name)) return;
    fsb_session_store *store = open_store(kind, FSB_SESSION_SYNC_NONE, 0);
    fill_history(store, 1000, 100);
    const double begin = now_ns();
    memset(&q, 0, sizeof q);
    q.words = "nothing";
    if (fsb_session_search(store, "ann", &q, &h)) die("search", -EIO);
    fsb_session_free(h.block);
    snprintf(name, sizeof name, "%s: first search indexes what waits", store_name);
    row(name, (now_ns() - begin) / 1e6, "ms", "", 0, 0, 1, "after 100,000 messages were saved");
    search_one(store, store_name, "topic17", FSB_SESSION_NEWEST, "newest 20 of a word");
    search_one(store, store_name, "common", FSB_SESSION_NEWEST, "newest 20, common word");
    search_one(store, store_name, "word17", FSB_SESSION_BEST, "best 20 of a word");
    search_one(store, store_name, "common", FSB_SESSION_BEST, "best 20, common word");
    search_one(store, store_name, "\"common of\" OR word17 OR (topic1* -other)", FSB_SESSION_BEST,
               "best 20, compound");
    fsb_session_store_close(store);
}

static void remove_dir(void)
{
    char command[400];
    snprintf(command, sizeof command, "rm -rf -- '%s'", bench.dir);
    if (system(command)) fprintf(stderr, "bench_session: %s stays\n", bench.dir);
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    bench_begin("session", argc, argv);
#ifdef FSB_WITH_SQLITE
    sqlite3_mem_methods counting;
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory);
    counting = sqlite_memory;
    counting.xMalloc = sqlite_malloc, counting.xRealloc = sqlite_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &counting);
#endif
    snprintf(bench.dir, sizeof bench.dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(bench.dir)) die(bench.dir, -errno);
    atexit(remove_dir);
    fill_content();
    save_table(FSB_SESSION_FILES, "files");
    files_append(FSB_SESSION_SYNC_NONE, "none");
    files_append(FSB_SESSION_SYNC_SAVE, "save");
    files_rewrite(FSB_SESSION_SYNC_NONE, "none");
    files_rewrite(FSB_SESSION_SYNC_CHECKPOINT, "checkpoint");
    long_session(FSB_SESSION_FILES, "files");
    long_save(FSB_SESSION_FILES, "files");
    load_session(FSB_SESSION_FILES, "files");
    searches(FSB_SESSION_FILES, "files");
#ifdef FSB_WITH_SQLITE
    save_table(FSB_SESSION_SQLITE, "sqlite");
    sqlite_append(FSB_SESSION_SYNC_NONE, "none", 1);
    sqlite_append(FSB_SESSION_SYNC_CHECKPOINT, "checkpoint", 1);
    sqlite_append(FSB_SESSION_SYNC_CHECKPOINT, "checkpoint", 0);
    sqlite_append(FSB_SESSION_SYNC_SAVE, "save", 1);
    long_session(FSB_SESSION_SQLITE, "sqlite");
    long_save(FSB_SESSION_SQLITE, "sqlite");
    load_session(FSB_SESSION_SQLITE, "sqlite");
    searches(FSB_SESSION_SQLITE, "sqlite");
#endif
    return 0;
}
