/* fsb-host - serve folders to any number of clients. `fsb-host --help` is the manual. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "codes.h"
#include "sandbox.h"
#include "status.h"
#include "tool.h"
#include <ifaddrs.h>
#include <netdb.h>
#include <net/if.h>
#include <sys/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

static const char help[] =
    "Usage: fsb-host [options] DIR [NAME=DIR ...]\n"
    "Serve folders. Prints one URL for each on stdout once it accepts connections.\n"
    "The name of a share is the folder's own unless NAME= says otherwise.\n"
    "\n"
    "  --listen ADDRESS    unix:PATH; HOST:PORT on the loopback (port 0: any free one); or\n"
    "                      encrypted, for who has a join code: tls:HOST:PORT, HOST * for all\n"
    "                      addresses. May be given several times; without it: tls:*:0\n"
    "  --code-file FILE    the join codes, one a line, made at the first start; a change in it\n"
    "                      counts within a second, and who came with a code that is gone is\n"
    "                      disconnected. Without it a new code is made at every start\n"
    "  --new-code NAME     puts a new code for NAME into the code file, in place of NAME's old\n"
    "                      one if there is one, prints it, and ends. With --read-only it opens\n"
    "                      for reading; with --share SHARE that one only; with --until\n"
    "                      2026-12-31 (or 2026-12-31T23:59:59Z) no longer than that\n"
    "  --revoke NAME       takes the code of NAME out of the code file, and ends\n"
    "  --stdio             serve one client on stdin and stdout instead, until it leaves\n"
    "  --read-only         clients may change nothing\n"
    "  --allow-exec        clients may run commands (fsb exec) as this user, with this\n"
    "                      environment, and not confined to DIR; over tls: only those whose code\n"
    "                      has the rights rwx, as one made with this option\n"
    "  --max-clients N     at once; more are turned away (default 1024)\n"
    "  --max-unproven N    connections at once that have not shown a code yet (default 64, of\n"
    "                      these 16 from one address), then the oldest makes room; wrong\n"
    "                      codes slow their address down\n"
    "  --request-timeout SECONDS   a request takes no longer (default 30)\n"
    "  --keep SECONDS      keep the open files and locks of a client whose connection is lost so\n"
    "                      long for it to come back (default 60)\n"
    "  --no-sandbox        leave this process the chance to gain privileges (by set-user-id\n"
    "                      programs, for instance), and system calls that it never makes (mount,\n"
    "                      ptrace, bpf, loading modules, ...), which it gives up otherwise\n"
    "  --status ADDRESS    tell numbers there to who asks, also as Prometheus wants (/metrics):\n"
    "                      unix:PATH, HOST:PORT on the loopback, or public:HOST:PORT; see it\n"
    "                      with: fsb status ADDRESS\n"
    "  --audit FILE        write down who came, left, was refused, and changed what: time,\n"
    "                      client, code, share, what, path, new path, result; -: there is none\n"
    "  --log FILE          write the log there, with times, instead of to stderr\n"
    "  -v, --verbose       log clients as they come and go; twice: more\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM and SIGINT stop it cleanly. Who may connect to a unix socket is who may write it:\n"
    "it is made for its owner alone (mode 0600). Nothing outside DIR is ever served, wherever\n"
    "symbolic links point.\n"
    "\n"
    "  fsb-host --code-file ~/.config/fsb-codes ~/work\n"
    "  fsb-host --code-file ~/.config/fsb-codes --new-code ann --read-only\n"
    "  fsb-host --listen unix:/run/user/1000/work.sock ~/work\n"
    "  fsb-host --listen 127.0.0.1:0 --read-only docs=/usr/share/doc\n";

enum { MAX_LISTEN = 16, MAX_SHARES = 256 };

typedef struct host {
    const char       *listen[MAX_LISTEN];
    int               listen_count;
    int               stdio, read_only, allow_exec, verbose;
    const char       *log_path, *code_path, *new_code, *revoked;
    codes_line        line; /* of --new-code */
    codes             codes;
    uint32_t          max_clients, max_unproven, request_ms, away_ms;
    int               no_sandbox;
    const char       *status_at, *audit_path;
    FILE             *audit;
    fsb_chunk_share   shares[MAX_SHARES];
    char              names[MAX_SHARES][256];
    size_t            share_count;
    fsb_chunk_server *server;
    tool_log          log;
    fsb_logger        logger;
    int               served; /* what fsb_chunk_server_serve() said */
} host;

