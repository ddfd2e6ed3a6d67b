/* fsb_registry.c - `fsb registry`: versioned documents from the command line. */
#define FSB_REGISTRY_IMPLEMENTATION
#include "../fsb_registry.h"

#include "tool.h"
#include <signal.h>

int fsb_cmd_registry(int argc, char **argv);

static const char help[] =
    "usage: fsb registry [-r PATH] COMMAND ...\n"
    "\n"
    "  init [--folder] [--shards N] [--index KEY]...     creates a registry\n"
    "  save ID VERSION [FILE|-] [words]                  a version; --replace, --if-latest V\n"
    "  get ID[@VERSION|@RANGE] [--meta|--json]           its content, or what is known of it\n"
    "  list [PREFIX] [--json]                            ids with their latest versions\n"
    "  versions ID [--range R] [--json]                  newest first\n"
    "  tag ID[@VERSION] +TAG... -TAG...                  adds and takes away tags\n"
    "  query [--tag T] [--field K=V] [--prefix P] [--range R] [--latest] [--json]\n"
    "  render ID[@VERSION|@RANGE] NAME=VALUE...          fills a template\n"
    "  bump ID --major|--minor|--patch [FILE|-] [words]  saves the next version; without a FILE\n"
    "                                                    its content is as before\n"
    "  delete ID@VERSION | ID --all                      one version, or every one\n"
    "  import FROM [--replace]                           copies every version of another registry\n"
    "                                                    or of a folder of files ID/VERSION.md\n"
    "  export TO [--replace] [--lmdb]                    ... to another one: by default a folder\n"
    "  backup TO [--compact]                             while others write; TO - is stdout\n"
    "  restore FROM                                      makes the registry out of a backup\n"
    "  verify                                            reads and checks everything\n"
    "  stat [--json]\n"
    "  watch [--since N[,N...]|--all] [--once] [--interval MS]   prints changes as they come\n"
    "\n"
    "words: --description D  --type T  --tag T  --field K=V  (the last two as often as you like)\n"
    "-r PATH, --registry PATH   default: $FSB_REGISTRY, else ./registry\n"
    "--durability durable|ordered|unsafe   --zstd LEVEL   --map SIZE   -v\n"
    "A FILE is - for stdin, which is the default. Exit status: 0 done, 1 failed, 2 wrong usage.\n";

/* A list as the registry takes it: strings one after another, then an empty one. */
typedef struct list {
    char  *text;
    size_t size;
} list;

static void list_add(list *l, const char *item)
{
    const size_t n = strlen(item) + 1;
    char        *text = realloc(l->text, l->size + n + 1);
    if (!text) tool_fail("out of memory");
    memcpy(text + l->size, item, n);
    l->text = text, l->size += n;
    text[l->size] = 0;
}

/* Everything the command line says. */
static struct {
    const char *path, *description, *type, *expected, *prefix, *range, *since, *tag, *field;
    list        tags, fields, index, seen; /* seen: the names of the options */
    int         folder, lmdb, replace, meta, json, latest, all, compact, once, interval_ms, verbose;
    int         part; /* of a version, or -1 */
    uint32_t    shards;
    fsb_registry_durability durability;
    int         zstd;
    uint64_t    map;
    char      **args; /* what is no option */
    int         count;
} o;

static fsb_registry *reg;
static char          failure[1000]; /* the log's last line: what a failed open has to say */

/* ---- options --------------------------------------------------------------------------------- */

enum { O_REGISTRY = 256, O_DESCRIPTION, O_TYPE, O_TAG, O_FIELD, O_IF_LATEST, O_PREFIX, O_RANGE,
       O_SINCE, O_INDEX, O_SHARDS, O_DURABILITY, O_ZSTD, O_MAP, O_INTERVAL };

