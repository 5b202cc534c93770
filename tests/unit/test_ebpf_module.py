"""What `Module` says where it cannot be, and maps read from kernels that know no batches."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebpf import module, toolchain
from ebpf.module import Kind, Module, Table
from fastpath.errors import SystemRefused

ROW = np.dtype([("a", "u8"), ("b", "u4")], align=True)
SMALL = np.dtype("u4")
CPUS = 3


def test_without_bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(toolchain.ROOT_ENV, str(tmp_path))
    monkeypatch.delitem(sys.modules, "bcc", raising=False)
    with pytest.raises(SystemRefused, match="bcc is not installed"):
        Module("path.c", defines={})


SOUND = "int fine(struct __sk_buff *skb) { return TC_ACT_UNSPEC; }\n"
# What is wrong with a file, and a word of what is said of it.
BROKEN = {
    "int f(struct __sk_buff *skb) { return no_such_name; }\n": "no_such_name",
    "int f(struct __sk_buff *skb) {\n": "expected '}'",
    "#include <linux/no_such_header.h>\n": "no_such_header",
    "#error HOOKS is not told\n": "HOOKS is not told",
    "BPF_ARRAY(many, u64, 0);\n" + SOUND: "",
}


@pytest.mark.bcc
@pytest.mark.root
@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_does_not_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                      capfd: pytest.CaptureFixture[str], text: str) -> None:
    monkeypatch.setattr(module, "_HERE", tmp_path)
    (tmp_path / "bad.c").write_text(text)
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SystemRefused) as refused:
        Module("bad.c", defines={})
    assert BROKEN[text] in refused.value.what and "bad.c" in refused.value.what
    assert "\n" not in refused.value.what
    assert capfd.readouterr() == ("", "")
    # Descriptor 2 is the terminal's again, and nothing else stays open.
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert "BCC_KERNEL_SOURCE" not in os.environ


@pytest.mark.bcc
@pytest.mark.root
@pytest.mark.parametrize("text", [
    "int f(struct __sk_buff *skb) { for (;;) skb->mark += 1; }\n",
    "int f(struct __sk_buff *skb) { skb->len = 1; return 0; }\n",
    SOUND,
])
def test_a_program_that_the_kernel_does_not_take(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str],
        text: str) -> None:
    monkeypatch.setattr(module, "_HERE", tmp_path)
    (tmp_path / "bad.c").write_text(text)
    with Module("bad.c", defines={}) as made:
        with pytest.raises(SystemRefused, match="does not take f:") as refused:
            made.load("f", Kind.TC)
        assert "\n" not in refused.value.what
    made.close()
    assert capfd.readouterr() == ("", "")


class Kernel:
    """Array and hash maps as libbcc hands them over: rows of octets, padded for each CPU."""

    def __init__(self, rows: list[bytes], batches: Callable[[Any, Any], int] | None) -> None:
        self.rows, self.batches = rows, batches

    def bpf_lookup_batch(self, fd: int, first: Any, after: Any, keys: Any, values: Any,
                         count: Any) -> int:
        assert self.batches
        return self.batches(values, count)

    def bpf_lookup_elem(self, fd: int, key: Any, value: Any) -> int:
        number = ctypes.cast(key, ctypes.POINTER(ctypes.c_uint32))[0]
        ctypes.memmove(value, self.rows[number], len(self.rows[number]))
        return 0

    def bpf_get_next_key(self, fd: int, key: Any, following: Any) -> int:
        number = ctypes.cast(key, ctypes.POINTER(ctypes.c_uint32))[0] + 1 if key else 0
        if number >= len(self.rows):
            return -1
        ctypes.cast(following, ctypes.POINTER(ctypes.c_uint32))[0] = number
        return 0


def table(kernel: Kernel, dtype: np.dtype[Any], entries: int) -> Table:
    bcc = SimpleNamespace(lib=kernel,
                          table=SimpleNamespace(get_possible_cpus=lambda: list(range(CPUS))))
    leaf = ctypes.c_uint8 * dtype.itemsize
    return Table(bcc, SimpleNamespace(map_fd=9, max_entries=entries, Leaf=leaf))


def all_of(rows: list[bytes], error: int) -> Callable[[Any, Any], int]:
    """A kernel that knows batches; at the end of a map it says so, or does not."""
    def read(values: Any, count: Any) -> int:
        ctypes.memmove(values, b"".join(rows), len(b"".join(rows)))
        ctypes.set_errno(error)
        return -1 if error else 0
    return read


def unknown(values: Any, count: Any) -> int:
    """EINVAL for the call itself (before 5.6), or for this kind of map; `count` as it was."""
    ctypes.set_errno(errno.EINVAL)
    return -1


def half(values: Any, count: Any) -> int:
    count._obj.value //= 2
    ctypes.set_errno(errno.ENOENT)
    return -1


@pytest.mark.parametrize("dtype", [ROW, SMALL])
@pytest.mark.parametrize("per_cpu", [False, True])
@pytest.mark.parametrize("how", ["0", "ENOENT", "unknown", "half"])
def test_rows_of_an_array(dtype: np.dtype[Any], per_cpu: bool, how: str) -> None:
    """Whatever the kernel knows of batches, every row is read: zeros would pass for a count."""
    made = np.zeros((5, CPUS), dtype)
    made["a" if dtype is ROW else ()] = np.arange(1, 16).reshape(5, CPUS)
    if not per_cpu:
        made = made[:, :1]
    stride = -(-dtype.itemsize // 8) * 8 if per_cpu else dtype.itemsize
    rows = [b"".join(cell.tobytes().ljust(stride, b"\xee") for cell in row) for row in made]
    ways = {"0": all_of(rows, 0), "ENOENT": all_of(rows, errno.ENOENT), "unknown": unknown,
            "half": half}
    found = table(Kernel(rows, ways[how]), dtype, 5).rows(dtype, per_cpu)
    assert found.tolist() == (made if per_cpu else made[:, 0]).tolist()


def test_entries_of_a_hash() -> None:
    dtype = np.dtype("u4")
    rows = [b"".join(np.array([n, 0], dtype).tobytes() for n in (i, i + 1, i + 2))
            for i in range(4)]
    items = list(table(Kernel(rows, None), dtype, 9).items(np.dtype("u4"), dtype))
    assert [(int(key), value.tolist()) for key, value in items] == [
        (i, [i, i + 1, i + 2]) for i in range(4)]


def test_a_row_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="16 octets, not 4"):
        table(Kernel([], None), ROW, 1).rows(SMALL)
