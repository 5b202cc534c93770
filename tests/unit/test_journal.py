"""The lease file: torn, damaged, foreign, full and failing, and never a wrong record."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath.errors import SystemRefused, UserError
from server import journal as module
from server.journal import Durability, Journal, StoreFailed, newest, salvage
from server.journal_format import BLOCK, HEADER, MAGIC, MOST_PAYLOAD, block_header
from server.record import MOST_RECORD, encode_record
from tests.journals import block, content, lease, opened, read
from tests.kernels import wraps

pytestmark = wraps

DURABILITIES: tuple[Durability, ...] = ("none", "batch", "strict")
# Three blocks: of one record, of two, of one.
THREE = ([lease(1, 1)], [lease(2, 2, id_length=0), lease(3, 3, state="declined")],
         [lease(1, 4, state="free", id_length=9)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sync: for tests that open thousands of files."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def write_three(path: Path) -> list[int]:
    """Write THREE; returns where each block begins, and the size."""
    journal = opened(path)
    edges = [journal.size]
    for leases in THREE:
        journal.append(block(*leases))
        edges.append(journal.size)
    journal.close()
    assert edges[-1] == path.stat().st_size
    return edges


# Opening.

@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_was_stored_comes_back(path: Path, durability: Durability) -> None:
    journal = Journal(path, durability)
    assert read(journal) == []
    for leases in THREE:
        journal.append(block(*leases))
    journal.close()
    again = Journal(path, durability)
    assert read(again) == [each for leases in THREE for each in leases]
    assert (again.lost_octets, again.compactions, again.size) == (0, 0, path.stat().st_size)
    again.append(block(lease(9)))
    again.close()
    assert len(content(path)) == 5
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_many_blocks_are_read_in_arrays_of_bounded_size(path: Path) -> None:
    journal = opened(path)
    sizes = [1, 300, 2, 400, 1]
    for i, size in enumerate(sizes):
        records = [lease(n, i, id_length=MOST_RECORD - 48) for n in range(size)]
        journal.append(block(*records))
    journal.close()
    again = Journal(path, "none")
    lengths = [len(records) for records in again.blocks()]
    again.close()
    assert sum(lengths) == sum(sizes) * MOST_RECORD
    assert max(lengths) <= MOST_PAYLOAD and len(lengths) < len(sizes)


def test_the_directory_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SystemRefused) as caught:
        Journal(tmp_path / "no" / "leases", "none")
    assert str(tmp_path / "no") in caught.value.what and "mkdir" in caught.value.remedy


def test_the_directory_must_be_writable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write anywhere, so that the answer is changed, not the mode.
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(SystemRefused) as caught:
        Journal(path, "none")
    assert str(path.parent) in caught.value.what and not path.exists()


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo])
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises((UserError, SystemRefused), match=str(path)):
        Journal(path, "none")


def test_a_second_server_is_refused(path: Path) -> None:
    first = opened(path)
    with pytest.raises(SystemRefused, match="in use by another server") as caught:
        Journal(path, "none")
    assert str(path) in caught.value.what
    first.append(block(lease(1)))
    first.close()
    assert content(path) == [lease(1)]


@pytest.mark.parametrize("held", [True, False])
def test_a_file_renamed_over_before_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch,
                                             held: bool) -> None:
    write_three(path)
    fresh = path.with_name("fresh")
    other = opened(fresh)
    other.append(block(lease(77)))
    if not held:
        other.close()
    real = fcntl.flock
    calls: list[int] = []

    def flock(fd: int, how: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            fresh.rename(path)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    if held:
        with pytest.raises(SystemRefused, match="in use"):
            Journal(path, "none")
        other.close()
    else:
        assert content(path) == [lease(77)]
    assert len(calls) == 2


def test_nothing_is_left_open(path: Path) -> None:
    write_three(path)
    before = set(os.listdir("/proc/self/fd"))
    content(path)
    newest(path)
    salvage(path, path.with_name("kept"))
    held = opened(path, "batch")
    for _ in range(3):
        with pytest.raises(SystemRefused):
            Journal(path, "none")
    held.close()
    path.write_bytes(b"garbage" * 9)
    for call in (lambda: Journal(path, "none"), lambda: newest(path),
                 lambda: salvage(path, path.with_name("k2"))):
        with pytest.raises(UserError):
            call()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    opened(link).close()
    assert link.is_symlink() and path.is_file()


def test_a_leftover_of_a_compaction_is_removed_only_beside_our_own_file(path: Path) -> None:
    write_three(path)
    leftover = path.with_name("leases.compact")
    leftover.write_bytes(b"half")
    assert len(content(path)) == 4 and not leftover.exists()
    leftover.write_bytes(b"somebody's")
    path.write_bytes(b"not ours, and so may the other be")
    with pytest.raises(UserError):
        Journal(path, "none")
    assert leftover.exists()


# Reading what is torn, damaged or foreign.

@pytest.mark.usefixtures("quick")
def test_a_tail_torn_at_every_octet(path: Path) -> None:
    edges = write_three(path)
    whole = path.read_bytes()
    for size in range(edges[2], edges[3]):
        path.write_bytes(whole[:size])
        assert newest(path) == [lease(1, 1), *THREE[1]]
        journal = Journal(path, "none")
        assert read(journal) == [lease(1, 1), *THREE[1]]
        assert journal.lost_octets == size - edges[2]
        journal.append(block(*THREE[2]))
        journal.close()
        assert path.read_bytes() == whole


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 40, bytes(5 << 20)])
def test_a_tail_that_never_reached_the_disk(path: Path, tail: bytes) -> None:
    edges = write_three(path)
    with path.open("ab") as file:
        file.write(tail)
    journal = Journal(path, "none")
    assert len(read(journal)) == 4 and journal.lost_octets == len(tail)
    journal.close()
    assert path.stat().st_size == edges[-1]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("size", range(HEADER.size + 1))
def test_a_header_that_never_reached_the_disk(path: Path, size: int) -> None:
    opened(path).close()
    whole = path.read_bytes()
    for start in (whole[:size], bytes(size)):
        path.write_bytes(start)
        assert newest(path) == [] and content(path) == []
        assert path.read_bytes()[:8] == MAGIC


@pytest.mark.usefixtures("quick")
def test_a_flipped_bit_is_never_a_wrong_record(path: Path) -> None:
    edges = write_three(path)
    whole = path.read_bytes()
    dice = random.Random(7)
    kept = path.with_name("kept")
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        hit = max(i for i, edge in enumerate([0, *edges[:-1]]) if edge <= at)
        if hit == 3:
            assert newest(path) == [lease(1, 1), *THREE[1]]
        else:
            for call in (newest, content):
                with pytest.raises(UserError, match=str(path)) as caught:
                    call(path)
                assert "octet" in caught.value.what and caught.value.remedy
                if hit:
                    assert f"damaged at octet {edges[hit - 1]}" in caught.value.what
                    assert f"dhcp-server leases {path} --salvage" in caught.value.remedy
            assert path.read_bytes() == changed
        left = [each for i, leases in enumerate(THREE, 1) if i != hit for each in leases]
        skipped = edges[hit] - edges[hit - 1] if hit else 0
        assert salvage(path, kept) == (len(left), skipped)
        assert content(kept) == left
        kept.unlink()
        if hit == 3:
            assert content(path) == left


def test_damage_over_many_blocks_is_skipped_by_salvage(path: Path) -> None:
    journal = opened(path)
    edges = []
    for n in range(60):
        edges.append(journal.size)
        journal.append(block(*(lease(n, n, id_length=2000) for _ in range(100))))
    journal.close()
    whole = bytearray(path.read_bytes())
    # The damage is longer than what is read at once, and ends amid a block.
    whole[edges[3] + 5:edges[40] + 999] = bytes(edges[40] + 999 - edges[3] - 5)
    path.write_bytes(whole + b"torn")
    with pytest.raises(UserError, match=f"octet {edges[3]}"):
        content(path)
    kept = path.with_name("kept")
    assert salvage(path, kept) == (2200, edges[41] - edges[3] + 4)
    assert [each.written for each in content(kept)][::100] == [0, 1, 2, *range(41, 60)]


def _raw_block(path: Path, records: bytes, count: int) -> bytes:
    mark = HEADER.unpack_from(path.read_bytes())[1]
    return block_header(mark, records, count) + records


BAD_STATE = encode_record(lease(5))[:4] + b"\x01" + encode_record(lease(5))[5:]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("records", "count"), [
    (encode_record(lease(5)), 2), (encode_record(lease(5)) * 2, 1), (BAD_STATE, 1),
    (encode_record(lease(5))[:-8], 1), (b"", 1), (bytes(48)[:40], 1), (bytes(48), 0)])
@pytest.mark.parametrize("after", [True, False])
def test_records_that_were_written_wrong_are_damage(path: Path, records: bytes, count: int,
                                                    after: bool) -> None:
    """A right checksum does not make them right; even at the end, as no crash tears so."""
    edges = write_three(path)
    with path.open("ab") as file:
        file.write(_raw_block(path, records, count))
        file.write(_raw_block(path, encode_record(lease(6)), 1) * after)
    for call in (content, newest):
        with pytest.raises(UserError, match=f"octet {edges[-1]}"):
            call(path)
    assert salvage(path, path.with_name("kept"))[0] == 4 + after


@pytest.mark.usefixtures("quick")
def test_a_block_longer_than_ours_is_damage(path: Path) -> None:
    edges = write_three(path)
    count = MOST_PAYLOAD // 48 + 1
    with path.open("ab") as file:
        file.write(_raw_block(path, bytes(48 * count), count))
        file.write(_raw_block(path, encode_record(lease(6)), 1))
    with pytest.raises(UserError, match=f"octet {edges[-1]}"):
        content(path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("cut", "counts"), [(1, (2, 1)), (1.5, (2, 1)), (1.5, (1, 2)),
                                             (1, (0, 3)), (0, (1, 2))])
def test_two_blocks_that_are_sound_only_together(path: Path, cut: float,
                                                 counts: tuple[int, int]) -> None:
    edges = write_three(path)
    three = encode_record(lease(5, id_length=0)) * 3
    at = int(cut * 48)
    with path.open("ab") as file:
        file.write(_raw_block(path, three[:at], counts[0]))
        file.write(_raw_block(path, three[at:], counts[1]))
    with pytest.raises(UserError, match=f"octet {edges[-1]}"):
        content(path)


@pytest.mark.usefixtures("quick")
def test_a_length_without_end_is_not_read_into_memory(path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    edges = write_three(path)
    whole = path.read_bytes()
    endless = whole[8:12] + bytes(4) + (0xFFFFFFF8).to_bytes(4, "little") + b"\1\0\0\0"
    path.write_bytes(whole + endless + bytes(1000) + endless)
    os.truncate(path, 40 << 20)
    asked: list[int] = []
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        asked.append(size)
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", pread)
    assert len(content(path)) == 4
    assert max(asked) <= 4 * MOST_PAYLOAD and path.stat().st_size == edges[-1]


@pytest.mark.usefixtures("quick")
def test_a_client_cannot_forge_a_block(path: Path) -> None:
    """A block inside a client identifier, whole and checked, but without the file's mark."""
    write_three(path)
    real = path.read_bytes()
    stranger = path.with_name("stranger")
    write_three(stranger)
    forged = stranger.read_bytes()[HEADER.size:]
    journal = opened(path)
    record = bytearray(encode_record(lease(8, id_length=504)))
    record[48:48 + len(forged)] = forged
    journal.append(np.frombuffer(record, np.uint8))
    journal.close()
    torn = path.read_bytes()[:-8]
    path.write_bytes(torn)
    assert len(content(path)) == 4
    # With the mark it would have been taken for a sound block.
    mark, other = real[8:12], forged[:4]
    path.write_bytes(torn[:len(real)] + torn[len(real):].replace(other, mark))
    with pytest.raises(UserError, match=f"octet {len(real)}"):
        content(path)


