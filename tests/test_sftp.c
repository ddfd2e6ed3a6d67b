/* test_sftp.c - the SFTP backend against OpenSSH's server, over a socket and over a real sshd on
   the loopback, and against servers that misbehave; and fsb-host over that sshd. */
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_backend.h"
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_chunk.h"
#include "conformance.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <sys/socket.h>

static const uint32_t make = FSB_O_WRITE | FSB_O_CREATE;

typedef struct server {
    char *const *argv;
    pid_t        pid;
    int          started;
} server;

/* An fsb_sftp_desc.connect: runs argv with a socket as its stdin and stdout. */
static int run_server(void *user, int fds[2])
{
    server *s = user;
    int     pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
    if (s->pid > 0) kill(s->pid, SIGKILL), waitpid(s->pid, NULL, 0);
    s->pid = fork();
    if (s->pid == 0) {
        dup2(pair[1], 0), dup2(pair[1], 1);
        execv(s->argv[0], s->argv);
        _exit(127);
    }
    close(pair[1]);
    ++s->started;
    fds[0] = fds[1] = pair[0];
    return 0;
}

static void end_server(server *s)
{
    if (s->pid > 0) kill(s->pid, SIGKILL), waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

static const char *sftp_server(void)
{
    static const char *const places[] = {"/usr/lib/openssh/sftp-server",
                                         "/usr/libexec/openssh/sftp-server",
                                         "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"};
    for (size_t i = 0; i < sizeof places / sizeof *places; ++i)
        if (access(places[i], X_OK) == 0) return places[i];
    return NULL;
}

static void new_root(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", test_dir(), name);
    CHECK_EQ(mkdir(path, 0755), 0);
}

static int count_fds(void)
{
    int            n = 0;
    DIR           *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) ++n;
    if (dir) closedir(dir);
    return n;
}

/* ---- what a backend must do, as far as SFTP can ---- */

static conformance_traits v3(const char *name, int many)
{
    return (conformance_traits){.name = name, .can_chown = geteuid() == 0, .many = many, .lacks = {
        [CONF_EXCHANGE] = "there is no such request",
        [CONF_IDENTITY] = "answers have no inode, paths stand for files",
        [CONF_NLINK] = "answers do not have it",
        [CONF_NANOSECONDS] = "times are whole seconds from 1970 on",
        [CONF_LINK_OPEN] = "hardlink@openssh.com takes a path only",
        [CONF_JAIL] = "the server follows them, with its user's rights",
        [CONF_NODES] = "there is no such request",
        [CONF_HOLES] = "there is no such request, nor the blocks in use",
        [CONF_XATTR] = "there is no such request",
        [CONF_DEEP] = "READDIR gives one folder's names",
        [CONF_WATCH] = "servers tell of nothing by themselves",
        [CONF_DESCRIPTOR] = "files are the server's"}};
}

/* What it answers to what it lacks, and how it finds out what servers do not tell. */
static void limits(fsb_backend *b)
{
    char buf[64];
    CHECK_EQ(C(MKDIR, .path = "/d", MODE(0757)), 0);
    CHECK_EQ(C(PUT, .path = "/a", .flags = make, MODE(04711), .data = "A", .size = 1), 1);
    CHECK_EQ(conf_op.stat.mode, S_IFREG | 04711); /* no umask */
    CHECK_EQ(C(LINK, .path = "/a", .path2 = "/b"), 0);
    CHECK(conf_op.stat.file_id != conf_stat(b, "/a").file_id);
    CHECK_EQ(conf_op.stat.nlink, 1);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/a", .flags = FSB_RENAME_EXCHANGE), -EINVAL);
    CHECK_EQ(C(MKNOD, .path = "/fifo", MODE(S_IFIFO | 0600)), -EPERM);
    CHECK_EQ(C(GETXATTR, .path = "/a", .path2 = "user.a"), -ENOSYS);
    const fsb_handle h = conf_open(b, "/a", FSB_O_READ | FSB_O_WRITE);
    CHECK_EQ(C(LINK, .handle = h, .path2 = "/c"), -ENOSYS);
    CHECK_EQ(C(LIST, .handle = h, .emit = conf_emit), -EBADF);
    C(COPY, .handle = h, .handle2 = h, .offset2 = 9, .size64 = 1); /* see has_copy() */
    CHECK(conf_op.result == -EOPNOTSUPP || conf_op.result == -ENOSYS);
    CHECK_EQ(C(ALLOCATE, .handle = h, .size64 = 1), -ENOSYS);
    CHECK_EQ(C(SEEK, .handle = h, .flags = FSB_SEEK_DATA), -ENOSYS);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(SETATTR, .path = "/a", .attr = {.mask = FSB_ATTR_ATIME | FSB_ATTR_MTIME,
             .atime_ns = INT64_C(-2000000000), .mtime_ns = INT64_C(5000000000999999999)}), 0);
    CHECK_EQ(conf_op.stat.atime_ns, 0);
    CHECK_EQ(conf_op.stat.mtime_ns, UINT32_MAX * INT64_C(1000000000));
    /* A path below a file, and one that merely is not there: the server says the same of both. */
    CHECK_EQ(C(SYMLINK, .path = "/to-d", .path2 = "d"), 0);
    CHECK_EQ(C(SYMLINK, .path = "/to-a", .path2 = "a"), 0);
    CHECK_EQ(C(STAT, .path = "/to-d/none"), -ENOENT);
    CHECK_EQ(C(STAT, .path = "/to-a/none"), -ENOTDIR);
    CHECK_EQ(C(STAT, .path = "/a/none/below"), -ENOTDIR);
    CHECK_EQ(C(STAT, .path = "/d/none/below"), -ENOENT);
    CHECK_EQ(C(LIST, .path = "/a/none", .emit = conf_emit), -ENOTDIR);
    CHECK_EQ(C(READLINK, .path = "/a/none", .buf = buf, .size = sizeof buf), -ENOTDIR);
    CHECK_EQ(C(PUT, .path = "/a/f", .flags = make, .data = "", .size = 0), -ENOTDIR);
    CHECK_EQ(C(SYMLINK, .path = "/a/l", .path2 = "x"), -ENOTDIR);
    CHECK_EQ(C(LINK, .path = "/b", .path2 = "/a/b"), -ENOTDIR);
    CHECK_EQ(C(RENAME, .path = "/none", .path2 = "/a/b"), -ENOTDIR);
    CHECK_EQ(C(RENAME, .path = "/d", .path2 = "/none/d"), -ENOENT);
    const char *all[] = {"/to-d", "/to-a", "/b", "/a"};
    for (size_t i = 0; i < 4; ++i) CHECK_EQ(C(UNLINK, .path = all[i]), 0);
    conf_put(b, "/d/x", ""); /* the folder was met before, and is a file now */
    CHECK_EQ(C(UNLINK, .path = "/d/x"), 0);
    CHECK_EQ(C(RMDIR, .path = "/d"), 0);
    conf_put(b, "/d", "");
    CHECK_EQ(C(STAT, .path = "/d/x"), -ENOTDIR);
    CHECK_EQ(C(UNLINK, .path = "/d"), 0);
}

