/* fsb_files.c - `fsb ls`, `cp`, ...: files wherever they are, without a mount. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "../fsb_backend.h"
#include "../fsb_chunk.h"

#include "open.h"
#include <fnmatch.h>
#include <pthread.h>
#include <sys/stat.h>

int fsb_cmd_files(int argc, char **argv);

static const char help[] =
    "usage: fsb COMMAND [options] URL...\n"
    "\n"
    "  ls [-l] URL...                    names, or with sizes and times\n"
    "  cat URL...                        to stdout\n"
    "  cp [-r] [--resume] [--verify] URL... URL   -r folders too; modes and times are kept,\n"
    "                                    holes too; progress on a terminal. --resume passes over\n"
    "                                    files of the same size and time, and goes on with a big\n"
    "                                    one; --verify reads back what was written\n"
    "  mv URL URL                        within one machine or share\n"
    "  rm [-rf] URL...                   -r folders too, -f no matter if it is not there\n"
    "  mkdir [-p] URL...                 -p with parents, and no matter if it is there\n"
    "  stat URL...                       what is known of a file\n"
    "  find URL [PATTERN]                paths below, whose name matches PATTERN ('*.c')\n"
    "  tree URL                          the same, drawn\n"
    "  du URL...                         bytes and files below\n"
    "  sync [--delete] [--dry-run] FROM TO   makes the folder TO as FROM is: by size and time\n"
    "  exec [-n] URL [-c TEXT | [--] COMMAND ...]   runs a command in that folder, where the host\n"
    "                                    allows it, with all of stdin as its input; -n: with none\n"
    "\n"
    "  --json        ls, stat, find, du: one object a line; cp, sync: one at the end\n"
    "  --timeout SECONDS   a call waits so long for the host, then fails (default 30)\n"
    "  -j N          cp, sync: so many at once (default 16, at most 64)     -v   say more\n"
    "  -o KEY=VALUE  -i FILE  -C     ssh:// and sftp://: for ssh, as in ssh_config(5); such as\n"
    "                -o StrictHostKeyChecking=accept-new   believe a host that is not known yet\n"
    "  --password-file FILE    its first line answers ssh's questions (-: stdin); or FSB_PASSWORD\n"
    "\n"
    "A URL is a path of this machine, or\n"
    "  ssh://[USER@]HOST[:PORT]/PATH     through the system's ssh: fsb-host there, or else SFTP;\n"
    "                                    /~/PATH is below the home folder; FSB_SSH is the command\n"
    "  sftp://[USER@]HOST[:PORT]/PATH    the same, SFTP at once\n"
    "  fsb://HOST:PORT/SHARE[/PATH]#CODE     fsb+tcp://127.0.0.1:PORT/SHARE[/PATH]\n"
    "  fsb+unix:///SOCKET?share=SHARE[/PATH]     file:///PATH     mem:\n";

static struct {
    int        all, recursive, force, parents, json, delete, dry_run, no_input, verbose;
    int        resume, verify;
    uint32_t   timeout_ms, jobs;
    const char *shell;
    tool_log   log;
    fsb_logger logger;
    int        failed;
} o;

/* ---- calls ----------------------------------------------------------------------------------- */

static int64_t call(fsb_backend *b, fsb_op *op, uint32_t code, const char *path)
{
    op->code = code, op->path = path;
    return fsb_backend_call(b, op);
}

static int64_t simple(fsb_backend *b, uint32_t code, const char *path, fsb_stat *st)
{
    fsb_op        op = {0};
    const int64_t n = call(b, &op, code, path);
    if (st && n >= 0) *st = op.stat;
    return n;
}

__attribute__((format(printf, 2, 3))) static void complain(int64_t err, const char *format, ...)
{
    char    line[FSB_PATH_MAX + 200];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    __atomic_store_n(&o.failed, 1, __ATOMIC_RELAXED);
    tool_say("%s: %s", line, strerror((int)-err));
}

static tool_place *place_of(const char *text)
{
    tool_place *p = calloc(1, sizeof *p);
    if (!p) tool_fail("out of memory");
    p->text = text;
    tool_open(p, 0, o.timeout_ms, o.logger);
    return p;
}

