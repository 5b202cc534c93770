"""netem on links of a lab: what each frame went through, by the kernel's own clock.

Frames are numbered. A frame's latency is from just before it was sent to the time stamp that the
kernel gave it where it arrived, so it does not matter how busy the machine is with Python.
"""

from __future__ import annotations

import json
import platform
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netlab.features import probe
from tests.lab.machine import Machine, machine

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("netem" not in probe().has,
                       reason="needs netem (CONFIG_NET_SCH_NETEM)"),
]

# Sends numbered frames in one node; prints [[number, latency in ms], ...] as heard in another.
_FRAMES = """
import json, select, socket, struct, sys, time
from fastpath.elsewhere import within

(node, ifname), (to_node, to_ifname), count, pause_s = json.loads(sys.argv[1])
EXPERIMENTAL, SO_TIMESTAMPNS = 0x88B5, 35

def open_ear():
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))
    ear.bind((to_ifname, EXPERIMENTAL))
    ear.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    ear.setblocking(False)
    return ear

def open_mouth():
    mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    mouth.bind((ifname, 0))
    return mouth

ear, mouth = within(to_node, open_ear), within(node, open_mouth)
sent, heard = [], []

def listen(timeout_s):
    while select.select([ear], [], [], timeout_s)[0]:
        frame, told, _, _ = ear.recvmsg(256, 256)
        s, ns = struct.unpack("qq", told[0][2])
        (number,) = struct.unpack_from("!I", frame, 14)
        heard.append((number, (s * 10**9 + ns - sent[number]) / 1e6))
        timeout_s = min(timeout_s, 0.2)

for number in range(count):
    sent.append(time.time_ns())
    mouth.send(b"\\xff" * 6 + bytes.fromhex("020000000001")
               + struct.pack("!HI60x", EXPERIMENTAL, number))
    listen(0)
    time.sleep(pause_s)
listen(0.5)
print(json.dumps(heard))
"""
THERE = (("relay1", "eth1"), ("server", "eth0"))
BACK = (THERE[1], THERE[0])
# How late the kernel may be, most of the time: emulated machines have slow timers.
LATE_MS = 8.0
# A time stamp of netem's is cut to 64 ns.
EARLY_MS = 0.01


@dataclass(frozen=True)
class Heard:
    """Frames in the order in which they came: (number, latency in ms)."""

    frames: list[tuple[int, float]]

    @property
    def latencies(self) -> list[float]:
        return [latency for _, latency in self.frames]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.latencies)


@pytest.fixture(scope="module")
def chain(_able: None) -> Iterator[Machine]:
    """A machine with a lab whose relay and server have a cable between them."""
    with machine() as made:
        made.lab("setup", "relay", "--name", "chain")
        yield made
        made.lab("teardown", "--name", "chain")


@pytest.fixture(autouse=True)
def _clear(chain: Machine) -> Iterator[None]:
    yield
    chain.lab("impair", "reset", "--all", "--name", "chain")


def impair(chain: Machine, *words: str, code: int = 0) -> str:
    """Impair what the relay sends to the server, unless `words` say more; what was said of it."""
    said = chain.lab("impair", "set", "relay1:eth1", "--direction", "out", *words, "--name",
                     "chain", code=code)
    return said.stderr if code else said.stdout


def shown(chain: Machine) -> dict[str, Any]:
    said = chain.lab("impair", "show", "relay1:eth1", "--json", "--name", "chain").stdout
    return dict(json.loads(said)["links"][0]["out"])


def frames(chain: Machine, way: tuple[tuple[str, str], tuple[str, str]] = THERE, count: int = 300,
           pause_s: float = 0.001) -> Heard:
    ends = [(f"chain-{node}", ifname) for node, ifname in way]
    said = chain.run([sys.executable, "-c", _FRAMES, json.dumps([*ends, count, pause_s])])
    return Heard([(number, latency) for number, latency in json.loads(said.stdout)])


def five_deviations(count: int, share: float) -> float:
    """Of a binomial distribution: one run in two million strays further."""
    return float(5 * (count * share * (1 - share)) ** 0.5)


def test_a_link_without_netem_delays_nothing(chain: Machine) -> None:
    heard = frames(chain)
    assert [number for number, _ in heard.frames] == list(range(300))
    assert heard.median_ms < LATE_MS


@pytest.mark.parametrize("delay_ms", [1, 30, 250])
def test_delay_is_measured(chain: Machine, delay_ms: int) -> None:
    impair(chain, "--delay", f"{delay_ms}ms")
    heard = frames(chain)
    assert [number for number, _ in heard.frames] == list(range(300))
    assert min(heard.latencies) > delay_ms - EARLY_MS
    assert heard.median_ms < delay_ms + LATE_MS


def test_delay_of_one_direction_alone(chain: Machine) -> None:
    impair(chain, "--delay", "40ms")
    assert frames(chain, BACK, 50).median_ms < LATE_MS
    assert frames(chain, THERE, 50).median_ms > 40 - EARLY_MS