typedef struct busy {
    fsb_backend *b;
    int          number;
} busy;

static void *write_and_read(void *arg)
{
    busy        *me = arg;
    fsb_backend *b = me->b;
    char         path[32], text[32];
    for (int i = 0; i < 4; ++i) {
        snprintf(path, sizeof path, "/t%d", me->number);
        snprintf(text, sizeof text, "%d of %d", i, me->number);
        conf_put(b, path, text);
        conf_is(b, path, text);
    }
    CHECK_EQ(C(UNLINK, .path = path), 0);
    return NULL;
}

/* copy-data came with OpenSSH 9.0. */
static int has_copy(fsb_backend *b)
{
    conf_put(b, "/one", "1"), conf_put(b, "/two", "2");
    const fsb_handle h = conf_open(b, "/one", FSB_O_READ), to = conf_open(b, "/two", FSB_O_WRITE);
    const int64_t    n = C(COPY, .handle = h, .handle2 = to, .offset2 = 1, .size64 = 9);
    CHECK(n == 1 || n == -ENOSYS);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    CHECK_EQ(C(CLOSE, .handle = to), 0);
    conf_is(b, "/two", n == 1 ? "21" : "2");
    CHECK_EQ(C(UNLINK, .path = "/one"), 0);
    CHECK_EQ(C(UNLINK, .path = "/two"), 0);
    return n == 1;
}

static void suite(fsb_backend *b, const conformance_traits *v)
{
    busy      all[16];
    pthread_t threads[16];
    conformance_traits t = *v;
    if (!has_copy(b)) t.lacks[CONF_COPY] = "this server has no copy-data";
    conformance_run(b, &t);
    limits(b);
    for (int i = 0; i < 16; ++i) {
        all[i] = (busy){b, i};
        pthread_create(&threads[i], NULL, write_and_read, &all[i]);
    }
    for (int i = 0; i < 16; ++i) pthread_join(threads[i], NULL);
    CHECK_EQ(conf_count(b, "/"), 0);
}

/* ---- over a socket ---- */

static void test_server(void)
{
    char        root[300], *argv[] = {(char *)(uintptr_t)sftp_server(), NULL};
    server      s = {argv, 0, 0};
    test_memory m = {0};
    fsb_backend *b = NULL;
    if (!argv[0]) SKIP("no sftp-server: openssh-server is not installed");
    new_root(root, sizeof root, "plain");
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s, .root = root,
                                                .allocator = {test_memory_fn, &m}}), 0);
    REQUIRE(b);
    const conformance_traits t = v3("sftp", 300);
    suite(b, &t);
    /* A FIFO is not opened: it would hang the server. */
    char path[320];
    snprintf(path, sizeof path, "%s/fifo", root);
    CHECK_EQ(mkfifo(path, 0600), 0);
    CHECK_EQ(C(OPEN, .path = "/fifo", .flags = FSB_O_READ), -ENXIO);
    CHECK_EQ(C(UNLINK, .path = "/fifo"), 0);
    /* A lost connection: open files end, the next operation makes a new one. */
    conf_put(b, "/f", "still");
    const fsb_handle h = conf_open(b, "/f", FSB_O_READ);
    kill(s.pid, SIGKILL), waitpid(s.pid, NULL, 0), s.pid = 0;
    CHECK_EQ(C(STAT, .path = "/f"), -ECONNRESET);
    conf_is(b, "/f", "still");
    CHECK_EQ(s.started, 2);
    CHECK_EQ(C(READ, .handle = h, .buf = path, .size = 1), -ESTALE);
    CHECK_EQ(C(CLOSE, .handle = h), 0);
    /* One that answers no more: a timeout, and again a new one. */
    kill(s.pid, SIGSTOP);
    CHECK_EQ(C(STAT, .path = "/f", .timeout_ms = 50), -ETIMEDOUT);
    conf_is(b, "/f", "still");
    CHECK_EQ(s.started, 3);
    CHECK_EQ(C(UNLINK, .path = "/f"), 0);
    b->close(b);
    end_server(&s);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

/* ---- the number of requests: it is what a copy's time is made of ---- */