static void leave(tool_place *p)
{
    p->backend->close(p->backend);
    free(p);
}

static void join(char *out, const char *folder, const char *name)
{
    if (snprintf(out, FSB_PATH_MAX + 1, "%s/%s", folder[1] ? folder : "", name) > FSB_PATH_MAX)
        tool_fail("the path below %s is too long", folder);
}

/* ---- listings -------------------------------------------------------------------------------- */

typedef struct entry {
    char    *name;
    fsb_stat stat;
} entry;

typedef struct listing {
    entry *entries;
    size_t count, room;
    uint64_t cookie;
} listing;

static int list_emit(fsb_op *op, const fsb_dirent *e)
{
    listing *l = op->user;
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->entries = realloc(l->entries, l->room * sizeof *l->entries);
        if (!l->entries) tool_fail("out of memory");
    }
    if (!(l->entries[l->count].name = strdup(e->name))) tool_fail("out of memory");
    l->entries[l->count++].stat = e->stat;
    l->cookie = e->cookie;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static int64_t list(fsb_backend *b, const char *path, listing *l)
{
    int64_t n;
    memset(l, 0, sizeof *l);
    do {
        fsb_op op = {0};
        op.offset = l->cookie, op.flags = FSB_LIST_STAT, op.emit = list_emit, op.user = l;
        n = call(b, &op, FSB_OP_LIST, path);
        if (n == 0 && l->cookie == op.offset) n = -EIO; /* it would go on for ever */
    } while (n == 0);
    if (l->count) qsort(l->entries, l->count, sizeof *l->entries, by_name);
    return n < 0 ? n : 0;
}

static void list_free(listing *l)
{
    for (size_t i = 0; i < l->count; ++i) free(l->entries[i].name);
    free(l->entries);
}

/* Calls fn for every file below path, folders before what is in them; those that fn answers 0 for
   are not entered. After the last of a folder, fn with st NULL, if `after`. Names are sorted. */
typedef struct walk walk;
struct walk {
    fsb_backend *backend;
    int (*fn)(walk *w, const char *path, const fsb_stat *st, int depth, int last);
    int   after;
    void *user;
};

static void walk_below(walk *w, const char *top)
{
    enum { DEEPEST = 2048 }; /* a path has no more components */
    listing *stack = calloc(DEEPEST, sizeof *stack);
    size_t  *at = calloc(DEEPEST, sizeof *at), *end = calloc(DEEPEST, sizeof *end);
    char     path[FSB_PATH_MAX + 1];
    int      depth = 0;
    if (!stack || !at || !end) tool_fail("out of memory");
    snprintf(path, sizeof path, "%s", top);
    end[0] = strlen(path);
    int64_t err = list(w->backend, path, &stack[0]);
    if (err) complain(err, "cannot list %s", path);
    while (depth >= 0) {
        listing *l = &stack[depth];
        path[end[depth]] = '\0';
        if (at[depth] == l->count) {
            if (w->after) w->fn(w, path, NULL, depth, 0);
            list_free(l);
            --depth;
            continue;
        }
        const entry *e = &l->entries[at[depth]++];
        char         folder[FSB_PATH_MAX + 1];
        memcpy(folder, path, sizeof folder);
        join(path, folder, e->name);
        const int enter = w->fn(w, path, &e->stat, depth, at[depth] == l->count);
        if (!S_ISDIR(e->stat.mode) || !enter) continue;
        if (++depth == DEEPEST) tool_fail("%s is too deep", path);
        at[depth] = 0, end[depth] = strlen(path);
        err = list(w->backend, path, &stack[depth]);
        if (err) complain(err, "cannot list %s", path);
    }
    free(stack), free(at), free(end);
}

/* ---- words for people and machines ----------------------------------------------------------- */

static char kind_of(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return 'd';
    case S_IFLNK: return 'l';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    default: return '-';
    }
}

