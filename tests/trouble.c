/* trouble.c - what networks, disks and strangers do to those who share files, and what must have
   been kept afterwards. Used by e2e_faults.sh and soak.sh. An ADDRESS is unix:PATH or IP:PORT.

   trouble proxy ADDRESS TARGET CONTROL   passes bytes on, each connection to one of its own; prints
                   where it listens. The file CONTROL, if it is there, holds one line, the fault:
                       hold         nothing passes
                       flip N       of N bytes one has a bit flipped, in both directions
                       up N, down N the connection that carries the Nth byte from now on to the
                                    target, or from it, ends before that; CONTROL is removed
                       jitter N     what comes from the target waits up to N ms
                       record       what goes to the target is also appended to CONTROL.bytes
   trouble work DIR JOURNAL STEPS SEED    changes files in DIR and writes down what was
                   acknowledged, until STEPS are done or the file JOURNAL.stop is there
   trouble cuts DIR JOURNAL STEPS CONTROL up|down FIRST EACH     the same with small files, each
                   step with the connection cut after FIRST, FIRST + EACH, ... bytes
   trouble verify DIR JOURNAL             is it all there, once, and nothing else?
   trouble steady FILE STOP               reads FILE's blocks past the kernel's cache until the file
                   STOP is there; prints the longest time without an answer, in ms
   trouble silent ADDRESS COUNT           so many connections that say nothing, over IP each from an
                   address of its own (127.0.1.1, ...), until all are ended; prints how many of
                   them lived for a second, and the age of the oldest in ms
   trouble noise ADDRESS SECONDS SEED     random bytes, some of them with a frame's beginning
   trouble replay ADDRESS FILE            sends the bytes of FILE, and takes what comes

   work ends with 1 if what it saw was wrong; an errno where it may be one is only counted. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LUMP = 65536, BLOCK = 4096 };

static void die(const char *what)
{
    fprintf(stderr, "trouble: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static unsigned below(uint64_t *state, unsigned n) /* xorshift64 */
{
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return (unsigned)(*state >> 16) % n;
}

/* ---- [addresses] ----------------------------------------------------------------------------- */

typedef union address {
    struct sockaddr    any;
    struct sockaddr_in in;
    struct sockaddr_un un;
} address;

static socklen_t address_of(const char *text, address *a)
{
    memset(a, 0, sizeof *a);
    if (strncmp(text, "unix:", 5) == 0) {
        a->un.sun_family = AF_UNIX;
        snprintf(a->un.sun_path, sizeof a->un.sun_path, "%s", text + 5);
        return sizeof a->un;
    }
    char        ip[64];
    const char *colon = strrchr(text, ':');
    snprintf(ip, sizeof ip, "%.*s", colon ? (int)(colon - text) : 0, text);
    a->in.sin_family = AF_INET;
    if (!colon || inet_pton(AF_INET, ip, &a->in.sin_addr) != 1) die(text);
    a->in.sin_port = htons((unsigned short)atoi(colon + 1));
    return sizeof a->in;
}

/* A connection; with from, out of 127.0.1.from. */
static int dial(const char *where, int from)
{
    address         a, b;
    const socklen_t size = address_of(where, &a);
    const int       fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (from && a.any.sa_family == AF_INET) {
        (void)address_of("127.0.1.0:0", &b);
        b.in.sin_addr.s_addr |= htonl((uint32_t)from);
        if (bind(fd, &b.any, sizeof b.in) != 0) die("an address of the loopback");
    }
    if (fd >= 0 && connect(fd, &a.any, size) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static int send_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        const ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        bytes += n, size -= (size_t)n;
    }
    return 0;
}

/* ---- [proxy] --------------------------------------------------------------------------------- */

static pthread_mutex_t control_lock = PTHREAD_MUTEX_INITIALIZER;
static const char     *control, *target;
static char            control_was[64]; /* under the lock, with the next two: */
static size_t          passed;          /* bytes, since the fault is this one */
static uint64_t        dice = 88172645463325252u;

typedef struct connection {
    int fds[2]; /* the client's, the target's */
    int users;  /* directions that still use them */
} connection;

typedef struct pipe_end { /* one direction */
    connection *c;
    int         from, to, up;
} pipe_end;

