"""What the server counts, by name: for the summary, the statistics file, metrics and logs."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpath.faultrules import labels
from fastpath.histogram import COUNTS as BUCKETS
from fastpath.histogram import SUM, Histogram, bucket_of
from fastpath.packet import mac_text
from fastpath.wire import REASON_NAMES, MessageType
from server.arrays import (
    CAUSED,
    E_ADDRESS,
    E_ANSWER,
    E_CAUSE,
    E_HARDWARE,
    E_KIND,
    ELSEWHERE,
    EXPIRED,
    OUTCOMES,
    RECEIVED,
    REFUSED,
    SENT,
    TYPES,
    Tables,
)
from server.config import Resolved
from server.decide import CAUSES, SILENT
from server.leases import STATES

Counts = npt.NDArray[np.int64]

# Upper ends of the buckets of response times, in microseconds.
RESPONSE_BUCKETS_US = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000,
                       100_000, 250_000, 500_000, 1_000_000)
_ANSWERS = ("silent", "offer", "ack", "nak")


def kind_name(kind: int) -> str:
    """`discover`, `offer` ... `bootp`, or `type 14`."""
    if kind == 0:
        return "bootp"
    try:
        return MessageType(kind).name.lower()
    except ValueError:
        return f"type {kind}"


def _by_type(counts: Counts, first: int) -> dict[str, int]:
    return {kind_name(i): int(counts[first + i]) for i in range(TYPES)
            if 0 < i <= len(MessageType) or counts[first + i]}


def _outcomes(counts: Counts) -> dict[str, dict[str, int]]:
    found = {}
    for kind in range(TYPES):
        row = counts[OUTCOMES + 4 * kind:OUTCOMES + 4 * kind + 4]
        if row.any():
            found[kind_name(kind)] = dict(zip(_ANSWERS, row.tolist(), strict=True))
    return found


def _subnets(tables: Tables, resolved: Resolved) -> list[dict[str, Any]]:
    used = tables.world.leases.used
    pools = tables.world.places.subnet_pools
    found = []
    for number, subnet in enumerate(resolved.subnets):
        states = used[pools[number, 0]:pools[number, 1]].sum(axis=0)
        found.append({"subnet": str(subnet.network), "addresses": int(states.sum()),
                      **{name: int(states[i]) for i, name in enumerate(STATES)}})
    return found


def _response_times(tables: Tables) -> dict[str, dict[str, Any]]:
    found = {}
    for kind, data in enumerate(tables.response_us):
        histogram = Histogram(data)
        if not histogram.count:
            continue
        cumulated = np.cumsum(data[:BUCKETS])
        found[kind_name(kind)] = {
            "count": histogram.count, "sum_us": int(data[SUM]),
            "buckets": [[le, int(cumulated[bucket_of(le)])] for le in RESPONSE_BUCKETS_US],
            **{name: value for name, value in histogram.summary().items()
               if name in ("p50", "p99", "max")}}
    return found


def _faults(tables: Tables, resolved: Resolved) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, hits in zip(labels(resolved.config.faults), tables.faults.hits.tolist(),
                          strict=True):
        found[name] = found.get(name, 0) + hits
    return found


def snapshot(tables: Tables, resolved: Resolved) -> dict[str, Any]:
    """Every count of the server as plain numbers under plain names."""
    counts = tables.counts
    leases = tables.world.leases
    return {
        "received": _by_type(counts, RECEIVED),
        "sent": _by_type(counts, SENT),
        "outcomes": _outcomes(counts),
        "refused": {name: int(counts[REFUSED + i])
                    for i, name in enumerate(REASON_NAMES) if i},
        "causes": {name: int(counts[CAUSED + i]) for i, name in enumerate(CAUSES) if i},
        "elsewhere": int(counts[ELSEWHERE]),
        "expired": int(counts[EXPIRED]),
        "pool": {"addresses": len(leases.state),
                 **{name: int(leases.totals[i]) for i, name in enumerate(STATES)}},
        "subnets": _subnets(tables, resolved),
        "faults": _faults(tables, resolved),
        "response_us": _response_times(tables),
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
