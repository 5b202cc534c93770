"""`lab attach`, `lab detach`: an interface of the machine in a node, and back whatever happens.

The "card" is one end of a veth pair in the machine's own namespace, with what a card in use
has: addresses and routes of both families, an MTU, an alias. What it was has to be again.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from itertools import count
from typing import Any

import pytest

from netlab import attach, device
from netlab.checkpoint import DIE_AT_ENV
from netlab.device import Before, Device
from netlab.lent import SCHEMA
from netlab.messages import LinkState, Message, attributes
from netlab.wish import Wish
from tests.lab.machine import Machine, wait_until

pytestmark = pytest.mark.root

_CARD = """
ip link set lo up
ip link add name eth1 type veth peer name far
ip link set far up
ip link set eth1 up mtu 1400 alias "a card of mine"
ip addr add 192.0.2.5/24 dev eth1
ip addr add 192.0.2.6/24 dev eth1
ip -6 addr add 2001:db8::5/64 dev eth1 nodad
ip route add 198.51.100.0/24 via 192.0.2.1 metric 30
ip route add 203.0.113.0/24 dev eth1 table 77 src 192.0.2.6
ip -6 route add 2001:db8:1::/48 via 2001:db8::1
"""


@pytest.fixture
def card(host: Machine) -> Machine:
    """A machine with a card in use, and a lab."""
    host.run(["sh", "-ec", _CARD])
    host.lab("setup")
    return host


def state_of(host: Machine, ifname: str = "eth1") -> dict[str, Any]:
    """All of an interface that a user would miss; not what comes and goes by itself."""
    (link,) = json.loads(host.run(["ip", "-j", "-d", "addr", "show", "dev", ifname]).stdout)
    lines = [line for family in ("-4", "-6")
             for line in host.run(["ip", family, "route", "show", "table", "all"]).stdout
             .splitlines()
             if f"dev {ifname}" in line and "proto kernel" not in line]
    addresses = [{key: entry.get(key) for key in ("local", "prefixlen", "broadcast", "label",
                                                  "secondary", "valid_life_time")}
                 for entry in link["addr_info"] if entry["scope"] == "global"]
    return {"addresses": addresses, "routes": sorted(line.strip() for line in lines),
            **{key: link.get(key) for key in ("ifname", "mtu", "address", "ifalias", "ifindex")},
            "up": "UP" in link["flags"]}


def inside(host: Machine, node: str = "client") -> dict[str, dict[str, Any]]:
    said = host.run(["ip", "-n", f"netlab-{node}", "-j", "-d", "addr"]).stdout
    return {link["ifname"]: link for link in json.loads(said)}


def files(host: Machine) -> list[str]:
    return sorted(p.name for p in (host.root / "run/dhcp-netlab").iterdir())


def test_moved_and_back_as_it_was(card: Machine) -> None:
    before, kept = state_of(card), files(card)
    said = card.lab("attach", "client", "eth1", "--as", "wan", "--address", "10.9.9.1/24")
    assert said.stdout == "netlab: eth1 is wan of client; it comes back with: lab detach client " \
                          "wan\n"
    assert said.stderr == ""
    there = inside(card)["wan"]
    assert "UP" in there["flags"] and there["address"] == before["address"]
    assert [a["local"] for a in there["addr_info"]] == ["10.9.9.1"]
    assert "eth1" not in card.run(["ip", "-br", "link"]).stdout
    assert "eth1 is the machine's again" in card.lab("detach", "client").stdout
    assert state_of(card) == before
    assert files(card) == kept and "wan" not in inside(card)


@pytest.mark.parametrize("command", ["teardown", "setup over a broken lab"])
def test_the_end_of_the_lab_gives_it_back(card: Machine, command: str) -> None:
    before = state_of(card)
    card.lab("attach", "client", "eth1")
    if command == "teardown":
        card.lab("teardown")
        assert not card.names() and not (card.root / "run/dhcp-netlab").exists()
    else:
        card.run(["ip", "netns", "del", "netlab-server"])
        card.lab("setup")
    assert state_of(card) == before


def test_what_a_program_did_to_it_is_undone(card: Machine) -> None:
    card.run(["ip", "link", "set", "eth1", "down"])
    before = state_of(card)
    assert before["up"] is False
    card.lab("attach", "client", "eth1")
    node = ["ip", "-n", "netlab-client", "link", "set", "eth1"]
    card.run([*node, "down"])
    card.run([*node, "address", "02:00:00:00:00:99", "mtu", "1280", "name", "other"])
    card.run(["ip", "-n", "netlab-client", "link", "set", "other", "up"])
    card.lab("detach", "client", "eth1")
    assert state_of(card) == before


def test_a_second_interface_on_its_wire(card: Machine) -> None:
    before = state_of(card)
    made = card.lab("attach", "client", "eth1", "--mode", "macvlan", code=None)
    if "modprobe macvlan" in made.stderr:
        pytest.skip("needs the kernel option CONFIG_MACVLAN")
    link = inside(card)["eth1"]
    assert not [name for name in inside(card) if name.startswith("labmac")]
    assert link["linkinfo"]["info_kind"] == "macvlan" and link["address"] != before["address"]
    assert state_of(card) == before
    # One wire, several nodes; but the interface itself cannot go from under them.
    card.lab("attach", "server", "eth1", "--mode", "macvlan", "--as", "wire")
    assert "attached to client" in card.lab("attach", "switch", "eth1", code=2).stderr
    card.lab("detach", "client")
    assert "eth1" not in inside(card) and "wire" in inside(card, "server")
    card.lab("teardown")
    assert state_of(card) == before


REFUSED = {
    "no such interface": ("", ["client", "eth7"], "no interface 'eth7' on this machine"),
    "no such node": ("", ["nobody", "eth1"], "no node 'nobody'"),
    "the loopback": ("", ["client", "lo"], "loopback"),
    "a name that is taken": ("", ["client", "eth1", "--as", "eth0"], "--as NAME"),
    "a name too long": ("", ["client", "eth1", "--as", "x" * 16], "cannot be an interface's name"),
    "a name with a slash": ("", ["client", "eth1", "--as", "a/b"], "cannot be an interface's name"),
    "a pattern": ("", ["client", "eth1", "--as", "a%d"], "cannot be an interface's name"),
    "no prefix": ("", ["client", "eth1", "--address", "10.0.0.1"], "prefix"),
    "no address": ("", ["client", "eth1", "--address", "10.0.0/8"], "not an IPv4 address"),
    "the default route": ("ip route add default via 192.0.2.1", ["client", "eth1"], "--force"),
    "the default route, IPv6": ("ip -6 route add default via 2001:db8::1", ["client", "eth1"],
                                "--force"),
    "in a bridge": ("ip link add name br7 type bridge; ip link set eth1 master br7",
                    ["client", "eth1"], "is in bridge or bond br7"),
    "in a bridge, macvlan": ("ip link add name br7 type bridge; ip link set eth1 master br7",
                             ["client", "eth1", "--mode", "macvlan"], "nomaster"),
    "a bridge with ports": ("ip link add name br7 type bridge; ip link set eth1 master br7",
                            ["client", "br7"], "carries eth1"),
    "macvlan of one that is down": ("ip link set eth1 down",
                                    ["client", "eth1", "--mode", "macvlan"], "is down"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_two_lines_and_nothing_changed(card: Machine, case: str) -> None:
    prepare, words, said = REFUSED[case]
    card.run(["sh", "-ec", prepare])
    before, kept = state_of(card), files(card)
    refused = card.lab("attach", *words, code=2)
    assert said in refused.stderr and len(refused.stderr.splitlines()) == 2
    assert state_of(card) == before and files(card) == kept


def test_one_that_stands_on_it_is_not_destroyed(card: Machine) -> None:
    made = card.run(["ip", "link", "add", "name", "over", "link", "eth1", "type", "macvlan"],
                    code=None)
    if made.returncode:
        pytest.skip("needs the kernel option CONFIG_MACVLAN")
    assert "eth1 carries over" in card.lab("attach", "client", "eth1", code=2).stderr
    assert "over" in card.run(["ip", "-br", "link"]).stdout


def test_the_default_route_goes_with_force_and_comes_back(card: Machine) -> None:
    card.run(["ip", "route", "add", "default", "via", "192.0.2.1"])
    before = state_of(card)
    card.lab("attach", "client", "eth1", "--force")
    card.lab("detach", "client")
    assert state_of(card) == before


def test_what_cannot_be_moved_stays_as_it_was(card: Machine) -> None:
    """A bridge is bound to its namespace (netns-local); a wireless card often is."""
    card.run(["sh", "-ec", "ip link add name br7 type bridge; ip link set br7 alias own up"])
    before = state_of(card, "br7")
    refused = card.lab("attach", "client", "br7", code=None)
    if refused.returncode == 0:
        pytest.skip("needs a kind of interface that this kernel does not move: bridge")
    assert refused.stderr == (
        "lab: cannot attach br7 to client: it is bound to its network namespace\n"
        "     try --mode macvlan\n")
    assert state_of(card, "br7") == before
    assert files(card) == ["netlab.json", "netlab.lock"]


def test_twice_and_never(card: Machine) -> None:
    assert "nothing is attached to client" in card.lab("detach", "client", code=2).stderr
    card.lab("attach", "client", "eth1")
    assert "no interface 'eth1'" not in card.lab("attach", "server", "eth1", code=2).stderr
    assert "nothing called eth7" in card.lab("detach", "client", "eth7", code=2).stderr
    assert "nothing is attached to server" in card.lab("detach", "server", code=2).stderr
    card.lab("attach", "client", "far")
    assert "eth1, far" in card.lab("detach", "client", code=2).stderr
    card.lab("detach", "client", "far")
    card.lab("detach", "client")


@pytest.mark.parametrize("mode", ["move", "macvlan"])
def test_attach_killed_at_every_step(card: Machine, mode: str) -> None:
    before, kept = state_of(card), files(card)
    for n in count(1):
        ended = card.lab("attach", "client", "eth1", "--as", "wan", "--mode", mode, "--address",
                         "10.9.9.1/24", env={DIE_AT_ENV: str(n)}, code=None)
        if ended.returncode != -signal.SIGKILL:
            break
        card.lab("gc")
        assert state_of(card) == before, n
        assert files(card) == kept, n
        assert not {"wan", "eth1"} & inside(card).keys(), n
        assert not [name for name in inside(card) if name.startswith("labmac")], n
    assert ended.returncode == 0 and n > 6
    # It is up and lasting: not for `gc` to take.
    assert card.lab("gc").stdout == "nothing was left behind\n"
    assert "wan" in inside(card)


@pytest.mark.parametrize("command", ["detach", "teardown"])
def test_its_return_killed_at_every_step(card: Machine, command: str) -> None:
    before = state_of(card)
    words = ["detach", "client"] if command == "detach" else ["teardown"]
    for n in count(1):
        card.lab("setup")
        card.lab("attach", "client", "eth1", "--as", "wan")
        ended = card.lab(*words, env={DIE_AT_ENV: str(n)}, code=None)
        if ended.returncode != -signal.SIGKILL:
            break
        card.lab("gc")
        # A kill before anything was begun leaves all as it was lent.
        if "netlab-client" in card.names() and "wan" in inside(card):
            assert n <= 2
            card.lab("detach", "client")
        assert state_of(card) == before, n
    assert ended.returncode == 0 and n > 10


def test_gc_killed_at_every_step(card: Machine) -> None:
    before = state_of(card)
    for n in count(1):
        card.lab("attach", "client", "eth1", env={DIE_AT_ENV: "6"}, code=-signal.SIGKILL)
        ended = card.lab("gc", env={DIE_AT_ENV: str(n)}, code=None)
        card.lab("gc")
        assert state_of(card) == before, n
        if ended.returncode == 0:
            break
    assert n > 5


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": "x"}', "\0" * 50, None,
                                    json.dumps({"schema": SCHEMA, "boot_id": 0, "attached": 7})])
@pytest.mark.parametrize("journal", [True, False])
def test_a_lost_record_does_not_lose_the_interface(card: Machine, damage: str | None,
                                                   journal: bool) -> None:
    before = state_of(card)
    card.lab("attach", "client", "eth1", "--as", "wan")
    place = card.root / "run/dhcp-netlab"
    if damage is None or "boot_id" in damage:
        # As after somebody cleared /run: nothing is left but the marks.
        (place / "netlab.attached").unlink()
        journal = False
    else:
        (place / "netlab.attached").write_text(damage)
        assert "cannot be read" in card.lab("detach", "client", code=None).stderr
    if journal:
        said = card.lab("teardown").stderr
    else:
        (place / "netlab.json").unlink()
        said = card.lab("gc").stderr
    assert "eth1: the record is lost" in said
    after = state_of(card)
    for key in ("ifname", "mtu", "address", "up"):
        assert after[key] == before[key]
    assert after["ifalias"] is None and not card.names() and not place.exists()


def test_its_name_was_given_to_another(card: Machine) -> None:
    card.lab("attach", "client", "eth1")
    card.run(["ip", "link", "add", "name", "eth1", "type", "bridge"])
    said = card.lab("detach", "client").stderr
    assert "another interface has this name now; it is lab" in said
    name = said.rpartition(" ")[2].strip()
    assert state_of(card, name)["ifalias"] == "a card of mine"


def test_a_node_that_is_gone_and_the_interface_with_it(card: Machine) -> None:
    card.lab("attach", "client", "eth1")
    card.run(["ip", "netns", "del", "netlab-client"])
    wait_until("the kernel ends the namespace",
               lambda: "far" not in card.run(["ip", "-br", "link"]).stdout)
    assert "eth1: no such interface any more" in card.lab("teardown").stderr
    assert not (card.root / "run/dhcp-netlab").exists()


_FOR = """
import sys, time
from netlab import attach, state
from netlab.wish import Wish
with state.locked("netlab", "lab test"):
    journal = state.read("netlab")
    with attach.attached_for(journal, Wish("client", "eth1"), print) as made:
        print(made.ifname, flush=True)
        sys.stdin.read()
