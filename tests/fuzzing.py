"""A bounded fuzz run: frames of `tests.mutation` through `engine.serve`, every reply inspected.

The one thing to know: all memory of the server, slots included, lies in one arena with canaries
between any two arrays, so compiled code that leaves its arrays is found out.

    python -m tests.fuzzing --packets 10000000 --seed 1

A run repeats exactly for its seed but for the key of the server's hashes, which only decides
where a client stands in a table.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment, return-value"

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastpath import wire
from fastpath.delay import drop_all, make_delay
from fastpath.errors import Malformed
from fastpath.faultmodel import FAULT_KINDS as FAULTS
from fastpath.faults import CORRUPT, F_KIND, F_OPTION, MISSING
from fastpath.frame import make_options
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.slots import (
    G_HEAD,
    H_LEN,
    H_MAC,
    H_SNAPLEN,
    RX_USER,
    TX_AVAILABLE,
    make_slots,
)
from server import decide
from server.arrays import MOST_BATCH, PEN_RECORDS, PEN_USED, Pen
from server.engine import serve
from server.leases import BOUND
from server.outgoing import take_back
from server.places import row_at
from server.record import MOST_RECORD, count_records
from server.reply import L_ANY, L_TO_SENDER
from tests.arena import CANARY, Arena
from tests.fuzz_world import CLIENTS, IP, NETWORKS, ORDERLY, SPOILING, configuration, seeds
from tests.inspection import DOUBTS, REPLY_ENDS, TX_FULL, TX_SLOTS, fill, inspect
from tests.leasing import check
from tests.mutation import MARK, SLOT_NUMBERS, make_chance
from tests.serving import LEAD, RX_FRAME, TX_FRAME, Served, framed, request

_CHADDR = wire.CHADDR
DELAY_ROWS, PEN_SIZE, KEPT = 16, MOST_RECORD + 256, 24
_BATCH_US, _BATCHES_A_SECOND, _BATCHES_A_PHASE, _BATCHES_A_LOOK, _BATCHES_A_CHECK = (
    8000, 8, 64, 16, 2048)

# What the policy is for a while, in turn.
_PHASES: tuple[dict[int, int], ...] = (
    {}, {decide.P_RELAY: 0}, {}, {decide.P_STORING: 0}, {decide.P_MAX_CONCURRENT: 3}, {},
    {decide.P_AUTHORITATIVE: 0}, {decide.P_BOOTP: 0}, {decide.P_RAPID_COMMIT: 0}, {},
    {decide.P_MAX_HOPS: 0, decide.P_BOOTP: 0})
# What faults of SPOILING may make wrong with a reply.
_SPOILT = {"xid", "options", "client_id", "relay"}


@dataclass
class Report:
    """What a run came to; counts by name, `memory_growth_kib` of the process."""

    packets: int = 0
    replies: int = 0
    seconds: float = 0.0
    memory_growth_kib: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    doubts: Counter[str] = field(default_factory=Counter)
    hits: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.packets / max(self.seconds, 1e-9)
        lines = [f"{self.packets:,} packets in {self.seconds:.1f} s ({rate:,.0f}/s), "
                 f"{self.replies:,} replies, memory {self.memory_growth_kib:+,} KiB"]
        for name in ("refused", "causes", "received", "sent", "doubts", "hits"):
            lines.append(f"  {name}: " + ", ".join(f"{key} {count:,}" for key, count in getattr(
                self, name).items()))
        return "\n".join(lines)


def _memory_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


class Run:
    """One server and hostile frames for it.

    spoiling: it makes its replies wrong on purpose. udp: it answers as on a socket for all our
    addresses, where replies go back to whoever sent the request.
    """

    def __init__(self, seed: int, spoiling: bool = False, udp: bool = False) -> None:
        self._served = Served(configuration(SPOILING if spoiling else ORDERLY, seed))
        # Little room, so that it is used up.
        pen = Pen(np.zeros(PEN_SIZE, np.uint8), np.zeros(2, np.int64))
        tables = self._served.tables._replace(delay=make_delay(DELAY_ROWS), pen=pen)
        rx = make_slots(np.zeros(SLOT_NUMBERS * SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
        tx = make_slots(np.full(TX_SLOTS * SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, TX_FRAME,
                        LEAD)
        plan = seeds()
        self.arena = Arena((tables, self._served.link, rx, tx, plan, make_options(),
                            make_options()))
        (self.tables, self._link, self.rx, self.tx, self._plan, self._asked,
         self._said) = self.arena.tree
        self._served.tables = self.tables
        self._link.numbers[[L_ANY, L_TO_SENDER]] = udp
        self._policy = self.tables.world.policy.copy()
        self._policy[decide.P_JOURNAL] = 1
        self.tables.world.policy[:] = self._policy
        self._status = self.tx.words[::SLOT_SIZE // 4]
        self._status[:] = TX_FULL
        self._chance = make_chance(seed)
        self._doubts = np.zeros(TX_SLOTS, np.int64)
        self._spoiling = spoiling
        # The next frame to be made, the next to be read, batches so far.
        self._made = self._read = self._batches = 0
        self.report = Report()
        self._kept = self._bind_kept()

    # Clients who have their leases before it all begins, and must have them at the end.

    def _bind_kept(self) -> dict[int, bytes]:
        giaddr, first, _ = NETWORKS[-1].tolist()
        kept = {}
        for i in range(KEPT):
            # Some of these are what hostile clients (3, 7, 11, ...) ask for again and again.
            address = first + 3 + 8 * i
            row = int(row_at(self.tables.world.places, self.tables.world.leases, address))
            asked = request(3, bytes([2, 9, 9, 9, 9, i]), ciaddr=IP(address), giaddr=IP(giaddr))
            while self.tables.world.leases.state[row] != BOUND:
                self._feed(framed(asked))
            kept[row] = self.tables.world.leases.identity[row].tobytes()
        # These frames have no numbers by which late answers would be known.
        drop_all(self.tables.delay)
        return kept

    def _feed(self, data: bytes) -> None:
        """One frame as it is, whatever is answered."""
        base = self._made % SLOT_NUMBERS * SLOT_SIZE
        self.rx.mem[base + RX_FRAME:base + RX_FRAME + len(data)] = np.frombuffer(data, np.uint8)
        self.rx.words[(base + H_SNAPLEN) >> 2] = len(data)
        self.rx.halves[(base + H_MAC) >> 1] = RX_FRAME
        self.rx.words[base >> 2] = RX_USER
        self._made += 1
        self._status[:] = TX_AVAILABLE
        read, _ = serve(self.rx, self.tx, self.tables, self._link, 0, 0, 0, 1)
        assert read == 1
        self._read += 1
        self._status[:] = TX_FULL
        self._empty_pen()

    def _empty_pen(self) -> None:
        pen = self.tables.pen
        used, records = pen.state[PEN_USED], pen.state[PEN_RECORDS]
        assert count_records(pen.mem, used) == records, "records that are not sound"
        pen.state[:] = 0

    # One batch.

    def go(self, packets: int) -> Report:
        """Serve `packets` more frames and look at everything; AssertionError says what is wrong."""
        began, target, memory_kib = time.perf_counter(), self._read + packets, 0
        start = self._read
        while self._read < target:
            self._batch(min(MOST_BATCH, target - self._read))
            if not memory_kib and self._read - start > packets // 10:
                self._check_leases()
                memory_kib = _memory_kib()
        self._look_around()
        self._check_leases()
        report = self.report
        report.memory_growth_kib = _memory_kib() - memory_kib
        report.seconds += time.perf_counter() - began
        report.packets += packets
        served = self._served
        report.refused, report.causes = served.refused(), served.causes()
        report.received, report.sent = served.received(), served.sent()
        report.hits = self._hits()
        return report

    def _hits(self) -> dict[str, int]:
        """How often each fault came true, by kind and option."""
        hits: Counter[str] = Counter()
        faults = self.tables.faults
        for rule, count in zip(faults.rules.tolist(), faults.hits.tolist(), strict=True):
            option = f" {rule[F_OPTION]}" if rule[F_KIND] in (MISSING, CORRUPT) else ""
            hits[FAULTS[rule[F_KIND]] + option] += count
        return dict(hits)

    def _batch(self, most: int) -> None:
        if self._batches % _BATCHES_A_PHASE == 0:
            self.tables.world.policy[:] = self._policy
            for cell, value in _PHASES[self._batches // _BATCHES_A_PHASE % len(_PHASES)].items():
                self.tables.world.policy[cell] = value
        self._batches += 1
        looking = self._batches % _BATCHES_A_LOOK == 0
        count = most - (self._made - self._read)
        fill(self._plan, NETWORKS, CLIENTS, self.rx, self._made, count, self._chance)
        self._made += count
        first = int(self.tx.geometry[G_HEAD])
        # A ring that is full makes the server stop in the middle of a batch.
        room = (first + np.arange(7 if looking else TX_SLOTS)) % TX_SLOTS
        self._status[room] = TX_AVAILABLE
        slots = self.rx.mem.reshape(SLOT_NUMBERS, SLOT_SIZE)
        waiting = np.arange(self._read, self._made) % SLOT_NUMBERS
        before = slots[waiting] if looking else None
        now_s, now_us = self._batches // _BATCHES_A_SECOND, self._batches * _BATCH_US
        read, sent = serve(self.rx, self.tx, self.tables, self._link, now_s, now_us,
                           now_us * 1000, most)
        self._read += int(read)
        self._empty_pen()
        if before is not None:
            # But for the status, by which slots are given back.
            unchanged = before[:, 4:] == slots[waiting, 4:]
            assert unchanged.all(), "written into what was received"
        if self._batches % 97 == 0:
            # The disk is full: nobody hears anything of this batch.
            take_back(self.tx, self.tables, sent)
        else:
            self._inspect(first, int(sent))
        self._status[self._status == TX_AVAILABLE] = TX_FULL
        assert (self._status == TX_FULL).all(), "more was sent than said"
        if looking:
            self._look_around()
        if self._batches % _BATCHES_A_CHECK == 0:
            self._check_leases()

    def _look_around(self) -> None:
        self.arena.check()
        slots = self.tx.mem.reshape(TX_SLOTS, SLOT_SIZE)
        assert (slots[:, REPLY_ENDS:] == CANARY).all(), "written behind a reply"
        assert (slots[:, H_LEN + 4:TX_FRAME] == CANARY).all(), "written before a reply"

    def _check_leases(self) -> None:
        leases = self.tables.world.leases
        check(leases, self.tables.world.wheel)
        for row, who in self._kept.items():
            assert leases.state[row] == BOUND, "a bound client lost his lease"
            assert leases.identity[row].tobytes() == who, "a lease went to another"

    # Replies.

    def _inspect(self, first: int, sent: int) -> None:
        doubts = self._doubts[:sent]
        inspect(self.rx, self.tx, first, sent, self._asked, self._said, self._doubts)
        self.report.replies += sent
        for i in np.flatnonzero(doubts).tolist():
            self._explain((first + i) % TX_SLOTS, int(doubts[i]))

    def _explain(self, slot: int, doubts: int) -> None:
        base = slot * SLOT_SIZE
        to = base + TX_FRAME + LEAD
        size = int(self.tx.words[(base + H_LEN) >> 2]) - LEAD
        reply = self.tx.mem[to:to + max(0, min(size, SLOT_SIZE))].tobytes()
        names = {name for i, name in enumerate(DOUBTS) if doubts >> i & 1}
        asked = self._asked_by(reply)
        if "secret" in names and self._is_own(reply, asked):
            names.remove("secret")
        allowed = _SPOILT if self._spoiling else set()
        self.report.doubts.update(names)
        assert names <= allowed, (f"{', '.join(sorted(names))} is wrong in\n{reply.hex()}\n"
                                  f"the answer to\n{asked.hex()}")

    def _asked_by(self, reply: bytes) -> bytes:
        try:
            payload = Frame.decode(reply).payload
        except Malformed:
            return b""
        base = int.from_bytes(payload[_CHADDR + 14:_CHADDR + 16], "big") % SLOT_NUMBERS * SLOT_SIZE
        length = int(self.rx.words[(base + H_SNAPLEN) >> 2])
        asked: bytes = self.rx.mem[base + RX_FRAME:base + RX_FRAME + length].tobytes()
        return asked

    def _is_own(self, reply: bytes, asked: bytes) -> bool:
        """Whether all secrets of a reply are in the request, or in options of it that are echoed.

        What was in pieces, is joined, or is cut off may look like a secret that it was not.
        """
        try:
            options = Message.decode(Frame.decode(asked, checksum_ready=False).payload).options
        except Malformed:
            return False
        echoes = [_in_pieces(code, options[code]) for code in (61, 118, 82) if code in options]
        found = [reply[at:at + 8] for at in range(len(reply) - 7) if reply.startswith(MARK, at)]
        return all(each in asked or any(each in echo or echo.endswith(tuple(
            each[:size] for size in range(3, 8))) for echo in echoes) for each in found)


def _in_pieces(code: int, value: bytes) -> bytes:
    return b"".join(bytes([code, len(value[at:at + 255])]) + value[at:at + 255]
                    for at in range(0, len(value), 255))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, share in (("orderly", 0.6), ("spoiling", 0.25), ("udp", 0.15)):
        run = Run(options.seed, name == "spoiling", name == "udp")
        print(f"{name}: {run.go(int(options.packets * share))}", flush=True)


if __name__ == "__main__":
    main()
