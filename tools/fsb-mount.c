/* fsb-mount - mount a served folder as if it were local. `fsb-mount --help` is the manual. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CACHE_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#define FSB_MOUNT_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_cache.h"
#include "fsb_chunk.h"
#include "fsb_mount.h"
#include "open.h"
#include "status.h"
#include "tool.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

static const char help[] =
    "Usage: fsb-mount [options] URL MOUNTPOINT\n"
    "Mount what URL names on the empty folder MOUNTPOINT, and go to the background once it "
    "answers.\n"
    "Unmount with: fusermount3 -u MOUNTPOINT\n"
    "\n"
    "  -f, --foreground    stay in the foreground\n"
    "  -o OPTIONS          FUSE's own (allow_other, ...), separated by commas; and of ours:\n"
    "                      remote_locks: flock and fcntl locks hold between all clients of the\n"
    "                      host, not just in this mount; contain_symlinks: links that lead out\n"
    "                      of the mount, absolute ones too, cannot be read or followed, so that\n"
    "                      no host can lead to files of this machine; that is the default for\n"
    "                      fsb://, fsb+tcp://, ssh:// and sftp://, not so no_contain_symlinks\n"
    "  --read-only         change nothing, which makes opening files quicker; so it is anyway\n"
    "                      where the host does not let us write\n"
    "  --timeout SECONDS   a call waits so long for the host, then fails (default 30); the\n"
    "                      mount stays, and goes on when the host is back\n"
    "  --memory SIZE       keep so much of what the host has said in memory (default 128M; 0: "
    "nothing)\n"
    "  --cache-dir DIR     keep it on disk too: it outlives this program, and is served while the\n"
    "                      host is away, read-only; one mount a folder\n"
    "  --cache-size SIZE   of that folder, at most (default 10G)\n"
    "  --offline           do not connect: serve what --cache-dir has\n"
    "  --code-file FILE    the join code of an fsb:// URL without one (-: stdin); without this\n"
    "                      it is what the environment's FSB_CODE says\n"
    "  --status ADDRESS    tell numbers there to who asks, also as Prometheus wants (/metrics):\n"
    "                      unix:PATH, HOST:PORT on the loopback, or public:HOST:PORT; see it\n"
    "                      with: fsb status ADDRESS\n"
    "  --log FILE          write the log there, with times, instead of to stderr\n"
    "  -v, --verbose       say more in the log; twice: everything\n"
    "  --help, --version\n"
    "\n"
    "URLs\n"
    "  fsb://HOST:PORT/SHARE#CODE           a host anywhere, encrypted, as fsb-host printed it\n"
    "  fsb+unix:///PATH.sock?share=SHARE    a host on a unix socket (SHARE: its first, if left "
    "out)\n"
    "  fsb+tcp://127.0.0.1:PORT/SHARE       a host on the loopback\n"
    "  ssh://[USER@]HOST[:PORT]/PATH        through the system's ssh, which must not need to ask\n"
    "                                       for anything: fsb-host there, or else SFTP\n"
    "  sftp://[USER@]HOST[:PORT]/PATH       the same, SFTP at once\n"
    "  file:///PATH                         a folder of this machine\n"
    "  mem:NAME                             an empty folder in memory, gone at the end\n"
    "\n"
    "  fsb-mount 'fsb+unix:///run/user/1000/work.sock?share=work' ~/mnt\n";

typedef struct options {
    const char *url_text, *mountpoint, *fuse, *log_path, *code_path, *cache_dir, *status_at;
    char        fuse_text[4096];
    uint64_t    memory, cache_size;
    uint32_t    timeout_ms;
    int         foreground, read_only, verbose, offline;
} options;

static void add_fuse_option(options *o, const char *text)
{
    const size_t n = strlen(o->fuse_text);
    if (n + strlen(text) + 2 > sizeof o->fuse_text) tool_usage("-o: too long");
    snprintf(o->fuse_text + n, sizeof o->fuse_text - n, "%s%s", n ? "," : "", text);
    o->fuse = o->fuse_text;
}

static void parse_options(options *o, int argc, char **argv)
{
    enum { READ_ONLY = 256, TIMEOUT, LOG, HELP, VERSION, CODE_FILE, MEMORY, CACHE_DIR,
           CACHE_SIZE, OFFLINE, STATUS };
    static const struct option known[] = {
        {"foreground", no_argument, NULL, 'f'},        {"read-only", no_argument, NULL, READ_ONLY},
        {"timeout", required_argument, NULL, TIMEOUT}, {"log", required_argument, NULL, LOG},
        {"verbose", no_argument, NULL, 'v'},           {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {"code-file", required_argument, NULL, CODE_FILE},
        {"memory", required_argument, NULL, MEMORY},
        {"cache-dir", required_argument, NULL, CACHE_DIR},
        {"cache-size", required_argument, NULL, CACHE_SIZE},
        {"offline", no_argument, NULL, OFFLINE},
        {"status", required_argument, NULL, STATUS},   {NULL, 0, NULL, 0}};
    int c;
    o->timeout_ms = 30000, o->memory = 128 << 20;
    while ((c = getopt_long(argc, argv, "fo:v", known, NULL)) != -1) {
        switch (c) {
        case 'f': o->foreground = 1; break;
        case 'o': add_fuse_option(o, optarg); break;
        case READ_ONLY: o->read_only = 1; break;
        case TIMEOUT:
            o->timeout_ms = (uint32_t)tool_number("--timeout", optarg, 1, 86400) * 1000;
            break;
        case LOG: o->log_path = optarg; break;
        case CODE_FILE: o->code_path = optarg; break;
        case MEMORY: o->memory = tool_size("--memory", optarg, 0, UINT64_C(1) << 46); break;
        case CACHE_DIR: o->cache_dir = optarg; break;
        case CACHE_SIZE:
            o->cache_size = tool_size("--cache-size", optarg, 4 << 20, UINT64_C(1) << 50);
            break;
        case OFFLINE: o->offline = 1; break;
        case STATUS: o->status_at = optarg; break;
        case 'v': ++o->verbose; break;
        case HELP: fputs(help, stdout); exit(0);
        case VERSION: puts("fsb-mount " FSB_VERSION); exit(0);
        default: fprintf(stderr, "Try 'fsb-mount --help'.\n"); exit(2);
        }
    }
    if (o->cache_size && !o->cache_dir) tool_usage("--cache-size needs --cache-dir");
    if (o->offline && !o->cache_dir) tool_usage("--offline needs --cache-dir");
    if (o->cache_dir && !o->memory) tool_usage("--cache-dir needs --memory");
    if (argc - optind != 2) tool_usage("a URL and a folder to mount on are needed");
    o->url_text = argv[optind], o->mountpoint = argv[optind + 1];
}

static tool_url parse_url(const char *text)
{
    tool_url  url;
    const int err = tool_url_parse(text, &url);
    if (err) tool_usage("'%s' is no URL of a host; write fsb+unix:///PATH?share=NAME", text);
    return url;
}

/* The code may be in the URL, in a file, in the environment. From here on it is nowhere else. */
static void find_code(options *o, tool_url *url)
{
    if (url->scheme != TOOL_TLS) return;
    const int err = tool_code_find(o->code_path, url);
    if (err == -ENOENT && !o->code_path)
        tool_usage("the URL has no join code; write fsb://HOST:PORT/SHARE#CODE, or use --code-file "
                   "or FSB_CODE");
    if (err == -EINVAL)
        tool_fail("the join code is mistyped; compare it with what fsb-host printed");
    if (err) tool_fail("cannot read the code file %s: %s", o->code_path, strerror(-err));
    const size_t bare = strcspn(o->url_text, "#"); /* what df and ps show is without it */
    static char  shown[PATH_MAX];
    snprintf(shown, sizeof shown, "%.*s", (int)bare, o->url_text);
    memset((char *)(uintptr_t)o->url_text + bare, 0, strlen(o->url_text + bare));
    o->url_text = shown;
    (void)unsetenv("FSB_CODE");
}

