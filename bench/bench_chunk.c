/* bench_chunk.c - what the wire costs: round trips and bytes over a unix socket, beside a bare one.

   The bare socket moves the same bytes between two threads: an answer of the same size to each
   request, with no protocol, no backend and no copy into place. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_chunk.h"
#include "bench.h"
#include <sys/stat.h>

enum { ROUNDS = 5, MIB = 1 << 20, FILE_MIB = 64, DEPTH = 8 };

static char   buffers[DEPTH][MIB];
static int    failed;
static double now_bare[ROUNDS], now_ours[ROUNDS];

static int64_t call(fsb_backend *b, fsb_op op, fsb_handle *handle)
{
    const int64_t n = fsb_backend_call(b, &op);
    if (n < 0) failed = 1;
    if (handle) *handle = op.handle;
    return n;
}

/* ---- the bare socket: a request says how many bytes follow and how many shall come back ---- */

typedef struct bare {
    int       fds[2];
    pthread_t thread;
} bare;

static int move(int fd, int sends, char *p, size_t n)
{
    while (n) {
        const ssize_t k = sends ? send(fd, p, n, MSG_NOSIGNAL) : recv(fd, p, n, 0);
        if (k <= 0) return -1;
        p += k, n -= (size_t)k;
    }
    return 0;
}

static void *bare_main(void *arg)
{
    static char room[MIB];
    const int   fd = ((bare *)arg)->fds[1];
    uint32_t    sizes[2];
    while (move(fd, 0, (char *)sizes, sizeof sizes) == 0) {
        if (move(fd, 0, room, sizes[0]) || move(fd, 1, room, sizes[1])) break;
    }
    close(fd);
    return NULL;
}

static double bare_run(const bare *b, uint32_t there, uint32_t back, int n, int depth) /* seconds */
{
    uint32_t     sizes[2] = {there, back};
    const double start = bench_now();
    for (int sent = 0, got = 0; got < n;) {
        if (sent < n && sent - got < depth) {
            failed |= move(b->fds[0], 1, (char *)sizes, sizeof sizes);
            failed |= move(b->fds[0], 1, buffers[0], there);
            ++sent;
        } else failed |= move(b->fds[0], 0, buffers[1], back), ++got;
    }
    return bench_now() - start;
}

/* ---- ours ---- */

typedef struct load {
    fsb_backend    *b;
    fsb_op          ops[DEPTH];
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    int             done;
} load;

