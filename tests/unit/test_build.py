"""What the kernels build, read back by the readable codec."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    IP_SOURCE,
    IP_TARGET,
    NO_TAG,
    UDP_SOURCE,
    UDP_TARGET,
    be48,
    put48,
    put_ethernet,
    put_option8,
    put_option32,
    seal,
)
from fastpath.frame import copy, fold, put16, put32, sum16
from fastpath.message import Message
from fastpath.packet import Frame, checksum
from fastpath.wire import MIN_BOOTP, OPTIONS, XID
from tests.kernels import COMPILED, examples, writable

ROOM = 2048
CANARY = 0xA5
SERVER, CLIENT = IPv4Address("192.0.2.1"), IPv4Address("198.51.100.7")
OURS, THEIRS = b"\x02abcde", b"\x02fghij"
TCI = st.integers(0, 0xFFFF)
TAGS = st.one_of(st.just(()), st.tuples(TCI), st.tuples(TCI, TCI))


def memory(start: int, room: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Octets that hold canaries, and the same for a kernel that may write [start, start + room)."""
    octets = np.full(start + room + 64, CANARY, np.uint8)
    return octets, octets if COMPILED else writable(octets, start, start + room)


def template(message: Message) -> npt.NDArray[np.uint8]:
    """IPv4, UDP and BOOTP up to the cookie, with checksums and lengths of nothing."""
    frame = Frame(src_mac=OURS, src_ip=SERVER, dst_ip=CLIENT, src_port=67, dst_port=68,
                  payload=message.encode())
    octets = np.frombuffer(frame.encode()[14:14 + BOOTP + OPTIONS], np.uint8).copy()
    for at in (2, 3, 10, 11, 24, 25, 26, 27):
        octets[at] = CANARY
    return octets


def put_tags(mem: npt.NDArray[np.uint8], start: int, tags: tuple[int, ...]) -> int:
    kinds = (0x88A8, 0x8100)[2 - len(tags):]
    numbers = [kind << 16 | tci for kind, tci in zip(kinds, tags, strict=True)]
    outer, inner = ([NO_TAG, NO_TAG], [NO_TAG, *numbers], numbers)[len(tags)]
    return put_ethernet(mem, start, int.from_bytes(THEIRS, "big"), int.from_bytes(OURS, "big"),
                        outer, inner)


@examples(400, 60)
@given(st.binary(max_size=700), TAGS, st.integers(0, 30).map(lambda n: 2 * n),
       st.integers(0, 0xFFFFFFFF))
def test_a_built_frame_reads_back(value: bytes, tags: tuple[int, ...], start: int,
                                  xid: int) -> None:
    """Whatever the octets and their number, odd or even: lengths and checksums are right."""
    message = Message(op=2, xid=xid, chaddr=THEIRS, options={53: b"\2", 51: b"\0\1\2\3"})
    head = template(message)
    need = 14 + 4 * len(tags) + BOOTP + max(MIN_BOOTP, OPTIONS + 9 + 1 + len(value))
    octets, mem = memory(start, need)
    ip = put_tags(mem, start, tags)
    assert ip == start + 14 + 4 * len(tags)
    copy(mem, ip, head, 0, len(head))
    at = put_option8(mem, ip + BOOTP + OPTIONS, 53, 2)
    at = put_option32(mem, at, 51, 0x00010203)
    # Not in the form of options: seal looks at octets only.
    copy(mem, at, np.frombuffer(value, np.uint8).copy(), 0, len(value))
    end = seal(mem, ip, at + len(value))
    assert end == start + need
    assert (octets[:start] == CANARY).all() and (octets[end:] == CANARY).all()

    frame = Frame.decode(octets[start:end].tobytes())
    message.options = {}
    payload = message.encode(min_size=0)[:OPTIONS] + bytes([53, 1, 2, 51, 4, 0, 1, 2, 3]) + value
    assert frame == Frame(OURS, THEIRS, tags, SERVER, CLIENT, 67, 68, 64,
                          (payload + b"\xff").ljust(MIN_BOOTP, b"\0"))


@pytest.mark.parametrize("extra", [*range(60), 61, 62, 300])
def test_padding_to_300_octets(extra: int) -> None:
    """RFC 1542 section 2.1: never shorter, and never padded beyond it."""
    octets, mem = memory(0, ROOM)
    ip = put_tags(mem, 0, ())
    head = template(Message(op=2))
    copy(mem, ip, head, 0, len(head))
    at = ip + BOOTP + OPTIONS
    octets[at:at + extra] = 0
    end = seal(mem, ip, at + extra)
    assert end - ip - BOOTP == max(MIN_BOOTP, OPTIONS + extra + 1)
    payload = Frame.decode(octets[:end].tobytes()).payload
    assert payload[OPTIONS:] == (bytes(extra) + b"\xff").ljust(60, b"\0")
    assert (octets[end:] == CANARY).all()


def test_offsets_are_those_of_the_frame() -> None:
    octets, mem = memory(0, ROOM)
    ip = put_tags(mem, 0, ())
    head = template(Message(op=2))
    copy(mem, ip, head, 0, len(head))
    put32(mem, ip + IP_SOURCE, 0x0A000001)
    put32(mem, ip + IP_TARGET, 0xFFFFFFFF)
    put16(mem, ip + UDP_SOURCE, 1067)
    put16(mem, ip + UDP_TARGET, 1068)
    end = seal(mem, ip, ip + BOOTP + OPTIONS)
    frame = Frame.decode(octets[:end].tobytes(), ports=(1068,))
    assert (str(frame.src_ip), str(frame.dst_ip)) == ("10.0.0.1", "255.255.255.255")
    assert (frame.src_port, frame.dst_port) == (1067, 1068)


def test_rfc768_a_sum_of_zero_is_sent_as_ones() -> None:
    octets, mem = memory(0, ROOM)
    ip = put_tags(mem, 0, ())
    head = template(Message(op=2))
    copy(mem, ip, head, 0, len(head))
    seal(mem, ip, ip + BOOTP + OPTIONS)
    # Give xid, which was 0, what makes the sum of all words 0xFFFF.
    copy(mem, ip + BOOTP + XID, octets[ip + 26:ip + 28].copy(), 0, 2)
    end = seal(mem, ip, ip + BOOTP + OPTIONS)
    assert octets[ip + 26:ip + 28].tobytes() == b"\xff\xff"
    assert Frame.decode(octets[:end].tobytes()).src_ip == SERVER


@examples(200, 50)
@given(st.integers(0, BROADCAST_MAC))
def test_48_bit_numbers(number: int) -> None:
    octets = np.zeros(10, np.uint8)
    put48(octets, 2, number)
    assert octets.tobytes() == bytes(2) + number.to_bytes(6, "big") + bytes(2)
    assert be48(octets, 2) == number


@examples(200, 50)
@given(st.binary(max_size=100), st.integers(0, 9))
def test_sum_is_the_internet_checksum(octets: bytes, before: int) -> None:
    data = np.frombuffer(b"\x77" * before + octets + b"\x99\x99", np.uint8).copy()
    assert fold(sum16(data, before, len(octets))) == checksum(octets)


@pytest.mark.parametrize("total", [0, 1, 0xFFFF, 0x10000, 0x1FFFE, 0xFFFFFFFF, (1 << 40) - 1])
def test_fold(total: int) -> None:
    assert (fold(total) + total) % 0xFFFF == 0
    assert 0 <= fold(total) <= 0xFFFF
