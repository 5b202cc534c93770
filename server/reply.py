"""Write an OFFER, ACK or NAK into a transmit slot (RFC 2131 section 4.3.1, table 3).

What all replies have in common comes from a template; the options of the configuration are
encoded once, and copied when the client asks for them. Options that do not fit in their field
go on in `file` and `sname` (option overload, RFC 2132 section 9.3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    IP_SOURCE,
    IP_TARGET,
    UDP_TARGET,
    be48,
    put_ethernet,
    put_option8,
    put_option32,
    seal,
)
from fastpath.frame import (
    END,
    Memory,
    Options,
    be16,
    be32,
    copy,
    copy_option,
    option_byte,
    put16,
    put32,
)
from fastpath.jit import kernel
from server.decide import ACK, BOOTP_REQUEST, DISCOVER, NAK, Asked
from server.settings import (
    BOOT_FILE,
    S_NEXT_SERVER,
    SERVER_NAME,
    UNSET,
    Sets,
    find_number,
    find_setting,
    renewal_times,
)

_HLEN, _XID, _FLAGS, _CIADDR, _FILE = wire.HLEN, wire.XID, wire.FLAGS, wire.CIADDR, wire.FILE
_YIADDR, _SIADDR, _GIADDR, _SNAME = wire.YIADDR, wire.SIADDR, wire.GIADDR, wire.SNAME
_CHADDR, _OPTIONS, _BROADCAST, _COOKIE = (wire.CHADDR, wire.OPTIONS, wire.BROADCAST_FLAG,
                                          wire.COOKIE)
_MIN_BOOTP, _FILE_SIZE, _SNAME_SIZE = wire.MIN_BOOTP, wire.FILE_SIZE, wire.SNAME_SIZE
_SERVER_ID, _LEASE, _T1, _T2, _KIND, _ASKED_FOR, _CLIENT_ID, _RELAY, _MAX_SIZE = (
    54, 51, 58, 59, 53, 55, 61, 82, 57)
_OVERLOAD, _RAPID_COMMIT, _SUBNET_SELECTION, _V6_ONLY = 52, 80, 118, 108
_NETMASK, _ROUTER = 1, 3
_BROADCAST_IP = 0xFFFFFFFF
# What every client and relay must be able to take (RFC 2131 section 2).
_LEAST_SIZE = 576
# Options that the server itself says, whatever is configured.
_OWN = np.zeros(256, np.bool_)
_OWN[[0, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 80, 82, 118, 255]] = True


class Link(NamedTuple):
    """One interface or socket, as replies need it. numbers: int64[LINK_NUMBERS], by L_*.

    template: uint8, from the IPv4 header to the magic cookie.
    """

    template: Memory
    numbers: npt.NDArray[np.int64]


# ANY: the server identifier is the address that the client wrote to. TO_SENDER: answers go
# back to where a message came from. NETWORK, SUBNET: where clients are that no relay serves.
(L_MAC, L_SERVER, L_MTU, L_SERVER_PORT, L_CLIENT_PORT, L_NETWORK, L_SUBNET, L_BROADCAST, L_ANY,
 L_TO_SENDER) = range(10)
LINK_NUMBERS = 10


class Writer(NamedTuple):
    """What is remembered while one reply is written.

    seen: int64[257], stamps by which an option asked for twice goes out once; the last cell is
        the stamp of this message.
    field: int64[8], by W_*.
    """

    seen: npt.NDArray[np.int64]
    field: npt.NDArray[np.int64]


# Where the next option goes in the options field, `file` and `sname` (three cells), where each
# of them ends (three cells), and how many options found no room.
W_AT, W_LIMIT, W_LOST = 0, 3, 6


def make_writer() -> Writer:
    return Writer(np.zeros(257, np.int64), np.zeros(8, np.int64))


class Request(NamedTuple):
    """Where a request stands in memory, and the VLAN tags that its reply carries too."""

    frame: int
    ip: int
    bootp: int
    outer: int
    inner: int


class Verdict(NamedTuple):
    """What was decided: OFFER, ACK or NAK, address, lease time, and as which server."""

    kind: int
    yiaddr: int
    leased: bool
    lease_s: int
    server: int


@kernel
def own_address(rx: Memory, ip: int, link: Link) -> int:
    """Our address as the sender of the datagram at rx[ip:] knows it; 0 for not known."""
    target = be32(rx, ip + IP_TARGET)
    # On a socket for all addresses we are the one that was written to, if it is unicast.
    if link.numbers[L_ANY] and target >> 28 < 14 and target != link.numbers[L_BROADCAST]:
        return target
    return link.numbers[L_SERVER]


@kernel
def _put_configured(mem: Memory, sets: Sets, writer: Writer, code: int) -> None:
    """Copy one configured option to the first field with room, unless it is there already."""
    if _OWN[code] or writer.seen[code] == writer.seen[256]:
        return
    start, size = find_setting(sets, code)
    writer.seen[code] = writer.seen[256]
    if size == 0:
        return
    f = writer.field
    for which in range(3):
        if f[W_AT + which] + size <= f[W_LIMIT + which]:
            copy(mem, f[W_AT + which], sets.encoded, start, size)
            f[W_AT + which] += size
            return
    f[W_LOST] += 1


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
def _target(rx: Memory, request: Request, kind: int, yiaddr: int, link: Link,
            ) -> tuple[int, int, int]:
    """(MAC, address, port) that a reply goes to: RFC 2131 section 4.1."""
    giaddr = be32(rx, request.bootp + _GIADDR)
    ciaddr = be32(rx, request.bootp + _CIADDR)
    came_from = be48(rx, request.frame + 6)
    sender, sender_port = be32(rx, request.ip + IP_SOURCE), be16(rx, request.bootp - 8)
    numbers = link.numbers
    if giaddr != 0:
        if numbers[L_TO_SENDER] and sender == giaddr:
            return came_from, giaddr, sender_port
        return came_from, giaddr, numbers[L_SERVER_PORT]
    # Who has no address yet cannot have written to us alone: somebody speaks for him.
    written_to = be32(rx, request.ip + IP_TARGET)
    to_us = written_to != _BROADCAST_IP and written_to != numbers[L_BROADCAST]
    if sender != 0 and (numbers[L_TO_SENDER] or (ciaddr == 0 and to_us)):
        return came_from, sender, sender_port
    port = numbers[L_CLIENT_PORT]
    if kind == NAK:
        return np.int64(BROADCAST_MAC), np.int64(_BROADCAST_IP), port
    if ciaddr != 0:
        return came_from, ciaddr, port
    # A hardware address of another length is none that Ethernet could be unicast to; a socket
    # cannot reach a client that has no address yet.
    if (be16(rx, request.bootp + _FLAGS) & _BROADCAST or yiaddr == 0
            or rx[request.bootp + _HLEN] != 6 or numbers[L_TO_SENDER]):
        return np.int64(BROADCAST_MAC), np.int64(_BROADCAST_IP), port
    return be48(rx, request.bootp + _CHADDR), yiaddr, port


@kernel
def _put_asked_for(mem: Memory, rx: Memory, options: Options, sets: Sets, writer: Writer) -> None:
    """The configured options in the order of the parameter request list; all without one."""
    asked = np.int64(options.length[_ASKED_FOR])
    if asked < 0:
        for code in range(1, 255):
            if code != _V6_ONLY:
                # Option 108 only goes to those who ask for it (RFC 8925 section 3.3).
                _put_configured(mem, sets, writer, np.int64(code))
        return
    wants_netmask = False
    for i in range(asked):
        wants_netmask |= option_byte(rx, options, _ASKED_FOR, i) == _NETMASK
    for i in range(asked):
        code = option_byte(rx, options, _ASKED_FOR, i)
        if code == _ROUTER and wants_netmask:
            # Of these two the netmask MUST be first (RFC 2132 section 3.3).
            _put_configured(mem, sets, writer, np.int64(_NETMASK))
        _put_configured(mem, sets, writer, code)


@kernel
def _overload(which: int) -> tuple[int, int]:
    """(offset, octets) of the field that bit `which` of option 52 stands for."""
    if which == 1:
        return np.int64(_FILE), np.int64(_FILE_SIZE)
    return np.int64(_SNAME), np.int64(_SNAME_SIZE)


@kernel
def _fill(mem: Memory, bootp: int, at: int, limit: int, usable: int, rx: Memory,
          options: Options, sets: Sets, writer: Writer) -> None:
    """Put configured options in mem[at:limit], and, where they do not fit, in `usable` fields."""
    f = writer.field
    f[:] = 0
    f[W_AT], f[W_LIMIT] = at, limit
    for which in range(1, 3):
        if usable & which:
            start, size = _overload(np.int64(which))
            # Room for END stays free.
            f[W_AT + which], f[W_LIMIT + which] = bootp + start, bootp + start + size - 1
    writer.seen[256] += 1
    _put_asked_for(mem, rx, options, sets, writer)


@kernel
def _put_own(mem: Memory, at: int, options: Options, asked: Asked, verdict: Verdict, sets: Sets,
             ) -> int:
    """What the server says of itself and of the lease; returns where the next option goes."""
    if asked.kind != BOOTP_REQUEST:
        at = put_option8(mem, at, _KIND, verdict.kind)
        at = put_option32(mem, at, _SERVER_ID, verdict.server)
    if verdict.leased and asked.kind != BOOTP_REQUEST:
        at = put_option32(mem, at, _LEASE, verdict.lease_s)
        t1, t2 = renewal_times(sets, verdict.lease_s)
        if t1 != 0:
            at = put_option32(mem, at, _T1, t1)
            at = put_option32(mem, at, _T2, t2)
    if asked.rapid and verdict.kind == ACK and asked.kind == DISCOVER:
        # RFC 4039 section 3.1: in an ACK to a DISCOVER, and in no other.
        mem[at] = _RAPID_COMMIT
        mem[at + 1] = 0
        at += 2
    return at


@kernel
def _put_field(mem: Memory, at: int, room: int, sets: Sets, which: int) -> bool:
    """Copy the boot file or server name into its field; False where none is configured."""
    start, size = find_setting(sets, which)
    if size == 0:
        return False
    copy(mem, at, sets.encoded, start, min(size, np.int64(room)))
    return True


@kernel
def _put_options(mem: Memory, bootp: int, limit: int, rx: Memory, options: Options, asked: Asked,
                 verdict: Verdict, sets: Sets, writer: Writer) -> int:
    """Options of a reply but those it echoes; returns where the next one goes."""
    at = _put_own(mem, bootp + _OPTIONS, options, asked, verdict, sets)
    if verdict.kind == NAK:
        # RFC 2131 table 3: a NAK has no other options.
        return at
    next_server = find_number(sets, np.int64(S_NEXT_SERVER))
    if next_server != UNSET:
        put32(mem, bootp + _SIADDR, next_server)
    usable = np.int64(0)
    if not _put_field(mem, bootp + _FILE, _FILE_SIZE, sets, np.int64(BOOT_FILE)):
        usable |= 1
    if not _put_field(mem, bootp + _SNAME, _SNAME_SIZE, sets, np.int64(SERVER_NAME)):
        usable |= 2
    f = writer.field
    _fill(mem, bootp, at, limit, np.int64(0), rx, options, sets, writer)
    # A BOOTP client may not know what option 52 means, which takes three octets itself.
    if f[W_LOST] == 0 or usable == 0 or at + 3 > limit or asked.kind == BOOTP_REQUEST:
        return f[W_AT]
    lost = f[W_LOST]
    _fill(mem, bootp, at, limit - 3, usable, rx, options, sets, writer)
    used = np.int64(0)
    for which in range(1, 3):
        start, size = _overload(np.int64(which))
        if f[W_AT + which] > bootp + start:
            if f[W_LOST] < lost:
                used |= which
                mem[f[W_AT + which]] = END
            else:
                mem[bootp + start:bootp + start + size] = 0
    if used == 0:
        # Nothing won: what found no room is too large for either field.
        _fill(mem, bootp, at, limit, np.int64(0), rx, options, sets, writer)
        return f[W_AT]
    return put_option8(mem, f[W_AT], _OVERLOAD, used)


@kernel
def _size_limit(rx: Memory, options: Options, asked: Asked) -> int:
    """Octets of IP datagram that the client takes."""
    if asked.kind == BOOTP_REQUEST:
        # RFC 1542 section 2.1: the vendor area of BOOTP has 64 octets.
        return np.int64(_MIN_BOOTP + BOOTP)
    size = np.int64(_LEAST_SIZE)
    if options.length[_MAX_SIZE] == 2:
        size = max(size, option_byte(rx, options, _MAX_SIZE, 0) << 8
                   | option_byte(rx, options, _MAX_SIZE, 1))
    return size


@kernel
def put_reply(mem: Memory, start: int, rx: Memory, request: Request, options: Options,
              asked: Asked, verdict: Verdict, link: Link, sets: Sets, writer: Writer,
              scratch: Memory) -> int:
    """Write the reply's frame at mem[start:]; returns its end, or -1 where it cannot fit.

    Option 82 goes back last and unchanged (RFC 3046 section 2.2), before it the client
    identifier (RFC 6842) and the subnet selection (RFC 3011 section 2).
    """
    kind = verdict.kind
    mac, address, port = _target(rx, request, kind, verdict.yiaddr, link)
    ip = put_ethernet(mem, start, mac, link.numbers[L_MAC], request.outer, request.inner)
    copy(mem, ip, link.template, 0, len(link.template))
    # The server identifier may be a relay's (RFC 5107), which we could not send from.
    put32(mem, ip + IP_SOURCE, own_address(rx, request.ip, link))
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
    put32(mem, bootp + _YIADDR, verdict.yiaddr)

    most = ip + link.numbers[L_MTU] - 1
    own = _echo_size(options, _CLIENT_ID) + _echo_size(options, _SUBNET_SELECTION)
    relays = _echo_size(options, _RELAY)
    # What goes back to the relay is not the client's to limit: the relay takes it off.
    limit = min(ip + _size_limit(rx, options, asked) - 1, most - relays) - own
    at = _put_options(mem, bootp, limit, rx, options, asked, verdict, sets, writer)
    if at + own + relays > most:
        return np.int64(-1)
    for code in (_CLIENT_ID, _SUBNET_SELECTION, _RELAY):
        if options.length[code] >= 0:
            at = _put_echo(mem, at, rx, options, code, scratch)
    return seal(mem, ip, at)
