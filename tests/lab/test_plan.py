"""Topologies and plans: pure data, so no privilege is needed."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from collections import Counter

import pytest

from fastpath.errors import UserError
from netlab import plan, topology
from netlab.plan import (
    AwaitCarrier,
    GiveAddress,
    JoinBridges,
    MakeBridge,
    MakeCable,
    MakeLink,
    MakeNamespace,
)
from netlab.topology import Link, Node, Role, Segment, Topology, builtin


def test_direct_is_two_nodes_on_a_bridge_in_a_third() -> None:
    made = plan.make(topology.direct())
    assert made.steps == (
        MakeNamespace("client", "netlab-client"),
        MakeNamespace("switch", "netlab-switch", switches=True),
        MakeNamespace("server", "netlab-server"),
        MakeBridge("switch", "lan", 1500),
        MakeLink("client", "eth0", "switch", "lan", "client", 1500, learning=False),
        MakeLink("server", "eth0", "switch", "lan", "server", 1500, learning=False),
        GiveAddress("server", "eth0", ipaddress.IPv4Interface("10.16.0.1/12")),
        AwaitCarrier((("client", "eth0"), ("switch", "client"), ("server", "eth0"),
                      ("switch", "server"), ("switch", "lan"))),
    )
    assert str(made.steps[4]) == "link eth0 of client to port client of lan"


def test_the_default_pool_has_about_a_million_addresses_of_the_network() -> None:
    (subnet,) = topology.direct().subnets
    assert subnet.first in subnet.network and subnet.last in subnet.network
    assert 1_000_000 <= int(subnet.last) - int(subnet.first) + 1 <= 1_050_000
    assert not subnet.first <= builtin.SERVER.ip <= subnet.last
    assert subnet.last != subnet.network.broadcast_address


def test_a_segment_of_three_ports_learns_addresses() -> None:
    made = plan.make(_topology(links=[("a", "eth0", "pa"), ("b", "eth0", "pb"),
                                      ("c", "eth0", "pc")]))
    assert all(step.learning for step in made.steps if isinstance(step, MakeLink))


def test_a_topology_survives_json() -> None:
    for build in topology.BUILT_IN.values():
        text = json.dumps(topology.to_json(build()))
        assert topology.from_json(json.loads(text)) == build()


@pytest.mark.parametrize("damage", [
    lambda d: d.pop("nodes"), lambda d: d["nodes"][0].update(role="king"),
    lambda d: d["links"][1].update(address="10.0.0.300/8"), lambda d: d.update(links=3),
    lambda d: d["subnets"][0].pop("network"),
])
def test_damaged_json_is_no_topology(damage) -> None:  # type: ignore[no-untyped-def]
    document = topology.to_json(topology.direct())
    damage(document)
    with pytest.raises((KeyError, TypeError, ValueError)):
        topology.from_json(document)


@pytest.mark.parametrize("name", ["netlab", "a", "A-b_9", "x" * 32])
def test_lab_names(name: str) -> None:
    assert plan.make(topology.direct(), name).namespaces["client"] == f"{name}-client"


@pytest.mark.parametrize(
    "name", ["", "x" * 33, "a b", "a/b", "../a", "a.b", "ä", "-a", "a\n", "a:b"])
def test_no_lab_names(name: str) -> None:
    with pytest.raises(UserError):
        plan.make(topology.direct(), name)


def _topology(nodes: str = "abc", links: list[tuple[str, str, str]] | None = None,
              segment: str = "lan", stands_in: str = "s") -> Topology:
    return Topology(
        "made up", (*(Node(n, Role.CLIENT) for n in nodes), Node("s", Role.SWITCH)),
        (Segment(segment, stands_in),),
        tuple(Link(node, ifname, segment, port) for node, ifname, port in links or []), ())


@pytest.mark.parametrize("wrong,names", [
    (_topology(nodes="aa"), "a is there 2 times"),
    (_topology(links=[("z", "eth0", "p")]), "stands in no node"),
    (_topology(stands_in="nowhere"), "stands in no node"),
    (_topology(links=[("a", "eth0", "p"), ("b", "eth0", "p")]), "p of s is there 2 times"),
    (_topology(links=[("a", "e" * 16, "p")]), "name of an interface"),
    (_topology(links=[("a", "eth0", "p/q")]), "name of an interface"),
    (_topology(segment="a bridge"), "name of an interface"),
    (_topology(nodes=["a:b"]), "name of a node"),  # type: ignore[arg-type]
    (_topology(links=[("a", f"e{i}", f"p{i}") for i in range(24_001)]), "more than 24,000"),
    (_topology(links=[("a", "eth0", "")], stands_in=""), "1 ends, not 2"),
])
def test_impossible_topologies(wrong: Topology, names: str) -> None:
    with pytest.raises(UserError, match=names):
        plan.make(wrong)


def _star_of_ports(count: int) -> Topology:
    return _topology(links=[("a", f"e{i}", f"p{i}") for i in range(count)])


@pytest.mark.parametrize("ports,bridges", [(1, 1), (1000, 1), (1001, 2), (2001, 3), (24_000, 24)])
def test_no_bridge_is_full(ports: int, bridges: int) -> None:
    made = plan.make(_star_of_ports(ports))
    names = [step.name for step in made.steps if isinstance(step, MakeBridge)]
    joins = [step for step in made.steps if isinstance(step, JoinBridges)]
    assert len(names) == len(set(names)) == bridges == len(joins) + 1
    # Linux bridges number their ports in 10 bits, from 1.
    load = Counter(step.bridge for step in made.steps if isinstance(step, MakeLink))
    load.update(join.bridge for join in joins)
    load.update(join.other_bridge for join in joins)
    assert set(load) == set(names) and max(load.values()) <= 1023
    # Each of them is joined to the first: one segment, and no loop.
    assert {join.bridge for join in joins} <= {"lan"}
    assert [join.other_bridge for join in joins] == names[1:]
    (waits,) = (step for step in made.steps if isinstance(step, AwaitCarrier))
    assert {("s", port) for join in joins for port in (join.port, join.other_port)} <= set(
        waits.interfaces)


def test_every_interface_of_a_chain_is_on_a_cable() -> None:
    made = plan.make(topology.relay(3))
    cables = [step for step in made.steps if isinstance(step, MakeCable)]
    assert len(cables) == 4 and not any(isinstance(s, MakeBridge | MakeLink) for s in made.steps)
    (waits,) = (step for step in made.steps if isinstance(step, AwaitCarrier))
    assert sorted(waits.interfaces) == sorted(
        end for c in cables for end in ((c.node, c.ifname), (c.peer_node, c.peer_ifname)))
    assert {s.node for s in made.steps if isinstance(s, MakeNamespace) and s.forwards} == {
        "relay1", "relay2", "relay3"}
    assert not any(s.switches for s in made.steps if isinstance(s, MakeNamespace))


def test_a_plan_is_data() -> None:
    made = plan.make(topology.direct(), "one")
    assert made == plan.make(topology.direct(), "one") != plan.make(topology.direct(), "two")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.lab = "three"  # type: ignore[misc]
