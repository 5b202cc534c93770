"""Logs: exact text, sound JSON, limits, and outputs that are full, slow or gone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from fastpath.log import BURST, MOST_KEYS, MOST_LINE, Log, parse_level


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Files:
    """A log into two files."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.paths = [folder / "out", folder / "err"]
        self.fds = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in self.paths]
        self.clock = Clock()
        self.log = Log("dhcp-server", out=self.fds[0], err=self.fds[1], clock=self.clock,
                       wall=lambda: 1_700_000_000.1239, **more)

    @property
    def out(self) -> list[str]:
        return self.paths[0].read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return self.paths[1].read_text().splitlines()


@contextlib.contextmanager
def files(folder: Path, **more: Any) -> Iterator[Files]:
    made = Files(folder, **more)
    try:
        yield made
    finally:
        for fd in made.fds:
            os.close(fd)


Make = Callable[..., Files]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(files(tmp_path, **more))


def test_text_looks_as_it_always_did(make: Make) -> None:
    made = make()
    made.log.info("serving 10.0.0.1 to 10.0.0.9\n  received  nothing", event="serving", n=3)
    made.log.warning("the pool is used up")
    made.log.error("no")
    made.log.debug("not said")
    assert made.out == ["dhcp-server: serving 10.0.0.1 to 10.0.0.9", "  received  nothing"]
    assert made.err == ["dhcp-server: the pool is used up", "dhcp-server: no"]


def test_json(make: Make) -> None:
    made = make(form="json", level="debug")
    made.log.debug("x", event="began", address=IPv4Address("10.0.0.1"), chaddr=b"\x02\0\xff",
                   n=3, nothing=None, ratio=float("nan"), path=Path("/a"), many=[b"\1", {"k": 2}])
    made.log.error("two\nlines", message="theirs", level="none", ts=1)
    assert json.loads(made.out[0]) == {
        "ts": "2023-11-14T22:13:20.123Z", "level": "debug", "program": "dhcp-server",
        "event": "began", "message": "x", "address": "10.0.0.1", "chaddr": "02:00:ff", "n": 3,
        "nothing": None, "ratio": None, "path": "/a", "many": ["01", {"k": 2}]}
    assert json.loads(made.err[0]) == {
        "ts": "2023-11-14T22:13:20.123Z", "level": "error", "program": "dhcp-server",
        "event": "message", "message": "two\nlines", "message_": "theirs", "level_": "none",
        "ts_": 1}


@pytest.mark.parametrize(("given", "means"), [("warn", "warning"), (" Error ", "error"),
                                              ("DEBUG", "debug"), ("info", "info")])
def test_levels(given: str, means: str) -> None:
    assert parse_level(given) == means


