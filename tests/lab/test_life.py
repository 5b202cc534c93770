"""A lab from setup to teardown, and the machine as it was. All against the real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netlab.state import STATE_ENV
from tests.lab.machine import Machine, wait_until

pytestmark = pytest.mark.root

# Sends one broadcast frame with a payload of ours; waits for it on the other side.
_SEND = """
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
s.send(b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\x01" + b"\\x88\\xb5" + b"through the bridge".ljust(46))
"""
_RECEIVE = """
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind(("eth0", 0x88b5))
s.settimeout(10)
print("listening", flush=True)
print(s.recv(2048)[14:32].decode())
"""


def test_round_trip(host: Machine) -> None:
    before = host.snapshot()
    said = host.run(host.lab_argv("setup")).stdout
    assert said.startswith("netlab: direct is up (client, switch, server)")
    assert host.names() == ["netlab-client", "netlab-server", "netlab-switch"]
    assert host.snapshot()["links"] == before["links"]

    found = host.status("netlab")
    assert (found["phase"], found["topology"], found["left_behind"]) == ("up", "direct", False)
    ports = {(node["node"], port["ifname"]): port
             for node in found["nodes"] for port in node["interfaces"]}
    assert sorted(ports) == [("client", "eth0"), ("server", "eth0"), ("switch", "client"),
                             ("switch", "lan"), ("switch", "server")]
    assert {port["state"] for port in ports.values()} == {"up"}
    assert {port["mtu"] for port in ports.values()} == {1500}
    assert ports["server", "eth0"]["addresses"] == ["10.16.0.1/12"]
    assert ports["client", "eth0"]["addresses"] == []
    table = host.run(host.lab_argv("status")).stdout
    assert "netlab: direct, up" in table and ports["server", "eth0"]["mac"] in table

    seen = host.lab("exec", "server", "--", "ip", "-j", "addr").stdout
    assert {a["local"] for link in json.loads(seen) for a in link["addr_info"]} == {
        "127.0.0.1", "10.16.0.1"}
    assert host.lab("exec", "server", "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]
    assert host.run(["ip", "netns", "exec", "netlab-client", "ls", "/sys/class/net"]
                    ).stdout.split() == ["eth0", "lo"]

    assert host.run(host.lab_argv("teardown")).stdout.startswith("netlab: removed")
    assert host.snapshot() == before


def test_a_frame_passes_and_nothing_else_is_on_the_wire(host: Machine) -> None:
    host.lab("setup")
    listener = host.popen(host.lab_argv("exec", "server", "--", "python3", "-c", _RECEIVE))
    assert listener.stdout and listener.stdout.readline() == "listening\n"
    host.lab("exec", "client", "--", "python3", "-c", _SEND)
    assert listener.communicate(timeout=10)[0] == "through the bridge\n"
    counts = {(node["node"], port["ifname"]): (port["rx_packets"], port["tx_packets"])
              for node in host.status("netlab")["nodes"] for port in node["interfaces"]}
    assert counts["client", "eth0"] == (0, 1)
    assert counts["switch", "client"] == (1, 0)
    assert counts["switch", "server"] == (0, 1)
    assert counts["server", "eth0"] == (1, 0)


def test_a_malformed_frame_passes_too(host: Machine) -> None:
    """A bridge that calls iptables would drop an IPv4 header of zeros."""
    host.lab("setup")
    listener = host.popen(host.lab_argv("exec", "server", "--", "python3", "-c",
                                        _RECEIVE.replace("88b5", "0800")))
    assert listener.stdout and listener.stdout.readline() == "listening\n"
    frame = 'b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\x01" + b"\\x08\\0" + bytes(46)'
    host.lab("exec", "client", "--", "python3", "-c",
             _SEND.replace(_SEND.partition("s.send(")[2].rstrip()[:-1], frame))
    assert listener.communicate(timeout=10)[0] == "\0" * 18 + "\n"


def test_no_link_ever_stands_in_the_root_namespace(host: Machine) -> None:
    monitor = host.popen(["ip", "-o", "monitor", "link"])
    output = monitor.stdout
    assert output
    os.set_blocking(output.fileno(), False)
    heard = ""

    def hear(name: str) -> bool:
        """Make a link in the root namespace until the monitor tells of it."""
        nonlocal heard
        host.run(["ip", "link", "add", name, "type", "bridge"])
        host.run(["ip", "link", "del", name])
        with contextlib.suppress(BlockingIOError):
            heard += os.read(output.fileno(), 1 << 16).decode()
        return name in heard

    wait_until("the monitor hears", lambda: hear("before"))
    host.lab("setup")
    host.lab("teardown")
    wait_until("the monitor still hears", lambda: hear("after"))
    monitor.terminate()
    monitor.communicate()
    others = [line for line in heard.splitlines() if " before: " not in line
              and " after: " not in line]
    assert others == []


def test_a_second_setup_changes_nothing(host: Machine) -> None:
    host.lab("setup")
    before, macs = host.snapshot(), host.status("netlab")
    again = host.lab("setup", "direct")
    assert "nothing to do" in again.stdout and again.stderr == ""
    assert host.snapshot() == before
    assert host.status("netlab") == macs


def test_a_second_teardown_is_polite(host: Machine) -> None:
    before = host.snapshot()
    for words in (["teardown"], ["teardown", "--all"], ["gc"], ["status"]):
        said = host.lab(*words)
        assert said.stdout.count("\n") == 1 and said.stderr == ""
    assert host.snapshot() == before


def test_two_labs_side_by_side(host: Machine) -> None:
    before = host.snapshot()
    host.lab("setup", "--name", "one")
    alone = host.snapshot()
    host.lab("setup", "--name", "two")
    assert host.names() == [f"{lab}-{node}" for lab in ("one", "two")
                            for node in ("client", "server", "switch")]
    host.lab("teardown", "--name", "two")
    assert host.snapshot() == alone
    assert host.status("one")["phase"] == "up"
    host.lab("setup", "--name", "two")
    assert host.lab("teardown", "--all").stdout.count("removed") == 2
    assert host.snapshot() == before


def test_names_that_begin_alike_are_two_labs(host: Machine) -> None:
    host.lab("setup", "--name", "a")
    host.lab("setup", "--name", "a-b")
    host.lab("teardown", "--name", "a")
    assert host.names() == ["a-b-client", "a-b-server", "a-b-switch"]
    assert host.status("a-b")["phase"] == "up"


def test_a_namespace_of_somebody_else_is_left_alone(host: Machine) -> None:
    host.run(["ip", "netns", "add", "netlab-server"])
    host.run(["ip", "-n", "netlab-server", "link", "add", "theirs", "type", "bridge"])
    before = host.snapshot()
    refused = host.lab("setup", code=2)
    assert "'netlab-server' exists and is not a lab's" in refused.stderr
    for words in (["teardown"], ["teardown", "--all"], ["gc"]):
        host.lab(*words)
    assert host.snapshot() == before
    host.run(["ip", "-n", "netlab-server", "link", "show", "theirs"])


def test_a_broken_lab_is_built_again(host: Machine) -> None:
    host.lab("setup")
    host.run(["ip", "netns", "del", "netlab-server"])
    said = host.lab("setup")
    assert "not whole (namespace netlab-server" in said.stderr
    assert {port["state"] for node in host.status("netlab")["nodes"]
            for port in node["interfaces"]} == {"up"}


def test_a_failure_half_way_leaves_nothing(host: Machine) -> None:
    before = host.snapshot()
    # A user namespace of its own, whose kernel allows it two network namespaces: not three.
    limit = Path("/proc/sys/user/max_net_namespaces")
    failed = host.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                       f"mount -n -t tmpfs none /run && echo 2 > {limit} && "
                       f"{' '.join(host.lab_argv('setup'))}; code=$?; ls /run/netns /run; "
                       "exit $code"], code=1)
    assert failed.stderr.startswith("lab: cannot make namespace netlab-server: no space left")
    assert failed.stdout.split() == ["/run:", "netns", "/run/netns:"]
    assert host.snapshot() == before


def test_guests_are_told_of_and_not_killed(host: Machine) -> None:
    host.lab("setup")
    guest = host.popen(host.lab_argv("exec", "client", "--", "sleep", "60"))
    wait_until("the guest is in", lambda: guest.pid in host.residents())
    assert [p["command"] for p in host.status("netlab")["nodes"][0]["programs"]] == ["sleep"]
    said = host.lab("teardown")
    assert f"sleep (pid {guest.pid}) still runs" in said.stderr
    assert guest.poll() is None and host.names() == []
    guest.kill()
    guest.communicate()


@pytest.mark.parametrize("words,code,says", [
    (["exec", "nobody", "--", "true"], 2, "there is: client, switch, server"),
    (["exec", "client"], 2, "no command to run"),
    (["exec", "client", "--name", "other", "--", "true"], 2, "other: not up"),
    (["exec", "client", "--", "false"], 1, ""),
    (["exec", "client", "--", "sh", "-c", "exit 42"], 42, ""),
    (["exec", "client", "--", "no-such-program"], 127, "cannot run 'no-such-program'"),
    (["exec", "client", "--", "/etc/passwd"], 126, "cannot run '/etc/passwd'"),
    (["setup", "ring"], 2, "there is: direct"),
    (["setup", "--name", "a b"], 2, "cannot be the name of a lab"),
    (["teardown", "--name", "../x"], 2, "cannot be the name of a lab"),
    (["setup", "-name=x/y"], 2, "cannot be the name of a lab"),
    (["test", "--server", "nothing"], 2, "there is: dhcp-server"),
    (["test", "--", "--json", "x.json"], 2, "lab test --json FILE"),
])
def test_wrong_words(standing: Machine, words: list[str], code: int, says: str) -> None:
    refused = standing.lab(*words, code=code)
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2


def test_exec_replaces_the_process(standing: Machine) -> None:
    argv = standing.lab_argv("exec", "client", "--", "sh", "-c", "echo $$; exec cat")
    process = standing.popen(argv, stdin=subprocess.PIPE)
    assert process.stdout and int(process.stdout.readline()) == process.pid
    process.communicate()


def test_without_privilege(host: Machine) -> None:
    for words in (["setup"], ["teardown"], ["gc"], ["test"]):
        refused = host.run(["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
                            *host.lab_argv("--no-rootless", *words)], code=1)
        assert refused.stderr == ("lab: cannot create namespaces: operation not permitted\n"
                                  "     run with sudo\n")


def test_a_busy_lab_says_who_has_it(host: Machine) -> None:
    holder = host.popen([sys.executable, "-c", (
        "import sys\nfrom netlab import state\n"
        "with state.locked('netlab', 'lab test'):\n"
        "    print('held', flush=True); sys.stdin.read()")], stdin=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    for words in (["setup"], ["teardown"], ["test"]):
        refused = host.lab(*words, code=1)
        assert refused.stderr.splitlines()[0] == (
            f"lab: lab 'netlab' is busy: lab test (pid {holder.pid})")
    assert "is busy" in host.lab("gc").stderr
    host.lab("setup", "--name", "another")
    holder.communicate()
    host.lab("setup")


def test_two_setups_at_once_make_one_lab(host: Machine) -> None:
    both = [host.popen(host.lab_argv("setup")) for _ in range(2)]
    ends = sorted((process.communicate()[1], process.returncode) for process in both)
    assert [code for _, code in ends if code == 0]
    assert all(code == 0 or "is busy" in err for err, code in ends)
    assert host.names() == ["netlab-client", "netlab-server", "netlab-switch"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_setup_that_is_stopped_leaves_nothing(host: Machine, number: int) -> None:
    before = host.snapshot()
    # Stopped where it hurts most: in the middle of a step, after something was made.
    process = host.popen([sys.executable, "-c", (
        "import os, sys, time\nfrom netlab import cli, namespaces\n"
        "make = namespaces.create\n"
        "def slow(births):\n"
        "    for made in make(births):\n"
        "        print('made', flush=True); sys.stdin.readline(); yield made\n"
        "namespaces.create = slow\nsys.argv = ['lab', 'setup']\ncli.main()\n")],
        stdin=subprocess.PIPE)
    assert process.stdout and process.stdin and process.stdout.readline() == "made\n"
    process.send_signal(number)
    process.stdin.write("\n" * 9)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert host.snapshot() == before


_COUNT_DESCRIPTORS = """
import resource, sys
from netlab import lifecycle, plan, state, topology
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, int(sys.argv[1]))))
with state.locked("netlab", "lab setup"):
    lifecycle.ensure_up(plan.make(topology.star(30)), print)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_a_low_limit_on_open_files_is_raised_for_as_long_as_it_takes(host: Machine) -> None:
    before = host.snapshot()
    said = host.run([sys.executable, "-c", _COUNT_DESCRIPTORS, "4096"])
    assert said.stdout == "64\n" and len(host.names()) == 33
    host.lab("teardown")
    assert host.snapshot() == before


