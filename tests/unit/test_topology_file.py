"""Topology files: what they mean, what they are refused for, and that nothing is lost on the way
from a topology to a file and back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import click.testing
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fastpath.document import AtLine
from fastpath.errors import SystemRefused, UserError
from netlab import processes, state
from netlab import topology as topologies
from netlab.commands.topology import plan, save, validate
from netlab.topology import Impairment, Program, RelayPolicy, Role, Topology, quantities, schema
from netlab.topology.file import WrongFile, load, parse
from netlab.topology.problems import Several
from netlab.topology.writer import to_yaml, write
from tester.cli import main_command
from tests.topologies import topologies as made_up

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))

SHORT = """\
nodes:
  client: {role: client, links: lan}
  relay: {role: relay, links: [lan, core]}
  server: {role: server, links: core}
"""


def errors_of(text: str) -> list[AtLine]:
    with pytest.raises(AtLine) as refused:
        parse(text, "t")
    return refused.value.each if isinstance(refused.value, Several) else [refused.value]


def addresses(topology: Topology) -> dict[str, str]:
    return {".".join(link.end): str(link.address) for link in topology.links if link.address}


# --- what a file means -----------------------------------------------------------------------


def test_the_shortest_file_gets_all_the_rest_assigned() -> None:
    found = parse(SHORT, "short")
    assert (found.name, found.mtu, found.load) == ("short", 1500, ())
    assert [segment.is_cable for segment in found.segments] == [True, True]
    assert addresses(found) == {"relay.eth0": "10.128.0.1/16", "relay.eth1": "10.0.0.1/24",
                                "server.eth0": "10.0.0.2/24"}
    (subnet,) = found.subnets
    assert (str(subnet.network), str(subnet.first), str(subnet.last), subnet.server) == (
        "10.128.0.0/16", "10.128.0.2", "10.128.255.254", "")
    assert found == parse(SHORT, "short")


FULL = """\
name: all of it
mtu: 9000
segments:
  lan-1: {subnet: 10.1.0.0/24, pool: 10.1.0.1 - 10.1.0.99, bridge: sw-2, network: 172.16.0.0/30}
  core: {network: [10.0.0.0/24, 10.9.0.0/24], bridge: true}
  wire: {bridge: false}
nodes:
  sw-1: {role: switch}
  sw-2: {role: switch}
  client-1: {role: client, links: lan-1}
  r_1:
    role: relay
    program: dhcrelay
    options: [-v, "-D"]
    links: {up-0: {segment: core, address: 10.0.0.7, port: up}, eth1: lan-1}
    max-hops: 4
    option82: append
    circuit_id: "eth{ifname}"
    remote-id: r
    servers: [s, 192.0.2.1]
  gw: {role: router, links: [core, wire, {segment: lan-1, address: 172.16.0.1/30}]}
  s:
    role: server
    program: command
    options: [my-dhcpd, 1]
    links: [core, {segment: wire, address: 192.0.2.1/24}]
impairments:
  - {link: r_1.up-0, loss: 1%, delay: 20ms, jitter: 5ms, rate: 10mbit, duplicate: 0.1%,
     reorder: 1%, direction: out, from: 10s, until: 30s}
load: {clients: 1000, retry: true, poisson: false, option: [60=a, 61=b]}
"""


def test_everything_that_can_be_said() -> None:
    found = parse(FULL, "t")
    assert (found.name, found.mtu) == ("all of it", 9000)
    assert [(each.name, each.stands_in) for each in found.segments] == [
        ("lan-1", "sw-2"), ("core", "sw-1"), ("wire", "")]
    assert [node.name for node in found.nodes] == ["sw-1", "sw-2", "client-1", "r_1", "gw", "s"]
    relay = found.node("r_1")
    assert relay.program == Program("dhcrelay", ("-v", "-D"))
    assert relay.policy == RelayPolicy(4, "append", "eth{ifname}", "r",
                                       (IPv4Address("10.0.0.2"), IPv4Address("192.0.2.1")))
    assert found.node("s").program == Program("command", ("my-dhcpd", "1"))
    assert addresses(found) == {
        "r_1.up-0": "10.0.0.7/24", "r_1.eth1": "10.1.0.100/24", "gw.eth0": "10.0.0.1/24",
        "gw.eth1": "192.0.2.2/24", "gw.eth2": "172.16.0.1/30", "s.eth0": "10.0.0.2/24",
        "s.eth1": "192.0.2.1/24"}
    assert [link.port for link in found.links] == ["client-1", "up", "r_1", "gw", "", "gw", "s", ""]
    assert found.impairments == (Impairment("r_1", "up-0", "out", 1.0, 0.1, 1.0, 20.0, 5.0,
                                            10_000.0, 10.0, 30.0),)
    assert found.load == ("--clients=1000", "--retry", "--poisson=false", "--option=60=a",
                          "--option=61=b")


def test_first_addresses_are_of_those_who_forward_then_of_servers() -> None:
    found = parse("""\
