"""The report in the terminal: what it says of each kind of document, at each width."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastpath.files import write_json
from fastpath.histogram import Histogram
from tester.report import duration_text, live_view, print_report, render
from tester.result import SCHEMA

WIDTHS = (80, 100, 120, 200)


def latency(*values_us: int) -> dict[str, Any]:
    histogram = Histogram()
    for value in values_us:
        histogram.record(value)
    return dict(histogram.summary())


def document(**changes: Any) -> dict[str, Any]:
    """A pass with 1,000 clients; `errors__nak=3` changes one number inside."""
    legs = [*range(100, 1100)]
    made: dict[str, Any] = {
        "schema": SCHEMA, "verdict": "pass", "started_at": "2026-01-31T09:00:00Z",
        "duration_s": 3.81, "interrupted": False,
        "config": {"interface": "veth7", "clients": 1000, "load": "closed", "concurrency": 64,
                   "rate_per_s": None, "duration_s": None, "timeout_s": 5.0},
        "environment": {"kernel": "6.18.1", "cpu": "Model [R] X", "cpus": 2, "engine": "ring"},
        "clients": {"planned": 1000, "started": 1000, "bound": 1000, "failed": 0},
        "success_rate_percent": 100.0, "dora_per_s": 2000.0,
        "messages": {"discover": {"sent": 1000, "retransmitted": 0}, "offer": {"received": 1000},
                     "request": {"sent": 1000, "retransmitted": 0}, "ack": {"received": 1000},
                     "nak": {"received": 0}},
        "latency_us": {"discover_offer": latency(*legs), "request_ack": latency(*legs),
                       "dora": latency(*(2 * us for us in legs)),
                       "dora_from_intended": latency(*(2 * us + 7 for us in legs))},
        "errors": {"discover_timeout": 0, "request_timeout": 0, "nak": 0, "duplicate_address": 0,
                   "malformed": 0, "unknown_xid": 0, "late": 0, "unexpected_option": 0,
                   "repeated_answer": 0, "malformed_by_reason": {}},
        "losses": {"rx_ring": 0, "tx_ring": 0, "interface": 0, "softnet": 0,
                   "server_socket": None},
        "missed_starts": 0,
        "generator": {"busy_percent": 41.0, "clock_steps": 0, "untrusted_stamps": 0}}
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = made
        for name in outer:
            place = place[name]
        place[last] = value
    return made


def text(of: dict[str, Any], width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    before = copy.deepcopy(of)
    console.print(render(of))
    assert of == before, "rendering changes nothing"
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def words(of: dict[str, Any], width: int = 120) -> str:
    """The report as one line: where it wraps does not matter."""
    return " ".join(text(of, width).split())


INCOMPLETE = {
    "verdict": "incomplete", "clients__bound": 900, "clients__failed": 100,
    "success_rate_percent": 90.0, "messages__discover": {"sent": 1090, "retransmitted": 90},
    "messages__offer": {"received": 995}, "messages__request": {"sent": 990, "retransmitted": 0},
    "messages__ack": {"received": 911}, "messages__nak": {"received": 35},
    "errors__nak": 30, "errors__discover_timeout": 10, "errors__request_timeout": 60,
    "errors__late": 11, "errors__malformed": 3,
    "errors__malformed_by_reason": {"udp_checksum": 2, "cookie": 1},
    "latency_us__discover_offer": latency(*range(1, 991)),
    "latency_us__request_ack": latency(*range(1, 901))}
NOTHING = {
    "verdict": "incomplete", "clients": {"planned": 10, "started": 0, "bound": 0, "failed": 0},
    "success_rate_percent": 0.0, "dora_per_s": 0.0, "duration_s": 0.0, "interrupted": True,
    "messages__discover": {"sent": 0, "retransmitted": 0}, "messages__offer": {"received": 0},
    "messages__request": {"sent": 0, "retransmitted": 0}, "messages__ack": {"received": 0},
    **{f"latency_us__{name}": latency() for name in ("discover_offer", "request_ack", "dora",
                                                     "dora_from_intended")}}
MANY = 33_554_432
HUGE = {
    "verdict": "generator-bound", "clients": {"planned": MANY, "started": MANY, "bound": MANY - 1,
                                              "failed": 1},
    "success_rate_percent": 99.999, "dora_per_s": 129_345.6, "duration_s": 1234.5,
    "config__load": "open", "config__rate_per_s": 1_000_000.0, "missed_starts": MANY - 7,
    "losses__rx_ring": 12_345_678, "config__interface": "a-long-ifname15",
    "messages__discover": {"sent": MANY + 100_000_000, "retransmitted": 100_000_000},
    "messages__offer": {"received": MANY}, "messages__ack": {"received": MANY},
    "messages__request": {"sent": MANY, "retransmitted": 0},
    "latency_us__discover_offer": latency(999, 999_949, 3_600_000_000),
    "environment__cpu": "Some(R) Very Long Processor(TM) Name i9-99999K @ 9.99GHz"}
KINDS = {"pass": {}, "incomplete": INCOMPLETE, "nothing": NOTHING, "huge": HUGE}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("verdict", "label"), [
    ("pass", "PASS"), ("incomplete", "INCOMPLETE"), ("generator-bound", "GENERATOR-BOUND"),
    ("threshold", "THRESHOLD MISSED")])
def test_the_verdict_comes_first(verdict: str, label: str, width: int) -> None:
    first = text(document(verdict=verdict), width).splitlines()[0]
    assert first.split("  ")[0].strip() == label
    assert "1,000 of 1,000 bound (100 %)" in first


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut(kind: str, width: int) -> None:
    """No line is longer than the terminal, and no number ends in dots."""
    report = text(document(**KINDS[kind]), width)
    assert max(map(len, report.splitlines())) <= width
    assert "…" not in report


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
    # 1,090 sent, 990 of them answered; a second or late OFFER is no answer.
    assert rows["DISCOVER → OFFER"] == [
        "1,090", "995", "100", "90", "495us", "891us", "981us", "990us", "990us"]
    # 990 sent: 900 ACKs and 30 NAKs were answers, 60 never had one.
    assert rows["REQUEST → ACK"] == [
        "990", "911", "60", "0", "450us", "810us", "891us", "900us", "900us"]
    assert rows["whole exchange"][-5:] == ["1.20ms", "2.00ms", "2.18ms", "2.20ms", "2.20ms"]
    assert rows["from intended start"][-5:] == ["1.21ms", "2.00ms", "2.19ms", "2.20ms", "2.21ms"]


def test_titles_stand_over_their_numbers() -> None:
    lines = text(document()).splitlines()
    head = next(line for line in lines if "p99.9" in line)
    row = next(line for line in lines if line.startswith("DISCOVER"))
    for title, number in (("sent", "1,000"), ("p99.9", "1.10 ms")):
        assert head.index(title) + len(title) == row.index(number) + len(number)
    assert head.split() == ["sent", "received", "lost", "resent", "p50", "p90", "p99", "p99.9",
                            "max"]


def test_errors_by_name() -> None:
    said = words(document(**INCOMPLETE))
    assert ("errors discover timeout 10, request timeout 60, nak 30, malformed 3, late 11 "
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


@pytest.mark.parametrize(("changes", "reason"), [
    ({"verdict": "generator-bound", "losses__rx_ring": 20_757}, "receive ring lost 20,757 frames"),
    ({"verdict": "generator-bound", "missed_starts": 500},
     "began 500 of 1,000 exchanges over 10 ms late"),
    (INCOMPLETE, "100 exchanges did not complete"),
    (NOTHING, "no exchange was started"),
    ({"verdict": "incomplete", "interrupted": True, "clients__started": 400,
      "clients__bound": 390}, "interrupted with 600 clients not started"),
    ({"verdict": "incomplete", "interrupted": True, "clients__started": 400,
      "clients__bound": 390}, "10 exchanges did not complete")])
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    assert reason in words(document(**changes))


def test_a_pass_needs_no_reason() -> None:
    assert text(document()).splitlines()[1] == ""


def test_nothing_started() -> None:
    """No rate, no percentile, no success is made up."""
    report = text(document(**NOTHING))
    assert report.splitlines()[0].split() == ["INCOMPLETE", "0", "of", "0", "bound", "(0", "%)"]
    row = next(line for line in report.splitlines() if line.startswith("DISCOVER"))
    assert row.split()[3:] == ["0", "0", "0", "0", "-", "-", "-", "-", "-"]
    assert "DORA/s" not in report


def test_the_rate_and_its_time_agree() -> None:
    """1,000 at 2,000/s took half a second, however long the test waited for others."""
    assert "bound (100 %) in 500 ms · 2,000 DORA/s" in words(document())
    assert "took 3.81 s" in words(document())


@pytest.mark.parametrize(("changes", "said"), [
    ({}, "closed loop, 64 exchanges in flight, answers awaited for 5 s"),
    ({"config__timeout_s": 0.05}, "answers awaited for 0.05 s"),
    (HUGE, "open loop, 1,000,000 exchanges started per second"),
    ({"config__load": "open", "config__rate_per_s": 0.5}, "open loop, 0.5 exchanges started"),
    ({}, "ring engine on veth7, 41 % of one CPU busy, 0 starts missed"),
    ({}, "Model [R] X, 2 CPUs, Linux 6.18.1"),
    ({"config__interface": "[red]x"}, "ring engine on [red]x,"),
    (HUGE, "33,554,431 of 33,554,432 bound (99.999 %)"), (HUGE, "took 1,234 s")])
def test_facts(changes: dict[str, Any], said: str) -> None:
    assert said in words(document(**changes), 200)


@pytest.mark.parametrize(("busy", "load", "said"), [
    (95.0, "closed", True), (89.9, "closed", False), (95.0, "open", False)])
def test_a_busy_generator_says_so(busy: float, load: str, said: bool) -> None:
    report = words(document(generator__busy_percent=busy, config__load=load,
                            config__rate_per_s=1.0))
    assert ("the server may be faster" in report) is said


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
    print_report(document(**INCOMPLETE))
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
              "from tester.result import read_json; print_report(read_json(Path(sys.argv[1])))")
    done = subprocess.run([sys.executable, "-c", script, str(place)], capture_output=True,
                          env={"PYTHONIOENCODING": encoding}, timeout=20,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    arrow = "→" if encoding == "utf-8" else "?"
    assert f"DISCOVER {arrow} OFFER" in done.stdout.decode(encoding)


def snapshot(elapsed_s: float, bound: int) -> dict[str, Any]:
    return {"elapsed_s": elapsed_s, "planned": 1000, "started": bound + 64, "bound": bound,
            "failed": 3, "in_flight": 64, "latency_us": latency(*range(1, bound + 1)),
            "intervals": []}


@pytest.mark.parametrize(("before", "now", "rate"), [
    (None, snapshot(2.0, 400), "200 DORA/s"),
    (snapshot(2.0, 400), snapshot(2.5, 500), "200 DORA/s"),
    (None, snapshot(0.0, 0), "0 DORA/s"), (snapshot(2.0, 400), snapshot(2.0, 400), "0 DORA/s")])
def test_live_view(before: Any, now: dict[str, Any], rate: str) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(live_view(before, now))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for said in (rate, f"{now['bound']:,} of 1,000 bound", "64 in flight, 3 failed", "p99.9"):
        assert said in shown, shown
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    last_us = now["bound"]
    assert (f"max {last_us} us" if last_us else "p50 -  p90 -  p99 -  p99.9 -  max -") in shown
