"""Batched UDP sockets over real loopback and veth sockets, and what they say when refused."""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment"

from __future__ import annotations

import contextlib
import ctypes
import errno
import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastpath import udp
from fastpath.build import put48
from fastpath.errors import Malformed, SystemRefused
from fastpath.frame import OK, Memory, be32, check_frame, copy, put32
from fastpath.jit import kernel
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE, Ring
from fastpath.slots import (
    Slots,
    rx_bounds,
    rx_checksum_ready,
    rx_peek,
    rx_release,
    rx_stamp_ns,
    tx_commit,
    tx_start,
)
from fastpath.udp import RX_BATCH, TX_BATCH, Udp
from fastpath.udp_slots import RX_PAYLOAD
from tests.kernels import several
from tests.ours import entered
from tests.peers.net import INTERFACE, two_namespaces

LOCAL = IPv4Address("127.0.0.1")
EVERYBODY = IPv4Address("255.255.255.255")
ROOM = SLOT_SIZE - RX_PAYLOAD
STATION = b"\x02\0\0\0\0\x01"


@contextlib.contextmanager
def plain(address: str = "127.0.0.1") -> Iterator[socket.socket]:
    """An ordinary socket: the other side."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((address, 0))
        sock.settimeout(2)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def put(to: Udp | Ring, frame: Frame | bytes) -> None:
    octets = frame.encode() if isinstance(frame, Frame) else frame
    start = tx_start(to.tx)
    assert start >= 0
    to.tx.mem[start:start + len(octets)] = np.frombuffer(octets, np.uint8)
    tx_commit(to.tx, len(octets))


def pull(source: Udp, count: int) -> None:
    """Until at least `count` frames more have been pulled."""
    deadline = time.monotonic() + 3
    while count > 0:
        assert time.monotonic() < deadline, f"{count} datagrams did not come"
        if not (came := source.pull()):
            source.wait(0.1)
        count -= came


def read(source: Udp, ahead: int = 0) -> Frame:
    """The frame in a slot, by the codec, which judges as the compiled check does."""
    base = rx_peek(source.rx, ahead)
    assert base >= 0
    start, end = rx_bounds(source.rx, base)
    assert not rx_checksum_ready(source.rx, base)
    return Frame.decode(source.rx.mem[start:end].tobytes(), ports=(source.port,))


def take(source: Udp, count: int) -> list[Frame]:
    frames: list[Frame] = []
    while len(frames) < count:
        if rx_peek(source.rx, 0) < 0:
            pull(source, 1)
        frames.append(read(source))
        rx_release(source.rx, 1)
    return frames


@pytest.fixture
def opened() -> Iterator[Udp]:
    with Udp(LOCAL, 0, slots=64) as opened:
        yield opened


def test_it_looks_like_a_ring() -> None:
    """Whatever a program may call on a ring, with the same arguments."""
    for name, method in vars(Ring).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            ours = inspect.signature(getattr(Udp, name)).parameters.values()
            assert [(p.name, p.default) for p in ours] == [
                (p.name, p.default) for p in inspect.signature(method).parameters.values()], name
    assert udp.SLOT_SIZE == SLOT_SIZE


def test_datagrams_come_whole_and_in_order() -> None:
    """More than there are slots, of every length, so they wrap many times."""
    with Udp(LOCAL, 0, slots=50) as server, plain() as client:
        sizes = [0, 1, ROOM, ROOM - 1] + [(i * 137) % ROOM for i in range(1500)]
        for first in range(0, len(sizes), 40):
            sent = [bytes(j % 251 for j in range(i, i + size))
                    for i, size in enumerate(sizes[first:first + 40], first)]
            for payload in sent:
                client.sendto(payload, ("127.0.0.1", server.port))
            for frame, payload in zip(take(server, len(sent)), sent, strict=True):
                assert frame == Frame(src_mac=bytes(6), dst_mac=bytes(6), src_ip=LOCAL,
                                      dst_ip=LOCAL, src_port=port_of(client),
                                      dst_port=server.port, payload=payload)
        assert server.pull() == 0 and server.statistics() == 0


@pytest.mark.parametrize("to", ["127.0.0.1", "127.0.0.9", "127.255.255.255", "255.255.255.255"])
def test_a_frame_says_where_it_was_sent(to: str) -> None:
    with Udp(None, 0, interface="lo", slots=4) as server, plain("0.0.0.0") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.sendto(b"hello", (to, server.port))
        assert take(server, 1)[0].dst_ip == IPv4Address(to)


def test_stamps_are_the_time_of_arrival(opened: Udp) -> None:
    with plain() as client:
        before = time.time_ns()
        client.sendto(b"hello", ("127.0.0.1", opened.port))
        after = time.time_ns()
        time.sleep(0.05)  # what we do later is no matter
        pull(opened, 1)
        assert before <= rx_stamp_ns(opened.rx, rx_peek(opened.rx, 0)) <= after + 5_000_000


@pytest.mark.parametrize("size", [ROOM + 1, 2 * SLOT_SIZE, 65507])
def test_a_datagram_longer_than_a_slot_is_refused_alone(opened: Udp, size: int) -> None:
    with plain() as client:
        for payload in (b"before", b"\xff" * size, b"after"):
            client.sendto(payload, ("127.0.0.1", opened.port))
        pull(opened, 3)
        assert read(opened, 0).payload == b"before" and read(opened, 2).payload == b"after"
        with pytest.raises(Malformed) as refused:
            read(opened, 1)
        assert refused.value.reason == "ip_header"
        start, end = rx_bounds(opened.rx, rx_peek(opened.rx, 1))
        assert end == 2 * SLOT_SIZE
        assert check_frame(opened.rx.mem, start, end, 0, False, opened.port, opened.port)[0] != OK


def test_unreleased_slots_are_never_overwritten() -> None:
    with Udp(LOCAL, 0, slots=4) as server, plain() as client:
        for i in range(10):
            client.sendto(b"%d" % i, ("127.0.0.1", server.port))
        pull(server, 4)
        assert server.pull() == 0
        assert [read(server, i).payload for i in range(4)] == [b"0", b"1", b"2", b"3"]
        rx_release(server.rx, 1)
        pull(server, 1)
        assert server.pull() == 0
        assert [read(server, i).payload for i in range(4)] == [b"1", b"2", b"3", b"4"]
        # What found no slot waited in the socket; nothing is lost.
        assert [f.payload for f in take(server, 9)] == [b"%d" % i for i in range(1, 10)]
        assert server.statistics() == 0


def test_a_burst_beyond_the_buffer_is_counted(opened: Udp) -> None:
    with socket.socket(fileno=os.dup(opened.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    with plain() as client:
        for _ in range(500):
            client.sendto(bytes(300), ("127.0.0.1", opened.port))
    got = 0
    while count := opened.pull():
        got += count
        rx_release(opened.rx, count)
    assert 0 < got < 500
    assert opened.statistics() == 500 - got == opened.rx_dropped
    assert opened.statistics() == 500 - got  # reading it again loses nothing


def test_one_pull_is_bounded() -> None:
    with Udp(LOCAL, 0, slots=256) as server, plain() as client:
        for _ in range(RX_BATCH + 6):
            client.sendto(b"", ("127.0.0.1", server.port))
        assert (server.pull(), server.pull(), server.pull()) == (RX_BATCH, 6, 0)


def test_replies_go_where_told(opened: Udp) -> None:
    with plain() as one, plain("127.0.0.7") as other:
        for i in range(20):
            for sock, address in ((one, LOCAL), (other, IPv4Address("127.0.0.7"))):
                put(opened, Frame(dst_mac=bytes(6), src_ip=LOCAL, dst_ip=address,
                                  dst_port=port_of(sock), payload=b"%d" % i * i))
        assert opened.unsent() == 40
        opened.kick()
        assert opened.unsent() == 0 and not opened.congested
        for sock in (one, other):
            for i in range(20):
                assert sock.recvfrom(2048) == (b"%d" % i * i, ("127.0.0.1", opened.port))
    assert not opened.send_failed


@pytest.mark.parametrize(("source", "seen"), [
    ("127.0.0.1", "127.0.0.1"), ("127.0.0.9", "127.0.0.9"), ("0.0.0.0", "127.0.0.1"),
    ("255.255.255.255", "127.0.0.1"), ("224.0.0.1", "127.0.0.1")])
def test_replies_leave_from_the_address_in_the_frame(source: str, seen: str) -> None:
    """Where it is one: a wildcard socket would else answer from whatever the route likes."""
    with Udp(None, 0, slots=4) as server, plain() as client:
        put(server, Frame(src_ip=IPv4Address(source), dst_ip=LOCAL, dst_port=port_of(client),
                          payload=b"hello"))
        server.kick()
        assert client.recvfrom(100) == (b"hello", (seen, server.port))


@pytest.mark.parametrize(("mac", "to"), [
    (b"\xff" * 6, EVERYBODY),
    (STATION, IPv4Address("203.0.113.9"))])  # to an address that nobody has yet
def test_a_broadcast_goes_out_on_the_interface(mac: bytes, to: IPv4Address) -> None:
    with Udp(None, 0, interface="lo", slots=4) as server, plain("0.0.0.0") as client:
        put(server, Frame(dst_mac=mac, src_ip=LOCAL, dst_ip=to, dst_port=port_of(client),
                          payload=b"offer"))
        server.kick()
        assert client.recvfrom(100) == (b"offer", ("127.0.0.1", server.port))
        assert not server.send_failed


def test_more_than_one_batch_is_sent_at_one_kick() -> None:
    count = 2 * TX_BATCH + 10
    with Udp(LOCAL, 0, slots=4096) as sender, Udp(LOCAL, 0, slots=4096) as receiver:
        for i in range(count):
            put(sender, Frame(dst_mac=bytes(6), dst_ip=LOCAL, dst_port=receiver.port,
                              payload=i.to_bytes(4, "big")))
        sender.kick()
        assert sender.unsent() == 0
        assert [int.from_bytes(f.payload, "big") for f in take(receiver, count)] == list(
            range(count))


def test_what_cannot_be_sent_is_counted_and_left_out(opened: Udp) -> None:
    """First, last and several in a row, of three kinds; the good ones still arrive in order."""
    kinds = "xgggxxwgwwgux"
    with plain() as client:
        for i, kind in enumerate(kinds):
            frame = Frame(src_ip=LOCAL, dst_ip=LOCAL, dst_port=port_of(client), payload=b"%d" % i)
            if kind == "x":  # nobody can be reached at port 0
                frame.dst_port = 0
            elif kind == "u":  # not an address of this machine
                frame.src_ip = IPv4Address("203.0.113.77")
            put(opened, frame.encode()[:30 if kind == "w" else None])
        opened.kick()
        for i in [i for i, kind in enumerate(kinds) if kind == "g"]:
            assert client.recv(100) == b"%d" % i
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)
    assert opened.unsent() == 0 and not opened.congested
    assert opened.send_failed["EBADMSG"] == 3 and opened.send_failed["EINVAL"] >= 4
    assert opened.send_failed.total() == 8


def test_nobody_listens_there_any_more(opened: Udp) -> None:
    """"Port unreachable" comes back; that is the peer's trouble and not ours."""
    with plain() as gone:
        port = port_of(gone)
    for _ in range(50):
        put(opened, Frame(dst_mac=bytes(6), src_ip=LOCAL, dst_ip=LOCAL, dst_port=port))
        opened.kick()
        assert opened.pull() == 0
    assert not opened.send_failed and opened.unsent() == 0
    with plain() as client:
        client.sendto(b"still there", ("127.0.0.1", opened.port))
        assert take(opened, 1)[0].payload == b"still there"


