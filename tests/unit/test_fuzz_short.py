"""The fuzz run in short, every access to memory checked; and that the run would notice.

The one thing to know: `tests.faults.test_fuzz` has the same at full length. Here its mutations
are held against a naive twin, and its inspection against replies that are wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from fastpath.frame import make_options
from fastpath.message import Message
from fastpath.packet import Frame, checksum
from fastpath.ring import SLOT_SIZE
from fastpath.slots import (
    H_LEN,
    H_MAC,
    H_SNAPLEN,
    H_TPID,
    RX_USER,
    TX_SEND_REQUEST,
    Slots,
    make_slots,
)
from tests.arena import CANARY, Arena
from tests.frames import repaired
from tests.fuzz_world import CLIENTS, NETWORKS, configuration, seeds
from tests.fuzzing import Run
from tests.inspection import DOUBTS, inspect
from tests.kernels import several, wraps
from tests.mutation import (
    ADDRESSES,
    CLIENT_MAC,
    EDITS,
    MARK,
    MOST_LENGTH,
    OCTETS,
    OF_CLIENT,
    OF_FRAME,
    S_AT,
    S_BOOTP,
    S_LENGTH,
    SLOT_NUMBERS,
    Seeds,
    make_chance,
    mutate,
    secret,
)
from tests.serving import IP, LEAD, RX_FRAME, SERVER, TX_FRAME, Served, framed, request

pytestmark = wraps


# --- mutations against a twin --------------------------------------------------------------------


class Twin:
    """`mutate` on a bytearray, with slices and Python's integers."""

    def __init__(self, plan: Seeds, seed: int) -> None:
        self.octets = plan.mem.tobytes()
        self.frames: list[list[int]] = plan.frame.tolist()
        self.options: list[list[int]] = plan.option.tolist()
        self.x = int(make_chance(seed)[0])

    def pick(self, count: int) -> int:
        self.x ^= self.x << 13 & (1 << 64) - 1
        self.x ^= self.x >> 7
        self.x ^= self.x << 17 & (1 << 64) - 1
        return int(self.x >> 32) % count

    def choose(self, values: npt.NDArray[np.int64]) -> int:
        return int(values[self.pick(len(values))])

    def octet(self) -> int:
        return self.choose(OCTETS) if self.pick(2) else self.pick(256)

    def put(self, at: int, value: int, size: int) -> None:
        self.data[at:at + size] = value.to_bytes(size, "big")

    def mutate(self, number: int) -> bytes:
        row = self.frames[self.pick(len(self.frames))]
        (self.start, size, self.ip, self.bootp, self.tail, self.wanted, self.server,
         self.identity, self.relayed, first, count) = row
        self.data = bytearray(self.octets[self.start:self.start + size])
        self.own = self.options[first:first + count]
        client = self.pick(CLIENTS)
        self.dress(client)
        for _ in range(self.choose(EDITS)):
            self.edit(self.pick(16))
        self.sign(number, client)
        self.repair(self.pick(24))
        return bytes(self.data)

    def dress(self, client: int) -> None:
        mac = CLIENT_MAC + (client if self.pick(16) else self.pick(1 << 24))
        self.put(self.bootp + 28, mac, 6)
        giaddr, lowest, size = NETWORKS[
            1 + client % (len(NETWORKS) - 1) if self.relayed else 0].tolist()
        if self.relayed:
            self.put(self.bootp + 24, giaddr, 4)
        address = lowest + client % size
        if self.pick(8) == 0:
            address = self.choose(ADDRESSES)
        if self.identity:
            self.put(self.identity, client, 4)
        if self.wanted:
            self.put(self.wanted, address, 4)
        if any(self.data[self.bootp + 12:self.bootp + 16]):
            self.put(self.bootp + 12, address, 4)
        if self.server and self.pick(16) == 0:
            self.put(self.server, self.choose(ADDRESSES), 4)

    def splice(self, to: int) -> int:
        start, size = self.options[self.pick(len(self.options))]
        if to >= len(self.data) or to + size + 1 > MOST_LENGTH:
            return to
        self.data[to:to + size] = self.octets[start:start + size]
        return to + size

    def place(self) -> int:
        """Where some option of the seed stood."""
        return self.own[self.pick(len(self.own))][0] - self.start

    def edit(self, how: int) -> None:
        options, length = self.bootp + 240, len(self.data)
        if how < 4 and length > options:
            at = options + self.pick(length - options)
            self.data[at] = self.octet()
        elif how == 4 and length:
            at = self.pick(length)
            self.data[at] ^= 1 << self.pick(8)
        elif how == 5 and length >= options:
            at = self.bootp + self.pick(240)
            self.data[at] = self.octet()
        elif how in (6, 7) and self.own:
            at = self.place() + 1
            random_length = self.pick(2)
            value = self.pick(256) if random_length else self.pick(5) - 2
            if at < length:
                self.data[at] = (value if random_length else self.data[at] + value) & 0xFF
        elif 8 <= how <= 11:
            self.edit_lengths(how, length)
        elif how in (12, 13):
            tail = self.splice(self.tail)
            if tail != self.tail:
                self.tail = tail
                self.data[tail:tail + 1] = b"\xff"
        elif how == 14 and self.own:
            self.splice(self.place())
        elif how == 15 and length >= options:
            address = self.choose(ADDRESSES) if self.pick(2) else int(
                NETWORKS[self.pick(len(NETWORKS)), 1]) + self.pick(8)
            self.put(self.bootp + 12 + 4 * self.pick(4), address, 4)

    def edit_lengths(self, how: int, length: int) -> None:
        if how == 8 and length >= self.bootp - 8:
            if self.pick(2):
                self.put(self.ip + 2, self.pick(2048), 2)
            else:
                self.data[self.ip] = self.pick(256)
        elif how == 9 and length >= self.bootp:
            self.put(self.bootp - 4, self.pick(2048), 2)
        elif how == 10 and length > self.bootp:
            least = self.bootp if self.pick(2) else 0
            del self.data[least + self.pick(length - self.bootp):]
        elif how == 11:
            more = min(self.pick(600), MOST_LENGTH - length)
            octet, step = self.pick(256), self.pick(3)
            self.data += bytes(octet + step * i & 0xFF for i in range(more))

    def sign(self, number: int, client: int) -> None:
        for kind, value in ((OF_FRAME, number), (OF_CLIENT, client)):
            at = self.data.find(MARK + bytes([kind]), self.bootp)
            while 0 <= at <= len(self.data) - 8:
                self.put(at + 4, value, 4)
                at = self.data.find(MARK + bytes([kind]), at + 1)
        if len(self.data) >= self.bootp + 240:
            self.put(self.bootp + 4, number, 4)
            self.put(self.bootp + 42, number % SLOT_NUMBERS, 2)

    def repair(self, how: int) -> None:
        data, ip, udp = self.data, self.ip, self.bootp - 8
        if how == 0 or len(data) < self.bootp:
            return
        if how > 3:
            data[:self.bootp] = self.octets[self.start:self.start + self.bootp]
        if how > 1:
            self.put(ip + 2, len(data) - ip, 2)
            self.put(udp + 4, len(data) - udp, 2)
        self.put(ip + 10, 0, 2)
        self.put(ip + 10, checksum(bytes(data[ip:udp])), 2)
        if how > 2:
            self.put(udp + 6, 0, 2)
            if self.pick(4):
                size = (len(data) - udp).to_bytes(2, "big")
                pseudo = bytes(data[ip + 12:ip + 20]) + b"\0\x11" + size
                self.put(udp + 6, checksum(pseudo + bytes(data[udp:])) or 0xFFFF, 2)