static void name_copy(const char *option, char *to, size_t size, const char *name)
{
    if (strlen(name) >= size) tool_usage("%s: the name is too long", option);
    memcpy(to, name, strlen(name) + 1);
}

/* What excludes each other, and what stands for what was not said. */
static void check_options(host *h, int argc)
{
    if (h->read_only && h->allow_exec)
        tool_usage("--read-only and --allow-exec exclude each other: commands may write");
    if (h->new_code || h->revoked) {
        if (!h->code_path) tool_usage("--new-code and --revoke need --code-file");
        if (optind != argc) tool_usage("--new-code and --revoke serve nothing: name no folder");
        return;
    }
    if (h->line.share[0] || h->line.until) tool_usage("--share and --until need --new-code");
    if (optind == argc) tool_usage("no folder to serve is named");
    if (h->stdio && h->listen_count) tool_usage("--stdio and --listen exclude each other");
    if (!h->stdio && !h->listen_count) h->listen[h->listen_count++] = "tls:*:0";
}

static void parse_options(host *h, int argc, char **argv)
{
    enum { LISTEN = 256, STDIO, READ_ONLY, MAX_CLIENTS, LOG, HELP, VERSION, CODE_FILE, NEW_CODE,
           REVOKE, SHARE, UNTIL, MAX_UNPROVEN, REQUEST, KEEP, NO_SANDBOX, ALLOW_EXEC,
           STATUS, AUDIT };
    static const struct option options[] = {{"listen", required_argument, NULL, LISTEN},
                                            {"stdio", no_argument, NULL, STDIO},
                                            {"read-only", no_argument, NULL, READ_ONLY},
                                            {"max-clients", required_argument, NULL, MAX_CLIENTS},
                                            {"log", required_argument, NULL, LOG},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, HELP},
                                            {"version", no_argument, NULL, VERSION},
                                            {"code-file", required_argument, NULL, CODE_FILE},
                                            {"new-code", required_argument, NULL, NEW_CODE},
                                            {"revoke", required_argument, NULL, REVOKE},
                                            {"share", required_argument, NULL, SHARE},
                                            {"until", required_argument, NULL, UNTIL},
                                            {"max-unproven", required_argument, NULL, MAX_UNPROVEN},
                                            {"request-timeout", required_argument, NULL, REQUEST},
                                            {"keep", required_argument, NULL, KEEP},
                                            {"allow-exec", no_argument, NULL, ALLOW_EXEC},
                                            {"no-sandbox", no_argument, NULL, NO_SANDBOX},
                                            {"status", required_argument, NULL, STATUS},
                                            {"audit", required_argument, NULL, AUDIT},
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
        case ALLOW_EXEC: h->allow_exec = 1; break;
        case MAX_CLIENTS:
            h->max_clients = (uint32_t)tool_number("--max-clients", optarg, 1, 1000000);
            break;
        case MAX_UNPROVEN:
            h->max_unproven = (uint32_t)tool_number("--max-unproven", optarg, 1, 100000);
            break;
        case REQUEST:
            h->request_ms = (uint32_t)tool_number("--request-timeout", optarg, 1, 86400) * 1000;
            break;
        case KEEP:
            h->away_ms = (uint32_t)tool_number("--keep", optarg, 0, 86400) * 1000;
            if (!h->away_ms) h->away_ms = FSB_CHUNK_NEVER;
            break;
        case NO_SANDBOX: h->no_sandbox = 1; break;
        case STATUS: h->status_at = optarg; break;
        case AUDIT: h->audit_path = optarg; break;
        case LOG: h->log_path = optarg; break;
        case CODE_FILE: h->code_path = optarg; break;
        case NEW_CODE: h->new_code = optarg; break;
        case REVOKE: h->revoked = optarg; break;
        case SHARE: name_copy("--share", h->line.share, sizeof h->line.share, optarg); break;
        case UNTIL:
            if ((h->line.until = codes_until(optarg)) <= 0)
                tool_usage("--until: '%s' is no time like 2026-12-31T23:59:59Z", optarg);
            break;
        case 'v': ++h->verbose; break;
        case HELP: fputs(help, stdout); exit(0);
        case VERSION: puts("fsb-host " FSB_VERSION); exit(0);
        default: fprintf(stderr, "Try 'fsb-host --help'.\n"); exit(2);
        }
    }
    check_options(h, argc);
}

