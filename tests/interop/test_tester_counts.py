"""What dhcp-tester says it did, against what passed on the wire and what the server counted.

The one thing to know: a capture is taken at the bridge's port towards the client, where every
frame passes in both directions.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fastpath.wire import REASON_NAMES, Reason
from tester.malformations import NAMES
from tests.accounts import check_both, check_document, counted
from tests.ours import (
    POOL,
    START_S,
    Finished,
    OurServer,
    OurTester,
    entered,
    program,
    run_tester,
)
from tests.peers.capture import Capture, fields, problems
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root
MIX = "stay=3,release=1,flap=1,decline=1,reboot=1,inform=1,leave=1,handover=1"
LIVES = ("--mix", MIX, "--hold", "200ms", "--return-after", "100ms", "--time-scale", "10",
         "--timeout", "1s")
SERVER_ID = "10.16.0.1"
KINDS = {"1": "discover", "2": "offer", "3": "request", "4": "decline", "5": "ack", "6": "nak",
         "7": "release", "8": "inform"}
NOWHERE, EVERYBODY = "0.0.0.0", "255.255.255.255"

_NAMES = {
    "at": "frame.time_epoch", "from_mac": "eth.src", "to_mac": "eth.dst", "source": "ip.src",
    "target": "ip.dst", "ports": "udp.port", "op": "dhcp.type", "xid": "dhcp.id",
    "chaddr": "dhcp.hw.mac_addr", "kind": "dhcp.option.dhcp", "ciaddr": "dhcp.ip.client",
    "yiaddr": "dhcp.ip.your", "giaddr": "dhcp.ip.relay", "secs": "dhcp.secs",
    "flags": "dhcp.flags", "options": "dhcp.option.type",
    "wanted": "dhcp.option.requested_ip_address", "server": "dhcp.option.dhcp_server_id",
    "asked_for": "dhcp.option.request_list_item"}
Row = dict[str, str]


def messages(path: Path) -> list[Row]:
    """Every DHCP message of a capture, by the names above; `kind` by name, options as codes."""
    found = []
    for row in fields(path, list(_NAMES.values())):
        named = {ours: row[theirs] for ours, theirs in _NAMES.items()}
        # tshark names chaddr once more where it is in option 61.
        named["chaddr"] = named["chaddr"].split(",")[0]
        found.append(named | {"kind": KINDS[named["kind"]]})
    return found


def which(row: Row) -> str:
    """Which message of ours it is: what the four kinds of REQUEST differ in (RFC 2131 4.3.6)."""
    if row["kind"] != "request":
        return row["kind"]
    if row["server"]:
        return "request"
    return "reboot" if row["wanted"] else "renew" if row["target"] != EVERYBODY else "rebind"


# RFC 2131 table 5, and 4.4.4 to 4.4.6. From whom, to whom; ciaddr; options 50 and 54.
# ADDRESS: the client's own.
ADDRESS = "its own"
TABLE_5 = {
    "discover": (NOWHERE, EVERYBODY, NOWHERE, "may", "must not"),
    "request": (NOWHERE, EVERYBODY, NOWHERE, "must", "must"),
    "reboot": (NOWHERE, EVERYBODY, NOWHERE, "must", "must not"),
    "renew": (ADDRESS, SERVER_ID, ADDRESS, "must not", "must not"),
    "rebind": (ADDRESS, EVERYBODY, ADDRESS, "must not", "must not"),
    "inform": (ADDRESS, SERVER_ID, ADDRESS, "must not", "must not"),
    "decline": (NOWHERE, EVERYBODY, NOWHERE, "must", "must"),
    "release": (ADDRESS, SERVER_ID, ADDRESS, "must not", "must"),
}


def check_table_5(row: Row, asked_for: str) -> None:
    name = which(row)
    source, target, ciaddr, wanted, server = TABLE_5[name]
    own = row["ciaddr"]
    assert row["source"] == (own if source is ADDRESS else source), row
    assert row["target"] == target, row
    assert (own != NOWHERE) if ciaddr is ADDRESS else (own == ciaddr), row
    assert row["to_mac"] == "ff:ff:ff:ff:ff:ff" or target == SERVER_ID, row
    assert row["from_mac"] == row["chaddr"] and row["ports"] == "68,67", row
    assert (row["op"], row["giaddr"], row["yiaddr"]) == ("1", NOWHERE, NOWHERE), row
    codes = row["options"].split(",")
    assert codes[0] == "53" and len(set(codes)) == len(codes), row
    for code, rule in (("50", wanted), ("54", server)):
        assert rule == "may" or (code in codes) == (rule == "must"), row
    assert not row["server"] or row["server"] == SERVER_ID, row
    assert int(row["flags"], 16) == 0, row
    if name in ("decline", "release"):
        # All others MUST NOT, but who names himself does so throughout (RFC 2131 section 4.2).
        assert set(codes) - {"0", "255"} <= {"53", "54", "50", "61"}, row
        assert row["secs"] == "0", row
    else:
        assert row["asked_for"] == asked_for, row
        assert {"12", "60", "61"} <= set(codes), row


def check_transactions(rows: list[Row]) -> None:
    """A transaction has one client and one id, that of its answers too."""
    whose: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        whose[row["xid"]].add(row["chaddr"])
    assert all(len(clients) == 1 for clients in whose.values())
    said = {(row["xid"], row["kind"]) for row in rows}
    for row in rows:
        if row["kind"] == "offer":
            assert (row["xid"], "discover") in said
        if row["kind"] == "request" and row["server"]:
            assert (row["xid"], "offer") in said, "a REQUEST repeats the xid of its OFFER"


def repeated(rows: list[Row], kind: str) -> int:
    """Messages of a type that came before with the same id."""
    ids = [row["xid"] for row in rows if row["kind"] == kind]
    return len(ids) - len(set(ids))


def exchange_us(rows: list[Row]) -> dict[str, float]:
    """Microseconds from the DISCOVER to the ACK of each client's last exchange."""
    began: dict[str, float] = {}
    spans: dict[str, float] = {}
    for row in rows:
        at = float(row["at"]) * 1e6
        if row["kind"] == "discover":
            began[row["xid"]] = min(began.get(row["xid"], at), at)
        elif row["kind"] == "ack" and row["xid"] in began:
            spans[row["chaddr"]] = at - began[row["xid"]]
    return spans


