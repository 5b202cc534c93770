"""Frames that wait: a store of finished ones with a time for each.

One row a frame, taken from a stack of free rows; a wheel of 100 us ticks says which are due.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory, copy
from fastpath.jit import kernel
from fastpath.slots import Slots, tx_commit, tx_start
from fastpath.wheel import Wheel, advance, arm, disarm, make_wheel

TICK_US = 100
NONE = -1
# A frame of an ordinary link with two VLAN tags.
FRAME_SIZE = 1536
# A frame that was to be overtaken goes out after this at the latest.
REORDER_US = 100_000
_WHEEL_SLOTS = 1 << 12
# Cells of `state`: rows in all, rows that are free, the row held until another frame has gone,
# and where in `due` the rows stand that are due but not sent yet.
D_ROWS, D_FREE, D_HELD, D_DUE, D_DUE_FROM = range(5)


class Delay(NamedTuple):
    """The store. mem: uint8[n * FRAME_SIZE]. length: int32[n], octets of each frame.

    mark: int32[n], what it is to whoever put it here. stamp_ns: int64[n], when that arrived.
    wheel: rows by due tick. free: int32[n], stack of free rows. due: int32[n], rows to send.
    state: int64[5], by D_*.
    """

    mem: Memory
    length: npt.NDArray[np.int32]
    mark: npt.NDArray[np.int32]
    stamp_ns: npt.NDArray[np.int64]
    wheel: Wheel
    free: npt.NDArray[np.int32]
    due: npt.NDArray[np.int32]
    state: npt.NDArray[np.int64]


def make_delay(rows: int) -> Delay:
    """Room for `rows` frames; 0 where none will ever wait."""
    room = max(1, rows)
    return Delay(np.zeros(room * FRAME_SIZE, np.uint8), np.zeros(room, np.int32),
                 np.zeros(room, np.int32), np.zeros(room, np.int64),
                 make_wheel(room, _WHEEL_SLOTS), np.arange(room, dtype=np.int32),
                 np.zeros(room, np.int32), np.array([rows, rows, NONE, 0, 0], np.int64))


@kernel
def waiting(delay: Delay) -> int:
    """How many frames wait."""
    return delay.state[D_ROWS] - delay.state[D_FREE]


@kernel
def put(delay: Delay, mem: Memory, start: int, end: int, due_us: int, mark: int, stamp_ns: int,
        ) -> int:
    """Keep the frame in mem[start:end] until `due_us`; returns its row, NONE if there is no room.
    """
    if delay.state[D_FREE] == 0 or end - start > FRAME_SIZE:
        return np.int64(NONE)
    delay.state[D_FREE] -= 1
    row = np.int64(delay.free[delay.state[D_FREE]])
    copy(delay.mem, row * FRAME_SIZE, mem, start, end - start)
    delay.length[row], delay.mark[row], delay.stamp_ns[row] = end - start, mark, stamp_ns
    # Never earlier than told: rounded up.
    arm(delay.wheel, row, (due_us + TICK_US - 1) // TICK_US)
    return row


@kernel
def send(delay: Delay, row: int, tx: Slots) -> bool:
    """Move a row's frame to the transmit ring and free the row; False if the ring is full."""
    to = tx_start(tx)
    if to < 0:
        return False
    copy(tx.mem, to, delay.mem, row * FRAME_SIZE, np.int64(delay.length[row]))
    tx_commit(tx, np.int64(delay.length[row]))
    disarm(delay.wheel, row)
    if delay.state[D_HELD] == row:
        delay.state[D_HELD] = NONE
    delay.free[delay.state[D_FREE]] = row
    delay.state[D_FREE] += 1
    return True


@kernel
def next_due(delay: Delay, now_us: int, limit: int) -> int:
    """A row that is due at `now_us`, or NONE; takes up to `limit` from the wheel at a time."""
    state = delay.state
    if state[D_DUE_FROM] == state[D_DUE]:
        state[D_DUE_FROM] = 0
        state[D_DUE] = advance(delay.wheel, now_us // TICK_US, delay.due, limit)
        if state[D_DUE] == 0:
            return np.int64(NONE)
        for i in range(state[D_DUE]):
            if delay.due[i] == state[D_HELD]:
                # From now on it is sent from here, not in another's wake.
                state[D_HELD] = NONE
    return np.int64(delay.due[state[D_DUE_FROM]])


@kernel
def drop_all(delay: Delay) -> int:
    """Forget every frame that waits; returns how many."""
    state = delay.state
    count = waiting(delay)
    for row in range(state[D_ROWS]):
        disarm(delay.wheel, np.int64(row))
        delay.free[row] = row
    state[D_FREE], state[D_HELD] = state[D_ROWS], NONE
    state[D_DUE] = state[D_DUE_FROM] = 0
    return count
