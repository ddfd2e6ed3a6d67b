/* test_tokens.c - tokens: signed, checked, remembered, revoked, and what is none of these. */
#define FSB_MOUNT_IMPLEMENTATION
#include "fsb_mount.h"
#include "test.h"

static const int64_t SECOND = 1000000000;
static int64_t clock_ns = 1800000000000000000; /* what the checkers take for now */
static int64_t test_clock(void *user)
{
    (void)user;
    return __atomic_load_n(&clock_ns, __ATOMIC_RELAXED);
}

static char last_line[600];
static void keep_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)level;
    snprintf(last_line, sizeof last_line, "%s %s", item, text);
}

static const fsb_token_key two_keys[2] = {{1, "an older secret of 32 bytes ...."},
                                          {7, "the newer secret, also 32 bytes."}};

/* NULL, with the reason to skip, where there is no OpenSSL. */
static fsb_tokens *open_tokens(uint32_t entries, fsb_allocator allocator)
{
    fsb_tokens_desc d = {0};
    fsb_tokens     *t = NULL;
    d.keys = two_keys, d.key_count = 2, d.cache_entries = entries, d.now_ns = test_clock;
    d.log.fn = keep_line, d.allocator = allocator;
    const int err = fsb_tokens_open(&t, &d);
    if (err == -ENOSYS) test_.skip_reason = "built without OpenSSL";
    else CHECK_EQ(err, 0);
    return t;
}
static const fsb_allocator libc = {0};
#define OPEN(t, entries) \
    fsb_tokens *t = open_tokens(entries, libc); \
    if (!t) return

static fsb_token_claims claims_of(const char *tenant, uint32_t rights, int64_t seconds)
{
    fsb_token_claims c = {0};
    snprintf(c.tenant, sizeof c.tenant, "%s", tenant);
    c.rights = rights, c.until_ns = clock_ns + seconds * SECOND;
    return c;
}

static void test_signed_and_checked(void)
{
    char             text[FSB_TOKEN_SIZE], again[FSB_TOKEN_SIZE];
    fsb_token_claims got = {0}, c = claims_of("ann@example.org", FSB_TOKEN_READ, 60);
    OPEN(t, 0);
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), 0);
    CHECK_EQ(c.key, 7);
    CHECK(c.id != 0);
    CHECK(strncmp(text, "fsb1:7:ann@example.org:ro:1800000060:", 37) == 0);
    for (int i = 0; i < 3; ++i) {
        CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), 0);
        CHECK_STR(got.tenant, "ann@example.org");
        CHECK(got.rights == FSB_TOKEN_READ && got.id == c.id && got.key == 7);
        CHECK_EQ(got.until_ns, c.until_ns);
    }
    fsb_tokens_stats s;
    fsb_tokens_stat(t, &s);
    CHECK(s.checks == 3 && s.hits == 2 && s.cached == 1);
    CHECK_EQ(fsb_token_read(text, strlen(text), &got), 0);
    /* from its identity alone the host makes it again */
    const size_t identity = (size_t)(strrchr(text, ':') - text);
    CHECK_EQ(fsb_tokens_complete(t, text, identity, again, &got), 0);
    CHECK_STR(again, text);
    c.id = 0, c.rights = FSB_TOKEN_READ | FSB_TOKEN_WRITE | FSB_TOKEN_EXEC, c.key = 1;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), 0);
    CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), 0);
    CHECK(got.key == 1 && got.rights == 7u);
    CHECK_EQ(fsb_tokens_sign(t, &c, text, strlen(text)), -ENAMETOOLONG);
    CHECK_EQ(fsb_tokens_sign(t, &c, text, strlen(text) + 1), 0);
    fsb_tokens_close(t);
}

/* A MAC that another implementation made: of Python's hmac and base64. */
static void test_vector(void)
{
    static const char text[] = "fsb1:7:ann:rw:1900000000:0123456789abcdef:"
                               "GVv8yVHU23uLZP4anpVNDl9ay09LnVs9HnvpJtWmm9E";
    fsb_token_claims c;
    OPEN(t, 0);
    CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &c), 0);
    fsb_tokens_close(t);
}

