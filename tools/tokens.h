/* tokens.h - the file of fsb-host's --tokens: keys, tenants, revoked tokens; one a line, made to be
   edited by people.

       key      1  5b0c...             number, 64 hex digits; the last one signs
       tenant   ann  handles=1000  bytes=64M  requests=500  rate=20M
       folder   ann  /srv/ann          what ann sees; or several, by names: docs=/srv/docs  ro
       revoked  3f9a5c0d1e2f4a6b  2026-12-31T23:59:59Z     a token's id, and when it ends anyway

   A tenant's limits may be left out: open files, bytes on their way at once, requests and bytes a
   second. Names and folders are written as in a URL, with %20 for a space. The file is for its
   owner alone (mode 0600). Include fsb_mount.h and codes.h before. */
#ifndef FSB_TOKENS_H
#define FSB_TOKENS_H
#include "tool.h"

enum { TOKENS_KEYS = 16, TOKENS_MANY = 1 << 20 /* of each other kind, at most */ };

typedef struct tokens_folder {
    char name[256]; /* "": the tenant's "/" itself */
    char dir[PATH_MAX];
    int  read_only;
} tokens_folder;

typedef struct tokens_tenant {
    char           name[FSB_TOKEN_TENANT_MAX + 1];
    uint32_t       handles, requests; /* 0: not said */
    uint64_t       bytes, rate;
    tokens_folder *folders;
    size_t         folder_count;
    fsb_backend   *backend; /* the host's: while it is in use */
} tokens_tenant;

typedef struct tokens_file {
    fsb_token_key   keys[TOKENS_KEYS];
    size_t          key_count;
    tokens_tenant  *tenants;
    size_t          tenant_count;
    uint64_t       *revoked;
    size_t          revoked_count;
    struct timespec changed; /* of the file as it was read */
} tokens_file;

static inline void tokens_free(tokens_file *f)
{
    for (size_t i = 0; i < f->tenant_count; ++i) free(f->tenants[i].folders);
    free(f->tenants), free(f->revoked);
    explicit_bzero(f, sizeof *f);
}

static inline tokens_tenant *tokens_find(const tokens_file *f, const char *name)
{
    for (size_t i = 0; i < f->tenant_count; ++i)
        if (strcmp(f->tenants[i].name, name) == 0) return &f->tenants[i];
    return NULL;
}

/* Room for one more; NULL: there is none. Grows when count is a power of two. */
static inline void *tokens_more(void *list, size_t count, size_t size)
{
    if (count >= TOKENS_MANY) return NULL;
    if (count & (count - 1)) return list;
    return realloc(list, (count ? 2 * count : 1) * size);
}

/* Text as a tenant's name: is it one? */
static inline int tokens_name(const char *text)
{
    char             token[FSB_TOKEN_SIZE];
    fsb_token_claims c;
    const int        n = snprintf(token, sizeof token, "fsb1:1:%s:ro:1:0000000000000001", text);
    return n > 0 && n < (int)sizeof token && fsb_token_read(token, (size_t)n, &c) == 0;
}

/* "500" or "20M"; 0: it is neither, or over most. */
static inline uint64_t tokens_size(const char *text, uint64_t most)
{
    static const char units[] = "KMGT";
    char             *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    const char              *unit = *end ? strchr(units, *end & ~32) : NULL;
    const int                shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (text[0] < '1' || text[0] > '9' || errno || (*end && (!unit || end[1]))) return 0;
    return value > most >> shift ? 0 : value << shift;
}

/* ---- lines: 0, or what is wrong -------------------------------------------------------------- */

static inline const char *tokens_key(tokens_file *f, const char *words)
{
    char          hex[65], more[2];
    unsigned      number = 0;
    fsb_token_key key;
    if (sscanf(words, "%9u %64s %1s", &number, hex, more) != 2 || !number || strlen(hex) != 64 ||
        strspn(hex, "0123456789abcdef") != 64)
        return "it is not: key, number, 64 hex digits";
    if (f->key_count == TOKENS_KEYS) return "it has too many keys";
    for (size_t i = 0; i < f->key_count; ++i)
        if (f->keys[i].number == number) return "that key's number is taken";
    key.number = number;
    for (int i = 0; i < 32; ++i) {
        unsigned byte = 0;
        (void)sscanf(hex + 2 * i, "%2x", &byte);
        key.secret[i] = (unsigned char)byte;
    }
    f->keys[f->key_count++] = key;
    explicit_bzero(hex, sizeof hex), explicit_bzero(&key, sizeof key);
    return NULL;
}

