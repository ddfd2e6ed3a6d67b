/* link.c - an emulated network link, packet by packet, and a command that runs across it.

   Two network namespaces without names hold one TUN device each; every packet that leaves one
   device waits here for its turn on the wire, then for the delay, and enters the other. A
   direction is a wire of the given rate with a queue of one bandwidth-delay product before it: what
   finds the queue full is dropped, and random loss strikes behind it. Both directions are
   alike. The kernel's own emulator (netem) is a module that many kernels lack.

   `link --help` is the manual; link.h says what the command finds in its environment. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "bench.h"
#include "link.h"
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

static const char help[] =
    "Usage: link [options] PROFILE -- COMMAND [ARG...]\n"
    "       link at host|client COMMAND [ARG...]      inside: run on that side\n"
    "       link --check [--quick] [--json] [options] [PROFILE...]\n"
    "Run COMMAND on the client side of an emulated network link; its exit status is the link's.\n"
    "Whatever it leaves running on either side is ended with it.\n"
    "\n"
    "  PROFILE     round trip, rate, loss in each direction\n"
    "    lan         1 ms      1 Gbit/s\n"
    "    wan-good   50 ms    100 Mbit/s\n"
    "    wan-poor  150 ms     10 Mbit/s   1 %\n"
    "    wan-bad   300 ms      1 Mbit/s   5 %\n"
    "\n"
    "  --rtt MS --rate MBIT --loss PERCENT   in place of the profile's\n"
    "  --seed N           of the losses (default 1)\n"
    "  --congestion NAME  of TCP on both sides (default bbr where the kernel has it)\n"
    "  --check            measure the link itself: round trip, loss, goodput of one TCP stream\n"
    "  -v                 say at the end what happened to the packets\n"
    "\n"
    "It needs root and /dev/net/tun, else it ends with 77. The host side is " LINK_HOST
    ",\nthe client side " LINK_CLIENT ".\n"
    "\n"
    "  link wan-good -- sh -c '$FSB_LINK at host sshd ... & ping -c 3 $FSB_LINK_HOST'\n";

typedef struct profile {
    const char *name;
    double      rtt_ms, mbit, loss; /* loss in percent */
} profile;

static const profile profiles[] = {{"lan", 1, 1000, 0},
                                   {"wan-good", 50, 100, 0},
                                   {"wan-poor", 150, 10, 1},
                                   {"wan-bad", 300, 1, 5}};
enum {
    PROFILES = sizeof profiles / sizeof *profiles,
    MTU = 1500,
    LUMP = 16384,       /* bytes that the kernel may hand over at once where a packet takes 12 us */
    MOST = LUMP + 1024, /* one read from a device, with its virtio_net_hdr */
    LEAST_PACKETS = 16, /* that a queue holds, however short the link */
    STREAM = 4          /* so many packets on their way are a stream */
};
#define SLOT_NS INT64_C(20000) /* packets due so soon go with those due now */
#define LEAD_NS INT64_C(60000) /* sleeping is not more exact than that: the rest is spent awake */

typedef struct packet {
    int64_t due;
    size_t  at, size; /* in the wire's bytes */
} packet;

/* One direction. */
typedef struct wire {
    int      from, to; /* devices */
    double   ns_per_byte;
    int64_t  delay, queue; /* ns; the queue is as long as the wire needs to send it */
    int64_t  free_at;      /* when the last packet accepted has left for the other side */
    uint64_t loss;         /* in 2^-32 */
    uint64_t seed;
    char    *bytes; /* a ring; a packet is never split */
    size_t   room, head;
    packet  *packets; /* a ring: those on the wire */
    size_t   packets_room, first, count;
    uint64_t carried, dropped, lost, worst; /* packets; ns behind its time */
} wire;

static struct {
    profile     now;
    uint64_t    seed;
    const char *congestion, *self;
    int         verbose, lumps; /* lumps: packets come in segments to be cut later */
    int         home, sides[2]; /* namespaces: ours, host's, client's */
    wire        wires[2];       /* to the client, to the host */
    pid_t       child;
    int         signals, status, ended;
} link_;

static const char *const side_names[] = {"host", "client"};
static const char *const addresses[] = {LINK_HOST, LINK_CLIENT};

