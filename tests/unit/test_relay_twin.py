"""The relay's kernels against a relay in plain words, on generated messages, hostile ones too."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from fastpath.packet import Frame
from relay.model import POLICIES, Config
from tests.frames import opt, raw, repaired
from tests.kernels import examples, wraps
from tests.relay_hop import DOWN, MACS, NAMES, OURS, SERVER_MACS, SERVERS, UP, Hop, told
from tests.relay_twin import Twin

pytestmark = wraps

# Ours on `down` under the default templates, another's, one with two sub-options.
AGENTS = (b"\x01\x04down", b"\x01\x05other", b"\x01\x02xx\x02\x01y", b"")
addresses = st.sampled_from([IPv4Address(0), *OURS, IPv4Address("10.20.0.9"),
                             IPv4Address("172.16.0.1"), IPv4Address("224.0.0.1"),
                             IPv4Address(0xFFFFFFFF)])
values = st.binary(max_size=12)
any_option = st.one_of(
    st.builds(opt, st.just(53), st.integers(0, 30).map(lambda n: bytes([n]))),
    st.builds(opt, st.just(82), st.sampled_from(AGENTS)),
    st.builds(opt, st.just(82), values, values),
    st.builds(opt, st.just(52), st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\5", b"\1\1"])),
    st.builds(opt, st.integers(1, 254), values),
    st.builds(opt, st.integers(1, 254), st.just(b"z" * 255)),
    st.just(b"\0\0\0"), st.just(b"\xff"), st.binary(max_size=3))
fields = st.lists(any_option, max_size=5).map(b"".join)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A BOOTP message octet by octet."""
    made = bytearray(raw(draw(fields) + draw(st.sampled_from([b"\xff", b"", b"\xff" + b"\0" * 70])),
                         op=draw(st.sampled_from([1, 1, 2, 2, 3])),
                         hlen=draw(st.sampled_from([6, 6, 6, 0, 16, 17])),
                         sname=draw(fields), file=draw(fields),
                         cookie=draw(st.sampled_from([b"\x63\x82\x53\x63"] * 5 + [b"abcd"]))))
    made[1] = draw(st.sampled_from([1, 1, 6]))
    made[3] = draw(st.sampled_from([0, 1, 3, 4, 5, 16, 17, 255]))
    made[8:10] = draw(st.sampled_from([b"\0\0", b"\0\x05", b"\xff\xff"]))
    made[10] = draw(st.sampled_from([0, 0x80]))
    for at in (12, 16, 24):
        made[at:at + 4] = draw(addresses).packed
    made[28:34] = draw(st.sampled_from([b"\x02clien", b"\xff" * 6, bytes(6)]))
    return bytes(made[:draw(st.sampled_from([len(made)] * 6 + [239, 240]))])


configs = st.builds(
    lambda policy, **more: told(option82=policy, **more,
                                selections={"": None} if policy == "append" else {},
                                override=policy == "replace"),
    st.sampled_from(POLICIES), max_hops=st.sampled_from([1, 4, 16]),
    min_secs=st.sampled_from([0, 0, 5]), trusted=st.sampled_from([frozenset(), {"down"}]),
    servers=st.sampled_from([SERVERS[:1], SERVERS]),
    giaddrs=st.sampled_from([{}, {"other": OURS[0]}]))


@examples(compiled=2000, interpreted=150)
@given(configs, messages(), st.integers(0, 2), addresses,
       st.sampled_from([(1500, 1500, 1500), (600, 576, 700), (9000, 9000, 329)]),
       st.sampled_from([SERVER_MACS, (None, SERVER_MACS[1]), (None, None)]),
       st.sampled_from([-1, -1, 0x81000000, 0x81000007]), st.sampled_from([67, 67, 67, 68]))
def test_every_frame_is_treated_alike(config: Config, payload: bytes, port: int,
                                      target: IPv4Address, mtus: tuple[int, int, int],
                                      known: tuple[bytes | None, ...], outer: int,
                                      to_port: int) -> None:
    hop = Hop(config, mtus, known)
    twin = Twin(hop.resolved, known[:len(config.servers)], UP)
    data = Frame(b"\x02clien", MACS[port], (), IPv4Address("10.20.0.77"), target, 68, to_port,
                 payload=payload).encode()
    sent = hop.hear(data, port, outer=None if outer < 0 else outer)
    cause, expected = twin.hear(data, port, outer)
    assert sent == expected
    said = hop.stats()
    discarded = {name: count for name, count in said["discarded"].items() if count}
    if cause == "elsewhere":
        assert said["elsewhere"] == 1 and not discarded
    elif cause == "relayed":
        assert set(discarded) <= {"too_large"}
        assert len(expected) + discarded.get("too_large", 0) == (
            sum(mac is not None for mac in known[:len(config.servers)])
            if payload[0] == 1 else 1)
    else:
        assert discarded == {cause: 1}


@examples(compiled=2000, interpreted=200)
@given(messages(), st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
       st.booleans(), st.integers(0, 700), st.integers(0, 2), st.booleans())
def test_damaged_frames(payload: bytes, damage: list[tuple[int, int]], repair: bool, cut: int,
                        port: int, ready: bool) -> None:
    """Octets changed anywhere, frames cut anywhere: the same, and nothing else is read."""
    made = bytearray(Frame(b"\x02clien", payload=payload, src_ip=OURS[DOWN]).encode())
    for at, value in damage:
        made[at % len(made)] = value
    data = bytes(made[:max(cut, 1)] if cut < 400 else made)
    if repair and len(data) > 60:
        data = repaired(data, True)
    hop = Hop(told(option82="replace", trusted=frozenset(NAMES[:2])))
    sent = hop.hear(data, port, checksum_ready=ready)
    assert sent == Twin(hop.resolved, SERVER_MACS[:1], UP).hear(
        data, port, checksum_ready=ready)[1]
