"""The compiled decoder against its readable twins, on whatever a peer may send."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.frame import (
    JOINED,
    JOINED_SIZE,
    be16,
    be32,
    check_frame,
    find_options,
    make_options,
    option32,
    option_byte,
    put16,
    put32,
)
from fastpath.options import CHECKED_LENGTHS
from fastpath.wire import REASON_NAMES, Reason
from tests.frames import Outcome, examine, framed, listed, opt, raw, repaired, twin
from tests.kernels import COMPILED, examples, fenced

# A slot of the ring holds no longer frame.
LONGEST = 2048
OPTIONS, OUT = make_options(), np.zeros(4 * LONGEST, np.uint8)


def run(data: bytes, tags: int, checksum_ready: bool, before: int, around: int) -> Outcome:
    """`data` through the kernels, `before` octets into a memory of random others."""
    memory = np.frombuffer(random.Random(around).randbytes(before + len(data) + 64),
                           np.uint8).copy()
    start, end = before, before + len(data)
    memory[start:end] = np.frombuffer(data, np.uint8)
    mem = memory if COMPILED else fenced(memory, start, end)
    reason, bootp, bootp_end, size = examine(mem, start, end, tags, checksum_ready, OPTIONS, OUT)
    payload = (bootp - start, bootp_end - bootp) if bootp >= 0 else None
    return Outcome(REASON_NAMES[reason], payload, OUT[:size].tobytes())


def agree(data: bytes, tags: int = 0, checksum_ready: bool = True, before: int = 32) -> Outcome:
    expected = twin(data, tags, checksum_ready)
    for around in (1, 2):
        assert run(data, tags, checksum_ready, before, around) == expected
    return expected


# --- inputs ------------------------------------------------------------------------------------


def value_of(code: int) -> st.SearchStrategy[bytes]:
    least, most = CHECKED_LENGTHS.get(code, (0, 9))
    return st.binary(min_size=least, max_size=min(most, least + 9))


CODES = st.one_of(st.sampled_from([*CHECKED_LENGTHS, 55, 12]), st.integers(1, 254))
GOOD_OPTIONS = CODES.filter(lambda code: code != 52).flatmap(
    lambda code: st.builds(lambda value: opt(code, value), value_of(code)))
PIECES = st.one_of(
    GOOD_OPTIONS, GOOD_OPTIONS, GOOD_OPTIONS, st.just(b"\0"), st.just(b"\0\0\0"),
    st.builds(lambda code: opt(code, b""), CODES),
    st.builds(lambda value: opt(12, value), st.binary(max_size=255)),
    st.builds(lambda first, second: opt(61, first, second), st.binary(max_size=20),
              st.binary(max_size=20)),
    st.builds(opt, CODES, st.binary(max_size=4)),
    st.builds(lambda where: opt(52, bytes([where])), st.integers(0, 4)))
TAILS = st.one_of(st.just(b"\xff"), st.just(b"\xff"), st.just(b""), st.just(b"\x0c"),
                  st.just(b"\x0c\x05abcd"), st.binary(max_size=5).map(lambda junk: b"\xff" + junk))
AREAS = st.builds(lambda pieces, tail: b"".join(pieces) + tail,
                  st.lists(PIECES, max_size=7), TAILS)
OVERLOADS = st.sampled_from([b"", b"", b"", *(opt(52, bytes([v])) for v in (1, 2, 3, 3, 3))])
MESSAGES = st.builds(
    lambda overload, options, sname, file, op, hlen: raw(overload + options, sname=sname,
                                                         file=file, op=op, hlen=hlen),
    OVERLOADS, AREAS, AREAS, AREAS, st.sampled_from([1, 1, 1, 2, 2, 0, 3]),
    st.sampled_from([6, 6, 6, 0, 16, 17]))
TAGS = st.lists(st.integers(0, 65535), max_size=2).map(tuple)
FRAMES = st.builds(framed, MESSAGES, TAGS).filter(lambda data: len(data) <= LONGEST - 8)
STARTS = st.integers(0, 40).map(lambda n: 2 * n)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with a few octets changed, cut or grown, perhaps with right checksums again."""
    data = bytearray(draw(FRAMES))
    for _ in range(draw(st.integers(0, 3))):
        # Half of the damage goes to the headers and the start of the options.
        low, high = draw(st.sampled_from([(0, len(data) - 1), (12, 46), (280, len(data) - 1)]))
        data[draw(st.integers(low, max(low, high))) % len(data)] = draw(st.integers(0, 255))
    how = draw(st.sampled_from(["whole", "whole", "cut", "grown", "tagged"]))
    if how == "cut":
        del data[draw(st.integers(0, len(data))):]
    elif how == "grown":
        data += draw(st.binary(max_size=20))
    elif how == "tagged":
        data[12:12] = draw(st.sampled_from([b"\x81\0\0\1", b"\x88\xa8\0\2", b"\x81\0"]))
    made = bytes(data)
    fix = draw(st.sampled_from(["nothing", "ip", "both", "both"]))
    return made if fix == "nothing" or len(made) < 34 else repaired(made, fix == "both")


