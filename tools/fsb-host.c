/* fsb-host - serve folders to any number of clients. `fsb-host --help` is the manual. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "tool.h"
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

static const char help[] =
    "Usage: fsb-host [options] DIR [NAME=DIR ...]\n"
    "Serve folders. Prints one URL for each on stdout once it accepts connections.\n"
    "The name of a share is the folder's own unless NAME= says otherwise.\n"
    "\n"
    "  --listen ADDRESS    unix:PATH, or HOST:PORT on the loopback (port 0: any free one);\n"
    "                      may be given several times\n"
    "  --stdio             serve one client on stdin and stdout instead, until it leaves\n"
    "  --read-only         clients may change nothing\n"
    "  --max-clients N     at once; more are turned away (default 1024)\n"
    "  --log FILE          write the log there, with times, instead of to stderr\n"
    "  -v, --verbose       log clients as they come and go; twice: more\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM and SIGINT stop it cleanly. Who may connect to a unix socket is who may write it:\n"
    "it is made for its owner alone (mode 0600). Nothing outside DIR is ever served, wherever\n"
    "symbolic links point.\n"
    "\n"
    "  fsb-host --listen unix:/run/user/1000/work.sock ~/work\n"
    "  fsb-host --listen 127.0.0.1:0 --read-only docs=/usr/share/doc\n";

enum { MAX_LISTEN = 16, MAX_SHARES = 256 };

typedef struct host {
    const char       *listen[MAX_LISTEN];
    int               listen_count;
    int               stdio, read_only, verbose;
    const char       *log_path;
    uint32_t          max_clients;
    fsb_chunk_share   shares[MAX_SHARES];
    char              names[MAX_SHARES][256];
    size_t            share_count;
    fsb_chunk_server *server;
    tool_log          log;
    fsb_logger        logger;
    int               served; /* what fsb_chunk_server_serve() said */
} host;

static void parse_options(host *h, int argc, char **argv)
{
    enum { LISTEN = 256, STDIO, READ_ONLY, MAX_CLIENTS, LOG, HELP, VERSION };
    static const struct option options[] = {{"listen", required_argument, NULL, LISTEN},
                                            {"stdio", no_argument, NULL, STDIO},
                                            {"read-only", no_argument, NULL, READ_ONLY},
                                            {"max-clients", required_argument, NULL, MAX_CLIENTS},
                                            {"log", required_argument, NULL, LOG},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, HELP},
                                            {"version", no_argument, NULL, VERSION},
                                            {NULL, 0, NULL, 0}};
    int                        c;
    while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1) {
        switch (c) {
        case LISTEN:
            if (h->listen_count == MAX_LISTEN) tool_usage("--listen: more than %d", MAX_LISTEN);
            h->listen[h->listen_count++] = optarg;
            break;
        case STDIO: h->stdio = 1; break;
        case READ_ONLY: h->read_only = 1; break;
        case MAX_CLIENTS:
            h->max_clients = (uint32_t)tool_number("--max-clients", optarg, 1, 1000000);
            break;
        case LOG: h->log_path = optarg; break;
        case 'v': ++h->verbose; break;
        case HELP: fputs(help, stdout); exit(0);
        case VERSION: puts("fsb-host " FSB_VERSION); exit(0);
        default: fprintf(stderr, "Try 'fsb-host --help'.\n"); exit(2);
        }
    }
    if (optind == argc) tool_usage("no folder to serve is named");
    if (h->stdio && h->listen_count) tool_usage("--stdio and --listen exclude each other");
    if (!h->stdio && !h->listen_count)
        tool_usage("no --listen: name a socket, for instance --listen unix:/run/fsb.sock or "
                   "--listen 127.0.0.1:0");
}

/* The last component of the folder's real path is its name. */
static void name_share(char *name, const char *dir)
{
    char        real[PATH_MAX];
    const char *slash = realpath(dir, real) ? strrchr(real, '/') : NULL;
    snprintf(name, 256, "%s", slash && slash[1] ? slash + 1 : "root");
}

