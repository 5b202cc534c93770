"""Lease files of Kea and ISC dhcpd: what their last word on each address is, and what is wrong."""

from __future__ import annotations

from calendar import timegm
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath.errors import NetlabError, SystemRefused, UserError
from server.importers import ISC, KEA, Imported, read_leases
from server.record import Lease, encode_record

IP = IPv4Address

KEA_HEADER = ("address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,"
              "hostname,state,user_context,pool_id\n")
KEA_FILE = KEA_HEADER + """\
10.0.0.10,02:00:00:00:00:01,01:02:00:00:00:00:01,3600,1700003600,1,0,0,one,0,,0
10.0.0.11,02:00:00:00:00:02,,3600,1700003600,1,0,0,,0,,0
10.0.0.10,02:00:00:00:00:03,,7200,1700007200,1,1,1,three.example&#x2ccom,0,{ "a": "b&#x2c c" },0
10.0.0.12,,,86400,1700086400,1,0,0,,1,,0
10.0.0.13,02:00:00:00:00:04,,3600,1700003600,1,0,0,,2,,0
10.0.0.14,02:00:00:00:00:05,ff:00,4294967295,5994967295,1,0,0,,0,,0
10.0.0.11,02:00:00:00:00:02,,0,1700000000,1,0,0,,0,,0
"""

ISC_FILE = r"""# The format of this file is documented in the dhcpd.leases(5) manual page.
# This lease file was written by isc-dhcp-4.4.3-P1

# authoring-byte-order entry is generated, DO NOT DELETE
authoring-byte-order little-endian;

failover peer "dhcp" state {
  my state normal at 2 2023/11/14 20:00:00;
  partner state normal at 2 2023/11/14 20:00:00;
}
lease 10.0.0.10 {
  starts 2 2023/11/14 22:13:20;
  ends 2 2023/11/14 23:13:20;
  cltt 2 2023/11/14 22:13:21;
  binding state active;
  next binding state free;
  rewind binding state free;
  hardware ethernet 02:00:00:00:00:01;
  uid "\001\002\000\000\000\000\001";
  set vendor-class-identifier = "a } lease { \" ;";
  on expiry {
    set a = "x";
    if option x = "}" { log (info, "y"); }
  }
  client-hostname "one";
}
server-duid "\000\001\000\001,\345\"l\002\000";
lease 10.0.0.11 { starts epoch 1700000000; # Tue Nov 14 22:13:20 2023
  ends never; binding state active; uid 01:ab:3; }
lease 10.0.0.12 {
  starts 2 2023/11/14 22:13:20;
  binding state abandoned;
}
lease 10.0.0.13 {
  starts 2 2023/11/14 22:13:20;
  ends 2 2023/11/14 22:14:20;
  binding state free;
  hardware token-ring 02:00:00:00:00:04;
}
lease 10.0.0.14 {
  binding state free;
}
host dynamic {
  dynamic;
  hardware ethernet 02:00:00:00:00:09;
  fixed-address 10.0.0.99;
}
lease 10.0.0.10 {
  starts 2 2023/11/14 22:20:00;
  ends 2 2023/11/14 22:50:00;
  binding state active;
  hardware ethernet 02:00:00:00:00:0a;
}
"""


def read(folder: Path, text: str | bytes) -> Imported:
    path = folder / "leases"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return read_leases(path)


def lease(address: str, state: str, chaddr: str, ends: int | None, written: int, lasts: int, *,
          client_id: str = "", htype: int = 1) -> Lease:
    return Lease(IP(address), state, 0, htype, bytes.fromhex(chaddr), bytes.fromhex(client_id),
                 ends, written, lasts)


def test_kea(tmp_path: Path) -> None:
    found = read(tmp_path, KEA_FILE)
    assert found.kind == KEA and not found.bad
    assert [entry.lease for entry in found.entries.values()] == [
        lease("10.0.0.10", "bound", "020000000003", 1700007200, 1700000000, 7200),
        lease("10.0.0.12", "declined", "", 1700086400, 1700000000, 86400),
        lease("10.0.0.13", "free", "020000000004", 1700003600, 1700000000, 3600),
        lease("10.0.0.14", "bound", "020000000005", None, 1700000000, 0xFFFFFFFF,
              client_id="ff00")]
    assert [entry.line for entry in found.entries.values()] == [4, 5, 6, 7]
    assert {why: str(tally) for why, tally in found.skipped.items()} == {"deleted": "1 (line 8)"}


def test_kea_before_it_had_states(tmp_path: Path) -> None:
    """Kea 0.9: no column for the state. And rows older than the header above them."""
    short = "address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname\n"
    row = "10.0.0.1,02:00:00:00:00:01,,60,1700000060,1,0,0,\n"
    for header in (short, KEA_HEADER):
        found = read(tmp_path, header + row)
        assert not found.bad and found.entries[IP("10.0.0.1")].lease.state == "bound"


