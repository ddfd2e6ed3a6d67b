/* test_safe.c - join codes, TLS, coming back after a lost connection, limits. */
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "conformance.h"
#include "test.h"
#include "wire.h"
#include "../tools/sandbox.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { RW = FSB_CHUNK_READ | FSB_CHUNK_WRITE };

static void nap(int ms)
{
    usleep((useconds_t)ms * 1000);
}

/* ---- a host of one share in memory ---- */

typedef struct host {
    fsb_backend      *inner;
    fsb_chunk_server *server;
    test_memory       memory;
    char              address[400], code[FSB_CHUNK_CODE_SIZE];
    char              lines[64][160]; /* of the log */
    int               line_count;
    pthread_mutex_t   lock;
} host;

static void note_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    host *h = (host *)user;
    if (getenv("FSB_TEST_VERBOSE")) fprintf(stderr, "%d %s: %s\n", (int)level, item, text);
    pthread_mutex_lock(&h->lock);
    if (h->line_count < 64) snprintf(h->lines[h->line_count++], 160, "%s", text);
    pthread_mutex_unlock(&h->lock);
}

static int logged(host *h, const char *part)
{
    int found = 0;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->line_count; ++i) found |= strstr(h->lines[i], part) != NULL;
    pthread_mutex_unlock(&h->lock);
    return found;
}

static int host_listen(host *h, const char *address, fsb_chunk_server_desc d)
{
    fsb_chunk_share share = {"share", h->inner, RW};
    fsb_chunk_code  code = {h->code, NULL, RW, "main", 0};
    d.shares = &share, d.share_count = 1;
    d.allocator.fn = test_memory_fn, d.allocator.user = &h->memory;
    d.log.fn = note_line, d.log.user = h;
    int err = fsb_chunk_server_open(&h->server, &d);
    if (!err && !h->code[0]) err = fsb_chunk_code_create(h->code, sizeof h->code);
    if (!err) err = fsb_chunk_server_set_codes(h->server, &code, 1);
    if (!err) err = fsb_chunk_server_listen(h->server, address, h->address, sizeof h->address);
    return err;
}

static int host_open(host *h, const char *address, fsb_chunk_server_desc d)
{
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    if (fsb_memory_open(&h->inner, NULL) != 0) return -ENOMEM;
    return host_listen(h, address, d);
}

static void host_stop(host *h)
{
    fsb_chunk_server_close(h->server);
    CHECK_EQ(h->memory.live, 0);
    CHECK_EQ(h->memory.wrong_size, 0);
}

static void host_close(host *h)
{
    host_stop(h);
    h->inner->close(h->inner);
    pthread_mutex_destroy(&h->lock);
}

static const fsb_chunk_server_desc plain; /* all defaults */

static int dial_as(const host *h, const char *code, fsb_backend **out)
{
    fsb_chunk_client_desc d = {.address = h->address, .share = "share", .code = code,
                               .timeout_ms = 10000};
    return fsb_chunk_client_open(out, &d);
}

static fsb_backend *dial(const host *h)
{
    fsb_backend *b = NULL;
    CHECK_EQ(dial_as(h, h->code, &b), 0);
    return b;
}

static fsb_backend *dial_plain(const host *h)
{
    fsb_backend *b = NULL;
    CHECK_EQ(dial_as(h, NULL, &b), 0);
    return b;
}

static int without_tls(void)
{
#ifdef FSB_WITH_OPENSSL
    return 0;
#else
    return 1;
#endif
}
#define NEED_TLS() do { if (without_tls()) SKIP("built without OpenSSL"); } while (0)

/* ---- join codes ---- */

static void test_codes(void)
{
    char code[FSB_CHUNK_CODE_SIZE], other[FSB_CHUNK_CODE_SIZE], typed[100];
    CHECK_EQ(fsb_chunk_code_create(code, sizeof code), 0);
    CHECK_EQ(fsb_chunk_code_create(other, sizeof other), 0);
    CHECK(strcmp(code, other) != 0);
    CHECK_EQ(strlen(code), FSB_CHUNK_CODE_SIZE - 1);
    CHECK_EQ(fsb_chunk_code_create(code, sizeof code - 1), -ENAMETOOLONG);
    CHECK_EQ(fsb_chunk_code_create(NULL, 0), -EINVAL);
    CHECK_EQ(fsb_chunk_code_create(code, sizeof code), 0);
    CHECK_EQ(fsb_chunk_code_parse(code, other, sizeof other), 0);
    CHECK_STR(code, other);
    size_t n = 0; /* as people type it: small letters, o and i and l, no dashes but spaces */
    for (const char *p = code; *p; ++p) {
        typed[n] = *p == '-' ? ' ' : *p == '0' ? 'o' : *p >= 'A' ? (char)(*p | 32) : *p;
        if (*p == '1') typed[n] = n % 2 ? 'l' : 'I';
        ++n;
    }
    typed[n] = '\0';
    CHECK_EQ(fsb_chunk_code_parse(typed, other, sizeof other), 0);
    CHECK_STR(code, other);
    CHECK_EQ(fsb_chunk_code_parse("", other, sizeof other), -EINVAL);
    CHECK_EQ(fsb_chunk_code_parse(code + 1, other, sizeof other), -EINVAL);
    snprintf(typed, sizeof typed, "%s0", code);
    CHECK_EQ(fsb_chunk_code_parse(typed, other, sizeof other), -EINVAL);
    CHECK_EQ(fsb_chunk_code_parse(NULL, other, sizeof other), -EINVAL);
}

/* Every wrong symbol and every swap of neighbours is seen. */
static void test_codes_mistyped(void)
{
    static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    char              code[FSB_CHUNK_CODE_SIZE], typed[FSB_CHUNK_CODE_SIZE], out[64];
    int               wrong = 0, tried = 0;
    CHECK_EQ(fsb_chunk_code_create(code, sizeof code), 0);
    for (size_t i = 0; code[i]; ++i) {
        for (size_t k = 0; k < 32 && code[i] != '-'; ++k) {
            memcpy(typed, code, sizeof code);
            if (typed[i] == alphabet[k]) continue;
            typed[i] = alphabet[k], ++tried;
            wrong += fsb_chunk_code_parse(typed, out, sizeof out) != -EINVAL;
        }
        memcpy(typed, code, sizeof code);
        const size_t j = i + (code[i + 1] == '-' ? 2 : 1);
        if (code[i] == '-' || i + 2 >= sizeof code || code[i] == code[j]) continue;
        typed[i] = code[j], typed[j] = code[i], ++tried;
        wrong += fsb_chunk_code_parse(typed, out, sizeof out) != -EINVAL;
    }
    CHECK_EQ(wrong, 0);
    CHECK(tried > 28 * 31);
    memcpy(typed, code, sizeof code);
    typed[0] = 'U'; /* no symbol: it is left out so that no words appear */
    CHECK_EQ(fsb_chunk_code_parse(typed, out, sizeof out), -EINVAL);
}

/* Whatever people, or worse, may type: an answer, never a crash, and what is taken stays itself. */
static void test_codes_noise(void)
{
    static const char symbols[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcilou- #\n\xff";
    char              typed[80], out[FSB_CHUNK_CODE_SIZE], again[FSB_CHUNK_CODE_SIZE];
    uint32_t          seed = 1;
    int               taken = 0;
    for (int i = 0; i < 300000; ++i) {
        seed = seed * 1664525u + 1013904223u;
        const size_t n = i % 2 ? 28 : seed >> 8 & 63;
        for (size_t k = 0; k < n; ++k) {
            seed = seed * 1664525u + 1013904223u;
            typed[k] = symbols[(seed >> 16) % (i % 2 ? 32 : sizeof symbols - 1)];
        }
        typed[n] = '\0';
        if (fsb_chunk_code_parse(typed, out, sizeof out) != 0) continue;
        ++taken;
        CHECK_EQ(fsb_chunk_code_parse(out, again, sizeof again), 0);
        CHECK_STR(out, again);
    }
    CHECK(taken > 50 && taken < 400); /* one in 1024 of those of the right length */
}

/* ---- TLS ---- */

static void test_tls_files(void)
{
    static unsigned char bytes[3 << 20], back[3 << 20];
    host                 h;
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    CHECK(strncmp(h.address, "tls:127.0.0.1:", 14) == 0);
    fsb_backend *b = dial(&h);
    REQUIRE(b != NULL);
    for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = (unsigned char)(i * 7 + (i >> 9));
    CHECK_EQ(fsb_write_file(b, "/file", bytes, sizeof bytes, 0644), 0);
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/file", .flags = FSB_O_READ};
    CHECK(fsb_backend_call(b, &op) >= 0);
    const fsb_handle handle = op.handle;
    for (size_t at = 0; at < sizeof bytes; at += 1 << 20) {
        op = (fsb_op){.code = FSB_OP_READ, .handle = handle, .offset = at, .buf = back + at,
                      .size = 1 << 20};
        CHECK_EQ(fsb_backend_call(b, &op), 1 << 20);
    }
    CHECK(memcmp(bytes, back, sizeof bytes) == 0);
    for (size_t at = 1; at < 200000; at += 7919) { /* small ones: many to a record */
        op = (fsb_op){.code = FSB_OP_READ, .handle = handle, .offset = at, .buf = back,
                      .size = at % 5000};
        CHECK_EQ(fsb_backend_call(b, &op), (int64_t)(at % 5000));
        CHECK(memcmp(bytes + at, back, at % 5000) == 0);
    }
    op = (fsb_op){.code = FSB_OP_CLOSE, .handle = handle};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    CHECK(logged(&h, "code main"));
    b->close(b);
    host_close(&h);
}

static void test_tls_conformance(void)
{
    conformance_traits t = {.name = "TLS over memory", .can_chown = 1, .has_xattr = 1,
                            .has_mknod = 1, .has_sparse = 1, .has_punch = 1};
    host               h;
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    fsb_backend *b = dial(&h);
    REQUIRE(b != NULL);
    conformance_run(b, &t);
    b->close(b);
    host_close(&h);
}

static void test_tls_wrong_code(void)
{
    host         h;
    fsb_backend *b = NULL;
    char         other[FSB_CHUNK_CODE_SIZE];
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    CHECK_EQ(fsb_chunk_code_create(other, sizeof other), 0);
    CHECK_EQ(dial_as(&h, other, &b), -EACCES);
    other[0] = other[0] == 'A' ? 'B' : 'A';
    CHECK_EQ(dial_as(&h, other, &b), -EINVAL);
    CHECK_EQ(dial_as(&h, NULL, &b), -EINVAL);
    EVENTUALLY(logged(&h, "its code does not open"));
    b = dial(&h);
    REQUIRE(b != NULL);
    b->close(b);
    host_close(&h);
}

static void test_tls_is_needed(void) /* a frame without TLS gets nothing, not even hello */
{
    static unsigned char room[WIRE_MAX];
    host                 h;
    int                  fds[2];
    char                 back[4096];
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    CHECK_EQ(fsb_chunk_dial(h.address + 4, 0, fds), 0);
    fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) & ~O_NONBLOCK);
    CHECK_EQ(wire_send(fds[0], room, wire_hello(room, "share", 1, 1)), 0);
    ssize_t n, all = 0;
    while ((n = recv(fds[0], back, sizeof back, 0)) > 0) {
        CHECK(!memmem(back, (size_t)n, "FSB1", 4));
        all += n;
    }
    CHECK(all < 16); /* an alert at most */
    close(fds[0]);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "tls:unix:/x", NULL, 0), -EINVAL);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "0.0.0.0:0", NULL, 0), -EACCES);
    CHECK_EQ(fsb_chunk_server_listen(h.server, "tls:*:0", back, sizeof back), 0);
    host_close(&h);
}