static inline const char *tokens_tenant_line(tokens_file *f, const char *words)
{
    char          name[FSB_TOKEN_TENANT_MAX + 1], word[128];
    int           used = 0;
    tokens_tenant t;
    memset(&t, 0, sizeof t);
    if (sscanf(words, "%63s%n", name, &used) != 1 || !tokens_name(name))
        return "a tenant's name is letters, digits and -._@, 63 at most";
    if (tokens_find(f, name)) return "that tenant is there twice";
    snprintf(t.name, sizeof t.name, "%s", name);
    for (words += used; sscanf(words, "%127s%n", word, &used) == 1; words += used) {
        char          *equals = strchr(word, '=');
        const uint64_t value = equals ? tokens_size(equals + 1, 1ull << 50) : 0;
        if (!value || (word[0] != 'b' && strncmp(word, "rate", 4) != 0 && value > UINT32_MAX))
            return "a limit is like handles=1000, bytes=64M, requests=500, rate=20M";
        *equals = '\0';
        if (strcmp(word, "handles") == 0) t.handles = (uint32_t)value;
        else if (strcmp(word, "bytes") == 0) t.bytes = value;
        else if (strcmp(word, "requests") == 0) t.requests = (uint32_t)value;
        else if (strcmp(word, "rate") == 0) t.rate = value;
        else return "there are the limits handles=, bytes=, requests=, rate=";
    }
    tokens_tenant *list = (tokens_tenant *)tokens_more(f->tenants, f->tenant_count, sizeof t);
    if (!list) return "it has too many tenants";
    f->tenants = list, f->tenants[f->tenant_count++] = t;
    return NULL;
}

static inline const char *tokens_folder_line(tokens_file *f, const char *words)
{
    static tokens_folder folder; /* one thread reads a file */
    static char          where[3 * PATH_MAX];
    char                 tenant[128], rights[8] = "", more[2];
    const int n = sscanf(words, "%127s %12287s %7s %1s", tenant, where, rights, more);
    if (n < 2 || n > 3 || (n == 3 && strcmp(rights, "ro") != 0))
        return "it is not: folder, tenant, NAME=FOLDER or FOLDER, and perhaps ro";
    tokens_tenant *t = tokens_find(f, tenant);
    if (!t) return "a folder stands below the line of its tenant";
    const char *equals = where[0] == '/' ? NULL : strchr(where, '=');
    const char *dir = equals ? equals + 1 : where;
    memset(&folder, 0, sizeof folder);
    folder.read_only = n == 3;
    if (equals && tool_url_unquote(where, (size_t)(equals - where), folder.name,
                                   sizeof folder.name) != 0)
        return "the folder's name is too long or has a bad %";
    if (dir[0] != '/' || tool_url_unquote(dir, strlen(dir), folder.dir, sizeof folder.dir) != 0)
        return "the folder is no whole path, like /srv/ann";
    if (strchr(folder.name, '/') || !strcmp(folder.name, ".") || !strcmp(folder.name, "..") ||
        (equals && !folder.name[0]))
        return "the folder's name is none that a folder can have";
    for (size_t i = 0; i < t->folder_count; ++i)
        if (strcmp(t->folders[i].name, folder.name) == 0)
            return "two folders of a tenant have the same name";
    tokens_folder *list =
        (tokens_folder *)tokens_more(t->folders, t->folder_count, sizeof folder);
    if (!list) return "it has too many folders";
    t->folders = list, t->folders[t->folder_count++] = folder;
    return NULL;
}

