"""Latencies in whole microseconds, in buckets that keep three significant digits.

The layout is the one of HdrHistogram(lowest 1, highest 3,600,000,000, 3 digits), so exports
(`fastpath.hdr`) need no conversion: one bucket a microsecond below 2048 us, then 1024 buckets
an octave. A histogram is one int64 array, the counts and a short tail, and an array of zeros
is an empty one: several may be rows of one table. Kernels fill it through
`fastpath.record.record_us`; this module needs numpy only, so readers of results start fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

HIGHEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3
# 2048 is the first power of two over 2 * 10**3: buckets are then never wider than 0.1 %.
SUB_BUCKET_BITS = 11
HALF_BITS = SUB_BUCKET_BITS - 1
SUB_BUCKETS = 1 << SUB_BUCKET_BITS
OCTAVES = (HIGHEST_US >> SUB_BUCKET_BITS).bit_length() + 1
COUNTS = (OCTAVES + 1) << HALF_BITS

# The tail, by index. MIN is 0 while nothing is recorded: 0 itself counts as 1.
TOTAL, MIN, MAX, SUM, OVERFLOW = range(COUNTS, COUNTS + 5)
SIZE = COUNTS + 5

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}


def bucket_of(value_us: int) -> int:
    """Index of the bucket that holds `value_us`, 0 to 2**32 - 1."""
    shift = (value_us >> SUB_BUCKET_BITS).bit_length()
    return (shift << HALF_BITS) + (value_us >> shift)


def bucket_ranges(buckets: Int64s) -> tuple[Int64s, Int64s]:
    """The lowest and the highest value, both inclusive, of each bucket index in `buckets`."""
    shift = np.maximum((buckets >> HALF_BITS) - 1, 0)
    lowest = (buckets - (shift << HALF_BITS)) << shift
    return lowest, lowest + (1 << shift) - 1


class Histogram:
    """A view of one int64 array of `SIZE` cells; made empty, or around an array that exists.

    Raises ValueError for an array of another type or length. Not locked: let one thread
    write, and merge or read when it rests.
    """

    __slots__ = ("data",)

    def __init__(self, data: Int64s | None = None) -> None:
        if data is None:
            data = np.zeros(SIZE, np.int64)
        if data.dtype != np.int64 or data.shape != (SIZE,):
            raise ValueError(f"a histogram is {SIZE} int64 cells, not {data.dtype}{data.shape}")
        self.data = data

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return int(self.data[TOTAL])

    @property
    def min_us(self) -> int:
        """The lowest recorded value, exact; 0 when empty."""
        return int(self.data[MIN])

    @property
    def max_us(self) -> int:
        """The highest recorded value, exact; 0 when empty."""
        return int(self.data[MAX])

    @property
    def overflow(self) -> int:
        """How many values were over `HIGHEST_US`, and counted as that."""
        return int(self.data[OVERFLOW])

    @property
    def mean_us(self) -> float:
        """Mean of the recorded (clamped) values, from their exact sum; 0.0 when empty."""
        return int(self.data[SUM]) / self.count if self.count else 0.0

    def record(self, value_us: int) -> None:
        """Count one value, clamped to 1..HIGHEST_US; the slow twin of `record_us`."""
        clamped = min(max(int(value_us), 1), HIGHEST_US)
        data = self.data
        data[bucket_of(clamped)] += 1
        data[TOTAL] += 1
        data[SUM] += clamped
        data[MIN] = min(int(data[MIN]) or clamped, clamped)
        data[MAX] = max(int(data[MAX]), clamped)
        data[OVERFLOW] += int(value_us) > HIGHEST_US

    def merge(self, other: Histogram) -> None:
        """Add everything that `other` has counted; exact, as if recorded here."""
        lows = [low for low in (self.min_us, other.min_us) if low]
        high = max(self.max_us, other.max_us)
        self.data += other.data
        self.data[MIN] = min(lows, default=0)
        self.data[MAX] = high

    def reset(self) -> None:
        """Forget everything."""
        self.data[:] = 0

    def percentile(self, p: float) -> int:
        """The value at percentile `p`, 0 to 100, in microseconds; 0 when empty.

        By nearest rank: the smallest recorded value v for which at least p percent of all
        recorded values are <= v. Of that value's bucket the highest value is given, as
        HdrHistogram does, but never more than the recorded maximum: the result is exact
        below 2048 us, and above that at most 0.1 % too high, never too low. `p` = 0 gives
        the recorded minimum. `p` is read to 12 significant digits, so that 99.9 and
        100 * 2 / 3 mean what they say. Raises ValueError outside 0..100.
        """
        return self._percentiles([p])[0]

    def _percentiles(self, wanted: list[float]) -> list[int]:
        if not all(0 <= p <= 100 for p in wanted):
            raise ValueError(f"percentiles lie between 0 and 100, not {wanted}")
        cumulated = np.cumsum(self.data[:COUNTS])
        total = int(cumulated[-1])
        if not total:
            return [0] * len(wanted)
        # Below the last digit that counts, so that 99.9 % of 1000 is rank 999, not 1000.
        ranks = [max(1, math.ceil(p * total / 100 * (1 - 1e-12))) for p in wanted]
        _, highest = bucket_ranges(np.searchsorted(cumulated, ranks).astype(np.int64))
        values = np.minimum(highest, self.data[MAX])
        return [self.min_us if p == 0 else int(v) for p, v in zip(wanted, values, strict=True)]

    def stddev_us(self) -> float:
        """Standard deviation of all recorded values (not of a sample); 0.0 when empty.

        From the middles of the buckets, so off by at most 0.05 % of the values.
        """
        if not self.count:
            return 0.0
        filled = np.flatnonzero(self.data[:COUNTS])
        lowest, highest = bucket_ranges(filled)
        middle = (lowest + highest) / 2
        weight = self.data[filled] / self.data[filled].sum()
        return math.sqrt(float(weight @ (middle - weight @ middle) ** 2))

    def summary(self) -> dict[str, int | float]:
        """One entry of `latency_us` in the result file; all zero when empty."""
        values = self._percentiles(list(PERCENTILES.values()))
        return {
            "count": self.count,
            "min": self.min_us,
            "mean": round(self.mean_us, 1),
            "stddev": round(self.stddev_us(), 1),
            **dict(zip(PERCENTILES, values, strict=True)),
            "max": self.max_us,
        }

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """(value_from, value_to, count) of every bucket that is not empty, in order.

        Both values are inclusive, in microseconds.
        """
        filled = np.flatnonzero(self.data[:COUNTS])
        lowest, highest = bucket_ranges(filled)
        for row in zip(lowest, highest, self.data[filled], strict=True):
            yield int(row[0]), int(row[1]), int(row[2])
