"""The kernel that fills a histogram: `record_us(histogram.data, value_us)`.

It stands apart from `fastpath.histogram` so that reading results does not import numba.
"""

from __future__ import annotations

import numpy as np

from fastpath.histogram import (
    HALF_BITS,
    HIGHEST_US,
    MAX,
    MIN,
    OVERFLOW,
    SUB_BUCKET_BITS,
    SUM,
    TOTAL,
    Int64s,
)
from fastpath.jit import kernel


@kernel
def record_us(data: Int64s, value_us: int) -> None:
    """Count one value in `data` (int64, `fastpath.histogram.SIZE` cells), in microseconds.

    Any integer that fits int64. Zero and negative values (a stamp taken just before another
    clock was read) count as 1, values over HIGHEST_US as that and in OVERFLOW too.
    """
    given = np.int64(value_us)
    value = min(max(given, np.int64(1)), np.int64(HIGHEST_US))
    # The octave above the first 2048. LLVM makes one count of leading zeros of this loop.
    shift = np.int64(0)
    above = value >> SUB_BUCKET_BITS
    while above:
        above >>= 1
        shift += 1
    data[(shift << HALF_BITS) + (value >> shift)] += 1
    data[TOTAL] += 1
    data[SUM] += value
    if data[MIN] == 0 or value < data[MIN]:
        data[MIN] = value
    if value > data[MAX]:
        data[MAX] = value
    if given > HIGHEST_US:
        data[OVERFLOW] += 1