__attribute__((format(printf, 2, 3), noreturn)) static void end(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs(status == LINK_SKIP ? "SKIP link: " : "link: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(status);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- the kernel's tables --------------------------------------------------------------------- */

typedef struct request {
    struct nlmsghdr head;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
        struct rtmsg     route;
    } u;
    char attributes[256];
} request;

static request request_for(int type, int flags, size_t size)
{
    request r;
    memset(&r, 0, sizeof r);
    r.head.nlmsg_type = (unsigned short)type;
    r.head.nlmsg_flags = (unsigned short)(NLM_F_REQUEST | NLM_F_ACK | flags);
    r.head.nlmsg_len = (unsigned)NLMSG_LENGTH(size);
    return r;
}

static struct rtattr *put(request *r, int type, const void *value, size_t size)
{
    struct rtattr *a = (struct rtattr *)(void *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));
    a->rta_type = (unsigned short)type;
    a->rta_len = (unsigned short)RTA_LENGTH(size);
    if (size) memcpy(RTA_DATA(a), value, size);
    r->head.nlmsg_len = (unsigned)(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
    return a;
}

static int ask(const request *r) /* in the namespace of the caller; 0 or -errno */
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char            rest[1024];
    } answer;
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int       err = -EIO;
    if (fd >= 0 && send(fd, r, r->head.nlmsg_len, 0) >= 0 &&
        recv(fd, &answer, sizeof answer, 0) >= (ssize_t)NLMSG_LENGTH(sizeof answer.error) &&
        answer.head.nlmsg_type == NLMSG_ERROR)
        err = answer.error.error;
    if (fd >= 0) close(fd);
    return err;
}

static int raise_device(const char *name, int ours)
{
    const unsigned mtu = MTU, length = 10000, lump = LUMP; /* no drops but in our own queue */
    request        r = request_for(RTM_NEWLINK, 0, sizeof r.u.link);
    r.u.link.ifi_index = (int)if_nametoindex(name);
    r.u.link.ifi_flags = r.u.link.ifi_change = IFF_UP;
    if (ours) {
        put(&r, IFLA_MTU, &mtu, sizeof mtu);
        put(&r, IFLA_TXQLEN, &length, sizeof length);
        put(&r, IFLA_GSO_MAX_SIZE, &lump, sizeof lump);
    }
    return ask(&r);
}

static int add_address(const char *name, const char *address)
{
    struct in_addr in;
    request        r = request_for(RTM_NEWADDR, NLM_F_CREATE, sizeof r.u.address);
    inet_pton(AF_INET, address, &in);
    r.u.address.ifa_family = AF_INET, r.u.address.ifa_prefixlen = 32;
    r.u.address.ifa_index = if_nametoindex(name);
    put(&r, IFA_LOCAL, &in, sizeof in);
    return ask(&r);
}

/* The way to the other side. Congestion control is an attribute of it, because a namespace that is
   not the first may not choose its default everywhere. */
static int add_route(const char *name, const char *address, const char *congestion)
{
    struct in_addr in;
    const unsigned index = if_nametoindex(name);
    request        r = request_for(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof r.u.route);
    inet_pton(AF_INET, address, &in);
    r.u.route.rtm_family = AF_INET, r.u.route.rtm_dst_len = 32;
    r.u.route.rtm_table = RT_TABLE_MAIN, r.u.route.rtm_protocol = RTPROT_STATIC;
    r.u.route.rtm_scope = RT_SCOPE_LINK, r.u.route.rtm_type = RTN_UNICAST;
    put(&r, RTA_DST, &in, sizeof in);
    put(&r, RTA_OIF, &index, sizeof index);
    if (congestion) {
        struct rtattr *metrics = put(&r, RTA_METRICS, NULL, 0);
        put(&r, RTAX_CC_ALGO, congestion, strlen(congestion) + 1);
        metrics->rta_len =
            (unsigned short)((char *)&r + NLMSG_ALIGN(r.head.nlmsg_len) - (char *)metrics);
    }
    return ask(&r);
}

/* ---- the two sides --------------------------------------------------------------------------- */