def test_delay_of_both_directions(chain: Machine) -> None:
    impair(chain, "--delay", "40ms", "--direction", "both")
    for way in (THERE, BACK):
        assert min(frames(chain, way, 50).latencies) > 40 - EARLY_MS


def test_jitter_is_uniform_both_ways_and_not_longer(chain: Machine) -> None:
    impair(chain, "--delay", "60ms", "--jitter", "40ms")
    heard = frames(chain, count=400)
    assert sorted(number for number, _ in heard.frames) == list(range(400))
    assert min(heard.latencies) > 20 - EARLY_MS
    assert statistics.quantiles(heard.latencies, n=20)[-1] < 100 + LATE_MS
    # 80 / sqrt(12), were it exact. A normal distribution cut at the same ends has half of that.
    assert 18 < statistics.stdev(heard.latencies) < 28
    assert 50 < heard.median_ms < 70 + LATE_MS


@pytest.mark.parametrize("percent", [1, 20, 100])
def test_loss_is_counted_frame_by_frame(chain: Machine, percent: int) -> None:
    impair(chain, "--loss", f"{percent}%")
    heard = frames(chain, count=1000, pause_s=0)
    lost = shown(chain)["lost"]
    assert len(heard.frames) + lost == 1000
    assert len({number for number, _ in heard.frames}) == len(heard.frames)
    assert abs(lost - 10 * percent) <= five_deviations(1000, percent / 100)


def test_duplicates_come_twice_and_never_thrice(chain: Machine) -> None:
    impair(chain, "--duplicate", "20%")
    times = Counter(number for number, _ in frames(chain, count=1000, pause_s=0).frames)
    assert sorted(times) == list(range(1000))
    twice = Counter(times.values())
    assert set(twice) == {1, 2}
    assert abs(twice[2] - 200) <= five_deviations(1000, 0.2)


def test_what_is_reordered_overtakes_because_no_delay_befalls_it(chain: Machine) -> None:
    impair(chain, "--delay", "100ms", "--reorder", "25%")
    heard = frames(chain, count=400)
    assert sorted(number for number, _ in heard.frames) == list(range(400))
    spared = [latency for latency in heard.latencies if latency < 100 - EARLY_MS]
    assert statistics.median(spared) < LATE_MS
    assert abs(len(spared) - 100) <= five_deviations(400, 0.25)
    assert [number for number, _ in heard.frames] != list(range(400))


def test_all_at_once(chain: Machine) -> None:
    impair(chain, "--delay", "50ms", "--loss", "10%", "--duplicate", "10%", "--rate", "10mbit")
    heard = frames(chain, count=500)
    assert min(heard.latencies) > 50 - EARLY_MS
    alive = len({number for number, _ in heard.frames})
    # A frame is gone where neither it nor a second one of it stayed.
    assert abs(500 - alive - 50) <= five_deviations(500, 0.1)
    assert 0 < len(heard.frames) - alive < 100
    assert {name: shown(chain)[name] for name in ("delay", "loss", "duplicate", "rate")} == {
        "delay": "50ms", "loss": "10%", "duplicate": "10%", "rate": "10mbit"}


def test_a_seed_gives_the_same_losses_again_or_is_refused(chain: Machine) -> None:
    """netem takes one from 6.7 on; before, it takes no notice of it (linux/pkt_sched.h)."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    assert version
    if (int(version[1]), int(version[2])) < (6, 7):
        assert "no seed" in impair(chain, "--loss", "30%", "--seed", "7", code=1)
        assert shown(chain) == {"by": []}
        return
    runs = []
    for _ in range(2):
        impair(chain, "--loss", "30%", "--seed", "7")
        runs.append([number for number, _ in frames(chain, count=200, pause_s=0).frames])
    assert runs[0] == runs[1]


def test_clients_see_the_delay_of_the_topology(chain: Machine, tmp_path: Path) -> None:
    """20 ms each way: 40 ms a leg, two legs an exchange."""
    topology, result = tmp_path / "far.yaml", tmp_path / "result.json"
    topology.write_text(
        "segments: {lan: {subnet: 10.20.0.0/16}}\n"
        "nodes:\n"
        "  client: {role: client, links: lan}\n"
        "  server: {role: server, links: lan}\n"
        "impairments:\n"
        "  - {link: client.eth0, delay: 20ms}\n")
    chain.lab("test", str(topology), "--name", "far", "--json", str(result), "--", "--clients",
              "60", "--concurrency", "4", env={"NUMBA_DISABLE_JIT": "1"})
    document = json.loads(result.read_text())
    assert (document["verdict"], document["clients"]["bound"]) == ("pass", 60)
    assert document["errors"]["discover_timeout"] == document["errors"]["request_timeout"] == 0
    latency = document["latency_us"]
    for leg in ("discover_offer", "request_ack"):
        assert latency[leg]["min"] >= 40_000
        # Interpreted programs, perhaps on an emulated machine: they take a while themselves.
        assert latency[leg]["p50"] < 120_000
    assert latency["dora"]["min"] >= 80_000
