"""When exchanges begin: plans as small objects, each with its equation.

Time is in seconds from the beginning of the test. `due(t)` is how many exchanges the plan
wants begun by then; `times(first, n)` is when exchanges first .. first+n-1 are meant to
begin. The two are inverse: due(times(i, 1)[0]) == i + 1. (Poisson arrivals may share a moment,
in an avalanche all do; then `due` counts every start of that moment.)

A shape is a rate that changes with time, r(t); its integral N(t) is how many starts are wanted
by t. `OpenLoop` makes a plan of a shape: start i is where N passes i, or, at random, where N
passes the sum of i + 1 exponential gaps of mean 1: a Poisson process with the rate r(t).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastpath.errors import UserError

Floats = npt.NDArray[np.float64]

# Start times are worked out so many at once: a pause of 0.1 ms, each 4 ms at a million a second.
BLOCK = 4096
# All the starts there can be: beyond, a float no longer tells one from the next.
EVERYONE = 1 << 53
# More random starts than this `starts_within` does not draw one by one: it would take seconds.
MOST_DRAWN = 1 << 27


class Shape(Protocol):
    """A rate that changes with time, before anything is said of single starts."""

    @property
    def ends_s(self) -> float | None:
        """When the last start is over; None: goes on for ever."""

    @property
    def total(self) -> float:
        """N at the end; inf where there is none. Starts are the whole numbers below it."""

    @property
    def most_per_s(self) -> float:
        """The highest rate."""

    def expected(self, t_s: float) -> float:
        """N(t), the integral of the rate from 0 to `t_s`; 0 before time 0."""

    def inverse(self, n: Floats) -> Floats:
        """When N passes each of `n` (finite, 0 or more): seconds; inf where it never does.

        Where N rests at n for a while, that is the end of the rest: start n has to wait for
        the rate to come back. A start that would fall on the very end is none.
        """

    def describe(self) -> dict[str, Any]:
        """For the result document: the shape's name and what it was made of."""


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """N(t) = rate * t: start i is at i / rate, whatever the server does.

    N
      |        /
      |     /       slope: rate_per_s
      |  /
      +---------- t
    """

    rate_per_s: float
    ends_s: ClassVar[None] = None
    total: ClassVar[float] = math.inf

    @property
    def most_per_s(self) -> float:
        return self.rate_per_s

    def expected(self, t_s: float) -> float:
        return max(t_s, 0.0) * self.rate_per_s

    def inverse(self, n: Floats) -> Floats:
        return n / self.rate_per_s

    def describe(self) -> dict[str, Any]:
        return {"shape": "constant", "rate_per_s": self.rate_per_s}


@dataclass(frozen=True, slots=True)
class Ramp:
    """From nothing to the full rate in a straight line, then constant.

    N(t) = rate * t^2 / (2 * over)   until over_s,
           rate * (t - over / 2)     from then on.

    r
      |      ________   rate_per_s
      |    /
      |  /
      +------+------- t
           over_s
    """

    rate_per_s: float
    over_s: float
    ends_s: ClassVar[None] = None
    total: ClassVar[float] = math.inf

    @property
    def most_per_s(self) -> float:
        return self.rate_per_s

    def expected(self, t_s: float) -> float:
        t_s = max(t_s, 0.0)
        if t_s >= self.over_s:
            return self.rate_per_s * (t_s - self.over_s / 2)
        return self.rate_per_s * t_s * t_s / (2 * self.over_s)

    def inverse(self, n: Floats) -> Floats:
        climbing = self.rate_per_s * self.over_s / 2
        return np.where(n < climbing, np.sqrt(n * (2 * self.over_s / self.rate_per_s)),
                        self.over_s + (n - climbing) / self.rate_per_s)

    def describe(self) -> dict[str, Any]:
        return {"shape": "ramp", "rate_per_s": self.rate_per_s, "over_s": self.over_s}