static fsb_backend *connect_to(const options *o, const tool_url *url, fsb_logger log)
{
    fsb_backend *backend = NULL;
    int          err;
    if (url->scheme == TOOL_FILE) {
        fsb_local_desc desc = {0};
        desc.root = url->path, desc.log = log;
        err = fsb_local_open(&backend, &desc);
        if (err) tool_fail("cannot open %s: %s", url->path, strerror(-err));
    } else if (url->scheme == TOOL_MEM) {
        fsb_memory_desc desc = {0};
        desc.log = log;
        err = fsb_memory_open(&backend, &desc);
        if (err) tool_fail("cannot make a folder in memory: %s", strerror(-err));
    } else if (url->scheme == TOOL_SSH || url->scheme == TOOL_SFTP) {
        static tool_place place;
        place.text = o->url_text;
        tool_open(&place, 1, o->timeout_ms, log);
        backend = place.backend;
    } else {
        fsb_chunk_client_desc desc = {0};
        desc.address = url->address, desc.share = url->share[0] ? url->share : NULL;
        desc.timeout_ms = o->timeout_ms, desc.reconnect = 1, desc.log = log;
        if (url->scheme == TOOL_TLS) desc.code = url->code;
        ((tool_log *)log.user)->hold = 1; /* the messages below say it better */
        err = fsb_chunk_client_open(&backend, &desc);
        ((tool_log *)log.user)->hold = 0;
        if (err == -ENOENT && url->share[0] && access(url->address + 5, F_OK) == 0)
            tool_fail("the host has no share '%s'; its URLs are what fsb-host printed", url->share);
        if (err == -ENOENT || err == -ECONNREFUSED)
            tool_fail("no host answers at %s: %s; start fsb-host there first", url->address,
                      strerror(-err));
        if (err == -EACCES)
            tool_fail("%s knows no such code: it was revoked, has expired, or is another host's",
                      url->address);
        if (err == -EPROTO) tool_fail("%s is no fsb host of this release", url->address);
        if (err) tool_fail("cannot connect to %s: %s", url->address, strerror(-err));
    }
    return backend;
}

