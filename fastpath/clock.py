"""Time that only goes forward, and the kernel's receive stamps on that same scale.

Everything here is measured in CLOCK_MONOTONIC nanoseconds, but the stamps in a packet ring are
CLOCK_REALTIME (packet(7), PACKET_TIMESTAMP). The two differ by an offset that moves only when
somebody sets the wall clock (slewing bends both alike), so it is sampled again before every
batch. A stamp from before such a step cannot be told apart from one of another time: such
stamps are refused, and the caller takes its own `now_ns` instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

NS_PER_S = 1_000_000_000
STEP_NS = 1_000_000
# A packet is read within this time of its arrival, or its stamp is worth nothing anyway.
STALE_NS = NS_PER_S
GOOD_BRACKET_NS = 2_000
TRIES = 8


class Clock:
    """Monotonic time, and the distance of the wall clock from it. One thread uses it.

    steps: how often the wall clock was seen to jump by more than STEP_NS.
    bracket_ns: the error of the offset is less than this.
    trusted_from_ns: monotonic; stamps that convert to an earlier time are not to be used.
    `monotonic_ns` and `realtime_ns` are for tests that need a clock to jump.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns,
                 realtime_ns: Callable[[], int] = time.time_ns) -> None:
        self.now_ns = monotonic_ns
        self._realtime_ns = realtime_ns
        self.steps = 0
        self.trusted_from_ns = 0
        self._offset_ns, self.bracket_ns = self._sample()

    def _sample(self) -> tuple[int, int]:
        """Realtime minus monotonic, and the bracket: the best of a few tries.

        The wall clock is read between two readings of the other, so the truth is within half
        their distance of the middle. A try that was interrupted is wide; it is tried again.
        """
        best_offset, best_bracket = 0, -1
        for _ in range(TRIES):
            before = self.now_ns()
            wall = self._realtime_ns()
            after = self.now_ns()
            # One more: with a coarse clock all three can read the same.
            bracket = after - before + 1
            if best_bracket < 0 or bracket < best_bracket:
                best_offset, best_bracket = wall - (before + after) // 2, bracket
            if best_bracket <= GOOD_BRACKET_NS:
                break
        return best_offset, best_bracket

    def offset_ns(self) -> int:
        """Realtime minus monotonic, sampled now; call it before each batch of stamps.

        A move by more than STEP_NS since the last sample, beyond what both brackets
        explain, is a step: it counts in `steps`, and older stamps lose their trust.
        """
        offset, bracket = self._sample()
        moved = offset - self._offset_ns
        if abs(moved) > STEP_NS + self.bracket_ns + bracket:
            self.steps += 1
            # Set back by d, the wall clock gives old stamps d too late a time: those of
            # packets still queued would otherwise pass for new ones.
            late = min(max(-moved, 0), STALE_NS)
            self.trusted_from_ns = self.now_ns() + late
        self._offset_ns, self.bracket_ns = offset, bracket
        return offset

    def stamp_ns(self, seconds: int, nanoseconds: int) -> int | None:
        """A kernel stamp as monotonic nanoseconds by the last sample; None if not trusted.

        Not trusted: before `trusted_from_ns`, or later than now by more than the bracket.
        """
        stamp = seconds * NS_PER_S + nanoseconds - self._offset_ns
        if self.trusted_from_ns <= stamp <= self.now_ns() + self.bracket_ns:
            return stamp
        return None