typedef struct counter {
    server    s;
    int       client, server; /* sockets; what comes from one goes to the other */
    unsigned  sent[256];      /* requests, by type; atomic */
    pthread_t thread;
    size_t    have; /* of head; bytes of the request that are still to come */
    uint64_t  rest;
    unsigned char head[5];
} counter;

static void count_requests(counter *c, const unsigned char *data, size_t size)
{
    while (size) {
        if (c->rest) {
            const size_t n = size < c->rest ? size : (size_t)c->rest;
            data += n, size -= n, c->rest -= n;
            continue;
        }
        c->head[c->have++] = *data++, --size;
        if (c->have < 5) continue;
        c->rest = (c->head[0] * 16777216u + c->head[1] * 65536u + c->head[2] * 256u + c->head[3])
            - 1u;
        c->have = 0;
        __atomic_add_fetch(&c->sent[c->head[4]], 1, __ATOMIC_RELAXED);
    }
}

static void *relay(void *arg)
{
    counter      *c = arg;
    unsigned char buf[65536];
    struct pollfd p[2] = {{c->client, POLLIN, 0}, {c->server, POLLIN, 0}};
    for (;;) {
        poll(p, 2, -1);
        for (int i = 0; i < 2; ++i) {
            if (!p[i].revents) continue;
            const ssize_t n = read(p[i].fd, buf, sizeof buf);
            if (n <= 0) return shutdown(c->server, SHUT_WR), NULL;
            if (i == 0) count_requests(c, buf, (size_t)n);
            if (write(p[!i].fd, buf, (size_t)n) != n) return NULL;
        }
    }
}

