"""Every server adapter with every relay adapter at 0, 1, 2 and 4 hops, as `lab test` runs them.

What is asked of each: all clients bound, addresses in the right subnet, option 82 as configured,
and the server's lease store equal to what the clients were given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.machine import Machine, machine
from tests.peers.bin import peers_bin

PROGRAMS = {"dhcp-server": (), "kea": ("kea-dhcp4",), "isc-dhcpd": ("dhcpd",),
            "dnsmasq": ("dnsmasq",), "udhcpd": ("udhcpd",),
            "dhcp-relay": (), "dhcrelay": ("dhcrelay",)}
SERVERS = ("dhcp-server", "kea", "isc-dhcpd", "dnsmasq")
RELAYS = ("dhcp-relay", "dhcrelay", "dnsmasq")
CLIENTS = 40

pytestmark = [pytest.mark.root,
              pytest.mark.peers("kea-dhcp4", "dhcpd", "dnsmasq", "udhcpd", "dhcrelay")]


def outcome_of(host: Machine, place: Path, *words: str, peers: tuple[str, ...] = (), code: int = 0,
           load: tuple[str, ...] = ("--clients", str(CLIENTS), "--retry")) -> dict[str, Any]:
    """What `lab test` with these words came to."""
    result = place / "result.json"
    peers = ("dhcp-server", "dhcp-relay", "dhcp-tester", *peers)
    host.run(host.lab_argv("test", *words, "--json", str(result), "--", *load),
             {"DHCP_NETLAB_BIN": str(peers_bin(*peers))}, code=code)
    return dict(json.loads(result.read_text()))


def check(document: dict[str, Any]) -> None:
    """All bound, in the right subnet, and the store agrees to the last lease."""
    assert document["verdict"] == "pass"
    assert document["clients"]["bound"] == document["clients"]["planned"] == CLIENTS
    leases = document["lab"]["leases"]
    assert leases.get("agree") == CLIENTS, leases
    assert leases["wrong_subnet"] == leases["missing"] == leases["differ"] == 0
    assert leases["duplicates"] == leases["unheld"] == 0


@pytest.mark.parametrize("server", [*SERVERS, "udhcpd"])
def test_a_server_on_the_clients_segment(server: str, tmp_path: Path) -> None:
    with machine() as host:
        before = host.snapshot()
        check(outcome_of(host, tmp_path, "direct", "--server", server, peers=PROGRAMS[server]))
        assert host.snapshot() == before


@pytest.mark.parametrize("hops", [1, 2, 4])
@pytest.mark.parametrize("relay", RELAYS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_behind_relays(server: str, relay: str, hops: int, tmp_path: Path) -> None:
    peers = (*PROGRAMS[server], *PROGRAMS.get(relay, ("dnsmasq",)))
    # dnsmasq has neither a limit of hops nor option 82.
    policy = () if relay == "dnsmasq" else ("--max-hops", "16", "--option82", "append")
    with machine() as host:
        document = outcome_of(host, tmp_path, "relay", "--hops", str(hops), "--server", server,
                          "--relay", relay, *policy, peers=peers)
    check(document)
    assert [side["node"] for side in document["lab"]["relays"]] == [
        f"relay{i}" for i in range(1, hops + 1)]
