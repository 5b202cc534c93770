"""The result document and the client list of a simulated test, number by number."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import SystemRefused
from fastpath.files import write_json
from fastpath.hdr import decode
from fastpath.histogram import PERCENTILES, Histogram
from fastpath.wire import MessageType
from tester import engine
from tester.collect import collect, softnet_dropped, write_clients_csv
from tester.result import read_json
from tester.run import Outcome
from tests.simulated import (
    Look,
    Network,
    Script,
    acked,
    address_of,
    config,
    offered,
    refused,
)

STARTED_AT = datetime(2026, 1, 31, 10, 0, 0, 999_999, timezone(timedelta(hours=1)))
LOSSES = {"rx_ring": 0, "tx_ring": 0, "interface": 2, "softnet": None, "server_socket": None}
INTERVALS = [{"t_s": 0.022, "started": 7, "bound": 3, "failed": 4, "dora_p50_us": 1_300,
              "dora_p99_us": 11_200}]
SUMMARY = {"count": 0, "min": 0, "mean": 0, "stddev": 0, "p50": 0, "p90": 0, "p95": 0, "p99": 0,
           "p99_9": 0, "max": 0}
# "The result file" of the design; what is a number there is 0 here.
DESIGN: dict[str, Any] = {
    "schema": "dhcp-netlab/result/1", "verdict": "", "started_at": "", "duration_s": 0.0,
    "config": {}, "environment": {"kernel": "", "cpu": "", "engine": ""},
    "clients": {"planned": 0, "started": 0, "bound": 0, "failed": 0},
    "success_rate_percent": 0.0, "dora_per_s": 0.0,
    "messages": {"discover": {"sent": 0, "retransmitted": 0}, "offer": {"received": 0},
                 "request": {"sent": 0, "retransmitted": 0}, "ack": {"received": 0},
                 "nak": {"received": 0}, "release": {"sent": 0}, "decline": {"sent": 0},
                 "inform": {"sent": 0}},
    "latency_us": {"discover_offer": SUMMARY, "request_ack": SUMMARY, "dora": SUMMARY,
                   "dora_from_intended": SUMMARY},
    "errors": {"discover_timeout": 0, "request_timeout": 0, "nak": 0, "duplicate_address": 0,
               "malformed": 0, "unknown_xid": 0, "late": 0, "unexpected_option": 0},
    "losses": {"rx_ring": 0, "tx_ring": 0, "interface": 0, "server_socket": None},
    "missed_starts": 0,
    "intervals": [{"t_s": 1.0, "started": 0, "bound": 0, "failed": 0, "dora_p50_us": 0,
                   "dora_p99_us": 0}]}
ADDED = {"interrupted", "generator", "histograms"}


def another_xid(message: Any) -> None:
    message.xid ^= 0x55555555


def no_server(message: Any) -> None:
    message.remove("server-identifier")


SCRIPT: Script = [
    # 0 is bound; 1 after a DISCOVER sent twice; 2 gets no OFFER; 3 no ACK; 4 is refused twice;
    # 5 is given what 0 has; 6 is bound after a bad OFFER; 7 is not started.
    offered(103, 0), acked(308, 0), offered(403, 3), offered(503, 4), refused(603, 4),
    offered(703, 4), refused(803, 4), offered(903, 5, yiaddr=address_of(0)),
    acked(1003, 5, yiaddr=address_of(0)), offered(1103, 6, change=no_server), offered(1203, 6),
    acked(1303, 6), Look(11_000), offered(11_103, 1), acked(11_203, 1), acked(11_303, 3),
    offered(11_403, 2, change=another_xid), acked(11_503, 0), Look(22_000)]


@pytest.fixture(scope="module")
def mixed() -> Network:
    """A test in which every outcome there is happens once at least."""
    network = Network(config(8, window=7, discover_tries=2))
    network.turn(0)
    network.stop()
    for event in SCRIPT:
        event.play(network)
    return network


def outcome(interrupted: bool = True) -> Outcome:
    return Outcome(0.0219971, interrupted, 0.123456, 1, INTERVALS)


@pytest.fixture(scope="module")
def document(mixed: Network) -> dict[str, Any]:
    return collect(mixed.config, mixed.test, outcome(), STARTED_AT, LOSSES)


def shape(value: Any) -> Any:
    """Names and kinds; a whole number and another are one kind."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if number else type(value)


def test_every_name_of_the_design_is_there(document: dict[str, Any]) -> None:
    assert set(document) - ADDED == set(DESIGN)
    for name in set(DESIGN) - {"config", "environment", "errors", "losses"}:
        assert shape(document[name]) == shape(DESIGN[name]), name
    for name in ("environment", "errors", "losses"):
        found = shape(document[name])
        assert {key: found.get(key) for key in DESIGN[name]} == shape(DESIGN[name]), name
    assert document["environment"]["engine"] == "ring" and document["environment"]["cpu"]


