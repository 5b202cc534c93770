"""Each fault of dhcp-server is seen by dhcp-tester as what it was, count for count.

The one thing to know: most clients hold their lease for a while and so keep the tester
listening, after what a fault held back has come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.accounts import again, check_both, check_document, counted, lost
from tests.ours import POOL, Finished, OurServer, run_tester
from tests.peers.net import INTERFACE, Namespace, Net, quiet, two_namespaces

pytestmark = pytest.mark.root
CLIENTS = 150
LOAD = ("--clients", str(CLIENTS), "--concurrency", "32", "--timeout", "250ms")
HOLD = ("--behaviour", "stay", "--hold", "300ms")
# Until what was held back for 450 ms has come, even to the last who asked.
LONG_HOLD = ("--behaviour", "stay", "--hold", "900ms")
Counts = dict[str, int]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


def meet(net: Net, faults: str, *arguments: str, server: tuple[str, ...] = (),
         ) -> tuple[dict[str, Any], Counts, dict[str, Any]]:
    """One run against a server with these faults: document, how often each struck, its counts."""
    flags = [word for fault in faults.split() for word in ("--fault", fault)]
    with OurServer(net.server, (*POOL, "--seed", "5", *server, *flags)) as running:
        run = run_tester(net.client, *LOAD, *arguments)
        stats = running.stop()
    assert run.document, run.err
    check_both(run.document, stats)
    struck = stats["faults"]
    assert all(struck.values()), struck
    return run.document, struck, stats


def errors(document: dict[str, Any]) -> dict[str, Any]:
    return counted(document["errors"])


def answers(document: dict[str, Any]) -> dict[str, Counts]:
    """{reply: its classes that are not empty}."""
    found = {kind: counted(classes) for kind, classes in document["answers"].items()}
    return {kind: classes for kind, classes in found.items() if classes}


DROPS = "drop:offer:20% drop:ack:10% drop:request:10%"


def test_dropped_messages_are_lost_legs(net: Net) -> None:
    document, struck, _ = meet(net, DROPS)
    offers, requests = struck["drop:offer"], struck["drop:ack"] + struck["drop:request"]
    assert lost(document, "discover") == offers and lost(document, "request") == requests
    assert errors(document) == {"discover_timeout": offers, "request_timeout": requests}
    assert document["exchanges"]["failed"] == offers + requests
    assert answers(document) == {"offer": {"accepted": CLIENTS - offers},
                                 "ack": {"accepted": CLIENTS - offers - requests}}


def test_dropped_messages_are_sent_again_with_retry(net: Net) -> None:
    document, struck, _ = meet(net, DROPS, "--retry")
    assert again(document, "discover") == struck["drop:offer"]
    assert again(document, "request") == struck["drop:ack"] + struck["drop:request"]
    assert set(answers(document)) == {"offer", "ack"}
    assert errors(document).keys() <= {"discover_timeout", "request_timeout"}


DELAYS = "delay:offer:20%:delay=450ms delay:ack:20%:delay=450ms"


def test_answers_after_the_timeout_are_late(net: Net) -> None:
    document, struck, _ = meet(net, DELAYS, *LONG_HOLD)
    offers, acks = struck["delay:offer"], struck["delay:ack"]
    assert errors(document) == {"discover_timeout": offers, "request_timeout": acks,
                                "late": offers + acks}
    assert document["answers"]["offer"]["late"] == offers
    assert document["answers"]["ack"]["late"] == acks
    assert document["latency_us"]["request_ack"]["max"] < 250_000


def test_late_answers_to_what_was_repeated_are_taken_or_doubled(net: Net) -> None:
    """Same transaction: whichever answer comes first counts, the others are duplicates."""
    document, struck, stats = meet(net, DELAYS, *LONG_HOLD, "--retry")
    assert document["exchanges"]["completed"] == CLIENTS
    for kind, message in (("offer", "discover"), ("ack", "request")):
        repeated = document["legs"][message]["retransmitted"]
        assert 0 < repeated <= struck[f"delay:{kind}"]
        assert answers(document)[kind] == {"accepted": CLIENTS, "duplicate": repeated}
        assert stats["sent"][kind] == CLIENTS + repeated
    # Nobody waits longer than it takes to come late.
    assert document["latency_us"]["discover_offer"]["max"] < 550_000


def test_duplicates_are_counted_and_change_nothing(net: Net) -> None:
    document, struck, _ = meet(net, "duplicate:offer:30% duplicate:ack:30%", *HOLD, "--retry")
    assert document["verdict"] == "pass" and document["clients"]["bound"] == CLIENTS
    assert answers(document) == {
        "offer": {"accepted": CLIENTS, "duplicate": struck["duplicate:offer"]},
        "ack": {"accepted": CLIENTS, "duplicate": struck["duplicate:ack"]}}
    assert errors(document) == {"duplicate_answer": sum(struck.values())}


def test_reordered_answers_are_answers(net: Net) -> None:
    document, _, _ = meet(net, "reorder:offer+ack:30%", *HOLD)
    assert document["verdict"] == "pass" and errors(document) == {}
    assert document["clients"]["bound"] == CLIENTS


def test_naks_end_an_exchange(net: Net) -> None:
    document, struck, stats = meet(net, "nak:request:30%", *HOLD)
    naks = struck["nak:request"]
    assert errors(document) == {"nak": naks} and stats["sent"]["nak"] == naks
    assert document["legs"]["request"]["refused"] == naks == document["exchanges"]["failed"]
    assert document["servers"][0]["naks"] == naks


def test_naks_begin_it_anew_with_retry(net: Net) -> None:
    document, struck, _ = meet(net, "nak:request:30%", *HOLD, "--retry")
    naks, failed = struck["nak:request"], document["exchanges"]["failed"]
    assert errors(document) == {"nak": naks}
    # Four in a row are too many; each other one is followed by a DISCOVER.
    assert document["messages"]["discover"] == {"sent": CLIENTS + naks - failed, "retransmitted": 0}
    assert document["legs"]["request"]["refused"] == naks
    assert document["clients"]["bound"] == CLIENTS - failed


SPOILT = "wrong-xid:offer:15% wrong-xid:ack:15% corrupt-option:discover:15%:option=lease-time"


@pytest.mark.parametrize("retry", ["--retry", "--no-retry"])
def test_spoilt_answers_are_nobodys_or_malformed(net: Net, retry: str) -> None:
    """Both may befall one OFFER: a message that cannot be read has no transaction."""
    document, struck, _ = meet(net, SPOILT, *HOLD, retry)
    offers, acks, corrupt = struck.values()
    assert document["errors"]["malformed_by_reason"] == {"option_truncated": corrupt}
    nobodys = document["answers"]["offer"]["unknown_xid"]
    assert 0 < nobodys <= offers and again(document, "discover") == nobodys + corrupt
    assert document["answers"]["ack"]["unknown_xid"] == again(document, "request") == acks
    assert errors(document).keys() <= {"unknown_xid", "malformed", "malformed_by_reason",
                                       "discover_timeout", "request_timeout"}


def test_an_ack_by_another_server_binds_nobody(net: Net) -> None:
    document, struck, _ = meet(net, "wrong-server-id:ack:20%", *HOLD)
    wrong = struck["wrong-server-id:ack"]
    assert errors(document) == {"request_timeout": wrong, "wrong_server": wrong}
    assert document["clients"]["bound"] == CLIENTS - wrong
    others = [server for server in document["servers"] if server["server_id"] != "10.16.0.1"]
    assert len(others) == sum(server["acks"] for server in others) == wrong


def test_an_offer_in_another_name_is_named_and_asked_in_vain(net: Net) -> None:
    document, struck, stats = meet(net, "wrong-server-id:offer:20%", *HOLD,
                                   "--expect-server", "10.16.0.1")
    wrong = struck["wrong-server-id:offer"]
    assert errors(document) == {"request_timeout": wrong}
    assert stats["causes"]["other_server"] == wrong
    ours, *others = document["servers"]
    assert not ours["rogue"] and ours["offers"] == ours["chosen"] == ours["acks"]
    assert len(others) == wrong and all(server["rogue"] for server in others)
    assert all((server["offers"], server["chosen"], server["acks"]) == (1, 1, 0)
               for server in others)


def test_missing_options_are_malformed_or_not_as_expected(net: Net) -> None:
    document, struck, _ = meet(
        net, "missing-option:offer:20%:option=lease-time missing-option:ack:20%:option=router",
        *HOLD, "--expect", "router=10.16.0.1", "--expect", "router", "--expect", "!time-offset",
        "--expect", "router=10.16.0.2", server=("--gateway", "10.16.0.1"))
    offers, routers = struck.values()
    assert document["errors"]["malformed_by_reason"] == {"incomplete": offers}
    assert lost(document, "discover") == offers
    bound = document["clients"]["bound"]
    assert bound == CLIENTS - offers
    assert document["expectations"] == [
        {"expected": "router=10.16.0.1", "missing": routers, "different": 0},
        {"expected": "router", "missing": routers, "different": 0},
        {"expected": "!time-offset", "missing": 0, "different": 0},
        {"expected": "router=10.16.0.2", "missing": routers, "different": bound - routers}]
    assert document["errors"]["unexpected_option"] == 2 * routers + bound


def test_silence_is_lost_legs_in_its_time(net: Net) -> None:
    document, struck, stats = meet(net, "silence:every=400ms,for=150ms", "--rate", "150",
                                   "--timeout", "120ms")
    assert struck["drop"] == lost(document, "discover", "request") == stats["causes"]["fault"]
    assert document["messages"]["discover"]["sent"] == CLIENTS


def test_one_exchange_more_than_the_server_bears_is_lost(net: Net) -> None:
    document, _, stats = meet(net, "", "--concurrency", "100", server=("--max-concurrent", "4"))
    crowded = stats["causes"]["max_concurrent"]
    assert crowded > 0 and errors(document) == {"discover_timeout": crowded}


# What becomes of an ACK to an INFORM that comes late, twice, or under another number.
INFORMS = {
    "delay:inform:50%:delay=350ms": "late", "duplicate:inform:50%": "duplicate",
    "wrong-xid:inform:50%": "unknown_xid"}


@pytest.mark.parametrize("fault", INFORMS)
def test_acks_to_informs_are_sound_whenever_they_come(net: Net, fault: str) -> None:
    """They give no lease; so does no ACK to nobody. Who declines comes back, a second later."""
    document, struck, _ = meet(net, fault, "--mix", "inform=9,decline=1", "--hold", "10ms",
                               "--time-scale", "10")
    hits = next(iter(struck.values()))
    assert document["errors"]["malformed"] == 0
    assert document["answers"]["ack"][INFORMS[fault]] == hits
    assert lost(document, "inform") == (0 if "duplicate" in fault else hits)


def test_faults_of_renewals_are_seen_by_leg(net: Net) -> None:
    """A lease of four seconds, lived ten times faster: renewals, rebindings, leases lost."""
    document, struck, _ = meet(net, "drop:request:30% nak:request:5%", "--retry", "--behaviour",
                               "stay", "--hold", "9s", "--time-scale", "10", "--timeout", "50ms",
                               server=("--lease-time", "4s"))
    legs = ("request", "renew", "rebind")
    assert again(document, *legs) == struck["drop:request"]
    assert document["errors"]["nak"] == struck["nak:request"]
    assert document["legs"]["renew"]["answered"] > CLIENTS
    naks = sum(document["legs"][leg]["refused"] for leg in ("renew", "rebind"))
    assert document["clients"]["leases_lost"] >= naks
    assert document["exchanges"]["returned"] == document["clients"]["leases_lost"]


ROGUE = "10.16.0.9"
ROGUE_POOL = ("--start-ip", "10.24.0.0", "--end-ip", "10.24.255.255")


@contextlib.contextmanager
def third(net: Net) -> Iterator[Namespace]:
    """One more namespace on the bridge, with ROGUE's address."""
    assert net.bridge
    space = Namespace(net.client.name.removesuffix("client") + "rogue")
    quiet(space)
    try:
        net.bridge.ip(f"link add rogue index 40 type veth peer name {INTERFACE} index 41 "
                      f"netns {space.name}\nlink set rogue master br0 up\n")
        space.ip(f"link set lo up\naddr add {ROGUE}/12 dev {INTERFACE}\nlink set {INTERFACE} up\n")
        yield space
    finally:
        space.close()


