"""A client's life as plain objects: the slow, obvious twin of the tester's kernels.

The one thing to know: it knows no slots, arrays, wheel or scrambled ids. It is told what the
wire carries, keeps one deadline a client, and writes down what every client says. Times are
whole microseconds from the beginning; timers fire at whole milliseconds, as the kernel's do.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastpath.wheel import SKIP_MAX
from tester import cells
from tester.behaviour import ENDLESS, Behaviour
from tester.clients import scramble
from tester.config import TestConfig as Config
from tester.plan import ClosedLoop

TICK_US = 1_000
MISSED_US = 10_000
PROBE_TICKS = 10
PROBING_US = 10_000_000
INFINITE_S = 0xFFFFFFFF
NEVER = math.inf
MOST_SECS = 0xFFFF

GIVEN_UP = ("timeout_discover", "timeout_request", "refused")
IDLE = ("init", "left", "offered", "ignored", "duplicate", *GIVEN_UP)
# Who awaits an answer to what.
LEG_OF = {"selecting": "discover", "requesting": "request", "renewing": "renew",
          "rebinding": "rebind", "rebooting": "reboot", "informing": "inform"}
SERIES_OF = {"discover": "discover_offer"} | {
    leg: f"{leg}_ack" for leg in ("request", "renew", "rebind", "reboot", "inform")}


class Came(NamedTuple):
    """An answer as a person would write it down. alias: under which name; server: 0 for none."""

    at_us: int
    kind: str
    xid: int
    row: int
    alias: int
    yiaddr: int
    server: int
    lease_s: int
    times_s: tuple[int, int] | None
    rapid: bool
    mask: str


class Said(NamedTuple):
    """A message of a client. what: first, leg, again or silent."""

    kind: str
    row: int
    alias: int
    transaction: int
    secs: int
    ciaddr: int
    wanted: int
    server: int


@dataclass
class Client:
    row: int
    life: Behaviour
    state: str = "init"
    transaction: int = 0
    # The present transaction was given up: what still comes is late.
    over: bool = False
    alias: int = 0
    tries: int = 0
    naks: int = 0
    lives: int = 0
    retransmits: int = 0
    secs: int = 0
    intended_us: int = 0
    started_us: int = 0
    due_us: int = 0
    leg_us: int = 0
    address: int = 0
    offered: int = 0
    server: int = 0
    lease_s: int = 0
    t1_s: int = 0
    t2_s: int = 0
    leased: int = 0
    # Until which tick it holds its lease; None: nothing is before it.
    hold: float | None = None
    was_bound: bool = False
    pooled: bool = False
    chosen: bool = False
    probing: bool = False
    says: bool = False
    # (tick, how many were armed before)
    deadline: tuple[int, int] | None = None


@dataclass
class Twin:
    """The whole test, naively. ids: transaction id -> (row, transaction), as the wire showed."""

    config: Config
    now_us: int = 0
    stopped: bool = False
    room: int = 0
    cursor: int = 0
    armed: int = 0
    next_row: int = 0
    begun: int = 0
    clients: list[Client] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    servers: Counter[tuple[int, str]] = field(default_factory=Counter)
    latency: dict[str, list[int]] = field(default_factory=dict)
    waiting: list[Came] = field(default_factory=list)
    outbox: list[tuple[Client, str, str]] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    pool: deque[Client] = field(default_factory=deque)
    ids: dict[int, tuple[int, int]] = field(default_factory=dict)
    strangers: dict[int, int] = field(default_factory=dict)
    left_over: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def add_clients(self, lives: list[Behaviour]) -> None:
        self.clients = [Client(row, life) for row, life in enumerate(lives)]

    # Time.

    def life_ticks(self, seconds: int) -> int:
        return max(seconds * 1_000_000 // round(self.config.time_scale * 1000), 1)

    def ticks(self, seconds: float) -> float:
        return seconds if math.isinf(seconds) else round(seconds * 1000 / self.config.time_scale)

    def arm(self, client: Client, tick: int) -> None:
        self.armed += 1
        client.deadline = (max(tick, self.cursor), self.armed)

    def later(self, client: Client) -> None:
        self.arm(client, self.now_us // TICK_US + 1)

    def wait_us(self, client: Client, at_us: int) -> float:
        patience = self.config.patience
        if patience.backoff_s is None:
            return patience.timeout_s * 1e6
        if client.state in ("renewing", "rebinding") and client.hold is not None:
            ends_s = client.t2_s if client.state == "renewing" else client.lease_s
            left = client.leased + self.life_ticks(ends_s) - at_us // TICK_US
            return min(max(left // 2, self.life_ticks(60)), max(left, 1)) * TICK_US
        first, most = (round(s * 1e9) for s in patience.backoff_s)
        wait = min(first << min(client.tries - 1, 16), most)
        # A random number that comes again with the same seed.
        draw = int(scramble((client.row * 2654435761 + self.epochs[client.row] * 97 + client.tries
                             + (self.config.seed & 0xFFFFFFFF)) & 0xFFFFFFFF))
        return (wait - first // 4 + (first // 2 * (draw >> 8) >> 24)) / 1000

    # One turn.

    def turn(self, now_us: int, kicked_us: int, intended_us: list[int], renewals: int,
             releases: int, limit: int, epochs: list[int]) -> None:
        """epochs: of the kernel's clients, by which it draws random numbers; nothing else."""
        self.now_us, self.epochs = now_us, epochs
        for client, _, what in self.outbox:
            if what != "again":
                client.leg_us = kicked_us
            if what != "silent":
                wait_ns = round(self.wait_us(client, kicked_us) * 1000)
                self.arm(client, (kicked_us * 1000 + wait_ns) // 1_000_000 + 1)
            if what == "first":
                client.started_us = kicked_us
        self.outbox = []
        for _ in range(limit):
            if not (self.room and self.waiting):
                break
            self.take_in(self.waiting.pop(0))
        # As late as the oldest unread answer.
        seen = min([now_us, *(came.at_us for came in self.waiting[:1])]) // TICK_US
        for client, tick in self.expired(seen, min(limit, 64)):
            self.time_comes(client, tick * TICK_US)
        self.left_over = self.serve_pool(renewals, releases)
        self.begin_some(intended_us, limit)
        self.flush()

    def expired(self, seen: int, limit: int) -> list[tuple[Client, int]]:
        """Whose deadline has come, and when it was; the earliest, and for one tick the oldest."""
        # Time that was seen is not unseen; nor does it go far at once where there is still
        # somebody to find on the way.
        seen = max(seen, self.cursor)
        most = min(seen, self.cursor + SKIP_MAX)
        due = sorted((c.deadline, c.row) for c in self.clients
                     if c.deadline and c.deadline[0] <= most)[:limit]
        for _, row in due:
            self.clients[row].deadline = None
        left = [c.deadline[0] for c in self.clients if c.deadline]
        self.cursor = max(self.cursor, min([most, *left]) if left else seen)
        return [(self.clients[row], tick) for (tick, _), row in due]

    def flush(self) -> None:
        for client, kind, what in self.outbox:
            client.says = False
            if kind == "discover" and what != "first":
                client.secs = min((self.now_us - client.started_us) // 1_000_000, MOST_SECS)
            elif kind != "request":
                client.secs = (min((self.now_us - client.leg_us) // 1_000_000, MOST_SECS)
                               if what == "again" else 0)
            wanted = (client.offered if kind in ("request", "decline")
                      or (kind == "discover" and client.probing)
                      else client.address if kind == "reboot" else 0)
            ciaddr = (client.offered if kind == "release"
                      else client.address if kind in ("renew", "rebind", "inform") else 0)
            server = client.server if kind in ("request", "decline", "release") else 0
            self.said.append(Said(kind, client.row, client.alias, client.transaction, client.secs,
                                  ciaddr, wanted, server))

    def say(self, client: Client, kind: str, what: str) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.counts[kind] += 1
        if what == "again":
            self.counts[f"{kind}_again"] += 1
            client.retransmits += 1
        if what != "silent":
            client.tries = client.tries + 1 if what == "again" else 1
            client.deadline = None
        client.says = True
        self.outbox.append((client, kind, what))
        return True

    # Answers.

    def take_in(self, came: Came) -> None:
        kind = came.kind.lower()
        known = self.ids.get(came.xid)
        client = self.clients[known[0] if known else self.strangers[came.xid]]
        gives = kind != "nak" and client.state != "informing"
        if (kind != "nak" and not came.server) or (gives and not (came.yiaddr and came.lease_s)):
            self.counts["incomplete"] += 1
            return
        current = known is not None and known[1] == client.transaction and not client.over
        named = (came.row, came.alias) == (client.row, client.alias)
        # One of its old names does for what was asked under one.
        if not named and (client.alias == 0 or current):
            self.counts[f"{kind}_unknown_xid"] += 1
            return
        if came.server:
            self.servers[came.server, f"{kind}s"] += 1
        verdict = self.judge(client, kind, came, current) if known else "unknown_xid"
        self.counts[kind if verdict == "accepted" else f"{kind}_{verdict}"] += 1
        if verdict == "accepted":
            {"offer": self.offered, "ack": self.acked, "nak": self.refused}[kind](client, came)
        elif verdict == "not_chosen" and client.state == "selecting":
            self.other_offer(client, came)

    def judge(self, client: Client, kind: str, came: Came, current: bool) -> str:
        same = came.server in (client.server, 0)
        if not current or client.state in GIVEN_UP:
            return "late"
        if client.says and (kind != "offer" or client.state == "selecting"):
            return "unexpected"
        if client.state == "selecting":
            return self.judge_offer(client, kind, came, same)
        if client.state in LEG_OF:
            return self.judge_leg(client, kind, came, same)
        return "duplicate" if same else "not_chosen" if kind == "offer" else "wrong_server"

    def judge_offer(self, client: Client, kind: str, came: Came, same: bool) -> str:
        if kind == "nak" or (kind == "ack" and not (came.rapid
                                                    and self.config.identity.rapid_commit)):
            return "unexpected"
        if kind == "offer":
            if client.chosen:
                return "duplicate" if same else "not_chosen"
            if self.config.offer_policy == cells.OFFER_SERVER and (
                    came.server != int(self.config.offer_server or 0)):
                return "not_chosen"
        other = client.probing and came.yiaddr != client.offered
        return "not_chosen" if other else "accepted"

    def judge_leg(self, client: Client, kind: str, came: Came, same: bool) -> str:
        if kind == "offer":
            asks = client.state == "requesting"
            return "unexpected" if not asks else "duplicate" if same else "not_chosen"
        if not same and client.state not in ("rebinding", "rebooting"):
            return "wrong_server"
        if client.state == "informing":
            return "unexpected" if kind == "nak" else "accepted"
        asked = client.offered if client.state == "requesting" else client.address
        return "accepted" if kind == "nak" or came.yiaddr == asked else "wrong_address"

    def offered(self, client: Client, came: Came) -> None:
        self.leg_answered(client, came)
        client.server, client.offered, client.lease_s = came.server, came.yiaddr, came.lease_s
        if client.life.opening == cells.O_LOOK:
            self.end(client, "offered", True)
            return
        self.found(client, came)
        if self.config.offer_policy == cells.OFFER_ALL and self.config.offer_wait_s:
            client.chosen = True
            self.arm(client, (came.at_us + round(self.config.offer_wait_s * 1e6)) // TICK_US + 1)
            return
        self.request(client, came.at_us)

    def found(self, client: Client, came: Came) -> None:
        if client.probing:
            client.probing = False
            self.note("release_free", came.at_us - client.intended_us)
            client.intended_us = client.started_us

    def other_offer(self, client: Client, came: Came) -> None:
        if client.chosen:
            if came.lease_s > client.lease_s:
                client.server, client.offered, client.lease_s = (came.server, came.yiaddr,
                                                                 came.lease_s)
        elif client.probing:
            self.leg_ends(client, "answered")
            client.state = "waiting"
            self.arm(client, self.now_us // TICK_US + PROBE_TICKS)

    def acked(self, client: Client, came: Came) -> None:
        if came.mask != "255.255.0.0" and self.config.expects:
            self.counts["unexpected_option"] += 1
        state = client.state
        if state == "selecting":
            client.deadline = None
            if not client.chosen:
                self.leg_ends(client, "answered")
            self.note("rapid", came.at_us - client.leg_us)
            self.found(client, came)
            self.bind(client, came)
            return
        self.leg_answered(client, came)
        if state == "requesting":
            self.bind(client, came)
        elif state == "informing":
            self.next_life(client, True, came.at_us)
        else:
            self.take_lease(client, came)
            if state == "rebooting":
                self.next_life(client, True, came.at_us)
            else:
                self.settle(client, came.at_us)

    def take_lease(self, client: Client, came: Came) -> None:
        client.server, client.lease_s = came.server, came.lease_s
        client.leased = client.leg_us // TICK_US
        if came.lease_s == INFINITE_S:
            client.t1_s = client.t2_s = INFINITE_S
            return
        default = max(came.lease_s // 2, 1), math.ceil(came.lease_s * 7 / 8)
        t1, t2 = came.times_s or default
        client.t1_s, client.t2_s = (t1, t2) if 0 < t1 <= t2 <= came.lease_s else default

    def bind(self, client: Client, came: Came) -> None:
        self.take_lease(client, came)
        life = client.life
        if life.ending == cells.E_DECLINE and (life.lives == ENDLESS
                                               or client.lives < life.lives):
            self.note_dora(client, came)
            self.end(client, "waiting", True)
            client.address, client.offered = 0, came.yiaddr
            client.lives += 1
            client.transaction += 1
            client.over = False
            self.say(client, "decline", "silent")
            self.arm(client, came.at_us // TICK_US + self.life_ticks(10))
            return
        if not self.may_have(client, came):
            self.counts["duplicates"] += 1
            self.end(client, "duplicate", False)
            return
        self.note_dora(client, came)
        self.note("interval", came.at_us - client.started_us)
        self.counts["clients_bound"] += not client.was_bound
        self.counts["bound"] += 1
        client.was_bound = True
        self.end(client, "bound", True)
        self.settle(client, came.at_us)

    def may_have(self, client: Client, came: Came) -> bool:
        """Take the address; False where another's lease of it, by real time, has not ended."""
        if client.address == came.yiaddr:
            return True
        client.address = 0
        for other in self.clients:
            if other.address == came.yiaddr:
                if (other.lease_s == INFINITE_S
                        or came.at_us // TICK_US < other.leased + other.lease_s * 1000):
                    return False
                other.address = 0
        client.address = came.yiaddr
        return True

    def refused(self, client: Client, came: Came) -> None:
        self.counts["refusals"] += 1
        self.servers[came.server or client.server, "refused"] += 1
        state = client.state
        self.leg_ends(client, "naked")
        if state == "requesting":
            client.naks += 1
            if client.naks >= self.config.patience.discover_tries:
                self.end(client, "refused", False)
            else:
                self.begin_leg(client, "selecting", came.at_us)
            return
        if state == "rebooting":
            client.lives += 1
        else:
            self.counts["leases_lost"] += 1
        client.address = 0
        self.come_back(client, came.at_us)

    # Exchanges and legs.

    def note(self, series: str, span_us: int) -> None:
        self.latency.setdefault(series, []).append(max(span_us, 0))

    def note_dora(self, client: Client, came: Came) -> None:
        self.note("dora", came.at_us - client.started_us)
        self.note("dora_from_intended", came.at_us - client.intended_us)

    def leg_ends(self, client: Client, how: str) -> None:
        self.counts[f"{LEG_OF[client.state]}_{how}"] += 1
        client.deadline = None
        client.over = how == "lost"

    def leg_answered(self, client: Client, came: Came) -> None:
        series = SERIES_OF[LEG_OF[client.state]]
        self.leg_ends(client, "answered")
        self.note(series, came.at_us - client.leg_us)
        self.note(f"{series}_intended", came.at_us - client.due_us)

    def begin_leg(self, client: Client, state: str, due_us: int) -> None:
        if not self.room:
            self.later(client)
            return
        client.state = state
        client.transaction += 1
        client.over = False
        client.due_us = due_us
        self.say(client, LEG_OF[state], "leg")

    def request(self, client: Client, due_us: int) -> None:
        if not self.room:
            self.later(client)
            return
        client.state, client.chosen, client.due_us = "requesting", False, due_us
        self.servers[client.server, "chosen"] += 1
        self.say(client, "request", "leg")

    def begin(self, client: Client, intended_us: int) -> bool:
        if not self.room:
            return False
        client.transaction += 1
        client.over = client.chosen = client.probing = False
        client.state, client.naks, client.hold = "selecting", 0, None
        client.intended_us = client.due_us = intended_us
        self.say(client, "discover", "first")
        self.counts["in_flight"] += 1
        return True

    def come_back(self, client: Client, intended_us: int) -> None:
        if self.stopped:
            client.state = "left"
        elif self.begin(client, intended_us):
            self.counts["returned"] += 1
        else:
            client.state = "waiting"
            self.later(client)

    def end(self, client: Client, state: str, completed: bool) -> None:
        client.state, client.chosen, client.probing = state, False, False
        self.counts["in_flight"] -= 1
        self.counts["completed" if completed else "failed"] += 1

    # Life.

    def settle(self, client: Client, at_us: int) -> None:
        client.state = "bound"
        if client.hold is None and not self.holds(client, at_us):
            self.leave_to_rates(client)
            return
        assert client.hold is not None
        tick = client.hold
        if client.lease_s != INFINITE_S:
            then_s = client.t1_s if client.life.renews else client.lease_s
            tick = min(tick, client.leased + self.life_ticks(then_s))
        if not math.isinf(tick):
            self.arm(client, int(tick))

    def holds(self, client: Client, at_us: int) -> bool:
        life = client.life
        if life.ending in (cells.E_STAY, cells.E_DECLINE) and not self.ticks(life.hold_s):
            return False
        if life.ending != cells.E_DECLINE and life.lives and client.lives >= life.lives:
            return False
        client.hold = max(at_us // TICK_US + self.ticks(life.hold_s), 1)
        return True

    def leave_to_rates(self, client: Client) -> None:
        if self.config.renew_rate + self.config.release_rate > 0 and not client.pooled:
            client.pooled = True
            self.pool.append(client)

    def next_life(self, client: Client, present: bool, at_us: int) -> None:
        client.lives += 1
        client.hold = None
        if present:
            self.settle(client, at_us)
        elif client.life.lives == ENDLESS or client.lives < client.life.lives:
            client.state = "waiting"
            away = max(int(self.ticks(client.life.return_s)), 1)
            self.arm(client, at_us // TICK_US + away)
        else:
            client.state = "left"

    def release(self, client: Client) -> bool:
        if not self.room:
            return False
        client.transaction += 1
        client.over = False
        client.offered, client.address = client.address, 0
        return self.say(client, "release", "silent")

    def time_comes(self, client: Client, due_us: int) -> None:
        state = client.state
        if state in LEG_OF:
            self.silence(client)
            return
        self.note("timer_late", self.now_us - due_us)
        if state == "bound":
            self.live(client, due_us)
        elif client.probing:
            self.probe(client)
        else:
            self.come_back(client, due_us)

    def live(self, client: Client, due_us: int) -> None:
        if self.stopped:
            return
        tick = self.now_us // TICK_US
        assert client.hold is not None
        if client.address and tick >= client.hold:
            self.end_life(client, due_us)
        elif not client.address or tick >= client.leased + self.life_ticks(client.lease_s):
            client.address = 0
            if client.life.renews:
                self.counts["leases_lost"] += 1
                self.come_back(client, due_us)
            else:
                self.counts["leases_expired"] += 1
                self.next_life(client, False, self.now_us)
        elif tick >= client.leased + self.life_ticks(client.t2_s):
            self.begin_leg(client, "rebinding", due_us)
        else:
            self.begin_leg(client, "renewing", due_us)

    def end_life(self, client: Client, due_us: int) -> None:
        ending = client.life.ending
        if ending in (cells.E_STAY, cells.E_DECLINE, cells.E_EXPIRE):
            client.hold = None
            self.leave_to_rates(client)
        elif ending in (cells.E_REBOOT, cells.E_INFORM):
            self.begin_leg(client, "rebooting" if ending == cells.E_REBOOT else "informing", due_us)
        elif ending == cells.E_LEAVE:
            self.counts["silent_leaves"] += 1
            self.next_life(client, False, self.now_us)
        elif not self.release(client):
            self.later(client)
        elif ending == cells.E_RELEASE:
            self.next_life(client, False, self.now_us)
        else:
            client.probing, client.intended_us = True, -1
            client.lives += 1
            client.naks, client.hold, client.state = 0, None, "waiting"
            self.counts["returned"] += 1
            self.counts["in_flight"] += 1
            self.arm(client, self.now_us // TICK_US + 1)

    def probe(self, client: Client) -> None:
        if client.intended_us < 0:
            client.intended_us = client.leg_us
        if self.now_us - client.intended_us > PROBING_US:
            self.counts["discover_timeout"] += 1
            self.end(client, "timeout_discover", False)
        elif not self.room:
            self.later(client)
        else:
            client.alias += 1
            client.transaction += 1
            client.over = False
            client.state, client.due_us = "selecting", self.now_us
            self.counts["probes"] += 1
            self.say(client, "discover", "first")

    # Silence.

    def repeats(self, client: Client, most: float) -> bool:
        """Send again where tries are left, or where there is no room now."""
        if client.tries >= most or not (client.address or client.state in ("selecting",
                                                                            "requesting")):
            return False
        if not self.say(client, LEG_OF[client.state], "again"):
            self.later(client)
        return True

    def silence(self, client: Client) -> None:
        patience, state = self.config.patience, client.state
        if client.chosen:
            self.request(client, self.now_us)
            return
        if state in ("renewing", "rebinding"):
            self.renewal_silence(client)
            return
        if self.repeats(client, patience.discover_tries if state == "selecting"
                        else patience.request_tries):
            return
        self.leg_ends(client, "lost")
        if state in ("selecting", "requesting"):
            self.counts[f"{LEG_OF[state]}_timeout"] += 1
            self.end(client, f"timeout_{LEG_OF[state]}", False)
        elif state == "informing":
            self.next_life(client, True, self.now_us)
        else:
            client.lives += 1
            self.come_back(client, self.now_us)

    def renewal_silence(self, client: Client) -> None:
        most: float = self.config.patience.request_tries
        tick, ends = self.now_us // TICK_US, NEVER
        if client.hold is not None:
            ends = client.leased + self.life_ticks(
                client.t2_s if client.state == "renewing" else client.lease_s)
            if self.config.patience.backoff_s:
                most = NEVER
        if tick < ends and not self.stopped and self.repeats(client, most):
            return
        self.leg_ends(client, "lost")
        client.state = "bound"
        if client.hold is None:
            self.settle(client, self.now_us)
        else:
            self.arm(client, int(max(min(ends, client.hold), tick + 1)))

    # What the plan wants.

    def serve_pool(self, renewals: int, releases: int) -> list[int]:
        """Returns what found no room: renewals, releases."""
        orders = ["renew"] * renewals + ["release"] * releases
        while orders and not self.stopped and self.room:
            order = orders.pop(0)
            while self.pool:
                client = self.pool.popleft()
                client.pooled = False
                if client.state == "bound" and client.hold is None and client.address:
                    break
            else:
                self.counts[f"nobody_to_{order}"] += 1
                continue
            if order == "renew":
                self.begin_leg(client, "renewing", self.now_us)
            else:
                self.release(client)
                client.state = "left"
        return [orders.count("renew"), orders.count("release")]

    def begin_some(self, intended_us: list[int], limit: int) -> None:
        plan = self.config.plan
        closed = isinstance(plan, ClosedLoop)
        due = (plan.window - self.counts["in_flight"] if isinstance(plan, ClosedLoop)
               else len(intended_us))
        for i in range(min(due, self.config.exchanges - self.begun, limit)):
            if self.stopped:
                return
            client = self.next_free()
            meant_us = self.now_us if closed else intended_us[i]
            if client is None or not self.begin(client, meant_us):
                return
            client.lives = 0
            self.counts["missed"] += self.now_us - meant_us > MISSED_US
            self.counts["started"] += 1
            self.begun += 1
            self.next_row = (client.row + 1) % len(self.clients)

    def next_free(self) -> Client | None:
        for _ in self.clients:
            client = self.clients[self.next_row]
            settled = client.state == "bound" and client.hold is None
            if not client.says and (settled or client.state in IDLE):
                return client
            self.next_row = (self.next_row + 1) % len(self.clients)
        return None


def counted(twin: Twin) -> dict[str, Any]:
    """What the twin counted, without zeros."""
    return {name: count for name, count in twin.counts.items() if count}
