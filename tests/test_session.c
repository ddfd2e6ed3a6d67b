/* test_session.c - fsb_session.h: both stores, the same answers; bad input; memory; readers of old
   and damaged files. What kills and crashes do is in test_session_crash.c. */
#include "fault.h"
#include <signal.h>
#include <sys/file.h>

static DIR *test_fdopendir(int fd) { return fails("fdopendir") ? NULL : fdopendir(fd); }
static int test_flock(int fd, int how) { return fails("flock") ? -1 : flock(fd, how); }
static ssize_t test_pread(int fd, void *data, size_t size, off_t at)
{
    return fails("pread") ? -1 : pread(fd, data, size, at);
}
static void (*at_unlink)(const char *name); /* called before each unlinkat() */
static int told_unlinkat(int dir, const char *name, int flags)
{
    if (at_unlink) at_unlink(name);
    return test_unlinkat(dir, name, flags);
}
#ifdef FSB_WITH_SQLITE
#include <sqlite3.h>
static int value_limit; /* what SQLite takes, where not 0 */
#define sqlite3_limit(db, id, n) sqlite3_limit(db, id, value_limit ? value_limit : (n))
#endif
#undef unlinkat
#define unlinkat  told_unlinkat
#define fdopendir test_fdopendir
#define flock(fd, how) test_flock(fd, how) /* and not the struct */
#define pread     test_pread
#define FSB_SESSION_IMPLEMENTATION
#include "fsb_session.h"
#undef readdir
#undef fdopendir
#undef fstatat
#undef flock
#undef pread
#undef unlinkat
#include "test.h"
#include <poll.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include "fuzz_session.c"

static int         log_lines;
static char        log_last[512];
static int         path_count;
static uint64_t    random_state = 88172645463325252u;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void on_log(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)level;
    ++log_lines;
    snprintf(log_last, sizeof log_last, "%s %s", item, text);
}

/* A store of its own for each test; the path is kept in `path` for opening it again. */
static char path[400];
static fsb_session_store_desc new_desc(int kind)
{
    fsb_session_store_desc d;
    memset(&d, 0, sizeof d);
    snprintf(path, sizeof path, "%s/store%d", test_dir(), path_count++);
    d.path = path, d.kind = kind, d.durability = FSB_SESSION_SYNC_NONE, d.log.fn = on_log;
    return d;
}

static fsb_session_store *open_store(const fsb_session_store_desc *d)
{
    fsb_session_store *store = NULL;
    const int          err = fsb_session_store_open(&store, d);
    if (err) fprintf(stderr, "store: %d\n", err), exit(1);
    return store;
}

#define BOTH(body)                                                                                 \
    do {                                                                                           \
        body(FSB_SESSION_FILES);                                                                   \
        if (with_sqlite()) body(FSB_SESSION_SQLITE);                                               \
    } while (0)
static int with_sqlite(void)
{
#ifdef FSB_WITH_SQLITE
    return 1;
#else
    return 0;
#endif
}

static fsb_session *create(fsb_session_store *store, const char *user, const char *id,
                           const char *title)
{
    fsb_session     *s = NULL;
    fsb_session_info info;
    memset(&info, 0, sizeof info);
    info.user = user, info.id = id, info.title = title;
    CHECK_EQ(fsb_session_create(&s, store, &info), 0);
    return s;
}

static fsb_session_message say(const char *role, const char *content)
{
    fsb_session_message m;
    memset(&m, 0, sizeof m);
    m.role = role, m.content = fsb_session_text(content);
    return m;
}

static int same(fsb_session_span a, fsb_session_span b)
{
    return a.size == b.size && (!a.size || memcmp(a.data, b.data, a.size) == 0);
}

/* ---- [saving] -------------------------------------------------------------------------------- */
static void round_trip(int kind)
{
    static const char odd[] = "NUL \0 bytes \xff\xc3 \x80 quotes \" \\ lines\r\n\t\x01\x7f end";
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    const char *const      tags[2] = {"work", "caf\xc3\xa9 \"x\""};
    fsb_session_info       info;
    memset(&info, 0, sizeof info);
    info.user = "ann@example.com", info.id = "s-1 \xe2\x82\xac", info.title = "A \"title\"";
    info.tags = tags, info.tag_count = 2, info.created_ns = 1234567890123456789;
    info.config = fsb_session_text("{\"model\": \"m\",\n \"t\": [1, 2.50]}");
    info.metadata = fsb_session_text("[]");
    fsb_session *s;
    REQUIRE(fsb_session_create(&s, store, &info) == 0);
    CHECK_EQ(fsb_session_create(&s, store, &info), -EEXIST);
    fsb_session_attachment a[2];
    memset(a, 0, sizeof a);
    a[0].name = "a.txt", a[0].type = "text/plain", a[0].data = fsb_session_text("abc");
    a[1].uri = "https://example.com/x?y=1&z", a[1].size = 7;
    fsb_session_message m = say("tool", "");
    m.content.data = odd, m.content.size = sizeof odd - 1, m.time_ns = 1500000000000000001;
    m.metadata = fsb_session_text("{ \"k\" : null }"), m.attachments = a, m.attachment_count = 2;
    REQUIRE(fsb_session_append(s, &m, 1) == 0);
    fsb_session_close(s);
    fsb_session_store_close(store);

    store = open_store(&d);
    REQUIRE(fsb_session_open(&s, store, info.user, info.id) == 0);
    const fsb_session_info *got = fsb_session_about(s);
    CHECK_STR(got->title, info.title);
    CHECK_EQ(got->tag_count, 2);
    CHECK_STR(got->tags[1], tags[1]);
    CHECK(same(got->config, info.config) && same(got->metadata, info.metadata));
    CHECK_EQ(got->created_ns, info.created_ns);
    CHECK_EQ(got->updated_ns, m.time_ns);
    fsb_session_messages all;
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    REQUIRE(all.count == 1);
    CHECK_EQ(all.at[0].id, 1);
    CHECK_EQ(all.at[0].time_ns, m.time_ns);
    CHECK_STR(all.at[0].role, "tool");
    CHECK(same(all.at[0].content, m.content) && same(all.at[0].metadata, m.metadata));
    REQUIRE(all.at[0].attachment_count == 2);
    CHECK_STR(all.at[0].attachments[0].hash,
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); /* of "abc" */
    CHECK_STR(all.at[0].attachments[1].uri, a[1].uri);
    CHECK_EQ(all.at[0].attachments[0].size, 3);
    fsb_session_bytes blob;
    CHECK_EQ(fsb_session_blob(store, info.user, all.at[0].attachments[0].hash, &blob), 0);
    CHECK(same(blob.span, a[0].data));
    fsb_session_free(blob.block);
    CHECK_EQ(fsb_session_blob(store, "bob", all.at[0].attachments[0].hash, &blob), -ENOENT);
    fsb_session_free(all.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_round_trip(void) { BOTH(round_trip); }

/* Whole saves against a model: appended, edited, cut, replaced, retitled at random. */
static void save_finds_changes(int kind)
{
    enum { MOST = 40 };
    static char            text[MOST][40];
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "m", "");
    fsb_session_message    model[MOST];
    uint64_t               ids[MOST] = {0};
    size_t                 count = 0;
    REQUIRE(s);
    for (int step = 0; step < 300; ++step) {
        const uint64_t what = random_below(10);
        size_t         kept = count;
        if (what < 6 && count < MOST) {
            snprintf(text[count], sizeof text[0], "message %d", step);
            model[count] = say(count & 1 ? "assistant" : "user", text[count]), ++count;
        } else if (what < 8 && count) {
            kept = (size_t)random_below(count);
            snprintf(text[kept], sizeof text[0], "edited %d", step);
            model[kept] = say("user", text[kept]);
        } else if (count) kept = count = (size_t)random_below(count);
        CHECK_EQ(fsb_session_save(s, model, count), 0);
        if (what == 9) fsb_session_close(s), s = NULL, fsb_session_open(&s, store, "ann", "m");
        REQUIRE(s);
        fsb_session_messages all;
        REQUIRE(fsb_session_load(s, NULL, &all) == 0);
        CHECK_EQ(all.count, count);
        for (size_t i = 0; i < all.count && i < count; ++i) {
            CHECK(same(all.at[i].content, model[i].content));
            if (i < kept) CHECK_EQ(all.at[i].id, ids[i]);
            ids[i] = all.at[i].id;
        }
        CHECK_EQ(fsb_session_about(s)->message_count, count);
        fsb_session_free(all.block);
    }
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_save_finds_changes(void) { BOTH(save_finds_changes); }

static void edits(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "e", "");
    fsb_session_messages   all;
    fsb_session_message    m[10];
    for (int i = 0; i < 10; ++i) m[i] = say("user", "original");
    REQUIRE(s && fsb_session_append(s, m, 10) == 0);
    const uint64_t bytes = fsb_session_about(s)->bytes;
    m[0] = say("user", "changed!"), m[0].id = 4;
    CHECK_EQ(fsb_session_edit(s, &m[0]), 0);
    CHECK_EQ(fsb_session_about(s)->bytes, bytes);
    m[0].id = 99;
    CHECK_EQ(fsb_session_edit(s, &m[0]), -ENOENT);
    CHECK_EQ(fsb_session_erase(s, 2, 3), 0);
    CHECK_EQ(fsb_session_erase(s, 9, UINT64_MAX), 0);
    CHECK_EQ(fsb_session_about(s)->last_id, 8);
    const fsb_session_range range = {4, 7, 2};
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, 6);
    CHECK_EQ(all.at[1].id, 4);
    CHECK_STR(all.at[1].content.data, "changed!");
    fsb_session_free(all.block);
    REQUIRE(fsb_session_load(s, &range, &all) == 0);
    CHECK_EQ(all.count, 2);
    CHECK_EQ(all.at[0].id, 6);
    fsb_session_free(all.block);
    CHECK_EQ(fsb_session_append(s, m + 1, 1), 0);
    CHECK_EQ(fsb_session_about(s)->last_id, 9);
    CHECK_EQ(fsb_session_delete(store, "ann", "e"), 0);
    CHECK_EQ(fsb_session_append(s, m + 1, 1), -ENOENT);
    CHECK_EQ(fsb_session_load(s, NULL, &all), -ENOENT);
    fsb_session_close(s);
    CHECK_EQ(fsb_session_open(&s, store, "ann", "e"), -ENOENT);
    fsb_session_store_close(store);
}
static void test_edits(void) { BOTH(edits); }

