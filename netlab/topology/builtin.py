"""The networks that have a name: direct, relay, star, rogue, redundant.

Addresses: clients get theirs from 10.16.0.0/12 where there is one client segment, from equal
parts of 10.128.0.0/9 where there are several; what lies between relays is in 10.0.0.0/16.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

from fastpath.errors import UserError
from netlab.topology.model import Link, Node, Program, RelayPolicy, Role, Segment, Subnet, Topology

NETWORK = ipaddress.IPv4Network("10.16.0.0/12")
SERVER = ipaddress.IPv4Interface("10.16.0.1/12")
# About one million addresses, and room below them for the nodes' own.
POOL = (ipaddress.IPv4Address("10.16.1.0"), ipaddress.IPv4Address("10.31.255.254"))
_MANY = ipaddress.IPv4Network("10.128.0.0/9")
_CORE = ipaddress.IPv4Network("10.0.0.0/16")
_ROGUE = ipaddress.IPv4Network("192.168.0.0/16")
# Addresses at the beginning of a client segment that are its relays' and servers'.
_OWN = 16
# linux/in.h knows no limit; RFC 1542 section 4.1.1 ends a chain at 16 hops, and beyond that
# there is nothing to see.
MOST_HOPS = 32
# One address of the core each, and at least 500 for the clients of a segment.
MOST_SEGMENTS = 16_000


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


def relay(hops: int = 1, policy: RelayPolicy | None = None) -> Topology:
    """A chain: clients, relay1, relay2 ... server; each relay adds one to `hops`.

    With no hops it is `direct`. Raises UserError for more than MOST_HOPS.
    """
    if not 0 <= hops <= MOST_HOPS:
        raise UserError(f"--hops {hops} is not between 0 and {MOST_HOPS}", "")
    if hops == 0:
        return replace(direct(), name="relay --hops 0")
    nodes = [Node("client", Role.CLIENT)]
    segments, links = [Segment("lan")], [Link("client", "eth0", "lan")]
    down = SERVER
    for hop in range(1, hops + 1):
        name, net = f"relay{hop}", list(_CORE.subnets(new_prefix=24))[hop]
        nodes.append(Node(name, Role.RELAY, policy=policy))
        segments.append(Segment(f"net{hop}"))
        links += [Link(name, "eth0", segments[-2].name, address=down),
                  Link(name, "eth1", f"net{hop}", address=_at(net, 1))]
        down = _at(net, 2)
    nodes.append(Node("server", Role.SERVER))
    links.append(Link("server", "eth0", segments[-1].name, address=down))
    return Topology(f"relay --hops {hops}", tuple(nodes), tuple(segments), tuple(links),
                    (Subnet("lan", NETWORK, *POOL),))


def star(segments: int = 4, policy: RelayPolicy | None = None) -> Topology:
    """`segments` client segments, each with a relay of its own, and one server in the middle.

    The client node has one interface in each segment. Raises UserError for more than
    MOST_SEGMENTS.
    """
    if not 1 <= segments <= MOST_SEGMENTS:
        raise UserError(f"--segments {segments} is not between 1 and {MOST_SEGMENTS:,}", "")
    parts = (segments - 1).bit_length()
    networks = _MANY.subnets(new_prefix=max(12, _MANY.prefixlen + parts))
    nodes = [Node("client", Role.CLIENT), Node("switch", Role.SWITCH),
             Node("server", Role.SERVER)]
    made, links = [Segment("core", "switch")], []
    links.append(Link("server", "eth0", "core", "server", _at(_CORE, 1)))
    subnets = []
    for i, network in zip(range(1, segments + 1), networks, strict=False):
        nodes.append(Node(f"relay{i}", Role.RELAY, policy=policy))
        made.append(Segment(f"lan{i}"))
        links += [Link("client", f"eth{i - 1}", f"lan{i}"),
                  Link(f"relay{i}", "eth0", f"lan{i}", address=_at(network, 1)),
                  Link(f"relay{i}", "eth1", "core", f"relay{i}", _at(_CORE, 1 + i))]
        subnets.append(_served(f"lan{i}", network))
    return Topology(f"star --segments {segments}", tuple(nodes), tuple(made), tuple(links),
                    tuple(subnets))


def rogue() -> Topology:
    """`direct`, and a second server on the segment that nobody ordered, with a pool of its own."""
    base = direct()
    return replace(
        base, name="rogue",
        nodes=(*base.nodes, Node("rogue", Role.ROGUE, Program("dhcp-server"))),
        links=(*base.links, Link("rogue", "eth0", "lan", "rogue", _at(_ROGUE, 1))),
        subnets=(*base.subnets, replace(_served("lan", _ROGUE), server="rogue")),
    )


def redundant(policy: RelayPolicy | None = None) -> Topology:
    """Two relays on the client segment, two servers behind them, each with half of the pool."""
    half = ipaddress.IPv4Address(int(POOL[0]) + (int(POOL[1]) - int(POOL[0])) // 2)
    relays = [Node(f"relay{i}", Role.RELAY, policy=policy) for i in (1, 2)]
    links = [Link("client", "eth0", "lan", "client")]
    for i in (1, 2):
        links += [Link(f"relay{i}", "eth0", "lan", f"relay{i}", _at(NETWORK, i)),
                  Link(f"relay{i}", "eth1", "core", f"corerelay{i}", _at(_CORE, 10 + i)),
                  Link(f"server{i}", "eth0", "core", f"server{i}", _at(_CORE, i))]
    return Topology(
        name="redundant",
        nodes=(Node("client", Role.CLIENT), Node("switch", Role.SWITCH), *relays,
               Node("server1", Role.SERVER), Node("server2", Role.SERVER)),
        segments=(Segment("lan", "switch"), Segment("core", "switch")),
        links=tuple(links),
        subnets=(Subnet("lan", NETWORK, POOL[0], half, "server1"),
                 Subnet("lan", NETWORK, half + 1, POOL[1], "server2")),
    )


def _at(network: ipaddress.IPv4Network, n: int) -> ipaddress.IPv4Interface:
    return ipaddress.IPv4Interface((network.network_address + n, network.prefixlen))


def _served(segment: str, network: ipaddress.IPv4Network) -> Subnet:
    return Subnet(segment, network, network.network_address + _OWN,
                  network.broadcast_address - 1)


BUILT_IN: dict[str, Callable[..., Topology]] = {
    "direct": direct, "relay": relay, "star": star, "rogue": rogue, "redundant": redundant}