static void print_mode(uint32_t mode, char out[11])
{
    static const char bits[] = "rwxrwxrwx";
    out[0] = kind_of(mode);
    for (int i = 0; i < 9; ++i) out[i + 1] = mode & (0400u >> i) ? bits[i] : '-';
    if (mode & S_ISUID) out[3] = mode & 0100 ? 's' : 'S';
    if (mode & S_ISGID) out[6] = mode & 0010 ? 's' : 'S';
    if (mode & S_ISVTX) out[9] = mode & 0001 ? 't' : 'T';
    out[10] = '\0';
}

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text; ++text) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static void print_entry(const char *name, const fsb_stat *st)
{
    char      mode[11], when[32];
    struct tm t;
    if (o.json) {
        printf("{\"name\":");
        print_json_text(name);
        printf(",\"type\":\"%c\",\"mode\":%u,\"size\":%llu,\"mtime_ns\":%lld,\"uid\":%u,\"gid\":%u}"
               "\n", kind_of(st->mode), st->mode & 07777, (unsigned long long)st->size,
               (long long)st->mtime_ns, st->uid, st->gid);
    } else if (o.all) {
        const time_t seconds = (time_t)(st->mtime_ns / 1000000000);
        localtime_r(&seconds, &t);
        strftime(when, sizeof when, "%F %H:%M", &t);
        print_mode(st->mode, mode);
        printf("%s %3u %5u %5u %12llu %s %s\n", mode, st->nlink, st->uid, st->gid,
               (unsigned long long)st->size, when, name);
    } else puts(name);
}

/* ---- ls cat stat find tree du ---------------------------------------------------------------- */

static void cmd_ls(tool_place *p)
{
    listing  l;
    fsb_stat st;
    int64_t  err = simple(p->backend, FSB_OP_STAT, p->path, &st);
    if (!err && !S_ISDIR(st.mode)) {
        print_entry(p->text, &st);
        return;
    }
    if (!err) err = list(p->backend, p->path, &l);
    if (err) {
        complain(err, "cannot list %s", p->text);
        return;
    }
    for (size_t i = 0; i < l.count; ++i) print_entry(l.entries[i].name, &l.entries[i].stat);
    list_free(&l);
}

static void cmd_cat(tool_place *p)
{
    static char buf[FSB_IO_MAX];
    fsb_op      op = {0};
    op.flags = FSB_O_READ, op.buf = buf, op.size = sizeof buf;
    int64_t n = call(p->backend, &op, FSB_OP_OPEN, p->path);
    if (n < 0) {
        complain(n, "cannot read %s", p->text);
        return;
    }
    for (op.flags = 0, op.offset = 0; n > 0;) {
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n) tool_fail("cannot write to stdout");
        op.offset += (uint64_t)n;
        n = call(p->backend, &op, FSB_OP_READ, NULL);
    }
    if (n < 0) complain(n, "cannot read all of %s", p->text);
    call(p->backend, &op, FSB_OP_CLOSE, NULL);
}

static void cmd_stat(tool_place *p)
{
    fsb_stat      st;
    const int64_t err = simple(p->backend, FSB_OP_STAT, p->path, &st);
    if (err) complain(err, "cannot look at %s", p->text);
    else o.all = 1, print_entry(p->text, &st);
}

static int find_fn(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    const char *pattern = w->user;
    (void)depth, (void)last;
    if (!pattern || fnmatch(pattern, strrchr(path, '/') + 1, 0) == 0) print_entry(path, st);
    return 1;
}

static int tree_fn(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    char *bars = w->user;
    if (depth >= 2047) return 0;
    for (int i = 0; i < depth; ++i) printf("%s   ", bars[i] ? " " : "|");
    bars[depth] = (char)last;
    printf("%c-- %s%s\n", last ? '`' : '|', strrchr(path, '/') + 1, S_ISDIR(st->mode) ? "/" : "");
    return 1;
}

static int du_fn(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    uint64_t *sums = w->user;
    (void)path, (void)depth, (void)last;
    ++sums[0];
    if (!S_ISDIR(st->mode)) sums[1] += st->size;
    return 1;
}

static void cmd_du(tool_place *p)
{
    uint64_t sums[2] = {0, 0};
    walk     w = {p->backend, du_fn, 0, sums};
    fsb_stat st;
    const int64_t err = simple(p->backend, FSB_OP_STAT, p->path, &st);
    if (err) {
        complain(err, "cannot look at %s", p->text);
        return;
    }
    if (S_ISDIR(st.mode)) walk_below(&w, p->path);
    else sums[0] = 1, sums[1] = st.size;
    if (o.json) {
        printf("{\"bytes\":%llu,\"files\":%llu,\"name\":", (unsigned long long)sums[1],
               (unsigned long long)sums[0]);
        print_json_text(p->text);
        puts("}");
    } else {
        printf("%llu bytes in %llu files: %s\n", (unsigned long long)sums[1],
               (unsigned long long)sums[0], p->text);
    }
}

