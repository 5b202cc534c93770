"""`@kernel`: a function of arrays, compiled once per machine and kept.

The one thing to know: compiled code is machine code that we will run, possibly as root, so
the directory it is loaded from must be ours and writable by nobody else. The directory is
named by a hash of what the code depends on (kernel sources, numba, CPU), so it can never
be stale: numba alone would not notice a changed callee in another module.

With NUMBA_DISABLE_JIT=1 a kernel is the plain Python function.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pwd
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
from llvmlite import ir
from numba.core import event, types
from numba.core.extending import intrinsic, overload
from numba.core.types.misc import unliteral

from fastpath.process import notify

F = TypeVar("F", bound=Callable[..., Any])

CACHE_ENV = "DHCP_NETLAB_CACHE"
KEEP_VERSIONS = 4
# MADV_DONTNEED of linux/mman.h.
_DONT_NEED = 4
_HOME = Path(__file__).resolve().parent.parent
# An id that stands for "somebody outside this user namespace": /, /var and the like there.
_OVERFLOW_ID = 65534


def _trusted(path: Path) -> bool:
    """True when nobody but root and us can replace what lies at `path`.

    A sticky directory (as /tmp) protects entries that we own, so it is fine as a parent.
    """
    me = os.geteuid()
    for i, place in enumerate([path, *path.parents]):
        try:
            info = place.lstat()
        except OSError:
            return False
        if not stat.S_ISDIR(info.st_mode) or (i == 0 and info.st_uid != me):
            return False
        if info.st_uid not in (0, me, _OVERFLOW_ID):
            return False
        if info.st_mode & 0o022 and not (i > 0 and info.st_mode & stat.S_ISVTX):
            return False
    return True


def _candidates() -> Iterable[Path]:
    if named := os.environ.get(CACHE_ENV):
        yield Path(named).absolute()
    if os.geteuid() == 0:
        # Not $HOME: under sudo that may be another user's.
        yield Path("/var/cache/dhcp-netlab")
    with contextlib.suppress(KeyError):
        yield Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".cache" / "dhcp-netlab"


@cache
def cache_root() -> Path:
    """The private directory that holds compiled kernels, made if need be.

    Tries $DHCP_NETLAB_CACHE, /var/cache/dhcp-netlab (root) and ~/.cache/dhcp-netlab; where
    none can be made private, a fresh temporary directory that is removed at exit.
    """
    for place in _candidates():
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK) and _trusted(place):
            return place
        print(f"dhcp-netlab: not caching compiled code in {place}: others can write there",
              file=sys.stderr)
    import atexit

    scratch = Path(tempfile.mkdtemp(prefix="dhcp-netlab-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


_IMPORT = re.compile(r"^\s*from (\w+)(?:\.(\w+))? import (\(.*?\)|[^\n]*)",
                     re.MULTILINE | re.DOTALL)


def _sources(package: str) -> dict[Path, bytes]:
    """The files with kernels of fastpath and `package`, and all that they import of ours.

    Constants of what they import are in the compiled code; a change of any other file is none
    for them.
    """
    known: dict[Path, bytes] = {}
    waiting = [path for name in ("fastpath", package) for path in (_HOME / name).glob("*.py")
               if b"@kernel" in path.read_bytes()]
    while waiting:
        path = waiting.pop()
        if path in known or not path.exists():
            continue
        known[path] = path.read_bytes()
        for folder, module, names in _IMPORT.findall(known[path].decode()):
            if folder in ("fastpath", package):
                waiting += [_HOME / folder / f"{name}.py"
                            for name in ([module] if module else re.findall(r"\w+", names))]
    return known


@cache
def cache_dir(package: str) -> Path:
    """Where the kernels of `package` are kept: named by their sources, numba and the CPU."""
    digest = hashlib.sha256()
    for source, octets in sorted(_sources(package).items()):
        digest.update(source.name.encode() + octets)
    llvm = llvmlite.binding
    # Who compiles for another machine than this one says so to numba (NUMBA_CPU_NAME).
    named, features = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    for part in (numba.__version__, sys.version, named or llvm.get_host_cpu_name(),
                 llvm.get_host_cpu_features().flatten() if features is None else features):
        digest.update(part.encode())
    place = cache_root() / f"{package}-{digest.hexdigest()[:20]}"
    place.mkdir(mode=0o700, exist_ok=True)
    _forget_old(package)
    return place


def _forget_old(package: str) -> None:
    """Keep the newest few versions: every edit of a kernel makes another."""
    with contextlib.suppress(OSError):
        kept = sorted(cache_root().glob(f"{package}-*"), key=lambda p: p.stat().st_mtime)
        for old in kept[:-KEEP_VERSIONS]:
            shutil.rmtree(old, ignore_errors=True)


# Our kernels allocate nothing, so reference counts of arrays need no care (_nrt), and tables
# are tuples of arrays, which only inlining spares from being copied at each call: together
# a factor of about seven on a server's answer.
_HOW = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False, "forceinline": True,
        "no_cfunc_wrapper": True}


_kernels = 0


def kernel(function: F) -> F:
    """Compile `function` without the GIL, from the private cache where it is known.

    A kernel must not allocate: no new arrays, lists or strings.
    """
    global _kernels
    _kernels += 1
    place = cache_dir(function.__module__.split(".")[0])
    numba.config.CACHE_DIR = str(place)
    compiled = numba.njit(function, **_HOW)
    if not numba.config.DISABLE_JIT:
        # numba does not see the difference between the two forms in its cache.
        numba.config.CACHE_DIR = str(place / "within")
        _call_within(compiled, numba.njit(function, **_HOW, no_cpython_wrapper=True))
    return compiled  # type: ignore[no-any-return]


def _call_within(compiled: Any, inner: Any) -> None:
    """Let other kernels call `inner`, which lacks what only calls from Python need.

    Most of the time of compiling would go into that. Each is also compiled once per type here:
    numba would do so for each constant it is called with; inlining brings those in anyway.
    """
    template = inner.get_call_template

    def get_call_template(args: Any, keywords: Any) -> Any:
        return template([unliteral(arg) for arg in args],
                        {name: unliteral(arg) for name, arg in keywords.items()})

    compiled.get_call_template = get_call_template
    compiled.get_overload = inner.get_overload


def fence() -> None:
    """Order memory accesses across this point: ring slots are shared with the kernel."""


@intrinsic
def _fence(typingctx: Any) -> Any:
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


@overload(fence)
def _fence_in_kernel() -> Any:
    def emit() -> None:
        _fence()  # type: ignore[call-arg]

    return emit


class _Counter(event.Listener):  # type: ignore[misc]
    """Calls back with how many kernels have been compiled, after each one."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._done = 0
        self._tell = tell

    def on_start(self, event: Any) -> None:
        """Nothing to show before it is done."""

    def on_end(self, event: Any) -> None:
        self._done += 1
        self._tell(self._done)


