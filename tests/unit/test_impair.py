"""Impairments as plans: what netem, tbf and XDP are told, what falls to our programs, when."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from fastpath.errors import SystemRefused, UserError
from fastpath.faultspec import parse_fault
from netlab import topology
from netlab.impairment.arrange import Setting, arrange, check
from netlab.impairment.schedule import Schedule, changes
from netlab.messages import attributes
from netlab.qdisc import Discipline, Netem, Tbf
from netlab.tc import heard, told
from netlab.topology import Role, Topology
from netlab.topology.model import Impairment

ALL = frozenset({"netem", "tbf", "xdp"})
NO_NETEM = frozenset({"tbf", "xdp"})
OURS = {"relay1": "dhcp-relay", "relay2": "dhcp-relay", "server": "dhcp-server"}
REQUESTS, REPLIES = "discover+request+decline+release+inform", "offer+ack+nak"


def with_impairments(base: Topology, *impairments: Impairment) -> Topology:
    return replace(base, impairments=impairments)


# What tc of iproute2 6.1 sends for `netem limit 5000 loss 1% delay 20ms 5ms rate 10mbit
# duplicate 2% reorder 25%`.
TC_NETEM = bytes.fromhex(
    "b4c4040088130000295c8f020100000052b81e052d3101000c00030000000040000000001400060"
    "0d01213000000000000000000000000 00".replace(" ", ""))


# And for `tbf rate 10mbit burst 2500 limit 1514000`, but for the link layer that it fills in and
# the rate table, which is 1,024 octets that nobody needs to see.
TC_TBF = {1: bytes.fromhex("0300 0000 ffff 0000 d0121300 00000000 00000000 00000000 101a1700"
                           "127a0000 00000000"), 6: bytes.fromhex("c4090000")}


def sent(discipline: Discipline) -> bytes:
    """A request for `discipline` as it goes to the kernel, from TCA_KIND on."""
    message = tcmsg()
    message["attrs"] = told(discipline)
    message.encode()
    return bytes(message.data[36:])


def read_back(discipline: Discipline) -> Discipline | None:
    """What is read of a dump with the options that were sent."""
    message = tcmsg(bytes(36) + sent(discipline))
    message["header"]["length"] = len(message.data)
    message.data = struct.pack("=I", len(message.data)) + message.data[4:]
    message.decode()
    return heard(message.get_attr("TCA_KIND"), message.get_attr("TCA_OPTIONS"))


def test_netem_is_told_what_tc_tells_it() -> None:
    octets = sent(Netem(5000, 1, 2, 25, 20, 5, 1_250_000))
    assert octets[:12] == b"\x0a\0\x01\0netem\0\0\0"
    said, tc = octets[16:], TC_NETEM
    assert len(said) == len(tc)
    # Shares are cut off here and rounded there: loss, duplication, reordering.
    for at in range(0, len(tc), 4):
        (ours,), (theirs,) = struct.unpack_from("=I", said, at), struct.unpack_from("=I", tc, at)
        assert theirs - ours in ((0, 1) if at in (8, 16, 28) else (0,)), at


def test_tbf_is_told_what_tc_tells_it() -> None:
    options = dict(attributes(sent(Tbf(1_250_000, 1_514_000)), 12))
    assert len(options.pop(2)) == 1024
    assert options == TC_TBF


def test_a_rate_is_said_even_where_there_is_none() -> None:
    """Else the one before it would stay in force."""
    assert dict(attributes(sent(Netem(5))[16 + 24:], 0))[6] == bytes(16)


_SHARES = st.floats(0, 100).map(lambda share: round(share, 4))
_TIMES = st.integers(0, 60_000_000).map(lambda microseconds: microseconds / 1000)


@given(st.integers(1, 10_000_000), _SHARES, _SHARES, _SHARES, _TIMES, _TIMES,
       st.integers(0, 1 << 40), st.none() | st.integers(0, (1 << 64) - 1))
def test_netem_reads_what_it_wrote(limit: int, loss: float, duplicate: float, reorder: float,
                                   delay: float, jitter: float, rate: int,
                                   seed: int | None) -> None:
    wrote = Netem(limit, loss, duplicate, reorder, delay, jitter, rate, seed)
    read = read_back(wrote)
    assert isinstance(read, Netem)
    assert (read.limit, read.rate_bytes_per_s, read.seed) == (limit, rate, seed)
    for name in ("loss_percent", "duplicate_percent", "reorder_percent"):
        assert getattr(read, name) == pytest.approx(getattr(wrote, name), abs=1e-6)
    # One tick is 64 ns.
    assert read.delay_ms == pytest.approx(delay, abs=0.0001)
    assert read.jitter_ms == pytest.approx(jitter, abs=0.0001)


@given(st.integers(125, 1 << 40), st.integers(0, 0xFFFFFFFF))
def test_tbf_reads_what_it_wrote(rate: int, limit: int) -> None:
    assert read_back(Tbf(rate, limit)) == Tbf(rate, limit)


def test_the_bucket_holds_a_full_frame_at_any_rate() -> None:
    assert Tbf(125, 1514).burst_bytes == 1600
    assert Tbf(125_000_000, 1514).burst_bytes == 250_000


BAD = [
    (Impairment("client", "eth0"), "nothing to impair"),
    (Impairment("client", "eth0", loss_percent=100.1), "out of its range"),
    (Impairment("client", "eth0", loss_percent=-1), "out of its range"),
    (Impairment("client", "eth0", delay_ms=-1), "out of its range"),
    (Impairment("client", "eth0", delay_ms=5, jitter_ms=6), "jitter of 6 ms is more"),
    (Impairment("client", "eth0", jitter_ms=6), "jitter of 6 ms is more"),
    (Impairment("client", "eth0", delay_ms=60_001), "more than a minute"),
    (Impairment("client", "eth0", reorder_percent=1), "reordering needs a delay"),
    (Impairment("client", "eth0", rate_kbit_per_s=0.5), "less than 1kbit"),
    (Impairment("client", "eth0", loss_percent=1, from_s=2, until_s=2), "ends before it starts"),
    (Impairment("client", "eth7", loss_percent=1), "no link ends in client:eth7"),
    (Impairment("nobody", "eth0", loss_percent=1), "no link ends in nobody:eth0"),
]


@pytest.mark.parametrize(("impairment", "said"), BAD)
def test_what_cannot_be_meant(impairment: Impairment, said: str) -> None:
    with pytest.raises(UserError) as refused:
        arrange(with_impairments(topology.direct(), impairment), ALL)
    assert said in refused.value.what
    assert refused.value.remedy


def test_the_bounds_themselves_can_be_meant() -> None:
    check(Impairment("client", "eth0", "both", 100, 100, 100, 30_000, 30_000, 1, 0, 0.001))


def test_netem_does_all_where_frames_are_sent() -> None:
    one = Impairment("client", "eth0", "out", 1, 2, 3, 20, 5, 1000)
    found = arrange(with_impairments(topology.direct(), one), ALL, OURS, seed=7)
    # 1 Mbit/s holds 25 ms of frames of 300 octets, behind a queue of 1,000.
    assert found.settings == (Setting(("client", "eth0"), ("switch", "client"),
                                      Netem(1010, 1, 2, 3, 20, 5, 125_000, 7)),)
    assert not found.faults
    found.check()


def test_what_a_node_receives_is_dealt_with_at_the_other_end() -> None:
    one = Impairment("client", "eth0", "in", loss_percent=1, rate_kbit_per_s=8)
    (at_bridge,) = arrange(with_impairments(topology.direct(), one), NO_NETEM).settings
    assert at_bridge == Setting(("switch", "client"), ("client", "eth0"), Tbf(1000, 1_514_000), 1)
    (on_cable,) = arrange(with_impairments(topology.relay(1), one), NO_NETEM).settings
    assert (on_cable.sender, on_cable.receiver) == (("relay1", "eth0"), ("client", "eth0"))


def test_both_directions_are_two_settings() -> None:
    one = Impairment("client", "eth0", loss_percent=1)
    found = arrange(with_impairments(topology.direct(), one), NO_NETEM).settings
    assert [(s.sender, s.receiver) for s in found] == [
        (("client", "eth0"), ("switch", "client")), (("switch", "client"), ("client", "eth0"))]
    assert {s.discipline for s in found} == {None}


def test_a_limit_is_in_frames() -> None:
    one = Impairment("client", "eth0", "out", rate_kbit_per_s=8)
    base = with_impairments(topology.direct(), one)
    assert arrange(base, NO_NETEM, limit=3).settings[0].discipline == Tbf(1000, 3 * 1514)
    netem = arrange(base, ALL, limit=3).settings[0].discipline
    assert isinstance(netem, Netem)
    assert netem.limit == 3
    lossy = with_impairments(topology.direct(), Impairment("client", "eth0", loss_percent=1))
    with pytest.raises(UserError, match="--limit is of a queue"):
        arrange(lossy, NO_NETEM, limit=3)


def test_a_delay_alone_has_room_for_all_that_is_under_way() -> None:
    one = Impairment("client", "eth0", "out", delay_ms=1000)
    netem = arrange(with_impairments(topology.direct(), one), ALL).settings[0].discipline
    assert isinstance(netem, Netem)
    assert netem.limit == 100_000


def test_a_seed_is_netems() -> None:
    one = Impairment("client", "eth0", loss_percent=1)
    with pytest.raises(SystemRefused, match="CONFIG_NET_SCH_NETEM"):
        arrange(with_impairments(topology.direct(), one), NO_NETEM, seed=1)


# Node, interface, direction -> the node whose program does it, and to which messages.
FAULTS = [
    (topology.direct(), "server", "in", "server", REQUESTS),
    (topology.direct(), "server", "out", "server", REPLIES),
    # Two are on the segment: what the client sends is what the server hears.
    (topology.direct(), "client", "out", "server", REQUESTS),
    (topology.direct(), "client", "in", "server", REPLIES),
    (topology.relay(2), "client", "out", "relay1", REQUESTS),
    (topology.relay(2), "client", "in", "relay1", REPLIES),
    (topology.relay(2), "server", "in", "server", REQUESTS),
]


@pytest.mark.parametrize(("base", "node", "direction", "host", "messages"), FAULTS)
def test_delay_falls_to_a_program_of_ours(base: Topology, node: str, direction: str, host: str,
                                          messages: str) -> None:
    one = Impairment(node, "eth0", direction, delay_ms=20, jitter_ms=5, from_s=10, until_s=30)
    found = arrange(with_impairments(base, one), NO_NETEM, OURS)
    found.check()
    assert found.settings == ()
    assert found.faults_for(host) == [
        "--fault", f"delay:{messages}:delay=20ms,jitter=5ms,from=10s,until=30s"]
    assert [node.name for node in base.nodes if found.faults_for(node.name)] == [host]


@pytest.mark.parametrize(("direction", "messages"), [("out", REQUESTS), ("in", REPLIES)])
def test_on_a_relays_uplink_requests_go_out(direction: str, messages: str) -> None:
    one = Impairment("relay1", "eth1", direction, duplicate_percent=2)
    found = arrange(with_impairments(topology.relay(1), one), NO_NETEM, OURS)
    assert found.faults == {"relay1": (f"duplicate:{messages}:2%",)}


@pytest.mark.parametrize("field", ["loss_percent", "duplicate_percent", "reorder_percent",
                                   "delay_ms"])
def test_every_fault_is_one_that_our_programs_understand(field: str) -> None:
    one = replace(Impairment("server", "eth0", delay_ms=3), **{field: 12.5})  # type: ignore[arg-type]
    found = arrange(with_impairments(topology.direct(), one), frozenset(), OURS)
    found.check()
    assert found.faults
    for words in found.faults["server"]:
        parse_fault(words)


def test_each_does_what_it_can() -> None:
    one = Impairment("server", "eth0", "in", 1, 0, 0, 20, 0, 1000)
    found = arrange(with_impairments(topology.direct(), one), NO_NETEM, OURS)
    (setting,) = found.settings
    assert (setting.discipline, setting.loss_percent) == (Tbf(125_000, 1_514_000), 1)
    assert found.faults_for("server") == ["--fault", f"delay:{REQUESTS}:delay=20ms,jitter=0ms"]


@pytest.mark.parametrize("programs", [{}, {"server": "kea"}, {"client": "dhcp-tester"}])
def test_nobody_there_to_do_it(programs: dict[str, str]) -> None:
    one = Impairment("client", "eth0", "out", delay_ms=20)
    found = arrange(with_impairments(topology.direct(), one), NO_NETEM, programs)
    with pytest.raises(SystemRefused) as refused:
        found.check()
    assert refused.value.what == ("client:eth0: cannot delay frames: this kernel has no netem "
                                  "(CONFIG_NET_SCH_NETEM)")
    assert "dhcp-relay or dhcp-server" in refused.value.remedy


def test_a_program_that_sees_more_than_the_link_does_not_do_it() -> None:
    # The relay hears two segments; the segment has three links; the server has two interfaces.
    star = topology.star(2)
    assert arrange(with_impairments(star, Impairment("client", "eth0", "out", delay_ms=1)),
                   NO_NETEM, OURS).faults == {"relay1": (f"delay:{REQUESTS}:delay=1ms,jitter=0ms",)}
    # Its uplink stands on a segment with others, but is its own.
    assert arrange(with_impairments(star, Impairment("relay2", "eth1", "out", delay_ms=1)),
                   NO_NETEM, OURS).faults == {"relay2": (f"delay:{REQUESTS}:delay=1ms,jitter=0ms",)}
    rogue = topology.rogue()
    assert arrange(with_impairments(rogue, Impairment("client", "eth0", "out", delay_ms=1)),
                   NO_NETEM, OURS).refused
    redundant = topology.redundant()
    assert arrange(with_impairments(redundant, Impairment("client", "eth0", "in", delay_ms=1)),
                   NO_NETEM, {n.name: "dhcp-relay" for n in redundant.with_role(Role.RELAY)},
                   ).refused


def test_a_rate_falls_to_nobody() -> None:
    one = Impairment("server", "eth0", rate_kbit_per_s=100)
    with pytest.raises(SystemRefused) as refused:
        arrange(with_impairments(topology.direct(), one), frozenset({"xdp"}), OURS).check()
    assert "tbf (CONFIG_NET_SCH_TBF)" in refused.value.what
    assert "dhcp-server" not in refused.value.remedy


@pytest.mark.parametrize("has", [ALL, NO_NETEM, frozenset()])
def test_two_on_one_way_at_one_time(has: frozenset[str]) -> None:
    first = Impairment("client", "eth0", "out", loss_percent=1, until_s=10)
    base = topology.relay(1)
    # The same way, named from its other end.
    again = Impairment("relay1", "eth0", "in", delay_ms=2, from_s=9.9)
    with pytest.raises(UserError, match="impaired twice at one time"):
        arrange(with_impairments(base, first, again), has, OURS)
    after = replace(again, from_s=10)
    arrange(with_impairments(base, first, after), has, OURS)
    arrange(with_impairments(base, first, replace(again, direction="out")), has, OURS)
    with pytest.raises(UserError, match="twice"):
        arrange(with_impairments(base, replace(first, until_s=0), after), has, OURS)


def at(end: str, from_s: float, until_s: float = 0) -> Setting:
    return Setting((end, "eth0"), ("peer", end), None, 1, from_s, until_s)


def test_the_timeline() -> None:
    always, early, late = at("a", 0), at("b", 0, 10), at("b", 10, 30)
    assert [(c.at_s, c.setting, c.on) for c in changes([late, always, early])] == [
        (0, always, True), (0, early, True), (10, early, False), (10, late, True),
        (30, late, False)]


def test_a_schedule_is_walked_once() -> None:
    schedule = Schedule([at("a", 10, 30), at("b", 0)])
    assert schedule.next_s == 0
    assert [c.setting.sender[0] for c in schedule.due(0.0)] == ["b"]
    assert schedule.due(9.999) == ()
    assert schedule.next_s == 10
    # A loop that was late gets all that is due, in order.
    assert [(c.at_s, c.on) for c in schedule.due(31)] == [(10, True), (30, False)]
    assert schedule.next_s is None
    assert schedule.due(1e9) == ()


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100))), st.lists(st.floats(0, 300)))
def test_each_change_is_due_exactly_once(windows: list[tuple[float, float]],
                                         clock: list[float]) -> None:
    settings = [at(str(i), start, start + lasts) for i, (start, lasts) in enumerate(windows)]
    schedule = Schedule(settings)
    walked = [change for now in sorted(clock) for change in schedule.due(now)]
    walked += schedule.due(1e9)
    assert tuple(walked) == changes(settings)
