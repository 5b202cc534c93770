"""dnsmasq, DHCP only, as it comes: addresses by a hash, all leases written at each change.

Writing them is what makes it slow, and what anyone who runs it gets; without it nothing could be
compared. `--leasefile-ro` among the user's options turns it off, and the comparison with it. Its
probe by ICMP echo is off (`--no-ping`): it would hold each offer back for up to three seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from netlab import sockets
from netlab.adapter import Running, ServerJob
from netlab.servers.foreign import Foreign, put

# Nothing but DHCP, in the foreground, its log on stderr, nothing read that we did not write.
ALONE = ("--keep-in-foreground", "--log-facility=-", "--port=0", "--user=root", "--group=",
         "--pid-file=")
_READ_ONLY = "--leasefile-ro"
# dnsmasq reads it as a signed number of 32 bits.
_MOST_LEASES = 1 << 30


class Dnsmasq(Foreign):
    """dnsmasq as a server."""

    program = "dnsmasq"
    package = "dnsmasq-base"

    def prepare(self, job: ServerJob) -> None:
        """The scopes; what has one value only is on the command line."""
        _leases(job).unlink(missing_ok=True)
        _config(job).write_text("\n".join(_scopes(job)) + "\n")

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        addresses = sum(int(scope.last) - int(scope.first) + 1 for scope in job.scopes)
        ours = (*ALONE, f"--conf-file={_config(job)}", f"--dhcp-leasefile={_leases(job)}",
                f"--dhcp-lease-max={min(addresses, _MOST_LEASES)}", "--dhcp-authoritative",
                "--no-ping", *(f"--interface={port.ifname}" for port in job.ports))
        return (str(executable), *without(ours, job.options), *job.options)

    def ready(self, job: ServerJob, running: Running) -> bool:
        return sockets.serves(running.pid)

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """Rows of `expiry chaddr address name client-id`; of DHCPv6 it writes none here."""
        if _READ_ONLY in job.options:
            return None
        try:
            text = _leases(job).read_text(errors="replace")
        except FileNotFoundError:
            return None
        found: dict[str, str] = {}
        for line in text.splitlines():
            row = line.split()
            if len(row) >= 5:
                put(found, row[2], row[1])
        return found


def without(ours: Iterable[str], users: Iterable[str]) -> list[str]:
    """Our options but for those that the user gives too: dnsmasq refuses what it hears twice.

    Only what is written as `--name` or `--name=value` is recognised. `--interface` may be there
    any number of times.
    """
    given = {word.partition("=")[0] for word in users} - {"--interface"}
    return [word for word in ours if word.partition("=")[0] not in given]


def _scopes(job: ServerJob) -> Iterator[str]:
    """dhcp-range with its netmask, which no interface of ours tells for clients behind relays.

    An option 3 without a value keeps dnsmasq from naming itself, or the relay, as the router.
    """
    for number, scope in enumerate(job.scopes):
        router = f",{scope.router}" if scope.router else ""
        yield (f"dhcp-range=set:scope{number},{scope.first},{scope.last},"
               f"{scope.network.netmask},{job.lease_time_s}")
        yield f"dhcp-option=tag:scope{number},3{router}"


def _config(job: ServerJob) -> Path:
    return job.directory / "dnsmasq.conf"


def _leases(job: ServerJob) -> Path:
    return job.directory / "dnsmasq.leases"


SERVER = Dnsmasq()
