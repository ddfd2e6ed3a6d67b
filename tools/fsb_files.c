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
    "  cp [-rp] URL... URL               -r folders too, -p keep times; progress on a terminal\n"
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
    "  -j N          cp, sync: so many at once (default 16)     -v   say more\n"
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
    int        all, recursive, keep, force, parents, json, delete, dry_run, no_input, verbose;
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
    fsb_backend *backend;
    fsb_op      *op;
    sigset_t     signals;
    int          got;
} ending;

static void *end_command(void *arg)
{
    (void)arg;
    while (sigwait(&ending.signals, &ending.got) == 0) {
        if (!ending.backend->cancel) _exit(128 + ending.got);
        ending.backend->cancel(ending.backend, ending.op);
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
    free(input);
    if (err == -EINTR && ending.got) return 128 + ending.got;
    if (err < 0) {
        complain(err, "cannot run that at %s", p->text);
        return 1;
    }
    return exec.signal ? 128 + exec.signal : exec.exit_code;
}

/* ---- copying --------------------------------------------------------------------------------- */

enum { PIECE = 8 << 20, QUEUE = 256 };

/* A file that is copied in pieces by several threads; the last one to leave closes it. */
typedef struct big {
    fsb_backend *from, *to;
    char         path[FSB_PATH_MAX + 1], to_path[FSB_PATH_MAX + 1];
    fsb_handle   in, out;
    fsb_stat     st;
    int          users, failed;
} big;

typedef struct job { /* a whole file, or a piece of a big one */
    fsb_backend *from, *to;
    char        *path, *to_path;
    fsb_stat     st;
    big         *of;
    uint64_t     offset;
} job;

static struct {
    pthread_mutex_t lock; /* guards all down to closing */
    pthread_cond_t  wake, room;
    job             queue[QUEUE];
    uint32_t        first, count, busy;
    int             closing;
    uint64_t        bytes, files, total, scanned; /* done; known of; 1 once all is known */
    uint64_t        skipped, removed;
} c = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
       .room = PTHREAD_COND_INITIALIZER};

static void push(job j)
{
    pthread_mutex_lock(&c.lock);
    while (c.count == QUEUE) pthread_cond_wait(&c.room, &c.lock);
    c.queue[(c.first + c.count++) % QUEUE] = j;
    pthread_cond_signal(&c.wake);
    pthread_mutex_unlock(&c.lock);
}

static void keep_times(fsb_backend *to, const char *path, const fsb_stat *st)
{
    fsb_op op = {0};
    if (!o.keep) return;
    op.attr.mask = FSB_ATTR_MTIME | FSB_ATTR_ATIME;
    op.attr.mtime_ns = st->mtime_ns, op.attr.atime_ns = st->atime_ns;
    const int64_t err = call(to, &op, FSB_OP_SETATTR, path);
    if (err < 0) complain(err, "cannot set the times of %s", path);
}

static void leave_big(big *f)
{
    fsb_op op = {0};
    if (__atomic_sub_fetch(&f->users, 1, __ATOMIC_ACQ_REL)) return;
    op.handle = f->in;
    call(f->from, &op, FSB_OP_CLOSE, NULL);
    op.handle = f->out;
    const int64_t err = call(f->to, &op, FSB_OP_CLOSE, NULL);
    if (err < 0) complain(err, "cannot write all of %s", f->to_path);
    else if (!f->failed) keep_times(f->to, f->to_path, &f->st);
    __atomic_add_fetch(&c.files, 1, __ATOMIC_RELAXED);
    free(f);
}

