"""A server that stops reading for a while: what it lost is told, whoever's server it is.

The standing example from the field: 9,700 datagrams lost in a receive queue, while the statistics
of the server itself showed none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.machine import Machine, machine, wait_until
from tests.peers.bin import peers_bin

pytestmark = [pytest.mark.root, pytest.mark.bcc]
RATE, SECONDS = 3000, 3


def _arrived(pid: int) -> int:
    """Frames that its eth0 has received."""
    rows = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return next((int(row.split()[2]) for row in rows if row.split()[0] == "eth0:"), 0)


def _pid(host: Machine, program: str) -> int:
    """Of that program in the lab; 0 where it does not run yet."""
    for pid in host.residents():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(Path(os.fsdecode(word)).name == program for word in words[:3]):
            return pid
    return 0


def _stall(host: Machine, program: str, testing: subprocess.Popen[str], frames: int) -> None:
    """Stop it while so many frames arrive."""
    def running() -> int:
        assert testing.poll() is None, testing.communicate()
        return _pid(host, program)

    pid = wait_until(f"{program} to run", running, 60)
    wait_until("the load", lambda: _arrived(pid) > 500, 60)
    before = _arrived(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("frames to arrive", lambda: _arrived(pid) >= before + frames)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.peers("kea-dhcp4", "dhcpd", "dnsmasq", "udhcpd")
@pytest.mark.parametrize(("server", "program", "where", "options"), [
    ("dnsmasq", "dnsmasq", "socket receive queue", ()),
    ("udhcpd", "udhcpd", "socket receive queue", ()),
    ("isc-dhcpd", "dhcpd", "packet socket", ()),
    ("kea", "kea-dhcp4", "packet socket", ()),
    ("dhcp-server", "server.cli", "packet ring", ("--server-option", "--ring-slots=64"))])
def test_what_a_server_that_stops_reading_has_lost(server: str, program: str, where: str,
                                                   options: tuple[str, ...],
                                                   tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    with machine() as host:
        testing = host.popen(
            host.lab_argv("test", "--server", server, *options, "--ebpf", "--json", str(result),
                          "--", "--clients", str(RATE * SECONDS), "--rate", str(RATE),
                          "--timeout", "300ms"),
            {"DHCP_NETLAB_BIN": str(peers_bin("dhcp-server", "dhcp-tester", "kea-dhcp4", "dhcpd",
                                              "dnsmasq", "udhcpd"))})
        _stall(host, program, testing, 2000)
        said, error = testing.communicate(timeout=60)
        assert host.names() == [], error
    document = json.loads(result.read_text())
    side = document["lab"]["servers"][0]
    lost = side["ring_drops"] if where == "packet ring" else side["socket_drops"]
    assert lost > 500
    *before, place = document["path"]
    assert all(each["losses"] == [] for each in before)
    found = {loss["where"]: loss["count"] for loss in place["losses"]}
    assert found == {where: lost}
    assert f"server: {lost:,} in {where}" in said.replace("server:eth0", "server")
