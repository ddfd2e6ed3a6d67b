/* fuzz_registry.c - hostile text for fsb_registry.h: files of a plain folder, records, versions,
   ranges, templates and their inputs. Built by `make fuzz`; tests/test_registry.c includes it and
   replays the seeds. */
#ifndef FSB_REGISTRY_H
#define FSB_REGISTRY_IMPLEMENTATION
#include "fsb_registry.h"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

__attribute__((unused)) /* in the fuzzer itself */
static const char *const fuzz_registry_seeds[] = {
    "---\ndescription: Greets a user\ntype: text/markdown\ntags: [prompt, greeting]\n"
    "created: 2026-11-21T02:11:34.000000000Z\nfields:\n  author: ann\n  input.name: string\n---\n"
    "Hello, {{ name }}!\n",
    "---\nid: \"a\\u0041\\ud83d\\ude00\"\nversion: 1.2.0\ntags: [\"a, b\", c]\n---\n",
    "---\ntags: [a, a\nfields:\n  a: 1\n  a: 2\n---\nx",
    "---\r\ndescription: \"\\ud800\"\r\n---\r\n",
    "---\nupdated: 9999-99-99T99:99:99Z\nfields:\n",
    "no front matter",
    "---\n",
    "1.2.3-rc.1+build.7",
    "18446744073709551616.0.0-0.a.01",
    "01.0.0",
    "2024-05",
    "^1.2 || ~1.2.3 >=1.0 <2 1.x *",
    ">=1.2.3-alpha <2.0.0-0",
    "1.2.3 - 2",
    "|| ||",
    "{{ name }} {{ name | json }} {{ user.name | html }} {{ items.0 }} {{ \"{{\" }}",
    "{{ user.tags.1 }}{{ count }}{{ on }}",
    "{{ name",
    "{{ nobody }}",
    "{{ \"\\u0000\" }}{{ name | upper }}",
    "{\"name\":[1,-0.5e+9,true,null,{\"a\":\"\\u00e9\"}]}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
};

#define fuzz_need(holds) ((holds) ? (void)0 : fuzz_end(__LINE__))
static void fuzz_end(int line)
{
    fprintf(stderr, "fuzz_registry.c:%d does not hold\n", line);
    abort();
}

static int fuzz_list_same(const char *a, const char *b)
{
    const size_t size = fsb_registry_list_size_(a);
    return size == fsb_registry_list_size_(b) && (size == 1 || !memcmp(a, b, size));
}

static void fuzz_same(const fsb_registry_doc *a, const fsb_registry_doc *b)
{
    fuzz_need(!strcmp(a->id, b->id) && !strcmp(a->version, b->version));
    fuzz_need(!strcmp(a->description, b->description));
    fuzz_need(!strcmp(a->content_type, b->content_type));
    fuzz_need(fuzz_list_same(a->tags, b->tags) && fuzz_list_same(a->fields, b->fields));
    fuzz_need(a->size == b->size && (!a->size || !memcmp(a->content, b->content, a->size)));
    fuzz_need(a->created_ns == b->created_ns && a->updated_ns == b->updated_ns);
}

static size_t fuzz_room(size_t size) /* what a file's text is parsed in */
{
    return 2 * size + FSB_REGISTRY_ID_MAX + FSB_REGISTRY_VERSION_MAX + 32;
}

/* A file of a plain folder: what was read is written, and reads the same. */
static void fuzz_file(const uint8_t *data, size_t size)
{
    static const fsb_allocator libc = {NULL, NULL};
    char                       why[FSB_REGISTRY_WHY_];
    fsb_registry_doc           doc, again;
    char                      *text = (char *)malloc(fuzz_room(size));
    fuzz_need(text != NULL);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    if (fsb_registry_parse_(text, size, text + size + 1, "an id", "1.0.0", &doc, why) == 0) {
        fsb_registry_bytes_ b = {&libc, NULL, 0, 0, 0};
        if (!doc.created_ns) doc.created_ns = 1; /* a load says the file's own time here */
        if (!doc.updated_ns) doc.updated_ns = 1;
        fsb_registry_file_put_(&b, "an id", &doc, doc.created_ns, doc.updated_ns);
        fuzz_need(!b.failed);
        char *copy = (char *)malloc(fuzz_room(b.size));
        fuzz_need(copy != NULL);
        memcpy(copy, b.data, b.size);
        copy[b.size] = '\0';
        fuzz_need(!fsb_registry_parse_(copy, b.size, copy + b.size + 1, doc.id, doc.version, &again,
                                       why));
        fuzz_same(&doc, &again);
        free(copy);
        fsb_registry_bytes_free_(&b);
    }
    free(text);
}

