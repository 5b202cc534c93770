"""Spoil a finished frame on purpose, for `--malform`.

The one thing to know: apart from what a kind is about, the frame stays sound: lengths and
checksums are set anew, so that a server refuses it for one reason only.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import BOOTP, set_lengths
from fastpath.frame import END, OVERLOAD, PAD, Memory, be16, copy, fold, put16, sum16
from fastpath.jit import kernel
from fastpath.options import MESSAGE_TYPE, RELAY_AGENT_INFORMATION
from tester.malformations import (
    BAD_COOKIE,
    BAD_HLEN,
    BAD_HTYPE,
    BAD_OP,
    BOOTP_SHORT,
    EMPTY,
    FOREIGN_MAC,
    FRAGMENT,
    HOPS,
    IP_CHECKSUM,
    IP_LENGTH,
    JUNK_AFTER_END,
    NO_COOKIE,
    NO_END,
    NO_TYPE,
    NO_UDP_CHECKSUM,
    OPTION_OVERRUN,
    OPTION_ZERO,
    OVERLOAD_GARBAGE,
    RELAY_OVERRUN,
    REPLY_OP,
    RESERVED_FLAGS,
    SHORT_ADDRESS,
    TRUNCATED,
    TWO_TYPES,
    UDP_CHECKSUM,
    UDP_LENGTH,
    UDP_SHORT,
    UNKNOWN_TYPE,
    ZERO_HLEN,
)

_REQUESTED_ADDRESS = 50
_OP, _HTYPE, _HLEN, _HOPS, _FLAGS = wire.OP, wire.HTYPE, wire.HLEN, wire.HOPS, wire.FLAGS
_COOKIE, _OPTIONS, _BOOTREPLY = wire.COOKIE, wire.OPTIONS, wire.BOOTREPLY
# Octets after the end option, at least, where they are not to be zeros.
_JUNK = 16


@kernel
def malform(mem: Memory, start: int, ip: int, end: int, kind: int, draw: int) -> int:
    """Spoil the client's frame in mem[start:end] in place; returns its new end.

    ip: where its IPv4 header of 20 octets starts. kind: a position in `malformations.NAMES`.
    draw: a random number of 32 bits or more, of which a kind with several forms takes one.
    A frame whose message has no message type is left as it is, where the kind needs one.
    Nothing after end + 64 is touched, whatever the message; the new end is at most end + 17.
    """
    if kind < EMPTY:
        _spoil_headers(mem, start, ip, end, kind, draw)
        return end
    bootp = ip + BOOTP
    if kind == EMPTY:
        end = bootp
    elif kind == BOOTP_SHORT:
        end = min(end, bootp + 1 + draw % (_COOKIE - 1))
    elif end - bootp < _OPTIONS:
        return end
    elif kind < TRUNCATED:
        _spoil_fixed_part(mem, bootp, end, kind, draw)
    else:
        end = _spoil_options(mem, bootp + _OPTIONS, end, kind, draw)
    set_lengths(mem, ip, end)
    return end


@kernel
def _set_ip_checksum(mem: Memory, ip: int) -> None:
    put16(mem, ip + 10, 0)
    put16(mem, ip + 10, fold(sum16(mem, ip, 20)))


@kernel
def _spoil_headers(mem: Memory, start: int, ip: int, end: int, kind: int, draw: int) -> None:
    # Never all ones: 0 and 0xFFFF are one number in one's complement.
    wrong = 1 + draw % 0xFFFE
    if kind == IP_CHECKSUM:
        put16(mem, ip + 10, be16(mem, ip + 10) ^ wrong)
    elif kind == IP_LENGTH:
        put16(mem, ip + 2, end - ip + 1 + draw % 1000)
        _set_ip_checksum(mem, ip)
    elif kind == FRAGMENT:
        mem[ip + 6] |= 0x20
        _set_ip_checksum(mem, ip)
    elif kind == UDP_CHECKSUM:
        right = be16(mem, ip + 26)
        # 0 would say that there is none.
        put16(mem, ip + 26, right ^ (wrong if wrong != right else 0xFFFF))
    elif kind == NO_UDP_CHECKSUM:
        put16(mem, ip + 26, 0)
    elif kind == UDP_LENGTH:
        put16(mem, ip + 24, end - ip - 20 + 1 + draw % 1000)
    elif kind == UDP_SHORT:
        put16(mem, ip + 24, draw % 8)
    elif kind == FOREIGN_MAC:
        mem[start + 11] ^= 1 + draw % 255


@kernel
def _spoil_fixed_part(mem: Memory, bootp: int, end: int, kind: int, draw: int) -> None:
    if kind == BAD_OP:
        # 3 to 255, and 0.
        mem[bootp + _OP] = draw % 254 + 3 & 0xFF
    elif kind == REPLY_OP:
        mem[bootp + _OP] = _BOOTREPLY
    elif kind == BAD_HTYPE:
        # 2 to 255, and 0.
        mem[bootp + _HTYPE] = draw % 255 + 2 & 0xFF
    elif kind == BAD_HLEN:
        mem[bootp + _HLEN] = 255
    elif kind == ZERO_HLEN:
        mem[bootp + _HLEN] = 0
    elif kind == HOPS:
        mem[bootp + _HOPS] = 255
    elif kind == RESERVED_FLAGS:
        put16(mem, bootp + _FLAGS, be16(mem, bootp + _FLAGS) | 0x7FFF)
    elif kind == NO_COOKIE:
        _take_out(mem, bootp + _COOKIE, np.int64(4), end)
    elif kind == BAD_COOKIE:
        mem[bootp + _COOKIE + draw % 4] ^= 1 + draw // 4 % 255


@kernel
def _spoil_options(mem: Memory, first: int, end: int, kind: int, draw: int) -> int:
    """first: where the options start; returns the new end of the frame."""
    named, last, stop = _find(mem, first, end)
    if named < 0:
        return end
    if kind == NO_TYPE:
        _take_out(mem, named, np.int64(3), end)
    elif kind == OPTION_ZERO:
        mem[named + 1] = 0
        _take_out(mem, named + 2, np.int64(1), end)
    elif kind == UNKNOWN_TYPE:
        mem[named + 2] = 99
    elif kind == TRUNCATED:
        end = _cut_inside(mem, first, last, first + draw % (stop - first))
    elif kind == NO_END:
        end = stop
    elif kind == OPTION_OVERRUN:
        # The most that a length of 255 can overrun.
        end = min(end, last + 2 + 254)
        rest = end - last - 2
        mem[last + 1] = rest + 1 + draw % (255 - rest)
    elif kind == JUNK_AFTER_END:
        mem[stop] = END
        end = max(end, stop + 1 + _JUNK)
        for i in range(end - stop - 1):
            # Odd, so that none of them is a pad.
            mem[stop + 1 + i] = draw >> i % 4 * 8 & 0xFF | 1
    else:
        end = max(end, _add_option(mem, stop, np.int64(mem[named + 2]), kind, draw))
    return end


@kernel
def _find(mem: Memory, first: int, end: int) -> tuple[int, int, int]:
    """Where the message type, the last option and the end option stand, of options at `first`.

    The message type is at -1 where there is none; the end option where it had to be.
    """
    named = np.int64(-1)
    last = at = np.int64(first)
    while at + 1 < end and mem[at] != END:
        if mem[at] == PAD:
            at += 1
            continue
        if named < 0 and mem[at] == MESSAGE_TYPE and mem[at + 1] == 1 and at + 3 <= end:
            named = at
        last = at
        at += 2 + np.int64(mem[at + 1])
    return named, last, min(at, end)


@kernel
def _add_option(mem: Memory, at: int, message_type: int, kind: int, draw: int) -> int:
    """Put one more option where the end option stands at `at`; returns what is after both."""
    size = np.int64(1)
    if kind == SHORT_ADDRESS:
        mem[at] = _REQUESTED_ADDRESS
        size = np.int64(3)
        for i in range(size):
            mem[at + 2 + i] = draw >> 8 * i & 0xFF
    elif kind == TWO_TYPES:
        mem[at] = MESSAGE_TYPE
        # One of the seven others of RFC 2131.
        mem[at + 2] = (message_type + draw % 7) % 8 + 1
    elif kind == OVERLOAD_GARBAGE:
        mem[at] = OVERLOAD
        mem[at + 2] = 7
    elif kind == RELAY_OVERRUN:
        mem[at] = RELAY_AGENT_INFORMATION
        size = np.int64(4)
        mem[at + 2] = 1
        mem[at + 3] = 3 + draw % 253
        put16(mem, at + 4, draw >> 8 & 0xFFFF)
    mem[at + 1] = size
    mem[at + 2 + size] = END
    return at + 3 + size


@kernel
def _take_out(mem: Memory, at: int, count: int, end: int) -> None:
    """Move what follows `count` octets over them, and fill up with pads."""
    copy(mem, at, mem, at + count, end - at - count)
    mem[end - count:end] = PAD


@kernel
def _cut_inside(mem: Memory, first: int, last: int, wanted: int) -> int:
    """The place nearest to `wanted` that is between two octets of one option.

    Between two options nothing would be missing.
    """
    at = np.int64(first)
    while at < last:
        after = at + 1 if mem[at] == PAD else at + 2 + np.int64(mem[at + 1])
        if wanted < after and mem[at] != PAD:
            return max(wanted, at + 1)
        at = after
    return max(last + 1, min(wanted, last + 1 + np.int64(mem[last + 1])))
