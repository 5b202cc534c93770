"""rtnetlink messages: what the kernel may say, and what it never should. No privilege needed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab import messages


@given(st.binary(max_size=200))
def test_attributes_end_whatever_the_octets(data: bytes) -> None:
    found = list(messages.attributes(data, 0))
    assert sum(4 + len(payload) for _, payload in found) <= len(data) + 4 * len(found)
    assert len(found) <= len(data) // 4


@pytest.mark.parametrize("data,found", [
    (b"", []),
    (b"\5\0\1", []),
    (struct.pack("=HH", 3, 1), []),                       # shorter than itself
    (struct.pack("=HH", 4, 7), [(7, b"")]),
    (struct.pack("=HHB3x", 5, 0x8002, 9), [(2, b"\x09")]),  # nested, and padded
    (struct.pack("=HHI", 60, 3, 1), [(3, b"\1\0\0\0")]),  # longer than the message
])
def test_attributes(data: bytes, found: list[tuple[int, bytes]]) -> None:
    assert list(messages.attributes(data, 0)) == found


@pytest.mark.parametrize("message", [
    messages.new_bridge("b", 5, 1500), messages.new_veth("odd", 6, "peer-name", 7, 3, 9000, 5),
    messages.set_link(6, up=True, alias="dhcp-netlab:x:y", learning=False, bridge=5),
    messages.get_links(counters=True), messages.get_link(1),
])
def test_what_is_packed_is_aligned_and_says_its_length(message: messages.Message) -> None:
    data = message.pack(17, messages.ACK)
    length, kind, flags, sequence, port = messages.HEADER.unpack_from(data)
    assert length == len(data) and length % 4 == 0
    assert (kind, flags, sequence, port) == (message.kind, message.flags | messages.ACK, 17, 0)


def test_a_link_of_a_kind_and_state_unknown_to_us() -> None:
    def attribute(kind: int, payload: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)

    body = (struct.pack("=BxHiII", 0, 1, 9, 0x1, 0) + attribute(3, b"eth9\0")
            + attribute(4, struct.pack("=I", 1280)) + attribute(16, b"\x63")
            + attribute(18, attribute(4, b"team\0")))
    seen = messages.read_link(body)
    assert (seen.index, seen.ifname, seen.mtu, seen.operstate) == (9, "eth9", 1280, "UNKNOWN")
    assert (seen.kind, seen.port_state, seen.counters, seen.carries) == ("", None, {}, False)