def test_a_hard_limit_on_open_files_is_told_of_and_leaves_nothing(host: Machine) -> None:
    before = host.snapshot()
    refused = host.run(["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource",
                        sys.executable, "-c", _COUNT_DESCRIPTORS, "100"], code=1)
    assert "open files, two for each node, and only 100 are allowed" in refused.stderr
    assert host.snapshot() == before


_ANSWERS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.0.0.1", 9))
print("listening", flush=True)
for _ in range(7):
    data, peer = s.recvfrom(64)
    s.sendto(peer[0].encode(), peer)
"""
_ASKS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b"?", ("10.0.0.1", 9))
print(s.recv(64).decode())
"""
_SMALL_SHARDS = """
import sys
from netlab import cli, plan
plan.SHARD = 3
sys.argv = ["lab", "setup", "star", "--segments", "7"]
cli.main()
"""


def test_a_segment_of_several_bridges_is_one_segment(host: Machine) -> None:
    """Every relay, each bridge's, reaches the server by ARP and UDP, and is answered."""
    before = host.snapshot()
    host.run([sys.executable, "-c", _SMALL_SHARDS])
    switch = next(n for n in host.status("netlab")["nodes"] if n["node"] == "switch")
    assert [p["ifname"] for p in switch["interfaces"] if p["kind"] == "bridge"] == [
        "core", "core.1", "core.2"]
    assert {p["state"] for p in switch["interfaces"]} == {"up"}
    server = host.popen(host.lab_argv("exec", "server", "--", "python3", "-c", _ANSWERS))
    assert server.stdout and server.stdout.readline() == "listening\n"
    for n in range(1, 8):
        said = host.lab("exec", f"relay{n}", "--", "python3", "-c", _ASKS).stdout
        assert said == f"10.0.0.{1 + n}\n"
    server.communicate(timeout=10)
    host.lab("teardown")
    assert host.snapshot() == before


