"""One test from beginning to end, on a ring in memory.

The ring answers within the kick, as the fastest server there is; its frames carry stamps of
the wall clock as the kernel's do. Time is made up too, but for the first test: each look at the
clock takes LOOK_NS, and sleeping takes what it is told, so that a busy machine changes nothing.
"""

from __future__ import annotations

import re
import select
import signal
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from fastpath.clock import Clock
from fastpath.histogram import Histogram
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from tester import cells
from tester.behaviour import Behaviour
from tester.engine import turn
from tester.measuring import Intervals, Outcome
from tester.run import Runner, touch
from tests.invariants import check_invariants
from tests.kernels import COMPILED
from tests.simulated import (
    START_NS,
    US,
    WALL_NS,
    Network,
    Sent,
    address_of,
    check_counts,
    config,
    framed,
    reply,
)

TURNS_MAX = 100_000
OFFER_UNKNOWN = cells.CLASS + cells.OFFERS * cells.CLASSES + cells.UNKNOWN
LOOK_NS = 20_000 if COMPILED else 60_000


class MadeUp(Clock):
    """A clock that nobody else moves."""

    def __init__(self) -> None:
        self.at_ns = START_NS
        super().__init__(self.look, lambda: self.at_ns + WALL_NS)

    def look(self) -> int:
        self.at_ns += LOOK_NS
        return self.at_ns

    def _sample(self) -> tuple[int, int]:
        return WALL_NS, 1


class Loop:
    """A Ring whose other end answers what `answers` says, and its Stop."""

    def __init__(self, network: Network, answers: Callable[[Sent], str], clock: Clock) -> None:
        self.network, self.answers, self.clock = network, answers, clock
        self.rx, self.tx = network.rx, network.tx
        self.stop = Stop()
        self.seen = 0
        self.kicks = self.waits = self.woken = 0
        self.on_kick: Callable[[], None] = lambda: None

    def put(self, octets: bytes) -> None:
        real_ns = self.clock.now_ns() + self.clock.offset_ns()
        self.network.put(octets, (real_ns - WALL_NS - START_NS) / US)

    def pull(self) -> None:
        """A ring is filled by the kernel."""

    def kick(self) -> None:
        self.kicks += 1
        self.network.take()
        for sent in self.network.sent[self.seen:]:
            if kind := self.answers(sent):
                self.put(framed(reply(sent.message, kind, address_of(sent.row))))
        self.seen = len(self.network.sent)
        self.on_kick()

    def wait(self, timeout_s: float, also: int) -> None:
        assert timeout_s > 0 and also == self.stop.fd
        self.waits += 1
        assert self.waits < TURNS_MAX, "the run does not end"
        if select.select([also], [], [], 0)[0]:
            self.woken += 1
        elif isinstance(self.clock, MadeUp):
            self.clock.at_ns += int(timeout_s * 1e9)
        else:
            time.sleep(timeout_s)


def willing(sent: Sent) -> str:
    return {"DISCOVER": "OFFER", "REQUEST": "ACK", "INFORM": "ACK"}.get(sent.kind, "")


def silent(sent: Sent) -> str:
    return ""


def run(settings: Any, answers: Callable[[Sent], str] = willing, *, progress: bool = False,
        prepare: Callable[[Loop], None] = lambda loop: None, clock: Clock | None = None,
        shown: list[dict[str, Any]] | None = None) -> tuple[Loop, Outcome]:
    """Run a test to its end. shown: takes what a panel would be given to show."""
    clock = clock or MadeUp()
    loop = Loop(Network(settings, rx_slots=1024, tx_slots=1024), answers, clock)
    now = clock.now_ns()
    loop.network.test.plan[cells.P_BASE_NS] = now - now % cells.TICK_NS
    touch(loop.network.test)
    with (loop.stop as stop, Panel(lambda before, now: "", False) as panel,
          pytest.MonkeyPatch.context() as patch):
        patch.setattr("tester.run.Clock", lambda: clock)
        if shown is not None:
            patch.setattr(panel, "due", lambda: True)
            patch.setattr(panel, "show", shown.append)
        prepare(loop)
        outcome = Runner(settings, loop.network.test, cast(Ring, loop), stop, progress=progress,
                         panel=panel).run()
    return loop, outcome