# --- against the twin --------------------------------------------------------------------------


@examples(150, 30)
@given(FRAMES, STARTS)
def test_well_formed_frames(data: bytes, before: int) -> None:
    assert agree(data, before=before).payload is not None


@examples(500, 100)
@given(damaged(), st.sampled_from([0, 0, 0, 1]), st.booleans(), STARTS)
def test_damaged_frames(data: bytes, tags: int, ready: bool, before: int) -> None:
    agree(data, tags, ready, before)


@examples(200, 40)
@given(st.binary(max_size=400), st.sampled_from([0, 12, 14, 18, 22, 34, 42, 282]),
       st.integers(0, 2), st.booleans(), STARTS)
def test_any_octets(data: bytes, keep: int, vlans: int, ready: bool, before: int) -> None:
    agree(framed(raw(), (1, 2)[:vlans])[:keep] + data, 0, ready, before)


@examples(250, 40)
@given(AREAS, AREAS, AREAS, st.integers(0, 5))
def test_option_fields(options: bytes, sname: bytes, file: bytes, overload: int) -> None:
    head = opt(52, bytes([overload])) if overload else b""
    agree(framed(raw(head + options, sname=sname, file=file)))


# --- hand-made option fields -------------------------------------------------------------------

LONG = bytes(range(200))
# name, options field, sname, file, what they mean: options or a reason.
FIELDS: list[tuple[str, bytes, bytes, bytes, dict[int, bytes] | str]] = [
    ("nothing at all", b"", b"", b"", {}),
    ("only the end", b"\xff", b"", b"", {}),
    ("only pads", bytes(60), b"", b"", {}),
    ("pads between", b"\0\0" + opt(12, b"a") + b"\0" + opt(15, b"b") + b"\0\xff", b"", b"",
     {12: b"a", 15: b"b"}),
    ("the end is missing", opt(12, b"a"), b"", b"", {12: b"a"}),
    ("junk after the end", opt(12, b"a") + b"\xff\x0d\xff", b"", b"", {12: b"a"}),
    ("an empty option", opt(12, b"") + b"\xff", b"", b"", {12: b""}),
    ("twice empty", opt(12, b"", b"") + b"\xff", b"", b"", {12: b""}),
    ("empty, then not", opt(12, b"", b"ab") + b"\xff", b"", b"", {12: b"ab"}),
    ("not, then empty", opt(12, b"ab", b"") + b"\xff", b"", b"", {12: b"ab"}),
    ("empty in the middle", opt(12, b"ab", b"", b"cd") + b"\xff", b"", b"", {12: b"abcd"}),
    ("three pieces", opt(12, b"a", b"bc", b"def") + b"\xff", b"", b"", {12: b"abcdef"}),
    ("two options in turn", opt(12, b"a") + opt(15, b"x") + opt(12, b"b") + opt(15, b"y") + b"\xff",
     b"", b"", {12: b"ab", 15: b"xy"}),
    ("RFC 3396: longer than 255", opt(12, LONG, LONG) + b"\xff", b"", b"", {12: LONG + LONG}),
    ("a length in two pieces", opt(54, b"\xc0\0", b"\2\1") + b"\xff", b"", b"",
     {54: b"\xc0\0\2\1"}),
    ("too long in two pieces", opt(54, b"\xc0\0\2\1", b"\1") + b"\xff", b"", b"", "option_length"),
    ("the code is the last octet", opt(12, b"a") + b"\x0c", b"", b"", "option_truncated"),
    ("one octet too few", b"\x0c\x02a", b"", b"", "option_truncated"),
    ("no value at all", b"\x0c\xff", b"", b"", "option_truncated"),
    ("just long enough", b"\x0c\x01a", b"", b"", {12: b"a"}),
    ("overload of file", opt(52, b"\1") + b"\xff", opt(12, b"no") + b"\xff",
     opt(15, b"f") + b"\xff", {52: b"\1", 15: b"f"}),
    ("overload of sname", opt(52, b"\2") + b"\xff", opt(12, b"s") + b"\xff", opt(15, b"no"),
     {52: b"\2", 12: b"s"}),
    ("overload of both", opt(52, b"\3") + b"\xff", opt(12, b"s") + b"\xff", opt(15, b"f") + b"\xff",
     {52: b"\3", 12: b"s", 15: b"f"}),
    ("one option in all three: options, file, sname", opt(52, b"\3") + opt(12, b"a") + b"\xff",
     opt(12, b"c") + b"\xff", opt(12, b"b") + b"\xff", {52: b"\3", 12: b"abc"}),
    ("pieces before and after the overload",
     opt(12, b"a") + opt(52, b"\1") + opt(12, b"b") + b"\xff", b"",
     opt(12, b"c", b"d") + b"\xff", {52: b"\1", 12: b"abcd"}),
    ("a message type only in sname", opt(52, b"\2") + b"\xff", opt(53, b"\1") + b"\xff", b"",
     {52: b"\2", 53: b"\1"}),
    ("option 52 inside file is no overload", opt(52, b"\1") + b"\xff", opt(12, b"no") + b"\xff",
     opt(52, b"\3") + opt(15, b"f") + b"\xff", {52: b"\1", 15: b"f"}),
    ("option 52 only in file is not even seen", b"\xff", b"", opt(52, b"\3") + b"\xff", {}),
    ("overload 0", opt(52, b"\0") + b"\xff", b"", b"", "option_length"),
    ("overload 4", opt(52, b"\4") + b"\xff", b"", b"", "option_length"),
    ("overload of two octets", opt(52, b"\1\1") + b"\xff", b"", b"", "option_length"),
    ("overload twice", opt(52, b"\1", b"\1") + b"\xff", b"", b"", "option_length"),
    ("overload once empty, once not", opt(52, b"", b"\1") + b"\xff", b"", opt(15, b"f") + b"\xff",
     {52: b"\1", 15: b"f"}),
    ("overload empty", opt(52, b"") + b"\xff", b"", b"", "option_length"),
    ("a full file needs no end", opt(52, b"\1") + b"\xff", b"", opt(12, b"x" * 126),
     {52: b"\1", 12: b"x" * 126}),
    ("past the end of file by one", opt(52, b"\1") + b"\xff", b"",
     opt(12, b"x" * 120) + b"\x0f\x05abcd", "option_truncated"),
    ("past the end of sname by one", opt(52, b"\2") + b"\xff", b"\x0c\x3f" + b"x" * 62, b"",
     "option_truncated"),
    ("a bad overload goes before a bad length", opt(53, b"\1\1") + opt(52, b"\7") + b"\xff", b"",
     b"", "option_length"),
    ("truncated in file goes before a bad length", opt(53, b"\1\1") + opt(52, b"\1") + b"\xff", b"",
     b"\x0c\xff", "option_truncated"),
    ("a client identifier of one octet", opt(61, b"\1") + b"\xff", b"", b"", "option_length"),
    ("rapid commit with a value", opt(80, b"\1") + b"\xff", b"", b"", "option_length"),
]