/* Claims that there can be no token of. */
static void test_no_such_claims(void)
{
    static const char *const names[] = {"", ".", "-a", "a b", "a:b", "a/b", "\xc3\xa9", "_x"};
    char                     text[FSB_TOKEN_SIZE];
    OPEN(t, 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
        fsb_token_claims c = claims_of(names[i], FSB_TOKEN_READ, 60);
        CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    }
    fsb_token_claims c = claims_of("ann", 0, 60);
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    c.rights = FSB_TOKEN_WRITE;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    c.rights = FSB_TOKEN_READ, c.until_ns = 0;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    c.until_ns = -SECOND;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    c = claims_of("ann", FSB_TOKEN_READ, 60), c.key = 3;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), -EINVAL);
    c = claims_of("ann", FSB_TOKEN_READ, 60), c.until_ns = INT64_MAX;
    memset(c.tenant, 'x', sizeof c.tenant); /* the longest of all fits */
    c.rights = 7, c.tenant[sizeof c.tenant - 1] = '\0';
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), 0);
    CHECK(strlen(text) < FSB_TOKEN_SIZE);
    fsb_tokens_close(t);
}

/* Every single change of a good token is refused, as what it is, with a line that has no secret. */
static void test_forged_and_malformed(void)
{
    char             good[FSB_TOKEN_SIZE], text[FSB_TOKEN_SIZE + 8];
    fsb_token_claims got, c = claims_of("ann", FSB_TOKEN_READ | FSB_TOKEN_WRITE, 60);
    OPEN(t, 0);
    CHECK_EQ(fsb_tokens_sign(t, &c, good, sizeof good), 0);
    const size_t size = strlen(good), mac = (size_t)(strrchr(good, ':') - good) + 1;
    CHECK_EQ(fsb_tokens_check(t, good, size, &got), 0); /* remembered: what follows must not hit */
    int forged = 0, malformed = 0;
    for (size_t i = 0; i < size; ++i)
        for (int bit = 0; bit < 8; ++bit) {
            memcpy(text, good, size + 1);
            text[i] = (char)(text[i] ^ 1 << bit);
            const int err = fsb_tokens_check(t, text, size, &got);
            forged += err == -EBADMSG, malformed += err == -EINVAL;
            CHECK(err == -EBADMSG || err == -EINVAL);
            CHECK(strncmp(last_line, "token/refused ", 14) == 0);
            CHECK(strstr(last_line, good + mac) == NULL && strstr(last_line, text + mac) == NULL);
            CHECK(strstr(last_line, err == -EBADMSG ? "forged" : "malformed") != NULL);
        }
    CHECK(forged > 100 && malformed > 100);
    for (size_t n = 0; n < size; ++n) { /* cut off; an identity alone is no token */
        CHECK_EQ(fsb_tokens_check(t, good, n, &got), -EINVAL);
        CHECK_EQ(fsb_token_read(good, n, &got), n + 1 == mac ? 0 : -EINVAL);
    }
    snprintf(text, sizeof text, "%sA", good);
    CHECK_EQ(fsb_tokens_check(t, text, size + 1, &got), -EINVAL);
    CHECK_EQ(fsb_tokens_check(t, good, size + 1, &got), -EINVAL); /* a NUL */
    CHECK_EQ(fsb_tokens_complete(t, good, size, text, &got), -EINVAL);
    fsb_tokens_stats s;
    fsb_tokens_stat(t, &s);
    CHECK_EQ(s.forged, forged);
    CHECK_EQ(s.hits, 0);
    CHECK_EQ(s.cached, 1);
    fsb_tokens_close(t);
}

