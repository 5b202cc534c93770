"""A DHCP message one can read: the slow, obvious twin of the compiled decoder.

The one thing to know: `Message.decode` accepts and refuses exactly what the kernel in
`fastpath.frame` does, for the same reason; the tests hold one against the other. Options
are kept as octets, joined as RFC 3396 says; `get` and `set` speak in values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from fastpath.errors import Malformed, UserError
from fastpath.option_types import MESSAGE_TYPES, printable
from fastpath.options import (
    CHECKED_LENGTHS,
    END,
    MESSAGE_TYPE,
    OVERLOAD,
    PAD,
    RELAY_AGENT_INFORMATION,
    code_of,
    encode_text,
    find,
)
from fastpath.wire import (
    BOOTREPLY,
    BOOTREQUEST,
    BROADCAST_FLAG,
    CHADDR_SIZE,
    COOKIE,
    FILE,
    FILE_SIZE,
    HTYPE_ETHERNET,
    MAGIC_COOKIE,
    MIN_BOOTP,
    OPTIONS,
    SNAME,
    SNAME_SIZE,
    MessageType,
)

_HEADER = struct.Struct(">BBBBIHH4s4s4s4s16s64s128sI")
_MAX_VALUE = 255
MAX_UDP = 65507  # octets that fit in one IPv4 datagram (RFC 791, RFC 768)
# Values of option 52 (RFC 2132 section 9.3), in the order the fields are read (RFC 3396
# section 5): attribute, offset, octets, bit.
_OVERLOADS = (("file", FILE, FILE_SIZE, 1), ("sname", SNAME, SNAME_SIZE, 2))
_UNSET = IPv4Address(0)


@dataclass(slots=True)
class Message:
    """One BOOTP or DHCP message (RFC 2131 section 2).

    chaddr: the first `hlen` octets of the field. sname, file: as they stand, without their
    trailing NULs; empty where the field holds options. options: code -> octets, in order of
    first appearance. Option 52 tells how a message was laid out: `encode` puts in its own.
    """

    op: int = BOOTREQUEST
    htype: int = HTYPE_ETHERNET
    hlen: int = 6
    hops: int = 0
    xid: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = _UNSET
    yiaddr: IPv4Address = _UNSET
    siaddr: IPv4Address = _UNSET
    giaddr: IPv4Address = _UNSET
    chaddr: bytes = bytes(6)
    sname: bytes = b""
    file: bytes = b""
    options: dict[int, bytes] = field(default_factory=dict)

    @property
    def type(self) -> MessageType | None:
        """Option 53 where it is one of RFC 2131's eight; else None (BOOTP has no type)."""
        value = self.options.get(MESSAGE_TYPE, b"")
        known = len(value) == 1 and value[0] in MessageType.__members__.values()
        return MessageType(value[0]) if known else None

    def get(self, key: int | str, default: Any = None) -> Any:
        """The value of an option, or `default` where it is absent.

        Raises Malformed where its octets do not fit its type, UserError for an unknown name.
        """
        option = find(key)
        octets = self.options.get(option.code)
        return default if octets is None else option.decode(octets)

    def set(self, key: int | str, value: Any) -> None:
        """Give an option a value; raises UserError where it does not fit the option's type."""
        option = find(key)
        self.options[option.code] = option.encode(value)

    def set_text(self, key: int | str, text: str) -> None:
        """Give an option the value that a person wrote; raises UserError."""
        code, octets = encode_text(key, text)
        self.options[code] = octets

    def remove(self, key: int | str) -> None:
        """Take an option out; nothing happens where it is not there."""
        self.options.pop(code_of(key), None)

    def encode(self, min_size: int = MIN_BOOTP, max_size: int | None = None) -> bytes:
        """The message in octets, padded with zeros to `min_size`.

        max_size: octets of the result (not of the IP datagram, which option 57 is about).
        Options that do not fit in it go into `file`, then `sname`, where these are empty
        (RFC 2131 section 4.1). Raises UserError where it still does not fit, and for field
        values that the format cannot carry.
        """
        size = MAX_UDP if max_size is None else max_size
        free = [] if max_size is None else [row for row in _OVERLOADS if not getattr(self, row[0])]
        # Not every client joins what was split (RFC 3396), so whole options are tried first.
        tries = ((split, free[:count]) for split in (False, True) for count in range(3))
        for split, used in tries:
            areas = _lay_out(self.options, size - OPTIONS, [row[2] for row in used],
                             sum(row[3] for row in used), split)
            if areas:
                break
        else:
            raise UserError(f"the options do not fit in a message of {size} octets",
                            "send fewer options, or allow a larger message")
        texts = {"file": self.file, "sname": self.sname}
        texts |= {row[0]: area for row, area in zip(used, areas[1:], strict=True)}
        data = self._encode_header(**texts) + areas[0]
        return data.ljust(min(min_size, size), b"\0")

    def _encode_header(self, file: bytes, sname: bytes) -> bytes:
        sizes = (("chaddr", self.chaddr, CHADDR_SIZE), ("sname", sname, SNAME_SIZE),
                 ("file", file, FILE_SIZE))
        for name, octets, size in sizes:
            if len(octets) > size:
                raise UserError(f"{name}: {len(octets)} octets, where {size} fit")
        if len(self.chaddr) != self.hlen:
            raise UserError(f"chaddr has {len(self.chaddr)} octets, hlen says {self.hlen}")
        try:
            return _HEADER.pack(
                self.op, self.htype, self.hlen, self.hops, self.xid, self.secs, self.flags,
                self.ciaddr.packed, self.yiaddr.packed, self.siaddr.packed, self.giaddr.packed,
                self.chaddr, sname, file, MAGIC_COOKIE)
        except struct.error as problem:
            raise UserError(f"a field of the message is out of range: {problem}") from None

    @classmethod
    def decode(cls, data: bytes, *, require_type: bool = False) -> Message:
        """Read a message; raises Malformed with the name of a `fastpath.wire.Reason`.

        require_type: also refuse a message without a valid option 53, as BOOTP has none.
        """
        data = bytes(data)
        if len(data) < OPTIONS:
            raise Malformed("bootp_short", f"{len(data)} octets, a message has {OPTIONS} or more")
        (op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr,
         chaddr, sname, file, cookie) = _HEADER.unpack_from(data)
        if op not in (BOOTREQUEST, BOOTREPLY) or hlen > CHADDR_SIZE:
            raise Malformed("bootp_fields", f"op {op}, hlen {hlen}")
        if cookie != MAGIC_COOKIE:
            raise Malformed("cookie", f"0x{cookie:08x} at octet {COOKIE}")
        options: dict[int, bytes] = {}
        _walk(data[OPTIONS:], options)
        texts = {"file": file.rstrip(b"\0"), "sname": sname.rstrip(b"\0")}
        overload = _overload_of(options)
        for name, start, size, bit in _OVERLOADS:
            if overload & bit:
                _walk(data[start:start + size], options, ignored=OVERLOAD)
                texts[name] = b""
        _check(options, require_type)
        return cls(op, htype, hlen, hops, xid, secs, flags, IPv4Address(ciaddr),
                   IPv4Address(yiaddr), IPv4Address(siaddr), IPv4Address(giaddr),
                   chaddr[:hlen], texts["sname"], texts["file"], options)

    def describe(self) -> str:
        """Several lines for a person; never raises, whatever a peer sent."""
        what = {BOOTREQUEST: "request", BOOTREPLY: "reply"}.get(self.op, f"op {self.op}")
        kind = find(MESSAGE_TYPE).format_octets(self.options[MESSAGE_TYPE]).upper() \
            if MESSAGE_TYPE in self.options else "BOOTP"
        cast = "broadcast" if self.flags & BROADCAST_FLAG else "unicast"
        lines = [
            f"{kind} ({what}) xid 0x{self.xid:08x} secs {self.secs} hops {self.hops} {cast}",
            f"  chaddr {self.chaddr.hex(':')} (htype {self.htype})",
            f"  ciaddr {self.ciaddr} yiaddr {self.yiaddr} siaddr {self.siaddr}"
            f" giaddr {self.giaddr}"]
        lines += [f"  {name} {printable(text.decode('utf-8', 'backslashreplace'))}"
                  for name, text in (("sname", self.sname), ("file", self.file)) if text]
        for code, octets in self.options.items():
            option = find(code)
            lines.append(f"  {code} {option.name}: {option.format_octets(octets)}")
        return "\n".join(lines)


