"""dhcp-server against real clients: each gets, renews and releases a lease."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ours import OurServer
from tests.peers.capture import Capture, fields, problems
from tests.peers.clients import Client, Dhclient, Dhcpcd, Udhcpc, perfdhcp
from tests.peers.net import Namespace, two_namespaces

pytestmark = pytest.mark.root
OPTIONS = ("--start-ip", "10.16.0.16", "--end-ip", "10.16.0.99", "--gateway", "10.16.0.1",
           "--dns1", "10.16.0.1", "--lease-time", "600s")


def client_of(kind: str, namespace: Namespace) -> Client:
    if kind == "dhclient":
        return Dhclient(namespace, renew_after_s=1)
    if kind == "udhcpc":
        return Udhcpc(namespace)
    return Dhcpcd(namespace, config="option domain_name_servers\n")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.peers(kind, "tshark"))
                                  for kind in ("udhcpc", "dhclient", "dhcpcd")])
def test_a_real_client_gets_renews_and_releases(kind: str, tmp_path: Path) -> None:
    with two_namespaces(bridge=True) as net, OurServer(net.server, OPTIONS) as server, \
            Capture(tmp_path / f"{kind}.pcapng", *net.tap) as capture:
        with client_of(kind, net.client) as client:
            got = client.get()
            assert (got.what, got.server_id, got.lease_time_s) == ("bound", "10.16.0.1", 600)
            assert (got.netmask, got.router, got.dns) == ("255.240.0.0", "10.16.0.1", "10.16.0.1")
            assert got.address == "10.16.0.16"
            if kind != "dhcpcd":  # its T1 is the server's: five minutes
                assert client.renew().address == got.address
            client.release()
        capture.stop()
        stats = server.stop()
    assert stats["sent"]["nak"] == 0
    assert stats["received"]["release"] == 1
    assert stats["pool"]["bound"] == 0 and stats["causes"]["not_his"] == 0
    found = problems(capture.path)
    assert not found.wrong, found
    kinds = [row["dhcp.option.dhcp"] for row in fields(capture.path, ["dhcp.option.dhcp"])]
    assert kinds[:4] == ["1", "2", "3", "5"]
    assert len(kinds) == sum(stats["received"].values()) + sum(stats["sent"].values())


@pytest.mark.peers("dhclient")
def test_a_client_that_comes_back_gets_the_same_address() -> None:
    with two_namespaces() as net, OurServer(net.server, OPTIONS):
        with Udhcpc(net.client) as first:
            address = first.get().address
            first.release()
        with Udhcpc(net.client) as again:
            assert again.get().address == address


@pytest.mark.peers("perfdhcp")
def test_perfdhcp_sees_no_drop_at_1000_per_second() -> None:
    with two_namespaces(client_address="10.16.0.2/12") as net, OurServer(net.server) as server:
        report = perfdhcp(net.client, ["-r", "1000", "-R", "100000", "-p", "3"])
        stats = server.stop()
    for leg in (report.discover_offer, report.request_ack):
        assert leg.sent > 2500
        assert (leg.drops, leg.orphans, leg.rejected, leg.non_unique) == (0, 0, 0, 0)
    assert report.malformed == 0
    assert stats["received"]["discover"] == stats["sent"]["offer"] == report.discover_offer.received
    assert stats["rx_ring_drops"] == 0 and sum(stats["refused"].values()) == 0
