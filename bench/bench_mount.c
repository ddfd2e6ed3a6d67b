/* bench_mount.c - a mounted folder beside direct access and other mounts.

   The host's page cache is warm, the client cold: everything is mounted anew for each run, and the
   contenders take turns, so that a busy machine slows all of them alike. fsb is fsb-host on a unix
   socket and fsb-mount, of build/bin. sshfs and rclone need sshd, which is started on a free port
   of the loopback with keys of its own; "sshfs, tuned" has four connections, the fastest cipher and
   its caches on. glusterfs has one brick, a copy of the same files, and the translators of a usual
   volume. passthrough_ll is built from libfuse's example if that is installed: it reaches the files
   without another process, a bound rather than a peer. Who is missing is left out, with a line on
   stderr. With --quick so are the slow ones, and the other peers have one turn to three of ours,
   unless BENCH_PEERS is set. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "bench.h"
#include "stage.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <pwd.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/socket.h>

enum {
    MOST_RUNS = 5,
    FIRST = 200,
    TEXTURES = 4,
    JUMPS = 50,
    PROBES = 100,
    IN_FOLDER = 100, /* small files */
    SMALL_SIZE = 10 << 10
};


typedef enum contender {
    DIRECT,
    FSB,
    SSHFS,
    TUNED,
    RCLONE,
    GLUSTER,
    PASSTHROUGH,
    CONTENDERS
} contender;
static const char *const names[CONTENDERS] = {
    "direct", "fsb", "sshfs", "sshfs, tuned", "rclone", "glusterfs", "passthrough_ll"};

typedef enum workload {
    READ_1G,
    WRITE_1G,
    RANDOM_1,
    RANDOM_8,
    FIRST_BYTE,
    STATS,
    CREATES,
    SCRUB,
    STREAMS,
    TERABYTE,
    SMALL_FIND,
    SMALL_1,
    SMALL_8,
    SMALL_AGAIN,
    READ_AGAIN,
    GIT_AGAIN,
    TLS_READ,
    TLS_WRITE,
    WORKLOADS
} workload;

static const struct {
    const char  *name, *unit;
    bench_better better;
} rows[WORKLOADS] = {
    {"sequential read", "MiB/s", BENCH_MORE},
    {"sequential write + fsync", "MiB/s", BENCH_MORE},
    {"random 4 KiB O_DIRECT, 1 job", "IOPS", BENCH_MORE},
    {"random 4 KiB O_DIRECT, 8 jobs", "IOPS", BENCH_MORE},
    {"first byte of a cold file", "us", BENCH_LESS},
    {"stat of a cold file", "us", BENCH_LESS},
    {"create + write + close", "us", BENCH_LESS},
    {"50 jumps in a video of 50 GiB", "MB/s", BENCH_MORE},
    {"4 texture streams at once", "MiB/s", BENCH_MORE},
    {"4 KiB anywhere in 1 TiB", "us", BENCH_LESS},
    {"find over small files", "ms", BENCH_LESS},
    {"small files, 1 reader", "ms", BENCH_LESS},
    {"small files, 8 readers", "ms", BENCH_LESS},
    {"small files, second pass", "ms", BENCH_LESS},
    {"sequential read again", "MiB/s", BENCH_MORE},
    {"git status again", "ms", BENCH_LESS},
    {"sequential read, encrypted", "MiB/s", BENCH_MORE},
    {"sequential write + fsync, encrypted", "MiB/s", BENCH_MORE},
};

/* Rows besides these, and whose runs they are of, or are set beside. */
typedef enum beside {
    FROM_DISK, REQUESTS, LOCKED, CPU_READ, CPU_WRITE, REST, MOST, LOADED, IDLE, BESIDES
} beside;
static const struct {
    const char *name;
    unsigned    needs; /* a bit for each workload */
} besides[BESIDES] = {
    {"small files from the disk cache", 1u << SMALL_1},
    {"requests of the warm passes", 1u << SMALL_AGAIN | 1u << READ_AGAIN | 1u << GIT_AGAIN},
    {"small files, second pass, read-only", 1u << SMALL_AGAIN},
    {"CPU of the daemons, read", 1u << READ_1G},
    {"CPU of the daemons, write", 1u << WRITE_1G},
    {"memory at rest, the larger daemon", 1u << READ_1G},
    {"memory at most, the larger daemon", 1u << READ_1G},
    {"memory of fsb-mount under load", 0},
    {"CPU at rest", 1u << READ_1G},
};

typedef enum timed { TIMED_FIRST, TIMED_PROBE, TIMED } timed; /* whose single reads are kept */

