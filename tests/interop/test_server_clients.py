"""dhcp-server against real clients through their whole lives: RFC 2131 figure 5 and its options.

The one thing to know: clients run side by side on one segment, for what takes time is their own
waiting for T1 and T2. What they sent and were sent is read from one capture before the server.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ours import OurServer
from tests.peers.capture import Capture, fields, problems
from tests.peers.clients import Client, Dhclient, Dhcpcd, Event, Udhcpc
from tests.peers.net import Namespace, wait_until
from tests.peers.networkd import Networkd
from tests.peers.relays import SERVER, Relayed, relayed

pytestmark = pytest.mark.root
needs = pytest.mark.peers
SUBNET = """\
server:
  interfaces: [eth0]
  min_lease_time: 5s
  max_lease_time: 10m
  subnets:
    - subnet: 10.16.0.0/24
      gateway: 10.16.0.1
      pools: [10.16.0.16 - 10.16.0.99]
"""
WIRE = ["frame.number", "eth.src", "eth.dst", "ip.src", "ip.dst", "dhcp.option.dhcp",
        "dhcp.hw.mac_addr", "dhcp.ip.client", "dhcp.ip.your", "dhcp.option.dhcp_server_id",
        "dhcp.option.requested_ip_address"]
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = "12345678"


def served(net: Relayed, folder: Path, text: str, *flags: str) -> OurServer:
    """Our server, to be entered, with `text` as its configuration file."""
    place = folder / "server.yaml"
    place.write_text(text)
    return OurServer(net.server, ("--config", str(place), "--verbose", *flags))


def told(path: Path, names: list[str] = WIRE, mac: str = "") -> list[dict[str, str]]:
    """Every DHCP frame of a capture, or those of the client `mac`."""
    # A client identifier may hold the hardware address again.
    return fields(path, names, f"dhcp.hw.mac_addr == {mac}" if mac else "dhcp",
                  ("-E", "occurrence=f"))


def kinds(rows: list[dict[str, str]]) -> str:
    return "".join(row["dhcp.option.dhcp"] for row in rows)


def holders(rows: list[dict[str, str]]) -> dict[str, str]:
    """{address: chaddr} of every ACK."""
    return {row["dhcp.ip.your"]: row["dhcp.hw.mac_addr"] for row in rows
            if row["dhcp.option.dhcp"] == ACK}


def sound(path: Path, frames: int) -> None:
    """tshark finds nothing wrong in any of the DHCP frames, and they are as many as expected."""
    found = problems(path, "dhcp")
    assert not found.wrong, found
    assert found.frames == frames


def add(stack: contextlib.ExitStack, client: Client) -> Client:
    return stack.enter_context(client)


# --- from INIT to RELEASE, with T1 and T2

LIFE = SUBNET + """\
  lease_time: 20s
  renewal_time: 3s
  rebinding_time: 6s
  options:
    domain-name: lab.example.org
    domain-search: [lab.example.org, example.org]
    domain-name-server: [10.16.0.2, 10.16.0.3]
    ntp-servers: [10.16.0.4]
    interface-mtu: 1400
    classless-static-route: [0.0.0.0/0 via 10.16.0.1, 10.99.0.0/16 via 10.16.0.5]
    224: 0x0102feff
"""
ASKED = (1, 3, 6, 15, 26, 42, 58, 59, 119, 121, 224)


@contextlib.contextmanager
def unicast_lost(net: Relayed, client: Namespace, branch: int) -> Iterator[None]:
    """What the client sends to the server's own address gets lost on the way."""
    nowhere = f"02:00:00:00:0f:{branch:02x}"
    net.wire.run(["bridge", "fdb", "add", nowhere, "dev", f"branch{branch}", "master", "static"])
    client.ip(f"neigh replace {SERVER} lladdr {nowhere} dev eth0 nud permanent\n")
    yield
    client.ip(f"neigh del {SERVER} dev eth0\n")


