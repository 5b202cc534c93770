"""Load plans: how many exchanges are due, and when each is meant to begin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tester.config import plan_from
from tester.plan import ClosedLoop, ConstantRate

MOST_CLIENTS = 1 << 25
rates = (st.sampled_from([0.1, 1.0, 3.0, 7.0, 49.0, 1e3, 12_345.678, 1e5, 1e7])
         | st.floats(1e-3, 1e7))
numbers = st.sampled_from([0, 1, 2, MOST_CLIENTS - 1]) | st.integers(0, MOST_CLIENTS - 1)


@settings(deadline=None, max_examples=500)
@given(rates, numbers)
def test_due_is_the_inverse_of_times(rate: float, i: int) -> None:
    """At its moment exchange i is due, and the moment before it is not."""
    plan = ConstantRate(rate)
    at_s = plan.times(i, 1)[0]
    assert plan.due(at_s) == i + 1
    assert plan.due(np.nextafter(at_s, -1)) == i


@settings(deadline=None, max_examples=200)
@given(rates, st.floats(0, 3600))
def test_due_counts_what_has_begun(rate: float, t_s: float) -> None:
    due = ConstantRate(rate).due(t_s)
    assert due >= 1 and isinstance(due, int)
    last, following = ConstantRate(rate).times(due - 1, 2)
    assert last <= t_s < following


@pytest.mark.parametrize(("rate", "first", "count", "times_s"), [
    (4.0, 0, 5, [0.0, 0.25, 0.5, 0.75, 1.0]), (4.0, 6, 2, [1.5, 1.75]), (0.5, 1, 1, [2.0]),
    (1e6, 3, 0, [])])
def test_times(rate: float, first: int, count: int, times_s: list[float]) -> None:
    """t = i / rate, each by itself: errors do not add up."""
    assert ConstantRate(rate).times(first, count).tolist() == times_s


def test_a_million_starts_do_not_drift() -> None:
    plan = ConstantRate(3.0)
    assert plan.times(3_000_000, 1)[0] == 1_000_000.0


@pytest.mark.parametrize("t_s", [-1e9, -1e-9])
def test_nothing_is_due_before_the_beginning(t_s: float) -> None:
    assert ConstantRate(1e6).due(t_s) == 0


@pytest.mark.parametrize(("rate", "plan"), [(None, ClosedLoop(64)), (250.0, ConstantRate(250.0))])
def test_a_rate_means_open_loop(rate: float | None, plan: ClosedLoop | ConstantRate) -> None:
    assert plan_from(64, rate) == plan
