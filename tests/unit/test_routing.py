"""Routing against a slow twin, and messages walked hop by hop over the routes that it makes."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings

from netlab import topology as topologies
from netlab.topology import Link, Node, RelayPolicy, Role, Segment, Topology
from netlab.topology.file import load
from netlab.topology.routing import Routing
from tests.topologies import address_of, trees

BUILT = [topologies.direct(), topologies.relay(0), topologies.relay(1), topologies.relay(5),
         topologies.relay(topologies.MOST_HOPS), topologies.star(1), topologies.star(7),
         topologies.rogue(), topologies.redundant()]


def distances(topology: Topology) -> dict[str, int]:
    """Every segment's, by going round until nothing changes any more."""
    found: dict[str, int] = {}
    for node in topology.nodes:
        for link in topology.links:
            if link.node == node.name and node.role is Role.SERVER:
                found[link.segment] = 0
    changed = True
    while changed:
        changed = False
        for node in topology.nodes:
            segments = [link.segment for link in topology.links if link.node == node.name]
            reached = [found[segment] for segment in segments if segment in found]
            for segment in segments:
                if node.role in (Role.RELAY, Role.ROUTER) and reached \
                        and found.get(segment, 1 << 30) > min(reached) + 1:
                    found[segment] = min(reached) + 1
                    changed = True
    return found


def walk(topology: Topology, start: str, to: IPv4Address) -> list[str]:
    """The nodes that an IP packet from `start` to the address passes; fails where it is lost."""
    routes = Routing(topology).routes
    way, at = [start], start
    while not any(link.address and link.address.ip == to for link in topology.links_of(at)):
        assert at == start or topology.node(at).role.forwards, (way, to)
        beside = [link for link in topology.links_of(at) if link.address]
        # The longest prefix wins; at equal length the interface's own network.
        ways = [(link.address.network.prefixlen, 1, to) for link in beside
                if link.address and to in link.address.network]
        ways += [(route.network.prefixlen, 0, route.via) for route in routes.get(at, ())
                 if to in route.network]
        assert ways, f"{at} knows no way to {to} ({way})"
        via = max(ways, key=lambda each: each[:2])[2]
        segments = {link.segment for link in beside if link.address
                    and via in link.address.network}
        at = next((link.node for link in topology.links if link.address
                   and link.address.ip == via and link.segment in segments), "")
        assert at, f"{way[-1]} has no neighbour {via}"
        way.append(at)
        assert len(way) < 64, way
    return way


def check_ways(topology: Topology) -> None:
    """Requests from every relay arrive, and answers find the relay that asked."""
    routing = Routing(topology)
    for relay in topology.with_role(Role.RELAY):
        targets = routing.targets(relay.name)
        assert targets, relay
        for target in targets:
            assert walk(topology, relay.name, target)
        for link in routing.downlinks(relay.name):
            assert link.address
            for server in topology.with_role(Role.SERVER):
                assert walk(topology, server.name, link.address.ip)[-1] == relay.name
    rogues = [node.name for node in topology.with_role(Role.ROGUE)]
    for subnet in (each for each in topology.subnets if each.server not in rogues):
        router = routing.router(subnet)
        assert router is not None and router in subnet.network
        # A client that renews sends unicast by its router.
        node = next(link.node for link in topology.links
                    if link.address and link.address.ip == router)
        for server in topology.with_role(Role.SERVER):
            assert walk(topology, node, address_of(topology, server.name))


@settings(deadline=None, max_examples=80)
@given(trees())
def test_distances_are_those_of_the_twin(topology: Topology) -> None:
    assert Routing(topology).distance == distances(topology)


@settings(deadline=None, max_examples=80)
@given(trees())
def test_links_lead_up_and_down(topology: Topology) -> None:
    routing, found = Routing(topology), distances(topology)
    for node in topology.with_role(Role.RELAY, Role.ROUTER):
        links = topology.links_of(node.name)
        up = routing.uplink(node.name)
        assert up is not None and found[up.segment] == min(found[each.segment] for each in links)
        assert routing.downlinks(node.name) == tuple(
            each for each in links if found[each.segment] > found[up.segment])


