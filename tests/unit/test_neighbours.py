"""ARP and ping of emulated clients: the kernels against readable twins, on hostile frames."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.build import NO_TAG
from fastpath.packet import checksum
from fastpath.slots import G_HEAD, H_LEN, TX_AVAILABLE, TX_SEND_REQUEST, Slots, make_slots
from tester.neighbours import (
    ARP,
    ECHO,
    MAX_ECHO,
    NOTHING,
    answer_arp,
    answer_echo,
    asker,
    classify,
    reaches,
    wanted,
)
from tests.kernels import COMPILED, examples, fenced, writable

SLOT, FRAME_AT, LEAD = 2048, 32, 10
CANARY = 0xA5
THEIRS, OURS = b"\x02peer.", b"\x02self."
ASKER, WANTED = IPv4Address("10.0.0.1").packed, IPv4Address("10.0.7.9").packed
PROBE = bytes(4)
Make = Callable[..., bytes]
VLANS = ((), ((0x8100, 0x0005),), ((0x88A8, 0xEFFF), (0x8100, 0)),
         ((0x88A8, 1), (0x88A8, 2), (0x8100, 0x2003)))
# Networks of which no host is: this one, loopback, groups and what is reserved.
NO_HOST = [IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]
Tags = tuple[tuple[int, int], ...]


def tagged(tags: Tags) -> bytes:
    return b"".join(struct.pack(">HH", *tag) for tag in tags)


def arp(sender: bytes = ASKER, target: bytes = WANTED, tags: Tags = (), *, op: int = 1,
        mac: bytes = THEIRS, to: bytes = b"\xff" * 6, tha: bytes = bytes(6)) -> bytes:
    return (to + mac + tagged(tags) + b"\x08\x06"
            + struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, op, mac, sender, tha, target))


def sealed(frame: bytes, ip: int = 14, icmp: bool = True) -> bytes:
    """`frame` with right checksums where its lengths allow, so that damage reaches further."""
    made = bytearray(frame)
    if len(made) < ip + 20:
        return frame
    header, total = (made[ip] & 15) * 4, struct.unpack_from(">H", made, ip + 2)[0]
    made[ip + 10:ip + 12] = bytes(2)
    made[ip + 10:ip + 12] = checksum(bytes(made[ip:ip + header])).to_bytes(2, "big")
    at = ip + header
    if icmp and at + 4 <= ip + total <= len(made):
        made[at + 2:at + 4] = bytes(2)
        made[at + 2:at + 4] = checksum(bytes(made[at:ip + total])).to_bytes(2, "big")
    return bytes(made)


def ping(data: bytes = b"abcdefg", tags: Tags = (), *, kind: int = 8, source: bytes = ASKER,
         target: bytes = WANTED, options: bytes = b"", tos: int = 0x10, ident: int = 0xBEEF,
         sequence: int = 7, mac: bytes = THEIRS, to: bytes = OURS, fragment: int = 0) -> bytes:
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | size // 4, tos, size + 8 + len(data), 0x1234,
                       fragment, 3, 1, 0, source, target) + options
    icmp = struct.pack(">BBHHH", kind, 0, 0, ident, sequence) + data
    return sealed(to + mac + tagged(tags) + b"\x08\x00" + head + icmp, 14 + 4 * len(tags))


# --- twins -------------------------------------------------------------------------------------


def twin(data: bytes, ready: bool = True) -> tuple[int, int]:
    """(what is asked, where ARP or IPv4 starts in `data`)."""
    at = 12
    while data[at:at + 2] in (b"\x81\0", b"\x88\xa8") and at < 24:
        at += 4
    kind, rest = data[at:at + 2], data[at + 2:]
    if len(data) >= 14 and data[6] & 1 == 0:
        if kind == b"\x08\x06" and arp_asks(rest):
            return ARP, at + 2
        if kind == b"\x08\0" and echo_asks(rest, ready):
            return ECHO, at + 2
    return NOTHING, 0


def arp_asks(rest: bytes) -> bool:
    return (len(rest) >= 28 and rest[:8] == b"\0\1\x08\0\6\4\0\1" and rest[24:28] != bytes(4))


def echo_asks(rest: bytes, ready: bool) -> bool:
    if len(rest) < 20 or not 0x45 <= rest[0] <= 0x4F:
        return False
    size, total = (rest[0] & 15) * 4, struct.unpack_from(">H", rest, 2)[0]
    if total > len(rest) or not 8 <= total - size <= 8 + MAX_ECHO:
        return False
    if any(IPv4Address(rest[12:16]) in network for network in NO_HOST):
        return False
    whole = struct.unpack_from(">H", rest, 6)[0] & 0x3FFF == 0
    icmp = rest[size:total]
    return (whole and rest[9] == 1 and checksum(rest[:size]) == 0 and icmp[:2] == b"\x08\0"
            and (not ready or checksum(icmp) == 0))


def arp_answer(data: bytes, l3: int, mac: bytes, outer: bytes) -> bytes:
    sender, target = data[l3 + 8:l3 + 18], data[l3 + 24:l3 + 28]
    return (data[6:12] + mac + outer + data[12:l3] + b"\0\1\x08\0\6\4\0\2"
            + mac + target + sender)


def echo_answer(data: bytes, l3: int, mac: bytes, outer: bytes) -> bytes:
    size, total = (data[l3] & 15) * 4, struct.unpack_from(">H", data, l3 + 2)[0]
    icmp = b"\0\0\0\0" + data[l3 + size + 4:l3 + total]
    icmp = icmp[:2] + checksum(icmp).to_bytes(2, "big") + icmp[4:]
    head = struct.pack(">BBHHHBBH4s4s", 0x45, data[l3 + 1], 20 + len(icmp), 0, 0x4000, 64, 1, 0,
                       data[l3 + 16:l3 + 20], data[l3 + 12:l3 + 16])
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return data[6:12] + mac + outer + data[12:l3] + head + icmp


def answered(kind: int, data: bytes, l3: int, mac: bytes, outer: int) -> bytes:
    if kind == NOTHING:
        return b""
    outermost = b"" if outer == NO_TAG else outer.to_bytes(4, "big")
    return (arp_answer if kind == ARP else echo_answer)(data, l3, mac, outermost)


# --- through the kernels -----------------------------------------------------------------------


# Where the frame in the second of three slots starts.
FIRST = SLOT + FRAME_AT + LEAD


def transmit_ring(room: int) -> tuple[npt.NDArray[np.uint8], Slots]:
    """Three slots with canaries, of which the second is next and takes `room` octets of frame."""
    octets = np.full(3 * SLOT, CANARY, np.uint8)
    tx = make_slots(octets, SLOT, FRAME_AT, LEAD)
    tx.words[::SLOT // 4] = TX_AVAILABLE
    tx.geometry[G_HEAD] = 1
    return octets, tx if COMPILED else tx._replace(mem=writable(octets, FIRST, FIRST + room))


def sent(octets: npt.NDArray[np.uint8], tx: Slots) -> bytes:
    """The one frame handed to the kernel; every octet around it is as it was."""
    assert tx.geometry[G_HEAD] == 2
    assert tx.words[::SLOT // 4].tolist() == [TX_AVAILABLE, TX_SEND_REQUEST, TX_AVAILABLE]
    size = int(tx.words[(SLOT + H_LEN) >> 2]) - LEAD
    for low, high in ((4, SLOT), (FIRST + size, 2 * SLOT), (2 * SLOT + 4, 3 * SLOT)):
        assert (octets[low:high] == CANARY).all()
    return octets[FIRST:FIRST + size].tobytes()


def run(data: bytes, ready: bool = True, before: int = 32, around: int = 1, mac: bytes = OURS,
        outer: int = NO_TAG) -> tuple[int, int, bytes]:
    """(kind, l3, the answer) of `data`, `before` octets into a memory of random others."""
    memory = np.frombuffer(random.Random(around).randbytes(before + len(data) + 64),
                           np.uint8).copy()
    start, end = before, before + len(data)
    memory[start:end] = np.frombuffer(data, np.uint8)
    mem = memory if COMPILED else fenced(memory, start, end)
    kind, l3 = classify(mem, start, end, ready)
    if kind == NOTHING:
        assert l3 == 0
        return kind, 0, b""
    at = l3 - start
    target, source = (24, 14) if kind == ARP else (16, 12)
    assert wanted(mem, kind, l3) == int.from_bytes(data[at + target:at + target + 4], "big")
    assert asker(mem, kind, l3) == int.from_bytes(data[at + source:at + source + 4], "big")
    octets, tx = transmit_ring(len(answered(kind, data, at, mac, outer)))
    answer = answer_arp if kind == ARP else answer_echo
    assert answer(mem, start, l3, tx, int.from_bytes(mac, "big"), outer)
    return kind, at, sent(octets, tx)


def agree(data: bytes, ready: bool = True, before: int = 32, mac: bytes = OURS,
          outer: int = NO_TAG) -> int:
    """Kernels and twins say the same of `data`, whatever stands around it; the kind."""
    kind, l3 = twin(data, ready)
    expected = answered(kind, data, l3, mac, outer)
    for around in (1, 2):
        assert run(data, ready, before, around, mac, outer) == (kind, l3, expected)
    return kind


MACS = st.binary(min_size=6, max_size=6)
ADDRESSES = st.one_of(st.sampled_from([PROBE, ASKER, WANTED, b"\xff" * 4, b"\x7f\0\0\1",
                                       b"\xe0\0\0\1", b"\xdf\xff\xff\xff", b"\0\0\0\1"]),
                      st.binary(min_size=4, max_size=4))
TAGS = st.lists(st.tuples(st.sampled_from([0x8100, 0x88A8]), st.integers(0, 0xFFFF)),
                max_size=4).map(tuple)
OUTER = st.one_of(st.just(NO_TAG), st.builds(lambda tpid, tci: tpid << 16 | tci,
                                             st.sampled_from([0x8100, 0x88A8, 0x9100]),
                                             st.integers(0, 0xFFFF)))
ARPS = st.builds(arp, ADDRESSES, ADDRESSES, TAGS, op=st.sampled_from([1, 1, 1, 2, 0x101]),
                 mac=MACS, tha=MACS)
PINGS = st.builds(ping, st.binary(max_size=60), TAGS, kind=st.sampled_from([8, 8, 8, 0, 13]),
                  source=ADDRESSES, target=ADDRESSES, mac=MACS, tos=st.integers(0, 255),
                  options=st.sampled_from([b"", b"", b"\x01" * 4, b"\x07\x27\x04" + bytes(37)]),
                  ident=st.integers(0, 0xFFFF), sequence=st.integers(0, 0xFFFF),
                  fragment=st.sampled_from([0, 0, 0x4000, 0x2000, 1]))
FRAMES = st.one_of(ARPS, PINGS)
STARTS = st.integers(0, 40).map(lambda n: 2 * n)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with a few octets changed, cut, grown or tagged, perhaps right checksums again."""
    tags = draw(st.sampled_from(VLANS))
    make = st.one_of(st.builds(arp, tags=st.just(tags)),
                     st.builds(ping, st.binary(max_size=40), st.just(tags)))
    data = bytearray(draw(make))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(6, len(data) - 1))] = draw(
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 8, 0x45, 0x46])))
    how = draw(st.sampled_from(["whole", "whole", "cut", "grown", "tagged"]))
    if how == "cut":
        del data[draw(st.integers(0, len(data))):]
    elif how == "grown":
        data += draw(st.binary(max_size=20))
    elif how == "tagged":
        data[12:12] = draw(st.sampled_from([b"\x81\0\0\1", b"\x88\xa8\0\2", b"\x81\0"]))
    fix = draw(st.sampled_from(["nothing", "ip", "both", "both"]))
    made = bytes(data)
    return made if fix == "nothing" else sealed(made, 14 + 4 * len(tags), fix == "both")


