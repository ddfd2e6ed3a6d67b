/* test_session_crash.c - fsb_session.h when processes are killed, when many share a store, and when
   the power fails. FSB_SOAK=1 in the environment: 200 kills of 1,000 saves, 8 processes for a
   minute, 250 power failures; else a short version of each.

   Power loss is simulated below the header: what it calls to write is wrapped, here by macros, for
   SQLite by a VFS. Of each file we keep what a flush has made durable; a crash leaves that, and of
   what came later any part. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int power_fdatasync(int fd);
static int power_fsync(int fd);
#define fdatasync power_fdatasync
#define fsync     power_fsync
#define FSB_SESSION_IMPLEMENTATION
#include "fsb_session.h"
#undef fdatasync
#undef fsync
#include "test.h"

static int      soak;
static uint64_t random_state = 88172645463325252u;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static int path_count;
static void new_path(char *path, size_t size)
{
    snprintf(path, size, "%s/store%d", test_dir(), path_count++);
}

static fsb_session_store *open_store(const char *path, int kind, int durability)
{
    fsb_session_store     *store = NULL;
    fsb_session_store_desc d;
    memset(&d, 0, sizeof d);
    d.path = path, d.kind = kind, d.durability = durability;
    const int err = fsb_session_store_open(&store, &d);
    if (err) fprintf(stderr, "%s: %d\n", path, err);
    return err ? NULL : store;
}

static fsb_session *open_session(fsb_session_store *store, const char *id)
{
    fsb_session     *s = NULL;
    fsb_session_info info;
    if (fsb_session_open(&s, store, "ann", id) == 0) return s;
    memset(&info, 0, sizeof info);
    info.user = "ann", info.id = id;
    const int err = fsb_session_create(&s, store, &info);
    if (err == -EEXIST) return fsb_session_open(&s, store, "ann", id) ? NULL : s;
    return err ? NULL : s;
}

static fsb_session_message numbered(char *text, size_t size, int n)
{
    fsb_session_message m;
    memset(&m, 0, sizeof m);
    snprintf(text, size, "message %d of some length, with a ferry in it \"%d\"\n", n, n * 7);
    m.role = n & 1 ? "assistant" : "user", m.content = fsb_session_text(text);
    return m;
}

/* Messages 0 to at least acknowledged - 1, each whole, in order, once. Returns how many. */
static int check_session(fsb_session_store *store, const char *id, int acknowledged)
{
    fsb_session         *s = NULL;
    fsb_session_messages all;
    char                 text[100];
    const int            err = fsb_session_open(&s, store, "ann", id);
    if (err == -ENOENT && !acknowledged) return 0;
    CHECK_EQ(err, 0);
    if (err) return -1;
    CHECK_EQ(fsb_session_load(s, NULL, &all), 0);
    CHECK((int)all.count >= acknowledged);
    if ((int)all.count < acknowledged)
        fprintf(stderr, "%zu messages, %d acknowledged\n", all.count, acknowledged);
    for (size_t i = 0; i < all.count; ++i) {
        const fsb_session_message m = numbered(text, sizeof text, (int)i);
        CHECK_STR(all.at[i].content.data, m.content.data);
    }
    const int count = (int)all.count;
    fsb_session_free(all.block);
    fsb_session_close(s);
    return count;
}

/* ---- [kill] ---------------------------------------------------------------------------------- */
/* Appends, whole saves and edits that change nothing, each acknowledged through the pipe. */
static void save_until_killed(const char *path, int kind, int from, int fd)
{
    fsb_session_store *store = open_store(path, kind, FSB_SESSION_SYNC_NONE);
    fsb_session       *s = store ? open_session(store, "k") : NULL;
    char               text[100];
    if (!s) _exit(1);
    for (int n = from; n < from + 1000; ++n) {
        fsb_session_message m = numbered(text, sizeof text, n);
        if (n % 10 == 9) { /* rewrites the file */
            fsb_session_message first = numbered(text, sizeof text, 0);
            first.id = 1;
            if (fsb_session_edit(s, &first)) _exit(2);
            m = numbered(text, sizeof text, n);
        }
        if (fsb_session_append(s, &m, 1)) _exit(3);
        if (write(fd, &n, sizeof n) != sizeof n) _exit(4);
    }
    _exit(0);
}

