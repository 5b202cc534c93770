"""A C file of ours in the kernel: compiled by bcc, loaded, its maps read as numpy arrays.

Nothing here knows what a program is for: counters, a fast path that answers in the driver and an
engine that sends from there are compiled, loaded and read in the same way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ebpf import toolchain
from fastpath.errors import SystemRefused

_HERE = Path(__file__).parent
_INCLUDES = "#include <uapi/linux/bpf.h>\n#include <uapi/linux/pkt_cls.h>\n"
_ROUND = 8  # a CPU's part of a value is padded to this (kernel/bpf/syscall.c)
_ERROR = re.compile(r"error: (.*)")
_PRIVILEGE = "eBPF needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN)"


class Kind(IntEnum):
    """What a program is for; linux/bpf.h, enum bpf_prog_type."""

    TC = 3
    XDP = 6
    RAW_TRACEPOINT = 17


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """What the compiler and the loader say on the terminal goes into the list instead.

    They write to descriptor 2 behind Python's back.
    """
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said += file.read().decode(errors="replace").splitlines()


class Table:
    """A map of a loaded module. Arrays are read whole, in one system call where the kernel can."""

    def __init__(self, bcc: Any, table: Any) -> None:
        self._lib, self._table = bcc.lib, table
        self.descriptor: int = table.map_fd
        self.entries: int = table.max_entries
        self._cpus = len(bcc.table.get_possible_cpus())
        # bcc calls what one CPU has sLeaf where a map has a value for each of them.
        self._octets = ctypes.sizeof(getattr(table, "sLeaf", table.Leaf))

    def write(self, number: int, row: np.ndarray[Any, Any]) -> None:
        """Put one row (of one element) into an array map. OSError."""
        key = ctypes.c_uint32(number)
        held = np.ascontiguousarray(row)
        if self._lib.bpf_update_elem(self.descriptor, ctypes.byref(key),
                                     held.ctypes.data_as(ctypes.c_void_p), 0):
            raise _refused()

    def insert(self, key: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> None:
        """Put one entry into a hash map. OSError."""
        key, value = np.ascontiguousarray(key), np.ascontiguousarray(value)
        if self._lib.bpf_update_elem(self.descriptor, key.ctypes.data_as(ctypes.c_void_p),
                                     value.ctypes.data_as(ctypes.c_void_p), 0):
            raise _refused()

    def rows(self, dtype: np.dtype[Any], per_cpu: bool = False) -> np.ndarray[Any, Any]:
        """All rows of an array map: shape (entries,), or (entries, cpus). OSError; ValueError
        where `dtype` is not of a row's size."""
        row = self._padded(dtype, per_cpu)
        found = np.zeros((self.entries, self._cpus) if per_cpu else self.entries, row)
        keys = np.zeros(self.entries, np.uint32)
        place, count = ctypes.c_uint32(0), ctypes.c_uint32(self.entries)
        if self._lib.bpf_lookup_batch(
                self.descriptor, None, ctypes.byref(place),
                keys.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p),
                ctypes.byref(count)) and (ctypes.get_errno() != errno.ENOENT
                                          or count.value < self.entries):
            # ENOENT is the end of the map. A kernel that knows no batches leaves `count` alone.
            self._one_by_one(found)
        return found["row"] if per_cpu else found

    def _padded(self, dtype: np.dtype[Any], per_cpu: bool) -> np.dtype[Any]:
        if dtype.itemsize != self._octets:
            raise ValueError(f"a row has {self._octets} octets, not {dtype.itemsize}")
        if not per_cpu:
            return dtype
        return np.dtype({"names": ["row"], "formats": [dtype], "offsets": [0],
                         "itemsize": -(-dtype.itemsize // _ROUND) * _ROUND})

    def _one_by_one(self, found: np.ndarray[Any, Any]) -> None:
        # Kernels before 5.6, and 5.13 where there is a row for each CPU, know no batches.
        stride = found.strides[0]
        for number in range(self.entries):
            key = ctypes.c_uint32(number)
            if self._lib.bpf_lookup_elem(self.descriptor, ctypes.byref(key),
                                         ctypes.c_void_p(found.ctypes.data + number * stride)):
                raise _refused()

    def items(self, key: np.dtype[Any], value: np.dtype[Any]) -> Iterator[
            tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """(key, value of each CPU) of every entry of a per-CPU hash map. OSError."""
        here, following = np.zeros(1, key), np.zeros(1, key)
        known = None
        while not self._lib.bpf_get_next_key(self.descriptor, known,
                                             following.ctypes.data_as(ctypes.c_void_p)):
            here[:] = following
            found = np.zeros(self._cpus, self._padded(value, True))
            if not self._lib.bpf_lookup_elem(self.descriptor,
                                             here.ctypes.data_as(ctypes.c_void_p),
                                             found.ctypes.data_as(ctypes.c_void_p)):
                yield here[0].copy(), found["row"]
            known = here.ctypes.data_as(ctypes.c_void_p)


def _refused() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


class Module:
    """C files compiled as one, in order. Everything of it ends with `close`, or this process.

    defines: macros, by name. Raises SystemRefused where bcc or headers are missing, or the
    kernel does not take the programs.
    """

    def __init__(self, *files: str, defines: Mapping[str, int | str]) -> None:
        self._bcc = toolchain.bcc()
        text = _INCLUDES + "".join(f'#line 1 "{name}"\n' + (_HERE / name).read_text()
                                   for name in files)
        flags = ["-w", *(f"-D{name}={value}" for name, value in defines.items())]
        with toolchain.for_bcc(), _quiet() as said:
            try:
                self._bpf: Any = self._bcc.BPF(text=text.encode(), cflags=flags)
            except Exception as error:
                failed: Exception | None = error
            else:
                failed = None
        if failed:
            why = next((match[1] for line in said if (match := _ERROR.search(line))),
                       said[-1] if said else str(failed))
            if os.strerror(errno.EPERM) in why:
                raise SystemRefused(f"the kernel gives us no maps: {why}",
                                    _PRIVILEGE) from failed
            raise SystemRefused(f"bcc cannot compile {files[-1]}: {why}",
                                "lab doctor looks at bcc and its headers") from failed

    def __enter__(self) -> Module:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def load(self, function: str, kind: Kind) -> int:
        """Have the kernel check and take a program; its descriptor, closed with the module."""
        with _quiet() as said:
            try:
                return int(self._bpf.load_func(function.encode(), int(kind)).fd)
            except Exception as error:
                failed = error
        why = next((line for line in reversed(said) if line and not line.startswith("processed")),
                   str(failed))
        raise SystemRefused(f"the kernel does not take {function}: {why.strip()}",
                            _PRIVILEGE)

    def trace(self, tracepoint: str, function: str) -> None:
        """Run a RAW_TRACEPOINT program at `tracepoint` until `close`. SystemRefused."""
        self.load(function, Kind.RAW_TRACEPOINT)
        try:
            self._bpf.attach_raw_tracepoint(tp=tracepoint.encode(), fn_name=function.encode())
        except Exception as error:
            raise SystemRefused(f"the kernel has no tracepoint {tracepoint} for us: {error}",
                                "") from error

    def table(self, name: str) -> Table:
        """The map of that name."""
        return Table(self._bcc, self._bpf[name.encode()])

    def symbol(self, address: int) -> str:
        """The kernel function that holds `address`; "" where the kernel does not say."""
        name = self._bcc.BPF.ksym(address)
        return "" if name == b"[unknown]" else str(name.decode())

    def close(self) -> None:
        """Detach tracepoints, let go of programs and maps; an interface keeps what it runs."""
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None
