"""dhcp-relay --many: several hops in one process, each in a namespace of its own.

The one thing to know: `relayed(1, 1, 1)` has a branch for each of three, with one server.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.ours import OurServer, Talker, program
from tests.peers.net import Namespace, quiet, stop, wait_until
from tests.peers.relays import DOWN, RUN_NETNS, SERVER, UP, Relayed, relayed
from tests.relaying import compiled

pytestmark = pytest.mark.root


@dataclass
class Many:
    """dhcp-relay with one line for each of `lines`, its files in `folder`."""

    folder: Path
    lines: Sequence[str]
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        compiled()
        place = self.folder / "many"
        place.write_text("# all of them\n\n" + "\n".join(self.lines) + "\n")
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*program("relay"), "--many", str(place), *self.arguments], stdout=log,
                stderr=log, stdin=subprocess.DEVNULL)
        wait_until("ready", lambda: " relays\n" in self.log or self.process.poll() is not None,
                   20)
        return self

    def __exit__(self, *exc: object) -> None:
        stop(self.process)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stats(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / name).read_text()))


def line(namespace: Namespace, place: Path, *words: str, named: bool = True) -> str:
    """A line for a router of `relayed`; by its name, or by its path."""
    where = namespace.name if named else str(RUN_NETNS / namespace.name)
    return " ".join((where, "--downlink", DOWN, "--uplink", UP, "--server", SERVER,
                     "--stats-json", str(place), *words))


@pytest.fixture(scope="module")
def net() -> Iterator[Relayed]:
    with relayed(1, 1, 1) as net:
        yield net


def lines(net: Relayed, folder: Path, *words: str) -> list[str]:
    return [line(branch[0], folder / f"{number}.json", *words, named=number != 1)
            for number, branch in enumerate(net.relays)]


@contextlib.contextmanager
def served(net: Relayed) -> Iterator[None]:
    """A server that answers to every giaddr of the three."""
    with OurServer(net.server, SUBNETS):
        yield


SUBNETS = ("--start-ip", "10.20.0.0", "--end-ip", "10.22.0.255", "--netmask", "255.252.0.0")


def test_each_serves_its_own_clients(net: Relayed, tmp_path: Path) -> None:
    with served(net), Many(tmp_path, lines(net, tmp_path), ("--stats-json",
                                                            str(tmp_path / "all.json"))) as many:
        for number, client in enumerate(net.clients):
            with Talker(client) as talker:
                for again in range(number + 1):
                    answer = talker.ask("discover", f"02:00:00:00:0{number}:0{again}")
                    assert answer and str(answer.giaddr) == f"10.{20 + number}.0.1"
        many.process.send_signal(signal.SIGUSR1)
        wait_until("statistics", lambda: "statistics" in many.log)
        assert many.stats("all.json")["requests"]["relayed"]["discover"] == 6
        assert many.stats("2.json")["replies"]["relayed"]["offer"] == 3
        assert stop(many.process) == 0
        said = many.log
    for number, branch in enumerate(net.relays):
        stats = many.stats(f"{number}.json")
        assert stats["requests"]["relayed"]["discover"] == number + 1
        assert [row["name"] for row in stats["interfaces"]] == [DOWN, UP]
        assert f"{branch[0].name}: relaying from down as 10.{20 + number}.0.1" in said
    # One line of the sums, not one for each.
    assert said.count("ended after") == 1 and "6 discover" in said.rpartition("ended")[2]


def test_one_that_loses_an_interface_is_said_to_be_gone(net: Relayed, tmp_path: Path) -> None:
    second = net.relays[1][0]
    second.ip("link add name gone type veth peer name far\nlink set dev far up\n"
              "addr add 10.66.0.1/24 dev gone\nlink set dev gone up\n")
    all_of_them = lines(net, tmp_path)
    all_of_them[1] += " --downlink gone"
    with served(net), Many(tmp_path, all_of_them) as many:
        second.ip("link del gone\n")
        wait_until("the news", lambda: "gone: " in many.log)
        for number, client in ((0, net.clients[0]), (2, net.clients[2])):
            with Talker(client) as talker:
                assert talker.ask("discover", f"02:00:00:00:0{number}:01")
        with Talker(net.clients[1]) as talker:
            assert talker.ask("discover", "02:00:00:00:01:01", 0.1) is None
        assert stop(many.process) == 1
    assert many.log.count("gone: ") == 1 and "Traceback" not in many.log
    assert f"{RUN_NETNS / second.name}:gone' went down or away" in many.log
    assert "went down" in many.stats("1.json")["gone"]
    assert "gone" not in many.stats("0.json")


def test_the_last_one_gone_ends_it(net: Relayed, tmp_path: Path) -> None:
    first = net.relays[0][0]
    first.ip("link add name gone type veth peer name far\nlink set dev far up\n"
             "addr add 10.66.0.1/24 dev gone\nlink set dev gone up\n")
    with Many(tmp_path, lines(net, tmp_path, "--downlink", "gone")[:1]) as many:
        first.ip("link del gone\n")
        assert many.process.wait(5) == 1


def test_faults_and_options_are_each_ones_own(net: Relayed, tmp_path: Path) -> None:
    all_of_them = lines(net, tmp_path)
    all_of_them[0] += " --fault delay:discover:delay=60ms --ring-slots 16"
    all_of_them[1] += " --fault 'drop:discover' --option82 append --circuit-id 'a b'"
    with served(net), Many(tmp_path, all_of_them) as many:
        took = []
        for number in (0, 2):
            with Talker(net.clients[number]) as talker:
                began = time.monotonic()
                assert talker.ask("discover", f"02:00:00:00:0{number}:01")
                took.append(time.monotonic() - began)
        with Talker(net.clients[1]) as talker:
            assert talker.ask("discover", "02:00:00:00:01:01", 0.1) is None
        assert stop(many.process) == 0
    assert took[0] >= 0.06 > took[1]
    assert many.stats("1.json")["discarded"]["fault"] == 1


@pytest.mark.parametrize(("change", "said"), [
    (lambda text: text.replace("--downlink down", "--downlink nonesuch"), "no interface"),
    (lambda text: "dnt-nonesuch " + text.partition(" ")[2], "no network namespace"),
    (lambda text: text.replace(SERVER, "10.22.0.1"), "address of this machine")])
def test_what_cannot_be_opened_is_named(change: Any, said: str, net: Relayed,
                                        tmp_path: Path) -> None:
    all_of_them = lines(net, tmp_path)
    all_of_them[2] = change(all_of_them[2])
    with Many(tmp_path, all_of_them) as many:
        assert many.process.wait(10) in (1, 2)
    told = many.log.splitlines()
    assert len(told) <= 2 and said in told[0] and "Traceback" not in many.log
    assert all_of_them[2].partition(" ")[0] in told[0]


def test_a_downlink_twice_is_refused(net: Relayed, tmp_path: Path) -> None:
    with Many(tmp_path, [*lines(net, tmp_path), lines(net, tmp_path)[0]]) as many:
        assert many.process.wait(10) == 1
    assert "in use" in many.log


COUNT = 200


@contextlib.contextmanager
def crowd(count: int) -> Iterator[list[Namespace]]:
    """Namespaces with `down` and `up`, all `up` on one bridge with the server's address."""
    token = f"dnt{os.getpid()}x{secrets.token_hex(3)}"
    wire = Namespace(f"{token}wire")
    made = [Namespace(f"{token}r{''.join(chr(97 + int(digit)) for digit in str(number))}")
            for number in range(count)]
    batch = "".join(f"netns add {each.name}\n" for each in made)
    try:
        quiet(wire)
        wire.ip("link add br0 type bridge\nlink set dev br0 up\naddr add 10.16.0.1/16 dev br0\n")
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        for number, each in enumerate(made):
            each.ip(f"link add name down type veth peer name c{number} netns {wire.name}\n"
                    f"link add name up type veth peer name u{number} netns {wire.name}\n"
                    f"addr add 10.16.{1 + number // 250}.{number % 250 + 1}/16 dev up\n"
                    f"addr add 10.20.{number}.1/24 dev down\n"
                    "link set dev down up\nlink set dev up up\n")
        wire.ip("".join(f"link set dev c{number} up\nlink set dev u{number} master br0 up\n"
                        for number in range(count)))
        yield made
    finally:
        for each in (wire, *made):
            subprocess.run(["ip", "netns", "del", each.name], capture_output=True)


def test_two_hundred_are_ready_soon_and_cost_nothing(tmp_path: Path) -> None:
    with crowd(COUNT) as made, Many(tmp_path, [
            line(each, tmp_path / f"{number}.json")
            for number, each in enumerate(made)]) as many:
        assert f"relaying as {COUNT} relays" in many.log

        def used_s() -> float:
            ticks = Path(f"/proc/{many.process.pid}/stat").read_text().split()[13:15]
            return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

        before = used_s()
        # Less than what one Python process takes to start, and rings of a bounded size.
        assert before < 5
        time.sleep(1)
        assert used_s() - before < 0.1
        status = Path(f"/proc/{many.process.pid}/status").read_text()
        assert int(status.partition("VmRSS:")[2].split()[0]) < 400 << 10
        assert stop(many.process) == 0
        assert all(many.stats(f"{number}.json")["servers"][0]["reachable"]
                   for number in range(COUNT))
