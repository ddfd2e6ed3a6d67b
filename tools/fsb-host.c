/* fsb-host - serve folders to any number of clients. `fsb-host --help` is the manual. */
#define FSB_BACKEND_IMPLEMENTATION
#define FSB_CHUNK_IMPLEMENTATION
#define FSB_MOUNT_IMPLEMENTATION
#undef FSB_WITH_FUSE /* of fsb_mount.h only the tables */
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "fsb_mount.h"
#include "codes.h"
#include "sandbox.h"
#include "status.h"
#include "tenants.h"
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
    "  --tokens FILE       serve tenants besides, each its own folders, to who has a token: see\n"
    "                      fsb token --help. Over tls: only: on unix sockets and plain TCP nobody\n"
    "                      shows a token. A change in FILE counts within a second; who came with\n"
    "                      a token that is worthless now is disconnected. No DIR is needed then\n"
    "  --stdio             serve one client on stdin and stdout instead, until it leaves\n"
    "  --read-only         clients may change nothing\n"
    "  --allow-exec        clients may run commands (fsb exec) as this user, with this\n"
    "                      environment, and not confined to DIR; over tls: only those whose code\n"
    "                      has the rights rwx, as one made with this option\n"
    "  --squash root|all   files that a client's root, or any user of theirs, makes or gives away\n"
    "                      belong to --anon, as with NFS's root_squash and all_squash; device\n"
    "                      nodes and security.* attributes are refused then. Whose a file is, not\n"
    "                      who may open it: run fsb-host as the user whose files they are. To\n"
    "                      who made it there, it is another's, unless --map-user maps that too\n"
    "  --anon UID[:GID]    the numbers for that (default 65534, nobody)\n"
    "  --map-user CLIENT=HOST, --map-group CLIENT=HOST   numbers that differ: what is HOST's here\n"
    "                      is shown as CLIENT's there, and what CLIENT makes is HOST's here\n"
    "  --no-sandbox        leave this process the chance to gain privileges (by set-user-id\n"
    "                      programs, for instance), system calls that it never makes (mount,\n"
    "                      ptrace, bpf, loading modules, ...), and files that are not served\n"
    "                      (where the kernel has Landlock), which it gives up otherwise; the log\n"
    "                      tells what is. --allow-exec has the same effect, for the commands'\n"
    "                      sake; --tokens as to files, for tenants to come. The code file's\n"
    "                      folder stays readable: keep it in one of its own\n"
    "  --status ADDRESS    tell numbers there to who asks, also as Prometheus wants (/metrics):\n"
    "                      unix:PATH, HOST:PORT on the loopback, or public:HOST:PORT; see it\n"
    "                      with: fsb status ADDRESS\n"
    "  --audit FILE        write down who came, left, was refused, and changed what: time,\n"
    "                      client, code, share, what, path, new path, result; -: there is none\n"
    "  --log FILE          write the log there, with times, instead of to stderr\n"
    "  -v, --verbose       log clients as they come and go; twice: more\n"
    "  --help, --version\n"
    "\n";

static const char more_help[] =
    "Limits; --status shows them\n"
    "  --max-clients N     at once; more are turned away (default 1024)\n"
    "  --handshake-timeout SECONDS   from connecting to the end of hello (default 10)\n"
    "  --max-unproven N    connections at once that have not shown a code yet (default 64); then\n"
    "                      the oldest of them makes room\n"
    "  --max-unproven-each N   of these from one address (default 16); wrong codes slow their\n"
    "                      address down\n"
    "  --request-timeout SECONDS   a request takes no longer (default 30)\n"
    "  --keep SECONDS      keep the open files and locks of a client whose connection is lost so\n"
    "                      long for it to come back (default 60)\n"
    "  --threads N         requests at once that wait for a disk, of all clients (default 8)\n"
    "of each client, who is not read while it is at the first two:\n"
    "  --max-requests N    under way (default 256)\n"
    "  --max-bytes SIZE    of requests and answers in memory (default 16M)\n"
    "  --max-handles N     open files (default 16384)\n"
    "  --max-locks N       held and waited for (default 8192)\n"
    "  --max-events N      changes on their way to it, if it watches; then it is disconnected\n"
    "                      (default 16384)\n"
    "  --max-execs N       commands at once, of all clients (default 64); more wait\n"
    "  --max-execs-each N  of these, of one client (default 16)\n"
    "\n"
    "SIGTERM and SIGINT stop it cleanly. Who may connect to a unix socket is who may write it:\n"
    "it is made for its owner alone (mode 0600). Nothing outside DIR is ever served, wherever\n"
    "symbolic links point.\n"
    "\n"
    "  fsb-host --code-file ~/.config/fsb-codes ~/work\n"
    "  fsb-host --code-file ~/.config/fsb-codes --new-code ann --read-only\n"
    "  fsb-host --listen unix:/run/user/1000/work.sock ~/work\n"
    "  fsb-host --listen 127.0.0.1:0 --read-only docs=/usr/share/doc\n";