@pytest.mark.peers("tshark")
@pytest.mark.parametrize("faults", [(), ("--fault", "drop:8%", "--seed", "11")],
                         ids=["sound", "lossy"])
def test_lives_are_on_the_wire_as_they_are_told(tmp_path: Path, faults: tuple[str, ...]) -> None:
    with two_namespaces(bridge=True) as net, OurServer(net.server, (*POOL, *faults)) as server, \
            Capture(tmp_path / "run.pcapng", *net.tap) as capture:
        run = run_tester(
            net.client, "--clients", "100", "--concurrency", "8", *LIVES, "--hostname",
            "host{index}", "--client-id", "hex:01{mac}", "--vendor-class", "lab",
            "--request-options", "1,3,121", "--timeout", "300ms", "--retry")
        capture.stop()
        check_both(run.document, server.stop())
    assert capture.dropped == 0
    found = problems(capture.path)
    assert not found.wrong, found
    rows = messages(capture.path)
    document = run.document
    by_kind = Counter(row["kind"] for row in rows)
    for kind, entry in document["messages"].items():
        assert by_kind[kind] == entry.get("sent", entry.get("received")), kind
        if "retransmitted" in entry:
            assert repeated(rows, kind) == entry["retransmitted"], kind
    ours = [row for row in rows if row["op"] == "1"]
    assert Counter(map(which, ours)) == {
        name: leg["sent"] for name, leg in document["legs"].items() if leg["sent"]}
    assert bool(document["legs"]["discover"]["retransmitted"]) == bool(faults)
    for row in ours:
        check_table_5(row, "1,3,121")
    check_transactions(rows)
    spans = exchange_us(rows)
    measured = {row["chaddr"]: float(row["dora_us"]) for row in run.clients if row["dora_us"]}
    assert len(measured) >= 90
    # Who hands over has another name by now than the list has.
    apart = [abs(measured[name] - spans[name]) for name in measured if name in spans]
    assert len(apart) >= 80
    assert statistics.median(apart) <= 150 and sorted(apart)[len(apart) * 9 // 10] <= 3000


def test_renewals_are_unicast_by_who_holds_the_address(tmp_path: Path) -> None:
    """T1 to the server, T2 to everybody: half and seven eighths of a lease."""
    faults = ("--fault", "drop:ack:45%", "--seed", "3", "--lease-time", "8s")
    with two_namespaces(bridge=True) as net, OurServer(net.server, (*POOL, *faults)) as server, \
            Capture(tmp_path / "run.pcapng", *net.tap) as capture:
        run = run_tester(net.client, "--clients", "40", "--behaviour", "stay", "--hold", "12s",
                         "--time-scale", "10", "--timeout", "50ms", "--hostname", "h{index}",
                         "--client-id", "hex:01{mac}", "--vendor-class", "lab",
                         "--request-options", "1")
        capture.stop()
        check_both(run.document, server.stop())
    ours = [row for row in messages(capture.path) if row["op"] == "1"]
    for row in ours:
        check_table_5(row, "1")
    legs = run.document["legs"]
    assert Counter(map(which, ours)) == {name: leg["sent"] for name, leg in legs.items()
                                         if leg["sent"]}
    assert legs["renew"]["lost"] and legs["rebind"]["sent"]
    lost = sum(leg["lost"] for leg in legs.values())
    assert lost == server.stats["faults"]["drop:ack"]


def ping(space: Namespace, addresses: list[IPv4Address], wait_s: float = 0.6) -> set[IPv4Address]:
    """Who answers an echo request that the namespace's kernel routes, asking by ARP first."""
    with entered(space):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        for number, address in enumerate(addresses):
            head = struct.pack("!BBHHH", 8, 0, 0, 0x5151, number)
            total = sum(struct.unpack("!4H", head)) + 0x6162
            while total >> 16:
                total = (total >> 16) + (total & 0xFFFF)
            echo = struct.pack("!BBHHH2s", 8, 0, ~total & 0xFFFF, 0x5151, number, b"ab")
            sock.sendto(echo, (str(address), 0))
        found, until = set(), time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                packet, (source, _) = sock.recvfrom(2048)
            except TimeoutError:
                break
            if packet[20] == 0 and packet[24:26] == b"\x51\x51":
                found.add(IPv4Address(source))
    return found


def resolved(space: Namespace, interface: str = INTERFACE) -> dict[str, str]:
    """{address: hardware address} of what the kernel found by ARP."""
    told = space.run(["ip", "-json", "neigh", "show", "dev", interface]).stdout
    return {entry["dst"]: entry["lladdr"] for entry in json.loads(told or "[]")
            if "lladdr" in entry}


ARP_ROWS: list[tuple[tuple[str, ...], bool, bool]] = [
    ((), True, True), (("--no-answer-ping",), True, False), (("--no-answer-arp",), False, False)]


@pytest.mark.parametrize(("flags", "arp", "echo"), ARP_ROWS)
def test_who_is_bound_answers_arp_and_ping(flags: tuple[str, ...], arp: bool, echo: bool) -> None:
    lives = ("--clients", "12", "--mix", "stay=1,release=1,leave=1", "--hold", "50ms",
             "--return-after", "1h")
    with two_namespaces() as net, OurServer(net.server) as server, \
            OurTester(net.client, (*lives, *flags)) as test:
        # Who goes away without a word goes when the others give theirs back.
        wait_until("releases", lambda: server.dump()["received"]["release"] == 4, START_S)
        time.sleep(0.2)
        answered = ping(net.server, [IPv4Address("10.16.1.0") + i for i in range(12)])
        neighbours = resolved(net.server)
        test.process.send_signal(signal.SIGINT)
        run = test.finish()
    check_document(run.document)
    bound = {row["yiaddr"]: row["chaddr"] for row in run.clients if row["outcome"] == "bound"}
    assert Counter(row["outcome"] for row in run.clients) == {"bound": 4, "waiting": 8}
    assert neighbours == (bound if arp else {})
    assert {str(address) for address in answered} == (set(bound) if echo else set())
    counts = run.document["neighbours"]
    assert counts["pings_answered"] == (4 if echo else 0)
    assert counts["arp_answered"] >= 4 if arp else counts["arp_answered"] == 0


# linux/socket.h, linux/if_packet.h
_SOL_PACKET, _PACKET_AUXDATA, _VLAN_VALID = 263, 8, 1 << 4


def ask_tagged(space: Namespace, address: IPv4Address, tags: list[tuple[int, int]],
               wait_s: float = 0.3) -> list[tuple[str, list[int]]]:
    """Ask by ARP in these VLANs, outermost first: (who answers, in which VLANs) of each answer."""
    mac = bytes.fromhex(space.mac().replace(":", ""))
    head = b"\xff" * 6 + mac + b"".join(struct.pack("!HH", *tag) for tag in tags)
    request = struct.pack("!HHHBBH6s4s6s4s", 0x0806, 1, 0x0800, 6, 4, 1, mac,
                          IPv4Address(SERVER_ID).packed, bytes(6), address.packed)
    with entered(space):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    found: list[tuple[str, list[int]]] = []
    with sock:
        sock.bind((INTERFACE, 3))
        sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        sock.send(head + request)
        until = time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                frame, extra, _, _ = sock.recvmsg(2048, 64)
            except TimeoutError:
                break
            vlans = []
            for _, _, data in extra:
                # struct tpacket_auxdata: the kernel takes the outer tag out of the frame.
                status, *_, vlan, _ = struct.unpack("IIIHHHH", data)
                vlans += [vlan] if status & _VLAN_VALID else []
            at = 12
            while frame[at:at + 2] in (b"\x81\x00", b"\x88\xa8"):
                vlans.append(struct.unpack_from("!H", frame, at + 2)[0])
                at += 4
            if frame[at:at + 2] == b"\x08\x06" and frame[at + 9] == 2:
                found.append((frame[at + 10:at + 16].hex(":"), vlans))
    return found


def test_tagged_clients_are_served_and_answer_arp_in_their_vlan() -> None:
    """Our server echoes up to two tags; a third one makes a frame that is none for it."""
    with two_namespaces() as net, OurServer(net.server) as server:
        for vlan, bound in (("{300+index%3}", 20), ("1.2.3", 0)):
            run = run_tester(net.client, "--clients", "20", "--vlan", vlan, "--timeout", "300ms")
            check_document(run.document)
            assert run.document["clients"]["bound"] == bound, vlan
        assert server.dump()["refused"]["not_ipv4"] == 20
        with OurTester(net.client, ("--clients", "2", "--vlan", "100.200", "--mac-base",
                                    "02:77:00:00:00:00", "--behaviour", "flap", "--hold",
                                    "1h")) as test:
            wait_until("leases", lambda: server.dump()["sent"]["ack"] == 22, START_S)
            held = IPv4Address("10.16.1.0") + 20
            double = ask_tagged(net.server, held, [(0x88A8, 100), (0x8100, 200)])
            test.process.send_signal(signal.SIGINT)
            run = test.finish()
        check_document(run.document)
        assert run.clients[0]["yiaddr"] == str(held)
        assert double == [(run.clients[0]["chaddr"], [100, 200])]
        assert run.document["neighbours"]["arp_answered"] == 1
        assert server.stop()["rx_ring_drops"] == 0


def test_malformed_messages_meet_silence_and_are_counted_by_their_reason() -> None:
    each = 4
    kinds = [word for row in NAMES for word in ("--malform", row.name)]
    with two_namespaces() as net, OurServer(net.server) as server:
        run = run_tester(net.client, "--clients", str(each * len(NAMES)), "--timeout", "300ms",
                         *kinds)
        stats = server.stop()
    document = run.document
    assert run.code == 0, run.out
    assert document["malformed_sent"] == each * len(NAMES) == document["legs"]["discover"]["sent"]
    check_both(document, stats)
    expected = Counter({REASON_NAMES[row.reason]: 0 for row in NAMES})
    for row in NAMES:
        if row.reason != Reason.OK:
            expected[REASON_NAMES[row.reason]] += each
    assert counted(stats["refused"]) == counted(expected)
    ignored = document["legs"]["discover"]["ignored"]
    answered = document["errors"]["malformed_answered"]
    assert ignored + answered == each * len(NAMES)
    silent = sum(row.silent for row in NAMES)
    assert ignored >= each * silent
    assert answered == stats["sent"]["offer"]


def test_kinds_that_must_be_ignored_are() -> None:
    silent = [row for row in NAMES if row.silent]
    kinds = [word for row in silent for word in ("--malform", row.name)]
    with two_namespaces() as net, OurServer(net.server) as server:
        run = run_tester(net.client, "--clients", str(3 * len(silent)), "--timeout", "300ms",
                         *kinds)
        assert sum(server.stop()["sent"].values()) == 0
    assert run.document["errors"]["malformed_answered"] == 0 == run.code
    assert run.document["legs"]["discover"]["ignored"] == 3 * len(silent)


# Arguments and what the tester says to them, in one line and one more.
WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("--interface", "nope0"), 1, "nope0"),
    (("--mix", "fly=1"), 2, "fly"),
    (("--malform", "nonsense"), 2, "nonsense"),
    (("--max-drop", "101%"), 2, "--max-drop"),
    (("--relay", "10.1.0.1"), 2, "--server"),
    (("--json", "/dev/full"), 1, "/dev/full"),
    (("--server", "10.99.0.1"), 1, "10.99.0.1"),
]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


