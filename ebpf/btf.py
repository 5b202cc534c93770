"""Where the running kernel keeps the fields that we read, and what it calls its drop reasons.

bcc compiles against headers that may be another kernel's; the kernel's own description of its
types (BTF) says what is true here. It is read through libbpf, which bcc's package brings.
Source: linux/btf.h, bpf/btf.h.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cached_property
from pathlib import Path

from fastpath.errors import SystemRefused

_VMLINUX = Path("/sys/kernel/btf/vmlinux")
_POINTER, _STRUCT, _UNION, _ENUM, _TYPEDEF = 2, 4, 5, 6, 8
_TYPE, _MEMBER, _ENUMERATOR = struct.Struct("=III"), struct.Struct("=III"), struct.Struct("=Ii")
# Qualifiers and names of types: what they stand for is behind them.
_TRANSPARENT = (8, 9, 10, 11, 18)


class Btf:
    """The types of the running kernel. SystemRefused where it does not describe them."""

    def __init__(self) -> None:
        if not _VMLINUX.exists():
            raise SystemRefused("this kernel does not describe its types (no BTF)",
                                "take a kernel with CONFIG_DEBUG_INFO_BTF, as Debian 11 and later")
        try:
            self._lib = ctypes.CDLL("libbpf.so.1")
        except OSError:
            try:
                self._lib = ctypes.CDLL("libbpf.so.0")
            except OSError as error:
                raise SystemRefused("libbpf is not installed",
                                    "lab doctor says how to get it") from error
        for name in ("btf__parse", "btf__type_by_id", "btf__name_by_offset"):
            getattr(self._lib, name).restype = ctypes.c_void_p
        self._lib.btf__name_by_offset.restype = ctypes.c_char_p
        self._lib.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        self._btf = self._lib.btf__parse(bytes(_VMLINUX), None)
        # Before libbpf 1.0 an error was a small negative pointer.
        if not self._btf or self._btf > 2**64 - 4096:
            raise SystemRefused(f"libbpf cannot read {_VMLINUX}", "")

    def close(self) -> None:
        """Give the memory back."""
        self._lib.btf__free(ctypes.c_void_p(self._btf))
        self._btf = None

    def offset(self, name: str, *path: str) -> int | None:
        """Octets from the start of `struct name` to the field at the end of `path`.

        Fields of structures without a name count as the outer one's. None where there is none.
        """
        number = self._find(name, _STRUCT)
        if number <= 0:
            return None
        bits = 0
        for field in path:
            found = self._member(number, field)
            if found is None:
                return None
            bits, number = bits + found[0], self._plain(found[1])
        return bits // 8

    def values(self, name: str) -> dict[int, str]:
        """The values of `enum name`; empty where there is none."""
        number = self._find(name, _ENUM)
        if number <= 0:
            return {}
        at, _, count = self._type(number)
        rows = ctypes.string_at(at + _TYPE.size, count * _ENUMERATOR.size)
        return {value: self._name(text) for text, value in _ENUMERATOR.iter_unpack(rows)}

    @cached_property
    def drop_reasons(self) -> dict[int, str]:
        """{number: name without SKB_DROP_REASON_}; empty before Linux 5.17."""
        prefix = "SKB_DROP_REASON_"
        return {number: name.removeprefix(prefix)
                for number, name in self.values("skb_drop_reason").items()
                if name.startswith(prefix)}

    def arguments(self, tracepoint: str) -> int:
        """How many arguments a raw tracepoint's program is given; 0 where it is not told."""
        number = self._find(f"btf_trace_{tracepoint}", _TYPEDEF)
        if number <= 0:
            return 0
        # A name for a pointer to a function whose first parameter is the probe's own.
        _, _, target = _TYPE.unpack(ctypes.string_at(self._type(number)[0], _TYPE.size))
        at, kind, _ = self._type(target)
        if kind == _POINTER:
            _, _, target = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
        return max(0, self._type(target)[2] - 1)

    def _find(self, name: str, kind: int) -> int:
        return int(self._lib.btf__find_by_name_kind(ctypes.c_void_p(self._btf), name.encode(),
                                                    ctypes.c_uint32(kind)))

    def _type(self, number: int) -> tuple[int, int, int]:
        """(address, kind, number of members) of a type."""
        at = int(self._lib.btf__type_by_id(ctypes.c_void_p(self._btf), ctypes.c_uint32(number)))
        _, info, _ = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))
        return at, info >> 24 & 31, info & 0xFFFF

    def _plain(self, number: int) -> int:
        while number:
            at, kind, _ = self._type(number)
            if kind not in _TRANSPARENT:
                break
            number = _TYPE.unpack(ctypes.string_at(at, _TYPE.size))[2]
        return number

    def _name(self, at: int) -> str:
        text = self._lib.btf__name_by_offset(ctypes.c_void_p(self._btf), ctypes.c_uint32(at))
        return (text or b"").decode()

    def _member(self, number: int, field: str) -> tuple[int, int] | None:
        """(offset in bits, type) of a field, looked for in unnamed members too."""
        at, kind, count = self._type(number)
        if kind not in (_STRUCT, _UNION):
            return None
        rows = ctypes.string_at(at + _TYPE.size, count * _MEMBER.size)
        for text, type_number, place in _MEMBER.iter_unpack(rows):
            name = self._name(text)
            # With bit fields in the structure, the upper octet is the field's width.
            bits = place & 0xFFFFFF
            if name == field:
                return bits, type_number
            if not name and (inner := self._member(self._plain(type_number), field)):
                return bits + inner[0], inner[1]
        return None
