"""What options come to in a TestConfig, who wins where several say, and which line is blamed.

No test here may reach a network: interfaces that are named are not looked at, and no name is
looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import NetlabError, UserError
from tester import cells
from tester.behaviour import BEHAVIOURS, STAY, Times
from tester.cli import main_command
from tester.config import WANTED_OPTIONS, Expectation, Identity, Limits, Patience, TestConfig, Where
from tester.configure import MANY_CLIENTS, configure
from tester.options import ENDLESS, MOST_CLIENTS
from tester.plan import Avalanche, ClosedLoop, ConstantRate, OpenLoop, Ramp, Stages

DAY_S = 86400.0
VETH = Where(cells.DIRECT, "veth0")


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DHCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.gethostbyname", lambda host: "192.0.2.53")
    monkeypatch.setattr("tester.place._local_address", lambda *_: IPv4Address("10.0.0.2"))
    monkeypatch.chdir(tmp_path)


def configured(*args: str) -> TestConfig:
    with main_command.make_context("dhcp-tester", ["-i=veth0", *args]) as ctx:
        return configure(ctx.params, ctx)


def refusal(*args: str) -> str:
    """What the program says, without the name of what it is about where click puts it first."""
    with pytest.raises((click.UsageError, UserError)) as refused:
        configured(*args)
    match refused.value:
        case click.UsageError() as error:
            return error.format_message()
        case UserError(what=what, remedy=remedy):
            return f"{what}; {remedy}"
    raise AssertionError


def test_what_nothing_comes_to() -> None:
    found = configured()
    assert found == replace(TestConfig(clients=1000, where=VETH), seed=found.seed)
    assert found.plan == ClosedLoop(64) and found.mix == ((STAY, 1.0),)
    assert found.identity == Identity() and found.limits == Limits()
    assert found.patience == Patience(5.0, 1, 1, None)
    assert found.identity.wanted == WANTED_OPTIONS


def test_seeds() -> None:
    """As given, or another one each time."""
    assert [configured(f"-seed={seed}").seed for seed in (0, 0xFFFFFFFF)] == [0, 0xFFFFFFFF]
    assert len({configured().seed for _ in range(4)}) > 1


@pytest.mark.parametrize(("line", "plan"), [
    ("", ClosedLoop(64)), ("-c 1", ClosedLoop(1)), ("-concurrency 1048576", ClosedLoop(1 << 20)),
    ("-rate 100", OpenLoop(ConstantRate(100.0))), ("-rate 0.5 -c 9", OpenLoop(ConstantRate(0.5))),
    ("-rate 100 -ramp 10s", OpenLoop(Ramp(100.0, 10.0))),
    ("-rate 100 -poisson -seed 7", OpenLoop(ConstantRate(100.0), 7)),
    ("-rate 100 -ramp 1ms -poisson -seed 7", OpenLoop(Ramp(100.0, 0.001), 7)),
    ("-stages 30s:1000,1m:0", OpenLoop(Stages(((30.0, 1000.0), (60.0, 0.0))))),
    ("-stages 1s:5 -poisson -seed 0", OpenLoop(Stages(((1.0, 5.0),)), 0)),
    ("-avalanche", OpenLoop(Avalanche()))])
def test_plans(line: str, plan: Any) -> None:
    assert configured(*line.split()).plan == plan


@pytest.mark.parametrize(("line", "clients"), [
    ("", 1000), ("-n 7", 7), ("-n 33554432", MOST_CLIENTS), ("-duration 5s", MANY_CLIENTS),
    ("-duration 5s -exchanges 9", 1000), ("-duration 5s -exchanges 0", 1000),
    ("-rate 100", 1000), ("-rate 100 -duration 2s", 200), ("-rate 0.1 -duration 1s", 1),
    ("-rate 3 -duration 1.1s", 4), ("-rate 100 -duration 2s -n 50", 50),
    ("-rate 100 -duration 2s -preload 30", 230), ("-rate 100 -duration 2s -exchanges 9", 1000),
    ("-rate 100 -ramp 2s -duration 2s", 100), ("-stages 2s:100", 100),
    ("-stages 2s:100 -duration 1s", 25), ("-stages 1s:0.5", 1), ("-avalanche", 1000),
    ("-avalanche -duration 1s", 1000), ("-rate 1e7 -duration 3.3s", 33_000_000)])
def test_how_many_clients(line: str, clients: int) -> None:
    assert configured(*line.split()).clients == clients


@pytest.mark.parametrize(("line", "limits"), [
    ("", Limits()), ("-exchanges 5000", Limits(exchanges=5000)),
    ("-duration 1m", Limits(duration_s=60.0)),
    ("-exchanges 0 -duration 2s", Limits(exchanges=ENDLESS, duration_s=2.0)),
    ("-exchanges 0 -duration 2s -rate 10", Limits(exchanges=20, duration_s=2.0)),
    ("-exchanges 0 -duration 2s -avalanche", Limits(exchanges=1 << 53, duration_s=2.0)),
    ("-exchanges 1099511627776", Limits(exchanges=ENDLESS)),
    ("-max-drop 10", Limits(max_drop=10)), ("-max-drop 0", Limits(max_drop=0)),
    ("-max-drop 1.5%", Limits(max_drop_percent=1.5)),
    ("-max-drop 100%", Limits(max_drop_percent=100.0)),
    ("-max-drop 0%", Limits(max_drop_percent=0.0)), ("-drain 0", Limits(drain_s=0.0)),
    ("-drain 7d", Limits(drain_s=7 * DAY_S)), ("-warm-up 250ms", Limits(warm_up_s=0.25)),
    ("-preload 1000", Limits(preload=1000))])
def test_limits(line: str, limits: Limits) -> None:
    assert configured(*line.split()).limits == limits


@pytest.mark.parametrize(("line", "patience"), [
    # A retry is one transmission more; without --retry there is none, whatever its limit.
    ("", (5.0, 1, 1, None)), ("-max-discover-retries 9", (5.0, 1, 1, None)),
    ("-retry", (5.0, 4, 4, None)), ("-retry -no-retry", (5.0, 1, 1, None)),
    ("-retry=true -max-discover-retries 0 -max-request-retries=7", (5.0, 1, 8, None)),
    ("-timeout 1ms", (0.001, 1, 1, None)), ("-timeout 1h", (3600.0, 1, 1, None)),
    ("-backoff", (5.0, 5, 5, (4.0, 64.0))), ("-backoff=1s..16s", (5.0, 5, 5, (1.0, 16.0))),
    ("-backoff 2s", (5.0, 5, 5, (2.0, 64.0))), ("-backoff 100s", (5.0, 5, 5, (100.0, 100.0))),
    ("-backoff 1ms..1h", (5.0, 5, 5, (0.001, 3600.0))),
    ("-backoff -timeout=1s", (1.0, 5, 5, (4.0, 64.0))),
    ("-backoff -max-request-retries 3", (5.0, 5, 4, (4.0, 64.0))),
    ("-avalanche", (5.0, 201, 201, (4.0, 64.0))),
    ("-avalanche -backoff 1s..2s", (5.0, 201, 201, (1.0, 2.0))),
    ("-avalanche -max-discover-retries 3", (5.0, 4, 201, (4.0, 64.0)))])
def test_patience(line: str, patience: tuple[Any, ...]) -> None:
    assert configured(*line.split()).patience == Patience(*patience)


@pytest.mark.parametrize(("line", "policy", "server", "wait_s"), [
    ("", cells.OFFER_FIRST, None, 0.0), ("-offer first -offer-wait 9s", 0, None, 0.0),
    ("-offer all", cells.OFFER_ALL, None, 0.5), ("-offer all -offer-wait 0", 1, None, 0.0),
    ("-offer all -offer-wait 2s", cells.OFFER_ALL, None, 2.0),
    ("-offer 10.9.8.7", cells.OFFER_SERVER, "10.9.8.7", 0.0),
    ("-offer dhcp.example", cells.OFFER_SERVER, "192.0.2.53", 0.0)])
def test_choice_of_offers(line: str, policy: int, server: str | None, wait_s: float) -> None:
    found = configured(*line.split())
    assert (found.offer_policy, found.offer_wait_s) == (policy, wait_s)
    assert found.offer_server == (IPv4Address(server) if server else None)


@pytest.mark.parametrize(("line", "mix"), [
    ("-behaviour flap", {"flap": 1.0}), ("-discover-only", {"discover-only": 1.0}),
    ("-mix stay=70,release=20,leave=10", {"stay": 0.7, "release": 0.2, "leave": 0.1}),
    ("-malform no-cookie", {"malformed no-cookie": 1.0}),
    ("-malform no-cookie=5%", {"stay": 0.95, "malformed no-cookie": 0.05}),
    ("-malform no-cookie=0.25 -malform hops=25%",
     {"stay": 0.5, "malformed no-cookie": 0.25, "malformed hops": 0.25}),
    ("-malform no-cookie -malform hops", {"malformed no-cookie": 0.5, "malformed hops": 0.5}),
    ("-malform no-cookie=0", {"stay": 1.0}),
    ("-mix stay,leave -malform hops=20%", {"stay": 0.4, "leave": 0.4, "malformed hops": 0.2})])
def test_mixes(line: str, mix: dict[str, float]) -> None:
    found = configured(*line.split()).mix
    assert {behaviour.name: pytest.approx(share) for behaviour, share in found} == mix


def test_times_of_behaviours() -> None:
    found = configured("-behaviour", "leave", "-hold=9s", "-return-after=3s", "-cycles=0",
                       "-time-scale=60")
    assert found.mix == ((BEHAVIOURS["leave"][1](Times(9.0, 3.0, 0)), 1.0),)
    assert found.time_scale == 60.0
    for word in ("forever", "Forever", "inf", "infinite"):
        assert configured(f"-hold={word}").mix[0][0].hold_s == float("inf")


@pytest.mark.parametrize(("line", "secs"), [
    ("", (0.0, 0.0)), ("-aging-after 10s -aging-for 5s", (10.0, 15.0)),
    ("-aging-for 5s", (0.0, 5.0)), ("-aging-after 10s", (10.0, 10.0 + 7 * DAY_S)),
    ("-aging-after 0", (0.0, 7 * DAY_S)), ("-aging-after 10s -aging-for 0", (10.0, 10.0))])
def test_secs(line: str, secs: tuple[float, float]) -> None:
    found = configured(*line.split())
    assert (found.secs_from_s, found.secs_to_s) == secs


def test_the_rest() -> None:
    found = configured("-renew-rate=10", "-release-rate=0.5", "-ring-slots=64", "-port=1067",
                       "-no-answer-arp", "-answer-ping=false", "-rapid-commit", "-broadcast-flag")
    assert (found.renew_rate, found.release_rate, found.ring_slots) == (10.0, 0.5, 64)
    assert found.where == replace(VETH, server_port=1067, answers_arp=False, answers_ping=False)
    assert found.where.client_port == 1068
    assert found.identity == Identity(rapid_commit=True, broadcast_flag=True)


@pytest.mark.parametrize(("text", "found"), [
    ("router", (3, cells.X_PRESENT, b"")), ("!router", (3, cells.X_ABSENT, b"")),
    ("router=10.0.0.1", (3, cells.X_EQUAL, b"\x0a\0\0\1")), ("51=1h", (51, 0, b"\0\0\x0e\x10")),
    ("3=10.0.0.1,10.0.0.2", (3, 0, b"\x0a\0\0\1\x0a\0\0\2")), ("12=a=b", (12, 0, b"a=b")),
    ("250=hex:00ff", (250, 0, b"\0\xff")), ("12=hex:61", (12, 0, b"a")),
    ("domain-name=lab", (15, 0, b"lab")), ("80", (80, cells.X_PRESENT, b""))])
def test_expectations(text: str, found: tuple[int, int, bytes]) -> None:
    assert configured("-expect", text).expects == (Expectation(text, *found),)


def test_expected_servers() -> None:
    names = [f"-expect-server=10.0.0.{host}" for host in range(1, cells.MOST_SERVERS)]
    found = configured(*names, *names).expect_servers
    assert found == tuple(IPv4Address(f"10.0.0.{host}") for host in range(1, cells.MOST_SERVERS))
    assert "64 servers, 63 is the most" in refusal(*names, "-expect-server=10.0.1.1")


@pytest.mark.parametrize(("line", "said"), [
    ("-rate 1 -stages 1s:1", "--rate and --stages are two loads: choose one"),
    ("-stages 1s:1 -avalanche", "--stages and --avalanche are two loads: choose one"),
    ("-avalanche -rate 1", "--rate and --avalanche are two loads: choose one"),
    ("-poisson", "Invalid value for --poisson: it spaces a rate: give --rate or --stages too"),
    ("-poisson -avalanche", "Invalid value for --poisson: an avalanche comes all at once"),
    ("-ramp 1s", "Invalid value for --ramp: it raises a rate: give --rate too"),
    ("-ramp 1s -avalanche", "Invalid value for --ramp: it raises a rate"),
    ("-ramp 1s -stages 1s:1", "Invalid value for --ramp: it raises a rate"),
    ("-stages 1s:1,x", "Invalid value for --stages: stage 2, 'x', is not a length and a rate"),
    ("-rate 1e7 -duration 1h", "this load takes 36,000,000,000 clients: more than 33,554,432"),
    ("-exchanges 0", "--exchanges 0 goes on for ever: give --duration"),
    ("-timeout 1h1s", "Invalid value for --timeout: must be from 1ms to 1h"),
    ("-timeout 0.9ms", "Invalid value for --timeout: must be from 1ms to 1h"),
    ("-duration 0.9ms", "Invalid value for --duration: must be at least 1ms"),
    ("-offer-wait 8d", "Invalid value for --offer-wait: must be at most 7 days"),
    ("-return-after 8d", "Invalid value for --return-after: must be at most 7 days"),
    ("-aging-for 8d", "Invalid value for --aging-for: must be at most 7 days"),
    ("-ring-slots 96", "Invalid value for --ring-slots: 96 is not a power of two"),
    ("-backoff 5s..4s", "Invalid value for --backoff: '5s..4s' is no back-off; write 4s..64s"),
    ("-max-drop 100.1%", "Invalid value for --max-drop: '100.1%': write 10, or 1%"),
    ("-max-drop nan", "Invalid value for --max-drop: 'nan': write 10, or 1%"),
    ("-behaviour stay -mix leave", "--behaviour and --mix both say what clients do: choose one"),
    ("-discover-only -mix leave", "--mix and --discover-only both say what clients do"),
    ("-behaviour stay=1", "Invalid value for --behaviour: 'stay=1' is more than one behaviour"),
    ("-behaviour sit", "Invalid value for --behaviour: no behaviour is called 'sit'; one of: stay"),
    ("-mix stay=1,sit=2", "Invalid value for --mix: no behaviour is called 'sit'"),
    ("-malform odd", "Invalid value for --malform: no malformation is called 'odd'; one of: "),
    ("-malform hops=1.5", "Invalid value for --malform: '1.5' is not a rate from 0 to 1"),
    ("-malform hops=0.6 -malform empty=0.6", "--malform: shares come to more than all clients"),
    ("-malform hops -malform hops=1%", "Invalid value for --malform: hops comes twice"),
    ("-preload 9 -clients 8", "--preload 9 is more than there are clients; raise --clients"),
    ("-clients 2 -mac-base 02:ff:ff:ff:ff:ff", "2 clients do not fit behind --mac-base"),
    ("-clients 2 -mac-base fe:ff:ff:ff:ff:ff", "2 clients do not fit behind --mac-base"),
    ("-mac-base ff:ff:ff:ff:ff:ff", "--mac-base: ff:ff:ff:ff:ff:ff is a multicast address"),
    ("-server 10.0.0.1 -vlan 7", "VLAN tags cannot be written through a UDP socket"),
    ("-server 10.0.0.1 -malform fragment=1%", "--malform fragment cannot be sent through a UDP"),
    ("-expect !router=1", "Invalid value for --expect: unknown DHCP option"),
    ("-expect 12=hex:{index}", "Invalid value for --expect: 'hex:{index}' differs from client"),
    ("-expect 51=soon", "Invalid value for --expect: "), ("-expect =1", "--expect: unknown DHCP"),
    ("-expect 256", "Invalid value for --expect: no DHCP option has code 256")])
def test_refusals(line: str, said: str) -> None:
    found = refusal(*line.split())
    assert said in found and "\n" not in found


def test_a_malformed_message_that_fits_into_a_socket() -> None:
    found = configured("-server=10.0.0.1", "-malform=no-cookie")
    assert found.mix[0][0].opening == cells.O_MALFORMED + 17


@given(st.lists(st.tuples(st.sampled_from(sorted(BEHAVIOURS)), st.integers(0, 1000)),
                min_size=1, max_size=10, unique_by=lambda each: each[0]),
       st.lists(st.tuples(st.sampled_from(["hops", "empty", "bad-op"]), st.integers(0, 33)),
                max_size=3, unique_by=lambda each: each[0]))
@settings(max_examples=50, deadline=None)
def test_shares_of_malformed_clients_come_off_all_others(
        mix: list[tuple[str, int]], spoilt: list[tuple[str, int]]) -> None:
    total = sum(share for _, share in mix)
    args = [f"-malform={name}={share}%" for name, share in spoilt]
    if total == 0:
        assert "all shares are 0" in refusal("-mix", "stay=0", *args)
        return
    found = configured("-mix", ",".join(f"{name}={share}" for name, share in mix), *args).mix
    left = 1 - sum(share for _, share in spoilt) / 100
    wanted = {name: share / total * left for name, share in mix if share}
    wanted |= {f"malformed {name}": share / 100 for name, share in spoilt if share}
    assert {b.name: share for b, share in found} == pytest.approx(
        {name: share for name, share in wanted.items() if share})


# Flag, environment, file, default.

Runs = Callable[..., TestConfig]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The whole command, up to where the test would begin."""
    taken: list[TestConfig] = []
    monkeypatch.setattr("tester.app.run_test", lambda config, _: taken.append(config))

    def run(*args: str) -> TestConfig:
        main_command.main(["-i=veth0", *args], "dhcp-tester", standalone_mode=False)
        return taken[-1]

    return run


