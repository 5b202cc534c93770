"""A server that the lab does not start: an appliance behind an interface, or somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from netlab.adapter import Running, ServerJob
from netlab.servers.foreign import Foreign


class External(Foreign):
    """Nothing to start, nothing to read."""

    asks_version = ""

    def prepare(self, job: ServerJob) -> None:
        """Nothing to write."""

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        return ()

    def ready(self, job: ServerJob, running: Running) -> bool:
        """Whether it answers is what the test finds out."""
        return True

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        return None


SERVER = External()
