"""What `Btf` reads through libbpf, against the kernel's own file read octet by octet."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ebpf import btf
from ebpf.btf import Btf
from fastpath.errors import SystemRefused

VMLINUX = Path("/sys/kernel/btf/vmlinux")
POINTER, STRUCT, UNION, ENUM, TYPEDEF, FUNC_PROTO = 2, 4, 5, 6, 8, 13
# Octets behind the first twelve of a type: fixed, and for each member (linux/btf.h).
TRAILER = {1: (4, 0), 3: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8),
           FUNC_PROTO: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12)}


class Type(NamedTuple):
    name: str
    kind: int
    members: int
    size_or_type: int
    at: int


class File:
    """All types of the file, by number: 0 is void."""

    def __init__(self, octets: bytes) -> None:
        magic, _, _, header, at, size, text, _ = struct.unpack_from("=HBBIIIII", octets)
        assert magic == 0xEB9F
        self.octets, self.text = octets, header + text
        self.types, at = [Type("", 0, 0, 0, 0)], header + at
        end = at + size
        while at < end:
            name, info, more = struct.unpack_from("=III", octets, at)
            kind, count = info >> 24 & 31, info & 0xFFFF
            self.types.append(Type(self.string(name), kind, count, more, at + 12))
            fixed, each = TRAILER.get(kind, (0, 0))
            at += 12 + fixed + each * count

    def string(self, at: int) -> str:
        start = self.text + at
        return self.octets[start:self.octets.index(b"\0", start)].decode()

    def find(self, name: str, kind: int) -> Type:
        return next(each for each in self.types if (each.name, each.kind) == (name, kind))

    def plain(self, number: int) -> Type:
        while self.types[number].kind in (8, 9, 10, 11, 18):
            number = self.types[number].size_or_type
        return self.types[number]

    def fields(self, which: Type, before: int = 0) -> Iterator[tuple[str, int, Type]]:
        """(name, offset in bits, type) of all fields that can be named without a dot."""
        for number in range(which.members):
            name, target, place = struct.unpack_from("=III", self.octets, which.at + 12 * number)
            bits, inner = before + (place & 0xFFFFFF), self.plain(target)
            if self.string(name):
                yield self.string(name), bits, inner
            elif inner.kind in (STRUCT, UNION):
                yield from self.fields(inner, bits)


@pytest.fixture(scope="module")
def file() -> File:
    if not VMLINUX.exists():
        pytest.skip("this kernel does not describe its types (no BTF)")
    return File(VMLINUX.read_bytes())


@pytest.fixture(scope="module")
def told(file: File) -> Iterator[Btf]:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        pytest.skip("libbpf is not installed")
    made = Btf()
    yield made
    made.close()


@pytest.mark.parametrize("name", ["sk_buff", "net_device", "net", "sock", "sock_common",
                                  "task_struct", "list_head"])
def test_every_field_of_a_structure(file: File, told: Btf, name: str) -> None:
    found: dict[str, int] = {}
    for field, bits, _ in file.fields(file.find(name, STRUCT)):
        found.setdefault(field, bits // 8)
    assert len(found) >= 2
    assert {field: told.offset(name, field) for field in found} == found


@pytest.mark.parametrize("path", [("net", "ns", "inum"), ("sock", "__sk_common", "skc_net"),
                                  ("net_device", "dev", "kobj", "name"),
                                  ("sock", "__sk_common", "skc_net", "net")])
def test_a_field_of_a_field(file: File, told: Btf, path: tuple[str, ...]) -> None:
    which, total = file.find(path[0], STRUCT), 0
    for name in path[1:]:
        _, bits, which = next(field for field in file.fields(which) if field[0] == name)
        total += bits
    assert told.offset(*path) == total // 8


@pytest.mark.parametrize("path", [
    ("no_such_structure",), ("no_such_structure", "x"), ("sk_buff", "no_such_field"),
    ("", "x"), ("sk_buff", "dev", "ifindex"), ("sk_buff", "len", "x"),
    ("skb_drop_reason", "x"), ("sk_buff", "headers", "no_such_field")])
def test_what_there_is_not(told: Btf, path: tuple[str, ...]) -> None:
    """Nor is anything found behind a pointer, or in a number."""
    assert told.offset(*path) is None


@pytest.mark.parametrize("name", ["skb_drop_reason", "bpf_prog_type", "zone_type"])
def test_the_values_of_an_enumeration(file: File, told: Btf, name: str) -> None:
    which = file.find(name, ENUM)
    rows = [struct.unpack_from("=Ii", file.octets, which.at + 8 * i) for i in range(which.members)]
    assert told.values(name) == {value: file.string(text) for text, value in rows}
    assert told.values(f"no_{name}") == {}


def test_drop_reasons_have_short_names(told: Btf) -> None:
    if not told.drop_reasons:
        pytest.skip("this kernel gives no reasons (before Linux 5.17)")
    assert {"NO_SOCKET", "NOT_SPECIFIED"} <= set(told.drop_reasons.values())
    assert not any(name.startswith("SKB_DROP_REASON_") for name in told.drop_reasons.values())


@pytest.mark.parametrize("tracepoint", ["kfree_skb", "consume_skb", "sched_switch"])
def test_the_arguments_of_a_tracepoint(file: File, told: Btf, tracepoint: str) -> None:
    """But for the first, which is the probe's own."""
    which = file.types[file.find(f"btf_trace_{tracepoint}", TYPEDEF).size_or_type]
    prototype = file.types[which.size_or_type]
    assert (which.kind, prototype.kind) == (POINTER, FUNC_PROTO)
    assert told.arguments(tracepoint) == prototype.members - 1 > 0
    assert told.arguments(f"no_{tracepoint}") == 0


@pytest.mark.parametrize("octets", [None, b"", b"\x9f\xeb", bytes(4096)])
def test_a_kernel_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    octets: bytes | None) -> None:
    place = tmp_path / "vmlinux"
    if octets is not None:
        place.write_bytes(octets)
    monkeypatch.setattr(btf, "_VMLINUX", place)
    with pytest.raises(SystemRefused) as refused:
        Btf()
    assert "\n" not in refused.value.what


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    if not VMLINUX.exists():
        pytest.skip("this kernel does not describe its types (no BTF)")

    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(SystemRefused, match="libbpf is not installed"):
        Btf()
