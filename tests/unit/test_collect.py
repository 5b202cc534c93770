"""The result document and the client list of a simulated test, number by number."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import SystemRefused
from fastpath.files import write_json
from fastpath.hdr import decode
from fastpath.histogram import PERCENTILES, Histogram
from fastpath.wire import REASON_NAMES, MessageType
from tester import cells
from tester.behaviour import Times, malformed, parse_mix
from tester.cells import RELAYS
from tester.collect import ALWAYS, LATENCIES, collect
from tester.config import Expectation, Where
from tester.config import TestConfig as Settings
from tester.listing import write_clients_csv
from tester.losses import softnet_dropped
from tester.make import make_test
from tester.measuring import Outcome
from tester.plan import Avalanche, ConstantRate, OpenLoop, Plan, Ramp, Stages
from tester.result import read_json
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
ADDED = {"interrupted", "stopped", "exchanges", "time_to_bind_all_s", "legs", "answers", "servers",
         "relays", "expectations", "pool", "neighbours", "malformed_sent", "generator",
         "histograms"}
SILENCE = {"sent": 0, "retransmitted": 0, "answered": 0, "refused": 0, "lost": 0, "ignored": 0,
           "open": 0}


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
    more = {"clients", "environment", "errors", "latency_us", "losses"}
    for name in set(DESIGN) - {"config"} - more:
        assert shape(document[name]) == shape(DESIGN[name]), name
    for name in more:
        found = shape(document[name])
        assert {key: found.get(key) for key in DESIGN[name]} == shape(DESIGN[name]), name
    assert document["environment"]["engine"] == "ring" and document["environment"]["cpu"]


def test_numbers(document: dict[str, Any]) -> None:
    assert document["started_at"] == "2026-01-31T09:00:00Z"
    assert (document["verdict"], document["interrupted"]) == ("incomplete", True)
    assert document["duration_s"] == 0.021997
    assert document["clients"] == {
        "planned": 8, "started": 7, "bound": 3, "failed": 4, "left": 0, "leases_lost": 0,
        "leases_expired": 0, "silent_leaves": 0}
    assert document["exchanges"] == {"planned": 8, "started": 7, "returned": 0, "completed": 3,
                                     "failed": 4, "in_flight": 0}
    assert document["success_rate_percent"] == 42.857
    assert document["time_to_bind_all_s"] is None
    # Three of them between the first DISCOVER, at 3 us, and the last ACK, at 11,203.
    assert document["dora_per_s"] == round(3 / 0.0112, 1)
    assert document["messages"] == {
        "discover": {"sent": 10, "retransmitted": 2}, "offer": {"received": 8},
        "request": {"sent": 7, "retransmitted": 0}, "ack": {"received": 6},
        "nak": {"received": 2}, "release": {"sent": 0}, "decline": {"sent": 0},
        "inform": {"sent": 0}}
    assert {name: count for name, count in document["errors"].items() if count} == {
        "discover_timeout": 1, "request_timeout": 1, "nak": 2, "duplicate_address": 1,
        "malformed": 1, "unknown_xid": 1, "late": 1, "duplicate_answer": 1,
        "malformed_by_reason": {"incomplete": 1}}
    assert document["losses"] == LOSSES and document["intervals"] == INTERVALS
    assert document["missed_starts"] == 0
    generator = document["generator"]
    assert (generator["busy_percent"], generator["clock_steps"]) == (12.3, 1)
    assert generator["untrusted_stamps"] == 0


def test_legs(document: dict[str, Any]) -> None:
    """First transmissions end in one way each; an OFFER that is refused is no answer."""
    legs = dict(document["legs"])
    assert legs.pop("discover") == SILENCE | {"sent": 10, "retransmitted": 2, "answered": 7,
                                              "lost": 1}
    assert legs.pop("request") == SILENCE | {"sent": 7, "answered": 4, "refused": 2, "lost": 1}
    assert (legs.pop("release"), legs.pop("decline")) == 2 * (
        {"sent": 0, "retransmitted": 0, "lost": 0},)
    assert legs == dict.fromkeys(("reboot", "renew", "rebind", "inform"), SILENCE)


def test_answers(document: dict[str, Any]) -> None:
    """Each sound answer is in one class; by type they are the messages received."""
    of_class = {kind: {name: count for name, count in classes.items() if count}
                for kind, classes in document["answers"].items()}
    assert of_class == {"offer": {"accepted": 7, "unknown_xid": 1},
                        "ack": {"accepted": 4, "duplicate": 1, "late": 1}, "nak": {"accepted": 2}}
    for kind, classes in document["answers"].items():
        assert sum(classes.values()) == document["messages"][kind]["received"]
        assert len(classes) == 8
    # What names no exchange of ours says nothing of a server of ours.
    assert document["servers"] == [{
        "server_id": "10.0.0.1", "mac": "02:ff:0a:00:00:01", "offers": 7, "acks": 6, "naks": 2,
        "chosen": 7, "rogue": False}]


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
                        + errors["late"] + errors["unknown_xid"] + errors["duplicate_answer"])


def test_latencies(document: dict[str, Any]) -> None:
    """Each series from its raw microseconds; the exported histograms say the same."""
    raw = {"discover_offer": [100, 400, 500, 95, 900, 1200, 11_100],
           "discover_offer_from_intended": [103, 403, 503, 100, 903, 1203, 11_103],
           "request_ack": [200, 95, 95, 95],
           "request_ack_from_intended": [205, 100, 100, 100], "dora": [305, 1300, 11_200],
           "dora_from_intended": [308, 1303, 11_203]}
    assert set(document["histograms"]) == set(document["latency_us"]) == set(raw)
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
    assert document["clients"]["started"] == document["clients"]["bound"] == 0
    assert (document["success_rate_percent"], document["dora_per_s"]) == (0.0, 0.0)
    assert document["latency_us"] == dict.fromkeys(ALWAYS, SUMMARY)
    assert document["servers"] == document["relays"] == document["expectations"] == []


def test_a_clean_run_passes() -> None:
    network = Network(config())
    network.turn(0)
    for event in (offered(103), acked(308)):
        event.play(network)
    document = of(network)
    assert (document["verdict"], document["success_rate_percent"]) == ("pass", 100.0)
    assert document["dora_per_s"] == round(1 / 0.000305, 1)
    assert document["time_to_bind_all_s"] == 0.000305
    assert of(network, rx_ring=1)["verdict"] == "generator-bound"


def counted(settings: Settings, **numbers: int) -> dict[str, Any]:
    """The document of a test in which these cells of `tester.cells` have these numbers."""
    test = make_test(settings, 10**9)
    for name, number in numbers.items():
        test.counts[getattr(cells, name)] = number
    return collect(settings, test, Outcome(1.0, False, 0.5, 0, []), STARTED_AT, LOSSES)


@pytest.mark.parametrize(("begun", "returned", "completed", "percent"), [
    (2_000_000, 0, 1_999_999, 99.999), (3, 0, 2, 66.666), (33_554_432, 0, 33_554_432, 100.0),
    (1000, 0, 999, 99.9), (3_000_000, 0, 1, 0.0), (60, 40, 100, 100.0), (60, 40, 60, 60.0),
    (0, 5, 4, 80.0), (0, 0, 0, 0.0)])
def test_only_all_of_them_are_100_percent(begun: int, returned: int, completed: int,
                                          percent: float) -> None:
    """Of exchanges begun, by the plan or by clients themselves; cut, not rounded."""
    document = counted(config(), STARTED=begun, RETURNED=returned, COMPLETED=completed)
    assert document["success_rate_percent"] == percent


# Cells of `counts`, each with the place in the document where it must show and nowhere else.
PLACES = {
    "MISSED": "missed_starts", "DISCOVER_TIMEOUT": "errors discover_timeout",
    "REQUEST_TIMEOUT": "errors request_timeout", "REFUSALS": "errors nak",
    "DUPLICATES": "errors duplicate_address", "LEASES_LOST": "clients leases_lost",
    "LEASES_EXPIRED": "clients leases_expired", "SILENT_LEAVES": "clients silent_leaves",
    "MALFORMED_SENT": "malformed_sent", "MALFORMED_ANSWERED": "errors malformed_answered",
    "UNEXPECTED_OPTION": "errors unexpected_option", "UNTRUSTED": "generator untrusted_stamps",
    "ARP_ANSWERED": "neighbours arp_answered", "PINGS_ANSWERED": "neighbours pings_answered",
    "NOBODY_TO_RENEW": "pool nobody_to_renew", "NOBODY_TO_RELEASE": "pool nobody_to_release",
    "STARTED": "exchanges started", "RETURNED": "exchanges returned",
    "COMPLETED": "exchanges completed", "FAILED": "exchanges failed",
    "IN_FLIGHT": "exchanges in_flight"}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path.strip(): value}
    return {name: found for key, inner in value.items()
            for name, found in flat(inner, f"{path} {key}").items()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Where two documents differ; what depends on the moment or follows from the rest is out."""
    was = flat(before)
    return {name: found for name, found in flat(after).items() if found != was.get(name)
            and name not in ("generator rss_max_bytes", "success_rate_percent", "verdict")}


