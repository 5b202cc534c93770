"""Datagrams into slots and out of them: this test plays recvmmsg and sendmmsg (socket(7), ip(7)).

The one thing to know: the kernels are given a false address of their slots, so that what they
tell the system to write to or read from can be checked to lie inside the right slot.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment"

from __future__ import annotations

import socket
import struct
from collections import deque
from ipaddress import IPv4Address
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath.frame import IP_HEADER as BAD_IP_HEADER
from fastpath.frame import OK, check_frame
from fastpath.packet import Frame
from fastpath.slots import (
    G_COUNT,
    G_FRAME,
    RX_CSUM_NOT_READY,
    RX_USER,
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
from fastpath.udp_slots import (
    NOTHING,
    RX_CONTROL,
    RX_FRAME,
    RX_PAYLOAD,
    TX_CONTROL,
    WRONG_FORMAT,
    Batch,
    make_batch,
    rx_arm,
    rx_land,
    tx_free,
    tx_load,
)
from tests.kernels import examples, wraps

pytestmark = wraps

SIZE = 512
ROOM = SIZE - RX_PAYLOAD
TX_FRAME = 32
AT = 0x7F00_0000_0000
# struct mmsghdr: name, its length, iovec, how many, control, its length, flags, length.
MMSGHDR = struct.Struct("=QI4xQQQQi4xI4x")
SOCKADDR = struct.Struct("=H2s4s8x")
ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IPv4Address)
HOSTS = st.integers(1, 0xDFFFFFFF).map(IPv4Address)
PORTS = st.integers(0, 0xFFFF)


def slots_of(count: int) -> Slots:
    return make_slots(np.zeros(count * SIZE, np.uint8), SIZE, TX_FRAME)


def cmsg(level: int, kind: int, data: bytes) -> bytes:
    """One ancillary message, padded to 8 octets (cmsg(3))."""
    return struct.pack("=Qii", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)


class Datagram(NamedTuple):
    payload: bytes
    peer: tuple[IPv4Address, int]
    to: IPv4Address = IPv4Address("192.0.2.1")
    stamp: tuple[int, int] = (1_700_000_000, 123_456_789)

    def control(self) -> bytes:
        pktinfo = struct.pack("=i4s4s", 3, b"\x0a\0\0\x01", self.to.packed)
        return (cmsg(socket.SOL_SOCKET, 35, struct.pack("=qq", *self.stamp))
                + cmsg(socket.IPPROTO_IP, 8, pktinfo))


PAYLOADS = st.binary(max_size=40) | st.integers(ROOM - 2, ROOM + 40).map(lambda n: b"\x5a" * n)
DATAGRAMS = st.builds(Datagram, PAYLOADS, st.tuples(ADDRESSES, PORTS),
                      ADDRESSES, st.tuples(st.integers(0, 2**32 - 1),
                                           st.integers(0, 999_999_999)))


def poke(memory: npt.NDArray[np.generic], at: int, octets: bytes) -> None:
    flat = memory.reshape(-1).view(np.uint8)
    assert at >= 0 and at + len(octets) <= len(flat)
    flat[at:at + len(octets)] = np.frombuffer(octets, np.uint8)


def header(batch: Batch, i: int) -> tuple[int, ...]:
    return MMSGHDR.unpack_from(batch.longs.tobytes(), i * MMSGHDR.size)


def receive(rx: Slots, batch: Batch, i: int, datagram: Datagram, control: bytes | None = None,
            ) -> None:
    """What recvmmsg does with element `i` of the batch, called with MSG_TRUNC."""
    name, namelen, iov, iovlen, control_at, room, _, _ = header(batch, i)
    assert (namelen, iovlen, room) == (16, 1, RX_CONTROL)
    assert iov == batch.vectors.ctypes.data + i * 16
    base, length = (int(n) for n in batch.vectors[i])
    poke(rx.mem, base - AT, datagram.payload[:length])
    address, port = datagram.peer
    poke(batch.names, name - batch.names.ctypes.data,
         SOCKADDR.pack(socket.AF_INET, port.to_bytes(2, "big"), address.packed))
    messages = datagram.control() if control is None else control
    cut = len(messages) > room
    poke(batch.control, control_at - batch.control.ctypes.data, messages[:room])
    batch.longs[i, 5] = min(len(messages), room)
    batch.words[i, 12] = (0x20 if len(datagram.payload) > length else 0) | (8 if cut else 0)
    batch.words[i, 14] = len(datagram.payload)


def frame_twin(datagram: Datagram, port: int) -> bytes:
    """The frame around a datagram by the readable codec, its UDP checksum left out."""
    source, source_port = datagram.peer
    made = Frame(dst_mac=bytes(6), src_ip=source, dst_ip=datagram.to, src_port=source_port,
                 dst_port=port, payload=datagram.payload).encode()
    return made[:40] + b"\0\0" + made[42:]


@given(st.lists(DATAGRAMS, min_size=1, max_size=6), st.integers(1, 65535), st.data())
@examples(600, 100)
def test_a_datagram_becomes_a_frame(datagrams: list[Datagram], port: int, data: st.DataObject,
                                    ) -> None:
    """Octet for octet the codec's, and sound, wherever the ring wraps and whatever lay there."""
    count = data.draw(st.integers(len(datagrams), 8), "slots")
    tail = data.draw(st.integers(0, count - 1), "tail")
    rx, batch = slots_of(count), make_batch(len(datagrams), RX_CONTROL)
    rx.mem[:] = 0xA5
    rx.words[::SIZE // 4] = 0
    assert rx_arm(rx, tail, batch, AT) == len(datagrams)
    for i, datagram in enumerate(datagrams):
        receive(rx, batch, i, datagram)
    assert rx_land(rx, tail, batch, len(datagrams), port) == (tail + len(datagrams)) % count
    for i, datagram in enumerate(datagrams):
        base = (tail + i) % count * SIZE
        whole = frame_twin(datagram, port)
        start, end = rx_bounds(rx, base)
        assert rx.mem[start:end].tobytes() == whole[:SIZE - RX_FRAME]
        status, length, snaplen, mac, net = struct.unpack_from("=IIIHH", rx.mem.tobytes(), base)
        assert (status, length) == (RX_USER | RX_CSUM_NOT_READY, len(whole))
        assert (snaplen, mac, net) == (min(len(whole), SIZE - RX_FRAME), RX_FRAME, RX_FRAME + 14)
        assert rx_stamp_ns(rx, base) == datagram.stamp[0] * 10**9 + datagram.stamp[1]
        assert rx_outer_tag(rx, base) == -1
        reason, _, payload, after = check_frame(rx.mem, start, end, 0,
                                                rx_checksum_ready(rx, base), port, port)
        if len(datagram.payload) > ROOM:
            assert reason == BAD_IP_HEADER
        else:
            assert reason == OK
            assert rx.mem[payload:after].tobytes() == datagram.payload
    untouched = [i for i in range(count) if (i - tail) % count >= len(datagrams)]
    for i in untouched:
        assert not rx.words[i * SIZE >> 2]
        assert (rx.mem[i * SIZE + 4:(i + 1) * SIZE] == 0xA5).all()


def test_the_longest_datagram_that_there_is() -> None:
    """65,507 octets: its frame's lengths still fit their fields."""
    rx, batch = slots_of(2), make_batch(1, RX_CONTROL)
    rx_arm(rx, 0, batch, AT)
    receive(rx, batch, 0, Datagram(bytes(65507), (IPv4Address("192.0.2.9"), 68)))
    rx_land(rx, 0, batch, 1, 67)
    start, end = rx_bounds(rx, 0)
    assert end == SIZE and not rx.mem[SIZE:].any()
    assert rx.mem[start + 16:start + 18].tobytes() == b"\xff\xff"
    assert check_frame(rx.mem, start, end, 0, False, 67, 67)[0] == BAD_IP_HEADER


@given(st.binary(max_size=RX_CONTROL + 8) | st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([8, 35, 29]),
              st.sampled_from([0, 3, 11, 12, 15, 16, 20]).flatmap(
                  lambda n: st.binary(min_size=n, max_size=n))),
    max_size=4).map(lambda several: b"".join(cmsg(*one) for one in several)))