@pytest.mark.parametrize(("row", "why"), [
    ("10.0.0.300,02:00:00:00:00:01,,60,1700000060,1,0,0,,0,,0", '"10.0.0.300" is not an IPv4'),
    ("0.0.0.0,02:00:00:00:00:01,,60,1700000060,1,0,0,,0,,0", "no address of a client"),
    ("255.255.255.255,02:00:00:00:00:01,,60,1700000060,1,0,0,,0,,0", "no address of a client"),
    ("10.0.0.1,02-00,,60,1700000060,1,0,0,,0,,0", 'hwaddr "02-00"'),
    ("10.0.0.1,02:00:zz,,60,1700000060,1,0,0,,0,,0", 'hwaddr "02:00:zz"'),
    (f"10.0.0.1,{':'.join(['02'] * 17)},,60,1700000060,1,0,0,,0,,0", "hwaddr of 17 octets"),
    ("10.0.0.1,02:00:00:00:00:01,x,60,1700000060,1,0,0,,0,,0", 'client_id "x"'),
    ("10.0.0.1,02:00:00:00:00:01,,-1,1700000060,1,0,0,,0,,0", 'valid_lifetime "-1"'),
    ("10.0.0.1,02:00:00:00:00:01,,4294967296,1700000060,1,0,0,,0,,0", "valid_lifetime"),
    ("10.0.0.1,02:00:00:00:00:01,,60,99999999999999999999,1,0,0,,0,,0", "expire"),
    ("10.0.0.1,02:00:00:00:00:01,,60,,1,0,0,,0,,0", 'expire ""'),
    ("10.0.0.1,02:00:00:00:00:01,,60,1700000060,1,0,0,,7,,0", 'state "7"'),
    ("10.0.0.1,,,60,1700000060,1,0,0,,0,,0", "assigned to nobody"),
    ("10.0.0.1,02:00:00:00:00:01", "2 columns, the header has 12"),
    ("10.0.0.1,02:00:00:00:00:01,,60,1700000060,1,0,0,a,b,0,,0", "13 columns"),
    ("\0\0\0\0", "1 columns"), ("x" * 70_000, "more than 65,536"),
])
def test_bad_rows_of_kea(tmp_path: Path, row: str, why: str) -> None:
    good = "10.0.0.2,02:00:00:00:00:02,,60,1700000060,1,0,0,,0,,0\n"
    found = read(tmp_path, f"{KEA_HEADER}{good}{row}\n{good.replace('0.2', '0.3')}")
    assert [line for line, _ in found.bad] == [3] and why in found.bad[0][1]
    assert "\n" not in found.bad[0][1] and found.bad[0][1].isprintable()
    assert [str(address) for address in found.entries] == ["10.0.0.2", "10.0.0.3"]


def test_a_last_row_without_its_end(tmp_path: Path) -> None:
    found = read(tmp_path, KEA_FILE + "10.0.0.20,02:00:00:00:00:07,,36")
    assert [line for line, _ in found.bad] == [9]


def test_isc(tmp_path: Path) -> None:
    found = read(tmp_path, ISC_FILE)
    assert found.kind == ISC and found.bad == []
    begun = timegm((2023, 11, 14, 22, 13, 20))
    assert begun == 1_700_000_000
    assert {str(entry.lease.address): entry.lease for entry in found.entries.values()} == {
        "10.0.0.10": lease("10.0.0.10", "bound", "02000000000a", begun + 2200, begun + 400, 1800),
        "10.0.0.11": lease("10.0.0.11", "bound", "", None, begun, 0xFFFFFFFF, client_id="01ab03"),
        "10.0.0.12": lease("10.0.0.12", "declined", "", begun + 86400, begun, 86400),
        "10.0.0.13": lease("10.0.0.13", "free", "020000000004", begun + 60, begun, 60, htype=6)}
    assert list(found.skipped) == ["free, and nobody had it before"]


def test_isc_first_lease_in_full(tmp_path: Path) -> None:
    text = ISC_FILE[:ISC_FILE.index("server-duid")]
    assert read(tmp_path, text).entries[IP("10.0.0.10")].lease == lease(
        "10.0.0.10", "bound", "020000000001", 1_700_003_600, 1_700_000_001, 3600,
        client_id="01020000000001")


def one(**changes: str) -> str:
    said = {"starts": "starts 2 2023/11/14 22:13:20;", "ends": "ends 2 2023/11/14 23:13:20;",
            "binding": "binding state active;", "hardware": "hardware ethernet 02:00:00:00:00:01;"}
    return "lease 10.0.0.1 {\n" + "\n".join((said | changes).values()) + "\n}\n"


