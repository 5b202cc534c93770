"""What a benchmark says: named figures with every run behind them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LATEST = Path(__file__).parent / "latest.json"


@dataclass(slots=True)
class Figure:
    """One number: the median of `runs`. target: what it is held against, as text."""

    name: str
    unit: str
    what: str
    target: str = ""
    runs: list[float] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.runs)

    def document(self) -> dict[str, Any]:
        return {"value": round(self.value, 4), "unit": self.unit,
                "runs": [round(run, 4) for run in self.runs], "what": self.what, **self.more}


def save(figures: list[Figure], path: Path = LATEST) -> None:
    """Add the figures to the document at `path`; others that it holds stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {figure.name: figure.document() for figure in figures}
    path.write_text(json.dumps(known, indent=1) + "\n")


def show(figures: list[Figure]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (("figure", "left"), ("median", "right"), ("min", "right"),
                        ("max", "right"), ("unit", "left"), ("target", "left"), ("what", "left")):
        table.add_column(title, justify="right" if side == "right" else "left")
    for figure in figures:
        spread = [f"{number:,.4g}" if number < 1000 else f"{number:,.0f}"
                  for number in (figure.value, min(figure.runs), max(figure.runs))]
        table.add_row(figure.name, *spread, figure.unit, figure.target, figure.what)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
