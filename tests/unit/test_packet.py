"""The readable frame: exact decoding rules and their order, checksums, hostile input."""

from __future__ import annotations

import shutil
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import Malformed, UserError
from fastpath.message import Message
from fastpath.packet import Frame, checksum, mac_text, parse_mac
from fastpath.wire import REASON_NAMES

IP = IPv4Address
MAC = bytes.fromhex("02aabbccddee")


def frame(payload: Any = b"hello", **fields: Any) -> Frame:
    made = Frame(MAC, b"\xff" * 6, (), IP("192.0.2.1"), IP("198.51.100.7"), 68, 67, 64, payload)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def put(data: bytes, at: int, octets: bytes) -> bytes:
    return data[:at] + octets + data[at + len(octets):]


def ip_fixed(data: bytes) -> bytes:
    """`data` with a right IPv4 checksum over the header length that it states."""
    size = (data[14] & 15) * 4
    data = put(data, 24, b"\0\0")
    return put(data, 24, naive_checksum(data[14:14 + size]).to_bytes(2, "big"))


def naive_checksum(octets: bytes) -> int:
    """RFC 1071 word by word, carry by carry."""
    total = 0
    for at in range(0, len(octets), 2):
        total += octets[at] * 256 + (octets[at + 1] if at + 1 < len(octets) else 0)
        if total > 0xFFFF:
            total -= 0xFFFF
    return 0xFFFF - total


def test_checksum_of_rfc1071_section_3() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=64))
def test_checksum_is_that_of_its_twin(octets: bytes) -> None:
    # The twin may leave 0xFFFF where the sum folds to 0: the same number in one's complement.
    assert checksum(octets) % 0xFFFF == naive_checksum(octets) % 0xFFFF


def test_encoded_frame_octet_for_octet() -> None:
    assert frame(b"\x01\x02\x03").encode().hex() == (
        "ffffffffffff" "02aabbccddee" "0800"
        "4500001f" "00000000" "40118e92" "c0000201" "c6336407"
        "00440043" "000b0f13" "010203")


@pytest.mark.parametrize(("vlans", "tags"), [
    ((), ""), ((100,), "81000064"), ((0xE00A,), "8100e00a"), ((7, 0x2FFF), "88a80007" "81002fff"),
])
def test_vlan_tags(vlans: tuple[int, ...], tags: str) -> None:
    data = frame(vlans=vlans).encode()
    assert data[12:-33].hex() == tags + "0800"
    assert Frame.decode(data) == frame(vlans=vlans)


def test_rfc768_a_sum_of_zero_is_sent_as_ones() -> None:
    zero = frame(b"\0\0")
    free = int.from_bytes(zero.encode()[40:42], "big")
    zero.payload = free.to_bytes(2, "big")
    data = zero.encode()
    assert data[40:42] == b"\xff\xff"
    assert Frame.decode(data) == zero


GOOD = frame(b"x" * 20).encode()
TAGGED = frame(b"x" * 20, vlans=(1, 2)).encode()
LONG_HEADER = ip_fixed(put(GOOD[:34] + bytes(4) + GOOD[34:], 14, bytes.fromhex("4600" "0034")))
NO_UDP = ip_fixed(put(GOOD, 16, struct.pack(">H", 27)))