def hostile(count: int, seed: int = 1) -> list[bytes]:
    """The frames 0 to `count` - 1 of a run."""
    plan, chance, mem, found = seeds(), make_chance(seed), np.zeros(SLOT_SIZE, np.uint8), []
    for number in range(count):
        length = mutate(plan, NETWORKS, CLIENTS, mem, 7, number, chance)
        found.append(mem[7:7 + length].tobytes())
    return found


def test_mutations_are_those_of_the_twin() -> None:
    count = several(20_000, 700)
    twin = Twin(seeds(), 3)
    for number, data in enumerate(hostile(count, seed=3)):
        assert data == twin.mutate(number), f"frame {number}"


def test_a_run_repeats_for_its_seed_and_only_for_that() -> None:
    assert hostile(50) == hostile(50) != hostile(50, seed=2)


def test_seeds_are_sound_requests() -> None:
    plan = seeds()
    for row in plan.frame.tolist():
        data = plan.mem[row[S_AT]:row[S_AT] + row[S_LENGTH]].tobytes()
        assert Frame.decode(data).payload == data[row[S_BOOTP]:]


# --- the server ----------------------------------------------------------------------------------


def test_no_access_outside_a_frame_or_a_reply() -> None:
    """Interpreted, every single access is checked, of slots that hold one frame each."""
    chance = random.Random(5)
    server = Served(configuration((), 5))
    answers = 0
    for number, data in enumerate(hostile(several(5000, 500), seed=5)):
        server.now_s = number // 20
        outer = chance.choice([None, None, 0x81000005])
        answers += server.answer(data, outer, chance.random() < 0.8) is not None
    assert answers > several(500, 50)


def test_a_short_run() -> None:
    run = Run(2)
    report = run.go(several(50_000, 500))
    assert not report.doubts and report.packets == several(50_000, 500)
    assert len(report.causes) > 8 and len(report.refused) > 6, report
    assert f"{report.packets:,} packets" in str(report)


# --- what the run would notice -------------------------------------------------------------------


