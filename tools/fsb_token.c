/* fsb_token.c - `fsb token`: the tokens that tenants of fsb-host --tokens come with. */
#undef FSB_WITH_FUSE /* only the tables are needed */
#define FSB_MOUNT_IMPLEMENTATION
#include "../fsb_chunk.h"
#include "../fsb_mount.h"

#include "codes.h"
#include "tokens.h"
#include <sys/random.h>

int fsb_cmd_token(int argc, char **argv);

static const char help[] =
    "usage: fsb token create --tokens FILE --tenant NAME --until TIME [--rights ro|rw|rwx]\n"
    "                        [--folder [NAME=]DIR ...]\n"
    "       fsb token show   [--tokens FILE] [TOKEN]\n"
    "       fsb token revoke --tokens FILE [TOKEN | ID]\n"
    "       fsb token rotate --tokens FILE\n"
    "\n"
    "  create   prints a new token: who has it is NAME, with these rights (ro unless said\n"
    "           otherwise) up to TIME: 2026-12-31, 2026-12-31T23:59:59Z, or 30d, 12h from now.\n"
    "           FILE is made if it is not there. A NAME that is not in it is added, with the\n"
    "           folders that it is to see: one as its \"/\", or several by names\n"
    "  show     what a token says of itself, and with FILE whether it is good now\n"
    "  revoke   makes it worthless at once, and disconnects who came with it\n"
    "  rotate   adds a key, which signs from now on; what older ones signed stays good until\n"
    "           their lines are taken out of FILE\n"
    "\n"
    "FILE is that of fsb-host --tokens: keys, tenants and their limits, what is revoked. It is\n"
    "text; a host reads it again when it changes. A TOKEN that is not given is read from stdin,\n"
    "so that it need not stand in the command line, which others may see.\n"
    "Exit status: 0 done, 1 failed, or show found it worth nothing, 2 wrong usage.\n";

enum { FOLDERS = 64 };

typedef struct asked {
    const char *path, *tenant, *rights, *folders[FOLDERS];
    size_t      folder_count;
    int64_t     until;
} asked;

static void fail_file(const char *path, int err, const char *wrong)
{
    if (err == -EBADMSG) tool_fail("the tokens file %s: %s; correct it", path, wrong);
    tool_fail("the tokens file %s: %s; name one that you may read and write", path, strerror(-err));
}

/* A time as codes_until() reads it, or "30d", "12h", "5m" from now. */
static int64_t until_of(const char *text)
{
    char      unit = 0, more = 0;
    unsigned  number = 0;
    const int n = sscanf(text, "%6u%c%c", &number, &unit, &more);
    const int64_t each = unit == 'd' ? 86400 : unit == 'h' ? 3600 : unit == 'm' ? 60 : 0;
    if (n == 2 && each) return (int64_t)time(NULL) + each * number;
    return codes_until(text);
}

static void time_text(int64_t ns, char *text, size_t size)
{
    const time_t when = (time_t)(ns / 1000000000);
    struct tm    t;
    if (!gmtime_r(&when, &t) || !strftime(text, size, "%FT%TZ", &t)) snprintf(text, size, "?");
}

/* A line with a new key, into out. */
static void new_key(uint32_t number, char *out, size_t size)
{
    unsigned char secret[32];
    if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret) tool_fail("no random bytes");
    int n = snprintf(out, size, "key      %u  ", number);
    for (size_t i = 0; i < sizeof secret; ++i)
        n += snprintf(out + n, size - (size_t)n, "%02x", secret[i]);
    snprintf(out + n, size - (size_t)n, "\n");
    explicit_bzero(secret, sizeof secret);
}

static void read_file(const char *path, tokens_file *f)
{
    char      wrong[200];
    const int err = tokens_read(path, f, wrong);
    if (err) fail_file(path, err, wrong);
}

static void append(const char *path, const char *lines)
{
    const int err = tokens_append(path, lines);
    if (err) fail_file(path, err, "");
}

static fsb_tokens *open_tokens(const tokens_file *f)
{
    fsb_tokens_desc desc = {0};
    fsb_tokens     *t = NULL;
    desc.keys = f->keys, desc.key_count = f->key_count, desc.cache_entries = UINT32_MAX;
    int err = fsb_tokens_open(&t, &desc);
    if (!err) err = fsb_tokens_set(t, f->keys, f->key_count, f->revoked, f->revoked_count);
    if (err == -ENOSYS) tool_fail("no tokens: this program was built without OpenSSL");
    if (err) tool_fail("cannot check tokens: %s", strerror(-err));
    return t;
}

