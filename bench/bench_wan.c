/* bench_wan.c - a mounted folder across an emulated link, beside plain TCP and sshfs.

       bench_wan [--quick] [--json] [PROFILE...]        lan, wan-good, wan-poor, wan-bad: all,
                                                        quick wan-good only, but see BENCH_PEERS

   For each profile it runs itself inside build/bench/link. The host's page cache is warm, the
   client cold: everything is mounted anew before each figure, and the contenders take turns.
   Times are given in round trips, throughput as a share of what the link can carry, so that the
   figures mean the same on every link; how much is carried is what the link does in seconds. fsb is
   fsb-mount of build/bin and a server on bare TCP; plain TCP has the same congestion control, which
   the rows name. sshfs (with ssh's fastest cipher) needs sshfs and sshd, else it is left out with a
   line on stderr; where a round trip takes long its find alone would take a minute: it has one
   turn there, and with --quick none. BENCH_PEERS set, a quick run goes across all links, and
   beside sshfs, else not. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_chunk.h"
#include "bench.h"
#include "link.h"
#include "stage.h"
#include <sys/mount.h>
#include <sys/prctl.h>

enum {
    FOLDERS = 50,
    IN_FOLDER = 20,
    SMALL = 500,
    SMALL_SIZE = 10240,
    MOST_RUNS = 5,
    MIB = 1 << 20
};

typedef enum contender { FSB, SSHFS, CONTENDERS } contender;
/* WARM comes with SEQUENTIAL: the files are read in the mount that has just read the large one. */
typedef enum workload { FIRST_BYTE, FIND, FILES, SEQUENTIAL, WARM, WORKLOADS } workload;
static const char *const names[CONTENDERS] = {"fsb", "sshfs"};

static struct {
    double rtt, bytes_per_s; /* of the link; what one TCP stream can carry at best */
    size_t bulk;             /* bytes of the large file */
    int    small;            /* files that are read one after another */
    pid_t  host, sshd;
    int    port, ssh_port, runs[CONTENDERS]; /* 0: it is not there */
    double result[WORKLOADS][CONTENDERS][MOST_RUNS];
    double tcp[WORKLOADS][MOST_RUNS]; /* as many bytes as plain TCP carries them */
    char   congestion[16];
} b;

/* ---- helpers --------------------------------------------------------------------------------- */

#define START(side, ...) \
    stage_start(NULL, link_join, side, (const char *const[]){__VA_ARGS__, NULL})

static void end_all(void)
{
    stop(&b.host);
    stop(&b.sshd);
}

/* ---- the host side --------------------------------------------------------------------------- */

static void make_file(const char *path, size_t size)
{
    static char bytes[MIB];
    unsigned    seed = (unsigned)size;
    const int   fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    for (size_t i = 0; i < sizeof bytes && i < size; ++i)
        bytes[i] = (char)((seed = seed * 1664525 + 7) >> 24);
    for (size_t done = 0, n; done < size; done += n) {
        n = size - done < sizeof bytes ? size - done : sizeof bytes;
        if (write(fd, bytes, n) != (ssize_t)n) give_up("cannot write %s", path);
    }
    close(fd);
}

static void make_files(void)
{
    mkdir(at("%s/data", stage_.dir), 0755), mkdir(at("%s/data/tree", stage_.dir), 0755);
    mkdir(at("%s/data/small", stage_.dir), 0755), mkdir(stage_.mnt, 0755);
    for (int d = 0; d < FOLDERS; ++d) {
        mkdir(at("%s/data/tree/d%02d", stage_.dir, d), 0755);
        for (int f = 0; f < IN_FOLDER; ++f)
            make_file(at("%s/data/tree/d%02d/f%02d", stage_.dir, d, f), 1);
    }
    for (int f = 0; f < SMALL; ++f) make_file(at("%s/data/small/f%03d", stage_.dir, f), SMALL_SIZE);
    make_file(at("%s/data/first", stage_.dir), 65536);
    make_file(at("%s/data/big", stage_.dir), b.bulk);
}

