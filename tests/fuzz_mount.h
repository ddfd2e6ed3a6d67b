/* fuzz_mount.h - mount tables and the paths that they are given (make fuzz), beside a list that is
   searched from its beginning. An input is lines: +PATH binds, -PATH unbinds, all else is a path to
   be resolved. */
#define FSB_MOUNT_IMPLEMENTATION
#include "fsb_mount.h"
#include "test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FUZZ_POINTS = 64 };

typedef struct fuzz_table {
    fsb_mounts *mounts;
    fsb_backend backend; /* nobody calls it */
    char       *points[FUZZ_POINTS];
    int         count;
} fuzz_table;

static int fuzz_find(const fuzz_table *t, const char *path)
{
    for (int i = 0; i < t->count; ++i)
        if (strcmp(t->points[i], path) == 0) return i;
    return -1;
}

/* "/", or names without "." and "..", each behind one slash. */
static int fuzz_is_normal(const char *path)
{
    if (path[0] != '/') return 0;
    if (!path[1]) return 1;
    for (const char *p = path; *p;) {
        const size_t n = strcspn(++p, "/");
        if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return 0;
        p += n;
    }
    return 1;
}

static void fuzz_add(fuzz_table *t, const char *path)
{
    const fsb_bind bind = {.backend = &t->backend};
    if (t->count == FUZZ_POINTS) return;
    const int err = fsb_mounts_add(t->mounts, path, strlen(path), &bind);
    if (!err && (!fuzz_is_normal(path) || fuzz_find(t, path) >= 0)) abort();
    if (err && err != -ENAMETOOLONG && err != -E2BIG && fuzz_is_normal(path) &&
        fuzz_find(t, path) < 0)
        abort();
    if (!err) t->points[t->count++] = strdup(path);
}

static void fuzz_remove(fuzz_table *t, const char *path)
{
    const int at = fuzz_find(t, path);
    if ((fsb_mounts_remove(t->mounts, path, NULL) == 0) != (at >= 0)) abort();
    if (at < 0) return;
    free(t->points[at]);
    t->points[at] = t->points[--t->count];
}

/* It must be the longest of the points above. */
static void fuzz_resolve(fuzz_table *t, const char *path)
{
    fsb_mounted at;
    int         best = -1;
    size_t      length = 0;
    if (!fuzz_is_normal(path)) return; /* only such ones may be asked for */
    for (int i = 0; i < t->count; ++i) {
        const size_t n = strcmp(t->points[i], "/") == 0 ? 0 : strlen(t->points[i]);
        if (strncmp(path, t->points[i], n) != 0 || (path[n] && path[n] != '/')) continue;
        if (best < 0 || n > length) best = i, length = n;
    }
    const int err = fsb_mounts_resolve(t->mounts, path, &at);
    if (err == -ENAMETOOLONG) return;
    if ((err == 0) != (best >= 0)) abort();
    if (err) return;
    if (strcmp(at.rest, strcmp(path + length, "/") == 0 ? "" : path + length) != 0) abort();
    fsb_mounts_release(t->mounts, &at);
}

/* Walking finds each of them once, in order. */
static void fuzz_walk(fuzz_table *t)
{
    static char path[FSB_PATH_MAX + 1], last[FSB_PATH_MAX + 1];
    int         n = 0;
    for (path[0] = last[0] = '\0'; fsb_mounts_next(t->mounts, "/", path); ++n) {
        if (fuzz_find(t, path) < 0 || strcmp(path, last) == 0) abort();
        strcpy(last, path);
    }
    if (n != t->count) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    test_memory      memory = {0};
    fuzz_table       t = {.count = 0};
    fsb_mounts_desc  d = {.allocator = {test_memory_fn, &memory}};
    char            *text = (char *)malloc(size + 1);
    if (!text || fsb_mounts_open(&t.mounts, &d) != 0) abort();
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    for (char *line = text, *end = text + size, *next; line < end; line = next + 1) {
        next = line + strcspn(line, "\n");
        *next = '\0';
        if (line[0] == '+') fuzz_add(&t, line + 1);
        else if (line[0] == '-') fuzz_remove(&t, line + 1);
        else fuzz_resolve(&t, line);
    }
    fuzz_walk(&t);
    while (t.count) free(t.points[--t.count]);
    fsb_mounts_close(t.mounts);
    free(text);
    if (memory.live || memory.wrong_size) abort();
    return 0;
}
