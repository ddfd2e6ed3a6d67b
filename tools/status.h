/* status.h - what a daemon answers on --status: /metrics in Prometheus' text format, and / the same
   numbers for people. One thread, one question at a time, each within two seconds.

     static void fill(void *user, status_page *page)
     {
         status_number(page, "fsb_clients", "gauge", "clients now", 3);
     }
     status_server *status = status_start("unix:PATH", fill, NULL);
     ...
     status_stop(status); // before what fill() looks at goes

   Whoever can connect may read the numbers. Hence unix sockets (mode 0600) and the loopback only,
   unless the address begins with "public:". */
#ifndef FSB_STATUS_H
#define FSB_STATUS_H
#include "tool.h"
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { STATUS_PAGE = 32 << 10, STATUS_ASKED = 4 << 10, STATUS_MS = 2000 };

typedef struct status_page {
    int    metrics; /* 1: for Prometheus, 0: for people */
    size_t size;
    char   text[STATUS_PAGE];
} status_page;

typedef struct status_server {
    void (*fill)(void *user, status_page *page);
    void       *user;
    int         fd, wake;
    char        path[PATH_MAX]; /* of a unix socket, wherever the program goes later */
    char        asked[STATUS_ASKED];
    time_t      since;
    pthread_t   thread;
    status_page page;
} status_server;

/* ---- the page -------------------------------------------------------------------------------- */

/* What does not fit is left out. */
__attribute__((format(printf, 2, 3))) static inline void status_print(status_page *page,
                                                                      const char *format, ...)
{
    va_list   args;
    char     *to = page->text + page->size;
    va_start(args, format);
    const int n = vsnprintf(to, sizeof page->text - page->size, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < sizeof page->text - page->size) page->size += (size_t)n;
    else *to = '\0';
}

/* One number; kind is "counter" or "gauge". A name with labels, name{x="y"}, has the head of its
   family only where about is given. */
static inline void status_number(status_page *page, const char *name, const char *kind,
                                 const char *about, uint64_t value)
{
    const int bare = (int)strcspn(name, "{");
    if (!page->metrics) {
        const char *label = strchr(name, '"') ? strchr(name, '"') + 1 : name;
        if (about) status_print(page, "%-36s %llu\n", about, (unsigned long long)value);
        else status_print(page, "  %-*.*s %llu\n", 34, (int)strcspn(label, "\""), label,
                          (unsigned long long)value);
        return;
    }
    if (about)
        status_print(page, "# HELP %.*s %s\n# TYPE %.*s %s\n", bare, name, about, bare, name, kind);
    status_print(page, "%s %llu\n", name, (unsigned long long)value);
}

/* Under which time, in us, so many percent of the requests were; 0: there is no such time. */
static inline uint64_t status_percentile(const uint64_t *buckets, int count, unsigned percent)
{
    uint64_t all = 0, sum = 0;
    for (int i = 0; i < count; ++i) all += buckets[i];
    for (int i = 0; i < count - 1; ++i)
        if ((sum += buckets[i]) * 100 >= all * percent) return UINT64_C(1) << i;
    return 0;
}

/* buckets[i]: so many took under 2^i us, and not under 2^(i-1); the last: the rest. */
static inline void status_histogram(status_page *page, const char *name, const char *about,
                                    const uint64_t *buckets, int count, uint64_t sum_us)
{
    static const unsigned percents[] = {50, 90, 99};
    uint64_t              sum = 0;
    if (page->metrics) status_print(page, "# HELP %s %s\n# TYPE %s histogram\n", name, about, name);
    for (int i = 0; i < count; ++i) {
        sum += buckets[i];
        if (page->metrics && i < count - 1)
            status_print(page, "%s_bucket{le=\"%.6f\"} %llu\n", name,
                         (double)(UINT64_C(1) << i) / 1e6, (unsigned long long)sum);
    }
    if (page->metrics) {
        status_print(page, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
                     (unsigned long long)sum, name, (double)sum_us / 1e6, name,
                     (unsigned long long)sum);
        return;
    }
    if (!sum) return;
    status_print(page, "%-36s mean %llu us", about, (unsigned long long)(sum_us / sum));
    for (int i = 0; i < 3; ++i) {
        const uint64_t under = status_percentile(buckets, count, percents[i]);
        if (under)
            status_print(page, ", %u %% under %llu us", percents[i], (unsigned long long)under);
    }
    status_print(page, "\n");
}

