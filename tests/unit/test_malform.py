"""Frames spoilt on purpose: octet for octet those of a naive twin, and refused for one reason."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import Malformed
from fastpath.message import Message
from fastpath.packet import Frame, checksum
from fastpath.wire import COOKIE, OPTIONS, Reason
from tester import malformations
from tester.malform import malform
from tester.malformations import KINDS, NAMES
from tests.frames import framed, ip_at, raw
from tests.kernels import COMPILED, examples, several, writable

CANARY = 0xA5
ROOM = 64
MOST = 2 ** 63 - 1
DRAWS = st.integers(0, MOST) | st.sampled_from([0, 1, MOST])
KIND_NAMES = sorted(KINDS)


class Sent(NamedTuple):
    """A client's message: as a frame, and the octets of its options without the end."""

    frame: Frame
    options: bytes

    @classmethod
    def of(cls, frame: Frame, message: Message) -> Sent:
        payload = message.encode()
        return cls(replace(frame, payload=payload), message.encode(min_size=0)[OPTIONS:-1])

    def with_payload(self, payload: bytes) -> bytes:
        return replace(self.frame, payload=payload).encode()

    def with_options(self, octets: bytes) -> bytes:
        """The rest of the frame stays as long as it is, or grows where it must."""
        payload = self.frame.payload
        return self.with_payload(payload[:OPTIONS] + octets.ljust(len(payload) - OPTIONS, b"\0"))

    def with_octet(self, at: int, octet: int) -> bytes:
        payload = bytearray(self.frame.payload)
        payload[at] = octet
        return self.with_payload(bytes(payload))


# The twin: a function of the message and the draw for each kind.

def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 2], "big")


def put(data: bytes, at: int, number: int) -> bytes:
    return data[:at] + number.to_bytes(2, "big") + data[at + 2:]


def summed(data: bytes) -> bytes:
    """With the right checksum of IPv4."""
    ip = ip_at(data)
    data = put(data, ip + 10, 0)
    return put(data, ip + 10, checksum(data[ip:ip + 20]))


def header(change: Callable[[bytes, int, int], bytes]) -> Callable[[Sent, int], bytes]:
    """A twin that changes the finished frame; `change` gets it, its IP offset and the draw."""
    def twin(sent: Sent, draw: int) -> bytes:
        data = sent.frame.encode()
        return change(data, ip_at(data), draw)
    return twin


def added(option: Callable[[int, int], bytes]) -> Callable[[Sent, int], bytes]:
    """A twin that adds one option; `option` gets the draw and the message type."""
    return lambda sent, draw: sent.with_options(
        sent.options + option(draw, sent.options[2]) + b"\xff")


def wrong_udp_checksum(data: bytes, ip: int, draw: int) -> bytes:
    wrong = word(data, ip + 26) ^ (draw % 65534 + 1)
    return put(data, ip + 26, wrong or word(data, ip + 26) ^ 65535)


def foreign_mac(data: bytes, ip: int, draw: int) -> bytes:
    return data[:11] + bytes([data[11] ^ (draw % 255 + 1)]) + data[12:]


