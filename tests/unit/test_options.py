"""The option registry and its types, against octets written out from the RFCs."""

from __future__ import annotations

import re
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import option_structs, option_types, options
from fastpath.errors import Malformed, UserError
from fastpath.option_structs import ClientFqdn
from fastpath.option_types import OptionType
from fastpath.options import ALIASES, CHECKED_LENGTHS, OPTIONS, PRIVATE, RELAY_SUBOPTIONS, find
from fastpath.wire import REASON_NAMES, MessageType

IP = IPv4Address
NET = IPv4Network

# IANA, "BOOTP Vendor Extensions and DHCP Options", without the rows removed, unassigned or
# private: 84, 96, 102-107, 110, 111, 115, 126, 127, 149, 160, 163-174, 178-207, 214-219,
# 222-254.
ASSIGNED = (set(range(84)) | set(range(85, 96)) | set(range(97, 102)) | {108, 109, 112, 113, 114}
            | set(range(116, 126)) | set(range(128, 149)) | set(range(150, 160)) | {161, 162}
            | {175, 176, 177} | set(range(208, 214)) | {220, 221, 255})


def _types() -> dict[str, OptionType]:
    found = [value for module in (option_types, option_structs, options)
             for value in vars(module).values() if isinstance(value, OptionType)]
    return {kind.name: kind for kind in found if kind.name != "marker"}


TYPES = _types()
USED = {row.type.name for row in (*OPTIONS.values(), *PRIVATE.values())} - {"marker"}


def test_every_assigned_code_has_a_row_and_no_other() -> None:
    assert set(OPTIONS) == ASSIGNED
    assert all(code == row.code for code, row in OPTIONS.items())
    assert set(RELAY_SUBOPTIONS) == {1, 2, *range(4, 20), 151, 152}
    assert not set(PRIVATE) & set(OPTIONS) and all(224 <= code <= 254 for code in PRIVATE)


def test_names_are_kebab_case_and_used_once() -> None:
    for table in ({**OPTIONS, **PRIVATE}, RELAY_SUBOPTIONS):
        names = [row.name for row in table.values()]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)
    taken = {row.name for row in (*OPTIONS.values(), *PRIVATE.values())} & set(ALIASES)
    assert not taken, "an alias must not take a name away"
    assert set(ALIASES.values()) <= set(OPTIONS)
    assert all(re.fullmatch(r"\d{3,4}( s\d+(\.\d+)?)?|tentative", row.rfc)
               for row in (*OPTIONS.values(), *RELAY_SUBOPTIONS.values()))


@pytest.mark.parametrize(("key", "code"), [
    ("subnet-mask", 1), ("router", 3), ("domain-name-server", 6), ("host-name", 12),
    ("requested-address", 50), ("lease-time", 51), ("message-type", 53), ("server-id", 54),
    ("parameter-request-list", 55), ("client-id", 61), ("relay-agent-information", 82),
    ("v6-only-preferred", 108), ("classless-static-route", 121), ("domain-search", 119),
    ("dns", 6), ("gateway", 3), ("T1", 58), ("Domain_Name", 15), (" router ", 3), ("224", 224),
    ("option-82", 82), ("wpad", 252), (0, 0), (255, 255), (84, 84),
])
def test_look_up(key: int | str, code: int) -> None:
    assert options.code_of(key) == code
    assert find(find(key).name).code == code


