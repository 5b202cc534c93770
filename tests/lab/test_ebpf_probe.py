"""The life of a `Probe`: what it leaves behind (nothing), and the times that it tells."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ebpf import tcx
from ebpf.probe import (
    IN,
    KINDS,
    LINK,
    NODE,
    OUT,
    TIMED,
    End,
    Part,
    Probe,
    Reading,
    percentile_ns,
    take_all,
)
from fastpath.elsewhere import within
from fastpath.errors import SystemRefused
from tests.ebpf_twin import Shape, bucket_of, frame
from tests.peers.net import INTERFACE, RUN_NETNS, Namespace, Net, two_namespaces, wait_until

pytestmark = [pytest.mark.root, pytest.mark.bcc]

REPOSITORY = Path(__file__).resolve().parents[2]
_SOL_PACKET, _IGNORE_OUTGOING, _SO_RCVBUFFORCE = 263, 23, 33
DISCOVER, OFFER, REQUEST, ACK, NAK = (
    KINDS.index(name) for name in ("discover", "offer", "request", "ack", "nak"))
# Opens a probe on eth0 of the namespaces named, says so, and waits for the end of its input.
_OBSERVER = f"""
import sys
from ebpf.probe import End, Part, Probe
ends = [End(name, "{INTERFACE}", number, 1, Part.CLIENT)
        for number, name in enumerate(sys.argv[2:])]
with Probe(ends, behind="behind" in sys.argv[1], links="links" in sys.argv[1]):
    print("there", flush=True)
    sys.stdin.read()
"""
# What the error says, and nothing else.
_REFUSED = """
import sys
from ebpf.probe import End, Part, Probe
from fastpath.errors import SystemRefused
try:
    Probe([End(sys.argv[1], sys.argv[2], 1, 1, Part.CLIENT)], links=False)
except SystemRefused as refused:
    print(refused.what)
"""


@pytest.fixture
def net() -> Iterator[Net]:
    with two_namespaces(server_address="") as made:
        yield made


@pytest.fixture
def chain() -> Iterator[Net]:
    """A client and a server, and between them a namespace whose two interfaces nothing joins."""
    with two_namespaces(bridge=True, server_address="") as made:
        assert made.bridge
        made.bridge.ip("link del br0\n")
        yield made


def ends(net: Net) -> list[End]:
    return [End(net.client.name, INTERFACE, 1, 1, Part.CLIENT),
            End(net.server.name, INTERFACE, 2, 1, Part.SERVER)]


# linux/bpf.h: BPF_PROG_QUERY, and where its answer says how many programs there are.
_QUERY, _ASKED, _COUNT_AT = 16, struct.Struct("=IIIIQI28x"), 24


def links(interface: str) -> int | None:
    """How many programs hold on to an interface of this namespace by TCX; None without it."""
    found = 0
    for side in (tcx.ARRIVING, tcx.DEPARTING):
        asked = ctypes.create_string_buffer(
            _ASKED.pack(socket.if_nametoindex(interface), side, 0, 0, 0, 0))
        if tcx._libc.syscall(tcx._SYS_BPF, _QUERY, asked, _ASKED.size):
            if ctypes.get_errno() == errno.EINVAL:
                return None
            continue  # ENOENT: nobody
        found += int.from_bytes(asked.raw[_COUNT_AT:_COUNT_AT + 4], sys.byteorder)
    return found


@pytest.fixture(params=["links", "filters"])
def way(request: pytest.FixtureRequest) -> str:
    """How programs are attached."""
    if request.param == "links" and links("lo") is None:
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    return str(request.param)


def filters(namespace: Namespace, interface: str = INTERFACE) -> list[str]:
    """The names of filters of both sides, "u32" for somebody else's; "clsact" where it is; "link"
    for each program that is held by one."""
    queues = namespace.run(["tc", "qdisc", "show", "dev", interface]).stdout
    found = re.findall(r"qdisc (clsact|ingress) ", queues)
    for side in ("ingress", "egress") if "clsact" in found else ("ingress",) if found else ():
        told = namespace.run(["tc", "filter", "show", "dev", interface, side]).stdout
        found += re.findall(r" handle 0x1 flowid \S+ (dhcp-netlab/\S+)", told)
        found += ["u32"] * len(re.findall(r" u32 .*fh 800::\d+", told))
    return found + ["link"] * (within(namespace.name, lambda: links(interface)) or 0)


@contextlib.contextmanager
def observer(how: str, *namespaces: Namespace) -> Iterator[subprocess.Popen[str]]:
    """Another process with a probe."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OBSERVER, how, *(each.name for each in namespaces)],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.stdin.close()
        assert process.wait(10) in (0, -signal.SIGKILL)
        process.stdout.close()