# What decode refuses, in the order of its checks: data, reason (None: sound).
RULES: list[tuple[str, bytes, str | None]] = [
    ("sound", GOOD, None),
    ("empty", b"", "not_ipv4"),
    ("13 octets", GOOD[:13], "not_ipv4"),
    ("IPv6", put(GOOD, 12, b"\x86\xdd"), "not_ipv4"),
    ("ARP", put(GOOD, 12, b"\x08\x06"), "not_ipv4"),
    ("two tags", TAGGED, None),
    ("two tags, cut in the second", TAGGED[:21], "not_ipv4"),
    ("one tag, cut", TAGGED[:17], "not_ipv4"),
    ("one tag and nothing", TAGGED[:18], "not_ipv4"),
    ("0x88A8 inside 0x8100", put(TAGGED, 12, b"\x81\0\0\1\x88\xa8"), None),
    ("three tags", TAGGED[:12] + b"\x81\0\0\1" + TAGGED[12:], "not_ipv4"),
    ("19 octets of IPv4", GOOD[:33], "not_ipv4"),
    ("19 octets go before the version", put(GOOD[:33], 14, b"\x65"), "not_ipv4"),
    ("version 6", ip_fixed(put(GOOD, 14, b"\x65")), "ip_header"),
    ("version goes before the checksum", put(GOOD, 14, b"\x65"), "ip_header"),
    ("header of 16 octets", ip_fixed(put(GOOD, 14, b"\x44")), "ip_header"),
    ("header beyond the frame", put(GOOD[:34], 14, b"\x46"), "ip_header"),
    ("total beyond the frame", ip_fixed(put(GOOD, 16, struct.pack(">H", 49))), "ip_header"),
    ("total below the header", ip_fixed(put(GOOD, 16, struct.pack(">H", 19))), "ip_header"),
    ("total is the header", ip_fixed(put(GOOD, 16, struct.pack(">H", 20))), "udp_length"),
    ("IPv4 options", LONG_HEADER, None),
    ("IPv4 checksum", put(GOOD, 24, b"\0\0"), "ip_checksum"),
    ("one bit of the header", put(GOOD, 22, b"\x41"), "ip_checksum"),
    ("checksum goes before fragment", put(GOOD, 20, b"\x20"), "ip_checksum"),
    ("more fragments", ip_fixed(put(GOOD, 20, b"\x20")), "fragment"),
    ("offset", ip_fixed(put(GOOD, 20, b"\0\1")), "fragment"),
    ("do not fragment", ip_fixed(put(GOOD, 20, b"\x40")), None),
    ("the reserved bit", ip_fixed(put(GOOD, 20, b"\x80")), None),
    ("fragment goes before protocol", ip_fixed(put(GOOD, 20, b"\x20\0\x40\6")), "fragment"),
    ("TCP", ip_fixed(put(GOOD, 23, b"\6")), "not_dhcp"),
    ("protocol goes before length", ip_fixed(put(NO_UDP, 23, b"\6")), "not_dhcp"),
    ("7 octets of UDP", NO_UDP, "udp_length"),
    ("length goes before port", put(NO_UDP, 36, b"\0\x35"), "udp_length"),
    ("port 53", put(GOOD, 36, b"\0\x35"), "not_dhcp"),
    ("port goes before length", put(GOOD, 36, b"\0\x35\0\1"), "not_dhcp"),
    ("UDP length 7", put(GOOD, 38, b"\0\7"), "udp_length"),
    ("UDP length beyond IPv4", put(GOOD, 38, b"\0\x1d"), "udp_length"),
    ("UDP checksum", put(GOOD, 40, b"\0\1"), "udp_checksum"),
    ("one bit of the payload", put(GOOD, 61, b"y"), "udp_checksum"),
    ("no UDP checksum", put(put(GOOD, 40, b"\0\0"), 61, b"y"), None),
    ("shorter UDP length, no checksum", put(GOOD, 38, b"\0\x14\0\0"), None),
    ("shorter UDP length, old checksum", put(GOOD, 38, b"\0\x14"), "udp_checksum"),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in RULES],
                         ids=[row[0] for row in RULES])
def test_decoding_rule(data: bytes, reason: str | None) -> None:
    if reason is None:
        Frame.decode(data).describe()
        return
    with pytest.raises(Malformed) as caught:
        Frame.decode(data)
    assert caught.value.reason == reason


def test_rules_reach_every_reason_of_a_frame() -> None:
    reached = {reason for _, _, reason in RULES if reason}
    assert reached == {"not_ipv4", "ip_header", "ip_checksum", "fragment", "not_dhcp",
                       "udp_length", "udp_checksum"} <= set(REASON_NAMES)


def test_unfinished_checksum_is_no_corruption() -> None:
    data = put(GOOD, 40, b"\x12\x34")
    assert Frame.decode(data, checksum_ready=False) == Frame.decode(GOOD)


def test_ports() -> None:
    assert Frame.decode(frame(dst_port=1067).encode(), ports={1067}).dst_port == 1067
    with pytest.raises(Malformed, match="port 67"):
        Frame.decode(GOOD, ports=(1067,))


def test_ethernet_padding_and_ip_trailer_are_ignored() -> None:
    small = frame(b"ab")
    assert Frame.decode(small.encode().ljust(60, b"\xee")) == small
    # The IPv4 payload may be longer than UDP says: then UDP is right.
    data = ip_fixed(put(small.encode() + b"zz", 16, struct.pack(">H", 32)))
    assert Frame.decode(data) == small


