"""The naive twin of `look` in ebpf/dhcp.h, and frames to try both with.

The one thing to know: it says what a program in the kernel says of a frame, one octet after the
other as the RFCs have them. A `Shape` says what is wrong with a frame; `frame` builds it.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ebpf.probe import KINDS

(OTHER, DISCOVER, INFORM, BOOTP, OTHER_TYPE, MALFORMED, FRAGMENT) = (
    KINDS.index(name) for name in ("other", "discover", "inform", "bootp", "other_type",
                                   "malformed", "fragment"))
# As far as a frame is looked at, and as many options (dhcp.h).
LOOKED_AT = 1536
MOST_OPTIONS = 64
MOST_TAGS = 3
TAGS = (0x8100, 0x88A8)
COOKIE = bytes((99, 130, 83, 99))


class Seen(NamedTuple):
    """hops: -1 for what is no request. xid, client: as on the wire, read from the low octet on."""

    kind: int
    hops: int = -1
    xid: int = 0
    client: int = 0
    bad_header: bool = False
    bad_udp: bool = False


def word(octets: bytes, at: int) -> int:
    return int.from_bytes(octets[at:at + 2], "big")


def ones_complement(octets: bytes) -> int:
    """The sum of RFC 1071, not inverted."""
    octets += bytes(len(octets) % 2)
    total = sum(word(octets, at) for at in range(0, len(octets), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def twin(octets: bytes) -> Seen:
    """What the frame is."""
    at, tags = 12, 0
    while word(octets, at) in TAGS and tags < MOST_TAGS:
        at, tags = at + 4, tags + 1
    if word(octets, at) != 0x0800 or len(octets) < at + 2 + 20:
        return Seen(OTHER)
    return _packet(octets[at + 2:], at + 2)


def _packet(packet: bytes, start: int) -> Seen:
    """start: where the packet stands in its frame."""
    if packet[9] != 17:
        return Seen(OTHER)
    header, total = (packet[0] & 15) * 4, word(packet, 2)
    if packet[0] >> 4 != 4 or header < 20 or total < header + 8 or total > len(packet):
        return Seen(MALFORMED)
    bad_header = ones_complement(packet[:header]) != 0xFFFF
    if word(packet, 6) & 0x3FFF:
        return Seen(FRAGMENT, bad_header=bad_header)
    datagram = packet[header:total]
    if word(datagram, 2) not in (67, 68):
        return Seen(OTHER)
    length = word(datagram, 4)
    if length > len(datagram):
        return Seen(MALFORMED, bad_header=bad_header)
    datagram = datagram[:length]
    bad_udp = (8 <= length <= LOOKED_AT - start - header
               and _bad_udp(packet[12:20], packet[header:header + length]))
    # Options end where the looking does.
    seen = _message(datagram[8:], start + header + 8)
    return seen._replace(bad_header=bad_header, bad_udp=bad_udp)


def _bad_udp(addresses: bytes, datagram: bytes) -> bool:
    said = word(datagram, 6)
    pseudo = addresses + struct.pack(">HH", 17, len(datagram))
    # None, or left to a network card.
    if said in (0, ones_complement(pseudo)):
        return False
    return ones_complement(pseudo + datagram) != 0xFFFF


def _message(message: bytes, start: int) -> Seen:
    if len(message) < 240 or message[0] not in (1, 2) or message[2] > 16 \
            or message[236:240] != COOKIE:
        return Seen(MALFORMED)
    kind = _kind(message, LOOKED_AT - start)
    if kind == MALFORMED:
        return Seen(MALFORMED)
    return Seen(kind, hops=message[3] if message[0] == 1 else -1,
                xid=int.from_bytes(message[4:8], "little"),
                client=int.from_bytes(message[30:34], "little"))


def _kind(message: bytes, seen: int) -> int:
    """seen: so many octets of the message are known."""
    at = 240
    for _ in range(MOST_OPTIONS):
        if at >= len(message):
            return BOOTP
        if at >= seen:
            return MALFORMED
        code = message[at]
        if code == 255:
            return BOOTP
        if code == 0:
            at += 1
            continue
        if at + 2 > len(message) or at + 2 >= seen:
            return MALFORMED
        value = message[at + 2:at + 2 + message[at + 1]]
        if len(value) != message[at + 1]:
            return MALFORMED
        if code == 53:
            if len(value) != 1 or value[0] == 0:
                return MALFORMED
            return min(value[0], OTHER_TYPE) if value[0] <= INFORM else OTHER_TYPE
        at += 2 + len(value)
    return MALFORMED


# Where buckets of times begin, nanoseconds: eight to an octave.
BUCKETS_NS = [*range(8), *((8 + part) << octave for octave in range(37) for part in range(8))]


def bucket_of(ns: int) -> int:
    """The twin of path.c, bucket_of."""
    return bisect.bisect_right(BUCKETS_NS, ns) - 1


def arriving(octets: bytes) -> bytes | None:
    """The frame where it is received, the outer tag beside it; None where the kernel gives it up
    before any program (skb_vlan_untag)."""
    if word(octets, 12) not in TAGS:
        return octets
    return octets[:12] + octets[16:] if len(octets) >= 20 else None


@dataclass(frozen=True)
class Shape:
    """A frame to be built; what is None is as it should be.

    total, length: what the IP and the UDP header say. ip_sum: add to the right checksum. udp_sum:
    "right", "none", "pseudo" (as where a network card is to do the rest), "wrong", or a number.
    size: the frame is cut, or filled up, to so many octets.
    """

    tags: tuple[int, ...] = ()
    ether_type: int = 0x0800
    version: int = 4
    words: int = 5
    protocol: int = 17
    fragment: int = 0
    port: int = 67
    op: int = 1
    hlen: int = 6
    hops: int = 0
    xid: int = 1
    client: int = 1
    cookie: bytes = COOKIE
    options: bytes = bytes((53, 1, 1, 255))
    total: int | None = None
    length: int | None = None
    ip_sum: int = 0
    udp_sum: str | int = "right"
    size: int | None = None
    addresses: bytes = field(default=bytes((10, 0, 0, 9, 10, 0, 0, 8)))


def frame(shape: Shape) -> bytes:
    """The octets of it."""
    message = (bytes((shape.op, 1, shape.hlen, shape.hops)) + struct.pack("<I", shape.xid)
               + bytes(22) + struct.pack("<I", shape.client) + bytes(202) + shape.cookie
               + shape.options)
    header = max(shape.words, 5) * 4
    length = 8 + len(message) if shape.length is None else shape.length
    total = header + 8 + len(message) if shape.total is None else shape.total
    pseudo = ones_complement(shape.addresses + struct.pack(">HH", 17, length & 0xFFFF))
    udp = struct.pack(">HHHH", 68, shape.port, length & 0xFFFF, 0)
    right = (0xFFFF - ones_complement(struct.pack(">H", pseudo) + udp + message)) or 0xFFFF
    sums = {"right": right, "none": 0, "pseudo": pseudo, "wrong": right ^ 0x0110}
    said = shape.udp_sum if isinstance(shape.udp_sum, int) else sums[shape.udp_sum]
    ip = (struct.pack(">BBHHHBBH", shape.version << 4 | shape.words, 0, total & 0xFFFF, 7,
                      shape.fragment, 64, shape.protocol, 0) + shape.addresses
          + bytes((1,)) * (header - 20))
    checksum = (0xFFFF - ones_complement(ip) + shape.ip_sum) & 0xFFFF
    ip = ip[:10] + struct.pack(">H", checksum) + ip[12:]
    tags = b"".join(struct.pack(">HH", tag, 5) for tag in shape.tags)
    # To nobody's address, so that no kernel answers.
    octets = (b"\x02\0\0\0\0\x63\x02\0\0\0\0\x01" + tags + struct.pack(">H", shape.ether_type)
              + ip + udp[:6] + struct.pack(">H", said) + message)
    if shape.size is None:
        return octets
    return octets[:shape.size].ljust(max(shape.size, 14), b"\xa5")


_option = st.one_of(
    st.sampled_from((b"\0", b"\xff", bytes((53, 1, 1)), bytes((53, 0)), bytes((53, 2, 1, 1)),
                     bytes((82, 4, 1, 2, 53, 1)), b"\0" * 61, b"\x0c\xff" + bytes(255))),
    st.builds(lambda kind: bytes((53, 1, kind)), st.integers(0, 255)),
    st.builds(lambda code, value: bytes((code, len(value))) + value,
              st.integers(1, 254), st.binary(max_size=20)))
# What may be wrong, each alone or with others.
_faults: dict[str, st.SearchStrategy[Any]] = {
    "tags": st.lists(st.sampled_from((*TAGS, 0x9100)), max_size=4).map(tuple),
    "ether_type": st.sampled_from((0x0806, 0x86DD, 0x8100, 0x0040, 0)),
    "version": st.sampled_from((0, 5, 6, 15)),
    "words": st.integers(0, 15),
    "protocol": st.sampled_from((1, 6, 255)),
    "fragment": st.sampled_from((0x2000, 0x4000, 0x8000, 1, 0x1FFF, 0x6001)),
    "port": st.sampled_from((0, 53, 68, 69, 6700, 65535)),
    "op": st.sampled_from((0, 2, 3, 255)),
    "hlen": st.sampled_from((0, 1, 16, 17, 255)),
    "hops": st.sampled_from((1, 4, 16, 17, 30, 31, 32, 255)),
    "cookie": st.sampled_from((bytes(4), COOKIE[::-1], b"\x63\x82\x53\x62")),
    "options": st.lists(_option, max_size=12).map(b"".join),
    "total": st.one_of(st.integers(0, 60), st.integers(240, 1600), st.just(65535)),
    "length": st.one_of(st.sampled_from((0, 7, 8, 247, 248, 249, 65535)), st.integers(0, 1600)),
    "ip_sum": st.sampled_from((1, 0x100, 0xFFFE, 0xFFFF)),
    "udp_sum": st.one_of(st.sampled_from(("none", "pseudo", "wrong")), st.integers(0, 65535)),
    "size": st.one_of(st.integers(14, 300), st.integers(300, 1600), st.sampled_from(
        (18, 19, 20, 33, 34, 35, 37, 38, 281, 282, 283, 1514, 1535, 1536, 1537, 1540))),
    "addresses": st.sampled_from((bytes(8), b"\xff" * 8, b"\0\0\0\0\xff\xff\xff\xff")),
}


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Sound in most fields, and anything in up to four of them."""
    names = draw(st.lists(st.sampled_from(sorted(_faults)), max_size=4, unique=True))
    faults: dict[str, Any] = {name: draw(_faults[name]) for name in names}
    shape = replace(Shape(), **faults)
    if "options" not in faults:
        shape = replace(shape, options=bytes((53, 1, draw(st.integers(1, 8)), 255)))
    return shape
