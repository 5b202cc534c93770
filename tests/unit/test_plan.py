"""Load plans: how many exchanges are due, and when each is meant to begin."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from tester.plan import (
    BLOCK,
    EVERYONE,
    MOST_DRAWN,
    Avalanche,
    ClosedLoop,
    ConstantRate,
    Floats,
    OpenLoop,
    Ramp,
    Shape,
    Stages,
    starts_within,
)
from tester.stages import parse_stages

HOUR_S = 3600.0
rates = (st.sampled_from([0.1, 1.0, 3.0, 7.0, 49.0, 1e3, 12_345.678, 1e5, 1e6, 1e7])
         | st.floats(1e-3, 1e7))
stage_rates = st.just(0.0) | st.sampled_from([1.0, 1000.0, 1e6, 1e7]) | st.floats(0, 1e7)
lengths = st.just(0.0) | st.sampled_from([1e-9, 0.1, 1.1, 60.0, HOUR_S]) | st.floats(0, 86400)
stages = (st.lists(st.tuples(lengths, stage_rates), min_size=1, max_size=8)
          .map(lambda rows: Stages(tuple(rows))).filter(lambda shape: shape.total > 0))
ramps = st.builds(Ramp, rates, st.just(0.0) | st.floats(1e-3, 86400))
shapes = st.builds(ConstantRate, rates) | ramps | stages
# Where one block ends and the next begins, and hours at the highest rate.
numbers = (st.sampled_from([0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 100 * BLOCK, 10**11])
           | st.integers(0, 1 << 25) | st.integers(0, 10**11))
seeds = st.sampled_from([0, 1, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
MIXED = Stages(((2, 1000), (3, 0), (1, 0), (0, 500), (2, 500), (4, 100), (0, 0), (5, 0), (1, 90)))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A division by zero or an overflow in numpy says so on standard error: never here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def at(shape: Shape, n: float) -> float:
    return float(shape.inverse(np.array([n], np.float64))[0])


# --- due and times ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=400)
@given(shapes, numbers)
@example(ConstantRate(1e6), 7 * 86400 * 1_000_000)
@example(ConstantRate(1e7), 7 * 86400 * 10_000_000)
@example(Ramp(1e6, HOUR_S), 24 * 3600 * 1_000_000)
@example(Stages(((7 * 86400, 1e7),)), 3 * 10**12 - 1)
@example(MIXED, 1000)
def test_due_is_the_inverse_of_times(shape: Shape, i: int) -> None:
    """At its moment start i is due, and the moment before it is not."""
    if shape.total <= i:
        i = math.ceil(shape.total) - 1
    plan = OpenLoop(shape)
    at_s = plan.times(i, 1)[0]
    assert math.isfinite(at_s)
    assert plan.due(at_s) == i + 1
    assert plan.due(np.nextafter(at_s, -1)) == i


@settings(deadline=None, max_examples=300)
@given(shapes, st.floats(0, 7 * 86400))
def test_due_counts_what_has_begun(shape: Shape, t_s: float) -> None:
    plan = OpenLoop(shape)
    due = plan.due(t_s)
    assert isinstance(due, int)
    assert 0 <= due <= math.ceil(shape.total) if shape.ends_s is not None else due >= 1
    assert plan.times(due, 1)[0] > t_s
    assert due == 0 or plan.times(due - 1, 1)[0] <= t_s


@pytest.mark.parametrize(("rate", "first", "count", "times_s"), [
    (4.0, 0, 5, [0.0, 0.25, 0.5, 0.75, 1.0]), (4.0, 6, 2, [1.5, 1.75]), (0.5, 1, 1, [2.0]),
    (1e6, 3, 0, []), (1e6, 10**9, 0, [])])
def test_times(rate: float, first: int, count: int, times_s: list[float]) -> None:
    """t = i / rate, each by itself: errors do not add up."""
    assert OpenLoop(ConstantRate(rate)).times(first, count).tolist() == times_s


def test_a_million_starts_do_not_drift() -> None:
    plan = OpenLoop(ConstantRate(3.0))
    assert plan.times(3_000_000, 1)[0] == 1_000_000.0
    assert plan.due(1_000_000.0) == 3_000_001


@pytest.mark.parametrize("plan", [
    OpenLoop(ConstantRate(1e6)), OpenLoop(ConstantRate(1e6), 1), OpenLoop(Ramp(1e6, 1)),
    OpenLoop(Ramp(1e6, 0)), OpenLoop(MIXED), OpenLoop(Avalanche())])
@pytest.mark.parametrize("t_s", [-math.inf, -1e9, -1e-9])
def test_nothing_is_due_before_the_beginning(plan: OpenLoop, t_s: float) -> None:
    plan.due(1.0)
    assert plan.due(t_s) == 0


@settings(deadline=None, max_examples=60)
@given(shapes, st.none() | seeds,
       st.lists(st.tuples(st.booleans(), st.integers(0, 12 * BLOCK), st.integers(0, 3 * BLOCK)),
                min_size=1, max_size=8))
def test_answers_do_not_depend_on_what_was_asked_before(
    shape: Shape, seed: int | None, asked: list[tuple[bool, int, int]]
) -> None:
    """Forward, back, across blocks, `due` far ahead of `times`: one and the same process."""
    plan, whole = OpenLoop(shape, seed), OpenLoop(shape, seed).times(0, 16 * BLOCK)
    for is_due, first, count in asked:
        if is_due and math.isfinite(whole[first]):
            assert plan.due(whole[first]) == np.searchsorted(whole, whole[first], "right")
        else:
            assert np.array_equal(plan.times(first, count), whole[first:first + count])


def test_a_late_generator_asks_far_behind_what_is_due() -> None:
    """`due` at the clock's time and `times` at what was started, in turn."""
    plan, whole = OpenLoop(ConstantRate(1e6), 5), OpenLoop(ConstantRate(1e6), 5).times(0, 1 << 17)
    for turn in range(64):
        t_s = turn * 1e-3
        assert plan.due(t_s) == np.searchsorted(whole, t_s, "right")
        assert np.array_equal(plan.times(turn * 64, 64), whole[turn * 64:turn * 64 + 64])


