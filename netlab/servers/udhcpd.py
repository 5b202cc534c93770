"""busybox udhcpd: one pool on one segment of its own, no relays.

It looks at its whole table for every message, and for a new address once for each one tried
before, so it gets MOST_ADDRESSES of the pool at most: more clients than these find it full. Its
probe by ARP is off (`-a 0`); even so some 30 exchanges a second were measured, with 1,000 clients
and with 4,000, and next to no CPU used.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from fastpath.errors import UserError
from netlab import sockets
from netlab.adapter import Running, ServerJob
from netlab.servers.foreign import Foreign, put, shortened

# It gives no address that ends in 0 or 255, so this is enough for 4,000 clients.
MOST_ADDRESSES = 4096

# networking/udhcp/dhcpd.h: struct dyn_lease: seconds left, address, chaddr, name, padding; before
# the first a time of 8 octets. All big-endian.
_WRITTEN_AT = 8
_ROW = struct.Struct(">I4s6s20s2x")


class Udhcpd(Foreign):
    """busybox udhcpd."""

    program = "udhcpd"
    package = "udhcpd"
    asks_version = ""

    def prepare(self, job: ServerJob) -> None:
        """UserError where there are relays, several scopes or several interfaces."""
        if len(job.scopes) != 1:
            raise UserError(f"udhcpd in {job.node} would have {len(job.scopes)} subnets to serve: "
                            "it serves one", "use another server")
        (scope,) = shortened(job.scopes, MOST_ADDRESSES)
        on_it = [port for port in job.ports if port.address.ip in scope.network]
        if scope.hops or len(on_it) != 1:
            raise UserError(f"udhcpd in {job.node} would serve {scope.network} through a relay: it "
                            "knows no relays", "use it in `direct`, or use another server")
        # It complains of a file that is missing.
        _leases(job).write_text("")
        router = [f"option router {scope.router}"] if scope.router else []
        _config(job).write_text("\n".join((
            f"start {scope.first}", f"end {scope.last}",
            f"max_leases {int(scope.last) - int(scope.first) + 1}",
            f"interface {on_it[0].ifname}", f"lease_file {_leases(job)}",
            f"pidfile {job.directory / 'udhcpd.pid'}", f"option subnet {scope.network.netmask}",
            f"option lease {job.lease_time_s}", *router)) + "\n")

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        """Its configuration is its last word; options go before it."""
        return (str(executable), "-f", "-a", "0", *job.options, str(_config(job)))

    def ready(self, job: ServerJob, running: Running) -> bool:
        return sockets.serves(running.pid)

    def settle(self, job: ServerJob, running: Running) -> None:
        """It writes its leases two hours after the last time, or when asked; some releases also
        when they end."""
        running.send(signal.SIGUSR1)

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """Bindings whose time is not over; an offer counts as one until it is a minute old."""
        try:
            content = _leases(job).read_bytes()[_WRITTEN_AT:]
        except FileNotFoundError:
            return None
        found: dict[str, str] = {}
        for left_s, address, chaddr, _ in _ROW.iter_unpack(
                content[:len(content) // _ROW.size * _ROW.size]):
            # A row of zeros is an address that somebody else was seen to use.
            if left_s and any(chaddr):
                put(found, str(IPv4Address(address)), chaddr.hex(":"))
        return found


def _config(job: ServerJob) -> Path:
    return job.directory / "udhcpd.conf"


def _leases(job: ServerJob) -> Path:
    return job.directory / "udhcpd.leases"


SERVER = Udhcpd()
