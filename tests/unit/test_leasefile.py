"""`dhcp-server leases`: what it shows, what it lets through, and what an import leaves behind."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import pty
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastpath.errors import NetlabError, SystemRefused, UserError
from server import journal, leasefile
from server.journal import Journal, newest
from server.leasefile import COLUMNS, leases_command
from server.record import Lease, encode_record
from tests.unit.test_importers import ISC_FILE, KEA_FILE, KEA_HEADER

NOW = int(time.time())
KEYS = {"address", "chaddr", "client_id", "state", "subnet", "expires_at"}


def lease(last: int, state: str = "bound", ends: int | None = NOW + 3600, *, prefix: int = 24,
          client_id: bytes = b"", chaddr: bytes | None = None) -> Lease:
    chaddr = bytes([2, 0, 0, 0, 0, last]) if chaddr is None else chaddr
    return Lease(IPv4Address(f"10.0.0.{last}"), state, prefix, 1, chaddr, client_id, ends,
                 NOW - 60, 3600)


LEASES = [lease(9), lease(1, client_id=b"\x01\x02\0\0\0\0\x01"), lease(2, ends=NOW - 10),
          lease(3, ends=None), lease(4, "declined", chaddr=b""), lease(5, "declined", NOW - 1),
          lease(6, "free", NOW - 100), lease(7, prefix=0, client_id=b"\0lab"),
          Lease(IPv4Address("10.0.1.200"), "bound", 25, 6, bytes(range(16)), b"", 1 << 60, 0, 0)]


def store(path: Path, leases: list[Lease]) -> Path:
    with contextlib.closing(Journal(path, "none")) as file:
        for _ in file.blocks():
            pass
        for one in leases:
            file.append(np.frombuffer(bytearray(encode_record(one)), np.uint8))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return store(tmp_path / "leases", [lease(1, ends=NOW - 999), *LEASES])


def call(*args: object) -> Result:
    """One that ends well, or with the error it raised."""
    result = CliRunner().invoke(leases_command, [str(arg) for arg in args], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def listed(*args: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(call(*args, "--json").stdout)
    return found


def addresses(*args: object) -> list[str]:
    return [row["address"].removeprefix("10.0.") for row in listed(*args)]


def rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def test_json(file: Path) -> None:
    rows = {row["address"]: row for row in listed(file)}
    assert list(rows) == sorted(rows, key=IPv4Address) and len(rows) == len(LEASES)
    assert all(set(row) >= KEYS and tuple(row) == COLUMNS for row in rows.values())
    first = rows["10.0.0.1"]
    assert {key: first[key] for key in KEYS} == {
        "address": "10.0.0.1", "chaddr": "02:00:00:00:00:01", "client_id": "01:02:00:00:00:00:01",
        "state": "bound", "subnet": "10.0.0.0/24", "expires_at": rfc3339(NOW + 3600)}
    assert {address[7:]: row["state"] for address, row in rows.items()} == {
        "1": "bound", "2": "expired", "3": "bound", "4": "declined", "5": "free", "6": "free",
        "7": "bound", "9": "bound", "200": "bound"}
    assert rows["10.0.0.3"]["expires_at"] is None and rows["10.0.0.3"]["client_id"] is None
    assert rows["10.0.0.4"]["chaddr"] is None and rows["10.0.0.7"]["subnet"] is None
    assert rows["10.0.1.200"]["subnet"] == "10.0.1.128/25"
    # The year 9999 is as far as RFC 3339 goes.
    assert rows["10.0.1.200"]["expires_at"] == "9999-12-31T23:59:59Z"


def test_csv_says_the_same(file: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(call(file, "--csv").stdout)))
    assert rows == [{key: "" if value is None else str(value) for key, value in row.items()}
                    for row in listed(file)]


def test_table(file: Path) -> None:
    result = call(file)
    head, first, *rest = result.stdout.splitlines()
    assert head.split() == list(COLUMNS[:6])
    assert first.split() == ["10.0.0.1", "02:00:00:00:00:01", "01:02:00:00:00:00:01", "bound",
                             "10.0.0.0/24", rfc3339(NOW + 3600)]
    assert len(rest) == len(LEASES) - 1
    assert result.stderr == "9 leases: 5 bound, 1 expired, 1 declined, 2 free\n"


def on_terminal(body: Callable[[], object]) -> str:
    """What `body` shows on a terminal, in a process of its own."""
    child, master = pty.fork()
    if child == 0:
        try:
            os.environ["TERM"], os.environ["PAGER"] = "xterm", "cat"
            sys.stdout = open(1, "w")  # noqa: SIM115
            body()
            sys.stdout.flush()
        finally:
            os._exit(0)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 4096):
            shown += piece
    os.close(master)
    os.waitpid(child, 0)
    return shown.decode()


@pytest.mark.parametrize("count", [3, 2500])
def test_table_on_a_terminal(count: int) -> None:
    rows = [("10.0.0.1", "02:00:00:00:00:01", None, "expired", None, None)] * count
    shown = on_terminal(lambda: leasefile.write_table(iter(rows)))
    assert shown.count("02:00:00:00:00:01") == count and shown.count("expires_at") == 1


def test_sqlite(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.db"
    call(file, "--sqlite", out, "--state", "bound")
    with contextlib.closing(sqlite3.connect(out)) as base:
        base.row_factory = sqlite3.Row
        assert [dict(row) for row in base.execute("SELECT * FROM leases ORDER BY rowid")] == listed(
            file, "--state", "bound")
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        call(file, "--sqlite", out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leases", "out.db"]
    with pytest.raises(SystemRefused, match="cannot write"):
        call(file, "--sqlite", tmp_path / "none" / "out.db")


@pytest.mark.parametrize(("filters", "expected"), [
    ([], "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.9 1.200"),
    (["--state", "bound"], "0.1 0.3 0.7 0.9 1.200"), (["--active"], "0.1 0.3 0.7 0.9 1.200"),
    (["--expired"], "0.2"), (["--state", "free", "--state", "declined"], "0.4 0.5 0.6"),
    (["--active", "--expired", "--limit", "2"], "0.1 0.2"), (["--limit", "0"], ""),
    (["--subnet", "10.0.1.0/24"], "1.200"), (["--subnet", "0.0.0.0/0", "--limit", "1"], "0.1"),
    (["--address", "10.0.0.3"], "0.3"), (["--address", "10.0.0.3-10.0.0.5"], "0.3 0.4 0.5"),
    (["--address", "10.0.0.0/30", "--address", "10.0.0.9"], "0.1 0.2 0.3 0.9"),
    (["--address", "10.0.0.0/30", "--subnet", "10.0.0.2/31"], "0.2 0.3"),
    (["--chaddr", "02-00-00-00-00-09"], "0.9"), (["--chaddr", "0200.0000.0009"], "0.9"),
    (["--chaddr", "00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f"], "1.200"),
    (["--client-id", "01:02:00:00:00:00:01"], "0.1"), (["--client-id", "02:00:00:00:00:01"], "0.1"),
    (["--client-id", "00:6c:61:62"], "0.7"), (["--client-id", "lab"], "0.7"),
    (["--client-id", "0x006c6162"], "0.7"), (["--chaddr", "02:00:00:00:00:77"], ""),
    (["-state=bound", "-limit", "1"], "0.1"),
])
def test_filters(file: Path, filters: list[str], expected: str) -> None:
    assert addresses(file, *filters) == expected.split()


@pytest.mark.parametrize("filters", [
    ["--address", "x"], ["--address", "10.0.0.9-10.0.0.1"], ["--address", "10.0.0.1-"],
    ["--address", ""], ["--subnet", "10.0.0.1"], ["--subnet", "10.0.0.1/24"], ["--subnet", ""],
    ["--subnet", "10.0.0.0/33"], ["--chaddr", ""], ["--chaddr", "xx"], ["--client-id", ""],
    ["--chaddr", ":".join(["02"] * 17)], ["--subnet", "::/0"], ["--address", "10.0.0.1-::1"]])
def test_filters_that_are_none(file: Path, filters: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        call(file, *filters)
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("args", [
    ["--json", "--sqlite", "x"], ["--csv", "--import", "x"], ["--salvage", "x", "--import", "y"],
    ["--import", "x", "--active"], ["--salvage", "x", "--subnet", "10.0.0.0/8"], ["--skip-bad"],
    ["--import", "x", "--chaddr", ""], ["--state", "offered"], ["--limit", "-1"]])
def test_what_does_not_go_together(file: Path, args: list[str]) -> None:
    assert CliRunner().invoke(leases_command, [str(file), *args]).exit_code == 2


def test_an_empty_file(tmp_path: Path) -> None:
    file = store(tmp_path / "leases", [])
    assert listed(file) == []
    assert call(file).stderr == "0 leases\n"


@pytest.mark.parametrize("octets", [b"hello, this is no lease file at all", None])
def test_files_that_are_none(tmp_path: Path, octets: bytes | None) -> None:
    path = tmp_path / "x"
    if octets is not None:
        path.write_bytes(octets)
    for args in (["--json"], ["--salvage", tmp_path / "new"]):
        with pytest.raises(NetlabError):
            call(path, *args)
    assert not (tmp_path / "new").exists()


def test_salvage(tmp_path: Path) -> None:
    file = store(tmp_path / "leases", LEASES)
    octets = bytearray(file.read_bytes())
    octets[100] ^= 0xFF
    file.write_bytes(octets)
    with pytest.raises(UserError, match="damaged"):
        call(file)
    new = tmp_path / "new"
    result = call(file, "--salvage", new)
    assert "8 records" in result.stdout and len(newest(new)) == 8


def source(folder: Path, text: str) -> Path:
    path = folder / "source"
    path.write_text(text)
    return path


def test_import_into_a_new_file(tmp_path: Path) -> None:
    file, kea = tmp_path / "leases", source(tmp_path, KEA_FILE)
    said = call(file, "--import", kea).stdout.splitlines()
    assert said == [f"imported 4 leases of {kea} (Kea memfile) into {file}",
                    "  skipped, deleted: 1 (line 8)"]
    found = {str(one.address): one for one in newest(file)}
    assert found["10.0.0.10"] == Lease(IPv4Address("10.0.0.10"), "bound", 0, 1,
                                       bytes.fromhex("020000000003"), b"", 1700007200,
                                       1700000000, 7200)
    assert found["10.0.0.14"].ends is None and found["10.0.0.12"].state == "declined"
    again = call(file, "--import", kea).stdout.splitlines()
    assert again[0].startswith("imported 0 leases")
    assert "  skipped, the lease file knows better: as new or newer: 4 (lines 4, 5, 6, 7)" in again


def test_import_of_isc_within_a_subnet(tmp_path: Path) -> None:
    file, isc = tmp_path / "leases", source(tmp_path, ISC_FILE)
    said = call(file, "--import", isc, "--subnet", "10.0.0.8/30", "--subnet", "10.0.0.10/31").stdout
    assert "imported 2 leases" in said and "outside --subnet: 2 (lines" in said
    assert {row["address"]: row["subnet"] for row in listed(file)} == {
        "10.0.0.10": "10.0.0.10/31", "10.0.0.11": "10.0.0.10/31"}


def test_newer_records_win(tmp_path: Path) -> None:
    old = Lease(IPv4Address("10.0.0.10"), "bound", 24, 1, b"\2\0\0\0\0\x77", b"", NOW, 1, 60)
    new = Lease(IPv4Address("10.0.0.13"), "bound", 24, 1, b"\2\0\0\0\0\x78", b"", NOW + 60, NOW, 60)
    file = store(tmp_path / "leases", [old, new])
    assert "imported 3 leases" in call(file, "--import", source(tmp_path, KEA_FILE)).stdout
    found = {str(one.address): one for one in newest(file)}
    assert found["10.0.0.10"].chaddr == b"\2\0\0\0\0\3" and found["10.0.0.13"] == new


def test_bad_lines_import_nothing(tmp_path: Path) -> None:
    file, kea = tmp_path / "leases", source(tmp_path, KEA_FILE + "x\n" * 30 + "1.2.3,,,,\n")
    result = CliRunner().invoke(leases_command, [str(file), "--import", str(kea)],
                                standalone_mode=False)
    assert isinstance(result.exception, UserError)
    assert result.exception.what == f"nothing imported: 31 bad entries in {kea}"
    lines = result.stderr.splitlines()
    assert lines[0] == f"{kea}:9: 1 columns, the header has 12"
    assert lines[-1] == f"{kea}: 11 more" and len(lines) == 21
    assert not file.exists()
    said = call(file, "--import", kea, "--skip-bad").stdout
    assert "imported 4 leases" in said and "skipped, bad: 31" in said


def test_import_while_a_server_runs(file: Path, tmp_path: Path) -> None:
    with contextlib.closing(Journal(file, "none")) as running:
        for _ in running.blocks():
            pass
        with pytest.raises(SystemRefused, match="in use"):
            call(file, "--import", source(tmp_path, KEA_FILE))
        assert len(listed(file)) == len(LEASES)


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_fills_up_imports_nothing(tmp_path: Path, there: bool,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, and there is room for the first one only."""
    rows = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},02:00:00:00:00:01,,60,1700000060,"
                   "1,0,0,,0,,0\n" for n in range(5000))
    file = tmp_path / "leases"
    if there:
        store(file, LEASES)
    before = file.read_bytes() if there else None
    monkeypatch.setattr("server.journal_format.MOST_PAYLOAD", 1 << 17)
    append, taken = Journal.append, []

    def full(self: Journal, payload: Any) -> None:
        taken.append(len(payload))
        if len(taken) > 1:
            raise journal.StoreFailed(errno.ENOSPC, "No space left on device")
        append(self, payload)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(SystemRefused, match=r"nothing imported: .* No space left"):
        call(file, "--import", source(tmp_path, KEA_HEADER + rows))
    assert len(taken) == 2
    assert (file.read_bytes() if file.exists() else None) == before


def test_many_leases_take_several_blocks(tmp_path: Path) -> None:
    leases = [lease(1, client_id=bytes(2000)) for _ in range(1200)]
    payloads = [len(payload) for payload in leasefile._payloads(leases)]
    assert sum(payloads) == 1200 * len(encode_record(leases[0]))
    assert len(payloads) == 3 and max(payloads) <= 1 << 20
