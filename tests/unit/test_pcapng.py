"""The pcapng writer against a reader of its own, written from the same draft."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import SystemRefused
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wire import MessageType
from netlab import pcapng
from netlab.capture import Captured, Line, Recording, lines
from netlab.commands.capture import describe
from netlab.pcapng import INBOUND, OUTBOUND, Interface
from netlab.tap import Heard, filter_of
from netlab.topology import relay, star


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each block; fails where the two lengths differ or something is left."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0 and length >= 12
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        yield kind, data[at + 8:at + length - 4]
        at += length
    assert at == len(data)


def options(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while True:
        code, length = struct.unpack_from("<HH", body, at)
        if code == 0:
            assert length == 0 and at + 4 == len(body)
            return found
        found[code] = body[at + 4:at + 4 + length]
        at += 4 + length + -length % 4


@given(st.binary(max_size=300), st.integers(0, 2**63), st.integers(0, 1000),
       st.sampled_from((INBOUND, OUTBOUND)))
def test_a_packet_comes_back(frame: bytes, time_ns: int, number: int, direction: int) -> None:
    ((kind, body),) = blocks(pcapng.packet(number, time_ns, frame, 70_000, direction))
    interface, high, low, kept, length = struct.unpack_from("<IIIII", body)
    assert (kind, interface, high << 32 | low, kept, length) == (
        6, number, time_ns, len(frame), 70_000)
    assert body[20:20 + kept] == frame
    assert options(body[20 + kept + -kept % 4:]) == {2: struct.pack("<I", direction)}


@given(st.text(max_size=50), st.text(max_size=50))
def test_an_interface_says_its_name_and_nanoseconds(name: str, words: str) -> None:
    ((kind, body),) = blocks(pcapng.interface(Interface(name, "what it is", words, 96)))
    assert (kind, struct.unpack_from("<HHI", body)) == (1, (1, 0, 96))
    found = options(body[8:])
    assert found.get(2, b"") == name.encode("utf-8", "replace")
    assert found[9] == b"\x09"
    assert found.get(11, b"") == (b"\0" + words.encode("utf-8", "replace") if words else b"")


@pytest.mark.parametrize("length", [65_533, 65_534, 65_535, 200_000])
def test_a_name_longer_than_an_option_is_cut_between_characters(length: int) -> None:
    for letter in "aé€":
        ((_, body),) = blocks(pcapng.interface(Interface(letter * length)))
        assert set(options(body[8:])[2].decode()) == {letter}


def test_statistics() -> None:
    ((kind, body),) = blocks(pcapng.statistics(3, 1 << 40, 2 << 40, 100, 7, "why"))
    assert (kind, struct.unpack_from("<III", body)) == (5, (3, 512, 0))
    found = options(body[12:])
    assert found[1] == b"why"
    assert {code: struct.unpack("<Q", found[code])[0] for code in (4, 7, 8)} == {
        4: 107, 7: 7, 8: 100}


@given(st.lists(st.integers(0, 60), max_size=5), st.data())
def test_whole_finds_the_last_block_that_is(sizes: list[int], data: st.DataObject) -> None:
    each = [pcapng.packet(0, 0, bytes(size), size, INBOUND) for size in sizes]
    text = b"".join(each)
    written = data.draw(st.integers(0, len(text)))
    ends = [sum(map(len, each[:count])) for count in range(len(each) + 1)]
    assert pcapng.whole(text, written) == max(end for end in ends if end <= written)


LINES = [Line("a.eth0", "", (("a", "eth0", INBOUND),))]


def frames(count: int, size: int = 100) -> list[Captured]:
    return [Captured(Heard(i, 0, bytes(size), size, True), 0, INBOUND) for i in range(count)]


def test_a_recording_is_whole_at_every_moment(tmp_path: Path) -> None:
    place = tmp_path / "new.pcapng"
    with Recording(str(place), LINES, "udp", 0) as recording:
        for count in range(3):
            kinds = [kind for kind, _ in blocks(place.read_bytes())]
            assert kinds == [0x0A0D0D0A, 1, *[6] * count]
            assert recording.size == place.stat().st_size
            recording.add(frames(1))
        recording.finish(0, [5])
    *_, (kind, body) = blocks(place.read_bytes())
    assert kind == 5 and struct.unpack("<Q", options(body[12:])[7]) == (5,)


@pytest.mark.parametrize("room", [0, 3, 150, 1000, 5000])
def test_a_full_disk_leaves_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         room: int) -> None:
    """The device takes `room` octets more and then none, as ext4 and tmpfs do."""
    place = tmp_path / "full.pcapng"
    true_write, left = os.write, room

    def write(descriptor: int, octets: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        taken = true_write(descriptor, octets[:left])
        left -= taken
        return taken

    with Recording(str(place), LINES, "", 0) as recording:
        monkeypatch.setattr("netlab.capture.os", SimpleNamespace(
            write=write, ftruncate=os.ftruncate, close=os.close))
        with pytest.raises(SystemRefused, match="No space left") as refused:
            recording.add(frames(100))
    assert "can be read" in refused.value.remedy
    assert sum(kind == 6 for kind, _ in blocks(place.read_bytes())) == room // 144


@pytest.mark.parametrize("place", ["/nowhere/at/all", "/", "/dev/full"])
def test_what_cannot_be_written_is_said(place: str) -> None:
    with pytest.raises(SystemRefused, match=f"cannot write {place}: "):
        Recording(place, LINES, "", 0)


def journal(topology: Any) -> Any:
    return SimpleNamespace(topology=topology, lab="x")


@pytest.mark.parametrize("words, expected", [
    ((), ["client.eth0", "relay1.eth1", "relay2.eth1"]),
    (("relay1.eth0",), ["relay1.eth0"]),
    (("relay1:eth0", "client.eth0"), ["relay1.eth0"]),
    (("relay1",), ["relay1.eth0", "relay1.eth1"]),
    (("net1",), ["relay1.eth1", "relay2.eth0"]),
])
def test_what_a_word_means(words: tuple[str, ...], expected: list[str]) -> None:
    assert [line.name for line in lines(journal(relay(2)), words)] == expected


def test_a_port_of_a_bridge_means_the_link_it_ends() -> None:
    (line,) = lines(journal(star(2)), ("switch:server",))
    assert line.name == "server.eth0"
    assert line.ends == (("server", "eth0", INBOUND), ("switch", "server", OUTBOUND))


def test_a_segment_is_heard_where_frames_enter_it() -> None:
    found = lines(journal(star(2)), ("core",))
    assert [line.name for line in found] == ["server.eth0", "relay1.eth1", "relay2.eth1"]
    assert {end for line in found for end in line.ends} == {
        ("switch", port, OUTBOUND) for port in ("server", "relay1", "relay2")}


@pytest.mark.parametrize("word", ["", "nobody", "relay1.eth9", "relay1:", ":eth0", "relay1.eth0 ",
                                  "a\x1b[31m", "switch."])
def test_unknown_words_are_refused(word: str) -> None:
    from fastpath.errors import UserError

    with pytest.raises(UserError, match="no link, segment or node") as refused:
        lines(journal(relay(1)), (word,))
    assert "lan, net1, client.eth0" in refused.value.remedy


def test_the_filter_keeps_so_many_octets() -> None:
    for which in ("dhcp", "all"):
        kept = {k for code, _, _, k in filter_of(which, 77) if code == 6}
        assert kept - {0} == {77}


def discover(**more: Any) -> bytes:
    message = Message(xid=0x1234, hops=2, chaddr=bytes(range(6)), **more)
    message.set(53, MessageType.DISCOVER)
    return message.encode()


def test_a_message_in_a_line() -> None:
    said = describe(Frame(payload=discover(), vlans=(7,)).encode(), 300 + 46)
    assert said.startswith("DISCOVER xid 0x00001234 chaddr 00:01:02:03:04:05 hops 2")
    assert said.endswith("0.0.0.0 to 255.255.255.255 vlan 7")


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_octets_are_one_printable_line(octets: bytes, length: int) -> None:
    for frame in (octets, Frame(payload=octets).encode(),
                  Frame(payload=discover()[:240] + octets).encode()):
        assert describe(frame, length).isprintable()
