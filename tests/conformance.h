/* conformance.h - what every backend must do, asked through the vtable only.

       conformance_traits t = {.name = "memory", .has_xattr = 1};
       conformance_run(backend, &t);

   The backend's root must be empty; it is empty again afterwards. Uses the checks of test.h, so a
   failed one tells where and the suite goes on. */
#ifndef FSB_CONFORMANCE_H
#define FSB_CONFORMANCE_H
#include "test.h"
#include <sys/stat.h>
#include <sys/syscall.h>

/* Parts that a protocol may have no words for. */
enum { CONF_EXCHANGE, CONF_IDENTITY, CONF_NLINK, CONF_NANOSECONDS, CONF_LINK_OPEN, CONF_JAIL,
       CONF_NODES, CONF_HOLES, CONF_COPY, CONF_XATTR, CONF_DEEP, CONF_WATCH, CONF_DESCRIPTOR,
       CONF_PARTS };
static const char *const conf_parts[CONF_PARTS] = {
    "RENAME that exchanges", "file_id over RENAME and of hard links", "nlink",
    "times between the seconds", "LINK of an open file", "symbolic links out or in circles",
    "FIFOs and sockets", "holes", "COPY", "xattrs", "LIST of bytes and of what is below", "WATCH",
    "DESCRIPTOR"};

typedef struct conformance_traits {
    const char *name;
    int can_chown;      /* owners other than one's own may be set */
    int has_xattr;      /* user.* on files and folders */
    int has_mknod;      /* devices may be made (a FIFO always may) */
    int has_sparse;     /* SEEK, and holes are found */
    int has_punch;      /* ALLOCATE with holes */
    int has_watch;      /* events come */
    int has_deep;       /* LIST gives the bytes of small files, and goes into folders */
    int has_descriptor; /* DESCRIPTOR */
    int scoped;         /* symbolic links before the last component answer -EACCES */
    int many;           /* names in the big folder (default 5000) */
    const char *lacks[CONF_PARTS]; /* why that part is left out, which is told; NULL: see above,
                                      and what is not above must hold */
} conformance_traits;

/* Whether a local backend has to walk, and takes no symbolic link on its way: for traits.scoped. */
static inline int conf_without_openat2(void)
{
#ifdef SYS_openat2
    return syscall(SYS_openat2, -1, NULL, NULL, 0) < 0 && errno == ENOSYS;
#else
    return 1;
#endif
}

/* One call on backend b: C(STAT, .path = "/a") is its result, the answer is in conf_op. */
static __thread fsb_op conf_op;
#define C(name, ...) conf_call(b, (fsb_op){.code = FSB_OP_##name, __VA_ARGS__})
#define MODE(m) .attr = {.mask = FSB_ATTR_MODE, .mode = (m)}

static inline int64_t conf_call(fsb_backend *b, fsb_op op)
{
    conf_op = op;
    const int64_t n = fsb_backend_call(b, &conf_op);
    CHECK_EQ(n, conf_op.result);
    return n;
}

static inline fsb_stat conf_stat(fsb_backend *b, const char *path)
{
    CHECK_EQ(C(STAT, .path = path), 0);
    return conf_op.stat;
}

static inline fsb_handle conf_open(fsb_backend *b, const char *path, uint32_t flags)
{
    CHECK(C(OPEN, .path = path, .flags = flags, MODE(0644)) >= 0);
    CHECK(conf_op.handle != 0);
    return conf_op.handle;
}

static inline void conf_put(fsb_backend *b, const char *path, const char *text)
{
    const size_t n = strlen(text);
    CHECK_EQ(C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC, MODE(0644),
               .data = text, .size = n), (int64_t)n);
}

static inline void conf_is(fsb_backend *b, const char *path, const char *text)
{
    char          got[512] = "";
    const int64_t n = C(GET, .path = path, .buf = got, .size = sizeof got - 1);
    CHECK_EQ(n, (int64_t)strlen(text));
    if (n >= 0) got[n] = '\0', CHECK_STR(got, text);
}

/* What is left of a time that was set. */
static inline int64_t conf_time(const conformance_traits *t, int64_t ns)
{
    return t->lacks[CONF_NANOSECONDS] ? ns / 1000000000 * 1000000000 : ns;
}

/* ---- lists ---- */

typedef struct conf_list {
    uint32_t stop_after; /* names a call; 0: no stop */
    uint32_t count;      /* of this call */
    uint64_t cookie;
    int      with_stat;
    unsigned seen_size;
    unsigned char *seen; /* by the number in "n%06u" */
    unsigned others;
} conf_list;

static int conf_emit(fsb_op *op, const fsb_dirent *e)
{
    conf_list *l = op->user;
    unsigned   number;
    if (l->stop_after && l->count == l->stop_after) return 1;
    ++l->count, l->cookie = e->cookie;
    CHECK_EQ(strlen(e->name), e->name_size);
    CHECK(e->cookie != 0);
    CHECK(strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0);
    CHECK(e->stat.ino != 0);
    if (l->with_stat) CHECK(e->stat.file_id != 0 && e->stat.nlink > 0);
    if (l->seen && sscanf(e->name, "n%06u", &number) == 1 && number < l->seen_size)
        ++l->seen[number];
    else ++l->others;
    return 0;
}

/* The rest of a folder: a listing may come in several calls. */
static inline void conf_list_all(fsb_backend *b, const char *path, conf_list *l)
{
    int64_t more;
    do {
        const uint32_t before = l->count;
        more = C(LIST, .path = path, .offset = l->cookie, .emit = conf_emit, .user = l);
        if (more == 0) CHECK(l->count > before);
        if (more == 0 && l->count == before) return;
    } while (more == 0);
    CHECK_EQ(more, 1);
}

static inline unsigned conf_count(fsb_backend *b, const char *path)
{
    conf_list l = {0};
    conf_list_all(b, path, &l);
    return l.count;
}

/* ---- the parts ---- */

