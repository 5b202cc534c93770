"""`lab test`: one command from nothing to a result, and back to nothing.

The true `dhcp-server` and `dhcp-tester`, except where only what happens around them matters:
there small scripts stand in, so that a run takes a tenth of a second.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.machine import Machine, wait_until

pytestmark = pytest.mark.root

_SERVER = """#!{python} -SE
import os, signal, socket, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
{body}
"""
_WAIT = "signal.sigwait([signal.SIGTERM])"


@pytest.fixture
def true_programs(tmp_path: Path) -> dict[str, str]:
    """The environment in which `lab` finds this checkout's own server and tester."""
    return programs(tmp_path, **{
        f"dhcp-{name}": f"#!{sys.executable}\nfrom {name}.cli import main\nmain()\n"
        for name in ("server", "tester")})


def programs(directory: Path, **scripts: str) -> dict[str, str]:
    """Put scripts where `lab` looks for its programs first; the environment to run it in."""
    for name, text in scripts.items():
        (directory / name.replace("_", "-")).write_text(text)
        (directory / name.replace("_", "-")).chmod(0o755)
    return {"DHCP_NETLAB_BIN": str(directory)}


def stand_ins(directory: Path, server: str = _WAIT, tester: str = "exit 0") -> dict[str, str]:
    """A server that is ready at once and then does `server`; a shell script as tester."""
    return programs(directory, dhcp_server=_SERVER.format(python=sys.executable, body=server),
                    dhcp_tester=f"#!/bin/sh\n{tester}\n")


def test_one_command_from_nothing_to_a_result(host: Machine, tmp_path: Path,
                                              true_programs: dict[str, str]) -> None:
    before = host.snapshot()
    result, rows = tmp_path / "new/place/result.json", tmp_path / "rows/clients.csv"
    said = host.run(host.lab_argv("test", "--json", str(result), "--clients-csv", str(rows),
                                  "--", "--clients", "300"), true_programs)
    assert host.snapshot() == before

    document = json.loads(result.read_text())
    assert (document["verdict"], document["clients"]["bound"]) == ("pass", 300)
    assert document["losses"]["server_socket"] == 0
    lab = document["lab"]
    assert (lab["name"], lab["topology"], lab["softnet_dropped"]) == ("netlab", "direct", 0)
    assert lab["server"]["program"] == "dhcp-server"
    assert lab["server"]["stats"]["sent"]["ack"] == 300
    assert lab["server"]["rss_bytes_max"] > 10 << 20
    # DISCOVER and REQUEST one way, OFFER and ACK the other, and no other frame on the wire.
    assert {(p["node"], p["ifname"], p["peer_node"], p["peer_ifname"], p["rx_packets"],
             p["tx_packets"], p["rx_dropped"], p["tx_dropped"]) for p in lab["ports"]} == {
        ("client", "eth0", "switch", "client", 600, 600, 0, 0),
        ("switch", "client", "client", "eth0", 600, 600, 0, 0),
        ("switch", "server", "server", "eth0", 600, 600, 0, 0),
        ("server", "eth0", "switch", "server", 600, 600, 0, 0)}
    with rows.open() as file:
        assert sum(row["outcome"] == "bound" for row in csv.DictReader(file)) == 300
    last = [line.split(maxsplit=1) for line in said.stdout.splitlines()[-5:]]
    assert [words[0] for words in last] == ["lab", "server", "leases", "drops", "result"]
    assert last[2][1] == "300 of 300 clients and the servers' store agree"
    assert last[3][1] == "none on any port" and last[4][1] == str(result)
    leases = lab["leases"]
    assert (leases["agree"], leases["unheld"], leases["wrong_subnet"]) == (300, 0, 0)


def test_a_lab_that_was_up_stays_up(host: Machine, tmp_path: Path,
                                    true_programs: dict[str, str]) -> None:
    host.lab("setup", "--name", "mine")
    before, result = host.snapshot(), tmp_path / "result.json"
    for clients in ("5", "7"):
        host.lab("test", "direct", "--name", "mine", "--json", str(result), "--",
                 "-clients", clients, env=true_programs)
        lab = json.loads(result.read_text())["lab"]
        # Of this run alone, not since setup.
        assert lab["server"]["stats"]["received"]["discover"] == int(clients)
        assert {p["tx_packets"] for p in lab["ports"]} == {2 * int(clients)}
    after = host.snapshot()
    assert after.pop("files") != before.pop("files")  # the server's log is kept
    assert after == before
    assert (host.status("mine")["phase"], host.status("mine")["left_behind"]) == ("up", False)


