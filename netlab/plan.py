"""From a topology to the ordered steps that build it. Pure data: print it, compare it, test it.

Every name that the machine will see is decided here: a namespace is `<lab>-<node>`, and
interface names fit the kernel's IFNAMSIZ. Removal needs no plan: whatever carries the lab's
stamp goes (see `remove`).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass

from fastpath.errors import UserError
from netlab.topology import Topology

DEFAULT_LAB = "netlab"
LAB_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
# linux/if.h: IFNAMSIZ is 16 with the closing zero; dev_valid_name() refuses '/', ':', spaces.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
# linux/if_bridge.h, BR_MAX_PORTS: ports are numbered in 10 bits and 0 is none.
_MAX_PORTS = 1023


@dataclass(frozen=True, slots=True)
class MakeNamespace:
    node: str
    namespace: str

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
class GiveAddress:
    node: str
    ifname: str
    address: ipaddress.IPv4Interface

    def __str__(self) -> str:
        return f"give {self.ifname} of {self.node} the address {self.address}"


@dataclass(frozen=True, slots=True)
class AwaitCarrier:
    """Until every interface has its carrier and every port forwards. ports: (node, ifname)."""

    interfaces: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"wait until all {len(self.interfaces)} interfaces carry frames"


Step = MakeNamespace | MakeBridge | MakeLink | GiveAddress | AwaitCarrier


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
    bridges = {segment.name: segment.stands_in for segment in topology.segments}
    interfaces = [(s.stands_in, s.name) for s in topology.segments]
    for link in topology.links:
        interfaces += [(link.node, link.ifname), (bridges.get(link.segment, ""), link.port)]
    for name in names:
        # A node's name ends up in a namespace's, a file's and a stamp's.
        if not LAB_NAME.fullmatch(name):
            raise UserError(f"{topology.name}: {name!r} cannot be the name of a node",
                            "use up to 32 letters, digits, - and _")
    for node, ifname in interfaces:
        if node not in names:
            raise UserError(f"{topology.name}: interface {ifname!r} stands in no node", "")
        if not _INTERFACE_NAME.fullmatch(ifname) or ifname in (".", ".."):
            raise UserError(f"{topology.name}: {ifname!r} cannot be the name of an interface",
                            "use up to 15 letters, digits, - _ and .")
    for what, count in (*Counter(names).items(), *Counter(interfaces).items()):
        if count > 1:
            where = what if isinstance(what, str) else f"{what[1]} of {what[0]}"
            raise UserError(f"{topology.name}: {where} is there {count} times", "")
    for segment, ports in Counter(link.segment for link in topology.links).items():
        if ports > _MAX_PORTS:
            raise UserError(f"{topology.name}: segment {segment} has over {_MAX_PORTS} ports",
                            "a Linux bridge ends there: use several segments")


def make(topology: Topology, lab: str = DEFAULT_LAB) -> Plan:
    """The plan for `topology` as the lab `lab`; UserError when a name cannot be."""
    check_lab_name(lab)
    _check_topology(topology)
    stands_in = {segment.name: segment.stands_in for segment in topology.segments}
    ports = Counter(link.segment for link in topology.links)
    steps: list[Step] = [MakeNamespace(n.name, namespace(lab, n.name)) for n in topology.nodes]
    steps += [MakeBridge(s.stands_in, s.name, topology.mtu) for s in topology.segments]
    # With two ports there is only one way to go, so an address table changes nothing on the
    # wire. It would cost a microsecond for each new client and 150 octets to remember it.
    steps += [MakeLink(link.node, link.ifname, stands_in[link.segment], link.segment, link.port,
                       topology.mtu, learning=ports[link.segment] > 2)
              for link in topology.links]
    steps += [GiveAddress(link.node, link.ifname, link.address)
              for link in topology.links if link.address]
    ends = [end for link in topology.links
            for end in ((link.node, link.ifname), (stands_in[link.segment], link.port))]
    return Plan(lab, topology, (*steps, AwaitCarrier(tuple(ends))))
