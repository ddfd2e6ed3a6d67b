/* test_chunk.c - the wire: conformance of a client over every kind of stream, and what breaks it. */
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "conformance.h"
#include "test.h"
#include <pthread.h>
#include <sys/socket.h>

/* A server of one share in this process, and a client of it over a socket pair. */
typedef struct pair {
    fsb_backend      *inner, *client;
    fsb_chunk_server *server;
    pthread_t         thread;
    int               fds[2];
} pair;

static void log_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user;
    if (getenv("FSB_TEST_VERBOSE")) fprintf(stderr, "%d %s: %s\n", (int)level, item, text);
}

static void *serve_main(void *arg)
{
    pair *p = (pair *)arg;
    (void)fsb_chunk_server_serve(p->server, p->fds[1], p->fds[1]);
    close(p->fds[1]);
    return NULL;
}

static int give_fds(void *user, int fds[2])
{
    fds[0] = fds[1] = ((pair *)user)->fds[0];
    return 0;
}

static int pair_open(pair *p, fsb_backend *inner, uint32_t rights)
{
    fsb_chunk_share       share = {"share", inner, rights};
    fsb_chunk_server_desc desc = {.shares = &share, .share_count = 1, .log = {log_line, NULL}};
    fsb_chunk_client_desc where = {.connect = give_fds, .user = p, .share = "share", .log = {log_line, NULL}};
    p->inner = inner;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p->fds) != 0) return -errno;
    int err = fsb_chunk_server_open(&p->server, &desc);
    if (err) return err;
    if (pthread_create(&p->thread, NULL, serve_main, p) != 0) return -EAGAIN;
    return fsb_chunk_client_open(&p->client, &where);
}

static void pair_close(pair *p)
{
    p->client->close(p->client);
    pthread_join(p->thread, NULL);
    fsb_chunk_server_close(p->server);
}

static void test_conformance_memory(void)
{
    fsb_memory_desc    d = {0};
    fsb_backend       *inner = NULL;
    pair               p;
    conformance_traits t = {.name = "chunk over memory", .can_chown = 1, .has_xattr = 1, .has_mknod = 1,
                            .has_sparse = 1, .has_punch = 1};
    REQUIRE(fsb_memory_open(&inner, &d) == 0);
    REQUIRE(pair_open(&p, inner, FSB_CHUNK_READ | FSB_CHUNK_WRITE) == 0);
    conformance_run(p.client, &t);
    pair_close(&p);
    inner->close(inner);
}

static void test_conformance_local(void)
{
    char               root[512];
    fsb_local_desc     d = {0};
    fsb_backend       *inner = NULL;
    pair               p;
    conformance_traits t = {.name = "chunk over local", .can_chown = geteuid() == 0, .has_xattr = 1,
                            .has_mknod = geteuid() == 0, .has_sparse = 1, .has_punch = 1};
    snprintf(root, sizeof root, "%s/local", test_dir());
    REQUIRE(mkdir(root, 0755) == 0);
    d.root = root;
    REQUIRE(fsb_local_open(&inner, &d) == 0);
    REQUIRE(pair_open(&p, inner, FSB_CHUNK_READ | FSB_CHUNK_WRITE) == 0);
    conformance_run(p.client, &t);
    pair_close(&p);
    inner->close(inner);
}

int main(int argc, char **argv)
{
    test_begin(argc, argv);
    TEST(test_conformance_memory);
    TEST(test_conformance_local);
    return test_end("test_chunk");
}
