"""The live panel of a running test: how far it is, how fast it goes, how it went so far."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tester import language
from tester.describe import duration_text

_BARS = "▁▂▃▄▅▆▇█"
# What fits in 80 columns beside a name, in either language.
_PROGRESS_WIDTH = 30
_MOST_BARS = 60
_TIMES = ("p50", "p99", "p99_9", "max")


def sparkline(values: list[int]) -> str:
    """One bar a value, the highest of them full; what is not 0 stands above the line."""
    most = max(values, default=0)
    if not most:
        return _BARS[0] * len(values)
    # Rounded up: a single client in a second of a thousand is to be seen.
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // most)] for value in values)


def _per_s(before: dict[str, Any] | None, now: dict[str, Any], name: str) -> float:
    """By how much a count grew, per second. Counts begin anew when measuring begins."""
    seconds: float = now["elapsed_s"] - (before["elapsed_s"] if before else 0.0)
    grown: int = now[name] - (before[name] if before else 0)
    return max(grown, 0) / seconds if seconds > 0 else 0.0


def live_view(before: dict[str, Any] | None, now: dict[str, Any], lang: str | None = None,
              ) -> RenderableType:
    """A picture of two snapshots, the one before and the one now (`tester.run`)."""
    words, latency = language.choose(lang), now["latency_us"]
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column()
    progress = Table.grid(padding=(0, 2, 0, 0))
    progress.add_row(
        ProgressBar(total=now["planned"], completed=now["bound"], width=_PROGRESS_WIDTH),
        Text(words(language.OF_BOUND, bound=now["bound"], planned=now["planned"])))
    facts.add_row(words(language.CLIENTS), progress)
    facts.add_row(words(language.NOW), Text(", ".join((
        words(language.RATES, exchanges=_per_s(before, now, "exchanges"),
              renewals=_per_s(before, now, "renewed")),
        words(language.IN_FLIGHT, n=now["in_flight"], failed=now["failed"])))))
    facts.add_row(words(language.LATENCY), Text("  ".join(
        f"{words(language.PERCENTILES[name])} "
        f"{duration_text(latency[name]) if latency['count'] else '-'}" for name in _TIMES)))
    if bound := [row["bound"] for row in now["intervals"][-_MOST_BARS:]]:
        facts.add_row(words(language.BOUND_PER_S), Group(
            Text(sparkline(bound), no_wrap=True), Text(words(language.AT_MOST, n=max(bound)))))
    return Panel(facts, title_align="left", title=f"dhcp-tester  {now['elapsed_s']:.1f} s")
