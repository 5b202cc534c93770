"""The YAML of subnets, pools, reservations, classes and faults: what it becomes, what it may not.

Every mistake is blamed on its line, and what `--check` prints is read back as what it was.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS, REQUESTS, Fault
from fastpath.faultspec import parse_fault
from fastpath.options import OPTIONS, PRIVATE, find
from server.configfile import File, load
from server.effective import duration, effective
from server.model import (
    CLASS_MATCHES,
    FOREVER_S,
    TRANSPORTS,
    ClientClass,
    Config,
    Match,
    Pool,
    Range,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.structure import Structure, merged
from server.values import parse_option

IP = IPv4Address
NET = IPv4Network
REFERENCE = Path(__file__).parents[2] / "docs" / "dhcp-server.md"


def reference_yaml() -> str:
    """The example in the reference."""
    return REFERENCE.read_text().split("```yaml\n")[1].split("```")[0]


def loaded(folder: Path, text: str) -> File:
    path = folder / "kea.yaml"
    path.write_text(text)
    return load(path)


def built(folder: Path, text: str) -> Structure:
    structure = loaded(folder, text).structure
    assert structure is not None
    return structure


def subnet(folder: Path, text: str) -> Subnet:
    """One subnet, 10.0.0.0/24, with `text` under it, indented by 4."""
    return built(folder, f"server:\n  subnets:\n  - subnet: 10.0.0.0/24\n{text}"
                 ).networks[0].subnets[0]


def test_the_example_of_the_reference(tmp_path: Path) -> None:
    file = loaded(tmp_path, reference_yaml())
    made = file.structure
    assert made is not None and file.flags["interface"] == ["eth1", "eth2"]
    assert made.settings == Settings(43200, 300, 86400, options={
        15: b"example.org", 6: bytes([10, 0, 0, 2, 10, 0, 0, 3]),
        121: bytes([16, 10, 9, 10, 0, 0, 1]), 108: (1800).to_bytes(4, "big"),
        224: b"\x01\x02", 2: b"\xff\xff"})
    assert made.classes == (
        ClientClass("phones", (Match(60, "starts-with", b"Cisco"),),
                    Settings(options={150: bytes([10, 0, 0, 9])})),
        ClientClass("boot", (Match(77, "is", b"iPXE"), Match(77, "is", b"iPXE")),
                    Settings(next_server=IP("10.0.0.9"), boot_file="boot.ipxe")))
    alone, floor = made.networks
    assert (alone.name, alone.interface, floor.name) == ("10.0.0.0/24", "eth1", "floor1")
    assert alone.subnets[0].pools[0] == Pool(IP("10.0.0.10"), IP("10.0.0.99"), (), ("phones",),
                                             Settings(3600))
    assert alone.subnets[0].pools[1].exclude == (
        (IP("10.0.0.150"),) * 2, (IP("10.0.0.160"), IP("10.0.0.169")))
    assert [(r.by, r.key) for r in alone.subnets[0].reservations] == [
        ("chaddr", b"\2\0\0\0\0\1"), ("client-id", b"\0lab-switch"), ("circuit-id", b"sw1-p3")]
    assert floor.settings.options == {6: bytes([10, 1, 0, 2])} and len(floor.subnets) == 2
    assert floor.subnets[1].settings.options == {3: bytes([10, 1, 1, 1])}
    assert made.faults == (
        Fault("drop", frozenset({"offer"}), 0.05, from_s=10, until_s=60),
        Fault("delay", frozenset({"ack"}), delay_s=0.05, jitter_s=0.01, distribution="normal"),
        Fault("missing-option", frozenset({"ack"}), option=51, every_s=10, for_s=2),
        Fault("drop", from_s=90, until_s=95))


# One row a mistake: the lines below `server:`, the line and message, the remedy.
MISTAKES = [
    # Subnets.
    ("  subnets:\n  - pools: []", "3: a subnet without subnet"),
    ("  subnets:\n  - pools: []\n    subent: 10.0.0.0/24", "4: subnets: unknown key 'subent'",
     "did you mean subnet"),
    ("  subnets:\n  - subnet: ~", "3: subnet: nothing is not a subnet"),
    ("  subnets:\n  - subnet: 10.0.0.1/24", "3: subnet: '10.0.0.1/24' has bits set", "10.0.0.0/24"),
    ("  subnets:\n  - subnet: 10.0.0.0", "3: subnet: '10.0.0.0' is not a subnet"),
    ("  subnets:\n  - subnet: 0.0.0.0/0", "3: subnet: '0.0.0.0/0' is not a subnet"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n  - subnet: 10.0.0.128/25",
     "4: subnet 10.0.0.128/25 overlaps subnet 10.0.0.0/24", "line 3"),
    ("  shared_networks:\n  - {name: a, subnets: [{subnet: 10.0.0.0/8}]}\n"
     "  subnets:\n  - {subnet: 9.0.0.0/24}\n  - {subnet: 10.9.0.0/24}",
     "6: subnet 10.9.0.0/24 overlaps subnet 10.0.0.0/8", "line 3"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    interface: eth0\n  - subnet: 10.0.1.0/24\n"
     "    interface: eth0", "5: a second network on interface eth0, beside that on line 3"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    interface: sixteen-octets-x",
     "4: interface: 'sixteen-octets-x' cannot be the name"),
    ("  shared_networks:\n  - {name: a, subnets: [{subnet: 10.0.0.0/24}]}\n"
     "  - {name: a, subnets: [{subnet: 10.0.1.0/24}]}", "4: a second network 'a'"),
    ("  shared_networks:\n  - {name: a, subnets: []}", "3: subnets: an empty list is not"),
    ("  shared_networks:\n  - {name: a, subnets: }", "3: subnets: nothing is not"),
    ("  shared_networks:\n  - {name: ' ', subnets: [{subnet: 10.0.0.0/24}]}", "3: name: ' ' is"),
    ("  shared_networks:\n  - name: a\n    subnets:\n    - subnet: 10.0.0.0/24\n"
     "      interface: e", "6: subnets: unknown key 'interface'"),
    ("  gateway: 10.0.0.1\n  subnets: [{subnet: 10.0.0.0/24}]", "2: gateway beside subnets"),
    ("  ip_pool: {start: 1.2.3.4}\n  subnets: [{subnet: 10.0.0.0/24}]", "2: ip_pool beside"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    gateway: 10.0.1.1",
     "4: gateway 10.0.1.1 is not inside subnet 10.0.0.0/24"),
    # Pools.
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - 10.0.0.10 - 10.0.1.20",
     "5: pool 10.0.0.10 - 10.0.1.20 is not inside subnet 10.0.0.0/24", "10.0.0.0 - 10.0.0.255"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - range: 10.0.0.9 - 10.0.0.1",
     "5: range: 10.0.0.9 - 10.0.0.1 ends before", "10.0.0.1 - 10.0.0.9"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - range: 10.0.0.9 - x", "5: range: 'x'"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - {}", "5: a pool without range"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - 10.0.0.9 - 10.0.0.20\n    - 10.0.0.1\n"
     "    - 10.0.0.20", "7: pool 10.0.0.20 - 10.0.0.20 overlaps pool 10.0.0.9 - ", "line 5"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - range: 10.0.0.9 - 10.0.0.20\n"
     "      exclude:\n      - 10.0.0.9\n      - 10.0.0.20 - 10.0.0.21",
     "8: exclude 10.0.0.20 - 10.0.0.21 is not inside pool 10.0.0.9 - 10.0.0.20"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n    - range: 10.0.0.9 - 10.0.0.10\n"
     "      exclude: [10.0.0.9, 10.0.0.10]", "5: pool 10.0.0.9 - 10.0.0.10 has no address"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools: [10.0.0.255]", "4: pool 10.0.0.255 - "),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools: [10.0.0.5]\n"
     "    reservations: [{address: 10.0.0.5, circuit_id: a}]", "4: pool 10.0.0.5 - 10.0.0.5 has"),
    ("  classes: [{name: phones, vendor_class: x}]\n  subnets:\n  - subnet: 10.0.0.0/24\n"
     "    pools:\n    - range: 10.0.0.9\n      classes: phone", "7: no class is called 'phone'",
     "did you mean phones?"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    pools: [{range: 10.0.0.9, classes: [a]}]",
     "4: no class is called 'a'", "define it"),
    ("  subnets:\n  - {subnet: 10.0.0.0/8, pools: [10.0.0.0/8]}\n"
     "  - {subnet: 11.0.0.0/24, pools: [11.0.0.0/24]}", "4: 16,777,472 addresses in all pools"),
    # Reservations.
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - {chaddr: 02:00:00:00:00:01}",
     "5: a reservation without address"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.1.5\n"
     "      circuit_id: a", "5: reservation of 10.0.1.5 is not inside subnet 10.0.0.0/24"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.255\n"
     "      circuit_id: a", "5: 10.0.0.255 is the subnet's own"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5",
     "5: reservation of 10.0.0.5 has 0 keys"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5\n"
     "      circuit_id: a\n      client_id: b", "5: reservation of 10.0.0.5 has 2 keys"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5\n"
     "      chaddr: 02:00:00:00:00", "6: chaddr: '02:00:00:00:00' is not an Ethernet address"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5\n"
     "      chaddr: 02:00-00:00:00:00", "6: chaddr: '02:00-00:00:00:00' is not"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5\n"
     "      client_id: 0x0", "6: client-id: client-id: '0x0' is not"),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n    - address: 10.0.0.5\n"
     "      circuit_id: 0x" + "00" * 256, "6: circuit-id: "),
    ("  subnets:\n  - subnet: 10.0.0.0/24\n    reservations:\n"
     "    - {circuit_id: a, address: 10.0.0.5}\n    - {circuit_id: b, address: 10.0.0.5}",
     "6: a second reservation for address 10.0.0.5", "line 5"),
    ("  shared_networks:\n  - name: a\n    subnets:\n"
     "    - {subnet: 10.0.0.0/24, reservations: [{chaddr: 020000000001, address: 10.0.0.5}]}\n",
     "5: chaddr: '020000000001' is not"),
    ("  shared_networks:\n  - name: a\n    subnets:\n    - subnet: 10.0.0.0/24\n"
     "      reservations: [{chaddr: '02:00:00:00:00:01', address: 10.0.0.5}]\n"
     "    - subnet: 10.0.1.0/24\n"
     "      reservations: [{chaddr: 0200.0000.0001, address: 10.0.1.5}]",
     "8: a second reservation for chaddr 0200.0000.0001", "line 6"),
    # Classes.
    ("  classes:\n  - {name: a, vendor_class: x}\n  - {name: a, vendor_class: y}",
     "4: a second class 'a'"),
    ("  classes:\n  - name: a", "3: class 'a' has no members"),
    ("  classes:\n  - {vendor_class: x}", "3: a class without name"),
    ("  classes:\n  - name: a\n    vendor_class: {start_with: x}", "4: vendor_class: unknown key "
     "'start_with'", "did you mean starts_with?"),
    ("  classes:\n  - name: a\n    vendor_class: {is: 0x0}", "4: vendor-class: '0x0' is not hex"),
    ("  classes:\n  - name: a\n    vendor_class: {is: 0x}", "4: vendor-class: an empty text"),
    ("  classes:\n  - name: a\n    vendor_class: {}", "4: vendor_class: a mapping is not"),
    ("  classes:\n" + "".join(f"  - {{name: c{i}, user_class: x}}\n" for i in range(61)),
     "63: more than 60 classes"),
    # Times.
    ("  min_lease_time: 2h\n  max_lease_time: 1h", "3: min_lease_time 7200s is more than max"),
    ("  lease_time: 1h\n  min_lease_time: 2h", "3: lease_time 3600s is less than min"),
    ("  max_lease_time: 1h\n  subnets:\n  - subnet: 10.0.0.0/24\n    lease_time: 2h",
     "5: lease_time 7200s is more than max_lease_time 3600s"),
    ("  renewal_time: 30m\n  rebinding_time: 30m", "3: renewal_time 1800s is not before rebinding"),
    ("  lease_time: 1h\n  rebinding_time: 1h", "3: rebinding_time 3600s is not before lease_time"),
    ("  lease_time: 1h\n  renewal_time: 30m\n  subnets:\n  - subnet: 10.0.0.0/24\n    pools:\n"
     "    - range: 10.0.0.9\n      lease_time: 30m", "8: renewal_time 1800s is not before lease"),
    ("  renewal_time: 0", "2: renewal_time: '0' is not from 1s"),
    ("  lease_time: -5", "2: lease_time: '-5' is not a time"),
    ("  lease_time: 5000000000", "2: lease_time: '5000000000' is not from 1s"),
    # Options and fields.
    ("  options:\n    domain-nam: x", '3: unknown DHCP option "domain-nam"', "domain-name"),
    ("  options:\n    256: x", "3: no DHCP option has code 256"),
    ("  options:\n    router: 10.0.0.1\n    3: 10.0.0.1", "4: option router is given twice"),
    ("  options:\n    router: [10.0.0.1, x]", "3: option router: '10.0.0.1, x' is not a list of"),
    ("  options:\n    router: []", "3: router: an empty list is not the value of an option"),
    ("  options:\n    router:", "3: router: nothing is not the value of an option"),
    ("  options:\n    router: [[10.0.0.1]]", "3: router: a list is not one value"),
    ("  options:\n    router: {hax: 00}", "3: router: unknown key 'hax'"),
    ("  options:\n    router: {hex: 0g}", "3: option router: '0g' is not hexadecimal"),
    ("  options:\n    domain-name: [a, b]", "3: option domain-name: a list is not a text"),
    ("  options:\n    mtu: 65536", "3: option interface-mtu: '65536' is not a whole number"),
    ("  options:\n    224: 0x123", "3: option option-224: '0x123' is not octets"),
    ("  options:\n    lease-time: 5", "3: option lease-time cannot be set", "set lease_time"),
    ("  options:\n    82: 0x0101", "3: option relay-agent-information cannot be set"),
    ("  options:\n    255: 1", "3: option end cannot be set"),
    ("  dns: [10.0.0.1]\n  options: {dns: 10.0.0.1}", "2: dns and option domain-name-server are"),
    ("  dns: 10.0.0", "2: option domain-name-server: '10.0.0' is not a list of IPv4 addresses"),
    ("  boot_file: " + "x" * 128, "2: boot_file: 'xxx"),
    ('  server_name: "a\\nb"', "2: server_name: 'a\\nb' is not a line"),
    ("  server_name: " + "가" * 22, "2: server_name: '가"),
    # Faults.
    ("  faults:\n  - rate: 5%", "3: a fault without kind"),
    ("  faults:\n  - kind: drip", "3: kind: 'drip' is not a kind of fault"),
    ("  faults:\n  - {kind: drop, rate: 101%}", "3: fault: '101%' is not a rate"),
    ("  faults:\n  - {kind: drop, rate: -0.1}", "3: rate: '-0.1' is not a rate"),
    ("  faults:\n  - kind: drop\n    messages: [ofer]", "4: messages: 'ofer' is not one of",
     "did you mean offer"),
    ("  faults:\n  - kind: drop\n    messages: ofer", "3: fault: 'ofer' is no message"),
    ("  faults:\n  - {kind: delay}", "3: fault: delay of no time"),
    ("  faults:\n  - {kind: late, delay: 0}", "3: fault: late of no time"),
    ("  faults:\n  - {kind: drop, delay: 5s}", "3: fault: delay belongs to delay, not to drop"),
    ("  faults:\n  - {kind: corrupt_option}", "3: fault: corrupt-option needs option"),
    ("  faults:\n  - {kind: nak, option: 51}", "3: fault: option belongs to missing-option"),
    ("  faults:\n  - {kind: missing-option, option: 255}", "3: fault: option 255 carries no"),
    ("  faults:\n  - {kind: silence, messages: [ack]}", "3: fault: silence is about all"),
    ("  faults:\n  - {kind: drop, from: 9s, until: 9s}", "3: fault: it ends at 9 s, before"),
    ("  faults:\n  - {kind: drop, until: 9s, for: 1s}", "3: fault: until and for both say"),
    ("  faults:\n  - {kind: drop, every: 9s}", "3: fault: every needs a for"),
    ("  faults:\n  - {kind: drop, every: 9s, for: 9s}", "3: fault: every needs a for"),
    ("  faults:\n  - {kind: drop, for: 0s}", "3: fault: for must be longer than no time"),
    ("  faults:\n  - {kind: drop, from: 1000000h}", "3: fault: '1000000h' is longer than ten"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[1][:60])
def test_mistake(tmp_path: Path, mistake: tuple[str, ...]) -> None:
    text, said, *remedy = mistake
    with pytest.raises(UserError) as info:
        loaded(tmp_path, f"server:\n{text}\n")
    assert info.value.what.startswith(f"{tmp_path / 'kea.yaml'}:{said}")
    assert all(word in info.value.remedy for word in remedy)


def test_of_two_mistakes_the_first_line_is_blamed(tmp_path: Path) -> None:
    text = "server:\n  faults: [{kind: x}]\n  prot: 1\n  port: []\nclent:\n"
    with pytest.raises(UserError, match=r"kea.yaml:2: kind: 'x'"):
        loaded(tmp_path, text)


def test_a_reservation_stays_in_its_pool(tmp_path: Path) -> None:
    found = subnet(tmp_path, """\
    pools:
    - {range: 10.0.0.1 - 10.0.0.20, exclude: [10.0.0.7 - 10.0.0.9]}
    - 10.0.0.30-10.0.0.31
    reservations:
    - {circuit_id: a, address: 10.0.0.20}
    - {circuit_id: b, address: 10.0.0.10}
    - {circuit_id: c, address: 10.0.0.8}
    - {circuit_id: d, address: 10.0.0.30}
    - {circuit_id: e, address: 10.0.0.29}