static inline void conf_paths(fsb_backend *b, const conformance_traits *t)
{
    char longest[300], deep[FSB_PATH_MAX + 10];
    (void)t;
    const char *bad[] = {"", "a", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/./b", NULL};
    for (int i = 0; bad[i]; ++i) CHECK_EQ(C(STAT, .path = bad[i]), -EINVAL);
    CHECK_EQ(C(STAT, .path = NULL), -EINVAL);
    CHECK_EQ(C(STAT, .path = "/nothing"), -ENOENT);
    CHECK_EQ(C(STAT, .path = "/nothing/below"), -ENOENT);
    CHECK_EQ(C(STAT, .path = "/", .flags = 1), -EINVAL);
    CHECK(S_ISDIR(conf_stat(b, "/").mode));
    memset(longest, 'x', sizeof longest);
    longest[0] = '/', longest[256] = '\0';
    CHECK_EQ(C(MKDIR, .path = longest, MODE(0755)), 0); /* 255 bytes */
    CHECK(S_ISDIR(conf_stat(b, longest).mode));
    CHECK_EQ(C(RMDIR, .path = longest), 0);
    longest[256] = 'x', longest[257] = '\0';
    CHECK_EQ(C(MKDIR, .path = longest, MODE(0755)), -ENAMETOOLONG);
    for (size_t i = 0; i < sizeof deep; ++i) deep[i] = i % 2 ? 'd' : '/';
    deep[FSB_PATH_MAX + 1] = '\0';
    CHECK_EQ(C(STAT, .path = deep), -ENAMETOOLONG);
    for (int c = 1; c < 256; ++c) { /* any byte but '/' and NUL is a name */
        const char name[] = {'/', (char)c, 'x', 0};
        if (c == '/') continue;
        conf_put(b, name, "odd");
        conf_is(b, name, "odd");
        CHECK_EQ(C(UNLINK, .path = name), 0);
    }
    conf_put(b, "/file", "x");
    CHECK_EQ(C(STAT, .path = "/file/below"), -ENOTDIR);
    CHECK_EQ(C(MKDIR, .path = "/file/below", MODE(0755)), -ENOTDIR);
    CHECK_EQ(C(LIST, .path = "/file", .emit = conf_emit), -ENOTDIR);
    CHECK_EQ(C(UNLINK, .path = "/file"), 0);
}

static inline void conf_open_close(fsb_backend *b, const conformance_traits *t)
{
    const uint32_t rw = FSB_O_READ | FSB_O_WRITE;
    (void)t;
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ), -ENOENT);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = 0), -EINVAL);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ | 1024), -EINVAL);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ | FSB_O_EXCL), -EINVAL);
    CHECK_EQ(C(OPEN, .path = "/", .flags = FSB_O_READ), -EISDIR);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = rw | FSB_O_CREATE | FSB_O_EXCL, MODE(0640)), 0);
    const fsb_handle h = conf_op.handle;
    const fsb_stat   st = conf_op.stat;
    CHECK_EQ(st.mode, S_IFREG | 0640);
    CHECK_EQ(st.size, 0);
    CHECK_EQ(st.nlink, 1);
    CHECK(st.file_id != 0 && st.version != 0 && st.mtime_ns > 0);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = rw | FSB_O_CREATE | FSB_O_EXCL), -EEXIST);
    CHECK_EQ(C(WRITE, .handle = h, .data = "hello world", .size = 11), 11);
    CHECK_EQ(conf_op.stat.size, 11);
    CHECK(conf_op.stat.version != st.version);
    CHECK_EQ(conf_op.stat.file_id, st.file_id);
    char buf[64] = "";
    CHECK_EQ(C(READ, .handle = h, .offset = 6, .buf = buf, .size = 64), 5);
    CHECK_STR(buf, "world");
    CHECK_EQ(C(READ, .handle = h, .offset = 11, .buf = buf, .size = 64), 0);
    CHECK_EQ(C(READ, .handle = h, .offset = 1 << 30, .buf = buf, .size = 64), 0);
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 64, .flags = 1), -EINVAL);
    CHECK_EQ(C(READ, .handle = h, .size = 5), 5); /* without buf: a slice */
    CHECK_EQ(conf_op.slice.size, 5);
    CHECK(conf_op.slice.data && !memcmp(conf_op.slice.data, "hello", 5));
    fsb_slice_release(&conf_op.slice);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ, .buf = buf, .size = 5), 5);
    CHECK(!memcmp(buf, "hello", 5));
    const fsb_handle ro = conf_op.handle;
    CHECK_EQ(conf_op.stat.size, 11);
    CHECK_EQ(C(WRITE, .handle = ro, .data = "x", .size = 1), -EBADF);
    CHECK_EQ(C(SETATTR, .handle = ro, .attr = {.mask = FSB_ATTR_SIZE}), -EBADF);
    CHECK_EQ(C(CLOSE, .handle = ro), 0);
    const fsb_handle wo = conf_open(b, "/f", FSB_O_WRITE);
    CHECK_EQ(C(READ, .handle = wo, .buf = buf, .size = 1), -EBADF);
    CHECK_EQ(C(CLOSE, .handle = wo), 0);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = rw | FSB_O_CREATE | FSB_O_TRUNC, MODE(0600)), 0);
    CHECK_EQ(conf_op.stat.size, 0);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 0640); /* mode is a new file's only */
    CHECK_EQ(C(CLOSE, .handle = conf_op.handle), 0);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = h), -EBADF);
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 1), -EBADF);
    CHECK_EQ(C(STAT, .handle = h), -EBADF);
    CHECK_EQ(C(READ, .handle = 0, .buf = buf, .size = 1), -EBADF);
    CHECK_EQ(C(READ, .handle = UINT64_MAX, .buf = buf, .size = 1), -EBADF);
    CHECK_EQ(C(READ, .handle = h + 1, .buf = buf, .size = 1), -EBADF);
    CHECK_EQ(C(UNLINK, .path = "/f"), 0);
}

static inline void conf_write(fsb_backend *b, const conformance_traits *t)
{
    static char big[FSB_IO_MAX], got[FSB_IO_MAX];
    (void)t;
    const fsb_handle h = conf_open(b, "/w", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
    for (size_t i = 0; i < sizeof big; ++i) big[i] = (char)(i * 7 + i / 4096);
    CHECK_EQ(C(WRITE, .handle = h, .data = big, .size = sizeof big, .offset = 12345),
             (int64_t)sizeof big);
    CHECK_EQ(conf_op.stat.size, sizeof big + 12345);
    CHECK_EQ(C(READ, .handle = h, .buf = got, .size = sizeof got, .offset = 12345),
             (int64_t)sizeof got);
    CHECK(!memcmp(big, got, sizeof big));
    CHECK_EQ(C(READ, .handle = h, .buf = got, .size = 12345), 12345);
    int zero = 1;
    for (int i = 0; i < 12345; ++i) zero &= !got[i];
    CHECK(zero);
    CHECK(C(READ, .handle = h, .buf = got, .size = sizeof got + 1) < 0);
    CHECK_EQ(C(WRITE, .handle = h, .data = "x", .size = 1, .flags = 64), -EINVAL);
    CHECK_EQ(C(WRITE, .handle = h, .data = "x", .size = 1, .offset = INT64_MAX), -EFBIG);
    CHECK_EQ(C(WRITE, .handle = h, .data = NULL, .size = 1), -EINVAL);
    CHECK_EQ(C(WRITE, .handle = h, .data = "", .size = 0), 0);
    CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_SIZE, .size = 3}), 0);
    CHECK_EQ(conf_op.stat.size, 3);
    CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_SIZE, .size = 100000}), 0);
    CHECK_EQ(C(READ, .handle = h, .buf = got, .size = sizeof got), 100000);
    zero = 1;
    for (int i = 3; i < 100000; ++i) zero &= !got[i]; /* what was cut off does not come back */
    CHECK(zero);
    CHECK_EQ(C(SETATTR, .path = "/w", .attr = {.mask = FSB_ATTR_SIZE, .size = 5}), 0);
    CHECK_EQ(C(WRITE, .handle = h, .data = "end", .size = 3, .flags = FSB_WRITE_APPEND,
               .offset = 77), 3);
    CHECK_EQ(conf_op.out_offset, 5);
    CHECK_EQ(conf_op.stat.size, 8);
    const fsb_handle other = conf_open(b, "/w", FSB_O_WRITE);
    CHECK_EQ(C(WRITE, .handle = other, .data = "more", .size = 4, .flags = FSB_WRITE_APPEND), 4);
    CHECK_EQ(conf_op.out_offset, 8);
    CHECK_EQ(C(WRITE, .handle = h, .data = "!", .size = 1, .flags = FSB_WRITE_APPEND), 1);
    CHECK_EQ(conf_op.out_offset, 12);
    CHECK_EQ(C(CLOSE, .handle = other), 0);
    /* A same-size rewrite is a new version, too. */
    CHECK_EQ(C(STAT, .handle = h), 0);
    uint64_t version = conf_op.stat.version;
    for (int i = 0; i < 20; ++i) {
        CHECK_EQ(C(WRITE, .handle = h, .data = i % 2 ? "a" : "b", .size = 1), 1);
        CHECK(conf_op.stat.version != version);
        version = conf_op.stat.version;
    }
    CHECK_EQ(C(SYNC, .handle = h), 0);
    CHECK_EQ(C(SYNC, .handle = h, .flags = FSB_SYNC_DATA), 0);
    CHECK_EQ(C(SYNC, .handle = h, .flags = 2), -EINVAL);
    CHECK_EQ(C(SYNC, .path = "/"), 0);
    CHECK_EQ(C(SYNC, .path = "/w"), 0);
    CHECK_EQ(C(SYNC, .path = "/none"), -ENOENT);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(UNLINK, .path = "/w"), 0);
}

