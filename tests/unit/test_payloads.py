"""Templates out of captures and hex: every format, and whatever a hostile file says."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from fastpath.message import Message
from fastpath.packet import Frame
from tester.payloads import MESSAGE_TYPES, MOST_FILE_OCTETS, message_parts, read_payload, split
from tests.frames import COOKIE, opt, raw

IP = IPv4Address
MAC = bytes.fromhex("02aabbccddee")
KINDS = {"discover": 1, "request": 3, "inform": 8, "release": 7, "decline": 4}


def payload(kind: int = 1) -> bytes:
    options = {53: bytes([kind]), 60: b"lab", 55: b"\1\3\6"}
    return Message(xid=0x01020304, secs=7, chaddr=MAC, options=options).encode()


def ethernet(carried: bytes, **fields: Any) -> bytes:
    return Frame(MAC, payload=carried, **fields).encode()


def pcap(packets: list[bytes], link_type: int = 1, order: str = "<",
         magic: int = 0xA1B2C3D4) -> bytes:
    data = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)
    for packet in packets:
        data += struct.pack(f"{order}IIII", 1, 2, len(packet), len(packet)) + packet
    return data


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, most: int = 0, order: str = "<") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link_type, 0, most) + opt(2, b"eth0"), order)


def enhanced(packet: bytes, number: int = 0, order: str = "<") -> bytes:
    head = struct.pack(f"{order}IIIII", number, 0, 0, len(packet), len(packet))
    return block(6, head + packet + bytes(-len(packet) % 4) + bytes(4), order)


def old(packet: bytes, number: int = 0, order: str = "<") -> bytes:
    head = struct.pack(f"{order}HHIIII", number, 9, 0, 0, len(packet), len(packet))
    return block(2, head + packet, order)


def simple(packet: bytes, sent: int | None = None, order: str = "<") -> bytes:
    return block(3, struct.pack(f"{order}I", len(packet) if sent is None else sent) + packet, order)


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "template"
    path.write_bytes(data)
    return path


def found(folder: Path, data: bytes, kind: str = "discover") -> bytes:
    return read_payload(saved(folder, data), kind)


def refused(folder: Path, data: bytes, kind: str = "discover") -> str:
    """What is said of a file, without its name."""
    path = saved(folder, data)
    with pytest.raises(UserError) as info:
        read_payload(path, kind)
    what = info.value.what
    assert what.startswith(f"{path}: ") and what.isprintable() and info.value.remedy.isprintable()
    return what.removeprefix(f"{path}: ")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_pcap(tmp_path: Path, order: str, magic: int) -> None:
    """The first of the wanted type, among others and what is no DHCP."""
    packets = [b"", b"\0" * 60, ethernet(b"hello"),
               ethernet(Message(op=2, chaddr=MAC, options={53: b"\1"}).encode())]
    packets += [ethernet(payload(kind), src_ip=IP(kind)) for kind in (2, 1, 3, 8, 7, 4, 5, 6)]
    for name, kind in KINDS.items():
        assert found(tmp_path, pcap(packets, 1, order, magic), name) == payload(kind)
    assert MESSAGE_TYPES == KINDS


def test_the_first_of_two(tmp_path: Path) -> None:
    other = Message(xid=9, chaddr=MAC, options={53: b"\1"}).encode()
    assert found(tmp_path, pcap([ethernet(other), ethernet(payload())])) == other


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("put", [enhanced, old, simple])
def test_pcapng(tmp_path: Path, order: str, put: Any) -> None:
    start = section(order) + interface(order=order) + block(0x0BAD, b"ours", order)
    data = start + put(b"x" * 5, order=order) + put(ethernet(payload(3)), order=order)
    assert found(tmp_path, data + put(ethernet(payload()), order=order)) == payload()


def test_pcapng_sections_and_interfaces(tmp_path: Path) -> None:
    """Each section has its own byte order and its own interfaces."""
    packet = ethernet(payload())[14:]
    data = (section("<") + interface(1) + interface(147) + enhanced(b"x" * 60, 1)
            + section(">") + interface(1, order=">") + interface(101, order=">"))
    assert found(tmp_path, data + enhanced(packet, 1, ">")) == payload()
    said = refused(tmp_path, data + enhanced(packet, 0, ">"))
    assert said == "no discover in 2 packets; packet 1: link type 147 is not known"
    assert refused(tmp_path, data + section() + enhanced(packet)) == (
        "packet 2: interface 0 is not described")


def test_a_simple_packet_ends_where_its_interface_stops(tmp_path: Path) -> None:
    packet = ethernet(payload())
    start = section() + interface(1, len(packet))
    assert found(tmp_path, start + simple(packet, len(packet) + 1000)) == payload()
    said = refused(tmp_path, section() + interface(1, 300) + simple(packet[:300], len(packet)))
    assert said == "no discover in 1 packet; packet 1: 258 octets captured of a message of 300"


TAG = b"\x81\0\0\7"
PACKET = Frame(MAC, payload=payload()).encode()[14:]


@pytest.mark.parametrize(("link_type", "head"), [
    (1, bytes(12) + b"\x08\0"), (1, bytes(12) + TAG + b"\x08\0"),
    (1, bytes(12) + b"\x88\xa8\0\7" + TAG + b"\x08\0"),
    (1, bytes(12) + b"\x91\0\0\7" + TAG * 2 + b"\x08\0"),
    (101, b""), (12, b""), (14, b""), (228, b""), (0x4000_0001, bytes(12) + b"\x08\0"),
    (113, bytes(14) + b"\x08\0"), (113, bytes(14) + TAG + b"\x08\0"),
    (276, b"\x08\0" + bytes(18)), (276, TAG[:2] + bytes(18) + TAG[2:] + b"\x08\0"),
    (0, b"\2\0\0\0"), (0, b"\0\0\0\2"), (108, b"\0\0\0\2"),
])
@pytest.mark.parametrize("tail", [b"", bytes(18)])
def test_link_types(tmp_path: Path, link_type: int, head: bytes, tail: bytes) -> None:
    assert found(tmp_path, pcap([head + PACKET + tail], link_type)) == payload()
    for cut in range(len(head)):
        assert "no discover in 1 packet" in refused(tmp_path, pcap([head[:cut]], link_type))


@pytest.mark.parametrize(("link_type", "head"), [
    (1, bytes(12) + TAG * 4 + b"\x08\0"), (1, bytes(12) + b"\x86\xdd"), (1, bytes(12) + b"\x08\6"),
    (113, bytes(14) + b"\x86\xdd"), (276, b"\x86\xdd" + bytes(18)), (0, b"\x1e\0\0\0"),
    (228, b"\x60"),
])
def test_what_is_not_ipv4(tmp_path: Path, link_type: int, head: bytes) -> None:
    assert refused(tmp_path, pcap([head + PACKET], link_type)) == "no discover in 1 packet"


def test_any_port_and_any_checksum(tmp_path: Path) -> None:
    """Servers under test listen elsewhere, and the sender's own capture has no checksum yet."""
    packet = bytearray(ethernet(payload(), src_port=6800, dst_port=6700))
    packet[24:26] = packet[40:42] = b"\xde\xad"
    assert found(tmp_path, pcap([bytes(packet)])) == payload()


