"""Looking into a lab: captures that tshark reads, shells, logs, drawings of what stands."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fastpath.packet import Frame
from tests.lab.machine import Machine, wait_until
from tests.peers.capture import fields
from tests.peers.unpack import program
from tests.unit.test_pcapng import blocks, discover

pytestmark = pytest.mark.root

# Sends each frame given in hexadecimal out of an interface, past the queueing discipline as our
# own programs do.
_SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(263, 20, 1)
s.bind((sys.argv[1], 0))
for frame in sys.argv[2:]:
    s.send(bytes.fromhex(frame))
"""
ARP = bytes.fromhex("ffffffffffff 020000000001 0806") + bytes(46)


def message(**frame: object) -> bytes:
    return Frame(src_mac=b"\2\0\0\0\0\1", payload=discover(), **frame).encode()  # type: ignore[arg-type]


def send(host: Machine, node: str, ifname: str, *frames: bytes) -> None:
    host.run(["ip", "netns", "exec", f"netlab-{node}", sys.executable, "-SE", "-c", _SEND, ifname,
              *(frame.hex() for frame in frames)])


class Capturing:
    """`lab capture` in the background, from when its taps are open."""

    def __init__(self, host: Machine, place: Path, *words: str) -> None:
        self._said = place / "said"
        with self._said.open("w") as said:
            self.process = host.popen(host.lab_argv("capture", *words), stderr=said)
        wait_until("capturing", lambda: "capturing" in self.said() or self.process.poll(), 60)

    def said(self) -> str:
        return self._said.read_text()

    def end(self, number: int = signal.SIGINT) -> str:
        """What it wrote to its standard output; it must end well."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> str:
        out = self.process.communicate(timeout=30)[0]
        assert self.process.returncode == 0, self.said()
        return str(out)


@pytest.mark.peers("tshark")
def test_each_frame_once_with_its_link_and_direction(host: Machine, tmp_path: Path) -> None:
    host.lab("setup", "relay", "--hops", "1")
    place = tmp_path / "all.pcapng"
    capturing = Capturing(host, tmp_path, "-o", str(place), "--filter", "all")
    send(host, "client", "eth0", message(), message(vlans=(100,)), message(vlans=(7, 200)), ARP)
    send(host, "relay1", "eth0", message())
    send(host, "relay1", "eth1", message())
    send(host, "server", "eth0", message())
    capturing.end()
    assert capturing.said().endswith(f"7 frames in {place}, none lost\n")
    names = ["frame.interface_name", "frame.packet_flags_direction", "eth.type", "vlan.id",
             "ieee8021ad.id", "frame.len", "frame.time_delta"]
    rows = [tuple(row.values()) for row in fields(place, names, "frame")]
    plain = str(len(message()))
    assert [(link, int(way, 16), vlan, outer, size) for link, way, _, vlan, outer, size, _ in rows
            ] == [("client.eth0", 2, "", "", plain),
                  ("client.eth0", 2, "100", "", str(len(message()) + 4)),
                  ("client.eth0", 2, "200", "7", str(len(message()) + 8)),
                  ("client.eth0", 2, "", "", "60"),
                  ("client.eth0", 1, "", "", plain),
                  ("relay1.eth1", 2, "", "", plain),
                  ("relay1.eth1", 1, "", "", plain)]
    assert all(0 <= float(row[-1]) < 60 for row in rows)
    assert [kind for kind, _ in blocks(place.read_bytes())] == [
        0x0A0D0D0A, 1, 1, *[6] * 7, 5, 5]


def test_a_segment_has_each_frame_once(host: Machine, tmp_path: Path) -> None:
    host.lab("setup", "star", "--segments", "3")
    capturing = Capturing(host, tmp_path, "core")
    send(host, "relay2", "eth1", message())  # leaves by the three other ports
    send(host, "client", "eth0", message())  # is on another segment
    send(host, "server", "eth0", message(), ARP)
    lines = capturing.end().splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["relay2.eth1", ">", "DISCOVER"], ["server.eth0", ">", "DISCOVER"]]
    assert "xid 0x00001234 chaddr 00:01:02:03:04:05 hops 2" in lines[0]


def test_a_capture_ends_by_count_size_and_time(host: Machine, tmp_path: Path) -> None:
    host.lab("setup")
    place = tmp_path / "some.pcapng"
    several = [message()] * 9
    for words, frames in ((["--count", "4"], 4), (["--max-size", "1K"], None),
                          (["--duration", "1s"], 9), (["--snaplen", "64", "--count", "1"], 1)):
        capturing = Capturing(host, tmp_path, "client.eth0", "-o", str(place), "--text", *words)
        send(host, "client", "eth0", *several)
        said = capturing.wait()
        packets = [body for kind, body in blocks(place.read_bytes()) if kind == 6]
        assert len(packets) == len(said.splitlines()) and frames in (None, len(packets)), words
    assert f"{len(message())} octets, cut to 64" in said
    assert int.from_bytes(packets[0][12:16], "little") == 64


def test_a_pipe_and_a_reader_that_goes_away(host: Machine, tmp_path: Path) -> None:
    host.lab("setup")
    capturing = Capturing(host, tmp_path, "-o", "-", "--count", "1")
    assert capturing.process.stdout
    raw = capturing.process.stdout.buffer  # type: ignore[attr-defined]
    send(host, "client", "eth0", message())
    kinds = [kind for kind, _ in blocks(raw.read())]
    assert (kinds[0], kinds.count(6), kinds.count(5)) == (0x0A0D0D0A, 1, 2)
    capturing.wait()

    capturing = Capturing(host, tmp_path, "-o", "-")
    assert capturing.process.stdout
    capturing.process.stdout.close()
    send(host, "client", "eth0", message())
    assert capturing.process.wait(10) == 0
    assert "Error" not in capturing.said()


@pytest.mark.parametrize("how", ["teardown", "interfaces"])
def test_a_lab_that_goes_away_ends_its_capture(host: Machine, tmp_path: Path, how: str) -> None:
    host.lab("setup", "relay", "--hops", "1")
    place = tmp_path / "gone.pcapng"
    capturing = Capturing(host, tmp_path, "-o", str(place))
    send(host, "client", "eth0", message())
    if how == "interfaces":
        host.run(["ip", "-n", "netlab-client", "link", "del", "eth0"])
        send(host, "relay1", "eth1", message())
    host.lab("teardown")
    capturing.wait()
    frames = 2 if how == "interfaces" else 1
    assert f"netlab is gone: {frames} frame" in capturing.said()
    assert sum(kind == 6 for kind, _ in blocks(place.read_bytes())) == frames
    assert host.names() == []


def test_what_a_full_disk_got_can_be_read(host: Machine, tmp_path: Path) -> None:
    host.lab("setup")
    disk = host.root / "run/small"
    host.run(["mkdir", "/run/small"])
    host.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", "/run/small"])
    capturing = Capturing(host, tmp_path, "client.eth0", "-o", "/run/small/x.pcapng")
    for _ in range(4):
        send(host, "client", "eth0", *[message()] * 10)
    assert capturing.process.wait(10) == 1
    assert "cannot write /run/small/x.pcapng: No space left on device" in capturing.said()
    assert "Traceback" not in capturing.said()
    kinds = [kind for kind, _ in blocks((disk / "x.pcapng").read_bytes())]
    assert kinds.count(6) >= 15
    host.run(["umount", "/run/small"])


@pytest.mark.peers("tshark", "dhcrelay")
def test_every_message_of_a_test_on_both_sides_of_a_relay(host: Machine, tmp_path: Path) -> None:
    names = {f"dhcp-{name}": f"#!{sys.executable}\nfrom {name}.cli import main\nmain()\n"
             for name in ("server", "tester")}
    names["dhcrelay"] = f'#!/bin/sh\nexec {" ".join(program("dhcrelay").argv())} "$@"\n'
    for name, text in names.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    host.lab("setup", "relay", "--hops", "1")
    place = tmp_path / "test.pcapng"
    capturing = Capturing(host, tmp_path, "-o", str(place))
    host.lab("test", "relay", "--hops", "1", "--relay", "dhcrelay", "--", "--clients", "50",
             env={"DHCP_NETLAB_BIN": str(tmp_path)})
    capturing.end()
    assert "none lost" in capturing.said()
    rows = fields(place, ["frame.interface_name", "frame.packet_flags_direction",
                          "dhcp.option.dhcp", "dhcp.hops", "dhcp.id"])
    kinds = Counter((row["frame.interface_name"], int(row["frame.packet_flags_direction"], 16),
                     row["dhcp.option.dhcp"], row["dhcp.hops"] != "0") for row in rows)
    asked = {("client.eth0", 2, kind, False): 50 for kind in "13"}
    assert {key: count for key, count in kinds.items() if key[:2] == ("client.eth0", 2)} == asked
    for link, way, kinds_of, relayed in (("client.eth0", 1, "25", None),
                                         ("relay1.eth1", 2, "13", True),
                                         ("relay1.eth1", 1, "25", None)):
        for kind in kinds_of:
            assert sum(count for key, count in kinds.items() if key[:3] == (link, way, kind)
                       and relayed in (None, key[3])) == 50
    assert len(rows) == 400 and len({row["dhcp.id"] for row in rows}) >= 50


@pytest.mark.parametrize("words, said, code", [
    (("capture", "nobody"), "netlab: no link, segment or node 'nobody'", 2),
    (("capture", "--name", "other"), "other: not up", 2),
    (("capture", "-o", "/nowhere/x"), "cannot write /nowhere/x: No such file", 1),
    (("capture", "-o", "-", "--text"), "both go to standard output", 2),
    (("capture", "--max-size", "lots"), "'lots' is not a size", 2),
    (("shell", "nobody"), "netlab: no node 'nobody'", 2),
    (("shell", "client", "--name", "other"), "other: not up", 2),
    (("logs", "nobody"), "no node or program 'nobody' has said anything", 2),
    (("logs", "--name", "other"), "other: not up", 2),
    (("graph", "--name", "other"), "other: not up", 2),
])
def test_what_is_not_there_is_said_in_one_line(standing: Machine, words: tuple[str, ...],
                                               said: str, code: int) -> None:
    refused = standing.lab(*words, code=code)
    first, *rest = [line for line in refused.stderr.splitlines() if "Ctrl-C" not in line]
    assert first.startswith("lab: ") and said in first
    assert len(rest) <= 1


def test_no_privilege_is_said(standing: Machine) -> None:
    for words in (("capture", "lan"), ("shell", "client")):
        refused = standing.run(["setpriv", "--bounding-set=-sys_admin,-net_admin",
                                *standing.lab_argv(*words)], code=None)
        # Where user namespaces are allowed, it looks for labs of its own, and has none.
        assert refused.returncode in (1, 2) and len(refused.stderr.splitlines()) <= 2
        assert re.search("operation not permitted|netlab: not up", refused.stderr)


def test_a_shell_stands_in_the_node(standing: Machine) -> None:
    shell = standing.popen(standing.lab_argv("shell", "server"), stdin=subprocess.PIPE,
                           env={"SHELL": "/bin/sh"})
    out, _ = shell.communicate("ls /sys/class/net; echo $DHCP_NETLAB_NODE; exit 7\n", timeout=30)
    assert (out.split(), shell.returncode) == (["eth0", "lo", "netlab/server"], 7)


@pytest.mark.parametrize("which", ["/bin/bash", "/bin/sh"])
def test_the_prompt_of_a_shell_says_where_it_is(standing: Machine, which: str) -> None:
    ours, theirs = pty.openpty()
    try:
        shell = standing.popen(standing.lab_argv("shell", "client"), stdin=theirs, stdout=theirs,
                               stderr=theirs, env={"SHELL": which}, start_new_session=True)
        os.close(theirs)
        os.set_blocking(ours, False)
        seen = b""

        def prompted() -> bool:
            nonlocal seen
            with contextlib.suppress(BlockingIOError):
                seen += os.read(ours, 4096)
            return b"(netlab/client) " in seen

        wait_until("the prompt", prompted, 30)
        os.write(ours, b"exit 3\n")
        assert shell.wait(30) == 3
    finally:
        os.close(ours)


def test_a_shell_that_is_not_there(standing: Machine) -> None:
    refused = standing.run(standing.lab_argv("shell", "client"), {"SHELL": "/no/shell"}, code=1)
    assert refused.stderr.startswith("lab: cannot run '/no/shell': no such file")


@pytest.fixture
def logged(host: Machine) -> Path:
    """The directory of a standing lab's logs, with two of them."""
    host.lab("setup")
    place = host.root / "run/dhcp-netlab/netlab/logs"
    place.mkdir(parents=True)
    (place / "server-dhcp-server.log").write_text("one\ntwo\nthree\n")
    (place / "client-dhcp-tester.log").write_bytes(
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b\xff\r\n" + "a\u202eb\t|\x08".encode())
    return place


def test_logs_are_shown_safely(host: Machine, logged: Path) -> None:
    assert host.lab("logs").stdout == (
        "client/dhcp-tester: red \ufffd\ufffd\n"
        "client/dhcp-tester: a\\u202eb     |\\x08\n"
        "server/dhcp-server: one\nserver/dhcp-server: two\nserver/dhcp-server: three\n")


@pytest.mark.parametrize("words, said", [
    (("server",), "one\ntwo\nthree\n"), (("dhcp-server",), "one\ntwo\nthree\n"),
    (("server", "--lines", "2"), "two\nthree\n"), (("server", "--lines", "9"), "one\ntwo\nthree\n"),
    (("server", "--lines", "0"), ""), (("switch",), "")])
def test_logs_of_one(host: Machine, logged: Path, words: tuple[str, ...], said: str) -> None:
    assert host.lab("logs", *words).stdout == said


def test_the_end_of_a_large_log(host: Machine, logged: Path) -> None:
    lines = [f"line {i} " + "x" * (i % 300) for i in range(20_000)]
    (logged / "server-dhcp-server.log").write_text("\n".join(lines))
    for count in (1, 500, 19_999):
        assert host.lab("logs", "server", "--lines", str(count)).stdout.splitlines() == \
            lines[-count:]


def test_logs_are_followed_until_the_lab_is_gone(host: Machine, logged: Path) -> None:
    following = host.popen(host.lab_argv("logs", "server", "--follow", "--lines", "1"))
    assert following.stdout and following.stdout.readline() == "three\n"
    with (logged / "server-dhcp-server.log").open("a") as log:
        log.write("four\nhal")
        log.flush()
        assert following.stdout.readline() == "four\n"
        log.write("f\n")
    assert following.stdout.readline() == "half\n"
    (logged / "server-dhcp-server.log").write_text("new\n")
    assert following.stdout.readline() == "new\n"
    host.lab("teardown")
    out, err = following.communicate(timeout=10)
    assert (out, err, following.returncode) == ("", "netlab: gone\n", 0)


def test_ctrl_c_ends_following(host: Machine, logged: Path) -> None:
    following = host.popen(host.lab_argv("logs", "-f", "server"))
    assert following.stdout and following.stdout.readline() == "one\n"
    following.send_signal(signal.SIGINT)
    assert "Traceback" not in following.communicate(timeout=10)[1]


def test_what_stands_is_drawn(standing: Machine) -> None:
    assert standing.lab("graph").stdout.startswith("direct: 3 nodes")
    unprivileged = ["setpriv", "--reuid=65534", "--clear-groups", *standing.lab_argv("graph")]
    assert "server" in standing.run(unprivileged).stdout
    drawn = standing.lab("graph", "relay", "--hops", "2").stdout
    assert drawn.startswith("relay --hops 2") and "relay2" in drawn