static int connect_counted(void *user, int fds[2])
{
    counter  *c = user;
    int       pair[2];
    const int err = run_server(&c->s, fds);
    if (err || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -EIO;
    c->server = fds[0], c->client = pair[1], fds[0] = fds[1] = pair[0];
    return -pthread_create(&c->thread, NULL, relay, c);
}

enum { OPEN = 3, CLOSE = 4, READ = 5, LSTAT = 7, FSTAT = 8, OPENDIR = 11 };

static unsigned sent(counter *c, int type)
{
    return __atomic_exchange_n(&c->sent[type], 0, __ATOMIC_RELAXED);
}

/* Once this is answered, all that was sent before is counted: nobody waits for a CLOSE. */
static void all_sent(fsb_backend *b) { CHECK_EQ(C(STATFS, .path = "/"), 0); }

typedef struct some { /* of a listing, a part at a time */
    int      most, n, data;
    uint64_t cookie, bytes;
    int      wrong;
} some;

static int few(fsb_op *op, const fsb_dirent *e)
{
    some *l = op->user;
    if (!l) return 0;
    if (l->most && l->n == l->most) return 1;
    ++l->n, l->cookie = e->cookie;
    if (!e->data) return 0;
    ++l->data, l->bytes += e->stat.size;
    for (uint64_t i = 0; i < e->stat.size; ++i) /* each is full of its name's first byte */
        if (((const char *)e->data)[i] != e->name[0]) ++l->wrong;
    return 0;
}

static some rest_of(fsb_backend *b, uint64_t cookie, int most, uint32_t flags)
{
    some l = {.most = most};
    CHECK_EQ(C(LIST, .path = "/many", .offset = cookie, .emit = few, .user = &l, .flags = flags),
             !most);
    return l;
}

static void fill(const char *root, const char *name, size_t size)
{
    char path[400];
    snprintf(path, sizeof path, "%s/many/%s", root, name);
    FILE *f = fopen(path, "w");
    for (size_t i = 0; f && i < size; ++i) fputc(name[0], f);
    CHECK(f && !fclose(f));
}

/* A folder that is listed in parts is read once, until this backend changes something. */
static void parts(fsb_backend *b, counter *c)
{
    some l = {0};
    int  all = 0, calls = 0;
    sent(c, OPENDIR);
    for (int64_t more = 0; !more; all += l.n, ++calls) {
        l = (some){.most = 10, .cookie = l.cookie};
        more = C(LIST, .path = "/many", .offset = l.cookie, .emit = few, .user = &l);
        REQUIRE(more >= 0);
    }
    CHECK_EQ(all, 306);
    CHECK_EQ(calls, 31);
    CHECK_EQ(sent(c, OPENDIR), 1);
    l = rest_of(b, 0, 100, FSB_LIST_STAT);
    CHECK_EQ(sent(c, OPENDIR), 1); /* from the beginning: what is there now */
    conf_put(b, "/other", "");
    CHECK_EQ(rest_of(b, l.cookie, 0, FSB_LIST_STAT).n, 206);
    CHECK_EQ(sent(c, OPENDIR), 1);
    CHECK_EQ(C(UNLINK, .path = "/other"), 0);
    for (int i = 0; i < 9; ++i) rest_of(b, 0, 1 + i, 0); /* many are begun and left */
}

/* LIST with DATA asks three things of each small file, all at once, and nothing of others. */
static void data(fsb_backend *b, counter *c, const char *root)
{
    const uint32_t flags = FSB_LIST_STAT | FSB_LIST_DATA;
    all_sent(b);
    memset(c->sent, 0, sizeof c->sent);
    some l = rest_of(b, 0, 0, flags);
    all_sent(b);
    CHECK_EQ(l.n, 306);
    CHECK_EQ(l.data, 303); /* not the folder, the link, the large one */
    CHECK_EQ(l.bytes, 300 * 100 + 1 + 65536);
    CHECK_EQ(l.wrong, 0);
    CHECK_EQ(sent(c, OPEN), 302); /* the empty one has nothing to be read */
    CHECK_EQ(sent(c, READ), 302);
    CHECK_EQ(sent(c, CLOSE), 303);
    CHECK_EQ(sent(c, LSTAT) + sent(c, FSTAT), 1);
    /* Files that are others by now, behind the kept listing's back. */
    char path[400];
    l = rest_of(b, 0, 1, flags);
    for (int i = 0; i < 300; ++i) {
        snprintf(path, sizeof path, "f%d", i);
        fill(root, path, i % 3 == 0 ? 99 : i % 3 == 1 ? 101 : 100);
    }
    l = rest_of(b, l.cookie, 0, flags);
    CHECK(l.data >= 102 && l.data <= 103);
    CHECK_EQ(l.wrong, 0);
    /* A few are left to who can ask for them besides. */
    for (int i = 0; i < 16; ++i) {
        snprintf(path, sizeof path, "folder/f%d", i);
        fill(root, path, 100);
        some few_files = {0};
        CHECK_EQ(C(LIST, .path = "/many/folder", .emit = few, .flags = flags,
                   .user = &few_files), 1);
        CHECK_EQ(few_files.data, i < 15 ? 0 : 16);
    }
    CHECK_EQ(fsb_backend_remove_all(b, "/many/folder", NULL), 0);
    CHECK_EQ(C(MKDIR, .path = "/many/folder", MODE(0755)), 0);
    /* No more than a MiB in one call. */
    for (int i = 0; i < 20; ++i) {
        snprintf(path, sizeof path, "g%d", i);
        fill(root, path, 65000);
    }
    l = rest_of(b, 0, 0, flags);
    CHECK_EQ(l.n, 326);
    CHECK(l.bytes >= FSB_IO_MAX && l.bytes < FSB_IO_MAX + 65000);
    CHECK_EQ(l.wrong, 0);
}

static void copied(fsb_backend *b, counter *c)
{
    fsb_backend      *to = NULL;
    fsb_copy_progress p;
    CHECK_EQ(fsb_memory_open(&to, NULL), 0);
    all_sent(b);
    memset(c->sent, 0, sizeof c->sent);
    CHECK_EQ(fsb_backend_copy(&(fsb_copy_desc){.from = b, .to = to, .from_path = "/many",
                              .to_path = "/copy"}, &p), 0);
    CHECK_EQ(p.files, 325);
    CHECK_EQ(p.folders, 2);
    CHECK_EQ(p.bytes, 300 * 100 + 1 + 65536 + 65537 + 20 * 65000);
    CHECK_EQ(p.found_bytes, p.bytes);
    all_sent(b);
    CHECK_EQ(sent(c, OPEN), 323);
    CHECK_EQ(sent(c, READ), 323);
    CHECK_EQ(sent(c, CLOSE), 325); /* two folders */
    CHECK_EQ(sent(c, OPENDIR), 2);
    CHECK(sent(c, LSTAT) < 8); /* of folders, the link, and the large one */
    b = to;
    CHECK_EQ(conf_stat(b, "/copy/h").size, 65536);
    CHECK_EQ(conf_stat(b, "/copy/f299").mode, S_IFREG | 0644);
    CHECK_EQ(conf_stat(b, "/copy/link").size, 1);
    to->close(to);
}

static void test_requests(void)
{
    char        root[300], path[400], *argv[] = {(char *)(uintptr_t)sftp_server(), NULL};
    counter     c = {.s = {argv, 0, 0}};
    test_memory m = {0};
    fsb_backend *b = NULL;
    if (!argv[0]) SKIP("no sftp-server: openssh-server is not installed");
    new_root(root, sizeof root, "requests");
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = connect_counted, .user = &c,
                           .root = root, .allocator = {test_memory_fn, &m}}), 0);
    REQUIRE(b);
    CHECK_EQ(C(MKDIR, .path = "/many", MODE(0755)), 0);
    CHECK_EQ(C(MKDIR, .path = "/many/folder", MODE(0755)), 0);
    CHECK_EQ(C(SYMLINK, .path = "/many/link", .path2 = "h"), 0);
    for (int i = 0; i < 300; ++i) {
        snprintf(path, sizeof path, "f%d", i);
        fill(root, path, 100);
    }
    fill(root, "empty", 0), fill(root, "i", 1), fill(root, "h", 65536), fill(root, "large", 65537);
    parts(b, &c);
    data(b, &c, root);
    for (int i = 0; i < 300; ++i) {
        snprintf(path, sizeof path, "f%d", i);
        fill(root, path, 100);
        snprintf(path, sizeof path, "%s/many/f%d", root, i);
        CHECK_EQ(chmod(path, 0644), 0);
    }
    copied(b, &c);
    b->close(b);
    pthread_join(c.thread, NULL);
    close(c.client), close(c.server);
    end_server(&c.s);
    CHECK_EQ(m.live, 0);
    CHECK_EQ(m.wrong_size, 0);
}

static void test_no_memory(void)
{
    char   root[300], *argv[] = {(char *)(uintptr_t)sftp_server(), NULL};
    server s = {argv, 0, 0};
    if (!argv[0]) SKIP("no sftp-server: openssh-server is not installed");
    new_root(root, sizeof root, "memory");
    for (uint64_t k = 1; k < 60; ++k) {
        test_memory  m = {.fail_at = k};
        fsb_backend *b = NULL;
        const int    err = fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s,
                                         .root = root, .allocator = {test_memory_fn, &m}});
        CHECK(!err || err == -ENOMEM);
        if (!err) {
            static char big[100000];
            C(PUT, .path = "/f", .flags = make, .data = big, .size = sizeof big);
            CHECK(conf_op.result == sizeof big || conf_op.result == -ENOMEM);
            C(GET, .path = "/f", .size = sizeof big);
            CHECK(conf_op.result == sizeof big || conf_op.result == -ENOMEM
                  || conf_op.result == -ENOENT || conf_op.result == 0);
            if (conf_op.result >= 0) fsb_slice_release(&conf_op.slice);
            conf_list l = {0};
            C(LIST, .path = "/", .emit = conf_emit, .user = &l);
            C(LIST, .path = "/", .emit = few, .flags = FSB_LIST_STAT | FSB_LIST_DATA);
            b->close(b);
        }
        CHECK_EQ(m.live, 0);
        end_server(&s);
        if (m.calls < k) return;
    }
    CHECK(!"it ends");
}