/* Two handles of one session: appends of both stay, a whole save that knows less is refused. */
static void two_writers(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *a = open_store(&d), *b = open_store(&d);
    fsb_session           *x = create(a, "ann", "w", ""), *y = NULL;
    fsb_session_message    m[3] = {say("user", "one"), say("user", "two"), say("user", "three")};
    REQUIRE(x && fsb_session_open(&y, b, "ann", "w") == 0);
    CHECK_EQ(fsb_session_save(x, m, 1), 0);
    CHECK_EQ(fsb_session_append(y, m + 1, 1), 0);
    CHECK_EQ(fsb_session_append(x, m + 2, 1), 0);
    fsb_session_messages all;
    REQUIRE(fsb_session_load(y, NULL, &all) == 0);
    CHECK_EQ(all.count, 3);
    for (size_t i = 0; i < all.count; ++i) CHECK_EQ(all.at[i].id, i + 1);
    fsb_session_free(all.block);
    CHECK_EQ(fsb_session_save(y, m, 3), 0); /* nothing to do, but notes are taken */
    CHECK_EQ(fsb_session_append(x, m, 1), 0);
    m[0] = say("user", "changed");
    CHECK_EQ(fsb_session_save(y, m, 3), -ESTALE);
    REQUIRE(fsb_session_load(y, NULL, &all) == 0);
    CHECK_EQ(all.count, 4);
    fsb_session_free(all.block);
    CHECK_EQ(fsb_session_save(y, m, 3), 0);
    CHECK_EQ(fsb_session_append(x, m, 1), 0); /* behind a rewrite by the other */
    REQUIRE(fsb_session_load(x, NULL, &all) == 0);
    CHECK_EQ(all.count, 4);
    CHECK_STR(all.at[0].content.data, "changed");
    fsb_session_free(all.block);
    fsb_session_close(x), fsb_session_close(y);
    fsb_session_store_close(a), fsb_session_store_close(b);
}
static void test_two_writers(void) { BOTH(two_writers); }

static void save_many(int kind)
{
    enum { N = 50 };
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session_batch      batch[N];
    fsb_session_message    m[2] = {say("user", "hello"), say("assistant", "hi")};
    char                   id[16];
    for (int i = 0; i < N; ++i) {
        snprintf(id, sizeof id, "many%d", i);
        batch[i].session = create(store, "ann", id, id);
        batch[i].messages = m, batch[i].count = 2;
        REQUIRE(batch[i].session);
    }
    CHECK_EQ(fsb_session_save_many(store, batch, N), 0);
    fsb_session_stat stat;
    CHECK_EQ(fsb_session_store_stat(store, "ann", &stat), 0);
    CHECK_EQ(stat.sessions, N);
    CHECK_EQ(stat.messages, 2 * N);
    fsb_session_message bad = say("", "no role");
    batch[N - 1].messages = &bad, batch[N - 1].count = 1;
    m[0] = say("user", "changed");
    CHECK_EQ(fsb_session_save_many(store, batch, N), -EINVAL); /* none of them */
    for (int i = 0; i < N; ++i) {
        fsb_session_messages all;
        CHECK_EQ(fsb_session_load(batch[i].session, NULL, &all), 0);
        CHECK(all.count == 2 && strcmp(all.at[0].content.data, "hello") == 0);
        fsb_session_free(all.block);
        fsb_session_close(batch[i].session);
    }
    fsb_session_store_close(store);
}
static void test_save_many(void) { BOTH(save_many); }

/* ---- [collection] ---------------------------------------------------------------------------- */
static void lists(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    char                   id[16];
    for (int i = 0; i < 95; ++i) {
        snprintf(id, sizeof id, "s%d", i);
        fsb_session *s = create(store, i % 5 ? "ann" : "bob", id, "t");
        REQUIRE(s);
        fsb_session_message m = say("user", "x");
        m.time_ns = 1000000000ll * (2000000000 + i / 2); /* pairs of the same time */
        CHECK_EQ(fsb_session_append(s, &m, 1), 0);
        if (i % 2) CHECK_EQ(fsb_session_tag(s, "odd", 1), 0);
        fsb_session_close(s);
    }
    fsb_session_filter f;
    memset(&f, 0, sizeof f);
    f.limit = 7;
    char    cursor[300] = "", seen[95] = {0};
    size_t  total = 0;
    int64_t last = INT64_MAX;
    for (int page = 0; page < 20; ++page) {
        fsb_session_list_result l;
        f.cursor = cursor;
        REQUIRE(fsb_session_list(store, "ann", &f, &l) == 0);
        for (size_t i = 0; i < l.count; ++i) {
            CHECK(l.at[i].updated_ns <= last);
            last = l.at[i].updated_ns;
            CHECK_EQ(seen[atoi(l.at[i].id + 1)]++, 0);
            CHECK_STR(l.at[i].user, "ann");
        }
        total += l.count;
        snprintf(cursor, sizeof cursor, "%s", l.next);
        fsb_session_free(l.block);
        if (!cursor[0]) break;
        CHECK_EQ(l.count, 7);
    }
    CHECK_EQ(total, 76);
    fsb_session_list_result l;
    memset(&f, 0, sizeof f);
    f.tag = "odd", f.since_ns = 1000000000ll * 2000000010;
    REQUIRE(fsb_session_list(store, "bob", &f, &l) == 0);
    for (size_t i = 0; i < l.count; ++i) CHECK(atoi(l.at[i].id + 1) % 10 == 5);
    CHECK_EQ(l.count, 7);
    fsb_session_free(l.block);
    f.cursor = "nonsense";
    CHECK_EQ(fsb_session_list(store, "bob", &f, &l), -EINVAL);
    fsb_session_users users;
    REQUIRE(fsb_session_store_users(store, &users) == 0);
    CHECK_EQ(users.count, 2);
    CHECK_STR(users.at[0], "ann");
    fsb_session_free(users.block);
    fsb_session_store_close(store);
}
static void test_lists(void) { BOTH(lists); }

static const char *const words[] = {"ferry",
                                    "harbour",
                                    "Oslo",
                                    "caf\xc3\xa9",
                                    "night",
                                    "train",
                                    "ticket",
                                    "the",
                                    "a",
                                    "to",
                                    "of",
                                    "Stra\303\237e",
                                    "\xce\x91\xce\xb8\xce\xae\xce\xbd\xce\xb1",
                                    "\xd0\x9c\xd0\xbe\xd1\x81\xd0\xba\xd0\xb2\xd0\xb0",
                                    "\xe6\x9d\xb1\xe4\xba\xac",
                                    "snake_case",
                                    "x86-64",
                                    "don't",
                                    "42",
                                    "rare"};
enum { WORDS = (int)(sizeof words / sizeof words[0]) };

static void random_text(char *out, size_t size, int count)
{
    out[0] = '\0';
    for (int i = 0; i < count; ++i) {
        const uint64_t w = random_below(WORDS - 1) * random_below(WORDS - 1) / (WORDS - 1);
        const size_t   n = strlen(out);
        snprintf(out + n, size - n, "%s%s", i ? (random_below(8) ? " " : ", ") : "", words[w]);
    }
}


static void check_hits(fsb_session_store *a, fsb_session_store *b, const fsb_session_query *q)
{
    fsb_session_hits x, y;
    const int        ra = fsb_session_search(a, "ann", q, &x);
    const int        rb = fsb_session_search(b, "ann", q, &y);
    if (ra != rb) fprintf(stderr, "query %s: %d, %d\n", q->words, ra, rb);
    CHECK_EQ(ra, rb);
    if (ra || rb) return;
    int equal = x.count == y.count;
    for (size_t i = 0; equal && i < x.count; ++i)
        equal = strcmp(x.at[i].id, y.at[i].id) == 0 && x.at[i].message_id == y.at[i].message_id &&
                x.at[i].time_ns == y.at[i].time_ns && x.at[i].score == y.at[i].score &&
                strcmp(x.at[i].role, y.at[i].role) == 0 && same(x.at[i].snippet, y.at[i].snippet);
    if (!equal) fprintf(stderr, "query %s: %zu and %zu hits differ\n", q->words, x.count, y.count);
    CHECK(equal);
    fsb_session_free(x.block), fsb_session_free(y.block);
}

/* The same random change in a store. */
static void change(fsb_session_store *store, const char *id, int i, uint64_t what, uint64_t which,
                   const char *word, fsb_session_message m)
{
    fsb_session *s = NULL;
    if (fsb_session_open(&s, store, "ann", id)) {
        fsb_session_info info;
        memset(&info, 0, sizeof info);
        info.user = "ann", info.id = id, info.title = word;
        info.created_ns = 1600000000000000000 + i * 1000000007ll;
        REQUIRE(fsb_session_create(&s, store, &info) == 0);
    }
    if (what < 9) CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    else if (what == 9) m.id = which, fsb_session_edit(s, &m); /* there may be none */
    else if (what == 10) CHECK_EQ(fsb_session_erase(s, which, which + 1), 0);
    else CHECK_EQ(fsb_session_tag(s, word, 1), 0);
    fsb_session_close(s);
}

static void random_query(char *text, size_t size)
{
    static const char *const between[] = {" ", " AND ", " OR ", " NOT ", " -"};
    size_t                   n = 0;
    int                      open = 0;
    for (int k = 0, terms = 1 + (int)random_below(4); k < terms; ++k) {
        const char *w = words[random_below(WORDS)];
        if (k) n += (size_t)snprintf(text + n, size - n, "%s", between[random_below(5)]);
        if (!random_below(5)) n += (size_t)snprintf(text + n, size - n, "("), ++open;
        const uint64_t kind = random_below(4);
        if (kind == 0)
            n += (size_t)snprintf(text + n, size - n, "\"%s %s\"", w, words[random_below(8)]);
        else if (kind == 1 && (unsigned char)w[0] < 0x80)
            n += (size_t)snprintf(text + n, size - n, "%.2s*", w);
        else n += (size_t)snprintf(text + n, size - n, "%s", w);
        if (open && random_below(2)) n += (size_t)snprintf(text + n, size - n, ")"), --open;
    }
    while (open--) n += (size_t)snprintf(text + n, size - n, ")");
}

/* Random queries on a random history: both stores answer the same, to the last hit. FTS5 evaluates
   for one, our own matcher for the other. */
