/* open.h - from a URL, or a path of this machine, to a backend: the one place where schemes become
   backends. Include fsb_backend.h, fsb_chunk.h and tool.h before. */
#ifndef FSB_OPEN_H
#define FSB_OPEN_H
#include "tool.h"
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- ssh ------------------------------------------------------------------------------------- */

/* What the command line and the environment say to ssh, of every connection. */
static struct {
    const char *words[64]; /* "-o", "KEY=VALUE", "-i", "FILE", "-C" */
    int         count;
    char        password[512]; /* "": ssh asks as it always does */
} tool_ssh_given;

/* A connection through the system's ssh: its configuration, agents and jumps all work. */
typedef struct tool_ssh {
    tool_url    url;
    char        folder[PATH_MAX]; /* what fsb-host is to serve there */
    int         sftp;             /* 1: the SFTP server instead */
    pid_t       child;
    char        wait[40];      /* "ConnectTimeout=N" */
    char        ciphers[1024]; /* "Ciphers=..."; "": as ssh has them */
    const char *words[96];     /* to run a command there */
} tool_ssh;

static inline void tool_ssh_give(const char *option, const char *value)
{
    const int most = (int)(sizeof tool_ssh_given.words / sizeof *tool_ssh_given.words);
    if (tool_ssh_given.count + 2 > most) tool_usage("too many options for ssh");
    tool_ssh_given.words[tool_ssh_given.count++] = option;
    if (value) tool_ssh_given.words[tool_ssh_given.count++] = value;
}

/* The first line of a file ("-": stdin), or $FSB_PASSWORD; it never is an argument of anything. */
static inline void tool_ssh_password(const char *path)
{
    char       *text = tool_ssh_given.password;
    const char *given = getenv("FSB_PASSWORD");
    const int   room = (int)sizeof tool_ssh_given.password;
    if (path) {
        FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
        if (!file) tool_fail("cannot read the password in %s: %s", path, strerror(errno));
        if (!fgets(text, room, file)) text[0] = '\0';
        if (file != stdin) fclose(file);
        text[strcspn(text, "\r\n")] = '\0';
        if (!text[0]) tool_fail("there is no password in the first line of %s", path);
    } else if (given) snprintf(text, (size_t)room, "%s", given);
}

/* ssh asks $SSH_ASKPASS for passwords. This one is a few lines in memory, which live as long as
   this process; they agree to no unknown host. */
static inline void tool_ssh_askpass(void)
{
    static const char script[] =
        "#!/bin/sh\n"
        "case $1 in *yes/no*) echo no ;; *) printf '%s\\n' \"$FSB_PASSWORD\" ;; esac\n";
    static int fd = -1;
    char       path[64];
    if (!tool_ssh_given.password[0]) tool_ssh_password(NULL);
    if (!tool_ssh_given.password[0] || fd >= 0) return;
    fd = memfd_create("fsb-askpass", MFD_CLOEXEC | 0x10u /* MFD_EXEC */);
    if (fd < 0) fd = memfd_create("fsb-askpass", MFD_CLOEXEC);
    if (fd < 0 || write(fd, script, sizeof script - 1) != sizeof script - 1)
        tool_fail("cannot hand the password to ssh: %s", strerror(errno));
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), fd);
    setenv("SSH_ASKPASS", path, 1), setenv("SSH_ASKPASS_REQUIRE", "force", 1);
    setenv("DISPLAY", ":0", 0); /* before OpenSSH 8.4 it asks there only */
    setenv("FSB_PASSWORD", tool_ssh_given.password, 1);
    tool_ssh_give("-o", "NumberOfPasswordPrompts=1"); /* it would be the same one again */
}