enum { MAX_LISTEN = 16, MAX_SHARES = 256, MAX_IDS = 64 };

/* Limits: options whose number goes into a field of the server's desc, times `unit`. */
#define FIELD(name) offsetof(fsb_chunk_server_desc, name)
static const struct limit {
    const char *option;
    size_t      field;
    uint32_t    unit;
    uint64_t    least, most;
} limits[] = {{"max-clients", FIELD(max_clients), 1, 1, 1000000},
              {"handshake-timeout", FIELD(hello_ms), 1000, 1, 3600},
              {"max-unproven", FIELD(max_unproven), 1, 1, 100000},
              {"max-unproven-each", FIELD(max_unproven_each), 1, 1, 100000},
              {"request-timeout", FIELD(request_ms), 1000, 1, 86400},
              {"keep", FIELD(away_ms), 1000, 0, 86400},
              {"threads", FIELD(threads), 1, 1, 1024},
              {"max-requests", FIELD(max_requests), 1, 1, 65536},
              {"max-bytes", FIELD(max_bytes), 1, 2 << 20, 1ull << 40},
              {"max-handles", FIELD(max_handles), 1, 1, 1 << 24},
              {"max-locks", FIELD(max_locks), 1, 1, 1 << 20},
              {"max-events", FIELD(max_events), 1, 1, 1 << 20},
              {"max-execs", FIELD(max_execs), 1, 1, 1024},
              {"max-execs-each", FIELD(max_execs_each), 1, 1, 1024}};
enum { LIMITS = sizeof limits / sizeof *limits };

typedef struct host {
    const char       *listen[MAX_LISTEN];
    int               listen_count;
    int               stdio, read_only, allow_exec, verbose;
    const char       *log_path, *code_path, *new_code, *revoked;
    codes_line        line; /* of --new-code */
    codes             codes;
    fsb_chunk_server_desc desc; /* its limits */
    fsb_chunk_ids     ids;
    fsb_chunk_id      users[MAX_IDS], groups[MAX_IDS];
    const char       *tokens_path;
    tenants           tenants;
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
    h->ids.users = h->users, h->ids.groups = h->groups;
    if (h->ids.squash || h->ids.user_count || h->ids.group_count) h->desc.ids = &h->ids;
    if (h->ids.anon_uid && !h->ids.squash) tool_usage("--anon needs --squash");
    if (h->line.share[0] || h->line.until) tool_usage("--share and --until need --new-code");
    if (optind == argc && !h->tokens_path) tool_usage("no folder to serve is named");
    if (h->stdio && h->tokens_path) tool_usage("--stdio and --tokens exclude each other");
    if (h->stdio && h->listen_count) tool_usage("--stdio and --listen exclude each other");
    if (!h->stdio && !h->listen_count) h->listen[h->listen_count++] = "tls:*:0";
    int secure = 0;
    for (int i = 0; i < h->listen_count; ++i) secure |= strncmp(h->listen[i], "tls:", 4) == 0;
    if (h->tokens_path && !secure)
        tool_usage("--tokens needs a tls: address: elsewhere nobody shows a token");
}

static void set_limit(fsb_chunk_server_desc *desc, const struct limit *l, const char *text)
{
    char option[40];
    void *field = (char *)desc + l->field;
    snprintf(option, sizeof option, "--%s", l->option);
    if (l->field == FIELD(max_bytes)) {
        desc->max_bytes = tool_size(option, text, l->least, l->most);
        return;
    }
    *(uint32_t *)field = (uint32_t)tool_number(option, text, l->least, l->most) * l->unit;
    if (l->field == FIELD(away_ms) && !desc->away_ms) desc->away_ms = FSB_CHUNK_NEVER;
}

/* A limit as its option has it. */
static uint64_t get_limit(const fsb_chunk_server_desc *desc, const struct limit *l)
{
    const void *field = (const char *)desc + l->field;
    if (l->field == FIELD(max_bytes)) return desc->max_bytes;
    if (l->field == FIELD(away_ms) && desc->away_ms == FSB_CHUNK_NEVER) return 0;
    return *(const uint32_t *)field / l->unit;
}

