"""`lab shell`, `lab logs`: standing inside a node, and reading what its programs said."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from fastpath.cli import Command
from fastpath.errors import SystemRefused, UserError
from fastpath.option_types import printable
from netlab.commands.common import (
    journal_of,
    name_option,
    say,
    step_into,
)

if TYPE_CHECKING:
    from netlab.state import Journal

_LOOK_S = 0.2
# Octets read at once, and of one line shown.
_PIECE, _MOST_LINE = 1 << 16, 10_000
_LINE_BREAK = 0x0A
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
# Colours and titles that a program wrote for a terminal: ECMA-48, CSI and OSC sequences.
_DECORATION = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
# What reads its own prompt from a file says it anew behind that; the others take PS1 as it is.
_BASH = """[ -f /etc/bash.bashrc ] && . /etc/bash.bashrc
[ -f ~/.bashrc ] && . ~/.bashrc
PS1="({where}) ${{PS1:-\\w\\$ }}"
exec {file}<&-
"""
_FISH = ("functions -q fish_prompt; and functions -c fish_prompt _netlab_prompt; "
         "function fish_prompt; echo -n '({where}) '; _netlab_prompt; end")


@click.command(cls=Command)
@click.argument("node")
@name_option
def shell(node: str, name: str) -> NoReturn:
    """Open your shell ($SHELL) inside NODE; its prompt says where it is.

    Its end is the command's. $DHCP_NETLAB_NODE in it is LAB/NODE.
    """
    from netlab import state
    step_into(name, node)
    # Not a stamp: `lab teardown` is not to kill a person's shell.
    os.environ[state.NODE_ENV] = f"{name}/{node}"
    command = _shell_command(_which_shell(), f"{name}/{node}")
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise SystemRefused(f"cannot run {command[0]!r}: {(error.strerror or '').lower()}",
                            "SHELL=/bin/sh lab shell ...") from error


def _which_shell() -> str:
    return os.environ.get("SHELL") or pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"


def _shell_command(path: str, where: str) -> list[str]:
    """The command line of an interactive shell that says `where` before its own prompt."""
    os.environ["PS1"] = f"({where}) $ "
    if not sys.stdin.isatty():
        return [path]
    kind = Path(path).name
    if kind == "bash":
        file = os.memfd_create("prompt", 0)
        os.write(file, _BASH.format(where=where, file=file).encode())
        return [path, "--rcfile", f"/proc/self/fd/{file}", "-i"]
    if kind == "fish":
        return [path, "-C", _FISH.format(where=where)]
    return [path, "-i"]


@click.command(cls=Command)
@click.argument("wanted", required=False, metavar="[NODE|PROGRAM]")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is said from now on.")
@click.option("--lines", type=click.IntRange(0), metavar="N",
              help="Only the last N lines of each program.")
@name_option
def logs(wanted: str | None, follow: bool, lines: int | None, name: str) -> None:
    """Show what the programs of a lab said: all of them, those in NODE, or each PROGRAM."""
    from netlab import state

    journal = journal_of(name)
    reader = _Reader(journal, state.directory(name) / "logs", wanted)
    found = reader.look()
    if wanted and not found and not reader.may_come:
        known = dict.fromkeys(word for log in reader.every() for word in (log.node, log.program))
        raise UserError(f"{name}: no node or program {wanted!r} has said anything",
                        f"there is: {', '.join(known)}" if known else "nothing has run in it yet")
    if not found and not follow:
        say(f"{name}: no program has said anything yet")
    several = len(found) > 1 or (follow and wanted is None)
    for log in found:
        _show(log, log.last(lines, final=not follow), several)
    if follow:
        _follow(name, reader, several)


def _follow(name: str, reader: _Reader, several: bool) -> None:
    """Until Ctrl-C, or until the lab is gone."""
    import select

    from fastpath.process import Stop
    from netlab import state

    with Stop(signal.SIGHUP) as stop:
        while not select.select([stop.fd], [], [], _LOOK_S)[0]:
            for log in reader.look():
                _show(log, log.more(), several)
            try:
                gone = state.read(name) is None
            except state.Unreadable:
                gone = False
            if gone:
                say(f"{name}: gone")
                return


class _Log:
    """One program's log, and how far it was read."""

    def __init__(self, path: Path, node: str, program: str) -> None:
        self.path, self.node, self.program = path, node, program
        self._at = 0
        self._begun = b""

    def last(self, lines: int | None, *, final: bool) -> Iterator[str]:
        """The last so many lines (None: all) that are there; `more` goes on behind them."""
        if lines is not None:
            with contextlib.suppress(OSError):
                self._at = self._start_of(lines)
        return self.more(final=final)

    def _start_of(self, lines: int) -> int:
        """Where the last `lines` lines begin: read from the end, a log may be huge."""
        with self.path.open("rb") as file:
            at = end = file.seek(0, os.SEEK_END)
            if not lines or not end:
                return end
            file.seek(end - 1)
            # A line break that ends the last line begins no other.
            missing = lines + (file.read(1) == b"\n")
            while at:
                start = max(0, at - _PIECE)
                file.seek(start)
                piece = file.read(at - start)
                breaks = [i for i, octet in enumerate(piece) if octet == _LINE_BREAK]
                if len(breaks) >= missing:
                    return start + breaks[-missing] + 1
                missing -= len(breaks)
                at = start
        return 0

    def more(self, *, final: bool = False) -> Iterator[str]:
        """Lines that came since; one that is not ended yet waits, unless `final`."""
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._at:
                # Begun anew: the program was started again.
                self._at, self._begun = 0, b""
            file.seek(self._at)
            while octets := file.read(_PIECE):
                self._at += len(octets)
                *whole, self._begun = (self._begun + octets).split(b"\n")
                yield from map(_shown, whole)
                if len(self._begun) > _MOST_LINE:
                    yield self._rest()
        if final and self._begun:
            yield self._rest()

    def _rest(self) -> str:
        line, self._begun = self._begun, b""
        return _shown(line)