static void test_tls_rights(void)
{
    char           codes[3][FSB_CHUNK_CODE_SIZE];
    fsb_chunk_code list[3];
    host           h;
    fsb_backend   *b = NULL, *c = NULL;
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    for (int i = 0; i < 3; ++i) {
        CHECK_EQ(fsb_chunk_code_create(codes[i], sizeof codes[i]), 0);
        list[i] = (fsb_chunk_code){codes[i], NULL, RW, "x", 0};
    }
    list[0].rights = FSB_CHUNK_READ;
    list[1].share = "another";
    list[2].expires_ns = 1;
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, list, 3), 0);
    CHECK_EQ(dial_as(&h, codes[0], &b), 0);
    REQUIRE(b != NULL);
    fsb_chunk_client_info info;
    fsb_chunk_client_get_info(b, &info);
    CHECK_EQ(info.rights, FSB_CHUNK_READ);
    CHECK_EQ(fsb_write_file(b, "/no", "x", 1, 0644), -EACCES);
    CHECK_EQ(dial_as(&h, codes[1], &c), -ENOENT);
    CHECK_EQ(dial_as(&h, codes[2], &c), -EACCES);
    list[0].code = "mistyped";
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, list, 3), -EINVAL);
    fsb_op op = {.code = FSB_OP_STAT, .path = "/"};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    /* Revoked: those connected with it go, others stay. */
    list[2].expires_ns = 0;
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, list + 2, 1), 0);
    EVENTUALLY(fsb_backend_call(b, &op) == -ENOTCONN);
    CHECK_EQ(dial_as(&h, codes[0], &c), -EACCES);
    CHECK_EQ(dial_as(&h, codes[2], &c), 0);
    REQUIRE(c != NULL);
    CHECK_EQ(fsb_backend_call(c, &op), 0);
    b->close(b), c->close(c);
    host_close(&h);
}

static void test_tls_expires(void) /* also while somebody is connected */
{
    host            h;
    fsb_backend    *b = NULL;
    struct timespec now;
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    fsb_chunk_code code = {h.code, NULL, RW, NULL, 0};
    fsb_op         op = {.code = FSB_OP_STAT, .path = "/"};
    int64_t        err = -EACCES;
    for (int s = 2; err && s < 20; s *= 2) { /* a slow machine gets in with one that lasts longer */
        clock_gettime(CLOCK_REALTIME, &now);
        code.expires_ns = ((int64_t)now.tv_sec + s) * 1000000000;
        CHECK_EQ(fsb_chunk_server_set_codes(h.server, &code, 1), 0);
        err = dial_as(&h, h.code, &b);
        if (!err && (err = fsb_backend_call(b, &op)) != 0) b->close(b), b = NULL;
    }
    CHECK_EQ(err, 0);
    REQUIRE(b != NULL);
    EVENTUALLY(fsb_backend_call(b, &op) == -ENOTCONN);
    b->close(b);
    host_close(&h);
}

/* ---- coming back ---- */

/* A client whose connections the test can cut. */
typedef struct line {
    char address[400];
    int  fd, dials, closed;
} line;

static int line_connect(void *user, int fds[2])
{
    line     *l = (line *)user;
    if (__atomic_load_n(&l->closed, __ATOMIC_ACQUIRE)) return -ECONNREFUSED;
    const int err = fsb_chunk_dial(l->address, 2000, fds);
    if (err) return err;
    __atomic_store_n(&l->fd, fds[0], __ATOMIC_RELEASE);
    __atomic_add_fetch(&l->dials, 1, __ATOMIC_RELEASE);
    return 0;
}

static void line_cut(line *l)
{
    shutdown(__atomic_load_n(&l->fd, __ATOMIC_ACQUIRE), SHUT_RDWR);
}

static fsb_backend *line_open(line *l, const host *h, uint32_t timeout_ms)
{
    fsb_backend          *b = NULL;
    const int             tls = strncmp(h->address, "tls:", 4) == 0;
    fsb_chunk_client_desc d = {.connect = line_connect, .user = l, .share = "share",
                               .timeout_ms = timeout_ms, .reconnect = 1};
    memset(l, 0, sizeof *l);
    snprintf(l->address, sizeof l->address, "%s", h->address + (tls ? 4 : 0));
    if (tls) d.code = h->code;
    CHECK_EQ(fsb_chunk_client_open(&b, &d), 0);
    return b;
}

static const char *unix_address(void)
{
    static char address[400];
    static int  number;
    snprintf(address, sizeof address, "unix:%s/s%d.sock", test_dir(), ++number);
    return address;
}

static fsb_handle open_file(fsb_backend *b, const char *path, uint32_t flags)
{
    fsb_op op = {.code = FSB_OP_OPEN, .path = path, .flags = flags,
                 .attr = {.mask = FSB_ATTR_MODE, .mode = 0600}};
    CHECK(fsb_backend_call(b, &op) >= 0);
    return op.handle;
}

static int64_t do_path(fsb_backend *b, uint32_t code, const char *path, const char *path2)
{
    fsb_op op = {.code = code, .path = path, .path2 = path2,
                 .attr = {.mask = FSB_ATTR_MODE, .mode = 0700}};
    return fsb_backend_call(b, &op);
}

static int64_t do_io(fsb_backend *b, uint32_t code, fsb_handle handle, void *bytes, size_t size,
                     uint32_t flags)
{
    fsb_op op = {.code = code, .handle = handle, .size = size, .flags = flags};
    if (code == FSB_OP_WRITE) op.data = bytes;
    else op.buf = bytes;
    return fsb_backend_call(b, &op);
}

static int64_t do_lock(fsb_backend *b, fsb_handle handle, uint32_t flags, uint64_t owner)
{
    fsb_op op = {.code = FSB_OP_LOCK, .handle = handle, .flags = flags, .owner = owner};
    return fsb_backend_call(b, &op);
}

static void back_over(const char *address)
{
    host  h;
    line  l;
    char  bytes[16] = "";
    fsb_chunk_client_info info;
    REQUIRE(host_open(&h, address, plain) == 0);
    fsb_backend     *b = line_open(&l, &h, 20000), *other = NULL;
    fsb_chunk_client_desc d = {.address = h.address, .share = "share"};
    if (strncmp(h.address, "tls:", 4) == 0) d.code = h.code;
    CHECK_EQ(fsb_chunk_client_open(&other, &d), 0);
    REQUIRE(b != NULL && other != NULL);
    const fsb_handle f = open_file(b, "/f", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, f, (char *)"hello", 5, 0), 5);
    CHECK_EQ(do_lock(b, f, FSB_LOCK_EXCLUSIVE, 1), 0);
    CHECK_EQ(do_path(b, FSB_OP_UNLINK, "/f", NULL), 0);
    const fsb_handle g = open_file(b, "/g", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
    const fsb_handle theirs = open_file(other, "/g", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(do_lock(b, g, FSB_LOCK_EXCLUSIVE, 1), 0);
    for (int i = 0; i < 5; ++i) { /* an open file without a name, and a lock, survive */
        line_cut(&l);
        CHECK_EQ(do_io(b, FSB_OP_READ, f, bytes, 5, 0), 5);
        CHECK(memcmp(bytes, "hello", 5) == 0);
        CHECK_EQ(do_lock(other, theirs, FSB_LOCK_EXCLUSIVE, 2), -EAGAIN);
    }
    EVENTUALLY((fsb_chunk_client_get_info(b, &info), info.reconnects == 5));
    CHECK(__atomic_load_n(&l.dials, __ATOMIC_ACQUIRE) >= 6);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, f, (char *)"HE", 2, 0), 2);
    CHECK_EQ(do_io(b, FSB_OP_READ, f, bytes, 5, 0), 5);
    CHECK(memcmp(bytes, "HEllo", 5) == 0);
    fsb_op close_it = {.code = FSB_OP_CLOSE, .handle = f};
    CHECK_EQ(fsb_backend_call(b, &close_it), 0);
    CHECK_EQ(do_io(b, FSB_OP_READ, f, bytes, 5, 0), -EBADF);
    b->close(b); /* it says goodbye: its lock is free at once */
    EVENTUALLY(do_lock(other, theirs, FSB_LOCK_EXCLUSIVE, 2) == 0);
    other->close(other);
    host_close(&h);
}

