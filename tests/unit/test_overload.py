"""How the configured options fill a reply: options field, `file`, `sname` (RFC 2132 section 9.3).

The one thing to know: `layout` is the slow twin of `reply.put_reply`'s writer, in lists and
dicts; a reply must have each field as it says, and read back to what is configured.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import UserError
from fastpath.wire import MessageType
from server.model import FOREVER_S
from tests.kernels import examples, wraps
from tests.serving import CLIENT_MAC, Answer, Served, framed, request

pytestmark = wraps

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
FILE, SNAME = (108, 128), (44, 64)
# 53, 54, 51, 58, 59 before, END behind.
HEADERS, OWN = 20 + 8 + 240, 3 + 4 * 6
PLAIN = {"dns": (), "gateway": None}


def size(value: bytes) -> int:
    return len(value) + 2 * max(1, -(-len(value) // 255))


def first_fit(codes: list[int], options: dict[int, bytes], rooms: list[int],
              ) -> tuple[list[list[int]], int]:
    """Codes by field, each in the first with room for it whole; and how many found none."""
    fields: list[list[int]] = [[] for _ in rooms]
    lost = 0
    for code in codes:
        need = size(options[code])
        for field, room in enumerate(rooms):
            if need <= room:
                fields[field].append(code)
                rooms[field] -= need
                break
        else:
            lost += 1
    return fields, lost


def layout(codes: list[int], options: dict[int, bytes], room: int, usable: int) -> list[list[int]]:
    """room: of the options field. usable: as option 52, fields that nothing else is in."""
    plain, lost = first_fit(codes, options, [room])
    if not lost or not usable or room < 3:
        return [plain[0], [], []]
    rooms = [room - 3, 127 if usable & 1 else 0, 63 if usable & 2 else 0]
    spread, still_lost = first_fit(codes, options, rooms)
    return [plain[0], [], []] if still_lost >= lost or not any(spread[1:]) else spread


def walked(field: bytes) -> list[int]:
    """Codes in a field up to END, pieces of one option once; zeros behind it."""
    codes: list[int] = []
    at = 0
    while field[at] != 255:
        if not codes or codes[-1] != field[at]:
            codes.append(field[at])
        at += 2 + field[at + 1]
    assert not any(field[at + 1:]), "something behind END"
    return codes


def fields_of(answer: Answer) -> list[list[int]]:
    """Configured codes by field, as they stand on the wire."""
    main = [code for code in walked(answer.payload[240:]) if code not in (53, 54, 51, 58, 59, 52)]
    bits = answer.message.options.get(52, b"\0")[0]
    behind = []
    for bit, (at, room) in ((1, FILE), (2, SNAME)):
        area = answer.payload[at:at + room]
        behind.append(walked(area) if bits & bit else [])
    return [main, *behind]


def wanted(asked: bytes | None, options: dict[int, bytes]) -> list[int]:
    """RFC 2132 section 9.8: in the order asked for; all there is where nothing is asked for."""
    codes = [code for code in range(255) if code != 108] if asked is None else list(asked)
    if asked is not None and 1 in asked and 3 in asked[:asked.index(1)]:
        # RFC 2132 section 3.3: the mask before the router.
        codes.insert(asked.index(3), 1)
    return [code for code in dict.fromkeys(codes) if code in options]


# Option 1 and 28 follow from the subnet.
CODES = st.sampled_from([3, 6, 15, 42, 108, *range(128, 150), 224, 254])
VALUES = st.one_of(st.binary(min_size=1, max_size=24), st.binary(min_size=20, max_size=130),
                   st.integers(240, 530).map(lambda n: bytes(i & 0xFF for i in range(n))))
SETS = st.dictionaries(CODES, VALUES, max_size=16)
LISTS = st.one_of(st.none(), st.lists(CODES | st.sampled_from([1, 28]), min_size=1,
                                      max_size=40).map(bytes))


@given(options=SETS, asked=LISTS, limit=st.integers(0, 1600), boot=st.booleans(),
       name=st.booleans())
@examples(600, 60)
def test_the_twin(options: dict[int, bytes], asked: bytes | None, limit: int, boot: bool,
                  name: bool) -> None:
    server = Served({**PLAIN, "options": options, **({"boot_file": "pxe.0"} if boot else {}),
                     **({"server_name": "boot"} if name else {})})
    options = {**options, 1: b"\xff\xff\xff\0", 28: b"\xc0\0\2\xff"}
    said = {57: limit.to_bytes(2, "big"), **({55: asked} if asked else {})}
    answer = server.must(request(DISCOVER, options=said))
    most = min(max(576, limit), 1500)
    assert len(answer.octets) - 14 <= most
    room = most - HEADERS - OWN - 1
    expected = layout(wanted(asked, options), options, room, (not boot) + 2 * (not name))
    assert fields_of(answer) == expected
    assert answer.message.options.get(52, b"\0")[0] == sum(
        bit for bit, field in ((1, expected[1]), (2, expected[2])) if field)
    sent = [code for field in expected for code in field]
    assert {code: answer.message.options.get(code) for code in sent} == {
        code: options[code] for code in sent}
    assert (answer.message.file, answer.message.sname) == (
        b"pxe.0" if boot else b"", b"boot" if name else b"")


# --- to the octet --------------------------------------------------------------------------------

ROOM = 576 - HEADERS - OWN - 1


def served(options: dict[int, bytes], **fields: object) -> Answer:
    asked = bytes(options)
    return Served({**PLAIN, "options": options, **fields}).must(
        request(DISCOVER, options={55: asked}))


@pytest.mark.parametrize("left", range(8))
def test_option_52_has_room_however_full_the_field_is(left: int) -> None:
    """What is sent when everything else fits is no reason to leave the rest out."""
    options = {128: bytes(ROOM - 2 - 22 - left), 129: bytes(20), 130: b"1234567890"}
    answer = served(options)
    assert {code: answer.message.options.get(code) for code in options} == options
    assert answer.main_codes[-1] == 52


def test_small_ones_still_go_where_a_large_one_did_not() -> None:
    options = {128: bytes(ROOM - 60), 129: b"x" * 100, 130: b"y" * 40, 131: b"z" * 55,
               132: b"w" * 10}
    answer = served(options)
    assert fields_of(answer) == [[128, 130, 132], [129], [131]]


@pytest.mark.parametrize(("field", "room", "boot"), [(FILE, 127, False), (SNAME, 63, True)])
def test_a_field_is_filled_to_its_end(field: tuple[int, int], room: int, boot: bool) -> None:
    for size_of_last in (room - 2, room - 1):
        options = {128: bytes(200), 129: bytes(ROOM - 202 - 2 - 3), 130: b"v" * size_of_last}
        answer = served(options, **({"boot_file": "b"} if boot else {}))
        area = answer.payload[field[0]:sum(field)]
        assert len(area) == field[1]
        there = {code: answer.message.options.get(code) for code in options}
        assert (there == options) == (size_of_last == room - 2)


def test_a_long_option_is_split_and_stays_whole() -> None:
    """RFC 3396 section 5: pieces of 255 octets, next to one another."""
    for length in (255, 256, 509, 510, 511, 800):
        value = bytes(i * 7 & 0xFF for i in range(length))
        server = Served({**PLAIN, "options": {121: value}})
        answer = server.must(request(DISCOVER, options={55: b"\x79", 57: b"\5\xdc"}))
        assert answer.message.options[121] == value
        assert answer.main_codes[5:] == [121] * -(-length // 255)
        nothing = server.must(request(DISCOVER, options={55: b"\x79"}))
        assert (121 in nothing.message.options) == (size(value) <= ROOM)
        assert 52 not in nothing.message.options


def test_duplicates_in_the_list_take_no_room_twice() -> None:
    options = {code: bytes(20) for code in range(128, 150)}
    once = Served({**PLAIN, "options": options}).must(
        request(DISCOVER, options={55: bytes(options)}))
    thrice = Served({**PLAIN, "options": options}).must(
        request(DISCOVER, options={55: bytes(options) * 3}))
    backwards = bytes(reversed(options))
    assert fields_of(once) == fields_of(thrice)
    first = Served({**PLAIN, "options": options}).must(
        request(DISCOVER, options={55: backwards + bytes(options)}))
    main, file, sname = fields_of(first)
    assert main + file + sname == list(backwards)[:len(main + file + sname)]


def test_what_overflowed_once_is_not_left_in_the_next_reply() -> None:
    options = {code: bytes([code]) * 24 for code in range(128, 146)}
    server = Served({**PLAIN, "options": options})
    assert 52 in server.must(request(DISCOVER)).message.options
    small = server.must(request(DISCOVER, options={55: b"\x80"}))
    assert not any(small.payload[44:236])
    assert small.message.options.keys() == {53, 54, 51, 58, 59, 128}


@pytest.mark.parametrize("kind", [DISCOVER, INFORM])
def test_without_overload_nothing_is_in_the_fields(kind: MessageType) -> None:
    options = {code: bytes([code]) * 24 for code in range(128, 146)}
    server = Served({**PLAIN, "options": options, "boot_file": "f" * 128, "server_name": "s" * 64})
    answer = server.must(request(kind, ciaddr=IPv4Address(0xC00002C8 if kind == INFORM else 0)))
    assert answer.payload[108:236] == b"f" * 128 and answer.payload[44:108] == b"s" * 64
    assert 52 not in answer.message.options


def test_a_nak_holds_no_boot_file_and_no_overload() -> None:
    """RFC 2131 table 3: `sname` and `file` of a NAK are unused."""
    options = {code: bytes([code]) * 24 for code in range(128, 160)}
    server = Served({**PLAIN, "options": options, "boot_file": "pxe", "server_name": "boot"})
    nak = server.must(request(REQUEST, options={54: b"\xc0\0\2\1", 50: b"\xc0\0\2\x63"}))
    assert (nak.message.type, nak.codes) == (NAK, [53, 54])
    assert not any(nak.payload[16:28]) and not any(nak.payload[44:236])


# --- what a client overloads itself --------------------------------------------------------------


def test_long_and_overloaded_options_of_a_request_are_read() -> None:
    """RFC 3396 section 7: options field, then `file`, then `sname`, joined in this order."""
    identifier = bytes(i & 0xFF for i in range(300))
    message = request(DISCOVER, options={61: identifier, 55: b"\1", 60: bytes(120)})
    whole = Served().must(message)
    for max_size in range(550, 700, 7):
        try:
            payload = message.encode(max_size=max_size)
        except UserError:
            continue
        split = Served().must(framed(payload))
        assert split.message.options == whole.message.options
        assert split.message.options[61] == identifier


# --- PXE: next server, boot file, server name ----------------------------------------------------


@pytest.mark.parametrize(("boot", "name"), [("b", "s"), ("b" * 127, "s" * 63),
                                            ("b" * 128, "s" * 64)])
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM])
def test_pxe_fields(kind: MessageType, boot: str, name: str) -> None:
    server = Served({"boot_file": boot, "server_name": name,
                     "next_server": IPv4Address("198.51.100.7")})
    offer = server.must(request(DISCOVER, CLIENT_MAC))
    asked = {
        DISCOVER: request(DISCOVER),
        REQUEST: request(REQUEST, options={50: offer.message.yiaddr.packed, 54: b"\xc0\0\2\1"}),
        INFORM: request(INFORM, ciaddr=IPv4Address("192.0.2.200"))}[kind]
    reply = server.must(asked).message
    assert (reply.file, reply.sname, str(reply.siaddr)) == (
        boot.encode(), name.encode(), "198.51.100.7")


def test_without_them_they_are_empty() -> None:
    reply = Served().must(request(DISCOVER)).message
    assert (reply.file, reply.sname, str(reply.siaddr)) == (b"", b"", "0.0.0.0")


# --- lease times (RFC 2131 section 4.4.5, RFC 2132 sections 9.2, 9.11, 9.12) ---------------------


@pytest.mark.parametrize(("asked", "given"), [
    (None, 3600), (0, 60), (1, 60), (59, 60), (60, 60), (100, 100), (3600, 3600), (5000, 5000),
    (9000, 9000), (9001, 9000), (FOREVER_S, 9000)])
def test_requested_lease_time(asked: int | None, given: int) -> None:
    server = Served({"min_lease_time_s": 60, "max_lease_time_s": 9000})
    options = {} if asked is None else {51: asked.to_bytes(4, "big")}
    for kind in (DISCOVER, REQUEST):
        said = {**options, **({50: b"\xc0\0\2\n", 54: b"\xc0\0\2\1"} if kind == REQUEST else {})}
        reply = server.must(request(kind, options=said)).message.options
        lease, t1, t2 = (int.from_bytes(reply[code], "big") for code in (51, 58, 59))
        assert (lease, t1, t2) == (given, given // 2, given * 7 // 8)


@pytest.mark.parametrize("lease_s", [1, 2, 3, 4, 5, 7, 8, 9, 60, FOREVER_S - 1, FOREVER_S])
def test_t1_before_t2_before_the_end(lease_s: int) -> None:
    server = Served({"lease_time_s": lease_s, "min_lease_time_s": 1})
    reply = server.must(request(DISCOVER)).message.options
    assert int.from_bytes(reply[51], "big") == lease_s
    if lease_s in (1, 2, FOREVER_S):
        assert 58 not in reply and 59 not in reply
        return
    t1, t2 = int.from_bytes(reply[58], "big"), int.from_bytes(reply[59], "big")
    assert 0 < t1 < t2 < lease_s


# --- rapid commit (RFC 4039 section 3.1) ---------------------------------------------------------


def test_rapid_commit_is_said_in_the_ack_to_a_discover_alone() -> None:
    server = Served({"rapid_commit": True})
    asks = {80: b""}
    ack = server.must(request(DISCOVER, options=asks)).message
    assert (ack.type, ack.options.get(80)) == (ACK, b"")
    again = server.must(request(REQUEST, ciaddr=ack.yiaddr, options=asks)).message
    assert (again.type, 80 in again.options) == (ACK, False)
    inform = server.must(request(INFORM, ciaddr=ack.yiaddr, options=asks)).message
    assert (inform.type, 80 in inform.options) == (ACK, False)
    plain = server.must(request(DISCOVER, b"\2plain")).message
    assert (plain.type, 80 in plain.options) == (OFFER, False)
    off = Served().must(request(DISCOVER, options=asks)).message
    assert (off.type, 80 in off.options) == (OFFER, False)
