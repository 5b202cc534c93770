"""What can be wrong with a client's message on purpose: the names of `--malform`.

The one thing to know: a kind is a position in the table, and `tester.malform` does to a frame
what its row says. No compiled code here, so that a command line can list the names at once.
"""

from __future__ import annotations

from typing import NamedTuple

from fastpath.wire import Reason

# First what is wrong around the BOOTP message, then in its fixed part, then in its options.
(IP_CHECKSUM, IP_LENGTH, FRAGMENT, UDP_CHECKSUM, NO_UDP_CHECKSUM, UDP_LENGTH, UDP_SHORT,
 FOREIGN_MAC, EMPTY, BOOTP_SHORT, BAD_OP, REPLY_OP, BAD_HTYPE, BAD_HLEN, ZERO_HLEN, HOPS,
 RESERVED_FLAGS, NO_COOKIE, BAD_COOKIE, TRUNCATED, NO_END, OPTION_OVERRUN, OPTION_ZERO,
 SHORT_ADDRESS, NO_TYPE, UNKNOWN_TYPE, TWO_TYPES, OVERLOAD_GARBAGE, RELAY_OVERRUN,
 JUNK_AFTER_END) = range(30)


class Malformation(NamedTuple):
    """One row.

    name: as `--malform` has it. what: for help texts, with the rule it breaks or leans on.
    silent: a sound server does not answer; otherwise it may, and may as well not.
    reason: why our own decoder refuses the frame as a DHCP message; OK where it reads it.
    needs_frame: wrong outside the UDP payload, so that only a packet socket can send it.
    """

    name: str
    what: str
    silent: bool
    reason: Reason
    needs_frame: bool = False


# Two kinds of rows do not follow from `reason`. A reply is a sound message, but none to a
# server. What has no cookie or no type is no DHCP message, but a BOOTP request, which a server
# may serve too (RFC 951 section 3, RFC 1534 section 2).
NAMES = (
    Malformation("ip-checksum", "IPv4 checksum wrong (RFC 1122 section 3.2.1.2)",
                 True, Reason.IP_CHECKSUM, True),
    Malformation("ip-length", "IPv4 total length past the end of the frame (RFC 791)",
                 True, Reason.IP_HEADER, True),
    Malformation("fragment", "first fragment of a datagram whose rest never comes (RFC 791)",
                 True, Reason.FRAGMENT, True),
    Malformation("udp-checksum", "UDP checksum wrong (RFC 1122 section 4.1.3.4)",
                 True, Reason.UDP_CHECKSUM, True),
    Malformation("no-udp-checksum", "UDP checksum 0, which is none, and allowed (RFC 768)",
                 False, Reason.OK, True),
    Malformation("udp-length", "UDP length longer than the datagram (RFC 768)",
                 True, Reason.UDP_LENGTH, True),
    Malformation("udp-short", "UDP length shorter than its header (RFC 768)",
                 True, Reason.UDP_LENGTH, True),
    Malformation("foreign-mac", "Ethernet source other than chaddr, which DHCP snooping refuses",
                 False, Reason.OK, True),
    Malformation("empty", "UDP payload of no octets",
                 True, Reason.BOOTP_SHORT),
    Malformation("bootp-short", "payload of 1 to 235 octets, less than the fixed part (RFC 951)",
                 True, Reason.BOOTP_SHORT),
    Malformation("bad-op", "op neither request nor reply (RFC 2131 section 2)",
                 True, Reason.BOOTP_FIELDS),
    Malformation("reply-op", "op of a reply, in a client's message (RFC 2131 section 2)",
                 True, Reason.OK),
    Malformation("bad-htype", "htype other than Ethernet (RFC 2131 section 2)",
                 False, Reason.OK),
    Malformation("bad-hlen", "hlen 255, where chaddr has 16 octets (RFC 2131 section 2)",
                 True, Reason.BOOTP_FIELDS),
    Malformation("zero-hlen", "hlen 0: chaddr is said to be empty (RFC 2131 section 2)",
                 False, Reason.OK),
    Malformation("hops", "hops 255, where relays stop at 16 (RFC 1542 section 4.1.1)",
                 False, Reason.OK),
    Malformation("reserved-flags", "all flags that must be zero set (RFC 2131 section 2)",
                 False, Reason.OK),
    Malformation("no-cookie", "options without the magic cookie before them (RFC 2131 section 3)",
                 False, Reason.COOKIE),
    Malformation("bad-cookie", "one octet of the magic cookie wrong (RFC 2131 section 3)",
                 False, Reason.COOKIE),
    Malformation("truncated", "message ends in the middle of an option (RFC 2132 section 2)",
                 True, Reason.OPTION_TRUNCATED),
    Malformation("no-end", "no end option and no padding (RFC 2131 section 4.1)",
                 False, Reason.OK),
    Malformation("option-overrun", "last option longer than the message (RFC 2132 section 2)",
                 True, Reason.OPTION_TRUNCATED),
    Malformation("option-zero", "message type of no octets (RFC 2132 section 9.6)",
                 True, Reason.OPTION_LENGTH),
    Malformation("short-address", "requested address of 3 octets (RFC 2132 section 9.1)",
                 True, Reason.OPTION_LENGTH),
    Malformation("no-type", "no message type (RFC 2131 section 3)",
                 False, Reason.NO_MESSAGE_TYPE),
    Malformation("unknown-type", "message type 99 (RFC 2132 section 9.6)",
                 True, Reason.NO_MESSAGE_TYPE),
    Malformation("two-types", "a second, different message type: together of 2 octets (RFC 3396)",
                 True, Reason.OPTION_LENGTH),
    Malformation("overload-garbage", "option overload 7 (RFC 2132 section 9.3)",
                 True, Reason.OPTION_LENGTH),
    Malformation("relay-overrun", "last sub-option of option 82 longer than it (RFC 3046)",
                 False, Reason.OK),
    Malformation("junk-after-end", "other than zeros after the end option (RFC 2132 section 3.2)",
                 False, Reason.OK),
)
KINDS = {row.name: kind for kind, row in enumerate(NAMES)}