/* The fault of this moment, "" for none. */
static void fault_of_now(char text[64])
{
    const int fd = open(control, O_RDONLY | O_CLOEXEC);
    ssize_t   n = fd < 0 ? 0 : read(fd, text, 63);
    if (fd >= 0) close(fd);
    text[n < 0 ? 0 : n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (strcmp(text, control_was) != 0) strcpy(control_was, text), passed = 0;
}

static int held(void)
{
    char text[64];
    pthread_mutex_lock(&control_lock);
    fault_of_now(text);
    pthread_mutex_unlock(&control_lock);
    return strcmp(text, "hold") == 0;
}

static void record(const char *bytes, size_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s.bytes", control);
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) die(path);
    close(fd);
}

/* Does to these bytes what CONTROL says. Returns how many of them pass; *wait_ms: only then. */
static size_t strike(const pipe_end *p, char *bytes, size_t size, long *wait_ms)
{
    char   text[64], verb[16] = "";
    size_t n = 0, passes = size;
    pthread_mutex_lock(&control_lock);
    fault_of_now(text);
    (void)sscanf(text, "%15s %zu", verb, &n);
    *wait_ms = strcmp(verb, "hold") == 0                ? -1
        : strcmp(verb, "jitter") == 0 && !p->up && n > 0 ? (long)below(&dice, (unsigned)n + 1)
                                                        : 0;
    if (strcmp(verb, "flip") == 0 && n)
        for (size_t i = below(&dice, (unsigned)n); i < size; i += 1 + below(&dice, 2 * (unsigned)n))
            bytes[i] = (char)(bytes[i] ^ 1 << below(&dice, 8));
    if (strcmp(verb, p->up ? "up" : "down") == 0) {
        if (passed + size > n) passes = n - passed, unlink(control);
        passed += passes;
    }
    if (strcmp(verb, "record") == 0 && p->up) record(bytes, size);
    pthread_mutex_unlock(&control_lock);
    return passes;
}

static void *pass(void *arg)
{
    pipe_end *p = (pipe_end *)arg;
    char     *bytes = (char *)malloc(LUMP);
    long      wait_ms;
    for (ssize_t n; bytes && (n = recv(p->from, bytes, LUMP, 0)) > 0;) {
        size_t passes;
        while (passes = strike(p, bytes, (size_t)n, &wait_ms), wait_ms < 0) nap(5);
        if (wait_ms) nap(wait_ms);
        if (send_all(p->to, bytes, passes) != 0 || passes < (size_t)n) break;
    }
    while (held()) nap(5); /* that it ended is not heard either */
    shutdown(p->to, SHUT_RDWR), shutdown(p->from, SHUT_RDWR);
    if (__atomic_sub_fetch(&p->c->users, 1, __ATOMIC_ACQ_REL) == 0)
        close(p->from), close(p->to), free(p->c);
    free(bytes), free(p);
    return NULL;
}

static void start(connection *c, int up)
{
    pthread_t thread;
    pipe_end *p = (pipe_end *)malloc(sizeof *p);
    if (!p) die("memory");
    p->c = c, p->from = c->fds[!up], p->to = c->fds[up], p->up = up;
    if (pthread_create(&thread, NULL, pass, p) != 0) die("thread");
    pthread_detach(thread);
}

static int proxy(char **argv)
{
    address   a;
    socklen_t size = address_of(argv[0], &a);
    const int listener = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    target = argv[1], control = argv[2];
    if (bind(listener, &a.any, size) != 0 || listen(listener, 128) != 0) die(argv[0]);
    size = sizeof a;
    getsockname(listener, &a.any, &size);
    if (a.any.sa_family == AF_UNIX) puts(argv[0]);
    else printf("127.0.0.1:%d\n", ntohs(a.in.sin_port));
    fflush(stdout);
    while (listener >= 0) {
        const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        const int server = client < 0 ? -1 : dial(target, 0);
        if (client >= 0 && server < 0) close(client);
        if (server < 0) continue;
        connection *c = (connection *)malloc(sizeof *c);
        if (!c) die("memory");
        c->fds[0] = client, c->fds[1] = server, c->users = 2;
        start(c, 1), start(c, 0);
    }
    return 0;
}