static const struct option options[] = {
    {"registry", 1, NULL, O_REGISTRY}, {"description", 1, NULL, O_DESCRIPTION},
    {"type", 1, NULL, O_TYPE}, {"tag", 1, NULL, O_TAG}, {"field", 1, NULL, O_FIELD},
    {"if-latest", 1, NULL, O_IF_LATEST}, {"prefix", 1, NULL, O_PREFIX},
    {"range", 1, NULL, O_RANGE}, {"since", 1, NULL, O_SINCE}, {"index", 1, NULL, O_INDEX},
    {"shards", 1, NULL, O_SHARDS}, {"durability", 1, NULL, O_DURABILITY},
    {"zstd", 1, NULL, O_ZSTD}, {"map", 1, NULL, O_MAP}, {"interval", 1, NULL, O_INTERVAL},
    {"folder", 0, &o.folder, 1}, {"lmdb", 0, &o.lmdb, 1}, {"replace", 0, &o.replace, 1},
    {"meta", 0, &o.meta, 1}, {"json", 0, &o.json, 1}, {"latest", 0, &o.latest, 1},
    {"all", 0, &o.all, 1}, {"compact", 0, &o.compact, 1}, {"once", 0, &o.once, 1},
    {"major", 0, &o.part, FSB_REGISTRY_MAJOR}, {"minor", 0, &o.part, FSB_REGISTRY_MINOR},
    {"patch", 0, &o.part, FSB_REGISTRY_PATCH}, {"help", 0, NULL, 'h'}, {"version", 0, NULL, 'V'},
    {NULL, 0, NULL, 0}
};

static fsb_registry_durability durability_of(const char *name)
{
    static const char *const names[] = {"durable", "ordered", "unsafe"};
    for (int i = 0; i < 3; ++i)
        if (!strcmp(names[i], name)) return (fsb_registry_durability)i;
    tool_usage("--durability: '%s' is not durable, ordered or unsafe", name);
}

static uint64_t size_of(const char *text)
{
    char    *end;
    uint64_t n = strtoull(text, &end, 10);
    const char *unit = *end ? strchr("KMG", *end) : NULL;
    if (end == text || (*end && (!unit || end[1])) || n > (uint64_t)1 << 40)
        tool_usage("--map: '%s' is not a size like 64M", text);
    return unit ? n << (*unit == 'K' ? 10 : *unit == 'M' ? 20 : 30) : n;
}

static void option(int c)
{
    switch (c) {
    case 0: break;
    case 'r': case O_REGISTRY: o.path = optarg; break;
    case 'v': ++o.verbose; break;
    case O_DESCRIPTION: o.description = optarg; break;
    case O_TYPE: o.type = optarg; break;
    case O_TAG: list_add(&o.tags, optarg), o.tag = optarg; break;
    case O_FIELD:
        if (!strchr(optarg, '=') || *optarg == '=') tool_usage("--field: '%s' is not K=V", optarg);
        list_add(&o.fields, optarg), o.field = optarg;
        break;
    case O_IF_LATEST: o.expected = optarg; break;
    case O_PREFIX: o.prefix = optarg; break;
    case O_RANGE: o.range = optarg; break;
    case O_SINCE: o.since = optarg; break;
    case O_INDEX: list_add(&o.index, optarg); break;
    case O_SHARDS: o.shards = (uint32_t)tool_number("--shards", optarg, 1, 64); break;
    case O_DURABILITY: o.durability = durability_of(optarg); break;
    case O_ZSTD: o.zstd = (int)tool_number("--zstd", optarg, 1, 19); break;
    case O_MAP: o.map = size_of(optarg); break;
    case O_INTERVAL: o.interval_ms = (int)tool_number("--interval", optarg, 1, 3600000); break;
    case 'h': fputs(help, stdout), exit(0);
    case 'V': puts("fsb registry " FSB_VERSION), exit(0);
    default: fprintf(stderr, "Try 'fsb registry --help'.\n"), exit(2);
    }
}

/* How many of these options were given: a list of names. */
static int seen(const char *names)
{
    int count = 0;
    for (; names; names = fsb_registry_list_next(names))
        for (const char *s = fsb_registry_list_first(o.seen.text); s; s = fsb_registry_list_next(s))
            count += !strcmp(s, names);
    return count;
}