def asked_and_answered() -> tuple[bytes, bytes]:
    """A request, as if from slot 3, and the reply of a server."""
    asked = request(1, b"\2clien" + bytes(8) + b"\0\3", xid=3, options={
        61: b"me" + secret(OF_CLIENT), 82: b"\1\x08" + secret(OF_FRAME)}, giaddr=IP("10.1.0.1"))
    asked.hlen, asked.chaddr = 16, b"\2clien" + bytes(8) + b"\0\3"
    data = bytearray(framed(asked, vlans=(5,), src_ip=IP("10.1.0.1"), dst_ip=SERVER))
    for at in range(len(data) - 8):
        if data[at:at + 4] == secret(OF_FRAME)[:4]:
            data[at + 7] = 3
    whole = repaired(bytes(data), udp=True)
    reply = Served(configuration((), 1)).answer(whole, None, True)
    assert reply is not None
    return whole, reply


def doubts_about(asked: bytes, reply: bytes) -> set[str]:
    rx = make_slots(np.zeros(8 * SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
    tx = make_slots(np.full(SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, TX_FRAME, LEAD)
    base = 3 * SLOT_SIZE
    rx.mem[base + RX_FRAME:base + RX_FRAME + len(asked)] = np.frombuffer(asked, np.uint8)
    rx.words[base >> 2], rx.words[(base + H_SNAPLEN) >> 2] = RX_USER, len(asked)
    rx.halves[(base + H_MAC) >> 1], rx.halves[(base + H_TPID) >> 1] = RX_FRAME, 0
    tx.mem[TX_FRAME + LEAD:TX_FRAME + LEAD + len(reply)] = np.frombuffer(reply, np.uint8)
    tx.words[0], tx.words[H_LEN >> 2] = TX_SEND_REQUEST, len(reply) + LEAD
    doubts = np.zeros(1, np.int64)
    inspect(rx, tx, 0, 1, make_options(), make_options(), doubts)
    return {name for i, name in enumerate(DOUBTS) if doubts[0] >> i & 1}


def changed(reply: bytes, change: Callable[[Message], None]) -> bytes:
    frame = Frame.decode(reply)
    message = Message.decode(frame.payload)
    change(message)
    frame.payload = message.encode()
    return frame.encode()


def set_to(**fields: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        for name, value in fields.items():
            setattr(message, name, value)
    return change


def option(code: int, value: bytes) -> Callable[[Message], None]:
    return lambda message: message.options.update({code: value})


@pytest.mark.parametrize(("change", "doubts"), [
    pytest.param(change, doubts, id="-".join(sorted(doubts)) or "sound") for change, doubts in (
        (lambda message: None, set()),
        (set_to(xid=4), {"xid"}),
        (set_to(giaddr=IP("10.1.0.2")), {"client"}),
        (set_to(chaddr=b"\2other" + bytes(8) + b"\0\3"), {"client"}),
        (set_to(chaddr=b"\2clien" + bytes(8) + b"\0\4"), {"request"}),
        (set_to(op=1), {"client"}),
        (option(61, b"me" + secret(OF_CLIENT) + b"\0"), {"client_id"}),
        (option(82, b"\1\1a"), {"relay"}),
        (option(43, MARK + b"f\0\0\0\4"), {"secret"}),
        (set_to(sname=MARK + b"c\0\0\0\4"), {"secret"}),
        (set_to(options={}), {"client_id", "relay"}))])
def test_a_wrong_reply_is_found_out(change: Callable[[Message], None], doubts: set[str]) -> None:
    asked, reply = asked_and_answered()
    assert doubts_about(asked, changed(reply, change)) == doubts


def test_a_reply_that_is_no_sound_frame_is_found_out() -> None:
    asked, reply = asked_and_answered()
    assert doubts_about(asked, reply) == set()
    assert doubts_about(asked, reply[:-1]) == doubts_about(asked, reply + b"\0") == {"frame"}
    assert doubts_about(asked, reply[:60] + b"\xee" + reply[61:]) == {"frame"}
    other_vlan = Frame.decode(reply)
    other_vlan.vlans = (6,)
    assert doubts_about(asked, other_vlan.encode()) == {"tags"}
    other_vlan.vlans = ()
    assert doubts_about(asked, other_vlan.encode()) == {"tags"}


def test_an_arena_keeps_what_is_shared_and_finds_what_is_written_outside() -> None:
    memory = np.arange(64, dtype=np.uint8)
    slots = make_slots(memory, 32, 0)
    rest = np.array([1.5, 2.5])
    arena = Arena((slots, (rest, np.zeros((0, 4), np.int64))))
    moved, (numbers, empty) = arena.tree
    assert isinstance(moved, Slots) and moved.mem.tolist() == list(range(64))
    assert numbers.tolist() == [1.5, 2.5] and empty.shape == (0, 4)
    moved.words[1] = 0
    assert moved.mem[4:8].tolist() == [0] * 4 and memory[4] == 4
    arena.check()
    spans = sorted((each.ctypes.data, each.ctypes.data + each.nbytes)
                   for each in (moved.mem, moved.geometry, numbers))
    assert all(after[0] - before[1] >= 256 for before, after in pairwise(spans))
    np.lib.stride_tricks.as_strided(numbers, (3,))[2] = 7
    with pytest.raises(AssertionError, match="outside"):
        arena.check()
