"""The counters of a probe as the result document has them: `path`, and `latency_parts`.

`path` has one entry a place, from clients to servers: {"place", "kind", "interfaces" or "ends",
"residence_us", "losses"}. A link's residence is the time across it, a server's from the request
that came in to the answer that went out. All counts are of the test alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ebpf.probe import IN, KINDS, LINK, NODE, OUT, TIMED, TIMES, Reading, percentile_ns
from netlab.path.losses import Loss
from netlab.path.places import Layout
from netlab.topology import Role

# Which of TIMED make up each leg: the request and its answer.
LEGS = {"discover_offer": (0, 1), "request_ack": (2, 3)}
# By so much the parts may differ from what the client measured, before the report says so.
MOST_DIFFERENCE_PERCENT = 5.0
_ANSWER = (Role.SERVER, Role.ROGUE)
_PLAIN = ("other", "malformed", "fragment")


def path(layout: Layout, reading: Reading, losses: Iterable[Loss]) -> list[dict[str, Any]]:
    """One entry a place, in the order of the layout: nodes, each followed by its links."""
    by_node: dict[str, list[Loss]] = {}
    for loss in losses:
        by_node.setdefault(loss.node, []).append(loss)
    found: list[dict[str, Any]] = []
    told: set[int] = set()
    for node in layout.nodes:
        found.append({
            "place": node.name, "kind": node.role,
            "interfaces": [{"ifname": layout.ends[i].ifname,
                            "in": _counts(reading.counts[i, IN]),
                            "out": _counts(reading.counts[i, OUT])} for i in node.ends],
            "residence_us": _stays(reading.times[list(node.ends), :, NODE]),
            "losses": [_loss(loss) for loss in by_node.get(node.name, ())]})
        for number, link in enumerate(layout.links):
            if number in told or not {link.one, link.other} & set(node.ends):
                continue
            told.add(number)
            found.append(_link(layout, reading, (link.one, link.other)))
    return found


def _link(layout: Layout, reading: Reading, ends: tuple[int, int]) -> dict[str, Any]:
    names = {node.namespace: node.name for node in layout.nodes}
    called = [f"{names[layout.ends[i].namespace]}:{layout.ends[i].ifname}" for i in ends]
    one, other = ends
    return {
        "place": " - ".join(called), "kind": "link",
        "ways": [{"from": called[i], "to": called[1 - i],
                  "sent": _dhcp(reading.counts[a, OUT]), "received": _dhcp(reading.counts[b, IN]),
                  "lost": _dhcp(reading.counts[a, OUT]) - _dhcp(reading.counts[b, IN])}
                 for i, (a, b) in enumerate(((one, other), (other, one)))],
        "residence_us": _stays(reading.times[[one, other], :, LINK]), "losses": []}


def _dhcp(counts: np.void) -> int:
    """Frames of DHCP, whole or not."""
    return int(counts["packets"].sum()) - int(counts["packets"][KINDS.index("other")])


def _counts(counts: np.void) -> dict[str, Any]:
    packets, octets = counts["packets"], counts["bytes"]
    return {
        "packets": int(packets.sum()), "bytes": int(octets.sum()),
        "messages": {kind: {"packets": int(packets[i]), "bytes": int(octets[i])}
                     for i, kind in enumerate(KINDS) if kind not in _PLAIN and packets[i]},
        "malformed": int(packets[KINDS.index("malformed")]),
        "fragments": int(packets[KINDS.index("fragment")]),
        "other": int(packets[KINDS.index("other")]),
        "checksums": {"checked": int(counts["checked"]), "bad_ip": int(counts["bad_header"]),
                      "bad_udp": int(counts["bad_udp"])},
        "hops": {str(hops): int(n) for hops, n in enumerate(counts["hops"]) if n},
    }


def _loss(loss: Loss) -> dict[str, Any]:
    return {"where": loss.where, "reason": loss.reason, "ifname": loss.ifname,
            "count": loss.count, "messages": dict(loss.messages)}


def together(times: np.ndarray[Any, Any]) -> Any:
    """Many rows of TIMES as one."""
    rows = times.reshape(-1)
    whole = np.zeros(1, TIMES)[0]
    for name in ("count", "sum_ns", "twice"):
        whole[name] = rows[name].sum()
    whole["buckets"] = rows["buckets"].sum(axis=0)
    seen = rows[rows["count"] > 0]
    if len(seen):
        whole["least_ns"], whole["most_ns"] = seen["least_ns"].min(), seen["most_ns"].max()
    return whole


def _stays(times: np.ndarray[Any, Any]) -> dict[str, Any]:
    """times: shape (ends, 2, 4). By message; only those that were timed."""
    found = {}
    for i, message in enumerate(TIMED):
        whole = together(times[:, :, i])
        if not whole["count"] and not whole["twice"]:
            continue
        found[message] = {
            "count": int(whole["count"]), "retransmitted": int(whole["twice"]),
            "min": _us(whole["least_ns"]), "mean": _us(whole["sum_ns"] / max(1, whole["count"])),
            "p50": _us(percentile_ns(whole, 50)), "p90": _us(percentile_ns(whole, 90)),
            "p99": _us(percentile_ns(whole, 99)), "max": _us(whole["most_ns"])}
    return found


def _us(ns: float) -> float:
    return round(float(ns) / 1000, 3)


def latency_parts(layout: Layout, reading: Reading, path: Sequence[Mapping[str, Any]],
                  latency_us: Mapping[str, Any]) -> dict[str, Any]:
    """The client's mean latency, leg by leg, as what each place took of it.

    {leg: {"timed", "client_us", "sum_us", "differs_percent", "agrees", "parts": [{"place",
    "us"}]}}. A part is a place's whole time divided by the exchanges timed at the clients, so
    that parts add up where exchanges take different ways. Legs that nobody timed are absent.
    """
    clients = [i for node in layout.nodes if node.role == "client" for i in node.ends]
    found = {}
    for leg, messages in LEGS.items():
        whole = together(reading.times[clients, IN, NODE, messages[1]])
        client_us = (latency_us.get(leg) or {}).get("mean")
        if not whole["count"] or not client_us:
            continue
        parts = []
        for entry in path:
            if entry["kind"] == "client":
                continue
            stays = [entry["residence_us"].get(TIMED[i]) for i in messages]
            total = sum(stay["mean"] * stay["count"] for stay in stays if stay)
            if total:
                parts.append({"place": entry["place"], "kind": entry["kind"],
                              "us": round(total / int(whole["count"]), 3)})
        total_us = sum(part["us"] for part in parts)
        if layout.lent and not any(part["kind"] in _ANSWER for part in parts):
            # Whoever answered is out there, and so is the way to him.
            rest = _us(whole["sum_ns"] / int(whole["count"])) - total_us
            parts.append({"place": "outside the lab", "kind": "outside", "us": round(rest, 3)})
            total_us += rest
        differs = (client_us - total_us) / client_us * 100
        found[leg] = {"timed": int(whole["count"]), "client_us": round(client_us, 3),
                      "at_interface_us": _us(whole["sum_ns"] / int(whole["count"])),
                      "sum_us": round(total_us, 3), "differs_percent": round(differs, 1),
                      "agrees": abs(differs) <= MOST_DIFFERENCE_PERCENT, "parts": parts}
    return found
