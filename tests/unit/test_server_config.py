"""What the server is told, held against its interfaces: one pool by flags, networks by a file."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from fastpath.errors import UserError
from fastpath.interface import Interface
from server.config import MOST_ADDRESSES, Resolved, resolve
from server.leases import EXCLUDED
from server.model import Config, Pool, Range, SharedNetwork, Subnet
from server.tables import make_tables

MAC = b"\x02\0\0\0\0\x01"


def ip(text: str | None) -> IPv4Address | None:
    return IPv4Address(text) if text else None


def interface(own: str, name: str = "eth7") -> Interface:
    """own: its addresses with prefixes, by spaces."""
    return Interface(name, 7, MAC, 1500, tuple(IPv4Interface(text) for text in own.split()))


def resolved(own: str = "192.0.2.1/24", start: str = "", end: str = "", *, listen: str = "",
             netmask: str = "", gateway: str = "", **fields: Any) -> Resolved:
    given = Range(ip(start), ip(end), ip(netmask), ip(gateway))
    config = Config(("eth7",), ip(listen), range=given, **fields)
    return resolve(config, [interface(own)])


def only(found: Resolved) -> tuple[Subnet, Pool]:
    """The one subnet and its one pool."""
    (subnet,) = found.subnets
    (pool,) = subnet.pools
    return subnet, pool


# name, flags, the network that is served
NETWORKS: list[tuple[str, dict[str, Any], str]] = [
    ("the pool lies inside the interface's prefix", {"start": "192.0.2.10", "end": "192.0.2.99"},
     "192.0.2.0/24"),
    ("no pool given: the interface's prefix", {}, "192.0.2.0/24"),
    ("a wide prefix stays wide",
     {"own": "10.0.0.1/8", "start": "10.1.2.10", "end": "10.1.2.20"}, "10.0.0.0/8"),
    ("pool elsewhere: the smallest with pool and server",
     {"own": "10.0.0.1/24", "start": "10.0.1.10", "end": "10.0.1.20"}, "10.0.0.0/23"),
    ("a pool half inside is not inside",
     {"own": "10.0.0.1/24", "start": "10.0.0.200", "end": "10.0.1.20"}, "10.0.0.0/23"),
    ("the smallest holds the gateway too",
     {"own": "10.0.0.1/24", "start": "10.0.1.10", "end": "10.0.1.20", "gateway": "10.0.7.1"},
     "10.0.0.0/21"),
    ("a host address says nothing: the smallest",
     {"own": "10.0.0.1/32", "start": "10.0.0.10", "end": "10.0.0.20"}, "10.0.0.0/27"),
    ("so does a point-to-point prefix",
     {"own": "10.0.0.1/31", "start": "10.0.0.10", "end": "10.0.0.20"}, "10.0.0.0/27"),
    ("an address that the interface does not have",
     {"listen": "172.16.0.1", "start": "172.16.0.10", "end": "172.16.0.20"}, "172.16.0.0/27"),
    ("no address at all, --listen given",
     {"own": "", "listen": "172.16.0.1", "start": "172.16.0.2", "end": "172.16.0.2"},
     "172.16.0.0/30"),
    ("the second address, by --listen",
     {"own": "192.0.2.1/24 198.51.100.1/25", "listen": "198.51.100.1",
      "start": "198.51.100.9", "end": "198.51.100.20"}, "198.51.100.0/25"),
    ("the first address where none is named",
     {"own": "192.0.2.1/24 198.51.100.1/25", "start": "192.0.2.9", "end": "192.0.2.20"},
     "192.0.2.0/24"),
    ("network and broadcast address are nobody's: one bit more",
     {"own": "10.0.0.1/32", "start": "10.0.0.2", "end": "10.0.0.3"}, "10.0.0.0/29"),
    ("the last address of a smaller net would be broadcast",
     {"own": "10.0.0.1/32", "start": "10.0.0.10", "end": "10.0.0.31"}, "10.0.0.0/26"),
    ("the first address of a smaller net would be its name",
     {"own": "10.0.0.40/32", "start": "10.0.0.32", "end": "10.0.0.36"}, "10.0.0.0/26"),
    ("--netmask wins over the interface",
     {"netmask": "255.255.0.0", "start": "192.0.9.1", "end": "192.0.9.9"}, "192.0.0.0/16"),
    ("--netmask may be narrower too",
     {"netmask": "255.255.255.128", "start": "192.0.2.9", "end": "192.0.2.20"}, "192.0.2.0/25"),
    ("the widest guess", {"own": "10.0.0.1/24", "start": "10.255.0.1", "end": "10.255.0.9"},
     "10.0.0.0/8"),
]


@pytest.mark.parametrize(("flags", "network"), [row[1:] for row in NETWORKS],
                         ids=[row[0] for row in NETWORKS])
def test_network(flags: dict[str, Any], network: str) -> None:
    found = resolved(**flags)
    subnet, pool = only(found)
    (served,) = found.served
    assert str(subnet.network) == network == found.networks[0].name
    assert found.networks[0].interface == "eth7"
    assert served.server in subnet.network and pool.start <= pool.end
    assert (served.network, served.subnet) == (0, 0)
    assert pool.start in subnet.network and pool.end in subnet.network


# name, flags, words that the message and its remedy must have
REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("no address to answer from", {"own": ""}, ["'eth7'", "--listen"]),
    ("no pool and no prefix", {"own": "10.0.0.1/32"}, ["--start-ip", "--end-ip"]),
    ("half a pool and no prefix", {"own": "10.0.0.1/32", "start": "10.0.0.9"},
     ["--start-ip", "--end-ip"]),
    ("ends before it starts", {"start": "192.0.2.20", "end": "192.0.2.10"},
     ["--start-ip 192.0.2.20", "--end-ip 192.0.2.10"]),
    ("starts behind the default end", {"start": "198.51.100.1"},
     ["--start-ip 198.51.100.1", "--end-ip 192.0.2.254"]),
    ("too large", {"own": "10.0.0.1/8", "start": "10.0.0.0", "end": "11.0.0.0"},
     ["16,777,217", "16,777,216", "--start-ip"]),
    ("nothing in common", {"start": "10.0.0.10", "end": "10.0.0.20"},
     ["10.0.0.10", "192.0.2.1", "--netmask", "--listen"]),
    ("start and end not in one network of the netmask",
     {"netmask": "255.255.255.0", "start": "192.0.1.10", "end": "192.0.2.20"},
     ["--end-ip 192.0.2.20", "192.0.1.0/24", "--netmask"]),
    ("end not in it", {"netmask": "255.255.255.0", "start": "192.0.2.10", "end": "192.0.3.20"},
     ["--end-ip 192.0.3.20", "192.0.2.0/24"]),
    ("gateway not in the interface's network", {"gateway": "192.0.3.1"},
     ["--gateway 192.0.3.1", "192.0.2.0/24", "--netmask"]),
    ("gateway not in the netmask's network", {"netmask": "255.255.255.0", "gateway": "10.0.0.1"},
     ["--gateway 10.0.0.1"]),
    ("a netmask with a hole", {"netmask": "255.0.255.0"}, ["--netmask 255.0.255.0"]),
    ("a wildcard mask is no netmask", {"netmask": "0.0.0.255"}, ["--netmask 0.0.0.255"]),
    ("a pool of our own address", {"start": "192.0.2.1", "end": "192.0.2.1"},
     ["192.0.2.1", "no address"]),
    ("a pool of nobody's addresses",
     {"start": "192.0.2.0", "end": "192.0.2.1"}, ["192.0.2.0", "no address"]),
]


@pytest.mark.parametrize(("flags", "words"), [row[1:] for row in REFUSED],
                         ids=[row[0] for row in REFUSED])
def test_refused_with_the_flag_named(flags: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        make_tables(resolved(**flags))
    said = f"{caught.value.what}\n{caught.value.remedy}"
    assert [word for word in words if word not in said] == []
    assert "\n" not in caught.value.what and "\n" not in caught.value.remedy


EXCLUDED_ROWS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("nothing of ours in the pool", {"start": "192.0.2.10", "end": "192.0.2.20"}, []),
    ("our own address", {"start": "192.0.2.1", "end": "192.0.2.20"}, ["192.0.2.1"]),
    ("the gateway", {"start": "192.0.2.10", "end": "192.0.2.20", "gateway": "192.0.2.20"},
     ["192.0.2.20"]),
    ("network and broadcast", {"start": "192.0.2.0", "end": "192.0.2.255"},
     ["192.0.2.0", "192.0.2.1", "192.0.2.255"]),
    ("the same address for two reasons",
     {"start": "192.0.2.0", "end": "192.0.2.9", "gateway": "192.0.2.1"},
     ["192.0.2.0", "192.0.2.1"]),
    ("gateway outside the pool", {"start": "192.0.2.10", "end": "192.0.2.20",
                                  "gateway": "192.0.2.254"}, []),
    ("the whole prefix", {}, ["192.0.2.1"]),
]


@pytest.mark.parametrize(("flags", "addresses"), [row[1:] for row in EXCLUDED_ROWS],
                         ids=[row[0] for row in EXCLUDED_ROWS])
def test_excluded_addresses(flags: dict[str, Any], addresses: list[str]) -> None:
    found = resolved(**flags)
    _, pool = only(found)
    leases = make_tables(found).world.leases
    rows = [int(IPv4Address(text)) - int(pool.start) for text in addresses]
    assert (leases.state == EXCLUDED).nonzero()[0].tolist() == rows
    assert len(leases.state) == int(pool.end) - int(pool.start) + 1
    assert leases.totals[EXCLUDED] == len(rows)


def test_the_whole_prefix() -> None:
    _, pool = only(resolved(own="10.9.0.1/20"))
    assert (str(pool.start), str(pool.end)) == ("10.9.0.1", "10.9.15.254")


def test_the_largest_pool() -> None:
    _, pool = only(resolved("10.0.0.1/7", "10.0.0.0", "10.255.255.255"))
    assert int(pool.end) - int(pool.start) + 1 == MOST_ADDRESSES


def test_the_gateway_is_an_option_of_the_subnet() -> None:
    subnet, _ = only(resolved(start="192.0.2.10", end="192.0.2.20", gateway="192.0.2.254"))
    assert subnet.settings.options == {3: bytes([192, 0, 2, 254])}
    subnet, _ = only(resolved(start="192.0.2.10", end="192.0.2.20"))
    assert subnet.settings.options == {}


def test_a_pool_behind_a_socket_need_not_be_near_our_address() -> None:
    flags = {"own": "127.0.0.1/8", "start": "10.0.0.10", "end": "10.0.0.20"}
    with pytest.raises(UserError):
        resolved(**flags)
    found = resolved(**flags, transport="udp")
    assert str(only(found)[0].network) == "10.0.0.0/27"
    assert found.served[0].server == IPv4Address("127.0.0.1")


def test_a_socket_for_all_addresses_has_none_of_its_own() -> None:
    everywhere = Interface("any", 0, bytes(6), 1500, (IPv4Interface("127.0.0.1/8"),
                                                      IPv4Interface("192.0.2.1/24")))
    config = Config(transport="udp", range=Range(ip("10.0.0.10"), ip("10.0.0.20")))
    (served,) = resolve(config, [everywhere]).served
    assert (served.server, served.network, served.subnet) == (None, 0, 0)
    with pytest.raises(UserError, match="no pool"):
        resolve(Config(transport="udp"), [everywhere])


# --- networks from a file ----------------------------------------------------------------------


def network(name: str, *prefixes: str, on: str = "") -> SharedNetwork:
    subnets = tuple(Subnet(IPv4Network(prefix), (Pool(IPv4Network(prefix)[4],
                                                      IPv4Network(prefix)[9]),))
                    for prefix in prefixes)
    return SharedNetwork(name, subnets, interface=on)


OFFICE = network("office", "10.1.0.0/24", "10.2.0.0/24")
LAB = network("lab", "10.3.0.0/24")
# name, networks, interfaces by name and addresses, (network, subnet) of each
ATTACHED: list[tuple[str, list[SharedNetwork], dict[str, str], list[tuple[int | None, ...]]]] = [
    ("by address", [OFFICE, LAB], {"a": "10.3.0.1/24"}, [(1, 2)]),
    ("by address, the second subnet", [OFFICE, LAB], {"a": "10.2.0.1/24"}, [(0, 1)]),
    ("by a second address", [OFFICE, LAB], {"a": "172.16.0.1/24 10.3.0.1/24"}, [(1, 2)]),
    ("two interfaces", [OFFICE, LAB], {"a": "10.3.0.1/24", "b": "10.1.0.1/24"},
     [(1, 2), (0, 0)]),
    ("by name, against the address", [OFFICE, network("lab", "10.3.0.0/24", on="a")],
     {"a": "10.1.0.1/24"}, [(1, 2)]),
    ("by name, the subnet by address", [LAB, network("office", "10.1.0.0/24", "10.2.0.0/24",
                                                     on="a")],
     {"a": "10.2.0.1/24"}, [(1, 2)]),
    ("by name, no address of it: its first subnet", [LAB, network(
        "office", "10.1.0.0/24", "10.2.0.0/24", on="a")], {"a": "172.16.0.1/24"}, [(1, 1)]),
    ("the only one there is", [OFFICE], {"a": "172.16.0.1/24"}, [(0, 0)]),
    ("of several, none: relays only", [OFFICE, LAB], {"a": "172.16.0.1/24"}, [(None, None)]),
    ("another's network is not this one's, whatever the address",
     [network("office", "10.1.0.0/24", on="b"), LAB], {"a": "10.1.0.1/24", "b": "10.3.0.1/24"},
     [(None, None), (0, 0)]),
]


@pytest.mark.parametrize(("networks", "interfaces", "places"), [row[1:] for row in ATTACHED],
                         ids=[row[0] for row in ATTACHED])
def test_where_clients_of_an_interface_are(networks: list[SharedNetwork],
                                           interfaces: dict[str, str],
                                           places: list[tuple[int | None, ...]]) -> None:
    config = Config(tuple(interfaces), networks=tuple(networks))
    found = resolve(config, [interface(own, name) for name, own in interfaces.items()])
    assert [(served.network, served.subnet) for served in found.served] == places
    assert found.networks == tuple(networks)


def test_a_network_on_an_interface_that_is_not_served() -> None:
    config = Config(("a",), networks=(network("lab", "10.3.0.0/24", on="b"),))
    with pytest.raises(UserError) as caught:
        resolve(config, [interface("10.3.0.1/24", "a")])
    assert "'b'" in caught.value.what and "--interface b" in caught.value.remedy


def test_subnets_are_numbered_network_by_network() -> None:
    found = resolve(Config(networks=(LAB, OFFICE)), [interface("10.3.0.1/24")])
    assert [str(subnet.network) for subnet in found.subnets] == [
        "10.3.0.0/24", "10.1.0.0/24", "10.2.0.0/24"]
