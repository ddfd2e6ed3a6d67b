/* fuzz_sftp.h - the SFTP backend beside a server that answers whatever it likes (make fuzz).

   An input is a list: u8 type, u16 size (little endian), bytes. Type 0: the next `size` requests
   are answered as they should be, and there are no bytes. 0xff: the bytes as they are. Else an
   answer of that type, with the id of the request that it answers (the first, to INIT, has none).
   Behind the last the server hangs up. Afterwards the backend must have given everything back. */
#define FSB_BACKEND_IMPLEMENTATION
#include "fsb_backend.h"
#include "test.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_server {
    const uint8_t *data;
    size_t         size, right; /* answers that are to be right */
    int            fds[2], calls, listed;
    pthread_t      thread;
} fuzz_server;

static int fuzz_send(fuzz_server *s, uint8_t type, const uint8_t *id, const void *bytes, size_t n)
{
    uint8_t      head[9];
    const size_t length = 1 + (id ? 4u : 0u) + n;
    for (int i = 0; i < 4; ++i) head[i] = (uint8_t)(length >> (24 - 8 * i));
    head[4] = type;
    if (id) memcpy(head + 5, id, 4);
    return wire_send(s->fds[1], head, id ? 9 : 5) == 0 && wire_send(s->fds[1], bytes, n) == 0;
}

#define FUZZ_ATTRS \
    "\0\0\0\xf" \
    "\0\0\0\0\0\0\0\x14" \
    "\0\0\0\0\0\0\0\0" \
    "\0\0\x81\xa4" \
    "\x65\0\0\0\x65\0\0\0"
#define FUZZ_SAYS(type, text) fuzz_send(s, type, id, text, sizeof text - 1)

/* What a server should say to a request of this kind. */
static int fuzz_right(fuzz_server *s, uint8_t kind, const uint8_t *id)
{
    switch (kind) {
    case 1: /* INIT: all extensions */
        return FUZZ_SAYS(2, "\0\0\0\3"
                            "\0\0\0\x18posix-rename@openssh.com\0\0\0\1" "1"
                            "\0\0\0\x14hardlink@openssh.com\0\0\0\1" "1"
                            "\0\0\0\x14lsetstat@openssh.com\0\0\0\1" "1"
                            "\0\0\0\x13statvfs@openssh.com\0\0\0\1" "2"
                            "\0\0\0\21fsync@openssh.com\0\0\0\1" "1"
                            "\0\0\0\x12limits@openssh.com\0\0\0\1" "1");
    case 3: case 11: return FUZZ_SAYS(102, "\0\0\0\4hand"); /* OPEN, OPENDIR */
    case 5: return FUZZ_SAYS(103, "\0\0\0\x14" "01234567890123456789"); /* READ */
    case 7: case 8: case 17: return FUZZ_SAYS(105, FUZZ_ATTRS); /* LSTAT, FSTAT, STAT */
    case 16: case 19: return FUZZ_SAYS(104, "\0\0\0\1\0\0\0\2/r\0\0\0\0\0\0\0\0");
    case 12: /* READDIR: once */
        if (s->listed++ % 2) return FUZZ_SAYS(101, "\0\0\0\1\0\0\0\0\0\0\0\0");
        return FUZZ_SAYS(104, "\0\0\0\2\0\0\0\1.\0\0\0\0" FUZZ_ATTRS
                              "\0\0\0\1n\0\0\0\0" FUZZ_ATTRS);
    default: return FUZZ_SAYS(101, "\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}

/* The next answer. 0 behind the last, or if the client left. */
static int fuzz_answer(fuzz_server *s, uint8_t kind, const uint8_t *id)
{
    if (s->right) return --s->right, fuzz_right(s, kind, id);
    if (s->size < 3) return 0;
    const uint8_t *item = s->data;
    const size_t   told = (size_t)item[1] | (size_t)item[2] << 8;
    const size_t   room = item[0] ? s->size - 3 : 0, n = told < room ? told : room;
    s->data += 3 + n, s->size -= 3 + n;
    if (!item[0]) s->right = told;
    if (!item[0]) return fuzz_answer(s, kind, id);
    return item[0] == 0xff ? wire_send(s->fds[1], item + 3, n) == 0
                           : fuzz_send(s, item[0], id, item + 3, n);
}

/* A client that asks nothing more waits for what was not sent. */
static void *fuzz_serve(void *arg)
{
    fuzz_server  *s = (fuzz_server *)arg;
    uint8_t       head[9];
    char          junk[4096];
    struct pollfd asks = {s->fds[1], POLLIN, 0};
    while (poll(&asks, 1, 20) > 0 && wire_recv(s->fds[1], head, 9) == 1) {
        size_t left = 0;
        for (int i = 0; i < 4; ++i) left = left << 8 | head[i];
        if (left < 5) break; /* INIT is as long */
        for (left -= 5; left;) {
            const size_t n = left < sizeof junk ? left : sizeof junk;
            if (wire_recv(s->fds[1], junk, n) != 1) break;
            left -= n;
        }
        if (left || !fuzz_answer(s, head[4], head[4] == 1 ? NULL : head + 5)) break;
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