/* ---- rm mkdir mv exec ------------------------------------------------------------------------ */

static int rm_fn(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    (void)depth, (void)last;
    if (st && S_ISDIR(st->mode)) return 1;
    const int64_t err = simple(w->backend, st ? FSB_OP_UNLINK : FSB_OP_RMDIR, path, NULL);
    if (err) complain(err, "cannot remove %s", path);
    return 0;
}

static void remove_tree(fsb_backend *b, const char *path)
{
    walk w = {b, rm_fn, 1, NULL};
    walk_below(&w, path);
}

static void cmd_rm(tool_place *p)
{
    int64_t err = simple(p->backend, FSB_OP_UNLINK, p->path, NULL);
    if (err == -EISDIR && o.recursive && p->path[1]) {
        remove_tree(p->backend, p->path);
        return;
    }
    if (err && !(err == -ENOENT && o.force)) complain(err, "cannot remove %s", p->text);
}

static int64_t make_folder(fsb_backend *b, const char *path, uint32_t mode)
{
    fsb_op op = {0};
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = mode;
    return call(b, &op, FSB_OP_MKDIR, path);
}

static void cmd_mkdir(tool_place *p)
{
    const mode_t mask = umask(022);
    const uint32_t mode = 0777u & ~mask;
    (void)umask(mask);
    int64_t err = 0;
    for (char *slash = strchr(p->path + 1, '/'); o.parents && slash; slash = strchr(slash + 1, '/'))
    {
        *slash = '\0';
        err = make_folder(p->backend, p->path, mode);
        *slash = '/';
        if (err && err != -EEXIST) break;
    }
    if (!err || err == -EEXIST) err = make_folder(p->backend, p->path, mode);
    if (err == -EEXIST && o.parents) err = 0;
    if (err) complain(err, "cannot make %s", p->text);
}

static int exec_output(fsb_op *op, int fd, const void *data, size_t size)
{
    FILE *to = fd == 2 ? stderr : stdout;
    (void)op;
    return fwrite(data, 1, size, to) != size || fflush(to) != 0;
}

/* What stands in stdin, unless that is a terminal. The caller frees it. */
static char *read_stdin(size_t *size)
{
    size_t room = 64 << 10, n;
    char  *bytes = isatty(STDIN_FILENO) ? NULL : (char *)malloc(room);
    *size = 0;
    while (bytes && (n = fread(bytes + *size, 1, room - *size, stdin)) > 0) {
        *size += n;
        if (*size < room) continue;
        char *more = (char *)realloc(bytes, room *= 2);
        if (!more) tool_fail("too little memory for stdin");
        bytes = more;
    }
    return bytes;
}

/* What Ctrl-C does: the command leads a process group of its own, and is to end with this one. */
static struct {
    pthread_mutex_t lock; /* guards done: the backend may be gone then */
    fsb_backend    *backend;
    fsb_op         *op;
    sigset_t        signals;
    int             got, done;
} ending = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *end_command(void *arg)
{
    (void)arg;
    while (sigwait(&ending.signals, &ending.got) == 0) {
        pthread_mutex_lock(&ending.lock);
        if (ending.done || !ending.backend->cancel) _exit(128 + ending.got);
        ending.backend->cancel(ending.backend, ending.op);
        pthread_mutex_unlock(&ending.lock);
    }
    return NULL;
}

static void end_with_us(fsb_backend *b, fsb_op *op)
{
    pthread_t thread;
    ending.backend = b, ending.op = op;
    sigemptyset(&ending.signals);
    sigaddset(&ending.signals, SIGINT), sigaddset(&ending.signals, SIGTERM);
    sigaddset(&ending.signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ending.signals, NULL);
    if (pthread_create(&thread, NULL, end_command, NULL)) tool_fail("cannot start a thread");
    pthread_detach(thread);
}