static inline const char *tokens_revoked_line(tokens_file *f, const char *words)
{
    char               id[24], until[40], more[2];
    unsigned long long value = 0;
    if (sscanf(words, "%23s %39s %1s", id, until, more) != 2 || strlen(id) != 16 ||
        strspn(id, "0123456789abcdef") != 16 || sscanf(id, "%llx", &value) != 1 || !value ||
        codes_until(until) <= 0)
        return "it is not: revoked, 16 hex digits, a time like 2026-12-31T23:59:59Z";
    if (codes_until(until) < (int64_t)time(NULL)) return NULL; /* it has ended by itself */
    uint64_t *list = (uint64_t *)tokens_more(f->revoked, f->revoked_count, sizeof *list);
    if (!list) return "it has too many revoked tokens";
    f->revoked = list, f->revoked[f->revoked_count++] = value;
    return NULL;
}

static inline const char *tokens_line(tokens_file *f, const char *text)
{
    char word[16];
    int  used = 0;
    if (text[strspn(text, " \t\r\n")] == '\0' || text[strspn(text, " \t")] == '#') return NULL;
    if (sscanf(text, "%15s%n", word, &used) == 1) {
        if (strcmp(word, "key") == 0) return tokens_key(f, text + used);
        if (strcmp(word, "tenant") == 0) return tokens_tenant_line(f, text + used);
        if (strcmp(word, "folder") == 0) return tokens_folder_line(f, text + used);
        if (strcmp(word, "revoked") == 0) return tokens_revoked_line(f, text + used);
    }
    return "a line begins with key, tenant, folder or revoked";
}

/* ---- the file -------------------------------------------------------------------------------- */

/* Reads it into *f, which is to be tokens_free()d. 0, a negative errno, or -EBADMSG: `wrong` (200
   bytes) says why, without a secret. */
static inline int tokens_read(const char *path, tokens_file *f, char *wrong)
{
    static char text[4 * PATH_MAX];
    struct stat st;
    int         number = 0;
    FILE       *file = fopen(path, "re");
    const char *why = NULL;
    memset(f, 0, sizeof *f), memset(&st, 0, sizeof st), wrong[0] = '\0';
    if (!file) return -errno;
    if (fstat(fileno(file), &st) == 0) f->changed = st.st_mtim;
    if (st.st_mode & 077) why = "others may read it; make it yours alone: chmod 600";
    while (!why && fgets(text, sizeof text, file)) ++number, why = tokens_line(f, text);
    fclose(file);
    explicit_bzero(text, sizeof text);
    if (!why && !f->key_count) why = "it has no key; fsb token create makes one";
    if (!why) return 0;
    tokens_free(f);
    snprintf(wrong, 200, "line %d: %s", number, why);
    return -EBADMSG;
}

/* Is it the line of a revoked token that has ended by itself? */
static inline int tokens_over(const char *line)
{
    char id[24], until[40];
    return sscanf(line, "revoked %23s %39s", id, until) == 2 && codes_until(until) > 0 &&
        codes_until(until) < (int64_t)time(NULL);
}

/* Adds lines at the end, and leaves out what is revoked and over. It is written aside and renamed,
   so that a host that reads it meanwhile sees all of one version. */
static inline int tokens_append(const char *path, const char *lines)
{
    static char aside[PATH_MAX + 16], text[4 * PATH_MAX];
    FILE       *old = fopen(path, "re"), *file = NULL;
    if (!old && errno != ENOENT) return -errno;
    snprintf(aside, sizeof aside, "%s.%d", path, (int)getpid());
    const int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int       err = fd < 0 || !(file = fdopen(fd, "w")) ? -errno : 0;
    if (!err && !old) fprintf(file, "# fsb-host --tokens: secrets. fsb token --help says more.\n");
    while (!err && old && fgets(text, sizeof text, old)) {
        const size_t n = strlen(text);
        if (tokens_over(text)) continue;
        fprintf(file, n && text[n - 1] == '\n' ? "%s" : "%s\n", text);
    }
    if (old) fclose(old);
    explicit_bzero(text, sizeof text);
    if (err) return err;
    fputs(lines, file);
    err = fflush(file) != 0 || fsync(fd) != 0 ? -errno : 0;
    if (fclose(file) != 0 && !err) err = -errno;
    if (!err && rename(aside, path) != 0) err = -errno;
    if (err) (void)unlink(aside);
    return err;
}
#endif
