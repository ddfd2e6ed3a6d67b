/* bench_backend.c - what the local backend costs beside plain system calls, and the memory backend.

   Every case runs many times, ours and theirs in turn; printed are medians. ratio: theirs to ours
   in time, 1 means as fast, above 1 faster. Where a path has folders, theirs are the usual calls,
   which follow links anywhere, and once more the fewest that stay inside the root (openat2). */
#define FSB_BACKEND_IMPLEMENTATION
#include "../fsb_backend.h"
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 101, BLOCK = 128 << 10 };

/* A name that is too long to be remembered as a regular file's: every open of it looks first. */
#define LONG_NAME "a-name-of-a-hundred-and-thirty-bytes-so-that-every-open-of-it-is-the-" \
                  "first-one-as-far-as-the-backend-knows-whatever-was-opened-before"

static struct {
    int          quick, json, dirfd;
    fsb_backend *local, *memory;
    fsb_handle   handle;
    int          fd, failed;
    char         dir[300];
} bench;

static char block[BLOCK];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void call(fsb_backend *b, fsb_op *op)
{
    if (fsb_backend_call(b, op) < 0) bench.failed = 1;
}

static void check(int64_t result)
{
    if (result < 0) bench.failed = 1;
}

/* ---- the cases: one operation each, ours and the plain system calls ---- */

static void ours_stat(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_STAT, .path = "/file"};
    call(b, &op);
}
static void ours_stat_deep(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_STAT, .path = "/a/b/c/file"};
    call(b, &op);
}
static void ours_open(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/a/b/c/file", .flags = FSB_O_READ};
    call(b, &op);
    op.code = FSB_OP_CLOSE, op.flags = 0;
    call(b, &op);
}
static void ours_open_first(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/a/b/c/" LONG_NAME, .flags = FSB_O_READ};
    call(b, &op);
    op.code = FSB_OP_CLOSE, op.flags = 0;
    call(b, &op);
}
static void ours_get(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_GET, .path = "/a/b/c/file", .buf = block, .size = 4096};
    call(b, &op);
}
static void ours_put(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_PUT, .path = "/a/b/c/new", .data = block, .size = 1024,
                 .flags = FSB_O_WRITE | FSB_O_CREATE,
                 .attr = {.mask = FSB_ATTR_MODE, .mode = 0644}};
    call(b, &op);
    op = (fsb_op){.code = FSB_OP_UNLINK, .path = "/a/b/c/new"};
    call(b, &op);
}
static void ours_read(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_READ, .handle = bench.handle, .buf = block, .size = 4096};
    call(b, &op);
}
static void ours_read_big(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_READ, .handle = bench.handle, .buf = block, .size = BLOCK};
    call(b, &op);
}
static void ours_write(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_WRITE, .handle = bench.handle, .data = block, .size = 1024};
    call(b, &op);
}
static void ours_write_big(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_WRITE, .handle = bench.handle, .data = block, .size = BLOCK};
    call(b, &op);
}
static void plain_stat(void)
{
    struct stat st;
    check(fstatat(bench.dirfd, "file", &st, AT_SYMLINK_NOFOLLOW));
}
static int open_plain(const char *path, int flags)
{
    return openat(bench.dirfd, path, flags | O_NOFOLLOW, 0644);
}
static int open_beneath(const char *path, int flags)
{
    const struct { uint64_t flags, mode, resolve; } how = {
        (uint64_t)(flags | O_NOFOLLOW), flags & O_CREAT ? 0644 : 0, 8 | 2}; /* no magic links */
    return (int)syscall(437, bench.dirfd, path, &how, sizeof how);
}
static void stat_deep(int beneath)
{
    struct stat st;
    if (!beneath) {
        check(fstatat(bench.dirfd, "a/b/c/file", &st, AT_SYMLINK_NOFOLLOW));
        return;
    }
    const int fd = open_beneath("a/b/c/file", O_PATH);
    check(fd), check(fstat(fd, &st)), check(close(fd));
}
static void open_one(int (*fn)(const char *, int), const char *path)
{
    struct stat st;
    const int   fd = fn(path, O_RDONLY);
    check(fd), check(fstat(fd, &st)), check(close(fd));
}
static void get(int (*fn)(const char *, int))
{
    struct stat st;
    const int   fd = fn("a/b/c/file", O_RDONLY);
    check(fd), check(fstat(fd, &st)), check(pread(fd, block, 4096, 0)), check(close(fd));
}
static void put(int (*fn)(const char *, int))
{
    struct stat st;
    const int   fd = fn("a/b/c/new", O_WRONLY | O_CREAT);
    check(fd), check(pwrite(fd, block, 1024, 0)), check(fstat(fd, &st)), check(close(fd));
    check(unlinkat(bench.dirfd, "a/b/c/new", 0));
}
static void plain_stat_deep(void) { stat_deep(0); }
static void plain_open(void) { open_one(open_plain, "a/b/c/file"); }
static void plain_open_first(void) { open_one(open_plain, "a/b/c/" LONG_NAME); }
static void plain_get(void) { get(open_plain); }
static void plain_put(void) { put(open_plain); }
static void beneath_stat_deep(void) { stat_deep(1); }
static void beneath_open(void) { open_one(open_beneath, "a/b/c/file"); }
static void beneath_open_first(void) { open_one(open_beneath, "a/b/c/" LONG_NAME); }
static void beneath_get(void) { get(open_beneath); }
static void beneath_put(void) { put(open_beneath); }
static void write_plain(size_t size)
{
    struct stat st;
    check(pwrite(bench.fd, block, size, 0)), check(fstat(bench.fd, &st));
}
static void plain_read(void) { check(pread(bench.fd, block, 4096, 0)); }
static void plain_read_big(void) { check(pread(bench.fd, block, BLOCK, 0)); }
static void plain_write(void) { write_plain(1024); }
static void plain_write_big(void) { write_plain(BLOCK); }