def test_times_cannot_be_spoilt_by_who_asked() -> None:
    with pytest.raises(ValueError, match="read-only"):
        OpenLoop(ConstantRate(10)).times(0, 4)[0] = 1


# --- shapes ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(shapes, st.floats(0, 1, exclude_max=True))
def test_expected_and_inverse_agree(shape: Shape, share: float) -> None:
    n = share * min(shape.total, 1e9)
    t_s = at(shape, n)
    # What the rate makes of the rounding of the time.
    slack = 1e-6 + 2 * shape.most_per_s * math.ulp(t_s)
    assert shape.expected(t_s) == pytest.approx(n, rel=1e-9, abs=slack)


@settings(deadline=None, max_examples=100)
@given(shapes, st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_the_inverse_takes_any_order_and_never_sinks(shape: Shape, n: list[float]) -> None:
    assume(max(n) < shape.total)
    times_s = shape.inverse(np.array(n))
    assert times_s.tolist() == [at(shape, one) for one in n]
    ordered = shape.inverse(np.sort(n))
    assert (np.diff(ordered) >= -1e-9 * ordered[-1]).all() and ordered[0] >= 0


@settings(deadline=None, max_examples=300)
@given(stages | ramps, st.integers(1, 1000))
@example(Stages(((0, 865.8), (73.1, 0))), 1)
@example(Stages(((20.9, 410.7), (58.9, 485.9))), 1)
def test_what_is_before_a_corner_is_not_after_it(shape: Stages | Ramp, ulps: int) -> None:
    """The last fractions of a start, where roots are of almost nothing and rounding tells."""
    if isinstance(shape, Ramp):
        corner_s, corner_n = shape.over_s, shape.rate_per_s * shape.over_s / 2
    else:
        corner_s, corner_n = shape.ends_s, shape.total
    before = corner_n - np.arange(1, ulps + 1) * (corner_n - math.nextafter(corner_n, 0))
    times_s = shape.inverse(np.maximum(before, 0))
    assert (times_s <= corner_s).all() and (times_s >= 0).all()


@settings(deadline=None, max_examples=200)
@given(shapes, st.floats(0, 1e5), st.floats(0, 1e5))
def test_no_second_has_more_than_the_highest_rate(shape: Shape, a: float, b: float) -> None:
    grown = shape.expected(max(a, b)) - shape.expected(min(a, b))
    assert -1e-6 <= grown <= shape.most_per_s * abs(a - b) * (1 + 1e-9) + 1e-3


@settings(deadline=None, max_examples=100)
@given(stages, st.floats(0, 1))
def test_stages_are_the_area_under_their_rate(shape: Stages, share: float) -> None:
    """The naive twin: trapezoids, the last one cut."""
    t_s = share * shape.ends_s
    area, begins_s, before = 0.0, 0.0, 0.0
    for length_s, rate in shape.stages:
        if length_s:
            u = min(max(t_s - begins_s, 0), length_s)
            area += u * (before + (before + (rate - before) * u / length_s)) / 2
        begins_s, before = begins_s + length_s, rate
    assert shape.expected(t_s) == pytest.approx(area, rel=1e-6, abs=1e-2)


def test_a_ramp() -> None:
    """100/s after 10 s: 500 starts by then, 100 in each second after."""
    ramp = Ramp(100, 10)
    assert [ramp.expected(t) for t in (-1, 0, 5, 10, 11)] == [0, 0, 125, 500, 600]
    assert [at(ramp, n) for n in (0, 125, 500, 600)] == [0, 5, 10, 11]
    assert (ramp.ends_s, ramp.total, ramp.most_per_s) == (None, math.inf, 100)


@settings(deadline=None, max_examples=50)
@given(rates)
def test_a_ramp_of_no_length_is_a_constant_rate(rate: float) -> None:
    ramp, constant = OpenLoop(Ramp(rate, 0)), OpenLoop(ConstantRate(rate))
    assert np.array_equal(ramp.times(0, 5000), constant.times(0, 5000))
    assert ramp.due(12.5) == constant.due(12.5)


def test_stages_rest_and_come_back() -> None:
    """2 s up to 1000, 3 s down to 0: 2500; 1 s of nothing; 2 s at 500; 4 s down to 100; rest."""
    assert (MIXED.ends_s, MIXED.total, MIXED.most_per_s) == (18, 4745, 1000)
    assert [MIXED.expected(t) for t in (2, 5, 5.5, 6, 7, 8, 12, 17, 18, 1e9)] == [
        1000, 2500, 2500, 2500, 3000, 3500, 4700, 4700, 4745, 4745]
    assert at(MIXED, 1000) == 2 and at(MIXED, 3000) == 7
    # Start 2500 has to wait until there is a rate again, start 4700 for the climb at 17 s.
    assert at(MIXED, 2500) == 6 and at(MIXED, 4700) == 17
    plan = OpenLoop(MIXED)
    assert [plan.due(t) for t in (5, 5.99, 6, 12, 16.99, 17, 18, 1e6)] == [
        2500, 2500, 2501, 4700, 4700, 4701, 4745, 4745]


@pytest.mark.parametrize(("rows", "starts"), [
    (((10, 0), (0, 100), (2, 100)), 200),     # begins with nothing
    (((0, 100), (1.1, 100)), 110),            # 1.1 * 100 is 110.00000000000001
    (((0, 1000), (0.1, 1000)), 100),
    (((0, 10), (0.7, 10), (0.1, 10)), 8),     # 0.7 + 0.1 is 0.7999999999999999
    (((0, 5), (0, 1000), (4, 1000), (0, 7)), 4000),   # several jumps: the last one holds
    (((0, 1), (0.5, 1)), 1),
    (((0, BLOCK), (1, BLOCK)), BLOCK),
    (((0, BLOCK), (2, BLOCK), (1e9, BLOCK), (0, 0), (1e9, 0)), BLOCK * (2 + 10**9)),
    (((1e-9, 1e7), (5e-324, 0)), 1),
])
def test_stages_end(rows: tuple[tuple[float, float], ...], starts: int) -> None:
    plan, shape = OpenLoop(Stages(rows)), Stages(rows)
    assert plan.due(shape.ends_s) == plan.due(1e300) == starts
    assert plan.times(starts - 1, 3)[1:].tolist() == [math.inf, math.inf]
    assert plan.times(starts - 1, 1)[0] < shape.ends_s
    assert plan.times(starts + 10**6, 2).tolist() == [math.inf, math.inf]
    assert at(shape, shape.total) == math.inf


def test_after_the_end_no_block_is_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = OpenLoop(Stages(((0, BLOCK), (1, BLOCK))), 3)
    starts = plan.due(10.0)
    monkeypatch.setattr(OpenLoop, "_block", None)
    assert [plan.due(t) for t in (10.0, 11.0, 1e9)] == [starts] * 3


def test_an_avalanche() -> None:
    plan = OpenLoop(Avalanche())
    assert plan.due(-1e-9) == 0 and plan.due(0.0) == plan.due(9.0) == EVERYONE
    assert not plan.times(0, 3 * BLOCK).any() and plan.times(EVERYONE, 1)[0] == math.inf
    with pytest.raises(UserError) as refused:
        OpenLoop(Avalanche(), 1)
    assert "--avalanche" in refused.value.remedy


# --- Poisson ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(shapes, seeds, st.integers(0, 10 * BLOCK))
def test_due_of_random_starts_is_the_inverse_of_their_times(
    shape: Shape, seed: int, i: int
) -> None:
    plan = OpenLoop(shape, seed)
    at_s = float(plan.times(i, 1)[0])
    if math.isinf(at_s):
        assert shape.ends_s is not None and plan.due(shape.ends_s) <= i
        return
    due = plan.due(at_s)
    # Two random starts may fall on one moment.
    assert due > i and plan.times(due - 1, 1)[0] == at_s < plan.times(due, 1)[0]
    assert plan.due(math.nextafter(at_s, -1)) <= i


@settings(deadline=None, max_examples=30)
@given(shapes, seeds)
def test_random_starts_are_in_order(shape: Shape, seed: int) -> None:
    times_s = OpenLoop(shape, seed).times(0, 6 * BLOCK)
    begun = times_s[np.isfinite(times_s)]
    assert (np.diff(begun) >= 0).all() and (begun >= 0).all()
    assert not np.isnan(times_s).any() and np.isfinite(times_s[:begun.size]).all()


class Rough(ConstantRate):
    """A rate whose inverse is off by up to 5 ms, as if floats had few digits."""

    def inverse(self, n: Floats) -> Floats:
        return super().inverse(n) + n * 1e6 % 1 * 0.005


def test_rounding_does_not_swap_random_starts() -> None:
    plan = OpenLoop(Rough(1000.0), 4)
    times_s = plan.times(0, 5 * BLOCK)
    assert (np.diff(times_s) >= 0).all()
    assert (np.diff(times_s) == 0).any(), "too smooth to see anything"
    asked = times_s[:4 * BLOCK]
    assert [plan.due(t) for t in asked.tolist()] == np.searchsorted(
        times_s, asked, "right").tolist()


def test_the_first_random_start_is_random_too() -> None:
    """Exponential from time 0, as every gap; 5 sigma of 400 seeds."""
    first_s = [OpenLoop(ConstantRate(10), seed).times(0, 1)[0] for seed in range(400)]
    assert abs(np.mean(first_s) - 0.1) < 5 * 0.1 / 20 and min(first_s) > 0


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 0xFFFFFFFF])
def test_gaps_are_exponential(seed: int) -> None:
    """Mean and deviation 1 / rate, a share exp(-x) longer than x means, no memory; 5 sigma."""
    rate, count = 1e5, 100_000
    gaps = np.diff(OpenLoop(ConstantRate(rate), seed).times(0, count + 1)) * rate
    slack = 5 / math.sqrt(count)
    assert abs(gaps.mean() - 1) < slack
    assert abs(gaps.var() - 1) < slack * math.sqrt(8)
    for x in (0.1, 1.0, 3.0):
        share = math.exp(-x)
        assert abs((gaps > x).mean() - share) < slack * math.sqrt(share * (1 - share))
    after, before = gaps[1:] - 1, gaps[:-1] - 1
    assert abs((after * before).mean()) < slack