static void test_back(void)
{
    back_over(unix_address());
    if (!without_tls()) back_over("tls:127.0.0.1:0");
}

/* A backend that does the thing, then cuts the line, so that the answer is lost. */
typedef struct cutter {
    fsb_backend  base;
    fsb_backend *inner;
    line        *l;
    uint32_t     code; /* what is cut, once */
    int          cuts, runs;
} cutter;

static int64_t cutter_call(fsb_backend *b, fsb_op *op)
{
    cutter       *c = (cutter *)b;
    const int64_t result = c->inner->call[op->code](c->inner, op);
    if (op->code != c->code) return result;
    __atomic_add_fetch(&c->runs, 1, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&c->cuts, 0, __ATOMIC_ACQ_REL)) {
        line_cut(c->l);
        nap(300); /* the client is back by now, and asks again */
    }
    return result;
}

static void cutter_init(cutter *c, fsb_backend *inner, line *l, uint32_t flags)
{
    memset(c, 0, sizeof *c);
    c->base.size = sizeof c->base, c->base.name = "cutter", c->inner = inner, c->l = l;
    c->base.flags = flags;
    for (int i = 1; i < FSB_OP_COUNT; ++i)
        if (inner->call[i] && i != FSB_OP_DESCRIPTOR) c->base.call[i] = cutter_call;
}

static void once_over(uint32_t flags)
{
    host                  h;
    line                  l;
    cutter                c;
    char                  bytes[32] = "";
    memset(&h, 0, sizeof h);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    fsb_backend *const real = h.inner;
    cutter_init(&c, real, &l, flags);
    h.inner = &c.base;
    fsb_chunk_server_desc none = plain;
    REQUIRE(host_listen(&h, unix_address(), none) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    const fsb_handle log = open_file(b, "/log", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
#define CUT(op_code) (c.code = (op_code), c.runs = 0, c.cuts = 1)
    CUT(FSB_OP_MKDIR);
    CHECK_EQ(do_path(b, FSB_OP_MKDIR, "/d", NULL), 0);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_RENAME);
    CHECK_EQ(do_path(b, FSB_OP_RENAME, "/d", "/e"), 0);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_WRITE);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, log, (char *)"one", 3, FSB_WRITE_APPEND), 3);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_UNLINK);
    CHECK_EQ(do_path(b, FSB_OP_SYMLINK, "/link", "to"), 0);
    CHECK_EQ(do_path(b, FSB_OP_UNLINK, "/link", NULL), 0);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_MKDIR); /* an error is told again too */
    CHECK_EQ(do_path(b, FSB_OP_MKDIR, "/e", NULL), -EEXIST);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_OPEN);
    const fsb_handle made = open_file(b, "/new", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE |
                                                     FSB_O_EXCL);
    CHECK_EQ(c.runs, 1);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, made, (char *)"x", 1, 0), 1);
    CUT(FSB_OP_OPEN); /* with the first bytes of the file */
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/log", .flags = FSB_O_READ, .buf = bytes,
                 .size = sizeof bytes};
    CHECK_EQ(fsb_backend_call(b, &op), 3);
    CHECK(memcmp(bytes, "one", 3) == 0);
    CHECK_EQ(c.runs, 1);
    CUT(FSB_OP_CLOSE);
    fsb_op close_it = {.code = FSB_OP_CLOSE, .handle = op.handle};
    CHECK_EQ(fsb_backend_call(b, &close_it), 0);
    CHECK_EQ(c.runs, 1);
    CHECK(__atomic_load_n(&l.dials, __ATOMIC_ACQUIRE) >= 9);
    b->close(b);
    h.inner = real;
    host_close(&h);
}

static void test_once(void)
{
    once_over(FSB_BACKEND_QUICK); /* on the thread that reads the client */
    once_over(0);                 /* on another */
}

/* Whatever the host has no memory for: what was done is done once, and what was refused, not. */
static void test_once_without_memory(void)
{
    int done = 0;
    for (uint64_t k = 1; k < 60 && done < 5; ++k) {
        host   h;
        line   l;
        cutter c;
        char   path[20];
        memset(&h, 0, sizeof h);
        pthread_mutex_init(&h.lock, NULL);
        REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
        fsb_backend *const real = h.inner;
        cutter_init(&c, real, &l, FSB_BACKEND_QUICK);
        h.inner = &c.base;
        REQUIRE(host_listen(&h, unix_address(), plain) == 0);
        fsb_backend *b = line_open(&l, &h, 20000);
        REQUIRE(b != NULL);
        snprintf(path, sizeof path, "/d%d", (int)k);
        CUT(FSB_OP_MKDIR);
        h.memory.fail_at = h.memory.calls + k;
        const int64_t said = do_path(b, FSB_OP_MKDIR, path, NULL);
        fsb_op        there = {.code = FSB_OP_STAT, .path = path};
        if (said) CHECK_EQ(said, -ENOMEM);
        CHECK_EQ(fsb_backend_call(real, &there), said ? -ENOENT : 0);
        done = h.memory.calls < h.memory.fail_at ? done + 1 : 0;
        b->close(b);
        h.inner = real;
        host_close(&h);
    }
    CHECK(done == 5);
}

/* ---- by hand ---- */

/* Says hello on a connection of its own, with those flags. */
static int raw_hello(const host *h, uint32_t flags, unsigned char *room)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    unsigned char      meta[64];
    wire               m = {meta, 0};
    wire_answer        a;
    const int          fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(to.sun_path, sizeof to.sun_path, "%.*s", (int)sizeof to.sun_path - 1,
             h->address + strlen("unix:"));
    CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    wire_int(&m, 1, 2), wire_int(&m, 1, 2), wire_int(&m, flags, 4);
    wire_bytes(&m, "0123456789abcdef", 16), wire_text(&m, "share");
    wire_send(fd, room, wire_frame(room, WIRE_HELLO, 0, 0, 0, &m, NULL, 0));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(wire_get(a.meta + 28, 4), flags >> 1 & 1); /* what it had is still here */
    return fd;
}

/* An OPEN of a slot whose answers are not kept is repeated: it is open once, on the host too. */
static void test_back_open_twice(void)
{
    static unsigned char room[WIRE_MAX];
    wire_answer          a;
    host                 h;
    fsb_chunk_server_desc d = plain;
    d.max_handles = 1;
    REQUIRE(host_open(&h, unix_address(), d) == 0);
    fsb_op put = {.code = FSB_OP_PUT, .path = "/f", .flags = FSB_O_WRITE | FSB_O_CREATE,
                  .attr.mask = FSB_ATTR_MODE, .attr.mode = 0600};
    CHECK_EQ(fsb_backend_call(h.inner, &put), 0);
    int fd = raw_hello(&h, 1, room);
    for (int i = 0; i < 3; ++i) {
        wire_send(fd, room, wire_open(room, 5000, "/f", FSB_O_READ));
        CHECK_EQ(wire_next(fd, room, &a), 1);
        CHECK_EQ(a.status, 0);
        CHECK(wire_get(a.meta, 8) != 0);
        close(fd);
        fd = raw_hello(&h, 3, room);
    }
    wire_send(fd, room, wire_open(room, 5001, "/f", FSB_O_READ));
    CHECK_EQ(wire_next(fd, room, &a), 1);
    CHECK_EQ(a.status, -24); /* EMFILE: that is another one */
    close(fd);
    host_close(&h);
}

/* A host whose answers are written down: it lets a file be opened and locked, does not say that it
   is unlocked, and is another one when the client comes back. */
typedef struct forgetful {
    pthread_t     threads[2];
    int           dials, fds[2];
    int64_t       locks, locks_again, opens_again;
    unsigned char room[2][WIRE_MAX], out[2][WIRE_MAX];
} forgetful;

static void *forgetful_main(void *arg)
{
    forgetful    *f = (forgetful *)arg;
    const int     at = f->dials - 1, fd = f->fds[at];
    unsigned char meta[112] = {42, 0, 0, 0, 0, 0, 0, 0, 1}, *out = f->out[at];
    wire_answer   a;
    wire          m = {meta, 112};
    CHECK_EQ(wire_next(fd, f->room[at], &a), 1);
    wire_send(fd, out, wire_hello_answer(out));
    while (wire_next(fd, f->room[at], &a) == 1) {
        unsigned char same[32]; /* a LOCK's flags, offset, size64, owner, pid */
        wire          said = {same, 0};
        if (a.op == FSB_OP_LOCK) wire_bytes(&said, a.meta, 4), wire_bytes(&said, a.meta + 12, 28);
        if (a.op == FSB_OP_OPEN && at) __atomic_add_fetch(&f->opens_again, 1, __ATOMIC_RELEASE);
        if (a.op == FSB_OP_LOCK && at) __atomic_add_fetch(&f->locks_again, 1, __ATOMIC_RELEASE);
        if (a.op == FSB_OP_LOCK && !at && ++f->locks == 3) continue; /* the UNLOCK */
        if (a.op == FSB_OP_OPEN || a.op == FSB_OP_LOCK)
            wire_send(fd, out, wire_frame(out, a.op, 1, a.tag, 0, a.op == FSB_OP_OPEN ? &m : &said,
                                          NULL, 0));
        if (a.op == FSB_OP_CLOSE)
            wire_send(fd, out, wire_frame(out, a.op, 1, a.tag, 0, NULL, NULL, 0));
    }
    close(fd);
    return NULL;
}

static int forgetful_connect(void *user, int fds[2])
{
    forgetful *f = (forgetful *)user;
    int        pair[2];
    if (f->dials == 2) return -ECONNREFUSED;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
    f->fds[f->dials] = pair[1], fds[0] = fds[1] = pair[0];
    ++f->dials;
    return -pthread_create(&f->threads[f->dials - 1], NULL, forgetful_main, f);
}