/* ---- one question ---------------------------------------------------------------------------- */

static inline int64_t status_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 1: that is possible now; 0: not in time, or the server stops. */
static inline int status_wait(const status_server *s, int fd, short events, int64_t until)
{
    struct pollfd p[2] = {{fd, events, 0}, {s->wake, POLLIN, 0}};
    for (;;) {
        const int64_t left = until - status_now_ms();
        const int     n = left > 0 ? poll(p, 2, (int)left) : 0;
        if (n < 0 && errno == EINTR) continue;
        return n > 0 && !p[1].revents;
    }
}

static inline void status_send(const status_server *s, int fd, const char *text, size_t size,
                               int64_t until)
{
    while (size && status_wait(s, fd, POLLOUT, until)) {
        const ssize_t n = send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return;
        if (n > 0) text += n, size -= (size_t)n;
    }
}

/* Reads up to the empty line that ends a question; 0: there was none, or too much before it. */
static inline int status_read(status_server *s, int fd, int64_t until)
{
    size_t size = 0;
    while (size < sizeof s->asked - 1 && status_wait(s, fd, POLLIN, until)) {
        const ssize_t n = recv(fd, s->asked + size, sizeof s->asked - 1 - size, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0 || memchr(s->asked + size, 0, (size_t)n)) return 0;
        size += (size_t)n;
        s->asked[size] = '\0';
        if (strstr(s->asked, "\r\n\r\n") || strstr(s->asked, "\n\n")) return 1;
    }
    return 0;
}

static inline int status_is(const char *asked, const char *what)
{
    const size_t n = strlen(what);
    return strncmp(asked, what, n) == 0 && strchr(" ?\r\n", asked[n]) != NULL;
}

static inline void status_answer(status_server *s, int fd)
{
    const int64_t until = status_now_ms() + STATUS_MS;
    const char   *word = "200 OK", *type = "text/plain; charset=utf-8";
    char          head[256];
    status_page  *page = &s->page;
    if (!status_read(s, fd, until)) return;
    page->size = 0, page->metrics = status_is(s->asked, "GET /metrics");
    if (strncmp(s->asked, "GET ", 4) != 0) word = "405 Method Not Allowed";
    else if (!page->metrics && !status_is(s->asked, "GET /")) word = "404 Not Found";
    if (word[0] != '2') {
        status_print(page, "%s: there are GET / and GET /metrics\n", word);
    } else {
        if (page->metrics) type = "text/plain; version=0.0.4; charset=utf-8";
        else status_print(page, "%s %s\n\n", tool_name, FSB_VERSION);
        status_number(page, "fsb_uptime_seconds", "gauge", "seconds since the start",
                      (uint64_t)(status_now_ms() / 1000 - (int64_t)s->since));
        s->fill(s->user, page);
    }
    const int n = snprintf(head, sizeof head,
                           "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                           "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
                           word, type, page->size);
    status_send(s, fd, head, (size_t)n, until);
    status_send(s, fd, page->text, page->size, until);
    shutdown(fd, SHUT_WR); /* so that closing does not cut off what is on its way */
}

static inline void *status_main(void *arg)
{
    status_server *s = (status_server *)arg;
    struct pollfd  p[2] = {{s->fd, POLLIN, 0}, {s->wake, POLLIN, 0}};
    for (;;) {
        const struct timespec pause = {0, 50000000};
        if (poll(p, 2, -1) < 0 && errno != EINTR) return NULL;
        if (p[1].revents) return NULL;
        const int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) status_answer(s, fd), close(fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) nanosleep(&pause, NULL);
    }
}

/* ---- the address ----------------------------------------------------------------------------- */

static inline int status_bind(int fd, const void *name, socklen_t size)
{
    const int one = 1;
    if (fd < 0) return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const int bad = bind(fd, (const struct sockaddr *)name, size) != 0 || listen(fd, 16) != 0;
    return bad ? -errno : 0;
}

