"""What each adapter writes and starts for a job, what it refuses, and what it reads back.

A lease file is read after its program was ended, perhaps in the middle of a line, and is then
somebody else's text: whatever stands in it, reading it gives leases and no traceback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import SystemRefused, UserError
from netlab import relays, servers, sockets
from netlab.adapter import Port, RelayJob, Report, Scope, ServerJob
from netlab.servers import isc_dhcpd, udhcpd
from netlab.servers.foreign import shortened
from netlab.topology import RelayPolicy

IP, NET = IPv4Address, IPv4Network
BIN = Path("/usr/sbin/program")
DIRECT = Scope(NET("10.16.0.0/12"), IP("10.16.1.0"), IP("10.31.255.254"), IP("10.16.0.1"), 0)
BEHIND = [Scope(NET(f"10.{128 + i}.0.0/16"), IP(f"10.{128 + i}.0.16"), IP(f"10.{128 + i}.255.254"),
                IP(f"10.{128 + i}.0.1"), 2) for i in range(3)]
SERVERS = ("dhcp-server", "kea", "isc-dhcpd", "dnsmasq", "udhcpd")
# What each keeps its leases in, below the job's directory.
STORES = {"kea": "kea-leases4.csv", "isc-dhcpd": "dhcpd.leases", "dnsmasq": "dnsmasq.leases",
          "udhcpd": "udhcpd.leases"}


def job(directory: Path, *scopes: Scope, options: tuple[str, ...] = (),
        address: str = "10.16.0.1/12") -> ServerJob:
    return ServerJob("server", (Port("eth0", IPv4Interface(address)),), scopes, 600, directory,
                     options)


def relay_job(directory: Path, policy: RelayPolicy | None = None, *options: str,
              ) -> RelayJob:
    return RelayJob("relay1", (Port("eth0", IPv4Interface("10.16.0.1/12")),),
                    Port("eth1", IPv4Interface("10.0.1.1/24")), (IP("10.0.1.2"), IP("10.0.1.3")),
                    policy or RelayPolicy(), directory, options)


def started(name: str, what: ServerJob) -> list[str]:
    """The command line without the program, with the job's directory as `D`."""
    adapter = servers.find(name)
    adapter.prepare(what)
    program, *words = adapter.command(BIN, what)
    assert program == str(BIN)
    return [word.replace(str(what.directory), "D") for word in words]


def relaying(name: str, what: RelayJob) -> list[str]:
    adapter = relays.find(name)
    adapter.prepare(what)
    program, *words = adapter.command(BIN, what)
    assert program == str(BIN)
    return [word.replace(str(what.directory), "D") for word in words]


class Alive:
    """A running program: this one."""

    def __init__(self, pid: int = 0) -> None:
        self.pid, self.sent = pid or os.getpid(), []

    def send(self, number: int) -> None:
        self.sent.append(number)


# Commands and configurations.


def test_every_adapter_is_found_and_says_what_to_install() -> None:
    for name in servers.MODULES:
        adapter = servers.find(name)
        assert adapter.package or name == "external"
        assert bool(adapter.program) is (name not in ("external", "command"))
    for name in relays.MODULES:
        assert relays.find(name).program and relays.find(name).package
    with pytest.raises(UserError, match="no server 'nonesuch'"):
        servers.find("nonesuch")


def test_dhcp_server_with_one_scope(tmp_path: Path) -> None:
    assert started("dhcp-server", job(tmp_path, DIRECT, options=("--verbose",))) == [
        "--interface", "eth0", "--start-ip", "10.16.1.0", "--end-ip", "10.31.255.254",
        "--netmask", "255.240.0.0", "--gateway", "10.16.0.1", "--lease-time", "600s",
        "--lease-file", "D/leases", "--stats-json", "D/stats.json", "--verbose"]
    assert not list(tmp_path.iterdir())