def test_a_packet_is_routed_through_a_chain_of_relays(host: Machine) -> None:
    """A server's answer to the giaddr of the first relay passes the others as plain IP."""
    before = host.snapshot()
    host.lab("setup", "relay", "--hops", "3")
    server = host.popen(host.lab_argv("exec", "server", "--", "python3", "-c",
                                      _ANSWERS.replace("10.0.0.1", "10.0.3.2")
                                      .replace("range(7)", "range(2)")))
    assert server.stdout and server.stdout.readline() == "listening\n"
    for node, source in (("relay1", "10.16.0.1"), ("relay2", "10.0.1.2")):
        ask = _ASKS.replace("10.0.0.1", "10.0.3.2").replace(
            "s.settimeout", f's.bind(("{source}", 0)); s.settimeout')
        assert host.lab("exec", node, "--", "python3", "-c", ask).stdout == f"{source}\n"
    server.communicate(timeout=10)
    host.lab("exec", "relay2", "--", "ip", "route", "del", "default")
    assert "not whole (routes of relay2" in host.lab("setup", "relay", "--hops", "3").stderr
    host.lab("teardown")
    assert host.snapshot() == before


def test_progress_is_shown_on_a_terminal_only(host: Machine) -> None:
    impatient = ("import sys\nfrom netlab import cli, progress\n"
                 "progress.shown.__wrapped__.__defaults__ = (0.0,)\n"
                 "sys.argv = ['lab', 'setup', 'star']\ncli.main()\n")
    assert host.run([sys.executable, "-c", impatient]).stderr == ""
    host.lab("teardown")
    ours, theirs = os.openpty()
    process = host.popen([sys.executable, "-c", impatient], stderr=theirs)
    os.close(theirs)
    process.communicate(timeout=10)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "\r\x1b[Klab: 7 of 7 nodes" in seen and seen.endswith("\r\x1b[K")


