/* plugin_example.c - a plugin: a folder with one file, "now", that tells the time. */
#include "fsb_mount.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t now_stat(fsb_backend *b, fsb_op *op)
{
    const int file = op->handle == 1 || (!op->handle && !strcmp(op->path, "/now"));
    (void)b;
    if (op->handle > 1) return op->result = -EBADF;
    if (!file && strcmp(op->path, "/") != 0) return op->result = -ENOENT;
    memset(&op->stat, 0, sizeof op->stat);
    op->stat.file_id = op->stat.ino = file ? 2 : 1;
    op->stat.version = (uint64_t)time(NULL); /* whenever the content may have changed */
    op->stat.mode = file ? 0100444 : 0040555, op->stat.nlink = 1;
    op->stat.size = file ? sizeof "1234567890" : 0;
    return op->result = 0;
}

static int64_t now_list(fsb_backend *b, fsb_op *op)
{
    fsb_op     one = {.code = FSB_OP_STAT, .path = "/now"};
    fsb_dirent e = {.name = "now", .name_size = 3, .cookie = 1};
    if (now_stat(b, op) < 0) return op->result;
    if (op->stat.file_id != 1) return op->result = -ENOTDIR;
    now_stat(b, &one);
    e.stat = one.stat;
    return op->result = op->offset == 1 || op->emit(op, &e) == 0; /* 1: that was all */
}

static int64_t now_read(fsb_backend *b, fsb_op *op)
{
    char   text[32];
    size_t n = (size_t)snprintf(text, sizeof text, "%lld\n", (long long)time(NULL));
    (void)b;
    if (op->handle != 1 || !op->buf) return op->result = op->handle != 1 ? -EBADF : -EINVAL;
    n = op->offset < n ? n - (size_t)op->offset : 0;
    if (n > op->size) n = op->size;
    if (n) memcpy(op->buf, text + op->offset, n);
    return op->result = (int64_t)n;
}

static int64_t now_open(fsb_backend *b, fsb_op *op)
{
    op->handle = 0;
    if (op->flags != FSB_O_READ) return op->result = -EROFS;
    if (now_stat(b, op) < 0) return op->result;
    if (op->stat.file_id == 1) return op->result = -EISDIR;
    op->handle = 1; /* nothing is kept for it */
    return op->size ? now_read(b, op) : 0;
}

static int64_t now_close(fsb_backend *b, fsb_op *op) { return (void)b, op->result = 0; }
static void    now_end(fsb_backend *b) { (void)b; }

static int now_make(fsb_backend **out, const char *config, const fsb_logger *log)
{
    static fsb_backend now = {.size = sizeof now, .name = "now", .close = now_end, .call = {
        [FSB_OP_STAT] = now_stat, [FSB_OP_LIST] = now_list, [FSB_OP_OPEN] = now_open,
        [FSB_OP_READ] = now_read, [FSB_OP_CLOSE] = now_close}};
    (void)config, (void)log;
    *out = &now;
    return 0;
}
FSB_PLUGIN("now", now_make);