def test_a_broken_lab_is_mended_and_stays_up(host: Machine, tmp_path: Path) -> None:
    host.lab("setup")
    host.run(["ip", "netns", "del", "netlab-client"])
    assert "netlab: not whole" in host.lab("test", env=stand_ins(tmp_path)).stderr
    assert host.status("netlab")["phase"] == "up"
    assert host.names() == ["netlab-client", "netlab-server", "netlab-switch"]


def test_options_reach_the_server(host: Machine, tmp_path: Path,
                                  true_programs: dict[str, str]) -> None:
    result = tmp_path / "result.json"
    host.lab("test", "--json", str(result), "--server-option", "--end-ip",
             "--server-option", "10.16.1.3", "--", "--clients", "6", "--timeout", "100ms",
             env=true_programs, code=3)
    document = json.loads(result.read_text())
    assert (document["clients"]["bound"], document["clients"]["failed"]) == (4, 2)
    assert document["lab"]["server"]["stats"]["causes"]["no_free_address"] == 2


def test_a_usage_error_of_the_tester_is_the_tests(host: Machine,
                                                  true_programs: dict[str, str]) -> None:
    before = host.snapshot()
    refused = host.lab("test", "--", "--clients", "many", env=true_programs, code=2)
    assert "dhcp-tester" in refused.stderr and "lab        " not in refused.stdout
    assert host.snapshot() == before


def test_a_server_that_refuses_shows_its_words(host: Machine,
                                               true_programs: dict[str, str]) -> None:
    before = host.snapshot()
    refused = host.lab("test", "--server-option", "--no-such", env=true_programs, code=1)
    assert refused.stderr.startswith(
        "lab: dhcp-server in server ended with exit code 2 before it was ready\n  | dhcp-server:")
    assert host.snapshot() == before


@pytest.mark.parametrize("where,reason", [
    ("file/result.json", "permission denied"), (".", "it is a directory")])
