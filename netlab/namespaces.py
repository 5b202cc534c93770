"""Make, open, find and let go of network namespaces that `ip netns` sees too.

A thread of its own goes where this process must not: it gives itself a new namespace, opens a
netlink socket there, and ends. The namespace carries its owner's stamp, the alias of its `lo`,
*before* it gets a name, and the file that holds the name carries the same stamp. So whatever
stands under /run/netns at any moment, a kill -9 included, says whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from netlab import syscalls
from netlab.checkpoint import checkpoint
from netlab.enter import NETNS_DIRECTORY, open_namespace
from netlab.netlink import Rtnl, set_link

T = TypeVar("T")

# Nothing but the test's frames is to be on the wire, and each of them just as it was sent: a
# bridge that calls iptables drops IPv4 it finds malformed and reassembles fragments.
_SYSCTLS = (("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1"),
            ("net/bridge/bridge-nf-call-iptables", "0"),
            ("net/bridge/bridge-nf-call-ip6tables", "0"),
            ("net/bridge/bridge-nf-call-arptables", "0"))
_MAX_STAMP = 256  # linux/if.h: IFALIASZ


@dataclass(slots=True)
class Space:
    """An open namespace: a descriptor that keeps it, and a netlink socket inside it."""

    name: str
    descriptor: int
    rtnl: Rtnl

    def close(self) -> None:
        self.rtnl.close()
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands under a name in /run/netns, and the stamp on it ("" when it has none).

    inode: of the namespace; None where there is only the file, a namespace not yet or no
    longer mounted on it.
    """

    name: str
    stamp: str
    inode: int | None


def _elsewhere(work: Callable[[], T]) -> T:
    """Run `work` in a fresh thread, which may change namespace; what it returns or raises."""
    outcome: list[T] = []
    trouble: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return outcome[0]


def create(name: str, stamp: str) -> Space:
    """Make the namespace `name`, stamped and quiet, its `lo` up.

    Raises FileExistsError when the name is taken, OSError with what else the kernel said.
    """

    def work() -> Space:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        rtnl = Rtnl()
        # sysctls under net/ belong to the namespace of the thread that opens the file.
        for key, value in _SYSCTLS:
            with contextlib.suppress(FileNotFoundError):
                (Path("/proc/sys") / key).write_text(value)
        rtnl.change(set_link("lo", up=True, alias=stamp))
        return Space(name, descriptor, rtnl)

    space = _elsewhere(work)
    try:
        with _shared_directory() as directory:
            _make_file(directory, name, f"{stamp}\n")
            checkpoint()
            syscalls.mount(f"/proc/self/fd/{space.descriptor}", str(NETNS_DIRECTORY / name),
                           "none", syscalls.MS_BIND)
    except BaseException:
        space.close()
        raise
    return space


def open_space(name: str) -> Space:
    """The namespace that stands under `name`; OSError when there is none."""
    descriptor = open_namespace(name)

    def work() -> Rtnl:
        syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
        return Rtnl()

    try:
        return Space(name, descriptor, _elsewhere(work))
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def opened(name: str) -> Iterator[Space]:
    """`open_space`, closed at the end of the block."""
    space = open_space(name)
    try:
        yield space
    finally:
        space.close()


def entries(prefix: str = "") -> list[Entry]:
    """What stands in /run/netns under names that begin so, with whose it is."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    names = sorted(path.name for path in NETNS_DIRECTORY.iterdir())
    found = (entry(name) for name in names if name.startswith(prefix))
    return [one for one in found if one]


def entry(name: str) -> Entry | None:
    """What stands under that name; None when nothing does."""
    path = NETNS_DIRECTORY / name
    try:
        info = path.stat()
        if info.st_dev == Path("/proc/self/ns/net").stat().st_dev:
            with opened(name) as space:
                return Entry(name, space.rtnl.link("lo").alias, info.st_ino)
        with path.open(errors="replace") as file:
            return Entry(name, file.read(_MAX_STAMP).strip(), None)
    except FileNotFoundError:
        return None
    except OSError:
        # Something that we cannot read is something that we did not make.
        return Entry(name, "", None)


def let_go(found: Entry) -> None:
    """Take the name away; the kernel ends the namespace once nothing lives in it.

    Its links go with it, in the background: ending each by hand takes 20 ms, ending them
    all together nearly nothing.
    """
    path = NETNS_DIRECTORY / found.name
    if found.inode is not None:
        checkpoint()
        syscalls.detach(str(path))
    checkpoint()
    path.unlink()


@contextmanager
def _shared_directory() -> Iterator[int]:
    """/run/netns as `ip netns add` sets it up (ip/ipnetns.c), locked; yields its descriptor.

    It is a shared mount so that a name taken away here goes in every mount namespace.
    """
    where = str(NETNS_DIRECTORY)
    NETNS_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            syscalls.mount("", where, "none", syscalls.MS_SHARED | syscalls.MS_REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            syscalls.mount(where, where, "none", syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.mount("", where, "none", syscalls.MS_SHARED | syscalls.MS_REC)
        # Opened again: the first descriptor may look at what the mount now covers.
        directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)
    finally:
        os.close(lock)


def _make_file(directory: int, name: str, content: str) -> None:
    """A file that appears with its content, or not at all; FileExistsError when it is there."""
    checkpoint()
    try:
        file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        # A file system without unnamed files: an empty file may be left by a crash here.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        file = os.open(name, flags, 0o444, dir_fd=directory)
        os.write(file, content.encode())
        os.close(file)
        return
    try:
        os.write(file, content.encode())
        # With src_dir_fd Python calls linkat(2) so that it follows the magic link.
        os.link(f"/proc/self/fd/{file}", name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(file)