/* An UNLOCK that was given up is not undone when the host was started anew. */
static void test_back_unlocked(void)
{
    static forgetful f;
    fsb_backend     *b = NULL;
    fsb_chunk_client_desc d = {.connect = forgetful_connect, .user = &f, .share = "share",
                               .timeout_ms = 20000, .reconnect = 1};
    REQUIRE(fsb_chunk_client_open(&b, &d) == 0);
    const fsb_handle file = open_file(b, "/f", FSB_O_READ | FSB_O_WRITE);
    fsb_op lock = {.code = FSB_OP_LOCK, .handle = file, .owner = 1};
    lock.flags = FSB_LOCK_EXCLUSIVE, lock.size64 = 10;
    CHECK_EQ(fsb_backend_call(b, &lock), 0);
    lock.handle = file, lock.flags = FSB_LOCK_EXCLUSIVE, lock.offset = 20, lock.size64 = 10;
    CHECK_EQ(fsb_backend_call(b, &lock), 0);
    lock.handle = file, lock.flags = FSB_LOCK_UNLOCK, lock.offset = 0, lock.size64 = 10;
    lock.timeout_ms = 30;
    CHECK_EQ(fsb_backend_call(b, &lock), -ETIMEDOUT);
    shutdown(f.fds[0], SHUT_RDWR);
    EVENTUALLY(__atomic_load_n(&f.locks_again, __ATOMIC_ACQUIRE) > 0);
    fsb_op close_it = {.code = FSB_OP_CLOSE, .handle = file};
    CHECK_EQ(fsb_backend_call(b, &close_it), 0);
    CHECK_EQ(__atomic_load_n(&f.opens_again, __ATOMIC_ACQUIRE), 1);
    CHECK_EQ(__atomic_load_n(&f.locks_again, __ATOMIC_ACQUIRE), 1); /* the other one */
    b->close(b);
    for (int i = 0; i < 2; ++i) pthread_join(f.threads[i], NULL);
}

static void count_event(void *user, const fsb_event *event)
{
    (void)event;
    __atomic_add_fetch((int *)user, 1, __ATOMIC_RELAXED);
}

static int64_t no_watch(fsb_backend *b, fsb_op *op)
{
    (void)b;
    return op->result = -ENOSPC;
}

/* Who was refused a lease does not ask for it again when it comes back, and is told nothing. */
static void test_back_without_lease(void)
{
    host   h;
    line   l;
    cutter c;
    memset(&h, 0, sizeof h);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    fsb_backend *const real = h.inner;
    cutter_init(&c, real, &l, FSB_BACKEND_QUICK);
    c.base.call[FSB_OP_WATCH] = no_watch;
    h.inner = &c.base;
    REQUIRE(host_listen(&h, unix_address(), plain) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    int    told = 0;
    fsb_op watch = {.code = FSB_OP_WATCH, .path = "/", .flags = FSB_WATCH_HELD | FSB_WATCH_DEEP,
                    .event = count_event, .user = &told};
    CHECK_EQ(fsb_backend_call(b, &watch), -ENOSPC);
    line_cut(&l);
    CHECK_EQ(do_path(b, FSB_OP_MKDIR, "/d", NULL), 0);
    CHECK_EQ(__atomic_load_n(&told, __ATOMIC_RELAXED), 0);
    b->close(b);
    h.inner = real;
    host_close(&h);
}

/* A host that is started anew knows nothing: files are opened again, if they are the same. */
static void test_restart(void)
{
    host h;
    line l;
    char bytes[16] = "", address[400];
    REQUIRE(host_open(&h, unix_address(), plain) == 0);
    snprintf(address, sizeof address, "%s", h.address);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    const uint32_t   make = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC;
    const fsb_handle same = open_file(b, "/dir", make), moved = open_file(b, "/a", make),
                     gone = open_file(b, "/b", make), locked = open_file(b, "/l", make);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, same, (char *)"same", 4, 0), 4);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, moved, (char *)"moved", 5, 0), 5);
    CHECK_EQ(do_path(b, FSB_OP_MKDIR, "/x", NULL), 0);
    CHECK_EQ(do_path(b, FSB_OP_RENAME, "/a", "/x/a"), 0);
    CHECK_EQ(do_path(b, FSB_OP_RENAME, "/x", "/y"), 0);
    CHECK_EQ(do_lock(b, locked, FSB_LOCK_EXCLUSIVE, 1), 0);
    host_stop(&h);
    CHECK_EQ(do_path(h.inner, FSB_OP_UNLINK, "/b", NULL), 0);
    CHECK_EQ(fsb_write_file(h.inner, "/b", "another", 7, 0600), 0);
    nap(300);
    REQUIRE(host_listen(&h, address, plain) == 0);
    CHECK_EQ(do_io(b, FSB_OP_READ, same, bytes, 4, 0), 4); /* not truncated once more */
    CHECK(memcmp(bytes, "same", 4) == 0);
    CHECK_EQ(do_io(b, FSB_OP_READ, moved, bytes, 5, 0), 5);
    CHECK(memcmp(bytes, "moved", 5) == 0);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, moved, (char *)"M", 1, 0), 1);
    CHECK_EQ(do_io(b, FSB_OP_READ, gone, bytes, 5, 0), -ESTALE);
    fsb_backend     *other = dial_plain(&h); /* the lock is held again */
    const fsb_handle theirs = open_file(other, "/l", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(do_lock(other, theirs, FSB_LOCK_EXCLUSIVE, 1), -EAGAIN);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, locked, bytes, 5, 0), 5);
    CHECK_EQ(do_lock(b, locked, FSB_LOCK_UNLOCK, 1), 0);
    CHECK_EQ(do_lock(other, theirs, FSB_LOCK_EXCLUSIVE, 1), 0);
    other->close(other);
    const fsb_handle all[4] = {same, moved, gone, locked};
    for (int i = 0; i < 4; ++i) {
        fsb_op close_it = {.code = FSB_OP_CLOSE, .handle = all[i]};
        CHECK_EQ(fsb_backend_call(b, &close_it), i == 2 ? -ESTALE : 0);
    }
    b->close(b);
    host_close(&h);
}

static int64_t do_range(fsb_backend *b, fsb_handle handle, uint32_t flags, uint64_t owner,
                        uint64_t from, uint64_t size)
{
    fsb_op op = {.code = FSB_OP_LOCK, .handle = handle, .flags = flags, .owner = owner,
                 .offset = from, .size64 = size};
    return fsb_backend_call(b, &op);
}

/* Locks are held again on a new host as they were, whatever they were made of; where somebody was
   faster, the file is dead, and its other locks are free. */
static void test_restart_locks(void)
{
    enum { RWC = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE, X = FSB_LOCK_EXCLUSIVE,
           S = FSB_LOCK_SHARED, F = FSB_LOCK_FLOCK };
    host h;
    line l;
    char address[400];
    REQUIRE(host_open(&h, unix_address(), plain) == 0);
    snprintf(address, sizeof address, "%s", h.address);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    const fsb_handle kept = open_file(b, "/kept", RWC), lost = open_file(b, "/lost", RWC),
                     crowd = open_file(b, "/crowd", RWC);
    CHECK_EQ(do_range(b, kept, X, 1, 0, 100), 0);
    CHECK_EQ(do_range(b, kept, FSB_LOCK_UNLOCK, 1, 40, 10), 0); /* a hole */
    CHECK_EQ(do_range(b, kept, S, 2, 200, 0), 0);
    CHECK_EQ(do_range(b, kept, X | F, 3, 0, 0), 0);
    CHECK_EQ(do_range(b, lost, X, 1, 0, 10), 0);
    CHECK_EQ(do_range(b, lost, X, 1, 50, 10), 0);
    for (uint64_t i = 0; i < 100; ++i) CHECK_EQ(do_range(b, crowd, X, 1, i * 2, 1), 0);
    __atomic_store_n(&l.closed, 1, __ATOMIC_RELEASE);
    host_stop(&h);
    REQUIRE(host_listen(&h, address, plain) == 0);
    fsb_backend     *other = dial_plain(&h);
    const fsb_handle mine = open_file(other, "/lost", RWC), again = open_file(other, "/kept", RWC),
                     many = open_file(other, "/crowd", RWC);
    CHECK_EQ(do_range(other, mine, X, 1, 5, 1), 0); /* faster */
    __atomic_store_n(&l.closed, 0, __ATOMIC_RELEASE);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, kept, (char *)"x", 1, 0), 1); /* waits until it is back */
    CHECK_EQ(do_range(other, again, X, 1, 0, 1), -EAGAIN);
    CHECK_EQ(do_range(other, again, X, 1, 40, 10), 0);
    CHECK_EQ(do_range(other, again, X, 1, 50, 1), -EAGAIN);
    CHECK_EQ(do_range(other, again, S, 1, 300, 1), 0);
    CHECK_EQ(do_range(other, again, X, 1, 300, 1), -EAGAIN);
    CHECK_EQ(do_range(other, again, S | F, 1, 0, 0), -EAGAIN);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, lost, (char *)"x", 1, 0), -EIO);
    CHECK_EQ(do_range(b, lost, FSB_LOCK_UNLOCK, 1, 50, 10), -EIO);
    CHECK_EQ(do_range(other, mine, X, 1, 50, 10), 0);
    for (uint64_t i = 0; i < 100; ++i)
        CHECK_EQ(do_range(other, many, X, 1, i * 2, 1), -EAGAIN);
    b->close(b), other->close(other);
    host_close(&h);
}

