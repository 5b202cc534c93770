"""The packet rings on a real veth pair, and what they say when the machine refuses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath import ring, slots
from fastpath.errors import SystemRefused
from fastpath.frame import OK, check_frame
from fastpath.packet import Frame
from fastpath.ring import Ring
from fastpath.slots import (
    RX_CSUM_NOT_READY,
    rx_bounds,
    rx_checksum_ready,
    rx_outer_tag,
    rx_peek,
    rx_release,
    rx_stamp_ns,
    tx_commit,
    tx_start,
)
from tests.ours import entered
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root
# linux/if_tun.h: TUNSETIFF, and IFF_TAP | IFF_NO_PI.
_TUNSETIFF, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces(client_address="10.16.0.2/12") as net:
        yield net


@contextlib.contextmanager
def ring_in(namespace: Namespace, *ports: int, **options: Any) -> Iterator[Ring]:
    with entered(namespace):
        opened = Ring(INTERFACE, ports or (67,), **options)
    with opened:
        yield opened


def put(to: Ring, octets: bytes) -> None:
    start = tx_start(to.tx)
    assert start >= 0
    to.tx.mem[start:start + len(octets)] = np.frombuffer(octets, np.uint8)
    tx_commit(to.tx, len(octets))


def take(source: Ring, count: int) -> list[bytes]:
    """The next `count` frames, each as its octets."""
    frames = []
    deadline = time.monotonic() + 3
    while len(frames) < count and time.monotonic() < deadline:
        base = rx_peek(source.rx, 0)
        if base < 0:
            source.wait(0.1)
            continue
        start, end = rx_bounds(source.rx, base)
        frames.append(bytes(source.rx.mem[start:end]))
        rx_release(source.rx, 1)
    return frames


def request(payload: bytes = bytes(300), port: int = 67, vlans: tuple[int, ...] = ()) -> bytes:
    return Frame(src_mac=b"\x02\0\0\0\0\x01", dst_port=port, vlans=vlans, payload=payload).encode()


def test_frames_cross_whole_and_in_order(net: Net) -> None:
    """More than the ring has slots, of every length, so it wraps many times."""
    with ring_in(net.client, slots=64) as sender, ring_in(net.server, slots=128) as receiver:
        sizes = [240 + (i * 37) % 1200 for i in range(1000)]
        for first in range(0, 1000, 50):
            sent = [request(i.to_bytes(4, "big") * (size // 4))
                    for i, size in enumerate(sizes[first:first + 50], first)]
            for octets in sent:
                put(sender, octets)
            sender.kick()
            assert take(receiver, 50) == sent
        assert receiver.statistics() == 0 and sender.statistics() == 0
        assert rx_peek(sender.rx, 0) == -1  # what we send does not come back to us


def test_only_dhcp_ports_reach_the_ring(net: Net) -> None:
    with ring_in(net.client) as sender, ring_in(net.server, 67, 68) as receiver:
        for port in (53, 67, 69, 68, 6700):
            put(sender, request(port=port))
        sender.kick()
        assert [Frame.decode(octets).dst_port for octets in take(receiver, 2)] == [67, 68]
        assert rx_peek(receiver.rx, 0) == -1


@pytest.mark.parametrize("vlans", [(7,), (7, 8)])
def test_a_tagged_frame_keeps_its_tags(net: Net, vlans: tuple[int, ...]) -> None:
    """The kernel moves the outer tag into the slot's header; the inner one stays."""
    with ring_in(net.client) as sender, ring_in(net.server) as receiver:
        put(sender, request(vlans=vlans))
        sender.kick()
        receiver.wait(2)
        base = rx_peek(receiver.rx, 0)
        assert base >= 0
        tag = rx_outer_tag(receiver.rx, base)
        assert (tag >> 16, tag & 0xFFFF) == (0x8100 if len(vlans) == 1 else 0x88A8, vlans[0])
        start, end = rx_bounds(receiver.rx, base)
        reason, ip, _, _ = check_frame(receiver.rx.mem, start, end, 1, True, 67, 67)
        assert (reason, ip - start) == (OK, 14 + 4 * (len(vlans) - 1))


