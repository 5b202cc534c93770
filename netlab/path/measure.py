"""Counters of a lab's places during one test: put there, read, taken off, told.

Where they cannot be had the test goes on without, and says so: what was not measured is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import Any

from fastpath.errors import SystemRefused
from netlab import lifecycle
from netlab.path.losses import UNKNOWN, Counted, Heard
from netlab.state import Journal
from netlab.topology import Role

# Of losses inside nodes; links, sockets and rings count their own.
_NO_REASONS = "this kernel gives no reasons of drops (Linux 5.17)"


class PathCounters:
    """Counters on every interface of a lab that stands, from here to the end of the block.

    sample: of so many exchanges one is timed. behind: see `Probe`. heard: how programs of nodes
    hear DHCP. why: empty where all went well.
    """

    def __init__(self, journal: Journal, sample: int, behind: bool = False,
                 heard: Heard = UNKNOWN) -> None:
        from ebpf.probe import Probe, Reading
        from netlab.path.places import layout

        self.why = ""
        self._layout = layout(journal)
        self._heard = replace(heard, switches=[
            node.name for node in self._layout.nodes if node.role == Role.SWITCH])
        self._probe: Probe | None = None
        self._sees_drops = False
        self._reading: Reading | None = None
        try:
            # What an observer that was killed has left here would count, and cost, for ever.
            lifecycle.take_filters(journal.lab)
            self._probe = Probe(
                self._layout.ends, sample, behind=behind,
                by_udp=[journal.namespace(node) for node in heard.by_udp])
            self._sees_drops = self._probe.sees_drops
            # Where messages pass already, those that came while only some counters stood are
            # nobody's.
            self._before = self._probe.read().counts
        except (SystemRefused, OSError) as error:
            self.why = str(error)

    def __enter__(self) -> PathCounters:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._probe:
            self._probe.close()
            self._probe = None

    @property
    def by_links(self) -> bool:
        """Whether they come and go without stopping an interface."""
        return self._probe is not None and self._probe.by_links

    @property
    def losses_why(self) -> str:
        """Why losses inside nodes have no reasons; empty where they have."""
        return "" if self._sees_drops else _NO_REASONS

    def read(self) -> None:
        """Keep what was counted until now."""
        if self._probe:
            try:
                reading = self._probe.read()
                self._reading = replace(reading, counts=self._since(self._before, reading.counts))
            except OSError as error:
                self.why = f"counters cannot be read: {error.strerror}"

    @staticmethod
    def _since(before: Any, now: Any) -> Any:
        """Counters less what they were; both of COUNTS, of one shape."""
        passed = now.copy()
        for name in now.dtype.names:
            passed[name] -= before[name]
        return passed

    def complete(self, document: dict[str, Any], counted: Iterable[Counted] = ()) -> None:
        """Put `path` and `latency_parts` into a result document; None where not measured.

        counted: what sockets and rings of the lab's programs counted during the test.
        """
        from netlab.path import document as told
        from netlab.path.losses import at_sockets, named

        if self._reading is None:
            document |= {"path": None, "path_not_measured": self.why, "latency_parts": {}}
            return
        nodes = {node.namespace: node.name for node in self._layout.nodes}
        drops = self._reading.drops or ()
        losses = [*named(drops, nodes, self._heard), *at_sockets(drops, nodes, counted)]
        path = told.path(self._layout, self._reading, losses)
        document["path"] = path
        if self.losses_why:
            document["losses_not_measured"] = self.losses_why
        document["latency_parts"] = told.latency_parts(
            self._layout, self._reading, path, document["latency_us"])
