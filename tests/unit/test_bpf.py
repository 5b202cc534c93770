"""The socket filter, run by the kernel itself, against a twin in Python.

A datagram socket of AF_UNIX runs the filter of its receiver over the payload, from its first
octet on: no privilege, no interface.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.bpf import NOTHING, Instruction, attach, dhcp_filter
from fastpath.packet import Frame

Passes = Callable[[bytes], bool]
TPIDS = {0x8100, 0x88A8}


def word(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at:at + 2], "big")


def twin(data: bytes, ports: tuple[int, ...]) -> bool:
    """A filter that reads past the end of a frame rejects it."""
    try:
        at, tags = 12, 0
        while word(data, at) in TPIDS and tags < 2:
            at, tags = at + 4, tags + 1
        ip = at + 2
        if word(data, at) != 0x0800 or data[ip + 9] != 17 or word(data, ip + 6) & 0x1FFF:
            return False
        return word(data, ip + (data[ip] & 15) * 4 + 2) in ports
    except IndexError:
        return False


def passer(program: list[Instruction]) -> Iterator[Passes]:
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.setblocking(False)
        attach(receiver, program)

        def passes(data: bytes) -> bool:
            try:
                sender.send(data)
            except PermissionError:  # how AF_UNIX says that the filter refused
                return False
            try:
                got = receiver.recv(65536)
            except BlockingIOError:
                return False
            assert got == data, "a frame that passes is passed whole"
            return True

        yield passes


@pytest.fixture(params=[(67,), (68, 67), (67, 68, 1067, 1068)], ids=str)
def filtered(request: pytest.FixtureRequest) -> Iterator[tuple[Passes, tuple[int, ...]]]:
    for passes in passer(dhcp_filter(request.param)):
        yield passes, request.param


def framed(port: int = 67, vlans: tuple[int, ...] = (), payload: bytes = b"x" * 240) -> bytes:
    return Frame(src_mac=b"\2abcde", vlans=vlans, src_ip=IPv4Address("192.0.2.9"), dst_port=port,
                 payload=payload).encode()


def put(data: bytes, at: int, octets: bytes) -> bytes:
    return data[:at] + octets + data[at + len(octets):]


GOOD = framed()
TAG = b"\x81\0\0\x05"
ROWS: list[tuple[str, bytes, bool]] = [
    ("a DHCP frame", GOOD, True),
    ("one tag", framed(vlans=(5,)), True),
    ("two tags", framed(vlans=(5, 6)), True),
    ("two tags of 802.1Q", GOOD[:12] + TAG + TAG + GOOD[12:], True),
    ("three tags", GOOD[:12] + TAG * 3 + GOOD[12:], False),
    ("another port", framed(53), False),
    ("another port behind a tag", framed(53, (5,)), False),
    ("another port behind two tags", framed(53, (5, 6)), False),
    ("ARP", put(GOOD, 12, b"\x08\x06"), False),
    ("ARP behind a tag", GOOD[:12] + TAG + put(GOOD, 12, b"\x08\x06")[12:], False),
    ("ARP behind two tags", GOOD[:12] + TAG * 2 + put(GOOD, 12, b"\x08\x06")[12:], False),
    ("IPv6", put(GOOD, 12, b"\x86\xdd"), False),
    ("TCP", put(GOOD, 23, b"\6"), False),
    ("TCP behind a tag", GOOD[:12] + TAG + put(GOOD, 23, b"\6")[12:], False),
    ("first fragment: for the frame check to count", put(GOOD, 20, b"\x20\0"), True),
    ("later fragment", put(GOOD, 20, b"\0\1"), False),
    ("do not fragment", put(GOOD, 20, b"\x40\0"), True),
    ("IPv4 options", put(GOOD[:34] + bytes(8) + GOOD[34:], 14, b"\x47"), True),
    ("port where options are", put(GOOD[:34] + bytes(8) + GOOD[34:], 14, b"\x45"), False),
    ("cut before the port", GOOD[:37], False),
    ("cut behind the port", GOOD[:38], True),
    ("cut in the tag", framed(vlans=(5,))[:17], False),
    ("no octet", b"\0", False),
]


@pytest.mark.parametrize(("data", "passed"), [row[1:] for row in ROWS],
                         ids=[row[0] for row in ROWS])
def test_row(data: bytes, passed: bool) -> None:
    assert twin(data, (67,)) == passed
    for passes in passer(dhcp_filter((67,))):
        assert passes(data) == passed


OCTETS = st.builds(
    lambda port, vlans, payload: framed(port, vlans, payload),
    st.one_of(st.sampled_from([66, 67, 68, 69, 1067, 1068]), st.integers(0, 65535)),
    st.lists(st.integers(0, 4095), max_size=2).map(tuple), st.binary(max_size=20))


@settings(deadline=None, max_examples=400,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OCTETS, st.lists(st.tuples(st.integers(12, 45), st.integers(0, 255)), max_size=3),
       st.integers(1, 120), st.sampled_from([b"", b"", TAG, b"\x88\xa8\0\1", b"\x91\0\0\1"]))
def test_generated_frames(filtered: tuple[Passes, tuple[int, ...]], data: bytes,
                          damage: list[tuple[int, int]], cut: int, tag: bytes) -> None:
    passes, ports = filtered
    made = bytearray(data)
    for at, octet in damage:
        if at < len(made):
            made[at] = octet
    made[12:12] = tag
    sent = bytes(made if cut > 60 else made[:cut])
    assert passes(sent) == twin(sent, ports)


def test_nothing_passes_nothing() -> None:
    for passes in passer(NOTHING):
        assert not passes(GOOD)


@pytest.mark.parametrize("count", [1, 2, 8, 60])
def test_every_port_of_many(count: int) -> None:
    ports = tuple(range(1000, 1000 + count))
    for passes in passer(dhcp_filter(ports)):
        for vlans in ((), (1,), (1, 2)):
            assert [port for port in range(998, 1002 + count) if passes(framed(port, vlans))] \
                == [*ports]
