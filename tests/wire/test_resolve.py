"""Finding a server's Ethernet address: the kernel's own ARP, and peers that answer wrongly."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import numpy as np
import pytest

from fastpath.errors import SystemRefused
from fastpath.ring import Ring
from fastpath.slots import rx_bounds, rx_outer_tag, rx_peek, rx_release, tx_commit, tx_start
from tester.resolve import server_mac
from tests.ours import entered
from tests.peers.net import INTERFACE, Net, two_namespaces

pytestmark = pytest.mark.root

KERNEL, OTHER = IPv4Address("10.16.0.1"), IPv4Address("10.16.0.7")
SOURCE, SOURCE_MAC = IPv4Address("10.16.0.99"), b"\x02\0\0\0\0\x63"
THEIRS, ROGUE = b"\x02\xaa\0\0\0\1", b"\x02\xee\0\0\0\1"
Tags = tuple[tuple[int, int], ...]
Respond = Callable[[bytes], list[bytes]]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        with peer(net, lambda _: [answer()]):
            ask(net, timeout_s=60, tries=60)  # first use compiles
        yield net


def arp(op: int, sender: bytes, holder: IPv4Address, target: bytes, asked: IPv4Address, *,
        to: bytes = SOURCE_MAC, tags: Tags = (), form: bytes = b"\0\1\x08\0\6\4") -> bytes:
    return (to + sender + b"".join(struct.pack(">HH", *tag) for tag in tags) + b"\x08\x06" + form
            + struct.pack(">H", op) + sender + holder.packed + target + asked.packed)


def question(server: IPv4Address, tags: Tags = ()) -> bytes:
    return arp(1, SOURCE_MAC, SOURCE, bytes(6), server, to=b"\xff" * 6, tags=tags)


def answer(tags: Tags = (), mac: bytes = THEIRS) -> bytes:
    return arp(2, mac, OTHER, SOURCE_MAC, SOURCE, tags=tags)


class Peer:
    """A station in the server's namespace that notes what it hears and says what it is told."""

    def __init__(self, ring: Ring, respond: Respond) -> None:
        self.heard: list[bytes] = []
        self._ring, self._respond = ring, respond
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            self._ring.wait(0.02)
            self.listen()

    def listen(self) -> None:
        rx, tx = self._ring.rx, self._ring.tx
        while (base := rx_peek(rx, 0)) >= 0:
            start, end = rx_bounds(rx, base)
            octets, tag = bytes(rx.mem[start:end]), rx_outer_tag(rx, base)
            rx_release(rx, 1)
            if tag >= 0:
                octets = octets[:12] + struct.pack(">I", tag) + octets[12:]
            self.heard.append(octets)
            for each in self._respond(octets):
                at = tx_start(tx)
                tx.mem[at:at + len(each)] = np.frombuffer(each, np.uint8)
                tx_commit(tx, len(each))
            self._ring.kick()

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self.listen()


@contextlib.contextmanager
def peer(net: Net, respond: Respond = lambda _: []) -> Iterator[Peer]:
    with entered(net.server):
        ring = Ring(INTERFACE, (67,), slots=64, promiscuous=True, neighbours=True, tags=3)
    with ring, Peer(ring, respond) as station:
        yield station


def ask(net: Net, server: IPv4Address = OTHER, timeout_s: float = 3.0, tries: int = 3,
        tags: Tags = ()) -> bytes:
    with entered(net.client):
        return server_mac(INTERFACE, server, SOURCE, SOURCE_MAC, timeout_s, tries, tags)


def test_the_kernel_answers(net: Net) -> None:
    start = time.monotonic()
    with peer(net) as station:
        assert ask(net, KERNEL).hex(":") == net.server.mac()
    assert time.monotonic() - start < 0.9, "the first request is answered"
    assert station.heard == [question(KERNEL)]


def test_the_kernel_answers_a_probe(net: Net) -> None:
    """From 0.0.0.0 (RFC 5227): duplicate address detection asks so."""
    with entered(net.client):
        mac = server_mac(INTERFACE, KERNEL, IPv4Address(0), SOURCE_MAC)
    assert mac.hex(":") == net.server.mac()


@pytest.mark.parametrize("tries", [1, 3])
def test_nobody_answers(net: Net, tries: int) -> None:
    start = time.monotonic()
    with peer(net) as station, pytest.raises(SystemRefused) as refused:
        ask(net, timeout_s=0.3, tries=tries)
    assert 0.3 <= time.monotonic() - start < 1
    assert refused.value.what == "no answer to ARP for 10.16.0.7 on eth0"
    assert "--server-mac" in refused.value.remedy and "\n" not in refused.value.remedy
    assert station.heard == [question(OTHER)] * tries


def test_the_last_try_is_answered(net: Net) -> None:
    asked: list[bytes] = []

    def respond(frame: bytes) -> list[bytes]:
        asked.append(frame)
        return [answer()] if len(asked) == 3 else []

    with peer(net, respond):
        assert ask(net, timeout_s=0.6) == THEIRS
    assert asked == [question(OTHER)] * 3


