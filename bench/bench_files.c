/* bench_files.c - `fsb cp` beside scp, sftp and rsync; the round trips of SFTP over a link.

       bench_files [--quick] [--json]

   Copies: many files of 4 KiB, and one large file, from fsb-host (unix socket; TLS on the loopback)
   and from a real sshd (ssh://, sftp://), into a new folder each time, contenders in turn; $TMPDIR,
   or /dev/shm: what is measured is the way, not the disk. Everybody has the same ssh options, but
   for what each of them chooses by itself. It needs build/bin, sshd, scp, sftp, rsync.
   Round trips: OpenSSH's sftp-server on one side of build/bench/link (wan-good), the SFTP backend
   on the other, no ssh between: elapsed time over the link's round trip. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_BACKEND_IMPLEMENTATION
#include "../fsb_backend.h"
#include "bench.h"
#include "link.h"
#include <limits.h>
#include <stdarg.h>
#include <sys/wait.h>

enum { MOST_RUNS = 3, MIXED = 100 };

static struct {
    char dir[PATH_MAX / 4], bin[PATH_MAX / 4], self[PATH_MAX / 4];
    int  port, runs, files, mib;
} b;

__attribute__((format(printf, 1, 2))) static int shell(const char *format, ...)
{
    char    line[8192];
    va_list args;
    const int n = snprintf(line, sizeof line, "cd '%s' && export PATH='%s':$PATH:/usr/sbin && ",
                           b.dir, b.bin);
    va_start(args, format);
    vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    va_end(args);
    const int status = system(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void clean_up(void)
{
    if (b.dir[0]) shell("kill $(cat pids 2>/dev/null) 2>/dev/null; cd / && rm -rf '%s'", b.dir);
}

/* ---- copies ---------------------------------------------------------------------------------- */

typedef struct contender {
    const char *name;
    int         peer; /* 1: of ssh:// and sftp:// */
    const char *many, *one; /* the commands; they write to `out` */
} contender;

static const contender contenders[] = {
    {"fsb unix", 0, "fsb cp -r \"$(cat unix)/many\" out", "fsb cp \"$(cat unix)/one\" out"},
    {"fsb TLS", 0, "fsb cp -r \"$(sed 's,#,/many#,' tls)\" out",
     "fsb cp \"$(sed 's,#,/one#,' tls)\" out"},
    {"fsb ssh://", 0, "fsb cp -r ssh://127.0.0.1:$PORT$PWD/src/many out",
     "fsb cp ssh://127.0.0.1:$PORT$PWD/src/one out"},
    {"fsb sftp://", 0, "fsb cp -r sftp://127.0.0.1:$PORT$PWD/src/many out",
     "fsb cp sftp://127.0.0.1:$PORT$PWD/src/one out"},
    {"scp", 1, "scp -q -p $OPTIONS -P $PORT -r 127.0.0.1:$PWD/src/many out",
     "scp -q -p $OPTIONS -P $PORT 127.0.0.1:$PWD/src/one out"},
    {"sftp", 1, "sftp -q -p $OPTIONS -P $PORT -r 127.0.0.1:$PWD/src/many out",
     "sftp -q -p $OPTIONS -P $PORT 127.0.0.1:$PWD/src/one out"},
    {"rsync", 1, "rsync -a -e \"ssh $OPTIONS -p $PORT\" 127.0.0.1:$PWD/src/many/ out",
     "rsync -a -e \"ssh $OPTIONS -p $PORT\" 127.0.0.1:$PWD/src/one out"},
};
enum { CONTENDERS = sizeof contenders / sizeof *contenders };

static int free_port(void)
{
    int       port = 0;
    const int fd = link_socket(SOCK_STREAM, "127.0.0.1", &port);
    if (fd >= 0) close(fd);
    return port;
}

/* The files, an sshd, and two fsb-hosts. 0 if all is there. */
static int prepare(void)
{
    b.port = free_port();
    return shell("for c in fsb fsb-host sshd ssh scp sftp rsync ssh-keygen; do command -v $c"
                 " >/dev/null || { echo \"bench_files: $c is missing\" >&2; exit 1; }; done;"
                 " mkdir -p src/many && head -c %d000 /dev/urandom | (cd src/many &&"
                 " split -a 5 -d -b 4096 - f) && head -c %dM /dev/urandom > src/one &&"
                 " ssh-keygen -q -t ed25519 -N '' -f host_key && ssh-keygen -q -t ed25519 -N ''"
                 " -f user_key && cp user_key.pub keys &&"
                 " echo \"[127.0.0.1]:%d $(cut -d ' ' -f 1-2 host_key.pub)\" > known &&"
                 " { [ $(id -u) != 0 ] || mkdir -p /run/sshd; } &&"
                 " $(command -v sshd) -f /dev/null -p %d -h $PWD/host_key -E $PWD/log"
                 " -o ListenAddress=127.0.0.1 -o PidFile=$PWD/sshd.pid -o StrictModes=no"
                 " -o AuthorizedKeysFile=$PWD/keys -o UsePAM=no -o PermitRootLogin=yes"
                 " -o 'Subsystem=sftp internal-sftp' -o \"SetEnv=PATH=$PATH\" &&"
                 " { fsb-host --listen unix:$PWD/sock src >unix 2>>log & echo $! >pids; } &&"
                 " { fsb-host --listen tls:127.0.0.1:0 --code-file $PWD/codes src >tls 2>>log &"
                 " echo $! >>pids; } && sleep 1 && cat sshd.pid >>pids &&"
                 " [ -s unix ] && [ -s tls ]",
                 b.files * 4096 / 1000 + 1, b.mib, b.port, b.port);
}