/* "DIR" or "NAME=DIR"; a '=' behind a '/' belongs to the folder. */
static void add_share(host *h, const char *arg)
{
    const char *equals = strchr(arg, '='), *slash = strchr(arg, '/');
    const int   named = equals && equals != arg && (!slash || equals < slash);
    const char *dir = named ? equals + 1 : arg;
    struct stat st;
    if (h->share_count == MAX_SHARES) tool_usage("more than %d folders", MAX_SHARES);
    if (stat(dir, &st) != 0)
        tool_fail("cannot serve %s: %s; name a folder that is there", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        tool_fail("cannot serve %s: it is no folder; name the folder around it", dir);
    char *name = h->names[h->share_count];
    if (named && equals - arg > 255) tool_usage("the name of a share is over 255 bytes");
    if (named) snprintf(name, 256, "%.*s", (int)(equals - arg), arg);
    else name_share(name, dir);
    for (size_t i = 0; i < h->share_count; ++i)
        if (strcmp(h->names[i], name) == 0)
            tool_usage("two folders are named '%s'; give one another name: NAME=%s", name, dir);

    fsb_chunk_share *share = &h->shares[h->share_count++];
    fsb_local_desc   desc = {0};
    desc.root = dir, desc.log = h->logger;
    const int err = fsb_local_open(&share->backend, &desc);
    if (err)
        tool_fail("cannot serve %s: %s; it must be a folder that you may read", dir,
                  strerror(-err));
    share->name = name;
    share->rights = FSB_CHUNK_READ | (h->read_only ? 0u : (uint32_t)FSB_CHUNK_WRITE);
}

/* What a client says to fsb-mount, for each share at that address. */
static void print_urls(const host *h, const char *bound)
{
    char where[3 * PATH_MAX], share[3 * 256];
    for (size_t i = 0; i < h->share_count; ++i) {
        tool_url_quote(h->names[i], 0, share, sizeof share);
        if (strncmp(bound, "unix:", 5) == 0) {
            char real[PATH_MAX];
            tool_url_quote(realpath(bound + 5, real) ? real : bound + 5, 1, where, sizeof where);
            printf("fsb+unix://%s?share=%s\n", where, share);
        } else printf("fsb+tcp://%s/%s\n", bound, share);
    }
}

static const char *why_not(int err)
{
    switch (-err) {
    case EADDRINUSE:
        return "somebody listens there already; stop that one or choose another address";
    case EACCES:
        return "not permitted; clients elsewhere need encryption, which is not built in yet: "
               "choose unix:PATH or a loopback address";
    case EEXIST: return "a file that is no socket is in the way; remove it or choose another path";
    case ENAMETOOLONG: return "the path is too long for a socket; choose one under 108 bytes";
    case ENOENT: return "its folder is not there; make it first";
    case EINVAL: return "it is no address; write unix:PATH or HOST:PORT";
    default: return strerror(-err);
    }
}

static void start_listening(host *h)
{
    char bound[PATH_MAX + 8];
    for (int i = 0; i < h->listen_count; ++i) {
        h->log.hold = 1; /* the message below says it better */
        const int err = fsb_chunk_server_listen(h->server, h->listen[i], bound, sizeof bound);
        h->log.hold = 0;
        if (err) {
            tool_say("cannot listen on %s: %s", h->listen[i], why_not(err));
            fsb_chunk_server_close(h->server); /* takes the sockets made so far away */
            exit(err == -EINVAL ? 2 : 1);
        }
        print_urls(h, bound);
    }
    if (fflush(stdout) != 0) tool_say("cannot print the URL: %s", strerror(errno));
}

/* Serves stdin and stdout, then has main() wake up. */
static void *serve_stdio(void *arg)
{
    host *h = (host *)arg;
    h->served = fsb_chunk_server_serve(h->server, STDIN_FILENO, STDOUT_FILENO);
    kill(getpid(), SIGTERM);
    return NULL;
}

int main(int argc, char **argv)
{
    static host h;
    sigset_t    stop;
    pthread_t   thread;
    int         number = 0;
    tool_name = "fsb-host";
    parse_options(&h, argc, argv);
    h.logger = tool_log_open(&h.log, h.log_path, h.verbose);
    tool_raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM), sigaddset(&stop, SIGINT), sigaddset(&stop, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before any thread: they inherit it */
    for (int i = optind; i < argc; ++i) add_share(&h, argv[i]);

    fsb_chunk_server_desc desc = {0};
    desc.shares = h.shares, desc.share_count = h.share_count;
    desc.max_clients = h.max_clients, desc.log = h.logger;
    const int err = fsb_chunk_server_open(&h.server, &desc);
    if (err) tool_fail("cannot start: %s", strerror(-err));
    if (!h.stdio) start_listening(&h);
    else if (pthread_create(&thread, NULL, serve_stdio, &h) != 0)
        tool_fail("cannot start a thread");
    sigwait(&stop, &number);

    fsb_chunk_server_close(h.server);
    if (h.stdio) pthread_join(thread, NULL);
    for (size_t i = 0; i < h.share_count; ++i) h.shares[i].backend->close(h.shares[i].backend);
    if (h.log.file) fclose(h.log.file);
    return h.served < 0 && h.served != -ECANCELED;
}
