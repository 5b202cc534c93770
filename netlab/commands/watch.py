"""`lab watch`: what passes every place of a lab that stands, live."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from fastpath.cli import DURATION, Command
from fastpath.errors import SystemRefused
from netlab.commands.common import journal_of, name_option, need_privilege, say

if TYPE_CHECKING:
    from rich.table import Table

    from netlab.path.measure import PathCounters

_MESSAGES = ("discover", "offer", "request", "ack")
_NARROW = 100  # columns; below, times are left out


@click.command(cls=Command)
@name_option
@click.option("--interval", type=DURATION, default=1.0, show_default="1s",
              help="How often to look.")
@click.option("--count", type=click.IntRange(1), metavar="N",
              help="End after N pictures [default: at Ctrl-C].")
@click.option("--sample", type=click.IntRange(1, 1 << 16), default=8, show_default=True,
              metavar="N", help="Time one exchange in N, a power of two.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a picture instead.")
def watch(name: str, interval: float, count: int | None, sample: int, as_json: bool) -> None:
    """Show what passes every place of a lab, how long it stays there, what is lost.

    Counters start at zero when this command does, and are off again when it ends. Before Linux
    6.6 a test that is under way may lose a few messages when they come and go. Needs bcc: lab
    doctor.
    """
    if sample & (sample - 1):
        raise click.BadParameter(f"{sample} is not a power of two", param_hint="--sample")
    need_privilege()
    from netlab import signals
    from netlab.path.measure import PathCounters
    from netlab.state import Phase

    journal = journal_of(name)
    with signals.handled(signals.leave), PathCounters(journal, sample, behind=True) as counters:
        if counters.why:
            raise SystemRefused(counters.why, "lab doctor")
        if journal.phase is Phase.TESTING and not counters.by_links:
            say(f"{name}: a test is under way; counters that come and go may cost it a few "
                "messages (not with Linux 6.6)")
        if counters.losses_why:
            say(f"{name}: losses inside nodes are not measured: {counters.losses_why}")
        if as_json:
            why = {"losses_not_measured": counters.losses_why} if counters.losses_why else {}
            for _, path in _pictures(counters, interval, count):
                click.echo(json.dumps({"name": name, "path": path, **why}))
            return
        _live(name, counters, interval, count)


def _pictures(counters: PathCounters, interval_s: float, count: int | None) -> Any:
    """(seconds since the last, path) again and again."""
    last_s = time.monotonic()
    made = 0
    while count is None or made < count:
        time.sleep(interval_s)
        made += 1
        counters.read()
        if counters.why:
            raise SystemRefused(counters.why, "has the lab been removed?")
        document: dict[str, Any] = {"latency_us": {}}
        counters.complete(document)
        now_s = time.monotonic()
        yield now_s - last_s, document["path"]
        last_s = now_s


def _live(name: str, counters: PathCounters, interval_s: float, count: int | None) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: list[dict[str, Any]] | None = None
    with Live(console=console, auto_refresh=False, screen=False) as live:
        for passed_s, path in _pictures(counters, interval_s, count):
            picture = _table(name, before, path, passed_s, console.width)
            if console.is_terminal:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            before = path


def _table(name: str, before: list[dict[str, Any]] | None, path: list[dict[str, Any]],
           passed_s: float, width: int) -> Table:
    from rich.table import Table

    from netlab.path.report import flow

    timed = _MESSAGES if width >= _NARROW else ()
    table = Table(title=f"{name}: messages since the start, and stay in us, mean (p99)",
                  title_justify="left", box=None, pad_edge=False)
    table.add_column("place", no_wrap=True)
    for head in ("in", "out", "lost", "in/s", *timed):
        table.add_column(head, justify="right", no_wrap=True)
    for i, entry in enumerate(path):
        came, went, lost = flow(entry)
        rate = (came - flow(before[i])[0]) / passed_s if before else 0.0
        table.add_row(entry["place"], f"{came:,}", f"{went:,}",
                      f"[red]{lost:,}[/]" if lost else "0", f"{rate:,.0f}",
                      *(_stay(entry["residence_us"].get(each)) for each in timed),
                      style="dim" if entry["kind"] == "link" else "")
        for loss in entry["losses"]:
            table.add_row(f"  [red]{loss['where']}: {loss['reason']}[/]", "", "",
                          f"[red]{loss['count']:,}[/]", "", *("" for _ in timed))
    return table


def _stay(stay: dict[str, Any] | None) -> str:
    return f"{stay['mean']:,.0f} ({stay['p99']:,.0f})" if stay and stay["count"] else "-"