def by_server(run: Finished) -> dict[str, dict[str, Any]]:
    check_document(run.document)
    return {server["server_id"]: server for server in run.document["servers"]}


def test_a_rogue_server_is_named_and_offers_are_chosen_as_told() -> None:
    count, ours = 60, "10.16.0.1"
    load = ("--clients", str(count), "--concurrency", "8", "--timeout", "1s", *HOLD,
            "--expect-server", ours)
    with two_namespaces(bridge=True) as net, third(net) as space, \
            OurServer(net.server, (*POOL, "--lease-time", "1h", "--response-delay", "20ms")), \
            OurServer(space, (*ROGUE_POOL, "--lease-time", "2h")) as rogue:
        rows = [("first", ROGUE, 0), (ours, ours, 1), ("all", ROGUE, 2)]
        for offer, chosen, number in rows:
            run = run_tester(net.client, *load, "--mac-base", f"02:00:00:00:{number:02x}:00",
                             "--offer", offer, "--offer-wait", "150ms")
            assert run.code == 0, run.out
            servers = by_server(run)
            assert {name: server["rogue"] for name, server in servers.items()} == {
                ours: False, ROGUE: True}
            other = ROGUE if chosen == ours else ours
            assert [servers[name]["chosen"] for name in (chosen, other)] == [count, 0]
            assert [servers[name]["acks"] for name in (chosen, other)] == [count, 0]
            assert {server["offers"] for server in servers.values()} == {count}
            assert errors(run.document) == {}
            assert {row["server_id"] for row in run.clients} == {chosen}
            # The offer of the one is better than that of the other, which came before or after.
            offers = run.document["answers"]["offer"]
            assert offers["accepted"] == offers["not_chosen"] == count
        rogue_stats = rogue.stop()
    assert rogue_stats["sent"]["offer"] == count * len(rows)
