"""Lease files of other servers: Kea's memfile (CSV) and ISC dhcpd's dhcpd.leases.

The one thing to know: both are journals, so the last entry of an address counts. A bad entry is
kept in mind with its line and the rest is read on; whoever asked decides what that means.

Sources: Kea Administrator Reference Manual, "Lease Storage" (memfile); dhcpd.leases(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import NamedTuple

from fastpath.errors import SystemRefused, UserError
from server.record import Lease

MOST_LINE = 65536
# Of a file that is all wrong, so many lines are kept in mind; all are counted.
MOST_BAD, MOST_LINES_SAID = 1000, 5
# Kea and dhcpd alike write "for ever" so.
_INFINITE_S = 0xFFFFFFFF
_MOST_CHADDR, _MOST_CLIENT_ID = 16, 2048

_HEX = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2})*")

KEA, ISC = "Kea memfile", "ISC dhcpd.leases"


class Entry(NamedTuple):
    """What the file says last about an address, and where. The prefix is 0: no file tells."""

    line: int
    lease: Lease


class Tally:
    """How often something was said, and on which lines first."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[int] = []

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.lines) < MOST_LINES_SAID:
            self.lines.append(line)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.lines) else ""
        return (f"{self.count:,} (line{'s' if self.count > 1 else ''} "
                f"{', '.join(map(str, self.lines))}{more})")


@dataclass
class Imported:
    """One file, read. kind: KEA or ISC. bad: (line, what is wrong), the first MOST_BAD of them."""

    kind: str
    entries: dict[IPv4Address, Entry] = field(default_factory=dict)
    skipped: dict[str, Tally] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)
    bad_count: int = 0

    def add_bad(self, line: int, why: str) -> None:
        self.bad_count += 1
        if len(self.bad) < MOST_BAD:
            self.bad.append((line, why))

    def skip(self, line: int, why: str) -> None:
        self.skipped.setdefault(why, Tally()).add(line)

    def put(self, line: int, lease: Lease) -> None:
        """The latest word on an address; without a client there is nothing to remember."""
        self.entries.pop(lease.address, None)
        if lease.state == "free" and not (lease.chaddr or lease.client_id):
            self.skip(line, "free, and nobody had it before")
        else:
            self.entries[lease.address] = Entry(line, lease)


class _BadEntry(Exception):
    """What is wrong with one entry; never leaves this module."""


def read_leases(path: Path) -> Imported:
    """Read a file of either format.

    Raises UserError when it is of neither, SystemRefused when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MOST_LINE).decode("latin-1")
        kind = _detect(path, head)
        found = Imported(kind)
        (_read_kea if kind == KEA else _read_isc)(_lines(path, found), found)
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    return found


def _detect(path: Path, head: str) -> str:
    lines = (line.strip() for line in head.splitlines())
    said = [line for line in lines if line and not line.startswith("#")]
    first = said[0] if said else ""
    columns = first.split(",")
    if "address" in columns and "valid_lifetime" in columns:
        if "duid" in columns:
            raise UserError(f"{path}: a DHCPv6 lease file of Kea",
                            "import the DHCPv4 one, usually kea-leases4.csv")
        return KEA
    if re.match(r"ia-(na|ta|pd)\b", first) or re.search(r"^ia-(na|ta|pd)\b", head, re.MULTILINE):
        raise UserError(f"{path}: a DHCPv6 lease file of dhcpd",
                        "import the DHCPv4 one, usually dhcpd.leases")
    if re.match(r"lease\s*\{", first):
        raise UserError(f"{path}: the leases of a client (dhclient)", "import those of a server")
    if re.match(r"(lease|server-duid|authoring-byte-order|failover|host|group|class|subclass|"
                r"shared-network|subnet|option)\b", first) or "dhcpd.leases" in head:
        return ISC
    raise UserError(f"{path}: neither a Kea memfile (CSV with a header) nor an ISC dhcpd.leases "
                    "file", "export it from the other server once more")


def _lines(path: Path, found: Imported) -> Iterator[tuple[int, str]]:
    """(number, text) of every line; one too long is bad, and read past."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MOST_LINE):
            number += 1
            if len(raw) == MOST_LINE and raw[-1:] != b"\n":
                while raw and raw[-1:] != b"\n":
                    raw = file.readline(MOST_LINE)
                found.add_bad(number, f"a line of more than {MOST_LINE:,} characters")
                continue
            yield number, raw.decode("latin-1").rstrip("\r\n")


