/* stage.h - what benches that run whole programs share: a scratch folder with a mount point in it,
   programs that are started and stopped, and an end that leaves nothing of them behind.

       stage_begin(end_all);                  // makes the folder; SIGINT and SIGTERM end it all
       b.host = stage_start(NULL, NULL, NULL, (const char *const[]){at("%s/fsb-host", stage_.bin),
                                                                    "--listen", ..., NULL});
       stage_.mounter = stage_start(...);     // of stage_.mnt
       if (RUN("cp", "-a", from, to) != 0)    // and waits for its end
           give_up("cannot copy %s", from);   // says so, ends as below, exits with 1
       stage_end();                           // unmounts, calls end_all, removes the folder */
#ifndef FSB_STAGE_H
#define FSB_STAGE_H
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    char  dir[PATH_MAX / 2], mnt[PATH_MAX];        /* "" before stage_begin() and after the end */
    char  self[PATH_MAX / 4], bin[PATH_MAX / 2];   /* this program; where fsb's are */
    pid_t mounter;                                 /* what serves mnt, while it is mounted */
    void (*end_all)(void);                         /* stops what else was started */
} stage_;

static inline const char *at(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline const char *at(const char *format, ...) /* a path, good until eight more were made */
{
    static __thread char texts[8][PATH_MAX];
    static __thread int  next;
    va_list              args;
    va_start(args, format);
    char *text = texts[next = (next + 1) % 8];
    vsnprintf(text, sizeof texts[0], format, args);
    va_end(args);
    return text;
}

/* Its output goes to a file, or nowhere; enter is called in the new process, with `where`: it runs
   no program unless that returns 0. */
static inline pid_t stage_start(const char *out, int (*enter)(const char *), const char *where,
                                const char *const argv[])
{
    const pid_t pid = fork();
    if (pid != 0) return pid;
    const int fd = open(out ? out : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, 1);
    if (!getenv("BENCH_VERBOSE")) dup2(open("/dev/null", O_WRONLY), 2);
    if (!enter || enter(where) == 0) execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static inline int stage_run(const char *const argv[]) /* its exit status */
{
    int         status = 0;
    const pid_t pid = stage_start(NULL, NULL, NULL, argv);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
#define RUN(...) stage_run((const char *const[]){__VA_ARGS__, NULL})

static inline void stop(pid_t *pid)
{
    if (*pid <= 0) return;
    kill(*pid, SIGTERM);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

static inline int is_mounted(void)
{
    struct stat here, above;
    return stat(stage_.mnt, &here) == 0 && stat(stage_.dir, &above) == 0 &&
           here.st_dev != above.st_dev;
}

static inline void unmount(void)
{
    for (int i = 0; i < 100 && is_mounted(); ++i) {
        if (i) usleep(20000);
        if (RUN("fusermount3", "-u", stage_.mnt) != 0 && i > 50)
            RUN("fusermount3", "-uz", stage_.mnt);
    }
    stop(&stage_.mounter);
}

static inline void stage_end(void)
{
    unmount();
    if (stage_.end_all) stage_.end_all();
    if (stage_.dir[0]) RUN("rm", "-rf", stage_.dir);
    stage_.dir[0] = stage_.mnt[0] = '\0';
}

static inline void give_up(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));
static inline void give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "bench_%s: ", bench_.name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    stage_end();
    exit(1);
}

static inline void stage_interrupted(int number)
{
    (void)number;
    give_up("interrupted");
}

/* Where this program is, and so fsb's: build/bench and build/bin. */
static inline void stage_find(void)
{
    const ssize_t n = readlink("/proc/self/exe", stage_.self, sizeof stage_.self - 1);
    if (n < 1 || !strchr(stage_.self, '/')) give_up("/proc: %s", strerror(errno));
    snprintf(stage_.bin, sizeof stage_.bin, "%s", stage_.self);
    *strrchr(stage_.bin, '/') = '\0';
    strcat(stage_.bin, "/../bin");
}

static inline void stage_begin(void (*end_all)(void))
{
    const char *tmp = getenv("TMPDIR");
    stage_find();
    stage_.end_all = end_all;
    snprintf(stage_.dir, sizeof stage_.dir, "%s/fsb-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(stage_.dir)) {
        stage_.dir[0] = '\0';
        give_up("no scratch folder: %s", strerror(errno));
    }
    snprintf(stage_.mnt, sizeof stage_.mnt, "%s/mnt", stage_.dir);
    (void)signal(SIGINT, stage_interrupted), (void)signal(SIGTERM, stage_interrupted);
}

/* The value in kB of a line of /proc/PID/status, "VmRSS:", in MB. */
static inline double memory_of(pid_t pid, const char *key)
{
    char   line[256];
    double kb = 0;
    FILE  *f = fopen(at("/proc/%d/status", (int)pid), "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kb = atof(line + strlen(key) + 1);
    if (f) fclose(f);
    return kb / 1024;
}
#endif