/* What a command says on stdout, cut at size; 0 if it cannot be run. */
static inline size_t tool_output_of(const char *const *words, char *out, size_t size)
{
    int     pair[2];
    size_t  got = 0;
    ssize_t n = 1;
    if (pipe2(pair, O_CLOEXEC) != 0) return 0;
    const pid_t child = fork();
    if (child == 0) {
        (void)dup2(pair[1], STDOUT_FILENO);
        (void)dup2(open("/dev/null", O_RDWR), STDERR_FILENO);
        execvp(words[0], (char *const *)(uintptr_t)words);
        _exit(127);
    }
    close(pair[1]);
    while (n > 0 && got < size - 1) {
        n = read(pair[0], out + got, size - 1 - got);
        if (n > 0) got += (size_t)n;
    }
    close(pair[0]);
    if (child > 0) waitpid(child, NULL, 0);
    out[got] = '\0';
    return got;
}

static inline int tool_has_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes") != 0;
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & 8) != 0;
#else
    return 0;
#endif
}

/* What "ssh -G" says the configuration comes to: a line for each, "\nname value". */
static inline size_t tool_ssh_config(const tool_ssh *ssh, char *text, size_t size)
{
    const char *words[98];
    size_t      n = 0;
    while (ssh->words[n]) words[n] = ssh->words[n], ++n;
    words[n] = words[n - 1], words[n - 1] = "-G", words[n + 1] = NULL;
    return tool_output_of(words, text, size);
}

static inline void tool_ssh_setting(const char *text, const char *name, char *out, size_t size)
{
    const size_t n = strlen(name);
    out[0] = '\0';
    for (const char *at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, n) != 0 || at[n] != ' ') continue;
        snprintf(out, size, "%.*s", (int)strcspn(at + n + 1, "\n"), at + n + 1);
        return;
    }
}

/* Processors that know AES do AES-GCM at three times the speed of ChaCha20, which ssh likes best
   where it was not told otherwise. Of the ciphers it would use, and no others, that one first. */
static inline void tool_ssh_cipher(tool_ssh *ssh)
{
    static const char gcm[] = "aes128-gcm@openssh.com";
    char              text[32768], list[512];
    if (!tool_has_aes() || !tool_ssh_config(ssh, text, sizeof text)) return;
    tool_ssh_setting(text, "ciphers", list, sizeof list);
    char *at = strstr(list, gcm);
    if (strncmp(list, "chacha20-poly1305@", 18) != 0 || !at || at[-1] != ',') return;
    const char *rest = at + strlen(gcm);
    at[-1] = '\0';
    if (snprintf(ssh->ciphers, sizeof ssh->ciphers, "Ciphers=%s,%s%s", gcm, list, rest)
        >= (int)sizeof ssh->ciphers)
        ssh->ciphers[0] = '\0';
}

/* The words of an ssh command up to its host. What comes first counts: the user's own options. */
static inline void tool_ssh_words(tool_ssh *ssh, uint32_t timeout_ms)
{
    static const char *const first[] = {"sh", "-c", "exec ${FSB_SSH:-ssh} \"$@\"", "ssh"};
    static const char *const last[] = {"-o", "ServerAliveInterval=15", "-o",
                                       "ServerAliveCountMax=3", "-o"};
    const char **words = ssh->words;
    int          n = 4;
    memcpy(words, first, sizeof first);
    memcpy(words + n, tool_ssh_given.words, (size_t)tool_ssh_given.count * sizeof *words);
    n += tool_ssh_given.count;
    memcpy(words + n, last, sizeof last);
    n += (int)(sizeof last / sizeof *last);
    snprintf(ssh->wait, sizeof ssh->wait, "ConnectTimeout=%u", (timeout_ms + 999) / 1000);
    words[n++] = ssh->wait;
    if (ssh->url.port[0]) words[n++] = "-p", words[n++] = ssh->url.port;
    words[n++] = ssh->url.address, words[n] = NULL; /* it does not begin with '-' */
    tool_ssh_cipher(ssh);
    if (!ssh->ciphers[0]) return;
    words[n - 1] = "-o", words[n++] = ssh->ciphers, words[n++] = ssh->url.address, words[n] = NULL;
}