def test_ip_options(tmp_path: Path) -> None:
    packet = bytearray(PACKET[:20] + b"\1" * 8 + PACKET[20:])
    packet[0] = 0x47
    packet[2:4] = struct.pack(">H", len(packet))
    assert found(tmp_path, pcap([bytes(packet)], 101)) == payload()


def changed(at: int, octets: bytes) -> bytes:
    return PACKET[:at] + octets + PACKET[at + len(octets):]


@pytest.mark.parametrize(("packet", "said"), [
    (changed(6, b"\x20\0"), "a DHCP message in fragments"),
    (PACKET[:-1], "299 octets captured of a message of 300"),
    (PACKET[:268], "240 octets captured of a message of 300"),
    (changed(24, b"\x01\x35"), "300 octets captured of a message of 301"),
    (changed(2, b"\x01\x47"), "299 octets captured of a message of 300"),
    (Frame(payload=raw(b"\x35\1\1\x0c\xff")).encode()[14:],
     "option 12 goes past the end of the message"),
    (Frame(payload=raw(b"\x35\1\1\x0c")).encode()[14:],
     "option 12 goes past the end of the message"),
    (Frame(payload=raw(opt(43, bytes(251)) * 5)).encode()[14:],
     "more than 1,200 octets of options"),
])
def test_messages_that_cannot_be_used(tmp_path: Path, packet: bytes, said: str) -> None:
    """They are passed over, and named where nothing better follows."""
    data = pcap([b"", packet, changed(6, b"\x20\0")], 101)
    assert refused(tmp_path, data) == f"no discover in 3 packets; packet 2: {said}"
    assert found(tmp_path, pcap([b"", packet, PACKET], 101)) == payload()


