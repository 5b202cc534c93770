"""The command line of dhcp-server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fastpath.cli import ADDRESS, DURATION, Group, run
from fastpath.vm import carried

if TYPE_CHECKING:
    from server.model import Config
    from server.structure import Structure

_STRUCTURE = "server.structure"
# Keys of the file's `logging:` section, and the parameters they stand for.
_LOGGING = {"level": "log_level", "format": "log_format", "verbose": "verbose",
            "live_stats": "live"}
# How to run, apart from what to answer: shown by --check as it is.
_RUNNING = ("lease_file", "durability", "metrics", "user", "stats_json", "verbose", "live",
            "log_level", "log_format")
_MOST_LEASE_S = 0xFFFFFFFF


class _Lease(type(DURATION)):  # type: ignore[misc]
    """A lease time: 1 s to 4294967295 s, or `infinite`."""

    name = "lease time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> float:
        if isinstance(value, str) and value.strip().lower() in ("infinite", "forever"):
            return float(_MOST_LEASE_S)
        seconds = super().convert(value, param, ctx)
        if not 1 <= seconds <= _MOST_LEASE_S:
            self.fail("must be from 1s to 4294967295s (which means for ever)", param, ctx)
        return float(seconds)


class _Hold(type(DURATION)):  # type: ignore[misc]
    """How long something is kept: up to a year."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> float:
        seconds = super().convert(value, param, ctx)
        if seconds > 86400 * 365:
            self.fail("must be from 1s to one year", param, ctx)
        return float(seconds)


class _Share(click.ParamType[float]):
    """A share: 0.1 or 10%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> float:
        if isinstance(value, float):
            return value
        from fastpath.errors import UserError
        from fastpath.values import rate

        try:
            return rate(str(value))
        except (UserError, ValueError):
            self.fail(f"{value!r} is not a share: write 0.1 or 10%", param, ctx)


LEASE, HOLD, SHARE = _Lease(), _Hold(), _Share()
_FILE = click.Path(dir_okay=False, path_type=Path)


def _take_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Put what the configuration file says below flags and environment."""
    if ctx.resilient_parsing:
        return value
    path = value
    if path is None and "DHCP_ENV" in os.environ:
        from fastpath.configfile import find_default

        path = find_default(os.environ)
    if path is not None:
        from server.configfile import load

        found = load(path)
        ctx.default_map = {**found.flags}
        ctx.meta[_STRUCTURE] = found.structure
    return path


