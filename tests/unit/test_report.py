"""The report in the terminal: what it says of each kind of document, at each width, in each
language.
"""

from __future__ import annotations

import copy
import io
import re
import string
import subprocess
import sys
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from fastpath.files import write_json
from fastpath.histogram import Histogram
from fastpath.wire import REASON_NAMES
from tester import cells, language
from tester.behaviour import Times, parse_mix
from tester.cells import RELAYS, SOCKET
from tester.collect import LATENCIES, collect
from tester.config import Expectation, Identity, Limits, Where
from tester.config import TestConfig as Settings
from tester.describe import describe, duration_text
from tester.language import Phrase
from tester.live import live_view, sparkline
from tester.make import make_test
from tester.measuring import Outcome
from tester.plan import Avalanche, ClosedLoop, ConstantRate, OpenLoop, Ramp, Stages
from tester.report import print_failed, print_report, render
from tester.result import SCHEMA

WIDTHS = (80, 100, 120, 200)
LANGUAGES = ("en", "ko")
LOSSES = {"rx_ring": 0, "tx_ring": 0, "interface": 0, "softnet": 0, "server_socket": None}


def latency(*values_us: int) -> dict[str, Any]:
    histogram = Histogram()
    for value in values_us:
        histogram.record(value)
    return dict(histogram.summary())


def leg(sent: int = 0, **numbers: int) -> dict[str, int]:
    """Of a message sent so often; all are answered that nothing else became of."""
    made = {"sent": sent, "retransmitted": 0, "refused": 0, "lost": 0, "ignored": 0, "open": 0}
    made |= numbers
    rest = (made[name] for name in ("retransmitted", "refused", "lost", "ignored", "open"))
    return {"answered": sent - sum(rest)} | made


def silent(sent: int = 0) -> dict[str, int]:
    return {"sent": sent, "retransmitted": 0, "lost": 0}


def document(**changes: Any) -> dict[str, Any]:
    """A pass with 1,000 clients; `errors__nak=3` changes one number inside."""
    times = [*range(100, 1100)]
    errors = (*language.ERROR_NAMES,)
    made: dict[str, Any] = {
        "schema": SCHEMA, "verdict": "pass", "started_at": "2026-01-31T09:00:00Z",
        "duration_s": 3.81, "interrupted": False, "stopped": "",
        "config": {"interface": "veth7", "clients": 1000, "load": "closed", "concurrency": 64,
                   "rate_per_s": None, "plan": {"shape": "closed", "concurrency": 64},
                   "exchanges": None, "duration_s": None, "preload": 0, "warm_up_s": 0.0,
                   "drain_s": None, "renew_rate_per_s": 0.0, "release_rate_per_s": 0.0,
                   "timeout_s": 5.0, "backoff_s": None, "discover_tries": 1, "request_tries": 1,
                   "from": "broadcast", "server": None, "server_port": 67, "relays": 0, "tags": 0,
                   "mac_base": "02:00:00:00:00:00", "broadcast_flag": False,
                   "behaviours": [{"name": "stay", "share": 1.0, "hold_s": 0.0, "lives": 1}],
                   "time_scale": 1.0, "seed": 0},
        "environment": {"kernel": "6.18.1", "cpu": "Model [R] X", "cpus": 2, "engine": "ring",
                        "version": "0.1.0", "python": "3.11.7", "numba": "0.68.1"},
        "clients": {"planned": 1000, "started": 1000, "bound": 1000, "failed": 0, "left": 0,
                    "leases_lost": 0, "leases_expired": 0, "silent_leaves": 0},
        "exchanges": {"planned": 1000, "started": 1000, "returned": 0, "completed": 1000,
                      "failed": 0, "in_flight": 0},
        "success_rate_percent": 100.0, "dora_per_s": 2000.0, "time_to_bind_all_s": 0.5,
        "messages": {"discover": {"sent": 1000, "retransmitted": 0}, "offer": {"received": 1000},
                     "request": {"sent": 1000, "retransmitted": 0}, "ack": {"received": 1000},
                     "nak": {"received": 0}, "decline": {"sent": 0}, "release": {"sent": 0},
                     "inform": {"sent": 0}},
        "legs": {"discover": leg(1000), "request": leg(1000), "reboot": leg(), "renew": leg(),
                 "rebind": leg(), "inform": leg(), "release": silent(), "decline": silent()},
        "answers": {"offer": classes(1000), "ack": classes(1000), "nak": classes(0)},
        "latency_us": {"discover_offer": latency(*times), "request_ack": latency(*times),
                       "dora": latency(*(2 * us for us in times)),
                       "dora_from_intended": latency(*(2 * us + 7 for us in times))},
        "errors": dict.fromkeys(errors, 0) | {"malformed_by_reason": {}},
        "servers": [server("10.0.0.1", 1000, 1000)], "relays": [], "expectations": [],
        "losses": dict(LOSSES), "missed_starts": 0,
        "pool": {"nobody_to_renew": 0, "nobody_to_release": 0},
        "neighbours": {"arp_answered": 0, "pings_answered": 0}, "malformed_sent": 0,
        "generator": {"rss_max_bytes": 10**8, "busy_percent": 41.0,
                      "full_turns_percent": 100.0, "clock_steps": 0, "untrusted_stamps": 0},
        "intervals": [], "histograms": {}}
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = made
        for name in outer:
            place = place[name]
        place[last] = value
    return made


