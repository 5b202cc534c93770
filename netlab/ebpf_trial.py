"""What of eBPF works on this machine: found out by doing it, one step after the other.

The steps are done in a process of their own: compiler and kernel are native code, which may crash
or take its time, and a program that was loaded ends with it.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastpath.errors import SystemRefused
from netlab import apart
from netlab.apart import Tell
from netlab.features import Found

if TYPE_CHECKING:
    from ebpf.module import Module

_TIMEOUT_S = 60.0
VMLINUX = Path("/sys/kernel/btf/vmlinux")
NO_BCC = "not found"
# What counters ask of a kernel, and no more: a filter, and a look at a frame that it throws away.
_SMALLEST = """
int smallest(struct __sk_buff *skb) {
    return TC_ACT_UNSPEC;
}

int freed(struct bpf_raw_tracepoint_args *ctx) {
    u64 first = 0;
    bpf_probe_read_kernel(&first, sizeof(first), (void *)ctx->args[0]);
    return 0;
}
"""


@dataclass(slots=True)
class _Bench:
    """What steps leave to those after them. place: an empty directory."""

    place: Path
    module: Module | None = None


def _bcc(_: _Bench) -> str:
    from ebpf import toolchain

    place = toolchain.bcc_place()
    if place is None:
        raise SystemRefused(f"{NO_BCC} (PyPI's bcc is something else)")
    module = toolchain.bcc()
    return f"{getattr(module, '__version__', 'there')}, in {place}"


def _headers(_: _Bench) -> str:
    from ebpf import toolchain

    trees = toolchain.headers()
    if trees:
        return f"another kernel's, which do: {', '.join(map(str, trees))}"
    if named := os.environ.get("BCC_KERNEL_SOURCE"):
        return f"those that BCC_KERNEL_SOURCE names, {named}"
    own = Path("/lib/modules", platform.release(), "build")
    return f"this kernel's, {own}" if own.is_dir() else "this kernel's own (kheaders)"


def _libbpf(_: _Bench) -> str:
    from ebpf.btf import Btf

    if VMLINUX.exists():
        Btf().close()
    return "there"


def _reasons(_: _Bench) -> str:
    from ebpf.btf import Btf

    btf = Btf()
    try:
        count = len(btf.drop_reasons)
    finally:
        btf.close()
    if not count:
        raise SystemRefused("this kernel knows none")
    return f"{count} known"


def _program(bench: _Bench) -> str:
    from ebpf.module import Kind, Module

    source = bench.place / "smallest.c"
    source.write_text(_SMALLEST)
    began = time.monotonic()
    bench.module = Module(str(source), defines={})
    bench.module.load("smallest", Kind.TC)
    return f"compiled and loaded in {time.monotonic() - began:.1f} s"


def _tracepoint(bench: _Bench) -> str:
    assert bench.module
    bench.module.trace("kfree_skb", "freed")
    return "skb:kfree_skb can be watched (needs no tracefs)"


# Step -> (how, the steps without which it cannot be tried).
STEPS: dict[str, tuple[Callable[[_Bench], str], tuple[str, ...]]] = {
    "bcc": (_bcc, ()),
    "headers": (_headers, ()),
    "libbpf": (_libbpf, ()),
    "reasons": (_reasons, ("libbpf",)),
    "program": (_program, ("bcc", "headers")),
    "tracepoint": (_tracepoint, ("program",)),
}


def _try_all(place: Path, tell: Tell) -> None:
    tempfile.tempdir = str(place)
    bench = _Bench(place)
    done: dict[str, bool] = {}
    for name, (step, needs) in STEPS.items():
        if missing := next((need for need in needs if not done[need]), ""):
            found = Found(False, f"not tried without {missing}")
        else:
            try:
                found = Found(True, step(bench))
            except (SystemRefused, OSError) as error:
                found = Found(False, str(error))
            except BaseException as error:
                found = Found(False, f"{type(error).__name__}: {error}")
        done[name] = found.ok
        tell(json.dumps([name, found.ok, found.said]).encode() + b"\n")


@contextmanager
def under_way() -> Iterator[Callable[[], Mapping[str, Found]]]:
    """The steps are done while the block runs; what it is given waits for their outcomes.

    By step (STEPS). said: what was found, or why it does not work.
    """
    # Also for what a step that crashed or hung would leave elsewhere.
    with (tempfile.TemporaryDirectory(prefix="dhcp-netlab-trial-") as place,
          apart.start(lambda tell: _try_all(Path(place), tell)) as child):
        yield lambda: _found(*child.answer(_TIMEOUT_S))


def _found(told: bytes, ended: str) -> Mapping[str, Found]:
    found = {name: Found(ok, said) for name, ok, said in map(json.loads, told.splitlines())}
    why = ended or apart.NO_ANSWER
    for name in STEPS:
        if name not in found:
            found[name], why = Found(False, why), "not tried after that"
    return found
