"""From the arrays of a finished test to the result document."""

from __future__ import annotations

import math
import os
import platform
import resource
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from fastpath.hdr import encode
from fastpath.histogram import Histogram
from fastpath.packet import mac_text
from fastpath.wire import REASON_NAMES, MessageType
from tester import cells
from tester.arrays import Int64s, Test
from tester.behaviour import Behaviour
from tester.cells import (
    ACKS,
    ANSWER_KINDS,
    ANSWERED,
    CLASS,
    CLASS_NAMES,
    CLASSES,
    DOUBLE,
    IGNORED_LEGS,
    LEG_NAMES,
    LEGS,
    LOST,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RENEW,
    MALFORMED,
    MESSAGE_NAMES,
    MESSAGES,
    NAKED,
    NAKS,
    OFFERS,
    PHASE,
    PHASE_SIZE,
    SILENT_NAMES,
    TIMES,
    TOO_LATE,
    TYPE_OF,
    UNEXPECTED,
    UNKNOWN,
    WRONG_ADDRESS,
    WRONG_SERVER,
)
from tester.config import TestConfig
from tester.measuring import Outcome
from tester.options import ENDLESS
from tester.plan import ClosedLoop, ConstantRate, OpenLoop
from tester.result import SCHEMA, Document, verdict

# What a series is called in the document, and which histogram it is.
LATENCIES = {
    **{name: cells.H_LEG + leg for leg, name in enumerate(LEG_NAMES)},
    **{f"{name}_from_intended": cells.H_INTENDED + leg for leg, name in enumerate(LEG_NAMES)},
    "dora": cells.H_DORA, "dora_from_intended": cells.H_DORA_INTENDED,
    "rapid_commit": cells.H_RAPID, "release_to_free": cells.H_RELEASE_FREE,
    "timer_late": cells.H_TIMER_LATE}
# These are there in every document; others only where something was measured.
ALWAYS = ("discover_offer", "request_ack", "dora", "dora_from_intended")
_REPLIES = (MessageType.OFFER, MessageType.ACK, MessageType.NAK)
_KINDS = ("offer", "ack", "nak")
_MODES = {cells.DIRECT: "broadcast", cells.RELAYS: "relay", cells.SOCKET: "socket"}


def _seconds(value: float) -> float | None:
    return None if math.isinf(value) else value


def _behaviour(behaviour: Behaviour, share: float) -> dict[str, Any]:
    return {"name": behaviour.name, "share": round(share, 6),
            "hold_s": _seconds(behaviour.hold_s), "lives": behaviour.lives}


def _config(config: TestConfig) -> dict[str, Any]:
    plan, where, patience, limits = config.plan, config.where, config.patience, config.limits
    constant = isinstance(plan, OpenLoop) and isinstance(plan.shape, ConstantRate)
    most = None if isinstance(plan, ClosedLoop) else plan.most_per_s
    return {
        "interface": where.interface, "clients": config.clients,
        "load": "closed" if isinstance(plan, ClosedLoop) else "open",
        "concurrency": plan.window if isinstance(plan, ClosedLoop) else None,
        "rate_per_s": most if constant else None, "plan": plan.describe(),
        "exchanges": limits.exchanges, "duration_s": limits.duration_s,
        "preload": limits.preload, "warm_up_s": limits.warm_up_s, "drain_s": limits.drain_s,
        "renew_rate_per_s": config.renew_rate, "release_rate_per_s": config.release_rate,
        "timeout_s": patience.timeout_s, "backoff_s": patience.backoff_s,
        "discover_tries": patience.discover_tries, "request_tries": patience.request_tries,
        "from": _MODES[where.mode], "server": str(where.server) if where.server else None,
        "server_port": where.server_port, "relays": len(where.relays),
        "tags": len(where.tags), "mac_base": mac_text(config.identity.mac_base),
        "broadcast_flag": config.identity.broadcast_flag,
        "behaviours": [_behaviour(*part) for part in config.mix],
        "time_scale": config.time_scale, "seed": config.seed,
    }


def _environment(engine: str) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    import numba

    try:
        ours = version("dhcp-netlab")
    except PackageNotFoundError:
        ours = "source"
    return {"kernel": platform.release(), "cpu": _cpu_name(), "cpus": os.cpu_count(),
            "engine": engine, "version": ours, "python": platform.python_version(),
            "numba": numba.__version__}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _phases(counts: Int64s) -> Int64s:
    """int64[MESSAGES, PHASE_SIZE]."""
    return counts[PHASE:PHASE + MESSAGES * PHASE_SIZE].reshape(MESSAGES, PHASE_SIZE)


def _classes(counts: Int64s) -> Int64s:
    """int64[ANSWER_KINDS, CLASSES]."""
    return counts[CLASS:CLASS + ANSWER_KINDS * CLASSES].reshape(ANSWER_KINDS, CLASSES)


