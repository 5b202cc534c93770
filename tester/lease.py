"""What a client does with its lease: hold it, renew it, give it back, or let it run out.
"""

from __future__ import annotations

import numpy as np

from fastpath.jit import kernel
from fastpath.slots import Slots
from fastpath.wheel import arm
from tester.arrays import Test
from tester.cells import (
    B_ENDING,
    B_HOLD,
    B_LIVES,
    B_RENEWS,
    B_RETURN,
    BOUND,
    DISCOVER_TIMEOUT,
    E_DECLINE,
    E_EXPIRE,
    E_HANDOVER,
    E_INFORM,
    E_REBOOT,
    E_RELEASE,
    E_STAY,
    F_POOLED,
    F_PROBING,
    FIRST,
    FOREVER,
    IN_FLIGHT,
    INFORMING,
    LEASES_EXPIRED,
    LEASES_LOST,
    LEFT,
    M_DISCOVER,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RELEASE,
    M_RENEW,
    P_POOLED,
    P_STOP,
    POOL_HEAD,
    POOL_SIZE,
    PROBES,
    R_STARTED,
    REBINDING,
    REBOOTING,
    RENEWING,
    RETURNED,
    SELECTING,
    SILENT,
    SILENT_LEAVES,
    TIMEOUT_DISCOVER,
    WAITING,
)
from tester.clients import NOBODY, disown
from tester.compose import life_ticks, relay_of, tick_of
from tester.exchange import begin_leg, come_back, end, look_later, trait
from tester.outbox import room, say

_INFINITE_S = 0xFFFFFFFF
# A client that looks for an address that was given back asks for it this long at most.
MOST_PROBING_NS = 10_000_000_000


@kernel
def settle(test: Test, row: int, at_ns: int) -> None:
    """Bound: wait for what comes next in its life, if anything does."""
    clients = test.clients
    clients.state[row] = BOUND
    if clients.hold_tick[row] == 0 and not _hold(test, row, at_ns):
        _push(test, row)
        return
    tick = np.int64(clients.hold_tick[row])
    if clients.lease_s[row] != _INFINITE_S:
        renews = trait(test, row, B_RENEWS) != 0
        seconds = np.int64(clients.t1_s[row] if renews else clients.lease_s[row])
        tick = min(tick, np.int64(clients.leased_tick[row]) + life_ticks(test, seconds))
    if tick < FOREVER:
        arm(test.wheel, row, tick)


@kernel
def _hold(test: Test, row: int, at_ns: int) -> bool:
    """Set until when the lease is to be held; False where nothing more is to happen."""
    clients = test.clients
    ends, lives = trait(test, row, B_ENDING), trait(test, row, B_LIVES)
    over = lives != 0 and np.int64(clients.lives[row]) >= lives
    if over and ends != E_DECLINE:
        return False
    if ends in (E_STAY, E_DECLINE) and trait(test, row, B_HOLD) == 0:
        return False
    clients.hold_tick[row] = max(min(tick_of(test, at_ns) + trait(test, row, B_HOLD), FOREVER),
                                 np.int64(1))
    return True


@kernel
def next_life(test: Test, row: int, present: bool, at_ns: int) -> None:
    """One life is over; a client that is still here holds its lease again, others come back."""
    clients = test.clients
    lives = trait(test, row, B_LIVES)
    clients.lives[row] = min(np.int64(clients.lives[row]) + 1, 0xFFFF)
    clients.hold_tick[row] = 0
    if present:
        settle(test, row, at_ns)
    elif lives == 0 or np.int64(clients.lives[row]) < lives:
        clients.state[row] = WAITING
        arm(test.wheel, row, tick_of(test, at_ns) + max(trait(test, row, B_RETURN), np.int64(1)))
    else:
        clients.state[row] = LEFT


@kernel
def release(test: Test, tx: Slots, row: int, now_ns: int) -> bool:
    """Give the address back (RFC 2131 section 4.4.6); False when the ring has no room."""
    if not room(test, tx):
        return False
    clients = test.clients
    clients.epoch[row] += 1
    clients.offered[row] = clients.yiaddr[row]
    say(test, tx, row, M_RELEASE, SILENT)
    disown(clients, row)
    return True