/* The token that was named, or the first word of stdin. */
static const char *token_of(const char *arg, char *room, size_t size)
{
    if (arg && strcmp(arg, "-") != 0) return arg;
    if (!fgets(room, (int)size, stdin)) tool_usage("there is no token on stdin");
    room[strcspn(room, " \t\r\n")] = '\0';
    return room;
}

/* ---- create ---------------------------------------------------------------------------------- */

/* "NAME=DIR" or "DIR" as a line of the file. */
static size_t folder_line(const asked *a, const char *arg, char *out, size_t size)
{
    const char *equals = strchr(arg, '='), *slash = strchr(arg, '/');
    const int   named = equals && equals != arg && (!slash || equals < slash);
    char        real[PATH_MAX], quoted[3 * PATH_MAX], plain[256], name[3 * 256 + 2] = "";
    struct stat st;
    const char *dir = named ? equals + 1 : arg;
    if (!realpath(dir, real) || stat(real, &st) != 0 || !S_ISDIR(st.st_mode))
        tool_fail("cannot give %s to %s: it must be a folder that is there", dir, a->tenant);
    tool_url_quote(real, 1, quoted, sizeof quoted);
    if (named) {
        if (equals - arg > 255) tool_usage("--folder: the name is over 255 bytes");
        snprintf(plain, sizeof plain, "%.*s", (int)(equals - arg), arg);
        tool_url_quote(plain, 0, name, sizeof name - 1);
        strcat(name, "=");
    }
    return (size_t)snprintf(out, size, "folder   %s  %s%s\n", a->tenant, name, quoted);
}

/* What the file has not: a first key, the tenant. */
static void complete(const asked *a)
{
    tokens_file f = {0};
    char        wrong[200];
    size_t      n = 0;
    const size_t room = (a->folder_count + 1) * (4 * PATH_MAX);
    char        *lines = calloc(1, room);
    if (!lines) tool_fail("no memory");
    const int err = tokens_read(a->path, &f, wrong);
    if (err && err != -ENOENT) fail_file(a->path, err, wrong);
    const int known = !err && tokens_find(&f, a->tenant);
    if (known && a->folder_count)
        tool_fail("%s has its folders already: change them in %s", a->tenant, a->path);
    if (!known && !a->folder_count)
        tool_fail("%s has no tenant %s; add it with --folder DIR", a->path, a->tenant);
    if (err) new_key(1, lines, room), n = strlen(lines);
    if (!known) n += (size_t)snprintf(lines + n, room - n, "tenant   %s\n", a->tenant);
    for (size_t i = 0; i < a->folder_count; ++i)
        n += folder_line(a, a->folders[i], lines + n, room - n);
    if (n) append(a->path, lines);
    explicit_bzero(lines, room);
    free(lines);
    if (!err) tokens_free(&f);
}

static int create(const asked *a)
{
    tokens_file      f;
    fsb_token_claims c = {0};
    char             text[FSB_TOKEN_SIZE];
    if (!a->path || !a->tenant || !a->until)
        tool_usage("create needs --tokens, --tenant and --until");
    if (!tokens_name(a->tenant))
        tool_usage("--tenant: a name is letters, digits and -._@, 63 at most");
    complete(a);
    read_file(a->path, &f);
    fsb_tokens *t = open_tokens(&f);
    snprintf(c.tenant, sizeof c.tenant, "%s", a->tenant);
    c.rights = FSB_TOKEN_READ | (a->rights[1] == 'w' ? (uint32_t)FSB_TOKEN_WRITE : 0u) |
        (strlen(a->rights) == 3 ? (uint32_t)FSB_TOKEN_EXEC : 0u);
    c.until_ns = a->until * 1000000000;
    const int err = fsb_tokens_sign(t, &c, text, sizeof text);
    if (err) tool_fail("cannot sign: %s", strerror(-err));
    puts(text);
    fsb_tokens_close(t);
    tokens_free(&f);
    return fflush(stdout) != 0;
}

/* ---- show, revoke, rotate -------------------------------------------------------------------- */

