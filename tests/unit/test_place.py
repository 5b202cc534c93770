"""Where clients speak from: interface, relay agents or socket, as the options say.

No test here may reach a network: no name is looked up, and a socket's own address is that of
the loopback interface.
"""

from __future__ import annotations

import os
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import NetlabError, SystemRefused, UserError
from fastpath.wire import ETH_P_8021AD, ETH_P_8021Q
from tester import place
from tester.cells import DIRECT, RELAYS, SOCKET
from tester.cli import main_command
from tester.config import Where
from tester.place import MOST_RELAYS, resolved, where_from

LOOPBACK = IPv4Address("127.0.0.1")
INNER, OUTER = ETH_P_8021Q, ETH_P_8021AD


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def name_server(host: str) -> str:
        host.encode("idna")
        if host == "dhcp.example":
            return "192.0.2.53"
        raise OSError("not known")

    for name in [name for name in os.environ if name.startswith("DHCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.gethostbyname", name_server)
    monkeypatch.setattr(place, "choose", lambda address: "only0")
    monkeypatch.chdir(tmp_path)


def where(*args: str) -> Where:
    ctx = main_command.make_context("dhcp-tester", list(args))
    return where_from(ctx.params)


def refusal(*args: str) -> str:
    with pytest.raises((click.UsageError, NetlabError)) as refused:
        where(*args)
    match refused.value:
        case click.UsageError() as error:
            return error.format_message()
        case NetlabError(what=what, remedy=remedy):
            return f"{what}; {remedy}"
    raise AssertionError


def relays(*args: str) -> list[str]:
    return [str(relay) for relay in where("-server=10.0.0.1", *args).relays]


# Direct, as relays, by socket.

def test_by_broadcast_on_an_interface() -> None:
    assert where() == Where(DIRECT, "only0")
    assert where("-i=veth0", "-port=1067") == Where(DIRECT, "veth0", server_port=1067)


def test_as_relay_agents() -> None:
    found = where("-server=10.0.0.1", "-relay=10.1.0.1", "-relay-block=48")
    assert found == Where(RELAYS, "only0", IPv4Address("10.0.0.1"), relay_block=48,
                          relays=(IPv4Address("10.1.0.1"),))
    found = where("-i=veth0", "-server=dhcp.example", "-relay=10.1.0.1", "-vlan=7",
                  "-server-mac=02-00-00-00-00-0A")
    assert (found.interface, found.server) == ("veth0", IPv4Address("192.0.2.53"))
    assert found.server_mac == b"\2\0\0\0\0\x0a" and len(found.tags) == 1


def test_by_socket() -> None:
    found = where("-server=127.0.0.1", "-port=6700")
    assert found == Where(SOCKET, "", LOOPBACK, 6700, local_address=LOOPBACK)
    found = where("-server=127.0.0.1", "-local-port=6701", "-local-address=127.0.0.9", "-i=lo")
    assert (found.local_port, found.local_address) == (6701, IPv4Address("127.0.0.9"))
    assert (found.mode, found.interface) == (SOCKET, "lo")


def test_by_socket_as_a_relay_agent() -> None:
    found = where("-server=127.0.0.1", "-relay=self")
    assert (found.mode, found.relays) == (SOCKET, (LOOPBACK,))
    found = where("-server=127.0.0.1", "-relay=self", "-local-address=127.0.0.9")
    assert found.relays == (IPv4Address("127.0.0.9"),)


@pytest.mark.parametrize(("line", "said"), [
    ("-relay 10.1.0.1", "--relay speaks to a server: name it with --server"),
    ("-relay self", "--relay speaks to a server: name it with --server"),
    ("-server 127.0.0.1 -relay self -relay 10.1.0.1", "`self` is one relay alone"),
    ("-server 127.0.0.1 -relay self,10.1.0.1", "'self' is no address and no range of them"),
    ("-server 127.0.0.1 -relay self -local-address 0.0.0.0",
     "Invalid value for --local-address: 0.0.0.0 can be no relay's"),
    ("-server 10.0.0.1 -relay 10.1.0.1 -server-mac 1", "for --server-mac: \"1\" is not an Ether")])
def test_what_does_not_go_together(line: str, said: str) -> None:
    assert said in refusal(*line.split())


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(SystemRefused, match="through 'no-such-if': No such device") as no:
        where("-server=127.0.0.1", "-i=no-such-if")
    assert no.value.exit_code == 1
    with pytest.raises(SystemRefused, match="no way to"):
        where("-server=127.0.0.1", "-i=\udcff")


# Names.

def test_names_and_addresses() -> None:
    assert resolved("10.0.0.1") == IPv4Address("10.0.0.1")
    assert resolved("dhcp.example") == IPv4Address("192.0.2.53")
    assert resolved("255.255.255.255") == place.BROADCAST


@pytest.mark.parametrize("host", [
    "nobody.example", "10.0.0.300", "10.0.0.01", "::1", "a" * 64 + ".example", "." * 300, "\udcff",
    "\ud800", "x" * 100_000, "*", "10.0.0.1/24"])
def test_names_that_nobody_knows(host: str) -> None:
    with pytest.raises(UserError, match="no address is known for '") as refused:
        resolved(host)
    assert refused.value.what.isprintable() and len(refused.value.what) < 200
    assert refused.value.remedy == "check the name, or write the address"


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.254"])
def test_addresses_of_no_host(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{host} is not the address of a host" in refusal("-server", host)
    monkeypatch.setattr("socket.gethostbyname", lambda _: host)
    assert f"{host} is not the address of a host" in refusal("-server", "some.name")


# Relays.

@pytest.mark.parametrize(("texts", "found"), [
    (["10.1.0.1"], ["10.1.0.1"]), (["10.1.0.9", "10.1.0.1"], ["10.1.0.9", "10.1.0.1"]),
    (["10.1.0.1,10.2.0.1"], ["10.1.0.1", "10.2.0.1"]),
    (["10.1.0.254-10.1.1.1"], ["10.1.0.254", "10.1.0.255", "10.1.1.0", "10.1.1.1"]),
    (["10.1.0.1 - 10.1.0.2 , 10.3.0.1"], ["10.1.0.1", "10.1.0.2", "10.3.0.1"]),
    (["10.1.0.1-10.1.0.1"], ["10.1.0.1"]), (["223.255.255.255"], ["223.255.255.255"])])
def test_relays(texts: list[str], found: list[str]) -> None:
    assert relays(*(f"-relay={text}" for text in texts)) == found


@given(st.integers(1, 0xDFFF_0000), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_a_range_is_all_between(first: int, more: int) -> None:
    span = [str(IPv4Address(number)) for number in range(first, first + more + 1)]
    assert relays(f"-relay={span[0]}-{span[-1]}") == span


def test_as_many_relays_as_there_may_be() -> None:
    assert len(relays("-relay=10.0.0.0-10.0.255.255")) == MOST_RELAYS
    args = ["-relay=10.0.0.0-10.0.255.255", "-relay=10.1.0.0"]
    assert "more than 65,536 relays" in refusal("-server=10.0.0.1", *args)
    # Quick, also where the one that comes twice is the last of very many.
    assert "10.0.255.255 comes twice" in refusal("-server=10.0.0.1", args[0], "-relay=10.0.255.255")


@pytest.mark.parametrize(("text", "said"), [
    ("10.1.0.300", "'10.1.0.300' is no address and no range of them; write 10.1.0.1, "),
    ("10.1.0.1,", "'' is no address"), ("10.1.0.1-", "'10.1.0.1-' is no address"),
    ("-10.1.0.1", "'-10.1.0.1' is no address"), ("10.1.0.1-10.1.0.2-10.1.0.3", "is no address"),
    ("10.1.0.0/24", "is no address"), ("10.1.0.2-10.1.0.1", "a range goes up, over at most 65,536"),
    ("10.0.0.0-10.1.0.0", "a range goes up, over at most 65,536 addresses"),
    ("1.0.0.0-223.255.255.255", "a range goes up"),
    ("0.0.0.0", "a relay has the address of a host"),
    ("0.0.0.0-0.0.0.9", "address of a host"), ("224.0.0.1", "address of a host"),
    ("223.255.255.255-224.0.0.0", "address of a host"), ("255.255.255.255", "address of a host"),
    ("10.1.0.1,10.1.0.1", "10.1.0.1 comes twice; give each relay once"),
    ("10.1.0.1-10.1.0.9,10.1.0.5", "10.1.0.5 comes twice"), ("9" * 5000, "is no address"),
    ("\udcff", "is no address"), ("SELF", "'SELF' is no address")])
def test_no_relays(text: str, said: str) -> None:
    found = refusal("-server=10.0.0.1", f"-relay={text}")
    assert said in found and found.startswith("Invalid value for --relay: ")
    assert found.isprintable() and len(found) < 250


def test_relays_of_a_file() -> None:
    Path("r.txt").write_text("\ufeff# ours\n\n10.1.0.1  # the first\r\n"
                             " 10.1.0.3-10.1.0.4\n10.2.0.1")
    assert relays("-relay=@r.txt") == ["10.1.0.1", "10.1.0.3", "10.1.0.4", "10.2.0.1"]
    assert relays("-relay=@r.txt", "-relay=10.1.0.2")[-1] == "10.1.0.2"


@pytest.mark.parametrize(("text", "said"), [
    (b"", "r.txt: no addresses in it; one a line"), (b"# none\n\n", "r.txt: no addresses in it"),
    (b"10.1.0.1\n\n10.1.0.300\n", "r.txt:3: '10.1.0.300' is no address"),
    (b"10.1.0.1\n#\n10.1.0.1", "r.txt:3: 10.1.0.1 comes twice"),
    (b"10.1.0.2-10.1.0.1", "r.txt:1: '10.1.0.2-10.1.0.1': a range goes up"),
    (b"10.1.0.1,10.1.0.2", "r.txt:1: '10.1.0.1,10.1.0.2' is no address"),
    (b"0.0.0.0", "r.txt:1: '0.0.0.0': a relay has"), (b"@r.txt", "r.txt:1: '@r.txt' is no address"),
    (b"10.1.0.1\n\xff\xfe", "cannot read r.txt: it is not text"),
    (b"10.1.0.1\n" + b"\0" * 5000, "r.txt:2: more than 1024 characters; is it the right file?"),
    (b"10.1.0.1\0", "r.txt:1: '10.1.0.1\\x00' is no address")])
def test_no_relays_of_a_file(text: bytes, said: str) -> None:
    Path("r.txt").write_bytes(text)
    found = refusal("-server=10.0.0.1", "-relay=@r.txt")
    assert found.startswith(f"Invalid value for --relay: {said}") and found.isprintable()


@pytest.mark.parametrize(("name", "said"), [
    ("none.txt", "cannot read none.txt: No such file or directory"),
    ("", "cannot read .: Is a directory"), (".", "cannot read .: Is a directory"),
    ("r.txt/x", "cannot read r.txt/x: Not a directory"), ("n" * 300, "File name too long"),
    ("/dev/zero", "/dev/zero:1: more than 1024 characters")])
def test_no_files_of_relays(name: str, said: str) -> None:
    Path("r.txt").write_text("10.1.0.1")
    assert said in refusal("-server=10.0.0.1", f"-relay=@{name}")


def test_relays_out_of_a_pipe() -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("10.1.0.1\n10.1.0.2\n",))
    writer.start()
    assert relays("-relay=@pipe") == ["10.1.0.1", "10.1.0.2"]
    writer.join()


# VLAN tags.

@pytest.mark.parametrize(("line", "types", "numbers"), [
    ("-vlan 100", [INNER], [100]), ("-vlan 0", [INNER], [0]), ("-vlan 4095", [INNER], [4095]),
    ("-vlan 100.200", [OUTER, INNER], [100, 200]), ("-vlan 0x10", [INNER], [16]),
    ("-vlan 1.2.3", [OUTER, INNER, INNER], [1, 2, 3]),
    ("-vlan 100 -vlan-type 802.1ad", [OUTER], [100]),
    ("-vlan 100.200 -vlan-type 802.1q", [INNER, INNER], [100, 200]),
    ("-vlan {1+index%48}.7", [OUTER, INNER], [None, 7]), ("-vlan {7}", [INNER], [7]),
    ("-vlan 1+6.index", [OUTER, INNER], [7, None]), ("-vlan-type 802.1ad", [], [])])
def test_tags(line: str, types: list[int], numbers: list[int | None]) -> None:
    found = where(*line.split()).tags
    assert [kind for kind, _ in found] == types
    assert [number.number for _, number in found] == numbers


@pytest.mark.parametrize("text", [
    "1.2.3.4", ".", "1.", ".1", "1..2", "{", "}", "{}", "{index", "index}", "{index}}", "{{1}}",
    "1{2}", "4096", "1.4096", "-1", "65536", "1e3", "9" * 5000, "nan", "who", "1/2", "1//0",
    "\udcff", "1 2", "{1.2}", "(" * 100 + "1" + ")" * 100])
def test_no_tags(text: str) -> None:
    found = refusal(f"-vlan={text}")
    assert found.startswith("Invalid value for --vlan: ") and found.isprintable()
    assert len(found) < 250


def test_what_is_not_looked_at_without_need() -> None:
    """Options of other ways to speak do no harm."""
    options: dict[str, Any] = {"-local-port": "9", "-local-address": "10.9.9.9"}
    assert where(*(f"{name}={value}" for name, value in options.items())) == Where(DIRECT, "only0")