/* In single quotes, for a shell. */
static inline void tool_shell_quote(const char *text, char *out, size_t size)
{
    size_t n = 0;
    out[n++] = '\'';
    for (; *text && n + 6 < size; ++text) {
        if (*text == '\'') memcpy(out + n, "'\\''", 4), n += 4;
        else out[n++] = *text;
    }
    out[n++] = '\'', out[n] = '\0';
}

static inline void tool_ssh_run(const tool_ssh *ssh)
{
    char        quoted[4 * PATH_MAX + 8], command[4 * PATH_MAX + 128];
    const char *words[96];
    size_t      n = 0;
    while (ssh->words[n]) words[n] = ssh->words[n], ++n;
    if (ssh->sftp) words[n++] = "-s";
    tool_shell_quote(ssh->folder, quoted, sizeof quoted);
    snprintf(command, sizeof command,
             "command -v fsb-host >/dev/null 2>&1 || exit 127;"
             " exec fsb-host --stdio --allow-exec %s", quoted);
    words[n++] = ssh->sftp ? "sftp" : command;
    words[n] = NULL;
    execvp("sh", (char *const *)(uintptr_t)words);
}

/* Ends the child, which has a moment to end by itself; its wait status, or -1. */
static inline int tool_ssh_end(tool_ssh *ssh)
{
    int status = -1, ended = 0;
    for (int i = 0; ssh->child > 0 && !ended && i < 200; ++i) {
        if (i) usleep(5000);
        ended = waitpid(ssh->child, &status, WNOHANG) == ssh->child;
    }
    if (ssh->child > 0 && !ended) kill(ssh->child, SIGTERM), waitpid(ssh->child, NULL, 0);
    ssh->child = 0;
    return ended ? status : -1;
}

/* A connect() of fsb_chunk_client_desc and fsb_sftp_desc; user is a tool_ssh. */
static inline int tool_ssh_connect(void *user, int fds[2])
{
    tool_ssh *ssh = (tool_ssh *)user;
    int       pair[2];
    if (ssh->child > 0) kill(ssh->child, SIGTERM), waitpid(ssh->child, NULL, 0);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return -errno;
    ssh->child = fork();
    if (ssh->child == 0) {
        (void)dup2(pair[1], STDIN_FILENO), (void)dup2(pair[1], STDOUT_FILENO);
        (void)signal(SIGPIPE, SIG_DFL); /* ours ignores it, and exec keeps that */
        tool_ssh_run(ssh);
        _exit(126);
    }
    close(pair[1]);
    if (ssh->child < 0) {
        close(pair[0]);
        return -EAGAIN;
    }
    fds[0] = fds[1] = pair[0];
    return 0;
}

/* The fingerprints that are known of the host: ssh itself tells only the one it met. */
static inline void tool_ssh_known(const tool_ssh *ssh)
{
    char text[32768], host[300], port[16], name[340], files[PATH_MAX], said[4096];
    if (!tool_ssh_config(ssh, text, sizeof text)) return;
    tool_ssh_setting(text, "hostkeyalias", name, sizeof name);
    tool_ssh_setting(text, "hostname", host, sizeof host);
    tool_ssh_setting(text, "port", port, sizeof port);
    tool_ssh_setting(text, "userknownhostsfile", files, sizeof files);
    if (!name[0]) snprintf(name, sizeof name, strcmp(port, "22") ? "[%s]:%s" : "%s", host, port);
    for (char *rest = files, *file; (file = strtok_r(rest, " ", &rest));) {
        const char *const words[] = {"ssh-keygen", "-l", "-F", name, "-f", file, NULL};
        if (!tool_output_of(words, said, sizeof said)) continue;
        for (char *lines = said, *line; (line = strtok_r(lines, "\n", &lines));)
            if (line[0] != '#') tool_say("%s knows it as: %s", file, line);
    }
}

/* ssh itself failed, and has said why on stderr. */
static inline void tool_ssh_refused(const tool_ssh *ssh)
{
    const char *port = ssh->url.port;
    tool_ssh_known(ssh);
    tool_fail("cannot connect to %s: ssh says why above; 'ssh %s%s%s%s' must work first",
              ssh->url.address, port[0] ? "-p " : "", port, port[0] ? " " : "", ssh->url.address);
}