/* ---- [work] ---------------------------------------------------------------------------------- */

static const char *work_dir, *work_seed;
static FILE       *journal;
static int         acknowledged, refused, wrong;
static size_t      largest = 60000;

static const char *name_of(const char *kind, int step)
{
    static char room[8][512];
    static int  next;
    char       *p = room[next++ % 8];
    snprintf(p, sizeof room[0], "%s/%s-%s-%d", work_dir, work_seed, kind, step);
    return p;
}

static size_t content_of(int step, char *bytes) /* room for 64 KiB; every file is another one */
{
    const size_t size = 1 + (size_t)step * 7919u % largest;
    uint64_t     state = 0x9e3779b97f4a7c15u * (uint64_t)(step + 1) + strtoull(work_seed, NULL, 10);
    for (size_t i = 0; i < size; ++i) bytes[i] = (char)below(&state, 256);
    return size;
}

/* 1 if it was done, 0 if it was refused in a way that a fault excuses, with a word about it. */
static int done(int ok, const char *what, int step)
{
    const int err = errno;
    if (ok) return 1;
    ++refused;
    fprintf(stderr, "refused: %s %d: %s\n", what, step, strerror(err));
    if (err == EEXIST || err == ENOENT || err == ESTALE || err == EBADMSG) ++wrong;
    return 0;
}

static void acknowledge(const char *what, int step)
{
    ++acknowledged;
    fprintf(journal, "%s %d\n", what, step);
    fflush(journal);
}

/* Writes all of it and waits until the host has it; the error may come at any of the calls. */
static int put(int fd, const char *bytes, size_t size)
{
    int     err = 0;
    ssize_t n = fd < 0 ? -1 : write(fd, bytes, size);
    if (n != (ssize_t)size) err = n < 0 ? errno : ENOSPC;
    if (fd >= 0 && fsync(fd) != 0 && !err) err = errno;
    if (fd >= 0 && close(fd) != 0 && !err) err = errno;
    errno = err;
    return err == 0;
}

static int same(const char *path, const char *want, size_t size)
{
    char      have[LUMP];
    size_t    got = 0;
    const int fd = open(path, O_RDONLY);
    for (ssize_t n; fd >= 0 && (n = read(fd, have + got, sizeof have - got)) != 0;) {
        if (n < 0) {
            const int err = errno;
            close(fd);
            errno = err;
            return -1;
        }
        got += (size_t)n;
    }
    if (fd < 0) return -1;
    close(fd);
    return got == size && memcmp(have, want, size) == 0;
}

