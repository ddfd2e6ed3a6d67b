/* test_registry.c - the registry: every call on both stores, bad input, crashes, power loss.

   The long versions (200 kills, a minute of readers, 2,000 power losses) run with FSB_SOAK=1. */
#include "fault.h"
#ifdef FSB_WITH_LMDB
#include <lmdb.h>
#endif

static int test_faccessat(int dir, const char *path, int mode, int flags)
{
    return fails("faccessat") ? -1 : faccessat(dir, path, mode, flags);
}
#define faccessat test_faccessat
#ifdef FSB_WITH_LMDB
static int test_set_mapsize(MDB_env *env, size_t size) /* so much no system maps */
{
    const size_t most = (size_t)1 << (sizeof size * 8 - 4);
    return mdb_env_set_mapsize(env, fails("set_mapsize") ? most : size);
}
#define mdb_env_set_mapsize test_set_mapsize
#endif
#define FSB_REGISTRY_IMPLEMENTATION
#include "fsb_registry.h"
#undef readdir
#undef fstatat
#undef faccessat
#undef unlinkat

#include "fuzz_registry.c"
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "test.h"

#ifdef FSB_WITH_LMDB
static const fsb_registry_kind kinds[] = {FSB_REGISTRY_LMDB, FSB_REGISTRY_FOLDER};
#else
static const fsb_registry_kind kinds[] = {FSB_REGISTRY_FOLDER};
#endif
enum { KINDS = sizeof kinds / sizeof *kinds };

/* A path in the scratch folder that nothing has used. */
static const char *fresh(void)
{
    static char path[4][300];
    static int  n;
    const int   i = n++ % 4;
    snprintf(path[i], sizeof path[i], "%s/r%d", test_dir(), n);
    return path[i];
}

static char last_log[700];
static void keep_log(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)level, (void)item;
    snprintf(last_log, sizeof last_log, "%s", text);
}

static fsb_registry_desc desc_of(const char *path, fsb_registry_kind kind)
{
    fsb_registry_desc d = {0};
    d.path = path, d.kind = kind, d.durability = FSB_REGISTRY_UNSAFE;
    d.log.fn = keep_log;
    return d;
}

static fsb_registry *open_or_die(const fsb_registry_desc *d)
{
    fsb_registry *reg = NULL;
    const int     err = fsb_registry_open(&reg, d);
    if (err) {
        fprintf(stderr, "open %s: %s: %s\n", d->path, strerror(-err), last_log);
        exit(1);
    }
    return reg;
}

static fsb_registry *new_registry(fsb_registry_kind kind)
{
    const fsb_registry_desc d = desc_of(fresh(), kind);
    return open_or_die(&d);
}

static fsb_registry_doc doc_of(const char *id, const char *version, const char *content)
{
    fsb_registry_doc d = {0};
    d.id = id, d.version = version, d.content = content, d.size = strlen(content);
    return d;
}

static int save(fsb_registry *reg, const char *id, const char *version, const char *content)
{
    const fsb_registry_doc d = doc_of(id, version, content);
    return fsb_registry_save(reg, &d, FSB_REGISTRY_NEW);
}

/* The content of the version, "" if it cannot be loaded; valid until the next call. */
static const char *content_of(fsb_registry *reg, const char *id, const char *version)
{
    static char       text[8192];
    fsb_registry_view view;
    text[0] = 0;
    if (fsb_registry_load(reg, id, version, &view) < 0) return text;
    snprintf(text, sizeof text, "%s", (const char *)view.doc.content);
    fsb_registry_release(&view);
    return text;
}

static const char *version_in(fsb_registry *reg, const char *id, const char *range)
{
    static char       text[FSB_REGISTRY_VERSION_MAX + 1];
    fsb_registry_view view;
    const int err = range ? fsb_registry_load_range(reg, id, range, &view)
                          : fsb_registry_load(reg, id, NULL, &view);
    if (err < 0) return err == -ENOENT ? "none" : "error";
    snprintf(text, sizeof text, "%s", view.doc.version);
    fsb_registry_release(&view);
    return text;
}

/* Rows as "id@version id@version ". */
static int add_row(void *user, const fsb_registry_doc *doc)
{
    char *text = user;
    const size_t n = strlen(text);
    snprintf(text + n, 4000 - n, "%s@%s ", doc->id, doc->version);
    return 0;
}
static const char *rows(fsb_registry *reg, fsb_registry_query query)
{
    static char text[4000];
    text[0] = 0;
    if (fsb_registry_each(reg, &query, add_row, text) < 0) return "error";
    return text;
}

/* ---- versions, ranges, hash ---- */

static void test_version_order(void)
{
    static const char *const ascending[] = {
        "", "01.0.0", "1.0", "draft", "v1.0.0", "0.0.1", "0.9.0", "1.0.0-1", "1.0.0-2", "1.0.0-10",
        "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
        "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.0+1", "1.0.0+a", "1.0.1", "1.9.0", "1.10.0",
        "2.0.0", "10.0.0", "99999999999999999999999.0.0"
    };
    const int n = sizeof ascending / sizeof *ascending;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < n; ++j) {
            const int order = fsb_registry_version_compare(ascending[i], ascending[j]);
            if ((order > 0) != (i > j) || (order < 0) != (i < j))
                fprintf(stderr, "%s against %s: %d\n", ascending[i], ascending[j], order);
            CHECK((order > 0) == (i > j) && (order < 0) == (i < j));
        }
}

static void test_ranges(void)
{
    static const struct { const char *range, *in, *out; } cases[] = {
        {"^1.2", "1.2.0 1.9.9", "1.1.9 2.0.0 2.0.0-rc.1 1.3.0-rc.1"},
        {"^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"},
        {"^0.0.3", "0.0.3", "0.0.4 0.0.2"},
        {"^0.0", "0.0.9", "0.1.0"},
        {"^0", "0.9.9", "1.0.0"},
        {"~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"},
        {"~1", "1.9.9", "2.0.0"},
        {">=1.0 <2", "1.0.0 1.99.0", "0.9.9 2.0.0 2.0.0-beta"},
        {">1.2", "1.3.0", "1.2.9 1.2.0"},
        {"<=1.2", "1.2.9 0.1.0", "1.3.0"},
        {">1.2.3", "1.2.4", "1.2.3"},
        {"<1.2.3", "1.2.2", "1.2.3"},
        {"1.x", "1.0.0 1.9.0", "2.0.0 1.0.0-a"},
        {"1.2.*", "1.2.9", "1.3.0"},
        {"*", "0.0.1 9.9.9", "1.0.0-rc.1 draft"},
        {"", "1.0.0", "1.0.0-rc.1"},
        {"1.2.3", "1.2.3 1.2.3+build.5", "1.2.4"},
        {"=1.2", "1.2.7", "1.3.0"},
        {"1.0.0 || ^3", "1.0.0 3.1.0", "2.0.0"},
        {">=1.0.0-beta <2", "1.0.0-beta 1.0.0-rc.1 1.5.0", "1.0.0-alpha 1.1.0-beta"},
        {">= 1.0, < 2", "1.5.0", "2.1.0"},
        {"1.2 - 2.3.4", "1.2.0 2.3.4", "1.1.9 2.3.5 2.0.0-rc.1"},
        {"1.2.3-rc.1 - 2 || 5", "1.2.3-rc.1 2.9.9 5.1.0", "1.2.3-beta 3.0.0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i)
        for (int want = 0; want < 2; ++want) {
            char text[200], *save_, *v;
            snprintf(text, sizeof text, "%s", want ? cases[i].in : cases[i].out);
            for (v = strtok_r(text, " ", &save_); v; v = strtok_r(NULL, " ", &save_)) {
                const int is = fsb_registry_version_match(v, cases[i].range);
                if (is != want) fprintf(stderr, "%s in %s: %d\n", v, cases[i].range, is);
                CHECK_EQ(is, want);
            }
        }
    static const char *const wrong[] = {"^", "1.2.3.4", ">>1", "a", "1.x.2", "01.2.3", "^1.2-", "|",
                                        "1 - ", "1 -2", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        CHECK_EQ(fsb_registry_version_match("1.0.0", wrong[i]), -EINVAL);
}

static void test_bump(void)
{
    char out[FSB_REGISTRY_VERSION_MAX + 1];
    static const struct { const char *from; fsb_registry_part part; const char *to; } cases[] = {
        {"1.2.3", FSB_REGISTRY_MAJOR, "2.0.0"}, {"1.2.3", FSB_REGISTRY_MINOR, "1.3.0"},
        {"1.2.3", FSB_REGISTRY_PATCH, "1.2.4"}, {"2.0.0-rc.1", FSB_REGISTRY_MAJOR, "2.0.0"},
        {"1.2.3-rc.1+b", FSB_REGISTRY_PATCH, "1.2.3"}, {"1.2.3-rc", FSB_REGISTRY_MAJOR, "2.0.0"}
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        CHECK_EQ(fsb_registry_version_bump(cases[i].from, cases[i].part, out), 0);
        CHECK_STR(out, cases[i].to);
    }
    CHECK_EQ(fsb_registry_version_bump("draft", FSB_REGISTRY_MAJOR, out), -EINVAL);
    CHECK_EQ(fsb_registry_version_bump("", FSB_REGISTRY_MAJOR, out), -EINVAL);
}

/* The official BLAKE3 vectors: input byte i is i % 251. */
static void test_hash(void)
{
    static const struct { size_t size; const char *hex; } vectors[] = {
        {0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
        {1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"},
        {1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"},
        {1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"},
        {2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"},
        {31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"},
        {102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"}
    };
    fsb_registry *reg = new_registry(kinds[0]);
    uint8_t      *data = malloc(102400);
    for (size_t i = 0; i < 102400; ++i) data[i] = (uint8_t)(i % 251);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; ++i) {
        fsb_registry_view view;
        char              hex[65];
        fsb_registry_doc  d = doc_of("vector", "1.0.0", "");
        d.content = data, d.size = vectors[i].size;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_REPLACE), 0);
        REQUIRE(fsb_registry_load(reg, "vector", NULL, &view) == 0);
        for (int j = 0; j < 32; ++j) snprintf(hex + 2 * j, 3, "%02x", view.doc.hash[j]);
        CHECK_STR(hex, vectors[i].hex);
        fsb_registry_release(&view);
    }
    free(data);
    fsb_registry_close(reg);
}

/* ---- every call, on both stores ---- */

static void basics(fsb_registry_kind kind)
{
    fsb_registry     *reg = new_registry(kind);
    fsb_registry_view view;
    fsb_registry_doc  d = doc_of("prompts/welcome", "1.2.0", "Hello");
    d.description = "Greets: \"a user\"", d.content_type = "text/markdown";
    d.tags = "prompt\0a, b\0", d.fields = "author=ann\0odd key:=x=y\nz\0empty=\0";
    CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), 0);
    CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -EEXIST);
    char text[600];
    fsb_registry_errmsg(reg, text, sizeof text);
    CHECK(strstr(text, "prompts/welcome 1.2.0: is there already"));
    REQUIRE(fsb_registry_load(reg, "prompts/welcome", "1.2.0", &view) == 0);
    CHECK_STR(view.doc.id, "prompts/welcome");
    CHECK_STR(view.doc.version, "1.2.0");
    CHECK_STR(view.doc.description, d.description);
    CHECK_STR(view.doc.content_type, "text/markdown");
    CHECK(fsb_registry_has_tag(&view.doc, "a, b") && !fsb_registry_has_tag(&view.doc, "a"));
    CHECK_STR(fsb_registry_field(&view.doc, "author"), "ann");
    CHECK_STR(fsb_registry_field(&view.doc, "odd key:"), "x=y\nz");
    CHECK_STR(fsb_registry_field(&view.doc, "empty"), "");
    CHECK(!fsb_registry_field(&view.doc, "auth"));
    CHECK_EQ(view.doc.size, 5);
    CHECK_STR((const char *)view.doc.content, "Hello");
    CHECK(view.doc.created_ns > 0 && view.doc.created_ns == view.doc.updated_ns);
    const int64_t  created = view.doc.created_ns;
    const uint64_t change = view.doc.change;
    CHECK_EQ(fsb_registry_detach(&view), 0);
    usleep(20000); /* the grain of a file's time */
    fsb_registry_doc again = view.doc; /* replace what was loaded, and only that */
    again.content = "Goodbye", again.size = 7, again.created_ns = again.updated_ns = 0;
    CHECK_EQ(fsb_registry_save(reg, &again, FSB_REGISTRY_SWAP), 0);
    usleep(20000);
    CHECK_EQ(fsb_registry_save(reg, &again, FSB_REGISTRY_SWAP), -ESTALE);
    CHECK_STR((const char *)view.doc.content, "Hello"); /* the copy is ours */
    again.version = "9.9.9";
    CHECK_EQ(fsb_registry_save(reg, &again, FSB_REGISTRY_SWAP), -ENOENT);
    fsb_registry_release(&view);
    fsb_registry_release(&view);
    REQUIRE(fsb_registry_load(reg, "prompts/welcome", NULL, &view) == 0);
    CHECK_STR((const char *)view.doc.content, "Goodbye");
    CHECK(view.doc.created_ns == created && view.doc.updated_ns > created);
    CHECK(view.doc.change > change);
    fsb_registry_release(&view);
    d.version = "1.3.0";
    CHECK_EQ(fsb_registry_save_if(reg, &d, "1.1.0", FSB_REGISTRY_NEW), -ESTALE);
    CHECK_EQ(fsb_registry_save_if(reg, &d, "", FSB_REGISTRY_NEW), -ESTALE);
    CHECK_EQ(fsb_registry_save_if(reg, &d, "1.2.0", FSB_REGISTRY_NEW), 0);
    d.id = "new", d.version = "1.0.0";
    CHECK_EQ(fsb_registry_save_if(reg, &d, "", FSB_REGISTRY_NEW), 0);
    CHECK_EQ(fsb_registry_load(reg, "nobody", NULL, &view), -ENOENT);
    CHECK_EQ(fsb_registry_load(reg, "new", "1.0.1", &view), -ENOENT);
    CHECK_EQ(fsb_registry_load(reg, "new/1.0.0", NULL, &view), -ENOENT);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
}
static void test_basics(void)
{
    for (int k = 0; k < KINDS; ++k) basics(kinds[k]);
}

static void test_latest_and_ranges(void)
{
    static const char *const versions[] = {"1.9.0", "1.10.0", "2.0.0-rc.1", "2.0.0-rc.2", "draft",
                                           "1.2.3", "2.1.0-alpha", "1.10.0+build.2"};
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry *reg = new_registry(kinds[k]);
        save(reg, "pre", "1.0.0-alpha", ""), save(reg, "pre", "1.0.0-beta", "");
        save(reg, "pre", "notes", "");
        save(reg, "text", "b", ""), save(reg, "text", "a", "");
        for (size_t i = 0; i < sizeof versions / sizeof *versions; ++i)
            CHECK_EQ(save(reg, "app", versions[i], versions[i]), 0);
        CHECK_STR(version_in(reg, "app", NULL), "1.10.0+build.2");
        CHECK_STR(version_in(reg, "pre", NULL), "1.0.0-beta");
        CHECK_STR(version_in(reg, "text", NULL), "b");
        CHECK_STR(version_in(reg, "app", "<1.10"), "1.9.0");
        CHECK_STR(version_in(reg, "app", "^1.2.3 <1.9.0"), "1.2.3");
        CHECK_STR(version_in(reg, "app", ">=2"), "none");
        CHECK_STR(version_in(reg, "app", ">=2.0.0-rc.1"), "2.0.0-rc.2");
        CHECK_STR(version_in(reg, "app", "<=2.0.0-rc.1"), "2.0.0-rc.1");
        CHECK_STR(version_in(reg, "app", "1.2.3 || <1.9.5"), "1.9.0");
        CHECK_STR(version_in(reg, "app", "nonsense"), "error");
        CHECK_STR(rows(reg, (fsb_registry_query){.id = "app"}),
                  "app@2.1.0-alpha app@2.0.0-rc.2 app@2.0.0-rc.1 app@1.10.0+build.2 app@1.10.0 "
                  "app@1.9.0 app@1.2.3 app@draft ");
        CHECK_STR(rows(reg, (fsb_registry_query){.latest = 1}),
                  "app@1.10.0+build.2 pre@1.0.0-beta text@b ");
        CHECK_STR(rows(reg, (fsb_registry_query){.latest = 1, .range = ">=2.0.0-rc.1"}),
                  "app@2.0.0-rc.2 ");
        fsb_registry_close(reg);
    }
}

static void test_find(void)
{
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry_desc d = desc_of(fresh(), kinds[k]);
        d.indexed = "author\0", d.shards = kinds[k] == FSB_REGISTRY_LMDB ? 5 : 0;
        fsb_registry *reg = open_or_die(&d);
        static const char *const ids[] = {"b/2", "a", "b/1", "b", "c", "b/10"};
        for (int i = 0; i < 6; ++i) {
            fsb_registry_doc doc = doc_of(ids[i], "1.0.0", "");
            doc.tags   = i % 2 ? "odd\0all\0" : "even\0all\0";
            doc.fields = i % 3 ? "author=ann\0size=1\0" : "author=bob\0size=2\0";
            CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), 0);
        }
        CHECK_STR(rows(reg, (fsb_registry_query){0}),
                  "a@1.0.0 b@1.0.0 b/1@1.0.0 b/10@1.0.0 b/2@1.0.0 c@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.prefix = "b/"}),
                  "b/1@1.0.0 b/10@1.0.0 b/2@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "odd"}), "a@1.0.0 b@1.0.0 b/10@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "od"}), "");
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "all", .prefix = "b/1"}),
                  "b/1@1.0.0 b/10@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=bob"}), "b@1.0.0 b/2@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.field = "size=2"}), "b@1.0.0 b/2@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=bob", .tag = "odd"}),
                  "b@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.id = "b/1", .tag = "odd"}), "");
        const fsb_registry_query all = {0};
        CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 6);
        /* a tag that goes leaves the index, one that comes is found, old versions too */
        fsb_registry_doc doc = doc_of("a", "1.0.0", "");
        doc.tags = "new\0";
        CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "odd"}), "b@1.0.0 b/10@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "new"}), "a@1.0.0 ");
        CHECK_EQ(fsb_registry_delete(reg, "b", NULL), 1);
        CHECK_STR(rows(reg, (fsb_registry_query){.tag = "odd"}), "b/10@1.0.0 ");
        CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        fsb_registry_close(reg);
        if (kinds[k] != FSB_REGISTRY_LMDB) continue;
        d.indexed = "size\0", d.shards = 0; /* the index is made again */
        reg = open_or_die(&d);
        CHECK_STR(rows(reg, (fsb_registry_query){.field = "size=2"}), "b/2@1.0.0 ");
        CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=bob"}), "b/2@1.0.0 ");
        CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        fsb_registry_close(reg);
    }
}