def test_dhcp_server_with_several_scopes(tmp_path: Path) -> None:
    """Its file is one that the server itself accepts."""
    from server.configfile import load

    what = job(tmp_path, replace(BEHIND[0], router=None), DIRECT, *BEHIND[1:], options=("-x",))
    assert started("dhcp-server", what) == [
        "--config", "D/server.yaml", "--lease-file", "D/leases", "--stats-json", "D/stats.json",
        "-x"]
    document = yaml.safe_load((tmp_path / "server.yaml").read_text())["server"]
    assert document["interfaces"] == ["eth0"] and document["lease_time"] == 600
    assert document["subnets"][:2] == [
        {"subnet": "10.16.0.0/12", "pools": ["10.16.1.0 - 10.31.255.254"],
         "gateway": "10.16.0.1", "interface": "eth0"},
        {"subnet": "10.128.0.0/16", "pools": ["10.128.0.16 - 10.128.255.254"]}]
    assert load(tmp_path / "server.yaml")


def test_kea(tmp_path: Path) -> None:
    what = job(tmp_path, DIRECT, BEHIND[0], options=("-d",))
    assert started("kea", what) == ["-c", "D/kea-dhcp4.json", "-d"]
    document = json.loads((tmp_path / "kea-dhcp4.json").read_text())["Dhcp4"]
    assert document["interfaces-config"] == {"interfaces": ["eth0"], "dhcp-socket-type": "raw"}
    assert document["lease-database"] == {
        "type": "memfile", "persist": True, "name": str(tmp_path / "kea-leases4.csv"),
        "lfc-interval": 0}
    assert document["subnet4"] == [
        {"id": 1, "subnet": "10.16.0.0/12", "pools": [{"pool": "10.16.1.0 - 10.31.255.254"}],
         "option-data": [{"name": "routers", "data": "10.16.0.1"}]},
        {"id": 2, "subnet": "10.128.0.0/16", "pools": [{"pool": "10.128.0.16 - 10.128.255.254"}],
         "option-data": [{"name": "routers", "data": "10.128.0.1"}]}]
    given_folders = servers.find("kea").environment(what)
    assert set(given_folders.values()) == {str(tmp_path), str(tmp_path / "kea")}
    assert (tmp_path / "kea").stat().st_mode & 0o777 == 0o750


def test_kea_hears_relays_only_on_a_udp_socket(tmp_path: Path) -> None:
    started("kea", job(tmp_path, *BEHIND))
    document = json.loads((tmp_path / "kea-dhcp4.json").read_text())["Dhcp4"]
    assert document["interfaces-config"]["dhcp-socket-type"] == "udp"


def test_kea_where_its_socket_cannot_be(tmp_path: Path) -> None:
    far = tmp_path / ("x" * 100)
    far.mkdir()
    with pytest.raises(SystemRefused, match="too long for a socket"):
        servers.find("kea").prepare(job(far, DIRECT))


def test_two_pools_of_one_network_are_one_subnet(tmp_path: Path) -> None:
    halves = (replace(DIRECT, last=IP("10.16.2.0")), replace(DIRECT, first=IP("10.16.3.0")))
    for name in ("dhcp-server", "kea", "isc-dhcpd"):
        started(name, job(tmp_path, *halves))
    assert len(yaml.safe_load((tmp_path / "server.yaml").read_text())["server"]["subnets"]) == 1
    kea = json.loads((tmp_path / "kea-dhcp4.json").read_text())["Dhcp4"]
    assert [len(subnet["pools"]) for subnet in kea["subnet4"]] == [2]
    dhcpd = (tmp_path / "dhcpd.conf").read_text()
    assert (dhcpd.count("subnet "), dhcpd.count("range ")) == (1, 2)


