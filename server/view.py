"""How the server shows itself: the live panel and the line it ends with."""

from __future__ import annotations

from typing import Any


def summary_line(final: dict[str, Any]) -> str:
    """What was done, in a few short lines of text."""
    received = ", ".join(f"{count:,} {name.upper()}" for name, count in final["received"].items()
                         if count) or "nothing"
    sent = ", ".join(f"{count:,} {name.upper()}" for name, count in final["sent"].items()
                     if count) or "nothing"
    pool = final["pool"]
    lines = [f"dhcp-server: ended after {final['uptime_s']:.1f} s",
             f"  received  {received}",
             f"  sent      {sent}",
             f"  pool      {pool['bound']:,} bound, {pool['offered']:,} offered, "
             f"{pool['declined']:,} declined, {pool['free']:,} free"]
    troubles = {**final["refused"], **final["causes"], "elsewhere": final["elsewhere"],
                "rx_ring_drops": final["rx_ring_drops"]}
    said = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in troubles.items()
                     if count)
    return "\n".join([*lines, f"  not served  {said}"] if said else lines)


def live_view(before: dict[str, Any] | None, now: dict[str, Any]) -> Any:
    """The live panel: rates since the last picture, totals, the pool, what was refused."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    seconds = now["uptime_s"] - before["uptime_s"] if before else 0.0

    def rate(side: str, name: str) -> str:
        if not before or seconds <= 0:
            return "-"
        return f"{(now[side].get(name, 0) - before[side].get(name, 0)) / seconds:,.0f}"

    messages = Table(box=None, pad_edge=False)
    for title in ("message", "received", "per s", "sent", "per s"):
        messages.add_column(title, justify="left" if title == "message" else "right")
    for name in now["received"]:
        if now["received"][name] or now["sent"].get(name):
            messages.add_row(name.upper(), f"{now['received'][name]:,}", rate("received", name),
                             f"{now['sent'].get(name, 0):,}", rate("sent", name))
    pool = now["pool"]
    used = pool["bound"] + pool["offered"]
    state = Table(box=None, show_header=False, pad_edge=False)
    state.add_row("pool", ProgressBar(total=pool["addresses"], completed=used, width=24))
    for name in ("bound", "offered", "declined", "free"):
        state.add_row(name, f"{pool[name]:,}")
    troubles = {**now["refused"], **now["causes"], "rx_ring_drops": now["rx_ring_drops"]}
    for name, count in troubles.items():
        if count:
            state.add_row(name.replace("_", " "), f"[yellow]{count:,}[/]")
    return Panel(Columns([messages, state], padding=(0, 6)),
                 title=f"dhcp-server  {now['uptime_s']:.0f} s", title_align="left")
