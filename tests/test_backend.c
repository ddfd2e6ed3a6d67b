/* test_backend.c - the local, memory and scoped backends, and what runs them. */
#define FSB_BACKEND_IMPLEMENTATION
#include <stdio.h>
#include <sys/stat.h>

/* What others do between two calls of this thread: once, what was just made is moved aside, and
   something else gets its name. */
static _Thread_local struct {
    const char *victim, *aside; /* in the same folder */
} swap;

static int swapped(int err, int dir, const char *name)
{
    const char *victim = err ? NULL : swap.victim;
    swap.victim = NULL;
    if (!victim) return err;
    return renameat(dir, name, dir, swap.aside) || renameat(dir, victim, dir, name) ? -1 : 0;
}

static int swapping_mkdirat(int dir, const char *name, mode_t mode)
{
    return swapped(mkdirat(dir, name, mode), dir, name);
}

static int swapping_mknodat(int dir, const char *name, mode_t mode, dev_t dev)
{
    return swapped(mknodat(dir, name, mode, dev), dir, name);
}

#define mkdirat swapping_mkdirat
#define mknodat swapping_mknodat
#include "../fsb_backend.h"
#undef mkdirat
#undef mknodat
#include "conformance.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/xattr.h>

static const char *fresh_dir(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    if (mkdir(path, 0755)) perror(path);
    return path;
}

static fsb_backend *open_local(const char *name, uint32_t flags)
{
    fsb_local_desc desc = {.root = fresh_dir(name), .flags = flags};
    fsb_backend   *b = NULL;
    CHECK_EQ(fsb_local_open(&b, &desc), 0);
    return b;
}

static fsb_backend *open_memory(void)
{
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, NULL), 0);
    return b;
}

static conformance_traits traits(const char *name, int local)
{
    const int root = geteuid() == 0;
    return (conformance_traits){.name = name, .can_chown = !local || root, .has_xattr = 1,
                                .has_mknod = !local || root, .has_sparse = 1, .has_punch = 1,
                                .has_watch = 1, .has_descriptor = local, .has_deep = 1,
                                .scoped = local && conf_without_openat2()};
}

static void test_normalize(void)
{
    const struct { const char *in, *out; } good[] = {
        {"", "/"}, {"/", "/"}, {"a", "/a"}, {"//a///b/", "/a/b"}, {"/./a/./b/.", "/a/b"},
        {"/a/b/..", "/a"}, {"/a/../b", "/b"}, {"/a/..", "/"}, {"...", "/..."}, {"/..a", "/..a"},
    };
    char out[FSB_PATH_MAX + 1], in[FSB_PATH_MAX + 3];
    for (size_t i = 0; i < sizeof good / sizeof *good; ++i) {
        CHECK_EQ(fsb_path_normalize(good[i].in, out, sizeof out), 0);
        CHECK_STR(out, good[i].out);
    }
    CHECK_EQ(fsb_path_normalize("..", out, sizeof out), -EACCES);
    CHECK_EQ(fsb_path_normalize("/a/../../b", out, sizeof out), -EACCES);
    CHECK_EQ(fsb_path_normalize(NULL, out, sizeof out), -EINVAL);
    CHECK_EQ(fsb_path_normalize("/abc", out, 4), -ENAMETOOLONG);
    CHECK_EQ(fsb_path_normalize("/abc", out, 5), 0);
    CHECK_EQ(fsb_path_normalize("/", out, 1), -ENAMETOOLONG);
    CHECK_EQ(fsb_path_normalize("/", out, 2), 0);
    memset(in, 'x', sizeof in);
    in[256] = '\0';
    CHECK_EQ(fsb_path_normalize(in, out, sizeof out), -ENAMETOOLONG);
    in[255] = '\0';
    CHECK_EQ(fsb_path_normalize(in, out, sizeof out), 0);
    for (size_t i = 0; i < sizeof in; ++i) in[i] = i % 2 ? 'x' : '/';
    in[FSB_PATH_MAX + 2] = '\0';
    CHECK_EQ(fsb_path_normalize(in, out, sizeof out), -ENAMETOOLONG);
    in[FSB_PATH_MAX - 1] = '\0';
    CHECK_EQ(fsb_path_normalize(in, out, sizeof out), 0);
}

static void test_local(void)
{
    fsb_backend       *b = open_local("local", 0);
    conformance_traits t = traits("local", 1);
    REQUIRE(b);
    conformance_run(b, &t);
    b->close(b);
}

/* A default ACL bounds the mode of what is made below, as it does for open(2): acl(5). */
static void test_local_default_acl(void)
{
    static const unsigned char acl[] = {/* u::rwx,g::r-x,m::rwx,o::--- and a named user */
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 9, 0, 0, 0,
        4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255,
        32, 0, 0, 0, 255, 255, 255, 255};
    fsb_backend *b = open_local("acl", 0);
    char         path[400];
    REQUIRE(b);
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0777)), 0);
    snprintf(path, sizeof path, "%s/acl/d", test_dir());
    const int set = setxattr(path, "system.posix_acl_default", acl, sizeof acl, 0);
    for (int owned = 0; owned < 2 && !set; ++owned) {
        fsb_attr attr = {.mask = FSB_ATTR_MODE, .mode = 0666};
        if (owned) attr.mask |= FSB_ATTR_UID | FSB_ATTR_GID;
        attr.uid = geteuid(), attr.gid = getegid();
        const char *file = owned ? "/d/owned" : "/d/plain", *dir = owned ? "/d/o" : "/d/p";
        CHECK_EQ(C(PUT, .path = file, .flags = FSB_O_WRITE | FSB_O_CREATE, .data = "x", .size = 1,
                   .attr = attr), 1);
        CHECK_EQ(conf_stat(b, file).mode & 07777, 0660);
        attr.mode = 0777;
        CHECK_EQ(C(MKDIR, .path = dir, .attr = attr), 0);
        CHECK_EQ(conf_stat(b, dir).mode & 07777, 0770);
    }
    b->close(b);
    if (set) SKIP("no ACLs on this file system");
}

static void test_local_umask(void)
{
    const mode_t       old = umask(077); /* modes are exact whatever it is */
    fsb_backend       *b = open_local("umask", 0);
    conformance_traits t = traits("local with umask 077", 1);
    REQUIRE(b);
    t.many = 10;
    conformance_run(b, &t);
    b->close(b);
    umask(old);
}

static void test_memory_backend(void)
{
    fsb_backend       *b = open_memory();
    conformance_traits t = traits("memory", 0);
    REQUIRE(b);
    conformance_run(b, &t);
    b->close(b);
}

static void scoped_over(fsb_backend *b, const char *name, int local)
{
    conformance_traits t = traits(name, local);
    t.scoped = 1;
    CHECK_EQ(C(MKDIR, .path = "/sub", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/sub/scope", MODE(0755)), 0);
    conf_put(b, "/canary", "outside");
    fsb_scoped_desc desc = {.inner = b, .prefix = "/sub"};
    fsb_backend    *outer = NULL, *inner = NULL, *all = NULL;
    CHECK_EQ(fsb_scoped_open(&outer, &desc), 0);
    desc = (fsb_scoped_desc){.inner = outer, .prefix = "/scope"};
    CHECK_EQ(fsb_scoped_open(&inner, &desc), 0);
    REQUIRE(outer && inner);
    conformance_run(inner, &t);
    desc = (fsb_scoped_desc){.inner = inner, .prefix = "/"};
    CHECK_EQ(fsb_scoped_open(&all, &desc), 0);
    t.many = 10;
    conformance_run(all, &t);
    all->close(all);
    desc.prefix = "/none";
    CHECK_EQ(fsb_scoped_open(&all, &desc), -ENOENT);
    desc.prefix = "/a/../..";
    CHECK_EQ(fsb_scoped_open(&all, &desc), -EINVAL);
    /* A link made by another way does not lead out. */
    CHECK_EQ(C(SYMLINK, .path = "/sub/scope/out", .path2 = "../.."), 0);
    CHECK_EQ(conf_call(inner, (fsb_op){.code = FSB_OP_STAT, .path = "/out/canary"}), -EACCES);
    CHECK_EQ(conf_call(inner, (fsb_op){.code = FSB_OP_LIST, .path = "/out", .emit = conf_emit}),
             -ENOTDIR);
    CHECK_EQ(C(UNLINK, .path = "/sub/scope/out"), 0);
    inner->close(inner);
    outer->close(outer);
    conf_is(b, "/canary", "outside");
    b->close(b);
}

static void test_scoped_local(void) { scoped_over(open_local("scoped", 0), "scoped(local)", 1); }
static void test_scoped_memory(void) { scoped_over(open_memory(), "scoped(memory)", 0); }

static void test_read_only(void)
{
    fsb_backend *rw = open_local("read-only", 0);
    conf_put(rw, "/f", "text");
    fsb_local_desc desc = {.root = "", .flags = FSB_LOCAL_READ_ONLY};
    char           root[300];
    snprintf(root, sizeof root, "%s/read-only", test_dir());
    desc.root = root;
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_local_open(&b, &desc), 0);
    REQUIRE(b);
    conf_is(b, "/f", "text");
    CHECK_EQ(C(UNLINK, .path = "/f"), -EROFS);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_WRITE), -EROFS);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ | FSB_O_CREATE), -EROFS);
    CHECK_EQ(C(PUT, .path = "/g", .flags = FSB_O_WRITE | FSB_O_CREATE), -EROFS);
    CHECK_EQ(C(MKDIR, .path = "/d"), -EROFS);
    CHECK_EQ(C(SETATTR, .path = "/f", MODE(0)), -EROFS);
    CHECK_EQ(C(SETXATTR, .path = "/f", .path2 = "user.a"), -EROFS);
    conf_is(rw, "/f", "text");
    b->close(b);
    rw->close(rw);
}

static void test_open_errors(void)
{
    fsb_backend   *b = NULL;
    fsb_local_desc desc = {0};
    CHECK_EQ(fsb_local_open(&b, &desc), -EINVAL);
    desc.root = "/nonexistent/folder";
    CHECK_EQ(fsb_local_open(&b, &desc), -ENOENT);
    desc.root = "/dev/null";
    CHECK_EQ(fsb_local_open(&b, &desc), -ENOTDIR);
    desc.root = "/", desc.flags = 64;
    CHECK_EQ(fsb_local_open(&b, &desc), -EINVAL);
    CHECK(!b);
}

/* ---- the jail ---- */

static char outside[300];

static int leaked(fsb_backend *b) /* 1 if anything got out */
{
    (void)b;
    struct stat st;
    char        path[400], text[32] = "";
    snprintf(path, sizeof path, "%s/canary", outside);
    const int fd = open(path, O_RDONLY);
    const int ok = fd >= 0 && read(fd, text, sizeof text) == 6 && !strcmp(text, "secret");
    if (fd >= 0) close(fd);
    snprintf(path, sizeof path, "%s/new", outside);
    return !ok || !lstat(path, &st);
}

static int     swap_stop;
static char    swap_root[300];
static uint64_t swaps;

