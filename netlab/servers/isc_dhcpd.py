"""ISC dhcpd, with its ping check off: it would hold each offer back for a second.

It makes a record of every address when it starts and walks a list of them for every lease, so it
gets at most MOST_ADDRESSES of a job, in equal parts: with 130,000 it manages ten exchanges a
second.

On Debian and Ubuntu AppArmor may confine dhcpd to /etc/dhcp and /var/lib/dhcp: it then says that
it cannot open its files, "Permission denied" (`aa-complain dhcpd`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from netlab import sockets
from netlab.adapter import Running, Scope, ServerJob
from netlab.servers.foreign import Foreign, by_network, put, shortened

MOST_ADDRESSES = 32_768

# dhcpd.leases(5). A declaration ends with a brace in the first column.
_LEASE = re.compile(r"^lease (\S+) \{$(.*?)^\}$", re.MULTILINE | re.DOTALL)
_HARDWARE = re.compile(r"^\s*hardware ethernet (\S+);", re.MULTILINE)
_ACTIVE = re.compile(r"^\s*binding state active;", re.MULTILINE)


class IscDhcpd(Foreign):
    """dhcpd of ISC DHCP 4."""

    program = "dhcpd"
    package = "isc-dhcp-server"

    def prepare(self, job: ServerJob) -> None:
        """The configuration, and the lease file, which must be there."""
        _leases(job).write_text("")
        _config(job).write_text("\n".join(_lines(job)) + "\n")

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        """Words that are no option are interfaces, so the user's options may follow them."""
        return (str(executable), "-4", "-f", "-d", "--no-pid", "-cf", str(_config(job)),
                "-lf", str(_leases(job)), *(port.ifname for port in job.ports), *job.options)

    def ready(self, job: ServerJob, running: Running) -> bool:
        """A packet socket for each interface, and last the UDP socket that answers relays."""
        return sockets.serves(running.pid, len(job.ports))

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """Appended to at every change: the last word on an address counts."""
        try:
            text = _leases(job).read_text(errors="replace")
        except FileNotFoundError:
            return None
        found: dict[str, str] = {}
        for address, body in _LEASE.findall(text):
            hardware = _HARDWARE.search(body)
            put(found, address, hardware[1] if hardware and _ACTIVE.search(body) else None)
        return found


def _lines(job: ServerJob) -> Iterator[str]:
    time_s = job.lease_time_s
    yield "authoritative;"
    yield "ddns-update-style none;"
    yield "ping-check false;"
    for name in ("default", "max", "min"):
        yield f"{name}-lease-time {time_s};"
    # It listens only where a subnet is declared.
    served = [scope.network for scope in job.scopes]
    for network in dict.fromkeys(port.address.network for port in job.ports):
        if network not in served:
            yield from _subnet(network.with_netmask, [])
    for network, scopes in by_network(shortened(job.scopes, MOST_ADDRESSES)):
        yield from _subnet(network.with_netmask, scopes)


def _subnet(with_netmask: str, scopes: list[Scope]) -> Iterator[str]:
    address, _, netmask = with_netmask.partition("/")
    yield f"subnet {address} netmask {netmask} {{"
    for scope in scopes:
        yield f"  range {scope.first} {scope.last};"
    if scopes and scopes[0].router:
        yield f"  option routers {scopes[0].router};"
    yield "}"


def _config(job: ServerJob) -> Path:
    return job.directory / "dhcpd.conf"


def _leases(job: ServerJob) -> Path:
    return job.directory / "dhcpd.leases"


SERVER = IscDhcpd()
