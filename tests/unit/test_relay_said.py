"""What the relay says of itself: metrics, summary, panel, and next hops learnt from ARP."""

from __future__ import annotations

import json
import struct
from ipaddress import IPv4Address
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from relay.arrays import H_MAC, H_PORT, H_SOURCE
from relay.metrics import render
from relay.nexthop import MOST_ASKED, REFRESH_S, ROUTE_S, NextHops
from relay.routes import Route, Routes
from relay.view import live_view, serving_line, summary_line
from tests.kernels import wraps
from tests.relay_hop import IP, MACS, OURS, SERVERS, UP, Hop, message, told

pytestmark = wraps


def snapshot() -> dict[str, Any]:
    hop = Hop(told(option82="append"))
    hop.hear(message())
    hop.hear(message(3, hops=9))
    rows = [{"name": place.interface.name, "rx_ring_drops": 2, "tx_congested": 0}
            for place in hop.resolved.places]
    return {**hop.stats(), "uptime_s": 2.0, "interfaces": rows, "rx_ring_drops": 6, "recent": []}


def test_metrics_are_sound_and_count() -> None:
    found = {(sample.name, *sorted(sample.labels.values())): sample.value
             for family in text_string_to_metric_families(render(snapshot()))
             for sample in family.samples}
    assert all(name[0].startswith("dhcp_relay_") for name in found)
    assert found["dhcp_relay_received_total", "discover", "requests"] == 1
    assert found["dhcp_relay_relayed_total", "discover", "requests"] == 1
    assert found["dhcp_relay_discarded_total", "hops_exceeded"] == 1
    assert found["dhcp_relay_requests_by_hops_total", "9"] == 1
    assert found["dhcp_relay_server_reachable", "10.16.0.1"] == 1
    assert found["dhcp_relay_rx_ring_drops_total", "up"] == 2


def test_summary_and_panel() -> None:
    now = json.loads(json.dumps(snapshot()))
    said = summary_line(now)
    assert "1 discover" in said and "1 hops exceeded" in said and "1 added" in said
    console = Console(width=120)
    with console.capture() as capture:
        console.print(live_view(None, now))
        console.print(live_view({**now, "uptime_s": 1.0}, now))
    assert "DISCOVER" in capture.get() and "10.16.0.1" in capture.get()
    assert serving_line(Hop().resolved) == (
        "relaying from down as 10.20.0.1, other as 10.21.0.1 through up to 10.16.0.1")


# --- next hops


class Told(Routes):
    """Routes as a test wants them."""

    def __init__(self, **routes: Route) -> None:
        self.routes = {IPv4Address(address.replace("_", ".")[1:]): route
                       for address, route in routes.items()}

    def find(self, address: IPv4Address, index: int = 0) -> Route | None:
        found = self.routes.get(address)
        return found if found and index in (0, found.index) else None


