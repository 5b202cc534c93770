"""What the adapters of programs that are not ours have in common.

The one thing to know: a node's directory outlives a test, so whatever a program would read back
from its last run is removed before the next one.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from fastpath.errors import SystemRefused
from netlab import programs
from netlab.adapter import Report, Running, Scope

_VERSION_TIMEOUT_S = 5.0
_NUMBER = re.compile(r"\d+\.[\w.-]*\w")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Foreign:
    """An adapter that says nothing of itself but its version.

    asks_version: the word that has the program print its version and end; "" where there is none.
    """

    program = ""
    package = ""
    notifies = False
    asks_version = "--version"

    def environment(self, job: Any) -> Mapping[str, str]:
        """Nothing of its own."""
        return {}

    def settle(self, job: Any, running: Running) -> None:
        """Nothing to write down."""

    def report(self, job: Any) -> Report:
        """Its version; it counts nothing that can be read."""
        return Report(self._version())

    def _version(self) -> str | None:
        """The first thing that looks like a version in what it prints."""
        if not self.asks_version:
            return None
        try:
            said = subprocess.run(
                [programs.find(self.program, self.package), self.asks_version],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=_VERSION_TIMEOUT_S).stdout.decode(errors="replace")
        except (OSError, subprocess.SubprocessError, SystemRefused):
            return None
        found = _NUMBER.search(said)
        return found[0] if found else None


def by_network(scopes: Iterable[Scope]) -> list[tuple[ipaddress.IPv4Network, list[Scope]]]:
    """Scopes by their network, in order of address: a network is declared once."""
    def key(scope: Scope) -> ipaddress.IPv4Network:
        return scope.network

    return [(network, list(found)) for network, found in groupby(sorted(scopes, key=key), key)]


def shortened(scopes: Sequence[Scope], most: int) -> list[Scope]:
    """The same scopes with at most `most` addresses in all, the same number for each."""
    each = max(1, most // len(scopes))
    return [Scope(s.network, s.first, min(s.last, s.first + (each - 1)), s.router, s.hops)
            for s in scopes]


def put(leases: dict[str, str], address: str, chaddr: str | None) -> None:
    """The latest word of a store on an address; None: nobody holds it.

    What is no address or no Ethernet address is passed over: a file may end in the middle of a
    line, and it may hold leases of other kinds of client.
    """
    try:
        address = str(ipaddress.IPv4Address(address))
    except ValueError:
        return
    if chaddr is None:
        leases.pop(address, None)
    elif MAC.fullmatch(chaddr.lower()):
        leases[address] = chaddr.lower()