static void test_spellings(void) /* of the same claims: one only */
{
    static const char *const wrong[] = {
        "fsb1:07:ann:ro:1900000000:0123456789abcdef", "fsb1:7:ann:ro:01900000000:0123456789abcdef",
        "fsb1:7:ann:ro:1900000000:0123456789ABCDEF",  "fsb1:7:ann:ro:1900000000:123456789abcdef",
        "fsb1:7:ann:ro:1900000000:00123456789abcdef", "fsb1:7:ann:r:1900000000:0123456789abcdef",
        "fsb1:7:ann:rox:1900000000:0123456789abcdef", "fsb1:7:ann:rwxx:1900000000:0123456789abcdef",
        "fsb1:+7:ann:ro:1900000000:0123456789abcdef", "fsb1:0:ann:ro:1900000000:0123456789abcdef",
        "fsb1:4294967296:ann:ro:1900000000:0123456789abcdef",
        "fsb1:7:ann:ro:9223372037:0123456789abcdef",  "fsb1:7:ann:ro:0:0123456789abcdef",
        "fsb1:7:ann:ro:1900000000:0000000000000000",  "fsb2:7:ann:ro:1900000000:0123456789abcdef",
        "fsb1:7::ro:1900000000:0123456789abcdef",     "fsb1:7:ann:ro::0123456789abcdef"};
    fsb_token_claims c;
    static const char right[] = "fsb1:7:ann:ro:9223372036:0123456789abcdef";
    CHECK_EQ(fsb_token_read(right, strlen(right), &c), 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        CHECK_EQ(fsb_token_read(wrong[i], strlen(wrong[i]), &c), -EINVAL);
}

static void test_expired(void)
{
    char             text[FSB_TOKEN_SIZE];
    fsb_token_claims got, c = claims_of("ann", FSB_TOKEN_READ, 60);
    fsb_tokens_stats s;
    OPEN(t, 0);
    const int64_t began = clock_ns;
    CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), 0);
    clock_ns = c.until_ns - 1;
    CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), 0);
    clock_ns = c.until_ns; /* though it is remembered, and then no more */
    CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), -EKEYEXPIRED);
    CHECK(strstr(last_line, "of tenant ann: expired") != NULL);
    fsb_tokens_stat(t, &s);
    CHECK_EQ(s.cached, 0);
    CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), -EKEYEXPIRED);
    CHECK_EQ(fsb_tokens_complete(t, text, (size_t)(strrchr(text, ':') - text), text, &got),
             -EKEYEXPIRED);
    fsb_tokens_stat(t, &s);
    CHECK_EQ(s.expired, 3);
    clock_ns = began;
    fsb_tokens_close(t);
}

static void test_revoked_and_rotated(void)
{
    char             a[FSB_TOKEN_SIZE], b[FSB_TOKEN_SIZE], room[FSB_TOKEN_SIZE];
    fsb_token_claims got, ca = claims_of("ann", FSB_TOKEN_READ, 60);
    fsb_token_claims cb = claims_of("bob", FSB_TOKEN_READ, 60);
    OPEN(t, 0);
    ca.key = 1;
    CHECK_EQ(fsb_tokens_sign(t, &ca, a, sizeof a), 0);
    CHECK_EQ(fsb_tokens_sign(t, &cb, b, sizeof b), 0);
    CHECK_EQ(fsb_tokens_check(t, a, strlen(a), &got), 0);
    CHECK_EQ(fsb_tokens_check(t, b, strlen(b), &got), 0);
    CHECK_EQ(fsb_tokens_revoke(t, cb.id), 0);
    CHECK_EQ(fsb_tokens_revoke(t, cb.id), 0);
    CHECK_EQ(fsb_tokens_revoke(t, 0), -EINVAL);
    CHECK_EQ(fsb_tokens_check(t, b, strlen(b), &got), -EKEYREVOKED);
    CHECK(strstr(last_line, "of tenant bob: revoked") != NULL);
    CHECK_EQ(fsb_tokens_complete(t, b, (size_t)(strrchr(b, ':') - b), room, &got), -EKEYREVOKED);
    for (size_t i = 0; i < sizeof room; ++i) CHECK_EQ(room[i], 0);
    CHECK_EQ(fsb_tokens_check(t, a, strlen(a), &got), 0);
    /* the list is replaced as a whole */
    CHECK_EQ(fsb_tokens_set(t, two_keys, 2, &ca.id, 1), 0);
    CHECK_EQ(fsb_tokens_check(t, a, strlen(a), &got), -EKEYREVOKED);
    CHECK_EQ(fsb_tokens_check(t, b, strlen(b), &got), 0);
    /* a key is taken away, with all that it signed */
    CHECK_EQ(fsb_tokens_set(t, two_keys + 1, 1, NULL, 0), 0);
    CHECK_EQ(fsb_tokens_check(t, a, strlen(a), &got), -EBADMSG);
    CHECK_EQ(fsb_tokens_check(t, b, strlen(b), &got), 0);
    const fsb_token_key other = {7, "another secret under that number"};
    CHECK_EQ(fsb_tokens_set(t, &other, 1, NULL, 0), 0);
    CHECK_EQ(fsb_tokens_check(t, b, strlen(b), &got), -EBADMSG);
    const fsb_token_key twice[2] = {{7, "x"}, {7, "y"}};
    CHECK_EQ(fsb_tokens_set(t, twice, 2, NULL, 0), -EINVAL);
    CHECK_EQ(fsb_tokens_set(t, two_keys, 0, NULL, 0), -EINVAL);
    fsb_tokens_close(t);
}