@settings(deadline=None, max_examples=120)
@given(trees())
def test_every_message_arrives_in_a_made_up_tree(topology: Topology) -> None:
    check_ways(topology)


@pytest.mark.parametrize("topology", BUILT, ids=lambda each: each.name)
def test_every_message_arrives_in_what_is_built_in(topology: Topology) -> None:
    assert Routing(topology).distance == distances(topology)
    check_ways(topology)


@pytest.mark.parametrize("hops", [0, 1, 3, 8])
def test_hops_of_a_chain(hops: int) -> None:
    chain = topologies.relay(hops)
    assert Routing(chain).hops(chain.subnets[0]) == hops


def test_relays_of_a_chain_relay_to_the_next_one_and_the_last_to_the_server() -> None:
    chain = topologies.relay(3)
    routing = Routing(chain)
    assert [routing.targets(f"relay{i}") for i in (1, 2, 3)] == [
        (IPv4Address("10.0.1.2"),), (IPv4Address("10.0.2.2"),), (IPv4Address("10.0.3.2"),)]
    assert address_of(chain, "server") == IPv4Address("10.0.3.2")


def test_redundant_relays_relay_to_both_servers_and_are_reached_through_themselves() -> None:
    both = topologies.redundant()
    routing = Routing(both)
    servers = tuple(address_of(both, f"server{i}") for i in (1, 2))
    assert routing.targets("relay1") == routing.targets("relay2") == servers
    assert walk(both, "server2", address_of(both, "relay2")) == ["server2", "relay2"]


def test_a_rogue_is_nobodys_target_and_counts_for_no_distance() -> None:
    base = topologies.relay(1)
    with_rogue = Topology(
        base.name, (*base.nodes, Node("rogue", Role.ROGUE)),
        (Segment("lan", "rogue"), *base.segments[1:]),
        (*base.links, Link("rogue", "eth0", "lan", "p", base.links[1].address)), base.subnets)
    routing = Routing(with_rogue)
    assert routing.distance == {"net1": 0, "lan": 1}
    assert routing.targets("relay1") == (address_of(base, "server"),)


def test_what_is_said_wins_over_what_is_near() -> None:
    there = IPv4Address("192.0.2.9")
    base = topologies.relay(1, RelayPolicy(servers=(there,)))
    assert Routing(base).targets("relay1") == (there,)


def test_a_node_without_a_way_to_a_server_has_no_links_up_or_down() -> None:
    lost = Topology("lost", (Node("r", Role.RELAY), Node("s", Role.SERVER)),
                    (Segment("a"), Segment("b")),
                    (Link("r", "eth0", "a"), Link("r", "eth1", "b")), ())
    routing = Routing(lost)
    assert routing.uplink("r") is None and routing.distance == {}
    assert routing.downlinks("r") == routing.targets("r") == () and routing.routes == {}


def test_a_star_of_two_thousand_takes_no_time() -> None:
    star = topologies.star(2000)
    began = time.process_time()
    routing = Routing(star)
    assert len(routing.routes["server"]) == 2000
    assert all(routing.targets(node.name) for node in star.with_role(Role.RELAY))
    assert time.process_time() - began < 1.0


def test_a_router_between_relay_and_server_is_no_hop_and_is_looked_through() -> None:
    office = load(Path(__file__).parents[2] / "docs/examples/office.yaml")
    routing = Routing(office)
    (server,) = office.with_role(Role.SERVER)
    address = office.links_of(server.name)[0].address
    assert address is not None
    assert {routing.hops(subnet) for subnet in office.subnets} == {1}
    for relay in office.with_role(Role.RELAY):
        assert routing.targets(relay.name) == (address.ip,)