static void *swapper(void *arg) /* "dir" is now a folder, now a link to the outside */
{
    char dir[400], away[400], link_[400];
    (void)arg;
    snprintf(dir, sizeof dir, "%s/dir", swap_root);
    snprintf(away, sizeof away, "%s/away", swap_root);
    snprintf(link_, sizeof link_, "%s/link", swap_root);
    while (!__atomic_load_n(&swap_stop, __ATOMIC_RELAXED)) {
        rename(dir, away);
        rename(link_, dir);
        rename(dir, link_);
        rename(away, dir);
        __atomic_add_fetch(&swaps, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static int swapped_often(void) { return __atomic_load_n(&swaps, __ATOMIC_RELAXED) > 100; }

static void attack(fsb_backend *b)
{
    char      buf[16] = "";
    uint64_t  inside = 0, refused = 0;
    pthread_t thread;
    swap_stop = 0;
    REQUIRE(!pthread_create(&thread, NULL, swapper, NULL));
    for (int i = 0; i < 20000 || (i < 20000000 && !(inside && refused && swapped_often())); ++i) {
        const char *name = i % 2 ? "/dir/canary" : "/dir/new";
        int64_t     n = 0;
        switch (i % 10) {
        case 0:
            n = C(PUT, .path = name, .flags = FSB_O_WRITE | FSB_O_CREATE, .data = "x", .size = 1);
            break;
        case 1: n = C(GET, .path = name, .buf = buf, .size = sizeof buf);
            if (n > 0) CHECK(memcmp(buf, "secret", 6) != 0);
            break;
        case 2: n = C(UNLINK, .path = name); break;
        case 3: n = C(SETATTR, .path = name, MODE(0600)); break;
        case 4: n = C(MKDIR, .path = name, MODE(0700)); break;
        case 5: n = C(PUT, .path = name, .flags = FSB_O_WRITE, .data = "y", .size = 1); break;
        case 6: n = C(RMDIR, .path = name); break;
        case 7: n = C(RENAME, .path = "/dir/canary", .path2 = "/stolen"); break;
        case 8: n = C(LINK, .path = "/dir/canary", .path2 = "/linked"); break;
        default: n = C(SETXATTR, .path = name, .path2 = "user.a", .data = "x", .size = 1); break;
        }
        inside += n >= 0, refused += n == -EACCES;
    }
    __atomic_store_n(&swap_stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    CHECK(!leaked(b));
    CHECK(inside > 0); /* the attack was one: some calls went in, some met the link */
    CHECK(refused > 0);
    CHECK(swapped_often());
    CHECK_EQ(C(STAT, .path = "/stolen"), -ENOENT);
    CHECK_EQ(C(STAT, .path = "/linked"), -ENOENT);
}

static void jail_setup(const char *name)
{
    char path[400];
    snprintf(outside, sizeof outside, "%s", fresh_dir(name));
    snprintf(path, sizeof path, "%s/canary", outside);
    const int fd = open(path, O_WRONLY | O_CREAT, 0644);
    CHECK(fd >= 0 && write(fd, "secret", 6) == 6);
    if (fd >= 0) close(fd);
}

static void test_jail(void)
{
    char path[400];
    jail_setup("outside");
    fsb_backend *b = open_local("jail", 0);
    REQUIRE(b);
    snprintf(swap_root, sizeof swap_root, "%s/jail", test_dir());
    const char *targets[] = {outside, "..", "../outside", "../../../../../..", "/proc/self/root",
                             "/proc/self/cwd", "/"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; ++i) {
        CHECK_EQ(C(SYMLINK, .path = "/l", .path2 = targets[i]), 0);
        CHECK_EQ(C(STAT, .path = "/l/canary"), -EACCES);
        CHECK_EQ(C(GET, .path = "/l/canary", .size = 10), -EACCES);
        CHECK_EQ(C(PUT, .path = "/l/new", .flags = FSB_O_WRITE | FSB_O_CREATE), -EACCES);
        CHECK_EQ(C(OPEN, .path = "/l", .flags = FSB_O_READ | FSB_O_CREATE), -ELOOP);
        CHECK(C(LIST, .path = "/l", .emit = conf_emit) < 0);
        CHECK_EQ(C(UNLINK, .path = "/l"), 0);
    }
    CHECK_EQ(C(STAT, .path = "/../outside/canary"), -EINVAL);
    snprintf(path, sizeof path, "%s/canary", outside); /* a dangling name is not made outside */
    CHECK_EQ(C(SYMLINK, .path = "/dangling", .path2 = "../outside/new"), 0);
    CHECK_EQ(C(PUT, .path = "/dangling", .flags = FSB_O_WRITE | FSB_O_CREATE), -ELOOP);
    CHECK_EQ(C(SETATTR, .path = "/dangling", .attr = {.mask = FSB_ATTR_SIZE}), -EINVAL);
    CHECK_EQ(C(UNLINK, .path = "/dangling"), 0);
    CHECK(!leaked(b));
    CHECK_EQ(C(MKDIR, .path = "/dir", MODE(0755)), 0);
    CHECK_EQ(C(SYMLINK, .path = "/link", .path2 = "../outside"), 0);
    attack(b);
    b->close(b);
}

/* ---- what is no regular file ---- */

/* All the ways to open it: refused, at once. */
static void opens_refused(fsb_backend *b, const char *path, int64_t err)
{
    CHECK_EQ(C(OPEN, .path = path, .flags = FSB_O_READ), err);
    CHECK_EQ(C(OPEN, .path = path, .flags = FSB_O_WRITE | FSB_O_TRUNC), err);
    CHECK_EQ(C(OPEN, .path = path, .flags = FSB_O_READ | FSB_O_WRITE | FSB_O_CREATE), err);
    CHECK_EQ(C(PUT, .path = path, .flags = FSB_O_WRITE | FSB_O_CREATE), err);
    CHECK_EQ(C(GET, .path = path, .size = 10), err);
}

/* Waits in open(2) for a reader, which nobody may become. */
static pid_t fifo_thread; /* of who does, as the kernel knows it */
static void *fifo_writer(void *arg)
{
    __atomic_store_n(&fifo_thread, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
    const int fd = open(arg, O_WRONLY);
    if (fd >= 0) close(fd);
    return NULL;
}

/* Does that thread wait in open()? Where the kernel does not tell: it does if it waits at all. */
static int fifo_waits(void)
{
    char        path[64], text[256] = "", state = 0;
    const pid_t id = __atomic_load_n(&fifo_thread, __ATOMIC_ACQUIRE);
    if (!id) return 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)id);
    FILE *f = fopen(path, "r");
    long  call = -1;
    if (f && fscanf(f, "%ld", &call) == 1) return fclose(f), call == SYS_openat;
    if (f) fclose(f);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)id);
    if (!(f = fopen(path, "r"))) return 1;
    if (fgets(text, sizeof text, f) && strrchr(text, ')'))
        sscanf(strrchr(text, ')'), ") %c", &state);
    return fclose(f), state == 'S';
}

static void test_fifo_untouched(void)
{
    char         path[300];
    pthread_t    thread;
    fsb_backend *b = open_local("fifo", 0);
    REQUIRE(b);
    snprintf(path, sizeof path, "%s/fifo/pipe", test_dir());
    CHECK_EQ(C(MKNOD, .path = "/pipe", MODE(S_IFIFO | 0600)), 0);
    fifo_thread = 0;
    REQUIRE(!pthread_create(&thread, NULL, fifo_writer, path));
    EVENTUALLY(fifo_waits());
    opens_refused(b, "/pipe", -ENXIO);
    conf_put(b, "/f", "regular");
    CHECK_EQ(C(GET, .path = "/f", .size = 10), 7); /* known as such now: forgotten when moved */
    fsb_slice_release(&conf_op.slice);
    CHECK_EQ(C(RENAME, .path = "/pipe", .path2 = "/f"), 0);
    opens_refused(b, "/f", -ENXIO);
    usleep(20000);
    CHECK_EQ(pthread_tryjoin_np(thread, NULL), EBUSY); /* the writer noticed nothing */
    snprintf(path, sizeof path, "%s/fifo/f", test_dir());
    const int fd = open(path, O_RDONLY | O_NONBLOCK);
    CHECK(fd >= 0);
    pthread_join(thread, NULL);
    close(fd);
    b->close(b);
}

/* Somebody else puts another thing where a regular file was opened before. */
static void test_file_replaced(void)
{
    char         path[300];
    fsb_backend *b = open_local("replaced", 0);
    REQUIRE(b);
    snprintf(path, sizeof path, "%s/replaced/f", test_dir());
    for (int what = 0; what < 5; ++what) {
        conf_put(b, "/f", "one");
        fsb_op op = {.code = FSB_OP_STAT, .path = "/f"};
        CHECK_EQ(fsb_backend_call(b, &op), 0);
        CHECK_EQ(C(GET, .path = "/f", .size = 10), 3);
        fsb_slice_release(&conf_op.slice);
        const int keep = open(path, O_RDONLY); /* its number is not used again */
        CHECK_EQ(unlink(path), 0);
        if (what == 0) CHECK_EQ(mkfifo(path, 0600), 0), opens_refused(b, "/f", -ENXIO);
        if (what == 1) CHECK_EQ(symlink("g", path), 0), opens_refused(b, "/f", -ELOOP);
        if (what == 2) CHECK_EQ(mkdir(path, 0700), 0), opens_refused(b, "/f", -EISDIR);
        if (what == 3 && mknod(path, S_IFCHR | 0600, makedev(1, 3)) == 0)
            opens_refused(b, "/f", -ENXIO);
        if (what == 4) {
            CHECK_EQ(fsb_write_file(b, "/g", "another", 7, 0644), 0);
            CHECK_EQ(C(GET, .path = "/f", .size = 10), -ENOENT);
            CHECK_EQ(C(RENAME, .path = "/g", .path2 = "/f"), 0);
            for (int known = 0; known < 2; ++known) { /* and then the name is known again */
                CHECK_EQ(C(GET, .path = "/f", .size = 10, .file_id = op.stat.file_id), -ESTALE);
                CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_WRITE | FSB_O_TRUNC,
                           .file_id = op.stat.file_id), -ESTALE);
                CHECK_EQ(C(GET, .path = "/f", .size = 10), 7); /* not truncated */
                fsb_slice_release(&conf_op.slice);
            }
        }
        close(keep);
        (void)remove(path);
    }
    b->close(b);
}

/* In a child whose kernel has no openat2, or a filter that says EPERM, the jail holds as well. */
static int without_openat2(uint32_t error)
{
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, FSB_LOCAL_OPENAT2_},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | error},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    fsb_backend      *b = open_local(error == ENOSYS ? "walk-1" : "walk-2", 0);
    if (!b || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 77;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return 77;
    conformance_traits t = traits("local without openat2", 1);
    t.scoped = 1; /* symbolic links before the last component are refused */
    t.many = 100;
    conformance_run(b, &t);
    CHECK_EQ(C(MKDIR, .path = "/dir", MODE(0755)), 0);
    CHECK_EQ(C(SYMLINK, .path = "/link", .path2 = outside), 0);
    snprintf(swap_root, sizeof swap_root, "%s/%s", test_dir(),
             error == ENOSYS ? "walk-1" : "walk-2");
    attack(b);
    b->close(b);
    return test_.bad != 0;
}

static void test_without_openat2(void)
{
    jail_setup("outside-walk");
    for (int i = 0; i < 2; ++i) {
        int         status = 0;
        const pid_t pid = fork();
        if (pid == 0) _exit(without_openat2(i ? EPERM : ENOSYS));
        REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no seccomp filters here");
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static int conf_any_emit(fsb_op *op, const fsb_dirent *e)
{
    ((conf_tree *)op->user)->names += e->name_size > 0;
    return 0;
}

/* A folder whose names may be read but not looked at is no empty one. In a child, as nobody. */
static int unsearchable(void)
{
    char         dir[300];
    fsb_backend *b = open_local("unsearchable", 0);
    CHECK_EQ(C(MKDIR, .path = "/shut", MODE(0755)), 0);
    conf_put(b, "/shut/a", "1"), conf_put(b, "/shut/b", "2");
    snprintf(dir, sizeof dir, "%s/unsearchable/shut", test_dir());
    if (chmod(dir, 0444) || chmod(test_dir(), 0755)) return 77;
    if (geteuid() == 0 && (setgid(65534) || setuid(65534))) return 77;
    for (uint32_t flags = 0; flags < 4; ++flags) {
        conf_tree t = {0};
        if (flags == FSB_LIST_DATA) continue;
        CHECK_EQ(conf_call(b, (fsb_op){.code = FSB_OP_LIST, .path = "/shut", .flags = flags,
                                       .user = &t, .emit = conf_any_emit}), flags ? -EACCES : 1);
        CHECK_EQ(t.names, flags ? 0 : 2);
    }
    b->close(b);
    return test_.bad != 0;
}

/* What was made and cannot be settled (chmod(2) fails) is not left there. In a child. */
static int unsettled(void)
{
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
#ifdef SYS_chmod
        {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_chmod},
#else
        {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_fchmodat},
#endif
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_fchmodat},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EIO},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    fsb_backend      *b = open_local("unsettled", 0);
    if (!b || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 77;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return 77;
    umask(077); /* so that every mode is to be set */
    for (int round = 0; round < 2; ++round) { /* nothing in the way of the next one */
        CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_EXCL,
                   MODE(0644)), -EIO);
        CHECK_EQ(C(PUT, .path = "/f", .flags = FSB_O_WRITE | FSB_O_CREATE, MODE(0644)), -EIO);
        CHECK_EQ(C(MKDIR, .path = "/f", MODE(0755)), -EIO);
        CHECK_EQ(C(MKNOD, .path = "/f", MODE(S_IFIFO | 0644)), -EIO);
    }
    CHECK_EQ(C(STAT, .path = "/f"), -ENOENT);
    CHECK_EQ(C(MKDIR, .path = "/f", MODE(0700)), 0);
    b->close(b);
    return test_.bad != 0;
}

/* ---- handles, memory, threads ---- */

static void test_handles(void)
{
    fsb_memory_desc desc = {.max_handles = 3};
    fsb_backend    *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, &desc), 0);
    REQUIRE(b);
    conf_put(b, "/f", "x");
    const fsb_handle one = conf_open(b, "/f", FSB_O_READ), two = conf_open(b, "/f", FSB_O_READ);
    const fsb_handle three = conf_open(b, "/f", FSB_O_READ);
    CHECK(one != two && two != three);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_READ, .size = 1), -ENFILE);
    CHECK_EQ(C(CLOSE, .handle = two), 0);
    const fsb_handle again = conf_open(b, "/f", FSB_O_READ); /* the slot is used again, */
    CHECK(again != two);                                     /* the handle is not */
    CHECK_EQ(C(STAT, .handle = two), -EBADF);
    CHECK_EQ(C(STAT, .handle = again), 0);
    for (uint64_t guess = 0; guess < 100000; ++guess) {
        if (guess == one || guess == three || guess == again) continue;
        if (C(STAT, .handle = guess << 7, .path = "") >= 0) CHECK(!"a guessed handle worked");
    }
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/d/e", MODE(0755)), 0);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/d"), 0); /* a full folder onto itself */
    b->close(b); /* with handles open */
}

static void drop_slice(void)
{
    if (conf_op.result >= 0) fsb_slice_release(&conf_op.slice);
}

