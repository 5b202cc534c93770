"""Times and counts as programs in the kernel leave them: percentiles, sums over CPUs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.probe import COUNTS, TIMES, _added, _merged, bucket_ns, percentile_ns
from tests.ebpf_twin import BUCKETS_NS, bucket_of

_some_ns = st.one_of(st.integers(0, 40), st.integers(0, 2**20), st.integers(0, 2**41),
                     st.sampled_from([*BUCKETS_NS, *(edge - 1 for edge in BUCKETS_NS[1:])]))


def row(values_ns: list[int]) -> np.void:
    """TIMES of these, as the program adds them up."""
    found: np.void = np.zeros(1, TIMES)[0]
    found["count"], found["sum_ns"] = len(values_ns), sum(values_ns)
    if values_ns:
        found["least_ns"], found["most_ns"] = min(values_ns), max(values_ns)
    for ns in values_ns:
        found["buckets"][bucket_of(ns)] += 1
    return found


def test_every_bucket_has_a_middle_of_its_own_inside_it() -> None:
    middles = bucket_ns(np.arange(len(BUCKETS_NS)))
    assert len(BUCKETS_NS) == TIMES["buckets"].shape[0] == len(middles)
    for number, middle in enumerate(middles):
        assert bucket_of(int(middle)) == bucket_of(math.ceil(middle)) == number
        after = BUCKETS_NS[number + 1] if number + 1 < len(BUCKETS_NS) else 2**40
        assert middle == (BUCKETS_NS[number] + after - 1) / 2


@given(values_ns=st.lists(_some_ns, min_size=1, max_size=60),
       percent=st.one_of(st.integers(0, 100), st.sampled_from((0.5, 99.5, 99.75))))
def test_a_percentile_is_the_value_of_that_rank(values_ns: list[int], percent: float) -> None:
    rank = max(1, math.ceil(Fraction(percent) * len(values_ns) / 100))
    exact = sorted(values_ns)[rank - 1]
    told = percentile_ns(row(values_ns), percent)
    assert min(values_ns) <= told <= max(values_ns)
    # Half a bucket; the last one has no end.
    assert abs(told - exact) <= exact / 16 or exact >= BUCKETS_NS[-1]


@pytest.mark.parametrize("percent", [0, 50, 100])
def test_of_nothing_and_of_one(percent: float) -> None:
    assert percentile_ns(row([]), percent) == 0
    assert percentile_ns(row([123_456_789]), percent) == 123_456_789


def test_a_percentile_of_more_than_the_buckets_hold() -> None:
    """A count that its buckets do not reach: one CPU was read while it wrote."""
    torn = row([5, 7])
    torn["count"] = 3
    assert percentile_ns(torn, 100) == 7


@given(by_cpu=st.lists(st.lists(st.lists(_some_ns, max_size=5), min_size=3, max_size=3),
                       min_size=1, max_size=3))
def test_what_each_cpu_saw_is_one(by_cpu: list[list[list[int]]]) -> None:
    """Values by row and CPU; a CPU that saw nothing has zeros, which are no minimum."""
    together = _merged(np.array([[row(values) for values in cpus] for cpus in by_cpu], TIMES))
    for found, cpus in zip(together, by_cpu, strict=True):
        assert found.tobytes() == row([ns for values in cpus for ns in values]).tobytes()


def test_counts_of_each_cpu_are_added() -> None:
    rows = np.zeros((2, 3), COUNTS)
    rows["packets"][0, :, 1] = 1, 2, 2**40
    rows["hops"][1, :, 31] = 5, 0, 6
    rows["bad_udp"][1] = 1, 1, 1
    found = _added(rows)
    assert found["packets"][:, 1].tolist() == [3 + 2**40, 0]
    assert found["hops"][1, 31] == 11 and found["bad_udp"].tolist() == [0, 3]
    assert found["packets"].sum() == 3 + 2**40 and not found["bytes"].any()