@pytest.mark.parametrize("cell", PLACES)
def test_each_counter_has_its_place(cell: str) -> None:
    assert changed(counted(config()), counted(config(), **{cell: 7})) == {PLACES[cell]: 7}


def changed_by(cell: int, number: int = 7) -> dict[str, Any]:
    settings = config()
    test = make_test(settings, 10**9)
    test.counts[cell] = number
    return changed(counted(settings), collect(
        settings, test, Outcome(1.0, False, 0.5, 0, []), STARTED_AT, LOSSES))


ERROR_OF = {"late": "late", "unknown_xid": "unknown_xid", "duplicate": "duplicate_answer",
            "unexpected": "unexpected_answer", "wrong_server": "wrong_server",
            "wrong_address": "wrong_address"}


@pytest.mark.parametrize("kind", ["offer", "ack", "nak"])
@pytest.mark.parametrize("name", cells.CLASS_NAMES)
def test_each_class_of_answers_has_its_places(kind: str, name: str) -> None:
    """In `answers` and `messages`, and, where it is an error, there."""
    number = cells.CLASS_NAMES.index(name)
    row = ("offer", "ack", "nak").index(kind)
    expected = {f"answers {kind} {name}": 7, f"messages {kind} received": 7}
    if name in ERROR_OF:
        expected[f"errors {ERROR_OF[name]}"] = 7
    assert changed_by(cells.CLASS + row * cells.CLASSES + number) == expected