static struct {
    char   data[PATH_MAX];
    int    present[CONTENDERS];
    pid_t  host, sshd, brick; /* daemons; the brick is of glusterfs */
    int    ssh_port, brick_port;
    size_t bulk; /* bytes */
    int    ios;  /* random reads */
    int    runs, peer_runs;
    int    files;        /* to be asked for, and to be made */
    int    folders, git; /* of small files; files in the work tree, 0: there is no git */
    int    mounted, cache, secure; /* cache: fsb keeps what it reads on disk; secure: TLS */
    contender by;                  /* whom it is mounted by */
    int    locked;                 /* fsb mounts read-only */
    double l2[MOST_RUNS], calls[MOST_RUNS]; /* ms; requests of the warm passes */
    double read_only[MOST_RUNS];            /* ms; a second pass that opens nothing */
    double loaded[MOST_RUNS];               /* MB; fsb-mount with much to remember */
    double result[WORKLOADS][CONTENDERS][MOST_RUNS];
    double each[TIMED][CONTENDERS][MOST_RUNS * FIRST]; /* us */
    int    times[TIMED][CONTENDERS];
    double cpu[2][CONTENDERS][MOST_RUNS];            /* seconds per GiB: read, write */
    double rss_rest[MOST_RUNS], rss_peak[MOST_RUNS]; /* fsb-mount and fsb-host, the larger, MB */
    double idle_cpu;
} b;

/* ---- helpers --------------------------------------------------------------------------------- */

/* Does a row that was asked for take this one's runs? */
static int wanted(workload w)
{
    int yes = bench_wanted(rows[w].name);
    for (int i = 0; i < BESIDES; ++i)
        yes |= (besides[i].needs >> w & 1) && bench_wanted(besides[i].name);
    return yes;
}

#define START(out, ...) stage_start(out, NULL, NULL, (const char *const[]){__VA_ARGS__, NULL})

static void end_all(void)
{
    stop(&b.host);
    stop(&b.brick);
    stop(&b.sshd);
}

/* User and system seconds of a process and, where it has ended children, of these. */
static double cpu_of(pid_t pid)
{
    char          text[1024] = "";
    FILE         *f = pid > 0 ? fopen(at("/proc/%d/stat", (int)pid), "r") : NULL;
    double        ticks = 0;
    unsigned long u = 0, s = 0;
    if (!f) return 0;
    if (fgets(text, sizeof text, f)) {
        const char *end = strrchr(text, ')');
        if (end &&
            sscanf(end + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) == 2)
            ticks = (double)(u + s);
    }
    fclose(f);
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

/* Daemons whose command line holds the mount point, or that serve it: for the CPU they use. */
static double cpu_of_daemons(contender c)
{
    const int      over_ssh = c == SSHFS || c == TUNED || c == RCLONE;
    double         total = cpu_of(stage_.mounter) + cpu_of(c == GLUSTER ? b.brick : b.host);
    DIR           *proc;
    struct dirent *e;
    if (!over_ssh || !(proc = opendir("/proc"))) return total;
    while ((e = readdir(proc))) { /* sshd's children and our ssh are of no fixed pid */
        char  line[4096] = "";
        FILE *f = atoi(e->d_name) > 0 ? fopen(at("/proc/%s/cmdline", e->d_name), "r") : NULL;
        if (!f) continue;
        const size_t n = fread(line, 1, sizeof line - 1, f);
        fclose(f);
        for (size_t i = 0; i + 1 < n; ++i)
            if (!line[i]) line[i] = ' ';
        if (atoi(e->d_name) != stage_.mounter &&
            (strstr(line, "sftp-server") || strstr(line, stage_.dir) ||
             strncmp(line, "sshd: ", 6) == 0))
            total += cpu_of(atoi(e->d_name));
    }
    closedir(proc);
    return total;
}

/* ---- contenders ------------------------------------------------------------------------------ */

static int free_port(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t          size = sizeof in;
    const int          fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&in, size) != 0 ||
        getsockname(fd, (struct sockaddr *)&in, &size) != 0)
        give_up("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(in.sin_port);
}

static int installed(const char *program)
{
    return RUN("sh", "-c", at("PATH=$PATH:/usr/sbin; command -v %s", program)) == 0;
}

static int prepare_sshd(void)
{
    if (!installed("ssh-keygen") || access("/usr/sbin/sshd", X_OK) != 0) return 0;
    RUN("mkdir", "-p", "/run/sshd");
    RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("%s/host_key", stage_.dir));
    RUN("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("%s/user_key", stage_.dir));
    RUN("cp", at("%s/user_key.pub", stage_.dir), at("%s/authorized", stage_.dir));
    FILE *f = fopen(at("%s/sshd_config", stage_.dir), "w");
    b.ssh_port = free_port();
    if (!f) return 0;
    fprintf(
        f,
        "Port %d\nListenAddress 127.0.0.1\nHostKey %s/host_key\nAuthorizedKeysFile %s/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
        b.ssh_port, stage_.dir, stage_.dir);
    fclose(f);
    b.sshd = START(NULL, "/usr/sbin/sshd", "-D", "-f", at("%s/sshd_config", stage_.dir));
    usleep(500000);
    return waitpid(b.sshd, NULL, WNOHANG) == 0;
}

/* glusterfs marks the files of its brick, so it has a copy; no glusterd, which would be of the
   whole machine. */
