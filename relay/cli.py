"""The command line of dhcp-relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from fastpath.cli import ADDRESS, Command, run
from fastpath.vm import carried

_FILE = click.Path(dir_okay=False, path_type=Path)
_LOADED = "relay.file"


def _take_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Put what the configuration file says below flags and environment."""
    if value is not None and not ctx.resilient_parsing:
        from fastpath.optionfile import load

        found = load(value, ctx.command.params, "relay", "server=10.0.0.1")
        ctx.default_map = {**found.flags}
        ctx.meta[_LOADED] = found
    return value


def _power_of_two(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if value & (value - 1):
        raise click.BadParameter(f"{value} is not a power of two")
    return value


def _level(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from fastpath.errors import UserError
    from fastpath.values import log_level

    try:
        return log_level(value)
    except UserError as error:
        raise click.BadParameter(f"{error.what}: {error.remedy}") from None


_OPTIONS: list[Any] = [
    click.option("--config", type=_FILE, is_eager=True, callback=_take_file, metavar="FILE",
                 help="YAML or key=value file; its keys are these options."),
    # Where.
    click.option("--downlink", "--interface", "--id", "-i", "downlink", multiple=True,
                 metavar="NAME", help="Interface towards clients; several: repeat, or separate "
                 "by commas."),
    click.option("--uplink", "--iu", "uplink", multiple=True, metavar="NAME",
                 help="Interface towards servers; default: those that the routes lead through."),
    click.option("--server", type=ADDRESS, multiple=True,
                 help="Server, or a broadcast address; several: each gets a copy."),
    click.argument("servers", type=ADDRESS, nargs=-1, metavar="[SERVER]..."),
    click.option("--giaddr", multiple=True, metavar="[NAME=]ADDRESS",
                 help="Our address as servers know it; default: the downlink's first."),
    click.option("--ring-slots", type=click.IntRange(16, 1 << 17), default=4096,
                 show_default=True, callback=_power_of_two,
                 help="Frames that a ring holds; a power of two. With --many fewer by default."),
    click.option("--many", type=_FILE, metavar="FILE", help="Be many relays: each line has a "
                 "network namespace and the options of the relay in it."),
    # What is relayed.
    click.option("--max-hops", "-c", type=click.IntRange(1, 16), default=4, show_default=True,
                 help="Discard what passed more relays than this (RFC 1542)."),
    click.option("--min-secs", type=click.IntRange(0, 65535), default=0, show_default=True,
                 help="Discard what a client tries for a shorter time, by its `secs`."),
    # Option 82.
    click.option("--option82", type=click.Choice(["none", "append", "keep", "replace", "drop"]),
                 help="Relay agent information, RFC 3046: see docs/dhcp-relay.md.  "
                 "[default: none]"),
    click.option("--append", "-a", is_flag=True, help="As --option82 append (dhcrelay's -a)."),
    click.option("--agent-policy", "-m",
                 type=click.Choice(["append", "replace", "forward", "discard"]),
                 help="As --option82 append, replace, keep and drop (dhcrelay's -m)."),
    click.option("--trust", multiple=True, metavar="NAME",
                 help="Downlink whose clients may have an option 82 already."),
    click.option("--circuit-id", metavar="TEMPLATE", help="Sub-option 1: {ifname}, {ifindex}, "
                 "{mac}, {giaddr} and {hostname} stand for themselves; or 0x and hexadecimal.  "
                 "[default: {ifname}]"),
    click.option("--remote-id", metavar="TEMPLATE", default="", help="Sub-option 2, likewise."),
    click.option("--subscriber-id", metavar="TEMPLATE", default="",
                 help="Sub-option 6, likewise (RFC 3993)."),
    click.option("--link-selection", multiple=True, metavar="[NAME=]ADDRESS|auto",
                 help="Sub-option 5 (RFC 3527); giaddr is then our address on the uplink."),
    click.option("--server-id-override", is_flag=True, help="Sub-option 11 (RFC 5107): clients "
                 "renew through us."),
    # Misbehaving on purpose.
    click.option("--fault", multiple=True, metavar="SPEC",
                 help="KIND[:MESSAGES][:RATE][:key=value,...], such as drop:offer:5% or "
                 "delay:discover:delay=200ms; repeatable, see docs/dhcp-relay.md."),
    click.option("--fault-seed", type=click.IntRange(0, (1 << 64) - 1), default=1,
                 show_default=True, help="The same seed, the same fate."),
    # Running.
    click.option("--user", default="", metavar="NAME", help="Become this user once all is open."),
    click.option("--metrics", default="", metavar="[ADDR:]PORT",
                 help="Serve Prometheus metrics; on loopback if no address is given."),
    click.option("--stats-json", type=_FILE, metavar="FILE",
                 help="Write all counts here at the end, and on SIGUSR1."),
    click.option("--verbose", is_flag=True, help="Say what was relayed where (bounded)."),
    click.option("--log-level", default="info", show_default=True, metavar="LEVEL",
                 callback=_level, help="debug, info, warning or error."),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text",
                 show_default=True, help="How log lines look."),
    click.option("--live", is_flag=True, help="Show a live panel."),
]


def _with_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _Relay(Command):
    """Blames on its line what click refuses of a configuration file's values."""

    def make_context(self, info_name: str | None, args: list[str],
                     parent: click.Context | None = None, **extra: Any) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            from fastpath.optionfile import blame

            known = blame(error, error.ctx.meta.get(_LOADED) if error.ctx else None)
            if known is None:
                raise
            raise known from None


@click.command(cls=_Relay, context_settings={"auto_envvar_prefix": "DHCP_RELAY"})
@_with_options
@click.version_option(package_name="dhcp-netlab", prog_name="dhcp-relay")
def main_command(config: Path | None, **given: Any) -> int:
    """Relay DHCP between clients on downlinks and servers, in the foreground.

    Runs until Ctrl-C or SIGTERM, then says what it did. SIGUSR1 says the counts. Every option
    has an environment variable (DHCP_RELAY_MAX_HOPS for --max-hops); flags go before these, and
    these before the configuration file. dhcrelay's command lines run too: dhcp-relay -a -id eth0
    -iu eth1 10.0.0.1. With --many one process is hundreds of relays.
    """
    from relay import many

    ctx = click.get_current_context()
    told = [many.alone(ctx)] if given["many"] is None else many.read(given["many"], ctx)
    from relay.loop import Running, serve

    return serve(told, Running(given["live"], given["metrics"], given["user"],
                               given["stats_json"] if given["many"] else None,
                               given["log_level"], given["log_format"]))


def main() -> NoReturn:
    carried("dhcp-relay")
    run(main_command, "dhcp-relay")


if __name__ == "__main__":
    main()
