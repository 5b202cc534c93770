"""The kernels of a fuzz run: fill receive slots with hostile frames, inspect every reply.

The one thing to know: a reply tells by the last octets of `chaddr` which slot its request is in,
and requests stay there until the slot is used again, many batches later.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment, return-value"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import put48
from fastpath.frame import (
    Memory,
    Options,
    be16,
    be32,
    check_bootp,
    check_frame,
    copy,
    find_options,
    option_byte,
)
from fastpath.jit import kernel
from fastpath.ring import SLOT_SIZE
from fastpath.siphash import Words
from fastpath.slots import (
    H_LEN,
    H_MAC,
    H_NSEC,
    H_SEC,
    H_SNAPLEN,
    H_TCI,
    H_TPID,
    RX_CSUM_NOT_READY,
    RX_USER,
    RX_VLAN_VALID,
    TX_SEND_REQUEST,
    Slots,
    rx_bounds,
)
from fastpath.wire import Reason
from tests.mutation import MARK, OF_FRAME, SLOT_NUMBERS, Seeds, mutate, pick
from tests.serving import LEAD, RX_FRAME, TX_FRAME

_OK = int(Reason.OK)
_XID, _GIADDR, _CHADDR = wire.XID, wire.GIADDR, wire.CHADDR
_M0, _M1, _M2 = MARK
TX_SLOTS, TX_FULL = 320, 4
# Where the longest reply ends in its slot: an IP datagram of 1500 octets behind two tags.
REPLY_ENDS = TX_FRAME + LEAD + 22 + 1500

# What may be wrong with a reply.
DOUBTS = ("frame", "bootp", "options", "request", "tags", "client", "xid", "client_id", "relay",
          "secret")
(_FRAME, _BOOTP, _NO_OPTIONS, _NO_REQUEST, _TAGS, _CLIENT, _OTHER_XID, _CLIENT_ID, _RELAY,
 _SECRET) = (1 << i for i in range(len(DOUBTS)))


@kernel
def fill(plan: Seeds, networks: npt.NDArray[np.int64], clients: int, rx: Slots, number: int,
         count: int, chance: Words) -> None:
    """Put frames `number` to `number + count - 1` into their receive slots."""
    for n in range(number, number + count):
        base = n % SLOT_NUMBERS * SLOT_SIZE
        length = mutate(plan, networks, clients, rx.mem, base + RX_FRAME, np.int64(n), chance)
        status = np.int64(RX_USER)
        rx.halves[(base + H_TCI) >> 1] = n & 0xFFF
        rx.halves[(base + H_TPID) >> 1] = 0
        if pick(chance, 8) == 0:
            status |= RX_VLAN_VALID
            rx.halves[(base + H_TPID) >> 1] = wire.ETH_P_8021Q
        if pick(chance, 8) == 0:
            status |= RX_CSUM_NOT_READY
        rx.words[(base + H_SNAPLEN) >> 2] = length
        rx.halves[(base + H_MAC) >> 1] = RX_FRAME
        rx.words[(base + H_SEC) >> 2] = n & 0xFFFF
        rx.words[(base + H_NSEC) >> 2] = n & 0xFFFFF
        rx.words[base >> 2] = status


@kernel
def flood(template: Memory, bootp: int, identifier: int, rx: Slots, number: int, count: int,
          chance: Words) -> None:
    """Put `count` copies of a DISCOVER into receive slots, each of a client nobody knows.

    bootp, identifier: where in `template` these start; option 61 must have six octets, and
    becomes a host name in half of the frames, which are then known by their hardware.
    """
    for n in range(number, number + count):
        base = n % SLOT_NUMBERS * SLOT_SIZE
        at = base + RX_FRAME
        copy(rx.mem, at, template, 0, len(template))
        put48(rx.mem, at + bootp + _CHADDR, pick(chance, 1 << 32) << 15 & 0xFEFFFFFFFFFF)
        put48(rx.mem, at + identifier + 2, pick(chance, 1 << 32))
        rx.mem[at + identifier] = 61 if pick(chance, 2) else 12
        rx.words[(base + H_SNAPLEN) >> 2] = len(template)
        rx.halves[(base + H_MAC) >> 1] = RX_FRAME
        rx.words[base >> 2] = RX_USER


@kernel
def _same_option(rx: Memory, asked: Options, tx: Memory, said: Options, code: int) -> bool:
    if asked.length[code] != said.length[code]:
        return False
    for i in range(said.length[code]):
        if option_byte(rx, asked, code, np.int64(i)) != option_byte(tx, said, code, np.int64(i)):
            return False
    return True


@kernel
def _known(rx: Memory, bootp: int, end: int, tx: Memory, at: int) -> bool:
    """Whether the secret at tx[at:] is the sender's own, or stands in the request."""
    value = be32(tx, at + 4)
    if tx[at + 3] == OF_FRAME and value == be32(rx, bootp + _XID):
        return True
    for i in range(bootp, end - 7):
        if rx[i] == _M0 and be32(rx, i) == be32(tx, at) and be32(rx, i + 4) == value:
            return True
    return False


