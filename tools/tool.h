/* tool.h - what every program of fsb does the same way: messages, logs, numbers, URLs.

   Messages read "fsb-host: what happened: why; what to do". Exit status: 0 well, 1 failed, 2 the
   command line is wrong. Machine output goes to stdout, words for people to stderr. */
#ifndef FSB_TOOL_H
#define FSB_TOOL_H
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const char *tool_name = "fsb"; /* of the running program; main() sets it */

/* ---- messages -------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static inline void tool_say(const char *format, ...)
{
    char    line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "%s: %s\n", tool_name, line);
}

#define tool_fail(...) (tool_say(__VA_ARGS__), exit(1))
#define tool_usage(...) \
    (tool_say(__VA_ARGS__), fprintf(stderr, "Try '%s --help'.\n", tool_name), exit(2))

/* Where an fsb_logger's lines go: stderr, or a file with the time before each. */
typedef struct tool_log {
    FILE         *file;  /* NULL: stderr */
    fsb_log_level level; /* lines above it are dropped */
    int           hold;  /* 1: an error is kept in text, for the program's own message */
    char          text[512];
} tool_log;

static inline void tool_log_line(void *user, fsb_log_level level, const char *item,
                                 const char *text)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    tool_log                *log = (tool_log *)user;
    struct timespec          now;
    struct tm                utc;
    char                     stamp[32];
    char                     clean[sizeof log->text];
    if (level > log->level) return;
    snprintf(clean, sizeof clean, "%s", text); /* names from outside must not forge lines */
    for (char *c = clean; *c; ++c)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    text = clean;
    if (log->hold && level == FSB_LOG_ERROR) {
        snprintf(log->text, sizeof log->text, "%s", text);
        return;
    }
    if (!log->file) {
        fprintf(stderr, "%s: %s: %s\n", tool_name, names[level], text);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    fprintf(log->file, "%s.%03ldZ %s %s %s\n", stamp, now.tv_nsec / 1000000, names[level], item,
            text);
    fflush(log->file);
}

/* A logger for objects of ours; path NULL: stderr. Ends the program if it cannot be opened. */
static inline fsb_logger tool_log_open(tool_log *log, const char *path, int verbose)
{
    const fsb_logger logger = {tool_log_line, log};
    log->file = NULL;
    log->level = verbose > 1 ? FSB_LOG_DEBUG : verbose ? FSB_LOG_INFO : FSB_LOG_WARN;
    if (path && path[0] && !(log->file = fopen(path, "ae")))
        tool_fail("cannot write the log %s: %s; name a file in a folder that you may write", path,
                  strerror(errno));
    if (path && !verbose) log->level = FSB_LOG_INFO;
    return logger;
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* "15" in least..most, or the program ends with a usage message about `option`. */
static inline uint64_t tool_number(const char *option, const char *text, uint64_t least,
                                   uint64_t most)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < least || value > most)
        tool_usage("%s: '%s' is not a number from %llu to %llu", option, text,
                   (unsigned long long)least, (unsigned long long)most);
    return value;
}

/* Bytes: "4096", "64K", "512M", "10G", "1T"; in least..most, or a usage message. */
static inline uint64_t tool_size(const char *option, const char *text, uint64_t least,
                                 uint64_t most)
{
    static const char units[] = "KMGT";
    char             *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    const char        *unit = *end ? strchr(units, *end & ~32) : NULL;
    const int          shift = unit ? 10 * (int)(unit - units + 1) : 0;
    int                bad = text[0] < '0' || text[0] > '9' || errno || (*end && (!unit || end[1]));
    if (!bad && value > (UINT64_MAX >> shift)) bad = 1;
    value <<= shift;
    if (bad || value < least || value > most)
        tool_usage("%s: '%s' is not a size from %llu to %llu bytes (K, M, G, T: 1024 and its "
                   "powers)", option, text, (unsigned long long)least, (unsigned long long)most);
    return value;
}

static inline void tool_raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* Answers of a MiB come and go: malloc is not to give their pages back to the kernel each time, and
   take new ones (100 MiB of small files: half the page faults, a tenth of the processor). */
static inline void tool_tune_memory(void)
{
#ifdef M_TRIM_THRESHOLD /* glibc's */
    (void)mallopt(M_MMAP_THRESHOLD, 4 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 8 << 20);
#endif
}