def life_clients(net: Relayed, stack: contextlib.ExitStack) -> dict[str, Client]:
    wanted = "request subnet-mask, routers, domain-name, domain-name-servers, domain-search, " \
        "ntp-servers, interface-mtu, rfc3442-classless-static-routes, lab;\n"
    return {
        "udhcpc": add(stack, Udhcpc(net.clients[0], arguments=[
            word for code in ASKED for word in ("-O", f"0x{code:02x}")])),
        "dhclient": add(stack, Dhclient(net.clients[1], config=(
            "option lab code 224 = string;\noption rfc3442-classless-static-routes code 121 = "
            "array of unsigned integer 8;\n" + wanted))),
        "dhcpcd": add(stack, Dhcpcd(net.clients[2], config=(
            "define 224 binhex lab\noption domain_name, domain_name_servers, domain_search, "
            "ntp_servers, interface_mtu, classless_static_routes, lab\n"))),
        "networkd": add(stack, Networkd(net.clients[3], config="UseDomains=yes\nUseNTP=yes\n")),
    }


def names_of(event: Event, *candidates: str) -> str:
    """What a client told under one of the names that clients have for it."""
    return next((event.env[name] for name in candidates if name in event.env), "")


def check_options(name: str, got: Event) -> None:
    """Each option of LIFE that this client can tell, in its own words."""
    assert (got.server_id, got.lease_time_s) == (SERVER, 20)
    assert (got.netmask, got.router) == ("255.255.255.0", "10.16.0.1")
    assert got.dns == "10.16.0.2 10.16.0.3"
    assert names_of(got, "domain", "new_domain_name", "DOMAINNAME") == "lab.example.org"
    search = names_of(got, "search", "new_domain_search", "DOMAIN_SEARCH_LIST")
    assert [word.rstrip(".") for word in search.split()] == ["lab.example.org", "example.org"]
    assert names_of(got, "ntpsrv", "new_ntp_servers", "NTP") == "10.16.0.4"
    assert names_of(got, "mtu", "new_interface_mtu", "MTU") == "1400"
    routes = names_of(got, "staticroutes", "new_rfc3442_classless_static_routes",
                      "new_classless_static_routes", "CLASSLESS_ROUTES")
    assert re.findall(r"\d+", routes) == (
        "0 10 16 0 1 16 10 99 10 16 0 5" if name == "dhclient" else
        "0 0 0 0 0 10 16 0 1 10 99 0 0 16 10 16 0 5").split()
    if name != "networkd":  # it knows no private options
        private = names_of(got, "opt224", "new_lab")
        assert private == ("1:2:fe:ff" if name == "dhclient" else "0102feff")


def check_life(rows: list[dict[str, str]], mac: str, address: str) -> None:
    """The frames of one client as RFC 2131 table 4 and section 4.1 have them."""
    said = kinds(rows)
    assert re.fullmatch("(1+2+)+(3+5+)+7", said), said
    asks = [row for row in rows if row["dhcp.option.dhcp"] == REQUEST]
    selecting, renewing = asks[0], asks[1]
    assert selecting["dhcp.option.dhcp_server_id"] == SERVER
    assert selecting["dhcp.option.requested_ip_address"] == address
    assert (renewing["ip.src"], renewing["ip.dst"]) == (address, SERVER)
    rebinding = [row for row in asks[1:] if row["ip.dst"] == "255.255.255.255"]
    assert rebinding
    for row in (renewing, *rebinding):
        assert row["dhcp.ip.client"] == address
        assert row["dhcp.option.dhcp_server_id"] == row["dhcp.option.requested_ip_address"] == ""
    acks = [row for row in rows if row["dhcp.option.dhcp"] == ACK]
    for ack in acks:
        assert ack["dhcp.ip.your"] == address and ack["dhcp.option.dhcp_server_id"] == SERVER
    for ack in acks[1:]:  # he has an address already: unicast to it, whatever his flags
        assert (ack["eth.dst"], ack["ip.dst"]) == (mac, address)
        assert ack["dhcp.ip.client"] == address
    assert (rows[-1]["ip.dst"], rows[-1]["dhcp.ip.client"]) == (SERVER, address)


