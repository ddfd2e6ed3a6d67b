/* fsb_cache.c - `fsb cache`: the disk cache of mounts from the command line. */
#define FSB_CACHE_IMPLEMENTATION
#include "../fsb_cache.h"

#include "tool.h"

int fsb_cmd_cache(int argc, char **argv);

static const char help[] =
    "usage: fsb cache stat|verify|clear DIR [--json]\n"
    "\n"
    "  stat     what is in the cache DIR\n"
    "  verify   reads and checks everything; what is damaged is dropped (--keep: only told)\n"
    "  clear    empties it\n"
    "\n"
    "A cache is one process's at a time: unmount what is using it first.\n"
    "Exit status: 0 done, 1 failed, or verify found damage, 2 wrong usage.\n";

static char failure[1000]; /* the log's last line: what a failed open has to say */

static void keep_line(void *user, fsb_log_level level, const char *item, const char *text)
{
    (void)user, (void)item;
    if (level <= FSB_LOG_WARN) snprintf(failure, sizeof failure, "%s", text);
}

static void fail(const char *what, const char *dir, int err)
{
    if (failure[0]) tool_fail("cannot %s: %s", what, failure);
    tool_fail("cannot %s %s: %s; is it the --cache-dir of a mount?", what, dir, strerror(-err));
}

/* Room for all of it, whatever size the mount gave it. */
static uint64_t size_of(const char *dir)
{
    char        path[PATH_MAX];
    struct stat st;
    snprintf(path, sizeof path, "%s/slots", dir);
    if (stat(path, &st) != 0) return 0;
    return ((uint64_t)st.st_size / FSB_CACHE_CHUNK + 64) * (FSB_CACHE_CHUNK + 64) / 15 * 16;
}

static void stat_cache(fsb_cache_disk_desc *desc, int json)
{
    fsb_cache_disk      *disk = NULL;
    fsb_cache_disk_stats s;
    desc->read_only = 1;
    const int err = fsb_cache_disk_open(&disk, desc);
    if (err) fail("look into", desc->dir, err);
    fsb_cache_disk_get_stats(disk, &s);
    fsb_cache_disk_close(disk);
    printf(json ? "{\"chunks\":%llu,\"chunk_bytes\":%llu,\"records\":%llu,\"record_bytes\":%llu,"
                  "\"damaged\":%llu}\n"
                : "chunks   %llu, %llu bytes\nrecords  %llu, %llu bytes\ndamaged  %llu\n",
           (unsigned long long)s.chunks, (unsigned long long)s.chunk_bytes,
           (unsigned long long)s.records, (unsigned long long)s.record_bytes,
           (unsigned long long)s.damaged);
}

static int verify_cache(fsb_cache_disk_desc *desc, int json)
{
    fsb_cache_disk_report r;
    const int             err = fsb_cache_disk_verify(desc, &r);
    if (err) fail("verify", desc->dir, err);
    printf(json ? "{\"chunks\":%llu,\"chunk_bytes\":%llu,\"records\":%llu,\"record_bytes\":%llu,"
                  "\"damaged_chunks\":%llu,\"damaged_records\":%llu}\n"
                : "chunks   %llu, %llu bytes\nrecords  %llu, %llu bytes\n"
                  "damaged  %llu chunks, %llu records\n",
           (unsigned long long)r.chunks, (unsigned long long)r.chunk_bytes,
           (unsigned long long)r.records, (unsigned long long)r.record_bytes,
           (unsigned long long)r.damaged_chunks, (unsigned long long)r.damaged_records);
    return r.damaged_chunks || r.damaged_records;
}

int fsb_cmd_cache(int argc, char **argv)
{
    int                 json = 0, keep = 0, c;
    const struct option options[] = {{"json", 0, &json, 1}, {"keep", 0, &keep, 1},
                                     {"help", 0, NULL, 'h'}, {"version", 0, NULL, 'V'},
                                     {NULL, 0, NULL, 0}};
    fsb_cache_disk_desc desc;
    struct stat         st;
    tool_name = "fsb cache";
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h') return fputs(help, stdout), 0;
        if (c == 'V') return puts("fsb " FSB_VERSION), 0;
        if (c == '?') return 2;
    }
    if (argc - optind != 2) tool_usage("want a command and a folder");
    const char *command = argv[optind];
    memset(&desc, 0, sizeof desc);
    desc.dir = argv[optind + 1], desc.read_only = keep;
    desc.log.fn = keep_line;
    if (keep && strcmp(command, "verify") != 0) tool_usage("--keep goes with verify");
    if (stat(desc.dir, &st) != 0) fail("look into", desc.dir, -errno);
    desc.max_bytes = size_of(desc.dir);
    if (!strcmp(command, "stat")) return stat_cache(&desc, json), 0;
    if (!strcmp(command, "verify")) return verify_cache(&desc, json);
    if (strcmp(command, "clear") != 0) tool_usage("there is no command '%s'", command);
    const int err = fsb_cache_disk_clear(&desc);
    if (err) fail("clear", desc.dir, err);
    return 0;
}
