"""Places and reservations against naive twins: a linear search, and a dict."""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.siphash import Words
from server.config import Resolved
from server.leases import BY_CHADDR, BY_CIRCUIT_ID, BY_CLIENT_ID, LONG, NONE
from server.model import Config, Pool, Reservation, SharedNetwork, Subnet
from server.places import (
    address_of,
    find_reserved,
    find_subnet,
    make_reserved,
    network_of,
    reserve,
    row_at,
)
from server.tables import make_tables
from tests.configurations import configurations
from tests.kernels import examples, wraps

pytestmark = wraps

TOP = 0xFFFFFFFF


def around(config: Config) -> set[int]:
    """Every border of a subnet, pool or reservation, and its neighbours."""
    found = {0, 1, 0x7FFFFFFF, 0x80000000, TOP - 1, TOP}
    for network in config.networks:
        for subnet in network.subnets:
            borders = [subnet.network[0], subnet.network[-1]]
            borders += [at for pool in subnet.pools for at in (pool.start, pool.end)]
            borders += [one.address for one in subnet.reservations]
            found |= {int(at) + step for at in borders for step in (-1, 0, 1)}
    return {at for at in found if 0 <= at <= TOP}


def compare(config: Config) -> None:
    """All kernels for all borders, against a look at everything."""
    world = make_tables(Resolved(config, ())).world
    subnets = [(number, subnet) for number, network in enumerate(config.networks)
               for subnet in network.subnets]
    ours = {at for _, subnet in subnets for pool in subnet.pools
            for at in range(int(pool.start), int(pool.end) + 1)}
    ours |= {int(one.address) for _, subnet in subnets for one in subnet.reservations}
    # Rows follow one another in the order of addresses.
    rows = {at: row for row, at in enumerate(sorted(ours))}
    for at in around(config):
        inside = [i for i, (_, subnet) in enumerate(subnets)
                  if int(subnet.network[0]) <= at <= int(subnet.network[-1])]
        assert find_subnet(world.places, at) == (inside[0] if inside else NONE)
        assert network_of(world.places, at) == (subnets[inside[0]][0] if inside else NONE)
        assert row_at(world.places, world.leases, at) == rows.get(at, NONE)
    for at, row in rows.items():
        assert address_of(world.places, world.leases, row) == at


@examples(200, 60)
@given(configurations())
def test_places(config: Config) -> None:
    compare(config)


def one(network: str, *pools: tuple[str, str], reservations: tuple[str, ...] = ()) -> Subnet:
    ip = IPv4Address
    keys = (Reservation(ip(at), "chaddr", bytes([2, 0, 0, 0, 0, i]))
            for i, at in enumerate(reservations))
    return Subnet(IPv4Network(network), tuple(Pool(ip(low), ip(high)) for low, high in pools),
                  tuple(keys))


EDGES: list[tuple[str, list[list[Subnet]]]] = [
    ("a /31: both are hosts (RFC 3021)", [[one("192.0.2.0/31", ("192.0.2.0", "192.0.2.1"))]]),
    ("a /32", [[one("192.0.2.7/32", ("192.0.2.7", "192.0.2.7"))]]),
    ("the end of the address space", [[one("255.255.255.0/24", ("255.255.255.1",
                                                              "255.255.255.255"))]]),
    ("the beginning of it", [[one("0.0.0.0/8", ("0.0.0.0", "0.0.0.9"))]]),
    ("around the sign", [[one("127.255.255.0/24", ("127.255.255.250", "127.255.255.255")),
                          one("128.0.0.0/24", ("128.0.0.0", "128.0.0.3"))]]),
    ("out of order, side by side", [[one("192.0.2.128/25", ("192.0.2.128", "192.0.2.130"))],
                                    [one("192.0.2.0/25", ("192.0.2.120", "192.0.2.127"))],
                                    [one("192.0.1.0/24", ("192.0.1.250", "192.0.1.255"))]]),
    ("reservations only", [[one("192.0.2.0/24", reservations=("192.0.2.9", "192.0.2.7"))]]),
    ("reservations around a pool", [[one("192.0.2.0/24", ("192.0.2.10", "192.0.2.12"),
                                        reservations=("192.0.2.13", "192.0.2.9", "192.0.2.11"))]]),
    ("a subnet with nothing", [[one("192.0.3.0/24"), one("192.0.2.0/24", ("192.0.2.4",
                                                                        "192.0.2.5"))]]),
]


@pytest.mark.parametrize("networks", [row[1] for row in EDGES], ids=[row[0] for row in EDGES])
def test_edges(networks: list[list[Subnet]]) -> None:
    compare(Config(networks=tuple(SharedNetwork(str(i), tuple(subnets))
                                  for i, subnets in enumerate(networks))))


def identities(count: int) -> Words:
    who = np.zeros((count, 4), np.uint64)
    who[:, 0] = 1
    for number in range(count):
        who[number, number % 4] += np.uint64(number + 1) << np.uint64(8)
    return who


@examples(200, 60)
@given(st.lists(st.integers(0, 29), unique=True, max_size=20), st.sampled_from([1, 2, 32]))
def test_reservations(known: list[int], buckets: int) -> None:
    """Every one is found by its owner only, also where all meet in one bucket."""
    who, key = identities(30), np.array([1, 2], np.uint64)
    reserved = make_reserved(len(known))
    reserved = reserved._replace(bucket=np.full(buckets, NONE, np.int32))
    twin = {number: index for index, number in enumerate(known)}
    for number, index in twin.items():
        reserve(reserved, key, index, who[number], 100 + number)
    for number in range(30):
        index = twin.get(number, NONE)
        assert find_reserved(reserved, key, who[number]) == index
        assert index == NONE or reserved.row[index] == 100 + number


@pytest.mark.parametrize("kind", [BY_CHADDR, BY_CLIENT_ID, BY_CIRCUIT_ID])
@pytest.mark.parametrize("long", [0, LONG])
def test_kinds_of_reservations_are_known(kind: int, long: int) -> None:
    reserved, key = make_reserved(1), np.array([1, 2], np.uint64)
    assert reserved.kinds[0] == 0
    reserve(reserved, key, 0, np.array([kind | long | 99 << 8, 1, 2, 3], np.uint64), 7)
    assert reserved.kinds[0] == 1 << kind


def test_no_reservations() -> None:
    assert find_reserved(make_reserved(0), np.array([1, 2], np.uint64), identities(1)[0]) == NONE
