"""A batch of frames through the server: read, decide, reply, slot by slot.

The one entry is `serve`; Python calls it once a batch and then kicks the ring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import NO_TAG, be48
from fastpath.frame import (
    Memory,
    Options,
    be16,
    be32,
    check_bootp,
    check_frame,
    copy_option,
    find_options,
    option32,
    option_byte,
)
from fastpath.jit import kernel
from fastpath.siphash import Words, siphash
from fastpath.slots import (
    Slots,
    rx_bounds,
    rx_checksum_ready,
    rx_outer_tag,
    rx_peek,
    rx_release,
    tx_commit,
    tx_start,
)
from fastpath.wheel import Wheel
from fastpath.wire import Reason
from server.decide import (
    ABSENT,
    C_TOO_LARGE,
    CAUSES,
    P_FIRST,
    P_NETMASK,
    P_SERVER,
    SILENT,
    Asked,
    decide,
)
from server.leases import (
    BY_CHADDR,
    BY_CLIENT_ID,
    BY_LONG_CLIENT_ID,
    IDENTITY_ROOM,
    NONE,
    Leases,
    expire,
)
from server.reply import N_SERVER_PORT, Reply, Request, put_reply

_OK, _NO_TYPE = int(Reason.OK), int(Reason.NO_MESSAGE_TYPE)
_GIADDR, _CIADDR, _CHADDR = wire.GIADDR, wire.CIADDR, wire.CHADDR
_KIND, _WANTED, _SERVER_ID, _CLIENT_ID = 53, 50, 54, 61
TYPES = 19

# Cells of `counts`: received and sent by message type, refused by Reason, then by cause.
RECEIVED, SENT, REFUSED = 0, TYPES, 2 * TYPES
CAUSED = REFUSED + len(Reason)
# Not for us: sent to another server's address, or a reply.
ELSEWHERE = CAUSED + len(CAUSES)
EXPIRED = ELSEWHERE + 1
COUNTS = EXPIRED + 1

# Columns of `events`, a ring of what happened, for verbose logs; its cell 0, 0 counts them.
E_KIND, E_ANSWER, E_ADDRESS, E_HARDWARE, E_CAUSE = range(5)
EVENT_COLUMNS = 5


class Scratch(NamedTuple):
    """Memory that `serve` uses for one message at a time.

    who: uint64[4], identity, and who_octets, the same memory. long: uint64[512], for client
    identifiers and options that are moved, and long_octets. fired: int32, expired rows.
    """

    who: Words
    who_octets: Memory
    long: Words
    long_octets: Memory
    fired: npt.NDArray[np.int32]


def make_scratch() -> Scratch:
    who, long = np.zeros(4, np.uint64), np.zeros(512, np.uint64)
    return Scratch(who, who.view(np.uint8), long, long.view(np.uint8), np.zeros(64, np.int32))


class Tables(NamedTuple):
    """All that a server is, as arrays.

    policy: int64[POLICY_SIZE]. counts: int64[COUNTS]. events: int64[n + 1, EVENT_COLUMNS],
    with no room for any (n = 0) when nobody reads them.
    """

    leases: Leases
    wheel: Wheel
    policy: npt.NDArray[np.int64]
    reply: Reply
    options: Options
    scratch: Scratch
    counts: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]


@kernel
def identify(rx: Memory, bootp: int, options: Options, scratch: Scratch, key: Words) -> None:
    """Write who the client is to `scratch.who`: client identifier, else htype and chaddr.

    RFC 2131 section 4.2. An identifier over 30 octets is kept as two keyed hashes.
    """
    who, octets, long, long_octets, _ = scratch
    who[:] = 0
    length = np.int64(options.length[_CLIENT_ID])
    if length < 0:
        octets[0] = BY_CHADDR
        octets[1] = rx[bootp + 2]
        octets[2] = rx[bootp + 1]
        for i in range(np.int64(rx[bootp + 2])):
            octets[3 + i] = rx[bootp + _CHADDR + i]
    elif length <= IDENTITY_ROOM:
        octets[0] = BY_CLIENT_ID
        octets[1] = length
        copy_option(rx, options, _CLIENT_ID, octets, 2)
    else:
        words = (length + 7) >> 3
        long[words - 1] = 0
        copy_option(rx, options, _CLIENT_ID, long_octets, 0)
        who[0] = BY_LONG_CLIENT_ID
        who[1] = siphash(key, long, words, 1)
        who[2] = siphash(key, long, words, 2)
        who[3] = length


@kernel
def _for_us(rx: Memory, ip: int, policy: npt.NDArray[np.int64]) -> bool:
    """Sent to us or to everybody: a bridge floods what is meant for other servers too."""
    target, mask = be32(rx, ip + 16), policy[P_NETMASK]
    return bool(target == 0xFFFFFFFF or target == policy[P_SERVER]
                or target == (policy[P_FIRST] & mask | ~mask & 0xFFFFFFFF))


@kernel
def _read(rx: Memory, bootp: int, options: Options) -> Asked:
    wanted = option32(rx, options, _WANTED) if options.length[_WANTED] == 4 else np.int64(ABSENT)
    server = (option32(rx, options, _SERVER_ID) if options.length[_SERVER_ID] == 4
              else np.int64(ABSENT))
    return Asked(option_byte(rx, options, _KIND, 0), be32(rx, bootp + _CIADDR),
                 be32(rx, bootp + _GIADDR), wanted, server)


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
def answer(rx: Memory, start: int, end: int, outer: int, checksum_ready: bool, tables: Tables,
           mem: Memory, to: int, now_s: int) -> int:
    """Answer the frame in rx[start:end] by a frame at mem[to:].

    outer: the VLAN tag that the kernel took off, or NO_TAG. Returns where the reply ends, or
    0 when there is none.
    """
    leases, wheel, policy, reply, options, scratch, counts, events = tables
    port = reply.numbers[N_SERVER_PORT]
    reason, ip, bootp, bootp_end = check_frame(rx, start, end, 0 if outer == NO_TAG else 1,
                                               checksum_ready, port, port)
    if reason == _OK:
        reason = check_bootp(rx, bootp, bootp_end)
    if reason == _OK:
        if be16(rx, bootp) >> 8 != 1 or not _for_us(rx, ip, policy):
            counts[ELSEWHERE] += 1
            return 0
        reason = find_options(rx, bootp, bootp_end, options)
    if reason == _OK:
        if options.length[_KIND] != 1:
            reason = _NO_TYPE
        else:
            kind = option_byte(rx, options, _KIND, 0)
            if kind < 1 or kind >= TYPES:
                reason = _NO_TYPE
    if reason != _OK:
        counts[REFUSED + reason] += 1
        return 0

    asked = _read(rx, bootp, options)
    counts[RECEIVED + asked.kind] += 1
    hardware = be48(rx, bootp + _CHADDR)
    identify(rx, bootp, options, scratch, leases.key)
    kind, row, cause = decide(leases, wheel, policy, asked, scratch.who, hardware, now_s)
    done = np.int64(0)
    yiaddr = np.int64(0) if row == NONE else policy[P_FIRST] + row
    if kind != SILENT:
        # The first tag of two in the frame is the outer one where the kernel took none off.
        inner = _inner_tag(rx, start, ip)
        if outer == NO_TAG and ip - start >= 22:
            outer = be32(rx, start + 12)
        done = put_reply(mem, to, rx, Request(start, bootp, outer, inner), options, kind, yiaddr,
                         row != NONE, reply, scratch.long_octets)
        if done < 0:
            done, kind, cause = np.int64(0), np.int64(SILENT), np.int64(C_TOO_LARGE)
        else:
            counts[SENT + kind] += 1
    counts[CAUSED + cause] += 1
    _note(events, asked.kind, kind, yiaddr, hardware, cause)
    return done


@kernel
def serve(rx: Slots, tx: Slots, tables: Tables, now_s: int, limit: int) -> tuple[int, int]:
    """Answer at most `limit` waiting frames; returns (frames read, replies to send).

    Stops early when the transmit ring is full: what waits in the receive ring is not lost.
    Frees a bounded number of expired leases as it goes.
    """
    tables.counts[EXPIRED] += expire(tables.leases, tables.wheel, now_s, tables.scratch.fired)
    count = 0
    sent = 0
    while count < limit:
        base = rx_peek(rx, count)
        to = tx_start(tx)
        if base < 0 or to < 0:
            break
        start, end = rx_bounds(rx, base)
        done = answer(rx.mem, start, end, rx_outer_tag(rx, base), rx_checksum_ready(rx, base),
                      tables, tx.mem, to, now_s)
        if done > 0:
            tx_commit(tx, done - to)
            sent += 1
        count += 1
    rx_release(rx, count)
    return count, sent