static int stop_at_two(void *user, const fsb_registry_doc *doc)
{
    (void)doc;
    return ++*(int *)user == 2;
}
static int refuse(void *user, const fsb_registry_doc *doc)
{
    (void)user, (void)doc;
    return -ECANCELED;
}

static void test_counts_and_delete(void)
{
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry      *reg = new_registry(kinds[k]);
        fsb_registry_stats st;
        char               version[20];
        for (int i = 0; i < 30; ++i) {
            snprintf(version, sizeof version, "1.%d.0", i / 3);
            CHECK_EQ(save(reg, i % 3 ? i % 3 == 1 ? "x" : "y/z" : "y", version, "12345"), 0);
        }
        CHECK_EQ(fsb_registry_stat(reg, &st), 0);
        CHECK(st.ids == 3 && st.versions == 30 && st.content_bytes == 150);
        CHECK(st.file_bytes > 0 && st.kind == kinds[k] && st.views == 0);
        CHECK_EQ(fsb_registry_delete(reg, "x", "1.4.0"), 1);
        CHECK_EQ(fsb_registry_delete(reg, "x", "1.4.0"), -ENOENT);
        CHECK_EQ(fsb_registry_delete(reg, "y", NULL), 10);
        CHECK_EQ(fsb_registry_delete(reg, "y", NULL), -ENOENT);
        CHECK_EQ(fsb_registry_stat(reg, &st), 0);
        CHECK(st.ids == 2 && st.versions == 19 && st.content_bytes == 95);
        int calls = 0;
        const fsb_registry_query all = {0};
        CHECK_EQ(fsb_registry_each(reg, &all, stop_at_two, &calls), 2);
        CHECK_EQ(calls, 2);
        CHECK_EQ(fsb_registry_each(reg, &all, refuse, NULL), -ECANCELED);
        CHECK_EQ(save(reg, "drafts", "1.0.0-a", "") + save(reg, "drafts2", "1.0.0-a", ""), 0);
        const fsb_registry_query latest = {.latest = 1}; /* what is held back can end it too */
        calls = -1;
        CHECK_EQ(fsb_registry_each(reg, &latest, stop_at_two, &calls), 3);
        calls = 1;
        const fsb_registry_query drafts = {.latest = 1, .prefix = "drafts"};
        CHECK_EQ(fsb_registry_each(reg, &drafts, stop_at_two, &calls), 1);
        CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        fsb_registry_close(reg);
    }
}

static void test_batch(void)
{
    for (int k = 0; k < KINDS; ++k) {
        for (uint32_t shards = 1; shards < 4; shards += 2) {
            fsb_registry_desc d = desc_of(fresh(), kinds[k]);
            if (kinds[k] == FSB_REGISTRY_LMDB) d.shards = shards;
            fsb_registry    *reg = open_or_die(&d);
            fsb_registry_doc docs[300];
            char             ids[300][16];
            for (int i = 0; i < 300; ++i) {
                snprintf(ids[i], sizeof ids[i], "doc-%03d", i);
                docs[i] = doc_of(ids[i], "1.0.0", ids[i]);
            }
            CHECK_EQ(fsb_registry_save_batch(reg, docs, 0, FSB_REGISTRY_NEW), 0);
            CHECK_EQ(fsb_registry_save_batch(reg, docs, 300, FSB_REGISTRY_NEW), 0);
            const fsb_registry_query all = {0};
            CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 300);
            CHECK_STR(content_of(reg, "doc-123", NULL), "doc-123");
            if (shards == 1) { /* one that is refused takes the others with it */
                for (int i = 0; i < 300; ++i) docs[i].version = i == 200 ? "1.0.0" : "2.0.0";
                CHECK_EQ(fsb_registry_save_batch(reg, docs, 300, FSB_REGISTRY_NEW), -EEXIST);
                char text[200];
                fsb_registry_errmsg(reg, text, sizeof text);
                CHECK(strstr(text, "doc-200 1.0.0"));
                CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 300);
            }
            CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
            fsb_registry_close(reg);
        }
    }
}

/* ---- ids and versions of every shape ---- */

static void test_odd_ids(void)
{
    static char big[FSB_REGISTRY_ID_MAX + 2], twin[FSB_REGISTRY_ID_MAX + 2];
    memset(big, 'x', FSB_REGISTRY_ID_MAX);
    memset(twin, 'x', FSB_REGISTRY_ID_MAX);
    twin[FSB_REGISTRY_ID_MAX - 1] = 'y';
    char inline_[160], hashed[161], every[256], slashes[700];
    memset(inline_, 'i', 159), inline_[159] = 0;
    memset(hashed, 'i', 160), hashed[160] = 0;
    for (int i = 1; i < 256; ++i) every[i - 1] = (char)i;
    every[255] = 0;
    slashes[0] = 0;
    for (int i = 0; i < 130; ++i) strcat(slashes, "dir/");
    const char *const ids[] = {"a", "a/b", "a//b", "/a", "a/", ".git/config", "..", "../../etc",
                               "x.md", "a/x.md/b", "%41", "a%2Fb", "%~", "sp ace",
                               "\xc3\xa9t\xc3\xa9",
                               "\xff\xfe", "new\nline", "tab\t\"q\"", big, twin, inline_, hashed,
                               every, slashes, "con:*?<>|"};
    const char *const versions[] = {"1.0.0", "../v", ".", "a/b", "x.md", "\n", "\xff",
                                    "1.0.0-a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a."
                                    "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a."
                                    "a.a.a.a"};
    const int n = sizeof ids / sizeof *ids, m = sizeof versions / sizeof *versions;
    CHECK_EQ(strlen(versions[7]), FSB_REGISTRY_VERSION_MAX);
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry *reg = new_registry(kinds[k]);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < m; ++j) {
                const int err = save(reg, ids[i], versions[j], ids[i]);
                if (err) fprintf(stderr, "%d: %.30s %.30s: %d\n", k, ids[i], versions[j], err);
                CHECK_EQ(err, 0);
            }
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < m; ++j) CHECK_STR(content_of(reg, ids[i], versions[j]), ids[i]);
            CHECK_STR(version_in(reg, ids[i], NULL), "1.0.0");
            const fsb_registry_query q = {.id = ids[i]};
            CHECK_EQ(fsb_registry_each(reg, &q, NULL, NULL), m);
        }
        const fsb_registry_query all = {0}, latest = {.latest = 1}, longest = {.prefix = twin};
        CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), n * m);
        CHECK_EQ(fsb_registry_each(reg, &latest, NULL, NULL), n);
        CHECK_EQ(fsb_registry_each(reg, &longest, NULL, NULL), m);
        char long_tag[400];
        memset(long_tag, 't', sizeof long_tag);
        long_tag[398] = long_tag[399] = 0;
        fsb_registry_doc d = doc_of(big, versions[7], "");
        d.tags = long_tag;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_REPLACE), 0);
        const fsb_registry_query tagged = {.tag = long_tag};
        CHECK_EQ(fsb_registry_each(reg, &tagged, NULL, NULL), 1);
        CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        for (int i = 0; i < n; ++i) CHECK_EQ(fsb_registry_delete(reg, ids[i], NULL), m);
        CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 0);
        CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        fsb_registry_close(reg);
    }
}

static void test_bad_input(void)
{
    static char      huge[FSB_REGISTRY_ID_MAX + 2], *many = NULL;
    static char      version[FSB_REGISTRY_VERSION_MAX + 2];
    fsb_registry_view view;
    char             text[600];
    memset(huge, 'x', FSB_REGISTRY_ID_MAX + 1);
    memset(version, 'v', FSB_REGISTRY_VERSION_MAX + 1);
    many = calloc(1, FSB_REGISTRY_TEXT_MAX + 2);
    memset(many, 'd', FSB_REGISTRY_TEXT_MAX);
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry *reg = new_registry(kinds[k]);
        CHECK_EQ(save(reg, "", "1.0.0", ""), -EINVAL);
        CHECK_EQ(save(reg, "a", "", ""), -EINVAL);
        CHECK_EQ(save(reg, huge, "1.0.0", ""), -ENAMETOOLONG);
        CHECK_EQ(save(reg, "a", version, ""), -ENAMETOOLONG);
        fsb_registry_errmsg(reg, text, sizeof text);
        CHECK(strstr(text, "version 127"));
        CHECK_EQ(fsb_registry_load(reg, huge, NULL, &view), -ENAMETOOLONG);
        CHECK_EQ(fsb_registry_load(reg, "", NULL, &view), -EINVAL);
        CHECK_EQ(fsb_registry_load(reg, "a", version, &view), -ENAMETOOLONG);
        CHECK_EQ(fsb_registry_delete(reg, "a", version), -ENAMETOOLONG);
        CHECK_EQ(fsb_registry_load_range(reg, "a", "1..2", &view), -EINVAL);
        fsb_registry_errmsg(reg, text, sizeof text);
        CHECK(strstr(text, "not a range: 1..2"));
        fsb_registry_doc d = doc_of("a", "1.0.0", "");
        d.fields = "novalue\0";
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -EINVAL);
        d.fields = "a=1\0b=2\0a=3\0";
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -EINVAL);
        d.fields = NULL, d.description = many;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -E2BIG);
        static char tags[FSB_REGISTRY_LIST_MAX * 2 + 4];
        memset(tags, 0, sizeof tags);
        for (int i = 0; i < FSB_REGISTRY_LIST_MAX; ++i) tags[2 * i] = 't';
        d.description = NULL, d.tags = tags;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), 0);
        CHECK_EQ(fsb_registry_delete(reg, "a", NULL), 1);
        tags[2 * FSB_REGISTRY_LIST_MAX] = 't';
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -E2BIG);
        d.tags = NULL, d.content = many, d.size = FSB_REGISTRY_CONTENT_MAX + 1;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), -EMSGSIZE);
        const fsb_registry_query all = {0};
        CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 0);
        fsb_registry_close(reg);
    }
    free(many);
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_FOLDER);
    fsb_registry     *reg = open_or_die(&d);
    fsb_registry_close(reg);
    d.kind = FSB_REGISTRY_AUTO, d.must_exist = 1; /* an empty folder stays a folder */
    reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", ""), 0);
    fsb_registry_close(reg);
    reg = NULL, d = desc_of(fresh(), FSB_REGISTRY_AUTO);
    d.must_exist = 1;
    CHECK_EQ(fsb_registry_open(&reg, &d), -ENOENT);
    d.must_exist = 0, d.shards = 65;
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
    d.shards = 0, d.zstd_level = 99;
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
    CHECK(!reg);
}

static void test_large_content(void)
{
    uint8_t *data = malloc(FSB_REGISTRY_CONTENT_MAX);
    for (size_t i = 0; i < FSB_REGISTRY_CONTENT_MAX; ++i) data[i] = (uint8_t)(i * i >> 7);
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry     *reg = new_registry(kinds[k]);
        fsb_registry_view view;
        fsb_registry_doc  d = doc_of("big", "1.0.0", "");
        d.content = data, d.size = FSB_REGISTRY_CONTENT_MAX;
        CHECK_EQ(fsb_registry_save(reg, &d, FSB_REGISTRY_NEW), 0);
        REQUIRE(fsb_registry_load(reg, "big", NULL, &view) == 0);
        CHECK_EQ(view.doc.size, FSB_REGISTRY_CONTENT_MAX);
        CHECK(!memcmp(view.doc.content, data, FSB_REGISTRY_CONTENT_MAX));
        fsb_registry_release(&view);
        fsb_registry_close(reg);
    }
    free(data);
}

/* ---- the folder's files ---- */

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (char *s = path + strlen(dir) + 1; (s = strchr(s, '/')); *s++ = '/') {
        *s = 0;
        mkdir(path, 0777);
    }
    FILE *f = fopen(path, "w");
    if (!f) exit(1);
    fputs(text, f);
    fclose(f);
}

