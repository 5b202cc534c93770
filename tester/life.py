"""What an answer, a silence or the time means to a client in the state that it is in.
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
    AGAIN,
    ANSWERED,
    B_ENDING,
    B_LIVES,
    B_OPENING,
    BOUND,
    CLIENTS_BOUND,
    DECLINE_WAIT_S,
    DISCOVER_TIMEOUT,
    DUPLICATE,
    DUPLICATES,
    E_DECLINE,
    F_BOUND,
    F_HAS_OFFER,
    F_PROBING,
    FOREVER,
    H_DORA,
    H_DORA_INTENDED,
    H_INTERVAL,
    H_RAPID,
    H_RELEASE_FREE,
    H_TIMER_LATE,
    IGNORED,
    IGNORED_LEGS,
    INFORMING,
    LAST_BOUND_NS,
    LEASES_LOST,
    LOST,
    M_DECLINE,
    M_DISCOVER,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RENEW,
    M_REQUEST,
    MALFORMED_ANSWERED,
    N_BOUND,
    NAKED,
    O_LOOK,
    O_MALFORMED,
    OFFERED,
    P_BACKOFF_NS,
    P_BASE_NS,
    P_DISCOVER_TRIES,
    P_OFFER_WAIT_NS,
    P_REQUEST_TRIES,
    P_STOP,
    PROBE_TICKS,
    R_MAX_US,
    R_SUM_US,
    REBINDING,
    REBOOTING,
    REFUSALS,
    REFUSED,
    RENEWING,
    REQUEST_TIMEOUT,
    REQUESTING,
    S_REFUSED,
    SELECTING,
    SILENT,
    TICK_NS,
    TIMEOUT_DISCOVER,
    TIMEOUT_REQUEST,
    WAITING,
)
from tester.clients import NOBODY, claim, disown
from tester.compose import life_ticks, relay_of, tick_of
from tester.exchange import (
    answered,
    begin_leg,
    come_back,
    end,
    end_leg,
    look_later,
    request,
    span_us,
    take_lease,
    take_offer,
    trait,
)
from tester.lease import next_life, on_life, probe, settle
from tester.outbox import say

_INFINITE_S = 0xFFFFFFFF


@kernel
def on_offer(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    clients, row = test.clients, answer.row
    clients.discover_offer_us[row] = answered(test, row, M_DISCOVER, answer.at_ns)
    opening = trait(test, row, B_OPENING)
    take_offer(test, answer)
    if opening >= O_MALFORMED:
        test.counts[MALFORMED_ANSWERED] += 1
    if opening >= O_LOOK:
        end(test, row, OFFERED, True)
        return
    _found(test, row, answer.at_ns)
    if test.plan[P_OFFER_WAIT_NS] != 0:
        clients.flags[row] |= F_HAS_OFFER
        arm(test.wheel, row, tick_of(test, answer.at_ns + test.plan[P_OFFER_WAIT_NS]) + 1)
        return
    request(test, tx, row, answer.at_ns, now_ns)


@kernel
def _found(test: Test, row: int, at_ns: int) -> None:
    """Who looked for an address that was given back is given it."""
    clients = test.clients
    if clients.flags[row] & F_PROBING != 0:
        record_us(test.histograms[H_RELEASE_FREE], span_us(at_ns, clients.intended_ns[row]))
        clients.intended_ns[row] = clients.started_ns[row]
        clients.flags[row] &= ~F_PROBING & 0xFF


@kernel
def on_other_offer(test: Test, answer: Answer, now_ns: int) -> None:
    """An OFFER that was not chosen: keep it where it is better, or look further."""
    clients, row = test.clients, answer.row
    if clients.state[row] != SELECTING:
        return
    if clients.flags[row] & F_HAS_OFFER != 0:
        if answer.lease_s > np.int64(clients.lease_s[row]):
            take_offer(test, answer)
    elif clients.flags[row] & F_PROBING != 0:
        end_leg(test, row, M_DISCOVER, ANSWERED)
        clients.state[row] = WAITING
        arm(test.wheel, row, tick_of(test, now_ns) + PROBE_TICKS)


@kernel
def _claimed(test: Test, row: int, address: int, at_ns: int) -> bool:
    """Enter that `row` has `address`; False where another has it by a lease still running."""
    clients = test.clients
    if np.int64(clients.yiaddr[row]) == address:
        return True
    disown(clients, row)
    other = claim(clients, row, address)
    if other == NOBODY:
        return True
    # By the server's clock, not by the client's that --time-scale makes run faster.
    ends = np.int64(clients.leased_tick[other]) + np.int64(clients.lease_s[other]) * 1000
    if clients.lease_s[other] == _INFINITE_S or tick_of(test, at_ns) < ends:
        return False
    disown(clients, other)
    claim(clients, row, address)
    return True


@kernel
def _bind(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    """An exchange has come to its ACK."""
    clients, row, counts, at_ns = test.clients, answer.row, test.counts, answer.at_ns
    take_lease(test, answer)
    lives = trait(test, row, B_LIVES)
    if trait(test, row, B_ENDING) == E_DECLINE and (
            lives == 0 or np.int64(clients.lives[row]) < lives):
        # As if ARP had found the address in use (RFC 2131 section 4.4.1).
        _note_dora(test, answer)
        end(test, row, WAITING, True)
        disown(clients, row)
        clients.lives[row] += 1
        clients.epoch[row] += 1
        clients.offered[row] = answer.yiaddr
        say(test, tx, row, M_DECLINE, SILENT)
        arm(test.wheel, row, tick_of(test, at_ns) + life_ticks(test, DECLINE_WAIT_S))
        return
    if not _claimed(test, row, answer.yiaddr, at_ns):
        counts[DUPLICATES] += 1
        end(test, row, DUPLICATE, False)
        return
    _note_dora(test, answer)
    record_us(test.histograms[H_INTERVAL], np.int64(clients.dora_us[row]))
    if clients.flags[row] & F_BOUND == 0:
        clients.flags[row] |= F_BOUND
        counts[CLIENTS_BOUND] += 1
    counts[N_BOUND] += 1
    counts[LAST_BOUND_NS] = max(counts[LAST_BOUND_NS], at_ns)
    end(test, row, BOUND, True)
    settle(test, row, at_ns)


@kernel
def _note_dora(test: Test, answer: Answer) -> None:
    """Record how long an exchange took."""
    clients, row, relay = test.clients, answer.row, test.relays[relay_of(test, answer.row)]
    span = span_us(answer.at_ns, clients.started_ns[row])
    clients.dora_us[row] = span
    record_us(test.histograms[H_DORA], span)
    record_us(test.histograms[H_DORA_INTENDED], span_us(answer.at_ns, clients.intended_ns[row]))
    relay[R_SUM_US] += span
    relay[R_MAX_US] = max(relay[R_MAX_US], span)


@kernel
def on_ack(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    clients, row, at_ns = test.clients, answer.row, answer.at_ns
    state = clients.state[row]
    if state == SELECTING:
        if clients.flags[row] & F_HAS_OFFER != 0:
            # An OFFER has ended this leg already.
            disarm(test.wheel, row)
        else:
            end_leg(test, row, M_DISCOVER, ANSWERED)
        record_us(test.histograms[H_RAPID], span_us(at_ns, clients.leg_ns[row]))
        if trait(test, row, B_OPENING) >= O_MALFORMED:
            test.counts[MALFORMED_ANSWERED] += 1
        _found(test, row, at_ns)
        _bind(test, tx, answer, now_ns)
    elif state == REQUESTING:
        clients.request_ack_us[row] = answered(test, row, M_REQUEST, at_ns)
        _bind(test, tx, answer, now_ns)
    elif state == INFORMING:
        answered(test, row, M_INFORM, at_ns)
        next_life(test, row, True, at_ns)
    else:
        message = (M_RENEW if state == RENEWING else
                   M_REBIND if state == REBINDING else M_REBOOT)
        answered(test, row, message, at_ns)
        take_lease(test, answer)
        if state == REBOOTING:
            next_life(test, row, True, at_ns)
        else:
            settle(test, row, at_ns)


@kernel
def on_nak(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    """Back to INIT with a new transaction (RFC 2131 section 3.1), if tries are left."""
    clients, counts, row = test.clients, test.counts, answer.row
    state = clients.state[row]
    counts[REFUSALS] += 1
    server = np.int64(clients.server[row]) if answer.server < 0 else answer.server
    test.servers[server, S_REFUSED] += 1
    if state == REQUESTING:
        end_leg(test, row, M_REQUEST, NAKED)
        clients.naks[row] = min(np.int64(clients.naks[row]) + 1, 255)
        if np.int64(clients.naks[row]) >= test.plan[P_DISCOVER_TRIES]:
            end(test, row, REFUSED, False)
        else:
            begin_leg(test, tx, row, SELECTING, M_DISCOVER, answer.at_ns, now_ns)
        return
    if state == REBOOTING:
        end_leg(test, row, M_REBOOT, NAKED)
        clients.lives[row] += 1
    else:
        end_leg(test, row, M_RENEW if state == RENEWING else M_REBIND, NAKED)
        counts[LEASES_LOST] += 1
    disown(clients, row)
    come_back(test, tx, row, answer.at_ns, now_ns)


@kernel
def _repeat(test: Test, tx: Slots, row: int, message: int, most: int, now_ns: int) -> bool:
    """Send again where tries are left, or where there is no room now; False: it is given up."""
    if np.int64(test.clients.tries[row]) >= most:
        return False
    if message not in (M_DISCOVER, M_REQUEST) and test.clients.yiaddr[row] == 0:
        # Its address was given to another meanwhile: there is nothing to ask for.
        return False
    if not say(test, tx, row, message, AGAIN):
        look_later(test, row, now_ns)
    return True


@kernel
def _on_silent_discover(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    clients = test.clients
    if clients.flags[row] & F_HAS_OFFER != 0:
        # Not a silence: offers were waited for, and this is the best of them.
        request(test, tx, row, now_ns, now_ns)
    elif trait(test, row, B_OPENING) >= O_MALFORMED:
        end_leg(test, row, M_DISCOVER, IGNORED_LEGS)
        end(test, row, IGNORED, True)
    elif not _repeat(test, tx, row, M_DISCOVER, test.plan[P_DISCOVER_TRIES], now_ns):
        end_leg(test, row, M_DISCOVER, LOST)
        test.counts[DISCOVER_TIMEOUT] += 1
        end(test, row, TIMEOUT_DISCOVER, False)


@kernel
def _on_silent_request(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    if not _repeat(test, tx, row, M_REQUEST, test.plan[P_REQUEST_TRIES], now_ns):
        end_leg(test, row, M_REQUEST, LOST)
        test.counts[REQUEST_TIMEOUT] += 1
        end(test, row, TIMEOUT_REQUEST, False)


@kernel
def _on_silent_renewal(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """No answer in RENEWING or REBINDING (RFC 2131 section 4.4.5)."""
    clients = test.clients
    renewing = clients.state[row] == RENEWING
    message = M_RENEW if renewing else M_REBIND
    living = clients.hold_tick[row] != 0
    most = test.plan[P_REQUEST_TRIES]
    tick, ends = tick_of(test, now_ns), np.int64(FOREVER)
    if living:
        seconds = np.int64(clients.t2_s[row] if renewing else clients.lease_s[row])
        ends = np.int64(clients.leased_tick[row]) + life_ticks(test, seconds)
        if test.plan[P_BACKOFF_NS] != 0:
            # By that rule it asks until T2, or until the end.
            most = np.int64(256)
    if tick < ends and test.plan[P_STOP] == 0 and _repeat(test, tx, row, message, most, now_ns):
        return
    end_leg(test, row, message, LOST)
    clients.state[row] = BOUND
    if living:
        arm(test.wheel, row, max(min(ends, np.int64(clients.hold_tick[row])), tick + 1))
    else:
        settle(test, row, now_ns)


@kernel
def _on_silent_reboot(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """Nobody confirms the address: look for one (RFC 2131 section 3.2, paragraph 5)."""
    if not _repeat(test, tx, row, M_REBOOT, test.plan[P_REQUEST_TRIES], now_ns):
        end_leg(test, row, M_REBOOT, LOST)
        test.clients.lives[row] += 1
        come_back(test, tx, row, now_ns, now_ns)


@kernel
def _on_silent_inform(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    if not _repeat(test, tx, row, M_INFORM, test.plan[P_REQUEST_TRIES], now_ns):
        end_leg(test, row, M_INFORM, LOST)
        next_life(test, row, True, now_ns)


@kernel
def on_time(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """The timer of a client has fired: an answer stayed away, or its time has come."""
    clients = test.clients
    state = clients.state[row]
    if state == SELECTING:
        _on_silent_discover(test, tx, row, now_ns)
    elif state == REQUESTING:
        _on_silent_request(test, tx, row, now_ns)
    elif state in (RENEWING, REBINDING):
        _on_silent_renewal(test, tx, row, now_ns)
    elif state == REBOOTING:
        _on_silent_reboot(test, tx, row, now_ns)
    elif state == INFORMING:
        _on_silent_inform(test, tx, row, now_ns)
    else:
        due_ns = test.plan[P_BASE_NS] + np.int64(test.wheel.due[row]) * TICK_NS
        record_us(test.histograms[H_TIMER_LATE], span_us(now_ns, due_ns))
        if state == BOUND:
            on_life(test, tx, row, due_ns, now_ns)
        elif clients.flags[row] & F_PROBING != 0:
            probe(test, tx, row, now_ns)
        else:
            come_back(test, tx, row, due_ns, now_ns)
