"""`lab graph`: a topology drawn, without privilege and without building anything."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from fastpath.cli import Command
from fastpath.errors import SystemRefused, UserError
from netlab.choose import Choice, topology_options
from netlab.commands.common import journal_of, name_option
from netlab.topology import Topology

FORMATS = ("terminal", "mermaid", "dot", "svg")
# A pipe and a file have no width.
_PLAIN_WIDTH = 100
_SUFFIXES = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid"}

Running = dict[str, list[str]]


@click.command(cls=Command)
@topology_options
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="How it is drawn [default: as FILE ends, else terminal].")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write to FILE instead of standard output.")
@name_option
@click.pass_context
def graph(ctx: click.Context, choice: Choice, form: str | None, output: Path | None,
          name: str) -> None:
    """Draw TOPOLOGY, or without one the lab that is up, or else `direct`."""
    topology, running = _what(ctx, choice, name)
    text = _DRAW[form or _SUFFIXES.get(output.suffix if output else "", FORMATS[0])](
        topology, running, output is None)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemRefused(f"cannot write {output}: {error.strerror}") from None


def _what(ctx: click.Context, choice: Choice, name: str) -> tuple[Topology, Running]:
    """The topology, and the programs that run in each node where it is a lab's."""
    from netlab import state

    def given(parameter: str) -> bool:
        return ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE

    if given("wanted") or choice != Choice(choice.wanted):
        if given("name"):
            raise UserError("either a topology is drawn or a lab", "leave one of them out")
        return choice.one(), {}
    if not given("name") and not (state.root() / f"{name}.json").exists():
        return choice.one(), {}
    journal = journal_of(name)
    running: Running = {}
    for started in journal.programs:
        if started.process.alive:
            running.setdefault(started.node, []).append(started.program)
    return journal.topology, running


def _terminal(topology: Topology, running: Running, here: bool) -> str:
    from netlab.graph.picture import picture
    from netlab.graph.terminal import draw

    width = _PLAIN_WIDTH
    if here and sys.stdout.isatty():
        width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns
    drawn = draw(topology, picture(topology, running), width)
    try:
        drawn.encode((sys.stdout.encoding or "ascii") if here else "utf-8")
    except UnicodeEncodeError:
        return draw(topology, picture(topology, running), width, ascii_only=True)
    return drawn


def _svg(topology: Topology, running: Running, here: bool) -> str:
    from netlab.graph.picture import picture
    from netlab.graph.svg import draw

    return draw(topology, picture(topology, running))


def _mermaid(topology: Topology, running: Running, here: bool) -> str:
    from netlab.graph.markup import mermaid
    from netlab.graph.picture import picture

    return mermaid(topology, picture(topology, running))


def _dot(topology: Topology, running: Running, here: bool) -> str:
    from netlab.graph.markup import dot
    from netlab.graph.picture import picture

    return dot(topology, picture(topology, running))


_DRAW: dict[str, Callable[[Topology, Running, bool], str]] = {
    "terminal": _terminal, "mermaid": _mermaid, "dot": _dot, "svg": _svg}
