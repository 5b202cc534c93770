"""The DHCP option registry: every code that IANA assigned, its name, its type and its RFC.

The one thing to know: names here are those of the RFC's field, singular and in kebab-case
(`router`, `lease-time`); `ALIASES` adds what people also say. Codes without a row (unassigned
or private) are plain octets under the name `option-N`, so nothing is out of reach.

Source: IANA, "BOOTP Vendor Extensions and DHCP Options" and "DHCP Relay Agent Sub-Option
Codes", by way of copies dated 2026-02 and 2026-05. The RFC of a row is where to check its
length limits; not all of them have been held against its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastpath.errors import Malformed, UserError
from fastpath.option_structs import (
    ADDRESS_LISTS,
    CLIENT_FQDN,
    DOMAIN,
    DOMAIN_LIST,
    ROUTES,
    SIP_SERVERS,
    SLP_AGENTS,
    SLP_SCOPE,
    STATUS,
    SUBOPTIONS,
    TYPED_OCTETS,
    URIS,
    USER_CLASS,
    VENDOR_CLASS,
    VENDOR_INFORMATION,
    suboptions,
)
from fastpath.option_types import (
    BOOL,
    BYTES,
    CLIENT_ID,
    FLAG,
    I32,
    IP,
    IP6,
    IP_PAIRS,
    IPS,
    IPS_OR_NONE,
    MARKER,
    MESSAGE,
    OPEN,
    SECONDS,
    SHORT_BYTES,
    STRING,
    U8,
    U8S,
    U16,
    U16S,
    U32,
    OptionType,
    sequence,
    words,
)

PAD, OVERLOAD, MESSAGE_TYPE, RELAY_AGENT_INFORMATION, END = 0, 52, 53, 82, 255

# Octets, least and most, that both this codec and the compiled one demand of a joined option
# before they call a message sound. Every other length is looked at only where it is used.
CHECKED_LENGTHS: dict[int, tuple[int, int]] = {
    1: (4, 4), 50: (4, 4), 51: (4, 4), 52: (1, 1), 53: (1, 1), 54: (4, 4), 57: (2, 2),
    58: (4, 4), 59: (4, 4), 61: (2, OPEN), 80: (0, 0), 82: (2, OPEN), 116: (1, 1), 118: (4, 4),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One row: code (0 to 255), name, type, and the RFC (with section) that defines it."""

    code: int
    name: str
    type: OptionType
    rfc: str

    def encode(self, value: Any) -> bytes:
        """The octets of `value`; raises UserError."""
        return self.type.encode(value, self.name)

    def decode(self, octets: bytes) -> Any:
        """The value in `octets`; raises Malformed."""
        return self.type.decode(octets, self.name)

    def parse_text(self, text: str) -> Any:
        """The value that a person wrote; raises UserError."""
        return self.type.parse_text(text, self.name)

    def format_octets(self, octets: bytes) -> str:
        """`octets` for a person to read; never raises, whatever a peer sent."""
        try:
            return self.type.format_text(self.decode(octets))
        except Malformed as problem:
            return f"0x{octets.hex()} (malformed: {problem.what})"


def _table(*rows: tuple[int, str, OptionType, str]) -> dict[int, Option]:
    return {row[0]: Option(*row) for row in rows}


CODES = OptionType("option-codes", "a list of options", "subnet-mask,router,6",
                   lambda keys: bytes(code_of(key) for key in sequence(keys)), list,
                   lambda text: [code_of(item) for item in words(text)],
                   lambda codes: ",".join(map(str, codes)))

