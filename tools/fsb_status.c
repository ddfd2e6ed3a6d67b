/* fsb_status.c - `fsb status`: how a running host or mount is, or what a host says to a client. */
#include "../fsb_backend.h"
#include "../fsb_chunk.h"

#include "open.h"
#include <poll.h>

int fsb_cmd_status(int argc, char **argv);

static const char help[] =
    "usage: fsb status [--metrics] ADDRESS\n"
    "       fsb status URL\n"
    "\n"
    "ADDRESS is what --status of a running fsb-host or fsb-mount says: unix:PATH or HOST:PORT.\n"
    "  --metrics   in Prometheus' text format\n"
    "\n"
    "A URL (fsb://..., fsb+unix://..., fsb+tcp://...) is connected to as a mount would: shown is\n"
    "what the host grants, how long it takes to answer, and how much room there is.\n"
    "Exit status: 0 it answers, 1 it does not, 2 wrong usage.\n";

/* Asks, and prints the answer without its head; only text is believed. */
static void ask(const char *address, const char *path)
{
    char          text[64 << 10], question[64];
    size_t        size = 0;
    ssize_t       n = 1;
    int           fds[2];
    struct pollfd p;
    const int     err = fsb_chunk_dial(address, 5000, fds);
    if (err)
        tool_fail("nothing answers at %s: %s; it is what --status of fsb-host or fsb-mount says",
                  address, strerror(-err));
    snprintf(question, sizeof question, "GET %s HTTP/1.0\r\n\r\n", path);
    if (send(fds[0], question, strlen(question), MSG_NOSIGNAL) < 0) n = 0;
    while (n > 0 && size < sizeof text - 1) {
        p.fd = fds[0], p.events = POLLIN;
        n = poll(&p, 1, 5000) > 0 ? recv(fds[0], text + size, sizeof text - 1 - size, MSG_DONTWAIT)
                                  : -1;
        if (n > 0) size += (size_t)n;
        else if (n < 0 && p.revents && (errno == EAGAIN || errno == EINTR)) n = 1;
    }
    close(fds[0]);
    text[size] = '\0';
    char *body = strstr(text, "\r\n\r\n");
    if (strncmp(text, "HTTP/1.0 200 ", 13) != 0 || !body)
        tool_fail("what answers at %s does not know its status", address);
    for (char *c = body += 4; *c; ++c)
        if ((*c < ' ' && *c != '\n') || *c == 127) *c = '?';
    fputs(body, stdout);
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void ask_host(const char *text, const tool_url *url)
{
    static tool_place     place;
    static tool_log       log;
    fsb_chunk_client_info info;
    fsb_op                op;
    const int64_t         begun = now_us();
    if (url->scheme != TOOL_TLS && url->scheme != TOOL_UNIX && url->scheme != TOOL_TCP)
        tool_usage("'%s' is no URL of a host", text);
    place.text = text;
    tool_open(&place, 1, 10000, tool_log_open(&log, NULL, 0));
    const int64_t connected = now_us();
    fsb_chunk_client_get_info(place.backend, &info);
    memset(&op, 0, sizeof op);
    op.code = FSB_OP_STATFS, op.path = "/";
    const int64_t err = fsb_backend_call(place.backend, &op), answered = now_us();
    place.backend->close(place.backend);
    if (err < 0) tool_fail("it does not answer: %s", strerror((int)-err));
    printf("rights            %s\n", info.rights & FSB_CHUNK_WRITE ? "read and write" : "read");
    printf("connecting took   %lld us\n", (long long)(connected - begun));
    printf("an answer took    %lld us\n", (long long)(answered - connected));
    printf("requests at once  %u\n", info.max_requests);
    printf("host's boot id    %016llx\n", (unsigned long long)info.boot_id);
    printf("free              %llu of %llu bytes\n",
           (unsigned long long)(op.statfs.bavail * op.statfs.frsize),
           (unsigned long long)(op.statfs.blocks * op.statfs.frsize));
}

int fsb_cmd_status(int argc, char **argv)
{
    int                 metrics = 0, c;
    tool_url            url;
    const struct option options[] = {{"metrics", 0, &metrics, 1}, {"help", 0, NULL, 'h'},
                                     {"version", 0, NULL, 'V'}, {NULL, 0, NULL, 0}};
    tool_name = "fsb status";
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h') return fputs(help, stdout), 0;
        if (c == 'V') return puts("fsb " FSB_VERSION), 0;
        if (c == '?') return 2;
    }
    if (argc - optind != 1) tool_usage("want one address or URL");
    const char *text = argv[optind];
    if (strncmp(text, "public:", 7) == 0) text += 7;
    if (tool_url_parse(text, &url) == 0) ask_host(text, &url);
    else if (strstr(text, "://")) tool_usage("'%s' is no URL of a host", text);
    else ask(text, metrics ? "/metrics" : "/");
    return fflush(stdout) != 0;
}
