"""`lab test`: a server under load in a lab; over several numbers of hops, a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastpath.cli import DURATION
from netlab import relays, servers
from netlab.cast import LEASE_TIME_S, Choices
from netlab.choose import Choice, topology_options
from netlab.commands.common import Trailing, name_option, need_privilege, say


def _whole_seconds(ctx: click.Context, param: click.Parameter, value: float) -> int:
    # RFC 2131 section 3.3: 32 bits of seconds, and all ones is for ever.
    if not 1 <= round(value) < 0xFFFFFFFF:
        raise click.BadParameter("at least a second, and at most 2^32 - 2 of them", ctx, param)
    return round(value)


def _sample(*options: tuple[str, ...]) -> int:
    """Of how many exchanges one is to be timed, by what the tester is told of clients."""
    from netlab.path.places import sample_for

    clients = 1000  # dhcp-tester's own
    words = [word for part in options for word in part]
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name.lstrip("-") in ("clients", "n"):
            value = value or (words[i + 1] if i + 1 < len(words) else "")
            if value.replace("_", "").isdigit():
                clients = int(value)
    return sample_for(clients)


def program_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which relay stands where the topology names none."""
    for decorate in reversed((
        click.option("--relay", default=relays.DEFAULT, show_default=True,
                     help=f"The relay: {', '.join(relays.MODULES)}."),
        click.option("--relay-option", "relay_options", multiple=True, metavar="WORD",
                     help="A word more for every relay's command line; may be repeated."),
        click.option("--lease-time", type=DURATION, default=LEASE_TIME_S, show_default="1h",
                     callback=_whole_seconds, help="What servers are to grant."),
        click.option("--logs", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                     help="Copy configurations and logs of all programs here."),
    )):
        command = decorate(command)
    return command


@click.command(cls=Trailing, options_metavar="[OPTIONS]", short_help="Test a server in the lab.")
@topology_options
@name_option
@click.option("--server", default=servers.DEFAULT, show_default=True,
              help=f"The server under test: {', '.join(servers.MODULES)}.")
@click.option("--server-option", "server_options", multiple=True, metavar="WORD",
              help="A word more for the server's command line; may be repeated.")
@program_options
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the result here.")
@click.option("--clients-csv", type=click.Path(path_type=Path, dir_okay=False),
              help="Write one row a client here.")
@click.option("--attach", default="", metavar="IFACE",
              help="Clients speak through this interface of the machine, lent for the test; for "
              "--server external.")
@click.option("--attach-mode", type=click.Choice(["move", "macvlan"]), default="move",
              show_default=True, help="The interface itself, or a second one on its wire.")
@click.option("--ebpf", is_flag=True,
              help="Count messages at every place of the lab, time them there, and say where and "
              "why any were lost.")
@click.option("--ebpf-sample", type=click.IntRange(1, 1 << 16), metavar="N",
              help="With --ebpf, time one exchange in N, a power of two [default: so that some "
              "4,000 are].")
@click.pass_context
def test(ctx: click.Context, choice: Choice, name: str, server: str,
         server_options: tuple[str, ...], relay: str, relay_options: tuple[str, ...],
         lease_time: int, logs: Path | None, json_file: Path | None,
         clients_csv: Path | None, attach: str, attach_mode: str, ebpf: bool,
         ebpf_sample: int | None) -> int:
    """Run server, relays and tester in the lab and report.

    TOPOLOGY: direct, relay, star, rogue, redundant or a YAML file. Options after -- go to
    dhcp-tester: lab test relay --hops 3 --server kea -- --clients 1000. A lab that is not up is
    set up for the test and torn down at its end. Exit codes are those of dhcp-tester. With
    --hops 1..8 one test for each, and one table.
    """
    if ebpf_sample and ebpf_sample & (ebpf_sample - 1):
        raise click.BadParameter(f"{ebpf_sample} is not a power of two", ctx,
                                 param_hint="--ebpf-sample")
    if ebpf_sample and not ebpf:
        raise click.UsageError("--ebpf-sample says nothing without --ebpf", ctx)
    need_privilege()
    from netlab import series
    from netlab.run import Order, run

    choices = Choices(server, server_options, relay, relay_options, lease_time)
    topologies = choice.each()
    orders = [Order(topology, name, choices, ctx.meta["trailing"], json_file, clients_csv, logs,
                    attach=attach, attach_mode=attach_mode, ebpf=ebpf,
                    ebpf_sample=ebpf_sample or _sample(topology.load, ctx.meta["trailing"]))
              for topology in topologies]
    if len(orders) == 1:
        return run(orders[0], say).exit_code
    return series.sweep(orders, choice.hops, say)
