"""What the lab adds to a tester's result: the server's side, and what every port saw.

The tester cannot know where a frame was lost outside its own ring. The lab can: it reads the
counters of each interface, of the server's socket and of the machine before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netlab import observe
from netlab.programs import Usage
from netlab.servers import Report
from netlab.state import Journal

End = tuple[str, str]  # (node, ifname)


@dataclass(frozen=True, slots=True)
class Counters:
    """What had been counted at one moment."""

    ports: dict[End, dict[str, int]]
    softnet_dropped: int

    @classmethod
    def now(cls, journal: Journal) -> Counters:
        return cls(observe.ports(journal), observe.softnet_dropped())


@dataclass(frozen=True, slots=True)
class ServerSide:
    """The server under test: what it used while the test ran, what it said after its end."""

    program: str
    used: Usage
    report: Report


def lab_object(journal: Journal, before: Counters, after: Counters,
               server: ServerSide) -> dict[str, Any]:
    """The `lab` object of the result file; counters are of the test alone."""
    peers = {}
    for one, other in observe.pairs(journal):
        peers[one], peers[other] = other, one
    return {
        "name": journal.lab,
        "topology": journal.topology.name,
        "server": {"program": server.program, "version": server.report.version,
                   "stats": server.report.stats, "cpu_s": round(server.used.cpu_s, 2),
                   "rss_bytes_max": server.used.rss_bytes_max},
        "ports": [{"node": end[0], "ifname": end[1], "peer_node": peers[end][0],
                   "peer_ifname": peers[end][1],
                   **{name: value - before.ports[end][name] for name, value in counters.items()}}
                  for end, counters in after.ports.items()],
        "softnet_dropped": after.softnet_dropped - before.softnet_dropped,
    }


def complete(document: dict[str, Any], lab: dict[str, Any], server: ServerSide) -> None:
    """Put the lab's part into a tester's result document."""
    document["lab"] = lab
    document.setdefault("losses", {})["server_socket"] = server.report.ring_drops


def lines(lab: dict[str, Any], server: ServerSide, result: Path | None) -> Iterator[str]:
    """The lab's lines under the tester's report. Drops are named only where there are any."""
    report = server.report
    version = f" {report.version}" if report.version else ""
    drops = "unknown" if report.ring_drops is None else f"{report.ring_drops:,} frames"
    yield f"lab        {lab['name']}: {lab['topology']}, {server.program}{version}"
    yield (f"server     CPU {server.used.cpu_s:.2f} s, memory "
           f"{server.used.rss_bytes_max / 2**20:.0f} MiB, dropped on its ring: {drops}")
    lost = [f"{p['ifname']} of {p['node']} {p[name]:,} {name.removesuffix('_dropped')}"
            for p in lab["ports"] for name in ("rx_dropped", "tx_dropped") if p[name]]
    if lab["softnet_dropped"]:
        lost.append(f"CPU backlog of this machine {lab['softnet_dropped']:,}")
    yield f"drops      {', '.join(lost) if lost else 'none on any port'}"
    if result:
        yield f"result     {result}"