def packet_socket(namespace: Namespace, interface: str = INTERFACE) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        made.bind((interface, 3))
        made.settimeout(5)
        return made
    return within(namespace.name, opened)


def message(kind: int, xid: int = 7) -> bytes:
    return frame(Shape(op=2 - (kind in (DISCOVER, REQUEST)), xid=xid,
                       options=bytes((53, 1, kind, 255))))


def sees(probe: Probe, net: Net) -> int:
    """Send one DISCOVER; how many the probe has counted of it where it arrives."""
    before = probe.read().counts["packets"][1, IN, DISCOVER]
    with packet_socket(net.client) as sender, packet_socket(net.server) as receiver:
        sender.send(message(DISCOVER))
        receiver.recv(2048)
    return int(probe.read().counts["packets"][1, IN, DISCOVER] - before)


def test_close_takes_everything_off_and_may_be_called_again(net: Net, way: str) -> None:
    probe = Probe(ends(net), links=way == "links")
    for namespace in (net.client, net.server):
        there = filters(namespace)
        assert there == ["link", "link"] if way == "links" else len(there) == 3
    assert sees(probe, net) == 1
    probe.close()
    probe.close()
    for namespace in (net.client, net.server):
        assert filters(namespace) == []


def test_an_exception_takes_everything_off(net: Net) -> None:
    with pytest.raises(KeyboardInterrupt), Probe(ends(net)):
        raise KeyboardInterrupt
    assert filters(net.client) == filters(net.server) == []


@pytest.mark.parametrize("missing", ["interface", "namespace"])
def test_what_is_missing_leaves_nothing_half_attached(net: Net, missing: str, way: str) -> None:
    name = net.server.name if missing == "interface" else f"{net.server.name}gone"
    with pytest.raises(SystemRefused) as refused:
        Probe([*ends(net), End(name, "eth7", 3, 2, Part.FORWARDER)], links=way == "links")
    assert (name if missing == "namespace" else "eth7") in refused.value.what
    assert "\n" not in refused.value.what
    assert filters(net.client) == filters(net.server) == []


def test_where_somebody_has_ingress_nothing_of_ours_stays(net: Net) -> None:
    """Its place is that of clsact, and it takes filters of what arrives, though none of what
    departs."""
    net.server.run(["tc", "qdisc", "add", "dev", INTERFACE, "ingress"])
    with pytest.raises(SystemRefused, match="cannot attach"):
        Probe(ends(net), links=False)
    assert filters(net.client) == []
    assert filters(net.server) == ["ingress"]


def test_links_need_no_place_among_filters_and_lose_nothing(net: Net) -> None:
    if links("lo") is None:
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    net.server.run(["tc", "qdisc", "add", "dev", INTERFACE, "ingress"])
    at_most, is_over = 200_000, threading.Event()
    sent: list[int] = []

    def send() -> None:
        while len(sent) < at_most and not is_over.is_set():
            sent.append(sender.send(payload))
            time.sleep(0)

    payload = message(DISCOVER)
    with packet_socket(net.client) as sender, packet_socket(net.server) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 30)
        receiver.settimeout(1)
        thread = threading.Thread(target=send)
        thread.start()
        with Probe(ends(net)) as probe:
            assert "link" in filters(net.server)
            before = len(sent)
            wait_until("messages that are counted", lambda: len(sent) > before + 1000, 10)
            counts = probe.read().counts["packets"][:, :, DISCOVER]
        wait_until("messages that are not", lambda: len(sent) > before + 2000, 10)
        is_over.set()
        thread.join()
        received = 0
        with contextlib.suppress(TimeoutError):
            while receiver.recv(2048):
                received += 1
        assert received == len(sent) < at_most
    # Namespaces are done one after the other.
    assert all(1000 <= count < received for count in (counts[0, OUT], counts[1, IN]))
    assert filters(net.server) == ["ingress"]


def test_links_end_with_their_process(net: Net) -> None:
    if links("lo") is None:
        pytest.skip("this kernel has no TCX (Linux 6.6)")
    with observer("links", net.client, net.server) as dead:
        assert filters(net.client) == ["link", "link"]
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        wait_until("links of the dead", lambda: filters(net.client) == [], 5)
    assert filters(net.server) == []


def test_a_killed_observer_s_filters_are_taken_and_no_others(net: Net) -> None:
    other = ["tc", "filter", "add", "dev", INTERFACE, "egress", "protocol", "ip", "u32", "match",
             "u32", "0", "0"]
    names = [net.client.name, net.server.name]
    with observer("filters", net.client, net.server) as dead, \
            observer("filters behind", net.server):
        net.client.run(other)
        assert len(filters(net.client)) == 4
        assert len(filters(net.server)) == 5
        assert take_all(names) == take_all(names, abandoned=True) == 0
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert take_all(names) == 0
        assert len(filters(net.server)) == 5
        assert take_all(names, abandoned=True) == 4
        assert take_all(names, abandoned=True) == 0
        assert filters(net.client) == ["clsact", "u32"]
        assert len(filters(net.server)) == 3  # of the one that lives
    assert filters(net.server) == []


