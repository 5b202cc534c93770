"""All that a server is, as arrays: what kernels read and change, and what it counts where."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.delay import Delay
from fastpath.faults import Faults
from fastpath.frame import Memory, Options
from fastpath.histogram import SIZE
from fastpath.wire import Reason
from server.decide import CAUSES, World
from server.identity import Names, make_names
from server.places import Reserved
from server.record import MOST_RECORD
from server.reply import Writer, make_writer
from server.settings import Classes

TYPES = 19
MOST_BATCH = 256

# Cells of `counts`: received and sent by message type (0 is BOOTP), refused by Reason, by
# cause, then what became of each type: silent, OFFER, ACK, NAK.
RECEIVED, SENT, REFUSED = 0, TYPES, 2 * TYPES
CAUSED = REFUSED + len(Reason)
OUTCOMES = CAUSED + len(CAUSES)
# Not for us: sent to another server's address, or a reply.
ELSEWHERE = OUTCOMES + 4 * TYPES
EXPIRED = ELSEWHERE + 1
COUNTS = EXPIRED + 1

# Columns of `events`, a ring of what happened, for verbose logs; its cell 0, 0 counts them.
E_KIND, E_ANSWER, E_ADDRESS, E_HARDWARE, E_CAUSE = range(5)
EVENT_COLUMNS = 5


class Pen(NamedTuple):
    """Records of one batch for the lease file. state: int64[2], octets used, records."""

    mem: Memory
    state: npt.NDArray[np.int64]


PEN_USED, PEN_RECORDS = 0, 1
# Leases that one batch may free: about 50 us.
_MOST_EXPIRED = 512


class Sent(NamedTuple):
    """When the requests arrived whose replies go out with this batch; for response times.

    stamp_ns: int64[n], CLOCK_REALTIME. mark: int32[n], type of the request, of the reply << 8.
    state: int64[1], how many.
    """

    stamp_ns: npt.NDArray[np.int64]
    mark: npt.NDArray[np.int32]
    state: npt.NDArray[np.int64]


class Scratch(NamedTuple):
    """Memory that `serve` uses for one message at a time. fired: int32, expired rows."""

    options: Options
    names: Names
    writer: Writer
    fired: npt.NDArray[np.int32]


class Tables(NamedTuple):
    """All that a server is, as arrays.

    counts: int64[COUNTS]. events: int64[n + 1, EVENT_COLUMNS], with no room for any (n = 0)
    when nobody reads them. response_us: int64[9, SIZE], a histogram a type of request.
    """

    world: World
    reserved: Reserved
    classes: Classes
    faults: Faults
    delay: Delay
    pen: Pen
    sent: Sent
    scratch: Scratch
    counts: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]
    response_us: npt.NDArray[np.int64]


def make_pen() -> Pen:
    return Pen(np.zeros(128 * MOST_BATCH + 2 * MOST_RECORD, np.uint8), np.zeros(2, np.int64))


def make_sent() -> Sent:
    room = 4 * MOST_BATCH
    return Sent(np.zeros(room, np.int64), np.zeros(room, np.int32), np.zeros(1, np.int64))


def make_scratch(options: Options) -> Scratch:
    return Scratch(options, make_names(), make_writer(), np.zeros(_MOST_EXPIRED, np.int32))


def make_response_times() -> npt.NDArray[np.int64]:
    return np.zeros((9, SIZE), np.int64)
