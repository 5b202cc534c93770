"""dhcp-server in a hostile network: ten million generated and mutated packets, and floods.

The one thing to know: DHCP_NETLAB_FUZZ_PACKETS says how many packets (a million at least, for rare
roads to be taken), DHCP_NETLAB_FUZZ_SEED which;
`python -m tests.fuzzing --packets N --seed S` does the same without pytest and prints counts.
`tests.unit.test_fuzz_short` has the interpreted variant, with every access to memory checked.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.slots import TX_AVAILABLE, make_slots
from fastpath.wire import REASON_NAMES, MessageType
from server.arrays import MOST_BATCH
from server.decide import CAUSES
from server.engine import serve
from server.leases import BOUND, OFFERED
from tests.arena import CANARY, Arena
from tests.fuzzing import Run
from tests.inspection import TX_SLOTS, flood
from tests.kernels import COMPILED
from tests.leasing import check
from tests.mutation import SLOT_NUMBERS, make_chance
from tests.serving import CLIENT_MAC, IP, LEAD, TX_FRAME, Served, bind, request

pytestmark = pytest.mark.skipif(not COMPILED, reason="millions of packets need compiled kernels")

PACKETS = int(os.environ.get("DHCP_NETLAB_FUZZ_PACKETS", "10000000"))
SEED = int(os.environ.get("DHCP_NETLAB_FUZZ_SEED", "1"))
# A tenth of what a slow machine with two cores does.
LEAST_PER_S, MOST_GROWTH_KIB = 20_000, 4096
DISCOVER, REQUEST = MessageType.DISCOVER, MessageType.REQUEST


@pytest.mark.parametrize(("udp", "share"), [(False, 60), (True, 15)], ids=["packet", "udp"])
def test_every_reply_to_hostile_packets_is_the_clients_own(udp: bool, share: int) -> None:
    """No crash, no hang, nothing written outside, no secret told, and every road was taken."""
    packets = PACKETS * share // 100
    report = Run(SEED, udp=udp).go(packets)
    assert set(REASON_NAMES) - set(report.refused) == {"ok", "incomplete"}, report
    assert set(CAUSES) == set(report.causes), report
    # Types of leasequery are met by mutation alone, so rarely.
    assert set(report.received) >= {str(kind) for kind in (*range(10), 18)}, report
    assert not report.doubts and report.replies > packets // 8, report
    assert min(report.hits.values()) > packets // 10_000, report
    assert report.memory_growth_kib < MOST_GROWTH_KIB, report
    assert report.seconds < 60 + packets / LEAST_PER_S, report


def test_replies_spoilt_on_purpose_are_spoilt_as_told_and_no_further() -> None:
    packets = PACKETS // 4
    report = Run(SEED + 1, spoiling=True).go(packets)
    hits = report.hits
    # A corrupt option makes all behind it unreadable; of the others one fault spoils one thing.
    assert 0 < report.doubts["xid"] <= hits["wrong-xid"], report
    assert 0 < report.doubts["client_id"] <= hits["missing-option 61"], report
    assert 0 < report.doubts["relay"] <= hits["missing-option 82"], report
    assert 0 < report.doubts["options"] <= sum(
        count for name, count in hits.items() if name.startswith("corrupt")), report
    assert report.memory_growth_kib < MOST_GROWTH_KIB, report
    assert report.seconds < 60 + packets / LEAST_PER_S, report


def test_a_flood_of_strangers_takes_nothing_from_bound_clients() -> None:
    """Two million DISCOVERs with random hardware and identifiers; the pool recovers after."""
    bound, free = 200, 40
    server = Served({"end": IP("192.0.2.249"), "offer_hold_s": 3, "lease_time_s": 3600})
    macs = [CLIENT_MAC[:4] + i.to_bytes(2, "big") for i in range(bound)]
    addresses = {mac: bind(server, mac) for mac in macs}
    rx = make_slots(np.zeros(SLOT_NUMBERS * SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
    tx = make_slots(np.full(TX_SLOTS * SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, TX_FRAME, LEAD)
    arena = Arena((server.tables, rx, tx))
    server.tables, rx, tx = arena.tree
    leases = server.leases = server.tables.world.leases
    octets = bytearray(Frame(payload=request(DISCOVER, options={61: bytes(6)}).encode()).encode())
    octets[40:42] = bytes(2)  # no UDP checksum
    template = np.frombuffer(bytes(octets), np.uint8)
    identifier, chance = octets.index(b"\x3d\x06"), make_chance(SEED)
    most_offered = 0

    def renew() -> None:
        for mac, address in addresses.items():
            ack = server.must(request(REQUEST, mac, ciaddr=address)).message
            assert (ack.type, ack.yiaddr) == (MessageType.ACK, address)

    for number in range(0, PACKETS // 5, MOST_BATCH):
        flood(template, 42, identifier, rx, number, MOST_BATCH, chance)
        tx.words[::SLOT_SIZE // 4] = TX_AVAILABLE
        server.now_s += 1
        read, _ = serve(rx, tx, server.tables, server.link, server.now_s, 0, 0, MOST_BATCH)
        assert read == MOST_BATCH and leases.totals[BOUND] == bound
        most_offered = max(most_offered, int(leases.totals[OFFERED]))
        if number // MOST_BATCH % 1000 == 0:
            renew()
            arena.check()
            check(leases, server.tables.world.wheel)
    assert most_offered == free
    assert server.causes()["no_free_address"] > PACKETS // 10
    renew()
    server.now_s += 10
    serve(rx, tx, server.tables, server.link, server.now_s, 0, 0, MOST_BATCH)
    assert leases.totals[OFFERED] == 0, "offers outlive the flood"
    assert int(bind(server, b"\2later")) not in map(int, addresses.values())
    assert leases.totals[BOUND] == bound + 1
    check(leases, server.tables.world.wheel)
