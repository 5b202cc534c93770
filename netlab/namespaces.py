"""Make, open, find and let go of network namespaces that `ip netns` sees too.

A thread of its own goes where this process must not: it gives itself new namespaces, opens a
netlink socket in each, and ends. The namespace carries its owner's stamp, the alias of its `lo`,
*before* it gets a name, and the file that holds the name carries one of the same lab. So whatever
stands under /run/netns at any moment, a kill -9 included, says whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from netlab import messages, syscalls
from netlab.checkpoint import checkpoint
from netlab.enter import NETNS_DIRECTORY, open_namespace
from netlab.netlink import LOOPBACK, Rtnl

T = TypeVar("T")
U = TypeVar("U")

# Settings, by directory of /proc/sys/net. Nothing but the test's frames is to be on the wire
# ("all" sets what new interfaces get, too).
_QUIET = {"ipv6": {"conf/all/disable_ipv6": "1"}}
# Each of them is to arrive just as it was sent: a bridge that calls iptables drops IPv4 that it
# finds malformed and reassembles fragments.
_SWITCHES = {"bridge": {"bridge-nf-call-iptables": "0", "bridge-nf-call-ip6tables": "0",
                        "bridge-nf-call-arptables": "0"}}
# No redirects: a chain of relays on shared segments is meant to be walked as it was built.
_FORWARDS = {"ipv4": {"ip_forward": "1", "conf/all/send_redirects": "0",
                      "conf/default/send_redirects": "0"}}
# A namespace is begun and ended with a wait for every CPU: threads wait together. More than a
# few of them only queue for the kernel's own locks.
_BEGIN_THREADS, _END_THREADS = 2, 16
# Fewer than that are not worth a thread.
_A_THREAD_S_WORK = 8
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
class Birth:
    """A namespace to be made. switches: bridges will stand in it; forwards: it passes IPv4 on
    between its interfaces."""

    name: str
    stamp: str
    switches: bool = False
    forwards: bool = False


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
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _together(work: Callable[[U], T], items: Sequence[U], threads: int) -> list[T]:
    """`work` on every item by so many threads at most; raises what the first of the failed ones
    raised, when all were worked on."""
    count = min(threads, -(-len(items) // _A_THREAD_S_WORK))
    with ThreadPoolExecutor(max(1, count)) as pool:
        futures = [pool.submit(work, item) for item in items]
    return [future.result() for future in futures]


def create(births: Sequence[Birth]) -> Generator[Space, None, None]:
    """Make these namespaces of one lab, each stamped and quiet, its `lo` up; yields them in order.

    Each has its name when it is yielded, and is the caller's to close. Raises FileExistsError
    when a name is taken, OSError with what else the kernel said: that of the first not yielded.
    """
    with _proc() as proc:
        begun = _together(lambda birth: _begin(birth, proc), births, _BEGIN_THREADS)
    begun.reverse()
    try:
        with _shared_directory() as directory, _unnamed(directory, births[0].stamp) as file:
            for birth in births:
                space = begun[-1]
                if isinstance(space, OSError):
                    raise space
                _name(file, birth, directory)
                checkpoint()
                syscalls.mount(f"/proc/self/fd/{space.descriptor}",
                               str(NETNS_DIRECTORY / birth.name), "none", syscalls.MS_BIND)
                begun.pop()
                yield space
    finally:
        for left in begun:
            if isinstance(left, Space):
                left.close()


def _begin(birth: Birth, proc: int) -> Space | OSError:
    """In a thread: a namespace that has its stamp and no name yet, or why there is none."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        space = Space(birth.name, descriptor, Rtnl())
        settings = (_QUIET | (_SWITCHES if birth.switches else {})
                    | (_FORWARDS if birth.forwards else {}))
        for place, values in settings.items():
            with contextlib.suppress(FileNotFoundError):
                _set(proc, place, values)
        space.rtnl.change(messages.set_link(LOOPBACK, up=True, alias=birth.stamp))
    except OSError as error:
        return error
    return space