static void test_search_same(void)
{
    if (!with_sqlite()) SKIP("built without SQLite");
    const int64_t          begin = 1700000000000000000, step = 1000003000;
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    fsb_session_store     *a = open_store(&d);
    d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_store *b = open_store(&d);
    fsb_session_query  q;
    char               text[600], id[16];
    for (int i = 0; i < 400; ++i) {
        snprintf(id, sizeof id, "s%d", (int)random_below(25));
        random_text(text, sizeof text, 3 + (int)random_below(30));
        fsb_session_message m = say(random_below(2) ? "user" : "assistant", text);
        m.time_ns = begin + (int64_t)random_below(1000000) * step + i * 1000;
        const uint64_t what = random_below(12), which = random_below(8) + 1;
        const char    *word = words[random_below(WORDS)];
        change(a, id, i, what, which, word, m), change(b, id, i, what, which, word, m);
        memset(&q, 0, sizeof q);
        q.words = "ferry OR the OR harbour", q.limit = 1000;
        if (i % 40 == 39) check_hits(a, b, &q);
    }
    for (int i = 0; i < 300; ++i) {
        memset(&q, 0, sizeof q);
        random_query(text, sizeof text);
        q.words = text, q.order = (int)random_below(2);
        q.limit = random_below(2) ? 1000 : 5, q.skip = random_below(3) ? 0 : 3;
        if (!random_below(4)) q.role = "user";
        if (!random_below(4)) q.since_ns = begin + (int64_t)random_below(500000) * step;
        if (!random_below(4)) q.until_ns = begin + (int64_t)random_below(1000000) * step;
        check_hits(a, b, &q);
    }
    fsb_session_store_close(a), fsb_session_store_close(b);
}

static void searches(int kind)
{
    static const struct {
        const char *words;
        int         hits;
        const char *snippet;
    } cases[] = {{"ferry", 2, "The [FERRY] to Oslo leaves at nine."},
                 {"cafe", 1, NULL},
                 {"caf\xc3\xa9", 1, NULL},
                 {"\"to oslo\"", 1, "The FERRY [to Oslo] leaves at nine."},
                 {"\"oslo to\"", 0, NULL},
                 {"harb*", 1, NULL},
                 {"ferry NOT oslo", 1, NULL},
                 {"ferry -oslo", 1, NULL},
                 {"ferry -- oslo", 1, "The [FERRY] to [Oslo] leaves at nine."},
                 {"ferry -!! nine", 1, "The [FERRY] to Oslo leaves at [nine]."},
                 {"train OR ... ferry", 2, NULL},
                 {"fer*\"tickets\"", 1, NULL},
                 {"train OR caf*", 1, NULL},
                 {"(train OR cafe) AND harbour", 1, NULL},
                 {"holiday", 1, "[Holiday] plan"},
                 {"\xe4\xba\xac", 1, NULL},
                 {"\xe6\x9d\xb1\xe4\xba\xac", 1, NULL},
                 {"nothing", 0, NULL},
                 {"case", 1, NULL}};
    static const char *const bad[] = {"", "  ", "NOT a", "-a", "a OR", "(a", "a)", "\"a", "()",
                                      "AND", "!!"};
    fsb_session_store_desc   d = new_desc(kind);
    fsb_session_store       *store = open_store(&d);
    fsb_session             *s = create(store, "ann", "h", "Holiday plan");
    fsb_session             *t = create(store, "bob", "h", "");
    fsb_session_message      m[4] = {say("user", "The FERRY to Oslo leaves at nine."),
                                     say("assistant", "Caf\xc3\xa9 at the harbour, snake_case"),
                                     say("user", "\xe6\x9d\xb1\xe4\xba\xac"),
                                     say("user", "ferry tickets")};
    REQUIRE(s && t && fsb_session_append(s, m, 4) == 0);
    fsb_session_query q;
    fsb_session_hits  h;
    memset(&q, 0, sizeof q);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        q.words = cases[i].words;
        REQUIRE(fsb_session_search(store, "ann", &q, &h) == 0);
        if ((int)h.count != cases[i].hits) fprintf(stderr, "%s: %zu hits\n", q.words, h.count);
        CHECK_EQ(h.count, cases[i].hits);
        if (cases[i].snippet && h.count)
            CHECK_STR(h.at[h.count - 1].snippet.data, cases[i].snippet);
        fsb_session_free(h.block);
        REQUIRE(fsb_session_search(store, "bob", &q, &h) == 0);
        CHECK_EQ(h.count, 0); /* other people's words */
        fsb_session_free(h.block);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        q.words = bad[i];
        CHECK_EQ(fsb_session_search(store, "ann", &q, &h), -EINVAL);
    }
    char many[400] = "";
    for (int i = 0; i < 33; ++i) strcat(many, "word ");
    q.words = many;
    CHECK_EQ(fsb_session_search(store, "ann", &q, &h), -E2BIG);
    fsb_session_close(s), fsb_session_close(t);
    fsb_session_store_close(store);
}
static void test_searches(void) { BOTH(searches); }

static size_t hits_for(fsb_session_store *store, const char *what)
{
    fsb_session_query q;
    fsb_session_hits  h;
    memset(&q, 0, sizeof q);
    q.words = what;
    if (fsb_session_search(store, "ann", &q, &h)) return 999;
    fsb_session_free(h.block);
    return h.count;
}

/* The files' index: lost, cut, scribbled over or of a foreign version, the answers stay. */
static void test_index_rebuilt(void)
{
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    char                   index[500];
    snprintf(index, sizeof index, "%s/ann/.words", path);
    for (size_t damage = 0; damage < 5; ++damage) {
        fsb_session_store *store = open_store(&d);
        fsb_session       *s = NULL;
        if (fsb_session_open(&s, store, "ann", "i")) s = create(store, "ann", "i", "");
        fsb_session_message m[2] = {say("user", "needle"), say("user", "hay")};
        REQUIRE(s && fsb_session_append(s, m, 2) == 0);
        CHECK_EQ(hits_for(store, "needle"), damage + 1);
        fsb_session_close(s);
        fsb_session_store_close(store);
        FILE *f = fopen(index, damage == 3 ? "w" : "r+");
        REQUIRE(f);
        if (damage == 0) unlink(index);
        if (damage == 1) CHECK_EQ(ftruncate(fileno(f), 100), 0);
        if (damage == 2) fseek(f, 60, SEEK_SET), fputs("scribbled over", f);
        if (damage == 3) fputs("fsbwords of another version, longer than a header", f);
        fclose(f);
    }
}

/* ---- [branches] ------------------------------------------------------------------------------ */
static void expect_texts(fsb_session *s, const char *want)
{
    fsb_session_messages all;
    char                 got[400] = "";
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    for (size_t i = 0; i < all.count; ++i) strcat(got, all.at[i].content.data);
    CHECK_STR(got, want);
    CHECK_EQ(fsb_session_about(s)->message_count, all.count);
    for (size_t i = 1; i < all.count; ++i) CHECK(all.at[i].id > all.at[i - 1].id);
    fsb_session_free(all.block);
}

static void append_texts(fsb_session *s, const char *letters)
{
    for (; *letters; ++letters) {
        const char          text[2] = {*letters, '\0'};
        fsb_session_message m = say("user", text);
        CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    }
}

static void check_tree(fsb_session_store *store)
{
    fsb_session_list_result tree;
    fsb_session_filter      f;
    REQUIRE(fsb_session_tree(store, "ann", "root", &tree) == 0);
    REQUIRE(tree.count == 4);
    CHECK_STR(tree.at[1].id, "a");
    CHECK_STR(tree.at[2].id, "b");
    CHECK_EQ(tree.at[2].depth, 2);
    CHECK_STR(tree.at[3].id, "c");
    fsb_session_free(tree.block);
    memset(&f, 0, sizeof f);
    f.parent = "root";
    REQUIRE(fsb_session_list(store, "ann", &f, &tree) == 0);
    CHECK_EQ(tree.count, 2);
    fsb_session_free(tree.block);
    CHECK_EQ(fsb_session_tree(store, "ann", "none", &tree), -ENOENT);
}

static void branches(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session *root = create(store, "ann", "root", "Root"), *a = NULL, *b = NULL, *c = NULL;
    fsb_session_info info;
    REQUIRE(root);
    append_texts(root, "ABCD");
    memset(&info, 0, sizeof info);
    info.id = "a";
    REQUIRE(fsb_session_fork(&a, root, 2, &info) == 0);
    CHECK_STR(fsb_session_about(a)->title, "Root");
    CHECK_STR(fsb_session_about(a)->parent, "root");
    CHECK_EQ(fsb_session_about(a)->fork_id, 2);
    CHECK_EQ(fsb_session_about(a)->message_count, 2);
    append_texts(a, "xy");
    info.id = "b";
    REQUIRE(fsb_session_fork(&b, a, 3, &info) == 0);
    append_texts(b, "z");
    info.id = "c";
    REQUIRE(fsb_session_fork(&c, root, 0, &info) == 0);
    info.id = "none";
    CHECK_EQ(fsb_session_fork(&c, root, 77, &info), -ENOENT);
    expect_texts(a, "ABxy"), expect_texts(b, "ABxz"), expect_texts(c, "ABCD");
    CHECK_EQ(hits_for(store, "B"), 1); /* shared, so found once */
    check_tree(store);
    fsb_session_message m = say("user", "b"); /* an edit does not reach the forks */
    m.id = 2;
    CHECK_EQ(fsb_session_edit(root, &m), 0);
    expect_texts(root, "AbCD"), expect_texts(a, "ABxy"), expect_texts(b, "ABxz");
    expect_texts(c, "ABCD");
    CHECK_EQ(fsb_session_erase(a, 1, 1), 0);
    expect_texts(a, "Bxy"), expect_texts(b, "ABxz");
    CHECK_EQ(fsb_session_merge(root, a, FSB_SESSION_MERGE_APPEND, NULL, 0), 0);
    expect_texts(root, "AbCDxy");
    const uint64_t ids[2] = {4, 1}, missing = 50;
    CHECK_EQ(fsb_session_merge(root, b, FSB_SESSION_MERGE_PICK, ids, 2), 0);
    expect_texts(root, "AbCDxyzA");
    CHECK_EQ(fsb_session_merge(root, b, FSB_SESSION_MERGE_PICK, &missing, 1), -ENOENT);
    append_texts(c, "q");
    CHECK_EQ(fsb_session_merge(root, c, FSB_SESSION_MERGE_REBASE, NULL, 0), 0);
    expect_texts(c, "AbCDxyzAq");
    CHECK_EQ(fsb_session_about(c)->fork_id, fsb_session_about(root)->last_id);
    CHECK_EQ(fsb_session_merge(root, root, FSB_SESSION_MERGE_APPEND, NULL, 0), -EINVAL);
    fsb_session_close(root);
    CHECK_EQ(fsb_session_delete(store, "ann", "root"), 0);
    expect_texts(a, "Bxy"), expect_texts(b, "ABxz"), expect_texts(c, "AbCDxyzAq");
    CHECK_EQ(hits_for(store, "q"), 1);
    fsb_session_close(a), fsb_session_close(b), fsb_session_close(c);
    fsb_session_store_close(store);
}
static void test_branches(void) { BOTH(branches); }

