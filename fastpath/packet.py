"""An Ethernet frame one can read: tags, IPv4 and UDP around one message.

The one thing to know: `Frame.decode` makes the checks in the order of the compiled one, so
a frame wrong in two ways has the same reason in both. Sources: IEEE 802.1Q, RFC 791,
RFC 768, RFC 1071.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address

from fastpath.errors import Malformed, UserError
from fastpath.message import Message
from fastpath.wire import (
    CLIENT_PORT,
    ETH_HEADER,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    IP_HEADER,
    IP_PROTO_UDP,
    SERVER_PORT,
    UDP_HEADER,
    VLAN_TAG,
)

MAX_TAGS = 2
MAX_PAYLOAD = 65535 - IP_HEADER - UDP_HEADER
_ANY, _EVERYBODY = IPv4Address(0), IPv4Address(0xFFFFFFFF)
_IP = struct.Struct(">BBHHHBBH4s4s")
_UDP = struct.Struct(">HHHH")
_MORE_OR_OFFSET = 0x3FFF  # the MF bit and the fragment offset; DF does not matter


@dataclass(slots=True)
class Frame:
    """One UDP datagram in one Ethernet frame; as it stands, a client's broadcast.

    src_mac, dst_mac: 6 octets. vlans: TCIs (priority and VLAN id), outermost first, at most 2.
    payload: what UDP carries.
    """

    src_mac: bytes = bytes(6)
    dst_mac: bytes = b"\xff" * 6
    vlans: tuple[int, ...] = ()
    src_ip: IPv4Address = _ANY
    dst_ip: IPv4Address = _EVERYBODY
    src_port: int = CLIENT_PORT
    dst_port: int = SERVER_PORT
    ttl: int = 64
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame without Ethernet padding; raises UserError where a field does not fit.

        The outer of two tags is 802.1ad (0x88A8), an only one 802.1Q (0x8100).
        """
        if len(self.src_mac) != 6 or len(self.dst_mac) != 6:
            raise UserError("an Ethernet address has 6 octets")
        if len(self.vlans) > MAX_TAGS:
            raise UserError(f"{len(self.vlans)} VLAN tags, where {MAX_TAGS} fit")
        if len(self.payload) > MAX_PAYLOAD:
            raise UserError(f"{len(self.payload)} octets of payload, where {MAX_PAYLOAD} fit")
        kinds = (ETH_P_8021AD, ETH_P_8021Q)[MAX_TAGS - len(self.vlans):]
        try:
            tags = b"".join(struct.pack(">HH", *tag) for tag in zip(kinds, self.vlans, strict=True))
            packet = self._encode_ip()
        except struct.error as problem:
            raise UserError(f"a field of the frame is out of range: {problem}") from None
        return self.dst_mac + self.src_mac + tags + struct.pack(">H", ETH_P_IP) + packet

    def _encode_ip(self) -> bytes:
        length = UDP_HEADER + len(self.payload)
        ips = self.src_ip.packed, self.dst_ip.packed
        header = _IP.pack(0x45, 0, IP_HEADER + length, 0, 0, self.ttl, IP_PROTO_UDP, 0, *ips)
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        datagram = _UDP.pack(self.src_port, self.dst_port, length, 0) + self.payload
        # 0 on the wire says "no checksum" (RFC 768), so a sum of 0 goes out as its negative.
        total = checksum(_pseudo_header(*ips, length) + datagram) or 0xFFFF
        return header + datagram[:6] + total.to_bytes(2, "big") + datagram[8:]

    @classmethod
    def decode(cls, data: bytes, *, checksum_ready: bool = True,
               ports: Collection[int] = (SERVER_PORT, CLIENT_PORT)) -> Frame:
        """Read a frame; raises Malformed with the name of a `fastpath.wire.Reason`.

        checksum_ready: False for a frame from a local socket whose UDP checksum the kernel
        has not finished (TP_STATUS_CSUMNOTREADY). ports: accepted destination ports.
        """
        data = bytes(data)
        vlans, packet = _strip_ethernet(data)
        header, body = _strip_ip(packet)
        src_ip, dst_ip = header[12:16], header[16:20]
        src_port, dst_port, payload = _strip_udp(src_ip, dst_ip, body, checksum_ready, ports)
        return cls(data[6:12], data[:6], vlans, IPv4Address(src_ip), IPv4Address(dst_ip),
                   src_port, dst_port, header[8], payload)

    def describe(self) -> str:
        """Several lines for a person, the message included; never raises."""
        tags = "".join(f" vlan {tci & 0xFFF} priority {tci >> 13}" for tci in self.vlans)
        lines = [
            f"{mac_text(self.src_mac)} > {mac_text(self.dst_mac)}{tags}",
            f"{self.src_ip}:{self.src_port} > {self.dst_ip}:{self.dst_port} ttl {self.ttl}"
            f" payload {len(self.payload)} octets"]
        try:
            lines.append(Message.decode(self.payload).describe())
        except Malformed as problem:
            lines.append(f"no sound message: {problem.reason} ({problem.what})")
        return "\n".join(lines)