@examples(1000, 150)
def test_any_ancillary_data(control: bytes) -> None:
    """Foreign, short, damaged or cut: what is not there reads as zeros; nothing else changes."""
    rx, batch = slots_of(1), make_batch(2, RX_CONTROL)
    datagram = Datagram(b"hello", (IPv4Address("192.0.2.9"), 68))
    for before in (None, control):  # an earlier datagram's are still in the memory
        rx_arm(rx, 0, batch, AT)
        receive(rx, batch, 0, datagram, before)
    rx.mem[4:RX_PAYLOAD] = 0xA5
    rx_land(rx, 0, batch, 1, 67)
    to, stamp = control_twin(control[:RX_CONTROL])
    start, end = rx_bounds(rx, 0)
    assert rx.mem[start:end].tobytes() == frame_twin(datagram._replace(to=to), 67)
    assert (int(rx.words[4]), int(rx.words[5])) == stamp


def control_twin(control: bytes) -> tuple[IPv4Address, tuple[int, int]]:
    to, stamp = IPv4Address(0), (0, 0)
    while len(control) >= 16:
        length, level, kind = struct.unpack_from("=QII", control)
        # The kernel compares as signed numbers: a length over 2^63 is none.
        if not 16 <= length <= len(control):
            break
        if (level, kind) == (1, 35) and length >= 32:
            seconds, nanoseconds = struct.unpack_from("=QQ", control, 16)
            stamp = seconds & 0xFFFFFFFF, nanoseconds & 0xFFFFFFFF
        elif (level, kind) == (0, 8) and length >= 28:
            to = IPv4Address(control[24:28])
        control = control[(length + 7) // 8 * 8:]
    return to, stamp


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(1, 12), st.data())
@examples(500, 150)
def test_only_free_slots_are_offered(taken: list[bool], most: int, data: st.DataObject) -> None:
    """And only until the first that its reader still has, however many are free behind it."""
    count = len(taken)
    tail = data.draw(st.integers(0, count - 1))
    rx, batch = slots_of(count), make_batch(most, RX_CONTROL)
    for i, held in enumerate(taken):
        rx.words[i * SIZE >> 2] = RX_USER if held else 0
    before = rx.mem.copy()
    order = [(tail + i) % count for i in range(count)]
    free = next((i for i, slot in enumerate(order) if taken[slot]), count)
    offered = rx_arm(rx, tail, batch, AT)
    assert offered == min(free, most)
    for i in range(offered):
        assert tuple(batch.vectors[i]) == (AT + order[i] * SIZE + RX_PAYLOAD, ROOM)
    assert (rx.mem == before).all()


