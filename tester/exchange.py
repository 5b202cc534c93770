"""Exchanges and legs: how they begin and how they end.

States and transitions are those of RFC 2131 figure 5. An *exchange* is the search for an
address, from the first DISCOVER to the ACK; a *leg* is one message and its answer. A client
waits for one thing at a time, so one timer a client is enough.
"""

from __future__ import annotations

import numpy as np

from fastpath.jit import kernel
from fastpath.record import record_us
from fastpath.slots import Slots
from fastpath.wheel import arm, disarm
from tester.answers import Answer
from tester.arrays import Test
from tester.cells import (
    ANSWERED,
    AWAITED,
    COMPLETED,
    F_HAS_OFFER,
    F_PROBING,
    FAILED,
    FIRST,
    H_INTENDED,
    H_LEG,
    IGNORED_LEGS,
    IN_FLIGHT,
    INIT,
    LEFT,
    LEG,
    LOST,
    M_DISCOVER,
    M_REQUEST,
    P_STOP,
    PHASE,
    PHASE_SIZE,
    R_COMPLETED,
    R_FAILED,
    R_STARTED,
    REQUESTING,
    RETURNED,
    S_CHOSEN,
    SELECTING,
    WAITING,
)
from tester.compose import relay_of, tick_of
from tester.outbox import room, say


@kernel
def span_us(later_ns: int, earlier_ns: int) -> int:
    return max((later_ns - earlier_ns + 500) // 1000, np.int64(0))


@kernel
def trait(test: Test, row: int, cell: int) -> int:
    """A cell of the client's behaviour."""
    return test.behaviours[test.clients.behaviour[row], cell]


@kernel
def look_later(test: Test, row: int, now_ns: int) -> None:
    """The ring has no room: look again at the next tick."""
    arm(test.wheel, row, tick_of(test, now_ns) + 1)


@kernel
def begin(test: Test, tx: Slots, row: int, intended_ns: int, now_ns: int) -> bool:
    """Begin an exchange; False, and nothing done, when the ring has no room."""
    clients, counts = test.clients, test.counts
    if not room(test, tx):
        return False
    if clients.state[row] != INIT:
        clients.epoch[row] += 1
    clients.flags[row] &= ~(F_HAS_OFFER | F_PROBING) & 0xFF
    clients.state[row] = SELECTING
    clients.naks[row] = 0
    clients.hold_tick[row] = 0
    clients.intended_ns[row] = clients.due_ns[row] = intended_ns
    say(test, tx, row, M_DISCOVER, FIRST)
    counts[IN_FLIGHT] += 1
    test.relays[relay_of(test, row), R_STARTED] += 1
    return True


@kernel
def come_back(test: Test, tx: Slots, row: int, intended_ns: int, now_ns: int) -> None:
    """A client looks for an address by itself, not because the plan says so."""
    if test.plan[P_STOP] != 0:
        test.clients.state[row] = LEFT
    elif begin(test, tx, row, intended_ns, now_ns):
        test.counts[RETURNED] += 1
    else:
        test.clients.state[row] = WAITING
        look_later(test, row, now_ns)


@kernel
def end_leg(test: Test, row: int, message: int, how: int) -> None:
    test.counts[PHASE + message * PHASE_SIZE + how] += 1
    test.counts[AWAITED] -= 1
    disarm(test.wheel, row)
    if how in (LOST, IGNORED_LEGS):
        # What is answered now is answered too late.
        test.clients.epoch[row] += 1


@kernel
def answered(test: Test, row: int, message: int, at_ns: int) -> int:
    """End a leg with its answer; returns its microseconds."""
    clients = test.clients
    end_leg(test, row, message, ANSWERED)
    span = span_us(at_ns, clients.leg_ns[row])
    record_us(test.histograms[H_LEG + message], span)
    record_us(test.histograms[H_INTENDED + message], span_us(at_ns, clients.due_ns[row]))
    return span


@kernel
def end(test: Test, row: int, state: int, completed: bool) -> None:
    """An exchange is over."""
    counts, relay = test.counts, test.relays[relay_of(test, row)]
    test.clients.state[row] = state
    test.clients.flags[row] &= ~(F_HAS_OFFER | F_PROBING) & 0xFF
    counts[IN_FLIGHT] -= 1
    if completed:
        counts[COMPLETED] += 1
        relay[R_COMPLETED] += 1
    else:
        counts[FAILED] += 1
        relay[R_FAILED] += 1


@kernel
def begin_leg(test: Test, tx: Slots, row: int, state: int, message: int, due_ns: int, now_ns: int,
         ) -> bool:
    """Begin a leg in a transaction of its own; False when the ring has no room."""
    if not room(test, tx):
        look_later(test, row, now_ns)
        return False
    clients = test.clients
    clients.state[row] = state
    clients.epoch[row] += 1
    clients.due_ns[row] = due_ns
    return say(test, tx, row, message, LEG)


@kernel
def request(test: Test, tx: Slots, row: int, due_ns: int, now_ns: int) -> None:
    """Ask for the address offered: same transaction (RFC 2131 section 4.4.1)."""
    clients = test.clients
    if not room(test, tx):
        look_later(test, row, now_ns)
        return
    clients.state[row] = REQUESTING
    clients.flags[row] &= ~F_HAS_OFFER & 0xFF
    clients.due_ns[row] = due_ns
    test.servers[clients.server[row], S_CHOSEN] += 1
    say(test, tx, row, M_REQUEST, LEG)


@kernel
def take_offer(test: Test, answer: Answer) -> None:
    """Note what an OFFER promises."""
    clients, row = test.clients, answer.row
    clients.server[row] = answer.server
    clients.offered[row] = answer.yiaddr
    clients.lease_s[row] = answer.lease_s


@kernel
def take_lease(test: Test, answer: Answer) -> None:
    """Note what an ACK gives; a lease runs from when it was asked for (4.4.1)."""
    clients, row = test.clients, answer.row
    clients.server[row] = answer.server
    clients.lease_s[row] = answer.lease_s
    clients.t1_s[row] = answer.t1_s
    clients.t2_s[row] = answer.t2_s
    clients.leased_tick[row] = max(tick_of(test, clients.leg_ns[row]), np.int64(0))