/* "A" or "A:B", with another separator perhaps: numbers of users or groups. 1: there is a B. */
static int parse_ids(const char *option, const char *text, char separator, uint32_t *a, uint32_t *b)
{
    char        first[24];
    const char *at = strchr(text, separator);
    snprintf(first, sizeof first, "%.*s", at ? (int)(at - text) : 20, text);
    *a = (uint32_t)tool_number(option, first, 0, UINT32_MAX - 1);
    if (at) *b = (uint32_t)tool_number(option, at + 1, 0, UINT32_MAX - 1);
    return at != NULL;
}

static void add_pair(const char *option, fsb_chunk_id *pairs, size_t *count, const char *text)
{
    fsb_chunk_id *pair = &pairs[*count];
    if ((*count)++ == MAX_IDS) tool_usage("%s: more than %d", option, MAX_IDS);
    if (!parse_ids(option, text, '=', &pair->client, &pair->host))
        tool_usage("%s: '%s' is not CLIENT=HOST", option, text);
}

static void set_squash(fsb_chunk_ids *ids, const char *text)
{
    if (strcmp(text, "root") == 0) ids->squash = FSB_CHUNK_SQUASH_ROOT;
    else if (strcmp(text, "all") == 0) ids->squash = FSB_CHUNK_SQUASH_ALL;
    else tool_usage("--squash: '%s' is neither root nor all", text);
}

static void set_anon(fsb_chunk_ids *ids, const char *text)
{
    if (!parse_ids("--anon", text, ':', &ids->anon_uid, &ids->anon_gid))
        ids->anon_gid = ids->anon_uid;
    if (!ids->anon_uid || !ids->anon_gid) tool_usage("--anon: 0 is root's number");
}

enum { LISTEN = 256, STDIO, READ_ONLY, LOG, HELP, VERSION, CODE_FILE, NEW_CODE, REVOKE, SHARE,
       UNTIL, NO_SANDBOX, ALLOW_EXEC, STATUS, AUDIT, TOKENS, SQUASH, ANON, MAP_USER,
       MAP_GROUP, LIMIT };

/* What getopt_long() wants: these, and the limits. */
static const struct option *known_options(void)
{
    static const struct option fixed[] = {{"listen", required_argument, NULL, LISTEN},
                                          {"stdio", no_argument, NULL, STDIO},
                                          {"read-only", no_argument, NULL, READ_ONLY},
                                          {"log", required_argument, NULL, LOG},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, HELP},
                                          {"version", no_argument, NULL, VERSION},
                                          {"code-file", required_argument, NULL, CODE_FILE},
                                          {"new-code", required_argument, NULL, NEW_CODE},
                                          {"revoke", required_argument, NULL, REVOKE},
                                          {"share", required_argument, NULL, SHARE},
                                          {"until", required_argument, NULL, UNTIL},
                                          {"squash", required_argument, NULL, SQUASH},
                                          {"anon", required_argument, NULL, ANON},
                                          {"map-user", required_argument, NULL, MAP_USER},
                                          {"map-group", required_argument, NULL, MAP_GROUP},
                                          {"allow-exec", no_argument, NULL, ALLOW_EXEC},
                                          {"no-sandbox", no_argument, NULL, NO_SANDBOX},
                                          {"status", required_argument, NULL, STATUS},
                                          {"audit", required_argument, NULL, AUDIT},
                                          {"tokens", required_argument, NULL, TOKENS}};
    enum { FIXED = sizeof fixed / sizeof *fixed };
    static struct option all[FIXED + LIMITS + 1];
    memcpy(all, fixed, sizeof fixed);
    for (int i = 0; i < LIMITS; ++i)
        all[FIXED + i] = (struct option){limits[i].option, required_argument, NULL, LIMIT + i};
    return all;
}

