"""Our own relay: everything is on its command line, its counters are in a JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from netlab.adapter import RelayJob, Report, Running
from netlab.servers.dhcp_server import read_report


class DhcpRelay:
    """The relay of this project."""

    program = "dhcp-relay"
    package = "dhcp-netlab"
    notifies = True

    def prepare(self, job: RelayJob) -> None:
        """Nothing to write; statistics of an earlier test would be taken for this one's."""
        _stats(job).unlink(missing_ok=True)

    def command(self, executable: Path, job: RelayJob) -> Sequence[str]:
        """`job.options` go last, so that they win."""
        policy = job.policy
        told: list[tuple[str, object]] = [("--downlink", port.ifname) for port in job.downlinks]
        told.append(("--uplink", job.uplink.ifname))
        told += [("--server", target) for target in job.targets]
        if policy.max_hops is not None:
            told.append(("--max-hops", policy.max_hops))
        told += [(flag, value) for flag, value in (
            ("--option82", policy.option82), ("--circuit-id", policy.circuit_id),
            ("--remote-id", policy.remote_id)) if value]
        return (str(executable), *(str(word) for pair in told for word in pair),
                "--stats-json", str(_stats(job)), *job.options)

    def environment(self, job: RelayJob) -> Mapping[str, str]:
        return {}

    def ready(self, job: RelayJob, running: Running) -> bool:
        """It says so itself."""
        return True

    def settle(self, job: RelayJob, running: Running) -> None:
        """It writes its statistics when it ends."""

    def report(self, job: RelayJob) -> Report:
        """From its stats file; when it was killed before it wrote one, nothing is known."""
        return read_report(_stats(job))


def _stats(job: RelayJob) -> Path:
    return job.directory / "stats.json"


RELAY = DhcpRelay()
