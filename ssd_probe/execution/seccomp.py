"""Which system calls a model-written program may not make: a seccomp program, by libseccomp."""

import errno
import tempfile
from functools import cache

from ssd_probe.errors import UserError

CLONE_THREAD = 0x10000

# Refused with EPERM, whatever their arguments.
REFUSED = (
    "fork", "vfork", "execve", "execveat",  # no new processes
    # others' memory
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp",
    "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "process_mrelease",
    "unshare", "setns", "chroot", "pivot_root", "mount", "umount2", "mount_setattr", "move_mount",
    "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "open_by_handle_at", "quotactl",
    "socket", "bind", "connect", "listen", "accept", "accept4",  # abstract names, netlink
    "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open",  # would outlive the program
    "memfd_create", "memfd_secret",  # memory that no limit counts
    "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "fanotify_init",
    "move_pages", "migrate_pages", "syslog", "acct", "swapon", "reboot", "kexec_load",
    # metadata: root's own box could change the machine's /dev/null
    "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat",
    "utime", "utimes", "futimesat", "utimensat", "mknod", "mknodat",
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "init_module", "finit_module", "delete_module", "modify_ldt", "iopl", "ioperm", "personality",
)  # fmt: skip
# Newer than the libseccomp of Debian 12, and the same on every architecture: fchmodat2, setxattrat,
# removexattrat, open_tree_attr, file_setattr.
REFUSED_NUMBERS = (452, 463, 466, 467, 469)
# Refused where this argument is not 0, the caller: the box's first process keeps its limits.
OWN_ONLY = {
    "prlimit64": 0,
    "sched_setaffinity": 0,
    "sched_setscheduler": 0,
    "sched_setparam": 0,
    "sched_setattr": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}


@cache
def program() -> bytes:
    """The filter as BPF: `clone` makes threads only, the calls above fail, all others pass.

    `clone3`, whose flags lie in memory, does not exist (ENOSYS): the C library then uses `clone`.
    Calls of another architecture's numbers end the program. `UserError` without libseccomp.
    """
    try:
        import pyseccomp as seccomp
    except ImportError:
        raise UserError("pyseccomp is not installed (pip install pyseccomp)") from None
    except RuntimeError:
        raise UserError("libseccomp is not installed (apt-get install libseccomp2)") from None
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    for call in (*REFUSED, *REFUSED_NUMBERS):
        rules.add_rule(refuse, call)
    for name, argument in OWN_ONLY.items():
        rules.add_rule(refuse, name, seccomp.Arg(argument, seccomp.NE, 0))
    rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