def test_isc_dhcpd(tmp_path: Path) -> None:
    """The segment it is on is declared too, or it would not listen there; pools are cut."""
    what = job(tmp_path, *BEHIND, address="10.0.3.2/24", options=("-q",))
    assert started("isc-dhcpd", what) == [
        "-4", "-f", "-d", "--no-pid", "-cf", "D/dhcpd.conf", "-lf", "D/dhcpd.leases", "eth0", "-q"]
    assert (tmp_path / "dhcpd.leases").read_text() == ""
    assert (tmp_path / "dhcpd.conf").read_text().splitlines()[3:14] == [
        "default-lease-time 600;", "max-lease-time 600;", "min-lease-time 600;",
        "subnet 10.0.3.0 netmask 255.255.255.0 {", "}",
        "subnet 10.128.0.0 netmask 255.255.0.0 {", "  range 10.128.0.16 10.128.42.185;",
        "  option routers 10.128.0.1;", "}",
        "subnet 10.129.0.0 netmask 255.255.0.0 {", "  range 10.129.0.16 10.129.42.185;"]


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)), min_size=1,
                max_size=600), st.integers(1, 1 << 17))
def test_shortened_pools(ranges: list[tuple[int, int]], most: int) -> None:
    """Never longer, never empty, and in all no more than asked where one each is not too many."""
    scopes = [replace(DIRECT, first=DIRECT.first + min(pair), last=DIRECT.first + max(pair))
              for pair in ranges]
    found = shortened(scopes, most)
    sizes = [int(s.last) - int(s.first) + 1 for s in found]
    assert [s.first for s in found] == [s.first for s in scopes]
    assert all(one.last <= other.last for one, other in zip(found, scopes, strict=True))
    assert min(sizes) >= 1 and sum(sizes) <= max(most, len(scopes))


def test_dnsmasq(tmp_path: Path) -> None:
    words = started("dnsmasq", job(tmp_path, BEHIND[0], replace(BEHIND[1], router=None)))
    assert words == [
        "--keep-in-foreground", "--log-facility=-", "--port=0", "--user=root", "--group=",
        "--pid-file=", "--conf-file=D/dnsmasq.conf", "--dhcp-leasefile=D/dnsmasq.leases",
        "--dhcp-lease-max=131038", "--dhcp-authoritative", "--no-ping", "--interface=eth0"]
    assert (tmp_path / "dnsmasq.conf").read_text().splitlines() == [
        "dhcp-range=set:scope0,10.128.0.16,10.128.255.254,255.255.0.0,600",
        "dhcp-option=tag:scope0,3,10.128.0.1",
        "dhcp-range=set:scope1,10.129.0.16,10.129.255.254,255.255.0.0,600",
        "dhcp-option=tag:scope1,3"]


def test_options_of_the_user_win_with_dnsmasq(tmp_path: Path) -> None:
    """It refuses an option with one value that it hears twice."""
    options = ("--dhcp-lease-max=5", "--leasefile-ro", "--interface=eth9", "--no-ping")
    what = job(tmp_path, DIRECT, options=options)
    words = started("dnsmasq", what)
    assert tuple(words[-4:]) == options
    assert [word for word in words if "lease-max" in word] == ["--dhcp-lease-max=5"]
    assert words.count("--no-ping") == 1 and "--interface=eth0" in words
    (tmp_path / "dnsmasq.leases").write_text("1 02:00:00:00:00:01 10.16.1.1 * *\n")
    assert servers.find("dnsmasq").leases(what) is None


def test_udhcpd(tmp_path: Path) -> None:
    words = started("udhcpd", job(tmp_path, DIRECT, options=("-S",)))
    assert words == ["-f", "-a", "0", "-S", "D/udhcpd.conf"]
    assert (tmp_path / "udhcpd.conf").read_text().replace(str(tmp_path), "D").splitlines() == [
        "start 10.16.1.0", "end 10.16.16.255", "max_leases 4096", "interface eth0",
        "lease_file D/udhcpd.leases", "pidfile D/udhcpd.pid", "option subnet 255.240.0.0",
        "option lease 600", "option router 10.16.0.1"]
    alive = Alive()
    servers.find("udhcpd").settle(job(tmp_path, DIRECT), alive)
    assert alive.sent == [signal.SIGUSR1]


