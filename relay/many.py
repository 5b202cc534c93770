"""What each relay of a process is told: by the command line, or by the lines of a --many file.

The one thing to know: a line is a command line of `dhcp-relay` itself behind the name of a
network namespace, read by the same click command. What belongs to the process is refused in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from fastpath import configfile
from fastpath.document import AtLine, shown
from fastpath.errors import NetlabError, UserError
from relay.configure import make_config
from relay.model import DEFAULT_RING_SLOTS, Config, Ways

Told = tuple[Config, Ways]

# Options of the process. The rest are of one relay, but --stats-json and --config, which both have.
_OF_THE_PROCESS = ("many", "live", "metrics", "user", "log_level", "log_format")
_OF_BOTH = ("stats_json", "config")
# Written in a line, they would end the program with a page of text.
_PAGES = frozenset(("--help", "-h", "-help", "--version", "-version"))
# Somebody wrote it, for this process.
_WRITTEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
# What the rings of all relays hold together, receiving, and how few one of them may hold.
_ALL_SLOTS, _FEWEST_SLOTS = 1 << 15, 32


def alone(ctx: click.Context) -> Told:
    """The one relay of a command line without --many; raises UserError."""
    given = ctx.params
    return make_config(given), Ways("", given["verbose"], given["stats_json"])


def read(path: Path, ctx: click.Context) -> list[Told]:
    """The relays in a file; raises UserError, which names the line.

    ctx: of the command line with --many. Where a line says nothing of --ring-slots, it gets its
    part of what all may have together.
    """
    besides = _written(ctx, [str(each.name) for each in ctx.command.params
                             if each.name not in (*_OF_THE_PROCESS, *_OF_BOTH, "ring_slots")])
    if besides:
        raise UserError(f"{besides} beside --many: it says what one relay does",
                        f"write it in the lines of {path}")
    found: list[Told] = []
    given_slots: list[bool] = []
    with configfile.blamed(path):
        for number, words in _lines(configfile.content(path)):
            told, slots_given = _told(number, words, ctx)
            found.append(told)
            given_slots.append(slots_given)
    if not found:
        raise UserError(f"{path}: no relays in it",
                        "one a line, such as: NETNS --downlink eth0 --server 10.0.0.1")
    slots = ctx.params["ring_slots"] if _written(ctx, ["ring_slots"]) else _share(found)
    return [(config if given else replace(config, ring_slots=slots), ways)
            for (config, ways), given in zip(found, given_slots, strict=True)]


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that has any; raises AtLine."""
    for number, line in enumerate(text.split("\n"), start=1):
        plain = line.replace("\t", " ").rstrip("\r")
        if len(line) > configfile.MOST_LINE or not plain.isprintable():
            raise AtLine(number, "no line of printable text of up to "
                         f"{configfile.MOST_LINE:,} characters")
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise AtLine(number, str(error).lower(), "close the quotes") from None
        if words:
            yield number, words


def _told(number: int, words: list[str], outer: click.Context) -> tuple[Told, bool]:
    """What one line says, and whether it says --ring-slots; raises AtLine."""
    namespace, *arguments = words
    if not namespace or namespace.startswith("-"):
        raise AtLine(number, f"{shown(namespace)} is no network namespace",
                     "a line begins with one, by name or path")
    if page := _PAGES.intersection(arguments):
        raise AtLine(number, f"{min(page)} is no option of a relay", "leave it out")
    try:
        with outer.command.make_context("dhcp-relay", arguments) as ctx:
            if refused := _written(ctx, _OF_THE_PROCESS):
                raise UserError(f"{refused} is for all relays together",
                                "give it beside --many, not in the file")
            told = make_config(ctx.params), Ways(namespace, ctx.params["verbose"],
                                                 ctx.params["stats_json"])
            return told, bool(_written(ctx, ["ring_slots"]))
    except click.UsageError as error:
        raise AtLine(number, " ".join(error.format_message().split()),
                     "see: dhcp-relay --help") from None
    except NetlabError as error:
        raise AtLine(number, error.what, error.remedy) from None


def _written(ctx: click.Context, names: Collection[str]) -> str:
    """The first of these parameters that flags or a file give, as it is written; "" for none."""
    for each in ctx.command.params:
        if each.name in names and ctx.get_parameter_source(str(each.name)) in _WRITTEN:
            return each.opts[0] if each.opts[0].startswith("-") else "a server"
    return ""


def _share(told: Collection[Told]) -> int:
    """Slots of each ring, where all relays share what there is; a power of two."""
    rings = sum(len(config.downlinks) + max(len(config.uplinks), 1) for config, _ in told)
    part = 1 << (_ALL_SLOTS // rings or 1).bit_length() - 1
    return min(max(part, _FEWEST_SLOTS), DEFAULT_RING_SLOTS)