/* A version's encoding reads back from a key, and orders as versions do. */
static void fuzz_version(const char *text)
{
    fsb_registry_ver_   v, again;
    fsb_registry_range_ range;
    uint8_t             key[FSB_REGISTRY_VER_KEY_];
    char                next[FSB_REGISTRY_VERSION_MAX + 1];
    if (fsb_registry_ver_read_(&v, text) == 0) {
        fuzz_need(v.size <= sizeof key && v.precedence <= v.size && v.numbers <= v.precedence);
        for (size_t i = 0; i < v.size; ++i) key[i] = v.key[i] ^ 0xff;
        fuzz_need(fsb_registry_ver_from_key_(&again, key, v.size) == v.kind);
        fuzz_need(again.precedence == v.precedence || v.kind == FSB_REGISTRY_V_TEXT_);
        fuzz_need(fsb_registry_version_compare(text, text) == 0);
        if (fsb_registry_version_bump(text, FSB_REGISTRY_PATCH, next) == 0)
            fuzz_need(fsb_registry_version_compare(text, next) < 0);
    }
    if (fsb_registry_range_read_(&range, text) == 0) {
        static const char *const some[] = {"0.0.0", "1.2.3", "1.2.3-rc.1", "2.0.0-0", "draft"};
        for (size_t i = 0; i < sizeof some / sizeof *some; ++i) {
            const int in = fsb_registry_version_match(some[i], text);
            fuzz_need(in == 0 || in == 1);
        }
    }
    const size_t size = strlen(text); /* a key of any bytes */
    (void)fsb_registry_ver_from_key_(&again, (const uint8_t *)text, size);
}

/* A template, and the value of its input. */
static void fuzz_template(const char *text, size_t size)
{
    fsb_registry     reg;
    fsb_registry_doc doc;
    char             out[64];
    char            *inputs = (char *)calloc(1, size + 8);
    fuzz_need(inputs != NULL);
    memset(&reg, 0, sizeof reg);
    memset(&doc, 0, sizeof doc);
    pthread_mutex_init(&reg.text_lock, NULL);
    doc.id = "a", doc.version = "1", doc.fields = "input.name=string\0input.count=number = 2\0"
        "input.user=object = {\"name\":\"b\",\"tags\":[1,{\"c\":\"\\u00e9\"}]}\0"
        "input.items=list = [\"<\",2]\0input.on=boolean = true\0";
    memcpy(inputs, "name=", 5), memcpy(inputs + 5, text, strlen(text));
    doc.content = text, doc.size = size;
    const int64_t length = fsb_registry_render(&reg, &doc, inputs, NULL, 0);
    fuzz_need(fsb_registry_render(&reg, &doc, inputs, out, sizeof out) == length);
    fuzz_need(length < 0 || strlen(out) <= (uint64_t)length);
    static const char *const types[] = {"object", "list", "number", "boolean"};
    doc.content = "{{ v.0.name.1 }}{{ v }}", doc.size = 23;
    memcpy(inputs, "v=", 2), memmove(inputs + 2, inputs + 5, strlen(inputs + 5) + 1);
    for (size_t i = 0; i < sizeof types / sizeof *types; ++i) {
        char declared[40] = {0};
        snprintf(declared, sizeof declared - 1, "input.v=%s", types[i]);
        doc.fields = declared;
        (void)fsb_registry_render(&reg, &doc, inputs, out, sizeof out);
    }
    pthread_mutex_destroy(&reg.text_lock);
    free(inputs);
}

#ifdef FSB_WITH_LMDB
/* A good record with some bytes changed: refused, or every text in it ends inside it. */
static void fuzz_record(const uint8_t *data, size_t size)
{
    static const fsb_registry_desc desc = {0};
    fsb_registry_record_           rec;
    fsb_registry_doc               doc;
    memset(&doc, 0, sizeof doc);
    doc.id = "an id", doc.version = "1.2.3", doc.tags = "a\0b\0", doc.fields = "k=v\0";
    doc.content = "content", doc.size = 7;
    fuzz_need(fsb_registry_encode_(&desc, &doc, &rec) == 0);
    for (size_t i = 0; i + 1 < size && i < 16; i += 2) rec.data[data[i] % rec.size] = data[i + 1];
    const size_t part = size & 1 ? data[size - 1] % rec.size : rec.size;
    uint8_t     *exact = (uint8_t *)malloc(part + 1); /* its end is where a reader must stop */
    fuzz_need(exact != NULL);
    memcpy(exact + 1, rec.data, part);
    if (fsb_registry_decode_(exact + 1, part, &doc) == 0) {
        const size_t texts = fsb_registry_doc_size_(&doc);
        fuzz_need(texts <= part + 8);
    }
    free(exact), free(rec.data);
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1);
    fuzz_need(text != NULL);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    fuzz_file(data, size);
    fuzz_version(text);
    fuzz_template(text, size);
#ifdef FSB_WITH_LMDB
    fuzz_record(data, size);
#endif
    free(text);
    return 0;
}
