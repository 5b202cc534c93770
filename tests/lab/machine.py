"""A machine for one test: its own "root" network namespace, its own /run, the real kernel.

What a lab would leave on the user's machine is left here instead, can be compared to the last
name because nobody else is at work here, and ends with the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from netlab.state import STATE_ENV

REPOSITORY = Path(__file__).resolve().parents[2]
# Ends when its standard input does, so it cannot outlive the test run.
_HOLDER = "mount -n -t tmpfs none /run && mkdir /run/test && echo ready && exec cat"


def wait_until(what: str, ready: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """What `ready()` returned once that was true; looked at every 5 ms."""
    deadline = time.monotonic() + timeout_s
    while not (value := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not seen in {timeout_s:g} s")
        time.sleep(0.005)
    return value


# Each order becomes a process of its own that steps into the machine and is `lab` from there
# on. It is forked from one that has imported everything, which a fresh `lab` spends nine tenths
# of its time on.
_SERVE = """
import json, os, sys, traceback
from netlab import checkpoint, cli, lifecycle, observe, run, series, syscalls
from netlab.commands import compare, life, test
for line in sys.stdin:
    order = json.loads(line)
    if not (child := os.fork()):
        code = 70
        try:
            for target, path in enumerate((os.devnull, order["out"], order["err"])):
                os.dup2(os.open(path, os.O_RDWR), target)
            spaces = [(os.open(f"/proc/{order['holder']}/ns/{kind}", os.O_RDONLY), flag)
                      for kind, flag in (("net", syscalls.CLONE_NEWNET),
                                         ("mnt", syscalls.CLONE_NEWNS))]
            for space in spaces:
                syscalls.setns(*space)
            os.environ.clear()
            os.environ.update(order["env"])
            checkpoint._die_at = int(os.environ.get(checkpoint.DIE_AT_ENV) or 0)
            sys.argv = ["lab", *order["words"]]
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    """The process that `lab` is forked from; it ends when its standard input does."""
    return subprocess.Popen([sys.executable, "-c", _SERVE], cwd=REPOSITORY, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def stop_server() -> None:
    """End that process, if it was ever started."""
    if _server.cache_info().currsize:
        _server().communicate()
        _server.cache_clear()


class Machine:
    """Runs commands on the machine that `holder` keeps."""

    def __init__(self, holder: int) -> None:
        self._holder = holder
        self._enter = ["nsenter", "-t", str(holder), "-n", "-m"]
        self.started: list[subprocess.Popen[str]] = []
        # Where both the machine and we can see: its /run is not ours.
        self.root = Path(f"/proc/{holder}/root")

    def popen(self, argv: Sequence[str], env: Mapping[str, str] | None = None,
              **options: Any) -> subprocess.Popen[str]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE, "text": True} | options
        self.started.append(subprocess.Popen([*self._enter, *argv], env=_environment(env),
                                             **options))
        return self.started[-1]

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, code: int | None = 0,
            ) -> subprocess.CompletedProcess[str]:
        """Run to the end; `code` is what it must exit with, None for whatever."""
        process = self.popen(argv, env)
        out, err = process.communicate(timeout=240)
        assert code in (None, process.returncode), (argv, process.returncode, out, err)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def lab(self, *words: str, env: Mapping[str, str] | None = None, code: int | None = 0,
            ) -> subprocess.CompletedProcess[str]:
        """Run `lab` to the end, as `run` does; nothing on its standard input."""
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            order = {"words": words, "env": _environment(env), "holder": self._holder,
                     "out": out.name, "err": err.name}
            server = _server()
            assert server.stdin and server.stdout
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            ended = int(server.stdout.readline())
            said = subprocess.CompletedProcess(words, ended, out.read(), err.read())
        assert code in (None, ended), said
        return said

    @staticmethod
    def lab_argv(*words: str) -> list[str]:
        """The command itself, as a user starts it: for `run` and `popen`."""
        return [sys.executable, "-m", "netlab.cli", *words]

    def status(self, name: str) -> dict[str, Any]:
        """What `lab status --json` says of one lab; raises if there is no such lab."""
        document = json.loads(self.lab("status", "--json", "--name", name).stdout)
        (found,) = document["labs"]
        return dict(found)

    def names(self) -> list[str]:
        """What stands in /run/netns."""
        place = self.root / "run/netns"
        return sorted(p.name for p in place.iterdir()) if place.is_dir() else []

    def residents(self) -> list[int]:
        """Processes in any network namespace that has a name on this machine."""
        inodes = {(self.root / "run/netns" / name).stat().st_ino for name in self.names()}
        found = []
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and (path / "ns/net").stat().st_ino in inodes:
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def snapshot(self) -> dict[str, Any]:
        """Everything a lab could leave: links, addresses, namespaces, files, mounts."""
        links = json.loads(self.run(["ip", "-j", "addr"]).stdout)
        mounts = self.run(["cat", "/proc/self/mounts"]).stdout.splitlines()
        return {
            "links": [(link["ifname"], link["flags"], link["addr_info"]) for link in links],
            "namespaces": self.names(),
            "residents": self.residents(),
            "files": sorted(str(p.relative_to(self.root)) for p in (self.root / "run").rglob("*")
                            if p.name != "netns"),
            # `ip netns` too leaves the directory's own mount; those below it are the names.
            "mounts": sorted(m for m in mounts if m.split()[1].startswith(("/run", "/sys"))
                             and not m.split()[1].startswith("/run/netns")),
        }


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop(STATE_ENV, None)
    return environment | dict(more or {})


@contextmanager
def machine() -> Iterator[Machine]:
    """A fresh machine; all that is left on it ends with the block."""
    holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", _HOLDER],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin and holder.stdout
    made = Machine(holder.pid)
    try:
        assert holder.stdout.readline() == "ready\n"
        yield made
        for process in made.started:
            assert process.poll() is not None, f"still running: {process.args!r}"
    finally:
        for process in made.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
