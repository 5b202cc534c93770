"""What an errand to the VM takes along: which words of a command line name files, and where these
are on the other side.

The one thing to know: a file in the project's folder is in the VM already, where the folder is
shared both ways. Any other is copied: what lies under the working directory to `here/` with the
same name, so that relative names stay as they were typed; the rest to `there/N/`, one N for each
directory. Pure functions of paths: those of Windows are tested anywhere.
"""

from __future__ import annotations

import ntpath
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import PurePath, PureWindowsPath

SHARE = "/vagrant"
PROGRAMS = ("lab", "dhcp-server", "dhcp-relay", "dhcp-tester")


class Use(Enum):
    """READ: is copied there. WRITE: comes back only. BOTH: is read, and changed or added to."""

    READ = "read"
    WRITE = "write"
    BOTH = "both"


# Where in a value the name stands.
_WHOLE = re.compile(r"(?P<path>.+)", re.DOTALL)
_NAMED = re.compile(r"[^=]*=(?P<path>.+)", re.DOTALL)
_NAMED_FIRST = re.compile(r"[^=]*=(?P<path>[^,]+)(?:,.*)?", re.DOTALL)
_LISTED = re.compile(r"@(?P<path>.+)", re.DOTALL)
Form = tuple[re.Pattern[str], Use]
_READ, _WRITE, _BOTH = ((_WHOLE, use) for use in Use)
_TOPOLOGY, _RESULT = {"": _READ}, {"json": _WRITE, "logs": _WRITE}

# (program, command) -> option without its dashes -> how its value names a file; "" is for the
# words that are no options. tests/unit/test_vm.py holds it against the commands themselves.
FILES: dict[tuple[str, str], dict[str, Form]] = {
    ("lab", "setup"): _TOPOLOGY,
    ("lab", "test"): {**_TOPOLOGY, **_RESULT, "clients-csv": _WRITE},
    ("lab", "compare"): {"topology": _READ, **_RESULT},
    ("lab", "plan"): _TOPOLOGY,
    ("lab", "validate"): _TOPOLOGY,
    ("lab", "graph"): {**_TOPOLOGY, "o": _WRITE, "output": _WRITE},
    ("lab", "capture"): {"o": _WRITE, "output": _WRITE},
    ("lab", "save"): {"": _BOTH},
    ("dhcp-server", ""): {"config": _READ, "c": _READ, "lease-file": _BOTH, "stats-json": _WRITE},
    ("dhcp-server", "leases"): {"": _BOTH, "sqlite": _WRITE, "salvage": _WRITE, "import": _READ},
    ("dhcp-relay", ""): {"config": _READ, "many": _READ, "stats-json": _WRITE},
    ("dhcp-tester", ""): {
        "config": _READ, "mac-list": _READ, "wrap": _READ, "json": _WRITE, "clients-csv": _WRITE,
        "relay": (_LISTED, Use.READ), "template": (_NAMED, Use.READ),
        "raw-template": (_NAMED_FIRST, Use.READ)},
}
# What stands behind `--` is dhcp-tester's; what stands behind a node is any program's.
_FOR_TESTER = {("lab", "test"), ("lab", "compare")}
_EXEC = ("lab", "exec")
# perfdhcp's own options that name files, in the line of --perfdhcp.
_PERFDHCP = {"-T", "-M", "-J", "-w"}
_PREFIXES = {"dhcp-server": "DHCP_", "dhcp-relay": "DHCP_RELAY_", "dhcp-tester": "DHCP_"}
_VARIABLES = {
    _PREFIXES[program] + option.upper().replace("-", "_"): form
    for (program, command), options in FILES.items() if program in _PREFIXES and not command
    for option, form in options.items() if len(option) > 1}
# Besides DHCP_...: variables of dhcp-server from before there was a prefix.
_OTHERS = {"ENABLE_RELAY", "MAX_HOPS", "LOG_LEVEL"}
# These say where things are on a machine, and there is another.
_NOT_CARRIED = "DHCP_NETLAB_"
_LANGUAGE = ("LC_ALL", "LC_MESSAGES", "LANG")