static int cmd_exec(tool_place *p, char **argv)
{
    const char   *text[2] = {o.shell, NULL};
    static fsb_exec exec; /* static: end_command() may look at them to the end */
    static fsb_op   op;
    if (!o.shell && !argv[0]) tool_usage("exec needs a command, or -c TEXT");
    exec.argv = o.shell ? text : (const char *const *)argv;
    exec.output = exec_output;
    char *const input = o.no_input ? NULL : read_stdin(&exec.input_size);
    exec.input = input;
    op.exec = &exec, op.flags = o.shell ? FSB_EXEC_SHELL : 0, op.code = FSB_OP_EXEC;
    end_with_us(p->backend, &op);
    const int64_t err = call(p->backend, &op, FSB_OP_EXEC, p->path);
    pthread_mutex_lock(&ending.lock);
    ending.done = 1;
    pthread_mutex_unlock(&ending.lock);
    free(input);
    if (err == -EINTR && ending.got) return 128 + ending.got;
    if (err < 0) {
        complain(err, "cannot run that at %s", p->text);
        return 1;
    }
    return exec.signal ? 128 + exec.signal : exec.exit_code;
}

/* ---- sync: what is there and should not be --------------------------------------------------- */

static struct {
    struct timespec   from;
    fsb_copy_progress before, now; /* of the sources that are done; of the one under way */
    uint64_t          removed;
} c;

static int same_time(int64_t a, int64_t b) /* SFTP has seconds only */
{
    return a == b || (a / 1000000000 == b / 1000000000 && (a % 1000000000 == 0
                                                           || b % 1000000000 == 0));
}

static void remove_extra(fsb_backend *to, const char *path, const fsb_stat *st, int say)
{
    if (say) ++c.removed;
    if (say && (o.dry_run || o.verbose)) printf("delete %s\n", path);
    if (o.dry_run) return;
    if (S_ISDIR(st->mode)) {
        remove_tree(to, path);
        return;
    }
    const int64_t err = simple(to, FSB_OP_UNLINK, path, NULL);
    if (err) complain(err, "cannot remove %s", path);
}

/* One name of the two folders; mine or theirs is NULL where it has none. 1: a folder on both. */
static int compare_entry(const char *from, const entry *mine, fsb_backend *to, const char *path,
                         const entry *theirs)
{
    const int type = mine && theirs && !((mine->stat.mode ^ theirs->stat.mode) & S_IFMT);
    if (theirs && !type && (mine || o.delete)) remove_extra(to, path, &theirs->stat, !mine);
    if (!mine) return 0;
    const int same = type && mine->stat.size == theirs->stat.size
        && same_time(mine->stat.mtime_ns, theirs->stat.mtime_ns);
    if (S_ISDIR(mine->stat.mode)) return type || o.dry_run;
    if ((o.dry_run || o.verbose) && !same) printf("copy %s\n", from);
    return 0;
}

typedef struct folders { /* yet to be compared, below both tops */
    char **names;
    size_t count, room;
} folders;

static void remember(folders *f, const char *below, const char *name)
{
    char path[FSB_PATH_MAX + 1];
    if (f->count == f->room) {
        f->room = f->room ? 2 * f->room : 64;
        f->names = realloc(f->names, f->room * sizeof *f->names);
    }
    join(path, below, name);
    if (!f->names || !(f->names[f->count++] = strdup(path))) tool_fail("out of memory");
}

static void below(char *out, const char *top, const char *rest)
{
    if (snprintf(out, FSB_PATH_MAX + 1, "%s%s", top[1] ? top : "", rest) > FSB_PATH_MAX)
        tool_fail("the path below %s is too long", top);
    if (!out[0]) memcpy(out, "/", 2);
}

