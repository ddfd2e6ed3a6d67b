/* bench_field.c - the tables that systems of this field publish of themselves: what an operation
   takes by where the files are, what connecting takes, and what many of everything cost.

       bench_field [--quick] [--json]

   Places are: in memory, a local folder, an fsb host on a unix socket, and one across each of the
   emulated links "lan" (1 ms) and "wan-good" (50 ms), where this program runs itself inside
   build/bench/link; without a link (it needs root) those rows are left out. Everything goes through
   the vtable, without a mount and without a cache: every operation reaches its place. Beside what
   waits for a network stands the bound that no protocol passes, the link's round trip. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CACHE_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_cache.h"
#include "../fsb_chunk.h"
#include "bench.h"
#include "link.h"
#include "stage.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/prctl.h>

enum { MOST = 1000, WARM = 3, LISTED = 100, VISITORS = 50, PEERS = 100, SHARES = 10 };
enum { READS = 200, PIECE = 1 << 20, BIG = 16 << 20 };

static struct {
    char   code[FSB_CHUNK_CODE_SIZE];
    pid_t  host;
    char   plain[256], secure[256]; /* the host's addresses */
    double ours[MOST], theirs[MOST];
} b;

/* ---- helpers --------------------------------------------------------------------------------- */

static void end_all(void)
{
    if (b.host > 0) kill(b.host, SIGKILL), waitpid(b.host, NULL, 0);
    b.host = 0;
}

static const char *in_dir(const char *name)
{
    return at("%s/%s", stage_.dir, name);
}

/* ---- the host, a process of its own ---------------------------------------------------------- */

typedef struct addresses {
    char plain[256], secure[256];
} addresses;

static void serve(int word, const char *side)
{
    fsb_local_desc        folder = {0};
    fsb_backend          *files = NULL;
    fsb_chunk_server     *server = NULL;
    fsb_chunk_share       shares[SHARES];
    char                  names[SHARES][8];
    fsb_chunk_server_desc desc = {0};
    const fsb_chunk_code  code = {b.code, NULL, FSB_CHUNK_READ, "bench", 0};
    addresses             where = {"", ""};
    char                  path[PATH_MAX];
    folder.root = in_dir("data"), folder.allow_exec = 1;
    if ((side && link_join(side) != 0) || fsb_local_open(&files, &folder) != 0) _exit(1);
    for (int i = 0; i < SHARES; ++i) {
        snprintf(names[i], sizeof names[i], "share%d", i);
        shares[i] = (fsb_chunk_share){names[i], files,
                                      FSB_CHUNK_READ | FSB_CHUNK_WRITE | FSB_CHUNK_EXEC};
    }
    desc.shares = shares, desc.share_count = SHARES, desc.insecure_tcp = 1;
    snprintf(path, sizeof path, "unix:%s/sock", stage_.dir);
    if (fsb_chunk_server_open(&server, &desc) != 0 ||
        fsb_chunk_server_listen(server, side ? LINK_HOST ":0" : path, where.plain,
                                sizeof where.plain))
        _exit(1);
    if (fsb_chunk_server_listen(server, side ? "tls:" LINK_HOST ":0" : "tls:127.0.0.1:0",
                                where.secure, sizeof where.secure) != 0 ||
        fsb_chunk_server_set_codes(server, &code, 1) != 0)
        where.secure[0] = '\0'; /* without FSB_WITH_OPENSSL */
    if (write(word, &where, sizeof where) != (ssize_t)sizeof where) _exit(1);
    for (;;) pause();
}

static void start_host(const char *side)
{
    int       word[2];
    addresses where;
    if (pipe2(word, O_CLOEXEC) != 0) give_up("no pipe");
    if ((b.host = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)signal(SIGTERM, SIG_DFL);
        serve(word[1], side);
    }
    close(word[1]);
    if (read(word[0], &where, sizeof where) != (ssize_t)sizeof where)
        give_up("the host does not serve");
    close(word[0]);
    memcpy(b.plain, where.plain, sizeof b.plain);
    memcpy(b.secure, where.secure, sizeof b.secure);
}

static fsb_backend *connect_to(const char *address, const char *code, const char *share)
{
    fsb_chunk_client_desc desc = {0};
    fsb_backend          *files = NULL;
    desc.address = address, desc.code = code, desc.share = share;
    const int err = fsb_chunk_client_open(&files, &desc);
    if (err) give_up("%s: %s", address, strerror(-err));
    return files;
}

