"""Loss, delay and rate as people write them, and back: `1%`, `20ms`, `10mbit`.

The one thing to know: each writer is the inverse of its reader, to the last bit for numbers of
at most six decimals.
"""

from __future__ import annotations

import re
from decimal import Decimal

from fastpath import values
from fastpath.document import shown
from fastpath.errors import UserError

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,30})?)\s*%")
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,30})?)\s*(bit|kbit|mbit|gbit)", re.IGNORECASE)
# In kbit: as tc(8) has them, of 1,000 each.
_UNITS = {"bit": Decimal("0.001"), "kbit": Decimal(1), "mbit": Decimal(1000),
          "gbit": Decimal(1_000_000)}


def percent(text: str) -> float:
    """0 to 100. The sign is wanted: a bare 1 might be all or a hundredth."""
    match = _PERCENT.fullmatch(text.strip())
    found = float(match[1]) if match else -1.0
    if not 0 <= found <= 100:
        raise UserError(f"{shown(text)} is not a share from 0% to 100%", "for example 1% or 0.5%")
    return found


def milliseconds(text: str) -> float:
    """Of a time such as 20ms, to the nanosecond."""
    return round(values.duration_s(text) * 1000, 6)


def kbit_per_s(text: str) -> float:
    """Of a rate such as 10mbit."""
    match = _RATE.fullmatch(text.strip())
    if not match or not Decimal(match[1]):
        raise UserError(f"{shown(text)} is not a rate", "for example 500kbit, 10mbit or 1gbit")
    return float(Decimal(match[1]) * _UNITS[match[2].lower()])


def plain(number: float) -> str:
    """A number without exponent and without zeros at its end."""
    return f"{Decimal(repr(number)).normalize():f}"


def as_percent(number: float) -> str:
    return f"{plain(number)}%"


def as_milliseconds(number: float) -> str:
    return f"{plain(number)}ms"


def as_seconds(number: float) -> str:
    return f"{plain(number)}s"


def as_rate(kbit: float) -> str:
    """In the largest unit that leaves a whole number."""
    whole = (unit for unit in ("gbit", "mbit") if not Decimal(repr(kbit)) % _UNITS[unit])
    unit = next(whole, "kbit")
    return f"{plain(float(Decimal(repr(kbit)) / _UNITS[unit]))}{unit}"