@dataclass(frozen=True, slots=True)
class Stages:
    """(seconds, rate_per_s) after (seconds, rate_per_s), as k6 has them; then nothing more.

    In each stage the rate goes in a straight line from that of the stage before (0 at first)
    to its own; a stage of no length is a jump. In a stage of length d from r0 to r1, u after
    its beginning:

    N = N0 + r0 * u + (r1 - r0) * u^2 / (2 * d)

    r
      |     /\\_____
      |    /       |         10s:20, 5s:10, 15s:10, 0s:0, 10s:0, 10s:20
      |   /        |      /
      |  /         |____/
      +---------------------- t
    """

    stages: tuple[tuple[float, float], ...]
    # One row a stage, then one that begins never: N at its beginning, when it begins and ends,
    # how long it is, r0 and r1 - r0.
    _rows: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        t, n, r0 = Fraction(0), Fraction(0), Fraction(0)
        rows = []
        for seconds, rate_per_s in self.stages:
            # As they were written, not as rounded: 1.1 s at 100/s must be 110 starts, no more.
            d, r1 = Fraction(repr(float(seconds))), Fraction(repr(float(rate_per_s)))
            rows.append((float(n), float(t), float(t + d), float(d), float(r0), float(r1 - r0)))
            t, n, r0 = t + d, n + d * (r0 + r1) / 2, r1
        rows.append((float(n), math.inf, math.inf, 1.0, 1.0, 0.0))
        object.__setattr__(self, "_rows", np.array(rows).T.copy())

    @property
    def ends_s(self) -> float:
        return float(self._rows[2, -2])

    @property
    def total(self) -> float:
        return float(self._rows[0, -1])

    @property
    def most_per_s(self) -> float:
        return max(rate for _, rate in self.stages)

    def expected(self, t_s: float) -> float:
        if t_s <= 0:
            return 0.0
        row = bisect.bisect_right(self._rows[1], t_s) - 1
        n, begins_s, ends_s, length_s, r0, rise = self._rows[:, row].tolist()
        if t_s >= ends_s:
            return self.total
        u = t_s - begins_s
        return float(n + u * (r0 + rise * (u / length_s) / 2))

    def inverse(self, n: Floats) -> Floats:
        # Of several stages that begin at the same N the last one is where N grows again.
        row = np.searchsorted(self._rows[0], n, "right") - 1
        begins_n, begins_s, ends_s, length_s, r0, rise = self._rows[:, row]
        m = n - begins_n
        # Of the two forms of the root this one neither cancels nor divides by rise, which may
        # be 0. What follows is r0 + r(t); it is 0 only at the foot of a climb from nothing.
        rates = r0 + np.sqrt(np.maximum(r0 * r0 + 2 * rise * (m / length_s), 0.0))
        u = np.divide(2 * m, rates, out=np.zeros_like(m), where=rates > 0)
        times_s: Floats = np.minimum(begins_s + u, ends_s)
        return times_s

    def describe(self) -> dict[str, Any]:
        return {"shape": "stages",
                "stages": [{"over_s": d, "rate_per_s": rate} for d, rate in self.stages]}