def bad_cookie(sent: Sent, draw: int) -> bytes:
    at = COOKIE + draw % 4
    return sent.with_octet(at, sent.frame.payload[at] ^ (draw // 4 % 255 + 1))


def places(octets: bytes) -> list[int]:
    """Where each option starts, and where the last one ends."""
    found = [0]
    while found[-1] < len(octets):
        found.append(found[-1] + 2 + octets[found[-1] + 1])
    return found


def truncated(sent: Sent, draw: int) -> bytes:
    cut = draw % len(sent.options)
    if cut in places(sent.options):
        cut += 1
    return sent.with_payload(sent.frame.payload[:OPTIONS + cut])


def overrun(sent: Sent, draw: int) -> bytes:
    last = OPTIONS + places(sent.options)[-2]
    payload = bytearray(sent.frame.payload[:last + 2 + 254])
    rest = len(payload) - last - 2
    payload[last + 1] = range(rest + 1, 256)[draw % (255 - rest)]
    return sent.with_payload(bytes(payload))


def junk(sent: Sent, draw: int) -> bytes:
    octets = sent.options + b"\xff"
    count = max(len(sent.frame.payload) - OPTIONS - len(octets), 16)
    pieces = [octet | 1 for octet in draw.to_bytes(8, "little")[:4]]
    return sent.with_options(octets + bytes(pieces[i % 4] for i in range(count)))


TWINS: dict[str, Callable[[Sent, int], bytes]] = {
    "ip-checksum": header(
        lambda data, ip, draw: put(data, ip + 10, word(data, ip + 10) ^ (draw % 65534 + 1))),
    "ip-length": header(
        lambda data, ip, draw: summed(put(data, ip + 2, len(data) - ip + draw % 1000 + 1))),
    "fragment": header(lambda data, ip, draw: summed(put(data, ip + 6, 0x2000))),
    "udp-checksum": header(wrong_udp_checksum),
    "no-udp-checksum": header(lambda data, ip, draw: put(data, ip + 26, 0)),
    "udp-length": header(
        lambda data, ip, draw: put(data, ip + 24, len(data) - ip - 20 + draw % 1000 + 1)),
    "udp-short": header(lambda data, ip, draw: put(data, ip + 24, draw % 8)),
    "foreign-mac": header(foreign_mac),
    "empty": lambda sent, draw: sent.with_payload(b""),
    "bootp-short": lambda sent, draw: sent.with_payload(
        sent.frame.payload[:range(1, 236)[draw % 235]]),
    "bad-op": lambda sent, draw: sent.with_octet(0, [*range(3, 256), 0][draw % 254]),
    "reply-op": lambda sent, draw: sent.with_octet(0, 2),
    "bad-htype": lambda sent, draw: sent.with_octet(1, [*range(2, 256), 0][draw % 255]),
    "bad-hlen": lambda sent, draw: sent.with_octet(2, 255),
    "zero-hlen": lambda sent, draw: sent.with_octet(2, 0),
    "hops": lambda sent, draw: sent.with_octet(3, 255),
    "reserved-flags": lambda sent, draw: sent.with_payload(
        put(sent.frame.payload, 10, word(sent.frame.payload, 10) | 32767)),
    "no-cookie": lambda sent, draw: sent.with_payload(
        sent.frame.payload[:COOKIE] + sent.frame.payload[OPTIONS:] + bytes(4)),
    "bad-cookie": bad_cookie,
    "truncated": truncated,
    "no-end": lambda sent, draw: sent.with_payload(sent.frame.payload[:OPTIONS] + sent.options),
    "option-overrun": overrun,
    "option-zero": lambda sent, draw: sent.with_options(
        b"\x35\0" + sent.options[3:] + b"\xff"),
    "short-address": added(lambda draw, _: b"\x32\3" + draw.to_bytes(8, "little")[:3]),
    "no-type": lambda sent, draw: sent.with_options(sent.options[3:] + b"\xff"),
    "unknown-type": lambda sent, draw: sent.with_octet(OPTIONS + 2, 99),
    "two-types": added(lambda draw, kind: bytes([53, 1, (kind + draw % 7) % 8 + 1])),
    "overload-garbage": added(lambda draw, _: b"\x34\1\7"),
    "relay-overrun": added(
        lambda draw, _: bytes([82, 4, 1, draw % 253 + 3]) + draw.to_bytes(8, "little")[2:0:-1]),
    "junk-after-end": junk,
}

IP = IPv4Address
MAC = b"\x02abcde"
ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IP)
VALUES = {
    12: st.binary(min_size=1, max_size=30), 43: st.binary(max_size=255), 50: st.binary(
        min_size=4, max_size=4), 54: st.binary(min_size=4, max_size=4),
    55: st.binary(min_size=1, max_size=20), 57: st.binary(min_size=2, max_size=2),
    60: st.binary(min_size=250, max_size=255), 61: st.binary(min_size=2, max_size=20),
    80: st.just(b""), 82: st.binary(min_size=2, max_size=40),
}


@st.composite
def messages(draw: st.DrawFn) -> Message:
    options = {53: bytes([draw(st.sampled_from([1, 3, 4, 7, 8]))])}
    for code in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=6, unique=True)):
        options[code] = draw(VALUES[code])
    return Message(xid=draw(st.integers(0, 0xFFFFFFFF)), secs=draw(st.integers(0, 0xFFFF)),
                   flags=draw(st.sampled_from([0, 0x8000])), giaddr=draw(ADDRESSES),
                   chaddr=MAC, options=options)


