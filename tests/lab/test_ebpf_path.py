"""`lab test --ebpf` and `lab watch`: what they count is what passed, and what they time adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.machine import Machine
from tests.ours import program

pytestmark = pytest.mark.root
CLIENTS = 300


def _tested(host: Machine, result: Path, *words: str, env: dict[str, str] | None = None,
            ) -> tuple[dict[str, Any], str]:
    done = host.run(host.lab_argv("test", *words, "--ebpf", "--json", str(result), "--",
                                  "--clients", str(CLIENTS)), env)
    document: dict[str, Any] = json.loads(result.read_text())
    return document, done.stdout


def _filters(host: Machine, namespace: str) -> str:
    return host.run(["ip", "netns", "exec", namespace, "tc", "qdisc", "show"]).stdout


@pytest.mark.bcc
@pytest.mark.parametrize("topology", [("direct",), ("relay", "--hops", "2")])
def test_every_place_counts_what_passed_and_its_times_add_up(
        host: Machine, tmp_path: Path, topology: tuple[str, ...]) -> None:
    document, said = _tested(host, tmp_path / "r.json", *topology)
    hops = int(topology[-1]) if len(topology) > 1 else 0
    places = document["path"]
    assert places[0]["kind"] == "client" and places[-1]["kind"] == "server"
    for place in places:
        assert place["losses"] == []
        if place["kind"] == "link":
            assert [way["lost"] for way in place["ways"]] == [0, 0]
            continue
        seen: dict[str, int] = {}
        for port in place["interfaces"]:
            assert port["in"]["malformed"] == port["in"]["fragments"] == 0
            assert port["in"]["checksums"]["bad_ip"] == port["in"]["checksums"]["bad_udp"] == 0
            for side in ("in", "out"):
                for message, count in port[side]["messages"].items():
                    seen[message] = seen.get(message, 0) + count["packets"]
        passes = 1 if place["kind"] in ("client", "server") else 2
        assert seen == dict.fromkeys(("discover", "offer", "request", "ack"), CLIENTS * passes)
    assert places[-1]["interfaces"][0]["in"]["hops"] == {str(hops): 2 * CLIENTS}
    for leg in ("discover_offer", "request_ack"):
        split = document["latency_parts"][leg]
        # Two messages that meet in one slot leave one of them untimed.
        assert CLIENTS * 0.9 <= split["timed"] <= CLIENTS
        assert split["sum_us"] == pytest.approx(split["at_interface_us"], rel=0.1)
        assert split["sum_us"] <= split["client_us"] * 1.1
    assert "stayed, mean us" in said
    assert host.names() == [], "the lab has been removed"


@pytest.mark.bcc
@pytest.mark.parametrize("mode", ["move", "macvlan"])
def test_an_interface_that_was_lent_is_a_place_too(host: Machine, tmp_path: Path,
                                                   mode: str) -> None:
    """What is behind it nobody here sees; the time that it took is still told."""
    host.run(["ip", "link", "add", "phys0", "type", "veth", "peer", "name", "far0"])
    for words in (["addr", "add", "10.9.0.1/16", "dev", "far0"], ["link", "set", "far0", "up"],
                  ["link", "set", "phys0", "up"]):
        host.run(["ip", *words])
    server = host.popen([*program("server"), "-i", "far0",
                         "--start-ip", "10.9.1.0", "--end-ip", "10.9.2.255",
                         "--netmask", "255.255.0.0"])
    assert server.stdout and "serving" in server.stdout.readline()
    done = host.lab("test", "--server", "external", "--attach", "phys0", "--attach-mode", mode,
                    "--ebpf", "--json", str(tmp_path / "r.json"), "--", "--clients", str(CLIENTS),
                    *["--broadcast-flag"] * (mode == "macvlan"))
    document = json.loads((tmp_path / "r.json").read_text())
    server.terminate()
    server.communicate(timeout=10)
    port, = (port for port in document["path"][0]["interfaces"] if port["ifname"] == "ext0")
    for side, messages in (("out", ("discover", "request")), ("in", ("offer", "ack"))):
        assert {message: count["packets"] for message, count in port[side]["messages"].items()
                } == dict.fromkeys(messages, CLIENTS)
    for split in document["latency_parts"].values():
        assert [part["place"] for part in split["parts"]] == ["outside the lab"]
        assert split["sum_us"] == pytest.approx(split["at_interface_us"], abs=0.01)
    assert "= outside the lab " in done.stdout


@pytest.mark.bcc
def test_a_lab_that_stands_keeps_no_counters(host: Machine, tmp_path: Path) -> None:
    host.lab("setup")
    _tested(host, tmp_path / "r.json")
    for node in ("client", "switch", "server"):
        assert "clsact" not in _filters(host, f"netlab-{node}")
    host.lab("teardown")


def test_without_bcc_the_test_is_run_and_nothing_is_zero(host: Machine, tmp_path: Path) -> None:
    document, said = _tested(host, tmp_path / "r.json", env={"DHCP_NETLAB_BCC": str(tmp_path)})
    assert document["verdict"] == "pass"
    assert document["path"] is None and "bcc" in document["path_not_measured"]
    assert "not measured: bcc" in said


@pytest.mark.bcc
def test_watch_shows_a_lab_and_leaves_nothing(host: Machine) -> None:
    host.lab("setup")
    done = host.run(host.lab_argv("watch", "--count", "2", "--interval", "100ms", "--json"))
    pictures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(picture["path"]) for picture in pictures] == [5, 5]
    assert "clsact" not in _filters(host, "netlab-server")
    host.lab("teardown")


@pytest.mark.parametrize("words", [("watch", "--sample", "3"), ("test", "--ebpf-sample", "8"),
                                   ("test", "--ebpf", "--ebpf-sample", "3")])
def test_a_sample_that_cannot_be_is_refused(host: Machine, words: tuple[str, ...]) -> None:
    assert host.lab(*words, code=2).stderr.count("\n") <= 2