static void kills(int kind)
{
    const int rounds = soak ? 200 : 10;
    char      path[400];
    int       count = 0, files = 0;
    new_path(path, sizeof path);
    for (int round = 0; round < rounds; ++round) {
        int       ends[2], acknowledged = count, n, status;
        pid_t     pid;
        if (count > 3000) new_path(path, sizeof path), acknowledged = count = 0, ++files;
        if (pipe(ends) || (pid = fork()) < 0) SKIP("no pipe or process to be had");
        if (pid == 0) save_until_killed(path, kind, count, ends[1]);
        close(ends[1]);
        const struct timespec nap = {0, (long)random_below(60000000)};
        nanosleep(&nap, NULL);
        kill(pid, SIGKILL);
        while (read(ends[0], &n, sizeof n) == sizeof n) acknowledged = n + 1;
        close(ends[0]);
        waitpid(pid, &status, 0);
        CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        fsb_session_store *store = open_store(path, kind, FSB_SESSION_SYNC_NONE);
        REQUIRE(store);
        count = check_session(store, "k", acknowledged);
        CHECK(count <= acknowledged + 1); /* what was under way, and nothing else */
        fsb_session_store_close(store);
        REQUIRE(count >= 0);
    }
}
static void test_kill_files(void) { kills(FSB_SESSION_FILES); }

/* ---- [processes] ----------------------------------------------------------------------------- */
enum { PROCESSES = 8 };
typedef struct report {
    uint64_t saves, searches;
    int64_t  slowest_load_ns, slowest_search_ns;
    int      error, line;
} report;
#define MUST(x)                                                                                    \
    do {                                                                                           \
        const int e_ = (x);                                                                        \
        if (e_ && !r.error) r.error = e_, r.line = __LINE__;                                       \
    } while (0)

static report share_store(const char *path, int kind, int number, int64_t until)
{
    report               r;
    fsb_session_store   *store = open_store(path, kind, FSB_SESSION_SYNC_CHECKPOINT);
    fsb_session         *own, *common;
    fsb_session_messages all;
    fsb_session_query    q;
    fsb_session_hits     hits;
    char                 id[20], text[100];
    memset(&r, 0, sizeof r), memset(&q, 0, sizeof q);
    snprintf(id, sizeof id, "own%d", number);
    own = store ? open_session(store, id) : NULL,
    common = store ? open_session(store, "common") : NULL;
    if (!own || !common) r.error = -ENOENT;
    for (int n = 0; !r.error && fsb_session_now_() < until; ++n) {
        fsb_session_message m = numbered(text, sizeof text, n);
        MUST(fsb_session_append(own, &m, 1));
        MUST(fsb_session_append(common, &m, 1));
        ++r.saves;
        int64_t begin = fsb_session_now_();
        const fsb_session_range tail = {0, 0, 5};
        if (n % 10 == 0) {
            MUST(fsb_session_load(own, &tail, &all));
            if (!r.error) fsb_session_free(all.block);
            if (fsb_session_now_() - begin > r.slowest_load_ns)
                r.slowest_load_ns = fsb_session_now_() - begin;
        }
        begin = fsb_session_now_();
        q.words = "ferry";
        if (n % 50 == 0) {
            MUST(fsb_session_search(store, "ann", &q, &hits));
            if (!r.error) ++r.searches, fsb_session_free(hits.block);
            if (fsb_session_now_() - begin > r.slowest_search_ns)
                r.slowest_search_ns = fsb_session_now_() - begin;
        }
    }
    if (r.error) {
        char why[300] = "";
        if (store) fsb_session_store_errmsg(store, why, sizeof why);
        fprintf(stderr, "process %d: line %d: %d: %s\n", number, r.line, r.error, why);
    }
    fsb_session_close(own), fsb_session_close(common);
    fsb_session_store_close(store);
    return r;
}

