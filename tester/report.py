"""The report in the terminal: the verdict first, then the numbers behind it.

Made from the result document alone, so that a document reads the same later, elsewhere.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tester.result import GENERATOR_BOUND, INCOMPLETE, PASS, THRESHOLD, Document

_STYLES = {PASS: ("PASS", "bold white on dark_green"),
           INCOMPLETE: ("INCOMPLETE", "bold white on dark_red"),
           GENERATOR_BOUND: ("GENERATOR-BOUND", "bold black on yellow"),
           THRESHOLD: ("THRESHOLD MISSED", "bold white on dark_red")}
# (row, request, reply, latency): what each leg is made of.
_LEGS = (("DISCOVER → OFFER", "discover", "offer", "discover_offer"),
         ("REQUEST → ACK", "request", "ack", "request_ack"))
_EXCHANGES = (("whole exchange", "dora"), ("from intended start", "dora_from_intended"))
_COUNTS = ("sent", "received", "lost", "resent")
_PERCENTILES = ("p50", "p90", "p99", "p99_9", "max")
_LOSSES = {"rx_ring": "receive ring", "tx_ring": "transmit ring", "softnet": "CPU backlog"}
# A closed loop above this leaves no doubt who was busy.
_BUSY_PERCENT = 90.0
_UNITS = ((1, "us"), (1_000, "ms"), (1_000_000, "s"))


def duration_text(us: float) -> str:
    """Microseconds for people, three digits or more: `87 us`, `1.24 ms`, `3.20 s`, `3,600 s`."""
    for size, unit in _UNITS:
        value = us / size
        digits = 0 if size == 1 or value >= 99.95 else 1 if value >= 9.995 else 2
        text = f"{value:,.{digits}f}"
        if unit == "s" or len(text) < 5:
            break
    return f"{text} {unit}"


def _headline(document: Document) -> Text:
    label, style = _STYLES[document["verdict"]]
    clients, rate = document["clients"], document["dora_per_s"]
    line = Text()
    line.append(f" {label} ", style)
    line.append(f"  {clients['bound']:,} of {clients['started']:,} bound "
                f"({document['success_rate_percent']:g} %)", "bold")
    if rate:
        # From the first DISCOVER to the last ACK: not the wait for those that never came.
        line.append(f" in {duration_text(clients['bound'] / rate * 1e6)} · ")
        line.append(f"{rate:,.0f} DORA/s", "bold")
    return line


def _reasons(document: Document) -> list[str]:
    """Why the verdict is what it is, where it is not a pass."""
    clients, missed = document["clients"], document["missed_starts"]
    failed, left = clients["started"] - clients["bound"], clients["planned"] - clients["started"]
    reasons = []
    if document["verdict"] == GENERATOR_BOUND:
        if document["losses"]["rx_ring"]:
            reasons.append(
                f"the tester's own receive ring lost {document['losses']['rx_ring']:,} frames: the "
                "numbers say nothing about the server; use more --ring-slots or less load")
        if missed:
            reasons.append(
                f"the tester began {missed:,} of {clients['started']:,} exchanges over 10 ms late: "
                "the offered rate was not what --rate says; lower it")
    if document["interrupted"]:
        reasons.append(f"interrupted with {left:,} clients not started")
    if failed:
        reasons.append(f"{failed:,} exchanges did not complete")
    if not clients["started"]:
        reasons.append("no exchange was started")
    return reasons


class _Legs:
    """Counts and latencies of each leg: one table, or two where it would be cut."""

    def __init__(self, document: Document) -> None:
        self._messages, self._latency = document["messages"], document["latency_us"]
        self._naks = document["errors"]["nak"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self._table(True, True)
        # Asked without the limit of this width: what the table would like to have.
        if console.measure(whole, options=options.update(max_width=1000)).maximum \
                <= options.max_width:
            yield from (whole, Text())
        else:
            yield from (self._table(True, False), Text(), self._table(False, True), Text())

    def _table(self, counts: bool, times: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
                      header_style="bold")
        table.add_column("", no_wrap=True)
        for title in _COUNTS * counts + _PERCENTILES * times:
            table.add_column(title.replace("_", "."), justify="right", no_wrap=True)
        for title, request, reply, name in _LEGS:
            table.add_row(title, *self._counts(request, reply, name) * counts,
                          *self._times(name) * times)
        if times:
            for title, name in _EXCHANGES:
                completed = ("", f"{self._latency[name]['count']:,}", "", "")
                table.add_row(title, *completed * counts, *self._times(name))
        return table

    def _counts(self, request: str, reply: str, name: str) -> tuple[str, ...]:
        sent = self._messages[request]["sent"]
        # What was not answered in time. A refusal is an answer; a second answer is none.
        answered = self._latency[name]["count"] + (self._naks if request == "request" else 0)
        lost = f"{sent - answered:,}"
        return (f"{sent:,}", f"{self._messages[reply]['received']:,}",
                lost if lost == "0" else f"[red]{lost}[/]",
                f"{self._messages[request]['retransmitted']:,}")

    def _times(self, name: str) -> tuple[str, ...]:
        entry = self._latency[name]
        return tuple(duration_text(entry[p]) if entry["count"] else "-" for p in _PERCENTILES)


def _counted(entries: dict[str, Any]) -> str:
    return ", ".join(f"[red]{name.replace('_', ' ')} {count:,}[/]"
                     for name, count in entries.items() if isinstance(count, int) and count)


def _losses(losses: dict[str, Any]) -> str:
    """What was lost where; `none` only of what was measured."""
    named = {_LOSSES.get(name, name.replace("_", " ")): count for name, count in losses.items()}
    clean = [name for name, count in named.items() if count == 0]
    blind = [name for name, count in named.items() if count is None]
    parts = [_counted(named), f"none in {', '.join(clean)}" if clean else "",
             f"[dim]not measured: {', '.join(blind)}[/]" if blind else ""]
    return "; ".join(filter(None, parts))


def _load(document: Document) -> str:
    config = document["config"]
    kind = (f"closed loop, {config['concurrency']:,} exchanges in flight"
            if config["load"] == "closed" else
            f"open loop, {config['rate_per_s']:,.10g} exchanges started per second")
    return (f"{kind}, answers awaited for {config['timeout_s']:g} s; took "
            f"{duration_text(document['duration_s'] * 1e6)}")


def render(document: Document) -> RenderableType:
    """The report as something that rich can print; its first line is the verdict."""
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    errors = _counted(document["errors"])
    reasons = document["errors"].get("malformed_by_reason")
    if reasons:
        errors += f" ({_counted(reasons)})"
    facts.add_row("errors", errors or "none")
    facts.add_row("losses", _losses(document["losses"]))
    facts.add_row("load", _load(document))
    generator, environment = document["generator"], document["environment"]
    facts.add_row("generator", Text(
        f"{environment['engine']} engine on {document['config']['interface']}, "
        f"{generator['busy_percent']:.0f} % of one CPU busy, "
        f"{document['missed_starts']:,} starts missed"))
    facts.add_row("machine", Text(f"{environment['cpu']}, {environment['cpus']} CPUs, "
                                  f"Linux {environment['kernel']}"))
    parts: list[RenderableType] = [_headline(document)]
    parts += [Text(reason, "yellow") for reason in _reasons(document)]
    parts += [Text(), _Legs(document), facts]
    if document["config"]["load"] == "closed" and generator["busy_percent"] >= _BUSY_PERCENT:
        parts.append(Text("the generator was busy all the time: the server may be faster than "
                          "this", "dim"))
    return Group(*parts)


def print_report(document: Document) -> None:
    """Print the report; wide enough for its table where the output is no terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An arrow that a terminal cannot show is no reason to show nothing.
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(render(document))


def live_view(before: dict[str, Any] | None, now: dict[str, Any]) -> RenderableType:
    """The live panel of a running test."""
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar

    seconds = now["elapsed_s"] - (before["elapsed_s"] if before else 0.0)
    rate = (now["bound"] - (before["bound"] if before else 0)) / seconds if seconds > 0 else 0.0
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_row("clients", ProgressBar(total=now["planned"], completed=now["bound"], width=40),
                  f"{now['bound']:,} of {now['planned']:,} bound")
    facts.add_row("now", f"{rate:,.0f} DORA/s",
                  f"{now['in_flight']:,} in flight, {now['failed']:,} failed")
    latency = now["latency_us"]
    times = "  ".join(
        f"{p.replace('_', '.')} {duration_text(latency[p]) if latency['count'] else '-'}"
        for p in _PERCENTILES)
    return Panel(Group(facts, Text(f"latency  {times}")), title_align="left",
                 title=f"dhcp-tester  {now['elapsed_s']:.1f} s")
