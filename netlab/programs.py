"""Run a program inside a node, as a child that cannot outlive the lab.

It lives in a session of its own: Ctrl-C at the terminal reaches the lab alone, which passes
it on to whom it concerns. When the lab dies, the kernel kills the child. Ready is when the
program says so (sd_notify(3)), seen on a socket, never slept for.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from netlab import processes, state, syscalls
from netlab.enter import enter, open_namespace
from netlab.processes import GRACE_S, Process

# Where the programs of a lab are looked for before anywhere else.
BIN_ENV = "DHCP_NETLAB_BIN"
# The first use of a program compiles its kernels, and several may do so at once.
READY_TIMEOUT_S = 180.0
# How often one that does not say when it is ready is looked at.
_LOOK_S = 0.01
_TAIL_LINES = 12
_MAX_SOCKET_PATH = 107  # unix(7): sun_path, with its closing zero


@dataclass(frozen=True, slots=True)
class Place:
    """A node as a program sees it: its lab, its name and the namespace it is."""

    lab: str
    node: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program has used so far, with the children it waited for."""

    cpu_s: float
    rss_bytes_max: int


def find(program: str, package: str) -> Path:
    """Where `program` is: $DHCP_NETLAB_BIN, beside this Python, then PATH.

    package: what to install when it is nowhere (SystemRefused).
    """
    beside = (os.environ.get(BIN_ENV), str(Path(sys.executable).parent))
    for place in beside:
        if place and os.access(Path(place) / program, os.X_OK):
            return Path(place) / program
    if found := shutil.which(program):
        return Path(found)
    raise SystemRefused(f"no program {program!r}", f"install {package}")


class Program:
    """One running program. `name` is what it is called in messages, in the log and journal."""

    def __init__(self, place: Place, name: str, command: Sequence[str], *, own_terminal: bool,
                 notifies: bool = False, environment: Mapping[str, str] | None = None) -> None:
        """Start `command` inside the node.

        own_terminal: its standard streams are ours; otherwise they go to a log of its own.
        notifies: it will say READY=1. environment: variables beyond ours. Raises SystemRefused
        when it cannot be started.
        """
        self.place, self.name = place, name
        self._log = None if own_terminal else _log_path(place, name)
        self._notify = _notify_socket(place, name) if notifies else None
        try:
            self._child = _spawn(place, command, self._log, self._notify, environment or {})
        except OSError as error:
            self._close()
            raise SystemRefused(f"cannot start {command[0]}: {error.strerror}", "") from error
        self.process: Process = processes.identify(self._child.pid)
        self._pidfd = os.pidfd_open(self._child.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_ready(self, ready: Callable[[], bool] | None = None,
                    timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it says READY=1, or until `ready()` is true where it never says so.

        Raises SystemRefused with the end of its log when it ends or stays away.
        """
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._notify is None:
                if ready is None or ready():
                    return
                left_s = _LOOK_S
            listening: list[Any] = [self._notify, self._pidfd] if self._notify else [self._pidfd]
            heard, _, _ = select.select(listening, [], [], left_s)
            if self._notify in heard and self._said_ready():
                return
            if self._pidfd in heard and self._notify not in heard:
                raise SystemRefused(self._with_log(
                    f"{self.name} in {self.place.node} ended with {self.wait()} before it was "
                    "ready"), "")
        raise SystemRefused(self._with_log(
            f"{self.name} in {self.place.node} was not ready after {timeout_s:g} s"), "")

    def _said_ready(self) -> bool:
        """Read one datagram, which may carry several assignments, one a line."""
        assert self._notify is not None
        said = self._notify.recv(4096).decode(errors="replace").splitlines()
        self._show_status(said)
        return "READY=1" in said

    def _show_status(self, said: list[str]) -> None:
        """Pass on what the program says of its start: STATUS= of sd_notify(3).

        On a terminal one line that the next one replaces, and that READY=1 clears.
        """
        for status in (line[7:] for line in said if line.startswith("STATUS=")):
            text = f"{self.name}: {status}" if status else ""
            if sys.stderr.isatty():
                print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def fileno(self) -> int:
        """For poll: readable once the program has ended."""
        return self._pidfd

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    def wait(self) -> str:
        """Wait for its end; how it ended, in words."""
        code = self._child.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    @property
    def exit_code(self) -> int:
        """What a shell would say, after its end: 128 and the signal's number if it was killed."""
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def usage(self) -> Usage:
        """CPU and memory until now; zeros after its end."""
        return Usage(processes.cpu_s(self.process.pid), processes.rss_bytes_max(self.process.pid))

    def stop(self, grace_s: float = GRACE_S) -> None:
        """SIGTERM, wait, SIGKILL after `grace_s`. Harmless to repeat."""
        if not self.ended:
            self.send(signal.SIGTERM)
            try:
                self._child.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.send(signal.SIGKILL)
                self._child.wait()
        self._close()

    def tail(self) -> str:
        """The last lines of its log, marked as such; empty when there are none."""
        if self._log is None:
            return ""
        lines = self._log.read_text(errors="replace").rstrip().splitlines()
        return "".join(f"\n  | {line}" for line in lines[-_TAIL_LINES:])

    def _with_log(self, what: str) -> str:
        return what + self.tail()

    def _close(self) -> None:
        if self._notify is not None:
            self._notify.close()
        if (pidfd := getattr(self, "_pidfd", None)) is not None:
            os.close(pidfd)
            del self._pidfd


def _log_path(place: Place, name: str) -> Path:
    path = state.directory(place.lab) / "logs" / f"{place.node}-{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _notify_socket(place: Place, name: str) -> socket.socket:
    """A datagram socket under a path: abstract names end at a network namespace's border."""
    path = state.directory(place.lab) / f"{place.node}-{name}.notify"
    if len(bytes(path)) > _MAX_SOCKET_PATH:
        raise SystemRefused(f"{path} is too long for a socket",
                            f"set {state.STATE_ENV} to a shorter directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    return listener


def _spawn(place: Place, command: Sequence[str], log: Path | None,
           notify: socket.socket | None, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
    environment: Mapping[str, str] = {
        **{k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
        **more,
        state.NODE_ENV: state.stamp(place.lab, place.node),
        **({"NOTIFY_SOCKET": notify.getsockname()} if notify else {}),
    }
    namespace = open_namespace(place.namespace)
    parent = os.getpid()

    def in_child() -> None:
        syscalls.die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # A shell has its background jobs ignore SIGINT; ours is passed on by purpose.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        enter(namespace)

    try:
        with contextlib.ExitStack() as files:
            output = files.enter_context(log.open("wb")) if log else None
            return subprocess.Popen(
                command, env=environment, start_new_session=True, preexec_fn=in_child,
                stdin=subprocess.DEVNULL if log else None, stdout=output,
                stderr=subprocess.STDOUT if log else None)
    except subprocess.SubprocessError as error:
        raise SystemRefused(f"cannot start {command[0]} in {place.node}: {error}", "") from error
    finally:
        os.close(namespace)
