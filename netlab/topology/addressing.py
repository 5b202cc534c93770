"""Which networks, addresses and pools a topology has where its file does not say.

The one thing to know: the same file always gets the same addresses. Who forwards gets the first
ones of a network, then its servers, each in the order of the file; never one of a pool.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import pairwise

from netlab.topology.draft import LinkDraft, NodeDraft, SegmentDraft, SubnetDraft
from netlab.topology.model import Role
from netlab.topology.problems import Problems

# Where clients get their addresses from, and where what lies between relays has its own.
CLIENTS = IPv4Network("10.128.0.0/9")
BETWEEN = IPv4Network("10.0.0.0/9")
_WIDEST, _NARROWEST = 16, 24


def wants_address(node: NodeDraft) -> bool:
    """Whether its links get an address where the file says none."""
    return node.role.serves or node.role.forwards


class _Free:
    """Networks that overlap none that is taken."""

    def __init__(self, taken: Iterable[IPv4Network]) -> None:
        self._taken = sorted((int(each[0]), int(each[-1])) for each in taken)
        self._next: dict[tuple[IPv4Network, int], int] = {}

    def take(self, space: IPv4Network, prefixlen: int) -> IPv4Network | None:
        """The first free one of that size in `space`; None where there is none."""
        size = 1 << 32 - prefixlen
        start = self._next.get((space, prefixlen), int(space[0]))
        while start + size - 1 <= int(space[-1]):
            at = bisect_left(self._taken, (start + size, 0))
            # What begins before our end: taken ones do not overlap, so the last one is enough.
            end = self._taken[at - 1][1] if at else -1
            if end < start:
                insort(self._taken, (start, start + size - 1))
                self._next[space, prefixlen] = start + size
                return IPv4Network((start, prefixlen))
            start = -(-(end + 1) // size) * size
        return None


def assign_networks(segments: Mapping[str, SegmentDraft], on: Mapping[str, list[LinkDraft]],
                    nodes: Mapping[str, NodeDraft], problems: Problems) -> None:
    """Give a subnet to each segment with clients, a network to each on which a node wants an
    address, where the file says nothing of it. Raises Several where networks overlap."""
    for segment in segments.values():
        if not segment.subnets and not segment.networks:
            for link in on.get(segment.name, ()):
                if isinstance(link.address, IPv4Interface):
                    segment.networks.append((link.address.network, link.address_line))
                    break
    _apart(segments.values(), problems)
    problems.stop()
    free = _Free({network for segment in segments.values() for network in networks_of(segment)})
    open_ones = [segment for segment in segments.values()
                 if not segment.subnets and not segment.networks]
    with_clients = [segment for segment in open_ones if segment.server or any(
        nodes[link.node].role is Role.CLIENT for link in on.get(segment.name, ()))]
    size = min(_NARROWEST, max(_WIDEST, CLIENTS.prefixlen + len(with_clients).bit_length()))
    for segment in with_clients:
        network = free.take(CLIENTS, size)
        segment.subnets = [SubnetDraft(segment.line, network, server=segment.server)]
        if network is None:
            problems.add(segment.line, f"no network is left for segment {segment.name}",
                         "give it one: subnet: ...")
    for segment in open_ones:
        wanting = sum(wants_address(nodes[link.node]) and not link.bare
                      for link in on.get(segment.name, ()))
        if segment.subnets or not wanting:
            continue
        network = free.take(BETWEEN, min(_NARROWEST, 32 - (wanting + 1).bit_length()))
        if network is None:
            problems.add(segment.line, f"no network is left for segment {segment.name}",
                         "give it one: network: ...")
        else:
            segment.networks.append((network, segment.line))
    problems.stop()


def networks_of(segment: SegmentDraft) -> list[IPv4Network]:
    """All networks of a segment, the first said first, each once."""
    return list(dict.fromkeys((*(subnet.network for subnet in segment.subnets if subnet.network),
                               *(network for network, _ in segment.networks))))


def _apart(segments: Iterable[SegmentDraft], problems: Problems) -> None:
    """One network is one segment's, and no two overlap."""
    found = sorted({(int(network[0]), int(network[-1]), segment.name): (network, line)
                    for segment in segments
                    for network, line in (*((subnet.network, subnet.line)
                                            for subnet in segment.subnets), *segment.networks)
                    if network is not None}.items())
    widest = None
    for (first, last, name), (network, line) in found:
        if widest is not None and first <= widest[0]:
            _, other, other_name, other_line = widest
            one, two = (f"{network} of segment {name}", f"{other} of segment {other_name}")
            if line < other_line:
                one, two, line, other_line = two, one, other_line, line
            problems.add(line, f"{one} overlaps {two}", f"that one is on line {other_line}")
        if widest is None or last > widest[0]:
            widest = last, network, name, line


@dataclass(slots=True)
class _Hosts:
    """The addresses of one network: which are taken, and which ranges are for clients."""

    network: IPv4Network
    taken: dict[int, str] = field(default_factory=dict)
    pools: list[tuple[int, int]] = field(default_factory=list)
    cursor: int = 0

    @property
    def first(self) -> int:
        return int(self.network[0]) + (self.network.prefixlen < 31)

    @property
    def last(self) -> int:
        return int(self.network[-1]) - (self.network.prefixlen < 31)

    def take(self, owner: str) -> IPv4Interface | None:
        """The first address that is nobody's, now of `owner`; None where there is none."""
        at = max(self.cursor, self.first)
        while at <= self.last:
            i = bisect_right(self.pools, (at, 1 << 32)) - 1
            if i >= 0 and at <= self.pools[i][1]:
                at = self.pools[i][1] + 1
            elif at in self.taken:
                at += 1
            else:
                self.taken[at], self.cursor = owner, at + 1
                return IPv4Interface((at, self.network.prefixlen))
        return None

    def largest_gap(self) -> tuple[IPv4Address, IPv4Address] | None:
        """The largest range of addresses that are nobody's; None where there is none."""
        fences = sorted({self.first - 1, *self.taken, self.last + 1})
        before, after = max(pairwise(fences), key=lambda pair: pair[1] - pair[0])
        return (IPv4Address(before + 1), IPv4Address(after - 1)) if after - before > 1 else None