static void compare_folder(const tool_place *from, const tool_place *to, const char *top,
                           const char *rest, folders *f)
{
    char    mine[FSB_PATH_MAX + 1], theirs[FSB_PATH_MAX + 1];
    listing m, t;
    below(mine, from->path, rest), below(theirs, top, rest);
    const int64_t err = list(from->backend, mine, &m), late = list(to->backend, theirs, &t);
    if (err) complain(err, "cannot list %s", mine); /* then nothing is removed */
    if (late && late != -ENOENT && late != -ENOTDIR) complain(late, "cannot list %s", theirs);
    for (size_t i = 0, j = 0; !err && (i < m.count || j < t.count);) {
        const int order = i == m.count ? 1 : j == t.count ? -1
            : strcmp(m.entries[i].name, t.entries[j].name);
        const entry *a = order <= 0 ? &m.entries[i++] : NULL;
        const entry *b = order >= 0 ? &t.entries[j++] : NULL;
        char         one[FSB_PATH_MAX + 1], other[FSB_PATH_MAX + 1];
        join(one, mine, (a ? a : b)->name), join(other, theirs, (a ? a : b)->name);
        if (compare_entry(one, a, to->backend, other, b))
            remember(f, rest[0] ? rest : "/", a->name);
    }
    list_free(&m), list_free(&t);
}

/* Says what sync will do, and removes what is in its way, or with --delete not in the source. */
static void compare(const tool_place *from, const tool_place *to, const char *top)
{
    folders f = {NULL, 0, 0};
    compare_folder(from, to, top, "", &f);
    while (f.count) {
        char *rest = f.names[--f.count];
        compare_folder(from, to, top, rest, &f);
        free(rest);
    }
    free(f.names);
}

/* ---- cp sync --------------------------------------------------------------------------------- */

static void print_seconds(FILE *to, double s)
{
    const unsigned n = s < 1e9 ? (unsigned)(s + 0.5) : 999999999;
    if (n >= 3600) fprintf(to, "%u:%02u:%02u", n / 3600, n / 60 % 60, n % 60);
    else fprintf(to, "%u:%02u", n / 60, n % 60);
}

static void progress(const fsb_copy_progress *p, int end)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double s = (double)(now.tv_sec - c.from.tv_sec)
        + 1e-9 * (double)(now.tv_nsec - c.from.tv_nsec) + 1e-9;
    const uint64_t passed = c.before.passed + p->passed;
    const uint64_t files = c.before.files + p->files - passed;
    const double   bytes = (double)(c.before.bytes + p->bytes);
    const double   found = (double)(c.before.found_bytes + p->found_bytes);
    if (end && o.json)
        printf("{\"files\":%llu,\"bytes\":%.0f,\"seconds\":%.3f,\"skipped\":%llu,"
               "\"deleted\":%llu,\"failed\":%llu,\"ok\":%s}\n", (unsigned long long)files, bytes,
               s, (unsigned long long)passed, (unsigned long long)c.removed,
               (unsigned long long)(c.before.failed + p->failed), o.failed ? "false" : "true");
    if (o.json || !isatty(STDERR_FILENO)) return;
    const double done = found > 0 ? (bytes < found ? bytes / found : 1) : end;
    fprintf(stderr, "\r[%-20.*s] %3.0f%%  %llu files, %.1f MB, %.1f MB/s", (int)(20 * done),
            "####################", 100 * done, (unsigned long long)files, bytes * 1e-6,
            bytes * 1e-6 / s);
    if (!end && bytes > 0) {
        fputs(p->walked ? ", " : ", over ", stderr);
        print_seconds(stderr, s * (found - bytes) / bytes);
        fputs(" left", stderr);
    }
    fputs(end ? "\033[K\n" : "\033[K", stderr);
}

static int on_progress(void *user, const fsb_copy_progress *p)
{
    (void)user;
    progress(p, 0);
    return 0;
}

static void add_progress(const fsb_copy_progress *p)
{
    c.before.files += p->files, c.before.passed += p->passed, c.before.failed += p->failed;
    c.before.bytes += p->bytes, c.before.found_bytes += p->found_bytes;
}

