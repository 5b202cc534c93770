"""What the server counts, by name: for the summary, the statistics file and verbose logs."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpath.packet import mac_text
from fastpath.wire import REASON_NAMES, MessageType
from server.decide import CAUSES, SILENT
from server.engine import (
    CAUSED,
    E_ADDRESS,
    E_ANSWER,
    E_CAUSE,
    E_HARDWARE,
    E_KIND,
    ELSEWHERE,
    EXPIRED,
    RECEIVED,
    REFUSED,
    SENT,
    TYPES,
    Tables,
)
from server.leases import COUNTS as STATE_COUNTS
from server.leases import STATES

Counts = npt.NDArray[np.int64]


def kind_name(kind: int) -> str:
    """`discover`, `offer` ... or `type 14`."""
    try:
        return MessageType(kind).name.lower()
    except ValueError:
        return f"type {kind}"


def _by_type(counts: Counts, first: int) -> dict[str, int]:
    return {kind_name(i): int(counts[first + i]) for i in range(1, TYPES)
            if i <= len(MessageType) or counts[first + i]}


def snapshot(tables: Tables, rx_ring_drops: int) -> dict[str, Any]:
    """Every count of the server as plain numbers under plain names."""
    counts = tables.counts
    pool = tables.leases.queue[STATE_COUNTS:]
    return {
        "received": _by_type(counts, RECEIVED),
        "sent": _by_type(counts, SENT),
        "refused": {name: int(counts[REFUSED + i])
                    for i, name in enumerate(REASON_NAMES) if i},
        "causes": {name: int(counts[CAUSED + i]) for i, name in enumerate(CAUSES) if i},
        "elsewhere": int(counts[ELSEWHERE]),
        "expired": int(counts[EXPIRED]),
        "pool": {"addresses": len(tables.leases.state),
                 **{name: int(pool[i]) for i, name in enumerate(STATES)}},
        "rx_ring_drops": rx_ring_drops,
    }


def event_lines(tables: Tables, seen: int, most: int) -> tuple[list[str], int]:
    """Lines for what happened since event number `seen`, at most `most`; and the new `seen`."""
    events = tables.events
    room, now = len(events) - 1, int(events[0, 0])
    first = max(seen, now - min(most, room))
    lines = [f"… {first - seen:,} more"] if first > seen else []
    for number in range(first, now):
        row = events[1 + number % room]
        answer, cause = int(row[E_ANSWER]), CAUSES[row[E_CAUSE]]
        outcome = kind_name(answer) if answer != SILENT else "no answer"
        address = f" {IPv4Address(int(row[E_ADDRESS]))}" if row[E_ADDRESS] else ""
        why = f" ({cause.replace('_', ' ')})" if cause != "ok" else ""
        mac = mac_text(int(row[E_HARDWARE]).to_bytes(6, "big"))
        lines.append(f"{mac} {kind_name(int(row[E_KIND]))} -> {outcome}{address}{why}")
    return lines, now