static int prepare_gluster(void)
{
    if (!installed("glusterfsd")) return 0;
    b.brick_port = free_port();
    FILE *f = fopen(at("%s/brick.vol", stage_.dir), "w");
    if (!f) return 0;
    fprintf(f,
            "volume disk\n type storage/posix\n option directory %s/brick\nend-volume\n"
            "volume locks\n type features/locks\n subvolumes disk\nend-volume\n"
            "volume brick\n type performance/io-threads\n subvolumes locks\nend-volume\n"
            "volume server\n type protocol/server\n option transport-type socket\n"
            " option transport.address-family inet\n"
            " option transport.socket.bind-address 127.0.0.1\n"
            " option transport.socket.listen-port %d\n"
            " option auth.addr.brick.allow 127.0.0.1\n option auth-path brick\n"
            " subvolumes brick\nend-volume\n",
            stage_.dir, b.brick_port);
    fclose(f);
    if (!(f = fopen(at("%s/client.vol", stage_.dir), "w"))) return 0;
    fprintf(f,
            "volume remote\n type protocol/client\n option transport-type socket\n"
            " option remote-host 127.0.0.1\n option remote-port %d\n"
            " option remote-subvolume brick\nend-volume\n",
            b.brick_port);
    static const char *const layers[] = {"write-behind", "readdir-ahead", "read-ahead", "io-cache",
                                         "quick-read",   "open-behind",   "md-cache",   NULL};
    for (int i = 0; layers[i]; ++i)
        fprintf(f, "volume %s\n type performance/%s\n subvolumes %s\nend-volume\n", layers[i],
                layers[i], i ? layers[i - 1] : "remote");
    fclose(f);
    if (RUN("cp", "-a", at("%s/data", stage_.dir), at("%s/brick", stage_.dir)) != 0) return 0;
    b.brick = START(NULL, "glusterfsd", "-N", "-f", at("%s/brick.vol", stage_.dir), "-l",
                    at("%s/brick.log", stage_.dir), "-p", at("%s/brick.pid", stage_.dir));
    usleep(1500000);
    return waitpid(b.brick, NULL, WNOHANG) == 0;
}

static int prepare_passthrough(void)
{
    const char *source = "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c";
    return access(source, R_OK) == 0 &&
        RUN("sh", "-c",
            at("cc -O2 -w -DHAVE_UTIMENSAT -D_FILE_OFFSET_BITS=64 -o %s/passthrough_ll %s "
               "$(pkg-config --cflags --libs fuse3)",
               stage_.dir, source)) == 0;
}

static void mount_sshfs(const char *more)
{
    stage_.mounter =
        START(NULL, "sshfs", "-f", "-p", at("%d", b.ssh_port), "-o",
              at("IdentityFile=%s/user_key,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null%s",
                 stage_.dir, more),
              at("127.0.0.1:%s/data", stage_.dir), stage_.mnt);
}

static void mount_rclone(void)
{
    const struct passwd *user = getpwuid(geteuid());
    RUN("rm", "-rf", at("%s/rclone", stage_.dir));
    stage_.mounter = START(NULL, "rclone", "mount", "--config", "/dev/null", "--vfs-cache-mode",
                      "writes", "--cache-dir", at("%s/rclone", stage_.dir),
                      at(":sftp,host=127.0.0.1,port=%d,user=%s,key_file=%s/user_key,"
                         "shell_type=none:%s/data",
                         b.ssh_port, user ? user->pw_name : "root", stage_.dir, stage_.dir),
                      stage_.mnt);
}

static void mount_contender(contender c)
{
    char url[PATH_MAX] = "";
    if (c == FSB) {
        unlink(at("%s/url", stage_.dir));
        b.host = START(at("%s/url", stage_.dir), at("%s/fsb-host", stage_.bin), "--listen",
                       b.secure ? "tls:127.0.0.1:0" : at("unix:%s/sock", stage_.dir),
                       at("%s/data", stage_.dir));
        for (int i = 0; i < 200 && !url[0]; ++i) {
            FILE *f = fopen(at("%s/url", stage_.dir), "r");
            if (f && fgets(url, sizeof url, f)) url[strcspn(url, "\n")] = '\0';
            if (f) fclose(f);
            if (!url[0]) usleep(10000);
        }
        stage_.mounter = START(NULL, at("%s/fsb-mount", stage_.bin), "-f", "--status",
                          at("unix:%s/status", stage_.dir), url, stage_.mnt,
                          b.cache ? "--cache-dir" : b.locked ? "--read-only" : NULL,
                          b.cache ? at("%s/cache", stage_.dir) : NULL);
    } else if (c == SSHFS) {
        mount_sshfs("");
    } else if (c == TUNED) {
        mount_sshfs(",max_conns=4,Ciphers=aes128-gcm@openssh.com,compression=no,kernel_cache,"
                    "dcache_timeout=60,max_read=1048576");
    } else if (c == RCLONE) {
        mount_rclone();
    } else if (c == GLUSTER) {
        stage_.mounter = START(NULL, "glusterfs", "-N", "-f", at("%s/client.vol", stage_.dir), "-l",
                          at("%s/client.log", stage_.dir), stage_.mnt);
    } else if (c == PASSTHROUGH) {
        stage_.mounter = START(NULL, at("%s/passthrough_ll", stage_.dir), "-f", "-o",
                          at("source=%s/data", stage_.dir), stage_.mnt);
    } else return;
    for (int i = 0; i < 500 && !is_mounted(); ++i) {
        usleep(10000);
        if (waitpid(stage_.mounter, NULL, WNOHANG) > 0) give_up("%s does not mount", names[c]);
    }
    if (!is_mounted()) give_up("%s does not mount", names[c]);
    b.mounted = 1;
}