Sendmmsg = Callable[[int, int, int, int], int]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS])
def test_what_finds_no_room_stays_and_goes_later(opened: Udp, code: int,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that takes three datagrams, then is full for a while."""
    real: Sendmmsg = udp._sendmmsg
    budget = 3

    def reluctant(fd: int, at: int, count: int, flags: int) -> int:
        nonlocal budget
        if not budget:
            ctypes.set_errno(code)
            return -1
        taken = real(fd, at, min(count, budget), flags)
        budget -= taken
        return taken

    monkeypatch.setattr(udp, "_sendmmsg", reluctant)
    with plain() as client:
        for i in range(10):
            put(opened, Frame(dst_mac=bytes(6), dst_ip=LOCAL, dst_port=port_of(client),
                              payload=b"%d" % i))
        opened.kick()
        assert (opened.congested, opened.tx_congested, opened.unsent()) == (True, 1, 7)
        opened.kick()
        assert (opened.congested, opened.tx_congested, opened.unsent()) == (True, 2, 7)
        budget = 100
        began = time.monotonic()
        opened.wait(5)  # sends the rest, and does not sleep for long
        assert time.monotonic() - began < 2
        assert (opened.congested, opened.tx_congested, opened.unsent()) == (False, 2, 0)
        assert [client.recv(9) for _ in range(10)] == [b"%d" % i for i in range(10)]
    assert not opened.send_failed


@pytest.mark.parametrize(("code", "match"), [
    (errno.ENODEV, "interface 'lo' went away"), (errno.EBADF, "sending on UDP port .* failed")])
def test_an_error_that_stays(code: int, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int, at: int, count: int, flags: int) -> int:
        ctypes.set_errno(code)
        return -1

    with Udp(None, 0, interface="lo", slots=4) as opened:
        monkeypatch.setattr(udp, "_sendmmsg", broken)
        put(opened, Frame(dst_mac=bytes(6), dst_ip=LOCAL))
        with pytest.raises(SystemRefused, match=match):
            opened.kick()


def test_waiting(opened: Udp) -> None:
    """It ends with time, with a datagram, with `also`, or at once where a frame is unread."""
    began = time.monotonic()
    opened.wait(0.05)
    assert time.monotonic() - began >= 0.05
    read_end, write_end = os.pipe()
    with plain() as client, os.fdopen(read_end, "rb"), os.fdopen(write_end, "wb") as pipe:
        pipe.write(b"!")
        pipe.flush()
        began = time.monotonic()
        opened.wait(30, read_end)
        client.sendto(b"hello", ("127.0.0.1", opened.port))
        opened.wait(30)
        pull(opened, 1)
        opened.wait(30)
        assert time.monotonic() - began < 10


@kernel
def echo(rx: Slots, tx: Slots, port: int, limit: int) -> int:
    """Send each of at most `limit` waiting frames back to where it came from."""
    count = 0
    while count < limit:
        base, to = rx_peek(rx, count), tx_start(tx)
        if base < 0 or to < 0:
            break
        start, end = rx_bounds(rx, base)
        ready = rx_checksum_ready(rx, base)
        reason, ip, _, after = check_frame(rx.mem, start, end, 0, ready, port, port)
        if reason == OK:
            copy(tx.mem, to, rx.mem, start, after - start)
            there = to + ip - start
            put32(tx.mem, there + 12, be32(rx.mem, ip + 16))
            put32(tx.mem, there + 16, be32(rx.mem, ip + 12))
            copy(tx.mem, there + 20, rx.mem, ip + 22, 2)
            copy(tx.mem, there + 22, rx.mem, ip + 20, 2)
            tx_commit(tx, after - start)
        count += 1
    rx_release(rx, count)
    return count


@kernel
def ask(tx: Slots, template: Memory, first: int, count: int) -> None:
    """Put `count` requests, numbered from `first` on, into free slots."""
    for number in range(first, first + count):
        to = tx_start(tx)
        copy(tx.mem, to, template, 0, len(template))
        put48(tx.mem, to + 42, number)
        put48(tx.mem, to + len(template) - 6, number ^ 0xABCDEF)
        tx_commit(tx, len(template))


@kernel
def collect(rx: Slots, port: int, size: int, seen: Memory) -> int:
    """Tick off in `seen` what came back whole; returns how many frames there were."""
    count = 0
    base = rx_peek(rx, 0)
    while base >= 0:
        start, end = rx_bounds(rx, base)
        reason, _, at, after = check_frame(rx.mem, start, end, 0, False, port, port)
        number = be32(rx.mem, at + 2)
        if (reason == OK and after - at == size
                and be32(rx.mem, after - 4) == number ^ 0xABCDEF and number < len(seen)):
            seen[number] += 1
        count += 1
        base = rx_peek(rx, count)
    rx_release(rx, count)
    return count


def test_round_trips() -> None:
    """Every one of many comes back once, whole; kernels see slots on both sides."""
    many, window = several(100_000, 3_000), 50
    seen = np.zeros(many, np.uint8)
    with Udp(LOCAL, 0, slots=512) as server, Udp(LOCAL, 0, slots=100) as client:
        template = Frame(dst_mac=bytes(6), src_ip=LOCAL, dst_ip=LOCAL, src_port=client.port,
                         dst_port=server.port, payload=bytes(301)).encode()
        octets = np.frombuffer(template, np.uint8).copy()
        deadline = time.monotonic() + 60
        for first in range(0, many, window):
            ask(client.tx, octets, first, window)
            client.kick()
            back = 0
            while back < window:
                assert time.monotonic() < deadline, f"{int(seen.sum())} of {many} came back"
                server.pull()
                if echo(server.rx, server.tx, server.port, 64):
                    server.kick()
                client.pull()
                back += collect(client.rx, client.port, 301, seen)
        assert (seen == 1).all()
        for side in (server, client):
            assert side.statistics() == 0 and side.tx_congested == 0 and not side.send_failed


def test_the_interface_that_was_meant() -> None:
    with Udp(LOCAL, 0, slots=4) as one:
        assert one.interface.name == "lo" and IPv4Interface("127.0.0.1/8") in (
            one.interface.addresses)
    with Udp(IPv4Address("127.0.0.9"), 0, slots=4) as other:
        assert other.interface.name == "lo"
    with Udp(None, 0, slots=4) as everywhere:
        place = everywhere.interface
        assert (place.name, place.index, place.mac, place.mtu) == ("any", 0, bytes(6), 1500)
        assert IPv4Interface("127.0.0.1/8") in place.addresses
    with Udp(None, 0, interface="lo", slots=4) as named:
        assert named.interface.index == socket.if_nametoindex("lo")


def refused(*arguments: Any, **named: Any) -> SystemRefused:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SystemRefused) as caught:
        Udp(*arguments, **named)
    assert len(os.listdir("/proc/self/fd")) == before
    return caught.value


def test_a_port_in_use(opened: Udp) -> None:
    error = refused(LOCAL, opened.port)
    assert error.what == f"UDP port {opened.port} is in use"
    assert f"sport = {opened.port}" in error.remedy
    assert "on 'lo' is in use" in refused(None, opened.port, interface="lo").what


def test_an_address_of_another_machine() -> None:
    assert "no interface here has the address 203.0.113.77" in refused(
        IPv4Address("203.0.113.77"), 0).what


def test_no_such_interface() -> None:
    assert "no interface 'eth77'" in refused(None, 0, interface="eth77").what


def test_more_slots_than_there_is_memory() -> None:
    assert "--ring-slots" in refused(LOCAL, 0, slots=1 << 42).remedy


def test_closing_gives_all_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Udp(LOCAL, 0, slots=4) as first:
        port = first.port
    first.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with Udp(LOCAL, port, slots=4) as second:
        assert second.port == port
    with pytest.raises(SystemRefused, match="Bad file descriptor"):
        second.pull()


def test_without_privilege() -> None:
    """A low port is refused in one line; a high one on a named interface needs no privilege."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 67:
        pytest.skip("everybody may take low ports here")
    script = ("from fastpath.errors import SystemRefused\n"
              "from fastpath.udp import Udp\n"
              "Udp(None, 0, interface='lo', slots=4).close()\n"
              "try:\n    Udp(None, 67, interface='lo')\n"
              "except SystemRefused as error:\n    print(error.what, error.remedy, sep='|')\n")
    drop = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all",
            "--inh-caps", "-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", script], capture_output=True, text=True,
                          env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
                          cwd=Path(udp.__file__).parent.parent)
    assert done.stdout == ("cannot take UDP port 67 on 'lo': operation not permitted|"
                           "run with sudo, or use --port 6700\n"), done.stderr


