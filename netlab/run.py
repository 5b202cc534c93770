"""One test in a lab: servers, relays and tester inside, one result, and the machine as it was.

A lab that was not up is made for the test and removed at its end, however that comes: the
tester's own end, a failure, Ctrl-C, SIGTERM, SIGHUP. (After a kill -9 `lab gc` does it.)
"""

from __future__ import annotations

import select
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fastpath.cli import say_error
from fastpath.errors import SystemRefused, UserError
from fastpath.files import check_writable, write_json
from netlab import lifecycle, outcome, plan, programs, signals, sockets, state, verify
from netlab.attach import attached_for, await_carrier
from netlab.cast import Cast, Choices, Company, Part, cast
from netlab.impairment.inforce import InForce
from netlab.outcome import Counters, Side
from netlab.path import hearing, report
from netlab.path.losses import UNKNOWN
from netlab.path.measure import PathCounters
from netlab.programs import Place, Program, Usage
from netlab.state import Journal, Phase, Started
from netlab.topology import Role, Topology
from netlab.wish import Wish
from tester.result import EXIT_CODES, INCOMPLETE, PASS, read_json

TESTER = "dhcp-tester"
Say = Callable[[str], None]
# What an interface of the machine is called in the clients' node.
ATTACHED = "ext0"
_CARRIER_TIMEOUT_S = 5.0
# What the lab gives to the tester itself; the user gives it to the lab.
_OURS = ("--json", "--clients-csv", "--interface", "-i")


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asked of `lab test`.

    quiet: the tester's report goes to its log; for tests of which many make one table.
    logs: a directory to copy to what the programs read and said. attach: an interface of the
    machine that clients speak through, lent to their node for the time of the test. ebpf: count
    messages at every place of the lab, and time one exchange in ebpf_sample.
    """

    topology: Topology
    lab: str
    choices: Choices = field(default_factory=Choices)
    tester_options: tuple[str, ...] = ()
    json_file: Path | None = None
    clients_csv: Path | None = None
    logs: Path | None = None
    quiet: bool = False
    attach: str = ""
    attach_mode: str = "move"
    ebpf: bool = False
    ebpf_sample: int = 1


@dataclass(frozen=True, slots=True)
class Done:
    """How a test ended. document: None where the tester refused to begin."""

    exit_code: int
    document: dict[str, Any] | None


def run(order: Order, say: Say) -> Done:
    """Carry the test out; the tester's exit code, 1 if only another program failed, 3 if only
    the leases are wrong.

    say: told, before the test, what else the user should know. Raises UserError before
    anything is made if the order cannot be met, SystemRefused when the machine or a program
    refuses.
    """
    wanted = plan.make(order.topology, order.lab)
    _check(order)
    players = cast(order.topology, order.choices, state.directory(order.lab))
    links = InForce(order.lab, order.topology, {part.node: part.name for part in players.parts},
                    say)
    players = players.with_words(links.faults_for)
    executable = programs.find(TESTER, "dhcp-netlab")
    with signals.handled(signals.leave), state.locked(order.lab, "lab test"):
        journal, _ = lifecycle.ensure_up(wanted, say, temporary=True)
        try:
            with ExitStack() as stack:
                if order.attach:
                    node = order.topology.with_role(Role.CLIENT)[0].name
                    wish = Wish(node, order.attach, ATTACHED, order.attach_mode)
                    made = stack.enter_context(attached_for(journal, wish, say))
                    if order.attach_mode == "macvlan" and not any(
                            "broadcast-flag" in word for word in order.tester_options):
                        say("a macvlan hears nothing that is sent to other addresses than its "
                            "own, as the clients' are; if nothing is answered: -- "
                            "--broadcast-flag")
                    if not await_carrier(journal, made, _CARRIER_TIMEOUT_S):
                        say(f"{order.attach} has no carrier: is the cable in?")
                return _Test(order, journal, players, executable, links).run()
        finally:
            with signals.held():
                _keep(order)
                if journal.temporary:
                    lifecycle.remove(order.lab)
                else:
                    state.move(journal, Phase.UP)
                    links.end()


def _check(order: Order) -> None:
    for option in order.tester_options:
        name = option.partition("=")[0]
        if name.startswith("-") and (name in _OURS or f"--{name.lstrip('-')}" in _OURS):
            if "interface" in name or name == "-i":
                raise UserError(f"{name} after --: the lab knows where its clients are",
                                "lab exec client -- dhcp-tester ... for anything else")
            raise UserError(f"{name} after -- would go to the tester alone",
                            f"lab test {name} FILE -- the tester's other options")
    for path in (order.json_file, order.clients_csv):
        if path:
            check_writable(path)
    if order.logs:
        try:
            order.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--logs {order.logs}: {(error.strerror or '').lower()}",
                            "name a directory that can be written") from error


def _keep(order: Order) -> None:
    """Copy what programs read and said to where the user wants it; nothing else depends on it."""
    place = state.directory(order.lab)
    if order.logs and place.is_dir():
        try:
            shutil.copytree(place, order.logs, dirs_exist_ok=True,
                            ignore=lambda where, names: [n for n in names
                                                         if n.endswith((".notify", ".socket"))])
        except OSError as error:
            say_error("lab", f"cannot copy the logs to {order.logs}: {error}")


class _Test:
    """One test in a lab that stands."""

    def __init__(self, order: Order, journal: Journal, players: Cast, tester: Path,
                 links: InForce) -> None:
        self.order, self.journal, self.cast, self.tester = order, journal, players, tester
        self.links = links
        self.directory = state.directory(order.lab)
        self.result = self.directory / "result.json"
        self.rows = order.clients_csv or self.directory / "clients.csv"
        self.running: list[tuple[Company, Program]] = []
        self.lost: list[dict[str, Any]] = []
        self.path: PathCounters | None = None
        self.heard = UNKNOWN

    def run(self) -> Done:
        self.journal = state.move(self.journal, Phase.TESTING)
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in (self.result, self.directory / "clients.csv"):
            path.unlink(missing_ok=True)
        with ExitStack() as stack:
            self.links.prepare()
            self._start_parts(stack)
            for company, program in self.running:
                program.await_ready(_ready(company.first, program))
            self.heard = hearing.heard(self.running)
            if self.order.ebpf:
                self.path = stack.enter_context(
                    PathCounters(self.journal, self.order.ebpf_sample, heard=self.heard))
            before, used = Counters.now(self.journal), self._measured()
            code = self._run_tester()
            if self.path:
                self.path.read()
            after, now = Counters.now(self.journal), self._measured()
            self.lost = self.links.lost()
            for company, program in self.running:
                if not program.ended:
                    for part in company.parts:
                        part.settle(program)
        sides = [_side(part, used[i], now[i], len(company.parts))
                 for i, (company, _) in enumerate(self.running) for part in company.parts]
        # In the order of the topology, whoever shares a process.
        order = {part.node: i for i, part in enumerate(self.cast.parts)}
        return self._finish(code, before, after, sorted(sides, key=lambda s: order[s.node]))

    def _start_parts(self, stack: ExitStack) -> None:
        """All at once; what they need to start they do side by side."""
        for company in self.cast.companies(self.journal.namespace):
            command, first = company.command(), company.first
            with signals.held():
                program = self._start(first.node, first.name, command, own_terminal=False,
                                      notifies=first.notifies, environment=first.environment())
                stack.callback(program.stop)
                self.running.append((company, program))
        self._journal()

    def _measured(self) -> list[tuple[Usage, int | None]]:
        return [(program.usage(), None if program.ended else sockets.drops(
            program.pid, company.first.node in self.heard.by_frames))
                for company, program in self.running]

    def _run_tester(self) -> int:
        """The tester's exit code, or 1 if all it has to say is good but another program died.

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
                tester = self._start(self._clients()[0].name, TESTER, self._tester_command(),
                                     own_terminal=not self.order.quiet)
                self._journal((tester,))
                self.links.begin()
            try:
                died = _attend(tester, [program for _, program in self.running], self.links)
            finally:
                tester.stop()
        if self.order.quiet and tester.exit_code not in (0, 3, 4, 99, 130):
            refused = UserError if tester.exit_code == UserError.exit_code else SystemRefused
            raise refused(f"{TESTER} ended with {tester.wait()}" + tester.tail(), "")
        return tester.exit_code or int(died)

    def _finish(self, code: int, before: Counters, after: Counters, sides: list[Side]) -> Done:
        if not self.result.exists():
            return Done(code, None)  # the tester refused its options, and said why
        document = read_json(self.result)
        servers, relays = sides[:len(self.cast.servers)], sides[len(self.cast.servers):]
        leases = self._leases(document)
        lab = outcome.lab_object(self.journal, before, after, servers, relays, leases)
        lab["impaired"] = self.lost
        outcome.complete(document, lab, servers)
        if self.path:
            self.path.complete(document, hearing.counted(
                sides, self.heard.by_frames, document,
                [name for name, _ in self._interfaces()], self._node_of))
        verdict = ""
        if document["verdict"] == PASS and not verify.sound(leases):
            document["verdict"] = verdict = INCOMPLETE
            code = code or EXIT_CODES[INCOMPLETE]
        if self.order.json_file:
            write_json(self.order.json_file, document)
        if not self.order.quiet:
            print("\n".join(("", *outcome.lines(lab, self.order.json_file, verdict))))
            if self.path:
                print("\n".join(("", *report.lines(document))))
        return Done(code, document)

    def _leases(self, document: dict[str, Any]) -> dict[str, Any]:
        """What clients hold against what the servers' stores say."""
        if why := verify.not_comparable(document, document["clients"]["bound"]):
            return {"why": why}
        if not self.cast.servers:
            return {"why": "the lab started no server"}
        stores = [(part, part.leases()) for part in self.cast.servers]
        silent = [part.name for part, store in stores if store is None]
        if silent:
            return {"why": f"{silent[0]} keeps no lease store that can be read"}
        return verify.compare(verify.read_held(self.rows),
                              [store for _, store in stores if store is not None],
                              self._right_networks())

    def _right_networks(self) -> dict[str, list[verify.Network]]:
        """By what the tester calls an interface: the networks that its clients belong to."""
        topology = self.journal.topology
        rogues = {node.name for node in topology.with_role(Role.ROGUE)}
        if self.order.attach:
            return {}
        right = {name: [subnet.network for subnet in topology.subnets
                        if subnet.segment == segment and subnet.server not in rogues]
                 for name, segment in self._interfaces()}
        # With one interface the rows do not name it.
        return right if len(right) > 1 else {"": next(iter(right.values()))}

    def _start(self, node: str, name: str, command: Sequence[str], **how: Any) -> Program:
        return Program(Place(self.order.lab, node, self.journal.namespace(node)), name, command,
                       **how)

    def _journal(self, more: Sequence[Program] = ()) -> None:
        """Write down what runs. (It dies with us in any case.)"""
        running = [program for _, program in self.running] + list(more)
        self.journal = state.move(self.journal, Phase.TESTING, tuple(
            Started(program.place.node, program.name, program.process) for program in running))

    def _clients(self) -> tuple[Any, ...]:
        return self.journal.topology.with_role(Role.CLIENT)

    def _interfaces(self) -> list[tuple[str, str]]:
        """(what the tester calls it, segment) of every interface with clients."""
        if self.order.attach:
            return [(ATTACHED, "")]
        first, *others = self._clients()
        topology = self.journal.topology
        found = [(link.ifname, link.segment) for link in topology.links_of(first.name)]
        return found + [(f"{self.journal.namespace(node.name)}:{link.ifname}", link.segment)
                        for node in others for link in topology.links_of(node.name)]

    def _node_of(self, interface: str) -> str:
        """Whose interface it is that the tester calls so."""
        namespace, separate, _ = interface.rpartition(":")
        nodes = {self.journal.namespace(node.name): node.name for node in self._clients()}
        return nodes[namespace] if separate else str(self._clients()[0].name)

    def _tester_command(self) -> list[str]:
        topology, options = self.journal.topology, self.order.tester_options
        expected = []
        if topology.with_role(Role.ROGUE) and "--expect-server" not in options:
            expected = [word for node in topology.with_role(Role.SERVER)
                        for link in topology.links_of(node.name) if link.address
                        for word in ("--expect-server", str(link.address.ip))]
        # Else what leaves by an interface of the machine would not pass the counters there.
        queued = ["--qdisc"] * (self.order.ebpf and bool(self.order.attach))
        return [str(self.tester), "--interface", ",".join(name for name, _ in self._interfaces()),
                *queued, "--json", str(self.result), "--clients-csv", str(self.rows), *expected,
                *topology.load, *options]


