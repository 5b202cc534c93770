"""Who clients are, as options say it: fields and the messages they go into, lists, captures."""

from __future__ import annotations

import os
import struct
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import wire
from fastpath.errors import NetlabError
from fastpath.message import Message
from fastpath.options import OPTIONS
from fastpath.packet import Frame
from tester.cells import DIRECT, INSTANCE, MESSAGE_NAMES, RELAYS, SOCKET, WHOLE
from tester.cli import main_command
from tester.config import ALL_MESSAGES, Captured, Field, Identity, Where, mask_of
from tester.identify import identity_from
from tester.template import parse

TALKATIVE = mask_of("discover", "request", "reboot", "renew", "rebind", "inform")
RELAYED = mask_of("discover", "request", "reboot", "rebind", "decline")
ON_A_SEGMENT = Where(DIRECT, "veth0")


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DHCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def identity(*args: str, where: Where = ON_A_SEGMENT) -> Identity:
    return identity_from(main_command.make_context("dhcp-tester", list(args)).params, where)


def refusal(*args: str) -> str:
    with pytest.raises((click.UsageError, NetlabError)) as refused:
        identity(*args)
    error = refused.value
    assert isinstance(error, click.UsageError), "which option it is about must be said"
    return error.format_message()


# What messages are.

def test_sets_of_messages() -> None:
    assert mask_of() == 0 and mask_of(*MESSAGE_NAMES) == ALL_MESSAGES == 0xFF
    assert mask_of("discover", "discover") == mask_of("discover") == 1
    assert mask_of("request", "discover") == 3


# Templates.

@pytest.mark.parametrize(("option", "text", "fields"), [
    ("hostname", "sw{index//48}", (TALKATIVE, 12, WHOLE)),
    ("hostname", "same", (TALKATIVE, 12, WHOLE)), ("vendor-class", "v", (TALKATIVE, 60, WHOLE)),
    ("user-class", "u", (TALKATIVE, 77, INSTANCE)), ("circuit-id", "c", (RELAYED, 82, 1)),
    ("remote-id", "hex:{mac}", (RELAYED, 82, 2)), ("client-id", "hex:01{mac}", (0xFF, 61, WHOLE))])
def test_templates_become_fields(option: str, text: str, fields: tuple[int, int, int]) -> None:
    assert identity(f"-{option}={text}").fields == (Field(*fields, parse(text, "")),)


@pytest.mark.parametrize(("text", "parts"), [
    ("me", (b"\0me",)), ("{index}", (b"\0", *parse("{index}", "").parts)),
    ("a{index}", (b"\0a", *parse("{index}", "").parts)), ("hex:ff00", (b"\xff\0",)),
    ("HEX:00", (b"\0HEX:00",))])
def test_a_client_id_in_words_gets_a_type(text: str, parts: tuple[Any, ...]) -> None:
    assert identity("-client-id", text).fields[0].template.parts == parts


def test_user_classes_stay_in_order() -> None:
    found = identity("-user-class=b", "-hostname=h", "-user-class=a").fields
    assert [(field.code, field.template.parts) for field in found] == [
        (12, (b"h",)), (77, (b"b",)), (77, (b"a",))]


@pytest.mark.parametrize(("where", "messages"), [
    (Where(DIRECT, "v"), RELAYED), (Where(SOCKET), RELAYED),
    (Where(RELAYS, "v", relays=(IPv4Address("10.0.0.1"),)), RELAYED),
    # Nothing can go past a relay that is the one who is answered.
    (Where(SOCKET, relays=(IPv4Address("10.0.0.1"),)), ALL_MESSAGES)])
def test_what_goes_past_relays_carries_no_option_82(where: Where, messages: int) -> None:
    assert identity("-circuit-id=c", where=where).fields[0].messages == messages
    assert identity("-hostname=h", where=where).fields[0].messages == TALKATIVE


@pytest.mark.parametrize(("option", "most"), [
    ("hostname", 255), ("vendor-class", 255), ("client-id", 254), ("user-class", 254),
    ("circuit-id", 253), ("remote-id", 253)])
def test_what_an_option_has_room_for(option: str, most: int) -> None:
    """255 octets, of which a type, a length or a sub-option take some."""
    field = identity(f"-{option}={'x' * most}").fields[0]
    assert field.template.longest == most + (option == "client-id")
    found = refusal(f"-{option}={'x' * (most + 1)}")
    assert f"at least {most + 1} octets, {most} is the most" in found


@pytest.mark.parametrize("option", [
    "client-id", "hostname", "vendor-class", "user-class", "circuit-id", "remote-id"])