static int open_device(char name[IFNAMSIZ])
{
    struct ifreq r;
    int          one = 1;
    const int    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    memset(&r, 0, sizeof r);
    strcpy(r.ifr_name, "link0");
    r.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (link_.lumps ? IFF_VNET_HDR : 0));
    if (fd < 0) end(LINK_SKIP, "no /dev/net/tun: %s", strerror(errno));
    if (ioctl(fd, TUNSETIFF, &r) != 0) end(LINK_SKIP, "no TUN device: %s", strerror(errno));
    if (link_.lumps &&
        (ioctl(fd, TUNSETVNETLE, &one) != 0 ||
         ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0))
        end(LINK_SKIP, "the TUN device takes no segments: %s", strerror(errno));
    memcpy(name, r.ifr_name, IFNAMSIZ);
    return fd;
}

/* Makes namespace and device of one side; returns the device. The caller stands there then. */
static int open_side(int side)
{
    char      name[IFNAMSIZ];
    const int made = unshare(CLONE_NEWNET);
    if (made != 0) end(LINK_SKIP, "no network namespace: %s (it needs root)", strerror(errno));
    link_.sides[side] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    const int fd = open_device(name);
    int       err = raise_device("lo", 0);
    if (!err) err = raise_device(name, 1);
    if (!err) err = add_address(name, addresses[side]);
    if (!err) err = add_route(name, addresses[!side], link_.congestion);
    if (err && link_.congestion) {
        link_.congestion = NULL;
        err = add_route(name, addresses[!side], NULL);
    }
    if (err) end(LINK_SKIP, "cannot configure %s: %s", name, strerror(-err));

    /* What one connection learned about the path must not help the next one. */
    const int metrics = open("/proc/sys/net/ipv4/tcp_no_metrics_save", O_WRONLY | O_CLOEXEC);
    if (metrics >= 0) {
        if (write(metrics, "1", 1) != 1) errno = 0;
        close(metrics);
    }
    return fd;
}

static void open_wire(wire *w, int from, int to, uint64_t seed)
{
    const double bytes_per_ns = link_.now.mbit / 8000;
    w->from = from, w->to = to;
    w->ns_per_byte = 1 / bytes_per_ns;
    w->delay = (int64_t)(link_.now.rtt_ms * 5e5);
    w->queue = 2 * w->delay;
    if (w->queue < (int64_t)(LEAST_PACKETS * MTU * w->ns_per_byte))
        w->queue = (int64_t)(LEAST_PACKETS * MTU * w->ns_per_byte);
    w->loss = (uint64_t)(link_.now.loss / 100 * 4294967296.0);
    w->seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->room = (size_t)((double)(w->queue + w->delay) * bytes_per_ns) * 2 + 64 * MOST;
    w->packets_room = w->room / 32;
    w->bytes = (char *)malloc(w->room);
    w->packets = (packet *)malloc(w->packets_room * sizeof *w->packets);
    if (!w->bytes || !w->packets) end(1, "out of memory");
}

static void open_link(void)
{
    link_.lumps = link_.now.mbit >= 500 && link_.now.loss <= 0;
    link_.home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    const int host = open_side(0), client = open_side(1);
    if (link_.home < 0 || setns(link_.home, CLONE_NEWNET) != 0) end(1, "cannot leave");
    open_wire(&link_.wires[0], host, client, link_.seed);
    open_wire(&link_.wires[1], client, host, link_.seed + 0x10001);
}

static void close_link(void)
{
    for (int i = 0; i < 2; ++i) {
        free(link_.wires[i].bytes);
        free(link_.wires[i].packets);
        close(link_.wires[i].from);
        close(link_.sides[i]);
    }
    close(link_.home);
    close(link_.signals);
    memset(link_.wires, 0, sizeof link_.wires);
}

/* ---- packets --------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) /* xorshift64*; the upper bits are the good ones */
{
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d) >> 32;
}

/* What it takes on the wire; the headers of a lump come once, but are sent with each segment. */
static double bytes_on_wire(const char *bytes, size_t size)
{
    struct virtio_net_hdr h;
    if (!link_.lumps) return (double)size;
    memcpy(&h, bytes, sizeof h);
    size -= sizeof h;
    const size_t tcp = sizeof h + h.csum_start + 12; /* where TCP says how long its header is */
    if (h.gso_type == VIRTIO_NET_HDR_GSO_NONE || !h.gso_size || tcp >= size) return (double)size;
    const size_t headers = h.csum_start + (size_t)((unsigned char)bytes[tcp] >> 4) * 4;
    const size_t segments = (size - headers + h.gso_size - 1) / h.gso_size;
    return (double)(size + (segments - 1) * headers);
}