static void test_folder_by_hand(void)
{
    const char *dir = fresh();
    mkdir(dir, 0777);
    write_text(dir, "README.md", "not a document");
    write_text(dir, "greet/note.txt", "neither");
    write_text(dir, "greet/.hidden.md", "neither");
    write_text(dir, "greet/1.0.0.md",
               "---\r\ndescription: Says hello\ntype: \"text/plain\"\n\ntags: [ a, \"b, c\" ]\n"
               "created: 2026-11-21T02:11:34.5Z\nfields:\n  author: ann lee\n"
               "  \"k e y\": \"\\u00e9\\n\"\n---\nHello\n---\nagain");
    fsb_registry_desc d = desc_of(dir, FSB_REGISTRY_AUTO);
    fsb_registry     *reg = open_or_die(&d);
    fsb_registry_view view;
    REQUIRE(fsb_registry_load(reg, "greet", NULL, &view) == 0);
    CHECK_STR(view.doc.description, "Says hello");
    CHECK_STR(view.doc.content_type, "text/plain");
    CHECK(fsb_registry_has_tag(&view.doc, "a") && fsb_registry_has_tag(&view.doc, "b, c"));
    CHECK_STR(fsb_registry_field(&view.doc, "author"), "ann lee");
    CHECK_STR(fsb_registry_field(&view.doc, "k e y"), "\xc3\xa9\n");
    CHECK_EQ(view.doc.created_ns % 1000000000, 500000000);
    CHECK_STR((const char *)view.doc.content, "Hello\n---\nagain");
    fsb_registry_release(&view);
    const fsb_registry_query all = {0};
    CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), 1);
    fsb_registry_close(reg);
}

static void count_bad(void *user, const char *what, int error, const char *text)
{
    (void)error, (void)what, (void)text;
    ++*(int *)user;
}

/* Of every year that is allowed, in both stores, the nanosecond comes back. */
static void test_times(void)
{
    static const int64_t times[] = {1, -1, -1000000000, -62167, 4102444800 * 1000000000,
                                    -9214560000 * 1000000000, 9214646399 * 1000000000 + 999999999};
    static const struct { const char *text; int good; } texts[] = {
        {"1969-12-31T23:59:59.999999999Z", 1}, {"2028-02-29T00:00:00Z", 1},
        {"2026-02-29T00:00:00Z", 0}, {"2026-11-31T00:00:00Z", 0}, {" 026-01-01T00:00:00Z", 0},
        {"2026-01-01T+1:00:00Z", 0}, {"2026-01-01T00:00:00", 0}, {"2262-01-01T00:00:00Z", 0}
    };
    int64_t ns;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i)
        CHECK_EQ(fsb_registry_time_get_(texts[i].text, &ns), texts[i].good);
    for (int folder = 0; folder < 2; ++folder) {
        fsb_registry *reg = new_registry(folder ? FSB_REGISTRY_FOLDER : FSB_REGISTRY_AUTO);
        fsb_registry_doc doc = doc_of("a", "1.0.0", "x");
        for (size_t i = 0; i < sizeof times / sizeof *times; ++i) {
            fsb_registry_view view;
            doc.created_ns = doc.updated_ns = times[i];
            CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
            REQUIRE(fsb_registry_load(reg, "a", NULL, &view) == 0);
            CHECK_EQ(view.doc.created_ns, times[i]);
            CHECK_EQ(view.doc.updated_ns, times[i]);
            fsb_registry_release(&view);
        }
        doc.created_ns = INT64_MAX;
        CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), -EINVAL);
        fsb_registry_close(reg);
    }
}

static int count_files(const char *dir, const char *pattern)
{
    char  command[600];
    int   n = -1;
    snprintf(command, sizeof command, "find '%s' -name '%s' | wc -l", dir, pattern);
    FILE *f = popen(command, "r");
    if (f && fscanf(f, "%d", &n) != 1) n = -1;
    if (f) pclose(f);
    return n;
}

/* A batch into a folder comes whole or not at all, leaves nothing aside, and makes no folder where
   it is refused; a file that a killed one left aside is in nobody's way. */
static void test_folder_batch(void)
{
    for (int level = 0; level < 2; ++level) {
        fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_FOLDER);
        d.durability = level ? FSB_REGISTRY_UNSAFE : FSB_REGISTRY_DURABLE;
        fsb_registry    *reg = open_or_die(&d);
        fsb_registry_doc docs[5];
        char             left[60];
        for (int i = 0; i < 5; ++i) {
            static const char *const ids[] = {"a", "b/c", "b/d", "a", "e"};
            docs[i] = doc_of(ids[i], i == 3 ? "2.0.0" : "1.0.0", ids[i]);
        }
        CHECK_EQ(save(reg, "e", "1.0.0", "before"), 0);
        CHECK_EQ(fsb_registry_save_batch(reg, docs, 5, FSB_REGISTRY_NEW), -EEXIST);
        CHECK_EQ(count_files(d.path, "*.md"), 1);
        CHECK_EQ(count_files(d.path, "b"), 0);
        snprintf(left, sizeof left, "a/.new-%ld-0", (long)getpid());
        write_text(d.path, left, "half of somethi");
        CHECK_EQ(fsb_registry_save_batch(reg, docs, 5, FSB_REGISTRY_REPLACE), 0);
        CHECK_EQ(count_files(d.path, "*.md"), 5);
        CHECK_EQ(count_files(d.path, ".new*"), 0);
        CHECK_STR(content_of(reg, "e", NULL), "e");
        CHECK_STR(version_in(reg, "a", NULL), "2.0.0");
        fsb_registry_close(reg);
    }
}

static void test_folder_front_matter(void)
{
    static const struct { const char *text, *why; } cases[] = {
        {"Hello", "line 1: the front matter does not end"},
        {"Hello\n", "line 1: the front matter must begin with ---"},
        {"---\ndescription: x\n", "line 3: the front matter does not end"},
        {"---\nauthor: x\n---\n", "line 2: unknown key"},
        {"---\ntype: a\ntype: b\n---\n", "line 3: this key is there twice"},
        {"---\ntype a\n---\n", "line 2: expected \"key: value\""},
        {"---\ntags: a\n---\n", "line 2: tags must be [a, b]"},
        {"---\ntags: [a\n---\n", "line 2: tags must be [a, b]"},
        {"---\ntags: [a, , b]\n---\n", "line 2: an empty tag"},
        {"---\ndescription: \"x\n---\n", "line 2: a string that does not end"},
        {"---\ndescription: \"\\q\"\n---\n", "line 2: a string that does not end"},
        {"---\ndescription: a: b\n---\n", "line 2: put this value in double quotes"},
        {"---\ndescription: 'x'\n---\n", "line 2: put this value in double quotes"},
        {"---\n  stray: x\n---\n", "line 2: unexpected spaces"},
        {"---\nfields:\n  a: 1\n\n  b\n---\n", "line 5: expected"},
        {"---\nfields:\n  a: 1\ntype: x\n  b: 2\n---\n", "line 5: unexpected spaces"},
        {"---\nfields:\n  a: 1\n  a: 2\n---\n", "line 4: this field is there twice"},
        {"---\nfields: x\n---\n", "line 2: fields stand on lines"},
        {"---\nfields:\n  a 1\n---\n", "line 3: expected"},
        {"---\ncreated: yesterday\n---\n", "line 2: a time must be"},
        {"---\nversion: 2.0.0\n---\n", "line 3: id or version is not what the file's name"},
        {"---\ndescription: \"a\" b\n---\n", "line 2: text after the string"},
    };
    const char *dir = fresh();
    mkdir(dir, 0777);
    fsb_registry_desc d = desc_of(dir, FSB_REGISTRY_FOLDER);
    fsb_registry     *reg = open_or_die(&d);
    const int         n = sizeof cases / sizeof *cases;
    for (int i = 0; i < n; ++i) {
        char              name[40], text[600];
        fsb_registry_view view;
        snprintf(name, sizeof name, "doc%02d/1.0.0.md", i);
        write_text(dir, name, cases[i].text);
        snprintf(name, sizeof name, "doc%02d", i);
        CHECK_EQ(fsb_registry_load(reg, name, NULL, &view), -EBADMSG);
        fsb_registry_errmsg(reg, text, sizeof text);
        if (!strstr(text, cases[i].why) || !strstr(text, name))
            fprintf(stderr, "case %d: \"%s\" lacks \"%s\"\n", i, text, cases[i].why);
        CHECK(strstr(text, cases[i].why) && strstr(text, name));
    }
    write_text(dir, "doc99/%31.0.0.md", "---\n---\n"); /* not how 1.0.0 is written */
    int bad = 0;
    CHECK_EQ(fsb_registry_verify(reg, count_bad, &bad), n + 1);
    CHECK_EQ(bad, n + 1);
    const fsb_registry_query all = {0};
    CHECK_EQ(fsb_registry_each(reg, &all, NULL, NULL), -EBADMSG);
    fsb_registry_close(reg);
}

/* ---- templates ---- */

static void test_render(void)
{
    fsb_registry    *reg = new_registry(kinds[0]);
    fsb_registry_doc d = doc_of("t", "1.0.0", "");
    d.fields = "input.name=string\0input.n=number = 3\0input.on=boolean = true\0"
               "input.items=list = [1, \"two\", {\"k\": [true]}]\0input.user=object = {}\0"
               "input.note=string = \"a \\\"b\\\" <c>\"\0author=ann\0";
    static const struct { const char *text, *inputs, *want; int err; } cases[] = {
        {"Hi {{name}}, {{ n }} {{ on }}", "name=Bob\0", "Hi Bob, 3 true", 0},
        {"{{ name }}", "name={{ n }}\0", "{{ n }}", 0},
        {"{{ note }}|{{ note | json }}|{{ note | html }}", "name=\0",
         "a \"b\" <c>|\"a \\\"b\\\" <c>\"|a &quot;b&quot; &lt;c&gt;", 0},
        {"{{ name | json }}", "name=a\"b\nc\0", "\"a\\\"b\\u000ac\"", 0},
        {"{{ name | html }}", "name=<'&\0", "&lt;&#39;&amp;", 0},
        {"{{ items }} {{ items.1 }} {{ items.2.k.0 }}", "name=\0",
         "[1, \"two\", {\"k\": [true]}] two true", 0},
        {"{{ user.first }}", "name=\0user={\"first\": \"Ann\"}\0", "Ann", 0},
        {"{{ \"{{\" }} } {x}", "name=\0", "{{ } {x}", 0},
        {"{{ nobody }}", "name=\0", "\"nobody\" is not declared", -ENOKEY},
        {"{{ author }}", "name=\0", "\"author\" is not declared", -ENOKEY},
        {"x", "name=\0extra=1\0", "\"extra\" is not declared", -ENOKEY},
        {"x", "", "\"name\" (string) is required", -ENODATA},
        {"x", "name=\0n=three\0", "\"n\" must be a number", -EINVAL},
        {"x", "name=\0n=1 2\0", "\"n\" must be a number", -EINVAL},
        {"x", "name=\0on=yes\0", "\"on\" must be a boolean", -EINVAL},
        {"x", "name=\0items={}\0", "\"items\" must be a list", -EINVAL},
        {"x", "name=\0items=[1,]\0", "\"items\" must be a list", -EINVAL},
        {"x", "name=\0user=[]\0", "\"user\" must be a object", -EINVAL},
        {"{{ user.first }}", "name=\0", "has no such part", -ENODATA},
        {"{{ items.7 }}", "name=\0", "has no such part", -ENODATA},
        {"a\n\n{{ name", "name=\0", "line 3: expected", -EBADMSG},
        {"{{ name | upper }}", "name=\0", "line 1: expected", -EBADMSG},
        {"{{ name + 1 }}", "name=\0", "line 1: expected", -EBADMSG},
        {"{{ }}", "name=\0", "line 1: expected", -EBADMSG},
        {"{{ \"x }}", "name=\0", "line 1: expected", -EBADMSG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        char out[300] = "", text[700];
        d.content = cases[i].text, d.size = strlen(cases[i].text);
        const int64_t n = fsb_registry_render(reg, &d, cases[i].inputs, out, sizeof out);
        if (cases[i].err) {
            CHECK_EQ(n, cases[i].err);
            fsb_registry_errmsg(reg, text, sizeof text);
            if (!strstr(text, cases[i].want)) fprintf(stderr, "case %zu: %s\n", i, text);
            CHECK(strstr(text, cases[i].want) && strstr(text, "t 1.0.0"));
        } else {
            CHECK_EQ(n, strlen(cases[i].want));
            CHECK_STR(out, cases[i].want);
            char small[4];
            CHECK_EQ(fsb_registry_render(reg, &d, cases[i].inputs, small, sizeof small), n);
            CHECK(!strncmp(small, out, 3) && (n < 3 || !small[3]));
            CHECK_EQ(fsb_registry_render(reg, &d, cases[i].inputs, NULL, 0), n);
        }
    }
    static const char *const decls[] = {"input.x=text\0", "input.x=\0", "input.x=number = one\0",
                                        "input.x=string = bare\0", "input.x=string required\0"};
    for (size_t i = 0; i < sizeof decls / sizeof *decls; ++i) {
        d.fields = decls[i];
        CHECK_EQ(fsb_registry_render(reg, &d, "", NULL, 0) == -EBADMSG
                 || fsb_registry_render(reg, &d, "x=1\0", NULL, 0) == -EBADMSG, 1);
    }
    char deep[300] = "x=";
    memset(deep + 2, '[', 200);
    d.fields = "input.x=list\0";
    CHECK_EQ(fsb_registry_render(reg, &d, deep, NULL, 0), -EINVAL);
    fsb_registry_close(reg);
}

/* ---- copies: import, export, backup, restore ---- */

static void fill(fsb_registry *reg, int count)
{
    for (int i = 0; i < count; ++i) {
        char id[40], version[40], content[3000];
        snprintf(id, sizeof id, "group%d/item %d", i % 7, i / 3);
        snprintf(version, sizeof version, "1.%d.0", i % 3);
        memset(content, 'a' + i % 26, sizeof content);
        content[i * 17 % 3000] = 0;
        fsb_registry_doc d = doc_of(id, version, content);
        d.tags = i % 2 ? "odd\0" : "even\0two\0", d.fields = "author=ann\0line=a\nb\0";
        d.description = "d";
        if (fsb_registry_save(reg, &d, FSB_REGISTRY_REPLACE) < 0) exit(1);
    }
}

static void test_import_export(void)
{
#ifndef FSB_WITH_LMDB
    SKIP("built without FSB_WITH_LMDB");
#else
    fsb_registry_report report;
    fsb_registry *lmdb = new_registry(FSB_REGISTRY_LMDB), *back = new_registry(FSB_REGISTRY_LMDB);
    fsb_registry *folder = new_registry(FSB_REGISTRY_FOLDER);
    fsb_registry_stats st;
    fill(lmdb, 700);
    fsb_registry_stat(lmdb, &st);
    CHECK_EQ(fsb_registry_copy(lmdb, folder, FSB_REGISTRY_NEW, &report, NULL, NULL), 0);
    CHECK(report.migrated == st.versions && !report.failed && !report.mismatched);
    CHECK_EQ(fsb_registry_copy(folder, back, FSB_REGISTRY_NEW, &report, NULL, NULL), 0);
    CHECK(report.migrated == st.versions && !report.failed && !report.mismatched);
    CHECK_EQ(fsb_registry_verify(back, NULL, NULL), 0);
    CHECK_EQ(fsb_registry_verify(folder, NULL, NULL), 0);
    int bad = 0; /* what is there already is told, the rest is copied */
    fsb_registry_delete(back, "group1/item 1", NULL);
    fsb_registry_delete(back, "group2/item 3", NULL);
    fsb_registry_stats left;
    fsb_registry_stat(back, &left);
    CHECK_EQ(fsb_registry_copy(folder, back, FSB_REGISTRY_NEW, &report, count_bad, &bad), -EIO);
    CHECK_EQ(report.migrated, st.versions - left.versions);
    CHECK(report.failed == left.versions && (uint64_t)bad == report.failed);
    CHECK_EQ(fsb_registry_copy(folder, back, FSB_REGISTRY_REPLACE, &report, NULL, NULL), 0);
    CHECK_EQ(fsb_registry_copy(back, back, FSB_REGISTRY_REPLACE, &report, NULL, NULL), -EINVAL);
    fsb_registry_close(lmdb);
    fsb_registry_close(folder);
    fsb_registry_close(back);
#endif
}

static void test_backup_restore(void)
{
    for (int k = 0; k < KINDS; ++k)
        for (int compact = 0; compact < 2; ++compact) {
            fsb_registry_desc d = desc_of(fresh(), kinds[k]);
            if (kinds[k] == FSB_REGISTRY_LMDB && compact) d.shards = 3;
            fsb_registry *reg = open_or_die(&d);
            char          backup[400], restored[400];
            snprintf(backup, sizeof backup, "%s.backup", d.path);
            snprintf(restored, sizeof restored, "%s.restored", d.path);
            fill(reg, 100);
            CHECK_EQ(fsb_registry_backup(reg, backup, compact), 0);
            CHECK_EQ(fsb_registry_backup(reg, backup, compact), -EEXIST);
            CHECK_EQ(save(reg, "later", "1.0.0", ""), 0);
            fsb_registry_stats before, after;
            fsb_registry_stat(reg, &before);
            fsb_registry_close(reg);
            CHECK_EQ(fsb_registry_restore(&d, backup), -EEXIST);
            d.path = restored;
            CHECK_EQ(fsb_registry_restore(&d, backup), 0);
            reg = open_or_die(&d);
            fsb_registry_stat(reg, &after);
            CHECK_EQ(after.versions, before.versions - 1);
            CHECK_EQ(after.shards, before.shards);
            CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
            CHECK_EQ(save(reg, "later", "1.0.0", ""), 0);
            fsb_registry_close(reg);
        }
}

#ifdef FSB_WITH_LMDB

static void test_backup_stream(void)
{
    fsb_registry     *reg = new_registry(FSB_REGISTRY_LMDB);
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_AUTO);
    char              file[400], damaged[400];
    fill(reg, 300);
    snprintf(file, sizeof file, "%s/stream", test_dir());
    const int fd = open(file, O_CREAT | O_RDWR | O_TRUNC, 0666);
    CHECK_EQ(fsb_registry_backup_fd(reg, fd, 1), 0); /* no stale pages */
    CHECK_EQ(fsb_registry_restore(&d, file), 0);
    fsb_registry *copy = open_or_die(&d);
    CHECK_EQ(fsb_registry_verify(copy, NULL, NULL), 0);
    fsb_registry_close(copy);
    /* a flipped content byte is found, and such a backup is refused */
    struct stat st;
    REQUIRE(fstat(fd, &st) == 0);
    char *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(map != MAP_FAILED);
    char run[65];
    memset(run, 'k', 64);
    char *hit = memmem(map, (size_t)st.st_size, run, 64);
    REQUIRE(hit);
    hit[32] ^= 1;
    munmap(map, (size_t)st.st_size);
    close(fd);
    snprintf(damaged, sizeof damaged, "%s.damaged", d.path);
    d.path = damaged;
    CHECK_EQ(fsb_registry_restore(&d, file), -EBADMSG);
    CHECK(access(damaged, F_OK) < 0);
    fsb_registry_close(reg);
}

