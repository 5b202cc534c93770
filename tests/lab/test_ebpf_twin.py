"""What ebpf/dhcp.h says of frames that really cross a wire, against its naive twin.

Frames go out by a socket, by our ring, and by our ring with all but the Ethernet header left in
pages of it: what the kernel then holds looks quite different, and must be read the same.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpf.probe import COUNTS, HOPS, IN, KINDS, LINK, OUT, TIMED, End, Part, Probe
from fastpath.elsewhere import within
from fastpath.ring import Ring
from fastpath.slots import G_FRAME, G_HEAD, G_SIZE, tx_commit, tx_start
from tests.ebpf_twin import (
    BOOTP,
    DISCOVER,
    FRAGMENT,
    INFORM,
    MALFORMED,
    OTHER,
    OTHER_TYPE,
    Shape,
    arriving,
    frame,
    shapes,
    twin,
)
from tests.peers.net import INTERFACE, two_namespaces, wait_until

pytestmark = [pytest.mark.root, pytest.mark.bcc]

# Frames whose checksums a CPU verifies in one tick (path.c, CHECKS), and two ticks of the slowest
# clock there is (CONFIG_HZ=100).
BUDGET = 64
TICKS_S = 0.021
_NUMBERS = itertools.count(1)
Send = Callable[[Sequence[bytes]], None]
_MESSAGES = {DISCOVER: 0, KINDS.index("offer"): 1, KINDS.index("request"): 2,
             KINDS.index("ack"): 3, KINDS.index("nak"): 3}


class Wire:
    """Two namespaces, a probe on both ends between them, and ways to send."""

    def __init__(self, probe: Probe, ways: dict[str, Send]) -> None:
        self.probe, self.ways = probe, ways
        self.sent = 0
        self._last_s = time.monotonic()

    def send(self, way: str, octets: Sequence[bytes]) -> np.ndarray:
        """Send them, and return what was counted of them: COUNTS by end and direction, and the
        messages timed on the link, by TIMED."""
        assert len(octets) <= BUDGET
        time.sleep(max(0.0, self._last_s + TICKS_S - time.monotonic()))
        before = self.probe.read()
        self.ways[way](octets)
        expected = sum(arriving(each) is not None for each in octets)
        there = before.counts[1, IN]["packets"].sum() + expected
        wait_until("frames to arrive", lambda: bool(
            self.probe.read().counts[1, IN]["packets"].sum() >= there))
        self._last_s = time.monotonic()
        after = self.probe.read()
        found = np.zeros((2, 2), COUNTS)
        for name in COUNTS.names or ():
            found[name] = after.counts[name] - before.counts[name]
        self.timed = (after.times["count"] - before.times["count"])[1, IN, LINK]
        assert not (after.times["twice"] - before.times["twice"]).any()
        return found


def _by_socket(sender: socket.socket) -> Send:
    def send(octets: Sequence[bytes]) -> None:
        for each in octets:
            sender.send(each)
    return send


def _by_ring(ring: Ring, in_pages: bool) -> Send:
    def send(octets: Sequence[bytes]) -> None:
        for each in octets:
            start = tx_start(ring.tx)
            assert start >= 0
            at = int(ring.tx.geometry[G_HEAD] * ring.tx.geometry[G_SIZE]
                     + ring.tx.geometry[G_FRAME])
            ring.tx.mem[start:start + len(each)] = np.frombuffer(each, np.uint8)
            tx_commit(ring.tx, len(each))
            if in_pages:
                # virtio_net_hdr.hdr_len: as much of it is copied to the socket buffer itself.
                ring.tx.halves[(at + 2) >> 1] = 14
            ring.kick()
    return send


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with two_namespaces(server_address="") as net:
        for namespace in (net.client, net.server):
            namespace.ip(f"link set {INTERFACE} mtu 4000\n")
        ends = [End(net.client.name, INTERFACE, 1, 1, Part.CLIENT),
                End(net.server.name, INTERFACE, 2, 1, Part.SERVER)]
        with Probe(ends) as probe:
            sender = within(net.client.name, lambda: socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, 0))
            with sender, within(net.client.name, lambda: Ring(INTERFACE, (67,), slots=256)) as ring:
                sender.bind((INTERFACE, 0))
                yield Wire(probe, {"socket": _by_socket(sender), "ring": _by_ring(ring, False),
                                   "pages": _by_ring(ring, True)})


def expected(octets: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(counts by end and direction, messages timed on the link) of these frames."""
    found, timed = np.zeros((2, 2), COUNTS), np.zeros(len(TIMED), np.uint64)
    for each in octets:
        seen, there = twin(each), arriving(each)
        for place in ((0, OUT), (1, IN))[:2 if there is not None else 1]:
            found["packets"][*place, seen.kind] += 1
            found["bytes"][*place, seen.kind] += len(each)
            if seen.hops >= 0:
                found["hops"][*place, min(seen.hops, HOPS - 1)] += 1
        if there is not None and seen.kind != OTHER:
            # The sums are of the frame as it stands there.
            sums = twin(there)
            found["checked"][1, IN] += 1
            found["bad_header"][1, IN] += sums.bad_header
            found["bad_udp"][1, IN] += sums.bad_udp
        if seen.kind in _MESSAGES:
            timed[_MESSAGES[seen.kind]] += 1
    return found, timed