static inline int tool_open_sftp(fsb_backend **out, tool_ssh *ssh, const char *root,
                                 uint32_t timeout_ms, fsb_logger log)
{
    fsb_sftp_desc desc = {0};
    ssh->sftp = 1;
    desc.connect = tool_ssh_connect, desc.user = ssh, desc.root = root;
    desc.timeout_ms = timeout_ms, desc.log = log;
    desc.exec_argv = ssh->words, desc.exec_env = (const char *const *)(uintptr_t)environ;
    const int err = fsb_sftp_open(out, &desc);
    if (!err) return 0;
    const int status = tool_ssh_end(ssh);
    if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 255)
        tool_ssh_refused(ssh);
    if (err == -EPROTO)
        tool_fail("%s runs no SFTP server for this user, or its login prints text; see "
                  "'Subsystem sftp' in its sshd_config", ssh->url.address);
    return err;
}

/* fsb-host over ssh, else SFTP. The backend's "/" is ssh->folder. */
static inline int tool_open_ssh(fsb_backend **out, tool_ssh *ssh, uint32_t timeout_ms,
                                fsb_logger log)
{
    fsb_chunk_client_desc desc = {0};
    tool_ssh_askpass();
    tool_ssh_words(ssh, timeout_ms);
    if (ssh->url.scheme == TOOL_SSH) {
        desc.connect = tool_ssh_connect, desc.user = ssh;
        desc.timeout_ms = timeout_ms, desc.log = log;
        ((tool_log *)log.user)->hold = 1;
        const int err = fsb_chunk_client_open(out, &desc);
        ((tool_log *)log.user)->hold = 0;
        if (!err) return 0;
        const int status = tool_ssh_end(ssh);
        if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 255) tool_ssh_refused(ssh);
        if (status < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 127) return err;
        tool_say("%s has no fsb-host in its PATH: SFTP does the work instead, more slowly",
                 ssh->url.address);
    }
    return tool_open_sftp(out, ssh, ssh->folder, timeout_ms, log);
}

/* ---- URLs ------------------------------------------------------------------------------------ */

/* What a URL names, found: path is where it is in the backend. */
typedef struct tool_place {
    const char  *text; /* as it was typed */
    tool_url     url;
    fsb_backend *backend;
    char         path[FSB_PATH_MAX + 1];
} tool_place;

/* Splits a path of a machine into the folder that becomes "/" and the rest, so that the last
   component can be made or removed too: all of it with `whole`. `exists` NULL: the folder is
   believed to be there; else folders that are not are left to the rest. */
static inline void tool_split(const char *path, int whole, int (*exists)(const char *folder),
                              char *folder, char *rest)
{
    char name[PATH_MAX], up[PATH_MAX], was[FSB_PATH_MAX + 1];
    snprintf(folder, PATH_MAX, "%s", path);
    rest[0] = '/', rest[1] = '\0', was[0] = '\0';
    while (!whole) {
        snprintf(name, sizeof name, "%s", folder), snprintf(up, sizeof up, "%s", folder);
        const char *last = basename(name);
        if (!strcmp(last, "/") || !strcmp(last, ".") || !strcmp(last, "..")) return;
        if (snprintf(rest, FSB_PATH_MAX + 1, "/%s%s", last, was) > FSB_PATH_MAX)
            tool_fail("the path is too long");
        snprintf(was, sizeof was, "%s", rest);
        snprintf(folder, PATH_MAX, "%s", dirname(up));
        if (!exists || exists(folder)) return;
    }
}

static inline int tool_exists(const char *folder) { return access(folder, F_OK) == 0; }

