/* fuzz_sftp.h - the SFTP backend beside a server that answers whatever it likes (make fuzz).

   An input is a list of answers: u8 type, u16 size (little endian), bytes. Each is sent with the id
   of the request that it answers, the first one, to INIT, with none; 0xff for a type: the bytes as
   they are, with no length before them. Behind the last the server hangs up. Afterwards the backend
   must have given everything back. */
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_backend.h"
#include "test.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_server {
    const uint8_t *data;
    size_t         size;
    int            fds[2], calls;
    pthread_t      thread;
} fuzz_server;

/* The next answer, for a request with this id. 0 behind the last, or if the client left. */
static int fuzz_answer(fuzz_server *s, const uint8_t id[4], int has_id)
{
    uint8_t head[9];
    if (s->size < 3) return 0;
    const size_t told = (size_t)s->data[1] | (size_t)s->data[2] << 8;
    const size_t n = told < s->size - 3 ? told : s->size - 3;
    const size_t length = 1 + (has_id ? 4u : 0u) + n;
    for (int i = 0; i < 4; ++i) head[i] = (uint8_t)(length >> (24 - 8 * i));
    head[4] = s->data[0];
    memcpy(head + 5, id, 4);
    if (s->data[0] != 0xff && wire_send(s->fds[1], head, has_id ? 9 : 5) != 0) return 0;
    if (wire_send(s->fds[1], s->data + 3, n) != 0) return 0;
    s->data += 3 + n, s->size -= 3 + n;
    return 1;
}

static void *fuzz_serve(void *arg)
{
    fuzz_server *s = (fuzz_server *)arg;
    uint8_t      head[9];
    char         junk[4096];
    for (int first = 1; wire_recv(s->fds[1], head, 9) == 1; first = 0) {
        size_t left = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
        if (left < 5) break; /* INIT is as long */
        for (left -= 5; left;) {
            const size_t n = left < sizeof junk ? left : sizeof junk;
            if (wire_recv(s->fds[1], junk, n) != 1) break;
            left -= n;
        }
        if (left || !fuzz_answer(s, head + 5, !first)) break;
    }
    shutdown(s->fds[1], SHUT_RDWR);
    return NULL;
}

static int fuzz_connect(void *user, int fds[2])
{
    fuzz_server *s = (fuzz_server *)user;
    if (s->calls++) return -ECONNREFUSED;
    fds[0] = fds[1] = s->fds[0];
    return 0;
}

static int fuzz_emit(fsb_op *op, const fsb_dirent *e)
{
    (void)op;
    if (strlen(e->name) != e->name_size || strchr(e->name, '/') || !strcmp(e->name, ".") ||
        !strcmp(e->name, ".."))
        abort();
    return 0;
}

static int64_t fuzz_call(fsb_backend *b, fsb_op op)
{
    static char buf[70000];
    op.path = op.path ? op.path : "/a", op.emit = fuzz_emit;
    op.data = "12345678", op.buf = buf;
    op.size = op.size ? op.size : 8;
    return b->call[op.code] ? b->call[op.code](b, &op) : -ENOSYS;
}

static void fuzz_calls(fsb_backend *b)
{
    static const uint32_t codes[] = {FSB_OP_STAT,   FSB_OP_LIST,   FSB_OP_READLINK, FSB_OP_MKDIR,
                                     FSB_OP_RENAME, FSB_OP_STATFS, FSB_OP_UNLINK,   FSB_OP_SETATTR,
                                     FSB_OP_GET,    FSB_OP_PUT,    FSB_OP_SYMLINK,  FSB_OP_LINK};
    fsb_op open = {.code = FSB_OP_OPEN, .path = "/f", .flags = FSB_O_READ | FSB_O_WRITE};
    if (b->call[FSB_OP_OPEN](b, &open) == 0) {
        fuzz_call(b, (fsb_op){.code = FSB_OP_READ, .handle = open.handle, .size = 70000});
        fuzz_call(b, (fsb_op){.code = FSB_OP_WRITE, .handle = open.handle});
        fuzz_call(b, (fsb_op){.code = FSB_OP_SYNC, .handle = open.handle});
        fuzz_call(b, (fsb_op){.code = FSB_OP_STAT, .handle = open.handle});
        fuzz_call(b, (fsb_op){.code = FSB_OP_CLOSE, .handle = open.handle});
    }
    for (size_t i = 0; i < sizeof codes / sizeof *codes; ++i)
        fuzz_call(b, (fsb_op){.code = codes[i], .path2 = "/b", .size64 = 4096,
                              .flags = codes[i] == FSB_OP_LIST ? FSB_LIST_STAT : 0,
                              .attr = {.mask = FSB_ATTR_MODE, .mode = 0600}});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    test_memory   memory = {0};
    fuzz_server   s = {.data = data, .size = size};
    fsb_backend  *b = NULL;
    fsb_sftp_desc d = {.connect = fuzz_connect, .user = &s, .root = "root", .timeout_ms = 2000,
                       .allocator = {test_memory_fn, &memory}};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.fds) != 0) abort();
    if (pthread_create(&s.thread, NULL, fuzz_serve, &s) != 0) abort();
    if (fsb_sftp_open(&b, &d) == 0) {
        fuzz_calls(b);
        b->close(b);
    }
    shutdown(s.fds[1], SHUT_RDWR);
    pthread_join(s.thread, NULL);
    close(s.fds[1]);
    if (memory.live || memory.wrong_size) abort();
    return 0;
}
