"""Compaction while serving: against a dict, killed at every step, and failing at every step."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import SystemRefused
from server import compact, journal_format
from server import journal as module
from server.journal import Journal, StoreFailed, newest
from server.journal_format import HEADER, write_all
from server.record import Lease
from tests.journals import NOW_S, block, content, lease, opened, read
from tests.kernels import examples, wraps

pytestmark = wraps


class Here:
    """In place of `subprocess.Popen`: rewrites in this process when first asked whether done."""

    def __init__(self, command: list[str], **how: Any) -> None:
        self._task = [int(word) for word in command[3:7]]
        self.returncode: int | None = None
        self.stderr = io.BytesIO()
        self._said = b""

    def poll(self) -> int | None:
        source, target, size, now_s = self._task
        try:
            compact.rewrite(source, size, target, now_s)
            self.returncode = 0
        except OSError as error:
            self._said = f"line\n{error.strerror}\n".encode()
            self.returncode = 1
        return self.returncode

    def communicate(self) -> tuple[None, bytes]:
        return None, self._said

    def kill(self) -> None:
        """It runs only within `poll`."""

    def wait(self) -> None:
        """As `kill`."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction is due early, done in this process, and tried again at once; no real sync."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    monkeypatch.setattr(subprocess, "Popen", Here)
    monkeypatch.setattr(module, "COMPACT_FROM", 500)
    monkeypatch.setattr(module, "COMPACT_RETRY_S", 0.0)
    monkeypatch.setattr(module, "MEND_INTERVAL_S", 0.0)


def live(leases: list[Lease]) -> dict[int, Lease]:
    """The newest of each address, where it says something at NOW_S."""
    latest = {int(each.address): each for each in leases}
    return {address: each for address, each in latest.items()
            if each.state != "free" and (each.ends is None or each.ends > NOW_S)}


def until_compacted(journal: Journal, seconds: float = 10.0) -> None:
    before = journal.compactions
    until = time.monotonic() + seconds
    while journal.compactions == before:
        journal.tick(NOW_S)
        assert time.monotonic() < until, list(journal.messages)
        time.sleep(0.001)


# The rewriting itself.

RECORDS = st.builds(
    lease, st.integers(0, 6), st.integers(0, 1 << 20),
    state=st.sampled_from(["bound", "bound", "free", "declined"]),
    ends=st.sampled_from([NOW_S - 1, NOW_S, NOW_S + 1, 1 << 62]), id_length=st.integers(0, 17))