def test_everybody_is_served() -> None:
    """With the real clocks: stamps come out on our own scale, at the time of the kick."""
    loop, outcome = run(config(100, window=8, timeout_s=5.0), clock=Clock())
    check_counts(loop.network, discover=100, offer=100, request=100, ack=100, started=100,
                 completed=100, bound=100, clients_bound=100)
    assert not outcome.interrupted and outcome.clock_steps == 0
    assert 0 < outcome.duration_s < 5 and 0 < outcome.busy_share <= 1
    # A batch of answers costs one kick: far fewer than messages.
    assert loop.kicks <= 100
    assert sum(row["bound"] for row in outcome.intervals) == 100
    latency = Histogram(loop.network.test.histograms[cells.H_LEG])
    assert latency.count == 100 and latency.max_us < outcome.duration_s * 1e6


def test_silence_ends_with_the_timeouts() -> None:
    loop, outcome = run(config(3, timeout_s=0.05, discover_tries=2), silent)
    check_counts(loop.network, discover=6, discover_again=3, started=3, failed=3,
                 discover_timeout=3,
                 discover_lost=3)
    assert outcome.duration_s == pytest.approx(0.1, abs=0.003)
    # It slept meanwhile.
    assert loop.waits and 0 < outcome.busy_share < 0.1


def test_nothing_to_do_takes_no_time() -> None:
    """Stopped before the first turn: no exchange, and no time counted from nowhere."""
    def prepare(loop: Loop) -> None:
        loop.network.stop()

    loop, outcome = run(config(3), prepare=prepare)
    check_counts(loop.network)
    assert 0 <= outcome.duration_s < 0.001


def test_duration_in_a_closed_loop() -> None:
    """Nothing is started after it, and what was begun is finished."""
    loop, outcome = run(config(50_000, window=2, timeout_s=5.0, duration_s=0.13))
    test = loop.network.test
    started = int(test.counts[cells.STARTED])
    assert 0 < started < 50_000 and test.counts[cells.N_BOUND] == started
    # Not to the next tick of a tenth of a second.
    assert test.clients.started_ns.max() - START_NS == pytest.approx(0.13e9, abs=1e6)
    assert outcome.duration_s == pytest.approx(0.13, abs=0.001)
    assert not outcome.interrupted


def test_open_loop_follows_its_plan() -> None:
    clients, rate = 60, 300.0
    loop, _ = run(config(clients, rate_per_s=rate, timeout_s=5.0))
    check_counts(loop.network, discover=clients, offer=clients, request=clients, ack=clients,
                 started=clients, completed=clients, bound=clients, clients_bound=clients)
    table = loop.network.test.clients
    wanted = table.intended_ns[0] + (np.arange(clients) / rate * 1e9).astype(np.int64)
    assert table.intended_ns.tolist() == wanted.tolist()
    late = table.started_ns - wanted
    assert late.min() > 0 and late.max() <= 5 * LOOK_NS
    # It sleeps between starts.
    assert loop.waits >= clients // 2


def test_a_slow_server_slows_no_open_loop() -> None:
    loop, outcome = run(config(20, rate_per_s=200.0, timeout_s=0.3), silent)
    check_counts(loop.network, discover=20, started=20, failed=20, discover_timeout=20,
                 discover_lost=20)
    # The last start and one timeout: all were in flight at once.
    assert outcome.duration_s == pytest.approx(19 / 200 + 0.3, abs=0.002)


def test_a_late_generator_says_so() -> None:
    """Stalled for 0.1 s, it makes up for what it missed, and counts it."""
    def prepare(loop: Loop) -> None:
        def stall() -> None:
            if loop.kicks == 3 and isinstance(loop.clock, MadeUp):
                loop.clock.at_ns += 100_000_000

        loop.on_kick = stall

    loop, _ = run(config(40, rate_per_s=200.0, timeout_s=5.0), prepare=prepare)
    # 0.1 s of starts, but for those of the last 10 ms.
    check_counts(loop.network, discover=40, offer=40, request=40, ack=40, started=40, completed=40,
                 bound=40, clients_bound=40, missed=18)


def interrupting(times: int, after_kicks: int = 1) -> Callable[[Loop], None]:
    """Ctrl-C, so often, when the ring was kicked so many times."""
    def prepare(loop: Loop) -> None:
        def kicked() -> None:
            if loop.kicks == after_kicks:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        loop.on_kick = kicked

    return prepare


