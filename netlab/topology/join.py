"""From a draft to a topology: names become references, and what was left open is filled in.

The one thing to know: whether the network then makes sense for DHCP is `check`'s to say.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from fastpath.document import AtLine, did_you_mean, shown
from fastpath.errors import UserError
from netlab import plan
from netlab.topology.addressing import Addressing, assign_networks
from netlab.topology.draft import Draft, LinkDraft, Place, SegmentDraft, empty_segment
from netlab.topology.model import (
    Impairment,
    Link,
    Node,
    RelayPolicy,
    Role,
    Segment,
    Subnet,
    Topology,
)
from netlab.topology.problems import Problems

_SWITCH = "switch"


def join(draft: Draft, problems: Problems) -> Topology:
    """The topology that a draft describes, all of it given or assigned. Raises Several."""
    segments = _segments(draft, problems)
    on: dict[str, list[LinkDraft]] = {}
    for link in draft.links:
        on.setdefault(link.segment.name, []).append(link)
    switch = _switch(draft)
    hosts = {name: _host(segment, len(on.get(name, ())), switch, draft, problems)
             for name, segment in segments.items()}
    impairments = tuple(_impairment(each, line, draft, problems)
                        for each, line in draft.impairments)
    problems.stop()
    assign_networks(segments, on, draft.nodes, problems)
    Addressing(segments, draft.links, draft.nodes, problems).assign()
    ports = _ports(draft, segments, hosts, on, problems)
    links = [_link(link, ports.get((link.node, link.ifname), "")) for link in draft.links]
    nodes = _nodes(draft, links, problems)
    if switch in hosts.values() and switch not in draft.nodes:
        nodes.append(Node(switch, Role.SWITCH))
    problems.stop()
    return Topology(
        draft.name, tuple(nodes), tuple(Segment(name, hosts[name]) for name in segments),
        tuple(links),
        tuple(Subnet(name, subnet.network, *subnet.pool, subnet.server.name if subnet.server
                     else "")
              for name, segment in segments.items() for subnet in segment.subnets
              if subnet.network and subnet.pool),
        draft.mtu, impairments, draft.load)


def _segments(draft: Draft, problems: Problems) -> dict[str, SegmentDraft]:
    """Those of the file, or, where it lists none, those that links name."""
    found = draft.segments
    if found is None:
        found = {}
        for link in draft.links:
            name = link.segment.name
            if name not in found:
                with problems.caught():
                    found[name] = empty_segment(name, link.segment.line)
        problems.stop()
        return found
    for link in draft.links:
        if link.segment.name not in found:
            problems.add(link.segment.line, f"{link.ifname} of {link.node} is joined to segment "
                         f"{shown(link.segment.name)}, which is not there",
                         did_you_mean(link.segment.name, list(found)))
    for segment in found.values():
        for server in (segment.server, *(subnet.server for subnet in segment.subnets)):
            if server is not None:
                _check_server(server, draft, problems)
    return found


def _check_server(server: Place, draft: Draft, problems: Problems) -> None:
    node = draft.nodes.get(server.name)
    if node is None or not node.role.serves:
        known = [each.name for each in draft.nodes.values() if each.role.serves]
        what = f"no node {shown(server.name)}" if node is None else \
            f"{server.name} is a {node.role}, not a server"
        problems.add(server.line, f"server: {what}",
                     did_you_mean(server.name, known) if known else "add a node of role server")


def _switch(draft: Draft) -> str:
    """The node that holds bridges where segments do not say: the first switch, or a new one."""
    for node in draft.nodes.values():
        if node.role is Role.SWITCH:
            return node.name
    return next(name for name in (_SWITCH, *(f"{_SWITCH}{i}" for i in range(len(draft.nodes))))
                if name not in draft.nodes)


def _host(segment: SegmentDraft, links: int, switch: str, draft: Draft,
          problems: Problems) -> str:
    """The node in which a segment's bridge stands; empty for a cable."""
    said = segment.bridge
    if isinstance(said, Place):
        node = draft.nodes.get(said.name)
        if node is None or node.role is not Role.SWITCH:
            switches = [each.name for each in draft.nodes.values() if each.role is Role.SWITCH]
            what = "no node" if node is None else f"a {node.role}, not a switch"
            problems.add(said.line, f"bridge: {shown(said.name)} is {what}",
                         did_you_mean(said.name, switches) if switches else
                         f"add it under nodes: {said.name}: {{role: switch}}; or write true")
        return said.name
    if said is False and links != 2:
        problems.add(segment.line, f"segment {segment.name} has {links} links and no bridge",
                     "a cable has two ends: leave out bridge: false")
    return "" if said is False or (said is None and links == 2) else switch


