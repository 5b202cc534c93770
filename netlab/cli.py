"""The command `lab`: arguments in, one line out; the work is done elsewhere.

Netlink, tables and the rest are imported by the command that needs them: `lab --help` must
not wait for them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastpath.cli import Command, Group, run
from fastpath.errors import SystemRefused, UserError
from netlab import plan, topology

if TYPE_CHECKING:
    from netlab.lifecycle import Removed

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}  # linux/capability.h


class _Trailing(Command):
    """A command whose words after `--` belong to another program: `ctx.meta["trailing"]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, rest = args, []
        if "--" in args:
            at = args.index("--")
            own, rest = args[:at], args[at + 1:]
        ctx.meta["trailing"] = tuple(rest)
        return super().parse_args(ctx, own)


def _lab_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return value if value is None else plan.check_lab_name(value)


_name = click.option("--name", default=plan.DEFAULT_LAB, show_default=True, callback=_lab_name,
                     metavar="LAB", help="Which lab; several stand side by side.")
_topology = click.argument("wanted", metavar="[TOPOLOGY]", default="direct")


@click.group(cls=Group, invoke_without_command=True, no_args_is_help=False,
             epilog="A first test: lab test -- --clients 1000")
@click.version_option(package_name="dhcp-netlab", message="%(prog)s %(version)s")
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Build a network of namespaces, test a DHCP server in it, leave nothing behind."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(2)


@lab.command()
@_topology
@_name
def setup(wanted: str, name: str) -> None:
    """Build the network TOPOLOGY (direct) and leave it standing."""
    _need_privilege()
    from netlab import lifecycle, signals, state

    began = time.monotonic()
    steps = plan.make(topology.named(wanted), name)
    with signals.handled(signals.leave), state.locked(name, "lab setup"):
        journal, built = lifecycle.ensure_up(steps, _say)
    nodes = ", ".join(node.name for node in journal.topology.nodes)
    if built:
        click.echo(f"{name}: {wanted} is up ({nodes}), built in {time.monotonic() - began:.2f} s")
    else:
        click.echo(f"{name}: {wanted} is up ({nodes}), nothing to do")


@lab.command(cls=_Trailing, options_metavar="[OPTIONS]", short_help="Test a server in the lab.")
@_topology
@_name
@click.option("--server", default="dhcp-server", show_default=True, help="The server under test.")
@click.option("--server-option", "server_options", multiple=True, metavar="WORD",
              help="A word more for the server's command line; may be repeated.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the result here.")
@click.option("--clients-csv", type=click.Path(path_type=Path, dir_okay=False),
              help="Write one row a client here.")
@click.pass_context
def test(ctx: click.Context, wanted: str, name: str, server: str,
         server_options: tuple[str, ...], json_file: Path | None,
         clients_csv: Path | None) -> int:
    """Run server and tester in the lab and report.

    Options after -- go to dhcp-tester: lab test -- --clients 1000. A lab that is not up is
    set up for the test and torn down at its end. Exit codes are those of dhcp-tester.
    """
    _need_privilege()
    from netlab.run import Order
    from netlab.run import run as run_test

    order = Order(topology.named(wanted), name, server, server_options, ctx.meta["trailing"],
                  json_file, clients_csv)
    return run_test(order, _say)


@lab.command()
@_name
@click.option("--all", "everything", is_flag=True, help="Every lab.")
def teardown(name: str, everything: bool) -> None:
    """Remove a lab and all that was made for it, and nothing else."""
    _need_privilege()
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


@lab.command()
def gc() -> None:
    """Remove what labs left whose command died; labs that are up stay."""
    _need_privilege()
    from netlab import lifecycle, state

    collected = False
    for each in lifecycle.all_labs():
        try:
            with state.locked(each, "lab gc"):
                if not lifecycle.left_behind(each):
                    continue
                removed = lifecycle.remove(each)
        except SystemRefused as busy:
            _say(busy.what)
            continue
        if removed.anything:
            collected = True
            _tell_removed(each, removed)
    if not collected:
        click.echo("nothing was left behind")


@lab.command()
@click.option("--name", default=None, callback=_lab_name, metavar="LAB",
              help="Only this lab.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(name: str | None, as_json: bool) -> None:
    """Show labs: nodes, interfaces, counters, programs."""
    _need_privilege()
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
@lab.command("exec", cls=_Trailing, options_metavar="[--name LAB]",
             context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("words", nargs=-1, metavar="[--] COMMAND...")
@_name
@click.pass_context
def exec_(ctx: click.Context, node: str, words: tuple[str, ...], name: str) -> NoReturn:
    """Run COMMAND inside NODE: lab exec client -- ip addr."""
    command = (*words, *ctx.meta["trailing"])
    if not command:
        raise click.UsageError("no command to run", ctx)
    from netlab import state
    from netlab.enter import enter, open_namespace

    try:
        journal = state.read(name)
    except state.Unreadable as error:
        raise SystemRefused(f"{name}: journal unreadable: {error}",
                            f"lab teardown --name {name}") from error
    if journal is None:
        raise UserError(f"{name}: not up", f"lab setup --name {name}")
    nodes = [each.name for each in journal.topology.nodes]
    if node not in nodes:
        raise UserError(f"{name}: no node {node!r}", f"there is: {', '.join(nodes)}")
    _need_privilege()
    try:
        enter(open_namespace(journal.namespace(node)))
    except OSError as error:
        raise SystemRefused(f"cannot enter {node}: {(error.strerror or '').lower()}",
                            f"lab status --name {name}") from error
    # Python ignores SIGPIPE; a program is to die of it, as it expects.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        refused = SystemRefused(f"cannot run {command[0]!r}: {(error.strerror or '').lower()}", "")
        # What a shell says: 127 not found, 126 found and not to be run.
        refused.exit_code = 127 if isinstance(error, FileNotFoundError) else 126
        raise refused from error


def _need_privilege() -> None:
    """SystemRefused unless this process may make network namespaces."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if any(not effective >> bit & 1 for bit in _CAPABILITIES.values()):
        raise SystemRefused("cannot create namespaces: operation not permitted", "run with sudo")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _tell_removed(name: str, removed: Removed) -> None:
    programs = f", programs ended: {removed.programs}" if removed.programs else ""
    click.echo(f"{name}: removed ({', '.join(removed.namespaces) or 'no namespaces'}{programs})")
    for guest in removed.guests:
        _say(f"{name}: {guest.command} (pid {guest.process.pid}) still runs in what was its "
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


def main() -> NoReturn:
    """The console script `lab`."""
    run(lab, "lab")


if __name__ == "__main__":
    main()