def rebound(name: str, client: Client) -> bool:
    """Whether the client has broadcast for its lease, and prolonged it since.

    dhclient calls that a renewal too, udhcpc calls both `renew`.
    """
    broadcast = r"(?s)(bound|lease of) .*(DHCPREQUEST for \S+ on eth0 to 255\.255\.255\.255|" \
        r"broadcasting renew).*(bound to|lease of)"
    if name in ("udhcpc", "dhclient"):
        return re.search(broadcast, client.log) is not None
    return "rebind" in [event.what for event in client.events]


@needs("udhcpc", "dhclient", "dhcpcd", "systemd-networkd", "tshark")
def test_every_client_binds_renews_rebinds_and_releases(tmp_path: Path) -> None:
    with relayed(0, 0, 0, 0) as net, served(net, tmp_path, LIFE) as server, \
            Capture(tmp_path / "life.pcapng", *net.tap) as capture, \
            contextlib.ExitStack() as stack:
        clients = life_clients(net, stack)
        for client in clients.values():
            client.start()
        got = {}
        for name, client in clients.items():
            got[name] = client.next("bound", after=0)
            check_options(name, got[name])
        clients["udhcpc"].renew()  # its own T1 is half of the lease, whatever the server says
        for client in clients.values():
            client.next("renew", after=1)
        with contextlib.ExitStack() as lost:
            for branch, client in enumerate(clients.values()):
                lost.enter_context(unicast_lost(net, client.namespace, branch))
            wait_until("every client to rebind", lambda: all(
                rebound(name, client) for name, client in clients.items()), 20)
        for client in clients.values():
            client.release()
        wait_until("four releases", lambda: server.log.count("release -> no answer 10.") == 4)
        capture.stop()
        stats = server.stop()
    assert len({event.address for event in got.values()}) == 4
    macs = holders(told(capture.path))
    for event in got.values():
        mac = macs[event.address]
        check_life(told(capture.path, mac=mac), mac, event.address)
    assert stats["received"]["release"] == 4 and stats["pool"]["bound"] == 0
    assert stats["sent"]["nak"] == 0 and sum(stats["refused"].values()) == 0
    assert sum(stats["causes"].values()) == 0
    sound(capture.path, sum(stats["received"].values()) + sum(stats["sent"].values()))


# --- coming back, and to another network

MOVED = """server:
  interfaces: [eth0]
  lease_time: 20s
  renewal_time: 3s
  rebinding_time: 6s
  subnets:
    - subnet: 10.18.0.0/24
      interface: eth0
      gateway: 10.18.0.1
      pools: [10.18.0.16 - 10.18.0.99]
"""


