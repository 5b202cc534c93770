"""dhcp-server as a running program: signals, reloads, service managers, users, logs, metrics."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import pwd
import random
import select
import shutil
import signal
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastpath.packet import Frame
from fastpath.wire import MessageType
from tests.journals import block, lease, opened
from tests.ours import (
    POOL,
    START_S,
    OurServer,
    OurTester,
    Talker,
    entered,
    program,
    run_tester,
)
from tests.peers.net import INTERFACE, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root
SMALL = ("--start-ip", "10.16.1.0", "--end-ip", "10.16.1.99")
YAML = """\
server:
  lease_time: {lease}
  subnets:
    - subnet: 10.16.0.0/12
      gateway: {gateway}
      pools: [{pools}]
  faults: [{faults}]
"""
OF_THE_PROCESS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
                  "NoNewPrivs")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


def write(file: Path, lease: str = "1h", gateway: str = "10.16.0.1",
          pools: str = "10.16.1.0 - 10.28.255.255", faults: str = "") -> None:
    """Put a configuration in place all at once, as an editor does."""
    beside = file.with_suffix(".new")
    beside.write_text(YAML.format(lease=lease, gateway=gateway, pools=pools, faults=faults))
    beside.rename(file)


def reload(server: OurServer, said: str = "configuration changed") -> None:
    before = server.log.count(said)
    server.process.send_signal(signal.SIGHUP)
    wait_until(said, lambda: server.log.count(said) > before, 20)


def test_reloads_under_full_load_lose_nothing(net: Net, tmp_path: Path) -> None:
    """Pools only change where nobody is bound, beyond the 720,000 addresses that such a load never
    uses up: whoever loses his address is told so, rightly."""
    file = tmp_path / "server.yaml"
    larger = "10.16.1.0 - 10.29.255.255"
    other = "10.16.1.0 - 10.27.0.255, 10.30.0.0 - 10.30.255.255"
    harmless = "{kind: duplicate, messages: [nak], rate: 100%}"
    changes: list[dict[str, str]] = [
        {"lease": "2h"},
        {"lease": "2h", "gateway": "10.16.0.9"},
        {"lease": "3h", "pools": larger},
        {"lease": "3h", "pools": other},
        {"lease": "4h", "pools": "10.16.1.0 - 10.27.255.255", "faults": harmless},
    ]
    write(file)
    with OurServer(net.server, ("--config", str(file))) as server:
        with OurTester(net.client, ("--duration", "10m", "--concurrency", "32")) as test:
            wait_until("the load", lambda: server.dump()["sent"]["ack"] > 500, START_S)
            for change in changes:
                acks = server.dump()["sent"]["ack"]
                write(file, **change)
                reload(server)
                wait_until("the load to go on",
                           lambda: server.dump()["sent"]["ack"] > acks + 500)  # noqa: B023
            test.process.send_signal(signal.SIGINT)
            seen = test.finish(30)
        with Talker(net.client) as talker:
            offer = talker.ask("discover", "02:ee:00:00:00:01")
            assert offer is not None and offer.get("lease-time") == 4 * 3600
            assert str(offer.get("router")[0]) == "10.16.0.1"
            write(file, pools=larger, faults="{kind: drop, messages: [offer], rate: 100%}")
            reload(server)
            assert talker.ask("discover", "02:ee:00:00:00:02", 0.3) is None
        stats = server.stop()
    clients = seen.document["clients"]
    assert clients["failed"] == 0 and clients["bound"] == clients["started"] > 3000, (
        clients, seen.document["errors"], seen.document["losses"], stats)
    assert seen.document["errors"]["duplicate_address"] == 0
    assert stats["rx_ring_drops"] == 0 and stats["reloads"] == len(changes) + 1
    assert sum(stats["refused"].values()) == 0 and stats["causes"]["wrong_address"] == 0
    assert stats["pool"]["bound"] == clients["bound"]
    times = {int(row["lease_time_s"]) for row in seen.clients if row["outcome"] == "bound"}
    assert times == {3600, 7200, 10800, 14400}


def test_a_pool_that_shrinks_and_grows_gives_no_address_twice(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    write(file, pools="10.16.1.0 - 10.16.1.99")
    with OurServer(net.server, ("--config", str(file), "--lease-file",
                                str(tmp_path / "leases"))) as server:
        first = run_tester(net.client, "--clients", "50")
        for last in (20, 99):
            write(file, pools=f"10.16.1.0 - 10.16.1.{last}")
            reload(server)
        second = run_tester(net.client, "--clients", "50", "--mac-base", "02:00:00:20:00:00")
    assert first.code == 0
    assert not ({row["yiaddr"] for row in first.clients if row["outcome"] == "bound"}
                & {row["yiaddr"] for row in second.clients if row["outcome"] == "bound"})


@pytest.mark.parametrize(("text", "said"), [
    ("server:\n  lease_time: 1h\n  lease_tmie: 2h\n", ":3: "),
    ("server:\n  lease_time: [\n", ":"),
    ("server:\n  subnets:\n    - subnet: 10.16.0.0/12\n      pools: [10.16.9.9 - 10.16.1.1]\n",
     ":4: "),
    (None, "No such file"),
])
def test_a_bad_file_keeps_the_old_configuration(net: Net, tmp_path: Path, text: str | None,
                                                said: str) -> None:
    file = tmp_path / "server.yaml"
    write(file, lease="2h")
    with OurServer(net.server, ("--config", str(file))) as server, Talker(net.client) as talker:
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        reload(server, "configuration not changed")
        line = next(line for line in server.log.splitlines() if "not changed" in line)
        assert f"{file}{said}" in line or (text is None and said in line and str(file) in line)
        assert "Traceback" not in server.log
        offer = talker.ask("discover", "02:ee:00:00:00:01")
        assert offer is not None and offer.get("lease-time") == 7200
        # And a good one is taken afterwards.
        write(file, lease="3h")
        reload(server)
        offer = talker.ask("discover", "02:ee:00:00:00:01")
        assert offer is not None and offer.get("lease-time") == 10800


def test_what_cannot_change_is_refused(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    write(file)
    with OurServer(net.server, ("--config", str(file))) as server:
        file.write_text(file.read_text() + "  port: 1067\n")
        reload(server, "configuration not changed")
        assert "port cannot change while serving; restart instead" in server.log


def test_a_service_manager_is_told(net: Net, tmp_path: Path) -> None:
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(10)

        def hear(what: str) -> list[str]:
            heard: list[str] = []
            while not heard or what not in heard[-1]:
                heard.append(manager.recv(4096).decode())
            return heard

        with OurServer(net.server, SMALL, environment={
                "NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "500000"}) as server:
            hear("READY=1")
            hear("WATCHDOG=1")
            server.process.send_signal(signal.SIGHUP)
            told = hear("RELOADING=1")
            usec = dict(line.split("=") for line in told[-1].split("\n"))["MONOTONIC_USEC"]
            assert abs(time.monotonic() - int(usec) / 1e6) < 20
            hear("READY=1")
            hear("WATCHDOG=1")
            server.stop()
            assert hear("STOPPING=1")[-1] == "STOPPING=1"


@contextlib.contextmanager
def folder_of(user: str) -> Iterator[Path]:
    """A directory that another user can reach and write in."""
    place = Path(tempfile.mkdtemp(prefix="dnt-user-"))
    try:
        shutil.chown(place, user)
        yield place
    finally:
        shutil.rmtree(place)


def test_another_user_serves_stores_and_compacts(net: Net) -> None:
    nobody = pwd.getpwnam("nobody")
    with folder_of("nobody") as place:
        file = place / "leases"
        journal = opened(file)
        for number in range(180):
            journal.append(block(*(lease(7 << 20 | i, number, id_length=0) for i in range(1000))))
        journal.close()
        before = file.stat()
        with OurServer(net.server, (*POOL, "--lease-file", str(file), "--durability", "strict",
                                    "--metrics", "9647"), user="nobody") as server:
            lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
            status = {name: value.split() for name, _, value in (
                line.partition(":") for line in lines) if name in OF_THE_PROCESS}
            assert status["Uid"] == [str(nobody.pw_uid)] * 4
            assert status["Gid"] == [str(nobody.pw_gid)] * 4
            assert set(status["Groups"]) <= {str(nobody.pw_gid)}
            capabilities = [name for name in OF_THE_PROCESS if name.startswith("Cap")]
            assert not any(int(status[name][0], 16) for name in capabilities)
            assert status["NoNewPrivs"] == ["1"]
            # A child of it serves the metrics: it is no more than its parent.
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            for child in children.read_text().split():
                assert Path(f"/proc/{child}").stat().st_uid == nobody.pw_uid
            seen = run_tester(net.client, "--clients", "500")
            compacts = "will not be compacted" not in server.log
            if compacts:
                wait_until("a compaction", lambda: file.stat().st_ino != before.st_ino, 30)
            assert run_tester(net.client, "--clients", "500", "--mac-base",
                              "02:00:00:10:00:00").code == seen.code == 0
            stats = server.stop()
        assert stats["lease_file"]["failures"] == 0 and stats["pool"]["bound"] == 1000
        assert file.stat().st_uid == nobody.pw_uid
        assert compacts == (file.stat().st_size < before.st_size)
        # What cannot be compacted, as where our interpreter is in root's home, was said at once.
        assert compacts or "cannot run" in server.said


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_metrics_during_load_and_after_kill_9(net: Net, tmp_path: Path) -> None:
    arguments = (*POOL, "--metrics", "9547", "--live", "--lease-file", str(tmp_path / "leases"))
    got: list[dict[str, float]] = []
    with OurServer(net.server, arguments) as server, \
            OurTester(net.client, ("--rate", "2000", "--duration", "2s")) as test:
        name = 'dhcp_requests_total{type="discover",status="answered"}'

        def enough() -> bool:
            with entered(net.server):
                got.append(scrape(9547))
            return got[-1].get(name, 0) >= 4000

        wait_until("all to be counted", enough, 30)
        seen = test.finish()
        counts = [one.get(name, 0) for one in got]
        assert seen.code == 0 and counts == sorted(counts) and len(set(counts)) > 2
        last = got[-1]
        assert last["dhcp_up"] == 1
        assert any(key.startswith('dhcp_response_time_seconds_bucket{type="discover"')
                   for key in last)
        server.kill()
        # No child holds the lease file, the ports or the terminal.
        with OurServer(net.server, arguments) as again:
            assert again.stop()["pool"]["bound"] == 4000
    assert not net.server.pids()


def test_statistics_that_cannot_be_written_end_nothing(net: Net, tmp_path: Path) -> None:
    place = tmp_path / "statistics"
    with OurServer(net.server, (*SMALL, "--stats-json", str(place / "file"))) as server:
        place.write_text("no directory any more")
        server.process.send_signal(signal.SIGUSR1)
        wait_until("a complaint", lambda: f"cannot write {place}/file: " in server.log)
        assert run_tester(net.client, "--clients", "5").code == 0
        place.unlink()
    ours = tmp_path / "file"
    done = net.server.run([*program("server"), "-i", INTERFACE, *SMALL, "--user", "nobody",
                           "--stats-json", str(ours)], check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"dhcp-server: cannot write {ours}: ")


def test_json_lines_and_what_is_said_when(net: Net) -> None:
    with OurServer(net.server, (*SMALL, "--log-format", "json", "--verbose",
                                "--log-level", "debug")) as server:
        assert run_tester(net.client, "--clients", "5").code == 0
        server.dump()
        server.stop()
    lines = [json.loads(line) for line in server.said.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "serving" and events[-1] == "ended"
    assert events.count("exchange") == 10 and "statistics" in events
    assert {line["program"] for line in lines} == {"dhcp-server"}
    assert lines[-1]["statistics"]["pool"]["bound"] == 5


def hostile(chance: random.Random) -> bytes:
    """A frame to the server's port that is wrong somewhere."""
    payload = bytearray(chance.randbytes(chance.choice([0, 10, 239, 240, 300, 576])))
    if len(payload) >= 240 and chance.random() < 0.7:
        payload[:4] = 1, 1, 6, chance.choice([0, 1, 255])
        payload[236:240] = b"\x63\x82\x53\x63"
        if chance.random() < 0.5:
            payload[240:243] = 53, 1, chance.choice([0, 1, 3, 4, 7, 8, 99])
            payload[243:] = b"\xff"
    frame = bytearray(Frame(src_mac=chance.randbytes(6), payload=bytes(payload)).encode())
    if chance.random() < 0.3:
        frame[chance.randrange(14, len(frame))] ^= 0xFF
    return bytes(frame)


