"""Runs a command in the VM as if it ran here: its words, variables, files, keys and exit code.

The one thing to know: files travel as tar through ssh. Shared folders differ by provider (some
copy one way only, some have no links, some need a password), and every VM of Vagrant has ssh and
tar. An errand is three connections: what is needed goes there, the command runs, what it wrote
comes back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import FrameType
from typing import IO

from fastpath.errors import NetlabError, SystemRefused
from fastpath.vm_machine import UNREACHABLE, Machine, NoVm, find_directory
from fastpath.vm_paths import Errand, Host, plan

# On a disk: captures may be large.
_PLACE = "/var/tmp/dhcp-netlab-"
_LOOK_S = 0.1
_STOP_S = 10
# Signal here -> what the program there is sent. Windows has SIGBREAK, and no SIGHUP.
_SIGNALS = {"SIGINT": "INT", "SIGBREAK": "INT", "SIGTERM": "TERM", "SIGHUP": "TERM"}
_NOT_IN_WINDOWS = set('\\:*?"<>|')
_INTERRUPTED = 130


def carry(program: str, words: Sequence[str]) -> int:
    """Run `program words...` in the VM; returns its exit code, or 1 where that cannot be."""
    from fastpath.cli import say_error

    try:
        return _carry(program, words)
    except NoVm as error:
        say_error(program, error.what)
        for line in (*error.commands, _typed(program, words)):
            print(" " * (len(program) + 1), line, file=sys.stderr)
        return error.exit_code
    except NetlabError as error:
        say_error(program, error.what, error.remedy)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def _typed(program: str, words: Sequence[str]) -> str:
    """The command as a shell of this system takes it."""
    line = [program, *words]
    return subprocess.list2cmdline(line) if os.name == "nt" else shlex.join(line)


def _carry(program: str, words: Sequence[str]) -> int:
    machine = Machine(find_directory(os.environ))
    machine.connect()
    host = Host(Path.cwd(), machine.shared, _has)
    errand = plan(program, words, os.environ, host, _PLACE + secrets.token_hex(8))
    _send(machine, errand)
    _run(machine, errand.work)
    code = _collect(machine, errand)
    if code is None:
        raise SystemRefused("the connection to the VM was lost", "see: vagrant status")
    return code


def _has(path: PurePath) -> str:
    try:
        return "directory" if Path(path).is_dir() else "file" if Path(path).is_file() else ""
    except OSError:
        # Nothing that we may look at.
        return ""


def script(errand: Errand) -> str:
    """What runs in the VM, as root.

    A trap that does something is not inherited: the program has Ctrl-C as it came, and the shell
    lives to note how it ended.
    """
    program = shlex.quote(errand.words[0])
    exports = (f"export {name}={shlex.quote(value)}"
               for name, value in errand.environment.items() if name.isidentifier())
    return "\n".join((
        f"cd {shlex.quote(errand.directory)} || exit 1",
        *exports,
        "trap : INT TERM HUP",
        f"if command -v {program} > /dev/null; then",
        f"  sh -c 'echo $$ > \"$0\"; exec \"$@\"' {errand.work}/pid {shlex.join(errand.words)}",
        "  code=$?",
        "else",
        f"  echo {program}: 'the VM lacks it; type: vagrant provision' >&2",
        "  code=1",
        "fi",
        f"echo $code > {errand.work}/code",
        "exit $code", ""))


def _send(machine: Machine, errand: Errand) -> None:
    """Make the errand's directory with all that it needs. Raises SystemRefused.

    Whatever comes later has a later ctime than `stamp`, which no program can set. A file system's
    clock goes in steps of up to 10 ms: it has gone one further before the errand begins.
    """
    later = "until touch now && find now -cnewer stamp | grep -q .; do sleep 0.01; done"
    command = (f"umask 022; mkdir -m 700 {errand.work} && cd {errand.work} || exit 1; "
               f"tar -x -m -f - && touch stamp && {{ {later}; }} && exit 0; "
               f"cd /; rm -rf {errand.work}; exit 1")

    for path in errand.copies.values():
        _check_readable(Path(path))

    def write(out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w|") as tar:
            for name in dict.fromkeys(_with_parents(errand.directories)):
                made = tarfile.TarInfo(name)
                made.type, made.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(made)
            _add(tar, "run", script(errand).encode(errors="surrogateescape"))
            for name, path in errand.copies.items():
                with Path(path).open("rb") as file:
                    _add(tar, name, file)

    machine.send(command, write)


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None


def _with_parents(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield from (str(parent) for parent in reversed(PurePosixPath(name).parents)
                    if str(parent) != ".")
        yield name


def _add(tar: tarfile.TarFile, name: str, content: bytes | IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        info.size, content = len(content), BytesIO(content)
        info.mode = 0o644
    else:
        status = os.fstat(content.fileno())
        info.size, info.mode = status.st_size, 0o644 | (status.st_mode & 0o111)
    tar.addfile(info, content)


def _run(machine: Machine, work: str) -> None:
    """Run the script to its end; a terminal here is one there. Every signal is passed on.

    With a terminal ssh sends Ctrl-C as a key, and the VM's terminal makes the signal of it.
    Without one nothing else would: ssh itself is kept from hearing it.
    """
    terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    came: list[str] = []

    def heard(number: int, frame: FrameType | None) -> None:
        came.append(_SIGNALS[signal.Signals(number).name])

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        # ssh leaves alone what was ignored when it began.
        ssh = machine.popen(f"sh {work}/run", terminal=terminal)
        for number in numbers:
            signal.signal(number, heard)
        while True:
            while came:
                machine.run(_tell(work, came.pop(0)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                ssh.wait(_LOOK_S)
                return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(work: str, name: str) -> str:
    """Send the program a signal, once it has begun."""
    return (f"n=0; until [ -s {work}/pid ] || [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done; "
            f"kill -s {name} \"$(cat {work}/pid)\"")


def _collect(machine: Machine, errand: Errand) -> int | None:
    """Store here what the errand wrote, then remove it there.

    Returns how the program ended, None where the VM does not say. What was stored is removed only
    then: a full disk here loses nothing.
    """
    stop = (f"n=0; while [ ! -s code ] && [ -s pid ] && kill -s TERM \"$(cat pid)\" && "
            f"[ $n != {_STOP_S} ]; do n=$((n+1)); sleep 1; done")
    command = (f"cd {errand.work} || exit 1; {stop}; "
               "find code here there -cnewer stamp '(' -type f -o -type d ')' -print0 2> /dev/null "
               "| tar -c --null --no-recursion --hard-dereference -T - -f -; "
               f"read stored && cd / && rm -rf {errand.work}")
    ssh = machine.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ssh.stdin is not None and ssh.stdout is not None
    try:
        code = _unpack(ssh.stdout, errand)
        ssh.stdin.write(b"yes\n")
    except (OSError, ValueError, tarfile.TarError) as error:
        if isinstance(error, tarfile.ReadError) and ssh.wait() == UNREACHABLE:
            return None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SystemRefused(f"cannot store results here: {reason.lower()}",
                            f"they are in the VM, in {errand.work}: vagrant ssh") from None
    finally:
        for pipe in (ssh.stdin, ssh.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        ssh.wait()
    return code


def _unpack(stream: IO[bytes], errand: Errand) -> int | None:
    """Store what comes; only regular files, only below where the errand has its directories."""
    code = None
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if member.name == "code" and content:
                code = int(content.read(16))
                continue
            target = target_of(member.name, errand)
            if target is None:
                continue
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                _store(content, target.resolve())
    return code


def target_of(name: str, errand: Errand) -> Path | None:
    """Where a file goes that the VM calls `name`; None for one that has no place on this side."""
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/"):
        return None
    depth = 1 if parts[:1] == ("here",) else 2
    place = errand.returns.get("/".join(parts[:depth]))
    if place is None or len(parts) == depth:
        return None
    below = parts[depth:]
    if isinstance(place, PureWindowsPath) and any(_NOT_IN_WINDOWS & set(part) for part in below):
        return None
    return Path(place).joinpath(*below)


def _store(content: IO[bytes], target: Path) -> None:
    """Write a file whole or not at all; one that was there keeps its permissions."""
    if target.exists() and not target.is_file():
        with target.open("wb") as out:
            _copy(content, out)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".dhcp-netlab-")
    try:
        with os.fdopen(handle, "wb") as out:
            _copy(content, out)
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _copy(content: IO[bytes], out: IO[bytes]) -> None:
    while piece := content.read(1 << 20):
        out.write(piece)
