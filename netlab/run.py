"""`lab test`: server and tester inside a lab, one result, and the machine as it was.

A lab that was not up is made for the test and removed at its end, however that comes: the
tester's own end, a failure, Ctrl-C, SIGTERM, SIGHUP. (After a kill -9 `lab gc` does it.)
"""

from __future__ import annotations

import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fastpath.cli import say_error
from fastpath.errors import UserError
from fastpath.files import check_writable, write_json
from netlab import lifecycle, outcome, plan, programs, servers, signals, state
from netlab.outcome import Counters, ServerSide
from netlab.programs import Place, Program, Usage
from netlab.servers import Job, Server
from netlab.state import Journal, Phase, Started
from netlab.topology import Link, Role, Topology
from tester.result import read_json

TESTER = "dhcp-tester"
LEASE_TIME_S = 3600
# What the lab gives to the tester itself; the user gives it to the lab.
_OURS = ("--json", "--clients-csv")


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asked of `lab test`."""

    topology: Topology
    lab: str
    server: str = servers.DEFAULT
    server_options: tuple[str, ...] = ()
    tester_options: tuple[str, ...] = ()
    json_file: Path | None = None
    clients_csv: Path | None = None


def run(order: Order, say: Callable[[str], None]) -> int:
    """Carry the test out; the tester's exit code, or 1 if only the server failed.

    say: told, before the test, what else the user should know. Raises UserError before
    anything is made if the order cannot be met, SystemRefused when the machine or a program
    refuses.
    """
    wanted = plan.make(order.topology, order.lab)
    _check(order)
    server = servers.find(order.server)
    executables = (programs.find(server.program, server.package),
                   programs.find(TESTER, "dhcp-netlab"))
    with signals.handled(signals.leave), state.locked(order.lab, "lab test"):
        journal, _ = lifecycle.ensure_up(wanted, say, temporary=True)
        try:
            return _Test(order, journal, server, *executables).run()
        finally:
            with signals.held():
                if journal.temporary:
                    lifecycle.remove(order.lab)
                else:
                    state.move(journal, Phase.UP)


def _check(order: Order) -> None:
    for option in order.tester_options:
        name = option.partition("=")[0]
        if f"--{name.lstrip('-')}" in _OURS and name.startswith("-"):
            raise UserError(f"{name} after -- would go to the tester alone",
                            f"lab test {name} FILE -- the tester's other options")
    for path in (order.json_file, order.clients_csv):
        if path:
            check_writable(path)


class _Test:
    """One test in a lab that stands."""

    def __init__(self, order: Order, journal: Journal, server: Server, server_executable: Path,
                 tester_executable: Path) -> None:
        self.order, self.journal, self.server = order, journal, server
        self.executable, self.tester_executable = server_executable, tester_executable
        self.directory = state.directory(order.lab)
        self.result = self.directory / "result.json"

    def run(self) -> int:
        self.journal = state.move(self.journal, Phase.TESTING)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.result.unlink(missing_ok=True)
        job = self._job()
        self.server.prepare(job)
        server = self._start(Role.SERVER, self.server.program,
                             self.server.command(self.executable, job), own_terminal=False,
                             notifies=self.server.notifies)
        try:
            if self.server.notifies:
                server.await_ready()
            before, used_before = Counters.now(self.journal), server.usage()
            code = self._run_tester(server)
            after, used = Counters.now(self.journal), _since(used_before, server.usage())
        finally:
            server.stop()
        side = ServerSide(self.server.program, used, self.server.report(job))
        self._finish(before, after, side)
        return code

    def _run_tester(self, server: Program) -> int:
        """The tester's exit code, or 1 if all it has to say is good but the server died.

        The first Ctrl-C goes to the tester, which then reports what it has; anything after
        that, and SIGTERM or SIGHUP at once, ends the test by SystemExit.
        """
        tester: Program | None = None
        asked = False

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if tester and number == signal.SIGINT and not asked:
                asked = True
                tester.send(signal.SIGINT)
                return
            if tester:
                tester.send(signal.SIGKILL if asked else signal.SIGTERM)
            signals.leave(number, frame)

        with signals.handled(on_signal):
            with signals.held():
                tester = self._start(Role.CLIENT, TESTER, self._tester_command(),
                                     own_terminal=True)
            try:
                died = _attend(tester, server)
            finally:
                tester.stop()
        return tester.exit_code or int(died)

    def _finish(self, before: Counters, after: Counters, side: ServerSide) -> None:
        if not self.result.exists():
            return  # the tester refused its options or the interface, and said why
        document = read_json(self.result)
        lab = outcome.lab_object(self.journal, before, after, side)
        outcome.complete(document, lab, side)
        if self.order.json_file:
            write_json(self.order.json_file, document)
        print("\n".join(("", *outcome.lines(lab, side, self.order.json_file))))

    def _start(self, role: Role, name: str, command: Sequence[str], *, own_terminal: bool,
               notifies: bool = False) -> Program:
        """Start a program in the first node of that role, and journal it."""
        node = self.journal.topology.with_role(role)[0].name
        place = Place(self.order.lab, node, self.journal.namespace(node))
        with signals.held():
            program = Program(place, name, command, own_terminal=own_terminal, notifies=notifies)
            started = Started(node, name, program.process)
            self.journal = state.move(self.journal, Phase.TESTING,
                                      (*self.journal.programs, started))
        return program

    def _job(self) -> Job:
        link = self._link(Role.SERVER)
        if link.address is None:
            raise UserError(f"{self.journal.topology.name}: server {link.node} has no address", "")
        directory = self.directory / link.node
        directory.mkdir(parents=True, exist_ok=True)
        return Job(link.ifname, link.address, self.journal.topology.subnets, LEASE_TIME_S,
                   directory, self.order.server_options)

    def _tester_command(self) -> list[str]:
        csv = ["--clients-csv", str(self.order.clients_csv)] if self.order.clients_csv else []
        return [str(self.tester_executable), "--interface", self._link(Role.CLIENT).ifname,
                "--json", str(self.result), *csv, *self.order.tester_options]

    def _link(self, role: Role) -> Link:
        topology = self.journal.topology
        return topology.links_of(topology.with_role(role)[0].name)[0]


def _attend(tester: Program, server: Program) -> bool:
    """Wait for the end of the tester; True when the server ended before it, which is said."""
    died = False
    poll = select.poll()
    for program in (tester, server):
        poll.register(program, select.POLLIN)
    while not tester.ended:
        poll.poll()
        if server.ended and not died:
            died = True
            poll.unregister(server)
            say_error("lab", f"{server.name} ended during the test with {server.wait()}"
                      + server.tail())
    return died


def _since(before: Usage, now: Usage) -> Usage:
    # A server that died has no CPU time left to read.
    return Usage(max(0.0, now.cpu_s - before.cpu_s), now.rss_bytes_max or before.rss_bytes_max)