static inline void conf_unlinked(fsb_backend *b, const conformance_traits *t)
{
    char buf[16] = "";
    conf_put(b, "/u", "first");
    const uint64_t   id = conf_stat(b, "/u").file_id;
    const fsb_handle h = conf_open(b, "/u", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(C(UNLINK, .path = "/u"), 0);
    CHECK_EQ(C(STAT, .path = "/u"), -ENOENT);
    CHECK_EQ(C(STAT, .handle = h), 0);
    if (!t->lacks[CONF_NLINK]) CHECK_EQ(conf_op.stat.nlink, 0);
    CHECK_EQ(conf_op.stat.file_id, id);
    CHECK_EQ(C(WRITE, .handle = h, .data = "live", .size = 4, .offset = 5), 4);
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 16), 9);
    CHECK_STR(buf, "firstlive");
    CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_SIZE | FSB_ATTR_MODE, .mode = 0600,
                                              .size = 2}), 0);
    CHECK_EQ(conf_op.stat.size, 2);
    if (!t->lacks[CONF_LINK_OPEN]) CHECK_EQ(C(LINK, .handle = h, .path2 = "/back"), -ENOENT);
    conf_put(b, "/u", "second");
    CHECK(conf_stat(b, "/u").file_id != id); /* the name is another file's now */
    CHECK_EQ(C(STAT, .path = "/u", .file_id = id), -ESTALE);
    CHECK_EQ(C(OPEN, .path = "/u", .flags = FSB_O_READ, .file_id = id), -ESTALE);
    CHECK_EQ(C(GET, .path = "/u", .file_id = id, .buf = buf, .size = 1), -ESTALE);
    CHECK_EQ(C(SETATTR, .path = "/u", .file_id = id, .attr = {.mask = FSB_ATTR_MODE}), -ESTALE);
    CHECK_EQ(C(LIST, .path = "/", .file_id = id, .emit = conf_emit), -ESTALE);
    CHECK_EQ(C(STAT, .path = "/u", .file_id = conf_stat(b, "/u").file_id), 0);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    conf_is(b, "/u", "second");
    CHECK_EQ(C(UNLINK, .path = "/u"), 0);
}

static inline void conf_folders(fsb_backend *b, const conformance_traits *t)
{
    const uint32_t nlink = conf_stat(b, "/").nlink;
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0751)), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFDIR | 0751);
    CHECK_EQ(conf_op.stat.nlink, conf_stat(b, "/d").nlink);
    if (conf_op.stat.nlink == 2) CHECK_EQ(conf_stat(b, "/").nlink, nlink + 1);
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), -EEXIST);
    CHECK_EQ(C(MKDIR, .path = "/", MODE(0755)), -EEXIST);
    CHECK_EQ(C(MKDIR, .path = "/x/y", MODE(0755)), -ENOENT);
    CHECK_EQ(C(MKDIR, .path = "/x", .flags = 1), -EINVAL);
    const fsb_stat before = conf_stat(b, "/d");
    conf_put(b, "/d/f", "x");
    const fsb_stat after = conf_stat(b, "/d");
    CHECK(after.version != before.version);
    if (!t->lacks[CONF_NANOSECONDS]) CHECK(after.mtime_ns > before.mtime_ns);
    CHECK_EQ(C(RMDIR, .path = "/d"), -ENOTEMPTY);
    CHECK_EQ(C(RMDIR, .path = "/d/f"), -ENOTDIR);
    CHECK_EQ(C(RMDIR, .path = "/none"), -ENOENT);
    CHECK_EQ(C(RMDIR, .path = "/"), -EBUSY);
    CHECK_EQ(C(UNLINK, .path = "/d"), -EISDIR);
    CHECK_EQ(C(UNLINK, .path = "/"), -EISDIR);
    CHECK_EQ(C(UNLINK, .path = "/d/none"), -ENOENT);
    CHECK_EQ(C(OPEN, .path = "/d", .flags = FSB_O_WRITE), -EISDIR);
    CHECK_EQ(C(GET, .path = "/d", .size = 1), -EISDIR);
    CHECK_EQ(C(SETATTR, .path = "/d", .attr = {.mask = FSB_ATTR_SIZE}), -EISDIR);
    CHECK_EQ(C(UNLINK, .path = "/d/f"), 0);
    CHECK_EQ(C(RMDIR, .path = "/d"), 0);
    CHECK_EQ(C(MKDIR, .path = "/g", MODE(02775)), 0); /* set-group-id is handed down */
    CHECK_EQ(conf_op.stat.mode, S_IFDIR | 02775);
    CHECK_EQ(C(MKDIR, .path = "/g/h", MODE(0700)), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFDIR | 02700);
    if (t->can_chown) {
        CHECK_EQ(C(SETATTR, .path = "/g", .attr = {.mask = FSB_ATTR_GID, .gid = 777}), 0);
        CHECK_EQ(C(PUT, .path = "/g/f", .flags = FSB_O_WRITE | FSB_O_CREATE,
                   .attr = {.mask = FSB_ATTR_MODE | FSB_ATTR_UID | FSB_ATTR_GID, .mode = 0600,
                            .uid = 1001, .gid = 1002}), 0);
        CHECK_EQ(conf_op.stat.uid, 1001);
        CHECK_EQ(conf_op.stat.gid, 777);
        CHECK_EQ(C(UNLINK, .path = "/g/f"), 0);
    }
    CHECK_EQ(C(RMDIR, .path = "/g/h"), 0);
    CHECK_EQ(C(RMDIR, .path = "/g"), 0);
    CHECK_EQ(conf_stat(b, "/").nlink, nlink);
}

static inline void conf_list_big(fsb_backend *b, const conformance_traits *t)
{
    const unsigned n = t->many ? (unsigned)t->many : 5000;
    unsigned char *seen = calloc(n, 1);
    char           path[32];
    REQUIRE(seen);
    CHECK_EQ(C(MKDIR, .path = "/big", MODE(0755)), 0);
    for (unsigned i = 0; i < n; ++i) {
        snprintf(path, sizeof path, "/big/n%06u", i);
        if (C(MKNOD, .path = path, MODE(S_IFREG | 0644))) CHECK(!"made a name");
    }
    conf_list l = {.seen = seen, .seen_size = n};
    conf_list_all(b, "/big", &l);
    CHECK_EQ(l.count, n);
    for (unsigned i = 0; i < n; ++i) CHECK_EQ(seen[i], 1);
    /* In pieces, while names come and go: those that stay come once each. */
    memset(seen, 0, n);
    l = (conf_list){.seen = seen, .seen_size = n, .stop_after = n / 9 + 1, .with_stat = 1};
    int64_t more = 0;
    for (unsigned round = 0; more == 0 && round < 100; ++round) {
        l.count = 0;
        more = C(LIST, .path = "/big", .offset = l.cookie, .flags = FSB_LIST_STAT,
                 .emit = conf_emit, .user = &l);
        if (more == 0) CHECK(l.count > 0 && l.count <= l.stop_after);
        snprintf(path, sizeof path, "/big/extra%u", round);
        CHECK_EQ(C(MKDIR, .path = path, MODE(0755)), 0);
        if (round) {
            snprintf(path, sizeof path, "/big/extra%u", round - 1);
            CHECK_EQ(C(RMDIR, .path = path), 0);
        }
    }
    CHECK_EQ(more, 1);
    for (unsigned i = 0; i < n; ++i) CHECK_EQ(seen[i], 1);
    CHECK_EQ(C(LIST, .path = "/big", .emit = conf_emit, .user = &l, .flags = 2), -EINVAL);
    CHECK_EQ(C(LIST, .path = "/big"), -EINVAL);
    CHECK_EQ(C(LIST, .path = "/none", .emit = conf_emit, .user = &l), -ENOENT);
    for (unsigned i = 0; i < n; ++i) {
        snprintf(path, sizeof path, "/big/n%06u", i);
        if (C(UNLINK, .path = path)) CHECK(!"removed a name");
    }
    for (unsigned i = 0; i < 100; ++i) {
        snprintf(path, sizeof path, "/big/extra%u", i);
        C(RMDIR, .path = path);
    }
    CHECK_EQ(conf_count(b, "/big"), 0);
    CHECK_EQ(C(RMDIR, .path = "/big"), 0);
    free(seen);
}

