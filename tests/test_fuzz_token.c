/* test_fuzz_token.c - replays the inputs of fuzz/token/ (or those named) without a fuzzer. */
#include "fuzz_token.h"
#include "test.h"
#include <dirent.h>

static void replay(const char *path)
{
    static uint8_t bytes[1 << 16];
    FILE          *f = fopen(path, "rb");
    REQUIRE(f != NULL);
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    CHECK_EQ(LLVMFuzzerTestOneInput(bytes, n), 0); /* it aborts if something is wrong */
}

static void test_corpus(void)
{
    char           path[600];
    DIR           *dir = opendir("tests/fuzz/token");
    struct dirent *e;
    int            n = 0;
    if (!dir) SKIP("tests/fuzz/token is not here: run it at the top of the project");
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/fuzz/token/%s", e->d_name);
        replay(path);
        ++n;
    }
    closedir(dir);
    CHECK(n > 0);
}

int main(int argc, char **argv)
{
    test_begin(0, NULL);
    for (int i = 1; i < argc; ++i) replay(argv[i]);
    if (argc == 1) TEST(test_corpus);
    return test_end("test_fuzz_token");
}
