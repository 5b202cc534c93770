"""How the programs of a lab hear messages, and what their sockets and rings had no room for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from netlab import sockets
from netlab.cast import Company
from netlab.outcome import Side
from netlab.path.losses import PACKETS, QUEUE, RING, Counted, Heard
from netlab.programs import Program


def heard(running: Iterable[tuple[Company, Program]]) -> Heard:
    """By the sockets that programs have open; a process of many relays is ours, and has rings."""
    by_frames: set[str] = set()
    by_udp: set[str] = set()
    for company, program in running:
        nodes = {part.node for part in company.parts}
        found = None if len(company.parts) > 1 else sockets.opened(program.pid)
        if len(company.parts) > 1 or (found and found.packet):
            by_frames |= nodes
        elif found and found.hears(sockets.DHCP_SERVER_PORT):
            by_udp |= nodes
    return Heard(frozenset(by_frames), frozenset(by_udp - by_frames))


def counted(sides: Iterable[Side], by_frames: Iterable[str], document: Mapping[str, Any],
            interfaces: Sequence[str], node_of: Callable[[str], str]) -> Iterator[Counted]:
    """What servers, relays and the tester counted themselves.

    interfaces: what the tester calls its own, in its order; node_of: whose such a one is.
    """
    heard_by_frames = frozenset(by_frames)
    for side in sides:
        where = PACKETS if side.node in heard_by_frames else QUEUE
        for lost, at in ((side.report.ring_drops, RING), (side.socket_drops, where)):
            if lost:
                yield Counted(side.node, at, lost)
    rows = document.get("interfaces") or [
        {"interface": interfaces[0], "rx_ring": document["losses"]["rx_ring"]}]
    at_clients: dict[str, int] = {}
    for row in rows:
        node = node_of(row["interface"])
        at_clients[node] = at_clients.get(node, 0) + row["rx_ring"]
    yield from (Counted(node, RING, lost) for node, lost in at_clients.items() if lost)