static void unmount_contender(contender c)
{
    b.mounted = 0;
    if (c == DIRECT) return;
    unmount();
    stop(&b.host);
}

/* Requests that fsb's client has sent to its host. */
static double calls_sent(void)
{
    char   line[512];
    double calls = -1;
    FILE  *f = popen(at("%s/fsb status --metrics unix:%s/status", stage_.bin, stage_.dir), "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "fsb_calls_total", 15) == 0) calls = atof(line + 15);
    if (f) pclose(f);
    if (calls < 0) give_up("fsb-mount does not tell its numbers");
    return calls;
}

/* ---- workloads: each returns the value of its row -------------------------------------------- */

static const char *root_of(contender c)
{
    return c == DIRECT ? b.data : stage_.mnt;
}

static double read_bulk(const char *root)
{
    char        *buf = malloc(1 << 20);
    const int    fd = open(at("%s/big", root), O_RDONLY);
    size_t       total = 0;
    ssize_t      n;
    const double begin = bench_now();
    while ((n = read(fd, buf, 1 << 20)) > 0) total += (size_t)n;
    const double seconds = bench_now() - begin;
    close(fd);
    free(buf);
    if (total != b.bulk) give_up("read %zu bytes of %zu in %s", total, b.bulk, root);
    return (double)total / seconds / (1 << 20);
}

static double write_bulk(const char *root)
{
    char       *buf = malloc(1 << 20);
    const char *path = at("%s/written", root);
    memset(buf, 'w', 1 << 20);
    const double begin = bench_now();
    const int    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (size_t done = 0; done < b.bulk; done += 1 << 20)
        if (write(fd, buf, 1 << 20) != 1 << 20) give_up("write in %s: %s", root, strerror(errno));
    if (fsync(fd) != 0 || close(fd) != 0) give_up("fsync in %s: %s", root, strerror(errno));
    const double seconds = bench_now() - begin;
    unlink(path);
    free(buf);
    return (double)b.bulk / seconds / (1 << 20);
}

typedef struct job {
    char     path[PATH_MAX];
    int      count;
    unsigned seed;
} job;

static void *random_reads(void *arg)
{
    job      *j = arg;
    void     *buf = NULL;
    const int fd = open(j->path, O_RDONLY | O_DIRECT);
    if (fd < 0 || posix_memalign(&buf, 4096, 4096) != 0)
        give_up("O_DIRECT %s: %s", j->path, strerror(errno));
    for (int i = 0; i < j->count; ++i) {
        const off_t at_block = (off_t)((size_t)rand_r(&j->seed) % (b.bulk / 4096)) * 4096;
        if (pread(fd, buf, 4096, at_block) != 4096) give_up("pread: %s", strerror(errno));
    }
    close(fd);
    free(buf);
    return NULL;
}

static double random_bulk(const char *root, int jobs, int count)
{
    static job   list[8];
    pthread_t    threads[8];
    const double begin = bench_now();
    for (int i = 0; i < jobs; ++i) {
        snprintf(list[i].path, sizeof list[i].path, "%s/big", root);
        list[i].count = count / (jobs > 1 ? 4 : 1), list[i].seed = (unsigned)i + 1;
        pthread_create(&threads[i], NULL, random_reads, &list[i]);
    }
    for (int i = 0; i < jobs; ++i) pthread_join(threads[i], NULL);
    return (double)list[0].count * jobs / (bench_now() - begin);
}

static void keep_time(timed what, contender c, double begin)
{
    b.each[what][c][b.times[what][c]++] = (bench_now() - begin) * 1e6;
}

static void first_bytes(contender c)
{
    char byte;
    for (int i = 0; i < FIRST; ++i) {
        const char  *path = at("%s/first/f%d", root_of(c), i);
        const double begin = bench_now();
        const int    fd = open(path, O_RDONLY);
        if (read(fd, &byte, 1) != 1) give_up("%s: %s", path, strerror(errno));
        keep_time(TIMED_FIRST, c, begin);
        close(fd);
    }
}

static double cold_stats(const char *root) /* us each */
{
    struct stat  st;
    const double begin = bench_now();
    for (int i = 0; i < b.files; ++i)
        if (stat(at("%s/many/n%d", root, i), &st) != 0)
            give_up("stat in %s: %s", root, strerror(errno));
    return (bench_now() - begin) * 1e6 / b.files;
}

/* Not removed: for minutes ext4 passes over each inode that was freed (recently_deleted() of
   fs/ext4/ialloc.c), and whoever makes files next would pay for it. */
static void put_away(const char *from)
{
    static int  count;
    const char *made = at("%s/%s/made", stage_.dir, from);
    if (rename(made, at("%s/made%d", stage_.dir, ++count)) != 0 && errno != ENOENT)
        give_up("%s: %s", made, strerror(errno));
}

static double creates(const char *root) /* us each */
{
    static char text[10 << 10];
    mkdir(at("%s/made", root), 0755);
    const double begin = bench_now();
    for (int i = 0; i < b.files; ++i) {
        const int fd = open(at("%s/made/c%d", root, i), O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (write(fd, text, sizeof text) != sizeof text || close(fd) != 0)
            give_up("create in %s: %s", root, strerror(errno));
    }
    const double us = (bench_now() - begin) * 1e6;
    put_away("data"), put_away("brick");
    return us / b.files;
}

/* An editor that jumps about in a video of 50 GiB and plays 4 MiB at each place: MB/s. */
static double scrub(const char *root)
{
    char        *buf = malloc(1 << 20);
    const int    fd = open(at("%s/video", root), O_RDONLY);
    const double begin = bench_now();
    for (int i = 0; i < JUMPS; ++i) {
        const off_t place = (off_t)(i * 7919 % 12800) << 22;
        for (int part = 0; part < 4; ++part)
            if (pread(fd, buf, 1 << 20, place + ((off_t)part << 20)) != 1 << 20)
                give_up("video in %s: %s", root, strerror(errno));
    }
    const double seconds = bench_now() - begin;
    close(fd);
    free(buf);
    return JUMPS * 4.194304 / seconds;
}

static void *read_texture(void *path)
{
    static const size_t piece = 256 << 10;
    char               *buf = malloc(piece);
    const int           fd = open(path, O_RDONLY);
    size_t              total = 0;
    ssize_t             n;
    while ((n = read(fd, buf, piece)) > 0) total += (size_t)n;
    if (total != b.bulk / TEXTURES) give_up("%s: %zu bytes", (char *)path, total);
    close(fd);
    free(buf);
    return NULL;
}

static double streams(const char *root) /* MiB/s in all */
{
    static char  paths[TEXTURES][PATH_MAX + 16];
    pthread_t    threads[TEXTURES];
    const double begin = bench_now();
    for (int i = 0; i < TEXTURES; ++i) {
        snprintf(paths[i], sizeof paths[i], "%s/texture%d", root, i);
        pthread_create(&threads[i], NULL, read_texture, paths[i]);
    }
    for (int i = 0; i < TEXTURES; ++i) pthread_join(threads[i], NULL);
    return (double)(b.bulk / TEXTURES * TEXTURES) / (bench_now() - begin) / (1 << 20);
}

static void probe_terabyte(contender c)
{
    char      buf[4096];
    const int fd = open(at("%s/terabyte", root_of(c)), O_RDONLY);
    for (int i = 0; i < PROBES; ++i) {
        const off_t  place = (off_t)((1ll << 40) / PROBES * (i * 37 % PROBES));
        const double begin = bench_now();
        if (pread(fd, buf, sizeof buf, place / 4096 * 4096) != (ssize_t)sizeof buf)
            give_up("terabyte in %s: %s", root_of(c), strerror(errno));
        keep_time(TIMED_PROBE, c, begin);
    }
    close(fd);
}

/* Counts the names in a folder that are no dots; -1: it cannot be read. */
static int count_names(const char *path)
{
    DIR           *d = opendir(path);
    struct dirent *e;
    int            count = 0;
    if (!d) return -1;
    while ((e = readdir(d))) count += e->d_name[0] != '.';
    closedir(d);
    return count;
}

/* Finds all names, as find(1) does: folders are asked for their attributes, files are not. */
static double find_small(const char *root) /* ms */
{
    struct stat  st;
    const double begin = bench_now();
    int          count = count_names(at("%s/small", root)) == b.folders ? 0 : -1;
    for (int d = 0; d < b.folders && count >= 0; ++d) {
        const char *path = at("%s/small/d%02d", root, d);
        if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) give_up("%s is no folder", path);
        count += count_names(path);
    }
    if (count != b.folders * IN_FOLDER) give_up("%d names in %s/small", count, root);
    return (bench_now() - begin) * 1e3;
}

typedef struct small_job {
    const char *root;
    int         first, step;
} small_job;

static void read_folder(const char *path)
{
    static __thread char text[SMALL_SIZE + 1];
    DIR                 *d = opendir(path);
    struct dirent       *e;
    int                  count = 0;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        const int fd = open(at("%s/%s", path, e->d_name), O_RDONLY);
        if (fd < 0 || read(fd, text, sizeof text) != SMALL_SIZE)
            give_up("%s/%s: %s", path, e->d_name, strerror(errno));
        close(fd);
        ++count;
    }
    if (d) closedir(d);
    if (count != IN_FOLDER) give_up("%d files of %d in %s", count, IN_FOLDER, path);
}