@pytest.mark.parametrize("reason", [name for name in REASON_NAMES if name != "ok"])
def test_each_reason_to_refuse_a_frame(reason: str) -> None:
    assert changed_by(cells.MALFORMED + REASON_NAMES.index(reason)) == {
        "errors malformed": 7, f"errors malformed_by_reason {reason}": 7}


@pytest.mark.parametrize("name", cells.MESSAGE_NAMES)
def test_each_message(name: str) -> None:
    """REQUESTs of five kinds are one type on the wire, and five legs."""
    message = cells.MESSAGE_NAMES.index(name)
    first = cells.PHASE + message * cells.PHASE_SIZE
    kind = MessageType(cells.TYPE_OF[message]).name.lower()
    resent = {f"legs {name} retransmitted": 7}
    if kind in ("discover", "request"):
        resent[f"messages {kind} retransmitted"] = 7
    sent = {f"legs {name} sent": 7, f"messages {kind} sent": 7}
    assert changed_by(first + cells.TIMES) == sent | resent
    if name in cells.SILENT_NAMES:
        return
    lost = {f"legs {name} lost": 7, f"legs {name} open": -7}
    timeout = {f"errors {name}_timeout": 7}
    assert changed_by(first + cells.LOST) == (
        lost if name in ("discover", "request") else lost | timeout)
    for cell, how in ((cells.ANSWERED, "answered"), (cells.NAKED, "refused"),
                      (cells.IGNORED_LEGS, "ignored")):
        assert changed_by(first + cell) == {f"legs {name} {how}": 7, f"legs {name} open": -7}


@pytest.mark.parametrize("name", LATENCIES)
def test_each_series(name: str) -> None:
    """One that has something is there, under its own name; what is always there stays empty."""
    settings = config()
    test = make_test(settings, 10**9)
    Histogram(test.histograms[LATENCIES[name]]).record(1234)
    document = collect(settings, test, outcome(), STARTED_AT, LOSSES)
    filled = {series for series, entry in document["latency_us"].items() if entry["count"]}
    assert filled == {name} and document["latency_us"][name]["max"] == 1234
    assert set(document["latency_us"]) == set(document["histograms"]) == {*ALWAYS, name}


def test_servers_that_were_expected_and_others() -> None:
    """A stranger is a rogue only where somebody said who is none."""
    home, away, silent = (IPv4Address(f"10.0.0.{n}") for n in (1, 66, 9))
    for expected in ((), (home, silent)):
        settings = config(expect_servers=expected)
        network = Network(settings)
        network.turn(0)
        for event in (offered(100, server=away), offered(110, server=home), acked(200, server=away,
                                                                                  to=-1)):
            event.play(network)
        rows = {row["server_id"]: row for row in of(network)["servers"]}
        assert set(rows) == {"10.0.0.1", "10.0.0.66"} | ({"10.0.0.9"} if expected else set())
        stranger = rows["10.0.0.66"]
        assert stranger == {"server_id": "10.0.0.66", "mac": "02:ff:0a:00:00:42", "offers": 1,
                            "acks": 1, "naks": 0, "chosen": 1, "rogue": bool(expected)}
        assert not rows["10.0.0.1"]["rogue"]
        if expected:
            assert (rows["10.0.0.9"]["mac"], rows["10.0.0.9"]["offers"]) == (None, 0)


