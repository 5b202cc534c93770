"""dhcp-server and dhcp-tester when something goes wrong: one clear line, nothing lost or left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ours import POOL, START_S, OurServer, OurTester, program, run_tester
from tests.peers.net import INTERFACE, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root
SMALL = ("--start-ip", "10.16.1.0", "--end-ip", "10.16.1.99")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


def refused(net: Net, module: str, *arguments: str) -> tuple[int, list[str]]:
    """Run a program that is to refuse: its exit code and its lines on standard error."""
    done = net.server.run([*program(module), *arguments], check=False)
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.returncode, [line.strip() for line in done.stderr.splitlines()]


def test_ctrl_c_ends_starting_waits_and_reports() -> None:
    """Half the clients are bound when the server dies; then Ctrl-C."""
    with two_namespaces() as net:
        with OurServer(net.server, SMALL):
            test = OurTester(net.client, ("--rate", "50", "--duration", "60s",
                                          "--timeout", "500ms"))
            test.__enter__()
            # First use compiles: the load begins when the first frames are on the wire.
            wait_until("the load", lambda: _sent(net) >= 50, START_S)
        test.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        done = test.finish(10)
        took = time.monotonic() - began
        test.__exit__(None, None, None)
    assert done.code == 3 and "INCOMPLETE" in done.out and "interrupted" in done.out
    clients = done.document["clients"]
    assert done.document["interrupted"] and clients["planned"] == 3000
    assert 0 < clients["bound"] < clients["planned"]
    assert clients["started"] == clients["bound"] + clients["failed"]
    assert took < 3  # in flight ones had half a second
    outcomes = [row["outcome"] for row in done.clients]
    assert outcomes.count("not_started") == clients["planned"] - clients["started"]


def test_a_second_ctrl_c_ends_at_once(net: Net) -> None:
    before = _sent(net)
    with OurTester(net.client, ("--clients", "10", "--timeout", "30s")) as test:
        wait_until("the tester to be running", lambda: _sent(net) > before, START_S)
        for _ in range(2):
            test.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        done = test.finish(5)
    assert done.code == 3 and done.document["clients"]["failed"] == 10


def _sent(net: Net) -> int:
    stats = json.loads(net.client.run(["ip", "-j", "-s", "link", "show", INTERFACE]).stdout)
    return int(stats[0]["stats64"]["tx"]["packets"])


def test_a_killed_tester_leaves_nothing(net: Net) -> None:
    before = _sent(net)
    with OurTester(net.client, ("--clients", "10", "--timeout", "30s", "--live")) as test:
        wait_until("the tester to be running", lambda: _sent(net) > before, START_S)
        test.process.kill()
        test.process.wait()
    wait_until("its panel to end", lambda: not net.client.pids())


def test_a_server_that_loses_its_interface_says_so() -> None:
    with two_namespaces() as net:
        server = OurServer(net.server, SMALL).__enter__()
        net.server.ip(f"link set {INTERFACE} down\n")
        assert server.process.wait(5) == 1
        assert "went down or away while in use" in server.log
        assert "Traceback" not in server.log
        server.__exit__(None, None, None)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_with_a_summary(net: Net, how: int) -> None:
    with OurServer(net.server, SMALL) as server:
        assert run_tester(net.client, "--clients", "20").code == 0
        stats = server.stop(how)
    assert server.code == 0
    assert "20 DISCOVER, 20 REQUEST" in server.said and "20 bound" in server.said
    assert stats["pool"]["bound"] == 20


def test_two_servers_on_one_interface(net: Net) -> None:
    with OurServer(net.server, SMALL):
        code, lines = refused(net, "server", "--interface", INTERFACE, *SMALL)
    assert code == 1 and lines[0] == "dhcp-server: UDP port 67 on 'eth0' is in use"


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("--interface", "eth9"), 1, "no interface 'eth9' in this network namespace"),
    (("--interface", INTERFACE, "--start-ip", "10.16.2.0", "--end-ip", "10.16.1.0"), 2,
     "the pool ends before it starts: --start-ip 10.16.2.0 --end-ip 10.16.1.0"),
    (("--interface", INTERFACE, *SMALL, "--gateway", "192.0.2.1"), 2,
     "--gateway 192.0.2.1 is not in the subnet 10.16.0.0/12"),
    (("--interface", "lo", *SMALL, "--listen", "192.0.2.9"), 2,
     "no interface that is served has the address 192.0.2.9"),
    (("--interface", INTERFACE, *SMALL, "--listen", "192.0.2.9"), 2, "not in one subnet"),
    (("--interface", INTERFACE, *SMALL, "--lease-time", "soon"), 2, "is not a duration"),
    (("--interface", INTERFACE, "--start-ip", "10.0.0.0", "--end-ip", "12.0.0.0"), 2,
     "is too large"),
    (("--interface", INTERFACE, *SMALL, "--stats-json", "/proc/nowhere.json"), 1,
     "cannot write /proc/nowhere.json"),
])
def test_the_server_refuses_in_one_line(net: Net, arguments: tuple[str, ...], code: int,
                                        said: str) -> None:
    got, lines = refused(net, "server", *arguments)
    assert got == code and said in lines[0], lines
    assert len(lines) <= 2


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (("--interface", "eth9"), 1, "no interface 'eth9'"),
    (("--interface", INTERFACE, "--json", "/proc/nowhere.json"), 1, "cannot write"),
    (("--interface", INTERFACE, "--mac-base", "01:00:00:00:00:00"), 2, "multicast"),
    (("--interface", INTERFACE, "--mac-base", "02:ff:ff:ff:ff:ff", "--clients", "2"), 2,
     "do not fit"),
    (("--interface", INTERFACE, "--ring-slots", "1000"), 2, "not a power of two"),
])
def test_the_tester_refuses_in_one_line(net: Net, arguments: tuple[str, ...], code: int,
                                        said: str) -> None:
    got, lines = refused(net, "tester", *arguments)
    assert got == code and said in lines[0], lines
    assert len(lines) <= 2


def test_a_full_disk_loses_no_report(tmp_path: Path) -> None:
    """The document cannot be written: the report still is, and no half file stays."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=True)
    try:
        # Room for the file's name, not for its content.
        with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with two_namespaces() as net, OurServer(net.server, SMALL):
            done = net.client.run([*program("tester"), "--interface", INTERFACE, "--clients", "50",
                                   "--json", str(disk / "r.json")], check=False)
        assert done.returncode == 1 and "50 of 50 bound" in done.stdout
        assert f"cannot write {disk}/r.json: No space left on device" in done.stderr
        assert os.listdir(disk) == ["full"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_verbose_says_what_happened(net: Net) -> None:
    with OurServer(net.server, (*POOL, "--verbose")) as server:
        run_tester(net.client, "--clients", "3")
        wait_until("the log", lambda: server.log.count(" ack ") >= 3, 5)
    assert "02:00:00:00:00:02 discover -> offer 10.16.1.2" in server.said


def test_live_panels_show_on_no_terminal(net: Net) -> None:
    with OurServer(net.server, (*POOL, "--live")) as server:
        done = run_tester(net.client, "--rate", "100", "--clients", "100", "--live", "--progress")
    assert "dhcp-tester" in done.out and "DORA/s" in done.out
    assert "100 of 100 completed (100.0 %)" in done.err
    assert "pool" in server.said
