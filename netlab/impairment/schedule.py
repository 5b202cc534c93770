"""When what is put on a link and taken off again: a timeline that a test walks through.

Pure: time comes in as an argument, in seconds since the test began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netlab.impairment.arrange import Setting


@dataclass(frozen=True, slots=True)
class Change:
    """At `at_s`, `setting` comes into force (on) or ends."""

    at_s: float
    setting: Setting
    on: bool


def changes(settings: Iterable[Setting]) -> tuple[Change, ...]:
    """All changes in order of time; what ends comes before what begins at the same time."""
    each = list(settings)
    found = [Change(s.from_s, s, True) for s in each]
    found += [Change(s.until_s, s, False) for s in each if s.until_s]
    return tuple(sorted(found, key=lambda change: (change.at_s, change.on)))


class Schedule:
    """Where a test is on the timeline. Call `due(0.0)` before the programs start: what is in
    force from the beginning is then there for their first frame."""

    def __init__(self, settings: Iterable[Setting]) -> None:
        self._changes = changes(settings)
        self._next = 0

    @property
    def next_s(self) -> float | None:
        """When the next change is due; None after the last."""
        return self._changes[self._next].at_s if self._next < len(self._changes) else None

    def due(self, now_s: float) -> tuple[Change, ...]:
        """The changes that are due and were not returned before."""
        start = self._next
        while (at_s := self.next_s) is not None and at_s <= now_s:
            self._next += 1
        return self._changes[start:self._next]
