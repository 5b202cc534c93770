"""`lab plan`, `validate`, `save`: topologies and their files, without making anything.

None of these needs privilege.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import click

from fastpath.cli import Command, say_error
from fastpath.errors import UserError
from netlab.choose import Choice, topology_options
from netlab.commands.common import journal_of, name_option

# Rows of a table, and interfaces of a node, before the rest is counted only.
MOST_ROWS, MOST_INTERFACES = 40, 6


@click.command(cls=Command)
@click.argument("files", nargs=-1, metavar="FILE...",
                type=click.Path(dir_okay=False, path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON Schema of these files.")
@click.pass_context
def validate(ctx: click.Context, files: tuple[Path, ...], schema: bool) -> int:
    """Check topology files; say all that is wrong with each.

    Exits with 2 when anything is.
    """
    if schema:
        from netlab.topology.schema import document

        click.echo(document(), nl=False)
        return 0
    if not files:
        raise click.UsageError("no file to check", ctx)
    sound = [_is_sound(path) for path in files]
    return 0 if all(sound) else 2


def _is_sound(path: Path) -> bool:
    from netlab import plan as planning
    from netlab.topology.file import WrongFile, load
    from netlab.topology.summary import sentence

    try:
        found = load(path)
        planning.make(found)
    except UserError as error:
        for each in error.each if isinstance(error, WrongFile) else (error,):
            say_error("lab", each.what, each.remedy)
        return False
    click.echo(f"{path}: ok: {sentence(found)}")
    return True


@click.command(cls=Command)
@topology_options
@name_option
@click.option("--json", "form", flag_value="json", help="All of it as JSON.")
@click.option("--yaml", "form", flag_value="yaml", help="As a topology file.")
@click.option("--steps", "form", flag_value="steps", help="Every step, one a line.")
@click.option("--all", "everything", is_flag=True, help="Every row of long tables.")
def plan(choice: Choice, name: str, form: str | None, everything: bool) -> None:
    """Show what would be made of TOPOLOGY (direct), and make nothing."""
    from netlab import plan as planning
    from netlab.topology import summary

    made = planning.make(choice.one(), name)
    if form == "json":
        click.echo(json.dumps(summary.document(made), indent=1, default=str))
    elif form == "yaml":
        from netlab.topology.writer import to_yaml

        click.echo(to_yaml(made.topology), nl=False)
    elif form == "steps":
        click.echo("\n".join(map(str, made.steps)))
    else:
        click.echo(f"{name}: {made.topology.name}: {summary.sentence(made.topology)}")
        most, each = (None, None) if everything else (MOST_ROWS, MOST_INTERFACES)
        _print_table(summary.NODE_HEADINGS, summary.node_rows(made, each), most)
        _print_table(summary.SEGMENT_HEADINGS, summary.segment_rows(made.topology), most)
        click.echo()
        for line in islice(summary.conditions(made.topology), most):
            click.echo(line)
        click.echo(f"{len(made.steps):,} steps: --steps")


def _print_table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]],
                 most: int | None) -> None:
    """Print a table of the columns that have anything; `most` rows, the others are counted."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    left = iter(rows)
    shown = list(islice(left, most))
    more = sum(1 for _ in left)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    used = [i for i in range(len(headings)) if any(row[i] for row in shown)]
    for i in used:
        table.add_column(headings[i], no_wrap=True,
                         justify="right" if headings[i] in ("links", "routes", "hops") else "left")
    for row in shown:
        table.add_row(*(row[i] for i in used))
    click.echo()
    # A pipe has no width: nothing is to be cut there.
    Console(width=None if sys.stdout.isatty() else 200, emoji=False, markup=False,
            highlight=False).print(table)
    if more:
        click.echo(f"... and {more:,} more rows: --all")


@click.command(cls=Command)
@click.argument("file", required=False, metavar="[FILE]",
                type=click.Path(dir_okay=False, path_type=Path))
@name_option
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
def save(file: Path | None, name: str, force: bool) -> None:
    """Write the topology of a lab that is up to FILE (LAB.yaml); - is standard output.

    A topology that is not up: lab plan TOPOLOGY --yaml
    """
    from netlab.topology.writer import to_yaml, write

    topology = journal_of(name).topology
    text = to_yaml(topology)
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    path = file or Path(f"{name}.yaml")
    write(path, text, replace=force)
    click.echo(f"{path}: {topology.name}, as {name} has it")