def _walk(area: bytes, options: dict[int, bytes], ignored: int = PAD) -> None:
    """Add the options of one field; repeated ones are joined (RFC 3396 section 7)."""
    at = 0
    while at < len(area) and area[at] != END:
        code = area[at]
        if code == PAD:
            at += 1
            continue
        if at + 1 >= len(area) or at + 2 + area[at + 1] > len(area):
            raise Malformed("option_truncated", f"option {code} goes past its field")
        after = at + 2 + area[at + 1]
        if code != ignored:
            options[code] = options.get(code, b"") + area[at + 2:after]
        at = after


def _overload_of(options: dict[int, bytes]) -> int:
    value = options.get(OVERLOAD, b"\0")
    if OVERLOAD in options and (len(value) != 1 or not 1 <= value[0] <= 3):
        raise Malformed("option_length", f"option-overload: 0x{value.hex()} is not 1, 2 or 3")
    return value[0]


def _check(options: dict[int, bytes], require_type: bool) -> None:
    for code, (least, most) in CHECKED_LENGTHS.items():
        if code in options and not least <= len(options[code]) <= most:
            raise Malformed("option_length", f"{find(code).name}: {len(options[code])} octets")
    if require_type and options.get(MESSAGE_TYPE, b"\0")[0] not in MESSAGE_TYPES.values():
        raise Malformed("no_message_type")