def _put_compiler_away() -> None:
    """Give back the memory of the compiler's own code: 50 MiB that a running program needs no more.

    It is read from its file again if a kernel is compiled after all (madvise(2), MADV_DONTNEED
    on a private mapping of a file that nobody writes).
    """
    libc = ctypes.CDLL(None)
    with contextlib.suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8") as maps:
        for line in maps:
            place, rights, *_, name = line.split()
            if rights == "r-xp" and "llvmlite" in name:
                first, after = (int(part, 16) for part in place.split("-"))
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(after - first), _DONT_NEED)


def warm_up(program: str, call: Callable[[], object]) -> None:
    """Make `call`, which calls each entry kernel of `program` once, so that all are compiled.

    On a warm cache that takes milliseconds. The first time it takes tens of seconds: a bar
    on standard error shows how far it is, and whoever started us is told too.
    """
    try:
        _compile(program, call)
    finally:
        _put_compiler_away()


def _compile(program: str, call: Callable[[], object]) -> None:
    marker = cache_dir(program) / "complete"
    if marker.exists() or numba.config.DISABLE_JIT:
        call()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"dhcp-netlab: compiling for {program}: once, less than a minute")
    columns = (TextColumn("compiling, this once"), BarColumn(),
               TextColumn("{task.completed} of {task.total} kernels"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=_kernels)

        def tell(done: int) -> None:
            bar.update(task, completed=done)
            notify(f"STATUS=compiling, this once: {done} of {_kernels} kernels")

        with event.install_listener("numba:compile", _Counter(tell)):
            call()
    notify("STATUS=")
    with contextlib.suppress(OSError):
        marker.touch()
