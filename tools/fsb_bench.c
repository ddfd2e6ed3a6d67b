/* fsb_bench.c - `fsb bench URL`: how long a place takes to answer, and how much it carries. */
#include "../fsb_backend.h"
#include "../fsb_chunk.h"

#include "open.h"

int fsb_cmd_bench(int argc, char **argv);

static const char help[] =
    "usage: fsb bench [--json] [--size SIZE] [--timeout SECONDS] [-o KEY=VALUE] [-i FILE] [-C]\n"
    "                 [--password-file FILE] URL\n"
    "\n"
    "Makes a folder below URL, and measures there: the time of single operations, one after the\n"
    "other (median and the slowest of a hundred), and the rate at which one large file is written\n"
    "and read (--size, 64M), eight pieces of 1 MiB at once. Removes what it made.\n";

enum { ROUNDS = 100, NAMES = 100, PIECE = 1 << 20, AT_ONCE = 8 };

static struct {
    fsb_backend *backend;
    char         folder[FSB_PATH_MAX + 64];
    char         path[FSB_PATH_MAX + 128];
    fsb_handle   handle;
    uint64_t     size;
    int          json, failed;
    tool_log     log;
} o;
static char block[PIECE];

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static const char *in_folder(const char *name, int number)
{
    snprintf(o.path, sizeof o.path, "%s/%s%03d", o.folder, name, number);
    return o.path;
}

static int64_t call(fsb_op *op, uint32_t code, const char *path)
{
    op->code = code, op->path = path;
    const int64_t n = fsb_backend_call(o.backend, op);
    if (n < 0 && !o.failed) o.failed = (int)-n;
    return n;
}

/* ---- single operations ----------------------------------------------------------------------- */

static int ignore(fsb_op *op, const fsb_dirent *entry)
{
    op->offset = entry->cookie;
    return 0;
}

static void one_stat(int i)
{
    fsb_op op = {0};
    call(&op, FSB_OP_STAT, in_folder("f", i));
}

static void one_open(int i)
{
    fsb_op op = {.flags = FSB_O_READ};
    if (call(&op, FSB_OP_OPEN, in_folder("f", i)) < 0) return;
    op.flags = 0;
    call(&op, FSB_OP_CLOSE, NULL);
}

static void one_read(int i)
{
    fsb_op op = {.buf = block, .size = 4096, .handle = o.handle, .offset = (uint64_t)i * 4096};
    call(&op, FSB_OP_READ, NULL);
}

static void one_write(int i)
{
    fsb_op op = {.data = block, .size = 4096, .handle = o.handle, .offset = (uint64_t)i * 4096};
    call(&op, FSB_OP_WRITE, NULL);
}

static void one_list(int i)
{
    (void)i;
    fsb_op op = {.flags = FSB_LIST_STAT, .emit = ignore};
    while (call(&op, FSB_OP_LIST, o.folder) == 0) {}
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *what, double value, const char *unit, double worst)
{
    if (o.json) {
        printf("{\"case\":\"%s\",\"value\":%.1f,\"unit\":\"%s\"", what, value, unit);
        if (worst > 0) printf(",\"max\":%.1f", worst);
        puts("}");
    } else if (worst > 0) {
        printf("  %-24s %10.0f %-6s  slowest %8.0f\n", what, value, unit, worst);
    } else printf("  %-24s %10.1f %s\n", what, value, unit);
    fflush(stdout);
}

static void latency(const char *what, void (*one)(int i))
{
    double t[ROUNDS];
    for (int i = 0; i < ROUNDS && !o.failed; ++i) {
        const double begin = now_us();
        one(i % NAMES);
        t[i] = now_us() - begin;
    }
    if (o.failed) return;
    qsort(t, ROUNDS, sizeof *t, ascending);
    print(what, t[ROUNDS / 2], "us", t[ROUNDS - 1]);
}

/* ---- one large file -------------------------------------------------------------------------- */

static void throughput(const char *what, uint32_t code, fsb_runner runner)
{
    fsb_op       ops[AT_ONCE], *list[AT_ONCE];
    const double begin = now_us();
    for (uint64_t at = 0; at < o.size && !o.failed;) {
        size_t n = 0;
        for (; n < AT_ONCE && at < o.size; ++n) {
            const uint64_t left = o.size - at;
            memset(&ops[n], 0, sizeof ops[n]);
            ops[n].code = code, ops[n].handle = o.handle, ops[n].offset = at;
            ops[n].size = left < PIECE ? (size_t)left : PIECE, at += ops[n].size;
            if (code == FSB_OP_WRITE) ops[n].data = block;
            list[n] = &ops[n];
        }
        const int err = fsb_backend_batch(o.backend, list, n, runner, NULL);
        if (err) o.failed = -err;
        for (size_t i = 0; i < n; ++i) fsb_slice_release(&ops[i].slice);
    }
    if (!o.failed) print(what, (double)o.size / (now_us() - begin), "MB/s", 0);
}

