"""The built-in networks, sweeps and comparisons, with true programs from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.machine import Machine, machine
from tests.peers.bin import peers_bin

pytestmark = pytest.mark.root
OURS = ("dhcp-server", "dhcp-relay", "dhcp-tester")


def lab(host: Machine, *words: str, peers: tuple[str, ...] = (), code: int = 0) -> str:
    """What `lab` with these words says on standard output; it leaves nothing."""
    before = host.snapshot()
    said = host.run(host.lab_argv(*words), {"DHCP_NETLAB_BIN": str(peers_bin(*OURS, *peers))},
                    code=code)
    assert host.snapshot() == before
    return said.stdout


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_star_clients_of_each_segment_get_its_addresses(tmp_path: Path) -> None:
    result, rows = tmp_path / "r.json", tmp_path / "c.csv"
    with machine() as host:
        lab(host, "test", "star", "--segments", "6", "--json", str(result), "--clients-csv",
            str(rows), "--", "--clients", "90", "--retry")
    document = read(result)
    assert (document["verdict"], document["clients"]["bound"]) == ("pass", 90)
    assert [each["bound"] for each in document["interfaces"]] == [15] * 6
    leases = document["lab"]["leases"]
    assert (leases["agree"], leases["wrong_subnet"], leases["unheld"]) == (90, 0, 0)
    # 10.128.0.0/9 in eight parts; the n-th segment has the n-th.
    for line in rows.read_text().splitlines()[1:]:
        *_, interface = line.split(",")
        second = int(line.split(",")[3].split(".")[1])
        assert (second - 128) // 16 == int(interface.removeprefix("eth"))
    relayed = [side["stats"]["requests"]["relayed"] for side in document["lab"]["relays"]]
    assert len(relayed) == 6 and all(each["discover"] == 15 for each in relayed)


def test_many_relays_of_ours_are_one_process_and_counted_one_by_one(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    with machine() as host:
        said = lab(host, "test", "star", "--segments", "20", "--json", str(result), "--",
                   "--clients", "100", "--retry")
    document = read(result)
    assert (document["clients"]["bound"], document["lab"]["leases"]["agree"]) == (100, 100)
    sides = document["lab"]["relays"]
    assert [side["node"] for side in sides] == [f"relay{i}" for i in range(1, 21)]
    assert {side["shared_by"] for side in sides} == {20}
    assert {side["stats"]["requests"]["relayed"]["discover"] for side in sides} == {5}
    assert "20 relays in one process" in said


def test_rogue_is_named_and_what_it_gave_is_no_pass(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    with machine() as host:
        # A client takes what comes first: who answers first here is not left to chance.
        said = lab(host, "test", "rogue", "--server-option", "--response-delay=100ms", "--json",
                   str(result), "--", "--clients", "200", code=3)
    document = read(result)
    leases, sides = document["lab"]["leases"], document["lab"]["servers"]
    assert document["verdict"] == "incomplete" and "verdict    INCOMPLETE" in said
    assert leases["clients"] == leases["agree"] == 200
    taken = sides[1]["stats"]["sent"]["ack"]
    assert leases["wrong_subnet"] == taken > 0
    assert [side.get("rogue") for side in sides] == [None, True]
    assert "rogue server 192.168.0.1" in said


def test_redundant_servers_share_the_clients(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    with machine() as host:
        lab(host, "test", "redundant", "--json", str(result), "--", "--clients", "120", "--retry")
    document = read(result)
    lab_ = document["lab"]
    assert (document["clients"]["bound"], lab_["leases"]["agree"]) == (120, 120)
    assert [side["node"] for side in lab_["servers"]] == ["server1", "server2"]
    # Each of two relays hands each DISCOVER to each of two servers.
    for side in lab_["relays"]:
        assert side["stats"]["requests"]["relayed"]["discover"] == 2 * 120


def test_a_sweep_finds_the_hop_at_which_exchanges_die_and_who_dropped_them(
        tmp_path: Path) -> None:
    result = tmp_path / "sweep.json"
    with machine() as host:
        said = lab(host, "test", "relay", "--hops", "1..4", "--max-hops", "2", "--json",
                   str(result), "--", "--clients", "50", code=3)
    series = read(result)
    assert (series["schema"], series["kind"]) == ("dhcp-netlab/series/1", "hops")
    rows = series["rows"]
    # RFC 1542 section 4.1.1: discarded where `hops` exceeds 2, so the fourth relay does it.
    assert [row["completed"] == row["begun"] for row in rows] == [True, True, True, False]
    begun = rows[3]["begun"]
    assert rows[3]["completed"] == 0
    assert rows[3]["discarded"] == [f"relay4: hops_exceeded {begun}"]
    assert rows[1]["added_us_per_hop"] == pytest.approx(
        rows[1]["dora_p50_us"] - rows[0]["dora_p50_us"], abs=0.1)
    assert len(series["results"]) == 4 and "relay4: hops_exceeded" in said


def test_the_server_that_drops_is_named(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    with machine() as host:
        said = lab(host, "test", "relay", "--hops", "2", "--json", str(result),
                   "--server-option", "--max-hops", "--server-option", "1",
                   "--", "--clients", "5", "--timeout", "200ms", code=3)
    assert "server: max_hops 5" in said
    assert read(result)["lab"]["server"]["discarded"]["max_hops"] == 5


@pytest.mark.peers("kea-dhcp4", "dnsmasq")
def test_compare_gives_one_table_and_one_document(tmp_path: Path) -> None:
    result = tmp_path / "compare.json"
    with machine() as host:
        said = lab(host, "compare", "kea", "dnsmasq", "dhcp-server", "--rounds", "2", "--json",
                   str(result), "--", "--clients", "60", "--retry",
                   peers=("kea-dhcp4", "dnsmasq"))
    series = read(result)
    assert [row["label"] for row in series["rows"]] == ["kea", "dnsmasq", "dhcp-server"]
    assert [row["leases"] for row in series["rows"]] == ["agree"] * 3
    assert [row["rounds"] for row in series["rows"]] == [2] * 3
    order = [each["lab"]["server"]["program"] for each in series["results"]]
    assert order == ["kea", "dnsmasq", "dhcp-server"] * 2  # in turn, not one after another
    assert all(name in said for name in ("kea", "dnsmasq", "dhcp-server", "agree"))


@pytest.mark.parametrize("words,said", [
    (("test", "relay", "--hops", "5..2"), "smaller first"),
    (("test", "direct", "--hops", "2"), "--hops says nothing of topology direct"),
    (("test", "direct", "--max-hops", "2"), "has no relay"),
    (("test", "relay", "--segments", "2"), "--segments says nothing of topology relay"),
    (("test", "triangle"), "no topology 'triangle'"),
    (("test", "--server", "nosuch"), "no server 'nosuch'"),
    (("test", "relay", "--relay", "nosuch"), "no relay 'nosuch'"),
    (("test", "--server", "command"), "a command without words"),
    (("test", "--server", "command", "--server-option", "'unbalanced"), "close its quotes"),
    (("test", "--lease-time", "0"), "at least a second"),
    (("test", "--logs", "/proc/x"), "--logs /proc/x"),
    (("compare", "dhcp-server", "dhcp-server"), "is named 2 times"),
    (("compare", "dhcp-server", "--", "--clients", "many"), "'many' is not a valid"),
    (("test", "relay", "--hops", "1", "--relay", "dnsmasq", "--option82", "append"), "dnsmasq"),
    (("test", "relay", "--server", "udhcpd"), "udhcpd"),
    (("test", "--", "--interface", "eth9"), "the lab knows where its clients are"),
    (("setup", "relay", "--hops", "1..3"), "is for `lab test` alone"),
    (("compare", "kea", "nosuch"), "no server 'nosuch'"),
    (("compare",), "Missing argument"),
])
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_made(
        words: tuple[str, ...], said: str) -> None:
    with machine() as host:
        before = host.snapshot()
        refused = host.run(host.lab_argv(*words),
                           {"DHCP_NETLAB_BIN": str(peers_bin(*OURS))}, code=None)
        assert refused.returncode in (1, 2) and said in refused.stderr, refused.stderr
        assert len(refused.stderr.splitlines()) <= 4 and "Traceback" not in refused.stderr
        assert host.snapshot() == before
