"""What every test run does: skip by name what cannot run here, and leave the machine clean.

The one thing to know: a run fails when it ends with a namespace, a link or a process that was
not there before. Processes are told apart by a token in their environment; namespaces and links
that may belong to another run at the same time are reported and do not fail this one.

Markers: `root` skips unless root. `peers("kea-dhcp4", ...)` fetches those programs first and
skips where they cannot be had; a PeersUnavailable raised later skips as well. `bcc` does so for
programs in the kernel, which have to be compiled and loaded, by root. With
DHCP_NETLAB_REQUIRE="root,peers,bcc" (any of them) a test that would be skipped fails instead.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.peers.net import RUN_NETNS, sweep
from tests.peers.unpack import PeersUnavailable, program

TOKEN_ENV = "DHCP_NETLAB_TEST_RUN"
REQUIRE_ENV = "DHCP_NETLAB_REQUIRE"
GRACE_S = 3.0
_PRESENCE = "dhcp-netlab-tests-"
# What `nohup`, and a shell with us in the background, have ignored would be ignored by all that
# we start too, and signals are what some tests are about. What is handled is theirs again.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)


def _namespaces() -> dict[str, int]:
    """{name: inode}: a name may be used again for another namespace."""
    found = {}
    for place in RUN_NETNS.glob("*"):
        with contextlib.suppress(OSError):
            found[place.name] = place.stat().st_ino
    return found


def _links() -> dict[str, int]:
    found = {}
    for place in Path("/sys/class/net").glob("*"):
        with contextlib.suppress(OSError):
            found[place.name] = int((place / "ifindex").read_text())
    return found


def _carries(pid: Path, token: str) -> bool:
    try:
        return f"{TOKEN_ENV}={token}".encode() in (pid / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _used_by_others(inode: int, token: str) -> bool:
    """Whether a process that this run did not start is inside the namespace."""
    for pid in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (pid / "ns/net").stat().st_ino == inode and not _carries(pid, token):
                return True
    return False


@dataclass
class Run:
    """One test run: what was there before it, and what it left behind."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    namespaces: dict[str, int] = field(default_factory=_namespaces)
    links: dict[str, int] = field(default_factory=_links)
    ours: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.environ[TOKEN_ENV] = self.token
        # An abstract socket: it tells other runs of this one, and vanishes with it.
        self._presence = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._presence.bind(f"\0{_PRESENCE}{self.token}")

    def _others(self) -> bool:
        names = [line.rpartition("@")[2] for line in Path("/proc/net/unix").read_text().splitlines()
                 if f"@{_PRESENCE}" in line]
        return any(name != f"{_PRESENCE}{self.token}" for name in names)

    def _processes(self) -> list[str]:
        found = []
        for pid in Path("/proc").glob("[0-9]*"):
            if int(pid.name) != os.getpid() and _carries(pid, self.token):
                with contextlib.suppress(OSError):
                    words = (pid / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    if words:  # one that has ended and waits for its parent has none
                        found.append(f"process {pid.name}: {words[:100]}")
        return found

    def _places(self) -> list[str]:
        spaces = [f"namespace {name}" for name, inode in _namespaces().items()
                  if self.namespaces.get(name) != inode
                  and not _used_by_others(inode, self.token)]
        return spaces + [f"link {name}" for name, index in _links().items()
                         if self.links.get(name) != index]

    def finish(self) -> None:
        """Fill `ours` and `doubtful` with what stays after a moment's grace."""
        deadline = time.monotonic() + GRACE_S
        while (self._processes() or self._places()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.ours = self._processes()
        (self.doubtful if self._others() else self.ours).extend(self._places())
        self._presence.close()


_RUN = pytest.StashKey[Run]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() == 0:
        sweep()
    session.config.stash[_RUN] = Run()


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[_RUN]
    run.finish()
    if run.ours:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _leave_out(kind: str, reason: str) -> None:
    if kind in os.environ.get(REQUIRE_ENV, "").split(","):
        pytest.fail(f"{reason} ({REQUIRE_ENV} asks for {kind})", pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def _skips_without_peers() -> Iterator[None]:
    missing = ""
    try:
        yield
    except PeersUnavailable as refused:
        missing = str(refused)
    if missing:
        _leave_out("peers", missing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if not item.get_closest_marker("bcc"):
        return (yield)
    # Not for everybody: it imports a good deal.
    from tests.peers import bcc

    with bcc.environment_kept():
        return (yield)


def _use_bcc() -> None:
    from tests.peers import bcc

    why = ""
    try:
        bcc.use()
    except bcc.BccUnavailable as refused:
        why = str(refused)
    if why:
        _leave_out("bcc", why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    needs_root = item.get_closest_marker("root") or item.get_closest_marker("bcc")
    if needs_root and os.geteuid() != 0:
        _leave_out("root", "needs root")
    if item.get_closest_marker("bcc"):
        _use_bcc()
    with _skips_without_peers():
        for marker in item.iter_markers("peers"):
            for name in marker.args:
                program(name)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _skips_without_peers():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter,
                            config: pytest.Config) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("left out")
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    run = config.stash.get(_RUN, None)
    for title, left in (("left behind by this run", run.ours if run else []),
                        ("new since the start, perhaps another run's",
                         run.doubtful if run else [])):
        if left:
            terminalreporter.section(title, red=left is (run and run.ours))
            for line in left:
                terminalreporter.line(line)
