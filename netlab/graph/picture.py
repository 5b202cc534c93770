"""What is to be seen of a topology: boxes for nodes, bars for segments, ports where they meet.

The one thing to know: of more than MOST_ALIKE branches that look the same and hang on the same
things, two at each end are shown and the others become one. Which look the same is found by
colour refinement: nodes and segments start with what they are, and are told apart by what their
neighbours are until nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fastpath.option_types import printable
from netlab.topology import Link, Node, Role, Segment, Topology

MOST_ALIKE = 12
_SHOWN_AT_EACH_END = 2
_MOST_TEXT = 48
# What stands in a node that names no program, as `lab test` has it.
_USUAL = {Role.CLIENT: "dhcp-tester", Role.SERVER: "dhcp-server", Role.RELAY: "dhcp-relay"}

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Port:
    """One interface: of box `node` on bar `segment`."""

    node: str
    segment: str
    ifname: str
    address: str = ""

    @property
    def label(self) -> str:
        return f"{self.ifname} {self.address}".rstrip()


@dataclass(frozen=True, slots=True)
class Box:
    """A node. alike: how many nodes it stands for; more than 1 where they are folded."""

    name: str
    title: str
    lines: tuple[str, ...]
    role: Role
    ports: tuple[Port, ...]
    alike: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment. lines: the networks served on it. cable: two interfaces and no bridge."""

    name: str
    title: str
    lines: tuple[str, ...]
    cable: bool
    alike: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn. Names are keys, for the drawing only; titles are what is shown."""

    title: str
    boxes: tuple[Box, ...]
    bars: tuple[Bar, ...]


def shown(text: str) -> str:
    """A name as it can be drawn: no control characters, not long."""
    text = printable(text)
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT - 3] + "..."


def picture(topology: Topology, running: Mapping[str, Iterable[str]] | None = None) -> Picture:
    """What is to be seen of `topology`. running: programs by node, where that is known.

    A switch in which only bridges stand is no box: its segments are there.
    """
    folded = _fold(topology)
    bridged = {segment.stands_in for segment in topology.segments}
    boxes = tuple(
        _box(topology, node, folded, running or {}) for node in topology.nodes
        if (node.name not in bridged or topology.links_of(node.name))
        and ("node", node.name) not in folded.hidden)
    bars = tuple(_bar(topology, segment, folded) for segment in topology.segments
                 if ("segment", segment.name) not in folded.hidden)
    counts = ((len(topology.nodes), "node"), (len(topology.segments), "segment"))
    said = ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)
    return Picture(f"{shown(topology.name)}: {said}", boxes, bars)


def _box(topology: Topology, node: Node, folded: Folded, running: Mapping[str, Iterable[str]]
         ) -> Box:
    last, alike = folded.stands_for.get(("node", node.name), (node.name, 1))
    ports = tuple(port for link in topology.links_of(node.name)
                  if (port := _port(topology, link, folded)) is not None)
    if alike > 1:
        # Their addresses differ.
        ports = tuple(replace(port, address="") for port in ports)
        return Box(node.name, f"{shown(node.name)} ... {shown(last)}", (f"{alike:,} more alike",),
                   node.role, ports, alike)
    return Box(node.name, shown(node.name), tuple(_lines(node, running.get(node.name, ()))),
               node.role, ports)


def _port(topology: Topology, link: Link, folded: Folded) -> Port | None:
    """None for one that leads to what is not shown."""
    key = "segment", link.segment
    if key in folded.hidden:
        return None
    last, alike = folded.stands_for.get(key, (link.segment, 1))
    ifname, address = shown(link.ifname), str(link.address or "")
    if alike > 1:
        address = ""
        ends = [each for each in topology.links_on(last) if each.node == link.node]
        if ends and ends[0].ifname != link.ifname:
            ifname += f" ... {shown(ends[0].ifname)}"
    return Port(link.node, link.segment, ifname, address)


def _lines(node: Node, running: Iterable[str]) -> Iterator[str]:
    """What runs in a node, and what it was told of relaying."""
    program = ", ".join(running) or (node.program.name if node.program
                                     else _USUAL.get(node.role, ""))
    says = str(node.role) in f"{node.name} {program}".lower()
    if words := " ".join(filter(None, ("" if says else str(node.role), program))):
        yield shown(words)
    if policy := node.policy:
        if policy.max_hops:
            yield f"max-hops {policy.max_hops}"
        if policy.option82:
            yield shown(f"option82 {policy.option82}")


def _bar(topology: Topology, segment: Segment, folded: Folded) -> Bar:
    last, alike = folded.stands_for.get(("segment", segment.name), (segment.name, 1))
    if alike > 1:
        return Bar(segment.name, f"{shown(segment.name)} ... {shown(last)}", (),
                   segment.is_cable, alike)
    networks = dict.fromkeys(str(s.network) for s in topology.subnets if s.segment == segment.name)
    return Bar(segment.name, shown(segment.name), tuple(networks), segment.is_cable)


@dataclass(frozen=True, slots=True)
class Folded:
    """What is left out, and what stands for it: (name of the last one, how many)."""

    hidden: frozenset[Key]
    stands_for: dict[Key, tuple[str, int]]


def _fold(topology: Topology) -> Folded:
    near = _neighbours(topology)
    colours = _colours(topology, near)
    common = {colour for colour, count in Counter(colours.values()).items() if count > MOST_ALIKE}
    branches = _branches(near, {key for key, colour in colours.items() if colour in common})
    groups: dict[Hashable, list[list[Key]]] = {}
    for branch in branches:
        inside = set(branch)
        hangs_on = frozenset(other for key in branch for other, _ in near[key]
                             if other not in inside)
        branch.sort(key=colours.__getitem__)
        kind = tuple(colours[key] for key in branch), hangs_on
        groups.setdefault(kind, []).append(branch)
    hidden: set[Key] = set()
    stands_for: dict[Key, tuple[str, int]] = {}
    for group in groups.values():
        if len(group) <= MOST_ALIKE:
            continue
        middle = group[_SHOWN_AT_EACH_END:-_SHOWN_AT_EACH_END]
        hidden.update(key for branch in middle[1:] for key in branch)
        for first, last in zip(middle[0], middle[-1], strict=True):
            stands_for[first] = last[1], len(middle)
    return Folded(frozenset(hidden), stands_for)


def _neighbours(topology: Topology) -> dict[Key, list[tuple[Key, Hashable]]]:
    """Of every node and segment those it meets, and what is particular about the meeting."""
    near: dict[Key, list[tuple[Key, Hashable]]] = {
        **{("node", node.name): [] for node in topology.nodes},
        **{("segment", segment.name): [] for segment in topology.segments}}
    impaired = {(each.node, each.ifname): repr(replace(each, node="", ifname=""))
                for each in topology.impairments}
    for link in topology.links:
        how = link.address is None, impaired.get(link.end)
        near["node", link.node].append((("segment", link.segment), how))
        near["segment", link.segment].append((("node", link.node), how))
    return near


def _colours(topology: Topology, near: Mapping[Key, list[tuple[Key, Hashable]]]
             ) -> dict[Key, int]:
    """A number for each node and segment; equal for those that look the same from everywhere."""
    looks: dict[Key, Hashable] = {
        **{("node", n.name): (n.role, n.program, n.policy) for n in topology.nodes},
        **{("segment", s.name): s.stands_in for s in topology.segments}}
    colours = _numbered(looks)
    while True:
        finer = _numbered({key: (colours[key], tuple(sorted(
            (colours[other], repr(how)) for other, how in met))) for key, met in near.items()})
        if len(set(finer.values())) == len(set(colours.values())):
            return colours
        colours = finer


def _numbered(looks: Mapping[Key, Hashable]) -> dict[Key, int]:
    numbers: dict[Hashable, int] = {}
    return {key: numbers.setdefault(look, len(numbers)) for key, look in looks.items()}


def _branches(near: Mapping[Key, list[tuple[Key, Hashable]]], members: set[Key]
              ) -> list[list[Key]]:
    """The connected parts of `members`, in the order of `near`."""
    seen: set[Key] = set()
    found = []
    for key in near:
        if key not in members or key in seen:
            continue
        part, waiting = [], [key]
        seen.add(key)
        while waiting:
            at = waiting.pop()
            part.append(at)
            for other, _ in near[at]:
                if other in members and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        found.append(part)
    return found
