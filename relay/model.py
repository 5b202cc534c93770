"""What a relay can be told, as plain values: the one form that flags, files and tests become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from fastpath.faultmodel import Fault

# What becomes of option 82 (RFC 3046 section 2.1); docs/dhcp-relay.md has the table.
POLICIES = ("none", "append", "keep", "replace", "drop")
# RFC 1542 section 4.1.1.
DEFAULT_MAX_HOPS = 4
DEFAULT_RING_SLOTS = 4096
DEFAULT_CIRCUIT_ID = "{ifname}"


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a relay is told.

    uplinks: empty for those that the routes to `servers` lead through.
    giaddrs, selections: by name of a downlink, "" for all others. A selection of None stands
        for the downlink's own address (RFC 3527).
    option82: one of POLICIES. trusted: downlinks whose option 82 is believed.
    circuit_id, remote_id, subscriber_id: templates of `agent`; empty: the sub-option is left out.
    """

    downlinks: tuple[str, ...]
    servers: tuple[IPv4Address, ...]
    uplinks: tuple[str, ...] = ()
    giaddrs: Mapping[str, IPv4Address] = field(default_factory=dict)
    max_hops: int = DEFAULT_MAX_HOPS
    min_secs: int = 0
    option82: str = "none"
    trusted: frozenset[str] = frozenset()
    circuit_id: str = DEFAULT_CIRCUIT_ID
    remote_id: str = ""
    subscriber_id: str = ""
    selections: Mapping[str, IPv4Address | None] = field(default_factory=dict)
    override: bool = False
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    ring_slots: int = DEFAULT_RING_SLOTS


@dataclass(frozen=True, slots=True)
class Ways:
    """How one relay runs, apart from what it relays.

    namespace: network namespace that it stands in, as `fastpath.elsewhere` takes it; "" for
    that of the process, and then it needs no name.
    """

    namespace: str = ""
    verbose: bool = False
    stats_file: Path | None = None
