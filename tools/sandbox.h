/* sandbox.h - what a daemon gives up for good before it hears of anybody: system calls that it
   never makes, and files that it never opens, which would help who has taken it over to get
   further. Nothing here is undone; threads and programs started later are bound too. */
#ifndef FSB_SANDBOX_H
#define FSB_SANDBOX_H
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define SANDBOX_MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_MACHINE AUDIT_ARCH_AARCH64
#endif

/* A list of what is refused, not of what is allowed: libc, OpenSSL and the backends call what they
   like best on each kernel, and a filter that lags behind them breaks a host for nothing. */
static const int sandbox_refused[] = {
    /* other processes */
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    /* the kernel itself */
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_bpf,
    SYS_perf_event_open, SYS_reboot, SYS_syslog, SYS_acct, SYS_swapon, SYS_swapoff,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_iopl
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
#ifdef SYS_userfaultfd
    SYS_userfaultfd,
#endif
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup,
#endif
    /* what it sees of the machine */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns,
#ifdef SYS_fsopen
    SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
    /* the machine's settings, and keys of the kernel */
    SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime, SYS_sethostname,
    SYS_setdomainname, SYS_quotactl, SYS_add_key, SYS_request_key, SYS_keyctl};

/* From here on the process, and what it starts, gets EPERM for these. Call it before there are
   threads. 0, or a negative errno: nothing is refused then. */
static inline int sandbox_filter(void)
{
    enum { COUNT = sizeof sandbox_refused / sizeof *sandbox_refused };
#if defined(__SANITIZE_ADDRESS__) || !defined(SANDBOX_MACHINE)
    return COUNT ? -ENOSYS : 0; /* the leak detector is a tracer; or a machine not known here */
#else
    const struct sock_filter head[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SANDBOX_MACHINE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM), /* calls of a 32-bit program */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, COUNT + 1, 0)}; /* x32's */
    enum { HEAD = sizeof head / sizeof *head };
    struct sock_filter code[HEAD + COUNT + 2];
    for (unsigned i = 0; i < HEAD; ++i) code[i] = head[i];
    for (unsigned i = 0; i < COUNT; ++i)
        code[HEAD + i] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                         (unsigned)sandbox_refused[i],
                                         (unsigned char)(COUNT - i), 0);
    code[HEAD + COUNT] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[HEAD + COUNT + 1] =
        (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    const struct sock_fprog program = {HEAD + COUNT + 2, code};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) return -errno;
    return 0;
#endif
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Landlock, from the kernel's binary interface: libc has no calls for it, and the headers of a
   distribution lack what a newer kernel can do. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444 /* the same on every machine */
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

enum { /* what may be done with files; the kernel's numbers */
    SANDBOX_EXECUTE = 1, SANDBOX_WRITE_FILE = 2, SANDBOX_READ_FILE = 4, SANDBOX_READ_DIR = 8,
    SANDBOX_REMOVE_DIR = 16, SANDBOX_REMOVE_FILE = 32, SANDBOX_MAKE_SOCK = 1 << 9,
    SANDBOX_REFER = 1 << 13,   /* since ABI 2: rename and link from folder to folder */
    SANDBOX_TRUNCATE = 1 << 14, /* since ABI 3 */
    SANDBOX_DEVICE_IOCTL = 1 << 15, /* since ABI 5 */

    SANDBOX_READ = SANDBOX_READ_FILE | SANDBOX_READ_DIR,
    SANDBOX_SERVE = SANDBOX_DEVICE_IOCTL - 1 - SANDBOX_EXECUTE, /* whatever a client may ask for */
    SANDBOX_SOCKET = SANDBOX_MAKE_SOCK | SANDBOX_REMOVE_FILE    /* to listen on one in a folder */
};

typedef struct sandbox_files {
    int      fd;    /* the rules; -1: there are none */
    int      abi;   /* of the kernel; 0: it has no Landlock that is of use */
    uint64_t knows; /* what this kernel can forbid */
} sandbox_files;

/* Begins the rules: nothing is allowed yet. Before ABI 2 no file could be renamed into another
   folder: such a kernel counts as one without. Returns 0 or a negative errno. */
static inline int sandbox_files_begin(sandbox_files *s)
{
    struct { uint64_t files, sockets, scopes; } rules = {0, 0, 0};
    size_t     size = sizeof rules.files;
    const long abi = syscall(SYS_landlock_create_ruleset, NULL, 0L, 1L);
    s->fd = -1, s->abi = 0;
    if (abi < 2) return abi < 0 ? -errno : -ENOSYS;
    s->knows = abi < 3 ? SANDBOX_TRUNCATE - 1
        : abi < 5      ? SANDBOX_DEVICE_IOCTL - 1
                       : 2 * SANDBOX_DEVICE_IOCTL - 1;
    rules.files = s->knows;
    if (abi >= 4) rules.sockets = 2, size = 2 * sizeof rules.files; /* a host connects to nobody */
    if (abi >= 6) rules.scopes = 3, size = sizeof rules; /* signals, abstract sockets: among us */
    s->fd = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0L);
    if (s->fd < 0) return -errno;
    s->abi = (int)abi;
    return 0;
}

/* Allows that for a file, or for a folder and all below it. What is not there, or is none of ours
   to open, cannot be allowed and needs it not: 0 all the same. */
static inline int sandbox_files_allow(const sandbox_files *s, const char *path, uint64_t what)
{
    struct __attribute__((packed)) { uint64_t allowed; int32_t folder; } rule = {0, -1};
    struct stat st;
    const int   fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -errno;
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        what &= SANDBOX_EXECUTE | SANDBOX_WRITE_FILE | SANDBOX_READ_FILE | SANDBOX_TRUNCATE;
    rule.allowed = what & s->knows, rule.folder = fd;
    const long err = syscall(SYS_landlock_add_rule, (long)s->fd, 1L, &rule, 0L) ? -errno : 0;
    close(fd);
    return (int)err;
}

/* The folder that `path` is in. */
static inline int sandbox_files_allow_beside(const sandbox_files *s, const char *path,
                                             uint64_t what)
{
    char        folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof folder) return -ENAMETOOLONG;
    memcpy(folder, n ? path : ".", n ? n : 1), folder[n ? n : 1] = '\0';
    return sandbox_files_allow(s, folder, what);
}

/* From here on the process can open, make, rename and remove only what was allowed; files that are
   open stay so. Needs sandbox_filter() before it, or PR_SET_NO_NEW_PRIVS. Call it before there are
   threads. */
static inline int sandbox_files_end(sandbox_files *s)
{
    const long err = syscall(SYS_landlock_restrict_self, (long)s->fd, 0L) ? -errno : 0;
    close(s->fd);
    s->fd = -1;
    return (int)err;
}
#endif