static double run_copy(const char *command, int one)
{
    const double begin = bench_now();
    const int status = shell("export PORT=%d OPTIONS=\"-F /dev/null -i $PWD/user_key"
                             " -oUserKnownHostsFile=$PWD/known -oBatchMode=yes\";"
                             " export FSB_SSH=\"ssh $OPTIONS\"; %s >/dev/null 2>>log",
                             b.port, command);
    const double seconds = bench_now() - begin;
    const int    wrong = one ? shell("cmp -s src/one out") : shell("diff -rq src/many out >&2");
    shell("[ ! -e out ] || mv out gone.%d", rand());
    if (status || wrong) fprintf(stderr, "bench_files: this failed: %s\n", command);
    return status || wrong ? 0 : seconds;
}

static void measure_copies(const char *what, int one)
{
    double t[CONTENDERS][MOST_RUNS];
    char   name[100];
    for (int r = 0; r < b.runs; ++r) {
        for (int i = 0; i < CONTENDERS; ++i)
            t[i][r] = run_copy(one ? contenders[i].one : contenders[i].many, one);
        shell("rm -rf gone.*");
    }
    for (int i = 0; i < CONTENDERS; ++i) {
        for (int p = 0; p < CONTENDERS && !contenders[i].peer; ++p) {
            if (!contenders[p].peer) continue;
            snprintf(name, sizeof name, "%s: %s", what, contenders[i].name);
            bench_row(name, t[i], b.runs, "s", contenders[p].name, t[p], b.runs, BENCH_LESS, "");
        }
    }
}

/* A new folder in $TMPDIR, or in memory. */
static int make_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(b.dir, sizeof b.dir, "%s/fsb-bench-XXXXXX",
             tmp && *tmp ? tmp : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    return mkdtemp(b.dir) ? 0 : -errno;
}

static int copies(void)
{
    char what[64];
    if (make_dir()) return perror(b.dir), 1;
    atexit(clean_up);
    b.runs = bench_.quick ? 1 : MOST_RUNS;
    b.files = bench_.quick ? 1000 : 10000, b.mib = bench_.quick ? 128 : 1024;
    if (prepare()) return fprintf(stderr, "SKIP bench_files: cannot start all it needs\n"), 0;
    snprintf(what, sizeof what, "%d files", b.files);
    measure_copies(what, 0);
    snprintf(what, sizeof what, "%d MiB", b.mib);
    measure_copies(what, 1);
    return 0;
}

/* ---- round trips ----------------------------------------------------------------------------- */

static int sftp_port;

static int connect_sftp(void *user, int fds[2])
{
    const int one = 1;
    (void)user;
    const int fd = link_connect(SOCK_STREAM, LINK_HOST, sftp_port);
    if (fd < 0) return fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fds[0] = fds[1] = fd;
    return 0;
}

/* OpenSSH's server, for each connection one. */
static void serve_sftp(int listener)
{
    const int one = 1;
    for (;;) {
        const int fd = accept(listener, NULL, NULL);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fork() == 0) {
            dup2(fd, 0), dup2(fd, 1);
            execl("/usr/lib/openssh/sftp-server", "sftp-server", (char *)NULL);
            execl("/usr/libexec/openssh/sftp-server", "sftp-server", (char *)NULL);
            _exit(127);
        }
        close(fd);
    }
}

static const char *numbered(const char *name, int i)
{
    static char texts[256][40];
    static int  next;
    char       *text = texts[next = (next + 1) % 256];
    snprintf(text, sizeof texts[0], "/%s%d", name, i);
    return text;
}

static char block[1024];

static fsb_op an_op(uint32_t code, const char *path)
{
    fsb_op op = {.code = code, .path = path};
    if (code == FSB_OP_GET) op.size = sizeof block;
    if (code == FSB_OP_PUT) {
        op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC, op.data = block;
        op.size = sizeof block, op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0644;
    }
    if (code == FSB_OP_MKDIR) op.attr.mask = FSB_ATTR_MODE, op.attr.mode = 0755;
    return op;
}

