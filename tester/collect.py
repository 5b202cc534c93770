"""From the arrays of a finished test to the result document and the client list."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from fastpath.hdr import encode
from fastpath.histogram import Histogram
from fastpath.packet import mac_text
from fastpath.wire import REASON_NAMES, MessageType
from tester.clients import (
    BOUND,
    DUPLICATE,
    INIT,
    REFUSED,
    REQUESTING,
    SELECTING,
    TIMEOUT_DISCOVER,
    TIMEOUT_REQUEST,
)
from tester.config import TestConfig
from tester.engine import (
    DISCOVER_OFFER,
    DISCOVER_TIMEOUT,
    DORA,
    DORA_FROM_INTENDED,
    DUPLICATES,
    FIRST_NS,
    LAST_BOUND_NS,
    LATE,
    MALFORMED,
    MISSED,
    N_BOUND,
    NAKS,
    RECEIVED,
    REPEATED,
    REQUEST_ACK,
    REQUEST_TIMEOUT,
    RETRANSMITTED,
    SENT,
    STARTED,
    UNKNOWN_XID,
    UNTRUSTED,
    Test,
)
from tester.plan import ClosedLoop
from tester.result import SCHEMA, Document, verdict
from tester.run import Outcome

LATENCIES = {"discover_offer": DISCOVER_OFFER, "request_ack": REQUEST_ACK, "dora": DORA,
             "dora_from_intended": DORA_FROM_INTENDED}
# A client still waiting when the test was cut short got no answer either.
OUTCOMES = {INIT: "not_started", SELECTING: "timeout_discover", REQUESTING: "timeout_request",
            BOUND: "bound", TIMEOUT_DISCOVER: "timeout_discover",
            TIMEOUT_REQUEST: "timeout_request", REFUSED: "nak", DUPLICATE: "duplicate"}
CSV_HEADER = ("client,chaddr,outcome,yiaddr,server_id,lease_time_s,discover_offer_us,"
              "request_ack_us,dora_us,retransmits")
_CSV_ROWS = 20_000


def _config(config: TestConfig) -> dict[str, Any]:
    closed = isinstance(config.plan, ClosedLoop)
    return {
        "interface": config.interface, "clients": config.clients,
        "load": "closed" if closed else "open",
        "concurrency": config.plan.window if isinstance(config.plan, ClosedLoop) else None,
        "rate_per_s": None if isinstance(config.plan, ClosedLoop) else config.plan.rate_per_s,
        "duration_s": config.duration_s, "timeout_s": config.timeout_s,
        "discover_tries": config.discover_tries, "request_tries": config.request_tries,
        "mac_base": mac_text(config.mac_base), "broadcast_flag": config.broadcast_flag,
        "server_port": config.server_port, "seed": config.seed,
    }


def _environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import numba

    try:
        ours = version("dhcp-netlab")
    except PackageNotFoundError:
        ours = "source"
    return {"kernel": platform.release(), "cpu": _cpu_name(), "cpus": os.cpu_count(),
            "engine": "ring", "version": ours, "python": platform.python_version(),
            "numba": numba.__version__}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _messages(test: Test) -> dict[str, Any]:
    counts = test.counts

    def sent(kind: MessageType) -> dict[str, int]:
        entry = {"sent": int(counts[SENT + kind])}
        if kind in (MessageType.DISCOVER, MessageType.REQUEST):
            entry["retransmitted"] = int(counts[RETRANSMITTED + kind])
        return entry

    def received(kind: MessageType) -> dict[str, int]:
        return {"received": int(counts[RECEIVED + kind])}

    replies = (MessageType.OFFER, MessageType.ACK, MessageType.NAK)
    return {kind.name.lower(): received(kind) if kind in replies else sent(kind)
            for kind in MessageType}


def collect(config: TestConfig, test: Test, outcome: Outcome, started_at: datetime,
            losses: dict[str, Any]) -> Document:
    """The result document of a finished test; `losses` as the document has them."""
    counts = test.counts
    started, bound = int(counts[STARTED]), int(counts[N_BOUND])
    span_s = max(int(counts[LAST_BOUND_NS]) - int(counts[FIRST_NS]), 1) / 1e9
    histograms = {name: Histogram(test.histograms[row]) for name, row in LATENCIES.items()}
    malformed = counts[MALFORMED:MALFORMED + len(REASON_NAMES)]
    document: Document = {
        "schema": SCHEMA, "verdict": "",
        "started_at": started_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_s": round(outcome.duration_s, 6), "interrupted": outcome.interrupted,
        "config": _config(config), "environment": _environment(),
        "clients": {"planned": config.clients, "started": started, "bound": bound,
                    "failed": started - bound},
        # Cut, not rounded: 100 means all of them.
        "success_rate_percent": 100_000 * bound // started / 1000 if started else 0.0,
        "dora_per_s": round(bound / span_s, 1) if bound else 0.0,
        "messages": _messages(test),
        "latency_us": {name: histogram.summary() for name, histogram in histograms.items()},
        "errors": {
            "discover_timeout": int(counts[DISCOVER_TIMEOUT]),
            "request_timeout": int(counts[REQUEST_TIMEOUT]), "nak": int(counts[NAKS]),
            "duplicate_address": int(counts[DUPLICATES]), "malformed": int(malformed.sum()),
            "unknown_xid": int(counts[UNKNOWN_XID]), "late": int(counts[LATE]),
            "unexpected_option": 0, "repeated_answer": int(counts[REPEATED]),
            "malformed_by_reason": {name: int(count) for name, count
                                    in zip(REASON_NAMES, malformed, strict=True) if count}},
        "losses": losses, "missed_starts": int(counts[MISSED]),
        "generator": {"rss_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "busy_percent": round(100 * outcome.busy_share, 1),
                      "clock_steps": outcome.clock_steps,
                      "untrusted_stamps": int(counts[UNTRUSTED])},
        "intervals": outcome.intervals,
        "histograms": {name: encode(histogram) for name, histogram in histograms.items()},
    }
    document["verdict"] = verdict(document)
    return document


def _csv_lines(config: TestConfig, test: Test) -> Iterator[str]:
    yield CSV_HEADER + "\n"
    clients = test.clients
    base = int.from_bytes(config.mac_base, "big")
    for first in range(0, config.clients, _CSV_ROWS):
        rows = slice(first, first + _CSV_ROWS)
        columns = [column[rows].tolist() for column in (
            clients.state, clients.yiaddr, clients.server, clients.lease_s,
            clients.discover_offer_us, clients.request_ack_us, clients.dora_us,
            clients.retransmits)]
        yield "".join(
            _csv_line(first + i, base + first + i, *row)
            for i, row in enumerate(zip(*columns, strict=True)))


def _csv_line(client: int, mac: int, state: int, yiaddr: int, server: int, lease_s: int,
              discover_offer: int, request_ack: int, dora: int, retransmits: int) -> str:
    """One row; what did not happen is empty, not zero."""
    got = state in (BOUND, DUPLICATE)
    cells = [client, mac_text(mac.to_bytes(6, "big")), OUTCOMES[state],
             IPv4Address(yiaddr) if got else "", IPv4Address(server) if got and server else "",
             lease_s if got else "", discover_offer if state in _OFFERED else "",
             request_ack if got else "", dora if state == BOUND else "", retransmits]
    return ",".join(map(str, cells)) + "\n"


_OFFERED = (REQUESTING, BOUND, TIMEOUT_REQUEST, REFUSED, DUPLICATE)


def write_clients_csv(path: Path, config: TestConfig, test: Test) -> None:
    """Write one row a client; raises SystemRefused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as out:
            out.writelines(_csv_lines(config, test))
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None


def softnet_dropped() -> int | None:
    """Packets that this machine's receive backlogs have dropped; None where not to be read.

    /proc/net/softnet_stat, second column, one line a processor (net/core/net-procfs.c).
    """
    try:
        lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1], 16) for line in lines)