static void measure_large(void)
{
    const fsb_workers_desc desc = {.threads = AT_ONCE};
    fsb_workers           *workers = NULL;
    if (fsb_workers_open(&workers, &desc)) tool_fail("too little memory");
    throughput("write a large file", FSB_OP_WRITE, fsb_workers_runner(workers));
    throughput("read it", FSB_OP_READ, fsb_workers_runner(workers));
    fsb_workers_close(workers);
}

/* ---- the command line ------------------------------------------------------------------------ */

static void measure(const char *top)
{
    fsb_op op = {.attr = {.mask = FSB_ATTR_MODE, .mode = 0700}};
    snprintf(o.folder, sizeof o.folder, "%s/.fsb-bench-%d", top[1] ? top : "", (int)getpid());
    if (call(&op, FSB_OP_MKDIR, o.folder) < 0) return;
    for (int i = 0; i < NAMES && !o.failed; ++i) {
        const int err = fsb_write_file(o.backend, in_folder("f", i), block, 4096, 0600);
        if (err) o.failed = -err;
    }
    op = (fsb_op){.flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE,
                  .attr = {.mask = FSB_ATTR_MODE, .mode = 0600}};
    const int open = !o.failed && call(&op, FSB_OP_OPEN, in_folder("large", 0)) >= 0;
    o.handle = op.handle;
    latency("stat", one_stat);
    latency("open and close", one_open);
    latency("write 4 KiB", one_write);
    latency("read 4 KiB", one_read);
    latency("list 100 files", one_list);
    if (!o.failed) measure_large();
    op = (fsb_op){.handle = o.handle, .code = FSB_OP_CLOSE};
    if (open) fsb_backend_call(o.backend, &op);
    const int err = fsb_backend_remove_all(o.backend, o.folder, NULL);
    if (err) tool_say("cannot remove %s again: %s", o.folder, strerror(-err));
}

int fsb_cmd_bench(int argc, char **argv)
{
    enum { HELP = 256, JSON, SIZE, TIMEOUT, PASSWORD };
    static const struct option known[] = {
        {"help", no_argument, NULL, HELP}, {"json", no_argument, NULL, JSON},
        {"size", required_argument, NULL, SIZE}, {"timeout", required_argument, NULL, TIMEOUT},
        {"password-file", required_argument, NULL, PASSWORD}, {NULL, 0, NULL, 0}};
    static tool_place place;
    uint32_t          timeout_ms = 30000;
    int               k;
    o.size = 64 << 20;
    while ((k = getopt_long(argc, argv, "o:i:C", known, NULL)) != -1) {
        switch (k) {
        case 'o': tool_ssh_give("-o", optarg); break;
        case 'i': tool_ssh_give("-i", optarg); break;
        case 'C': tool_ssh_give("-C", NULL); break;
        case JSON: o.json = 1; break;
        case SIZE: o.size = tool_size("--size", optarg, 1, UINT64_C(1) << 40); break;
        case TIMEOUT:
            timeout_ms = (uint32_t)tool_number("--timeout", optarg, 1, 86400) * 1000;
            break;
        case PASSWORD: tool_ssh_password(optarg); break;
        case HELP: fputs(help, stdout); return 0;
        default: fprintf(stderr, "Try 'fsb bench --help'.\n"); return 2;
        }
    }
    if (argc != optind + 1) tool_usage("bench of what? Name one URL");
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof block; ++i) block[i] = (char)(i * 2654435761u >> 13);
    place.text = argv[optind];
    const double begin = now_us();
    tool_open(&place, 0, timeout_ms, tool_log_open(&o.log, NULL, 0));
    o.backend = place.backend;
    if (!o.json) printf("%.*s\n", (int)strcspn(place.text, "#"), place.text);
    print("connect", (now_us() - begin) * 1e-3, "ms", 0);
    measure(place.path);
    o.backend->close(o.backend);
    if (o.failed) tool_fail("cannot measure at %.*s: %s", (int)strcspn(place.text, "#"), place.text,
                             strerror(o.failed));
    return 0;
}