def test_an_unfinished_checksum_is_told_from_a_wrong_one(net: Net) -> None:
    """A local UDP socket leaves the checksum to hardware that a veth does not have."""
    with ring_in(net.server) as receiver, entered(net.client), \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
        sock.sendto(bytes(300), ("255.255.255.255", 67))
        receiver.wait(2)
        base = rx_peek(receiver.rx, 0)
        assert base >= 0 and not rx_checksum_ready(receiver.rx, base)
        assert int(receiver.rx.words[base >> 2]) & RX_CSUM_NOT_READY
        start, end = rx_bounds(receiver.rx, base)
        for ready, sound in ((False, True), (True, False)):
            reason, *_ = check_frame(receiver.rx.mem, start, end, 0, ready, 67, 67)
            assert (reason == OK) is sound


def test_stamps_are_the_time_of_arrival(net: Net) -> None:
    with ring_in(net.client) as sender, ring_in(net.server) as receiver:
        before = time.time_ns()
        put(sender, request())
        sender.kick()
        after = time.time_ns()
        time.sleep(0.05)  # what we do later is no matter
        assert before <= rx_stamp_ns(receiver.rx, rx_peek(receiver.rx, 0)) <= after + 5_000_000


def test_a_full_ring_counts_what_it_lost(net: Net) -> None:
    with ring_in(net.client, slots=256) as sender, ring_in(net.server, slots=64) as receiver:
        for _ in range(100):
            put(sender, request())
        sender.kick()
        assert len(take(receiver, 64)) == 64
        assert receiver.statistics() == 36
        assert receiver.statistics() == 36  # reading it again loses nothing


def test_what_was_not_sent_is_counted(net: Net) -> None:
    with ring_in(net.client) as sender:
        for _ in range(5):
            put(sender, request())
        assert sender.unsent() == 5
        sender.kick()
        assert sender.unsent() == 0


@pytest.mark.parametrize("queued", [False, True])
def test_an_interface_with_a_queue_is_sent_past_it_unless_asked(net: Net, queued: bool) -> None:
    # As long as somebody reads there, it has a carrier.
    with entered(net.client), contextlib.ExitStack() as stack:
        try:
            tap = stack.enter_context(open("/dev/net/tun", "r+b", buffering=0))
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"tap9", _TAP_WITHOUT_HEADER))
        except OSError:
            pytest.skip("this kernel has no tap device")
        for words in ("tc qdisc add dev tap9 root pfifo", "ip link set tap9 up"):
            subprocess.run(words.split(), check=True)
        sender = stack.enter_context(Ring("tap9", (67,), queued=queued))
        for _ in range(5):
            put(sender, request())
        sender.kick()
        wait_until("all to be sent", lambda: sender.unsent() == 0)
        while struct.unpack_from(">H", sent := tap.read(2048), 12)[0] != 0x0800:
            pass  # IPv6 says that it is there
        assert sent == request()
        said = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "tap9"], check=True,
                              capture_output=True, text=True).stdout
    seen = int(re.findall(r"qdisc pfifo .*?Sent \d+ bytes (\d+) pkt", said, re.DOTALL)[0])
    assert seen >= 5 if queued else seen < 5


def test_no_such_interface(net: Net) -> None:
    with pytest.raises(SystemRefused, match="no interface 'eth7'") as refused, \
            entered(net.client):
        Ring("eth7", (67,))
    assert "eth0" in refused.value.remedy


def test_an_interface_that_is_down() -> None:
    with two_namespaces() as net:
        net.client.ip("link set eth0 down\n")
        with pytest.raises(SystemRefused, match="is down") as refused, entered(net.client):
            Ring(INTERFACE, (67,))
        assert refused.value.remedy == "ip link set eth0 up"