def _power_of_two(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if value & (value - 1):
        raise click.BadParameter(f"{value} is not a power of two")
    return value


_OPTIONS: list[Any] = [
    click.option("--config", "-c", type=_FILE, is_eager=True, callback=_take_file, metavar="FILE",
                 envvar="DHCP_CONFIG", help="YAML or key=value file; default: the one that "
                 "DHCP_ENV names (config/development.yaml ...)."),
    click.option("--check", is_flag=True, help="Check everything, show the effective "
                 "configuration as YAML, and end."),
    # Where.
    click.option("--interface", "-i", metavar="NAME", envvar="DHCP_INTERFACE", multiple=True,
                 help="Interface to serve on; several: repeat, or separate by commas. Default: "
                 "the one that has --listen, else the only one."),
    click.option("--listen", type=ADDRESS, envvar=["DHCP_LISTEN_IP", "DHCP_SERVER_IP"],
                 help="Our address, the server identifier; default: the interface's first."),
    click.option("--port", type=click.IntRange(1, 65534), default=67, show_default=True,
                 envvar="DHCP_PORT", help="UDP port; clients are answered on the next one."),
    click.option("--transport", type=click.Choice(["packet", "udp"]), envvar="DHCP_TRANSPORT",
                 help="Packet rings on an interface, or a UDP socket; default: udp on loopback "
                 "and on other ports than 67, else packet."),
    click.option("--ring-slots", type=click.IntRange(64, 1 << 17), default=4096,
                 show_default=True, callback=_power_of_two,
                 help="Frames that a ring holds; a power of two."),
    # What is given.
    click.option("--start-ip", type=ADDRESS, envvar=["DHCP_START_IP", "DHCP_POOL_START"],
                 help="First address of the pool; default: the interface's whole prefix."),
    click.option("--end-ip", type=ADDRESS, envvar=["DHCP_END_IP", "DHCP_POOL_END"],
                 help="Last address of the pool."),
    click.option("--netmask", type=ADDRESS, envvar="DHCP_NETMASK",
                 help="Default: the interface's own where the pool lies inside it, else the "
                 "smallest that holds pool, gateway and server."),
    click.option("--gateway", type=ADDRESS, envvar="DHCP_GATEWAY",
                 help="Router given to clients."),
    click.option("--dns1", type=ADDRESS, envvar="DHCP_DNS1", help="First name server."),
    click.option("--dns2", type=ADDRESS, envvar="DHCP_DNS2", help="Second name server."),
    click.option("--option", multiple=True, metavar="NAME=VALUE",
                 help="Any DHCP option by name or number: domain-name=example.org, 224=0x0102."),
    click.option("--next-server", type=ADDRESS, help="Boot server (siaddr)."),
    click.option("--boot-file", metavar="NAME", help="Boot file (file)."),
    click.option("--server-name", metavar="NAME", help="Boot server's name (sname)."),
    click.option("--lease-time", type=LEASE, envvar="DHCP_LEASE_TIME",
                 help="How long a lease lasts for who asks for no time.  [default: 24h]"),
    click.option("--min-lease-time", type=LEASE, help="Least that a client may ask for.  "
                 "[default: 1m, or the lease time]"),
    click.option("--max-lease-time", type=LEASE, help="Most that a client may ask for.  "
                 "[default: the lease time]"),
    # How.
    click.option("--offer-hold", type=HOLD, default="30s", show_default=True,
                 help="How long an offered address waits for its client."),
    click.option("--decline-hold", type=HOLD, default="10m", show_default=True,
                 help="How long a declined address is given to nobody."),
    click.option("--authoritative/--no-authoritative", default=True, show_default=True,
                 help="Refuse (NAK) addresses on our subnets that we did not give."),
    click.option("--rapid-commit/--no-rapid-commit", default=False, show_default=True,
                 help="Two messages instead of four for who asks for it (RFC 4039)."),
    click.option("--bootp/--no-bootp", default=False, show_default=True,
                 help="Serve BOOTP clients that have a reservation."),
    click.option("--relay/--no-relay", default=True, show_default=True, envvar="ENABLE_RELAY",
                 help="Serve what comes through relays."),
    click.option("--max-hops", type=click.IntRange(0, 255), default=4, show_default=True,
                 envvar="MAX_HOPS", help="Drop what passed more relays than this."),
    # Nothing lost.
    click.option("--lease-file", type=_FILE, metavar="FILE", envvar="DHCP_LEASE_FILE",
                 help="Keep leases here, through crashes too; without it only in memory."),
    click.option("--durability", type=click.Choice(["none", "batch", "strict"]), default="batch",
                 show_default=True, help="strict: no ACK before its lease is on disk. batch: "
                 "synced every 50 ms. none: when the system pleases."),
    # Misbehaving on purpose.
    click.option("--response-delay", type=HOLD, default="0s", envvar="DHCP_RESPONSE_DELAY",
                 help="Hold every reply for so long."),
    click.option("--response-jitter", type=HOLD, default="0s", help="And so much more or less."),
    click.option("--response-distribution", default="uniform", show_default=True,
                 type=click.Choice(["uniform", "normal", "exponential", "pareto"]),
                 help="How the jitter is spread."),
    click.option("--drop-rate", type=SHARE, default=0.0, envvar="DHCP_DROP_RATE",
                 help="Share of requests to ignore: 0.1 or 10%."),
    click.option("--max-concurrent", type=click.IntRange(0, 1 << 31), default=0,
                 envvar="DHCP_MAX_CONCURRENT",
                 help="Exchanges in progress at once; more are dropped.  [default: any number]"),
    click.option("--fault", multiple=True, metavar="SPEC",
                 help="KIND[:MESSAGES][:RATE][:key=value,...], such as drop:offer:5% or "
                 "delay:ack:delay=200ms; repeatable, see docs/dhcp-server.md."),
    click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=1, show_default=True,
                 help="Of the faults: the same seed, the same fate."),
    # Running.
    click.option("--user", metavar="NAME", help="Become this user once all is open."),
    click.option("--metrics", metavar="[ADDR:]PORT", envvar="DHCP_METRICS",
                 help="Serve Prometheus metrics; on loopback if no address is given."),
    click.option("--stats-json", type=_FILE, metavar="FILE",
                 help="Write all counts here at the end, and on SIGUSR1."),
    click.option("--verbose", is_flag=True, help="Say what was asked and answered (bounded)."),
    click.option("--log-level", default="info", show_default=True,
                 envvar=["DHCP_LOG_LEVEL", "LOG_LEVEL"], metavar="LEVEL",
                 help="debug, info, warning or error."),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text",
                 show_default=True, envvar="DHCP_LOG_FORMAT", help="How log lines look."),
    click.option("--live", is_flag=True, help="Show a live panel."),
]