/* Where the next packet may be read to, or NULL: MOST bytes in one piece, behind all others. */
static char *room_for_packet(wire *w)
{
    if (!w->count) w->head = 0;
    if (w->count == w->packets_room) return NULL;
    const size_t oldest = w->count ? w->packets[w->first].at : w->room;
    if (w->head <= oldest && w->count && w->packets[w->first].at >= w->head)
        return oldest - w->head > MOST ? w->bytes + w->head : NULL;
    if (w->room - w->head < MOST) {
        if (oldest <= MOST) return NULL;
        w->head = 0;
    }
    return w->bytes + w->head;
}

/* Reads one packet into the queue, drops it, or loses it. 0: there is none. */
static int take(wire *w)
{
    static char   nowhere[MOST];
    char         *room = room_for_packet(w), *p = room ? room : nowhere;
    const ssize_t n = read(w->from, p, MOST);
    if (n <= 0) return 0;
    const int64_t now = now_ns(), free_at = w->free_at > now ? w->free_at : now;
    const int64_t left = free_at + (int64_t)(bytes_on_wire(p, (size_t)n) * w->ns_per_byte);
    if (!room || left - now > w->queue) {
        ++w->dropped;
        return 1;
    }
    w->free_at = left;
    if (w->loss && next_random(&w->seed) < w->loss) {
        ++w->lost;
        return 1;
    }
    packet *k = &w->packets[(w->first + w->count++) % w->packets_room];
    k->due = left + w->delay, k->at = (size_t)(p - w->bytes), k->size = (size_t)n;
    w->head = k->at + k->size;
    return 1;
}

/* Hands over what is due; returns when the next one is. */
static int64_t deliver(wire *w, int64_t now)
{
    while (w->count) {
        const packet *k = &w->packets[w->first];
        if (k->due > now + (w->count > 1 ? SLOT_NS : 0)) return k->due;
        if (now - k->due > (int64_t)w->worst) w->worst = (uint64_t)(now - k->due);
        if (write(w->to, w->bytes + k->at, k->size) == (ssize_t)k->size) ++w->carried;
        else ++w->dropped;
        w->first = (w->first + 1) % w->packets_room;
        --w->count;
    }
    return INT64_MAX;
}

/* Reaps whoever ended; orphans of the command became ours. */
static void on_signal(void)
{
    struct signalfd_siginfo info;
    pid_t                   pid;
    int                     status;
    while (read(link_.signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD && link_.child > 0) kill(link_.child, (int)info.ssi_signo);
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != link_.child) continue;
        link_.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        link_.child = 0, link_.ended = 1;
    }
}

/* Sleeping ends some 50 us late, so the last stretch before a packet is due is spent awake; but
   not for one in a stream, where it would cost a core and change nothing. */
static void carry_packets(void)
{
    const wire   *w = link_.wires;
    struct pollfd fds[] = {
        {w[0].from, POLLIN, 0}, {w[1].from, POLLIN, 0}, {link_.signals, POLLIN, 0}};
    while (!link_.ended) {
        const int64_t now = now_ns(), a = deliver(&link_.wires[0], now),
                      b = deliver(&link_.wires[1], now), next = a < b ? a : b;
        const int64_t left = next == INT64_MAX ? 1000000000 : next > now ? next - now : 0;
        const int     alone = w[0].count + w[1].count < STREAM;
        if (!alone || left > LEAD_NS) {
            const int64_t   wait = alone ? left - LEAD_NS : left;
            struct timespec t = {wait / 1000000000, wait % 1000000000};
            if (ppoll(fds, 3, &t, NULL) > 0 && fds[2].revents) on_signal();
        }
        for (int i = 0; i < 2; ++i)
            for (int n = 0; n < 64 && take(&link_.wires[i]); ++n) {}
    }
}

/* ---- the command ----------------------------------------------------------------------------- */

static void set_number(const char *name, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%g", value);
    setenv(name, text, 1);
}

static void set_environment(void)
{
    char path[64];
    for (int i = 0; i < 2; ++i) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), link_.sides[i]);
        setenv(i ? "FSB_LINK_NS_CLIENT" : "FSB_LINK_NS_HOST", path, 1);
        setenv(i ? "FSB_LINK_CLIENT" : "FSB_LINK_HOST", addresses[i], 1);
    }
    setenv("FSB_LINK", link_.self, 1);
    setenv("FSB_LINK_PROFILE", link_.now.name, 1);
    set_number("FSB_LINK_RTT_MS", link_.now.rtt_ms);
    set_number("FSB_LINK_MBIT", link_.now.mbit);
    set_number("FSB_LINK_LOSS", link_.now.loss);
}