static void *read_small(void *arg)
{
    const small_job *j = arg;
    for (int d = j->first; d < b.folders; d += j->step) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/small/d%02d", j->root, d);
        read_folder(path);
    }
    return NULL;
}

/* Finds all names, then reads every file: ms. */
static double small_pass(const char *root, int readers)
{
    static small_job list[8];
    pthread_t        threads[8];
    const double     begin = bench_now();
    (void)find_small(root);
    for (int i = 0; i < readers; ++i) {
        list[i] = (small_job){root, i, readers};
        pthread_create(&threads[i], NULL, read_small, &list[i]);
    }
    for (int i = 0; i < readers; ++i) pthread_join(threads[i], NULL);
    return (bench_now() - begin) * 1e3;
}

static double git_status(contender c) /* ms; 0: a peer cannot */
{
    const double begin = bench_now();
    if (RUN("git", "-c", "safe.directory=*", "--no-optional-locks", "-C",
            at("%s/work", root_of(c)), "status", "--porcelain") == 0)
        return (bench_now() - begin) * 1e3;
    if (c == FSB || c == DIRECT) give_up("git status fails in %s", names[c]);
    fprintf(stderr, "bench_mount: git status fails in %s: left out\n", names[c]);
    return 0;
}

/* The value of a pass that comes after one like it, and the requests that it sent. */
static double again(workload w, contender c, int turn)
{
    const char *root = root_of(c);
    double      value = 0, before = 0;
    for (int i = 0; i < 2; ++i) {
        if (c == FSB) usleep(100000), before = calls_sent();
        value = w == SMALL_AGAIN ? small_pass(root, 1)
                : w == READ_AGAIN ? read_bulk(root)
                                  : git_status(c);
    }
    if (c == FSB) b.calls[turn] += calls_sent() - before;
    return value;
}