/* ---- [exchange] ------------------------------------------------------------------------------ */
static void same_in_both(fsb_session_store *a, fsb_session_store *b, const char *id)
{
    fsb_session      *s = NULL, *t = NULL;
    fsb_session_bytes x, y;
    REQUIRE(fsb_session_open(&s, a, "ann", id) == 0 && fsb_session_open(&t, b, "ann", id) == 0);
    REQUIRE(fsb_session_export(s, FSB_SESSION_LINES, &x) == 0);
    REQUIRE(fsb_session_export(t, FSB_SESSION_LINES, &y) == 0);
    CHECK(same(x.span, y.span));
    if (!same(x.span, y.span)) fprintf(stderr, "%s\n%s\n", x.span.data, y.span.data);
    fsb_session_free(x.block), fsb_session_free(y.block);
    fsb_session_close(s), fsb_session_close(t);
}

/* Files to SQLite to files: nothing is lost, forks still share. */
static void test_copy(void)
{
    if (!with_sqlite()) SKIP("built without SQLite");
    fsb_session_store     *store[3];
    fsb_session_store_desc d;
    for (int i = 0; i < 3; ++i) {
        d = new_desc(i == 1 ? FSB_SESSION_SQLITE : FSB_SESSION_FILES);
        store[i] = open_store(&d);
    }
    fsb_session           *s = create(store[0], "ann", "root", "Copied"), *child = NULL;
    fsb_session_info       info;
    fsb_session_attachment att;
    fsb_session_bytes      blob;
    fsb_session_messages   all;
    memset(&info, 0, sizeof info), memset(&att, 0, sizeof att);
    att.data = fsb_session_text("attached bytes");
    fsb_session_message m = say("user", "with \xff an attachment");
    m.attachments = &att, m.attachment_count = 1;
    REQUIRE(s && fsb_session_append(s, &m, 1) == 0);
    append_texts(s, "abc");
    CHECK_EQ(fsb_session_erase(s, 2, 2), 0);
    CHECK_EQ(fsb_session_tag(s, "t", 1), 0);
    info.id = "child";
    REQUIRE(fsb_session_fork(&child, s, 3, &info) == 0);
    append_texts(child, "d");
    fsb_session_close(s), fsb_session_close(child);
    for (int i = 0; i < 2; ++i) {
        CHECK_EQ(fsb_session_copy(store[i + 1], store[i], "ann", "root"), 0);
        CHECK_EQ(fsb_session_copy(store[i + 1], store[i], "ann", "child"), 0);
        CHECK_EQ(fsb_session_copy(store[i + 1], store[i], "ann", "child"), -EEXIST);
        CHECK_EQ(fsb_session_copy(store[i + 1], store[i], "ann", "none"), -ENOENT);
        CHECK_EQ(hits_for(store[i + 1], "attachment"), 1);
    }
    same_in_both(store[0], store[2], "root");
    same_in_both(store[0], store[2], "child");
    REQUIRE(fsb_session_open(&s, store[2], "ann", "child") == 0);
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(fsb_session_blob(store[2], "ann", all.at[0].attachments[0].hash, &blob), 0);
    CHECK(same(blob.span, att.data));
    fsb_session_free(blob.block), fsb_session_free(all.block);
    fsb_session_close(s);
    for (int i = 0; i < 3; ++i) fsb_session_store_close(store[i]);
}

static void imports(int kind)
{
    static const char *const bad[] = {"", "{", "[]", "{\"fsb\":1}",
        "{\"fsb\":1,\"session\":\"../x\"}", "{\"fsb\":1,\"session\":\"a\\u0000b\"}",
        "{\"fsb\":1,\"session\":\"x\"}\nnonsense\n",
        "{\"fsb\":1,\"session\":\"x\",\"messages\":[7]}",
        "{\"fsb\":1,\"session\":\"x\",\"messages\":[{\"role\":\"\"}]}"};
    static const char good[] = "{\"fsb\":1,\"session\":\"x\",\"title\":\"\\u0041\\ud83d\\ude00\","
        "\"tags\":[\"t\"]}\n{\"role\":\"user\",\"content\":\"no id, no time, no line feed\"}";
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = NULL;
    fsb_session_bytes      x, y;
    fsb_session_stat       stat;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        const int err = fsb_session_import(NULL, store, "ann", NULL, fsb_session_text(bad[i]));
        if (err != -EBADMSG && err != -EINVAL) fprintf(stderr, "%s: %d\n", bad[i], err);
        CHECK(err == -EBADMSG || err == -EINVAL);
    }
    const fsb_session_span newer = fsb_session_text("{\"fsb\":2,\"session\":\"x\"}");
    CHECK_EQ(fsb_session_import(NULL, store, "ann", NULL, newer), -ENOTSUP);
    CHECK_EQ(fsb_session_store_stat(store, "ann", &stat), 0);
    CHECK_EQ(stat.sessions, 0);
    REQUIRE(fsb_session_import(&s, store, "ann", NULL, fsb_session_text(good)) == 0);
    CHECK_STR(fsb_session_about(s)->title, "A\xf0\x9f\x98\x80");
    append_texts(s, "z");
    for (int format = 0; format < 2; ++format) {
        fsb_session *t = NULL;
        REQUIRE(fsb_session_export(s, format, &x) == 0);
        REQUIRE(fsb_session_import(&t, store, "bob", format ? "1" : "0", x.span) == 0);
        REQUIRE(fsb_session_export(t, FSB_SESSION_MARKDOWN, &y) == 0);
        fsb_session_free(x.block);
        REQUIRE(fsb_session_export(s, FSB_SESSION_MARKDOWN, &x) == 0);
        CHECK(same(x.span, y.span) && x.span.size > 50);
        fsb_session_free(x.block), fsb_session_free(y.block);
        fsb_session_close(t);
    }
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_imports(void) { BOTH(imports); }

/* ---- [upkeep] -------------------------------------------------------------------------------- */
static const int64_t day_ms = 86400000;

static void quotas(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    d.user_sessions = 2, d.user_bytes = 20000;
    fsb_session_store *store = open_store(&d);
    fsb_session       *s = create(store, "ann", "1", ""), *t = create(store, "ann", "2", ""), *u;
    fsb_session_info   info;
    static char        large[19001];
    REQUIRE(s && t);
    memset(&info, 0, sizeof info);
    info.user = "ann";
    CHECK_EQ(fsb_session_create(&u, store, &info), -EDQUOT);
    memset(large, 'x', sizeof large - 1);
    fsb_session_message m = say("user", large);
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    CHECK_EQ(fsb_session_append(t, &m, 1), -EDQUOT);
    CHECK_EQ(fsb_session_save(t, &m, 1), -EDQUOT);
    CHECK_EQ(fsb_session_erase(s, 1, 1), 0);
    CHECK_EQ(fsb_session_append(t, &m, 1), 0);
    fsb_session_close(s), fsb_session_close(t);
    fsb_session_store_close(store);
}
static void test_quotas(void) { BOTH(quotas); }

static void sweeps(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    d.expire_ms = 100 * day_ms, d.cold_ms = 10 * day_ms;
    fsb_session_store       *store = open_store(&d);
    fsb_session             *s = create(store, "ann", "old", "Old");
    fsb_session_attachment   att;
    fsb_session_sweep_result r;
    memset(&att, 0, sizeof att);
    att.data = fsb_session_text("bytes");
    fsb_session_message m = say("user", "squeeze squeeze");
    m.attachments = &att, m.attachment_count = 1;
    REQUIRE(s && fsb_session_append(s, &m, 1) == 0);
    append_texts(s, "abcdefgh");
    fsb_session_close(s);
    const int64_t now = fsb_session_now_() + 50 * day_ms * 1000000;
    const int     err = fsb_session_store_sweep(store, "ann", now, &r);
#ifdef FSB_WITH_ZSTD
    CHECK_EQ(err, 0);
    CHECK_EQ(r.compressed, 1);
    CHECK_EQ(r.blobs_removed, 0);
    CHECK_EQ(hits_for(store, "squeeze"), 1);
    REQUIRE(fsb_session_open(&s, store, "ann", "old") == 0);
    CHECK_EQ(fsb_session_about(s)->cold, 1);
    expect_texts(s, "squeeze squeezeabcdefgh");
    append_texts(s, "i"); /* wakes it */
    CHECK_EQ(fsb_session_about(s)->cold, 0);
    expect_texts(s, "squeeze squeezeabcdefghi");
    fsb_session_close(s);
    CHECK_EQ(hits_for(store, "squeeze"), 1);
    CHECK_EQ(fsb_session_store_sweep(store, "ann", now + 100 * day_ms * 1000000, &r), 0);
    CHECK_EQ(r.expired, 1);
    CHECK_EQ(r.blobs_removed, 1);
    CHECK_EQ(hits_for(store, "squeeze"), 0);
#else
    CHECK_EQ(err, -ENOSYS);
#endif
    fsb_session_store_close(store);
}
static void test_sweeps(void) { BOTH(sweeps); }

/* ---- [bad input] ----------------------------------------------------------------------------- */
static void bad_names(int kind)
{
    static const char *const bad[] = {"a/b", "..", ".", ".hidden", "/", "a\nb", "a\x7f", "\xff",
                                      "../../x"};
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = NULL;
    fsb_session_info       info;
    char                   longer[302];
    memset(longer, 'a', 301), longer[301] = '\0';
    memset(&info, 0, sizeof info);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        info.user = "ann", info.id = bad[i];
        CHECK_EQ(fsb_session_create(&s, store, &info), -EINVAL);
        CHECK_EQ(fsb_session_open(&s, store, "ann", bad[i]), -EINVAL);
        info.user = bad[i], info.id = "x";
        CHECK_EQ(fsb_session_create(&s, store, &info), -EINVAL);
        CHECK_EQ(fsb_session_delete(store, bad[i], "x"), -EINVAL);
    }
    info.user = NULL, info.id = "x";
    CHECK_EQ(fsb_session_create(&s, store, &info), -EINVAL);
    info.user = "ann", info.id = longer;
    CHECK_EQ(fsb_session_create(&s, store, &info), -ENAMETOOLONG);
    longer[200] = '\0';
    CHECK_EQ(fsb_session_create(&s, store, &info), 0);
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_bad_names(void) { BOTH(bad_names); }