static void test_nobody_comes_back(void)
{
    host h;
    line l;
    REQUIRE(host_open(&h, unix_address(), plain) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    host_stop(&h);
    for (int i = 0; i < 2; ++i) {
        fsb_op op = {.code = i ? FSB_OP_STAT : FSB_OP_MKDIR, .path = i ? "/" : "/d",
                     .timeout_ms = 700, .attr = {.mask = FSB_ATTR_MODE, .mode = 0700}};
        CHECK_EQ(fsb_backend_call(b, &op), -ETIMEDOUT);
    }
    REQUIRE(host_listen(&h, l.address[0] == 'u' ? l.address : "", plain) == 0);
    EVENTUALLY(do_path(b, FSB_OP_STAT, "/", NULL) == 0);
    b->close(b);
    host_close(&h);
}

static void test_revoked_meanwhile(void)
{
    host h;
    line l;
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, NULL, 0), 0);
    EVENTUALLY(do_path(b, FSB_OP_STAT, "/", NULL) == -EACCES); /* soon, not after 20 s */
    fsb_chunk_code code = {h.code, NULL, RW, "again", 0};
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, &code, 1), 0);
    EVENTUALLY(do_path(b, FSB_OP_STAT, "/", NULL) == 0);
    b->close(b);
    host_close(&h);
}

/* Many threads change things while the line is cut again and again: each thing happens once. */
typedef struct storm {
    fsb_backend *b;
    int          number, wrong;
} storm;

static void *storm_main(void *arg)
{
    storm *s = (storm *)arg;
    char   a[40], b[60];
    for (int i = 0; i < 150; ++i) {
        snprintf(a, sizeof a, "/%d-%d", s->number, i), snprintf(b, sizeof b, "%s.new", a);
        s->wrong += do_path(s->b, FSB_OP_MKDIR, a, NULL) != 0;
        s->wrong += do_path(s->b, FSB_OP_RENAME, a, b) != 0;
        s->wrong += do_path(s->b, FSB_OP_STAT, a, NULL) != -ENOENT;
        if (i % 2) s->wrong += do_path(s->b, FSB_OP_RMDIR, b, NULL) != 0;
        const fsb_handle f = open_file(s->b, "/shared", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
        s->wrong += do_io(s->b, FSB_OP_WRITE, f, (char *)"0123456789", 10, FSB_WRITE_APPEND) != 10;
        fsb_op op = {.code = FSB_OP_CLOSE, .handle = f};
        s->wrong += fsb_backend_call(s->b, &op) != 0;
    }
    return NULL;
}

static void test_storm(void)
{
    host      h;
    line      l;
    pthread_t threads[4];
    storm     s[4];
    REQUIRE(host_open(&h, without_tls() ? unix_address() : "tls:127.0.0.1:0", plain) == 0);
    fsb_backend *b = line_open(&l, &h, 60000);
    REQUIRE(b != NULL);
    for (int i = 0; i < 4; ++i) {
        s[i] = (storm){b, i, 0};
        CHECK_EQ(pthread_create(&threads[i], NULL, storm_main, &s[i]), 0);
    }
    for (int i = 0; i < 12; ++i) nap(60), line_cut(&l);
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL), CHECK_EQ(s[i].wrong, 0);
    fsb_op op = {.code = FSB_OP_STAT, .path = "/shared"};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    CHECK_EQ(op.stat.size, 4 * 150 * 10);
    b->close(b);
    host_close(&h);
}

/* A proxy that lets so many bytes of the host's through, then flips a bit, or ends it all. */
typedef struct proxy {
    char    to[400];
    int64_t limit; /* bytes until something happens; by atomics */
    int     flips;
} proxy;

typedef struct proxied {
    proxy *p;
    int    near, far;
} proxied;

static void *proxy_main(void *arg)
{
    proxied    *c = (proxied *)arg;
    char        bytes[4096];
    ssize_t     n = 1;
    while (n > 0) {
        struct pollfd w[2] = {{c->near, POLLIN, 0}, {c->far, POLLIN, 0}};
        if (poll(w, 2, -1) < 0) break;
        const int from = w[0].revents ? c->near : c->far;
        n = recv(from, bytes, sizeof bytes, 0);
        if (n <= 0) break;
        if (from == c->far) {
            const int64_t left = __atomic_fetch_sub(&c->p->limit, n, __ATOMIC_ACQ_REL);
            if (left >= 0 && left < n && c->p->flips) bytes[left] ^= 4;
            else if (left >= 0 && left < n) (void)wire_send(c->near, bytes, (size_t)left), n = 0;
        }
        if (n && wire_send(from == c->near ? c->far : c->near, bytes, (size_t)n) != 0) break;
    }
    close(c->near), close(c->far);
    free(c);
    return NULL;
}

static int proxy_connect(void *user, int fds[2])
{
    proxy    *p = (proxy *)user;
    proxied  *c = (proxied *)malloc(sizeof *c);
    pthread_t thread;
    int       pair[2], far[2];
    const int err = fsb_chunk_dial(p->to, 2000, far);
    if (err || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        free(c);
        return err ? err : -EMFILE;
    }
    fcntl(far[0], F_SETFL, fcntl(far[0], F_GETFL) & ~O_NONBLOCK);
    c->p = p, c->near = pair[1], c->far = far[0];
    if (pthread_create(&thread, NULL, proxy_main, c) != 0) abort();
    pthread_detach(thread);
    fds[0] = fds[1] = pair[0];
    return 0;
}

/* The same work with the line spoiled at ever another byte: right bytes, each thing once. */
static void spoil(int flips)
{
    static unsigned char  bytes[40000], back[40000];
    host                  h;
    proxy                 p;
    char                  name[40];
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    memset(&p, 0, sizeof p);
    snprintf(p.to, sizeof p.to, "%.300s", h.address + 4);
    p.flips = flips, p.limit = INT64_MAX;
    fsb_chunk_client_desc d = {.connect = proxy_connect, .user = &p, .share = "share",
                               .code = h.code, .timeout_ms = 20000, .reconnect = 1};
    fsb_backend          *b = NULL;
    for (size_t i = 0; i < sizeof bytes; ++i) bytes[i] = (unsigned char)(i * 13 + (i >> 8));
    CHECK_EQ(fsb_write_file(h.inner, "/file", bytes, sizeof bytes, 0644), 0);
    REQUIRE(fsb_chunk_client_open(&b, &d) == 0);
    const fsb_handle f = open_file(b, "/file", FSB_O_READ);
    for (int i = 0; i < 40; ++i) {
        __atomic_store_n(&p.limit, i < 30 ? i * 5 : i * 1000, __ATOMIC_RELEASE);
        snprintf(name, sizeof name, "/d%d", i);
        CHECK_EQ(do_path(b, FSB_OP_MKDIR, name, NULL), 0);
        memset(back, 0, sizeof back);
        CHECK_EQ(do_io(b, FSB_OP_READ, f, back, sizeof back, 0), (int64_t)sizeof back);
        CHECK(memcmp(bytes, back, sizeof back) == 0);
    }
    fsb_chunk_client_info info;
    fsb_chunk_client_get_info(b, &info);
    CHECK(info.reconnects >= 35);
    b->close(b);
    host_close(&h);
}

static void test_bits_flip(void)
{
    spoil(1);
}

static void test_cut_anywhere(void)
{
    spoil(0);
}

/* ---- limits ---- */

static int64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Forty who say nothing, and one who does: 0, or the error he got, or that he was late himself. */
static int among_the_silent(uint32_t hello_ms)
{
    fsb_chunk_server_desc d = {.hello_ms = hello_ms};
    host                  h;
    int                   fds[40], ended = 0;
    char                  byte;
    CHECK_EQ(host_open(&h, "tls:*:0", d), 0);
    const char *port = strrchr(h.address, ':') + 1;
    char        there[64];
    snprintf(there, sizeof there, "127.0.0.2:%s", port); /* the loopback has many addresses */
    for (int i = 0; i < 40; ++i) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000003)}};
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000001)},
                                 .sin_port = htons((uint16_t)atoi(port))};
        CHECK_EQ(bind(fds[i], (struct sockaddr *)&from, sizeof from), 0);
        CHECK_EQ(connect(fds[i], (struct sockaddr *)&to, sizeof to), 0);
    }
    EVENTUALLY(logged(&h, "turned away"));
    snprintf(h.address, sizeof h.address, "tls:%s", there);
    fsb_backend  *b = NULL;
    const int64_t begin = clock_ms();
    const int     err = dial_as(&h, h.code, &b);
    const int     late = clock_ms() - begin >= hello_ms;
    if (!err) CHECK_EQ(do_path(b, FSB_OP_STAT, "/", NULL), 0);
    for (int i = 0; i < 40; ++i) {
        struct pollfd p = {fds[i], POLLIN, 0};
        ended += poll(&p, 1, 60000) == 1 && recv(fds[i], &byte, 1, 0) <= 0;
        close(fds[i]);
    }
    CHECK_EQ(ended, 40);
    if (!err) CHECK_EQ(do_path(b, FSB_OP_STAT, "/", NULL), 0), b->close(b);
    host_close(&h);
    return late ? -ETIMEDOUT : err;
}

static void test_silent_connections(void) /* they keep nobody else out, and are ended */
{
    int err = -ETIMEDOUT;
    NEED_TLS();
    for (uint32_t ms = 1500; ms < 60000 && err == -ETIMEDOUT; ms *= 3) err = among_the_silent(ms);
    CHECK_EQ(err, 0);
}

static void test_wrong_codes_slow_down(void) /* who sends them, not others */
{
    host         h;
    fsb_backend *b = NULL;
    char         wrong[FSB_CHUNK_CODE_SIZE];
    NEED_TLS();
    REQUIRE(host_open(&h, "tls:127.0.0.1:0", plain) == 0);
    CHECK_EQ(fsb_chunk_code_create(wrong, sizeof wrong), 0);
    const int64_t begin = clock_ms();
    for (int i = 0; i < 4; ++i) CHECK_EQ(dial_as(&h, wrong, &b), -EACCES);
    CHECK(clock_ms() - begin >= 1000); /* 0.2 + 0.4 + 0.8 s */
    b = dial(&h);
    REQUIRE(b != NULL);
    b->close(b);
    CHECK(clock_ms() - begin >= 2500);
    int64_t least = 1500;
    for (int i = 0; i < 10 && least >= 1500; ++i) { /* a right code makes up for all */
        const int64_t again = clock_ms();
        b = dial(&h);
        REQUIRE(b != NULL);
        if (clock_ms() - again < least) least = clock_ms() - again;
        b->close(b);
    }
    CHECK(least < 1500);
    host_close(&h);
}

