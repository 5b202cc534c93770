"""The relay's counts as Prometheus text."""

from __future__ import annotations

from typing import Any

from fastpath.metrics import Exposition, Labels

_WAYS = ("requests", "replies")


def render(snapshot: dict[str, Any]) -> str:
    """Prometheus text of a snapshot of the relay."""
    out = Exposition()
    out.gauge("dhcp_relay_up", "1 while the relay serves.", [({}, 1)])
    out.gauge("dhcp_relay_uptime_seconds", "How long the relay has served.",
              [({}, snapshot["uptime_s"])])
    for what, text in (("received", "Messages that reached the relay"),
                       ("relayed", "Messages that the relay sent on, each copy by itself")):
        samples: list[tuple[Labels, float]] = [
            ({"direction": way, "type": name}, count) for way in _WAYS
            for name, count in snapshot[way][what].items()]
        out.counter(f"dhcp_relay_{what}_total", f"{text}, by direction and message type.", samples)
    for name, label, text in (
            ("discarded", "reason", "Messages that were not relayed, by reason."),
            ("refused", "reason", "Frames that are no sound BOOTP message, by reason."),
            ("option82", "action", "What was done about option 82."),
            ("faults", "fault", "Faults that were made on purpose.")):
        out.counter(f"dhcp_relay_{name}_total", text,
                    [({label: key}, count) for key, count in snapshot[name].items()])
    out.counter("dhcp_relay_elsewhere_total", "Messages that were for others.",
                [({}, snapshot["elsewhere"])])
    out.counter("dhcp_relay_requests_by_hops_total", "Requests by the hops value they came with.",
                [({"hops": str(hops)}, count) for hops, count in enumerate(snapshot["by_hops"])])
    _servers(out, snapshot["servers"])
    for name, text in (("rx_ring_drops", "Frames lost because the receive ring was full."),
                       ("tx_congested", "Times that the transmit ring was full.")):
        out.counter(f"dhcp_relay_{name}_total", text,
                    [({"interface": row["name"]}, row[name]) for row in snapshot["interfaces"]])
    return out.text()


def _servers(out: Exposition, rows: list[dict[str, Any]]) -> None:
    out.gauge("dhcp_relay_server_reachable", "Whether the way to a server is known.",
              [({"server": row["address"]}, int(row["reachable"])) for row in rows])
    for name, text in (("sent", "Messages sent to a server."),
                       ("replies", "Messages that came from a server."),
                       ("no_next_hop", "Messages that could not be sent to a server.")):
        out.counter(f"dhcp_relay_server_{name}_total", text,
                    [({"server": row["address"]}, row[name]) for row in rows])