static uint32_t host_rights(const host *h)
{
    return FSB_CHUNK_READ | (h->read_only ? 0u : (uint32_t)FSB_CHUNK_WRITE) |
        (h->allow_exec ? (uint32_t)FSB_CHUNK_EXEC : 0u);
}

/* ---- join codes ---- */

static void fail_codes(const char *path, int err, const char *wrong)
{
    if (err == -EBADMSG) tool_fail("the code file %s: %s; correct it", path, wrong);
    if (err == -ENOENT) tool_fail("no such code or file: %s", path);
    tool_fail("the code file %s: %s; name one that you may read and write", path, strerror(-err));
}

/* --new-code and --revoke: changes the file and ends. */
static void change_codes(host *h)
{
    char wrong[200];
    int  err = codes_read(h->code_path, &h->codes, wrong);
    if (err == -ENOENT && h->new_code) err = 0;
    if (err) fail_codes(h->code_path, err, wrong);
    if (h->revoked && codes_remove(&h->codes, h->revoked) != 0)
        tool_fail("%s has no code of that name: %s", h->code_path, h->revoked);
    if (h->new_code) {
        h->line.rights = host_rights(h);
        name_copy("--new-code", h->line.name, sizeof h->line.name, h->new_code);
        if ((err = codes_renew(&h->codes, &h->line)) != 0) fail_codes(h->code_path, err, "");
    }
    if ((err = codes_write(h->code_path, &h->codes)) != 0) fail_codes(h->code_path, err, "");
    for (size_t i = 0; h->new_code && i < h->codes.count; ++i)
        if (strcmp(h->codes.lines[i].name, h->new_code) == 0) puts(h->codes.lines[i].code);
    exit(fflush(stdout) != 0);
}

/* The codes to begin with; the file is made if it is not there. */
static void first_codes(host *h)
{
    const codes_line main_line = {.name = "main", .rights = host_rights(h) | FSB_CHUNK_WRITE};
    char             wrong[200];
    int err = h->code_path ? codes_read(h->code_path, &h->codes, wrong) : -ENOENT;
    if (err == -ENOENT) {
        err = codes_renew(&h->codes, &main_line);
        if (!err && h->code_path) err = codes_write(h->code_path, &h->codes);
        if (!err && h->code_path) err = codes_read(h->code_path, &h->codes, wrong);
    }
    if (!err) err = codes_apply(&h->codes, h->server);
    if (err) fail_codes(h->code_path ? h->code_path : "(none)", err, wrong);
}

/* Has the file changed? A bad one changes nothing, and is told of once. */
static void follow_codes(host *h)
{
    static codes next;
    char         wrong[200];
    struct stat  st;
    if (!h->code_path || stat(h->code_path, &st) != 0) return;
    if (st.st_mtim.tv_sec == h->codes.changed.tv_sec &&
        st.st_mtim.tv_nsec == h->codes.changed.tv_nsec)
        return;
    int err = codes_read(h->code_path, &next, wrong);
    if (!err) err = codes_apply(&next, h->server);
    if (!err) h->codes = next;
    else tool_say("the code file is left out of account: %s", wrong[0] ? wrong : strerror(-err));
    h->codes.changed = st.st_mtim;
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
    desc.allow_exec = h->allow_exec != 0, desc.exec_env = (const char *const *)environ;
    const int err = fsb_local_open(&share->backend, &desc);
    if (err)
        tool_fail("cannot serve %s: %s; it must be a folder that you may read", dir,
                  strerror(-err));
    share->name = name;
    share->rights = host_rights(h);
}

/* A name or number by which others may reach this machine: its own name where that leads to an
   address that is not the loopback, else the first such address. */
