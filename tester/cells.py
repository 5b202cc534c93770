"""The numbers by which a test's arrays are read: states, messages, counters, series.

No kernel is imported here, so that what reads results does not drag the compiler in.
"""

from __future__ import annotations

from fastpath.wire import MessageType, Reason

# What a client is at, RFC 2131 figure 5; then how the first part of its life ended.
(INIT, SELECTING, REQUESTING, BOUND, RENEWING, REBINDING, REBOOTING, INFORMING, WAITING, LEFT,
 OFFERED, IGNORED, TIMEOUT_DISCOVER, TIMEOUT_REQUEST, REFUSED, DUPLICATE) = range(16)
STATES = 16
# In these a client awaits an answer.
AWAITING_STATES = (SELECTING, REQUESTING, RENEWING, REBINDING, REBOOTING, INFORMING)

# Bits of `Clients.flags`: was bound once, waits in the pool of --renew-rate and --release-rate,
# asks for the address that it gave back under another name, has an offer in hand, says something
# at the end of this turn.
F_BOUND, F_POOLED, F_PROBING, F_HAS_OFFER, F_SAYS = 1, 2, 4, 8, 16

# What a client says, one template each; and which DHCP message that is.
(M_DISCOVER, M_REQUEST, M_REBOOT, M_RENEW, M_REBIND, M_INFORM, M_RELEASE, M_DECLINE) = range(8)
MESSAGES = 8
MESSAGE_NAMES = ("discover", "request", "reboot", "renew", "rebind", "inform", "release",
                 "decline")
# These are answered by nobody.
SILENT_NAMES = ("release", "decline")
TYPE_OF = tuple(int(kind) for kind in (
    MessageType.DISCOVER, MessageType.REQUEST, MessageType.REQUEST, MessageType.REQUEST,
    MessageType.REQUEST, MessageType.INFORM, MessageType.RELEASE, MessageType.DECLINE))

# How what was sent is to be taken: sent again, the first of its leg, the first of its exchange,
# one that nobody answers.
AGAIN, LEG, FIRST, SILENT = range(4)

# Cells of one message in `counts`, from PHASE + message * PHASE_SIZE on. LEGS: first
# transmissions; TIMES: all of them; a leg ends ANSWERED, NAKED, LOST or, where it was malformed,
# IGNORED_LEGS; or with the test.
LEGS, TIMES, ANSWERED, NAKED, LOST, IGNORED_LEGS = range(6)
PHASE_SIZE = 6
# What a sound answer with our chaddr, or without, was; cells from CLASS + kind * CLASSES on.
(ACCEPTED, NOT_CHOSEN, DOUBLE, TOO_LATE, UNKNOWN, UNEXPECTED, WRONG_SERVER,
 WRONG_ADDRESS) = range(8)
CLASSES = 8
CLASS_NAMES = ("accepted", "not_chosen", "duplicate", "late", "unknown_xid", "unexpected",
               "wrong_server", "wrong_address")
OFFERS, ACKS, NAKS = range(3)
ANSWER_KINDS = 3

PHASE = 0
CLASS = PHASE + MESSAGES * PHASE_SIZE
MALFORMED = CLASS + ANSWER_KINDS * CLASSES
_MORE = MALFORMED + len(Reason)
# STARTED by the plan and RETURNED by themselves: exchanges that seek an address. They end
# COMPLETED or FAILED, or are IN_FLIGHT. N_BOUND: ACKs that gave an address; CLIENTS_BOUND:
# clients who ever had one. BEGUN: STARTED, before measuring too. AWAITED: answers awaited.
# PENDING, QUEUED: messages not yet stamped, frames handed to the ring. CURSOR: client who
# begins next.
(STARTED, RETURNED, COMPLETED, FAILED, IN_FLIGHT, N_BOUND, CLIENTS_BOUND, AWAITED, MISSED,
 DISCOVER_TIMEOUT, REQUEST_TIMEOUT, REFUSALS, DUPLICATES, LEASES_LOST, LEASES_EXPIRED,
 SILENT_LEAVES, MALFORMED_SENT, MALFORMED_ANSWERED, UNEXPECTED_OPTION, PROBES, UNTRUSTED,
 ARP_ANSWERED, PINGS_ANSWERED, NOBODY_TO_RENEW, NOBODY_TO_RELEASE, PENDING, QUEUED, FIRST_NS,
 LAST_BOUND_NS, BEGUN, CURSOR, POOL_HEAD, POOL_SIZE) = range(_MORE, _MORE + 33)
COUNTS = _MORE + 33
# Not results but the state of work: not set to 0 when measuring begins.
KEPT = (IN_FLIGHT, CLIENTS_BOUND, AWAITED, PENDING, BEGUN, CURSOR, POOL_HEAD, POOL_SIZE)