def test_numbers(document: dict[str, Any]) -> None:
    assert document["started_at"] == "2026-01-31T09:00:00Z"
    assert (document["verdict"], document["interrupted"]) == ("incomplete", True)
    assert document["duration_s"] == 0.021997
    assert document["clients"] == {"planned": 8, "started": 7, "bound": 3, "failed": 4}
    assert document["success_rate_percent"] == 42.857
    # Three of them between the first DISCOVER, at 3 us, and the last ACK, at 11,203.
    assert document["dora_per_s"] == round(3 / 0.0112, 1)
    assert document["messages"] == {
        "discover": {"sent": 10, "retransmitted": 2}, "offer": {"received": 8},
        "request": {"sent": 7, "retransmitted": 0}, "ack": {"received": 6},
        "nak": {"received": 2}, "release": {"sent": 0}, "decline": {"sent": 0},
        "inform": {"sent": 0}}
    assert document["errors"] == {
        "discover_timeout": 1, "request_timeout": 1, "nak": 2, "duplicate_address": 1,
        "malformed": 1, "unknown_xid": 1, "late": 1, "unexpected_option": 0, "repeated_answer": 1,
        "malformed_by_reason": {"incomplete": 1}}
    assert document["losses"] == LOSSES and document["intervals"] == INTERVALS
    assert document["missed_starts"] == 0
    generator = document["generator"]
    assert (generator["busy_percent"], generator["clock_steps"]) == (12.3, 1)
    assert generator["untrusted_stamps"] == 0


def test_sums(document: dict[str, Any]) -> None:
    """What ends adds up to what began, and every message has its place."""
    clients, errors, messages = document["clients"], document["errors"], document["messages"]
    assert clients["failed"] == clients["started"] - clients["bound"]
    latency = {name: entry["count"] for name, entry in document["latency_us"].items()}
    assert latency["dora"] == latency["dora_from_intended"] == clients["bound"]
    assert latency["request_ack"] == clients["bound"] + errors["duplicate_address"]
    assert (messages["discover"]["sent"] - messages["discover"]["retransmitted"]
            == clients["started"] + 1)  # one began again after a NAK
    assert (messages["request"]["sent"] - messages["request"]["retransmitted"]
            == latency["discover_offer"])
    received = sum(messages[kind]["received"] for kind in ("offer", "ack", "nak"))
    assert received == (latency["discover_offer"] + latency["request_ack"] + errors["nak"]
                        + errors["late"] + errors["unknown_xid"] + errors["repeated_answer"])


def test_latencies(document: dict[str, Any]) -> None:
    """Each series from its raw microseconds; the exported histograms say the same."""
    raw = {"discover_offer": [100, 400, 500, 95, 900, 1200, 11_100],
           "request_ack": [200, 95, 95, 95], "dora": [305, 1300, 11_200],
           "dora_from_intended": [308, 1303, 11_203]}
    assert set(document["histograms"]) == set(raw)
    for name, values in raw.items():
        wanted = Histogram()
        for value in values:
            wanted.record(value)
        entry = document["latency_us"][name]
        assert entry == wanted.summary(), name
        assert (entry["count"], entry["min"], entry["max"]) == (len(values), min(values),
                                                                max(values))
        assert entry["mean"] == round(sum(values) / len(values), 1)
        exported = decode(document["histograms"][name])
        assert exported.count == entry["count"]
        for key, p in PERCENTILES.items():
            # An export keeps buckets, ours also the exact maximum (fastpath.hdr).
            assert math.isclose(exported.percentile(p), entry[key], rel_tol=1e-3), (name, key)
            if entry[key] < 2048:
                assert exported.percentile(p) == entry[key]


def test_it_is_plain_json(document: dict[str, Any], tmp_path: Path) -> None:
    """No numpy number and no NaN inside: what is written is what is read."""
    write_json(tmp_path / "r.json", document)
    assert read_json(tmp_path / "r.json") == document
    json.dumps(document, allow_nan=False)


def test_configuration_as_given(document: dict[str, Any]) -> None:
    found = document["config"]
    assert {name: found[name] for name in (
        "interface", "clients", "load", "concurrency", "rate_per_s", "duration_s", "timeout_s",
        "discover_tries", "request_tries", "mac_base", "broadcast_flag", "server_port", "seed")
    } == {"interface": "sim0", "clients": 8, "load": "closed", "concurrency": 7,
          "rate_per_s": None, "duration_s": None, "timeout_s": 0.01, "discover_tries": 2,
          "request_tries": 1, "mac_base": "02:a0:b0:c0:d0:00", "broadcast_flag": False,
          "server_port": 67, "seed": 0xFFFFFF00}


def of(network: Network, **more: Any) -> dict[str, Any]:
    return collect(network.config, network.test, Outcome(1.0, False, 0.5, 0, []),
                   datetime.now(UTC), LOSSES | more)


