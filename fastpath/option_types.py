"""The kinds of value a DHCP option can hold: octets, Python value and human text of each.

The one thing to know: whoever is at fault names the error. A value or a text that does not
fit is the user's (`UserError`); octets that do not fit are the peer's (`Malformed`). The
plain functions in the rows below just raise ValueError and its like; `OptionType` translates.

`read(show(value))` gives the value back (but for control characters in texts, which are
shown escaped), so what was printed can be used again.
Types whose value has a structure of its own are in `option_structs`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from fastpath.errors import Malformed, UserError
from fastpath.wire import MessageType

OPEN = 65535  # no upper limit of its own: RFC 3396 joins repeated options
INFINITE = 0xFFFFFFFF  # a lease for ever (RFC 2131 section 3.3)

_MISFIT = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class OptionType:
    """One kind of value.

    name: short, as in the registry's listing. form: what a value is, to follow "is not".
    example: a text that `parse_text` takes. pack, unpack: value <-> octets. read, show:
    text <-> value. min_octets, max_octets: allowed length; step: it must be a multiple of it.
    """

    name: str
    form: str
    example: str
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]
    read: Callable[[str], Any]
    show: Callable[[Any], str]
    min_octets: int = 1
    max_octets: int = OPEN
    step: int = 1

    def encode(self, value: Any, label: str = "") -> bytes:
        """The octets of `value`; `label` (an option's name) opens the message of a UserError."""
        try:
            octets = self.pack(value)
        except UserError as inner:
            raise _labelled(inner, label) from None
        except _MISFIT:
            raise self._refused(repr(value), label) from None
        if not self.fits(len(octets)):
            raise UserError(f"{label or self.name}: {len(octets)} octets, not {self.lengths()}",
                            f"write it like {self.example}")
        return octets

    def decode(self, octets: bytes, label: str = "") -> Any:
        """The value in `octets`; raises Malformed (`option_length`, `option_truncated`)."""
        if not self.fits(len(octets)):
            raise Malformed("option_length",
                            f"{label or self.name}: {len(octets)} octets, not {self.lengths()}")
        try:
            return self.unpack(octets)
        except Malformed as inner:
            what = f"{label}: {inner.what}" if label else inner.what
            raise Malformed(inner.reason, what) from None
        except _MISFIT:
            raise Malformed("option_length",
                            f"{label or self.name}: 0x{octets[:32].hex()} is not {self.form}"
                            ) from None

    def parse_text(self, text: str, label: str = "") -> Any:
        """The value that a person wrote; raises UserError."""
        try:
            return self.read(text)
        except UserError as inner:
            raise _labelled(inner, label) from None
        except _MISFIT:
            raise self._refused(repr(text), label) from None

    def format_text(self, value: Any) -> str:
        """`value` as `parse_text` takes it, without control characters: fit for a terminal."""
        return printable(self.show(value))

    def fits(self, length: int) -> bool:
        return self.min_octets <= length <= self.max_octets and length % self.step == 0

    def lengths(self) -> str:
        """The length rule in words: "4", "5 or more", "4 or more in steps of 4"."""
        if self.min_octets == self.max_octets:
            return str(self.min_octets)
        if self.max_octets == OPEN:
            words = f"{self.min_octets} or more"
        else:
            words = f"{self.min_octets} to {self.max_octets}"
        return words if self.step == 1 else f"{words} in steps of {self.step}"

    def sized(self, min_octets: int, max_octets: int) -> OptionType:
        """The same kind of value under another length rule."""
        return replace(self, min_octets=min_octets, max_octets=max_octets)

    def _refused(self, what: str, label: str) -> UserError:
        shown = what if len(what) <= 80 else what[:77] + "..."
        return UserError(f"{label or self.name}: {shown} is not {self.form}",
                         f"write it like {self.example}")


def _labelled(error: UserError, label: str) -> UserError:
    return UserError(f"{label}: {error.what}", error.remedy) if label else error


def words(text: str) -> list[str]:
    """Split at commas and blanks; nothing between them is an error, not an empty item."""
    items = [item for chunk in text.split(",") for item in (chunk.split() or [""])]
    if "" in items:
        raise ValueError("empty item")
    return items


def sequence(value: Any) -> list[Any]:
    # A string is a sequence too, of its letters: never what was meant.
    if isinstance(value, str | bytes):
        raise TypeError("one string where a list is due")
    return list(value)


def _number(name: str, layout: str) -> OptionType:
    codec = struct.Struct(layout)
    low, high = (-(1 << 31), (1 << 31) - 1) if layout == ">i" else (0, (1 << 8 * codec.size) - 1)
    return OptionType(name, f"a whole number from {low} to {high}", "1",
                      codec.pack, lambda octets: codec.unpack(octets)[0],
                      lambda text: _ranged(int(text, 0), low, high), str, codec.size, codec.size)


def _ranged(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise ValueError(number)
    return number


def _numbers(name: str, letter: str, form: str) -> OptionType:
    size = struct.calcsize(letter)
    high = (1 << 8 * size) - 1

    def pack(values: Any) -> bytes:
        values = sequence(values)
        return struct.pack(f">{len(values)}{letter}", *values)

    return OptionType(name, form, "1,2", pack,
                      lambda octets: list(struct.unpack(f">{len(octets) // size}{letter}", octets)),
                      lambda text: [_ranged(int(item, 0), 0, high) for item in words(text)],
                      lambda values: ",".join(map(str, values)), size, step=size)


_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _read_seconds(text: str) -> int:
    text = text.strip()
    if text == "infinite":
        return INFINITE
    if re.fullmatch(r"(\d+[smhdw])+", text):
        total = sum(int(n) * _UNIT_S[unit] for n, unit in re.findall(r"(\d+)(\w)", text))
    else:
        total = int(text, 0)
    return _ranged(total, 0, INFINITE)


def _pack_ips(values: Any) -> bytes:
    return b"".join(IPv4Address(value).packed for value in sequence(values))


def _unpack_ips(octets: bytes) -> list[IPv4Address]:
    return [IPv4Address(octets[at:at + 4]) for at in range(0, len(octets), 4)]


def _pack_pairs(pairs: Any) -> bytes:
    return b"".join(IPv4Address(a).packed + IPv4Address(b).packed for a, b in sequence(pairs))


def _unpack_pairs(octets: bytes) -> list[tuple[IPv4Address, IPv4Address]]:
    ips = _unpack_ips(octets)
    return list(zip(ips[::2], ips[1::2], strict=True))


def _read_pairs(text: str) -> list[tuple[IPv4Address, IPv4Address]]:
    ips = [IPv4Address(item) for item in words(text.replace("/", " "))]
    return list(zip(ips[::2], ips[1::2], strict=True))


_SWITCH = {"true": True, "on": True, "yes": True, "1": True,
           "false": False, "off": False, "no": False, "0": False}


def _pack_bool(value: Any) -> bytes:
    if value not in (True, False):
        raise ValueError(value)
    return bytes([value])


def _unpack_bool(octets: bytes) -> bool:
    if octets[0] > 1:
        raise ValueError(octets[0])
    return octets[0] == 1


def _pack_flag(value: Any) -> bytes:
    if value is not True:
        raise ValueError(value)
    return b""


def _read_flag(text: str) -> bool:
    # There is no octet to say "no" with: the option is there or it is not.
    if not (text.strip() == "" or _SWITCH[text.strip().lower()]):
        raise ValueError(text)
    return True


def _pack_text(value: Any) -> bytes:
    if value.endswith("\0"):
        raise ValueError(value)
    octets: bytes = value.encode()
    return octets


def _unpack_text(octets: bytes) -> str:
    # Trailing NULs go (RFC 2132 section 2). What is not UTF-8 is shown escaped: a peer's
    # octets must never break the log or terminal that the text ends up in.
    return octets.rstrip(b"\0").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """`text` with control characters escaped, fit for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_COLON_HEX = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+")
_PLAIN = re.compile(r"(?!0[xX])[A-Za-z0-9]([\w./+ -]*[\w./+-])?", re.ASCII)


def read_octets(text: str) -> bytes:
    """0x hexadecimal, aa:bb:cc, or else the text itself as UTF-8."""
    text = text.strip()
    if text[:2] in ("0x", "0X"):
        return bytes.fromhex(text[2:])
    if _COLON_HEX.fullmatch(text):
        return bytes.fromhex(text.replace(":", ""))
    return text.encode()


def show_octets(octets: bytes) -> str:
    """Plain words as they are, everything else in hexadecimal."""
    text = octets.decode("latin-1")
    return text if _PLAIN.fullmatch(text) else "0x" + octets.hex()


def _read_client_id(text: str) -> bytes:
    # RFC 2132 section 9.14: a hardware type and address, or type 0 and anything else.
    octets = read_octets(text)
    if _COLON_HEX.fullmatch(text.strip()):
        return b"\x01" + octets if len(octets) == 6 else octets
    return octets if text.strip()[:2] in ("0x", "0X") else b"\0" + octets


def _show_client_id(octets: bytes) -> str:
    if octets[0] == 1 and len(octets) == 7:
        return octets[1:].hex(":")
    if octets[0] == 0 and _PLAIN.fullmatch(octets[1:].decode("latin-1")):
        return octets[1:].decode()
    return "0x" + octets.hex()


# Values of option 53: RFC 2132 section 9.6, RFC 3203, RFC 4388, RFC 6926, RFC 7724.
MESSAGE_TYPES = {name: value for value, name in enumerate((
    "discover", "offer", "request", "decline", "ack", "nak", "release", "inform", "forcerenew",
    "leasequery", "leaseunassigned", "leaseunknown", "leaseactive", "bulkleasequery",
    "leasequerydone", "activeleasequery", "leasequerystatus", "tls"), start=1)}
_MESSAGE_NAMES = {value: name for name, value in MESSAGE_TYPES.items()}


def _message_type(value: int) -> int:
    if value not in _MESSAGE_NAMES:
        raise Malformed("no_message_type", f"no message type has number {value}")
    return MessageType(value) if value in MessageType.__members__.values() else value


def _pack_message_type(value: int) -> bytes:
    if value not in _MESSAGE_NAMES:
        raise ValueError(value)
    return bytes([value])


def _refuse(*_: Any) -> Any:
    raise ValueError("pad and end carry no value")


U8 = _number("u8", ">B")
U16 = _number("u16", ">H")
U32 = _number("u32", ">I")
I32 = _number("i32", ">i")
U8S = _numbers("u8s", "B", "a list of whole numbers from 0 to 255")
U16S = _numbers("u16s", "H", "a list of whole numbers from 0 to 65535")
SECONDS = replace(U32, name="seconds", form="a time in seconds", example="12h",
                  read=_read_seconds, show=lambda s: "infinite" if s == INFINITE else str(s))
IP = OptionType("ip", "an IPv4 address", "192.0.2.1", lambda value: IPv4Address(value).packed,
                IPv4Address, lambda text: IPv4Address(text.strip()), str, 4, 4)
IP6 = OptionType("ip6", "an IPv6 address", "2001:db8::1", lambda value: IPv6Address(value).packed,
                 IPv6Address, lambda text: IPv6Address(text.strip()), str, 16, 16)
IPS = OptionType("ips", "a list of IPv4 addresses", "192.0.2.1,192.0.2.2", _pack_ips, _unpack_ips,
                 lambda text: [IPv4Address(item) for item in words(text)],
                 lambda value: ",".join(map(str, value)), 4, step=4)
# RFC 2132 section 8.13: no address at all means "no home agent here".
IPS_OR_NONE = replace(IPS, name="ips-or-none", min_octets=0,
                      read=lambda text: IPS.read(text) if text.strip() else [])
IP_PAIRS = OptionType("ip-pairs", "a list of pairs of IPv4 addresses",
                      "192.0.2.0 198.51.100.1, 192.0.2.128 198.51.100.2",
                      _pack_pairs, _unpack_pairs, _read_pairs,
                      lambda pairs: ", ".join(f"{a} {b}" for a, b in pairs), 8, step=8)
BOOL = OptionType("bool", "true or false", "true", _pack_bool, _unpack_bool,
                  lambda text: _SWITCH[text.strip().lower()],
                  lambda value: "true" if value else "false", 1, 1)
FLAG = OptionType("flag", "true: leave the option out to say no", "true", _pack_flag,
                  lambda octets: True, _read_flag, lambda value: "true", 0, 0)
STRING = OptionType("string", "a text", "some text", _pack_text, _unpack_text,
                    lambda text: text, str)
BYTES = OptionType("bytes", "octets", "0x0102",
                   lambda value: bytes(memoryview(value)), bytes, read_octets, show_octets)
# As a sub-option: it may be empty (RFC 3046 section 2.0).
SHORT_BYTES = BYTES.sized(0, 255)
CLIENT_ID = OptionType("client-id", "a client identifier", "02:00:00:00:00:01",
                       BYTES.pack, bytes, _read_client_id, _show_client_id, 2)
MARKER = OptionType("marker", "a value (pad and end are put in by the encoder)", "",
                    _refuse, lambda octets: None, _refuse, lambda value: "", 0, 0)
MESSAGE = OptionType("message-type", "a message type", "discover", _pack_message_type,
                     lambda octets: _message_type(octets[0]),
                     lambda text: _message_type(MESSAGE_TYPES[text.strip().lower()]),
                     lambda value: _MESSAGE_NAMES[value], 1, 1)