/* Where there is no handle or no memory, nothing is made and nothing cut off. */
static void in_vain(fsb_backend *b, test_memory *m)
{
    conf_put(b, "/f", "text");
    const fsb_handle h = conf_open(b, "/f", FSB_O_READ);
    CHECK_EQ(C(OPEN, .path = "/g", .flags = FSB_O_WRITE | FSB_O_CREATE), -ENFILE);
    CHECK_EQ(C(OPEN, .path = "/f", .flags = FSB_O_WRITE | FSB_O_TRUNC), -ENFILE);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    m->fail_at = m->calls + 1;
    CHECK_EQ(C(OPEN, .path = "/g", .flags = FSB_O_READ | FSB_O_CREATE, .size = 9), -ENOMEM);
    m->fail_at = m->calls + 1;
    CHECK_EQ(C(OPEN, .path = "/f", .flags = 3 | FSB_O_TRUNC, .size = 9), -ENOMEM);
    CHECK_EQ(C(STAT, .path = "/g"), -ENOENT);
    conf_is(b, "/f", "text");
    CHECK_EQ(C(UNLINK, .path = "/f"), 0);
    b->close(b);
    CHECK_EQ(m->live, 0);
}

static void test_open_in_vain(void)
{
    test_memory     m = {0}, m2 = {0};
    fsb_memory_desc md = {.max_handles = 1, .allocator = {test_memory_fn, &m}};
    fsb_local_desc  ld = {.max_handles = 1, .allocator = {test_memory_fn, &m2}};
    char            root[300];
    fsb_backend    *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, &md), 0);
    REQUIRE(b);
    in_vain(b, &m);
    snprintf(root, sizeof root, "%s", fresh_dir("in-vain"));
    ld.root = root;
    CHECK_EQ(fsb_local_open(&b, &ld), 0);
    REQUIRE(b);
    in_vain(b, &m2);
}

/* Everything that allocates, under an allocator that fails the k-th time. */
static int oom_round(const fsb_allocator *a, int local, const char *root)
{
    fsb_backend    *b = NULL, *s = NULL;
    fsb_memory_desc md = {.allocator = *a};
    fsb_local_desc  ld = {.allocator = *a, .root = root, .allow_exec = 1};
    int             err = local ? fsb_local_open(&b, &ld) : fsb_memory_open(&b, &md);
    if (err) return err;
    fsb_scoped_desc sd = {.inner = b, .prefix = "/", .allocator = *a};
    conf_events     got = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int64_t         n = fsb_scoped_open(&s, &sd);
    fsb_handle      h = 0, w = 0;
    fsb_op          watch = {.code = FSB_OP_WATCH, .path = "/", .flags = FSB_WATCH_DEEP,
                             .event = conf_event, .user = &got};
    if (n >= 0) n = conf_call(s, watch), w = n < 0 ? 0 : conf_op.handle;
    if (n >= 0) n = C(MKDIR, .path = "/d", MODE(0755));
    if (n >= 0) n = C(SYMLINK, .path = "/d/l", .path2 = "x");
    if (n >= 0) n = C(OPEN, .path = "/d/f", .flags = 7, MODE(0600)), h = n < 0 ? 0 : conf_op.handle;
    if (n >= 0) n = C(WRITE, .handle = h, .data = "abc", .size = 3, .offset = 200000);
    if (n >= 0) n = C(SETXATTR, .handle = h, .path2 = "user.a", .data = "x", .size = 1);
    if (n >= 0) n = C(READ, .handle = h, .size = 100), drop_slice();
    if (n >= 0) n = C(READLINK, .path = "/d/l", .size = 9), drop_slice();
    if (n >= 0) n = C(RENAME, .path = "/d", .path2 = "/e");
    const char *argv[] = {"true", NULL};
    fsb_exec    run = {.argv = argv};
    if (n >= 0 && local) n = conf_call(s, (fsb_op){.code = FSB_OP_EXEC, .path = "/", .exec = &run});
    conf_tree tree = {0}; /* leaves out what there is no memory for */
    if (n >= 0)
        n = conf_call(s, (fsb_op){.code = FSB_OP_LIST, .path = "/", .flags = 7, .user = &tree,
                                  .emit = conf_any_emit});
    void  *data = NULL;
    size_t size = 0;
    if (n >= 0) n = fsb_read_file(b, "/e/f", 1 << 20, a, &data, &size);
    if (data) a->fn(a->user, data, size + 1, 0);
    if (w) conf_call(s, (fsb_op){.code = FSB_OP_CLOSE, .handle = w});
    if (s) s->close(s);
    C(UNLINK, .path = "/d/f"), C(UNLINK, .path = "/e/f");
    C(UNLINK, .path = "/d/l"), C(UNLINK, .path = "/e/l");
    C(RMDIR, .path = "/d"), C(RMDIR, .path = "/e");
    b->close(b);
    return (int)n;
}

static void out_of_memory(int local)
{
    char root[300];
    snprintf(root, sizeof root, "%s", fresh_dir(local ? "oom-local" : "oom-memory"));
    int failed = 0, err = -1;
    for (uint64_t k = 1; k < 500; ++k) {
        test_memory   m = {.fail_at = k};
        fsb_allocator a = {test_memory_fn, &m};
        err = oom_round(&a, local, root);
        failed += err == -ENOMEM || err == -ENFILE;
        CHECK(err >= 0 || err == -ENOMEM || err == -ENFILE);
        CHECK_EQ(m.live, 0);
        CHECK_EQ(m.wrong_size, 0);
        if (err >= 0 && m.calls < k) break;
    }
    CHECK(err >= 0);
    CHECK(failed > 8);
}

static void test_oom_local(void) { out_of_memory(1); }
static void test_oom_memory(void) { out_of_memory(0); }

static void test_limit(void)
{
    fsb_memory_desc desc = {.max_bytes = 1 << 20};
    fsb_backend    *b = NULL;
    static char     data[FSB_IO_MAX];
    CHECK_EQ(fsb_memory_open(&b, &desc), 0);
    REQUIRE(b);
    const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;
    CHECK_EQ(C(PUT, .path = "/a", .flags = make, .data = data, .size = 900000), 900000);
    CHECK_EQ(C(PUT, .path = "/b", .flags = make, .data = data, .size = 900000), -ENOSPC);
    CHECK_EQ(C(STAT, .path = "/b"), -ENOENT); /* nothing was kept */
    CHECK_EQ(C(PUT, .path = "/b", .flags = make, .data = data, .size = 1), 1);
    CHECK_EQ(C(PUT, .path = "/b", .flags = make, .data = data, .size = 900000), -ENOSPC);
    CHECK_EQ(C(STAT, .path = "/b"), 0); /* it was there before */
    CHECK_EQ(C(UNLINK, .path = "/a"), 0);
    CHECK_EQ(C(PUT, .path = "/b", .flags = make, .data = data, .size = 900000), 900000);
    b->close(b);
}

/* What gets the name of a thing between its making and its settling keeps its owner and mode. */
static void test_make_swapped(void)
{
    const uint32_t codes[] = {FSB_OP_MKDIR, FSB_OP_MKNOD};
    fsb_backend   *b = open_local("swapped", 0);
    const mode_t   old = umask(022);
    CHECK_EQ(C(MKDIR, .path = "/dir", MODE(0700)), 0);
    conf_put(b, "/dir/in", "x");
    conf_put(b, "/node", "mine");
    CHECK_EQ(C(SETATTR, .path = "/node", MODE(0600)), 0);
    for (int i = 0; i < 2; ++i) {
        swap.victim = i ? "node" : "dir", swap.aside = i ? "aside1" : "aside0";
        fsb_op op = {.code = codes[i], .path = "/new",
                     .attr = {.mask = FSB_ATTR_MODE, .mode = 0666}};
        if (i) op.attr.mode |= 0100000;
        CHECK_EQ(fsb_backend_call(b, &op), -ESTALE);
        CHECK_EQ(conf_stat(b, "/new").mode & 07777, i ? 0600 : 0700);
        CHECK_EQ(C(RENAME, .path = "/new", .path2 = i ? "/node" : "/dir"), 0);
        CHECK_EQ(fsb_backend_call(b, &op), 0); /* nobody disturbs */
        CHECK_EQ(op.stat.mode & 07777, 0666);
        CHECK_EQ(C(RENAME, .path = "/new", .path2 = "/made"), 0);
        CHECK_EQ(fsb_backend_remove_all(b, "/made", NULL), 0);
    }
    conf_is(b, "/dir/in", "x");
    conf_is(b, "/node", "mine");
    umask(old);
    b->close(b);
}

/* A PUT that fails midway leaves no part of a file that it has made. */
static void test_put_fails(void)
{
    static char   data[300000];
    struct rlimit was, small = {100000, 0};
    fsb_backend  *b = open_local("fails", 0);
    const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;
    conf_put(b, "/there", "x");
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &was), 0);
    small.rlim_max = was.rlim_max;
    void (*const old)(int) = signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_EQ(C(PUT, .path = "/new", .flags = make, .data = data, .size = sizeof data), -EFBIG);
    CHECK_EQ(C(STAT, .path = "/new"), -ENOENT);
    CHECK_EQ(C(PUT, .path = "/there", .flags = make, .data = data, .size = sizeof data), -EFBIG);
    CHECK_EQ(C(STAT, .path = "/there"), 0);
    CHECK_EQ(fsb_file_replace(b, "/there", data, sizeof data, 0), -EFBIG);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, old);
    CHECK_EQ(conf_count(b, "/"), 1);
    b->close(b);
}

typedef struct crowd {
    fsb_backend *b;
    int          number;
    uint64_t     done;
} crowd;

static void *crowd_main(void *arg) /* everybody does everything in the same few names */
{
    crowd       *c = arg;
    fsb_backend *b = c->b;
    unsigned     seed = (unsigned)c->number * 7919 + 1;
    char         buf[256], one[32], two[32];
    memset(buf, 'x', sizeof buf);
    for (int i = 0; i < 3000; ++i) {
        snprintf(one, sizeof one, "/d%d/f%d", rand_r(&seed) % 2, rand_r(&seed) % 4);
        snprintf(two, sizeof two, "/d%d/f%d", rand_r(&seed) % 2, rand_r(&seed) % 4);
        conf_list l = {0};
        switch (rand_r(&seed) % 8) {
        case 0: C(RENAME, .path = one, .path2 = two); break;
        case 1: C(UNLINK, .path = one); break;
        case 2: C(LINK, .path = one, .path2 = two); break;
        case 3:
            C(LIST, .path = "/d0", .flags = FSB_LIST_STAT, .emit = conf_emit, .user = &l);
            break;
        case 4: C(GET, .path = one, .size = 100), drop_slice(); break;
        default:
            if (C(OPEN, .path = one, .flags = 7, MODE(0644)) < 0) break;
            const fsb_handle h = conf_op.handle;
            CHECK_EQ(C(WRITE, .handle = h, .data = buf, .size = 100, .flags = FSB_WRITE_APPEND),
                     100);
            CHECK_EQ(C(STAT, .handle = h), 0);
            CHECK_EQ(conf_op.stat.size % 100, 0);
            CHECK_EQ(C(CLOSE, .handle = h), 0);
        }
        ++c->done;
    }
    return NULL;
}

static void crowd_on(fsb_backend *b)
{
    crowd     c[4];
    pthread_t threads[4];
    CHECK_EQ(C(MKDIR, .path = "/d0", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/d1", MODE(0755)), 0);
    for (int i = 0; i < 4; ++i) {
        c[i] = (crowd){b, i, 0};
        REQUIRE(!pthread_create(&threads[i], NULL, crowd_main, &c[i]));
    }
    for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL), CHECK_EQ(c[i].done, 3000);
    b->close(b);
}

static void test_crowd_local(void) { crowd_on(open_local("crowd", 0)); }
static void test_crowd_memory(void) { crowd_on(open_memory()); }

typedef struct shared_handle {
    fsb_backend *b;
    fsb_handle   handle;
    int          stop;
} shared_handle;

static void *reader_main(void *arg)
{
    shared_handle *s = arg;
    fsb_backend   *b = s->b;
    char           buf[8];
    while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
        const fsb_handle h = __atomic_load_n(&s->handle, __ATOMIC_RELAXED);
        const int64_t    n = C(READ, .handle = h, .buf = buf, .size = 8);
        CHECK(n == -EBADF || (n == 4 && !memcmp(buf, "mine", 4))); /* never another file's */
    }
    return NULL;
}

static void test_close_while_read(void)
{
    fsb_backend  *b = open_local("close", 0);
    shared_handle s = {b, 0, 0};
    pthread_t     thread;
    conf_put(b, "/mine", "mine");
    conf_put(b, "/other", "other");
    REQUIRE(!pthread_create(&thread, NULL, reader_main, &s));
    for (int i = 0; i < 5000; ++i) {
        const fsb_handle h = conf_open(b, "/mine", FSB_O_READ);
        __atomic_store_n(&s.handle, h, __ATOMIC_RELAXED);
        CHECK_EQ(C(CLOSE, .handle = h), 0);
        const fsb_handle o = conf_open(b, "/other", FSB_O_READ);
        CHECK_EQ(C(CLOSE, .handle = o), 0);
    }
    __atomic_store_n(&s.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    b->close(b);
}

/* ---- workers and submit ---- */

static void count_up(void *arg)
{
    usleep(100);
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
}

typedef struct {
    int held, go;
} gate;

static void hold(void *arg)
{
    gate *at = (gate *)arg;
    __atomic_add_fetch(&at->held, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&at->go, __ATOMIC_ACQUIRE)) usleep(100);
}

