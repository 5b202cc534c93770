"""The list of clients: one CSV row each."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastpath.errors import SystemRefused
from fastpath.packet import mac_text
from tester import cells
from tester.arrays import Test
from tester.config import TestConfig
from tester.share import row_of, share

# A client still waiting when the test was cut short got no answer either.
OUTCOMES = {
    cells.INIT: "not_started", cells.SELECTING: "timeout_discover",
    cells.REQUESTING: "timeout_request", cells.BOUND: "bound", cells.RENEWING: "bound",
    cells.REBINDING: "bound", cells.REBOOTING: "bound", cells.INFORMING: "bound",
    cells.WAITING: "waiting", cells.LEFT: "left", cells.OFFERED: "offered",
    cells.IGNORED: "ignored", cells.TIMEOUT_DISCOVER: "timeout_discover",
    cells.TIMEOUT_REQUEST: "timeout_request", cells.REFUSED: "nak", cells.DUPLICATE: "duplicate"}
CSV_HEADER = ("client,chaddr,outcome,yiaddr,server_id,lease_time_s,discover_offer_us,"
              "request_ack_us,dora_us,retransmits")
_CSV_ROWS = 20_000
# Which columns mean something: what did not happen is empty, not zero.
_HOLDING = [state for state, outcome in OUTCOMES.items() if outcome == "bound"]
_LEASED = (*_HOLDING, cells.LEFT, cells.WAITING, cells.DUPLICATE)
_OFFERED = (*_LEASED, cells.REQUESTING, cells.TIMEOUT_REQUEST, cells.REFUSED, cells.OFFERED)


def name_of(config: TestConfig, client: int, alias: int) -> str:
    """chaddr under the name that a client took when it had shed `alias` others."""
    parts = config.where.parts
    # Each interface counts its clients by itself, and names by whole rounds of these.
    rows = share(config.clients, parts, client % parts)
    return mac_text(config.mac_of(client + alias * rows * parts))


def _lines(config: TestConfig, test: Test) -> Iterator[str]:
    interfaces = config.where.interfaces
    yield CSV_HEADER + (",interface\n" if interfaces else "\n")
    clients, servers = test.clients, test.servers[:, cells.S_ID].tolist()
    for first in range(0, config.clients, _CSV_ROWS):
        rows: slice | npt.NDArray[np.int64] = slice(first, first + _CSV_ROWS)
        if interfaces:
            numbers = np.arange(first, min(first + _CSV_ROWS, config.clients))
            rows = row_of(numbers, config.clients, len(interfaces))
        columns = [column[rows].tolist() for column in (
            clients.state, clients.yiaddr, clients.offered, clients.server, clients.lease_s,
            clients.discover_offer_us, clients.request_ack_us, clients.dora_us,
            clients.retransmits, clients.alias)]
        yield "".join(
            _line(config, first + i, servers, *row)
            for i, row in enumerate(zip(*columns, strict=True)))


def _line(config: TestConfig, client: int, servers: list[int], state: int, yiaddr: int,
          offered: int, server: int, lease_s: int, discover_offer: int, request_ack: int,
          dora: int, retransmits: int, alias: int) -> str:
    leased, done = state in _LEASED, state in _LEASED and state != cells.DUPLICATE
    # Under its present name: behaviour handover takes a new one.
    row = [client, name_of(config, client, alias), OUTCOMES[state],
           IPv4Address(yiaddr or offered) if leased else "",
           IPv4Address(servers[server]) if leased and servers[server] else "",
           lease_s if leased else "", (discover_offer or "") if state in _OFFERED else "",
           (request_ack or "") if leased else "", dora if done else "", retransmits]
    if interfaces := config.where.interfaces:
        row.append(interfaces[client % len(interfaces)])
    return ",".join(map(str, row)) + "\n"


def write_clients_csv(path: Path, config: TestConfig, test: Test) -> None:
    """Write one row a client; raises SystemRefused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as out:
            out.writelines(_lines(config, test))
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None