@pytest.mark.parametrize(("shape", "lasts_s"), [
    (ConstantRate(2000), 60.0), (Ramp(4000, 30), 60.0), (MIXED, 18.0),
    (Stages(((0, 900), (30, 900), (0, 0), (10, 0), (20, 4000))), 60.0)])
def test_counts_follow_the_shape(shape: Shape, lasts_s: float) -> None:
    """In windows of 20 ms: as many as expected, and the variance is the mean; 5 sigma."""
    plan = OpenLoop(shape, 99)
    edges = np.arange(0, lasts_s, 0.02).tolist()
    counts = np.diff([plan.due(t) for t in edges])
    means = np.diff([shape.expected(t) for t in edges])
    total = means.sum()
    assert abs(counts.sum() - total) < 5 * math.sqrt(total)
    # Not a start where the rate is 0.
    assert not counts[means < 1e-9].any()
    busy = means > 1
    dispersion = (counts[busy] - means[busy]) ** 2 / means[busy]
    assert abs(dispersion.mean() - 1) < 5 * math.sqrt(3 / busy.sum())


def test_seeds_differ_and_repeat() -> None:
    runs = [OpenLoop(ConstantRate(1000), seed).times(0, 3 * BLOCK) for seed in (1, 1, 2, 3)]
    assert np.array_equal(runs[0], runs[1])
    for one, other in itertools.combinations(runs[1:], 2):
        assert abs(np.corrcoef(np.diff(one), np.diff(other))[0, 1]) < 0.05
    # Nor is one block the repetition of another.
    gaps = np.diff(runs[0])
    assert abs(np.corrcoef(gaps[:BLOCK], gaps[BLOCK:2 * BLOCK])[0, 1]) < 0.08


