"""The path of messages as document and text, from readings made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebpf.probe import COUNTS, IN, KINDS, LINK, NODE, OUT, TIMES, Drop, End, Part, Reading
from netlab.adapter import Report
from netlab.outcome import Side
from netlab.path import document, report
from netlab.path.hearing import counted
from netlab.path.losses import PACKETS, QUEUE, RING, Counted, Heard, at_sockets, named
from netlab.path.places import Layout, Link, Node, sample_for
from netlab.programs import Usage

DISCOVER, OFFER = KINDS.index("discover"), KINDS.index("offer")


def _layout() -> Layout:
    """client - relay - server."""
    ends = (End("l-client", "eth0", 0, 0, Part.CLIENT), End("l-relay", "eth0", 1, 0,
                                                            Part.FORWARDER),
            End("l-relay", "eth1", 1, 1, Part.FORWARDER), End("l-server", "eth0", 2, 1,
                                                              Part.SERVER))
    return Layout(ends, (Node("client", "client", "l-client", (0,)),
                         Node("relay", "relay", "l-relay", (1, 2)),
                         Node("server", "server", "l-server", (3,))), (Link(0, 1), Link(2, 3)))


def _reading(lost_at_server: int = 0) -> Reading:
    """Ten exchanges: 1 us a link each way, 10 us the relay, 100 us the server: 124 us."""
    counts = np.zeros((4, 2), COUNTS)
    times = np.zeros((4, 2, 2, 4), TIMES)

    def timed(end: int, side: int, span: int, message: int, us: int) -> None:
        times[end, side, span, message]["count"] = 10
        times[end, side, span, message]["sum_ns"] = 10 * us * 1000
        times[end, side, span, message]["least_ns"] = us * 1000
        times[end, side, span, message]["most_ns"] = us * 1000

    for end, side, kind in ((0, OUT, DISCOVER), (1, IN, DISCOVER), (2, OUT, DISCOVER),
                            (3, IN, DISCOVER), (3, OUT, OFFER), (2, IN, OFFER), (1, OUT, OFFER),
                            (0, IN, OFFER)):
        counts[end, side]["packets"][kind] = 10
        counts[end, side]["bytes"][kind] = 3000
    counts[3, IN]["packets"][DISCOVER] -= lost_at_server
    counts[3, IN]["hops"][1] = 10
    for end, side, message in ((1, IN, 0), (3, IN, 0), (2, IN, 1), (0, IN, 1)):
        timed(end, side, LINK, message, 1)
    timed(2, OUT, NODE, 0, 10)
    timed(1, OUT, NODE, 1, 10)
    timed(3, OUT, NODE, 1, 100)
    timed(0, IN, NODE, 1, 124)
    return Reading(counts, times, ())


def _path(reading: Reading, drops: tuple[Drop, ...] = ()) -> list[dict[str, Any]]:
    layout = _layout()
    return document.path(layout, reading, named(drops, {n.namespace: n.name
                                                        for n in layout.nodes}))


def test_places_stand_in_order_and_count_what_passed() -> None:
    path = _path(_reading())
    assert [entry["place"] for entry in path] == [
        "client", "client:eth0 - relay:eth0", "relay", "relay:eth1 - server:eth0", "server"]
    server = path[-1]
    port = server["interfaces"][0]
    assert port["in"]["messages"] == {"discover": {"packets": 10, "bytes": 3000}}
    assert port["in"]["hops"] == {"1": 10}
    assert port["out"]["messages"] == {"offer": {"packets": 10, "bytes": 3000}}
    assert server["residence_us"]["offer"]["mean"] == 100
    assert report.flow(server) == (10, 10, 0)


def test_frames_missing_at_the_far_end_are_lost_on_the_link() -> None:
    link = _path(_reading(lost_at_server=3))[3]
    assert [(way["from"], way["lost"]) for way in link["ways"]] == [
        ("relay:eth1", 3), ("server:eth0", 0)]


@pytest.mark.parametrize(("client_us", "agrees", "differs"),
                         [(124.0, True, 0.0), (130.5, True, 5.0), (155.0, False, 20.0),
                          (100.0, False, -24.0)])
def test_parts_add_up_and_are_held_against_the_client(client_us: float, agrees: bool,
                                                      differs: float) -> None:
    reading = _reading()
    split = document.latency_parts(_layout(), reading, _path(reading),
                                   {"discover_offer": {"mean": client_us},
                                    "request_ack": {"mean": 1.0}})
    assert set(split) == {"discover_offer"}, "nobody timed the other leg"
    leg = split["discover_offer"]
    assert leg["sum_us"] == leg["at_interface_us"] == 124
    assert (leg["agrees"], leg["differs_percent"]) == (agrees, differs)
    assert {part["place"]: part["us"] for part in leg["parts"]} == {
        "client:eth0 - relay:eth0": 2, "relay": 20, "relay:eth1 - server:eth0": 2, "server": 100}
    text = "\n".join(report.lines({"path": _path(reading), "latency_parts": split}))
    assert ("differs by" in text) is not agrees


def test_what_was_not_measured_is_said_and_never_zero() -> None:
    assert list(report.lines({"path": None, "path_not_measured": "bcc is not installed"})) == [
        "path       not measured: bcc is not installed"]
    reasonless = {"path": _path(_reading()), "latency_parts": {}}
    assert "lost " not in "\n".join(list(report.lines(reasonless))[1:])
    assert list(report.lines({**reasonless, "losses_not_measured": "Linux 5.16"}))[-1] == (
        "lost       not measured inside nodes: Linux 5.16")


def test_losses_have_a_place_a_reason_and_kinds() -> None:
    drops = (Drop("l-server", "", "SOCKET_RCVBUFF", "__udp_queue_rcv_skb", "discover", 7),
             Drop("l-server", "", "SOCKET_RCVBUFF", "__udp_queue_rcv_skb", "request", 2),
             Drop("l-relay", "eth0", "CPU_BACKLOG", "enqueue_to_backlog", "offer", 4),
             Drop("l-relay", "eth0", "NOT_SPECIFIED", "br_forward", "offer", 1),
             Drop("l-relay", "eth0", "NOT_SPECIFIED", "__udp4_lib_rcv", "discover", 9))
    path = _path(_reading(), drops)
    assert path[-1]["losses"] == [{
        "where": "socket receive queue", "reason": path[-1]["losses"][0]["reason"], "ifname": "",
        "count": 9, "messages": {"discover": 7, "request": 2}}]
    assert [(each["where"], each["count"]) for each in path[2]["losses"]] == [
        ("softnet backlog", 4), ("bridge", 1)]
    text = "\n".join(report.lines({"path": path, "latency_parts": {}}))
    assert "server: 9 in socket receive queue" in text
    assert "relay:eth0: 4 in softnet backlog" in text


NODES = {"l-server": "server", "l-relay": "relay"}


@pytest.mark.parametrize(("reason", "kind", "heard", "is_loss"), [
    ("SOCKET_RCVBUFF", "discover", Heard(), True),
    ("SOCKET_RCVBUFF", "discover", Heard(by_frames=["relay"]), True),
    ("SOCKET_RCVBUFF", "discover", Heard(by_udp=["server"]), True),
    ("SOCKET_RCVBUFF", "discover", Heard(by_frames=["server"]), False),  # nobody reads that copy
    ("PROTO_MEM", "request", Heard(by_frames=["server"]), False),
    ("PACKET_SOCK_ERROR", "request", Heard(by_frames=["server"]), True),
    ("PACKET_SOCK_ERROR", "request", Heard(by_udp=["server"]), False),  # open only to send
    ("NO_SOCKET", "discover", Heard(), True),
    ("NO_SOCKET", "offer", Heard(), False),  # broadcast to clients, and servers hear it too
    ("IP_CSUM", "discover", Heard(switches=["relay"]), True),
    ("IP_CSUM", "discover", Heard(switches=["server"]), False),  # a switch passes it on
    ("CPU_BACKLOG", "discover", Heard(switches=["server"]), True),
    ("XDP", "other", Heard(), False),
])
def test_what_is_a_loss(reason: str, kind: str, heard: Heard, is_loss: bool) -> None:
    drop = Drop("l-server", "", reason, "somewhere", kind, 3)
    found = named([drop], NODES, heard)
    assert [loss.count for loss in found] == [3] * is_loss
    assert all(loss.where != "kernel" for loss in found)


def test_sockets_count_what_the_kernel_did_not_tell() -> None:
    drops = [Drop("l-server", "", "SOCKET_RCVBUFF", "f", "discover", 10),
             Drop("l-server", "", "SOCKET_RCVBUFF", "f", "other", 5),
             Drop("l-relay", "", "PACKET_SOCK_ERROR", "f", "discover", 4),
             Drop("l-relay", "", "NOT_SPECIFIED", "tpacket_rcv", "offer", 1)]
    own = [Counted("server", QUEUE, 15), Counted("server", RING, 2),
           Counted("relay", PACKETS, 3), Counted("relay", RING, 9)]
    more = {(loss.node, loss.where): loss.count for loss in at_sockets(drops, NODES, own)}
    # All that were counted, each once; but five were not DHCP.
    assert more == {("server", RING): 2, ("relay", RING): 7}
    told = sum(loss.count for loss in named(drops, NODES)) + sum(more.values())
    assert told == sum(each.count for each in own) - 5


def test_each_program_counts_where_it_hears() -> None:
    def side(node: str, ring: int | None, queue: int | None) -> Side:
        return Side(node, "x", Usage(0, 0), Report(ring_drops=ring), queue)

    document = {"losses": {"rx_ring": 0}, "interfaces": [
        {"interface": "eth0", "rx_ring": 3}, {"interface": "eth1", "rx_ring": 4},
        {"interface": "l-b:eth0", "rx_ring": 5}, {"interface": "l-c:eth0", "rx_ring": 0}]}
    sides = [side("ours", 7, 0), side("kea", None, 8), side("dnsmasq", None, 9),
             side("gone", None, None)]
    assert list(counted(sides, ("ours", "kea"), document, ["eth0"], _node_of)) == [
        Counted("ours", RING, 7), Counted("kea", PACKETS, 8), Counted("dnsmasq", QUEUE, 9),
        Counted("a", RING, 7), Counted("b", RING, 5)]
    assert list(counted([], (), {"losses": {"rx_ring": 6}}, ["eth0"], _node_of)) == [
        Counted("a", RING, 6)]


def _node_of(interface: str) -> str:
    return interface[2] if ":" in interface else "a"


@pytest.mark.parametrize(("exchanges", "sample"), [(1, 1), (4096, 1), (4097, 2), (20_000, 8),
                                                   (1_000_000, 256), (10**12, 1 << 16)])
def test_some_thousands_are_timed(exchanges: int, sample: int) -> None:
    assert sample_for(exchanges) == sample
