"""The impairments of a topology during one test: put on, changed in time, counted, taken off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from netlab import features, plan
from netlab.impairment import wire
from netlab.impairment.arrange import Arrangement, arrange, shown
from netlab.impairment.netem import load_netem
from netlab.impairment.schedule import Schedule
from netlab.topology import Topology


class InForce:
    """What befalls links while a test runs. With none in the topology every call does nothing.

    programs: adapter by node. Raises UserError for what cannot be meant, SystemRefused for what
    this machine cannot do; nothing is changed before `begin`.
    """

    def __init__(self, lab: str, topology: Topology, programs: Mapping[str, str],
                 say: Callable[[str], None]) -> None:
        self._lab, self._topology = lab, topology
        self._arranged = Arrangement()
        if topology.impairments:
            self._arranged = arrange(topology, load_netem(features.probe(), say), programs)
            self._arranged.check()
        self._schedule = Schedule(self._arranged.settings)
        self._began_s = time.monotonic()

    def faults_for(self, node: str) -> tuple[str, ...]:
        """Words for the command line of our own program in `node`."""
        return tuple(self._arranged.faults_for(node))

    def prepare(self) -> None:
        """What is in force from the beginning is there for the first frame."""
        wire.carry_out(self._lab, self._schedule.due(0.0))

    def begin(self) -> None:
        """The test begins: times count from now on."""
        self._began_s = time.monotonic()

    def walk(self) -> float | None:
        """Carry out what is due; seconds until the next change, None where there is none."""
        now_s = time.monotonic() - self._began_s
        wire.carry_out(self._lab, self._schedule.due(now_s))
        next_s = self._schedule.next_s
        return None if next_s is None else max(0.0, next_s - now_s)

    def lost(self) -> list[dict[str, Any]]:
        """What the impairments that are in force lost: [{"end", "direction", "frames"}]."""
        if not self._arranged.settings:
            return []
        ends = {end for each in self._arranged.settings for end in (each.sender, each.receiver)}
        links = [link for link in self._topology.links if link.end in ends]
        found = []
        told = set()
        for end, ways in wire.conditions(self._lab, self._topology, links).items():
            peer = plan.peer(self._topology, next(each for each in links if each.end == end))
            for direction, way in zip(("out", "in"), ways, strict=True):
                # A cable has two links, whose "in" and "out" are the same frames.
                frames_from = end if direction == "out" else peer
                if frames_from in told:
                    continue
                told.add(frames_from)
                frames = (way.queue.dropped if way.queue else 0) + (way.loss.lost if way.loss
                                                                    else 0)
                if frames:
                    found.append({"end": shown(end), "direction": direction,
                                  "frames": frames})
        return found

    def end(self) -> None:
        """Let frames pass again, in a lab that stays."""
        wire.clear(self._lab, {(each.sender, each.receiver) for each in self._arranged.settings})