""")
    assert found.pools[0].exclude == ((IP("10.0.0.7"), IP("10.0.0.9")),)
    assert found.pools[1].exclude == ()


def test_small_and_large_subnets(tmp_path: Path) -> None:
    made = built(tmp_path, "server:\n  subnets:\n  - {subnet: 10.0.0.0/31, pools: [10.0.0.0/31]}\n"
                           "  - {subnet: 10.0.0.2/32, pools: [10.0.0.2]}\n"
                           "  - {subnet: 11.0.0.0/8, pools: [11.0.0.0 - 11.200.0.0]}\n")
    assert [net.subnets[0].network.prefixlen for net in made.networks] == [31, 32, 8]


def test_the_same_client_may_have_an_address_in_every_network(tmp_path: Path) -> None:
    made = built(tmp_path, "server:\n  subnets:\n" + "".join(
        f"  - subnet: 10.0.{i}.0/24\n    reservations: [{{client_id: x, address: 10.0.{i}.9}}]\n"
        for i in range(2)))
    assert len(made.networks) == 2


@pytest.mark.parametrize(("text", "by", "key"), [
    ("chaddr: 02:AA:00:00:00:01", "chaddr", "02aa00000001"),
    ("chaddr: 02-aa-00-00-00-01", "chaddr", "02aa00000001"),
    ("chaddr: 12:34:56:12:34:56", "chaddr", "123456123456"),
    ("client-id: 0x01020304", "client-id", "01020304"), ("client_id: 123", "client-id", "00313233"),
    ("client_id: 02:00:00:00:00:01", "client-id", "01020000000001"),
    ("circuit_id: Gi0/1", "circuit-id", "4769302f31"), ("circuit-id: 0x00", "circuit-id", "00"),
])
def test_keys(tmp_path: Path, text: str, by: str, key: str) -> None:
    found = subnet(tmp_path, f"    reservations:\n    - address: 10.0.0.5\n      {text}\n")
    assert found.reservations == (Reservation(IP("10.0.0.5"), by, bytes.fromhex(key)),)


@pytest.mark.parametrize(("text", "octets"), [
    ("224: 0x0102", "0102"), ("option-224: abc", "616263"), ("domain-name: 123", "313233"),
    ("domain_name: 1.10", "312e3130"), ("ip-forwarding: yes", "01"), ("mtu: 1500", "05dc"),
    ("v6-only-preferred: 30m", "00000708"), ("dns: 10.0.0.1", "0a000001"),
    ("dns: [10.0.0.1, 10.0.0.2]", "0a0000010a000002"), ("252: http://x/", "687474703a2f2f782f"),
    ("domain-search: [a.b, c]", "01610162000163 00"), ("router: {hex: 0x}", ""),
    ("router: {hex: 12}", "12"), ("private-0: x", None),
    ("classless-static-routes: [10.0.0.0/8 via 10.0.0.1, 0.0.0.0/0 10.0.0.2]",
     "080a0a000001 000a000002"),
    ("static-route: [10.0.0.0 10.0.0.1, 11.0.0.0 10.0.0.2]", "0a0000000a0000010b0000000a000002"),
    ("pcp-server: [\"10.0.0.1,10.0.0.2\", 10.0.0.3]", "080a0000010a000002040a000003"),
    ("vivso: ['9: 1=0x01', '10: 2=0x02']", "0000000903010101 0000000a03020102"),
])
def test_option_values(tmp_path: Path, text: str, octets: str | None) -> None:
    if octets is None:
        with pytest.raises(UserError, match="unknown DHCP option"):
            built(tmp_path, f"server:\n  options:\n    {text}\n")
        return
    made = built(tmp_path, f"server:\n  options:\n    {text}\n")
    assert list(made.settings.options.values()) == [bytes.fromhex(octets)]


@pytest.mark.parametrize(("text", "fault"), [
    ("drop", Fault("drop")), ("drop:offer:5%", Fault("drop", frozenset({"offer"}), 0.05)),
    ("nak:request:0.01", Fault("nak", frozenset({"request"}), 0.01)),
    ("reorder:.5:offer+ack", Fault("reorder", frozenset({"offer", "ack"}), 0.5)),
    ("delay:ack:10%:delay=200ms,jitter=50ms",
     Fault("delay", frozenset({"ack"}), 0.1, 0.2, 0.05)),
    ("late:delay=5s", Fault("delay", delay_s=5)),
    ("delay:jitter=1s,distribution=pareto", Fault("delay", jitter_s=1, distribution="pareto")),
    ("missing-option:ack:option=51", Fault("missing-option", frozenset({"ack"}), option=51)),
    ("CORRUPT_OPTION:option=router", Fault("corrupt-option", option=3)),
    ("silence:from=10s,for=5s", Fault("drop", from_s=10, until_s=15)),
    ("duplicate:every=1m,for=1s", Fault("duplicate", every_s=60, for_s=1)),
    ("drop:messages=nak,rate=1", Fault("drop", frozenset({"nak"}))),
    ("drop:from=1h30m,until=2h", Fault("drop", from_s=5400, until_s=7200)),
])
def test_fault_argument(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(("text", "said"), [
    ("", "'' is not known"), ("drip", "did you mean drop"), ("drop:ofer", "did you mean offer"),
    ("drop:2", "'2' is not a rate"), ("drop:5%%", "is not a rate"), ("drop:1e999", "not a rate"),
    ("drop:5%:6%", "rate is given twice"), ("drop:offer:ack", "messages is given twice"),
    ("drop:form=5s", "did you mean for or from"), ("drop:from=5s,until", "unknown field 'until'"),
    ("drop:from=x", "'x' is not a duration"), ("drop:offer+", "'' is no message"),
    ("missing-option:option=nope", "unknown DHCP option"), ("delay:ack", "delay of no time"),
    ("drop:kind=nak", "unknown field 'kind'"), ("drop:from=inf", "not a duration"),
    ("drop:", "'' is no message"), ("drop\n:x", "is no message"),
])
def test_bad_fault_argument(text: str, said: str) -> None:
    with pytest.raises(UserError) as info:
        parse_fault(text)
    assert said in f"{info.value.what}; {info.value.remedy}" and "\n" not in info.value.what


def test_option_argument() -> None:
    assert parse_option("router=10.0.0.1,10.0.0.2") == (3, bytes([10, 0, 0, 1, 10, 0, 0, 2]))
    assert parse_option("43=0x0102") == (43, b"\1\2")
    for text, said in (("router", "has no value"), ("ruoter=1", "unknown DHCP option"),
                       ("mtu=x", "interface-mtu: 'x'"), ("53=1", "cannot be set")):
        with pytest.raises(UserError, match=said):
            parse_option(text)


@given(st.floats(0, 3e8) | st.integers(0, FOREVER_S))
def test_durations_are_read_as_written(seconds: float) -> None:
    from fastpath.cli import parse_duration_s

    assert parse_duration_s(str(duration(seconds))) == seconds


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0ms"), (1, "1s"), (90, "90s"), (5400, "90m"), (86400, "1d"), (0.05, "50ms"),
    (1.5, "1500ms"), (1 / 3, 1 / 3), (1e-9, 1e-9), (1000.5, "1000500ms")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# What --check prints, read again.

def configured(file: File) -> Config:
    """As the command line makes it of a file alone."""
    made = file.structure
    assert made is not None
    flags: dict[str, Any] = dict(file.flags)

    def address(name: str) -> IPv4Address | None:
        return IP(flags[name]) if name in flags else None

    def seconds(name: str) -> int:
        from fastpath.cli import parse_duration_s

        return round(parse_duration_s(flags[name]))

    return Config(
        tuple(flags.get("interface", ())), address("listen"), int(flags["port"]),
        flags.get("transport", ""),
        Range(address("start_ip"), address("end_ip"), address("netmask"), address("gateway")),
        made.networks, made.classes, made.settings, seconds("offer_hold"), seconds("decline_hold"),
        flags["authoritative"], flags["rapid_commit"], flags["bootp"], flags["relay"],
        int(flags["max_hops"]), int(flags["max_concurrent"]), made.faults, int(flags["seed"]),
        int(flags["ring_slots"]))


DECIDED = {0, 50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 80, 82, 255}
CODES = sorted({*OPTIONS, *PRIVATE, 84, 200, 224} - DECIDED)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
LINES = NAMES | st.sampled_from(["0x41", "yes", "1.10", "~", "- a", "a: b", "# x", "'", '"', "*a"])
OCTETS = st.binary(min_size=1, max_size=20) | LINES.map(str.encode)
SECONDS = st.floats(0, 1e6) | st.integers(0, 10**6).map(float)


@st.composite
def options(draw: st.DrawFn) -> dict[int, bytes]:
    found = {}
    for code in draw(st.lists(st.sampled_from(CODES), max_size=3, unique=True)):
        try:
            octets = parse_option(f"{code}={find(code).type.example}")[1]
        except UserError:
            # Not every example is of the length that the option asks for.
            octets = b"x"
        found[code] = draw(st.just(octets) | st.binary(max_size=20) | OCTETS)
    return found


@st.composite
def level(draw: st.DrawFn, server: bool = False) -> Settings:
    address = st.none() | st.integers(0, 2**32 - 1).map(IP)
    text = st.none() | LINES
    return Settings(
        lease_time_s=draw(st.sampled_from([4000, 86400, FOREVER_S] + [None] * (not server))),
        min_lease_time_s=draw(st.sampled_from([None, 1, 59])),
        max_lease_time_s=draw(st.sampled_from([None, FOREVER_S])),
        renewal_time_s=draw(st.sampled_from([None, 60, 61])),
        rebinding_time_s=draw(st.sampled_from([None, 3600, 3999])),
        next_server=draw(address), boot_file=draw(text), server_name=draw(text),
        options=draw(options()))


@st.composite
def a_subnet(draw: st.DrawFn, number: int, classes: list[str]) -> Subnet:
    base = int(IP("10.0.0.0")) + (number << 8)
    marks = sorted(draw(st.lists(st.integers(1, 254), max_size=8, unique=True)))
    reserved = draw(st.lists(st.integers(1, 254), max_size=4, unique=True))
    pools = []
    for first, last in zip(marks[::2], marks[1::2], strict=False):
        inside = [(IP(base + a), IP(base + b)) for a, b in draw(st.lists(st.tuples(
            st.integers(first, last), st.integers(first, last)), max_size=2)) if a <= b]
        inside += [(IP(base + r),) * 2 for r in reserved if first <= r <= last]
        out = merged(inside)
        if sum(int(b) - int(a) + 1 for a, b in out) <= last - first:
            only = draw(st.lists(st.sampled_from(classes), unique=True, max_size=2)
                        if classes else st.just([]))
            pools.append(Pool(IP(base + first), IP(base + last), out, tuple(only), draw(level())))
    keys = {"chaddr": st.binary(min_size=6, max_size=6), "circuit-id": OCTETS,
            "client-id": OCTETS.filter(lambda key: len(key) > 1)}
    by = st.sampled_from(sorted(keys)).flatmap(lambda by: st.tuples(st.just(by), keys[by]))
    clients = draw(st.lists(by, min_size=len(reserved), max_size=len(reserved), unique=True))
    return Subnet(NET((base, 24)), tuple(pools), tuple(
        Reservation(IP(base + each), *client, draw(level()))
        for each, client in zip(reserved, clients, strict=True)), draw(level()))


@st.composite
def networks(draw: st.DrawFn, classes: list[str]) -> tuple[SharedNetwork, ...]:
    found: list[SharedNetwork] = []
    number = 0
    for at in range(draw(st.integers(0, 3))):
        name = draw(st.just("") | NAMES)
        subnets = []
        for _ in range(draw(st.integers(1, 2)) if name else 1):
            subnets.append(draw(a_subnet(number, classes)))
            number += 1
        assume(name not in [network.name for network in found])
        keys = [(each.by, each.key) for one in subnets for each in one.reservations]
        assume(len(set(keys)) == len(keys))
        found.append(SharedNetwork(name or str(subnets[0].network), tuple(subnets),
                                   draw(level()) if name else Settings(),
                                   draw(st.sampled_from(["", f"eth{at}"]))))
    return tuple(found)


@st.composite
def a_class(draw: st.DrawFn, name: str) -> ClientClass:
    matches = [Match(code, how, value) for code in (60, 77) for how in CLASS_MATCHES
               for value in draw(st.lists(OCTETS, max_size=2))]
    return ClientClass(name, tuple(matches) or (Match(60, "is", b"x"),), draw(level()))


@st.composite
def a_fault(draw: st.DrawFn) -> Fault:
    kind = draw(st.sampled_from(FAULT_KINDS))
    fault = Fault(kind, draw(st.frozensets(st.sampled_from(["offer", "ack", "nak", *REQUESTS]))),
                  draw(st.floats(0, 1)), from_s=draw(SECONDS))
    if kind == "delay":
        fault = replace(fault, delay_s=draw(SECONDS) + 0.001, jitter_s=draw(SECONDS),
                        distribution=draw(st.sampled_from(DISTRIBUTIONS)))
    if kind.endswith("option"):
        fault = replace(fault, option=draw(st.integers(1, 254)))
    if draw(st.booleans()):
        fault = replace(fault, every_s=draw(SECONDS) + 2, for_s=draw(st.floats(0.001, 1)))
    until = draw(st.none() | SECONDS)
    return fault if until is None else replace(fault, until_s=fault.from_s + until + 1)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    made = draw(networks(names))
    address = st.none() | st.integers(0, 2**32 - 1).map(IP)
    return Config(
        interfaces=tuple(draw(st.lists(st.sampled_from(["eth0", "br-1.5", "가"]), unique=True))),
        listen=draw(address), port=draw(st.integers(1, 65534)),
        transport=draw(st.sampled_from(["", *TRANSPORTS])),
        range=Range() if made else Range(*draw(st.tuples(address, address, address, address))),
        networks=made, classes=tuple(draw(a_class(name)) for name in names),
        settings=draw(level(server=True)), offer_hold_s=draw(st.integers(0, 10**8)),
        decline_hold_s=draw(st.integers(0, 10**8)), authoritative=draw(st.booleans()),
        rapid_commit=draw(st.booleans()), bootp=draw(st.booleans()), relay=draw(st.booleans()),
        max_hops=draw(st.integers(0, 255)), max_concurrent=draw(st.integers(0, 2**32 - 1)),
        faults=tuple(draw(st.lists(a_fault(), max_size=3))), seed=draw(st.integers(0, 2**32 - 1)),
        ring_slots=draw(st.integers(64, 1 << 17)))


def same(one: Config, other: Config) -> bool:
    return repr(_listed(one)) == repr(_listed(other)) and one == other


def _listed(config: Config) -> list[object]:
    """The order of options and networks counts too."""
    return [[list(each.settings.options.items()) for each in net.subnets]
            for net in config.networks]


@settings(max_examples=50, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                 HealthCheck.data_too_large, HealthCheck.filter_too_much])
@given(configs())
def test_what_check_prints_is_the_same_configuration(tmp_path: Path, config: Config) -> None:
    text = effective(config)
    assert same(configured(loaded(tmp_path, text)), config), text


def test_what_check_prints_is_readable() -> None:
    pool = Pool(IP("10.0.0.10"), IP("10.0.0.20"), ((IP("10.0.0.12"),) * 2,))
    only = Subnet(NET("10.0.0.0/24"), (pool,), (), Settings(options={3: bytes([10, 0, 0, 1])}))
    text = effective(Config(networks=(SharedNetwork("10.0.0.0/24", (only,)),),
                            settings=Settings(3600, options={224: b"\1\2", 108: bytes(4)}),
                            faults=(Fault("delay", delay_s=0.05, until_s=math.inf),)))
    found = yaml.safe_load(text)["server"]
    assert found["subnets"] == [{"subnet": "10.0.0.0/24", "options": {"router": "10.0.0.1"},
                                 "pools": [{"range": "10.0.0.10 - 10.0.0.20",
                                            "exclude": ["10.0.0.12"]}]}]
    assert found["lease_time"] == "1h" and found["authoritative"] is True
    assert found["options"] == {"option-224": "0x0102", "v6-only-preferred": "0"}
    assert found["faults"] == [{"kind": "delay", "rate": 1.0, "delay": "50ms", "jitter": "0ms",
                                "distribution": "uniform", "from": "0ms"}]


# Hostile files: whatever is done to a good one, it is read or refused, and nothing else.

JUNK: list[Any] = [None, "", "x", "\u0000", [], {}, [[]], {"a": 1}, -1, 2**70, 1.5, True, "0x", "*",
                   "10.0.0.0/24", "10.0.0.300", "10.0.0.9 - 10.0.0.1", "9" * 40, "é", [None], ["x"],
                   "infinite", "nan", "1e999", {"hex": "0"}, {"is": []}, float("inf"), float("nan")]


def damaged(value: Any, chance: random.Random) -> Any:
    """`value` with something in it replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        what = chance.random()
        if what < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.2:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        if what < 0.3:
            return {**value, chance.choice(["options", "subnets", "range", "dns", 3, None]):
                    chance.choice(JUNK)}
        return {**value, key: damaged(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        if chance.random() < 0.2:
            return [*value, value[at]]
        return [*value[:at], damaged(value[at], chance), *value[at + 1:]]
    return chance.choice(JUNK)


def survives(folder: Path, text: str) -> None:
    try:
        file = loaded(folder, text)
    except UserError as error:
        assert error.what.startswith(f"{folder / 'kea.yaml'}:") and "\n" not in error.what
    else:
        assert isinstance(file.structure, Structure)


@settings(max_examples=100, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(), st.integers(1, 4))
def test_damaged_values(tmp_path: Path, seed: int, times: int) -> None:
    chance = random.Random(seed)
    value = yaml.safe_load(reference_yaml())
    for _ in range(times):
        value = damaged(value, chance)
    survives(tmp_path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


@settings(max_examples=80, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_text(tmp_path: Path, data: st.DataObject) -> None:
    text = reference_yaml()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        end = at + data.draw(st.integers(0, 20))
        text = text[:at] + data.draw(st.text("aA0:-[]{}&*<|>?!%@,.#'\" \n\t", max_size=4)) \
            + text[end:] or "x"
    survives(tmp_path, text)
