/* test_safe.c - join codes, TLS, coming back after a lost connection, limits. */
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "conformance.h"
#include "test.h"
#include "wire.h"
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

enum { RW = FSB_CHUNK_READ | FSB_CHUNK_WRITE };

static void nap(int ms)
{
    usleep((useconds_t)ms * 1000);
}

/* Waits until the condition holds, 20 s at most: machines are slow, sanitizers slower. */
#define EVENTUALLY(x)                                                                              \
    do {                                                                                           \
        int tries_ = 0;                                                                            \
        while (tries_ < 4000 && !(x)) ++tries_, nap(5);                                            \
        CHECK(tries_ < 4000 && #x);                                                                \
    } while (0)

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
    clock_gettime(CLOCK_REALTIME, &now);
    fsb_chunk_code code = {h.code, NULL, RW, NULL, 0};
    code.expires_ns = ((int64_t)now.tv_sec + 2) * 1000000000;
    CHECK_EQ(fsb_chunk_server_set_codes(h.server, &code, 1), 0);
    b = dial(&h);
    REQUIRE(b != NULL);
    fsb_op op = {.code = FSB_OP_STAT, .path = "/"};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    EVENTUALLY(fsb_backend_call(b, &op) == -ENOTCONN);
    b->close(b);
    host_close(&h);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_codes);
    TEST(test_codes_mistyped);
    TEST(test_tls_files);
    TEST(test_tls_conformance);
    TEST(test_tls_wrong_code);
    TEST(test_tls_is_needed);
    TEST(test_tls_rights);
    TEST(test_tls_expires);
    return test_end("test_safe");
}