/* ---- lists with bytes, and of what is below ---- */

typedef struct conf_tree {
    unsigned names, with_data, wrong, whole, limit; /* limit: names, then emit() stops; 0: none */
    unsigned depth;        /* of the last name; names come breadth first */
    char     folders[400]; /* those said to be whole, in their order */
    uint64_t last_cookie;  /* of op->path's own names */
} conf_tree;

static unsigned conf_slashes(const char *path)
{
    unsigned n = 0;
    for (; *path; ++path) n += *path == '/';
    return n;
}

static int conf_tree_emit(fsb_op *op, const fsb_dirent *e)
{
    conf_tree *t = op->user;
    if (t->limit && t->names == t->limit) return 1;
    const unsigned depth = e->folder ? conf_slashes(e->folder) : 0;
    CHECK(depth >= t->depth);
    t->depth = depth;
    CHECK_EQ(strlen(e->name), e->name_size);
    if (!e->name_size) {
        CHECK(e->folder && S_ISDIR(e->stat.mode) && !e->data);
        ++t->whole;
        strncat(t->folders, e->folder, sizeof t->folders - strlen(t->folders) - 1);
        return 0;
    }
    ++t->names;
    if (!e->folder) t->last_cookie = e->cookie;
    else CHECK(!strncmp(e->folder, "/t/", 3));
    CHECK(e->stat.file_id != 0 && e->stat.mode != 0);
    if (e->data) { /* a file is its name, over and over */
        ++t->with_data;
        CHECK(S_ISREG(e->stat.mode));
        for (uint64_t i = 0; i < e->stat.size; ++i)
            t->wrong += ((const char *)e->data)[i] != e->name[i % e->name_size];
    }
    return 0;
}

static inline void conf_named_file(fsb_backend *b, const char *path, size_t size)
{
    static char data[70000];
    const char *name = strrchr(path, '/') + 1;
    for (size_t i = 0; i < size; ++i) data[i] = name[i % strlen(name)];
    CHECK_EQ(C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE, MODE(0644), .data = data,
               .size = size), (int64_t)size);
}

static inline conf_tree conf_tree_of(fsb_backend *b, uint32_t flags, uint64_t budget,
                                     unsigned limit, int64_t result)
{
    conf_tree t = {.limit = limit};
    CHECK_EQ(C(LIST, .path = "/t", .flags = FSB_LIST_STAT | flags, .size64 = budget,
               .emit = conf_tree_emit, .user = &t), result);
    CHECK_EQ(t.wrong, 0);
    return t;
}

static inline void conf_list_budget(fsb_backend *b)
{
    const uint32_t all = FSB_LIST_DATA | FSB_LIST_DEEP;
    conf_tree      t = {0};
    unsigned       names = 0, calls = 0;
    int64_t        more = 0;
    for (uint64_t cookie = 0; more == 0 && calls < 20; ++calls, cookie = t.last_cookie) {
        t = (conf_tree){0};
        more = C(LIST, .path = "/t", .flags = FSB_LIST_STAT | FSB_LIST_DATA, .offset = cookie,
                 .size64 = 1, .emit = conf_tree_emit, .user = &t);
        CHECK(more == 1 || t.names == 1); /* one at least, then it was enough */
        names += t.names;
    }
    CHECK_EQ(more, 1);
    CHECK_EQ(names, 8);
    t = conf_tree_of(b, all, 70000 + 8 * 300, 0, 1); /* its own names, not all that is below */
    CHECK(t.names >= 8 && t.names < 14);
    t = conf_tree_of(b, all, 0, 9, 1); /* stopped below: its own names were all there */
    CHECK_EQ(t.names, 9);
    t = conf_tree_of(b, all, 0, 3, 0);
    CHECK_EQ(t.names, 3);
}

/* /t: empty, small, big (64 KiB), over (one more), link, fifo, a/{x, one/{y, deep/z}}, b/ */
static inline void conf_list_deep(fsb_backend *b, const conformance_traits *t)
{
    const char *folders[] = {"/t", "/t/a", "/t/a/one", "/t/a/one/deep", "/t/b"};
    const char *files[] = {"/t/empty", "/t/small", "/t/big", "/t/over", "/t/a/x", "/t/a/one/y",
                           "/t/a/one/deep/z"};
    const size_t sizes[] = {0, 1000, 65536, 65537, 10, 20, 30};
    if (!t->has_deep) return;
    for (size_t i = 0; i < 5; ++i) CHECK_EQ(C(MKDIR, .path = folders[i], MODE(0755)), 0);
    for (size_t i = 0; i < 7; ++i) conf_named_file(b, files[i], sizes[i]);
    if (C(SYMLINK, .path = "/t/link", .path2 = "a")) CHECK(!"made a link");
    CHECK_EQ(C(MKNOD, .path = "/t/fifo", MODE(S_IFIFO | 0600)), 0);
    CHECK_EQ(C(LIST, .path = "/t", .flags = FSB_LIST_DATA, .emit = conf_tree_emit), -EINVAL);
    CHECK_EQ(C(LIST, .path = "/t", .flags = FSB_LIST_DEEP, .emit = conf_tree_emit), -EINVAL);
    CHECK_EQ(C(LIST, .path = "/t", .flags = 8 | FSB_LIST_STAT, .emit = conf_tree_emit), -EINVAL);
    const fsb_stat before = conf_stat(b, "/t");
    conf_tree      got = conf_tree_of(b, 0, 0, 0, 1);
    CHECK_EQ(conf_op.stat.file_id, before.file_id);
    CHECK_EQ(conf_op.stat.version, before.version);
    CHECK_EQ(got.names, 8);
    CHECK_EQ(got.with_data, 0);
    got = conf_tree_of(b, FSB_LIST_DATA, 0, 0, 1);
    CHECK_EQ(got.names, 8);
    CHECK_EQ(got.with_data, 3); /* not the one over 64 KiB, not the link, not the FIFO */
    got = conf_tree_of(b, FSB_LIST_DATA | FSB_LIST_DEEP, 0, 0, 1);
    CHECK_EQ(got.names, 13);
    CHECK_EQ(got.with_data, 6);
    CHECK_EQ(got.whole, 4);
    CHECK(!strcmp(got.folders, "/t/a/t/b/t/a/one/t/a/one/deep")
          || !strcmp(got.folders, "/t/b/t/a/t/a/one/t/a/one/deep"));
    conf_list_budget(b);
    CHECK_EQ(C(UNLINK, .path = "/t/link"), 0);
    CHECK_EQ(C(UNLINK, .path = "/t/fifo"), 0);
    for (size_t i = 0; i < 7; ++i) CHECK_EQ(C(UNLINK, .path = files[i]), 0);
    for (size_t i = 5; i-- > 0;) CHECK_EQ(C(RMDIR, .path = folders[i]), 0);
}

