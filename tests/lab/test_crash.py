"""Killed at every step of setup and of teardown: one `lab gc`, and nothing is left.

A kill is a SIGKILL that the process sends itself at its n-th checkpoint (`netlab.checkpoint`);
one stands before every change to the machine. Each n gets a lab of its own: all of them die,
then one `gc` has to find them all and no other.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable

import pytest

from netlab.checkpoint import DIE_AT_ENV
from tests.lab.machine import Machine

pytestmark = pytest.mark.root

# Many labs in one process: what they are killed at is what is tested, not how they came.
_BUILD = """
import sys
from netlab import lifecycle, plan, state, topology
for name in sys.argv[1:]:
    with state.locked(name, "lab setup"):
        lifecycle.ensure_up(plan.make(topology.direct(), name), print)
"""
# `lab COMMAND --name k<n>` for n = 1, 2 ..., each a process of its own that kills itself at its
# n-th checkpoint, until one comes to its end. They are forked from a process that has imported
# everything; a fresh `lab` for each would spend most of its time on that.
_KILL_AT_EACH = """
import os, sys
from itertools import count
from netlab import checkpoint, cli, lifecycle
for n in count(1):
    if not (child := os.fork()):
        checkpoint._die_at = n
        sys.argv = ["lab", sys.argv[1], "--name", f"k{n}"]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -9:
        break
print("end", n, status)
"""


def kill_at_each(host: Machine, command: str) -> int:
    """Kill `lab COMMAND` at each of its checkpoints, on lab k1, k2 ...

    Returns how many times it was killed; lab k<that + 1> saw the command's good end.
    """
    said = host.run([sys.executable, "-c", _KILL_AT_EACH, command]).stdout.splitlines()[-1]
    word, n, status = said.split()
    assert (word, status) == ("end", "0")
    return int(n) - 1


def spaces(names: Iterable[str]) -> list[str]:
    """The namespaces of these labs."""
    return sorted(f"{name}-{node}" for name in names for node in ("client", "server", "switch"))


def test_setup_killed_at_every_step(host: Machine) -> None:
    before = host.snapshot()
    kills = kill_at_each(host, "setup")
    # Two for each journal entry, three for each namespace, one for each other step at least.
    assert kills >= 2 * 2 + 3 * 3 + 4
    assert len({name.partition("-")[0] for name in host.names()}) > kills / 2

    half = f"k{kills // 2}"
    assert f"{half}: left building by pid" in host.lab("setup", "--name", half).stderr
    assert host.status(f"k{kills}")["left_behind"]
    removed = {line.partition(":")[0] for line in host.lab("gc").stdout.splitlines()}
    assert removed <= {f"k{n}" for n in range(1, kills + 1)} - {half}

    standing = sorted([half, f"k{kills + 1}"])
    assert host.names() == spaces(standing)
    labs = json.loads(host.lab("status", "--json").stdout)["labs"]
    assert [(lab["name"], lab["phase"]) for lab in labs] == [(name, "up") for name in standing]
    host.lab("teardown", "--all")
    assert host.snapshot() == before


def test_teardown_killed_at_every_step(host: Machine) -> None:
    before = host.snapshot()
    names = [f"k{n}" for n in range(1, 31)]
    host.run([sys.executable, "-c", _BUILD, *names])
    kills = kill_at_each(host, "teardown")
    # Two for the journal, two for each namespace, two to forget it, one for the lock.
    assert 2 + 2 * 3 + 2 + 1 <= kills < len(names) - 1
    host.lab("gc")
    # Until the journal said `removing` nothing had begun: those two labs are whole, and up.
    whole = ["k1", "k2", *names[kills + 1:]]
    assert host.names() == spaces(whole)
    assert "nothing to do" in host.lab("setup", "--name", "k2").stdout
    host.lab("teardown", "--all")
    assert host.snapshot() == before


def test_teardown_after_a_kill_needs_no_gc(host: Machine) -> None:
    before = host.snapshot()
    for n in (3, 9, 17):
        host.lab("setup", env={DIE_AT_ENV: str(n)}, code=-signal.SIGKILL)
        host.lab("teardown", env={DIE_AT_ENV: "4"}, code=None)
        host.lab("teardown")
        assert host.snapshot() == before


DAMAGE: dict[str, Callable[[str], str]] = {
    "cut short": lambda text: text[:len(text) // 2],
    "empty": lambda text: "",
    "not JSON": lambda text: "\0\xff" * 40,
    "not ours": lambda text: '{"schema": "something/else"}',
    "a list": lambda text: "[]",
    "no owner": lambda text: json.dumps(json.loads(text) | {"owner": None}),
    "an unknown phase": lambda text: text.replace('"up"', '"flying"'),
}


@pytest.mark.parametrize("cure", ["gc", "teardown", "setup"])
def test_a_damaged_journal_is_named_and_what_it_spoke_of_is_found(host: Machine, cure: str) -> None:
    before = host.snapshot()
    host.run([sys.executable, "-c", _BUILD, *(f"d{n}" for n in range(len(DAMAGE)))])
    for n, damage in enumerate(DAMAGE.values()):
        path = host.root / f"run/dhcp-netlab/d{n}.json"
        path.write_text(damage(path.read_text()), encoding="latin-1")
    assert host.status("d0")["phase"] == "journal unreadable"
    refused = host.lab("exec", "client", "--name", "d0", "--", "true", code=1)
    assert "journal unreadable" in refused.stderr and "lab teardown" in refused.stderr
    if cure == "setup":
        assert "d0: journal unreadable" in host.lab("setup", "--name", "d0").stderr
        assert host.status("d0")["phase"] == "up"
    said = host.lab("teardown", "--all") if cure == "teardown" else host.lab("gc")
    assert said.stdout.count(": removed (") == len(DAMAGE) - (cure == "setup")
    if cure == "setup":
        host.lab("teardown", "--name", "d0")
    assert host.snapshot() == before


def test_a_lost_journal_is_no_loss(host: Machine) -> None:
    before = host.snapshot()
    host.lab("setup")
    (host.root / "run/dhcp-netlab/netlab.json").unlink()
    assert host.status("netlab")["phase"] == "no journal"
    assert "netlab: removed" in host.lab("gc").stdout
    assert host.snapshot() == before


def test_a_journal_of_another_boot_is_forgotten(host: Machine) -> None:
    before = host.snapshot()
    place = host.root / "run/dhcp-netlab"
    host.lab("setup")
    text = (place / "netlab.json").read_text()
    host.lab("teardown")
    place.mkdir()
    (place / "netlab.json").write_text(json.dumps(
        json.loads(text) | {"boot_id": "00000000-0000-0000-0000-000000000000"}))
    assert host.lab("status").stdout == "no lab is up\n"
    assert host.lab("exec", "client", "--", "true", code=2).stderr.startswith("lab: netlab: not up")
    host.lab("gc")
    assert host.snapshot() == before


def test_only_what_is_stamped_goes(host: Machine) -> None:
    """A journal names a namespace that somebody else has made since."""
    host.lab("setup")
    host.run(["ip", "netns", "del", "netlab-server"])
    host.run(["ip", "netns", "add", "netlab-server"])
    host.lab("teardown")
    assert host.names() == ["netlab-server"]