@dataclass(frozen=True, slots=True)
class Avalanche:
    """Everything at time 0, as after a power cut: N(t) = all there are.

    N
      |____________
      |
      +---------- t
    """

    ends_s: ClassVar[float] = 0.0
    total: ClassVar[float] = math.inf
    most_per_s: ClassVar[float] = math.inf

    def expected(self, t_s: float) -> float:
        return float(EVERYONE) if t_s >= 0 else 0.0

    def inverse(self, n: Floats) -> Floats:
        return np.where(n < EVERYONE, 0.0, np.inf)

    def describe(self) -> dict[str, Any]:
        return {"shape": "avalanche"}


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A new exchange begins when one ends: always `window` in flight.

    It asks how fast the server can be. A slow server slows the load, so it cannot tell what
    clients who do not wait would see; for that, use a rate.
    """

    window: int
    most_per_s: ClassVar[float] = math.inf

    def describe(self) -> dict[str, Any]:
        return {"shape": "closed", "concurrency": self.window}


class _Block(NamedTuple):
    """Start times first .. first + BLOCK - 1, and one more: the first of the next block.

    It answers for begins_s <= t < ends_s. next_n: N at the first start of the next block.
    """

    first: int
    begins_s: float
    ends_s: float
    next_n: float
    times_s: Floats


_DUE, _TIMES = 0, 1


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Starts that follow a shape, whatever the server does.

    poisson_seed: None for even spacing; else starts are a Poisson process, the same one for
    the same seed whatever was asked before. Asking on from where one was is cheap (some
    microseconds); going back in a Poisson process begins again at its first start.

    Raises UserError where a seed is given for a shape of infinite rate.
    """

    shape: Shape
    poisson_seed: int | None = None
    # The blocks that `due` and `times` looked at last. Two, because a generator that is late
    # makes starts far behind those that are due.
    _blocks: list[_Block] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.poisson_seed is not None and math.isinf(self.shape.most_per_s):
            raise UserError("an avalanche comes all at once: it has no random gaps",
                            "leave out --poisson or --avalanche")
        self._blocks[:] = [self._block(0)] * 2

    @property
    def most_per_s(self) -> float:
        """The highest rate of the shape."""
        return self.shape.most_per_s

    def due(self, t_s: float) -> int:
        """How many starts are meant to be at `t_s` or before."""
        block = self._blocks[_DUE]
        if not block.begins_s <= t_s < block.ends_s:
            block = self._blocks[_DUE] = self._block_at(block, t_s)
        return block.first + int(block.times_s.searchsorted(t_s, "right"))

    def times(self, first: int, count: int) -> Floats:
        """When starts first .. first+count-1 are meant to be: s, inf for those that never are.

        The array may be one of our own, and is then read-only.
        """
        block = self._blocks[_TIMES]
        at = first - block.first
        if at >= 0 and at + count <= BLOCK:
            return block.times_s[at:at + count]
        times_s, done = np.empty(count), 0
        while done < count:
            block = self._block_of(block, first + done)
            at = first + done - block.first
            taken = block.times_s[at:min(BLOCK, at + count - done)]
            times_s[done:done + taken.size] = taken
            done += taken.size
        self._blocks[_TIMES] = block
        return times_s

    def describe(self) -> dict[str, Any]:
        """For the result document: the shape, and how starts are spaced."""
        arrivals: dict[str, Any] = {"arrivals": "even"}
        if self.poisson_seed is not None:
            arrivals = {"arrivals": "poisson", "seed": self.poisson_seed}
        return self.shape.describe() | arrivals

    def _block_at(self, block: _Block, t_s: float) -> _Block:
        """The block that answers for `t_s`; `block` is where to look from."""
        if self.poisson_seed is None:
            block = self._block(int(self.shape.expected(t_s)) // BLOCK)
        while t_s < block.begins_s:
            # N(t) is rounded: the guess may be one block too far.
            block = self._block(block.first // BLOCK - 1 if self.poisson_seed is None else 0)
        while t_s >= block.ends_s:
            block = self._block(block.first // BLOCK + 1, block.next_n)
        return block

    def _block_of(self, block: _Block, start: int) -> _Block:
        """The block that `start` is in; `block` is where to look from."""
        due = self._blocks[_DUE]
        if 0 <= start - due.first < BLOCK:
            return due
        if self.poisson_seed is None:
            return self._block(start // BLOCK)
        if start < block.first:
            block = self._block(0)
        while start >= block.first + BLOCK:
            block = self._block(block.first // BLOCK + 1, block.next_n)
        return block

    def _block(self, number: int, first_n: float = 0.0) -> _Block:
        """Work out a block; first_n: N at its first start, needed where gaps are random."""
        first = number * BLOCK
        if self.poisson_seed is None:
            n = np.arange(first, first + BLOCK + 1, dtype=np.float64)
        else:
            n = np.empty(BLOCK + 1)
            n[0] = first_n if number else _gaps(self.poisson_seed, 0, 1)[0]
            n[1:] = _gaps(self.poisson_seed, number + 1, BLOCK)
            np.cumsum(n, out=n)
        times_s = self.shape.inverse(n)
        # Two random starts may be so close that rounding swaps them. First and last stay as
        # they are: the neighbouring blocks have them too.
        times_s = np.minimum(np.maximum.accumulate(times_s), times_s[-1])
        times_s.flags.writeable = False
        return _Block(first, float(times_s[0]) if number else -math.inf, float(times_s[-1]),
                      float(n[-1]), times_s)


Plan = ClosedLoop | OpenLoop


def _gaps(seed: int, stream: int, count: int) -> Floats:
    """`count` exponential gaps of mean 1; each stream of a seed has its own."""
    # Philox turns key and counter into noise; the streams are 2**64 counts apart.
    noise = np.random.Philox(key=seed, counter=stream << 64)
    return np.random.Generator(noise).standard_exponential(count)


def starts_within(plan: OpenLoop, duration_s: float) -> int:
    """How many starts the plan makes before `duration_s`, finite; EVERYONE in an avalanche.

    At a constant rate: rate * duration, rounded up. For a Poisson process those it really
    makes, counted one by one; of more than MOST_DRAWN, how many are to be expected.
    """
    wanted = plan.shape.expected(duration_s)
    if plan.poisson_seed is not None and wanted > MOST_DRAWN:
        return math.ceil(wanted)
    return plan.due(math.nextafter(duration_s, -math.inf))