/* A folder of 100 files of 10 KiB with their bytes; the buffer is one listing's. */
static int count_bytes(fsb_op *op, const fsb_dirent *entry)
{
    op->layer[0] = (char *)op->layer[0] + (entry->data ? entry->stat.size : 0);
    return 0;
}
static void ours_list(fsb_backend *b)
{
    fsb_op op = {.code = FSB_OP_LIST, .path = "/many", .flags = FSB_LIST_STAT | FSB_LIST_DATA,
                 .emit = count_bytes};
    call(b, &op);
    check((uintptr_t)op.layer[0] == 100 * 10240 ? 0 : -1);
}
static void plain_list(void)
{
    static union { uint64_t align; char bytes[32768]; } names;
    const int                 dir = openat(bench.dirfd, "many", O_RDONLY | O_DIRECTORY);
    long                      size = 0, n, bytes = 0;
    while ((n = syscall(SYS_getdents64, dir, names.bytes, sizeof names.bytes)) > 0) {
        for (long at = 0; at < n;) {
            const char *d = names.bytes + at; /* ino, offset, size, type, name */
            struct stat st;
            at += *(const unsigned short *)(const void *)(d + 16);
            if (d[19] == '.') continue;
            const int fd = openat(dir, d + 19, O_RDONLY | O_NOFOLLOW);
            check(fd), check(fstat(fd, &st)), size = read(fd, block, BLOCK), check(close(fd));
            bytes += size;
        }
    }
    check(close(dir)), check(bytes == 100 * 10240 ? 0 : -1);
}

/* `true`, and its end waited for. */
static void ours_exec(fsb_backend *b)
{
    static const char *const argv[] = {"true", NULL};
    fsb_exec exec = {.argv = argv};
    fsb_op   op = {.code = FSB_OP_EXEC, .path = "/", .exec = &exec};
    call(b, &op);
}
static void plain_exec(void)
{
    char *const argv[] = {(char *)(uintptr_t)"true", NULL};
    pid_t       pid;
    int         status;
    check(-posix_spawnp(&pid, "true", NULL, NULL, argv, environ));
    check(waitpid(pid, &status, 0));
}

static const struct bench_case {
    const char *name;
    void (*ours)(fsb_backend *b);
    void (*plain)(void);
    void (*beneath)(void); /* NULL: no folders on the way */
    unsigned n;
} cases[] = {
    {"stat, in the root", ours_stat, plain_stat, NULL, 40000},
    {"stat, four deep", ours_stat_deep, plain_stat_deep, beneath_stat_deep, 40000},
    {"open+stat+close", ours_open, plain_open, beneath_open, 20000},
    {"open+stat+close, first of a name", ours_open_first, plain_open_first, beneath_open_first,
     20000},
    {"get 4 KiB (open+stat+read+close)", ours_get, plain_get, beneath_get, 20000},
    {"put 1 KiB and unlink", ours_put, plain_put, beneath_put, 4000},
    {"read 4 KiB", ours_read, plain_read, NULL, 100000},
    {"read 128 KiB", ours_read_big, plain_read_big, NULL, 10000},
    {"write 1 KiB, with stat", ours_write, plain_write, NULL, 40000},
    {"write 128 KiB, with stat", ours_write_big, plain_write_big, NULL, 4000},
    {"list 100 files of 10 KiB, with data", ours_list, plain_list, NULL, 1000},
    {"exec true", ours_exec, plain_exec, NULL, 500},
};