segments: {lan: {subnet: 10.1.0.0/24}, core: {network: 10.0.0.0/29}}
nodes:
  s1: {role: server, links: core}
  c: {role: client, links: lan}
  r1: {role: relay, links: [lan, core]}
  s2: {role: server, links: {eth0: {segment: core, address: 10.0.0.1}}}
  r2: {role: relay, links: {eth0: {segment: lan, address: 10.1.0.200}, eth1: core}}
""", "t")
    assert addresses(found) == {
        "r1.eth0": "10.1.0.1/24", "r1.eth1": "10.0.0.2/29", "r2.eth0": "10.1.0.200/24",
        "r2.eth1": "10.0.0.3/29", "s1.eth0": "10.0.0.4/29", "s2.eth0": "10.0.0.1/29"}
    # The pool is the largest range without them.
    assert (str(found.subnets[0].first), str(found.subnets[0].last)) == (
        "10.1.0.2", "10.1.0.199")


def test_assigned_networks_keep_clear_of_given_ones() -> None:
    found = parse("""\
segments: {a: , b: {subnet: 10.128.0.0/17}, core: , far: {network: 10.0.0.0/22}}
nodes:
  c: {role: client, links: [a, b]}
  r: {role: relay, links: [a, b, core]}
  s: {role: server, links: [core, far]}
  x: {role: server, links: [far]}
""", "t")
    assert [str(each.network) for each in found.subnets] == ["10.129.0.0/16", "10.128.0.0/17"]
    assert addresses(found)["r.eth2"] == "10.0.4.1/24"


def test_two_hundred_segments_of_clients_get_smaller_networks() -> None:
    segments = ", ".join(f"lan{i}" for i in range(200))
    found = parse(f"nodes:\n  c: {{role: client, links: [{segments}]}}\n"
                  f"  r: {{role: relay, links: [{segments}, core]}}\n"
                  "  s: {role: server, links: core}\n", "t")
    networks = [each.network for each in found.subnets]
    assert len(set(networks)) == 200 and {each.prefixlen for each in networks} == {17}
    # The client's ports and the relay's: the first has its name, there are only cables here.
    assert all(segment.is_cable for segment in found.segments)


def test_ports_of_one_switch_differ() -> None:
    found = parse("""\
segments: {lan: {bridge: true}, core: {bridge: true}}
nodes:
  c: {role: client, links: lan}
  a-relay-with-a-long-name: {role: relay, links: [lan, core]}
  core: {role: server, links: core}
  switch: {role: router, links: [lan, core]}
""", "t")
    assert found.nodes[-1].name == "switch0" and found.nodes[-1].role is Role.SWITCH
    assert [link.port for link in found.links] == ["c", "p1", "p2", "p3", "switch", "p4"]


def test_a_rogue_gets_an_address_of_its_own_network() -> None:
    found = load(DOCS / "examples/rogue.yaml")
    assert addresses(found)["from-home.eth0"] == "192.168.1.1/24"
    assert addresses(found)["dhcp.eth0"] == "10.1.0.1/16"
    assert [each.server for each in found.subnets] == ["", "from-home"]


@pytest.mark.parametrize("text", [
    "on", "no", "null", "1", "1e3", "0x1", "true", "a-b", "a_b", "-" * 0 + "12-34"])
def test_names_that_yaml_takes_for_something_else(text: str) -> None:
    found = parse(f"""\
segments: {{{text}: {{bridge: true}}}}
nodes:
  {text}: {{role: client, links: [{text}]}}
  s: {{role: server, links: {{{text}: '{text}'}}}}
""".replace(": [null]", ": ['null']"), "t")
    assert found.nodes[0].name == found.segments[0].name == found.links[1].ifname == text
    assert parse(to_yaml(found), "t") == found


def test_merged_keys_keep_their_spelling() -> None:
    found = parse("""\
nodes:
  client-1: &node {role: client, links: &links {eth-0: lan-1}}
  client_2: {<<: *node}
  s: {role: server, links: {<<: *links}}
