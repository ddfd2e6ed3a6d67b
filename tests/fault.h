/* fault.h - calls of a header under test that can be told to fail. It comes before that header,
   which then calls these instead. */
#ifndef FSB_TEST_FAULT_H
#define FSB_TEST_FAULT_H
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The call of that name fails, after `after` that do not, once and with `err`. */
static struct {
    const char *call;
    int         after, err;
} fault;

static inline int fails(const char *call)
{
    if (!fault.call || strcmp(fault.call, call) || fault.after--) return 0;
    fault.call = NULL, errno = fault.err;
    return 1;
}

static inline struct dirent *test_readdir(DIR *dir)
{
    return fails("readdir") ? NULL : readdir(dir);
}
static inline int test_fstatat(int dir, const char *path, struct stat *st, int flags)
{
    return fails("fstatat") ? -1 : fstatat(dir, path, st, flags);
}
static inline int test_unlinkat(int dir, const char *path, int flags)
{
    return fails("unlinkat") ? -1 : unlinkat(dir, path, flags);
}
#define readdir  test_readdir
#define fstatat  test_fstatat
#define unlinkat test_unlinkat

#endif
