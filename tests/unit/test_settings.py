"""Levels of settings and classes against naive twins: layered dicts, and Python's bytes."""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.frame import find_options, make_options
from fastpath.message import Message
from server.config import Resolved
from server.model import (
    CLASS_MATCHES,
    FOREVER_S,
    ClientClass,
    Config,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.settings import (
    BOOT_FILE,
    MOST_CLASSES,
    NUMBERS,
    S_NEXT_SERVER,
    SERVER_NAME,
    UNSET,
    Sets,
    choose_layers,
    find_classes,
    find_number,
    find_setting,
    lease_time,
    renewal_times,
)
from server.tables import make_tables
from tests.kernels import examples, fenced, wraps

pytestmark = wraps

CODES = (1, 3, 6, 28, 43, 120, 254)
FIELDS = ("lease_time_s", "min_lease_time_s", "max_lease_time_s", "renewal_time_s",
          "rebinding_time_s", "next_server")


@st.composite
def levels(draw: st.DrawFn) -> Settings:
    """Mostly little; an option may be empty, or longer than one piece can be."""
    options = draw(st.dictionaries(st.sampled_from(CODES), st.sampled_from(
        [b"", b"\0", b"abcd", b"x" * 255, b"y" * 256, b"z" * 600]), max_size=2))
    times = {name: draw(st.none() | st.none() | st.integers(0, FOREVER_S)) for name in FIELDS[:5]}
    return Settings(
        **times, options=options,
        next_server=draw(st.none() | st.just(IPv4Address("255.255.255.254"))),
        boot_file=draw(st.sampled_from([None, None, "boot", "b" * 127])),
        server_name=draw(st.sampled_from([None, None, "host"])))


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    numbers = count(1)
    networks = []
    for third in range(draw(st.integers(1, 2))):
        base = 0x0A000000 + (third << 16)
        subnets = []
        for fourth in range(draw(st.integers(1, 2))):
            at = base + (fourth << 8)
            pools = tuple(Pool(IPv4Address(at + 10 * i), IPv4Address(at + 10 * i + 3), (), (),
                               draw(levels())) for i in range(1, draw(st.integers(2, 3))))
            entries = tuple(Reservation(IPv4Address(at + last), "chaddr",
                                        b"\2\0\0\0\0" + bytes([next(numbers)]), draw(levels()))
                            for last in draw(st.sets(st.sampled_from([10, 11, 90]))))
            prefix = IPv4Network((at, draw(st.sampled_from([24, 25]))))
            subnets.append(Subnet(prefix, pools, entries, draw(levels())))
        networks.append(SharedNetwork(str(third), tuple(subnets), draw(levels())))
    classes = tuple(ClientClass(str(i), (), draw(levels())) for i in range(draw(
        st.integers(0, 3))))
    return Config(networks=tuple(networks), classes=classes, settings=draw(levels()))


def implied(subnet: Subnet, said: list[int]) -> Settings:
    """said: codes that the whole server says otherwise."""
    known = {1: subnet.network.netmask.packed, 28: subnet.network.broadcast_address.packed}
    return Settings(options={code: value for code, value in known.items() if code not in said})


def found(sets: Sets, code: int) -> bytes | None:
    """An option joined again, or None where no level has it."""
    start, size = find_setting(sets, code)
    octets = sets.encoded[start:start + size].tobytes()
    if size == 0:
        return None
    if code in (BOOT_FILE, SERVER_NAME):
        return octets
    value, at = b"", 0
    while at < size:
        assert octets[at] == code
        value += octets[at + 2:at + 2 + octets[at + 1]]
        at += 2 + octets[at + 1]
    assert at == size
    return value


def compare(sets: Sets, chain: list[Settings]) -> None:
    """chain: the levels that count, the most specific first."""
    for code in (*CODES, 2, 119):
        said = [level.options[code] for level in chain if code in level.options]
        assert found(sets, code) == (said[0] if said else None)
    for code, name in ((BOOT_FILE, "boot_file"), (SERVER_NAME, "server_name")):
        texts = [getattr(level, name) for level in chain if getattr(level, name)]
        assert found(sets, code) == (texts[0].encode() if texts else None)
    for which, name in enumerate(FIELDS):
        values = [getattr(level, name) for level in chain if getattr(level, name) is not None]
        default = 86400 if name == "lease_time_s" else UNSET
        assert find_number(sets, which) == (int(values[0]) if values else default)


@examples(150, 50)
@given(configurations(), st.data())
def test_the_most_specific_level_that_says_something_counts(config: Config,
                                                            data: st.DataObject) -> None:
    sets = make_tables(Resolved(config, ())).world.sets
    classes = data.draw(st.integers(0, (1 << len(config.classes)) - 1))
    below = [one.settings for i, one in enumerate(config.classes) if classes >> i & 1]
    below.append(config.settings)
    pool_number = reservation_number = subnet_number = 0
    for network in config.networks:
        for subnet in network.subnets:
            said = [code for code in (1, 28) if code in config.settings.options]
            place = [subnet.settings, network.settings, implied(subnet, said)]
            choose_layers(sets, -1, -1, subnet_number, classes)
            compare(sets, [*place, *below])
            for pool in subnet.pools:
                choose_layers(sets, -1, pool_number, subnet_number, classes)
                compare(sets, [pool.settings, *place, *below])
                pool_number += 1
            for one in subnet.reservations:
                choose_layers(sets, reservation_number, -1, subnet_number, classes)
                compare(sets, [one.settings, *place, *below])
                reservation_number += 1
            subnet_number += 1
    choose_layers(sets, -1, -1, -1, 0)
    compare(sets, [config.settings])


def test_as_many_classes_as_there_may_be() -> None:
    """A client in all of them, with a reservation: there is room for every layer."""
    pool = Pool(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9"))
    entry = Reservation(pool.start, "chaddr", bytes(6), Settings(lease_time_s=5))
    subnet = Subnet(IPv4Network("10.0.0.0/24"), (pool,), (entry,))
    classes = tuple(ClientClass(str(i), (), Settings(options={100 + i: bytes([i])}))
                    for i in range(MOST_CLASSES))
    config = Config(networks=(SharedNetwork("x", (subnet,)),), classes=classes)
    sets = make_tables(Resolved(config, ())).world.sets
    sets.layers[:] = 0
    choose_layers(sets, 0, 0, 0, (1 << MOST_CLASSES) - 1)
    assert [found(sets, 100 + i) for i in range(MOST_CLASSES)] == [
        bytes([i]) for i in range(MOST_CLASSES)]
    assert sets.layers[-1] == -1


# --- times -------------------------------------------------------------------------------------

Bound = int | None
bounds = st.none() | st.integers(1, FOREVER_S) | st.sampled_from([1, 59, 60, 61, FOREVER_S])


def sets_of(**settings: Bound) -> Sets:
    pool = Pool(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9"))
    subnet = Subnet(IPv4Network("10.0.0.0/24"), (pool,))
    config = Config(networks=(SharedNetwork("x", (subnet,)),), settings=Settings(**settings))
    sets = make_tables(Resolved(config, ())).world.sets
    choose_layers(sets, -1, 0, 0, 0)
    return sets


@examples(300, 60)
@given(st.tuples(bounds, bounds, bounds), st.none() | st.integers(0, FOREVER_S))
def test_lease_time(times: tuple[Bound, Bound, Bound], wanted: Bound) -> None:
    usual, least, most = times
    sets = sets_of(lease_time_s=usual, min_lease_time_s=least, max_lease_time_s=most)
    granted = lease_time(sets, UNSET if wanted is None else wanted)
    usual = 86400 if usual is None else usual
    if wanted is None:
        assert granted == usual
        return
    # A minimum above a maximum is a contradiction: the minimum counts.
    assert granted >= (least if least is not None else min(60, usual, granted))
    assert least is not None or most is not None or granted <= usual
    assert most is None or granted <= max(most, least or 0)
    if (least or 60) <= wanted <= (most or usual):
        assert granted == wanted


@examples(300, 60)
@given(bounds, bounds, st.integers(0, FOREVER_S) | st.integers(0, 10))
def test_renewal_times(t1: Bound, t2: Bound, lease_s: int) -> None:
    """RFC 2131 section 4.4.5: T1 before T2, T2 before the end; or neither is said."""
    first, second = map(int, renewal_times(sets_of(renewal_time_s=t1, rebinding_time_s=t2),
                                           lease_s))
    if lease_s < 3 or lease_s == FOREVER_S or (first, second) == (0, 0):
        assert (first, second) == (0, 0)
        assert lease_s < 3 or lease_s == FOREVER_S or t1 == 0 or t2 in (0, 1)
        return
    assert 1 <= first < second < lease_s
    if t2 is not None and t2 < lease_s:
        assert second == t2
    if t1 is not None and t1 < second:
        assert first == t1
    if t1 is None and t2 is None and lease_s > 3:
        assert (first, second) == (lease_s // 2, lease_s * 7 // 8)


# --- classes -----------------------------------------------------------------------------------

VENDOR, USER = 60, 77


def mask(config_classes: tuple[ClientClass, ...], options: dict[int, bytes]) -> int:
    pool = Pool(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9"))
    subnet = Subnet(IPv4Network("10.0.0.0/24"), (pool,))
    config = Config(networks=(SharedNetwork("x", (subnet,)),), classes=config_classes)
    classes = make_tables(Resolved(config, ())).classes
    octets = np.frombuffer(Message(hlen=6, chaddr=bytes(6), options={53: b"\1", **options})
                           .encode(), np.uint8).copy()
    found_options = make_options()
    assert find_options(octets, 0, len(octets), found_options) == 0
    return int(find_classes(classes, fenced(octets, 0, len(octets)), found_options))


def values(code: int, octets: bytes) -> list[bytes]:
    """What of an option is compared: all of it; of a user class each value too (RFC 3004)."""
    every, at = [octets], 0
    while code == USER and at < len(octets) and octets[at]:
        value = octets[at + 1:at + 1 + octets[at]]
        if len(value) < octets[at]:
            break
        every.append(value)
        at += 1 + octets[at]
    return every


def passes(match: Match, options: dict[int, bytes]) -> bool:
    if match.option not in options:
        return False
    wanted = match.value
    for value in values(match.option, options[match.option]):
        found = {"is": value == wanted, "starts-with": value.startswith(wanted),
                 "contains": wanted in value}
        if found[match.how]:
            return True
    return False


short = st.text("ab\x02", max_size=5).map(str.encode)
listed = st.lists(short, max_size=3).map(
    lambda each: b"".join(bytes([len(value)]) + value for value in each))
matches = st.builds(Match, st.sampled_from([VENDOR, USER]), st.sampled_from(CLASS_MATCHES), short)


@examples(300, 120)
@given(st.lists(st.lists(matches, max_size=3), max_size=4),
       st.dictionaries(st.sampled_from([VENDOR, USER]), short | listed))
def test_classes(tests: list[list[Match]], options: dict[int, bytes]) -> None:
    classes = tuple(ClientClass(str(i), tuple(each)) for i, each in enumerate(tests))
    options = {code: octets for code, octets in options.items() if octets}
    expected = sum(1 << i for i, each in enumerate(tests)
                   if any(passes(match, options) for match in each))
    assert mask(classes, options) == expected


MEMBERS: list[tuple[str, Match, dict[int, bytes], bool]] = [
    ("RFC 3004: the second of several", Match(USER, "is", b"two"), {USER: b"\3one\3two"}, True),
    ("RFC 3004: not a piece of one", Match(USER, "is", b"tw"), {USER: b"\3one\3two"}, False),
    ("one value without a length, as many send it", Match(USER, "is", b"iPXE"), {USER: b"iPXE"},
     True),
    ("a length that is too long", Match(USER, "is", b"two"), {USER: b"\3one\4two"}, False),
    ("a length of nothing ends the list", Match(USER, "is", b"two"), {USER: b"\0\3two"}, False),
    ("a vendor class is no list", Match(VENDOR, "is", b"two"), {VENDOR: b"\3two"}, False),
    ("the value at the very end", Match(VENDOR, "contains", b"end"), {VENDOR: b"the end"}, True),
    ("the value is longer", Match(VENDOR, "contains", b"the end."), {VENDOR: b"the end"}, False),
    ("not on into the next option", Match(VENDOR, "starts-with", b"PX\x37\1a"),
     {VENDOR: b"PX", 55: b"a"}, False),
    ("a start is not enough", Match(VENDOR, "is", b"PXE"), {VENDOR: b"PXEClient"}, False),
    ("in two pieces on the wire", Match(VENDOR, "contains", b"yx" + b"x" * 9),
     {VENDOR: b"y" * 254 + b"x" * 99}, True),
    ("the option is not there", Match(VENDOR, "contains", b"x"), {USER: b"x"}, False),
    ("case counts", Match(VENDOR, "is", b"pxeclient"), {VENDOR: b"PXEClient"}, False),
]


@pytest.mark.parametrize(("match", "options", "member"), [row[1:] for row in MEMBERS],
                         ids=[row[0] for row in MEMBERS])
def test_member(match: Match, options: dict[int, bytes], member: bool) -> None:
    assert mask((ClientClass("other", ()), ClientClass("x", (match,))), options) == 2 * member


def test_the_last_class() -> None:
    classes = tuple(ClientClass(str(i), (Match(VENDOR, "is", b"x"),) if i == 59 else ())
                    for i in range(MOST_CLASSES))
    assert mask(classes, {VENDOR: b"x"}) == 1 << 59


def test_columns() -> None:
    assert NUMBERS == len(FIELDS) == S_NEXT_SERVER + 1