@contextmanager
def _proc() -> Iterator[int]:
    """A /proc to make settings in, as a descriptor.

    One of our own: each namespace leaves names of its own in the /proc where it was looked into,
    and the kernel goes through them all to find the next one's. With thousands of namespaces
    that takes longer than to make them. Where we may not mount one, the machine's will do.
    """
    try:
        proc = syscalls.new_proc()
    except OSError:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield proc
    finally:
        os.close(proc)


def _set(proc: int, place: str, values: dict[str, str]) -> None:
    """Sysctls of the namespace of the calling thread; FileNotFoundError without the first."""
    # Opened once: it is this name that is hard to find.
    directory = os.open(f"sys/net/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
                        dir_fd=proc)
    try:
        for key, value in values.items():
            file = os.open(key, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.write(file, value.encode())
            finally:
                os.close(file)
    finally:
        os.close(directory)


def look_into(names: Iterable[str], look: Callable[[Rtnl], T]) -> list[T | OSError]:
    """What `look` sees in each of these namespaces, or why nothing can be seen there."""

    def visit(name: str) -> T | OSError:
        try:
            descriptor = open_namespace(name)
            try:
                syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
            finally:
                os.close(descriptor)
            rtnl = Rtnl()
            try:
                return look(rtnl)
            finally:
                rtnl.close()
        except OSError as error:
            return error

    return _elsewhere(lambda: [visit(name) for name in names])


def entries(prefix: str = "") -> list[Entry]:
    """What stands in /run/netns under names that begin so, with whose it is."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    names = sorted(path.name for path in NETNS_DIRECTORY.iterdir())
    return find(name for name in names if name.startswith(prefix))


def find(names: Iterable[str]) -> list[Entry]:
    """What stands under those of the names that something stands under."""
    here = Path("/proc/self/ns/net").stat().st_dev
    found: dict[str, Entry] = {}
    for name in names:
        path = NETNS_DIRECTORY / name
        try:
            info = path.stat()
            if info.st_dev == here:
                found[name] = Entry(name, "", info.st_ino)
                continue
            with path.open(errors="replace") as file:
                found[name] = Entry(name, file.read(_MAX_STAMP).strip(), None)
        except FileNotFoundError:
            continue
        except OSError:
            # Something that we cannot read is something that we did not make.
            found[name] = Entry(name, "", None)
    mounted = [entry for entry in found.values() if entry.inode is not None]
    stamps = look_into((entry.name for entry in mounted), lambda rtnl: rtnl.link(LOOPBACK).alias)
    for entry, stamp in zip(mounted, stamps, strict=True):
        if isinstance(stamp, str):
            found[entry.name] = replace(entry, stamp=stamp)
        elif isinstance(stamp, FileNotFoundError):
            del found[entry.name]
    return list(found.values())


def let_go(found: Sequence[Entry]) -> None:
    """Take the names away; the kernel ends each namespace once nothing lives in it.

    Its links go with it, in the background: ending each by hand takes 20 ms, ending them
    all together nearly nothing.
    """
    _together(_let_go, found, _END_THREADS)


def _let_go(found: Entry) -> None:
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


@contextmanager
def _unnamed(directory: int, stamp: str) -> Iterator[int | None]:
    """A file of that content and no name; None where the file system knows no such thing."""
    try:
        file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        yield None
        return
    try:
        os.write(file, f"{stamp}\n".encode())
        yield file
    finally:
        os.close(file)


def _name(file: int | None, birth: Birth, directory: int) -> None:
    """A file under the name of the namespace that appears with its content, or not at all.

    One file has all the names: a mount covers a name and not the file, and on a disk names are
    far cheaper than files. Raises FileExistsError where the name is taken.
    """
    checkpoint()
    if file is not None:
        # With src_dir_fd Python calls linkat(2) so that it follows the magic link.
        os.link(f"/proc/self/fd/{file}", birth.name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    # An empty file may be left by a crash here.
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    own = os.open(birth.name, flags, 0o444, dir_fd=directory)
    try:
        os.write(own, f"{birth.stamp}\n".encode())
    finally:
        os.close(own)