@pytest.mark.parametrize("packet", [
    changed(0, b"\x44"), changed(0, b"\x4f"), changed(0, b"\x65"), changed(9, b"\6"),
    changed(6, b"\0\1"), changed(24, b"\0\7"), changed(24, b"\0\0"), changed(28 + 236, b"\x64"),
    changed(28, b"\2"), PACKET[:20], PACKET[:27], PACKET[:28], PACKET[:267],
    Frame(payload=raw(opt(12, b"a") + b"\xff")).encode()[14:],
    Frame(payload=raw(opt(53, b"") + b"\xff")).encode()[14:],
    Frame(payload=raw(opt(53, b"\1\1") + b"\xff")).encode()[14:],
    Frame(payload=raw(opt(53, b"\1", b"\1") + b"\xff")).encode()[14:],
    Frame(payload=raw(b"\xff" + opt(53, b"\1"))).encode()[14:],
])
def test_packets_passed_over(tmp_path: Path, packet: bytes) -> None:
    assert refused(tmp_path, pcap([packet], 101)) == "no discover in 1 packet"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_capture_cut_short(tmp_path: Path, order: str) -> None:
    data = pcap([b"x" * 20, PACKET], 101, order)
    for cut in range(4, len(data)):
        said = refused(tmp_path, data[:cut])
        whole = {24: "no discover in 0 packets", 60: "no discover in 1 packet"}
        number = 2 if cut > 60 else 1
        place = "before" if cut < 24 else "in"
        assert said == whole.get(cut, f"packet {number}: the file ends {place} it")


def test_a_pcapng_capture_cut_short(tmp_path: Path) -> None:
    data = section() + interface(101) + enhanced(PACKET)
    for cut in range(4, len(data)):
        whole = cut in (len(section()), len(section() + interface()))
        said = refused(tmp_path, data[:cut])
        assert said.startswith("no discover in 0 packets" if whole else "after packet 0: ")
    assert found(tmp_path, data + b"rest") == payload()


@pytest.mark.parametrize(("data", "said"), [
    (b"\x0a\x0d\x0d\x0a", "after packet 0: no block at octet 0"),
    (section()[:8] + b"none" + section()[12:], "after packet 0: no block at octet 0"),
    (section() + struct.pack("<II", 6, 8) + bytes(4),
     "after packet 0: a block of 8 octets, where 12 are left"),
    (section() + struct.pack("<II", 6, 0) + bytes(40),
     "after packet 0: a block of 0 octets, where 48 are left"),
    (section() + struct.pack("<II", 9, 14) + bytes(40),
     "after packet 0: a block of 14 octets, where 48 are left"),
    (section() + struct.pack("<II", 9, 0xFFFFFFFC) + bytes(4),
     "after packet 0: a block of 4,294,967,292 octets, where 12 are left"),
    (section() + block(1, b"abcd"), "after packet 0: an interface of 4 octets"),
    (section() + interface() + block(6, bytes(16)), "packet 1: its block ends in its header"),
    (section() + interface() + block(3, b""), "packet 1: its block ends in its header"),
    (section() + enhanced(b""), "packet 1: interface 0 is not described"),
    (section() + simple(b""), "packet 1: interface 0 is not described"),
    (section() + interface() + enhanced(b"", 0xFFFFFFFF),
     "packet 1: interface 4294967295 is not described"),
    (section() + interface() + enhanced(b"") + simple(b"", 9),
     "packet 2: 9 octets, where its block has 0"),
    (section() + interface() + block(6, struct.pack("<IIIII", 0, 0, 0, 1 << 31, 0)),
     "packet 1: 2,147,483,648 octets, where its block has 0"),
    (section() + interface() + block(6, struct.pack("<IIIII", 0, 0, 0, 5, 5) + b"abcd"),
     "packet 1: 5 octets, where its block has 4"),
])
def test_broken_pcapng(tmp_path: Path, data: bytes, said: str) -> None:
    assert refused(tmp_path, data) == said


