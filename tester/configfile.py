"""Configuration files of dhcp-tester: YAML or `key=value` lines, each value with its line.

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
# Key as written, the name it stands for, its line, its value.
Given = tuple[str, str, int, Node]

_SYNONYMS = {"server_ip": "server", "server_port": "port", "test_size": "clients",
             "live_stats": "live"}
_SECTIONS = ("client", "logging", "server")
_OF_LOGGING = {"level": "log_level", "format": "log_format", "verbose": "verbose",
               "live_stats": "live", "live": "live"}
# Checked like dhcp-server's; nothing comes of them, for dhcp-tester keeps no log.
_OF_A_LOG = {"log_level": values.log_level, "log_format": values.log_format}
# What dhcp-server knows by these names and means otherwise, or what only it knows.
_OF_SERVER = frozenset((
    "interface", "interfaces", "listen", "listen_ip", "server_ip", "transport", "ip_pool",
    "start_ip", "end_ip", "pool_start", "pool_end", "netmask", "gateway", "dns", "dns1", "dns2",
    "lease_time", "min_lease_time", "max_lease_time", "renewal_time", "rebinding_time",
    "next_server", "boot_file", "server_name", "option", "options", "classes", "subnets",
    "shared_networks", "authoritative", "rapid_commit", "bootp", "relay", "enable_relay",
    "max_hops", "offer_hold", "decline_hold", "max_concurrent", "response_delay",
    "response_jitter", "response_distribution", "drop_rate", "fault", "faults", "seed",
    "lease_file", "durability", "metrics", "stats_json", "user", "ring_slots"))


def load(path: Path, parameters: Iterable[click.Parameter], *, shared: bool = False) -> File:
    """Read and check `path`; every UserError opens with `FILE:LINE: `, or `FILE: `.

    parameters: of dhcp-tester's command; each long option is a key, with `-` or `_`.
    shared: DHCP_ENV names the file, for both programs. Where its `key=value` lines are
    dhcp-server's, those count that mean the same to both.
    """
    options = _options(parameters)
    flags = Flags([str(option.name) for option in options.values() if option.multiple])
    with configfile.blamed(path):
        text = configfile.content(path)
        lines = configfile.is_lines(path, text)
        for key, name, line, node in _of_lines(text, options, shared) if lines else _of_yaml(text):
            option = _option(key, name, line, options)
            if option is None:
                taken(node, key, _OF_A_LOG[name])
                continue
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


def _option(key: str, name: str, line: int, options: Options) -> click.Option | None:
    """What `key` sets; None for what is checked only. Raises AtLine."""
    option = options.get(name) or options.get(_SYNONYMS.get(name, ""))
    if option or name in _OF_A_LOG:
        return option
    if name in _OF_SERVER:
        raise AtLine(line, f"{key} is a setting of dhcp-server, not of dhcp-tester",
                     "give each program a file of its own, or a section in a YAML file")
    known = [each.replace("_", "-") for each in (*options, *_SYNONYMS)]
    raise AtLine(line, f"unknown key {shown(key)}", did_you_mean(name.replace("_", "-"), known))


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
    return words if len(words) <= 300 else words[:297] + "..."


# `key=value` lines, also those of a shell's environment.

def _of_lines(text: str, options: Options, shared: bool) -> Iterator[Given]:
    given = [(key, configfile.bare_name(key), node.line, node)
             for key, node in configfile.each_line(text, "clients=1000")]
    only_servers = _OF_SERVER - set(options) - set(_SYNONYMS)
    # With one line that is nobody else's, it is dhcp-server's file: relay=true is none of ours.
    if shared and any(name in only_servers for _, name, _, _ in given):
        given = [each for each in given if each[1] not in _OF_SERVER]
    yield from given


# YAML.

def _of_yaml(text: str) -> Iterator[Given]:
    """A mapping of settings, or of sections: `client` and `logging`; `server` is not looked at."""
    root = read(text)
    if root.entries is None:
        if not root.empty:
            raise AtLine(root.line, "this is not a mapping with client and logging, nor one of "
                         "settings", "for example clients: 1000")
        return
    server = root.entries.get("server")
    if not ({"client", "logging"} & set(root.entries)
            or (server and (server.empty or server.entries is not None))):
        yield from _of_mapping(root)
        return
    for key, node in root.entries.items():
        line = root.key_lines[key]
        if key not in _SECTIONS:
            raise AtLine(line, f"unknown key {shown(key)} beside sections",
                         "settings of dhcp-tester stand under client; "
                         f"{did_you_mean(key, list(_SECTIONS))}")
        if node.entries is None and not node.empty:
            raise AtLine(line, f"{key}: this is not a mapping of settings",
                         "settings of dhcp-tester stand under client")
    client, logging = root.get("client"), root.get("logging")
    if client:
        yield from _of_mapping(client)
    if logging:
        yield from _of_logging(logging)


def _of_mapping(node: Node) -> Iterator[Given]:
    for key, value in (node.entries or {}).items():
        yield key, key, node.key_lines[key], value


def _of_logging(node: Node) -> Iterator[Given]:
    for key, value in (node.entries or {}).items():
        line = node.key_lines[key]
        if key not in _OF_LOGGING:
            raise AtLine(line, f"logging: unknown key {shown(key)}",
                         did_you_mean(key, list(_OF_LOGGING)))
        yield key, _OF_LOGGING[key], line, value