static void processes(int kind)
{
    const int64_t until = fsb_session_now_() + (soak ? 60 : 3) * 1000000000ll;
    int           ends[2];
    char          path[400], id[20];
    uint64_t      saves = 0;
    new_path(path, sizeof path);
    if (pipe(ends)) SKIP("no pipe to be had");
    for (int i = 0; i < PROCESSES; ++i) {
        const pid_t pid = fork();
        if (pid == 0) {
            const report r = share_store(path, kind, i, until);
            _exit(write(ends[1], &r, sizeof r) != sizeof r);
        }
        CHECK(pid > 0);
    }
    close(ends[1]);
    report  all[PROCESSES], r;
    int     got = 0;
    int64_t slow_load = 0, slow_search = 0;
    while (got < PROCESSES && read(ends[0], &r, sizeof r) == sizeof r) {
        CHECK_EQ(r.error, 0);
        all[got++] = r, saves += r.saves;
        if (r.slowest_load_ns > slow_load) slow_load = r.slowest_load_ns;
        if (r.slowest_search_ns > slow_search) slow_search = r.slowest_search_ns;
    }
    close(ends[0]);
    while (wait(NULL) > 0) {}
    CHECK_EQ(got, PROCESSES);
    fsb_session_store *store = open_store(path, kind, FSB_SESSION_SYNC_NONE);
    REQUIRE(store);
    fsb_session_stat stat;
    CHECK_EQ(fsb_session_store_stat(store, "ann", &stat), 0);
    CHECK_EQ(stat.messages, 2 * saves); /* not one lost, not one twice */
    uint64_t whole = 0;
    for (int i = 0; i < PROCESSES; ++i) {
        snprintf(id, sizeof id, "own%d", i);
        const int count = check_session(store, id, 0);
        whole += count > 0 ? (uint64_t)count : 0;
    }
    CHECK_EQ(whole, saves);
    fprintf(stderr, "%s: %llu saves by %d processes, slowest load %.1f ms, search %.1f ms\n",
            kind ? "sqlite" : "files", (unsigned long long)(2 * saves), PROCESSES,
            (double)slow_load / 1e6, (double)slow_search / 1e6);
    (void)all;
    fsb_session_store_close(store);
}
static void test_processes_files(void) { processes(FSB_SESSION_FILES); }

/* ---- [power, files] -------------------------------------------------------------------------- */
/* What is durable: by inode its content as of the last flush, by folder its names likewise. */
typedef struct durable_file {
    ino_t  ino;
    char  *data;
    size_t size;
} durable_file;
typedef struct durable_name {
    char  name[300]; /* FOLDER/NAME */
    ino_t ino;
} durable_name;
static struct {
    int          on;
    char         path[400];
    durable_file file[400];
    durable_name name[400];
    int          files, names;
    int          blob_folders; /* flushes of .blobs */
} power;

static char *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    *size = 0;
    if (!f) return NULL;
    struct stat st;
    fstat(fileno(f), &st);
    char *data = (char *)malloc((size_t)st.st_size + 1);
    *size = fread(data, 1, (size_t)st.st_size, f);
    fclose(f);
    return data;
}

static durable_file *durable(ino_t ino)
{
    for (int i = power.files - 1; i >= 0; --i)
        if (power.file[i].ino == ino) return &power.file[i];
    return NULL;
}

static int power_fdatasync(int fd)
{
    struct stat st;
    char        name[64];
    if (!power.on || fstat(fd, &st) || !S_ISREG(st.st_mode)) return fdatasync(fd);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    durable_file *f = durable(st.st_ino);
    if (!f && power.files < 400) f = &power.file[power.files++], memset(f, 0, sizeof *f);
    if (!f) return -1;
    free(f->data);
    f->ino = st.st_ino, f->data = slurp(name, &f->size);
    return 0;
}

static int power_fsync(int fd) /* of a folder: its names */
{
    struct stat st;
    char        link[400], target[400];
    if (!power.on || fstat(fd, &st) || !S_ISDIR(st.st_mode)) return power_fdatasync(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, target, sizeof target - 1);
    if (n <= 0) return -1;
    target[n] = '\0';
    const char *folder = strrchr(target, '/') + 1;
    power.blob_folders += strcmp(folder, ".blobs") == 0;
    int         kept = 0;
    for (int i = 0; i < power.names; ++i) {
        const size_t len = strlen(folder);
        if (strncmp(power.name[i].name, folder, len) != 0 || power.name[i].name[len] != '/')
            power.name[kept++] = power.name[i];
    }
    power.names = kept;
    DIR           *dir = opendir(target);
    struct dirent *d;
    while (dir && (d = readdir(dir)) != NULL) {
        if (d->d_name[0] == '.' || power.names == 400) continue;
        durable_name *name = &power.name[power.names++];
        snprintf(name->name, sizeof name->name, "%s/%.200s", folder, d->d_name);
        name->ino = d->d_ino;
    }
    if (dir) closedir(dir);
    return 0;
}

