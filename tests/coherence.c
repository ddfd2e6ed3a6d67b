/* coherence.c - does what one changes show to the others, at once? It changes a folder that is
   served and mounted twice, by every kind of change, past the mounts and through one of them, and
   looks at it through the mounts, which have seen the old state.
   Usage: coherence SERVED MOUNT1 MOUNT2 ROUNDS [SEED [SLACK_MS [READERS]]]
   SLACK_MS more is in time, on slow lines; READERS look at each mount all the while, so that
   answers are on their way when something changes. While a thread that passes a change on waits for
   a processor that runs others, nothing gets late: that time is told by the kernel. Who looks waits
   too, but what counts is when a look began. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 8, TEXT = 64 };
enum { WRITE_SAME, WRITE_LONGER, TRUNCATE, CREATE, REMOVE, RENAME, REPLACE, CHMOD, LINK, KINDS };
static const char *const kinds[KINDS] = {"write of the same size with the old time", "longer write",
    "truncate", "create", "remove", "rename", "replace by rename", "chmod", "link"};

static const char *roots[3];
static int64_t     worst[2]; /* ns until it showed: past the mounts, through one */
static int         late[2], failed;
static int64_t     slack; /* ns */
static unsigned    state = 1;

static unsigned below(unsigned n)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % n;
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Calls fn for the name of each number in the folder. */
static void each_number(const char *folder, void (*fn)(const char *folder, const char *name))
{
    DIR           *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL)
        if (e->d_name[0] > '0' && e->d_name[0] <= '9') fn(folder, e->d_name);
    if (d) closedir(d);
}

/* The first bytes of a file in a folder of it; zero bytes become spaces. */
static const char *bytes_of(const char *folder, const char *name, const char *file)
{
    static char text[1000];
    char        path[400];
    snprintf(path, sizeof path, "%s/%s/%s", folder, name, file);
    const int     fd = open(path, O_RDONLY);
    const ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (ssize_t i = 0; i < n; ++i)
        if (!text[i]) text[i] = ' ';
    return text;
}

/* The threads of the host (0) and of the two mounts, as far as they pass on what others change. */
typedef struct passer {
    int       root, ran;
    long long slices;
    char      stat[60];
} passer;
static passer passers[256];
static int    passer_count;
static char   scratch[300]; /* what the arguments of all have in common */

/* How long a thread has waited for a processor so far, ns, and how often it got one. */
static int64_t thread_waited(const char *stat, long long *slices)
{
    long long   waited = 0;
    char        text[100] = "";
    const int   fd = open(stat, O_RDONLY);
    const ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    *slices = 0;
    return n > 0 && sscanf(text, "%*d %lld %lld", &waited, slices) == 2 ? waited : 0;
}

static int note_root;
static void note_thread(const char *folder, const char *name)
{
    passer *p = &passers[passer_count];
    if (passer_count == 256) return;
    p->root = note_root, ++passer_count;
    snprintf(p->stat, sizeof p->stat, "%.30s/%.10s/schedstat", folder, name);
}

static void note_process(const char *folder, const char *name)
{
    char        tasks[60];
    const char *words = bytes_of(folder, name, "cmdline");
    note_root = -1;
    if (!strstr(words, scratch)) return;
    if (strstr(words, "fsb-host ")) note_root = 0;
    for (int i = 1; i < 3; ++i)
        if (strstr(words, "fsb-mount ") && strstr(words, roots[i])) note_root = i;
    if (note_root < 0) return;
    snprintf(tasks, sizeof tasks, "%.20s/%.10s/task", folder, name);
    each_number(tasks, note_thread);
}

/* How long those have waited for a processor that pass a change on to that mount. What another
   mount changes is said to it before the call that does it returns: the host is out of it then. */
static int64_t waited(int root, int through)
{
    int64_t   sum = 0;
    long long slices;
    for (int i = 0; i < passer_count; ++i)
        if (passers[i].root == root || (!passers[i].root && !through))
            sum += thread_waited(passers[i].stat, &slices);
    return sum;
}