static void test_workers(void)
{
    fsb_workers     *w = NULL;
    fsb_workers_desc desc = {.threads = 2, .queue = 8};
    int              count = 0, accepted = 0;
    gate             at = {0, 0};
    CHECK_EQ(fsb_workers_open(&w, &desc), 0);
    REQUIRE(w);
    CHECK_EQ(fsb_workers_run(w, hold, &at), 0);
    CHECK_EQ(fsb_workers_run(w, hold, &at), 0);
    /* not before both threads are inside: the queue is empty then, and stays as it is filled */
    EVENTUALLY(__atomic_load_n(&at.held, __ATOMIC_ACQUIRE) == 2);
    for (int i = 0; i < 20; ++i) accepted += fsb_workers_run(w, count_up, &count) == 0;
    CHECK_EQ(accepted, 8);
    CHECK_EQ(fsb_workers_run(w, count_up, &count), -EAGAIN);
    __atomic_store_n(&at.go, 1, __ATOMIC_RELEASE);
    fsb_workers_close(w); /* runs what was accepted */
    CHECK_EQ(count, accepted);
    desc = (fsb_workers_desc){.threads = 5000};
    CHECK_EQ(fsb_workers_open(&w, &desc), -EINVAL);
    fsb_workers_close(NULL);
    for (uint64_t k = 1; k < 5; ++k) {
        test_memory m = {.fail_at = k};
        desc = (fsb_workers_desc){.allocator = {test_memory_fn, &m}};
        w = NULL;
        const int err = fsb_workers_open(&w, &desc);
        CHECK_EQ(err, k < 4 ? -ENOMEM : 0);
        fsb_workers_close(w);
        CHECK_EQ(m.live, 0);
    }
}

static int  finished;
static void op_done(fsb_op *op)
{
    CHECK_EQ(op->result, 0);
    CHECK(S_ISDIR(op->stat.mode));
    __atomic_add_fetch(&finished, 1, __ATOMIC_RELEASE);
}

static void test_submit(void)
{
    fsb_backend *b = open_memory();
    fsb_workers *w = NULL;
    CHECK_EQ(fsb_workers_open(&w, NULL), 0);
    REQUIRE(b && w);
    static fsb_op ops[100];
    fsb_op       *list[100];
    for (int round = 0; round < 3; ++round) {
        const fsb_runner none = {0};
        finished = 0;
        b->flags = round == 2 ? 0 : FSB_BACKEND_QUICK; /* 2: as a slow one, on the workers */
        for (int i = 0; i < 100; ++i) {
            ops[i] = (fsb_op){.code = FSB_OP_STAT, .path = "/", .done = op_done};
            list[i] = &ops[i];
        }
        fsb_backend_submit(b, list, 100, round ? fsb_workers_runner(w) : none);
        if (round < 2) CHECK_EQ(finished, 100);
        int seen = 0;
        EVENTUALLY((seen = __atomic_load_n(&finished, __ATOMIC_ACQUIRE)) >= 100);
        CHECK_EQ(seen, 100);
    }
    fsb_workers_close(w);
    b->close(b);
}

static void test_files(void)
{
    fsb_backend *b = open_memory();
    static char  big[3 << 20];
    void        *data = NULL;
    size_t       size = 0;
    for (size_t i = 0; i < sizeof big; ++i) big[i] = (char)(i * 31 >> 3);
    CHECK_EQ(fsb_write_file(b, "/big", big, sizeof big, 0600), 0);
    CHECK_EQ(fsb_read_file(b, "/big", sizeof big - 1, NULL, &data, &size), -EFBIG);
    CHECK_EQ(fsb_read_file(b, "/big", sizeof big, NULL, &data, &size), 0);
    CHECK(size == sizeof big && data && !memcmp(data, big, size) && !((char *)data)[size]);
    free(data);
    CHECK_EQ(fsb_write_file(b, "/big", "", 0, 0600), 0);
    CHECK_EQ(fsb_read_file(b, "/big", 0, NULL, &data, &size), 0);
    CHECK_EQ(size, 0);
    free(data);
    CHECK_EQ(fsb_read_file(b, "/none", 10, NULL, &data, &size), -ENOENT);
    CHECK_EQ(fsb_write_file(b, "/none/x", "", 0, 0600), -ENOENT);
    b->close(b);
}

static int descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; ++fd) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int64_t clock_ms(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int64_t now_ms(void) { return clock_ms(CLOCK_MONOTONIC); }
static int64_t worked_ms(void) { return clock_ms(CLOCK_PROCESS_CPUTIME_ID); }

static unsigned names_in(fsb_backend *b, const char *path)
{
    conf_list l = {0};
    conf_list_all(b, path, &l);
    return l.count;
}

static void replaces_and_touches(fsb_backend *b)
{
    static char   big[3 << 20];
    void         *data = NULL;
    size_t        size = 0;
    const int64_t then = 1000000000;
    for (size_t i = 0; i < sizeof big; ++i) big[i] = (char)(i * 13 >> 2);
    CHECK_EQ(fsb_file_replace(b, "/x/y/z/file", "one", 3, 0), 0); /* with its folders */
    CHECK_EQ(conf_stat(b, "/x/y/z/file").mode & 07777, 0644);
    CHECK_EQ(C(SETATTR, .path = "/x/y/z/file", MODE(0600)), 0);
    const uint64_t id = conf_stat(b, "/x/y/z/file").file_id;
    CHECK_EQ(fsb_file_replace(b, "/x/y/z/file", big, sizeof big, 0), 0);
    CHECK_EQ(conf_stat(b, "/x/y/z/file").mode & 07777, 0600);
    CHECK(conf_stat(b, "/x/y/z/file").file_id != id); /* another file: nobody sees a part of it */
    CHECK_EQ(fsb_read_file(b, "/x/y/z/file", sizeof big, NULL, &data, &size), 0);
    CHECK(size == sizeof big && data && !memcmp(data, big, size));
    free(data);
    CHECK_EQ(fsb_file_replace(b, "/x/y/z/file", "", 0, 0640), 0);
    CHECK_EQ(conf_stat(b, "/x/y/z/file").mode & 07777, 0640);
    CHECK_EQ(fsb_file_replace(b, "/x/y", "no", 2, 0), -EISDIR);
    CHECK_EQ(fsb_file_replace(b, "/", "no", 2, 0), -EISDIR);
    CHECK_EQ(fsb_file_replace(b, "x", "no", 2, 0), -EINVAL);
    CHECK_EQ(fsb_file_replace(b, "/x/y/z/file/below", "no", 2, 0), -ENOTDIR);
    CHECK_EQ(names_in(b, "/x/y/z"), 1); /* nothing is left lying about */
    CHECK_EQ(names_in(b, "/x"), 1);
    CHECK_EQ(fsb_backend_touch(b, "/x/new", NULL), 0);
    CHECK_EQ(conf_stat(b, "/x/new").size, 0);
    conf_put(b, "/x/new", "kept");
    CHECK_EQ(fsb_backend_touch(b, "/x/new", &then), 0);
    conf_is(b, "/x/new", "kept");
    CHECK_EQ(conf_stat(b, "/x/new").mtime_ns, then);
    CHECK_EQ(fsb_backend_touch(b, "/x/new", NULL), 0);
    CHECK(conf_stat(b, "/x/new").mtime_ns > then);
    CHECK_EQ(fsb_backend_touch(b, "/x/other", &then), 0);
    CHECK_EQ(conf_stat(b, "/x/other").mtime_ns, then);
    CHECK_EQ(fsb_backend_touch(b, "/none/new", NULL), -ENOENT);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/", 0755), 0);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/x/a/b/c", 0750), 0);
    CHECK_EQ(conf_stat(b, "/x/a/b").mode, S_IFDIR | 0750);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/x/a/b/c", 0755), 0);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/x/new", 0755), -ENOTDIR);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/x/new/below", 0755), -ENOTDIR);
    CHECK_EQ(fsb_backend_mkdir_all(b, "x", 0755), -EINVAL);
    CHECK_EQ(fsb_backend_remove_all(b, "/", NULL), -EBUSY);
    CHECK_EQ(fsb_backend_remove_all(b, "/none", NULL), -ENOENT);
    CHECK_EQ(fsb_backend_remove_all(b, "/x/other", NULL), 0);
    CHECK_EQ(C(SYMLINK, .path = "/link", .path2 = "x"), 0);
    CHECK_EQ(fsb_backend_remove_all(b, "/link", NULL), 0); /* not what it leads to */
    conf_is(b, "/x/new", "kept");
    CHECK_EQ(fsb_backend_remove_all(b, "/x", NULL), 0);
    CHECK_EQ(names_in(b, "/"), 0);
}

typedef struct trail {
    char     text[400];
    unsigned files, folders, left, depth;
    int      skip_b, stop_at;
} trail;

static int follow(void *user, const fsb_walk_step *step)
{
    trail *t = user;
    t->files += step->kind == FSB_WALK_FILE, t->folders += step->kind == FSB_WALK_FOLDER;
    t->left += step->kind == FSB_WALK_LEAVE;
    CHECK_EQ(S_ISDIR(step->stat->mode), step->kind != FSB_WALK_FILE);
    if (step->depth > t->depth) t->depth = step->depth;
    snprintf(t->text + strlen(t->text), sizeof t->text - strlen(t->text), "%u%s ", step->kind,
             step->path);
    if (t->stop_at && t->files == (unsigned)t->stop_at) return -EINTR;
    return t->skip_b && !strcmp(step->path, "/a/b");
}

static void walks(fsb_backend *b)
{
    trail t = {0};
    char  deep[2 * 500 + 1];
    CHECK_EQ(fsb_backend_mkdir_all(b, "/a/b/c", 0755), 0);
    conf_put(b, "/a/b/c/f", "x");
    CHECK_EQ(C(SYMLINK, .path = "/a/b/c/up", .path2 = "../.."), 0); /* not gone into */
    CHECK_EQ(fsb_backend_walk(b, "/a", NULL, follow, &t), 0);
    CHECK(!strncmp(t.text, "2/a 2/a/b 2/a/b/c 1/a/b/c/", 26));
    CHECK(strstr(t.text, "3/a/b/c 3/a/b 3/a ") && t.files == 2 && t.folders == 3 && t.left == 3);
    t = (trail){.skip_b = 1};
    CHECK_EQ(fsb_backend_walk(b, "/a", NULL, follow, &t), 0);
    CHECK_STR(t.text, "2/a 2/a/b 3/a ");
    t = (trail){.stop_at = 1};
    CHECK_EQ(fsb_backend_walk(b, "/", NULL, follow, &t), -EINTR);
    t = (trail){0};
    CHECK_EQ(fsb_backend_walk(b, "/a/b/c/f", NULL, follow, &t), 0);
    CHECK_STR(t.text, "1/a/b/c/f ");
    CHECK_EQ(fsb_backend_walk(b, "/none", NULL, follow, &t), -ENOENT);
    CHECK_EQ(fsb_backend_walk(b, "/a", NULL, NULL, &t), -EINVAL);
    for (size_t i = 0; i + 1 < sizeof deep; ++i) deep[i] = i % 2 ? 'd' : '/';
    deep[sizeof deep - 1] = '\0';
    CHECK_EQ(fsb_backend_mkdir_all(b, deep, 0755), 0);
    for (unsigned i = 0; i < 1000; ++i) { /* more than fit into one part of a listing */
        char path[32];
        snprintf(path, sizeof path, "/a/b/many%u", i);
        CHECK_EQ(C(MKNOD, .path = path, MODE(S_IFREG | 0600)), 0);
    }
    t = (trail){0};
    CHECK_EQ(fsb_backend_walk(b, "/", NULL, follow, &t), 0);
    CHECK_EQ(t.files, 1002);
    CHECK_EQ(t.folders, 504);
    CHECK_EQ(t.left, 504);
    CHECK_EQ(t.depth, 500);
    test_memory   m = {.fail_at = 300};
    fsb_allocator a = {test_memory_fn, &m};
    t = (trail){0};
    CHECK_EQ(fsb_backend_walk(b, "/d", &a, follow, &t), -ENOMEM);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(fsb_backend_remove_all(b, "/a", NULL), 0);
    CHECK_EQ(fsb_backend_remove_all(b, "/d", NULL), 0);
    CHECK_EQ(names_in(b, "/"), 0);
}

/* A listing that does not end: after so many parts, of a name each, it stands still (0), or is back
   at that part. */
static uint64_t list_most, list_back;
static int64_t  list_ever(fsb_backend *b, fsb_op *op)
{
    fsb_dirent e = {.name = "f", .name_size = 1};
    (void)b;
    e.cookie = op->offset < list_most ? op->offset + 1 : list_back, e.stat.mode = 0100600;
    if (e.cookie) op->emit(op, &e);
    return op->result = 0;
}

static int walk_error(void *user, const fsb_walk_step *step)
{
    unsigned *seen = user;
    if (step->kind == FSB_WALK_FILE && ++*seen > 100000) return -EINTR;
    return step->kind == FSB_WALK_ERROR ? step->error : 0;
}