/* Many more users than entries: bounded, and right about each, at any time. */
static void bounded(uint32_t entries, uint32_t users, uint32_t checks)
{
    char             text[FSB_TOKEN_SIZE], key_name[32];
    uint64_t         random = 88172645463325252u;
    fsb_tokens_stats s;
    fsb_token_claims got;
    test_memory      m = {0};
    fsb_tokens      *t = open_tokens(entries, (fsb_allocator){test_memory_fn, &m});
    if (!t) return;
    for (uint32_t i = 0; i < checks; ++i) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        const uint32_t   user = (uint32_t)(random >> 32) % users;
        fsb_token_claims c = claims_of("", FSB_TOKEN_READ, 60 + user % 2);
        snprintf(key_name, sizeof key_name, "user%u", user);
        memcpy(c.tenant, key_name, sizeof key_name);
        c.id = user + 1;
        if (fsb_tokens_sign(t, &c, text, sizeof text) != 0) CHECK(0);
        if (user % 8 == 7) { /* forged */
            char *last = text + strlen(text) - 2;
            *last = *last == 'A' ? 'B' : 'A';
        }
        const int err = fsb_tokens_check(t, text, strlen(text), &got);
        if (err != (user % 8 == 7 ? -EBADMSG : 0)) CHECK_EQ(err, -1);
        if (!err && (got.id != c.id || strcmp(got.tenant, key_name) != 0)) CHECK(0);
    }
    fsb_tokens_stat(t, &s);
    CHECK(s.cached <= entries && s.cached >= (entries < users / 2 ? entries * 9 / 10 : 1));
    CHECK(s.bytes <= 100u * entries + 8192);
    CHECK(m.live <= (int64_t)s.bytes);
    clock_ns += 60 * SECOND; /* half of them have ended */
    for (uint32_t user = 0; user < users && user < 64; ++user) {
        fsb_token_claims c = claims_of("", FSB_TOKEN_READ, user % 2);
        snprintf(c.tenant, sizeof c.tenant, "user%u", user);
        c.id = user + 1;
        CHECK_EQ(fsb_tokens_sign(t, &c, text, sizeof text), 0);
        CHECK_EQ(fsb_tokens_check(t, text, strlen(text), &got), user % 2 ? 0 : -EKEYEXPIRED);
    }
    clock_ns -= 60 * SECOND;
    fsb_tokens_close(t);
    CHECK_EQ(m.live, 0);
}
static void test_bounded_small(void) { bounded(5, 100, 20000); }
static void test_bounded(void) { bounded(2000, 20000, 60000); }

