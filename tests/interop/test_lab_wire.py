"""What the relays of a lab put on the wire, at the clients' link and at the server's.

The one thing to know: with two hops the second relay's downlink is called `down2`, so that option
82 tells which of the two wrote it. A client that the relays are to serve has the broadcast flag
with two hops and has none with one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fastpath.message import Message
from fastpath.options import END, PAD, RELAY_AGENT_INFORMATION
from fastpath.wire import BOOTREPLY, BOOTREQUEST, BROADCAST_FLAG, OPTIONS
from tests.lab.machine import Machine, machine, stop_server
from tests.lab.test_look import Capturing
from tests.peers.bin import peers_bin
from tests.peers.capture import fields

pytestmark = [pytest.mark.root,
              pytest.mark.peers("kea-dhcp4", "dhcpd", "dnsmasq", "dhcrelay", "tshark")]
PROGRAMS = ("dhcp-server", "dhcp-relay", "dhcp-tester", "kea-dhcp4", "dhcpd", "dhcrelay",
            "dnsmasq")
CLIENTS = 3
CLIENT, SERVER = "client.eth0", "server.eth0"
GIADDR = IPv4Address("10.16.0.1")
# The last relay's address towards the server, and the server's, by number of relays.
UPLINK = {1: ("10.0.1.1", "10.0.1.2"), 2: ("10.0.2.1", "10.0.2.2")}


@pytest.fixture(scope="module", autouse=True)
def _no_server_stays() -> Iterator[None]:
    yield
    stop_server()


@dataclass(frozen=True)
class Seen:
    """One message on a link. agents: the octets of each option 82, one for each time it is there.
    """

    link: str
    source: str
    target: str
    target_mac: str
    source_mac: str
    message: Message
    agents: tuple[bytes, ...]


def sub(code: int, text: bytes) -> bytes:
    return bytes([code, len(text)]) + text


def agents_of(payload: bytes) -> tuple[bytes, ...]:
    """Not as the decoder reads them: it joins what is there twice (RFC 3396)."""
    found, at = [], OPTIONS
    while at < len(payload) and payload[at] != END:
        if payload[at] == PAD:
            at += 1
            continue
        length = payload[at + 1]
        if payload[at] == RELAY_AGENT_INFORMATION:
            found.append(payload[at + 2:at + 2 + length])
        at += 2 + length
    return tuple(found)


def read(path: Path) -> list[Seen]:
    names = ["frame.interface_name", "ip.src", "ip.dst", "eth.dst", "eth.src", "udp.payload"]
    seen = []
    for row in fields(path, names):
        link, source, target, target_mac, source_mac, hexadecimal = row.values()
        payload = bytes.fromhex(hexadecimal.replace(":", ""))
        seen.append(Seen(link, source, target,
                         target_mac, source_mac, Message.decode(payload), agents_of(payload)))
    return seen


@dataclass
class Lab:
    """A lab that stands on `host`. topology: the words that name it."""

    host: Machine
    place: Path
    topology: tuple[str, ...]

    def test(self, *words: str, links: tuple[str, ...] = (CLIENT, SERVER), code: int = 0,
             load: tuple[str, ...] = ()) -> tuple[list[Seen], dict[str, Any], str]:
        """What was on `links` during `lab test`; its result document; what it said."""
        capture, result = self.place / "wire.pcapng", self.place / "result.json"
        capturing = Capturing(self.host, self.place, *links, "-o", str(capture), "--filter",
                              "dhcp")
        said = self.host.lab("test", *self.topology, *words, "--json", str(result), "--",
                             "--clients", str(CLIENTS), *load, code=code,
                             env={"DHCP_NETLAB_BIN": str(peers_bin(*PROGRAMS))})
        capturing.end()
        assert "none lost" in capturing.said()
        return read(capture), json.loads(result.read_text()), said.stdout


@contextmanager
def standing(place: Path, hops: int, *policy: str) -> Iterator[Lab]:
    with machine() as host:
        words: tuple[str, ...] = ("relay", "--hops", str(hops), *policy)
        if hops == 2:
            text = host.lab("plan", *words, "--yaml").stdout
            assert text.count("eth0: {segment: net1") == 1
            file = place / "two.yaml"
            file.write_text(text.replace("eth0: {segment: net1", "down2: {segment: net1"))
            words = (str(file),)
        host.lab("setup", *words)
        yield Lab(host, place, words)
        host.lab("teardown")


PATIENT = ("--retry", "--timeout", "1s")
# For clients whom nobody answers; no repetition, so that discards are as many as clients.
BRIEF = ("--timeout", "300ms")


def check_requests(seen: list[Seen], hops: int, agents: tuple[bytes, ...], *,
                   source: str = "") -> None:
    """At the server: each message of each client, with nothing changed but what relays change."""
    asked = {(one.message.xid, one.message.type): one.message for one in seen
             if one.link == CLIENT and one.message.op == BOOTREQUEST}
    arrived = [one for one in seen if one.link == SERVER and one.message.op == BOOTREQUEST]
    assert {(one.message.xid, one.message.type) for one in arrived} == set(asked)
    assert len({one.message.chaddr for one in arrived}) == CLIENTS
    for one in arrived:
        message, own = one.message, asked[one.message.xid, one.message.type]
        assert (message.hops, message.giaddr) == (hops, GIADDR)
        assert (message.secs, message.flags, message.chaddr, message.ciaddr) == (
            own.secs, own.flags, own.chaddr, own.ciaddr)
        assert one.agents == agents
        others = {code: octets for code, octets in message.options.items() if code != 82}
        assert others == {code: octets for code, octets in own.options.items() if code != 82}
        assert (one.source, one.target) == (source or UPLINK[hops][0], UPLINK[hops][1])


def check_replies(seen: list[Seen], hops: int, echoed: tuple[bytes, ...],
                  returned: tuple[bytes, ...] = ()) -> None:
    """What the server sends to giaddr, and what the relay makes of it for the client."""
    answers = [one for one in seen if one.message.op == BOOTREPLY]
    assert {one.link for one in answers} == {CLIENT, SERVER}
    for one in answers:
        message = one.message
        assert message.giaddr == GIADDR
        if one.link == SERVER:
            assert (one.source, one.target) == (UPLINK[hops][1], str(GIADDR))
            assert one.agents == echoed
            continue
        flag = message.flags & BROADCAST_FLAG
        assert one.source == str(GIADDR)
        assert one.target == ("255.255.255.255" if flag else str(message.yiaddr))
        assert one.target_mac == ("ff:ff:ff:ff:ff:ff" if flag else message.chaddr.hex(":"))
        assert one.agents == returned


def with_mac(agent: bytes, seen: list[Seen]) -> bytes:
    """A template's {mac} is of the first relay, whose address the clients' link shows."""
    (mac,) = {one.source_mac for one in seen if one.link == CLIENT
              and one.message.op == BOOTREPLY}
    return agent.replace(b"MAC" + bytes(14), mac.encode())


ETH0, DOWN2, MINE = sub(1, b"eth0"), sub(1, b"down2"), sub(1, b"mine")
OURS = ("--circuit-id", "port-{ifname}", "--remote-id", "{mac}")
OURS_1 = sub(1, b"port-eth0") + sub(2, b"MAC" + bytes(14))
LONG = ("--circuit-id", "{ifname}.{giaddr}", "--remote-id", "0x0102")
LONG_1 = sub(1, b"eth0.10.16.0.1") + sub(2, b"\1\2")
LONG_2 = sub(1, b"down2.10.0.1.2") + sub(2, b"\1\2")
# relay, policy, server, words; what is at the server behind one and behind two relays; what the
# server sends back where that is something else. None: nothing comes.
MATRIX: list[tuple[str, str, str, tuple[str, ...], Any, Any, Any]] = [
    ("dhcp-relay", "none", "isc-dhcpd", (), (), (), None),
    ("dhcp-relay", "append", "kea", OURS, (OURS_1,), (OURS_1,), None),
    ("dhcp-relay", "keep", "isc-dhcpd", LONG, (LONG_1,), (LONG_1,), None),
    ("dhcp-relay", "replace", "kea", LONG, (LONG_1,), (LONG_2,), None),
    ("dhcp-relay", "drop", "dhcp-server", (), (ETH0,), None, None),
    ("dhcrelay", "none", "kea", (), (), (), None),
    # dhcrelay(8), -m append: a second option 82, where ours leaves the first alone. dhcpd
    # answers with one of them.
    ("dhcrelay", "append", "isc-dhcpd", (), (ETH0,), (ETH0, DOWN2), (ETH0,)),
    ("dhcrelay", "append", "dhcp-server", (), (ETH0,), (ETH0, DOWN2), (ETH0 + DOWN2,)),
    ("dhcrelay", "keep", "dhcp-server", ("--circuit-id", "{ifname}"), (ETH0,), (ETH0,), None),
    ("dhcrelay", "replace", "kea", (), (ETH0,), (DOWN2,), None),
    ("dhcrelay", "drop", "isc-dhcpd", (), (ETH0,), None, None),
    ("dnsmasq", "", "dhcp-server", (), (), (), None),
    ("dnsmasq", "", "isc-dhcpd", (), (), (), None),
    ("dnsmasq", "", "kea", (), (), (), None),
]


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize(("relay", "act", "server", "words", "one", "two", "echo"), MATRIX,
                         ids=["-".join(filter(None, row[:3])) for row in MATRIX])
def test_requests_and_replies_of_relays(relay: str, act: str, server: str,
                                        words: tuple[str, ...], one: Any, two: Any, echo: Any,
                                        hops: int, tmp_path: Path) -> None:
    """RFC 1542 section 4.1, RFC 3046 sections 2.1 and 2.2."""
    agents = one if hops == 1 else two
    policy = ("--option82", act, *words) if act else ()
    load = BRIEF if agents is None else PATIENT
    with standing(tmp_path, hops, *policy) as lab:
        seen, document, said = lab.test(
            "--relay", relay, "--server", server, code=3 if agents is None else 0,
            load=(*load, *(("--broadcast-flag",) if hops == 2 else ())))
    if agents is None:
        assert {one.link for one in seen} == {CLIENT}
        assert document["clients"]["bound"] == 0
        if relay == "dhcp-relay":
            assert f"discarded  relay2: option82_present {CLIENTS}\n" in said
        return
    assert document["verdict"] == "pass"
    agents = tuple(with_mac(agent, seen) for agent in agents)
    echoed = echo if echo and hops == 2 else agents
    # dnsmasq speaks to the server as the address that clients know it by.
    source = {1: "10.16.0.1", 2: "10.0.1.2"}[hops] if relay == "dnsmasq" else ""
    check_requests(seen, hops, agents, source=source)
    # Replies go to the first relay, which takes out what the second put in place of its own too.
    check_replies(seen, hops, echoed, ())


# relay, policy; what is at the server of a client's own option 82, and what of that the client
# gets back. None: the relay discards it.
UNTRUSTED: list[tuple[str, str, Any, tuple[bytes, ...]]] = [
    ("dhcp-relay", "none", None, ()),
    ("dhcp-relay", "append", None, ()),
    ("dhcp-relay", "keep", (MINE,), (MINE,)),
    ("dhcp-relay", "replace", None, ()),
    ("dhcp-relay", "drop", None, ()),
    ("dhcrelay", "none", (MINE,), (MINE,)),
    # With -a dhcrelay trusts everybody but for -m discard, and takes every option 82 out again.
    ("dhcrelay", "append", (MINE, ETH0), ()),
    ("dhcrelay", "keep", (MINE,), ()),
    ("dhcrelay", "replace", (ETH0,), ()),
    ("dhcrelay", "drop", None, ()),
    ("dnsmasq", "", (MINE,), (MINE,)),
]


@pytest.mark.parametrize(("relay", "act", "agents", "returned"), UNTRUSTED,
                         ids=["-".join(filter(None, row[:2])) for row in UNTRUSTED])
def test_option_82_of_a_client(relay: str, act: str, agents: Any, returned: tuple[bytes, ...],
                               tmp_path: Path) -> None:
    """RFC 3046 section 2.1: whether a relay believes what a client says of its own circuit."""
    with standing(tmp_path, 1, *(("--option82", act) if act else ())) as lab:
        seen, document, said = lab.test(
            "--relay", relay, "--server", "isc-dhcpd", code=3 if agents is None else 0,
            load=(*(BRIEF if agents is None else PATIENT), "--circuit-id", "mine"))
    assert {one.agents for one in seen if one.link == CLIENT
            and one.message.op == BOOTREQUEST} == {(MINE,)}
    (side,) = document["lab"]["relays"]
    if relay == "dhcp-relay":
        count = 0 if agents else CLIENTS
        assert side["discarded"]["untrusted_option82"] == count
        assert (f"discarded  relay1: untrusted_option82 {count}\n" in said) is bool(count)
    else:
        assert side["discarded"] is None and "discarded" not in said
    if agents is None:
        assert {one.link for one in seen} == {CLIENT}
        return
    check_requests(seen, 1, agents, source="10.16.0.1" if relay == "dnsmasq" else "")
    check_replies(seen, 1, agents[:1], returned)


@pytest.mark.parametrize("relay", ["dhcp-relay", "dhcrelay"])
def test_five_relays_pass_at_four_and_six_do_not(relay: str, tmp_path: Path) -> None:
    """RFC 1542 section 4.1.1: discarded where `hops` exceeds the limit, by the sixth relay."""
    with standing(tmp_path, 6, "--max-hops", "4") as lab:
        seen, _, said = lab.test("--relay", relay, "--server", "kea", code=3, load=BRIEF,
                                 links=("relay6.eth0", SERVER))
    assert {(one.link, one.message.hops, one.message.giaddr) for one in seen} == {
        ("relay6.eth0", 5, GIADDR)}
    assert len({one.message.chaddr for one in seen}) == CLIENTS
    if relay == "dhcp-relay":
        assert f"discarded  relay6: hops_exceeded {CLIENTS}\n" in said


def test_a_sweep_finds_the_relay_that_keeps_no_counts(tmp_path: Path) -> None:
    """By what its ports saw; behind five relays all is well."""
    result = tmp_path / "series.json"
    with machine() as host:
        host.lab("test", "relay", "--hops", "5..6", "--max-hops", "4", "--relay", "dhcrelay",
                 "--server", "kea", "--json", str(result), "--", "--clients", "30",
                 "--concurrency", "30", "--timeout", "500ms", "--max-drop", "100", code=3,
                 env={"DHCP_NETLAB_BIN": str(peers_bin(*PROGRAMS))})
    five, six = json.loads(result.read_text())["rows"]
    assert (five["completed"], six["completed"]) == (30, 0)
    assert five["discarded"] == []
    (said,) = six["discarded"]
    assert said.startswith("relay6: ")


@pytest.mark.parametrize(("words", "code"), [((), 1), (("--relay-option", "-a"), 0)])
def test_a_circuit_id_that_nobody_would_add_is_refused(words: tuple[str, ...], code: int,
                                                       tmp_path: Path) -> None:
    with machine() as host:
        said = host.lab("test", "relay", "--circuit-id", "{ifname}", "--relay", "dhcrelay",
                        "--server", "kea", *words, "--", "--clients", "2", "--retry", code=None,
                        env={"DHCP_NETLAB_BIN": str(peers_bin(*PROGRAMS))})
    assert bool(said.returncode) is bool(code)
    assert ("dhcrelay in relay1 adds no option 82" in said.stderr) is bool(code)