/* ---- URLs ------------------------------------------------------------------------------------ */

/*  fsb://HOST:PORT/SHARE[/PATH]#CODE     fsb+unix:///PATH?share=SHARE[/PATH]
    fsb+tcp://HOST:PORT/SHARE[/PATH]      file:///PATH    mem:NAME
    ssh://[USER@]HOST[:PORT]/PATH         sftp://...; there /~/PATH is below the home folder  */
typedef enum tool_scheme {
    TOOL_UNIX, TOOL_TCP, TOOL_TLS, TOOL_FILE, TOOL_MEM, TOOL_SSH, TOOL_SFTP
} tool_scheme;
typedef struct tool_url {
    tool_scheme scheme;
    char        address[PATH_MAX]; /* "unix:PATH", "HOST:PORT" or "tls:HOST:PORT"; for ssh and sftp
                                      [USER@]HOST */
    char        port[8];           /* of ssh and sftp; "": ssh's own */
    char        share[256];        /* "": the host's first */
    char        code[256];         /* TOOL_TLS: as it was typed; "": to be found elsewhere */
    char        path[PATH_MAX];    /* of the machine (file, ssh, sftp), where the first '/' is
                                      missing below the home folder; in the share; mem: the name */
} tool_url;

/* Writes text to out with everything but letters, digits and -._~/ as %XX. */
static inline void tool_url_quote(const char *text, int keep_slash, char *out, size_t size)
{
    size_t n = 0;
    for (; *text && n + 4 < size; ++text) {
        const unsigned char c = (unsigned char)*text;
        const int plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
            strchr("-._~", c) || (c == '/' && keep_slash);
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "%%%02X", c);
    }
    out[n] = '\0';
}

/* The reverse, of size bytes of text; -EINVAL for a bad % or a NUL, -ENAMETOOLONG. */
static inline int tool_url_unquote(const char *text, size_t size, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < size; ++i) {
        unsigned value = (unsigned char)text[i];
        if (value == '%') {
            char hex[3] = {0}, *end = hex;
            if (i + 2 < size) memcpy(hex, text + i + 1, 2);
            value = (unsigned)strtoul(hex, &end, 16);
            if (end != hex + 2 || !value) return -EINVAL;
            i += 2;
        }
        if (n + 1 >= room) return -ENAMETOOLONG;
        out[n++] = (char)value;
    }
    out[n] = '\0';
    return 0;
}

/* "SHARE" or "SHARE/PATH". */
static inline int tool_url_share(const char *text, tool_url *url)
{
    const size_t share = strcspn(text, "/");
    const int    err = tool_url_unquote(text, share, url->share, sizeof url->share);
    if (err || !text[share]) return err;
    return tool_url_unquote(text + share, strlen(text + share), url->path, sizeof url->path);
}

static inline int tool_url_ssh(const char *rest, tool_url *url)
{
    const char *slash = strchr(rest, '/');
    size_t      host = slash ? (size_t)(slash - rest) : strlen(rest);
    const char *colon = (const char *)memchr(rest, ':', host);
    if (!slash) slash = "/";
    if (colon && rest[0] != '[') {
        const size_t n = (size_t)(rest + host - colon - 1);
        if (!n || n >= sizeof url->port || strspn(colon + 1, "0123456789") != n) return -EINVAL;
        memcpy(url->port, colon + 1, n);
        host = (size_t)(colon - rest);
    }
    int err = tool_url_unquote(rest, host, url->address, sizeof url->address);
    if (!host || rest[0] == '-') return -EINVAL; /* it would be an option of ssh's */
    if (strncmp(slash, "/~/", 3) == 0) slash += 3;
    if (!*slash) slash = ".";
    if (!err) err = tool_url_unquote(slash, strlen(slash), url->path, sizeof url->path);
    return err ? err : url->address[0] == '-' || url->path[0] == '-' ? -EINVAL : 0;
}

static inline int tool_url_unix(const char *rest, tool_url *url)
{
    const char *query = strchr(rest, '?');
    int         err;
    memcpy(url->address, "unix:", 6);
    err = tool_url_unquote(rest, query ? (size_t)(query - rest) : strlen(rest), url->address + 5,
                           sizeof url->address - 5);
    if (err || url->address[5] != '/') return err ? err : -EINVAL;
    if (!query) return 0;
    if (strncmp(query, "?share=", 7) != 0) return -EINVAL;
    return tool_url_share(query + 7, url);
}

