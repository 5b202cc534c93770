"""What the user is told while it goes on, and how long each part took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Seconds of each part, in the order in which they came."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str, what: str) -> Iterator[None]:
        say(f"{what} ...")
        began = time.monotonic()
        yield
        self.seconds[f"{name}_s"] = round(time.monotonic() - began, 1)
        say(f"{what}: {self.seconds[f'{name}_s']:g} s")


def say(line: str) -> None:
    print(f"vm-test: {line}", flush=True)
