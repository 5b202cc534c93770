"""All that a test is, as arrays: what kernels are handed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory, Options
from fastpath.wheel import Wheel
from tester.clients import Clients
from tester.template import Programs

Int64s = npt.NDArray[np.int64]


class Messages(NamedTuple):
    """What clients say.

    heads: uint8[MESSAGES, n], each from the IPv4 header to the last option that all clients
    share, or, where `raw` says so, to its last octet. lengths: int64[MESSAGES]. raw:
    int64[MESSAGES, RAW_SIZE]. fields: int64[n, FIELD_SIZE], options that differ from client to
    client, with sub-options of one option side by side and option 82 last. tags: int64[3,
    TAG_SIZE], outermost first. programs: what fields and tags are made by. variables, stack:
    int64, room for these.
    """

    heads: npt.NDArray[np.uint8]
    lengths: Int64s
    raw: Int64s
    fields: Int64s
    tags: Int64s
    programs: Programs
    variables: Int64s
    stack: Int64s


class Expected(NamedTuple):
    """What an ACK is expected to say: rows int64[n, EXPECT_SIZE], with values in `octets`."""

    rows: Int64s
    octets: Memory


class Test(NamedTuple):
    """One test; cells and rows are named in `cells`.

    plan: int64[PLAN_SIZE], what the test is told. behaviours: int64[n, BEHAVIOUR_SIZE].
    servers: int64[MOST_SERVERS, SERVER_SIZE]. relays: int64[n, RELAY_SIZE], one row with R_IP 0
    where clients speak for themselves. pool: int32, a circle of bound clients.
    counts: int64[COUNTS]. histograms: int64[HISTOGRAMS, SIZE]. fired: int32, rows whose time
    is out. outbox: int64, what is said in this turn: row << 5 | message << 2 | AGAIN, LEG, FIRST
    or SILENT.
    """

    clients: Clients
    wheel: Wheel
    plan: Int64s
    behaviours: Int64s
    messages: Messages
    servers: Int64s
    relays: Int64s
    expected: Expected
    pool: npt.NDArray[np.int32]
    options: Options
    counts: Int64s
    histograms: Int64s
    fired: npt.NDArray[np.int32]
    outbox: Int64s