print("back", flush=True)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_for_the_length_of_a_test(card: Machine, killed: bool) -> None:
    before = state_of(card)
    holder = card.popen([sys.executable, "-c", _FOR], stdin=subprocess.PIPE)
    assert holder.stdout and holder.stdin and holder.stdout.readline() == "eth1\n"
    assert "eth1" in inside(card)
    if killed:
        holder.kill()
        holder.communicate()
        assert "netlab: eth1 given back by client" in card.lab("gc").stdout
    else:
        # Somebody is at work with it: not for `gc`.
        card.lab("gc")
        assert "eth1" in inside(card)
        assert holder.communicate()[0] == "back\n"
    assert state_of(card) == before
    assert card.status("netlab")["phase"] == "up"


def test_frames_pass(card: Machine) -> None:
    card.lab("attach", "client", "eth1", "--address", "10.9.9.1/24")
    card.run(["ip", "addr", "add", "10.9.9.2/24", "dev", "far"])
    (card.root / "run/served").write_text("")
    server = card.popen([sys.executable, "-c", (
        "import socket; s = socket.create_server(('10.9.9.2', 7777)); print('up', flush=True);"
        "s.accept()[0].sendall(b'hello')")])
    assert server.stdout and server.stdout.readline() == "up\n"
    said = card.lab("exec", "client", "--", sys.executable, "-c", (
        "import socket; print(socket.create_connection(('10.9.9.2', 7777), 5).recv(9).decode())"))
    assert said.stdout == "hello\n"
    server.communicate(timeout=10)