@dataclass(frozen=True, slots=True)
class Host:
    """The side where a command is typed.

    directory: where. shared: what the VM sees as /vagrant, both ways; None if it does not.
    has: what is at a path: "file", "directory" or "".
    """

    directory: PurePath
    shared: PurePath | None
    has: Callable[[PurePath], str]

    @property
    def windows(self) -> bool:
        return isinstance(self.directory, PureWindowsPath)

    def absolute(self, name: str) -> PurePath:
        """`name` as it is meant here, without any `..`."""
        rules = ntpath if self.windows else posixpath
        return type(self.directory)(rules.normpath(rules.join(str(self.directory), name)))


@dataclass(slots=True)
class Errand:
    """A command as it is run in the VM, in the directory `work`, which is made for it.

    directory: where it runs. copies: name below `work` -> file on the host. directories: names
    below `work`. returns: directory below `work` -> where on the host goes what changes in it.
    """

    host: Host
    work: str
    directory: str = ""
    copies: dict[str, PurePath] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)
    returns: dict[str, PurePath] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inside = self._in_share(self.host.directory)
        self.directory = inside or f"{self.work}/here"
        if inside is None:
            self.returns["here"] = self.host.directory
            self.directories.append("here")

    def name(self, name: str, use: Use) -> str:
        """What the file that is called `name` here is called there; it is noted to be copied."""
        if self.host.windows and name.lower() == "nul":
            return "/dev/null"
        path = self.host.absolute(name)
        # Standard streams and devices are there too; the root of a drive is no file. What is not
        # here may be a file of the VM; if not, the program will say what was typed.
        if name in ("", "-") or name.startswith("/dev/") or not path.name or (
                use is Use.READ and not self.host.has(path)):
            return name
        if (inside := self._in_share(path)) is not None:
            relative = not (path.__class__(name).drive or path.__class__(name).root)
            stays = relative and "here" not in self.returns
            return type(path)(name).as_posix() if stays else inside
        if "here" in self.returns and path.is_relative_to(self.host.directory):
            shown = path.relative_to(self.host.directory).as_posix()
            below = f"here/{shown}"
        else:
            below = f"{self._there(path.parent)}/{path.name}"
            shown = f"{self.work}/{below}"
        self._note(below, path, use)
        return shown

    def _note(self, below: str, path: PurePath, use: Use) -> None:
        found = self.host.has(path)
        if found == "directory":
            self.directories.append(below)
        else:
            # A program that does not make the directory of its result must not have to.
            if self.host.has(path.parent) == "directory":
                self.directories.append(posixpath.dirname(below))
            if found and use is not Use.WRITE:
                self.copies[below] = path

    def _there(self, directory: PurePath) -> str:
        for below, known in self.returns.items():
            if known == directory and below != "here":
                return below
        below = f"there/{len(self.returns)}"
        self.returns[below] = directory
        return below

    def _in_share(self, path: PurePath) -> str | None:
        if self.host.shared is None or not path.is_relative_to(self.host.shared):
            return None
        return posixpath.join(SHARE, path.relative_to(self.host.shared).as_posix()).removesuffix(
            "/.")


def plan(program: str, words: Sequence[str], environ: Mapping[str, str], host: Host,
         work: str) -> Errand:
    """The errand that `program words...` typed on `host` comes to."""
    errand = Errand(host, work)
    errand.words = [program, *_translated(errand, program, list(words))]
    errand.environment = dict(_carried(errand, environ))
    return errand


