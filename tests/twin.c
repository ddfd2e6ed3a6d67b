/* twin.c - does the same calls, chosen at random, in two folders, and compares all that they answer.

       twin FOLDER FOLDER SEED COUNT

   One is local, the other a mount of a folder of the same file system: whatever differs, a result,
   an errno, a size, a byte, is a fault of the mount. Run as root it also acts as another user.
   Prints the calls that led to the first difference, and exits with 1. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { OPEN_FILES = 6, MOST = 200 << 10, HISTORY = 40 };

static struct {
    const char *root[2];
    int         fds[OPEN_FILES][2]; /* -1: none */
    int         flags[OPEN_FILES];
    char        history[HISTORY][320];
    unsigned    count;
    int         root_user;
} t;

static unsigned char data[MOST], got[2][MOST];

static unsigned pick(unsigned n)
{
    return (unsigned)random() % n;
}

static const char *name(char *to)
{
    static const char *const names[] = {"a",     "b", "c",   "d/a", "d/b",
                                        "d/e/a", "d", "d/e", "a/b", "nothing/a"};
    return strcpy(to, names[pick(sizeof names / sizeof *names)]);
}

/* A path in one of the two folders; good until four more were made. */
static const char *in(int side, const char *path)
{
    static char     paths[4][PATH_MAX];
    static unsigned next;
    char           *to = paths[next = (next + 1) % 4];
    snprintf(to, PATH_MAX, "%s/%s", t.root[side], path);
    return to;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    va_list args;
    __builtin_va_start(args, format);
    vsnprintf(t.history[t.count++ % HISTORY], sizeof t.history[0], format, args);
    __builtin_va_end(args);
}

__attribute__((noreturn)) static void differ(const char *what, long long a, long long b)
{
    const unsigned first = t.count > HISTORY ? t.count - HISTORY : 0;
    for (unsigned i = first; i < t.count; ++i) printf("%6u %s\n", i, t.history[i % HISTORY]);
    printf("differs: %s: %lld in the first, %lld in the second\n", what, a, b);
    exit(1);
}

/* Both results of a call, each minus its errno if it failed. */
static void same(const char *what, const long long r[2])
{
    if (r[0] != r[1]) differ(what, r[0], r[1]);
}
#define BOTH(what, call)                            \
    do {                                            \
        long long r_[2];                            \
        for (int s = 0; s < 2; ++s) {               \
            const long long n_ = (long long)(call); \
            r_[s] = n_ < 0 ? -errno : n_;           \
        }                                           \
        result = r_[0];                             \
        (void)result;                               \
        same(what, r_);                             \
    } while (0)

static void compare_stat(const struct stat *a, const struct stat *b)
{
    /* Writing drops set-group-id also of a file that its group may not execute, if the writer is
       not of that group: FUSE does not say so much. */
    const mode_t said =
        S_ISREG(a->st_mode) && !(a->st_mode & S_IXGRP) ? (mode_t)~S_ISGID : (mode_t)~0u;
    if ((a->st_mode & said) != (b->st_mode & said)) differ("mode", a->st_mode, b->st_mode);
    if (a->st_nlink != b->st_nlink) differ("nlink", (long long)a->st_nlink, (long long)b->st_nlink);
    if (a->st_uid != b->st_uid) differ("uid", a->st_uid, b->st_uid);
    if (a->st_gid != b->st_gid) differ("gid", a->st_gid, b->st_gid);
    if (a->st_rdev != b->st_rdev) differ("rdev", (long long)a->st_rdev, (long long)b->st_rdev);
    if (!S_ISDIR(a->st_mode) && a->st_size != b->st_size) differ("size", a->st_size, b->st_size);
    if (a->st_mtim.tv_sec < 1000000 && a->st_mtim.tv_nsec != b->st_mtim.tv_nsec)
        differ("mtime, ns", a->st_mtim.tv_nsec,
               b->st_mtim.tv_nsec); /* set by us, not by the clock */
}

static void do_stat(const char *path)
{
    struct stat st[2];
    long long   result;
    say("lstat %s", path);
    BOTH("lstat", lstat(in(s, path), &st[s]));
    if (!result) compare_stat(&st[0], &st[1]);
}

static void do_list(const char *path)
{
    char names[2][4096] = {{0}};
    say("list %s", path);
    for (int s = 0; s < 2; ++s) {
        struct dirent **list = NULL;
        const int       n = scandir(in(s, path), &list, NULL, alphasort);
        if (n < 0) snprintf(names[s], sizeof names[s], "errno %d", errno);
        for (int i = 0; i < n; ++i) {
            const size_t used = strlen(names[s]);
            snprintf(names[s] + used, sizeof names[s] - used, "%s:%d ", list[i]->d_name,
                     list[i]->d_type);
            free(list[i]);
        }
        if (n >= 0) free(list);
    }
    if (strcmp(names[0], names[1]) == 0) return;
    printf("first:  %s\nsecond: %s\n", names[0], names[1]);
    differ("listing", 0, 1);
}

