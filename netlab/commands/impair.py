"""`lab impair set|show|reset`: lose, delay, double, reorder or slow down frames of a link."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fastpath.cli import DURATION, Group
from fastpath.errors import SystemRefused, UserError
from netlab.commands.common import journal_of, name_option, need_privilege, say

if TYPE_CHECKING:
    from netlab.impairment.arrange import End, Setting
    from netlab.impairment.wire import Condition
    from netlab.topology import Link, Topology


class _Quantity(click.ParamType[float]):
    """A number with a unit, read as topology files are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> float:
        from netlab.topology import quantities

        read: Callable[[str], float] = {
            "share": quantities.percent, "time": quantities.milliseconds,
            "rate": quantities.kbit_per_s}[self.name]
        if isinstance(value, float):
            return value
        try:
            return read(value)
        except UserError as error:
            self.fail(f"{error.what}: {error.remedy}", param, ctx)


@click.group(cls=Group, invoke_without_command=True, no_args_is_help=False)
@click.pass_context
def impair(ctx: click.Context) -> None:
    """Lose, delay, double, reorder or slow down frames of a link.

    LINK is an interface (client:eth0), a node with one link (client), or a segment: all its
    links.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(2)


@impair.command("set")
@click.argument("link")
@click.option("--loss", type=_Quantity("share"), default=0.0, metavar="SHARE",
              help="Frames to lose: 1%.")
@click.option("--delay", type=_Quantity("time"), default=0.0, metavar="TIME",
              help="How long each waits: 20ms.")
@click.option("--jitter", type=_Quantity("time"), default=0.0, metavar="TIME",
              help="How much that varies, both ways: 5ms.")
@click.option("--rate", type=_Quantity("rate"), default=0.0, metavar="RATE",
              help="Bits a second: 10mbit.")
@click.option("--duplicate", type=_Quantity("share"), default=0.0, metavar="SHARE",
              help="Frames to send twice.")
@click.option("--reorder", type=_Quantity("share"), default=0.0, metavar="SHARE",
              help="Frames that the delay spares, so that they overtake.")
@click.option("--direction", type=click.Choice(["in", "out", "both"]), default="both",
              show_default=True, help="What the node receives, what it sends, or both.")
@click.option("--from", "from_s", type=DURATION, default=0.0, metavar="TIME",
              help="Begin so long from now; the command stays until then.")
@click.option("--until", "until_s", type=DURATION, default=0.0, metavar="TIME",
              help="Reset so long from now; the command stays until then, and resets when it is "
                   "interrupted.")
@click.option("--limit", type=click.IntRange(1, 10_000_000), default=None, metavar="FRAMES",
              help="Most frames that wait on the link.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=None,
              help="Of the dice, for the same losses again (netem of kernel 6.7).")
@name_option
def set_(link: str, name: str, loss: float, delay: float, jitter: float, rate: float,
         duplicate: float, reorder: float, direction: str, from_s: float, until_s: float,
         limit: int | None, seed: int | None) -> None:
    """Impair LINK in this way alone, whatever it was before."""
    from netlab import features
    from netlab.impairment.arrange import arrange
    from netlab.impairment.netem import load_netem
    from netlab.topology.model import Impairment

    journal = journal_of(name)
    links = _links(journal.topology, link)
    topology = replace(journal.topology, impairments=tuple(
        Impairment(each.node, each.ifname, direction, loss, duplicate, reorder, delay, jitter,
                   rate, from_s, until_s) for each in _each_way_once(links, direction)))
    need_privilege()
    has = load_netem(features.probe(), say)
    arrangement = arrange(topology, has, limit=limit or 0, seed=seed)
    arrangement.check()
    if from_s or until_s:
        _timed(name, arrangement.settings)
    else:
        _put(name, arrangement.settings)
    _show(name, journal.topology, links, only_impaired=False)


@impair.command()
@click.argument("link", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@name_option
def show(link: str | None, as_json: bool, name: str) -> None:
    """Show what befalls frames now, as the kernel says: of LINK, or of every impaired link."""
    journal = journal_of(name)
    links = _links(journal.topology, link) if link else list(journal.topology.links)
    need_privilege()
    if as_json:
        from netlab.impairment.wire import conditions

        found = conditions(name, journal.topology, links)
        click.echo(json.dumps({"lab": name, "links": [
            _as_json(journal.topology, each, found[each.end]) for each in links]}, indent=1))
        return
    _show(name, journal.topology, links, only_impaired=link is None)


@impair.command()
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="Every link.")
@name_option
def reset(link: str | None, everything: bool, name: str) -> None:
    """Let all frames of LINK pass again, in both directions."""
    if (link is None) != everything:
        raise click.UsageError("name a link, or --all: not both, not neither")
    journal = journal_of(name)
    links = _links(journal.topology, link) if link else list(journal.topology.links)
    need_privilege()
    from netlab import plan
    from netlab.impairment import wire

    found = wire.conditions(name, journal.topology, links)
    impaired: dict[tuple[End, End], bool] = {}
    for each in links:
        own, other = each.end, plan.peer(journal.topology, each)
        out, into = found[own]
        impaired |= {(own, other): not out.clear, (other, own): not into.clear}
    ways = [way for way, is_so in impaired.items() if is_so]
    wire.clear(name, ways)
    count = len({frozenset(way) for way in ways})
    click.echo(f"{name}: reset {count} {'link' if count == 1 else 'links'}" if count
               else f"{name}: no link of these was impaired")


def _links(topology: Topology, word: str) -> list[Link]:
    """The links that LINK means; UserError when it means none, or one of several."""
    from netlab.impairment.arrange import find_link

    # A node's name has neither colon nor dot in it (plan.LAB_NAME).
    for separator in ":.":
        if separator in word and word not in {s.name for s in topology.segments}:
            node, _, ifname = word.partition(separator)
            return [find_link(topology, (node, ifname))]
    of_node, of_segment = topology.links_of(word), topology.links_on(word)
    if of_node and of_segment:
        raise UserError(f"{word} is a node and a segment", f"name the interface: {word}:eth0")
    if len(of_node) > 1:
        there = ", ".join(f"{word}:{each.ifname}" for each in of_node[:8])
        raise UserError(f"{word} has {len(of_node)} links", f"name one: {there}")
    if not of_node and not of_segment:
        segments = ", ".join(each.name for each in topology.segments[:12])
        raise UserError(f"{topology.name}: no link, node or segment {word!r}",
                        f"write NODE:IFNAME, or a segment: {segments}")
    return list(of_node or of_segment)


def _each_way_once(links: list[Link], direction: str) -> list[Link]:
    """Without the second end of a cable where the first speaks for both directions."""
    if direction != "both":
        return links
    return list({each.segment if not each.port else each.end: each for each in links}.values())


def _put(lab: str, settings: tuple[Setting, ...]) -> None:
    """All of them or, where the kernel refuses one, none."""
    from netlab.impairment import wire

    done: list[tuple[End, End]] = []
    try:
        for setting in settings:
            done.append((setting.sender, setting.receiver))
            wire.put(lab, [setting])
    except SystemRefused:
        wire.clear(lab, done)
        raise


def _timed(lab: str, settings: tuple[Setting, ...]) -> None:
    """Carry the schedule out from now on; what has an end is taken back however we end."""
    from netlab import signals
    from netlab.impairment import wire
    from netlab.impairment.schedule import Schedule

    schedule, began = Schedule(settings), time.monotonic()
    in_force: dict[tuple[End, End], bool] = {}
    with signals.handled(signals.leave):
        try:
            while (next_s := schedule.next_s) is not None:
                wait_s = began + next_s - time.monotonic()
                if wait_s > 0:
                    say(f"{lab}: next change in {wait_s:.3g} s (Ctrl-C to end)")
                    time.sleep(wait_s)
                due = schedule.due(next_s)
                # Noted first: what is put half on has to be taken off too.
                in_force |= {(c.setting.sender, c.setting.receiver): bool(c.setting.until_s)
                             for c in due}
                wire.carry_out(lab, due)
        except BaseException:
            wire.clear(lab, [way for way, ends in in_force.items() if ends])
            raise


def _show(lab: str, topology: Topology, links: list[Link], *, only_impaired: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from netlab import plan
    from netlab.impairment.arrange import shown
    from netlab.impairment.wire import conditions

    found = conditions(lab, topology, links)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("from", "to", "impairment"):
        table.add_column(heading)
    for heading in ("passed", "lost", "waiting"):
        table.add_column(heading, justify="right")
    rows: dict[tuple[End, End], Condition] = {}
    for each in links:
        own, other = each.end, plan.peer(topology, each)
        rows[own, other], rows[other, own] = found[own]
    for (sender, receiver), is_ in rows.items():
        if not (only_impaired and is_.clear):
            counts = _counts(is_)
            table.add_row(shown(sender), shown(receiver), _said(is_),
                          *(f"{counts[key]:,}" if key in counts else ""
                            for key in ("passed", "lost", "waiting")))
    if not table.row_count:
        click.echo(f"{lab}: no link is impaired")
        return
    Console(width=None if sys.stdout.isatty() else 200, emoji=False, markup=False,
            highlight=False).print(table)


def _counts(condition: Condition) -> dict[str, int]:
    """passed: frames that the queue let go. lost: what it and the loss took."""
    queue, lost = condition.queue, condition.loss
    counts = {"passed": queue.sent, "waiting": queue.waiting} if queue else {}
    if not condition.clear:
        counts["lost"] = (queue.dropped if queue else 0) + (lost.lost if lost else 0)
    return counts


def _quantities(condition: Condition) -> dict[str, Any]:
    """What is in force, by the names that `set` and topology files have for it."""
    from netlab.topology.quantities import as_milliseconds, as_percent, as_rate

    discipline = condition.queue.discipline if condition.queue else None

    def of(field: str) -> float:
        return float(getattr(discipline, field, None) or 0)

    loss = condition.loss.percent if condition.loss else of("loss_percent")
    said: dict[str, Any] = {
        "loss": as_percent(loss) if loss else None,
        "delay": as_milliseconds(of("delay_ms")) if of("delay_ms") else None,
        "jitter": as_milliseconds(of("jitter_ms")) if of("jitter_ms") else None,
        "rate": as_rate(of("rate_bytes_per_s") * 8 / 1000) if of("rate_bytes_per_s") else None,
        "duplicate": as_percent(of("duplicate_percent")) if of("duplicate_percent") else None,
        "reorder": as_percent(of("reorder_percent")) if of("reorder_percent") else None,
    }
    return {name: value for name, value in said.items() if value}


def _said(condition: Condition) -> str:
    return ", ".join(f"{name} {value}" for name, value in _quantities(condition).items()) or "none"


def _as_json(topology: Topology, link: Link, found: tuple[Condition, Condition]) -> dict[str, Any]:
    from netlab import plan

    node, ifname = plan.peer(topology, link)
    return {"node": link.node, "ifname": link.ifname, "segment": link.segment,
            "peer": {"node": node, "ifname": ifname},
            **{way: {"by": _by(is_), **_quantities(is_), **_counts(is_)}
               for way, is_ in zip(("out", "in"), found, strict=True)}}


def _by(condition: Condition) -> list[str]:
    """The mechanisms at work."""
    return [name for name, there in (
        (condition.queue.kind if condition.queue else "", condition.queue is not None),
        ("xdp", condition.loss is not None)) if there]