# --- what others ask -------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "duration_s", "starts"), [
    (ConstantRate(100), 2.0, 200), (ConstantRate(3), 0.5, 2), (ConstantRate(0.1), 5, 1),
    (ConstantRate(100), 1.1, 110),            # 100 * 1.1 is 110.00000000000001
    (ConstantRate(10), 0.3, 3), (ConstantRate(1e6), HOUR_S, 3_600_000_000),
    (ConstantRate(5), 0.0, 0), (Ramp(100, 10), 10, 500), (Ramp(100, 10), 11, 600),
    (MIXED, 5.5, 2500), (MIXED, 18, 4745), (MIXED, 1e6, 4745), (Avalanche(), 1.0, EVERYONE)])
def test_starts_within(shape: Shape, duration_s: float, starts: int) -> None:
    assert starts_within(OpenLoop(shape), duration_s) == starts


@settings(deadline=None, max_examples=100)
@given(shapes, st.none() | seeds, st.floats(1e-3, 100))
def test_starts_within_counts_those_before(
    shape: Shape, seed: int | None, duration_s: float
) -> None:
    assume(seed is None or shape.expected(duration_s) < 1e5)
    plan = OpenLoop(shape, seed)
    starts = starts_within(plan, duration_s)
    assert plan.times(starts, 1)[0] >= duration_s
    assert starts == 0 or plan.times(starts - 1, 1)[0] < duration_s