static void find_own_name(char *name, size_t size)
{
    struct addrinfo hints = {.ai_family = AF_INET}, *list = NULL;
    struct ifaddrs *all = NULL;
    if (gethostname(name, size) != 0) name[0] = '\0';
    name[size - 1] = '\0';
    int good = name[0] && getaddrinfo(name, NULL, &hints, &list) == 0;
    for (struct addrinfo *a = list; a; a = a->ai_next)
        good &= *((unsigned char *)&((struct sockaddr_in *)(void *)a->ai_addr)->sin_addr) != 127;
    if (list) freeaddrinfo(list);
    if (good) return;
    snprintf(name, size, "127.0.0.1");
    if (getifaddrs(&all) != 0) return;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK))
            continue;
        getnameinfo(i->ifa_addr, sizeof(struct sockaddr_in), name, (socklen_t)size, NULL, 0,
                    NI_NUMERICHOST);
        break;
    }
    freeifaddrs(all);
}

/* fsb://HOST:PORT/SHARE#CODE with the first code that opens the share. */
static void print_secure(const host *h, const char *bound, const char *name, const char *share)
{
    const char *code = NULL, *port = strrchr(bound, ':');
    char        own[256];
    for (size_t i = 0; i < h->codes.count && !code; ++i)
        if (!h->codes.lines[i].share[0] || strcmp(h->codes.lines[i].share, name) == 0)
            code = h->codes.lines[i].code;
    const int any = strncmp(bound, "[::]:", 5) == 0 || strncmp(bound, "0.0.0.0:", 8) == 0;
    if (any) find_own_name(own, sizeof own);
    else snprintf(own, sizeof own, "%.*s", (int)(port - bound), bound);
    printf("fsb://%s%s/%s%s%s\n", own, port, share, code ? "#" : "", code ? code : "");
}