/* Ends the program unless the number of arguments is right; returns it. */
static int given(int least, int most)
{
    if (o.count < least || o.count > most) {
        tool_say("wrong number of arguments");
        fprintf(stderr, "Try 'fsb registry --help'.\n");
        exit(2);
    }
    return o.count;
}

/* ---- small things ---------------------------------------------------------------------------- */

/* Ends the program with what the registry says of a failure. */
static void check_all(int64_t result, const char *what)
{
    char text[700];
    if (result >= 0) return;
    if (reg && fsb_registry_errmsg(reg, text, sizeof text) > 0) tool_fail("%s", text);
    tool_fail("%s: %s", what, strerror((int)-result));
}

/* The same, where -ENOENT means that there is no such document. */
static void check(int64_t result, const char *what)
{
    if (result == -ENOENT) tool_fail("%s: is not there; `fsb registry list` tells what is", what);
    check_all(result, what);
}

static void log_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)level;
    snprintf(failure, sizeof failure, "%s", text);
    if (o.verbose) tool_say("%s: %s", item, text);
}

static fsb_registry_desc description(const char *path)
{
    fsb_registry_desc d = {0};
    d.path = path, d.durability = o.durability, d.zstd_level = o.zstd, d.map_bytes = o.map;
    d.log.fn = log_line;
    return d;
}

static fsb_registry *open_at(const fsb_registry_desc *d)
{
    fsb_registry *opened = NULL;
    const int     err = fsb_registry_open(&opened, d);
    if (err == -ENOENT && (d->must_exist || d->read_only))
        tool_fail("%s: no registry is there; `fsb registry init` makes one", d->path);
    if (err == -EBUSY && reg) tool_fail("%s: is this registry itself; name another", d->path);
    if (err < 0) tool_fail("%s", *failure ? failure : strerror(-err));
    return opened;
}

static void open_registry(int read_only)
{
    fsb_registry_desc d = description(o.path);
    d.read_only = read_only, d.must_exist = 1;
    reg = open_at(&d);
}

/* The content of a file, or of stdin; with a zero byte after it. */
static char *read_content(const char *name, uint64_t *size)
{
    FILE  *f = strcmp(name, "-") ? fopen(name, "rb") : stdin;
    char  *data = NULL;
    size_t n = 0, room = 0;
    if (!f) tool_fail("%s: cannot read it: %s", name, strerror(errno));
    do {
        if (n + 65536 > room) {
            room = room ? room * 2 : 131072;
            data = realloc(data, room);
            if (!data) tool_fail("out of memory");
        }
        n += fread(data + n, 1, 65535, f);
        if (n > FSB_REGISTRY_CONTENT_MAX) tool_fail("%s: a content has at most 16 MiB", name);
    } while (!feof(f) && !ferror(f));
    if (ferror(f)) tool_fail("%s: cannot read it: %s", name, strerror(errno));
    if (f != stdin) fclose(f);
    data[n] = 0;
    *size = n;
    return data;
}

_Noreturn static void no_version(const char *id, const char *version, int is_range)
{
    tool_fail("%s: has no version %s%s; `fsb registry versions %s` tells which it has", id, version,
              is_range ? "" : ", and that is no range like ^1.2", id);
}

/* Loads ID, ID@VERSION or ID@RANGE. An id with an @ in it needs one more at its end. */
static void load(char *spec, fsb_registry_view *view)
{
    char *at = strrchr(spec, '@');
    if (at && !at[1]) *at = 0, at = NULL;
    if (at) *at++ = 0;
    int err = fsb_registry_load(reg, spec, at, view), is_range = 1;
    if (err == -ENOENT && at) {
        const int in_range = fsb_registry_load_range(reg, spec, at, view);
        is_range = in_range != -EINVAL;
        if (is_range) err = in_range;
    }
    if (err == -ENOENT && at) no_version(spec, at, is_range);
    check(err, spec);
}

