"""The result document: verdict, exit code, written whole or not at all, read back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import Malformed, SystemRefused
from fastpath.files import check_writable, write_json
from tester.result import EXIT_CODES, SCHEMA, own_limits, read_json, verdict

LEGS = ("discover", "request", "reboot", "renew", "rebind", "inform", "release", "decline")


def document(*, planned: int = 100, started: int = 100, returned: int = 0,
             completed: int | None = None, failed: int | None = None, in_flight: int = 0,
             lost: str = "", leases_lost: int = 0, rx_ring: int | None = 0, missed: int = 0,
             interrupted: bool = False, stopped: str = "", duration_s: float | None = None,
             load: str = "open", took_s: float = 10.0, busy: float = 50.0,
             full: float = 100.0) -> dict[str, Any]:
    """What a verdict looks at; without a word all that began is completed."""
    begun = started + returned
    if completed is None:
        completed = begun - (failed or 0) - in_flight
    if failed is None:
        failed = begun - completed - in_flight
    return {"schema": SCHEMA, "interrupted": interrupted, "stopped": stopped,
            "missed_starts": missed, "duration_s": took_s,
            "clients": {"planned": planned, "started": started, "bound": completed,
                        "failed": failed, "leases_lost": leases_lost},
            "exchanges": {"planned": planned, "started": started, "returned": returned,
                          "completed": completed, "failed": failed, "in_flight": in_flight},
            "legs": {name: {"sent": started, "lost": int(name == lost)} for name in LEGS},
            "config": {"duration_s": duration_s, "load": load},
            "generator": {"busy_percent": busy, "full_turns_percent": full},
            "losses": {"rx_ring": rx_ring, "tx_ring": 0, "interface": 0, "server_socket": None}}


@pytest.mark.parametrize(("numbers", "expected"), [
    ({}, "pass"),
    ({"completed": 99}, "incomplete"),
    ({"completed": 0}, "incomplete"),
    ({"in_flight": 1}, "incomplete"),
    ({"returned": 50}, "pass"),
    ({"returned": 50, "failed": 1}, "incomplete"),
    ({"started": 0}, "incomplete"),
    ({"started": 99}, "incomplete"),
    ({"started": 99, "duration_s": 1.0}, "pass"),
    ({"started": 0, "duration_s": 1.0}, "incomplete"),
    ({"interrupted": True}, "incomplete"),
    ({"interrupted": True, "started": 50, "duration_s": 1.0}, "incomplete"),
    ({"stopped": "5 exchanges were lost"}, "incomplete"),
    ({"stopped": "5 exchanges were lost", "duration_s": 1.0}, "incomplete"),
    ({"leases_lost": 1}, "incomplete"),
    *(({"lost": name}, "incomplete") for name in LEGS),
    ({"rx_ring": None}, "pass"),
    ({"rx_ring": 1}, "generator-bound"),
    ({"rx_ring": 1, "completed": 10}, "generator-bound"),
    ({"missed": 1}, "pass"),
    ({"missed": 2}, "generator-bound"),
    ({"missed": 100, "completed": 10, "interrupted": True}, "generator-bound"),
    ({"load": "closed", "busy": 100.0}, "generator-bound"),
    ({"load": "closed", "busy": 95.0, "full": 50.0, "took_s": 5.0}, "generator-bound"),
    ({"load": "closed", "busy": 94.9}, "pass"),
    # Never idle, but what was in flight waited elsewhere.
    ({"load": "closed", "busy": 100.0, "full": 49.9}, "pass"),
    ({"load": "closed", "busy": 100.0, "took_s": 4.99}, "pass"),
    ({"load": "open", "busy": 100.0}, "pass"),
])
def test_verdict(numbers: dict[str, Any], expected: str) -> None:
    assert verdict(document(**numbers)) == expected


@pytest.mark.parametrize(("numbers", "expected"), [
    ({}, []), ({"rx_ring": 5}, ["rx_ring"]), ({"missed": 5}, ["missed_starts"]),
    ({"load": "closed", "busy": 99.5}, ["cpu"]),
    ({"rx_ring": 1, "missed": 9, "load": "closed", "busy": 100.0},
     ["rx_ring", "missed_starts", "cpu"]),
    ({"started": 0, "missed": 1}, ["missed_starts"])])
def test_own_limits(numbers: dict[str, Any], expected: list[str]) -> None:
    assert own_limits(document(**numbers)) == expected


def test_missed_starts_are_a_share_of_all_of_them() -> None:
    """Clients who begin a second time are started by the plan as well."""
    made = document(started=100, missed=5)
    assert own_limits(made) == ["missed_starts"]
    made["exchanges"]["started"] = 500
    assert own_limits(made) == []


def naive_verdict(planned: int, started: int, completed: int, rx_ring: int | None, missed: int,
                  interrupted: bool, duration_s: float | None) -> str:
    """The design's sentences, in their order."""
    if rx_ring:
        return "generator-bound"  # the generator, not the server, was the limit
    if missed * 100 > started:
        return "generator-bound"
    if interrupted or completed == 0 or completed != started:
        return "incomplete"  # some exchanges did not complete
    if duration_s is None and started != planned:
        return "incomplete"
    return "pass"


def test_every_combination() -> None:
    """Every way in which numbers can stand to one another."""
    seen = set()
    for started, completed, rx_ring, missed, interrupted, duration_s in itertools.product(
            (0, 1, 99, 100), (0, 1, 99, 100), (None, 0, 3), (0, 1, 2, 100), (False, True),
            (None, 2.0)):
        if completed > started or missed > started:
            continue
        numbers: dict[str, Any] = {"planned": 100, "started": started, "completed": completed,
                                   "rx_ring": rx_ring, "missed": missed,
                                   "interrupted": interrupted, "duration_s": duration_s}
        found = verdict(document(**numbers))
        assert found == naive_verdict(**numbers), numbers
        seen.add(found)
    assert seen == {"pass", "incomplete", "generator-bound"}


