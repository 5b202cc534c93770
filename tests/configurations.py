"""Configurations of several networks for Hypothesis: small pools, so that they are used up."""

from __future__ import annotations

from hypothesis import strategies as st

from server.model import (
    ClientClass,
    Config,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from tests.deciding import FIRST, chaddr, configured, ip, pool, subnet

FOREVER_S = 0xFFFFFFFF
IDENTIFIERS, CIRCUITS = (b"\0one", b"\0two" * 9), (b"port 1", b"port 2" * 30)
CLASS_NAMES = ("phone", "printer")
KEYS = [("chaddr", chaddr("a")), ("chaddr", chaddr("b")), ("client-id", IDENTIFIERS[0]),
        ("client-id", IDENTIFIERS[1]), ("circuit-id", CIRCUITS[0]), ("circuit-id", CIRCUITS[1])]
# Within one turn of the wheel, so that of two that end in one second the first is freed first.
SECONDS = st.sampled_from([5, 20, 61, 100, 300, 86_400, FOREVER_S])


@st.composite
def levels(draw: st.DrawFn) -> Settings:
    """Mostly nothing; bounds that contradict others are allowed."""
    if draw(st.integers(0, 3)):
        return Settings()
    times = draw(st.tuples(*(st.none() | SECONDS for _ in range(3))))
    return Settings(lease_time_s=times[0], min_lease_time_s=times[1], max_lease_time_s=times[2])


@st.composite
def subnets(draw: st.DrawFn, third: int) -> Subnet:
    pools: list[Pool] = []
    start = 256 * third + FIRST
    for _ in range(draw(st.integers(0, 2))):
        start += draw(st.integers(0, 2))
        end = start + draw(st.integers(0, 3))
        out = draw(st.lists(st.integers(start, end), max_size=1))
        made = pool(start, end, draw(st.sampled_from([(), (), ("phone",), CLASS_NAMES])),
                    tuple(out))
        pools.append(Pool(made.start, made.end, made.exclude, made.only, draw(levels())))
        start = end + 1
    places = draw(st.lists(st.integers(FIRST - 1, FIRST + 8), max_size=3, unique=True))
    entries = [Reservation(ip(256 * third + last), by, key, draw(levels()))
               for last, (by, key) in zip(places, draw(st.permutations(KEYS)), strict=False)]
    made_of = subnet(third, *pools, reservations=tuple(entries))
    return Subnet(made_of.network, made_of.pools, made_of.reservations, draw(levels()))


def without_second_keys(network: SharedNetwork) -> SharedNetwork:
    """A client has one reservation on a network."""
    seen: set[tuple[str, bytes]] = set()
    kept = []
    for each in network.subnets:
        entries = [one for one in each.reservations if (one.by, one.key) not in seen]
        seen |= {(one.by, one.key) for one in entries}
        kept.append(Subnet(each.network, each.pools, tuple(entries), each.settings))
    return SharedNetwork(network.name, tuple(kept), network.settings)


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """Networks in any order of addresses; there is one address at least."""
    thirds = draw(st.permutations(range(6)))
    networks = []
    for number in range(draw(st.integers(1, 3))):
        inside = tuple(draw(subnets(thirds[2 * number + i])) for i in range(draw(
            st.integers(1, 2))))
        networks.append(without_second_keys(SharedNetwork(f"n{number}", inside, draw(levels()))))
    last = SharedNetwork("always", (subnet(7, pool(7 * 256 + FIRST, 7 * 256 + FIRST)),))
    classes = tuple(ClientClass(name, (Match(60, "is", name.encode()),), draw(levels()))
                    for name in CLASS_NAMES)
    whole = Settings(lease_time_s=draw(SECONDS), max_lease_time_s=draw(st.none() | SECONDS))
    return configured(*networks, last, classes=classes, settings=whole,
                      authoritative=draw(st.booleans()), rapid_commit=draw(st.booleans()))