/* One source to `path`, which names the copy itself. */
static void copy_one(tool_place *from, tool_place *to, const char *path, int sync)
{
    static const fsb_copy_progress none;
    fsb_copy_desc                  desc = {0};
    fsb_stat                       st;
    int64_t err = simple(from->backend, FSB_OP_STAT, from->path, &st);
    if (!err && S_ISDIR(st.mode) && !sync && !o.recursive) {
        tool_say("%s is a folder: cp -r copies it", from->text);
        o.failed = 1;
        return;
    }
    if (!err && sync && !S_ISDIR(st.mode)) err = -ENOTDIR;
    if (err) {
        complain(err, "cannot copy %s", from->text);
        return;
    }
    if (sync) compare(from, to, path);
    if (o.dry_run) return;
    desc.from = from->backend, desc.to = to->backend, desc.from_path = from->path;
    desc.to_path = path, desc.parallel = o.jobs, desc.progress = on_progress;
    if (sync || o.resume) desc.flags |= FSB_COPY_RESUME;
    if (o.verify) desc.flags |= FSB_COPY_VERIFY;
    c.now = none;
    err = fsb_backend_copy(&desc, &c.now);
    add_progress(&c.now);
    if (!err) return;
    const char *name = c.now.error_path[0] ? c.now.error_path : from->text;
    if (c.now.failed > 1)
        complain(err, "cannot copy %s, and %llu more", name, (unsigned long long)c.now.failed - 1);
    else complain(err, "cannot copy %s", name);
}

static void cmd_cp(int n, char **urls, int sync)
{
    static const fsb_copy_progress none;
    fsb_stat                       st;
    char                           path[FSB_PATH_MAX + 1];
    if (n < 2 || (sync && n != 2)) tool_usage("from where, and to where?");
    tool_place *to = place_of(urls[n - 1]);
    const int   into = !sync && !simple(to->backend, FSB_OP_STAT, to->path, &st)
        && S_ISDIR(st.mode);
    if (n > 2 && !into) tool_fail("%s is no folder", to->text);
    clock_gettime(CLOCK_MONOTONIC, &c.from);
    for (int i = 0; i < n - 1; ++i) {
        tool_place *p = place_of(urls[i]);
        const char *name = strrchr(p->path, '/') + 1;
        if (into && *name) join(path, to->path, name);
        else snprintf(path, sizeof path, "%s", to->path);
        copy_one(p, to, path, sync);
        leave(p);
    }
    progress(&none, 1);
    leave(to);
}

static void cmd_mv(int n, char **urls)
{
    fsb_stat st;
    char     path[FSB_PATH_MAX + 1];
    fsb_op   op = {0};
    if (n != 2) tool_usage("mv takes two URLs");
    tool_place *from = place_of(urls[0]), *to = place_of(urls[1]);
    if (!simple(to->backend, FSB_OP_STAT, to->path, &st) && S_ISDIR(st.mode)) {
        char folder[FSB_PATH_MAX + 1];
        snprintf(folder, sizeof folder, "%s", to->path);
        join(to->path, folder, strrchr(from->path, '/') + 1);
    }
    if (from->url.scheme != to->url.scheme || strcmp(from->url.address, to->url.address)
        || strcmp(from->url.share, to->url.share))
        tool_fail("mv does not go from one machine or share to another; cp -r, then rm -r");
    snprintf(path, sizeof path, "%s", to->path);
    op.path2 = path;
    int64_t err;
    if (from->url.scheme == TOOL_FILE)
        err = rename(from->url.path, to->url.path) == 0 ? 0 : -errno;
    else if (from->url.scheme == TOOL_SSH && strcmp(dirname(from->url.path), dirname(to->url.path)))
        err = -EXDEV;
    else err = call(from->backend, &op, FSB_OP_RENAME, from->path);
    if (err) complain(err, "cannot move %s", from->text);
    leave(from), leave(to);
}

/* ---- the command line ------------------------------------------------------------------------ */