/* Makes a file exclusively, renames it, appends to a log, removes an older file, reads one. */
static void work_step(int step)
{
    char   bytes[LUMP], line[64];
    size_t size = content_of(step, bytes);
    int    fd = open(name_of("new", step), O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (done(put(fd, bytes, size), "write", step) &&
        done(rename(name_of("new", step), name_of("file", step)) == 0, "rename", step))
        acknowledge("file", step);
    snprintf(line, sizeof line, "<%d> one line, written at once\n", step);
    fd = open(name_of("log", 0), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (done(put(fd, line, strlen(line)), "append", step)) acknowledge("line", step);
    if (step % 3 != 2) return;
    if (access(name_of("file", step - 1), F_OK) == 0) {
        fprintf(journal, "going %d\n", step - 1);
        if (done(unlink(name_of("file", step - 1)) == 0, "unlink", step))
            acknowledge("gone", step - 1);
    }
    size = content_of(step - 2, bytes);
    const int is = same(name_of("file", step - 2), bytes, size);
    if (is == 0) ++wrong, fprintf(stderr, "wrong: file %d reads as something else\n", step - 2);
    if (is < 0 && errno != ENOENT) (void)done(0, "read", step);
}

static int worked(void)
{
    printf("%d acknowledged, %d refused, %d wrong\n", acknowledged, refused, wrong);
    return wrong != 0;
}

static void work_open(char **argv)
{
    work_dir = argv[0];
    journal = fopen(argv[1], "w");
    if (!journal) die(argv[1]);
}

static int work(char **argv)
{
    char stop[512];
    work_open(argv);
    work_seed = argv[3];
    fprintf(journal, "seed %s %zu\n", work_seed, largest);
    snprintf(stop, sizeof stop, "%s.stop", argv[1]);
    for (int step = 0; step < atoi(argv[2]) && access(stop, F_OK) != 0; ++step) work_step(step);
    return worked();
}

static int cuts(char **argv)
{
    const int steps = atoi(argv[2]), first = atoi(argv[5]), each = atoi(argv[6]);
    char      next[512];
    int       struck = 0;
    work_open(argv);
    work_seed = argv[4][0] == 'u' ? "11" : "12", largest = 200;
    fprintf(journal, "seed %s %zu\n", work_seed, largest);
    snprintf(next, sizeof next, "%s.next", argv[3]);
    for (int step = 0; step < steps; ++step) {
        FILE *f = fopen(next, "w");
        if (!f) die(next);
        fprintf(f, "%s %d\n", argv[4], first + step * each);
        fclose(f);
        if (rename(next, argv[3]) != 0) die(argv[3]);
        work_step(step);
        struck += access(argv[3], F_OK) != 0;
    }
    unlink(argv[3]);
    printf("%d of %d cut; ", struck, steps);
    return worked();
}

/* ---- [verify] -------------------------------------------------------------------------------- */

enum { STEPS = 1000000 };
static unsigned char journaled[STEPS]; /* 1 file, 2 line, 4 gone, 8 going */

static void complain(const char *what, int step)
{
    ++wrong;
    printf("wrong: %s %d\n", what, step);
}

static void read_journal(const char *path)
{
    static char seed[32];
    char        what[32];
    int         step, last = 0;
    FILE       *f = fopen(path, "r");
    if (!f || fscanf(f, "seed %31s %zu", seed, &largest) != 2) die(path);
    work_seed = seed;
    while (fscanf(f, "%31s %d", what, &step) == 2) {
        if (step < 0 || step >= STEPS) die("a wrong journal");
        const int bit = what[0] == 'f' ? 1 : what[0] == 'l' ? 2 : strcmp(what, "gone") == 0 ? 4 : 8;
        journaled[step] = (unsigned char)(journaled[step] | bit);
        last = step > last ? step : last;
    }
    fclose(f);
    printf("%d steps; ", last + 1);
}

/* Every line that was acknowledged is in the log once, any other at most once. */
static void verify_lines(void)
{
    static unsigned char seen[STEPS];
    char                 line[4096];
    FILE                *f = fopen(name_of("log", 0), "r");
    for (const char *p; f && fgets(line, sizeof line, f);)
        for (p = line; (p = strchr(p, '<')) != NULL; ++p) {
            const int step = atoi(p + 1);
            if (step < 0 || step >= STEPS) complain("a line that nobody wrote", step);
            else if (seen[step]++) complain("a line that is there twice", step);
        }
    if (f) fclose(f);
    for (int i = 0; i < STEPS; ++i)
        if (journaled[i] & 2 && !seen[i]) complain("an acknowledged line is lost", i);
}

static int verify(char **argv)
{
    char        bytes[LUMP];
    struct stat st;
    int         files = 0;
    work_dir = argv[0];
    read_journal(argv[1]);
    for (int i = 0; i < STEPS; ++i) {
        if (!journaled[i]) continue;
        const char *path = name_of("file", i);
        const int   is = same(path, bytes, content_of(i, bytes));
        if (is == 0) complain("not the bytes that were written", i);
        if (is < 0 && journaled[i] & 1 && !(journaled[i] & 12)) complain("a file is lost", i);
        if (is >= 0 && journaled[i] & 4) complain("a file is back that was removed", i);
        if (journaled[i] & 1 && lstat(name_of("new", i), &st) == 0)
            complain("a file that was renamed has its old name, too", i);
        files += is == 1;
    }
    verify_lines();
    printf("%d files, %d wrong\n", files, wrong);
    return wrong != 0;
}

/* ---- [others] -------------------------------------------------------------------------------- */

static int steady(char **argv)
{
    const int fd = open(argv[0], O_RDONLY | O_DIRECT);
    void     *block;
    int64_t   last = now_ms(), longest = 0;
    int       reads = 0;
    uint64_t  state = 12345;
    const off_t blocks = fd < 0 ? 0 : lseek(fd, 0, SEEK_END) / BLOCK;
    if (!blocks || posix_memalign(&block, BLOCK, BLOCK) != 0) die(argv[0]);
    for (; access(argv[1], F_OK) != 0; ++reads) {
        const off_t at = (off_t)below(&state, (unsigned)blocks) * BLOCK;
        if (pread(fd, block, BLOCK, at) != BLOCK) die("a steady reader");
        const int64_t t = now_ms();
        if (t - last > longest) longest = t - last;
        last = t;
        nap(2);
    }
    fprintf(stderr, "%d reads\n", reads);
    printf("%lld\n", (long long)longest);
    return 0;
}

static int silent(char **argv)
{
    enum { MOST = 4096 };
    static struct pollfd all[MOST];
    const int            count = atoi(argv[1]) < MOST ? atoi(argv[1]) : MOST;
    const int64_t        begin = now_ms();
    int                  left = 0, stayed = -1;
    char                 junk[64];
    for (int i = 0; i < count; ++i) {
        all[i].fd = dial(argv[0], i % 254 + 1), all[i].events = POLLIN;
        left += all[i].fd >= 0;
    }
    while (left && now_ms() - begin < 30000) {
        poll(all, (nfds_t)count, 200);
        for (int i = 0; i < count; ++i)
            if (all[i].fd >= 0 && all[i].revents && recv(all[i].fd, junk, sizeof junk, 0) <= 0)
                close(all[i].fd), all[i].fd = -1, --left;
        if (stayed < 0 && now_ms() - begin > 1000) stayed = left;
    }
    printf("%d %lld\n", stayed < 0 ? 0 : stayed, (long long)(now_ms() - begin));
    return left != 0;
}

static int noise(char **argv)
{
    static char   bytes[LUMP];
    uint64_t      state = 0x2545f4914f6cdd1du + (uint64_t)atoi(argv[2]);
    const int64_t end = now_ms() + 1000 * atoi(argv[1]);
    int           connections = 0;
    for (; now_ms() < end; ++connections) {
        const int fd = dial(argv[0], 0);
        if (fd < 0) {
            nap(1);
            continue;
        }
        const struct timeval second = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
        for (unsigned lumps = below(&state, 4); lumps-- > 0;) {
            const size_t size = 1 + below(&state, below(&state, 2) ? 64 : LUMP);
            for (size_t i = 0; i < size; ++i) bytes[i] = (char)below(&state, 256);
            if (below(&state, 3) == 0 && size >= 32) { /* a frame of a believable size */
                memcpy(bytes, "FSB1", 4), memset(bytes + 4, 0, 8);
                bytes[4] = (char)(below(&state, 8) * 8), bytes[13] = (char)below(&state, 2);
            }
            if (send_all(fd, bytes, size) != 0) break;
        }
        close(fd);
    }
    printf("%d connections\n", connections);
    return 0;
}

static int replay(char **argv)
{
    static char bytes[LUMP];
    const int   file = open(argv[1], O_RDONLY), fd = dial(argv[0], 0);
    if (file < 0 || fd < 0) die(file < 0 ? argv[1] : argv[0]);
    for (ssize_t n; (n = read(file, bytes, sizeof bytes)) > 0;)
        if (send_all(fd, bytes, (size_t)n) != 0) break;
    size_t        got = 0;
    struct pollfd w = {fd, POLLIN, 0};
    for (ssize_t n; poll(&w, 1, 1000) > 0 && (n = recv(fd, bytes, sizeof bytes, 0)) > 0;)
        got += (size_t)n;
    printf("%zu bytes came back\n", got);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int         count, (*run)(char **);
    } all[] = {{"proxy", 3, proxy},   {"work", 4, work},     {"cuts", 7, cuts},
               {"verify", 2, verify}, {"steady", 2, steady}, {"silent", 2, silent},
               {"noise", 3, noise},   {"replay", 2, replay}};
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; argc > 1 && i < sizeof all / sizeof *all; ++i)
        if (strcmp(argv[1], all[i].name) == 0 && argc == all[i].count + 2)
            return all[i].run(argv + 2);
    fprintf(stderr, "trouble: see the head of trouble.c\n");
    return 2;
}
