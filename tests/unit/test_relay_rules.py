"""What a relay does, rule by rule: RFC 1542 section 4, RFC 2131 section 4.1, RFC 3046, 3527."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from typing import Any

import pytest

from fastpath.errors import UserError
from fastpath.faultmodel import Fault
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wire import BOOTREPLY, MessageType
from relay.agent import agent_option, check_template
from relay.arrays import H_PORT
from relay.places import resolve
from relay.stats import event_lines, snapshot
from tests.kernels import wraps
from tests.relay_hop import (
    ALL_MACS,
    CLIENT_MAC,
    DOWN,
    EVERYBODY,
    IP,
    MACS,
    OTHER,
    OURS,
    SERVER_MACS,
    SERVERS,
    UP,
    Hop,
    from_client,
    from_server,
    message,
    told,
)

pytestmark = wraps

BEHIND = IP("10.99.0.1")
ANOTHERS = b"\x01\x02zz"
OUR_AGENT = b"\x01\x04down"


def only(out: list[tuple[int, bytes]]) -> tuple[int, Frame, Message]:
    assert len(out) == 1
    frame = Frame.decode(out[0][1], ports=(67, 68))
    return out[0][0], frame, Message.decode(frame.payload)


def reply(kind: int = 2, **fields: Any) -> Message:
    return message(kind, **{"op": BOOTREPLY, "giaddr": OURS[DOWN], "yiaddr": IP("10.20.0.50"),
                            **fields})


# --- requests: RFC 1542 section 4.1.1


def test_a_request_goes_to_the_server_by_unicast_with_our_giaddr() -> None:
    port, frame, found = only(Hop().hear(message(1, secs=3, options={12: b"name"})))
    assert (port, frame.dst_mac, frame.src_mac) == (UP, SERVER_MACS[0], MACS[UP])
    assert (frame.src_ip, frame.dst_ip) == (OURS[UP], SERVERS[0])
    assert (frame.src_port, frame.dst_port, frame.ttl) == (67, 67, 64)
    assert (found.giaddr, found.hops, found.secs) == (OURS[DOWN], 1, 3)
    assert found.options == {53: b"\1", 12: b"name"} and len(frame.payload) == 300


@pytest.mark.parametrize("port", [DOWN, OTHER])
def test_giaddr_is_the_address_of_the_interface_it_came_by(port: int) -> None:
    assert only(Hop().hear(message(), port))[2].giaddr == OURS[port]


def test_giaddr_of_another_relay_stays() -> None:
    frame = from_client(message(giaddr=BEHIND, hops=1), src_ip=BEHIND, dst_ip=OURS[DOWN],
                        src_port=67, dst_mac=MACS[DOWN])
    found = only(Hop().hear(frame))[2]
    assert (found.giaddr, found.hops) == (BEHIND, 2)


@pytest.mark.parametrize(("hops", "most", "cause"), [
    (0, 1, "relayed"), (1, 1, "relayed"), (2, 1, "hops_exceeded"),
    (4, 4, "relayed"), (5, 4, "hops_exceeded"), (255, 4, "hops_exceeded"),
    (16, 16, "relayed"), (17, 16, "hops_exceeded")])
def test_hops_that_exceed_the_most_are_discarded(hops: int, most: int, cause: str) -> None:
    hop = Hop(told(max_hops=most))
    out = hop.hear(message(hops=hops, giaddr=BEHIND))
    assert hop.cause() == cause and bool(out) == (cause == "relayed")
    assert hop.stats()["by_hops"] == [int(i == min(hops, 16)) for i in range(17)]


@pytest.mark.parametrize(("secs", "cause"), [(4, "secs_below"), (5, "relayed"),
                                             (65535, "relayed")])
def test_secs_below_the_threshold(secs: int, cause: str) -> None:
    hop = Hop(told(min_secs=5))
    hop.hear(message(secs=secs))
    assert hop.cause() == cause


@pytest.mark.parametrize("spoof", OURS)
def test_a_giaddr_of_our_own_is_discarded(spoof: IPv4Address) -> None:
    """RFC 3046 section 2.1.1; and so is what we relayed ourselves and hear again."""
    hop = Hop()
    assert not hop.hear(message(giaddr=spoof)) and hop.cause() == "giaddr_spoofed"


@pytest.mark.parametrize("target", [EVERYBODY, OURS[DOWN], OURS[UP], IP("10.20.0.255")])
def test_what_is_for_everybody_or_for_us_is_heard(target: IPv4Address) -> None:
    assert len(Hop().hear(from_client(message(), dst_ip=target))) == 1


@pytest.mark.parametrize("target", [SERVERS[0], IP("10.20.0.2"), IP("10.99.0.255")])
def test_what_only_passes_by_is_the_kernels_to_forward(target: IPv4Address) -> None:
    hop = Hop()
    assert not hop.hear(from_client(message(), dst_ip=target)) and hop.cause() == "elsewhere"


@pytest.mark.parametrize(("outer", "cause"), [(0x81000007, "elsewhere"), (0x81000000, "relayed"),
                                              (0x8100E000, "relayed")])
def test_frames_of_a_vlan_belong_to_another_interface(outer: int, cause: str) -> None:
    hop = Hop()
    hop.hear(message(), outer=outer)
    assert hop.cause() == cause


def test_tags_in_the_frame_itself() -> None:
    hop = Hop()
    assert not hop.hear(from_client(message(), vlans=(7,))) and hop.cause() == "elsewhere"


def test_an_unfinished_checksum_of_a_local_sender_is_finished() -> None:
    data = bytearray(from_client(message()))
    data[40] ^= 0x55
    hop = Hop()
    assert not hop.hear(bytes(data)) and hop.cause() == "refused 7"
    frame = only(Hop().hear(bytes(data), checksum_ready=False))[1]
    assert frame.dst_ip == SERVERS[0]


def test_every_server_gets_a_copy() -> None:
    hop = Hop(told(servers=SERVERS))
    out = [Frame.decode(octets) for _, octets in hop.hear(message())]
    assert [(each.dst_ip, each.dst_mac) for each in out] == list(zip(SERVERS, SERVER_MACS,
                                                                     strict=True))
    assert out[0].payload == out[1].payload
    assert hop.stats()["requests"]["relayed"]["discover"] == 2


def test_a_server_without_a_next_hop_is_counted_and_the_other_served() -> None:
    hop = Hop(told(servers=SERVERS), known=(None, SERVER_MACS[1]))
    assert only(hop.hear(message()))[1].dst_ip == SERVERS[1]
    assert [(row["sent"], row["no_next_hop"], row["reachable"])
            for row in hop.stats()["servers"]] == [(0, 1, False), (1, 0, True)]
    assert hop.stats()["discarded"]["no_next_hop"] == 0
    nobody = Hop(known=(None,))
    assert not nobody.hear(message()) and nobody.cause() == "no_next_hop"


def test_bootp_without_options_is_relayed_as_it_is() -> None:
    """RFC 1542 is about BOOTP: what has no cookie has no option 82 either."""
    payload = message(None).encode()
    payload = payload[:236] + b"\1\2\3\4" + b"vendor".ljust(60, b"\0")
    hop = Hop(told(option82="append"))
    _, octets = hop.hear(from_client(payload))[0]
    sent = Frame.decode(octets).payload
    assert sent[236:] == payload[236:] and sent[3] == 1
    assert hop.stats()["requests"]["received"]["other"] == 1


def test_options_of_an_odd_length_are_the_servers_to_refuse() -> None:
    found = only(Hop().hear(message(1, options={200: b""})))[2]
    assert found.options[200] == b""
    payload = message().encode()[:240] + b"\x35\x01\x01\x33\x03abc\xff"
    assert len(Hop().hear(from_client(payload))) == 1


def test_options_that_run_past_the_end_are_malformed() -> None:
    hop = Hop()
    payload = message().encode()[:240] + b"\x35\x01\x01\x0c\xffabc"
    assert not hop.hear(from_client(payload))
    assert hop.stats()["discarded"]["malformed"] == hop.stats()["refused"]["option_truncated"] == 1


@pytest.mark.parametrize("length", [240, 299, 300, 301, 548])
def test_the_message_keeps_its_length_but_has_300_octets(length: int) -> None:
    payload = message().encode()[:244].ljust(length, b"\0")[:length]
    sent = Frame.decode(Hop().hear(from_client(payload))[0][1]).payload
    assert len(sent) == max(length, 300) and sent[240:length] == payload[240:]


def test_long_options_in_pieces_stay_as_they_are() -> None:
    """RFC 3396: whoever does not need an option does not put it together."""
    pieces = b"\x35\x01\x01" + b"\x2b\xff" + b"a" * 255 + b"\x2b\x05bbbbb"
    payload = message().encode()[:240] + pieces + b"\xff"
    for policy in ("none", "append"):
        out = Hop(told(option82=policy)).hear(from_client(payload))
        assert Frame.decode(out[0][1]).payload[240:].startswith(pieces)


def test_requests_on_an_uplink_and_replies_on_a_downlink_are_discarded() -> None:
    for data, port in ((from_client(message()), UP), (from_server(reply()), DOWN)):
        hop = Hop()
        assert not hop.hear(data, port) and hop.cause() == "wrong_interface"


def test_an_interface_may_be_both() -> None:
    hop = Hop(told(downlinks=("down", "other"), uplinks=("down", "up")))
    hop.tables.hops[:, H_PORT] = DOWN
    assert only(hop.hear(message()))[0] == DOWN
    assert only(hop.hear(from_server(reply()), DOWN))[0] == DOWN


# --- option 82: RFC 3046 section 2.1


@pytest.mark.parametrize(("policy", "giaddr", "trusted", "agent", "left"), [
    # Nothing there: ours is added, but not behind another relay (2.1.1).
    ("none", 0, False, None, None), ("append", 0, False, None, OUR_AGENT),
    ("keep", 0, False, None, OUR_AGENT), ("replace", 0, False, None, OUR_AGENT),
    ("drop", 0, False, None, OUR_AGENT), ("append", 1, False, None, None),
    ("replace", 1, False, None, None),
    # From a relay before us.
    ("none", 1, False, ANOTHERS, ANOTHERS), ("append", 1, False, ANOTHERS, ANOTHERS),
    ("keep", 1, False, ANOTHERS, ANOTHERS), ("replace", 1, False, ANOTHERS, OUR_AGENT),
    ("drop", 1, False, ANOTHERS, "option82_present"),
    # From a circuit that is not trusted.
    ("none", 0, False, ANOTHERS, "untrusted_option82"),
    ("append", 0, False, ANOTHERS, "untrusted_option82"),
    ("keep", 0, False, ANOTHERS, ANOTHERS),
    ("replace", 0, False, ANOTHERS, "untrusted_option82"),
    ("drop", 0, False, ANOTHERS, "untrusted_option82"),
    # From one that is.
    ("none", 0, True, ANOTHERS, ANOTHERS), ("append", 0, True, ANOTHERS, ANOTHERS),
    ("keep", 0, True, ANOTHERS, ANOTHERS), ("replace", 0, True, ANOTHERS, OUR_AGENT),
    ("drop", 0, True, ANOTHERS, "option82_present")])
def test_policy(policy: str, giaddr: int, trusted: bool, agent: bytes | None,
                left: bytes | str | None) -> None:
    hop = Hop(told(option82=policy, trusted=frozenset({"down"} if trusted else ())))
    options = {12: b"x"} | ({} if agent is None else {82: agent}) | {61: b"\1abc"}
    out = hop.hear(message(1, giaddr=BEHIND if giaddr else IP(0), options=options))
    if isinstance(left, str):
        assert not out and hop.cause() == left
        return
    found = only(out)[2]
    assert found.options.get(82) == left
    assert found.options[12] == b"x" and found.options[61] == b"\1abc"
    if left == OUR_AGENT:
        # Section 2.1: the last option.
        assert list(found.options)[-1] == 82


def test_replaced_in_overloaded_fields_too() -> None:
    payload = bytearray(message().encode()[:240] + b"\x34\x01\x03\x35\x01\x01\x52\x03\x01\x01a\xff")
    payload[108:120] = b"\x0c\x02hi\x52\x03\x01\x01b\xff\0\0"
    payload[44:54] = b"\x52\x03\x01\x01c\xff\0\0\0\0"
    hop = Hop(told(option82="replace", trusted=frozenset({"down"})))
    found = only(hop.hear(from_client(bytes(payload))))[2]
    assert found.options[82] == OUR_AGENT and found.options[12] == b"hi"
    assert hop.stats()["option82"] == {"added": 0, "replaced": 1, "removed": 0, "no_room": 0}


@pytest.mark.parametrize("spare", [-1, 0])
def test_what_would_not_fit_goes_without_ours(spare: int) -> None:
    """RFC 3046 section 2.1: forwarded without, and counted."""
    config = told(option82="append", selections={"": None})
    room = 600 - 28 - 240 - 3 - 1 - (2 + len(OUR_AGENT) + 6) - spare - 2
    options = {43: b"a" * 255, 60: b"b" * (room - 257)}
    hop = Hop(config, mtus=(1500, 1500, 600))
    _, frame, found = only(hop.hear(message(1, options=options)))
    assert (82 in found.options) == (spare == 0)
    assert hop.stats()["option82"]["no_room"] == int(spare < 0)
    # A giaddr that only makes sense with a link selection is not used without.
    assert found.giaddr == (OURS[UP] if spare == 0 else OURS[DOWN])
    assert found.options[43] == options[43] and len(frame.payload) + 28 <= 600


def test_what_is_larger_than_the_link_is_discarded() -> None:
    hop = Hop(mtus=(1500, 1500, 500))
    assert not hop.hear(message(1, options={43: b"a" * 255}))
    assert hop.stats()["discarded"]["too_large"] == 1


def test_no_frame_is_larger_than_a_slot() -> None:
    """Whatever the interfaces could carry."""
    payload = message().encode()[:243] + (b"\x2b\xff" + b"a" * 255) * 6 + b"\xff"
    hop = Hop(told(option82="append", circuit_id="x" * 250), mtus=(9000, 9000, 9000))
    assert Frame.decode(hop.hear(from_client(payload))[0][1]).payload[240:] == payload[240:]
    assert hop.stats()["option82"]["no_room"] == 1


SUBOPTIONS = [
    ({}, b"\x01\x04down"),
    ({"circuit_id": "eth{ifindex}"}, b"\x01\x04eth7"),
    ({"circuit_id": "0x0102ff", "remote_id": "{mac}"}, b"\x01\x03\x01\x02\xff\x02\x1102:64:6f:77:"
     b"6e:2e"),
    ({"circuit_id": "", "remote_id": "{giaddr}"}, b"\x02\x0910.20.0.1"),
    ({"subscriber_id": "s"}, b"\x01\x04down\x06\x01s"),
    ({"selections": {"": None}}, b"\x01\x04down\x05\x04\x0a\x14\x00\x01"),
    ({"selections": {"down": IP("10.9.0.0")}}, b"\x01\x04down\x05\x04\x0a\x09\x00\x00"),
    ({"selections": {"other": None}}, b"\x01\x04down"),
    ({"override": True}, b"\x01\x04down\x0b\x04\x0a\x14\x00\x01")]


@pytest.mark.parametrize(("fields", "expected"), SUBOPTIONS)
def test_suboptions(fields: dict[str, Any], expected: bytes) -> None:
    """RFC 3046 sections 3.1 and 3.2, RFC 3993, RFC 3527, RFC 5107."""
    found = only(Hop(told(option82="append", **fields)).hear(message()))[2]
    assert found.options[82] == expected


def test_link_selection_has_the_uplinks_address_as_giaddr_and_comes_back_by_option_82() -> None:
    """RFC 3527 section 2: giaddr says where we are, the sub-option where the client is."""
    hop = Hop(told(option82="append", selections={"": None}))
    asked = [only(hop.hear(message(), port))[2] for port in (DOWN, OTHER)]
    assert {each.giaddr for each in asked} == {OURS[UP]}
    for port, request in zip((DOWN, OTHER), asked, strict=True):
        answer = reply(giaddr=OURS[UP], options={82: request.options[82]})
        to, frame, found = only(hop.hear(from_server(answer, dst_ip=OURS[UP]), UP))
        assert (to, frame.src_ip) == (port, OURS[port]) and 82 not in found.options
    assert not hop.hear(from_server(reply(giaddr=OURS[UP]), dst_ip=OURS[UP]), UP)
    assert hop.stats()["discarded"]["no_downlink"] == 1


# --- replies: RFC 1542 section 4.1.2, RFC 2131 section 4.1


@pytest.mark.parametrize(("kind", "fields", "mac", "address"), [
    (2, {}, CLIENT_MAC, IP("10.20.0.50")),
    (2, {"flags": 0x8000}, ALL_MACS, EVERYBODY),
    (5, {"ciaddr": IP("10.20.0.51")}, CLIENT_MAC, IP("10.20.0.51")),
    (5, {"ciaddr": IP("10.20.0.51"), "flags": 0x8000}, ALL_MACS, EVERYBODY),
    (5, {"ciaddr": IP("10.20.0.51"), "yiaddr": IP(0)}, CLIENT_MAC, IP("10.20.0.51")),
    (5, {"yiaddr": IP(0)}, ALL_MACS, EVERYBODY),
    (6, {"yiaddr": IP(0), "ciaddr": IP("10.20.0.51")}, ALL_MACS, EVERYBODY),
    (2, {"htype": 6}, ALL_MACS, EVERYBODY),
    (2, {"hlen": 0, "chaddr": b""}, ALL_MACS, EVERYBODY),
    (2, {"chaddr": b"\x01group"}, ALL_MACS, EVERYBODY),
    (2, {"chaddr": bytes(6)}, ALL_MACS, EVERYBODY),
    (2, {"yiaddr": IP("224.0.0.9")}, ALL_MACS, EVERYBODY)])
def test_where_a_reply_goes(kind: int, fields: dict[str, Any], mac: bytes, address: IPv4Address,
                            ) -> None:
    port, frame, found = only(Hop().hear(from_server(reply(kind, **fields)), UP))
    assert (port, frame.dst_mac, frame.dst_ip) == (DOWN, mac, address)
    assert (frame.src_mac, frame.src_ip, frame.src_port, frame.dst_port) == (
        MACS[DOWN], OURS[DOWN], 67, 68)
    assert (found.giaddr, found.hops) == (OURS[DOWN], 0)


@pytest.mark.parametrize(("giaddr", "cause"), [
    (OURS[OTHER], "relayed"), (OURS[UP], "unknown_giaddr"), (BEHIND, "unknown_giaddr"),
    (IP(0), "unknown_giaddr")])
def test_giaddr_says_which_downlink(giaddr: IPv4Address, cause: str) -> None:
    hop = Hop()
    out = hop.hear(from_server(reply(giaddr=giaddr)), UP)
    assert hop.cause() == cause and [port for port, _ in out] == [OTHER] * (cause == "relayed")


def test_replies_to_a_relay_behind_us_are_the_kernels_to_forward() -> None:
    hop = Hop()
    assert not hop.hear(from_server(reply(giaddr=BEHIND), dst_ip=BEHIND), UP)
    assert hop.cause() == "elsewhere"


@pytest.mark.parametrize(("policy", "agent", "left"), [
    ("append", OUR_AGENT, None), ("append", ANOTHERS, ANOTHERS), ("append", b"\x01\x05other",
                                                                  b"\x01\x05other"),
    ("append", OUR_AGENT + b"\x02\x01x", OUR_AGENT + b"\x02\x01x"), ("none", OUR_AGENT, OUR_AGENT),
    ("replace", OUR_AGENT, None), ("replace", ANOTHERS, None), ("keep", OUR_AGENT, None),
    ("keep", ANOTHERS, ANOTHERS)])
def test_only_our_own_option_82_is_removed(policy: str, agent: bytes, left: bytes | None) -> None:
    """RFC 3046 section 2.1: by who added it."""
    hop = Hop(told(option82=policy))
    found = only(hop.hear(from_server(reply(options={82: agent, 51: b"\0\0\1\0"})), UP))[2]
    assert found.options.get(82) == left and found.options[51] == b"\0\0\1\0"
    assert hop.stats()["option82"]["removed"] == int(left is None)


def test_ours_in_pieces_is_removed() -> None:
    payload = reply().encode()[:240] + b"\x35\x01\x02\x52\x03\x01\x04d\x0c\x01n\x52\x03own\xff"
    found = only(Hop(told(option82="append")).hear(from_server(payload), UP))[2]
    assert found.options == {53: b"\x02", 12: b"n"}


def test_two_downlinks_with_one_giaddr_are_told_apart_by_option_82() -> None:
    config = told(option82="append", giaddrs={"": OURS[DOWN]})
    hop = Hop(config)
    answer = reply(options={82: b"\x01\x05other"})
    to, frame, _ = only(hop.hear(from_server(answer), UP))
    assert (to, frame.src_ip) == (OTHER, OURS[OTHER])
    assert not hop.hear(from_server(reply()), UP)
    assert hop.stats()["discarded"]["no_downlink"] == 1


def test_replies_count_for_the_server_that_sent_them() -> None:
    hop = Hop(told(servers=SERVERS))
    hop.hear(from_server(reply(), src_ip=SERVERS[1]), UP)
    assert [row["replies"] for row in hop.stats()["servers"]] == [0, 1]


# --- faults


def faulty(*faults: Fault) -> Hop:
    return Hop(told(faults=faults))


def test_a_fault_that_names_no_message_is_about_both_ways() -> None:
    hop = faulty(Fault("drop"))
    assert not hop.hear(message()) and not hop.hear(from_server(reply()), UP)
    assert not hop.hear(from_server(message(None, op=2, giaddr=OURS[DOWN])), UP)
    assert hop.stats()["discarded"]["fault"] == 3 and hop.stats()["faults"] == {"drop": 3}


@pytest.mark.parametrize(("names", "struck"), [
    ({"discover"}, {1}), ({"offer"}, {2}), ({"nak", "request"}, {3, 6})])
def test_a_fault_is_about_the_message_itself(names: set[str], struck: set[int]) -> None:
    """Not, as with the server, about the answer to it."""
    hop = faulty(Fault("drop", frozenset(names)))
    lost = {kind for kind in (1, 3) if not hop.hear(message(kind))}
    lost |= {kind for kind in (2, 5, 6) if not hop.hear(from_server(reply(kind)), UP)}
    assert lost == struck


def test_delayed_doubled_overtaken_and_spoilt() -> None:
    hop = faulty(Fault("delay", frozenset({"discover"}), delay_s=0.05),
                 Fault("duplicate", frozenset({"offer"})),
                 Fault("wrong-xid", frozenset({"request"})),
                 Fault("missing-option", frozenset({"inform"}), option=12),
                 Fault("reorder", frozenset({"ack"}), until_s=0.001))
    assert not hop.hear(message(1)) and not hop.due(UP)
    hop.now_us = 50_100
    assert len(hop.due(UP)) == 1 and not hop.due(UP)
    assert len(hop.hear(from_server(reply(2)), UP)) == 2
    assert only(hop.hear(message(3)))[2].xid != 0x11223344
    assert 12 not in only(hop.hear(message(8, options={12: b"x"})))[2].options
    hop.now_us = 0
    assert not hop.hear(from_server(reply(5)), UP)
    hop.now_us = 2000
    late = [Message.decode(Frame.decode(octets, ports=(68,)).payload).type
            for _, octets in hop.hear(from_server(reply(6)), UP)]
    assert late == [MessageType.NAK, MessageType.ACK]
    said = hop.stats()
    assert said["replies"]["relayed"] == {"offer": 2, "ack": 1, "nak": 1}


def test_a_full_ring_loses_and_counts() -> None:
    hop = Hop(told(servers=SERVERS))
    assert len(hop.hear(message(), slots=1)) == 1
    assert hop.stats()["discarded"]["tx_ring_full"] == 1


# --- what is said


def test_events_say_what_happened() -> None:
    hop = Hop()
    hop.hear(message())
    hop.hear(message(3, hops=9, giaddr=BEHIND))
    hop.hear(from_server(reply()), UP)
    lines, seen = event_lines(hop.tables, hop.resolved, 0, 10)
    mac = "02:63:6c:69:65:6e"
    assert lines == [
        f"{mac} discover from down: to the servers",
        f"{mac} request from down giaddr 10.99.0.1: discarded (hops exceeded)",
        f"{mac} offer from up giaddr 10.20.0.1: to the client"]
    assert event_lines(hop.tables, hop.resolved, seen, 10) == ([], 3)
    assert snapshot(hop.tables, hop.resolved)["replies"]["relayed"]["offer"] == 1


# --- places


def test_templates_that_cannot_be() -> None:
    for text in ("{ifnam}", "a{", "}b", "{a{b}}", "0xzz", "{}"):
        with pytest.raises(UserError):
            check_template(text)
    for text in ("", "{ifname}-{ifindex}.{hostname}", "0x", "plain"):
        check_template(text)


def test_option_82_of_too_many_octets() -> None:
    hop = Hop()
    for fields in ({"circuit_id": "x" * 256}, {"circuit_id": "x" * 200, "remote_id": "y" * 60},
                   {"circuit_id": ""}):
        with pytest.raises(UserError):
            agent_option(told(option82="append", **fields), hop.interfaces[0], OURS[0], OURS[0])


def test_interfaces_that_cannot_serve() -> None:
    hop = Hop()
    bare = [dataclasses.replace(each, addresses=()) for each in hop.interfaces]
    with pytest.raises(UserError, match="no IPv4 address"):
        resolve(told(), bare, ["up"])
    with pytest.raises(UserError, match="no such downlink"):
        resolve(told(giaddrs={"up": OURS[0]}), hop.interfaces, ["up"])
    places = resolve(told(giaddrs={"": IP("10.9.9.9")}), bare, ["up"]).places
    assert [each.giaddr for each in places] == [IP("10.9.9.9")] * 2 + [None]