/* A pass after a remount, with what the pass before left on fsb's disk: ms. */
static double small_from_disk(void)
{
    double ms = 0;
    RUN("rm", "-rf", at("%s/cache", stage_.dir));
    b.cache = 1;
    for (int i = 0; i < 2; ++i) {
        mount_contender(FSB);
        ms = small_pass(stage_.mnt, 1);
        usleep(500000); /* it is written to the disk behind */
        unmount_contender(FSB);
    }
    b.cache = 0;
    return ms;
}

/* The second pass over files that cannot be written: ms. */
static double small_read_only(void)
{
    b.locked = 1;
    mount_contender(FSB);
    (void)small_pass(stage_.mnt, 1);
    const double ms = small_pass(stage_.mnt, 1);
    unmount_contender(FSB);
    b.locked = 0;
    return ms;
}

static int ignore(const char *path, const struct stat *st, int type)
{
    (void)path, (void)st, (void)type;
    return 0;
}

/* What fsb-mount took at most, when all names were walked and small and large files read: MB. */
static double memory_under_load(void)
{
    mount_contender(FSB);
    for (int i = 0; i < 2; ++i) (void)read_bulk(stage_.mnt);
    (void)small_pass(stage_.mnt, 8);
    if (ftw(stage_.mnt, ignore, 20) != 0) give_up("ftw: %s", strerror(errno));
    const double mb = memory_of(stage_.mounter, "VmHWM:");
    unmount_contender(FSB);
    return mb;
}

static void make_small(const char *text)
{
    for (int d = 0; d < b.folders; ++d) {
        RUN("mkdir", "-p", at("%s/data/small/d%02d", stage_.dir, d));
        for (int i = 0; i < IN_FOLDER; ++i) {
            const int fd = open(at("%s/data/small/d%02d/f%02d", stage_.dir, d, i),
                                O_WRONLY | O_CREAT, 0644);
            if (write(fd, text, SMALL_SIZE) != SMALL_SIZE) give_up("cannot make small files");
            close(fd);
        }
    }
}

static void make_work_tree(void)
{
    const int folders = bench_.quick ? 5 : 200;
    if (RUN("sh", "-c",
            at("cd %s/data && mkdir work && cd work && git init -q && for d in $(seq %d); do "
               "mkdir d$d; for f in $(seq 100); do echo $f > d$d/f$f; done; done; git add . && "
               "git -c user.name=b -c user.email=b@localhost commit -q -m all",
               stage_.dir, folders)) == 0)
        b.git = folders * 100;
}

/* Names that are walked for the memory they take: 100,000, or a tenth. */
static void make_names(void)
{
    for (int d = 0; d < b.folders; ++d) {
        RUN("mkdir", "-p", at("%s/data/names/d%02d", stage_.dir, d));
        for (int i = 0; i < 1000; ++i)
            close(open(at("%s/data/names/d%02d/n%03d", stage_.dir, d, i), O_WRONLY | O_CREAT,
                       0644));
    }
}

/* What the O_DIRECT, stat and other cases read, in the host's page cache. */
static void make_data(void)
{
    char *buf = malloc(1 << 20);
    RUN("mkdir", "-p", at("%s/data/many", stage_.dir), at("%s/data/first", stage_.dir), stage_.mnt);
    for (size_t i = 0; i < 1 << 20; ++i) buf[i] = (char)(i * 2654435761u >> 13);
    const int fd = open(at("%s/data/big", stage_.dir), O_WRONLY | O_CREAT, 0644);
    for (size_t done = 0; done < b.bulk; done += 1 << 20)
        if (write(fd, buf, 1 << 20) != 1 << 20)
            give_up("cannot make %zu bytes: %s", b.bulk, strerror(errno));
    fsync(fd);
    close(fd);
    for (int i = 0; i < TEXTURES; ++i)
        if (RUN("sh", "-c", at("tail -c +%zu %s/data/big | head -c %zu > %s/data/texture%d",
                               1 + b.bulk / TEXTURES * (size_t)i, stage_.dir, b.bulk / TEXTURES,
                               stage_.dir, i)) != 0)
            give_up("cannot make the textures");
    if (RUN("truncate", "-s", "50G", at("%s/data/video", stage_.dir)) != 0 ||
        RUN("truncate", "-s", "1T", at("%s/data/terabyte", stage_.dir)) != 0)
        give_up("the scratch folder's file system takes no sparse file of 1 TiB");
    for (int i = 0; i < b.files; ++i)
        close(open(at("%s/data/many/n%d", stage_.dir, i), O_WRONLY | O_CREAT, 0644));
    for (int i = 0; i < FIRST; ++i) {
        const int f = open(at("%s/data/first/f%d", stage_.dir, i), O_WRONLY | O_CREAT, 0644);
        if (write(f, buf, 64 << 10) != 64 << 10) give_up("cannot make files: %s", strerror(errno));
        close(f);
    }
    make_small(buf);
    if (bench_wanted(besides[LOADED].name)) make_names();
    if (wanted(GIT_AGAIN)) make_work_tree();
    free(buf);
}

