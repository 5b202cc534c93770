"""Each option of perfdhcp for DHCPv4 with ours beside it, and what its value may be.

The one thing to know: `ROWS` is all there is to say of an option; what reads perfdhcp's line and
the table of docs/perfdhcp.md both come from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

BROADCAST = "255.255.255.255"
# Where neither a number of exchanges nor a time bounds them.
LONGEST = "7d"
_MOST_INT = (1 << 31) - 1


def _whole(least: int, most: int = _MOST_INT) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)
    return parse


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _drops(text: str) -> tuple[str, float]:
    """("%", share) or ("", count)."""
    number, sign, _ = text.partition("%")
    if not sign:
        return "", _whole(1)(number)
    share = float(number)
    if not 0 < share < 100:
        raise ValueError
    return "%", share


def _base(text: str) -> str:
    """The hardware address, or "" for a DUID, which says nothing in DHCPv4."""
    kind, _, value = text.lower().partition("=")
    if kind == "duid":
        if not re.fullmatch(r"([0-9a-f]{2}){6,64}", value):
            raise ValueError
        return ""
    octets = [int(part, 16) for part in value.split(":") if re.fullmatch(r"[0-9a-f]+", part)]
    parts = [part for part in value.split(":") if part]
    if kind not in ("mac", "ether") or len(octets) != len(parts) or len(octets) != 6 or (
            max(octets) > 255):
        raise ValueError
    return ":".join(f"{octet:02x}" for octet in octets)


def _option(text: str) -> tuple[int, str]:
    code, comma, octets = text.partition(",")
    if not comma or not re.fullmatch(r"([0-9a-fA-F]{2})*", octets):
        raise ValueError
    return _whole(1, 254)(code), octets.lower()


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text
    return parse


def _something(text: str) -> str:
    if not text:
        raise ValueError
    return text


_POSITIVE = (_whole(1), "a whole number from 1 on")
_COUNT = (_whole(0), "a whole number from 0 on")
_PORT = (_whole(0, 65535), "a port, or 0")
_TEXT = (_something, "something")


class Row(NamedTuple):
    """One option. value: what it is given, "" for none. ours: our words for it, "" where it has
    no effect. times: how often it may come. kind: what makes a value of a text or raises
    ValueError, and what it wants, or none.
    """

    name: str
    value: str
    ours: str
    note: str
    times: int = 1
    kind: tuple[Callable[[str], Any], str] | None = None


_ANY = 1 << 30
ROWS = (
    Row("-1", "", "", "clients name the server whose offer they take", _ANY),
    Row("-4", "", "", "DHCPv4 is all there is", _ANY),
    Row("-6", "", "refused", "DHCPv6", _ANY),
    Row("-A", "level", "refused", "DHCPv6 only", _ANY),
    Row("-b", "mac=MAC", "--mac-base MAC --no-mac-carry",
        "also `ether=`; `duid=` has no effect in DHCPv4; 00:0c:01:02:03:04 where nothing is said; "
        "each octet counts by itself: after ff comes 00, and nothing is carried", 4,
        (_base, "mac=00:0c:01:02:03:04")),
    Row("-B", "", "", "it lets perfdhcp send to a broadcast address, which we always may; neither "
        "sets the broadcast flag", _ANY),
    Row("-c", "", "refused", "DHCPv6 only; ours for DHCPv4 is `--rapid-commit`", _ANY),
    Row("-C", "separator", "", "intervals are in the document of `--json`", _ANY),
    Row("-d", "seconds", "--timeout SECONDS",
        "1 where nothing is said; of two, for OFFERs and for ACKs, the longer one", _ANY,
        (_seconds, "a time in seconds above 0")),
    Row("-D", "N or N%", "--max-drop N-1 or N%",
        "perfdhcp stops at the Nth loss, we after more than so many; we count lost DISCOVERs and "
        "REQUESTs together, so of two the smaller one", 2,
        (_drops, "a whole number from 1 on, or a share between 0 % and 100 %")),
    Row("-e", "address-only", "", "other leases are DHCPv6 only", _ANY,
        (_one_of("address-only"), "address-only in DHCPv4")),
    Row("-E", "offset", "--raw-template request=..,secs=OFFSET", "8 where nothing is said", _ANY,
        _COUNT),
    Row("-f", "rate", "--renew-rate RATE", "of clients in the order in which they were bound, not "
        "drawn by lot", _ANY, _POSITIVE),
    Row("-F", "rate", "--release-rate RATE", "the same", _ANY, _POSITIVE),
    Row("-g", "single or multi", "", "threads are not ours to choose", _ANY,
        (_one_of("single", "multi"), "single or multi")),
    Row("-h", "", "--help", "ours", _ANY),
    Row("-i", "", "--discover-only", "", _ANY),
    Row("-I", "offset", "--raw-template request=..,address-option=OFFSET",
        "240 where nothing is said; where option 50 begins, code and length included", _ANY,
        _POSITIVE),
    Row("-J", "file", "--relay @FILE", "relay agents in turn, not drawn by lot; each speaks from "
        "its own address, answers ARP for it and hears its answers, which needs root; not with "
        "-L", 1, _TEXT),
    Row("-l", "interface or address", "--interface NAME or --local-address ADDR",
        "an interface without a server: as with the server `all`", _ANY, _TEXT),
    Row("-L", "port", "--local-port PORT", "67 where nothing is said, as relay agents do", _ANY,
        _PORT),
    Row("-M", "file", "--mac-list FILE", "in turn, not drawn by lot; -R then says nothing", 1,
        _TEXT),
    Row("-n", "N", "--exchanges N", "of two, for DISCOVERs and REQUESTs, the smaller one; `0` "
        "where there is none", 2, _POSITIVE),
    Row("-N", "port", "--port PORT", "", _ANY, _PORT),
    Row("-o", "code,hex", "--option CODE=hex:HEX", "only after -4; code 55 adds to what is asked "
        "for; 50, 53, 54 and 61 are refused, as they stop perfdhcp", _ANY,
        (_option, "CODE,HEX with a code from 1 to 254, as 60,646f63736973")),
    Row("-O", "offset", "--raw-template ..,mac=OFFSET", "33 where nothing is said: perfdhcp's "
        "35 is behind chaddr, whose last octet is 33", 2, (_whole(3), "an offset from 3 on")),
    Row("-p", "seconds", "--duration SECONDS", f"without -p and -n: until Ctrl-C, or {LONGEST}",
        _ANY, _POSITIVE),
    Row("-P", "N", "--preload N", "perfdhcp leaves N DISCOVERs unfinished, we bind N clients, at "
        "most all there are", _ANY, _COUNT),
    Row("-r", "rate", "--rate RATE", "without it perfdhcp sends as fast as it can; we keep 64 "
        "exchanges in flight (`--concurrency`)", _ANY, _POSITIVE),
    Row("-R", "N", "--clients N", "1 where nothing is said; clients take turns; one who is not "
        "done with an exchange does not begin another", _ANY,
        (_whole(0, (1 << 32) - 1), "a whole number from 0 on")),
    Row("-s", "seed", "--seed SEED", "0: none", _ANY, _COUNT),
    Row("-S", "offset", "--raw-template request=..,server-option=OFFSET",
        "54 where nothing is said; where option 54 begins, code and length included", _ANY,
        _POSITIVE),
    Row("--scenario", "basic or avalanche", "--avalanche --backoff 1s..64s",
        "avalanche needs -R, and is neither bounded nor shaped by other options, as there; "
        "jitter is a quarter of the first wait", _ANY,
        (_one_of("basic", "avalanche"), "basic or avalanche")),
    Row("-t", "seconds", "--progress", "every second", _ANY, _POSITIVE),
    Row("-T", "file", "--raw-template discover=FILE,.. and request=FILE,..",
        "the first for DISCOVERs, the second for REQUESTs", 2, _TEXT),
    Row("-u", "", "", "addresses given twice are always counted", _ANY),
    Row("-v", "", "--version", "ours", _ANY),
    Row("-w", "program", "--wrap PROGRAM", "it is told start and stop as the manual says; "
        "perfdhcp tells a script neither", _ANY, _TEXT),
    Row("-W", "microseconds", "--drain SECONDS", "without it perfdhcp leaves what is awaited, and "
        "calls it dropped; we wait for it until it is late", _ANY, _COUNT),
    Row("-x", "letters", "", "`--verbose` and `--json` say more", _ANY, _TEXT),
    Row("-X", "offset", "--raw-template ..,xid=OFFSET", "4 where nothing is said", 2, _POSITIVE),
    Row("-y", "seconds", "--aging-for SECONDS", "only with -Y; a REQUEST then repeats `secs` of "
        "its DISCOVER (RFC 2131 section 3.1), where perfdhcp has 0", _ANY, _POSITIVE),
    Row("-Y", "seconds", "--aging-after SECONDS", "only with -y", _ANY, _COUNT),
    Row("server", "address or all", "--server ADDR --relay self",
        f"`all` is {BROADCAST} and needs -l: it names the interface", 1),
)


def table() -> str:
    """The table of docs/perfdhcp.md."""
    lines = ["| perfdhcp | ours | |", "|---|---|---|"]
    for row in ROWS:
        name = f"`{row.name}`" if row.name != "server" else "a server"
        ours = row.ours if row.ours == "refused" else f"`{row.ours}`" if row.ours else "no effect"
        lines.append(f"| {name}{' ' + row.value if row.value else ''} | "
                     f"{ours.replace(' or ', '` or `').replace(' and ', '` and `')} | {row.note} |")
    return "\n".join(lines)
