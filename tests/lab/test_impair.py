"""Impaired links under real traffic, counted frame by frame, from every kind of sender.

Programs of ours send from rings and hear in rings; others use sockets. What an impairment does
it has to do to all of them: a number that is true for one kind only is a wrong number.
"""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netlab.features import probe
from netlab.impairment.netem import on_the_machine
from tests.lab.machine import Machine, machine, wait_until

pytestmark = pytest.mark.root

# Sends frames from one node and counts what two kinds of ears hear in another.
_TRAFFIC = """
import json, select, socket, struct, sys, time
from fastpath.elsewhere import within
from fastpath.ring import Ring
from fastpath.slots import rx_peek, rx_release, tx_commit, tx_start

lab, (node, ifname), (to_node, to_ifname), kind, count, pause_s = json.loads(sys.argv[1])
address = sys.argv[2]

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

body = bytes(300)
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(body), 0, 0, 64, 17, 0, bytes(4), b"\\xff" * 4)
ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
frame = (b"\\xff" * 6 + bytes.fromhex("020000000001") + b"\\x08\\x00" + ip
         + struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body)

def open_udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    return sock

def open_ears():
    sock = open_udp()
    sock.bind(("", 67))
    sock.setblocking(False)
    return Ring(to_ifname, (67,), slots=4096), sock

def open_mouth():
    if kind == "ring":
        return Ring(ifname, (68,), slots=1024)
    if kind == "packet":
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((ifname, 0))
        return sock
    sock = open_udp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
    return sock

def send(mouth):
    if kind == "ring":
        while (at := tx_start(mouth.tx)) < 0:
            mouth.kick()
        mouth.tx.mem[at:at + len(frame)] = memoryview(frame)
        tx_commit(mouth.tx, len(frame))
        mouth.kick()
    elif kind == "packet":
        mouth.send(frame)
    else:
        mouth.sendto(body, (address, 67))

ring, ear = within(f"{lab}-{to_node}", open_ears)
mouth = within(f"{lab}-{node}", open_mouth)
heard = {"ring": 0, "udp": 0}
first = last = time.monotonic()

def listen():
    global first, last
    before = dict(heard)
    while rx_peek(ring.rx, 0) >= 0:
        rx_release(ring.rx, 1)
        heard["ring"] += 1
    try:
        while ear.recv(2048):
            heard["udp"] += 1
    except BlockingIOError:
        pass
    if heard != before:
        last = time.monotonic()
        if not before["ring"]:
            first = last

print("ready", file=sys.stderr, flush=True)
for _ in range(count):
    send(mouth)
    listen()
    if pause_s:
        time.sleep(pause_s)
quiet = time.monotonic() + 0.5
while time.monotonic() < max(quiet, last + 0.5) and min(heard.values()) < count:
    if kind == "ring" and mouth.congested:
        mouth.kick()
    select.select([ring, ear], [], [], 0.002)
    listen()
print(json.dumps(heard | {"took_s": last - first, "octets": len(frame)}))
"""
needs_xdp = pytest.mark.skipif("xdp" not in probe().has and "netem" not in probe().has,
                               reason="needs netem, or XDP programs")
needs_rate = pytest.mark.skipif("tbf" not in probe().has and "netem" not in probe().has,
                                reason="needs netem or tbf")
# How late the kernel and the listener may be in all: emulated machines have slow timers.
LATE_S = 0.1


@pytest.fixture(scope="module")
def labs(_able: None) -> Iterator[Machine]:
    """A machine where a chain of cables and a bridged segment stand."""
    with machine() as made:
        made.lab("setup", "relay", "--name", "chain")
        made.lab("setup", "direct", "--name", "bridged")
        yield made
        made.lab("teardown", "--all")


@pytest.fixture(autouse=True)
def _clean(labs: Machine) -> Iterator[None]:
    yield
    for name in ("chain", "bridged"):
        labs.lab("impair", "reset", "--all", "--name", name)
        assert "no link is impaired" in labs.lab("impair", "show", "--name", name).stdout


# lab, where frames are sent and where they are heard, and the address of that.
CABLE = ("chain", ("relay1", "eth1"), ("server", "eth0"), "10.0.1.2")
CABLE_UP = ("chain", ("server", "eth0"), ("relay1", "eth1"), "10.0.1.1")
BRIDGE = ("bridged", ("client", "eth0"), ("server", "eth0"), "255.255.255.255")
BRIDGE_BACK = ("bridged", ("server", "eth0"), ("client", "eth0"), "255.255.255.255")
WAYS = {"cable": CABLE, "cable back": CABLE_UP, "bridge": BRIDGE, "bridge back": BRIDGE_BACK}
# Every kind of sender, over a cable and over a bridge, there and back.
COVER = [("cable", "ring"), ("cable", "packet"), ("cable", "udp"), ("cable back", "ring"),
         ("bridge", "ring"), ("bridge", "packet"), ("bridge back", "ring"), ("bridge back", "udp")]