def _with_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _Commands(Group):
    """Loads the other command only where it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["leases"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "leases":
            return None
        from server.leasefile import leases_command

        return leases_command


@click.group(cls=_Commands, invoke_without_command=True,
             context_settings={"auto_envvar_prefix": "DHCP"})
@_with_options
@click.version_option(package_name="dhcp-netlab", prog_name="dhcp-server")
@click.pass_context
def main_command(ctx: click.Context, /, **given: Any) -> int | None:
    """Serve DHCPv4 in the foreground; `dhcp-server leases FILE` shows a lease file.

    Runs until Ctrl-C or SIGTERM, then says what it did. SIGHUP reads the configuration anew,
    SIGUSR1 says the counts. Flags go before environment variables, these before the
    configuration file. Every option may be written in Go form too: -start-ip 10.0.0.10, -live,
    -lease-time=24h, -relay=false.
    """
    if ctx.invoked_subcommand:
        return None
    from server.app import Server
    from server.configure import make_config, make_ways

    config = make_config(given, ctx.meta.get(_STRUCTURE))
    ways = make_ways(given)
    if given["check"]:
        return _check(config, {name: given[name] for name in _RUNNING})
    arguments = sys.argv[1:]
    return Server(config, ways, lambda: _read_again(arguments)).run()


def _read_again(arguments: list[str]) -> Config:
    """The configuration as the same command line gives it now."""
    from fastpath.errors import UserError
    from server.configure import make_config

    try:
        with main_command.make_context("dhcp-server", arguments) as ctx:
            structure: Structure | None = ctx.meta.get(_STRUCTURE)
            return make_config(ctx.params, structure)
    except click.ClickException as error:
        raise UserError(error.format_message()) from None


def _check(config: Config, running: dict[str, Any]) -> int:
    """Hold the configuration against this machine as far as it goes, and show it."""
    from dataclasses import replace

    from fastpath.errors import SystemRefused
    from server.config import resolve
    from server.effective import effective
    from server.model import Range
    from server.ports import find_interfaces
    from server.tables import make_tables

    try:
        resolved = resolve(config, find_interfaces(config))
    except SystemRefused as problem:
        # A configuration may be for another machine; what it says is sound.
        click.echo(f"dhcp-server: not held against interfaces: {problem.what}", err=True)
    else:
        make_tables(resolved)
        # The pool of the flags has become a subnet.
        config = replace(resolved.config, range=Range())
    shown = {name: str(value) if isinstance(value, Path) else value
             for name, value in running.items()}
    # What the file says of these stands in a section of its own.
    logging = {key: shown.pop(name) for key, name in _LOGGING.items() if name in shown}
    print(effective(config, shown), end="")
    print("logging:", *(f"  {key}: {str(value).lower()}" for key, value in logging.items()),
          sep="\n")
    return 0


def main() -> NoReturn:
    carried("dhcp-server")
    run(main_command, "dhcp-server")


if __name__ == "__main__":
    main()
