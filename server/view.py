"""How the server shows itself: the live panel and the line it ends with."""

from __future__ import annotations

from typing import Any

from server.arrays import Tables
from server.config import Resolved
from server.leases import BOUND, FREE, OFFERED, RESERVED

_MOST_SUBNETS = 8


def serving_line(resolved: Resolved, tables: Tables) -> str:
    """What is served and where, in one line."""
    config, totals = resolved.config, tables.world.leases.totals
    free = int(totals[FREE] + totals[RESERVED] + totals[BOUND] + totals[OFFERED])
    if len(resolved.subnets) == 1 and len(resolved.subnets[0].pools) == 1:
        pool, network = resolved.subnets[0].pools[0], resolved.subnets[0].network
        what = f"{pool.start} to {pool.end} ({free:,} addresses of {network})"
    else:
        what = f"{free:,} addresses of {len(resolved.subnets):,} subnets"
    where = ", ".join(f"{one.interface.name} as {one.server or 'whatever address is asked'}"
                      for one in resolved.served)
    how = " by UDP socket" if config.transport == "udp" else ""
    return f"serving {what} on {where}, port {config.port}{how}"


def summary_line(final: dict[str, Any], title: str = "ended after") -> str:
    """What was done, in a few short lines of text."""
    received = ", ".join(f"{count:,} {name.upper()}" for name, count in final["received"].items()
                         if count) or "nothing"
    sent = ", ".join(f"{count:,} {name.upper()}" for name, count in final["sent"].items()
                     if count) or "nothing"
    pool = final["pool"]
    lines = [f"{title} {final['uptime_s']:.1f} s",
             f"  received  {received}",
             f"  sent      {sent}",
             f"  pool      {pool['bound']:,} bound, {pool['offered']:,} offered, "
             f"{pool['declined']:,} declined, {pool['free']:,} free"]
    troubles = {**final["refused"], **final["causes"], "elsewhere": final["elsewhere"],
                "rx_ring_drops": final["rx_ring_drops"]}
    if final["faults"]:
        lines.append("  faults    " + ", ".join(f"{count:,} {name}"
                                                for name, count in final["faults"].items()))
    if final.get("lease_file"):
        stored = final["lease_file"]
        lines.append(f"  stored    {stored['records']:,} records, {stored['bytes']:,} octets in "
                     f"{stored['path']}")
    said = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in troubles.items()
                     if count)
    return "\n".join([*lines, f"  not served  {said}"] if said else lines)


def _messages(before: dict[str, Any] | None, now: dict[str, Any]) -> Any:
    """Each type of message: how many, how fast, and how long its answer took."""
    from rich.table import Table

    seconds = now["uptime_s"] - before["uptime_s"] if before else 0.0

    def rate(side: str, name: str) -> str:
        if not before or seconds <= 0:
            return "-"
        return f"{(now[side].get(name, 0) - before[side].get(name, 0)) / seconds:,.0f}"

    table = Table(box=None, pad_edge=False)
    for title in ("message", "received", "per s", "sent", "per s", "p50 us", "p99 us"):
        table.add_column(title, justify="left" if title == "message" else "right")
    for name in now["received"]:
        if now["received"][name] or now["sent"].get(name):
            took = now["response_us"].get(name, {})
            table.add_row(name.upper(), f"{now['received'][name]:,}", rate("received", name),
                          f"{now['sent'].get(name, 0):,}", rate("sent", name),
                          *(f"{took[point]:,}" if point in took else ""
                            for point in ("p50", "p99")))
    return table


def _pools(now: dict[str, Any]) -> Any:
    """How full each subnet is; the fullest first where there are many."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    def used(row: dict[str, Any]) -> int:
        return int(row["bound"] + row["offered"])

    table = Table(box=None, pad_edge=False)
    for title in ("subnet", "", "bound", "offered", "declined", "free"):
        table.add_column(title, justify="left" if title in ("subnet", "") else "right")
    rows = sorted(now["subnets"], key=lambda row: -used(row) / max(1, row["addresses"]))
    for row in rows[:_MOST_SUBNETS]:
        bar = ProgressBar(total=max(1, row["addresses"]), completed=used(row), width=16)
        table.add_row(row["subnet"], bar, *(f"{row[name]:,}" for name in (
            "bound", "offered", "declined", "free")))
    if len(rows) > _MOST_SUBNETS:
        table.add_row(f"… {len(rows) - _MOST_SUBNETS:,} more subnets")
    return table


def live_view(before: dict[str, Any] | None, now: dict[str, Any]) -> Any:
    """The live panel: rates since the last picture, response times, pools, what went wrong."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    wrong = Table(box=None, show_header=False, pad_edge=False)
    troubles = {**now["refused"], **now["causes"]}
    troubles |= {f"ring drops {row['name']}": row["rx_ring_drops"] for row in now["interfaces"]}
    for name, count in troubles.items():
        if count:
            wrong.add_row(name.replace("_", " "), f"[yellow]{count:,}[/]")
    for name, count in now["faults"].items():
        wrong.add_row(f"fault {name}", f"[magenta]{count:,}[/]")
    stored = now.get("lease_file")
    if stored:
        state = f"{stored['records']:,}" if stored["storing"] else "[red]cannot be written[/]"
        wrong.add_row("lease records stored", state)
    recent = Text("\n".join(["", *now["recent"]]), style="dim", no_wrap=True)
    body = Group(Columns([_messages(before, now), wrong], padding=(0, 6)), "", _pools(now),
                 *([recent] if now["recent"] else []))
    return Panel(body, title=f"dhcp-server  {now['uptime_s']:.0f} s", title_align="left")