FRAMES = st.builds(
    Frame, st.just(MAC), st.just(b"\xff" * 6),
    st.lists(st.integers(0, 0xFFFF), max_size=2).map(tuple), ADDRESSES, ADDRESSES)


def spoil(data: bytes, name: str, draw: int, start: int = 0, ip: int | None = None) -> bytes:
    """What the kernel makes of a frame; nothing around it may change."""
    end = start + len(data)
    octets = np.full(end + ROOM + 200, CANARY, np.uint8)
    octets[start:end] = np.frombuffer(data, np.uint8)
    mem = octets if COMPILED else writable(octets, start, end + ROOM)
    at = ip_at(data) if ip is None else ip
    new_end = malform(mem, start, start + at, end, KINDS[name], draw)
    assert new_end <= end + ROOM
    assert (octets[:start] == CANARY).all() and (octets[end + ROOM:] == CANARY).all()
    return octets[start:new_end].tobytes()


def refusal(data: bytes, require_type: bool = True) -> Reason:
    """Why the readable codec does not take the frame for a DHCP message."""
    try:
        Message.decode(Frame.decode(data).payload, require_type=require_type)
    except Malformed as problem:
        return Reason[problem.reason.upper()]
    return Reason.OK


@examples(1500, 250)
@given(FRAMES, messages(), st.sampled_from(KIND_NAMES), DRAWS, st.integers(0, 40))
def test_spoilt_as_by_the_twin(frame: Frame, message: Message, name: str, draw: int,
                               start: int) -> None:
    sent = Sent.of(frame, message)
    spoilt = spoil(sent.frame.encode(), name, draw, start)
    assert spoilt == TWINS[name](sent, draw)
    assert refusal(spoilt) == NAMES[KINDS[name]].reason


@pytest.mark.parametrize("name", KIND_NAMES)
@pytest.mark.parametrize("filler", [None, *range(46, 59), 120, 255])
def test_every_kind_at_every_length(name: str, filler: int | None) -> None:
    """From three octets of options over those about the padding to the longest last option."""
    options = {53: b"\3"} | ({} if filler is None else {60: bytes(range(1, filler + 1))})
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options=options))
    assert refusal(sent.frame.encode()) == Reason.OK
    for draw in (0, 1, 0x0123456789ABCDEF, MOST):
        spoilt = spoil(sent.frame.encode(), name, draw)
        assert spoilt == TWINS[name](sent, draw)
        assert spoilt != sent.frame.encode()
        assert refusal(spoilt) == NAMES[KINDS[name]].reason


FORMS_COUNT = {
    # Each place inside one of the five options.
    "truncated": 3 + 2 + 9 + 5 + 6 - 5,
    # The last value may be of 60 - 21 octets.
    "option-overrun": 255 - 39,
    "bootp-short": 235, "bad-op": 254, "bad-htype": 255, "two-types": 7, "udp-short": 8,
    "foreign-mac": 255,
}