WRONG: list[tuple[str, bytes]] = [
    ("another's address", arp(2, ROGUE, KERNEL, SOURCE_MAC, SOURCE)),
    ("to another's address", arp(2, ROGUE, OTHER, SOURCE_MAC, IPv4Address("10.16.0.98"))),
    ("to another station", arp(2, ROGUE, OTHER, ROGUE, SOURCE, to=ROGUE)),
    ("a request", arp(1, ROGUE, OTHER, SOURCE_MAC, SOURCE)),
    ("an announcement", arp(1, ROGUE, OTHER, bytes(6), OTHER, to=b"\xff" * 6)),
    ("broadcast as the holder", arp(2, b"\xff" * 6, OTHER, SOURCE_MAC, SOURCE)),
    ("a group as the holder", arp(2, b"\1\0\x5e\0\0\1", OTHER, SOURCE_MAC, SOURCE)),
    ("another hardware type", arp(2, ROGUE, OTHER, SOURCE_MAC, SOURCE, form=b"\0\6\x08\0\6\4")),
    ("another protocol", arp(2, ROGUE, OTHER, SOURCE_MAC, SOURCE, form=b"\0\1\x86\xdd\6\4")),
    ("other lengths", arp(2, ROGUE, OTHER, SOURCE_MAC, SOURCE, form=b"\0\1\x08\0\4\6")),
    ("cut", answer(mac=ROGUE)[:-1]),
    ("only an ethertype", answer(mac=ROGUE)[:14]),
    ("tagged", answer(((0x8100, 5),), mac=ROGUE)),
    ("tagged four times", answer(((0x8100, 5),) * 4, mac=ROGUE)),
    ("a tag and no end", answer()[:12] + b"\x81\0\0\5\x81\0"),
]


@pytest.mark.parametrize("wrong", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_answer_is_passed_over(net: Net, wrong: bytes) -> None:
    with peer(net, lambda frame: [wrong, answer()] if frame == question(OTHER) else []) as station:
        assert ask(net) == THEIRS
    assert station.heard == [question(OTHER)], "the wrong ones did not let us ask again"


def test_an_answer_with_ethernet_padding(net: Net) -> None:
    with peer(net, lambda _: [answer() + bytes(18)]):
        assert ask(net) == THEIRS


TAGGED: list[Tags] = [((0x8100, 100),), ((0x88A8, 100), (0x8100, 0x6FFF)),
                      ((0x88A8, 1), (0x8100, 2), (0x8100, 3))]


@pytest.mark.parametrize("tags", TAGGED, ids=len)
def test_tags(net: Net, tags: Tags) -> None:
    """Answers of other VLANs do not count; another priority does not matter."""
    others = [(), tags[:-1], (*tags[:-1], (tags[-1][0], tags[-1][1] ^ 1)),
              ((tags[0][0] ^ 0x8100 ^ 0x88A8, tags[0][1]), *tags[1:]), (*tags, (0x8100, 9))]
    right = tuple((tpid, tci ^ 0x2000) for tpid, tci in tags)
    with peer(net, lambda _: [*(answer(wrong, ROGUE) for wrong in others if len(wrong) <= 3),
                              answer(right)]) as station:
        assert ask(net, tags=tags) == THEIRS
    assert station.heard == [question(OTHER, tags)]


def test_no_answer_in_a_vlan_says_which(net: Net) -> None:
    with pytest.raises(SystemRefused, match=r"10\.16\.0\.1 on eth0 vlan 100 vlan 4095$"):
        ask(net, KERNEL, timeout_s=0.05, tries=1, tags=TAGGED[1])


def test_it_answers_nobody_meanwhile(net: Net) -> None:
    """Not who asks for its own address, nor who pings it."""
    asks = arp(1, ROGUE, KERNEL, bytes(6), SOURCE, to=b"\xff" * 6)
    ping = (SOURCE_MAC + ROGUE + b"\x08\0" + bytes.fromhex("4500001c000000004001") + b"\x66\x9f"
            + KERNEL.packed + SOURCE.packed + bytes.fromhex("0800f7ff00000000"))
    with peer(net, lambda _: [asks, ping]) as station, pytest.raises(SystemRefused):
        ask(net, timeout_s=0.2, tries=2)
    assert station.heard == [question(OTHER)] * 2


def test_a_flood_does_not_hold_it_up(net: Net) -> None:
    """More than the socket can hold, none of it the answer: time is up when it is up."""
    with peer(net, lambda _: [arp(2, ROGUE, KERNEL, SOURCE_MAC, SOURCE)] * 60):
        start = time.monotonic()
        with pytest.raises(SystemRefused):
            ask(net, timeout_s=0.2, tries=20)
        assert time.monotonic() - start < 1


def test_no_such_interface(net: Net) -> None:
    with entered(net.client), pytest.raises(SystemRefused, match="no interface 'eth7'"):
        server_mac("eth7", OTHER, SOURCE, SOURCE_MAC)


def test_an_interface_that_goes_meanwhile() -> None:
    with two_namespaces() as net:
        timer = threading.Timer(0.1, net.client.ip, ["link set eth0 down\n"])
        timer.start()
        try:
            with pytest.raises(SystemRefused, match=r"ARP for 10\.16\.0\.7 on eth0 failed"):
                ask(net, timeout_s=2)
        finally:
            timer.join()


def test_nothing_stays_open(net: Net) -> None:
    """Neither a socket nor the interface in promiscuous mode."""
    with socket.socket() as probe:
        before = probe.fileno()
    for _ in range(2):
        with pytest.raises(SystemRefused):
            ask(net, timeout_s=0.02, tries=1)
    with socket.socket() as probe:
        assert probe.fileno() == before
    assert '"promiscuity":0' in net.client.run(["ip", "-j", "-d", "link", "show", "eth0"]).stdout