def test_who_wins(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path("test.yaml")
    file.write_text("clients: 5\ntimeout: 6s\nretry: yes\nmax-discover-retries: 1\nseed: 1\n")
    monkeypatch.setenv("DHCP_CLIENTS", "7")
    monkeypatch.setenv("DHCP_TIMEOUT", "8s")
    monkeypatch.setenv("DHCP_SEED", "")
    found = runs("-config=test.yaml", "-clients=9")
    assert (found.clients, found.patience) == (9, Patience(8.0, 2, 4))
    # An empty variable is none.
    assert found.seed == 1
    assert runs("-config=test.yaml", "-no-retry").patience == Patience(8.0, 1, 1)
    assert runs("-clients=9").patience == Patience(8.0, 1, 1)
    monkeypatch.setenv("DHCP_CONFIG", "test.yaml")
    assert runs().clients == 7 and runs().seed == 1


def test_a_file_is_found_by_its_environment(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config").mkdir()
    Path("config/staging.yaml").write_text("client: {clients: 5}\n")
    Path("other.conf").write_text("clients=6\n")
    monkeypatch.setenv("DHCP_ENV", "staging")
    assert runs().clients == 5 and runs("-config", "other.conf").clients == 6
    monkeypatch.setenv("DHCP_ENV", "stagin")
    with pytest.raises(UserError, match="DHCP_ENV is 'stagin', which is no environment"):
        runs()


def test_lists_in_a_file_and_in_the_environment(runs: Runs, monkeypatch: pytest.MonkeyPatch,
                                                ) -> None:
    Path("t.yaml").write_text("expect: [router, '!dns']\nuser-class: one\nbackoff: 1s..2s\n")
    found = runs("-config=t.yaml")
    assert [each.text for each in found.expects] == ["router", "!dns"]
    assert len(found.identity.fields) == 1 and found.patience.backoff_s == (1.0, 2.0)
    assert [each.text for each in runs("-config=t.yaml", "-expect=51").expects] == ["51"]
    monkeypatch.setenv("DHCP_EXPECT", "router 51=60")
    assert [each.text for each in runs().expects] == ["router", "51=60"]


@pytest.mark.parametrize(("text", "said"), [
    # Refused while the file is read, while click looks at values, and when all are known.
    ("clients: 0", "t.yaml:1: clients: 0 is not in the range 1<=x<=33554432"),
    ("port: 67\nrate: nan", "t.yaml:2: rate: 'nan' is not a number"),
    ("server: ''", "t.yaml:1: server: it is empty"),
    ("interface: ''", "t.yaml:1: interface: it is empty"),
    ("port: 67\n\ntimeout: 2h", "t.yaml:3: timeout: must be from 1ms to 1h"),
    ("ring-slots: 96", "t.yaml:1: ring-slots: 96 is not a power of two"),
    ("# one\nmac_base: 01:00:00:00:00:00", "t.yaml:2: mac-base: 01:00:00:00:00:00 is a multicast"),
    ("ramp: 1s", "t.yaml:1: ramp: it raises a rate"),
    ("poisson: true", "t.yaml:1: poisson: it spaces a rate"),
    ("mix: sit", "t.yaml:1: mix: no behaviour is called 'sit'"),
    ("malform: [hops=1%, hops=2%]", "t.yaml:1: malform: hops comes twice"),
    ("hostname: '{who}'", "t.yaml:1: hostname: unknown variable 'who'"),
    ("server: 10.0.0.1\nrelay: 10.0.0.300", "t.yaml:2: relay: '10.0.0.300' is no address"),
    ("vlan: 4096", "t.yaml:1: vlan: 4096 is no VLAN"),
    ("max-drop: 200%", "t.yaml:1: max-drop: '200%': write 10, or 1%"),
    ("mac-list: none.txt", "t.yaml:1: mac-list: cannot read none.txt: No such file"),
    ("template: discover=none", "t.yaml:1: template: none: cannot be read"),
    ("raw-template: discover=none", "t.yaml:1: raw-template: none: cannot be read"),
    ("option: '12'", "t.yaml:1: option: '12' has no value"),
    ("expect: tea", "t.yaml:1: expect: unknown DHCP option"),
    ("offer: 0.0.0.0", "t.yaml:1: offer: 0.0.0.0 is not the address of a host"),
    ("backoff: soon", "t.yaml:1: backoff: 'soon' is not a duration")])
def test_the_line_of_the_file_is_blamed(text: str, said: str, runs: Runs) -> None:
    Path("t.yaml").write_text(text)
    with pytest.raises(NetlabError) as refused:
        runs("-config=t.yaml")
    assert refused.value.what.startswith(said) and refused.value.exit_code == 2
    assert refused.value.what.isprintable()


def test_a_flag_takes_the_blame_itself(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.yaml").write_text("timeout: 5s\nmac-base: 02:00:00:00:00:01\n")
    with pytest.raises(click.UsageError) as refused:
        runs("-config=t.yaml", "-timeout=2h")
    assert "for --timeout: must be" in refused.value.format_message()
    monkeypatch.setenv("DHCP_TIMEOUT", "2h")
    with pytest.raises(click.UsageError) as refused:
        runs("-config=t.yaml")
    assert "for --timeout: must be" in refused.value.format_message()
