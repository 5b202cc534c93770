"""Where packets were lost: our ring, the interface, the CPUs' backlog, the server's socket.

What cannot be seen is None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from fastpath import elsewhere
from fastpath.udp import Udp
from tester.cells import SOCKET
from tester.config import TestConfig
from tester.ports import Port

# Of the calling thread: /proc/net is that of the process's first one.
_DEVICES, _UDP = "/proc/thread-self/net/dev", "/proc/thread-self/net/udp"
# Columns of /proc/net/udp: local address, and drops (net/ipv4/udp.c).
_LOCAL, _DROPS = 1, 12


class Losses:
    """Counts from its making on.

    rx_ring: frames that each port had no room for until `since` was called.
    """

    def __init__(self, config: TestConfig, ports: Sequence[Port]) -> None:
        self._config, self._ports = config, ports
        self.rx_ring = [0] * len(ports)
        # By namespace, whose counters are read at one go.
        self._names: dict[str, list[str]] = {}
        items = config.where.interfaces or (config.where.interface,)
        for item, port in zip(items, ports, strict=True):
            namespace, _ = elsewhere.split(item)
            self._names.setdefault(namespace, []).append(port.interface.name)
        self._rings_before = [port.statistics() for port in ports]
        self._before = self._now()

    def _now(self) -> dict[str, int | None]:
        where = self._config.where
        server = None
        if where.mode == SOCKET and where.server == where.local_address:
            namespace, _ = elsewhere.split(where.interface)
            server = elsewhere.within(
                namespace, lambda: socket_drops(where.server, where.server_port))
        drops = [count for found in elsewhere.side_by_side(
            [(namespace, partial(interfaces_drops, names))
             for namespace, names in self._names.items()]) for count in found]
        seen = [count for count in drops if count is not None]
        return {"interface": sum(seen) if len(seen) == len(drops) else None,
                "softnet": softnet_dropped(), "server_socket": server}

    def since(self) -> dict[str, Any]:
        """What was lost since, as the result document has it."""
        self.rx_ring = [port.statistics() - before for port, before
                        in zip(self._ports, self._rings_before, strict=True)]
        lost: dict[str, Any] = {"rx_ring": sum(self.rx_ring)}
        for name, count in self._now().items():
            before = self._before[name]
            lost[name] = None if before is None or count is None else count - before
        unsent = sum(port.unsent() for port in self._ports)
        for port in self._ports:
            if isinstance(port, Udp):
                unsent += sum(port.send_failed.values())
        return lost | {"tx_ring": unsent}


def interfaces_drops(names: Sequence[str]) -> list[int | None]:
    """Packets that each interface dropped, in both directions, since it was made.

    /proc/net/dev of the calling thread's namespace: one line an interface, with drops received
    and sent in the 4th and 12th of its numbers (net/core/net-procfs.c).
    """
    dropped: dict[str, int] = {}
    for line in _lines(_DEVICES) or ():
        name, colon, numbers = line.rpartition(":")
        if colon:
            fields = numbers.split()
            dropped[name.strip()] = int(fields[3]) + int(fields[11])
    return [dropped.get(name) for name in names]


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
    lines = _lines(_UDP)
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
