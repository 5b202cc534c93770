"""Memory with canaries: all arrays of a program in one, none next to another.

The one thing to know: compiled code that reads outside its arrays finds canaries there, and
what it writes outside `Arena.check` finds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CANARY = 0xA5
_GAP = 256


class Arena:
    """Copies of all arrays in a tree of named tuples; arrays that share memory still do."""

    def __init__(self, tree: Any) -> None:
        roots: dict[int, npt.NDArray[Any]] = {}
        self._visit(tree, lambda array: roots.setdefault(id(_root(array)), _root(array)))
        places, end = {}, _GAP
        for number, root in roots.items():
            places[number] = end
            end += (root.nbytes + 63 & ~63) + _GAP
        self._mem = np.full(end, CANARY, np.uint8)
        used = np.zeros(end, np.bool_)
        for number, root in roots.items():
            at = places[number]
            self._mem[at:at + root.nbytes] = np.frombuffer(root.tobytes(), np.uint8)
            used[at:at + root.nbytes] = True
        self._gaps = np.flatnonzero(~used)

        def moved(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            root = _root(array)
            at = places[id(root)] + array.ctypes.data - root.ctypes.data
            whole = self._mem[at:at + array.nbytes].view(array.dtype)
            return whole.reshape(array.shape)

        self.tree = self._visit(tree, moved)

    def _visit(self, tree: Any, do: Any) -> Any:
        if isinstance(tree, np.ndarray):
            return do(tree) if tree.size else tree
        found = [self._visit(each, do) for each in tree]
        return tree._make(found) if hasattr(tree, "_make") else tuple(found)

    def check(self) -> None:
        assert (self._mem[self._gaps] == CANARY).all(), "written outside an array"


def _root(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
