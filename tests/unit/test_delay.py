"""Replies that wait: none lost, none sent twice, none early, whatever the ring and the clock do.

The one thing to know: `Model` is the slow twin of the store, a list of (due tick, frame).
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import random
from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.delay import (
    D_DUE_FROM,
    FRAME_SIZE,
    NONE,
    TICK_US,
    Delay,
    make_delay,
    next_due,
    put,
    send,
    waiting,
)
from fastpath.faultmodel import Fault
from fastpath.slots import H_LEN, TX_AVAILABLE, TX_SEND_REQUEST, Slots, make_slots
from fastpath.wire import MessageType
from server.arrays import CAUSED, Tables
from server.decide import C_NO_ROOM
from server.outgoing import send_due
from tests.kernels import examples, several, wraps
from tests.serving import Served, request, understood

pytestmark = wraps

DISCOVER = MessageType.DISCOVER
SIZE, FRAME = 2048, 32


def ring(free: int) -> Slots:
    """A transmit ring of 8 slots of which the first `free` may be used."""
    tx = make_slots(np.zeros(8 * SIZE, np.uint8), SIZE, FRAME)
    for i in range(8):
        tx.words[i * SIZE >> 2] = TX_AVAILABLE if i < free else TX_SEND_REQUEST
    return tx


def frames(tx: Slots, count: int) -> list[bytes]:
    return [tx.mem[i * SIZE + FRAME:i * SIZE + FRAME + int(tx.words[(i * SIZE + H_LEN) >> 2])
                   ].tobytes() for i in range(count)]


def flush(delay: Delay, now_us: int, free: int, limit: int) -> list[bytes]:
    """What `outgoing.send_due` does, without the counts."""
    tx, count = ring(free), 0
    while count < limit:
        row = next_due(delay, now_us, limit)
        if row == NONE or not send(delay, row, tx):
            break
        delay.state[D_DUE_FROM] += 1
        count += 1
    return frames(tx, count)


class Model:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.waiting: list[tuple[int, bytes]] = []

    def put(self, due_us: int, frame: bytes) -> bool:
        if len(self.waiting) == self.rows or len(frame) > FRAME_SIZE:
            return False
        self.waiting.append((-(-due_us // TICK_US), frame))
        return True


STEPS = st.lists(st.one_of(
    st.tuples(st.just("put"), st.integers(0, 700_000), st.integers(1, 60)),
    st.tuples(st.just("wait"), st.integers(0, 300_000), st.just(0)),
    st.tuples(st.just("flush"), st.integers(0, 8), st.integers(0, 8))), max_size=60)


@given(rows=st.integers(1, 12), steps=STEPS)
@examples(400, 60)
def test_against_the_model(rows: int, steps: list[tuple[str, int, int]]) -> None:
    delay, model = make_delay(rows), Model(rows)
    now_us, number = 0, 0
    for what, a, b in steps:
        if what == "put":
            number += 1
            frame = number.to_bytes(2, "big") * b
            source = np.frombuffer(b"x" + frame, np.uint8)
            row = put(delay, source, 1, len(source), now_us + a, number, number * 1000)
            assert (row != NONE) == model.put(now_us + a, frame)
            if row != NONE:
                assert (delay.mark[row], delay.stamp_ns[row]) == (number, number * 1000)
        elif what == "wait":
            now_us += a
        else:
            sent = flush(delay, now_us, a, b)
            assert len(sent) <= min(a, b)
            for frame in sent:
                entry = next(e for e in model.waiting if e[1] == frame)
                assert entry[0] <= now_us // TICK_US, "too early"
                model.waiting.remove(entry)
        assert waiting(delay) == len(model.waiting)
    last_us = now_us + 1_000_000
    for _ in range(100):
        for frame in flush(delay, last_us, 8, 8):
            model.waiting.remove(next(e for e in model.waiting if e[1] == frame))
    assert not model.waiting and waiting(delay) == 0
    # All rows are free again, each once.
    assert sorted(delay.free.tolist()) == list(range(rows))


def test_in_the_order_in_which_they_are_due() -> None:
    delay = make_delay(64)
    chance = random.Random(3)
    dues = [chance.randrange(0, 400_000) for _ in range(60)]
    for i, due_us in enumerate(dues):
        put(delay, np.full(4, i, np.uint8), 0, 4, due_us, i, 0)
    found = []
    for now_us in range(0, 410_000, 1000):
        found += [frame[0] for frame in flush(delay, now_us, 8, 8)]
    assert len(found) == 60
    ticks = [-(-dues[i] // 1000) for i in found]
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(("size", "kept"), [(1, True), (FRAME_SIZE, True), (FRAME_SIZE + 1, False)])
def test_the_largest_frame(size: int, kept: bool) -> None:
    delay = make_delay(2)
    source = np.arange(size, dtype=np.int64).astype(np.uint8)
    assert (put(delay, source, 0, size, 0, 0, 0) != NONE) == kept
    # Rows are taken from the last on; the one before stays as it was.
    assert not delay.mem[:FRAME_SIZE].any()
    assert flush(delay, TICK_US, 1, 1) == ([source.tobytes()] if kept else [])


def test_no_room_at_all_where_nothing_ever_waits() -> None:
    delay = make_delay(0)
    assert put(delay, np.zeros(4, np.uint8), 0, 4, 0, 0, 0) == NONE
    assert waiting(delay) == 0 and flush(delay, 1 << 40, 8, 8) == []


def test_a_full_ring_keeps_what_is_due() -> None:
    delay = make_delay(8)
    for i in range(6):
        put(delay, np.full(3, i, np.uint8), 0, 3, 0, 0, 0)
    assert flush(delay, 1000, 0, 8) == []
    assert waiting(delay) == 6
    # New ones do not take the rows of those.
    for i in range(6, 8):
        assert put(delay, np.full(3, i, np.uint8), 0, 3, 0, 0, 0) != NONE
    assert put(delay, np.zeros(3, np.uint8), 0, 3, 0, 0, 0) == NONE
    found = flush(delay, 1000, 3, 8) + flush(delay, 1000, 8, 2) + flush(delay, 1000, 8, 8)
    assert sorted(frame[0] for frame in found) == list(range(8))


@pytest.mark.parametrize("late_us", [99_999, 1_700_000, 4_000_000, 20_000_000])
def test_after_a_pause_nothing_is_forgotten(late_us: int) -> None:
    """One call passes a bounded number of ticks; a few calls pass any pause."""
    delay = make_delay(4)
    put(delay, np.full(3, 7, np.uint8), 0, 3, late_us, 0, 0)
    assert flush(delay, late_us - TICK_US - 1, 8, 8) == []
    for _ in range(late_us // TICK_US // (1 << 14) + 3):
        found = flush(delay, late_us + TICK_US, 8, 8)
        if found:
            break
    assert found == [b"\7\7\7"] and waiting(delay) == 0


# --- through the server --------------------------------------------------------------------------


def slow(rows: int, *faults: Fault) -> Served:
    server = Served({"faults": faults, "offer_hold_s": 1000})
    server.tables = server.tables._replace(delay=make_delay(rows))
    return server


def client(i: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, i])


def no_room(tables: Tables) -> int:
    return int(tables.counts[CAUSED + C_NO_ROOM])


def test_a_full_store_drops_and_counts() -> None:
    server = slow(3, Fault("delay", delay_s=0.1))
    for i in range(5):
        assert server.batch(request(DISCOVER, client(i))) == []
    assert (waiting(server.tables.delay), no_room(server.tables)) == (3, 2)
    server.now_us = 100_100
    late = server.batch(request(DISCOVER, client(9)))
    assert [understood(frame).message.chaddr[-1] for frame in late] == [0, 1, 2]
    # What has left makes room within the same call.
    assert (waiting(server.tables.delay), no_room(server.tables)) == (1, 2)


def test_reorder_without_room_sends_at_once() -> None:
    server = slow(0, Fault("reorder"))
    assert len(server.batch(request(DISCOVER))) == 1
    assert no_room(server.tables) == 0


@pytest.mark.parametrize("kinds", [("delay",), ("reorder",), ("delay", "reorder"),
                                   ("delay", "reorder", "duplicate")])
def test_each_reply_leaves_as_often_as_told(kinds: tuple[str, ...]) -> None:
    """Random traffic over a ring that is mostly full: every reply is sent exactly once."""
    chance = random.Random(len(kinds))
    faults = [Fault(kind, rate=0.5, delay_s=0.002, jitter_s=0.004, distribution="exponential")
              for kind in kinds]
    server = slow(1000, *faults)
    asked, heard = [], []
    for i in range(several(600, 150)):
        server.now_us += chance.choice([0, 50, 100, 3000, 40_000])
        messages = [request(DISCOVER, client(chance.randrange(60)), xid=1000 * i + n)
                    for n in range(chance.randrange(4))]
        sent = server.batch(*messages, slots=chance.choice([0, 1, 2, 8]))
        asked += [message.xid for message in messages[:server.read]]
        heard += [understood(frame).message.xid for frame in sent]
    for _ in range(200):
        server.now_us += 100_000
        heard += [understood(frame).message.xid for frame in server.batch()]
    assert waiting(server.tables.delay) == 0 and no_room(server.tables) == 0
    assert set(heard) == set(asked)
    assert int(server.tables.counts[19 + 2]) == len(heard)
    if "duplicate" not in kinds:
        assert len(heard) == len(asked)
    else:
        doubled = int(server.tables.faults.hits[kinds.index("duplicate")])
        assert len(asked) < len(heard) <= len(asked) + doubled


def test_late_replies_are_bounded_by_the_limit_of_a_call() -> None:
    server = slow(50, Fault("delay", delay_s=0.1))
    for i in range(20):
        server.batch(request(DISCOVER, client(i)))
    server.now_us = 200_000
    tx = ring(8)
    assert send_due(tx, server.tables, server.now_us, 5) == 5
    assert waiting(server.tables.delay) == 15
    assert IPv4Address(0) != understood(frames(tx, 1)[0]).message.yiaddr