/* Two names change places: at once, or by way of a third. */
static inline void conf_swap(fsb_backend *b, const conformance_traits *t, const char *one,
                             const char *other)
{
    if (!t->lacks[CONF_EXCHANGE]) {
        CHECK_EQ(C(RENAME, .path = one, .path2 = "/c", .flags = FSB_RENAME_EXCHANGE), -ENOENT);
        CHECK_EQ(C(RENAME, .path = one, .path2 = other, .flags = FSB_RENAME_EXCHANGE), 0);
    } else {
        CHECK_EQ(C(RENAME, .path = one, .path2 = "/third"), 0);
        CHECK_EQ(C(RENAME, .path = other, .path2 = one), 0);
        CHECK_EQ(C(RENAME, .path = "/third", .path2 = other), 0);
    }
}

static inline void conf_rename(fsb_backend *b, const conformance_traits *t)
{
    const int same = !t->lacks[CONF_IDENTITY];
    conf_put(b, "/a", "A");
    conf_put(b, "/b", "B");
    const uint64_t id = conf_stat(b, "/a").file_id;
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/b", .flags = FSB_RENAME_NOREPLACE), -EEXIST);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/b", .flags = 3), -EINVAL);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/b", .flags = 4), -EINVAL);
    CHECK_EQ(C(RENAME, .path = "/none", .path2 = "/b"), -ENOENT);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/none/b"), -ENOENT);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/b/c"), -ENOTDIR);
    conf_swap(b, t, "/a", "/b");
    conf_is(b, "/a", "B");
    if (same) CHECK_EQ(conf_stat(b, "/b").file_id, id);
    CHECK_EQ(C(RENAME, .path = "/b", .path2 = "/a"), 0); /* replaces */
    conf_is(b, "/a", "A");
    if (same) CHECK_EQ(conf_stat(b, "/a").file_id, id);
    CHECK_EQ(C(STAT, .path = "/b"), -ENOENT);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/a"), 0);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/c", .flags = FSB_RENAME_NOREPLACE), 0);
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/d/e", MODE(0755)), 0);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/d/e/f"), -EINVAL);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/d/e", .flags = FSB_RENAME_EXCHANGE), -EINVAL);
    CHECK_EQ(C(RENAME, .path = "/d/e", .path2 = "/d"), -ENOTEMPTY);
    CHECK_EQ(C(RENAME, .path = "/c", .path2 = "/d"), -EISDIR);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/c"), -ENOTDIR);
    CHECK_EQ(C(RENAME, .path = "/", .path2 = "/x"), -EBUSY);
    CHECK_EQ(C(RENAME, .path = "/c", .path2 = "/"), -EBUSY);
    CHECK_EQ(C(MKDIR, .path = "/x", MODE(0755)), 0);
    conf_put(b, "/d/e/deep", "deep");
    const uint64_t deep = conf_stat(b, "/d/e/deep").file_id;
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/x"), 0); /* an empty folder is replaced */
    conf_is(b, "/x/e/deep", "deep");
    if (same) CHECK_EQ(conf_stat(b, "/x/e/deep").file_id, deep);
    CHECK_EQ(C(RENAME, .path = "/c", .path2 = "/x/e/c"), 0);
    CHECK_EQ(C(RENAME, .path = "/x/e", .path2 = "/x/e2"), 0);
    CHECK_EQ(C(MKDIR, .path = "/y", MODE(0755)), 0);
    CHECK_EQ(C(RENAME, .path = "/y", .path2 = "/x"), -ENOTEMPTY);
    conf_swap(b, t, "/y", "/x/e2/c");
    conf_is(b, "/y", "A");
    CHECK_EQ(C(RMDIR, .path = "/x/e2/c"), 0);
    CHECK_EQ(C(UNLINK, .path = "/y"), 0);
    CHECK_EQ(C(UNLINK, .path = "/x/e2/deep"), 0);
    CHECK_EQ(C(RMDIR, .path = "/x/e2"), 0);
    CHECK_EQ(C(RMDIR, .path = "/x"), 0);
}

static inline void conf_links(fsb_backend *b, const conformance_traits *t)
{
    const uint32_t two = t->lacks[CONF_NLINK] ? 1 : 2;
    char           buf[64];
    conf_put(b, "/a", "text");
    const uint64_t id = conf_stat(b, "/a").file_id;
    CHECK_EQ(C(LINK, .path = "/a", .path2 = "/b"), 0);
    CHECK_EQ(conf_op.stat.nlink, two);
    if (!t->lacks[CONF_IDENTITY]) CHECK_EQ(conf_stat(b, "/b").file_id, id);
    CHECK_EQ(C(LINK, .path = "/a", .path2 = "/b"), -EEXIST);
    CHECK_EQ(C(LINK, .path = "/none", .path2 = "/c"), -ENOENT);
    CHECK_EQ(C(LINK, .path = "/a", .path2 = "/none/c"), -ENOENT);
    CHECK_EQ(C(LINK, .path = "/a", .path2 = "/c", .file_id = id + 1), -ESTALE);
    CHECK_EQ(C(RENAME, .path = "/a", .path2 = "/b"), 0); /* same file: nothing happens */
    CHECK_EQ(conf_stat(b, "/a").nlink, two);
    const fsb_handle h = t->lacks[CONF_LINK_OPEN] ? 0 : conf_open(b, "/a", FSB_O_READ);
    CHECK_EQ(C(LINK, .path = h ? NULL : "/a", .handle = h, .path2 = "/c"), 0);
    if (h) CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(UNLINK, .path = "/a"), 0);
    CHECK_EQ(conf_stat(b, "/b").nlink, two);
    conf_is(b, "/c", "text");
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(C(LINK, .path = "/d", .path2 = "/d2"), -EPERM);

    CHECK_EQ(C(SYMLINK, .path = "/d/up", .path2 = "../b"), 0);
    CHECK(S_ISLNK(conf_op.stat.mode));
    CHECK_EQ(conf_op.stat.size, 4);
    CHECK_EQ(C(SYMLINK, .path = "/d/up", .path2 = "x"), -EEXIST);
    CHECK_EQ(C(SYMLINK, .path = "/d/empty", .path2 = ""), -ENOENT);
    CHECK_EQ(C(READLINK, .path = "/d/up", .buf = buf, .size = sizeof buf), 4);
    CHECK(!memcmp(buf, "../b", 4));
    CHECK_EQ(C(READLINK, .path = "/d/up", .buf = buf, .size = 2), 2);
    CHECK_EQ(C(READLINK, .path = "/d/up", .size = 4095), 4);
    fsb_slice_release(&conf_op.slice);
    CHECK_EQ(C(READLINK, .path = "/b", .buf = buf, .size = 9), -EINVAL);
    CHECK_EQ(C(OPEN, .path = "/d/up", .flags = FSB_O_READ), -ELOOP); /* never followed at the end */
    CHECK_EQ(C(GET, .path = "/d/up", .buf = buf, .size = 9), -ELOOP);
    CHECK_EQ(C(SETATTR, .path = "/d/up", .attr = {.mask = FSB_ATTR_MODE}), -EOPNOTSUPP);
    CHECK_EQ(C(SETATTR, .path = "/d/up", .attr = {.mask = FSB_ATTR_MTIME,
             .mtime_ns = INT64_C(5000000005)}), 0);
    CHECK_EQ(conf_op.stat.mtime_ns, conf_time(t, INT64_C(5000000005)));
    CHECK(S_ISLNK(conf_op.stat.mode));
    CHECK_EQ(C(SYMLINK, .path = "/s", .path2 = "d"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/abs", .path2 = "/d"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/out", .path2 = "../../../.."), 0);
    CHECK_EQ(C(SYMLINK, .path = "/gone", .path2 = "none"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/l1", .path2 = "l2"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/l2", .path2 = "l1"), 0);
    CHECK_EQ(C(STAT, .path = "/s/up"), t->scoped ? -EACCES : 0);
    CHECK_EQ(C(MKDIR, .path = "/s/made", MODE(0700)), t->scoped ? -EACCES : 0);
    CHECK_EQ(C(RMDIR, .path = "/d/made"), t->scoped ? -ENOENT : 0);
    if (!t->lacks[CONF_JAIL]) {
        CHECK_EQ(C(STAT, .path = "/abs/up"), -EACCES);
        CHECK_EQ(C(STAT, .path = "/out/etc"), -EACCES);
        CHECK_EQ(C(MKDIR, .path = "/out/etc", MODE(0700)), -EACCES);
        CHECK_EQ(C(RENAME, .path = "/b", .path2 = "/out/b"), -EACCES);
        CHECK_EQ(C(STAT, .path = "/l1/x"), t->scoped ? -EACCES : -ELOOP);
    }
    CHECK_EQ(C(STAT, .path = "/gone/x"), t->scoped ? -EACCES : -ENOENT);
    CHECK_EQ(C(LIST, .path = "/s", .emit = conf_emit), -ENOTDIR);
    CHECK_EQ(C(LINK, .path = "/s", .path2 = "/s2"), 0); /* the link itself */
    CHECK(S_ISLNK(conf_stat(b, "/s2").mode));
    const char *names[] = {"/s2", "/s", "/abs", "/out", "/gone", "/l1", "/l2", "/d/up", "/b", "/c"};
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        CHECK_EQ(C(UNLINK, .path = names[i]), 0);
    CHECK_EQ(C(RMDIR, .path = "/d"), 0);
}