@pytest.mark.parametrize("text", [
    payload(2).hex(), payload(2).hex().upper() + "\n", payload(2).hex(" "),
    "\t" + payload(2).hex("\n", 16) + "\r\n\r\n", " ".join(payload(2).hex()),
])
def test_hex(tmp_path: Path, text: str) -> None:
    """As perfdhcp takes it: digits and blanks only; whatever the type, it is taken."""
    assert found(tmp_path, text.encode()) == payload(2)


@pytest.mark.parametrize(("data", "said"), [
    (b"", "has no hex digits"), (b" \n\t ", "has no hex digits"),
    (b"0102\n03:04\n", "line 2: ':' is no hex digit"), (b"0x01", "line 1: 'x' is no hex digit"),
    (b"\x1f\x8b\x08\0", "line 1: '\\x1f' is no hex digit"), (b"01\0", "line 1: '\\x00' is no"),
    (b"\xef\xbb\xbf01", "line 1: 'ï' is no hex digit"), (b"01 \xc2\xb2", "line 1: 'Â' is no hex"),
    (b"012", "3 hex digits, which is an odd number"), (b"01", "1 octets, where"),
    (payload().hex()[:478].encode(), "239 octets, where"),
    (ethernet(payload()).hex().encode(), "octets 236 to 239 are"),
    (b"00" * 65508, "65,508 octets, where UDP carries 65,507"),
    (raw(b"\x35\1").hex().encode(), "option 53 goes past the end of the message"),
    (raw(opt(43, bytes(251)) * 5).hex().encode(), "more than 1,200 octets of options"),
    (b"\xa1\xb2\xc3", "line 1: '¡' is no hex digit"),
])
def test_what_is_no_hex(tmp_path: Path, data: bytes, said: str) -> None:
    assert refused(tmp_path, data).startswith(said)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file"),
                       (tmp_path / "a\0b", "no such name"), (tmp_path / ("n" * 300), "too long")):
        with pytest.raises(UserError, match=f"cannot be read: .*{said}"):
            read_payload(path, "discover")


