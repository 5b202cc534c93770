"""Our own server: everything is on its command line, its counters are in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from netlab.servers import Job, Report


class DhcpServer:
    """The reference server of this project."""

    program = "dhcp-server"
    package = "dhcp-netlab"
    notifies = True

    def prepare(self, job: Job) -> None:
        """Nothing to write."""

    def command(self, executable: Path, job: Job) -> Sequence[str]:
        """One subnet from flags; `job.options` go last, so that they win."""
        (subnet,) = job.subnets
        return (str(executable), "--interface", job.interface,
                "--start-ip", str(subnet.first), "--end-ip", str(subnet.last),
                "--netmask", str(subnet.network.netmask),
                "--lease-time", f"{job.lease_time_s}s",
                "--stats-json", str(_stats(job)), *job.options)

    def report(self, job: Job) -> Report:
        """From its stats file; when it was killed before it wrote one, nothing is known."""
        try:
            stats = json.loads(_stats(job).read_text())
        except (OSError, ValueError):
            return Report(_version(), None, {})
        return Report(_version(), stats.get("rx_ring_drops"), stats)


def _version() -> str | None:
    # One distribution brings the lab and this server.
    try:
        return version(DhcpServer.package)
    except PackageNotFoundError:
        return None


def _stats(job: Job) -> Path:
    return job.directory / "stats.json"


SERVER = DhcpServer()