@pytest.mark.parametrize(("scopes", "why"), [
    (BEHIND, "would have 3 subnets to serve"), (BEHIND[:1], "through a relay"),
    ((replace(DIRECT, hops=1),), "through a relay"), ((), "would have 0 subnets")])
def test_udhcpd_refuses_relays_and_several_subnets(tmp_path: Path, scopes: tuple[Scope, ...],
                                                   why: str) -> None:
    with pytest.raises(UserError, match=f"udhcpd in server .*{why}"):
        servers.find("udhcpd").prepare(job(tmp_path, *scopes))


def test_command_fills_its_template(tmp_path: Path) -> None:
    options = ("prog", "-i", "{interface}={address}", "{network}|{netmask}|{first}|{last}|{router}",
               "{lease_time}", "{directory}/x", "{config}", "{ a }", "{}", "${1}", "{interfaces}")
    assert started("command", job(tmp_path, DIRECT, options=options)) == [
        "-i", "eth0=10.16.0.1", "10.16.0.0/12|255.240.0.0|10.16.1.0|10.31.255.254|10.16.0.1",
        "600", "D/x", "D/job.json", "{ a }", "{}", "${1}", "eth0"]
    written = json.loads((tmp_path / "job.json").read_text())
    assert written["subnets"] == [{"network": "10.16.0.0/12", "first": "10.16.1.0",
                                   "last": "10.31.255.254", "router": "10.16.0.1", "hops": 0}]
    assert started("command", job(tmp_path, options=("prog", "{first}"))) == [""]


def test_command_refuses_a_name_that_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"command of server: \{frist\} means nothing") as refused:
        servers.find("command").prepare(job(tmp_path, DIRECT, options=("prog", "{frist}")))
    assert "{first}" in refused.value.remedy


def test_external_starts_nothing(tmp_path: Path) -> None:
    adapter, what = servers.find("external"), job(tmp_path, DIRECT)
    adapter.prepare(what)
    assert (adapter.program, adapter.leases(what), adapter.report(what)) == ("", None, Report())
    assert adapter.ready(what, Alive()) and not list(tmp_path.iterdir())


def test_dhcp_relay(tmp_path: Path) -> None:
    policy = RelayPolicy(16, "replace", "{hostname}", "{mac}")
    assert relaying("dhcp-relay", relay_job(tmp_path, policy, "--verbose")) == [
        "--downlink", "eth0", "--uplink", "eth1", "--server", "10.0.1.2", "--server", "10.0.1.3",
        "--max-hops", "16", "--option82", "replace", "--circuit-id", "{hostname}", "--remote-id",
        "{mac}", "--stats-json", "D/stats.json", "--verbose"]
    assert relaying("dhcp-relay", relay_job(tmp_path)) == [
        "--downlink", "eth0", "--uplink", "eth1", "--server", "10.0.1.2", "--server", "10.0.1.3",
        "--stats-json", "D/stats.json"]


@pytest.mark.parametrize(("policy", "words"), [
    (RelayPolicy(), []), (RelayPolicy(option82="none"), []),
    (RelayPolicy(max_hops=4), ["-c", "5"]), (RelayPolicy(max_hops=0), ["-c", "1"]),
    (RelayPolicy(16, "append", "{ifname}"), ["-c", "17", "-a", "-m", "append"]),
    (RelayPolicy(option82="keep"), ["-a", "-m", "forward"]),
    (RelayPolicy(option82="replace"), ["-a", "-m", "replace"]),
    (RelayPolicy(option82="drop"), ["-a", "-m", "discard"])])
def test_dhcrelay(tmp_path: Path, policy: RelayPolicy, words: list[str]) -> None:
    """Its -c is one more than the hops that may have been passed."""
    assert relaying("dhcrelay", relay_job(tmp_path, policy, "-D")) == [
        "-4", "-d", "--no-pid", *words, "-id", "eth0", "-iu", "eth1", "-D", "10.0.1.2",
        "10.0.1.3"]


