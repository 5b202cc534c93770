"""The servers a lab can put to the test: one small module each, found by name here.

An adapter writes what its program wants to read, says how to start it and reads what it left.
Starting, readiness, signals and logs are the same for all and are not its business.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fastpath.errors import UserError
from netlab.topology import Subnet

# Name on the command line -> module with a `SERVER`. Modules load when they are asked for.
_MODULES = {"dhcp-server": "netlab.servers.dhcp_server"}
DEFAULT = "dhcp-server"


@dataclass(frozen=True, slots=True)
class Job:
    """What one server is to do. directory: its own, for configuration and what it writes."""

    interface: str
    address: ipaddress.IPv4Interface
    subnets: tuple[Subnet, ...]
    lease_time_s: int
    directory: Path
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a server says of itself after its end. None where it says nothing.

    ring_drops: frames it lost between the interface and itself. stats: its own words.
    """

    version: str | None
    ring_drops: int | None
    stats: dict[str, Any]


class Server(Protocol):
    """An adapter. program: its executable; package: what to install when it is missing.

    notifies: whether the program says READY=1 (sd_notify(3)) when it can serve.
    """

    program: str
    package: str
    notifies: bool

    def prepare(self, job: Job) -> None:
        """Write the configuration into `job.directory`."""

    def command(self, executable: Path, job: Job) -> Sequence[str]:
        """The command line that serves `job` in the foreground."""

    def report(self, job: Job) -> Report:
        """Read what the ended server left."""


def find(name: str) -> Server:
    """The adapter called `name`; UserError when there is none."""
    if name not in _MODULES:
        raise UserError(f"no server {name!r}", f"there is: {', '.join(_MODULES)}")
    server: Server = import_module(_MODULES[name]).SERVER
    return server