@pytest.mark.parametrize(("key", "remedy"), [
    ("routr", "did you mean router"), ("lease-tme", "did you mean lease-time"),
    ("qqqqqq", "1 to 254"), ("256", "1 to 254"), (-1, "1 to 254"), ("", "1 to 254"),
    ("٣", "1 to 254"),
])
def test_unknown_option_says_what_to_do(key: int | str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        find(key)
    assert remedy in caught.value.remedy and "\n" not in caught.value.what


@pytest.mark.parametrize(("key", "code"), [
    ("circuit-id", 1), ("82.1", 1), (2, 2), ("82.link-selection", 5), ("Subscriber_ID", 6),
    ("relay-agent-information.relay-source-port", 19), ("200", 200),
])
def test_look_up_of_relay_suboptions(key: int | str, code: int) -> None:
    assert options.find_suboption(key).code == code


@pytest.mark.parametrize("key", ["circuitid", "82.", 256, -1])
def test_unknown_relay_suboption(key: int | str) -> None:
    with pytest.raises(UserError):
        options.find_suboption(key)


def test_checked_lengths_agree_with_the_types() -> None:
    assert set(CHECKED_LENGTHS) == {1, 50, 51, 52, 53, 54, 57, 58, 59, 61, 80, 82, 116, 118}
    for code, bounds in CHECKED_LENGTHS.items():
        kind = OPTIONS[code].type
        assert (kind.min_octets, kind.max_octets) == bounds, OPTIONS[code].name


def test_modules_import_without_numba_or_numpy() -> None:
    code = ("import sys, fastpath.packet; "
            "sys.exit(any(m.split('.')[0] in ('numba', 'numpy') for m in sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# name, value, octets on the wire
VECTORS = [
    ("subnet-mask", IP("255.255.255.0"), "ffffff00"),
    ("time-offset", -18000, "ffffb9b0"),
    ("router", [IP("192.0.2.1"), IP("192.0.2.2")], "c0000201c0000202"),
    ("host-name", "lab-1", "6c61622d31"),
    ("boot-file-size", 512, "0200"),
    ("ip-forwarding", True, "01"),
    ("ip-forwarding", False, "00"),
    ("policy-filter", [(IP("10.0.0.0"), IP("255.0.0.0"))], "0a000000ff000000"),
    ("default-ip-ttl", 64, "40"),
    ("path-mtu-plateau-table", [68, 296, 1500], "0044012805dc"),
    ("static-route", [(IP("10.1.2.3"), IP("192.0.2.9")), (IP("10.1.2.4"), IP("192.0.2.9"))],
     "0a010203c0000209" "0a010204c0000209"),
    ("vendor-specific", b"\x01\x02\xff", "0102ff"),
    ("requested-address", IP("10.0.0.7"), "0a000007"),
    ("lease-time", 86400, "00015180"),
    ("lease-time", 0xFFFFFFFF, "ffffffff"),
    ("message-type", MessageType.DISCOVER, "01"),
    ("message-type", 13, "0d"),
    ("parameter-request-list", [1, 3, 6, 15], "0103060f"),
    ("max-message-size", 1500, "05dc"),
    ("client-id", b"\x01\x02\x00\x00\x00\x00\x01", "01020000000001"),
    # RFC 2242 section 3: a sub-option without a value.
    ("netware-ip-information", {5: b"\x01", 2: b""}, "0501010200"),
    ("mobile-ip-home-agent", [], ""),
    ("user-class", [b"iPXE", b"a"], "0469505845" "0161"),
    ("slp-directory-agent", (1, [IP("192.0.2.1")]), "01c0000201"),
    ("slp-service-scope", (0, "lab"), "006c6162"),
    ("rapid-commit", True, ""),
    # RFC 4702 section 3.1: 0x05 = server updates, canonical wire format.
    ("client-fqdn", ClientFqdn(5, "myhost.example.com."),
     "050000" "066d79686f7374076578616d706c6503636f6d00"),
    ("client-fqdn", ClientFqdn(4, "myhost"), "040000066d79686f7374"),
    ("client-fqdn", ClientFqdn(1, "old.host", 255, 255), "01ffff6f6c642e686f7374"),
    ("client-fqdn", ClientFqdn(4, ""), "040000"),
    ("relay-agent-information", {1: b"eth0", 2: b"\x00\x01"}, "010465746830" "02020001"),
    ("client-system", [7, 9], "00070009"),
    ("uuid", (0, bytes(16)), "00" * 17),
    ("v6-only-preferred", 1800, "00000708"),
    ("dhcp4o6-source-address", IPv6Address("2001:db8::1"), "20010db8000000000000000000000001"),
    ("captive-portal", "https://example.com/", b"https://example.com/".hex()),
    ("auto-config", 1, "01"),
    ("name-service-search", [6, 41], "00060029"),
    ("subnet-selection", IP("10.0.0.0"), "0a000000"),
    ("domain-search", ["eng.example.com", "example.net"],
     "03656e67076578616d706c6503636f6d00" "076578616d706c65036e657400"),
    # RFC 3361 section 3.2 and 3.1.
    ("sip-server", [IP("192.0.2.1"), IP("192.0.2.2")], "01c0000201c0000202"),
    ("sip-server", ["example.com"], "00076578616d706c6503636f6d00"),
    # RFC 3442, the table of destination descriptors.
    ("classless-static-route", [(NET("0.0.0.0/0"), IP("192.0.2.1"))], "00c0000201"),
    ("classless-static-route", [(NET("10.0.0.0/8"), IP("192.0.2.1"))], "080ac0000201"),
    ("classless-static-route", [(NET("10.17.0.0/16"), IP("192.0.2.1"))], "100a11c0000201"),
    ("classless-static-route", [(NET("10.27.129.0/24"), IP("192.0.2.1"))], "180a1b81c0000201"),
    ("classless-static-route", [(NET("10.229.0.128/25"), IP("192.0.2.1"))],
     "190ae50080c0000201"),
    ("classless-static-route", [(NET("10.198.122.47/32"), IP("192.0.2.1")),
                                (NET("10.0.0.0/8"), IP("0.0.0.0"))],
     "200ac67a2fc0000201" "080a00000000"),
    ("vendor-identifying-class", {4491: [b"docsis3.0"]}, "0000118b0a09646f63736973332e30"),
    ("vendor-identifying-information", {4491: {2: b"\xc0\x00\x02\x01"}, 3561: {}},
     "0000118b060204c0000201" "00000de900"),
    ("lost-server", "lost.example", "046c6f7374076578616d706c6500"),
    ("sztp-redirect", ["https://a", "https://b:8"],
     "0009" + b"https://a".hex() + "000b" + b"https://b:8".hex()),
    ("forcerenew-nonce-capable", [1], "01"),
    ("status-code", (3, "bad query"), "03" + b"bad query".hex()),
    ("status-code", (0, ""), "00"),
    ("base-time", 1700000000, "6553f100"),
    # RFC 7291 section 4: two lists, one server each.
    ("pcp-server", [[IP("192.0.2.1"), IP("192.0.2.2")], [IP("198.51.100.1")]],
     "08c0000201c0000202" "04c6336401"),
    ("ms-classless-static-route", [(NET("0.0.0.0/0"), IP("10.0.0.1"))], "000a000001"),
]


@pytest.mark.parametrize(("name", "value", "wire"), VECTORS)
def test_value_and_octets(name: str, value: object, wire: str) -> None:
    option = find(name)
    assert option.encode(value).hex() == wire
    assert option.decode(bytes.fromhex(wire)) == value
    assert option.parse_text(option.format_octets(bytes.fromhex(wire))) == value


def test_every_type_has_a_vector() -> None:
    assert {find(name).type.name for name, _, _ in VECTORS} == USED


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_the_example_of_every_type_is_taken(kind: OptionType) -> None:
    octets = kind.encode(kind.parse_text(kind.example))
    assert kind.parse_text(kind.format_text(kind.decode(octets))) == kind.decode(octets)


# name, text, octets
TEXTS = [
    ("dns", "8.8.8.8,8.8.4.4", "0808080808080404"),
    ("dns", " 8.8.8.8  8.8.4.4 ", "0808080808080404"),
    ("lease-time", "12h", "0000a8c0"),
    ("lease-time", "1h30m", "00001518"),
    ("lease-time", "0x10", "00000010"),
    ("lease-time", "infinite", "ffffffff"),
    ("message-type", "LEASEQUERY", "0a"),
    ("ip-forwarding", "off", "00"),
    ("static-route", "10.0.0.1/192.0.2.1", "0a000001c0000201"),
    ("vendor-specific", "0x0a0B", "0a0b"),
    ("vendor-specific", "0a:0b", "0a0b"),
    ("vendor-specific", "PXE", "505845"),
    ("client-id", "02:00:00:00:00:01", "01020000000001"),
    ("client-id", "ff:01:02", "ff0102"),
    ("client-id", "0xff0102", "ff0102"),
    ("client-id", "client-7", "00636c69656e742d37"),
    ("parameter-request-list", "subnet-mask, router,dns,51", "01030633"),
    ("classless-static-route", "10.0.0.0/8,192.0.2.1,0.0.0.0/0,192.0.2.2",
     "080ac0000201" "00c0000202"),
    ("classless-static-route", "10.0.0.0/8 via 192.0.2.1", "080ac0000201"),
    ("relay-agent-information", "circuit-id=eth0/1, link-selection=10.0.0.0,200=0xff",
     "0106657468302f31" "05040a000000" "c801ff"),
    ("relay-agent-information", "1=a,b,2=c", "0103612c62" "020163"),
    ("rapid-commit", "", ""),
    ("domain-search", "a.example. b.example", "0161076578616d706c6500" "0162076578616d706c6500"),
    ("client-fqdn", "pc.example.", "050000027063076578616d706c6500"),
    ("user-class", "a; bc", "0161026263"),
    ("224", "0x01", "01"),
]


@pytest.mark.parametrize(("name", "text", "wire"), TEXTS)
def test_text(name: str, text: str, wire: str) -> None:
    assert options.encode_text(name, text) == (options.code_of(name), bytes.fromhex(wire))


@pytest.mark.parametrize(("name", "text"), [
    ("router", ""), ("router", "8.8.8.8,"), ("router", "8.8.8"), ("lease-time", "-1"),
    ("lease-time", "4294967296"), ("lease-time", "1x"), ("default-ip-ttl", "256"),
    ("time-offset", "2147483648"), ("ip-forwarding", "maybe"), ("vendor-specific", "0x0"),
    ("client-id", "0x01"), ("parameter-request-list", "routr"), ("parameter-request-list", "256"),
    ("classless-static-route", "10.0.0.0/8"), ("classless-static-route", "10.0.0.1/8 10.0.0.1"),
    ("policy-filter", "10.0.0.1"), ("relay-agent-information", "circuit=eth0"),
    ("relay-agent-information", "eth0"), ("rapid-commit", "no"), ("host-name", ""),
    ("domain-search", "a..b"), ("domain-search", "é.example"), ("domain-search", "x" * 64),
    ("lost-server", ".".join(["x" * 63] * 4)), ("message-type", "hello"),
    ("message-type", "0"), ("geoconf", "0x00"), ("uuid", "x"), ("pad", "1"), ("end", ""),
    ("vendor-identifying-information", "4491"), ("user-class", "a;;b"), ("lost-server", ""),
])
def test_unfit_text_is_the_users_error(name: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        options.encode_text(name, text)
    assert "\n" not in caught.value.what and caught.value.what.startswith(find(name).name)


@pytest.mark.parametrize(("name", "value"), [
    ("router", "192.0.2.1"), ("router", IP("192.0.2.1")), ("router", []), ("subnet-mask", None),
    ("host-name", 5), ("host-name", b"raw"), ("host-name", "end\0"), ("lease-time", -1),
    ("lease-time", "1h"), ("lease-time", 1.5), ("vendor-specific", 3), ("vendor-specific", "text"),
    ("rapid-commit", False), ("ip-forwarding", 2), ("message-type", 0), ("message-type", 19),
    ("relay-agent-information", {"circuit": b"x"}), ("relay-agent-information", {1: b"x" * 256}),
    ("relay-agent-information", {}), ("domain-search", "example.com"), ("sip-server", []),
    ("client-fqdn", "host"), ("pcp-server", [[]]), ("pad", None),
    ("vendor-identifying-information", {1: {1: bytes(255)}}),
])
def test_unfit_value_is_the_users_error(name: str, value: object) -> None:
    with pytest.raises(UserError) as caught:
        find(name).encode(value)
    assert caught.value.what.startswith(find(name).name)


# name, octets, reason
BROKEN = [
    ("subnet-mask", "ffffff", "option_length"),
    ("router", "", "option_length"),
    ("router", "c000020101", "option_length"),
    ("lease-time", "0000000001", "option_length"),
    ("ip-forwarding", "02", "option_length"),
    ("message-type", "00", "no_message_type"),
    ("message-type", "13", "no_message_type"),
    ("rapid-commit", "01", "option_length"),
    ("path-mtu-plateau-table", "004401", "option_length"),
    ("client-id", "01", "option_length"),
    ("user-class", "0561", "option_truncated"),
    ("relay-agent-information", "0104616263", "option_truncated"),
    ("relay-agent-information", "010161" "02", "option_truncated"),
    ("vendor-identifying-information", "0000118b05020161", "option_truncated"),
    ("classless-static-route", "21c0000201c0", "option_length"),
    ("classless-static-route", "180a0000c00002", "option_truncated"),
    ("domain-search", "0361", "option_truncated"),
    ("domain-search", "0161", "option_truncated"),
    ("domain-search", "c000", "option_length"),  # to itself
    ("domain-search", "0161c000", "option_length"),  # into its own name: a loop
    ("domain-search", "016100c005", "option_length"),  # forwards
    ("domain-search", "c0", "option_truncated"),
    ("domain-search", "4161", "option_length"),  # RFC 1035: 01 and 10 are reserved
    ("domain-search", ("3f" + "61" * 63) * 4 + "00", "option_length"),
    ("lost-server", "01610001", "option_length"),
    ("sip-server", "0261", "option_length"),
    ("sip-server", "01c00002", "option_length"),
    ("pcp-server", "0300000000", "option_length"),
]


@pytest.mark.parametrize(("name", "wire", "reason"), BROKEN)
def test_unfit_octets_are_the_peers_error(name: str, wire: str, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        find(name).decode(bytes.fromhex(wire))
    assert caught.value.reason == reason
    assert caught.value.what.startswith(name)
    assert "malformed" in find(name).format_octets(bytes.fromhex(wire))


def test_rfc3397_compressed_search_list() -> None:
    # RFC 3397 section 2: eng.apple.com and marketing.apple.com, the second by a pointer to 4.
    wire = bytes.fromhex("03656e67056170706c6503636f6d00" "096d61726b6574696e67c004")
    assert find("domain-search").decode(wire) == ["eng.apple.com", "marketing.apple.com"]


def test_rfc3442_bits_beyond_the_width_are_masked() -> None:
    assert find(121).decode(bytes.fromhex("090affc0000201")) == [
        (NET("10.128.0.0/9"), IP("192.0.2.1"))]


def test_rfc2132_section_2_trailing_nuls_go() -> None:
    assert find("host-name").decode(b"lab\0\0") == "lab"


def test_names_and_types_as_keys_of_relay_suboptions() -> None:
    value = {"circuit-id": b"eth0", "link-selection": IP("10.0.0.0"), 2: b"\x01"}
    assert find(82).encode(value).hex() == "010465746830" "05040a000000" "020101"
    # Twice the same sub-option: the first one counts.
    assert find(82).decode(bytes.fromhex("010161" "010162")) == {1: b"a"}


def test_labels_keep_every_octet() -> None:
    kind = find("lost-server")
    wire = bytes([6]) + b"a.\\ ,\xff" + b"\0"
    assert kind.decode(wire) == "a\\.\\\\\\032\\044\\255"
    assert kind.encode(kind.decode(wire)) == wire


@pytest.mark.parametrize(("last", "fits"), [(61, True), (62, False)])
def test_a_name_has_at_most_255_octets(last: int, fits: bool) -> None:
    labels = [b"x" * size for size in (63, 63, 63, last)]
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    name = b".".join(labels).decode()
    kind = find("lost-server")
    if fits:
        assert len(wire) == 255 and kind.decode(wire) == name and kind.encode(name) == wire
        return
    with pytest.raises(Malformed):
        kind.decode(wire)
    with pytest.raises(UserError):
        kind.encode(name)


def test_a_peers_text_cannot_harm_a_terminal() -> None:
    shown = find("host-name").format_octets(b"\x1b[2J\n\xff\xc2\x9b")
    assert shown.isprintable() and shown.encode("utf-8")


def _altered(vector: tuple[str, object, str], at: int, octet: int) -> tuple[options.Option, bytes]:
    wire = bytearray.fromhex(vector[2])
    if wire:
        wire[at % len(wire)] = octet
    return find(vector[0]), bytes(wire)


ANY_OPTION = st.sampled_from([row for row in (*OPTIONS.values(), *PRIVATE.values())
                              if row.type.name != "marker"])
# Sound values with one octet changed, small octets so that inner lengths often fit, and any.
OCTETS = st.one_of(
    st.builds(_altered, st.sampled_from(VECTORS), st.integers(0, 40), st.integers(0, 255)),
    st.tuples(ANY_OPTION, st.lists(st.integers(0, 12), max_size=24).map(bytes)),
    st.tuples(ANY_OPTION, st.binary(max_size=300)))


@settings(max_examples=700, deadline=None)
@given(OCTETS)
def test_any_octets_decode_or_are_malformed(case: tuple[options.Option, bytes]) -> None:
    option, octets = case
    shown = option.format_octets(octets)
    assert shown.isprintable()
    shown.encode("utf-8")
    try:
        value = option.decode(octets)
    except Malformed as problem:
        assert problem.reason in REASON_NAMES
        return
    try:
        again = option.encode(value)
    except UserError:
        # Of NULs alone nothing is left, and an empty text cannot be sent.
        assert value == "" or "" in value
        return
    assert option.decode(again) == value


# Control characters, blanks at the ends and `;` in a text do not survive being shown.
TEXTS_INSIDE = ("string", "client-fqdn", "u8+string", "string[]")


@settings(max_examples=700, deadline=None)
@given(OCTETS)
def test_what_is_shown_can_be_read_back(case: tuple[options.Option, bytes]) -> None:
    option, octets = case
    try:
        value = option.decode(octets)
    except Malformed:
        return
    if option.type.name not in TEXTS_INSIDE and option.code != 82:
        assert option.parse_text(option.format_octets(octets)) == value


@given(st.dictionaries(st.sampled_from([1, 2, 6, 9, 12, 14, 200]),
                       st.binary(max_size=20), min_size=1))
def test_relay_suboptions_can_be_read_back(pairs: dict[int, bytes]) -> None:
    relay = find(82)
    assert relay.decode(relay.encode(pairs)) == pairs
    assert relay.parse_text(relay.format_octets(relay.encode(pairs))) == pairs


LABEL = st.binary(min_size=1, max_size=63)


@given(st.lists(st.lists(LABEL, max_size=3), min_size=1, max_size=4))
def test_names_round_trip(names: list[list[bytes]]) -> None:
    wire = b"".join(b"".join(bytes([len(x)]) + x for x in name) + b"\0" for name in names)
    decoded = find("domain-search").decode(wire)
    assert find("domain-search").encode(decoded) == wire
    assert find("domain-search").parse_text(",".join(decoded)) == decoded


@given(st.text(min_size=1).filter(lambda text: not text.endswith("\0")))
def test_texts_round_trip(text: str) -> None:
    option = find("host-name")
    assert option.decode(option.encode(text)) == text
    if text.isprintable():
        assert option.parse_text(option.format_octets(option.encode(text))) == text