/* ---- measuring ---- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct sample {
    double ours[ROUNDS], plain[ROUNDS], beneath[ROUNDS]; /* ns an operation */
} sample;

static double run(const struct bench_case *c, fsb_backend *b, void (*plain)(void))
{
    const unsigned n = c->n / (bench.quick ? 10 * ROUNDS / 5 : ROUNDS / 5) + 1;
    const double   start = now();
    for (unsigned i = 0; i < n; ++i) {
        if (plain) plain();
        else c->ours(b);
    }
    return (now() - start) / n;
}

/* against NULL: nothing. */
static void print(const char *backend, const struct bench_case *c, const sample *s,
                  const double *other, const char *against)
{
    const double ns = s->ours[ROUNDS / 2];
    const double spread = (s->ours[ROUNDS * 3 / 4] - s->ours[ROUNDS / 4]) / ns;
    const double theirs = against ? other[ROUNDS / 2] : 0;
    if (bench.json) {
        printf("{\"bench\":\"backend\",\"case\":\"%s: %s\",\"value\":%.1f,\"unit\":\"ns\","
               "\"against\":\"%s\",\"ratio\":%.3f,\"spread\":%.3f,\"n\":%d,\"note\":\"\"}\n",
               backend, c->name, ns, against ? against : "", theirs / ns, spread, ROUNDS);
        return;
    }
    printf("%-7s %-35s %8.0f ns %9.0f /s", backend, c->name, ns, 1e9 / ns);
    if (against) printf("  %s %8.0f ns  ratio %.2f", against, theirs, theirs / ns);
    printf("  spread %.0f %%\n", spread * 100);
}

static void measure_case(const char *name, fsb_backend *b, const struct bench_case *c, int others)
{
    sample s;
    for (int round = 0; round < ROUNDS; ++round) {
        s.ours[round] = run(c, b, NULL);
        s.plain[round] = others ? run(c, NULL, c->plain) : 0;
        s.beneath[round] = others && c->beneath ? run(c, NULL, c->beneath) : 0;
    }
    qsort(s.ours, ROUNDS, sizeof *s.ours, ascending);
    qsort(s.plain, ROUNDS, sizeof *s.plain, ascending);
    qsort(s.beneath, ROUNDS, sizeof *s.beneath, ascending);
    print(name, c, &s, s.plain, others ? "plain system calls" : NULL);
    if (others && c->beneath) print(name, c, &s, s.beneath, "plain calls, jailed");
}

static void measure(const char *name, fsb_backend *b, int others)
{
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/file", .flags = FSB_O_READ | FSB_O_WRITE};
    call(b, &op);
    bench.handle = op.handle;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        if (cases[i].ours == ours_exec && !others) continue; /* none in memory */
        measure_case(name, b, &cases[i], others);
    }
    op = (fsb_op){.code = FSB_OP_CLOSE, .handle = bench.handle};
    call(b, &op);
}

static const char *many(int i)
{
    static char path[32];
    snprintf(path, sizeof path, "/many/file%03d", i);
    return path;
}

static void fill(fsb_backend *b)
{
    static const char *const folders[] = {"/a", "/a/b", "/a/b/c", "/many"};
    for (int i = 0; i < 4; ++i) {
        fsb_op op = {.code = FSB_OP_MKDIR, .path = folders[i],
                     .attr = {.mask = FSB_ATTR_MODE, .mode = 0755}};
        call(b, &op);
    }
    check(fsb_write_file(b, "/file", block, BLOCK, 0644));
    check(fsb_write_file(b, "/a/b/c/file", block, 10000, 0644));
    check(fsb_write_file(b, "/a/b/c/" LONG_NAME, block, 10000, 0644));
    for (int i = 0; i < 100; ++i) check(fsb_write_file(b, many(i), block, 10240, 0644));
}