/* ---- LMDB: opening ---- */

static void test_open_lmdb(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_AUTO);
    fsb_registry     *reg = open_or_die(&d), *second = NULL;
    char              name[400];
    CHECK_EQ(save(reg, "a", "1.0.0", "one"), 0);
    CHECK_EQ(fsb_registry_open(&second, &d), -EBUSY);
    CHECK(strstr(last_log, "this process has it open already"));
    fsb_registry_desc folder = d;
    folder.kind = FSB_REGISTRY_FOLDER;
    CHECK_EQ(fsb_registry_open(&second, &folder), -EINVAL);
    fsb_registry_close(reg);
    d.read_only = 1;
    reg = open_or_die(&d);
    CHECK_STR(content_of(reg, "a", NULL), "one");
    CHECK_EQ(save(reg, "b", "1.0.0", ""), -EROFS);
    CHECK_EQ(fsb_registry_delete(reg, "a", NULL), -EROFS);
    fsb_registry_close(reg);
    d.read_only = 0, d.shards = 2;
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
    CHECK(strstr(last_log, "one of 1 shards"));
    d.shards = 0;
    snprintf(name, sizeof name, "%s/data.mdb", d.path);
    struct stat st;
    REQUIRE(stat(name, &st) == 0);
    CHECK_EQ(truncate(name, st.st_size - 4096), 0);
    CHECK_EQ(fsb_registry_open(&reg, &d), -EBADMSG);
    CHECK(strstr(last_log, "cut short"));
    CHECK_EQ(truncate(name, 0), 0);
    CHECK_EQ(fsb_registry_open(&reg, &d), -EMEDIUMTYPE);
    write_text(d.path, "data.mdb", "This is a letter to my aunt, and no database at all.\n");
    CHECK_EQ(fsb_registry_open(&reg, &d), -EMEDIUMTYPE);
    CHECK(strstr(last_log, "name another folder"));
}

/* Another program's LMDB file, and one of a registry to come. */
static void test_open_foreign(void)
{
    for (int newer = 0; newer < 2; ++newer) {
        fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_AUTO);
        fsb_registry     *reg = NULL;
        MDB_env          *env;
        MDB_txn          *txn;
        char              name[400], about[64] = "fsb registry\n";
        mkdir(d.path, 0777);
        snprintf(name, sizeof name, "%s/data.mdb", d.path);
        about[16] = 99;
        MDB_val k = {1, (void *)(uintptr_t)(newer ? "a" : "b")}, v = {32, about};
        REQUIRE(mdb_env_create(&env) == 0);
        REQUIRE(mdb_env_open(env, name, MDB_NOSUBDIR | MDB_NOLOCK, 0666) == 0);
        MDB_dbi dbi;
        REQUIRE(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, NULL, 0, &dbi) == 0);
        REQUIRE(mdb_put(txn, dbi, &k, &v, 0) == 0);
        REQUIRE(mdb_txn_commit(txn) == 0);
        mdb_env_close(env);
        CHECK_EQ(fsb_registry_open(&reg, &d), newer ? -EPROTONOSUPPORT : -EMEDIUMTYPE);
        CHECK(strstr(last_log, newer ? "newer release" : "not a registry's"));
    }
}

/* An LMDB registry made in it would hide what it holds. */
static void test_plain_folder_stays_one(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_FOLDER);
    fsb_registry     *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
    fsb_registry_close(reg);
    d.kind = FSB_REGISTRY_LMDB;
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
    CHECK(strstr(last_log, "a plain folder"));
    d.kind = FSB_REGISTRY_AUTO, d.max_views = 65537;
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
    d.max_views = 0;
    reg = open_or_die(&d);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    fsb_registry_close(reg);
    char nowhere[400];
    snprintf(nowhere, sizeof nowhere, "%s/no/where", d.path);
    d.path = nowhere;
    CHECK_EQ(fsb_registry_open(&reg, &d), -ENOENT);
    CHECK(strstr(last_log, "cannot create"));
}

static void test_verify_finds(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry     *reg = open_or_die(&d);
    fill(reg, 30);
    fsb_registry_close(reg);
    static const char *const planted[] = {"t\x74wo", "d\x78", "zzz", "c\x01", "tnope"};
    for (size_t i = 0; i < sizeof planted / sizeof *planted + 2; ++i) {
        char     name[400], row[600];
        MDB_env *env;
        MDB_txn *txn;
        snprintf(name, sizeof name, "%s/data.mdb", d.path);
        REQUIRE(mdb_env_create(&env) == 0);
        REQUIRE(mdb_env_open(env, name, MDB_NOSUBDIR, 0666) == 0);
        MDB_dbi dbi;
        REQUIRE(mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, NULL, 0, &dbi) == 0);
        MDB_val k = {0, NULL}, v = {3, name};
        if (i < sizeof planted / sizeof *planted) {
            k.mv_data = (void *)(uintptr_t)planted[i], k.mv_size = strlen(planted[i]);
        } else { /* cut the first document's record; take its first tag's row */
            MDB_cursor *cursor;
            k.mv_data = (void *)(uintptr_t)(i % 2 ? "d" : "t"), k.mv_size = 1;
            REQUIRE(mdb_cursor_open(txn, dbi, &cursor) == 0);
            REQUIRE(mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE) == 0);
            memcpy(row, k.mv_data, k.mv_size);
            k.mv_data = row;
            if (i % 2) v.mv_size = 50, memcpy(name, v.mv_data, 50), v.mv_data = name;
            mdb_cursor_close(cursor);
            if (i % 2 == 0) REQUIRE(mdb_del(txn, dbi, &k, NULL) == 0);
        }
        if (i < sizeof planted / sizeof *planted || i % 2)
            REQUIRE(mdb_put(txn, dbi, &k, &v, 0) == 0);
        REQUIRE(mdb_txn_commit(txn) == 0);
        mdb_env_close(env);
        reg = open_or_die(&d);
        CHECK(fsb_registry_verify(reg, NULL, NULL) > (int64_t)i);
        const fsb_registry_query all = {0};
        fsb_registry_each(reg, &all, NULL, NULL); /* must not crash */
        fsb_registry_close(reg);
    }
}

/* Versions in keys as nobody writes them: a search for the latest ends, and says so. */
static void test_damaged_versions(void)
{
    static const struct { const char *bytes; size_t size; } versions[] = {
        {"\xfd\xfe\xce\xfe\xce\xfe\xce\xff", 8}, /* neither release nor pre-release */
        {"\xf0\xfe\xce\xfe\xce\xfe\xce\x00", 8}, /* of no known kind */
        {"\xfd\x00", 2}, {"\xfd\xfe\xce", 3}
    };
    for (size_t i = 0; i < sizeof versions / sizeof *versions; ++i) {
        fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
        fsb_registry     *reg = open_or_die(&d);
        fsb_registry_view view;
        MDB_txn          *txn;
        char              key[40] = "dodd";
        CHECK_EQ(save(reg, "other", "1.0.0", "whole"), 0);
        memcpy(key + 5, versions[i].bytes, versions[i].size);
        MDB_val k = {5 + versions[i].size, key}, v = {3, key};
        REQUIRE(mdb_txn_begin(reg->envs->env, NULL, 0, &txn) == 0);
        REQUIRE(mdb_put(txn, reg->envs->dbi, &k, &v, 0) == 0 && mdb_txn_commit(txn) == 0);
        CHECK_EQ(fsb_registry_load(reg, "odd", NULL, &view), -EBADMSG);
        CHECK_EQ(fsb_registry_load_range(reg, "odd", "*", &view), -EBADMSG);
        CHECK(fsb_registry_verify(reg, NULL, NULL) > 0);
        CHECK_STR(content_of(reg, "other", NULL), "whole");
        fsb_registry_close(reg);
    }
}

static void test_map_limit(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    char              content[2000], id[20], text[600];
    int               err = 0, saved = 0;
    memset(content, 'x', sizeof content);
    content[1999] = 0;
    d.map_bytes = 1 << 18, d.max_bytes = 1 << 20;
    fsb_registry *reg = open_or_die(&d);
    for (; saved < 2000 && !err; ++saved) {
        snprintf(id, sizeof id, "doc%d", saved);
        err = save(reg, id, "1.0.0", content);
    }
    CHECK_EQ(err, -EDQUOT);
    fsb_registry_errmsg(reg, text, sizeof text);
    CHECK(strstr(text, "max_bytes"));
    CHECK(saved > 200); /* it grew from 256 KiB to 1 MiB first */
    CHECK_STR(content_of(reg, "doc100", NULL), content);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    CHECK_EQ(fsb_registry_each(reg, &(const fsb_registry_query){0}, NULL, NULL), saved - 1);
    fsb_registry_close(reg);
    d.max_bytes = 0;
    reg = open_or_die(&d);
    CHECK_EQ(save(reg, id, "1.0.0", content), 0);
    fsb_registry_close(reg);
}

/* A small file-size limit is what a full disk looks like to a write. */
static void test_disk_full(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry     *reg = open_or_die(&d);
    char              content[8000];
    memset(content, 'x', sizeof content);
    content[7999] = 0;
    CHECK_EQ(save(reg, "a", "1.0.0", content), 0);
    struct stat   st;
    struct rlimit old, small;
    char          name[400];
    snprintf(name, sizeof name, "%s/data.mdb", d.path);
    REQUIRE(stat(name, &st) == 0 && getrlimit(RLIMIT_FSIZE, &old) == 0);
    small = old, small.rlim_cur = (rlim_t)st.st_size;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    const int err = save(reg, "b", "1.0.0", content);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(err == -EFBIG || err == -ENOSPC || err == -EIO);
    CHECK_STR(content_of(reg, "b", NULL), "");
    CHECK_STR(content_of(reg, "a", NULL), content);
    CHECK_EQ(save(reg, "b", "1.0.0", content), 0);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
}

static void test_compressed(void)
{
#ifndef FSB_WITH_ZSTD
    SKIP("built without FSB_WITH_ZSTD");
#else
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    char              content[3000];
    fsb_registry_view view;
    memset(content, 'z', sizeof content);
    content[2999] = 0;
    d.zstd_level = 3;
    fsb_registry *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", content), 0);
    fsb_registry_close(reg);
    d.zstd_level = 0; /* reading needs no setting */
    reg = open_or_die(&d);
    REQUIRE(fsb_registry_load(reg, "a", NULL, &view) == 0);
    CHECK(view.doc.size == 2999 && view.block_ && !strcmp(view.doc.content, content));
    CHECK_EQ(fsb_registry_detach(&view), 0);
    CHECK(!strcmp(view.doc.content, content));
    fsb_registry_release(&view);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
#endif
}

/* ---- LMDB: memory ---- */

/* More loads than the registry remembers the places of, documents saved and deleted between, in a
   map that moves: each load finds what is there now. */
static void test_places(void)
{
    enum { IDS = FSB_REGISTRY_PLACES_LEAST_ + 500 };
    static fsb_registry_doc docs[IDS];
    static char             ids[IDS][16];
    fsb_registry_desc       d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_view       pinned;
    d.map_bytes = 1 << 16, d.durability = FSB_REGISTRY_UNSAFE;
    fsb_registry *reg = open_or_die(&d);
    for (int i = 0; i < IDS; ++i) {
        snprintf(ids[i], sizeof ids[i], "id-%d", i);
        docs[i] = doc_of(ids[i], "1.0.0", ids[i]);
    }
    REQUIRE(fsb_registry_save_batch(reg, docs, IDS, FSB_REGISTRY_NEW) == 0);
    for (int pass = 0; pass < 2; ++pass)
        for (int i = 0; i < IDS; ++i)
            for (int k = 0; k < 3; ++k)
                CHECK_STR(content_of(reg, ids[i], k == 1 ? "1.0.0" : NULL), ids[i]);
    REQUIRE(fsb_registry_load(reg, "id-7", NULL, &pinned) == 0);
    CHECK_EQ(save(reg, "id-7", "2.0.0", "two"), 0);
    CHECK_STR(content_of(reg, "id-7", NULL), "two");
    CHECK_STR(content_of(reg, "id-7", "1.0.0"), "id-7");
    CHECK_STR((const char *)pinned.doc.content, "id-7"); /* of its own snapshot, and */
    fsb_registry_release(&pinned);
    for (int i = 0; i < 200; ++i) { /* what it remembers now is not that of others */
        char text[4000];
        memset(text, 'a' + i % 26, sizeof text - 1), text[sizeof text - 1] = 0;
        CHECK_EQ(save(reg, "id-8", i ? "9.9.9" : "9.9.8", text), i > 1 ? -EEXIST : 0);
        docs[0] = doc_of("id-9", "1.0.0", text);
        CHECK_EQ(fsb_registry_save(reg, &docs[0], FSB_REGISTRY_REPLACE), 0);
        CHECK_STR(content_of(reg, "id-9", NULL), text);
        CHECK_STR(content_of(reg, "id-9", i % 2 ? NULL : "1.0.0"), text);
    }
    CHECK_EQ(fsb_registry_delete(reg, "id-7", "2.0.0"), 1);
    CHECK_STR(content_of(reg, "id-7", NULL), "id-7");
    CHECK_EQ(fsb_registry_delete(reg, "id-7", NULL), 1);
    CHECK_EQ(fsb_registry_load(reg, "id-7", NULL, &pinned), -ENOENT);
    CHECK_EQ(fsb_registry_load(reg, "id-7", "1.0.0", &pinned), -ENOENT);
    fsb_registry_close(reg);
}