FOREIGN = [
    (b"address,hwaddr,client_id,valid_lifetime,expire\n10.0.0.1,,,1,1\n", "Kea"),
    (b"# The format of this file is documented in the dhcpd.leases(5) manual page.\n", "ISC"),
    (b"lease 10.0.0.1 {\n  starts 4 2026/01/01 00:00:00;\n}\n", "ISC"),
    (b"SQLite format 3\0" + bytes(100), "SQLite"),
    (b"x", "octet 0"), (bytes(17), "octet 0"), (os.urandom(5000), "octet 0"),
    (b"DHCPLSE2" + bytes(40), "format"), (b"DHCPLSE1" + bytes(8), "octet 8")]


@pytest.mark.parametrize(("data", "said"), FOREIGN)
def test_foreign_files_are_refused_and_left_alone(path: Path, data: bytes, said: str) -> None:
    path.write_bytes(data)
    for call in (content, newest):
        with pytest.raises(UserError, match=said) as caught:
            call(path)
        assert str(path) in caught.value.what and caught.value.remedy
        assert path.read_bytes() == data
    with pytest.raises(UserError, match="no sound block"):
        salvage(path, path.with_name("kept"))
    assert sorted(os.listdir(path.parent)) == ["leases"]


def test_salvage_overwrites_nothing(path: Path) -> None:
    write_three(path)
    with pytest.raises(UserError, match="exists"):
        salvage(path, path)
    assert len(content(path)) == 4
    with pytest.raises(SystemRefused, match="No such file"):
        salvage(path, path.parent / "no" / "kept")
    with pytest.raises(SystemRefused, match="No such file"):
        newest(path.parent / "absent")


