"""The live panel: another process draws, and nothing it does or suffers holds up the program.

Each test is a small program of its own, because a panel forks.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 15.0
HEAD = """
import os, signal, sys, time
from fastpath.panel import Panel

def view(before, now):
    from rich.text import Text
    return Text(f"picture {before and before['n']} then {now['n']}")
"""


@contextlib.contextmanager
def running(body: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A program with a panel; what is left of it is killed at the end."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HEAD + body], cwd=ROOT, text=True,
                          **pipes | more) as process:
        try:
            yield process
        finally:
            process.kill()


def output(body: str) -> str:
    """What such a program writes; it must end well."""
    with running(body) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    return out


def ended(pid: int) -> bool:
    """True when the process is gone, or waits only for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_every_picture_where_there_is_no_terminal() -> None:
    """Each once, in order, with the one before it; closing waits for the last."""
    out = output("""
print("begin")
with Panel(view, True) as panel:
    for n in (1, 2, 3):
        panel.show({"n": n})
print("end")
""")
    assert out.splitlines() == ["begin", "picture None then 1", "picture 1 then 2",
                                "picture 2 then 3", "end"]


def test_a_terminal_keeps_the_last_picture() -> None:
    master, slave = pty.openpty()
    body = """
with Panel(view, True) as panel:
    for n in range(1, 6):
        panel.show({"n": n})
"""
    with running(body, stdout=slave, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(slave)
        shown = b""
        # The last reader of a pseudo-terminal gets EIO once nobody can write any more.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 4096):
                shown += piece
        os.close(master)
        assert process.wait(PATIENCE_S) == 0
    # Each picture goes over the one before it: the line is erased in between (CSI 2 K).
    assert b"picture 4 then 5" in shown and b"\x1b[2K" in shown
    assert shown.rpartition(b"\x1b[2K")[2].strip().startswith(b"picture 4 then 5")


def test_not_wanted_means_nothing_at_all() -> None:
    assert output("""
with Panel(view, False) as panel:
    assert not panel.due()
    panel.show({"n": 1})
    try:
        os.waitpid(-1, os.WNOHANG)
        print("a child")
    except ChildProcessError:
        print("no child")
panel.close()
""") == "no child\n"


def test_due() -> None:
    """At once, then once in a period; a second close is harmless."""
    assert output("""
from fastpath import panel as module
module.PLAIN_PERIOD_S = 0.2
panel = Panel(view, True)
assert panel.due()
panel.show({"n": 1})
assert not panel.due()
time.sleep(0.25)
assert panel.due()
panel.close()
assert not panel.due()
panel.show({"n": 2})
panel.close()
""") == "picture None then 1\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_program_however_that_ends(number: signal.Signals) -> None:
    with running("""
panel = Panel(view, True)
panel.show({"n": 1})
print(panel._child, file=sys.stderr, flush=True)
time.sleep(60)
""") as process:
        assert process.stderr and process.stdout
        child = int(process.stderr.readline())
        assert process.stdout.readline() == "picture None then 1\n" and not ended(child)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
        assert eventually(lambda: ended(child))


def test_signals_are_for_the_program() -> None:
    """Ctrl-C reaches both; only the program decides what it means."""
    assert output("""
signal.signal(signal.SIGINT, lambda *_: print("asked to stop", flush=True))
panel = Panel(view, True)
panel.show({"n": 1})
time.sleep(0.3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    os.kill(panel._child, number)
panel.show({"n": 2})
panel.close()
""").splitlines() == ["picture None then 1", "picture 1 then 2"]


def test_a_full_pipe_does_not_block() -> None:
    """Snapshots are dropped while the drawer is busy; afterwards they are drawn again."""
    lines = output("""
panel = Panel(view, True)
panel.show({"n": 0})
time.sleep(0.3)
os.kill(panel._child, signal.SIGSTOP)
began = time.monotonic()
for n in range(1, 2001):
    panel.show({"n": n, "much": "x" * 5000})
print("took", time.monotonic() - began, file=sys.stdout, flush=True)
os.kill(panel._child, signal.SIGCONT)
deadline = time.monotonic() + 10
while panel.show({"n": n + 1}) or time.monotonic() < deadline:
    n += 1
    time.sleep(0.001)
    if n > 2300:
        break
panel.close()
""").splitlines()
    took = next(line for line in lines if line.startswith("took"))
    assert float(took.split()[1]) < 5
    numbers = [int(line.split()[-1]) for line in lines if line.startswith("picture")]
    assert numbers == sorted(set(numbers)) and numbers[0] == 0
    # About 64 KiB were taken of 10 MB, and what came when there was room again.
    assert 5 < len([n for n in numbers if 0 < n <= 2000]) < 100 and numbers[-1] > 2000


def test_a_view_that_fails_ends_the_drawing_only() -> None:
    assert output("""
def view(before, now):
    raise ZeroDivisionError
panel = Panel(view, True)
for n in range(3):
    panel.show({"n": n})
    time.sleep(0.2)
panel.close()
print("went on")
""") == "went on\n"


def test_where_nobody_reads_the_output_the_program_does_not_run_twice(tmp_path: Path) -> None:
    """rich ends a process whose output is a broken pipe: that must be the drawer only."""
    trace = tmp_path / "trace"
    body = f"""
def leave(word):
    with open({str(trace)!r}, "a") as out:
        print(word, "program" if os.getpid() == program else "drawer", file=out)
import atexit
program = os.getpid()
atexit.register(leave, "left")
sys.stdin.readline()
try:
    panel = Panel(view, True)
    panel.show({{"n": 1}})
    time.sleep(0.5)
    panel.close()
finally:
    leave("cleaned up")
sys.stdout = None
"""
    with running(body, stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.flush()
        process.wait(PATIENCE_S)
        assert process.stderr.read() == ""
    assert trace.read_text().splitlines() == ["cleaned up program", "left program"]
