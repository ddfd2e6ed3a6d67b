/* bench_server.c - many tenants at one server: tokens, and what others feel of one that floods and
   of one whose backend sleeps. Beside it: the same clients alone, in turn with it. */
#undef FSB_WITH_FUSE
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#define FSB_MOUNT_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_chunk.h"
#include "../fsb_mount.h"
#include "bench.h"
#include <dirent.h>
#include <sys/prctl.h>

#ifndef FSB_WITH_OPENSSL
int main(void)
{
    fprintf(stderr, "bench_server: built without OpenSSL\n");
    return 0;
}
#else

static const fsb_token_key key = {1, "a secret for a bench"};
static const int64_t       until = 4000000000ll * 1000000000;

static void die(const char *what, int64_t err)
{
    if (err >= 0) return;
    fprintf(stderr, "bench_server: %s: %s\n", what, strerror((int)-err));
    exit(1);
}

static fsb_tokens *open_tokens(uint32_t entries)
{
    fsb_tokens_desc d = {0};
    fsb_tokens     *t = NULL;
    d.keys = &key, d.key_count = 1, d.cache_entries = entries;
    die("tokens", fsb_tokens_open(&t, &d));
    return t;
}

static void sign(fsb_tokens *t, unsigned tenant, uint64_t id, char text[FSB_TOKEN_SIZE])
{
    fsb_token_claims c = {0};
    snprintf(c.tenant, sizeof c.tenant, "tenant%u", tenant);
    c.rights = FSB_TOKEN_READ | FSB_TOKEN_WRITE, c.id = id, c.until_ns = until;
    die("sign", fsb_tokens_sign(t, &c, text, FSB_TOKEN_SIZE));
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static uint64_t random_next(uint64_t *x)
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return *x >> 16;
}

/* Checks of remembered tokens, each text in the processor's cache, as one just received is. */
static void bench_cached(fsb_tokens *t, char (*texts)[FSB_TOKEN_SIZE], unsigned count)
{
    enum { ROUNDS = 5, GROUP = 64 };
    static char      group[GROUP][FSB_TOKEN_SIZE];
    const size_t     all = strlen(texts[0]);
    double           hot[ROUNDS], any[ROUNDS];
    uint64_t         x = 88172645463325252u;
    fsb_token_claims c;
    for (int r = 0; r < ROUNDS; ++r) {
        double begun = bench_now();
        for (int i = 0; i < 300000; ++i) die("check", fsb_tokens_check(t, texts[0], all, &c));
        hot[r] = (bench_now() - begun) / 300000 * 1e9, any[r] = 0;
        for (int i = 0; i < 4000; ++i) {
            for (int j = 0; j < GROUP; ++j)
                memcpy(group[j], texts[random_next(&x) % count], FSB_TOKEN_SIZE);
            begun = bench_now();
            for (int j = 0; j < GROUP; ++j)
                die("check", fsb_tokens_check(t, group[j], all, &c));
            any[r] += (bench_now() - begun) / GROUP / 4000 * 1e9;
        }
    }
    bench_row("cached check, one token", hot, ROUNDS, "ns", "", NULL, 0, BENCH_LESS,
              "bar: 200 ns");
    bench_row("cached check, any of 100,000", any, ROUNDS, "ns", "", NULL, 0, BENCH_LESS,
              "bar: 200 ns; with a miss of the processor's cache");
}

static void bench_tokens(void)
{
    enum { COUNT = 100000, USERS = 1000000 };
    char           (*texts)[FSB_TOKEN_SIZE] = malloc((size_t)COUNT * FSB_TOKEN_SIZE);
    char             text[FSB_TOKEN_SIZE];
    const int        checks = bench_.quick ? 300000 : 2000000;
    fsb_tokens      *t = open_tokens(COUNT);
    fsb_token_claims c;
    fsb_tokens_stats s;
    uint64_t         x = 88172645463325252u;
    double           took = 0, bytes;
    if (!texts) die("memory", -ENOMEM);
    for (unsigned i = 0; i < COUNT; ++i) sign(t, 1000000 + i, 0, texts[i]);
    const size_t all = strlen(texts[0]); /* of each of them */
    double begun = bench_now();
    for (unsigned i = 0; i < COUNT; ++i) die("check", fsb_tokens_check(t, texts[i], all, &c));
    double first = (bench_now() - begun) / COUNT * 1e9;
    fsb_tokens_stat(t, &s);
    bytes = (double)s.bytes / 1e6;
    if (s.cached != COUNT) die("not all are cached", -EIO);
    bench_row("check of an unknown token", &first, 1, "ns", "", NULL, 0, BENCH_LESS, "");
    bench_row("100,000 tokens cached", &bytes, 1, "MB", "", NULL, 0, BENCH_LESS, "bar: 10 MB");
    bench_cached(t, texts, COUNT);
    for (int i = 0; i < checks; ++i) {
        const unsigned user = (unsigned)(random_next(&x) % USERS);
        sign(t, user, user + 1, text);
        const size_t size = strlen(text);
        begun = bench_now();
        const int err = fsb_tokens_check(t, text, size, &c);
        took += bench_now() - begun;
        if (err || c.id != user + 1) die("a wrong answer", -EIO);
    }
    took = took / checks * 1e9;
    fsb_tokens_stat(t, &s);
    if (s.cached > COUNT || s.bytes > 100u * COUNT) die("not bounded", -EIO);
    bench_row("1,000,000 users, 100,000 entries", &took, 1, "ns", "", NULL, 0, BENCH_LESS,
              "mean check; bounded, each answer right");
    fsb_tokens_close(t);
    free(texts);
}