class Wire:
    """A packet socket without a network."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def recv(self, size: int) -> bytes:
        if not self.heard:
            raise BlockingIOError
        return self.heard.pop(0)

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr("relay.nexthop._listen", lambda interface: made)
    return made


def arp(sender: IPv4Address, mac: bytes = b"\x02srv-1", op: int = 2, **changed: Any) -> bytes:
    form = {"htype": 1, "proto": 0x0800, "hlen": 6, "plen": 4, **changed}
    return b"\xff" * 6 + mac + b"\x08\x06" + struct.pack(
        ">HHBBH6s4s6s4s", *form.values(), op, mac, sender.packed, MACS[UP], OURS[UP].packed)


def hops(*servers: IPv4Address, **routes: Route) -> tuple[NextHops, Any, Told]:
    hop = Hop(told(servers=servers or SERVERS[:1]), known=(None,) * 2)
    ways = Told(**routes)
    return NextHops(hop.config.servers, hop.resolved.places, hop.tables.hops, ways), \
        hop.tables.hops, ways


UP_INDEX = 9
GATE = IP("10.16.0.254")


def test_a_server_on_the_link_is_asked_for_and_learnt(wire: Wire) -> None:
    known, rows, _ = hops(_10_16_0_1=Route(UP_INDEX, source=OURS[UP]))
    known.tick(0.0)
    assert (rows[0, H_PORT], rows[0, H_MAC], rows[0, H_SOURCE]) == (UP, -1, int(OURS[UP]))
    assert wire.sent == [b"\xff" * 6 + MACS[UP] + b"\x08\x06" + struct.pack(
        ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MACS[UP], OURS[UP].packed, bytes(6),
        SERVERS[0].packed)]
    wire.heard.append(arp(SERVERS[0]))
    known.hear(0.1)
    assert known.complete and rows[0, H_MAC] == int.from_bytes(b"\x02srv-1", "big")
    known.tick(0.1 + REFRESH_S / 2)
    assert len(wire.sent) == 1


def test_a_server_behind_a_gateway(wire: Wire) -> None:
    known, rows, ways = hops(SERVERS[1], _192_0_2_1=Route(UP_INDEX, GATE))
    known.tick(0.0)
    wire.heard.append(arp(GATE, b"\x02gate."))
    known.hear(0.0)
    assert rows[0, H_MAC] == int.from_bytes(b"\x02gate.", "big")
    # The route changes: another gateway, not known yet.
    ways.routes[SERVERS[1]] = Route(UP_INDEX, IP("10.16.0.253"))
    known.tick(ROUTE_S)
    assert rows[0, H_MAC] == -1 and IP("10.16.0.253").packed in wire.sent[-1]


@pytest.mark.parametrize("heard", [
    arp(IP("10.16.0.9")), arp(SERVERS[0], b"\x03group"), arp(SERVERS[0], bytes(6)),
    arp(SERVERS[0], op=3), arp(SERVERS[0], hlen=8), arp(SERVERS[0])[:41], b"",
    arp(SERVERS[0]).replace(b"\x08\x06", b"\x08\x00")])
def test_what_is_no_answer(heard: bytes, wire: Wire) -> None:
    known, rows, _ = hops(_10_16_0_1=Route(UP_INDEX))
    known.tick(0.0)
    wire.heard.append(heard)
    known.hear(0.0)
    assert rows[0, H_MAC] == -1


def test_who_moves_is_followed_and_who_is_silent_is_forgotten(wire: Wire) -> None:
    known, rows, _ = hops(_10_16_0_1=Route(UP_INDEX))
    known.tick(0.0)
    wire.heard += [arp(SERVERS[0]), arp(SERVERS[0], b"\x02moved", op=1)]
    known.hear(0.0)
    assert rows[0, H_MAC] == int.from_bytes(b"\x02moved", "big")
    now = REFRESH_S
    for asked in range(MOST_ASKED):
        known.tick(now + asked * 1.0)
        assert rows[0, H_MAC] != -1
    known.tick(now + MOST_ASKED)
    assert rows[0, H_MAC] == -1 and len(wire.sent) == 2 + MOST_ASKED
    assert known.changed[-1].endswith("does not answer ARP any more")
    wire.heard.append(arp(SERVERS[0]))
    known.hear(now + 10)
    assert known.complete


@pytest.mark.parametrize("server", [IP("255.255.255.255"), IP("10.16.0.255")])
def test_a_broadcast_address_needs_nobodys_answer(server: IPv4Address, wire: Wire) -> None:
    known, rows, _ = hops(server)
    known.tick(0.0)
    assert known.complete and rows[0, H_MAC] == (1 << 48) - 1 and not wire.sent


def test_a_named_uplink_counts_more_than_the_route(wire: Wire) -> None:
    """Without a route through it the server is asked for on the uplink's own link."""
    known, rows, _ = hops(SERVERS[1], _192_0_2_1=Route(77, GATE))
    known.tick(0.0)
    assert rows[0, H_PORT] == UP and SERVERS[1].packed in wire.sent[0]
