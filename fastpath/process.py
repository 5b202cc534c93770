"""Running as a program: asked to stop, ready, and who else has the port.

A signal only sets a number and wakes whatever sleeps on `fd`; nothing is torn from the
middle of a batch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from types import FrameType
from typing import Self

from fastpath import bpf
from fastpath.errors import SystemRefused


class Stop:
    """Counts requests to end: SIGINT and SIGTERM (and what else is named).

    asked: how often so far. fd: readable from the first request on.
    """

    def __init__(self, *signals: int) -> None:
        self.asked = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fd = self._read
        # Python calls a handler between two of its instructions only. The byte is written when
        # the signal arrives, so one that comes just before a wait ends that wait too.
        self._woke_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._on_signal)
                        for number in (signal.SIGINT, signal.SIGTERM, *signals)}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    def heard(self) -> None:
        """Empty the pipe, so that the next wait sleeps until the next request."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def close(self) -> None:
        """Put the signals back as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woke_before)
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Signals(Stop):
    """What a daemon is asked by signals: to end, to reload (SIGHUP), to say its counts (SIGUSR1).

    asked, reload, dump: how often each was asked so far. Whoever serves compares them between
    two batches with what he has done already, and calls `heard` first.
    """

    def __init__(self) -> None:
        self.reload = self.dump = 0
        super().__init__(signal.SIGHUP, signal.SIGUSR1)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload += 1
        elif number == signal.SIGUSR1:
            self.dump += 1
        else:
            super()._on_signal(number, frame)


def notify(state: str, wait_s: float = 1.0) -> None:
    """Tell whoever started us, where he asked to be told: sd_notify(3).

    wait_s: how long to wait for him to take it, at most.
    """
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(wait_s)
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            # Whoever listened has gone; that is no reason to stop serving.
            return


def notify_reloading() -> None:
    """Tell that a reload begins; `READY=1` must follow, also when it failed: sd_notify(3)."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


class Watchdog:
    """Tells systemd that we live, twice in each period it set; sd_watchdog_enabled(3).

    Without WATCHDOG_USEC, or with another process's WATCHDOG_PID, it says nothing.
    """

    def __init__(self) -> None:
        self.period_s = _watchdog_s() / 2
        self._next_s = float("-inf")

    def tick(self, now_s: float) -> None:
        """Called again and again while all is well; now_s: seconds of a monotonic clock."""
        if self.period_s and now_s >= self._next_s:
            self._next_s = now_s + self.period_s
            notify("WATCHDOG=1", 0.0)


def _watchdog_s() -> float:
    """The period, 0.0 for none."""
    period, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not (period.isascii() and period.isdigit()) or pid not in ("", str(os.getpid())):
        return 0.0
    return int(period) / 1e6


def hold_port(port: int, interface: str) -> socket.socket:
    """Own UDP `port` on `interface` without reading from it; close the result to let go.

    Without an owner the kernel would answer unicast requests, which the ring has seen, with
    "port unreachable". It also keeps two servers from answering side by side.
    Raises SystemRefused when another program has it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        bpf.attach(sock, bpf.NOTHING)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemRefused(f"UDP port {port} on {interface!r} is in use",
                                f"see who: ss -lunp 'sport = {port}'") from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise SystemRefused(f"cannot take UDP port {port} on {interface!r}: "
                                "operation not permitted", "run with sudo") from None
        raise SystemRefused(f"cannot take UDP port {port} on {interface!r}: "
                            f"{error.strerror}") from None
    return sock


def keep_only(*descriptors: int) -> None:
    for first, last in zip((-1, *sorted(descriptors)), (*sorted(descriptors), 1 << 30),
                           strict=True):
        if first + 1 < last:
            os.closerange(first + 1, min(last, os.sysconf("SC_OPEN_MAX")))