/* The server, in a process of its own on the host side; it says its port through the pipe. */
static void serve(int word)
{
    fsb_local_desc    folder = {0};
    fsb_backend      *backend = NULL;
    fsb_chunk_server *server = NULL;
    char              bound[256] = "";
    folder.root = at("%s/data", stage_.dir);
    if (link_join("host") != 0 || fsb_local_open(&backend, &folder) != 0) _exit(1);
    const fsb_chunk_share share = {"data", backend, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
    fsb_chunk_server_desc desc = {0};
    desc.shares = &share, desc.share_count = 1, desc.insecure_tcp = 1;
    if (fsb_chunk_server_open(&server, &desc) != 0 ||
        fsb_chunk_server_listen(server, LINK_HOST ":0", bound, sizeof bound) != 0)
        _exit(1);
    const int port = atoi(strrchr(bound, ':') + 1);
    if (write(word, &port, sizeof port) != (ssize_t)sizeof port) _exit(1);
    for (;;) pause();
}

static void start_host(void)
{
    int word[2];
    if (pipe2(word, O_CLOEXEC) != 0) give_up("no pipe");
    if ((b.host = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)signal(SIGTERM, SIG_DFL);
        serve(word[1]);
    }
    close(word[1]);
    if (read(word[0], &b.port, sizeof b.port) != (ssize_t)sizeof b.port)
        give_up("the host does not serve");
    close(word[0]);
}

static int start_sshd(void)
{
    if (RUN("sh", "-c", "command -v sshfs && command -v ssh-keygen && test -x /usr/sbin/sshd") != 0)
        return 0;
    RUN("mkdir", "-p", "/run/sshd");
    RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("%s/host_key", stage_.dir));
    RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("%s/user_key", stage_.dir));
    FILE *f = fopen(at("%s/sshd_config", stage_.dir), "w");
    b.ssh_port = 2022; /* its namespace is ours alone */
    if (!f) return 0;
    fprintf(f,
            "Port %d\nListenAddress " LINK_HOST "\nHostKey %s/host_key\n"
            "AuthorizedKeysFile %s/user_key.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
            "UseDNS no\nSubsystem sftp internal-sftp\n",
            b.ssh_port, stage_.dir, stage_.dir);
    fclose(f);
    b.sshd = START("host", "/usr/sbin/sshd", "-D", "-f", at("%s/sshd_config", stage_.dir));
    usleep(500000);
    return waitpid(b.sshd, NULL, WNOHANG) == 0;
}

/* ---- the client side ------------------------------------------------------------------------- */

static void mount_contender(contender c)
{
    if (c == FSB)
        stage_.mounter = START("client", at("%s/fsb-mount", stage_.bin), "-f", "--timeout", "120",
                          at("fsb+tcp://" LINK_HOST ":%d/data", b.port), stage_.mnt);
    else
        stage_.mounter = START(
            "client", "sshfs", "-f", "-p", at("%d", b.ssh_port), "-o",
            at("IdentityFile=%s/user_key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,"
               "Ciphers=aes128-gcm@openssh.com,compression=no",
               stage_.dir),
            at(LINK_HOST ":%s/data", stage_.dir), stage_.mnt);
    for (int i = 0; i < 6000 && !is_mounted(); ++i) {
        usleep(10000);
        if (waitpid(stage_.mounter, NULL, WNOHANG) > 0) {
            stage_.mounter = 0;
            give_up("%s does not mount", names[c]);
        }
    }
    if (!is_mounted()) give_up("%s does not mount", names[c]);
    usleep((useconds_t)(2e6 * b.rtt)); /* what it still says to the host is no part of a figure */
}

static void read_file(const char *path, size_t most, size_t expected)
{
    static char bytes[MIB];
    const int   fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t      total = 0;
    ssize_t     n = 0;
    while (total < expected && (n = read(fd, bytes, most)) > 0) total += (size_t)n;
    close(fd);
    if (fd < 0 || total != expected)
        give_up("%s: %zu bytes of %zu: %s", path, total, expected, strerror(errno));
}

/* Reads the small files by their known names, fsb all of them, sshfs until patience is at an end:
   it needs three round trips for each. Returns how many. */
static int read_small_files(contender c)
{
    const double begin = bench_now(), patience = c == FSB ? 1e9 : bench_.quick ? 3 : 10;
    int          n = 0;
    while (n < b.small && (n < 5 || bench_now() - begin < patience))
        read_file(at("%s/small/f%03d", stage_.mnt, n++), MIB, SMALL_SIZE);
    return n;
}

