"""`lab setup`, `teardown`, `gc`, `status`, `exec`: a lab's life and a look into it."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastpath.cli import Command
from fastpath.errors import SystemRefused
from netlab import plan
from netlab.choose import Choice, topology_options
from netlab.commands.common import (
    Trailing,
    check_lab_name,
    name_option,
    need_privilege,
    say,
    step_into,
)

if TYPE_CHECKING:
    from netlab.lifecycle import Removed


@click.command(cls=Command)
@topology_options
@name_option
def setup(choice: Choice, name: str) -> None:
    """Build the network TOPOLOGY (direct) and leave it standing."""
    need_privilege()
    from netlab import lifecycle, signals, state

    began = time.monotonic()
    wanted = choice.one()
    steps = plan.make(wanted, name)
    with signals.handled(signals.leave), state.locked(name, "lab setup"):
        journal, built = lifecycle.ensure_up(steps, say)
        if not built:
            _tell_taken(name, lifecycle.take_filters(name))
    nodes = _listed([node.name for node in journal.topology.nodes])
    if built:
        done = f"built in {time.monotonic() - began:.2f} s"
    else:
        done = "nothing to do"
    click.echo(f"{name}: {wanted.name} is up ({nodes}), {done}")


@click.command(cls=Command)
@name_option
@click.option("--all", "everything", is_flag=True, help="Every lab.")
def teardown(name: str, everything: bool) -> None:
    """Remove a lab and all that was made for it, and nothing else."""
    need_privilege()
    from netlab import lifecycle, state

    labs = lifecycle.all_labs() if everything else [name]
    if not labs:
        click.echo("no lab is up")
    for each in labs:
        with state.locked(each, "lab teardown"):
            removed = lifecycle.tear_down(each)
        if removed.anything:
            _tell_removed(each, removed)
        else:
            click.echo(f"{each}: not there, nothing to do")


@click.command(cls=Command)
def gc() -> None:
    """Remove what labs left whose command died; labs that are up stay."""
    need_privilege()
    from netlab import attach, lifecycle, state

    collected = False
    for each in lifecycle.all_labs():
        try:
            with state.locked(each, "lab gc"):
                for line in attach.collect(each):
                    collected = True
                    click.echo(line)
                if not lifecycle.left_behind(each):
                    collected |= _tell_taken(each, lifecycle.take_filters(each))
                    continue
                removed = lifecycle.remove(each)
        except SystemRefused as busy:
            say(busy.what)
            continue
        if removed.anything:
            collected = True
            _tell_removed(each, removed)
    if not collected:
        click.echo("nothing was left behind")


@click.command(cls=Command)
@click.option("--name", default=None, callback=check_lab_name, metavar="LAB",
              help="Only this lab.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(name: str | None, as_json: bool) -> None:
    """Show labs: nodes, interfaces, counters, programs."""
    need_privilege()
    from netlab import lifecycle, observe

    names = lifecycle.all_labs() if name is None else [name]
    labs = [found for each in names if (found := observe.describe(each))]
    if as_json:
        click.echo(json.dumps({"labs": labs}, indent=1))
        return
    if not labs:
        click.echo("no lab is up" if name is None else f"{name}: not up")
    for each in labs:
        _show(each)


# Options that are not ours are the command's: `lab exec client ip -br addr` works without --.
@click.command("exec", cls=Trailing, options_metavar="[--name LAB]",
             context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("words", nargs=-1, metavar="[--] COMMAND...")
@name_option
@click.pass_context
def exec_(ctx: click.Context, node: str, words: tuple[str, ...], name: str) -> NoReturn:
    """Run COMMAND inside NODE: lab exec client -- ip addr."""
    command = (*words, *ctx.meta["trailing"])
    if not command:
        raise click.UsageError("no command to run", ctx)
    step_into(name, node)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        refused = SystemRefused(f"cannot run {command[0]!r}: {(error.strerror or '').lower()}", "")
        # What a shell says: 127 not found, 126 found and not to be run.
        refused.exit_code = 127 if isinstance(error, FileNotFoundError) else 126
        raise refused from error


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{len(names):,} nodes"


def _tell_taken(name: str, filters: int) -> bool:
    """Say, if there were any, that filters were taken off; whether there were."""
    if filters:
        click.echo(f"{name}: removed counters that a dead process left ({filters:,} filters)")
    return bool(filters)


def _tell_removed(name: str, removed: Removed) -> None:
    programs = f", programs ended: {removed.programs}" if removed.programs else ""
    namespaces = _listed(list(removed.namespaces)) or "no namespaces"
    click.echo(f"{name}: removed ({namespaces}{programs})")
    for line in removed.returned:
        say(f"{name}: {line}")
    for guest in removed.guests:
        say(f"{name}: {guest.command} (pid {guest.process.pid}) still runs in what was its "
             "network, which ends with it")


def _show(found: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    note = " (left behind: lab gc)" if found["left_behind"] else ""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("node", "port", "state", "MAC", "address"):
        table.add_column(heading, no_wrap=True)
    for heading in ("received", "sent", "dropped"):
        table.add_column(heading, justify="right", no_wrap=True)
    running = []
    for node in found["nodes"]:
        running += [f"  {p['command']} (pid {p['pid']}) in {node['node']}"
                    for p in node["programs"]]
        for i, port in enumerate(node["interfaces"] or [{"state": "missing"}]):
            dropped = port.get("rx_dropped", 0) + port.get("tx_dropped", 0)
            counts = (port.get("rx_packets", 0), port.get("tx_packets", 0), dropped)
            table.add_row(node["node"] if i == 0 else "", port.get("ifname"), port["state"],
                          port.get("mac"), ", ".join(port.get("addresses", [])),
                          *(f"{count:,}" for count in counts))
    click.echo(f"{found['name']}: {found['topology'] or '?'}, {found['phase']}{note}")
    # A pipe has no width: nothing is to be cut there. And part of a MAC is no emoji (":cd:").
    Console(width=None if sys.stdout.isatty() else 200, emoji=False, markup=False,
            highlight=False).print(table)
    for line in running:
        click.echo(line)