static inline void conf_special(fsb_backend *b, const conformance_traits *t)
{
    CHECK_EQ(C(MKNOD, .path = "/reg", MODE(S_IFREG | 0604)), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 0604);
    CHECK_EQ(C(MKNOD, .path = "/reg", MODE(S_IFREG | 0604)), -EEXIST);
    CHECK_EQ(C(UNLINK, .path = "/reg"), 0);
    CHECK_EQ(C(MKNOD, .path = "/dir", MODE(S_IFDIR | 0604)), -EPERM);
    if (t->lacks[CONF_NODES]) return;
    CHECK_EQ(C(MKNOD, .path = "/fifo", MODE(S_IFIFO | 0622)), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFIFO | 0622);
    CHECK_EQ(C(MKNOD, .path = "/sock", MODE(S_IFSOCK | 0600)), 0);
    if (t->has_mknod) {
        CHECK_EQ(C(MKNOD, .path = "/null", .attr = {.mask = FSB_ATTR_MODE, .mode = S_IFCHR | 0666,
                                                    .rdev_major = 1, .rdev_minor = 3}), 0);
        CHECK_EQ(conf_op.stat.rdev_major, 1);
        CHECK_EQ(conf_op.stat.rdev_minor, 3);
        CHECK_EQ(C(OPEN, .path = "/null", .flags = FSB_O_READ), -ENXIO);
        CHECK_EQ(C(UNLINK, .path = "/null"), 0);
    }
    CHECK_EQ(C(OPEN, .path = "/fifo", .flags = FSB_O_READ), -ENXIO); /* and does not block */
    CHECK_EQ(C(OPEN, .path = "/fifo", .flags = FSB_O_WRITE), -ENXIO);
    CHECK_EQ(C(OPEN, .path = "/sock", .flags = FSB_O_READ), -ENXIO);
    CHECK_EQ(C(SYNC, .path = "/fifo"), -EINVAL);
    CHECK_EQ(C(SETATTR, .path = "/fifo", .attr = {.mask = FSB_ATTR_SIZE}), -EINVAL);
    CHECK_EQ(C(UNLINK, .path = "/fifo"), 0);
    CHECK_EQ(C(UNLINK, .path = "/sock"), 0);
}

static inline void conf_setattr(fsb_backend *b, const conformance_traits *t)
{
    conf_put(b, "/f", "12345");
    for (uint32_t mode = 0; mode < 010000; mode += 0357) {
        CHECK_EQ(C(SETATTR, .path = "/f", MODE(mode)), 0);
        CHECK_EQ(conf_op.stat.mode, S_IFREG | mode);
    }
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_ATIME | FSB_ATTR_MTIME,
             .atime_ns = INT64_C(1234567890123456789),
             .mtime_ns = INT64_C(987654321987654321)}), 0);
    CHECK_EQ(conf_op.stat.atime_ns, conf_time(t, INT64_C(1234567890123456789)));
    CHECK_EQ(conf_op.stat.mtime_ns, conf_time(t, INT64_C(987654321987654321)));
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_MTIME, .mtime_ns = -1}), 0);
    CHECK_EQ(conf_op.stat.mtime_ns, conf_time(t, -1));
    CHECK_EQ(conf_op.stat.atime_ns, conf_time(t, INT64_C(1234567890123456789)));
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_MTIME_NOW}), 0);
    CHECK(conf_op.stat.mtime_ns > INT64_C(1600000000000000000));
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_MTIME_NOW | FSB_ATTR_MTIME}),
             -EINVAL);
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = 1 << 20}), -EINVAL);
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_SIZE, .size = UINT64_MAX}), -EFBIG);
    CHECK_EQ(C(SETATTR, .path = "/none", .attr = {.mask = FSB_ATTR_MODE}), -ENOENT);
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {0}), 0);
    /* All at once: each as asked, none undone by another. */
    const uint32_t owner = t->can_chown ? FSB_ATTR_UID | FSB_ATTR_GID : 0;
    CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = owner | FSB_ATTR_MODE | FSB_ATTR_SIZE
             | FSB_ATTR_MTIME, .mode = 06755, .size = 3, .uid = 1234, .gid = 2345,
             .mtime_ns = 42}), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 06755);
    CHECK_EQ(conf_op.stat.size, 3);
    CHECK_EQ(conf_op.stat.mtime_ns, conf_time(t, 42));
    if (t->can_chown) {
        CHECK_EQ(conf_op.stat.uid, 1234);
        CHECK_EQ(conf_op.stat.gid, 2345);
        CHECK_EQ(C(SETATTR, .path = "/f", .attr = {.mask = FSB_ATTR_UID, .uid = 99}), 0);
        CHECK_EQ(conf_op.stat.mode, S_IFREG | 0755); /* chown drops them */
        CHECK_EQ(conf_op.stat.gid, 2345);
        CHECK_EQ(C(SETATTR, .path = "/f", MODE(06755)), 0);
    }
    const fsb_handle h = conf_open(b, "/f", FSB_O_WRITE);
    CHECK_EQ(C(WRITE, .handle = h, .data = "x", .size = 1, .flags = FSB_WRITE_KILL_PRIV), 1);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 0755);
    CHECK_EQ(C(SETATTR, .handle = h, MODE(06744)), 0);
    CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_KILL_PRIV}), 0);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 02744); /* not group-executable: a lock bit, it stays */
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(UNLINK, .path = "/f"), 0);
    CHECK_EQ(C(STATFS, .path = "/"), 0);
    CHECK(conf_op.statfs.blocks > 0 && conf_op.statfs.frsize > 0 && conf_op.statfs.namelen >= 255);
    CHECK_EQ(C(STATFS, .path = "/none"), -ENOENT);
}

