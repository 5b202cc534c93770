"""From a checked configuration to arrays: which address is whose, and what goes into replies."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fastpath.errors import UserError
from fastpath.interface import Interface
from fastpath.packet import Frame
from fastpath.wire import MessageType
from server.config import Resolved, Served, resolve
from server.decide import (
    P_AUTHORITATIVE,
    P_BOOTP,
    P_DECLINE_S,
    P_JOURNAL,
    P_MAX_CONCURRENT,
    P_MAX_HOPS,
    P_OFFER_S,
    P_RAPID_COMMIT,
    P_RELAY,
    P_STORING,
)
from server.leases import NONE, STATES
from server.model import (
    ClientClass,
    Config,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.places import address_of
from server.reply import (
    L_ANY,
    L_BROADCAST,
    L_CLIENT_PORT,
    L_MAC,
    L_MTU,
    L_NETWORK,
    L_SERVER,
    L_SERVER_PORT,
    L_SUBNET,
    L_TO_SENDER,
)
from server.tables import make_link, make_tables, merged
from tests import serving
from tests.configurations import configurations
from tests.kernels import examples, wraps
from tests.leasing import check
from tests.serving import SERVER, request

pytestmark = wraps

IP = IPv4Address
MAC = b"\x02\0\0\0\0\x01"
DISCOVER, OFFER = MessageType.DISCOVER, MessageType.OFFER
ROUTER = {3: IP("192.0.2.12").packed}


def pool(first: int, last: int, *exclude: tuple[int, int], **fields: Any) -> Pool:
    """Of 192.0.2.0/24."""
    net = int(IP("192.0.2.0"))
    return Pool(IP(net + first), IP(net + last),
                tuple((IP(net + low), IP(net + high)) for low, high in exclude), **fields)


def reserved(last: int, key: bytes = MAC, by: str = "chaddr", **settings: Any) -> Reservation:
    return Reservation(IP(int(IP("192.0.2.0")) + last), by, key, Settings(**settings))


def one(*pools: Pool, reservations: tuple[Reservation, ...] = (), prefix: str = "192.0.2.0/24",
        network: Settings | None = None, classes: tuple[ClientClass, ...] = (),
        whole: Settings | None = None, **settings: Any) -> Config:
    subnet = Subnet(IPv4Network(prefix), pools, reservations, Settings(**settings))
    return Config(networks=(SharedNetwork("one", (subnet,), network or Settings()),),
                  classes=classes, settings=whole or Settings())


def states(config: Config, served: tuple[Served, ...] = ()) -> dict[str, str]:
    """{address: state} of all that are not free."""
    world = make_tables(Resolved(config, served)).world
    check(world.leases, world.wheel)
    return {str(IP(int(address_of(world.places, world.leases, row)))): STATES[state]
            for row, state in enumerate(world.leases.state.tolist()) if STATES[state] != "free"}


def lasts(found: dict[str, str], state: str) -> list[int]:
    return [int(at.rpartition(".")[2]) for at, is_ in found.items() if is_ == state]


# name, configuration, last octets of what is excluded, and reserved
WHOSE: list[tuple[str, Config, list[int], list[int]]] = [
    ("nothing", one(pool(10, 20)), [], []),
    ("ranges of the pool", one(pool(10, 20, (11, 13), (20, 20))), [11, 12, 13, 20], []),
    ("ranges that overlap", one(pool(10, 20, (11, 13), (12, 14))), [11, 12, 13, 14], []),
    ("a range beyond the pool", one(pool(10, 20, (5, 11), (19, 30))), [10, 11, 19, 20], []),
    ("all but one", one(pool(10, 20, (10, 14), (16, 20))), [*range(10, 15), *range(16, 21)], []),
    ("one pool's range is not another's", one(pool(10, 12, (11, 11)), pool(13, 15)), [11], []),
    ("network and broadcast address", one(pool(0, 255)), [0, 255], []),
    ("not of a /31 (RFC 3021)", one(pool(0, 1), prefix="192.0.2.0/31"), [], []),
    ("not of a /32", one(pool(7, 7), prefix="192.0.2.7/32"), [], []),
    ("the subnet's router", one(pool(10, 20), options=ROUTER), [12], []),
    ("the network's", one(pool(10, 20), network=Settings(options=ROUTER)), [12], []),
    ("the server's", one(pool(10, 20), whole=Settings(options=ROUTER)), [12], []),
    ("the pool's", one(pool(10, 20, settings=Settings(options=ROUTER))), [12], []),
    ("a class's", one(pool(10, 20), classes=(ClientClass("x", (), Settings(options=ROUTER)),)),
     [12], []),
    ("a reservation's", one(pool(10, 20), reservations=(reserved(30, options=ROUTER),)), [12],
     [30]),
    ("two routers", one(pool(10, 20), options={3: ROUTER[3] + IP("192.0.2.13").packed}),
     [12, 13], []),
    ("a router in hex that is no address", one(pool(10, 20), options={3: b"\xc0\0"}), [], []),
    ("one and a half", one(pool(10, 20), options={3: ROUTER[3] + b"\xc0\0"}), [12], []),
    ("a reservation in the pool", one(pool(10, 20), reservations=(reserved(15),)), [], [15]),
    ("outside the pool", one(pool(10, 20), reservations=(reserved(9), reserved(21, b"x" * 6))), [],
     [9, 21]),
    ("in the pool, which leaves it out", one(pool(10, 20, (15, 16)), reservations=(reserved(15),)),
     [16], [15]),
    ("of the router: nobody's", one(pool(10, 20), reservations=(reserved(12),), options=ROUTER),
     [12], []),
    ("no pool at all", one(reservations=(reserved(9),)), [], [9]),
]


@pytest.mark.parametrize(("config", "excluded", "kept"), [row[1:] for row in WHOSE],
                         ids=[row[0] for row in WHOSE])
def test_whose_addresses_are(config: Config, excluded: list[int], kept: list[int]) -> None:
    found = states(config)
    assert lasts(found, "excluded") == excluded
    assert lasts(found, "reserved") == kept


def test_our_own_addresses_are_nobody_s() -> None:
    interface = Interface("eth7", 7, MAC, 1500, (IPv4Interface("192.0.2.10/24"),
                                                 IPv4Interface("192.0.2.11/24")))
    served = (Served(interface, IP("192.0.2.12"), 0, 0), Served(interface, None, 0, 0))
    config = one(pool(10, 20), reservations=(reserved(11),))
    assert lasts(states(config, served), "excluded") == [10, 11, 12]


@pytest.mark.parametrize("config", [
    one(), one(pool(10, 20, (10, 20))), one(pool(12, 12), options=ROUTER),
    one(pool(0, 0), pool(255, 255)), one(reservations=(reserved(12),), options=ROUTER),
    Config(networks=())])
def test_no_address_for_anybody(config: Config) -> None:
    with pytest.raises(UserError, match="no address"):
        make_tables(Resolved(config, ()))


def test_too_many_classes() -> None:
    classes = tuple(ClientClass(str(i), ()) for i in range(61))
    with pytest.raises(UserError, match="61 classes"):
        make_tables(Resolved(one(pool(10, 20), classes=classes), ()))


@examples(150, 50)
@given(configurations())
def test_any_configuration(config: Config) -> None:
    tables = make_tables(Resolved(config, ()))
    world, places = tables.world, tables.world.places
    check(world.leases, world.wheel)
    pools = [(n, one) for n, network in enumerate(config.networks)
             for subnet in network.subnets for one in subnet.pools]
    names = [one.name for one in config.classes]
    for number, (network, each) in enumerate(pools):
        low, after = places.network_pools[network]
        assert low <= number < after
        first, end = places.subnet_pools[places.pool_subnet[number]]
        assert first <= number < end
        assert places.pool_classes[number] == sum(1 << names.index(name) for name in each.only)
        # The numbers of the spans are those of the pools, whatever the order of addresses.
        at = [i for i, span in enumerate(places.span_first) if span == int(each.start)
              and world.leases.pool[i] != NONE]
        assert [int(world.leases.pool[i]) for i in at] == [number]
        assert places.span_last[at[0]] == int(each.end)
    assert places.network_pools[-1, 1] == len(pools) == len(world.leases.ends)
    assert (np.diff(places.span_first) > 0).all()
    assert (places.span_first[1:] > places.span_last[:-1]).all()


def test_thousands_of_reservations_are_read_quickly() -> None:
    """Time grows with their number, not with its square."""
    net, count = 0x0A000000, 4000
    entries = tuple(Reservation(IP(net + (1 << 16) + 2 * i), "chaddr", i.to_bytes(6, "big"))
                    for i in range(count))
    out = tuple((IP(net + 2 * i), IP(net + 2 * i)) for i in range(1, count))
    subnet = Subnet(IPv4Network((net, 8)), (Pool(IP(net + 1), IP(net + 65000), out),), entries)
    config = Config(networks=(SharedNetwork("x", (subnet,)),))
    began = time.process_time()
    tables = make_tables(Resolved(config, ()))
    assert time.process_time() - began < 10
    assert tables.world.leases.totals[STATES.index("reserved")] == count
    assert tables.world.leases.totals[STATES.index("excluded")] == count - 1


def test_merged() -> None:
    first = Settings(lease_time_s=1, boot_file="x", options={1: b"a", 2: b"b"})
    second = Settings(lease_time_s=2, next_server=IP("192.0.2.1"), options={2: b"c"})
    assert merged(first, second) == Settings(
        lease_time_s=2, boot_file="x", next_server=IP("192.0.2.1"), options={1: b"a", 2: b"c"})
    assert merged() == Settings() and merged(first, Settings()) == first


def test_policy() -> None:
    config = Config(networks=one(pool(10, 20)).networks, offer_hold_s=11, decline_hold_s=22,
                    authoritative=False, rapid_commit=True, bootp=True, relay=False, max_hops=9,
                    max_concurrent=33)
    policy = make_tables(Resolved(config, ())).world.policy
    assert {cell: int(policy[cell]) for cell in range(len(policy))} == {
        P_OFFER_S: 11, P_DECLINE_S: 22, P_AUTHORITATIVE: 0, P_RAPID_COMMIT: 1, P_BOOTP: 1,
        P_RELAY: 0, P_MAX_HOPS: 9, P_MAX_CONCURRENT: 33, P_STORING: 1, P_JOURNAL: 0}


# --- the link ----------------------------------------------------------------------------------


def link_of(config: Config, own: str = "192.0.2.1/24", mtu: int = 1500) -> Any:
    interface = Interface("eth7", 7, MAC, mtu, (IPv4Interface(own),))
    found = resolve(config, [interface])
    return make_link(found, found.served[0])


def test_numbers_of_a_link() -> None:
    config = Config(networks=one(pool(10, 20)).networks, port=1067)
    numbers = link_of(config, mtu=1400).numbers
    assert int(numbers[L_MAC]).to_bytes(6, "big") == MAC
    assert {cell: int(numbers[cell]) for cell in (
        L_SERVER, L_MTU, L_SERVER_PORT, L_CLIENT_PORT, L_NETWORK, L_SUBNET, L_ANY, L_TO_SENDER,
        L_BROADCAST)} == {
        L_SERVER: 0xC0000201, L_MTU: 1400, L_SERVER_PORT: 1067, L_CLIENT_PORT: 1068, L_NETWORK: 0,
        L_SUBNET: 0, L_ANY: 0, L_TO_SENDER: 0, L_BROADCAST: 0xC00002FF}


@pytest.mark.parametrize("prefix", ["192.0.2.0/31", "192.0.2.1/32"])
def test_a_host_is_no_broadcast_address(prefix: str) -> None:
    """What is sent to the other host of a /31 (RFC 3021) is not for us."""
    config = one(reservations=(reserved(1),), prefix=prefix)
    assert link_of(config, "192.0.2.0/31").numbers[L_BROADCAST] == 0xFFFFFFFF


def test_a_link_where_nothing_is_configured() -> None:
    config = Config(networks=(*one(pool(10, 20)).networks, SharedNetwork("two", (Subnet(
        IPv4Network("10.0.0.0/24"), (Pool(IP("10.0.0.4"), IP("10.0.0.9")),)),))))
    numbers = link_of(config, "172.16.0.1/24").numbers
    assert (numbers[L_NETWORK], numbers[L_SUBNET], numbers[L_BROADCAST]) == (
        NONE, NONE, 0xFFFFFFFF)


@pytest.mark.parametrize("mtu", [1500, 1501, 9000, 65536])
def test_a_large_mtu_does_not_make_replies_larger_than_a_slot(mtu: int) -> None:
    assert link_of(one(pool(10, 20)), mtu=mtu).numbers[L_MTU] <= 1500


def test_template() -> None:
    octets = link_of(Config(networks=one(pool(10, 20)).networks, port=1067)).template.tobytes()
    assert len(octets) == 20 + 8 + 240
    frame = Frame.decode(bytes(12) + b"\x08\0" + octets.ljust(328, b"\0"), ports={0},
                         checksum_ready=False)
    assert (frame.src_ip, frame.src_port) == (IP("192.0.2.1"), 1067)
    assert octets[28:32] == bytes([2, 1, 6, 0]) and not any(octets[32:264])


# --- as a client sees it -----------------------------------------------------------------------

CIRCUIT, LONG = b"slot 3 port 17", b"\0" + b"long" * 60


@pytest.mark.parametrize(("by", "key", "asked"), [
    ("chaddr", b"\2\0\0\0\0\7", {"chaddr": b"\2\0\0\0\0\7"}),
    ("client-id", b"\0server-room", {"options": {61: b"\0server-room"}}),
    ("client-id", LONG, {"options": {61: LONG}}),
    ("circuit-id", CIRCUIT, {"options": {82: b"\2\3abc\1" + bytes([len(CIRCUIT)]) + CIRCUIT}}),
    ("circuit-id", LONG, {"options": {82: b"\1" + bytes([len(LONG)]) + LONG + b"\2\3abc"}}),
    ("circuit-id", b"", {"options": {82: b"\1\0"}}),
])
@pytest.mark.parametrize("inside", [True, False])
def test_a_reservation_by_every_kind_of_key(by: str, key: bytes, asked: dict[str, Any],
                                            inside: bool) -> None:
    at = 15 if inside else 77
    config = one(pool(10, 20), reservations=(reserved(at, key, by, lease_time_s=4321),))
    server = serving.Served(config)
    other = server.must(request(DISCOVER)).message
    assert other.yiaddr == IP("192.0.2.10")
    reply = server.must(request(DISCOVER, **{"mac": b"\2\0\0\0\0\7", **{
        name: value for name, value in asked.items() if name == "options"}})).message
    assert str(reply.yiaddr) == f"192.0.2.{at}"
    assert reply.options[51] == (4321).to_bytes(4, "big")
    assert reply.options[1] == bytes([255, 255, 255, 0]) and reply.options[54] == SERVER.packed


def test_a_class_by_vendor_and_user_class() -> None:
    match = (Match(60, "starts-with", b"PXE"), Match(77, "is", b"iPXE"))
    classes = (ClientClass("boot", match, Settings(boot_file="first.efi")),)
    config = one(pool(10, 10, only=("boot",)), pool(20, 20), classes=classes)
    server = serving.Served(config)
    for options, at, file in (({}, 20, b""), ({60: b"PXEClient:Arch:7"}, 10, b"first.efi")):
        reply = server.must(request(DISCOVER, bytes([2, 0, 0, 0, 0, at]), options=options)).message
        assert (reply.yiaddr, reply.file.rstrip(b"\0")) == (IP(f"192.0.2.{at}"), file)


def test_a_long_option_goes_out_in_pieces() -> None:
    """RFC 3396 section 5."""
    server = serving.Served(one(pool(10, 10), options={120: bytes(300), 121: b""}))
    reply = server.must(request(DISCOVER, options={57: b"\5\xdc"}))
    assert reply.message.options[120] == bytes(300)
    assert reply.main_codes.count(120) == 2
