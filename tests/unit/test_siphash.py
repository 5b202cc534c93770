"""SipHash-1-3 against CPython's own, which hashes bytes by it, and against a plain twin."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.siphash import make_key, siphash
from tests.kernels import examples, wraps

pytestmark = wraps

M64 = (1 << 64) - 1
WORDS = st.lists(st.integers(0, M64), max_size=40)


def rotl(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & M64


def naive(key: tuple[int, int], words: list[int]) -> int:
    """The paper, section 2: initialise, compress by one round, finalise by three."""
    v = [key[0] ^ 0x736F6D6570736575, key[1] ^ 0x646F72616E646F6D,
         key[0] ^ 0x6C7967656E657261, key[1] ^ 0x7465646279746573]

    def sip_round() -> None:
        v[0] = (v[0] + v[1]) & M64
        v[1] = rotl(v[1], 13) ^ v[0]
        v[0] = rotl(v[0], 32)
        v[2] = (v[2] + v[3]) & M64
        v[3] = rotl(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & M64
        v[3] = rotl(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & M64
        v[1] = rotl(v[1], 17) ^ v[2]
        v[2] = rotl(v[2], 32)

    for word in [*words, (8 * len(words) & 0xFF) << 56]:
        v[3] ^= word
        sip_round()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        sip_round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def ours(key: tuple[int, int], words: list[int], tweak: int = 0) -> int:
    # One word more than is counted: it must not matter.
    memory = np.array([*words, 0x5555], np.uint64)
    return int(siphash(np.array(key, np.uint64), memory, len(words), tweak))


@examples(500, 100)
@given(st.tuples(st.integers(0, M64), st.integers(0, M64)), WORDS)
def test_the_twin(key: tuple[int, int], words: list[int]) -> None:
    assert ours(key, words) == naive(key, words)


@examples(200, 50)
@given(st.tuples(st.integers(0, M64), st.integers(0, M64)), WORDS, st.integers(0, 2**31))
def test_a_tweak_is_another_key(key: tuple[int, int], words: list[int], tweak: int) -> None:
    """It goes into both halves of the state that the second half of the key goes into."""
    assert ours(key, words, tweak) == naive((key[0], key[1] ^ tweak), words)


def seeded_key(seed: int) -> tuple[int, int]:
    """The key that CPython derives from PYTHONHASHSEED (Python/bootstrap_hash.c, lcg_urandom)."""
    octets, x = bytearray(), seed
    for _ in range(16 if seed else 0):
        x = (x * 214013 + 2531011) & 0xFFFFFFFF
        octets.append(x >> 16 & 0xFF)
    octets = octets or bytearray(16)
    return int.from_bytes(octets[:8], "little"), int.from_bytes(octets[8:], "little")


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13" or sys.hash_info.cutoff != 0
                    or sys.byteorder != "little",
                    reason=f"this Python hashes by {sys.hash_info.algorithm}")
@pytest.mark.parametrize("seed", [0, 1, 4711, 4294967295])
def test_vectors_of_another_implementation(seed: int) -> None:
    """CPython's C code hashes bytes by SipHash-1-3, under a key that a seed fixes."""
    texts = [bytes((7 * i + length) & 0xFF for i in range(length))
             for length in (8, 16, 24, 32, 64, 128, 256, 4096)]
    program = ("import json, sys; "
               "print([hash(bytes.fromhex(t)) for t in json.load(sys.stdin)])")
    found = subprocess.run([sys.executable, "-c", program], text=True, check=True, timeout=30,
                           input=json.dumps([text.hex() for text in texts]), capture_output=True,
                           env={**os.environ, "PYTHONHASHSEED": str(seed)})
    for text, hashed in zip(texts, json.loads(found.stdout), strict=True):
        words = np.frombuffer(text, "<u8").tolist()
        assert ours(seeded_key(seed), words) == hashed & M64


def test_keys_are_fresh_and_words_count() -> None:
    keys = [make_key() for _ in range(8)]
    assert all(key.dtype == np.uint64 and key.shape == (2,) for key in keys)
    assert len({tuple(key.tolist()) for key in keys}) == len(keys)
    hashes = {ours((1, 2), [0] * count) for count in range(32)}
    assert len(hashes) == 32


@pytest.mark.parametrize("at", range(4))
def test_every_bit_of_an_identity_matters(at: int) -> None:
    """Each bit turns about half of the bits of the hash (the paper calls it a PRF)."""
    turned = []
    for bit in range(64):
        words = [11, 12, 13, 14]
        before = ours((5, 6), words)
        words[at] ^= 1 << bit
        turned.append((before ^ ours((5, 6), words)).bit_count())
    assert min(turned) > 8
    assert 24 < sum(turned) / len(turned) < 40