/* One client asks for a hundred slow things; another's one thing does not wait for them all. */
static int64_t slow_call(fsb_backend *b, fsb_op *op)
{
    cutter *c = (cutter *)b;
    if (op->code == FSB_OP_READLINK) nap(20);
    return c->inner->call[op->code](c->inner, op);
}

static void count_done(fsb_op *op)
{
    __atomic_add_fetch((int *)op->user, 1, __ATOMIC_RELEASE);
}

static void test_fair(void)
{
    static fsb_op         ops[100];
    fsb_op               *list[100];
    fsb_chunk_server_desc d = {.threads = 1};
    host                  h;
    cutter                c;
    int                   done = 0;
    memset(&h, 0, sizeof h);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    fsb_backend *const real = h.inner;
    cutter_init(&c, real, NULL, 0);
    c.base.call[FSB_OP_READLINK] = slow_call;
    h.inner = &c.base;
    REQUIRE(host_listen(&h, unix_address(), d) == 0);
    fsb_backend *greedy = dial_plain(&h), *modest = dial_plain(&h);
    REQUIRE(greedy && modest);
    for (int i = 0; i < 100; ++i) {
        ops[i] = (fsb_op){.code = FSB_OP_READLINK, .path = "/none", .size = 10, .user = &done,
                          .done = count_done};
        list[i] = &ops[i];
    }
    int before = 100;
    for (int i = 0; i < 3 && before >= 60; ++i) {
        done = 0;
        greedy->submit(greedy, list, 100);
        nap(100); /* all are queued */
        CHECK_EQ(do_path(modest, FSB_OP_STAT, "/", NULL), 0);
        before = __atomic_load_n(&done, __ATOMIC_ACQUIRE);
        EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 100);
    }
    CHECK(before < 60);
    greedy->close(greedy), modest->close(modest);
    h.inner = real;
    host_close(&h);
}

/* Cut off again while its former connection still ends what was under way: nothing is lost. */
static int64_t long_call(fsb_backend *b, fsb_op *op)
{
    cutter *c = (cutter *)b;
    nap(400);
    return c->inner->call[op->code](c->inner, op);
}

static void test_cut_on_its_way_back(void)
{
    fsb_op slow = {.code = FSB_OP_READLINK, .path = "/none", .size = 10, .done = count_done};
    fsb_op *list[1] = {&slow};
    host    h;
    line    l;
    cutter  c;
    int     done = 0;
    memset(&h, 0, sizeof h);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    fsb_backend *const real = h.inner;
    cutter_init(&c, real, NULL, 0);
    c.base.call[FSB_OP_READLINK] = long_call;
    h.inner = &c.base, slow.user = &done;
    REQUIRE(host_listen(&h, unix_address(), plain) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    const fsb_handle f = open_file(b, "/f", FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE);
    CHECK_EQ(do_range(b, f, FSB_LOCK_EXCLUSIVE, 1, 0, 1), 0);
    b->submit(b, list, 1);
    for (int i = 0; i < 12; ++i) nap(30), line_cut(&l);
    CHECK_EQ(do_io(b, FSB_OP_WRITE, f, (char *)"still here", 10, 0), 10);
    EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 1);
    CHECK_EQ(slow.result, -ENOENT);
    fsb_backend *other = dial_plain(&h);
    REQUIRE(other != NULL);
    const fsb_handle g = open_file(other, "/f", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(do_range(other, g, FSB_LOCK_EXCLUSIVE, 1, 0, 1), -EAGAIN);
    b->close(b), other->close(other);
    h.inner = real;
    host_close(&h);
}

/* A backend that keeps STATs until something else was asked for, which it does; then it cuts the
   line, and ends them. */
typedef struct keeper {
    cutter  cut; /* first: the backend */
    fsb_op *list;
    int     open, runs;
} keeper;

static void keeper_submit(fsb_backend *b, fsb_op *const *ops, size_t n)
{
    keeper      *k = (keeper *)b;
    fsb_backend *inner = k->cut.inner;
    for (size_t i = 0; i < n; ++i) {
        fsb_op *op = ops[i], *next;
        if (op->code == FSB_OP_STAT && !k->open) {
            op->next = k->list, k->list = op;
            continue;
        }
        op->result = inner->call[op->code](inner, op);
        if (op->code != FSB_OP_STAT) ++k->runs;
        if (!k->open) line_cut(k->cut.l);
        for (k->open = 1; k->list; k->list = next) {
            next = k->list->next;
            (void)inner->call[FSB_OP_STAT](inner, k->list);
            k->list->done(k->list);
        }
        op->done(op);
    }
}

/* Of more than 4096 requests under way the host does not keep every answer: what must not be done
   twice is not, and says so. */
static void test_too_many_for_once(void)
{
    enum { MANY = 4096 };
    static fsb_op         ops[MANY + 1], *list[MANY + 1];
    fsb_chunk_server_desc d = {.max_requests = MANY + 1};
    host                  h;
    line                  l;
    keeper                k;
    int                   done = 0;
    memset(&h, 0, sizeof h), memset(&k, 0, sizeof k);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    fsb_backend *const real = h.inner;
    cutter_init(&k.cut, real, &l, 0);
    k.cut.base.submit = keeper_submit, h.inner = &k.cut.base;
    REQUIRE(host_listen(&h, unix_address(), d) == 0);
    fsb_backend *b = line_open(&l, &h, 20000);
    REQUIRE(b != NULL);
    for (int i = 0; i <= MANY; ++i) {
        ops[i] = (fsb_op){.code = FSB_OP_STAT, .path = "/", .user = &done, .done = count_done};
        list[i] = &ops[i];
    }
    ops[MANY].code = FSB_OP_MKDIR, ops[MANY].path = "/d";
    b->submit(b, list, MANY + 1);
    EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == MANY + 1);
    CHECK_EQ(ops[MANY].result, -EIO);
    CHECK_EQ(k.runs, 1);
    for (int i = 0; i < MANY; ++i) CHECK_EQ(ops[i].result, 0);
    b->close(b);
    h.inner = real;
    host_close(&h);
}

/* A line whose answers can be swallowed before it is cut. */
typedef struct valve {
    char      address[400];
    int       fd, out, shut, closed;
    pthread_t thread;
    int       started;
} valve;

static void *valve_main(void *arg)
{
    valve  *v = (valve *)arg;
    char    bytes[4096];
    ssize_t n;
    while ((n = recv(v->fd, bytes, sizeof bytes, 0)) > 0 || (n < 0 && errno == EAGAIN)) {
        struct pollfd p = {v->fd, POLLIN, 0};
        const int     shut = __atomic_load_n(&v->shut, __ATOMIC_ACQUIRE);
        if (n < 0) (void)poll(&p, 1, -1);
        else if (!shut && write(v->out, bytes, (size_t)n) < 0) break;
    }
    close(v->out);
    return NULL;
}

static int valve_connect(void *user, int fds[2])
{
    valve *v = (valve *)user;
    int    ends[2];
    if (__atomic_load_n(&v->closed, __ATOMIC_ACQUIRE)) return -ECONNREFUSED;
    if (v->started) pthread_join(v->thread, NULL), close(v->fd), v->started = 0;
    if (fsb_chunk_dial(v->address, 2000, fds) != 0) return -ECONNREFUSED;
    if (pipe(ends) != 0 || (v->fd = dup(fds[0])) < 0) return -EMFILE;
    v->out = ends[1], fds[0] = ends[0];
    v->started = pthread_create(&v->thread, NULL, valve_main, v) == 0;
    return 0;
}

static fsb_backend *valve_open(valve *v, const host *h)
{
    fsb_backend          *b = NULL;
    fsb_chunk_client_desc d = {.connect = valve_connect, .user = v, .share = "share",
                               .timeout_ms = 20000, .reconnect = 1};
    memset(v, 0, sizeof *v);
    snprintf(v->address, sizeof v->address, "%s", h->address);
    CHECK_EQ(fsb_chunk_client_open(&b, &d), 0);
    return b;
}

static void valve_set(valve *v, int closed) /* and cuts it if it is closed */
{
    __atomic_store_n(&v->closed, closed, __ATOMIC_RELEASE);
    __atomic_store_n(&v->shut, 0, __ATOMIC_RELEASE);
    if (closed) shutdown(v->fd, SHUT_RDWR);
}

/* Submits a LOCK whose answer is lost, and with it the host, until its time is up; 0: that was
   before the host was lost. */
static int lose_lock_in(fsb_backend *b, valve *v, fsb_handle f, uint32_t flags, fsb_backend *other,
                        fsb_handle theirs, uint32_t ms)
{
    int    done = 0;
    fsb_op op = {.code = FSB_OP_LOCK, .handle = f, .flags = flags, .owner = 1, .size64 = 10,
                 .timeout_ms = ms, .user = &done, .done = count_done};
    fsb_op test = {.code = FSB_OP_LOCK, .handle = theirs, .owner = 9, .size64 = 1};
    fsb_op *list[1] = {&op};
    __atomic_store_n(&v->shut, 1, __ATOMIC_RELEASE);
    b->submit(b, list, 1);
    do { /* granted, as others can see */
        nap(5);
        test.flags = FSB_LOCK_TEST | FSB_LOCK_SHARED;
        CHECK_EQ(fsb_backend_call(other, &test), 0);
    } while (test.flags == FSB_LOCK_UNLOCK && !__atomic_load_n(&done, __ATOMIC_ACQUIRE));
    valve_set(v, 1);
    const int late = __atomic_load_n(&done, __ATOMIC_ACQUIRE);
    EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 1);
    CHECK_EQ(op.result, -ETIMEDOUT);
    return !late;
}