static double of_link(double bytes, double seconds) /* percent */
{
    return 100 * bytes / seconds / b.bytes_per_s;
}

static double measure_files(contender c)
{
    const double begin = bench_now();
    const int    n = read_small_files(c);
    return of_link((double)n * SMALL_SIZE, bench_now() - begin);
}

static void measure(workload w, contender c, int i)
{
    mount_contender(c);
    const double begin = bench_now();
    switch (w) {
    case FIRST_BYTE: read_file(at("%s/first", stage_.mnt), 1, 1); break;
    case FIND:
        if (RUN("sh", "-c",
                at("test $(find %s/tree -type f | wc -l) = %d", stage_.mnt,
                   FOLDERS * IN_FOLDER)) != 0)
            give_up("find in %s does not see all files", names[c]);
        break;
    case SEQUENTIAL: read_file(at("%s/big", stage_.mnt), MIB, b.bulk); break;
    case FILES:
    case WARM:
    case WORKLOADS: break;
    }
    const double seconds = bench_now() - begin;
    b.result[w][c][i] = w == FILES        ? measure_files(c)
                        : w == SEQUENTIAL ? (double)b.bulk / seconds / 1e6
                                          : seconds / b.rtt;
    if (w == SEQUENTIAL) b.result[WARM][c][i] = measure_files(c);
    unmount();
}

/* What the sender of plain_tcp() does: each size once, when it is asked for. */
static void send_when_asked(int listener, const size_t *sizes, int count)
{
    static char bytes[1 << 16];
    char        word;
    const int   fd = accept(listener, NULL, NULL);
    for (int i = 0; i < count && recv(fd, &word, 1, 0) == 1; ++i)
        for (size_t left = sizes[i]; left > 0;) {
            const ssize_t n =
                send(fd, bytes, left < sizeof bytes ? left : sizeof bytes, MSG_NOSIGNAL);
            if (n <= 0) _exit(1);
            left -= (size_t)n;
        }
    _exit(0);
}

/* So many bytes from one socket to another, one size after the other: the seconds of each. The
   first pays for the connection too. */
static void plain_tcp(const size_t *sizes, double *seconds, int count)
{
    static char bytes[MIB];
    int         port = 0;
    if (link_join("host") != 0) give_up("cannot go to the host side");
    const int listener = link_socket(SOCK_STREAM, LINK_HOST, &port);
    if (listener < 0 || link_join("client") != 0) give_up("cannot listen");
    (void)setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3); /* as fsb does */
    const pid_t sender = fork();
    if (sender == 0) send_when_asked(listener, sizes, count);
    double    begin = bench_now();
    const int fd = link_connect(SOCK_STREAM, LINK_HOST, port);
    for (int i = 0; i < count; ++i) {
        size_t  total = 0;
        ssize_t n = fd < 0 ? -1 : send(fd, "", 1, MSG_NOSIGNAL);
        while (n > 0 && total < sizes[i] && (n = recv(fd, bytes, sizeof bytes, 0)) > 0)
            total += (size_t)n;
        if (total != sizes[i]) give_up("plain TCP carried %zu bytes of %zu", total, sizes[i]);
        seconds[i] = bench_now() - begin;
        begin = bench_now();
    }
    link_congestion(fd, b.congestion);
    close(fd);
    close(listener);
    waitpid(sender, NULL, 0);
}

static void measure_tcp(int i)
{
    const size_t small = (size_t)b.small * SMALL_SIZE, sizes[] = {b.bulk, small};
    double       seconds[2];
    plain_tcp(&small, seconds, 1);
    b.tcp[FILES][i] = of_link((double)small, seconds[0]);
    plain_tcp(sizes, seconds, 2);
    b.tcp[SEQUENTIAL][i] = (double)b.bulk / seconds[0] / 1e6;
    b.tcp[WARM][i] = of_link((double)small, seconds[1]);
}

/* ---- the program ----------------------------------------------------------------------------- */

static void row(workload w, const char *what, const char *unit, const char *note)
{
    static double twice[CONTENDERS][MOST_RUNS];
    const int     better = w == FIRST_BYTE || w == FIND ? BENCH_LESS : BENCH_MORE;
    memcpy(twice, b.result[w], sizeof twice);
    bench_row(at("%s %s", getenv("FSB_LINK_PROFILE"), what), twice[FSB], b.runs[FSB], unit, "sshfs",
              b.runs[SSHFS] ? twice[SSHFS] : NULL, b.runs[SSHFS], (bench_better)better, note);
}