static void copy_piece(const job *j, void *buf)
{
    big *f = j->of;
    for (uint64_t at = j->offset, end = j->offset + PIECE; at < end && !f->failed;) {
        fsb_op op = {0};
        op.handle = f->in, op.offset = at, op.buf = buf, op.size = FSB_IO_MAX;
        const int64_t n = call(f->from, &op, FSB_OP_READ, NULL);
        if (n < 0) complain(n, "cannot read %s", f->path);
        if (n <= 0) {
            if (n < 0) __atomic_store_n(&f->failed, 1, __ATOMIC_RELAXED);
            break;
        }
        memset(&op, 0, sizeof op);
        op.handle = f->out, op.offset = at, op.data = buf, op.size = (size_t)n;
        const int64_t m = call(f->to, &op, FSB_OP_WRITE, NULL);
        if (m < 0) {
            complain(m, "cannot write %s", f->to_path);
            __atomic_store_n(&f->failed, 1, __ATOMIC_RELAXED);
            break;
        }
        at += (uint64_t)n;
        __atomic_add_fetch(&c.bytes, (uint64_t)n, __ATOMIC_RELAXED);
    }
    leave_big(f);
}

/* Opens both ends; main() then makes jobs of the pieces. */
static big *open_big(const job *j)
{
    big   *f = calloc(1, sizeof *f);
    fsb_op op = {0};
    if (!f) tool_fail("out of memory");
    f->from = j->from, f->to = j->to, f->st = j->st, f->users = 1;
    snprintf(f->path, sizeof f->path, "%s", j->path);
    snprintf(f->to_path, sizeof f->to_path, "%s", j->to_path);
    op.flags = FSB_O_READ;
    int64_t err = call(j->from, &op, FSB_OP_OPEN, j->path);
    if (err < 0) complain(err, "cannot read %s", j->path);
    f->in = op.handle;
    if (err >= 0) {
        memset(&op, 0, sizeof op);
        op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC;
        op.attr.mask = FSB_ATTR_MODE, op.attr.mode = j->st.mode & 0777;
        err = call(j->to, &op, FSB_OP_OPEN, j->to_path);
        if (err < 0) complain(err, "cannot write %s", j->to_path);
        f->out = op.handle;
        memset(&op, 0, sizeof op);
        op.handle = f->in;
        if (err < 0) call(j->from, &op, FSB_OP_CLOSE, NULL);
    }
    if (err >= 0) return f;
    free(f);
    return NULL;
}

static void copy_small(const job *j, void *buf)
{
    fsb_op op = {0};
    op.buf = buf, op.size = FSB_IO_MAX;
    const int64_t n = call(j->from, &op, FSB_OP_GET, j->path);
    if (n < 0) {
        complain(n, "cannot read %s", j->path);
        return;
    }
    const fsb_stat st = op.stat;
    memset(&op, 0, sizeof op);
    op.flags = FSB_O_WRITE | FSB_O_CREATE | FSB_O_TRUNC, op.data = buf, op.size = (size_t)n;
    op.attr.mask = FSB_ATTR_MODE, op.attr.mode = st.mode & 0777;
    const int64_t m = call(j->to, &op, FSB_OP_PUT, j->to_path);
    if (m < 0) {
        complain(m, "cannot write %s", j->to_path);
        return;
    }
    keep_times(j->to, j->to_path, &st);
    __atomic_add_fetch(&c.bytes, (uint64_t)n, __ATOMIC_RELAXED);
    __atomic_add_fetch(&c.files, 1, __ATOMIC_RELAXED);
}

static void *copier(void *arg)
{
    void *buf = malloc(FSB_IO_MAX);
    (void)arg;
    if (!buf) tool_fail("out of memory");
    pthread_mutex_lock(&c.lock);
    for (;;) {
        while (!c.count && !c.closing) pthread_cond_wait(&c.wake, &c.lock);
        if (!c.count) break;
        const job j = c.queue[c.first];
        c.first = (c.first + 1) % QUEUE, --c.count, ++c.busy;
        pthread_cond_broadcast(&c.room);
        pthread_mutex_unlock(&c.lock);
        if (j.of) copy_piece(&j, buf);
        else copy_small(&j, buf);
        free(j.path), free(j.to_path);
        pthread_mutex_lock(&c.lock);
        --c.busy;
        pthread_cond_broadcast(&c.room);
    }
    pthread_mutex_unlock(&c.lock);
    free(buf);
    return NULL;
}

