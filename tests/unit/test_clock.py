"""The clock against a machine whose clocks we set, and against the real kernel's stamps."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.clock import GOOD_BRACKET_NS, NS_PER_S, STALE_NS, STEP_NS, TRIES, Clock

MS = 1_000_000
SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not name it


class Machine:
    """Two clocks; every reading takes the next of `delays` nanoseconds, over and over."""

    def __init__(self, offset_ns: int = 10**18, delays: tuple[int, ...] = (40,)) -> None:
        self.at_ns = 5 * NS_PER_S
        self.offset_ns = offset_ns
        self.delays = delays
        self.readings = 0

    def _read(self) -> int:
        delay = self.delays[self.readings % len(self.delays)]
        self.readings += 1
        # The value is that of the middle: half of the delay is before it, half after.
        self.at_ns += delay // 2
        value = self.at_ns
        self.at_ns += delay - delay // 2
        return value

    def monotonic_ns(self) -> int:
        return self._read()

    def realtime_ns(self) -> int:
        return self._read() + self.offset_ns

    def clock(self) -> Clock:
        return Clock(self.monotonic_ns, self.realtime_ns)

    def stamp(self, age_ns: int = 0) -> tuple[int, int]:
        """What the kernel writes on a packet that came `age_ns` ago, by today's wall clock."""
        return divmod(self.at_ns - age_ns + self.offset_ns, NS_PER_S)


@settings(deadline=None, max_examples=100)
@given(st.integers(-(10**18), 2 * 10**18),
       st.lists(st.integers(0, 5_000_000), min_size=1, max_size=30).map(tuple))
def test_error_is_below_the_bracket(offset_ns: int, delays: tuple[int, ...]) -> None:
    machine = Machine(offset_ns, delays)
    clock = machine.clock()
    for _ in range(4):
        assert abs(clock.offset_ns() - offset_ns) < clock.bracket_ns
    assert clock.steps == 0


def test_even_readings_leave_no_error() -> None:
    machine = Machine()
    assert machine.clock().offset_ns() == machine.offset_ns


def test_an_interrupted_reading_is_tried_again() -> None:
    machine = Machine(delays=(40, 3 * MS, 40, 40, 40, 40))
    clock = machine.clock()
    assert clock.bracket_ns <= 81
    assert machine.readings == 6


def test_tries_are_bounded() -> None:
    machine = Machine(delays=(2 * GOOD_BRACKET_NS,))
    assert machine.clock().bracket_ns > GOOD_BRACKET_NS
    assert machine.readings == 3 * TRIES


@pytest.mark.parametrize(("moved_ns", "steps"), [
    (0, 0), (STEP_NS - 1000, 0), (-STEP_NS + 1000, 0), (STEP_NS + 1000, 1), (-STEP_NS - 1000, 1),
    (3600 * NS_PER_S, 1), (-3600 * NS_PER_S, 1)])
def test_a_step_is_a_move_of_more_than_a_millisecond(moved_ns: int, steps: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.offset_ns += moved_ns
    assert abs(clock.offset_ns() - machine.offset_ns) < clock.bracket_ns
    assert clock.steps == steps
    assert clock.offset_ns() and clock.steps == steps
    assert (clock.trusted_from_ns > 0) == bool(steps)


def test_drift_is_no_step() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.offset_ns += STEP_NS // 2
        clock.offset_ns()
    assert clock.steps == 0


@pytest.mark.parametrize("age_ns", [0, 1000, MS, 4 * NS_PER_S])
def test_stamps_convert(age_ns: int) -> None:
    machine = Machine()
    clock = machine.clock()
    arrived_ns = machine.at_ns - age_ns
    got = clock.stamp_ns(*machine.stamp(age_ns))
    assert got is not None
    assert abs(got - arrived_ns) < clock.bracket_ns


def test_a_stamp_from_the_future_is_not_trusted() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.stamp_ns(*machine.stamp(-MS)) is None


@pytest.mark.parametrize("queued_ns", [0, 10_000, 3 * MS, 400 * MS, STALE_NS - MS])
@pytest.mark.parametrize("moved_ns", [2 * MS, -2 * MS, 500 * MS, -500 * MS, 3600 * NS_PER_S,
                                      -3600 * NS_PER_S])
def test_stamps_from_before_a_step_are_not_trusted(moved_ns: int, queued_ns: int) -> None:
    machine = Machine()
    clock = machine.clock()
    old = machine.stamp()
    machine.at_ns += 1000
    machine.offset_ns += moved_ns
    clock.offset_ns()
    assert clock.steps == 1
    machine.at_ns += queued_ns
    clock.offset_ns()
    assert clock.stamp_ns(*old) is None


@pytest.mark.parametrize("moved_ns", [2 * MS, -2 * MS, 3600 * NS_PER_S, -3600 * NS_PER_S])
def test_trust_comes_back_after_a_step(moved_ns: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.offset_ns += moved_ns
    clock.offset_ns()
    machine.at_ns += STALE_NS + MS
    got = clock.stamp_ns(*machine.stamp())
    assert got is not None
    assert abs(got - machine.at_ns) < 1000
    assert clock.steps == 1


def test_the_real_offset() -> None:
    clock = Clock()
    for _ in range(50):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        offset_ns = clock.offset_ns()
        assert wall_ns - after_ns - clock.bracket_ns <= offset_ns
        assert offset_ns <= wall_ns - before_ns + clock.bracket_ns
    assert clock.steps == 0
    assert after_ns <= clock.now_ns()


def test_the_kernels_own_receive_stamp() -> None:
    clock = Clock()
    with (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
          socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender):
        receiver.settimeout(5)
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for _ in range(20):
            clock.offset_ns()
            before_ns = clock.now_ns()
            sender.sendto(b"x", receiver.getsockname())
            _, ancillary, _, _ = receiver.recvmsg(64, 64)
            after_ns = clock.now_ns()
            seconds, nanoseconds = struct.unpack("ll", ancillary[0][2][:16])
            got = clock.stamp_ns(seconds, nanoseconds)
            assert got is not None
            assert before_ns - clock.bracket_ns <= got <= after_ns + clock.bracket_ns