/* ---- a server -------------------------------------------------------------------------------- */

enum { TENANTS = 1000, EACH = 100 /* open files of a tenant */, OTHERS = 78,
       FLOODS = 20, SLEEPS = 2, DEPTH = 64, FILE_SIZE = 64 << 10, MAX_TIMES = 200000 };

static struct {
    fsb_backend      *files, sleeper;
    fsb_tenants      *set;
    fsb_tokens       *tokens;
    fsb_chunk_server *server;
    char              address[64];
    fsb_backend      *tenants[TENANTS];
    int               limited;         /* 1: tenants have rates */
    int               flooding, ended; /* by atomics */
    double           *times;           /* of the others, us */
    int               time_count;      /* by atomics */
} bench;

static int64_t sleep_on(fsb_backend *backend, fsb_op *op)
{
    const struct timespec nap = {0, 20000000};
    (void)backend;
    while (!__atomic_load_n(&bench.ended, __ATOMIC_RELAXED)) nanosleep(&nap, NULL);
    return op->result = -EIO;
}

static int create_tenant(void *user, fsb_tenant *tenant)
{
    char     folder[64];
    fsb_bind bind = {0};
    (void)user;
    snprintf(folder, sizeof folder, "/%s", tenant->name);
    bind.backend = strcmp(tenant->name, "tenant1") ? bench.files : &bench.sleeper;
    bind.prefix = bind.backend == bench.files ? folder : "/";
    return fsb_mounts_add(tenant->mounts, "/", 1, &bind);
}

static int admit(void *user, const char *identity, size_t size, fsb_chunk_pass *pass)
{
    fsb_token_claims c;
    unsigned         number = 0;
    (void)user;
    const int err = fsb_tokens_complete(bench.tokens, identity, size, pass->token, &c);
    if (err || sscanf(c.tenant, "tenant%u", &number) != 1 || number >= TENANTS) return -EACCES;
    pass->share.name = "t", pass->share.backend = bench.tenants[number];
    pass->share.rights = FSB_CHUNK_READ | FSB_CHUNK_WRITE;
    pass->quick = number != 1; /* memory; but the sleeper */
    if (!bench.limited) return 0;
    pass->limits.requests_per_s = 500, pass->limits.request_burst = 50;
    return 0;
}

static int64_t call(fsb_backend *b, fsb_op *op)
{
    return b->call[op->code] ? b->call[op->code](b, op) : -ENOSYS;
}

static fsb_handle open_file(fsb_backend *b, uint32_t flags, const char *path)
{
    fsb_op op = {0};
    op.code = FSB_OP_OPEN, op.flags = flags, op.path = path, op.attr.mask = FSB_ATTR_MODE;
    op.attr.mode = 0600;
    die(path, call(b, &op));
    return op.handle;
}

static void make_files(void)
{
    static char data[FILE_SIZE];
    char        path[64];
    const fsb_memory_desc memory = {.max_handles = 1 << 18};
    die("memory backend", fsb_memory_open(&bench.files, &memory));
    for (int i = 0; i < TENANTS; ++i) {
        fsb_op op = {0};
        snprintf(path, sizeof path, "/tenant%d", i);
        op.code = FSB_OP_MKDIR, op.path = path, op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0700;
        die("mkdir", call(bench.files, &op));
        snprintf(path, sizeof path, "/tenant%d/file", i);
        memset(&op, 0, sizeof op);
        op.code = FSB_OP_PUT, op.path = path, op.data = data, op.size = sizeof data;
        op.flags = FSB_O_WRITE | FSB_O_CREATE;
        op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0600;
        die("put", call(bench.files, &op));
    }
    bench.sleeper.size = sizeof bench.sleeper, bench.sleeper.name = "sleeper";
    for (int i = 1; i < FSB_OP_COUNT; ++i) bench.sleeper.call[i] = sleep_on;
}