def test_nobody_waits_for_trillions_to_be_drawn() -> None:
    plan = OpenLoop(ConstantRate(1e7), 1)
    assert starts_within(plan, 7 * 86400) == 7 * 86400 * 10**7 > MOST_DRAWN


@pytest.mark.parametrize(("plan", "described", "most_per_s"), [
    (ClosedLoop(64), {"shape": "closed", "concurrency": 64}, math.inf),
    (OpenLoop(ConstantRate(250.0)),
     {"shape": "constant", "rate_per_s": 250.0, "arrivals": "even"}, 250.0),
    (OpenLoop(Ramp(10.0, 5.0), 0),
     {"shape": "ramp", "rate_per_s": 10.0, "over_s": 5.0, "arrivals": "poisson", "seed": 0}, 10.0),
    (OpenLoop(parse_stages("5s:20,1s:0")),
     {"shape": "stages", "arrivals": "even",
      "stages": [{"over_s": 5.0, "rate_per_s": 20.0}, {"over_s": 1.0, "rate_per_s": 0.0}]}, 20.0),
    (OpenLoop(Avalanche()), {"shape": "avalanche", "arrivals": "even"}, math.inf)])
def test_describe(plan: OpenLoop | ClosedLoop, described: object, most_per_s: float) -> None:
    assert json.loads(json.dumps(plan.describe(), allow_nan=False)) == described
    assert plan.most_per_s == most_per_s