static int runs_of(contender c) { return c <= FSB ? b.runs : b.peer_runs; }

/* Encrypted is what goes over TLS, or through ssh, which is so in any case. */
static int takes_part(workload w, contender c)
{
    return w < TLS_READ || c == FSB || c == SSHFS || c == TUNED;
}

/* What is read cold is in the host's memory, whoever comes first: a kernel with DAMON takes back
   within seconds what nobody reads. */
static void warm_host(workload w)
{
    const char *what = NULL;
    if (w == READ_1G || w == RANDOM_1 || w == RANDOM_8 || w == TLS_READ) what = "big";
    if (w == FIRST_BYTE) what = "first/*";
    if (w == STREAMS) what = "texture*";
    if (w >= SMALL_FIND && w <= SMALL_8) what = "small/*/*";
    if (what && RUN("sh", "-c", at("cat %s/%s >/dev/null", b.data, what)) != 0)
        give_up("cannot read %s/%s", b.data, what);
}

static void run_one(workload w, contender c, int turn)
{
    const char *root = root_of(c);
    const int   ios = c == RCLONE ? b.ios / 20 : b.ios; /* else it is at it for minutes */
    double      value = 0;
    if (c == FSB && w == READ_1G) {
        usleep(100000);
        b.rss_rest[turn] = memory_of(stage_.mounter, "VmRSS:");
        const double host = memory_of(b.host, "VmRSS:");
        if (host > b.rss_rest[turn]) b.rss_rest[turn] = host;
    }
    const double before = cpu_of_daemons(c);
    switch (w) {
    case READ_1G: case TLS_READ: value = read_bulk(root); break;
    case WRITE_1G: case TLS_WRITE: value = write_bulk(root); break;
    case RANDOM_1: value = random_bulk(root, 1, ios); break;
    case RANDOM_8: value = random_bulk(root, 8, ios); break;
    case FIRST_BYTE: first_bytes(c); break;
    case STATS: value = cold_stats(root); break;
    case CREATES: value = creates(root); break;
    case SCRUB: value = scrub(root); break;
    case STREAMS: value = streams(root); break;
    case TERABYTE: probe_terabyte(c); break;
    case SMALL_FIND: value = find_small(root); break;
    case SMALL_1: value = small_pass(root, 1); break;
    case SMALL_8: value = small_pass(root, 8); break;
    case SMALL_AGAIN: case READ_AGAIN: value = again(w, c, turn); break;
    case GIT_AGAIN: value = b.git ? again(w, c, turn) : 0; break;
    default: break;
    }
    b.result[w][c][turn] = value;
    if (w <= WRITE_1G)
        b.cpu[w][c][turn] = (cpu_of_daemons(c) - before) * (double)(1 << 30) / (double)b.bulk;
    if (c == FSB && w == READ_1G) {
        b.rss_peak[turn] = memory_of(stage_.mounter, "VmHWM:");
        const double host = memory_of(b.host, "VmHWM:");
        if (host > b.rss_peak[turn]) b.rss_peak[turn] = host;
    }
}

static const char *note_on(workload w, contender c)
{
    if (c == RCLONE && (w == WRITE_1G || w == CREATES))
        return "rclone says so before the host has it";
    if (w == STATS || w == CREATES) return at("%d files in a folder", b.files);
    if (w >= SMALL_FIND && w <= SMALL_AGAIN)
        return at("%d files of 10 KiB in %d folders%s", b.folders * IN_FOLDER, b.folders,
                  w == SMALL_AGAIN ? "" : ", cold");
    return w == GIT_AGAIN ? at("%d files", b.git) : "";
}

