"""How clients, starts and whatever else is counted are shared out among interfaces.

One rule for all: number i belongs to part i modulo the parts, as its number i // parts there. So
shares add up to the whole, differ by one at most, and a plan that starts client i at a time starts
it then, on whatever interface it is. Of tables with one row a client the parts stand one behind
another.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]


def share(total: int, parts: int, part: int) -> int:
    """How many of the numbers 0 .. total - 1 belong to `part`."""
    return (total - part + parts - 1) // parts


def shares(total: int, parts: int) -> Int64s:
    """int64[parts], `share` of each."""
    return (total - np.arange(parts, dtype=np.int64) + parts - 1) // parts


def row_of(numbers: Int64s, total: int, parts: int) -> Int64s:
    """The rows of numbers in a table in which the parts of `total` stand one behind another."""
    part = numbers % parts
    # So many of the parts before this one have one row more than the shortest.
    longer = np.minimum(part, total % parts)
    return part * (total // parts) + longer + numbers // parts
