"""What is written of a decision for the lease file, read back by a decoder of its own.

The one thing to know: `records` knows the layout from the documentation of `server.record`
alone, as struct and slices; nothing of that module's code is used to read.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.faultmodel import Fault
from fastpath.message import Message
from fastpath.wire import MessageType
from server.arrays import PEN_RECORDS, PEN_USED
from server.decide import P_JOURNAL, P_STORING
from server.model import Config, Pool, Reservation, SharedNetwork, Subnet
from tests.kernels import examples, several, wraps
from tests.serving import CLIENT_MAC, OURS, Served, bind, request, told, wants

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
FIRST = IP("192.0.2.10")
FREE, BOUND, DECLINED = 0, 2, 3
NEVER = (1 << 63) - 1
NOW = 1_900_000_000


@dataclass(frozen=True)
class Record:
    address: IPv4Address
    state: int
    prefix: int
    htype: int
    chaddr: bytes
    ends: int
    written: int
    client_id: bytes
    lease_s: int


def records(data: bytes) -> list[Record]:
    found = []
    while data:
        address, state, prefix, htype, hlen = struct.unpack("<IBBBB", data[:8])
        ends, written, length, nothing, lease_s = struct.unpack("<qqHHI", data[24:48])
        whole = 48 + -(-length // 8) * 8
        assert nothing == 0 and len(data) >= whole
        assert not any(data[8 + hlen:24]) and not any(data[48 + length:whole]), "padding"
        found.append(Record(IP(address), state, prefix, htype, data[8:8 + hlen], ends, written,
                            data[48:48 + length], lease_s))
        data = data[whole:]
    return found


def journalled(config: Config | None = None, **fields: object) -> Served:
    server = Served(config or told(fields), now_s=NOW)
    server.tables.world.policy[P_JOURNAL] = 1
    # What an earlier batch left there.
    server.tables.pen.mem[:] = 0xA5
    return server


def written(server: Served) -> list[Record]:
    pen = server.tables.pen
    found = records(pen.mem[:pen.state[PEN_USED]].tobytes())
    assert len(found) == pen.state[PEN_RECORDS]
    assert (pen.mem[pen.state[PEN_USED]:] == 0xA5).all()
    return found


def last(server: Served) -> Record:
    return written(server)[-1]


def lease(address: IPv4Address = FIRST, lease_s: int = 3600, **fields: object) -> Record:
    given = {"client_id": b"", "chaddr": CLIENT_MAC, "htype": 1, "ends": NOW + lease_s + 1}
    return Record(**{"address": address, "state": BOUND, "prefix": 24, "written": NOW,  # type: ignore[arg-type]
                     "lease_s": lease_s, **given, **fields})


# --- each kind of message ------------------------------------------------------------------------


def test_offer_and_nak_write_nothing() -> None:
    server = journalled()
    assert server.must(request(DISCOVER)).message.type == OFFER
    assert server.must(request(REQUEST, options={**OURS, **wants(IP("192.0.2.55"))})
                       ).message.type == NAK
    assert server.must(request(INFORM, ciaddr=IP("192.0.2.55"))).message.type == ACK
    assert written(server) == []


def test_an_ack_is_written_and_a_renewal_again() -> None:
    server = journalled()
    bind(server)
    assert written(server) == [lease()]
    server.now_s = NOW + 100
    server.must(request(REQUEST, ciaddr=FIRST, options={51: (7200).to_bytes(4, "big")}))
    again = server.must(request(REQUEST, ciaddr=FIRST)).message
    assert again.type == ACK
    assert written(server)[1:] == [
        lease(ends=NOW + 100 + 3600 + 1, written=NOW + 100)] * 2


def test_a_rapid_commit_is_written() -> None:
    server = journalled(rapid_commit=True)
    assert server.must(request(DISCOVER, options={80: b""})).message.type == ACK
    assert written(server) == [lease()]


def test_an_offer_to_who_has_a_lease_is_not_written() -> None:
    server = journalled(lease_time_s=60, offer_hold_s=300)
    bind(server)
    count = len(written(server))
    assert server.must(request(DISCOVER)).message.type == OFFER
    assert len(written(server)) == count


def test_a_release_leaves_no_claim() -> None:
    server = journalled()
    bind(server, options={61: b"\0somebody"})
    assert last(server).client_id == b"\0somebody"
    server.ask(request(RELEASE, ciaddr=FIRST, options={**OURS, 61: b"\0somebody"}))
    assert last(server) == lease(state=FREE, ends=0, lease_s=0, chaddr=b"", htype=0)


def test_a_decline_locks_the_address_and_names_nobody() -> None:
    server = journalled(decline_hold_s=600)
    bind(server)
    server.ask(request(DECLINE, options={**OURS, **wants(FIRST)}))
    assert last(server) == lease(state=DECLINED, ends=NOW + 601, lease_s=0, chaddr=b"", htype=0)


def test_for_ever() -> None:
    server = journalled(lease_time_s=0xFFFFFFFF)
    bind(server)
    assert last(server) == lease(lease_s=0xFFFFFFFF, ends=NEVER)


@pytest.mark.parametrize("lease_s", [1, 60, 1 << 31, 0xFFFFFFFF - NOW - 2])
def test_lease_times(lease_s: int) -> None:
    server = journalled(lease_time_s=lease_s, min_lease_time_s=1)
    bind(server)
    assert last(server) == lease(lease_s=lease_s)


def test_what_ends_after_all_clocks_never_ends() -> None:
    """The table keeps ends in 32 bits; never too early."""
    server = journalled(lease_time_s=0xFFFFFFFE)
    bind(server)
    assert last(server).ends == NEVER


@pytest.mark.parametrize("mac", [b"", b"\1", bytes(range(6)), bytes(range(1, 17))])
@pytest.mark.parametrize("htype", [1, 6, 255])
def test_hardware_addresses(mac: bytes, htype: int) -> None:
    server = journalled()
    bind(server, mac, htype=htype, options={61: b"\0id"})
    assert last(server) == lease(chaddr=mac, htype=htype, client_id=b"\0id")


@pytest.mark.parametrize("size", [2, 7, 8, 9, 30, 31, 32, 255, 256, 511, 900])
def test_long_client_identifiers(size: int) -> None:
    """RFC 3396: joined from their pieces; padded to 8 octets with zeros."""
    identifier = bytes(1 + i % 251 for i in range(size))
    server = journalled()
    bind(server, options={61: identifier})
    assert written(server) == [lease(client_id=identifier)]


def test_the_prefix_is_of_the_addresss_own_subnet() -> None:
    subnets = (Subnet(IPv4Network("10.9.0.0/20"), (Pool(IP("10.9.1.0"), IP("10.9.1.9")),)),
               Subnet(IPv4Network("192.0.2.0/24"), (Pool(FIRST, IP("192.0.2.99")),)))
    server = journalled(Config(("eth7",), networks=(SharedNetwork("wire", subnets),)))
    bind(server, options=wants(IP("10.9.1.3")))
    assert (last(server).address, last(server).prefix) == (IP("10.9.1.3"), 20)
    bind(server, b"\2other")
    assert (last(server).address, last(server).prefix) == (FIRST, 24)


def test_bootp_is_written_for_ever() -> None:
    subnet = Subnet(IPv4Network("192.0.2.0/24"), (Pool(FIRST, IP("192.0.2.99")),),
                    (Reservation(IP("192.0.2.200"), "chaddr", CLIENT_MAC),))
    server = journalled(Config(("eth7",), networks=(SharedNetwork("one", (subnet,)),), bootp=True))
    for payload in (Message(chaddr=CLIENT_MAC), Message(chaddr=CLIENT_MAC, options={12: b"old"})):
        server.ask(payload, typed=False)
        assert last(server) == lease(IP("192.0.2.200"), 0xFFFFFFFF, ends=NEVER)


def test_a_reservation_given_back_is_free() -> None:
    subnet = Subnet(IPv4Network("192.0.2.0/24"), (Pool(FIRST, IP("192.0.2.99")),),
                    (Reservation(IP("192.0.2.200"), "chaddr", CLIENT_MAC),))
    server = journalled(Config(("eth7",), networks=(SharedNetwork("one", (subnet,)),)))
    assert bind(server) == IP("192.0.2.200")
    server.ask(request(RELEASE, ciaddr=IP("192.0.2.200"), options=OURS))
    assert (last(server).state, last(server).ends) == (FREE, 0)


# --- when nothing may be promised ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, RELEASE, DECLINE])
def test_what_cannot_be_stored_is_neither_done_nor_written(kind: MessageType) -> None:
    server = journalled()
    bind(server)
    before, count = server.leases.state.tolist(), len(written(server))
    server.tables.world.policy[P_STORING] = 0
    said = {**OURS, **wants(FIRST)} if kind in (REQUEST, DECLINE) else OURS
    assert server.ask(request(kind, ciaddr=FIRST if kind == RELEASE else IP(0),
                              options=said)) is None
    assert server.causes()["not_stored"] == 1
    assert (server.leases.state.tolist(), len(written(server))) == (before, count)
    assert server.must(request(INFORM, ciaddr=FIRST)).message.type == ACK


def test_without_a_lease_file_nothing_is_written() -> None:
    server = Served()
    bind(server)
    assert server.tables.pen.state.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["drop", "delay", "duplicate", "wrong-xid"])
def test_a_faulty_ack_is_written_once(kind: str) -> None:
    server = journalled(faults=(Fault(kind, frozenset(["ack"]), delay_s=1.0),))
    server.must(request(DISCOVER))
    server.batch(request(REQUEST, options={**OURS, **wants(FIRST)}))
    assert written(server) == [lease()]


def test_a_refused_request_is_not_written() -> None:
    server = journalled(faults=(Fault("nak"),))
    server.must(request(DISCOVER))
    assert server.must(request(REQUEST, options={**OURS, **wants(FIRST)})).message.type == NAK
    assert written(server) == []


# --- many in one batch ---------------------------------------------------------------------------


def test_a_batch_stops_before_the_pen_is_full() -> None:
    """What does not fit waits in the receive ring: a lease is never granted unrecorded."""
    server = journalled()
    identifiers = [bytes([1, i]) * 560 for i in range(20)]
    asked = [request(REQUEST, ciaddr=IP(int(FIRST) + i), options={61: identifiers[i]})
             for i in range(20)]
    granted = 0
    while granted < 20:
        frames = server.batch(*asked[granted:], slots=32)
        assert 0 < server.read == len(frames)
        assert [r.client_id for r in written(server)] == identifiers[granted:granted + server.read]
        granted += server.read
        server.tables.pen.state[:] = 0
        server.tables.pen.mem[:] = 0xA5
    assert int((server.leases.state == BOUND).sum()) == 20


class Twin:
    """The table as the records tell it: the last word about each address counts."""

    def __init__(self) -> None:
        self.told: dict[IPv4Address, Record] = {}

    def check(self, server: Served) -> None:
        pen = server.tables.pen
        for record in records(pen.mem[:pen.state[PEN_USED]].tobytes()):
            self.told[record.address] = record
        pen.state[:] = 0
        leases = server.leases
        for row in (leases.state == BOUND).nonzero()[0].tolist():
            record = self.told[IP(int(FIRST) + row)]
            assert record.state == BOUND
            # A DISCOVER holds a lease that is about to end as long as an offer, and no longer.
            assert 0 <= int(leases.expires_s[row]) - record.ends <= OFFER_HOLD_S


OFFER_HOLD_S = 5
STEPS = st.lists(st.tuples(st.sampled_from(["offer", "bind", "renew", "release", "decline"]),
                           st.integers(0, 5), st.integers(0, 400)), max_size=25)


@given(steps=STEPS)
@examples(150, 25)
def test_the_records_tell_all_of_the_table(steps: list[tuple[str, int, int]]) -> None:
    server, twin = journalled(end=IP("192.0.2.17"), offer_hold_s=OFFER_HOLD_S, decline_hold_s=100,
                              lease_time_s=300), Twin()
    had: dict[int, IPv4Address] = {}
    for what, who, wait_s in steps:
        mac = bytes([2, 0, 0, 0, 0, who])
        server.now_s += wait_s if what == "offer" else wait_s % 3
        address = had.get(who, FIRST)
        if what in ("offer", "bind"):
            offer = server.ask(request(DISCOVER, mac))
            if offer and what == "bind":
                had[who] = offer.message.yiaddr
                server.ask(request(REQUEST, mac, options={**OURS, **wants(had[who])}))
        elif what == "renew":
            server.ask(request(REQUEST, mac, ciaddr=address))
        elif what == "release":
            server.ask(request(RELEASE, mac, ciaddr=address, options=OURS))
        else:
            server.ask(request(DECLINE, mac, options={**OURS, **wants(address)}))
        twin.check(server)


def test_records_of_random_clients() -> None:
    chance = random.Random(12)
    server = journalled()
    for i in range(several(80, 40)):
        mac = chance.randbytes(chance.choice([1, 6, 16]))
        identifier = chance.choice([b"", chance.randbytes(chance.randrange(2, 400))])
        options = {61: identifier} if identifier else {}
        address = bind(server, mac, htype=i, options=options)
        assert server.tables.pen.state[PEN_USED] % 8 == 0
        assert last(server) == lease(address, chaddr=mac, htype=i, client_id=identifier)
        server.tables.pen.state[:] = 0
        server.tables.pen.mem[:] = 0xA5