static void report(void)
{
    for (int w = 0; w < WORKLOADS; ++w)
        for (contender c = 0; c < CONTENDERS; ++c) {
            const timed t = w == FIRST_BYTE ? TIMED_FIRST : w == TERABYTE ? TIMED_PROBE : TIMED;
            if (c == FSB || !b.present[c] || !takes_part((workload)w, c) ||
                (w == GIT_AGAIN && (!b.git || !bench_median(b.result[w][c], runs_of(c)))))
                continue;
            if (t < TIMED)
                bench_latencies(rows[w].name, b.each[t][FSB], b.times[t][FSB], rows[w].unit,
                                names[c], b.each[t][c], b.times[t][c], "");
            else
                bench_row(rows[w].name, b.result[w][FSB], b.runs, rows[w].unit, names[c],
                          b.result[w][c], runs_of(c), rows[w].better, note_on((workload)w, c));
        }
    bench_row(besides[FROM_DISK].name, b.l2, b.runs, "ms", "cold, the same",
              b.result[SMALL_1][FSB], b.runs, BENCH_LESS, "after a remount");
    bench_row(besides[REQUESTS].name, b.calls, b.runs, "", "", NULL, 0, BENCH_LESS,
              "to the host: small files, sequential, git");
    bench_row(besides[LOCKED].name, b.read_only, b.runs, "ms", names[DIRECT],
              b.result[SMALL_AGAIN][DIRECT], b.runs, BENCH_LESS, "the kernel opens them alone");
    for (int w = 0; w < 2; ++w)
        for (contender c = SSHFS; c < CONTENDERS; ++c)
            if (b.present[c])
                bench_row(besides[w ? CPU_WRITE : CPU_READ].name,
                          b.cpu[w][FSB], b.runs, "s/GiB", names[c], b.cpu[w][c], runs_of(c),
                          BENCH_LESS, "client and host together");
    bench_row(besides[REST].name, b.rss_rest, b.runs, "MB", "", NULL, 0,
              BENCH_LESS, "VmRSS");
    bench_row(besides[MOST].name, b.rss_peak, b.runs, "MB", "", NULL, 0,
              BENCH_LESS, "VmHWM, after the read");
    bench_row(besides[LOADED].name, b.loaded, b.runs, "MB", "", NULL, 0, BENCH_LESS,
              "VmHWM: small and large files read, all names walked");
    bench_row(besides[IDLE].name, &b.idle_cpu, 1, "s", "", NULL, 0, BENCH_LESS,
              "both daemons, 2 s of rest");
}

static void measure_rest(contender c)
{
    sleep(1);
    const double before = cpu_of_daemons(c);
    sleep(2);
    b.idle_cpu = cpu_of_daemons(c) - before;
}

static void prepare_peers(void)
{
    const int over_ssh = prepare_sshd(), all = !bench_.quick || getenv("BENCH_PEERS");
    b.present[SSHFS] = over_ssh && installed("sshfs");
    b.present[TUNED] = b.present[SSHFS] && all;
    b.present[RCLONE] = over_ssh && all && installed("rclone");
    b.present[GLUSTER] = all && prepare_gluster();
    b.present[PASSTHROUGH] = prepare_passthrough();
    for (contender c = 0; c < CONTENDERS; ++c)
        if (!b.present[c])
            fprintf(stderr, "bench_mount: %s is %s: left out\n", names[c],
                    !all && c >= TUNED && c <= GLUSTER ? "slow" : "not installed");
}

/* Every workload that is wanted by every contender, mounted anew for each; --quick mounts once for
   all of a contender's, but for what wants to be cold. */
static void run_turn(int turn)
{
    for (int i = 0; i < WORKLOADS * CONTENDERS; ++i) {
        const contender c = (contender)(bench_.quick ? i / WORKLOADS : i % CONTENDERS);
        const workload  w = (workload)(bench_.quick ? i % WORKLOADS : i / CONTENDERS);
        if (!b.present[c] || turn >= runs_of(c) || !takes_part(w, c) || !wanted(w)) continue;
        if (isatty(2))
            fprintf(stderr, "\rrun %d of %d: %d of %d, %s   ", turn + 1, b.runs, w + 1, WORKLOADS,
                    names[c]);
        const int secure = w >= TLS_READ, cold = w >= SMALL_FIND && w <= SMALL_8;
        if (b.mounted && (!bench_.quick || cold || c != b.by || secure != b.secure))
            unmount_contender(b.by);
        b.secure = secure, b.by = c;
        if (!b.mounted) mount_contender(c);
        warm_host(w);
        run_one(w, c, turn);
        if (c == FSB && w == 0 && turn == b.runs - 1) measure_rest(c);
    }
    if (b.mounted) unmount_contender(b.by);
    b.secure = 0;
    if (bench_wanted(besides[FROM_DISK].name)) b.l2[turn] = small_from_disk();
    if (bench_wanted(besides[LOCKED].name)) b.read_only[turn] = small_read_only();
    if (bench_wanted(besides[LOADED].name)) b.loaded[turn] = memory_under_load();
}

int main(int argc, char **argv)
{
    bench_begin("mount", argc, argv);
    stage_begin(end_all);
    if (access(at("%s/fsb-mount", stage_.bin), X_OK) != 0)
        give_up("%s/fsb-mount is not built", stage_.bin);
    if (access("/dev/fuse", W_OK) != 0) give_up("/dev/fuse is not to be had: %s", strerror(errno));
    b.bulk = (size_t)(bench_.quick ? 64 : 1024) << 20, b.ios = bench_.quick ? 2000 : 10000;
    b.runs = bench_.quick ? 3 : MOST_RUNS, b.folders = bench_.quick ? 10 : 100;
    b.files = bench_.quick ? 500 : 2000;
    b.peer_runs = bench_.quick && !getenv("BENCH_PEERS") ? 1 : b.runs;
    snprintf(b.data, sizeof b.data, "%s/data", stage_.dir);
    make_data();
    b.present[DIRECT] = b.present[FSB] = 1;
    prepare_peers();
    for (int turn = 0; turn < b.runs; ++turn) run_turn(turn);
    if (isatty(2)) fprintf(stderr, "\r%60s\r", "");
    report();
    stage_end();
    return 0;
}
