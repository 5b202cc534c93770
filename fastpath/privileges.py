"""Giving up root for good, once everything that needs it is open.

The one thing to know: nothing is kept. Rings, ports and files that are open stay usable; no
other can be opened that the user could not open himself. The kernel keeps most of this per
thread, so `drop` belongs before any thread is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import signal
from dataclasses import dataclass

from fastpath.errors import SystemRefused, UserError

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 2, 4, 8
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
# linux/capability.h: version 3 is two sets of 32.
_CAPABILITY_VERSION = 0x20080522
_MOST_CAPABILITIES = 64

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class User:
    """Whom to become: `groups` are those the system gives him, his own among them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def check_user(name: str) -> User:
    """The user of that name or number; raises UserError when there is none, or it is root."""
    try:
        number = name.isascii() and name.isdigit()
        entry = pwd.getpwuid(int(name)) if number else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError):
        made = name if name.isascii() and name.isidentifier() else "dhcp"
        raise UserError(f"there is no user {name!r}",
                        f"make one: useradd --system --shell /usr/sbin/nologin {made}") from None
    if entry.pw_uid == 0:
        raise UserError(f"user {name!r} is root: nothing would be given up",
                        "name an ordinary user, or leave --user out")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(sorted(set(groups))))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends; prctl(2).

    parent: its pid, because it may have ended before we asked.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def drop(user: User) -> None:
    """Become `user` in all respects, with no capability and no way back.

    Raises SystemRefused when not root (or him already), where the system forbids it, and where
    something was kept after all: then the process must not go on.
    """
    already = os.getresuid() == (user.uid,) * 3 and os.getresgid() == (user.gid,) * 3
    if os.geteuid() != 0 and not already:
        raise SystemRefused("--user needs root", f"use sudo, or start it as {user.name!r} with "
                            "CAP_NET_RAW and CAP_NET_BIND_SERVICE")
    parent, death = os.getppid(), ctypes.c_int(0)
    _prctl(_PR_GET_PDEATHSIG, ctypes.addressof(death))
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _empty_bounding_set()
        _prctl(_PR_SET_KEEPCAPS, 0)
        if not already:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _empty_capabilities()
        # Changing the user makes /proc/self root's, and forgets what to do at the parent's end.
        _prctl(_PR_SET_DUMPABLE, 1)
        _prctl(_PR_SET_PDEATHSIG, death.value)
    except OSError as error:
        raise SystemRefused(f"cannot become user {user.name!r}: {error.strerror}",
                            "leave --user out where root is not the machine's own root") from None
    if death.value and os.getppid() != parent:
        os.kill(os.getpid(), death.value)
    _verify(user, already)


def _prctl(what: int, *values: int) -> None:
    # As wide as a register: prctl looks at all of it.
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if _libc.prctl(what, *padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _empty_bounding_set() -> None:
    for capability in range(_MOST_CAPABILITIES):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            # EINVAL: the kernel has no more. EPERM: no CAP_SETPCAP, and then "no new
            # privileges" alone keeps a program with capabilities from getting them.
            if error.errno in (errno.EINVAL, errno.EPERM):
                return
            raise


def _empty_capabilities() -> None:
    header, empty = _Header(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(empty)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _verify(user: User, already: bool) -> None:
    """Raise SystemRefused unless all is given up and root cannot be had again."""
    kept = []
    if os.getresuid() != (user.uid,) * 3 or os.getresgid() != (user.gid,) * 3:
        kept.append("another user or group")
    if not already and not set(os.getgroups()) <= set(user.groups):
        kept.append("groups " + ", ".join(map(_group_name, os.getgroups())))
    header, sets = _Header(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _libc.capget(ctypes.byref(header), ctypes.byref(sets)) != 0 or any(sets):
        kept.append("capabilities")
    with contextlib.suppress(PermissionError):
        os.setuid(0)
        kept.append("a way back to root")
    if kept:
        raise SystemRefused(f"privileges could not be given up: kept {' and '.join(kept)}")


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