/* Writes into `to` what a disk might hold after a power loss now. */
static void crash_files(const char *to)
{
    char file[800], folder[500];
    mkdir(to, 0700);
    snprintf(folder, sizeof folder, "%s/ann", to);
    mkdir(folder, 0700);
    for (int i = 0; i < power.names; ++i) {
        const durable_file *f = durable(power.name[i].ino);
        size_t              now_size, size = f ? f->size : 0;
        snprintf(file, sizeof file, "%s/%s", power.path, power.name[i].name);
        struct stat st;
        char       *now = stat(file, &st) == 0 && st.st_ino == power.name[i].ino
                        ? slurp(file, &now_size) : NULL;
        snprintf(file, sizeof file, "%s/%s", to, power.name[i].name);
        FILE *out = fopen(file, "wb");
        if (!out) continue;
        if (f && f->size) fwrite(f->data, 1, f->size, out);
        if (now && now_size > size) /* of what was not flushed, any part, or zeros in its place */
            for (size_t n = (size_t)random_below(now_size - size + 1), zero = random_below(3) == 0,
                        k = 0;
                 k < n; ++k)
                fputc(zero ? 0 : now[size + k], out);
        fclose(out);
        free(now);
    }
}

static void test_power_files(void)
{
    const int          crashes = soak ? 250 : 40;
    char               text[100], to[400], dir[400];
    int                saved[3] = {0, 0, 0};
    memset(&power, 0, sizeof power);
    new_path(power.path, sizeof power.path);
    fsb_session_store *store = open_store(power.path, FSB_SESSION_FILES, FSB_SESSION_SYNC_SAVE);
    fsb_session       *s[3] = {NULL, NULL, NULL};
    REQUIRE(store);
    power.on = 1;
    fsb_session_attachment att;
    fsb_session_message    with = numbered(text, sizeof text, 0);
    memset(&att, 0, sizeof att);
    att.data = fsb_session_text("bytes"), with.attachments = &att, with.attachment_count = 1;
    fsb_session *holder = open_session(store, "holder");
    CHECK(holder && fsb_session_append(holder, &with, 1) == 0);
    CHECK_EQ(power.blob_folders, 1); /* its name is on the disk, as its bytes are */
    fsb_session_close(holder);
    for (int i = 0; i < crashes; ++i) {
        for (int k = 0; k < 3; ++k) {
            char id[20];
            snprintf(id, sizeof id, "p%d", k);
            if (!s[k]) s[k] = open_session(store, id);
            REQUIRE(s[k]);
            const int more = (int)random_below(4);
            for (int n = 0; n < more; ++n, ++saved[k]) {
                fsb_session_message m = numbered(text, sizeof text, saved[k]);
                CHECK_EQ(fsb_session_append(s[k], &m, 1), 0);
            }
            if (!random_below(6) && saved[k]) {
                fsb_session_message m = numbered(text, sizeof text, 0);
                m.id = 1;
                CHECK_EQ(fsb_session_edit(s[k], &m), 0);
            }
        }
        new_path(to, sizeof to);
        crash_files(to);
        power.on = 0;
        fsb_session_store *after = open_store(to, FSB_SESSION_FILES, FSB_SESSION_SYNC_NONE);
        REQUIRE(after);
        for (int k = 0; k < 3; ++k) {
            snprintf(dir, sizeof dir, "p%d", k);
            CHECK_EQ(check_session(after, dir, saved[k]), saved[k]);
        }
        fsb_session_store_close(after);
        power.on = 1;
    }
    power.on = 0;
    for (int k = 0; k < 3; ++k) fsb_session_close(s[k]);
    fsb_session_store_close(store);
    for (int i = 0; i < power.files; ++i) free(power.file[i].data);
}

/* ---- [power, SQLite] ------------------------------------------------------------------------- */
#ifdef FSB_WITH_SQLITE
static void test_kill_sqlite(void) { kills(FSB_SESSION_SQLITE); }
static void test_processes_sqlite(void) { processes(FSB_SESSION_SQLITE); }

/* A VFS around the system's that keeps, for the database and its log, what is durable, and the
   writes since the last flush. */
