/* fuzz_registry.c - hostile text for fsb_registry.h: files of a plain folder, records, versions,
   ranges, templates and their inputs. Built by `make fuzz`; tests/test_registry.c includes it and
   replays the seeds. */
#ifndef FSB_REGISTRY_H
#define FSB_REGISTRY_IMPLEMENTATION
#include "fsb_registry.h"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

static void fuzz_need(int holds)
{
    if (!holds) abort();
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

/* A file of a plain folder: what was read is written, and reads the same. */
static void fuzz_file(const uint8_t *data, size_t size)
{
    static const fsb_allocator libc = {NULL, NULL};
    char                       why[FSB_REGISTRY_WHY_];
    fsb_registry_doc           doc, again;
    char                      *text = (char *)malloc(FUZZ_ROOM(size));
    fuzz_need(text != NULL);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    if (fsb_registry_parse_(text, size, text + size + 1, "an id", "1.0.0", &doc, why) == 0) {
        fsb_registry_bytes_ b = {&libc, NULL, 0, 0, 0};
        fsb_registry_file_put_(&b, "an id", &doc);
        fuzz_need(!b.failed);
        char *copy = (char *)malloc(FUZZ_ROOM(b.size));
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
