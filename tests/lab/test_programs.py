"""Programs inside a node: readiness, output, ends, and that none outlives its lab.

The programs are small scripts, real processes under the real kernel: what is tested is the
handling. `test_run` has the true server and tester.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.machine import Machine, wait_until

pytestmark = pytest.mark.root

# Runs `Program` methods as the lab would, one line of JSON out at the end.
_DRIVER = """
import json, sys
from fastpath.errors import NetlabError
from netlab import lifecycle, plan, programs, state, topology
from netlab.programs import Place, Program

def place(node):
    return Place("netlab", node, f"netlab-{node}")

with state.locked("netlab", "lab test"):
    journal, _ = lifecycle.ensure_up(plan.make(topology.direct()), print)
    out = {}
    try:
        exec(sys.argv[1])
    except NetlabError as error:
        out["error"] = error.what
    finally:
        lifecycle.remove("netlab")
print(json.dumps(out))
"""
_NOTIFY = """
import os, socket
def notify(text):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(text.encode(),
                                                            os.environ["NOTIFY_SOCKET"])
"""


def drive(host: Machine, body: str) -> dict[str, Any]:
    said = host.run([sys.executable, "-c", _DRIVER, body])
    return dict(json.loads(said.stdout.splitlines()[-1]))


def program(script: str, notifies: bool = True) -> str:
    """Source of a `Program` that runs this Python script in node server."""
    command = [sys.executable, "-c", _NOTIFY + script]
    return (f"Program(place('server'), 'script', {command!r}, own_terminal=False, "
            f"notifies={notifies})")


def test_ready_when_it_says_so_and_stopped_by_sigterm(host: Machine) -> None:
    script = (
        "import signal, sys, json\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "print('net', os.readlink('/proc/self/ns/net'), sorted(os.listdir('/sys/class/net')))\n"
        "print('session', os.getsid(0) == os.getpid(), flush=True)\n"
        "notify('STATUS=soon')\nnotify('STATUS=now\\nREADY=1')\n"
        "signal.sigwait([signal.SIGTERM]); print('terminated'); sys.exit(3)\n")
    out = drive(host, f"""
p = {program(script)}
p.await_ready()
out["running"] = not p.ended
out["space"] = "net:[%d]" % __import__("os").stat("/run/netns/netlab-server").st_ino
out["rss"] = p.usage().rss_bytes_max
p.stop()
out["code"] = p.exit_code
out["log"] = state.directory("netlab").joinpath("logs/server-script.log").read_text()
""")
    assert out["running"] and out["code"] == 3 and out["rss"] > 1 << 20
    assert out["log"].splitlines() == [
        f"net {out['space']} ['eth0', 'lo']", "session True", "terminated"]


@pytest.mark.parametrize("script,error", [
    ("print('no such pool'); raise SystemExit(2)",
     "script in server ended with exit code 2 before it was ready\n  | no such pool"),
    ("os.kill(os.getpid(), 9)", "script in server ended with SIGKILL before it was ready"),
    ("print('busy', flush=True); import time; time.sleep(60)",
     "script in server was not ready after 1 s\n  | busy"),
    ("[print(i) for i in range(100)]; raise SystemExit(1)",
     "script in server ended with exit code 1 before it was ready\n"
     + "\n".join(f"  | {i}" for i in range(88, 100))),
])
def test_a_program_that_does_not_get_ready(host: Machine, script: str, error: str) -> None:
    out = drive(host, f"p = {program(script)}\ntry:\n    p.await_ready(timeout_s=1)\n"
                      "finally:\n    p.stop()")
    assert out["error"] == error


def test_one_that_ignores_sigterm_is_killed(host: Machine) -> None:
    script = ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); notify('READY=1')\n"
              "while True: signal.pause()\n")
    out = drive(host, f"p = {program(script)}\np.await_ready()\np.stop(0.1)\n"
                      "out['code'] = p.exit_code")
    assert out["code"] == 128 + signal.SIGKILL


def test_what_cannot_be_started_is_said(host: Machine) -> None:
    out = drive(host, "Program(place('server'), 'x', ['/no/such/x'], own_terminal=True)")
    assert out["error"] == "cannot start /no/such/x: No such file or directory"


def _names(pids: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def test_programs_die_with_the_lab(host: Machine) -> None:
    before = host.snapshot()
    body = f"""
p = {program("notify('READY=1')" + chr(10) + "while True: import time; time.sleep(9)")}
p.await_ready()
print("up", flush=True)
sys.stdin.read()
"""
    lab = host.popen([sys.executable, "-c", _DRIVER, body], stdin=subprocess.PIPE)
    assert lab.stdout and lab.stdout.readline() == "up\n"
    assert len(host.residents()) == 1
    lab.kill()
    lab.communicate()
    wait_until("the program died", lambda: not host.residents())
    host.lab("gc")  # a lab that is up stays
    host.lab("teardown")
    assert host.snapshot() == before


def test_children_of_programs_are_found_by_their_mark(host: Machine) -> None:
    """A daemon of two forks in a session of its own outlives a kill of the lab, not gc."""
    before = host.snapshot()
    body = f"""
from netlab.state import Phase, Started
state.move(journal, Phase.TESTING)
p = {program("os.fork() and notify('READY=1'); os.setsid() if os.getppid() != 1 else 0"
             + chr(10) + "while True: import time; time.sleep(9)", True)}
p.await_ready()
state.move(journal, Phase.TESTING, (Started("server", "script", p.process),))
print("up", flush=True)
sys.stdin.read()
"""
    lab = host.popen([sys.executable, "-c", _DRIVER, body], stdin=subprocess.PIPE)
    assert lab.stdout and lab.stdout.readline() == "up\n"
    assert len(host.residents()) == 2
    lab.kill()
    lab.communicate()
    wait_until("the parent died", lambda: len(host.residents()) == 1)
    assert "programs ended: 1" in host.lab("gc").stdout
    assert host.residents() == [] and host.snapshot() == before