@pytest.mark.parametrize("text", [
    "hex:", "hex: : ", "hex:0", "hex:zz", "{", "}", "{}", "{who}", "{index:q}", "{1//0}",
    "{index/2}", "\udcff", "\ud800", "x" * 5000, "{" * 5000, "hex:" + "00" * 256,
    "a\nb", "\x1b[2J", "\0"])
def test_no_templates(option: str, text: str) -> None:
    found = refusal(f"-{option}={text}")
    assert f"--{option}" in found and found.isprintable() and len(found) < 250


# Any option.

@pytest.mark.parametrize(("text", "found"), [
    ("12=pc", (0xFF, 12, b"pc")), ("hostname=pc", (0xFF, 12, b"pc")),
    ("12=a=b", (0xFF, 12, b"a=b")),
    ("51=1h", (0xFF, 51, b"\0\0\x0e\x10")), ("51={60*60}", (0xFF, 51, b"\0\0\x0e\x10")),
    ("250=hex:00 ff:10", (0xFF, 250, b"\0\xff\x10")), ("250=hex:{258:2}", (0xFF, 250, b"\1\2")),
    ("80=hex:", (0xFF, 80, b"")), ("12=a{{b}}", (0xFF, 12, b"a{b}")),
    ("discover:12=a:b", (1, 12, b"a:b")), ("discover,request:12=x", (3, 12, b"x")),
    ("Discover , request : hostname =x", (3, 12, b"x")), ("inform,inform:12=x", (0x20, 12, b"x")),
    ("reboot,renew,rebind,release,decline:12=x", (0xDC, 12, b"x")),
    ("12=" + "x" * 255, (0xFF, 12, b"x" * 255))])
def test_options_that_are_the_same_for_all(text: str, found: tuple[int, int, bytes]) -> None:
    assert identity("-option", text).options == (found,)
    assert identity("-option", text).fields == ()


@pytest.mark.parametrize(("text", "messages", "code", "value"), [
    ("12=pc{index}", 0xFF, 12, "pc{index}"), ("request:60={mac}", 2, 60, "{mac}"),
    ("51=hex:{index:4}", 0xFF, 51, "hex:{index:4}"), ("250={index}", 0xFF, 250, "{index}"),
    ("82=hex:0104{index}", 0xFF, 82, "hex:0104{index}")])
def test_options_that_differ(text: str, messages: int, code: int, value: str) -> None:
    found = identity("-option", text)
    assert found.fields == (Field(messages, code, WHOLE, parse(value, "")),)
    assert found.options == ()


@pytest.mark.parametrize(("text", "said"), [
    ("12", "'12' has no value; write [MSG:]OPTION=VALUE, as 60=MSFT"),
    ("discover:12", "'discover:12' has no value"), ("=x", "unknown DHCP option \"\""),
    ("tea=x", "unknown DHCP option \"tea\""), ("hostnam=x", "did you mean hostname or"),
    ("0=hex:00", "option 0 carries nothing; codes go from 1 to 254"),
    ("255=hex:00", "option 255 carries nothing"), ("256=x", "no DHCP option has code 256"),
    ("-1=x", "unknown DHCP option"), ("9" * 5000 + "=x", "unknown DHCP option '999"),
    (":12=x", "clients say no ''; one of: discover, request,"), ("offer:12=x", "say no 'offer'"),
    ("discover,:12=x", "clients say no ''"), ("a:discover:12=x", "clients say no 'a:discover'"),
    ("51=soon", "soon"), ("51={index}", "'51' is a time in seconds, no text; write its octets"),
    ("router={index}", "'router' is a list of IPv4 addresses, no text"),
    ("12={", "{ without its }"), ("12={index", "{ without its }"), ("12=hex:0", "half an octet"),
    ("12=hex:" + "00" * 256, "256 octets, 255 is the most"), ("12=\udcff", "is not a text")])
def test_no_options(text: str, said: str) -> None:
    found = refusal("-option", text)
    assert found.startswith("Invalid value for --option: ") and said in found


@pytest.mark.parametrize(("text", "found"), [
    ("1", (1,)), ("1,3,router", (1, 3, 3)), (" 1 , dns ", (1, 6)), ("254", (254,)),
    ("1,,3,", (1, 3)),
    # Nothing is asked for where nothing is named.
    ("", ()), (",", ())])
def test_what_is_asked_for(text: str, found: tuple[int, ...]) -> None:
    assert identity(f"-request-options={text}").wanted == found


@pytest.mark.parametrize("text", [
    "0", "255", "256", "-1", "tea", "1;3", "1 3", "9" * 5000, "\udcff"])
