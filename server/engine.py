"""A batch of frames through the server: read, decide, reply, slot by slot.

The one entry is `serve`; Python calls it once a batch, stores what the batch has changed in the
lease file, and then kicks the ring.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import NO_TAG, be48
from fastpath.frame import Memory, Options, be32, copy, option_byte
from fastpath.jit import kernel
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
from fastpath.wire import Reason
from server.arrays import (
    CAUSED,
    E_ADDRESS,
    E_ANSWER,
    E_CAUSE,
    E_HARDWARE,
    E_KIND,
    ELSEWHERE,
    EXPIRED,
    OUTCOMES,
    PEN_RECORDS,
    PEN_USED,
    RECEIVED,
    REFUSED,
    TYPES,
    Pen,
    Tables,
)
from server.decide import (
    ACK,
    C_FAULT,
    C_MAX_CONCURRENT,
    C_NO_SUBNET,
    C_OK,
    C_TOO_LARGE,
    NAK,
    OFFER,
    P_JOURNAL,
    P_STORING,
    SILENT,
    decide,
)
from server.incoming import blocked, crowded, judge, locate, read, server_identifier
from server.leases import BOUND, DECLINED, FOREVER_S, FREE, NONE, expire
from server.outgoing import count_sent, hand_over, observe, send_due
from server.places import address_of, find_subnet
from server.record import (
    FOREVER,
    MOST_RECORD,
    R_ADDRESS,
    R_CHADDR,
    R_ENDS,
    R_HLEN,
    R_HTYPE,
    R_ID,
    R_ID_LENGTH,
    R_LEASE,
    R_PREFIX,
    R_STATE,
    R_WRITTEN,
    put_le,
    record_size,
)
from server.reply import Link, Request, Verdict, put_reply

_OK = int(Reason.OK)
_CHADDR, _CLIENT_ID = wire.CHADDR, 61
_OUTCOME_OF = np.zeros(TYPES, np.int64)
_OUTCOME_OF[[OFFER, ACK, NAK]] = 1, 2, 3


@kernel
def _note(events: npt.NDArray[np.int64], kind: int, answer: int, address: int, hardware: int,
          cause: int) -> None:
    room = len(events) - 1
    if room > 0:
        row = 1 + events[0, 0] % room
        events[row, E_KIND] = kind
        events[row, E_ANSWER] = answer
        events[row, E_ADDRESS] = address
        events[row, E_HARDWARE] = hardware
        events[row, E_CAUSE] = cause
        events[0, 0] += 1


@kernel
def _inner_tag(rx: Memory, start: int, ip: int) -> int:
    """The tag that stands in the frame next to the IPv4 header, or NO_TAG."""
    if ip - start < 18:
        return np.int64(NO_TAG)
    return be32(rx, ip - 6)


@kernel
def write_down(pen: Pen, rx: Memory, bootp: int, options: Options, tables: Tables, row: int,
               address: int, lease_s: int, now_s: int) -> None:
    """Append the state of a row, as this message left it, to the records of the batch."""
    world = tables.world
    mem, at = pen.mem, pen.state[PEN_USED]
    state = np.int64(world.leases.state[row])
    bound = state == BOUND
    # Whoever declines or gives back an address leaves no claim to it.
    length = max(np.int64(options.length[_CLIENT_ID]), np.int64(0)) if bound else np.int64(0)
    size = record_size(length)
    for i in range(size):
        mem[at + i] = 0
    ends = np.int64(world.leases.expires_s[row])
    put_le(mem, at + R_ADDRESS, address, 4)
    mem[at + R_STATE] = state if bound or state == DECLINED else FREE
    subnet = find_subnet(world.places, address)
    mem[at + R_PREFIX] = world.places.subnet_prefix[subnet]
    if bound:
        mem[at + R_HTYPE] = rx[bootp + 1]
        mem[at + R_HLEN] = rx[bootp + 2]
        copy(mem, at + R_CHADDR, rx, bootp + _CHADDR, np.int64(rx[bootp + 2]))
        for i in range(length):
            mem[at + R_ID + i] = option_byte(rx, options, _CLIENT_ID, np.int64(i))
    put_le(mem, at + R_ENDS, np.int64(FOREVER) if ends == FOREVER_S else ends, 8)
    put_le(mem, at + R_WRITTEN, now_s, 8)
    put_le(mem, at + R_ID_LENGTH, length, 2)
    put_le(mem, at + R_LEASE, lease_s, 4)
    pen.state[PEN_USED] += size
    pen.state[PEN_RECORDS] += 1


@kernel
def answer(rx: Memory, start: int, end: int, outer: int, checksum_ready: bool, tables: Tables,
           link: Link, mem: Memory, to: int, now_s: int, now_us: int) -> tuple[int, int, int]:
    """Answer the frame in rx[start:end] by a frame at mem[to:].

    outer: the VLAN tag that the kernel took off, or NO_TAG. Returns (where the reply ends, or
    0 when there is none; type of the request; type of the reply).
    """
    world, options, counts = tables.world, tables.scratch.options, tables.counts
    reason, ip, bootp, kind = judge(rx, start, end, outer, checksum_ready, tables, link)
    if reason != _OK:
        counts[ELSEWHERE if reason < 0 else REFUSED + reason] += 1
        return np.int64(0), np.int64(0), np.int64(SILENT)
    counts[RECEIVED + kind] += 1
    us = server_identifier(rx, ip, bootp, options, link)
    hardware = be48(rx, bootp + _CHADDR)
    network, subnet = locate(rx, ip, bootp, options, tables, link)
    cause = blocked(rx, bootp, kind, tables, now_us)
    if cause == C_OK and network == NONE:
        cause = np.int64(C_NO_SUBNET)
    asked = read(rx, bootp, kind, us, network, subnet, tables)
    if cause == C_OK and crowded(kind, tables):
        cause = np.int64(C_MAX_CONCURRENT)
    reply, row, lease_s = np.int64(SILENT), np.int64(NONE), np.int64(0)
    if cause == -1:
        reply, cause = np.int64(NAK), np.int64(C_FAULT)
    elif cause == C_OK:
        reply, row, cause, lease_s = decide(world, asked, tables.scratch.names.who, hardware,
                                            now_s)
    done = np.int64(0)
    address = np.int64(0) if row == NONE else address_of(world.places, world.leases, row)
    yiaddr = np.int64(0) if reply == NAK else address
    if row != NONE and world.policy[P_JOURNAL] and reply != OFFER:
        write_down(tables.pen, rx, bootp, options, tables, row, address, lease_s, now_s)
    if reply != SILENT:
        # The first tag of two in the frame is the outer one where the kernel took none off.
        inner = _inner_tag(rx, start, ip)
        if outer == NO_TAG and ip - start >= 22:
            outer = be32(rx, start + 12)
        leased = reply == OFFER or (reply == ACK and row != NONE)
        done = put_reply(mem, to, rx, Request(start, ip, bootp, outer, inner), options, asked,
                         Verdict(reply, yiaddr, leased, lease_s, us), link, world.sets,
                         tables.scratch.writer, tables.scratch.names.long_octets)
        if done < 0:
            done, reply, cause = np.int64(0), np.int64(SILENT), np.int64(C_TOO_LARGE)
    counts[CAUSED + cause] += 1
    counts[OUTCOMES + 4 * kind + _OUTCOME_OF[reply]] += 1
    _note(tables.events, kind, reply, address, hardware, cause)
    return done, kind, reply


@kernel
def serve(rx: Slots, tx: Slots, tables: Tables, link: Link, now_s: int, now_us: int,
          done_ns: int, limit: int) -> tuple[int, int]:
    """Answer at most `limit` waiting frames; returns (frames read, replies to send).

    now_s: Unix time. now_us: time since the server was ready. done_ns: CLOCK_REALTIME at which
    the replies of the last call were sent. Stops early when the transmit ring is full: what
    waits in the receive ring is not lost. Frees a bounded number of expired leases as it goes.
    """
    observe(tables, done_ns)
    world, pen = tables.world, tables.pen
    tables.counts[EXPIRED] += expire(world.leases, world.wheel, now_s, tables.scratch.fired)
    sent = send_due(tx, tables, now_us, limit)
    count = 0
    faulty = len(tables.faults.rules) != 0
    # While nothing can be stored, nothing is written down either.
    room = len(pen.mem) if world.policy[P_STORING] == 0 else len(pen.mem) - MOST_RECORD
    while count < limit and pen.state[PEN_USED] <= room:
        base = rx_peek(rx, count)
        to = tx_start(tx)
        if base < 0 or to < 0:
            break
        start, end = rx_bounds(rx, base)
        stamp_ns = rx_stamp_ns(rx, base)
        done, asked, reply = answer(rx.mem, start, end, rx_outer_tag(rx, base),
                                    rx_checksum_ready(rx, base), tables, link, tx.mem, to, now_s,
                                    now_us)
        if done > 0:
            mark = asked | reply << 8
            if faulty:
                sent += hand_over(tx, tables, to, done, mark, stamp_ns, now_us)
            else:
                tx_commit(tx, done - to)
                count_sent(tables, mark, stamp_ns)
                sent += 1
        count += 1
    rx_release(rx, count)
    return count, sent