def _carried(errand: Errand, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that the programs read. The language of reports alone: the VM may not have
    the host's locale, and its files are UTF-8."""
    for name, value in environ.items():
        if name not in _OTHERS and (name[:5] != "DHCP_" or name.startswith(_NOT_CARRIED)):
            continue
        form = _VARIABLES.get(name)
        yield name, _value(errand, form, value) if form else value
    if environment := environ.get("DHCP_ENV"):
        for suffix in ("yaml", "conf"):
            if re.fullmatch(r"\w+", environment):
                errand.name(f"config/{environment}.{suffix}", Use.READ)
    if language := next((environ[name] for name in _LANGUAGE if environ.get(name)), ""):
        yield "LC_MESSAGES", language
    yield "LC_CTYPE", "C.UTF-8"


def _value(errand: Errand, form: Form, value: str) -> str:
    """A value with the name in it translated, where there is one."""
    pattern, use = form
    match = pattern.fullmatch(value)
    if match is None:
        return value
    start, end = match.span("path")
    return value[:start] + errand.name(match["path"], use) + value[end:]


def _translated(errand: Errand, program: str, words: list[str]) -> Iterator[str]:
    """The words behind the name of a program, with its files' names translated."""
    command, node = "", False
    options = FILES.get((program, ""), {})
    rest = iter(words)
    for word in rest:
        if word == "--":
            yield word
            yield from _behind(errand, program, command, list(rest))
        elif word[:1] == "-" and word != "-":
            yield from _option(errand, options, word, rest)
        elif not command and ((program, word) in FILES or program == "lab"):
            command = word
            options = FILES.get((program, word), {})
            yield word
        elif (program, command) == _EXEC and node:
            yield from _behind(errand, program, command, [word, *rest])
        else:
            node = True
            yield _bare(errand, options, word)


def _behind(errand: Errand, program: str, command: str, words: list[str]) -> Iterator[str]:
    """Words that are no longer `program`'s own, but of a program that it starts."""
    if (program, command) in _FOR_TESTER:
        yield from _translated(errand, "dhcp-tester", words)
    elif (program, command) == _EXEC and words and words[0] in PROGRAMS:
        yield words[0]
        yield from _translated(errand, words[0], words[1:])
    else:
        yield from words


def _option(errand: Errand, options: Mapping[str, Form], word: str, rest: Iterator[str],
            ) -> Iterator[str]:
    """`--name=value`, `-name value` (Go's form), `-ovalue`: the option with what belongs to it."""
    name, given, value = word.partition("=")
    plain = name.lstrip("-")
    translate: Callable[[str], str]
    if plain == "perfdhcp":
        translate = partial(_perfdhcp, errand)
    elif plain and plain in options:
        translate = partial(_value, errand, options[plain])
    elif plain == "name":
        # Of a lab: no file, and no word of the command.
        translate = str
    else:
        short = word[1:2]
        glued = short != "-" and short in options and word[2:]
        yield word[:2] + _value(errand, options[short], word[2:]) if glued else word
        return
    if given:
        yield f"{name}={translate(value)}"
        return
    yield word
    following = next(rest, None)
    if following is not None:
        yield translate(following)


def _bare(errand: Errand, options: Mapping[str, Form], word: str) -> str:
    """A word that is no option: a file's name where the command takes one and it looks like one.

    It may also be the value of an option that is not of files, which is to stay as it is.
    """
    if "" not in options:
        return word
    use = options[""][1]
    path = type(errand.host.directory)(word)
    elsewhere = path.is_absolute() or ".." in path.parts
    if errand.host.has(errand.host.absolute(word)) != "file" and not (
            elsewhere or use is Use.BOTH or path.suffix in (".yaml", ".yml")):
        return word
    return errand.name(word, use)


def _perfdhcp(errand: Errand, line: str) -> str:
    """The line of --perfdhcp, with its files' names translated."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if errand.host.windows:
        # There a backslash separates directories.
        lexer.escape = ""
    try:
        words = list(lexer)
    except ValueError:
        # Quotes that do not close: dhcp-tester will say so.
        return line
    found, names_file = [], False
    for word in words:
        if names_file:
            word = errand.name(word, Use.READ)
        elif word[:2] in _PERFDHCP and len(word) > 2:
            word = word[:2] + errand.name(word[2:], Use.READ)
        names_file = not names_file and word in _PERFDHCP
        found.append(word)
    return shlex.join(found)