def _impairment(found: Impairment, line: int, draft: Draft, problems: Problems) -> Impairment:
    end = found.node, found.ifname
    if end not in draft.ends:
        ends = sorted(f"{node}.{ifname}" for node, ifname in draft.ends)
        problems.add(line, f"impairment of {shown('.'.join(end))}, which is no link",
                     did_you_mean(".".join(end), ends) if len(ends) <= 1000 else
                     "write NODE.INTERFACE")
    return found


def _ports(draft: Draft, segments: dict[str, SegmentDraft], hosts: dict[str, str],
           on: dict[str, list[LinkDraft]], problems: Problems) -> dict[tuple[str, str], str]:
    """The port of each link that ends at a bridge: as given, else named after its node where
    that is short enough and free, else p1, p2 ..."""
    taken: dict[str, set[str]] = {}
    for name, host in hosts.items():
        count = len(on.get(name, ()))
        if host:
            try:
                bridges = plan.bridges(Segment(name, host), count)
            except UserError as error:
                raise AtLine(segments[name].line, error.what, error.remedy) from None
            taken.setdefault(host, set()).update(bridges)
    found: dict[tuple[str, str], str] = {}
    for link in draft.links:
        host, port = hosts[link.segment.name], link.port
        if port is None:
            continue
        if not host:
            problems.add(port.line, f"{link.ifname} of {link.node} has a port, but segment "
                         f"{link.segment.name} is a cable", "remove it, or write bridge: true")
        elif port.name in taken[host]:
            problems.add(port.line, f"port {port.name} is there twice in {host}",
                         "ports and bridges of one switch have names of their own")
        else:
            taken[host].add(port.name)
            found[link.node, link.ifname] = port.name
    numbers = dict.fromkeys(taken, 0)
    for link in draft.links:
        host = hosts[link.segment.name]
        if host and link.port is None:
            port_name = link.node
            while port_name in taken[host] or len(port_name) > 15:
                numbers[host] += 1
                port_name = f"p{numbers[host]}"
            taken[host].add(port_name)
            found[link.node, link.ifname] = port_name
    return found


def _link(draft: LinkDraft, port: str) -> Link:
    address = draft.address
    assert address is None or isinstance(address, IPv4Interface)
    return Link(draft.node, draft.ifname, draft.segment.name, port, address)


def _nodes(draft: Draft, links: list[Link], problems: Problems) -> list[Node]:
    links_of: dict[str, list[Link]] = {}
    for link in links:
        links_of.setdefault(link.node, []).append(link)
    found = []
    for node in draft.nodes.values():
        policy = replace(node.policy, servers=tuple(
            address for place in node.servers
            if (address := _target(place, links_of.get(node.name, []), links_of, draft,
                                   problems))))
        found.append(Node(node.name, node.role, node.program,
                          None if policy == RelayPolicy() else policy))
    return found


def _target(place: Place, own: list[Link], links_of: dict[str, list[Link]], draft: Draft,
            problems: Problems) -> IPv4Address | None:
    """The address that a relay's `servers` means: itself, or that of a node, which is the one
    on a segment of the relay's own where there is one, else its first."""
    try:
        return IPv4Address(place.name)
    except ValueError:
        pass
    if place.name not in draft.nodes:
        problems.add(place.line, f"servers: no node {shown(place.name)}",
                     f"{did_you_mean(place.name, list(draft.nodes)[:1000])}; or give an address")
        return None
    beside = {link.segment for link in own}
    with_address = [link for link in links_of.get(place.name, ()) if link.address]
    if not with_address:
        problems.add(place.line, f"servers: {place.name} has no address",
                     "name a server or a relay")
        return None
    chosen = next((link for link in with_address if link.segment in beside), with_address[0])
    assert chosen.address is not None
    return chosen.address.ip