def test_a_batch_is_armed_anew() -> None:
    """recvmmsg leaves its own lengths behind; the next one must find ours."""
    rx, batch = slots_of(3), make_batch(1, RX_CONTROL)
    tail = 0
    for text in (b"one", b"", b"three"):
        assert rx_arm(rx, tail, batch, AT) == 1
        datagram = Datagram(text, (IPv4Address("192.0.2.9"), 68))
        receive(rx, batch, 0, datagram, b"" if text == b"one" else None)
        batch.words[0, 2] = 0
        tail = rx_land(rx, tail, batch, 1, 67)
    assert rx_arm(rx, tail, batch, AT) == 0
    ends = [rx_bounds(rx, i * SIZE)[1] - i * SIZE - RX_PAYLOAD for i in range(3)]
    assert ends == [3, 0, 5]


def queue(tx: Slots, octets: bytes) -> None:
    start = tx_start(tx)
    assert start >= 0
    tx.mem[start:start + len(octets)] = np.frombuffer(octets, np.uint8)
    tx_commit(tx, len(octets))


class Sent(NamedTuple):
    to: IPv4Address
    port: int
    source: IPv4Address | None
    payload: bytes


def described(tx: Slots, batch: Batch, i: int) -> Sent:
    """What sendmmsg would make of element `i` of the batch."""
    name, namelen, iov, iovlen, control_at, controllen, _, _ = header(batch, i)
    assert (namelen, iovlen) == (16, 1) and iov == batch.vectors.ctypes.data + i * 16
    family, port, address = SOCKADDR.unpack_from(batch.names.tobytes(),
                                                 name - batch.names.ctypes.data)
    assert family == socket.AF_INET
    at, length = int(batch.vectors[i, 0]) - AT, int(batch.vectors[i, 1])
    assert length >= 0 and at // SIZE == (at + max(0, length - 1)) // SIZE
    source = None
    if controllen:
        control = batch.control.tobytes()[control_at - batch.control.ctypes.data:][:controllen]
        size, level, kind, index, spec, addr = struct.unpack("=Qiii4s4s4x", control)
        assert (size, level, kind, index) == (28, socket.IPPROTO_IP, 8, 0) and addr == bytes(4)
        source = IPv4Address(spec)
    return Sent(IPv4Address(address), int.from_bytes(port, "big"), source,
                tx.mem[at:at + length].tobytes())