def test_dhcrelay_hears_each_frame_once_with_link_selection(tmp_path: Path) -> None:
    assert "-iu" not in relaying("dhcrelay", relay_job(tmp_path, None, "-U", "eth1"))


def test_dnsmasq_as_a_relay(tmp_path: Path) -> None:
    words = relaying("dnsmasq", relay_job(tmp_path, RelayPolicy(option82="none"), "--log-dhcp"))
    assert words[-4:] == ["--conf-file=/dev/null", "--dhcp-relay=10.16.0.1,10.0.1.2,eth1",
                          "--dhcp-relay=10.16.0.1,10.0.1.3,eth1", "--log-dhcp"]


@pytest.mark.parametrize(("name", "policy", "why"), [
    ("dnsmasq", RelayPolicy(max_hops=0), "dnsmasq in relay1 cannot have max-hops 0"),
    ("dnsmasq", RelayPolicy(option82="keep"), "dnsmasq in relay1 cannot have option82 'keep'"),
    ("dnsmasq", RelayPolicy(circuit_id="x"), "dnsmasq in relay1 cannot have circuit-id 'x'"),
    ("dnsmasq", RelayPolicy(remote_id="x"), "dnsmasq in relay1 cannot have remote-id 'x'"),
    ("dhcrelay", RelayPolicy(circuit_id="{mac}"), "dhcrelay in relay1 cannot have circuit-id"),
    ("dhcrelay", RelayPolicy(remote_id="x"), "dhcrelay in relay1 cannot have remote-id"),
    ("dhcrelay", RelayPolicy(option82="x"), "dhcrelay in relay1 has no policy 'x'")])
def test_policies_that_a_relay_cannot_meet(tmp_path: Path, name: str, policy: RelayPolicy,
                                           why: str) -> None:
    with pytest.raises(UserError, match=re.escape(why)) as refused:
        relays.find(name).prepare(relay_job(tmp_path, policy))
    assert refused.value.remedy


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_of_an_earlier_test_is_read_back(tmp_path: Path, name: str) -> None:
    for stale in (*STORES.values(), "leases", "stats.json", "kea/control.socket"):
        (tmp_path / stale).parent.mkdir(exist_ok=True)
        (tmp_path / stale).write_text("stale")
    adapter, what = servers.find(name), job(tmp_path, DIRECT)
    adapter.prepare(what)
    assert "stale" not in {path.read_text() for path in tmp_path.iterdir() if path.is_file()
                           and path.name in (STORES.get(name, "leases"),)}
    if name != "dhcp-server":
        assert not adapter.leases(what)
    else:
        assert not (tmp_path / "stats.json").exists()


# What they read back.

KEA = """\
address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,\
user_context
10.0.0.1,02:00:00:00:00:01,,600,1,1,0,0,,0,
10.0.0.2,02:00:00:00:00:02,,600,1,1,0,0,,0,{ "a": "b&#x2c c" }
10.0.0.1,02:00:00:00:00:01,,0,1,1,0,0,,0,
10.0.0.3,,,600,1,1,0,0,,1,
10.0.0.1,02:00:00:00:00:AA,,600,1,1,0,0,,0,
10.0.0.2,02:00:00:00:00:02,,600,1,1,0,0,,2,
10.0.0.4,02:00:00:00:00:04,,60"""
DHCPD = """\
# The format of this file is documented in the dhcpd.leases(5) manual page.
authoring-byte-order little-endian;
lease 10.0.0.1 {
  binding state active;
  hardware ethernet 02:00:00:00:00:01;
  uid "\\001}\\n  binding state free;";
}
lease 10.0.0.2 {
  binding state active;
  next binding state free;
  hardware ethernet 02:00:00:00:00:02;
}
lease 10.0.0.1 {
  binding state active;
  hardware ethernet 02:00:00:00:00:AA;
}
lease 10.0.0.2 {
  binding state free;
  hardware ethernet 02:00:00:00:00:02;
}
lease 10.0.0.3 {
  binding state active;
  hardware token-ring 02:00:00:00:00:03;
}
lease 10.0.0.4 {
  binding state active;
  hardware ethernet 02:00:00:00:0"""