/* ---- the cache ------------------------------------------------------------------------------- */

/* The folder of the cache; NULL: there is none, or it cannot be used, which is no reason not to
   mount. */
static fsb_cache_disk *open_disk(const options *o, fsb_logger log)
{
    fsb_cache_disk     *disk = NULL;
    fsb_cache_disk_desc desc = {0};
    if (!o->cache_dir) return NULL;
    desc.dir = o->cache_dir, desc.max_bytes = o->cache_size, desc.log = log;
    const int err = fsb_cache_disk_open(&disk, &desc);
    if (err == -EBUSY)
        tool_fail("%s is the cache of another mount; give each one of its own", o->cache_dir);
    if (err && o->offline) tool_fail("cannot read the cache %s: %s", o->cache_dir, strerror(-err));
    if (err)
        tool_say("cannot use the cache %s: %s; going on without it", o->cache_dir, strerror(-err));
    return disk;
}

/* Puts the cache before what is far away; NULL: none. */
static fsb_backend *open_cache(const options *o, fsb_backend *inner, fsb_cache_disk *disk,
                               fsb_logger log)
{
    fsb_backend           *cached = NULL;
    fsb_cache_backend_desc desc = {0};
    desc.inner = inner, desc.share = o->url_text, desc.max_bytes = o->memory, desc.disk = disk;
    desc.offline = o->offline, desc.log = log;
    const int err = fsb_cached_backend(&cached, &desc);
    if (err) tool_fail("cannot make a cache of %llu bytes: %s", (unsigned long long)o->memory,
                       strerror(-err));
    return cached;
}

/* Does the host let us write? */
static int may_write(fsb_backend *host)
{
    fsb_chunk_client_info info;
    fsb_chunk_client_get_info(host, &info);
    return (info.rights & FSB_CHUNK_WRITE) != 0;
}

/* ---- the status ------------------------------------------------------------------------------ */

typedef struct watched {
    fsb_backend *host; /* a client of fsb_chunk.h, or NULL */
    fsb_backend *cached;
} watched;

static void fill_status(void *user, status_page *page)
{
    const watched        *w = (const watched *)user;
    fsb_chunk_client_info info;
    fsb_cached_stats      s;
    if (w->host) {
        fsb_chunk_client_get_info(w->host, &info);
        status_number(page, "fsb_reconnects_total", "counter", "reconnects", info.reconnects);
    }
    if (!w->cached) return;
    fsb_cached_get_stats(w->cached, &s);
    status_number(page, "fsb_online", "gauge", "the host is there (1) or away (0)",
                  !s.offline_since_ns);
    status_number(page, "fsb_leased", "gauge", "it tells of changes (1)", s.leased != 0);
    status_number(page, "fsb_calls_total", "counter", "calls sent to the host", s.calls);
    status_number(page, "fsb_events_total", "counter", "changes told by the host", s.events);
    status_number(page, "fsb_cache_attribute_hits_total", "counter", "attributes: remembered",
                  s.attr_hits);
    status_number(page, "fsb_cache_attribute_misses_total", "counter", "attributes: asked for",
                  s.attr_misses);
    status_number(page, "fsb_cache_negative_hits_total", "counter", "known not to be there",
                  s.negative_hits);
    status_number(page, "fsb_cache_listing_hits_total", "counter", "listings: remembered",
                  s.listing_hits);
    status_number(page, "fsb_cache_listing_misses_total", "counter", "listings: asked for",
                  s.listing_misses);
    status_number(page, "fsb_cache_data_hits_total", "counter", "reads: remembered", s.data_hits);
    status_number(page, "fsb_cache_data_misses_total", "counter", "reads: asked for",
                  s.data_misses);
    status_number(page, "fsb_cache_disk_hits_total", "counter", "chunks from the disk",
                  s.disk_hits);
    status_number(page, "fsb_cache_ahead_bytes_total", "counter", "bytes fetched ahead",
                  s.ahead_bytes);
    status_number(page, "fsb_cache_folders", "gauge", "folders held in memory", s.folders);
    status_number(page, "fsb_cache_folder_bytes", "gauge", "bytes of these", s.folder_bytes);
}

