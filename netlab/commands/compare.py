"""`lab compare`: the same load on several servers, in turn, and one table."""

from __future__ import annotations

from pathlib import Path

import click

from fastpath.errors import UserError
from netlab import servers
from netlab.cast import Choices
from netlab.choose import Choice, topology_option
from netlab.commands.common import Trailing, name_option, need_privilege, say
from netlab.commands.test import program_options


@click.command(cls=Trailing, options_metavar="[OPTIONS]")
@click.argument("names", nargs=-1, required=True, metavar="SERVER...")
@topology_option
@name_option
@program_options
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True,
              help="Test each so often, in turn; the table has medians.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write all results here, as one document.")
@click.pass_context
def compare(ctx: click.Context, choice: Choice, name: str, names: tuple[str, ...], relay: str,
            relay_options: tuple[str, ...], lease_time: int, logs: Path | None, rounds: int,
            json_file: Path | None) -> int:
    """Test each SERVER in the same lab with the same load: lab compare kea dnsmasq.

    Options after -- go to dhcp-tester; without any: 1,000 clients, 16 in flight. Exits with 0
    when all completed, else with the first exit code that says more.
    """
    need_privilege()
    from netlab import series
    from netlab.run import Order

    for each in names:
        servers.find(each)
        if names.count(each) > 1:
            raise UserError(f"{each} is named {names.count(each)} times",
                            "lab compare --rounds N tests each N times")
    topology = choice.one()
    orders = [Order(topology, name, Choices(each, (), relay, relay_options, lease_time),
                    ctx.meta["trailing"], json_file, None, logs / each if logs else None)
              for each in names]
    return series.compare(orders, rounds, say)