/* The socket of a program that is gone is replaced, one that answers is not. */
static inline int status_listen_unix(status_server *s, const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct stat        st;
    if (!path[0] || strlen(path) >= sizeof name.sun_path) return -ENAMETOOLONG;
    memcpy(name.sun_path, path, strlen(path) + 1);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0) return -errno;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const int dead = connect(probe, (const struct sockaddr *)&name, sizeof name) != 0 &&
            errno == ECONNREFUSED;
        close(probe);
        if (dead) (void)unlink(path);
    }
    if (fchmod(s->fd, 0600) != 0) return -errno; /* of the name to be */
    const int err = status_bind(s->fd, &name, sizeof name);
    return err ? err : realpath(path, s->path) ? 0 : -errno;
}

static inline int status_is_loopback(const struct sockaddr *name)
{
    if (name->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)name)->sin6_addr);
    const uint32_t v4 = ((const struct sockaddr_in *)(const void *)name)->sin_addr.s_addr;
    return name->sa_family == AF_INET && ntohl(v4) >> 24 == 127;
}

static inline int status_listen_tcp(status_server *s, const char *address, int public_too)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    const char     *colon = strrchr(address, ':');
    char            host[256];
    const int       bracket = address[0] == '[';
    if (!colon || colon - address > 250) return -EINVAL;
    snprintf(host, sizeof host, "%.*s", (int)(colon - address) - 2 * bracket, address + bracket);
    hints.ai_flags = AI_PASSIVE;
    if (getaddrinfo(strcmp(host, "*") ? host : NULL, colon + 1, &hints, &list) != 0) return -EINVAL;
    int err = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && err; a = a->ai_next) {
        if (!public_too && !status_is_loopback(a->ai_addr)) {
            err = -EACCES;
            continue;
        }
        if (s->fd >= 0) close(s->fd);
        s->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        err = status_bind(s->fd, a->ai_addr, a->ai_addrlen);
    }
    freeaddrinfo(list);
    return err;
}

/* Where it listens, for people. */
static inline void status_where(const status_server *s, char *text, size_t size)
{
    struct sockaddr_storage name;
    socklen_t               length = sizeof name;
    char                    host[128] = "?", port[16] = "?";
    if (s->path[0]) {
        snprintf(text, size, "unix:%s", s->path);
        return;
    }
    if (getsockname(s->fd, (struct sockaddr *)&name, &length) == 0)
        (void)getnameinfo((struct sockaddr *)&name, length, host, sizeof host, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(text, size, strchr(host, ':') ? "http://[%s]:%s/" : "http://%s:%s/", host, port);
}

/* Listens on "unix:PATH", "HOST:PORT" of the loopback, or "public:HOST:PORT", and answers until
   status_stop(). NULL address: nothing. Ends the program, saying why, if it cannot. */
static inline status_server *status_start(const char *address,
                                          void (*fill)(void *user, status_page *page), void *user,
                                          fsb_logger log)
{
    char where[PATH_MAX + 8], line[PATH_MAX + 32];
    if (!address) return NULL;
    status_server *s = (status_server *)calloc(1, sizeof *s);
    if (!s) tool_fail("no memory");
    const int any = strncmp(address, "public:", 7) == 0;
    s->fill = fill, s->user = user, s->fd = -1, s->since = (time_t)(status_now_ms() / 1000);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = s->wake < 0 ? -errno
        : strncmp(address, "unix:", 5) == 0
        ? status_listen_unix(s, address + 5)
        : status_listen_tcp(s, address + (any ? 7 : 0), any);
    if (err == -EACCES && !s->path[0])
        tool_fail("--status %s: it is not yours, or not the loopback; public:HOST:PORT shows the "
                  "numbers to everybody", address);
    if (!err) err = -pthread_create(&s->thread, NULL, status_main, s);
    if (err) tool_fail("--status %s: %s; it is unix:PATH or HOST:PORT", address, strerror(-err));
    status_where(s, where, sizeof where);
    snprintf(line, sizeof line, "the status is at %s", where);
    log.fn(log.user, FSB_LOG_INFO, "status", line);
    return s;
}

static inline void status_stop(status_server *s)
{
    const uint64_t one = 1;
    if (!s) return;
    if (write(s->wake, &one, sizeof one) < 0) {} /* an eventfd has room */
    pthread_join(s->thread, NULL);
    if (s->path[0]) (void)unlink(s->path);
    close(s->fd), close(s->wake);
    free(s);
}
#endif
