"""Each kind of loss, made on purpose: its place, its reason, and how many, one for one."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest

from ebpf import attach
from ebpf.module import Kind, Module
from ebpf.probe import IN, KINDS, OUT, End, Part, Probe
from fastpath.elsewhere import within
from netlab.path.losses import Heard, Loss, named
from tests.ebpf_twin import Shape, frame
from tests.lab.test_ebpf_probe import packet_socket
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces, wait_until

pytestmark = [pytest.mark.root, pytest.mark.bcc]

N = 300
_SERVER_ADDRESS = "10.16.0.1/12"
_BROADCAST = b"\xff" * 6
# From nobody yet to everybody, as clients do.
_EVERYBODY = bytes(4) + b"\xff" * 4
_SO_ATTACH_FILTER = 26
_DROPPERS = """
int drops_xdp(struct xdp_md *ctx) { return XDP_DROP; }
int drops_tc(struct __sk_buff *ctx) { return 2; /* TC_ACT_SHOT */ }
"""


def discover(xid: int = 7, **faults: object) -> bytes:
    shape = Shape(**{"xid": xid, "addresses": _EVERYBODY} | faults)  # type: ignore[arg-type]
    return _BROADCAST + frame(shape)[6:]


def to_server(watched: Watched, **faults: object) -> bytes:
    """A DISCOVER to the server's address, as relays send it."""
    addresses = bytes((10, 16, 0, 9)) + bytes((10, 16, 0, 1))
    octets = discover(**{"addresses": addresses} | faults)
    return bytes.fromhex(watched.net.server.mac().replace(":", "")) + octets[6:]


@dataclass
class Watched:
    """client - bridge - server, and one probe on all of it."""

    net: Net
    bridge: Namespace
    probe: Probe

    def send(self, count: int = N, octets: bytes = b"") -> None:
        with packet_socket(self.net.client) as sender:
            for _ in range(count):
                # A queue that is full says so to who sends here.
                with contextlib.suppress(OSError):
                    sender.send(octets or discover())

    @contextlib.contextmanager
    def losses(self, by_frames: Sequence[str] = ()) -> Iterator[list[Loss]]:
        """What was lost while the block ran; filled at its end."""
        before = self._drops()
        found: list[Loss] = []
        yield found
        now = self._drops()
        now.subtract(before)
        drops = [replace(drop, count=count) for drop, count in now.items() if count]
        nodes = {self.net.client.name: "client", self.bridge.name: "bridge",
                 self.net.server.name: "server"}
        found += named(drops, nodes, Heard(by_frames, switches=["bridge"]))

    def _drops(self) -> Counter[object]:
        drops = self.probe.read().drops
        assert drops is not None
        return Counter({replace(drop, count=0): drop.count for drop in drops})

    def reasons(self) -> Counter[str]:
        """Frames by the kernel's reason, since the probe began."""
        return Counter({drop.reason: drop.count for drop in self.probe.read().drops or ()})

    def passed(self, end: int, side: int) -> int:
        return int(self.probe.read().counts["packets"][end, side, KINDS.index("discover")])


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with two_namespaces(bridge=True, server_address=_SERVER_ADDRESS) as net:
        assert net.bridge
        ends = [End(net.client.name, INTERFACE, 1, 1, Part.CLIENT),
                End(net.bridge.name, "client", 2, 1, Part.FORWARDER),
                End(net.bridge.name, "server", 2, 2, Part.FORWARDER),
                End(net.server.name, INTERFACE, 3, 2, Part.SERVER)]
        with Probe(ends) as probe:
            if not probe.sees_drops:
                pytest.skip("this kernel gives no reasons of drops (Linux 5.17)")
            yield Watched(net, net.bridge, probe)


@pytest.fixture(scope="module")
def droppers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    source = tmp_path_factory.mktemp("droppers") / "drops.c"
    source.write_text(_DROPPERS)
    with Module(str(source), defines={}) as module:
        yield module


def udp_socket(namespace: Namespace, port: int = 67, room: int = 0) -> socket.socket:
    """room: octets that its receive queue may hold; 0 for the usual."""
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if room:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        made.bind(("0.0.0.0", port))
        made.settimeout(0)
        return made
    return within(namespace.name, opened)


def waiting(receiver: socket.socket) -> int:
    """How many messages its queue holds; it is empty then."""
    found = 0
    with contextlib.suppress(BlockingIOError):
        while receiver.recv(2048):
            found += 1
    return found


def only(losses: list[Loss]) -> tuple[str, str, str, int]:
    """(node, ifname, where, count) of the only one, all of DISCOVERs."""
    loss, = losses
    assert loss.messages == {"discover": loss.count}
    return loss.node, loss.ifname, loss.where, loss.count


