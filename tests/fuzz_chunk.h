/* fuzz_chunk.h - a server and a client that are fed whatever comes: make fuzz. What it began with,
   and what it once found, is in fuzz/chunk/ and replayed by test_fuzz.c.

   The first byte of an input says who is fed with the rest: even the server, that has heard hello
   if bit 1 is set, odd the client. Unless bit 2 is set the frames' checksums are put right first:
   no mutation would get past them. Afterwards both must have given everything back. */
#define FSB_IMPLEMENTATION
#include "fsb_backend.h"
#include "fsb_chunk.h"
#include "test.h"
#include "wire.h"
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct stream {
    const uint8_t *data;
    size_t         size;
    int            fds[2];
    int            hello;
    pthread_t      thread;
} stream;

static void seal(uint8_t *p, size_t size)
{
    while (size >= 32) {
        const size_t meta = wire_get(p + 4, 4), data = wire_get(p + 8, 4);
        if (meta > size - 32 || data > size - 32 - meta) return;
        const uint32_t crc = wire_crc(wire_crc(0, p, 28), p + 32, meta);
        for (int i = 0; i < 4; ++i) p[28 + i] = (uint8_t)(crc >> (8 * i));
        p += 32 + meta + data, size -= 32 + meta + data;
    }
}

/* The other side: sends the bytes, takes whatever comes, and leaves. */
static void *feed(void *arg)
{
    stream              *s = (stream *)arg;
    static unsigned char room[1024];
    char                 junk[4096];
    const size_t         n = s->hello == 1 ? wire_hello(room, "share", 1, 1)
        : s->hello == 2                    ? wire_hello_answer(room)
                                           : 0;
    if (wire_send(s->fds[1], room, n) == 0) (void)wire_send(s->fds[1], s->data, s->size);
    shutdown(s->fds[1], SHUT_WR);
    while (recv(s->fds[1], junk, sizeof junk, 0) > 0) {}
    return NULL;
}

static int give(void *user, int fds[2])
{
    fds[0] = fds[1] = ((stream *)user)->fds[0];
    return 0;
}

static void feed_server(stream *s, const fsb_allocator *a)
{
    fsb_backend          *inner = NULL;
    fsb_chunk_server     *server = NULL;
    fsb_chunk_share       share = {"share", NULL, FSB_CHUNK_READ | FSB_CHUNK_WRITE};
    fsb_chunk_server_desc d = {.shares = &share, .share_count = 1, .allocator = *a,
                               .max_bytes = 4 << 20, .max_handles = 8, .max_locks = 8};
    fsb_op put = {.code = FSB_OP_PUT, .path = "/f", .flags = FSB_O_WRITE | FSB_O_CREATE,
                  .data = "0123456789", .size = 10};
    if (fsb_memory_open(&inner, NULL) != 0) abort();
    fsb_backend_call(inner, &put);
    share.backend = inner;
    if (fsb_chunk_server_open(&server, &d) != 0) abort();
    (void)fsb_chunk_server_serve(server, s->fds[0], s->fds[0]);
    close(s->fds[0]);
    fsb_chunk_server_close(server);
    inner->close(inner);
}

static int emit(fsb_op *op, const fsb_dirent *e)
{
    (void)op;
    if (strlen(e->name) != e->name_size || strchr(e->name, '/')) abort();
    return 0;
}

static void answered(fsb_op *op)
{
    const uint8_t *bytes = (const uint8_t *)op->slice.data;
    unsigned       sum = 0;
    if (op->slice.size > op->size) abort();
    for (size_t i = 0; i < op->slice.size; ++i) sum += bytes[i];
    if (sum == 0xffffffff || op->user) abort(); /* the bytes can be read; and it comes once */
    op->user = op;
}

static int output(fsb_op *op, int fd, const void *data, size_t size)
{
    (void)op, (void)data;
    if (fd < 1 || fd > 2 || !size) abort();
    return 0;
}

static void happened(void *user, const fsb_event *e)
{
    (void)user;
    if (e->path && strlen(e->path) > FSB_PATH_MAX) abort();
}

/* Every call there is, each asked once; DESCRIPTOR never goes on the wire. */
static void feed_client(stream *s, const fsb_allocator *a)
{
    static fsb_op         ops[FSB_OP_DESCRIPTOR];
    fsb_op               *list[FSB_OP_DESCRIPTOR];
    const char *const     argv[] = {"true", NULL};
    fsb_exec              exec = {.argv = argv, .output = output};
    fsb_backend          *b = NULL;
    fsb_chunk_client_desc d = {.connect = give, .user = s, .share = "share", .allocator = *a,
                               .timeout_ms = 5000};
    static const uint32_t first[8] = {FSB_OP_STAT, FSB_OP_LIST,     FSB_OP_OPEN,   FSB_OP_READ,
                                      FSB_OP_LOCK, FSB_OP_GETXATTR, FSB_OP_STATFS, FSB_OP_WRITE};
    size_t n = 0;
    if (fsb_chunk_client_open(&b, &d) != 0) return;
    for (uint32_t i = 0; n < FSB_OP_DESCRIPTOR - 1; ++i) { /* these as the first seeds have it */
        uint32_t code = i < 8 ? first[i] : i - 7;
        for (int k = 0; i >= 8 && k < 8; ++k)
            if (code == first[k]) code = 0;
        if (!code) continue;
        ops[n] = (fsb_op){.code = code, .path = "/a", .path2 = "user.x", .size = 8, .emit = emit,
                          .data = "12345678", .done = answered, .event = happened};
        if (code == FSB_OP_RENAME || code == FSB_OP_LINK) ops[n].path2 = "/b";
        if (code == FSB_OP_LIST) ops[n].flags = FSB_LIST_STAT | FSB_LIST_DATA | FSB_LIST_DEEP;
        if (code == FSB_OP_READ || code == FSB_OP_WRITE || code == FSB_OP_LOCK ||
            code == FSB_OP_ALLOCATE || code == FSB_OP_SEEK || code == FSB_OP_COPY ||
            code == FSB_OP_CLOSE)
            ops[n].handle = ops[n].handle2 = 1;
        if (code == FSB_OP_EXEC) ops[n].exec = &exec;
        if (code == FSB_OP_WATCH)
            ops[n].path = "/", ops[n].flags = FSB_WATCH_HELD | FSB_WATCH_DEEP;
        list[n] = &ops[n], ++n;
    }
    b->submit(b, list, n);
    b->close(b);
    for (size_t i = 0; i < n; ++i)
        if (!ops[i].user) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    test_memory   memory = {0};
    fsb_allocator a = {test_memory_fn, &memory};
    stream        s = {0};
    if (!size) return 0;
    const int client = data[0] & 1;
    uint8_t *copy = (uint8_t *)malloc(size);
    memcpy(copy, data, size);
    if (!(data[0] & 4)) seal(copy + 1, size - 1);
    s.data = copy + 1, s.size = size - 1;
    s.hello = client ? 2 : data[0] & 2 ? 1 : 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.fds) != 0) abort();
    if (pthread_create(&s.thread, NULL, feed, &s) != 0) abort();
    if (client) feed_client(&s, &a);
    else feed_server(&s, &a);
    pthread_join(s.thread, NULL);
    close(s.fds[1]);
    free(copy);
    if (memory.live || memory.wrong_size) abort();
    return 0;
}