@pytest.mark.parametrize("change", [
    {"src_mac": b"abc"}, {"dst_mac": bytes(8)}, {"vlans": (1, 2, 3)}, {"vlans": (65536,)},
    {"vlans": (-1,)}, {"src_port": 65536}, {"dst_port": -1}, {"ttl": 256},
    {"payload": bytes(65508)},
])
def test_what_the_format_cannot_carry_is_the_users_error(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        frame(**change).encode()


def test_the_largest_payload() -> None:
    assert Frame.decode(frame(bytes(65507)).encode()).payload == bytes(65507)


def test_description() -> None:
    message = Message(xid=5, options={53: b"\1"})
    lines = frame(message.encode(), vlans=(0x2064, 7)).describe().splitlines()
    assert lines[:3] == [
        "02:aa:bb:cc:dd:ee > ff:ff:ff:ff:ff:ff vlan 100 priority 1 vlan 7 priority 0",
        "192.0.2.1:68 > 198.51.100.7:67 ttl 64 payload 300 octets",
        "DISCOVER (request) xid 0x00000005 secs 0 hops 0 unicast"]
    assert "no sound message: bootp_short" in frame().describe()


@pytest.mark.parametrize("text", [
    "02:aa:bb:cc:dd:ee", "02-AA-BB-CC-DD-EE", "02aa.bbcc.ddee", "02AABBCCDDEE",
    " 02:aa:bb:cc:dd:ee",
])
def test_parse_mac(text: str) -> None:
    assert parse_mac(text) == MAC
    assert mac_text(MAC) == "02:aa:bb:cc:dd:ee"


@pytest.mark.parametrize("text", [
    "", "02:aa:bb:cc:dd", "02:aa:bb:cc:dd:ee:ff", "02:aa-bb:cc:dd:ee", "0x02aabbccddee",
    "2:aa:bb:cc:dd:ee", "02:aa:bb:cc:dd:eg", "02aa.bbcc:ddee", "02:aa:bb:cc:dd:e\u0665",
])
def test_parse_mac_refuses(text: str) -> None:
    with pytest.raises(UserError, match="not an Ethernet address"):
        parse_mac(text)


ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IP)
FRAMES = st.builds(
    Frame, st.binary(min_size=6, max_size=6), st.binary(min_size=6, max_size=6),
    st.lists(st.integers(0, 65535), max_size=2).map(tuple), ADDRESSES, ADDRESSES,
    st.integers(0, 65535), st.sampled_from([67, 68]), st.integers(0, 255), st.binary(max_size=400))


@settings(max_examples=200, deadline=None)
@given(FRAMES, st.binary(max_size=20))
def test_round_trip(made: Frame, padding: bytes) -> None:
    assert Frame.decode(made.encode() + padding) == made


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.integers(0, 500), st.integers(0, 255), st.integers(0, 500), st.booleans())
def test_damaged_frames(made: Frame, at: int, octet: int, cut: int, ready: bool) -> None:
    data = bytearray(made.encode())
    data[at % len(data)] ^= octet
    data = data[:cut] if cut < len(data) and cut % 2 else data
    try:
        Frame.decode(bytes(data), checksum_ready=ready).describe()
    except Malformed as problem:
        assert problem.reason in REASON_NAMES


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([0, 12, 14, 18, 22]))
def test_any_octets_are_a_frame_or_malformed(data: bytes, keep: int) -> None:
    try:
        Frame.decode(TAGGED[:keep] + data).describe()
    except Malformed as problem:
        assert problem.reason in REASON_NAMES