/* ---- commands ---- */

typedef struct heard {
    char   text[3][4096]; /* of stdout 1, stderr 2 */
    size_t size[3];
    int    enough; /* 1: wants no more */
} heard;

static int hear(fsb_op *op, int fd, const void *data, size_t size)
{
    heard       *h = op->user;
    const size_t room = sizeof h->text[fd] - 1 - h->size[fd];
    memcpy(h->text[fd] + h->size[fd], data, size < room ? size : room);
    h->size[fd] += size < room ? size : room;
    h->text[fd][h->size[fd]] = '\0';
    return h->enough;
}

#define RUN(path_, flags_, e_, h_, ms_) (memset((h_)->size, 0, sizeof(h_)->size), \
    memset((h_)->text, 0, sizeof(h_)->text), C(EXEC, .path = path_, .flags = flags_, .exec = e_, \
    .user = h_, .timeout_ms = ms_))

/* Words that a shell may take for something else. */
static void odd_commands(fsb_backend *b, const char *root)
{
    heard       h = {.enough = 0};
    const char *line[] = {"-x 2>/dev/null; echo hi", NULL}; /* not sh's options */
    fsb_exec    e = {.argv = line, .output = hear};
    CHECK_EQ(RUN("/", FSB_EXEC_SHELL, &e, &h, 0), 0);
    CHECK_STR(h.text[1], "hi\n");
    char        path[400];
    const char *odd[] = {"-c=d", "a\\b\\", "!x", NULL}, *over[] = {path, NULL};
    snprintf(path, sizeof path, "PATH=%s:/usr/bin:/bin", root);
    conf_put(b, "/-c=d", "#!/bin/sh\nprintf '%s|' \"$@\"\n");
    CHECK_EQ(C(SETATTR, .path = "/-c=d", MODE(0755)), 0);
    e.argv = odd, e.env = over;
    CHECK_EQ(RUN("/", 0, &e, &h, 0), 0);
    CHECK_STR(h.text[1], "a\\b\\|!x|");
    over[0] = "-i=x";
    CHECK_EQ(RUN("/", 0, &e, &h, 0), -EINVAL);
    over[0] = "A-B=x";
    CHECK_EQ(RUN("/", 0, &e, &h, 0), -EINVAL);
    CHECK_EQ(C(UNLINK, .path = "/-c=d"), 0);
}

/* The backend runs its texts by a shell of this machine; what they are is what ssh would send. */
static void commands(fsb_backend *b, const char *root)
{
    static char big[300000];
    heard       h = {.enough = 0};
    char        want[400];
    const char *quoted[] = {"printf", "%s|", "a'b", "$HOME `x`", "", "\n\\", NULL};
    const char *line[] = {"pwd; echo err >&2; cat; exit 3", NULL};
    const char *env[] = {"A=it's", "B=two\nlines", NULL};
    fsb_exec    e = {.argv = line, .output = hear, .input = "in", .input_size = 2};
    CHECK_EQ(C(MKDIR, .path = "/cwd", MODE(0755)), 0);
    CHECK_EQ(RUN("/cwd", FSB_EXEC_SHELL, &e, &h, 0), 0);
    snprintf(want, sizeof want, "%s/cwd\nin", root);
    CHECK_STR(h.text[1], want);
    CHECK_STR(h.text[2], "err\n");
    CHECK_EQ(e.exit_code, 3);
    CHECK_EQ(e.signal, 0);
    e = (fsb_exec){.argv = quoted, .output = hear};
    CHECK_EQ(RUN("/", 0, &e, &h, 0), 0);
    CHECK_STR(h.text[1], "a'b|$HOME `x`||\n\\|");
    e.env = env, line[0] = "printf '%s' \"$A$B\"; kill -9 $$", e.argv = line;
    CHECK_EQ(RUN("/", FSB_EXEC_SHELL, &e, &h, 0), 0);
    CHECK_STR(h.text[1], "it'stwo\nlines");
    CHECK_EQ(e.signal, 9);
    CHECK_EQ(e.exit_code, 0);
    line[0] = "printf '\\001\\001ab\\001' >&2; exit 255", e.env = NULL;
    CHECK_EQ(RUN("/", FSB_EXEC_SHELL, &e, &h, 0), 0);
    CHECK_STR(h.text[2], "\001\001ab\001"); /* what looks like the marks, but is not */
    CHECK_EQ(e.exit_code, 255);
    memset(big, 'x', sizeof big);
    const char *cat[] = {"cat", NULL};
    e = (fsb_exec){.argv = cat, .output = hear, .input = big, .input_size = sizeof big,
                   .max_output = 1000};
    CHECK_EQ(RUN("/", 0, &e, &h, 0), 0);
    CHECK_EQ(h.size[1], 1000);
    CHECK_EQ(e.cut[0], sizeof big - 1000);
    h.enough = 1, e.max_output = 0;
    CHECK_EQ(RUN("/", 0, &e, &h, 0), 0);
    CHECK_EQ(e.signal, SIGTERM);
    h.enough = 0, e.input_size = 0;
    CHECK_EQ(RUN("/", 0, &e, &h, 0), 0); /* no input: it ends at once */
    CHECK_EQ(RUN("/none", 0, &e, &h, 0), -ENOENT);
    conf_put(b, "/file", "x");
    CHECK_EQ(RUN("/file", 0, &e, &h, 0), -ENOTDIR);
    const char *words[] = {"no-such-program", NULL};
    e.argv = words;
    CHECK_EQ(RUN("/", 0, &e, &h, 0), -ENOENT);
    words[0] = "./file";
    CHECK_EQ(RUN("/", 0, &e, &h, 0), -EACCES);
    CHECK_EQ(RUN("/../etc", 0, &e, &h, 0), -EINVAL);
    odd_commands(b, root);
    line[0] = "echo began; sleep 100", e.argv = line;
    for (uint32_t ms = 300; ms < 30000 && !h.size[1]; ms *= 4) /* till it had the time to begin */
        CHECK_EQ(RUN("/", FSB_EXEC_SHELL, &e, &h, ms), -ETIMEDOUT);
    CHECK_STR(h.text[1], "began\n");
    CHECK_EQ(C(UNLINK, .path = "/file"), 0);
    CHECK_EQ(C(RMDIR, .path = "/cwd"), 0);
}

