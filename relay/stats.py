"""What the relay counts, by name: for the summary, the statistics file, metrics and logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any

import numpy as np

from fastpath.faultrules import labels
from fastpath.packet import mac_text
from fastpath.wire import REASON_NAMES, MessageType
from relay.arrays import (
    BY_HOPS,
    CAUSED,
    CAUSES,
    DONE,
    E_CAUSE,
    E_GIADDR,
    E_HARDWARE,
    E_KIND,
    E_PORT,
    E_WAY,
    ELSEWHERE,
    H_MAC,
    HOPS_CELLS,
    OPTION82,
    RECEIVED,
    REFUSED,
    RELAYED,
    REQUEST,
    S_NO_HOP,
    S_REPLIES,
    S_SENT,
    TYPES,
    UNKNOWN,
    Int64s,
    Tables,
)
from relay.places import Resolved

Part = tuple[Tables, Resolved]

_ASKING = ("discover", "request", "decline", "release", "inform")
_ANSWERING = ("offer", "ack", "nak")


def kind_name(kind: int) -> str:
    """`discover`, `offer` ...; `other` for BOOTP, `type 14` for what RFC 2132 does not know."""
    if kind == 0:
        return "other"
    try:
        return MessageType(kind).name.lower()
    except ValueError:
        return f"type {kind}"


def _by_type(counts: Int64s, first: int, always: tuple[str, ...]) -> dict[str, int]:
    found = {kind_name(i): int(counts[first + i]) for i in range(TYPES)}
    return {name: found[name] for name in found if name in always or found[name]}


def _faults(parts: Iterable[Part]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tables, resolved in parts:
        for name, hits in zip(labels(resolved.config.faults), tables.faults.hits.tolist(),
                              strict=True):
            found[name] = found.get(name, 0) + hits
    return found


def _servers(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Each server once; reachable where all who send to it know the way."""
    found: dict[IPv4Address, dict[str, Any]] = {}
    for tables, resolved in parts:
        for address, hop, row in zip(resolved.config.servers, tables.hops.tolist(),
                                     tables.by_server.tolist(), strict=True):
            said = found.setdefault(address, {"address": str(address), "reachable": True,
                                              "sent": 0, "replies": 0, "no_next_hop": 0})
            said["reachable"] &= hop[H_MAC] != UNKNOWN
            for name, column in (("sent", S_SENT), ("replies", S_REPLIES),
                                 ("no_next_hop", S_NO_HOP)):
                said[name] += row[column]
    return list(found.values())


def snapshot(tables: Tables, resolved: Resolved) -> dict[str, Any]:
    """Every count of the relay as plain numbers under plain names."""
    return snapshot_of([(tables, resolved)])


def snapshot_of(parts: Sequence[Part]) -> dict[str, Any]:
    """As `snapshot`, of several relays together."""
    counts = np.sum([tables.counts for tables, _ in parts], axis=0)
    refused = {name: int(counts[REFUSED + i]) for i, name in enumerate(REASON_NAMES) if i}
    return {
        "program": "dhcp-relay",
        "requests": {"received": _by_type(counts, RECEIVED, _ASKING),
                     "relayed": _by_type(counts, RELAYED, _ASKING)},
        "replies": {"received": _by_type(counts, RECEIVED + TYPES, _ANSWERING),
                    "relayed": _by_type(counts, RELAYED + TYPES, _ANSWERING)},
        "discarded": {"malformed": sum(refused.values()),
                      **{name: int(counts[CAUSED + i]) for i, name in enumerate(CAUSES) if i}},
        "refused": refused,
        "elsewhere": int(counts[ELSEWHERE]),
        "option82": {name: int(counts[OPTION82 + i]) for i, name in enumerate(DONE)},
        "by_hops": counts[BY_HOPS:BY_HOPS + HOPS_CELLS].tolist(),
        "servers": _servers(parts),
        "faults": _faults(parts),
    }


def event_lines(tables: Tables, resolved: Resolved, seen: int, most: int) -> tuple[list[str], int]:
    """Lines for what happened since event number `seen`, at most `most`; and the new `seen`."""
    events = tables.events
    room, now = len(events) - 1, int(events[0, 0])
    first = max(seen, now - min(most, room))
    lines = [f"… {first - seen:,} more"] if first > seen else []
    for number in range(first, now):
        row = events[1 + number % room]
        mac = mac_text(int(row[E_HARDWARE]).to_bytes(6, "big"))
        name = resolved.places[row[E_PORT]].interface.name
        way = "to the servers" if row[E_WAY] == REQUEST else "to the client"
        cause = CAUSES[row[E_CAUSE]]
        done = way if row[E_CAUSE] == 0 else f"discarded ({cause.replace('_', ' ')})"
        giaddr = f" giaddr {IPv4Address(int(row[E_GIADDR]))}" if row[E_GIADDR] else ""
        lines.append(f"{mac} {kind_name(int(row[E_KIND]))} from {name}{giaddr}: {done}")
    return lines, now