# --- against the twin --------------------------------------------------------------------------


@examples(300, 150)
@given(FRAMES, STARTS, MACS, OUTER)
def test_well_formed_frames(data: bytes, before: int, mac: bytes, outer: int) -> None:
    agree(data, before=before, mac=mac, outer=outer)


@examples(800, 400)
@given(damaged(), st.booleans(), STARTS, OUTER)
def test_damaged_frames(data: bytes, ready: bool, before: int, outer: int) -> None:
    agree(data, ready, before, outer=outer)


@examples(200, 50)
@given(st.binary(max_size=80), st.sampled_from([0, 12, 14, 16, 18, 22, 34, 38]), FRAMES)
def test_any_octets(data: bytes, keep: int, head: bytes) -> None:
    agree(head[:keep] + data)


@pytest.mark.parametrize("tags", VLANS, ids=len)
@pytest.mark.parametrize("make", [arp, ping])
def test_every_cut(make: Make, tags: Tags) -> None:
    """Not one octet less is answered, and nothing behind the cut is looked at."""
    whole = make(tags=tags)
    kind = ARP if make is arp else ECHO
    assert agree(whole) == kind
    for cut in range(len(whole)):
        assert agree(whole[:cut]) == NOTHING
    assert agree(whole + bytes(18)) == kind  # the padding of a short Ethernet frame