DNSMASQ = """\
1700000000 02:00:00:00:00:AA 10.0.0.1 * 01:02:00:00:00:00:aa
1700000000 06-02:00:00:00:00:02 10.0.0.2 host *
duid 00:01
1700000000 3 fd00::1 * 00:01
1700000000 02:00:00:00:00:04 10.0"""


def _udhcpd(*rows: tuple[int, str, str]) -> bytes:
    packed = [struct.pack(">I4s6s20s2x", left_s, IP(address).packed,
                          bytes.fromhex(mac.replace(":", "")), b"host\n")
              for left_s, address, mac in rows]
    return bytes(8) + b"".join(packed)


UDHCPD = _udhcpd((5, "10.0.0.1", "02:00:00:00:00:aa"), (0, "10.0.0.2", "02:00:00:00:00:02"),
                 (9, "10.0.0.3", "00:00:00:00:00:00"), (9, "10.0.0.4", "02:00:00:00:00:04"))[:-3]
FILES = {"kea": KEA.encode(), "isc-dhcpd": DHCPD.encode(), "dnsmasq": DNSMASQ.encode(),
         "udhcpd": UDHCPD}


@pytest.mark.parametrize("name", STORES)
def test_leases_of_the_last_word_on_each_address(tmp_path: Path, name: str) -> None:
    """Given, taken back, given to another; declined; without a client; torn at the end."""
    (tmp_path / STORES[name]).write_bytes(FILES[name])
    assert servers.find(name).leases(job(tmp_path, DIRECT)) == {"10.0.0.1": "02:00:00:00:00:aa"}


@pytest.mark.parametrize("name", STORES)
def test_no_file_is_not_an_empty_store(tmp_path: Path, name: str) -> None:
    assert servers.find(name).leases(job(tmp_path, DIRECT)) is None
    (tmp_path / STORES[name]).write_bytes(b"")
    assert servers.find(name).leases(job(tmp_path, DIRECT)) == {}