def test_a_result_that_cannot_be_written_is_refused_first(
        host: Machine, tmp_path: Path, where: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    env = stand_ins(tmp_path, tester="echo the test ran")
    for option in ("--json", "--clients-csv"):
        refused = host.lab("test", option, str(tmp_path / where), env=env, code=None)
        assert refused.returncode in (1, 2) and "the test ran" not in refused.stdout
        assert len(refused.stderr.splitlines()) <= 2


def test_a_missing_program_is_named_before_anything_is_made(host: Machine, tmp_path: Path) -> None:
    before = host.snapshot()
    refused = host.run(["env", "-i", "PATH=/usr/sbin:/usr/bin", sys.executable, "-c", (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        f"sys.executable = {str(tmp_path / 'python')!r}; sys.argv = ['lab', 'test']\n"
        "from netlab.cli import main; main()")], code=1)
    assert refused.stderr == ("lab: no program 'dhcp-server'\n     install dhcp-netlab\n")
    assert host.snapshot() == before


def test_a_server_that_dies_during_the_test_is_told_of(host: Machine, tmp_path: Path) -> None:
    before = host.snapshot()
    env = stand_ins(tmp_path, server="time.sleep(0.1); print('out of luck'); sys.exit(7)",
                    tester="sleep 0.5")
    said = host.lab("test", env=env, code=1)
    assert said.stderr == ("lab: dhcp-server ended during the test with exit code 7\n"
                           "  | out of luck\n")
    assert host.snapshot() == before


def test_the_testers_terminal_is_ours(host: Machine, tmp_path: Path) -> None:
    env = stand_ins(tmp_path, tester='read line; echo "got $line"; echo oops >&2; exit 99')
    process = host.popen(host.lab_argv("test"), env, stdin=subprocess.PIPE)
    assert process.communicate("a word\n") == ("got a word\n", "oops\n")
    assert process.returncode == 99


# What the tester says on Ctrl-C, how `lab` ends: it is told once, then it is over.
@pytest.mark.parametrize("numbers,said,code", [
    ([signal.SIGINT], "up\nasked\n", 3),
    ([signal.SIGINT, signal.SIGINT], "up\nasked\n", 130),
    ([signal.SIGTERM], "up\n", 143),
    ([signal.SIGHUP], "up\n", 129),
])
def test_signals(host: Machine, tmp_path: Path, numbers: list[int], said: str, code: int) -> None:
    before = host.snapshot()
    # One Ctrl-C: it ends by itself. Two: it would never.
    on_ctrl_c = "echo asked; exit 3" if len(numbers) == 1 else "echo asked"
    env = stand_ins(tmp_path, tester=(
        f"trap '{on_ctrl_c}' INT; echo up; while :; do sleep 0.02; done"))
    process = host.popen(host.lab_argv("test"), env)
    assert process.stdout
    heard = process.stdout.readline()
    for number in numbers:
        process.send_signal(number)
        if number == signal.SIGINT and "asked" not in heard:
            heard += process.stdout.readline()
    heard += process.stdout.read()
    process.communicate(timeout=10)
    assert (heard, process.returncode) == (said, code)
    assert host.snapshot() == before


def test_ctrl_c_at_the_terminal_reaches_the_lab_alone(host: Machine, tmp_path: Path) -> None:
    """A terminal signals its foreground process group: the lab's, and nobody else's."""
    process = host.popen(host.lab_argv("test"),
                         stand_ins(tmp_path, tester="echo up; exec sleep 60"))
    assert process.stdout and process.stdout.readline() == "up\n"
    programs = host.residents()
    assert len(programs) == 2
    assert len({os.getsid(pid) for pid in (process.pid, *programs)}) == 3
    process.terminate()
    process.communicate()


_KILL_TEST_AT_EACH = """
import os, sys
from itertools import count
from netlab import checkpoint, cli, lifecycle, run
for n in count(1):
    if not (child := os.fork()):
        checkpoint._die_at = n
        sys.argv = ["lab", "test", "--name", f"k{n}"]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -9:
        break
print("end", n, status)
"""


def test_killed_at_every_step_of_a_test(host: Machine, tmp_path: Path) -> None:
    before = host.snapshot()
    env = stand_ins(tmp_path)
    said = host.run([sys.executable, "-c", _KILL_TEST_AT_EACH], env).stdout.split()
    assert said[0] == "end" and int(said[1]) > 35 and said[2] == "0"
    wait_until("no program outlives its lab", lambda: not host.residents())
    assert len({name.partition("-")[0] for name in host.names()}) > 20
    host.lab("gc")
    assert host.snapshot() == before


def test_an_appliance_behind_an_interface_of_the_machine(
        host: Machine, tmp_path: Path, true_programs: dict[str, str]) -> None:
    """The "appliance" is our own server at the other end of a veth of the machine."""
    # An address of IPv6 is made anew when an interface comes home, at its own time.
    host.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"])
    host.run(["ip", "link", "add", "phys0", "type", "veth", "peer", "name", "far0"])
    for words in (["addr", "add", "10.9.0.1/16", "dev", "far0"], ["link", "set", "far0", "up"],
                  ["link", "set", "phys0", "up"]):
        host.run(["ip", *words])
    server = host.popen([f"{true_programs['DHCP_NETLAB_BIN']}/dhcp-server", "-i", "far0",
                         "--start-ip", "10.9.1.0", "--end-ip", "10.9.2.255",
                         "--netmask", "255.255.0.0"])
    assert server.stdout and "serving" in server.stdout.readline()
    before, result = host.snapshot(), tmp_path / "result.json"
    host.lab("test", "--server", "external", "--attach", "phys0", "--json", str(result), "--",
             "--clients", "50", "--retry", env=true_programs)
    assert host.snapshot() == before
    server.terminate()
    server.communicate(timeout=10)
    document = json.loads(result.read_text())
    assert (document["verdict"], document["clients"]["bound"]) == ("pass", 50)
    assert document["lab"]["leases"] == {"why": "the lab started no server"}
    missing = host.lab("test", "--server", "external", "--attach", "nosuch0", code=2,
                       env=true_programs)
    assert "nosuch0" in missing.stderr
