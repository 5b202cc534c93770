"""dhcp-server behind real relays (RFC 2131 section 4.1, RFC 3046, RFC 3527), and under perfdhcp.

The one thing to know: `relayed(1, 2)` has a client behind one relay and one behind two chained
ones; segments are 10.20.0.0/24 and 10.21.0.0/24 there, see tests.peers.relays.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.ours import OurServer
from tests.peers.capture import Capture, fields, problems
from tests.peers.clients import Dhclient, Exchange, Udhcpc, perfdhcp
from tests.peers.net import INTERFACE, two_namespaces, wait_until
from tests.peers.relays import DOWN, SERVER, Dhcrelay, DnsmasqRelay, Relay, Relayed, relayed

pytestmark = pytest.mark.root
needs = pytest.mark.peers
CONFIG = """\
server:
  interfaces: [eth0]
  lease_time: 60s
  subnets:
    - {subnet: 10.16.0.0/24, interface: eth0, pools: [10.16.0.100 - 10.16.0.199]}
    - subnet: 10.20.0.0/24
      gateway: 10.20.0.1
      options: {domain-name: first}
      pools: [10.20.0.16 - 10.20.0.99]
    - subnet: 10.21.0.0/24
      gateway: 10.21.0.1
      options: {domain-name: second}
      pools: [10.21.0.16 - 10.21.0.99]
"""
WIRE = ["frame.number", "ip.src", "ip.dst", "udp.dstport", "dhcp.option.dhcp", "dhcp.hops",
        "dhcp.ip.relay", "dhcp.ip.your", "dhcp.hw.mac_addr",
        "dhcp.option.agent_information_option.agent_circuit_id",
        "dhcp.option.agent_information_option.link_selection", "dhcp.option.type"]
CIRCUIT, LINK = WIRE[9], WIRE[10]
RELAYS: dict[str, type[Relay]] = {"dhcrelay": Dhcrelay, "dnsmasq": DnsmasqRelay}
DOWN_AS_CIRCUIT = DOWN.encode().hex()


def served(net: Relayed, folder: Path, *flags: str, text: str = CONFIG) -> OurServer:
    place = folder / "server.yaml"
    place.write_text(text)
    return OurServer(net.server, ("--config", str(place), "--verbose", *flags))


def relaying(net: Relayed, stack: contextlib.ExitStack, kind: type[Relay], *words: str) -> None:
    """Start a relay in every router of every branch."""
    for relays, towards in zip(net.relays, net.towards, strict=True):
        for relay, server in zip(relays, towards, strict=True):
            stack.enter_context(kind(relay, server, arguments=words))


def told(path: Path, display_filter: str = "dhcp") -> list[dict[str, str]]:
    return fields(path, WIRE, display_filter, ("-E", "occurrence=f"))


def sound(path: Path, stats: dict[str, Any]) -> None:
    """tshark finds nothing wrong in what the server sent, and both counted the same."""
    found = problems(path, f"dhcp && ip.src == {SERVER}")
    assert not found.wrong, found
    assert found.frames == sum(stats["sent"].values())


def check_replies(rows: list[dict[str, str]]) -> None:
    """Section 4.1: to the relay's port 67; RFC 3046 section 2.2: its option 82 back, and last."""
    asked = {row["dhcp.hw.mac_addr"]: row for row in rows if row["dhcp.ip.relay"] != "0.0.0.0"
             and row["dhcp.option.dhcp"] in "13"}
    answers = [row for row in rows if row["dhcp.ip.relay"] != "0.0.0.0"
               and row["dhcp.option.dhcp"] in "256"]
    assert answers
    for row in answers:
        request = asked[row["dhcp.hw.mac_addr"]]
        assert (row["ip.dst"], row["udp.dstport"]) == (row["dhcp.ip.relay"], "67")
        assert row["dhcp.ip.relay"] == request["dhcp.ip.relay"]
        assert row[CIRCUIT] == request[CIRCUIT] and row[LINK] == request[LINK]


def check_order(path: Path, with_relay_option: bool) -> None:
    """RFC 3046 section 2.1: the relay agent's option is the last, in what goes back too."""
    replies = fields(path, ["dhcp.option.type"],
                     f"dhcp && ip.src == {SERVER} && dhcp.ip.relay != 0.0.0.0")
    # 0 and 255 are padding and end.
    found = [[code for code in row["dhcp.option.type"].split(",") if code not in ("0", "255")]
             for row in replies]
    assert found and {"82" in codes for codes in found} == {with_relay_option}
    assert {codes[-1] for codes in found} == {"82"} or not with_relay_option


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(kind, "dhclient", "tshark"))
                                  for kind in RELAYS])