/* Ends whatever the command left behind: TERM, then, after two seconds, KILL. */
static void end_orphans(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (int i = 0; i < 300; ++i) {
        FILE *f = fopen(path, "r");
        int   pid = 0, any = 0;
        while (f && fscanf(f, "%d", &pid) == 1) {
            if (i == 0 || i >= 200) kill(pid, i < 200 ? SIGTERM : SIGKILL);
            any = 1;
        }
        if (f) fclose(f);
        if (!any) break;
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        usleep(10000);
    }
}

/* Starts `inside` on the client side and carries packets until it ended; returns its status. */
static int run(int (*inside)(void *), void *arg)
{
    const struct sched_param urgent = {.sched_priority = 1};
    sigset_t                 set, before;
    open_link();
    set_environment();
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD), sigaddset(&set, SIGTERM), sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP), sigaddset(&set, SIGQUIT);
    sigprocmask(SIG_BLOCK, &set, &before);
    link_.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    link_.ended = 0;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    fflush(NULL);
    if ((link_.child = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (setns(link_.sides[1], CLONE_NEWNET) != 0) end(126, "no client side");
        const int status = inside(arg);
        fflush(NULL);
        _exit(status);
    }
    if (link_.child < 0) end(1, "cannot fork: %s", strerror(errno));
    prctl(PR_SET_TIMERSLACK, 1UL);
    sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &urgent); /* good if it is allowed */
    carry_packets();
    end_orphans();
    sigprocmask(SIG_SETMASK, &before, NULL);
    for (int i = 0; i < 2 && link_.verbose; ++i) {
        const wire *w = &link_.wires[i];
        fprintf(stderr,
                "link: to the %s: %llu packets carried, %llu dropped by the queue, %llu lost, at "
                "worst %.3f ms late\n",
                side_names[!i], (unsigned long long)w->carried, (unsigned long long)w->dropped,
                (unsigned long long)w->lost, (double)w->worst / 1e6);
    }
    close_link();
    return link_.status;
}

static int run_command(void *arg)
{
    char **argv = (char **)arg;
    execvp(argv[0], argv);
    fprintf(stderr, "link: cannot run %s: %s\n", argv[0], strerror(errno));
    return errno == ENOENT ? 127 : 126;
}

/* ---- measuring the link itself --------------------------------------------------------------- */

enum { MOST_PINGS = 100, DATAGRAM = 100 };

typedef struct check {
    int udp, udp_port, tcp, tcp_port; /* of the host side */
} check;

/* The host side: 'p' comes back, 'l' is counted, 'q' asks for the count. */
static void check_answer(const check *c)
{
    struct pollfd      fds[] = {{c->udp, POLLIN, 0}, {c->tcp, POLLIN, 0}};
    struct sockaddr_in from;
    char               text[DATAGRAM];
    int                counted = 0;
    while (poll(fds, 2, -1) > 0) {
        if (fds[1].revents) link_send_stream(c->tcp, 0);
        if (!fds[0].revents) continue;
        socklen_t     size = sizeof from;
        const ssize_t n = recvfrom(c->udp, text, sizeof text, 0, (struct sockaddr *)&from, &size);
        if (n < 1) continue;
        if (text[0] == 'l') {
            ++counted;
            continue;
        }
        if (text[0] == 'q') memcpy(text + 1, &counted, sizeof counted);
        sendto(c->udp, text, (size_t)n, 0, (struct sockaddr *)&from, size);
    }
    _exit(0);
}

static int check_wait(int fd, double seconds)
{
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, (int)(seconds * 1000) + 1) > 0;
}

static int check_round_trips(const check *c, double *ms, int wanted)
{
    const int fd = link_connect(SOCK_DGRAM, LINK_HOST, c->udp_port);
    int       got = 0;
    for (int i = 0; i < 4 * wanted && got < wanted; ++i) {
        char         text[64] = "p";
        const double start = bench_now();
        memcpy(text + 1, &i, sizeof i);
        if (send(fd, text, sizeof text, 0) < 0) break;
        while (check_wait(fd, 0.01 + 3e-3 * link_.now.rtt_ms)) {
            int which = -1;
            if (recv(fd, text, sizeof text, 0) > 0) memcpy(&which, text + 1, sizeof which);
            if (which == i) {
                ms[got++] = 1e3 * (bench_now() - start);
                break;
            }
        }
        usleep(2000);
    }
    close(fd);
    return got;
}

