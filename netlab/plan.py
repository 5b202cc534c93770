"""From a topology to the ordered steps that build it. Pure data: print it, compare it, test it.

Every name that the machine will see is decided here: a namespace is `<lab>-<node>`, and
interface names fit the kernel's IFNAMSIZ. Removal needs no plan: whatever carries the lab's
stamp goes (see `remove`).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fastpath.errors import UserError
from netlab.topology import Link, Segment, Topology
from netlab.topology.routing import Route, Routing

DEFAULT_LAB = "netlab"
LAB_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
# linux/if.h: IFNAMSIZ is 16 with the closing zero; dev_valid_name() refuses '/', ':', spaces.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
# linux/if_bridge.h, BR_MAX_PORTS: ports are numbered in 10 bits and 0 is none.
_MAX_PORTS = 1023
# Ports for nodes on each bridge of a segment that needs several; the rest is for joining them.
SHARD = 1000


@dataclass(frozen=True, slots=True)
class MakeNamespace:
    """switches: whether bridges will stand in it. forwards: whether it passes IP packets on
    between its interfaces."""

    node: str
    namespace: str
    switches: bool = False
    forwards: bool = False

    def __str__(self) -> str:
        return f"make namespace {self.namespace}"


@dataclass(frozen=True, slots=True)
class MakeBridge:
    node: str
    name: str
    mtu: int

    def __str__(self) -> str:
        return f"make bridge {self.name} in {self.node}"


@dataclass(frozen=True, slots=True)
class MakeLink:
    """A veth pair, born with one end in each node; the `port` end joins `bridge`.

    learning: whether the bridge remembers which addresses are behind the port.
    """

    node: str
    ifname: str
    bridge_node: str
    bridge: str
    port: str
    mtu: int
    learning: bool

    def __str__(self) -> str:
        return f"link {self.ifname} of {self.node} to port {self.port} of {self.bridge}"


@dataclass(frozen=True, slots=True)
class MakeCable:
    """A veth pair between two nodes, with nothing in the middle."""

    node: str
    ifname: str
    peer_node: str
    peer_ifname: str
    mtu: int

    def __str__(self) -> str:
        return f"cable {self.ifname} of {self.node} to {self.peer_ifname} of {self.peer_node}"


@dataclass(frozen=True, slots=True)
class JoinBridges:
    """A veth pair inside one node that makes one segment of two bridges."""

    node: str
    bridge: str
    port: str
    other_bridge: str
    other_port: str
    mtu: int

    def __str__(self) -> str:
        return f"join bridges {self.bridge} and {self.other_bridge} in {self.node}"


@dataclass(frozen=True, slots=True)
class GiveAddress:
    node: str
    ifname: str
    address: ipaddress.IPv4Interface

    def __str__(self) -> str:
        return f"give {self.ifname} of {self.node} the address {self.address}"


@dataclass(frozen=True, slots=True)
class AddRoutes:
    node: str
    routes: tuple[Route, ...]

    def __str__(self) -> str:
        more = f" and {len(self.routes) - 1} more" if len(self.routes) > 1 else ""
        route = self.routes[0]
        return f"route {route.network} by {route.via} in {self.node}{more}"


@dataclass(frozen=True, slots=True)
class AwaitCarrier:
    """Until every interface, each (node, ifname), has its carrier and every port forwards."""

    interfaces: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"wait until all {len(self.interfaces)} interfaces carry frames"


Step = (MakeNamespace | MakeBridge | MakeLink | MakeCable | JoinBridges | GiveAddress | AddRoutes
        | AwaitCarrier)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps that build `topology` as the lab called `lab`, in order."""

    lab: str
    topology: Topology
    steps: tuple[Step, ...]

    @property
    def namespaces(self) -> dict[str, str]:
        """Namespace by node."""
        return {node.name: namespace(self.lab, node.name) for node in self.topology.nodes}


def namespace(lab: str, node: str) -> str:
    """What the namespace of `node` is called on the machine."""
    return f"{lab}-{node}"


def check_lab_name(lab: str) -> str:
    """`lab` itself; UserError unless it is 1 to 32 letters, digits, `-` or `_`."""
    if not LAB_NAME.fullmatch(lab) or lab.startswith("-"):
        raise UserError(f"{lab!r} cannot be the name of a lab",
                        "use up to 32 letters, digits, - and _, not starting with -")
    return lab


