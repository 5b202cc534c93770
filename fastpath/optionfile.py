"""Configuration files whose keys are the long options of a command: YAML or `key=value` lines.

The one thing to know: nothing here lists the options. They are taken from the command itself,
whose types check every value as they check a flag's; what they refuse is blamed on its line.
The values are for click's default_map, so that flag and environment go before the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from fastpath import configfile, values
from fastpath.configfile import MOST_LINE, File, Flags
from fastpath.document import AtLine, Node, did_you_mean, read, shown, taken
from fastpath.errors import UserError

Options = Mapping[str, click.Option]
# Key as written, its line, its value.
Given = tuple[str, int, Node]
_MOST_SAID = 300


def load(path: Path, parameters: Iterable[click.Parameter], section: str, example: str) -> File:
    """Read and check `path`; every UserError opens with `FILE:LINE: `, or `FILE: `.

    parameters: of the command; each long option is a key, with `-` or `_`. section: of a YAML
    file that several programs share; without it the file is a mapping of settings itself.
    example: a line of such a file, `key=value`.
    """
    options = _options(parameters)
    flags = Flags([str(option.name) for option in options.values() if option.multiple])
    with configfile.blamed(path):
        text = configfile.content(path)
        given = (_of_lines(text, example) if configfile.is_lines(path, text)
                 else _of_yaml(text, section, example))
        for key, line, node in given:
            option = _option(key, line, options)
            for each in _each(node, key, option):
                flags.add(str(option.name), _value(each, key, option), line, key)
    return File(path, flags.values, flags.line_of)


def blame(error: click.UsageError, file: File | None) -> UserError | None:
    """The same refusal with the line of `file` that it is about; None where no file said it.

    For what click or the command refuse after `load`: values that no type can judge.
    """
    if file is None or error.ctx is None:
        return None
    for option in _options_of(error, error.ctx):
        name, key = str(option.name), max(option.opts, key=len).lstrip("-")
        if (name in file.line_of
                and error.ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP):
            return UserError(f"{file.path}:{file.line_of[name]}: {key}: "
                             f"{_one_line(error.message)}")
    return None


def _options_of(error: click.UsageError, ctx: click.Context) -> list[click.Option]:
    """The option that click names, or those that whoever raised it hints at (`--timeout`)."""
    if not isinstance(error, click.BadParameter):
        return []
    if isinstance(error.param, click.Option):
        return [error.param]
    hint = error.param_hint
    words = [word.strip("'\"") for word in ([hint] if isinstance(hint, str) else hint or ())]
    return [each for word in words for each in ctx.command.params
            if isinstance(each, click.Option) and word in (*each.opts, *each.secondary_opts)]


def _options(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    """Options by key, in the form with `_`; a file names no other file, and no help or version."""
    return {name[2:].replace("-", "_"): each for each in parameters
            if isinstance(each, click.Option) and each.expose_value and each.name != "config"
            for name in each.opts if name.startswith("--")}


def _option(key: str, line: int, options: Options) -> click.Option:
    name = configfile.bare_name(key)
    if name not in options:
        known = [each.replace("_", "-") for each in options]
        raise AtLine(line, f"unknown key {shown(key)}",
                     did_you_mean(name.replace("_", "-"), known))
    return options[name]


def _each(node: Node, key: str, option: click.Option) -> list[Node]:
    if node.items is not None and not option.multiple:
        raise AtLine(node.line, f"{key}: a list, where one value is taken")
    if node.items == []:
        raise AtLine(node.line, f"{key}: an empty list", "write a value, or leave the key out")
    return node.each()


def _value(node: Node, key: str, option: click.Option) -> str | bool:
    """Text for click to convert, or a switch; raises AtLine for what click would refuse."""
    if node.empty:
        raise AtLine(node.line, f"{key}: nothing is given", "write a value, or leave the key out")
    if node.entries is not None or node.items is not None:
        raise AtLine(node.line, f"{key}: a list or mapping, where one value is taken")
    if option.is_flag:
        return taken(node, key, values.switch)
    text = node.text
    if not text.isprintable() or len(text) > MOST_LINE:
        raise AtLine(node.line, f"{key}: {shown(text)} is not a line of printable text of up to "
                     f"{MOST_LINE} characters")
    try:
        option.type.convert(text, option, None)
    except click.UsageError as error:
        raise AtLine(node.line, f"{key}: {_one_line(error.message)}") from None
    except UserError as error:
        raise AtLine(node.line, f"{key}: {error.what}", error.remedy) from None
    return text


def _one_line(message: str) -> str:
    words = " ".join(message.split()).rstrip(".")
    return words if len(words) <= _MOST_SAID else words[:_MOST_SAID - 3] + "..."


def _of_lines(text: str, example: str) -> Iterator[Given]:
    for key, node in configfile.each_line(text, example):
        yield key, node.line, node


def _of_yaml(text: str, section: str, example: str) -> Iterator[Given]:
    """The settings of a mapping, or of its `section` where it has one."""
    root = read(text)
    node = root
    if root.entries is not None and section in root.entries:
        node = root.entries[section]
    if node.empty:
        return
    if node.entries is None:
        raise AtLine(node.line, "this is not a mapping of settings",
                     f"for example {example.replace('=', ': ')}")
    for key, value in node.entries.items():
        yield key, node.key_lines[key], value