def test_newest_reads_a_live_file(path: Path) -> None:
    journal = opened(path)
    for leases in THREE:
        journal.append(block(*leases))
    assert newest(path) == [THREE[2][0], *THREE[1]]
    journal.close()


# Writing where the disk does not.

def test_append_wants_sound_records_and_recovery_first(path: Path) -> None:
    journal = Journal(path, "none")
    with pytest.raises(RuntimeError):
        journal.append(block(lease(1)))
    read(journal)
    for bad in (block(), block(lease(1))[:-8], np.full(56, 7, np.uint8),
                np.zeros(MOST_PAYLOAD + 16, np.uint8)):
        with pytest.raises(ValueError):
            journal.append(bad)
    journal.append(block(lease(1)))
    journal.close()
    assert content(path) == [lease(1)]


class Failing:
    """In place of functions of `os`: each call first does what `before` does, once armed."""

    def __init__(self, patch: pytest.MonkeyPatch, **before: Callable[..., Any]) -> None:
        self.armed = False
        for name, what in before.items():
            patch.setattr(os, name, self._wrap(getattr(os, name), what))

    def _wrap(self, real: Callable[..., Any], what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.armed and (result := what(*args)) is not None:
                return result
            return real(*args)
        return call


def raises(number: int) -> Callable[..., Any]:
    def fail(*args: Any) -> None:
        raise OSError(number, os.strerror(number))
    return fail


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_write_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch,
                                           durability: Durability, number: int) -> None:
    real = os.pwritev
    disk = Failing(monkeypatch, pwritev=lambda fd, parts, at: (
        real(fd, [bytes(parts[0])], at) if len(parts) == 2 else raises(number)()))
    journal = opened(path, durability)
    journal.append(block(lease(1, 1)))
    size = journal.size
    disk.armed = True
    for _ in range(3):
        with pytest.raises(StoreFailed) as caught:
            journal.append(block(lease(1, 2)))
        assert (caught.value.errno, caught.value.strerror) == (number, os.strerror(number))
        assert path.stat().st_size == journal.size == size
    disk.armed = False
    journal.append(block(lease(1, 3)))
    journal.close()
    assert content(path) == [lease(1, 1), lease(1, 3)]