/* ---- what an operation takes, by where the files are ----------------------------------------- */

static char kilobyte[1024];

static int count_name(fsb_op *op, const fsb_dirent *entry)
{
    (void)entry;
    return ++*(int *)op->user, 0;
}

static int no_output(fsb_op *op, int fd, const void *data, size_t size)
{
    (void)op, (void)fd, (void)data, (void)size;
    return 0;
}

typedef enum operation { WRITE_1K, READ_1K, LIST_100, RUN_TRUE, OPERATIONS } operation;
static const char *const operation_names[] = {"write 1 KiB", "read 1 KiB", "list 100 names, stats",
                                              "run true"};

static void operate(fsb_backend *files, operation what)
{
    static const char *const argv[] = {"true", NULL};
    char                     room[1024];
    int                      names = 0;
    fsb_exec                 exec = {0};
    fsb_op                   op = {0};
    switch (what) {
    case WRITE_1K:
        op.code = FSB_OP_PUT, op.path = "/written", op.data = kilobyte, op.size = sizeof kilobyte;
        op.flags = FSB_O_WRITE | FSB_O_CREATE;
        op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0644;
        break;
    case READ_1K:
        op.code = FSB_OP_GET, op.path = "/written", op.buf = room, op.size = sizeof room;
        break;
    case LIST_100:
        op.code = FSB_OP_LIST, op.path = "/list", op.flags = FSB_LIST_STAT, op.emit = count_name;
        op.user = &names;
        break;
    case RUN_TRUE:
    case OPERATIONS:
        exec.argv = argv, exec.output = no_output;
        op.code = FSB_OP_EXEC, op.path = "/", op.exec = &exec;
        break;
    }
    const int64_t n = fsb_backend_call(files, &op);
    if (n < 0 || (what == LIST_100 && names != LISTED))
        give_up("%s: %s", operation_names[what], strerror((int)-n));
}

/* The same by the plain system calls, in the folder that the local backend has. */
static void operate_directly(operation what)
{
    extern char **environ;
    char          room[1024], name[] = "true", *argv[] = {name, NULL};
    const char   *path = in_dir("data/written");
    struct stat   st;
    pid_t         child;
    int           fd = -1, status = 0;
    if (what == WRITE_1K) {
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (write(fd, kilobyte, sizeof kilobyte) != (ssize_t)sizeof kilobyte) status = 1;
    } else if (what == READ_1K) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fstat(fd, &st) != 0 || read(fd, room, sizeof room) != (ssize_t)sizeof room) status = 1;
    } else if (posix_spawnp(&child, name, NULL, NULL, argv, environ) != 0 ||
               waitpid(child, &status, 0) != child) {
        status = 1;
    }
    if (fd >= 0) close(fd);
    if (status) give_up("%s, directly: %s", operation_names[what], strerror(errno));
}

/* bound: the least that it can take, in us; 0: measured beside plain calls, < 0: beside nothing. */
static void operations(fsb_backend *files, const char *place, double bound, int n, int count)
{
    char which[80];
    for (int what = 0; what < count; ++what) {
        const int beside = bound > 0 || (bound == 0 && what != LIST_100);
        for (int i = -WARM; i < n; ++i) {
            const double from = bench_now();
            operate(files, (operation)what);
            const double middle = bench_now();
            if (bound == 0 && beside) operate_directly((operation)what);
            if (i < 0) continue;
            b.ours[i] = 1e6 * (middle - from);
            b.theirs[i] = bound > 0 ? bound : 1e6 * (bench_now() - middle);
        }
        snprintf(which, sizeof which, "%s, %s", operation_names[what], place);
        bench_latencies(which, b.ours, n, "us", bound > 0 ? "the round trip" : "plain calls",
                        beside ? b.theirs : NULL, beside ? n : 0, "");
    }
}

