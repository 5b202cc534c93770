"""The places of a lab between client and server: its nodes, and its links as veth pairs.

Every end of every link is looked at, both ways, and so are interfaces that were lent to a node;
numbers tell the programs in the kernel which ends belong together.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebpf.probe import End, Part
from netlab import attach, observe, plan
from netlab.state import Journal
from netlab.topology import Role

_PARTS = {Role.CLIENT: Part.CLIENT, Role.SERVER: Part.SERVER, Role.ROGUE: Part.SERVER}
# Of a test, as many exchanges are timed as percentiles need.
_ENOUGH = 4096
_MOST_RARE = 1 << 16


@dataclass(frozen=True, slots=True)
class Node:
    """name, role: as the topology has them. ends: numbers of its interfaces in `Layout.ends`."""

    name: str
    role: str
    namespace: str
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair: the numbers of its two ends in `Layout.ends`."""

    one: int
    other: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What a probe is to look at, and what its numbers mean. lent: numbers of those ends whose
    other one is outside the lab."""

    ends: tuple[End, ...]
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    lent: tuple[int, ...] = ()


def layout(journal: Journal) -> Layout:
    """The places of a lab that stands, clients first, servers last."""
    topology = journal.topology
    order = {Role.CLIENT: 0, Role.SERVER: 2, Role.ROGUE: 2}
    nodes = sorted(topology.nodes, key=lambda node: order.get(node.role, 1))
    number = {node.name: i for i, node in enumerate(nodes)}
    parts = {node.name: _PARTS.get(node.role, Part.FORWARDER) for node in nodes}
    ends: list[End] = []
    links: list[Link] = []
    mine: dict[str, list[int]] = {node.name: [] for node in nodes}
    for i, pair in enumerate(observe.pairs(journal)):
        # Seen from the clients.
        for node, ifname in sorted(pair, key=lambda end: number[end[0]]):
            mine[node].append(len(ends))
            ends.append(End(plan.namespace(journal.lab, node), ifname, number[node], i,
                            parts[node]))
        links.append(Link(len(ends) - 2, len(ends) - 1))
    for i, lent in enumerate(attach.attached(journal.lab), len(links)):
        # What is at its other end nobody here can see.
        mine[lent.node].append(len(ends))
        ends.append(End(plan.namespace(journal.lab, lent.node), lent.ifname, number[lent.node], i,
                        parts[lent.node]))
    return Layout(tuple(ends),
                  tuple(Node(node.name, str(node.role), plan.namespace(journal.lab, node.name),
                             tuple(mine[node.name])) for node in nodes), tuple(links),
                  tuple(range(2 * len(links), len(ends))))


def sample_for(exchanges: int) -> int:
    """Of how many exchanges one is timed, a power of two, so that of so many some thousands are."""
    sample = 1
    while exchanges // sample > _ENOUGH and sample < _MOST_RARE:
        sample *= 2
    return sample
