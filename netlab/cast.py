"""Who plays which part in a test: adapters and jobs for the servers and relays of a topology.

Pure but for the search of executables, so that everything that can be refused is refused before
anything is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastpath.errors import UserError
from netlab import programs, relays, servers
from netlab.adapter import Adapter, Port, RelayJob, Report, Running, Scope, Server, ServerJob
from netlab.topology import Link, Node, Program, RelayPolicy, Role, Topology
from netlab.topology.routing import Routing

LEASE_TIME_S = 3600
# Beyond so many relays of ours one process is all of them: each by itself takes 170 MiB and most
# of a second to start.
MOST_PROCESSES = 8

Job = TypeVar("Job", ServerJob, RelayJob)
AnyPart = TypeVar("AnyPart", bound="Part[Any]")


@dataclass(frozen=True, slots=True)
class Choices:
    """Which programs stand where the topology names none, and words for their command lines.

    server_options and relay_options go to every server, and relay, that is not a rogue.
    """

    server: str = servers.DEFAULT
    server_options: tuple[str, ...] = ()
    relay: str = relays.DEFAULT
    relay_options: tuple[str, ...] = ()
    lease_time_s: int = LEASE_TIME_S


@dataclass(frozen=True)
class Part(Generic[Job]):
    """One program of a test: what it is called, how it is treated, what it is to do."""

    node: str
    name: str
    adapter: Adapter[Job]
    executable: Path
    job: Job

    @property
    def notifies(self) -> bool:
        return self.adapter.notifies

    def command(self) -> Sequence[str]:
        """Have it written down what the program reads; its command line."""
        self.job.directory.mkdir(parents=True, exist_ok=True)
        self.adapter.prepare(self.job)
        return self.adapter.command(self.executable, self.job)

    def environment(self) -> Mapping[str, str]:
        return self.adapter.environment(self.job)

    def ready(self, running: Running) -> Callable[[], bool]:
        """A question to ask until it is true, for a program that does not notify."""
        return lambda: self.adapter.ready(self.job, running)

    def settle(self, running: Running) -> None:
        self.adapter.settle(self.job, running)

    def report(self) -> Report:
        return self.adapter.report(self.job)


RelayPart = Part[RelayJob]


@dataclass(frozen=True)
class ServerPart(Part[ServerJob]):
    """A server; one in a node of role rogue is nobody's to rely on."""

    adapter: Server
    rogue: bool = False

    def leases(self) -> dict[str, str] | None:
        return self.adapter.leases(self.job)


@dataclass(frozen=True, slots=True)
class Company:
    """What one process plays: one part, or all of our own relays where there are many.

    namespaces: of the parts' nodes.
    """

    parts: tuple[Part[Any], ...]
    namespaces: tuple[str, ...]

    @property
    def first(self) -> Part[Any]:
        return self.parts[0]

    def command(self) -> Sequence[str]:
        """Have it written down what the program reads; its command line."""
        commands = [part.command() for part in self.parts]
        if len(commands) == 1:
            return commands[0]
        path = self.first.job.directory / "relays"
        path.write_text("".join(shlex.join((namespace, *command[1:])) + "\n"
                                for namespace, command in zip(self.namespaces, commands,
                                                              strict=True)))
        return (commands[0][0], "--many", str(path))


@dataclass(frozen=True, slots=True)
class Cast:
    """All the programs of a test but the tester."""

    servers: tuple[ServerPart, ...]
    relays: tuple[RelayPart, ...]

    @property
    def parts(self) -> tuple[Part[Any], ...]:
        return (*self.servers, *self.relays)

    def companies(self, namespace: Callable[[str], str]) -> list[Company]:
        """The processes of a test. namespace: of a node."""
        ours = [part for part in self.relays if part.name == relays.DEFAULT]
        crowd = tuple(ours) if len(ours) > MOST_PROCESSES else ()
        alone = [part for part in self.parts if part not in crowd]
        made = [Company((part,), (namespace(part.node),)) for part in alone]
        if crowd:
            made.append(Company(crowd, tuple(namespace(part.node) for part in crowd)))
        return made

    def with_words(self, words: Callable[[str], tuple[str, ...]]) -> Cast:
        """The same with words more on the command line of the program in each node."""
        return Cast(tuple(_with_words(part, words(part.node)) for part in self.servers),
                    tuple(_with_words(part, words(part.node)) for part in self.relays))


