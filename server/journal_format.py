"""The lease file on disk: a header, then blocks of records; read, checked and salvaged here.

The one thing to know: each file has a random mark, which its header and every block begin
with. Clients choose octets that end up in records (their identifiers), and without knowing the
mark none can forge a block that a search for sound blocks would take for ours.

All numbers are little-endian; every block begins at a multiple of 8.

    header  0  8 octets  MAGIC, its last digit is the version   8  u32  mark
           12  u32  CRC-32 of the twelve octets before
    block   0  u32  mark                 4  u32  CRC-32 of all that follows
            8  u32  octets of records   12  u32  how many records   16  the records
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.errors import SystemRefused, UserError
from fastpath.frame import Memory
from server.record import R_ADDRESS, Lease, decode_record, fields, record_starts

MAGIC = b"DHCPLSE1"
HEADER = struct.Struct("<8sII")
BLOCK = struct.Struct("<IIII")
# Octets of records in one block; a longer length is damage, and never read into memory.
MOST_PAYLOAD = 1 << 20
_WINDOW = 4 * MOST_PAYLOAD

_OTHERS = ((b"address,", "a Kea memfile"), (b"# The format of this file", "ISC dhcpd's"),
           (b"lease ", "ISC dhcpd's"), (b"SQLite format 3", "an SQLite database"))


def new_header() -> bytes:
    """A header with a fresh mark."""
    start = MAGIC + (secrets.randbelow(0xFFFFFFFF) + 1).to_bytes(4, "little")
    return start + zlib.crc32(start).to_bytes(4, "little")


def block_header(mark: int, records: bytes | memoryview, count: int) -> bytes:
    """The 16 octets that go before `records`."""
    tail = struct.pack("<II", len(records), count)
    return struct.pack("<II", mark, zlib.crc32(records, zlib.crc32(tail))) + tail


def write_all(fd: int, buffers: Sequence[bytes | bytearray | memoryview], at: int) -> int:
    """Write all of `buffers` at octet `at`; returns how many octets; raises OSError.

    A disk that is nearly full takes a part of it first, and only says so when asked again.
    """
    total = sum(len(buffer) for buffer in buffers)
    done = os.pwritev(fd, buffers, at)
    if done < total:
        rest = memoryview(b"".join(buffers))
        while done < total:
            done += os.pwritev(fd, [rest[done:]], at + done)
    return total


def sync_directory(directory: Path) -> None:
    """Make names in `directory` as lasting as what they name; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def damaged(path: Path, at: int) -> UserError:
    """What is said of a file with a sound part after an unsound one."""
    return UserError(f"lease file {path} is damaged at octet {at}",
                     f"keep what is sound: dhcp-server leases {path} --salvage NEWFILE")


def is_unborn(head: bytes, size: int) -> bool:
    """A file that was made, but whose header never reached the disk: nothing is in it yet."""
    return size <= HEADER.size and (not any(head) or (size < HEADER.size
                                                      and MAGIC.startswith(head[:len(MAGIC)])))


def read_mark(fd: int, path: Path) -> int:
    """The mark of an open file; raises UserError where it is not ours, newer, or damaged."""
    head = os.pread(fd, 64, 0)
    if len(head) >= HEADER.size:
        magic, mark, crc = HEADER.unpack_from(head)
        if zlib.crc32(MAGIC + head[8:12]) == crc:
            if magic == MAGIC:
                return int(mark)
            raise damaged(path, 0)
        if magic == MAGIC:
            raise damaged(path, len(MAGIC))
    if head[:7] == MAGIC[:7]:
        raise UserError(f"lease file {path} has format {head[7:8]!r} at octet 7, "
                        f"this program reads {MAGIC[7:]!r}",
                        "use the dhcp-server that wrote it, or give another --lease-file")
    kind = next((name for start, name in _OTHERS if head.startswith(start)), "of another kind")
    raise UserError(f"{path} is no lease file of dhcp-server, from octet 0 on: it is {kind}",
                    "give another --lease-file; `dhcp-server leases --help` tells how to import")


class Span(NamedTuple):
    """Records of some blocks that follow one another.

    records: uint8, writable, at most MOST_PAYLOAD. starts: where each record begins in it.
    """

    records: Memory
    starts: npt.NDArray[np.int64]


