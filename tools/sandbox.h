/* sandbox.h - what a daemon gives up for good before it hears of anybody: system calls that it
   never makes, and that would help who has taken it over to get further. */
#ifndef FSB_SANDBOX_H
#define FSB_SANDBOX_H
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

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
#endif
