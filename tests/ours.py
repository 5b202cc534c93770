"""Our own programs in a namespace of tests.peers.net, started and read as a user would.

    with two_namespaces() as net, OurServer(net.server) as server:
        run = run_tester(net.client, "--clients", "200")
        assert run.code == 0 and run.document["clients"]["bound"] == 200
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.net import INTERFACE, RUN_NETNS, Namespace, wait_until

# First use compiles.
START_S = 120.0
POOL = ("--start-ip", "10.16.1.0", "--end-ip", "10.31.255.254")


_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """This thread, for a while, in a network namespace; sockets opened there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str | Path) -> None:
        where = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(where, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {path}")
        finally:
            os.close(where)

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(RUN_NETNS / namespace.name)
        yield
    finally:
        enter(f"/proc/self/fd/{home}")
        os.close(home)


def program(module: str) -> list[str]:
    """The command that runs one of our programs with the interpreter that runs the tests."""
    return [sys.executable, "-m", f"{module}.cli"]


@dataclass
class OurServer:
    """dhcp-server, from readiness to its summary; `stats` is there after the `with` block."""

    namespace: Namespace
    arguments: Sequence[str] = POOL
    interface: str = INTERFACE
    stats: dict[str, Any] = field(init=False, default_factory=dict)
    code: int | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dnt-server-")
        self._log = Path(self._folder.name, "log")
        self._stats = Path(self._folder.name, "stats.json")
        self.process = self.namespace.popen(
            [*program("server"), "--interface", self.interface, "--stats-json", str(self._stats),
             *self.arguments], log=self._log)
        wait_until("dhcp-server to serve", self._ready, START_S)
        return self

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"dhcp-server ended with {self.process.returncode}:\n{self.log}")
        return "serving" in self.log

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def stop(self, how: int = signal.SIGTERM) -> dict[str, Any]:
        """End the server and return what it counted."""
        if self.code is None:
            self.process.send_signal(how)
            self.code = self.process.wait(10)
            self.said = self.log
            self.stats = json.loads(self._stats.read_text()) if self._stats.exists() else {}
        return self.stats

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if value is not None:
            value.add_note(f"dhcp-server said:\n{self.log}")
        self.stop()
        self._folder.cleanup()


@dataclass
class Finished:
    """A finished dhcp-tester: exit code, its two outputs, its document, its list of clients."""

    code: int
    out: str
    err: str
    document: dict[str, Any]
    clients: list[dict[str, str]]


@dataclass
class OurTester:
    """dhcp-tester, started with its files in a folder of its own; `finish` reads them."""

    namespace: Namespace
    arguments: Sequence[str]
    interface: str = INTERFACE
    clients_csv: bool = True

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dnt-tester-")
        self._json = Path(self._folder.name, "result.json")
        self._csv = Path(self._folder.name, "clients.csv")
        self.process = self.namespace.popen(
            [*program("tester"), "--interface", self.interface, "--json", str(self._json),
             *(["--clients-csv", str(self._csv)] if self.clients_csv else []), *self.arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def finish(self, timeout_s: float = START_S) -> Finished:
        out, err = self.process.communicate(timeout=timeout_s)
        document = json.loads(self._json.read_text()) if self._json.exists() else {}
        with self._csv.open() if self._csv.exists() else open("/dev/null") as lines:
            clients = list(csv.DictReader(lines))
        return Finished(self.process.returncode, out, err, document, clients)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._folder.cleanup()


def run_tester(namespace: Namespace, *arguments: str, timeout_s: float = START_S) -> Finished:
    """Run dhcp-tester to its end."""
    with OurTester(namespace, arguments) as run:
        return run.finish(timeout_s)
