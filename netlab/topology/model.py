"""The words a network is described in. Frozen, so one topology may be compared to another.

A node is a network namespace. A segment is a broadcast domain: a bridge that stands inside a
node of its own, or a cable, one veth pair between the only two interfaces there are. A link is
one interface of a node, and what it is joined to.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

MTU = 1500


class Role(StrEnum):
    """What stands in a node. `switch` holds bridges and runs nothing; `router` forwards IP and
    runs nothing; `rogue` is a server that nobody ordered."""

    CLIENT = "client"
    SERVER = "server"
    ROGUE = "rogue"
    RELAY = "relay"
    ROUTER = "router"
    SWITCH = "switch"

    @property
    def serves(self) -> bool:
        return self in (Role.SERVER, Role.ROGUE)

    @property
    def forwards(self) -> bool:
        return self in (Role.RELAY, Role.ROUTER)


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in a node: an adapter by its name, and words more for its command line."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """How a relay treats messages. None and "" leave it to the program.

    option82: "none", "append", "keep", "replace" or "drop" (RFC 3046). circuit_id, remote_id:
    templates. servers: to whom it relays; empty: to whom is nearest (`routing.targets`).
    """

    max_hops: int | None = None
    option82: str = ""
    circuit_id: str = ""
    remote_id: str = ""
    servers: tuple[ipaddress.IPv4Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One network namespace. program: None where the test may choose, or nothing runs."""

    name: str
    role: Role
    program: Program | None = None
    policy: RelayPolicy | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One broadcast domain: a bridge called `name` inside node `stands_in`.

    stands_in: empty for a cable, which has exactly two links.
    """

    name: str
    stands_in: str = ""

    @property
    def is_cable(self) -> bool:
        return not self.stands_in


@dataclass(frozen=True, slots=True)
class Link:
    """Interface `ifname` of `node` on `segment`: a veth whose other end is the port called
    `port` on the segment's bridge, or the other link of the cable (`port` is empty)."""

    node: str
    ifname: str
    segment: str
    port: str = ""
    address: ipaddress.IPv4Interface | None = None

    @property
    def end(self) -> tuple[str, str]:
        """(node, ifname)."""
        return self.node, self.ifname


@dataclass(frozen=True, slots=True)
class Subnet:
    """What is to be served on `segment`: the network and the range that may be given out.

    server: the node that serves it; empty: every node of role server.
    """

    segment: str
    network: ipaddress.IPv4Network
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address
    server: str = ""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What befalls frames on the link that ends in interface `ifname` of `node`.

    Percentages 0 to 100, of frames; rate 0 is unlimited. direction: "out" what the node sends,
    "in" what it receives, "both". from_s, until_s: since the test began; until_s 0: to its end.
    """

    node: str
    ifname: str
    direction: str = "both"
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_kbit_per_s: float = 0.0
    from_s: float = 0.0
    until_s: float = 0.0


@dataclass(frozen=True)
class Topology:
    """A whole network. `name` is what the user called it (`direct`, a file name).

    load: words for dhcp-tester, before those of the command line.
    """

    name: str
    nodes: tuple[Node, ...]
    segments: tuple[Segment, ...]
    links: tuple[Link, ...]
    subnets: tuple[Subnet, ...]
    mtu: int = MTU
    impairments: tuple[Impairment, ...] = ()
    load: tuple[str, ...] = ()

    def with_role(self, *roles: Role) -> tuple[Node, ...]:
        """The nodes of these roles, in order."""
        return tuple(node for node in self.nodes if node.role in roles)

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        return self._nodes[name]

    def segment(self, name: str) -> Segment:
        """The segment of that name; KeyError when there is none."""
        return self._segments[name]

    def links_of(self, node: str) -> tuple[Link, ...]:
        """The links that end in `node`, its first interface first."""
        return self._links_of.get(node, ())

    def links_on(self, segment: str) -> tuple[Link, ...]:
        """The links on `segment`, in order."""
        return self._links_on.get(segment, ())

    def subnets_of(self, server: str) -> tuple[Subnet, ...]:
        """What the server in node `server` is to serve."""
        if self.node(server).role is Role.ROGUE:
            return tuple(s for s in self.subnets if s.server == server)
        return tuple(s for s in self.subnets if s.server in ("", server))

    # A network may have thousands of nodes, and each of these is asked for by every one.
    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _segments(self) -> dict[str, Segment]:
        return {segment.name: segment for segment in self.segments}

    @cached_property
    def _links_of(self) -> dict[str, tuple[Link, ...]]:
        return _grouped(self.links, "node")

    @cached_property
    def _links_on(self) -> dict[str, tuple[Link, ...]]:
        return _grouped(self.links, "segment")


def _grouped(links: tuple[Link, ...], by: str) -> dict[str, tuple[Link, ...]]:
    found: dict[str, list[Link]] = {}
    for link in links:
        found.setdefault(getattr(link, by), []).append(link)
    return {key: tuple(group) for key, group in found.items()}


def to_json(topology: Topology) -> dict[str, Any]:
    """As plain dicts, lists and strings; `from_json` is its inverse."""
    document = asdict(topology)
    for node in document["nodes"]:
        if node["policy"]:
            node["policy"]["servers"] = [str(each) for each in node["policy"]["servers"]]
    for link in document["links"]:
        link["address"] = str(link["address"]) if link["address"] else None
    for subnet in document["subnets"]:
        subnet.update({key: str(subnet[key]) for key in ("network", "first", "last")})
    return document


def from_json(document: dict[str, Any]) -> Topology:
    """The topology that `to_json` wrote; KeyError, TypeError or ValueError when it is not one."""
    return Topology(
        name=document["name"],
        nodes=tuple(_node(node) for node in document["nodes"]),
        segments=tuple(Segment(**s) for s in document["segments"]),
        links=tuple(Link(**{**link, "address": ipaddress.IPv4Interface(link["address"])
                            if link["address"] else None}) for link in document["links"]),
        subnets=tuple(Subnet(s["segment"], ipaddress.IPv4Network(s["network"]),
                             ipaddress.IPv4Address(s["first"]), ipaddress.IPv4Address(s["last"]),
                             s["server"])
                      for s in document["subnets"]),
        mtu=document["mtu"],
        impairments=tuple(Impairment(**each) for each in document["impairments"]),
        load=tuple(document["load"]),
    )


def _node(document: dict[str, Any]) -> Node:
    program, policy = document["program"], document["policy"]
    return Node(
        document["name"], Role(document["role"]),
        Program(program["name"], tuple(program["options"])) if program else None,
        RelayPolicy(**{**policy, "servers": tuple(map(ipaddress.IPv4Address, policy["servers"]))})
        if policy else None)