static void lose_lock(fsb_backend *b, valve *v, fsb_handle f, uint32_t flags, fsb_backend *other,
                      fsb_handle theirs)
{
    uint32_t ms = 700;
    while (!lose_lock_in(b, v, f, flags, other, theirs, ms)) { /* undone, as there was the time */
        REQUIRE((ms *= 3) < 60000);
        valve_set(v, 0);
        EVENTUALLY(do_path(b, FSB_OP_STAT, "/", NULL) == 0);
    }
}

/* A LOCK that is given up is not held afterwards, whatever its answer would have been; what its
   owner had before is. */
static void test_lock_given_up(void)
{
    const uint32_t        make = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE;
    fsb_chunk_client_info info;
    host                  h;
    valve                 v;
    int                   done = 0;
    REQUIRE(host_open(&h, unix_address(), plain) == 0);
    fsb_backend *b = valve_open(&v, &h), *other = dial_plain(&h);
    REQUIRE(b && other);
    const fsb_handle f = open_file(b, "/f", make), theirs = open_file(other, "/f", make);
    lose_lock(b, &v, f, FSB_LOCK_EXCLUSIVE, other, theirs);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 0, 10), -EAGAIN);
    valve_set(&v, 0);
    EVENTUALLY(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 0, 10) == 0);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_UNLOCK, 2, 0, 10), 0);
    CHECK_EQ(do_range(b, f, FSB_LOCK_SHARED, 1, 4, 2), 0);
    lose_lock(b, &v, f, FSB_LOCK_EXCLUSIVE, other, theirs);
    valve_set(&v, 0);
    EVENTUALLY(do_range(other, theirs, FSB_LOCK_SHARED, 2, 0, 10) == 0);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 0, 5), -EAGAIN); /* as it was before */
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 0, 4), 0);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 6, 4), 0);
    CHECK_EQ(do_range(b, f, FSB_LOCK_UNLOCK, 1, 0, 10), 0);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 2, 0, 10), 0);
    fsb_op  wait = {.code = FSB_OP_LOCK, .handle = f, .flags = FSB_LOCK_EXCLUSIVE | FSB_LOCK_WAIT,
                    .owner = 1, .user = &done, .done = count_done};
    fsb_op *list[1] = {&wait};
    for (int away = 1; away >= 0; --away) { /* while the host is gone, or just before */
        done = 0;
        b->submit(b, list, 1);
        CHECK_EQ(do_path(b, FSB_OP_STAT, "/", NULL), 0);
        fsb_chunk_client_get_info(b, &info);
        const uint64_t before = info.reconnects;
        valve_set(&v, 1);
        if (away) nap(150); /* it knows by now */
        b->cancel(b, &wait);
        if (!away) valve_set(&v, 0);
        EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 1);
        CHECK_EQ(wait.result, -EINTR);
        valve_set(&v, 0);
        EVENTUALLY((fsb_chunk_client_get_info(b, &info), info.reconnects > before));
    }
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_UNLOCK, 2, 0, 10), 0);
    CHECK_EQ(do_range(other, theirs, FSB_LOCK_EXCLUSIVE, 3, 0, 0), 0);
    b->close(b), other->close(other);
    if (v.started) pthread_join(v.thread, NULL), close(v.fd);
    host_close(&h);
}

/* Numbers: each is what the desc says, or what it says when that is silent. */
static void test_limits(void)
{
    fsb_chunk_server_desc d = {.max_handles = 3, .max_locks = 2, .max_requests = 5}, told;
    fsb_chunk_client_info info;
    host                  h;
    fsb_handle            f[3];
    const uint32_t        make = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE;
    REQUIRE(host_open(&h, unix_address(), d) == 0);
    fsb_chunk_server_get_desc(h.server, &told);
    CHECK(!told.shares && told.max_handles == 3 && told.max_locks == 2 && told.max_requests == 5);
    CHECK(told.hello_ms == 10000 && told.request_ms == 30000 && told.max_unproven == 64 &&
          told.max_unproven_each == 16 && told.max_bytes == 16 << 20 && told.max_execs == 64 &&
          told.max_execs_each == 16 && told.max_events == 16384);
    fsb_backend *b = dial_plain(&h);
    REQUIRE(b != NULL);
    fsb_chunk_client_get_info(b, &info);
    CHECK_EQ(info.max_requests, 5);
    for (int i = 0; i < 3; ++i) f[i] = open_file(b, "/f", make);
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/f", .flags = FSB_O_READ};
    CHECK_EQ(fsb_backend_call(b, &op), -EMFILE);
    CHECK_EQ(do_range(b, f[0], FSB_LOCK_EXCLUSIVE, 1, 0, 1), 0);
    CHECK_EQ(do_range(b, f[0], FSB_LOCK_EXCLUSIVE, 1, 9, 1), 0);
    CHECK_EQ(do_range(b, f[0], FSB_LOCK_EXCLUSIVE, 1, 5, 1), -ENOLCK);
    b->close(b);
    host_close(&h);
}

/* Commands that run until they are let go; who has his share of the threads waits for his own. */
static int exec_running, exec_gate;

static int64_t slow_exec(fsb_backend *b, fsb_op *op)
{
    (void)b;
    __atomic_add_fetch(&exec_running, 1, __ATOMIC_ACQ_REL);
    EVENTUALLY(__atomic_load_n(&exec_gate, __ATOMIC_ACQUIRE));
    __atomic_sub_fetch(&exec_running, 1, __ATOMIC_ACQ_REL);
    return op->result = 0;
}

static void test_exec_shares(void)
{
    static const char *const argv[] = {"x", NULL};
    fsb_op                   ops[10], *list[10];
    fsb_exec                 runs[10];
    fsb_chunk_share          share = {"share", NULL, RW | FSB_CHUNK_EXEC};
    fsb_chunk_server_desc    d = {.shares = &share, .share_count = 1, .max_execs = 4,
                                  .max_execs_each = 3};
    fsb_backend             *inner = NULL;
    fsb_chunk_server        *server = NULL;
    cutter                   c;
    host                     h;
    int                      done = 0;
    REQUIRE(fsb_memory_open(&inner, NULL) == 0);
    cutter_init(&c, inner, NULL, 0);
    c.base.call[FSB_OP_EXEC] = slow_exec;
    share.backend = &c.base;
    exec_running = exec_gate = 0;
    REQUIRE(fsb_chunk_server_open(&server, &d) == 0);
    CHECK_EQ(fsb_chunk_server_listen(server, unix_address(), h.address, sizeof h.address), 0);
    fsb_backend *greedy = dial_plain(&h), *modest = dial_plain(&h);
    REQUIRE(greedy && modest);
    for (int i = 0; i < 10; ++i) {
        runs[i] = (fsb_exec){.argv = argv};
        ops[i] = (fsb_op){.code = FSB_OP_EXEC, .path = "/", .exec = &runs[i], .user = &done,
                          .done = count_done};
        list[i] = &ops[i];
    }
    greedy->submit(greedy, list, 9);
    EVENTUALLY(__atomic_load_n(&exec_running, __ATOMIC_ACQUIRE) == 3);
    nap(50);
    CHECK_EQ(__atomic_load_n(&exec_running, __ATOMIC_ACQUIRE), 3);
    modest->submit(modest, list + 9, 1); /* the fourth thread is there for another */
    EVENTUALLY(__atomic_load_n(&exec_running, __ATOMIC_ACQUIRE) == 4);
    __atomic_store_n(&exec_gate, 1, __ATOMIC_RELEASE);
    EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 10);
    for (int i = 0; i < 10; ++i) CHECK_EQ(ops[i].result, 0);
    greedy->close(greedy), modest->close(modest);
    fsb_chunk_server_close(server);
    inner->close(inner);
}

/* One who holds a lease and does not say that it has seen what it was told loses it, long before
   that is much, or lasts. */
static void sleepy(void *user, const fsb_event *event)
{
    (void)event;
    EVENTUALLY(__atomic_load_n((int *)user, __ATOMIC_ACQUIRE));
}

static void test_events_pile_up(void)
{
    static char           names[40][16];
    fsb_op                ops[40], *list[40];
    fsb_chunk_server_desc d = {.max_events = 10};
    host                  h;
    int                   done = 0, awake = 0;
    REQUIRE(host_open(&h, unix_address(), d) == 0);
    fsb_backend *sleeper = dial_plain(&h), *busy = dial_plain(&h);
    REQUIRE(sleeper && busy);
    fsb_op watch = {.code = FSB_OP_WATCH, .path = "/", .flags = FSB_WATCH_HELD | FSB_WATCH_DEEP,
                    .event = sleepy, .user = &awake};
    CHECK(fsb_backend_call(sleeper, &watch) >= 0);
    CHECK_EQ(do_path(sleeper, FSB_OP_STAT, "/", NULL), 0);
    for (int i = 0; i < 40; ++i) {
        snprintf(names[i], sizeof names[i], "/d%d", i);
        ops[i] = (fsb_op){.code = FSB_OP_MKDIR, .path = names[i], .user = &done,
                          .done = count_done};
        list[i] = &ops[i];
    }
    busy->submit(busy, list, 40);
    EVENTUALLY(__atomic_load_n(&done, __ATOMIC_ACQUIRE) == 40);
    for (int i = 0; i < 40; ++i) CHECK_EQ(ops[i].result, 0);
    fsb_chunk_server_stats s;
    fsb_chunk_server_get_stats(h.server, &s);
    CHECK(s.events > 0 && s.events <= 10);
    CHECK_EQ(s.leases, 0);
    __atomic_store_n(&awake, 1, __ATOMIC_RELEASE);
    sleeper->close(sleeper), busy->close(busy);
    host_close(&h);
}

/* ---- ids ---- */

