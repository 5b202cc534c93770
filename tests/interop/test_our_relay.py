"""dhcp-relay between real clients and real servers, and in a row with real relays.

The one thing to know: `relayed(1)` has a client on 10.20.0.0/24 behind one router, `relayed(2)`
behind two; servers stand at 10.16.0.1, see tests.peers.relays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ours import OurServer, run_tester
from tests.peers.capture import Capture, fields, problems
from tests.peers.clients import Client, Dhclient, Dhcpcd, Udhcpc, perfdhcp
from tests.peers.net import Namespace
from tests.peers.relays import SERVER, Dhcrelay, DnsmasqRelay, Relay, Relayed, relayed
from tests.peers.servers import Dhcpd, Dnsmasq, Kea, Server
from tests.relaying import OurRelay

pytestmark = pytest.mark.root
needs = pytest.mark.peers
CLIENTS: dict[str, Callable[[Namespace], Client]] = {
    "dhclient": lambda place: Dhclient(place, renew_after_s=1), "dhcpcd": Dhcpcd}
PROGRAMS = {"Kea": "kea-dhcp4", "Dhcpd": "dhcpd", "Dnsmasq": "dnsmasq"}
CIRCUIT = "dhcp.option.agent_information_option.agent_circuit_id"
LINK = "dhcp.option.agent_information_option.link_selection"
WIRE = ["ip.src", "ip.dst", "dhcp.option.dhcp", "dhcp.hops", "dhcp.ip.relay", CIRCUIT, LINK]
ADDED = ("--option82", "append", "--circuit-id", "port-{ifname}", "--remote-id", "{mac}")
POOL = ("--start-ip", "10.20.0.16", "--end-ip", "10.20.0.250", "--netmask", "255.255.255.0")


class FarDhcpd(Dhcpd):
    """dhcpd for a segment that is not its own: it must know the one it stands on too."""

    def _command(self) -> list[str]:
        argv = super()._command()
        place = self.folder / "dhcpd.conf"
        place.write_text(place.read_text() + "subnet 10.16.0.0 netmask 255.255.255.0 {}\n")
        return argv


SERVERS: dict[str, type[Server]] = {"Kea": Kea, "Dhcpd": FarDhcpd, "Dnsmasq": Dnsmasq}


def serving(kind: str, net: Relayed) -> Server:
    return SERVERS[kind](net.server, start="10.20.0.16", end="10.20.0.99", subnet="10.20.0.0/24",
                         router="10.20.0.1", dns="10.20.0.1")


def seen(path: Path) -> list[dict[str, str]]:
    return fields(path, WIRE, "dhcp", ("-E", "occurrence=f"))


def quiet_end(stats: dict[str, Any], allowed: Sequence[str] = ()) -> None:
    """Nothing was discarded that a test did not want to be."""
    lost = {name: count for name, count in stats["discarded"].items() if count}
    assert set(lost) <= set(allowed), lost
    assert stats["rx_ring_drops"] == 0


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(PROGRAMS[kind], "dhclient",
                                                                 "tshark")) for kind in SERVERS])
def test_real_servers_echo_our_option_82_and_the_client_never_sees_it(kind: str,
                                                                      tmp_path: Path) -> None:
    with relayed(1) as net, serving(kind, net), \
            OurRelay(net.relays[0][0], arguments=ADDED) as relay, \
            Capture(tmp_path / "server.pcapng", *net.tap) as far, \
            Capture(tmp_path / "client.pcapng", net.clients[0], "eth0") as near, \
            Dhclient(net.clients[0]) as client:
        got = client.get()
        assert got.address.startswith("10.20.0.") and got.router == "10.20.0.1"
        far.stop()
        near.stop()
        stats = relay.finish()
    rows = seen(far.path)
    assert {row["dhcp.option.dhcp"] for row in rows} >= {"1", "2", "3", "5"}
    assert {row[CIRCUIT].replace(":", "") for row in rows} == {b"port-down".hex()}
    assert {(row["dhcp.ip.relay"], row["dhcp.hops"]) for row in rows
            if row["dhcp.option.dhcp"] in "13"} == {("10.20.0.1", "1")}
    assert {row[CIRCUIT] for row in seen(near.path)} == {""}
    for path in (far.path, near.path):
        assert not problems(path, "dhcp && (ip.src == 10.16.0.2 || ip.src == 10.20.0.1)").wrong
    assert stats["option82"]["removed"] == stats["replies"]["relayed"]["offer"] + 1
    quiet_end(stats)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(kind)) for kind in CLIENTS])
def test_real_clients_bind_renew_and_release_through_it(kind: str) -> None:
    """Renewals and releases are unicast: they pass as any other traffic, and are not relayed."""
    with relayed(1) as net, OurServer(net.server, (*POOL, "--gateway", "10.20.0.1")) as server, \
            OurRelay(net.relays[0][0], arguments=["-a"], by_route=True) as relay, \
            CLIENTS[kind](net.clients[0]) as client:
        got = client.get()
        assert (got.address, got.server_id) == ("10.20.0.16", SERVER)
        net.clients[0].ip(f"route replace default via {got.router}\n")
        assert client.renew().address == got.address
        client.release()
        stats, served = relay.finish(), server.stop()
    assert stats["requests"]["relayed"]["request"] == 1
    assert served["received"]["request"] == 2 and served["sent"]["nak"] == 0
    quiet_end(stats)


@needs("udhcpc", "tshark")
def test_a_client_renews_through_us_by_server_id_override(tmp_path: Path) -> None:
    """RFC 5107: the client takes the relay for its server."""
    words = ("-a", "--server-id-override", "--link-selection", "auto")
    with relayed(1) as net, OurServer(net.server, POOL) as server, \
            OurRelay(net.relays[0][0], arguments=words) as relay, \
            Capture(tmp_path / "server.pcapng", *net.tap) as far, \
            Udhcpc(net.clients[0]) as client:
        got = client.get()
        assert (got.address, got.server_id) == ("10.20.0.16", "10.20.0.1")
        assert client.renew().address == got.address
        far.stop()
        stats, served = relay.finish(), server.stop()
    assert stats["requests"]["relayed"]["request"] == 2 and served["sent"]["nak"] == 0
    assert {(row["dhcp.ip.relay"], row[LINK]) for row in seen(far.path)} == {
        ("10.16.0.2", "10.20.0.1")}
    quiet_end(stats)


Hops = Sequence[tuple[type[Relay], Sequence[str]]]
CHAINS: dict[str, Hops] = {
    "dhcp-relay, dhcrelay": ((OurRelay, ("-a",)), (Dhcrelay, ())),
    "dhcrelay, dhcp-relay": ((Dhcrelay, ("-a",)), (OurRelay, ("-a",))),
    "dhcp-relay, dhcp-relay": ((OurRelay, ("-a",)), (OurRelay, ("-a",))),
    "dnsmasq, dhcp-relay": ((DnsmasqRelay, ()), (OurRelay, ("-a",))),
}


@pytest.mark.parametrize("chain", [pytest.param(chain, marks=needs("udhcpc", "dhcrelay", "dnsmasq",
                                                                   "tshark")) for chain in CHAINS])
def test_in_a_row_with_other_relays(chain: str, tmp_path: Path) -> None:
    with relayed(2) as net, OurServer(net.server, POOL) as server, \
            Capture(tmp_path / "server.pcapng", *net.tap) as far, \
            contextlib.ExitStack() as stack:
        relays = [stack.enter_context(kind(relay, towards, words)) for (kind, words), relay, towards
                  in zip(CHAINS[chain], net.relays[0], net.towards[0], strict=True)]
        client = stack.enter_context(Udhcpc(net.clients[0]))
        assert client.get().address == "10.20.0.16"
        far.stop()
        for relay in relays:
            if isinstance(relay, OurRelay):
                stats = relay.finish()
                assert stats["requests"]["relayed"]["discover"] >= 1
        served = server.stop()
    rows = [row for row in seen(far.path) if row["dhcp.option.dhcp"] in "13"
            and row["ip.dst"] == SERVER]
    assert rows and {row["dhcp.ip.relay"] for row in rows if row["dhcp.hops"] == "2"} == {
        "10.20.0.1"}
    assert {row[CIRCUIT].replace(":", "") for row in rows if row["dhcp.hops"] == "2"} == {
        "" if chain.startswith("dnsmasq") else b"down".hex()}
    assert served["sent"]["nak"] == 0


@needs("perfdhcp")
def test_perfdhcp_counts_what_we_count() -> None:
    """It speaks as a relay itself, so nothing is added and giaddr stays."""
    with relayed(1) as net, OurServer(net.server, POOL) as server, \
            OurRelay(net.relays[0][0], arguments=["-a"]) as relay:
        net.clients[0].ip("addr add 10.20.0.9/24 dev eth0\nroute add default via 10.20.0.1\n")
        report = perfdhcp(net.clients[0], ["-r", "100", "-n", "50", "-R", "200", "-u",
                                           "-l", "10.20.0.9", "10.20.0.1"])
        stats, served = relay.finish(), server.stop()
    assert report.discover_offer.sent == report.request_ack.sent == 50
    assert report.discover_offer.drops == report.request_ack.drops == 0
    assert stats["requests"]["relayed"]["discover"] == served["received"]["discover"] == 50
    assert stats["option82"]["added"] == 0 and stats["by_hops"][0] + stats["by_hops"][1] == 100
    quiet_end(stats)


def test_our_tester_counts_what_we_count() -> None:
    with relayed(1) as net, OurServer(net.server, POOL) as server, \
            OurRelay(net.relays[0][0], arguments=ADDED) as relay:
        run = run_tester(net.clients[0], "--clients", "200", "--concurrency", "16")
        stats, served = relay.finish(), server.stop()
    assert run.code == 0 and run.document["clients"]["bound"] == 200
    messages = run.document["messages"]
    assert stats["requests"]["received"] == stats["requests"]["relayed"]
    for kind in ("discover", "request"):
        assert stats["requests"]["relayed"][kind] == served["received"][kind] >= 200
    for kind in ("offer", "ack"):
        assert stats["replies"]["relayed"][kind] == messages[kind]["received"]
    assert stats["servers"][0]["sent"] == 400 and stats["servers"][0]["reachable"]
    assert stats["option82"] == {"added": 400, "replaced": 0, "removed": 400, "no_room": 0}
    quiet_end(stats)


def test_faults_count_for_count() -> None:
    """What the relay lost is what the client repeated, or the server saw twice."""
    faults = ("--fault", "drop:discover:20%", "--fault", "drop:ack:20%", "--fault",
              "duplicate:offer:20%", "--fault", "delay:request:delay=5ms", "--fault-seed", "7")
    with relayed(1) as net, OurServer(net.server, POOL) as server, \
            OurRelay(net.relays[0][0], arguments=faults) as relay:
        run = run_tester(net.clients[0], "--clients", "100", "--retry", "--timeout", "100ms",
                         "--max-discover-retries", "20", "--max-request-retries", "20")
        stats, served = relay.finish(), server.stop()
    assert run.document["clients"]["bound"] == 100
    hits = stats["faults"]
    assert min(hits[name] for name in ("drop:discover", "drop:ack", "duplicate:offer")) > 0
    assert stats["discarded"]["fault"] == hits["drop:discover"] + hits["drop:ack"]
    asked, answered = stats["requests"], stats["replies"]
    assert asked["received"]["discover"] - hits["drop:discover"] == served["received"]["discover"]
    assert answered["relayed"]["offer"] == served["sent"]["offer"] + hits["duplicate:offer"]
    assert answered["relayed"]["ack"] == served["sent"]["ack"] - hits["drop:ack"]
    assert hits["delay:request"] == asked["relayed"]["request"] == served["received"]["request"]
    quiet_end(stats, ("fault",))