def _address(text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise _BadEntry(f"{_quoted(text)} is not an IPv4 address") from None
    if not 0x01000000 <= int(address) < 0xE0000000:
        raise _BadEntry(f"{address} is no address of a client")
    return address


def _quoted(text: str) -> str:
    shown = ascii(text[:40])[1:-1].replace('"', r"\"")
    return f'"{shown}{"…" if len(text) > 40 else ""}"'


def _octets(text: str, what: str, most: int) -> bytes:
    """Octets in hexadecimal with colons, one or two digits each."""
    if not text:
        return b""
    if not _HEX.fullmatch(text):
        raise _BadEntry(f"{what} {_quoted(text)} is not hexadecimal with colons")
    return _fitting(bytes(int(part, 16) for part in text.split(":")), what, most)


def _fitting(octets: bytes, what: str, most: int) -> bytes:
    if len(octets) > most:
        raise _BadEntry(f"{what} of {len(octets):,} octets, at most {most:,} fit")
    return octets


def _number(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= most):
        raise _BadEntry(f"{what} {_quoted(text)} is not a number up to {most:,}")
    return int(text)


# Kea: one lease a line. A comma inside a value is written as &#x2c, so none is quoted.

# Kea's lease states: assigned, declined, expired and reclaimed, released (from 2.7).
_KEA_STATES = {"0": "bound", "1": "declined", "2": "free", "3": "free"}
_KEA_NEEDED = ("address", "hwaddr", "client_id", "valid_lifetime", "expire")
_LATEST_S = 1 << 40


def _read_kea(lines: Iterable[tuple[int, str]], found: Imported) -> None:
    columns: list[str] = []
    for number, line in lines:
        cells = line.split(",")
        if not line.strip() or line.startswith("#"):
            continue
        if "address" in cells and "valid_lifetime" in cells:
            columns = cells
            missing = [name for name in _KEA_NEEDED if name not in columns]
            if missing:
                found.add_bad(number, f"the header has no column {', '.join(missing)}")
                return
            continue
        if not columns:
            found.add_bad(number, "no header before it that names address and valid_lifetime")
            return
        try:
            _kea_row(number, dict(zip(columns, _whole(cells, columns), strict=False)), found)
        except _BadEntry as error:
            found.add_bad(number, str(error))


def _whole(cells: list[str], columns: list[str]) -> list[str]:
    # An older Kea wrote fewer columns under a header that was brought up to date later.
    least = max(columns.index(name) for name in _KEA_NEEDED) + 1
    if not least <= len(cells) <= len(columns):
        raise _BadEntry(f"{len(cells)} columns, the header has {len(columns)}")
    return cells


def _kea_row(number: int, row: dict[str, str], found: Imported) -> None:
    address = _address(row["address"])
    lasts = _number(row["valid_lifetime"], "valid_lifetime", _INFINITE_S)
    expires = _number(row["expire"], "expire", _LATEST_S)
    state = _KEA_STATES.get(row.get("state", "0"))
    if state is None:
        raise _BadEntry(f"state {_quoted(row['state'])} is not one of 0 to 3")
    chaddr = _octets(row["hwaddr"], "hwaddr", _MOST_CHADDR)
    client_id = _octets(row["client_id"], "client_id", _MOST_CLIENT_ID)
    if lasts == 0:
        # Kea's way to say that the lease was deleted.
        found.entries.pop(address, None)
        found.skip(number, "deleted")
        return
    if state == "bound" and not (chaddr or client_id):
        raise _BadEntry(f"{address} is assigned to nobody: neither hwaddr nor client_id")
    found.put(number, Lease(
        address=address, state=state, prefix=0, htype=1, chaddr=chaddr, client_id=client_id,
        ends=None if lasts == _INFINITE_S else expires, written=max(0, expires - lasts),
        lease_time_s=lasts))


# ISC: `lease ADDRESS { statement; statement; }`, and blocks of other kinds.

class _Token(NamedTuple):
    text: str
    line: int
    quoted: bool

    def is_(self, text: str) -> bool:
        return self.text == text and not self.quoted


class _Unclosed(Exception):
    """A `lease` inside a lease: what was written of the first one was cut off there."""

    def __init__(self, token: _Token) -> None:
        super().__init__()
        self.token = token


_TOKEN = re.compile(r'\s+|#.*|"((?:[^"\\]|\\.)*)"|([{};]|[^\s{};"#]+)|(")')
_DATE = re.compile(r"(\d{4})/(\d\d?)/(\d\d?)", re.ASCII)
_TIME = re.compile(r"(\d\d?):(\d\d):(\d\d)", re.ASCII)
_ISC_STATES = {"active": "bound", "free": "free", "expired": "free", "released": "free",
               "reset": "free", "backup": "free", "abandoned": "declined"}
# RFC 1700, "Hardware Type", as dhcpd names them.
_HARDWARE = {"ethernet": 1, "token-ring": 6, "fddi": 8, "infiniband": 32}
# dhcpd's default for abandon-lease-time, where an abandoned lease has no end.
_ABANDONED_S = 86400
_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|x([0-9a-fA-F]{2})|(.))")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", "b": "\b"}


def _read_isc(lines: Iterable[tuple[int, str]], found: Imported) -> None:
    tokens = _tokens(lines)
    begin = next(tokens, None)
    while begin:
        after = None
        try:
            if begin.is_("lease"):
                _isc_lease(tokens, begin.line, found)
            elif not begin.is_(";"):
                _statement(tokens, [begin])
        except _BadEntry as error:
            found.add_bad(begin.line, str(error))
        except _Unclosed as unclosed:
            found.add_bad(begin.line, "this entry is not closed")
            after = unclosed.token
        begin = after or next(tokens, None)


