"""bcc and the kernel headers that it compiles against: the system's own, else Debian's packages.

The one thing to know: what the system lacks is unpacked as the other peers are, and never
installed. A library that a process holds already is found by its name alone; so this process
loads those of the tree once, by their paths, and processes that it starts are told by
LD_LIBRARY_PATH.

    python -m tests.peers.bcc     fetch what is missing, try it, and print the settings to use it
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebpf import toolchain
from fastpath.errors import SystemRefused
from netlab import ebpf_trial
from netlab.doctor import any_headers
from tests.peers.unpack import PeersUnavailable, ensure, library_path, release

LIBRARIES_ENV = "LD_LIBRARY_PATH"
_BCC = "python3-bpfcc"
_LIBRARY = "libbcc.so.0"
# Of the steps that `ebpf_trial` tries: what no test of programs in the kernel can do without.
_NEEDED = ("bcc", "headers", "libbpf", "program")


class BccUnavailable(Exception):
    """Why no program can be compiled and loaded here: `str()` of it is one line."""


def _missing() -> dict[str, str]:
    """{package: what it holds that is not on the system}."""
    missing = {}
    if toolchain.bcc_place() is None or not _loads(_LIBRARY):
        missing[_BCC] = "bcc"
    try:
        toolchain.headers()
    except SystemRefused:
        missing[any_headers(release(), platform.machine())] = "kernel headers"
    return missing


def _linked(library: Path, places: str) -> str:
    """What the loader says of a library and of all that it needs, with `places` to look in."""
    return subprocess.run(["ldd", str(library)], capture_output=True, text=True,
                          env={**os.environ, LIBRARIES_ENV: places}).stdout


def _whole(tree: Path) -> bool:
    """Whether a tree has what it was unpacked for: the system may have had some of it then."""
    if tree.name != _BCC:
        return any(tree.glob("usr/src/linux-headers-*/include/generated/autoconf.h"))
    libraries = list(tree.glob(f"usr/lib/*/{_LIBRARY}"))
    if not libraries:
        return _loads(_LIBRARY)
    return not any("not found" in _linked(each, library_path(tree)) for each in libraries)


def _load(library: Path, places: str) -> None:
    """Load a library and what it needs, whatever of it is in `places`, into this process."""
    left = [*re.findall(r"=> (\S+) \(", _linked(library, places)), str(library)]
    left = [path for path in left if path.startswith(tuple(places.split(":")))]
    while left:
        # In whatever order they need one another: each round loads those that lack nothing.
        refused = [path for path in left if not _loads(path)]
        if len(refused) == len(left):
            raise PeersUnavailable(f"{refused[0]} cannot be loaded")
        left = refused


def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True


@functools.cache
def environment() -> dict[str, str]:
    """What to add to the environment: nothing where the system has all of it.

    Fetches what is missing and loads its libraries here. Raises PeersUnavailable.
    """
    missing = _missing()
    if not missing:
        return {}
    folder = ensure(*missing, whole=_whole)
    trees = [folder / package for package in missing]
    roots = [*map(str, trees), os.environ.get(toolchain.ROOT_ENV) or "/"]
    settings = {toolchain.ROOT_ENV: ":".join(roots)}
    libraries = library_path(folder / _BCC) if _BCC in missing else ""
    if libraries:
        settings[LIBRARIES_ENV] = ":".join(filter(None, (libraries, os.environ.get(LIBRARIES_ENV))))
        for library in sorted((folder / _BCC).glob(f"usr/lib/*/{_LIBRARY}")):
            _load(library, libraries)
    return settings


@contextmanager
def environment_kept() -> Iterator[None]:
    """After the block the environment is as it was before: libraries of a tree are for those who
    asked for them."""
    before = {name: os.environ.get(name) for name in (toolchain.ROOT_ENV, LIBRARIES_ENV)}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@functools.cache
def _works() -> str:
    """Why it does not work here; "" where it does."""
    try:
        settings = environment()
    except PeersUnavailable as refused:
        return f"no {' and no '.join(_missing().values())} here: {refused}"
    os.environ |= settings
    with ebpf_trial.under_way() as found:
        steps = found()
    return next((f"eBPF, {step}: {steps[step].said}" for step in _NEEDED
                 if not steps[step].ok), "")


def use() -> None:
    """Set the environment so that this process and those that it starts find bcc and headers.

    Raises BccUnavailable where a program cannot be compiled and loaded, which is tried once.
    """
    if why := _works():
        raise BccUnavailable(why)
    os.environ |= environment()


def main() -> int:
    """The command line; see the module's docstring."""
    try:
        use()
    except BccUnavailable as refused:
        print(f"peers: {refused}", file=sys.stderr)
        return 1
    for name, value in environment().items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