typedef struct pending_write {
    int64_t offset;
    int     size; /* -1: cut to offset */
    char   *data;
} pending_write;
typedef struct disk_image {
    char          name[500];
    char         *data;
    int64_t       size;
    pending_write writes[5000];
    int           count;
} disk_image;
static disk_image disk[2]; /* the database, the write-ahead log */

static void apply(char **data, int64_t *size, const pending_write *w)
{
    const int64_t end = w->size < 0 ? w->offset : w->offset + w->size;
    if (w->size < 0 || end > *size) {
        *data = (char *)realloc(*data, (size_t)end + 1);
        if (end > *size) memset(*data + *size, 0, (size_t)(end - *size));
        *size = end;
    }
    if (w->size > 0) memcpy(*data + w->offset, w->data, (size_t)w->size);
}

typedef struct power_file {
    sqlite3_file base;
    disk_image  *image;
    sqlite3_file *real; /* stands right behind */
} power_file;

static sqlite3_vfs       *real_vfs;
static sqlite3_io_methods power_methods;
static sqlite3_file *real_of(sqlite3_file *f) { return ((power_file *)(void *)f)->real; }

static int p_close(sqlite3_file *f) { return real_of(f)->pMethods->xClose(real_of(f)); }
static int p_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    return real_of(f)->pMethods->xRead(real_of(f), p, n, at);
}
static void remember(sqlite3_file *f, const void *p, int n, int64_t at)
{
    disk_image *d = ((power_file *)(void *)f)->image;
    if (!d || d->count == 5000) return;
    pending_write *w = &d->writes[d->count++];
    w->offset = at, w->size = n, w->data = NULL;
    if (n > 0) w->data = (char *)malloc((size_t)n), memcpy(w->data, p, (size_t)n);
}
static int p_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    remember(f, p, n, at);
    return real_of(f)->pMethods->xWrite(real_of(f), p, n, at);
}
static int p_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    remember(f, NULL, -1, size);
    return real_of(f)->pMethods->xTruncate(real_of(f), size);
}
static int p_sync(sqlite3_file *f, int flags)
{
    disk_image *d = ((power_file *)(void *)f)->image;
    (void)flags; /* the real flush is spared: the image is what counts */
    for (int i = 0; d && i < d->count; ++i) {
        apply(&d->data, &d->size, &d->writes[i]);
        free(d->writes[i].data);
    }
    if (d) d->count = 0;
    return SQLITE_OK;
}
static int p_size(sqlite3_file *f, sqlite3_int64 *n)
{
    return real_of(f)->pMethods->xFileSize(real_of(f), n);
}
static int p_lock(sqlite3_file *f, int l) { return real_of(f)->pMethods->xLock(real_of(f), l); }
static int p_unlock(sqlite3_file *f, int l) { return real_of(f)->pMethods->xUnlock(real_of(f), l); }
static int p_reserved(sqlite3_file *f, int *r)
{
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), r);
}
static int p_control(sqlite3_file *f, int op, void *p)
{
    return real_of(f)->pMethods->xFileControl(real_of(f), op, p);
}
static int p_sector(sqlite3_file *f) { return real_of(f)->pMethods->xSectorSize(real_of(f)); }
static int p_traits(sqlite3_file *f)
{
    return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}
static int p_map(sqlite3_file *f, int page, int size, int extend, void volatile **p)
{
    return real_of(f)->pMethods->xShmMap(real_of(f), page, size, extend, p);
}
static int p_shm_lock(sqlite3_file *f, int at, int n, int flags)
{
    return real_of(f)->pMethods->xShmLock(real_of(f), at, n, flags);
}
static void p_barrier(sqlite3_file *f) { real_of(f)->pMethods->xShmBarrier(real_of(f)); }
static int p_unmap(sqlite3_file *f, int del)
{
    return real_of(f)->pMethods->xShmUnmap(real_of(f), del);
}

static int p_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    power_file *p = (power_file *)(void *)f;
    (void)vfs;
    memset(p, 0, sizeof *p);
    p->real = (sqlite3_file *)(void *)(p + 1);
    const int rc = real_vfs->xOpen(real_vfs, name, p->real, flags, out);
    for (int i = 0; name && i < 2; ++i)
        if (strcmp(disk[i].name, name) == 0) p->image = &disk[i];
    if (p->real->pMethods) f->pMethods = &power_methods;
    return rc;
}

