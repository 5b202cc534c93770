"""What a lab looks like: nodes, the segments that join them, addresses, roles. Pure data.

A node is a network namespace; a segment is a broadcast domain, a bridge that stands inside a
node of its own; a link is one veth pair from an interface of a node to a port of a segment.
Nothing here knows the machine: `plan` turns a topology into steps and `apply` takes them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from fastpath.errors import UserError

NETWORK = ipaddress.IPv4Network("10.16.0.0/12")
SERVER = ipaddress.IPv4Interface("10.16.0.1/12")
# About one million addresses, and room below them for the nodes' own.
POOL = (ipaddress.IPv4Address("10.16.1.0"), ipaddress.IPv4Address("10.31.255.254"))
MTU = 1500


class Role(StrEnum):
    """What stands in a node; `switch` holds bridges and runs nothing."""

    CLIENT = "client"
    SERVER = "server"
    RELAY = "relay"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Node:
    """One network namespace."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Segment:
    """One broadcast domain: a bridge called `name` inside node `stands_in`."""

    name: str
    stands_in: str


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair from `ifname` of `node` to `port` on the bridge of `segment`."""

    node: str
    ifname: str
    segment: str
    port: str
    address: ipaddress.IPv4Interface | None = None


@dataclass(frozen=True, slots=True)
class Subnet:
    """What a server is to serve on `segment`: the network and the range it may give out."""

    segment: str
    network: ipaddress.IPv4Network
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole network. `name` is what the user called it (`direct`, a file name)."""

    name: str
    nodes: tuple[Node, ...]
    segments: tuple[Segment, ...]
    links: tuple[Link, ...]
    subnets: tuple[Subnet, ...]
    mtu: int = MTU

    def with_role(self, role: Role) -> tuple[Node, ...]:
        """The nodes of that role, in order."""
        return tuple(node for node in self.nodes if node.role == role)

    def links_of(self, node: str) -> tuple[Link, ...]:
        """The links that end in `node`, its first interface first."""
        return tuple(link for link in self.links if link.node == node)


def direct() -> Topology:
    """Clients and server on one segment: no relay, every frame crosses one bridge."""
    return Topology(
        name="direct",
        nodes=(Node("client", Role.CLIENT), Node("switch", Role.SWITCH),
               Node("server", Role.SERVER)),
        segments=(Segment("lan", "switch"),),
        links=(Link("client", "eth0", "lan", "client"),
               Link("server", "eth0", "lan", "server", SERVER)),
        subnets=(Subnet("lan", NETWORK, *POOL),),
    )


BUILT_IN = {"direct": direct}


def named(name: str) -> Topology:
    """The topology that a user calls `name`; UserError when there is none."""
    if name not in BUILT_IN:
        raise UserError(f"no topology {name!r}", f"there is: {', '.join(BUILT_IN)}")
    return BUILT_IN[name]()


def to_json(topology: Topology) -> dict[str, Any]:
    """As plain dicts, lists and strings; `from_json` is its inverse."""
    document = asdict(topology)
    for link in document["links"]:
        link["address"] = str(link["address"]) if link["address"] else None
    for subnet in document["subnets"]:
        subnet.update({key: str(subnet[key]) for key in ("network", "first", "last")})
    return document


def from_json(document: dict[str, Any]) -> Topology:
    """The topology that `to_json` wrote; KeyError, TypeError or ValueError when it is not one."""
    return Topology(
        name=document["name"],
        nodes=tuple(Node(n["name"], Role(n["role"])) for n in document["nodes"]),
        segments=tuple(Segment(**s) for s in document["segments"]),
        links=tuple(Link(**{**link, "address": ipaddress.IPv4Interface(link["address"])
                            if link["address"] else None}) for link in document["links"]),
        subnets=tuple(Subnet(s["segment"], ipaddress.IPv4Network(s["network"]),
                             ipaddress.IPv4Address(s["first"]), ipaddress.IPv4Address(s["last"]))
                      for s in document["subnets"]),
        mtu=document["mtu"],
    )
