"""Compaction: a lease file with only the newest record of each address that still matters.

A process of its own (`python -m server.compact`) rewrites what the file held when it began;
the server meanwhile appends to the old file, copies what it appended behind the rewritten
part in small steps, and then puts the new file in the old one's place.

A record is left out only when a newer one of the same address exists, or when it is the
newest and says nothing any more: the address is free, or its lease ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.journal_format import HEADER, Reader, Span, block_header, write_all
from server.record import R_ADDRESS, R_ENDS, R_STATE, fields

_HOME = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1
_FREE = 0
# The server copies for so long at a time, in pieces of this many octets; somewhat longer with
# each step that ends with something left, or it might never catch up with what is appended.
_STEP_S, _MOST_STEP_S, _LONGER = 0.003, 0.02, 1.1
_PIECE = 256 << 10
# What may be left to copy and to sync in the one step that puts the new file in place.
_LITTLE = 1 << 20
_MOST_SYNCS = 5
# Addresses to collect before those seen more than once are dropped.
_COLLECT = 1 << 20


class Compaction:
    """One compaction under way, as the server sees it; `path` is the new file.

    Single-threaded, but for a sync in the background. Any failure is an OSError, after which
    only `abandon` may be called.
    """

    def __init__(self, source: Path, path: Path, size: int, now_s: int) -> None:
        """Start rewriting the first `size` octets of `source`; raises OSError."""
        self.path = path
        self._begun = self._copied = size
        self._base = self._synced = 0
        self._syncs = 0
        self._step_s = _STEP_S
        self._sync: _Sync | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._source = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        self._target = -1
        try:
            self._make(now_s)
        except BaseException:
            self.abandon()
            raise

    def _make(self, now_s: int) -> None:
        self.path.unlink(missing_ok=True)
        self._target = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                               0o600)
        self._inode = os.fstat(self._source)
        # The interpreter names the module's directory itself: our own may be anything.
        command = [sys.executable, "-m", "server.compact", *map(str, (
            self._source, self._target, self._begun, now_s, os.getpid()))]
        # A session of its own: Ctrl-C is for the server to hear.
        self._process = subprocess.Popen(
            command, cwd=_HOME, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, pass_fds=(self._source, self._target), start_new_session=True)

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode of the file that is rewritten."""
        return self._inode.st_dev, self._inode.st_ino

    def step(self, end: int) -> bool:
        """Go on for a few milliseconds; `end` is how long the old file is by now.

        True once `finish` would have little left to do.
        """
        if self._process is not None:
            if self._process.poll() is None:
                return False
            self._heed_exit(self._process)
        if self._sync is not None:
            if self._sync.is_alive():
                return False
            if self._sync.error is not None:
                raise self._sync.error
            self._synced, self._sync = self._sync.end, None
        until = time.perf_counter() + self._step_s
        while self._copied < end and time.perf_counter() < until:
            self._copy(min(end, self._copied + _PIECE))
        if self._copied < end:
            self._step_s = min(_MOST_STEP_S, self._step_s * _LONGER)
            return False
        if self._copied - self._synced <= _LITTLE or self._syncs >= _MOST_SYNCS:
            return True
        self._syncs += 1
        self._sync = _Sync(self._target, self._copied)
        return False

    def finish(self) -> tuple[int, int]:
        """Right after `step` said True: sync; returns the new file, locked, and its size."""
        # Who may not give files away keeps it as his own.
        with contextlib.suppress(PermissionError):
            os.fchown(self._target, self._inode.st_uid, self._inode.st_gid)
        os.fchmod(self._target, self._inode.st_mode & 0o777)
        os.fsync(self._target)
        fcntl.flock(self._target, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._target, self._base + self._copied - self._begun

    def release(self) -> None:
        """The new file is in place, and the caller's."""
        self._target = -1
        with contextlib.suppress(OSError):
            os.close(self._source)

    def abandon(self) -> None:
        """Stop, and remove the new file if the disk lets us: the next attempt does so too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stderr.close()  # type: ignore[union-attr]
        if self._sync is not None:
            self._sync.join()
        for fd in (self._source, self._target):
            with contextlib.suppress(OSError):
                os.close(fd)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _heed_exit(self, process: subprocess.Popen[bytes]) -> None:
        _, said = process.communicate()
        self._process = None
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines()
            raise OSError(0, lines[-1] if lines else f"exit status {process.returncode}")
        self._base = os.fstat(self._target).st_size
        self._synced = self._copied

    def _copy(self, upto: int) -> None:
        octets = os.pread(self._source, upto - self._copied, self._copied)
        if not octets:
            raise OSError(0, f"the file ends at octet {self._copied}")
        write_all(self._target, [octets], self._base + self._copied - self._begun)
        self._copied += len(octets)


class _Sync(threading.Thread):
    """One fdatasync beside the server; `end` and `error` are for when it is over."""

    def __init__(self, fd: int, end: int) -> None:
        super().__init__(name="compaction-sync", daemon=True)
        self._fd, self.end = fd, end
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self.error = error


def live_positions(spans: Iterator[Span], now_s: int) -> npt.NDArray[np.int64]:
    """Where the records to keep begin, ascending; positions count octets of records only."""
    parts: list[npt.NDArray[np.int64]] = []
    base = collected = newest = 0
    for span in spans:
        starts, records = span.starts, span.records
        over = (records[starts + R_STATE] == _FREE) | (fields(records, starts, R_ENDS, "<i8")
                                                       <= now_s)
        addresses = fields(records, starts, R_ADDRESS, "<u4")
        parts.append(np.stack([addresses, base + starts, over]))
        base += len(records)
        collected += len(starts)
        if collected > newest + _COLLECT:
            parts = [_newest(parts)]
            collected = newest = parts[0].shape[1]
    if not parts:
        return np.zeros(0, np.int64)
    rows = _newest(parts)
    return np.sort(rows[1, rows[2] == 0])


def _newest(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Of int64[3, n] (address, position, over) the last column of each address."""
    backwards = np.concatenate(parts, axis=1)[:, ::-1]
    return backwards[:, np.unique(backwards[0], return_index=True)[1]]


def _picked(span: Span, wanted: npt.NDArray[np.int64]) -> bytes:
    """The records of `span` that begin at `wanted`, one after the other."""
    words = span.records.view(np.uint64)
    after = np.append(span.starts[1:], len(span.records))
    edges = np.zeros(len(words) + 1, np.int8)
    edges[wanted // 8] += 1
    edges[after[np.searchsorted(span.starts, wanted)] // 8] -= 1
    picked: bytes = words[np.cumsum(edges[:-1]).astype(bool)].tobytes()
    return picked


def rewrite(source: int, size: int, target: int, now_s: int) -> None:
    """Write what matters of the first `size` octets of a file to another, and sync it.

    Raises OSError; also where a block is not sound: nobody would miss its records until they
    are needed.
    """
    header = os.pread(source, HEADER.size, 0)
    mark = HEADER.unpack(header)[1]
    reader = Reader(source, mark, size)
    live = live_positions(reader.spans(), now_s)
    if reader.at != size:
        raise OSError(0, f"the block at octet {reader.at} is damaged")
    end = write_all(target, [header], 0)
    base = kept = 0
    for span in Reader(source, mark, size).spans():
        first, last = np.searchsorted(live, [base, base + len(span.records)])
        if last > first:
            records = _picked(span, live[first:last] - base)
            head = block_header(mark, records, int(last - first))
            end += write_all(target, [head, records], end)
            kept += int(last - first)
        base += len(span.records)
    if kept != len(live):
        raise OSError(0, "the file read differently the second time")
    os.fsync(target)


def main() -> int:
    """`server.compact SOURCE-FD TARGET-FD SIZE NOW PARENT-PID`, as `Compaction` calls it."""
    source, target, size, now_s, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.nice(10)
    try:
        rewrite(source, size, target, now_s)
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
