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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastpath.errors import Malformed
from fastpath.message import Message
from fastpath.packet import Frame, parse_mac
from fastpath.wire import BOOTREPLY, MessageType
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
    """dhcp-server, from readiness to its summary; `stats` is there after the `with` block.

    interface: "" to leave it to the server. environment: beside our own. user: whom it becomes.
    """

    namespace: Namespace
    arguments: Sequence[str] = POOL
    interface: str = INTERFACE
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    stats: dict[str, Any] = field(init=False, default_factory=dict)
    code: int | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dnt-server-")
        self._log = Path(self._folder.name, "log")
        self._stats = Path(self._folder.name, "stats.json")
        if self.user:
            shutil.chown(self._folder.name, self.user)
        self.process = self.namespace.popen(
            [*program("server"), *(["--interface", self.interface] if self.interface else []),
             *(["--user", self.user] if self.user else []), "--stats-json", str(self._stats),
             *self.arguments], log=self._log,
            env={**os.environ, **self.environment})
        try:
            wait_until("dhcp-server to serve", self._ready, START_S)
        except BaseException:
            self.kill()
            raise
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

    def kill(self) -> None:
        """kill -9, and nothing is read but the log."""
        self.process.kill()
        self.code = self.process.wait()
        self.said = self.log

    def dump(self) -> dict[str, Any]:
        """What it has counted so far, by SIGUSR1."""
        said = self.log.count("statistics")
        self.process.send_signal(signal.SIGUSR1)
        # The file is written after the line is.
        before = self._stats.stat().st_mtime_ns if self._stats.exists() else 0
        wait_until("statistics", lambda: self.log.count("statistics") > said
                   and self._stats.exists() and self._stats.stat().st_mtime_ns > before)
        return dict(json.loads(self._stats.read_text()))

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


class Talker:
    """Says single messages, made by hand, on an interface of a namespace; a context manager."""

    def __init__(self, namespace: Namespace, interface: str = INTERFACE) -> None:
        with entered(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.bind((interface, 0x0800))
        self._xid = 0x51000000

    def send(self, payload: bytes, **fields: Any) -> None:
        """fields: of the Frame."""
        self.send_raw(Frame(payload=payload, **fields).encode())

    def send_raw(self, frame: bytes) -> None:
        self._socket.send(frame)

    def ask(self, kind: str, chaddr: str, timeout_s: float = 2.0, ciaddr: str = "0.0.0.0",
            **options: Any) -> Message | None:
        """Broadcast a message, once, and return the answer to it, if one comes in time."""
        self._xid += 1
        message = Message(xid=self._xid, chaddr=parse_mac(chaddr), ciaddr=IPv4Address(ciaddr))
        message.set("message-type", MessageType[kind.upper()])
        message.set("parameter-request-list", [1, 3, 6, 15, 51])
        for name, value in options.items():
            message.set(name.replace("_", "-"), value)
        self.send(message.encode(), src_mac=message.chaddr)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(Malformed, TimeoutError):
                frame = Frame.decode(self._socket.recv(2048), checksum_ready=False)
                answer = Message.decode(frame.payload)
                if answer.op == BOOTREPLY and answer.xid == self._xid:
                    return answer
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