static void parse_options(int argc, char **argv, const char *command)
{
    enum { HELP = 256, JSON, TIMEOUT, DELETE, DRY_RUN, PASSWORD, RESUME, VERIFY };
    static const struct option known[] = {
        {"help", no_argument, NULL, HELP}, {"json", no_argument, NULL, JSON},
        {"timeout", required_argument, NULL, TIMEOUT}, {"delete", no_argument, NULL, DELETE},
        {"dry-run", no_argument, NULL, DRY_RUN}, {"resume", no_argument, NULL, RESUME},
        {"verify", no_argument, NULL, VERIFY},
        {"password-file", required_argument, NULL, PASSWORD}, {NULL, 0, NULL, 0}};
    int       k;
    const int exec = !strcmp(command, "exec"); /* what follows the URL is the command's */
    const char *letters = exec ? "+nvc:o:i:C" : "lrRpfj:vo:i:C";
    while ((k = getopt_long(argc, argv, letters, known, NULL)) != -1) {
        switch (k) {
        case 'l': o.all = 1; break;
        case 'r': case 'R': o.recursive = 1; break;
        case 'p': o.parents = 1; break; /* cp: as ever */
        case 'f': o.force = 1; break;
        case 'c': o.shell = optarg; break;
        case 'n': o.no_input = 1; break;
        case 'v': ++o.verbose; break;
        case 'j': o.jobs = (uint32_t)tool_number("-j", optarg, 1, 64); break;
        case 'o': tool_ssh_give("-o", optarg); break;
        case 'i': tool_ssh_give("-i", optarg); break;
        case 'C': tool_ssh_give("-C", NULL); break;
        case PASSWORD: tool_ssh_password(optarg); break;
        case JSON: o.json = 1; break;
        case TIMEOUT:
            o.timeout_ms = (uint32_t)tool_number("--timeout", optarg, 1, 86400) * 1000;
            break;
        case DELETE: o.delete = 1; break;
        case DRY_RUN: o.dry_run = 1; break;
        case RESUME: o.resume = 1; break;
        case VERIFY: o.verify = 1; break;
        case HELP: fputs(help, stdout); exit(0);
        default: fprintf(stderr, "Try 'fsb %s --help'.\n", command); exit(2);
        }
    }
    if ((o.delete || o.dry_run) && strcmp(command, "sync"))
        tool_usage("--delete and --dry-run are sync's");
    if (o.resume && strcmp(command, "cp")) tool_usage("--resume is cp's; sync always does");
    if (o.verify && strcmp(command, "cp") && strcmp(command, "sync"))
        tool_usage("--verify is cp's and sync's");
    if (argc == optind) tool_usage("%s of what? Name a path or a URL", command);
}

static void each(int n, char **urls, void (*fn)(tool_place *p))
{
    for (int i = 0; i < n; ++i) {
        tool_place *p = place_of(urls[i]);
        fn(p);
        leave(p);
    }
}

static void cmd_walk(int n, char **urls, int tree_drawn)
{
    static char bars[2048];
    if (n > (tree_drawn ? 1 : 2)) tool_usage("too many arguments");
    tool_place *p = place_of(urls[0]);
    walk w = {p->backend, tree_drawn ? tree_fn : find_fn, 0, tree_drawn ? bars : urls[1]};
    if (tree_drawn) puts(p->text);
    walk_below(&w, p->path);
    leave(p);
}

/* argv[0] is the command. */
int fsb_cmd_files(int argc, char **argv)
{
    const char *command = argv[0];
    o.timeout_ms = 30000, o.jobs = 16;
    parse_options(argc, argv, command);
    o.logger = tool_log_open(&o.log, NULL, o.verbose);
    tool_raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN);
    char    **urls = argv + optind;
    const int n = argc - optind;
    if (!strcmp(command, "ls")) each(n, urls, cmd_ls);
    else if (!strcmp(command, "cat")) each(n, urls, cmd_cat);
    else if (!strcmp(command, "stat")) each(n, urls, cmd_stat);
    else if (!strcmp(command, "du")) each(n, urls, cmd_du);
    else if (!strcmp(command, "rm")) each(n, urls, cmd_rm);
    else if (!strcmp(command, "mkdir")) each(n, urls, cmd_mkdir);
    else if (!strcmp(command, "cp")) cmd_cp(n, urls, 0);
    else if (!strcmp(command, "sync")) cmd_cp(n, urls, 1);
    else if (!strcmp(command, "mv")) cmd_mv(n, urls);
    else if (!strcmp(command, "exec")) {
        tool_place *p = place_of(urls[0]);
        char      **words = urls + 1;
        if (!o.shell && words[0] && !strcmp(words[0], "-c")) o.shell = words[1], ++words;
        if (words[0] && !strcmp(words[0], "--")) ++words;
        const int status = cmd_exec(p, words);
        leave(p);
        return status;
    } else cmd_walk(n, urls, !strcmp(command, "tree"));
    if (fflush(stdout) != 0) tool_fail("cannot write to stdout: %s", strerror(errno));
    return o.failed;
}
