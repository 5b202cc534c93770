"""How the server shows itself: the live panel and the line it ends with."""

from __future__ import annotations

from typing import Any

from server.arrays import Tables
from server.config import Resolved
from server.leases import BOUND, FREE, OFFERED, RESERVED


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