def datagram_twin(frame: bytes) -> Sent | None:
    """The datagram in a frame, read the slow way; None where there is none."""
    packet = frame[12:]
    for _ in range(2):
        if packet[:2] in (b"\x81\0", b"\x88\xa8"):
            packet = packet[4:]
    if len(frame) < 42 or packet[:2] != b"\x08\0" or len(packet) < 30:
        return None
    packet = packet[2:]
    size = packet[0] % 16 * 4
    udp = packet[size:]
    if packet[0] // 16 != 4 or size < 20 or packet[9] != 17 or len(udp) < 8:
        return None
    length = int.from_bytes(udp[4:6], "big")
    if not 8 <= length <= len(udp):
        return None
    source = IPv4Address(packet[12:16])
    hosts = 0 < int(source) < 0xE0000000
    station = frame[:6] != bytes(6) and not frame[0] & 1
    to = IPv4Address("255.255.255.255") if station else IPv4Address(packet[16:20])
    return Sent(to, int.from_bytes(udp[2:4], "big"), source if hosts else None, udp[8:length])


FRAMES = st.builds(
    Frame, dst_mac=st.sampled_from([bytes(6), b"\xff" * 6, b"\x02abcde", b"\x01\0\x5e\0\0\1",
                                    b"\0\0\0\0\0\1"]),
    vlans=st.lists(st.integers(0, 0xFFFF), max_size=2).map(tuple),
    src_ip=HOSTS | st.sampled_from([IPv4Address(0), IPv4Address("255.255.255.255"),
                                    IPv4Address("224.0.0.1"), IPv4Address("223.255.255.255")]),
    dst_ip=ADDRESSES, src_port=PORTS, dst_port=PORTS,
    payload=st.binary(max_size=SIZE - TX_FRAME - 50)).map(Frame.encode)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with an octet changed, or cut short; mostly no datagram any more."""
    made = bytearray(draw(FRAMES))
    at = draw(st.integers(12, min(len(made), 52) - 1))
    if draw(st.booleans()):
        return bytes(made[:draw(st.integers(0, len(made)))])
    made[at] = draw(st.integers(0, 255))
    return bytes(made)


@given(st.lists(FRAMES | damaged(), max_size=6), st.integers(1, 8), st.data())
@examples(1000, 150)
def test_a_frame_becomes_a_datagram(frames: list[bytes], most: int, data: st.DataObject) -> None:
    """In order, until the batch is full or a frame is none; that one is told in its turn."""
    count = data.draw(st.integers(max(1, len(frames)), 7), "slots")
    tail = data.draw(st.integers(0, count - 1), "tail")
    tx, batch = slots_of(count), make_batch(most, TX_CONTROL)
    tx.mem[:] = 0xA5
    tx.words[::SIZE // 4] = TX_AVAILABLE
    tx.geometry[2] = tail
    for frame in frames:
        queue(tx, frame)
    expected = [datagram_twin(frame) for frame in frames]
    got: list[Sent | None] = []
    while (loaded := tx_load(tx, tail, batch, AT)) != NOTHING:
        if loaded == WRONG_FORMAT:
            got.append(None)
            loaded = 1
        else:
            assert loaded <= most
            got += [described(tx, batch, i) for i in range(loaded)]
        tail = tx_free(tx, tail, loaded)
    assert got == expected
    assert tail == tx.geometry[2] and not tx.words[::SIZE // 4].any()


def test_a_length_beyond_the_slot_is_no_licence_to_read_on() -> None:
    tx, batch = slots_of(2), make_batch(4, TX_CONTROL)
    whole = bytearray(Frame(payload=bytes(SIZE - TX_FRAME - 42)).encode())
    queue(tx, bytes(whole))
    tx.words[1] = 0xFFFFFFFF
    assert tx_load(tx, 0, batch, AT) == 1
    assert int(batch.vectors[0].sum()) == AT + SIZE
    # One octet more, as the UDP header says, would be the next slot's.
    at = TX_FRAME + 38
    tx.mem[at:at + 2] = list((len(whole) - 34 + 1).to_bytes(2, "big"))
    assert tx_load(tx, 0, batch, AT) == WRONG_FORMAT


def test_a_lead_is_stepped_over() -> None:
    tx = make_slots(np.zeros(2 * SIZE, np.uint8), SIZE, TX_FRAME, 10)
    batch = make_batch(4, TX_CONTROL)
    queue(tx, Frame(payload=b"hello").encode())
    assert tx_load(tx, 0, batch, AT) == 1
    assert described(tx, batch, 0).payload == b"hello"
    assert tx.geometry[G_FRAME] == TX_FRAME


class Program(RuleBasedStateMachine):
    """A reader and a writer on one side, a socket that takes what it likes on the other.

    in_socket, in_slots: received numbers, oldest first; queued: numbers not yet sent.
    """

    @initialize(count=st.integers(1, 5), most=st.integers(1, 7))
    def make(self, count: int, most: int) -> None:
        self.rx, self.tx = slots_of(count), slots_of(count)
        self.incoming, self.outgoing = make_batch(most, RX_CONTROL), make_batch(most, TX_CONTROL)
        self.rx_tail = self.tx_tail = self.number = 0
        self.in_socket: deque[int] = deque()
        self.in_slots: deque[int] = deque()
        self.queued: deque[int] = deque()

    def _next(self) -> int:
        self.number += 1
        return self.number

    @rule(count=st.integers(1, 6))
    def datagrams_come(self, count: int) -> None:
        self.in_socket.extend(self._next() for _ in range(count))

    @rule()
    def pull(self) -> None:
        room = rx_arm(self.rx, self.rx_tail, self.incoming, AT)
        free = int(self.rx.geometry[G_COUNT]) - len(self.in_slots)
        assert room == min(free, len(self.incoming.longs))
        count = min(room, len(self.in_socket))
        for i in range(count):
            number = self.in_socket.popleft()
            receive(self.rx, self.incoming, i,
                    Datagram(str(number).encode(), (IPv4Address("192.0.2.9"), 68)))
            self.in_slots.append(number)
        self.rx_tail = rx_land(self.rx, self.rx_tail, self.incoming, count, 67)

    @rule(count=st.integers(0, 5))
    def release(self, count: int) -> None:
        count = min(count, len(self.in_slots))
        rx_release(self.rx, count)
        for _ in range(count):
            self.in_slots.popleft()

    @rule()
    def write(self) -> None:
        if len(self.queued) == self.tx.geometry[G_COUNT]:
            assert tx_start(self.tx) == -1
            return
        number = self._next()
        queue(self.tx, Frame(payload=str(number).encode()).encode())
        self.queued.append(number)

    @rule(most=st.integers(0, 6))
    def the_socket_takes(self, most: int) -> None:
        loaded = tx_load(self.tx, self.tx_tail, self.outgoing, AT)
        assert loaded == min(len(self.queued), len(self.outgoing.longs))
        taken = min(most, loaded)
        for i in range(taken):
            sent = described(self.tx, self.outgoing, i)
            assert sent.payload == str(self.queued.popleft()).encode()
        self.tx_tail = tx_free(self.tx, self.tx_tail, taken)

    @invariant()
    def slots_hold_what_was_not_released(self) -> None:
        for ahead, number in enumerate(self.in_slots):
            base = rx_peek(self.rx, ahead)
            start, end = rx_bounds(self.rx, base)
            assert self.rx.mem[start + 42:end].tobytes() == str(number).encode()
        if len(self.in_slots) < self.rx.geometry[G_COUNT]:
            assert rx_peek(self.rx, len(self.in_slots)) == -1
        waiting = int((self.tx.words[::SIZE // 4] == TX_SEND_REQUEST).sum())
        assert waiting == len(self.queued)


Program.TestCase.settings = examples(60, 25)
TestProgram = Program.TestCase
