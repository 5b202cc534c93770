"""`--stages 30s:1000,1m:5000,10s:0`: rates that change, as people write them."""

from __future__ import annotations

from fastpath.cli import parse_duration_s
from fastpath.errors import UserError
from tester.plan import Stages

MOST_STAGES = 1000
MOST_RATE_PER_S = 10_000_000.0
LONGEST_S = 7 * 86400.0


def parse_stages(text: str) -> Stages:
    """The stages in `30s:1000,1m:5000,10s:0`: how long, and the rate per second at its end.

    Raises UserError where the text is not that, or starts nothing, or asks too much.
    """
    parts = text.split(",")
    if len(parts) > MOST_STAGES:
        raise UserError(f"{len(parts):,} stages are too many", f"give at most {MOST_STAGES:,}")
    stages = Stages(tuple(_stage(number, part) for number, part in enumerate(parts, 1)))
    if stages.ends_s > LONGEST_S:
        raise UserError(f"stages of {stages.ends_s / 86400:.4g} days together are too long",
                        "make them at most 7 days together")
    if stages.total == 0:
        raise UserError("these stages start nothing",
                        "make one stage last and have a rate, as in 30s:1000")
    return stages


def _stage(number: int, text: str) -> tuple[float, float]:
    """Seconds and rate in `30s:1000`, the stage `number` counted from 1."""
    length, colon, rate = text.strip().partition(":")
    where = f"stage {number}, {text.strip()!r}"
    if not colon:
        raise UserError(f"{where}, is not a length and a rate", "write it as in 30s:1000")
    try:
        seconds = parse_duration_s(length)
    except UserError as error:
        raise UserError(f"{where}: {error.what}", error.remedy) from None
    try:
        rate_per_s = float(rate)
    except ValueError:
        raise UserError(f"{where}: {rate!r} is not a rate",
                        "write starts per second, as in 30s:1000") from None
    # Not a number is not in the range either.
    if not 0 <= rate_per_s <= MOST_RATE_PER_S:
        raise UserError(f"{where}: the rate {rate_per_s:g} is out of range",
                        f"give a rate from 0 to {MOST_RATE_PER_S:,.0f} starts per second")
    return seconds, rate_per_s
