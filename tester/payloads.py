"""Packet templates: one DHCP message out of a capture or a text of hex digits (`--template`).

The one thing to know: a capture is anybody's file. Every length in it is held against what is
there, and what is wrong is said with the number of the packet, as Wireshark counts them.
Checksums are not looked at: a capture on the sending machine has them unfinished.

Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from fastpath.errors import UserError
from fastpath.message import MAX_UDP
from fastpath.options import END, MESSAGE_TYPE, PAD, RELAY_AGENT_INFORMATION
from fastpath.wire import (
    BOOTREQUEST,
    CHADDR,
    CHADDR_SIZE,
    CIADDR,
    COOKIE,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    GIADDR,
    IP_HEADER,
    IP_PROTO_UDP,
    MAGIC_COOKIE,
    OP,
    OPTIONS,
    SECS,
    SIADDR,
    UDP_HEADER,
    VLAN_TAG,
    XID,
    MessageType,
)

MOST_FILE_OCTETS = 64 << 20
MOST_OPTION_OCTETS = 1200
MESSAGE_TYPES = {kind.name.lower(): int(kind) for kind in (
    MessageType.DISCOVER, MessageType.REQUEST, MessageType.INFORM, MessageType.RELEASE,
    MessageType.DECLINE)}
_MOST_TAGS = 3
_TAGS = (ETH_P_8021Q, ETH_P_8021AD, 0x9100)  # the last: QinQ before IEEE 802.1ad
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
# Requested address, server identifier, option 82: the tester writes its own.
_WRITTEN = frozenset({50, 54, RELAY_AGENT_INFORMATION})
_CLEARED = ((XID, 4), (SECS, 2), (CIADDR, SIADDR - CIADDR), (GIADDR, 4), (CHADDR, CHADDR_SIZE))

# By what a file or a section begins with: byte order, as `struct` writes it.
_PCAP = {struct.pack(f"{order}I", magic): order for magic in (0xA1B2C3D4, 0xA1B23C4D)
         for order in "<>"}
_BYTE_ORDER = {struct.pack(f"{order}I", 0x1A2B3C4D): order for order in "<>"}
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_PCAPNG = _SECTION.to_bytes(4, "big")

# Link types: octets before the network packet, and where the two of its ethertype stand.
_WITH_ETHERTYPE = {1: (14, 12), 113: (16, 14), 276: (20, 0)}  # Ethernet, Linux cooked v1, v2
_LOOPBACK = (0, 108)  # an address family of 4 octets first, in whichever byte order
_RAW_IP = (12, 14, 101, 228)
_AF_INET = (b"\0\0\0\2", b"\2\0\0\0")
_USUAL = 'capture on Ethernet, loopback or the interface "any"'
_DAMAGED = "capture it again, or save what is left of it with: editcap IN OUT"


class Parts(NamedTuple):
    """A message taken apart. header: 240 octets, the cookie included. options: (code, value) in
    order, repeated ones apart, without pads and end. trailing: what follows the end option.
    """

    header: bytes
    options: list[tuple[int, bytes]]
    trailing: bytes


class _Packet(NamedTuple):
    """number: from 1. octets: those captured, from the link layer on."""

    number: int
    link_type: int
    octets: memoryview


def read_payload(path: Path, kind: str) -> bytes:
    """The BOOTP payload of the first message of a kind in a capture, or all of a text of hex.

    kind: one of MESSAGE_TYPES; for hex it is not checked. The payload is one that `split` can
    take apart. Raises UserError.
    """
    if kind not in MESSAGE_TYPES:
        raise UserError(f"there are no templates of {kind!r}",
                        f"one of: {', '.join(MESSAGE_TYPES)}")
    data = _content(path)
    try:
        if data[:4] in _PCAP:
            return _first(_pcap_packets(data), kind)
        if data[:4] == _PCAPNG:
            return _first(_pcapng_packets(data), kind)
        return _from_hex(data)
    except UserError as error:
        raise UserError(f"{path}: {error.what}", error.remedy) from None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_OCTETS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name can be"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MOST_FILE_OCTETS:
        raise UserError(f"{path}: more than {MOST_FILE_OCTETS >> 20} MiB",
                        "keep only the packet that you want, with: editcap -r IN OUT NUMBER")
    return data


def _from_hex(data: bytes) -> bytes:
    """The octets that perfdhcp's template files write: hex digits and blanks."""
    other = re.search(rb"[^0-9A-Fa-f\s]", data)
    if other:
        line = data.count(b"\n", 0, other.start()) + 1
        raise UserError(f"line {line}: {other[0].decode('latin-1')!r} is no hex digit",
                        "a template is a capture (pcap or pcapng, not compressed), or hex digits")
    digits = b"".join(data.split())
    if not digits:
        raise UserError("has no hex digits", "a template is a capture, or hex digits")
    if len(digits) % 2:
        raise UserError(f"{len(digits)} hex digits, which is an odd number")
    if len(digits) > 2 * MAX_UDP:
        raise UserError(f"{len(digits) // 2:,} octets, where UDP carries {MAX_UDP:,}")
    payload = bytes.fromhex(digits.decode("ascii"))
    split(payload)
    return payload