Way = tuple[str, tuple[str, str], tuple[str, str], str]


def traffic(labs: Machine, way: Way, kind: str, count: int = 300,
            pause_s: float = 0.0) -> dict[str, Any]:
    """{"ring", "udp": frames heard, "took_s": first to last, "octets": of a frame}."""
    lab, sender, receiver, address = way
    said = labs.run([sys.executable, "-c", _TRAFFIC,
                     json.dumps([lab, sender, receiver, kind, count, pause_s]), address],
                    env={"NUMBA_DISABLE_JIT": "1"})
    return dict(json.loads(said.stdout))


def impair(labs: Machine, way: Way, *words: str, code: int | None = 0,
           ) -> subprocess.CompletedProcess[str]:
    """Impair what the sender of the way sends."""
    node, ifname = way[1]
    return labs.lab("impair", "set", f"{node}:{ifname}", *words, "--name", way[0], code=code)


def netem_takes_no_seed() -> bool:
    """Before Linux 6.7 (linux/pkt_sched.h)."""
    major, minor = re.findall(r"\d+", platform.release())[:2]
    return (int(major), int(minor)) < (6, 7)


def shown(labs: Machine, way: Way) -> dict[str, Any]:
    """What `lab impair show --json` says of the link of the way's sender."""
    node, ifname = way[1]
    said = labs.lab("impair", "show", f"{node}:{ifname}", "--json", "--name", way[0])
    (link,) = json.loads(said.stdout)["links"]
    return dict(link)


@pytest.mark.parametrize(("way", "kind"), COVER)
def test_nothing_is_lost_where_nothing_is_impaired(labs: Machine, way: str, kind: str) -> None:
    heard = traffic(labs, WAYS[way], kind)
    assert heard["ring"] == 300
    assert heard["udp"] == 300 or way == "bridge back", "the client has no address to hear at"


@needs_xdp
@pytest.mark.parametrize(("way", "kind"), COVER)
def test_all_is_lost(labs: Machine, way: str, kind: str) -> None:
    impair(labs, WAYS[way], "--loss", "100%", "--direction", "out")
    heard = traffic(labs, WAYS[way], kind, 100)
    assert (heard["ring"], heard["udp"]) == (0, 0)
    if kind != "udp":
        # And a question or two who has an address (ARP).
        assert 100 <= shown(labs, WAYS[way])["out"]["lost"] < 105


@needs_xdp
@pytest.mark.parametrize("way", WAYS)
def test_loss_is_counted_frame_by_frame(labs: Machine, way: str) -> None:
    impair(labs, WAYS[way], "--loss", "20%", "--direction", "out")
    heard = traffic(labs, WAYS[way], "ring", 3000)
    lost = shown(labs, WAYS[way])["out"]["lost"]
    assert heard["ring"] + lost == 3000
    # Five standard deviations of a binomial distribution: 5 * sqrt(3000 * 0.2 * 0.8).
    assert abs(lost - 600) < 110


@needs_xdp
def test_only_the_direction_that_was_named(labs: Machine) -> None:
    impair(labs, CABLE, "--loss", "100%", "--direction", "in")
    assert traffic(labs, CABLE, "ring", 50)["ring"] == 50
    assert traffic(labs, CABLE_UP, "ring", 50)["ring"] == 0
    link = shown(labs, CABLE)
    assert link["out"] == {"by": []}
    assert link["in"]["loss"] == "100%"


@needs_xdp
def test_reset_restores(labs: Machine) -> None:
    impair(labs, CABLE, "--loss", "100%", "--rate", "1mbit")
    said = labs.lab("impair", "reset", "net1", "--name", "chain").stdout
    assert "reset 1 " in said
    heard = traffic(labs, CABLE, "ring")
    assert heard["ring"] == 300
    assert heard["took_s"] < 0.3
    assert shown(labs, CABLE)["in"] == {"by": []}


@needs_xdp
def test_set_replaces_all_that_was_before(labs: Machine) -> None:
    impair(labs, CABLE, "--loss", "100%", "--rate", "1mbit")
    impair(labs, CABLE, "--loss", "1%")
    assert {name: shown(labs, CABLE)["out"].get(name) for name in ("loss", "rate")} == {
        "loss": "1%", "rate": None}
    impair(labs, CABLE, "--rate", "2mbit")
    assert {name: shown(labs, CABLE)["in"].get(name) for name in ("loss", "rate")} == {
        "loss": None, "rate": "2mbit"}