@pytest.mark.parametrize("journals", [0.2, 1.5])
def test_a_full_disk_leaves_nothing(host: Machine, journals: float) -> None:
    """Full before anything was made; and when all is made, and the next journal finds no room."""
    star = ("setup", "star", "--segments", "50")
    host.lab(*star)
    size = (host.root / "run/dhcp-netlab/netlab.json").stat().st_size
    host.lab("teardown")
    place = "/run/test/state"
    (host.root / place[1:]).mkdir()
    host.run(["mount", "-n", "-t", "tmpfs", "-o", f"size={int(size * journals)}", "none", place])
    before = host.snapshot()
    refused = host.lab(*star, env={STATE_ENV: place}, code=1)
    assert refused.stderr == f"lab: cannot write {place}/netlab.json: no space left on device\n"
    after = host.snapshot()
    assert set(after.pop("files")) - set(before.pop("files")) <= {"run/test/state/.dhcp-netlab"}
    assert after == before
    assert host.lab("status", env={STATE_ENV: place}).stdout == "no lab is up\n"
    host.run(["umount", place])


def test_a_lab_is_removed_from_a_full_disk(host: Machine) -> None:
    place = host.root / "run/test/state"
    place.mkdir()
    host.run(["mount", "-n", "-t", "tmpfs", "-o", "size=40k", "none", "/run/test/state"])
    before = host.snapshot()
    host.lab("setup", env={STATE_ENV: "/run/test/state"})
    with contextlib.suppress(OSError):
        (place / "filler").write_bytes(bytes(1 << 20))
    host.lab("teardown", env={STATE_ENV: "/run/test/state"})
    (place / "filler").unlink()
    after = host.snapshot()
    assert set(after.pop("files")) - set(before.pop("files")) <= {"run/test/state/.dhcp-netlab"}
    assert after == before
    host.run(["umount", "/run/test/state"])