class _Reader:
    """The logs of a lab; each stays the same object for as long as it is there."""

    def __init__(self, journal: Journal, place: Path, wanted: str | None) -> None:
        self._place, self._wanted = place, wanted
        # The longest first: a node may be called as another one and a program.
        self._nodes = sorted((node.name for node in journal.topology.nodes), key=len, reverse=True)
        self._logs: dict[Path, _Log] = {}

    @property
    def may_come(self) -> bool:
        """Whether what is wanted is a node of the lab, which may have programs later."""
        return self._wanted in self._nodes

    def every(self) -> list[_Log]:
        """All that there are, by name."""
        for path in sorted(self._place.glob("*.log")):
            if path not in self._logs:
                node = next((n for n in self._nodes if path.stem.startswith(f"{n}-")), "")
                self._logs[path] = _Log(path, node, path.stem.removeprefix(f"{node}-"))
        return list(self._logs.values())

    def look(self) -> list[_Log]:
        """Those that are wanted."""
        return [log for log in self.every()
                if self._wanted in (None, log.node, log.program)]


def _shown(line: bytes) -> str:
    """A line as a terminal can take it, whatever a program wrote."""
    text = line[:_MOST_LINE].decode("utf-8", "replace")
    text = _DECORATION.sub("", text).rstrip("\r").expandtabs()
    more = f" ... ({len(line) - _MOST_LINE:,} more octets)" if len(line) > _MOST_LINE else ""
    return printable(text) + more


def _show(log: _Log, lines: Iterable[str], several: bool) -> None:
    prefix = ""
    if several:
        colour = _COLOURS[sum(f"{log.node}/{log.program}".encode()) % len(_COLOURS)]
        prefix = click.style(f"{log.node}/{log.program}: ", fg=colour)
    for line in lines:
        click.echo(prefix + line)
    sys.stdout.flush()
