"""Any other server, from a template: its options are the words of its command line.

In each word `{interface}`, `{address}` and so on are replaced; `names` below has them all. Those
of a scope are the first one's: who serves several reads them from `{config}`, a JSON file with
all of the job. The program stays in the foreground and ends on SIGTERM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fastpath.errors import UserError
from netlab import sockets
from netlab.adapter import Running, ServerJob
from netlab.servers.foreign import Foreign

_PLACE = re.compile(r"\{([a-z_]+)\}")


class Command(Foreign):
    """A program that only its user knows. The first of its options is the program itself."""

    package = "it, or name it with its directory"

    def prepare(self, job: ServerJob) -> None:
        """The job as JSON."""
        _config(job).write_text(json.dumps({
            "interfaces": [{"name": port.ifname, "address": str(port.address)}
                           for port in job.ports],
            "lease_time_s": job.lease_time_s,
            "subnets": [{"network": str(s.network), "first": str(s.first), "last": str(s.last),
                         "router": str(s.router) if s.router else None, "hops": s.hops}
                        for s in job.scopes]}, indent=1) + "\n")
        self.command(Path(), job)

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        """UserError for a name in braces that means nothing."""
        known = names(job)

        def value(found: re.Match[str]) -> str:
            if found[1] not in known:
                raise UserError(f"command of {job.node}: {found[0]} means nothing here",
                                f"there is: {', '.join(f'{{{name}}}' for name in known)}")
            return known[found[1]]

        return (str(executable), *(_PLACE.sub(value, word) for word in job.options[1:]))

    def ready(self, job: ServerJob, running: Running) -> bool:
        """A UDP socket on port 67, or a packet socket. Whether it reads them yet nobody can see;
        clients ask again."""
        found = sockets.opened(running.pid)
        return found is not None and (found.hears(sockets.DHCP_SERVER_PORT) or bool(found.packet))

    def _version(self) -> str | None:
        return None

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """Where it keeps them only its user knows."""
        return None


def names(job: ServerJob) -> dict[str, str]:
    """What may stand in braces, and what for. Without a port, or scope, theirs are empty."""
    port, scope = (job.ports or (None,))[0], (job.scopes or (None,))[0]
    return {
        "interface": port.ifname if port else "",
        "interfaces": ",".join(each.ifname for each in job.ports),
        "address": str(port.address.ip) if port else "",
        "network": str(scope.network) if scope else "",
        "netmask": str(scope.network.netmask) if scope else "",
        "first": str(scope.first) if scope else "",
        "last": str(scope.last) if scope else "",
        "router": str(scope.router) if scope and scope.router else "",
        "lease_time": str(job.lease_time_s),
        "directory": str(job.directory),
        "config": str(_config(job)),
    }


def _config(job: ServerJob) -> Path:
    return job.directory / "job.json"


SERVER = Command()
