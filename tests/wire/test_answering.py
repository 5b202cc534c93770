"""A kernel asks by ARP and pings addresses that only a ring and the tester's kernels hold."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

import pytest

from fastpath.errors import SystemRefused
from fastpath.ring import Ring
from fastpath.slots import rx_bounds, rx_checksum_ready, rx_outer_tag, rx_peek, rx_release
from tester.neighbours import ARP, NOTHING, answer_arp, answer_echo, classify, reaches, wanted
from tester.resolve import server_mac
from tests.ours import entered
from tests.peers.net import INTERFACE, Net, two_namespaces

pytestmark = pytest.mark.root

HELD = {IPv4Address("10.16.0.5"): 0x020000000005, IPv4Address("10.16.1.6"): 0x020000000006}
FIRST, SECOND = HELD
SERVER = IPv4Address("10.16.0.1")
IP_RECVTTL = 12  # linux/in.h


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        net.server.run(["sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"])
        first_use(net)
        yield net


def server_own_mac(net: Net) -> bytes:
    return bytes.fromhex(net.server.mac().replace(":", ""))


def turn(ring: Ring, held: Mapping[int, int]) -> None:
    """Answer whatever stands in the ring: what a program does once a batch."""
    while (base := rx_peek(ring.rx, 0)) >= 0:
        mem = ring.rx.mem
        start, end = rx_bounds(ring.rx, base)
        kind, l3 = classify(mem, start, end, rx_checksum_ready(ring.rx, base))
        if kind != NOTHING:
            mac = held.get(int(wanted(mem, kind, l3)), 0)
            if mac and reaches(mem, start, mac):
                answer = answer_arp if kind == ARP else answer_echo
                assert answer(mem, start, l3, ring.tx, mac, rx_outer_tag(ring.rx, base))
        rx_release(ring.rx, 1)
    ring.kick()


@contextlib.contextmanager
def answering(net: Net) -> Iterator[None]:
    """Both clients, alive on one ring in the client's namespace."""
    with entered(net.client):
        ring = Ring(INTERFACE, (67, 68), slots=64, promiscuous=True, neighbours=True, tags=3)
    held = {int(address): mac for address, mac in HELD.items()}
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            ring.wait(0.02)
            turn(ring, held)

    with ring:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def ping(net: Net, address: IPv4Address, data: bytes = b"data", timeout_s: float = 3.0) -> bytes:
    """The data that came back, or nothing; the kernel asks by ARP and checks the answer."""
    with entered(net.server):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    with sock:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        sock.sendto(struct.pack(">BBHHH", 8, 0, 0, 0, 0x1234) + data, (str(address), 0))
        try:
            answer, beside, _, source = sock.recvmsg(4096, 256)
        except TimeoutError:
            return b""
        sock.settimeout(0.02)
        with pytest.raises(TimeoutError):
            sock.recv(4096)  # one answer, not two
    told = {kind: value[0] for _, kind, value in beside}
    assert (told[socket.IP_TTL], told[socket.IP_TOS], source[0]) == (64, 0xB8, str(address))
    assert answer[:2] == b"\0\0" and answer[6:8] == b"\x12\x34"
    return answer[8:]


def first_use(net: Net) -> None:
    """Compiling takes longer than a kernel waits for ARP."""
    with answering(net):
        with entered(net.server):
            mac = server_mac(INTERFACE, FIRST, SERVER, server_own_mac(net), 60, 60).hex(":")
        net.server.ip(f"neigh replace {FIRST} lladdr {mac} dev {INTERFACE}\n")
        assert ping(net, FIRST, timeout_s=60)
        net.server.ip(f"neigh del {FIRST} dev {INTERFACE}\n")


@pytest.mark.parametrize("size", [1, 55, 56, 1471, 1472])
def test_ping(net: Net, size: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(size))
    with answering(net):
        assert ping(net, FIRST, data) == data


def test_a_ping_in_fragments_is_not_answered(net: Net) -> None:
    with answering(net):
        assert ping(net, FIRST) == b"data"
        assert ping(net, FIRST, bytes(1473), 0.2) == b""


def test_each_client_has_its_own_ethernet_address(net: Net) -> None:
    with answering(net):
        for address, mac in HELD.items():
            net.server.ip(f"neigh flush to {address}\n")
            assert ping(net, address) == b"data"
            told = net.server.run(["ip", "neigh", "show", str(address)]).stdout
            assert mac.to_bytes(6, "big").hex(":") in told


def test_who_is_not_there_does_not_answer(net: Net) -> None:
    with answering(net), entered(net.server), pytest.raises(SystemRefused):
        server_mac(INTERFACE, IPv4Address("10.16.0.6"), SERVER, server_own_mac(net), 0.1, 1)


def test_a_ping_to_another_station_is_left_alone(net: Net) -> None:
    """A promiscuous ring hears it, and the address is ours, but the frame is another's."""
    with answering(net):
        net.server.ip(f"neigh replace {SECOND} lladdr 02:00:00:00:00:77 dev {INTERFACE}\n")
        try:
            assert ping(net, SECOND, timeout_s=0.2) == b""
        finally:
            net.server.ip(f"neigh del {SECOND} dev {INTERFACE}\n")


@pytest.mark.parametrize("source", [SERVER, IPv4Address(0)], ids=["request", "probe"])
@pytest.mark.parametrize("tags", [(), ((0x8100, 7),), ((0x88A8, 0xE007), (0x8100, 8)),
                                  ((0x88A8, 1), (0x8100, 2), (0x8100, 3))], ids=len)
def test_arp_behind_tags(net: Net, tags: tuple[tuple[int, int], ...], source: IPv4Address) -> None:
    """The answer comes back in the VLAN of the question, also to a probe."""
    with answering(net), entered(net.server):
        mac = server_mac(INTERFACE, SECOND, source, server_own_mac(net), tags=tags)
    assert int.from_bytes(mac, "big") == HELD[SECOND]