def _tokens(lines: Iterable[tuple[int, str]]) -> Iterator[_Token]:
    for number, line in lines:
        for match in _TOKEN.finditer(line):
            if match[1] is not None:
                yield _Token(match[1], number, True)
            elif match[2] or match[3]:
                yield _Token(match[2] or match[3], number, False)


def _statement(tokens: Iterator[_Token],
               before: Iterable[_Token] = ()) -> tuple[list[_Token], str]:
    """The words of one statement, without its block; and what it ended with: `;`, `}` or ""."""
    words, depth = list(before), 0
    for token in tokens:
        if token.is_("lease"):
            raise _Unclosed(token)
        if token.is_("{"):
            depth += 1
        elif token.is_("}"):
            depth -= 1
            if depth <= 0:
                return words, ";" if depth == 0 else "}"
        elif token.is_(";") and depth == 0:
            return words, ";"
        elif depth == 0:
            words.append(token)
    return words, ""


def _isc_lease(tokens: Iterator[_Token], line: int, found: Imported) -> None:
    """Read one lease to its closing brace, also where something in it is wrong."""
    address, brace = next(tokens, None), next(tokens, None)
    if address is None or brace is None or not brace.is_("{"):
        raise _BadEntry("a lease without address or without {")
    wrong, said = "", dict[str, list[_Token]]()
    while True:
        words, end = _statement(tokens)
        if not end:
            raise _BadEntry(f"lease {_quoted(address.text)} is not closed")
        if end == "}":
            break
        if any(word.is_('"') for word in words):
            wrong = wrong or f"line {words[0].line}: a quotation mark without its counterpart"
        elif words:
            # `next binding state` and the like are other statements than `binding state`.
            said[words[0].text] = words[1:]
    if wrong:
        raise _BadEntry(wrong)
    found.put(line, _isc_made(_address(address.text), said))


def _isc_made(address: IPv4Address, said: dict[str, list[_Token]]) -> Lease:
    starts, ends = _moment(said.get("starts")), _moment(said.get("ends"))
    written = _moment(said.get("cltt")) or starts or 0
    binding = said["binding"][-1].text if said.get("binding") else (
        "abandoned" if "abandoned" in said else "active")
    state = _ISC_STATES.get(binding)
    if state is None:
        raise _BadEntry(f"binding state {_quoted(binding)} is unknown")
    htype, chaddr = _hardware(said.get("hardware"))
    client_id = _client_id(said.get("uid"))
    if state == "bound" and not (chaddr or client_id):
        raise _BadEntry(f"{address} is active for nobody: neither hardware nor uid")
    if "ends" not in said:
        if state == "bound":
            raise _BadEntry(f"{address} is active and has no ends")
        ends = written + _ABANDONED_S if state == "declined" else written
    lasts = _INFINITE_S if ends is None else min(max(0, ends - (starts or ends)), _INFINITE_S - 1)
    return Lease(address=address, state=state, prefix=0, htype=htype, chaddr=chaddr,
                 client_id=client_id, ends=ends, written=written, lease_time_s=lasts)


def _moment(words: list[_Token] | None) -> int | None:
    """Unix seconds of `4 2024/02/29 12:00:00` (UTC) or `epoch 1709208000`; None for never."""
    said = [word.text for word in words or ()]
    if not said or said == ["never"]:
        return None
    if said[0] == "epoch" and len(said) == 2:
        return _number(said[1], "time", _LATEST_S)
    try:
        day, hour = _DATE.fullmatch(said[1]), _TIME.fullmatch(said[2])
        if day is None or hour is None:
            raise ValueError
        year, month, of_month = map(int, day.groups())
        hours, minutes, seconds = map(int, hour.groups())
        moment = datetime(year, month, of_month, hours, minutes, seconds, tzinfo=UTC)
    except (IndexError, ValueError, OverflowError):
        raise _BadEntry(f"{_quoted(' '.join(said))} is not a date like 4 2024/02/29 12:00:00"
                        ) from None
    return max(0, int(moment.timestamp()))


def _hardware(words: list[_Token] | None) -> tuple[int, bytes]:
    said = [word.text for word in words or ()]
    if not said:
        return 1, b""
    unknown = re.fullmatch(r"unknown-(\d{1,3})", said[0], re.ASCII)
    htype = int(unknown[1]) if unknown else _HARDWARE.get(said[0], 256)
    if htype > 255:
        raise _BadEntry(f"hardware type {_quoted(said[0])} is unknown")
    return htype, _octets(said[1] if len(said) > 1 else "", "hardware address", _MOST_CHADDR)


def _client_id(words: list[_Token] | None) -> bytes:
    """Octets of `uid "\\001\\002ab";` or `uid 01:02:61:62;`."""
    if not words:
        return b""
    if not words[0].quoted:
        return _octets(words[0].text, "uid", _MOST_CLIENT_ID)

    def plain(match: re.Match[str]) -> str:
        if match[1] or match[2]:
            return chr(int(match[1], 8) if match[1] else int(match[2], 16))
        return _ESCAPED.get(match[3], match[3])

    return _fitting(_ESCAPE.sub(plain, words[0].text).encode("latin-1"), "uid", _MOST_CLIENT_ID)
