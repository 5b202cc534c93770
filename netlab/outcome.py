"""What the lab adds to a tester's result: servers, relays, leases, and what every port saw.

The tester cannot know where a frame was lost outside its own ring. The lab can: it reads the
counters of each interface, of each program's sockets and of the machine before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netlab import observe, verify
from netlab.adapter import Report
from netlab.programs import Usage
from netlab.state import Journal

End = tuple[str, str]  # (node, ifname)
# A star may have hundreds of relays: so many are told of one by one.
_MOST_LINES = 8


@dataclass(frozen=True, slots=True)
class Counters:
    """What had been counted at one moment."""

    ports: dict[End, dict[str, int]]
    softnet_dropped: int

    @classmethod
    def now(cls, journal: Journal) -> Counters:
        return cls(observe.ports(journal), observe.softnet_dropped())


@dataclass(frozen=True, slots=True)
class Side:
    """A server or relay: what it used while the test ran, what it said after its end.

    socket_drops: what the kernel dropped at its sockets meanwhile; None where not known.
    shared_by: relays that one process is; then `used` is that of all together.
    """

    node: str
    program: str
    used: Usage
    report: Report
    socket_drops: int | None = None
    rogue: bool = False
    shared_by: int = 1

    @property
    def drops(self) -> int | None:
        """Frames lost between its interface and itself."""
        known = [n for n in (self.report.ring_drops, self.socket_drops) if n is not None]
        return sum(known) if known else None

    def document(self) -> dict[str, Any]:
        more: dict[str, Any] = {"rogue": True} if self.rogue else {}
        if self.shared_by > 1:
            more["shared_by"] = self.shared_by
        return {"node": self.node, "program": self.program, "version": self.report.version,
                "cpu_s": round(self.used.cpu_s, 2), "rss_bytes_max": self.used.rss_bytes_max,
                "ring_drops": self.report.ring_drops, "socket_drops": self.socket_drops,
                "discarded": None if self.report.discarded is None
                else dict(self.report.discarded),
                **more, "stats": dict(self.report.stats)}


def lab_object(journal: Journal, before: Counters, after: Counters, servers: list[Side],
               relays: list[Side], leases: Mapping[str, Any]) -> dict[str, Any]:
    """The `lab` object of the result file; counters are of the test alone.

    leases: as `verify.compare` gives them, or {"why": ...}.
    """
    peers = {}
    for one, other in observe.pairs(journal):
        peers[one], peers[other] = other, one
    return {
        "name": journal.lab,
        "topology": journal.topology.name,
        "server": servers[0].document() if servers else None,
        "servers": [side.document() for side in servers],
        "relays": [side.document() for side in relays],
        "leases": dict(leases),
        "ports": [{"node": end[0], "ifname": end[1], "peer_node": peers[end][0],
                   "peer_ifname": peers[end][1],
                   **{name: value - before.ports[end][name] for name, value in counters.items()}}
                  for end, counters in after.ports.items() if end in before.ports],
        "softnet_dropped": after.softnet_dropped - before.softnet_dropped,
    }


def complete(document: dict[str, Any], lab: dict[str, Any], servers: list[Side]) -> None:
    """Put the lab's part into a tester's result document."""
    document["lab"] = lab
    drops = [side.drops for side in servers if side.drops is not None]
    document.setdefault("losses", {})["server_socket"] = sum(drops) if drops else None


def discards(lab: Mapping[str, Any]) -> Iterator[str]:
    """Who would not pass messages on, and why: `relay5: hops_exceeded 512`. Where nobody says so
    himself, who by his ports kept what he received."""
    said = list(_by_words(lab))
    yield from said or _by_ports(lab)


def _by_words(lab: Mapping[str, Any]) -> Iterator[str]:
    for side in (*lab["relays"], *lab["servers"]):
        for reason, count in (side["discarded"] or {}).items():
            if count:
                yield f"{side['node']}: {reason} {count:,}"


def _by_ports(lab: Mapping[str, Any]) -> list[str]:
    """Where messages ended, by what ports saw, for relays that keep no count of their own.

    A relay passes a request on by another port than it came in by. One that received many more
    frames than it sent on kept them.
    """
    if not any(side["discarded"] is None for side in lab["relays"]):
        return []
    ports: dict[str, list[dict[str, Any]]] = {}
    for port in lab["ports"]:
        ports.setdefault(port["node"], []).append(port)
    for side in lab["relays"]:
        own = ports.get(side["node"], [])
        heard = sum(port["rx_packets"] for port in own)
        sent = sum(port["tx_packets"] for port in own)
        if heard > 20 and sent < heard / 2:
            return [f"{side['node']}: {heard:,} frames in, {sent:,} out"]
    return []


def lines(lab: Mapping[str, Any], result: Path | None, verdict: str = "") -> Iterator[str]:
    """The lab's lines under the tester's report. Drops are named only where there are any.

    verdict: where it is not what the tester's report says.
    """
    programs = dict.fromkeys(" ".join(filter(None, (side["program"], side["version"])))
                             for side in lab["servers"])
    yield f"lab        {lab['name']}: {lab['topology']}, {', '.join(programs) or 'no server'}"
    for kind in ("server", "relay"):
        sides = lab[f"{kind}s"]
        crowd = [side for side in sides if "shared_by" in side]
        sides = [side for side in sides if "shared_by" not in side]
        for i, side in enumerate(sides[:_MOST_LINES]):
            node = f"{side['node']}: " if len(sides) > 1 or kind == "relay" else ""
            label = "" if i and kind == "relay" else kind
            yield f"{label:10} {node}{_used(side)}{', a rogue' if 'rogue' in side else ''}"
        if len(sides) > _MOST_LINES:
            yield (f"{'':10} and {len(sides) - _MOST_LINES:,} more {kind}s: CPU "
                   f"{sum(side['cpu_s'] for side in sides[_MOST_LINES:]):.2f} s")
        if crowd:
            together = {**crowd[0], "socket_drops": None,
                        "ring_drops": sum(side["ring_drops"] or 0 for side in crowd)}
            yield f"{kind:10} {len(crowd):,} relays in one process: {_used(together)}"
    if found := list(discards(lab)):
        more = f" and {len(found) - _MOST_LINES:,} more" if len(found) > _MOST_LINES else ""
        yield f"discarded  {', '.join(found[:_MOST_LINES])}{more}"
    yield f"leases     {verify.line(lab['leases'])}"
    for example in lab["leases"].get("examples", ())[:3]:
        yield f"           {example}"
    lost = [f"{p['ifname']} of {p['node']} {p[name]:,} {name.removesuffix('_dropped')}"
            for p in lab["ports"] for name in ("rx_dropped", "tx_dropped") if p[name]]
    if lab["softnet_dropped"]:
        lost.append(f"CPU backlog of this machine {lab['softnet_dropped']:,}")
    yield f"drops      {', '.join(lost[:_MOST_LINES]) if lost else 'none on any port'}"
    if impaired := lab.get("impaired"):
        each = [f"{way['end']} {way['direction']} {way['frames']:,}" for way in impaired]
        yield f"impaired   lost on purpose: {', '.join(each[:_MOST_LINES])}"
    if verdict:
        yield f"verdict    {verdict.upper()}: clients hold what they should not (leases)"
    if result:
        yield f"result     {result}"


def _used(side: Mapping[str, Any]) -> str:
    known = [n for n in (side["ring_drops"], side["socket_drops"]) if n is not None]
    where = "on its ring" if side["socket_drops"] is None else "at its sockets"
    drops = f"{sum(known):,} frames" if known else "unknown"
    program = f"{side['program']}, " if side["program"] else ""
    return (f"{program}CPU {side['cpu_s']:.2f} s, memory {side['rss_bytes_max'] / 2**20:.0f} MiB, "
            f"dropped {where}: {drops}")