def _messages(counts: Int64s) -> dict[str, Any]:
    """By DHCP message type, all transmissions; renewals and the like are REQUESTs."""
    phases, classes = _phases(counts), _classes(counts)
    found: dict[str, Any] = {}
    for kind in MessageType:
        if kind in _REPLIES:
            found[kind.name.lower()] = {"received": int(classes[_REPLIES.index(kind)].sum())}
            continue
        rows = [row for row in range(MESSAGES) if TYPE_OF[row] == kind]
        entry = {"sent": int(phases[rows, TIMES].sum())}
        if kind in (MessageType.DISCOVER, MessageType.REQUEST):
            entry["retransmitted"] = int((phases[rows, TIMES] - phases[rows, LEGS]).sum())
        found[kind.name.lower()] = entry
    return found


def _legs(counts: Int64s) -> dict[str, Any]:
    """What became of each kind of message, first transmissions counted; `open`: cut short."""
    legs = {}
    for row, name in enumerate(MESSAGE_NAMES):
        phase = _phases(counts)[row].tolist()
        entry = {"sent": phase[TIMES], "retransmitted": phase[TIMES] - phase[LEGS]}
        if name in SILENT_NAMES:
            entry["lost"] = 0
        else:
            ended = sum(phase[cell] for cell in (ANSWERED, NAKED, LOST, IGNORED_LEGS))
            entry |= {"answered": phase[ANSWERED], "refused": phase[NAKED], "lost": phase[LOST],
                      "ignored": phase[IGNORED_LEGS], "open": phase[LEGS] - ended}
        legs[name] = entry
    return legs


def _servers(test: Test, config: TestConfig) -> list[dict[str, Any]]:
    """Every server that answered, or was expected to; a stranger among the expected is a rogue."""
    found = []
    for row in test.servers:
        heard = int(row[[cells.S_OFFERS, cells.S_ACKS, cells.S_NAKS]].sum())
        if heard or row[cells.S_EXPECTED]:
            found.append({
                "server_id": str(IPv4Address(int(row[cells.S_ID]))),
                # A socket does not say who sent it.
                "mac": mac_text(int(row[cells.S_MAC]).to_bytes(6, "big"))
                if heard and config.where.mode != cells.SOCKET else None,
                "offers": int(row[cells.S_OFFERS]), "acks": int(row[cells.S_ACKS]),
                "naks": int(row[cells.S_NAKS]), "chosen": int(row[cells.S_CHOSEN]),
                "rogue": bool(config.expect_servers) and not row[cells.S_EXPECTED]})
    return found


def _relays(test: Test, config: TestConfig) -> list[dict[str, Any]]:
    found = []
    for row in test.relays[:len(config.where.relays)].tolist():
        done = row[cells.R_COMPLETED]
        found.append({
            "giaddr": str(IPv4Address(row[cells.R_IP])), "started": row[cells.R_STARTED],
            "completed": done, "failed": row[cells.R_FAILED],
            "dora_mean_us": round(row[cells.R_SUM_US] / done) if done else 0,
            "dora_max_us": row[cells.R_MAX_US]})
    return found


def _errors(test: Test) -> dict[str, Any]:
    counts, classes, phases = test.counts, _classes(test.counts), _phases(test.counts)
    malformed = counts[MALFORMED:MALFORMED + len(REASON_NAMES)]

    def of(number: int, *kinds: int) -> int:
        return int(classes[list(kinds) or [OFFERS, ACKS, NAKS], number].sum())

    return {
        "discover_timeout": int(counts[cells.DISCOVER_TIMEOUT]),
        "request_timeout": int(counts[cells.REQUEST_TIMEOUT]),
        "renew_timeout": int(phases[M_RENEW, LOST]), "rebind_timeout": int(phases[M_REBIND, LOST]),
        "reboot_timeout": int(phases[M_REBOOT, LOST]),
        "inform_timeout": int(phases[M_INFORM, LOST]),
        "nak": int(counts[cells.REFUSALS]), "duplicate_address": int(counts[cells.DUPLICATES]),
        "malformed": int(malformed.sum()), "unknown_xid": of(UNKNOWN), "late": of(TOO_LATE),
        "unexpected_option": int(counts[cells.UNEXPECTED_OPTION]),
        "duplicate_answer": of(DOUBLE), "unexpected_answer": of(UNEXPECTED),
        "wrong_server": of(WRONG_SERVER), "wrong_address": of(WRONG_ADDRESS),
        "malformed_answered": int(counts[cells.MALFORMED_ANSWERED]),
        "malformed_by_reason": {name: int(count) for name, count
                                in zip(REASON_NAMES, malformed, strict=True) if count}}