def test_what_cannot_be_asked_for(text: str) -> None:
    found = refusal(f"-request-options={text}")
    assert "--request-options: " in found and len(found) < 250


def test_no_more_is_asked_for_than_an_option_holds() -> None:
    assert len(identity(f"-request-options={','.join(['1'] * 255)}").wanted) == 255
    assert "256 options" in refusal(f"-request-options={','.join(['1'] * 256)}")


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_option_is_taken_or_refused(code: int, value: str) -> None:
    """Never anything but a refusal that says whose it is."""
    try:
        found = identity(f"-option={code}={value}")
    except click.UsageError as error:
        assert "--option" in error.format_message()
    else:
        assert len(found.options) + len(found.fields) == 1


# Hardware addresses.

def test_hardware_addresses_in_a_file() -> None:
    Path("macs").write_text("\ufeff# ours\n\n02:00:00:00:00:0A # first\r\n020000000001\n"
                            "0200.0000.0002\n 02-00-00-00-00-03")
    assert identity("-mac-list=macs").macs == tuple(0x020000000000 + n for n in (10, 1, 2, 3))


@pytest.mark.parametrize(("text", "said"), [
    (b"", "macs: no addresses in it; one a line"), (b"#\n\n", "macs: no addresses in it"),
    (b"02:00:00:00:00:01\n\nzz\n", "macs:3: \"zz\" is not an Ethernet address; write it like"),
    (b"02:00:00:00:00:01\n#\n0200.0000.0001\n", "macs:3: 0200.0000.0001 stands in line 1 too"),
    (b"02:00:00:00:00:01\n01:00:5e:00:00:01", "macs:2: 01:00:5e:00:00:01 is a multicast address"),
    (b"ffffffffffff", "macs:1: ffffffffffff is a multicast address"),
    (b"02:00:00:00:00:01,02:00:00:00:00:02", "macs:1: "), (b"020000000001\0", "macs:1: "),
    (b"020000000001\n\xff", "cannot read macs: it is not text"),
    (b"020000000001\n" + b"0" * 9999, "macs:2: more than 1024 characters; is it the right file?")])
def test_no_hardware_addresses_in_a_file(text: bytes, said: str) -> None:
    Path("macs").write_bytes(text)
    assert refusal("-mac-list=macs").startswith(f"Invalid value for --mac-list: {said}")


def test_no_list_of_hardware_addresses() -> None:
    assert "cannot read none: No such file or directory" in refusal("-mac-list=none")
    assert "is a directory" in refusal("-mac-list=.")
    assert "/dev/zero:1: more than 1024 characters" in refusal("-mac-list=/dev/zero")


def test_hardware_addresses_out_of_a_pipe() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("020000000001\n",))
    writer.start()
    assert identity("-mac-list=pipe").macs == (0x020000000001,)
    writer.join()