static void test_view_allocates_nothing(void)
{
    test_memory       m = {0};
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_view view;
    d.allocator.fn = test_memory_fn, d.allocator.user = &m;
    fsb_registry *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    const uint64_t before = m.calls;
    for (int i = 0; i < 100; ++i) {
        REQUIRE(fsb_registry_load(reg, "a", i % 2 ? NULL : "1.0.0", &view) == 0);
        fsb_registry_release(&view);
        REQUIRE(fsb_registry_load_range(reg, "a", "^1", &view) == 0);
        fsb_registry_release(&view);
        CHECK_EQ(fsb_registry_load(reg, "b", NULL, &view), -ENOENT);
    }
    CHECK_EQ(m.calls, before);
    fsb_registry_close(reg);
    CHECK(m.live == 0 && m.wrong_size == 0);
}

#endif /* FSB_WITH_LMDB */

/* What looks into a plain folder while one call after another fails: an answer is right, or
   there is none. */
static void test_folder_faults(void)
{
    static const char *const calls[] = {"readdir", "fstatat", "faccessat", "unlinkat"};
    fsb_registry_desc        d = desc_of(fresh(), FSB_REGISTRY_FOLDER);
    fsb_registry            *reg = open_or_die(&d);
    char                     name[400];
    int                      reached = 0;
    CHECK_EQ(save(reg, "a", "1.0.0", "old"), 0);
    CHECK_EQ(save(reg, "a", "2.0.0", "new"), 0);
    CHECK_EQ(save(reg, "b/c", "1.0.0", "x"), 0);
    fsb_registry_close(reg);
    snprintf(name, sizeof name, "%s/.fsb-registry", d.path);
    unlink(name); /* as if people had made it */
    d.kind = FSB_REGISTRY_AUTO;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; ++c) {
        for (int after = 0; after < 200; ++after) {
            fsb_registry_view        view;
            const fsb_registry_query all = {0};
            fault.call = calls[c], fault.after = after, fault.err = EIO;
            reg = NULL;
            const int err = fsb_registry_open(&reg, &d);
            CHECK(err == 0 || err == -EIO);
            if (!err) {
                fsb_registry_stats st;
                CHECK(fsb_registry_stat(reg, &st) < 0 || st.kind == FSB_REGISTRY_FOLDER);
                const int64_t n = fsb_registry_each(reg, &all, NULL, NULL);
                CHECK(n == 3 || n == -EIO);
                const int latest = fsb_registry_load(reg, "a", NULL, &view);
                CHECK(latest == 0 || latest == -EIO);
                if (!latest) CHECK_STR(view.doc.version, "2.0.0");
                if (!latest) fsb_registry_release(&view);
                CHECK(save(reg, "gone", "1.0.0", "x") == 0 || !fault.call);
                const int64_t deleted = fsb_registry_delete(reg, "gone", NULL);
                CHECK(deleted == 1 || deleted == -ENOENT || deleted == -EIO);
                fault.call = fault.call && fault.after >= 0 ? "none" : NULL;
                if (deleted == 1)
                    CHECK_EQ(fsb_registry_load(reg, "gone", "1.0.0", &view), -ENOENT);
                fsb_registry_delete(reg, "gone", NULL);
            }
            snprintf(name, sizeof name, "%s/data.mdb", d.path);
            CHECK(access(name, F_OK) < 0); /* no other registry in its place */
            snprintf(name, sizeof name, "%s/.fsb-registry", d.path);
            unlink(name);
            fsb_registry_close(reg);
            if (fault.call) break;
            ++reached;
        }
        fault.call = NULL;
    }
    CHECK(reached > 30);
}

/* A file's change number grows with each save, though its clock may stand still for some ms. */
static void test_folder_change_numbers(void)
{
    fsb_registry     *reg = new_registry(FSB_REGISTRY_FOLDER);
    fsb_registry_view view;
    uint64_t          last = 0;
    for (int i = 0; i < 30; ++i) {
        fsb_registry_doc doc = doc_of("a", "1.0.0", i % 2 ? "one" : "two");
        REQUIRE(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE) == 0);
        REQUIRE(fsb_registry_load(reg, "a", "1.0.0", &view) == 0);
        CHECK(view.doc.change > last);
        doc.change = last;
        if (last) CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_SWAP), -ESTALE);
        last = view.doc.change;
        fsb_registry_release(&view);
    }
    fsb_registry_close(reg);
}

/* Each allocation fails in turn: an error, nothing leaked, and the registry is as it was. */
static void test_out_of_memory(void)
{
    for (int k = 0; k < KINDS; ++k) {
        const char *path = fresh();
        uint64_t    fail_at = 0;
        int         done = 0;
        for (; !done && fail_at < 300; ++fail_at) {
            test_memory       m = {0};
            fsb_registry_desc d = desc_of(path, kinds[k]);
            fsb_registry     *reg = NULL;
            fsb_registry_view view;
            int               bad = 0;
            d.allocator.fn = test_memory_fn, d.allocator.user = &m, d.cache_bytes = 1 << 20;
            m.fail_at = fail_at + 1;
            if (fsb_registry_open(&reg, &d) == 0) {
                fsb_registry_doc doc = doc_of("a", "1.0.0", "text");
                doc.tags = "t\0", doc.fields = "input.x=string = \"q\"\0";
                bad |= fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE) < 0;
                doc.version = "2.0.0";
                bad |= fsb_registry_save_batch(reg, &doc, 1, FSB_REGISTRY_REPLACE) < 0;
                const int err = fsb_registry_load(reg, "a", "1.0.0", &view);
                if (!err) {
                    bad |= fsb_registry_detach(&view) < 0;
                    CHECK_STR((const char *)view.doc.content, "text");
                    doc.content = "{{ x }}", doc.size = 7;
                    bad |= fsb_registry_render(reg, &doc, NULL, NULL, 0) < 0;
                    fsb_registry_release(&view);
                }
                bad |= err != 0;
                const fsb_registry_query q = {.tag = "t", .content = 1};
                bad |= fsb_registry_each(reg, &q, NULL, NULL) < 0;
                bad |= fsb_registry_delete(reg, "a", "2.0.0") < 0;
                fsb_registry_close(reg);
            } else {
                bad = 1;
            }
            CHECK(m.live == 0 && m.wrong_size == 0);
            done = !bad && m.calls < m.fail_at;
        }
        CHECK(done && fail_at > 5);
    }
}

/* ---- threads ---- */

static int collect_change(void *user, const fsb_registry_change *c)
{
    char        *text = user;
    const size_t n = strlen(text);
    snprintf(text + n, 2000 - n, "%s%s@%s ", c->deleted ? "-" : "+", c->id, c->version);
    return 0;
}

static void test_changes(void)
{
    for (int k = 0; k < KINDS; ++k) {
        fsb_registry_desc d = desc_of(fresh(), kinds[k]);
        d.changes_kept = 20;
        fsb_registry         *reg = open_or_die(&d);
        fsb_registry_position at = {{0}}, start = {{0}};
        char                  text[2000] = "";
        CHECK_EQ(fsb_registry_changes(reg, &at, collect_change, text), 0);
        save(reg, "a", "1.0.0", ""), usleep(10000), save(reg, "b", "1.0.0", "");
        usleep(40000); /* a folder tells what is a little older than now */
        CHECK_EQ(fsb_registry_changes(reg, &at, collect_change, text), 2);
        CHECK_STR(text, "+a@1.0.0 +b@1.0.0 ");
        text[0] = 0;
        CHECK_EQ(fsb_registry_changes(reg, &at, collect_change, text), 0);
        fsb_registry_delete(reg, "a", NULL), save(reg, "c", "2.0.0", "");
        usleep(40000);
        CHECK(fsb_registry_changes(reg, &at, collect_change, text) > 0);
        CHECK_STR(text, kinds[k] == FSB_REGISTRY_LMDB ? "-a@1.0.0 +c@2.0.0 " : "+c@2.0.0 ");
        fsb_registry_position now;
        CHECK_EQ(fsb_registry_now(reg, &now), 0);
        CHECK_EQ(fsb_registry_changes(reg, &now, collect_change, text), 0);
        if (kinds[k] == FSB_REGISTRY_LMDB) {
            char id[20];
            for (int i = 0; i < 60; ++i) snprintf(id, sizeof id, "x%d", i), save(reg, id, "1", "");
            CHECK_EQ(fsb_registry_changes(reg, &start, collect_change, text), -ESTALE);
            CHECK_EQ(fsb_registry_changes(reg, &at, collect_change, text), -ESTALE);
            CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
        }
        fsb_registry_close(reg);
    }
}

typedef struct async_state {
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    int             done, found;
} async_state;