static void parse_options(host *h, int argc, char **argv)
{
    int c;
    while ((c = getopt_long(argc, argv, "v", known_options(), NULL)) != -1) {
        switch (c) {
        case LISTEN:
            if (h->listen_count == MAX_LISTEN) tool_usage("--listen: more than %d", MAX_LISTEN);
            h->listen[h->listen_count++] = optarg;
            break;
        case STDIO: h->stdio = 1; break;
        case READ_ONLY: h->read_only = 1; break;
        case ALLOW_EXEC: h->allow_exec = 1; break;
        case SQUASH: set_squash(&h->ids, optarg); break;
        case ANON: set_anon(&h->ids, optarg); break;
        case MAP_USER: add_pair("--map-user", h->users, &h->ids.user_count, optarg); break;
        case MAP_GROUP: add_pair("--map-group", h->groups, &h->ids.group_count, optarg); break;
        case NO_SANDBOX: h->no_sandbox = 1; break;
        case STATUS: h->status_at = optarg; break;
        case AUDIT: h->audit_path = optarg; break;
        case TOKENS: h->tokens_path = optarg; break;
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
        case HELP: fputs(help, stdout), fputs(more_help, stdout); exit(0);
        case VERSION: puts("fsb-host " FSB_VERSION); exit(0);
        default:
            if (c >= LIMIT) set_limit(&h->desc, &limits[c - LIMIT], optarg);
            else fprintf(stderr, "Try 'fsb-host --help'.\n"), exit(2);
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

/* Of "DIR" or "NAME=DIR"; a '=' behind a '/' belongs to the folder. */
static const char *folder_of(const char *arg)
{
    const char *equals = strchr(arg, '='), *slash = strchr(arg, '/');
    return equals && equals != arg && (!slash || equals < slash) ? equals + 1 : arg;
}

static void add_share(host *h, const char *arg)
{
    const char *dir = folder_of(arg);
    const int   named = dir != arg;
    struct stat st;
    if (h->share_count == MAX_SHARES) tool_usage("more than %d folders", MAX_SHARES);
    if (stat(dir, &st) != 0)
        tool_fail("cannot serve %s: %s; name a folder that is there", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        tool_fail("cannot serve %s: it is no folder; name the folder around it", dir);
    char *name = h->names[h->share_count];
    if (named && dir - arg > 256) tool_usage("the name of a share is over 255 bytes");
    if (named) snprintf(name, 256, "%.*s", (int)(dir - 1 - arg), arg);
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

/* fsb://HOST:PORT/SHARE#CODE with the first code that opens the share; name NULL: without. */
static void print_secure(const host *h, const char *bound, const char *name, const char *share)
{
    const char *code = NULL, *port = strrchr(bound, ':');
    char        own[256];
    for (size_t i = 0; i < h->codes.count && !code && name; ++i)
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
    for (size_t i = 0; i < h->tenants.file.tenant_count && strncmp(bound, "tls:", 4) == 0; ++i)
        print_secure(h, bound + 4, NULL, h->tenants.file.tenants[i].name);
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
    fsb_chunk_server_desc  desc;
    char                   name[64];
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
    status_number(page, "fsb_codes_refused_total", "counter", "codes and tokens refused",
                  s.refused);
    status_number(page, "fsb_token_clients_total", "counter", "clients that came with a token",
                  s.tokens);
    status_number(page, "fsb_requests_delayed_total", "counter", "requests held back by a rate",
                  s.delayed);
    status_number(page, "fsb_requests_delayed_milliseconds_total", "counter",
                  "milliseconds of these", s.delayed_ms);
    status_number(page, "fsb_tenant_full_total", "counter", "times a tenant had enough running",
                  s.held);
    status_number(page, "fsb_request_timeouts_total", "counter", "requests too late for their turn",
                  s.timeouts);
    tenants_status(&((host *)user)->tenants, page);
    fsb_chunk_server_get_desc(((host *)user)->server, &desc);
    if (!page->metrics) status_print(page, "limits\n");
    for (int i = 0; i < LIMITS; ++i) {
        snprintf(name, sizeof name, "fsb_limit{option=\"%s\"}", limits[i].option);
        status_number(page, name, "gauge",
                      i || !page->metrics ? NULL : "as set by the option of that name",
                      get_limit(&desc, &limits[i]));
    }
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
    char            stamp[32], code[300], share[1100];
    char            path[4 * FSB_PATH_MAX], path2[4 * FSB_PATH_MAX];
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

/* ---- what a host gives up ---- */

static void say_sandbox(const host *h, const char *well, const char *ill, int err)
{
    char line[200];
    snprintf(line, sizeof line, "%s%s%s", err ? ill : well, err ? ": " : "",
             !err            ? ""
                 : err > 0   ? h->allow_exec ? "--allow-exec, commands may need it" : "--no-sandbox"
                             : strerror(-err));
    h->logger.fn(h->logger.user, FSB_LOG_INFO, "host/sandbox", line);
}

/* Privileges, and system calls that a host never makes. What a client runs would be bound too:
   with --allow-exec nothing is given up. */
static void confine(const host *h)
{
    const int kept = h->no_sandbox || h->allow_exec;
    int       err = kept ? 1 : prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ? -errno : 0;
    say_sandbox(h, "no new privileges can be gained", "new privileges can be gained", err);
    if (!err) err = sandbox_filter();
    say_sandbox(h, "calls that no host needs fail", "every system call can be made", err);
}

static int no_way(void *user, int fds[2])
{
    (void)user, (void)fds;
    return -ECANCELED;
}

/* OpenSSL reads its settings with the first connection of a process: here, while it may, one that
   is not made. */
static void warm_up_tls(const host *h)
{
    fsb_chunk_client_desc desc = {0};
    fsb_backend          *none = NULL;
    desc.connect = no_way;
    desc.code = h->codes.count ? h->codes.lines[0].code : NULL;
    if (desc.code) (void)fsb_chunk_client_open(&none, &desc);
}

/* What names of hosts are looked up with, and what libc may load for that. */
static const char *const names_need[] = {
    "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/gai.conf",
    "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64"};

/* The files that a host opens from here on; dirs are its argc folders. */
static int allow_files(host *h, sandbox_files *s, char **dirs, int argc)
{
    char      real[PATH_MAX];
    const int serve = h->read_only ? SANDBOX_READ : SANDBOX_SERVE;
    int       err = sandbox_files_allow(s, "/proc/self", SANDBOX_READ);
    for (int i = 0; i < argc && !err; ++i)
        err = sandbox_files_allow(s, folder_of(dirs[i]), (uint64_t)serve);
    for (size_t i = 0; i < sizeof names_need / sizeof *names_need && !err; ++i)
        err = sandbox_files_allow(s, names_need[i], SANDBOX_READ);
    for (int i = 0; i < h->listen_count && !err; ++i)
        if (strncmp(h->listen[i], "unix:", 5) == 0)
            err = sandbox_files_allow_beside(s, h->listen[i] + 5, SANDBOX_SOCKET);
    if (!err && h->status_at && strncmp(h->status_at, "unix:", 5) == 0)
        err = sandbox_files_allow_beside(s, h->status_at + 5, SANDBOX_SOCKET);
    if (err || !h->code_path) return err;
    err = sandbox_files_allow_beside(s, h->code_path, SANDBOX_READ_FILE); /* it gets replaced */
    if (!err && realpath(h->code_path, real))
        err = sandbox_files_allow_beside(s, real, SANDBOX_READ_FILE);
    return err;
}

/* Files: only what it serves, and what that takes. */
static void confine_files(host *h, char **dirs, int argc)
{
    char          well[120];
    sandbox_files s;
    const int     open_ended = h->allow_exec || h->tokens_path; /* tenants may come later */
    int           err = h->no_sandbox || open_ended ? 1 : sandbox_files_begin(&s);
    if (!err) {
        err = allow_files(h, &s, dirs, argc);
        if (!err) err = sandbox_files_end(&s);
        else close(s.fd);
    }
    snprintf(well, sizeof well, "files that are not served are out of reach (Landlock, ABI %d)",
             err ? 0 : s.abi);
    say_sandbox(h, well, "files that are not served are not out of reach by Landlock", err);
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
    tool_tune_memory();
    confine(&h);
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM), sigaddset(&stop, SIGINT), sigaddset(&stop, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &stop, NULL); /* before any thread: they inherit it */
    for (int i = optind; i < argc; ++i) add_share(&h, argv[i]);

    h.desc.shares = h.shares, h.desc.share_count = h.share_count, h.desc.log = h.logger;
    open_audit(&h, &h.desc);
    tenants_open(&h.tenants, h.tokens_path, host_rights(&h), h.logger);
    if (h.tokens_path) h.desc.admit = tenants_admit, h.desc.admit_user = &h.tenants;
    const int err = fsb_chunk_server_open(&h.server, &h.desc);
    if (err) tool_fail("cannot start: %s", strerror(-err));
    if (!h.stdio && h.share_count) first_codes(&h);
    if (!h.stdio) warm_up_tls(&h);
    confine_files(&h, argv + optind, argc - optind);
    status_server *status = status_start(h.status_at, fill_status, &h, h.logger);
    if (!h.stdio) start_listening(&h);
    else if (pthread_create(&thread, NULL, serve_stdio, &h) != 0)
        tool_fail("cannot start a thread");
    const struct timespec second = {1, 0};
    while (sigtimedwait(&stop, NULL, &second) < 0) {
        if (h.share_count) follow_codes(&h);
        tenants_follow(&h.tenants, h.server);
    }

    status_stop(status);
    fsb_chunk_server_close(h.server);
    if (h.audit) fclose(h.audit);
    if (h.stdio) pthread_join(thread, NULL);
    for (size_t i = 0; i < h.share_count; ++i) h.shares[i].backend->close(h.shares[i].backend);
    tenants_close(&h.tenants);
    if (h.log.file) fclose(h.log.file);
    return h.served < 0 && h.served != -ECANCELED;
}
