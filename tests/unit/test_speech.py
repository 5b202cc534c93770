"""From a configuration to the heads of messages: what all clients say, and what is refused.

What the messages then are on the wire is in `test_compose`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import wire
from fastpath.errors import UserError
from fastpath.message import Message
from fastpath.wire import MessageType
from tester import cells
from tester.behaviour import STAY, Behaviour, Times, balanced, malformed, parse_mix
from tester.cells import DIRECT, INSTANCE, MESSAGE_NAMES, RELAYS, SOCKET, WHOLE
from tester.config import (
    ALL_MESSAGES,
    Captured,
    Field,
    Identity,
    Limits,
    TestConfig,
    Where,
    mask_of,
)
from tester.make import make_test
from tester.malformations import NAMES
from tester.speech import make_messages, typed
from tester.template import parse, parse_number
from tests.kernels import examples

IP_AND_UDP = 28
SERVER = IPv4Address("192.0.2.1")
TEXT = parse("c{index}", "it")
MOST_HEAD = 1400


def config(identity: Identity | None = None, **more: Any) -> TestConfig:
    return TestConfig(more.pop("clients", 4), identity=identity or Identity(), **more)


def head(messages: Any, name: str) -> bytes:
    """The BOOTP part of a message as far as all clients share it."""
    row = MESSAGE_NAMES.index(name)
    return bytes(messages.heads[row, IP_AND_UDP:messages.lengths[row]])


def options(identity: Identity, name: str) -> dict[int, bytes]:
    octets = head(make_messages(config(identity)), name)
    return Message.decode(octets + b"\xff").options


def base(kind: str = "DISCOVER", **more: bytes) -> tuple[bytes, bytes]:
    message = Message(options={53: bytes([MessageType[kind]])}
                      | {int(code[1:]): octets for code, octets in more.items()})
    payload = message.encode(min_size=0)[:-1]
    return payload[:wire.OPTIONS], payload[wire.OPTIONS:]


# What all clients share.

@pytest.mark.parametrize("name", MESSAGE_NAMES)
def test_heads_are_messages_without_an_end(name: str) -> None:
    said = options(Identity(wanted=(1, 3), broadcast_flag=True), name)
    asking = name not in ("release", "decline")
    assert said.pop(53) == bytes([cells.TYPE_OF[MESSAGE_NAMES.index(name)]])
    assert said == ({55: b"\1\3", 57: b"\5\xdc"} if asking else {})


def test_who_wants_nothing_sends_no_list() -> None:
    assert 55 not in options(Identity(wanted=()), "discover")


def test_a_long_list_comes_in_pieces() -> None:
    """RFC 3396."""
    wanted = tuple(range(1, 255)) * 2
    assert options(Identity(wanted=wanted), "request")[55] == bytes(wanted)


@pytest.mark.parametrize("most, octets", [(0, None), (576, b"\2\x40"), (65535, b"\xff\xff")])
def test_the_greatest_message_that_is_taken(most: int, octets: bytes | None) -> None:
    identity = Identity(max_message=most)
    assert options(identity, "renew").get(57) == octets
    assert 57 not in options(identity, "decline")


@pytest.mark.parametrize("name", MESSAGE_NAMES)
def test_who_can_be_answered_by_unicast_has_no_broadcast_flag(name: str) -> None:
    messages = make_messages(config(Identity(broadcast_flag=True)))
    flags = head(messages, name)[wire.FLAGS:wire.FLAGS + 2]
    assert flags == (b"\x80\0" if name in ("discover", "request", "reboot") else b"\0\0")


@pytest.mark.parametrize("name", MESSAGE_NAMES)
def test_rapid_commit_is_for_discovers(name: str) -> None:
    """RFC 4039 section 3.1."""
    assert (80 in options(Identity(rapid_commit=True), name)) == (name == "discover")


def test_given_options_replace_ours_and_the_last_one_counts() -> None:
    given = ((mask_of("discover", "renew"), 57, b"\2\x40"), (ALL_MESSAGES, 43, b"first"),
             (mask_of("discover"), 43, b"second"), (mask_of("discover"), 55, b"\x2a"))
    identity = Identity(options=given)
    discover, renew, release = (options(identity, name)
                                for name in ("discover", "renew", "release"))
    assert (discover[57], discover[43], discover[55]) == (b"\2\x40", b"second", b"\x2a")
    assert (renew[57], renew[43]) == (b"\2\x40", b"first")
    assert release == {53: b"\7", 43: b"first"}


def test_an_option_made_for_some_messages_is_given_in_the_others() -> None:
    identity = Identity(options=((ALL_MESSAGES, 12, b"all"),),
                        fields=(Field(mask_of("discover"), 12, WHOLE, TEXT),))
    assert 12 not in options(identity, "discover")
    assert options(identity, "request")[12] == b"all"


# Bases.

def test_a_base_is_kept_but_for_what_is_given_or_made() -> None:
    identity = Identity(
        bases={"discover": base(o12=b"old", o43=b"kept", o60=b"old", o55=b"\1")},
        options=((ALL_MESSAGES, 60, b"new"),), fields=(Field(ALL_MESSAGES, 12, WHOLE, TEXT),))
    assert options(identity, "discover") == {53: b"\1", 43: b"kept", 60: b"new", 55: b"\1"}
    assert options(identity, "request")[60] == b"new" and 43 not in options(identity, "request")


def test_an_option_made_for_another_message_stays_in_a_base() -> None:
    identity = Identity(bases={"discover": base(o12=b"kept")},
                        fields=(Field(mask_of("request"), 12, WHOLE, TEXT),))
    assert options(identity, "discover")[12] == b"kept"


def test_an_option_both_given_and_made_over_a_base() -> None:
    identity = Identity(bases={"discover": base(o12=b"old")},
                        options=((ALL_MESSAGES, 12, b"given"),),
                        fields=(Field(ALL_MESSAGES, 12, WHOLE, TEXT),))
    assert options(identity, "discover") == {53: b"\1"}


def test_a_given_option_longer_than_one_piece_over_a_base() -> None:
    identity = Identity(bases={"discover": base()}, options=((ALL_MESSAGES, 43, b"v" * 300),))
    assert options(identity, "discover")[43] == b"v" * 300


def test_flags_and_rapid_commit_over_a_base() -> None:
    identity = Identity(bases={"discover": base(), "renew": base("REQUEST")},
                        broadcast_flag=True, rapid_commit=True)
    messages = make_messages(config(identity))
    assert head(messages, "discover")[wire.FLAGS] == 0x80
    assert head(messages, "renew")[wire.FLAGS] == 0
    assert options(identity, "discover") == {53: b"\1", 80: b""}


def test_a_repeated_option_of_a_base_is_kept_whole_or_goes_whole() -> None:
    fixed, said = base()
    twice = fixed, said + b"\x2b\1a\x2b\1b"
    assert options(Identity(bases={"discover": twice}), "discover")[43] == b"ab"
    identity = Identity(bases={"discover": twice}, options=((ALL_MESSAGES, 43, b"c"),))
    assert options(identity, "discover")[43] == b"c"


# Fields.

def fields_of(identity: Identity) -> list[tuple[int, int, int]]:
    table = make_messages(config(identity)).fields
    return [(int(row[cells.V_MESSAGES]), int(row[cells.V_CODE]), int(row[cells.V_SUB]))
            for row in table]


@given(st.lists(st.tuples(st.sampled_from([12, 61, 77, 82]), st.integers(0, 5)), max_size=12))
@examples(50, 50)
def test_sub_options_stand_side_by_side_and_relay_options_last(wanted: list[tuple[int, int]],
                                                               ) -> None:
    """RFC 3046 section 2.1; what stands in one option keeps its order."""
    identity = Identity(fields=tuple(Field(1, code, sub, TEXT) for code, sub in wanted))
    made = [(code, sub) for _, code, sub in fields_of(identity)]
    codes = [code for code, _ in made]
    runs = [code for at, code in enumerate(codes) if at == 0 or codes[at - 1] != code]
    assert len(runs) == len(set(codes)) and 82 not in runs[:-1]
    for code in set(codes):
        assert [one for one in made if one[0] == code] == [one for one in wanted if one[0] == code]


def test_a_given_relay_option_stands_behind_what_differs() -> None:
    identity = Identity(options=((ALL_MESSAGES, 82, b"\1\1x"), (mask_of("discover"), 82, b"\1\1y")),
                        fields=(Field(mask_of("renew"), 82, 1, TEXT), Field(1, 12, WHOLE, TEXT)))
    others = ALL_MESSAGES & ~mask_of("discover", "renew")
    assert 82 not in options(identity, "discover")
    assert fields_of(identity) == [(1, 12, WHOLE), (mask_of("renew"), 82, 1),
                                   (mask_of("discover"), 82, WHOLE), (others, 82, WHOLE)]


def test_programs_of_fields_and_tags_do_not_mix() -> None:
    fields = (Field(1, 82, 1, parse("a", "it")), Field(2, 12, WHOLE, parse("bc{index}", "it")))
    where = Where(tags=((0x8100, parse_number("7", "it")), (0x88A8, parse_number("mac", "it"))))
    messages = make_messages(config(Identity(fields=fields), where=where))
    spans = [(int(first), int(count)) for first, count in
             [*messages.fields[:, cells.V_FIRST:], *messages.tags[:2, cells.T_FIRST:]]]
    assert spans == [(0, 3), (3, 1), (4, 1), (5, 1)]
    assert messages.tags[:, cells.T_TPID].tolist() == [0x8100, 0x88A8, 0]


@pytest.mark.parametrize("text, octets", [
    ("", b"\1"), ("a", b"\1a"), ("{index}", b"\1"), ("hex:02", b"\1\2")])
def test_the_type_before_a_client_identifier(text: str, octets: bytes) -> None:
    template = typed(parse(text, "it"), 1)
    assert template.parts[0] == octets
    assert template.shortest == parse(text, "it").shortest + 1


# What is refused.

def refused(wanted: TestConfig, what: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        make_messages(wanted)
    assert str(caught.value.what) == what and caught.value.remedy == remedy


OWN = "cannot be set: each client writes its own"


@pytest.mark.parametrize("code, name, said, names", [
    (50, "request", "requested-address", "request, reboot, decline"),
    (50, "reboot", "requested-address", "request, reboot, decline"),
    (50, "decline", "requested-address", "request, reboot, decline"),
    (54, "request", "server-id", "request, release, decline"),
    (54, "release", "server-id", "request, release, decline"),
    (54, "decline", "server-id", "request, release, decline"),
])
@pytest.mark.parametrize("made", [False, True], ids=["given", "made"])
def test_what_each_client_writes_itself(code: int, name: str, said: str, names: str,
                                        made: bool) -> None:
    identity = Identity(fields=(Field(mask_of(name), code, WHOLE, TEXT),)) if made else \
        Identity(options=((mask_of(name), code, b"\1\2\3\4"),))
    refused(config(identity), f"option {code} ({said}) of a {name} {OWN}",
            f"leave out these messages: {names}")
    # As it was captured, it is nobody's to write.
    make_messages(config(replace(identity, captured={name: Captured(bytes(300))})))


def test_a_requested_address_may_be_given_where_no_client_writes_one() -> None:
    identity = Identity(options=((mask_of("discover", "renew"), 50, b"\1\2\3\4"),))
    assert options(identity, "discover")[50] == options(identity, "renew")[50] == b"\1\2\3\4"
    refused(config(identity, mix=parse_mix("stay=1,handover=1", Times())),
            f"option 50 (requested-address) of a discover {OWN}",
            "leave out these messages: discover, request, reboot, decline")


@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("bases", [{}, {"discover": base()}], ids=["ours", "base"])
def test_no_option_has_the_code_of_pad_or_end(code: int, bases: dict[str, Any]) -> None:
    identity = Identity(options=((mask_of("discover"), code, b"x"),), bases=bases)
    refused(config(identity), f"no option can have code {code}", "codes go from 1 to 254")


@pytest.mark.parametrize("bases", [{}, {"discover": base()}], ids=["ours", "base"])
def test_options_that_leave_no_room(bases: dict[str, Any]) -> None:
    room = MOST_HEAD - IP_AND_UDP - wire.OPTIONS - 3 - (0 if bases else 4)
    pieces = math.ceil(room / 257)

    def given(size: int) -> TestConfig:
        return config(Identity(options=((mask_of("discover"), 43, bytes(size)),), wanted=(),
                               bases=bases))

    make_messages(given(room - 2 * pieces))
    refused(given(room - 2 * pieces + 1), "a discover of 1,401 octets leaves no room for what "
            "differs per client", "options may take up to 1,132 octets")


def made(code: int, *subs: tuple[int, int]) -> tuple[Field, ...]:
    """Fields of a discover of so many octets, by their sub-options."""
    return tuple(Field(mask_of("discover"), code, sub, parse("v" * size, "it"))
                 for sub, size in subs)


@pytest.mark.parametrize("code, name, subs", [
    (82, "relay-agent-information", [(1, 124), (2, 127)]), (77, "user-class", [(INSTANCE, 254)]),
    (77, "user-class", [(INSTANCE, 84)] * 3)])
def test_sub_options_that_fit_for_no_client(code: int, name: str, subs: list[tuple[int, int]],
                                            ) -> None:
    make_messages(config(Identity(fields=made(code, *subs))))
    longer = [*subs[:-1], (subs[-1][0], subs[-1][1] + 1)]
    refused(config(Identity(fields=made(code, *longer))),
            f"option {code} ({name}) of 256 octets or more, 255 is the most",
            "make what is in it shorter")


def test_options_made_from_templates_that_fit_for_no_client() -> None:
    """IPv4 and UDP 28, fixed part 240, message type 3, size 4, of the lease 12; 21 are spare."""
    room = 1500 - 28 - 240 - 3 - 4 - 12 - 21
    codes = (12, 60, 61, 77)

    def given(last: int) -> TestConfig:
        fields = sum((made(code, (WHOLE, 255)) for code in codes), ()) + made(224, (WHOLE, last))
        return config(Identity(fields=fields, wanted=()))

    fits = room - len(codes) * 257 - 2
    make_messages(given(fits))
    refused(given(fits + 1), "a discover of 1,480 octets or more, 1,479 is the most",
            "send fewer options, or shorter ones")


def test_what_is_too_long_for_some_clients_is_taken() -> None:
    wide = parse("{mac+0}" * 100, "it")
    make_messages(config(Identity(fields=tuple(
        Field(ALL_MESSAGES, 82, sub, wide) for sub in (1, 2)))))


@pytest.mark.parametrize("offsets, what, remedy", [
    ({"xid": 297}, "offset 297 is outside of a template of 300 octets",
     "offsets count from 0, at op"),
    ({"xid": -1}, "offset -1 is outside of a template of 300 octets",
     "offsets count from 0, at op"),
    ({"secs": 299}, "offset 299 is outside of a template of 300 octets",
     "offsets count from 0, at op"),
    ({"chaddr_end": 300}, "offset 300 is outside of a template of 300 octets",
     "offsets count from 0, at op"),
    ({"server": 1 << 40}, "offset 1099511627776 is outside of a template of 300 octets",
     "offsets count from 0, at op"),
    ({"chaddr_end": 4}, "offset 4 leaves no room for a hardware address",
     "it is where the last of its six octets stands"),
])
def test_offsets_outside_of_what_was_captured(offsets: dict[str, int], what: str,
                                              remedy: str) -> None:
    refused(config(Identity(captured={"request": Captured(bytes(300), **offsets)})), what, remedy)


def test_offsets_at_the_ends_of_what_was_captured() -> None:
    one = Captured(bytes(300), xid=296, secs=298, chaddr_end=299, server=0, address=296)
    raw = make_messages(config(Identity(captured={"request": one}))).raw
    assert raw[cells.M_REQUEST].tolist() == [1, 296, 299, 298, 0, 296]
    assert raw[cells.M_DISCOVER].tolist() == [0, -1, -1, -1, -1, -1]
    assert make_messages(config(Identity(captured={"request": Captured(
        bytes(6), xid=None, secs=None, chaddr_end=5)}))).lengths[cells.M_REQUEST] == 34


@pytest.mark.parametrize("port", [65535, 70000])
def test_ports_that_there_are_not(port: int) -> None:
    with pytest.raises(UserError):
        make_messages(config(where=Where(server_port=port)))


# config.check

def checked(what: str, remedy: str, **more: Any) -> None:
    with pytest.raises(UserError) as caught:
        config(**more).check()
    assert (caught.value.what, caught.value.remedy) == (what, remedy)


TAG = (0x8100, parse_number("1", "it"))
NO_SOCKET = "leave out --server for broadcast, or name an --interface"


@pytest.mark.parametrize("where, what, remedy", [
    (Where(RELAYS, relays=(SERVER,)), "relay agents speak to a server", "name it with --server"),
    (Where(SOCKET), "a UDP socket speaks to a server", "name it with --server"),
    (Where(RELAYS, server=SERVER), "there are no relay agents",
     "name their addresses with --relay"),
    (Where(SOCKET, server=SERVER, tags=(TAG,)),
     "VLAN tags cannot be written through a UDP socket", NO_SOCKET),
    (Where(DIRECT, tags=(TAG,) * 4), "4 VLAN tags, 3 is the most", "give fewer with --vlan"),
])
def test_where_that_cannot_be(where: Where, what: str, remedy: str) -> None:
    checked(what, remedy, where=where)


@pytest.mark.parametrize("row", NAMES, ids=[row.name for row in NAMES])
def test_a_socket_writes_no_headers(row: Any) -> None:
    mix = balanced([(STAY, 9.0), (malformed(row.name), 1.0)])
    config(where=Where(DIRECT), mix=mix).check()
    where = Where(SOCKET, server=SERVER)
    if row.needs_frame:
        checked(f"--malform {row.name} cannot be sent through a UDP socket", NO_SOCKET,
                where=where, mix=mix)
    else:
        config(where=where, mix=mix).check()


LOWER = "use a lower --mac-base or --mac-step"


@pytest.mark.parametrize("identity, clients, what, remedy", [
    (Identity(macs=(1, 2, 3)), 4, "--mac-list has 3 addresses for 4 clients", "lower --clients"),
    (Identity(b"\1\0\0\0\0\0"), 1, "--mac-base is a multicast address",
     "use an even first octet"),
    (Identity(b"\2\xff\xff\xff\xff\xff"), 2, "2 clients do not fit behind --mac-base "
     "02:ff:ff:ff:ff:ff", LOWER),
    (Identity(b"\xfe\xff\xff\xff\xff\xff"), 2, "2 clients do not fit behind --mac-base "
     "fe:ff:ff:ff:ff:ff", LOWER),
    (Identity(b"\2\0\0\0\0\0", -1), 2, "2 clients do not fit behind --mac-base "
     "02:00:00:00:00:00", LOWER),
    (Identity(b"\0\0\0\0\0\0", -1), 2, "2 clients do not fit behind --mac-base "
     "00:00:00:00:00:00", LOWER),
    (Identity(b"\2\0\0\0\0\0", 1 << 40), 2, "2 clients do not fit behind --mac-base "
     "02:00:00:00:00:00", LOWER),
])
def test_hardware_addresses_that_cannot_be(identity: Identity, clients: int, what: str,
                                           remedy: str) -> None:
    checked(what, remedy, identity=identity, clients=clients)


def test_what_is_just_right() -> None:
    config(Identity(b"\2\xff\xff\xff\xff\xfe"), clients=2).check()
    config(Identity(macs=(1, 2, 3, 4))).check()
    config(Identity(b"\2\xff\xff\xff\xff\xff", mac_carry=False)).check()
    config(Identity(b"\2\0\0\0\0\5", -1)).check()
    config(where=Where(DIRECT, tags=(TAG,) * 3), limits=Limits(preload=4)).check()
    config(where=Where(RELAYS, server=SERVER, relays=(SERVER,), tags=(TAG,))).check()


def test_more_is_not_checked_than_can_be() -> None:
    checked("--preload 5 is more than there are clients", "raise --clients",
            limits=Limits(preload=5))
    mix: tuple[tuple[Behaviour, float], ...] = parse_mix("stay,handover", Times())
    checked("behaviour handover needs new hardware addresses",
            "use --mac-base instead of --mac-list", identity=Identity(macs=(1, 2, 3, 4)), mix=mix)


def test_a_test_is_made_of_it() -> None:
    """`make_test` refuses what `make_messages` does, and holds what was told."""
    with pytest.raises(UserError):
        make_test(config(Identity(captured={"discover": Captured(b"")})), 0)
    where = Where(RELAYS, server=SERVER, server_port=1067, relays=(SERVER, SERVER + 1),
                  relay_block=3, server_mac=b"\2\0\0\0\0\7")
    test = make_test(config(where=where, secs_from_s=1.5, secs_to_s=2), 5_000_999, mac=b"\2" * 6)
    plan = test.plan
    assert [int(plan[cell]) for cell in (cells.P_PORT, cells.P_OTHER_PORT, cells.P_SERVER_MAC,
                                         cells.P_SECS_FROM_TICK, cells.P_SECS_TO_TICK,
                                         cells.P_BASE_NS)] == \
        [1068, 1067, 0x020000000007, 1500, 2000, 5_000_000]
    for local_port, ports in ((5000, [5000, 5000]), (0, [68, 68])):
        plan = make_test(config(where=Where(SOCKET, server=SERVER)), 0, local_port=local_port).plan
        assert [int(plan[cell]) for cell in (cells.P_PORT, cells.P_OTHER_PORT)] == ports
    assert test.relays[:, cells.R_IP].tolist() == [int(SERVER), int(SERVER) + 1]
    assert np.all(test.relays[:, cells.R_MAC] == 0x020202020202)