static inline int tool_open_local(tool_place *p, int whole, fsb_logger log)
{
    fsb_local_desc desc = {0};
    char           folder[PATH_MAX], real[PATH_MAX];
    tool_split(p->url.path, whole, tool_exists, folder, p->path);
    if (!whole && !strcmp(p->path, "/") && realpath(folder, real) && real[1])
        tool_split(real, 0, NULL, folder, p->path); /* "." and the like: by their names */
    desc.root = folder, desc.allow_exec = 1, desc.log = log; /* this user's own machine */
    return fsb_local_open(&p->backend, &desc);
}

static inline int tool_open_far(tool_place *p, int whole, uint32_t timeout_ms, fsb_logger log)
{
    tool_ssh  *ssh = (tool_ssh *)calloc(1, sizeof *ssh); /* the backend's, to the end */
    const int  from_home = p->url.path[0] != '/';
    if (!ssh) return -ENOMEM;
    ssh->url = p->url;
    if (p->url.scheme == TOOL_SSH) tool_split(p->url.path, whole, NULL, ssh->folder, p->path);
    else snprintf(ssh->folder, sizeof ssh->folder, "%s",
                  whole ? p->url.path : from_home ? "." : "/");
    const int err = tool_open_ssh(&p->backend, ssh, timeout_ms, log);
    if (err || whole || p->url.scheme == TOOL_SSH) return err;
    return fsb_path_normalize(p->url.path, p->path, sizeof p->path);
}

static inline int tool_open_host(tool_place *p, uint32_t timeout_ms, fsb_logger log)
{
    fsb_chunk_client_desc desc = {0};
    if (p->url.scheme == TOOL_TLS) {
        const char *file = getenv("FSB_CODE_FILE"); /* which --code-file of fsb sets */
        const int   err = tool_code_find(file && file[0] ? file : NULL, &p->url);
        if (err && err != -EINVAL && file && file[0])
            tool_fail("no join code in the code file %s: %s", file, strerror(-err));
        if (err)
            tool_fail("%.*s needs a join code that is well typed: #CODE, --code-file or FSB_CODE",
                      (int)strcspn(p->text, "#"), p->text);
        desc.code = p->url.code;
    }
    desc.address = p->url.address, desc.share = p->url.share[0] ? p->url.share : NULL;
    desc.timeout_ms = timeout_ms, desc.log = log;
    ((tool_log *)log.user)->hold = 1; /* the caller's message says it better */
    const int err = fsb_chunk_client_open(&p->backend, &desc);
    ((tool_log *)log.user)->hold = 0;
    return err ? err : fsb_path_normalize(p->url.path, p->path, sizeof p->path);
}

/* Opens what p->text names, an argument, and takes its join code out of it; with `whole`, that
   becomes "/" where it can. Ends the program, saying why, if it cannot. */
static inline void tool_open(tool_place *p, int whole, uint32_t timeout_ms, fsb_logger log)
{
    int err = tool_url_parse(p->text, &p->url);
    if (err == -EINVAL && !strstr(p->text, "://") && strlen(p->text) < sizeof p->url.path) {
        err = 0, p->url.scheme = TOOL_FILE;
        snprintf(p->url.path, sizeof p->url.path, "%s", p->text[0] ? p->text : ".");
    }
    if (err) tool_usage("'%s' is no URL that fsb knows; --help lists them", p->text);
    char *code = p->url.scheme == TOOL_TLS ? strchr(p->text, '#') : NULL;
    if (code) memset(code, 0, strlen(code)); /* so that neither ps nor a message shows it */
    memcpy(p->path, "/", 2);
    if (p->url.scheme == TOOL_FILE) {
        err = tool_open_local(p, whole, log);
    } else if (p->url.scheme == TOOL_SSH || p->url.scheme == TOOL_SFTP) {
        err = tool_open_far(p, whole, timeout_ms, log);
    } else if (p->url.scheme == TOOL_MEM) {
        fsb_memory_desc desc = {0};
        desc.log = log;
        err = fsb_memory_open(&p->backend, &desc);
    } else {
        err = tool_open_host(p, timeout_ms, log);
    }
    if (err) tool_fail("cannot open %.*s: %s", (int)strcspn(p->text, "#"), p->text,
                       strerror(-err));
}
#endif