static void do_open(const char *path)
{
    static const int flags[] = {O_RDONLY,
                                O_WRONLY,
                                O_RDWR,
                                O_RDWR | O_CREAT,
                                O_WRONLY | O_CREAT | O_EXCL,
                                O_RDWR | O_CREAT | O_TRUNC,
                                O_WRONLY | O_APPEND,
                                O_RDWR | O_CREAT | O_APPEND,
                                O_RDONLY | O_DIRECTORY,
                                O_RDWR | O_NOFOLLOW,
                                O_WRONLY | O_TRUNC,
                                O_RDWR | O_SYNC};
    const unsigned   i = pick(OPEN_FILES);
    const int        f = flags[pick(sizeof flags / sizeof *flags)] | O_NONBLOCK | O_CLOEXEC;
    const mode_t     mode = pick(4) ? 0644 : (mode_t)pick(07777);
    long long        r[2];
    say("open %s flags 0%o mode 0%o as %u", path, (unsigned)f, (unsigned)mode, i);
    for (int s = 0; s < 2; ++s) {
        if (t.fds[i][s] >= 0) close(t.fds[i][s]);
        t.fds[i][s] = open(in(s, path), f, mode);
        r[s] = t.fds[i][s] < 0 ? -errno : 0;
    }
    t.flags[i] = f;
    same("open", r);
}

static void do_descriptor(void)
{
    const unsigned i = pick(OPEN_FILES), what = pick(12);
    const int     *fd = t.fds[i];
    const off_t    at = pick(MOST / 2), wide = pick(3) ? pick(5000) : pick(MOST / 2);
    struct stat    st[2];
    long long      result;
    if (fd[0] < 0) return;
    switch (what) {
    case 0:
    case 1:
    case 2:
        for (size_t k = 0; k < (size_t)wide; ++k) data[k] = (unsigned char)random();
        say("pwrite %u %lld+%lld", i, (long long)at, (long long)wide);
        BOTH("pwrite", pwrite(fd[s], data, (size_t)wide, at));
        break;
    case 3:
    case 4:
    case 5:
        say("pread %u %lld+%lld", i, (long long)at, (long long)wide);
        BOTH("pread", pread(fd[s], got[s], (size_t)wide, at));
        if (result > 0 && memcmp(got[0], got[1], (size_t)result) != 0) differ("bytes read", 0, 1);
        break;
    case 6:
        say("ftruncate %u %lld", i, (long long)at);
        BOTH("ftruncate", ftruncate(fd[s], at));
        break;
    case 7:
        say("fstat %u", i);
        BOTH("fstat", fstat(fd[s], &st[s]));
        if (!result) compare_stat(&st[0], &st[1]);
        break;
    case 8:
        say("fsync %u", i);
        BOTH("fsync", fsync(fd[s]));
        break;
    case 9: {
        const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
        const int mode = modes[pick(3)];
        say("fallocate %u mode %d %lld+%lld", i, mode, (long long)at, (long long)wide);
        BOTH("fallocate", fallocate(fd[s], mode, at, wide));
        break;
    }
    case 10: { /* a store through a mapping, read back by the descriptor */
        if (fstat(fd[0], &st[0]) != 0 || !S_ISREG(st[0].st_mode) || st[0].st_size < 1) return;
        if ((t.flags[i] & O_ACCMODE) != O_RDWR) return;
        const size_t size = (size_t)st[0].st_size, where = pick((unsigned)size);
        say("mmap %u, store at %zu", i, where);
        for (int s = 0; s < 2; ++s) {
            unsigned char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd[s], 0);
            if (map == MAP_FAILED) differ("mmap", s, errno);
            map[where] ^= 0x5a;
            if (msync(map, size, MS_SYNC) != 0) differ("msync", s, errno);
            munmap(map, size);
        }
        break;
    }
    default:
        say("write %u +%lld, to the end or where it is", i, (long long)wide);
        BOTH("write", write(fd[s], data, (size_t)wide));
        break;
    }
}

