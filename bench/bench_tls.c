/* bench_tls.c - what TLS costs: a file over fsb_chunk.h's TLS, beside the same bytes through
   OpenSSL alone on a socket pair, with the same cipher; and what an idle client costs the host. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_chunk.h"
#include "bench.h"

#ifndef FSB_WITH_OPENSSL
int main(void)
{
    fprintf(stderr, "bench_tls: built without OpenSSL\n");
    return 0;
}
#else
#include <limits.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { ROUNDS = 5, MIB = 1 << 20, FILE_MIB = 128, DEPTH = 4, CLIENTS = 1000, BUSY = 100 };

static char buffers[DEPTH][MIB];
static int  failed;

/* ---- OpenSSL alone ---- */

static const unsigned char secret[32] = "a key of thirty-two bytes, no mo";

static SSL_SESSION *bare_session(SSL *ssl)
{
    static const unsigned char suite[2] = {0x13, 0x01};
    SSL_SESSION               *s = SSL_SESSION_new();
    SSL_SESSION_set1_master_key(s, secret, sizeof secret);
    SSL_SESSION_set_cipher(s, SSL_CIPHER_find(ssl, suite));
    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION);
    return s;
}

static int bare_find(SSL *ssl, const unsigned char *id, size_t size, SSL_SESSION **session)
{
    (void)id, (void)size;
    *session = bare_session(ssl);
    return 1;
}

static int bare_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *size,
                    SSL_SESSION **session)
{
    (void)md;
    *id = (const unsigned char *)"bench", *size = 5, *session = bare_session(ssl);
    return 1;
}

static void *bare_send(void *arg)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_psk_find_session_callback(ctx, bare_find);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, *(int *)arg);
    if (SSL_accept(ssl) != 1) failed = 1;
    for (int i = 0; i < FILE_MIB && !failed; ++i)
        if (SSL_write(ssl, buffers[0], MIB) != MIB) failed = 1;
    SSL_free(ssl), SSL_CTX_free(ctx);
    return NULL;
}

static double bare_run(void) /* GiB/s */
{
    int       fds[2], got = 0;
    long      all = 0;
    pthread_t thread;
    SSL_CTX  *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_psk_use_session_callback(ctx, bare_use);
    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256");
    SSL *ssl = SSL_new(ctx);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0 ||
        pthread_create(&thread, NULL, bare_send, &fds[1]) != 0)
        exit(1);
    SSL_set_fd(ssl, fds[0]);
    if (SSL_connect(ssl) != 1) failed = 1;
    const double start = bench_now();
    while (all < (long)FILE_MIB * MIB && (got = SSL_read(ssl, buffers[1], MIB)) > 0) all += got;
    const double took = bench_now() - start;
    pthread_join(thread, NULL);
    SSL_free(ssl), SSL_CTX_free(ctx);
    close(fds[0]), close(fds[1]);
    return FILE_MIB / 1024.0 / took;
}

/* ---- ours ---- */

typedef struct load {
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    fsb_backend    *b;
    int             next, done; /* MiB asked for, and there */
} load;

static void load_done(fsb_op *op) /* asks for the next piece with it */
{
    load *l = (load *)op->user;
    if (op->result != MIB) failed = 1;
    pthread_mutex_lock(&l->lock);
    const int at = l->next < FILE_MIB ? l->next++ : -1;
    if (++l->done == FILE_MIB) pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
    if (at < 0) return;
    op->offset = (uint64_t)at * MIB;
    l->b->submit(l->b, &op, 1);
}