static inline void conf_sparse(fsb_backend *b, const conformance_traits *t)
{
    const uint64_t   tb = UINT64_C(1) << 40;
    char             buf[8] = "";
    const fsb_handle h = conf_open(b, "/s", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
    CHECK_EQ(C(WRITE, .handle = h, .data = "start", .size = 5), 5);
    CHECK_EQ(C(WRITE, .handle = h, .data = "end", .size = 3, .offset = tb), 3);
    CHECK_EQ(conf_op.stat.size, tb + 3);
    if (!t->lacks[CONF_HOLES]) CHECK(conf_op.stat.blocks < 100000);
    CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 8, .offset = tb - 1), 4);
    CHECK(!memcmp(buf, "\0end", 4));
    if (t->has_sparse) {
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_DATA), 0);
        CHECK_EQ(conf_op.out_offset, 0);
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_HOLE), 0);
        CHECK(conf_op.out_offset >= 5 && conf_op.out_offset <= 1 << 20);
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_DATA, .offset = 1 << 20), 0);
        CHECK(conf_op.out_offset > tb - (1 << 20) && conf_op.out_offset <= tb);
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_HOLE, .offset = tb), 0);
        CHECK_EQ(conf_op.out_offset, tb + 3);
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_DATA, .offset = tb + 3), -ENXIO);
        CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_HOLE, .offset = tb + 3), -ENXIO);
        CHECK_EQ(C(SEEK, .handle = h, .flags = 3), -EINVAL);
        CHECK_EQ(C(SEEK, .handle = h, .flags = 0), -EINVAL);
    }
    if (!t->lacks[CONF_HOLES]) {
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 0), -EINVAL);
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 1, .offset = INT64_MAX), -EFBIG);
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 1, .flags = 8), -EINVAL);
    }
    CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_SIZE, .size = 5}), 0);
    if (t->has_punch) {
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 100000), 0);
        CHECK_EQ(conf_op.stat.size, 100000);
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 300000, .flags = FSB_ALLOC_KEEP_SIZE), 0);
        CHECK_EQ(conf_op.stat.size, 100000);
        CHECK_EQ(C(ALLOCATE, .handle = h, .offset = 1, .size64 = 3,
                   .flags = FSB_ALLOC_PUNCH_HOLE), 0);
        CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 5), 5);
        CHECK(!memcmp(buf, "s\0\0\0t", 5));
        CHECK_EQ(C(ALLOCATE, .handle = h, .offset = 4, .size64 = 200000,
                   .flags = FSB_ALLOC_ZERO_RANGE), 0);
        CHECK_EQ(conf_op.stat.size, 200004);
        CHECK_EQ(C(READ, .handle = h, .buf = buf, .size = 5), 5);
        CHECK(!memcmp(buf, "s\0\0\0\0", 5));
        CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 1, .flags = 6), -EINVAL);
    }
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(UNLINK, .path = "/s"), 0);
}

static inline void conf_copy(fsb_backend *b, const conformance_traits *t)
{
    if (t->lacks[CONF_COPY]) return;
    conf_put(b, "/from", "0123456789");
    const fsb_handle from = conf_open(b, "/from", FSB_O_READ | FSB_O_WRITE);
    const fsb_handle to = conf_open(b, "/to", FSB_O_WRITE | FSB_O_CREATE);
    CHECK_EQ(C(COPY, .handle = from, .handle2 = to, .offset = 2, .offset2 = 1, .size64 = 5), 5);
    CHECK_EQ(C(COPY, .handle = from, .handle2 = to, .offset = 8, .offset2 = 6, .size64 = 99), 2);
    CHECK_EQ(C(COPY, .handle = from, .handle2 = to, .offset = 10, .offset2 = 6, .size64 = 99), 0);
    char buf[16];
    CHECK_EQ(C(GET, .path = "/to", .buf = buf, .size = 16), 8);
    CHECK(!memcmp(buf, "\0" "2345689", 8));
    CHECK_EQ(C(COPY, .handle = from, .handle2 = from, .offset = 0, .offset2 = 1, .size64 = 5),
             -EINVAL);
    CHECK_EQ(C(COPY, .handle = to, .handle2 = from, .size64 = 5), -EBADF);
    CHECK_EQ(C(COPY, .handle = from, .handle2 = 0, .size64 = 5), -EBADF);
    CHECK_EQ(C(CLOSE, .handle = from), 0);
    CHECK_EQ(C(CLOSE, .handle = to), 0);
    CHECK_EQ(C(UNLINK, .path = "/from"), 0);
    CHECK_EQ(C(UNLINK, .path = "/to"), 0);
}

static inline void conf_xattr(fsb_backend *b, const conformance_traits *t)
{
    char buf[64];
    if (!t->has_xattr) return;
    conf_put(b, "/x", "");
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "user.a", .buf = buf, .size = 64), -ENODATA);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .data = "one", .size = 3,
               .flags = FSB_XATTR_REPLACE), -ENODATA);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .data = "one", .size = 3), 0);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .data = "one", .size = 3,
               .flags = FSB_XATTR_CREATE), -EEXIST);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .data = "one", .size = 3,
               .flags = FSB_XATTR_CREATE | FSB_XATTR_REPLACE), -EEXIST);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .data = "1", .size = 1, .flags = 4),
             -EINVAL);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.empty", .data = NULL, .size = 0), 0);
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "user.a", .size = 0), 3);
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "user.a", .buf = buf, .size = 2), -ERANGE);
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "user.a", .buf = buf, .size = 64), 3);
    CHECK(!memcmp(buf, "one", 3));
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "user.empty", .buf = buf, .size = 64), 0);
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = "bogus.a", .buf = buf, .size = 64), -EOPNOTSUPP);
    CHECK_EQ(C(GETXATTR, .path = "/x", .path2 = NULL, .buf = buf, .size = 64), -EINVAL);
    const fsb_handle h = conf_open(b, "/x", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(C(SETXATTR, .handle = h, .path2 = "user.a", .data = "longer", .size = 6), 0);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(LISTXATTR, .path = "/x", .size = 0), 18);
    CHECK_EQ(C(LISTXATTR, .path = "/x", .buf = buf, .size = 17), -ERANGE);
    CHECK_EQ(C(LISTXATTR, .path = "/x", .buf = buf, .size = 64), 18);
    CHECK(!buf[17] && (!strcmp(buf, "user.a") || !strcmp(buf, "user.empty")));
    CHECK_EQ(C(REMOVEXATTR, .path = "/x", .path2 = "user.empty"), 0);
    CHECK_EQ(C(REMOVEXATTR, .path = "/x", .path2 = "user.empty"), -ENODATA);
    CHECK_EQ(C(LISTXATTR, .path = "/x", .buf = buf, .size = 64), 7);
    CHECK_EQ(C(SYMLINK, .path = "/l", .path2 = "x"), 0);
    CHECK_EQ(C(GETXATTR, .path = "/l", .path2 = "user.a", .buf = buf, .size = 64), -ENODATA);
    CHECK_EQ(C(SETXATTR, .path = "/l", .path2 = "user.a", .data = "x", .size = 1), -EPERM);
    CHECK_EQ(C(LISTXATTR, .path = "/l", .buf = buf, .size = 64), 0);
    CHECK_EQ(C(SETXATTR, .path = "/x", .path2 = "user.a", .file_id = 1, .data = "x", .size = 1),
             -ESTALE);
    CHECK_EQ(C(UNLINK, .path = "/l"), 0);
    CHECK_EQ(C(UNLINK, .path = "/x"), 0);
}

static inline void conf_compound(fsb_backend *b, const conformance_traits *t)
{
    (void)t;
    const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;
    CHECK_EQ(C(PUT, .path = "/p", .flags = FSB_O_WRITE, .data = "x", .size = 1), -ENOENT);
    CHECK_EQ(C(PUT, .path = "/p", .flags = make | FSB_O_EXCL, MODE(04711), .data = "put",
               .size = 3), 3);
    CHECK_EQ(conf_op.stat.size, 3);
    CHECK_EQ(C(PUT, .path = "/p", .flags = make | FSB_O_EXCL, .data = "put", .size = 3), -EEXIST);
    CHECK_EQ(C(PUT, .path = "/p", .flags = make, .data = "P", .size = 1), 1);
    conf_is(b, "/p", "Put");
    CHECK_EQ(C(PUT, .path = "/p", .flags = make | FSB_O_TRUNC, .data = "", .size = 0), 0);
    CHECK_EQ(conf_op.stat.size, 0);
    CHECK_EQ(C(PUT, .path = "/", .flags = make, .data = "", .size = 0), -EISDIR);
    CHECK_EQ(C(PUT, .path = "/p", .flags = make, .attr = {.mask = FSB_ATTR_SIZE}), -EINVAL);
    conf_put(b, "/p", "some bytes");
    CHECK_EQ(C(GET, .path = "/p", .size = 4), 4); /* the first bytes, and the whole stat */
    CHECK_EQ(conf_op.stat.size, 10);
    CHECK(conf_op.slice.size == 4 && !memcmp(conf_op.slice.data, "some", 4));
    fsb_slice_release(&conf_op.slice);
    CHECK_EQ(C(GET, .path = "/p", .size = 0), 0);
    CHECK_EQ(C(UNLINK, .path = "/p"), 0);
}

