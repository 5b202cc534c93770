"""The command line of dhcp-tester."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import click

from fastpath.cli import Command, run
from fastpath.vm import carried
from tester.options import FILE, SECTIONS

_FOUND = "tester.configfile"
_PERFDHCP = ("--perfdhcp", "-perfdhcp")


def _take_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Put what the configuration file says below flags and environment."""
    if ctx.resilient_parsing:
        return value
    path = value
    if path is None and "DHCP_ENV" in os.environ:
        from fastpath.configfile import find_default

        path = find_default(os.environ)
    if path is not None:
        from tester.configfile import load

        found = load(path, ctx.command.params, shared=value is None)
        ctx.default_map = {**found.flags}
        ctx.meta[_FOUND] = found
    return path


_CONFIG = click.Option(
    ["--config"], type=FILE, is_eager=True,
    callback=_take_file, expose_value=False, metavar="FILE",
    help="Options from a file, YAML or key=value; DHCP_ENV=NAME finds config/NAME.yaml.")


class _Tester(Command):
    """Options in sections; perfdhcp's own line in the place of `--perfdhcp LINE`."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except click.UsageError as error:
            from tester.configfile import blame

            raise blame(error, error.ctx.meta.get(_FOUND) if error.ctx else None) or error from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _translated(ctx, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = set()
        for title, options in SECTIONS.items():
            known |= set(options)
            _write(ctx, formatter, title, [*options])
        _write(ctx, formatter, "Options",
               [param for param in self.get_params(ctx) if param not in known])


def _write(ctx: click.Context, formatter: click.HelpFormatter, title: str,
           params: list[click.Parameter]) -> None:
    rows = [record for param in params if (record := param.get_help_record(ctx)) is not None]
    with formatter.section(title):
        formatter.write_dl(rows)


def _translated(ctx: click.Context, args: list[str]) -> list[str]:
    """The arguments with what `--perfdhcp LINE` means in its place."""
    for at, arg in enumerate(args):
        name, given, line = arg.partition("=")
        if arg == "--":
            break
        if name not in _PERFDHCP:
            continue
        if not given and at + 1 == len(args):
            ctx.fail("Option '--perfdhcp' requires an argument.")
        from tester.perfdhcp import translate

        rest = args[at + 1 if given else at + 2:]
        return [*args[:at], *translate(line if given else args[at + 1]), *rest]
    return args


def _test(**given: Any) -> int:
    """Emulate DHCP clients and measure the server that answers.

    Without --server, by layer-2 broadcast on an interface. A test is DISCOVER, OFFER, REQUEST,
    ACK by each client, unless --behaviour or --mix says more. Exits with 0 when all went
    well, 3 when something did not complete, 4 when the tester itself was the limit, 1 when the
    machine refused and 2 on wrong usage. Ctrl-C starts no more and reports what there is; a
    second one waits for nothing.

    Every option is also read from the environment (DHCP_CLIENTS, DHCP_SERVER, ...).
    """
    from tester.configure import configure

    config = configure(given, click.get_current_context())
    from tester.app import Outputs, run_test

    return run_test(config, Outputs(
        progress=given["progress"], live=given["live"], verbose=given["verbose"],
        json_file=given["json_file"], clients_csv=given["clients_csv"], lang=given["lang"],
        wrap=given["wrap"]))


main_command = click.version_option(package_name="dhcp-netlab", prog_name="dhcp-tester")(_Tester(
    "dhcp-tester", callback=_test, help=_test.__doc__,
    params=[*(option for options in SECTIONS.values() for option in options), _CONFIG],
    context_settings={"auto_envvar_prefix": "DHCP", "max_content_width": 100}))


def main() -> NoReturn:
    carried("dhcp-tester")
    run(main_command, "dhcp-tester")


if __name__ == "__main__":
    main()