def test_two_state_directories_are_two_worlds(host: Machine) -> None:
    before = host.snapshot()
    other = {STATE_ENV: "/run/test/state"}
    host.lab("setup", "--name", "here")
    host.lab("setup", "--name", "there", env=other)
    assert "'here-client' exists and is not a lab's" in host.lab(
        "setup", "--name", "here", env=other, code=2).stderr
    assert host.lab("gc").stdout == host.lab("gc", env=other).stdout == "nothing was left behind\n"
    assert host.lab("teardown", "--all").stdout.startswith("here: removed")
    assert host.names() == ["there-client", "there-server", "there-switch"]
    host.lab("teardown", "--all", env=other)
    after = host.snapshot()
    assert set(after.pop("files")) - set(before.pop("files")) == {
        "run/test/state", "run/test/state/.dhcp-netlab"}
    assert after == before


def test_a_directory_with_other_things_is_no_state_directory(host: Machine) -> None:
    place = host.root / "run/test"
    (place / "netlab").mkdir()
    (place / "netlab/thesis.txt").write_text("years of work")
    (place / "package.json").write_text("{}")
    before = host.snapshot()
    for words in (["setup"], ["teardown"], ["teardown", "--name", "package"], ["test"]):
        refused = host.lab(*words, env={STATE_ENV: "/run/test"}, code=1)
        assert refused.stderr.startswith("lab: /run/test holds other things than labs\n")
    for words in (["gc"], ["status"], ["teardown", "--all"]):
        host.lab(*words, env={STATE_ENV: "/run/test"})
    assert host.snapshot() == before