static void keep_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    if (level == FSB_LOG_ERROR && !strcmp(item, "sftp/exec")) snprintf(user, 200, "%s", text);
}

/* Inside single quotes stands nothing that fish or csh would not take as it is. */
static void test_exec_quotes(void)
{
    test_memory         m = {0};
    const fsb_allocator a = {test_memory_fn, &m};
    const char *words[] = {"it's", "end\\", "\\\\", "wow!", NULL}, *env[] = {"A=\\'!", NULL};
    fsb_exec            e = {.argv = words, .env = env};
    fsb_op              op = {.code = FSB_OP_EXEC, .exec = &e};
    fsb_sftp_run_       r = {.upper = &op};
    fsb_sftp_script_    t = {.allocator = &a};
    int                 inside = 0;
    CHECK_EQ(fsb_sftp_run_text_(&r, "/it's\\", &t), 0);
    for (const char *p = t.text; *p; ++p) {
        if (!inside && *p == '\\') ++p;
        else if (*p == '\'') inside = !inside;
        else CHECK(!inside || (*p != '\\' && *p != '!'));
    }
    CHECK(!inside);
    CHECK(strstr(t.text, " 'end'\\\\''") != NULL);
    fsb_backend_free_(&a, t.text, t.room);
    CHECK_EQ(m.live, 0);
}

/* What runs commands fails: before, after, or it is something else. */
static void no_commands(server *s, const char *root, const char *script, int want, const char *said)
{
    const char        *argv[] = {"/bin/sh", "-c", script, NULL}, *words[] = {"true", NULL};
    char               line[200] = "";
    heard              h = {.enough = 0};
    fsb_exec           e = {.argv = words, .output = hear};
    fsb_backend       *b = NULL;
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = s, .root = root,
                               .exec_argv = argv, .log = {keep_line, line}}), 0);
    REQUIRE(b);
    CHECK_EQ(RUN("/", 0, &e, &h, 0), want);
    CHECK_STR(line, said);
    CHECK_EQ(h.size[1] + h.size[2], 0);
    b->close(b);
}

static void test_exec(void)
{
    char        root[300], *argv[] = {(char *)(uintptr_t)sftp_server(), NULL};
    const char *shell[] = {"/bin/sh", "-c", NULL}, *words[] = {"true", NULL};
    server      s = {argv, 0, 0};
    test_memory m = {0};
    fsb_backend *b = NULL;
    fsb_exec    e = {.argv = words};
    if (!argv[0]) SKIP("no sftp-server: openssh-server is not installed");
    new_root(root, sizeof root, "exec");
    char *real = realpath(root, NULL);
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s, .root = root}),
             0);
    REQUIRE(b && real);
    CHECK_EQ(C(EXEC, .path = "/", .exec = &e), -ENOSYS);
    b->close(b);
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s, .root = root,
                               .exec_argv = shell, .allocator = {test_memory_fn, &m}}), 0);
    REQUIRE(b);
    const int fds = count_fds();
    commands(b, real);
    CHECK_EQ(count_fds(), fds);
    b->close(b);
    free(real);
    CHECK_EQ(m.live, 0);
    no_commands(&s, root, "echo 'ssh: no route' >&2; exit 255; :", -ENOTCONN, "ssh: no route");
    no_commands(&s, root, "echo 'sftp only.' >&2; exit 1; :", -EACCES, "sftp only.");
    no_commands(&s, root, "echo banner >&2; sh -c \"$0\" 2>&1 | head -c 24 >&2; exit 255",
                -ECONNRESET, "banner");
    end_server(&s);
}

/* ---- over sshd ---- */

static int run_quietly(const char *command) { return system(command) == 0; }

/* As ssh://: fsb-host --stdio is what ssh runs, found beside this program. words: of ssh. */
static void host_over_ssh(char **words, const char *root)
{
    char         *self = realpath("/proc/self/exe", NULL), program[600], command[1100];
    fsb_backend  *b = NULL;
    server        s = {words, 0, 0};
    const int     super = geteuid() == 0;
    const conformance_traits t = {.name = "ssh", .can_chown = super, .has_xattr = 1,
                                  .has_mknod = super, .has_sparse = 1, .has_punch = 1, .many = 50};
    REQUIRE(self);
    *strrchr(self, '/') = '\0';
    snprintf(program, sizeof program, "%s/bin/fsb-host", self);
    free(self);
    if (access(program, X_OK) != 0) {
        fprintf(stderr, "SKIP ssh: fsb-host is not built\n");
        return;
    }
    snprintf(command, sizeof command, "exec '%s' --stdio '%s'", program, root);
    while (strcmp(*words, "-s") != 0) ++words;
    words[0] = words[1], words[1] = command, words[2] = NULL;
    CHECK_EQ(fsb_chunk_client_open(&b, &(fsb_chunk_client_desc){.connect = run_server,
                                                                .user = &s}), 0);
    if (b) conformance_run(b, &t), b->close(b);
    end_server(&s);
}