def test_filters_without_an_owner_are_those_of_the_dead_only(net: Net) -> None:
    """A probe of this process is its own until it ends, whoever looks for abandoned ones."""
    with Probe(ends(net), links=False) as probe:
        assert take_all([net.client.name, net.server.name], abandoned=True) == 0
        assert sees(probe, net) == 1
        assert take_all([net.client.name, net.server.name]) == 4
        assert sees(probe, net) == 0


def test_two_probes_on_the_same_interfaces(net: Net, way: str) -> None:
    """The one in front says what is timed, though it came last."""
    by_links = way == "links"
    with Probe(ends(net), 1 << 15, behind=True, links=by_links) as second:
        assert sees(second, net) == 1
        with Probe(ends(net), links=by_links) as first:
            assert sees(first, net) == sees(second, net) == 1
            assert first.read().times["count"][1, IN, LINK, 0] == 2
            assert second.read().times["count"][1, IN, LINK, 0] == 2
        assert sees(second, net) == 1
        assert second.read().times["count"][1, IN, LINK, 0] == 2
    assert filters(net.client) == filters(net.server) == []


def test_a_place_among_filters_is_kept_by_who_came_first(net: Net) -> None:
    with Probe(ends(net), links=False) as first:
        with pytest.raises(SystemRefused, match="cannot attach"):
            Probe(ends(net), links=False)
        assert sees(first, net) == 1
    assert filters(net.client) == filters(net.server) == []


def test_an_interface_that_goes_while_it_is_looked_at(chain: Net, way: str) -> None:
    assert chain.bridge
    seen = [*ends(chain), End(chain.bridge.name, "client", 3, 1, Part.FORWARDER)]
    with Probe(seen, links=way == "links") as probe:
        chain.client.ip(f"link del {INTERFACE}\n")
        assert (probe.read().counts["packets"] >= 0).all()
    assert filters(chain.server) == []


def test_a_namespace_that_goes_while_it_is_looked_at(chain: Net, way: str) -> None:
    assert chain.bridge
    seen = [*ends(chain), End(chain.bridge.name, "server", 3, 2, Part.FORWARDER)]
    with Probe(seen, links=way == "links") as probe:
        chain.client.close()
        assert not (RUN_NETNS / chain.client.name).exists()
        assert len(probe.read().counts) == 3
    assert filters(chain.server) == filters(chain.bridge, "server") == []


def test_a_name_that_stands_for_no_namespace_any_more(chain: Net, way: str) -> None:
    """So it is for a moment while one is deleted."""
    place = RUN_NETNS / chain.client.name
    with Probe(ends(chain), links=way == "links"):
        subprocess.run(["umount", str(place)], check=True)
    assert filters(chain.server) == []
    place.unlink()


def test_without_privilege_it_is_one_line(net: Net) -> None:
    """Whatever is lacking: the namespace, the programs, or the interface."""
    here = ["/proc/self/ns/net", "lo"]
    there = [net.client.name, INTERFACE]
    for how, where in ((["setpriv", "--bounding-set", "-all"], there),
                       (["setpriv", "--bounding-set", "-sys_admin"], there),
                       (["setpriv", "--bounding-set", "-net_admin"], there),
                       (["setpriv", "--bounding-set", "-sys_admin,-bpf,-perfmon"], here),
                       (["unshare", "--user", "--map-root-user", "--net"], here)):
        done = subprocess.run([*how, sys.executable, "-c", _REFUSED, *where], cwd=REPOSITORY,
                              capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), how
        assert re.fullmatch(r".*[Oo]peration not permitted.*\n", done.stdout), (how, done.stdout)
        assert "compile" not in done.stdout, how
    assert filters(net.client) == []