class _Older:
    """The machine's namespace on Linux before 6.2, to `_settle`: one interface, which is refused a
    name or a MAC while it is up, be it its own (dev_change_name, net/core/dev.c)."""

    def __init__(self, ifname: str, up: bool) -> None:
        self.ifname, self.up, self.alias, self.mtu = ifname, up, "", 0

    def change(self, message: Message) -> None:
        _, _, _, flags, change = struct.unpack_from("=BxHiII", message.body)
        told = dict(attributes(message.body, 16))
        if self.up and (1 in told or 3 in told):
            raise OSError(errno.EBUSY, "device or resource busy")
        self.ifname = told.get(3, self.ifname.encode()).rstrip(b"\0").decode()
        self.mtu = struct.unpack("=I", told.get(4, bytes(4)))[0] or self.mtu
        self.alias = told.get(20, self.alias.encode()).decode()
        self.up = bool(flags & 1) if change & 1 else self.up


@pytest.mark.parametrize("mac", ["02:00:00:00:00:01", "02:00:00:00:00:02"])
@pytest.mark.parametrize("now", ["eth1", "lab0"])
@pytest.mark.parametrize("is_up", [False, True])
@pytest.mark.parametrize("was_up", [False, True])
def test_older_kernels_name_no_interface_that_is_up(
        monkeypatch: pytest.MonkeyPatch, now: str, mac: str, is_up: bool, was_up: bool) -> None:
    here = Device(LinkState(7, now, "", is_up, "UP", mac, 1500, "mark", None, {}), False, 0, 0)
    home = _Older(now, is_up)
    monkeypatch.setattr(attach, "_devices", lambda _: [here])
    was = Before("eth1", 7, "02:00:00:00:00:01", 1400, was_up, "a card of mine")
    assert attach._settle(home, here, was) == []  # type: ignore[arg-type]
    assert (home.ifname, home.up, home.mtu, home.alias) == ("eth1", was_up, 1400,
                                                            "a card of mine")