static void start_server(int limited)
{
    fsb_tenants_desc      set = {0};
    fsb_chunk_server_desc desc = {0};
    char                  name[32];
    bench.limited = limited, bench.ended = 0;
    set.create = create_tenant;
    die("tenants", fsb_tenants_open(&bench.set, &set));
    for (int i = 0; i < TENANTS; ++i) {
        snprintf(name, sizeof name, "tenant%d", i);
        die(name, fsb_tenant_backend(&bench.tenants[i], bench.set, name));
    }
    desc.admit = admit, desc.max_unproven_each = desc.max_unproven = 256, desc.hello_ms = 60000;
    die("server", fsb_chunk_server_open(&bench.server, &desc));
    die("listen", fsb_chunk_server_listen(bench.server, "tls:127.0.0.1:0", bench.address,
                                          sizeof bench.address));
}

static void stop_server(void)
{
    __atomic_store_n(&bench.ended, 1, __ATOMIC_RELAXED);
    fsb_chunk_server_close(bench.server);
    for (int i = 0; i < TENANTS; ++i) bench.tenants[i]->close(bench.tenants[i]);
    fsb_tenants_close(bench.set);
}

/* ---- clients --------------------------------------------------------------------------------- */

typedef struct client {
    fsb_backend *backend;
    fsb_handle   files[EACH];
    uint64_t     random;
    pthread_t    thread;
} client;

static void join_as(client *c, unsigned tenant)
{
    fsb_chunk_client_desc d = {0};
    char                  text[FSB_TOKEN_SIZE];
    sign(bench.tokens, tenant, 0, text);
    d.address = bench.address, d.code = text, d.timeout_ms = 60000;
    die("connect", fsb_chunk_client_open(&c->backend, &d));
    c->random = 88172645463325252u + tenant * 7919;
}