def test_nothing_is_lost_where_everything_is_read(watched: Watched) -> None:
    with udp_socket(watched.net.server) as server, watched.losses() as found:
        watched.send(50)
        wait_until("them to arrive", lambda: watched.passed(3, IN) >= 50)
        assert waiting(server) == 50
    assert found == []


def test_a_socket_s_receive_queue(watched: Watched) -> None:
    with udp_socket(watched.net.server, room=4096) as server, watched.losses() as found:
        watched.send()
        wait_until("them to arrive", lambda: watched.passed(3, IN) >= N)
        read = waiting(server)
    # Which interface it came by the kernel may have forgotten there.
    assert only(found)[2:] == ("socket receive queue", N - read)
    assert 0 < read < N // 2


def test_a_queue_that_nobody_reads_is_no_loss(watched: Watched) -> None:
    """Who hears frames has such a socket too, so that the kernel answers nobody for him."""
    with udp_socket(watched.net.server, room=4096), watched.losses(["server"]) as found:
        watched.send()
        wait_until("them to arrive", lambda: watched.passed(3, IN) >= N)
    assert found == []


def test_no_socket_listens(watched: Watched) -> None:
    """Only where UDP sockets alone hear DHCP, and only what is meant for servers."""
    net = watched.net
    end = End(net.server.name, INTERFACE, 3, 2, Part.SERVER)
    with Probe([end], behind=True, by_udp=[net.server.name]) as probe:
        watched.send()
        watched.send(20, _BROADCAST + frame(Shape(op=2, port=68, addresses=_EVERYBODY,
                                                  options=bytes((53, 1, 2, 255))))[6:])
        wait_until("them to be lost", lambda: sum(
            drop.count for drop in probe.read().drops or ()) >= N + 20)
        found = named(probe.read().drops or (), {net.server.name: "server"})
    assert only(found)[2:] == ("ip stack", N)
    assert found[0].reason == "nobody listens on that port"


def test_a_wrong_udp_checksum(watched: Watched) -> None:
    """Where nobody listens it is verified at once."""
    octets = to_server(watched, udp_sum="wrong")
    with watched.losses() as found:
        watched.send(octets=octets)
        wait_until("them to arrive", lambda: watched.reasons()["UDP_CSUM"] >= N)
    assert only(found)[2:] == ("checksum", N) and found[0].reason == "UDP checksum wrong"


@pytest.mark.parametrize("by_bridge", [False, True])
def test_a_wrong_ip_checksum(watched: Watched, by_bridge: bool) -> None:
    """A bridge with netfilter verifies it too."""
    name = "net.bridge.bridge-nf-call-iptables"
    if watched.bridge.run(["sysctl", name], check=False).returncode:
        if by_bridge:
            pytest.skip("needs br_netfilter (CONFIG_BRIDGE_NETFILTER)")
    else:
        watched.bridge.run(["sysctl", "-qw", f"{name}={int(by_bridge)}"])
    with watched.losses() as found:
        watched.send(octets=discover(ip_sum=1))
        settled(watched)
    node, _, where, count = only(found)
    assert (node, where, count) == (("bridge", "bridge", N) if by_bridge
                                    else ("server", "checksum", N))
    assert "IP header" in found[0].reason


def test_a_source_that_is_not_expected(watched: Watched) -> None:
    server = watched.net.server
    server.run(["sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.rp_filter=1"])
    try:
        with udp_socket(server) as heard, watched.losses() as found:
            watched.send(octets=discover(addresses=bytes((192, 0, 2, 1)) + b"\xff" * 4))
            wait_until("them to arrive", lambda: watched.passed(3, IN) >= N)
            assert waiting(heard) == 0
    finally:
        server.run(["sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.rp_filter=0"])
    assert only(found)[2:] == ("ip stack", N) and "rp_filter" in found[0].reason


def test_a_qdisc_that_is_over_its_rate(watched: Watched) -> None:
    client = watched.net.client
    client.run(["tc", "qdisc", "add", "dev", INTERFACE, "root", "tbf", "rate", "8kbit", "burst",
                "2000", "limit", "3000"])
    try:
        with udp_socket(watched.net.server), watched.losses() as found:
            watched.send()
        told = client.run(["tc", "-s", "qdisc", "show", "dev", INTERFACE, "root"]).stdout
    finally:
        client.run(["tc", "qdisc", "del", "dev", INTERFACE, "root"])
    dropped = int(told.partition("dropped ")[2].partition(",")[0])
    assert only(found) == ("client", INTERFACE, "qdisc", dropped)
    assert N - 20 <= dropped < N


