/* link.h - what programs that run inside build/bench/link share: where they are, how to stand on
   one side of the link, and what plain TCP carries there.

   The link sets these variables for the command that it runs:
       FSB_LINK          its own path: "$FSB_LINK" at host COMMAND runs something on the other side
       FSB_LINK_PROFILE  wan-good, ...
       FSB_LINK_HOST, FSB_LINK_CLIENT                  the addresses of the two sides
       FSB_LINK_RTT_MS, FSB_LINK_MBIT, FSB_LINK_LOSS   what was asked for; the loss in percent
       FSB_LINK_NS_HOST, FSB_LINK_NS_CLIENT            files that setns() takes */
#ifndef FSB_LINK_H
#define FSB_LINK_H
#include "bench.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINK_HOST "192.0.2.1" /* RFC 5737: nobody has them; each link has namespaces of its own */
#define LINK_CLIENT "192.0.2.2"
enum { LINK_SKIP = 77 }; /* the link's exit status where it cannot be built */

/* Moves the calling thread, and what it starts from now on, to "host" or "client". 0 or -errno. */
static inline int link_join(const char *side)
{
    const char *path = getenv(side[0] == 'h' ? "FSB_LINK_NS_HOST" : "FSB_LINK_NS_CLIENT");
    const int   fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return path ? -errno : -ENOTCONN;
    const int err = setns(fd, CLONE_NEWNET) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

/* A bound socket (stream ones listen) on a free port of this side's address; -errno. */
static inline int link_socket(int type, const char *address, int *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t          size = sizeof in;
    const int          fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, address, &in.sin_addr);
    if (fd < 0 || bind(fd, (struct sockaddr *)&in, size) != 0 ||
        (type == SOCK_STREAM && listen(fd, 8) != 0) ||
        getsockname(fd, (struct sockaddr *)&in, &size) != 0)
        return -errno;
    *port = ntohs(in.sin_port);
    return fd;
}

static inline int link_connect(int type, const char *address, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    const int          fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, address, &in.sin_addr);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof in) == 0) return fd;
    const int err = -errno;
    if (fd >= 0) close(fd);
    return err;
}

/* Answers one connection with bytes, `count` of them, or until the peer leaves (0). */
static inline void link_send_stream(int listener, size_t count)
{
    static char bytes[1 << 16];
    const int   fd = accept(listener, NULL, NULL);
    for (size_t sent = 0; fd >= 0 && (!count || sent < count);) {
        const size_t  left = count ? count - sent : sizeof bytes;
        const ssize_t n =
            send(fd, bytes, left < sizeof bytes ? left : sizeof bytes, MSG_NOSIGNAL);
        if (n <= 0) break;
        sent += (size_t)n;
    }
    if (fd >= 0) close(fd);
}

/* Runs the bench `self`, with the options that it has, inside a link; `link` is its program. Its
   exit status; 0 also where there can be none, which is said. */
static inline int link_run(const char *link, const char *profile, const char *self)
{
    const char *argv[10] = {link, profile, "--", self};
    int         n = 4, status = 0;
    if (bench_.quick) argv[n++] = "--quick";
    if (bench_.json) argv[n++] = "--json";
    if (bench_.only) argv[n++] = "--case", argv[n++] = bench_.only;
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(LINK_SKIP);
    }
    waitpid(pid, &status, 0);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    if (status == LINK_SKIP)
        fprintf(stderr, "bench_%s: no link: %s is left out\n", bench_.name, profile);
    return status == LINK_SKIP ? 0 : status;
}

/* What congestion control a connection uses. */
static inline void link_congestion(int fd, char name[16])
{
    socklen_t size = 16;
    memset(name, 0, 16);
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) != 0) strcpy(name, "?");
}
#endif