@kernel
def _end_life(test: Test, tx: Slots, row: int, due_ns: int, now_ns: int) -> None:
    """The lease was held long enough: do as the behaviour says."""
    clients, counts = test.clients, test.counts
    ending = trait(test, row, B_ENDING)
    if ending in (E_STAY, E_DECLINE, E_EXPIRE):
        clients.hold_tick[row] = 0
        _push(test, row)
    elif ending == E_REBOOT:
        begin_leg(test, tx, row, REBOOTING, M_REBOOT, due_ns, now_ns)
    elif ending == E_INFORM:
        begin_leg(test, tx, row, INFORMING, M_INFORM, due_ns, now_ns)
    elif ending in (E_RELEASE, E_HANDOVER):
        if not release(test, tx, row, now_ns):
            look_later(test, row, now_ns)
        elif ending == E_RELEASE:
            next_life(test, row, False, now_ns)
        else:
            # Under another name it asks for the same address until it gets it.
            clients.flags[row] |= F_PROBING
            clients.lives[row] += 1
            clients.naks[row] = 0
            clients.hold_tick[row] = 0
            clients.state[row] = WAITING
            clients.intended_ns[row] = 0
            counts[RETURNED] += 1
            counts[IN_FLIGHT] += 1
            test.relays[relay_of(test, row), R_STARTED] += 1
            arm(test.wheel, row, tick_of(test, now_ns) + 1)
    else:
        counts[SILENT_LEAVES] += 1
        next_life(test, row, False, now_ns)


@kernel
def probe(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """Ask for the address that was given back, under a name not used before."""
    clients = test.clients
    if clients.intended_ns[row] == 0:
        # `stamp_sent` put there when the RELEASE went out.
        clients.intended_ns[row] = clients.leg_ns[row]
    if now_ns - clients.intended_ns[row] > MOST_PROBING_NS:
        test.counts[DISCOVER_TIMEOUT] += 1
        end(test, row, TIMEOUT_DISCOVER, False)
    elif not room(test, tx):
        look_later(test, row, now_ns)
    else:
        clients.alias[row] += 1
        clients.epoch[row] += 1
        clients.state[row] = SELECTING
        clients.due_ns[row] = now_ns
        test.counts[PROBES] += 1
        say(test, tx, row, M_DISCOVER, FIRST)


@kernel
def on_life(test: Test, tx: Slots, row: int, due_ns: int, now_ns: int) -> None:
    """A bound client's timer: its hold is over, or T1, T2 or its lease."""
    clients, tick = test.clients, tick_of(test, now_ns)
    if test.plan[P_STOP] != 0:
        return
    leased = np.int64(clients.leased_tick[row])
    # Where the server's clock is faster, another client can have this address already.
    held = clients.yiaddr[row] != 0
    if held and tick >= np.int64(clients.hold_tick[row]):
        _end_life(test, tx, row, due_ns, now_ns)
    elif not held or tick >= leased + life_ticks(test, np.int64(clients.lease_s[row])):
        _expire(test, tx, row, due_ns, now_ns)
    elif tick >= leased + life_ticks(test, np.int64(clients.t2_s[row])):
        begin_leg(test, tx, row, REBINDING, M_REBIND, due_ns, now_ns)
    else:
        begin_leg(test, tx, row, RENEWING, M_RENEW, due_ns, now_ns)


@kernel
def _expire(test: Test, tx: Slots, row: int, due_ns: int, now_ns: int) -> None:
    """The lease has ended: as was meant, or because nobody would renew it."""
    disown(test.clients, row)
    if trait(test, row, B_RENEWS) != 0:
        test.counts[LEASES_LOST] += 1
        come_back(test, tx, row, due_ns, now_ns)
        return
    test.counts[LEASES_EXPIRED] += 1
    next_life(test, row, False, now_ns)


@kernel
def _push(test: Test, row: int) -> None:
    """Nothing is before this client any more: let --renew-rate and --release-rate have it."""
    counts, pool, flags = test.counts, test.pool, test.clients.flags
    if test.plan[P_POOLED] == 0 or flags[row] & F_POOLED != 0:
        return
    flags[row] |= F_POOLED
    pool[(counts[POOL_HEAD] + counts[POOL_SIZE]) % len(pool)] = row
    counts[POOL_SIZE] += 1


@kernel
def pop_bound(test: Test) -> int:
    """The client who has been bound and left alone for longest, or NOBODY."""
    counts, pool, clients = test.counts, test.pool, test.clients
    while counts[POOL_SIZE]:
        row = np.int64(pool[counts[POOL_HEAD]])
        counts[POOL_HEAD] = (counts[POOL_HEAD] + 1) % len(pool)
        counts[POOL_SIZE] -= 1
        clients.flags[row] &= ~F_POOLED & 0xFF
        # Its address can have been given to another since its lease ended.
        if clients.state[row] == BOUND and clients.hold_tick[row] == 0 and clients.yiaddr[row] != 0:
            return row
    return np.int64(NOBODY)


@kernel
def renew_one(test: Test, tx: Slots, row: int, due_ns: int, now_ns: int) -> None:
    begin_leg(test, tx, row, RENEWING, M_RENEW, due_ns, now_ns)


@kernel
def release_one(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    release(test, tx, row, now_ns)
    test.clients.state[row] = LEFT