class Addressing:
    """The addresses of all nodes, and the pools of all subnets; drafts are filled in place."""

    def __init__(self, segments: Mapping[str, SegmentDraft], links: list[LinkDraft],
                 nodes: Mapping[str, NodeDraft], problems: Problems) -> None:
        self._segments, self._links, self._nodes = segments, links, nodes
        self._problems = problems
        self._hosts = {network: _Hosts(network) for segment in segments.values()
                       for network in networks_of(segment)}

    def assign(self) -> None:
        """Raises Several where addresses and pools do not fit their networks."""
        for link in self._links:
            if link.address is not None:
                self._given(link, link.address)
        for segment in self._segments.values():
            for subnet in segment.subnets:
                if subnet.pool:
                    self._given_pool(subnet, subnet.pool)
        self._problems.stop()
        for forwards in (True, False):
            for link in self._links:
                node = self._nodes[link.node]
                wanting = link.address is None and not link.bare and wants_address(node)
                if wanting and node.role.forwards is forwards:
                    self._assign(link)
        self._problems.stop()
        for segment in self._segments.values():
            for subnet in segment.subnets:
                self._assign_pool(segment, subnet)
        self._problems.stop()

    def _given(self, link: LinkDraft, written: IPv4Address | IPv4Interface) -> None:
        networks = networks_of(self._segments[link.segment.name])
        address = written.ip if isinstance(written, IPv4Interface) else written
        network = next((each for each in networks if address in each), None)
        add, line = self._problems.add, link.address_line
        if network is None:
            listed = ", ".join(map(str, networks[:4]))
            add(line, f"address {address} is outside of segment {link.segment.name}"
                + (f" ({listed})" if networks else ", which has no network"),
                "take one of its own, or give the segment this one too: network: ...")
        elif isinstance(written, IPv4Interface) and written.network != network:
            add(line, f"address {written} has another prefix than segment {link.segment.name}",
                f"write {address}/{network.prefixlen}, or {address}")
        elif not self._hosts[network].first <= int(address) <= self._hosts[network].last:
            add(line, f"address {address} is that of the network {network}, or its broadcast "
                "address", "no node can have it: take another")
        elif int(address) in self._hosts[network].taken:
            add(line, f"address {address} is there twice",
                f"{self._hosts[network].taken[int(address)]} has it too")
        else:
            self._hosts[network].taken[int(address)] = f"{link.node}.{link.ifname}"
            link.address = IPv4Interface((int(address), network.prefixlen))

    def _given_pool(self, subnet: SubnetDraft, pool: tuple[IPv4Address, IPv4Address]) -> None:
        network, add, line = subnet.network, self._problems.add, subnet.pool_line
        said = f"pool {pool[0]} - {pool[1]}"
        if network is None:
            return
        hosts, (first, last) = self._hosts[network], map(int, pool)
        if not hosts.first <= first <= last <= hosts.last:
            add(line, f"{said} is not inside subnet {network}",
                f"its addresses are {IPv4Address(hosts.first)} - {IPv4Address(hosts.last)}"
                if hosts.first <= hosts.last else "take a larger subnet")
            return
        if owned := next((at for at in hosts.taken if first <= at <= last), None):
            add(line, f"{said} contains {IPv4Address(owned)} of {hosts.taken[owned]}",
                "leave out the addresses of nodes")
        if any(first <= other_last and other_first <= last
               for other_first, other_last in hosts.pools):
            add(line, f"{said} overlaps another pool of {network}",
                "each server gives addresses of its own")
            return
        insort(hosts.pools, (first, last))

    def _assign(self, link: LinkDraft) -> None:
        segment = self._segments[link.segment.name]
        own = [subnet.network for subnet in segment.subnets
               if subnet.server and subnet.server.name == link.node]
        common = [subnet.network for subnet in segment.subnets if not subnet.server
                  or self._nodes[subnet.server.name].role is not Role.ROGUE]
        network = next(each for each in (*own, *common, *(each for each, _ in segment.networks),
                                         *networks_of(segment)) if each is not None)
        link.address = self._hosts[network].take(f"{link.node}.{link.ifname}")
        if link.address is None:
            self._problems.add(
                link.segment.line, f"{network} of segment {segment.name} has no address left for "
                f"{link.ifname} of {link.node}", "take a larger network, or a smaller pool")

    def _assign_pool(self, segment: SegmentDraft, subnet: SubnetDraft) -> None:
        if subnet.pool or subnet.network is None:
            return
        if sum(each.network == subnet.network for each in segment.subnets) > 1:
            self._problems.add(subnet.line, f"subnet {subnet.network} is there twice, and here "
                               "without a pool", "say which part it gives out: pool: ...")
            return
        subnet.pool = self._hosts[subnet.network].largest_gap()
        if subnet.pool is None:
            self._problems.add(subnet.line, f"subnet {subnet.network} has no address for clients",
                               "take a larger one")