@needs_rate
@pytest.mark.parametrize(("way", "kind"), COVER)
def test_rate(labs: Machine, way: str, kind: str) -> None:
    impair(labs, WAYS[way], "--rate", "2mbit", "--direction", "out")
    heard = traffic(labs, WAYS[way], kind)
    assert heard["ring"] == 300
    # 342 octets a frame, from the first heard to the last. netem sends one after the other; those
    # that fit tbf's bucket of 1,600 pass at once.
    at_once = heard["octets"] if "netem" in probe().has else 1600
    should_s = (300 * heard["octets"] - at_once) * 8 / 2e6
    assert 0.9 * should_s < heard["took_s"] < 1.1 * should_s + LATE_S
    assert shown(labs, WAYS[way])["out"]["passed"] >= 300


@needs_rate
def test_what_does_not_fit_the_queue_is_lost_and_counted(labs: Machine) -> None:
    # As in `in`: frames reach this queue from a bridge, which does not wait for anybody.
    node = labs.lab("impair", "set", "server", "--rate", "1mbit", "--limit", "10", "--direction",
                    "in", "--name", "bridged")
    assert "rate 1mbit" in node.stdout
    heard = traffic(labs, BRIDGE, "ring")
    said = labs.lab("impair", "show", "server:eth0", "--json", "--name", "bridged").stdout
    (link,) = json.loads(said)["links"]
    assert heard["ring"] < 200
    assert heard["ring"] + link["in"]["lost"] == 300


@needs_rate
def test_a_rate_set_while_a_program_is_sending(labs: Machine) -> None:
    sending = labs.popen(
        [sys.executable, "-c", _TRAFFIC, json.dumps([*CABLE[:3], "ring", 300, 0.003]), CABLE[3]],
        env={"NUMBA_DISABLE_JIT": "1"})
    assert sending.stderr
    assert sending.stderr.readline() == "ready\n"
    impair(labs, CABLE, "--rate", "1mbit", "--direction", "out")
    heard = json.loads(sending.communicate(timeout=60)[0])
    # While the kernel exchanges queues it throws away what is sent, uncounted (dev_deactivate,
    # net/sched/sch_generic.c): on a slow machine that takes longer than one pause.
    assert 297 <= heard["ring"] <= 300
    assert shown(labs, CABLE)["out"]["passed"] > 50


@needs_xdp
def test_a_segment_is_all_its_links(labs: Machine) -> None:
    labs.lab("impair", "set", "lan", "--loss", "3%", "--name", "bridged")
    said = labs.lab("impair", "show", "--json", "--name", "bridged").stdout
    assert [(link["node"], link["out"]["loss"], link["in"]["loss"])
            for link in json.loads(said)["links"]] == [("client", "3%", "3%"),
                                                       ("server", "3%", "3%")]


@needs_xdp
def test_a_timed_impairment_comes_and_goes(labs: Machine) -> None:
    began = time.monotonic()
    impair(labs, CABLE, "--loss", "100%", "--from", "0.1s", "--until", "0.4s")
    assert 0.4 <= time.monotonic() - began < 3
    assert shown(labs, CABLE)["out"] == {"by": []}


@needs_xdp
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_impairment_is_taken_back(labs: Machine, number: int) -> None:
    command = labs.popen(labs.lab_argv("impair", "set", "relay1:eth1", "--loss", "100%",
                                       "--until", "1h", "--name", "chain"))
    wait_until("loss", lambda: shown(labs, CABLE)["out"].get("loss") == "100%")
    command.send_signal(number)
    _, said = command.communicate(timeout=20)
    assert command.returncode == 128 + number
    assert "Traceback" not in said
    assert shown(labs, CABLE)["out"] == {"by": []}


