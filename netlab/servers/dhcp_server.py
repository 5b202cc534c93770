"""Our own server: one scope is on its command line, several are in a configuration file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from fastpath.errors import SystemRefused
from netlab import programs
from netlab.adapter import Report, Running, Scope, ServerJob
from netlab.servers.foreign import by_network, put

_PACKAGE = "dhcp-netlab"
_READ_TIMEOUT_S = 120.0
# Causes for which the server says nothing at all, and which are no part of a good exchange.
_REFUSED = frozenset(("max_hops", "no_subnet", "no_free_address", "relayed", "max_concurrent",
                      "reply_too_large", "no_identity", "not_stored", "fault", "no_room"))


class DhcpServer:
    """The reference server of this project."""

    program = "dhcp-server"
    package = _PACKAGE
    notifies = True

    def prepare(self, job: ServerJob) -> None:
        """The configuration, if there is more than one scope."""
        for path in (_leases(job), _stats(job)):
            path.unlink(missing_ok=True)
        if len(job.scopes) > 1:
            _config(job).write_text(yaml.safe_dump(_document(job), sort_keys=False))

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        """`job.options` go last, so that they win."""
        if len(job.scopes) > 1:
            told = ["--config", str(_config(job))]
        else:
            told = [word for port in job.ports for word in ("--interface", port.ifname)]
            told += [word for scope in job.scopes for word in _flags(scope)]
            told += ["--lease-time", f"{job.lease_time_s}s"]
        return (str(executable), *told, "--lease-file", str(_leases(job)),
                "--stats-json", str(_stats(job)), *job.options)

    def environment(self, job: ServerJob) -> Mapping[str, str]:
        return {}

    def ready(self, job: ServerJob, running: Running) -> bool:
        """It says so itself."""
        return True

    def settle(self, job: ServerJob, running: Running) -> None:
        """A lease is in its file before the client knows of it."""

    def report(self, job: ServerJob) -> Report:
        """From its stats file; when it was killed before it wrote one, nothing is known."""
        return read_report(_stats(job))

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """What `dhcp-server leases` makes of the file."""
        where = programs.find(self.program, self.package)
        found: dict[str, str] = {}
        try:
            said = subprocess.run(
                [where, "leases", _leases(job), "--json", "--state", "bound"], check=True,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_READ_TIMEOUT_S).stdout
            for row in json.loads(said):
                put(found, row["address"], row["chaddr"])
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", b"") or str(error).encode()
            raise SystemRefused(f"cannot read the leases of {job.node}: "
                                f"{why.decode(errors='replace').strip()}",
                                f"dhcp-server leases {_leases(job)}") from None
        return found


def read_report(path: Path) -> Report:
    """From the statistics of one of our own programs; they all write the same names."""
    try:
        stats = json.loads(path.read_text())
    except (OSError, ValueError):
        return Report(_version())
    if not isinstance(stats, dict):
        return Report(_version())
    # The server counts why it answered as it did, which is mostly "ok".
    discarded = stats.get("discarded") or {name: count for name, count
                                           in stats.get("causes", {}).items() if name in _REFUSED}
    return Report(_version(), stats.get("rx_ring_drops"), discarded, stats)


def _version() -> str | None:
    # One distribution brings the lab and all programs of ours.
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return None


def _flags(scope: Scope) -> tuple[str, ...]:
    router = ("--gateway", str(scope.router)) if scope.router else ()
    return ("--start-ip", str(scope.first), "--end-ip", str(scope.last),
            "--netmask", str(scope.network.netmask), *router)


def _document(job: ServerJob) -> dict[str, Any]:
    subnets = []
    for network, scopes in by_network(job.scopes):
        subnet: dict[str, Any] = {"subnet": str(network),
                                  "pools": [f"{s.first} - {s.last}" for s in scopes]}
        if scopes[0].router:
            subnet["gateway"] = str(scopes[0].router)
        # Where clients are without a relay.
        on_it = [port.ifname for port in job.ports if port.address.ip in network]
        if on_it:
            subnet["interface"] = on_it[0]
        subnets.append(subnet)
    return {"server": {"interfaces": [port.ifname for port in job.ports],
                       "lease_time": job.lease_time_s, "subnets": subnets}}


def _config(job: ServerJob) -> Path:
    return job.directory / "server.yaml"


def _leases(job: ServerJob) -> Path:
    return job.directory / "leases"


def _stats(job: ServerJob) -> Path:
    return job.directory / "stats.json"


SERVER = DhcpServer()
