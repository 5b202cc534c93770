"""Read what arrives: prove it sound, find whose it is, and judge what it is to that client."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastpath import wire
from fastpath.build import NO_TAG, be48
from fastpath.frame import (
    Memory,
    be16,
    be32,
    check_bootp,
    check_frame,
    find_options,
    option32,
    option_byte,
)
from fastpath.jit import kernel
from fastpath.slots import Slots, rx_bounds, rx_checksum_ready, rx_outer_tag, rx_stamp_ns
from fastpath.wire import MessageType, Reason
from tester.arrays import Test
from tester.cells import (
    ACCEPTED,
    ACKS,
    CLASS,
    CLASSES,
    DOUBLE,
    F_HAS_OFFER,
    F_PROBING,
    F_SAYS,
    INFORMING,
    INIT,
    MALFORMED,
    MOST_SERVERS,
    NAKS,
    NOT_CHOSEN,
    OFFER_SERVER,
    OFFERS,
    P_OFFER_POLICY,
    P_OFFER_SERVER,
    P_OTHER_PORT,
    P_PORT,
    P_RAPID,
    P_SEED,
    REBINDING,
    REBOOTING,
    REFUSED,
    RENEWING,
    REQUESTING,
    S_ACKS,
    S_ID,
    S_MAC,
    S_NAKS,
    S_OFFERS,
    SELECTING,
    TICK_NS,
    TIMEOUT_DISCOVER,
    TIMEOUT_REQUEST,
    TOO_LATE,
    UNEXPECTED,
    UNEXPECTED_OPTION,
    UNKNOWN,
    UNTRUSTED,
    WRONG_ADDRESS,
    WRONG_SERVER,
    X_ABSENT,
    X_CODE,
    X_DIFFERENT,
    X_HOW,
    X_LENGTH,
    X_MISSING,
    X_PRESENT,
    X_START,
)
from tester.clients import epochs_of, row_of
from tester.compose import mac_of

_OK, _NO_TYPE, _NOT_IPV4 = int(Reason.OK), int(Reason.NO_MESSAGE_TYPE), int(Reason.NOT_IPV4)
_INCOMPLETE, _NOT_DHCP = int(Reason.INCOMPLETE), int(Reason.NOT_DHCP)
_OFFER, _ACK, _NAK = int(MessageType.OFFER), int(MessageType.ACK), int(MessageType.NAK)
_KIND, _SERVER_ID, _LEASE, _T1, _T2, _RAPID = 53, 54, 51, 58, 59, 80
_XID, _YIADDR, _CHADDR = wire.XID, wire.YIADDR, wire.CHADDR
_ETH_P_8021Q, _ETH_P_8021AD = wire.ETH_P_8021Q, wire.ETH_P_8021AD
_MOST_TAGS = 3
_INFINITE_S = 0xFFFFFFFF
# `Answer.kind` of a frame that is no answer to us, and of one that asks for an address.
NOTHING, NEIGHBOUR = -1, -2


class Answer(NamedTuple):
    """A sound message to one of our clients as numbers.

    kind: OFFERS, ACKS, NAKS, or NOTHING, NEIGHBOUR. epoch: as in the transaction id. server:
    its row, or -1 for a NAK that names none. t1_s, t2_s: as told, or by RFC 2131 section 4.4.5.
    """

    kind: int
    row: int
    epoch: int
    yiaddr: int
    server: int
    lease_s: int
    t1_s: int
    t2_s: int
    rapid: bool
    at_ns: int


@kernel
def _no_answer(kind: int) -> Answer:
    zero = np.int64(0)
    return Answer(np.int64(kind), zero, zero, zero, zero, zero, zero, zero, False, zero)


@kernel
def _untagged(mem: Memory, start: int, end: int, outer: int) -> int:
    """Where the frame would start without the tags in it, three with the outer one at most."""
    tags = 0 if outer == NO_TAG else 1
    while tags < _MOST_TAGS and end - start >= 18 and (
            be16(mem, start + 12) == _ETH_P_8021Q or be16(mem, start + 12) == _ETH_P_8021AD):
        start += 4
        tags += 1
    return start


@kernel
def _server_of(test: Test, server_id: int, mac: int) -> int:
    """The row of the server that names itself so; a new one where it is the first we hear."""
    servers = test.servers
    for row in range(MOST_SERVERS - 1):
        if servers[row, S_ID] == server_id or servers[row, S_ID] == 0:
            servers[row, S_ID] = server_id
            servers[row, S_MAC] = mac
            return np.int64(row)
    return np.int64(MOST_SERVERS - 1)


@kernel
def _times(test: Test, mem: Memory, lease_s: int) -> tuple[int, int]:
    """T1 and T2 in seconds: as told where that makes sense, else a half and seven eighths."""
    options = test.options
    if lease_s == _INFINITE_S:
        return np.int64(_INFINITE_S), np.int64(_INFINITE_S)
    # In whole seconds, of which even the shortest lease has one.
    t1, t2 = max(lease_s // 2, np.int64(1)), (lease_s * 7 + 7) // 8
    if options.length[_T1] == 4:
        t1 = option32(mem, options, _T1)
    if options.length[_T2] == 4:
        t2 = option32(mem, options, _T2)
    if not 0 < t1 <= t2 <= lease_s:
        t1 = max(lease_s // 2, np.int64(1))
        t2 = max((lease_s * 7 + 7) // 8, t1)
    return t1, t2


@kernel
def _refuse(test: Test, reason: int) -> Answer:
    test.counts[MALFORMED + reason] += 1
    return _no_answer(NOTHING)


@kernel
def _gives_enough(test: Test, kind: int, row: int, epoch: int, yiaddr: int, lease_s: int) -> bool:
    """Whether an OFFER or ACK has address and lease time, where it must (RFC 2131 table 3).

    An ACK that has neither answers an INFORM. Who asked for a lease has no use for it, but
    late, doubled or to nobody's question it is sound.
    """
    clients = test.clients
    state = clients.state[row]
    if state == INFORMING or (yiaddr != 0 and lease_s != 0):
        return True
    if kind != _ACK or yiaddr != 0 or test.options.length[_LEASE] >= 0:
        return False
    asked = state in (SELECTING, REQUESTING, RENEWING, REBINDING, REBOOTING)
    return not asked or epoch != np.int64(clients.epoch[row]) % epochs_of(len(clients.state))


@kernel
def read(test: Test, rx: Slots, base: int, offset_ns: int, trusted_from_ns: int, now_ns: int,
         ) -> Answer:
    """The frame in the slot at `base` as an Answer; counts it where it is not sound."""
    plan, mem, clients, options = test.plan, rx.mem, test.clients, test.options
    start, end = rx_bounds(rx, base)
    reason, _, bootp, bootp_end = check_frame(
        mem, _untagged(mem, start, end, rx_outer_tag(rx, base)), end, 2,
        rx_checksum_ready(rx, base), plan[P_PORT], plan[P_OTHER_PORT])
    if reason in (_NOT_DHCP, _NOT_IPV4):
        return _no_answer(NEIGHBOUR)
    if reason == _OK:
        reason = check_bootp(mem, bootp, bootp_end)
    if reason == _OK:
        if mem[bootp] != 2:
            return _no_answer(NOTHING)
        reason = find_options(mem, bootp, bootp_end, options)
    if reason != _OK:
        return _refuse(test, reason)
    kind = option_byte(mem, options, _KIND, 0) if options.length[_KIND] == 1 else np.int64(0)
    if kind != _OFFER and kind != _ACK and kind != _NAK:
        return _refuse(test, _NO_TYPE)
    rows = len(clients.state)
    row, epoch = row_of(be32(mem, bootp + _XID), rows, plan[P_SEED])
    yiaddr = be32(mem, bootp + _YIADDR)
    lease_s = option32(mem, options, _LEASE) if options.length[_LEASE] == 4 else np.int64(0)
    server_id = option32(mem, options, _SERVER_ID) if options.length[_SERVER_ID] == 4 else (
        np.int64(0))
    named = server_id != 0
    if kind != _NAK and not (named and _gives_enough(test, kind, row, epoch, yiaddr, lease_s)):
        return _refuse(test, _INCOMPLETE)
    answer_kind = OFFERS if kind == _OFFER else ACKS if kind == _ACK else NAKS
    if be48(mem, bootp + _CHADDR) != mac_of(test, row) and (
            clients.alias[row] == 0 or epoch == np.int64(clients.epoch[row]) % epochs_of(rows)):
        test.counts[CLASS + answer_kind * CLASSES + UNKNOWN] += 1
        return _no_answer(NOTHING)
    server = np.int64(-1)
    if named:
        server = _server_of(test, server_id, be48(mem, start + 6))
        test.servers[server, S_OFFERS + answer_kind] += 1
    t1_s, t2_s = _times(test, mem, lease_s)
    at_ns = rx_stamp_ns(rx, base) - offset_ns
    if at_ns < trusted_from_ns or at_ns > now_ns + TICK_NS:
        # The wall clock was set under us: our own clock is late by at most one batch.
        test.counts[UNTRUSTED] += 1
        at_ns = now_ns
    return Answer(np.int64(answer_kind), row, epoch, yiaddr, server, lease_s, t1_s, t2_s,
                  options.length[_RAPID] == 0, at_ns)


assert (S_ACKS - S_OFFERS, S_NAKS - S_OFFERS) == (ACKS - OFFERS, NAKS - OFFERS)


@kernel
def _offer(test: Test, answer: Answer) -> int:
    """What an OFFER is to a client in SELECTING."""
    clients, row = test.clients, answer.row
    if clients.flags[row] & F_HAS_OFFER != 0:
        return DOUBLE if answer.server == clients.server[row] else NOT_CHOSEN
    if (test.plan[P_OFFER_POLICY] == OFFER_SERVER
            and test.servers[answer.server, S_ID] != test.plan[P_OFFER_SERVER]):
        return NOT_CHOSEN
    return NOT_CHOSEN if _finds_another(test, answer) else ACCEPTED


@kernel
def _finds_another(test: Test, answer: Answer) -> bool:
    """Whether a client that looks for an address is given another one."""
    clients, row = test.clients, answer.row
    return clients.flags[row] & F_PROBING != 0 and answer.yiaddr != clients.offered[row]


@kernel
def _of_leg(test: Test, answer: Answer) -> int:
    """What an answer is to a client that awaits an ACK; RFC 2131 section 4.4."""
    clients, row, kind = test.clients, answer.row, answer.kind
    state = clients.state[row]
    same = answer.server == clients.server[row] or answer.server < 0
    if kind == OFFERS:
        if state != REQUESTING:
            return UNEXPECTED
        return DOUBLE if same else NOT_CHOSEN
    if not same and state != REBINDING and state != REBOOTING:
        return WRONG_SERVER
    if kind == NAKS:
        return UNEXPECTED if state == INFORMING else ACCEPTED
    if state == REQUESTING and answer.yiaddr != clients.offered[row]:
        return WRONG_ADDRESS
    if state not in (REQUESTING, INFORMING) and answer.yiaddr != clients.yiaddr[row]:
        return WRONG_ADDRESS
    return ACCEPTED


@kernel
def judge(test: Test, answer: Answer) -> int:
    """What an answer is in the state that its client is in: ACCEPTED, or why not."""
    clients, row, kind = test.clients, answer.row, answer.kind
    state, epoch = clients.state[row], np.int64(clients.epoch[row])
    epochs = epochs_of(len(clients.state))
    behind = (epoch - answer.epoch) % epochs
    if state == INIT or answer.epoch >= epochs or behind > epoch:
        return UNKNOWN
    if behind != 0 or state in (TIMEOUT_DISCOVER, TIMEOUT_REQUEST, REFUSED):
        # To a transaction that is over, or was given up.
        return TOO_LATE
    if clients.flags[row] & F_SAYS != 0 and kind != OFFERS:
        # Nobody can have answered what is not yet sent.
        return UNEXPECTED
    if state == SELECTING:
        if clients.flags[row] & F_SAYS != 0:
            return UNEXPECTED
        if kind == OFFERS:
            return _offer(test, answer)
        if kind == NAKS or not answer.rapid or test.plan[P_RAPID] == 0:
            return UNEXPECTED
        return NOT_CHOSEN if _finds_another(test, answer) else ACCEPTED
    if state in (REQUESTING, RENEWING, REBINDING, REBOOTING, INFORMING):
        return _of_leg(test, answer)
    if answer.server == clients.server[row] or answer.server < 0:
        return DOUBLE
    return NOT_CHOSEN if kind == OFFERS else WRONG_SERVER


@kernel
def _differs(test: Test, mem: Memory, code: int, start: int, length: int) -> bool:
    if test.options.length[code] != length:
        return True
    for i in range(length):
        if option_byte(mem, test.options, code, i) != test.expected.octets[start + i]:
            return True
    return False


@kernel
def check_expected(test: Test, mem: Memory) -> None:
    """Count options of the ACK just read that are not as --expect says."""
    rows = test.expected.rows
    for i in range(len(rows)):
        code, how = rows[i, X_CODE], rows[i, X_HOW]
        absent = test.options.length[code] < 0
        if how == X_ABSENT:
            wrong = X_DIFFERENT if not absent else -1
        elif absent:
            wrong = X_MISSING
        elif how != X_PRESENT and _differs(test, mem, code, rows[i, X_START], rows[i, X_LENGTH]):
            wrong = X_DIFFERENT
        else:
            wrong = -1
        if wrong >= 0:
            rows[i, wrong] += 1
            test.counts[UNEXPECTED_OPTION] += 1