static void test_sshd(void)
{
    char dir[300], command[2000], port[16] = "", *argv[32];
    if (!sftp_server() || !run_quietly("PATH=$PATH:/usr/sbin; command -v sshd ssh >/dev/null"))
        SKIP("sshd or ssh is not installed");
    new_root(dir, sizeof dir, "sshd");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t          size = sizeof at;
    const int          probe = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(probe, (struct sockaddr *)&at, size), 0);
    getsockname(probe, (struct sockaddr *)&at, &size);
    snprintf(port, sizeof port, "%d", ntohs(at.sin_port));
    close(probe);
    snprintf(command, sizeof command,
             "cd %s && mkdir root && ssh-keygen -q -t ed25519 -N '' -f host && "
             "ssh-keygen -q -t ed25519 -N '' -f user && cp user.pub keys && "
             "echo \"[127.0.0.1]:%s $(cut -d ' ' -f 1-2 host.pub)\" > known && "
             "{ [ $(id -u) != 0 ] || mkdir -p /run/sshd; } && "
             "PATH=$PATH:/usr/sbin && $(command -v sshd) -f /dev/null -p %s -h $PWD/host "
             "-o ListenAddress=127.0.0.1 -o PidFile=$PWD/pid -o AuthorizedKeysFile=$PWD/keys "
             "-o StrictModes=no -o UsePAM=no -o PermitRootLogin=yes "
             "-o 'Subsystem=sftp internal-sftp' -E $PWD/log && "
             "for i in $(seq 300); do [ -s pid ] && break; sleep 0.1; done; [ -s pid ]",
             dir, port, port);
    if (!run_quietly(command)) SKIP("sshd does not start here");
    char user[400], known[400], pid_path[400], root[400];
    snprintf(user, sizeof user, "%s/user", dir), snprintf(root, sizeof root, "%s/root", dir);
    snprintf(known, sizeof known, "-oUserKnownHostsFile=%s/known", dir);
    snprintf(pid_path, sizeof pid_path, "%s/pid", dir);
    const char *words[] = {"/usr/bin/ssh", "-F", "/dev/null", "-i", user, known, "-oBatchMode=yes",
                           "-oStrictHostKeyChecking=yes", "-p", port, "-s", "127.0.0.1", "sftp"};
    memcpy(argv, words, sizeof words);
    argv[sizeof words / sizeof *words] = NULL;
    server       s = {argv, 0, 0};
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s,
                                                .root = root}), 0);
    const conformance_traits t = v3("sftp over sshd", 50);
    if (b) suite(b, &t), b->close(b);
    end_server(&s);
    char *again[32];
    memcpy(again, argv, sizeof words + sizeof *argv);
    host_over_ssh(again, root);
    /* Another host key: ssh refuses, and says so; it is no SFTP server to us. */
    snprintf(command, sizeof command, "cd %s && echo \"[127.0.0.1]:%s "
             "$(cut -d ' ' -f 1-2 user.pub)\" > known", dir, port);
    CHECK(run_quietly(command));
    const int stderr_was = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = run_server, .user = &s}), -EPROTO);
    dup2(stderr_was, STDERR_FILENO);
    close(stderr_was), close(null);
    end_server(&s);
    snprintf(command, sizeof command, "kill $(cat %s)", pid_path);
    CHECK(run_quietly(command));
}

/* ---- servers that misbehave ---- */

typedef struct liar {
    const unsigned char *bytes; /* what it says */
    size_t               size;
    int                  endless; /* all behind the first 9, again and again */
    pthread_t            thread;
    int                  fd;
} liar;

static void *lie(void *arg)
{
    liar *l = arg;
    char  drain[4096];
    if (l->size) (void)!send(l->fd, l->bytes, l->size, MSG_NOSIGNAL);
    while (l->endless && send(l->fd, l->bytes + 9, l->size - 9, MSG_NOSIGNAL) > 0) {}
    shutdown(l->fd, SHUT_WR);
    while (read(l->fd, drain, sizeof drain) > 0) {}
    close(l->fd);
    return NULL;
}

static int connect_liar(void *user, int fds[2])
{
    liar *l = user;
    int   pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return -errno;
    l->fd = pair[1], fds[0] = fds[1] = pair[0];
    return -pthread_create(&l->thread, NULL, lie, l);
}

static int refuse(void *user, int fds[2])
{
    (void)user, (void)fds;
    return -EHOSTUNREACH;
}