static void loaded(void *user, int result, fsb_registry_view *view)
{
    async_state *s = user;
    pthread_mutex_lock(&s->lock);
    ++s->done;
    if (!result && !strcmp(view->doc.content, "x")) ++s->found;
    if (!result) fsb_registry_release(view);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

typedef struct one_job {
    void (*job)(void *arg);
    void *arg;
} one_job;
static void *run_job(void *arg)
{
    one_job *j = arg;
    j->job(j->arg);
    free(j);
    return NULL;
}
static int run_on_thread(void *user, void (*job)(void *arg), void *arg)
{
    pthread_t thread;
    one_job  *j = malloc(sizeof *j);
    j->job = job, j->arg = arg;
    if (++*(int *)user > 20 || pthread_create(&thread, NULL, run_job, j)) {
        free(j);
        return -EAGAIN;
    }
    pthread_detach(thread);
    return 0;
}

static void test_async(void)
{
    for (int own = 0; own < 2; ++own) {
        fsb_registry_desc d = desc_of(fresh(), kinds[0]);
        async_state       s = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
        int               started = 0, accepted = 0;
        if (own) d.runner.run = run_on_thread, d.runner.user = &started;
        fsb_registry *reg = open_or_die(&d);
        CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
        for (int i = 0; i < 30; ++i)
            accepted += fsb_registry_load_async(reg, i % 3 ? "a" : "b", i % 2 ? NULL : "1.0.0",
                                                loaded, &s) == 0;
        CHECK_EQ(accepted, own ? 20 : 30);
        pthread_mutex_lock(&s.lock);
        while (s.done < accepted) pthread_cond_wait(&s.cond, &s.lock);
        pthread_mutex_unlock(&s.lock);
        CHECK_EQ(s.found, own ? 13 : 20);
        for (int i = 0; i < 5; ++i) fsb_registry_load_async(reg, "a", NULL, loaded, &s);
        fsb_registry_close(reg); /* waits for them */
        CHECK_EQ(s.done, own ? 20 : 35);
    }
}

#ifdef FSB_WITH_LMDB

typedef struct crew {
    fsb_registry *reg;
    int           stop, errors, saves, loads, index;
} crew;

static int bump_to(fsb_registry *reg, const char *id, int n)
{
    char version[20], content[40];
    snprintf(version, sizeof version, "1.%d.0", n);
    snprintf(content, sizeof content, "%s %d", id, n);
    fsb_registry_doc d = doc_of(id, version, content);
    d.tags = "t\0";
    return fsb_registry_save(reg, &d, FSB_REGISTRY_NEW);
}

static void *save_many(void *arg)
{
    crew *c = arg;
    char  id[20];
    snprintf(id, sizeof id, "w%d", __atomic_add_fetch(&c->index, 1, __ATOMIC_RELAXED));
    for (int i = 0; i < 200; ++i) {
        fsb_registry_view view;
        const int err = bump_to(c->reg, id, i);
        char      want[20];
        snprintf(want, sizeof want, "1.%d.0", i);
        /* what a save returned is the latest at once */
        if (err || fsb_registry_load(c->reg, id, NULL, &view) < 0) {
            char text[600];
            fsb_registry_errmsg(c->reg, text, sizeof text);
            fprintf(stderr, "save %s %d: %d: %s\n", id, i, err, text);
            __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
            continue;
        }
        if (strcmp(view.doc.version, want)) {
            fprintf(stderr, "stale: %s after %s\n", view.doc.version, want);
            __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
        }
        fsb_registry_release(&view);
        __atomic_add_fetch(&c->saves, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void *load_many(void *arg)
{
    crew *c = arg;
    while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
        char id[20], want[40];
        snprintf(id, sizeof id, "w%d", 1 + __atomic_add_fetch(&c->loads, 1, __ATOMIC_RELAXED) % 4);
        fsb_registry_view view, second;
        const int err = fsb_registry_load(c->reg, id, NULL, &view);
        if (err == -ENOENT) continue;
        if (err) {
            fprintf(stderr, "load %s: %d\n", id, err);
            __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
            continue;
        }
        const int nested = fsb_registry_load(c->reg, id, view.doc.version, &second);
        snprintf(want, sizeof want, "%s %d", id, atoi(view.doc.version + 2));
        if (strcmp(view.doc.content, want) || nested) {
            fprintf(stderr, "\"%s\" for \"%s\", then %d\n", (const char *)view.doc.content, want,
                    nested);
            __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
        }
        if (!nested) fsb_registry_release(&second);
        fsb_registry_release(&view);
    }
    return NULL;
}

/* Savers share commits, the map grows from almost nothing under readers, with and without cache. */
static void test_threads(void)
{
    for (int cached = 0; cached < 2; ++cached) {
        fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
        pthread_t         savers[4], readers[3];
        d.map_bytes = 65536, d.cache_bytes = cached ? 4 << 20 : 0;
        crew c = {open_or_die(&d), 0, 0, 0, 0, 0};
        for (int i = 0; i < 3; ++i) pthread_create(&readers[i], NULL, load_many, &c);
        for (int i = 0; i < 4; ++i) pthread_create(&savers[i], NULL, save_many, &c);
        for (int i = 0; i < 4; ++i) pthread_join(savers[i], NULL);
        __atomic_store_n(&c.stop, 1, __ATOMIC_RELAXED);
        for (int i = 0; i < 3; ++i) pthread_join(readers[i], NULL);
        fsb_registry_stats st;
        CHECK_EQ(fsb_registry_stat(c.reg, &st), 0);
        CHECK_EQ(c.errors, 0);
        CHECK_EQ(c.saves, 800);
        CHECK(c.loads > 100);
        CHECK(st.ids == 4 && st.map_bytes > 65536 && st.views == 0);
        CHECK_EQ(st.versions, 800);
        CHECK_STR(content_of(c.reg, "w1", NULL), "w1 199");
        content_of(c.reg, "w1", NULL); /* nothing was saved since: a hit, with the same answer */
        const uint64_t hits = st.cache_hits;
        CHECK_EQ(fsb_registry_stat(c.reg, &st), 0);
        CHECK_EQ(st.cache_hits > hits, cached);
        CHECK_EQ(fsb_registry_verify(c.reg, NULL, NULL), 0);
        fsb_registry_close(c.reg);
    }
}

/* ---- the decoded cache ---- */

enum { DECODED = 300, GROWN = 5000 };

static fsb_registry_doc decoded_doc(int i, int serial, char id[20], char content[400])
{
    snprintf(id, 20, "decoded-%d", i);
    memset(content, '.', 300);
    snprintf(content + 300, 100, "%s is %d", id, serial);
    return doc_of(id, "1.0.0", content);
}

static int decoded_is(const fsb_registry_view *view, int i)
{
    char want[40];
    const int n = snprintf(want, sizeof want, "decoded-%d is ", i);
    return view->doc.size > 300 && !strncmp((const char *)view->doc.content + 300, want, (size_t)n);
}

/* Looks at what it holds last: by then it was replaced, evicted, and others took its pin. */
static void *load_decoded(void *arg)
{
    crew             *c = arg;
    fsb_registry_view views[4];
    uint32_t          x = 12345;
    while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
        int is[4], got[4];
        for (int k = 0; k < 4; ++k) {
            char id[20];
            x = x * 1664525u + 1013904223u, is[k] = (int)(x >> 8) % DECODED;
            snprintf(id, sizeof id, "decoded-%d", is[k]);
            got[k] = fsb_registry_load(c->reg, id, x >> 31 ? "1.0.0" : NULL, &views[k]);
        }
        for (int k = 0; k < 4; ++k) {
            if (got[k] || !decoded_is(&views[k], is[k]))
                __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
            if (!got[k]) fsb_registry_release(&views[k]);
        }
        __atomic_add_fetch(&c->loads, 4, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Documents are replaced and, in a cache too small for them, evicted under threads that load them,
   while the number of ids outgrows the places of every shard. */
static void test_decoded_threads(void)
{
    enum { MORE = 250 };
    static fsb_registry_doc docs[MORE];
    static char             ids[MORE][32];
    test_memory             m = {0};
    fsb_registry_desc       d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_stats      st;
    pthread_t               readers[3];
    char                    id[20], content[400];
    d.cache_bytes = 256 << 10, d.shards = 16;
    d.allocator.fn = test_memory_fn, d.allocator.user = &m;
    crew c = {open_or_die(&d), 0, 0, 0, 0, 0};
    for (int i = 0; i < DECODED; ++i) {
        const fsb_registry_doc doc = decoded_doc(i, 0, id, content);
        CHECK_EQ(fsb_registry_save(c.reg, &doc, FSB_REGISTRY_NEW), 0);
    }
    for (int i = 0; i < 3; ++i) pthread_create(&readers[i], NULL, load_decoded, &c);
    for (int n = 1; n < 50; ++n) {
        for (int i = 0; i < DECODED; i += 7) {
            const fsb_registry_doc doc = decoded_doc((i + n) % DECODED, n, id, content);
            CHECK_EQ(fsb_registry_save(c.reg, &doc, FSB_REGISTRY_REPLACE), 0);
        }
        for (int i = 0; i < MORE; ++i) {
            snprintf(ids[i], sizeof ids[i], "more-%d-%d", n, i);
            docs[i] = doc_of(ids[i], "1.0.0", ids[i]);
        }
        CHECK_EQ(fsb_registry_save_batch(c.reg, docs, MORE, FSB_REGISTRY_NEW), 0);
        CHECK_STR(content_of(c.reg, ids[n], NULL), ids[n]);
    }
    for (int i = 0; i < 400; ++i) /* until there are hits, now that nothing is saved */
        if (usleep(50000), fsb_registry_stat(c.reg, &st) != 0 || st.cache_hits) break;
    __atomic_store_n(&c.stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; ++i) pthread_join(readers[i], NULL);
    CHECK_EQ(c.errors, 0);
    CHECK_EQ(fsb_registry_stat(c.reg, &st), 0);
    CHECK(st.cache_hits > 0 && st.cache_misses > DECODED && st.views == 0);
    fsb_registry_close(c.reg);
    CHECK(m.live == 0 && m.wrong_size == 0);
}

/* Threads fill the cache, whose table grows several times under them; then all of it is a hit. */
static void *load_all_decoded(void *arg)
{
    crew *c = arg;
    for (int i = 0; i < GROWN; ++i) {
        fsb_registry_view view;
        char              id[20];
        snprintf(id, sizeof id, "decoded-%d", i);
        if (fsb_registry_load(c->reg, id, NULL, &view) || !decoded_is(&view, i))
            __atomic_add_fetch(&c->errors, 1, __ATOMIC_RELAXED);
        else fsb_registry_release(&view);
    }
    return NULL;
}

static void test_decoded_growth(void)
{
    enum { AT_ONCE = 500 };
    static fsb_registry_doc docs[AT_ONCE];
    static char             ids[AT_ONCE][20], contents[AT_ONCE][400];
    test_memory             m = {0};
    fsb_registry_desc       d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_stats      filled, st;
    pthread_t               readers[3];
    d.cache_bytes = FSB_UNLIMITED, d.allocator.fn = test_memory_fn, d.allocator.user = &m;
    crew c = {open_or_die(&d), 0, 0, 0, 0, 0};
    for (int from = 0; from < GROWN; from += AT_ONCE) {
        for (int i = 0; i < AT_ONCE; ++i)
            docs[i] = decoded_doc(from + i, 0, ids[i], contents[i]);
        CHECK_EQ(fsb_registry_save_batch(c.reg, docs, AT_ONCE, FSB_REGISTRY_NEW), 0);
    }
    for (int i = 0; i < 3; ++i) pthread_create(&readers[i], NULL, load_all_decoded, &c);
    for (int i = 0; i < 3; ++i) pthread_join(readers[i], NULL);
    CHECK_EQ(fsb_registry_stat(c.reg, &filled), 0);
    load_all_decoded(&c);
    CHECK_EQ(fsb_registry_stat(c.reg, &st), 0);
    CHECK_EQ(st.cache_hits - filled.cache_hits, GROWN);
    CHECK_EQ(st.cache_misses, filled.cache_misses);
    CHECK_EQ(c.errors, 0);
    fsb_registry_close(c.reg);
    CHECK(m.live == 0 && m.wrong_size == 0);
}

/* More views than there are pins; what they hold outlives its replacement, and is freed after. */
static void test_decoded_views(void)
{
    enum { VIEWS = FSB_REGISTRY_PINS_ + 20 };
    static fsb_registry_view views[VIEWS];
    test_memory       m = {0};
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    char              id[20], content[400];
    d.cache_bytes = 8 << 20, d.allocator.fn = test_memory_fn, d.allocator.user = &m;
    fsb_registry *reg = open_or_die(&d);
    int64_t       live[2] = {0, 0};
    for (int n = 0; n < 6; ++n) {
        for (int i = 0; i < VIEWS; ++i) {
            const fsb_registry_doc doc = decoded_doc(i, n, id, content);
            CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
        }
        for (int i = 0; i < VIEWS; ++i) { /* a miss that is kept, let go, then a hit */
            snprintf(id, sizeof id, "decoded-%d", i);
            for (int k = 0; k < 2; ++k) {
                REQUIRE(fsb_registry_load(reg, id, NULL, &views[i]) == 0);
                if (!k) fsb_registry_release(&views[i]);
            }
        }
        const fsb_registry_doc doc = decoded_doc(n, 99, id, content);
        CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
        CHECK_EQ(fsb_registry_detach(&views[FSB_REGISTRY_PINS_ - 1]), 0); /* a pin for this one */
        CHECK(strstr(content_of(reg, id, NULL), " is 99"));
        for (int i = 0; i < VIEWS; ++i) {
            char want[40];
            snprintf(want, sizeof want, "decoded-%d is %d", i, n);
            CHECK_STR((const char *)views[i].doc.content + 300, want);
        }
        for (int i = 0; i < VIEWS; ++i) fsb_registry_release(&views[i]);
        if (n >= 4) live[n - 4] = m.live;
    }
    CHECK_EQ(live[0], live[1]); /* what waited for its pins does not add up */
    fsb_registry_close(reg);
    CHECK(m.live == 0 && m.wrong_size == 0);
}

static void test_pinned_views(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_view views[8], more;
    char              text[300], content[2000];
    d.max_views = 8, d.map_bytes = 65536, d.wait_ms = 100;
    fsb_registry *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "old"), 0);
    for (int i = 0; i < 8; ++i) REQUIRE(fsb_registry_load(reg, "a", NULL, &views[i]) == 0);
    CHECK_EQ(fsb_registry_load(reg, "a", NULL, &more), -EAGAIN);
    fsb_registry_errmsg(reg, text, sizeof text);
    CHECK(strstr(text, "max_views"));
    for (int i = 1; i < 8; ++i) fsb_registry_release(&views[i]);
    /* the map cannot move under a view: the save says so, and the view stays good */
    memset(content, 'x', sizeof content);
    content[1999] = 0;
    int err = 0;
    for (int i = 0; i < 100 && !err; ++i) {
        snprintf(text, sizeof text, "1.%d.0", i);
        err = save(reg, "b", text, content);
    }
    CHECK_EQ(err, -EBUSY);
    CHECK_STR((const char *)views[0].doc.content, "old");
    fsb_registry_release(&views[0]);
    CHECK_EQ(save(reg, "b", "9.0.0", content), 0);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
}

/* ---- processes ---- */

/* Runs fn in a child, which ends with what it returns. */
static pid_t in_child(int (*fn)(const char *path, int arg), const char *path, int arg)
{
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        test_.owner = -1;
        _exit(fn(path, arg));
    }
    return pid;
}
static int exit_of(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Each version's content says which it is, 4 KiB long: a torn one would not fit together. */
static void stamp(char content[4096], int n)
{
    for (int i = 0; i < 4095; i += 15) snprintf(content + i, 16, "%014d ", n);
    content[4095] = 0;
}

typedef struct board {
    int saved, stop; /* version that a save returned; shared memory */
} board;
static board *shared;

static int soak(void) { return getenv("FSB_SOAK") != NULL; }

static int reader_process(const char *path, int arg)
{
    fsb_registry_desc d = desc_of(path, FSB_REGISTRY_LMDB);
    char              want[4096];
    d.read_only = arg % 2, d.map_bytes = 65536, d.cache_bytes = arg % 3 ? 0 : 1 << 20;
    fsb_registry *reg = open_or_die(&d);
    int           loads = 0, bad = 0;
    while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE) && !bad) {
        fsb_registry_view view;
        const int         floor = __atomic_load_n(&shared->saved, __ATOMIC_ACQUIRE);
        const int         err = fsb_registry_load(reg, "doc", NULL, &view);
        if (err) {
            bad = err != -ENOENT || floor > 0;
            continue;
        }
        const int n = atoi(view.doc.version);
        stamp(want, n);
        if (n < floor) fprintf(stderr, "stale: %d after %d\n", n, floor), bad = 1;
        if (view.doc.size != 4095 || strcmp(view.doc.content, want))
            fprintf(stderr, "torn: %d\n", n), bad = 1;
        fsb_registry_release(&view);
        ++loads;
    }
    fsb_registry_close(reg);
    return bad ? 1 : loads > 0 ? 0 : 2;
}

/* Another process has other fields indexed: each goes by what is stored, not by its own opening. */
static int indexes_size(const char *path, int arg)
{
    fsb_registry_desc d = desc_of(path, FSB_REGISTRY_LMDB);
    (void)arg;
    d.indexed = "size\0";
    fsb_registry    *reg = open_or_die(&d);
    fsb_registry_doc doc = doc_of("b", "1.0.0", "");
    doc.fields = "author=ann\0size=2\0";
    const int ok = fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE) == 0
        && !strcmp(rows(reg, (fsb_registry_query){.field = "size=2"}), "b@1.0.0 c@1.0.0 ")
        && !strcmp(rows(reg, (fsb_registry_query){.field = "author=bob"}), "a@1.0.0 c@1.0.0 ");
    fsb_registry_close(reg);
    return ok ? 0 : 1;
}

static void test_indexed_elsewhere(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_doc  doc = doc_of("a", "1.0.0", "");
    d.indexed = "author\0", d.shards = 3;
    fsb_registry *reg = open_or_die(&d);
    doc.fields = "author=bob\0size=1\0";
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), 0);
    doc.id = "b";
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), 0);
    doc.id = "c", doc.fields = "author=bob\0size=2\0";
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), 0);
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=bob"}), "a@1.0.0 b@1.0.0 c@1.0.0 ");
    CHECK_EQ(exit_of(in_child(indexes_size, d.path, 0)), 0);
    /* this one has only read since, .. */
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=ann"}), "b@1.0.0 ");
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "size=2"}), "b@1.0.0 c@1.0.0 ");
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    /* .. and now it writes */
    CHECK_EQ(fsb_registry_delete(reg, "b", NULL), 1);
    doc.id = "a";
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
    doc.id = "d";
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW), 0);
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "size=2"}), "a@1.0.0 c@1.0.0 d@1.0.0 ");
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "author=bob"}), "a@1.0.0 c@1.0.0 d@1.0.0 ");
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
    d.indexed = NULL, d.shards = 0;
    reg = open_or_die(&d);
    CHECK_STR(rows(reg, (fsb_registry_query){.field = "size=2"}), "a@1.0.0 c@1.0.0 d@1.0.0 ");
    fsb_registry_close(reg);
}

/* 8 readers, 1 writer, maps that grow in every process: nothing torn, nothing stale. */
static void test_processes(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    char              content[4096], version[20];
    pid_t             readers[8];
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    fsb_registry_close(open_or_die(&d)); /* readers find it there */
    for (int i = 0; i < 8; ++i) readers[i] = in_child(reader_process, d.path, i);
    d.map_bytes = 65536;
    fsb_registry *reg = open_or_die(&d);
    const time_t  until = time(NULL) + (soak() ? 60 : 2);
    for (int n = 1; time(NULL) < until || n <= 101; ++n) { /* a slow disk takes longer */
        stamp(content, n);
        snprintf(version, sizeof version, "%d.0.0", n);
        const int err = save(reg, "doc", version, content);
        CHECK_EQ(err, 0);
        if (err) break;
        __atomic_store_n(&shared->saved, n, __ATOMIC_RELEASE);
        if (n > 500) { /* also what replaces pages of what goes */
            snprintf(version, sizeof version, "%d.0.0", n - 500);
            CHECK_EQ(fsb_registry_delete(reg, "doc", version), 1);
        }
    }
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 8; ++i) CHECK_EQ(exit_of(readers[i]), 0);
    CHECK(shared->saved > 100);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
    munmap(shared, sizeof *shared);
}

/* A reader that was killed must not keep pages alive for ever. */
static int die_reading(const char *path, int arg)
{
    fsb_registry_desc d = desc_of(path, FSB_REGISTRY_LMDB);
    fsb_registry_view view;
    (void)arg;
    if (fsb_registry_load(open_or_die(&d), "a", NULL, &view) < 0) return 1;
    raise(SIGKILL);
    return 0;
}

static void test_dead_readers(void)
{
    fsb_registry_desc  d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_stats st;
    fsb_registry      *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
    fsb_registry_close(reg);
    d.max_readers = 4;
    reg = open_or_die(&d);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    for (int i = 0; i < 12; ++i) /* more of them than there are slots */
        CHECK_EQ(exit_of(in_child(die_reading, d.path, 0)), 128 + SIGKILL);
    char version[20];
    for (int i = 0; i < 300; ++i) {
        snprintf(version, sizeof version, "2.%d.0", i);
        CHECK_EQ(save(reg, "a", version, "x"), 0);
    }
    CHECK_EQ(fsb_registry_stat(reg, &st), 0);
    int dead = -1;
    CHECK_EQ(mdb_reader_check(reg->envs[0].env, &dead), 0);
    CHECK_EQ(dead, 0);
    fsb_registry_close(reg);
}

/* ---- kill -9 ---- */