def test_a_flood_of_bad_packets_cannot_fill_the_log(net: Net) -> None:
    chance = random.Random(5)
    frames = [hostile(chance) for _ in range(2000)]
    with OurServer(net.server, (*SMALL, "--verbose", "--log-level", "debug")) as server, \
            Talker(net.client) as talker:
        began = time.monotonic()
        for _ in range(10):
            for frame in frames:
                talker.send_raw(frame)
        wait_until("all to be read", lambda: sum(server.dump()["refused"].values()) > 5000)
        offer = talker.ask("discover", "02:ee:00:00:00:01")
        took_s = time.monotonic() - began
        assert offer is None or offer.type == MessageType.OFFER
        stats = server.stop()
    assert stats["rx_ring_drops"] == 0
    # 200 lines a second, and as many at once.
    assert len(server.said.splitlines()) < 200 * (took_s + 2) + 50
    assert "Traceback" not in server.said


def test_check_says_what_is_meant(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    write(file, lease="2h")
    done = net.server.run([*program("server"), "-i", INTERFACE, "--config", str(file), "--check"])
    assert "10.16.1.0 - 10.28.255.255" in done.stdout and done.stderr == ""
    # What it prints is a configuration, and means the same.
    again = tmp_path / "again.yaml"
    again.write_text(done.stdout)
    assert net.server.run([*program("server"), "--config", str(again),
                           "--check"]).stdout == done.stdout
    file.write_text("server:\n  nonsense: 1\n")
    bad = net.server.run([*program("server"), "--config", str(file), "--check"], check=False)
    assert bad.returncode == 2 and f"{file}:2: " in bad.stderr and bad.stdout == ""


def test_two_interfaces_at_once() -> None:
    with two_namespaces() as net:
        net.client.ip(f"link add eth1 index 12 type veth peer name eth1 index 22 "
                      f"netns {net.server.name}\nlink set eth1 up\n")
        net.server.ip("addr add 10.64.0.1/16 dev eth1\nlink set eth1 up\n")
        wait_until("carrier", lambda: net.client.links()["eth1"]["operstate"] == "UP")
        yaml = Path(tempfile.mkdtemp(prefix="dnt-two-")) / "two.yaml"
        yaml.write_text("server:\n  subnets:\n"
                        "    - {subnet: 10.16.0.0/12, pools: [10.16.1.0 - 10.16.9.255]}\n"
                        "    - {subnet: 10.64.0.0/16, pools: [10.64.1.0 - 10.64.9.255]}\n")
        try:
            with OurServer(net.server, ("--interface", "eth1", "--config", str(yaml))) as server, \
                    OurTester(net.client, ("--clients", "800")) as one, \
                    OurTester(net.client, ("--clients", "800", "--mac-base",
                                           "02:00:00:10:00:00"), interface="eth1") as two:
                seen = one.finish(), two.finish()
                stats = server.stop()
        finally:
            shutil.rmtree(yaml.parent)
    for run, prefix in zip(seen, ("10.16.", "10.64."), strict=True):
        assert run.code == 0
        assert all(row["yiaddr"].startswith(prefix) for row in run.clients)
    assert [row["name"] for row in stats["interfaces"]] == ["eth0", "eth1", "lo"]
    assert [row["bound"] for row in stats["subnets"]] == [800, 800]
    assert stats["rx_ring_drops"] == 0


def read_until(descriptor: int, done: Callable[[str], bool], timeout_s: float) -> str:
    """What a terminal shows, until `done` with it."""
    text, deadline = "", time.monotonic() + timeout_s
    while not done(text):
        assert time.monotonic() < deadline, text[-2000:]
        if select.select([descriptor], [], [], 0.1)[0]:
            try:
                text += os.read(descriptor, 65536).decode("utf-8", "replace")
            except OSError:
                # Nobody has the other end any more.
                break
    return text


def test_the_live_panel_on_a_terminal_and_ctrl_c(net: Net) -> None:
    ours, theirs = pty.openpty()
    process = net.server.popen(
        [*program("server"), "-i", INTERFACE, *POOL, "--live"], stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True, env={**os.environ, "TERM": "xterm-256color"})
    os.close(theirs)
    try:
        read_until(ours, lambda text: "dhcp-server  " in text, START_S)
        with OurTester(net.client, ("--clients", "300")) as test:
            shown = read_until(ours, lambda text: "DISCOVER" in text, 30)
            assert test.finish().code == 0
        assert "bound" in shown and "╭" in shown
        os.killpg(process.pid, signal.SIGINT)
        end = read_until(ours, lambda text: "ended after" in text, 10)
        assert process.wait(10) == 0 and "Traceback" not in shown + end
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
        process.wait()


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_memory_is_flat_under_load(net: Net, tmp_path: Path) -> None:
    """The same clients again and again, with all that allocates: file, metrics, statistics."""
    with OurServer(net.server, (*POOL, "--lease-file", str(tmp_path / "leases"), "--metrics",
                                "9447", "--verbose")) as server:
        sizes = []
        for _ in range(3):
            assert run_tester(net.client, "--clients", "20000").code == 0
            server.dump()
            sizes.append(resident_kib(server.process.pid))
        stats = server.stop()
    assert stats["pool"]["bound"] == 20000
    assert sizes[-1] - sizes[1] < 1024, sizes