def test_a_full_disk_that_cannot_even_truncate(path: Path, monkeypatch: pytest.MonkeyPatch
                                               ) -> None:
    monkeypatch.setattr(module, "MEND_INTERVAL_S", 0.0)
    real = os.pwritev
    disk = Failing(monkeypatch, ftruncate=raises(errno.EIO), pwritev=lambda fd, parts, at: (
        real(fd, [bytes(parts[0]), bytes(parts[1])[:50]], at) if len(parts) == 2
        else raises(errno.ENOSPC)()))
    journal = opened(path)
    journal.append(block(lease(1, 1)))
    disk.armed = True
    for _ in range(2):
        with pytest.raises(StoreFailed):
            journal.append(block(lease(2, 2), lease(3, 3)))
    # Killed now, the file has a torn tail.
    assert newest(path) == [lease(1, 1)]
    assert path.stat().st_size > journal.size
    disk.armed = False
    # Shorter than the leftovers, which would else stand behind it.
    journal.append(block(lease(4, id_length=0)))
    journal.close()
    assert content(path) == [lease(1, 1), lease(4, id_length=0)]


def test_a_limit_on_the_size_of_files(path: Path) -> None:
    """A real limit of the kernel: first a short write, then EFBIG."""
    journal = opened(path, "strict")
    journal.append(block(lease(1)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 100, hard))
    try:
        with pytest.raises(StoreFailed, match="File too large"):
            journal.append(block(lease(2), lease(3)))
        assert path.stat().st_size == journal.size
        journal.append(block(lease(4)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(block(lease(5)))
    journal.close()
    assert content(path) == [lease(1), lease(4), lease(5)]


def test_strict_syncs_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    journal = opened(path, "strict")
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    journal.append(block(lease(1)))
    assert synced == [journal.size]
    journal.close()


@pytest.mark.parametrize("stubborn", [False, True])
def test_strict_takes_back_what_could_not_be_synced(path: Path, stubborn: bool,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Failing(monkeypatch, fdatasync=raises(errno.EIO))
    worse = Failing(monkeypatch, ftruncate=raises(errno.EIO), fsync=raises(errno.EIO))
    journal = opened(path, "strict")
    journal.append(block(lease(1, 1)))
    size = journal.size
    disk.armed, worse.armed = True, stubborn
    for _ in range(3):
        with pytest.raises(StoreFailed, match="Input/output"):
            journal.append(block(lease(1, 2)))
        assert journal.size == size
        assert stubborn or path.stat().st_size == size
    disk.armed = worse.armed = False
    _eventually(lambda: journal.append(block(lease(2, 3))))
    journal.close()
    assert content(path) == [lease(1, 1), lease(2, 3)]


def _eventually(call: Callable[[], object], seconds: float = 3.0) -> None:
    """Until it no longer raises StoreFailed."""
    until = time.monotonic() + seconds
    while True:
        try:
            call()
            return
        except StoreFailed:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _until(condition: Callable[[], object], seconds: float = 3.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("through", ["append", "tick", "close"])
def test_batch_writes_anew_what_a_failed_sync_lost(path: Path, through: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux may do: the pages of a failed sync are clean, and gone when read again."""
    good: list[int] = []
    lost = threading.Event()

    def lose(fd: int) -> None:
        size = os.fstat(fd).st_size
        os.pwrite(fd, bytes(size - good[0]), good[0])
        lost.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = Failing(monkeypatch, fdatasync=lose)
    journal = opened(path, "batch")
    good.append(journal.size)
    disk.armed = True
    journal.append(block(lease(1, 1)))
    assert lost.wait(3)
    _until(lambda: journal._syncer is not None and journal._syncer.results)
    disk.armed = False
    expected = [lease(1, 1)]
    if through == "append":
        _eventually(lambda: journal.append(block(lease(2, 2))))
        expected.append(lease(2, 2))
    elif through == "tick":
        until = time.monotonic() + 3
        while not newest(path):
            journal.tick(0)
            assert time.monotonic() < until
        assert any("could not be synced" in line for line in journal.messages)
    journal.close()
    assert content(path) == expected


def test_batch_says_so_while_the_disk_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Failing(monkeypatch, fdatasync=raises(errno.EIO), fsync=raises(errno.EIO))
    journal = opened(path, "batch")
    disk.armed = True
    journal.append(block(lease(1, 1)))
    _until(lambda: journal._syncer is not None and journal._syncer.results)
    for _ in range(5):
        with pytest.raises(StoreFailed, match="Input/output"):
            journal.append(block(lease(2, 2)))
    with pytest.raises(StoreFailed):
        journal.close()
    assert newest(path) == [lease(1, 1)]


def test_batch_does_not_wait_for_the_disk_nor_run_away_from_it(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNSYNCED", 5000)
    hung = threading.Event()
    disk = Failing(monkeypatch, fdatasync=lambda fd: hung.wait(5) and None)
    journal = opened(path, "batch")
    disk.armed = True
    stored = 0
    with pytest.raises(StoreFailed, match="keep up"):
        for stored in range(1000):
            journal.append(block(lease(1, stored)))
    assert 5000 < journal.size < 5300
    hung.set()
    _eventually(lambda: journal.append(block(lease(1, stored))))
    journal.close()
    assert [each.written for each in content(path)] == list(range(stored + 1))


def test_mending_does_not_wait_for_a_sync_that_hangs(path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, hung = threading.Event(), threading.Event()

    def hang(fd: int) -> None:
        hanging.set()
        hung.wait(5)

    slow = Failing(monkeypatch, fdatasync=hang)
    full = Failing(monkeypatch, pwritev=raises(errno.ENOSPC), ftruncate=raises(errno.EIO))
    journal = opened(path, "batch")
    slow.armed = True
    journal.append(block(lease(1)))
    assert hanging.wait(3)
    full.armed = True
    begun = time.monotonic()
    for said in ("No space", "Input/output"):
        with pytest.raises(StoreFailed, match=said):
            journal.append(block(lease(2)))
    full.armed = False
    with pytest.raises(StoreFailed, match="Input/output"):
        journal.append(block(lease(2)))
    assert time.monotonic() - begun < 2
    hung.set()
    _eventually(lambda: journal.append(block(lease(3))))
    journal.close()
    assert content(path) == [lease(1), lease(3)]


def test_batch_syncs_soon_and_not_too_often(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[float] = []
    journal = opened(path, "batch")
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(time.monotonic()))
    begun = time.monotonic()
    while time.monotonic() < begun + 0.3:
        journal.append(block(lease(1)))
        time.sleep(0.001)
    _until(lambda: len(synced) >= 3)
    journal.close()
    gaps = np.diff(synced)
    assert len(synced) <= 8 and gaps.min() >= 0.049
    assert journal._unsynced_octets < journal.size


# Killed.

def _run_and_kill(path: Path, seconds: float) -> list[int]:
    """Run a writer for so long, kill it, and return the numbers that it says it stored."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(receive)
            journal = Journal(path, "strict")
            number = max((each.written for each in read(journal)), default=0)
            while True:
                number += 1
                journal.append(block(*(lease(n, number) for n in range(number % 5 + 1))))
                os.write(send, number.to_bytes(8, "little"))
        finally:
            os._exit(1)
    os.close(send)
    time.sleep(seconds)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    return [int.from_bytes(said[i:i + 8], "little") for i in range(0, len(said), 8)]


def test_killed_at_any_instant(path: Path) -> None:
    dice = random.Random(3)
    acknowledged: list[int] = []
    last = 0
    for _ in range(6):
        acknowledged += _run_and_kill(path, dice.uniform(0.02, 0.2))
        stored = [each.written for each in content(path)]
        # In order, each of them whole, and at most one more that was not acknowledged.
        for number in acknowledged:
            assert stored.count(number) == number % 5 + 1
        assert stored == sorted(stored)
        assert max(stored, default=0) <= max([last, *acknowledged]) + 1
        last = max(stored, default=0)
    assert len(acknowledged) > 6


def test_sizes_are_as_documented() -> None:
    assert (HEADER.size, BLOCK.size) == (16, 16)