/* Operation n saves doc N%10; every tenth is a batch of three. */
static int operate(fsb_registry *reg, int n)
{
    char             content[4096], version[20];
    fsb_registry_doc docs[3];
    stamp(content, n);
    snprintf(version, sizeof version, "%d.0.0", n);
    static const char *const batch[] = {"batch/a", "batch/b", "batch/c"};
    char                     id[20];
    snprintf(id, sizeof id, "doc%d", n % 10);
    for (int i = 0; i < 3; ++i) docs[i] = doc_of(n % 10 ? id : batch[i], version, content);
    docs[0].tags = "t\0";
    return n % 10 ? fsb_registry_save(reg, docs, FSB_REGISTRY_NEW)
                  : fsb_registry_save_batch(reg, docs, 3, FSB_REGISTRY_NEW);
}

/* How much of operation n is there: 0, 1 all of it and right, -1 else. */
static int operated(fsb_registry *reg, int n)
{
    char content[4096], version[20], id[20];
    int  found = 0;
    stamp(content, n);
    snprintf(version, sizeof version, "%d.0.0", n);
    static const char *const batch[] = {"batch/a", "batch/b", "batch/c"};
    snprintf(id, sizeof id, "doc%d", n % 10);
    const int want = n % 10 ? 1 : 3;
    for (int i = 0; i < want; ++i) {
        fsb_registry_view view;
        const int err = fsb_registry_load(reg, n % 10 ? id : batch[i], version, &view);
        if (err == -ENOENT) continue;
        if (err) return -1;
        const int right = view.doc.size == 4095 && !strcmp(view.doc.content, content);
        fsb_registry_release(&view);
        if (!right) return -1;
        ++found;
    }
    return found == want ? 1 : found ? -1 : 0;
}

/* Every acknowledged operation is there, at most the next one too, and nothing else. */
static void check_survivors(fsb_registry *reg, int acknowledged)
{
    fsb_registry_stats st;
    int                lost = 0;
    for (int n = 1; n <= acknowledged; ++n) lost += operated(reg, n) != 1;
    CHECK_EQ(lost, 0);
    const int next = operated(reg, acknowledged + 1);
    CHECK(next >= 0);
    const int there = acknowledged + next;
    CHECK_EQ(fsb_registry_stat(reg, &st), 0);
    CHECK_EQ(st.versions, there + 2 * (there / 10));
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
}

static int saver_process(const char *path, int arg)
{
    fsb_registry_desc d = desc_of(path, FSB_REGISTRY_LMDB);
    d.durability = FSB_REGISTRY_DURABLE, d.map_bytes = 1 << 20;
    fsb_registry *reg = open_or_die(&d);
    for (int n = 1; n <= arg; ++n) {
        if (operate(reg, n)) return 1;
        __atomic_store_n(&shared->saved, n, __ATOMIC_RELEASE);
    }
    pause();
    return 0;
}

static void test_kill(void)
{
    const int rounds = soak() ? 200 : 25;
    unsigned  seed = 7;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    for (int round = 0; round < rounds; ++round) {
        fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
        shared->saved = 0;
        const pid_t pid = in_child(saver_process, d.path, 10000);
        /* some die while they create it */
        usleep((useconds_t)(rand_r(&seed) % (round % 3 ? soak() ? 3000000 : 80000 : 4000)));
        kill(pid, SIGKILL);
        CHECK_EQ(exit_of(pid), 128 + SIGKILL);
        fsb_registry *reg = open_or_die(&d);
        check_survivors(reg, shared->saved);
        CHECK_EQ(save(reg, "after", "1.0.0", ""), 0);
        fsb_registry_close(reg);
        char command[400]; /* they would fill the disk */
        snprintf(command, sizeof command, "%s/data.mdb", d.path);
        unlink(command);
    }
    munmap(shared, sizeof *shared);
}

/* ---- power loss ---- */
/* The program's own pwrite, writev and fdatasync stand before libc's, for LMDB too. While `tape` is
   on they record what is written to the watched file and when it is synced. A power loss at a point
   of the tape leaves what was synced before, and any of the 512-byte sectors written since. */

typedef struct event {
    enum { WROTE, SYNCED, ACKNOWLEDGED } kind;
    off_t  at;
    size_t size;
    int    durable; /* written through O_DSYNC: on disk when the call returns */
    char  *data;
} event;

static struct {
    int    on;
    ino_t  file;
    event *events;
    int    count, room;
} tape;

static void record(event e, const void *data)
{
    if (tape.count == tape.room) {
        tape.room   = tape.room ? tape.room * 2 : 1024;
        tape.events = realloc(tape.events, (size_t)tape.room * sizeof e);
    }
    if (data) e.data = memcpy(malloc(e.size), data, e.size);
    tape.events[tape.count++] = e;
}

static int watched(int fd)
{
    struct stat st;
    return tape.on && fstat(fd, &st) == 0 && st.st_ino == tape.file;
}

static void record_write(int fd, const void *data, ssize_t size, off_t at)
{
    if (size <= 0 || !watched(fd)) return;
    const event e = {WROTE, at, (size_t)size, (fcntl(fd, F_GETFL) & O_DSYNC) != 0, NULL};
    record(e, data);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    if (fault.call && (fcntl(fd, F_GETFL) & O_DSYNC) && fails("pwrite")) return -1;
    const ssize_t n = syscall(SYS_pwrite64, fd, data, size, at);
    record_write(fd, data, n, at);
    return n;
}
ssize_t writev(int fd, const struct iovec *v, int count)
{
    off_t         at = lseek(fd, 0, SEEK_CUR);
    const ssize_t n = syscall(SYS_writev, fd, v, count);
    ssize_t       left = n;
    for (int i = 0; i < count && left > 0; ++i) {
        const ssize_t part = left < (ssize_t)v[i].iov_len ? left : (ssize_t)v[i].iov_len;
        record_write(fd, v[i].iov_base, part, at);
        at += part, left -= part;
    }
    return n;
}
int fdatasync(int fd)
{
    const int rc = (int)syscall(SYS_fdatasync, fd);
    if (!rc && watched(fd)) record((event){SYNCED, 0, 0, 0, NULL}, NULL);
    return rc;
}

/* Puts an event's sectors into the image: all, or each by the toss of a coin. */
static void replay(int fd, const event *e, unsigned *seed)
{
    for (size_t done = 0; done < e->size;) {
        const size_t sector = 512 - (size_t)(e->at + (off_t)done) % 512;
        const size_t n = e->size - done < sector ? e->size - done : sector;
        if (!seed || rand_r(seed) % 2)
            if (syscall(SYS_pwrite64, fd, e->data + done, n, e->at + (off_t)done) < 0) exit(1);
        done += n;
    }
}

/* The file as a power loss after events[0..point) leaves it; returns what was acknowledged. */
static int lose_power(const char *path, const char *base, size_t base_size, int point,
                      unsigned *seed)
{
    int acknowledged = 0, synced = 0;
    const int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0666);
    if (fd < 0 || write(fd, base, base_size) != (ssize_t)base_size) exit(1);
    for (int i = 0; i < point; ++i) {
        if (tape.events[i].kind == SYNCED) synced = i;
        acknowledged += tape.events[i].kind == ACKNOWLEDGED;
    }
    for (int i = 0; i < point; ++i) {
        const event *e = &tape.events[i];
        const int    safe = i < synced || (e->durable && i < point - 1);
        if (e->kind == WROTE) replay(fd, e, safe ? NULL : seed);
    }
    close(fd);
    return acknowledged;
}

static void power_loss(fsb_registry_durability level, int operations, int points)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB), after = desc_of(fresh(), d.kind);
    char              name[500], image[400];
    struct stat       st;
    unsigned          seed = 11;
    d.durability = level;
    fsb_registry *reg = open_or_die(&d);
    snprintf(name, sizeof name, "%s/data.mdb", d.path);
    snprintf(image, sizeof image, "%s/data.mdb", after.path);
    REQUIRE(stat(name, &st) == 0 && mkdir(after.path, 0777) == 0);
    const size_t base_size = (size_t)st.st_size;
    char        *base = malloc(base_size);
    const int    fd = open(name, O_RDONLY);
    REQUIRE(fd >= 0 && read(fd, base, base_size) == (ssize_t)base_size);
    close(fd);
    tape.file = st.st_ino, tape.on = 1;
    for (int n = 1; n <= operations; ++n) {
        CHECK_EQ(operate(reg, n), 0);
        record((event){ACKNOWLEDGED, 0, 0, 0, NULL}, NULL);
    }
    tape.on = 0;
    fsb_registry_close(reg);
    CHECK(tape.count > 3 * operations); /* the tape did record LMDB */
    int lost = 0;
    for (int i = 0; i < points; ++i) {
        const int point = 1 + (int)((unsigned)rand_r(&seed) % (unsigned)tape.count);
        const int acknowledged = lose_power(image, base, base_size, point, &seed);
        reg = open_or_die(&after);
        if (level == FSB_REGISTRY_DURABLE) {
            check_survivors(reg, acknowledged);
        } else { /* only the order is promised: a beginning of what was acknowledged */
            int n = 1;
            while (operated(reg, n) == 1) ++n;
            lost += n - 1 < acknowledged;
            check_survivors(reg, n - 1);
        }
        fsb_registry_close(reg);
        snprintf(name, sizeof name, "%s-lock", image);
        unlink(name);
    }
    /* or the simulation proves nothing */
    if (level == FSB_REGISTRY_ORDERED) CHECK(lost > 0);
    for (int i = 0; i < tape.count; ++i) free(tape.events[i].data);
    free(tape.events);
    free(base);
    memset(&tape, 0, sizeof tape);
}

/* A commit that fails when it has written all but its last page: LMDB refuses to go on with that
   environment, the registry goes on. */
static void test_commit_fails(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_view view;
    d.durability = FSB_REGISTRY_DURABLE, d.wait_ms = 30;
    fsb_registry *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
    for (int round = 0; round < 4; ++round) {
        CHECK_EQ(fsb_registry_load(reg, "a", NULL, &view), 0);
        fault.call = "pwrite", fault.after = 0, fault.err = ENOSPC;
        CHECK_EQ(save(reg, "b", "1.0.0", "y"), -ENOSPC);
        CHECK(!fault.call);
        CHECK_STR((const char *)view.doc.content, "x"); /* what is pinned stays */
        if (round == 1) CHECK_EQ(save(reg, "b", "1.0.0", "y"), -EBUSY);
        fsb_registry_release(&view);
        if (round % 2) CHECK_STR(content_of(reg, "a", NULL), "x");
        CHECK_STR(content_of(reg, "b", NULL), "");
        char next[20];
        snprintf(next, sizeof next, "1.0.%d", round + 1);
        CHECK_EQ(save(reg, "a", next, "x"), 0);
        CHECK_STR(version_in(reg, "a", NULL), next);
    }
    CHECK_EQ(save(reg, "b", "1.0.0", "y"), 0);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
    reg = open_or_die(&d);
    CHECK_STR(content_of(reg, "b", NULL), "y");
    CHECK_STR(version_in(reg, "a", NULL), "1.0.4");
    fsb_registry_close(reg);
}

/* LMDB takes the map away before it asks for a larger one: where there is none to be had, the old
   one must come back. */
static void test_map_is_lost(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    static char       large[600000];
    fsb_registry_stats st;
    memset(large, 'x', sizeof large - 1);
    d.map_bytes = 1 << 18;
    fsb_registry *reg = open_or_die(&d);
    CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    fault.call = "set_mapsize", fault.after = 0;
    CHECK_EQ(save(reg, "b", "1.0.0", large), -ENOMEM);
    CHECK(!fault.call);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    /* ... and if not that either, with the next call that finds room for it */
    fault.call = "set_mapsize", fault.after = 0;
    struct rlimit all, none;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &all) == 0);
    none = all, none.rlim_cur = 3; /* too few files to open it again */
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQ(save(reg, "b", "1.0.0", large), -ENOMEM);
    fsb_registry_view view;
    CHECK_EQ(fsb_registry_load(reg, "a", NULL, &view), -EMFILE);
    CHECK_EQ(save(reg, "b", "1.0.0", "x"), -EMFILE);
    CHECK_EQ(fsb_registry_sync(reg), -EIO);
    CHECK_EQ(fsb_registry_stat(reg, &st), -EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
    CHECK_STR(content_of(reg, "a", NULL), "x");
    CHECK_EQ(save(reg, "b", "1.0.0", large), 0);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    fsb_registry_close(reg);
}

/* What cannot be seen for a moment is not made anew over what is there. */
static void test_create_over(void)
{
    for (int after = 0; after < 3; ++after) {
        fsb_registry_desc d = desc_of(fresh(), after ? FSB_REGISTRY_AUTO : FSB_REGISTRY_LMDB);
        fsb_registry     *reg = open_or_die(&d);
        CHECK_EQ(save(reg, "a", "1.0.0", "x"), 0);
        fsb_registry_close(reg);
        fault.call = "faccessat", fault.after = after, fault.err = EIO, reg = NULL;
        CHECK_EQ(fsb_registry_open(&reg, &d), -EIO);
        fault.call = NULL;
        if (reg) fsb_registry_close(reg);
        reg = open_or_die(&d);
        CHECK_STR(content_of(reg, "a", NULL), "x");
        fsb_registry_close(reg);
    }
}

/* A registry of no shards would be a division by zero. */
static void test_no_shards(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry     *reg = open_or_die(&d);
    MDB_txn          *txn;
    uint8_t           about[64];
    MDB_val           k = {1, (void *)(uintptr_t)"a"}, v;
    REQUIRE(mdb_txn_begin(reg->envs->env, NULL, 0, &txn) == 0);
    REQUIRE(mdb_get(txn, reg->envs->dbi, &k, &v) == 0 && v.mv_size < sizeof about);
    memcpy(about, v.mv_data, v.mv_size);
    about[FSB_REGISTRY_A_SHARDS_] = 0, v.mv_data = about;
    v.mv_size -= FSB_REGISTRY_A_TAIL_; /* as older releases wrote it, without a sum */
    CHECK_EQ(mdb_put(txn, reg->envs->dbi, &k, &v, 0), 0);
    CHECK_EQ(mdb_txn_commit(txn), 0);
    fsb_registry_close(reg);
    CHECK_EQ(fsb_registry_open(&reg, &d), -EINVAL);
}

/* ---- LMDB: flipped bytes ---- */

enum { FLIP_DOCS = 6, FLIP_BIG = 3 };

static void flip_fill(const char *path)
{
    static char       content[9000]; /* not to be compressed, and on pages of its own */
    char              even[2000];    /* compressed */
    fsb_registry_desc d = desc_of(path, FSB_REGISTRY_LMDB);
    d.indexed = "author\0";
#ifdef FSB_WITH_ZSTD
    d.zstd_level = 3;
#endif
    fsb_registry *reg = open_or_die(&d);
    uint64_t      x = 88172645463325252u;
    for (size_t i = 0; i < sizeof content; ++i) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        content[i] = (char)(x >> 32);
    }
    memset(even, 'e', sizeof even);
    for (int i = 0; i < FLIP_DOCS; ++i) {
        char             id[20];
        fsb_registry_doc doc = doc_of(id, i & 1 ? "1.2.0" : "1.10.0-rc.1", "A short content");
        snprintf(id, sizeof id, "doc/%d", i / 2);
        if (i == 0) doc.content = even, doc.size = sizeof even;
        if (i == FLIP_BIG) doc.content = content, doc.size = sizeof content;
        doc.description = "words", doc.content_type = "text/plain", doc.tags = "one\0two\0";
        doc.fields = "author=ann\0other=x\0", doc.created_ns = 1000 + i, doc.updated_ns = 2000;
        REQUIRE(fsb_registry_save(reg, &doc, FSB_REGISTRY_NEW) == 0);
    }
    fsb_registry_close(reg);
}

