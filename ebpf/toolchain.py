"""What compiles our C: bcc from the distribution, and headers of a kernel.

bcc is not on PyPI (the package of that name there is something else), so a virtual environment
has to look for it beside the system's own packages. It compiles against headers: the running
kernel's own where there are any, else those of any kernel of the distribution. That does for
programs that read packets and tracepoints; where fields of the kernel's own structures stand is
asked of the running kernel itself (`ebpf.btf`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from fastpath.errors import SystemRefused

# Where packages were unpacked without being installed: directories that stand for `/`, with ":"
# between them, the first before the next.
ROOT_ENV = "DHCP_NETLAB_BCC"
# bcc's own: a complete tree of a kernel's sources or headers.
_SOURCE_ENV = "BCC_KERNEL_SOURCE"
_KHEADERS = Path("/sys/kernel/kheaders.tar.xz")
_PLACES = ("usr/lib/python3/dist-packages", *(
    f"usr/lib{bits}/python3.{minor}/site-packages" for minor in range(9, 20)
    for bits in ("", "64")))
_ARCH = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "ppc64le": "powerpc",
         "s390x": "s390"}


def _roots() -> list[Path]:
    return [Path(root).absolute() for root in (os.environ.get(ROOT_ENV) or "/").split(":") if root]


def bcc_place() -> Path | None:
    """The directory that holds the distribution's `bcc`; None where there is none."""
    return next((place for root in _roots() for each in _PLACES
                 if ((place := root / each) / "bcc/__init__.py").is_file()), None)


def bcc() -> ModuleType:
    """The module. SystemRefused where there is none, or where it does not start."""
    if "bcc" in sys.modules:
        return sys.modules["bcc"]
    place = bcc_place()
    if place is None:
        raise SystemRefused("bcc is not installed, so nothing can be seen inside the kernel",
                            "lab doctor says how to get it; without --ebpf all else works")
    # From there and nowhere else: neither PyPI's package of that name, nor any other module of
    # the system's.
    spec = importlib.util.spec_from_file_location("bcc", place / "bcc/__init__.py")
    assert spec and spec.loader
    module = sys.modules["bcc"] = importlib.util.module_from_spec(spec)
    try:
        # Its authors have older Pythons.
        with warnings.catch_warnings(action="ignore"):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules["bcc"]
        raise SystemRefused(f"bcc at {place} does not start: {error}",
                            "lab doctor says which packages it needs") from error
    return module


def headers() -> tuple[Path, ...]:
    """The trees that make up the headers of a kernel: () where bcc finds them by itself.

    Debian has two for each kernel, what differs by architecture and what does not. The running
    kernel's own come first, then the newest there are. SystemRefused where there are none.
    """
    own = Path("/lib/modules", platform.release(), "build")
    if os.environ.get(_SOURCE_ENV) or own.is_dir() or _KHEADERS.exists():
        return ()
    arch = _ARCH.get(platform.machine(), platform.machine())
    found = [tree for root in _roots() for tree in (root / "usr/src").glob("linux-headers-*")
             if (tree / "include/generated/autoconf.h").is_file()
             and (tree / f"arch/{arch}/include/generated").is_dir()]
    if not found:
        raise SystemRefused("no kernel headers, which bcc compiles against",
                            "lab doctor says which package has them")
    newest = max(found, key=_version)
    common = _common(newest)
    return (newest, common) if common else (newest,)


def _common(tree: Path) -> Path | None:
    """The other tree of the pair, which `tree` names in its Makefile: its own name does not tell
    (6.1.0-56-cloud-amd64 goes with 6.1.0-56-common)."""
    try:
        said = re.search(r"/(linux-headers-[^/\s]+-common[^/\s]*)/",
                         (tree / "Makefile").read_text(errors="replace"))
    except OSError:
        return None
    there = tree.with_name(said[1]) if said else None
    return there if there and there.is_dir() else None


def _version(tree: Path) -> tuple[int, ...]:
    # Without the last word: amd64 is no version.
    return tuple(int(number) for number in re.findall(r"\d+", tree.name.rpartition("-")[0]))


@contextlib.contextmanager
def for_bcc() -> Iterator[None]:
    """While the block runs, bcc finds the headers. Raises as `headers`.

    It takes one tree, so two are made to look like one, by links in a directory that ends with
    the block. (Nothing is written under /lib/modules.)
    """
    trees = headers()
    if not trees:
        yield
        return
    arch = _ARCH.get(platform.machine(), platform.machine())
    with tempfile.TemporaryDirectory(prefix="dhcp-netlab-headers-") as one:
        for part in ("include", f"arch/{arch}/include", f"arch/{arch}"):
            there = Path(one, part)
            there.mkdir(parents=True, exist_ok=True)
            for tree in trees:
                for entry in (tree / part).glob("*"):
                    if not (there / entry.name).exists():
                        (there / entry.name).symlink_to(entry)
        os.environ[_SOURCE_ENV] = one
        try:
            yield
        finally:
            del os.environ[_SOURCE_ENV]
