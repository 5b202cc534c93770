"""One turn of the load generator: answers in, timeouts, starts, and what they send.

The one entry is `turn`; Python calls it, takes the time and kicks the ring. The moment of
that kick is when the frames went out, so it is handed to the next turn, which writes it
into their rows before it looks at any answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    NO_TAG,
    be48,
    put48,
    put_ethernet,
    put_option32,
    seal,
)
from fastpath.frame import (
    Memory,
    Options,
    be32,
    check_bootp,
    check_frame,
    copy,
    find_options,
    option32,
    option_byte,
    put16,
    put32,
)
from fastpath.jit import kernel
from fastpath.record import record_us
from fastpath.slots import (
    Slots,
    rx_bounds,
    rx_checksum_ready,
    rx_outer_tag,
    rx_peek,
    rx_release,
    rx_stamp_ns,
    tx_commit,
    tx_start,
)
from fastpath.wheel import Wheel, advance, arm, disarm
from fastpath.wire import MessageType, Reason
from tester.clients import (
    BOUND,
    DUPLICATE,
    INIT,
    NOBODY,
    REFUSED,
    REQUESTING,
    SELECTING,
    TIMEOUT_DISCOVER,
    TIMEOUT_REQUEST,
    Clients,
    claim,
    row_of,
    xid_of,
)

_OK, _NO_TYPE = int(Reason.OK), int(Reason.NO_MESSAGE_TYPE)
_INCOMPLETE, _NOT_DHCP = int(Reason.INCOMPLETE), int(Reason.NOT_DHCP)
DISCOVER, OFFER = int(MessageType.DISCOVER), int(MessageType.OFFER)
REQUEST, ACK, NAK = int(MessageType.REQUEST), int(MessageType.ACK), int(MessageType.NAK)
_KIND, _WANTED, _SERVER_ID, _LEASE = 53, 50, 54, 51
_XID, _SECS, _YIADDR, _CHADDR = wire.XID, wire.SECS, wire.YIADDR, wire.CHADDR
TICK_NS = 1_000_000
# A start that comes later than this after its intended time is one that the generator missed.
MISSED_NS = 10_000_000

# Cells of `counts`: sent and received by message type, frames refused by Reason, then these.
TYPES = 19
SENT, RETRANSMITTED, RECEIVED, MALFORMED = 0, TYPES, 2 * TYPES, 3 * TYPES
_OTHER = MALFORMED + len(Reason)
(UNKNOWN_XID, LATE, REPEATED, DISCOVER_TIMEOUT, REQUEST_TIMEOUT, NAKS, DUPLICATES, MISSED,
 STARTED, N_BOUND, FAILED, IN_FLIGHT, PENDING, FIRST_NS, LAST_BOUND_NS, UNTRUSTED,
 QUEUED, COUNTS) = range(_OTHER, _OTHER + 18)

# Rows of `histograms`; the last is emptied every interval.
DISCOVER_OFFER, REQUEST_ACK, DORA, DORA_FROM_INTENDED, INTERVAL = range(5)
HISTOGRAMS = 5

# Cells of `plan`.
(P_WINDOW, P_STOP, P_TIMEOUT_NS, P_DISCOVER_TRIES, P_REQUEST_TRIES, P_SEED, P_MAC,
 P_BASE_NS, P_PORT) = range(9)
PLAN_SIZE = 9
OPEN_LOOP = 0
# What a message is: sent again, the first of its leg, the first DISCOVER of its client.
AGAIN, LEG, FIRST = range(3)


class Test(NamedTuple):
    """All that a test is, as arrays.

    plan: int64[PLAN_SIZE]: P_WINDOW exchanges in flight, or OPEN_LOOP; P_STOP, no more
    starts; P_TIMEOUT_NS; P_DISCOVER_TRIES and P_REQUEST_TRIES, transmissions of each message
    at most; P_SEED; P_MAC of the first client; P_BASE_NS, when ticks began; P_PORT, ours.
    discover, request: uint8, templates from the IPv4 header to the last fixed option.
    counts: int64[COUNTS]. histograms: int64[HISTOGRAMS, SIZE]. fired: int32, rows whose
    time is out. sent: int64, what went out in this turn: row * 4 + AGAIN, LEG or FIRST.
    """

    clients: Clients
    wheel: Wheel
    plan: npt.NDArray[np.int64]
    discover: Memory
    request: Memory
    options: Options
    counts: npt.NDArray[np.int64]
    histograms: npt.NDArray[np.int64]
    fired: npt.NDArray[np.int32]
    sent: npt.NDArray[np.int64]


class Answer(NamedTuple):
    """A sound message to us as numbers."""

    kind: int
    row: int
    epoch: int
    yiaddr: int
    server: int
    lease_s: int
    at_ns: int


@kernel
def _put(test: Test, tx: Slots, row: int, now_ns: int) -> bool:
    """Write the message that the client's state wants; False when the ring has no room."""
    clients, plan = test.clients, test.plan
    start = tx_start(tx)
    if start < 0:
        return False
    mem, mac = tx.mem, plan[P_MAC] + row
    asks = clients.state[row] == REQUESTING
    what = AGAIN if clients.tries[row] else LEG if asks or clients.epoch[row] else FIRST
    template = test.request if asks else test.discover
    ip = put_ethernet(mem, start, BROADCAST_MAC, mac, NO_TAG, NO_TAG)
    copy(mem, ip, template, 0, len(template))
    bootp = ip + BOOTP
    put32(mem, bootp + _XID, xid_of(row, np.int64(clients.epoch[row]), len(clients.state),
                                    plan[P_SEED]))
    put48(mem, bootp + _CHADDR, mac)
    if not asks and what != FIRST:
        seconds = (now_ns - clients.started_ns[row]) // 1_000_000_000
        clients.secs[row] = min(seconds, np.int64(0xFFFF))
    # A REQUEST repeats what its DISCOVER said (RFC 2131 section 3.1).
    put16(mem, bootp + _SECS, np.int64(clients.secs[row]))
    at = ip + len(template)
    if asks:
        at = put_option32(mem, at, _WANTED, np.int64(clients.yiaddr[row]))
        at = put_option32(mem, at, _SERVER_ID, np.int64(clients.server[row]))
    tx_commit(tx, seal(mem, ip, at) - start)
    test.counts[QUEUED] += 1

    kind = REQUEST if asks else DISCOVER
    test.counts[SENT + kind] += 1
    if what == AGAIN:
        test.counts[RETRANSMITTED + kind] += 1
        clients.retransmits[row] += 1
    clients.tries[row] += 1
    test.sent[test.counts[PENDING]] = row * 4 + what
    test.counts[PENDING] += 1
    # Nobody is asked before the kick, so that is when waiting begins: `_stamp_sent`.
    disarm(test.wheel, row)
    return True


