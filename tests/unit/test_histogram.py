"""Histograms against naive twins: HdrHistogram's own layout, sorted lists, numpy."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numba
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath.histogram import (
    COUNTS,
    HIGHEST_US,
    SIZE,
    Histogram,
    bucket_of,
    bucket_ranges,
)
from fastpath.record import record_us

HDR = HdrHistogram(1, HIGHEST_US, 3)
FEW = settings(deadline=None, max_examples=60)

near_powers = st.builds(lambda bit, off: (1 << bit) + off, st.integers(0, 33), st.integers(-2, 2))
latencies = st.one_of(st.integers(1, 3000), st.integers(1, HIGHEST_US),
                      near_powers.filter(lambda v: 1 <= v <= HIGHEST_US))
anything = st.one_of(latencies, near_powers, st.integers(-(2**63), 2**63 - 1))


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        record_us(histogram.data, value)
    return histogram


def clamp(value: int) -> int:
    return min(max(value, 1), HIGHEST_US)


@pytest.mark.parametrize(("value", "index", "lowest", "highest"), [
    (1, 1, 1, 1),
    (2047, 2047, 2047, 2047),
    (2048, 2048, 2048, 2049),
    (2049, 2048, 2048, 2049),
    (4095, 3071, 4094, 4095),
    (4096, 3072, 4096, 4099),
    (1_000_000, 11_169, 999_936, 1_000_447),
    (HIGHEST_US, 23_220, 3_598_712_832, 3_600_809_983),
    (2**32 - 1, COUNTS - 1, 2**32 - 2**21, 2**32 - 1),
])
def test_bucket_layout(value: int, index: int, lowest: int, highest: int) -> None:
    low, high = bucket_ranges(np.array([bucket_of(value)]))
    assert (bucket_of(value), low[0], high[0]) == (index, lowest, highest)


@FEW
@given(st.integers(0, 2**32 - 1))
def test_layout_is_that_of_hdrhistogram(value: int) -> None:
    index = bucket_of(value)
    low, high = bucket_ranges(np.array([index]))
    assert index == HDR.get_counts_array_index(value)
    assert low[0] == HDR.get_lowest_equivalent_value(value)
    assert high[0] == HDR.get_highest_equivalent_value(value)


def test_every_bucket_follows_the_one_before() -> None:
    low, high = bucket_ranges(np.arange(COUNTS))
    assert HDR.counts_len == COUNTS
    assert low[0] == 0
    assert (low[1:] == high[:-1] + 1).all()
    # At most 0.1 % wide: that is what three digits mean.
    assert ((high - low) * 1000 <= low).all()


@FEW
@given(st.lists(anything, max_size=60))
@example([0])
@example([-1, 0, 1])
@example([HIGHEST_US, HIGHEST_US + 1])
def test_record_kernel_equals_its_twin_and_hdrhistogram(values: list[int]) -> None:
    kernel, twin, hdr = Histogram(), Histogram(), HdrHistogram(1, HIGHEST_US, 3)
    for value in values:
        record_us(kernel.data, value)
        twin.record(value)
        hdr.record_value(clamp(value))
    assert (kernel.data == twin.data).all()
    assert (kernel.data[:COUNTS] == np.ctypeslib.as_array(hdr.counts)).all()
    clamped = [clamp(v) for v in values]
    assert kernel.count == len(values)
    assert kernel.min_us == min(clamped, default=0)
    assert kernel.max_us == max(clamped, default=0)
    assert kernel.overflow == sum(v > HIGHEST_US for v in values)
    assert kernel.mean_us == (sum(clamped) / len(clamped) if clamped else 0)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint32, np.uint64])
def test_record_takes_every_integer_type(kind: type[np.integer]) -> None:
    info = np.iinfo(kind)
    values = np.array([info.min, 0, 1, 7, min(info.max, 2**63 - 1)], kind)
    histogram = Histogram()
    for value in values:
        record_us(histogram.data, value)
    assert (histogram.data == filled([int(v) for v in values]).data).all()


def test_record_inside_a_kernel_into_rows_of_a_table() -> None:
    def fill(table: np.ndarray, values: np.ndarray) -> None:
        for i in range(len(values)):
            record_us(table[i % 2], values[i])

    values = np.random.default_rng(5).integers(-10, 5_000_000, 400).astype(np.int32)
    table = np.zeros((2, SIZE), np.int64)
    numba.njit(fill)(table, values)
    for i in range(2):
        assert (table[i] == filled(values[i::2].tolist()).data).all()
        assert Histogram(table[i]).count == 200


def nearest_rank(ordered: list[int], p: float) -> int:
    """The definition, in exact arithmetic: `p` means the decimal number it prints as."""
    return ordered[max(1, math.ceil(Fraction(str(p)) * len(ordered) / 100)) - 1]


def assert_close(got: int, exact: int) -> None:
    assert exact <= got <= exact + max(1, exact / 1000)


@FEW
@given(st.lists(latencies, min_size=1, max_size=200),
       st.sampled_from([0, 0.1, 1, 12.5, 50, 75, 90, 95, 99, 99.9, 99.99, 100]))
def test_percentile_is_nearest_rank_within_a_bucket(values: list[int], p: float) -> None:
    histogram = filled(values)
    got = histogram.percentile(p)
    assert_close(got, nearest_rank(sorted(values), p))
    assert histogram.min_us <= got <= histogram.max_us
    if max(values) < 2048:
        assert got == nearest_rank(sorted(values), p)


@pytest.mark.parametrize("seed", range(6))
def test_percentiles_against_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [rng.lognormal(5, 1.5, 1000), rng.exponential(40_000, 1000), rng.uniform(1, 4e9, 1000),
              np.full(1000, 123_456), rng.integers(1, 50, 1000), rng.pareto(1.1, 1000) * 100]
    values = np.clip(shapes[seed].astype(np.int64), 1, HIGHEST_US)
    histogram = filled(values.tolist())
    for p in (1, 10, 50, 75, 90, 95, 99, 99.5, 100):
        assert_close(histogram.percentile(p), int(np.percentile(values, p, method="inverted_cdf")))
    assert histogram.mean_us == pytest.approx(values.mean())
    assert abs(histogram.stddev_us() - values.std()) <= 0.0005 * values.max()


@FEW
@given(st.integers(1, 700), st.data())
def test_every_rank_has_its_percentile(total: int, data: st.DataObject) -> None:
    """100 * rank / total is seldom a binary fraction; it must not spill into the next rank."""
    histogram = Histogram()
    histogram.data[1:total + 1] = 1
    histogram.data[COUNTS:] = [total, 1, total, total * (total + 1) // 2, 0]
    rank = data.draw(st.integers(1, total))
    assert histogram.percentile(100 * rank / total) == rank
    assert histogram.percentile(min(100.0, 100 / total * rank)) == rank


@pytest.mark.parametrize("scale", [1, 10, 1000, 10**6, 10**9])
def test_ranks_of_large_totals(scale: int) -> None:
    histogram = Histogram()
    histogram.data[1:1001] = scale
    histogram.data[COUNTS:] = [1000 * scale, 1, 1000, 500_500 * scale, 0]
    for p, want in ((50, 500), (90, 900), (95, 950), (99, 990), (99.9, 999), (99.91, 1000)):
        assert histogram.percentile(p) == want


def test_summary_by_hand() -> None:
    assert filled([*range(1, 1001)]).summary() == {
        "count": 1000, "min": 1, "mean": 500.5, "stddev": 288.7, "p50": 500, "p90": 900,
        "p95": 950, "p99": 990, "p99_9": 999, "max": 1000}
    # 100,000 shares its bucket with 100,031: the maximum caps it.
    assert filled([100_000] * 3).summary() == {
        "count": 3, "min": 100_000, "mean": 100_000.0, "stddev": 0.0, "p50": 100_000,
        "p90": 100_000, "p95": 100_000, "p99": 100_000, "p99_9": 100_000, "max": 100_000}


def test_percentile_0_is_the_minimum_and_100_the_maximum() -> None:
    histogram = filled([1_000_001, 5_000_001])
    assert (histogram.percentile(0), histogram.percentile(100)) == (1_000_001, 5_000_001)
    assert histogram.percentile(50) == 1_000_447


def test_stddev_is_taken_between_the_middles_of_buckets() -> None:
    assert filled([1, 1_000_000]).stddev_us() == ((999_936 + 1_000_447) / 2 - 1) / 2


def test_summary_of_nothing() -> None:
    summary = Histogram().summary()
    assert list(summary) == ["count", "min", "mean", "stddev", "p50", "p90", "p95", "p99",
                             "p99_9", "max"]
    assert not any(summary.values())
    assert list(Histogram().buckets()) == []


@FEW
@given(st.lists(anything, max_size=40), st.lists(anything, max_size=40))
def test_merge_is_recording_everything(left: list[int], right: list[int]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    assert (merged.data == filled(left + right).data).all()
    merged.merge(merged)
    assert (merged.data == filled((left + right) * 2).data).all()
    merged.reset()
    assert (merged.data == Histogram().data).all()


@FEW
@given(st.lists(latencies, max_size=60))
def test_buckets_hold_every_value_once(values: list[int]) -> None:
    got = list(filled(values).buckets())
    assert got == sorted(got)
    assert [n for low, high, n in got] == [
        sum(low <= v <= high for v in values) for low, high, _ in got]
    assert sum(n for _, _, n in got) == len(values)


@pytest.mark.parametrize("array", [np.zeros(SIZE, np.int32), np.zeros(COUNTS, np.int64),
                                   np.zeros((1, SIZE), np.int64)])
def test_only_an_array_of_the_right_shape_is_a_histogram(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="int64 cells"):
        Histogram(array)


@pytest.mark.parametrize("p", [-0.1, 100.1, math.nan])
def test_percentiles_outside_0_to_100(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        filled([1]).percentile(p)


def test_readers_of_results_do_not_import_numba() -> None:
    code = ("import sys, fastpath.histogram, fastpath.hdr, fastpath.clock;"
            "sys.exit('numba' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
