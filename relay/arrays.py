"""All that a relay is, as arrays: what kernels read and change, and what it counts where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.faults import Faults
from fastpath.frame import Memory, Options
from fastpath.wire import Reason

Int64s = npt.NDArray[np.int64]

# Message types that are counted by themselves; 0 is everything else, BOOTP too.
TYPES = 19
MOST_BATCH = 256
# What is neither, or is not relayed; a message on its way to servers; one to a client.
NOTHING, REQUEST, REPLY = range(3)
# Why a sound message is not relayed; the first is why it is.
CAUSES = ("relayed", "hops_exceeded", "secs_below", "giaddr_spoofed", "untrusted_option82",
          "option82_present", "wrong_interface", "unknown_giaddr", "no_downlink", "no_next_hop",
          "too_large", "fault", "tx_ring_full", "no_room_to_wait")
(C_OK, C_HOPS, C_SECS, C_SPOOFED, C_UNTRUSTED, C_PRESENT, C_WRONG_INTERFACE, C_GIADDR,
 C_NO_DOWNLINK, C_NO_HOP, C_TOO_LARGE, C_FAULT, C_TX_FULL, C_NO_ROOM) = range(len(CAUSES))
DONE = ("added", "replaced", "removed", "no_room")
D_ADDED, D_REPLACED, D_REMOVED, D_NO_ROOM = range(len(DONE))
HOPS_CELLS = 17

# Cells of `counts`. RECEIVED and RELAYED: by way (requests, replies), then by message type.
RECEIVED, RELAYED = 0, 2 * TYPES
REFUSED = 4 * TYPES
CAUSED = REFUSED + len(Reason)
OPTION82 = CAUSED + len(CAUSES)
BY_HOPS = OPTION82 + len(DONE)
# Not for us: to another's address, or with a VLAN tag.
ELSEWHERE = BY_HOPS + HOPS_CELLS
COUNTS = ELSEWHERE + 1

# Columns of `ports`, a row an interface. SELECTS: giaddr is the uplink's address. AGENT_AT,
# AGENT_SIZE: where its option 82 stands in `agents`.
(P_DOWN, P_UP, P_MAC, P_MTU, P_ADDRESS, P_GIADDR, P_TRUSTED, P_SELECTS, P_AGENT_AT,
 P_AGENT_SIZE) = range(10)
PORT_COLUMNS = 10

# Columns of `hops`, a row a server: number of the port, MAC of the next hop (UNKNOWN for none),
# the server's address, ours towards it.
H_PORT, H_MAC, H_ADDRESS, H_SOURCE = range(4)
HOP_COLUMNS = 4
UNKNOWN = -1

# Columns of `by_server`.
S_SENT, S_REPLIES, S_NO_HOP = range(3)

# Columns of `work`, a row a frame of the batch. PORT: where a request came from, or where a
# reply goes. MAIN_END: where END stands in the options field, or the message's end.
(W_WAY, W_BOOTP, W_END, W_MAIN_END, W_KIND, W_PORT, W_DO, W_OVERLOAD) = range(8)
WORK_COLUMNS = 8
# Of option 82 in the copy.
DO_NOTHING, DO_ADD, DO_REPLACE, DO_REMOVE = range(4)

# Columns of `events`, a ring of what happened, for verbose logs; its cell 0, 0 counts them.
E_WAY, E_KIND, E_HARDWARE, E_GIADDR, E_PORT, E_CAUSE = range(6)
EVENT_COLUMNS = 6

# Cells of `policy`.
PO_OPTION82, PO_MAX_HOPS, PO_MIN_SECS = range(3)


class Tables(NamedTuple):
    """The arrays, by the columns and cells above.

    own: addresses that are ours. casts: broadcast addresses of our links. agents: the option 82
    of each downlink. template: IPv4 and UDP headers. events: no room for any where nobody reads
    them.
    """

    policy: Int64s
    ports: Int64s
    own: Int64s
    casts: Int64s
    agents: Memory
    hops: Int64s
    template: Memory
    faults: Faults
    options: Options
    work: Int64s
    counts: Int64s
    by_server: Int64s
    events: Int64s