def test_a_file_too_large_and_one_without_end(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(pcap([ethernet(payload())]))
        file.truncate(MOST_FILE_OCTETS + 1)
    for each in (path, Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{each}: more than 64 MiB"):
            read_payload(each, "discover")
    os.truncate(path, MOST_FILE_OCTETS)
    assert read_payload(path, "discover") == payload()


@pytest.mark.parametrize("kind", ["offer", "", "DISCOVER", "1", "renew"])
def test_other_kinds(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError) as info:
        read_payload(saved(tmp_path, pcap([])), kind)
    assert repr(kind) in info.value.what and "discover" in info.value.remedy


# A payload taken apart.

def test_split_keeps_order_repetition_and_what_follows() -> None:
    options = opt(12, b"a") + b"\0\0" + opt(53, b"\3") + opt(12, b"b", b"") + b"\xff" + b"\0rest"
    parts = split(raw(options))
    assert parts.header == raw(b"")
    assert parts.options == [(12, b"a"), (53, b"\3"), (12, b"b"), (12, b"")]
    assert parts.trailing == b"\0rest"
    assert split(raw(b"")) == (raw(b""), [], b"") and split(raw(b"\0\0")).options == []
    assert split(raw(opt(43, bytes(255)) * 4 + opt(43, bytes(170)))).trailing == b""


def test_the_bound_of_options() -> None:
    most = opt(43, bytes(238)) * 5
    assert len(most) == 1200 and message_parts(raw(most + b"\xff"))[1] == most
    # Pads are none.
    assert message_parts(raw(most + bytes(3000)))[1] == most
    with pytest.raises(UserError, match="1,200"):
        message_parts(raw(most + b"\x35\0"))


def test_message_parts() -> None:
    head = bytes(range(1, 237)) + COOKIE
    octets = (opt(53, b"\3") + b"\0" + opt(50, bytes(4)) + opt(61, b"\1" + MAC) + opt(54, bytes(4))
              + opt(55, b"\1", b"\3") + opt(82, b"\1\2ab") + opt(224, b"x") + b"\xff\0\0")
    cleared = bytearray(head)
    for at in (*range(4, 8), *range(8, 10), *range(12, 20), *range(24, 44)):
        cleared[at] = 0
    fixed, options = message_parts(head + octets)
    assert fixed == bytes(cleared)
    assert options == opt(53, b"\3") + opt(61, b"\1" + MAC) + opt(55, b"\1", b"\3") + opt(224, b"x")
    assert message_parts(head + octets, {61, 55}) == (fixed, opt(53, b"\3") + opt(224, b"x"))
    assert message_parts(head + octets, frozenset(range(256))) == (fixed, b"")


def test_overloaded_fields_stay() -> None:
    made = Message(chaddr=MAC, options={53: b"\1", 60: b"v" * 100, 43: b"w" * 40})
    fixed, options = message_parts(made.encode(max_size=300))
    assert Message.decode(fixed + options + b"\xff").options == {**made.options, 52: b"\1"}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([0, 235, 236, 239, 240]), st.sets(
    st.integers(0, 255), max_size=3))
def test_any_octets_are_taken_apart_or_refused(octets: bytes, size: int, drop: set[int]) -> None:
    """And what comes out reads as the same options, without those left out."""
    octets = raw(b"")[:size] + octets
    try:
        fixed, options = message_parts(octets, drop)
    except UserError:
        return
    assert len(fixed) == 240 and fixed[236:] == COOKIE
    kept = [(code, value) for code, value in split(octets).options
            if code not in {50, 54, 82} | drop]
    assert split(fixed + options) == (fixed, kept, b"")


CAPTURES = [
    pcap([ethernet(b"x"), ethernet(payload(), vlans=(7,))]),
    pcap([bytes(14) + b"\x08\0" + PACKET], 113, ">"),
    section() + interface() + simple(b"x" * 30) + old(b"y") + enhanced(ethernet(payload())),
    section(">") + interface(276, order=">") + enhanced(b"\x08\0" + bytes(18) + PACKET, order=">"),
    payload().hex(" ").encode(),
]
PIECES = st.binary(max_size=8) | st.sampled_from([bytes(4), b"\xff\xff\xff\xff", b"\x7f"])
EDITS = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 8), PIECES), max_size=5)


@settings(max_examples=400, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CAPTURES), EDITS, st.integers(0, 900))
def test_damaged_files(tmp_path: Path, data: bytes, edits: list[tuple[int, int, bytes]],
                       cut: int) -> None:
    """Read or refused, and nothing else; what is read can be taken apart."""
    octets = bytearray(data)
    for at, size, new in edits:
        octets[at:at + size] = new
    path = saved(tmp_path, bytes(octets[:cut] if cut < 700 else octets))
    try:
        read = read_payload(path, "discover")
    except UserError as error:
        assert error.what.startswith(f"{path}: ") and error.what.isprintable()
    else:
        assert len(message_parts(read)[0]) == 240


@pytest.mark.skipif(not shutil.which("editcap"), reason="editcap is not installed")
@pytest.mark.parametrize("form", ["pcap", "nsecpcap", "pcapng"])
def test_files_of_wireshark(tmp_path: Path, form: str) -> None:
    source, target = saved(tmp_path, CAPTURES[0]), tmp_path / "other"
    subprocess.run(["editcap", "-F", form, str(source), str(target)], check=True, timeout=60,
                   capture_output=True)
    assert read_payload(target, "discover") == payload()


def test_no_compiled_code_is_needed() -> None:
    code = "import sys, tester.payloads; print({'numba', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
