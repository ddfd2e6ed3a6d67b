/* codes.h - the file of join codes that fsb-host keeps: one a line, made to be edited by people.

       # code  rights  share  until  name
       4Q0C-...-K2ZT  rw  *     -                     main
       91MF-...-0P4H  ro  docs  2026-12-31T23:59:59Z  ann

   Rights are ro or rw; "*" opens every share; "-" never ends. Share and name are written as in a
   URL, with %20 for a space. The file is for its owner alone (mode 0600). */
#ifndef FSB_CODES_H
#define FSB_CODES_H
#include "tool.h"
#include <fcntl.h>
#include <sys/stat.h>

enum { CODES_MAX = 256 };

typedef struct codes_line {
    char     code[FSB_CHUNK_CODE_SIZE], share[256], name[64];
    uint32_t rights;
    int64_t  until; /* seconds since the epoch; 0: for good */
} codes_line;

typedef struct codes {
    codes_line      lines[CODES_MAX];
    size_t          count;
    struct timespec changed; /* of the file as it was read */
} codes;

/* "2026-12-31T23:59:59Z" or "2026-12-31"; -1 if it is neither. */
static inline int64_t codes_until(const char *text)
{
    struct tm t;
    int       used = 0;
    memset(&t, 0, sizeof t);
    if (sscanf(text, "%4d-%2d-%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &used) != 3) return -1;
    text += used, used = 0;
    if (*text && sscanf(text, "T%2d:%2d:%2dZ%n", &t.tm_hour, &t.tm_min, &t.tm_sec, &used) != 3)
        return -1;
    if (text[used] || t.tm_mon < 1 || t.tm_mon > 12) return -1;
    t.tm_year -= 1900, --t.tm_mon;
    return (int64_t)timegm(&t);
}

/* One line of the file; 0, or what is wrong with it. */
static inline const char *codes_parse(const char *text, codes_line *line)
{
    char code[64], rights[8], share[800], until[40], name[200];
    memset(line, 0, sizeof *line);
    if (sscanf(text, "%63s %7s %799s %39s %199s", code, rights, share, until, name) != 5)
        return "it is not: code, rights, share, until, name";
    if (fsb_chunk_code_parse(code, line->code, sizeof line->code) != 0)
        return "the code is mistyped";
    if (strcmp(rights, "ro") != 0 && strcmp(rights, "rw") != 0) return "rights are ro or rw";
    line->rights = FSB_CHUNK_READ | (rights[1] == 'w' ? (uint32_t)FSB_CHUNK_WRITE : 0u);
    if (strcmp(share, "*") != 0 &&
        tool_url_unquote(share, strlen(share), line->share, sizeof line->share) != 0)
        return "the share's name is too long or has a bad %";
    if (tool_url_unquote(name, strlen(name), line->name, sizeof line->name) != 0)
        return "the name is too long or has a bad %";
    line->until = strcmp(until, "-") == 0 ? 0 : codes_until(until);
    return line->until < 0 ? "until is - or a time like 2026-12-31T23:59:59Z" : NULL;
}

/* Reads the file. 0, a negative errno, or -EBADMSG: `wrong` (200 bytes) says why. */
static inline int codes_read(const char *path, codes *c, char *wrong)
{
    char        text[2048];
    struct stat st;
    int         number = 0;
    FILE       *file = fopen(path, "re");
    const char *why = NULL;
    c->count = 0, wrong[0] = '\0';
    if (!file) return -errno;
    if (fstat(fileno(file), &st) == 0) c->changed = st.st_mtim;
    if (st.st_mode & 077) why = "others may read it; make it yours alone: chmod 600";
    while (!why && fgets(text, sizeof text, file)) {
        ++number;
        if (text[strspn(text, " \t\r\n")] == '\0' || text[0] == '#') continue;
        if (c->count == CODES_MAX) why = "it has too many codes";
        else why = codes_parse(text, &c->lines[c->count]);
        if (!why) ++c->count;
    }
    fclose(file);
    if (why) snprintf(wrong, 200, "line %d: %s", number, why);
    return why ? -EBADMSG : 0;
}

/* Writes it aside and renames, so that a host that reads it meanwhile sees all of one version. */
static inline int codes_write(const char *path, const codes *c)
{
    char  aside[PATH_MAX + 16], share[800], name[200], until[40] = "-";
    FILE *file = NULL;
    snprintf(aside, sizeof aside, "%s.%d", path, (int)getpid());
    const int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || !(file = fdopen(fd, "w"))) return -errno;
    fprintf(file, "# code  rights  share  until  name\n");
    for (size_t i = 0; i < c->count; ++i) {
        const codes_line *l = &c->lines[i];
        const time_t      when = (time_t)l->until;
        struct tm         t;
        if (l->until && gmtime_r(&when, &t)) strftime(until, sizeof until, "%FT%TZ", &t);
        tool_url_quote(l->share, 0, share, sizeof share);
        tool_url_quote(l->name, 0, name, sizeof name);
        fprintf(file, "%s  %s  %s  %s  %s\n", l->code, l->rights & FSB_CHUNK_WRITE ? "rw" : "ro",
                l->share[0] ? share : "*", l->until ? until : "-", name[0] ? name : "-");
    }
    int err = fflush(file) != 0 || fsync(fd) != 0 ? -errno : 0;
    if (fclose(file) != 0 && !err) err = -errno;
    if (!err && rename(aside, path) != 0) err = -errno;
    if (err) (void)unlink(aside);
    return err;
}

/* Puts `line` with a new code in the place of the one of its name, or behind the others. */
static inline int codes_renew(codes *c, const codes_line *line)
{
    size_t i = 0;
    while (i < c->count && strcmp(c->lines[i].name, line->name) != 0) ++i;
    if (i == CODES_MAX) return -ENOSPC;
    c->lines[i] = *line;
    if (i == c->count) ++c->count;
    return fsb_chunk_code_create(c->lines[i].code, sizeof c->lines[i].code);
}

static inline int codes_remove(codes *c, const char *name)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->count; ++i)
        if (strcmp(c->lines[i].name, name) != 0) c->lines[kept++] = c->lines[i];
    const int found = kept != c->count;
    c->count = kept;
    return found ? 0 : -ENOENT;
}

/* Gives them to the server, in place of those before. */
static inline int codes_apply(const codes *c, fsb_chunk_server *server)
{
    static fsb_chunk_code list[CODES_MAX];
    for (size_t i = 0; i < c->count; ++i) {
        const codes_line *l = &c->lines[i];
        list[i].code = l->code, list[i].share = l->share[0] ? l->share : NULL;
        list[i].rights = l->rights, list[i].name = l->name;
        list[i].expires_ns = l->until * 1000000000;
    }
    return fsb_chunk_server_set_codes(server, list, c->count);
}
#endif
