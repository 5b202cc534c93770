"""Write an OFFER, ACK or NAK into a transmit slot (RFC 2131 section 4.3.1, table 3).

What all replies have in common comes from a template; the options of the configuration are
encoded once, and copied when the client asks for them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    IP_TARGET,
    UDP_TARGET,
    be48,
    put_ethernet,
    put_option8,
    put_option32,
    seal,
)
from fastpath.frame import Memory, Options, be16, be32, copy, copy_option, option_byte, put16, put32
from fastpath.jit import kernel
from server.decide import ACK, NAK
from server.leases import FOREVER_S

_HLEN, _XID, _FLAGS, _CIADDR = wire.HLEN, wire.XID, wire.FLAGS, wire.CIADDR
_YIADDR, _GIADDR = wire.YIADDR, wire.GIADDR
_CHADDR, _OPTIONS, _BROADCAST = wire.CHADDR, wire.OPTIONS, wire.BROADCAST_FLAG
_SERVER_ID, _LEASE, _T1, _T2, _KIND, _ASKED_FOR, _CLIENT_ID, _RELAY, _MAX_SIZE = (
    54, 51, 58, 59, 53, 55, 61, 82, 57)
_NETMASK, _ROUTER = 1, 3
_BROADCAST_IP = 0xFFFFFFFF
# What every client and relay must be able to take (RFC 2131 section 2).
_LEAST_SIZE = 576


class Reply(NamedTuple):
    """What replies are made of; built by `tables.make_tables`.

    template: uint8, from the IPv4 header to the magic cookie.
    encoded: uint8, the configured options, each as code, length, value.
    place: int32[256, 2], where in `encoded` an option stands and its whole size; 0, 0 if it
        is not configured.
    order: uint8, codes of the configured options, for clients that ask for none.
    seen: int64[257], stamps by which an option asked for twice goes out once; the last cell
        is the stamp of this message.
    numbers: int64, by N_*.
    """

    template: Memory
    encoded: Memory
    place: npt.NDArray[np.int32]
    order: Memory
    seen: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


N_MAC, N_SERVER, N_LEASE_S, N_T1_S, N_T2_S, N_MTU, N_SERVER_PORT, N_CLIENT_PORT = range(8)
NUMBERS = 8


class Request(NamedTuple):
    """Where a request stands in memory, and the VLAN tags that its reply carries too."""

    frame: int
    bootp: int
    outer: int
    inner: int


@kernel
def _put_configured(mem: Memory, at: int, limit: int, reply: Reply, code: int) -> int:
    """Copy one configured option, unless it is there already or there is no room."""
    start, size = np.int64(reply.place[code, 0]), np.int64(reply.place[code, 1])
    stamp = reply.seen[256]
    if size == 0 or reply.seen[code] == stamp or at + size > limit:
        return at
    reply.seen[code] = stamp
    copy(mem, at, reply.encoded, start, size)
    return at + size


@kernel
def _put_echo(mem: Memory, at: int, source: Memory, options: Options, code: int, scratch: Memory,
              ) -> int:
    """Send an option back as it came, in pieces of 255 octets (RFC 3396 section 5)."""
    left = copy_option(source, options, code, scratch, 0)
    done = np.int64(0)
    while True:
        piece = min(left - done, np.int64(255))
        mem[at] = code
        mem[at + 1] = piece
        copy(mem, at + 2, scratch, done, piece)
        at += 2 + piece
        done += piece
        if done >= left:
            return at


@kernel
def _echo_size(options: Options, code: int) -> int:
    length = np.int64(options.length[code])
    return np.int64(0) if length < 0 else length + 2 * max(np.int64(1), (length + 254) // 255)


@kernel
def _target(rx: Memory, request: Request, kind: int, yiaddr: int, reply: Reply,
            ) -> tuple[int, int, int]:
    """(MAC, address, port) that a reply goes to: RFC 2131 section 4.1."""
    giaddr = be32(rx, request.bootp + _GIADDR)
    ciaddr = be32(rx, request.bootp + _CIADDR)
    came_from = be48(rx, request.frame + 6)
    if giaddr != 0:
        return came_from, giaddr, reply.numbers[N_SERVER_PORT]
    port = reply.numbers[N_CLIENT_PORT]
    if kind == NAK:
        return np.int64(BROADCAST_MAC), np.int64(_BROADCAST_IP), port
    if ciaddr != 0:
        return came_from, ciaddr, port
    # A hardware address of another length is none that Ethernet could be unicast to.
    if (be16(rx, request.bootp + _FLAGS) & _BROADCAST or yiaddr == 0
            or rx[request.bootp + _HLEN] != 6):
        return np.int64(BROADCAST_MAC), np.int64(_BROADCAST_IP), port
    return be48(rx, request.bootp + _CHADDR), yiaddr, port


@kernel
def _put_options(mem: Memory, at: int, limit: int, rx: Memory, options: Options, kind: int,
                 leased: bool, reply: Reply) -> int:
    """Options of a reply but those it echoes; returns where the next one goes."""
    numbers = reply.numbers
    at = put_option8(mem, at, _KIND, kind)
    at = put_option32(mem, at, _SERVER_ID, numbers[N_SERVER])
    if kind == NAK:
        # RFC 2131 table 3: a NAK has no other options.
        return at
    reply.seen[256] += 1
    if leased:
        at = put_option32(mem, at, _LEASE, numbers[N_LEASE_S])
        if numbers[N_LEASE_S] != FOREVER_S:
            at = put_option32(mem, at, _T1, numbers[N_T1_S])
            at = put_option32(mem, at, _T2, numbers[N_T2_S])
    asked = np.int64(options.length[_ASKED_FOR])
    if asked < 0:
        for i in range(len(reply.order)):
            at = _put_configured(mem, at, limit, reply, np.int64(reply.order[i]))
    wants_netmask = False
    for i in range(asked):
        wants_netmask |= option_byte(rx, options, _ASKED_FOR, i) == _NETMASK
    for i in range(asked):
        code = option_byte(rx, options, _ASKED_FOR, i)
        if code == _ROUTER and wants_netmask:
            # Of these two the netmask MUST be first (RFC 2132 section 3.3).
            at = _put_configured(mem, at, limit, reply, np.int64(_NETMASK))
        at = _put_configured(mem, at, limit, reply, code)
    return at


@kernel
def put_reply(mem: Memory, start: int, rx: Memory, request: Request, options: Options, kind: int,
              yiaddr: int, leased: bool, reply: Reply, scratch: Memory) -> int:
    """Write the reply's frame at mem[start:]; returns its end, or -1 where it cannot fit.

    kind: OFFER, ACK or NAK. leased: False for the answer to INFORM (section 4.3.5).
    Option 82 goes back last and unchanged (RFC 3046 section 2.2), the client identifier
    before it (RFC 6842).
    """
    mac, address, port = _target(rx, request, kind, yiaddr, reply)
    ip = put_ethernet(mem, start, mac, reply.numbers[N_MAC], request.outer, request.inner)
    copy(mem, ip, reply.template, 0, len(reply.template))
    put32(mem, ip + IP_TARGET, address)
    put16(mem, ip + UDP_TARGET, port)

    bootp = ip + BOOTP
    copy(mem, bootp + _XID, rx, request.bootp + _XID, 4)
    copy(mem, bootp + _FLAGS, rx, request.bootp + _FLAGS, 2)
    copy(mem, bootp + _GIADDR, rx, request.bootp + _GIADDR, 4 + 16)
    copy(mem, bootp + 1, rx, request.bootp + 1, 2)
    if kind == NAK and be32(rx, request.bootp + _GIADDR) != 0:
        # The client has no address: the relay must broadcast (RFC 2131 section 4.3.2).
        mem[bootp + _FLAGS] |= 0x80
    if kind == ACK:
        copy(mem, bootp + _CIADDR, rx, request.bootp + _CIADDR, 4)
    put32(mem, bootp + _YIADDR, yiaddr)

    size = np.int64(_LEAST_SIZE)
    if options.length[_MAX_SIZE] == 2:
        size = max(size, option_byte(rx, options, _MAX_SIZE, 0) << 8
                   | option_byte(rx, options, _MAX_SIZE, 1))
    most = ip + reply.numbers[N_MTU] - 1
    own = _echo_size(options, _CLIENT_ID)
    relays = _echo_size(options, _RELAY)
    # What goes back to the relay is not the client's to limit: the relay takes it off.
    limit = min(ip + size - 1, most - relays) - own
    at = _put_options(mem, bootp + _OPTIONS, limit, rx, options, kind, leased, reply)
    if at + own + relays > most:
        return np.int64(-1)
    if own > 0:
        at = _put_echo(mem, at, rx, options, _CLIENT_ID, scratch)
    if relays > 0:
        at = _put_echo(mem, at, rx, options, _RELAY, scratch)
    return seal(mem, ip, at)