def _lay_out(options: dict[int, bytes], room: int, fields: list[int], bits: int,
             split: bool) -> list[bytes]:
    """The options field and the overloaded `fields`, filled; [] where it does not fit.

    room: octets of the options field; fields: sizes of the others; bits: option 52, if not 0;
    split: an option that would fit in one piece may be split too.
    Option 53 comes first. Option 82 comes last in the options field even where others
    overflow, for that is where relays look for it (RFC 3046 section 2.1).
    """
    areas = [_Area(room), *map(_Area, fields)]
    last = options.get(RELAY_AGENT_INFORMATION)
    tail = b"" if last is None else _pieces(RELAY_AGENT_INFORMATION, last)
    areas[0].room -= len(tail)
    ordered = dict(options)
    ordered.pop(OVERLOAD, None)
    ordered.pop(RELAY_AGENT_INFORMATION, None)
    head = {MESSAGE_TYPE: ordered.pop(MESSAGE_TYPE)} if MESSAGE_TYPE in ordered else {}
    if bits:
        head[OVERLOAD] = bytes([bits])
    for code, value in (head | ordered).items():
        if not PAD < code < END:
            raise UserError(f"no option can have code {code}", "codes go from 1 to 254")
        if not _place(code, value, areas[:1] if code in head else areas, split):
            return []
    if areas[0].room < 0:
        return []
    return [areas[0].octets + tail + bytes([END]), *(area.full() for area in areas[1:])]


class _Area:
    """A field being filled. room: octets left, besides the one for the end option."""

    __slots__ = ("octets", "room")

    def __init__(self, size: int) -> None:
        self.octets = b""
        self.room = size - 1

    def put(self, code: int, value: bytes) -> None:
        self.octets += bytes([code, len(value)]) + value
        self.room -= 2 + len(value)

    def full(self) -> bytes:
        return (self.octets + bytes([END])).ljust(len(self.octets) + 1 + self.room, b"\0")


def _place(code: int, value: bytes, areas: list[_Area], split: bool) -> bool:
    """Put one option where it fits whole, or else split over what is left (RFC 3396)."""
    if len(value) <= _MAX_VALUE:
        for area in areas:
            if area.room >= 2 + len(value):
                area.put(code, value)
                return True
        if not (split and value):
            return False
    for area in areas:
        while value and area.room > 2:
            count = min(len(value), _MAX_VALUE, area.room - 2)
            area.put(code, value[:count])
            value = value[count:]
    return not value


def _pieces(code: int, value: bytes) -> bytes:
    parts = [value[at:at + _MAX_VALUE] for at in range(0, len(value), _MAX_VALUE)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)