static void pause_us(uint64_t us)
{
    const struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* One of the others: now a stat, now a read, now a listing, now a small write; then a pause. */
static int other_step(client *c, char *buf)
{
    fsb_op         op = {0};
    const uint64_t what = random_next(&c->random) % 8;
    op.path = "/file";
    if (what < 4) {
        op.code = FSB_OP_READ, op.handle = c->files[random_next(&c->random) % EACH];
        op.offset = random_next(&c->random) % 15 * 4096, op.size = 4096, op.buf = buf;
    } else if (what < 6) op.code = FSB_OP_STAT;
    else if (what == 6) {
        op.code = FSB_OP_WRITE, op.handle = c->files[random_next(&c->random) % EACH];
        op.data = buf, op.size = 512;
    } else op.code = FSB_OP_GET, op.size = 16384, op.buf = buf;
    return call(c->backend, &op) < 0 ? -1 : 0;
}

static void *other_main(void *arg)
{
    client *c = (client *)arg;
    char   *buf = calloc(1, 16384);
    while (!__atomic_load_n(&bench.ended, __ATOMIC_RELAXED)) {
        pause_us(20000 + random_next(&c->random) % 20000);
        const double begun = bench_now();
        if (other_step(c, buf)) die("a request of the others failed", -EIO);
        const int i = __atomic_fetch_add(&bench.time_count, 1, __ATOMIC_RELAXED);
        if (i < MAX_TIMES) bench.times[i] = (bench_now() - begun) * 1e6;
    }
    free(buf);
    return NULL;
}

/* Keeps DEPTH reads on their way all the time, whatever comes back. */
typedef struct flood {
    client  c;
    fsb_op  ops[DEPTH];
    char   *room;
    int     left; /* by atomics */
} flood;

static void flood_done(fsb_op *op)
{
    (void)__atomic_sub_fetch((int *)op->user, 1, __ATOMIC_ACQ_REL);
}

static void *flood_main(void *arg)
{
    flood *f = (flood *)arg;
    while (!__atomic_load_n(&bench.ended, __ATOMIC_RELAXED)) {
        if (!__atomic_load_n(&bench.flooding, __ATOMIC_RELAXED)) {
            pause_us(5000);
            continue;
        }
        __atomic_store_n(&f->left, DEPTH, __ATOMIC_RELEASE);
        for (int i = 0; i < DEPTH; ++i) {
            fsb_op *op = &f->ops[i];
            memset(op, 0, sizeof *op);
            op->code = FSB_OP_READ, op->handle = f->c.files[0], op->size = 4096;
            op->buf = f->room + i * 4096, op->done = flood_done, op->user = &f->left;
            f->c.backend->submit(f->c.backend, &op, 1);
        }
        while (__atomic_load_n(&f->left, __ATOMIC_ACQUIRE)) pause_us(500);
    }
    return NULL;
}

static void *sleep_main(void *arg) /* fills what its tenant may have running */
{
    client *c = (client *)arg;
    fsb_op  op = {0};
    op.code = FSB_OP_STAT, op.path = "/x";
    while (!__atomic_load_n(&bench.flooding, __ATOMIC_RELAXED)) pause_us(5000);
    (void)call(c->backend, &op);
    return NULL;
}

/* ---- the bench ------------------------------------------------------------------------------- */

static client others[OTHERS], sleepers[SLEEPS * 8];
static flood  floods[FLOODS];

static void start_clients(void)
{
    for (int i = 0; i < OTHERS; ++i) {
        join_as(&others[i], 2 + (unsigned)i);
        for (int j = 0; j < EACH; ++j)
            others[i].files[j] =
                open_file(others[i].backend, FSB_O_READ | FSB_O_WRITE, "/file");
    }
    for (int i = 0; i < FLOODS; ++i) {
        join_as(&floods[i].c, 0);
        floods[i].c.files[0] = open_file(floods[i].c.backend, FSB_O_READ, "/file");
        if (!(floods[i].room = malloc(DEPTH * 4096))) die("memory", -ENOMEM);
    }
    for (int i = 0; i < SLEEPS; ++i) join_as(&sleepers[i * 8], 1);
    for (int i = 0; i < SLEEPS * 8; ++i) sleepers[i].backend = sleepers[i & ~7].backend;
    for (int i = 2 + OTHERS; i < TENANTS; ++i) /* the rest is at rest */
        for (int j = 0; j < EACH; ++j) (void)open_file(bench.tenants[i], FSB_O_READ, "/file");
    for (int i = 0; i < OTHERS; ++i)
        die("thread", -pthread_create(&others[i].thread, NULL, other_main, &others[i]));
    for (int i = 0; i < FLOODS; ++i)
        die("thread", -pthread_create(&floods[i].c.thread, NULL, flood_main, &floods[i]));
    for (int i = 0; i < SLEEPS * 8; ++i)
        die("thread", -pthread_create(&sleepers[i].thread, NULL, sleep_main, &sleepers[i]));
}

static void stop_clients(void)
{
    __atomic_store_n(&bench.ended, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&bench.flooding, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < OTHERS; ++i) pthread_join(others[i].thread, NULL);
    for (int i = 0; i < FLOODS; ++i) pthread_join(floods[i].c.thread, NULL);
    for (int i = 0; i < SLEEPS * 8; ++i) pthread_join(sleepers[i].thread, NULL);
    for (int i = 0; i < OTHERS; ++i) others[i].backend->close(others[i].backend);
    for (int i = 0; i < FLOODS; ++i) {
        floods[i].c.backend->close(floods[i].c.backend);
        free(floods[i].room);
    }
    for (int i = 0; i < SLEEPS; ++i) sleepers[i * 8].backend->close(sleepers[i * 8].backend);
}

/* The p50 and p99 of the others in so many seconds. */
static void measure(double seconds, double *p50, double *p99)
{
    __atomic_store_n(&bench.time_count, 0, __ATOMIC_RELAXED);
    pause_us((uint64_t)(seconds * 1e6));
    int n = __atomic_exchange_n(&bench.time_count, MAX_TIMES, __ATOMIC_RELAXED);
    pause_us(50000); /* who has a place is done with it */
    if (n > MAX_TIMES) n = MAX_TIMES;
    if (n < 100) die("too few answers", -EIO);
    qsort(bench.times, (size_t)n, sizeof *bench.times, bench_by_value_);
    *p50 = bench.times[n / 2], *p99 = bench.times[n * 99 / 100];
}

/* What the kernel did with the host's threads [0] and with all others [1], which are the load: they
   run on the same processors. A thread bears the name of the one that started it. */
typedef struct sched_times {
    double ran[2], waited[2], times[2]; /* ns; waited: for a processor, once awake */
} sched_times;

static int task_scan(const char *task, const char *file, const char *format, void *a, void *b,
                     void *c)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/self/task/%s/%s", task, file);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    const int got = fscanf(f, format, a, b, c);
    fclose(f);
    return got;
}