def _check_topology(topology: Topology) -> None:
    names = [node.name for node in topology.nodes]
    known = set(names)
    interfaces = [(segment.stands_in, segment.name) for segment in topology.segments
                  if not segment.is_cable]
    for link in topology.links:
        segment = topology.segment(link.segment)
        interfaces.append(link.end)
        if not segment.is_cable:
            interfaces.append((segment.stands_in, link.port))
    for name in names:
        # A node's name ends up in a namespace's, a file's and a stamp's.
        if not LAB_NAME.fullmatch(name):
            raise UserError(f"{topology.name}: {name!r} cannot be the name of a node",
                            "use up to 32 letters, digits, - and _")
    for node, ifname in interfaces:
        if node not in known:
            raise UserError(f"{topology.name}: interface {ifname!r} stands in no node", "")
        if not _INTERFACE_NAME.fullmatch(ifname) or ifname in (".", ".."):
            raise UserError(f"{topology.name}: {ifname!r} cannot be the name of an interface",
                            "use up to 15 letters, digits, - _ and .")
    for what, count in (*Counter(names).items(), *Counter(interfaces).items()):
        if count > 1:
            where = what if isinstance(what, str) else f"{what[1]} of {what[0]}"
            raise UserError(f"{topology.name}: {where} is there {count} times", "")
    for segment in topology.segments:
        ends = len(topology.links_on(segment.name))
        if segment.is_cable and ends != 2:
            raise UserError(f"{topology.name}: cable {segment.name} has {ends} ends, not 2",
                            "let it stand in a switch")


def bridges(segment: Segment, ports: int) -> list[str]:
    """The names of the bridges that a segment with so many ports is made of, the first its own.

    Each holds at most SHARD nodes' ports. Raises UserError where one bridge could not join them.
    """
    count = max(1, -(-ports // SHARD))
    if count - 1 > _MAX_PORTS - SHARD:
        raise UserError(f"segment {segment.name} has {ports:,} ports, more than "
                        f"{SHARD * (_MAX_PORTS - SHARD + 1):,}", "use several segments")
    return [segment.name, *(f"{segment.name[:10]}.{i}" for i in range(1, count))]


def make(topology: Topology, lab: str = DEFAULT_LAB) -> Plan:
    """The plan for `topology` as the lab `lab`; UserError when a name cannot be."""
    check_lab_name(lab)
    _check_topology(topology)
    switches = {segment.stands_in for segment in topology.segments}
    steps: list[Step] = [
        MakeNamespace(n.name, namespace(lab, n.name), n.name in switches, n.role.forwards)
        for n in topology.nodes]
    for segment in topology.segments:
        steps += _segment(topology, segment)
    steps += [GiveAddress(link.node, link.ifname, link.address)
              for link in topology.links if link.address]
    steps += [AddRoutes(node, routes) for node, routes in Routing(topology).routes.items()]
    ends = [end for link in topology.links for end in (link.end, peer(topology, link))]
    ends += [(step.node, port) for step in steps if isinstance(step, JoinBridges)
             for port in (step.port, step.other_port)]
    ends += [(step.bridge_node, step.bridge) for step in steps if isinstance(step, MakeLink)]
    return Plan(lab, topology, (*steps, AwaitCarrier(tuple(dict.fromkeys(ends)))))


def peer(topology: Topology, link: Link) -> tuple[str, str]:
    """The other end of a link, as (node, ifname): a port of a bridge, or the cable's other end."""
    segment = topology.segment(link.segment)
    if not segment.is_cable:
        return segment.stands_in, link.port
    one, other = topology.links_on(segment.name)
    return other.end if link == one else one.end


def _segment(topology: Topology, segment: Segment) -> Iterator[Step]:
    links, mtu = topology.links_on(segment.name), topology.mtu
    if segment.is_cable:
        one, other = links
        yield MakeCable(one.node, one.ifname, other.node, other.ifname, mtu)
        return
    names = bridges(segment, len(links))
    for i, name in enumerate(names):
        yield MakeBridge(segment.stands_in, name, mtu)
        if i:
            yield JoinBridges(segment.stands_in, names[0], f"to.{i}.{segment.name[:8]}", name,
                              f"up.{i}.{segment.name[:8]}", mtu)
    # With two ports there is only one way to go, so an address table changes nothing on the
    # wire. It would cost a microsecond for each new client and 150 octets to remember it.
    for i, link in enumerate(links):
        yield MakeLink(link.node, link.ifname, segment.stands_in, names[i // SHARD], link.port,
                       mtu, learning=len(links) > 2)
