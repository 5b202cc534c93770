"""perfdhcp and `dhcp-tester --perfdhcp` with the same line: our server sees the same.

Each line is done by both, each against a fresh dhcp-server, and every request that reached the
server's interface is compared: how many of each kind, by whom, and all that they say. What may
differ is what docs/perfdhcp.md names: padding, the order of options, transaction ids.
"""

from __future__ import annotations

import shlex
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import Malformed
from fastpath.message import Message
from fastpath.packet import Frame, mac_text
from fastpath.wire import BOOTREQUEST
from tests.ours import START_S, OurServer, entered, program
from tests.peers import unpack
from tests.peers.net import INTERFACE, Namespace, two_namespaces

pytestmark = [pytest.mark.root, pytest.mark.peers("perfdhcp")]
SERVER, CLIENT = "10.16.0.1", "10.16.0.2"
POOL = ("--start-ip", "10.16.1.0", "--end-ip", "10.31.255.254")
# As perfdhcp's exits: done, or some exchange did not complete.
DONE = (0, 3)
_ADDRESS = 50
_PORTS = (67, 6700)
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Said:
    """One request as the server got it, without what differs between any two runs.

    options: code and value; an address that the server chose is "an address", the sender's
    hardware address "its own".
    """

    kind: str
    source: str
    target: str
    ports: tuple[int, int]
    hops: int
    secs: int
    flags: int
    ciaddr: bool
    giaddr: str
    options: tuple[tuple[int, str], ...]
    chaddr: str