def _ready(part: Part[Any], program: Program) -> Callable[[], bool] | None:
    return None if part.notifies else part.ready(program)


def _side(part: Part[Any], before: tuple[Usage, int | None], now: tuple[Usage, int | None],
          shared_by: int) -> Side:
    drops = None
    # Of a shared process nobody can say at whose sockets; its rings are each relay's own.
    if before[1] is not None and now[1] is not None and shared_by == 1:
        drops = now[1] - before[1]
    return Side(part.node, part.name, _since(before[0], now[0]), part.report(), drops,
                rogue=getattr(part, "rogue", False), shared_by=shared_by)


def _attend(tester: Program, others: Sequence[Program], links: InForce) -> bool:
    """Wait for the end of the tester; True when another ended before it, which is said.

    Meanwhile links change as the topology has it.
    """
    died = False
    poll = select.poll()
    watched = {program.fileno(): program for program in others}
    for descriptor in (tester.fileno(), *watched):
        poll.register(descriptor, select.POLLIN)
    while not tester.ended:
        next_s = links.walk()
        for descriptor, _ in poll.poll(None if next_s is None else next_s * 1000 + 1):
            program = watched.get(descriptor)
            if program is not None:
                died = True
                poll.unregister(descriptor)
                say_error("lab", f"{program.name} ended during the test with {program.wait()}"
                          + program.tail())
    return died


def _since(before: Usage, now: Usage) -> Usage:
    # A program that died has no CPU time left to read.
    return Usage(max(0.0, now.cpu_s - before.cpu_s), now.rss_bytes_max or before.rss_bytes_max)