def test_exit_codes() -> None:
    """As the design fixes them; 1 and 2 are for the machine and the user."""
    assert EXIT_CODES == {"pass": 0, "incomplete": 3, "generator-bound": 4, "threshold": 99}


def test_round_trip(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "er" / "result.json"
    write_json(place, document())
    assert read_json(place) == document()
    assert place.read_text().endswith("}\n")
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert os.listdir(place.parent) == ["result.json"]


def test_it_replaces_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    place.write_text("x" * 100_000)
    write_json(place, document())
    assert read_json(place) == document()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "result.json"
    link = tmp_path / "latest.json"
    link.symlink_to(target)
    write_json(link, document())
    assert link.is_symlink() and read_json(target) == document()


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """--json /dev/null as root must not turn the device into a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, document())
        assert json.loads(os.read(reader, 1 << 16)) == document()
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode) and os.listdir(tmp_path) == ["pipe"]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow beyond 100 octets: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("older", [None, "what was there"])
def test_where_it_does_not_fit_nothing_changes(tmp_path: Path, older: str | None) -> None:
    place = tmp_path / "result.json"
    if older:
        place.write_text(older)
    with pytest.raises(SystemRefused, match=r"cannot write .*result\.json: File too large"), \
            full_disk():
        write_json(place, document())
    assert [p.read_text() for p in tmp_path.iterdir()] == ([older] if older else [])


@pytest.mark.root
def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one, of 64 KiB, mounted where only a child of ours sees it."""
    script = f"""
import os, sys
from pathlib import Path
from fastpath.errors import SystemRefused
from fastpath.files import write_json
from tester.result import read_json
place = Path({str(tmp_path)!r}) / "result.json"
write_json(place, {{"schema": {SCHEMA!r}, "kept": True}})
try:
    write_json(place, {{"schema": {SCHEMA!r}, "intervals": list(range(100_000))}})
except SystemRefused as error:
    print(error.what, error.exit_code)
print(read_json(place)["kept"], os.listdir(place.parent))
"""
    mounted = f'mount -t tmpfs -o size=64k none "{tmp_path}" && exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", mounted, sys.executable, script],
                          capture_output=True, text=True, timeout=20,
                          cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines() == [
        f"cannot write {tmp_path}/result.json: No space left on device 1",
        "True ['result.json']"], done.stderr


def test_a_document_that_cannot_be_written_down_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "result.json", {"a": object()})
    assert os.listdir(tmp_path) == []


BAD_PLACES = {
    "a directory": (lambda d: d, "Is a directory"),
    "below a file": (lambda d: d / "file" / "result.json", "exists|Not a directory"),
    "a name too long": (lambda d: d / ("n" * 300), "File name too long"),
}


@pytest.mark.parametrize(("place", "why"), BAD_PLACES.values(), ids=list(BAD_PLACES))
def test_unwritable(tmp_path: Path, place: Any, why: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefused, match=f"cannot write .*({why})"):
        write_json(place(tmp_path), document())
    assert os.listdir(tmp_path) == ["file"]


def test_a_proc_file_refuses_even_root() -> None:
    with pytest.raises(SystemRefused, match="cannot write /proc/version"):
        write_json(Path("/proc/version"), document())


@pytest.mark.parametrize("name", ["result.json", "not/yet/there/result.json"])
def test_check_writable_passes(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_check_writable_of_a_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(Path("result.json"))


@pytest.mark.parametrize(("place", "why"), [
    (lambda d: d, "it is a directory"), (lambda d: d / "file" / "r.json", "Not a directory"),
    (lambda d: d / "file" / "a" / "r.json", "Not a directory"),
    (lambda d: d / ("n" * 300), "File name too long"),
    (lambda d: Path("/proc/r.json"), "No such file"),
], ids=["a directory", "below a file", "far below a file", "a name too long", "in /proc"])
def test_check_writable_refuses_now(tmp_path: Path, place: Any, why: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefused, match=f"cannot write .*{why}"):
        check_writable(place(tmp_path))


@pytest.mark.parametrize(("octets", "reason"), [
    (b"", "json"), (b"{", "json"), (b'{"schema": "dhcp-netlab/res', "json"),
    (b"\xff\xfe\x00garbage", "json"), (b"[" * 100_000, "json"),
    (b"[]", "schema"), (b"null", "schema"), (b"3", "schema"), (b"{}", "schema"),
    (b'{"schema": "dhcp-netlab/result/2"}', "schema"), (b'{"schema": 1}', "schema"),
], ids=["empty", "one brace", "cut", "no text", "deep", "list", "null", "number", "none",
        "another schema", "no name"])
def test_what_is_no_result_is_refused(tmp_path: Path, octets: bytes, reason: str) -> None:
    place = tmp_path / "r.json"
    place.write_bytes(octets)
    with pytest.raises(Malformed, match=r"r\.json: not a result document") as refused:
        read_json(place)
    assert refused.value.reason == reason


def test_a_cut_document_names_the_line(tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    write_json(place, document())
    whole = place.read_text()
    for length in range(0, len(whole) - 2, 7):
        place.write_text(whole[:length])
        with pytest.raises(Malformed, match=r"line \d+"):
            read_json(place)


@pytest.mark.parametrize(("name", "why"), [("none", "No such file"), (".", "Is a directory")])
def test_unreadable(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(SystemRefused, match=f"cannot read .*{why}"):
        read_json(tmp_path / name)
