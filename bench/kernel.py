"""What counters in the kernel cost: one test, during which they come and go.

Single runs of a test differ by more than what is looked for; what passes just before and just
after counters are put on does not. Links of TCX (Linux 6.6) come and go without losing a frame.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from bench.figures import Figure
from fastpath.elsewhere import side_by_side
from netlab import state
from netlab.path.measure import PathCounters
from netlab.path.places import sample_for
from tests.peers.net import wait_until

_LAB = "bench-ebpf"
_COMMAND = [sys.executable, "-m", "netlab.cli"]
_SHAPES = {"direct": ["direct"], "relay": ["relay", "--hops", "1"]}
_WINDOW, _CLIENTS = 256, 1_000_000
_LEAST_PAIRS = 15
_MOST_PERCENT = 3
_SETTLE_S = 0.3
_COMPILE_S = 90.0


def ebpf_overhead(rounds: int, seconds: int) -> list[Figure]:
    """Spans of one test with counters and without, in turn; by so much the rate falls."""
    figures = []
    for shape, words in _SHAPES.items():
        figure = Figure(f"ebpf_overhead_{shape}", "%", f"by how much counters (lab test {shape} "
                        f"--ebpf) lower DORA/s, window {_WINDOW}", f"at most {_MOST_PERCENT}")
        pairs: list[dict[bool, float]] = []
        with _under_test(words) as journal:
            for number in range(max(rounds, _LEAST_PAIRS)):
                order = (True, False) if number % 2 else (False, True)
                pairs.append({counted: _dora_per_s(journal, counted, seconds)
                              for counted in order})
        figure.runs = [(1 - pair[True] / pair[False]) * 100 for pair in pairs]
        figure.more = {"window": _WINDOW, "plain_dora_per_s": [round(p[False]) for p in pairs],
                       "counted_dora_per_s": [round(p[True]) for p in pairs]}
        figures.append(figure)
    return figures


@contextmanager
def _under_test(words: list[str]) -> Iterator[state.Journal]:
    """A lab in which a test is under way, far longer than is needed."""
    with tempfile.TemporaryDirectory() as name:
        os.environ[state.STATE_ENV] = name
        _run("setup", *words, "--name", _LAB)
        process = subprocess.Popen(
            [*_COMMAND, "test", *words, "--name", _LAB, "--", "--clients", str(_CLIENTS),
             "--exchanges", "0", "--concurrency", str(_WINDOW), "--duration", "30m"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            journal = state.read(_LAB)
            assert journal is not None
            wait_until("a test under way", lambda: _passed(journal) > _CLIENTS // 100, _COMPILE_S)
            yield journal
            if process.poll() is not None:
                raise RuntimeError(f"the test ended with {process.returncode} before its time")
        finally:
            process.terminate()
            process.wait(60)
            _run("teardown", "--name", _LAB)
            del os.environ[state.STATE_ENV]


def _dora_per_s(journal: state.Journal, counted: bool, seconds: float) -> float:
    """What passes in so many seconds; RuntimeError where counters cannot be had."""
    counters = PathCounters(journal, sample_for(_CLIENTS)) if counted else nullcontext()
    if isinstance(counters, PathCounters) and counters.why:
        raise RuntimeError(f"no counters: {counters.why}")
    with counters:
        time.sleep(_SETTLE_S)
        began, before = time.monotonic(), _passed(journal)
        time.sleep(seconds)
        ended, after = time.monotonic(), _passed(journal)
    time.sleep(_SETTLE_S)
    return (after - before) / 2 / (ended - began)


def _passed(journal: state.Journal) -> int:
    """Frames that the client's interface has received: an offer and an acknowledgement each."""
    return side_by_side([(journal.namespace("client"), _received)])[0]


def _received() -> int:
    """Of eth0 in the namespace of the calling thread; proc(5), /proc/net/dev."""
    rows = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    found = {name.strip(): int(rest.split()[1])
             for name, _, rest in (row.partition(":") for row in rows)}
    return found["eth0"]


def _run(*words: str) -> None:
    done = subprocess.run([*_COMMAND, *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"lab {' '.join(words)}: {done.stderr}{done.stdout}")