static void empty(fsb_backend *b)
{
    static const char *const files[] = {"/file", "/a/b/c/file", "/a/b/c/" LONG_NAME};
    static const char *const folders[] = {"/a/b/c", "/a/b", "/a", "/many"};
    for (int i = 0; i < 100; ++i) {
        fsb_op op = {.code = FSB_OP_UNLINK, .path = many(i)};
        call(b, &op);
    }
    for (int i = 0; i < 3; ++i) {
        fsb_op op = {.code = FSB_OP_UNLINK, .path = files[i]};
        call(b, &op);
    }
    for (int i = 0; i < 4; ++i) {
        fsb_op op = {.code = FSB_OP_RMDIR, .path = folders[i]};
        call(b, &op);
    }
}

/* ---- how late an event comes: another process makes names, and notes when ---- */

enum { NAMES = 2000 };
typedef struct latency {
    double   made[NAMES], told[NAMES]; /* ns; told 0: not yet */
} latency;

static void on_event(void *user, const fsb_event *e)
{
    latency       *t = user;
    const unsigned i = (unsigned)atoi(e->path + 2);
    if (e->kind == FSB_EVENT_CREATED && e->path[1] == 'w' && i < NAMES) t->told[i] = now();
}

static void make_names(latency *t, unsigned n)
{
    char name[32];
    for (unsigned i = 0; i < n; ++i) {
        usleep(i % 8 ? 200 : 2000); /* the watcher sleeps, or has just worked */
        snprintf(name, sizeof name, "w%u", i);
        t->made[i] = now();
        mknodat(bench.dirfd, name, S_IFREG | 0600, 0);
    }
    _exit(0);
}

static void measure_watch(void)
{
    const unsigned n = bench.quick ? NAMES / 4 : NAMES;
    unsigned       missing = 0;
    latency *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fsb_op   op = {.code = FSB_OP_WATCH, .path = "/", .event = on_event, .user = t,
                   .flags = FSB_WATCH_DEEP | FSB_WATCH_FOREIGN};
    call(bench.local, &op);
    if (bench.failed || t == MAP_FAILED) return;
    const char *source = op.out_offset ? "fanotify" : "inotify";
    const pid_t pid = fork();
    if (pid == 0) make_names(t, n);
    waitpid(pid, NULL, 0);
    usleep(100000);
    op.code = FSB_OP_CLOSE, op.flags = 0;
    call(bench.local, &op);
    for (unsigned i = 0; i < n; ++i) {
        char name[32];
        snprintf(name, sizeof name, "w%u", i);
        check(unlinkat(bench.dirfd, name, 0));
        missing += !t->told[i];
        t->told[i] = t->told[i] ? t->told[i] - t->made[i] : 1e9;
    }
    qsort(t->told, n, sizeof *t->told, ascending);
    if (missing) bench.failed = 1;
    const struct { const char *name; unsigned at; } rows[] = {{"p50", n / 2}, {"p99", n - n / 100}};
    for (int i = 0; i < 2; ++i) {
        if (bench.json)
            printf("{\"bench\":\"backend\",\"case\":\"local: event of another's change, %s\","
                   "\"value\":%.1f,\"unit\":\"ns\",\"against\":\"\",\"ratio\":0,\"spread\":0,"
                   "\"n\":%u,\"note\":\"%s\"}\n", rows[i].name, t->told[rows[i].at], n, source);
        else printf("local    event of another's change, %s      %9.0f ns   %s\n", rows[i].name,
                    t->told[rows[i].at], source);
    }
    munmap(t, sizeof *t);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; ++i) {
        if (!strcmp(argv[i], "--quick")) bench.quick = 1;
        else if (!strcmp(argv[i], "--json")) bench.json = 1;
        else return fprintf(stderr, "usage: bench_backend [--quick] [--json]\n"), 2;
    }
    const char *tmp = getenv("TMPDIR");
    snprintf(bench.dir, sizeof bench.dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(bench.dir)) return perror(bench.dir), 1;
    fsb_local_desc desc = {.root = bench.dir, .allow_exec = 1};
    if (fsb_local_open(&bench.local, &desc) || fsb_memory_open(&bench.memory, NULL)) return 1;
    bench.dirfd = open(bench.dir, O_RDONLY | O_DIRECTORY);
    fill(bench.local), fill(bench.memory);
    bench.fd = openat(bench.dirfd, "file", O_RDWR);
    measure("local", bench.local, 1);
    measure("memory", bench.memory, 0);
    measure_watch();
    empty(bench.local);
    bench.local->close(bench.local), bench.memory->close(bench.memory);
    close(bench.fd), close(bench.dirfd);
    rmdir(bench.dir);
    if (bench.failed) fprintf(stderr, "bench_backend: an operation failed\n");
    return bench.failed;
}
