"""Where functions of the running kernel begin and end. Source: proc(5), kallsyms."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_TABLE = Path("/proc/kallsyms")


def spans(functions: Collection[str]) -> dict[str, tuple[int, int]]:
    """{name: (first address, first of what follows)}; (0, 0) where the kernel does not say."""
    found = dict.fromkeys(functions, (0, 0))
    begins: dict[str, int] = {}
    addresses: list[int] = []
    try:
        with _TABLE.open("rb") as table:
            for line in table:
                address, kind, name = line.split(None, 3)[:3]
                if kind in b"tT":
                    addresses.append(int(address, 16))
                    if (called := name.decode()) in found:
                        begins[called] = addresses[-1]
    except (OSError, ValueError):
        return found
    for called, begin in begins.items():
        # Hidden addresses are all 0.
        if begin:
            found[called] = begin, min((each for each in addresses if each > begin), default=begin)
    return found