@pytest.mark.root
def test_a_client_without_an_address() -> None:
    """On a veth, with the client on a packet ring: no ARP could find it."""
    with two_namespaces(client_address="") as net:
        with entered(net.client):
            ring = Ring(INTERFACE, (67, 68), slots=64)
        with entered(net.server):
            server = Udp(None, 67, interface=INTERFACE, slots=64)
        with ring, server:
            own = server.interface.addresses[0].ip
            put(ring, Frame(src_mac=STATION, payload=b"discover"))
            ring.kick()
            server.wait(2)
            frame = take(server, 1)[0]
            assert (frame.src_ip, frame.dst_ip, frame.src_port, frame.payload) == (
                IPv4Address(0), EVERYBODY, 68, b"discover")
            put(server, Frame(dst_mac=STATION, src_ip=own, dst_ip=own + 9, src_port=67,
                              dst_port=68, payload=b"offer"))
            server.kick()
            ring.wait(2)
            start, end = rx_bounds(ring.rx, rx_peek(ring.rx, 0))
            answer = Frame.decode(ring.rx.mem[start:end].tobytes(), checksum_ready=False)
            assert (answer.dst_mac, answer.src_ip, answer.dst_ip, answer.dst_port,
                    answer.payload) == (b"\xff" * 6, own, EVERYBODY, 68, b"offer")
            assert not server.send_failed


@pytest.mark.root
def test_an_interface_that_goes_while_in_use() -> None:
    with two_namespaces() as net:
        with entered(net.server):
            server = Udp(None, 67, interface=INTERFACE, slots=64)
        with server:
            server.wait(0)
            net.server.ip("link del eth0\n")
            with pytest.raises(SystemRefused, match="went away"):
                server.wait(0.01)
            put(server, Frame(payload=b"offer"))
            with pytest.raises(SystemRefused, match="went away"):
                server.kick()
