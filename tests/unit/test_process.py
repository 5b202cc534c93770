"""Asked to stop, and telling that we are ready: signals and sd_notify."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fastpath.process import Signals, Stop, Watchdog, notify, notify_reloading


def readable(fd: int, timeout_s: float = 0.0) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_counts(number: signal.Signals) -> None:
    """Each request counts; `fd` is readable from the first on, until it was heard."""
    with Stop() as stop:
        assert stop.asked == 0 and not readable(stop.fd)
        for asked in (1, 2):
            signal.raise_signal(number)
            assert stop.asked == asked and readable(stop.fd)
        stop.heard()
        assert not readable(stop.fd)
        stop.heard()
        signal.raise_signal(number)
        assert stop.asked == 3 and readable(stop.fd)


def test_stop_wakes_a_sleeper() -> None:
    with Stop() as stop:
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        began = time.monotonic()
        # PEP 475: select goes on after a signal; it is the pipe that ends it.
        assert readable(stop.fd, 10)
        assert time.monotonic() - began < 5 and stop.asked == 1
        sender.join()


def test_stop_puts_back_what_was_there() -> None:
    seen: list[int] = []
    before = {number: signal.getsignal(number)
              for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    mine = signal.getsignal(signal.SIGUSR1)
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        with Stop(signal.SIGUSR1) as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert stop.asked == 1 and not seen
        assert signal.getsignal(signal.SIGUSR1) is mine
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1] and stop.asked == 1
    finally:
        signal.signal(signal.SIGUSR1, before[signal.SIGUSR1])
    assert {number: signal.getsignal(number) for number in before} == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_stop_is_not_inherited() -> None:
    """A program that we start must not keep our pipe open."""
    with Stop() as stop:
        assert not os.get_inheritable(stop.fd)


def listener(tmp_path: Path, kind: str) -> tuple[socket.socket, str]:
    """A bound datagram socket, and how the environment names it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(5)
    name = f"dhcp-netlab-test-{secrets.token_hex(8)}"
    sock.bind(str(tmp_path / "notify") if kind == "path" else f"\0{name}")
    return sock, str(tmp_path / "notify") if kind == "path" else f"@{name}"


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_notify(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_notify(3): the state in one datagram, to a path or, after @, an abstract name."""
    sock, place = listener(tmp_path, kind)
    with sock:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        notify("READY=1\nSTATUS=serving")
        notify("STOPPING=1")
        assert [sock.recv(100), sock.recv(100)] == [b"READY=1\nSTATUS=serving", b"STOPPING=1"]


@pytest.mark.parametrize("place", [None, "", "/no/such/socket", "@dhcp-netlab-nobody", "x" * 200,
                                   "@" + "x" * 200])
def test_nobody_listens(place: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing happens: who was to be told has gone, or never was."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if place is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
    descriptors = len(os.listdir("/proc/self/fd"))
    notify("READY=1")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_stop_takes_a_flood_of_requests() -> None:
    """More than the pipe holds: counted all the same, and heard at once."""
    with Stop() as stop:
        for _ in range(70_000):
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked == 70_000 and readable(stop.fd)
        stop.heard()
        assert not readable(stop.fd)


def test_signals_are_counted_apart() -> None:
    with Signals() as asked:
        for number, expected in ((signal.SIGHUP, (0, 1, 0)), (signal.SIGUSR1, (0, 1, 1)),
                                 (signal.SIGHUP, (0, 2, 1)), (signal.SIGTERM, (1, 2, 1)),
                                 (signal.SIGINT, (2, 2, 1))):
            signal.raise_signal(number)
            assert (asked.asked, asked.reload, asked.dump) == expected
            assert readable(asked.fd)
            asked.heard()
            assert not readable(asked.fd)


def test_signals_put_back_what_was_there() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    woken = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(woken)
    with Signals() as outer, Signals() as inner:
        signal.raise_signal(signal.SIGHUP)
        assert (outer.reload, inner.reload) == (0, 1)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(woken) == woken


def test_notify_reloading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_notify(3): RELOADING=1 with the time of CLOCK_MONOTONIC in microseconds."""
    sock, place = listener(tmp_path, "path")
    with sock:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        before = time.monotonic_ns() // 1000
        notify_reloading()
        first, second = sock.recv(200).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC" and before <= int(value) <= time.monotonic_ns() // 1000


def test_notify_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that does not read: its queue fills, and we go on."""
    sock, place = listener(tmp_path, "path")
    with sock:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        began = time.monotonic()
        for _ in range(2000):
            notify("WATCHDOG=1", 0.0)
        notify("READY=1", 0.05)
        assert time.monotonic() - began < 10


def test_watchdog_at_half_the_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sock, place = listener(tmp_path, "abstract")
    with sock:
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        monkeypatch.setenv("WATCHDOG_USEC", "3000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        watchdog = Watchdog()
        assert watchdog.period_s == 1.5
        sent = []
        for tenth in range(50):
            watchdog.tick(100 + tenth / 10)
            with contextlib.suppress(BlockingIOError):
                sent.append((tenth, sock.recv(100)))
    assert sent == [(tenth, b"WATCHDOG=1") for tenth in (0, 15, 30, 45)]


@pytest.mark.parametrize(("period", "pid"), [
    (None, None), ("", None), ("0", None), ("-5", None), ("abc", None), ("1.5", None),
    ("²", None), ("3000000", "1"), ("3000000", "x")])
def test_no_watchdog(period: str | None, pid: str | None, tmp_path: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:
    sock, place = listener(tmp_path, "abstract")
    with sock:
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        for name, value in (("WATCHDOG_USEC", period), ("WATCHDOG_PID", pid)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        Watchdog().tick(1.0)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