static void copy_file(fsb_backend *from, const char *path, fsb_backend *to, const char *to_path,
                      const fsb_stat *st)
{
    job j = {from, to, strdup(path), strdup(to_path), *st, NULL, 0};
    if (!j.path || !j.to_path) tool_fail("out of memory");
    __atomic_add_fetch(&c.total, st->size, __ATOMIC_RELAXED);
    if (st->size < FSB_IO_MAX) {
        push(j);
        return;
    }
    big *f = open_big(&j);
    free(j.path), free(j.to_path);
    j.path = j.to_path = NULL;
    if (!f) return;
    for (uint64_t at = 0; at < st->size; at += PIECE) {
        j.of = f, j.offset = at;
        __atomic_add_fetch(&f->users, 1, __ATOMIC_RELAXED);
        push(j);
    }
    leave_big(f);
}

static void copy_link(fsb_backend *from, const char *path, fsb_backend *to, const char *to_path)
{
    char   text[FSB_PATH_MAX + 1];
    fsb_op op = {0};
    op.buf = text, op.size = sizeof text - 1;
    const int64_t n = call(from, &op, FSB_OP_READLINK, path);
    int64_t       err = n;
    if (n >= 0) {
        text[n] = '\0';
        memset(&op, 0, sizeof op);
        op.path2 = text;
        err = call(to, &op, FSB_OP_SYMLINK, to_path);
        if (err == -EEXIST && !simple(to, FSB_OP_UNLINK, to_path, NULL))
            err = call(to, &op, FSB_OP_SYMLINK, to_path);
    }
    if (err < 0) complain(err, "cannot copy the link %s", path);
}

/* ---- cp sync --------------------------------------------------------------------------------- */

typedef struct tree {
    fsb_backend *to;
    size_t       skip;                    /* of each path: the source itself */
    char         base[FSB_PATH_MAX + 1]; /* what stands for it at the other end */
    int          sync;
} tree;

/* 1 if the other end has it already. What is there and of another type is removed. */
static int same(const tree *t, const char *path, const fsb_stat *st)
{
    fsb_stat there;
    if (simple(t->to, FSB_OP_STAT, path, &there)) return 0;
    const int type = ((st->mode ^ there.mode) & S_IFMT) == 0;
    if (!type && !o.dry_run) {
        if (S_ISDIR(there.mode)) remove_tree(t->to, path);
        else simple(t->to, FSB_OP_UNLINK, path, NULL);
    }
    return type && S_ISREG(st->mode) && st->size == there.size
        && st->mtime_ns / 1000000000 == there.mtime_ns / 1000000000;
}

static int remove_extra(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    const tree *t = w->user; /* seen from the other side: to is the source */
    char        mine[FSB_PATH_MAX + 1];
    (void)depth, (void)last;
    join(mine, t->base, path + t->skip + 1);
    if (simple(t->to, FSB_OP_STAT, mine, NULL) != -ENOENT) return 1;
    ++c.removed;
    if (o.dry_run || o.verbose) printf("delete %s\n", path);
    if (o.dry_run) return 0;
    if (S_ISDIR(st->mode)) remove_tree(w->backend, path);
    else {
        const int64_t err = simple(w->backend, FSB_OP_UNLINK, path, NULL);
        if (err) complain(err, "cannot remove %s", path);
    }
    return 0;
}