static void load_done(fsb_op *op)
{
    load *l = (load *)op->user;
    if (op->result < 0) failed = 1;
    pthread_mutex_lock(&l->lock);
    ++l->done;
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

/* The whole file in pieces of a MiB, DEPTH of them in flight. */
static double ours_stream(fsb_backend *b, fsb_handle handle, int writes)
{
    load         l = {.b = b};
    fsb_op      *list[DEPTH];
    const double start = bench_now();
    pthread_mutex_init(&l.lock, NULL), pthread_cond_init(&l.cond, NULL);
    for (int at = 0; at < FILE_MIB; at += DEPTH) {
        l.done = 0;
        for (int i = 0; i < DEPTH; ++i) {
            l.ops[i] = (fsb_op){.code = writes ? FSB_OP_WRITE : FSB_OP_READ, .handle = handle,
                                .offset = (uint64_t)(at + i) * MIB, .size = MIB, .user = &l,
                                .done = load_done};
            if (writes) l.ops[i].data = buffers[i];
            else l.ops[i].buf = buffers[i];
            list[i] = &l.ops[i];
        }
        b->submit(b, list, DEPTH);
        pthread_mutex_lock(&l.lock);
        while (l.done < DEPTH) pthread_cond_wait(&l.cond, &l.lock);
        pthread_mutex_unlock(&l.lock);
    }
    pthread_cond_destroy(&l.cond), pthread_mutex_destroy(&l.lock);
    return bench_now() - start;
}

static double ours_trips(fsb_backend *b, fsb_handle handle, int n)
{
    const double start = bench_now();
    for (int i = 0; i < n; ++i) {
        if (handle) call(b, (fsb_op){.code = FSB_OP_READ, .handle = handle, .buf = buffers[0],
                                     .size = 4096, .offset = (uint64_t)i % 1000 * 4096}, NULL);
        else call(b, (fsb_op){.code = FSB_OP_STAT, .path = "/file"}, NULL);
    }
    return bench_now() - start;
}

static void trips(const char *name, fsb_backend *b, const bare *beside, fsb_handle handle)
{
    const int n = bench_.quick ? 2000 : 20000;
    for (int i = 0; i < ROUNDS; ++i) {
        now_ours[i] = 1e6 * ours_trips(b, handle, n) / n;
        now_bare[i] = 1e6 * bare_run(beside, 48, handle ? 4096 + 32 : 136, n, 1) / n;
    }
    bench_row(name, now_ours, ROUNDS, "us", "bare socket", now_bare, ROUNDS, BENCH_LESS,
              "1 thread");
}

static void stream(const char *name, fsb_backend *b, const bare *beside, fsb_handle handle,
                   int writes)
{
    for (int i = 0; i < ROUNDS; ++i) {
        now_ours[i] = FILE_MIB / 1024.0 / ours_stream(b, handle, writes);
        now_bare[i] = FILE_MIB / 1024.0 /
            bare_run(beside, writes ? MIB : 40, writes ? 144 : MIB, FILE_MIB, writes ? 1 : DEPTH);
    }
    bench_row(name, now_ours, ROUNDS, "GiB/s", "bare socket", now_bare, ROUNDS, BENCH_MORE,
              "1 MiB each, 8 in flight");
}

static void measure(const char *kind, fsb_backend *inner, const char *dir)
{
    static const char *const what[] = {"stat", "read 4 KiB", "read", "write"};
    char                     name[4][64], address[400];
    fsb_backend             *b = NULL;
    fsb_chunk_server        *server = NULL;
    fsb_handle               handle = 0;
    bare                     beside;
    fsb_chunk_share          share = {"share", inner, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
    fsb_chunk_server_desc    d = {.shares = &share, .share_count = 1};
    fsb_chunk_client_desc    where = {.address = address};
    for (int i = 0; i < 4; ++i) snprintf(name[i], sizeof name[i], "%s: %s", kind, what[i]);
    snprintf(address, sizeof address, "unix:%s/%s.sock", dir, kind);
    if (fsb_chunk_server_open(&server, &d) || fsb_chunk_server_listen(server, address, NULL, 0) ||
        fsb_chunk_client_open(&b, &where) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, beside.fds) != 0 ||
        pthread_create(&beside.thread, NULL, bare_main, &beside) != 0)
        exit(1);
    call(b, (fsb_op){.code = FSB_OP_OPEN, .path = "/file",
                     .attr = {.mask = FSB_ATTR_MODE, .mode = 0600},
                     .flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE}, &handle);
    ours_stream(b, handle, 1); /* fills the file */
    trips(name[0], b, &beside, 0);
    trips(name[1], b, &beside, handle);
    stream(name[2], b, &beside, handle, 0);
    stream(name[3], b, &beside, handle, 1);
    call(b, (fsb_op){.code = FSB_OP_CLOSE, .handle = handle}, NULL);
    call(b, (fsb_op){.code = FSB_OP_UNLINK, .path = "/file"}, NULL);
    b->close(b);
    fsb_chunk_server_close(server);
    close(beside.fds[0]);
    pthread_join(beside.thread, NULL);
}

int main(int argc, char **argv)
{
    char           dir[300];
    const char    *tmp = getenv("TMPDIR");
    fsb_backend   *local = NULL, *memory = NULL;
    fsb_local_desc d = {.root = dir};
    bench_begin("chunk", argc, argv);
    snprintf(dir, sizeof dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return perror(dir), 1;
    if (fsb_local_open(&local, &d) || fsb_memory_open(&memory, NULL)) return 1;
    measure("local", local, dir);
    measure("memory", memory, dir);
    local->close(local), memory->close(memory);
    rmdir(dir);
    if (failed) fprintf(stderr, "bench_chunk: an operation failed\n");
    return failed;
}
