"""The command `lab`: which commands there are; each is imported when it is used.

Netlink, tables and the rest are imported by the command that needs them: `lab --help` must
not wait for them.
"""

from __future__ import annotations

from copy import copy
from functools import wraps
from importlib import import_module
from typing import Any, NoReturn

import click

from fastpath.cli import Group, run
from fastpath.vm import carried

# Command -> (module under netlab.commands, what it does). The module has it under its name.
COMMANDS = {
    "setup": ("life", "Build a network and leave it standing."),
    "test": ("test", "Test a server in a lab."),
    "compare": ("compare", "Test several servers alike, and compare them."),
    "teardown": ("life", "Remove a lab and all that was made for it."),
    "status": ("life", "Show labs: nodes, interfaces, counters, programs."),
    "exec": ("life", "Run a command inside a node."),
    "shell": ("look", "Open a shell inside a node."),
    "logs": ("look", "Show what the programs of a lab said."),
    "capture": ("capture", "Write the frames of links to a pcapng file."),
    "graph": ("graph", "Draw a topology: terminal, Mermaid, DOT, SVG."),
    "watch": ("watch", "Show live what passes every place of a lab."),
    "impair": ("impair", "Lose, delay, double or slow down frames of a link."),
    "attach": ("attach", "Move a physical interface into a node, for a real network."),
    "detach": ("attach", "Give it back."),
    "plan": ("topology", "Show what would be made of a topology."),
    "validate": ("topology", "Check a topology file."),
    "save": ("topology", "Write the topology of a lab to a YAML file."),
    "doctor": ("doctor", "Say what this machine lacks, and what to do about it."),
    "gc": ("life", "Remove what labs left whose command died."),
}


class _Commands(Group):
    """A group that imports a command only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"netlab.commands.{COMMANDS[cmd_name][0]}")
        # Some names are Python's own: exec.
        found: click.Command = getattr(module, f"{cmd_name}_", None) or getattr(module, cmd_name)
        return _entering(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, does) for name, (_, does) in COMMANDS.items()])


def _entering(command: click.Command) -> click.Command:
    """The command, going into a user namespace first if it has to: once its words are
    understood, so that `--help` and usage errors need none."""
    does = command.callback
    assert does is not None

    @wraps(does)
    def enter_and_do(*words: Any, **named: Any) -> Any:
        from netlab.rootless import enter

        context = click.get_current_context()
        enter(context.info_name or "", context.find_root().params.get("rootless"))
        return does(*words, **named)

    entering = copy(command)
    entering.callback = enter_and_do
    return entering


@click.group(cls=_Commands, invoke_without_command=True, no_args_is_help=False,
             epilog="A first test: lab test -- --clients 1000")
@click.version_option(package_name="dhcp-netlab", message="%(prog)s %(version)s")
@click.option("--rootless/--no-rootless", default=None,
              help="All of it in a user namespace, without sudo [default: if not root].")
@click.pass_context
def lab(ctx: click.Context, rootless: bool | None) -> None:
    """Build a network of namespaces, test a DHCP server in it, leave nothing behind."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(2)


def main() -> NoReturn:
    """The console script `lab`."""
    carried("lab")
    run(lab, "lab")


if __name__ == "__main__":
    main()