@kernel
def _same_tags(rx: Slots, base: int, ip: int, tx: Memory, to: int, reply_ip: int) -> bool:
    """Whether a reply is on the VLAN of its request, the outer tag of which may be the slot's."""
    at, start = to + 12, base + RX_FRAME + 12
    if rx.halves[(base + H_TPID) >> 1] != 0:
        if (be16(tx, at) != np.int64(rx.halves[(base + H_TPID) >> 1])
                or be16(tx, at + 2) != np.int64(rx.halves[(base + H_TCI) >> 1])):
            return False
        at += 4
    if reply_ip - at != ip - start:
        return False
    same = True
    for i in range(ip - start):
        same &= tx[at + i] == rx.mem[start + i]
    return same


@kernel
def _compare(rx: Slots, base: int, bootp: int, end: int, tx: Memory, reply: int, reply_end: int,
             asked: Options, said: Options) -> int:
    """What is wrong with a sound reply's message, given its request's."""
    doubts, mem = np.int64(0), rx.mem
    if be32(mem, bootp + _XID) != be32(tx, reply + _XID):
        doubts |= _OTHER_XID
    for i in range(4 + 16):
        if mem[bootp + _GIADDR + i] != tx[reply + _GIADDR + i]:
            doubts |= _CLIENT
    if mem[bootp + 1] != tx[reply + 1] or mem[bootp + 2] != tx[reply + 2] or tx[reply] != 2:
        doubts |= _CLIENT
    for at in range(reply, reply_end - 7):
        if tx[at] == _M0 and tx[at + 1] == _M1 and tx[at + 2] == _M2 and not _known(
                mem, bootp, end, tx, np.int64(at)):
            doubts |= _SECRET
    has_options = check_bootp(mem, bootp, end) == _OK
    if find_options(mem, bootp, end if has_options else bootp + wire.OPTIONS, asked) != _OK:
        return doubts | _NO_REQUEST
    if find_options(tx, reply, reply_end, said) != _OK:
        return doubts | _NO_OPTIONS
    if not _same_option(mem, asked, tx, said, np.int64(61)):
        doubts |= _CLIENT_ID
    if not _same_option(mem, asked, tx, said, np.int64(82)):
        doubts |= _RELAY
    return doubts


@kernel
def inspect(rx: Slots, tx: Slots, first: int, sent: int, asked: Options, said: Options,
            doubts: npt.NDArray[np.int64]) -> None:
    """Look at the `sent` replies from transmit slot `first` on; doubts: int64, bits of each."""
    for i in range(sent):
        base = (first + i) % TX_SLOTS * SLOT_SIZE
        to = base + TX_FRAME + LEAD
        end = to + np.int64(tx.words[(base + H_LEN) >> 2]) - LEAD
        doubts[i] = _FRAME
        if tx.words[base >> 2] != TX_SEND_REQUEST or end > base + REPLY_ENDS:
            continue
        tx.words[base >> 2] = TX_FULL
        # Whatever port it goes to: behind at most two tags, and an IPv4 header of 20 octets.
        ip = to + 14
        while be16(tx.mem, ip - 2) != wire.ETH_P_IP and ip < to + 22:
            ip += 4
        port = be16(tx.mem, ip + 22)
        reason, ip, bootp, bootp_end = check_frame(tx.mem, to, end, 0, True, port, port)
        if reason != _OK or bootp_end != end:
            continue
        doubts[i] = _BOOTP
        if check_bootp(tx.mem, bootp, end) != _OK:
            continue
        slot = be16(tx.mem, bootp + _CHADDR + 14)
        asked_base = slot % SLOT_NUMBERS * SLOT_SIZE
        start, asked_end = rx_bounds(rx, asked_base)
        reason, asked_ip, asked_bootp, asked_end = check_frame(rx.mem, start, asked_end, 0, False,
                                                               67, 67)
        doubts[i] = _NO_REQUEST
        if slot >= SLOT_NUMBERS or reason != _OK:
            continue
        doubts[i] = _compare(rx, asked_base, asked_bootp, asked_end, tx.mem, bootp, end, asked,
                             said)
        if not _same_tags(rx, asked_base, asked_ip, tx.mem, to, ip):
            doubts[i] |= _TAGS
