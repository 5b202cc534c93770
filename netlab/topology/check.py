"""Whether a topology makes sense for DHCP: clients reach a server, relays know where to.

The one thing to know: only the finished topology is looked at, so that it may come from a file,
from a program or from a journal. A finding says what it is about, not on which line that stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from netlab import plan
from netlab.topology.model import Impairment, Role, Topology
from netlab.topology.routing import Routing

# Of namespaces; a kernel takes more, but nobody waits for them.
MOST_NODES = 20_000


@dataclass(frozen=True, slots=True)
class Finding:
    """about: ("nodes", ""), or "node" or "segment" with its name, or "subnet" or "impairment"
    with its index."""

    about: tuple[str, str | int]
    what: str
    remedy: str = ""


def check(topology: Topology) -> list[Finding]:
    """All that is wrong with a topology whose names and addresses are sound."""
    found = list(_roles(topology))
    if found:
        return found
    routing = Routing(topology)
    return [*_alone(topology), *_relays(topology, routing), *_circles(topology, routing),
            *_clients(topology, routing), *_subnets(topology, routing),
            *_impairments(topology)]


def _roles(topology: Topology) -> Iterator[Finding]:
    nodes = "nodes", ""
    if len(topology.nodes) > MOST_NODES:
        yield Finding(nodes, f"{len(topology.nodes):,} nodes are more than {MOST_NODES:,}",
                      "one client node can stand on many segments")
    if not topology.with_role(Role.CLIENT):
        yield Finding(nodes, "no node is a client", "add CLIENT: {role: client, links: SEGMENT}")
    if not topology.with_role(Role.SERVER):
        yield Finding(nodes, "no node is a server", "add SERVER: {role: server, links: SEGMENT}")


def _alone(topology: Topology) -> Iterator[Finding]:
    """Nodes and segments that are joined to nothing."""
    for node in topology.nodes:
        links = topology.links_of(node.name)
        if not links and node.role is not Role.SWITCH:
            yield Finding(("node", node.name), f"{node.role} {node.name} is on no segment",
                          "add links: ...")
        elif node.role is Role.ROUTER and len(links) == 1:
            yield Finding(("node", node.name), f"router {node.name} is on one segment only",
                          "link it to another, or remove it")
    for segment in topology.segments:
        if not topology.links_on(segment.name):
            yield Finding(("segment", segment.name), f"nobody is on segment {segment.name}",
                          "link a node to it, or remove it")


def _relays(topology: Topology, routing: Routing) -> Iterator[Finding]:
    networks = _networks(topology)
    for node in topology.with_role(Role.RELAY):
        about = "node", node.name
        if not topology.links_of(node.name):
            continue
        if routing.uplink(node.name) is None:
            yield Finding(about, f'relay "{node.name}" has no link towards a server',
                          "link it to a segment with a server, or with another relay")
        elif not routing.downlinks(node.name):
            yield Finding(about, f'relay "{node.name}" has no link away from the servers',
                          "link it to a segment with clients too, and give it an address there")
        else:
            for address in routing.targets(node.name):
                if not any(int(address) & mask in starts for mask, starts in networks.items()):
                    yield Finding(about, f'relay "{node.name}" relays to {address}, which is in '
                                  "no network of these nodes", "name a node: servers: [NODE]")


def _networks(topology: Topology) -> dict[int, set[int]]:
    """First addresses of all networks that nodes are in, by netmask."""
    found: dict[int, set[int]] = {}
    for link in topology.links:
        if link.address:
            mask = int(link.address.netmask)
            found.setdefault(mask, set()).add(int(link.address) & mask)
    return found


def _circles(topology: Topology, routing: Routing) -> Iterator[Finding]:
    """Relays that relay to one another, of which only `servers` can be the cause."""
    owner = {link.address.ip: link.node for link in topology.links if link.address}
    relays = {node.name for node in topology.with_role(Role.RELAY)}
    reached = {name: [owner[target] for target in routing.targets(name)
                      if owner.get(target) in relays] for name in relays}
    # Whoever relays to nobody who is left is in no circle; what remains is, or leads into one.
    relaying: dict[str, list[str]] = {name: [] for name in relays}
    for name, targets in reached.items():
        for target in targets:
            relaying[target].append(name)
    left = {name: len(targets) for name, targets in reached.items()}
    ends = deque(name for name, count in left.items() if not count)
    while ends:
        name = ends.popleft()
        del left[name]
        for before in relaying[name]:
            left[before] -= 1
            if not left[before]:
                ends.append(before)
    for node in topology.nodes:
        if node.name in left:
            circle = _circle(node.name, reached, left)
            yield Finding(("node", circle[0]), "messages would go in a circle: "
                          + " -> ".join((*circle[:8], *("...",) * (len(circle) > 8), circle[0])),
                          "let one of them relay to a server")
            return


def _circle(start: str, reached: dict[str, list[str]], left: dict[str, int]) -> list[str]:
    """The circle into which `start` leads."""
    way: dict[str, None] = {}
    at = start
    while at not in way:
        way[at] = None
        at = next(target for target in reached[at] if target in left)
    return list(way)[list(way).index(at):]


def _clients(topology: Topology, routing: Routing) -> Iterator[Finding]:
    served = {subnet.segment for subnet in topology.subnets
              if not subnet.server or topology.node(subnet.server).role is not Role.ROGUE}
    heard = {link.segment for node in topology.with_role(Role.RELAY)
             for link in routing.downlinks(node.name)}
    heard |= {link.segment for node in topology.with_role(Role.SERVER)
              for link in topology.links_of(node.name)}
    for segment in dict.fromkeys(link.segment for node in topology.with_role(Role.CLIENT)
                                 for link in topology.links_of(node.name)):
        if segment not in heard:
            yield Finding(("segment", segment), f"clients on segment {segment} reach no server",
                          "link a server to it, or a relay that has a link towards one")
        elif segment not in served:
            yield Finding(("segment", segment), f"clients on segment {segment} have no subnet "
                          "to get addresses of", "give the segment one: subnet: ...")


def _subnets(topology: Topology, routing: Routing) -> Iterator[Finding]:
    """Subnets that their servers cannot serve, and servers without one."""
    reached: dict[str, Collection[str]] = {"": routing.distance}
    for i, subnet in enumerate(topology.subnets):
        if subnet.server not in reached:
            reached[subnet.server] = _reached(topology, subnet.server)
        if subnet.segment not in reached[subnet.server]:
            who = f"server {subnet.server}" if subnet.server else "a server"
            yield Finding(("subnet", i), f"there is no way from {who} to segment "
                          f"{subnet.segment} with its subnet {subnet.network}",
                          "join them by a relay")
    serving = {subnet.server for subnet in topology.subnets}
    for node in topology.nodes:
        shares = "" in serving and node.role is Role.SERVER
        if node.role.serves and not shares and node.name not in serving:
            yield Finding(("node", node.name), f"{node.role} {node.name} serves no subnet",
                          "segments: SEGMENT: {subnet: ..., server: " + node.name + "}")


def _reached(topology: Topology, server: str) -> dict[str, None]:
    """The segments to which there is a way from a server through nodes that forward."""
    found = dict.fromkeys(link.segment for link in topology.links_of(server))
    waiting = deque(found)
    while waiting:
        for link in topology.links_on(waiting.popleft()):
            if topology.node(link.node).role.forwards:
                for other in topology.links_of(link.node):
                    if other.segment not in found:
                        found[other.segment] = None
                        waiting.append(other.segment)
    return found


def _impairments(topology: Topology) -> Iterator[Finding]:
    """Two that hold for one way at one time: a cable has one way at both of its ends."""
    ends = {link.end: link for link in topology.links}
    ways: dict[tuple[str, str], list[Impairment]] = {}
    for i, each in enumerate(topology.impairments):
        link = ends[each.node, each.ifname]
        senders = {"out": [link.end], "in": [plan.peer(topology, link)],
                   "both": [link.end, plan.peer(topology, link)]}[each.direction]
        if any(_meet(each, other) for sender in senders for other in ways.get(sender, ())):
            yield Finding(("impairment", i), f"a second impairment of {'.'.join(link.end)} at the "
                          "same time and in the same direction",
                          "put both into one, or let one end (until) before the other (from)")
        for sender in senders:
            ways.setdefault(sender, []).append(each)


def _meet(one: Impairment, other: Impairment) -> bool:
    """Whether there is a time at which both hold."""
    one_end, other_end = (each.until_s or float("inf") for each in (one, other))
    return one.from_s < other_end and other.from_s < one_end