@pytest.mark.parametrize(("arguments", "code", "names"), WRONG,
                         ids=[" ".join(row[0]) for row in WRONG])
def test_what_cannot_be_done_is_said_in_a_line(net: Net, arguments: tuple[str, ...], code: int,
                                               names: str) -> None:
    where = () if {"--interface", "--server"} & set(arguments) else ("--interface", INTERFACE)
    done = net.client.run([*program("tester"), *where, "--clients", "3", "--timeout", "50ms",
                           *arguments], check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == code, done.stderr
    assert lines[0].startswith("dhcp-tester: ") and names in lines[0] and len(lines) <= 2, lines


def test_without_the_right_to_it_says_so(net: Net) -> None:
    done = net.client.run(["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw",
                           *program("tester"), "--interface", INTERFACE], check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 2, done.stderr
    assert "sudo" in lines[1] or "root" in lines[1], lines


def interrupted(net: Net, server: OurServer, arguments: tuple[str, ...], times: int) -> Finished:
    with OurTester(net.client, arguments) as test:
        before = server.dump()["received"]["discover"]
        wait_until("the load", lambda: server.dump()["received"]["discover"] > before, START_S)
        for _ in range(times):
            test.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        return test.finish()


def test_losses_drains_and_ctrl_c_end_a_test_that_is_written_down(net: Net) -> None:
    load = ("--clients", "200", "--concurrency", "8", "--timeout", "1s")
    with OurServer(net.server, (*POOL, "--fault", "drop:100%")) as server:
        run = run_tester(net.client, *load, "--timeout", "100ms", "--max-drop", "5")
        assert run.code == 3 and "--max-drop" in run.document["stopped"]
        # Looked at ten times a second: no more than two rounds are lost before it is seen.
        assert 5 < run.document["errors"]["discover_timeout"] <= 24
        assert run.document["exchanges"]["in_flight"] == 0
        check_document(run.document)

        run = run_tester(net.client, *load, "--timeout", "100ms", "--max-drop", "10%")
        assert run.code == 3 and "10 %" in run.document["stopped"]
        assert 10 <= run.document["exchanges"]["failed"] <= 40

        run = run_tester(net.client, "--clients", "8", "--timeout", "30s", "--drain", "200ms")
        assert run.code == 3 and 0.15 < run.document["duration_s"] < 2
        assert run.document["legs"]["discover"]["open"] == 8
        check_document(run.document)

        once = interrupted(net, server, load, 1)
        assert (once.code, once.document["verdict"]) == (3, "incomplete")
        assert once.document["interrupted"]
        assert once.document["legs"]["discover"]["lost"] == 8
        assert once.document["exchanges"]["in_flight"] == 0

        twice = interrupted(net, server, (*load, "--timeout", "60s"), 2)
        assert (twice.code, twice.document["interrupted"]) == (3, True)
        assert twice.document["legs"]["discover"]["open"] == 8
        assert twice.document["exchanges"]["in_flight"] == 8
        for run in (once, twice):
            check_document(run.document)
            assert len(run.clients) == 200
            outcomes = Counter(row["outcome"] for row in run.clients)
            assert outcomes == {"timeout_discover": 8, "not_started": 192}


def test_an_interface_that_goes_away_is_said_and_what_was_before_is_written_down() -> None:
    with two_namespaces() as net, OurServer(net.server) as server, \
            OurTester(net.client, ("--rate", "100", "--duration", "30s")) as test:
        wait_until("the load", lambda: server.dump()["sent"]["ack"] > 20, START_S)
        net.client.ip(f"link set {INTERFACE} down\n")
        run = test.finish()
    lines = run.err.splitlines()
    assert run.code == 1 and len(lines) == 2, run.err
    assert lines[0].startswith("dhcp-tester: ") and INTERFACE in lines[0]
    check_document(run.document)
    assert run.document["verdict"] == "incomplete" and INTERFACE in run.document["stopped"]
    assert run.document["stopped"] in run.out and "--max-drop" not in run.out
    assert run.document["exchanges"]["completed"] > 20
    outcomes = Counter(row["outcome"] for row in run.clients)
    assert outcomes["bound"] == run.document["clients"]["bound"] > 20