@dataclass
class Seen:
    """What came of a line: all that was said, the server's statistics, and how it ended."""

    said: list[Said]
    received: dict[str, int]
    code: int
    output: str

    def counts(self) -> Counter[str]:
        return Counter(one.kind for one in self.said)

    def shapes(self) -> dict[str, set[Any]]:
        """Each kind of message with its forms, by whom does not matter."""
        found: dict[str, set[Any]] = {}
        for one in self.said:
            form = {name: getattr(one, name) for name in Said.__dataclass_fields__}
            del form["chaddr"]
            found.setdefault(one.kind, set()).add(tuple(form.items()))
        return found

    def speakers(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for one in self.said:
            found.setdefault(one.kind, set()).add(one.chaddr)
        return found


def _value(code: int, value: bytes, chaddr: bytes) -> str:
    if code == _ADDRESS:
        return "an address"
    return value.hex().replace(chaddr.hex(), " its own ")


def _said(octets: bytes) -> Said | None:
    try:
        frame = Frame.decode(octets, checksum_ready=False, ports=_PORTS)
        message = Message.decode(frame.payload)
    except Malformed:
        return None
    if message.op != BOOTREQUEST:
        return None
    kind = {1: "discover", 3: "renew" if int(message.ciaddr) else "request",
            7: "release"}[message.options[53][0]]
    return Said(kind, str(frame.src_ip), str(frame.dst_ip), (frame.src_port, frame.dst_port),
                message.hops, message.secs, message.flags, bool(int(message.ciaddr)),
                str(message.giaddr),
                tuple(sorted((code, _value(code, value, message.chaddr))
                             for code, value in message.options.items())),
                mac_text(message.chaddr))


class Listener:
    """Keeps every frame that reaches the server's interface until it is asked; a context manager.
    """

    def __init__(self, namespace: Namespace) -> None:
        with entered(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self._socket.bind((INTERFACE, 0x0800))
        self._socket.setblocking(False)

    def frames(self) -> Iterator[bytes]:
        while True:
            try:
                octets, where = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            if where[2] != socket.PACKET_OUTGOING:
                yield octets

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def _run(command: list[str], server: tuple[str, ...]) -> Seen:
    with two_namespaces(client_address=f"{CLIENT}/12") as net, \
            OurServer(net.server, (*POOL, *server)) as ours, Listener(net.server) as listener:
        done = net.client.run(command, check=False, timeout_s=START_S)
        said = [one for octets in listener.frames() if (one := _said(octets))]
        received = {kind: count for kind, count in ours.stop()["received"].items() if count}
    output = done.stdout + done.stderr
    assert done.returncode in DONE, f"{shlex.join(command)} ended with {done.returncode}: {output}"
    return Seen(said, received, done.returncode, output)


def both(line: str, *server: str) -> tuple[Seen, Seen]:
    """What the server sees of perfdhcp, and of our doing the same line."""
    theirs = unpack.program("perfdhcp").argv(*shlex.split(line))
    ours = [*program("tester"), "--perfdhcp", line]
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(lambda command: _run(command, server), (theirs, ours)))
    for one in seen:
        heard = Counter(one.received)
        assert heard["discover"] == one.counts()["discover"]
        assert heard["request"] == one.counts()["request"] + one.counts()["renew"]
        assert heard["release"] == one.counts()["release"]
    return seen[0], seen[1]


def test_broadcast_clients_options_and_what_has_no_effect() -> None:
    """-4 -r -R -n -W -b -B -l -o -1 -C -e -g -s -t -u -x; hardware addresses without carry."""
    theirs, ours = both(
        "-4 -r 400 -R 290 -n 290 -n 290 -W 500000 -b mac=00:0c:01:02:fe:f0 -o 60,646f63736973 "
        "-o 55,2a -1 -C , -e address-only -g single -s 7 -t 1 -u -xei -B -l eth0 all")
    assert ours.counts() == theirs.counts() == {"discover": 290, "request": 290}
    assert ours.shapes() == theirs.shapes()
    assert ours.speakers() == theirs.speakers()
    assert len(ours.speakers()["request"]) == 290
    assert (ours.code, theirs.code) == (0, 0)


def test_renewals_and_releases_beside_a_rate_for_a_time() -> None:
    """-r -f -F -p -d, and clients who take turns."""
    theirs, ours = both(f"-r 200 -R 150 -p 2 -f 60 -F 30 -d 0.5 -W 300000 {SERVER}")
    assert ours.shapes() == theirs.shapes()
    assert set(ours.shapes()) == {"discover", "request", "renew", "release"}
    assert ours.speakers()["discover"] == theirs.speakers()["discover"]
    for kind, most in (("discover", 400), ("request", 400), ("renew", 120), ("release", 60)):
        for seen in (ours, theirs):
            # perfdhcp begins some milliseconds late, and has nobody to renew then.
            assert 0.8 * most <= seen.counts()[kind] <= 1.03 * most, (kind, seen.counts())
    assert 0.9 < ours.counts()["discover"] / theirs.counts()["discover"] < 1.1


def test_discover_only_preload_and_clients_who_wait_long() -> None:
    """-i -P -y -Y."""
    theirs, ours = both(f"-i -r 100 -R 1000 -P 20 -p 3 -Y 1 -y 1 -W 100000 {SERVER}")
    assert ours.shapes() == theirs.shapes()
    for seen in (theirs, ours):
        assert set(seen.counts()) == {"discover"} and 310 <= seen.counts()["discover"] <= 321
        assert 95 <= sum(one.secs == 1 for one in seen.said) <= 105
        assert {one.secs for one in seen.said} == {0, 1}
    shared = theirs.speakers()["discover"] & ours.speakers()["discover"]
    assert len(shared) >= 310


def test_templates(tmp_path: Path) -> None:
    """-T -X -O -E -S -I."""
    header = bytearray(240)
    header[:4] = 1, 1, 6, 1
    header[8:10] = 0, 9
    header[24:28] = 10, 16, 0, 2
    header[236:] = bytes.fromhex("63825363")
    discover, request = tmp_path / "discover.hex", tmp_path / "request.hex"
    discover.write_text((header + b"\x35\x01\x01\x3c\x02AB\xff").hex(" "))
    # Room for options 50 and 54, which perfdhcp writes whole.
    request.write_text((header + b"\x35\x01\x03\x3c\x02AB" + bytes(12) + b"\xff").hex())
    theirs, ours = both(f"-r 200 -R 30 -n 40 -n 40 -W 300000 -T {discover} -T {request} -X 4 -O 33 "
                        f"-E 8 -I 247 -S 253 {SERVER}")
    assert ours.counts() == theirs.counts() == {"discover": 40, "request": 40}
    assert ours.shapes() == theirs.shapes()
    assert {one.secs for one in ours.said if one.kind == "discover"} == {9}
    assert ours.speakers() == theirs.speakers()
    assert (ours.code, theirs.code) == (0, 0)


def test_lists_of_clients_local_address_and_ports(tmp_path: Path) -> None:
    """-M -l -L -N."""
    macs = tmp_path / "macs"
    macs.write_text("".join(f"00:0c:0{i}:0a:0b:0c\n" for i in range(3)))
    theirs, ours = both(f"-i -M {macs} -l {CLIENT} -L 6768 -N 6700 -r 200 -n 40 -d 0.2 {SERVER}",
                        "--port", "6700")
    assert ours.counts() == theirs.counts() == {"discover": 40}
    assert ours.shapes() == theirs.shapes()
    assert {one.ports for one in ours.said} == {(6768, 6700)}
    assert ours.speakers() == theirs.speakers()


def test_lists_of_relay_agents(tmp_path: Path) -> None:
    """-J: giaddr by exchange; ours speak from there too."""
    relays = tmp_path / "relays"
    relays.write_text("10.16.0.5\n10.16.0.6\n10.16.0.7\n")
    theirs, ours = both(f"-i -J {relays} -r 200 -R 40 -n 40 -d 0.2 -l eth0 {SERVER}")
    assert ours.counts() == theirs.counts() == {"discover": 40}
    assert ours.speakers() == theirs.speakers()

    def without_source(seen: Seen) -> set[Any]:
        return {tuple(item for item in shape if item[0] != "source")
                for shape in seen.shapes()["discover"]}

    assert without_source(ours) == without_source(theirs)
    assert {one.giaddr for one in ours.said} == {"10.16.0.5", "10.16.0.6", "10.16.0.7"}
    assert all(one.source == one.giaddr for one in ours.said)


def test_avalanche_and_a_wrapped_program(tmp_path: Path) -> None:
    """--scenario -w."""
    log, script = tmp_path / "log", tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "called $@" >> {log}\n')
    script.chmod(0o755)
    theirs, ours = both(f"--scenario avalanche -R 120 {SERVER}")
    # What found no room in a receive buffer is sent again.
    for seen in (theirs, ours):
        assert seen.counts()["discover"] >= 120 and seen.counts()["request"] >= 120
        assert len(seen.speakers()["request"]) == 120
    assert ours.shapes() == theirs.shapes() and ours.speakers() == theirs.speakers()
    assert (ours.code, theirs.code) == (0, 0)
    both(f"-r 20 -n 2 -n 2 -W 300000 -w {script} {SERVER}")
    # perfdhcp tells a script nothing, for all that its manual says.
    assert sorted(log.read_text().split("\n")[:-1]) == ["called ", "called ", "called start",
                                                        "called stop"]


def test_enough_drops_end_it() -> None:
    """-D: the server has one address to give."""
    theirs, ours = both(f"-r 100 -R 500 -p 20 -d 0.1 -D 5 {SERVER}",
                        "--start-ip", "10.16.1.0", "--end-ip", "10.16.1.0")
    for seen in (theirs, ours):
        assert 5 < seen.counts()["discover"] < 40 and seen.counts()["request"] == 1
        assert seen.code == 3


def test_everybody_on_an_interface_without_an_address() -> None:
    with two_namespaces() as net:
        theirs = net.client.run(unpack.program("perfdhcp").argv("-n", "1", "-l", INTERFACE, "all"),
                                check=False)
        ours = net.client.run([*program("tester"), "--perfdhcp", f"-n 1 -l {INTERFACE} all"],
                              check=False)
    assert theirs.returncode == ours.returncode == 1
    assert "has no IPv4 address" in ours.stderr and len(ours.stderr.splitlines()) == 2