def test_subnets_behind_one_and_two_relays(kind: str, tmp_path: Path) -> None:
    """Subnet by giaddr; the client renews and releases through the routers, without relays."""
    words = ("-a",) if kind == "dhcrelay" else ()
    with relayed(1, 2) as net, served(net, tmp_path) as server, \
            Capture(tmp_path / "server.pcapng", *net.tap) as capture, \
            Capture(tmp_path / "client.pcapng", net.clients[1], INTERFACE) as far, \
            contextlib.ExitStack() as stack:
        relaying(net, stack, RELAYS[kind], *words)
        for branch, (namespace, domain) in enumerate(zip(net.clients, ("first", "second"),
                                                         strict=True)):
            client = stack.enter_context(Dhclient(namespace, renew_after_s=1))
            got = client.get()
            assert (got.address, got.router) == (f"10.2{branch}.0.16", f"10.2{branch}.0.1")
            assert (got.server_id, got.env["new_domain_name"]) == (SERVER, domain)
            namespace.ip(f"route replace default via {got.router}\n")
            renewed = client.renew()
            assert (renewed.what, renewed.address) == ("renew", got.address)
            client.release()
        wait_until("two releases", lambda: server.log.count("release -> no answer 10.2") == 2)
        capture.stop()
        far.stop()
        stats = server.stop()
    rows = told(capture.path, f"dhcp && (ip.src == {SERVER} || ip.dst == {SERVER})")
    check_replies(rows)
    discovers = {row["dhcp.ip.relay"]: row for row in rows if row["dhcp.option.dhcp"] == "1"}
    assert {giaddr: row["dhcp.hops"] for giaddr, row in discovers.items()} == {
        "10.20.0.1": "1", "10.21.0.1": "2"}
    assert {row[CIRCUIT].replace(":", "") for row in discovers.values()} == {
        DOWN_AS_CIRCUIT if words else ""}
    check_order(capture.path, bool(words))
    # What came back to the client has lost the relay's option.
    assert {row[CIRCUIT] for row in told(far.path)} == {""}
    renewals = [row for row in rows if row["dhcp.option.dhcp"] == "3"
                and row["dhcp.ip.relay"] == "0.0.0.0"]
    assert {row["ip.src"] for row in renewals} == {"10.20.0.16", "10.21.0.16"}
    # dhcrelay hears what is unicast through its machine too, and relays a copy: of a RELEASE
    # that comes too late, and of the second hop's with a giaddr where no clients are.
    causes = {name for name, count in stats["causes"].items() if count}
    assert causes == ({"not_his", "no_subnet"} if words else set())
    assert stats["sent"]["nak"] == 0
    assert stats["pool"]["bound"] == 0 and stats["received"]["release"] >= 2
    sound(capture.path, stats)


CIRCUITS = CONFIG + "      reservations: [{circuit_id: down, address: 10.21.0.200}]\n"


@needs("dhcrelay", "dhclient")
def test_who_sits_at_a_circuit_renews_without_the_relay(tmp_path: Path) -> None:
    """RFC 2131 section 4.3.2, RENEWING: by unicast, and so without option 82 (RFC 3046 2.1)."""
    with relayed(0, 1) as net, served(net, tmp_path, text=CIRCUITS) as server:
        with Dhclient(net.clients[1], renew_after_s=1) as client:
            with Dhcrelay(net.relays[1][0], arguments=["-a"]):
                got = client.get()
                net.clients[1].ip(f"route replace default via {got.router}\n")
            known = len(client.events)
            renewed = client.next("renew", "rebind", "bound", after=known, timeout_s=4)
            assert (renewed.what, renewed.address) == ("renew", got.address)
            client.release()
            wait_until("the release", lambda: "release -> no answer 10.21.0.200" in server.log)
        stats = server.stop()
    assert got.address == "10.21.0.200"
    assert stats["sent"]["nak"] == stats["causes"]["not_his"] == stats["pool"]["bound"] == 0


@needs("dhcrelay", "dhclient", "tshark")
def test_who_moved_to_another_segment_is_refused_through_its_relay(tmp_path: Path) -> None:
    """Section 4.3.2: a NAK to a relay asks it to broadcast; the client starts over and is bound."""
    with relayed(1, 1) as net, served(net, tmp_path) as server, \
            Capture(tmp_path / "moved.pcapng", *net.tap) as capture, \
            contextlib.ExitStack() as stack:
        relaying(net, stack, Dhcrelay, "-a")
        net.clients[1].ip(f"link set eth0 address {net.clients[0].mac()}\n")
        client = stack.enter_context(Dhclient(net.clients[0]))
        assert client.get().address == "10.20.0.16"
        client.leave()
        client.namespace = net.clients[1]
        moved = client.get()
        assert (moved.what, moved.address) == ("bound", "10.21.0.16")
        capture.stop()
        stats = server.stop()
    refused = fields(capture.path, [*WIRE, "dhcp.flags.bc"], "dhcp.option.dhcp == 6",
                     ("-E", "occurrence=f"))
    assert len(refused) == stats["sent"]["nak"] == 1
    nak = refused[0]
    assert (nak["ip.dst"], nak["dhcp.ip.relay"]) == ("10.21.0.1", "10.21.0.1")
    assert nak["dhcp.flags.bc"] in ("1", "True") and nak["dhcp.ip.your"] == "0.0.0.0"
    assert nak[CIRCUIT].replace(":", "") == DOWN_AS_CIRCUIT
    sound(capture.path, stats)


