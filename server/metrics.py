"""The server's counts as Prometheus text.

The one thing to know: `dhcp_requests_total` counts every request once, so that its rows add up
to all that was received. status: `answered` by an OFFER or ACK, `refused` by a NAK, `done`
where no answer is due (DECLINE, RELEASE), `dropped` where one stayed away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastpath.metrics import Distribution, Exposition, Labels

Snapshot = dict[str, Any]

_STATUS = {"offer": "answered", "ack": "answered", "nak": "refused", "silent": "dropped"}
_UNANSWERED = {"decline", "release"}
_POOL_STATES = ("free", "offered", "bound", "declined")


def render(snapshot: Snapshot) -> str:
    """Prometheus text of a snapshot of `server.stats`; what it lacks is left out."""
    out = Exposition()
    out.gauge("dhcp_up", "1 while the server serves.", [({}, 1)])
    _process(out, snapshot)
    _messages(out, snapshot)
    _pools(out, snapshot)
    _losses(out, snapshot)
    _lease_file(out, snapshot)
    return out.text()


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _table(holder: Any, key: str) -> dict[str, Any]:
    """The table under `key`, empty where there is none."""
    found = holder.get(key) if isinstance(holder, dict) else None
    return found if isinstance(found, dict) else {}


def _rows(holder: Any, key: str) -> list[dict[str, Any]]:
    found = holder.get(key) if isinstance(holder, dict) else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _numbers(holder: Any, key: str) -> Iterator[tuple[str, float]]:
    for name, value in _table(holder, key).items():
        if (number := _number(value)) is not None:
            yield name, number


def _one(holder: Any, key: str, scale: float = 1) -> list[tuple[Labels, float]]:
    """The number under `key` as a family's only sample."""
    value = _number(holder.get(key)) if isinstance(holder, dict) else None
    return [] if value is None else [({}, value * scale)]


def _by(label: str, holder: Any, key: str) -> list[tuple[Labels, float]]:
    return [({label: name}, number) for name, number in _numbers(holder, key)]


def _process(out: Exposition, snapshot: Snapshot) -> None:
    out.gauge("process_start_time_seconds", "When the server started, Unix time.",
              _one(snapshot, "started_at"))
    out.gauge("dhcp_uptime_seconds", "How long the server has served.", _one(snapshot, "uptime_s"))


def _requests(snapshot: Snapshot) -> list[tuple[Labels, float]]:
    outcomes = _table(snapshot, "outcomes")
    received = dict(_numbers(snapshot, "received"))
    counts: dict[tuple[str, str], float] = {}
    for kind in received | outcomes:
        silence = "done" if kind in _UNANSWERED else "dropped"
        # Both are always there, so that a rate has a start.
        counts[kind, "answered" if silence == "dropped" else "done"] = 0
        known = 0.0
        for outcome, number in _numbers(outcomes, kind):
            status = silence if outcome == "silent" else _STATUS.get(outcome, outcome)
            counts[kind, status] = counts.get((kind, status), 0) + number
            known += number
        # Received, and left before anything was decided.
        rest = max(0, received.get(kind, 0) - known)
        counts[kind, "dropped"] = counts.get((kind, "dropped"), 0) + rest
    return [({"type": kind, "status": status}, number)
            for (kind, status), number in counts.items()]


def _messages(out: Exposition, snapshot: Snapshot) -> None:
    out.counter("dhcp_requests_total", "Requests received, by message type and what became of "
                "them.", _requests(snapshot))
    out.counter("dhcp_replies_total", "Replies sent, by message type.",
                _by("type", snapshot, "sent"))
    times = []
    for kind, found in _table(snapshot, "response_us").items():
        if (count := _number(_table({"": found}, "").get("count"))) is not None:
            buckets = [(pair[0] / 1e6, int(pair[1])) for pair in found.get("buckets") or ()
                       if isinstance(pair, (list, tuple)) and len(pair) == 2
                       and _number(pair[0]) is not None and _number(pair[1]) is not None]
            times.append(({"type": kind}, Distribution(
                int(count), (_number(found.get("sum_us")) or 0) / 1e6, tuple(buckets))))
    out.histogram("dhcp_response_time_seconds", "From a request's arrival to its reply, by the "
                  "request's message type.", times)
    out.counter("dhcp_refused_total", "Frames that are no sound DHCP request, by reason.",
                _by("reason", snapshot, "refused"))
    out.counter("dhcp_causes_total", "Requests that could not be served as asked, by cause.",
                _by("cause", snapshot, "causes"))
    out.counter("dhcp_elsewhere_total", "Requests that were for another server.",
                _one(snapshot, "elsewhere"))
    out.counter("dhcp_faults_total", "Faults that were made on purpose.",
                _by("fault", snapshot, "faults"))


def _pools(out: Exposition, snapshot: Snapshot) -> None:
    subnets = _rows(snapshot, "subnets")
    states = [({"subnet": str(row.get("subnet", "")), "state": state}, number)
              for row in subnets for state in _POOL_STATES
              if (number := _number(row.get(state))) is not None]
    out.gauge("dhcp_pool_addresses", "Addresses of the pools, by subnet and state.", states)
    sizes = [({"subnet": str(row.get("subnet", ""))}, number) for row in subnets
             if (number := _number(row.get("addresses"))) is not None]
    out.gauge("dhcp_pool_size", "Addresses of the pools in whatever state, by subnet.", sizes)
    pool = _table(snapshot, "pool")
    out.gauge("dhcp_leases", "Leases of the whole server, by state.",
              [({"state": state}, number) for state in ("offered", "bound", "declined")
               if (number := _number(pool.get(state))) is not None])
    for name in ("addresses", "free", "excluded", "reserved"):
        out.gauge(f"dhcp_addresses_{name}" if name != "addresses" else "dhcp_addresses",
                  f"Addresses of the whole server{'' if name == 'addresses' else ': ' + name}.",
                  _one(pool, name))
    out.counter("dhcp_leases_expired_total", "Leases that ended without being renewed.",
                _one(snapshot, "expired"))


def _losses(out: Exposition, snapshot: Snapshot) -> None:
    interfaces = _rows(snapshot, "interfaces")
    drops = [({"interface": str(row.get("name", ""))}, number) for row in interfaces
             if (number := _number(row.get("rx_ring_drops"))) is not None]
    out.counter("dhcp_ring_drops_total", "Frames lost because the receive ring was full.",
                drops or [({"interface": "all"}, number)
                          for _, number in _one(snapshot, "rx_ring_drops")])
    out.counter("dhcp_tx_congested_total", "Times that the transmit ring was full.",
                [({"interface": str(row.get("name", ""))}, number) for row in interfaces
                 if (number := _number(row.get("tx_congested"))) is not None])


def _lease_file(out: Exposition, snapshot: Snapshot) -> None:
    found = _table(snapshot, "lease_file")
    out.gauge("dhcp_lease_file_bytes", "Size of the lease file.", _one(found, "bytes"))
    out.gauge("dhcp_lease_file_records", "Records in the lease file.", _one(found, "records"))
    out.counter("dhcp_lease_file_compactions_total", "How often the lease file was rewritten.",
                _one(found, "compactions"))
    out.counter("dhcp_lease_file_failures_total", "Writes of the lease file that failed.",
                _one(found, "failures"))
