"""The command line of dhcp-tester."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import NoReturn

import click

from fastpath.cli import DURATION, Command, run

# Closed loop with --duration and no --clients: more than anything answers in a coffee break.
MANY_CLIENTS = 1_000_000
MOST_CLIENTS = 1 << 25


@click.command(cls=Command)
@click.option("--interface", "-i", metavar="NAME", envvar="DHCP_INTERFACE",
              help="Interface to test on; default: the only one there is.")
@click.option("--clients", "-n", type=click.IntRange(1, MOST_CLIENTS), envvar="DHCP_CLIENTS",
              help="Clients to emulate, each with one exchange. [default: 1000, or what --rate "
                   "and --duration come to]")
@click.option("--concurrency", "-c", type=click.IntRange(1, 1 << 20), default=64,
              show_default=True, envvar="DHCP_CONCURRENCY",
              help="Closed loop: exchanges in flight.")
@click.option("--rate", "-r", type=click.FloatRange(0, 10_000_000, min_open=True),
              help="Open loop: exchanges started per second, whatever the server does.")
@click.option("--duration", type=DURATION, help="Start nothing after this time.")
@click.option("--timeout", type=DURATION, default="5s", show_default=True,
              envvar="DHCP_TIMEOUT", help="How long to wait for each answer.")
@click.option("--retry/--no-retry", default=False, show_default=True,
              help="Send again what was not answered in time.")
@click.option("--max-discover-retries", type=click.IntRange(0, 100), default=3,
              show_default=True, help="With --retry: repetitions of a DISCOVER at most.")
@click.option("--max-request-retries", type=click.IntRange(0, 100), default=3,
              show_default=True, help="With --retry: repetitions of a REQUEST at most.")
@click.option("--mac-base", default="02:00:00:00:00:00", show_default=True, metavar="MAC",
              help="Hardware address of the first client; the others count up.")
@click.option("--broadcast-flag/--no-broadcast-flag", default=False, show_default=True,
              help="Ask the server to broadcast its answers.")
@click.option("--port", type=click.IntRange(1, 65534), default=67, show_default=True,
              envvar="DHCP_PORT", help="UDP port of the server; clients use the next one.")
@click.option("--seed", type=click.IntRange(0, 0xFFFFFFFF),
              help="Makes transaction ids the same in every run. [default: random]")
@click.option("--ring-slots", type=click.IntRange(64, 1 << 17), default=4096, show_default=True,
              help="Frames that a ring holds; a power of two.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path),
              metavar="FILE", help="Write the result document.")
@click.option("--clients-csv", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write one row a client.")
@click.option("--progress", is_flag=True, help="Say once a second how far it is.")
@click.option("--live", is_flag=True, help="Show a live panel.")
@click.version_option(package_name="dhcp-netlab", prog_name="dhcp-tester")
def main_command(
    interface: str | None, clients: int | None, concurrency: int, rate: float | None,
    duration: float | None, timeout: float, retry: bool, max_discover_retries: int,
    max_request_retries: int, mac_base: str, broadcast_flag: bool, port: int, seed: int | None,
    ring_slots: int, json_file: Path | None, clients_csv: Path | None, progress: bool, live: bool,
) -> int:
    """Emulate DHCP clients on an interface and measure the server that answers.

    Each client gets its lease by layer-2 broadcast: DISCOVER, OFFER, REQUEST, ACK. Exits
    with 0 when all did, 3 when some did not, 4 when the tester itself was the limit, 1 when
    the machine refused and 2 on wrong usage. Ctrl-C starts no more and reports what there is.
    """
    if not 0.001 <= timeout <= 3600:
        raise click.BadParameter("must be from 1ms to 1h", param_hint="--timeout")
    if duration is not None and not 0 < duration <= 7 * 86400:
        raise click.BadParameter("must be from 1ms to 7 days", param_hint="--duration")
    if rate is not None and math.isnan(rate):
        raise click.BadParameter("must be a number", param_hint="--rate")
    if ring_slots & (ring_slots - 1):
        raise click.BadParameter(f"{ring_slots} is not a power of two", param_hint="--ring-slots")
    planned = clients or _clients(rate, duration)

    from fastpath.errors import UserError
    from fastpath.interface import choose
    from fastpath.packet import parse_mac
    from tester.app import run_test
    from tester.config import TestConfig, plan_from

    try:
        mac = parse_mac(mac_base)
    except UserError as error:
        raise click.BadParameter(f"{error.what}; {error.remedy}", param_hint="--mac-base") from None
    config = TestConfig(
        interface=interface or choose(None), clients=planned,
        plan=plan_from(concurrency, rate), duration_s=duration, timeout_s=timeout,
        discover_tries=1 + (max_discover_retries if retry else 0),
        request_tries=1 + (max_request_retries if retry else 0), mac_base=mac,
        broadcast_flag=broadcast_flag, server_port=port,
        seed=secrets.randbits(32) if seed is None else seed, ring_slots=ring_slots)
    return run_test(config, progress=progress, live=live, json_file=json_file,
                    clients_csv=clients_csv)


def _clients(rate: float | None, duration: float | None) -> int:
    if duration is None:
        return 1000
    if rate is None:
        return MANY_CLIENTS
    wanted = math.ceil(rate * duration)
    if wanted > MOST_CLIENTS:
        raise click.UsageError(f"--rate {rate:g} for {duration:g} s takes {wanted:,} clients: "
                               f"more than {MOST_CLIENTS:,}; give --clients")
    return max(wanted, 1)


def main() -> NoReturn:
    run(main_command, "dhcp-tester")


if __name__ == "__main__":
    main()