class Reader:
    """Walks the blocks of an open file from octet `at` up to `end`.

    at: after the blocks walked so far; once `spans` has ended, `end` or where the first
    unsound block begins. malformed: that block is as it was written, and yet its records are
    not sound. The file may be in use by a server meanwhile.
    """

    def __init__(self, fd: int, mark: int, end: int, at: int = HEADER.size) -> None:
        self._fd, self._mark, self._end = fd, mark, end
        self.at = at
        self.malformed = False

    def spans(self) -> Iterator[Span]:
        """Records of sound blocks, until an unsound one or the end."""
        parts: list[memoryview] = []
        counts: list[int] = []
        octets = 0
        for payload, count in self._blocks():
            if octets + len(payload) > MOST_PAYLOAD:
                yield from self._span(parts, counts)
                if self.malformed:
                    return
                parts, counts, octets = [], [], 0
            parts.append(payload)
            counts.append(count)
            octets += len(payload)
        yield from self._span(parts, counts)

    def _span(self, parts: list[memoryview], counts: list[int]) -> Iterator[Span]:
        """Join blocks, and go past them; stops before the first whose records are not sound."""
        if not parts:
            return
        records: Memory = np.frombuffer(bytearray().join(parts), np.uint8)
        starts = record_starts(records)
        ends = np.cumsum([len(part) for part in parts])
        if starts is None or (np.searchsorted(starts, ends) != np.cumsum(counts)).any() \
                or not np.isin(ends[:-1], starts).all():
            if len(parts) == 1:
                self.malformed = True
                return
            for part, count in zip(parts, counts, strict=True):
                yield from self._span([part], [count])
                if self.malformed:
                    return
            return
        self.at += len(records) + BLOCK.size * len(parts)
        yield Span(records, starts)

    def _blocks(self) -> Iterator[tuple[memoryview, int]]:
        """Payload and count of each block whose checksum is right, from `at` on."""
        at, unpack, crc32, mine = self.at, BLOCK.unpack_from, zlib.crc32, self._mark
        while at < self._end:
            window = memoryview(os.pread(self._fd, min(_WINDOW, self._end - at), at))
            place, size = 0, len(window)
            while place + BLOCK.size <= size:
                mark, crc, length, count = unpack(window, place)
                after = place + BLOCK.size + length
                if mark != mine or length > MOST_PAYLOAD or length % 8:
                    return
                if after > size:
                    break
                if crc32(window[place + 8:after]) != crc:
                    return
                yield window[place + BLOCK.size:after], count
                place = after
            if place == 0:
                return
            at += place

    def find_sound(self) -> bool:
        """Go to the next block with a right checksum after the unsound one at `at`.

        False, and `at` stays, where there is none.
        """
        mark = self._mark.to_bytes(4, "little")
        at = self.at + 8 & ~7
        self.malformed = False
        while at + BLOCK.size <= self._end:
            window = os.pread(self._fd, min(_WINDOW, self._end - at), at)
            place = window.find(mark)
            while place != -1:
                if (at + place) % 8 == 0 and self._checksum_right(at + place):
                    self.at = at + place
                    return True
                place = window.find(mark, place + 1)
            if len(window) <= 8:
                break
            # Steps of 8 at most, so that no mark lies across two windows.
            at += len(window) - 8 & ~7 or 8
        return False

    def _checksum_right(self, at: int) -> bool:
        head = os.pread(self._fd, BLOCK.size, at)
        if len(head) < BLOCK.size:
            return False
        _, crc, length, _ = BLOCK.unpack(head)
        if length > MOST_PAYLOAD or length % 8 or at + BLOCK.size + length > self._end:
            return False
        payload = os.pread(self._fd, length, at + BLOCK.size)
        return bool(zlib.crc32(payload, zlib.crc32(head[8:])) == crc)


def newest(path: Path) -> list[Lease]:
    """The newest record of each address, by address, FREE ones and ended ones too.

    Takes no lock: a server may be writing, and a torn tail is then nothing unusual. Raises
    UserError where the file is not ours or damaged, SystemRefused where it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    try:
        try:
            found = _newest(fd, path)
        except UserError:
            # A server on a full disk cuts its file and writes on while we read: look again.
            found = _newest(fd, path)
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    return [decode_record(found[address], 0) for address in sorted(found)]


def _newest(fd: int, path: Path) -> dict[int, bytes]:
    size = os.fstat(fd).st_size
    if is_unborn(os.pread(fd, HEADER.size, 0), size):
        return {}
    found: dict[int, bytes] = {}
    reader = Reader(fd, read_mark(fd, path), size)
    for records, starts in reader.spans():
        octets = records.tobytes()
        edges = [*starts.tolist(), len(octets)]
        addresses = fields(records, starts, R_ADDRESS, "<u4").tolist()
        for i, address in enumerate(addresses):
            found[address] = octets[edges[i]:edges[i + 1]]
    unsound = reader.at
    if unsound < size and (reader.malformed or reader.find_sound()):
        raise damaged(path, unsound)
    return found


def _find_mark(fd: int, size: int) -> int | None:
    """The mark that makes at least one block sound, from the header or the first block."""
    head = os.pread(fd, HEADER.size + BLOCK.size, 0)
    for at in (8, 16):
        mark = int.from_bytes(head[at:at + 4], "little")
        reader = Reader(fd, mark, size, HEADER.size - 8)
        if mark and reader.find_sound():
            return mark
    return None


def salvage(path: Path, out: Path) -> tuple[int, int]:
    """Copy every sound block of `path` to `out`, which must not exist yet.

    Returns (records kept, octets skipped). Raises UserError where nothing is sound,
    SystemRefused where a file cannot be read or written.
    """
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    try:
        size = os.fstat(source).st_size
        mark = _find_mark(source, size)
        if mark is None:
            raise UserError(f"{path} has no sound block of a lease file in it",
                            "if it is another program's: `dhcp-server leases --help`")
        target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            kept = _copy_sound(Reader(source, mark, size), size, target)
            os.fsync(target)
        except BaseException:
            out.unlink()
            raise
        finally:
            os.close(target)
        return kept
    except FileExistsError:
        raise UserError(f"{out} exists already", "salvage into a new file") from None
    except OSError as error:
        raise SystemRefused(f"cannot salvage {path} into {out}: {error.strerror}") from None
    finally:
        os.close(source)


def _copy_sound(reader: Reader, size: int, target: int) -> tuple[int, int]:
    header = new_header()
    mark = HEADER.unpack(header)[1]
    end = write_all(target, [header], 0)
    records = skipped = 0
    while True:
        for span in reader.spans():
            octets, count = span.records.data, len(span.starts)
            end += write_all(target, [block_header(mark, octets, count), octets], end)
            records += count
        unsound = reader.at
        if unsound == size or not reader.find_sound():
            return records, skipped + size - unsound
        skipped += reader.at - unsound
