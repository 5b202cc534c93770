"""What clients have to say in a turn, and how long each then waits for its answer."""

from __future__ import annotations

import numpy as np

from fastpath.jit import kernel
from fastpath.slots import Slots, tx_room
from fastpath.wheel import arm, disarm
from tester.arrays import Test
from tester.cells import (
    AGAIN,
    AWAITED,
    F_SAYS,
    FIRST,
    FIRST_NS,
    LEGS,
    P_BACKOFF_MOST_NS,
    P_BACKOFF_NS,
    P_SEED,
    P_TIMEOUT_NS,
    PENDING,
    PHASE,
    PHASE_SIZE,
    REBINDING,
    RENEW_AGAIN_S,
    RENEWING,
    SILENT,
    TICK_NS,
    TIMES,
)
from tester.clients import scramble
from tester.compose import life_ticks, tick_of


@kernel
def room(test: Test, tx: Slots) -> bool:
    """Whether something more can be said in this turn."""
    return test.counts[PENDING] < len(test.outbox) and tx_room(tx, test.counts[PENDING])


@kernel
def say(test: Test, tx: Slots, row: int, message: int, what: int) -> bool:
    """Have client `row` say something at the end of this turn; False when there is no room.

    what: AGAIN, LEG, FIRST or SILENT. From the next kick on the answer is awaited.
    """
    if not room(test, tx):
        return False
    clients, counts = test.clients, test.counts
    phase = PHASE + message * PHASE_SIZE
    counts[phase + TIMES] += 1
    if what == AGAIN:
        clients.retransmits[row] += 1
    else:
        counts[phase + LEGS] += 1
    if what != SILENT:
        if what != AGAIN:
            clients.tries[row] = 0
            counts[AWAITED] += 1
        clients.tries[row] = min(np.int64(clients.tries[row]) + 1, 255)
        # Nobody is asked before the kick, so that is when waiting begins: `stamp_sent`.
        disarm(test.wheel, row)
    clients.flags[row] |= F_SAYS
    test.outbox[counts[PENDING]] = row << 5 | message << 2 | what
    counts[PENDING] += 1
    return True


@kernel
def _backoff_ns(test: Test, row: int, tries: int) -> int:
    """RFC 2131 section 4.1: 4, 8, 16, 32, 64 seconds, each by up to a second more or less.

    The first and the greatest are the plan's; the second is a quarter of the first.
    """
    first = test.plan[P_BACKOFF_NS]
    wait = min(first << min(tries - 1, np.int64(16)), test.plan[P_BACKOFF_MOST_NS])
    draw = scramble(row * 2654435761 + np.int64(test.clients.epoch[row]) * 97 + tries
                    + test.plan[P_SEED] & 0xFFFFFFFF)
    return wait - first // 4 + (first // 2 * (draw >> 8) >> 24)


@kernel
def _patience_ns(test: Test, row: int, at_ns: int) -> int:
    """How long the message that went out at `at_ns` waits for its answer."""
    clients, plan = test.clients, test.plan
    if plan[P_BACKOFF_NS] == 0:
        return plan[P_TIMEOUT_NS]
    state, tries = clients.state[row], np.int64(clients.tries[row])
    if (state in (RENEWING, REBINDING)) and clients.hold_tick[row] != 0:
        # Half of what is left, but a minute at least (RFC 2131 section 4.4.5).
        ends_s = np.int64(clients.t2_s[row] if state == RENEWING else clients.lease_s[row])
        left = np.int64(clients.leased_tick[row]) + life_ticks(test, ends_s) - tick_of(test, at_ns)
        return min(max(left // 2, life_ticks(test, RENEW_AGAIN_S)),
                   max(left, np.int64(1))) * TICK_NS
    return _backoff_ns(test, row, tries)


@kernel
def stamp_sent(test: Test, kicked_ns: int) -> None:
    """Write the time of the last kick into the rows whose messages it sent."""
    clients, counts = test.clients, test.counts
    for i in range(counts[PENDING]):
        row, what = test.outbox[i] >> 5, test.outbox[i] & 3
        if what != AGAIN:
            clients.leg_ns[row] = kicked_ns
        if what == SILENT:
            continue
        arm(test.wheel, row, tick_of(test, kicked_ns + _patience_ns(test, row, kicked_ns)) + 1)
        if what == FIRST:
            clients.started_ns[row] = kicked_ns
            if counts[FIRST_NS] == 0:
                counts[FIRST_NS] = kicked_ns
    counts[PENDING] = 0
