"""When exchanges begin: plans as small objects, each with its equation.

Time is in seconds from the beginning of the test. `due(t)` is how many exchanges the plan
wants begun by then; `times(first, n)` is when exchanges first .. first+n-1 are meant to
begin. The two are inverse: due(times(i, 1)[0]) == i + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """A new exchange begins when one ends: always `window` in flight.

    It asks how fast the server can be. A slow server slows the load, so it cannot tell what
    clients who do not wait would see; for that, use a rate.
    """

    window: int


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """Exchange i begins at i / rate, whatever the server does.

    started
      |        /
      |     /       slope: rate_per_s
      |  /
      +---------- t
    """

    rate_per_s: float

    def due(self, t_s: float) -> int:
        if t_s < 0:
            return 0
        last = int(t_s * self.rate_per_s)
        # The product is rounded, and may be one off on either side of a start.
        return last + ((last + 1) / self.rate_per_s <= t_s) + (last / self.rate_per_s <= t_s)

    def times(self, first: int, count: int) -> npt.NDArray[np.float64]:
        return np.arange(first, first + count) / self.rate_per_s


Plan = ClosedLoop | ConstantRate