def test_plans_compare_by_what_they_are_made_of() -> None:
    one, other = OpenLoop(parse_stages("9s:5")), OpenLoop(Stages(((9.0, 5.0),)))
    one.due(3.0)
    assert one == other and hash(one) == hash(other)
    assert one != OpenLoop(Stages(((9.0, 5.0),)), 1) and one != OpenLoop(ConstantRate(5.0))
    assert repr(OpenLoop(ConstantRate(5.0))) == (
        "OpenLoop(shape=ConstantRate(rate_per_s=5.0), poisson_seed=None)")


# --- the text of --stages --------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rows"), [
    ("30s:1000,1m:5000,10s:0", ((30, 1000), (60, 5000), (10, 0))),
    (" 0s:1000 , 1h30m:1000 ", ((0, 1000), (5400, 1000))),
    ("10:2.5", ((10, 2.5),)), ("500ms:1e3", ((0.5, 1000),)), ("7d:10000000", ((604800, 1e7),)),
    (",".join(["1s:1"] * 1000), ((1, 1),) * 1000)])
def test_parse_stages(text: str, rows: tuple[tuple[float, float], ...]) -> None:
    assert parse_stages(text) == Stages(rows)


@pytest.mark.parametrize(("text", "says"), [
    ("", "stage 1, ''"), ("30s", "stage 1, '30s'"), ("1s:1,", "stage 2, ''"),
    (",1s:1", "stage 1, ''"), ("1s:1,,1s:1", "stage 2, ''"), ("1s:1;2s:2", "'1;2s:2'"),
    ("1s:1,x:2", "stage 2, 'x:2': 'x'"), (":5", "stage 1, ':5': ''"), ("5s:", "'' is not a rate"),
    ("1s:1,-1s:5", "stage 2"), ("nan:5", "stage 1"), ("inf:5", "stage 1"), ("1e400:5", "stage 1"),
    ("1s:1,1s:1,1s:-1", "stage 3, '1s:-1': the rate -1"), ("1s:nan", "the rate nan"),
    ("1s:inf", "the rate inf"), ("1s:1e400", "the rate inf"), ("1s:10000001", "the rate 1e+07"),
    ("1s:1:1", "'1:1' is not a rate"), ("1s:5/s", "'5/s' is not a rate"),
    ("0s:1000", "start nothing"), ("10s:0", "start nothing"), ("0s:9,0s:0,1m:0", "start nothing"),
    ("7d:1,1s:1", "too long"), ("604800.5:1", "too long"), ("1e300:1", "too long"),
    (",".join(["1s:1"] * 1001), "1,001 stages")])
def test_what_stages_are_not(text: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_stages(text)
    assert says in refused.value.what and "\n" not in refused.value.what
    assert refused.value.remedy and len(refused.value.what) < 100


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="0123456789.:,smhd e-+_ainf\x00\n", max_size=30))
def test_any_text_is_stages_or_refused(text: str) -> None:
    try:
        shape = parse_stages(text)
    except UserError:
        return
    assert 0 < shape.total < math.inf and 0 < shape.ends_s <= 7 * 86400
    plan = OpenLoop(shape)
    assert plan.due(shape.ends_s) == math.ceil(shape.total)
    assert plan.times(0, 1)[0] <= shape.ends_s