static void make_files(void)
{
    char name[40];
    if (mkdir(in_dir("data"), 0755) != 0 || mkdir(in_dir("data/list"), 0755) != 0)
        give_up("%s: %s", stage_.dir, strerror(errno));
    for (int i = 0; i < LISTED; ++i) {
        snprintf(name, sizeof name, "data/list/name%d", i);
        close(open(in_dir(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    }
    const int fd = open(in_dir("data/big"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    for (int i = 0; i < BIG / (int)sizeof kilobyte; ++i)
        if (write(fd, kilobyte, sizeof kilobyte) != (ssize_t)sizeof kilobyte)
            give_up("cannot write %d MiB: %s", BIG >> 20, strerror(errno));
    close(fd);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void connections(const char *place, double rtt_us, int n)
{
    for (int secure = 0; secure < (b.secure[0] ? 2 : 1); ++secure) {
        char which[80];
        for (int i = -WARM; i < n; ++i) {
            const double from = bench_now();
            fsb_backend *files =
                connect_to(secure ? b.secure : b.plain, secure ? b.code : NULL, NULL);
            if (i >= 0) b.ours[i] = 1e6 * (bench_now() - from), b.theirs[i] = rtt_us;
            files->close(files);
        }
        snprintf(which, sizeof which, "connect%s, %s", secure ? " by a join code" : "", place);
        bench_latencies(which, b.ours, n, "us", "the round trip", rtt_us > 0 ? b.theirs : NULL,
                        rtt_us > 0 ? n : 0, "");
    }
}

static void *visit(void *arg)
{
    (void)arg;
    fsb_backend *files = connect_to(b.plain, NULL, NULL);
    operate(files, READ_1K);
    files->close(files);
    return NULL;
}

static void visitors(void)
{
    enum { TURNS = 11 };
    pthread_t    threads[VISITORS];
    const double before = memory_of(b.host, "VmRSS:");
    for (int turn = -WARM; turn < TURNS; ++turn) {
        const double from = bench_now();
        for (int i = 0; i < VISITORS; ++i) pthread_create(&threads[i], NULL, visit, NULL);
        for (int i = 0; i < VISITORS; ++i) pthread_join(threads[i], NULL);
        if (turn >= 0) b.ours[turn] = 1e3 * (bench_now() - from);
    }
    bench_latencies("50 clients come, read, and leave", b.ours, TURNS, "ms", "", NULL, 0,
                    "all at once, unix socket");
    const double more = memory_of(b.host, "VmRSS:") - before;
    bench_row("the host's memory for 700 visits", &more, 1, "MB", "", NULL, 0, BENCH_LESS,
              "more than before, all gone");
}

/* ---- many of everything ---------------------------------------------------------------------- */

typedef struct reader {
    fsb_backend *files;
    int          count;
} reader;

static void *read_on(void *arg)
{
    const reader *r = arg;
    char         *room = malloc(PIECE);
    fsb_op        op = {0};
    op.code = FSB_OP_OPEN, op.path = "/big", op.flags = FSB_O_READ;
    if (fsb_backend_call(r->files, &op) < 0) give_up("/big: %s", strerror((int)-op.result));
    const fsb_handle handle = op.handle;
    for (int i = 0; i < r->count; ++i) {
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_READ, op.handle = handle, op.buf = room, op.size = PIECE;
        op.offset = (uint64_t)(i % (BIG / PIECE)) * PIECE;
        if (fsb_backend_call(r->files, &op) != PIECE) give_up("read: %d", (int)op.result);
    }
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_CLOSE, op.handle = handle;
    (void)fsb_backend_call(r->files, &op);
    free(room);
    return NULL;
}

static double reading(int clients) /* MiB/s in all */
{
    static reader readers[PEERS];
    pthread_t     threads[PEERS];
    const int     reads = (bench_.quick ? 600 : 3000) / clients;
    for (int i = 0; i < clients; ++i)
        readers[i] = (reader){connect_to(b.plain, NULL, NULL), reads};
    const double from = bench_now();
    for (int i = 0; i < clients; ++i) pthread_create(&threads[i], NULL, read_on, &readers[i]);
    for (int i = 0; i < clients; ++i) pthread_join(threads[i], NULL);
    const double seconds = bench_now() - from;
    for (int i = 0; i < clients; ++i) readers[i].files->close(readers[i].files);
    return clients * readers[0].count / seconds;
}

static void many_peers(void)
{
    enum { TURNS = 5 };
    for (int i = 0; i < TURNS; ++i) b.theirs[i] = reading(1), b.ours[i] = reading(PEERS);
    bench_row("100 clients read, together", b.ours, TURNS, "MiB/s", "one client", b.theirs, TURNS,
              BENCH_MORE, "1 MiB a read, unix socket");
}

static void many_shares(void)
{
    char         name[16];
    const int    n = bench_.quick ? READS : MOST;
    fsb_backend *first = connect_to(b.plain, NULL, "share0"), *last;
    snprintf(name, sizeof name, "share%d", SHARES - 1);
    last = connect_to(b.plain, NULL, name);
    for (int i = -WARM; i < n; ++i) {
        const double from = bench_now();
        operate(last, READ_1K);
        const double middle = bench_now();
        operate(first, READ_1K);
        if (i >= 0) b.ours[i] = 1e6 * (middle - from), b.theirs[i] = 1e6 * (bench_now() - middle);
    }
    bench_latencies("read 1 KiB, the tenth of 10 shares", b.ours, n, "us", "the first", b.theirs, n,
                    "unix socket");
    first->close(first), last->close(last);
}

static int count_files(void *user, const fsb_walk_step *step)
{
    if (step->kind == FSB_WALK_FILE) ++*(int *)user;
    return 0;
}

static double walk(fsb_backend *files, int expected) /* us a file */
{
    int          seen = 0;
    const double from = bench_now();
    const int    err = fsb_backend_walk(files, "/", NULL, count_files, &seen);
    if (err || seen != expected) give_up("walk: %d, %d of %d files", err, seen, expected);
    return 1e6 * (bench_now() - from) / expected;
}

/* A share of very many files: listing all of it, and finding one. In memory, so that it is our own
   cost that shows. */
static void many_files(void)
{
    enum { IN_FOLDER = 1000, TURNS = 3 };
    const int             folders = bench_.quick ? 100 : 1000, count = folders * IN_FOLDER;
    fsb_backend          *memory = NULL, *remote;
    fsb_chunk_server     *server = NULL;
    fsb_chunk_share       share = {"million", NULL, FSB_CHUNK_READ};
    fsb_chunk_server_desc desc = {0};
    char                  path[64], address[PATH_MAX], which[80];
    if (fsb_memory_open(&memory, NULL) < 0) give_up("no memory");
    for (int d = 0; d < folders; ++d) {
        snprintf(path, sizeof path, "/d%d", d);
        if (fsb_backend_mkdir_all(memory, path, 0755) < 0) give_up("%s", path);
        for (int f = 0; f < IN_FOLDER; ++f) {
            snprintf(path, sizeof path, "/d%d/f%d", d, f);
            if (fsb_write_file(memory, path, "x", 1, 0644) < 0) give_up("%s", path);
        }
    }
    share.backend = memory, desc.shares = &share, desc.share_count = 1;
    snprintf(address, sizeof address, "unix:%s/million", stage_.dir);
    if (fsb_chunk_server_open(&server, &desc) != 0 ||
        fsb_chunk_server_listen(server, address, NULL, 0) != 0)
        give_up("cannot serve %s", address);
    remote = connect_to(address, NULL, NULL);
    for (int i = 0; i < TURNS; ++i)
        b.theirs[i] = walk(memory, count), b.ours[i] = walk(remote, count);
    snprintf(which, sizeof which, "walk over %d files of one share", count);
    bench_row(which, b.ours, TURNS, "us/file", "without the wire", b.theirs, TURNS, BENCH_LESS,
              "stats too");
    for (int i = 0; i < READS; ++i) {
        fsb_op op = {0};
        snprintf(path, sizeof path, "/d%d/f%d", i * 37 % folders, i * 91 % IN_FOLDER);
        op.code = FSB_OP_STAT, op.path = path;
        const double from = bench_now();
        if (fsb_backend_call(remote, &op) < 0) give_up("%s", path);
        b.ours[i] = 1e6 * (bench_now() - from);
    }
    snprintf(which, sizeof which, "stat of one of %d files", count);
    bench_latencies(which, b.ours, READS, "us", "", NULL, 0, "unix socket");
    remote->close(remote);
    fsb_chunk_server_close(server);
    memory->close(memory);
}

/* ---- a read, by stage ------------------------------------------------------------------------ */

static fsb_handle open_big(fsb_backend *files)
{
    fsb_op op = {0};
    op.code = FSB_OP_OPEN, op.path = "/big", op.flags = FSB_O_READ;
    if (fsb_backend_call(files, &op) < 0) give_up("/big: %s", strerror((int)-op.result));
    return op.handle;
}

static double read_page(fsb_backend *files, fsb_handle handle, int i, char *room) /* us */
{
    fsb_op op = {0};
    op.code = FSB_OP_READ, op.handle = handle, op.buf = room, op.size = 4096;
    op.offset = (uint64_t)(i * 37 % (BIG / 4096)) * 4096;
    const double from = bench_now();
    if (fsb_backend_call(files, &op) != 4096) give_up("read: %d", (int)op.result);
    return 1e6 * (bench_now() - from);
}

/* 4 KiB read: the system call, and what each layer above it adds. */
static void stages(fsb_backend *local, fsb_backend *remote)
{
    static const char *const names[] = {"4 KiB: the local backend", "4 KiB: across the wire",
                                        "4 KiB: cached, a miss", "4 KiB: cached, a hit"};
    fsb_backend             *cached = NULL;
    fsb_cache_backend_desc   desc = {0};
    char                     room[4096];
    static double            took[4][READS], direct[READS];
    const int                fd = open(in_dir("data/big"), O_RDONLY | O_CLOEXEC);
    desc.inner = remote;
    if (fsb_cached_backend(&cached, &desc) != 0) give_up("no cache");
    fsb_backend     *layers[] = {local, remote, cached, cached};
    const fsb_handle handles[] = {open_big(local), open_big(remote), open_big(cached), 0};
    for (int i = 0; i < READS; ++i) {
        const double from = bench_now();
        if (pread(fd, room, sizeof room, i * 37 % (BIG / 4096) * 4096) != (ssize_t)sizeof room)
            give_up("pread: %s", strerror(errno));
        direct[i] = 1e6 * (bench_now() - from);
        for (int k = 0; k < 4; ++k)
            took[k][i] = read_page(layers[k], handles[k == 3 ? 2 : k], i, room);
    }
    for (int k = 0; k < 4; ++k)
        bench_latencies(names[k], took[k], READS, "us", "pread(2)", direct, READS,
                        k == 2 ? "the first to touch its chunk waits, later ones find it" : "");
    close(fd);
    cached->close(cached);
}

/* ---- the program ----------------------------------------------------------------------------- */

static void begin_scratch(void)
{
    stage_begin(end_all);
    if (fsb_chunk_code_create(b.code, sizeof b.code) != 0) give_up("no random bits");
    make_files();
}

/* Inside the link: the host on one side, this process on the other. */
static int across_link(void)
{
    const char  *profile = getenv("FSB_LINK_PROFILE");
    const double rtt = 1e3 * atof(getenv("FSB_LINK_RTT_MS"));
    const int    n = bench_.quick ? 11 : 31;
    begin_scratch();
    start_host("host");
    if (link_join("client") != 0) give_up("cannot go to the client's side");
    fsb_backend *remote = connect_to(b.plain, NULL, NULL);
    operations(remote, profile, rtt, n, OPERATIONS);
    remote->close(remote);
    connections(profile, rtt, n);
    stage_end();
    return 0;
}

static void here(void)
{
    const int      n = bench_.quick ? READS : MOST;
    fsb_local_desc folder = {0};
    fsb_backend   *memory = NULL, *local = NULL;
    begin_scratch();
    folder.root = in_dir("data"), folder.allow_exec = 1;
    if (fsb_memory_open(&memory, NULL) != 0 || fsb_local_open(&local, &folder) != 0 ||
        fsb_backend_mkdir_all(memory, "/list", 0755) != 0)
        give_up("no backend");
    for (int i = 0; i < LISTED; ++i) {
        char name[32];
        snprintf(name, sizeof name, "/list/name%d", i);
        if (fsb_write_file(memory, name, "", 0, 0644) != 0) give_up("%s", name);
    }
    start_host(NULL);
    fsb_backend *remote = connect_to(b.plain, NULL, NULL);
    operations(memory, "memory", -1, n, RUN_TRUE);
    operations(local, "local", 0, n, OPERATIONS);
    operations(remote, "unix socket", -1, n, OPERATIONS);
    connections("this machine", 0, bench_.quick ? 50 : READS);
    visitors();
    many_peers();
    many_shares();
    stages(local, remote);
    remote->close(remote), local->close(local), memory->close(memory);
    many_files();
    stage_end();
}

int main(int argc, char **argv)
{
    char link[PATH_MAX];
    bench_begin("field", argc, argv);
    if (getenv("FSB_LINK_PROFILE")) return across_link();
    here();
    snprintf(link, sizeof link, "%s/../bench/link", stage_.bin);
    return link_run(link, "lan", stage_.self) | link_run(link, "wan-good", stage_.self);
}
