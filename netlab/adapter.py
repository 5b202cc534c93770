"""What a lab and a program under test have to say to one another.

An adapter is one small module in `servers/` or `relays/`: it writes what its program wants to
read, says how to start it, knows when it is ready, and reads what it left. Starting, signals,
logs, CPU, memory and socket drops are the same for all and not its business (`programs`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from netlab.topology import RelayPolicy


@dataclass(frozen=True, slots=True)
class Port:
    """An interface of the program's node; a port that is served has an address."""

    ifname: str
    address: ipaddress.IPv4Interface


@dataclass(frozen=True, slots=True)
class Scope:
    """What clients of one subnet get: addresses `first` to `last`, and option 3.

    hops: relays between them and the server; 0 where they are on a segment of its own.
    """

    network: ipaddress.IPv4Network
    first: ipaddress.IPv4Address
    last: ipaddress.IPv4Address
    router: ipaddress.IPv4Address | None
    hops: int


@dataclass(frozen=True, slots=True)
class ServerJob:
    """What one server is to do. directory: its own, made, for all that it reads and writes.

    options: words of the user's for its command line; they go last, so that they win.
    """

    node: str
    ports: tuple[Port, ...]
    scopes: tuple[Scope, ...]
    lease_time_s: int
    directory: Path
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RelayJob:
    """What one relay is to do: hear clients (and other relays) on `downlinks`, relay to
    `targets` by `uplink`. directory, options: as of a ServerJob."""

    node: str
    downlinks: tuple[Port, ...]
    uplink: Port
    targets: tuple[ipaddress.IPv4Address, ...]
    policy: RelayPolicy
    directory: Path
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a program says of itself after its end. None where it says nothing.

    ring_drops: frames it lost between the interface and itself. discarded: messages that it
    would not pass on, by reason in its own words. stats: all its own words.
    """

    version: str | None = None
    ring_drops: int | None = None
    discarded: Mapping[str, int] | None = None
    stats: Mapping[str, Any] = field(default_factory=dict)


class Running(Protocol):
    """A program of ours that runs. pid: its own, in a namespace of its node's."""

    @property
    def pid(self) -> int: ...

    def send(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""


Job = TypeVar("Job", ServerJob, RelayJob, contravariant=True)


class Adapter(Protocol[Job]):
    """One kind of program.

    program: its executable, empty where nothing is started; package: what to install when it is
    missing. notifies: whether the program says READY=1 (sd_notify(3)) when it is ready.
    """

    program: str
    package: str
    notifies: bool

    def prepare(self, job: Job) -> None:
        """Write into `job.directory`; UserError where the job is not for this program."""

    def command(self, executable: Path, job: Job) -> Sequence[str]:
        """The command line that does `job` in the foreground."""

    def environment(self, job: Job) -> Mapping[str, str]:
        """Variables that it needs beyond those of the lab."""

    def ready(self, job: Job, running: Running) -> bool:
        """Whether it is ready now; asked again and again, unless it notifies."""

    def settle(self, job: Job, running: Running) -> None:
        """After the load, while it still runs: have it write what it keeps in memory."""

    def report(self, job: Job) -> Report:
        """Read what the ended program left."""


class Server(Adapter[ServerJob], Protocol):
    """An adapter of a server."""

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """{address: chaddr} of every binding that it holds, `02:00:...` in lower case; read
        after its end. None where it keeps none that can be read."""


Relay = Adapter[RelayJob]