def _first(packets: Iterator[_Packet], kind: str) -> bytes:
    """The payload of the first message of `kind`; where there is none, what may be the cause."""
    number, doubt, remedy = 0, "", "capture the message first, or give another file"
    for packet in packets:
        number = packet.number
        try:
            payload = _payload_of(packet)
            if payload is None:
                continue
            types = [value for code, value in split(payload).options if code == MESSAGE_TYPE]
        except UserError as error:
            if not doubt:
                doubt, remedy = f"; packet {number}: {error.what}", error.remedy or remedy
            continue
        if payload[OP] == BOOTREQUEST and types == [bytes([MESSAGE_TYPES[kind]])]:
            return payload
    raise UserError(f"no {kind} in {number} packet{'s' * (number != 1)}{doubt}", remedy)


def _pcap_packets(data: bytes) -> Iterator[_Packet]:
    order = _PCAP[data[:4]]
    if len(data) < 24:
        raise UserError("packet 1: the file ends before it", _DAMAGED)
    # The upper bits say whether frames have a check sequence; IPv4 knows where it ends.
    link_type = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF
    view, at, number = memoryview(data), 24, 0
    while at < len(data):
        number += 1
        size = struct.unpack_from(f"{order}8xI", data, at)[0] if len(data) - at >= 16 else 0
        start, at = at + 16, at + 16 + size
        if at > len(data):
            raise UserError(f"packet {number}: the file ends in it", _DAMAGED)
        yield _Packet(number, link_type, view[start:at])


def _pcapng_packets(data: bytes) -> Iterator[_Packet]:
    order, at, number = "<", 0, 0
    interfaces: list[tuple[int, int]] = []  # link type, most octets captured of a packet
    view = memoryview(data)
    while at < len(data):
        where = f"after packet {number}: "
        if data[at:at + 4] == _PCAPNG:
            order, interfaces = _BYTE_ORDER.get(data[at + 8:at + 12], ""), []
        if not order or len(data) - at < 12:
            raise UserError(f"{where}no block at octet {at:,}", _DAMAGED)
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or size % 4 or size > len(data) - at:
            raise UserError(f"{where}a block of {size:,} octets, where {len(data) - at:,} are left",
                            _DAMAGED)
        body = view[at + 8:at + size - 4]
        at += size
        if kind == _INTERFACE:
            if len(body) < 8:
                raise UserError(f"{where}an interface of {len(body)} octets", _DAMAGED)
            link_type, most = struct.unpack_from(f"{order}H2xI", body)
            interfaces.append((link_type, most))
        elif kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET):
            number += 1
            yield _block_packet(kind, body, order, interfaces, number)


def _block_packet(kind: int, body: memoryview, order: str, interfaces: list[tuple[int, int]],
                  number: int) -> _Packet:
    """The packet in the body of a block of one of the three kinds that carry packets."""
    start = 4 if kind == _SIMPLE_PACKET else 20
    if len(body) < start:
        raise UserError(f"packet {number}: its block ends in its header", _DAMAGED)
    if kind == _PACKET:
        interface, size = struct.unpack_from(f"{order}I8xI", body)
    elif kind == _OLD_PACKET:
        interface, size = struct.unpack_from(f"{order}H10xI", body)
    else:
        interface, size = 0, struct.unpack_from(f"{order}I", body)[0]
    if interface >= len(interfaces):
        raise UserError(f"packet {number}: interface {interface} is not described", _DAMAGED)
    link_type, most = interfaces[interface]
    # A simple packet says its length on the wire only.
    if kind == _SIMPLE_PACKET and most:
        size = min(size, most)
    if size > len(body) - start:
        raise UserError(f"packet {number}: {size:,} octets, where its block has "
                        f"{len(body) - start:,}", _DAMAGED)
    return _Packet(number, link_type, body[start:start + size])