static double ours_run(fsb_backend *b, fsb_handle handle, int writes) /* GiB/s */
{
    load         l = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, b, DEPTH, 0};
    fsb_op       ops[DEPTH], *list[DEPTH];
    const double start = bench_now();
    for (int i = 0; i < DEPTH; ++i) {
        ops[i] = (fsb_op){.code = writes ? FSB_OP_WRITE : FSB_OP_READ, .handle = handle,
                          .offset = (uint64_t)i * MIB, .size = MIB, .user = &l,
                          .done = load_done};
        if (writes) ops[i].data = buffers[i];
        else ops[i].buf = buffers[i];
        list[i] = &ops[i];
    }
    b->submit(b, list, DEPTH);
    pthread_mutex_lock(&l.lock);
    while (l.done < FILE_MIB) pthread_cond_wait(&l.cond, &l.lock);
    pthread_mutex_unlock(&l.lock);
    return FILE_MIB / 1024.0 / (bench_now() - start);
}

static long resident_kib(pid_t pid)
{
    char  path[64], line[256];
    long  kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib;
}

static double cpu_seconds(pid_t pid) /* user and system, of all its threads */
{
    clockid_t       clock;
    struct timespec t = {0, 0};
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0) failed = 1;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One client at work: it asks again as soon as it is answered, until told to stop. */
typedef struct worker {
    fsb_backend *b;
    fsb_op       op;
    long         answers;
    int          over;
} worker;
static int stopping;

static void work_done(fsb_op *op)
{
    worker *w = (worker *)op->user;
    fsb_op *again = op;
    if (op->result < 0) failed = 1;
    ++w->answers;
    if (op->result < 0 || __atomic_load_n(&stopping, __ATOMIC_RELAXED))
        __atomic_store_n(&w->over, 1, __ATOMIC_RELEASE);
    else w->b->submit(w->b, &again, 1);
}

/* A hundred clients at once, each with one STAT after another. */
static void work(fsb_backend **b)
{
    static worker workers[BUSY];
    double        rate, share;
    long          all = 0, least = LONG_MAX;
    const double  start = bench_now();
    for (int i = 0; i < BUSY; ++i) {
        worker *w = &workers[i];
        fsb_op *op = &w->op;
        w->b = b[i];
        *op = (fsb_op){.code = FSB_OP_STAT, .path = "/", .user = w, .done = work_done};
        w->b->submit(w->b, &op, 1);
    }
    sleep(bench_.quick ? 1 : 5);
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    const double took = bench_now() - start;
    for (int i = 0; i < BUSY; ++i) {
        while (!__atomic_load_n(&workers[i].over, __ATOMIC_ACQUIRE)) usleep(1000);
        all += workers[i].answers;
        if (workers[i].answers < least) least = workers[i].answers;
    }
    rate = (double)all / took, share = 100.0 * (double)least * BUSY / (double)all;
    bench_row("100 clients at work", &rate, 1, "calls/s", NULL, NULL, 0, BENCH_MORE,
              "STAT, one in flight each");
    bench_row("the slowest of them", &share, 1, "%", NULL, NULL, 0, BENCH_MORE, "of the mean");
}