@st.composite
def spoilt(draw: st.DrawFn, sound: bytes) -> bytes:
    """A sound file cut, with pieces of it out of place and noise in it."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        noise = draw(st.one_of(st.binary(max_size=12), st.sampled_from(
            [b"\n", b",", b'"', b"}", b"\0", b"\xff", b"lease ", b"0", b"999999999999"])))
        content[at:at + draw(st.integers(0, 9))] = noise
    return bytes(content[:draw(st.integers(0, len(content)))])


@pytest.mark.parametrize("name", STORES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None,
          max_examples=150)
@given(data=st.data())
def test_a_spoilt_file_gives_leases_or_none(tmp_path: Path, name: str,
                                            data: st.DataObject) -> None:
    content = data.draw(st.one_of(st.binary(max_size=300), spoilt(FILES[name])))
    (tmp_path / STORES[name]).write_bytes(content)
    found = servers.find(name).leases(job(tmp_path, DIRECT))
    assert found is not None
    for address, chaddr in found.items():
        assert str(IP(address)) == address
        assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", chaddr)


def _leases_command(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "dhcp-server"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    monkeypatch.setenv("DHCP_NETLAB_BIN", str(folder))


def test_leases_of_our_own_server_are_asked_of_it(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"address": "10.0.0.1", "chaddr": "02:00:00:00:00:AA"},
            {"address": "10.0.0.2", "chaddr": ""}]
    _leases_command(tmp_path, f"[ \"$*\" = 'leases {tmp_path}/leases --json --state bound' ] "
                    f"&& echo '{json.dumps(rows)}'", monkeypatch)
    assert servers.find("dhcp-server").leases(job(tmp_path, DIRECT)) == {
        "10.0.0.1": "02:00:00:00:00:aa"}


@pytest.mark.parametrize("script", [
    "echo 'no such file' >&2; exit 2", "echo torn[", "echo '{}'", "echo '[1]'", "echo '[{}]'",
    "echo '[{\"address\": 1, \"chaddr\": null}]'", "printf '\\377'", "kill -9 $$"])
def test_leases_that_our_own_server_cannot_tell(tmp_path: Path, script: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    _leases_command(tmp_path, script, monkeypatch)
    try:
        assert servers.find("dhcp-server").leases(job(tmp_path, DIRECT)) == {}
    except SystemRefused as refused:
        assert refused.what.startswith("cannot read the leases of server: ")


@pytest.mark.parametrize(("text", "expected"), [
    ("", (None, None)), ("[]", (None, None)), ("{", (None, None)),
    ('{"rx_ring_drops": 3, "discarded": {"hops_exceeded": 2}}', (3, {"hops_exceeded": 2}))])
def test_reports_of_our_own(tmp_path: Path, text: str, expected: Any) -> None:
    (tmp_path / "stats.json").write_text(text)
    for report in (servers.find("dhcp-server").report(job(tmp_path, DIRECT)),
                   relays.find("dhcp-relay").report(relay_job(tmp_path))):
        assert (report.ring_drops, report.discarded) == expected


@pytest.mark.parametrize(("said", "version"), [
    ("isc-dhcpd-4.4.3-P1", "4.4.3-P1"), ("Dnsmasq version 2.90  Copyright (c) 2000", "2.90"),
    ("2.2.0", "2.2.0"), ("nothing", None)])
def test_versions(tmp_path: Path, said: str, version: str | None,
                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dhcpd").write_text(f"#!/bin/sh\necho '{said}' >&2; exit 1\n")
    (tmp_path / "dhcpd").chmod(0o755)
    monkeypatch.setenv("DHCP_NETLAB_BIN", str(tmp_path))
    assert isc_dhcpd.SERVER.report(job(tmp_path, DIRECT)) == Report(version)


def test_limits_are_what_the_documentation_says() -> None:
    assert f"{isc_dhcpd.MOST_ADDRESSES:,}" == "32,768" and udhcpd.MOST_ADDRESSES == 4096


# Readiness and drops.

UNREADY: dict[str, Callable[[Path], object]] = {
    name: lambda folder, name=name: servers.find(name).ready(  # type: ignore[misc]
        job(folder, DIRECT), Alive()) for name in STORES} | {
    name: lambda folder, name=name: relays.find(name).ready(  # type: ignore[misc]
        relay_job(folder), Alive()) for name in ("dhcrelay", "dnsmasq")}


@pytest.mark.parametrize("name", UNREADY)
def test_not_ready_without_sockets(tmp_path: Path, name: str) -> None:
    """This process has none on port 67; a socket of somebody else's does not count."""
    assert UNREADY[name](tmp_path) is False


def test_nobody_is_ready_who_has_ended(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert sockets.opened(child.pid) is None and sockets.drops(child.pid, False) is None
    assert servers.find("command").ready(job(tmp_path, options=("x",)), Alive(child.pid)) is False


def test_sockets_are_those_of_the_program_alone() -> None:
    """Bound here, seen here; not seen in a child that did not inherit it."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind(("127.0.0.1", 0))
        port = mine.getsockname()[1]
        found = sockets.opened(os.getpid())
        assert found is not None and found.hears(port) and not found.hears(67)
        with subprocess.Popen(["sleep", "20"]) as other:
            theirs = sockets.opened(other.pid)
            other.kill()
        assert theirs is not None and not theirs.hears(port)


def test_what_counts_as_lost() -> None:
    """Who hears frames throws away what comes on his UDP socket."""
    assert sockets.SocketDrops(7, None).lost(by_frames=False) == 7
    assert sockets.SocketDrops(7, None).lost(by_frames=True) == 7  # no packet_diag
    assert sockets.SocketDrops(7, 0).lost(by_frames=True) == 0
    assert sockets.SocketDrops(7, 3).lost(by_frames=False) == 7  # open only to send
