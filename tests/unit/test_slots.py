"""Slots on plain memory: this test plays the kernel's side of the ring (linux/if_packet.h)."""

from __future__ import annotations

import struct
from collections import deque

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath.slots import (
    G_COUNT,
    G_HEAD,
    RX_CSUM_NOT_READY,
    RX_USER,
    RX_VLAN_VALID,
    TX_AVAILABLE,
    TX_SEND_REQUEST,
    Slots,
    make_slots,
    rx_bounds,
    rx_checksum_ready,
    rx_outer_tag,
    rx_peek,
    rx_release,
    rx_stamp_ns,
    tx_commit,
    tx_start,
)
from tests.kernels import examples

SIZE = 256
TX_FRAME, LEAD = 32, 10
# struct tpacket2_hdr: status, len, snaplen, mac, net, sec, nsec, vlan_tci, vlan_tpid, padding.
HEADER = struct.Struct("=IIIHHIIHH4x")


def octets(count: int) -> npt.NDArray[np.uint8]:
    return np.zeros(count * SIZE, np.uint8)


def fill(slots: Slots, index: int, *, status: int = RX_USER, length: int = 60,
         snaplen: int | None = None, mac: int = 66, sec: int = 0, nsec: int = 0, tci: int = 0,
         tpid: int = 0) -> None:
    """What the kernel writes into a slot when a frame has come."""
    header = HEADER.pack(status, length, length if snaplen is None else snaplen, mac, mac + 14,
                         sec, nsec, tci, tpid)
    slots.mem[index * SIZE:index * SIZE + len(header)] = np.frombuffer(header, np.uint8)


def test_header_is_32_octets() -> None:
    assert HEADER.size == 32


@pytest.mark.parametrize(("fields", "bounds"), [
    ({"length": 342}, (66, 66 + 190)),  # cut at the end of the slot, whatever the header says
    ({"length": 60}, (66, 126)),
    ({"length": 1500, "snaplen": 100}, (66, 166)),
    ({"mac": 80, "length": 0}, (80, 80)),
    ({"snaplen": 0xFFFFFFFF}, (66, SIZE)),
    ({"mac": 82, "snaplen": SIZE - 82}, (82, SIZE)),
])
@pytest.mark.parametrize("index", [0, 3])
def test_bounds_stay_inside_the_slot(fields: dict[str, int], bounds: tuple[int, int],
                                     index: int) -> None:
    rx = make_slots(octets(4), SIZE, 0)
    fill(rx, index, **fields)
    base = index * SIZE
    assert rx_bounds(rx, base) == (base + bounds[0], base + bounds[1])


@pytest.mark.parametrize("index", [0, 2])
def test_what_stands_in_a_header(index: int) -> None:
    rx = make_slots(octets(4), SIZE, 0)
    base = index * SIZE
    fill(rx, index, sec=0xFFFFFFFF, nsec=999_999_999, tci=0xFFFF, tpid=0x88A8)
    assert rx_stamp_ns(rx, base) == 0xFFFFFFFF * 10**9 + 999_999_999
    assert rx_outer_tag(rx, base) == -1
    assert rx_checksum_ready(rx, base)
    fill(rx, index, status=RX_USER | RX_VLAN_VALID | RX_CSUM_NOT_READY, tci=0xFFFF, tpid=0x88A8)
    assert rx_outer_tag(rx, base) == 0x88A8FFFF
    assert not rx_checksum_ready(rx, base)
    # A priority tag: VLAN 0 is a tag too.
    fill(rx, index, status=RX_USER | RX_VLAN_VALID, tci=0, tpid=0x8100)
    assert rx_outer_tag(rx, base) == 0x81000000