@pytest.mark.parametrize(("options", "sname", "file", "meant"), [row[1:] for row in FIELDS],
                         ids=[row[0] for row in FIELDS])
def test_option_field(options: bytes, sname: bytes, file: bytes,
                      meant: dict[int, bytes] | str) -> None:
    outcome = agree(framed(raw(options, sname=sname, file=file)))
    if isinstance(meant, str):
        assert outcome.reason == meant
    else:
        assert (outcome.reason, outcome.options) == ("ok", listed(meant))


@pytest.mark.parametrize("code", sorted(CHECKED_LENGTHS))
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 200])
def test_checked_length(code: int, length: int) -> None:
    agree(framed(raw(opt(code, b"\1" * length) + b"\xff")))
    agree(framed(raw(opt(code, b"\1" * (length // 2), b"\1" * (length - length // 2)) + b"\xff")))


def test_a_frame_leaves_nothing_for_the_next() -> None:
    """The arrays are used again and again: what a frame before had is not this one's."""
    agree(framed(raw(opt(12, b"a", b"b") + opt(52, b"\1") + opt(61, b"12", b"34") + b"\xff")))
    assert agree(framed(raw(opt(15, b"x") + b"\xff"))).options == listed({15: b"x"})
    agree(framed(raw(opt(12, b"a", b"b") + b"\x0c")))
    assert agree(framed(raw(opt(12, b"q", b"r", b"s") + b"\xff"))).options == listed({12: b"qrs"})


def test_more_pieces_than_there_is_room_to_join_are_refused() -> None:
    """No slot holds so long a message; if one did, nothing would be written out of bounds."""
    pieces = opt(12, *[bytes(255)] * 10) + opt(15, *[bytes(255)] * 7)
    memory = np.frombuffer(raw(pieces + b"\xff"), np.uint8).copy()
    assert len(memory) > JOINED_SIZE > 4 * 1024 - 1
    options = make_options()
    canary = np.full(JOINED_SIZE + 64, 0xA5, np.uint8)
    options = options._replace(joined=canary[:JOINED_SIZE])
    assert find_options(memory, 0, len(memory), options) == Reason.OPTION_TRUNCATED
    assert (canary[JOINED_SIZE:] == 0xA5).all()


def test_reading_a_joined_option() -> None:
    data = raw(opt(54, b"\xc0\xa8", b"\xfe\xff") + opt(50, b"\x80\1\2\3") + b"\xff")
    memory = np.frombuffer(data, np.uint8).copy()
    options = make_options()
    assert find_options(memory, 0, len(memory), options) == Reason.OK
    assert options.start[54] >= JOINED > options.start[50] > 0
    assert option32(memory, options, 54) == 0xC0A8FEFF
    assert option32(memory, options, 50) == 0x80010203
    assert [option_byte(memory, options, 54, i) for i in range(4)] == [0xC0, 0xA8, 0xFE, 0xFF]


# --- tags, checksums, ports --------------------------------------------------------------------


@pytest.mark.parametrize("in_frame", [0, 1, 2, 3])
@pytest.mark.parametrize("taken_off", [0, 1])
def test_two_tags_in_all(in_frame: int, taken_off: int) -> None:
    data = framed(raw(opt(53, b"\1") + b"\xff"))
    tags = (b"\x88\xa8\0\1" b"\x81\0\x20\2" b"\x81\0\0\3")[:4 * in_frame]
    outcome = agree(data[:12] + tags + data[12:], taken_off)
    assert outcome.reason == ("ok" if in_frame + taken_off <= 2 else "not_ipv4")


def test_an_unfinished_checksum_is_believed_only_where_the_kernel_says_so() -> None:
    data = framed(raw(opt(53, b"\1") + b"\xff"))
    wrong = data[:40] + b"\x12\x34" + data[42:]
    assert agree(wrong).reason == "udp_checksum"
    assert agree(wrong, checksum_ready=False).reason == "ok"
    assert agree(data[:40] + b"\0\0" + data[42:]).reason == "ok"


@pytest.mark.parametrize("cut", range(60))
def test_every_cut(cut: int) -> None:
    data = framed(raw(opt(53, b"\1") + b"\xff"), (5, 6))
    agree(data[:cut])
    agree(data[:-cut] if cut else data)


@pytest.mark.parametrize("port", [67, 53])
def test_every_length(port: int) -> None:
    """Of IPv4 and of UDP, from too little to too much, for us and for another port."""
    data = framed(raw(opt(53, b"\1") + b"\xff"))
    data = data[:36] + port.to_bytes(2, "big") + data[38:]
    whole = len(data) - 14
    for length in (*range(60), 240, 270, *range(whole - 3, whole + 3), 0xFFFF):
        octets = length.to_bytes(2, "big")
        agree(repaired(data[:16] + octets + data[18:], udp=True))
        agree(repaired(data[:38] + octets + data[40:], udp=True))


@pytest.mark.parametrize(("ports", "reason"), [
    ((67, 67), Reason.OK), ((1067, 67), Reason.OK), ((67, 1067), Reason.OK),
    ((68, 1067), Reason.NOT_DHCP)])
def test_ports(ports: tuple[int, int], reason: Reason) -> None:
    memory = np.frombuffer(framed(raw()), np.uint8).copy()
    assert check_frame(memory, 0, len(memory), 0, True, *ports)[0] == reason


@examples(200, 50)
@given(st.binary(min_size=4, max_size=4))
def test_big_endian_numbers(octets: bytes) -> None:
    memory = np.frombuffer(octets + bytes(4), np.uint8).copy()
    assert be16(memory, 0) == int.from_bytes(octets[:2], "big")
    assert be32(memory, 0) == int.from_bytes(octets, "big")
    put32(memory, 4, be32(memory, 0))
    assert memory[4:].tobytes() == octets
    put16(memory, 4, be16(memory, 2))
    assert memory[4:].tobytes() == octets[2:] + octets[2:]


@pytest.mark.parametrize("at", [-1, 3, 8, 9, slice(4, 6)])
def test_the_fence_holds(at: int | slice) -> None:
    """Interpreted kernels run inside it: one that reads a neighbour's octet fails its test."""
    memory = fenced(np.zeros(12, np.uint8), 4, 8)
    assert [int(memory[i]) for i in range(4, 8)] == [0] * 4
    with pytest.raises(IndexError, match=r"read at|write at"):
        memory[at]
    with pytest.raises(IndexError, match="write at"):
        memory[5] = 1