/* How many bytes the UTF-8 character at s has, 0 if it is none. */
static int utf8_size(const char *s)
{
    const unsigned char c = (unsigned char)*s;
    const int n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3
                  : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; ++i)
        if (((unsigned char)s[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* JSON is UTF-8: a byte that is none comes out as U+FFFD. */
static void print_json(const char *s)
{
    putchar('"');
    for (; *s; ++s) {
        const int n = utf8_size(s);
        if (!n) fputs("\xef\xbf\xbd", stdout);
        else if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else if ((unsigned char)*s < 0x20) printf("\\u%04x", (unsigned)*s);
        else fwrite(s, 1, (size_t)n, stdout), s += n - 1;
    }
    putchar('"');
}

/* For rows of columns: what would break a row or the terminal comes out as \xNN. */
static void print_text(const char *s)
{
    for (; *s; ++s)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) printf("\\x%02x", (unsigned)*s);
        else putchar(*s);
}

static void print_list(const char *name, const char *items)
{
    printf(",\"%s\":[", name);
    for (const char *s = fsb_registry_list_first(items); s; s = fsb_registry_list_next(s)) {
        print_json(s);
        if (fsb_registry_list_next(s)) putchar(',');
    }
    putchar(']');
}

static void print_time(int64_t ns)
{
    char         text[40];
    const time_t seconds = (time_t)(ns / 1000000000);
    struct tm    utc;
    gmtime_r(&seconds, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    fputs(text, stdout);
}

static void print_hash(const fsb_registry_doc *d)
{
    for (int i = 0; i < 32; ++i) printf("%02x", d->hash[i]);
}

static void print_doc_json(const fsb_registry_doc *d)
{
    fputs("{\"id\":", stdout), print_json(d->id);
    fputs(",\"version\":", stdout), print_json(d->version);
    fputs(",\"description\":", stdout), print_json(d->description);
    fputs(",\"type\":", stdout), print_json(d->content_type);
    print_list("tags", d->tags), print_list("fields", d->fields);
    fputs(",\"created\":\"", stdout), print_time(d->created_ns);
    fputs("\",\"updated\":\"", stdout), print_time(d->updated_ns);
    printf("\",\"size\":%llu,\"change\":%llu,\"blake3\":\"", (unsigned long long)d->size,
           (unsigned long long)d->change);
    print_hash(d);
    puts("\"}");
}

static void print_doc(const fsb_registry_doc *d)
{
    printf("id:          %s\nversion:     %s\n", d->id, d->version);
    if (*d->description) printf("description: %s\n", d->description);
    if (*d->content_type) printf("type:        %s\n", d->content_type);
    for (const char *s = fsb_registry_list_first(d->tags); s; s = fsb_registry_list_next(s))
        printf("tag:         %s\n", s);
    for (const char *s = fsb_registry_list_first(d->fields); s; s = fsb_registry_list_next(s))
        printf("field:       %s\n", s);
    fputs("created:     ", stdout), print_time(d->created_ns);
    fputs("\nupdated:     ", stdout), print_time(d->updated_ns);
    printf("\nsize:        %llu\nblake3:      ", (unsigned long long)d->size);
    print_hash(d);
    putchar('\n');
}

static int print_row(void *user, const fsb_registry_doc *d)
{
    (void)user;
    if (o.json) print_doc_json(d);
    else print_text(d->id), putchar('\t'), print_text(d->version), putchar('\t'),
         print_text(d->description), putchar('\n');
    return 0;
}

/* To verify they are the answer, to other commands a warning beside it: `user` is the FILE. */
static void print_problem(void *user, const char *what, int error, const char *text)
{
    const int named = !strncmp(text, what, strlen(what));
    fprintf(user ? user : stderr, "%s%s%s (%s)\n", named ? "" : what, named ? "" : ": ", text,
            strerror(-error));
}

/* ---- commands -------------------------------------------------------------------------------- */

static int cmd_init(void)
{
    fsb_registry_desc d = description(o.path);
    given(0, 0);
    if (o.folder && (o.shards || o.index.text))
        tool_usage("a plain folder has no shards and no index");
    d.kind = o.folder ? FSB_REGISTRY_FOLDER : FSB_REGISTRY_LMDB;
    d.shards = o.shards, d.indexed = o.index.text;
    reg = open_at(&d);
    return 0;
}

static int cmd_save(void)
{
    fsb_registry_doc doc = {0};
    given(2, 3);
    open_registry(0);
    doc.id = o.args[0], doc.version = o.args[1];
    doc.description = o.description, doc.content_type = o.type;
    doc.tags = o.tags.text, doc.fields = o.fields.text;
    doc.content = read_content(o.count > 2 ? o.args[2] : "-", &doc.size);
    const fsb_registry_mode mode = o.replace ? FSB_REGISTRY_REPLACE : FSB_REGISTRY_NEW;
    check(fsb_registry_save_if(reg, &doc, o.expected, mode), doc.id);
    free((void *)(uintptr_t)doc.content);
    return 0;
}

static int cmd_get(void)
{
    fsb_registry_view view;
    given(1, 1);
    open_registry(1);
    load(o.args[0], &view);
    if (o.json) print_doc_json(&view.doc);
    else if (o.meta) print_doc(&view.doc);
    else fwrite(view.doc.content, 1, view.doc.size, stdout);
    fsb_registry_release(&view);
    return 0;
}

static int64_t print_each(fsb_registry_query query)
{
    open_registry(1);
    query.bad = print_problem;
    const int64_t n = fsb_registry_each(reg, &query, print_row, NULL);
    check(n, o.path);
    return n;
}

static int cmd_list(void)
{
    fsb_registry_query query = {0};
    if (given(0, 1)) query.prefix = o.args[0];
    query.latest = 1;
    print_each(query);
    return 0;
}

static int cmd_versions(void)
{
    fsb_registry_query query = {0};
    given(1, 1);
    query.id = o.args[0], query.range = o.range, query.latest = o.latest;
    if (!print_each(query) && !o.range) check(-ENOENT, o.args[0]);
    return 0;
}

static int cmd_query(void)
{
    fsb_registry_query query = {0};
    given(0, 0);
    if (seen("tag\0") > 1 || seen("field\0") > 1)
        tool_usage("query takes one --tag and one --field");
    query.tag = o.tag, query.field = o.field, query.prefix = o.prefix, query.range = o.range;
    query.latest = o.latest;
    print_each(query);
    return 0;
}

/* Tags of a version with some added and some gone. */
static list retag(const char *tags)
{
    list made = {NULL, 0};
    for (const char *s = fsb_registry_list_first(tags); s; s = fsb_registry_list_next(s)) {
        int gone = 0;
        for (int i = 1; i < o.count; ++i) gone |= !strcmp(o.args[i] + 1, s);
        if (!gone) list_add(&made, s);
    }
    for (int i = 1; i < o.count; ++i)
        if (o.args[i][0] == '+') list_add(&made, o.args[i] + 1);
    return made;
}

static int cmd_tag(void)
{
    given(2, INT_MAX);
    for (int i = 1; i < o.count; ++i)
        if ((o.args[i][0] != '+' && o.args[i][0] != '-') || !o.args[i][1])
            tool_usage("'%s' is not +TAG or -TAG", o.args[i]);
    open_registry(0);
    int err;
    do { /* somebody may save it between our load and our save */
        char *spec = strdup(o.args[0]);
        fsb_registry_view view;
        if (!spec) tool_fail("out of memory");
        load(spec, &view);
        check(fsb_registry_detach(&view), spec);
        list tags = retag(view.doc.tags);
        fsb_registry_doc doc = view.doc;
        doc.tags = tags.text, doc.updated_ns = 0;
        err = fsb_registry_save(reg, &doc, FSB_REGISTRY_SWAP);
        if (err != -ESTALE) check(err, spec);
        fsb_registry_release(&view);
        free(tags.text), free(spec);
    } while (err == -ESTALE);
    return 0;
}

static int cmd_render(void)
{
    list              inputs = {NULL, 0};
    fsb_registry_view view;
    given(1, INT_MAX);
    open_registry(1);
    for (int i = 1; i < o.count; ++i) {
        if (!strchr(o.args[i], '=')) tool_usage("'%s' is not NAME=VALUE", o.args[i]);
        list_add(&inputs, o.args[i]);
    }
    load(o.args[0], &view);
    const int64_t n = fsb_registry_render(reg, &view.doc, inputs.text, NULL, 0);
    check(n, o.args[0]);
    char *text = malloc((size_t)n + 1);
    if (!text) tool_fail("out of memory");
    check(fsb_registry_render(reg, &view.doc, inputs.text, text, (size_t)n + 1), o.args[0]);
    fwrite(text, 1, (size_t)n, stdout);
    fsb_registry_release(&view);
    free(text), free(inputs.text);
    return 0;
}

static int cmd_bump(void)
{
    fsb_registry_view view;
    char              version[FSB_REGISTRY_VERSION_MAX + 1];
    given(1, 2);
    if (seen("major\0minor\0patch\0") != 1)
        tool_usage("bump needs one of --major, --minor and --patch");
    open_registry(0);
    check(fsb_registry_load(reg, o.args[0], NULL, &view), o.args[0]);
    check(fsb_registry_detach(&view), o.args[0]);
    fsb_registry_doc doc = view.doc;
    char            *content = NULL, before[FSB_REGISTRY_VERSION_MAX + 1];
    snprintf(before, sizeof before, "%s", doc.version);
    if (fsb_registry_version_bump(before, (fsb_registry_part)o.part, version) < 0)
        tool_fail("%s: its latest version %s is not semantic; save the next one by name", o.args[0],
                  before);
    doc.version = version, doc.created_ns = doc.updated_ns = 0;
    if (o.count > 1) doc.content = content = read_content(o.args[1], &doc.size);
    if (o.description) doc.description = o.description;
    if (o.type) doc.content_type = o.type;
    if (o.tags.text) doc.tags = o.tags.text;
    if (o.fields.text) doc.fields = o.fields.text;
    check(fsb_registry_save_if(reg, &doc, before, FSB_REGISTRY_NEW), o.args[0]);
    puts(version);
    fsb_registry_release(&view);
    free(content);
    return 0;
}

static int cmd_delete(void)
{
    given(1, 1);
    char *at = o.all ? NULL : strrchr(o.args[0], '@');
    if (!o.all && !at) tool_usage("name a version: %s@VERSION, or say --all", o.args[0]);
    open_registry(0);
    if (at) *at++ = 0;
    const int64_t n = fsb_registry_delete(reg, o.args[0], at);
    if (n == -ENOENT && at) no_version(o.args[0], at, 1);
    check(n, o.args[0]);
    printf("%lld\n", (long long)n);
    return 0;
}

static int copy(fsb_registry *from, fsb_registry *to, const char *what)
{
    fsb_registry_report report = {0};
    const fsb_registry_mode mode = o.replace ? FSB_REGISTRY_REPLACE : FSB_REGISTRY_NEW;
    const int err = fsb_registry_copy(from, to, mode, &report, print_problem, NULL);
    printf("migrated %llu, failed %llu, mismatched %llu\n", (unsigned long long)report.migrated,
           (unsigned long long)report.failed, (unsigned long long)report.mismatched);
    if (err && err != -EIO) tool_fail("copying: %s", strerror(-err));
    if (!report.migrated && !report.failed)
        tool_say("%s: holds no document; in a plain folder each is a file ID/VERSION.md", what);
    return err != 0;
}

static int cmd_import(void)
{
    given(1, 1);
    fsb_registry_desc d = description(o.args[0]);
    d.read_only = 1;
    open_registry(0);
    fsb_registry *from = open_at(&d);
    const int     status = copy(from, reg, o.args[0]);
    fsb_registry_close(from);
    return status;
}

static int cmd_export(void)
{
    given(1, 1);
    fsb_registry_desc d = description(o.args[0]);
    d.kind = o.lmdb ? FSB_REGISTRY_LMDB : FSB_REGISTRY_FOLDER;
    open_registry(1);
    fsb_registry *to = open_at(&d);
    const int     status = copy(reg, to, o.path);
    fsb_registry_close(to);
    return status;
}

static int cmd_backup(void)
{
    given(1, 1);
    open_registry(1);
    if (strcmp(o.args[0], "-"))
        check_all(fsb_registry_backup(reg, o.args[0], o.compact), o.args[0]);
    else check_all(fsb_registry_backup_fd(reg, STDOUT_FILENO, o.compact), "stdout");
    return 0;
}

static int cmd_restore(void)
{
    fsb_registry_desc d = description(o.path);
    given(1, 1);
    const int err = fsb_registry_restore(&d, o.args[0]);
    if (err == -EEXIST) tool_fail("%s: is there already; move it away first", o.path);
    if (err == -EMEDIUMTYPE) tool_fail("%s: is no backup of a registry", o.args[0]);
    if (err) tool_fail("%s: cannot restore it: %s", o.args[0], *failure ? failure : strerror(-err));
    return 0;
}

static int cmd_verify(void)
{
    given(0, 0);
    open_registry(1);
    const int64_t problems = fsb_registry_verify(reg, print_problem, stdout);
    check(problems, o.path);
    fsb_registry_stats st;
    check(fsb_registry_stat(reg, &st), o.path);
    printf("%llu versions of %llu ids, %lld problems\n", (unsigned long long)st.versions,
           (unsigned long long)st.ids, (long long)problems);
    return problems != 0;
}

static int cmd_stat(void)
{
    fsb_registry_stats st;
    given(0, 0);
    open_registry(1);
    check(fsb_registry_stat(reg, &st), o.path);
    const char *kind = st.kind == FSB_REGISTRY_LMDB ? "lmdb" : "folder";
    const struct { const char *name; uint64_t value; } rows[] = {
        {"ids", st.ids}, {"versions", st.versions}, {"content_bytes", st.content_bytes},
        {"file_bytes", st.file_bytes}, {"map_bytes", st.map_bytes},
        {"last_change", st.last_change}, {"shards", st.shards}, {"readers", st.readers}
    };
    printf(o.json ? "{\"kind\":\"%s\"" : "kind           %s\n", kind);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; ++i)
        printf(o.json ? ",\"%s\":%llu" : "%-14s %llu\n", rows[i].name,
               (unsigned long long)rows[i].value);
    if (o.json) puts("}");
    return 0;
}

static int print_change(void *user, const fsb_registry_change *c)
{
    (void)user;
    if (o.json) {
        printf("{\"change\":%llu,\"event\":\"%s\",\"id\":", (unsigned long long)c->change,
               c->deleted ? "deleted" : "saved");
        print_json(c->id), fputs(",\"version\":", stdout), print_json(c->version), puts("}");
    } else {
        printf("%llu\t%s\t", (unsigned long long)c->change, c->deleted ? "deleted" : "saved");
        print_text(c->id), putchar('\t'), print_text(c->version), putchar('\n');
    }
    return 0;
}

static volatile sig_atomic_t stop;
static void on_signal(int sig) { stop = sig; }

static int cmd_watch(void)
{
    fsb_registry_position at = {{0}};
    given(0, 0);
    open_registry(1);
    if (!o.since && !o.all) check(fsb_registry_now(reg, &at), o.path);
    const char *s = o.since ? o.since : "";
    for (int i = 0; *s && i < FSB_REGISTRY_SHARDS_MAX; ++i) {
        char *end;
        at.at[i] = strtoull(s, &end, 10);
        if (end == s || (*end && *end != ','))
            tool_usage("--since: '%s' is not N or N,N,...", o.since);
        s = *end ? end + 1 : end;
    }
    signal(SIGINT, on_signal), signal(SIGTERM, on_signal);
    while (!stop) {
        const int64_t n = fsb_registry_changes(reg, &at, print_change, NULL);
        if (n == -EINTR) continue;
        check(n, o.path);
        if (fflush(stdout) || o.once) break;
        usleep((useconds_t)o.interval_ms * 1000);
    }
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
    const char *options; /* those it knows, beside the general ones */
} commands[] = {
    {"init", cmd_init, " folder shards index "},
    {"save", cmd_save, " description type tag field replace if-latest zstd "},
    {"get", cmd_get, " meta json "},
    {"list", cmd_list, " json "},
    {"versions", cmd_versions, " range latest json "},
    {"tag", cmd_tag, " zstd "},
    {"query", cmd_query, " tag field prefix range latest json "},
    {"render", cmd_render, ""},
    {"bump", cmd_bump, " major minor patch description type tag field zstd "},
    {"delete", cmd_delete, " all "},
    {"import", cmd_import, " replace zstd "},
    {"export", cmd_export, " replace lmdb zstd "},
    {"backup", cmd_backup, " compact "},
    {"restore", cmd_restore, ""},
    {"verify", cmd_verify, ""},
    {"stat", cmd_stat, " json "},
    {"watch", cmd_watch, " since all once interval json "},
};

/* An option that a command does not know is refused rather than passed over. */
static void check_options(const char *command, const char *known)
{
    static const char general[] = " registry durability map help version ";
    for (const char *s = fsb_registry_list_first(o.seen.text); s; s = fsb_registry_list_next(s)) {
        char word[40];
        snprintf(word, sizeof word, " %s ", s);
        if (!strstr(general, word) && !strstr(known, word))
            tool_usage("%s has no option --%s", command, s);
    }
}

int fsb_cmd_registry(int argc, char **argv)
{
    tool_name = "fsb registry";
    o.part = -1, o.interval_ms = 200;
    argv[0] = (char *)(uintptr_t)tool_name; /* for getopt's messages */
    const char *home = getenv("FSB_REGISTRY");
    o.path = home && *home ? home : "registry";
    o.args = calloc((size_t)argc + 1, sizeof *o.args);
    if (!o.args) tool_fail("out of memory");
    int c;
    /* "-": arguments come in order, between options; "-TAG" of `tag` must not be one of them */
    const char *command = NULL;
    while (optind < argc) {
        const int is_tag = command && !strcmp(command, "tag") && o.count > 0
                           && argv[optind][0] == '-' && argv[optind][1] != '-';
        if (is_tag) {
            o.args[o.count++] = argv[optind++];
            continue;
        }
        int index = -1;
        c = getopt_long(argc, argv, "-r:vh", options, &index);
        if (index >= 0) list_add(&o.seen, options[index].name);
        if (c < 0) { /* after "--" */
            while (optind < argc) o.args[o.count++] = argv[optind++];
        } else if (c != 1) {
            option(c);
        } else if (!command) {
            command = optarg;
        } else {
            o.args[o.count++] = optarg;
        }
    }
    for (size_t i = 0; command && i < sizeof commands / sizeof *commands; ++i) {
        if (strcmp(command, commands[i].name)) continue;
        check_options(command, commands[i].options);
        const int status = commands[i].run();
        fsb_registry_close(reg);
        free(o.args), free(o.tags.text), free(o.fields.text), free(o.index.text), free(o.seen.text);
        if (fflush(stdout) || ferror(stdout))
            tool_fail("cannot write the answer: %s", strerror(errno));
        return status;
    }
    if (command) {
        tool_say("there is no command '%s'", command);
        fprintf(stderr, "Try 'fsb registry --help'.\n");
    } else {
        fputs(help, stderr);
    }
    return 2;
}