def _with_words(part: AnyPart, words: tuple[str, ...]) -> AnyPart:
    return replace(part, job=replace(part.job, options=(*part.job.options, *words)))


def cast(topology: Topology, choices: Choices, directory: Path) -> Cast:
    """Who runs where; `directory` is the lab's, each part gets one of its node's below it.

    Raises UserError for what fits no program, SystemRefused where a program is missing.
    """
    routing = Routing(topology)
    found_servers = [part for node in topology.nodes if node.role.serves
                     for part in _server(topology, routing, node, choices, directory)]
    found_relays = [_relay(topology, routing, node, choices, directory)
                    for node in topology.with_role(Role.RELAY)]
    return Cast(tuple(found_servers), tuple(found_relays))


def _chosen(node: Node, name: str, options: tuple[str, ...]) -> Program:
    """What runs in a node. Words of the command line follow those of the topology."""
    if node.role is Role.ROGUE:
        return node.program or Program(servers.DEFAULT)
    if node.program is None:
        # A command is often given as one word, as one would write it in a shell.
        words = _split(options[0]) if name == "command" and options else options[:1]
        return Program(name, (*words, *options[1:]))
    return Program(node.program.name, (*node.program.options, *options))


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"--server-option {command!r}: {str(error).lower()}",
                        "close its quotes, or give it word by word: one --server-option each",
                        ) from error


def _server(topology: Topology, routing: Routing, node: Node, choices: Choices,
            directory: Path) -> list[ServerPart]:
    chosen = _chosen(node, choices.server, choices.server_options)
    adapter = servers.find(chosen.name)
    ports = tuple(_port(topology, link) for link in topology.links_of(node.name))
    scopes = tuple(Scope(s.network, s.first, s.last, routing.router(s), routing.hops(s))
                   for s in topology.subnets_of(node.name))
    job = ServerJob(node.name, ports, scopes, choices.lease_time_s, directory / node.name,
                    chosen.options)
    program = adapter.program or (chosen.options[0] if chosen.name == "command"
                                  and chosen.options else "")
    if not program:
        if chosen.name == "command":
            raise UserError(f"{topology.name}: server {node.name} is a command without words",
                            "--server command --server-option 'my-dhcpd -i {interface}'")
        return []
    return [ServerPart(node.name, chosen.name, adapter,
                       programs.find(program, adapter.package), job, node.role is Role.ROGUE)]


def _relay(topology: Topology, routing: Routing, node: Node, choices: Choices,
           directory: Path) -> RelayPart:
    chosen = _chosen(node, choices.relay, choices.relay_options)
    adapter = relays.find(chosen.name)
    up, targets = routing.uplink(node.name), routing.targets(node.name)
    downs = routing.downlinks(node.name)
    if up is None or not targets or not downs:
        raise UserError(f"{topology.name}: relay {node.name} has no link towards a server",
                        "link it to a segment with a server, or with another relay")
    job = RelayJob(node.name, tuple(_port(topology, link) for link in downs),
                   _port(topology, up), targets, node.policy or RelayPolicy(),
                   directory / node.name, chosen.options)
    return RelayPart(node.name, chosen.name, adapter,
                     programs.find(adapter.program, adapter.package), job)


def _port(topology: Topology, link: Link) -> Port:
    if link.address is None:
        raise UserError(f"{topology.name}: {link.ifname} of {link.node} has no address",
                        "give it one")
    return Port(link.ifname, link.address)