def _clients(test: Test, config: TestConfig) -> dict[str, Any]:
    clients, counts = test.clients, test.counts
    state = np.bincount(clients.state, minlength=cells.STATES)
    failed = [cells.TIMEOUT_DISCOVER, cells.TIMEOUT_REQUEST, cells.REFUSED, cells.DUPLICATE,
              cells.SELECTING, cells.REQUESTING]
    return {"planned": config.clients, "started": config.clients - int(state[cells.INIT]),
            "bound": int(np.count_nonzero(clients.flags & cells.F_BOUND)),
            "failed": int(state[failed].sum()), "left": int(state[cells.LEFT]),
            "leases_lost": int(counts[cells.LEASES_LOST]),
            "leases_expired": int(counts[cells.LEASES_EXPIRED]),
            "silent_leaves": int(counts[cells.SILENT_LEAVES])}


def _exchanges(test: Test, config: TestConfig) -> dict[str, int]:
    counts = test.counts
    started, planned = int(counts[cells.STARTED]), config.exchanges - config.limits.preload
    # Where there was to be no end of them, as many as there were.
    return {"planned": started if planned >= ENDLESS else planned,
            "started": started, "returned": int(counts[cells.RETURNED]),
            "completed": int(counts[cells.COMPLETED]), "failed": int(counts[cells.FAILED]),
            "in_flight": int(counts[cells.IN_FLIGHT])}


def _success(counts: Int64s, completed: int, begun: int) -> float:
    """Percent of exchanges completed; where none was begun, of legs answered."""
    if not begun:
        awaited = _phases(counts)[[row for row, name in enumerate(MESSAGE_NAMES)
                                   if name not in SILENT_NAMES]]
        completed, begun = int(awaited[:, ANSWERED].sum()), int(awaited[:, LEGS].sum())
    # Cut, not rounded: 100 means all of them.
    return 100_000 * completed // begun / 1000 if begun else 0.0


def collect(config: TestConfig, test: Test, outcome: Outcome, started_at: datetime,
            losses: dict[str, Any], engine: str = "ring") -> Document:
    """The result document of a finished test; `losses` as the document has them."""
    counts = test.counts
    exchanges, bound = _exchanges(test, config), int(counts[cells.N_BOUND])
    begun = exchanges["started"] + exchanges["returned"]
    first_ns = int(counts[cells.FIRST_NS])
    span_s = max(int(counts[cells.LAST_BOUND_NS]) - first_ns, 1) / 1e9
    clients = _clients(test, config)
    histograms = {name: Histogram(test.histograms[row]) for name, row in LATENCIES.items()}
    measured = {name: found for name, found in histograms.items()
                if name in ALWAYS or found.count}
    document: Document = {
        "schema": SCHEMA, "verdict": "",
        "started_at": started_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_s": round(outcome.duration_s, 6), "interrupted": outcome.interrupted,
        "stopped": outcome.stopped,
        "config": _config(config), "environment": _environment(engine),
        "clients": clients, "exchanges": exchanges,
        "success_rate_percent": _success(counts, exchanges["completed"], begun),
        "dora_per_s": round(bound / span_s, 1) if bound else 0.0,
        "time_to_bind_all_s": round(span_s, 6)
        if clients["bound"] == config.clients and bound else None,
        "messages": _messages(counts), "legs": _legs(counts),
        "answers": {kind: dict(zip(CLASS_NAMES, row, strict=True)) for kind, row
                    in zip(_KINDS, _classes(counts).tolist(), strict=True)},
        "latency_us": {name: histogram.summary() for name, histogram in measured.items()},
        "errors": _errors(test), "servers": _servers(test, config),
        "relays": _relays(test, config),
        "expectations": [
            {"expected": expected.text, "missing": row[cells.X_MISSING],
             "different": row[cells.X_DIFFERENT]}
            for expected, row in zip(config.expects, test.expected.rows.tolist(), strict=True)],
        "losses": losses, "missed_starts": int(counts[cells.MISSED]),
        "pool": {"nobody_to_renew": int(counts[cells.NOBODY_TO_RENEW]),
                 "nobody_to_release": int(counts[cells.NOBODY_TO_RELEASE])},
        "neighbours": {"arp_answered": int(counts[cells.ARP_ANSWERED]),
                       "pings_answered": int(counts[cells.PINGS_ANSWERED])},
        "malformed_sent": int(counts[cells.MALFORMED_SENT]),
        "generator": {"rss_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "busy_percent": round(100 * outcome.busy_share, 1),
                      "full_turns_percent": round(100 * outcome.full_share, 1),
                      "clock_steps": outcome.clock_steps,
                      "untrusted_stamps": int(counts[cells.UNTRUSTED])},
        "intervals": outcome.intervals,
        "histograms": {name: encode(histogram) for name, histogram in measured.items()},
    }
    document["verdict"] = verdict(document)
    return document