def test_asked_to_stop_it_finishes_what_it_began() -> None:
    def answers(sent: Sent) -> str:
        return willing(sent) if sent.row >= 3 else ""

    loop, outcome = run(config(100_000, window=10, timeout_s=0.5), answers,
                        prepare=interrupting(1, after_kicks=5))
    counts = loop.network.test.counts
    assert outcome.interrupted
    assert 10 <= counts[cells.STARTED] < 100_000 and counts[cells.IN_FLIGHT] == 0
    # The three that nobody answered were waited for.
    assert counts[cells.FAILED] == counts[cells.DISCOVER_TIMEOUT] == 3
    assert outcome.duration_s == pytest.approx(0.5, abs=0.002)
    # Once it has listened, it sleeps again: it looks at requests every tenth of a second.
    assert loop.woken * LOOK_NS < 0.1e9


def test_asked_twice_it_waits_for_nobody() -> None:
    loop, outcome = run(config(10, timeout_s=600.0), silent, prepare=interrupting(2))
    check_counts(loop.network, discover=10, started=10, in_flight=10)
    assert outcome.interrupted and outcome.duration_s < 0.01


@pytest.mark.parametrize("asked", [0, 2])
def test_strangers_do_not_keep_it_from_ending(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a segment with a storm of others' answers every turn reads something."""
    real = turn
    strange: list[bytes] = []
    turns: list[int] = []

    def prepare(loop: Loop) -> None:
        if asked:
            interrupting(asked)(loop)

        def noisy(*args: Any) -> Any:
            turns.append(1)
            assert len(turns) < TURNS_MAX // 5, "the run does not end"
            if loop.network.sent and not strange:
                message = reply(loop.network.sent[0].message, "OFFER", address_of(0))
                message.chaddr = b"\x06strng"
                strange.append(framed(message))
            if strange and loop.network.room():
                loop.put(strange[0])
            return real(*args)

        monkeypatch.setattr("tester.run.turn", noisy)

    loop, outcome = run(config(2, timeout_s=600.0 if asked else 0.05), silent, prepare=prepare)
    counts = loop.network.test.counts
    assert counts[OFFER_UNKNOWN] > 0
    assert counts[cells.DISCOVER_TIMEOUT] == (0 if asked else 2)
    assert outcome.interrupted == bool(asked)


def test_intervals_add_up() -> None:
    """Each holds what happened in it alone, its latency too."""
    network = Network(config())
    counts, interval = network.test.counts, network.test.histograms[cells.H_INTERVAL]
    rows = Intervals()
    for latencies_us in (range(1, 101), (), (900,) * 5):
        bound = len(latencies_us)
        counts[cells.STARTED] += bound + 1
        counts[cells.N_BOUND] += bound
        counts[cells.FAILED] += 1
        for latency_us in latencies_us:
            Histogram(interval).record(latency_us)
        rows.close(network.test, len(rows.rows) + 1.00049)
    rest = {"renewed": 0, "in_flight": 0}
    assert rows.rows == [
        {"t_s": 1.0, "started": 101, "bound": 100, "failed": 1, "dora_p50_us": 50,
         "dora_p99_us": 99} | rest,
        {"t_s": 2.0, "started": 1, "bound": 0, "failed": 1, "dora_p50_us": 0, "dora_p99_us": 0}
        | rest,
        {"t_s": 3.0, "started": 6, "bound": 5, "failed": 1, "dora_p50_us": 900,
         "dora_p99_us": 900} | rest]


def test_one_interval_a_second() -> None:
    loop, outcome = run(config(26, rate_per_s=9.3, timeout_s=5.0))
    assert [row["t_s"] for row in outcome.intervals] == pytest.approx([1.0, 2.0, 25 / 9.3],
                                                                      abs=0.002)
    assert [row["started"] for row in outcome.intervals] == [10, 9, 7]
    for name, cell in (("started", cells.STARTED), ("bound", cells.N_BOUND),
                       ("failed", cells.FAILED)):
        assert sum(row[name] for row in outcome.intervals) == loop.network.test.counts[cell]


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    run(config(5, timeout_s=5.0), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"dhcp-tester: +\d+\.\d s  5 of 5 completed \(100\.0 %\), 0 failed, "
                        r"[\d,]+ DORA/s\n", err)


def test_progress_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    run(config(26, rate_per_s=9.3, timeout_s=5.0), progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [" ".join(line.split()[1:8]) for line in lines] == [
        "1.0 s 10 of 26 completed (38.5", "2.0 s 19 of 26 completed (73.1",
        "2.7 s 26 of 26 completed (100.0"]
    assert [line.split()[-2] for line in lines] == ["10", "9", "10"]


def test_snapshots_for_the_panel() -> None:
    """Ten times a second at most, each a state of the test that its view can show."""
    shown: list[dict[str, Any]] = []
    run(config(26, rate_per_s=9.3, timeout_s=5.0), shown=shown)
    assert [s["elapsed_s"] for s in shown] == pytest.approx([i / 10 for i in range(27)], abs=0.01)
    for snapshot in shown:
        assert (snapshot["planned"], snapshot["failed"]) == (26, 0)
        assert snapshot["started"] == snapshot["bound"] + snapshot["in_flight"]
        assert snapshot["latency_us"]["count"] == snapshot["bound"]
        assert len(snapshot["intervals"]) == int(snapshot["elapsed_s"] + 1e-3)
    assert shown[-1]["bound"] == 25


def test_bound_clients_renew_at_a_rate_until_told_to_stop() -> None:
    """Nothing is before them but that rate: the test goes on for its duration all the same."""
    loop, outcome = run(config(4, timeout_s=1.0, renew_rate=100.0, duration_s=0.5))
    counts = loop.network.test.counts
    renewed = counts[cells.PHASE + cells.M_RENEW * cells.PHASE_SIZE + cells.ANSWERED]
    assert outcome.duration_s == pytest.approx(0.5, abs=0.01)
    assert renewed + counts[cells.NOBODY_TO_RENEW] == pytest.approx(50, abs=2)
    assert renewed > 40


def test_drain_does_not_cut_lives_short() -> None:
    """Patience is for answers that stay away, not for clients who hold and renew their leases."""
    life = Behaviour("release", hold_s=2.0, ending=cells.E_RELEASE, lives=2, return_s=0.2)
    loop, _ = run(config(2, timeout_s=1.0, drain_s=0.1, lives=life))
    counts = loop.network.test.counts
    assert counts[cells.PHASE + cells.M_RELEASE * cells.PHASE_SIZE + cells.LEGS] == 4
    assert counts[cells.COMPLETED] == 4


def test_drain_ends_waiting() -> None:
    loop, outcome = run(config(3, timeout_s=600.0, drain_s=0.2), silent)
    assert loop.network.test.counts[cells.IN_FLIGHT] == 3
    assert outcome.duration_s == pytest.approx(0.2, abs=0.01)


def test_too_many_drops_end_it() -> None:
    loop, outcome = run(config(1000, window=10, timeout_s=0.01, max_drop=15), silent)
    assert "--max-drop" in outcome.stopped
    assert 15 < loop.network.test.counts[cells.FAILED] < 1000


def test_preload_is_not_measured() -> None:
    loop, outcome = run(config(30, window=3, timeout_s=5.0, preload=20))
    counts = loop.network.test.counts
    assert (counts[cells.STARTED], counts[cells.N_BOUND], counts[cells.BEGUN]) == (10, 10, 30)
    assert sum(row["bound"] for row in outcome.intervals) == 10
    check_invariants(loop.network.test, measured_from_start=False)


def test_warm_up_is_not_measured() -> None:
    """What is in flight when measuring begins counts as started then, its message too."""
    def answers(sent: Sent) -> str:
        return willing(sent) if sent.row % 7 else ""

    loop, _ = run(config(200, rate_per_s=100.0, timeout_s=0.05, warm_up_s=1.0), answers)
    test = loop.network.test
    assert 90 <= test.counts[cells.STARTED] <= 110
    assert test.counts[cells.BEGUN] == 200
    check_invariants(test, measured_from_start=False)


def test_touch_leaves_no_trace() -> None:
    """Compiling before time zero starts no client and counts nothing."""
    network = Network(config(4))
    before = [np.array(column) for part in (network.test.clients, network.test.wheel)
              for column in part]
    plan = network.test.plan.copy()
    touch(network.test)
    after = [column for part in (network.test.clients, network.test.wheel) for column in part]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not network.test.counts.any() and not network.test.histograms.any()
    assert np.array_equal(network.test.plan, plan)
