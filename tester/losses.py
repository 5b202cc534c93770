"""Where packets were lost: our ring, the interface, the CPUs' backlog, the server's socket.

What cannot be seen is None, never 0.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil

from fastpath.ring import Ring
from fastpath.udp import Udp
from tester.cells import SOCKET
from tester.config import TestConfig

# Columns of /proc/net/udp: local address, and drops (net/ipv4/udp.c).
_LOCAL, _DROPS = 1, 12


class Losses:
    """Counts from its making on."""

    def __init__(self, config: TestConfig, port: Ring | Udp) -> None:
        self._config, self._port = config, port
        self._before = self._now()

    def _now(self) -> dict[str, int | None]:
        where, name = self._config.where, self._port.interface.name
        server = None
        if where.mode == SOCKET and where.server == where.local_address:
            server = socket_drops(where.server, where.server_port)
        return {"rx_ring": self._port.statistics(), "interface": interface_drops(name),
                "softnet": softnet_dropped(), "server_socket": server}

    def since(self) -> dict[str, Any]:
        """What was lost since, as the result document has it."""
        after = self._now()
        lost: dict[str, Any] = {}
        for name, count in after.items():
            before = self._before[name]
            lost[name] = None if before is None or count is None else count - before
        unsent = self._port.unsent()
        if isinstance(self._port, Udp):
            unsent += sum(self._port.send_failed.values())
        return lost | {"tx_ring": unsent}


def interface_drops(name: str) -> int | None:
    """Packets that the interface dropped, in both directions, since it was made."""
    counters: dict[str, Any] = psutil.net_io_counters(pernic=True)
    return counters[name].dropin + counters[name].dropout if name in counters else None


def softnet_dropped() -> int | None:
    """Packets that this machine's receive backlogs have dropped; None where not to be read.

    /proc/net/softnet_stat, second column, one line a processor (net/core/net-procfs.c).
    """
    lines = _lines("/proc/net/softnet_stat")
    return None if lines is None else sum(int(line.split()[1], 16) for line in lines)


def socket_drops(address: IPv4Address | None, port: int) -> int | None:
    """Datagrams that UDP sockets of this machine on that port had no room for.

    None where there is no such socket: a server on a packet ring keeps its own count.
    """
    lines = _lines("/proc/net/udp")
    if lines is None:
        return None
    ours = int.from_bytes((address or IPv4Address(0)).packed, "little")
    ends = {f"{ours:08X}:{port:04X}", f"{0:08X}:{port:04X}"}
    found = [int(line.split()[_DROPS]) for line in lines[1:] if line.split()[_LOCAL] in ends]
    return sum(found) if found else None


def _lines(path: str) -> list[str] | None:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return None