def test_a_frame_to_send_stands_where_the_kernel_looks() -> None:
    """`lead` octets of virtio_net_hdr, whose hdr_len is the whole frame, then the frame."""
    mem = octets(2)
    tx = make_slots(mem, SIZE, TX_FRAME, LEAD)
    assert tx_start(tx) == TX_FRAME + LEAD
    tx_commit(tx, 200)
    status, length, *_ = HEADER.unpack_from(mem.tobytes())
    assert (status, length) == (TX_SEND_REQUEST, 200 + LEAD)
    assert mem[TX_FRAME:TX_FRAME + LEAD].tobytes() == struct.pack("=BBHHHH", 0, 0, 200, 0, 0, 0)
    plain = make_slots(octets(2), SIZE, TX_FRAME)
    assert tx_start(plain) == TX_FRAME
    tx_commit(plain, 200)
    assert HEADER.unpack_from(plain.mem.tobytes())[:2] == (TX_SEND_REQUEST, 200)
    assert not plain.mem[32:].any()


def test_views_are_of_the_same_memory() -> None:
    mem = octets(3)
    slots = make_slots(mem, SIZE, 0)
    mem[:] = np.arange(len(mem)) & 0xFF
    assert slots.words[1] == 0x07060504 and slots.halves[1] == 0x0302
    assert slots.geometry[G_COUNT] == 3


class BothSides(RuleBasedStateMachine):
    """A receive and a transmit ring of `count` slots, with deques for twins.

    waiting: lengths of received frames, oldest first, of which `rx_head` is the oldest's slot.
    sending: lengths handed to the kernel and not yet sent; it sends from `tx_tail` on.
    """

    @initialize(count=st.integers(1, 5))
    def make(self, count: int) -> None:
        self.count = count
        self.rx = make_slots(octets(count), SIZE, 0)
        self.tx = make_slots(octets(count), SIZE, TX_FRAME, LEAD)
        self.waiting: deque[int] = deque()
        self.sending: deque[int] = deque()
        self.rx_head = self.tx_tail = 0

    @rule(length=st.integers(1, 150), status=st.sampled_from([1, 9, 17, 25]))
    def a_frame_comes(self, length: int, status: int) -> None:
        if len(self.waiting) < self.count:
            fill(self.rx, (self.rx_head + len(self.waiting)) % self.count, length=length,
                 status=status)
            self.waiting.append(length)

    @rule(count=st.integers(0, 5))
    def release(self, count: int) -> None:
        count = min(count, len(self.waiting))
        rx_release(self.rx, count)
        for _ in range(count):
            self.waiting.popleft()
        self.rx_head = (self.rx_head + count) % self.count

    @rule(length=st.integers(1, 150))
    def send(self, length: int) -> None:
        to = tx_start(self.tx)
        if len(self.sending) == self.count:
            assert to == -1
            return
        slot = (self.tx_tail + len(self.sending)) % self.count
        assert to == slot * SIZE + TX_FRAME + LEAD
        tx_commit(self.tx, length)
        self.sending.append(length)

    @rule(count=st.integers(0, 5))
    def the_kernel_sends(self, count: int) -> None:
        for _ in range(min(count, len(self.sending))):
            status, length, *_ = HEADER.unpack_from(self.tx.mem.tobytes(), self.tx_tail * SIZE)
            assert (status, length) == (TX_SEND_REQUEST, self.sending.popleft() + LEAD)
            self.tx.words[self.tx_tail * SIZE >> 2] = TX_AVAILABLE
            self.tx_tail = (self.tx_tail + 1) % self.count

    @invariant()
    def what_waits_is_seen_in_order(self) -> None:
        for ahead in range(self.count):
            base = rx_peek(self.rx, ahead)
            if ahead >= len(self.waiting):
                assert base == -1
                continue
            assert base == (self.rx_head + ahead) % self.count * SIZE
            assert rx_bounds(self.rx, base) == (base + 66, base + 66 + self.waiting[ahead])
        assert self.rx.geometry[G_HEAD] == self.rx_head
        assert 0 <= self.tx.geometry[G_HEAD] < self.count


BothSides.TestCase.settings = examples(80, 40)
TestBothSides = BothSides.TestCase
