"""A lab without root: in a user namespace an ordinary user may do there what root does here.

The command itself goes in, and no other process in between: signals, exit codes, the terminal,
the directory and the files of the user are what they were. Only /run is another one, with no
labs in it yet. Nothing stays behind: the namespaces end with the command, or with the keeper
where a lab is to stand (`netlab.keeper`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from fastpath.errors import SystemRefused, UserError
from netlab import keeper, syscalls
from netlab.enter import NETNS_DIRECTORY
from netlab.state import DEFAULT_ROOT, STATE_ENV

# Commands that make nothing and look at nothing that a lab made.
OUTSIDE = frozenset({"plan", "validate", "graph", "doctor"})
# Commands about what a user namespace has none of.
_PHYSICAL = frozenset({"attach", "detach"})
# The one whose lab outlives it.
_STANDING = "setup"
# Of `fastpath.jit`, which takes seconds to import.
_CACHE_ENV = "DHCP_NETLAB_CACHE"
_CAPABILITIES = (12, 21)  # linux/capability.h: CAP_NET_ADMIN, CAP_SYS_ADMIN
_FLAGS = {"user": syscalls.CLONE_NEWUSER, "mnt": syscalls.CLONE_NEWNS,
          "net": syscalls.CLONE_NEWNET}
_RUN = Path("/run")
# Of the machine's /run, what belongs to the machine's labs.
_NOT_OURS = frozenset({NETNS_DIRECTORY.name, DEFAULT_ROOT.name})
_PATIENCE_S = 5.0
# The connection to the keeper; it is there until this process ends.
_connections: list[socket.socket] = []


@dataclass(frozen=True, slots=True)
class _Switch:
    """A sysctl that forbids user namespaces when it says `forbids`, by one of `errors`."""

    name: str
    forbids: str
    allows: str
    errors: tuple[int, ...]


_DENIED = (errno.EPERM, errno.EACCES)
_SWITCHES = (
    _Switch("kernel.unprivileged_userns_clone", "0", "1", _DENIED),  # Debian's
    _Switch("kernel.apparmor_restrict_unprivileged_userns", "1", "0", _DENIED),  # Ubuntu's
    _Switch("user.max_user_namespaces", "0", "10000", (errno.ENOSPC,)),
    _Switch("user.max_mnt_namespaces", "0", "10000", (errno.ENOSPC,)),
    _Switch("user.max_net_namespaces", "0", "10000", (errno.ENOSPC,)),
)
_REASONS = {
    errno.ENOSPC: "there are as many as user.max_*_namespaces allows",
    errno.EUSERS: "they are nested too deeply",
    errno.EINVAL: "the kernel has none (CONFIG_USER_NS)",
    errno.ENOSYS: "the kernel has none (CONFIG_USER_NS)",
}


def privileged() -> bool:
    """Whether this process may make network namespaces as it is."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(effective >> bit & 1 for bit in _CAPABILITIES)


def enter(command: str, wanted: bool | None) -> None:
    """Go where `lab COMMAND` can work without root, if it is to; wanted: None is "if need be".

    The process must have one thread. Raises SystemRefused with the reason when the system
    does not allow user namespaces, UserError when the command has no use for one.
    """
    if command in _PHYSICAL:
        if wanted:
            raise UserError(f"{command}: a user namespace has no physical interfaces",
                            f"without --rootless: sudo lab {command}")
        return
    if command in OUTSIDE or wanted is False or (wanted is None and privileged()):
        return
    where = keeper.address(os.environ.get(STATE_ENV))
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if joined := keeper.join(where):
            _connections.append(joined[0])
            _step_into(joined[1])
            break
        if command != _STANDING:
            _isolate()
            break
        if listener := keeper.listen(where):
            _isolate()
            _connections.append(keeper.start(listener))
            break
        if time.monotonic() > deadline:
            raise SystemRefused("the keeper of your labs neither answers nor ends",
                                "lab --rootless setup, in a moment")
        time.sleep(0.01)
    # The new /run is a world of its own, and the default place in it is empty.
    os.environ.pop(STATE_ENV, None)


def _step_into(spaces: list[int]) -> None:
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    path = _working_directory()
    _name_the_cache(os.geteuid())
    try:
        for kind, descriptor in zip(keeper.KINDS, spaces, strict=True):
            syscalls.setns(descriptor, _FLAGS[kind])
            os.close(descriptor)
        # A new root directory was ours to get; the same path there is where we were, unless
        # it is gone or was in /run.
        if path is None or not _go(path):
            os.fchdir(here)
    except OSError as error:
        raise refusal(error) from error
    finally:
        os.close(here)


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _go(path: Path) -> bool:
    try:
        os.chdir(path)
    except OSError:
        return False
    return True


def _isolate() -> None:
    """Give this process new namespaces, in which it is root and /run is its own."""
    uid, gid = os.geteuid(), os.getegid()
    _name_the_cache(uid)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
        # user_namespaces(7): the only maps that need nobody's leave.
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"),
                           ("gid_map", f"0 {gid} 1")):
            (Path("/proc/self") / name).write_text(text)
        _renew_run()
    except OSError as error:
        raise refusal(error) from error


def _renew_run() -> None:
    """A /run that we may write to, and that shows what was there but for the machine's labs."""
    path = _working_directory()
    old = os.open(_RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.mount("tmpfs", str(_RUN), "tmpfs", 0)
        _RUN.chmod(0o755)
        for source in Path(f"/proc/self/fd/{old}").iterdir():
            if source.name not in _NOT_OURS:
                # Nobody but those who need it misses what cannot be shown.
                with contextlib.suppress(OSError):
                    _show(source, _RUN / source.name)
    finally:
        os.close(old)
    # In a directory of the old /run, relative names would still lead there.
    if path is not None and path.is_relative_to(_RUN):
        _go(path)


def _show(source: Path, target: Path) -> None:
    mode = source.lstat().st_mode
    if stat.S_ISLNK(mode):
        target.symlink_to(source.readlink())
        return
    if stat.S_ISDIR(mode):
        target.mkdir()
    else:
        target.touch()
    # With all that is mounted below: a user namespace may not look under the mounts it got.
    syscalls.mount(str(source), str(target), "none", syscalls.MS_BIND | syscalls.MS_REC)


def _name_the_cache(uid: int) -> None:
    """Have compiled kernels stay where the user has them: in there we look like root."""
    with contextlib.suppress(KeyError):
        home = Path(pwd.getpwuid(uid).pw_dir)
        if uid != 0:
            os.environ.setdefault(_CACHE_ENV, str(home / ".cache/dhcp-netlab"))


def refusal(error: OSError, sysctls: Path = Path("/proc/sys")) -> SystemRefused:
    """Why there can be no user namespace, and what to do about it."""
    number = error.errno or 0
    for switch in _SWITCHES:
        with contextlib.suppress(OSError):
            value = (sysctls / switch.name.replace(".", "/")).read_text().strip()
            if number in switch.errors and value == switch.forbids:
                return SystemRefused(
                    f"cannot create a user namespace: {switch.name} is {value}",
                    "run with sudo, or allow it: sudo sysctl -w "
                    f"{switch.name}={switch.allows}")
    reason = _REASONS.get(number) or (error.strerror or str(error)).lower()
    remedy = "run with sudo"
    if number in _DENIED and "\nSeccomp:\t2" in Path("/proc/self/status").read_text():
        reason = "a seccomp filter, as containers have, forbids it"
        remedy = "run with sudo, or outside of the container"
    return SystemRefused(f"cannot create a user namespace: {reason}", remedy)