@pytest.mark.parametrize("name", FORMS_COUNT)
def test_every_form_of_a_kind(name: str) -> None:
    """They differ, and each has the same effect on a server."""
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options={
        53: b"\1", 80: b"", 61: b"\1" + MAC, 55: b"\1\3\6", 82: b"\1\2ab"}))
    found = {spoil(sent.frame.encode(), name, draw) for draw in range(300)}
    assert {refusal(each) for each in found} == {NAMES[KINDS[name]].reason}
    assert len(found) == FORMS_COUNT[name]


def test_every_overrun_of_a_sub_option() -> None:
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options={53: b"\1", 82: b"\1\2ab"}))
    spoilt = [spoil(sent.frame.encode(), "relay-overrun", draw) for draw in range(253)]
    values = [Message.decode(Frame.decode(each).payload).options[82] for each in spoilt]
    assert all(value.startswith(b"\1\2ab\1") and len(value) == 8 for value in values)
    assert {value[5] for value in values} == set(range(3, 256))


@pytest.mark.parametrize("name", KIND_NAMES)
@pytest.mark.parametrize("options", [
    b"\0\0\x0c\2ab\0\x35\1\1\0\0\x3d\2ab\0\xff", b"\0\x35\1\3\0\0\0", b"\x0c\1a\x35\1\1",
    b"\x0c\xff" + b"v" * 255 + b"\x35\1\1\x3c\xff" + b"w" * 255 + b"\xff" + b"\0" * 300,
])
def test_messages_that_others_made(name: str, options: bytes) -> None:
    """Out of captures: pads between options, the type not first, no end, long padding."""
    data = framed(raw(options))
    for draw in range(40):
        assert refusal(spoil(data, name, draw)) == NAMES[KINDS[name]].reason


@examples(2000, 400)
@given(st.binary(max_size=30), st.binary(max_size=30), st.sampled_from([0, 1, 5, 239, 240, 241]),
       st.sampled_from(KIND_NAMES), DRAWS)
def test_whatever_the_message(one: bytes, other: bytes, size: int, name: str, draw: int) -> None:
    """Nothing around it is touched, and it stays a datagram, unless that is what is wrong."""
    payload = raw(b"")[:size] + (one + b"\x35\1\1" + other if size == 240 else b"")
    spoilt = spoil(framed(payload), name, draw)
    assert len(spoilt) <= 42 + len(payload) + 17
    if not NAMES[KINDS[name]].needs_frame:
        assert len(Frame.decode(spoilt).payload) == len(spoilt) - 42
    if name == "empty":
        assert len(spoilt) == 42
    elif name == "bootp-short":
        assert len(spoilt) <= 42 + min(size, 235)


@pytest.mark.parametrize("name", [row.name for row in NAMES[malformations.TRUNCATED:]])
def test_messages_that_are_broken_already(name: str) -> None:
    """Without a message type nothing is changed; an option past the end takes nobody with it."""
    for options in (b"", b"\0", b"\xff", b"\x35", b"\x35\1", b"\x35\0\xff", b"\x0c\1a\xff",
                    b"\xff\x35\1\1", b"\x35\2\1\1\xff"):
        assert spoil(framed(raw(options)), name, 7) == framed(raw(options))
    for draw in range(20):
        spoil(framed(raw(b"\x35\1\1\x0c\xff")), name, draw)


def test_a_wrong_udp_checksum_is_never_none() -> None:
    """Whichever right one and whichever draw: not 0, which would be no checksum (RFC 768)."""
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options={53: b"\1"}))
    data = sent.frame.encode()
    right = word(data, 40)
    for draw in (right - 1, right - 1 + 65534, right, right - 2):
        spoilt = spoil(data, "udp-checksum", draw)
        assert word(spoilt, 40) not in (0, right) and refusal(spoilt) == Reason.UDP_CHECKSUM
    # secs, which was 0, gets what makes the sum of all words 0xFFFF.
    data = Sent.of(Frame(MAC), Message(
        chaddr=MAC, secs=right, options={53: b"\1"})).frame.encode()
    assert word(data, 40) == 0xFFFF
    for draw in (0, 65533, 65534, MOST):
        assert refusal(spoil(data, "udp-checksum", draw)) == Reason.UDP_CHECKSUM


