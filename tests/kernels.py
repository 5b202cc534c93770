"""What tests of kernels share: how many examples, and memory that refuses a wrong index.

The one thing to know: with NUMBA_DISABLE_JIT=1 the same tests run on the plain functions,
some hundred times slower, so they take fewer examples and can watch every single access.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

COMPILED = not numba.config.DISABLE_JIT

# Hashes wrap around at 64 bits; only interpreted numpy says so.
wraps = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


def several(compiled: int, interpreted: int) -> int:
    """The first number where kernels are compiled, else the second."""
    return compiled if COMPILED else interpreted


def examples(compiled: int, interpreted: int) -> settings:
    """Hypothesis settings for a test that calls kernels; compiling takes its time."""
    return settings(deadline=None, max_examples=several(compiled, interpreted))


class Fenced(np.ndarray[Any, np.dtype[np.uint8]]):
    """Octets that may be read from `low` to `high` - 1, and written nowhere.

    Stricter than numpy: a negative index does not count from the end. Only for interpreted
    kernels, which index one element at a time.
    """

    low: int
    high: int

    def __getitem__(self, at: Any) -> Any:
        if not (isinstance(at, (int, np.integer)) and self.low <= at < self.high):
            raise IndexError(f"read at {at}, allowed is {self.low} to {self.high - 1}")
        return super().__getitem__(at)

    def __setitem__(self, at: Any, value: Any) -> None:
        raise IndexError(f"write at {at}: this memory is only read")


class Writable(Fenced):
    """Octets that may be read and written from `low` to `high` - 1, one by one or as a slice."""

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            raise IndexError("kernels do not copy slices out")
        return super().__getitem__(at)

    def __setitem__(self, at: Any, value: Any) -> None:
        first, after = (at.start, at.stop) if isinstance(at, slice) else (at, at + 1)
        if not self.low <= first <= after <= self.high:
            raise IndexError(f"write at {first} to {after - 1}, allowed is {self.low} to "
                             f"{self.high - 1}")
        self.view(np.ndarray)[at] = value


def fenced(memory: npt.NDArray[np.uint8], low: int, high: int) -> Fenced:
    view = memory.view(Fenced)
    view.low, view.high = low, high
    return view


def writable(memory: npt.NDArray[np.uint8], low: int, high: int) -> Writable:
    view = memory.view(Writable)
    view.low, view.high = low, high
    return view