def write_pcap(path: Path, frames: list[bytes]) -> None:
    """A capture file of Ethernet frames (pcap 2.4, link type 1), one second apart."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for second, octets in enumerate(frames):
        data += struct.pack("<IIII", second, 0, len(octets), len(octets)) + octets
    path.write_bytes(data)


def offer() -> Message:
    message = Message(op=2, hops=1, xid=0x01020304, secs=5, flags=0x8000, yiaddr=IP("10.0.0.9"),
                      siaddr=IP("10.0.0.2"), giaddr=IP("10.0.0.3"), chaddr=MAC)
    for name, text in (
            ("message-type", "offer"), ("server-id", "10.0.0.1"), ("lease-time", "12h"),
            ("renewal-time", "6h"), ("subnet-mask", "255.255.255.0"), ("router", "10.0.0.1"),
            ("dns", "8.8.8.8,8.8.4.4"), ("host-name", "lab-1"), ("time-offset", "-3600"),
            ("domain-search", "eng.example.com,example.net"),
            ("classless-static-route", "10.9.0.0/16 via 10.0.0.4"),
            ("relay-agent-information", "circuit-id=eth0,link-selection=10.0.0.0"),
            ("client-id", "02:aa:bb:cc:dd:ee"), ("interface-mtu", "1400"),
            ("captive-portal", "https://portal.example/"), ("user-class", "lab;two"),
            ("parameter-request-list", "1,3,6,121"), ("vendor-identifying-class", "4491: ab"),
            ("client-fqdn", "pc.example."), ("static-route", "10.1.0.1 10.0.0.5")):
        message.set_text(name, text)
    return message


# tshark's field -> what it shows for the offer
SHOWN = {
    "dhcp.type": "2", "dhcp.hops": "1", "dhcp.id": "0x01020304", "dhcp.secs": "5",
    "dhcp.flags": "0x8000", "dhcp.ip.your": "10.0.0.9", "dhcp.ip.server": "10.0.0.2",
    "dhcp.ip.relay": "10.0.0.3", "dhcp.hw.mac_addr": "02:aa:bb:cc:dd:ee,02:aa:bb:cc:dd:ee",
    "dhcp.option.dhcp": "2",
    "dhcp.option.dhcp_server_id": "10.0.0.1", "dhcp.option.ip_address_lease_time": "43200",
    "dhcp.option.renewal_time_value": "21600", "dhcp.option.subnet_mask": "255.255.255.0",
    "dhcp.option.router": "10.0.0.1", "dhcp.option.domain_name_server": "8.8.8.8,8.8.4.4",
    "dhcp.option.hostname": "lab-1", "dhcp.option.time_offset": "-3600",
    "dhcp.option.dhcp_dns_domain_search_list_fqdn": "eng.example.com,example.net",
    "dhcp.option.agent_information_option.agent_circuit_id": "65746830",
    "dhcp.option.agent_information_option.link_selection": "10.0.0.0",
    "dhcp.option.interface_mtu": "1400", "dhcp.option.request_list_item": "1,3,6,121",
    "dhcp.option.user_class.data": "6c6162,74776f",
    "dhcp.option.captive_portal": "https://portal.example/", "dhcp.fqdn.name": "pc.example",
    "dhcp.option.static_route.ip": "10.1.0.1", "dhcp.option.static_route.router": "10.0.0.5",
    "dhcp.option.vi_class.enterprise": "4491",
}
FRAME_FIELDS = ("ip.checksum.status", "udp.checksum.status", "ieee8021ad.id",
                "ieee8021ad.priority", "vlan.id", "vlan.priority", "udp.length",
                "dhcp.option.domain_name", "dhcp.option.root_path", "dhcp.option.type",
                "_ws.malformed")


@pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")
def test_tshark_reads_what_we_write(tmp_path: Path) -> None:
    overloaded = Message(chaddr=MAC, options={53: b"\1", 15: b"d" * 100, 17: b"r" * 40})
    frames = [
        frame(offer().encode(), src_port=67, dst_port=68),
        frame(offer().encode(), vlans=(0x2064,)),
        frame(offer().encode(), vlans=(0x200A, 0x6064)),
        frame(overloaded.encode(max_size=300)),
        frame(Message(chaddr=MAC, options={53: b"\1"}).encode() + b"\0"),
    ]
    capture = tmp_path / "sample.pcap"
    write_pcap(capture, [made.encode() for made in frames])
    fields = [*SHOWN, *FRAME_FIELDS]
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-E", "separator=/t",
               "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    command += [word for name in fields for word in ("-e", name)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = [dict(zip(fields, line.split("\t"), strict=True)) for line in run.stdout.splitlines()]
    assert len(rows) == len(frames)
    for row in rows[:3]:
        assert {name: row[name] for name in SHOWN} == SHOWN
        # The last is the end option, for which tshark's versions have different numbers.
        order = [int(code) for code in row["dhcp.option.type"].split(",")[:-1]]
        assert order == [*(code for code in offer().options if code != 82), 82]
    for row, made in zip(rows, frames, strict=True):
        assert (row["ip.checksum.status"], row["udp.checksum.status"]) == ("1", "1")
        assert row["udp.length"] == str(8 + len(made.payload)) and not row["_ws.malformed"]
    tags = [tuple(row[f"{tag}.{part}"] for tag in ("ieee8021ad", "vlan")
                  for part in ("id", "priority")) for row in rows[:3]]
    assert tags == [("", "", "", ""), ("", "", "100", "1"), ("10", "1", "100", "3")]
    assert rows[3]["dhcp.option.domain_name"] == "d" * 100
    assert rows[3]["dhcp.option.root_path"] == "r" * 40