static void sched_add(sched_times *s, double sign)
{
    DIR           *tasks = opendir("/proc/self/task");
    struct dirent *e;
    while (tasks && (e = readdir(tasks)) != NULL) {
        char   name[32];
        double ran, waited, times;
        if (task_scan(e->d_name, "comm", "%31s", name, NULL, NULL) != 1 ||
            task_scan(e->d_name, "schedstat", "%lf %lf %lf", &ran, &waited, &times) != 3)
            continue;
        const int i = strcmp(name, "host") != 0;
        s->ran[i] += sign * ran, s->waited[i] += sign * waited, s->times[i] += sign * times;
    }
    if (tasks) closedir(tasks);
}

/* Where the time of the others goes: on its way a request wakes a thread of the host and two of its
   client, and each may have to wait for a processor. */
static void show_sched(const sched_times *alone, const sched_times *with, double seconds)
{
    static const char *const who[2] = {"a thread of the host", "a thread of the load"};
    for (int i = 0; i < 2; ++i) {
        char   title[64], note[64];
        double before = alone->waited[i] / alone->times[i] / 1000;
        double now = with->waited[i] / with->times[i] / 1000;
        if (!(alone->times[i] > 0)) return; /* this kernel does not count */
        snprintf(title, sizeof title, "%s waits to run, flood", who[i]);
        snprintf(note, sizeof note, "mean; all take %.0f %% of a processor, alone %.0f %%",
                 with->ran[i] / seconds / 1e7, alone->ran[i] / seconds / 1e7);
        bench_row(title, &now, 1, "us", "alone", &before, 1, BENCH_LESS, note);
    }
}

static void bench_flood(const char *name, int limited)
{
    enum { ROUNDS = 5 };
    double                 alone50[ROUNDS], alone99[ROUNDS], with50[ROUNDS], with99[ROUNDS], rate;
    fsb_chunk_server_stats before, after;
    fsb_handles_stats      handles;
    sched_times            alone = {{0}, {0}, {0}}, with = alone;
    char                   title[64];
    const int              rounds = bench_.quick ? 3 : ROUNDS;
    const double           seconds = bench_.quick ? 0.7 : 1.5;
    (void)prctl(PR_SET_NAME, "host");
    start_server(limited);
    (void)prctl(PR_SET_NAME, "load");
    start_clients();
    pause_us(500000);
    fsb_handles_stat(fsb_tenants_handles(bench.set), &handles);
    if (handles.live < 99000) die("too few handles are live", -EIO);
    uint64_t answered = 0;
    for (int r = 0; r < rounds; ++r) {
        __atomic_store_n(&bench.flooding, 0, __ATOMIC_RELAXED);
        pause_us(300000);
        sched_add(&alone, -1);
        measure(seconds, &alone50[r], &alone99[r]);
        sched_add(&alone, 1);
        __atomic_store_n(&bench.flooding, 1, __ATOMIC_RELAXED);
        pause_us(300000);
        fsb_chunk_server_get_stats(bench.server, &before);
        sched_add(&with, -1);
        measure(seconds, &with50[r], &with99[r]);
        sched_add(&with, 1);
        fsb_chunk_server_get_stats(bench.server, &after);
        answered += after.requests - before.requests;
    }
    snprintf(title, sizeof title, "p50 of others, %s", name);
    bench_row(title, with50, rounds, "us", "alone", alone50, rounds, BENCH_LESS,
              "1,000 tenants, 100,000 handles");
    snprintf(title, sizeof title, "p99 of others, %s", name);
    bench_row(title, with99, rounds, "us", "alone", alone99, rounds, BENCH_LESS,
              "bar: ratio above 0.33");
    rate = (double)answered / rounds / seconds;
    snprintf(title, sizeof title, "requests a second, %s", name);
    bench_row(title, &rate, 1, "/s", "", NULL, 0, BENCH_MORE, "of all tenants");
    if (!limited) show_sched(&alone, &with, rounds * seconds);
    stop_clients();
    stop_server();
}

int main(int argc, char **argv)
{
    bench_begin("server", argc, argv);
    bench_tokens();
    if (!(bench.times = calloc(MAX_TIMES, sizeof *bench.times))) die("memory", -ENOMEM);
    bench.tokens = open_tokens(0);
    make_files();
    bench_flood("flood with a rate", 1);
    bench_flood("flood without", 0);
    bench.files->close(bench.files);
    fsb_tokens_close(bench.tokens);
    free(bench.times);
    return 0;
}
#endif
