"""Processes, told apart for certain: a pid is used again, a pid with its start time is not.

Nothing is ever found by name.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# A program that was sent SIGTERM gets this long to write down what it has.
GRACE_S = 5.0
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this boot. started: its start, in clock ticks since boot (proc(5))."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.started and fields[0] not in "ZX"


@dataclass(frozen=True, slots=True)
class Resident:
    """A process that lives in one of our namespaces. namespace: its inode."""

    process: Process
    namespace: int
    command: str


def _stat(pid: int) -> list[str] | None:
    """/proc/<pid>/stat from its third field (state) on; the second may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def identify(pid: int) -> Process:
    """The process that has `pid` now; ProcessLookupError when there is none."""
    fields = _stat(pid)
    if fields is None:
        raise ProcessLookupError(pid)
    return Process(pid, int(fields[19]))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process and the children it waited for have used; 0 when gone."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def rss_bytes_max(pid: int) -> int:
    """The most memory that a process had resident; 0 when it has none any more."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def living_in(namespaces: Iterable[int]) -> list[Resident]:
    """Every process in one of the network namespaces with these inodes."""
    wanted = set(namespaces)
    found = []
    for path in _PROC.iterdir() if wanted else ():
        if not path.name.isdigit():
            continue
        # Processes end while we look.
        with contextlib.suppress(OSError):
            inode = (path / "ns/net").stat().st_ino
            if inode in wanted:
                command = (path / "comm").read_text().strip()
                found.append(Resident(identify(int(path.name)), inode, command))
    return found


def environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty when it is gone or not ours to read."""
    try:
        words = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(word).partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def end(processes: Iterable[Process], grace_s: float = GRACE_S) -> None:
    """SIGTERM to each, SIGKILL to those still there after `grace_s`; returns once all ended."""
    held: dict[int, Process] = {}
    try:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(process.pid)
                # Only now is it certain whom the descriptor holds.
                if process.alive:
                    held[descriptor] = process
                else:
                    os.close(descriptor)
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
            for descriptor in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            if _all_ended(held, patience_s):
                return
    finally:
        for descriptor in held:
            os.close(descriptor)


def _all_ended(held: Iterable[int], patience_s: float) -> bool:
    waiting, deadline = set(held), time.monotonic() + patience_s
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_s * 1000):
            poll.unregister(descriptor)
            waiting.discard(descriptor)
    return not waiting
