"""The system calls about namespaces and mounts that Python's `os` has only from 3.12, or never.

Each raises OSError with the kernel's errno. All of them change the calling *thread* (or the
machine's mount table), never the other threads of the process.
"""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_SLAVE, MS_SHARED = 0x1000, 0x4000, 0x80000, 0x100000  # linux/mount.h
MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# asm-generic/unistd.h, the same on every architecture; linux/mount.h. glibc has them from 2.36.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces; unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `descriptor`; setns(2)."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    """mount(2), without data."""
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags),
                       None), target)


def detach(target: str) -> None:
    """Take the mount at `target` away, now for new users and later for present ones."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), target)


def new_proc() -> int:
    """A descriptor of the top of a /proc that is mounted nowhere; fsmount(2), Linux 5.2.

    It ends with the descriptor and everything opened below it.
    """
    draft = _call(_FSOPEN, b"proc", _FSOPEN_CLOEXEC)
    try:
        _call(_FSCONFIG, draft, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(_FSMOUNT, draft, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(draft)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call that the C library may not know; what it returns."""
    result: int = _libc.syscall(ctypes.c_long(number), *(
        ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if result < 0:
        _check(-1, "syscall")
    return result


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends; prctl(2).

    parent: its pid, because it may have ended before we asked.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)