def _strip_ethernet(data: bytes) -> tuple[tuple[int, ...], bytes]:
    if len(data) < ETH_HEADER:
        raise Malformed("not_ipv4", f"{len(data)} octets are no Ethernet frame")
    vlans: list[int] = []
    at = ETH_HEADER - 2
    while _be16(data, at) in (ETH_P_8021Q, ETH_P_8021AD) and len(vlans) < MAX_TAGS:
        if len(data) < at + 2 + VLAN_TAG:
            raise Malformed("not_ipv4", "the frame ends in a VLAN tag")
        vlans.append(_be16(data, at + 2))
        at += VLAN_TAG
    if _be16(data, at) != ETH_P_IP:
        raise Malformed("not_ipv4", f"ethertype 0x{_be16(data, at):04x}")
    return tuple(vlans), data[at + 2:]


def _strip_ip(packet: bytes) -> tuple[bytes, bytes]:
    """The IPv4 header and the payload that its total length spans."""
    if len(packet) < IP_HEADER:
        raise Malformed("not_ipv4", f"{len(packet)} octets are no IPv4 header")
    version, size, total = packet[0] >> 4, (packet[0] & 15) * 4, _be16(packet, 2)
    if version != 4 or size < IP_HEADER or size > len(packet) or not size <= total <= len(packet):
        raise Malformed("ip_header", f"version {version}, header {size}, total {total}, "
                                     f"frame {len(packet)} octets")
    header = packet[:size]
    if checksum(header):
        raise Malformed("ip_checksum", f"0x{_be16(packet, 10):04x} is wrong")
    if _be16(packet, 6) & _MORE_OR_OFFSET:
        raise Malformed("fragment", f"flags and offset 0x{_be16(packet, 6):04x}")
    if packet[9] != IP_PROTO_UDP:
        raise Malformed("not_dhcp", f"protocol {packet[9]}")
    return header, packet[size:total]


def _strip_udp(src_ip: bytes, dst_ip: bytes, body: bytes, checksum_ready: bool,
               ports: Collection[int]) -> tuple[int, int, bytes]:
    if len(body) < UDP_HEADER:
        raise Malformed("udp_length", f"{len(body)} octets are no UDP header")
    src_port, dst_port, length, sent = _UDP.unpack_from(body)
    if dst_port not in ports:
        raise Malformed("not_dhcp", f"port {dst_port}")
    if not UDP_HEADER <= length <= len(body):
        raise Malformed("udp_length", f"{length}, where IPv4 carries {len(body)} octets")
    datagram = body[:length]
    if checksum_ready and sent and checksum(_pseudo_header(src_ip, dst_ip, length) + datagram):
        raise Malformed("udp_checksum", f"0x{sent:04x} is wrong")
    return src_port, dst_port, datagram[UDP_HEADER:]


def _be16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _pseudo_header(src_ip: bytes, dst_ip: bytes, length: int) -> bytes:
    return src_ip + dst_ip + struct.pack(">HH", IP_PROTO_UDP, length)


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 over octets that hold their own right checksum."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def mac_text(mac: bytes) -> str:
    """02:00:00:00:00:01, for any number of octets."""
    return mac.hex(":")


_MAC = re.compile(r"[0-9a-f]{2}([:-]?)(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"
                  r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}", re.IGNORECASE)


def parse_mac(text: str) -> bytes:
    """Six octets from 02:00:.., 02-00-.., 0200.0000.0001 or 020000000001; raises UserError."""
    text = text.strip()
    if not _MAC.fullmatch(text):
        raise UserError(f'"{text[:40]}" is not an Ethernet address',
                        "write it like 02:00:00:00:00:01")
    return bytes.fromhex(re.sub(r"[^0-9a-fA-F]", "", text))