def test_an_open_loop_in_the_configuration() -> None:
    found = of(Network(config(2, rate_per_s=2.5)))["config"]
    assert (found["load"], found["concurrency"], found["rate_per_s"]) == ("open", None, 2.5)


def test_nothing_started() -> None:
    document = of(Network(config(5)))
    assert document["verdict"] == "incomplete"
    assert document["clients"] == {"planned": 5, "started": 0, "bound": 0, "failed": 0}
    assert (document["success_rate_percent"], document["dora_per_s"]) == (0.0, 0.0)
    assert document["latency_us"]["dora"] == SUMMARY


def test_a_clean_run_passes() -> None:
    network = Network(config())
    network.turn(0)
    for event in (offered(103), acked(308)):
        event.play(network)
    document = of(network)
    assert (document["verdict"], document["success_rate_percent"]) == ("pass", 100.0)
    assert document["dora_per_s"] == round(1 / 0.000305, 1)
    assert of(network, rx_ring=1)["verdict"] == "generator-bound"


@pytest.mark.parametrize(("started", "bound", "percent"), [
    (2_000_000, 1_999_999, 99.999), (3, 2, 66.666), (33_554_432, 33_554_432, 100.0),
    (1000, 999, 99.9), (3_000_000, 1, 0.0)])
def test_only_all_of_them_are_100_percent(started: int, bound: int, percent: float) -> None:
    network = Network(config())
    network.test.counts[engine.STARTED] = started
    network.test.counts[engine.N_BOUND] = bound
    document = of(network)
    assert document["success_rate_percent"] == percent
    assert document["clients"]["failed"] == started - bound


def test_clients_csv(mixed: Network, tmp_path: Path) -> None:
    """Names and outcomes of the design; what did not happen is empty."""
    place = tmp_path / "made" / "clients.csv"
    write_clients_csv(place, mixed.config, mixed.test)
    assert place.read_text() == """\
client,chaddr,outcome,yiaddr,server_id,lease_time_s,discover_offer_us,request_ack_us,dora_us,retransmits
0,02:a0:b0:c0:d0:00,bound,10.0.1.0,10.0.0.1,3600,100,200,305,0
1,02:a0:b0:c0:d0:01,bound,10.0.1.1,10.0.0.1,3600,11100,95,11200,1
2,02:a0:b0:c0:d0:02,timeout_discover,,,,,,,1
3,02:a0:b0:c0:d0:03,timeout_request,,,,400,,,0
4,02:a0:b0:c0:d0:04,nak,,,,95,,,0
5,02:a0:b0:c0:d0:05,duplicate,10.0.1.0,10.0.0.1,3600,900,95,,0
6,02:a0:b0:c0:d0:06,bound,10.0.1.6,10.0.0.1,3600,1200,95,1300,0
7,02:a0:b0:c0:d0:07,not_started,,,,,,,0
"""


def test_clients_still_waiting_have_timed_out(tmp_path: Path) -> None:
    """Ctrl-C twice: who waits got no answer, as far as anybody can tell."""
    network = Network(config(2))
    network.turn(0)
    offered(103, 1).play(network)
    write_clients_csv(tmp_path / "c.csv", network.config, network.test)
    outcomes = [line.split(",")[2] for line in (tmp_path / "c.csv").read_text().splitlines()]
    assert outcomes == ["outcome", "timeout_discover", "timeout_request"]
    document = of(network)
    assert document["clients"]["failed"] == 2 and document["verdict"] == "incomplete"


def test_many_clients_in_the_list(tmp_path: Path) -> None:
    """More than are written at once; addresses count up over every octet."""
    clients = 70_000
    settings = config(clients, mac_base=b"\x02\x00\x00\x00\xff\xf0")
    network = Network(settings)
    write_clients_csv(tmp_path / "c.csv", settings, network.test)
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert len(lines) == 1 + clients
    for client in (0, 15, 16, 19_999, 20_000, 20_001, clients - 1):
        chaddr = (0x02000000FFF0 + client).to_bytes(6, "big").hex(":")
        assert lines[1 + client] == f"{client},{chaddr},not_started,,,,,,,0"


def test_a_list_that_cannot_be_written(tmp_path: Path, mixed: Network) -> None:
    with pytest.raises(SystemRefused, match=r"cannot write .*: Is a directory"):
        write_clients_csv(tmp_path, mixed.config, mixed.test)


def test_message_types_cover_the_design() -> None:
    assert {kind.name.lower() for kind in MessageType} == set(DESIGN["messages"])


def test_softnet_drops_of_this_machine() -> None:
    """The second column of /proc/net/softnet_stat, in hexadecimal, over all processors."""
    if not os.access("/proc/net/softnet_stat", os.R_OK):
        assert softnet_dropped() is None
        return
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    before = sum(int(line.split()[1], 16) for line in lines)
    found = softnet_dropped()
    assert found is not None and found >= before


def test_softnet_drops_where_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(path: Path, *args: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuses)
    assert softnet_dropped() is None