@pytest.mark.parametrize("how", ["link set eth0 down\n", "link del eth0\n"])
def test_an_interface_that_goes_while_in_use(how: str) -> None:
    with two_namespaces() as net, ring_in(net.client) as used:
        net.client.ip(how)
        with pytest.raises(SystemRefused, match="went down or away"):
            used.wait(2)
        put(used, request())
        with pytest.raises(SystemRefused, match="went down or away"):
            used.kick()


def test_not_ethernet(net: Net) -> None:
    with entered(net.client):
        done = subprocess.run(["ip", "tuntap", "add", "tun9", "mode", "tun"], capture_output=True)
        if done.returncode:
            pytest.skip("this kernel has no tun device")
        try:
            subprocess.run(["ip", "link", "set", "tun9", "up"], check=True)
            with pytest.raises(SystemRefused, match="is not Ethernet"):
                Ring("tun9", (67,))
        finally:
            subprocess.run(["ip", "link", "del", "tun9"], check=True)


def test_ring_memory_refused(net: Net) -> None:
    """A process without address space left: nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        with entered(net.client):
            resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), limit[1]))
            with pytest.raises(SystemRefused, match="ring memory") as refused:
                Ring(INTERFACE, (67,), slots=1 << 14)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert "--ring-slots" in refused.value.remedy
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_privilege(net: Net) -> None:
    """As nobody: one clear line, exit code 1, no traceback."""
    for module, more in (("server", []), ("tester", ["--clients", "1"])):
        done = net.client.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all",
             "--inh-caps", "-all", sys.executable, "-m", f"{module}.cli", "--interface",
             INTERFACE, *more], check=False)
        assert done.returncode == 1, done.stderr
        lines = done.stderr.splitlines()
        assert lines[-2].endswith("cannot open a packet socket: operation not permitted")
        assert lines[-1].strip() == "run with sudo (CAP_NET_RAW)"


def test_promiscuous_while_open_only(net: Net) -> None:
    def promiscuity() -> int:
        return int(net.client.run(["ip", "-j", "-d", "link", "show", "eth0"]).stdout.split(
            '"promiscuity":')[1].split(",")[0])

    with ring_in(net.client, promiscuous=True):
        assert promiscuity() == 1
    assert promiscuity() == 0


def test_struct_sizes_are_the_kernels(tmp_path: Path) -> None:
    """The offsets in slots.py against linux/if_packet.h, as the C compiler lays it out."""
    source = Path("/usr/include/linux/if_packet.h")
    if not source.exists():
        pytest.skip("no kernel headers: linux/if_packet.h")
    names = ["tp_status", "tp_len", "tp_snaplen", "tp_mac", "tp_sec", "tp_nsec", "tp_vlan_tci",
             "tp_vlan_tpid"]
    prints = "".join(f'printf("%zu ", offsetof(struct tpacket2_hdr, {name}));' for name in names)
    program = ("#include <stdio.h>\n#include <stddef.h>\n#include <sys/socket.h>\n"
               "#include <linux/if_packet.h>\n#include <linux/virtio_net.h>\n"
               f"int main(void) {{ {prints} "
               'printf("%zu %zu", TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), '
               "sizeof(struct virtio_net_hdr)); }")
    binary = str(tmp_path / "sizes")
    subprocess.run(["gcc", "-x", "c", "-", "-o", binary], input=program, text=True, check=True)
    out = subprocess.run([binary], capture_output=True, text=True, check=True).stdout
    ours = (0, slots.H_LEN, slots.H_SNAPLEN, slots.H_MAC, slots.H_SEC, slots.H_NSEC, slots.H_TCI,
            slots.H_TPID, ring._TX_FRAME, ring._VIRTIO_HEADER)
    assert tuple(map(int, out.split())) == ours
    assert struct.calcsize("=BBHHHH") == ring._VIRTIO_HEADER