@pytest.mark.parametrize("make", [arp, ping])
def test_every_octet_flipped(make: Make) -> None:
    whole = make()
    for at in range(len(whole)):
        for octet in {0, 0xFF, whole[at] ^ 1, whole[at] ^ 0x80}:
            data = whole[:at] + bytes([octet]) + whole[at + 1:]
            agree(data)
            if make is ping:
                agree(sealed(data))


# --- what is answered --------------------------------------------------------------------------

ROWS: list[tuple[str, bytes, int]] = [
    ("ARP request", arp(), ARP),
    ("unicast ARP request (RFC 1122 section 2.3.2.1)", arp(to=OURS), ARP),
    ("RFC 5227 probe", arp(sender=PROBE), ARP),
    ("announcement", arp(sender=WANTED), ARP),
    ("with a target hardware address", arp(tha=OURS), ARP),
    ("ARP reply", arp(op=2), NOTHING),
    ("RARP request", arp(op=3), NOTHING),
    ("for 0.0.0.0", arp(target=PROBE), NOTHING),
    ("ARP from a group address", arp(mac=b"\x03peer."), NOTHING),
    ("ARP for hardware type 6", arp()[:15] + b"\6" + arp()[16:], NOTHING),
    ("ARP for IPv6", arp()[:16] + b"\x86\xdd" + arp()[18:], NOTHING),
    ("ARP with hlen 4 and plen 6", arp()[:18] + b"\4\6" + arp()[20:], NOTHING),
    ("echo request", ping(), ECHO),
    ("without data", ping(b""), ECHO),
    ("odd data", ping(b"\xff"), ECHO),
    ("most data", ping(bytes(MAX_ECHO)), ECHO),
    ("one octet more", ping(bytes(MAX_ECHO + 1)), NOTHING),
    ("IPv4 options", ping(options=b"\x94\4\0\0"), ECHO),
    ("do not fragment", ping(fragment=0x4000), ECHO),
    ("first fragment", ping(fragment=0x2000), NOTHING),
    ("last fragment", ping(fragment=0x00B9), NOTHING),
    ("echo reply", ping(kind=0), NOTHING),
    ("timestamp request", ping(kind=13), NOTHING),
    ("code 1", sealed(ping()[:35] + b"\1" + ping()[36:]), NOTHING),
    ("from 0.0.0.0", ping(source=PROBE), NOTHING),
    ("from broadcast", ping(source=b"\xff" * 4), NOTHING),
    ("from a group", ping(source=b"\xe0\0\0\1"), NOTHING),
    ("from loopback", ping(source=b"\x7f\0\0\1"), NOTHING),
    ("from the last unicast address", ping(source=b"\xdf\xff\xff\xff"), ECHO),
    ("from a group Ethernet address", ping(mac=b"\xff" * 6), NOTHING),
    ("UDP", sealed(ping()[:23] + b"\x11" + ping()[24:]), NOTHING),
    ("version 6", sealed(b"".join([ping()[:14], b"\x65", ping()[15:]])), NOTHING),
    ("header of 16 octets, in which the target looks like an echo request",
     sealed(b"".join([ping()[:14], b"\x44", ping(target=b"\x08\0\0\0")[15:]])), NOTHING),
    ("IP checksum", ping()[:24] + b"\0\0" + ping()[26:], NOTHING),
    ("ICMP of 7 octets", sealed(ping(b"")[:17] + b"\x1b" + ping(b"")[18:]), NOTHING),
    ("total length of 0", sealed(ping()[:16] + b"\0\0" + ping()[18:]), NOTHING),
    ("total length over the frame", sealed(ping()[:16] + b"\xff\xff" + ping()[18:]), NOTHING),
    ("an ARP request under the type of IPv4", arp()[:12] + b"\x08\0" + arp()[14:], NOTHING),
    ("IPv6", ping()[:12] + b"\x86\xdd" + ping()[14:], NOTHING),
    ("four tags", arp(tags=((0x8100, 1),) * 4), NOTHING),
    ("tags without an end", b"\xff" * 6 + THEIRS + b"\x81\0\0\1" * 40, NOTHING),
]