@settings(examples(200, 60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.lists(st.lists(RECORDS, min_size=1, max_size=4), max_size=12),
       span=st.sampled_from([1, 100, 300, 1 << 20]), collect=st.sampled_from([0, 5, 1 << 20]))
def test_only_what_matters_is_kept(tmp_path: Path, blocks: list[list[Lease]], span: int,
                                   collect: int) -> None:
    path, out = tmp_path / "leases", tmp_path / "out"
    path.unlink(missing_ok=True)
    out.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        journal = opened(path)
        for leases in blocks:
            journal.append(block(*leases))
        size = journal.size
        # Appended after the start: not for the process that rewrites.
        journal.append(block(lease(1, 99), lease(7, 99)))
        journal.close()
        patch.setattr(compact, "_COLLECT", collect)
        # Several blocks at a time, or each for itself.
        patch.setattr(journal_format, "MOST_PAYLOAD", max(span, 300))
        _rewrite(path, size, out)
        kept = content(out)
    expected = live([each for leases in blocks for each in leases])
    assert len(kept) == len(expected)
    assert live(kept) == expected


def _rewrite(path: Path, size: int, out: Path) -> None:
    with path.open("rb") as source, out.open("w+b") as target:
        compact.rewrite(source.fileno(), size, target.fileno(), NOW_S)


def test_damage_is_not_compacted_away(path: Path) -> None:
    journal = opened(path)
    for n in range(3):
        journal.append(block(lease(n)))
    journal.close()
    changed = bytearray(path.read_bytes())
    changed[HEADER.size + 80] ^= 1
    path.write_bytes(changed)
    with pytest.raises(OSError, match=f"octet {HEADER.size + 72} "):
        _rewrite(path, len(changed), path.with_name("out"))


# While serving.

CHANGES = st.one_of(
    st.tuples(st.just("bind"), st.integers(0, 5), st.integers(0, 12)),
    st.tuples(st.just("free"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
    st.tuples(st.sampled_from(["tick", "tick", "reopen", "full"]), st.just(0), st.just(0)))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("durability", ["none", "batch", "strict"])
@settings(examples(60, 20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=20, max_size=80))
def test_model(tmp_path: Path, durability: module.Durability,
               changes: list[tuple[str, int, int]]) -> None:
    path = tmp_path / "leases"
    path.unlink(missing_ok=True)
    journal = opened(path, durability)
    model: dict[int, Lease] = {}
    for version, (what, number, id_length) in enumerate(changes):
        if what == "tick":
            journal.tick(NOW_S)
        elif what == "reopen":
            journal.close()
            journal = Journal(path, durability)
            assert live(read(journal)) == live(list(model.values()))
        elif what == "full":
            _fail_to_append(journal)
        else:
            change = lease(number, version, state="free" if what == "free" else "bound",
                           ends=NOW_S if what == "end" else None, id_length=id_length)
            journal.append(block(change))
            model[number] = change
            assert live(newest(path)) == live(list(model.values()))
    assert not any("another" in line for line in journal.messages)
    journal.close()
    assert live(content(path)) == live(list(model.values()))


def _fail_to_append(journal: Journal) -> None:
    def full(fd: int, parts: list[Any], at: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(StoreFailed):
            journal.append(block(lease(3, 1 << 30)))


def test_by_a_process_while_appending(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing: what is appended meanwhile is not lost, and the old lock goes on."""
    monkeypatch.setattr(module, "COMPACT_FROM", 1 << 20)
    journal = opened(path, "batch")
    version = 0
    for version in range(300):
        journal.append(block(*(lease(n, version) for n in range(100))))
    before = journal.size
    appended = 0
    until = time.monotonic() + 15
    while not journal.compactions:
        journal.tick(NOW_S)
        version += 1
        journal.append(block(lease(version % 200, version, id_length=100)))
        appended += 1
        assert time.monotonic() < until, list(journal.messages)
        time.sleep(0.002)
    assert appended > 3 and journal.size < before / 2
    with pytest.raises(SystemRefused, match="in use"):
        Journal(path, "none")
    journal.append(block(lease(201, 7)))
    expected = live(newest(path))
    journal.close()
    assert live(content(path)) == expected
    assert {each.written for each in expected.values()} >= {7, version}
    assert os.listdir(path.parent) == ["leases"]


def test_closing_ends_the_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_FROM", 100)
    journal = opened(path)
    journal.append(block(lease(1), lease(2)))
    journal.tick(NOW_S)
    assert journal._compaction is not None
    process = journal._compaction._process
    assert process is not None
    journal.close()
    assert process.returncode == -9
    assert os.listdir(path.parent) == ["leases"]


def test_it_dies_with_the_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before it could ask to be told, so that it must look who its parent is."""
    monkeypatch.setattr(module, "COMPACT_FROM", 100)
    receive, send = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            journal = opened(path)
            journal.append(block(lease(1), lease(2)))
            journal.tick(NOW_S)
            assert journal._compaction is not None
            process = journal._compaction._process
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)
            os.write(send, process.pid.to_bytes(4, "little"))
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        pid = int.from_bytes(pipe.read(), "little")
    os.waitpid(server, 0)
    os.kill(pid, signal.SIGCONT)
    until = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    # It has written nothing, and what it would have written into goes at the next start.
    assert path.with_name("leases.compact").stat().st_size == 0
    assert content(path) == [lease(1), lease(2)]
    assert os.listdir(path.parent) == ["leases"]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Killed, or refused by the disk, at every call to the system.

CALLS = ("open", "pwritev", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "close",
         "pread", "fchmod")


class Counted:
    """Functions of `os` that call `at_call` at call `number`, and at the three after it."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, at_call: Callable[[], None]) -> None:
        self.left = number
        self._at_call = at_call
        for name in CALLS:
            patch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if -4 < self.left <= 0:
                self._at_call()
            return real(*args, **named)
        return call


def _change(version: int) -> Lease:
    return lease(version % 4, version, state="free" if version % 7 == 0 else "bound")


def _serve(journal: Journal, stored: Callable[[Lease], object]) -> None:
    """Two dozen changes with compactions in between; the changes that are stored are told."""
    for version in range(1, 25):
        change = _change(version)
        try:
            journal.append(block(change))
        except StoreFailed:
            continue
        finally:
            journal.tick(NOW_S)
        stored(change)


def _killed_at(path: Path, durability: module.Durability, number: int) -> tuple[list[int], bool]:
    """Versions that were acknowledged, and whether it was over before call `number`."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            journal = opened(path, durability)
            Counted(pytest.MonkeyPatch(), number, lambda: os._exit(9))
            _serve(journal, lambda change: os.write(send, bytes([change.written])))
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = list(pipe.read())
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("durability", ["strict", "batch"])
def test_killed_at_every_call(tmp_path: Path, durability: module.Durability) -> None:
    for number in range(1, 1000):
        path = tmp_path / f"leases{number}"
        said, over = _killed_at(path, durability, number)
        # What was under way may be stored too, as long as nobody was told.
        changes = [_change(version) for version in range(1, len(said) + 2)]
        assert said == list(range(1, len(said) + 1))
        assert live(content(path)) in (live(changes), live(changes[:-1])), number
        path.unlink()
        assert os.listdir(tmp_path) == [], number
        if over:
            break
    assert 50 < number < 999


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("durability", ["none", "strict"])
def test_refused_at_every_call(tmp_path: Path, durability: module.Durability) -> None:
    """The disk is full for four calls: serving goes on, and what was stored is there."""
    for number in range(1, 1000):
        path = tmp_path / f"leases{number}"
        journal = opened(path, durability)
        model: list[Lease] = []
        with pytest.MonkeyPatch.context() as patch:
            counted = Counted(patch, number, _refuse)
            _serve(journal, model.append)
        over = counted.left > 0
        assert journal.compactions
        journal.tick(NOW_S)
        journal.append(block(lease(5, 200)))
        assert not any("another file" in line for line in journal.messages), number
        journal.close()
        assert live(content(path)) == live([*model, lease(5, 200)]), number
        path.unlink()
        assert os.listdir(tmp_path) == [], number
        if over:
            break
    assert 50 < number < 999


def _refuse() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("small")
def test_a_failure_is_told_and_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(path)
    for version in range(20):
        journal.append(block(lease(1, version)))

    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compact, "write_all", full)
    for _ in range(3):
        journal.tick(NOW_S)
    said = journal.messages.popleft()
    assert str(path) in said and "No space left" in said and "next attempt" in said
    monkeypatch.setattr(module, "COMPACT_RETRY_S", 60.0)
    journal.tick(NOW_S)
    journal.tick(NOW_S)
    journal.messages.clear()
    for _ in range(5):
        journal.tick(NOW_S)
    assert not journal.messages and journal.compactions == 0
    monkeypatch.setattr(compact, "write_all", write_all)
    monkeypatch.setattr(journal, "_compact_at", 0.0)
    journal.append(block(lease(2)))
    until_compacted(journal)
    journal.close()
    assert content(path) == [lease(1, 19), lease(2)]


@pytest.mark.usefixtures("small")
def test_a_full_disk_gets_the_room_of_the_new_file_back(path: Path) -> None:
    journal = opened(path)
    for version in range(20):
        journal.append(block(lease(1, version)))
    journal.tick(NOW_S)
    assert len(os.listdir(path.parent)) == 2
    _fail_to_append(journal)
    assert os.listdir(path.parent) == ["leases"]
    until_compacted(journal)
    journal.close()


@pytest.mark.usefixtures("small")
def test_a_file_that_somebody_put_there_is_not_replaced(path: Path) -> None:
    journal = opened(path)
    for version in range(20):
        journal.append(block(lease(1, version)))
    path.rename(path.with_name("moved"))
    path.write_bytes(b"another's")
    for _ in range(3):
        journal.tick(NOW_S)
    assert "another file" in journal.messages[0]
    journal.close()
    assert path.read_bytes() == b"another's"
    assert len(content(path.with_name("moved"))) == 20


@pytest.mark.usefixtures("small")
def test_the_new_file_has_the_old_ones_mode(path: Path) -> None:
    journal = opened(path)
    path.chmod(0o604)
    for version in range(20):
        journal.append(block(lease(1, version)))
    until_compacted(journal)
    journal.close()
    assert path.stat().st_mode & 0o777 == 0o604


@pytest.mark.usefixtures("small")
def test_the_new_file_is_on_disk_before_it_has_the_name(path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(path, "strict")
    for version in range(20):
        journal.append(block(lease(1, version)))
    done: list[tuple[str, int, int]] = []

    def sync(fd: int) -> None:
        done.append(("sync", os.fstat(fd).st_ino, os.fstat(fd).st_size))

    real = os.rename

    def rename(old: Path, new: Path) -> None:
        real(old, new)
        done.append(("rename", os.stat(new).st_ino, os.stat(new).st_size))

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "fsync", sync)
    journal.tick(NOW_S)
    journal.append(block(lease(2)))
    until_compacted(journal)
    new = path.stat()
    assert done[-3:-1] == [("sync", new.st_ino, new.st_size), ("rename", new.st_ino, new.st_size)]
    assert done[-1][:2] == ("sync", path.parent.stat().st_ino)
    journal.close()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("durability", ["batch", "strict"])
def test_nothing_is_stored_until_the_name_is_on_disk(path: Path, durability: module.Durability,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(path, durability)
    for version in range(20):
        journal.append(block(lease(1, version)))
    directory = path.parent.stat().st_ino

    def sync(fd: int) -> None:
        if os.fstat(fd).st_ino == directory:
            _refuse()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        until_compacted(journal)
        for _ in range(2):
            with pytest.raises(StoreFailed, match="No space"):
                journal.append(block(lease(2)))
    journal.append(block(lease(3)))
    journal.close()
    assert content(path) == [lease(1, 19), lease(3)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fails", [False, True])
def test_much_that_was_copied_is_synced_in_the_background(
        path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    journal = opened(path)
    for version in range(20):
        journal.append(block(lease(1, version)))
    threads: list[str] = []

    def sync(fd: int) -> None:
        threads.append(threading.current_thread().name)
        if fails:
            _refuse()

    monkeypatch.setattr(compact, "_LITTLE", 50)
    monkeypatch.setattr(os, "fdatasync", sync)
    journal.tick(NOW_S)
    journal.append(block(lease(2)))
    # Where it fails, the next attempt has nothing to copy.
    until_compacted(journal)
    assert ["No space left" in line for line in journal.messages] == [True] * fails
    assert set(threads) == {"compaction-sync"}
    journal.close()
    assert live(content(path)) == live([lease(1, 19), lease(2)])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("durability", ["none", "batch"])
def test_nothing_is_left_open(path: Path, durability: module.Durability) -> None:
    before = os.listdir("/proc/self/fd")
    journal = opened(path, durability)
    for _ in range(3):
        for version in range(20):
            journal.append(block(lease(1, version)))
        until_compacted(journal)
    journal.close()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.usefixtures("small")
def test_it_is_not_due_again_until_the_file_has_grown(path: Path) -> None:
    journal = opened(path)
    for version in range(20):
        journal.append(block(lease(version, version)))
    until_compacted(journal)
    size = journal.size
    while journal.size <= 3 * size:
        for _ in range(4):
            journal.tick(NOW_S)
        assert journal.compactions == 1
        journal.append(block(lease(1, 0)))
    until_compacted(journal)
    assert journal.compactions == 2
    journal.close()
