"""The readable message: exact decoding rules, RFC 3396 and overload, hostile input."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import Malformed, UserError
from fastpath.message import Message
from fastpath.options import CHECKED_LENGTHS
from fastpath.wire import REASON_NAMES, MessageType

IP = IPv4Address
COOKIE = bytes([99, 130, 83, 99])


def opt(code: int, *values: bytes) -> bytes:
    """Options on the wire: `code` once for each value."""
    return b"".join(bytes([code, len(value)]) + value for value in values)


def raw(options: bytes = b"\xff", *, op: int = 1, hlen: int = 6, cookie: bytes = COOKIE,
        sname: bytes = b"", file: bytes = b"") -> bytes:
    """A message built by hand, offset by offset as RFC 2131 figure 1 has it."""
    data = bytes([op, 1, hlen, 3]) + bytes.fromhex("12345678" "0007" "8000")
    data += bytes([10, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 3, 10, 0, 0, 4])
    data += bytes(range(0xA0, 0xB0)) + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    assert len(data) == 236
    return data + cookie + options


def areas(data: bytes) -> dict[str, bytes]:
    return {"options": data[240:], "file": data[108:236], "sname": data[44:108]}


def codes(area: bytes) -> list[tuple[int, int]]:
    """(code, length) in order of one field that ends properly."""
    found, at = [], 0
    while area[at] != 255:
        if area[at] == 0:
            at += 1
            continue
        found.append((area[at], area[at + 1]))
        at += 2 + area[at + 1]
    assert not area[at + 1:].strip(b"\0"), "nothing but pad after the end"
    return found


def test_fields_stand_where_rfc2131_figure_1_has_them() -> None:
    message = Message.decode(raw(opt(53, b"\x01") + b"\xff", sname=b"srv", file=b"boot"))
    assert message == Message(
        op=1, htype=1, hlen=6, hops=3, xid=0x12345678, secs=7, flags=0x8000, ciaddr=IP("10.0.0.1"),
        yiaddr=IP("10.0.0.2"), siaddr=IP("10.0.0.3"), giaddr=IP("10.0.0.4"),
        chaddr=bytes(range(0xA0, 0xA6)), sname=b"srv", file=b"boot", options={53: b"\x01"})
    assert message.type is MessageType.DISCOVER


def test_encoded_message_octet_for_octet() -> None:
    message = Message(xid=1, chaddr=b"\x02\0\0\0\0\x09", options={55: b"\x01\x03", 53: b"\x01"})
    expected = (bytes([1, 1, 6, 0, 0, 0, 0, 1]) + bytes(20) + b"\x02\0\0\0\0\x09" + bytes(10 + 192)
                + COOKIE + bytes([53, 1, 1, 55, 2, 1, 3, 255]))
    assert message.encode(min_size=0) == expected
    assert message.encode() == expected.ljust(300, b"\0")


# What decode refuses, in the order of its checks: data, reason (None: sound).
RULES: list[tuple[str, bytes, str | None]] = [
    ("empty", b"", "bootp_short"),
    ("239 octets", raw(b"")[:239], "bootp_short"),
    ("no options at all", raw(b""), None),
    ("short goes before bad fields", raw(b"", op=9)[:239], "bootp_short"),
    ("op 0", raw(op=0), "bootp_fields"),
    ("op 3", raw(op=3), "bootp_fields"),
    ("op 2", raw(op=2), None),
    ("hlen 16", raw(hlen=16), None),
    ("hlen 17", raw(hlen=17), "bootp_fields"),
    ("bad fields go before a bad cookie", raw(op=0, cookie=bytes(4)), "bootp_fields"),
    ("cookie", raw(cookie=b"\x63\x82\x53\x64"), "cookie"),
    ("a bad cookie goes before bad options", raw(b"\x35", cookie=bytes(4)), "cookie"),
    ("end is missing", raw(opt(12, b"a")), None),
    ("pad between options", raw(b"\0\0" + opt(12, b"a") + b"\0" + opt(15, b"b")), None),
    ("junk after the end", raw(b"\xff\x0c\xff\x01"), None),
    ("length octet is missing", raw(opt(12, b"a") + b"\x0c"), "option_truncated"),
    ("value goes past by one", raw(b"\x0c\x02a"), "option_truncated"),
    ("value is just there", raw(b"\x0c\x01a"), None),
    ("truncated goes before lengths", raw(opt(53, b"\1\1") + b"\x0c"), "option_truncated"),
    ("unchecked length", raw(opt(3, b"abc") + opt(12) + opt(26, b"a")), None),
    ("overload of 2 octets", raw(opt(52, b"\1\1")), "option_length"),
    ("overload of 0 octets", raw(opt(52, b"")), "option_length"),
    ("overload in two parts", raw(opt(52, b"\1", b"\1")), "option_length"),
    ("overload in two parts, one empty", raw(opt(52, b"", b"\1")), None),
    ("overload 0", raw(opt(52, b"\0")), "option_length"),
    ("overload 4", raw(opt(52, b"\4")), "option_length"),
    ("overload goes before file", raw(opt(52, b"\4"), file=b"\x0c\xff"), "option_length"),
    ("file holds options, cut", raw(opt(52, b"\1"), file=b"\x0c\x7f"), "option_truncated"),
    ("file holds options, full", raw(opt(52, b"\1"), file=opt(12, b"x" * 126)), None),
    ("file is not overloaded", raw(opt(52, b"\2"), file=b"\x0c\x7f"), None),
    ("sname holds options, cut", raw(opt(52, b"\2"), sname=b"\x0c\x3f"), "option_truncated"),
    ("sname holds options, full", raw(opt(52, b"\2"), sname=opt(12, b"x" * 62)), None),
    ("both, sname cut", raw(opt(52, b"\3"), file=b"\xff", sname=b"\x0c\x3f"), "option_truncated"),
    ("overload in file is ignored, whatever it is",
     raw(opt(52, b"\1"), file=opt(52, b"\3\3"), sname=b"\x0c\x3f"), None),
    ("lengths are of joined options", raw(opt(54, b"\1\2", b"\3\4")), None),
    ("joined over fields to a wrong length",
     raw(opt(54, b"\1\2\3\4") + opt(52, b"\1"), file=opt(54, b"\5")), "option_length"),
    *[(f"option {code} of {length}", raw(opt(code, bytes([1] * length))),
       None if low <= length <= high else "option_length")
      for code, (low, high) in CHECKED_LENGTHS.items() if code != 52
      for length in {max(low - 1, 0), low, min(high, low + 1)}],
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in RULES],
                         ids=[row[0] for row in RULES])
def test_decoding_rule(data: bytes, reason: str | None) -> None:
    if reason is None:
        Message.decode(data).describe()
        return
    with pytest.raises(Malformed) as caught:
        Message.decode(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("options", "sound"), [
    (b"", False), (opt(53, b"\0"), False), (opt(53, b"\1"), True), (opt(53, b"\x12"), True),
    (opt(53, b"\x13"), False), (opt(53, b"\xff"), False),
])
def test_message_type_is_asked_for_only_on_request(options: bytes, sound: bool) -> None:
    Message.decode(raw(options))
    if sound:
        Message.decode(raw(options), require_type=True)
        return
    with pytest.raises(Malformed) as caught:
        Message.decode(raw(options), require_type=True)
    assert caught.value.reason == "no_message_type"


@pytest.mark.parametrize(("value", "kind"), [
    (None, None), (b"\0", None), (b"\1", MessageType.DISCOVER), (b"\x08", MessageType.INFORM),
    (b"\x63", None), (b"\1\1", None), (b"", None),
])
def test_type_never_raises(value: bytes | None, kind: MessageType | None) -> None:
    assert Message(options={} if value is None else {53: value}).type is kind


def test_rfc3396_section_7_joins_options_then_file_then_sname() -> None:
    data = raw(opt(12, b"a") + opt(52, b"\3") + opt(12, b"b") + b"\xff",
               file=opt(15, b"x") + opt(12, b"c") + b"\xff", sname=opt(12, b"d") + opt(15, b"y"))
    message = Message.decode(data)
    assert list(message.options.items()) == [(12, b"abcd"), (52, b"\3"), (15, b"xy")]
    assert message.file == b"" and message.sname == b""


def test_only_overloaded_fields_lose_their_text() -> None:
    message = Message.decode(raw(opt(52, b"\1"), file=opt(12, b"a"), sname=b"name"))
    assert (message.sname, message.file, message.get("host-name")) == (b"name", b"", "a")
    message = Message.decode(raw(opt(52, b"\2"), file=b"boot", sname=opt(12, b"a")))
    assert (message.sname, message.file, message.get("host-name")) == (b"", b"boot", "a")


def test_a_text_may_hold_nuls_but_not_end_in_them() -> None:
    assert Message.decode(raw(file=b"a\0b\0\0")).file == b"a\0b"


@pytest.mark.parametrize(("size", "parts"), [
    (0, [0]), (255, [255]), (256, [255, 1]), (510, [255, 255]), (700, [255, 255, 190]),
])
def test_rfc3396_section_6_splits_long_options(size: int, parts: list[int]) -> None:
    value = bytes(i % 251 for i in range(size))
    data = Message(options={119: value}).encode()
    assert codes(data[240:]) == [(119, part) for part in parts]
    assert Message.decode(data).options == {119: value}


def test_message_type_goes_first_and_relay_information_last() -> None:
    message = Message(options={82: b"\1\1a", 12: b"h", 53: b"\2", 1: bytes(4)})
    assert [code for code, _ in codes(message.encode()[240:])] == [53, 12, 1, 82]


# max_size, sizes of options 15, 17 and 43 -> (code, length) in options, file, sname
OVERLOADS = [
    ("fits without", 300, (20, 30), [(53, 1), (15, 20), (17, 30)], None, None),
    ("just fits", 240 + 3 + 22 + 1, (20,), [(53, 1), (15, 20)], None, None),
    ("one octet less", 240 + 3 + 22, (20,), [(53, 1), (52, 1)], [(15, 20)], None),
    ("file takes 125", 260, (125,), [(53, 1), (52, 1)], [(15, 125)], None),
    ("file, then sname", 260, (125, 61), [(53, 1), (52, 1)], [(15, 125)], [(17, 61)]),
    ("whole in sname before split", 260, (120, 13), [(53, 1), (52, 1)], [(15, 120)], [(17, 13)]),
    ("split over two", 260, (135,), [(53, 1), (52, 1), (15, 11)], [(15, 124)], None),
    ("split over all", 260, (190,), [(53, 1), (52, 1), (15, 11)], [(15, 125)], [(15, 54)]),
    ("a later one fills the gap", 260, (120, 61, 5), [(53, 1), (52, 1), (43, 5)], [(15, 120)],
     [(17, 61)]),
]


@pytest.mark.parametrize(("max_size", "sizes", "first", "file", "sname"),
                         [row[1:] for row in OVERLOADS], ids=[row[0] for row in OVERLOADS])
def test_overload(max_size: int, sizes: tuple[int, ...], first: list[tuple[int, int]],
                  file: list[tuple[int, int]] | None, sname: list[tuple[int, int]] | None) -> None:
    values = {code: bytes([code]) * size for code, size in zip((15, 17, 43), sizes, strict=False)}
    message = Message(options={53: b"\2"} | values)
    data = message.encode(max_size=max_size)
    assert len(data) <= max_size
    found = areas(data)
    assert codes(found["options"]) == first
    for name, wanted in (("file", file), ("sname", sname)):
        assert (codes(found[name]) if wanted else found[name].strip(b"\0")) == (wanted or b"")
    decoded = Message.decode(data)
    assert decoded.options.pop(52, None) == (None if not file else b"\3" if sname else b"\1")
    assert decoded == message


def test_fields_in_use_are_not_overloaded() -> None:
    message = Message(file=b"boot", options={15: b"x" * 40, 17: b"y" * 40})
    data = message.encode(max_size=300)
    assert codes(areas(data)["sname"]) == [(17, 40)] and areas(data)["file"][:5] == b"boot\0"
    assert Message.decode(data).options[52] == b"\2"
    message.sname = b"server"
    with pytest.raises(UserError, match="do not fit in a message of 300 octets"):
        message.encode(max_size=300)


def test_relay_information_stays_in_the_options_field() -> None:
    message = Message(options={53: b"\2", 82: b"\1\x10" + b"c" * 16, 15: b"x" * 60})
    data = message.encode(max_size=300)
    assert [code for code, _ in codes(areas(data)["options"])] == [53, 52, 82]
    assert codes(areas(data)["file"]) == [(15, 60)]
    with pytest.raises(UserError, match="do not fit"):
        message.encode(max_size=240 + 3 + 3 + 20)


def test_an_old_overload_is_not_repeated() -> None:
    message = Message.decode(raw(opt(52, b"\1"), file=opt(12, b"a")))
    assert codes(message.encode()[240:]) == [(12, 1)]


def test_an_empty_option_is_never_dropped() -> None:
    message = Message(sname=b"s", file=b"f", options={53: b"\1", 80: b""})
    assert 80 in Message.decode(message.encode(max_size=246)).options
    with pytest.raises(UserError):
        message.encode(max_size=245)


@pytest.mark.parametrize("change", [
    {"op": 256}, {"xid": -1}, {"xid": 1 << 32}, {"secs": 65536}, {"hlen": 5}, {"chaddr": b"abc"},
    {"hlen": 17, "chaddr": bytes(17)}, {"sname": bytes(65)}, {"file": bytes(129)},
    {"options": {0: b"a"}}, {"options": {255: b"a"}}, {"options": {256: b"a"}},
    {"options": {43: bytes(66000)}},
])
def test_what_the_format_cannot_carry_is_the_users_error(change: dict[str, object]) -> None:
    message = Message()
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(UserError):
        message.encode()


@pytest.mark.parametrize("max_size", [-1, 0, 240, 241, 243])
def test_no_room_at_all(max_size: int) -> None:
    with pytest.raises(UserError):
        Message(sname=b"s", file=b"f", options={53: b"\1"}).encode(max_size=max_size)


def test_typed_access() -> None:
    message = Message()
    message.set("message-type", MessageType.OFFER)
    message.set("router", [IP("10.0.0.1"), "10.0.0.2"])
    message.set(51, 3600)
    message.set_text("dns", "192.0.2.1,192.0.2.2")
    message.set_text("82", "circuit-id=eth0")
    assert message.type is MessageType.OFFER and message.get(53) is MessageType.OFFER
    assert message.get("gateway") == [IP("10.0.0.1"), IP("10.0.0.2")]
    assert message.get("lease-time") == 3600
    assert message.get("relay-agent-information") == {1: b"eth0"}
    assert message.get("host-name") is None and message.get("host-name", "x") == "x"
    message.remove("dns")
    message.remove("dns")
    assert 6 not in message.options
    with pytest.raises(UserError, match="unknown DHCP option"):
        message.get("leese-time")
    message.options[3] = b"abc"
    with pytest.raises(Malformed) as caught:
        message.get("router")
    assert caught.value.reason == "option_length" and "router" in caught.value.what


def test_description() -> None:
    message = Message(xid=0xABCD, flags=0x8000, chaddr=b"\x02\0\0\0\0\x01", sname=b"a\x1b[0m")
    message.set_text("message-type", "request")
    message.set_text("requested-address", "10.0.0.9")
    message.options |= {3: b"abc", 12: b"evil\n\x1b[31m", 230: b"\1"}
    assert message.describe().splitlines() == [
        "REQUEST (request) xid 0x0000abcd secs 0 hops 0 broadcast",
        "  chaddr 02:00:00:00:00:01 (htype 1)",
        "  ciaddr 0.0.0.0 yiaddr 0.0.0.0 siaddr 0.0.0.0 giaddr 0.0.0.0",
        "  sname a\\x1b[0m",
        "  53 message-type: request",
        "  50 requested-address: 10.0.0.9",
        "  3 router: 0x616263 (malformed: router: 3 octets, not 4 or more in steps of 4)",
        "  12 host-name: evil\\n\\x1b[31m",
        "  230 option-230: 0x01",
    ]
    assert Message(op=7).describe().startswith("BOOTP (op 7)")


ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IP)
TEXT = st.binary().map(lambda octets: octets.rstrip(b"\0"))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    values = draw(st.dictionaries(
        st.integers(1, 254).filter(lambda code: code != 52),
        st.binary(max_size=60) | st.integers(0, 700).map(bytes), max_size=8))
    for code, (low, high) in CHECKED_LENGTHS.items():
        if code in values and not low <= len(values[code]) <= high:
            values[code] = bytes([3] * low)
    chaddr = draw(st.binary(max_size=16))
    return Message(
        draw(st.integers(1, 2)), draw(st.integers(0, 255)), len(chaddr), draw(st.integers(0, 255)),
        draw(st.integers(0, 0xFFFFFFFF)), draw(st.integers(0, 65535)),
        draw(st.integers(0, 65535)), draw(ADDRESSES), draw(ADDRESSES), draw(ADDRESSES),
        draw(ADDRESSES), chaddr, draw(TEXT)[:64].rstrip(b"\0"), draw(TEXT)[:128].rstrip(b"\0"),
        values)


@settings(max_examples=200, deadline=None)
@given(messages())
def test_round_trip(message: Message) -> None:
    data = message.encode()
    assert len(data) >= 300
    assert Message.decode(data) == message
    message.describe()


@settings(max_examples=300, deadline=None)
@given(messages(), st.integers(240, 1200), st.booleans(), st.booleans())
def test_round_trip_within_a_size(message: Message, size: int, no_file: bool,
                                  no_sname: bool) -> None:
    message.file = b"" if no_file else message.file
    message.sname = b"" if no_sname else message.sname
    plain = len(message.encode(min_size=0))
    try:
        data = message.encode(max_size=size)
    except UserError:
        assert plain > size
        # Not merely clumsy: what a split or gap wastes is a few octets for each option.
        free = size - 241 + (not message.file) * 127 + (not message.sname) * 63
        waste = 3 + 10 * (2 + len(message.options))
        # Option 82 must fit in the options field by itself.
        tail = len(message.options.get(82, b"")) + 10
        assert plain - 241 + waste > free or tail + 10 > size - 241
        return
    assert len(data) <= size
    decoded = Message.decode(data)
    overloaded = decoded.options.pop(52, None)
    assert decoded == message
    assert (overloaded is None) == (plain <= size)
    order = [code for code, _ in codes(areas(data)["options"])]
    assert 53 not in order or order[0] == 53
    assert 82 not in order or order[-1] == 82


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=64), st.binary(max_size=128),
       st.integers(1, 3), st.booleans())
def test_hostile_options(options: bytes, sname: bytes, file: bytes, bits: int,
                         overload: bool) -> None:
    data = raw((opt(52, bytes([bits])) if overload else b"") + options, sname=sname, file=file)
    try:
        message = Message.decode(data)
    except Malformed as problem:
        assert problem.reason in ("option_truncated", "option_length")
        return
    message.describe().encode("utf-8")
    for code in message.options:
        try:
            message.get(code)
        except Malformed as problem:
            assert problem.reason in REASON_NAMES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_octets_are_a_message_or_malformed(data: bytes) -> None:
    try:
        Message.decode(data)
    except Malformed as problem:
        assert problem.reason in REASON_NAMES


@settings(max_examples=200, deadline=None)
@given(messages(), st.integers(0, 1 << 16), st.integers(0, 255), st.integers(0, 1 << 16))
def test_damaged_messages(message: Message, at: int, octet: int, cut: int) -> None:
    data = bytearray(message.encode(min_size=0))
    data[at % len(data)] = octet
    try:
        Message.decode(bytes(data[:cut % len(data)] if cut % 2 else data)).describe()
    except Malformed as problem:
        assert problem.reason in REASON_NAMES


def test_cookie_is_rfc2132_section_2() -> None:
    assert struct.pack(">I", 0x63825363) == COOKIE == Message().encode()[236:240]
