"""One turn of the load generator: answers in, timers, starts, and what they send.

The one entry is `turn`; Python calls it, takes the time and kicks the ring. The moment of
that kick is when the frames went out, so it is handed to the next turn, which writes it
into their rows before it looks at any answer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel
from fastpath.slots import (
    Slots,
    rx_bounds,
    rx_checksum_ready,
    rx_outer_tag,
    rx_peek,
    rx_release,
    rx_stamp_ns,
)
from fastpath.wheel import advance
from tester.answers import NEIGHBOUR, Answer, check_expected, judge, read
from tester.arrays import Int64s, Test
from tester.cells import (
    ACCEPTED,
    ACKS,
    ARP_ANSWERED,
    BEGUN,
    BOUND,
    CLASS,
    CLASSES,
    CURSOR,
    DUPLICATE,
    F_SAYS,
    IGNORED,
    IN_FLIGHT,
    INFORMING,
    INIT,
    LEFT,
    MISSED,
    MISSED_NS,
    NOBODY_TO_RELEASE,
    NOBODY_TO_RENEW,
    NOT_CHOSEN,
    OFFERED,
    OFFERS,
    OPEN_LOOP,
    P_ANSWERS_ARP,
    P_ANSWERS_PING,
    P_BASE_NS,
    P_EXCHANGES,
    P_STOP,
    P_WINDOW,
    PINGS_ANSWERED,
    QUEUED,
    R_IP,
    R_MAC,
    REBINDING,
    REFUSED,
    RENEWING,
    STARTED,
    TICK_NS,
    TIMEOUT_DISCOVER,
    TIMEOUT_REQUEST,
)
from tester.clients import NOBODY, holder
from tester.compose import mac_of, put_all, relay_of
from tester.exchange import begin
from tester.lease import pop_bound, release_one, renew_one
from tester.life import on_ack, on_nak, on_offer, on_other_offer, on_time
from tester.neighbours import ARP, ECHO, answer_arp, answer_echo, classify, reaches, wanted
from tester.outbox import room, stamp_sent

# Clients in the middle of something that a start may pass over to find one who is not.
_MOST_BUSY = 64
_NONE = 0


@kernel
def _mac_at(test: Test, address: int) -> int:
    """Hardware address by which an emulated host with this address is reached, or _NONE."""
    relays, clients = test.relays, test.clients
    for i in range(len(relays)):
        if relays[i, R_IP] == address and address != 0:
            return relays[i, R_MAC]
    row = holder(clients, address)
    if row == NOBODY or address == 0:
        return np.int64(_NONE)
    if clients.state[row] not in (BOUND, RENEWING, REBINDING, INFORMING):
        return np.int64(_NONE)
    # Behind a relay, the relay is the router.
    relay = relays[relay_of(test, row)]
    return relay[R_MAC] if relay[R_MAC] != 0 else mac_of(test, row)


@kernel
def _on_neighbour(test: Test, tx: Slots, rx: Slots, base: int) -> None:
    """Answer who asks for the address of a bound client or of a relay."""
    start, end = rx_bounds(rx, base)
    kind, l3 = classify(rx.mem, start, end, rx_checksum_ready(rx, base))
    answers_arp, answers_ping = test.plan[P_ANSWERS_ARP] != 0, test.plan[P_ANSWERS_PING] != 0
    if not ((kind == ARP and answers_arp) or (kind == ECHO and answers_ping)):
        return
    mac = _mac_at(test, wanted(rx.mem, kind, l3))
    # A ping to another station is not ours, even if the address is: there are two of them then.
    if mac == _NONE or not reaches(rx.mem, start, mac):
        return
    tag = rx_outer_tag(rx, base)
    if kind == ARP and answer_arp(rx.mem, start, l3, tx, mac, tag):
        test.counts[ARP_ANSWERED] += 1
        test.counts[QUEUED] += 1
    elif kind == ECHO and answer_echo(rx.mem, start, l3, tx, mac, tag):
        test.counts[PINGS_ANSWERED] += 1
        test.counts[QUEUED] += 1


@kernel
def _on_answer(test: Test, tx: Slots, rx: Slots, answer: Answer, now_ns: int) -> None:
    verdict = judge(test, answer)
    kind = answer.kind
    test.counts[CLASS + kind * CLASSES + verdict] += 1
    if verdict == ACCEPTED:
        if kind == OFFERS:
            on_offer(test, tx, answer, now_ns)
        elif kind == ACKS:
            check_expected(test, rx.mem)
            on_ack(test, tx, answer, now_ns)
        else:
            on_nak(test, tx, answer, now_ns)
    elif verdict == NOT_CHOSEN:
        on_other_offer(test, answer, now_ns)


@kernel
def _may_begin(test: Test, row: int) -> bool:
    """A client that is in the middle of nothing."""
    state = test.clients.state[row]
    if test.clients.flags[row] & F_SAYS != 0:
        return False
    if state == BOUND:
        return test.clients.hold_tick[row] == 0
    return state in (INIT, LEFT, OFFERED, IGNORED, TIMEOUT_DISCOVER, TIMEOUT_REQUEST, REFUSED,
                     DUPLICATE)


@kernel
def _next_free(test: Test) -> int:
    """The next client in turn that is in the middle of nothing, or NOBODY."""
    counts, rows = test.counts, len(test.clients.state)
    for _ in range(min(_MOST_BUSY, rows)):
        row = counts[CURSOR]
        if _may_begin(test, row):
            return row
        counts[CURSOR] = (row + 1) % rows
    return np.int64(NOBODY)


@kernel
def _start(test: Test, tx: Slots, now_ns: int, due: int, intended_ns: Int64s, limit: int) -> None:
    """Start clients: as many as the window has room for, or the `due` that the plan wants."""
    clients, counts, plan = test.clients, test.counts, test.plan
    rows = len(clients.state)
    if plan[P_WINDOW] != OPEN_LOOP:
        due = plan[P_WINDOW] - counts[IN_FLIGHT]
    if plan[P_STOP]:
        due = np.int64(0)
    for i in range(min(due, plan[P_EXCHANGES] - counts[BEGUN], limit)):
        row = _next_free(test)
        if row == NOBODY:
            return
        meant_ns = intended_ns[i] if plan[P_WINDOW] == OPEN_LOOP else now_ns
        if not begin(test, tx, row, meant_ns, now_ns):
            return
        clients.lives[row] = 0
        if now_ns - meant_ns > MISSED_NS:
            counts[MISSED] += 1
        counts[STARTED] += 1
        counts[BEGUN] += 1
        counts[CURSOR] = (row + 1) % rows


@kernel
def _serve_pool(test: Test, tx: Slots, now_ns: int, due: Int64s) -> None:
    """Let bound clients renew or release, as the plan's rates want it.

    Takes from `due` what it has done; the rest found no room in the ring.
    """
    while due[1] + due[2] > 0 and test.plan[P_STOP] == 0 and room(test, tx):
        row, renews = pop_bound(test), due[1] > 0
        due[1 if renews else 2] -= 1
        if row == NOBODY:
            test.counts[NOBODY_TO_RENEW if renews else NOBODY_TO_RELEASE] += 1
        elif renews:
            renew_one(test, tx, row, now_ns, now_ns)
        else:
            release_one(test, tx, row, now_ns)


@kernel
def turn(test: Test, rx: Slots, tx: Slots, now_ns: int, kicked_ns: int, offset_ns: int,
         trusted_from_ns: int, due: npt.NDArray[np.int64], intended_ns: Int64s, limit: int,
         ) -> tuple[int, int]:
    """Take in answers, then timers, then start clients; at most `limit` of each.

    now_ns: monotonic. kicked_ns: when the last turn's frames went out. offset_ns: wall clock
    minus monotonic; stamps that come out before trusted_from_ns are not believed.
    due: int64[3], what the plan wants now: starts (in open loop), renewals, releases, no more
    than `limit` of each; renewals and releases that were made are taken from it. intended_ns:
    for when it wanted these starts.
    Returns (frames read, frames written to `tx`, which await a kick).
    """
    stamp_sent(test, kicked_ns)
    queued = test.counts[QUEUED]
    count = 0
    # An answer may make us send: nothing is taken in that could not be followed up.
    while count < limit and room(test, tx):
        base = rx_peek(rx, count)
        if base < 0:
            break
        answer = read(test, rx, base, offset_ns, trusted_from_ns, now_ns)
        count += 1
        if answer.kind >= 0:
            _on_answer(test, tx, rx, answer, now_ns)
        elif answer.kind == NEIGHBOUR:
            _on_neighbour(test, tx, rx, base)
    rx_release(rx, count)

    # Where answers still wait to be read, it is only as late as the oldest of them: one that
    # came in time must not count as a timeout because we were slow.
    unread = rx_peek(rx, 0)
    seen_ns = now_ns if unread < 0 else min(rx_stamp_ns(rx, unread) - offset_ns, now_ns)
    fired = advance(test.wheel, (seen_ns - test.plan[P_BASE_NS]) // TICK_NS, test.fired, limit)
    for i in range(fired):
        on_time(test, tx, np.int64(test.fired[i]), now_ns)
    _serve_pool(test, tx, now_ns, due)
    _start(test, tx, now_ns, due[0], intended_ns, limit)
    put_all(test, tx, now_ns)
    return count, test.counts[QUEUED] - queued