/* Everything that a document says, as one number; its content where it has one. */
static uint64_t flip_doc(const fsb_registry_doc *doc)
{
    uint64_t h = fsb_registry_sum_(doc->id, strlen(doc->id) + 1, 0);
    h = fsb_registry_sum_(doc->version, strlen(doc->version) + 1, h);
    h = fsb_registry_sum_(doc->description, strlen(doc->description) + 1, h);
    h = fsb_registry_sum_(doc->content_type, strlen(doc->content_type) + 1, h);
    h = fsb_registry_sum_(doc->tags, fsb_registry_list_size_(doc->tags), h);
    h = fsb_registry_sum_(doc->fields, fsb_registry_list_size_(doc->fields), h);
    const uint64_t numbers[4] = {doc->size, (uint64_t)doc->created_ns, (uint64_t)doc->updated_ns,
                                 doc->change};
    h = fsb_registry_sum_(numbers, sizeof numbers, h);
    return fsb_registry_sum_(doc->hash, 32, h);
}

static int flip_row(void *user, const fsb_registry_doc *doc)
{
    const uint64_t h = flip_doc(doc);
    *(uint64_t *)user = fsb_registry_sum_(doc->content, doc->content ? (size_t)doc->size : 0, h)
                        + *(uint64_t *)user * 31;
    return 0;
}

static int flip_change(void *user, const fsb_registry_change *change)
{
    uint64_t *h = (uint64_t *)user;
    *h = fsb_registry_sum_(change->id, strlen(change->id) + 1, *h + change->change);
    *h = fsb_registry_sum_(change->version, strlen(change->version) + 1,
                           *h + (uint64_t)change->deleted);
    return 0;
}

enum { FLIP_LOADS = FLIP_DOCS + 4, FLIP_ANSWERS = FLIP_LOADS + 6 };
typedef struct flip_answer { int64_t result; uint64_t says; } flip_answer;

static flip_answer flip_load(fsb_registry *reg, int i)
{
    fsb_registry_view view;
    char              id[20];
    flip_answer       a = {0, 0};
    snprintf(id, sizeof id, "doc/%d", i < FLIP_DOCS ? i / 2 : i - FLIP_DOCS);
    const char *version = i & 1 ? "1.2.0" : "1.10.0-rc.1";
    if (i < FLIP_DOCS) a.result = fsb_registry_load(reg, id, version, &view);
    else if (i < FLIP_LOADS - 1) a.result = fsb_registry_load(reg, id, NULL, &view);
    else a.result = fsb_registry_load_range(reg, "doc/1", "^1.0", &view);
    if (a.result) return a;
    flip_row(&a.says, &view.doc);
    fsb_registry_release(&view);
    return a;
}

/* What the registry says to each kind of question; one that does not open says so to all. */
static void flip_ask(const char *path, flip_answer out[FLIP_ANSWERS])
{
    static const fsb_registry_query queries[4] = {
        {.content = 1}, {.latest = 1}, {.tag = "two", .content = 1}, {.field = "author=ann"}};
    fsb_registry_desc     d = desc_of(path, FSB_REGISTRY_LMDB);
    fsb_registry         *reg = NULL;
    fsb_registry_position at;
    fsb_registry_stats    stats;
    memset(out, 0, FLIP_ANSWERS * sizeof *out);
    memset(&at, 0, sizeof at);
    d.map_bytes = 1 << 20, d.read_only = 1;
    const int err = fsb_registry_open(&reg, &d);
    for (int i = 0; i < FLIP_ANSWERS && err; ++i) out[i].result = err;
    if (err) return;
    for (int i = 0; i < FLIP_LOADS; ++i) out[i] = flip_load(reg, i);
    for (int i = 0; i < 4; ++i)
        out[FLIP_LOADS + i].result =
            fsb_registry_each(reg, &queries[i], flip_row, &out[FLIP_LOADS + i].says);
    out[FLIP_LOADS + 4].result =
        fsb_registry_changes(reg, &at, flip_change, &out[FLIP_LOADS + 4].says);
    out[FLIP_LOADS + 5].result = fsb_registry_stat(reg, &stats);
    out[FLIP_LOADS + 5].says = stats.ids * 1000 + stats.versions * 100 + stats.content_bytes
                               + stats.last_change;
    fsb_registry_close(reg);
}

/* Flips each byte of what stands in the map as `what`, and wants errors or the right answers. */
static void flip_each(const char *path, char *map, size_t offset, size_t size, uint8_t bits,
                      const flip_answer right[FLIP_ANSWERS])
{
    flip_answer got[FLIP_ANSWERS];
    for (size_t i = offset; i < offset + size; ++i) {
        map[i] = (char)(map[i] ^ bits);
        flip_ask(path, got);
        map[i] = (char)(map[i] ^ bits);
        for (int k = 0; k < FLIP_ANSWERS; ++k) {
            const int wrong = got[k].result >= 0 && memcmp(&got[k], &right[k], sizeof *got);
            if (wrong) fprintf(stderr, "byte %zu of %zu: answer %d\n", i - offset, size, k);
            CHECK(!wrong);
        }
    }
}

/* Each value of each row that a registry keeps: whatever byte is flipped, no call returns it. */
static void test_flipped_values(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    flip_answer       right[FLIP_ANSWERS];
    MDB_txn          *txn;
    MDB_val           k, v;
    struct stat       st;
    char              name[400];
    int               rows = 0;
    flip_fill(d.path);
    flip_ask(d.path, right);
    for (int i = 0; i < FLIP_ANSWERS; ++i) CHECK(right[i].result >= 0);
    snprintf(name, sizeof name, "%s/data.mdb", d.path);
    const int fd = open(name, O_RDWR);
    REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
    char *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(map != MAP_FAILED);
    const char   *value[40], *row = NULL; /* in the row of an index */
    size_t        size[40];
    fsb_registry *reg = open_or_die(&d);
    MDB_envinfo   info;
    REQUIRE(mdb_txn_begin(reg->envs->env, NULL, MDB_RDONLY, &txn) == 0);
    mdb_env_info(reg->envs->env, &info);
    MDB_cursor *cursor;
    REQUIRE(mdb_cursor_open(txn, reg->envs->dbi, &cursor) == 0);
    const char *base = NULL; /* of LMDB's map: the long record is in the file once */
    while (!mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        if (v.mv_size > 4096)
            base = (char *)v.mv_data
                   - ((char *)memmem(map, (size_t)st.st_size, v.mv_data, v.mv_size) - map);
        if (k.mv_size > 10 && !memcmp(k.mv_data, "ttwo\0doc/0", 10)) row = (char *)k.mv_data + 9;
        if (!v.mv_size) continue;
        REQUIRE(rows < 40);
        value[rows] = (char *)v.mv_data, size[rows] = v.mv_size;
        ++rows;
    }
    mdb_cursor_close(cursor), mdb_txn_abort(txn);
    fsb_registry_close(reg);
    CHECK(base);
    CHECK_EQ(rows, 1 + FLIP_DOCS + 1 + FLIP_DOCS);
    for (int i = 0; i < rows; ++i) {
        const size_t most = size[i] < 400 ? size[i] : 400; /* and the end of the long one */
        const size_t at = (size_t)(value[i] - base);
        flip_each(d.path, map, at, most, i & 1 ? 1 : 0x20, right);
        flip_each(d.path, map, at + size[i] - 1, 1, 1, right);
    }
    REQUIRE(row);
    map[row - base] ^= 0x40; /* of a document that is not there */
    flip_answer got[FLIP_ANSWERS];
    flip_ask(d.path, got);
    CHECK_EQ(got[FLIP_LOADS + 2].result, -EBADMSG);
    munmap(map, (size_t)st.st_size);
    close(fd);
}

/* A value as releases wrote it before there were sums. */
static size_t old_value(char tag, size_t key_size, const uint8_t *v, size_t size, uint8_t *old)
{
    const size_t more = FSB_REGISTRY_R_HEADER_ - FSB_REGISTRY_R_LEAST_;
    memcpy(old, v, size);
    if (tag == 'a') return size - FSB_REGISTRY_A_TAIL_;
    if (tag == 'c') return key_size == 2 ? FSB_REGISTRY_COUNTERS_ : size - FSB_REGISTRY_FEED_TAIL_;
    if (tag != 'd') return size;
    fsb_registry_set_(old + 2, FSB_REGISTRY_R_LEAST_, 2);
    memmove(old + FSB_REGISTRY_R_LEAST_, old + FSB_REGISTRY_R_HEADER_,
            size - FSB_REGISTRY_R_HEADER_);
    return size - more;
}

/* What has no sums is read, and written to, and a flipped content is found by its hash. */
static void test_without_sums(void)
{
    fsb_registry_desc d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    flip_answer       right[FLIP_ANSWERS], got[FLIP_ANSWERS];
    MDB_txn          *txn;
    MDB_cursor       *cursor;
    MDB_val           k, v;
    fsb_registry_view view;
    static uint8_t    old[10000];
    flip_fill(d.path);
    flip_ask(d.path, right);
    fsb_registry *reg = open_or_die(&d);
    for (int damage = 0; damage < 2; ++damage) {
        REQUIRE(mdb_txn_begin(reg->envs->env, NULL, 0, &txn) == 0);
        REQUIRE(mdb_cursor_open(txn, reg->envs->dbi, &cursor) == 0);
        while (!mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
            REQUIRE(v.mv_size < sizeof old);
            const char tag = *(const char *)k.mv_data;
            char key[600]; /* writing moves what it reads */
            memcpy(key, k.mv_data, k.mv_size);
            k.mv_data = key;
            memcpy(old, v.mv_data, v.mv_size);
            if (!damage)
                v.mv_size = old_value(tag, k.mv_size, (const uint8_t *)v.mv_data, v.mv_size, old);
            else if (tag == 'd') old[v.mv_size - 2] ^= 1; /* content, or what it is packed into */
            v.mv_data = old;
            CHECK_EQ(mdb_cursor_put(cursor, &k, &v, MDB_CURRENT), 0);
        }
        mdb_cursor_close(cursor);
        REQUIRE(mdb_txn_commit(txn) == 0);
        fsb_registry_close(reg);
        if (!damage) flip_ask(d.path, got);
        for (int i = 0; i < FLIP_ANSWERS && !damage; ++i)
            CHECK(got[i].result == right[i].result && got[i].says == right[i].says);
        reg = open_or_die(&d);
        if (!damage) CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    }
    CHECK_EQ(fsb_registry_load(reg, "doc/0", "1.2.0", &view), -EBADMSG);
    CHECK_EQ(fsb_registry_load(reg, "doc/1", "1.2.0", &view), -EBADMSG);
    CHECK_EQ(save(reg, "doc/2", "2.0.0", "new beside old"), 0);
    CHECK_STR(content_of(reg, "doc/2", NULL), "new beside old");
    fsb_registry_close(reg);
}

/* A damaged document is refused by what would build on it, and deleting it leaves no trace. */
static void test_delete_damaged(void)
{
    fsb_registry_desc  d = desc_of(fresh(), FSB_REGISTRY_LMDB);
    fsb_registry_query query = {.tag = "two"};
    MDB_txn           *txn;
    MDB_val            k, v;
    fsb_registry_ver_  ver;
    char               key[FSB_REGISTRY_KEY_ROOM_];
    static uint8_t     record[4000];
    flip_fill(d.path);
    fsb_registry *reg = open_or_die(&d);
    fsb_registry_ver_read_(&ver, "1.2.0");
    k = fsb_registry_val_(key, fsb_registry_doc_key_(key, "doc/0", &ver));
    REQUIRE(mdb_txn_begin(reg->envs->env, NULL, 0, &txn) == 0);
    REQUIRE(mdb_get(txn, reg->envs->dbi, &k, &v) == 0 && v.mv_size < sizeof record);
    memcpy(record, v.mv_data, v.mv_size);
    uint8_t *tag = (uint8_t *)memmem(record, v.mv_size, "two", 3);
    REQUIRE(tag);
    *tag ^= 1, v.mv_data = record;
    CHECK_EQ(mdb_put(txn, reg->envs->dbi, &k, &v, 0), 0);
    REQUIRE(mdb_txn_commit(txn) == 0);
    fsb_registry_doc doc = doc_of("doc/0", "1.2.0", "again");
    CHECK_EQ(fsb_registry_each(reg, &query, NULL, NULL), -EBADMSG);
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), -EBADMSG);
    CHECK_EQ(fsb_registry_delete(reg, "doc/0", "1.2.0"), 1);
    CHECK_EQ(fsb_registry_each(reg, &query, NULL, NULL), FLIP_DOCS - 1);
    CHECK_EQ(fsb_registry_verify(reg, NULL, NULL), 0);
    CHECK_EQ(fsb_registry_save(reg, &doc, FSB_REGISTRY_REPLACE), 0);
    CHECK_STR(content_of(reg, "doc/0", NULL), "again");
    fsb_registry_close(reg);
}

static void test_power_loss(void)
{
    power_loss(FSB_REGISTRY_DURABLE, 100, soak() ? 3000 : 200);
    power_loss(FSB_REGISTRY_ORDERED, 100, soak() ? 1000 : 100);
}

#endif /* FSB_WITH_LMDB */

/* Every beginning of each seed, and each a little wrong. */
static void test_seeds(void)
{
    uint64_t x = 88172645463325252u;
    int      runs = 0;
    for (size_t i = 0; i < sizeof fuzz_registry_seeds / sizeof *fuzz_registry_seeds; ++i) {
        uint8_t      bytes[400];
        const size_t n = strlen(fuzz_registry_seeds[i]);
        REQUIRE(n && n < sizeof bytes);
        memcpy(bytes, fuzz_registry_seeds[i], n);
        for (size_t cut = 0; cut <= n; ++cut) runs += LLVMFuzzerTestOneInput(bytes, cut) == 0;
        for (int k = 0; k < 300; ++k) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            const size_t  at = (size_t)(x % n);
            const uint8_t was = bytes[at];
            bytes[at] = (uint8_t)(x >> 32);
            runs += LLVMFuzzerTestOneInput(bytes, n) == 0; /* aborts on what it finds */
            bytes[at] = was;
        }
    }
    CHECK(runs > 5000);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_seeds);
    TEST(test_version_order);
    TEST(test_ranges);
    TEST(test_bump);
    TEST(test_hash);
    TEST(test_basics);
    TEST(test_latest_and_ranges);
    TEST(test_find);
    TEST(test_counts_and_delete);
    TEST(test_batch);
    TEST(test_odd_ids);
    TEST(test_bad_input);
    TEST(test_large_content);
    TEST(test_folder_by_hand);
    TEST(test_times);
    TEST(test_folder_batch);
    TEST(test_folder_front_matter);
    TEST(test_render);
    TEST(test_import_export);
    TEST(test_backup_restore);
    TEST(test_folder_faults);
    TEST(test_folder_change_numbers);
    TEST(test_out_of_memory);
    TEST(test_changes);
    TEST(test_async);
#ifdef FSB_WITH_LMDB
    TEST(test_backup_stream);
    TEST(test_open_lmdb);
    TEST(test_open_foreign);
    TEST(test_verify_finds);
    TEST(test_damaged_versions);
    TEST(test_flipped_values);
    TEST(test_without_sums);
    TEST(test_delete_damaged);
    TEST(test_plain_folder_stays_one);
    TEST(test_map_limit);
    TEST(test_disk_full);
    TEST(test_compressed);
    TEST(test_places);
    TEST(test_view_allocates_nothing);
    TEST(test_threads);
    TEST(test_decoded_threads);
    TEST(test_decoded_growth);
    TEST(test_decoded_views);
    TEST(test_pinned_views);
    TEST(test_indexed_elsewhere);
    TEST(test_processes);
    TEST(test_dead_readers);
    TEST(test_kill);
    TEST(test_commit_fails);
    TEST(test_map_is_lost);
    TEST(test_create_over);
    TEST(test_no_shards);
    TEST(test_power_loss);
#endif
    return test_end("test_registry");
}
