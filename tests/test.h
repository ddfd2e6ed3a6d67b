/* test.h - what every test program shares: checks, a scratch folder, an allocator that fails.

   A test is a function of no arguments; main() runs them and ends with the tally:

       static void test_sum(void) { CHECK(1 + 1 == 2); CHECK_EQ(sum(2, 2), 4); }
       int main(int argc, char **argv)
       {
           test_begin(argc, argv);      // arguments: run only the tests whose names contain one of them
           TEST(test_sum);
           return test_end("test_sum");
       }

   A failed CHECK tells where and goes on; REQUIRE leaves the test function. EVENTUALLY waits until
   what others are to do is so: no test counts on when a thread runs. Threads: any. */
#ifndef FSB_TEST_H
#define FSB_TEST_H
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    int         argc;
    char      **argv;
    const char *name;        /* of the running test */
    const char *skip_reason; /* set by SKIP */
    int         bad;         /* failed checks of the running test */
    int         passed, failed, skipped;
    char        dir[256]; /* the scratch folder, "" until asked for */
    pid_t       owner;
} test_;

#define CHECK(x) ((x) ? (void)0 : test_fail_(__FILE__, __LINE__, #x, 0, 0))
#define CHECK_EQ(a, b) test_eq_(__FILE__, __LINE__, #a " == " #b, (long long)(a), (long long)(b))
#define CHECK_STR(a, b) (strcmp((a), (b)) == 0 ? (void)0 : test_str_(__FILE__, __LINE__, (a), (b)))
#define REQUIRE(x) do { if (!(x)) { test_fail_(__FILE__, __LINE__, #x, 0, 0); return; } } while (0)
#define EVENTUALLY(x)                                                                              \
    do {                                                                                           \
        int64_t napped_ = 0;                                                                       \
        while (!(x))                                                                               \
            if (!test_nap(&napped_)) {                                                             \
                test_fail_(__FILE__, __LINE__, "eventually " #x, 0, 0);                            \
                break;                                                                             \
            }                                                                                      \
    } while (0)
#define SKIP(why) do { test_.skip_reason = (why); return; } while (0)
#define TEST(fn) test_run_(#fn, fn)

static inline void test_fail_(const char *file, int line, const char *what, long long a, long long b)
{
    __atomic_add_fetch(&test_.bad, 1, __ATOMIC_RELAXED);
    if (a == b) fprintf(stderr, "%s:%d: %s: failed: %s\n", file, line, test_.name, what);
    else fprintf(stderr, "%s:%d: %s: failed: %s (%lld, %lld)\n", file, line, test_.name, what, a, b);
}

static inline void test_eq_(const char *file, int line, const char *what, long long a, long long b)
{
    if (a != b) test_fail_(file, line, what, a, b);
}

static inline void test_str_(const char *file, int line, const char *a, const char *b)
{
    __atomic_add_fetch(&test_.bad, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "%s:%d: %s: failed: \"%s\" is not \"%s\"\n", file, line, test_.name, a, b);
}

/* One nap of who waits for something, short ones first; *us is 0 before, and how long all took. 0: a
   minute is over, which is enough for machines that are slow, and for sanitizers on them. */
static inline int test_nap(int64_t *us)
{
    const int nap = *us < 1000 ? 100 : *us < 50000 ? 1000 : 5000;
    if (*us >= 60000000) return 0;
    usleep((useconds_t)nap);
    *us += nap;
    return 1;
}

static inline void test_begin(int argc, char **argv) { test_.argc = argc, test_.argv = argv; }

static inline int test_wanted_(const char *name)
{
    for (int i = 1; i < test_.argc; ++i)
        if (strstr(name, test_.argv[i])) return 1;
    return test_.argc <= 1;
}

static inline void test_run_(const char *name, void (*fn)(void))
{
    if (!test_wanted_(name)) return;
    test_.name = name, test_.bad = 0, test_.skip_reason = NULL;
    fn();
    if (test_.bad) ++test_.failed, fprintf(stderr, "FAIL %s\n", name);
    else if (test_.skip_reason) ++test_.skipped, fprintf(stderr, "SKIP %s: %s\n", name, test_.skip_reason);
    else ++test_.passed;
}

static inline int test_end(const char *program)
{
    printf("%s: %d passed, %d failed, %d skipped\n", program, test_.passed, test_.failed, test_.skipped);
    return test_.failed != 0;
}

static inline void test_remove_dir_(void)
{
    if (!test_.dir[0] || getpid() != test_.owner) return;
    const pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", test_.dir, (char *)NULL);
        _exit(127);
    }
    if (pid > 0) waitpid(pid, NULL, 0);
}

/* A new folder under $TMPDIR, the same one for the whole program, removed when it exits. */
static inline const char *test_dir(void)
{
    if (test_.dir[0]) return test_.dir;
    const char *tmp = getenv("TMPDIR");
    snprintf(test_.dir, sizeof test_.dir, "%s/fsb-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(test_.dir)) {
        perror(test_.dir);
        exit(99);
    }
    test_.owner = getpid();
    atexit(test_remove_dir_);
    return test_.dir;
}

/* An fsb_allocator's fn that counts, and fails the k-th call (counted from 1; 0: none):
       test_memory m = {0}; fsb_allocator a = {test_memory_fn, &m}; m.fail_at = k; */
typedef struct test_memory {
    uint64_t calls, fail_at; /* allocations and growths so far; which of them fails */
    int64_t  live;           /* bytes not given back */
    int      wrong_size;     /* an old_size that was not the block's */
} test_memory;

static inline void *test_memory_fn(void *user, void *ptr, size_t old_size, size_t new_size)
{
    test_memory *m = (test_memory *)user;
    size_t      *block = ptr ? (size_t *)ptr - 2 : NULL;
    if (block && block[0] != old_size) __atomic_add_fetch(&m->wrong_size, 1, __ATOMIC_RELAXED);
    if (!new_size) {
        if (block) __atomic_sub_fetch(&m->live, (int64_t)block[0], __ATOMIC_RELAXED);
        free(block);
        return NULL;
    }
    if (__atomic_add_fetch(&m->calls, 1, __ATOMIC_RELAXED) == m->fail_at) return NULL;
    const size_t had = block ? block[0] : 0;
    block = (size_t *)realloc(block, new_size + 2 * sizeof *block);
    if (!block) return NULL;
    block[0] = new_size;
    __atomic_add_fetch(&m->live, (int64_t)new_size - (int64_t)had, __ATOMIC_RELAXED);
    return block + 2;
}
#endif