/* The host in a process of its own, so that its memory and time can be told from the clients'. */
static void idle(const char *code)
{
    static fsb_backend *b[CLIENTS];
    const int           clients = bench_.quick ? 200 : CLIENTS;
    char                address[64] = "";
    int                 out[2], stop[2];
    if (pipe(out) != 0 || pipe(stop) != 0) exit(1);
    struct rlimit       files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) /* each takes two of both processes */
        files.rlim_cur = files.rlim_max, (void)setrlimit(RLIMIT_NOFILE, &files);
    const pid_t pid = fork();
    if (pid == 0) {
        fsb_backend          *inner = NULL;
        fsb_chunk_server     *server = NULL;
        fsb_chunk_share       share = {"share", NULL, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
        fsb_chunk_code        list = {code, NULL, FSB_CHUNK_READ, NULL, 0};
        fsb_chunk_server_desc d = {.shares = &share, .share_count = 1, .max_unproven_each = 64};
        close(stop[1]);
        if (fsb_memory_open(&inner, NULL) != 0) _exit(1);
        share.backend = inner;
        if (fsb_chunk_server_open(&server, &d) || fsb_chunk_server_set_codes(server, &list, 1) ||
            fsb_chunk_server_listen(server, "tls:127.0.0.1:0", address, sizeof address) ||
            write(out[1], address, sizeof address) < 0 || read(stop[0], address, 1) < 0)
            _exit(1);
        _exit(0);
    }
    if (read(out[0], address, sizeof address) <= 0) exit(1);
    fsb_chunk_client_desc where = {.address = address, .code = code, .reconnect = 1};
    if (fsb_chunk_client_open(&b[0], &where) != 0) exit(1); /* it loads what all share */
    const long before = resident_kib(pid);
    for (int i = 1; i < clients; ++i)
        if (fsb_chunk_client_open(&b[i], &where) != 0) failed = 1;
    sleep(1);
    const double cpu = cpu_seconds(pid), start = bench_now();
    const double each = (double)(resident_kib(pid) - before) / (clients - 1);
    sleep(bench_.quick ? 8 : 16); /* one PING or two of each */
    const double share = 100 * (cpu_seconds(pid) - cpu) / (bench_now() - start) / clients * 1000;
    bench_row("memory of an idle client", &each, 1, "KiB", NULL, NULL, 0, BENCH_LESS, "the host's");
    bench_row("CPU at 1,000 idle clients", &share, 1, "%", NULL, NULL, 0, BENCH_LESS,
              bench_.quick ? "of one core, scaled from 200" : "of one core");
    if (!failed) work(b);
    for (int i = 0; i < clients; ++i)
        if (b[i]) b[i]->close(b[i]);
    close(stop[1]);
    waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    double                ours[2][ROUNDS], bare[ROUNDS];
    char                  dir[300], code[FSB_CHUNK_CODE_SIZE], address[64];
    const char           *tmp = getenv("TMPDIR");
    fsb_backend          *local = NULL, *b = NULL;
    fsb_local_desc        d = {.root = dir};
    fsb_chunk_server     *server = NULL;
    fsb_chunk_share       share = {"share", NULL, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
    fsb_chunk_code        list = {code, NULL, FSB_CHUNK_READ | FSB_CHUNK_WRITE, NULL, 0};
    fsb_chunk_server_desc sd = {.shares = &share, .share_count = 1};
    fsb_chunk_client_desc where = {.address = address, .code = code};
    bench_begin("tls", argc, argv);
    snprintf(dir, sizeof dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir) || fsb_chunk_code_create(code, sizeof code) != 0) return 1;
    idle(code);
    if (fsb_local_open(&local, &d) != 0) return 1;
    share.backend = local;
    if (fsb_chunk_server_open(&server, &sd) || fsb_chunk_server_set_codes(server, &list, 1) ||
        fsb_chunk_server_listen(server, "tls:127.0.0.1:0", address, sizeof address) ||
        fsb_chunk_client_open(&b, &where))
        return 1;
    fsb_op op = {.code = FSB_OP_OPEN, .path = "/file",
                 .flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE,
                 .attr = {.mask = FSB_ATTR_MODE, .mode = 0600}};
    if (fsb_backend_call(b, &op) < 0) return 1;
    (void)ours_run(b, op.handle, 1);
    for (int i = 0; i < ROUNDS; ++i) {
        ours[0][i] = ours_run(b, op.handle, 0);
        bare[i] = bare_run();
        ours[1][i] = ours_run(b, op.handle, 1);
    }
    bench_row("read over TLS", ours[0], ROUNDS, "GiB/s", "OpenSSL alone", bare, ROUNDS, BENCH_MORE,
              "1 MiB each, 4 in flight");
    bench_row("write over TLS", ours[1], ROUNDS, "GiB/s", "OpenSSL alone", bare, ROUNDS,
              BENCH_MORE, "1 MiB each, 4 in flight");
    op = (fsb_op){.code = FSB_OP_UNLINK, .path = "/file"};
    fsb_backend_call(b, &op);
    b->close(b);
    fsb_chunk_server_close(server);
    local->close(local);
    rmdir(dir);
    if (failed) fprintf(stderr, "bench_tls: an operation failed\n");
    return failed;
}
#endif