static int64_t do_owned(fsb_backend *b, uint32_t code, const char *path, uint32_t uid, uint32_t gid,
                        fsb_stat *stat)
{
    fsb_op op = {.code = code, .path = path, .path2 = "to",
                 .flags = code == FSB_OP_PUT ? FSB_O_WRITE | FSB_O_CREATE : 0,
                 .data = "", .attr = {.mask = FSB_ATTR_UID | FSB_ATTR_GID, .uid = uid, .gid = gid}};
    if (code != FSB_OP_SETATTR) op.attr.mask |= FSB_ATTR_MODE, op.attr.mode = 0100600;
    const int64_t n = fsb_backend_call(b, &op);
    if (n >= 0) *stat = op.stat;
    return n;
}

static uint32_t listed_uid; /* of what one listing had last */
static int note_uid(fsb_op *op, const fsb_dirent *entry)
{
    (void)op;
    listed_uid = entry->stat.uid;
    return 0;
}

static void ids_over(uint32_t squash, uint32_t other)
{
    const fsb_chunk_id          users[] = {{501, 1000}, {0, 7}}, groups[] = {{20, 100}};
    const fsb_chunk_ids         ids = {squash, 60, 61, users, groups, squash ? 1u : 2u, 1};
    const fsb_chunk_server_desc d = {.ids = &ids};
    fsb_stat                    seen, real;
    host                        h;
    REQUIRE(host_open(&h, unix_address(), d) == 0);
    fsb_backend *b = dial_plain(&h);
    REQUIRE(b != NULL);
    static const uint32_t makes[] = {FSB_OP_PUT, FSB_OP_MKDIR, FSB_OP_MKNOD, FSB_OP_SYMLINK};
    for (int i = 0; i < 4; ++i) {
        char path[16];
        snprintf(path, sizeof path, "/%d", i);
        CHECK_EQ(do_owned(b, makes[i], path, 501, 20, &seen), 0);
        CHECK(seen.uid == 501 && seen.gid == 20);
        fsb_op op = {.code = FSB_OP_STAT, .path = path};
        CHECK_EQ(fsb_backend_call(h.inner, &op), 0);
        CHECK(op.stat.uid == 1000 && op.stat.gid == 100);
    }
    real = seen;
    CHECK_EQ(do_owned(b, FSB_OP_SETATTR, "/0", 0, 0, &seen), 0); /* root's */
    fsb_op op = {.code = FSB_OP_STAT, .path = "/0"};
    CHECK_EQ(fsb_backend_call(h.inner, &op), 0);
    real = op.stat;
    CHECK_EQ(real.uid, squash ? 60 : 7);
    CHECK_EQ(real.gid, squash ? 61 : 0);
    CHECK_EQ(seen.uid, squash ? 60 : 0);
    CHECK_EQ(do_owned(b, FSB_OP_SETATTR, "/0", 1234, 5678, &seen), 0);
    CHECK_EQ(fsb_backend_call(h.inner, &op), 0);
    CHECK_EQ(op.stat.uid, other ? other : 1234);
    CHECK_EQ(seen.uid, op.stat.uid);
    CHECK_EQ(do_path(b, FSB_OP_MKDIR, "/5", NULL), 0); /* without an owner */
    op = (fsb_op){.code = FSB_OP_STAT, .path = "/5"};
    CHECK_EQ(fsb_backend_call(h.inner, &op), 0);
    CHECK_EQ(op.stat.uid, squash ? 60 : geteuid());
    CHECK_EQ(do_owned(b, FSB_OP_MKDIR, "/1/x", 501, 20, &seen), 0);
    op = (fsb_op){.code = FSB_OP_LIST, .path = "/1", .flags = FSB_LIST_STAT, .emit = note_uid};
    CHECK(fsb_backend_call(b, &op) >= 0);
    CHECK_EQ(listed_uid, 501);
    fsb_op device = {.code = FSB_OP_MKNOD, .path = "/null", .attr = {
                         .mask = FSB_ATTR_MODE, .mode = 0020666, .rdev_major = 1, .rdev_minor = 3}};
    CHECK_EQ(fsb_backend_call(b, &device), squash ? -EPERM : 0);
    fsb_op cap = {.code = FSB_OP_SETXATTR, .path = "/1", .path2 = "security.capability",
                  .data = "x", .size = 1};
    const int64_t set = fsb_backend_call(b, &cap);
    CHECK(squash ? set == -EPERM : set != -EPERM || geteuid() != 0);
    cap.path2 = "user.x";
    CHECK_EQ(fsb_backend_call(b, &cap), 0);
    b->close(b);
    host_close(&h);
}

static void test_ids(void)
{
    const fsb_chunk_ids   wrong = {3, 0, 0, NULL, NULL, 0, 0}, none = {0, 0, 0, NULL, NULL, 1, 0};
    fsb_chunk_server_desc d = plain;
    host                  h;
    ids_over(0, 0);
    ids_over(FSB_CHUNK_SQUASH_ROOT, 0);
    ids_over(FSB_CHUNK_SQUASH_ALL, 60);
    memset(&h, 0, sizeof h);
    pthread_mutex_init(&h.lock, NULL);
    REQUIRE(fsb_memory_open(&h.inner, NULL) == 0);
    d.ids = &wrong;
    CHECK_EQ(host_listen(&h, "unix:/x", d), -EINVAL);
    d.ids = &none;
    CHECK_EQ(host_listen(&h, "unix:/x", d), -EINVAL);
    h.inner->close(h.inner);
}

/* ---- the sandbox ---- */

/* In a process of its own: what is served works, nothing else does. 0, or where it went wrong. */
#define EXPECT(x) do { if (!(x)) _exit(__LINE__ % 251 + 1); } while (0)

static void sandboxed(const char *served, const char *read_only)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
    sandbox_files      s;
    char               path[400], path2[400];
    int                fd;
#define IN(folder, name) (snprintf(path, sizeof path, "%s/%s", folder, name), path)
    EXPECT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    EXPECT(sandbox_files_begin(&s) == 0);
    EXPECT(sandbox_files_allow(&s, served, SANDBOX_SERVE) == 0);
    EXPECT(sandbox_files_allow(&s, read_only, SANDBOX_READ) == 0);
    EXPECT(sandbox_files_allow(&s, "/no/such/file", SANDBOX_READ) == 0);
    const int before = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    EXPECT(before >= 0);
    EXPECT(sandbox_files_end(&s) == 0);
    char byte;
    EXPECT(read(before, &byte, 1) == 1); /* what was open stays so */
    EXPECT(open("/etc/passwd", O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
    EXPECT(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0 && errno == EACCES);
    EXPECT(execl("/bin/sh", "sh", "-c", "exit 0", (char *)NULL) < 0 && errno == EACCES);
    EXPECT((fd = open(IN(served, "made"), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
    EXPECT(write(fd, "hello", 5) == 5 && ftruncate(fd, 3) == 0);
    EXPECT(truncate(path, 2) == 0);
    EXPECT(mkdir(IN(served, "a"), 0700) == 0 && mkdir(IN(served, "b"), 0700) == 0);
    snprintf(path2, sizeof path2, "%s/a/moved", served);
    EXPECT(rename(IN(served, "made"), path2) == 0);
    EXPECT(link(path2, IN(served, "b/linked")) == 0);
    EXPECT(mkfifo(IN(served, "fifo"), 0600) == 0 && symlink("x", IN(served, "link")) == 0);
    EXPECT(unlink(path2) == 0 && rmdir(IN(served, "a")) == 0);
    EXPECT(open(IN(read_only, "x"), O_RDONLY | O_CLOEXEC) >= 0);
    EXPECT(open(IN(read_only, "x"), O_RDWR | O_CLOEXEC) < 0 && errno == EACCES);
    EXPECT(unlink(IN(read_only, "x")) < 0 && errno == EACCES);
    EXPECT(mkdir(IN(read_only, "y"), 0700) < 0 && errno == EACCES);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(connect(fd, (struct sockaddr *)&to, sizeof to) < 0);
    EXPECT(errno == (s.abi >= 4 ? EACCES : ECONNREFUSED));
    _exit(0);
}

static void test_sandbox(void)
{
    char          served[300], read_only[300], file[310];
    sandbox_files s;
    int           status = -1;
    if (sandbox_files_begin(&s) != 0) SKIP("the kernel has no Landlock of ABI 2 or newer");
    close(s.fd);
    snprintf(served, sizeof served, "%s/served", test_dir());
    snprintf(read_only, sizeof read_only, "%s/read-only", test_dir());
    snprintf(file, sizeof file, "%s/x", read_only);
    CHECK(mkdir(served, 0700) == 0 && mkdir(read_only, 0700) == 0);
    const int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    const pid_t child = fork();
    if (child == 0) sandboxed(served, read_only);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_codes);
    TEST(test_codes_mistyped);
    TEST(test_codes_noise);
    TEST(test_tls_files);
    TEST(test_tls_conformance);
    TEST(test_tls_wrong_code);
    TEST(test_tls_is_needed);
    TEST(test_tls_rights);
    TEST(test_tls_expires);
    TEST(test_back);
    TEST(test_once);
    TEST(test_once_without_memory);
    TEST(test_back_without_lease);
    TEST(test_back_open_twice);
    TEST(test_back_unlocked);
    TEST(test_restart);
    TEST(test_restart_locks);
    TEST(test_nobody_comes_back);
    TEST(test_revoked_meanwhile);
    TEST(test_storm);
    TEST(test_bits_flip);
    TEST(test_cut_anywhere);
    TEST(test_silent_connections);
    TEST(test_wrong_codes_slow_down);
    TEST(test_fair);
    TEST(test_cut_on_its_way_back);
    TEST(test_too_many_for_once);
    TEST(test_lock_given_up);
    TEST(test_limits);
    TEST(test_exec_shares);
    TEST(test_events_pile_up);
    TEST(test_ids);
    TEST(test_sandbox);
    return test_end("test_safe");
}