static void bad_messages(int kind)
{
    static const char *const not_json[] = {"nul", "01", "1.", "\"\\x\"", "\"\x01\"", "[1,]",
                                           "{\"a\" 1}", "1 2", "+1", "[1}", "{\"a\":}"};
    fsb_session_store_desc d = new_desc(kind);
    d.max_message = 1000;
    fsb_session_store   *store = open_store(&d);
    fsb_session         *s = create(store, "ann", "x", "");
    fsb_session_message  m = say("user", "x");
    fsb_session_messages all;
    char                 text[400], deep[1201];
    REQUIRE(s);
    for (size_t i = 0; i < sizeof not_json / sizeof not_json[0]; ++i) {
        m.metadata = fsb_session_text(not_json[i]);
        CHECK_EQ(fsb_session_append(s, &m, 1), -EILSEQ);
    }
    fsb_session_store_errmsg(store, text, sizeof text);
    CHECK(strstr(text, "JSON") != NULL);
    memset(deep, '[', 600), memset(deep + 600, ']', 600), deep[1200] = '\0';
    m.metadata = fsb_session_text(deep);
    CHECK_EQ(fsb_session_append(s, &m, 1), -EILSEQ);
    m.metadata.data = deep + 600 - 499, m.metadata.size = 998;
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    m = say("", "x");
    CHECK_EQ(fsb_session_append(s, &m, 1), -EINVAL);
    m = say("user", deep);
    CHECK_EQ(fsb_session_append(s, &m, 1), -EMSGSIZE);
    CHECK_EQ(fsb_session_about(s)->message_count, 1);
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK(all.count == 1 && all.at[0].metadata.size == 998);
    fsb_session_free(all.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_bad_messages(void) { BOTH(bad_messages); }

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    if (f) fputs(text, f), fclose(f);
}

/* Lines that people broke, or a crash cut: told with their numbers, the rest loads. */
static void test_bad_lines(void)
{
    fsb_session_store_desc    d = new_desc(FSB_SESSION_FILES);
    fsb_session_store        *store = open_store(&d);
    fsb_session              *s = create(store, "ann", "b", "T");
    fsb_session_messages      all;
    fsb_session_repair_result r;
    char                      name[500], text[4000];
    REQUIRE(s);
    append_texts(s, "abc");
    fsb_session_close(s);
    snprintf(name, sizeof name, "%s/ann/b.jsonl", path);
    FILE *f = fopen(name, "a");
    REQUIRE(f);
    fputs("{\"role\":\"user\", broken\n\n{\"role\":\"user\",\"content\":\"by hand\"}\n"
          "{\"id\":2,\"role\":\"user\",\"content\":\"id used before\"}\n"
          "{\"id\":9,\"role\":\"us", f);
    fclose(f);
    log_lines = 0;
    REQUIRE(fsb_session_open(&s, store, "ann", "b") == 0);
    CHECK(log_lines >= 3); /* the bad line, the torn line, and that it was ended */
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, 5);
    CHECK_EQ(all.bad_lines, 2);
    CHECK_EQ(all.first_bad_line, 5);
    CHECK_EQ(all.at[3].id, 4);
    CHECK_EQ(all.at[4].id, 5);
    fsb_session_free(all.block);
    append_texts(s, "d");
    expect_texts(s, "abcby handid used befored");
    CHECK_EQ(fsb_session_store_repair(store, "ann", &r), 0);
    CHECK_EQ(r.bad_lines, 2);
    expect_texts(s, "abcby handid used befored");
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.bad_lines, 0);
    fsb_session_free(all.block);
    fsb_session_close(s);
    snprintf(name, sizeof name, "%s/ann/b.jsonl.bad", path);
    f = fopen(name, "r");
    REQUIRE(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    CHECK(strstr(text, "broken") && strstr(text, "\"us")); /* put aside, not lost */
    snprintf(name, sizeof name, "%s/ann/new.jsonl", path);
    write_file(name, "{\"fsb\":2,\"session\":\"new\"}\n");
    CHECK_EQ(fsb_session_open(&s, store, "ann", "new"), -ENOTSUP);
    snprintf(name, sizeof name, "%s/ann/plain.jsonl", path);
    write_file(name, "{\"role\":\"user\",\"content\":\"no session line\"}\n");
    REQUIRE(fsb_session_open(&s, store, "ann", "plain") == 0);
    expect_texts(s, "no session line");
    fsb_session_close(s);
    CHECK_EQ(hits_for(store, "session"), 1);
    fsb_session_store_close(store);
}

#ifdef FSB_WITH_SQLITE
static void run_sql(const char *sql)
{
    sqlite3 *db = NULL;
    if (sqlite3_open(path, &db) == SQLITE_OK) sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_close(db);
}
#endif

static void test_databases(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_store     *store = NULL;
    write_file(path, "this is no database, and long enough for SQLite to say so: "
                     "its header would have to be a hundred bytes long, so here are some more.");
    CHECK_EQ(fsb_session_store_open(&store, &d), -EBADMSG);
    CHECK(strstr(log_last, "not a database") != NULL);
    d = new_desc(FSB_SESSION_SQLITE);
    run_sql("CREATE TABLE theirs(x)");
    CHECK_EQ(fsb_session_store_open(&store, &d), -EBADMSG);
    d = new_desc(FSB_SESSION_SQLITE);
    store = open_store(&d);
    fsb_session *s = create(store, "ann", "x", "");
    REQUIRE(s);
    append_texts(s, "abc");
    fsb_session_close(s);
    fsb_session_store_close(store);
    run_sql("PRAGMA user_version=2");
    CHECK_EQ(fsb_session_store_open(&store, &d), -ENOTSUP);
    run_sql("PRAGMA user_version=1");
    store = open_store(&d);
    REQUIRE(fsb_session_open(&s, store, "ann", "x") == 0);
    expect_texts(s, "abc");
    fsb_session_close(s);
    fsb_session_store_close(store);
    d = new_desc(FSB_SESSION_SQLITE);
    d.read_only = 1;
    CHECK(fsb_session_store_open(&store, &d) < 0); /* and it is not made */
#endif
}

#ifdef FSB_WITH_SQLITE
static int no_fts5(void *user, int what, const char *a, const char *b, const char *c, const char *d)
{
    (void)user, (void)a, (void)c, (void)d;
    return what == SQLITE_FUNCTION && b && !strcmp(b, "fts5") ? SQLITE_DENY : SQLITE_OK;
}
static int hide_fts5(sqlite3 *db, char **text, const struct sqlite3_api_routines *api)
{
    (void)text, (void)api;
    return sqlite3_set_authorizer(db, no_fts5, NULL);
}
static uint64_t hits_of(fsb_session_store *store, const char *query)
{
    fsb_session_query q;
    fsb_session_hits  h;
    memset(&q, 0, sizeof q);
    q.words = query, q.limit = 1000;
    if (fsb_session_search(store, "ann", &q, &h)) return UINT64_MAX;
    fsb_session_free(h.block);
    return h.count;
}
#endif

/* What a SQLite without FTS5 edits, erases and renames is found as it is by one that has it: the
   words that were there before are not. */
static void test_stale_index(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    for (int open = 0; open < 2; ++open) { /* 1: who has FTS5 does not open it anew */
        fsb_session_store *store = open_store(&d), *other = NULL;
        fsb_session       *s = create(store, "ann", open ? "y" : "x", "harbour");
        const fsb_session_message said[3] = {say("user", "ferry one"), say("user", "ferry two"),
                                             say("user", "tram")};
        REQUIRE(s && fsb_session_append(s, said, 3) == 0);
        CHECK_EQ(hits_of(store, "ferry"), 2);
        fsb_session_close(s);
        if (!open) fsb_session_store_close(store);
        sqlite3_auto_extension((void (*)(void))hide_fts5);
        other = open_store(&d);
        sqlite3_reset_auto_extension();
        fsb_session_message other_words = say("user", "bus");
        fsb_session_info    info;
        memset(&info, 0, sizeof info);
        info.title = "station", other_words.id = 1;
        REQUIRE(fsb_session_open(&s, other, "ann", open ? "y" : "x") == 0);
        CHECK_EQ(fsb_session_edit(s, &other_words), 0);
        CHECK_EQ(fsb_session_erase(s, 2, 2), 0);
        CHECK_EQ(fsb_session_set(s, &info, FSB_SESSION_TITLE), 0);
        fsb_session_close(s);
        fsb_session_store_close(other);
        if (!open) store = open_store(&d);
        CHECK_EQ(hits_of(store, "ferry"), 0);
        CHECK_EQ(hits_of(store, "bus"), 1);
        CHECK_EQ(hits_of(store, "tram"), 1);
        CHECK_EQ(hits_of(store, "harbour"), 0);
        CHECK_EQ(hits_of(store, "station"), 1);
        REQUIRE(fsb_session_delete(store, "ann", open ? "y" : "x") == 0);
        fsb_session_store_close(store);
    }
#endif
}

/* SQLite has a bound for what it takes (1e9 bytes, here less): it is named, and nothing is kept. */
static void test_too_large(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    static char            data[20000];
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    value_limit = 10000;
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "x", "t");
    fsb_session_attachment a;
    fsb_session_message    m = say("user", "see");
    memset(&a, 0, sizeof a);
    a.data.data = data, m.attachments = &a, m.attachment_count = 1;
    const size_t sizes[3] = {10001, 20000, 9999}; /* the last: too large with the rest of the row */
    for (int i = 0; i < 3; ++i) {
        a.data.size = sizes[i];
        CHECK_EQ(fsb_session_append(s, &m, 1), -EMSGSIZE);
    }
    a.data.size = 9000;
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    CHECK_EQ(fsb_session_about(s)->message_count, 1);
    fsb_session_close(s);
    fsb_session_store_close(store);
    value_limit = 0;
#endif
}

static int race_ready[2], race_done[2];
static void wait_for_writer(const char *name)
{
    struct pollfd p = {race_done[0], POLLIN, 0};
    if (strlen(name) != 64) return;
    REQUIRE(write(race_ready[1], "", 1) == 1);
    poll(&p, 1, 100);
}

/* A sweep has looked at an attachment, and is about to drop it, when another process attaches the
   same bytes again: they are there when it is done. */
static void test_sweep_race(void)
{
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "x", "t");
    fsb_session_attachment a;
    fsb_session_message    m = say("user", "see");
    fsb_session_bytes      bytes;
    char                   hash[65], file[600], byte;
    int                    status = 1;
    memset(&a, 0, sizeof a);
    a.data = fsb_session_text("a map of the harbour"), m.attachments = &a, m.attachment_count = 1;
    fsb_session_sha256_(a.data, hash);
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    CHECK_EQ(fsb_session_erase(s, 1, 1), 0);
    fsb_session_close(s);
    fsb_session_store_close(store);
    const struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}};
    snprintf(file, sizeof file, "%s/ann/.blobs/%s", d.path, hash);
    REQUIRE(utimensat(AT_FDCWD, file, old, 0) == 0);
    REQUIRE(pipe(race_ready) == 0 && pipe(race_done) == 0);
    const pid_t pid = fork();
    if (!pid) {
        at_unlink = wait_for_writer;
        store = open_store(&d);
        _exit(fsb_session_store_sweep(store, "ann", 0, NULL) != 0);
    }
    store = open_store(&d);
    REQUIRE(fsb_session_open(&s, store, "ann", "x") == 0);
    REQUIRE(read(race_ready[0], &byte, 1) == 1);
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    REQUIRE(write(race_done[1], "", 1) == 1);
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK_EQ(fsb_session_blob(store, "ann", hash, &bytes), 0);
    if (access(file, F_OK) == 0) fsb_session_free(bytes.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    for (int i = 0; i < 2; ++i) close(race_ready[i]), close(race_done[i]);
}