@pytest.mark.parametrize("given", ["", "loud", "warnings", "20", "info\n debug"])
def test_unknown_levels_and_forms(given: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_level(given)
    assert "\n" not in caught.value.what and "debug, info" in caught.value.remedy
    with pytest.raises(UserError):
        Log("x", form=given)


@pytest.mark.parametrize(("level", "said"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_the_least_level(make: Make, level: str, said: int) -> None:
    made = make(level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(made.log, name)("x")
        made.log.limited("k", name, "x")
        assert made.log.wants(name) == (name in ("debug", "info", "warning", "error")[4 - said:])
    assert len(made.out) + len(made.err) == 2 * said


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.sampled_from(["text", "json"]))
def test_hostile_text_makes_no_line_and_no_escape_sequence(
        tmp_path_factory: pytest.TempPathFactory, text: str, more: str, form: str) -> None:
    with files(tmp_path_factory.mktemp("log"), form=form) as made:
        made.log.info(f"from {text}", name=more, nested={more: [more]})
        octets = made.paths[0].read_bytes()
    shown = octets.decode()
    assert not any((c < " " and c != "\n") or "\x7f" <= c < "\xa0" for c in shown)
    # Whatever is on a line of its own begins with our name, or with a blank.
    lines = shown[:-1].split("\n")
    assert shown.endswith("\n") and all(line.startswith("  ") for line in lines[1:])
    if form == "json":
        said = json.loads(shown)
        assert len(lines) == 1 and set(said) >= {"ts", "name", "nested"}
        # No lone surrogate either, which many readers of JSON refuse.
        str(said).encode()


def test_a_newline_of_a_peer_cannot_forge_a_line(make: Make) -> None:
    made = make()
    made.log.info("host-name a\ndhcp-server: all is well\r\x1b[2J\x9b\u2028\u202e")
    assert made.out == ["dhcp-server: host-name a",
                        "  dhcp-server: all is well\\r\\x1b[2J\\x9b\\u2028\\u202e"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_are_bounded(make: Make, form: str) -> None:
    made = make(form=form, level="debug")
    made.log.info("\x01" * 200_000, many=["\x02" * 10_000] * 1000)
    made.log.info("next")
    assert all(len(line) <= MOST_LINE for line in made.out)
    if form == "json":
        assert json.loads(made.out[0])["cut"] and json.loads(made.out[1])["message"] == "next"
    else:
        assert "more characters" in made.out[0] and made.out[-1] == "dhcp-server: next"


def test_one_kind_of_message_is_limited(make: Make) -> None:
    made = make()
    for n in range(BURST + 1234):
        made.log.limited("malformed", "warning", f"frame {n}")
    made.log.limited("other", "warning", "other")
    assert made.err == [*(f"dhcp-server: frame {n}" for n in range(BURST)), "dhcp-server: other"]
    made.clock.now_s += 1
    made.log.limited("malformed", "warning", "frame z")
    made.log.limited("malformed", "warning", "frame zz")
    assert made.err[-1] == "dhcp-server: frame z (1,234 more like this)"
    made.clock.now_s += 3600
    for _ in range(BURST + 5):
        made.log.limited("malformed", "warning", "again")
    # An hour of silence saves up no more than one burst.
    assert made.err.count("dhcp-server: again") == BURST - 1
    assert made.err[BURST + 2] == "dhcp-server: again (1 more like this)"


def test_flush_says_what_was_suppressed(make: Make) -> None:
    made = make(form="json")
    for n in range(BURST + 7):
        made.log.limited("k", "info", f"line {n}", event="e")
    made.log.flush()
    assert len(made.out) == BURST
    made.clock.now_s += 1.5
    made.log.flush()
    made.log.flush()
    assert len(made.out) == BURST + 1
    said = json.loads(made.out[-1])
    assert (said["message"], said["suppressed"], said["event"]) == (
        f"… 7 more like this: line {BURST + 6}", 7, "e")
    made.log.limited("k", "info", "x")
    made.log.flush(final=True)
    assert json.loads(made.out[-1])["suppressed"] == 1


def test_flush_in_a_lasting_flood_stays_within_the_rate(make: Make) -> None:
    made = make()
    for _ in range(1000):
        made.clock.now_s += 0.1
        for _ in range(5):
            made.log.limited("k", "info", "x")
        made.log.flush()
    assert BURST + 95 <= len(made.out) <= BURST + 105


def test_hostile_keys_are_bounded(make: Make) -> None:
    made = make(total_per_s=1_000_000)
    for n in range(50 * MOST_KEYS):
        made.clock.now_s += 0.000_1
        made.log.limited(f"key {n}", "info", "x")
    assert len(made.log._keys) <= MOST_KEYS
    # New keys share one bucket while the others still rest.
    assert MOST_KEYS <= len(made.out) < MOST_KEYS * 15
    made.clock.now_s += 60
    made.log.flush(final=True)
    made.log.limited("fresh", "info", "a fresh key gets its own limit")
    assert made.out[-1] == "dhcp-server: a fresh key gets its own limit"


def test_suppressed_counts_survive_a_flood_of_keys(make: Make) -> None:
    made = make(total_per_s=1_000_000)
    for _ in range(BURST + 3):
        made.log.limited("mine", "info", "mine")
    for n in range(5 * MOST_KEYS):
        made.clock.now_s += 1
        made.log.limited(f"key {n}", "info", "x")
    made.log.flush(final=True)
    assert sum("3 more like this: mine" in line for line in made.out) == 1


def test_the_whole_program_is_limited(make: Make) -> None:
    """A flood cannot fill a disk, whatever its keys: lines are counted, and the count is said."""
    made = make(total_per_s=200)
    for _ in range(10_000):
        made.clock.now_s += 0.001
        made.log.info("x")
    said = made.out + made.err
    assert 200 + 10 * 200 - 10 <= len(made.out) <= 200 + 10 * 200 + 10 and len(said) < 2300
    assert made.log.over == 10_000 - len(made.out)
    made.clock.now_s += 5
    made.log.flush()
    notices = [line for line in made.err if "log lines left out" in line]
    assert len(made.err) == len(notices) <= 12
    assert sum(int(line.split(": ")[2].split()[0].replace(",", "")) for line in notices) \
        == made.log.over
    made.clock.now_s += 5
    made.log.flush(final=True)
    assert len(made.err) == len(notices)


def test_a_clock_that_steps_back_gives_nothing(make: Make) -> None:
    made = make()
    for step in (0, -500, 500, -500, 500):
        made.clock.now_s += step
        for _ in range(BURST):
            made.log.limited("k", "info", "x")
    assert BURST <= len(made.out) <= BURST + 2 * BURST


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    log = Log("x", out=write, err=write)
    for _ in range(3):
        log.info("into nothing")
    assert log.dropped == 3
    os.close(write)


def test_a_descriptor_that_is_closed() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    log = Log("x", out=write, err=write)
    log.info("into nothing")
    assert log.dropped == 1


def test_a_full_pipe_does_not_block_and_the_loss_is_said() -> None:
    clock = Clock()
    read, write = os.pipe()
    log = Log("x", out=write, err=write, total_per_s=1_000_000, clock=clock)
    began = time.monotonic()
    for n in range(20_000):
        log.info(f"line {n:05}")
    assert time.monotonic() - began < 20 and log.dropped > 10_000
    # Nobody else who has this pipe was made to not wait.
    assert os.get_blocking(write)
    taken = 0
    os.set_blocking(read, False)
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(read, 1 << 16):
            taken += piece.count(b"\n")
    clock.now_s += 10
    dropped = log.dropped
    log.info("room again")
    lines = os.read(read, 1 << 16).decode().splitlines()
    assert lines[-1] == "x: room again"
    assert lines[-2] == f"x: log lines left out: {dropped:,} that the output did not take"
    assert taken + dropped in (20_000, 20_001)
    os.close(read)
    os.close(write)


def test_a_stopped_terminal_does_not_block() -> None:
    master, slave = pty.openpty()
    log = Log("x", out=slave, err=slave, total_per_s=1_000_000)
    signal.alarm(20)
    for n in range(5000):
        log.info(f"line {n:05} {'x' * 100}")
    signal.alarm(0)
    assert log.dropped > 0
    shown = os.read(master, 60)
    assert shown.startswith(b"x: line 00000")
    os.close(slave)
    os.close(master)


def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        assert stat.S_ISCHR(os.fstat(full.fileno()).st_mode)
        log = Log("x", out=full.fileno(), err=full.fileno())
        log.info("nowhere")
        log.flush(final=True)
        assert log.dropped == 1


def test_a_line_that_was_cut_does_not_swallow_the_next(make: Make, monkeypatch: pytest.MonkeyPatch
                                                       ) -> None:
    made = make()
    real = os.write

    def full_soon(fd: int, octets: bytes) -> int:
        return real(fd, octets[:15])

    monkeypatch.setattr(os, "write", full_soon)
    made.log.info("this line is too long for the disk")

    def full(fd: int, octets: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    made.log.info("nor this")
    monkeypatch.setattr(os, "write", real)
    made.clock.now_s += 10
    made.log.info("room")
    made.log.info("more room")
    assert made.out == ["dhcp-server: th", "dhcp-server: room", "dhcp-server: more room"]
    assert made.err == ["dhcp-server: log lines left out: 2 that the output did not take"]


def test_a_file_at_its_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the write fails with EFBIG once SIGXFSZ is ignored, as Python does."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
            log = Log("x", out=fd, err=fd)
            for _ in range(100):
                log.info("y" * 50)
            code = 0 if log.dropped > 50 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "log").stat().st_size == 1000