/* Percent of `count` datagrams to the host that did not arrive, sent at a third of the rate. */
static double check_loss(const check *c, int count)
{
    const int    fd = link_connect(SOCK_DGRAM, LINK_HOST, c->udp_port);
    char         text[DATAGRAM] = "l";
    const double gap = 3 * 8.0 * (DATAGRAM + 28) / (1e6 * link_.now.mbit), start = bench_now();
    int          arrived = -1;
    for (int i = 0; i < count; ++i) {
        const double early = start + i * (gap > 1e-4 ? gap : 1e-4) - bench_now();
        if (early > 0) usleep((useconds_t)(1e6 * early));
        if (send(fd, text, sizeof text, 0) < 0) --i;
    }
    usleep((useconds_t)(1000 * link_.now.rtt_ms));
    for (int i = 0; i < 50 && arrived < 0; ++i) {
        text[0] = 'q';
        send(fd, text, sizeof text, 0);
        if (check_wait(fd, 0.01 + 2e-3 * link_.now.rtt_ms) && recv(fd, text, sizeof text, 0) > 0)
            memcpy(&arrived, text + 1, sizeof arrived);
    }
    close(fd);
    return 100.0 * (count - arrived) / count;
}

static double cpu_of_link(void) /* seconds */
{
    char          text[1024] = "", path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)getppid());
    FILE *f = fopen(path, "r");
    if (f && fgets(text, sizeof text, f) && strrchr(text, ')'))
        sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
               &system);
    if (f) fclose(f);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Megabit a second that an application sees of one stream, once it is up to speed. */
static double check_stream(const check *c, double seconds, char congestion[16], double *cpu)
{
    static char bytes[1 << 18];
    const int   fd = link_connect(SOCK_STREAM, LINK_HOST, c->tcp_port);
    double      start = bench_now(), begin = 0, now = start, used = 0;
    size_t      total = 0;
    ssize_t     n;
    if (fd < 0) end(1, "no stream: %s", strerror(-fd));
    link_congestion(fd, congestion);
    while ((n = recv(fd, bytes, sizeof bytes, 0)) > 0) {
        now = bench_now();
        if (!begin && now - start > seconds / 2) begin = now, used = cpu_of_link();
        else if (begin) total += (size_t)n;
        if (now - start > seconds) break;
    }
    *cpu = 100 * (cpu_of_link() - used) / (now - begin);
    close(fd);
    return begin && now > begin ? 8e-6 * (double)total / (now - begin) : 0;
}

static int check_inside(void *arg)
{
    check         c = {0};
    const profile p = link_.now;
    double        ms[MOST_PINGS], cpu = 0, nominal = p.rtt_ms;
    char          name[64], congestion[16];
    (void)arg;
    if (link_join("host") != 0) return 1;
    c.udp = link_socket(SOCK_DGRAM, LINK_HOST, &c.udp_port);
    c.tcp = link_socket(SOCK_STREAM, LINK_HOST, &c.tcp_port);
    if (c.udp < 0 || c.tcp < 0) return 1;
    const pid_t host = fork();
    if (host == 0) check_answer(&c);
    if (host < 0 || link_join("client") != 0) return 1;

    const int pings = check_round_trips(&c, ms, bench_.quick ? 20 : MOST_PINGS);
    snprintf(name, sizeof name, "%s round trip", p.name);
    bench_latencies(name, ms, pings, "ms", "nominal", &nominal, 1, "UDP");
    const double loss = check_loss(&c, bench_.quick ? 1000 : 4000);
    snprintf(name, sizeof name, "%s loss, one way", p.name);
    bench_row(name, &loss, 1, "%", "nominal", &p.loss, 1, BENCH_LESS, "UDP, a third of the rate");
    const double longest = (bench_.quick ? 0.03 : 0.1) * p.rtt_ms, least = bench_.quick ? 3 : 6;
    const double rate = check_stream(&c, longest > least ? longest : least, congestion, &cpu);
    const double most = p.mbit * 1448 / MTU;
    snprintf(name, sizeof name, "%s goodput of TCP", p.name);
    bench_row(name, &rate, 1, "Mbit/s", "1448/1500 of rate", &most, 1, BENCH_MORE, congestion);
    snprintf(name, sizeof name, "%s CPU meanwhile", p.name);
    bench_row(name, &cpu, 1, "%", "", NULL, 0, BENCH_LESS, "of one core, by the emulator");
    kill(host, SIGKILL);
    return waitpid(host, NULL, 0) == host ? 0 : 1;
}

