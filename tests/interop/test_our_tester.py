"""dhcp-tester against real servers, and its numbers against tshark's."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.ours import POOL, Finished, OurServer, run_tester
from tests.peers.capture import Capture, fields, problems
from tests.peers.net import two_namespaces
from tests.peers.servers import Dhcpd, Dnsmasq, Kea, Udhcpd

pytestmark = pytest.mark.root
SERVERS: dict[str, Any] = {
    "kea-dhcp4": lambda space: Kea(space, persist=True),
    # In sequence dnsmasq offers one address to all who ask at the same time, and refuses the rest.
    "dnsmasq": lambda space: Dnsmasq(space, keep_leases=True, sequential=False),
    "dhcpd": Dhcpd, "udhcpd": Udhcpd,
}


def no_error(run: Finished) -> None:
    errors = {name: count for name, count in run.document["errors"].items() if count}
    assert errors == {}, run.out
    losses = {name: count for name, count in run.document["losses"].items() if count}
    assert losses == {}, run.out
    assert (run.code, run.document["verdict"]) == (0, "pass"), run.out


@pytest.mark.parametrize("broadcast", ["--broadcast-flag", "--no-broadcast-flag"])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.peers(kind))
                                  for kind in SERVERS])
def test_every_client_is_bound_by_a_real_server(kind: str, broadcast: str) -> None:
    with two_namespaces() as net, SERVERS[kind](net.server) as server:
        run = run_tester(net.client, "--clients", "60", "--concurrency", "4", "--timeout", "4s",
                     broadcast)
        no_error(run)
        held = {row["chaddr"]: row["yiaddr"] for row in run.clients}
        assert len(set(held.values())) == 60
        assert server.leases() == held
    assert {row["server_id"] for row in run.clients} == {"10.16.0.1"}


def legs(path: Path) -> dict[str, list[float]]:
    """Microseconds from each request to its answer, by transaction, as tshark saw them."""
    seen: dict[tuple[str, str], float] = {}
    spans: dict[str, list[float]] = {"discover_offer": [], "request_ack": []}
    rows = fields(path, ["frame.time_epoch", "dhcp.id", "dhcp.option.dhcp"])
    for row in rows:
        at, kind = float(row["frame.time_epoch"]) * 1e6, row["dhcp.option.dhcp"]
        if kind in "13":
            seen[row["dhcp.id"], kind] = at
        else:
            name, asked = ("discover_offer", "1") if kind == "2" else ("request_ack", "3")
            spans[name].append(at - seen[row["dhcp.id"], asked])
    return spans


@pytest.mark.peers("tshark")
def test_counts_and_latencies_are_what_tshark_computes(tmp_path: Path) -> None:
    with two_namespaces(bridge=True) as net, OurServer(net.server), \
            Capture(tmp_path / "run.pcapng", *net.tap) as capture:
        run = run_tester(net.client, "--clients", "200", "--concurrency", "4")
        capture.stop()
    no_error(run)
    found = problems(capture.path)
    assert not found.wrong and found.frames == 800, found
    spans = legs(capture.path)
    messages, latency = run.document["messages"], run.document["latency_us"]
    assert messages["discover"]["sent"] == messages["offer"]["received"] == 200
    assert messages["request"]["sent"] == messages["ack"]["received"] == 200
    for name, values in spans.items():
        assert latency[name]["count"] == len(values) == 200
        assert abs(latency[name]["p50"] - statistics.median(values)) <= 50, name


def test_pools_larger_equal_and_smaller_than_the_clients() -> None:
    rows = [(210, 200, 0), (200, 200, 0), (150, 150, 50)]
    for pool, bound, failed in rows:
        last = f"10.16.1.{pool - 1}"
        with two_namespaces() as net, OurServer(
                net.server, ("--start-ip", "10.16.1.0", "--end-ip", last)) as server:
            run = run_tester(net.client, "--clients", "200", "--concurrency", "16",
                         "--timeout", "300ms")
            stats = server.stop()
        clients = run.document["clients"]
        assert (clients["bound"], clients["failed"]) == (bound, failed)
        assert run.code == (3 if failed else 0)
        assert run.document["errors"]["discover_timeout"] == failed
        assert stats["causes"]["no_free_address"] == failed
        assert stats["pool"]["bound"] == bound
        assert ("the pool is used up" in server.said) == bool(failed)
        outcomes = [row["outcome"] for row in run.clients]
        assert outcomes.count("bound") == bound
        assert outcomes.count("timeout_discover") == failed


def test_without_a_server_every_client_times_out() -> None:
    with two_namespaces() as net:
        run = run_tester(net.client, "--clients", "10", "--concurrency", "10", "--timeout", "100ms",
                     "--retry", "--max-discover-retries", "2")
    assert run.code == 3 and run.document["verdict"] == "incomplete"
    assert run.document["messages"]["discover"] == {"sent": 30, "retransmitted": 20}
    assert run.document["errors"]["discover_timeout"] == 10
    assert {row["retransmits"] for row in run.clients} == {"2"}


def test_open_loop_starts_what_the_rate_says() -> None:
    """On a machine that stands still for a while, the late starts are owned up to."""
    with two_namespaces() as net, OurServer(net.server, POOL):
        run = run_tester(net.client, "--rate", "1000", "--duration", "2s")
    clients, missed = run.document["clients"], run.document["missed_starts"]
    assert clients["planned"] == clients["started"] == clients["bound"] == 2000
    assert run.document["latency_us"]["dora_from_intended"]["count"] == 2000
    assert run.code == (4 if missed > 20 else 0)