static void test_walk_odd(void)
{
    static const uint64_t most[] = {0, 1, 5, 1, 2, 3, 100, 1000};
    static const uint64_t back[] = {0, 0, 0, 1, 1, 2, 7, 999};
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_memory_open(&b, NULL), 0);
    b->call[FSB_OP_LIST] = list_ever;
    for (size_t i = 0; i < sizeof most / sizeof *most; ++i) {
        unsigned seen = 0;
        list_most = most[i], list_back = back[i];
        CHECK_EQ(fsb_backend_walk(b, "/", NULL, walk_error, &seen), -EIO);
        CHECK(seen >= most[i] && seen < 4 * most[i] + 4);
    }
    b->close(b);
}

static void batches(fsb_backend *b)
{
    fsb_workers *w = NULL;
    fsb_op       ops[5], *list[5];
    conf_list    l = {0};
    CHECK_EQ(fsb_workers_open(&w, NULL), 0);
    conf_put(b, "/f", "some text");
    for (int round = 0; round < 2; ++round) {
        const fsb_runner none = {0};
        memset(ops, 0, sizeof ops);
        for (int i = 0; i < 5; ++i) list[i] = &ops[i];
        b->flags = round ? 0 : FSB_BACKEND_QUICK;
        ops[0] = (fsb_op){.code = FSB_OP_STAT, .path = "/f"};
        ops[1] = (fsb_op){.code = FSB_OP_GET, .path = "/f", .size = 4};
        ops[2] = (fsb_op){.code = FSB_OP_UNLINK, .path = "/none"};
        ops[3] = (fsb_op){.code = FSB_OP_LIST, .path = "/", .emit = conf_emit, .user = &l};
        ops[4] = (fsb_op){.code = FSB_OP_MKDIR, .path = round ? "/d2" : "/d1", MODE(0755)};
        CHECK_EQ(fsb_backend_batch(b, list, 5, round ? fsb_workers_runner(w) : none, NULL),
                 -ENOENT);
        CHECK_EQ(ops[0].result, 0);
        CHECK_EQ(ops[0].stat.size, 9);
        CHECK_EQ(ops[1].result, 4);
        CHECK(ops[1].slice.size == 4 && !memcmp(ops[1].slice.data, "some", 4));
        fsb_slice_release(&ops[1].slice);
        CHECK_EQ(ops[2].result, -ENOENT);
        CHECK_EQ(ops[3].result, 1);
        CHECK(ops[3].user == &l && l.count > 0);
        CHECK_EQ(ops[4].result, 0);
    }
    CHECK_EQ(fsb_backend_batch(b, list, 0, fsb_workers_runner(w), NULL), 0);
    test_memory   m = {.fail_at = 1};
    fsb_allocator a = {test_memory_fn, &m};
    CHECK_EQ(fsb_backend_batch(b, list, 5, fsb_workers_runner(w), &a), -ENOMEM);
    fsb_workers_close(w);
    b->flags = FSB_BACKEND_QUICK;
    C(RMDIR, .path = "/d1"), C(RMDIR, .path = "/d2"), C(UNLINK, .path = "/f");
}

static void test_conveniences(void)
{
    fsb_backend *all[2] = {open_memory(), open_local("conveniences", 0)};
    for (int i = 0; i < 2; ++i) {
        REQUIRE(all[i]);
        replaces_and_touches(all[i]);
        walks(all[i]);
        batches(all[i]);
        all[i]->close(all[i]);
    }
}

/* ---- copies ---- */

static void copy_source(fsb_backend *b)
{
    static char   big[5 << 20];
    const int64_t then = 1234567890123456789;
    for (size_t i = 0; i < sizeof big; ++i) big[i] = (char)(i * 7 + i / 4096);
    CHECK_EQ(fsb_backend_mkdir_all(b, "/src/sub/deep", 0755), 0);
    CHECK_EQ(C(MKDIR, .path = "/src/read-only", MODE(0755)), 0);
    for (unsigned i = 0; i < 300; ++i) {
        char path[64];
        snprintf(path, sizeof path, "/src/%s/f%u", i % 2 ? "sub" : "read-only", i);
        conf_put(b, path, path);
        CHECK_EQ(C(SETATTR, .path = path, .attr = {.mask = FSB_ATTR_MODE | FSB_ATTR_MTIME,
                   .mode = 0600 + i % 64, .mtime_ns = then + i}), 0);
    }
    CHECK_EQ(fsb_write_file(b, "/src/big", big, sizeof big - 77, 0640), 0);
    CHECK_EQ(fsb_write_file(b, "/src/empty", "", 0, 0644), 0);
    CHECK_EQ(C(SYMLINK, .path = "/src/sub/link", .path2 = "../big"), 0);
    CHECK_EQ(C(MKNOD, .path = "/src/fifo", MODE(S_IFIFO | 0600)), 0);
    const char *folders[] = {"/src/read-only", "/src/sub/deep", "/src/sub", "/src"};
    for (unsigned i = 0; i < 4; ++i)
        CHECK_EQ(C(SETATTR, .path = folders[i], .attr = {.mask = FSB_ATTR_MODE | FSB_ATTR_MTIME,
                   .mode = 0700 + i, .mtime_ns = then - i}), 0);
}

typedef struct pair {
    fsb_backend *from, *to;
    unsigned     names, different;
} pair;

static int compare(void *user, const fsb_walk_step *step)
{
    pair  *p = user;
    char   path[300];
    void  *one = NULL, *two = NULL;
    size_t size1 = 0, size2 = 0;
    int    same = 1;
    if (step->kind == FSB_WALK_LEAVE) return 0;
    snprintf(path, sizeof path, "/dst%s", step->path + 4);
    fsb_op op = {.code = FSB_OP_STAT, .path = path};
    same &= fsb_backend_call(p->to, &op) == 0 && op.stat.mode == step->stat->mode
            && op.stat.mtime_ns == step->stat->mtime_ns;
    if (!S_ISDIR(op.stat.mode)) same &= op.stat.size == step->stat->size;
    if (same && S_ISREG(op.stat.mode)) {
        CHECK_EQ(fsb_read_file(p->from, step->path, 1 << 24, NULL, &one, &size1), 0);
        CHECK_EQ(fsb_read_file(p->to, path, 1 << 24, NULL, &two, &size2), 0);
        same = size1 == size2 && !memcmp(one, two, size1);
    }
    free(one), free(two);
    if (!same) fprintf(stderr, "%s is not %s\n", path, step->path);
    ++p->names, p->different += !same;
    return 0;
}

static unsigned different(fsb_backend *from, fsb_backend *to)
{
    pair p = {from, to, 0, 0};
    CHECK_EQ(fsb_backend_walk(from, "/src", NULL, compare, &p), 0);
    CHECK_EQ(p.names, 308);
    return p.different;
}

static int stop_now(void *user, const fsb_copy_progress *p)
{
    (void)user, (void)p;
    return 1;
}

static void copy_between(fsb_backend *from, fsb_backend *to)
{
    fsb_copy_progress p;
    test_memory       m = {0};
    fsb_copy_desc     d = {.from = from, .to = to, .from_path = "/src", .to_path = "/dst",
                           .parallel = 4, .allocator = {test_memory_fn, &m}};
    from->flags = 0; /* as one from afar: small files come with the listing */
    CHECK_EQ(fsb_backend_copy(&d, &p), 0);
    CHECK_EQ(p.files, 304);
    CHECK_EQ(p.folders, 4);
    CHECK(p.found_bytes >= p.bytes);
    CHECK_EQ(p.failed, 0);
    CHECK_EQ(p.passed, 0);
    CHECK_EQ(different(from, to), 0);
    CHECK_EQ(names_in(to, "/dst"), 5); /* nothing is left aside */
    d.flags = FSB_COPY_RESUME | FSB_COPY_VERIFY;
    CHECK_EQ(fsb_write_file(to, "/dst/empty", "no more", 7, 0644), 0);
    CHECK_EQ(fsb_write_file(to, "/dst/big", "short", 5, 0644), 0);
    CHECK_EQ(fsb_backend_copy(&d, &p), 0);
    CHECK_EQ(p.passed, 301); /* the link of the same text, too */
    CHECK_EQ(p.walked, 1);
    CHECK(p.found_bytes >= p.bytes); /* holes are found, not copied */
    CHECK_EQ(different(from, to), 0);
    d.flags = FSB_COPY_VERIFY;
    CHECK_EQ(fsb_backend_copy(&d, &p), 0); /* over what is there */
    CHECK_EQ(different(from, to), 0);
    d.flags = 0, d.progress = stop_now;
    CHECK_EQ(fsb_backend_copy(&d, &p), -ECANCELED);
    d.progress = NULL, from->flags = FSB_BACKEND_QUICK;
    CHECK_EQ(fsb_backend_copy(&d, &p), 0);
    CHECK_EQ(different(from, to), 0);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
    CHECK_EQ(fsb_backend_remove_all(to, "/dst", NULL), 0);
    for (uint64_t k = 1; k < 700; k += 41) { /* out of memory anywhere: counted, nothing leaks */
        m = (test_memory){.fail_at = k};
        from->flags ^= FSB_BACKEND_QUICK;
        const int err = fsb_backend_copy(&d, &p);
        CHECK(err == -ENOMEM || (err == 0 && m.calls < k));
        CHECK_EQ(m.live, 0);
    }
    fsb_backend_remove_all(to, "/dst", NULL);
}

static void copy_errors(fsb_backend *b)
{
    fsb_copy_progress p;
    fsb_copy_desc     d = {.from = b, .to = b, .from_path = "/src", .to_path = "/src/sub/x"};
    CHECK_EQ(fsb_backend_copy(&d, &p), -EINVAL);
    CHECK_EQ(fsb_backend_copy(NULL, &p), -EINVAL);
    d.to_path = "/none/x";
    CHECK_EQ(fsb_backend_copy(&d, &p), -ENOENT);
    CHECK_EQ(p.failed, 1);
    CHECK_STR(p.error_path, "/src");
    d.to_path = "/dst", d.from_path = "/none";
    CHECK_EQ(fsb_backend_copy(&d, &p), -ENOENT);
    d.from_path = "/src", d.flags = 64;
    CHECK_EQ(fsb_backend_copy(&d, &p), -EINVAL);
    d.flags = 0;
    CHECK_EQ(fsb_backend_mkdir_all(b, "/dst/sub/f1", 0755), 0); /* folders in the way of files */
    CHECK_EQ(fsb_backend_mkdir_all(b, "/dst/big", 0755), 0);
    CHECK_EQ(fsb_backend_copy(&d, &p), -EISDIR);
    CHECK_EQ(p.failed, 2); /* and the rest is copied */
    CHECK_EQ(p.files, 302);
    CHECK_EQ(names_in(b, "/dst"), 5);
    CHECK_EQ(fsb_backend_remove_all(b, "/dst", NULL), 0);
}

static void test_copy(void)
{
    fsb_backend *local = open_local("copy-local", 0), *memory = open_memory();
    REQUIRE(local && memory);
    const int before = descriptors();
    copy_source(local), copy_source(memory);
    copy_between(local, memory);
    copy_between(memory, local);
    copy_between(local, local);
    copy_between(memory, memory);
    copy_errors(local);
    copy_errors(memory);
    CHECK_EQ(descriptors(), before);
    fsb_backend_remove_all(local, "/src", NULL);
    CHECK_EQ(names_in(local, "/"), 0);
    local->close(local), memory->close(memory);
}

/* A memory backend whose WRITEs fail, or lie, after a while. */
static int64_t (*real_write)(fsb_backend *b, fsb_op *op);
static int write_budget, write_lies;

static int64_t bad_write(fsb_backend *b, fsb_op *op)
{
    if (__atomic_sub_fetch(&write_budget, 1, __ATOMIC_RELAXED) >= 0) return real_write(b, op);
    if (!write_lies) return op->result = -ENOSPC;
    char *copy = malloc(op->size);
    memcpy(copy, op->data, op->size);
    copy[op->size / 2] ^= 1;
    const void *data = op->data;
    op->data = copy;
    const int64_t n = real_write(b, op);
    op->data = data;
    free(copy);
    return n;
}

static int stop_after(void *user, const fsb_copy_progress *p)
{
    return p->bytes >= *(uint64_t *)user;
}

