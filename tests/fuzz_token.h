/* fuzz_token.h - what tenants come with, and the file that says who they are: tokens, and lines of
   fsb-host's --tokens. What the fuzzer (make fuzz) began with is in fuzz/token/ and replayed by
   test_fuzz.c. */
#undef FSB_WITH_FUSE
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#define FSB_MOUNT_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "fsb_mount.h"
#include "../tools/codes.h"
#include "../tools/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is taken has one spelling: signing what it says gives the same text. */
static void fuzz_token(const char *text, size_t size)
{
    static const fsb_token_key key = {7, "the newer secret, also 32 bytes."};
    char                       again[FSB_TOKEN_SIZE];
    fsb_token_claims           c, d;
    fsb_tokens_desc            desc = {0};
    fsb_tokens                *t = NULL;
    const int                  err = fsb_token_read(text, size, &c);
    desc.keys = &key, desc.key_count = 1, desc.cache_entries = 8;
    if (err && err != -EINVAL) abort();
    if (fsb_tokens_open(&t, &desc) != 0) return;
    const int good = fsb_tokens_check(t, text, size, &d);
    if (good != 0 && good != -EINVAL && good != -EBADMSG && good != -EKEYEXPIRED) abort();
    if (fsb_tokens_check(t, text, size, &d) != good) abort(); /* and again, from the cache */
    if (err && good != -EINVAL) abort();
    if (!err) {
        const size_t identity = strlen(text) == size && strrchr(text, ':') - text > 60
            ? (size_t)(strrchr(text, ':') - text)
            : 0;
        if (!memchr(c.tenant, 0, sizeof c.tenant) || !tokens_name(c.tenant)) abort();
        if (!(c.rights & FSB_TOKEN_READ) || !c.id || !c.key || c.until_ns <= 0) abort();
        if (c.key == 7 && fsb_tokens_sign(t, &c, again, sizeof again) != 0) abort();
        if (c.key == 7 && strncmp(text, again, identity) != 0) abort();
        if (!good && (strlen(again) != size || memcmp(again, text, size) != 0)) abort();
    }
    fsb_tokens_close(t);
}

/* A file of these lines: what is taken ends each of its parts. */
static void fuzz_lines(char *text)
{
    tokens_file f;
    memset(&f, 0, sizeof f);
    for (char *line = text, *end; line; line = end) {
        if ((end = strchr(line, '\n')) != NULL) *end++ = '\0';
        const size_t keys = f.key_count, tenants = f.tenant_count, revoked = f.revoked_count;
        if (tokens_line(&f, line) && (keys != f.key_count || tenants != f.tenant_count ||
                                      revoked != f.revoked_count))
            abort(); /* a bad line adds nothing */
        (void)tokens_over(line);
    }
    for (size_t i = 0; i < f.tenant_count; ++i) {
        const tokens_tenant *t = &f.tenants[i];
        if (!tokens_name(t->name) || tokens_find(&f, t->name) != t) abort();
        for (size_t j = 0; j < t->folder_count; ++j) {
            if (t->folders[j].dir[0] != '/' || strchr(t->folders[j].name, '/')) abort();
            if (!memchr(t->folders[j].dir, 0, sizeof t->folders[j].dir)) abort();
        }
    }
    if (f.key_count > TOKENS_KEYS) abort();
    tokens_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1); /* its end is where a reader must stop */
    if (!text) abort();
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    fuzz_token(text, size);
    fuzz_lines(text);
    free(text);
    return 0;
}