static int copy_fn(walk *w, const char *path, const fsb_stat *st, int depth, int last)
{
    const tree *t = w->user;
    char        to[FSB_PATH_MAX + 1];
    (void)depth, (void)last;
    join(to, t->base, path + t->skip + 1);
    if (t->sync && same(t, to, st)) {
        ++c.skipped;
        return 1;
    }
    if ((o.dry_run || o.verbose) && !S_ISDIR(st->mode)) printf("copy %s\n", path);
    if (o.dry_run) return 1;
    if (S_ISDIR(st->mode)) {
        const int64_t err = make_folder(t->to, to, st->mode & 0777);
        if (!err || err == -EEXIST) return 1;
        complain(err, "cannot make %s", to);
    } else if (S_ISREG(st->mode)) copy_file(w->backend, path, t->to, to, st);
    else if (S_ISLNK(st->mode)) copy_link(w->backend, path, t->to, to);
    else tool_say("%s is left out: it is no file, folder or link", path);
    return 0;
}

static void progress(const struct timespec *from, int end)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double s = (double)(now.tv_sec - from->tv_sec)
        + 1e-9 * (double)(now.tv_nsec - from->tv_nsec) + 1e-9;
    const uint64_t bytes = __atomic_load_n(&c.bytes, __ATOMIC_RELAXED);
    const uint64_t total = __atomic_load_n(&c.total, __ATOMIC_RELAXED);
    const uint64_t files = __atomic_load_n(&c.files, __ATOMIC_RELAXED);
    if (end && o.json)
        printf("{\"files\":%llu,\"bytes\":%llu,\"seconds\":%.3f,\"skipped\":%llu,\"deleted\":%llu,"
               "\"ok\":%s}\n", (unsigned long long)files, (unsigned long long)bytes, s,
               (unsigned long long)c.skipped, (unsigned long long)c.removed,
               o.failed ? "false" : "true");
    if (o.json || !isatty(STDERR_FILENO)) return;
    const double done = total ? (double)bytes / (double)total : 1;
    const int    bar = (int)(20 * done), known = (int)__atomic_load_n(&c.scanned, __ATOMIC_RELAXED);
    fprintf(stderr, "\r[%-20.*s] %3.0f%%  %llu files, %.1f MB, %.1f MB/s", bar,
            "####################", 100 * done, (unsigned long long)files, (double)bytes * 1e-6,
            (double)bytes * 1e-6 / s);
    if (known && bytes && !end)
        fprintf(stderr, ", %.0f s left ", s * (double)(total - bytes) / (double)bytes);
    fputs(end ? "          \n" : "\033[K", stderr);
}

static pthread_t *start_copiers(void)
{
    pthread_t *threads = calloc(o.jobs, sizeof *threads);
    for (uint32_t i = 0; threads && i < o.jobs; ++i)
        if (pthread_create(&threads[i], NULL, copier, NULL)) tool_fail("cannot start a thread");
    if (!threads) tool_fail("out of memory");
    return threads;
}

static volatile int watching = 1;
static void *show(void *arg)
{
    while (watching) {
        progress(arg, 0);
        usleep(100000);
    }
    return NULL;
}

/* Waits until everything is copied. */
static void finish_copiers(pthread_t *threads)
{
    pthread_mutex_lock(&c.lock);
    __atomic_store_n(&c.scanned, 1, __ATOMIC_RELAXED);
    c.closing = 1;
    pthread_cond_broadcast(&c.wake);
    pthread_mutex_unlock(&c.lock);
    for (uint32_t i = 0; i < o.jobs; ++i) pthread_join(threads[i], NULL);
    free(threads);
}

