"""The socket filter, run by the kernel itself, against a twin in Python.

A datagram socket of AF_UNIX runs the filter of its receiver over the payload, from its first
octet on: no privilege, no interface.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

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


def twin(data: bytes, ports: tuple[int, ...], neighbours: bool = False, tags: int = 2) -> bool:
    """A filter that reads past the end of a frame rejects it."""
    try:
        at, seen = 12, 0
        while word(data, at) in TPIDS and seen < tags:
            at, seen = at + 4, seen + 1
        ip = at + 2
        if word(data, at) == 0x0806:
            return neighbours
        if word(data, at) != 0x0800 or word(data, ip + 6) & 0x1FFF:
            return False
        inside = ip + (data[ip] & 15) * 4
        if data[ip + 9] == 1:
            return neighbours and data[inside] == 8
        return data[ip + 9] == 17 and word(data, inside + 2) in ports
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


PORTS: list[tuple[int, ...]] = [(67,), (68, 67), (67, 68, 1067, 1068)]
HOW: list[dict[str, Any]] = [{}, {"neighbours": True}, {"neighbours": True, "tags": 3},
                             {"tags": 3}, {"neighbours": True, "tags": 0}]


@pytest.fixture(params=[*((ports, {}) for ports in PORTS), *((PORTS[1], how) for how in HOW[1:])],
                ids=str)
def filtered(request: pytest.FixtureRequest) -> Iterator[tuple[Passes, Passes]]:
    """A filter and its twin."""
    ports, how = request.param
    for passes in passer(dhcp_filter(ports, **how)):
        yield passes, lambda data: twin(data, ports, **how)


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


def arp(vlans: int = 0) -> bytes:
    return GOOD[:12] + TAG * vlans + b"\x08\x06\0\1\x08\0\6\4\0\1" + bytes(20)


def ping(vlans: int = 0) -> bytes:
    """The filter looks at no checksum."""
    return GOOD[:12] + TAG * vlans + put(put(GOOD, 23, b"\1"), 34, b"\x08\0")[12:60]


NEIGHBOURS: list[tuple[str, bytes, bool]] = [
    *((f"ARP, {n} tags", arp(n), n <= 3) for n in range(5)),
    *((f"echo request, {n} tags", ping(n), n <= 3) for n in range(5)),
    *((f"DHCP, {n} tags", GOOD[:12] + TAG * n + GOOD[12:], n <= 3) for n in range(5)),
    ("ARP cut behind the ethertype", arp()[:14], True),
    ("ARP cut in the ethertype", arp()[:13], False),
    ("echo reply", put(ping(), 34, b"\0"), False),
    ("unreachable", put(ping(), 34, b"\3"), False),
    ("echo request of any code", put(ping(), 35, b"\1"), True),
    ("echo request, later fragment", put(ping(), 20, b"\0\1"), False),
    ("echo request, far fragment behind a tag", put(ping(1), 24, b"\x10\0"), False),
    ("echo request, first fragment", put(ping(), 20, b"\x20\0"), True),
    ("echo request, do not fragment", put(ping(), 20, b"\x40\0"), True),
    ("echo request behind IPv4 options",
     put(ping()[:34] + bytes(8) + ping()[34:], 14, b"\x47"), True),
    ("type where options are", put(ping()[:34] + bytes(8) + ping()[34:], 14, b"\x45"), False),
    ("echo request cut before its type", ping()[:34], False),
    ("echo request cut behind its type", ping()[:35], True),
    ("UDP, of which the first octet is 8", put(framed(53), 34, b"\x08"), False),
    ("ICMP, where the port would be ours", put(put(ping(), 34, b"\0"), 36, b"\0\x43"), False),
    ("IGMP", put(ping(), 23, b"\2"), False),
    ("RARP", put(arp(), 12, b"\x80\x35"), False),
]


@pytest.mark.parametrize(("data", "passed"), [row[1:] for row in NEIGHBOURS],
                         ids=[row[0] for row in NEIGHBOURS])
def test_neighbours(data: bytes, passed: bool) -> None:
    assert twin(data, (67,), True, 3) == passed
    for passes in passer(dhcp_filter((67,), neighbours=True, tags=3)):
        assert passes(data) == passed


OCTETS = st.builds(
    lambda port, vlans, payload: framed(port, vlans, payload),
    st.one_of(st.sampled_from([66, 67, 68, 69, 1067, 1068]), st.integers(0, 65535)),
    st.lists(st.integers(0, 4095), max_size=2).map(tuple), st.binary(max_size=20))
ASKED = st.builds(lambda make, vlans: make(vlans), st.sampled_from([arp, ping]), st.integers(0, 3))


@settings(deadline=None, max_examples=400,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(OCTETS, ASKED),
       st.lists(st.tuples(st.integers(12, 45), st.integers(0, 255)), max_size=3),
       st.integers(1, 120), st.sampled_from([b"", b"", TAG, b"\x88\xa8\0\1", b"\x91\0\0\1"]))
def test_generated_frames(filtered: tuple[Passes, Passes], data: bytes,
                          damage: list[tuple[int, int]], cut: int, tag: bytes) -> None:
    passes, expected = filtered
    made = bytearray(data)
    for at, octet in damage:
        if at < len(made):
            made[at] = octet
    made[12:12] = tag
    sent = bytes(made if cut > 60 else made[:cut])
    assert passes(sent) == expected(sent)


def test_nothing_passes_nothing() -> None:
    for passes in passer(NOTHING):
        assert not passes(GOOD)


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 8, 60])
def test_every_port_of_many(count: int, how: dict[str, Any]) -> None:
    ports = tuple(range(1000, 1000 + count))
    for passes in passer(dhcp_filter(ports, **how)):
        for vlans in ((), (1,), (1, 2))[:how.get("tags", 2) + 1]:
            assert [port for port in range(998, 1002 + count) if passes(framed(port, vlans))] \
                == [*ports]