def classes(accepted: int) -> dict[str, int]:
    return dict.fromkeys(cells.CLASS_NAMES, 0) | {"accepted": accepted}


def server(server_id: str, offers: int, acks: int, rogue: bool = False,
           mac: str | None = "02:ff:0a:00:00:01") -> dict[str, Any]:
    return {"server_id": server_id, "mac": mac, "offers": offers, "acks": acks, "naks": 0,
            "chosen": acks, "rogue": rogue}


def relay(number: int, failed: int, mean_us: int = 500) -> dict[str, Any]:
    return {"giaddr": f"10.1.0.{number}", "started": 100, "completed": 100 - failed,
            "failed": failed, "dora_mean_us": mean_us if failed < 100 else 0,
            "dora_max_us": 3 * mean_us if failed < 100 else 0}


def shape(value: Any) -> Any:
    """Names all the way down; of what differs from test to test only that it is there."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()
                if name not in ("plan", "latency_us", "histograms", "malformed_by_reason")}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return None


def test_a_document_here_is_one_that_collect_makes() -> None:
    config = Settings(5, where=Where(RELAYS, "eth0", server=IPv4Address("10.0.0.1"),
                                     relays=(IPv4Address("10.1.0.1"),)),
                      expects=(Expectation("router", 3),),
                      expect_servers=(IPv4Address("10.0.0.1"),))
    collected = collect(config, make_test(config, 10**9), Outcome(1.0, False, 0.5, 0, []),
                        datetime.now(UTC), LOSSES)
    made = document(relays=[relay(1, 0)],
                    expectations=[{"expected": "router", "missing": 0, "different": 0}])
    assert shape(made) == shape(collected)
    assert set(language.ERROR_NAMES) == set(collected["errors"]) - {"malformed_by_reason"}
    assert {*language.LEGS} == set(collected["legs"]) and {*language.PLACES} == set(LOSSES)
    legs = {series for series in LATENCIES if re.search("_(offer|ack)(_|$)", series)}
    assert {*language.SERIES} == set(LATENCIES) - legs
    # These two are no answers of ours, or no DHCP at all, and are never counted.
    assert {*language.MALFORMED_NAMES} == set(REASON_NAMES) - {"ok", "not_ipv4", "not_dhcp"}
    # What a pass looks like is told by nobody but the document.
    text(collected), text(collected, 80, "ko")


def text(of: dict[str, Any], width: int = 120, lang: str = "en") -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    before = copy.deepcopy(of)
    console.print(render(of, lang))
    assert of == before, "rendering changes nothing"
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def words(of: dict[str, Any], width: int = 120, lang: str = "en") -> str:
    """The report as one line: where it wraps does not matter."""
    return " ".join(text(of, width, lang).split())


INCOMPLETE = {
    "verdict": "incomplete", "clients__bound": 900, "clients__failed": 100,
    "exchanges__completed": 900, "exchanges__failed": 100, "time_to_bind_all_s": None,
    "success_rate_percent": 90.0,
    "legs__discover": leg(1090, retransmitted=80, lost=20),
    "legs__request": leg(990, refused=30, lost=60),
    "errors__nak": 30, "errors__discover_timeout": 10, "errors__request_timeout": 60,
    "errors__late": 11, "errors__malformed": 3,
    "errors__malformed_by_reason": {"udp_checksum": 2, "cookie": 1},
    "latency_us__discover_offer": latency(*range(1, 991)),
    "latency_us__request_ack": latency(*range(1, 901))}
NOTHING: dict[str, Any] = {
    "verdict": "incomplete", "interrupted": True, "clients__started": 0, "clients__bound": 0,
    "exchanges__started": 0, "exchanges__completed": 0, "exchanges__planned": 10,
    "success_rate_percent": 0.0, "dora_per_s": 0.0, "duration_s": 0.0, "time_to_bind_all_s": None,
    "legs__discover": leg(), "legs__request": leg(), "servers": [],
    "answers": {"offer": classes(0), "ack": classes(0), "nak": classes(0)},
    **{f"latency_us__{name}": latency() for name in ("discover_offer", "request_ack", "dora",
                                                     "dora_from_intended")}}
DEAF: dict[str, Any] = {
    "verdict": "incomplete", "clients__bound": 0, "exchanges__completed": 0,
    "exchanges__failed": 1000, "clients__failed": 1000, "success_rate_percent": 0.0,
    "dora_per_s": 0.0, "time_to_bind_all_s": None, "legs__discover": leg(1000, lost=1000),
    "legs__request": leg(), "errors__discover_timeout": 1000, "servers": [],
    "answers": {"offer": classes(0), "ack": classes(0), "nak": classes(0)},
    **{f"latency_us__{name}": latency() for name in ("discover_offer", "request_ack", "dora",
                                                     "dora_from_intended")}}
MANY = 33_554_432
HUGE = {
    "verdict": "generator-bound", "clients__started": MANY, "clients__bound": MANY - 1,
    "clients__failed": 1, "exchanges__planned": MANY, "exchanges__started": MANY,
    "exchanges__completed": MANY - 1, "exchanges__failed": 1, "time_to_bind_all_s": None,
    "success_rate_percent": 99.999, "dora_per_s": 129_345.6, "duration_s": 1234.5,
    "config__load": "open", "config__rate_per_s": 1_000_000.0,
    "config__plan": {"shape": "constant", "rate_per_s": 1_000_000.0, "arrivals": "even"},
    "missed_starts": MANY - 7, "losses__rx_ring": 12_345_678,
    "config__interface": "a-long-ifname15",
    "legs__discover": leg(MANY + 100_000_000, retransmitted=100_000_000),
    "legs__request": leg(MANY),
    "latency_us__discover_offer": latency(999, 999_949, 3_600_000_000),
    "environment__cpu": "Some(R) Very Long Processor(TM) Name i9-99999K @ 9.99GHz"}
LIVING = {
    "exchanges__returned": 240, "exchanges__completed": 1240, "time_to_bind_all_s": 10.0,
    "clients__silent_leaves": 70, "clients__leases_expired": 5, "malformed_sent": 30,
    "errors__malformed_answered": 2, "errors__unexpected_option": 302,
    "neighbours": {"arp_answered": 12, "pings_answered": 3},
    "legs__reboot": leg(50), "legs__renew": leg(60, lost=3), "legs__rebind": leg(3),
    "legs__inform": leg(40), "legs__release": silent(30), "legs__decline": silent(20),
    **{f"latency_us__{name}": latency(*range(100, 5000, 77)) for name in (
        "reboot_ack", "renew_ack", "renew_ack_from_intended", "rebind_ack", "inform_ack",
        "rapid_commit", "release_to_free", "timer_late")},
    "config__behaviours": [{"name": name, "share": 0.25, "hold_s": None, "lives": 0}
                           for name in ("stay", "flap", "malformed option-overrun", "expire")],
    "config__time_scale": 60.0, "config__renew_rate_per_s": 50.0, "config__preload": 100,
    "config__release_rate_per_s": 0.5, "config__warm_up_s": 2.5, "config__backoff_s": [4, 64],
    "pool": {"nobody_to_renew": 4, "nobody_to_release": 1},
    "expectations": [{"expected": "router=1.2.3.4", "missing": 2, "different": 300},
                     {"expected": "domain-name", "missing": 0, "different": 0}],
    "servers": [server("10.0.0.1", 1200, 1100), server("10.0.0.66", 9, 2, rogue=True),
                server("10.0.0.9", 0, 0, mac=None)],
    "relays": [relay(number, number % 7) for number in range(1, 51)]}
KINDS: dict[str, dict[str, Any]] = {
    "pass": {}, "incomplete": INCOMPLETE, "nothing": NOTHING, "deaf": DEAF, "huge": HUGE,
    "living": LIVING}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("verdict", "label"), [
    ("pass", "PASS"), ("incomplete", "INCOMPLETE"), ("generator-bound", "GENERATOR-BOUND"),
    ("threshold", "THRESHOLD MISSED")])
def test_the_verdict_comes_first(verdict: str, label: str, width: int) -> None:
    first = text(document(verdict=verdict), width).splitlines()[0]
    assert first.split("  ")[0].strip() == label
    assert "1,000 of 1,000 bound" in first


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut(kind: str, lang: str) -> None:
    """No line is wider than the terminal, and no number ends in dots."""
    for width in (*WIDTHS, *range(78, 96)):
        report = text(document(**KINDS[kind]), width, lang)
        assert max(map(cell_len, report.splitlines())) <= width
        assert "…" not in report


@pytest.mark.parametrize("lang", LANGUAGES)
def test_columns_are_straight(lang: str) -> None:
    """Numbers end where their titles end, counted in cells: Hangul is two of them wide."""
    lines = text(document(**LIVING), 200, lang).splitlines()
    head = next(line for line in lines if "p99.9" in line)
    ends = [cell_len(head[:found.end()]) for found in re.finditer(r"\S+", head)]
    for title in ("DISCOVER → OFFER", "renew → ACK" if lang == "en" else "갱신 → ACK"):
        row = next(line for line in lines if line.startswith(title))
        numbers = re.finditer(r"[\d,.]+( us| ms)?", row)
        assert [cell_len(row[:found.end()]) for found in numbers] == ends


def test_a_plain_test_is_short() -> None:
    report = text(document()).splitlines()
    assert [line.split()[0] if line.strip() else "" for line in report] == [
        "PASS", "success", "", "sent", "─" * 104, "DISCOVER", "REQUEST", "whole", "from", "",
        "errors", "losses", "load", "generator", "machine"]


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_of_each_leg(width: int) -> None:
    """In one table or in two, the rows say the same."""
    rows: dict[str, list[str]] = {}
    for line in text(document(**INCOMPLETE), width).splitlines():
        for title in ("DISCOVER → OFFER", "REQUEST → ACK", "whole exchange",
                      "from intended start"):
            if line.startswith(title):
                rows.setdefault(title, []).extend(line.removeprefix(title).replace(
                    " us", "us").replace(" ms", "ms").split())
    # 1,090 sent, 80 of them again; of 1,010 legs 990 were answered.
    assert rows["DISCOVER → OFFER"] == [
        "1,090", "990", "20", "80", "495us", "891us", "981us", "990us", "990us"]
    # 990 sent: 900 ACKs and 30 NAKs were answers, 60 never had one.
    assert rows["REQUEST → ACK"] == [
        "990", "930", "60", "0", "450us", "810us", "891us", "900us", "900us"]
    assert rows["whole exchange"][-5:] == ["1.20ms", "2.00ms", "2.18ms", "2.20ms", "2.20ms"]
    assert rows["from intended start"][-5:] == ["1.21ms", "2.00ms", "2.19ms", "2.20ms", "2.21ms"]


def test_titles_stand_over_their_numbers() -> None:
    lines = text(document()).splitlines()
    head = next(line for line in lines if "p99.9" in line)
    row = next(line for line in lines if line.startswith("DISCOVER"))
    for title, number in (("sent", "1,000"), ("p99.9", "1.10 ms")):
        assert head.index(title) + len(title) == row.index(number) + len(number)
    assert head.split() == ["sent", "answered", "lost", "resent", "p50", "p90", "p99", "p99.9",
                            "max"]


def test_errors_by_name() -> None:
    said = words(document(**INCOMPLETE))
    assert ("errors discover timeout 10, request timeout 60, NAK 30, malformed 3, late 11 "
            "(udp checksum 2, cookie 1) losses") in said
    assert "errors none losses" in words(document())


@pytest.mark.parametrize(("losses", "said"), [
    ({"rx_ring": 0, "tx_ring": 0, "server_socket": None},
     "losses none in receive ring, transmit ring; not measured: server socket load"),
    ({"rx_ring": 0, "interface": 1234, "server_socket": 5},
     "losses interface 1,234, server socket 5; none in receive ring load"),
    ({"rx_ring": None, "server_socket": None},
     "losses not measured: receive ring, server socket load"),
    ({"rx_ring": 2}, "losses receive ring 2 load")])
def test_losses(losses: dict[str, Any], said: str) -> None:
    """What was not measured is not called 0, and not called none."""
    assert said in words(document(losses=losses))


CUT = {"verdict": "incomplete", "exchanges__started": 400, "exchanges__completed": 390,
       "exchanges__failed": 9, "exchanges__in_flight": 1, "clients__started": 400,
       "clients__bound": 390}


@pytest.mark.parametrize(("changes", "reasons"), [
    ({"verdict": "generator-bound", "losses__rx_ring": 20_757},
     ["receive ring lost 20,757 frames", "테스터의 수신 링에서 프레임 20,757개가 유실"]),
    ({"verdict": "generator-bound", "missed_starts": 500},
     ["began 500 of 1,000 exchanges over 10 ms late", "교환 1,000건 중 500건이 예정보다 10 ms"]),
    ({"verdict": "generator-bound", "generator__busy_percent": 99.6, "duration_s": 9.0},
     ["kept its CPU 100 % busy", "CPU를 100 % 사용"]),
    (INCOMPLETE, ["100 exchanges did not complete", "완료되지 않은 교환 100건"]),
    (NOTHING, ["no exchange was started", "시작된 교환이 없습니다"]),
    (NOTHING, ["10 exchanges not begun", "시작하지 못한 교환 10건"]),
    (CUT | {"interrupted": True}, ["interrupted 600 exchanges not begun 9 exchanges did",
                                   "사용자가 중단했습니다 시작하지 못한 교환 600건"]),
    (CUT | {"stopped": "interface 'eth0' went down or away while in use"},
     ["interface 'eth0' went down or away", "interface 'eth0' went down or away"]),
    (CUT | {"stopped": "8 exchanges were lost, more than --max-drop allows",
            "errors__discover_timeout": 8, "errors__request_timeout": 1},
     ["stopped by --max-drop: 9 exchanges lost",
      "--max-drop에 따라 중단되었습니다: 유실된 교환 9건"]),
    (CUT, ["600 exchanges not begun", "시작하지 못한 교환 600건"]),
    (CUT, ["1 exchange still waited", "응답을 기다리던 교환 1건"]),
    ({"legs__renew": leg(60, lost=3)}, ["3 renewals got no answer", "응답이 없는 갱신 요청 3건"]),
    ({"legs__rebind": leg(60, lost=1)}, ["1 rebinding got no answer", "재바인딩 요청 1건"]),
    ({"legs__reboot": leg(60, lost=1)}, ["1 request after a reboot", "재부팅 후 요청 1건"]),
    ({"legs__inform": leg(60, lost=2)}, ["2 INFORMs got no answer", "응답이 없는 INFORM 2건"]),
    ({"clients__leases_lost": 1}, ["1 lease lost:", "상실한 임대 1건"]),
    (DEAF, ["is the server on this segment (veth7)?", "같은 세그먼트(veth7)"]),
    (DEAF | {"config__from": "relay", "config__relays": 3},
     ["route back to giaddr", "giaddr로 돌아오는 경로"]),
    (DEAF | {"config__from": "socket"}, ["try --relay self", "--relay self를 사용해"]),
    (DEAF | {"config__from": "socket", "config__relays": 1, "config__server": "10.0.0.5"},
     ["listen at 10.0.0.5:67,", "10.0.0.5:67에서 서버가"]),
    (DEAF | {"errors__malformed": 5}, ["no answer at all: every answer was malformed",
                                       "모든 응답이 잘못된 형식"]),
    ({"servers": [server("10.0.0.66", 5, 3, rogue=True, mac="02:00:00:00:00:66")]},
     ["rogue server 10.0.0.66 (02:00:00:00:00:66): OFFER 5, ACK 3",
      "비인가 서버 10.0.0.66 (02:00:00:00:00:66): OFFER 5, ACK 3"]),
    ({"servers": [server("10.0.0.9", 0, 0, mac=None)]},
     ["expected server 10.0.0.9 did not answer", "예상한 서버 10.0.0.9의 응답이 없습니다"])])
def test_reasons(changes: dict[str, Any], reasons: list[str]) -> None:
    """Behind the verdict and the rate, before any table, in both languages."""
    for lang, reason in zip(LANGUAGES, reasons, strict=True):
        report = text(document(**changes), 300, lang).split("\n\n")[0]
        assert reason in " ".join(report.split())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("pass", "living")])
def test_what_is_no_pass_says_why(kind: str) -> None:
    assert len(text(document(**KINDS[kind]), 300).split("\n\n")[0].splitlines()) > 2


def test_an_answer_of_any_kind_is_not_silence() -> None:
    """Answers that were of no use mean that a server is there."""
    for name in cells.CLASS_NAMES:
        changes = DEAF | {"answers__offer": classes(0) | {name: 1}}
        assert "no answer at all" not in words(document(**changes))


def test_rogues_are_red_and_not_endless() -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    rogues = [server(f"10.9.0.{n}", n, 0, rogue=True) for n in range(1, 40)]
    others = server("0.0.0.0", 500, 0, rogue=True, mac="00:00:00:00:00:00")
    console.print(render(document(servers=[*rogues, others, server("10.0.0.1", 9, 9)])))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    named = [line for line in lines if line.startswith("\x1b[1;31mrogue server")]
    assert [re.search(r"10\.9\.0\.\d+|besides: 37", line)[0] for line in named] == [  # type: ignore[index]
        "10.9.0.39", "10.9.0.38", "10.9.0.37", "besides: 37"]
    assert "and 31 more" in console.file.getvalue() and "0.0.0.0" not in console.file.getvalue()


def test_servers() -> None:
    """A table where there are two, or a stranger; who is not there has no MAC."""
    assert "chosen" not in text(document())
    report = text(document(**LIVING))
    rows = report.split("chosen")[1].splitlines()[2:5]
    assert [row.split() for row in rows] == [
        ["10.0.0.66", "02:ff:0a:00:00:01", "9", "2", "0", "2", "rogue"],
        ["10.0.0.1", "02:ff:0a:00:00:01", "1,200", "1,100", "0", "1,100"],
        ["10.0.0.9", "-", "0", "0", "0", "0"]]
    assert "chosen" in text(document(servers=[server("10.0.0.1", 1, 1, rogue=True)]))
    behind_a_socket = server("10.0.0.1", 1, 1, mac="00:00:00:00:00:00")
    assert "00:00:00" not in text(document(servers=[behind_a_socket, server("10.0.0.2", 1, 1)]))


def test_relays_worst_first_and_all_together() -> None:
    relays = [relay(1, 3), relay(2, 100), relay(3, 0, 900), *(relay(n, 0) for n in range(4, 31))]
    rows = text(document(relays=relays)).split("mean")[1].splitlines()[2:13]
    assert [row.split()[0] for row in rows] == [
        "10.1.0.2", "10.1.0.1", "10.1.0.3", *(f"10.1.0.{n}" for n in range(4, 11)), "all"]
    assert rows[0].split() == ["10.1.0.2", "100", "0", "100", "-", "-"]
    # (97 + 27 * 100) * 500 us and 100 * 900 us, over 2,897.
    assert rows[-1].split() == ["all", "30", "3,000", "2,897", "103", "514", "us", "2.70", "ms"]
    assert "relay" not in text(document(relays=relays[:1]))


def test_a_relay_that_is_not_heard_of_is_worse_than_one_that_is_slow() -> None:
    waiting = relay(1, 0) | {"completed": 40}
    rows = text(document(relays=[relay(2, 0, 9000), waiting])).split("mean")[1].splitlines()[2:]
    assert rows[0].startswith("10.1.0.1")


@pytest.mark.parametrize("said", [
    "errors unexpected option 302, malformed answered 2",
    "all bound after 10.0 s", "clients 240 came back, 70 left without a word, 5 let their lease",
    "router=1.2.3.4: different in 300, missing in 2 of 1,000 ACKs malformed 30 sent on purpose, "
    "2 answered", "neighbours 12 ARP requests and 3 pings answered",
    "stay 25 %, flap 25 %, malformed option-overrun 25 %, expire 25 %, time passes 60 times",
    "closed loop, 64 exchanges in flight, 100 bound beforehand, first 2.5 s not counted, "
    "50 renewals per second, 0.5 releases per second, asked again after 4 s, at most 64 s; took",
    "4 renewals left out", "1 release left out"])
def test_facts_of_a_life(said: str) -> None:
    assert said in words(document(**LIVING), 300)


def test_expectations_that_were_met() -> None:
    met = [{"expected": "router", "missing": 0, "different": 0}]
    assert "expected as expected in 1,000 ACKs" in words(document(expectations=met))


def test_legs_that_happened() -> None:
    """What nobody sent, and what was not measured, has no row."""
    report = text(document(**LIVING), 200)
    assert [line.split("  ")[0] for line in report.split("\n\n")[1].splitlines()[2:]] == [
        "DISCOVER → OFFER", "REQUEST → ACK", "reboot → ACK", "renew → ACK", "rebind → ACK",
        "INFORM → ACK", "RELEASE", "DECLINE", "whole exchange", "from intended start",
        "rapid commit", "RELEASE → free", "timers late by"]
    # To release is to say one thing, to which there is no answer.
    assert re.search(r"^RELEASE +30 *$", report, re.M)


def test_a_leg_that_nobody_answered_has_no_times() -> None:
    row = next(line for line in text(document(**DEAF)).splitlines() if line.startswith("DISC"))
    assert row.split()[3:] == ["1,000", "0", "1,000", "0", "-", "-", "-", "-", "-"]


def test_clients_who_only_look() -> None:
    """Nobody was meant to be bound: what is told is exchanges."""
    report = text(document(clients__bound=0, dora_per_s=0.0, time_to_bind_all_s=None))
    assert report.splitlines()[0].strip() == "PASS   1,000 of 1,000 exchanges completed"


@pytest.mark.parametrize(("percent", "said"), [
    (100.0, "100"), (99.812, "99.812"), (99.999, "99.999"), (99.5, "99.5"), (0.0, "0"),
    (0.001, "0.001")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_found_by_programs(kind: str, percent: float, said: str) -> None:
    """grep "성공률:" | awk '{print $2}' | sed 's/%//' gives the number, and only that."""
    for lang, title in (("ko", "성공률:"), ("en", "success rate:")):
        report = text(document(**KINDS[kind] | {"success_rate_percent": percent}), 80, lang)
        lines = [line for line in report.splitlines() if title in line]
        assert len(lines) == 1 and lines[0].startswith(title)
        assert lines[0].removeprefix(title).split()[0] == f"{said}%"


def test_the_rate_is_of_exchanges() -> None:
    assert "success rate: 100% (1,240 of 1,240 exchanges)" in words(document(**LIVING))
    assert "성공률: 100% (교환 1,240건 중 1,240건)" in words(document(**LIVING), lang="ko")


def test_a_renewal_test_begins_no_exchange() -> None:
    report = words(document(**{**NOTHING, "verdict": "pass", "interrupted": False,
                               "exchanges__planned": 0, "clients__started": 9,
                               "clients__bound": 9, "legs__renew": leg(100)}))
    assert report.startswith("PASS 9 of 9 bound success rate: 0% sent")


def phrases() -> dict[str, Phrase]:
    found: dict[str, Phrase] = {}
    for name, value in vars(language).items():
        if isinstance(value, Phrase):
            found[name] = value
        elif isinstance(value, dict) and name.isupper():
            found |= {f"{name} {key}": phrase for key, phrase in value.items()}
        elif isinstance(value, tuple) and name.isupper() and name != "LANGUAGES":
            found |= {f"{name} {number}": phrase for number, phrase in enumerate(value)}
    return found


@pytest.mark.parametrize(("name", "phrase"), phrases().items())
def test_both_languages_say_the_same(name: str, phrase: Phrase) -> None:
    """The same values in both, in the same form, and Korean without English words but terms."""
    fields = [sorted((field, form) for _, field, form, _ in string.Formatter().parse(said)
                     if field and field != "s") for said in phrase]
    assert fields[0] == fields[1], name
    assert phrase.en == phrase.ko or re.search("[가-힣]", phrase.ko) or not re.search(
        "[a-z]{3}", re.sub(r"\{.*?\}", "", phrase.en)), name


@pytest.mark.parametrize(("environment", "lang"), [
    ({}, "en"), ({"LANG": "ko_KR.UTF-8"}, "ko"), ({"LANG": "en_US.UTF-8"}, "en"),
    ({"LC_ALL": "C", "LANG": "ko_KR.UTF-8"}, "en"), ({"LC_ALL": "", "LANG": "ko"}, "ko"),
    ({"LC_MESSAGES": "ko_KR.eucKR", "LANG": "de_DE"}, "ko"),
    ({"LC_ALL": "ko_KR.UTF-8", "LC_MESSAGES": "en_US", "LANG": "en_US"}, "ko")])
def test_language_of_the_locale(environment: dict[str, str], lang: str,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language.choose(None).lang == lang
    assert language.choose("en").lang == "en" and language.choose("ko").lang == "ko"


def test_a_pass_needs_no_reason() -> None:
    assert text(document()).splitlines()[1:3] == ["success rate: 100%", ""]


def test_nothing_started() -> None:
    """No rate, no percentile, no table is made up."""
    report = text(document(**NOTHING))
    assert report.splitlines()[0].split() == ["INCOMPLETE", "0", "of", "0", "bound"]
    assert "DORA/s" not in report and "p99" not in report


def test_the_rate_and_its_time_agree() -> None:
    """1,000 at 2,000/s took half a second, however long the test waited for others."""
    assert "bound in 500 ms · 2,000 DORA/s" in words(document())
    assert "took 3.81 s" in words(document())
    assert "900 of 1,000 bound in 450 ms · 2,000 DORA/s" in words(document(**INCOMPLETE))


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "closed loop, 64 exchanges in flight, answers awaited for 5 s"),
    ({"config__timeout_s": 0.05}, "answers awaited for 0.05 s"),
    (HUGE, "open loop, 1,000,000 exchanges started per second"),
    ({"config__plan": {"shape": "constant", "rate_per_s": 0.5, "arrivals": "poisson"}},
     "open loop, 0.5 exchanges started per second, at random (Poisson), answers"),
    ({"config__plan": {"shape": "ramp", "rate_per_s": 500.0, "over_s": 10.0, "arrivals": "even"}},
     "open loop, rising to 500 exchanges per second over 10 s, answers"),
    ({"config__plan": {"shape": "avalanche", "arrivals": "even"}}, "load all at once, answers"),
    ({"config__plan": OpenLoop(Stages(((1.5, 20.0),) * 6)).describe()},
     "in stages, 1.5 s to 20/s, 1.5 s to 20/s, 1.5 s to 20/s, 1.5 s to 20/s, and 2 more, answers"),
    ({"config__interface": "", "environment__engine": "udp", "config__server": "10.0.0.5"},
     "udp engine to 10.0.0.5:67, 41 %"),
    ({}, "ring engine on veth7, 41 % of one CPU busy, 0 starts missed"),
    ({}, "Model [R] X, 2 CPUs, Linux 6.18.1"),
    ({"config__interface": "[red]x"}, "ring engine on [red]x,"),
    (HUGE, "33,554,431 of 33,554,432 bound"), (HUGE, "took 1,234 s")])
def test_facts(changes: dict[str, Any], said: str) -> None:
    assert said in words(document(**changes), 200)


@pytest.mark.parametrize(("busy", "load", "said"), [
    (95.0, "closed", True), (89.9, "closed", False), (95.0, "open", False)])
def test_a_busy_generator_says_so(busy: float, load: str, said: bool) -> None:
    report = words(document(generator__busy_percent=busy, config__load=load))
    assert ("busy all the time: the server may be faster" in report) is said


def test_a_full_cpu_is_told_once() -> None:
    report = words(document(generator__busy_percent=99.6, verdict="generator-bound"))
    assert report.count("may be faster") == 1


@pytest.mark.parametrize(("us", "said"), [
    (0, "0 us"), (1, "1 us"), (999, "999 us"), (999.4, "999 us"), (999.6, "1.00 ms"),
    (1000, "1.00 ms"), (1240, "1.24 ms"), (9994, "9.99 ms"), (9996, "10.0 ms"),
    (12_345, "12.3 ms"), (99_949, "99.9 ms"), (99_951, "100 ms"), (123_456, "123 ms"),
    (999_499, "999 ms"), (999_501, "1.00 s"), (1_000_000, "1.00 s"), (3_200_000, "3.20 s"),
    (59_960_000, "60.0 s"), (123_400_000, "123 s"), (3_600_000_000, "3,600 s")])
def test_duration_text(us: float, said: str) -> None:
    assert duration_text(us) == said


def test_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """One table whatever COLUMNS says, no colours, and no blanks at the end of the verdict."""
    monkeypatch.setenv("COLUMNS", "20")
    print_report(document(**INCOMPLETE), "en")
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("DISCOVER") for line in lines) == 1
    assert lines[0].startswith(" INCOMPLETE   900 of 1,000") and lines[0] == lines[0].rstrip()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding(tmp_path: Path, encoding: str) -> None:
    """A terminal without arrows gets another sign, not a traceback after an hour's test."""
    place = tmp_path / "r.json"
    write_json(place, document(**INCOMPLETE))
    script = ("import sys; from pathlib import Path; from tester.report import print_report; "
              "from tester.result import read_json; "
              "print_report(read_json(Path(sys.argv[1])), 'en')")
    done = subprocess.run([sys.executable, "-c", script, str(place)], capture_output=True,
                          env={"PYTHONIOENCODING": encoding}, timeout=20,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    arrow = "→" if encoding == "utf-8" else "?"
    assert f"DISCOVER {arrow} OFFER" in done.stdout.decode(encoding)


def snapshot(elapsed_s: float, bound: int, intervals: list[int] | None = None, **more: int,
             ) -> dict[str, Any]:
    """As `tester.run` makes them."""
    return {"elapsed_s": elapsed_s, "planned": 1000, "started": bound + 64, "bound": bound,
            "exchanges": bound + 10 if bound else 0, "renewed": 0, "failed": 3, "in_flight": 64,
            "latency_us": latency(*range(1, bound + 1)),
            "intervals": [{"bound": count} for count in intervals or []]} | more


def panel(before: Any, now: dict[str, Any], lang: str = "en", width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(live_view(before, now, lang))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(("before", "now", "rate", "renewals"), [
    (None, snapshot(2.0, 400), "205", "0"),
    (snapshot(2.0, 400), snapshot(2.5, 500), "200", "0"),
    (snapshot(2.0, 400), snapshot(2.5, 400, exchanges=910, renewed=55), "1,000", "110"),
    (None, snapshot(0.0, 0), "0", "0"), (snapshot(2.0, 400), snapshot(2.0, 400), "0", "0"),
    # Preloading is over, and everything is counted anew.
    (snapshot(2.0, 400, renewed=9), snapshot(2.5, 0), "0", "0")])
def test_live_view(before: Any, now: dict[str, Any], rate: str, renewals: str, lang: str) -> None:
    shown = panel(before, now, lang)
    assert "…" not in shown and max(map(cell_len, shown.splitlines())) <= 80
    bound = f"{now['bound']:,}"
    for said in ((f"{rate} exchanges/s, {renewals} renewals/s, 64 in flight, 3 failed",
                  f"{bound} of 1,000 bound") if lang == "en" else
                 (f"교환 {rate}건/s, 갱신 {renewals}건/s, 진행 중 64건, 실패 3건",
                  f"1,000개 중 {bound}개 할당")):
        assert said in shown, shown
    last = f"{bound} us" if now["bound"] else "-"
    assert f"max {last}" in shown or f"최대 {last}" in shown


@pytest.mark.parametrize(("values", "line"), [
    ([], ""), ([0, 0], "▁▁"), ([5], "█"), ([0, 1, 1000], "▁▂█"), (list(range(8)), "▁▂▃▄▅▆▇█"),
    ([7, 7, 7], "███"), ([10**9, 5 * 10**8], "█▅")])
def test_sparkline(values: list[int], line: str) -> None:
    assert sparkline(values) == line


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_minute_of_intervals(lang: str) -> None:
    """The last sixty on one line, and how high the highest was."""
    shown = panel(None, snapshot(90.0, 400, [5000, *range(60)]), lang)
    bars = [line for line in shown.splitlines() if "▁" in line]
    assert len(bars) == 1 and len(re.findall("[▁▂▃▄▅▆▇█]", bars[0])) == 60
    assert "at most 59" in shown or "최대 59" in shown
    assert "bound/s" not in panel(None, snapshot(0.5, 4))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_panel_is_not_wider_than_the_terminal(width: int) -> None:
    now = snapshot(1e6, 999, [MANY] * 60, planned=MANY, failed=MANY, in_flight=MANY)
    for lang in LANGUAGES:
        assert max(map(cell_len, panel(None, now, lang, width).splitlines())) <= width


HERE, THERE = IPv4Address("127.0.0.1"), IPv4Address("10.0.0.5")


@pytest.mark.parametrize(("config", "port", "said"), [
    (Settings(1, where=Where(interface="eth0")), 0,
     "1 client; closed loop, 64 exchanges in flight; by broadcast on eth0"),
    (Settings(100, where=Where(SOCKET, server=HERE, server_port=6700, local_address=HERE)), 40123,
     "100 clients; closed loop, 64 exchanges in flight; "
     "by UDP from 127.0.0.1:40123 to 127.0.0.1:6700"),
    (Settings(100, where=Where(SOCKET, server=THERE, local_address=HERE, relays=(HERE,))), 67,
     "100 clients; closed loop, 64 exchanges in flight; "
     "by UDP from 127.0.0.1:67 to 10.0.0.5:67, as a relay agent"),
    (Settings(1000, ClosedLoop(1), Where(RELAYS, "eth1", server=THERE, relays=(HERE,) * 50),
              limits=Limits(duration_s=30.0, preload=500), time_scale=60.0,
              mix=parse_mix("stay=70,flap=30", Times())), 0,
     "1,000 clients; stay 70 %, flap 30 %, time passes 60 times as fast; closed loop, 1 exchange "
     "in flight, 500 bound beforehand; for 30 s; as 50 relay agents on eth1 to 10.0.0.5:67"),
    (Settings(5, OpenLoop(ConstantRate(1e6), 3), Where(interface="eth0"), renew_rate=10), 0,
     "5 clients; open loop, 1,000,000 exchanges started per second, at random (Poisson), "
     "10 renewals per second; by broadcast on eth0"),
    (Settings(5, OpenLoop(Avalanche()), Where(interface="eth0")), 0,
     "5 clients; all at once; by broadcast on eth0"),
    (Settings(5, OpenLoop(Ramp(10.0, 2.0)), Where(interface="eth0"),
              mix=parse_mix("flap", Times())), 0,
     "5 clients; flap; open loop, rising to 10 exchanges per second over 2 s; "
     "by broadcast on eth0")])
def test_describe(config: Settings, port: int, said: str) -> None:
    assert describe(config, port, "en") == said
    korean = describe(config, port, "ko")
    assert "\n" not in korean and korean.startswith(f"클라이언트 {config.clients:,}개; ")


@pytest.mark.parametrize(("clients", "failed", "more"), [
    (30, 0, ""), (30, 1, ""), (30, 20, ""), (30, 21, "and 1 more"), (5000, 4990, "and 4,970 more")])
def test_clients_that_failed(clients: int, failed: int, more: str,
                             capsys: pytest.CaptureFixture[str]) -> None:
    config = Settings(clients, identity=Identity(mac_step=256))
    test = make_test(config, 10**9)
    test.clients.state[:] = cells.BOUND
    test.clients.state[3:3 + failed] = cells.TIMEOUT_DISCOVER
    print_failed(config, test, "en")
    lines = capsys.readouterr().out.splitlines()
    assert lines[20:] == ([more] if more else [])
    assert [line.split() for line in lines[:20]] == [
        [str(n), f"02:00:00:00:{n:02x}:00", "timeout_discover"]
        for n in range(3, 3 + min(failed, 20))]


@pytest.mark.parametrize(("state", "outcome"), [
    (cells.SELECTING, "timeout_discover"), (cells.REQUESTING, "timeout_request"),
    (cells.TIMEOUT_REQUEST, "timeout_request"), (cells.REFUSED, "nak"),
    (cells.DUPLICATE, "duplicate"),
    *((state, "") for state in (cells.INIT, cells.BOUND, cells.RENEWING, cells.REBINDING,
                                cells.REBOOTING, cells.INFORMING, cells.WAITING, cells.LEFT,
                                cells.OFFERED, cells.IGNORED))])
def test_who_has_failed(state: int, outcome: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = Settings(1)
    test = make_test(config, 10**9)
    test.clients.state[0] = state
    print_failed(config, test, "ko")
    assert capsys.readouterr().out.split()[2:] == ([outcome] if outcome else [])