static void start_power_vfs(sqlite3_vfs *vfs, const char *path)
{
    real_vfs = sqlite3_vfs_find(NULL);
    *vfs = *real_vfs;
    vfs->zName = "power", vfs->xOpen = p_open;
    vfs->szOsFile = real_vfs->szOsFile + (int)sizeof(power_file);
    power_methods.iVersion = 2;
    power_methods.xClose = p_close, power_methods.xRead = p_read, power_methods.xWrite = p_write;
    power_methods.xTruncate = p_truncate, power_methods.xSync = p_sync;
    power_methods.xFileSize = p_size, power_methods.xLock = p_lock,
    power_methods.xUnlock = p_unlock;
    power_methods.xCheckReservedLock = p_reserved, power_methods.xFileControl = p_control;
    power_methods.xSectorSize = p_sector, power_methods.xDeviceCharacteristics = p_traits;
    power_methods.xShmMap = p_map, power_methods.xShmLock = p_shm_lock;
    power_methods.xShmBarrier = p_barrier, power_methods.xShmUnmap = p_unmap;
    memset(disk, 0, sizeof disk);
    snprintf(disk[0].name, sizeof disk[0].name, "%s", path);
    snprintf(disk[1].name, sizeof disk[1].name, "%s-wal", path);
    sqlite3_vfs_register(vfs, 1);
}

/* What the disk might hold: the durable image, and any of the pending writes, in any subset. */
static void crash_disk(const char *to)
{
    for (int i = 0; i < 2; ++i) {
        char    name[500], *data = (char *)malloc((size_t)disk[i].size + 1);
        int64_t size = disk[i].size;
        if (size) memcpy(data, disk[i].data, (size_t)size);
        for (int k = 0; k < disk[i].count; ++k)
            if (random_below(2)) apply(&data, &size, &disk[i].writes[k]);
        snprintf(name, sizeof name, "%s%s", to, i ? "-wal" : "");
        FILE *f = fopen(name, "wb");
        if (f && size) fwrite(data, 1, (size_t)size, f);
        if (f) fclose(f);
        free(data);
    }
}

static void test_power_sqlite(void)
{
    const int   crashes = soak ? 250 : 40;
    char        path[400], to[400], text[100];
    int         saved = 0;
    sqlite3_vfs vfs;
    new_path(path, sizeof path);
    start_power_vfs(&vfs, path);
    fsb_session_store *store = open_store(path, FSB_SESSION_SQLITE, FSB_SESSION_SYNC_SAVE);
    fsb_session       *s = store ? open_session(store, "p") : NULL;
    REQUIRE(s);
    for (int i = 0; i < crashes; ++i) {
        const int more = 1 + (int)random_below(soak ? 30 : 12);
        for (int n = 0; n < more; ++n, ++saved) {
            fsb_session_message m = numbered(text, sizeof text, saved);
            CHECK_EQ(fsb_session_append(s, &m, 1), 0);
        }
        new_path(to, sizeof to);
        crash_disk(to);
        sqlite3_vfs_unregister(&vfs);
        sqlite3_vfs_register(real_vfs, 1);
        fsb_session_store *after = open_store(to, FSB_SESSION_SQLITE, FSB_SESSION_SYNC_NONE);
        REQUIRE(after);
        CHECK_EQ(check_session(after, "p", saved), saved);
        fsb_session_repair_result r;
        CHECK_EQ(fsb_session_store_repair(after, "ann", &r), 0); /* SQLite finds no fault */
        fsb_session_store_close(after);
        sqlite3_vfs_register(&vfs, 1);
    }
    fsb_session_close(s);
    fsb_session_store_close(store);
    sqlite3_vfs_unregister(&vfs);
    sqlite3_vfs_register(real_vfs, 1);
    for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < disk[i].count; ++k) free(disk[i].writes[k].data);
        free(disk[i].data);
    }
}
#endif

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    soak = getenv("FSB_SOAK") != NULL;
    TEST(test_kill_files);
    TEST(test_processes_files);
    TEST(test_power_files);
#ifdef FSB_WITH_SQLITE
    TEST(test_kill_sqlite);
    TEST(test_processes_sqlite);
    TEST(test_power_sqlite);
#endif
    return test_end("test_session_crash");
}
