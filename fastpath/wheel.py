"""Deadlines for a million rows: arm, disarm and fire in O(1), whatever else is armed.

A ring of `slots` lists, one tick a slot. Slot t mod `slots` holds the rows due at tick t of
the turn that begins at the cursor, the tick handled last. A deadline beyond that turn is
parked in the farthest slot and placed anew when the cursor gets there, so it costs one touch
a turn. Every list is a circle through its own sentinel (the cell `rows + slot`), which is
why linking and unlinking know no special case. The time between ticks is the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel

CURSOR, ARMED = 0, 1

# Deadlines are kept as the low 32 bits of their tick: 12 bytes a row, and no end of time.
# All that is armed lies at or after the cursor, so the distance from it says which tick.
MASK32 = 0xFFFFFFFF
FARTHEST_TICKS = MASK32
# Empty slots that one `advance` may pass: about 25 us, and 16 s of 1 ms ticks.
SKIP_MAX = 1 << 14
# What `next_deadline` says when nothing is armed.
NEVER = 1 << 62


class Wheel(NamedTuple):
    """The arrays of a wheel; made by `make_wheel`, used by kernels only."""

    next: npt.NDArray[np.int32]  # [rows + slots]; -1: the row is not armed
    prev: npt.NDArray[np.int32]  # [rows + slots]
    due: npt.NDArray[np.uint32]  # [rows] low 32 bits of the deadline tick
    state: npt.NDArray[np.int64]  # [2] CURSOR: the tick handled last; ARMED: rows armed


def make_wheel(rows: int, slots: int, now_tick: int = 0) -> Wheel:
    """A wheel for rows 0..rows-1, none armed: 12 bytes a row and 8 a slot.

    slots: a power of two, 2 or more; the ticks of most deadlines should fit in one turn.
    now_tick: where time stands, 0 or more; a wheel that starts far behind must catch up.
    Raises ValueError for other numbers.
    """
    if slots < 2 or slots & (slots - 1):
        raise ValueError(f"a wheel needs a power of two of slots, not {slots}")
    if rows < 1 or rows + slots > 2**31 - 1 or now_tick < 0:
        raise ValueError(f"no wheel of {rows} rows and {slots} slots at tick {now_tick}")
    cells = np.arange(rows + slots, dtype=np.int32)
    cells[:rows] = -1
    state = np.array([now_tick, 0], np.int64)
    return Wheel(cells, cells.copy(), np.zeros(rows, np.uint32), state)


@kernel
def _link(wheel: Wheel, row: int, tick: int) -> None:
    """Append `row` to the list of the slot of `tick`."""
    rows = len(wheel.due)
    slots = len(wheel.next) - rows
    slot = rows + (tick & (slots - 1))
    last = wheel.prev[slot]
    wheel.next[last] = row
    wheel.prev[row] = last
    wheel.next[row] = slot
    wheel.prev[slot] = row


@kernel
def _unlink(wheel: Wheel, row: int) -> None:
    before, after = wheel.prev[row], wheel.next[row]
    wheel.next[before] = after
    wheel.prev[after] = before


@kernel
def _place(wheel: Wheel, row: int, ticks_left: int) -> None:
    """Put `row` where the cursor is in `ticks_left` ticks, or as far away as there is."""
    turn = len(wheel.next) - len(wheel.due)
    _link(wheel, row, wheel.state[CURSOR] + min(ticks_left, np.int64(turn - 1)))


@kernel
def disarm(wheel: Wheel, row: int) -> None:
    """Forget the deadline of `row`, if it has one."""
    if wheel.next[row] >= 0:
        _unlink(wheel, row)
        wheel.next[row] = -1
        wheel.state[ARMED] -= 1


@kernel
def arm(wheel: Wheel, row: int, tick: int) -> None:
    """Let `row` (0..rows-1, not checked) fire at `tick`, instead of when it was to fire before.

    A tick that has passed counts as the tick handled last: the next `advance` fires it. One
    more than FARTHEST_TICKS ahead (49 days of 1 ms) is cut down to that.
    """
    disarm(wheel, row)
    cursor = wheel.state[CURSOR]
    ticks_left = min(max(np.int64(tick) - cursor, np.int64(0)), np.int64(FARTHEST_TICKS))
    wheel.due[row] = (cursor + ticks_left) & MASK32
    _place(wheel, row, ticks_left)
    wheel.state[ARMED] += 1


@kernel
def advance(wheel: Wheel, now_tick: int, fired: npt.NDArray[np.int32], limit: int) -> int:
    """Disarm the rows due at or before `now_tick` and write them to `fired`, earliest first.

    Returns how many; at most `limit`, at most len(fired). The work of a call is bounded: it
    touches at most `limit` rows, counting those parked and placed anew, and passes at most
    SKIP_MAX empty slots. The next call goes on where this one stopped; `next_deadline` is at
    or before `now_tick` as long as there is more to do. A `now_tick` before the cursor
    counts as the cursor.
    """
    state = wheel.state
    rows = len(wheel.due)
    slots = len(wheel.next) - rows
    now = np.int64(now_tick)
    n = touched = passed = 0
    while True:
        cursor = state[CURSOR]
        slot = rows + (cursor & (slots - 1))
        row = np.int64(wheel.next[slot])
        if row == slot:
            if cursor >= now or passed == SKIP_MAX:
                break
            state[CURSOR] = cursor + 1 if state[ARMED] else now
            passed += 1
            continue
        if touched >= limit or n == len(fired):
            break
        touched += 1
        ticks_left = (np.int64(wheel.due[row]) - cursor) & MASK32
        if ticks_left:
            _unlink(wheel, row)
            _place(wheel, row, ticks_left)
        else:
            disarm(wheel, row)
            fired[n] = row
            n += 1
    return n


@kernel
def armed_count(wheel: Wheel) -> int:
    """How many rows are armed."""
    return wheel.state[ARMED]  # type: ignore[no-any-return]


@kernel
def next_deadline(wheel: Wheel, max_slots: int) -> int:
    """A tick before which nothing fires; NEVER when nothing is armed.

    Looks at no more than `max_slots` slots from the cursor on, so that a poll may sleep at
    most that many ticks. The true deadline may be later: the answer is then the tick where
    the search ended, or where a parked row is placed anew.
    """
    if wheel.state[ARMED] == 0:
        return NEVER
    rows = len(wheel.due)
    slots = len(wheel.next) - rows
    cursor = wheel.state[CURSOR]
    tick = cursor
    while tick < cursor + max_slots:
        slot = rows + (tick & (slots - 1))
        if wheel.next[slot] != slot:
            break
        tick += 1
    return tick  # type: ignore[no-any-return]
