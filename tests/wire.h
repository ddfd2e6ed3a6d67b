/* wire.h - frames of fsb_chunk.h made by hand, from its documentation and not from its code. */
#ifndef FSB_TEST_WIRE_H
#define FSB_TEST_WIRE_H
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_HELLO = 0x100, WIRE_CANCEL = 0x101, WIRE_EVENT = 0x102, WIRE_SEEN = 0x103,
       WIRE_MAX = 32 + (16 << 10) + (1 << 20) + 8 };

typedef struct wire {
    unsigned char *at;
    size_t         n;
} wire;

static inline void wire_int(wire *w, uint64_t v, size_t size)
{
    for (size_t i = 0; i < size; ++i) w->at[w->n++] = (unsigned char)(v >> (8 * i));
}

static inline void wire_bytes(wire *w, const void *bytes, size_t size)
{
    if (size) memcpy(w->at + w->n, bytes, size);
    w->n += size;
}

static inline void wire_text(wire *w, const char *text)
{
    wire_int(w, text ? strlen(text) + 1 : 0, 2);
    if (text) wire_bytes(w, text, strlen(text) + 1);
}

static inline void wire_attr(wire *w, uint32_t mask, uint32_t mode)
{
    wire_int(w, mask, 4), wire_int(w, mode, 4);
    for (int i = 0; i < 10; ++i) wire_int(w, 0, 4);
}

static inline uint64_t wire_get(const unsigned char *p, size_t size)
{
    uint64_t v = 0;
    while (size--) v = v << 8 | p[size];
    return v;
}

static inline uint32_t wire_crc(uint32_t crc, const unsigned char *p, size_t size)
{
    crc = ~crc;
    while (size--) {
        crc ^= *p++;
        for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* A frame at `to`: the meta, padded, then data. Returns its size. */
static inline size_t wire_frame(unsigned char *to, unsigned op, unsigned flags, uint64_t tag,
                                int32_t status, const wire *meta, const void *data, size_t size)
{
    static const unsigned char zeros[8];
    const size_t               used = meta ? meta->n : 0, padded = (used + 7) / 8 * 8;
    unsigned char              copy[20 << 10];
    wire                       w = {to, 0};
    if (used) memcpy(copy, meta->at, used);
    wire_bytes(&w, "FSB1", 4);
    wire_int(&w, padded, 4), wire_int(&w, size, 4), wire_int(&w, op, 2), wire_int(&w, flags, 2);
    wire_int(&w, tag, 8), wire_int(&w, (uint32_t)status, 4), wire_int(&w, 0, 4);
    if (used) wire_bytes(&w, copy, used);
    wire_bytes(&w, zeros, padded - used);
    wire c = {to + 28, 0};
    wire_int(&c, wire_crc(wire_crc(0, to, 28), to + 32, padded), 4);
    wire_bytes(&w, data, size);
    return w.n;
}

/* All of it, whatever the peer does; 0 or -1 if that ended. */
static inline int wire_send(int fd, const void *bytes, size_t size)
{
    const char *p = (const char *)bytes;
    while (size) {
        const ssize_t n = send(fd, p, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        p += n, size -= (size_t)n;
    }
    return 0;
}

/* size bytes within 20 s: 1; the peer ended: 0; nothing came: -1. */
static inline int wire_recv(int fd, void *to, size_t size)
{
    char *p = (char *)to;
    while (size) {
        struct pollfd w = {fd, POLLIN, 0};
        if (poll(&w, 1, 20000) <= 0) return -1;
        const ssize_t n = recv(fd, p, size, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        p += n, size -= (size_t)n;
    }
    return 1;
}

typedef struct wire_answer {
    unsigned             op, flags;
    uint64_t             tag;
    int32_t              status;
    size_t               meta_size, data_size;
    const unsigned char *meta, *data;
} wire_answer;

/* The next frame into room (WIRE_MAX bytes); as wire_recv(), -2 if it is none. */
static inline int wire_next(int fd, unsigned char *room, wire_answer *a)
{
    int ok = wire_recv(fd, room, 32);
    if (ok != 1) return ok;
    a->meta_size = wire_get(room + 4, 4), a->data_size = wire_get(room + 8, 4);
    a->op = (unsigned)wire_get(room + 12, 2), a->flags = (unsigned)wire_get(room + 14, 2);
    a->tag = wire_get(room + 16, 8), a->status = (int32_t)wire_get(room + 24, 4);
    a->meta = room + 32, a->data = a->meta + a->meta_size;
    if (memcmp(room, "FSB1", 4) != 0 || 32 + a->meta_size + a->data_size > WIRE_MAX) return -2;
    ok = wire_recv(fd, room + 32, a->meta_size + a->data_size);
    if (ok != 1) return ok;
    return wire_crc(wire_crc(0, room, 28), a->meta, a->meta_size) == wire_get(room + 28, 4) ? 1
                                                                                            : -2;
}

/* ---- requests: each writes a whole frame to `to` ---- */

static inline size_t wire_hello(unsigned char *to, const char *share, unsigned low, unsigned high)
{
    unsigned char room[512], id[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    wire          m = {room, 0};
    wire_int(&m, low, 2), wire_int(&m, high, 2), wire_int(&m, 0, 4);
    wire_bytes(&m, id, 16);
    wire_text(&m, share);
    return wire_frame(to, WIRE_HELLO, 0, 0, 0, &m, NULL, 0);
}

static inline size_t wire_hello_answer(unsigned char *to)
{
    unsigned char room[32];
    wire          m = {room, 0};
    wire_int(&m, 1, 2), wire_int(&m, 3, 2), wire_int(&m, 256, 4);
    wire_int(&m, 0x1122334455667788u, 8), wire_int(&m, 0x3ffffffe, 8);
    wire_int(&m, 1 << 20, 4), wire_int(&m, 0, 4);
    return wire_frame(to, WIRE_HELLO, 1, 0, 0, &m, NULL, 0);
}

static inline size_t wire_stat(unsigned char *to, uint64_t tag, const char *path)
{
    unsigned char room[16 << 10];
    wire          m = {room, 0};
    wire_int(&m, 0, 8), wire_int(&m, 0, 8);
    wire_text(&m, path);
    return wire_frame(to, 1, 0, tag, 0, &m, NULL, 0);
}

static inline size_t wire_open(unsigned char *to, uint64_t tag, const char *path, uint32_t flags)
{
    unsigned char room[16 << 10];
    wire          m = {room, 0};
    wire_int(&m, flags, 4), wire_int(&m, 0, 8), wire_int(&m, 0, 4);
    wire_attr(&m, 1, 0644);
    wire_text(&m, path);
    return wire_frame(to, 4, 0, tag, 0, &m, NULL, 0);
}

static inline size_t wire_read(unsigned char *to, uint64_t tag, uint64_t handle, uint64_t offset,
                               uint32_t size)
{
    unsigned char room[64];
    wire          m = {room, 0};
    wire_int(&m, handle, 8), wire_int(&m, offset, 8), wire_int(&m, size, 4);
    return wire_frame(to, 5, 0, tag, 0, &m, NULL, 0);
}

static inline size_t wire_lock(unsigned char *to, uint64_t tag, uint64_t handle, uint32_t flags,
                               uint64_t owner)
{
    unsigned char room[64];
    wire          m = {room, 0};
    wire_int(&m, flags, 4), wire_int(&m, handle, 8), wire_int(&m, 0, 8), wire_int(&m, 0, 8);
    wire_int(&m, owner, 8), wire_int(&m, 77, 4);
    return wire_frame(to, 27, 0, tag, 0, &m, NULL, 0);
}
#endif
