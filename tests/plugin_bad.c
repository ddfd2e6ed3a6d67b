/* plugin_bad.c - plugins with something wrong with them, by which of BAD_* is defined. BAD_moody is
   told in its config what to do: the address of a struct moody of the test that loaded it. */
#include "fsb_mount.h"
#include "plugin_moody.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline void sleep_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static moody *mood;

static int64_t answer(fsb_op *op, int64_t result)
{
    __atomic_add_fetch(&mood->calls, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&mood->hang, __ATOMIC_SEQ_CST)) sleep_ms(1);
    const int err = __atomic_load_n(&mood->err, __ATOMIC_SEQ_CST);
    return op->result = err ? err : result;
}

static int64_t moody_stat(fsb_backend *b, fsb_op *op)
{
    (void)b;
    memset(&op->stat, 0, sizeof op->stat);
    op->stat.file_id = 1, op->stat.mode = 0040755;
    return answer(op, 0);
}

static int64_t moody_open(fsb_backend *b, fsb_op *op)
{
    (void)b;
    op->handle = 5;
    if (answer(op, 0) == 0) __atomic_add_fetch(&mood->opened, 1, __ATOMIC_SEQ_CST);
    return op->result;
}

static int64_t moody_close(fsb_backend *b, fsb_op *op)
{
    (void)b;
    __atomic_add_fetch(&mood->closed, 1, __ATOMIC_SEQ_CST);
    return op->result = op->handle == 5 ? 0 : -EBADF;
}

static int64_t moody_read(fsb_backend *b, fsb_op *op) /* late, it writes where it was told to */
{
    (void)b;
    answer(op, (int64_t)op->size);
    if (op->buf) memset(op->buf, 'L', op->size);
    if (__atomic_load_n(&mood->too_many, __ATOMIC_SEQ_CST)) op->result = (int64_t)op->size + 1;
    return op->result;
}

static int64_t moody_write(fsb_backend *b, fsb_op *op)
{
    (void)b;
    answer(op, (int64_t)op->size);
    for (size_t i = 0; i < op->size; ++i)
        if (((const char *)op->data)[i] != 'w') mood->changed = 1;
    if (op->path || op->path2) mood->changed = 1;
    return op->result;
}

static int64_t moody_list(fsb_backend *b, fsb_op *op)
{
    char name[16];
    (void)b;
    for (uint64_t i = op->offset; i < mood->names; ++i) {
        const fsb_dirent e = {.name = name,
                              .name_size = (size_t)snprintf(name, sizeof name, "%llu",
                                                            (unsigned long long)i),
                              .cookie = i + 1,
                              .stat = {.size = 3, .mode = 0100644},
                              .data = i % 2 ? "abc" : NULL,
                              .folder = i % 3 ? NULL : "/in"};
        if (op->emit(op, &e)) return answer(op, 0);
    }
    return answer(op, 1);
}

static void moody_end(fsb_backend *b)
{
    (void)b;
    moody *const told = __atomic_load_n(&mood, __ATOMIC_SEQ_CST);
    if (told) __atomic_store_n(&told->ended, 1, __ATOMIC_SEQ_CST);
}

static int bad_open(fsb_backend **out, const char *config, const fsb_logger *log)
{
    static fsb_backend b = {.size = sizeof b, .name = "moody", .close = moody_end, .call = {
        [FSB_OP_STAT] = moody_stat, [FSB_OP_OPEN] = moody_open, [FSB_OP_CLOSE] = moody_close,
        [FSB_OP_READ] = moody_read, [FSB_OP_WRITE] = moody_write, [FSB_OP_LIST] = moody_list}};
    void *at = NULL;
    (void)log;
#if defined BAD_refuses
    return -EACCES;
#elif defined BAD_sleeps
    sleep_ms(2000);
#endif
    if (config[0] && sscanf(config, "%p", &at) == 1)
        __atomic_store_n(&mood, (moody *)at, __ATOMIC_SEQ_CST);
    *out = &b;
    return 0;
}

#if defined BAD_crash || defined BAD_exit || defined BAD_hang
__attribute__((constructor)) static void begin(void)
{
#if defined BAD_crash
    raise(SIGSEGV);
#elif defined BAD_exit
    _Exit(0);
#else
    for (;;) sleep_ms(1000);
#endif
}
#endif

#if defined BAD_abi
const fsb_plugin_info fsb_plugin = {FSB_PLUGIN_ABI + 1, sizeof(fsb_plugin_info),
                                    sizeof(fsb_backend), sizeof(fsb_op), sizeof(fsb_dirent), "abi",
                                    bad_open};
#elif defined BAD_size
const fsb_plugin_info fsb_plugin = {FSB_PLUGIN_ABI, sizeof(fsb_plugin_info), sizeof(fsb_backend),
                                    sizeof(fsb_op) - 8, sizeof(fsb_dirent), "size", bad_open};
#elif defined BAD_symbol
int (*const not_fsb_plugin)(fsb_backend **, const char *, const fsb_logger *) = bad_open;
#else
FSB_PLUGIN("bad", bad_open);
#endif
