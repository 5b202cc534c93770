"""What every command line here shares: Go-form options, durations, one-line errors.

The suite this project succeeds was written in Go, where options look like `-start-ip X` and
`-relay=true`. Every long option is accepted in that form too, by rewriting the arguments
before click sees them; click itself stays as it is.
"""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn

import click

from fastpath.errors import NetlabError, UserError

_GO_FORM = re.compile(r"^-(?P<name>[A-Za-z][A-Za-z0-9-]*)(?:=(?P<value>.*))?$", re.DOTALL)
# What Go's strconv.ParseBool takes.
_TRUE = {"1", "t", "true", "yes", "on"}
_FALSE = {"0", "f", "false", "no", "off"}
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
            "d": 86400.0}
# 128 and SIGPIPE, which Windows does not have.
_BROKEN_PIPE = 141
# In characters: of an error, of a length of time.
_MOST_SAID, _MOST_DURATION = 600, 100
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")


def parse_duration_s(text: str) -> float:
    """Seconds in `10ms`, `30s`, `1h30m`, `24h` or a plain number of seconds.

    Raises UserError when the text is none of these.
    """
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        parts = _DURATION_PART.findall(text[:_MOST_DURATION])
        whole = parts and "".join(n + u for n, u in parts) == text
        seconds = sum(float(n) * _UNITS_S[u] for n, u in parts) if whole else -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{text!r} is not a duration", "write 10ms, 30s, 5m or 24h")
    return seconds


class Duration(click.ParamType[float]):
    """A length of time; the value is a float of seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration_s(value)
        except UserError as error:
            self.fail(f"{error.what}: {error.remedy}", param, ctx)


class Address(click.ParamType[ipaddress.IPv4Address]):
    """An IPv4 address in dotted form."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ipaddress.IPv4Address:
        try:
            return ipaddress.IPv4Address(value)
        except ValueError:
            self.fail(f"{value!r} is not an IPv4 address", param, ctx)


DURATION = Duration()
ADDRESS = Address()


def _from_go(command: click.Command, ctx: click.Context, args: list[str]) -> Iterator[str]:
    """Rewrite `-name` and `-name=value` to click's form where `name` is a long option of ours."""
    known = {name: param for param in command.get_params(ctx) if isinstance(param, click.Option)
             for name in (*param.opts, *param.secondary_opts)}
    rest = iter(args)
    for arg in rest:
        if arg == "--" or (arg[:1] != "-" and not ctx.allow_interspersed_args):
            # From here on they are another command's, or no options at all.
            yield from (arg, *rest)
            return
        match = _GO_FORM.match(arg if not arg.startswith("--") else arg[1:])
        if match is None:
            yield arg
            continue
        short = len(match["name"]) == 1
        name, value = f"{'-' if short else '--'}{match['name']}", match["value"]
        param = known.get(name)
        if param is None:
            _refuse_near_miss(ctx, arg, known)
            yield arg
        elif value is None:
            # What stands behind one that can do without a value may be the next option.
            alone = param.is_flag or isinstance(param.flag_value, str)
            yield from (name, *islice(rest, 0 if alone else param.nargs))
        elif not param.is_flag:
            yield from (name, value) if short else (f"{name}={value}",)
        elif value.lower() in _TRUE:
            yield name
        elif value.lower() in _FALSE:
            opposite = param.secondary_opts if name in param.opts else param.opts
            yield from opposite[:1]
        else:
            ctx.fail(f"{name} is a switch: {value!r} is neither true nor false")


def _refuse_near_miss(ctx: click.Context, arg: str, known: Iterable[str]) -> None:
    """Refuse `-intreface x`, which click would read as `-i ntreface`, and an argument `x`."""
    from difflib import get_close_matches

    name = arg.partition("=")[0]
    near = get_close_matches(name.lstrip("-"), [k[2:] for k in known if k[:2] == "--"], 1, 0.75)
    if near and not (arg.startswith("--") or ctx.ignore_unknown_options):
        ctx.fail(f"No such option '{name}'. Did you mean '-{near[0]}'?")


class Command(click.Command):
    """A click command that takes its long options in Go form too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_from_go(self, ctx, args)))


class Group(Command, click.Group):
    """A group whose commands take Go form too."""

    command_class = Command


QUOTED = "\n  | "


def _one_line(text: str) -> str:
    """`text` as a terminal can take it: what somebody gave is in it, and that may be anything."""
    if len(text) > _MOST_SAID:
        text = f"{text[:_MOST_SAID // 2]} ... {text[-_MOST_SAID // 2:]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def say_error(program: str, what: str, remedy: str = "") -> None:
    """Write `program: what` and, under it, the remedy to standard error, one line each.

    What a program said before it ended stands in lines of its own, each behind QUOTED.
    """
    print(f"{program}: {QUOTED.join(map(_one_line, what.split(QUOTED)))}", file=sys.stderr)
    if remedy:
        print(" " * (len(program) + 2) + _one_line(remedy), file=sys.stderr)


def run(command: click.Command, program: str) -> NoReturn:
    """Run `command` as `program`; never returns, never shows a traceback for a known error.

    Exits with what the command returned, 2 on a usage error, `NetlabError.exit_code`, or
    130 when interrupted before the command took over Ctrl-C.
    """
    try:
        code = command.main(prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else program
        say_error(program, error.format_message(), f"see: {where} --help")
        code = 2
    except click.ClickException as error:
        say_error(program, error.format_message())
        code = error.exit_code
    except NetlabError as error:
        say_error(program, error.what, error.remedy)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output went away; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _BROKEN_PIPE
    sys.exit(code if isinstance(code, int) else 0)
