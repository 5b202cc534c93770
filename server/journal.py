"""The lease file: records go to its end in checksummed blocks, and come back at the start.

The one thing to know: what `append` has returned for is in the file whenever we are killed,
and what it raised `StoreFailed` for is taken out again. What survives a loss of power depends
on the durability: all of it (`strict`, which syncs each block), all but the last moment
(`batch`, which syncs in the background every 50 ms), or no promise (`none`).

After a failed sync Linux may hold data that it will never write and call it clean, so a
later success proves nothing. Whatever was not yet synced is therefore kept in memory, and
written and synced anew before anything else is stored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastpath.errors import SystemRefused, UserError
from fastpath.frame import Memory
from server.compact import Compaction
from server.journal_format import (
    BLOCK,
    HEADER,
    MOST_PAYLOAD,
    Reader,
    damaged,
    is_unborn,
    new_header,
    newest,
    read_mark,
    salvage,
    sync_directory,
    write_all,
)
from server.journal_sync import Syncer
from server.record import count_records

__all__ = ["Durability", "Journal", "StoreFailed", "newest", "salvage"]

Durability = Literal["none", "batch", "strict"]

# `batch`: at most so many octets not yet synced.
MOST_UNSYNCED = 16 << 20
# A failing disk is not asked more often than this.
MEND_INTERVAL_S = 0.1
COMPACT_FROM = 8 << 20
COMPACT_GROWTH = 3
COMPACT_RETRY_S = 60.0
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_TAIL = struct.Struct("<II")


class StoreFailed(OSError):
    """The records are not in the file, and nothing may be answered that needs them.

    errno, strerror: what the disk said.
    """


def _open_locked(path: Path) -> int:
    """The file at `path`, made if need be, and ours alone; raises SystemRefused or UserError."""
    try:
        while True:
            fd = os.open(path, _OPEN | os.O_CREAT, 0o640)
            try:
                opened = os.fstat(fd)
                if not stat.S_ISREG(opened.st_mode):
                    raise UserError(f"lease file {path} is not a regular file",
                                    "give another --lease-file")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A compaction may have put a new file there between the two calls.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(opened, path.stat()):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except BlockingIOError:
        raise SystemRefused(f"lease file {path} is in use by another server",
                            "stop that one, or give another --lease-file") from None
    except OSError as error:
        raise SystemRefused(f"cannot open lease file {path}: {error.strerror}",
                            "give another --lease-file, or change who owns it") from None


def _check_directory(path: Path) -> None:
    directory = path.parent
    if not directory.is_dir():
        raise SystemRefused(f"no directory {directory} for lease file {path.name}",
                            f"make it: mkdir -p {directory}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SystemRefused(f"cannot write in directory {directory}, where lease file "
                            f"{path.name} belongs", "change who owns it, or give another "
                            "--lease-file: compaction puts a new file beside the old one")


class Journal:
    """An open lease file; single-threaded. Read `blocks` to the end before the first `append`.

    size: octets of the file. compactions: how many succeeded. lost_octets: of a torn tail,
    known once `blocks` has been read. messages: lines for the log; take them out.
    """

    def __init__(self, path: Path, durability: Durability) -> None:
        """Open, or make, and lock; raises SystemRefused or UserError."""
        self._path = path.absolute().resolve()
        self._shown = path
        self._durability = durability
        self.compactions = self.lost_octets = 0
        self.messages: deque[str] = deque(maxlen=100)
        # False while something has to be put right before the next append: see `_mend`.
        self._sound = False
        self._recovered = False
        self._directory_unsure = self._gone = False
        self._failure = StoreFailed(errno.EIO, os.strerror(errno.EIO))
        self._mend_at = self._compact_at = 0.0
        self._compacted_size = 0
        self._compaction: Compaction | None = None
        # `batch`: octets written since the last sync that succeeded, each with its place.
        self._unsynced: deque[tuple[int, bytes]] = deque()
        self._unsynced_octets = 0
        self._syncer: Syncer | None = None
        self._head = bytearray(BLOCK.size)
        _check_directory(self._path)
        self._fd = _open_locked(self._path)
        try:
            self._begin()
        except BaseException:
            os.close(self._fd)
            raise

    def _begin(self) -> None:
        try:
            self.size = os.fstat(self._fd).st_size
            if is_unborn(os.pread(self._fd, HEADER.size, 0), self.size):
                os.ftruncate(self._fd, 0)
                self.size = write_all(self._fd, [new_header()], 0)
                os.fsync(self._fd)
            sync_directory(self._path.parent)
            self._mark = read_mark(self._fd, self._shown)
            self._scratch.unlink(missing_ok=True)
        except OSError as error:
            raise SystemRefused(f"cannot use lease file {self._shown}: "
                                f"{error.strerror}") from None
        _TAIL.pack_into(self._head, 0, self._mark, 0)

    @property
    def _scratch(self) -> Path:
        return self._path.with_name(self._path.name + ".compact")

    def blocks(self) -> Iterator[Memory]:
        """All records of the file, oldest first, as arrays of at most MOST_PAYLOAD octets.

        A torn tail is cut off. Raises UserError where the file is damaged before its end,
        SystemRefused where it cannot be read.
        """
        reader = Reader(self._fd, self._mark, self.size)
        try:
            for span in reader.spans():
                yield span.records
            if reader.at < self.size:
                end = reader.at
                if reader.malformed or reader.find_sound():
                    raise damaged(self._shown, end)
                self.lost_octets = self.size - end
                os.ftruncate(self._fd, end)
                self.size = end
            if self._durability != "none":
                os.fsync(self._fd)
        except OSError as error:
            raise SystemRefused(f"cannot read lease file {self._shown}: "
                                f"{error.strerror}") from None
        self._recovered = self._sound = True
        if self._durability == "batch":
            self._syncer = Syncer()

    def append(self, payload: Memory) -> None:
        """Store records as one block; raises StoreFailed, and ValueError for what is none.

        payload: uint8[at most MOST_PAYLOAD], contiguous, writable. With `strict` it is on disk
        after this; otherwise it takes some microseconds.
        """
        if self._gone:
            raise StoreFailed(errno.ENOENT, "the file was moved, removed or replaced; its leases "
                              f"are in /proc/{os.getpid()}/fd/{self._fd} while we run")
        if not self._sound or (self._syncer is not None and self._syncer.results):
            self._settle()
        length, octets = len(payload), payload.data
        count = count_records(payload, length)
        if count < 1 or length > MOST_PAYLOAD:
            raise ValueError(f"{length} octets are no block of records")
        if self._unsynced_octets > MOST_UNSYNCED:
            raise StoreFailed(errno.EAGAIN, "the disk does not keep up: too much to sync")
        head = self._head
        _TAIL.pack_into(head, 8, length, count)
        crc = zlib.crc32(octets, zlib.crc32(memoryview(head)[8:]))
        _TAIL.pack_into(head, 0, self._mark, crc)
        try:
            written = write_all(self._fd, (head, octets), self.size)
        except OSError as error:
            self._take_back()
            if self._compaction is not None:
                # The room that it takes may be what we lack.
                self._give_up(error)
            raise StoreFailed(error.errno, error.strerror) from None
        if self._durability == "strict":
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._distrust(error)
                self._take_back()
                raise self._failure from None
        elif self._syncer is not None:
            self._unsynced.append((self.size, bytes(head) + octets))
            self._unsynced_octets += written
            self._syncer.ask(self._fd, self.size + written)
        self.size += written

    def _take_back(self) -> None:
        """Cut off what a failed append left; where that fails too, before the next one."""
        try:
            os.ftruncate(self._fd, self.size)
        except OSError as error:
            self._distrust(error)

    def _distrust(self, error: OSError) -> None:
        self._sound = False
        self._failure = StoreFailed(error.errno, error.strerror)

    def _settle(self) -> None:
        """Hear of syncs in the background, and put right what failed; raises StoreFailed."""
        if not self._recovered:
            raise RuntimeError("append before blocks() was read to its end")
        syncer = self._syncer
        while syncer is not None and syncer.results:
            fd, end, error = syncer.results.popleft()
            # Another descriptor is that of the file before a compaction.
            if fd != self._fd:
                continue
            if error is not None:
                self._distrust(error)
                self.messages.append(f"lease file {self._shown} could not be synced: "
                                     f"{error.strerror}")
                # A success after a failure proves nothing.
                syncer.results.clear()
                break
            while self._unsynced and self._unsynced[0][0] < end:
                self._unsynced_octets -= len(self._unsynced.popleft()[1])
        if not self._sound:
            self._mend()

    def _mend(self) -> None:
        """Cut off leftovers and store anew what may be lost; raises StoreFailed.

        Cutting also makes the last page dirty again, so that it is written whole.
        """
        if time.monotonic() < self._mend_at:
            raise StoreFailed(self._failure.errno, self._failure.strerror)
        # The kernel tells of an error once: a sync under way could hear of ours.
        idle = self._syncer.idle if self._syncer is not None else threading.Lock()
        if not idle.acquire(blocking=False):
            raise StoreFailed(self._failure.errno, self._failure.strerror)
        try:
            os.ftruncate(self._fd, self.size)
            for at, octets in self._unsynced:
                write_all(self._fd, [octets], at)
            if self._durability != "none":
                os.fsync(self._fd)
                if self._directory_unsure:
                    sync_directory(self._path.parent)
            self._directory_unsure = False
            self._forget_unsynced()
            self._sound = True
        except OSError as error:
            self._distrust(error)
            self._mend_at = time.monotonic() + MEND_INTERVAL_S
            raise self._failure from None
        finally:
            idle.release()

    def _forget_unsynced(self) -> None:
        """All is on disk; results of syncs that were asked for before count no more."""
        self._unsynced.clear()
        self._unsynced_octets = 0
        if self._syncer is not None:
            self._syncer.results.clear()

    def tick(self, now_s: int) -> None:
        """Call some times a second: compaction goes on, a failed sync is tried again.

        now_s: Unix seconds. Takes some milliseconds at most, but for the step that puts a
        compacted file in place, which syncs about a megabyte.
        """
        self._gone = not self._is_there()
        try:
            self._settle()
        except StoreFailed:
            # Whoever appends is told.
            return
        try:
            if self._compaction is None:
                if self._is_due():
                    self._start_compaction(now_s)
            elif self._compaction.step(self.size):
                self._switch(self._compaction)
        except OSError as error:
            self._give_up(error)

    def _is_there(self) -> bool:
        """Whether the path still leads to our file: what we append to another is lost."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            return False

    def _is_due(self) -> bool:
        return (self.size > max(COMPACT_FROM, COMPACT_GROWTH * self._compacted_size)
                and time.monotonic() >= self._compact_at)

    def _start_compaction(self, now_s: int) -> None:
        self._compaction = Compaction(self._path, self._scratch, self.size, now_s)
        ours = os.fstat(self._fd)
        if self._compaction.inode != (ours.st_dev, ours.st_ino):
            raise OSError(0, f"another file lies at {self._path} now")

    def _give_up(self, error: OSError) -> None:
        self.messages.append(f"lease file {self._shown} could not be compacted: "
                             f"{error.strerror}; next attempt in {COMPACT_RETRY_S:.0f} s")
        self._compact_at = time.monotonic() + COMPACT_RETRY_S
        self._abandon()

    def _abandon(self) -> None:
        if self._compaction is not None:
            self._compaction.abandon()
            self._compaction = None

    def _switch(self, compaction: Compaction) -> None:
        """Put the compacted file in the old one's place; raises OSError before it is there."""
        fd, size = compaction.finish()
        compaction.path.rename(self._path)
        # From here on nothing may stop us half-way.
        old, self._fd = self._fd, fd
        self.size = self._compacted_size = size
        self._compaction = None
        self._forget_unsynced()
        self.compactions += 1
        compaction.release()
        if self._syncer is not None:
            self._syncer.retire(old)
        else:
            with contextlib.suppress(OSError):
                os.close(old)
        try:
            sync_directory(self._path.parent)
        except OSError as error:
            # After a loss of power the name may lead to the old file, which gets no more.
            self._directory_unsure = True
            self._distrust(error)

    def close(self) -> None:
        """Sync, unless durability is `none`, and let go; raises StoreFailed where that fails."""
        self._abandon()
        if self._syncer is not None:
            self._syncer.stop()
        try:
            if self._recovered:
                self._mend_at = 0.0
                self._settle()
                if self._durability != "none":
                    os.fsync(self._fd)
        except OSError as error:
            raise StoreFailed(error.errno, error.strerror) from None
        finally:
            with contextlib.suppress(OSError):
                os.close(self._fd)
