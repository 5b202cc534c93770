"""`dhcp-server leases FILE`: show, filter, export, salvage and fill a lease file.

The one thing to know: showing needs no lock and may happen while a server writes the file;
importing takes the server's own lock, so never both at once. Rows are made one by one as they
are written out, so that millions fit.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastpath.cli import Command
from fastpath.errors import SystemRefused, UserError

if TYPE_CHECKING:
    from server.importers import Imported
    from server.record import Lease

COLUMNS = ("address", "chaddr", "client_id", "state", "subnet", "expires_at", "written_at",
           "lease_time_s")
STATES = ("bound", "expired", "declined", "free")
Row = tuple[str | int | None, ...]

_WIDTHS = (15, 17, 26, 8, 18, 20)
# A longer table is written line by line instead of being laid out as a whole.
MOST_LAID_OUT = 1000
MOST_BAD_SAID = 20
_LATEST_S = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def state_of(lease: Lease, now_s: int) -> str:
    """What the record means now: a binding whose time is over is expired, a quarantine free."""
    if lease.ends is None or lease.ends > now_s:
        return lease.state
    return {"bound": "expired", "declined": "free"}.get(lease.state, lease.state)


def row_of(lease: Lease, now_s: int) -> Row:
    """The columns of COLUMNS; None where nothing is known, or it never ends."""
    subnet = _network(int(lease.address), lease.prefix) if lease.prefix else None
    return (str(lease.address), lease.chaddr.hex(":") or None, lease.client_id.hex(":") or None,
            state_of(lease, now_s), subnet, None if lease.ends is None else _moment(lease.ends),
            _moment(lease.written), lease.lease_time_s)


def _network(address: int, prefix: int) -> str:
    return _network_text(address & 0xFFFFFFFF << 32 - prefix, prefix)


@functools.lru_cache(1024)
def _network_text(first: int, prefix: int) -> str:
    return f"{IPv4Address(first & 0xFFFFFFFF)}/{prefix}"


def _moment(seconds: int) -> str:
    """RFC 3339, UTC; what lies beyond the year 9999 is its last second."""
    return f"{datetime.fromtimestamp(min(seconds, _LATEST_S), UTC):%Y-%m-%dT%H:%M:%SZ}"


# What to show.

def parse_range(text: str) -> tuple[IPv4Network, ...]:
    """The addresses of `10.0.0.1`, `10.0.0.1-10.0.0.9` or `10.0.0.0/24`; raises UserError."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    try:
        if dash:
            return tuple(summarize_address_range(IPv4Address(first), IPv4Address(last)))
        return (IPv4Network(first, strict=False),)
    except (ValueError, TypeError):
        raise UserError(f"{text!r} is not an address, a range or a prefix",
                        "write 10.0.0.1, 10.0.0.1-10.0.0.9 or 10.0.0.0/24") from None


def parse_prefix(text: str) -> IPv4Network:
    """`10.0.0.0/24`; raises UserError."""
    try:
        return IPv4Network(text.strip() if "/" in text else "")
    except ValueError:
        raise UserError(f"{text!r} is not a prefix", "write 10.0.0.0/24") from None


def parse_chaddr(text: str) -> bytes:
    """At most 16 octets; Ethernet addresses in any usual form. Raises UserError."""
    from fastpath.packet import parse_mac

    try:
        octets = bytes.fromhex(text.strip().replace(":", " "))
    except ValueError:
        return parse_mac(text)
    return octets if 1 <= len(octets) <= 16 else parse_mac(text)


def parse_client_id(text: str) -> frozenset[bytes]:
    """The identifiers that `text` may mean: as `leases` shows it, or as a configuration has it.

    Raises UserError.
    """
    from fastpath.options import find

    if not text.strip():
        raise UserError("an empty client identifier", "write it as `leases` shows it, or as text")
    meant = {find(61).parse_text(text)}
    try:
        meant.add(bytes.fromhex(text.strip().replace(":", " ")))
    except ValueError:
        return frozenset(meant)
    return frozenset(meant)


