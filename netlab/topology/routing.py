"""Who is nearer to a server, to whom a relay relays, and which routes that needs. Pure.

Distances are counted from the servers outwards, segment by segment through every node that
forwards; at equal distance the order of the topology decides.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import dataclass
from functools import cached_property

from netlab.topology.model import Link, Node, Role, Subnet, Topology

DEFAULT = ipaddress.IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Route:
    """To `network` by the neighbour `via`."""

    network: ipaddress.IPv4Network
    via: ipaddress.IPv4Address


@dataclass(frozen=True)
class Routing:
    """The ways through one topology."""

    topology: Topology

    @cached_property
    def distance(self) -> dict[str, int]:
        """Relays and routers between each segment and the nearest server; without a way: absent.
        """
        found = {link.segment: 0 for node in self.topology.with_role(Role.SERVER)
                 for link in self.topology.links_of(node.name)}
        waiting = deque(found)
        while waiting:
            segment = waiting.popleft()
            for link in self.topology.links_on(segment):
                if self.topology.node(link.node).role.forwards:
                    for other in self.topology.links_of(link.node):
                        if other.segment not in found:
                            found[other.segment] = found[segment] + 1
                            waiting.append(other.segment)
        return found

    def uplink(self, node: str) -> Link | None:
        """The link of a forwarding node that is nearest to a server; None where none is."""
        reaching = [link for link in self.topology.links_of(node) if link.segment in self.distance]
        return min(reaching, key=lambda link: self.distance[link.segment], default=None)

    def downlinks(self, node: str) -> tuple[Link, ...]:
        """The links with an address of a forwarding node that lead away from its uplink."""
        up = self.uplink(node)
        if up is None:
            return ()
        return tuple(link for link in self.topology.links_of(node) if link != up and link.address
                     and self.distance[link.segment] > self.distance[up.segment])

    def targets(self, node: str) -> tuple[ipaddress.IPv4Address, ...]:
        """To whom the relay in `node` relays: as its policy says, else the servers on its uplink,
        else the relays there that are nearer to a server; where there are only routers, whom
        these lead to."""
        policy, up = self.topology.node(node).policy, self.uplink(node)
        if policy and policy.servers:
            return policy.servers
        while up is not None:
            on_it = [link for link in self._above.get(up.segment, ())
                     if link.address and link.node != node]
            for role in (Role.SERVER, Role.RELAY):
                found = [link.address.ip for link in on_it
                         if link.address and self._role(link) is role]
                if found:
                    return tuple(found)
            entry = self._entry(up.segment)
            up = None if entry is None or entry.node == node else self.uplink(entry.node)
        return ()

    def hops(self, subnet: Subnet) -> int:
        """Relays between the clients of a subnet and its server; routers are none."""
        count, segment = 0, subnet.segment
        while self.distance.get(segment, 0):
            entry = self._entry(segment)
            up = self.uplink(entry.node) if entry else None
            if entry is None or up is None:
                break
            count += self._role(entry) is Role.RELAY
            segment = up.segment
        return count

    def router(self, subnet: Subnet) -> ipaddress.IPv4Address | None:
        """What clients of a subnet should have as their router: the first node that forwards on
        their segment, else the server there."""
        links = [link for link in self.topology.links_on(subnet.segment)
                 if link.address and link.address.ip in subnet.network]
        for wanted in (lambda role: role.forwards, lambda role: role is Role.SERVER):
            for link in links:
                if wanted(self._role(link)) and link.address:
                    return link.address.ip
        return None

    @cached_property
    def routes(self) -> dict[str, tuple[Route, ...]]:
        """What each node has to know beyond its own networks."""
        routes: dict[str, list[Route]] = {}
        self._routes_up(routes)
        self._routes_down(routes)
        return {node: tuple(found) for node, found in routes.items()}

    def _routes_up(self, routes: dict[str, list[Route]]) -> None:
        """Every forwarding node that has no server beside it sends upwards what it knows not."""
        for node in self._forwarding:
            up = self.uplink(node.name)
            if up is None or self.distance[up.segment] == 0:
                continue
            gateway = self._entry(up.segment)
            if gateway is not None and gateway.address is not None:
                routes.setdefault(node.name, []).append(Route(DEFAULT, gateway.address.ip))

    def _routes_down(self, routes: dict[str, list[Route]]) -> None:
        """Whoever stands between a server and a segment, the server too, knows the next hop.

        Where several nodes forward for one segment, each is reached through itself: a giaddr
        must lead to the relay that wrote it.
        """
        for node in self._forwarding:
            for link in self.downlinks(node.name):
                assert link.address is not None
                wanted = [link.address.network] if self._entry(link.segment) == link else []
                if sum(self._role(each).forwards for each in self._above[link.segment]) > 1:
                    wanted.append(ipaddress.IPv4Network(link.address.ip))
                self._tell(wanted, node.name, routes)

    def _tell(self, networks: list[ipaddress.IPv4Network], node: str,
              routes: dict[str, list[Route]]) -> None:
        """Tell the way to what is behind `node` to all who stand between it and the servers."""
        up = self.uplink(node)
        while networks and up is not None and up.address is not None:
            for link in self._above.get(up.segment, ()):
                routes.setdefault(link.node, []).extend(
                    Route(network, up.address.ip) for network in networks)
            entry = self._entry(up.segment)
            if entry is None:
                return
            node, up = entry.node, self.uplink(entry.node)

    def _entry(self, segment: str) -> Link | None:
        """The first link on `segment` of a node that forwards to it from nearer to a server."""
        return next((link for link in self._above.get(segment, ())
                     if self._role(link).forwards), None)

    @cached_property
    def _above(self) -> dict[str, list[Link]]:
        """On each segment the links of servers, and of nodes that forward to it."""
        found: dict[str, list[Link]] = {}
        for node in self.topology.nodes:
            links = self.downlinks(node.name) if node.role.forwards else \
                self.topology.links_of(node.name) if node.role.serves else ()
            for link in links:
                found.setdefault(link.segment, []).append(link)
        return found

    @cached_property
    def _forwarding(self) -> tuple[Node, ...]:
        return tuple(node for node in self.topology.nodes if node.role.forwards)

    def _role(self, link: Link) -> Role:
        return self.topology.node(link.node).role
