"""The path of messages as text: a table of places, the parts of latency, what was lost where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# A star may have hundreds of places.
_MOST_PLACES = 24
_MOST_LOSSES = 12
_COLUMN = 11
_MESSAGES = ("discover", "offer", "request", "ack")


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Of a result document as `PathCounters.complete` leaves it."""
    path = document["path"]
    if path is None:
        yield f"{'path':{_COLUMN}}not measured: {document['path_not_measured']}"
        return
    width = min(40, max(len(entry["place"]) for entry in path))
    yield (f"{'path':{_COLUMN}}{'':{width}}  {'in':>11} {'out':>11} {'lost':>7}"
           f"  stayed, mean us (p99)")
    yield (f"{'':{_COLUMN}}{'':{width}}  {'':>11} {'':>11} {'':>7}"
           + "".join(f"{name:>19}" for name in _MESSAGES))
    for entry in path[:_MOST_PLACES]:
        came, went, lost = flow(entry)
        yield (f"{'':{_COLUMN}}{entry['place'][:width]:{width}}  {came:>11,} {went:>11,} "
               f"{lost:>7,}" + "".join(_stay(entry["residence_us"].get(name))
                                       for name in _MESSAGES)).rstrip()
    if len(path) > _MOST_PLACES:
        yield f"{'':{_COLUMN}}and {len(path) - _MOST_PLACES:,} more places"
    yield from _losses(path)
    if why := document.get("losses_not_measured"):
        yield f"{'lost':{_COLUMN}}not measured inside nodes: {why}"
    for leg, split in document["latency_parts"].items():
        yield from _split(leg, split)


def flow(entry: Mapping[str, Any]) -> tuple[int, int, int]:
    """Messages (in, out, lost) of a place."""
    lost = sum(loss["count"] for loss in entry["losses"])
    if entry["kind"] == "link":
        return (sum(way["sent"] for way in entry["ways"]),
                sum(way["received"] for way in entry["ways"]),
                sum(way["lost"] for way in entry["ways"]))
    came, went = (sum(port[side]["packets"] - port[side]["other"] for port in entry["interfaces"])
                  for side in ("in", "out"))
    return came, went, lost


def _stay(stay: Mapping[str, Any] | None) -> str:
    if not stay or not stay["count"]:
        return f"{'-':>19}"
    return f"{stay['mean']:>10,.1f} ({stay['p99']:,.0f})".rjust(19)


def _losses(path: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found = [f"{entry['place']}{':' + loss['ifname'] if loss['ifname'] else ''}: "
             f"{loss['count']:,} in {loss['where']}, {loss['reason']}"
             + (" (" + ", ".join(f"{kind} {n:,}" for kind, n in loss["messages"].items()) + ")"
                if loss["messages"] else "")
             for entry in path for loss in entry["losses"]]
    # A link's two ends are named by the nodes that lost; what is left has no reason.
    if not found:
        return
    for i, line in enumerate(found[:_MOST_LOSSES]):
        yield f"{'' if i else 'lost':{_COLUMN}}{line}"
    if len(found) > _MOST_LOSSES:
        yield f"{'':{_COLUMN}}and {len(found) - _MOST_LOSSES:,} more"


def _split(leg: str, split: Mapping[str, Any]) -> Iterator[str]:
    parts = sorted(split["parts"], key=lambda part: -part["us"])
    shown = [f"{part['place']} {part['us']:,.1f}" for part in parts if part["kind"] != "link"]
    links = sum(part["us"] for part in parts if part["kind"] == "link")
    more = f" + {len(shown) - 6} more places" if len(shown) > 6 else ""
    yield (f"{leg.replace('_', ' to '):{_COLUMN}} {split['sum_us']:,.1f} us = "
           f"{' + '.join(shown[:6])}{more} + links {links:,.1f}; the client says "
           f"{split['client_us']:,.1f}")
    if not split["agrees"]:
        where = ("spent between its program and its interface" if split["differs_percent"] > 0
                 else "the exchanges timed here took longer than the rest")
        yield (f"{'':{_COLUMN}}the client's own figure differs by "
               f"{split['differs_percent']:+.1f} %: {where}")