def test_a_bridge_port_that_does_not_forward_yet(watched: Watched) -> None:
    def state() -> str:
        told, = json.loads(watched.bridge.run(
            ["ip", "-json", "-details", "link", "show", "client"]).stdout)
        return str(told["linkinfo"]["info_slave_data"]["state"])

    watched.bridge.ip("link set br0 type bridge stp_state 1\n"
                      "link set br0 type bridge forward_delay 1500\n"
                      "link set client down\nlink set client up\n")
    try:
        wait_until("the port to listen", lambda: state() == "listening")
        with watched.losses() as found:
            watched.send()
    finally:
        watched.bridge.ip("link set br0 type bridge stp_state 0\n"
                          "link set br0 type bridge forward_delay 0\n"
                          "link set client down\nlink set client up\n")
        wait_until("the port to forward", lambda: state() == "forwarding")
    assert only(found) == ("bridge", "client", "bridge", N)


def test_a_veth_whose_peer_takes_no_frame_so_long(watched: Watched) -> None:
    server = watched.net.server
    server.ip(f"link set {INTERFACE} mtu 100\n")
    try:
        with watched.losses() as found:
            watched.send()
    finally:
        server.ip(f"link set {INTERFACE} mtu 1500\n")
    assert only(found)[2:] == ("veth", N)


@pytest.mark.parametrize("driver", [False, True], ids=["generic", "driver"])
def test_an_xdp_program(watched: Watched, droppers: Module, driver: bool) -> None:
    server = watched.net.server
    program = droppers.load("drops_xdp", Kind.XDP)
    within(server.name, partial(attach.xdp, INTERFACE, program, driver=driver))
    try:
        with watched.losses() as found:
            watched.send()
            settled(watched)
    finally:
        within(server.name, partial(attach.xdp, INTERFACE, -1, driver=driver))
    assert only(found) == ("server", INTERFACE, "program", N)


@pytest.mark.parametrize("side", [attach.ARRIVING, attach.DEPARTING])
def test_a_filter_of_tc(watched: Watched, droppers: Module, side: int) -> None:
    """Of somebody's own, who throws frames away."""
    port = "client" if side == attach.ARRIVING else "server"
    mine = attach.Filter(port, side, droppers.load("drops_tc", Kind.TC), 1, 60_000)
    within(watched.bridge.name, partial(attach.put, [mine], attach.new_name()))
    try:
        with watched.losses() as found:
            watched.send()
    finally:
        within(watched.bridge.name, partial(attach.take, attach.is_ours))
    assert only(found) == ("bridge", port, "program", N)


def test_the_backlog_of_a_cpu(watched: Watched) -> None:
    """One CPU sends, another receives, for which filters of sockets there take their time."""
    if len(cpus := sorted(os.sched_getaffinity(0))) < 2:
        pytest.skip("needs two CPUs")
    server = watched.net.server
    steering = f"/sys/class/net/{INTERFACE}/queues/rx-0/rps_cpus"
    before = watched.passed(2, OUT), watched.passed(3, IN)
    with contextlib.ExitStack() as stack, watched.losses() as found:
        server.run(["sh", "-c", f"echo {1 << cpus[1]:x} > {steering}"])
        stack.callback(server.run, ["sh", "-c", f"echo 0 > {steering}"])
        for _ in range(6):
            slow(stack.enter_context(packet_socket(server)))
        stack.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, cpus[:1])
        for _ in range(40):
            watched.send(5_000)
            if watched.reasons()["CPU_BACKLOG"]:
                break
        settled(watched)
    sent, arrived = watched.passed(2, OUT) - before[0], watched.passed(3, IN) - before[1]
    assert only(found) == ("server", INTERFACE, "softnet backlog", sent - arrived)
    assert sent > arrived > 0


def slow(receiver: socket.socket) -> None:
    """A filter that divides as often as one may, and takes no frame."""
    # linux/filter.h: BPF_ALU | BPF_DIV | BPF_K, and BPF_RET | BPF_K
    code = struct.pack("=HBBI", 0x34, 0, 0, 3) * 4095 + struct.pack("=HBBI", 0x06, 0, 0, 0)
    octets = ctypes.create_string_buffer(code, len(code))
    receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                        struct.pack("HP", 4096, ctypes.addressof(octets)))


def settled(watched: Watched) -> None:
    """Return when nothing moves any more."""
    last: object = None
    for _ in range(200):
        reading = watched.probe.read()
        now = (reading.counts["packets"].sum(), sum(d.count for d in reading.drops or ()))
        if now == last:
            return
        last = now
        time.sleep(0.05)