@needs_xdp
def test_a_link_with_another_xdp_program_is_left_alone(labs: Machine) -> None:
    if not on_the_machine():
        pytest.skip("needs root of the machine: XDP programs")
    script = ("import sys; from fastpath.elsewhere import within; from netlab.tc import Tc;"
              "from netlab.impairment import loss; loss.NAME = b'other';\n"
              "def put(percent):\n"
              "    tc = Tc(); loss.put(tc, tc.devices()['eth0'], percent)\n"
              "within('chain-server', lambda: put(float(sys.argv[1])))")
    labs.run([sys.executable, "-c", script, "50"])
    try:
        said = impair(labs, CABLE, "--loss", "1%", "--rate", "1mbit", code=None)
        if "netem" in probe().has:
            # That needs no program of ours: the two stand side by side.
            assert said.returncode == 0
            assert [shown(labs, CABLE)[way]["by"] for way in ("out", "in")] == [["netem"]] * 2
        else:
            assert said.returncode == 1
            assert "another XDP program is there" in said.stderr
            # All or nothing.
            assert shown(labs, CABLE)["in"] == {"by": []}
            assert "none" in labs.lab("impair", "show", "server", "--name", "chain").stdout
        labs.lab("impair", "reset", "--all", "--name", "chain")
        # It still does what it did: five standard deviations of 50 %.
        assert abs(traffic(labs, CABLE, "ring", 100)["ring"] - 50) < 25
    finally:
        labs.run([sys.executable, "-c", script, "0"])


@pytest.mark.parametrize(("words", "refused", "done"), [
    (("--delay", "20ms"), "cannot delay frames: this kernel has no netem (CONFIG_NET_SCH_NETEM)",
     {"delay": "20ms"}),
    (("--delay", "20ms", "--jitter", "5ms"), "cannot delay frames",
     {"delay": "20ms", "jitter": "5ms"}),
    (("--duplicate", "1%"), "cannot double frames", {"duplicate": "1%"}),
    (("--delay", "20ms", "--reorder", "2%"), "no netem (CONFIG_NET_SCH_NETEM)",
     {"delay": "20ms", "reorder": "2%"}),
    (("--loss", "1%", "--duplicate", "1%"), "cannot double frames",
     {"loss": "1%", "duplicate": "1%"}),
    (("--loss", "1%", "--seed", "3"), "--seed: this kernel has no netem", {"loss": "1%"}),
])
def test_what_only_netem_can_do_is_done_by_it_or_refused_whole(
        labs: Machine, words: tuple[str, ...], refused: str, done: dict[str, str]) -> None:
    ended = impair(labs, CABLE, *words, code=None)
    out = shown(labs, CABLE)["out"]
    if "netem" not in probe().has:
        assert ended.returncode == 1
        assert refused in ended.stderr
        assert "lab doctor" in ended.stderr
    elif "--seed" in words and netem_takes_no_seed():
        assert ended.returncode == 1
        assert "netem of this kernel has no seed" in ended.stderr
    else:
        assert ended.returncode == 0, ended.stderr
        assert {name: out[name] for name in ("by", *done)} == {"by": ["netem"], **done}
        return
    assert out == {"by": []}


@pytest.mark.parametrize(("words", "said"), [
    (("set", "client:eth0"), "nothing to impair"),
    (("set", "client:eth9", "--loss", "1%"), "no link ends in client:eth9"),
    (("set", "nowhere", "--loss", "1%"), "no link, node or segment 'nowhere'"),
    (("set", "relay1", "--loss", "1%"), "relay1 has 2 links"),
    (("set", "client", "--loss", "1"), "'1' is not a share"),
    (("set", "client", "--loss", "101%"), "is not a share"),
    (("set", "client", "--loss=-1%"), "is not a share"),
    (("set", "client", "--rate", "10"), "is not a rate"),
    (("set", "client", "--rate", "1bit"), "less than 1kbit"),
    (("set", "client", "--delay", "soon"), "Invalid value for '--delay'"),
    (("set", "client", "--delay", "10ms", "--jitter", "20ms"), "jitter of 20 ms is more"),
    (("set", "client", "--reorder", "1%"), "reordering needs a delay"),
    (("set", "client", "--loss", "1%", "--from", "2s", "--until", "1s"), "ends before"),
    (("set", "client", "--loss", "1%", "--direction", "up"), "--direction"),
    (("show", "client.eth7"), "no link ends in client:eth7"),
    (("reset",), "name a link, or --all"),
    (("reset", "client", "--all"), "name a link, or --all"),
])
def test_what_cannot_be_meant(labs: Machine, words: tuple[str, ...], said: str) -> None:
    refused = labs.lab("impair", *words, "--name", "chain", code=2)
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_lab(labs: Machine) -> None:
    assert "not up" in labs.lab("impair", "show", "--name", "none", code=2).stderr


def test_the_machine_is_as_it_was(host: Machine) -> None:
    before: Callable[[], dict[str, Any]] = host.snapshot
    was = before()
    host.lab("setup")
    if "tbf" in probe().has:
        host.lab("impair", "set", "lan", "--rate", "1mbit")
    host.lab("teardown")
    assert host.snapshot() == was