# Sub-options of option 82. Those that are text on the wire are plain octets here: their
# values stay octets in Python anyway, and words are written as words.
RELAY_SUBOPTIONS = _table(
    (1, "circuit-id", SHORT_BYTES, "3046"),
    (2, "remote-id", SHORT_BYTES, "3046"),
    (4, "docsis-device-class", U32, "3256"),
    (5, "link-selection", IP, "3527"),
    (6, "subscriber-id", SHORT_BYTES, "3993"),
    (7, "radius-attributes", SHORT_BYTES, "4014"),
    (8, "authentication", SHORT_BYTES, "4030"),
    (9, "vendor-specific", SHORT_BYTES, "4243"),
    (10, "relay-flags", U8, "5010"),
    (11, "server-id-override", IP, "5107"),
    (12, "relay-id", SHORT_BYTES, "6925"),
    (13, "access-technology", U16, "7839"),
    (14, "access-network-name", SHORT_BYTES, "7839"),
    (15, "access-point-name", SHORT_BYTES, "7839"),
    (16, "access-point-bssid", BYTES.sized(6, 6), "7839"),
    (17, "operator-id", SHORT_BYTES, "7839"),
    (18, "operator-realm", SHORT_BYTES, "7839"),
    (19, "relay-source-port", FLAG, "8357"),
    (151, "virtual-subnet-selection", SHORT_BYTES, "6607"),
    (152, "virtual-subnet-selection-control", SHORT_BYTES, "6607"),
)
RELAY = suboptions("relay-suboptions", {row.name: (row.code, row.type)
                                        for row in RELAY_SUBOPTIONS.values()})

