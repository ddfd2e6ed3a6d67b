/* fuzz_cache.h - hostile files for fsb_cache.h: a table of slots and a file of records (make fuzz).
   Bit 1 of the first byte says which of them the rest is, bit 0 that its checksums are made right,
   so that what is behind them is reached, bit 2 that the folder is opened for reading only. */
#define FSB_CACHE_IMPLEMENTATION
#include "fsb_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char fuzz_dir[300];

static void fuzz_dir_remove(void)
{
    static const char *const names[] = {"table", "records", "slots", "lock", "records.new"};
    char                     path[400];
    for (int i = 0; i < 5; ++i) {
        snprintf(path, sizeof path, "%s/%s", fuzz_dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(fuzz_dir);
}

static void fuzz_dir_make(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(fuzz_dir, sizeof fuzz_dir, "%s/fsb-fuzz-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(fuzz_dir)) __builtin_trap();
    atexit(fuzz_dir_remove);
}

static void fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    char path[400];
    snprintf(path, sizeof path, "%s/%s", fuzz_dir, name);
    const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) __builtin_trap();
    close(file);
}

/* Headers and checks as they should be, for seeds of zero. */
static void make_table_right(uint8_t *bytes, size_t size)
{
    fsb_cache_disk d;
    memset(&d, 0, sizeof d);
    if (size >= FSB_CACHE_ROW_) fsb_cache_table_header_(&d, 0, bytes);
    for (size_t i = 1; (i + 1) * FSB_CACHE_ROW_ <= size; ++i) {
        uint8_t *row = bytes + i * FSB_CACHE_ROW_;
        fsb_cache_set_(row + 56, fsb_cache_check_(d.seed + i - 1, row, 56), 8);
    }
}

static void make_records_right(uint8_t *bytes, size_t size)
{
    if (size < FSB_CACHE_ROW_) return;
    memset(bytes, 0, FSB_CACHE_ROW_);
    memcpy(bytes, "FSBRECRD", 8);
    bytes[8] = FSB_CACHE_FORMAT_;
    fsb_cache_set_(bytes + 56, fsb_cache_check_(0, bytes, 56), 8);
    for (size_t at = FSB_CACHE_ROW_; at + FSB_CACHE_HEAD_ < size;) {
        uint8_t     *head = bytes + at, *key = head + FSB_CACHE_HEAD_;
        const size_t room = size - at - FSB_CACHE_HEAD_, keys = fsb_cache_get32_(head + 20) % 64;
        if (!keys || keys > room) return;
        const size_t value = fsb_cache_get32_(head + 16) % 256;
        if (value > room - keys) return;
        fsb_cache_set_(head + 20, keys, 4), fsb_cache_set_(head + 16, value, 4);
        fsb_cache_set_(head + 8, fsb_cache_check_(at, key + keys, value), 8);
        const uint64_t hash = fsb_cache_check_(0, key, keys);
        fsb_cache_set_(head, fsb_cache_check_(hash + at, head + 8, FSB_CACHE_HEAD_ - 8), 8);
        at += (FSB_CACHE_HEAD_ + keys + value + 7) & ~(size_t)7;
    }
}

static int fuzz_touch(void *user, const void *key, size_t key_size, const void *value,
                      size_t value_size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < key_size; ++i) sum ^= ((const uint8_t *)key)[i];
    for (size_t i = 0; i < value_size; ++i) sum ^= ((const uint8_t *)value)[i];
    *(uint8_t *)user ^= sum;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t      bytes[1 << 20], buf[FSB_CACHE_CHUNK];
    const fsb_cache_key key = {{1, 2, 3, 4}};
    fsb_cache_disk_desc desc;
    fsb_cache_disk     *disk = NULL;
    if (!size || size > sizeof bytes) return 0;
    if (!fuzz_dir[0]) fuzz_dir_make();
    const int what = *data++;
    memcpy(bytes, data, --size);
    if (what & 1 && what & 2) make_table_right(bytes, size);
    if (what & 1 && !(what & 2)) make_records_right(bytes, size);
    fuzz_file(what & 2 ? "table" : "records", bytes, size);
    memset(&desc, 0, sizeof desc);
    desc.dir = fuzz_dir, desc.max_bytes = 4 << 20, desc.read_only = what >> 2 & 1;
    if (fsb_cache_disk_open(&disk, &desc) < 0) __builtin_trap(); /* whatever is in it, it opens */
    for (uint32_t i = 0; i < disk->known; ++i) {
        fsb_cache_key any;
        memcpy(any.word, disk->slots[i].key, sizeof any.word);
        (void)fsb_cache_disk_get(disk, &any, buf, sizeof buf);
    }
    (void)fsb_cache_disk_meta_walk(disk, "", 0, fuzz_touch, buf);
    if (!desc.read_only && (fsb_cache_disk_put(disk, &key, "chunk", 5) ||
                            fsb_cache_disk_meta_put(disk, "k", 1, "v", 1)))
        __builtin_trap();
    fsb_cache_disk_close(disk);
    return 0;
}