# Rows of `histograms`: a leg from its first transmission, then from when it was meant to begin.
H_LEG, H_INTENDED = 0, 6
(H_DORA, H_DORA_INTENDED, H_RAPID, H_RELEASE_FREE, H_TIMER_LATE, H_INTERVAL) = range(12, 18)
HISTOGRAMS = 18
# Under which name each is in the result document. REQUEST and its ACK after an OFFER is
# `request_ack`; the others are named after what the client was at.
LEG_NAMES = ("discover_offer", "request_ack", "reboot_ack", "renew_ack", "rebind_ack",
             "inform_ack")

# Cells of a behaviour: how a client begins, what it does when `hold` is over, and how often.
(B_OPENING, B_HOLD, B_RENEWS, B_ENDING, B_RETURN, B_LIVES) = range(6)
BEHAVIOUR_SIZE = 6
# B_OPENING: ask for an address, only look for offers, or say something malformed: O_MALFORMED
# and above, by the kind of malformation.
O_BIND, O_LOOK, O_MALFORMED = range(3)
(E_STAY, E_RELEASE, E_LEAVE, E_DECLINE, E_REBOOT, E_INFORM, E_EXPIRE, E_HANDOVER) = range(8)
# Of times in ticks: none is ever that late.
FOREVER = (1 << 32) - 1

# Cells of `plan`. Times in nanoseconds or, where named so, in ticks of TICK_NS.
(P_WINDOW, P_STOP, P_TIMEOUT_NS, P_DISCOVER_TRIES, P_REQUEST_TRIES, P_SEED, P_MAC, P_MAC_STEP,
 P_BASE_NS, P_PORT, P_OTHER_PORT, P_MODE, P_SERVER_IP, P_SERVER_MAC, P_RELAY_BLOCK, P_BACKOFF_NS,
 P_BACKOFF_MOST_NS, P_SCALE_MILLI, P_OFFER_POLICY, P_OFFER_SERVER, P_OFFER_WAIT_NS, P_POOLED,
 P_ANSWERS_ARP, P_ANSWERS_PING, P_TAGS, P_SECS_FROM_TICK, P_SECS_TO_TICK, P_LIMIT,
 P_RAPID, P_EXCHANGES, P_MAC_CARRY) = range(31)
PLAN_SIZE = 31
OPEN_LOOP = 0
# P_MODE: by broadcast on a segment, as relay agents, or to a server's address by socket.
DIRECT, RELAYS, SOCKET = range(3)
OFFER_FIRST, OFFER_ALL, OFFER_SERVER = range(3)
TICK_NS = 1_000_000
# A start that comes later than this after its intended time is one that the generator missed.
MISSED_NS = 10_000_000
# RFC 2131 section 3.1: after a DECLINE a client waits ten seconds at least.
DECLINE_WAIT_S = 10
# RFC 2131 section 4.4.5: a renewal is not repeated within a minute.
RENEW_AGAIN_S = 60
# A client that looks for an address that was given back asks as often.
PROBE_TICKS = 10

# Cells of one server and of one relay.
(S_ID, S_MAC, S_OFFERS, S_ACKS, S_NAKS, S_CHOSEN, S_EXPECTED, S_REFUSED) = range(8)
SERVER_SIZE = 8
# The last one stands for all that found no room.
MOST_SERVERS = 64
(R_IP, R_MAC, R_STARTED, R_COMPLETED, R_FAILED, R_OFFERS, R_ACKS, R_NAKS, R_SUM_US,
 R_MAX_US) = range(10)
RELAY_SIZE = 10

# Cells of an expectation: option, what is asked of it, where its value stands; how many
# answers lacked it, and how many had something else.
(X_CODE, X_HOW, X_START, X_LENGTH, X_MISSING, X_DIFFERENT) = range(6)
EXPECT_SIZE = 6
X_EQUAL, X_PRESENT, X_ABSENT = range(3)

# Cells of a field that differs from client to client: bit mask of messages, option, sub-option,
# and its program.
(V_MESSAGES, V_CODE, V_SUB, V_FIRST, V_COUNT) = range(5)
FIELD_SIZE = 5
# V_SUB of a field that is the whole option, and of one behind its own length (RFC 3004).
WHOLE, INSTANCE = -1, -2
# Cells of a VLAN tag: TPID and the program of its 16 bits.
(T_TPID, T_FIRST, T_COUNT) = range(3)
# Cells of a message that is sent as it was captured, with octets patched at offsets into its
# BOOTP part; -1: not there.
(W_RAW, W_XID, W_CHADDR_END, W_SECS, W_SERVER, W_ADDRESS) = range(6)
RAW_SIZE = 6