OPTIONS = _table(
    (0, "pad", MARKER, "2132 s3.1"),
    (1, "subnet-mask", IP, "2132 s3.3"),
    (2, "time-offset", I32, "2132 s3.4"),
    (3, "router", IPS, "2132 s3.5"),
    (4, "time-server", IPS, "2132 s3.6"),
    (5, "name-server", IPS, "2132 s3.7"),
    (6, "domain-name-server", IPS, "2132 s3.8"),
    (7, "log-server", IPS, "2132 s3.9"),
    (8, "cookie-server", IPS, "2132 s3.10"),
    (9, "lpr-server", IPS, "2132 s3.11"),
    (10, "impress-server", IPS, "2132 s3.12"),
    (11, "resource-location-server", IPS, "2132 s3.13"),
    (12, "host-name", STRING, "2132 s3.14"),
    (13, "boot-file-size", U16, "2132 s3.15"),
    (14, "merit-dump-file", STRING, "2132 s3.16"),
    (15, "domain-name", STRING, "2132 s3.17"),
    (16, "swap-server", IP, "2132 s3.18"),
    (17, "root-path", STRING, "2132 s3.19"),
    (18, "extensions-path", STRING, "2132 s3.20"),
    (19, "ip-forwarding", BOOL, "2132 s4.1"),
    (20, "non-local-source-routing", BOOL, "2132 s4.2"),
    (21, "policy-filter", IP_PAIRS, "2132 s4.3"),
    (22, "max-datagram-reassembly", U16, "2132 s4.4"),
    (23, "default-ip-ttl", U8, "2132 s4.5"),
    (24, "path-mtu-aging-timeout", SECONDS, "2132 s4.6"),
    (25, "path-mtu-plateau-table", U16S, "2132 s4.7"),
    (26, "interface-mtu", U16, "2132 s5.1"),
    (27, "all-subnets-local", BOOL, "2132 s5.2"),
    (28, "broadcast-address", IP, "2132 s5.3"),
    (29, "perform-mask-discovery", BOOL, "2132 s5.4"),
    (30, "mask-supplier", BOOL, "2132 s5.5"),
    (31, "perform-router-discovery", BOOL, "2132 s5.6"),
    (32, "router-solicitation-address", IP, "2132 s5.7"),
    (33, "static-route", IP_PAIRS, "2132 s5.8"),
    (34, "trailer-encapsulation", BOOL, "2132 s6.1"),
    (35, "arp-cache-timeout", SECONDS, "2132 s6.2"),
    (36, "ethernet-encapsulation", BOOL, "2132 s6.3"),
    (37, "default-tcp-ttl", U8, "2132 s7.1"),
    (38, "tcp-keepalive-interval", SECONDS, "2132 s7.2"),
    (39, "tcp-keepalive-garbage", BOOL, "2132 s7.3"),
    (40, "nis-domain", STRING, "2132 s8.1"),
    (41, "nis-server", IPS, "2132 s8.2"),
    (42, "ntp-server", IPS, "2132 s8.3"),
    (43, "vendor-specific", BYTES, "2132 s8.4"),
    (44, "netbios-name-server", IPS, "2132 s8.5"),
    (45, "netbios-datagram-server", IPS, "2132 s8.6"),
    (46, "netbios-node-type", U8, "2132 s8.7"),
    (47, "netbios-scope", STRING, "2132 s8.8"),
    (48, "x-font-server", IPS, "2132 s8.9"),
    (49, "x-display-manager", IPS, "2132 s8.10"),
    (50, "requested-address", IP, "2132 s9.1"),
    (51, "lease-time", SECONDS, "2132 s9.2"),
    (52, "option-overload", U8, "2132 s9.3"),
    (53, "message-type", MESSAGE, "2132 s9.6"),
    (54, "server-id", IP, "2132 s9.7"),
    (55, "parameter-request-list", CODES, "2132 s9.8"),
    (56, "message", STRING, "2132 s9.9"),
    (57, "max-message-size", U16, "2132 s9.10"),
    (58, "renewal-time", SECONDS, "2132 s9.11"),
    (59, "rebinding-time", SECONDS, "2132 s9.12"),
    (60, "vendor-class-id", STRING, "2132 s9.13"),
    (61, "client-id", CLIENT_ID, "2132 s9.14"),
    (62, "netware-ip-domain", STRING, "2242"),
    (63, "netware-ip-information", SUBOPTIONS, "2242"),
    (64, "nisplus-domain", STRING, "2132 s8.11"),
    (65, "nisplus-server", IPS, "2132 s8.12"),
    (66, "tftp-server-name", STRING, "2132 s9.4"),
    (67, "bootfile-name", STRING, "2132 s9.5"),
    (68, "mobile-ip-home-agent", IPS_OR_NONE, "2132 s8.13"),
    (69, "smtp-server", IPS, "2132 s8.14"),
    (70, "pop3-server", IPS, "2132 s8.15"),
    (71, "nntp-server", IPS, "2132 s8.16"),
    (72, "www-server", IPS, "2132 s8.17"),
    (73, "finger-server", IPS, "2132 s8.18"),
    (74, "irc-server", IPS, "2132 s8.19"),
    (75, "streettalk-server", IPS, "2132 s8.20"),
    (76, "streettalk-directory-server", IPS, "2132 s8.21"),
    (77, "user-class", USER_CLASS, "3004"),
    (78, "slp-directory-agent", SLP_AGENTS, "2610"),
    (79, "slp-service-scope", SLP_SCOPE, "2610"),
    (80, "rapid-commit", FLAG, "4039"),
    (81, "client-fqdn", CLIENT_FQDN, "4702"),
    (82, "relay-agent-information", RELAY, "3046"),
    (83, "isns", BYTES.sized(14, OPEN), "4174"),
    (85, "nds-server", IPS, "2241"),
    (86, "nds-tree-name", STRING, "2241"),
    (87, "nds-context", STRING, "2241"),
    (88, "bcmcs-controller-domain", DOMAIN_LIST, "4280"),
    (89, "bcmcs-controller-address", IPS, "4280"),
    (90, "authentication", BYTES.sized(11, OPEN), "3118"),
    (91, "client-last-transaction-time", SECONDS, "4388"),
    (92, "associated-ip", IPS, "4388"),
    (93, "client-system", U16S, "4578"),
    (94, "client-ndi", BYTES.sized(3, 3), "4578"),
    (95, "ldap", STRING, "3679"),
    (97, "uuid", TYPED_OCTETS, "4578"),
    (98, "user-authentication", STRING, "2485"),
    (99, "geoconf-civic", BYTES.sized(3, OPEN), "4776"),
    (100, "timezone-posix", STRING, "4833"),
    (101, "timezone-name", STRING, "4833"),
    (108, "v6-only-preferred", SECONDS, "8925"),
    (109, "dhcp4o6-source-address", IP6, "8539"),
    (112, "netinfo-server-address", IPS, "3679"),
    (113, "netinfo-server-tag", STRING, "3679"),
    (114, "captive-portal", STRING, "8910"),
    (116, "auto-config", U8, "2563"),
    (117, "name-service-search", U16S, "2937"),
    (118, "subnet-selection", IP, "3011"),
    (119, "domain-search", DOMAIN_LIST, "3397"),
    (120, "sip-server", SIP_SERVERS, "3361"),
    (121, "classless-static-route", ROUTES, "3442"),
    (122, "cablelabs-client-configuration", SUBOPTIONS, "3495"),
    (123, "geoconf", BYTES.sized(16, 16), "6225"),
    (124, "vendor-identifying-class", VENDOR_CLASS, "3925"),
    (125, "vendor-identifying-information", VENDOR_INFORMATION, "3925"),
    *((code, f"pxe-{code}", BYTES, "4578") for code in range(128, 136)),
    (136, "pana-agent", IPS, "5192"),
    (137, "lost-server", DOMAIN, "5223"),
    (138, "capwap-controller", IPS, "5417"),
    (139, "mos-address", SUBOPTIONS, "5678"),
    (140, "mos-domain", SUBOPTIONS, "5678"),
    (141, "sip-service-domain", DOMAIN_LIST, "6011"),
    (142, "andsf-address", IPS, "6153"),
    (143, "sztp-redirect", URIS, "8572"),
    (144, "geoloc", BYTES.sized(16, 16), "6225"),
    (145, "forcerenew-nonce-capable", U8S, "6704"),
    (146, "rdnss-selection", BYTES.sized(10, OPEN), "6731"),
    (147, "dots-agent-name", DOMAIN, "8973"),
    (148, "dots-agent-address", IPS, "8973"),
    (150, "tftp-server-address", IPS, "5859"),
    (151, "status-code", STATUS, "6926"),
    (152, "base-time", U32, "6926"),
    (153, "start-time-of-state", SECONDS, "6926"),
    (154, "query-start-time", U32, "6926"),
    (155, "query-end-time", U32, "6926"),
    (156, "dhcp-state", U8, "6926"),
    (157, "data-source", U8, "6926"),
    (158, "pcp-server", ADDRESS_LISTS, "7291"),
    (159, "port-parameters", BYTES.sized(4, 4), "7618"),
    (161, "mud-url", STRING, "8520"),
    (162, "encrypted-dns-server", BYTES.sized(6, OPEN), "9463"),
    (175, "etherboot", BYTES, "tentative"),
    (176, "ip-telephone", BYTES, "tentative"),
    (177, "packetcable", BYTES, "tentative"),
    (208, "pxelinux-magic", BYTES.sized(4, 4), "5071"),
    (209, "pxelinux-config-file", STRING, "5071"),
    (210, "pxelinux-path-prefix", STRING, "5071"),
    (211, "pxelinux-reboot-time", SECONDS, "5071"),
    (212, "6rd", BYTES.sized(22, OPEN), "5969"),
    (213, "access-domain", DOMAIN, "5986"),
    (220, "subnet-allocation", BYTES, "6656"),
    (221, "virtual-subnet-selection", BYTES, "6607"),
    (255, "end", MARKER, "2132 s3.2"),
)

