"""The report in the terminal: the verdict first, then the numbers behind it.

Made from the result document alone, so that a document reads the same later, elsewhere.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
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
_EXCHANGES = (("exchange, from its start", "dora"),
              ("exchange, from intended start", "dora_from_intended"))
_PERCENTILES = ("p50", "p90", "p99", "p99_9", "max")
# A closed loop above this leaves no doubt who was busy.
_BUSY_PERCENT = 90.0


def duration_text(us: float) -> str:
    """Microseconds for people: `87 us`, `1.24 ms`, `3.20 s`."""
    if us < 1000:
        return f"{us:.0f} us"
    return f"{us / 1000:.3g} ms" if us < 1_000_000 else f"{us / 1_000_000:.3g} s"


def _headline(document: Document) -> Text:
    label, style = _STYLES[document["verdict"]]
    clients = document["clients"]
    line = Text()
    line.append(f" {label} ", style)
    line.append(f"  {clients['bound']:,} of {clients['started']:,} clients bound "
                f"({document['success_rate_percent']:g} %) in {document['duration_s']:.3g} s",
                "bold")
    line.append("  ·  ")
    line.append(f"{document['dora_per_s']:,.0f} DORA/s", "bold")
    return line


def _reason(document: Document) -> str:
    """Why the verdict is what it is, where it is not a pass."""
    clients, missed = document["clients"], document["missed_starts"]
    if document["verdict"] == GENERATOR_BOUND:
        if document["losses"]["rx_ring"]:
            return (f"the tester's own receive ring lost {document['losses']['rx_ring']:,} frames: "
                    "the numbers say nothing about the server; use more --ring-slots or less load")
        return (f"the tester began {missed:,} of {clients['started']:,} exchanges over 10 ms late: "
                "the offered rate was not what --rate says; lower it")
    if document["interrupted"]:
        return (f"interrupted: {clients['planned'] - clients['started']:,} clients were not "
                "started")
    if clients["bound"] < clients["started"]:
        return f"{clients['started'] - clients['bound']:,} exchanges did not complete"
    return "no exchange was started" if not clients["started"] else ""


def _legs(document: Document) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("sent", "received", "lost", "resent", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(title, justify="right")
    messages, latency = document["messages"], document["latency_us"]

    def times(name: str) -> list[str]:
        entry = latency[name]
        return [duration_text(entry[p]) if entry["count"] else "-" for p in _PERCENTILES]

    for title, request, reply, name in _LEGS:
        sent = messages[request]["sent"]
        # A refusal is an answer too.
        answered = latency[name]["count"] + (messages["nak"]["received"]
                                             if request == "request" else 0)
        lost = max(sent - answered, 0)
        table.add_row(title, f"{sent:,}", f"{messages[reply]['received']:,}",
                      f"[red]{lost:,}[/]" if lost else "0",
                      f"{messages[request]['retransmitted']:,}", *times(name))
    for title, name in _EXCHANGES:
        table.add_row(title, "", f"{latency[name]['count']:,}", "", "", *times(name))
    return table


def _counted(entries: dict[str, Any]) -> str:
    return ", ".join(f"[red]{count:,} {name.replace('_', ' ')}[/]"
                     for name, count in entries.items() if isinstance(count, int) and count)


def _losses(losses: dict[str, Any]) -> str:
    seen = _counted(losses) or "none seen"
    blind = [name.replace("_", " ") for name, count in losses.items() if count is None]
    return seen + (f"  [dim](not measured: {', '.join(blind)})[/]" if blind else "")


def _load(config: dict[str, Any]) -> str:
    if config["load"] == "closed":
        return f"closed loop, {config['concurrency']:,} exchanges in flight"
    return f"open loop, {config['rate_per_s']:,.6g} exchanges started per second"


def render(document: Document) -> RenderableType:
    """The report as something that rich can print."""
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column()
    errors = _counted(document["errors"])
    reasons = document["errors"].get("malformed_by_reason")
    if reasons:
        errors += f" ({_counted(reasons)})"
    facts.add_row("errors", errors or "none")
    facts.add_row("losses", _losses(document["losses"]))
    facts.add_row("load", _load(document["config"])
                  + f", answers awaited for {document['config']['timeout_s']:g} s")
    generator, environment = document["generator"], document["environment"]
    facts.add_row("generator", f"{environment['engine']} engine on "
                  f"{document['config']['interface']}, {generator['busy_percent']:.0f} % of one "
                  f"CPU busy, {document['missed_starts']:,} starts missed")
    facts.add_row("machine", f"{environment['cpu']}, {environment['cpus']} CPUs, "
                  f"Linux {environment['kernel']}")
    parts: list[RenderableType] = [Text(), _headline(document)]
    reason = _reason(document)
    if reason:
        parts.append(Text(reason, "yellow"))
    parts += [_legs(document), facts]
    if document["config"]["load"] == "closed" and generator["busy_percent"] >= _BUSY_PERCENT:
        parts.append(Text("the generator was busy all the time: the server may be faster than "
                          "this", "dim"))
    return Padding(Group(*parts), (0, 0, 1, 0))


def print_report(document: Document) -> None:
    """Print the report; wide enough for its table where the output is no terminal."""
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
    facts.add_row("latency", "  ".join(f"{p.replace('_', '.')} {duration_text(latency[p])}"
                                       for p in _PERCENTILES), "")
    return Panel(facts, title=f"dhcp-tester  {now['elapsed_s']:.1f} s", title_align="left")
