"""The timer wheel against its naive twin: a dict from row to deadline."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastpath.wheel import (
    ARMED,
    CURSOR,
    FARTHEST_TICKS,
    MASK32,
    NEVER,
    SKIP_MAX,
    Wheel,
    advance,
    arm,
    armed_count,
    disarm,
    make_wheel,
    next_deadline,
)

COMPILED = hasattr(advance, "py_func")
ROWS = 12
STARTS = [0, 1, 1000, 2**31 - 30, 2**32 - 30, 2**40]


def cursor_of(wheel: Wheel) -> int:
    return int(wheel.state[CURSOR])


def fire(wheel: Wheel, now: int, limit: int = 64, room: int = 64) -> list[int]:
    """One call of `advance`; also sees that it writes nothing beyond what it returns."""
    fired = np.full(room, -7, np.int32)
    n = advance(wheel, now, fired, limit)
    assert 0 <= n <= min(limit, room)
    assert (fired[n:] == -7).all()
    return [int(row) for row in fired[:n]]


def drain(wheel: Wheel, now: int, limit: int = 64, room: int = 64) -> list[int]:
    rows = fire(wheel, now, limit, room)
    for _ in range(10_000):
        if next_deadline(wheel, 1) > now:
            return rows
        rows += fire(wheel, now, limit, room)
    raise AssertionError("advance makes no progress")


def check_lists(wheel: Wheel) -> None:
    """Every armed row is in exactly one list, that of a tick at or before its deadline."""
    rows = len(wheel.due)
    slots = len(wheel.next) - rows
    cursor = cursor_of(wheel)
    seen = []
    for ahead in range(slots):
        slot = rows + (cursor + ahead) % slots
        at, before = int(wheel.next[slot]), slot
        while at != slot:
            assert wheel.prev[at] == before
            left = (int(wheel.due[at]) - cursor) & MASK32
            assert left >= ahead
            seen.append(at)
            assert len(seen) <= rows
            at, before = int(wheel.next[at]), at
        assert wheel.prev[slot] == before
    assert len(set(seen)) == len(seen) == wheel.state[ARMED]
    assert {row for row in range(rows) if wheel.next[row] >= 0} == set(seen)


class WheelAndDict(RuleBasedStateMachine):
    """`twin` maps a row to its deadline: the tick asked for, or the cursor if that is later.

    `far` has the rows that were beyond the turn when they were armed, and may be parked.
    """

    @initialize(slots=st.sampled_from([2, 4, 16, 64]), start=st.sampled_from(STARTS))
    def make(self, slots: int, start: int) -> None:
        self.wheel = make_wheel(ROWS, slots, start)
        self.now = start
        self.twin: dict[int, int] = {}
        self.far: set[int] = set()

    @rule(row=st.integers(0, ROWS - 1),
          ahead=st.one_of(st.integers(-20, 40), st.integers(0, 400), st.just(2**33)))
    def arm(self, row: int, ahead: int) -> None:
        cursor = cursor_of(self.wheel)
        tick = max(0, self.now + ahead)
        arm(self.wheel, row, tick)
        self.twin[row] = min(max(tick, cursor), cursor + FARTHEST_TICKS)
        self.far.discard(row)
        if tick - cursor >= len(self.wheel.next) - ROWS:
            self.far.add(row)

    @rule(row=st.integers(0, ROWS - 1))
    def disarm(self, row: int) -> None:
        disarm(self.wheel, row)
        self.twin.pop(row, None)

    @rule(gap=st.integers(-3, 150), limit=st.integers(0, 6), room=st.integers(0, 6))
    def advance_a_little(self, gap: int, limit: int, room: int) -> None:
        before = cursor_of(self.wheel)
        self.now = max(self.now, self.now + gap)
        rows = fire(self.wheel, self.now + min(gap, 0), limit, room)
        after = cursor_of(self.wheel)
        assert before <= after <= max(before, self.now)
        self.see_fired(rows)
        if limit and room and self.twin and min(self.twin.values()) <= self.now:
            assert next_deadline(self.wheel, 1000) <= self.now

    @rule(gap=st.integers(0, 300), limit=st.integers(1, 20), room=st.integers(1, 20))
    def advance_fully(self, gap: int, limit: int, room: int) -> None:
        self.now += gap
        self.see_fired(drain(self.wheel, self.now, limit, room))
        assert all(due > self.now for due in self.twin.values())
        assert cursor_of(self.wheel) == self.now

    @precondition(lambda self: not self.twin)
    @rule(gap=st.integers(0, 2**34))
    def leap_while_empty(self, gap: int) -> None:
        self.now += gap
        assert fire(self.wheel, self.now) == []
        assert cursor_of(self.wheel) == self.now

    def see_fired(self, rows: list[int]) -> None:
        ticks = [self.twin.pop(row) for row in rows]  # KeyError: fired twice, or not armed
        assert ticks == sorted(ticks)
        assert all(tick <= max(self.now, cursor_of(self.wheel)) for tick in ticks)
        assert not ticks or all(due >= ticks[-1] for due in self.twin.values())

    @invariant()
    def same_as_twin(self) -> None:
        assert armed_count(self.wheel) == len(self.twin)
        check_lists(self.wheel)

    @rule(max_slots=st.integers(0, 80))
    def ask_for_the_next_deadline(self, max_slots: int) -> None:
        tick = next_deadline(self.wheel, max_slots)
        if not self.twin:
            assert tick == NEVER
            return
        cursor = cursor_of(self.wheel)
        assert cursor <= tick <= min(min(self.twin.values()), cursor + max_slots)
        if not self.far & self.twin.keys():
            assert tick == min(min(self.twin.values()), cursor + max_slots)


WheelAndDict.TestCase.settings = settings(deadline=None, max_examples=80, stateful_step_count=30)
TestWheelAndDict = WheelAndDict.TestCase


def test_fires_by_tick_then_in_order_of_arming() -> None:
    wheel = make_wheel(8, 16)
    for row, tick in enumerate([5, 3, 5, 9, 3, 40, 0, 15]):
        arm(wheel, row, tick)
    assert fire(wheel, 9) == [6, 1, 4, 0, 2, 3]
    assert fire(wheel, 14) == []
    assert fire(wheel, 39) == [7]
    assert fire(wheel, 40) == [5]
    assert armed_count(wheel) == 0


@pytest.mark.parametrize(("limit", "room"), [
    (0, 5), (5, 0), (1, 5), (5, 1), (2, 5), (5, 2), (9, 9)])
def test_fires_no_more_than_the_limit_or_the_room(limit: int, room: int) -> None:
    wheel = make_wheel(5, 16)
    for row in range(5):
        arm(wheel, row, 3 + row % 2)
    most = min(limit, room)
    assert fire(wheel, 4, limit, room) == [0, 2, 4, 1, 3][:most]
    assert armed_count(wheel) == 5 - min(most, 5)
    assert drain(wheel, 4) == [0, 2, 4, 1, 3][most:]


def test_a_tick_in_the_past_fires_at_the_next_advance_even_at_the_same_tick() -> None:
    wheel = make_wheel(3, 8)
    assert fire(wheel, 100) == []
    arm(wheel, 2, 7)
    arm(wheel, 1, 100)
    arm(wheel, 0, 101)
    assert next_deadline(wheel, 8) == 100
    assert fire(wheel, 100) == [2, 1]
    assert fire(wheel, 100) == []
    assert fire(wheel, 101) == [0]


def test_arming_again_replaces_and_disarming_twice_is_nothing() -> None:
    wheel = make_wheel(2, 8)
    arm(wheel, 0, 3)
    arm(wheel, 0, 6)
    arm(wheel, 1, 4)
    disarm(wheel, 1)
    disarm(wheel, 1)
    assert armed_count(wheel) == 1
    assert fire(wheel, 5) == []
    assert fire(wheel, 6) == [0]
    disarm(wheel, 0)
    assert armed_count(wheel) == 0


@pytest.mark.parametrize("tick", [7, 8, 9, 15, 16, 17, 63, 64, 1000])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_beyond_the_horizon_fires_on_its_tick(tick: int, step: int) -> None:
    wheel = make_wheel(1, 8)
    arm(wheel, 0, tick)
    for now in range(0, tick, step):
        assert drain(wheel, now) == []
    assert next_deadline(wheel, 2000) <= tick
    assert drain(wheel, tick) == [0]


def test_next_deadline_is_exact_within_the_turn_and_low_beyond() -> None:
    wheel = make_wheel(2, 16)
    assert next_deadline(wheel, 16) == NEVER
    arm(wheel, 0, 9)
    assert [next_deadline(wheel, n) for n in (0, 4, 9, 10, 100)] == [0, 4, 9, 9, 9]
    arm(wheel, 0, 100)
    assert next_deadline(wheel, 100) == 15
    assert fire(wheel, 15) == []
    assert next_deadline(wheel, 100) == 30


def test_work_of_a_call_is_bounded() -> None:
    """Ten parked rows, three a call: the cursor waits until all are placed anew."""
    wheel = make_wheel(10, 8)
    for row in range(10):
        arm(wheel, row, 1000 + row)
    moved = []
    for _ in range(4):
        assert fire(wheel, 8, limit=3) == []
        moved.append(cursor_of(wheel))
        check_lists(wheel)
    assert moved == [7, 7, 7, 8]
    assert fire(wheel, 8, limit=0) == []
    assert drain(wheel, 1009, limit=3) == [*range(10)]


def test_empty_slots_passed_in_a_call_are_bounded() -> None:
    wheel = make_wheel(1, 2 * SKIP_MAX)
    arm(wheel, 0, SKIP_MAX + 5)
    assert fire(wheel, SKIP_MAX + 5) == []
    assert cursor_of(wheel) == SKIP_MAX
    assert next_deadline(wheel, 1) <= SKIP_MAX + 5
    assert fire(wheel, SKIP_MAX + 5) == [0]


def test_a_large_gap_fires_every_row_once_in_order() -> None:
    rows, gap = (5000, 1_000_000) if COMPILED else (60, 60_000)
    wheel = make_wheel(rows, 4096)
    ticks = np.random.default_rng(3).integers(1, gap, rows)
    for row in range(rows):
        arm(wheel, row, ticks[row])
    fired = drain(wheel, gap, limit=500, room=400)
    assert sorted(fired) == [*range(rows)]
    assert (np.diff(ticks[fired]) >= 0).all()


@pytest.mark.parametrize("start", STARTS)
def test_the_farthest_deadline(start: int) -> None:
    """Turns that touch nothing are taken out of time: the rest is the same for the wheel."""
    wheel = make_wheel(2, 16, start)
    arm(wheel, 0, start + 2**33)
    arm(wheel, 1, start + FARTHEST_TICKS - 40)
    wheel.state[CURSOR] += FARTHEST_TICKS + 1 - 16 * 4
    assert drain(wheel, start + FARTHEST_TICKS - 41) == []
    assert drain(wheel, start + FARTHEST_TICKS - 40) == [1]
    assert drain(wheel, start + FARTHEST_TICKS - 1) == []
    assert drain(wheel, start + FARTHEST_TICKS) == [0]


def test_kernels_work_inside_kernels_with_any_row_type() -> None:
    def rearm_all(wheel: Wheel, rows: np.ndarray, tick: int) -> int:
        for row in rows:
            arm(wheel, row, tick)
        return armed_count(wheel)

    compiled = numba.njit(rearm_all)
    for kind in (np.int32, np.uint32):
        wheel = make_wheel(5, 8)
        assert compiled(wheel, np.arange(5).astype(kind), 3) == 5
        assert fire(wheel, 3) == [0, 1, 2, 3, 4]


def test_memory_a_row() -> None:
    wheel = make_wheel(1_000_000, 65_536)
    assert sum(array.nbytes for array in wheel) <= 12 * 1_000_000 + 8 * 65_536 + 16


@pytest.mark.parametrize(("rows", "slots", "now"), [
    (1, 0, 0), (1, 1, 0), (1, 12, 0), (0, 8, 0), (2**31, 8, 0), (1, 8, -1)])
def test_impossible_wheels(rows: int, slots: int, now: int) -> None:
    with pytest.raises(ValueError, match="wheel"):
        make_wheel(rows, slots, now)
