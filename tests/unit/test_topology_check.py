"""What makes no sense for DHCP, found in topologies that come from no file."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given, settings

from netlab import plan
from netlab import topology as topologies
from netlab.topology import Impairment, Link, Node, RelayPolicy, Role, Segment, Subnet, Topology
from netlab.topology import check as checks
from netlab.topology.check import check
from tests.topologies import topologies as made_up

BUILT = [topologies.direct(), topologies.relay(0), topologies.relay(1), topologies.relay(32),
         topologies.star(1), topologies.star(500), topologies.rogue(), topologies.redundant()]


@pytest.mark.parametrize("topology", BUILT, ids=lambda each: each.name)
def test_what_is_built_in_makes_sense(topology: Topology) -> None:
    assert check(topology) == []


@settings(deadline=None, max_examples=80)
@given(made_up())
def test_what_is_made_up_makes_sense_and_can_be_planned(topology: Topology) -> None:
    assert check(topology) == []
    made = plan.make(topology)
    assert topologies.from_json(topologies.to_json(topology)) == topology
    assert sum(isinstance(step, plan.MakeLink | plan.MakeCable) for step in made.steps) == \
        sum(1 if segment.is_cable else len(topology.links_on(segment.name))
            for segment in topology.segments)


def without(topology: Topology, *nodes: str) -> Topology:
    """The same without these nodes and their links."""
    return replace(topology, nodes=tuple(n for n in topology.nodes if n.name not in nodes),
                   links=tuple(each for each in topology.links if each.node not in nodes))


def relaying(topology: Topology, **to: str) -> Topology:
    """The same where relays relay to these addresses."""
    return replace(topology, nodes=tuple(
        replace(n, policy=RelayPolicy(servers=(IPv4Address(to[n.name]),)))
        if n.name in to else n for n in topology.nodes))


CHAIN = topologies.relay(3)
STAR = topologies.star(3)
DIRECT = topologies.direct()
ROGUE = topologies.rogue()


def spoilt(node: str, ifname: str, **how: float | str) -> Impairment:
    return Impairment(node, ifname, loss_percent=1.0, **how)  # type: ignore[arg-type]


def impaired(*each: Impairment) -> Topology:
    return replace(CHAIN, impairments=each)


@pytest.mark.parametrize(("topology", "about", "what"), [
    (without(DIRECT, "server"), ("nodes", ""), "no node is a server"),
    (without(DIRECT, "client"), ("nodes", ""), "no node is a client"),
    (without(ROGUE, "server"), ("nodes", ""), "no node is a server"),
    (without(CHAIN, "relay2"), ("node", "relay1"), "no link towards a server"),
    (without(CHAIN, "relay1"), ("segment", "lan"), "reach no server"),
    (without(STAR, "relay2"), ("segment", "lan2"), "reach no server"),
    (replace(DIRECT, nodes=(*DIRECT.nodes, Node("x", Role.ROUTER))), ("node", "x"),
     "on no segment"),
    (replace(DIRECT, segments=(*DIRECT.segments, Segment("b", "switch"))), ("segment", "b"),
     "nobody is on segment b"),
    (replace(DIRECT, subnets=()), ("segment", "lan"), "no subnet"),
    (replace(ROGUE, subnets=ROGUE.subnets[1:]), ("segment", "lan"), "no subnet"),
    (replace(ROGUE, subnets=ROGUE.subnets[:1]), ("node", "rogue"), "serves no subnet"),
    (replace(CHAIN, links=tuple(each for each in CHAIN.links if each.end != ("relay1", "eth0"))),
     ("node", "relay1"), "no link away"),
    (relaying(CHAIN, relay1="10.0.1.2", relay2="10.0.1.1"), ("node", "relay1"),
     "relay1 -> relay2 -> relay1"),
    (relaying(CHAIN, relay3="10.16.0.1"), ("node", "relay1"),
     "relay1 -> relay2 -> relay3 -> relay1"),
    # Only what leads into it: the circle itself is what is wrong.
    (relaying(CHAIN, relay3="10.0.1.2"), ("node", "relay2"), "relay2 -> relay3 -> relay2"),
    (relaying(CHAIN, relay2="198.51.100.1"), ("node", "relay2"), "198.51.100.1"),
    (replace(CHAIN, subnets=(replace(CHAIN.subnets[0], segment="lost"),),
             segments=(*CHAIN.segments, Segment("lost")), links=(
                 *CHAIN.links, Link("client", "eth1", "lost"), Link("x", "eth0", "lost")),
             nodes=(*CHAIN.nodes, Node("x", Role.CLIENT))), ("subnet", 0), "no way from a server"),
    (impaired(spoilt("relay1", "eth0"), spoilt("relay1", "eth0")), ("impairment", 1), "second"),
    (impaired(spoilt("relay1", "eth0", direction="in"), spoilt("relay1", "eth1"),
              spoilt("relay1", "eth0", from_s=9.0)), ("impairment", 2), "second"),
    # One cable's two ends.
    (impaired(spoilt("relay1", "eth1", direction="in"), spoilt("relay2", "eth0")),
     ("impairment", 1), "second"),
    (impaired(spoilt("relay1", "eth0", until_s=9.1), spoilt("relay1", "eth0", from_s=9.0)),
     ("impairment", 1), "second"),
])
def test_what_makes_no_sense(topology: Topology, about: tuple[str, str | int], what: str) -> None:
    found = check(topology)
    assert any(each.about == about and what in each.what and each.remedy for each in found), found


@pytest.mark.parametrize("several", [
    (spoilt("relay1", "eth0", direction="in"), spoilt("relay1", "eth0", direction="out")),
    (spoilt("relay1", "eth0", until_s=9.0), spoilt("relay1", "eth0", from_s=9.0)),
    (spoilt("relay1", "eth0"), spoilt("relay1", "eth1"), spoilt("relay2", "eth1")),
    (spoilt("relay1", "eth1", direction="in"), spoilt("relay2", "eth0", direction="in")),
])
def test_impairments_that_keep_out_of_each_others_way(several: tuple[Impairment, ...]) -> None:
    assert check(impaired(*several)) == []


def test_a_server_of_its_own_must_reach_its_subnet() -> None:
    other = IPv4Network("10.99.0.0/24")
    base = replace(
        CHAIN, nodes=(*CHAIN.nodes, Node("far", Role.SERVER), Node("sw", Role.SWITCH)),
        segments=(*CHAIN.segments, Segment("island", "sw")),
        links=(*CHAIN.links, Link("far", "eth0", "island", "far", IPv4Interface("10.99.0.1/24"))),
        subnets=(*CHAIN.subnets, Subnet("island", other, other[10], other[20], "far")))
    assert check(base) == []
    wrong = replace(base, subnets=(replace(CHAIN.subnets[0], server="far"), base.subnets[1]))
    assert [each.about for each in check(wrong)] == [("subnet", 0), ("node", "server")]


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_NODES", 5)
    assert [each.about for each in check(STAR)] == [("nodes", "")]


def test_a_long_circle_is_named_in_short_and_nothing_recurses() -> None:
    """A thousand relays on one bridge, each said to relay to the next."""
    count = 1200
    base = topologies.star(count)
    addresses = [each.address.ip for each in base.links
                 if each.segment == "core" and each.node != "server" and each.address]
    circle = relaying(base, **{f"relay{i + 1}": str(addresses[(i + 1) % count])
                               for i in range(count)})
    (finding,) = check(circle)
    assert "relay1 -> relay2" in finding.what and len(finding.what) < 200