static void test_copy_resume(void)
{
    enum { MIB = 1 << 20, SIZE = 200 };
    fsb_backend      *from = open_memory(), *to = open_memory();
    char             *block = malloc(MIB);
    fsb_copy_progress p;
    fsb_copy_desc     d = {.from = from, .to = to, .from_path = "/f", .to_path = "/g",
                           .flags = FSB_COPY_RESUME};
    REQUIRE(from && to && block);
    fsb_backend     *b = from;
    const fsb_handle h = conf_open(b, "/f", FSB_O_WRITE | FSB_O_CREATE);
    for (int i = 0; i < SIZE; ++i) {
        memset(block, i + 1, MIB);
        CHECK_EQ(C(WRITE, .handle = h, .data = block, .size = MIB, .offset = (uint64_t)i * MIB),
                 MIB);
    }
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    real_write = to->call[FSB_OP_WRITE];
    to->call[FSB_OP_WRITE] = bad_write;
    write_budget = 150;
    CHECK_EQ(fsb_backend_copy(&d, &p), -ENOSPC);
    CHECK_EQ(names_in(to, "/"), 1); /* what there is, under another name */
    CHECK_EQ(conf_call(to, (fsb_op){.code = FSB_OP_STAT, .path = "/g"}), -ENOENT);
    write_budget = 1000;
    CHECK_EQ(fsb_backend_copy(&d, &p), 0);
    CHECK(p.bytes < (SIZE - 70) * (uint64_t)MIB); /* most of it was there */
    CHECK_EQ(names_in(to, "/"), 1);
    void  *one = NULL, *two = NULL;
    size_t size1 = 0, size2 = 0;
    CHECK_EQ(fsb_read_file(from, "/f", (size_t)SIZE * MIB, NULL, &one, &size1), 0);
    CHECK_EQ(fsb_read_file(to, "/g", (size_t)SIZE * MIB, NULL, &two, &size2), 0);
    CHECK(size1 == size2 && !memcmp(one, two, size1));
    free(one), free(two);
    CHECK_EQ(fsb_backend_remove_all(to, "/g", NULL), 0);
    write_budget = 100, write_lies = 1, d.flags = FSB_COPY_VERIFY;
    CHECK_EQ(fsb_backend_copy(&d, &p), -EBADMSG);
    CHECK_EQ(names_in(to, "/"), 0);
    uint64_t most = 10 * MIB;
    write_lies = 0, write_budget = 1000, d.progress = stop_after, d.user = &most;
    CHECK_EQ(fsb_backend_copy(&d, &p), -ECANCELED);
    CHECK_EQ(names_in(to, "/"), 0);
    free(block);
    from->close(from), to->close(to);
}

static void test_copy_sparse(void) /* 1 GiB with three bytes in it */
{
    fsb_backend *all[2] = {open_memory(), open_local("copy-sparse", 0)};
    const char   names[2] = {'m', 'l'};
    REQUIRE(all[0] && all[1]);
    for (int i = 0; i < 2; ++i) {
        fsb_backend     *b = all[i];
        const fsb_handle h = conf_open(b, "/src", FSB_O_WRITE | FSB_O_CREATE);
        CHECK_EQ(C(WRITE, .handle = h, .data = "a", .size = 1, .offset = 5), 1);
        CHECK_EQ(C(WRITE, .handle = h, .data = "b", .size = 1, .offset = 500 << 20), 1);
        CHECK_EQ(C(SETATTR, .handle = h, .attr = {.mask = FSB_ATTR_SIZE, .size = 1 << 30}), 0);
        CHECK_EQ(C(CLOSE, .handle = h), 0);
    }
    for (int i = 0; i < 4; ++i) {
        fsb_backend      *b = all[i / 2];
        fsb_copy_progress p;
        fsb_copy_desc     d = {.from = all[i % 2], .to = b, .from_path = "/src", .to_path = "/dst"};
        char              got[2] = "";
        const int64_t     start = worked_ms();
        CHECK_EQ(fsb_backend_copy(&d, &p), 0);
        if (worked_ms() - start > 1000) fprintf(stderr, "%c to %c: ", names[i % 2], names[i / 2]);
        CHECK(worked_ms() - start < 10000);
        CHECK_EQ(p.bytes, 2 << 20);
        CHECK_EQ(conf_stat(b, "/dst").size, 1 << 30);
        CHECK(conf_stat(b, "/dst").blocks < 5 * 2048);
        const fsb_handle h = conf_open(b, "/dst", FSB_O_READ);
        CHECK_EQ(C(READ, .handle = h, .buf = got, .size = 2, .offset = 500 << 20), 2);
        CHECK(got[0] == 'b' && !got[1]);
        CHECK_EQ(C(CLOSE, .handle = h), 0);
        CHECK_EQ(C(UNLINK, .path = "/dst"), 0);
    }
    all[0]->close(all[0]), all[1]->close(all[1]);
}

/* A backend of an older release, with a shorter table. */
static int64_t old_stat(fsb_backend *b, fsb_op *op)
{
    (void)b;
    return op->result = 0;
}

static void test_short_table(void)
{
    fsb_backend old = {.size = offsetof(fsb_backend, call) + 2 * sizeof(old.call[0])};
    old.call[FSB_OP_STAT] = old_stat;
    old.call[FSB_OP_READLINK] = old_stat; /* behind its end: not part of it */
    fsb_op op = {.code = FSB_OP_STAT};
    CHECK_EQ(fsb_backend_call(&old, &op), 0);
    op.code = FSB_OP_READLINK;
    CHECK_EQ(fsb_backend_call(&old, &op), -ENOSYS);
    op.code = FSB_OP_GET;
    CHECK_EQ(fsb_backend_call(&old, &op), -ENOSYS);
    op.code = 4000000000u;
    CHECK_EQ(fsb_backend_call(&old, &op), -ENOSYS);
}

/* ---- commands ---- */

typedef struct heard { /* what a command wrote */
    char     text[2][4096];
    uint64_t size[2];
    uint64_t stop_at; /* bytes of stdout, then output() asks for the end; 0: never */
    int      calls;
} heard;

static int hear(fsb_op *op, int fd, const void *data, size_t size)
{
    heard *h = op->user;
    CHECK(fd == 1 || fd == 2);
    const uint64_t had = h->size[fd - 1], room = sizeof h->text[0] - 1;
    if (had < room) memcpy(h->text[fd - 1] + had, data, size < room - had ? size : room - had);
    h->size[fd - 1] += size;
    __atomic_add_fetch(&h->calls, 1, __ATOMIC_RELEASE);
    return h->stop_at && h->size[0] >= h->stop_at;
}

static fsb_backend *open_exec(const char *name)
{
    static const char *const env[] = {"FSB_HOST=kept", "FSB_A=host", "PATH=/usr/bin:/bin", NULL};
    fsb_local_desc desc = {.root = fresh_dir(name), .allow_exec = 1, .exec_env = env};
    fsb_backend   *b = NULL;
    CHECK_EQ(fsb_local_open(&b, &desc), 0);
    return b;
}

/* One line of shell in `path`; what else is asked stands in *e. */
static int64_t shell(fsb_backend *b, const char *path, const char *line, fsb_exec *e, heard *h,
                     uint32_t timeout_ms)
{
    const char *argv[] = {line, NULL};
    e->argv = argv, e->output = hear;
    *h = (heard){.stop_at = h->stop_at};
    fsb_op op = {.code = FSB_OP_EXEC, .path = path, .flags = FSB_EXEC_SHELL, .exec = e,
                 .timeout_ms = timeout_ms, .user = h};
    const int64_t n = fsb_backend_call(b, &op);
    CHECK_EQ(n, op.result);
    e->argv = NULL;
    return n;
}

static void exec_basics(fsb_backend *b)
{
    heard    h = {0};
    fsb_exec e = {0};
    CHECK_EQ(shell(b, "/", "echo out; echo err >&2; exit 7", &e, &h, 0), 0);
    CHECK_STR(h.text[0], "out\n");
    CHECK_STR(h.text[1], "err\n");
    CHECK_EQ(e.exit_code, 7);
    CHECK_EQ(e.signal, 0);
    CHECK_EQ(shell(b, "/", "-x 2>/dev/null; echo out", &e, &h, 0), 0); /* not sh's options */
    CHECK_STR(h.text[0], "out\n");
    CHECK_EQ(shell(b, "/", "kill -9 $$", &e, &h, 0), 0);
    CHECK_EQ(e.exit_code, 0);
    CHECK_EQ(e.signal, 9);
    CHECK_EQ(shell(b, "/", "cat", &e, &h, 0), 0); /* no stdin: its end comes at once */
    CHECK_EQ(h.size[0] + h.size[1], 0);
    e.input = "some input", e.input_size = 10;
    CHECK_EQ(shell(b, "/", "cat; cat /dev/stdin | wc -c", &e, &h, 0), 0);
    CHECK(!memcmp(h.text[0], "some input", 10));
    static char big[3 << 20];
    memset(big, 'x', sizeof big);
    e.input = big, e.input_size = sizeof big;
    CHECK_EQ(shell(b, "/", "wc -c; echo x", &e, &h, 0), 0);
    CHECK_EQ(atoi(h.text[0]), (int)sizeof big);
    CHECK_EQ(shell(b, "/", "exit 3", &e, &h, 0), 0); /* nobody reads it: no SIGPIPE for us */
    CHECK_EQ(e.exit_code, 3);
    e.input = NULL, e.input_size = 0;
    const char *argv[] = {"printf", "%s|", "a b", "$HOME", NULL}; /* no shell: as they stand */
    fsb_op      op = {.code = FSB_OP_EXEC, .path = "/", .exec = &e, .user = &h};
    e.argv = argv, h = (heard){0};
    CHECK_EQ(fsb_backend_call(b, &op), 0);
    CHECK_STR(h.text[0], "a b|$HOME|");
    e.output = NULL; /* nobody listens */
    CHECK_EQ(fsb_backend_call(b, &op), 0);
}