static char *path_of(int root, const char *name)
{
    static char room[8][500];
    static int  next;
    char       *p = room[next++ % 8];
    snprintf(p, sizeof room[0], "%s/work/%s", roots[root], name);
    return p;
}

/* What a file looks like: "-" or mode, links, size and its bytes. */
static void look(int root, const char *name, char *out, size_t size)
{
    struct stat st;
    char        bytes[TEXT * 4 + 1] = "";
    if (lstat(path_of(root, name), &st) != 0) {
        snprintf(out, size, "- %d", errno);
        return;
    }
    const int     fd = open(path_of(root, name), O_RDONLY);
    const ssize_t n = fd < 0 ? -1 : read(fd, bytes, sizeof bytes - 1);
    if (fd >= 0) close(fd);
    snprintf(out, size, "%o %d %lld %zd:%s", (unsigned)st.st_mode, (int)st.st_nlink,
             (long long)st.st_size, n, n > 0 ? bytes : "");
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

static void list(int root, char *out, size_t size)
{
    char           names[100][20];
    int            count = 0;
    DIR           *d = opendir(path_of(root, "."));
    struct dirent *e;
    out[0] = '\0';
    while (d && (e = readdir(d)) != NULL && count < 100)
        if (e->d_name[0] != '.') snprintf(names[count++], sizeof names[0], "%.19s", e->d_name);
    if (d) closedir(d);
    qsort(names, (size_t)count, sizeof names[0], by_name);
    for (int i = 0; i < count; ++i) {
        const size_t n = strlen(out);
        snprintf(out + n, size - n, "%s ", names[i]);
    }
}

/* The whole state, as one text. */
static void state_of(int root, char *out, size_t size)
{
    list(root, out, size);
    for (int i = 0; i < FILES; ++i) {
        char         name[20];
        const size_t n = strlen(out);
        snprintf(name, sizeof name, "f%d", i);
        snprintf(out + n, size - n, "\n%s ", name);
        look(root, name, out + strlen(out), size - strlen(out));
    }
}

static void put(int root, const char *name, int flags, int size, int round)
{
    char      text[TEXT * 4];
    const int fd = open(path_of(root, name), O_WRONLY | flags, 0644);
    if (fd < 0) return;
    memset(text, 'a' + round % 26, sizeof text);
    snprintf(text, sizeof text, "round %d", round);
    text[strlen(text)] = ' ';
    if (write(fd, text, (size_t)size) != size) ++failed;
    if (close(fd)) ++failed;
}

static void change(int root, int kind, int round)
{
    struct stat st;
    char        a[20], b[20];
    snprintf(a, sizeof a, "f%u", below(FILES)), snprintf(b, sizeof b, "f%u", below(FILES));
    switch (kind) {
    case WRITE_SAME:
        if (stat(path_of(root, a), &st) == 0 && st.st_size <= TEXT * 4) {
            struct timespec times[2] = {st.st_atim, st.st_mtim};
            put(root, a, 0, (int)st.st_size, round);
            utimensat(AT_FDCWD, path_of(root, a), times, 0);
        }
        break;
    case WRITE_LONGER: put(root, a, 0, TEXT + round % TEXT, round); break;
    case TRUNCATE: (void)!truncate(path_of(root, a), round % TEXT); break;
    case CREATE: put(root, a, O_CREAT | O_EXCL, TEXT, round); break;
    case REMOVE: unlink(path_of(root, a)); break;
    case RENAME: rename(path_of(root, a), path_of(root, b)); break;
    case REPLACE:
        put(root, "new", O_CREAT, TEXT, round);
        rename(path_of(root, "new"), path_of(root, a));
        break;
    case CHMOD: chmod(path_of(root, a), round % 2 ? 0600 : 0644); break;
    default: (void)!link(path_of(root, a), path_of(root, b));
    }
}

/* Waits until that mount shows what is. What counts is when the last look began that was wrong. */
static void expect(int root, const char *want, int64_t start, int64_t before, int by, int kind)
{
    static char have[8000];
    const int   through = by != 0;
    int64_t     begun, wrong = 0;
    for (;; wrong = begun) {
        begun = now() - start;
        state_of(root, have, sizeof have);
        if (strcmp(have, want) == 0 || begun > 10000000000) break;
    }
    if (strcmp(have, want) != 0) {
        ++failed;
        fprintf(stderr, "%s, %s: mount %d still shows\n%s\ninstead of\n%s\n", kinds[kind],
                through ? "through the other mount" : "on the host", root, have, want);
    }
    if (wrong > 1000000) wrong -= waited(root, through) - before; /* else it is in time anyway */
    if (wrong > worst[through]) worst[through] = wrong;
    if (wrong > (through ? 5000000 : 100000000) + slack) ++late[through];
}

/* Do both mounts show the file as it is? */
static int shown(const char *name)
{
    static char is[1000], seems[1000];
    int         same = 0;
    look(0, name, is, sizeof is);
    for (int i = 1; i < 3; ++i) {
        look(i, name, seems, sizeof seems);
        same += strcmp(is, seems) == 0;
    }
    return same == 2;
}

/* Who passes changes on? Those that run between a change and the first look that shows it, as
   nobody looks meanwhile. */
static void find_passers(void)
{
    const struct timespec pause = {0, 50000000};
    int                   kept = 0;
    each_number("/proc", note_process);
    (void)shown("passed");
    for (int round = 0, good = 0; good < 3 && round < 100; ++round) {
        long long slices[256];
        for (int i = 0; i < passer_count; ++i)
            (void)thread_waited(passers[i].stat, &passers[i].slices);
        put(0, "passed", O_CREAT, TEXT, round);
        nanosleep(&pause, NULL);
        for (int i = 0; i < passer_count; ++i) (void)thread_waited(passers[i].stat, &slices[i]);
        if (!shown("passed")) continue;
        ++good;
        for (int i = 0; i < passer_count; ++i) passers[i].ran += slices[i] != passers[i].slices;
    }
    for (int i = 0; i < passer_count; ++i)
        if (passers[i].ran == 3) passers[kept++] = passers[i];
    passer_count = kept;
    unlink(path_of(0, "passed"));
}

/* Looks, and sees what it sees, until the one who started it ends. */
static void start_reader(int root)
{
    static char seen[8000];
    const pid_t parent = getpid();
    if (fork() != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (getppid() == parent) state_of(root, seen, sizeof seen);
    _exit(0);
}

int main(int argc, char **argv)
{
    static char want[8000], old[8000], work[500];
    int         changed = 0;
    if (argc < 5) return 2;
    for (int i = 0; i < 3; ++i) roots[i] = argv[1 + i];
    const int rounds = atoi(argv[4]);
    state = argc > 5 ? (unsigned)atoi(argv[5]) : 1;
    slack = argc > 6 ? atoi(argv[6]) * INT64_C(1000000) : 0;
    (void)snprintf(work, sizeof work, "%s/work", roots[0]);
    if (mkdir(work, 0755) != 0) return perror(work), 2;
    snprintf(scratch, sizeof scratch, "%.*s/", (int)(strrchr(roots[0], '/') - roots[0]), roots[0]);
    find_passers();
    for (int i = argc > 7 ? 2 * atoi(argv[7]) : 0; i > 0; --i) start_reader(1 + i % 2);
    for (int round = 0; round < rounds && failed < 5; ++round) {
        const int kind = round < KINDS * 3 ? round % KINDS : (int)below(KINDS);
        const int by = (int)below(3);
        for (int i = 1; i < 3; ++i) state_of(i, old, sizeof old); /* to be out of date then */
        change(by, kind, round);
        const int64_t start = now(), before[3] = {0, waited(1, by), waited(2, by)};
        state_of(0, want, sizeof want);
        changed += strcmp(old, want) != 0;
        for (int i = 1; i < 3; ++i)
            if (i != by || !by) expect(i, want, start, before[i], by, kind);
    }
    printf("%d rounds, %d changes, %d wrong; slowest %.1f ms past the mounts (%d late), "
           "%.1f ms through one (%d late)\n", rounds, changed, failed, (double)worst[0] / 1e6,
           late[0], (double)worst[1] / 1e6, late[1]);
    return failed || late[0] || late[1] || changed < rounds / 4;
}
