"""`lab doctor`: what this machine lacks for a lab, what that costs, and what mends it."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from fastpath.cli import Command

if TYPE_CHECKING:
    from netlab.doctor import Check

_COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}
_STATE_WIDTH = 9
_INDENT = " " * (2 + _STATE_WIDTH)
_PIPE_WIDTH, _LEAST_WIDTH = 100, 40


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine has for a lab and what it lacks; change nothing.

    Exits with 0 when a basic lab works, with 1 when it does not.
    """
    from netlab import facts as machine
    from netlab.doctor import examine, works

    facts = machine.gather()
    checks = examine(facts)
    if as_json:
        click.echo(json.dumps({
            "works": works(checks), "kernel": facts.kernel, "distribution": facts.family,
            "checks": [{"group": each.group, "check": each.name, "state": str(each.state),
                        "found": each.found, "costs": each.costs, "mend": each.mend,
                        "needed": each.needed} for each in checks]}, indent=1))
    else:
        _show(checks)
        lacking = [each.name for each in checks if each.needed and each.state == "missing"]
        click.echo("\nA basic lab works here." if works(checks)
                   else f"\nNo lab works here without: {', '.join(lacking)}.")
    ctx.exit(0 if works(checks) else 1)


def _show(checks: list[Check]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    group = ""
    for each in checks:
        if each.group != group:
            click.secho(("\n" if group else "") + each.group, bold=True)
        group = each.group
        state = str(each.state)
        first = f"  {state:<{_STATE_WIDTH}}{each.name}: {each.found}"
        shown = _wrapped(first, width)
        click.echo(shown.replace(state, click.style(state, _COLOURS[state]), 1))
        if each.costs:
            click.echo(_wrapped(f"{_INDENT}costs: {each.costs}", width))
        if each.mend:
            # Whole, however long: it is there to be copied.
            click.echo(_INDENT + click.style(each.mend, bold=True))


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, max(width, _LEAST_WIDTH), subsequent_indent=_INDENT,
                         drop_whitespace=True, break_on_hyphens=False, break_long_words=False)