def compare(wire: Wire, way: str, octets: Sequence[bytes]) -> None:
    found = wire.send(way, octets)
    wanted, timed = expected(octets)
    for name in COUNTS.names or ():
        assert found[name].tolist() == wanted[name].tolist(), (name, [o.hex() for o in octets])
    assert wire.timed.tolist() == timed.tolist()


def alone(shape: Shape) -> bytes:
    """The frame, of an exchange that no other frame is of."""
    return frame(replace(shape, xid=next(_NUMBERS)))


@pytest.mark.parametrize("way", ["socket", "ring", "pages"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(made=st.lists(shapes(), min_size=1, max_size=30))
def test_frames_of_all_kinds(wire: Wire, way: str, made: list[Shape]) -> None:
    compare(wire, way, [alone(shape) for shape in made])


OPTIONS = bytes((12, 2, 65, 66))
# (what, frame, kind); the twin is not asked, so that it does not judge itself.
ROWS: tuple[tuple[str, Shape, int], ...] = (
    ("plain", Shape(), DISCOVER),
    ("three tags", Shape(tags=(0x88A8, 0x8100, 0x8100)), DISCOVER),
    ("four tags: what is in it nobody knows", Shape(tags=(0x8100,) * 4), OTHER),
    ("IP options", Shape(words=15), DISCOVER),
    ("type last", Shape(options=OPTIONS * 60 + bytes((53, 1, 8, 255))), INFORM),
    ("type behind more options than are read", Shape(options=OPTIONS * 64 + bytes((53, 1, 8))),
     MALFORMED),
    ("type behind END", Shape(options=bytes((255, 53, 1, 1))), BOOTP),
    ("no options, no END", Shape(options=b""), BOOTP),
    ("padded", Shape(options=bytes(60)), BOOTP),
    ("a code, and nothing", Shape(options=OPTIONS + b"\x0c"), MALFORMED),
    ("overrun by one", Shape(options=bytes((12, 3, 65, 66))), MALFORMED),
    ("type 0", Shape(options=bytes((53, 1, 0))), MALFORMED),
    ("type 9", Shape(options=bytes((53, 1, 9))), OTHER_TYPE),
    ("type 255", Shape(options=bytes((53, 1, 255))), OTHER_TYPE),
    ("type of no octets", Shape(options=bytes((53, 0, 255))), MALFORMED),
    ("type of two octets", Shape(options=bytes((53, 2, 1, 1, 255))), MALFORMED),
    ("type inside another option", Shape(options=bytes((43, 3, 53, 1, 1, 255))), BOOTP),
    ("hlen 17", Shape(hlen=17), MALFORMED),
    ("op 3", Shape(op=3), MALFORMED),
    ("cookie", Shape(cookie=b"\x63\x82\x53\x62"), MALFORMED),
    ("first fragment", Shape(fragment=0x2000), FRAGMENT),
    ("do not fragment", Shape(fragment=0x4000), DISCOVER),
    ("to another port", Shape(port=53), OTHER),
    ("trailer of the link", Shape(size=400), DISCOVER),
    ("cut by one", Shape(size=14 + 20 + 8 + 240 + 3), MALFORMED),
    ("UDP length of a header", Shape(length=8), MALFORMED),
    ("UDP length beyond the packet", Shape(length=600), MALFORMED),
    ("UDP length short of the options", Shape(length=248), BOOTP),
    ("bigger than is looked at", Shape(options=bytes((53, 1, 1)) + (b"\x0c\xff" + bytes(255)) * 6),
     DISCOVER),
    ("bigger, and no DHCP", Shape(port=53, options=(b"\x0c\xff" + bytes(255)) * 6), OTHER),
)


@pytest.mark.parametrize(("shape", "kind"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_by_name(wire: Wire, shape: Shape, kind: int) -> None:
    octets = alone(shape)
    found = wire.send("socket", [octets])
    for place in ((0, OUT), (1, IN)):
        assert np.flatnonzero(found["packets"][place]).tolist() == [kind]
    compare(wire, "socket", [alone(shape)])


@pytest.mark.parametrize("size", [300, 301, 512, 513, 1024, 1025, 1472, 1480])
@pytest.mark.parametrize("flipped", [0, 1, 8, 100, -2, -1])
def test_any_wrong_octet_of_a_datagram_is_found(wire: Wire, size: int, flipped: int) -> None:
    """Of any length that fits an Ethernet frame: it is added up in pieces."""
    sound = alone(Shape(options=bytes((53, 1, 1, 255)) + bytes(range(1, 256)) * 5))
    shape = Shape(xid=next(_NUMBERS), options=bytes((53, 1, 1, 255))
                  + (bytes(range(1, 256)) * 5)[:size - 8 - 240 - 4])
    octets = bytearray(frame(shape))
    assert len(octets) == 34 + size
    assert wire.send("socket", [bytes(octets), sound])["bad_udp"][1, IN] == 0
    # Not the checksum's own octets, nor what makes it DHCP: the payload's.
    octets[flipped if flipped < 0 else 34 + 8 + 44 + flipped] ^= 0x40
    found = wire.send("socket", [bytes(octets)])
    assert found["bad_udp"][1, IN] == found["checked"][1, IN] == 1


def test_no_more_is_checked_than_the_budget(wire: Wire) -> None:
    """However many frames come, all are counted; sums are made of some."""
    before = wire.probe.read()
    octets = [alone(Shape(udp_sum="wrong")) for _ in range(3_000)]
    began = time.monotonic()
    wire.ways["socket"](octets)
    took_s = time.monotonic() - began
    wait_until("frames to arrive", lambda: bool(
        wire.probe.read().counts[1, IN]["packets"][DISCOVER]
        - before.counts[1, IN]["packets"][DISCOVER] == len(octets)))
    after = wire.probe.read()
    checked = int(after.counts[1, IN]["checked"] - before.counts[1, IN]["checked"])
    bad = int(after.counts[1, IN]["bad_udp"] - before.counts[1, IN]["bad_udp"])
    assert bad == checked
    # A kernel's clock ticks at most 1,000 times a second.
    assert 0 < checked <= BUDGET * (took_s * 1000 + 2)


def test_numbers_are_not_sampled_alike() -> None:
    """One exchange in 16, whichever way a load generator numbers clients and exchanges."""
    count, sample = 2_000, 16
    numberings: tuple[Callable[[int], tuple[int, int]], ...] = (
        lambda i: (i, i), lambda i: (i, 7), lambda i: (7, i), lambda i: (i + 1000, i + 0x50000))
    with two_namespaces(server_address="") as net:
        ends = [End(net.client.name, INTERFACE, 1, 1, Part.CLIENT),
                End(net.server.name, INTERFACE, 2, 1, Part.SERVER)]
        with Probe(ends, sample=sample) as probe, within(
                net.client.name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                       0)) as sender:
            sender.bind((INTERFACE, 0))
            for numbers in numberings:
                before = probe.read().times["count"][1, IN, LINK, 0]
                for i in range(count):
                    # On the wire the last octet counts up first.
                    xid, client = (int.from_bytes(n.to_bytes(4, "big"), "little")
                                   for n in numbers(i))
                    sender.send(frame(Shape(xid=xid, client=client)))
                wait_until("frames to arrive", lambda: bool(
                    probe.read().counts["packets"][1, IN, DISCOVER] % count == 0))
                timed = int(probe.read().times["count"][1, IN, LINK, 0] - before)
                assert count / sample * 0.6 < timed < count / sample * 1.5