def test_relays_that_did_nothing() -> None:
    """No mean is made up; one that spoke has its own."""
    relays = tuple(IPv4Address("10.1.0.1") + i for i in range(3))
    settings = config(4, where=Where(RELAYS, "sim0", server=IPv4Address("10.0.0.1"),
                                     relays=relays))
    test = make_test(settings, 10**9)
    row = test.relays[1]
    row[[cells.R_STARTED, cells.R_COMPLETED, cells.R_FAILED]] = 5, 3, 1
    row[[cells.R_SUM_US, cells.R_MAX_US]] = 3_500, 2_000
    found = collect(settings, test, outcome(), STARTED_AT, LOSSES)["relays"]
    assert [entry["giaddr"] for entry in found] == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
    assert found[1] == {"giaddr": "10.1.0.2", "started": 5, "completed": 3, "failed": 1,
                        "dora_mean_us": 1167, "dora_max_us": 2000}
    assert found[0]["dora_mean_us"] == found[2]["started"] == 0


def test_expectations() -> None:
    expects = (Expectation("router=1.2.3.4", 3, octets=b"\1\2\3\4"),
               Expectation("subnet-mask", 1, cells.X_PRESENT),
               Expectation("!lease-time", 51, cells.X_ABSENT))
    network = Network(config(expects=expects))
    network.turn(0)
    for event in (offered(103), acked(308)):
        event.play(network)
    document = of(network)
    assert document["expectations"] == [
        {"expected": "router=1.2.3.4", "missing": 1, "different": 0},
        {"expected": "subnet-mask", "missing": 0, "different": 0},
        {"expected": "!lease-time", "missing": 0, "different": 1}]
    assert document["errors"]["unexpected_option"] == 2
    assert document["verdict"] == "pass"


def test_preloaded_exchanges_are_not_planned() -> None:
    document = counted(config(10, preload=4))
    assert document["exchanges"]["planned"] == 6
    assert counted(config(10, preload=4, exchanges=20))["exchanges"]["planned"] == 20


@pytest.mark.parametrize(("plan", "load", "rate_per_s", "described"), [
    (OpenLoop(ConstantRate(2.5)), "open", 2.5,
     {"shape": "constant", "rate_per_s": 2.5, "arrivals": "even"}),
    (OpenLoop(ConstantRate(2.5), 7), "open", 2.5,
     {"shape": "constant", "rate_per_s": 2.5, "arrivals": "poisson", "seed": 7}),
    (OpenLoop(Ramp(100.0, 3.0)), "open", None,
     {"shape": "ramp", "rate_per_s": 100.0, "over_s": 3.0, "arrivals": "even"}),
    (OpenLoop(Stages(((1.0, 5.0),))), "open", None,
     {"shape": "stages", "stages": [{"over_s": 1.0, "rate_per_s": 5.0}], "arrivals": "even"}),
    (OpenLoop(Avalanche()), "open", None, {"shape": "avalanche", "arrivals": "even"})])
def test_plans(plan: Plan, load: str, rate_per_s: float | None, described: dict[str, Any]) -> None:
    """A rate is told only where there is one; an infinite one never."""
    settings = Settings(3, plan=plan, where=Where(interface="sim0"))
    found = counted(settings)["config"]
    assert (found["load"], found["concurrency"]) == (load, None)
    assert (found["rate_per_s"], found["plan"]) == (rate_per_s, described)
    json.dumps(found, allow_nan=False)


def test_behaviours() -> None:
    """What lasts for ever has no seconds: JSON knows no infinity."""
    mix = (*((life, share / 2) for life, share in parse_mix("flap=1,expire=3", Times())),
           (malformed("no-cookie"), 0.5))
    found = counted(config(mix=mix))["config"]["behaviours"]
    assert found == [{"name": "flap", "share": 0.125, "hold_s": 1.0, "lives": 3},
                     {"name": "expire", "share": 0.375, "hold_s": None, "lives": 2},
                     {"name": "malformed no-cookie", "share": 0.5, "hold_s": 0.0, "lives": 1}]


@pytest.mark.parametrize(("state", "changes"), [
    (cells.BOUND, {}), (cells.WAITING, {}), (cells.OFFERED, {}), (cells.IGNORED, {}),
    (cells.LEFT, {"clients left": 1}),
    *((state, {"clients failed": 1}) for state in (
        cells.SELECTING, cells.REQUESTING, cells.TIMEOUT_DISCOVER, cells.TIMEOUT_REQUEST,
        cells.REFUSED, cells.DUPLICATE))])
def test_states_of_clients(state: int, changes: dict[str, int]) -> None:
    """Bound is who ever was, not who is still; who awaits its first answer has failed so far."""
    settings = config(3)
    test = make_test(settings, 10**9)
    test.clients.state[1] = state
    document = collect(settings, test, Outcome(1.0, False, 0.5, 0, []), STARTED_AT, LOSSES)
    assert changed(counted(settings), document) == {"clients started": 1} | changes
    test.clients.flags[1] = cells.F_BOUND
    document = collect(settings, test, Outcome(1.0, False, 0.5, 0, []), STARTED_AT, LOSSES)
    assert document["clients"]["bound"] == 1


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
