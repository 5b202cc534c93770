"""Frames by the hundred thousand through the compiled decoder and its readable twin."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory, Options, make_options
from fastpath.jit import kernel
from fastpath.wire import REASON_NAMES
from tests.frames import examine, framed, opt, raw, repaired, twin
from tests.kernels import COMPILED, several

Numbers = npt.NDArray[np.int64]

ROUNDS, ROUND = several(20, 1), several(10_000, 2000)


@kernel
def examine_all(mem: Memory, bounds: Numbers, options: Options, out: Memory,
                found: Numbers) -> None:
    """`examine` for each frame: bounds[i] is start, end, tags and whether the sum is ready.

    found[i] gets the four numbers of `examine`, and out[i] what it wrote.
    """
    for i in range(len(bounds)):
        found[i, 0], found[i, 1], found[i, 2], found[i, 3] = examine(
            mem, bounds[i, 0], bounds[i, 1], bounds[i, 2], bounds[i, 3] != 0, options, out[i])


def seeds() -> list[bytes]:
    """Frames of every shape, to be damaged."""
    prl = opt(55, bytes([1, 3, 6, 28]))
    made = [raw(opt(53, b"\1") + prl + opt(61, b"\1\2abcde") + b"\xff"),
            raw(opt(53, b"\3") + opt(54, b"\xc0\0\2\1") + opt(50, b"\xc0\0\2\7") + b"\xff", op=2),
            raw(opt(52, b"\3") + opt(12, b"a") + b"\xff", sname=opt(12, b"c") + opt(57, b"\5\0"),
                file=opt(12, b"b") + opt(82, b"\1\4eth0") + b"\xff"),
            raw(opt(12, b"ab", b"cd") + b"\0\0" + opt(60, b"vendor", b"class") + b"\xff")]
    tags: list[tuple[int, ...]] = [(), (), (7,), (7, 8)]
    frames = [framed(payload, vlans) for payload in made for vlans in tags]
    frames += [repaired(data, udp=True) for data in frames]
    # What damage seldom makes, because a checksum stands before it.
    frames += [framed(payload) for payload in (b"short", raw()[:239], raw(cookie=bytes(4)),
                                               raw(op=3), raw(hlen=17))]
    frames += [repaired(frames[0][:at] + octets + frames[0][at + len(octets):], udp=False)
               for at, octets in ((20, b"\x20"), (23, b"\6"), (36, b"\0\x35"), (14, b"\x44"),
                                  (38, b"\0\7"), (16, b"\0\x1b"))]
    return frames


def storm(rng: np.random.Generator, frames: list[bytes], width: int) -> tuple[Memory, Numbers]:
    """ROUND damaged frames in rows of `width` random octets; and their bounds."""
    which = rng.integers(len(frames), size=ROUND)
    memory = rng.integers(256, size=(ROUND, width), dtype=np.uint8)
    bounds = np.zeros((ROUND, 4), np.int64)
    for i, index in enumerate(which):
        data = frames[index]
        memory[i, 32:32 + len(data)] = np.frombuffer(data, np.uint8)
        bounds[i, 1] = len(data)
    every = np.arange(ROUND)
    for low, share in ((12, 0.2), (28, 0.2), (270, 0.7), (270, 0.5), (310, 0.4)):
        hit = rng.random(ROUND) < share
        high = np.where(low < 100, low + 40, bounds[:, 1])
        at = 32 + low + (rng.random(ROUND) * np.maximum(1, high - low)).astype(np.int64)
        memory[every[hit], at[hit]] = rng.choice([0, 1, 2, 4, 12, 52, 53, 61, 255], ROUND)[hit]
    cut = rng.random(ROUND) < 0.15
    bounds[cut, 1] = (rng.random(ROUND) * bounds[:, 1]).astype(np.int64)[cut]
    bounds[:, 0] = every * width + 32
    bounds[:, 1] += bounds[:, 0]
    bounds[:, 2] = rng.random(ROUND) < 0.1
    bounds[:, 3] = rng.random(ROUND) < 0.8
    return memory, bounds


def test_a_storm_of_damaged_frames() -> None:
    """Two hundred thousand of them, or two thousand where kernels are not compiled."""
    rng = np.random.default_rng(20260131)
    options = make_options()
    frames = seeds()
    width = 32 + max(map(len, frames)) + 32
    found, again = (np.zeros((ROUND, 4), np.int64) for _ in range(2))
    out, out_again = (np.zeros((ROUND, 1024), np.uint8) for _ in range(2))
    reasons: Counter[str] = Counter()
    for _ in range(ROUNDS):
        memory, bounds = storm(rng, frames, width)
        examine_all(memory.reshape(-1), bounds, options, out, found)
        flat = memory.tobytes()
        for (start, end, tags, ready), (reason, bootp, bootp_end, size), octets in zip(
                bounds.tolist(), found.tolist(), out, strict=True):
            expected = twin(flat[start:end], tags, ready != 0)
            payload = (bootp - start, bootp_end - bootp) if bootp >= 0 else None
            assert (REASON_NAMES[reason], payload) == expected[:2]
            assert octets[:size].tobytes() == expected.options
            reasons[expected.reason] += 1
        inside = np.zeros(memory.size, bool)
        for start, end in bounds[:, :2].tolist():
            inside[start:end] = True
        other = np.where(inside, memory.reshape(-1), ~memory.reshape(-1))
        examine_all(other, bounds, options, out_again, again)
        assert (found == again).all() and (out == out_again).all()
    assert reasons["ok"] > ROUNDS * ROUND // 10
    # These two are not for the decoder to say.
    missing = {name for name in REASON_NAMES if not reasons[name]}
    assert missing <= {"no_message_type", "incomplete"} or not COMPILED