@pytest.mark.parametrize("right", [0x0000, 0x0001, 0xFFFE])
def test_a_wrong_ip_checksum_is_never_the_other_zero(right: int) -> None:
    """0x0000 and 0xFFFF are the same to a receiver (RFC 1071)."""
    message = Message(chaddr=MAC, options={53: b"\1"})
    plain = Sent.of(Frame(MAC, dst_ip=IP(0)), message).frame.encode()
    # One's complement subtraction: the last word of the header, which was 0, makes the sum.
    last = (word(plain, 24) - right) % 0xFFFF
    data = Sent.of(Frame(MAC, dst_ip=IP(last)), message).frame.encode()
    assert word(data, 24) == right
    for draw in (0, 65533, 65534, MOST, *range(several(65534, 0))):
        assert refusal(spoil(data, "ip-checksum", draw)) == Reason.IP_CHECKSUM


@pytest.mark.parametrize("name", KIND_NAMES)
def test_a_third_tag_makes_no_difference(name: str) -> None:
    sent = Sent.of(Frame(MAC, vlans=(1, 2)), Message(chaddr=MAC, options={53: b"\3"}))
    data, twin, draw = sent.frame.encode(), TWINS[name](sent, 77), 77
    tag = b"\x88\xa8\0\7"
    assert spoil(data[:12] + tag + data[12:], name, draw, 2, 26) == twin[:12] + tag + twin[12:]


def test_the_table() -> None:
    assert len(NAMES) == len(KINDS) == len(TWINS) and set(TWINS) == set(KINDS)
    constants = {name: value for name, value in vars(malformations).items()
                 if name.isupper() and isinstance(value, int)}
    assert constants == {row.name.upper().replace("-", "_"): kind
                         for kind, row in enumerate(NAMES)}
    for row in NAMES:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row.name)
        assert row.what and not row.what.endswith(".") and len(row.what) <= 80


# Refused as DHCP, and yet a BOOTP request that a server may answer (RFC 1534 section 2).
AS_BOOTP = {"no-cookie", "bad-cookie", "no-type"}


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row.name)
def test_who_must_stay_silent(row: malformations.Malformation) -> None:
    """A server answers what it can read; that a message is a reply, it reads in `op`."""
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options={53: b"\1"}))
    spoilt = spoil(sent.frame.encode(), row.name, 5)
    assert refusal(spoilt) == row.reason
    if row.name == "reply-op":
        assert row.silent and Message.decode(Frame.decode(spoilt).payload).op == 2
    elif row.name in AS_BOOTP:
        assert not row.silent and row.reason in (Reason.COOKIE, Reason.NO_MESSAGE_TYPE)
    else:
        assert row.silent == (row.reason != Reason.OK)
    if row.name == "no-type":
        assert refusal(spoilt, require_type=False) == Reason.OK


@pytest.mark.parametrize("row", NAMES, ids=lambda row: row.name)
def test_which_need_a_frame_of_our_own(row: malformations.Malformation) -> None:
    """A socket sends what UDP carries, and makes the rest itself, soundly."""
    sent = Sent.of(Frame(MAC), Message(chaddr=MAC, options={53: b"\1"}))
    data = sent.frame.encode()
    spoilt = spoil(data, row.name, 5)
    assert row.needs_frame == (spoilt[42:] == data[42:])
    if not row.needs_frame:
        assert replace(Frame.decode(spoilt), payload=b"") == replace(sent.frame, payload=b"")


def test_the_names_need_no_compiled_code() -> None:
    code = "import sys, tester.malformations; print({'numba', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