static inline int tool_url_tcp(const char *rest, tool_url *url)
{
    const char  *slash = strchr(rest, '/');
    const size_t host = slash ? (size_t)(slash - rest) : strlen(rest);
    if (!host || !memchr(rest, ':', host)) return -EINVAL;
    const int err = tool_url_unquote(rest, host, url->address, sizeof url->address);
    if (err || !slash) return err;
    return tool_url_share(slash + 1, url);
}

/* As tcp, with the join code behind a '#'. */
static inline int tool_url_tls(const char *rest, tool_url *url)
{
    char        plain[PATH_MAX];
    const char *code = strchr(rest, '#');
    const size_t size = code ? (size_t)(code - rest) : strlen(rest);
    if (size >= sizeof plain - 4 || (code && strlen(code + 1) >= sizeof url->code))
        return -ENAMETOOLONG;
    memcpy(plain, rest, size);
    plain[size] = '\0';
    const int err = tool_url_tcp(plain, url);
    if (err) return err;
    if (code) snprintf(url->code, sizeof url->code, "%s", code + 1);
    memmove(url->address + 4, url->address, strlen(url->address) + 1);
    memcpy(url->address, "tls:", 4);
    return 0;
}

#ifdef FSB_CHUNK_H /* of programs that connect */
/* The join code, or token, of a URL that has none: from a file ("-": stdin), or else from
   $FSB_CODE. Its first line, or where the line has more words, as fsb-host's own file has, the
   first word. 0, -ENOENT there is none, -EINVAL it is mistyped, what open(2) says. */
static inline int tool_code_find(const char *path, tool_url *url)
{
    char        line[512] = "";
    const char *from = getenv("FSB_CODE");
    if (!url->code[0] && path) {
        FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
        if (!file) return -errno;
        while (fgets(line, sizeof line, file) && (line[0] == '#' || line[0] == '\n')) line[0] = 0;
        if (file != stdin) fclose(file);
        line[strcspn(line, "\r\n")] = '\0';
        if (strstr(line, "  ")) *strstr(line, "  ") = '\0';
        from = line;
    }
    if (!url->code[0] && (!from || !from[0])) return -ENOENT;
    if (strchr(url->code[0] ? url->code : from, ':')) { /* a token, taken as it is */
        const size_t size = url->code[0] ? 0 : strlen(from) + 1;
        if (size > sizeof url->code) return -EINVAL;
        if (size) memcpy(url->code, from, size);
        return 0;
    }
    return fsb_chunk_code_parse(url->code[0] ? url->code : from, url->code, sizeof url->code);
}
#endif

/* Parses; -EINVAL if it is no URL of ours, -ENAMETOOLONG. */
static inline int tool_url_parse(const char *text, tool_url *url)
{
    memset(url, 0, sizeof *url);
    if (strncmp(text, "fsb://", 6) == 0)
        return url->scheme = TOOL_TLS, tool_url_tls(text + 6, url);
    if (strncmp(text, "fsb+unix://", 11) == 0)
        return url->scheme = TOOL_UNIX, tool_url_unix(text + 11, url);
    if (strncmp(text, "fsb+tcp://", 10) == 0)
        return url->scheme = TOOL_TCP, tool_url_tcp(text + 10, url);
    if (strncmp(text, "file:///", 8) == 0) {
        url->scheme = TOOL_FILE;
        return tool_url_unquote(text + 7, strlen(text + 7), url->path, sizeof url->path);
    }
    if (strncmp(text, "ssh://", 6) == 0)
        return url->scheme = TOOL_SSH, tool_url_ssh(text + 6, url);
    if (strncmp(text, "sftp://", 7) == 0)
        return url->scheme = TOOL_SFTP, tool_url_ssh(text + 7, url);
    if (strncmp(text, "mem:", 4) == 0) {
        url->scheme = TOOL_MEM;
        return tool_url_unquote(text + 4, strlen(text + 4), url->path, sizeof url->path);
    }
    return -EINVAL;
}
#endif