static int show(const asked *a, const char *arg)
{
    static const char *const rights[] = {"ro", "rw", "rwx"};
    fsb_token_claims         c;
    tokens_file              f;
    char                     room[512], until[40];
    const char              *text = token_of(arg, room, sizeof room);
    if (fsb_token_read(text, strlen(text), &c) != 0) tool_fail("this is no token, or cut off");
    time_text(c.until_ns, until, sizeof until);
    printf("tenant  %s\nrights  %s\nuntil   %s\nid      %016llx\nkey     %u\n", c.tenant,
           rights[c.rights >> 1], until, (unsigned long long)c.id, c.key);
    if (!a->path) return fflush(stdout) != 0;
    read_file(a->path, &f);
    fsb_tokens *t = open_tokens(&f);
    const int   err = fsb_tokens_check(t, text, strlen(text), &c);
    const int   gone = !err && !tokens_find(&f, c.tenant);
    printf("it is   %s\n", gone          ? "of no use: there is no such tenant"
               : !err                     ? "good"
               : err == -EBADMSG          ? "forged, or signed by a key that is gone"
               : err == -EKEYEXPIRED      ? "expired"
               : err == -EKEYREVOKED      ? "revoked"
                                          : "cut off");
    fsb_tokens_close(t);
    tokens_free(&f);
    return fflush(stdout) != 0 || err || gone;
}

static int revoke_token(const asked *a, const char *arg)
{
    tokens_file      f;
    fsb_token_claims c;
    char             room[512], line[128], until[40] = "9999-12-31T00:00:00Z";
    if (!a->path) tool_usage("revoke needs --tokens");
    const char        *text = token_of(arg, room, sizeof room);
    unsigned long long id = 0;
    read_file(a->path, &f);
    if (fsb_token_read(text, strlen(text), &c) == 0) {
        id = c.id;
        time_text(c.until_ns, until, sizeof until);
    } else if (strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16)
        (void)sscanf(text, "%llx", &id);
    if (!id) tool_fail("this is neither a token nor the id of one, as show tells it");
    snprintf(line, sizeof line, "revoked  %016llx  %s\n", id, until);
    append(a->path, line);
    tokens_free(&f);
    return 0;
}

static int rotate(const asked *a)
{
    tokens_file f;
    char        line[160];
    uint32_t    number = 0;
    if (!a->path) tool_usage("rotate needs --tokens");
    read_file(a->path, &f);
    if (f.key_count == TOKENS_KEYS)
        tool_fail("%s has %d keys: take the oldest out", a->path, TOKENS_KEYS);
    for (size_t i = 0; i < f.key_count; ++i)
        if (f.keys[i].number > number) number = f.keys[i].number;
    new_key(number + 1, line, sizeof line);
    append(a->path, line);
    explicit_bzero(line, sizeof line);
    tokens_free(&f);
    return 0;
}

int fsb_cmd_token(int argc, char **argv)
{
    enum { TOKENS = 256, TENANT, RIGHTS, UNTIL, FOLDER };
    static const struct option options[] = {
        {"tokens", required_argument, NULL, TOKENS}, {"tenant", required_argument, NULL, TENANT},
        {"rights", required_argument, NULL, RIGHTS}, {"until", required_argument, NULL, UNTIL},
        {"folder", required_argument, NULL, FOLDER}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},         {NULL, 0, NULL, 0}};
    static asked a = {.rights = "ro"};
    int          c;
    tool_name = "fsb token";
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case TOKENS: a.path = optarg; break;
        case TENANT: a.tenant = optarg; break;
        case RIGHTS:
            a.rights = optarg;
            if (strcmp(optarg, "ro") && strcmp(optarg, "rw") && strcmp(optarg, "rwx"))
                tool_usage("--rights: '%s' is not ro, rw or rwx", optarg);
            break;
        case UNTIL:
            if ((a.until = until_of(optarg)) <= 0)
                tool_usage("--until: '%s' is no time like 2026-12-31T23:59:59Z, or 30d", optarg);
            break;
        case FOLDER:
            if (a.folder_count == FOLDERS) tool_usage("--folder: more than %d", FOLDERS);
            a.folders[a.folder_count++] = optarg;
            break;
        case 'h': fputs(help, stdout); return 0;
        case 'V': puts("fsb " FSB_VERSION); return 0;
        default: return 2;
        }
    }
    const char *what = optind < argc ? argv[optind++] : "";
    const char *arg = optind < argc ? argv[optind++] : NULL;
    if (optind < argc) tool_usage("too many words: %s", argv[optind]);
    if (!strcmp(what, "create") && !arg) return create(&a);
    if (!strcmp(what, "show")) return show(&a, arg);
    if (!strcmp(what, "revoke")) return revoke_token(&a, arg);
    if (!strcmp(what, "rotate") && !arg) return rotate(&a);
    tool_usage("want create, show, revoke or rotate");
}