static void do_names(const char *a, const char *b)
{
    const int how = (int)pick(8);
    long long result;
    switch (pick(14)) {
    case 0:
        say("mkdir %s", a);
        BOTH("mkdir", mkdir(in(s, a), 0755));
        break;
    case 1:
        say("rmdir %s", a);
        BOTH("rmdir", rmdir(in(s, a)));
        break;
    case 2:
    case 3:
        say("unlink %s", a);
        BOTH("unlink", unlink(in(s, a)));
        break;
    case 4:
    case 5:
        say("rename %s %s", a, b);
        BOTH("rename", rename(in(s, a), in(s, b)));
        break;
    case 6: {
        const unsigned flags = 1 + pick(2);
        say("renameat2 %s %s flags %u", a, b, flags);
        BOTH("renameat2", syscall(SYS_renameat2, AT_FDCWD, in(s, a), AT_FDCWD, in(s, b), flags));
        break;
    }
    case 7:
        say("link %s %s", a, b);
        BOTH("link", link(in(s, a), in(s, b)));
        break;
    case 8:
        say("symlink %s %s", b, a);
        BOTH("symlink", symlink(b, in(s, a)));
        break;
    case 9: {
        char text[2][64] = {{0}};
        say("readlink %s", a);
        BOTH("readlink", readlink(in(s, a), text[s], sizeof text[s] - 1));
        if (strcmp(text[0], text[1]) != 0) differ("text of the link", 0, 1);
        break;
    }
    case 10:
        say("mkfifo %s", a);
        BOTH("mkfifo", mkfifo(in(s, a), 0640));
        break;
    case 11: {
        const off_t size = pick(MOST / 2);
        say("truncate %s %lld", a, (long long)size);
        BOTH("truncate", truncate(in(s, a), size));
        break;
    }
    case 12:
        say("access %s mode %d", a, how);
        BOTH("access", access(in(s, a), how));
        break;
    default: do_list(a); break;
    }
}

static void do_attributes(const char *a)
{
    long long    result;
    const char   value[] = "some value";
    char         list[2][512] = {{0}};
    const size_t size = pick(sizeof value), room = pick(2) * sizeof list[0];
    switch (pick(6)) {
    case 0: {
        const mode_t mode = (mode_t)pick(010000);
        say("chmod %s 0%o", a, (unsigned)mode);
        BOTH("chmod", chmod(in(s, a), mode));
        break;
    }
    case 1: {
        const uid_t uid = pick(2) ? 65534 : 0;
        const gid_t gid = pick(2) ? 65534 : (gid_t)-1;
        say("lchown %s %u %u", a, uid, gid);
        BOTH("lchown", lchown(in(s, a), uid, gid));
        break;
    }
    case 2: {
        const struct timespec times[2] = {{pick(1000000), (long)pick(1000000000)},
                                          {pick(1000000), (long)pick(1000000000)}};
        say("utimensat %s", a);
        BOTH("utimensat", utimensat(AT_FDCWD, in(s, a), times, AT_SYMLINK_NOFOLLOW));
        break;
    }
    case 3: {
        const int flags = (int)pick(3);
        say("lsetxattr %s flags %d", a, flags);
        BOTH("lsetxattr", lsetxattr(in(s, a), "user.twin", value, size, flags));
        break;
    }
    case 4:
        say("lgetxattr, llistxattr %s", a);
        BOTH("lgetxattr", lgetxattr(in(s, a), "user.twin", list[s], room));
        BOTH("llistxattr", llistxattr(in(s, a), list[s], sizeof list[s]));
        if (result > 0 && memcmp(list[0], list[1], (size_t)result) != 0)
            differ("attributes' names", 0, 1);
        break;
    default:
        say("lremovexattr %s", a);
        BOTH("lremovexattr", lremovexattr(in(s, a), "user.twin"));
        break;
    }
}

static void step(void)
{
    char           a[64], b[64];
    const unsigned what = pick(100);
    const int      other = t.root_user && pick(6) == 0; /* as somebody who may little */
    name(a), name(b);
    if (other) {
        say("as another user:");
        if (setegid(65534) != 0 || seteuid(65534) != 0) exit(2);
    }
    if (what < 15) do_open(a);
    else if (what < 55) do_descriptor();
    else if (what < 80) do_names(a, b);
    else if (what < 90) do_attributes(a);
    else do_stat(a);
    if (other && (seteuid(0) != 0 || setegid(0) != 0)) exit(2);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: twin FOLDER FOLDER SEED COUNT\n");
        return 2;
    }
    t.root[0] = argv[1], t.root[1] = argv[2];
    srandom((unsigned)atoi(argv[3]));
    umask(022);
    (void)signal(SIGPIPE, SIG_IGN); /* FIFOs are written, too */
    t.root_user = geteuid() == 0;
    memset(t.fds, -1, sizeof t.fds);
    for (int i = atoi(argv[4]); i > 0; --i) step();
    printf("%u calls, no difference\n", t.count);
    return 0;
}
