"""SipHash-1-3: the keyed hash behind every table that a peer can fill.

Keys are drawn at start, so nobody outside can choose inputs that meet in one bucket.
Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel

Words = npt.NDArray[np.uint64]

_V0, _V1 = np.uint64(0x736F6D6570736575), np.uint64(0x646F72616E646F6D)
_V2, _V3 = np.uint64(0x6C7967656E657261), np.uint64(0x7465646279746573)
_FF = np.uint64(0xFF)


def make_key() -> Words:
    """A fresh random key: uint64[2]."""
    return np.frombuffer(os.urandom(16), np.uint64).copy()


@kernel
def _rotate(x: int, bits: int) -> int:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel
def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1
    v2 = v2 + v3
    v1 = _rotate(v1, 13) ^ v0
    v3 = _rotate(v3, 16) ^ v2
    v0 = _rotate(v0, 32)
    v2 = v2 + v1
    v0 = v0 + v3
    v1 = _rotate(v1, 17) ^ v2
    v3 = _rotate(v3, 21) ^ v0
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


@kernel
def siphash(key: Words, words: Words, count: int, tweak: int) -> int:
    """SipHash-1-3 of the first `count` words as a uint64.

    tweak: a number mixed into the key, so that one key gives independent hashes.
    """
    v0, v1 = _V0 ^ key[0], _V1 ^ key[1] ^ np.uint64(tweak)
    v2, v3 = _V2 ^ key[0], _V3 ^ key[1] ^ np.uint64(tweak)
    for i in range(count):
        v3 ^= words[i]
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= words[i]
    # The last block carries the length in its top octet; our inputs are whole words.
    last = np.uint64(count * 8 & 0xFF) << np.uint64(56)
    v3 ^= last
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= last
    v2 ^= _FF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3