@needs("udhcpc", "dhclient", "dhcpcd", "systemd-networkd", "tshark")
def test_who_comes_back_is_confirmed_and_after_a_change_refused(tmp_path: Path) -> None:
    """INIT-REBOOT and RENEWING, before and after the pool has become another (section 4.3.2)."""
    with relayed(0, 0, 0, 0) as net, served(net, tmp_path, LIFE) as server, \
            Capture(tmp_path / "back.pcapng", *net.tap) as capture, \
            contextlib.ExitStack() as stack:
        clients = life_clients(net, stack)
        returning = [clients["dhclient"], clients["dhcpcd"]]
        for client in clients.values():
            client.start()
        first = {name: client.next("bound", after=0) for name, client in clients.items()}
        for client in returning:
            client.leave()
            known = len(client.events)
            client.start()
            again = client.next("reboot", "bound", after=known)
            assert (again.what, again.address) == ("reboot", first[
                type(client).__name__.lower()].address)
            client.leave()

        (tmp_path / "server.yaml").write_text(MOVED)
        server.process.send_signal(signal.SIGHUP)
        wait_until("the new pool", lambda: "10.18.0.16" in server.log)
        known_of = {name: len(client.events) for name, client in clients.items()}
        for client in returning:
            client.start()
        assert clients["udhcpc"].process
        clients["udhcpc"].process.send_signal(signal.SIGUSR1)
        for name, client in clients.items():
            moved = client.next("bound", after=known_of[name], timeout_s=20)
            assert moved.address.startswith("10.18.0."), moved
        for client in clients.values():  # none may speak between the two ends below
            client.leave()
        capture.stop()
        stats = server.stop()
    assert stats["sent"]["nak"] >= 4
    macs = holders(told(capture.path))
    for event in first.values():
        mac = macs[event.address]
        rows = told(capture.path, [*WIRE, "dhcp.option.ip_address_lease_time"], mac)
        refused = [row for row in rows if row["dhcp.option.dhcp"] == NAK]
        # Section 4.1: without a relay a NAK is broadcast; table 3: no address, no lease time.
        assert {(row["ip.dst"], row["dhcp.ip.your"], row["dhcp.ip.client"],
                 row["dhcp.option.ip_address_lease_time"]) for row in refused} == {
            ("255.255.255.255", "0.0.0.0", "0.0.0.0", "")}
    rebooting = [row for row in told(capture.path) if row["dhcp.option.dhcp"] == REQUEST
                 and not row["dhcp.option.dhcp_server_id"] and row["dhcp.ip.client"] == "0.0.0.0"]
    assert len({row["dhcp.hw.mac_addr"] for row in rebooting}) == 2
    sound(capture.path, sum(stats["received"].values()) + sum(stats["sent"].values()))


# --- who asks, and for what

ASKING = SUBNET.replace("min_lease_time: 5s", "min_lease_time: 30s").replace(
    "pools: [10.16.0.16 - 10.16.0.99]", """\
pools:
        - {range: 10.16.0.100 - 10.16.0.109, classes: [phones]}
        - {range: 10.16.0.110 - 10.16.0.119, classes: [guests], lease_time: 77s}
        - range: 10.16.0.16 - 10.16.0.99
      reservations:
        - {chaddr: "02:00:00:00:00:aa", address: 10.16.0.5, options: {domain-name: by-chaddr}}
        - {client_id: 0x0102030405, address: 10.16.0.6, options: {domain-name: by-id}}
        - {client_id: lab-switch, address: 10.16.0.50}
  classes:
    - {name: phones, vendor_class: {starts_with: lab-phone}, options: {domain-name: phones}}
    - {name: guests, user_class: {is: [lab-guest]}}
""") + """\
  lease_time: 60s
  options: {domain-name: everybody}
"""
# Command line of udhcpc, then address, lease time and domain name given. Each has a client
# identifier of its own, unless it says otherwise.
UDHCPC_ROWS = [
    ([], "10.16.0.16", 60, "everybody"),
    (["-r", "10.16.0.77"], "10.16.0.77", 60, "everybody"),
    (["-r", "10.99.0.77"], "10.16.0.17", 60, "everybody"),
    (["-r", "10.16.0.100"], "10.16.0.18", 60, "everybody"),  # only phones get that
    (["-x", "lease:120"], "10.16.0.19", 120, "everybody"),
    (["-x", "lease:4294967295"], "10.16.0.20", 600, "everybody"),
    (["-x", "lease:1"], "10.16.0.21", 30, "everybody"),
    (["-V", "lab-phone 7"], "10.16.0.100", 60, "phones"),
    (["-x", "0x3d:0102030405", "-r", "10.16.0.77"], "10.16.0.6", 60, "by-id"),
    (["-r", "10.16.0.5"], "10.16.0.22", 60, "everybody"),  # kept for another
]