/* One source to `to`, which names the copy itself. */
static void copy_one(tool_place *from, tool_place *to, const char *to_path, int sync)
{
    fsb_stat st;
    int64_t  err = simple(from->backend, FSB_OP_STAT, from->path, &st);
    if (!err && S_ISDIR(st.mode) && !sync && !o.recursive) {
        tool_say("%s is a folder: cp -r copies it", from->text);
        o.failed = 1;
        return;
    }
    if (!err && sync && !S_ISDIR(st.mode)) err = -ENOTDIR;
    if (!err && S_ISDIR(st.mode) && !o.dry_run) {
        err = make_folder(to->backend, to_path, st.mode & 0777);
        if (err == -EEXIST) err = 0;
    }
    if (err) {
        complain(err, "cannot copy %s", from->text);
        return;
    }
    if (S_ISREG(st.mode)) copy_file(from->backend, from->path, to->backend, to_path, &st);
    else if (S_ISLNK(st.mode)) copy_link(from->backend, from->path, to->backend, to_path);
    if (!S_ISDIR(st.mode)) return;
    tree t = {to->backend, from->path[1] ? strlen(from->path) : 0, "", sync};
    walk w = {from->backend, copy_fn, 0, &t};
    snprintf(t.base, sizeof t.base, "%s", to_path);
    if (o.delete) {
        tree back = {from->backend, to_path[1] ? strlen(to_path) : 0, "", 1};
        walk v = {to->backend, remove_extra, 0, &back};
        snprintf(back.base, sizeof back.base, "%s", from->path);
        if (!simple(to->backend, FSB_OP_STAT, to_path, NULL)) walk_below(&v, to_path);
    }
    walk_below(&w, from->path);
}

static void cmd_cp(int n, char **urls, int sync)
{
    struct timespec from;
    fsb_stat        st;
    pthread_t       shower;
    char            path[FSB_PATH_MAX + 1];
    if (n < 2 || (sync && n != 2)) tool_usage("from where, and to where?");
    tool_place *to = place_of(urls[n - 1]), **sources = calloc((size_t)n, sizeof *sources);
    const int   into = !sync && !simple(to->backend, FSB_OP_STAT, to->path, &st)
        && S_ISDIR(st.mode);
    if (n > 2 && !into) tool_fail("%s is no folder", to->text);
    if (!sources) tool_fail("out of memory");
    clock_gettime(CLOCK_MONOTONIC, &from);
    pthread_t *threads = start_copiers();
    if (pthread_create(&shower, NULL, show, &from)) tool_fail("cannot start a thread");
    for (int i = 0; i < n - 1; ++i) {
        tool_place *p = sources[i] = place_of(urls[i]);
        const char *name = strrchr(p->path, '/') + 1;
        if (into && *name) join(path, to->path, name);
        else snprintf(path, sizeof path, "%s", to->path);
        copy_one(p, to, path, sync);
    }
    finish_copiers(threads);
    watching = 0;
    pthread_join(shower, NULL);
    progress(&from, 1);
    for (int i = 0; i < n - 1; ++i) leave(sources[i]);
    free(sources);
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
    enum { HELP = 256, JSON, TIMEOUT, DELETE, DRY_RUN, PASSWORD };
    static const struct option known[] = {
        {"help", no_argument, NULL, HELP}, {"json", no_argument, NULL, JSON},
        {"timeout", required_argument, NULL, TIMEOUT}, {"delete", no_argument, NULL, DELETE},
        {"dry-run", no_argument, NULL, DRY_RUN},
        {"password-file", required_argument, NULL, PASSWORD}, {NULL, 0, NULL, 0}};
    int       k;
    const int exec = !strcmp(command, "exec"); /* what follows the URL is the command's */
    while ((k = getopt_long(argc, argv, exec ? "+nvc:o:i:C" : "lrRpfj:vo:i:C", known, NULL)) != -1) {
        switch (k) {
        case 'l': o.all = 1; break;
        case 'r': case 'R': o.recursive = 1; break;
        case 'p': o.keep = o.parents = 1; break;
        case 'f': o.force = 1; break;
        case 'c': o.shell = optarg; break;
        case 'n': o.no_input = 1; break;
        case 'v': ++o.verbose; break;
        case 'j': o.jobs = (uint32_t)tool_number("-j", optarg, 1, 256); break;
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
        case HELP: fputs(help, stdout); exit(0);
        default: fprintf(stderr, "Try 'fsb %s --help'.\n", command); exit(2);
        }
    }
    if ((o.delete || o.dry_run) && strcmp(command, "sync"))
        tool_usage("--delete and --dry-run are sync's");
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
    else if (!strcmp(command, "sync")) o.keep = 1, cmd_cp(n, urls, 1);
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