/* What a client says to fsb-mount, for each share at that address. */
static void print_urls(const host *h, const char *bound)
{
    char where[3 * PATH_MAX], share[3 * 256];
    for (size_t i = 0; i < h->share_count; ++i) {
        tool_url_quote(h->names[i], 0, share, sizeof share);
        if (strncmp(bound, "tls:", 4) == 0) print_secure(h, bound + 4, h->names[i], share);
        else if (strncmp(bound, "unix:", 5) == 0) {
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
        return "not permitted; where it is no loopback address, write tls: before it: clients "
               "elsewhere need encryption";
    case ENOSYS: return "this program was built without OpenSSL; choose unix:PATH or the loopback";
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

/* ---- status and audit ---- */

static void fill_status(void *user, status_page *page)
{
    fsb_chunk_server_stats s;
    fsb_chunk_server_get_stats(((host *)user)->server, &s);
    status_number(page, "fsb_clients", "gauge", "clients connected", s.clients);
    status_number(page, "fsb_leases", "gauge", "of these, told of changes", s.leases);
    status_number(page, "fsb_shares", "gauge", "folders served", ((host *)user)->share_count);
    status_number(page, "fsb_clients_accepted_total", "counter", "connections accepted",
                  s.accepted);
    status_number(page, "fsb_reconnects_total", "counter", "clients that came back", s.returned);
    status_number(page, "fsb_requests_total", "counter", "requests answered", s.requests);
    status_number(page, "fsb_request_errors_total", "counter", "of these with an error", s.errors);
    status_number(page, "fsb_received_bytes_total", "counter", "bytes received", s.bytes_in);
    status_number(page, "fsb_sent_bytes_total", "counter", "bytes sent", s.bytes_out);
    status_number(page, "fsb_events_sent_total", "counter", "changes told to others", s.events);
    status_histogram(page, "fsb_request_seconds", "time that requests took", s.latency,
                     FSB_CHUNK_LATENCIES, s.latency_us);
}

/* A text of a client's as one word: what could end the word or the line, or trick a terminal, is
   \xNN; nothing is "-". */
static void audit_word(const char *text, char *out, size_t size)
{
    size_t    n = 0;
    const int lone = text && strcmp(text, "-") == 0;
    if (!text || !text[0]) text = "-";
    for (; *text && n + 5 < size; ++text) {
        const unsigned char c = (unsigned char)*text;
        const int plain = c > ' ' && c < 127 && c != '\\' && !lone;
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "\\x%02x", c);
    }
    out[n] = '\0';
}

static void write_audit(void *user, const fsb_chunk_audit *e)
{
    const host     *h = (const host *)user;
    struct timespec now;
    struct tm       utc;
    char            stamp[32], code[300], share[1100], path[4 * PATH_MAX], path2[4 * PATH_MAX];
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    audit_word(e->code, code, sizeof code), audit_word(e->share, share, sizeof share);
    audit_word(e->path, path, sizeof path), audit_word(e->path2, path2, sizeof path2);
    fprintf(h->audit, "%s.%03ldZ %llu %s %s %s %s %s %s\n", stamp, now.tv_nsec / 1000000,
            (unsigned long long)e->client, code, share, e->what, path, path2,
            e->result < 0 ? strerror((int)-e->result) : "ok");
    fflush(h->audit);
}

static void open_audit(host *h, fsb_chunk_server_desc *desc)
{
    if (!h->audit_path) return;
    const int fd = open(h->audit_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || !(h->audit = fdopen(fd, "a")))
        tool_fail("cannot write the audit log %s: %s; name a file in a folder that you may write",
                  h->audit_path, strerror(errno));
    desc->audit = write_audit, desc->audit_user = h;
}

/* Serves stdin and stdout, then has main() wake up. */
static void *serve_stdio(void *arg)
{
    host *h = (host *)arg;
    h->served = fsb_chunk_server_serve(h->server, STDIN_FILENO, STDOUT_FILENO);
    kill(getpid(), SIGTERM);
    return NULL;
}

/* Gives up what a host never needs. No Landlock yet: the local backend acts through /proc and opens
   what fanotify names by its handle, and nobody has shown that both still work under it. */
static void confine(host *h)
{
    char      line[160];
    const int kept = h->no_sandbox || h->allow_exec || /* commands may need what a host does not */
                     prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0;
    const int err = kept ? 0 : sandbox_filter();
    snprintf(line, sizeof line, "%s%s%s",
             kept ? "new privileges can be gained, every system call can be made"
                  : "no new privileges can be gained, ",
             kept ? "" : err ? "every system call can be made: " : "calls that no host needs fail",
             err ? strerror(-err) : "");
    h->logger.fn(h->logger.user, FSB_LOG_INFO, "host/sandbox", line);
}

int main(int argc, char **argv)
{
    static host h;
    sigset_t    stop;
    pthread_t   thread;
    tool_name = "fsb-host";
    parse_options(&h, argc, argv);
    if (h.new_code || h.revoked) change_codes(&h);
    h.logger = tool_log_open(&h.log, h.log_path, h.verbose);
    tool_raise_descriptor_limit();
    confine(&h);
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM), sigaddset(&stop, SIGINT), sigaddset(&stop, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before any thread: they inherit it */
    for (int i = optind; i < argc; ++i) add_share(&h, argv[i]);

    fsb_chunk_server_desc desc = {0};
    desc.shares = h.shares, desc.share_count = h.share_count;
    desc.max_clients = h.max_clients, desc.max_unproven = h.max_unproven;
    desc.request_ms = h.request_ms, desc.away_ms = h.away_ms, desc.log = h.logger;
    open_audit(&h, &desc);
    const int err = fsb_chunk_server_open(&h.server, &desc);
    if (err) tool_fail("cannot start: %s", strerror(-err));
    status_server *status = status_start(h.status_at, fill_status, &h, h.logger);
    if (!h.stdio) first_codes(&h), start_listening(&h);
    else if (pthread_create(&thread, NULL, serve_stdio, &h) != 0)
        tool_fail("cannot start a thread");
    const struct timespec second = {1, 0};
    while (sigtimedwait(&stop, NULL, &second) < 0) follow_codes(&h);

    status_stop(status);
    fsb_chunk_server_close(h.server);
    if (h.audit) fclose(h.audit);
    if (h.stdio) pthread_join(thread, NULL);
    for (size_t i = 0; i < h.share_count; ++i) h.shares[i].backend->close(h.shares[i].backend);
    if (h.log.file) fclose(h.log.file);
    return h.served < 0 && h.served != -ECANCELED;
}