# Not IANA's to assign (224 to 254 are private), but what most clients ask for.
PRIVATE = _table(
    (249, "ms-classless-static-route", ROUTES, "private"),
    (252, "wpad", STRING, "private"),
)

ALIASES = {
    "netmask": 1, "mask": 1, "gateway": 3, "routers": 3, "dns": 6, "dns-server": 6,
    "domain-name-servers": 6, "hostname": 12, "domain": 15, "mtu": 26, "broadcast": 28,
    "ntp": 42, "ntp-servers": 42, "vendor-encapsulated-options": 43, "wins": 44,
    "requested-ip": 50, "dhcp-requested-address": 50, "address-request": 50,
    "dhcp-lease-time": 51, "lease": 51, "overload": 52, "dhcp-message-type": 53,
    "dhcp-server-identifier": 54, "server-identifier": 54, "prl": 55,
    "dhcp-parameter-request-list": 55, "dhcp-message": 56, "dhcp-max-message-size": 57,
    "t1": 58, "dhcp-renewal-time": 58, "t2": 59, "dhcp-rebinding-time": 59, "vendor-class": 60,
    "vendor-class-identifier": 60, "dhcp-client-identifier": 61, "client-identifier": 61,
    "tftp-server": 66, "bootfile": 67, "boot-file-name": 67, "fqdn": 81,
    "dhcp-agent-options": 82, "relay-agent": 82, "client-arch": 93,
    "ipv6-only-preferred": 108, "search": 119, "domain-search-list": 119,
    "classless-static-routes": 121, "rfc3442-classless-static-routes": 121, "vivco": 124,
    "vivso": 125, "captive-portal-uri": 114,
}
_CODES = {row.name: row.code for row in (*OPTIONS.values(), *PRIVATE.values())} | ALIASES