@pytest.mark.parametrize(("data", "kind"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_row(data: bytes, kind: int) -> None:
    assert agree(data) == kind


def test_an_unfinished_checksum_is_believed_only_where_the_kernel_says_so() -> None:
    data = ping()
    wrong = data[:36] + b"\x12\x34" + data[38:]
    assert agree(wrong) == NOTHING
    assert agree(wrong, ready=False) == ECHO


def test_an_arp_answer_octet_for_octet() -> None:
    """With a kernel-stripped 802.1ad tag outside and one of 802.1Q in the frame."""
    data = arp(tags=((0x8100, 0x6005),))
    assert run(data, outer=0x88A80007)[2] == (
        b"\x02peer." b"\x02self." b"\x88\xa8\0\7" b"\x81\0\x60\5" b"\x08\6"
        b"\0\1\x08\0\6\4\0\2" b"\x02self." b"\x0a\0\7\x09" b"\x02peer." b"\x0a\0\0\1")


def test_an_answer_to_a_probe_names_no_address() -> None:
    answer = run(arp(sender=PROBE))[2]
    assert answer[:6] == THEIRS and answer[22:28] == OURS
    assert answer[28:32] == WANTED and answer[38:42] == PROBE


def test_an_echo_answer_octet_for_octet() -> None:
    assert run(ping(b"hi!", options=b"\1\1\1\0", tos=0xB8, ident=0x0102, sequence=0x0304))[2] == (
        b"\x02peer." b"\x02self." b"\x08\0"
        b"\x45\xb8\0\x1f\0\0\x40\0\x40\1" b"\x1f\x1d" b"\x0a\0\7\x09" b"\x0a\0\0\1"
        b"\0\0" b"\x72\x90" b"\1\2\3\4" b"hi!")


@pytest.mark.parametrize("size", [0, 1, 2, 55, 56, 1000, MAX_ECHO - 1, MAX_ECHO])
def test_data_comes_back_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    answer = run(ping(data))[2]
    assert answer[42:] == data and checksum(answer[34:]) == 0 and checksum(answer[14:34]) == 0


@pytest.mark.parametrize("make", [arp, ping])
def test_a_full_ring_takes_nothing(make: Make) -> None:
    octets, tx = transmit_ring(0)
    tx.words[SLOT >> 2] = TX_SEND_REQUEST
    was = octets.tobytes()
    data = np.frombuffer(make(), np.uint8).copy()
    kind, l3 = classify(data, 0, len(data), True)
    answer = answer_arp if kind == ARP else answer_echo
    assert not answer(data, 0, l3, tx, 1, NO_TAG)
    assert octets.tobytes() == was and tx.geometry[G_HEAD] == 1


@pytest.mark.parametrize(("to", "ours"), [
    (OURS, True), (b"\xff" * 6, True), (b"\1\0\x5e\0\0\1", True), (THEIRS, False),
    (bytes(6), False), (OURS[:5] + b"\0", False)])
def test_who_a_frame_was_sent_to(to: bytes, ours: bool) -> None:
    mem = np.frombuffer(b"xx" + ping(to=to), np.uint8).copy()
    assert reaches(mem, 2, int.from_bytes(OURS, "big")) == ours