def _payload_of(packet: _Packet) -> bytes | None:
    """What UDP carries, where it is a BOOTP message with the cookie, on whichever port.

    None for any other packet; raises UserError for one that cannot be used.
    """
    ip = _ip_of(packet)
    if ip is None or len(ip) < IP_HEADER or ip[0] >> 4 != 4:
        return None
    size, total = (ip[0] & 15) * 4, _be16(ip, 2)
    more, offset = _be16(ip, 6) & 0x2000, _be16(ip, 6) & 0x1FFF
    if size < IP_HEADER or len(ip) < size + UDP_HEADER or ip[9] != IP_PROTO_UDP or offset:
        return None
    length = _be16(ip, size + 4)
    payload = bytes(ip[size + UDP_HEADER:min(size + length, total)])
    if payload[COOKIE:OPTIONS] != _COOKIE:
        return None
    if more:
        raise UserError("a DHCP message in fragments", "capture one that fits in one packet")
    if len(payload) < length - UDP_HEADER:
        raise UserError(f"{len(payload)} octets captured of a message of {length - UDP_HEADER}",
                        "capture whole packets, with: tcpdump -s 0")
    return payload


def _ip_of(packet: _Packet) -> memoryview | None:
    """The network packet, where the link layer says that it is IPv4."""
    octets, link_type = packet.octets, packet.link_type
    if link_type in _RAW_IP:
        return octets
    if link_type in _LOOPBACK:
        return octets[4:] if bytes(octets[:4]) in _AF_INET else None
    if link_type not in _WITH_ETHERTYPE:
        raise UserError(f"link type {link_type} is not known", _USUAL)
    start, at = _WITH_ETHERTYPE[link_type]
    if len(octets) < start:
        return None
    ethertype, rest = _be16(octets, at), octets[start:]
    for _ in range(_MOST_TAGS):
        if ethertype in _TAGS and len(rest) >= VLAN_TAG:
            ethertype, rest = _be16(rest, 2), rest[VLAN_TAG:]
    return rest if ethertype == ETH_P_IP else None


def _be16(octets: memoryview, at: int) -> int:
    return octets[at] << 8 | octets[at + 1]


def split(payload: bytes) -> Parts:
    """Take a BOOTP payload apart; raises UserError where options do not fit in it.

    Options that option 52 has put into `file` and `sname` stay in the header.
    """
    if len(payload) < OPTIONS:
        raise UserError(f"{len(payload)} octets, where a DHCP message has {OPTIONS} or more")
    if payload[COOKIE:OPTIONS] != _COOKIE:
        raise UserError(f"octets {COOKIE} to {OPTIONS - 1} are 0x{payload[COOKIE:OPTIONS].hex()}, "
                        f"not the DHCP cookie 0x{_COOKIE.hex()}",
                        "a template begins with the field op, without Ethernet, IPv4 and UDP")
    options: list[tuple[int, bytes]] = []
    at, used = OPTIONS, 0
    while at < len(payload) and payload[at] != END:
        if payload[at] == PAD:
            at += 1
            continue
        after = at + 2 + payload[at + 1] if at + 1 < len(payload) else len(payload) + 1
        if after > len(payload):
            raise UserError(f"option {payload[at]} goes past the end of the message")
        options.append((payload[at], payload[at + 2:after]))
        used += after - at
        if used > MOST_OPTION_OCTETS:
            raise UserError(f"more than {MOST_OPTION_OCTETS:,} octets of options")
        at = after
    return Parts(payload[:OPTIONS], options, payload[at + 1:])


def message_parts(payload: bytes, drop: Collection[int] = ()) -> tuple[bytes, bytes]:
    """The fixed part of 240 octets and the options of a template, without end and pads.

    What belongs to one client or one exchange is cleared: xid, secs, ciaddr, yiaddr, giaddr,
    chaddr; options 50, 54 and 82 are left out, and those in `drop`. Raises UserError.
    """
    parts = split(payload)
    fixed = bytearray(parts.header)
    for at, size in _CLEARED:
        fixed[at:at + size] = bytes(size)
    kept = (bytes([code, len(value)]) + value for code, value in parts.options
            if code not in _WRITTEN and code not in drop)
    return bytes(fixed), b"".join(kept)