static void test_all_cached(void) /* as many as it is made for, each of them found again */
{
    enum { COUNT = 20000 };
    char            (*texts)[FSB_TOKEN_SIZE] = malloc((size_t)COUNT * FSB_TOKEN_SIZE);
    fsb_token_claims got;
    fsb_tokens_stats s;
    REQUIRE(texts != NULL);
    fsb_tokens *t = open_tokens(COUNT, libc);
    for (int i = 0; t && i < COUNT; ++i) {
        fsb_token_claims c = claims_of("ann", FSB_TOKEN_READ, 60);
        CHECK_EQ(fsb_tokens_sign(t, &c, texts[i], FSB_TOKEN_SIZE), 0);
        CHECK_EQ(fsb_tokens_check(t, texts[i], strlen(texts[i]), &got), 0);
    }
    for (int i = 0; t && i < COUNT; ++i)
        CHECK_EQ(fsb_tokens_check(t, texts[i], strlen(texts[i]), &got), 0);
    if (t) fsb_tokens_stat(t, &s), CHECK_EQ(s.cached, COUNT), CHECK_EQ(s.hits, COUNT);
    fsb_tokens_close(t);
    free(texts);
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { TEXTS = 200 };
static struct {
    fsb_tokens *t;
    char        texts[TEXTS][FSB_TOKEN_SIZE];
    uint64_t    ids[TEXTS];
    int         revoked; /* those below it are, for sure */
    int         stop;
} shared;

static void *check_on_and_on(void *arg)
{
    unsigned         i = (unsigned)(uintptr_t)arg;
    fsb_token_claims c;
    while (!__atomic_load_n(&shared.stop, __ATOMIC_ACQUIRE)) {
        i = (i * 1103515245u + 12345u) & 0x7fffffffu;
        const int n = (int)(i >> 8) % TEXTS;
        const int gone = n < __atomic_load_n(&shared.revoked, __ATOMIC_ACQUIRE);
        const int err = fsb_tokens_check(shared.t, shared.texts[n], strlen(shared.texts[n]), &c);
        CHECK(err == -EKEYREVOKED || (err == 0 && !gone));
        if (!err) CHECK_EQ(c.id, shared.ids[n]);
    }
    return NULL;
}

static void quiet_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)level, (void)item, (void)text;
}

static void test_revoked_under_fire(void)
{
    pthread_t       threads[4];
    fsb_tokens_desc d = {0};
    d.keys = two_keys, d.key_count = 2, d.cache_entries = 100, d.now_ns = test_clock;
    d.log.fn = quiet_line;
    const int err = fsb_tokens_open(&shared.t, &d);
    if (err == -ENOSYS) SKIP("built without OpenSSL");
    REQUIRE(err == 0);
    shared.revoked = shared.stop = 0;
    for (int i = 0; i < TEXTS; ++i) {
        fsb_token_claims c = claims_of("ann", FSB_TOKEN_READ, 60);
        CHECK_EQ(fsb_tokens_sign(shared.t, &c, shared.texts[i], FSB_TOKEN_SIZE), 0);
        shared.ids[i] = c.id;
    }
    for (int i = 0; i < 4; ++i)
        REQUIRE(pthread_create(&threads[i], NULL, check_on_and_on, (void *)(uintptr_t)i) == 0);
    for (int i = 0; i < TEXTS; ++i) {
        CHECK_EQ(fsb_tokens_revoke(shared.t, shared.ids[i]), 0);
        __atomic_store_n(&shared.revoked, i + 1, __ATOMIC_RELEASE);
        usleep(500);
    }
    __atomic_store_n(&shared.stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
    fsb_tokens_close(shared.t);
}

static void test_no_memory(void)
{
    const fsb_tokens_desc none = {0};
    fsb_tokens           *t = NULL;
    CHECK_EQ(fsb_tokens_open(&t, &none), -EINVAL);
    for (uint64_t k = 1; k < 20; ++k) {
        test_memory     m = {0};
        fsb_tokens_desc d = {0};
        m.fail_at = k;
        d.keys = two_keys, d.key_count = 2, d.allocator.fn = test_memory_fn;
        d.allocator.user = &m;
        int err = fsb_tokens_open(&t, &d);
        if (err == -ENOSYS) SKIP("built without OpenSSL");
        if (!err) {
            err = fsb_tokens_revoke(t, 9);
            if (!err) err = fsb_tokens_set(t, two_keys, 1, &k, 1);
            fsb_tokens_close(t);
        }
        CHECK(err == 0 || err == -ENOMEM);
        CHECK(m.live == 0 && !m.wrong_size);
        if (!err) return;
    }
    CHECK(0); /* it never had enough */
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_signed_and_checked);
    TEST(test_vector);
    TEST(test_no_such_claims);
    TEST(test_forged_and_malformed);
    TEST(test_spellings);
    TEST(test_expired);
    TEST(test_revoked_and_rotated);
    TEST(test_bounded_small);
    TEST(test_bounded);
    TEST(test_all_cached);
    TEST(test_revoked_under_fire);
    TEST(test_no_memory);
    return test_end("test_tokens");
}