def _wanted(now_s: int, states: Iterable[str], spans: Iterable[tuple[IPv4Network, ...]],
            chaddr: bytes | None, client_ids: frozenset[bytes] | None) -> Callable[[Lease], bool]:
    """Whether a lease passes all filters; spans: groups of networks, it must lie in each group."""
    bounds = [[(int(net[0]), int(net[-1])) for net in group] for group in spans]
    allowed = frozenset(states)

    def passes(lease: Lease) -> bool:
        number = int(lease.address)
        return ((not allowed or state_of(lease, now_s) in allowed)
                and (chaddr is None or lease.chaddr == chaddr)
                and (client_ids is None or lease.client_id in client_ids)
                and all(any(low <= number <= high for low, high in group) for group in bounds))

    return passes


# How to show it.

def write_json(rows: Iterable[Row]) -> None:
    """A list of objects, one a line."""
    opening = "["
    for row in rows:
        sys.stdout.write(f"{opening}\n {json.dumps(dict(zip(COLUMNS, row, strict=True)))}")
        opening = ","
    sys.stdout.write("[]\n" if opening == "[" else "\n]\n")


def write_csv(rows: Iterable[Row]) -> None:
    """RFC 4180 but for line ends, which are Unix ones; empty where nothing is known."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerows(rows)


def write_table(rows: Iterable[Row]) -> None:
    """A table for people: laid out on a terminal where it is short, else a line a row."""
    shown = (tuple("-" if cell is None else str(cell) for cell in row[:len(_WIDTHS)])
             for row in rows)
    if not sys.stdout.isatty():
        sys.stdout.writelines(_lines(shown))
        return
    first = list(islice(shown, MOST_LAID_OUT + 1))
    if len(first) > MOST_LAID_OUT:
        click.echo_via_pager(_lines(cells for part in (first, shown) for cells in part))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS[:len(_WIDTHS)], box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for cells in first:
        table.add_row(*cells, style="dim" if cells[3] in ("expired", "free") else None)
    Console().print(table)


def _lines(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    def line(cells: Iterable[str]) -> str:
        return "  ".join(map(str.ljust, cells, _WIDTHS)).rstrip() + "\n"

    yield line(COLUMNS)
    yield from map(line, rows)


def write_sqlite(rows: Iterable[Row], out: Path) -> int:
    """A new database with one table, `leases`; returns its rows.

    Written beside `out` and then named so, all or nothing. Raises UserError where `out` exists,
    SystemRefused where it cannot be written.
    """
    import sqlite3

    if out.exists():
        raise UserError(f"{out} exists already", "export into a new file")
    scratch = None
    try:
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=".dhcp-netlab-")
        os.close(handle)
        scratch = Path(name)
        with closing(sqlite3.connect(scratch)) as base, base:
            base.execute("CREATE TABLE leases (address TEXT PRIMARY KEY, chaddr TEXT, client_id "
                         "TEXT, state TEXT NOT NULL, subnet TEXT, expires_at TEXT, written_at "
                         "TEXT NOT NULL, lease_time_s INTEGER NOT NULL)")
            count = base.executemany(
                f"INSERT INTO leases VALUES ({', '.join('?' * len(COLUMNS))})", rows).rowcount
            for column in ("chaddr", "client_id"):
                base.execute(f"CREATE INDEX by_{column} ON leases ({column})")
        scratch.chmod(0o640)
        # Unlike a rename, this leaves alone what has come there meanwhile.
        out.hardlink_to(scratch)
        return max(0, count)
    except (OSError, sqlite3.Error) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise SystemRefused(f"cannot write {out}: {what}") from None
    finally:
        if scratch:
            scratch.unlink(missing_ok=True)


# Importing.

def import_leases(file: Path, source: Path, subnets: tuple[IPv4Network, ...],
                  skip_bad: bool) -> list[str]:
    """Append to `file`, made if need be, what `source` says last of each address.

    subnets: import only what lies in them, and note their prefix; none: all, prefix unknown.
    Returns lines for a report. Raises UserError where entries are bad (unless `skip_bad`),
    SystemRefused where a server has the file or the disk is full: then nothing was imported.
    """
    from server.importers import Tally, read_leases

    found = read_leases(source)
    _refuse_bad(source, found, skip_bad)
    chosen: list[Lease] = []
    for entry in found.entries.values():
        holding = [net.prefixlen for net in subnets if entry.lease.address in net]
        if subnets and not holding:
            found.skip(entry.line, "outside --subnet")
        else:
            chosen.append(replace(entry.lease, prefix=max(holding, default=0)))
    added, older = _append(file, chosen)
    for address in older:
        found.skipped.setdefault("the lease file knows better: as new or newer",
                                 Tally()).add(found.entries[address].line)
    return [f"imported {added:,} leases of {source} ({found.kind}) into {file}",
            *(f"  skipped, {why}: {tally}" for why, tally in found.skipped.items()),
            *([f"  skipped, bad: {found.bad_count:,}"] if found.bad_count else [])]


def _refuse_bad(source: Path, found: Imported, skip_bad: bool) -> None:
    for line, why in found.bad[:MOST_BAD_SAID]:
        click.echo(f"{source}:{line}: {why}", err=True)
    if found.bad_count > MOST_BAD_SAID:
        click.echo(f"{source}: {found.bad_count - MOST_BAD_SAID:,} more", err=True)
    if found.bad_count and not skip_bad:
        raise UserError(f"nothing imported: {found.bad_count:,} bad "
                        f"{'entry' if found.bad_count == 1 else 'entries'} in {source}",
                        "mend them, or leave them out with --skip-bad")


def _append(file: Path, leases: list[Lease]) -> tuple[int, list[IPv4Address]]:
    """Store all that is newer than what `file` has, or nothing.

    Returns how many were stored, and the addresses of the others.
    """
    from server.journal import Journal, StoreFailed, newest

    born = not file.exists()
    try:
        with closing(Journal(file, "strict")) as journal:
            for _ in journal.blocks():
                pass
            known = {lease.address: lease.written for lease in newest(file)}
            older = [lease.address for lease in leases
                     if known.get(lease.address, -1) >= lease.written]
            skipped = frozenset(older)
            before = journal.size
            try:
                for payload in _payloads(x for x in leases if x.address not in skipped):
                    journal.append(payload)
            except StoreFailed:
                os.truncate(file, before)
                if born:
                    file.unlink()
                raise
    except StoreFailed as error:
        raise SystemRefused(f"nothing imported: cannot write {file}: {error.strerror}",
                            "make room, or give another file") from None
    return len(leases) - len(older), older


def _payloads(leases: Iterable[Lease]) -> Iterator[Any]:
    """Records joined to arrays as long as one block may be."""
    import numpy as np

    from server.journal_format import MOST_PAYLOAD
    from server.record import MOST_RECORD, encode_record

    joined = bytearray()
    for lease in leases:
        joined += encode_record(lease)
        if len(joined) > MOST_PAYLOAD - MOST_RECORD:
            yield np.frombuffer(joined, np.uint8)
            joined = bytearray()
    if joined:
        yield np.frombuffer(joined, np.uint8)


# The command.

@click.command(cls=Command)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--table", "form", flag_value="table", default=True, help="A table (the default).")
@click.option("--json", "form", flag_value="json", help="A list of objects.")
@click.option("--csv", "form", flag_value="csv", help="The same as comma-separated values.")
@click.option("--sqlite", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path),
              help="A new SQLite database with the table `leases`.")
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only these; repeatable.")
@click.option("--active", is_flag=True, help="Only leases that are bound now.")
@click.option("--expired", is_flag=True, help="Only leases that ended without a renewal.")
@click.option("--subnet", multiple=True, metavar="PREFIX",
              help="Only addresses inside; repeatable. With --import also their subnet.")
@click.option("--address", multiple=True, metavar="WHICH",
              help="An address, a range A-B or a prefix; repeatable.")
@click.option("--chaddr", metavar="MAC", help="Only this client's hardware address.")
@click.option("--client-id", metavar="ID", help="Only this client identifier: hexadecimal with "
              "colons as shown here, or text.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most so many.")
@click.option("--salvage", metavar="NEWFILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Copy what is sound of a damaged file into a new one.")
@click.option("--import", "source", metavar="SOURCE",
              type=click.Path(dir_okay=False, path_type=Path),
              help="Add the leases of a Kea memfile (CSV) or an ISC dhcpd.leases to FILE, which "
                   "no server may have open; FILE is made where it is missing.")
@click.option("--skip-bad", is_flag=True, help="Import without the entries that are bad.")
def leases_command(
    file: Path, form: str, sqlite: Path | None, state: tuple[str, ...], active: bool,
    expired: bool, subnet: tuple[str, ...], address: tuple[str, ...], chaddr: str | None,
    client_id: str | None, limit: int | None, salvage: Path | None, source: Path | None,
    skip_bad: bool,
) -> int:
    """Show, filter or export the leases of FILE, a lease file of dhcp-server.

    A server may be running. `expires_at` is when a lease ends, or how long a declined address
    rests.
    """
    subnets = tuple(map(parse_prefix, subnet))
    chosen = {*state, *(["bound"] if active else []), *(["expired"] if expired else [])}
    filters = bool(chosen or address) or (chaddr, client_id, limit) != (None, None, None)
    if sum((form != "table", sqlite is not None, salvage is not None, source is not None)) > 1:
        raise click.UsageError("--json, --csv, --sqlite, --salvage and --import exclude one "
                               "another")
    if (salvage or source) and (filters or (salvage and subnet)):
        raise click.UsageError("filters choose what is shown; --import takes only --subnet")
    if skip_bad and not source:
        raise click.UsageError("--skip-bad belongs to --import")
    if source:
        click.echo("\n".join(import_leases(file, source, subnets, skip_bad)))
        return 0
    if salvage:
        return _salvage(file, salvage)
    spans = [group for group in (subnets, tuple(n for text in address for n in parse_range(text)))
             if group]
    now_s = int(time.time())
    passes = _wanted(now_s, chosen, spans, None if chaddr is None else parse_chaddr(chaddr),
                     None if client_id is None else parse_client_id(client_id))
    _show(file, form, sqlite, passes, now_s, limit)
    return 0


def _show(file: Path, form: str, sqlite: Path | None, passes: Callable[[Lease], bool],
          now_s: int, limit: int | None) -> None:
    from server.journal import newest

    found = [lease for lease in newest(file) if passes(lease)]
    del found[len(found) if limit is None else limit:]
    rows = (row_of(lease, now_s) for lease in found)
    if sqlite:
        click.echo(f"{write_sqlite(rows, sqlite):,} leases written to {sqlite}")
        return
    {"json": write_json, "csv": write_csv, "table": write_table}[form](rows)
    if form == "table":
        counts = Counter(state_of(lease, now_s) for lease in found)
        said = ", ".join(f"{counts[name]:,} {name}" for name in STATES if counts[name])
        click.echo(f"{len(found):,} lease{'' if len(found) == 1 else 's'}"
                   f"{': ' if said else ''}{said}", err=True)


def _salvage(file: Path, out: Path) -> int:
    from server.journal import salvage

    records, skipped = salvage(file, out)
    click.echo(f"{records:,} records of {file} copied to {out}; {skipped:,} octets were damaged "
               "and left out")
    return 0