@needs("dhcrelay", "udhcpc", "tshark")
def test_too_many_hops_are_dropped_and_counted(tmp_path: Path) -> None:
    with relayed(1, 2) as net, served(net, tmp_path, "--max-hops", "1") as server, \
            Capture(tmp_path / "hops.pcapng", *net.tap) as capture, \
            contextlib.ExitStack() as stack:
        relaying(net, stack, Dhcrelay)
        near = stack.enter_context(Udhcpc(net.clients[0]))
        far = stack.enter_context(Udhcpc(net.clients[1], arguments=["-t", "2", "-n"]))
        far.start()
        assert near.get().address == "10.20.0.16"
        assert far.process and far.process.wait(10) == 1 and not far.leased
        capture.stop()
        stats = server.stop()
    assert stats["causes"]["max_hops"] == 2 and stats["received"]["discover"] == 3
    assert stats["sent"]["offer"] == stats["sent"]["ack"] == 1
    sound(capture.path, stats)


@needs("dhcrelay", "udhcpc")
def test_a_server_that_serves_no_relays(tmp_path: Path) -> None:
    with relayed(0, 1) as net, served(net, tmp_path, "--no-relay") as server, \
            contextlib.ExitStack() as stack:
        relaying(net, stack, Dhcrelay)
        near = stack.enter_context(Udhcpc(net.clients[0]))
        far = stack.enter_context(Udhcpc(net.clients[1], arguments=["-t", "2", "-n"]))
        far.start()
        assert near.get().address == "10.16.0.100"
        assert far.process and far.process.wait(10) == 1 and not far.leased
        stats = server.stop()
    assert stats["causes"]["relayed"] == 2
    assert stats["sent"]["offer"] == stats["sent"]["ack"] == 1


@needs("dhcrelay", "udhcpc", "tshark")
def test_the_link_that_the_relay_selects_counts_more_than_giaddr(tmp_path: Path) -> None:
    """RFC 3527: dhcrelay -U puts the address towards the server into giaddr."""
    with relayed(1) as net, served(net, tmp_path) as server, \
            Capture(tmp_path / "link.pcapng", *net.tap) as capture, \
            Dhcrelay(net.relays[0][0], arguments=["-a", "-U", "up"]), \
            Udhcpc(net.clients[0]) as client:
        got = client.get()
        capture.stop()
        stats = server.stop()
    assert (got.address, got.router, got.env["domain"]) == ("10.20.0.16", "10.20.0.1", "first")
    rows = told(capture.path, f"dhcp && (ip.src == {SERVER} || ip.dst == {SERVER})")
    assert {(row["dhcp.ip.relay"], row[LINK]) for row in rows} == {("10.16.0.2", "10.20.0.1")}
    check_replies(rows)
    sound(capture.path, stats)


# --- perfdhcp


def whole(leg: Exchange, at_least: int) -> None:
    assert leg.sent >= at_least
    assert (leg.drops, leg.orphans, leg.rejected, leg.non_unique) == (0, 0, 0, 0)


@needs("perfdhcp")
@pytest.mark.parametrize("mode", ["single", "multi"])
def test_perfdhcp_counts_what_the_server_counts(mode: str) -> None:
    with two_namespaces(client_address="10.16.0.2/12") as net, OurServer(net.server) as server:
        report = perfdhcp(net.client, ["-r", "400", "-f", "100", "-F", "50", "-R", "100000",
                                       "-p", "2", "-g", mode, "-u"])
        stats = server.stop()
    legs = (report.discover_offer, report.request_ack, report.renewal)
    assert min(leg.sent for leg in legs) > 100 and report.release.sent > 50
    for leg in legs:
        assert (leg.sent, leg.drops, leg.rejected, leg.non_unique) == (leg.received, 0, 0, 0)
    assert report.discover_offer.orphans == report.malformed == 0
    received, sent = stats["received"], stats["sent"]
    assert received["discover"] == sent["offer"] == report.discover_offer.sent
    assert received["request"] == sent["ack"] == report.request_ack.sent + report.renewal.sent
    assert received["release"] == report.release.sent and sent["nak"] == 0
    assert stats["pool"]["bound"] == report.request_ack.received - report.release.sent
    assert sum(stats["refused"].values()) + sum(stats["causes"].values()) == 0


@needs("perfdhcp")
def test_perfdhcp_as_a_relay_that_unicasts_is_served_by_giaddr(tmp_path: Path) -> None:
    """Over a UDP socket, from behind a router: what a distant relay looks like."""
    with relayed(1) as net, served(net, tmp_path) as server:
        net.clients[0].ip("addr add 10.20.0.9/24 dev eth0\nroute add default via 10.20.0.1\n")
        report = perfdhcp(net.clients[0], ["-r", "100", "-n", "50", "-R", "100000", "-u",
                                           "-l", "10.20.0.9", SERVER])
        stats = server.stop()
    whole(report.discover_offer, 50)
    whole(report.request_ack, 50)
    by_subnet = {row["subnet"]: row["bound"] for row in stats["subnets"]}
    assert by_subnet == {"10.16.0.0/24": 0, "10.20.0.0/24": 50, "10.21.0.0/24": 0}
