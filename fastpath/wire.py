"""Where things stand in a frame: the numbers of Ethernet, IPv4, UDP and BOOTP.

Every offset is relative to the start of its own header. Sources: RFC 791, RFC 768, RFC 951,
RFC 2131 section 2, linux/if_ether.h.
"""

from __future__ import annotations

from enum import IntEnum

ETH_HEADER = 14
ETH_P_IP = 0x0800
ETH_P_8021Q = 0x8100
ETH_P_8021AD = 0x88A8
VLAN_TAG = 4

IP_HEADER = 20
IP_PROTO_UDP = 17
UDP_HEADER = 8
SERVER_PORT = 67
CLIENT_PORT = 68

# RFC 2131 figure 1: offsets inside the BOOTP part.
OP, HTYPE, HLEN, HOPS, XID, SECS, FLAGS = 0, 1, 2, 3, 4, 8, 10
CIADDR, YIADDR, SIADDR, GIADDR, CHADDR = 12, 16, 20, 24, 28
SNAME, FILE, COOKIE, OPTIONS = 44, 108, 236, 240
CHADDR_SIZE, SNAME_SIZE, FILE_SIZE = 16, 64, 128
MAGIC_COOKIE = 0x63825363
BROADCAST_FLAG = 0x8000
# A client must be ready for an IP datagram of 576 octets (RFC 2131 section 2), and BOOTP
# relays drop messages shorter than 300 octets (RFC 1542 section 2.1).
MIN_BOOTP = 300

BOOTREQUEST, BOOTREPLY = 1, 2
HTYPE_ETHERNET = 1


class MessageType(IntEnum):
    """Option 53 (RFC 2132 section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Reason(IntEnum):
    """Why a frame was refused; `OK` is a sound DHCP message.

    Kernels return these numbers and counters are indexed by them; the codec raises
    `Malformed` with the lower-case name.
    """

    OK = 0
    NOT_IPV4 = 1  # another ethertype, too many VLAN tags, or shorter than its headers
    IP_HEADER = 2  # version, header length or total length contradict the frame
    IP_CHECKSUM = 3
    FRAGMENT = 4
    NOT_DHCP = 5  # another protocol or port
    UDP_LENGTH = 6
    UDP_CHECKSUM = 7
    BOOTP_SHORT = 8  # the fixed part of 236 octets and the cookie do not fit
    BOOTP_FIELDS = 9  # op is neither request nor reply, or hlen is over 16
    COOKIE = 10
    OPTION_TRUNCATED = 11  # an option says it is longer than its field
    OPTION_LENGTH = 12  # a known option has a length its type does not allow
    NO_MESSAGE_TYPE = 13
    INCOMPLETE = 14  # an OFFER or ACK without an address or a server identifier


REASON_NAMES = tuple(r.name.lower() for r in Reason)