def find(key: int | str) -> Option:
    """The row of a code, a number as text, a name or an alias; raises UserError.

    A code without a row gets one: plain octets, named `option-N`.
    """
    code = key if isinstance(key, int) else _code_of_text(key)
    if not PAD <= code <= END:
        raise UserError(f"no DHCP option has code {code}", "codes go from 1 to 254")
    return OPTIONS.get(code) or PRIVATE.get(code) or Option(code, f"option-{code}", BYTES, "")


def code_of(key: int | str) -> int:
    """The code of a name, an alias or a number; raises UserError."""
    return find(key).code


def name_of(code: int) -> str:
    """The name of a code from 0 to 255."""
    return find(code).name


def find_suboption(key: int | str) -> Option:
    """The row of a sub-option of option 82: `circuit-id`, `82.circuit-id`, `82.1` or 1."""
    if isinstance(key, str):
        key = _tidy(key).removeprefix("82.").removeprefix("relay-agent-information.")
        names = {row.name: row.code for row in RELAY_SUBOPTIONS.values()}
        if key not in names and not key.isdigit():
            raise UserError(f'unknown relay agent sub-option "{key}"', _hint(key, names))
        key = names[key] if key in names else int(key)
    if not 0 <= key <= 255:
        raise UserError(f"no relay agent sub-option has code {key}", "codes go from 0 to 255")
    return RELAY_SUBOPTIONS.get(key) or Option(key, f"suboption-{key}", BYTES, "")


def encode_text(key: int | str, text: str) -> tuple[int, bytes]:
    """Code and octets of an option as a person writes it: ("router", "192.0.2.1")."""
    option = find(key)
    return option.code, option.encode(option.parse_text(text))


def _tidy(name: str) -> str:
    return name.strip().lower().replace("_", "-")


# A code has three; Python refuses to read very many.
_MOST_DIGITS = 10


def _code_of_text(text: str) -> int:
    name = _tidy(text)
    if name in _CODES:
        return _CODES[name]
    number = name.removeprefix("option-")
    if number.isascii() and number.isdigit() and len(number) < _MOST_DIGITS:
        return int(number)
    raise UserError(f'unknown DHCP option "{text}"', _hint(name, _CODES))


def _hint(name: str, known: dict[str, int]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "a number from 1 to 254 works too"