/* ---- the program ----------------------------------------------------------------------------- */

static const profile *find_profile(const char *name)
{
    for (int i = 0; i < PROFILES; ++i)
        if (strcmp(profiles[i].name, name) == 0) return &profiles[i];
    return NULL;
}

static double number(const char *option, const char *text, double least, double most)
{
    char        *rest = NULL;
    const double value = text ? strtod(text, &rest) : 0;
    if (!text || rest == text || *rest || !(value >= least && value <= most))
        end(2, "%s: '%s' is no number from %g to %g", option, text ? text : "", least, most);
    return value;
}

typedef struct options {
    double      rtt, mbit, loss; /* below 0: the profile's */
    int         checks, count;
    const char *names[PROFILES];
    char      **command;
} options;

static void parse_options(options *o, int argc, char **argv)
{
    o->rtt = o->mbit = o->loss = -1;
    for (int i = 1; i < argc; ++i) {
        const char *a = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--") == 0) {
            o->command = argv + i + 1;
            break;
        }
        if (strcmp(a, "--rtt") == 0) ++i, o->rtt = number(a, next, 0.01, 100000);
        else if (strcmp(a, "--rate") == 0) ++i, o->mbit = number(a, next, 0.01, 100000);
        else if (strcmp(a, "--loss") == 0) ++i, o->loss = number(a, next, 0, 100);
        else if (strcmp(a, "--seed") == 0) ++i, link_.seed = (uint64_t)number(a, next, 0, 1e15);
        else if (strcmp(a, "--congestion") == 0 && next) ++i, link_.congestion = next;
        else if (strcmp(a, "--check") == 0) o->checks = 1;
        else if (strcmp(a, "--quick") == 0) bench_.quick = 1;
        else if (strcmp(a, "--json") == 0) bench_.json = 1;
        else if (strcmp(a, "-v") == 0) link_.verbose = 1;
        else if (strcmp(a, "--help") == 0) {
            fputs(help, stdout);
            exit(0);
        } else if (o->count < PROFILES && find_profile(a)) o->names[o->count++] = a;
        else end(2, "'%s' is no option and no profile; try link --help", a);
    }
    if (!o->checks && (o->count != 1 || !o->command || !o->command[0]))
        end(2, "a profile and a command are needed: link wan-good -- COMMAND; try link --help");
    if (o->checks && o->command) end(2, "--check runs no command");
}

static void choose(const options *o, const char *name)
{
    link_.now = *find_profile(name);
    if (o->rtt >= 0) link_.now.rtt_ms = o->rtt;
    if (o->mbit >= 0) link_.now.mbit = o->mbit;
    if (o->loss >= 0) link_.now.loss = o->loss;
}

int main(int argc, char **argv)
{
    static char self[4096];
    options     o = {0};
    if (argc > 1 && strcmp(argv[1], "at") == 0) {
        if (argc < 4 || (strcmp(argv[2], "host") != 0 && strcmp(argv[2], "client") != 0))
            end(2, "at host|client COMMAND; try link --help");
        const int err = link_join(argv[2]);
        if (err) end(1, "cannot go to the %s side: %s", argv[2], strerror(-err));
        return run_command(argv + 3);
    }
    bench_.name = "link";
    link_.seed = 1, link_.congestion = "bbr";
    parse_options(&o, argc, argv);
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    link_.self = n > 0 ? self : argv[0];
    if (!o.checks) {
        choose(&o, o.names[0]);
        return run(run_command, o.command);
    }
    const int all = bench_.quick ? PROFILES - 1 : PROFILES; /* the last one takes its time */
    int       failed = 0;
    for (int i = 0; i < (o.count ? o.count : all); ++i) {
        choose(&o, o.count ? o.names[i] : profiles[i].name);
        failed |= run(check_inside, NULL);
    }
    return failed;
}