/* A SQLite without FTS5: everything but search works, and one that has it finds all of it. */
static void test_without_fts5(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    fsb_session_store_desc  d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_query       q;
    fsb_session_hits        h;
    fsb_session_list_result list;
    char                    why[200] = "";
    sqlite3_auto_extension((void (*)(void))hide_fts5);
    fsb_session_store *store = open_store(&d);
    fsb_session       *s = create(store, "ann", "x", "The ferry");
    REQUIRE(s);
    const fsb_session_message m = say("user", "when does the ferry leave?");
    for (int i = 0; i < 200; ++i) CHECK_EQ(fsb_session_append(s, &m, 1), 0); /* past a batch */
    memset(&q, 0, sizeof q);
    q.words = "ferry";
    CHECK_EQ(fsb_session_search(store, "ann", &q, &h), -ENOSYS);
    fsb_session_store_errmsg(store, why, sizeof why);
    CHECK(strstr(why, "FTS5") != NULL);
    REQUIRE(fsb_session_list(store, "ann", NULL, &list) == 0);
    CHECK_EQ(list.count, 1);
    fsb_session_free(list.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    sqlite3_reset_auto_extension();
    store = open_store(&d);
    CHECK_EQ(hits_of(store, "ferry"), 201); /* the title too */
    REQUIRE(fsb_session_open(&s, store, "ann", "x") == 0);
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    CHECK_EQ(hits_of(store, "ferry"), 202);
    fsb_session_close(s);
    fsb_session_store_close(store);
#endif
}

/* Somebody holds the lock of writers all the time: readers neither fail nor wait for it. */
static void test_readers_never_wait(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_list_result list;
    d.busy_ms = 20000;
    fsb_session_store *store = open_store(&d);
    fsb_session       *s = create(store, "ann", "x", "The ferry");
    sqlite3           *writer = NULL;
    REQUIRE(s && sqlite3_open(path, &writer) == SQLITE_OK);
    append_texts(s, "abc"); /* they wait for the index, which a search would feed */
    REQUIRE(sqlite3_exec(writer, "BEGIN IMMEDIATE; UPDATE session SET title='other'", NULL, NULL,
                         NULL) == SQLITE_OK);
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < 20; ++i) {
        expect_texts(s, "abc");
        CHECK_EQ(hits_of(store, "ferry"), 1);
        REQUIRE(fsb_session_list(store, "ann", NULL, &list) == 0);
        CHECK_EQ(list.count, 1);
        fsb_session_free(list.block);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - begin.tv_sec < 10); /* one that waits takes 20 s */
    CHECK(sqlite3_exec(writer, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(writer);
    CHECK_EQ(hits_of(store, "other"), 1);
    fsb_session_close(s);
    fsb_session_store_close(store);
#endif
}

/* A disk of a megabyte fills up: the failed save says so, what was saved is there, and it goes on
   when there is room again. */
static void full_disk(int kind)
{
    char dir[300], file[320];
    snprintf(dir, sizeof dir, "%s/full%d", test_dir(), kind);
    if (mkdir(dir, 0700) || mount("none", dir, "tmpfs", 0, "size=1m"))
        SKIP("tmpfs cannot be mounted here");
    fsb_session_store_desc d = new_desc(kind);
    snprintf(file, sizeof file, "%s/store", dir);
    d.path = file;
    fsb_session_store   *store = open_store(&d);
    fsb_session         *s = create(store, "ann", "f", "");
    fsb_session_messages all;
    static char          large[50001];
    char                 text[400];
    int                  err = 0;
    size_t               saved = 0;
    memset(large, 'x', sizeof large - 1);
    fsb_session_message m = say("user", large);
    while (s && !(err = fsb_session_append(s, &m, 1)) && saved < 100) ++saved;
    CHECK_EQ(err, -ENOSPC);
    fsb_session_store_errmsg(store, text, sizeof text);
    CHECK(strstr(text, "full") != NULL);
    CHECK(s && fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, saved);
    fsb_session_free(all.block);
    CHECK_EQ(mount("none", dir, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    CHECK(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, saved + 1);
    fsb_session_free(all.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    umount(dir);
}
static void test_full_disk(void) { BOTH(full_disk); }

/* Of several messages all are there or none, also where the disk has room for some. */
static void test_full_disk_batch(void)
{
    char dir[300], file[320];
    snprintf(dir, sizeof dir, "%s/full-batch", test_dir());
    if (mkdir(dir, 0700) || mount("none", dir, "tmpfs", 0, "size=512k"))
        SKIP("tmpfs cannot be mounted here");
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    snprintf(file, sizeof file, "%s/store", dir);
    d.path = file;
    fsb_session_store         *store = open_store(&d);
    fsb_session               *s = create(store, "ann", "f", "");
    fsb_session_messages       all;
    static char                large[30001];
    memset(large, 'x', sizeof large - 1);
    const fsb_session_message three[3] = {say("user", "a"), say("tool", large), say("user", "c")};
    int                       err = 0;
    size_t                    saved = 0;
    while (s && !(err = fsb_session_append(s, three, 3)) && saved < 100) ++saved;
    CHECK_EQ(err, -ENOSPC);
    CHECK(s && fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, 3 * saved);
    CHECK_EQ(all.bad_lines, 0);
    fsb_session_free(all.block);
    CHECK_EQ(mount("none", dir, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    CHECK_EQ(fsb_session_append(s, three, 3), 0);
    CHECK(fsb_session_load(s, NULL, &all) == 0);
    CHECK_EQ(all.count, 3 * saved + 3);
    fsb_session_free(all.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    umount(dir);
}

/* What looks at a store of files while one call after another fails: an answer is right, or there
   is none. */
static void test_faults(void)
{
    static const char *const calls[] = {"readdir", "fdopendir", "fstatat", "pread", "flock"};
    fsb_session_store_desc   d = new_desc(FSB_SESSION_FILES);
    fsb_session_store       *store = open_store(&d);
    int                      reached = 0;
    for (int i = 0; i < 3; ++i) {
        char         id[2] = {(char)('a' + i), 0};
        fsb_session *s = create(store, "ann", id, "");
        const fsb_session_message m = say("user", "the ferry");
        REQUIRE(s && fsb_session_append(s, &m, 1) == 0);
        fsb_session_close(s);
    }
    fsb_session_store_close(store);
    for (size_t c = 0; c < sizeof calls / sizeof *calls; ++c) {
        const int waits = !strcmp(calls[c], "flock") || !strcmp(calls[c], "pread");
        for (int after = 0; after < 200; ++after) {
            fsb_session_query       q;
            fsb_session_hits        hits;
            fsb_session_list_result list;
            fsb_session_users       users;
            memset(&q, 0, sizeof q), q.words = "ferry";
            store = open_store(&d);
            fault.call = calls[c], fault.after = after, fault.err = waits ? EINTR : EIO;
            const int found = fsb_session_search(store, "ann", &q, &hits);
            if (!found) CHECK_EQ(hits.count, 3), fsb_session_free(hits.block);
            else CHECK_EQ(found, -EIO);
            const int listed = fsb_session_list(store, "ann", NULL, &list);
            if (!listed) CHECK_EQ(list.count, 3), fsb_session_free(list.block);
            else CHECK_EQ(listed, -EIO);
            const int known = fsb_session_store_users(store, &users);
            if (!known) CHECK_EQ(users.count, 1), fsb_session_free(users.block);
            else CHECK_EQ(known, -EIO);
            fsb_session *s = NULL;
            const int    opened = fsb_session_open(&s, store, "ann", "a");
            CHECK(opened == 0 || opened == -EIO);
            if (!opened) { /* says the same once more, by rewriting the file */
                fsb_session_message m = say("user", "the ferry");
                m.id = 1;
                const int edited = fsb_session_edit(s, &m);
                CHECK(!edited || (edited == -EIO && !waits));
                fsb_session_close(s);
            }
            const int more = !fault.call;
            fault.call = NULL;
            fsb_session_store_close(store);
            if (!more) break;
            ++reached;
        }
    }
    CHECK(reached > 20);
}

/* A sweep drops no attachment while a session cannot be read: it may be that one's. */
static void test_sweep_keeps(void)
{
    fsb_session_store_desc   d = new_desc(FSB_SESSION_FILES);
    fsb_session_store       *store = open_store(&d);
    fsb_session             *s = create(store, "ann", "a", "");
    fsb_session_attachment   att;
    fsb_session_messages     all;
    fsb_session_bytes        blob;
    fsb_session_sweep_result r;
    char                     file[500], hash[65];
    const int64_t            later = fsb_session_now_() + (int64_t)86400 * 1000000000;
    memset(&att, 0, sizeof att);
    att.data = fsb_session_text("bytes");
    fsb_session_message m = say("user", "see this");
    m.attachments = &att, m.attachment_count = 1;
    REQUIRE(s && fsb_session_append(s, &m, 1) == 0 && fsb_session_load(s, NULL, &all) == 0);
    snprintf(hash, sizeof hash, "%s", all.at[0].attachments[0].hash);
    fsb_session_free(all.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    snprintf(file, sizeof file, "%s/ann/a.jsonl", d.path);
    FILE *f = fopen(file, "a");
    REQUIRE(f && fputs("{\"fsb\":99}\n", f) >= 0 && fclose(f) == 0); /* of a newer release */
    store = open_store(&d);
    CHECK_EQ(fsb_session_open(&s, store, "ann", "a"), -ENOTSUP);
    CHECK_EQ(fsb_session_store_sweep(store, "ann", later, &r), 0);
    CHECK_EQ(r.blobs_removed, 0);
    REQUIRE(fsb_session_blob(store, "ann", hash, &blob) == 0);
    fsb_session_free(blob.block);
    CHECK_EQ(unlink(file), 0);
    CHECK_EQ(fsb_session_store_sweep(store, "ann", later, &r), 0);
    CHECK_EQ(r.blobs_removed, 1);
    fsb_session_store_close(store);
}

#ifdef FSB_WITH_ZSTD
/* A store with the session "a" of ann, which has been compressed. */
static fsb_session_store *open_with_cold(fsb_session_store_desc *d, const char *text)
{
    d->cold_ms = 1;
    fsb_session_store *store = open_store(d);
    fsb_session       *s = create(store, "ann", "a", "");
    append_texts(s, text);
    fsb_session_close(s);
    CHECK_EQ(fsb_session_store_sweep(store, "ann", fsb_session_now_() + 1000000000, NULL), 0);
    return store;
}
#endif

/* One wrong bit in a compressed session, wherever: it is told, or what is read is right. */
static void test_cold_damaged(void)
{
#ifndef FSB_WITH_ZSTD
    SKIP("built without FSB_WITH_ZSTD");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    fsb_session_store     *store = open_with_cold(&d, "the ferry leaves");
    fsb_session           *s;
    char                   file[500], bytes[1000];
    int                    told = 0;
    fsb_session_store_close(store);
    snprintf(file, sizeof file, "%s/ann/a.jsonl.zst", d.path);
    const int     fd = open(file, O_RDWR);
    const ssize_t size = pread(fd, bytes, sizeof bytes, 0);
    CHECK(size > 50 && size < (ssize_t)sizeof bytes);
    for (ssize_t at = 0; at < size; ++at) {
        const char wrong = (char)(bytes[at] ^ 1 << at % 8);
        REQUIRE(pwrite(fd, &wrong, 1, at) == 1);
        store = open_store(&d);
        const int err = fsb_session_open(&s, store, "ann", "a");
        CHECK(err == 0 || err == -EBADMSG);
        told += err != 0;
        if (!err) {
            expect_texts(s, "the ferry leaves");
            fsb_session_close(s);
        }
        fsb_session_store_close(store);
        REQUIRE(pwrite(fd, &bytes[at], 1, at) == 1);
    }
    close(fd);
    CHECK(told > size / 2);
#endif
}

/* Who searches finds what was changed by one that does not, as it is now. */
static void changed_without_search(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "a", "harbour");
    fsb_session_message    m = say("user", "a ferry");
    fsb_session_info       info;
    REQUIRE(s && fsb_session_append(s, &m, 1) == 0 && fsb_session_append(s, &m, 1) == 0);
    CHECK_EQ(hits_for(store, "ferry"), 2);
    fsb_session_close(s);
    fsb_session_store_close(store);
    d.no_search = 1;
    store = open_store(&d);
    REQUIRE(fsb_session_open(&s, store, "ann", "a") == 0);
    m = say("user", "a train"), m.id = 1;
    CHECK_EQ(fsb_session_edit(s, &m), 0);
    CHECK_EQ(fsb_session_erase(s, 2, 2), 0);
    m = say("user", "a bus");
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    memset(&info, 0, sizeof info);
    info.title = "station";
    CHECK_EQ(fsb_session_set(s, &info, FSB_SESSION_TITLE), 0);
    fsb_session_close(s);
    CHECK_EQ(fsb_session_store_repair(store, "ann", NULL), 0);
    fsb_session_store_close(store);
    d.no_search = 0;
    store = open_store(&d);
    CHECK_EQ(hits_for(store, "ferry"), 0);
    CHECK_EQ(hits_for(store, "harbour"), 0);
    CHECK_EQ(hits_for(store, "train"), 1);
    CHECK_EQ(hits_for(store, "bus"), 1);
    CHECK_EQ(hits_for(store, "station"), 1);
    fsb_session_store_close(store);
}
static void test_changed_without_search(void) { BOTH(changed_without_search); }

/* An attachment that was damaged where it lies is whole again once it is attached again. */
static void damaged_blob(int kind)
{
    static const char *const damage[] = {"bytEs", "byte", "bytes and more", ""};
    static const char        hash[] = /* of "bytes" */
        "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9";
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "a", "");
    fsb_session_message    m = say("user", "see this");
    fsb_session_attachment att;
    fsb_session_bytes      blob;
    char                   file[500], sql[100];
    memset(&att, 0, sizeof att);
    att.data = fsb_session_text("bytes"), m.attachments = &att, m.attachment_count = 1;
    REQUIRE(s && fsb_session_append(s, &m, 1) == 0);
    snprintf(file, sizeof file, "%s/ann/.blobs/%s", path, hash);
    for (size_t i = 0; i < sizeof damage / sizeof *damage; ++i) {
        snprintf(sql, sizeof sql, "UPDATE blob SET data=CAST('%s' AS BLOB)", damage[i]);
        if (kind == FSB_SESSION_FILES) write_file(file, damage[i]);
#ifdef FSB_WITH_SQLITE
        else run_sql(sql);
#endif
        CHECK_EQ(fsb_session_blob(store, "ann", hash, &blob), -EBADMSG);
        CHECK_EQ(fsb_session_append(s, &m, 1), 0);
        const int err = fsb_session_blob(store, "ann", hash, &blob);
        CHECK_EQ(err, 0);
        if (err) continue;
        CHECK(same(blob.span, att.data));
        fsb_session_free(blob.block);
    }
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_damaged_blob(void) { BOTH(damaged_blob); }

/* A cold file that a thaw left behind does not come back when a deletion fails half way. */
static void test_delete_half(void)
{
#ifndef FSB_WITH_ZSTD
    SKIP("built without FSB_WITH_ZSTD");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_FILES);
    fsb_session_store     *store = open_with_cold(&d, "abc");
    fsb_session           *s;
    char                   file[500], aside[520];
    snprintf(file, sizeof file, "%s/ann/a.jsonl.zst", d.path);
    snprintf(aside, sizeof aside, "%s.old", file);
    REQUIRE(link(file, aside) == 0 && fsb_session_open(&s, store, "ann", "a") == 0);
    append_texts(s, "d");
    fsb_session_close(s);
    REQUIRE(rename(aside, file) == 0);
    for (int after = 0; after < 2; ++after) {
        fault.call = "unlinkat", fault.after = after, fault.err = EIO;
        CHECK_EQ(fsb_session_delete(store, "ann", "a"), -EIO);
        CHECK(!fault.call);
        REQUIRE(fsb_session_open(&s, store, "ann", "a") == 0);
        expect_texts(s, "abcd"); /* and not as it was when it was cold */
        fsb_session_close(s);
    }
    CHECK_EQ(fsb_session_delete(store, "ann", "a"), 0);
    CHECK_EQ(fsb_session_open(&s, store, "ann", "a"), -ENOENT);
    fsb_session_store_close(store);
#endif
}

#ifdef FSB_WITH_SQLITE
static int test_open(const char *name, int flags, int mode)
{
    return (flags & O_ACCMODE) == O_RDWR && fails("open") ? -1 : open(name, flags, mode);
}
#endif

/* A database that could be opened for reading only, for want of a descriptor, is not kept so. */
static void test_no_descriptor(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without FSB_WITH_SQLITE");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "a", "");
    sqlite3_vfs           *vfs = sqlite3_vfs_find(NULL);
    append_texts(s, "a");
    fsb_session_close(s);
    fsb_session_store_close(store);
    REQUIRE(vfs->xSetSystemCall(vfs, "open", (sqlite3_syscall_ptr)test_open) == SQLITE_OK);
    fault.call = "open", fault.after = 0, fault.err = EMFILE;
    CHECK_EQ(fsb_session_store_open(&store, &d), -EIO);
    CHECK(!fault.call);
    store = open_store(&d);
    REQUIRE(fsb_session_open(&s, store, "ann", "a") == 0);
    append_texts(s, "b"), expect_texts(s, "ab");
    fsb_session_close(s);
    fsb_session_store_close(store);
    CHECK_EQ(vfs->xSetSystemCall(vfs, "open", NULL), SQLITE_OK);
#endif
}

#ifdef FSB_WITH_SQLITE
static ssize_t test_write(int fd, const void *data, size_t size)
{
    return fails("write") ? -1 : write(fd, data, size);
}
static ssize_t test_pwrite(int fd, const void *data, size_t size, off_t at)
{
    return fails("write") ? -1 : pwrite(fd, data, size, at);
}
static void fail_writes(int on) /* of SQLite: it calls one of these */
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    vfs->xSetSystemCall(vfs, "write", on ? (sqlite3_syscall_ptr)test_write : NULL);
    vfs->xSetSystemCall(vfs, "pwrite", on ? (sqlite3_syscall_ptr)test_pwrite : NULL);
    vfs->xSetSystemCall(vfs, "pwrite64", on ? (sqlite3_syscall_ptr)test_pwrite : NULL);
}

/* A repair that fails at any write leaves all that can be found to be found. */
static void repair_fails(fsb_session_store *store)
{
    int reached = 0;
    fail_writes(1);
    for (int done = 0; !done; ++reached) {
        fault.call = "write", fault.after = reached, fault.err = EIO;
        const int err = fsb_session_store_repair(store, "ann", NULL);
        CHECK(err == 0 || err == -EIO);
        done = fault.call != NULL;
        fault.call = NULL;
        CHECK_EQ(hits_of(store, "ferry"), 31);
    }
    CHECK(reached > 3);
    fail_writes(0);
}

/* For want of memory an edit fails, and the next one finds nothing damaged. */
static void edit_fails(fsb_session_store *store)
{
    fsb_session *s = NULL;
    int          err = -ENOMEM, failed = 0;
    for (sqlite3_int64 more = 0; err == -ENOMEM; more += 500) {
        char                text[40];
        fsb_session_message m = say("user", text);
        REQUIRE(fsb_session_open(&s, store, "ann", "a") == 0);
        m.id = 1, m.content.size = (size_t)snprintf(text, sizeof text, "a train %d", (int)more);
        sqlite3_hard_heap_limit64(sqlite3_memory_used() + more);
        err = fsb_session_edit(s, &m);
        sqlite3_hard_heap_limit64(0);
        failed += err == -ENOMEM;
        CHECK(err == 0 || err == -ENOMEM);
        if (err) CHECK_EQ(fsb_session_edit(s, &m), 0);
        fsb_session_close(s);
        CHECK_EQ(hits_of(store, "train"), 1);
        CHECK_EQ(hits_of(store, "ferry"), 30);
    }
    CHECK(failed > 0);
}
#endif

static void test_sqlite_fails(void)
{
#ifndef FSB_WITH_SQLITE
    SKIP("built without SQLite");
#else
    fsb_session_store_desc d = new_desc(FSB_SESSION_SQLITE);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "a", "");
    fsb_session_message    m = say("user", "a ferry");
    for (int i = 0; i < 31; ++i) REQUIRE(s && fsb_session_append(s, &m, 1) == 0);
    CHECK_EQ(hits_of(store, "ferry"), 31);
    fsb_session_close(s);
    repair_fails(store);
    edit_fails(store);
    fsb_session_store_close(store);
#endif
}

static void read_only(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "r", "");
    fsb_session_info       info;
    fsb_session_message    m = say("user", "x");
    REQUIRE(s);
    append_texts(s, "abc");
    CHECK_EQ(hits_for(store, "a"), 1);
    append_texts(s, "a");
    fsb_session_close(s);
    fsb_session_store_close(store);
    d.read_only = 1;
    store = open_store(&d);
    memset(&info, 0, sizeof info);
    info.user = "ann", info.id = "new";
    CHECK_EQ(fsb_session_create(&s, store, &info), -EROFS);
    REQUIRE(fsb_session_open(&s, store, "ann", "r") == 0);
    CHECK_EQ(fsb_session_append(s, &m, 1), -EROFS);
    CHECK_EQ(fsb_session_save(s, &m, 1), -EROFS);
    CHECK_EQ(fsb_session_erase(s, 1, 1), -EROFS);
    CHECK_EQ(fsb_session_set(s, &info, FSB_SESSION_TITLE), -EROFS);
    CHECK_EQ(fsb_session_delete(store, "ann", "r"), -EROFS);
    expect_texts(s, "abca");
    CHECK_EQ(hits_for(store, "a"), 2); /* what came after the index was written, too */
    fsb_session_close(s);
    fsb_session_store_close(store);
}
static void test_read_only(void) { BOTH(read_only); }

/* Where nothing can be written, nor by root, both stores can be read. */
static int reads_frozen(const fsb_session_store_desc *d)
{
    fsb_session_store *store = NULL;
    fsb_session       *s = NULL;
    if (geteuid() == 0 && setuid(65534)) return 77;
    if (access(d->path, R_OK)) return 77; /* $TMPDIR is not for everybody */
    CHECK_EQ(fsb_session_store_open(&store, d), 0);
    if (!store) return 1;
    CHECK_EQ(fsb_session_open(&s, store, "ann", "a"), 0);
    if (s) expect_texts(s, "abc");
    CHECK_EQ(hits_for(store, "b"), 1);
    fsb_session_close(s);
    fsb_session_store_close(store);
    return test_.bad != 0;
}

static void frozen(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    char                   folder[450], command[1000];
    int                    status = -1;
    snprintf(folder, sizeof folder, "%s 100%%?#", path);
    REQUIRE(mkdir(folder, 0755) == 0 && chmod(test_dir(), 0711) == 0);
    strcat(folder, "/s");
    d.path = folder;
    fsb_session_store *store = open_store(&d);
    fsb_session       *s = create(store, "ann", "a", "");
    append_texts(s, "abc");
    CHECK_EQ(hits_for(store, "b"), 1);
    fsb_session_close(s);
    fsb_session_store_close(store);
    snprintf(command, sizeof command, "chmod -R a+rX,a-w '%.*s'", (int)strlen(folder) - 2, folder);
    REQUIRE(system(command) == 0);
    d.read_only = 1;
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) _exit(reads_frozen(&d));
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    snprintf(command, sizeof command, "chmod -R u+w '%.*s'", (int)strlen(folder) - 2, folder);
    CHECK_EQ(system(command), 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no other user can be had");
    CHECK_EQ(status, 0);
}
static void test_frozen(void) { BOTH(frozen); }

/* 100 MB in a message (FSB_SOAK); else a tenth of that. */
static void large_message(int kind)
{
    const size_t           size = getenv("FSB_SOAK") ? 100u << 20 : 10u << 20;
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    fsb_session           *s = create(store, "ann", "l", "");
    fsb_session_messages   all;
    char                  *bytes = (char *)malloc(size + 1);
    REQUIRE(s && bytes);
    for (size_t i = 0; i < size; ++i) bytes[i] = (char)(i * 7 >> 3);
    fsb_session_message m = say("user", "");
    m.content.data = bytes, m.content.size = size;
    CHECK_EQ(fsb_session_append(s, &m, 1), 0);
    append_texts(s, "z");
    REQUIRE(fsb_session_load(s, NULL, &all) == 0);
    CHECK(all.count == 2 && same(all.at[0].content, m.content));
    fsb_session_free(all.block);
    CHECK_EQ(hits_for(store, "z"), 1);
    fsb_session_close(s);
    fsb_session_store_close(store);
    free(bytes);
}
static void test_large_message(void) { BOTH(large_message); }

/* ---- [memory] -------------------------------------------------------------------------------- */
static int use_all(const fsb_session_store_desc *d)
{
    fsb_session_store   *store = NULL;
    fsb_session         *s = NULL, *f = NULL;
    fsb_session_info     info;
    fsb_session_messages all;
    fsb_session_hits     hits;
    fsb_session_query    q;
    fsb_session_bytes    text;
    fsb_session_message  m[2] = {say("user", "one ferry"), say("assistant", "two")};
    memset(&info, 0, sizeof info), memset(&q, 0, sizeof q);
    info.user = "ann", info.id = "o", info.title = "T";
    q.words = "ferry", q.order = FSB_SESSION_BEST;
    int err = fsb_session_store_open(&store, d);
    if (!err) err = fsb_session_create(&s, store, &info);
    if (!err) err = fsb_session_append(s, m, 2);
    if (!err) err = fsb_session_save(s, m, 2);
    if (!err) err = fsb_session_tag(s, "x", 1);
    if (!err && !(err = fsb_session_load(s, NULL, &all))) fsb_session_free(all.block);
    info.id = NULL;
    if (!err && !(err = fsb_session_fork(&f, s, 1, &info))) fsb_session_close(f);
    m[0].id = 1;
    if (!err) err = fsb_session_edit(s, m);
    if (!err && !(err = fsb_session_search(store, "ann", &q, &hits))) fsb_session_free(hits.block);
    if (!err && !(err = fsb_session_export(s, FSB_SESSION_JSON, &text)))
        fsb_session_free(text.block);
    fsb_session_close(s);
    fsb_session_store_close(store);
    return err;
}

/* Every allocation fails once: -ENOMEM or success is the answer, and nothing leaks. */
static void out_of_memory(int kind)
{
    uint64_t k = 1, calls = UINT64_MAX;
    for (; k <= calls && k < 2000; ++k) {
        test_memory            memory = {0};
        fsb_session_store_desc d = new_desc(kind);
        d.allocator.fn = test_memory_fn, d.allocator.user = &memory;
        memory.fail_at = k;
        const int err = use_all(&d);
        CHECK_EQ(memory.live, 0);
        CHECK_EQ(memory.wrong_size, 0);
        if (err && err != -ENOMEM) fprintf(stderr, "allocation %d: %d\n", (int)k, err);
        CHECK(err == 0 || err == -ENOMEM);
        if (!err) calls = memory.calls;
    }
    CHECK(k > 20 && k < 2000);
}
static void test_out_of_memory(void) { BOTH(out_of_memory); }

static void test_seeds(void)
{
    int runs = 0;
    for (size_t i = 0; i < sizeof fuzz_session_seeds / sizeof fuzz_session_seeds[0]; ++i) {
        uint8_t      bytes[600];
        const size_t n = strlen(fuzz_session_seeds[i]);
        memcpy(bytes, fuzz_session_seeds[i], n);
        for (size_t cut = 0; cut <= n; ++cut) runs += LLVMFuzzerTestOneInput(bytes, cut) == 0;
        for (int k = 0; k < 300 && n; ++k) { /* and each a little wrong */
            const size_t  at = (size_t)random_below(n);
            const uint8_t was = bytes[at];
            bytes[at] = (uint8_t)random_below(256);
            runs += LLVMFuzzerTestOneInput(bytes, n) == 0; /* traps on what it finds */
            bytes[at] = was;
        }
    }
    CHECK(runs > 3000);
}

/* ---- [threads] ------------------------------------------------------------------------------- */
enum { THREADS = 4, SAVES = 60 };
typedef struct worker {
    fsb_session_store *store;
    int                number, bad;
} worker;

static void *work(void *arg)
{
    worker          *w = (worker *)arg;
    char             id[16];
    fsb_session     *own = NULL, *common = NULL;
    fsb_session_info info;
    snprintf(id, sizeof id, "own%d", w->number);
    memset(&info, 0, sizeof info);
    info.user = "ann", info.id = id;
    w->bad |= fsb_session_create(&own, w->store, &info) != 0;
    w->bad |= fsb_session_open(&common, w->store, "ann", "common") != 0;
    for (int i = 0; i < SAVES && !w->bad; ++i) {
        fsb_session_message m = say("user", "ferry");
        w->bad |= fsb_session_append(own, &m, 1) != 0;
        w->bad |= fsb_session_append(common, &m, 1) != 0;
        if (i % 20 == 0) w->bad |= hits_for(w->store, "ferry") == 999;
    }
    fsb_session_close(own), fsb_session_close(common);
    return NULL;
}

static void threads(int kind)
{
    fsb_session_store_desc d = new_desc(kind);
    fsb_session_store     *store = open_store(&d);
    pthread_t              thread[THREADS];
    worker                 w[THREADS];
    fsb_session_stat       stat;
    fsb_session_query      q;
    fsb_session_hits       h;
    fsb_session_close(create(store, "ann", "common", ""));
    for (int i = 0; i < THREADS; ++i) {
        w[i].store = store, w[i].number = i, w[i].bad = 0;
        pthread_create(&thread[i], NULL, work, &w[i]);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(thread[i], NULL);
        CHECK_EQ(w[i].bad, 0);
    }
    CHECK_EQ(fsb_session_store_stat(store, "ann", &stat), 0);
    CHECK_EQ(stat.messages, 2 * THREADS * SAVES);
    memset(&q, 0, sizeof q);
    q.words = "ferry", q.limit = 2000;
    REQUIRE(fsb_session_search(store, "ann", &q, &h) == 0);
    CHECK_EQ(h.count, 2 * THREADS * SAVES);
    fsb_session_free(h.block);
    fsb_session_store_close(store);
}
static void test_threads(void) { BOTH(threads); }

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_round_trip);
    TEST(test_save_finds_changes);
    TEST(test_edits);
    TEST(test_two_writers);
    TEST(test_save_many);
    TEST(test_lists);
    TEST(test_searches);
    TEST(test_search_same);
    TEST(test_index_rebuilt);
    TEST(test_branches);
    TEST(test_copy);
    TEST(test_imports);
    TEST(test_quotas);
    TEST(test_sweeps);
    TEST(test_bad_names);
    TEST(test_bad_messages);
    TEST(test_bad_lines);
    TEST(test_databases);
    TEST(test_without_fts5);
    TEST(test_readers_never_wait);
    TEST(test_full_disk);
    TEST(test_full_disk_batch);
    TEST(test_faults);
    TEST(test_stale_index);
    TEST(test_too_large);
    TEST(test_sweep_race);
    TEST(test_sweep_keeps);
    TEST(test_cold_damaged);
    TEST(test_changed_without_search);
    TEST(test_damaged_blob);
    TEST(test_delete_half);
    TEST(test_no_descriptor);
    TEST(test_sqlite_fails);
    TEST(test_read_only);
    TEST(test_frozen);
    TEST(test_large_message);
    TEST(test_out_of_memory);
    TEST(test_seeds);
    TEST(test_threads);
    return test_end("test_session");
}