@pytest.mark.parametrize(("uid", "octets"), [
    (r'"\000abc"', b"\0abc"), (r'"\377\"\\x"', b"\xff\"\\x"), (r'"a\tb\n"', b"a\tb\n"),
    (r'"\x41\1012"', b"AA2"), ('"#;{}"', b"#;{}"), ("01:2:ff", b"\x01\x02\xff"), ('"é"', b"\xe9")])
def test_isc_client_identifiers(tmp_path: Path, uid: str, octets: bytes) -> None:
    found = read(tmp_path, one(uid=f"uid {uid};"))
    assert found.bad == [] and found.entries[IP("10.0.0.1")].lease.client_id == octets


@pytest.mark.parametrize(("changes", "why"), [
    ({"starts": "starts 2 2023/13/14 22:13:20;"}, "2023/13/14"),
    ({"starts": "starts yesterday;"}, "not a date"), ({"ends": "ends epoch -5;"}, "time"),
    ({"ends": "ends 2 2023/11/14 25:00:00;"}, "not a date"),
    ({"ends": ""}, "has no ends"), ({"hardware": ""}, "active for nobody"),
    ({"hardware": "hardware carrier-pigeon 02:00;"}, "hardware type"),
    ({"hardware": "hardware unknown-999 02:00;"}, "hardware type"),
    ({"hardware": "hardware ethernet 02:00:xx;"}, "hardware address"),
    ({"hardware": f"hardware ethernet {':'.join(['02'] * 17)};"}, "17 octets"),
    ({"binding": "binding state dreaming;"}, 'binding state "dreaming"'),
    ({"uid": 'uid "abc;'}, "quotation mark"),
    ({"uid": f'uid "{"x" * 2049}";'}, "2,049 octets"),
])
def test_bad_leases_of_isc(tmp_path: Path, changes: dict[str, str], why: str) -> None:
    good = one().replace("10.0.0.1", "10.0.0.2")
    found = read(tmp_path, good + one(**changes) + good.replace("10.0.0.2", "10.0.0.3"))
    assert [line for line, _ in found.bad] == [7] and why in found.bad[0][1]
    assert [str(address) for address in found.entries] == ["10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize("cut", range(1, len(one()) - 2))
def test_isc_cut_short(tmp_path: Path, cut: int) -> None:
    """Wherever the last lease was cut off, those before it are read and it is not."""
    found = read(tmp_path, one().replace("10.0.0.1", "10.0.0.2") + one()[:cut])
    assert list(found.entries) == [IP("10.0.0.2")]
    assert found.bad_count == (1 if cut >= len("lease") else 0)


def test_isc_a_lease_cut_short_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    found = read(tmp_path, one()[:60] + "\n" + one().replace("10.0.0.1", "10.0.0.2"))
    assert list(found.entries) == [IP("10.0.0.2")] and [line for line, _ in found.bad] == [1]


@pytest.mark.parametrize(("text", "why"), [
    ("", "neither"), ("\n\n", "neither"), ("hello\n", "neither"), ("\0" * 100, "neither"),
    ("DHCPLSE1\0\0\0\0", "neither"), ('{"leases": []}', "neither"),
    ("address,duid,valid_lifetime,expire\n", "DHCPv6"),
    ('# This is dhcpd.leases\nia-na "\\001" {\n}\n', "DHCPv6"),
    ("lease {\n  interface \"eth0\";\n}\n", "client"),
])
def test_other_files(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read(tmp_path, text)


def test_a_header_without_what_is_needed(tmp_path: Path) -> None:
    found = read(tmp_path, "address,valid_lifetime,expire\n10.0.0.1,60,1700000060\n")
    assert found.bad == [(1, "the header has no column hwaddr, client_id")] and not found.entries


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemRefused, match="cannot read"):
            read_leases(path)


def test_an_endless_list_of_bad_lines_is_counted_only(tmp_path: Path) -> None:
    found = read(tmp_path, KEA_HEADER + "x\n" * 5000)
    assert found.bad_count == 5000 and len(found.bad) == 1000


def _edited(base: str, edits: list[tuple[int, int, bytes]]) -> bytes:
    octets = bytearray(base.encode("latin-1"))
    for at, length, new in edits:
        at %= len(octets) + 1
        octets[at:at + length] = new
    return bytes(octets)


PIECES = st.one_of(st.binary(max_size=4), st.sampled_from(
    [b"{", b"}", b";", b'"', b"\\", b"\n", b"lease ", b",", b"#", b"10.0.0.1", b"never", b"epoch"]))


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([KEA_FILE, ISC_FILE]),
       st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 30), PIECES), max_size=6))
def test_damaged_files_are_read_or_refused(tmp_path: Path, base: str,
                                           edits: list[tuple[int, int, bytes]]) -> None:
    """No other error gets out, and whatever comes out fits a record."""
    try:
        found = read(tmp_path, _edited(base, edits))
    except NetlabError:
        return
    for entry in found.entries.values():
        encode_record(entry.lease)
    assert all(line >= 1 and why.isprintable() for line, why in found.bad)
