"""How the relay shows itself: the live panel and the line it ends with."""

from __future__ import annotations

from typing import Any

from relay.places import Resolved


def serving_line(resolved: Resolved) -> str:
    """What is relayed, from where to where, in one line."""
    downs = ", ".join(f"{place.interface.name} as {place.giaddr}" for place in resolved.places
                      if place.down)
    ups = ", ".join(place.interface.name for place in resolved.places if place.up)
    servers = ", ".join(map(str, resolved.config.servers))
    return f"relaying from {downs} through {ups} to {servers}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()
                     if count)


def _troubles(final: dict[str, Any]) -> dict[str, int]:
    return {**final["discarded"], "elsewhere": final["elsewhere"],
            "rx ring drops": final["rx_ring_drops"]}


def summary_line(final: dict[str, Any], title: str = "ended after") -> str:
    """What was done, in a few short lines of text."""
    lines = [f"{title} {final['uptime_s']:.1f} s"]
    for way in ("requests", "replies"):
        lines.append(f"  {way:<9} {_listed(final[way]['received']) or 'none'}; relayed "
                     f"{_listed(final[way]['relayed']) or 'none'}")
    for name, counts in (("option 82", final["option82"]), ("faults", final["faults"]),
                         ("not relayed", _troubles(final))):
        if said := _listed(counts):
            lines.append(f"  {name:<9} {said}")
    return "\n".join(lines)


def _messages(before: dict[str, Any] | None, now: dict[str, Any]) -> Any:
    """Each type of message: how many came and went, and how fast."""
    from rich.table import Table

    seconds = now["uptime_s"] - before["uptime_s"] if before else 0.0
    table = Table(box=None, pad_edge=False)
    for title in ("message", "received", "per s", "relayed", "per s"):
        table.add_column(title, justify="left" if title == "message" else "right")
    for way in ("requests", "replies"):
        for name, count in now[way]["received"].items():
            if not count:
                continue
            cells = [name.upper()]
            for what in ("received", "relayed"):
                found = now[way][what].get(name, 0)
                cells.append(f"{found:,}")
                cells.append(f"{(found - before[way][what].get(name, 0)) / seconds:,.0f}"
                             if before and seconds > 0 else "-")
            table.add_row(*cells)
    return table


def live_view(before: dict[str, Any] | None, now: dict[str, Any]) -> Any:
    """The live panel: rates since the last picture, servers, what was not relayed."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    servers = Table(box=None, pad_edge=False)
    for title in ("server", "sent", "replies", ""):
        servers.add_column(title, justify="left" if title in ("server", "") else "right")
    for row in now["servers"]:
        servers.add_row(row["address"], f"{row['sent']:,}", f"{row['replies']:,}",
                        "" if row["reachable"] else "[red]no next hop[/]")
    wrong = Table(box=None, show_header=False, pad_edge=False)
    for name, count in _troubles(now).items():
        if count:
            wrong.add_row(name.replace("_", " "), f"[yellow]{count:,}[/]")
    for name, count in now["faults"].items():
        wrong.add_row(f"fault {name}", f"[magenta]{count:,}[/]")
    recent = Text("\n".join(["", *now["recent"]]), style="dim", no_wrap=True)
    body = Group(Columns([_messages(before, now), wrong], padding=(0, 6)), "", servers,
                 *([recent] if now["recent"] else []))
    return Panel(body, title=f"dhcp-relay  {now['uptime_s']:.0f} s", title_align="left")
