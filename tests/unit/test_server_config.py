"""From flags to a checked subnet, and from there to the arrays of the server."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from fastpath.errors import UserError
from fastpath.interface import Interface
from fastpath.packet import Frame
from server.config import (
    MOST_ADDRESSES,
    ServerConfig,
    Subnet,
    configured_options,
    resolve,
    template,
)
from server.decide import P_FIRST, P_LAST, P_NETMASK, P_SERVER
from server.leases import COUNTS, EXCLUDED, STATES
from server.reply import N_CLIENT_PORT, N_LEASE_S, N_MAC, N_MTU, N_SERVER_PORT, N_T1_S, N_T2_S
from server.tables import make_tables

MAC = b"\x02\0\0\0\0\x01"


def ip(text: str | None) -> IPv4Address | None:
    return IPv4Address(text) if text else None


def resolved(own: str = "192.0.2.1/24", start: str = "", end: str = "", *, mtu: int = 1500,
             dns: tuple[str, ...] = (), listen: str = "", netmask: str = "", gateway: str = "",
             **fields: Any) -> Subnet:
    """own: the interface's addresses with prefixes, by spaces."""
    addresses = tuple(IPv4Interface(text) for text in own.split())
    config = ServerConfig("eth7", ip(start), ip(end), ip(listen), netmask=ip(netmask),
                          gateway=ip(gateway), dns=tuple(map(IPv4Address, dns)), **fields)
    return resolve(config, Interface("eth7", 7, MAC, mtu, addresses))


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
    subnet = resolved(**flags)
    assert str(subnet.network) == network
    assert subnet.server in subnet.network and subnet.start <= subnet.end
    assert configured_options(subnet)[1] == subnet.network.netmask.packed
    assert configured_options(subnet)[28] == subnet.network.broadcast_address.packed


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
    ("start not in the netmask's network",
     {"netmask": "255.255.255.0", "start": "192.0.1.10", "end": "192.0.2.20"},
     ["--start-ip 192.0.1.10", "192.0.2.0/24", "--netmask"]),
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
        resolved(**flags)
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
    subnet = resolved(**flags)
    rows = [int(IPv4Address(text)) - subnet.first for text in addresses]
    assert subnet.excluded() == rows
    leases = make_tables(subnet).leases
    assert (leases.state == EXCLUDED).nonzero()[0].tolist() == rows
    assert leases.queue[COUNTS:].sum() == len(leases.state) == subnet.addresses
    assert leases.queue[COUNTS + STATES.index("excluded")] == len(rows)


def test_the_whole_prefix() -> None:
    subnet = resolved(own="10.9.0.1/20")
    assert (str(subnet.start), str(subnet.end), subnet.addresses) \
        == ("10.9.0.1", "10.9.15.254", 4094)


def test_the_largest_pool() -> None:
    subnet = resolved("10.0.0.1/7", "10.0.0.0", "10.255.255.255")
    assert subnet.addresses == MOST_ADDRESSES


def test_options_that_are_given() -> None:
    plain = resolved(start="192.0.2.10", end="192.0.2.20")
    assert list(configured_options(plain)) == [1, 28]
    full = resolved(start="192.0.2.10", end="192.0.2.20", gateway="192.0.2.254",
                    dns=("192.0.2.53", "198.51.100.53"))
    assert configured_options(full) == {
        1: bytes([255, 255, 255, 0]), 3: bytes([192, 0, 2, 254]),
        6: bytes([192, 0, 2, 53, 198, 51, 100, 53]), 28: bytes([192, 0, 2, 255])}


def test_template() -> None:
    subnet = resolved(port=1067)
    octets = template(subnet).tobytes()
    assert len(octets) == 20 + 8 + 240
    frame = Frame.decode(bytes(12) + b"\x08\0" + octets.ljust(328, b"\0"), ports={0},
                         checksum_ready=False)
    assert (frame.src_ip, frame.src_port) == (subnet.server, 1067)
    assert octets[28:32] == bytes([2, 1, 6, 0]) and not any(octets[32:264])


def test_numbers_of_the_server() -> None:
    tables = make_tables(resolved(start="192.0.2.10", end="192.0.2.20", lease_time_s=1000,
                                  port=1067, mtu=1400))
    numbers, policy = tables.reply.numbers, tables.policy
    assert (numbers[N_LEASE_S], numbers[N_T1_S], numbers[N_T2_S]) == (1000, 500, 875)
    assert (numbers[N_SERVER_PORT], numbers[N_CLIENT_PORT], numbers[N_MTU]) == (1067, 1068, 1400)
    assert int(numbers[N_MAC]).to_bytes(6, "big") == MAC
    assert [int(policy[cell]) for cell in (P_FIRST, P_LAST, P_SERVER, P_NETMASK)] \
        == [0xC000020A, 0xC0000214, 0xC0000201, 0xFFFFFF00]


@pytest.mark.parametrize("mtu", [1500, 1501, 9000, 65536])
def test_a_large_mtu_does_not_make_replies_larger_than_a_slot(mtu: int) -> None:
    assert make_tables(resolved(mtu=mtu)).reply.numbers[N_MTU] <= 1500