def test_the_first_hardware_address() -> None:
    assert identity("-mac-base=AA-00-00-00-00-05", "-mac-step=256").mac_base == b"\xaa\0\0\0\0\5"
    assert identity("-mac-step=4294967296").mac_step == 1 << 32
    for text in ("01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "zz", "02:00:00:00:00", "\udcff"):
        assert "--mac-base" in refusal(f"-mac-base={text}")


# Captures.

def message(kind: str = "discover") -> bytes:
    made = Message(op=wire.BOOTREQUEST, xid=0x01020304, chaddr=b"\2\0\0\0\0\1", secs=9)
    made.set("message-type", wire.MessageType[kind.upper()])
    made.set("vendor-class-identifier", "MSFT 5.0")
    made.set("client-identifier", b"\1\2\0\0\0\0\1")
    return made.encode()


def capture(path: str, *payloads: bytes) -> None:
    """A pcap file with one frame for each payload."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for payload in payloads:
        frame = Frame(src_ip=IPv4Address("0.0.0.0"), dst_ip=IPv4Address("255.255.255.255"),
                      src_port=68, dst_port=67, payload=payload).encode()
        data += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
    Path(path).write_bytes(data)


def test_templates_out_of_a_capture() -> None:
    capture("boot.pcap", message("request"), message("discover"))
    found = identity("-template=discover=boot.pcap", "-template= Rebind =boot.pcap").bases
    assert sorted(found) == ["discover", "rebind"]
    fixed, options = found["discover"]
    assert len(fixed) == wire.OPTIONS and fixed[wire.XID:wire.XID + 4] == bytes(4)
    # Each client has its own identifier.
    assert options == b"\x35\1\1\x3c\x08MSFT 5.0" and found["rebind"][1][:3] == b"\x35\1\3"


def test_messages_as_they_were_captured() -> None:
    capture("boot.pcap", message())
    Path("boot.hex").write_text(message("request").hex(" "))
    found = identity("-raw-template=discover=boot.pcap",
                     "-raw-template=request=boot.hex,xid=0,mac=33, secs=0,server=244,address=240")
    assert found.captured == {
        "discover": Captured(message()),
        "request": Captured(message("request"), None, 33, None, 244, 240)}


def test_options_are_written_into_a_captured_message() -> None:
    Path("m.hex").write_text(message().hex())
    found = identity("-raw-template=discover=m.hex,server-option=243,address-option=249").captured
    payload = found["discover"].payload
    assert (found["discover"].server, found["discover"].address) == (245, 251)
    assert payload[243:245] == b"\x36\4" and payload[249:251] == b"\x32\4"
    assert len(payload) == len(message())


@pytest.mark.parametrize(("setting", "said"), [
    ("xid", "'xid' is no offset; one of: xid=N, mac=N,"), ("xid=", "'xid=' is no offset"),
    ("xid=-1", "'xid=-1' is no offset"), ("xid=1.5", "is no offset"), ("xid=0x4", "is no offset"),
    ("yiaddr=4", "'yiaddr=4' is no offset"), ("", "'' is no offset"),
    ("xid=\u0664", "is no offset"),
    ("xid=" + "9" * 5000, "is no offset"), ("XID=4", "is no offset"), ("=4", "'=4' is no offset"),
    ("mac=4", "'mac=4' is outside of a message of 300 octets; count from 0, at op"),
    ("xid=297", "'xid=297' is outside of a message of 300 octets"), ("mac=300", "'mac=300' is out"),
    ("secs=299", "'secs=299' is outside"), ("server=297", "'server=297' is outside"),
    ("address=99999", "'address=99999' is outside"), ("server-option=295", "outside of a message"),
    ("address-option=99999", "outside of a message")])
def test_no_offsets(setting: str, said: str) -> None:
    Path("m.hex").write_text(message().hex())
    assert len(message()) == 300
    found = refusal(f"-raw-template=discover=m.hex,{setting}")
    assert found.startswith("Invalid value for --raw-template: ") and said in found
    assert len(found) < 400


def test_the_last_places_in_a_captured_message() -> None:
    Path("m.hex").write_text(message().hex())
    found = identity("-raw-template=discover=m.hex,xid=296,mac=5,secs=298,server=296,address=296")
    assert found.captured["discover"] == Captured(message(), 296, 5, 298, 296, 296)


@pytest.mark.parametrize("option", ["-template", "-raw-template"])
@pytest.mark.parametrize(("text", "said"), [
    ("discover", "'discover' names no file; write MSG=FILE"), ("discover=", "names no file"),
    ("=m.hex", "clients say no ''"), ("offer=m.hex", "clients say no 'offer'; one of: discover,"),
    ("discover,request=m.hex", "'discover,request' is more than one message"),
    ("discover=none", "none: cannot be read: No such file"), ("discover=.", "Is a directory"),
    ("discover=m.hex/x", "Not a directory"), ("discover=" + "n" * 300, "File name too long"),
    ("discover=empty", "empty: has no hex digits"), ("discover=octets", "octets: line 1: "),
    ("discover=/dev/null", "/dev/null: has no hex digits"),
    ("discover=/dev/zero", "/dev/zero: more than 64 MiB"), ("request=boot.pcap", "no request in 1"),
    ("discover=cut.pcap", "packet 1: the file ends in it"), ("discover=odd", "odd number"),
    ("discover=short", "short: 3 octets, where a DHCP message has 240 or more")])
def test_no_captures(option: str, text: str, said: str) -> None:
    Path("m.hex").write_text(message().hex())
    Path("empty").touch()
    Path("octets").write_bytes(bytes(range(256)))
    Path("odd").write_text("01010")
    Path("short").write_text("010106")
    capture("boot.pcap", message())
    Path("cut.pcap").write_bytes(Path("boot.pcap").read_bytes()[:-1])
    found = refusal(f"{option}={text}")
    assert f"Invalid value for -{option}: " in found and said in found


@pytest.mark.parametrize("option", ["-template", "-raw-template"])
def test_one_capture_for_each_message(option: str) -> None:
    Path("m.hex").write_text(message().hex())
    assert "discover comes twice: give one" in refusal(f"{option}=discover=m.hex",
                                                       f"{option}=Discover=m.hex")
