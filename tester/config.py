"""What the tester is told, as plain data: who its clients are, where they are, what they do.

Times are in seconds, tries are transmissions with the first one included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from fastpath import wire
from fastpath.errors import UserError
from fastpath.packet import mac_text
from tester.behaviour import STAY, Behaviour
from tester.cells import (
    DIRECT,
    E_HANDOVER,
    MESSAGE_NAMES,
    O_MALFORMED,
    OFFER_FIRST,
    RELAYS,
    SOCKET,
    X_EQUAL,
)
from tester.malformations import NAMES
from tester.plan import ClosedLoop, Plan
from tester.template import Template

MOST_TAGS = 3
ALL_MESSAGES = (1 << len(MESSAGE_NAMES)) - 1
# What a client asks for: mask, router, name servers, domain, lease time, T1, T2.
WANTED_OPTIONS = (1, 3, 6, 15, 51, 58, 59)


def mask_of(*names: str) -> int:
    """A set of messages as kernels have it; a name may come twice."""
    return sum(1 << MESSAGE_NAMES.index(name) for name in set(names))


@dataclass(frozen=True, slots=True)
class Field:
    """An option made from a template. messages: as `mask_of`. sub: its code, WHOLE or INSTANCE."""

    messages: int
    code: int
    sub: int
    template: Template


@dataclass(frozen=True, slots=True)
class Captured:
    """A message that is sent as it was captured; offsets into its BOOTP part, None: nowhere."""

    payload: bytes
    xid: int | None = wire.XID
    chaddr_end: int | None = wire.CHADDR + 5
    secs: int | None = wire.SECS
    server: int | None = None
    address: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who clients say they are.

    macs: chaddr of each, where they do not count up from mac_base by mac_step. mac_carry: as
    numbers do, instead of each octet by itself. max_message: option 57, 0: none. options: (mask
    of messages, code, octets), the same for all. bases: message -> fixed part and options to
    begin from. captured: message -> as it is.
    """

    mac_base: bytes = b"\x02\x00\x00\x00\x00\x00"
    mac_step: int = 1
    mac_carry: bool = True
    max_message: int = 1500
    macs: tuple[int, ...] = ()
    wanted: tuple[int, ...] = WANTED_OPTIONS
    broadcast_flag: bool = False
    rapid_commit: bool = False
    fields: tuple[Field, ...] = ()
    options: tuple[tuple[int, int, bytes], ...] = ()
    bases: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    captured: Mapping[str, Captured] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Where:
    """From where clients speak, and to whom.

    mode: DIRECT, RELAYS or SOCKET. interface: `NAME` or `NETNS:NAME`, empty in SOCKET mode.
    server: needed but in DIRECT mode. relays: giaddrs, none where clients speak for themselves;
    client i is behind relay i // relay_block of them. tags: VLAN tags, outermost first: TPID, and
    a `parse_number` template of its 16 bits. local_port: 0 for any. interfaces: all of them where
    there are several, which `interface` is too, by commas: client i is on interface i modulo their
    number (`share`).
    """

    mode: int = DIRECT
    interface: str = ""
    server: IPv4Address | None = None
    server_port: int = wire.SERVER_PORT
    server_mac: bytes | None = None
    local_address: IPv4Address | None = None
    local_port: int | None = None
    relays: tuple[IPv4Address, ...] = ()
    relay_block: int = 1
    tags: tuple[tuple[int, Template], ...] = ()
    answers_arp: bool = True
    answers_ping: bool = True
    queued: bool = False
    interfaces: tuple[str, ...] = ()

    @property
    def client_port(self) -> int:
        return self.server_port + 1

    @property
    def parts(self) -> int:
        """Over how many interfaces clients and load are spread."""
        return len(self.interfaces) or 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long answers are awaited, and how often is asked.

    backoff_s: first and longest wait of RFC 2131 section 4.1, instead of timeout_s.
    """

    timeout_s: float = 5.0
    discover_tries: int = 1
    request_tries: int = 1
    backoff_s: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an ACK should say of an option. how: X_EQUAL, X_PRESENT or X_ABSENT."""

    text: str
    code: int
    how: int = X_EQUAL
    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop. exchanges: starts at most, None: one a client. max_drop: exchanges lost, or
    their share in percent. drain_s: how long to wait for what is still awaited, None: until
    each has had its time.
    """

    exchanges: int | None = None
    duration_s: float | None = None
    max_drop: int | None = None
    max_drop_percent: float | None = None
    drain_s: float | None = None
    preload: int = 0
    warm_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TestConfig:
    """One test.

    mix: behaviours with their shares. rates of renewals and releases by bound clients, a
    second. secs_from_s, secs_to_s: between these times `secs` counts up from 1. notes: in what the
    test is not quite what was asked for.
    """

    clients: int
    plan: Plan = field(default_factory=lambda: ClosedLoop(64))
    where: Where = field(default_factory=Where)
    identity: Identity = field(default_factory=Identity)
    patience: Patience = field(default_factory=Patience)
    limits: Limits = field(default_factory=Limits)
    mix: tuple[tuple[Behaviour, float], ...] = ((STAY, 1.0),)
    renew_rate: float = 0.0
    release_rate: float = 0.0
    time_scale: float = 1.0
    offer_policy: int = OFFER_FIRST
    offer_server: IPv4Address | None = None
    offer_wait_s: float = 0.0
    expects: tuple[Expectation, ...] = ()
    expect_servers: tuple[IPv4Address, ...] = ()
    secs_from_s: float = 0.0
    secs_to_s: float = 0.0
    seed: int = 0
    ring_slots: int = 4096
    notes: tuple[str, ...] = ()

    @property
    def exchanges(self) -> int:
        """How many exchanges the plan begins at most, those of preload included."""
        most = self.limits.exchanges
        return self.clients if most is None else most + self.limits.preload

    def mac_of(self, client: int) -> bytes:
        identity = self.identity
        if identity.macs:
            return identity.macs[client].to_bytes(6, "big")
        first, added = int.from_bytes(identity.mac_base, "big"), client * identity.mac_step
        if not identity.mac_carry:
            return bytes(a + b & 0xFF for a, b in zip(identity.mac_base, added.to_bytes(6, "big"),
                                                      strict=True))
        return (first + added & (1 << 48) - 1).to_bytes(6, "big")

    def check(self) -> None:
        """Raise UserError for what cannot work together."""
        self._check_macs()
        self._check_where()
        if self.limits.preload > self.clients:
            raise UserError(f"--preload {self.limits.preload:,} is more than there are clients",
                            "raise --clients")
        if self.clients < self.where.parts:
            raise UserError(f"{self.where.parts:,} interfaces are more than {self.clients:,} "
                            f"client{'s' * (self.clients != 1)}", "raise --clients")
        if any(b.ending == E_HANDOVER for b, _ in self.mix):
            self._check_handover()

    def _check_handover(self) -> None:
        if self.identity.macs:
            raise UserError("behaviour handover needs new hardware addresses",
                            "use --mac-base instead of --mac-list")
        if self.where.interfaces and not self.identity.mac_carry:
            raise UserError("behaviour handover over several interfaces needs hardware addresses "
                            "that count as numbers do", "leave out --no-mac-carry")

    def _check_where(self) -> None:
        where = self.where
        if where.mode != DIRECT and where.server is None:
            raise UserError("relay agents speak to a server" if where.mode == RELAYS else
                            "a UDP socket speaks to a server", "name it with --server")
        if where.mode == RELAYS and not where.relays:
            raise UserError("there are no relay agents", "name their addresses with --relay")
        if len(where.tags) > MOST_TAGS:
            raise UserError(f"{len(where.tags)} VLAN tags, {MOST_TAGS} is the most",
                            "give fewer with --vlan")
        if where.mode != SOCKET:
            return
        if where.tags:
            raise UserError("VLAN tags cannot be written through a UDP socket",
                            "leave out --server for broadcast, or name an --interface")
        for kind in (behaviour.opening - O_MALFORMED for behaviour, _ in self.mix):
            if kind >= 0 and NAMES[kind].needs_frame:
                raise UserError(f"--malform {NAMES[kind].name} cannot be sent through a UDP socket",
                                "leave out --server for broadcast, or name an --interface")

    def _check_macs(self) -> None:
        identity = self.identity
        if identity.macs:
            if len(identity.macs) < self.clients:
                raise UserError(f"--mac-list has {len(identity.macs):,} addresses for "
                                f"{self.clients:,} clients", "lower --clients")
            return
        if identity.mac_base[0] & 1:
            raise UserError("--mac-base is a multicast address", "use an even first octet")
        first = int.from_bytes(identity.mac_base, "big")
        # Without carry only the first octet itself has to stay as it is.
        first &= -1 if identity.mac_carry else 0xFF << 40
        last = first + (self.clients - 1) * identity.mac_step
        if last >> 48 or last >> 40 != identity.mac_base[0]:
            raise UserError(f"{self.clients:,} clients do not fit behind --mac-base "
                            f"{mac_text(identity.mac_base)}",
                            "use a lower --mac-base or --mac-step")
