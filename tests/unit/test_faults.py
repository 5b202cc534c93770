"""Misbehaviour: exactly as told, as often as told, counted, and the same under the same seed.

The one thing to know: `Sequence` and `due` are the slow twins of `faults.draw` and
`faults.strikes`; `spoilt` is that of `faults.spoil`, on decoded messages.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.delay import waiting
from fastpath.errors import Malformed
from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS, Fault
from fastpath.faultrules import fault_rows
from fastpath.faults import (
    CORRUPT,
    MISSING,
    WRONG_SERVER,
    WRONG_XID,
    delay_us,
    draw,
    make_faults,
    spoil,
    strikes,
)
from fastpath.message import Message
from fastpath.packet import Frame, checksum
from fastpath.wire import MessageType
from server.arrays import SENT
from server.stats import snapshot
from tests.kernels import examples, several, wraps, writable
from tests.serving import OURS, SERVER, Served, bind, request, understood, wants

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
FIRST = IP("192.0.2.10")


def faulty(*faults: Fault, **fields: Any) -> Served:
    return Served({"faults": faults, **fields})


def fault(kind: str, *messages: str, **fields: Any) -> Fault:
    return Fault(kind, frozenset(messages), **fields)


def client(i: int) -> bytes:
    return bytes([2, 0, 0, 0, i >> 8, i & 255])


def hits(server: Served) -> int:
    return sum(server.tables.faults.hits.tolist())


# --- the twins -----------------------------------------------------------------------------------


class Sequence:
    """xorshift64 (Marsaglia 2003, page 4: 13, 7, 17), the upper half of each number."""

    def __init__(self, state: int) -> None:
        self.state = state

    def draw(self) -> int:
        x = self.state
        x ^= x << 13 & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 7
        x ^= x << 17 & 0xFFFFFFFFFFFFFFFF
        self.state = x
        return x >> 32


@given(seed=st.integers(-(1 << 63), 1 << 64), rules=st.integers(1, 5))
@examples(200, 60)
def test_draw(seed: int, rules: int) -> None:
    made = make_faults(fault_rows((fault("drop"),) * rules), seed)
    again = make_faults(fault_rows((fault("drop"),) * rules), seed)
    twins = [Sequence(int(state)) for state in made.random]
    assert len({twin.state for twin in twins}) == rules and all(twin.state for twin in twins)
    for rule in [*range(rules)] * 5:
        number = draw(made, rule)
        assert number == twins[rule].draw() == draw(again, rule)
        assert 0 <= number < 1 << 32


def test_draws_are_spread_evenly() -> None:
    made = make_faults(fault_rows((fault("drop"),)), 7)
    numbers = [int(draw(made, 0)) for _ in range(4000)]
    assert abs(statistics.mean(numbers) / 2**32 - 0.5) < 0.02
    assert all(abs(count / 4000 - 1 / 8) < 0.025
               for count in Counter(number >> 29 for number in numbers).values())


def due(told: Fault, asked: int, answer: int, now_us: int) -> bool:
    """Whether a fault is about this message at this time, as its documentation says."""
    names = {int(kind): kind.name.lower() for kind in MessageType}
    requests = {"discover", "request", "decline", "release", "inform"}
    named = {names.get(asked), names.get(answer)} & told.messages
    about = (asked == 0 or names.get(asked) in requests) if not told.messages else bool(named)
    now = now_us / 1e6
    if told.every_s and told.from_s <= now:
        within = (now_us - round(told.from_s * 1e6)) % round(told.every_s * 1e6)
        if within >= round(told.for_s * 1e6):
            return False
    return about and told.from_s <= now < told.until_s


TENTHS = st.integers(0, 50).map(lambda n: n / 10)


@given(messages=st.sets(st.sampled_from(["discover", "request", "inform", "release", "offer", "ack",
                                         "nak"])),
       asked=st.sampled_from([0, 1, 3, 4, 7, 8, 13]), answer=st.sampled_from([2, 5, 6]),
       rate=st.sampled_from([0.0, 0.5, 1.0]), start=TENTHS,
       until=TENTHS | st.just(math.inf), every=TENTHS, lasts=TENTHS,
       times=st.lists(st.integers(0, 6_000_000), max_size=8))
@examples(500, 150)
def test_strikes(messages: set[str], asked: int, answer: int, rate: float, start: float,
                 until: float, every: float, lasts: float, times: list[int]) -> None:
    told = fault("delay", *messages, rate=rate, from_s=start, until_s=until, every_s=every,
                 for_s=lasts)
    made = make_faults(fault_rows((told,)), 3)
    twin = Sequence(int(made.random[0]))
    count = 0
    for now_us in times:
        # A number is drawn for each message that the rule is about, and for no other.
        expected = due(told, asked, answer, now_us) and twin.draw() < rate * 2**32
        assert strikes(made, 0, asked, answer, now_us) == expected
        count += expected
    assert made.hits.tolist() == [count]


# --- distributions of delay (means and spreads from theory) --------------------------------------

DRAWS = several(40_000, 4000)
# name, delay, jitter, expected mean, standard deviation, least (all us)
THEORY = [
    ("uniform", 1000, 300, 1000, 300 / math.sqrt(3), 700),
    ("normal", 1000, 100, 1000, 100, 0),
    ("exponential", 1000, 300, 1300, 300, 1000),
    # Pareto with shape 3, moved to begin at 0: mean 1/2, variance 3/4.
    ("pareto", 1000, 300, 1150, 300 * math.sqrt(0.75), 1000),
]


@pytest.mark.parametrize(("name", "delay", "jitter", "mean", "deviation", "least"), THEORY)
def test_distributions(name: str, delay: int, jitter: int, mean: float, deviation: float,
                       least: int) -> None:
    told = fault("delay", delay_s=delay / 1e6, jitter_s=jitter / 1e6, distribution=name)
    made = make_faults(fault_rows((told,)), 11)
    drawn = [int(delay_us(made, 0)) for _ in range(DRAWS)]
    assert abs(statistics.mean(drawn) - mean) < 6 * deviation / math.sqrt(DRAWS)
    # The spread of a heavy tail itself spreads.
    assert abs(statistics.stdev(drawn) / deviation - 1) < (0.3 if name == "pareto" else 0.06)
    assert min(drawn) >= least
    ordered = sorted(drawn)
    median = {"uniform": 1000.0, "normal": 1000.0, "exponential": 1000 + 300 * math.log(2),
              "pareto": 1000 + 300 * (2 ** (1 / 3) - 1)}[name]
    assert abs(ordered[DRAWS // 2] - median) < deviation / 8


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_delay_is_never_negative_and_never_endless(name: str) -> None:
    wild = fault("delay", delay_s=0.0, jitter_s=3600.0, distribution=name)
    plain = fault("delay", delay_s=0.25, distribution=name)
    made = make_faults(fault_rows((wild, plain)), 5)
    drawn = [int(delay_us(made, 0)) for _ in range(2000)]
    assert min(drawn) >= 0 and 0 < max(drawn) <= 3_600_000_000
    assert {delay_us(made, 1) for _ in range(10)} == {250_000}


# --- each kind, each message, each rate ----------------------------------------------------------


def conversation(server: Served, i: int) -> list[tuple[str, list[bytes]]]:
    """What one client gets who says everything there is to say."""
    mac = client(i)
    address = IP(int(FIRST) + i)
    told = {**wants(address), **OURS}
    said = [("discover", request(DISCOVER, mac, options=wants(address))),
            ("request", request(REQUEST, mac, options=told)),
            ("inform", request(INFORM, mac, ciaddr=address)),
            ("release", request(RELEASE, mac, ciaddr=address, options=OURS)),
            ("decline", request(DECLINE, mac, options=told))]
    heard = []
    for name, message in said:
        heard.append((name, server.batch(message)))
        server.now_us += 1000
    return heard


ALL = ("discover", "request", "inform", "release", "decline")
ANSWERED = {"discover": OFFER, "request": ACK, "inform": ACK}
EXACT = {"delay_s": 0.0001, "option": 54}


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("at", ["", *ALL, "offer", "ack"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_each_kind_at_each_message(kind: str, at: str, rate: float) -> None:
    server = faulty(fault(kind, *([at] if at else []), rate=rate, **EXACT))
    struck = 0
    for name, frames in conversation(server, 0):
        answer = ANSWERED.get(name)
        about = at in ("", name) or (answer is not None and at == answer.name.lower())
        if kind == "nak":
            about = at == name or (at in ("", "offer", "ack") and name == "request")
        # What has no answer cannot be answered wrongly; it can be lost, or refused.
        hit = about and rate == 1.0 and (answer is not None or kind in ("drop", "nak"))
        struck += hit
        if hit and struck > 1 and kind in ("delay", "reorder"):
            # Those of the message before come out here.
            continue
        if hit:
            assert len(frames) == {"drop": 0, "delay": 0, "reorder": 0, "duplicate": 2}.get(kind, 1)
        elif struck == 0:
            assert len(frames) == (answer is not None)
    assert hits(server) == struck


def test_half_is_half_and_hits_are_counted_exactly() -> None:
    count = several(2000, 300)
    server = faulty(fault("drop", "discover", rate=0.5), offer_hold_s=0)
    lost = sum(server.ask(request(DISCOVER, client(i % 50))) is None for i in range(count))
    assert lost == hits(server) == server.causes()["fault"]
    assert abs(lost / count - 0.5) < 3.5 / math.sqrt(4 * count)
    assert snapshot(server.tables, server.resolved)["faults"] == {"drop:discover": lost}


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_the_seed_decides(kind: str) -> None:
    def run(seed: int) -> tuple[list[list[bytes]], list[int]]:
        server = faulty(fault(kind, rate=0.5, delay_s=0.001, jitter_s=0.001, option=54), seed=seed)
        server.tables.world.leases.key[:] = 5
        found = []
        for i in range(12):
            found += [frames for _, frames in conversation(server, i)]
        return found, server.tables.faults.hits.tolist()

    assert run(1) == run(1)
    assert any(run(1) != run(seed) for seed in (2, 3))


def test_rules_do_not_disturb_one_another() -> None:
    """Another fault in the list changes nothing about when the first one strikes."""
    def lost(*faults: Fault) -> list[bool]:
        server = faulty(*faults, offer_hold_s=0)
        return [not server.batch(request(DISCOVER, client(i))) for i in range(40)]

    alone = fault("drop", "discover", rate=0.4)
    assert lost(alone) == lost(alone, fault("wrong-xid", rate=0.5))


# --- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "struck"), [
    ({}, [0, 1, 5, 9, 10, 11, 14, 15, 20, 100]),
    ({"from_s": 10}, [10, 11, 14, 15, 20, 100]),
    ({"until_s": 10}, [0, 1, 5, 9]),
    ({"from_s": 5, "until_s": 11}, [5, 9, 10]),
    ({"every_s": 10, "for_s": 2}, [0, 1, 10, 11, 20, 100]),
    ({"from_s": 1, "every_s": 9, "for_s": 1}, [1, 10, 100]),
    ({"from_s": 1, "until_s": 100, "every_s": 9, "for_s": 1}, [1, 10]),
    ({"every_s": 10, "for_s": 0}, []),
    ({"until_s": 0}, []),
])
def test_schedule(times: dict[str, float], struck: list[int]) -> None:
    server = faulty(fault("drop", "discover", **times))
    found = []
    for second in (0, 1, 5, 9, 10, 11, 14, 15, 20, 100):
        server.now_us = second * 1_000_000
        if not server.batch(request(DISCOVER)):
            found.append(second)
    assert found == struck and hits(server) == len(struck)


def test_schedule_to_the_microsecond() -> None:
    server = faulty(fault("drop", "discover", from_s=1.5, until_s=1.500001))
    for now_us, lost in ((1_499_999, False), (1_500_000, True), (1_500_001, False)):
        server.now_us = now_us
        assert (not server.batch(request(DISCOVER))) == lost


# --- drop ----------------------------------------------------------------------------------------


def test_lost_on_its_way_here_leaves_no_trace_and_a_lost_reply_does() -> None:
    here, back = faulty(fault("drop", "discover")), faulty(fault("drop", "offer"))
    for server, traces in ((here, 0), (back, 1)):
        assert server.ask(request(DISCOVER)) is None
        assert int(server.leases.identity.any(axis=1).sum()) == traces
        assert (server.received(), server.sent()) == ({"1": 1}, {})
        assert hits(server) == 1 and server.causes()["fault"] == 1


def test_a_lost_ack_is_a_lease_all_the_same() -> None:
    server = faulty(fault("drop", "ack", until_s=1))
    server.must(request(DISCOVER))
    assert server.ask(request(REQUEST, options={**wants(FIRST), **OURS})) is None
    server.now_us = 2_000_000
    assert server.must(request(REQUEST, ciaddr=FIRST)).message.type == ACK


def test_both_named_both_are_lost() -> None:
    """`drop:discover+offer` loses one on its way here or the other on its way back."""
    server = faulty(fault("drop", "discover", "ack", rate=1.0))
    assert server.ask(request(DISCOVER)) is None
    assert server.ask(request(INFORM, ciaddr=FIRST)) is None
    assert hits(server) == 2
    assert snapshot(server.tables, server.resolved)["faults"] == {"drop:ack+discover": 2}


# --- nak -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [(), ("request",)])
def test_nak_refuses_requests(named: tuple[str, ...]) -> None:
    server = faulty(fault("nak", *named))
    offer = server.must(request(DISCOVER))
    asked = request(REQUEST, options={**wants(offer.message.yiaddr), **OURS})
    nak = server.must(asked)
    assert (nak.message.type, nak.message.yiaddr, nak.codes) == (NAK, IP(0), [53, 54])
    assert nak.frame.dst_ip == IP("255.255.255.255")
    assert server.causes() == {"ok": 1, "fault": 1} and hits(server) == 1


def test_nak_of_a_renewal_leaves_the_lease() -> None:
    server = faulty(fault("nak", "request", from_s=1))
    address = bind(server)
    server.now_us = 1_000_000
    assert server.must(request(REQUEST, ciaddr=address)).message.type == NAK
    assert server.ask(request(DISCOVER, b"\2other", options=wants(address))) is not None
    assert server.leases.state[0] == 2


# --- what is spoilt ------------------------------------------------------------------------------


def test_wrong_xid_and_nothing_else() -> None:
    good = Served().must(request(DISCOVER)).message
    bad = faulty(fault("wrong-xid")).must(request(DISCOVER)).message
    assert bad.xid != good.xid
    bad.xid = good.xid
    assert bad == good


def test_wrong_server_id_and_nothing_else() -> None:
    good = Served().must(request(DISCOVER)).message
    bad = faulty(fault("wrong-server-id")).must(request(DISCOVER)).message
    assert bad.options[54] != good.options[54] and len(bad.options[54]) == 4
    bad.options[54] = good.options[54]
    assert bad == good


@pytest.mark.parametrize("code", [53, 54, 51, 58, 1, 3, 28, 61, 82])
def test_missing_and_nothing_else(code: int) -> None:
    asked = request(DISCOVER, giaddr=IP("192.0.2.200"), options={61: b"\0me", 82: b"\1\1x"})
    good = Served().must(asked)
    server = faulty(fault("missing-option", option=code))
    bad = understood(server.batch(asked)[0], typed=False)
    assert bad.codes == [c for c in good.codes if c != code]
    good.message.options.pop(code)
    assert bad.message == good.message


@pytest.mark.parametrize("code", [61, 82, 43])
def test_missing_takes_all_pieces_of_a_long_option(code: int) -> None:
    """RFC 3396: what is left of it would be another value, not none."""
    server = faulty(fault("missing-option", option=code), options={43: bytes(300)})
    asked = request(DISCOVER, options={61: bytes(range(200)) * 2, 82: b"\1\xc8" + bytes(300),
                                       57: b"\5\xdc"}, giaddr=IP("192.0.2.200"))
    assert code in Served({"options": {43: bytes(300)}}).must(asked).codes
    bad = server.must(asked)
    assert code not in bad.codes and hits(server) == 1


def test_an_option_that_is_not_there_cannot_be_missing() -> None:
    for kind in ("missing-option", "corrupt-option"):
        good = Served().must(request(DISCOVER)).message
        assert faulty(fault(kind, option=99)).must(request(DISCOVER)).message == good


@pytest.mark.parametrize("code", [53, 54, 51, 3, 28, 61, 82])
@pytest.mark.parametrize("large", [False, True])
def test_a_corrupted_option_is_malformed(code: int, large: bool) -> None:
    extra = {57: b"\5\xdc"} if large else {}
    config = {"options": {43: bytes(700)}} if large else {}
    server = Served({**config, "faults": (fault("corrupt-option", option=code),)})
    asked = request(DISCOVER, giaddr=IP("192.0.2.200"),
                    options={61: b"\0me", 82: b"\1\1x", **extra})
    frame = Frame.decode(server.batch(asked)[0], ports=range(1 << 16))
    with pytest.raises(Malformed, match="past its field"):
        Message.decode(frame.payload)
    assert hits(server) == 1


SPOILERS = ("wrong-xid", "wrong-server-id", "missing-option", "corrupt-option")


@pytest.mark.parametrize("kinds", [*itertools.product(SPOILERS, repeat=2),
                                   ("corrupt-option",) * 3])
@pytest.mark.parametrize("codes", [(54, 54, 54), (51, 54, 53), (82, 53, 61), (61, 82, 54)])
@pytest.mark.parametrize("fill", [0, 100])
def test_several_at_once(kinds: tuple[str, ...], codes: tuple[int, ...], fill: int) -> None:
    """The frame stays sound, gets no longer, and holds nothing that was in its slot before."""
    info = b"\1" + bytes([fill]) + bytes(fill)
    asked = request(DISCOVER, giaddr=IP("192.0.2.200"), options={61: b"\0me", 82: info})
    faults = tuple(fault(kind, option=code) for kind, code in zip(kinds, codes, strict=False))
    server = faulty(*faults)
    plain = Served().must(asked)
    octets, = server.batch(asked)
    frame = Frame.decode(octets, ports=range(1 << 16))
    assert len(octets) <= len(plain.octets) and len(frame.payload) >= 300
    assert b"\xa5" not in frame.payload
    if "wrong-xid" in kinds:
        assert frame.payload[4:8] != plain.payload[4:8] or kinds == ("wrong-xid", "wrong-xid")
    if kinds == ("wrong-xid", "corrupt-option") or kinds == ("corrupt-option", "wrong-xid"):
        with pytest.raises(Malformed):
            Message.decode(frame.payload)


def test_checksums_are_right_and_present() -> None:
    for kind in SPOILERS:
        octets, = faulty(fault(kind, option=51)).batch(request(DISCOVER))
        assert checksum(octets[14:34]) == 0
        assert octets[40:42] != b"\0\0"
        pseudo = octets[26:34] + b"\0\x11" + octets[38:40]
        assert checksum(pseudo + octets[34:]) == 0


OPTION = st.tuples(st.integers(1, 254), st.binary(max_size=40))


def walk(field: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while field[at] != 255:
        if field[at]:
            found.append((field[at], field[at + 2:at + 2 + field[at + 1]]))
            at += field[at + 1] + 1
        at += 1
    return found


@given(options=st.lists(OPTION, max_size=12), code=st.integers(0, 255), where=st.integers(0, 12),
       random=st.integers(0, (1 << 32) - 1), pads=st.integers(0, 3), data=st.data())
@examples(300, 120)
def test_spoil_against_its_twin(options: list[tuple[int, bytes]], code: int, where: int,
                                random: int, pads: int, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([WRONG_XID, WRONG_SERVER, MISSING, CORRUPT]))
    if where < len(options):
        code = options[where][0]
    options = [(c, v) for c, v in options if c != 54]
    options.insert(min(where, len(options)), (54, b"abcd"))
    field = b"".join(bytes([c, len(v)]) + v + bytes(pads) for c, v in options) + b"\xff"
    payload = (bytes(4) + b"\1\2\3\4" + bytes(228) + b"\x63\x82\x53\x63" + field).ljust(300, b"\0")
    octets = Frame(payload=payload, src_ip=SERVER).encode()
    mem = np.full(2048, 0xA5, np.uint8)
    mem[:len(octets)] = np.frombuffer(octets, np.uint8)
    end = spoil(writable(mem, 14, len(octets)), 14, len(octets), kind, code, random)
    made = Frame.decode(mem[:end].tobytes())
    assert (mem[len(octets):] == 0xA5).all() and end <= len(octets)
    got = made.payload
    assert (got[4:8] != payload[4:8]) == (kind == WRONG_XID)
    assert got[8:240] == payload[8:240]
    if kind == MISSING:
        assert walk(got[240:]) == [(c, v) for c, v in options if c != code]
    elif kind == WRONG_SERVER:
        changed = walk(got[240:])
        assert [c for c, _ in changed] == [c for c, _ in options]
        assert [v for c, v in changed if c != 54] == [v for c, v in options if c != 54]
        assert next(v for c, v in changed if c == 54) != b"abcd"
    elif kind == CORRUPT and code in dict(options):
        with pytest.raises(Malformed, match="past its field"):
            Message.decode(b"\2\1\6" + got[3:])
    else:
        assert got[240:] == payload[240:]


def test_an_overloaded_reply_is_spoilt_in_its_options_field() -> None:
    options = {code: bytes([code]) * 24 for code in range(128, 146)}
    asked = request(DISCOVER)
    good = Served({"options": options}).must(asked)
    bad = faulty(fault("missing-option", option=130), options=options).must(asked)
    assert 52 in good.codes
    assert [c for c in good.codes if c != 130] == bad.codes


# --- duplicate -----------------------------------------------------------------------------------


def test_duplicates_are_equal_and_counted_as_sent() -> None:
    server = faulty(fault("duplicate"))
    first, second = server.batch(request(DISCOVER))
    assert first == second
    assert server.sent() == {"2": 2} and server.causes() == {"ok": 1} and hits(server) == 1


def test_duplicates_of_two_rules_add_up_and_of_spoilt_ones_are_spoilt() -> None:
    server = faulty(fault("duplicate"), fault("wrong-xid"), fault("duplicate", "offer"))
    frames = server.batch(request(DISCOVER))
    assert len(frames) == 3 and len(set(frames)) == 1
    assert understood(frames[0]).message.xid != 0x11223344


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_room_for_a_duplicate(slots: int) -> None:
    server = faulty(fault("duplicate"))
    frames = server.batch(request(DISCOVER), request(DISCOVER, b"\2other"), slots=slots)
    assert len(frames) == slots
    assert server.read == (1 if slots < 3 else 2)
    assert sum(server.sent().values()) == slots


# --- delay ---------------------------------------------------------------------------------------


def test_late_by_what_is_told_never_early() -> None:
    server = faulty(fault("delay", "offer", delay_s=0.5))
    server.now_us = 123_456
    assert server.batch(request(DISCOVER)) == []
    assert server.sent() == {} and waiting(server.tables.delay) == 1
    for now_us, count in ((123_457, 0), (623_455, 0), (623_499, 0), (623_556, 1), (9_000_000, 0)):
        server.now_us = now_us
        frames = server.batch()
        assert len(frames) == count, now_us
        if frames:
            assert understood(frames[0]).message.yiaddr == FIRST
    assert server.sent() == {"2": 1} and waiting(server.tables.delay) == 0


def test_delays_of_two_rules_add_up() -> None:
    server = faulty(fault("delay", delay_s=0.1), fault("delay", "offer", delay_s=0.2))
    server.batch(request(DISCOVER))
    server.now_us = 299_900
    assert server.batch() == []
    server.now_us = 300_100
    assert len(server.batch()) == 1


def test_a_spoilt_duplicate_that_is_late() -> None:
    server = faulty(fault("duplicate"), fault("delay", delay_s=0.1), fault("missing-option",
                                                                           option=51))
    assert server.batch(request(DISCOVER)) == []
    server.now_us = 100_100
    frames = server.batch()
    assert len(frames) == 2 and frames[0] == frames[1]
    assert 51 not in understood(frames[0]).codes


def test_a_late_answer_to_who_has_gone_on() -> None:
    """The OFFER arrives when its client has long been given up by the table."""
    server = faulty(fault("delay", "offer", delay_s=20), offer_hold_s=5, end=FIRST)
    server.batch(request(DISCOVER))
    server.now_s, server.now_us = 10, 10_000_000
    assert server.batch(request(DISCOVER, b"\2other")) == []
    server.now_us = 20_000_100
    late = [frame for _ in range(40) for frame in server.batch()]
    assert [understood(frame).message.chaddr for frame in late] == [b"\2clien"]


def test_drop_after_a_delay_drops() -> None:
    server = faulty(fault("delay", delay_s=0.1), fault("drop", "offer"))
    assert server.batch(request(DISCOVER)) == []
    server.now_us = 10_000_000
    assert server.batch() == [] and waiting(server.tables.delay) == 0


# --- reorder -------------------------------------------------------------------------------------


def macs(frames: list[bytes]) -> list[int]:
    return [understood(frame).message.chaddr[-1] for frame in frames]


def test_reorder_swaps_with_the_next() -> None:
    server = faulty(fault("reorder"))
    frames = server.batch(*(request(DISCOVER, client(i)) for i in range(6)))
    assert macs(frames) == [1, 0, 3, 2, 5, 4]
    assert hits(server) == 6 and server.sent() == {"2": 6}


def test_reorder_across_batches() -> None:
    server = faulty(fault("reorder", "offer"))
    assert server.batch(request(DISCOVER, client(0))) == []
    inform = request(INFORM, client(9), ciaddr=IP("192.0.2.200"))
    assert macs(server.batch(inform)) == [9, 0]


def test_nobody_to_be_overtaken_by() -> None:
    server = faulty(fault("reorder"))
    assert server.batch(request(DISCOVER, client(0))) == []
    server.now_us = 99_900
    assert server.batch() == []
    server.now_us = 100_000
    assert macs(server.batch()) == [0]
    assert macs(server.batch(request(DISCOVER, client(1)))) == []
    server.now_us = 150_000
    assert macs(server.batch(request(DISCOVER, client(2)))) == [2, 1]


def test_reorder_and_duplicate_lose_none() -> None:
    server = faulty(fault("duplicate"), fault("reorder"))
    frames = server.batch(request(DISCOVER, client(0)), request(DISCOVER, client(1)))
    server.now_us = 1_000_000
    frames += server.batch()
    assert Counter(macs(frames)) == {0: 2, 1: 2}


# --- max-concurrent ------------------------------------------------------------------------------


def test_no_more_exchanges_than_allowed() -> None:
    server = Served({"max_concurrent": 2, "offer_hold_s": 5})
    assert [server.ask(request(DISCOVER, client(i))) is not None for i in range(4)] == [
        True, True, False, False]
    assert server.causes() == {"ok": 2, "max_concurrent": 2}
    # Nothing of those that were turned away is kept.
    assert int(server.leases.identity.any(axis=1).sum()) == 2
    # One is over: there is room for one.
    assert server.must(request(REQUEST, client(0), options={**wants(FIRST), **OURS})
                       ).message.type == ACK
    assert [server.ask(request(DISCOVER, client(i))) is not None for i in (2, 3)] == [True, False]
    # What is never taken up ends.
    server.now_s = 7
    assert server.ask(request(DISCOVER, client(3))) is not None


def test_who_repeats_himself_begins_no_new_exchange() -> None:
    """A client whose OFFER was lost must not be locked out by his own exchange."""
    server = Served({"max_concurrent": 1})
    first = server.must(request(DISCOVER)).message.yiaddr
    assert server.must(request(DISCOVER)).message.yiaddr == first
    assert server.ask(request(DISCOVER, b"\2other")) is None
    assert server.must(request(REQUEST, options={**wants(first), **OURS})).message.type == ACK


def test_exchanges_whose_ack_waits_are_in_progress() -> None:
    server = faulty(fault("delay", "ack", delay_s=1.0), max_concurrent=2)
    for i in range(3):
        server.batch(request(DISCOVER, client(i)))
        server.batch(request(REQUEST, client(i), options={**wants(IP(int(FIRST) + i)), **OURS}))
    assert waiting(server.tables.delay) == 3
    # All of these have had an offer. One who renews is new.
    assert server.batch(request(REQUEST, client(0), ciaddr=FIRST)) == []
    assert server.causes()["max_concurrent"] == 1
    server.now_us = 1_000_100
    assert len(server.batch()) == 3
    server.now_us = 1_000_200
    assert server.batch(request(REQUEST, client(0), ciaddr=FIRST)) == []
    assert waiting(server.tables.delay) == 1


@pytest.mark.parametrize("kind", [RELEASE, DECLINE, INFORM])
def test_other_messages_are_no_exchanges(kind: MessageType) -> None:
    server = Served({"max_concurrent": 1})
    server.must(request(DISCOVER, b"\2other"))
    server.ask(request(kind, ciaddr=IP("192.0.2.200")))
    assert "max_concurrent" not in server.causes()


# --- counted -------------------------------------------------------------------------------------


def test_counts_of_what_is_sent_are_of_frames() -> None:
    server = faulty(fault("duplicate", "offer"), fault("drop", "ack"))
    total = 0
    for i in range(5):
        total += sum(len(frames) for _, frames in conversation(server, i))
    assert int(server.tables.counts[SENT:SENT + 19].sum()) == total
