"""Option values with a structure of their own: names, routes, sub-options and lists of these.

The one thing to know: every length inside a value is checked by `_take`, so an inner length
that runs past its value is `option_truncated`, as it is for the options themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from fastpath.errors import Malformed, UserError
from fastpath.option_types import (
    BYTES,
    IPS,
    OPEN,
    SHORT_BYTES,
    STRING,
    U8,
    OptionType,
    sequence,
    show_octets,
    words,
)

MAX_NAME, MAX_LABEL = 255, 63  # octets (RFC 1035 section 2.3.4)
_POINTER = 0xC0


def _take(octets: bytes, at: int, count: int) -> bytes:
    if at + count > len(octets):
        raise Malformed("option_truncated", f"{count} octets announced, {len(octets) - at} left")
    return octets[at:at + count]


# Domain names (RFC 1035 section 3.1). As text, a dot or backslash inside a label is escaped
# by a backslash and an octet that is no printable ASCII is \DDD (RFC 1035 section 5.1).

def _show_label(label: bytes) -> str:
    # A comma too: it would end the name in a list.
    return "".join(f"\\{chr(c)}" if c in b".\\" else
                   chr(c) if 32 < c < 127 and c != 44 else f"\\{c:03d}" for c in label)


def _labels(name: str) -> list[bytes]:
    labels = [b""]
    for digits, escaped, plain in re.findall(r"\\(\d{3})|\\(.)|(.)", name, re.DOTALL):
        if plain == ".":
            labels.append(b"")
        else:
            labels[-1] += bytes([int(digits)]) if digits else (escaped or plain).encode("ascii")
    return labels


def pack_name(name: str, partial: bool = False) -> bytes:
    """The wire form of a domain name; a final dot changes nothing unless `partial`.

    With `partial` a name without a final dot is left unfinished (RFC 4702 section 3.3.1).
    """
    labels = _labels("" if name == "." else name)
    rooted = labels[-1] == b""
    if rooted:
        labels.pop()
    if not name or any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError(name)
    wire = b"".join(bytes([len(label)]) + label for label in labels)
    if rooted or not partial:
        wire += b"\0"
    if len(wire) > MAX_NAME:
        raise ValueError(name)
    return wire


def unpack_name(octets: bytes, at: int) -> tuple[str, int]:
    """The name at `at` and where the next begins; follows compression pointers.

    A pointer counts from the start of `octets` (RFC 3397 section 2) and must lead back to
    before the part it ends, so there is no loop.
    """
    labels: list[str] = []
    used, limit, after = 1, at, 0
    while True:
        length = _take(octets, at, 1)[0]
        if length >= _POINTER:
            target = (length & ~_POINTER) << 8 | _take(octets, at + 1, 1)[0]
            if target >= limit:
                raise ValueError("a pointer that does not lead back")
            after = after or at + 2
            at = limit = target
            continue
        if length > MAX_LABEL:
            raise ValueError("an unknown kind of label")
        if length == 0:
            return ".".join(labels) or ".", after or at + 1
        used += length + 1
        if used > MAX_NAME:
            raise ValueError("a name of more than 255 octets")
        labels.append(_show_label(_take(octets, at + 1, length)))
        at += length + 1


def _unpack_names(octets: bytes) -> list[str]:
    names, at = [], 0
    while at < len(octets):
        name, at = unpack_name(octets, at)
        names.append(name)
    return names


def _unpack_one_name(octets: bytes) -> str:
    name, after = unpack_name(octets, 0)
    if after != len(octets):
        raise ValueError("something after the name")
    return name


def _read_name(text: str) -> str:
    return unpack_name(pack_name(text.strip()), 0)[0]


DOMAIN = OptionType("domain", "a domain name", "example.com", pack_name, _unpack_one_name,
                    _read_name, str)
# Written without compression: not every client reads it.
DOMAIN_LIST = OptionType("domain-list", "a list of domain names", "example.com,example.net",
                         lambda names: b"".join(map(pack_name, sequence(names))), _unpack_names,
                         lambda text: [_read_name(item) for item in words(text)], ",".join)


@dataclass(frozen=True, slots=True)
class ClientFqdn:
    """Option 81 (RFC 4702 section 2). flags: 1 S, 2 O, 4 E, 8 N.

    name: with a final dot where it is complete, without where it is the client's host part.
    """

    flags: int
    name: str
    rcode1: int = 0
    rcode2: int = 0


_FQDN_S, _FQDN_E = 1, 4


def _pack_fqdn(value: ClientFqdn) -> bytes:
    head = bytes([value.flags, value.rcode1, value.rcode2])
    if value.flags & _FQDN_E:
        return head + (pack_name(value.name, partial=True) if value.name else b"")
    return head + value.name.encode("ascii")


def _unpack_fqdn(octets: bytes) -> ClientFqdn:
    flags, rcode1, rcode2 = octets[:3]
    name = octets[3:]
    if flags & _FQDN_E == 0:
        return ClientFqdn(flags, name.rstrip(b"\0").decode("ascii", "backslashreplace"),
                          rcode1, rcode2)
    try:
        text = _unpack_one_name(name) if name else ""
        text += "." if text not in ("", ".") else ""
    except Malformed:
        # Unfinished: the same name with the root that it lacks.
        text = _unpack_one_name(name + b"\0")
    return ClientFqdn(flags, text, rcode1, rcode2)


def _read_fqdn(text: str) -> ClientFqdn:
    """`NAME`, or with other flags and rcodes: `flags=4,255,255 NAME`."""
    found = re.fullmatch(r"(?:flags=(\d+)(?:,(\d+),(\d+))?)?\s*(.*)", text.strip())
    if not found:
        raise ValueError(text)
    flags, rcode1, rcode2, name = found.groups()
    value = ClientFqdn(_FQDN_S | _FQDN_E if flags is None else int(flags), name,
                       int(rcode1 or 0), int(rcode2 or 0))
    _pack_fqdn(value)
    return value


CLIENT_FQDN = OptionType(
    "client-fqdn", "a host name, after flags if need be", "flags=5,0,0 host.example.com.",
    _pack_fqdn, _unpack_fqdn, _read_fqdn,
    lambda value: f"flags={value.flags},{value.rcode1},{value.rcode2} {value.name}".rstrip(), 3)


# Classless static routes (RFC 3442): width, then only the octets of the destination that
# the width reaches, then the router.

def _pack_routes(routes: Any) -> bytes:
    wire = b""
    for destination, router in sequence(routes):
        network = IPv4Network(destination)
        significant = (network.prefixlen + 7) // 8
        wire += (bytes([network.prefixlen]) + network.network_address.packed[:significant]
                 + IPv4Address(router).packed)
    return wire


def _unpack_routes(octets: bytes) -> list[tuple[IPv4Network, IPv4Address]]:
    routes, at = [], 0
    while at < len(octets):
        width = octets[at]
        if width > 32:
            raise ValueError(width)
        significant = (width + 7) // 8
        body = _take(octets, at + 1, significant + 4)
        # The client masks what lies beyond the width (RFC 3442, "Local Subnet Routes").
        network = IPv4Network((body[:significant].ljust(4, b"\0"), width), strict=False)
        routes.append((network, IPv4Address(body[significant:])))
        at += 1 + significant + 4
    return routes


def _read_routes(text: str) -> list[tuple[IPv4Network, IPv4Address]]:
    items = [item for item in words(text) if item != "via"]
    return [(IPv4Network(a), IPv4Address(b)) for a, b in zip(items[::2], items[1::2], strict=True)]


ROUTES = OptionType("routes", "a list of routes", "198.51.100.0/24 via 192.0.2.1", _pack_routes,
                    _unpack_routes, _read_routes,
                    lambda routes: ", ".join(f"{net} via {router}" for net, router in routes), 5)


def suboptions(name: str, known: Mapping[str, tuple[int, OptionType]]) -> OptionType:
    """Sub-options as dict[int, bytes]; `known` gives code and type of those with a name.

    When packing, a key may be a known name, and a value that is not bytes goes through its
    type. Text: `circuit-id=eth0,17=0x0102`.
    """
    names = {code: label for label, (code, _) in known.items()}

    def lookup(key: Any) -> tuple[int, OptionType]:
        if isinstance(key, str):
            if key in known:
                return known[key]
            if not key.isdigit():
                raise UserError(f'unknown sub-option "{key}"',
                                f"known are: {', '.join(known) or 'numbers only'}")
        code = int(key)
        return known[names[code]] if code in names else (code, SHORT_BYTES)

    def pack(pairs: Mapping[Any, Any]) -> bytes:
        wire = b""
        for key, value in pairs.items():
            code, kind = lookup(key)
            octets = value if isinstance(value, bytes) else kind.encode(value, str(key))
            wire += bytes([code, len(octets)]) + octets
        return wire

    def unpack(octets: bytes) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        at = 0
        while at < len(octets):
            code, length = _take(octets, at, 2)
            # Sub-options are not joined (RFC 3396 is about options): the first one counts.
            found.setdefault(code, _take(octets, at + 2, length))
            at += 2 + length
        return found

    def read(text: str) -> dict[int, bytes]:
        found = {}
        # A comma ends an item only where another `key=` follows.
        for item in re.split(r",\s*(?=[\w-]+=)", text.strip()):
            key, equals, written = item.partition("=")
            if not equals:
                raise ValueError(item)
            code, kind = lookup(key.strip())
            found[code] = kind.encode(kind.parse_text(written, key), key)
        return found

    def show_one(code: int, octets: bytes) -> str:
        kind = lookup(code)[1]
        try:
            return f"{names.get(code, code)}={kind.format_text(kind.decode(octets))}"
        except Malformed:
            return f"{names.get(code, code)}={show_octets(octets)}"

    example = f"{next(iter(known), 1)}=0x0102"
    return OptionType(name, "a list of sub-options", example, pack, unpack, read,
                      lambda pairs: ",".join(show_one(*pair) for pair in pairs.items()), 2)


SUBOPTIONS = suboptions("suboptions", {})


def prefixed(inner: OptionType) -> OptionType:
    """One octet, then `inner`; a value is (int, inner's value). Text: `1 TEXT`."""

    def read(text: str) -> tuple[int, Any]:
        first, _, rest = text.strip().partition(" ")
        return int(first, 0), inner.parse_text(rest.strip())

    return OptionType(f"u8+{inner.name}", f"a number, then {inner.form}", f"1 {inner.example}",
                      lambda value: U8.pack(value[0]) + inner.encode(value[1]),
                      lambda octets: (octets[0], inner.decode(octets[1:])),
                      read, lambda value: f"{value[0]} {inner.show(value[1])}".rstrip(),
                      1 + inner.min_octets)


def counted(inner: OptionType, width: int = 1) -> OptionType:
    """Items with their length of `width` octets before each. Text: items between `;`."""

    def pack(values: Any) -> bytes:
        items = [inner.encode(value) for value in sequence(values)]
        return b"".join(len(item).to_bytes(width, "big") + item for item in items)

    def unpack(octets: bytes) -> list[Any]:
        values, at = [], 0
        while at < len(octets):
            length = int.from_bytes(_take(octets, at, width), "big")
            values.append(inner.decode(_take(octets, at + width, length)))
            at += width + length
        return values

    return OptionType(f"{inner.name}[]", f"a list of: {inner.form}", inner.example, pack, unpack,
                      lambda text: [inner.parse_text(item.strip()) for item in text.split(";")],
                      lambda values: "; ".join(map(inner.show, values)), width + inner.min_octets)


def by_enterprise(inner: OptionType) -> OptionType:
    """Vendor-identifying: data under an IANA enterprise number, as dict[int, inner's value].

    RFC 3925 sections 3 and 4. Text: `4491: TEXT`, enterprises between `|`.
    """

    def pack(pairs: Mapping[int, Any]) -> bytes:
        wire = b""
        for number, value in pairs.items():
            data = inner.encode(value) if value else b""
            wire += number.to_bytes(4, "big") + U8.pack(len(data)) + data
        return wire

    def unpack(octets: bytes) -> dict[int, Any]:
        found: dict[int, Any] = {}
        at = 0
        while at < len(octets):
            head = _take(octets, at, 5)
            data = _take(octets, at + 5, head[4])
            # An enterprise twice is undefined (RFC 3925 section 4): the first one counts.
            found.setdefault(int.from_bytes(head[:4], "big"), inner.unpack(data))
            at += 5 + head[4]
        return found

    def read(text: str) -> dict[int, Any]:
        found = {}
        for item in text.split("|"):
            number, colon, rest = item.partition(":")
            if not colon:
                raise ValueError(item)
            found[int(number, 0)] = inner.parse_text(rest.strip()) if rest.strip() else \
                inner.unpack(b"")
        return found

    return OptionType(f"enterprise+{inner.name}", f"an enterprise number, then {inner.form}",
                      f"4491: {inner.example}", pack, unpack, read,
                      lambda pairs: " | ".join(f"{number}: {inner.show(value)}"
                                               for number, value in pairs.items()), 5)


def _addresses_or_names(items: list[Any]) -> list[Any]:
    try:
        return [IPv4Address(item) for item in items]
    except ValueError:
        return [_read_name(item) for item in items]


def _pack_sip(value: Any) -> bytes:
    items = _addresses_or_names(sequence(value))
    kind = IPS if isinstance(items[0], IPv4Address) else DOMAIN_LIST
    return bytes([kind is IPS]) + kind.encode(items)


# RFC 3361 section 3: names behind a 0, addresses behind a 1.
SIP_SERVERS = OptionType(
    "sip-servers", "a list of domain names or of IPv4 addresses", "sip.example.com", _pack_sip,
    lambda octets: (DOMAIN_LIST, IPS)[octets[0]].decode(octets[1:]),
    lambda text: _addresses_or_names(words(text)), lambda value: ",".join(map(str, value)), 2)

USER_CLASS = counted(BYTES)
URIS = counted(STRING, width=2)
ADDRESS_LISTS = counted(IPS)
SLP_AGENTS = prefixed(IPS)
SLP_SCOPE = prefixed(STRING)
STATUS = prefixed(STRING.sized(0, OPEN))
TYPED_OCTETS = prefixed(BYTES)
VENDOR_CLASS = by_enterprise(USER_CLASS)
VENDOR_INFORMATION = by_enterprise(SUBOPTIONS)
