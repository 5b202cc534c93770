"""Doing something in another network namespace: opening a ring, reading what is lost there.

The one thing to know: only a thread can be in two minds. setns(2) moves the calling thread alone,
so what has to happen elsewhere happens in a thread that goes there and ends; a socket that it
opened stays in that namespace for good, whoever uses it. `os.setns` is there only from Python 3.12
on. Source: setns(2), network_namespaces(7), ip-netns(8).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fastpath.errors import SystemRefused

T = TypeVar("T")

# linux/sched.h
_CLONE_NEWNET = 0x40000000
# Where `ip netns` keeps them by name.
_NAMED = Path("/run/netns")
_HERE = "/proc/thread-self/ns/net"
# Opening a ring, and closing it, waits for a grace period of the kernel: they can share one.
_THREADS = 32

_libc = ctypes.CDLL(None, use_errno=True)


def split(text: str) -> tuple[str, str]:
    """Namespace and interface in `NETNS:IFNAME`; the namespace is "" where none is named.

    The kernel takes no name of an interface that has a colon in it (dev_valid_name).
    """
    namespace, _, name = text.rpartition(":")
    return namespace, name


def _enter(namespace: str) -> None:
    """Move the calling thread; raises SystemRefused."""
    place = Path(namespace) if "/" in namespace else _NAMED / namespace
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise _not_allowed(namespace) from None
        raise SystemRefused(f"no network namespace {namespace!r}", "see: ip netns list") from None
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) == 0:
            return
        code = ctypes.get_errno()
    finally:
        os.close(descriptor)
    if code == errno.EPERM:
        raise _not_allowed(namespace)
    raise SystemRefused(f"{namespace!r} is not a network namespace", "see: ip netns list")


def _not_allowed(namespace: str) -> SystemRefused:
    return SystemRefused(f"cannot enter network namespace {namespace!r}: operation not permitted",
                         "run with sudo (CAP_SYS_ADMIN)")


def identity(interface_index: int) -> tuple[int, int, int]:
    """What tells the interface of the calling thread's namespace from all others."""
    here = Path(_HERE).stat()
    return here.st_dev, here.st_ino, interface_index


def side_by_side(calls: Sequence[tuple[str, Callable[[], T]]],
                 undo: Callable[[T], object] = lambda _: None) -> list[T]:
    """What each call returns in the namespace named with it ("": this one), many at a time.

    Where one raises, what others returned is handed to `undo`, and the first one's error is
    raised; a namespace that cannot be entered raises SystemRefused.
    """
    place = threading.local()
    home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)

    def run(namespace: str, call: Callable[[], T]) -> T:
        # Who stays where it is needs no privilege for that.
        if namespace != getattr(place, "namespace", ""):
            _enter(namespace or f"/proc/self/fd/{home}")
            place.namespace = namespace
        return call()

    try:
        with ThreadPoolExecutor(min(_THREADS, max(len(calls), 1))) as pool:
            futures: list[Future[T]] = [pool.submit(run, *call) for call in calls]
    finally:
        os.close(home)
    failed = [error for future in futures if (error := future.exception()) is not None]
    if not failed:
        return [future.result() for future in futures]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(undo, [f.result() for f in futures if f.exception() is None]))
    raise failed[0]


def within(namespace: str, call: Callable[[], T]) -> T:
    """What `call` returns in that namespace; "" is this one, and then needs no other thread."""
    return side_by_side([(namespace, call)])[0] if namespace else call()