@kernel
def _stamp_sent(test: Test, kicked_ns: int) -> None:
    """Write the time of the last kick into the rows whose messages it sent."""
    clients, counts = test.clients, test.counts
    deadline_ns = kicked_ns + test.plan[P_TIMEOUT_NS] - test.plan[P_BASE_NS]
    for i in range(counts[PENDING]):
        row, what = test.sent[i] >> 2, test.sent[i] & 3
        arm(test.wheel, row, deadline_ns // TICK_NS + 1)
        if what != AGAIN:
            clients.leg_ns[row] = kicked_ns
        if what == FIRST:
            clients.started_ns[row] = kicked_ns
            if counts[FIRST_NS] == 0:
                counts[FIRST_NS] = kicked_ns
    counts[PENDING] = 0


@kernel
def _end(test: Test, row: int, state: int) -> None:
    """The client's exchange is over."""
    test.clients.state[row] = state
    disarm(test.wheel, row)
    test.counts[IN_FLIGHT] -= 1
    if state == BOUND:
        test.counts[N_BOUND] += 1
    else:
        test.counts[FAILED] += 1


@kernel
def _span_us(later_ns: int, earlier_ns: int) -> int:
    return max((later_ns - earlier_ns + 500) // 1000, np.int64(0))


@kernel
def _on_offer(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    clients, row = test.clients, answer.row
    span = _span_us(answer.at_ns, clients.leg_ns[row])
    record_us(test.histograms[DISCOVER_OFFER], span)
    clients.discover_offer_us[row] = span
    clients.yiaddr[row] = answer.yiaddr
    clients.server[row] = answer.server
    clients.state[row] = REQUESTING
    clients.tries[row] = 0
    _put(test, tx, row, now_ns)


@kernel
def _on_ack(test: Test, answer: Answer) -> None:
    clients, row, histograms, counts = test.clients, answer.row, test.histograms, test.counts
    span = _span_us(answer.at_ns, clients.leg_ns[row])
    record_us(histograms[REQUEST_ACK], span)
    clients.request_ack_us[row] = span
    clients.yiaddr[row] = answer.yiaddr
    clients.server[row] = answer.server
    clients.lease_s[row] = answer.lease_s
    if claim(clients, row, answer.yiaddr) != NOBODY:
        counts[DUPLICATES] += 1
        _end(test, row, DUPLICATE)
        return
    dora = _span_us(answer.at_ns, clients.started_ns[row])
    clients.dora_us[row] = dora
    record_us(histograms[DORA], dora)
    record_us(histograms[INTERVAL], dora)
    record_us(histograms[DORA_FROM_INTENDED], _span_us(answer.at_ns, clients.intended_ns[row]))
    counts[LAST_BOUND_NS] = max(counts[LAST_BOUND_NS], answer.at_ns)
    _end(test, row, BOUND)


@kernel
def _on_nak(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """Back to INIT with a new transaction (RFC 2131 section 3.1), if tries are left."""
    clients = test.clients
    test.counts[NAKS] += 1
    if np.int64(clients.epoch[row]) + 1 >= test.plan[P_DISCOVER_TRIES]:
        _end(test, row, REFUSED)
        return
    clients.epoch[row] += 1
    clients.state[row] = SELECTING
    clients.tries[row] = 0
    _put(test, tx, row, now_ns)


@kernel
def _on_answer(test: Test, tx: Slots, answer: Answer, now_ns: int) -> None:
    """What an answer means in the state that its client is in."""
    clients, counts, row = test.clients, test.counts, answer.row
    state = clients.state[row]
    if answer.epoch > clients.epoch[row] or state == INIT:
        counts[UNKNOWN_XID] += 1
    elif (answer.epoch < clients.epoch[row]
          or state in (TIMEOUT_DISCOVER, TIMEOUT_REQUEST, REFUSED)):
        # To an exchange that a NAK ended, or that was given up.
        counts[LATE] += 1
    elif state == SELECTING and answer.kind == OFFER:
        _on_offer(test, tx, answer, now_ns)
    elif state == REQUESTING and answer.kind == ACK:
        _on_ack(test, answer)
    elif state == REQUESTING and answer.kind == NAK:
        _on_nak(test, tx, row, now_ns)
    else:
        counts[REPEATED] += 1


@kernel
def _read(test: Test, rx: Slots, base: int, offset_ns: int, trusted_from_ns: int, now_ns: int,
          ) -> Answer:
    """The frame in the slot at `base` as an Answer; its `kind` is 0 when it is none for us."""
    counts, plan, mem = test.counts, test.plan, rx.mem
    rows = len(test.clients.state)
    nothing = Answer(np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0),
                     np.int64(0))
    start, end = rx_bounds(rx, base)
    tags = 0 if rx_outer_tag(rx, base) == NO_TAG else 1
    reason, _, bootp, bootp_end = check_frame(mem, start, end, tags, rx_checksum_ready(rx, base),
                                              plan[P_PORT], plan[P_PORT])
    if reason == _NOT_DHCP:
        return nothing
    if reason == _OK:
        reason = check_bootp(mem, bootp, bootp_end)
    if reason == _OK:
        if mem[bootp] != 2:
            return nothing
        reason = find_options(mem, bootp, bootp_end, test.options)
    options, kind = test.options, np.int64(0)
    if reason == _OK:
        if options.length[_KIND] == 1:
            kind = option_byte(mem, options, _KIND, 0)
        if kind not in (OFFER, ACK, NAK):
            reason = _NO_TYPE
        elif kind != NAK and (be32(mem, bootp + _YIADDR) == 0 or options.length[_SERVER_ID] != 4):
            reason = _INCOMPLETE
    if reason != _OK:
        counts[MALFORMED + reason] += 1
        return nothing
    counts[RECEIVED + kind] += 1
    row, epoch = row_of(be32(mem, bootp + _XID), rows, plan[P_SEED])
    if be48(mem, bootp + _CHADDR) != plan[P_MAC] + row:
        counts[UNKNOWN_XID] += 1
        return nothing
    server = option32(mem, options, _SERVER_ID) if options.length[_SERVER_ID] == 4 else np.int64(0)
    lease_s = option32(mem, options, _LEASE) if options.length[_LEASE] == 4 else np.int64(0)
    at_ns = rx_stamp_ns(rx, base) - offset_ns
    if at_ns < trusted_from_ns or at_ns > now_ns + TICK_NS:
        # The wall clock was set under us: our own clock is late by at most one batch.
        counts[UNTRUSTED] += 1
        at_ns = now_ns
    return Answer(kind, row, epoch, be32(mem, bootp + _YIADDR), server, lease_s, at_ns)


@kernel
def _on_timeout(test: Test, tx: Slots, row: int, now_ns: int) -> None:
    """No answer in time: send again, or give up."""
    clients, counts, plan = test.clients, test.counts, test.plan
    asks = clients.state[row] == REQUESTING
    most = plan[P_REQUEST_TRIES] if asks else plan[P_DISCOVER_TRIES]
    if np.int64(clients.tries[row]) < most:
        if not _put(test, tx, row, now_ns):
            # No room now: look again at the next tick.
            arm(test.wheel, row, (now_ns - plan[P_BASE_NS]) // TICK_NS + 1)
        return
    counts[REQUEST_TIMEOUT if asks else DISCOVER_TIMEOUT] += 1
    _end(test, row, TIMEOUT_REQUEST if asks else TIMEOUT_DISCOVER)


@kernel
def _start(test: Test, tx: Slots, now_ns: int, due: int, intended_ns: npt.NDArray[np.int64],
           limit: int) -> None:
    """Start clients: as many as the window has room for, or the `due` that the plan wants."""
    clients, counts, plan = test.clients, test.counts, test.plan
    left = len(clients.state) - counts[STARTED]
    if plan[P_WINDOW] != OPEN_LOOP:
        due = plan[P_WINDOW] - counts[IN_FLIGHT]
    if plan[P_STOP]:
        due = np.int64(0)
    for i in range(min(due, left, limit)):
        row = counts[STARTED]
        clients.state[row] = SELECTING
        clients.intended_ns[row] = intended_ns[i] if plan[P_WINDOW] == OPEN_LOOP else now_ns
        if not _put(test, tx, row, now_ns):
            clients.state[row] = INIT
            return
        if now_ns - clients.intended_ns[row] > MISSED_NS:
            counts[MISSED] += 1
        counts[STARTED] += 1
        counts[IN_FLIGHT] += 1


@kernel
def turn(test: Test, rx: Slots, tx: Slots, now_ns: int, kicked_ns: int, offset_ns: int,
         trusted_from_ns: int, due: int, intended_ns: npt.NDArray[np.int64], limit: int,
         ) -> tuple[int, int]:
    """Take in answers, then timeouts, then start clients; at most `limit` of each.

    now_ns: monotonic. kicked_ns: when the last turn's frames went out. offset_ns: wall clock
    minus monotonic; stamps that come out before trusted_from_ns are not believed.
    due, intended_ns: open loop: how many starts the plan wants now, and for when.
    Returns (frames read, frames written to `tx`, which await a kick).
    """
    _stamp_sent(test, kicked_ns)
    queued = test.counts[QUEUED]
    count = 0
    # An answer may make us send: nothing is taken in that could not be followed up.
    while count < limit and tx_start(tx) >= 0:
        base = rx_peek(rx, count)
        if base < 0:
            break
        answer = _read(test, rx, base, offset_ns, trusted_from_ns, now_ns)
        count += 1
        if answer.kind != 0:
            _on_answer(test, tx, answer, now_ns)
    rx_release(rx, count)

    # Where answers still wait to be read, it is only as late as the oldest of them: one that
    # came in time must not count as a timeout because we were slow.
    unread = rx_peek(rx, 0)
    seen_ns = now_ns if unread < 0 else min(rx_stamp_ns(rx, unread) - offset_ns, now_ns)
    fired = advance(test.wheel, (seen_ns - test.plan[P_BASE_NS]) // TICK_NS, test.fired, limit)
    for i in range(fired):
        _on_timeout(test, tx, np.int64(test.fired[i]), now_ns)
    _start(test, tx, now_ns, due, intended_ns, limit)
    return count, test.counts[QUEUED] - queued