def test_what_did_not_come_back_is_said_with_the_refusal() -> None:
    said = attach._refused(Wish("client", "br7"), OSError(errno.EINVAL, "no"),
                           ["br7 could not be given back: device or resource busy"])
    assert "cannot attach br7 to client" in said.what
    assert said.remedy == ("br7 could not be given back: device or resource busy; "
                           "try --mode macvlan")


def _route(**parts: Any) -> bytes:
    fields = {"family": socket.AF_INET, "length": 24, "proto": 4, "flags": 0} | parts
    body = struct.pack("=8BI", fields["family"], fields["length"], 0, 0, 254, fields["proto"], 0, 1,
                       fields["flags"])
    return body + bytes(fields.get("attributes", b""))


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_a_route_over_several_interfaces_gets_its_own_hop_back() -> None:
    hops = b"".join(struct.pack("=HBBi", 16, flags, 0, index) + _attribute(5, bytes(4))
                    for flags, index in ((0x10, 3), (0, 9)))
    body = _route(attributes=_attribute(1, ipaddress.IPv4Address("10.0.0.0").packed)
                  + _attribute(9, hops), flags=0x10)
    message = device._route(body, 3, 12)
    assert message.flags & 0x300 == 0x100  # replaced: the other hop's route is still there
    assert struct.unpack_from("=I", message.body, 8)[0] == 0  # RTNH_F_LINKDOWN is not ours to set
    (found,) = [payload for kind, payload in attributes(message.body, 12) if kind == 9]
    assert [struct.unpack_from("=HBBi", found, at)[1:] for at in (0, 16)] == [(0, 0, 12),
                                                                             (0, 0, 9)]


@pytest.mark.parametrize("octets", [b"", b"\x08\0", b"\0\0\x09\0" * 3, b"\x04\0\x09\0",
                                    _attribute(9, b"\x01\0\0\0\0\0\0\0" * 4)])
def test_odd_attributes_end_and_raise_nothing(octets: bytes) -> None:
    began = time.monotonic()
    body = _route(attributes=octets)
    assert device._leads_over(body) <= {0}
    device._route(body, 1, 2)
    assert time.monotonic() - began < 1