static void row_beside_tcp(workload w, const char *what, const char *unit, const char *note)
{
    bench_row(at("%s %s beside TCP", getenv("FSB_LINK_PROFILE"), what), b.result[w][FSB],
              b.runs[FSB], unit, "plain TCP", b.tcp[w], b.runs[FSB], BENCH_MORE,
              at("%s, %s", b.congestion, note));
}

static void measure_all(void)
{
    for (int i = 0; i < b.runs[FSB]; ++i) {
        measure_tcp(i);
        for (int w = 0; w < WARM; ++w)
            for (int c = 0; c < CONTENDERS; ++c)
                if (i < b.runs[c]) measure((workload)w, (contender)c, i);
    }
    char many[64];
    snprintf(many, sizeof many, "cold, %d known names", b.small);
    row(FIRST_BYTE, "first byte of a cold file", "RTT", "open, read, known name");
    row(FIND, "find, 1,000 files in 50 folders", "RTT", "cold");
    row(FILES, "10 KiB files one after another", "% of link", many);
    row_beside_tcp(FILES, "10 KiB files", "% of link", "a new connection each");
    row(WARM, "10 KiB files, warm connection", "% of link", many);
    row_beside_tcp(WARM, "10 KiB files, warm connection,", "% of link", "behind the large file");
    row(SEQUENTIAL, "sequential read", "MB/s", "cold");
    row_beside_tcp(SEQUENTIAL, "sequential read", "MB/s", "a new connection each");
}

static int inside(void)
{
    struct stat st;
    b.rtt = atof(getenv("FSB_LINK_RTT_MS")) / 1e3;
    b.bytes_per_s = atof(getenv("FSB_LINK_MBIT")) * 125000 * 1448 / 1500;
    const double seconds = 20 * b.rtt > 2 ? 20 * b.rtt : 2, most = 5 * b.bytes_per_s / SMALL_SIZE;
    b.bulk = (size_t)(b.bytes_per_s * seconds * (bench_.quick ? 1 : 2));
    b.small = most < SMALL ? (int)most : SMALL;
    b.runs[FSB] = bench_.quick ? 1 : 3;
    stage_begin(end_all);
    if (stat("/dev/fuse", &st) != 0 || access(at("%s/fsb-mount", stage_.bin), X_OK) != 0) {
        fprintf(stderr, "SKIP bench_wan: no /dev/fuse, or no build/bin/fsb-mount\n");
        stage_end();
        return LINK_SKIP;
    }
    make_files();
    start_host();
    b.runs[SSHFS] = b.rtt < 0.1 ? b.runs[FSB] : !bench_.quick;
    if (bench_.quick && !getenv("BENCH_PEERS")) b.runs[SSHFS] = 0;
    if (b.runs[SSHFS] && !start_sshd()) {
        fprintf(stderr, "bench_wan: sshfs is left out: it needs sshfs and sshd\n");
        b.runs[SSHFS] = 0;
    }
    measure_all();
    stage_end();
    return 0;
}

static int run_profile(const char *profile)
{
    return link_run(at("%s/../bench/link", stage_.bin), profile, stage_.self);
}

int main(int argc, char **argv)
{
    static const char *const all[] = {"lan", "wan-good", "wan-poor", "wan-bad"};
    const char              *wanted[4];
    int                      count = 0, failed = 0, left = 1;
    for (int i = 1; i < argc; ++i) {
        if (argv[i][0] == '-' || count == 4 || strcmp(argv[i - 1], "--case") == 0)
            argv[left++] = argv[i];
        else wanted[count++] = argv[i];
    }
    argv[left] = NULL;
    bench_begin("wan", left, argv);
    stage_find();
    if (getenv("FSB_LINK_PROFILE")) return inside();
    if (!count && bench_.quick && !getenv("BENCH_PEERS")) return run_profile("wan-good");
    for (int i = 0; i < (count ? count : 4); ++i)
        failed |= run_profile(count ? wanted[i] : all[i]);
    return failed;
}