static void test_liars(void)
{
    static const unsigned char version[] = {0, 0, 0, 5, 2, 0, 0, 0, 3};
    static const unsigned char old[] = {0, 0, 0, 5, 2, 0, 0, 0, 2};
    static const unsigned char huge[] = {0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0, 3};
    static const unsigned char banner[] = "Welcome to this machine. ";
    static const unsigned char strange[] = {0, 0, 0, 5, 2, 0, 0, 0, 3,
                                            0, 0, 0, 5, 104, 9, 9, 9, 9};
    static const unsigned char short_name[] = {0, 0, 0, 5, 2, 0, 0, 0, 3,
                                               0, 0, 0, 13, 104, 0, 0, 0, 0, 0, 0, 0, 1,
                                               0xff, 0xff, 0xff, 0xff};
    static const unsigned char chatter[] = {0, 0, 0, 5, 2, 0, 0, 0, 3, /* to nobody, for ever */
                                            0, 0, 0, 17, 101, 0xff, 0xff, 0, 0, 0, 0, 0, 0,
                                            0, 0, 0, 0, 0, 0, 0, 0};
    static const struct { const unsigned char *bytes; size_t size; int endless, want; } lies[] = {
        {NULL, 0, 0, -EPROTO}, {version, 3, 0, -EPROTO}, {version, 7, 0, -EPROTO},
        {version, sizeof version, 0, -ECONNRESET}, {old, sizeof old, 0, -EPROTO},
        {huge, sizeof huge, 0, -EPROTO}, {banner, sizeof banner - 1, 1, -EPROTO},
        {strange, sizeof strange, 0, -EPROTO}, {short_name, sizeof short_name, 0, -EPROTO},
        {chatter, sizeof chatter, 1, -ETIMEDOUT}};
    fsb_backend *b = NULL;
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){0}), -EINVAL);
    CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = refuse}), -EHOSTUNREACH);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; ++i) {
        liar        l = {.bytes = lies[i].bytes, .size = lies[i].size, .endless = lies[i].endless};
        test_memory m = {0};
        CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = connect_liar, .user = &l,
                               .timeout_ms = lies[i].want == -ETIMEDOUT ? 100 : 60000,
                               .allocator = {test_memory_fn, &m}}), lies[i].want);
        pthread_join(l.thread, NULL); /* it ends: our side of the connection is closed */
        CHECK_EQ(m.live, 0);
    }
    CHECK(!b);
}

/* A server whose folder has no end: every READDIR answers a name, or with `empty` none. */
typedef struct endless {
    int       fd, empty, connections; /* fd: the latest's */
    pthread_t threads[4];
} endless;

static int take(int fd, unsigned char *to, size_t size) /* 1 if all of it came */
{
    return !size || recv(fd, to, size, MSG_WAITALL) == (ssize_t)size;
}

static void *list_endlessly(void *arg)
{
#define FOLDER 0, 0, 0, 4, 0, 0, 0x41, 0xed /* attributes: a folder */
    static const unsigned char root[] = {0, 0, 0, 1, 0, 0, 0, 1, '/', 0, 0, 0, 0, 0, 0, 0, 0};
    static const unsigned char name[] = {0, 0, 0, 1, 0, 0, 0, 1, 'n', 0, 0, 0, 0, FOLDER};
    static const unsigned char none[] = {0, 0, 0, 0}, handle[] = {0, 0, 0, 1, 'h'};
    static const unsigned char attrs[] = {FOLDER};
    endless      *e = arg;
    const int     fd = e->fd;
    unsigned char head[9], junk[4096], out[64];
    while (take(fd, head, 9)) {
        const size_t         left = ((size_t)head[2] << 8 | head[3]) - 5;
        const unsigned char *body = none;
        size_t               size = 4;
        unsigned char        type = 101;
        if (left && (left > sizeof junk || !take(fd, junk, left))) break;
        if (head[4] == 1) { /* INIT has no number: its version is where that would be */
            if (send(fd, "\0\0\0\5\2\0\0\0\3", 9, MSG_NOSIGNAL) != 9) break;
            continue;
        }
        if (head[4] == 16) type = 104, body = root, size = sizeof root;
        if (head[4] == LSTAT) type = 105, body = attrs, size = sizeof attrs;
        if (head[4] == OPENDIR) type = 102, body = handle, size = sizeof handle;
        if (head[4] == 12) type = 104, body = name, size = e->empty ? 4 : sizeof name;
        if (head[4] == 12 && e->empty) body = none;
        memset(out, 0, sizeof out);
        out[3] = (unsigned char)(size + 5), out[4] = type;
        memcpy(out + 5, head + 5, 4), memcpy(out + 9, body, size);
        if (type == 101) out[3] = 17, size = 12;
        if (send(fd, out, size + 9, MSG_NOSIGNAL) < 0) break;
    }
    close(fd);
    return NULL;
#undef FOLDER
}

static int connect_endless(void *user, int fds[2])
{
    endless *e = user;
    int      pair[2];
    if (e->connections == 4 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return -EIO;
    e->fd = pair[1], fds[0] = fds[1] = pair[0];
    return -pthread_create(&e->threads[e->connections++], NULL, list_endlessly, e);
}

static void test_endless(void)
{
    for (int empty = 0; empty < 2; ++empty) {
        endless      e = {.empty = empty};
        fsb_backend *b = NULL;
        some         s = {.most = INT_MAX};
        CHECK_EQ(fsb_sftp_open(&b, &(fsb_sftp_desc){.connect = connect_endless, .user = &e}), 0);
        REQUIRE(b);
        CHECK_EQ(C(LIST, .path = "/", .flags = FSB_LIST_STAT, .emit = few, .user = &s,
                   .timeout_ms = 200), -ETIMEDOUT);
        fsb_op op = {.code = FSB_OP_OPEN, .path = "/d", .flags = FSB_O_READ, .stat.size = 12345};
        CHECK_EQ(conf_call(b, op), -EISDIR);
        CHECK_EQ(conf_op.stat.size, 12345); /* what failed has answered nothing */
        b->close(b);
        while (e.connections) pthread_join(e.threads[--e.connections], NULL);
    }
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    (void)signal(SIGPIPE, SIG_IGN);
    TEST(test_server);
    TEST(test_requests);
    TEST(test_no_memory);
    TEST(test_exec);
    TEST(test_exec_quotes);
    TEST(test_liars);
    TEST(test_endless);
    TEST(test_sshd);
    return test_end("test_sftp");
}