static void exec_places(fsb_backend *b, const char *where)
{
    heard    h = {0};
    fsb_exec e = {0};
    char     want[400];
    CHECK_EQ(C(MKDIR, .path = "/in", MODE(0755)), 0);
    CHECK_EQ(C(SYMLINK, .path = "/out", .path2 = "/etc"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/up", .path2 = ".."), 0);
    CHECK_EQ(shell(b, "/in", "pwd -P", &e, &h, 0), 0);
    snprintf(want, sizeof want, "%s/in\n", where);
    CHECK_STR(h.text[0], want);
    CHECK(shell(b, "/out", "pwd", &e, &h, 0) < 0);
    CHECK(shell(b, "/up", "pwd", &e, &h, 0) < 0);
    CHECK_EQ(shell(b, "/up/x", "pwd", &e, &h, 0), -EACCES);
    CHECK_EQ(shell(b, "/../x", "pwd", &e, &h, 0), -EINVAL);
    CHECK_EQ(shell(b, "/none", "pwd", &e, &h, 0), -ENOENT);
    conf_put(b, "/file", "x");
    CHECK_EQ(shell(b, "/file", "pwd", &e, &h, 0), -ENOTDIR);
    CHECK_EQ(h.calls, 0);
    C(UNLINK, .path = "/file"), C(UNLINK, .path = "/out"), C(UNLINK, .path = "/up");
    C(RMDIR, .path = "/in");
}

static void exec_environment(fsb_backend *b)
{
    heard       h = {0};
    fsb_exec    e = {0};
    const char *good[] = {"FSB_A=first", "FSB_NL=two\nlines", "FSB_EMPTY=", "FSB_A=last", NULL};
    e.env = good;
    CHECK_EQ(shell(b, "/", "echo \"$FSB_A|$FSB_NL|${FSB_EMPTY-unset}|$FSB_HOST\"; "
                           "env | grep -c ^FSB_A=", &e, &h, 0), 0);
    CHECK_STR(h.text[0], "last|two\nlines||kept\n1\n");
    const char *bad[][2] = {{"NOVALUE", NULL}, {"=x", NULL}, {"", NULL}};
    for (int i = 0; i < 3; ++i) {
        e.env = bad[i];
        CHECK_EQ(shell(b, "/", "true", &e, &h, 0), -EINVAL);
    }
}

/* qemu-user spawns by a fork that nothing comes back of: what cannot run ends with 127. */
static int spawn_tells(void)
{
    char *argv[] = {(char *)(uintptr_t) "none", NULL};
    pid_t pid = 0;
    if (posix_spawn(&pid, "/none", NULL, NULL, argv, NULL) != 0) return 1;
    waitpid(pid, NULL, 0);
    return 0;
}

static void exec_refusals(fsb_backend *b)
{
    const char *none[] = {NULL}, *empty[] = {"", NULL}, *two[] = {"true", "x", NULL};
    const char *gone[] = {"fsb-no-such-program", NULL}, *folder[] = {"/", NULL};
    fsb_exec    e = {0};
    fsb_op      op = {.code = FSB_OP_EXEC, .path = "/"};
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    op.exec = &e;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    e.argv = none;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    e.argv = empty;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    if (spawn_tells()) {
        e.argv = gone;
        const int64_t n = fsb_backend_call(b, &op); /* a folder of PATH may be closed to us */
        CHECK(n == -ENOENT || n == -EACCES);
        e.argv = folder;
        CHECK_EQ(fsb_backend_call(b, &op), -EACCES);
    }
    e.argv = two, op.flags = FSB_EXEC_SHELL;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    op.flags = 2;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    op.flags = 0, e.input_size = 1;
    CHECK_EQ(fsb_backend_call(b, &op), -EINVAL);
    fsb_backend *m = open_memory();
    CHECK_EQ(fsb_backend_call(m, &op), -ENOSYS);
    m->close(m);
    e.input_size = 0;
    fsb_local_desc desc = {.root = test_dir()};
    CHECK_EQ(fsb_local_open(&m, &desc), 0);
    CHECK_EQ(fsb_backend_call(m, &op), -EACCES); /* not allowed unless asked for */
    m->close(m);
}

static void exec_limits(fsb_backend *b)
{
    heard    h = {0};
    fsb_exec e = {.max_output = 1000};
    CHECK_EQ(shell(b, "/", "head -c 2000000000 /dev/zero; head -c 1500 /dev/zero >&2", &e, &h, 0),
             0);
    CHECK_EQ(h.size[0], 1000);
    CHECK_EQ(e.cut[0], UINT64_C(2000000000) - 1000);
    CHECK_EQ(h.size[1], 1000);
    CHECK_EQ(e.cut[1], 500);
    e.max_output = 0, h.stop_at = 100000;
    int64_t start = now_ms();
    CHECK_EQ(shell(b, "/", "cat /dev/zero", &e, &h, 0), 0); /* endless: output() ends it */
    CHECK_EQ(e.signal, SIGTERM);
    CHECK(now_ms() - start < 20000);
    h.stop_at = 0, start = now_ms();
    CHECK_EQ(shell(b, "/", "sleep 100", &e, &h, 200), -ETIMEDOUT);
    CHECK_EQ(e.signal, SIGTERM);
    CHECK(now_ms() - start >= 200 && now_ms() - start < 20000);
    h.size[0] = 0;
    uint32_t given = 0;
    for (uint32_t ms = 1000; ms <= 16000 && !h.size[0]; ms *= 4) { /* till it ignores TERM */
        start = now_ms(), given = ms; /* its child does as well */
        CHECK_EQ(shell(b, "/", "trap '' TERM; echo $$; sleep 100; sleep 100", &e, &h, ms),
                 -ETIMEDOUT);
    }
    CHECK_EQ(e.signal, SIGKILL);
    CHECK(now_ms() - start >= 3000 && now_ms() - start < given + 19000);
    EVENTUALLY(kill(-(pid_t)atoi(h.text[0]), 0)); /* nobody of the group: init has waited for all */
    start = now_ms(); /* a child that keeps the pipes open does not hold the call */
    CHECK_EQ(shell(b, "/", "echo $$; sleep 100 & exit 4", &e, &h, 0), 0);
    CHECK_EQ(e.exit_code, 4);
    CHECK(now_ms() - start < 20000);
    CHECK_EQ(kill(-(pid_t)atoi(h.text[0]), SIGKILL), 0); /* and was left alone */
    start = now_ms();
    CHECK_EQ(shell(b, "/", "(while :; do echo more; done) & echo $$ >&2", &e, &h, 0), 0);
    CHECK(now_ms() - start < 20000);
    kill(-(pid_t)atoi(h.text[1]), SIGKILL);
}

static void exec_child_state(fsb_backend *b)
{
    heard        h = {0};
    fsb_exec     e = {0};
    sigset_t     block, old;
    const int    open_fd = dup(2); /* not close-on-exec */
    void       (*was)(int) = signal(SIGPIPE, SIG_IGN);
    sigemptyset(&block), sigaddset(&block, SIGINT);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    CHECK_EQ(shell(b, "/", "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status",
                   &e, &h, 0), 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, was);
    close(open_fd);
    CHECK_EQ(atoi(h.text[0]), 4); /* three, and that of the listing */
    CHECK(strstr(h.text[0], "SigBlk:\t0000000000000000"));
    const char *ignored = strstr(h.text[0], "SigIgn:\t"); /* libc has two of its own above 31 */
    CHECK(ignored && (strtoull(ignored + 8, NULL, 16) & 0x7fffffff) == 0);
}

static void test_exec(void)
{
    char         where[400], real[PATH_MAX];
    fsb_backend *b = open_exec("exec");
    REQUIRE(b);
    const int before = descriptors();
    snprintf(where, sizeof where, "%s/exec", test_dir());
    REQUIRE(realpath(where, real));
    exec_basics(b);
    exec_places(b, real);
    exec_environment(b);
    exec_refusals(b);
    exec_child_state(b);
    exec_limits(b);
    CHECK_EQ(descriptors(), before);
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* no zombies */
    CHECK_EQ(C(MKDIR, .path = "/sub", MODE(0755)), 0);
    fsb_scoped_desc desc = {.inner = b, .prefix = "/sub"};
    fsb_backend    *s = NULL;
    CHECK_EQ(fsb_scoped_open(&s, &desc), 0);
    REQUIRE(s);
    snprintf(real + strlen(real), sizeof real - strlen(real), "/sub");
    exec_basics(s);
    exec_places(s, real);
    s->close(s);
    b->close(b);
}

typedef struct exec_crowd {
    fsb_op   op;
    fsb_exec exec;
    heard    heard;
    char     line[32];
    const char *argv[2];
} exec_crowd;

static int  exec_finished;
static void exec_done(fsb_op *op)
{
    (void)op;
    __atomic_add_fetch(&exec_finished, 1, __ATOMIC_RELEASE);
}

static void exec_submit(fsb_backend *b, fsb_workers *w, exec_crowd *c, int n, const char *line)
{
    exec_finished = 0;
    for (int i = 0; i < n; ++i) {
        memset(&c[i], 0, sizeof c[i]);
        snprintf(c[i].line, sizeof c[i].line, line, i);
        c[i].argv[0] = c[i].line;
        c[i].exec = (fsb_exec){.argv = c[i].argv, .output = hear};
        c[i].op = (fsb_op){.code = FSB_OP_EXEC, .path = "/", .flags = FSB_EXEC_SHELL,
                           .exec = &c[i].exec, .user = &c[i].heard, .done = exec_done};
        fsb_op *op = &c[i].op;
        fsb_backend_submit(b, &op, 1, fsb_workers_runner(w));
    }
}

static int exec_wait(int n)
{
    EVENTUALLY(__atomic_load_n(&exec_finished, __ATOMIC_ACQUIRE) >= n);
    return __atomic_load_n(&exec_finished, __ATOMIC_ACQUIRE);
}

static int exec_begun(exec_crowd *c, int n) /* that many have said something */
{
    int begun = 0;
    for (int i = 0; i < n; ++i) begun += __atomic_load_n(&c[i].heard.calls, __ATOMIC_ACQUIRE) > 0;
    return begun == n;
}

static void test_exec_crowd(void) /* a hundred at once, and ending them */
{
    fsb_backend     *b = open_exec("exec-crowd"), *s = NULL;
    fsb_workers     *w = NULL;
    fsb_workers_desc desc = {.threads = 100};
    fsb_scoped_desc  scope = {.inner = b, .prefix = "/"};
    exec_crowd      *c = calloc(101, sizeof *c);
    const int        before = descriptors();
    CHECK_EQ(fsb_workers_open(&w, &desc), 0);
    CHECK_EQ(fsb_scoped_open(&s, &scope), 0);
    REQUIRE(b && w && c && s);
    exec_submit(b, w, c, 100, "sleep 0.3; echo %d");
    CHECK_EQ(exec_wait(100), 100);
    for (int i = 0; i < 100; ++i) {
        CHECK_EQ(c[i].op.result, 0);
        CHECK_EQ(atoi(c[i].heard.text[0]), i);
    }
    for (int round = 0; round < 2; ++round) { /* 100 run, the last one waits for a thread */
        fsb_backend *on = round ? s : b;
        exec_submit(on, w, c, 101, "echo; exec sleep 10%d");
        EVENTUALLY(exec_begun(c, 100));
        for (int i = 101; i-- > 0;) on->cancel(on, &c[i].op);
        CHECK_EQ(exec_wait(101), 101);
        for (int i = 0; i < 101; ++i) CHECK_EQ(c[i].op.result, -EINTR);
        CHECK_EQ(c[0].exec.signal, SIGTERM);
        CHECK_EQ(c[100].exec.signal, 0); /* it never began */
    }
    fsb_workers_close(w);
    CHECK_EQ(descriptors(), before);
    s->close(s);
    b->close(b);
    free(c);
}

/* ---- watch ---- */

typedef struct closer {
    fsb_backend *b;
    fsb_handle   handle;
    int          events, closed;
} closer;

static void close_self(void *user, const fsb_event *e)
{
    closer *c = user;
    (void)e;
    if (__atomic_add_fetch(&c->events, 1, __ATOMIC_RELAXED) > 1) return;
    while (!__atomic_load_n(&c->handle, __ATOMIC_ACQUIRE)) usleep(100);
    fsb_op op = {.code = FSB_OP_CLOSE, .handle = c->handle};
    CHECK_EQ(fsb_backend_call(c->b, &op), 0);
    __atomic_store_n(&c->closed, 1, __ATOMIC_RELEASE);
}

static void watch_close_in_event(fsb_backend *b)
{
    closer c = {b, 0, 0, 0};
    CHECK_EQ(C(WATCH, .path = "/", .event = close_self, .user = &c), 0);
    __atomic_store_n(&c.handle, conf_op.handle, __ATOMIC_RELEASE);
    for (int i = 0; i < 50; ++i) {
        conf_put(b, "/x", "x");
        usleep(1000);
    }
    EVENTUALLY(__atomic_load_n(&c.closed, __ATOMIC_ACQUIRE));
    conf_put(b, "/x", "y");
    CHECK_EQ(__atomic_load_n(&c.events, __ATOMIC_RELAXED), 1);
    b->close(b);
}

static void test_watch_close(void)
{
    watch_close_in_event(open_memory());
    watch_close_in_event(open_local("watch-close", 0));
}

static int watch_swapped(const char *name, int exact);

/* What another process does is told of, every single change. */
enum { CHANGES = 1000, STEPS = 8 };

typedef struct changes {
    unsigned char seen[FSB_EVENT_LOST + 1][CHANGES];
    unsigned      lost, own, no_stat;
} changes;

static void changed(void *user, const fsb_event *e)
{
    changes    *c = user;
    const char *path = e->kind == FSB_EVENT_RENAMED ? e->path2 : e->path;
    const char *name = strrchr(path, '/') + 1;
    unsigned    i;
    __atomic_add_fetch(&c->lost, e->kind == FSB_EVENT_LOST, __ATOMIC_RELAXED);
    __atomic_add_fetch(&c->own, !strncmp(name, "own", 3), __ATOMIC_RELAXED);
    if (e->kind == FSB_EVENT_REMOVED) CHECK(!e->stat);
    else if (e->stat) CHECK(e->stat->file_id != 0);
    if (sscanf(name, "%*[nf]%u", &i) == 1 && i < CHANGES)
        __atomic_store_n(&c->seen[e->kind][i], 1, __ATOMIC_RELEASE);
}

static int changed_all(changes *c, uint32_t kind)
{
    unsigned missing;
    int64_t  napped = 0;
    do {
        missing = 0;
        for (unsigned i = 0; i < CHANGES; ++i)
            missing += !__atomic_load_n(&c->seen[kind][i], __ATOMIC_ACQUIRE);
    } while (missing && !__atomic_load_n(&c->lost, __ATOMIC_RELAXED) && test_nap(&napped));
    if (__atomic_load_n(&c->lost, __ATOMIC_RELAXED)) return 1; /* nothing can be said */
    if (missing) fprintf(stderr, "kind %u: %u of %d were not told\n", kind, missing, CHANGES);
    return !missing;
}

/* One step of the other process: the same change to every file. */
static int change_one(int step, unsigned i)
{
    char            path[32], other[64] = "aside";
    struct timespec old[2] = {{1000, 0}, {1000, 0}};
    int             fd = -1, err = 0;
    snprintf(path, sizeof path, "%c%u", step == 7 ? 'f' : 'n', i);
    switch (step) {
    case 0: fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644); break;
    case 1:
        fd = open(path, O_WRONLY);
        err |= write(fd, "same", 4) != 4 || futimens(fd, old);
        break;
    case 2: err = chmod(path, 0600); break;
    case 3: /* replaced */
        fd = open(other, O_WRONLY | O_CREAT | O_EXCL, 0644);
        err = rename(other, path);
        break;
    case 4: /* there and back */
        err = rename(path, other) || rename(other, path);
        break;
    case 5: err = unlink(path); break;
    case 6: /* a folder, and a file in it at once */
        err = mkdir(path, 0755);
        snprintf(other, sizeof other, "n%u/n%u", i, i);
        fd = open(other, O_WRONLY | O_CREAT | O_EXCL, 0644);
        break;
    default: /* through another name of the file */
        snprintf(other, sizeof other, "n%u/n%u", i, i);
        err = link(other, path);
        fd = open(path, O_WRONLY);
        err |= write(fd, "link", 4) != 4;
        break;
    }
    if (fd >= 0) close(fd);
    return err;
}

static void change_all(const char *dir, int step)
{
    int         status = 0;
    const pid_t pid = fork();
    if (pid == 0) {
        int err = chdir(dir);
        for (unsigned i = 0; i < CHANGES; ++i) err |= change_one(step, i);
        _exit(err != 0);
    }
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
}

/* Everything is told of, and of this process's own, nothing, where that can be known. 1: events
   were lost, as they may be if a busy machine does not come to read them. */
static int watch_foreign_once(const char *name, int want_exact)
{
    fsb_backend *b = open_local(name, 0);
    changes     *c = calloc(1, sizeof *c);
    char         dir[400], path[32];
    const uint32_t kinds[STEPS] = {FSB_EVENT_CREATED, FSB_EVENT_CONTENT, FSB_EVENT_ATTR,
                                   FSB_EVENT_RENAMED, FSB_EVENT_RENAMED, FSB_EVENT_REMOVED,
                                   FSB_EVENT_CREATED, FSB_EVENT_CREATED};
    if (!b || !c) return 1;
    snprintf(dir, sizeof dir, "%s/%s/d", test_dir(), name);
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0755)), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP | FSB_WATCH_FOREIGN, .event = changed,
               .user = c), 0);
    const fsb_handle h = conf_op.handle;
    const int        exact = conf_op.out_offset == 1;
    if (want_exact >= 0) CHECK_EQ(exact, want_exact);
    for (unsigned i = 0; i < 100; ++i) {
        snprintf(path, sizeof path, "/own%u", i);
        conf_put(b, path, "x");
        CHECK_EQ(C(UNLINK, .path = path), 0);
    }
    for (int step = 0; step < STEPS; ++step) {
        memset(c->seen, 0, sizeof c->seen);
        change_all(dir, step);
        CHECK(changed_all(c, kinds[step]));
        if (step == 7) CHECK(changed_all(c, FSB_EVENT_CONTENT));
    }
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    const int lost = c->lost != 0;
    if (exact) CHECK_EQ(c->own, 0);
    else CHECK(lost || c->own > 0);
    b->close(b);
    free(c);
    return lost;
}

