"""Killed at every step of setup, test and teardown: one `lab gc`, and nothing is left.

A kill is a SIGKILL that the process sends itself at its n-th checkpoint (`netlab.checkpoint`);
one stands before every change to the machine. Each n gets a lab of its own: all of them die,
then one `gc` has to find them all and no other.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from netlab.checkpoint import DIE_AT_ENV
from tests.lab.machine import Machine
from tests.lab.test_run import stand_ins

pytestmark = pytest.mark.root

# Many labs in one process: what they are killed at is what is tested, not how they came.
_BUILD = """
import sys
from netlab import lifecycle, plan, state, topology
for name in sys.argv[1:]:
    with state.locked(name, "lab setup"):
        lifecycle.ensure_up(plan.make(topology.direct(), name), print)
"""
# `lab COMMAND WORDS --name k<n>` for every n-th checkpoint from the first on, `step` apart, each a
# process of its own that kills itself there, until one comes to its end. They are forked from a
# process that has imported everything; a fresh `lab` for each would spend most of its time on that.
_KILL_AT_EACH = """
import os, sys
from itertools import count
from netlab import checkpoint, cli, lifecycle
step, command, *words = sys.argv[1:]
for n in count(1, int(step)):
    if not (child := os.fork()):
        checkpoint._die_at = n
        sys.argv = ["lab", command, "--name", f"k{n}", *words]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -9:
        break
print("end", n, status)
"""


def kill_at_each(host: Machine, *words: str, step: int = 1,
                 env: Mapping[str, str] | None = None) -> int:
    """Kill `lab WORDS` at each of its checkpoints, or every `step`-th, on lab k1, k2 ...

    Returns the last at which it was killed; lab k<that + step> saw the command's good end.
    """
    said = host.run([sys.executable, "-c", _KILL_AT_EACH, str(step), *words],
                    env).stdout.splitlines()[-1]
    word, n, status = said.split()
    assert (word, status) == ("end", "0")
    return int(n) - step


DIRECT = ("client", "server", "switch")
# Cables, forwarding nodes, routes.
RELAYS = ("client", "relay1", "relay2", "server")


def spaces(names: Iterable[str], nodes: Iterable[str] = DIRECT) -> list[str]:
    """The namespaces of these labs."""
    return sorted(f"{name}-{node}" for name in names for node in nodes)


# Two for each journal entry, three for each namespace, and for each node one to make its links
# and one to set them up, if it has any to make.
@pytest.mark.parametrize("words,nodes,steps", [
    ((), DIRECT, 2 * 2 + 3 * 3 + 1 + 3), (("relay", "--hops", "2"), RELAYS, 2 * 2 + 3 * 4 + 3 + 4),
])
def test_setup_killed_at_every_step(host: Machine, words: tuple[str, ...],
                                    nodes: tuple[str, ...], steps: int) -> None:
    before = host.snapshot()
    kills = kill_at_each(host, "setup", *words)
    assert kills >= steps
    assert len({name.partition("-")[0] for name in host.names()}) > kills / 2

    half = f"k{kills // 2}"
    assert f"{half}: left building by pid" in host.lab("setup", "--name", half, *words).stderr
    assert host.status(f"k{kills}")["left_behind"]
    removed = {line.partition(":")[0] for line in host.lab("gc").stdout.splitlines()}
    assert removed <= {f"k{n}" for n in range(1, kills + 1)} - {half}

    standing = sorted([half, f"k{kills + 1}"])
    assert host.names() == spaces(standing, nodes)
    labs = json.loads(host.lab("status", "--json").stdout)["labs"]
    assert [(lab["name"], lab["phase"]) for lab in labs] == [(name, "up") for name in standing]
    assert "nothing to do" in host.lab("setup", "--name", half, *words).stdout
    host.lab("teardown", "--all")
    assert host.snapshot() == before


@pytest.mark.parametrize("topology,step", [(("direct",), 1), (("relay", "--hops", "2"), 3)])
def test_a_test_killed_at_every_step(host: Machine, tmp_path: Path, topology: tuple[str, ...],
                                     step: int) -> None:
    """Programs that ran end with it, and all that was made for the test goes."""
    env = stand_ins(tmp_path, tester="sleep 0.01")
    shutil.copy(tmp_path / "dhcp-server", tmp_path / "dhcp-relay")
    before = host.snapshot()
    kills = kill_at_each(host, "test", *topology, "--", "--clients", "5", step=step, env=env)
    # Set up, a journal for each program and phase, and removed again: more than setup alone.
    assert kills > 30
    assert host.names() != []
    host.lab("gc")
    assert host.snapshot() == before


def test_a_test_killed_in_a_lab_that_was_up_leaves_nothing_half_way(host: Machine,
                                                                    tmp_path: Path) -> None:
    env = stand_ins(tmp_path, tester="sleep 0.01")
    before = host.snapshot()
    for n in (1, 3, 5, 8):
        host.lab("setup")
        host.lab("test", "--", "--clients", "5", env=env | {DIE_AT_ENV: str(n)},
                 code=-signal.SIGKILL)
        host.lab("gc")
        # Before its journal said `testing` nothing had begun, and the lab is whole.
        assert host.names() in ([], spaces(["netlab"]))
        host.lab("teardown")
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
    for n in (3, 9, 16):
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