/* ---- the background -------------------------------------------------------------------------- */

/* Forks; the parent waits for the child's word and passes on how it went. Returns, in the child,
   where to say that all is well. Only the child gets threads. */
static int go_to_background(void)
{
    int  word[2], status;
    char well = 0;
    if (pipe2(word, O_CLOEXEC) != 0) tool_fail("cannot go to the background: %s", strerror(errno));
    const pid_t child = fork();
    if (child < 0) tool_fail("cannot go to the background: %s", strerror(errno));
    if (child == 0) {
        close(word[0]);
        (void)setsid();
        return word[1];
    }
    close(word[1]);
    const ssize_t n = read(word[0], &well, 1);
    if (n == 1) _exit(0);
    _exit(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status)
              ? WEXITSTATUS(status)
              : 1); /* it said why on stderr */
}

static void leave_terminal(int word, int keep_stderr)
{
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (chdir("/") != 0) {} /* so as not to keep the caller's file system busy */
    if (null >= 0) {
        (void)dup2(null, STDIN_FILENO), (void)dup2(null, STDOUT_FILENO);
        if (!keep_stderr) (void)dup2(null, STDERR_FILENO);
        close(null);
    }
    if (write(word, "", 1) != 1) {} /* the parent is gone: nobody waits for the word */
    close(word);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static fsb_mount *mounted; /* for the signal handler alone */

static void on_signal(int number)
{
    (void)number;
    fsb_mount_stop(mounted);
}

static void stop_on_signals(void)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = on_signal, act.sa_flags = SA_RESTART;
    sigaction(SIGTERM, &act, NULL), sigaction(SIGINT, &act, NULL), sigaction(SIGHUP, &act, NULL);
}

int main(int argc, char **argv)
{
    static options  o;
    static tool_log log;
    tool_name = "fsb-mount";
    parse_options(&o, argc, argv);
    tool_url         url = parse_url(o.url_text);
    find_code(&o, &url);
    const fsb_logger logger = tool_log_open(&log, o.log_path, o.verbose);
    tool_raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN);
    tool_tune_memory();
#ifdef M_ARENA_MAX /* all but the first grow page by page: a fifth of the CPU of small files */
    (void)mallopt(M_ARENA_MAX, 1);
#endif
    const int    word = o.foreground ? -1 : go_to_background();
    fsb_cache_disk *disk = open_disk(&o, logger);
    fsb_backend    *host = o.offline ? NULL : connect_to(&o, &url, logger);
    const int       far_away = url.scheme != TOOL_FILE && url.scheme != TOOL_MEM;
    fsb_backend    *cached =
        o.memory && (far_away || disk) ? open_cache(&o, host, disk, logger) : NULL;
    fsb_backend *backend = cached ? cached : host;
    const int    ours =
        url.scheme == TOOL_UNIX || url.scheme == TOOL_TCP || url.scheme == TOOL_TLS;
    watched        seen = {ours ? host : NULL, cached};
    status_server *status = status_start(o.status_at, fill_status, &seen, logger);

    fsb_mount_desc desc = {0};
    desc.backend = backend, desc.mountpoint = o.mountpoint, desc.options = o.fuse;
    desc.fsname = o.url_text, desc.log = logger;
    desc.read_only = o.read_only || (seen.host && !may_write(seen.host));
    desc.contain_symlinks = far_away && url.scheme != TOOL_UNIX; /* hosts that others may run */
    log.hold = 1;
    const int err = fsb_mount_open(&mounted, &desc);
    log.hold = 0;
    if (err) {
        tool_say("cannot mount: %s", log.text[0] ? log.text : strerror(-err));
        status_stop(status);
        if (cached) cached->close(cached);
        if (host) host->close(host);
        fsb_cache_disk_close(disk);
        return 1;
    }
    stop_on_signals();
    if (word >= 0) leave_terminal(word, 0);
    const int ended = fsb_mount_serve(mounted);
    status_stop(status);
    fsb_mount_close(mounted);
    if (cached) cached->close(cached);
    if (host) host->close(host);
    fsb_cache_disk_close(disk);
    if (ended) tool_say("the mount on %s ended: %s", o.mountpoint, strerror(-ended));
    return ended != 0;
}