static int watch_foreign(const char *name, int want_exact)
{
    char again[64];
    int  lost = 1;
    for (int i = 0; i < 5 && lost; ++i) {
        snprintf(again, sizeof again, "%s%d", name, i);
        lost = watch_foreign_once(again, want_exact);
    }
    CHECK(!lost);
    return test_.bad != 0;
}

static void test_watch_foreign(void) { watch_foreign("foreign", -1); }

/* In a child that may not use fanotify. */
static int watch_inotify(void)
{
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_fanotify_init},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog filter = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return 77;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return 77;
    conformance_traits t = traits("local without fanotify", 1);
    fsb_backend       *b = open_local("inotify-conformance", 0);
    if (!b) return 1;
    t.many = 10;
    conformance_run(b, &t);
    b->close(b);
    return watch_swapped("inotify-swapped", 0) | watch_foreign("inotify", 0);
}

/* In a child with a file system mounted below the root. */
static int watch_mounted(void)
{
    char place[400];
    snprintf(place, sizeof place, "%s/a b\\c", fresh_dir("mounted"));
    if (syscall(SYS_fanotify_init, 0, 0) < 0 && errno == ENOSYS) return 77;
    if (mkdir(place, 0755) || unshare(CLONE_NEWNS)) return 77;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return 77;
    if (mount("none", place, "tmpfs", 0, NULL)) return 77;
    fsb_local_desc desc = {.root = place};
    fsb_backend   *b = NULL;
    changes       *c = calloc(1, sizeof *c);
    CHECK_EQ(fsb_local_open(&b, &desc), 0);
    if (!b || !c) return 1;
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_FOREIGN, .event = changed, .user = c), 0);
    CHECK_EQ(conf_op.out_offset, 1); /* the mounted one itself */
    b->close(b);
    snprintf(place, sizeof place, "%s/mounted", test_dir());
    CHECK_EQ(fsb_local_open(&b, &desc), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_FOREIGN | FSB_WATCH_DEEP, .event = changed,
               .user = c), 0);
    CHECK_EQ(conf_op.out_offset, 0); /* it is below: no one mark covers both */
    b->close(b);
    free(c);
    return test_.bad != 0;
}

/* A folder is renamed before what happened in it was read: the path told is the new one, and so
   everything below it is said to be lost. */
typedef struct late {
    int held, go, created, renamed, lost;
} late;

static void late_event(void *user, const fsb_event *e)
{
    late *l = user;
    if (!strcmp(e->path, "/hold")) {
        __atomic_store_n(&l->held, 1, __ATOMIC_RELEASE);
        while (!__atomic_load_n(&l->go, __ATOMIC_ACQUIRE)) usleep(1000);
    }
    l->created += e->kind == FSB_EVENT_CREATED && !strcmp(e->path, "/b/f");
    if (e->kind == FSB_EVENT_LOST && !strcmp(e->path, "/b")) {
        CHECK_EQ(l->renamed, 1); /* behind it */
        __atomic_store_n(&l->lost, 1, __ATOMIC_RELEASE);
    }
    l->renamed += e->kind == FSB_EVENT_RENAMED && !strcmp(e->path2, "/b");
}

static void test_watch_early(void)
{
    fsb_backend *b = open_local("early", 0), *other = NULL;
    char         root[300];
    late         l = {0};
    snprintf(root, sizeof root, "%s/early", test_dir());
    fsb_local_desc desc = {.root = root};
    CHECK_EQ(fsb_local_open(&other, &desc), 0);
    REQUIRE(b && other);
    CHECK_EQ(C(MKDIR, .path = "/a", MODE(0755)), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_FOREIGN, .event = late_event, .user = &l), 0);
    const int exact = conf_op.out_offset == 1;
    CHECK_EQ(C(CLOSE, .handle = conf_op.handle), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = late_event, .user = &l), 0);
    CHECK_EQ(conf_op.out_offset, 0); /* not asked for */
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_HELD, .event = late_event), -ENOSYS);
    CHECK_EQ(C(WATCH, .path = "/", .flags = 8, .event = late_event), -EINVAL);
    if (exact) {
        conf_put(other, "/hold", "");
        EVENTUALLY(__atomic_load_n(&l.held, __ATOMIC_ACQUIRE));
        conf_put(other, "/a/f", "x");
        CHECK_EQ(conf_call(other, (fsb_op){.code = FSB_OP_RENAME, .path = "/a", .path2 = "/b"}), 0);
        __atomic_store_n(&l.go, 1, __ATOMIC_RELEASE);
        EVENTUALLY(__atomic_load_n(&l.lost, __ATOMIC_ACQUIRE));
        CHECK(l.created == 1 && l.lost == 1);
    }
    b->close(b);
    other->close(other);
    if (!exact) SKIP("fanotify may not be used here");
    watch_swapped("early-swapped", 1);
}

/* Two folders that others exchange: what happens in them then is told by their names of now. And a
   file of two names that loses one is told of by the other, where that can be known. */
typedef struct exchanged {
    int at_a, at_b, linked;
} exchanged;

static void swapped_event(void *user, const fsb_event *e)
{
    exchanged *s = user;
    if (e->kind != FSB_EVENT_ATTR) return;
    if (!strcmp(e->path, "/a/b")) __atomic_store_n(&s->at_a, 1, __ATOMIC_RELEASE);
    if (!strcmp(e->path, "/b/in/a")) __atomic_store_n(&s->at_b, 1, __ATOMIC_RELEASE);
    if (!strcmp(e->path, "/b/one") && e->stat && e->stat->nlink == 1)
        __atomic_store_n(&s->linked, 1, __ATOMIC_RELEASE);
}

static int watch_swapped(const char *name, int exact)
{
    fsb_backend *b = open_local(name, 0);
    exchanged    s = {0};
    char         root[300];
    snprintf(root, sizeof root, "%s/%s", test_dir(), name);
    CHECK_EQ(C(MKDIR, .path = "/a", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/a/in", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/b", MODE(0755)), 0);
    conf_put(b, "/a/in/a", ""), conf_put(b, "/b/b", ""), conf_put(b, "/a/one", "");
    CHECK_EQ(C(LINK, .path = "/a/one", .path2 = "/a/two"), 0);
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = swapped_event, .user = &s), 0);
    const int in = open(root, O_RDONLY | O_DIRECTORY);
    CHECK_EQ(syscall(SYS_renameat2, in, "a", in, "b", 2 /* EXCHANGE */), 0);
    for (int i = 0; i < 1000 && !(__atomic_load_n(&s.at_a, __ATOMIC_ACQUIRE) &&
                                  __atomic_load_n(&s.at_b, __ATOMIC_ACQUIRE)); ++i) {
        CHECK_EQ(fchmodat(in, "a/b", 0600, 0), 0);
        CHECK_EQ(fchmodat(in, "b/in/a", 0600, 0), 0);
        usleep(1000);
    }
    CHECK(s.at_a && s.at_b);
    CHECK_EQ(unlinkat(in, "b/two", 0), 0);
    for (int i = 0; exact && i < 2000 && !__atomic_load_n(&s.linked, __ATOMIC_ACQUIRE); ++i)
        usleep(1000);
    if (exact) CHECK(__atomic_load_n(&s.linked, __ATOMIC_ACQUIRE));
    close(in);
    b->close(b);
    return test_.bad != 0;
}

static void in_child(int (*fn)(void), const char *why)
{
    int         status = 0;
    const char *dir = test_dir();
    const pid_t pid = fork();
    if (pid == 0) _exit(dir ? fn() : 1);
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP(why);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_unsearchable(void) { in_child(unsearchable, "nobody may not be become here"); }
static void test_unsettled(void) { in_child(unsettled, "no seccomp filters here"); }
static void test_watch_inotify(void) { in_child(watch_inotify, "no seccomp filters here"); }
static void test_watch_mounted(void)
{
    if (geteuid() != 0) SKIP("not root");
    in_child(watch_mounted, "nothing may be mounted here, or there is no fanotify");
}

static int write_text(const char *path, const char *text)
{
    const int fd = open(path, O_WRONLY);
    const int n = fd < 0 ? -1 : (int)write(fd, text, strlen(text));
    if (fd >= 0) close(fd);
    return n == (int)strlen(text);
}

/* In a user namespace of its own, which may have three watches. */
static int past_the_limit(void)
{
    char map[32];
    snprintf(map, sizeof map, "0 %u 1", (unsigned)geteuid());
    if (unshare(CLONE_NEWUSER) || !write_text("/proc/self/uid_map", map)) return 77;
    if (!write_text("/proc/sys/user/max_inotify_watches", "3")) return 77;
    fsb_backend *b = open_local("limit", 0);
    conf_events  got = {.lock = PTHREAD_MUTEX_INITIALIZER};
    char         path[64];
    for (unsigned i = 0; i < 10; ++i) {
        snprintf(path, sizeof path, "/d%u", i);
        CHECK_EQ(C(MKDIR, .path = path, MODE(0755)), 0);
        snprintf(path, sizeof path, "/d%u/old", i);
        conf_put(b, path, "x");
    }
    CHECK_EQ(C(WATCH, .path = "/", .flags = FSB_WATCH_DEEP, .event = conf_event, .user = &got), 0);
    const fsb_handle h = conf_op.handle;
    for (unsigned i = 0; i < 10; ++i) {
        snprintf(path, sizeof path, "/d%u/new", i);
        CHECK_EQ(C(MKNOD, .path = path, MODE(S_IFREG | 0600)), 0);
        snprintf(path, sizeof path, "/d%u/old", i);
        conf_put(b, path, "y");
    }
    CHECK(conf_wait_for(&got, FSB_EVENT_CREATED, 10));
    CHECK(conf_wait_for(&got, FSB_EVENT_CONTENT, 10));
    for (unsigned i = 0; i < 10; ++i) {
        snprintf(path, sizeof path, "/d%u/old", i);
        CHECK_EQ(C(UNLINK, .path = path), 0);
    }
    CHECK(conf_wait_for(&got, FSB_EVENT_REMOVED, 10));
    CHECK_EQ(C(MKDIR, .path = "/d9/sub", MODE(0755)), 0); /* a new folder in a polled one */
    CHECK_EQ(C(MKDIR, .path = "/d9/sub/deep", MODE(0755)), 0);
    CHECK(conf_wait_for(&got, FSB_EVENT_CREATED, 12));
    CHECK_EQ(C(MKDIR, .path = "/d9/sub/deep/er", MODE(0755)), 0);
    CHECK(conf_wait_for(&got, FSB_EVENT_CREATED, 13));
    CHECK_EQ(conf_seen(&got, FSB_EVENT_LOST), 0);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    b->close(b);
    return test_.bad != 0;
}

static void test_watch_limit(void)
{
    int         status = 0;
    const char *dir = test_dir();
    const pid_t pid = fork();
    if (pid == 0) _exit(dir ? past_the_limit() : 1);
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no user namespaces here");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_normalize);
    TEST(test_memory_backend);
    TEST(test_local);
    TEST(test_local_umask);
    TEST(test_local_default_acl);
    TEST(test_scoped_memory);
    TEST(test_scoped_local);
    TEST(test_read_only);
    TEST(test_open_errors);
    TEST(test_jail);
    TEST(test_fifo_untouched);
    TEST(test_file_replaced);
    TEST(test_without_openat2);
    TEST(test_unsearchable);
    TEST(test_unsettled);
    TEST(test_handles);
    TEST(test_open_in_vain);
    TEST(test_oom_memory);
    TEST(test_oom_local);
    TEST(test_limit);
    TEST(test_put_fails);
    TEST(test_make_swapped);
    TEST(test_crowd_memory);
    TEST(test_crowd_local);
    TEST(test_close_while_read);
    TEST(test_workers);
    TEST(test_submit);
    TEST(test_files);
    TEST(test_conveniences);
    TEST(test_walk_odd);
    TEST(test_copy);
    TEST(test_copy_resume);
    TEST(test_copy_sparse);
    TEST(test_short_table);
    TEST(test_exec);
    TEST(test_exec_crowd);
    TEST(test_watch_close);
    TEST(test_watch_limit);
    TEST(test_watch_foreign);
    TEST(test_watch_early);
    TEST(test_watch_inotify);
    TEST(test_watch_mounted);
    return test_end("test_backend");
}
