/* test_fuzz.c - replays what is in fuzz/ without a fuzzer; test_fuzz NAME FILE... one's own inputs.
   An input that is wrong ends it by abort(), or a sanitizer does. */
#define LLVMFuzzerTestOneInput input_chunk
#include "fuzz_chunk.h"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput input_sftp
#include "fuzz_sftp.h"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput input_cache
#include "fuzz_cache.h"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput input_mount
#include "fuzz_mount.h"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput input_url
#include "fuzz_url.h"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput input_token
#include "fuzz_token.h"
#include <dirent.h>

static void replay(int (*run)(const uint8_t *data, size_t size), const char *path)
{
    static uint8_t bytes[2 << 20];
    FILE          *f = fopen(path, "rb");
    REQUIRE(f != NULL);
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    CHECK_EQ(run(bytes, n), 0);
}

static void corpus(int (*run)(const uint8_t *data, size_t size), const char *name)
{
    char           path[600];
    struct dirent *e;
    int            n = 0;
    snprintf(path, sizeof path, "tests/fuzz/%s", name);
    DIR *dir = opendir(path);
    if (!dir) SKIP("tests/fuzz is not here: run it at the top of the project");
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/fuzz/%s/%s", name, e->d_name);
        replay(run, path);
        ++n;
    }
    closedir(dir);
    CHECK(n > 0);
}

static void test_chunk(void) { corpus(input_chunk, "chunk"); }
static void test_sftp(void) { corpus(input_sftp, "sftp"); }
static void test_cache(void) { corpus(input_cache, "cache"); }
static void test_mount(void) { corpus(input_mount, "mount"); }
static void test_url(void) { corpus(input_url, "url"); }
static void test_token(void) { corpus(input_token, "token"); }

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const uint8_t *data, size_t size);
    } all[] = {{"chunk", input_chunk}, {"sftp", input_sftp}, {"cache", input_cache},
               {"mount", input_mount}, {"url", input_url}, {"token", input_token}};
    test_begin(0, NULL);
    if (argc == 1) {
        TEST(test_chunk);
        TEST(test_sftp);
        TEST(test_cache);
        TEST(test_mount);
        TEST(test_url);
        TEST(test_token);
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        for (int k = 2; k < argc && strcmp(argv[1], all[i].name) == 0; ++k)
            replay(all[i].run, argv[k]);
    return test_end("test_fuzz");
}