static void trips(fsb_backend *sftp, const char *what, uint32_t code, const char *name, double rtt)
{
    double t[5];
    for (int i = 0; i < 5; ++i) {
        fsb_op       op = an_op(code, numbered(name, i));
        const double begin = bench_now();
        if (fsb_backend_call(sftp, &op) < 0) fprintf(stderr, "bench_files: %s fails\n", what);
        t[i] = (bench_now() - begin) / rtt;
        fsb_slice_release(&op.slice);
    }
    bench_row(what, t, 5, "RTT", "", NULL, 0, BENCH_LESS, "");
}

static int ignore(fsb_op *op, const fsb_dirent *entry)
{
    (void)op, (void)entry;
    return 0;
}

/* Batch number `run`: other names than the ones before. */
static double one_batch(fsb_backend *sftp, fsb_workers *workers, int run)
{
    static const uint32_t codes[] = {FSB_OP_STAT, FSB_OP_GET, FSB_OP_PUT, FSB_OP_LIST,
                                     FSB_OP_MKDIR};
    static const char *const names[] = {"known", "old", "batch", "", "folder"};
    fsb_op ops[MIXED], *list[MIXED];
    for (int i = 0; i < MIXED; ++i) {
        ops[i] = an_op(codes[i % 5], i % 5 == 3 ? "/few" : numbered(names[i % 5], i + run));
        ops[i].emit = ignore, list[i] = &ops[i];
    }
    const double begin = bench_now();
    const int    err = fsb_backend_batch(sftp, list, MIXED, fsb_workers_runner(workers), NULL);
    const double t = bench_now() - begin;
    for (int i = 0; i < MIXED; ++i) fsb_slice_release(&ops[i].slice);
    if (err) fprintf(stderr, "bench_files: the batch: %s\n", strerror(-err));
    return t;
}

static void mixed_batch(fsb_backend *sftp, double rtt)
{
    double           t[5];
    fsb_workers     *workers = NULL;
    fsb_workers_desc w = {.threads = MIXED};
    if (fsb_workers_open(&workers, &w)) return;
    for (int run = 0; run < 5; ++run) t[run] = one_batch(sftp, workers, run) / rtt;
    bench_row("100 mixed operations, one batch", t, 5, "RTT", "", NULL, 0, BENCH_LESS,
              "20 each of STAT, GET, PUT, LIST, MKDIR");
    fsb_workers_close(workers);
}

/* Inside the link. */
static int round_trips(void)
{
    const double rtt = atof(getenv("FSB_LINK_RTT_MS")) / 1e3;
    fsb_backend *sftp = NULL;
    if (link_join("host") != 0) return LINK_SKIP;
    const int   listener = link_socket(SOCK_STREAM, LINK_HOST, &sftp_port);
    const pid_t pid = fork();
    if (pid == 0) serve_sftp(listener);
    if (listener < 0 || link_join("client") != 0 || make_dir()) return LINK_SKIP;
    shell("for i in $(seq 0 104); do head -c 1024 /dev/zero | tee old$i listed$i >known$i; done;"
          " mkdir few && touch few/1 few/2 few/3");
    fsb_sftp_desc desc = {.connect = connect_sftp, .root = b.dir};
    const int     err = fsb_sftp_open(&sftp, &desc);
    if (!err) {
        trips(sftp, "stat", FSB_OP_STAT, "known", rtt);
        trips(sftp, "read 1 KiB, name just seen", FSB_OP_GET, "known", rtt);
        trips(sftp, "read 1 KiB, name never seen", FSB_OP_GET, "listed", rtt);
        trips(sftp, "write 1 KiB, a new file", FSB_OP_PUT, "new", rtt);
        trips(sftp, "write 1 KiB, over one just seen", FSB_OP_PUT, "new", rtt);
        mixed_batch(sftp, rtt);
        sftp->close(sftp);
    } else fprintf(stderr, "bench_files: no sftp-server across the link: %s\n", strerror(-err));
    kill(pid, SIGTERM), waitpid(pid, NULL, 0);
    clean_up();
    return 0;
}

static int run_in_link(void)
{
    const char *argv[] = {"link", "wan-good", "--", b.self, NULL, NULL, NULL};
    char        path[PATH_MAX];
    int         n = 4, status = 0;
    if (bench_.quick) argv[n++] = "--quick";
    if (bench_.json) argv[n++] = "--json";
    snprintf(path, sizeof path, "%s/../bench/link", b.bin);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(LINK_SKIP);
    }
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == LINK_SKIP)
        return fprintf(stderr, "SKIP bench_files: round trips: no link can be built here\n"), 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
    bench_begin("files", argc, argv);
    (void)signal(SIGPIPE, SIG_IGN);
    if (readlink("/proc/self/exe", b.self, sizeof b.self - 1) < 1) return 1;
    snprintf(b.bin, sizeof b.bin, "%.*s/../bin", (int)(strrchr(b.self, '/') - b.self), b.self);
    if (getenv("FSB_LINK_PROFILE")) return round_trips();
    const int failed = copies();
    return run_in_link() || failed;
}