class Passage:
    """One message after the other through a chain, by hand; how long each place may have had it.

    bounds_ns: {place: [(least, most)]}.
    """

    def __init__(self, net: Net, stack: contextlib.ExitStack) -> None:
        assert net.bridge
        self.client, self.near, self.far, self.server = (
            stack.enter_context(packet_socket(*place)) for place in (
                (net.client, INTERFACE), (net.bridge, "client"), (net.bridge, "server"),
                (net.server, INTERFACE)))

    @staticmethod
    def cross(sender: socket.socket, receiver: socket.socket, octets: bytes) -> tuple[int, int]:
        """(just before it was sent, just after it was received), ns of the kernel's own clock."""
        before = time.monotonic_ns()
        sender.send(octets)
        while receiver.recv(2048) != octets:
            pass
        return before, time.monotonic_ns()

    def forward(self, octets: bytes, delay_s: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """From the client to the server, or back: (least, most) that the forwarder had it, and
        (first, last) moment of all of it."""
        way = [self.client, self.near, self.far, self.server]
        if octets[42] == 2:
            way.reverse()
        sent, there = self.cross(way[0], way[1], octets)
        time.sleep(delay_s)
        passed_on, arrived = self.cross(way[2], way[3], octets)
        return (passed_on - there, arrived - sent), (sent, arrived)


def chain_ends(net: Net) -> list[End]:
    assert net.bridge
    return [End(net.client.name, INTERFACE, 1, 1, Part.CLIENT),
            End(net.bridge.name, "client", 2, 1, Part.FORWARDER),
            End(net.bridge.name, "server", 2, 2, Part.FORWARDER),
            End(net.server.name, INTERFACE, 3, 2, Part.SERVER)]


def only(reading: Reading, end: int, way: int, where: int, which: str) -> int:
    """The time of the only message that was timed there."""
    row = reading.times[end, way, where, TIMED.index(which)]
    assert row["count"] == 1 and row["twice"] == 0
    assert row["sum_ns"] == row["least_ns"] == row["most_ns"]
    assert percentile_ns(row, 50) == row["sum_ns"]
    assert np.flatnonzero(row["buckets"]).tolist() == [bucket_of(int(row["sum_ns"]))]
    return int(row["sum_ns"])


@pytest.mark.parametrize(("asks", "answers", "last"), [
    (DISCOVER, OFFER, ("discover", "offer")), (REQUEST, ACK, ("request", "ack")),
    (REQUEST, NAK, ("request", "ack"))])
def test_how_long_a_message_stays_and_that_the_parts_add_up(
        chain: Net, asks: int, answers: int, last: tuple[str, str]) -> None:
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(Probe(chain_ends(chain)))
        passage = Passage(chain, stack)
        there, (began, arrived) = passage.forward(message(asks), 0.020)
        time.sleep(0.010)
        back, (answered, ended) = passage.forward(message(answers), 0.005)
        reading = probe.read()
    request, reply = last
    relays = (only(reading, 2, OUT, NODE, request), only(reading, 1, OUT, NODE, reply))
    for (least, most), told in zip((there, back), relays, strict=True):
        assert least <= told <= most
    assert relays[0] >= 20_000_000 and relays[1] >= 5_000_000
    server = only(reading, 3, OUT, NODE, reply)
    assert answered - arrived <= server <= ended - began
    links = (only(reading, 1, IN, LINK, request), only(reading, 3, IN, LINK, request),
             only(reading, 2, IN, LINK, reply), only(reading, 0, IN, LINK, reply))
    whole = only(reading, 0, IN, NODE, reply)
    # To the nanosecond: where one part ends the next begins.
    assert sum(relays) + server + sum(links) == whole <= ended - began
    assert reading.times["count"].sum() == 8


def test_a_retransmitted_message_is_not_timed(chain: Net) -> None:
    """Nobody knows which of the two was answered (Karn's rule); each did cross the links."""
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(Probe(chain_ends(chain)))
        passage = Passage(chain, stack)
        for kind in (DISCOVER, DISCOVER, OFFER, DISCOVER, OFFER):
            passage.forward(message(kind), 0)
        times = probe.read().times
    for end, way, reply in ((0, IN, "offer"), (3, OUT, "offer")):
        row = times[end, way, NODE, TIMED.index(reply)]
        assert (row["count"], row["twice"]) == (1, 1)
    for end in (1, 3):
        row = times[end, IN, LINK, TIMED.index("discover")]
        assert (row["count"], row["twice"]) == (3, 0)


def test_another_s_answer_and_another_s_message_are_no_answer(chain: Net) -> None:
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(Probe(chain_ends(chain)))
        passage = Passage(chain, stack)
        passage.forward(message(DISCOVER, 1), 0)
        passage.forward(message(OFFER, 2), 0)
        passage.forward(message(ACK, 1), 0)
        times = probe.read().times
    for end, way in ((0, IN), (3, OUT)):
        assert times["count"][end, way, NODE].sum() == times["twice"][end, way, NODE].sum() == 0


def test_an_end_that_is_only_seen_from_one_side(net: Net) -> None:
    """A message that never arrives anywhere is not timed, and is still counted."""
    with Probe(ends(net)[:1]) as probe, packet_socket(net.client) as sender:
        for _ in range(3):
            sender.send(message(DISCOVER))
        wait_until("them to be counted", lambda: bool(
            probe.read().counts["packets"][0, OUT, DISCOVER] == 3))
        assert not np.any(probe.read().times["count"])