/* ---- watch ---- */

typedef struct conf_events {
    pthread_mutex_t lock;
    unsigned        kinds[8];
    char            renamed[64], renamed2[64];
} conf_events;

static void conf_event(void *user, const fsb_event *e)
{
    conf_events *got = user;
    pthread_mutex_lock(&got->lock);
    if (e->kind < 8) ++got->kinds[e->kind];
    if (e->kind == FSB_EVENT_RENAMED) {
        snprintf(got->renamed, sizeof got->renamed, "%s", e->path);
        snprintf(got->renamed2, sizeof got->renamed2, "%s", e->path2);
    }
    pthread_mutex_unlock(&got->lock);
}

static inline unsigned conf_seen(conf_events *got, uint32_t kind)
{
    pthread_mutex_lock(&got->lock);
    const unsigned n = got->kinds[kind];
    pthread_mutex_unlock(&got->lock);
    return n;
}

static inline int conf_wait_for(conf_events *got, uint32_t kind, unsigned count)
{
    int64_t napped = 0;
    while (conf_seen(got, kind) < count)
        if (!test_nap(&napped)) return 0;
    return 1;
}

/* The same, or events were lost, and nothing more can be said. */
static inline int conf_told(conf_events *got, uint32_t kind, unsigned count)
{
    int64_t napped = 0;
    while (conf_seen(got, kind) < count && !conf_seen(got, FSB_EVENT_LOST))
        if (!test_nap(&napped)) return 0;
    return 1;
}

/* 1: events were lost, as they may be if a busy machine does not come to read them. */
static inline int conf_watch_once(fsb_backend *b)
{
    conf_events got = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char        path[64];
    CHECK_EQ(C(MKDIR, .path = "/w", MODE(0755)), 0);
    CHECK_EQ(C(WATCH, .path = "/none", .event = conf_event, .user = &got), -ENOENT);
    CHECK_EQ(C(WATCH, .path = "/w"), -EINVAL);
    CHECK_EQ(C(WATCH, .path = "/w", .flags = FSB_WATCH_DEEP, .event = conf_event, .user = &got), 0);
    const fsb_handle h = conf_op.handle;
    for (unsigned i = 0; i < 1000; ++i) {
        snprintf(path, sizeof path, "/w/n%u", i);
        conf_put(b, path, "x");
    }
    CHECK(conf_told(&got, FSB_EVENT_CREATED, 1000));
    CHECK(conf_told(&got, FSB_EVENT_CONTENT, 1000));
    CHECK_EQ(C(SETATTR, .path = "/w/n0", MODE(0600)), 0);
    CHECK(conf_told(&got, FSB_EVENT_ATTR, 1));
    CHECK_EQ(C(RENAME, .path = "/w/n0", .path2 = "/w/other"), 0);
    CHECK(conf_told(&got, FSB_EVENT_RENAMED, 1));
    const int renamed = conf_seen(&got, FSB_EVENT_RENAMED) != 0;
    CHECK_STR(renamed ? got.renamed : "/w/n0", "/w/n0");
    CHECK_STR(renamed ? got.renamed2 : "/w/other", "/w/other");
    CHECK_EQ(conf_seen(&got, FSB_EVENT_REMOVED), 0);
    CHECK_EQ(C(RENAME, .path = "/w/other", .path2 = "/outside"), 0);
    CHECK(conf_told(&got, FSB_EVENT_REMOVED, 1));
    CHECK_EQ(C(UNLINK, .path = "/outside"), 0);
    for (unsigned i = 1; i < 1000; ++i) {
        snprintf(path, sizeof path, "/w/n%u", i);
        CHECK_EQ(C(UNLINK, .path = path), 0);
    }
    CHECK(conf_told(&got, FSB_EVENT_REMOVED, 1000));
    const unsigned before = conf_seen(&got, FSB_EVENT_CREATED);
    CHECK_EQ(C(MKDIR, .path = "/w/deep", MODE(0755)), 0);
    conf_put(b, "/w/deep/at-once", "x"); /* before anybody can watch the new folder */
    CHECK(conf_told(&got, FSB_EVENT_CREATED, before + 2));
    const int lost = conf_seen(&got, FSB_EVENT_LOST) != 0; /* of a folder that moves some may be */
    CHECK_EQ(C(RENAME, .path = "/w/deep", .path2 = "/w/moved"), 0);
    conf_put(b, "/w/moved/late", "x");
    CHECK(lost || conf_wait_for(&got, FSB_EVENT_CREATED, before + 3));
    CHECK_EQ(C(READ, .handle = h, .buf = path, .size = 1), -EBADF);
    CHECK_EQ(C(STAT, .handle = h), -EBADF);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = h), -EBADF);
    const unsigned closed = conf_seen(&got, FSB_EVENT_REMOVED);
    CHECK_EQ(C(UNLINK, .path = "/w/moved/late"), 0);
    CHECK_EQ(C(UNLINK, .path = "/w/moved/at-once"), 0);
    CHECK_EQ(C(RMDIR, .path = "/w/moved"), 0);
    usleep(50000);
    CHECK_EQ(conf_seen(&got, FSB_EVENT_REMOVED), closed);
    CHECK_EQ(C(RMDIR, .path = "/w"), 0);
    return lost;
}

static inline void conf_watch(fsb_backend *b, const conformance_traits *t)
{
    int lost = t->has_watch != 0;
    for (int i = 0; i < 5 && lost; ++i) lost = conf_watch_once(b);
    CHECK(!lost);
}

static void conformance_run(fsb_backend *b, const conformance_traits *t)
{
    const int bad = test_.bad;
    for (int i = 0; i < CONF_PARTS; ++i)
        if (t->lacks[i])
            fprintf(stderr, "SKIP %s: %s: %s\n", t->name, conf_parts[i], t->lacks[i]);
    CHECK_EQ(conf_count(b, "/"), 0);
    conf_paths(b, t);
    conf_open_close(b, t);
    conf_write(b, t);
    conf_unlinked(b, t);
    conf_folders(b, t);
    conf_list_big(b, t);
    conf_list_deep(b, t);
    conf_rename(b, t);
    conf_links(b, t);
    conf_special(b, t);
    conf_setattr(b, t);
    conf_sparse(b, t);
    conf_copy(b, t);
    conf_xattr(b, t);
    conf_compound(b, t);
    conf_watch(b, t);
    CHECK_EQ(C(CLOSE, .handle = 1), -EBADF);
    CHECK_EQ(C(COUNT, .path = "/"), -ENOSYS);
    if (t->has_descriptor) {
        const fsb_handle h = conf_open(b, "/f", FSB_O_READ | FSB_O_CREATE);
        CHECK(C(DESCRIPTOR, .handle = h) >= 0);
        CHECK_EQ(C(CLOSE, .handle = h), 0);
        CHECK_EQ(C(UNLINK, .path = "/f"), 0);
    }
    CHECK_EQ(conf_count(b, "/"), 0);
    if (test_.bad != bad) fprintf(stderr, "conformance of %s: %d checks failed\n", t->name,
                                  test_.bad - bad);
}
#endif