@needs("udhcpc", "dhclient", "dhcpcd")
def test_every_client_gets_what_is_his(tmp_path: Path) -> None:
    """Section 4.3.1: reservation, class, requested address and lease time."""
    with relayed(0, 0, 0) as net, served(net, tmp_path, ASKING) as server:
        for number, (words, address, lease_s, domain) in enumerate(UDHCPC_ROWS):
            own = [] if "0x3d:0102030405" in words else ["-x", f"0x3d:ff0000{number:02x}"]
            with Udhcpc(net.clients[0], arguments=[*words, *own]) as client:
                got = client.get()
                client.release()
            told_of = (got.address, got.lease_time_s, got.env["domain"])
            assert told_of == (address, lease_s, domain), words

        net.clients[1].ip("link set eth0 address 02:00:00:00:00:aa\n")
        with Dhclient(net.clients[1], config="send dhcp-lease-time 120;\n") as client:
            got = client.get()
            assert (got.address, got.lease_time_s) == ("10.16.0.5", 120)
            assert got.env["new_domain_name"] == "by-chaddr"
        with Dhcpcd(net.clients[2], config=(  # the text goes out with type 0 before it
                "clientid lab-switch\nuserclass lab-guest\noption domain_name\n")) as client:
            got = client.get()
            assert (got.address, got.env["new_domain_name"]) == ("10.16.0.50", "everybody")
        with Dhcpcd(net.clients[2], config=(
                "userclass lab-guest\nrequest 10.16.0.115\n")) as client:
            got = client.get()
            assert (got.address, got.lease_time_s) == ("10.16.0.115", 77)
        stats = server.stop()
    assert stats["sent"]["nak"] == 0 and sum(stats["causes"].values()) == 0
    assert stats["pool"]["bound"] == 3  # those three ended without a release


@needs("dhclient", "tshark")
def test_who_left_his_class_is_refused_and_gets_another_address(tmp_path: Path) -> None:
    """Table 3: a NAK has neither an address nor a lease time, also where it ends a binding."""
    with relayed(0) as net, served(net, tmp_path, ASKING) as server, \
            Capture(tmp_path / "class.pcapng", *net.tap) as capture, \
            Dhclient(net.clients[0],
                     config='send vendor-class-identifier "lab-phone";\n') as client:
        assert client.get().address == "10.16.0.100"
        client.leave()
        client.config = ""
        got = client.get()
        client.leave()
        capture.stop()
        stats = server.stop()
    assert (got.what, got.address) == ("bound", "10.16.0.16")
    rows = fields(capture.path, [*WIRE, "dhcp.option.type"], "dhcp.option.dhcp == 6")
    assert len(rows) == stats["sent"]["nak"] == 1
    assert rows[0]["dhcp.ip.your"] == "0.0.0.0"
    assert set(rows[0]["dhcp.option.type"].split(",")) <= {"53", "54", "56", "61", "0", "255"}
    assert stats["pool"]["bound"] == 1
    sound(capture.path, sum(stats["received"].values()) + sum(stats["sent"].values()))


# --- two messages instead of four, options only, and no address at all

FEW = SUBNET + "  rapid_commit: true\n  options: {v6-only-preferred: 30m, log-server: 10.16.0.9}\n"


