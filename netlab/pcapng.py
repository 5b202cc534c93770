"""The pcapng file format, written: blocks as octets, and where the last whole one ends.

The one thing to know: a file is a row of blocks that each say their own length, so whatever is
cut off behind a whole block leaves a file that every reader takes. Little-endian, timestamps in
nanoseconds. Source: draft-ietf-opsawg-pcapng, sections 3 (block structure) and 4 (blocks).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SECTION_HEADER, INTERFACE_DESCRIPTION = 0x0A0D0D0A, 1
INTERFACE_STATISTICS, ENHANCED_PACKET = 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
LINKTYPE_ETHERNET = 1
# Section 4.3.1, epb_flags: bits 0 and 1.
INBOUND, OUTBOUND = 1, 2
# Options: of every block, then of one kind each.
_END, _COMMENT = 0, 1
_SHB_OS, _SHB_APPLICATION = 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_FILTER = 2, 3, 9, 11
_EPB_FLAGS = 2
_ISB_START, _ISB_END, _ISB_RECEIVED, _ISB_OS_DROPPED, _ISB_DELIVERED = 2, 3, 4, 7, 8
_NANOSECONDS = bytes([9])  # if_tsresol: 10 to the power of -9
_MOST_OPTION = 0xFFFF

_FRAME = struct.Struct("<II")
# An enhanced packet block up to its frame, and from its only option to its end.
_PACKET = struct.Struct("<IIIIIII")
_FLAGS = struct.Struct("<HHIHHI")


@dataclass(frozen=True, slots=True)
class Interface:
    """What is said of one interface. snaplen: most octets of a frame that are kept; 0: all."""

    name: str
    description: str = ""
    filter: str = ""
    snaplen: int = 0


def section_header(application: str, system: str = "") -> bytes:
    """The block that opens a file. application, system: what wrote it, and on what."""
    # The length of the section is not known beforehand: -1.
    body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(SECTION_HEADER, body + _options(
        (_SHB_OS, _text(system)), (_SHB_APPLICATION, _text(application))))


def interface(described: Interface) -> bytes:
    """One interface; frames name it by how many were described before it."""
    # if_filter: the first octet 0 says that a filter of libpcap follows, in words.
    words = b"\0" + _text(described.filter) if described.filter else b""
    return _block(INTERFACE_DESCRIPTION, struct.pack(
        "<HHI", LINKTYPE_ETHERNET, 0, described.snaplen) + _options(
        (_IF_NAME, _text(described.name)), (_IF_DESCRIPTION, _text(described.description)),
        (_IF_TSRESOL, _NANOSECONDS), (_IF_FILTER, words)))


def packet(number: int, time_ns: int, frame: bytes, length: int, direction: int) -> bytes:
    """One frame on interface `number`: what was kept of it, and the `length` it had."""
    kept = len(frame)
    pad = -kept % 4
    total = _PACKET.size + kept + pad + _FLAGS.size
    return b"".join((
        _PACKET.pack(ENHANCED_PACKET, total, number, time_ns >> 32, time_ns & 0xFFFFFFFF, kept,
                     length), frame, bytes(pad),
        _FLAGS.pack(_EPB_FLAGS, 4, direction, _END, 0, total)))


def statistics(number: int, started_ns: int, ended_ns: int, delivered: int, dropped: int,
               comment: str = "") -> bytes:
    """What became of interface `number`: frames in the file, and frames lost for want of room."""
    def count(value: int) -> bytes:
        return struct.pack("<Q", value)

    def time(value: int) -> bytes:
        return struct.pack("<II", value >> 32, value & 0xFFFFFFFF)

    return _block(INTERFACE_STATISTICS, struct.pack("<I", number) + time(ended_ns) + _options(
        (_COMMENT, _text(comment)), (_ISB_START, time(started_ns)), (_ISB_END, time(ended_ns)),
        (_ISB_RECEIVED, count(delivered + dropped)), (_ISB_OS_DROPPED, count(dropped)),
        (_ISB_DELIVERED, count(delivered))))


def whole(blocks: bytes, written: int) -> int:
    """How many of the first `written` octets of `blocks` are whole blocks."""
    at = 0
    while at + _FRAME.size <= written:
        length = _FRAME.unpack_from(blocks, at)[1]
        if at + length > written:
            break
        at += length
    return at


def _block(kind: int, body: bytes) -> bytes:
    total = _FRAME.size + len(body) + 4
    return _FRAME.pack(kind, total) + body + struct.pack("<I", total)


def _options(*options: tuple[int, bytes]) -> bytes:
    """Those that have a value, each filled up to 32 bits, and the one that ends them."""
    packed = b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
                      for code, value in options if value)
    return packed + struct.pack("<HH", _END, 0)


def _text(words: str) -> bytes:
    """UTF-8 that fits in an option, not cut within a character."""
    octets = words.encode("utf-8", "replace")[:_MOST_OPTION - 1]
    return octets.decode("utf-8", "ignore").encode()