""", "t")
    assert [node.name for node in found.nodes] == ["client-1", "client_2", "s", "switch"]
    assert {link.ifname for link in found.links} == {"eth-0"}
    assert {link.segment for link in found.links} == {"lan-1"}


# --- to a file and back ----------------------------------------------------------------------


@pytest.mark.parametrize("topology", [
    topologies.direct(), topologies.relay(0), topologies.relay(1), topologies.relay(32),
    topologies.relay(3, RelayPolicy(16, "replace", "a: b", "#")), topologies.star(1),
    topologies.star(300), topologies.rogue(), topologies.redundant()], ids=lambda t: t.name)
def test_what_is_built_in_survives(topology: Topology) -> None:
    assert parse(to_yaml(topology), "t") == topology


@settings(deadline=None, max_examples=80)
@given(made_up())
def test_what_is_made_up_survives(topology: Topology) -> None:
    text = to_yaml(topology)
    assert parse(text, "t") == topology
    assert valid(yaml.safe_load(text))


def test_two_thousand_relays_are_written_and_read_in_a_moment() -> None:
    star = topologies.star(2000)
    began = time.process_time()
    assert parse(to_yaml(star), "t") == star
    assert time.process_time() - began < 4.0


@pytest.mark.parametrize(("read", "write", "texts"), [
    (quantities.percent, quantities.as_percent, ["0.1%", "100%", "0.000001%", "33.333333%"]),
    (quantities.milliseconds, quantities.as_milliseconds, ["20ms", "0.000001ms", "1.1ms"]),
    (quantities.kbit_per_s, quantities.as_rate, ["10mbit", "1.5kbit", "100gbit", "1001kbit"]),
])
def test_quantities_are_written_as_they_are_read(read: Any, write: Any, texts: list[str]) -> None:
    assert [write(read(text)) for text in texts] == texts


@given(st.integers(0, 10**12).map(lambda n: n / 10**6))
def test_times_and_rates_survive(number: float) -> None:
    assert quantities.milliseconds(quantities.as_milliseconds(number)) == number
    assert not number or quantities.kbit_per_s(quantities.as_rate(number)) == number


# --- refused ---------------------------------------------------------------------------------

CLIENT = "  c: {role: client, links: lan}\n"
SERVER = "  s: {role: server, links: lan}\n"
RELAYED = "  c: {role: client, links: lan}\n  s: {role: server, links: core}\n"
DIRECT = "nodes:\n" + CLIENT + SERVER
BEHIND = DIRECT + "impairments:\n"
R = "  r: {role: relay, links: [lan, core]"

WRONG: list[tuple[str, int, str, str]] = [
    # YAML and keys
    ("nodes:\n  c: {role: client\n", 2, "not YAML", "indentation"),
    ("nodes:\n\tc: 1\n", 2, "not YAML", "indentation"),
    ("", 1, "nothing is not a mapping", "nodes"),
    ("- a\n", 1, "a list is not a mapping", "nodes"),
    ("segments: {}\n", 1, "without nodes", "add nodes"),
    ("nodes: 7\n", 1, "nodes is not a mapping by name", "NAME:"),
    ("nodes:\n", 1, "without nodes", "add nodes"),
    ("node:\n" + CLIENT, 1, "unknown key 'node'", "did you mean nodes"),
    ("nodes:\n  c: {rol: client}\n", 2, "unknown key 'rol'", "did you mean role"),
    ("nodes:\n  c:\n    links: lan\n", 2, "without role", "add role"),
    ("nodes:\n" + CLIENT + CLIENT + SERVER, 3, "'c' is given twice", "first on line 2"),
    # Roles, programs, options
    ("nodes:\n  c: {role: klient, links: lan}\n" + SERVER, 2, "'klient' is not known",
     "did you mean client"),
    ("nodes:\n" + CLIENT + "  s: {role: server, program: kia, links: lan}\n", 3,
     "no server is called 'kia'", "did you mean kea"),
    ("nodes:\n" + RELAYED + R + ", program: kea}\n", 4, "no relay is called 'kea'", "dhcrelay"),
    ("nodes:\n  c: {role: client, program: kea, links: lan}\n" + SERVER, 2,
     "program says nothing of a client", "server"),
    ("nodes:\n" + CLIENT + "  s: {role: server, program: kea, options: -d, links: lan}\n", 3,
     "options is not a list of words", "options: ["),
    ("nodes:\n" + CLIENT + "  s: {role: server, program: kea, options: [[a]], links: lan}\n", 3,
     "options is not a list of words", "options: ["),
    ("nodes:\n" + CLIENT + "  s: {role: server, options: [-d], links: lan}\n", 3,
     "options of s, but no program", "program:"),
    ("nodes:\n" + CLIENT + "  s:\n    role: server\n    program: command\n    links: lan\n", 5,
     "command of s has no options", "options: ["),
    # Relays' policy
    ("nodes:\n" + RELAYED + R + ", max_hops: 17}\n", 4, "not a whole number from 1 to 16", ""),
    ("nodes:\n" + RELAYED + R + ", option82: add}\n", 4, "'add' is not known", "append"),
    ("nodes:\n" + RELAYED + R + ", servers: [dhcp]}\n", 4, "no node 'dhcp'", "an address"),
    ("nodes:\n" + RELAYED + R + ", servers: c}\n", 4, "c has no address", "server"),
    ("nodes:\n" + RELAYED + R + ", servers: 192.0.2.1}\n", 4, "in no network", "servers:"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: lan, max-hops: 3}\n", 3,
     "max_hops says nothing of a server", "relay"),
    # Names
    ("nodes:\n  a.b: {role: client, links: lan}\n" + SERVER, 2, "cannot be the name of a node",
     "32 letters"),
    ("nodes:\n  " + "x" * 33 + ": {role: client, links: lan}\n" + SERVER, 2,
     "cannot be the name of a node", "32 letters"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: {interface-number-1: lan}}\n", 3,
     "cannot be the name of an interface", "15 letters"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: {eth0: lan, eth0: lan}}\n", 3,
     "'eth0' is given twice", "first on line 3"),
    (DIRECT + "links:\n  - {node: s, interface: eth0, segment: lan}\n", 5,
     "s has a second interface eth0", "another name"),
    (DIRECT + "links:\n  - {node: t, interface: eth0, segment: lan}\n", 5, "no node 't'", ""),
    ("segments:\n  a segment: {}\n" + DIRECT, 2, "cannot be the name of a segment", "15 letters"),
    ("nodes:\n  a-b: {role: client, links: {e_1: l}}\n  s: {role: server, links: {e-1: l, x: "
     "{segment: l, port: a/b}}}\n", 3, "cannot be the name of a port", "15 letters"),
    ("nodes: {c: {role: client, links: {a-b: lan}}, s: {role: server, links: {a_b: lan}}}\n", 1,
     "a-b and a_b are one key here", "lines of their own"),
    # Segments
    ("segments:\n  lan: {}\n" + "nodes:\n" + CLIENT + "  s: {role: server, links: lam}\n", 5,
     "segment 'lam', which is not there", "did you mean lan"),
    ("segments:\n  lan:\n  spare:\n" + DIRECT, 3, "nobody is on segment spare", "remove it"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: {eth0: }}\n", 3,
     "eth0 of s is joined to no segment", "eth0: SEGMENT"),
    ("segments:\n  lan: {bridge: s}\n" + DIRECT, 2, "'s' is a server, not a switch", "switch"),
    ("segments:\n  lan: {bridge: sw}\n" + DIRECT, 2, "'sw' is no node", "role: switch"),
    ("segments:\n  lan: {bridge: false}\n" + DIRECT + "  t: {role: server, links: lan}\n", 2,
     "3 links and no bridge", "two ends"),
    ("nodes:\n" + CLIENT + SERVER + "  sw: {role: switch, links: lan}\n", 4,
     "links says nothing of a switch", "bridge: sw"),
    (DIRECT + "  sw: {role: switch}\nlinks:\n  - {node: sw, interface: e, segment: lan}\n", 6,
     "a link of sw, which is a switch", "bridge: sw"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: {e: {segment: lan, port: p}}}\n", 3,
     "a port, but segment lan is a cable", "bridge: true"),
    ("segments: {lan: {bridge: true}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, port: lan}}}\n", 4,
     "port lan is there twice", "names of their own"),
    # Networks, addresses, pools
    ("segments:\n  lan: {subnet: 10.1.0.1/16}\n" + DIRECT, 2, "bits set behind its prefix",
     "write 10.1.0.0/16"),
    ("segments:\n  lan: {subnet: 10.1.0.0/16}\n  b: {network: 10.1.2.0/24}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: [lan, b]}\n", 3, "overlaps 10.1.0.0/16 of segment lan",
     "on line 2"),
    ("segments:\n  lan: {subnet: 224.1.0.0/16}\n" + DIRECT, 2, "no network of hosts", "10.1.0.0"),
    ("segments:\n  lan: {network: 0.0.0.0/1}\n" + DIRECT, 2, "no network of hosts", "10.1.0.0"),
    ("nodes:\n" + CLIENT + "  s: {role: server, links: [{segment: lan, address: 127.0.0.1/8}]}\n",
     3, "no network of hosts", "10.1.0.0"),
    ("segments:\n  lan: {pool: 10.1.0.0-10.1.0.9}\n" + DIRECT, 2, "a pool, but no subnet",
     "subnet:"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, pool: 10.1.1.0-10.1.1.9}\n" + DIRECT, 2,
     "is not inside subnet 10.1.0.0/24", "10.1.0.1 - 10.1.0.254"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, pool: 10.1.0.9-10.1.0.1}\n" + DIRECT, 2,
     "ends before it starts", "write 10.1.0.1"),
    ("segments:\n  lan:\n    subnet: 10.1.0.0/24\n    pool: 10.1.0.0-10.1.0.9\n" + DIRECT, 4,
     "is not inside subnet", "10.1.0.1"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, pool: 10.1.0.1-10.1.0.254}\n" + DIRECT, 5,
     "no address left for eth0 of s", "smaller pool"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, pool: 10.1.0.1-10.1.0.9}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.1.0.9}}}\n", 2,
     "contains 10.1.0.9 of s.e", "leave out"),
    ("segments:\n  lan: {subnet: 10.1.0.0/30}\n" + DIRECT + "  t: {role: server, links: lan}\n",
     2, "has no address for clients", "larger"),
    ("segments: {lan: {subnet: 10.1.0.0/24}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.2.0.1}}}\n", 4,
     "address 10.2.0.1 is outside of segment lan (10.1.0.0/24)", "network:"),
    ("segments: {lan: {subnet: 10.1.0.0/24}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.1.0.1/16}}}\n", 4,
     "another prefix", "10.1.0.1/24"),
    ("segments: {lan: {subnet: 10.1.0.0/24}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.1.0.255}}}\n", 4,
     "its broadcast address", "another"),
    ("segments: {lan: {subnet: 10.1.0.0/24}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.1.0.256}}}\n", 4,
     "not an IPv4 address", "192.0.2.1"),
    ("segments: {lan: {subnet: 10.1.0.0/24}}\nnodes:\n" + CLIENT +
     "  s: {role: server, links: {e: {segment: lan, address: 10.1.0.2}}}\n"
     "  t: {role: server, links: {e: {segment: lan, address: 10.1.0.2}}}\n", 5,
     "address 10.1.0.2 is there twice", "s.e has it too"),
    ("segments:\n  lan:\n    subnets:\n    - {subnet: 10.1.0.0/24}\n    - {subnet: 10.1.0.0/24}\n"
     + DIRECT, 4, "is there twice, and here without a pool", "pool:"),
    ("segments:\n  lan:\n    subnets:\n    - {subnet: 10.1.0.0/24, pool: 10.1.0.9-10.1.0.20}\n"
     "    - {subnet: 10.1.0.0/24, pool: 10.1.0.20-10.1.0.30}\n" + DIRECT, 5,
     "overlaps another pool", "its own"),
    ("segments:\n  lan:\n    subnet: 10.2.0.0/24\n    subnets: [{subnet: 10.1.0.0/24}]\n" + DIRECT,
     3, "subnet beside subnets", "one of these"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, server: c}\n" + DIRECT, 2,
     "c is a client, not a server", "s"),
    ("segments:\n  lan: {subnet: 10.1.0.0/24, server: z}\n" + DIRECT, 2, "no node 'z'", "s"),
    ("segments: {core: {network: 10.0.0.0/9}, b: {network: 10.128.0.0/9}, lan: }\n"
     "nodes:\n  c: {role: client, links: lan}\n  s: {role: server, links: [lan, core, b]}\n", 1,
     "no network is left for segment lan", "subnet:"),
    # What makes no sense for DHCP
    ("nodes:\n" + CLIENT, 1, "no node is a server", "role: server"),
    ("nodes:\n" + SERVER, 1, "no node is a client", "role: client"),
    (DIRECT + "  r2: {role: relay}\n", 4, "relay r2 is on no segment", "links:"),
    (DIRECT + "  r2: {role: relay, links: [a, b]}\n", 4,
     'relay "r2" has no link towards a server', "link it"),
    (DIRECT + "  r2: {role: relay, links: lan}\n", 4, 'relay "r2" has no link away', "clients"),
    (DIRECT + "  g: {role: router, links: lan}\n", 4, "router g is on one segment only", "link"),
    ("nodes:\n" + RELAYED, 2, "clients on segment lan reach no server", "relay"),
    ("nodes:\n" + RELAYED + "  g: {role: router, links: [lan, core]}\n", 2,
     "clients on segment lan reach no server", "relay"),
    ("segments:\n  lan: {network: 10.1.0.0/24}\n" + DIRECT, 2, "have no subnet", "subnet:"),
    ("nodes:\n" + CLIENT + SERVER + "  x: {role: rogue, links: lan}\n", 4,
     "rogue x serves no subnet", "server: x"),
    ("segments:\n  lan:\n  far: {subnet: 10.7.0.0/24, server: s}\n" + DIRECT +
     "  t: {role: server, links: far}\n", 3, "no way from server s to segment far", "relay"),
    ("nodes:\n" + RELAYED + "  a: {role: relay, links: [lan, mid], servers: b}\n"
     "  b: {role: relay, links: [mid, core], servers: a}\n", 4, "in a circle: a -> b -> a",
     "relay to a server"),
    ("nodes:\n" + RELAYED + R + ", servers: r}\n", 4, "in a circle: r -> r", "server"),
    # Impairments, load, the rest
    (BEHIND + "- {link: s.eth1, loss: 1%}\n", 5, "'s.eth1', which is no link",
     "did you mean s.eth0"),
    (BEHIND + "- {link: s, loss: 1%}\n", 5, "which is no link", "s.eth0"),
    (BEHIND + "- {link: s.eth0, loss: 101%}\n", 5, "'101%' is not a share", "0.5%"),
    (BEHIND + "- {link: s.eth0, loss: 1}\n", 5, "'1' is not a share", "1%"),
    (BEHIND + "- {link: s.eth0, rate: 10}\n", 5, "'10' is not a rate", "10mbit"),
    (BEHIND + "- {link: s.eth0, delay: soon}\n", 5, "'soon' is not a duration", "10ms"),
    (BEHIND + "- {link: s.eth0, direction: up, loss: 1%}\n", 5, "'up' is not known", "both"),
    (BEHIND + "- {link: s.eth0}\n", 5, "does nothing", "loss"),
    (BEHIND + "- {link: s.eth0, delay: 0ms}\n", 5, "does nothing", "loss"),
    (BEHIND + "- link: s.eth0\n  jitter: 5ms\n  delay: 4ms\n", 6, "more jitter than delay",
     "longer delay"),
    (BEHIND + "- {link: s.eth0, jitter: 5ms}\n", 5, "more jitter than delay", "longer delay"),
    (BEHIND + "- {link: s.eth0, delay: 1m, jitter: 1ms}\n", 5, "more than a minute", "shorter"),
    (BEHIND + "- {link: s.eth0, reorder: 1%}\n", 5, "reorders without a delay", "delay"),
    (BEHIND + "- {link: s.eth0, rate: 999bit}\n", 5, "less than 1kbit", "higher"),
    (BEHIND + "- {link: s.eth0, loss: 1%}\n- {link: c.eth0, loss: 1%, direction: in}\n", 6,
     "a second impairment of c.eth0", "until"),
    (BEHIND + "- {link: s.eth0, loss: 1%, from: 5s, until: 5s}\n", 5, "ends before it starts",
     "later"),
    (BEHIND + "- {link: s.eth0, loss: 1%, until: 9s}\n- {link: s.eth0, delay: 1s, direction: in,"
     " from: 8s}\n", 6, "a second impairment of s.eth0", "until"),
    (BEHIND + "- s.eth0\n", 5, "'s.eth0' is not an impairment", "link"),
    (DIRECT + "impairments: s.eth0\n", 4, "impairments is not a list", "- "),
    (DIRECT + "load: 1000\n", 4, "load is not a mapping", "clients: 1000"),
    (DIRECT + "load: {a b: 1000}\n", 4, "'a b' is no option", "--help"),
    (DIRECT + "load: {json: x}\n", 4, "json is for the lab to say", "lab test --json"),
    (DIRECT + "load: [--clients-csv, x]\n", 4, "clients-csv is for the lab", "lab test"),
    (DIRECT + "load: {clients: }\n", 4, "clients has no value", "a value"),
    (DIRECT + "mtu: 575\n", 4, "not a whole number from 576 to 9000", ""),
    (DIRECT + "mtu: [1500]\n", 4, "a list is not one value", "one value"),
    (DIRECT + "name: ''\n", 4, "is not a name", "64"),
]


@pytest.mark.parametrize(("text", "line", "what", "remedy"), WRONG,
                         ids=[f"{i}-{row[2][:40]}" for i, row in enumerate(WRONG)])
def test_what_is_wrong_is_said_with_its_line_and_remedy(
    text: str, line: int, what: str, remedy: str
) -> None:
    found = errors_of(text)
    said = [f"{each.line}: {each.what} | {each.remedy}" for each in found]
    assert any(each.line == line and what in each.what and remedy in each.remedy
               for each in found), said
    assert found[0].line <= line and all("\n" not in each.what + each.remedy for each in found)


def test_a_segment_of_too_many_ports_is_refused() -> None:
    clients = "".join(f"  c{i}: {{role: client, links: lan}}\n" for i in range(24_500))
    (error,) = errors_of("segments:\n  lan:\nnodes:\n" + SERVER + clients)
    assert (error.line, error.remedy) == (2, "use several segments")
    assert "24,501 ports" in error.what


def test_all_errors_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("mtu: 5\nnodes:\n  c: {role: king}\n  s: {role: server, links: lan, x: 1}\n")
    with pytest.raises(WrongFile) as refused:
        load(path)
    assert [each.what.partition(": ")[0] for each in refused.value.each] == [
        f"{path}:1", f"{path}:3", f"{path}:4"]
    assert refused.value.what == refused.value.each[0].what
    assert f"2 more: lab validate {path}" in refused.value.remedy


def test_the_issues_own_example(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text("#\n" * 10 + "nodes:\n" + RELAYED + "  r2: {role: relay, links: [lan, x]}\n")
    with pytest.raises(UserError) as refused:
        load(path)
    assert f'{path}:14: relay "r2" has no link towards a server' in [
        each.what for each in refused.value.each]  # type: ignore[attr-defined]


@pytest.mark.parametrize("octets", [b"\xff\xfe", b"nodes: \xc3", b"\x00", b"nodes: {\x07}"])
def test_files_that_are_no_text(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(octets)
    with pytest.raises(UserError, match=r"t\.yaml:1: "):
        load(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml", Path("/proc/self/mem")):
        with pytest.raises(UserError, match="cannot be read"):
            load(path)


# --- nothing but a UserError -----------------------------------------------------------------

SEEDS = [SHORT, FULL, *(path.read_text() for path in EXAMPLES)]
PIECES = ("-", ":", " ", "{", "}", "[", "]", ",", "&a", "*a", "<<: ", "null", "9", "10.0.0.0/8",
          "%", "\n", "\t", "'", '"', "role", "é", "0", "~", "servers: ", "/33", "!!int ")


def mutated(text: str, chance: random.Random) -> str:
    """`text` with a piece put in, cut out or put over, a line lost or doubled, or cut short."""
    lines, at = text.split("\n"), chance.randrange(len(text) + 1)
    i, piece = chance.randrange(len(lines)), chance.choice(PIECES)
    return chance.choice((
        text[:at] + piece + text[at:], text[:at] + piece + text[at + 4:],
        text[:at] + text[at + chance.randint(1, 9):], text[:at],
        "\n".join(lines[:i] + lines[i + 1:]),
        "\n".join([*lines[:i], chance.choice(lines), *lines[i:]])))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 1 << 32))
def test_a_damaged_file_is_a_topology_or_a_user_error(seed: int) -> None:
    chance = random.Random(seed)
    text = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 4)):
        text = mutated(text, chance)
    try:
        found = parse(text, "t")
    except UserError as error:
        assert error.what
    else:
        assert parse(to_yaml(found), "t") == found


# --- published -------------------------------------------------------------------------------


def valid(document: Any) -> bool:
    return bool(Draft202012Validator(schema.published()).is_valid(document))


def test_the_published_schema_is_current() -> None:
    assert (DOCS / "topology.schema.json").read_text() == schema.document(), \
        "lab validate --schema > docs/topology.schema.json"


def test_it_is_a_schema_without_loose_ends() -> None:
    Draft202012Validator.check_schema(schema.published())
    text = json.dumps(schema.published())
    used = {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert used == set(schema.published()["$defs"])


@pytest.mark.parametrize("text", [SHORT, FULL, *(path.read_text() for path in EXAMPLES)])
def test_editors_accept_what_the_reader_takes(text: str) -> None:
    assert valid(yaml.safe_load(text))
    assert not valid(yaml.safe_load(text) | {"nodes": {"a": {"role": "king"}}})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_sound(path: Path) -> None:
    found = load(path)
    assert found.name == path.stem and parse(to_yaml(found), "t") == found
    # dhcp-tester has these options.
    main_command.make_context("dhcp-tester", list(found.load))


def test_every_yaml_in_the_documentation_is_sound() -> None:
    blocks = (DOCS / "topology.md").read_text().split("```yaml\n")[1:]
    assert len(blocks) >= 2
    for block in blocks:
        parse(block.partition("```")[0], "t")


def test_every_key_is_documented() -> None:
    text = (DOCS / "topology.md").read_text()
    keys = {key for kind in schema.published()["$defs"].values()
            for key in kind.get("properties", ())}
    assert {key for key in keys if f"`{key}`" not in text and "-" not in key} == set()


# --- commands --------------------------------------------------------------------------------


def call(command: Any, *words: str, code: int = 0) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(command, words, standalone_mode=False)
    found = result.return_value or 0
    if result.exception:
        found = getattr(result.exception, "exit_code", 1)
    assert found == code, (result.output, result.exception)
    return result


def test_validate_looks_at_every_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SHORT.replace("role: relay", "role: rely").replace("links: core", "link: c"))
    good = tmp_path / "good.yaml"
    good.write_text(SHORT)
    result = call(validate, str(bad), str(tmp_path / "none.yaml"), str(good), code=2)
    assert f"{good}: ok: 3 nodes, 2 segments, 1 subnet, 1 relay; client segment at 1 hop" \
        in result.stdout
    assert f"lab: {bad}:3: role: 'rely' is not known\n     did you mean relay" in result.stderr
    assert f"lab: {bad}:4: unknown key 'link'" in result.stderr
    assert "none.yaml: cannot be read" in result.stderr
    call(validate, code=2)


def test_validate_prints_the_schema() -> None:
    assert call(validate, "--schema").stdout == schema.document()


def test_a_plan_is_a_table_steps_json_or_a_file() -> None:
    table = call(plan, "relay", "--hops", "2", "--name", "x").stdout
    assert "x-relay2" in table and "10.0.2.2/24" in table and "16 steps" in table
    assert "make namespace x-client\n" in call(plan, "relay", "--name", "x", "--steps").stdout
    document = json.loads(call(plan, "redundant", "--json").stdout)
    assert topologies.from_json(document["topology"]) == topologies.redundant()
    assert {step["does"] for step in document["steps"]} >= {"MakeNamespace", "AddRoutes"}
    assert parse(call(plan, "star", "--segments", "3", "--yaml").stdout, "t") == topologies.star(3)
    assert "1 hop" in call(plan, str(DOCS / "examples/branch-wan.yaml")).stdout


def test_a_long_plan_is_cut_and_says_so() -> None:
    short = call(plan, "star", "--segments", "2000").stdout
    assert len(short.splitlines()) < 120 and "more rows: --all" in short
    assert "1,994 more" in short
    assert len(call(plan, "star", "--segments", "200", "--all").stdout.splitlines()) > 600


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """A lab called up that has been journalled, with nothing behind it."""
    monkeypatch.setenv(state.STATE_ENV, str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    found = load(DOCS / "examples/branch-wan.yaml")
    with state.locked("up", "test"):
        state.write(state.Journal("up", found, state.Phase.UP,
                                  processes.identify(os.getpid())))
    return found


def test_save_writes_what_stands(standing: Topology, tmp_path: Path) -> None:
    call(save, "--name", "up")
    assert load(tmp_path / "up.yaml") == standing
    call(save, "--name", "up", "other.yaml")
    assert load(tmp_path / "other.yaml") == standing
    assert parse(call(save, "--name", "up", "-").stdout, "t") == standing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.yaml", "state", "up.yaml"]


def test_save_replaces_nothing_unless_it_is_told_to(standing: Topology, tmp_path: Path) -> None:
    (tmp_path / "up.yaml").write_text("mine")
    result = call(save, "--name", "up", code=2)
    assert "is there already" in str(result.exception)
    assert (tmp_path / "up.yaml").read_text() == "mine"
    call(save, "--name", "up", "--force")
    assert load(tmp_path / "up.yaml") == standing
    call(save, "--name", "down", code=2)


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "old.yaml").write_text("old")
    for name, replace in (("new.yaml", False), ("old.yaml", True)):
        with pytest.raises(SystemRefused, match="No space left"):
            write(tmp_path / name, "text", replace=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["old.yaml"]
    assert (tmp_path / "old.yaml").read_text() == "old"
    monkeypatch.undo()
    with pytest.raises(SystemRefused, match="cannot write"):
        write(tmp_path / "none/new.yaml", "text", replace=False)
    link = tmp_path / "link.yaml"
    link.symlink_to("old.yaml")
    write(link, "new", replace=True)
    assert link.is_symlink() and (tmp_path / "old.yaml").read_text() == "new"


def test_the_commands_do_not_wait_for_yaml() -> None:
    code = "import sys, netlab.commands.topology; print('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout == "False\n"


def test_addresses_are_interfaces_after_reading() -> None:
    assert all(link.address is None or isinstance(link.address, IPv4Interface)
               for link in parse(FULL, "t").links)