@needs("dhcpcd", "udhcpc", "tshark")
def test_rapid_commit_inform_and_an_ipv6_only_client(tmp_path: Path) -> None:
    """RFC 4039, RFC 2131 section 4.3.5 and RFC 8925 section 3.3.

    No client of Debian 12 can do without an address: this one only asks for option 108.
    """
    with relayed(0, 0, 0, 0) as net, served(net, tmp_path, FEW) as server, \
            Capture(tmp_path / "few.pcapng", *net.tap) as capture, \
            Dhcpcd(net.clients[0], config="option rapid_commit\n") as rapid, \
            Dhcpcd(net.clients[1], arguments=["--inform"],
                   config="option log_servers\n") as informing, \
            Dhcpcd(net.clients[2], config="option ipv6_only_preferred\n") as without, \
            Udhcpc(net.clients[3]) as plain:
        macs = [client.mac() for client in net.clients]
        address = rapid.get().address
        net.clients[1].ip("addr add 10.16.0.200/24 dev eth0\n")
        informing.start()
        informed = informing.next("inform", after=0)
        without.start()
        wait_until("an offer of no address", lambda: f"{macs[2]} discover -> offer" in server.log)
        without.leave()
        assert plain.get().address not in ("", address)
        capture.stop()
        stats = server.stop()
    assert informed.env["new_log_servers"] == "10.16.0.9"
    names = [*WIRE, "dhcp.option.type", "dhcp.option.ip_address_lease_time"]
    by_mac = [fields(capture.path, names, f"dhcp.hw.mac_addr == {mac}") for mac in macs]
    assert kinds(by_mac[0]) == DISCOVER + ACK
    assert "80" in by_mac[0][1]["dhcp.option.type"].split(",")
    assert kinds(by_mac[1]) == INFORM + ACK
    answer = by_mac[1][1]
    assert (answer["ip.dst"], answer["dhcp.ip.client"]) == ("10.16.0.200", "10.16.0.200")
    assert (answer["dhcp.ip.your"], answer["dhcp.option.ip_address_lease_time"]) == ("0.0.0.0", "")
    assert kinds(by_mac[2])[:2] == DISCOVER + OFFER and ACK not in kinds(by_mac[2])
    assert by_mac[2][1]["dhcp.ip.your"] == "0.0.0.0"
    assert "108" in by_mac[2][1]["dhcp.option.type"].split(",")
    assert kinds(by_mac[3]) == DISCOVER + OFFER + REQUEST + ACK
    assert stats["pool"]["bound"] == 2 and stats["pool"]["offered"] == 0
    sound(capture.path, sum(stats["received"].values()) + sum(stats["sent"].values()))


# --- an address that somebody else uses

@needs("udhcpc", "dhclient", "dhcpcd", "arping", "tshark")
def test_who_finds_his_address_in_use_declines_it(tmp_path: Path) -> None:
    """RFC 2131 section 4.3.3: what was declined is given to nobody for a while."""
    taken = ["10.16.0.16", "10.16.0.30", "10.16.0.31"]
    with relayed(0, 0, 0) as net, served(net, tmp_path, SUBNET) as server, \
            Capture(tmp_path / "decline.pcapng", *net.tap) as capture, \
            contextlib.ExitStack() as stack:
        net.server.ip("".join(f"addr add {address}/32 dev eth0\n" for address in taken))
        clients = [
            add(stack, Dhclient(net.clients[0], probe=True)),
            add(stack, Udhcpc(net.clients[1], arguments=["-a", "-r", taken[1]])),
            add(stack, Dhcpcd(net.clients[2], probe=True, config=f"request {taken[2]}\n"))]
        for client in clients:
            client.start()
        given = [client.next("bound", after=0, timeout_s=30).address for client in clients[1:]]
        # Its script said BOUND for the address that it then declined.
        wait_until("dhclient to get another address", lambda: len(clients[0].leased) > 0)
        given.append(clients[0].leased[-1].address)
        for client in clients:
            client.leave()
        capture.stop()
        stats = server.stop()
    assert len(set(given)) == 3 and not set(given) & set(taken)
    declines = [row for row in told(capture.path) if row["dhcp.option.dhcp"] == DECLINE]
    assert {row["dhcp.option.requested_ip_address"] for row in declines} == set(taken)
    assert stats["received"]["decline"] == stats["pool"]["declined"] == 3
    assert stats["pool"]["bound"] == 3 and sum(stats["causes"].values()) == 0
    offered_again = [row["dhcp.ip.your"] for row in told(capture.path)
                     if int(row["frame.number"]) > int(declines[-1]["frame.number"])]
    assert not set(offered_again) & set(taken)
    sound(capture.path, sum(stats["received"].values()) + sum(stats["sent"].values()))
