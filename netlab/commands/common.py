"""What several commands of `lab` need: which lab, whether we may, and how to say things."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from fastpath.cli import Command
from fastpath.errors import SystemRefused, UserError
from netlab import plan

if TYPE_CHECKING:
    from netlab.state import Journal


class Trailing(Command):
    """A command whose words after `--` belong to another program: `ctx.meta["trailing"]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, rest = args, []
        if "--" in args:
            at = args.index("--")
            own, rest = args[:at], args[at + 1:]
        ctx.meta["trailing"] = tuple(rest)
        return super().parse_args(ctx, own)


def check_lab_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A click callback: the name of a lab, or None."""
    return value if value is None else plan.check_lab_name(value)


name_option = click.option("--name", default=plan.DEFAULT_LAB, show_default=True,
                           callback=check_lab_name, metavar="LAB",
                           help="Which lab; several stand side by side.")


def need_privilege() -> None:
    """SystemRefused unless this process may make network namespaces."""
    from netlab.rootless import privileged

    if not privileged():
        raise SystemRefused("cannot create namespaces: operation not permitted", "run with sudo")


def journal_of(lab: str) -> Journal:
    """The journal of a lab that is there; UserError when it is not, SystemRefused when it
    cannot be read."""
    from netlab import state

    try:
        journal = state.read(lab)
    except state.Unreadable as error:
        raise SystemRefused(f"{lab}: journal unreadable: {error}",
                            f"lab teardown --name {lab}") from error
    if journal is None:
        raise UserError(f"{lab}: not up", f"lab setup --name {lab}")
    return journal


def check_node(journal: Journal, node: str) -> str:
    """`node` itself; UserError when the lab has none of that name."""
    nodes = [each.name for each in journal.topology.nodes]
    if node not in nodes:
        known = ", ".join(nodes[:12]) + (" ..." if len(nodes) > 12 else "")
        raise UserError(f"{journal.lab}: no node {node!r}", f"there is: {known}")
    return node


def step_into(lab: str, node: str) -> None:
    """Move this process into a node, for good, to run a program there.

    Raises UserError where there is no such lab or node, SystemRefused where it may not.
    """
    from netlab.enter import enter, open_namespace

    journal = journal_of(lab)
    check_node(journal, node)
    need_privilege()
    try:
        enter(open_namespace(journal.namespace(node)))
    except OSError as error:
        raise SystemRefused(f"cannot enter {node}: {(error.strerror or '').lower()}",
                            f"lab status --name {lab}") from error
    # Python ignores SIGPIPE; a program is to die of it, as it expects.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def say(text: str) -> None:
    """Tell the user, on standard error."""
    click.echo(text, err=True)
