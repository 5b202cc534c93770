"""The server in a hostile network: damaged and invented frames of many clients, one by one.

`Served.ask` proves of each that nothing was written outside the reply; here it is held that a
reply is sound, is the client's own, and gives nobody what another has.
"""

from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256
from ipaddress import IPv4Address

import numpy as np

from fastpath.errors import UserError
from fastpath.faultmodel import FAULT_KINDS, Fault
from fastpath.message import Message
from fastpath.wire import MessageType
from server.leases import BOUND, OFFERED
from tests.frames import repaired, twin
from tests.kernels import COMPILED, several, wraps
from tests.serving import SERVER, Answer, Served, framed, request

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
FRAMES, CLIENTS, SECOND = several(20_000, 400), 60, 20
Identity = tuple[object, ...]


def identity(message: Message) -> Identity:
    """RFC 2131 section 4.2."""
    if 61 in message.options:
        return (message.options[61],)
    return message.htype, message.chaddr


def invented(chance: random.Random) -> Message:
    """A message that one of some clients might send in some state."""
    number = chance.randrange(CLIENTS)
    options: dict[int, bytes] = {}
    if chance.random() < 0.6:
        options[50] = IP(0xC0000208 + chance.randrange(100)).packed
    if chance.random() < 0.4:
        options[54] = chance.choice([SERVER, SERVER, IP("192.0.2.2")]).packed
    if number % 3 == 0:
        options[61] = bytes([0, number]) * chance.choice([1, 15, 16, 150])
    if chance.random() < 0.5:
        options[55] = chance.choice([b"\1\3\6\x1c", b"\6", b"\x0f\1", bytes(range(1, 200))])
    if chance.random() < 0.2:
        options[57] = chance.randrange(65536).to_bytes(2, "big")
    if chance.random() < 0.1:
        options[80] = b""
    if chance.random() < 0.2:
        options[51] = chance.randrange(1 << 32).to_bytes(4, "big")
    if chance.random() < 0.1:
        options[118] = chance.choice([IP("192.0.2.0"), IP("10.1.1.0")]).packed
    if chance.random() < 0.3:
        options[82] = b"\1" + chance.randbytes(chance.choice([3, 40, 253, 400]))
    elif chance.random() < 0.2:
        parts = [b"\5\4" + IP("192.0.2.0").packed, b"\x0b\4" + IP("192.0.2.2").packed, b"\2\0",
                 b"\1\3abc", b"\5\3\0\0\0", b"\x0b\5\0\0\0\0\0"]
        options[82] = b"".join(chance.sample(parts, chance.randrange(1, 4)))
    kind = chance.choice([DISCOVER, DISCOVER, REQUEST, REQUEST, REQUEST, RELEASE, DECLINE, INFORM])
    return request(
        kind, bytes([2, 0, 0, 0, 0, number]), xid=chance.randrange(1 << 32), options=options,
        flags=chance.choice([0, 0x8000]), hops=chance.randrange(3),
        giaddr=chance.choice([IP(0), IP(0), IP("192.0.2.200"), IP("10.1.1.1")]),
        ciaddr=chance.choice([IP(0), IP(0xC000020A + chance.randrange(90)), IP("10.3.3.3")]))


def server_of(asked: Message) -> bytes:
    """RFC 5107: the relay's word, if it is the first of its code and four octets; else ours."""
    # Without giaddr no relay has spoken.
    info, at = asked.options.get(82, b"") if int(asked.giaddr) else b"", 0
    while at + 2 <= len(info) and at + 2 + info[at + 1] <= len(info):
        if info[at] == 11:
            return info[at + 2:at + 6] if info[at + 1] == 4 else SERVER.packed
        at += 2 + info[at + 1]
    return SERVER.packed


def encoded(chance: random.Random, message: Message) -> bytes:
    """In octets; sometimes with options in `file` and `sname` because they just do not fit."""
    whole = message.encode()
    try:
        return message.encode(max_size=len(whole) - chance.choice([0, 0, 20, 120, 180]))
    except UserError:
        return whole


def damaged(chance: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 3, 8])):
        at = chance.choice([chance.randrange(len(made)), chance.randrange(282, len(made)),
                            chance.randrange(42, 86)])
        made[at] = chance.choice([0, 1, 52, 53, 55, 61, 82, 255, chance.randrange(256)])
    if chance.random() < 0.05:
        del made[chance.randrange(len(made)):]
    return repaired(bytes(made), udp=True) if chance.random() < 0.9 and len(made) > 42 \
        else bytes(made)


class Watcher:
    """Who was given what. An address is somebody's until he may have given it up."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.acked: dict[IPv4Address, Identity] = {}
        self.seen: Counter[str] = Counter()

    def see(self, asked: Message, answer: Answer | None) -> None:
        who = identity(asked)
        if asked.type in (RELEASE, DECLINE):
            self.acked = {address: owner for address, owner in self.acked.items() if owner != who}
        if answer is None:
            self.seen["silence"] += 1
            return
        reply, kind = answer.message, answer.message.type
        self.seen[kind.name if kind else "?"] += 1
        assert (reply.op, reply.xid, reply.htype, reply.hlen, reply.chaddr, reply.giaddr) == (
            2, asked.xid, asked.htype, asked.hlen, asked.chaddr, asked.giaddr)
        assert reply.options.get(61) == asked.options.get(61)
        assert reply.options.get(82) == asked.options.get(82)
        assert 82 not in answer.main_codes or answer.main_codes[-1] == 82
        assert 82 in answer.main_codes or 82 not in reply.options
        assert reply.options[54] == server_of(asked)
        assert reply.options.get(118) == (None if 118 not in answer.codes else asked.options[118])
        assert (80 in reply.options) == (kind == ACK and asked.type == DISCOVER)
        assert (answer.frame.src_ip, reply.siaddr) == (SERVER, IP(0))
        assert kind in {DISCOVER: {OFFER, ACK}, REQUEST: {ACK, NAK},
                        INFORM: {ACK}}[asked.type or ACK]
        if kind == NAK or asked.type == INFORM:
            assert reply.yiaddr == IP(0) and 51 not in reply.options
            return
        self.own(who, reply.yiaddr, kind == ACK)

    def own(self, who: Identity, address: IPv4Address, bound: bool) -> None:
        leases, pool = self.server.leases, self.server.resolved.subnets[0].pools[0]
        assert pool.start <= address <= pool.end
        row = int(address) - int(pool.start)
        assert self.acked.get(address, who) == who, f"{address} is another's"
        assert leases.state[row] in ((BOUND,) if bound else (OFFERED, BOUND))
        if bound:
            self.acked = {at: owner for at, owner in self.acked.items() if owner != who}
            self.acked[address] = who


def test_hostile_frames() -> None:
    chance = random.Random(20260131)
    server = Served({"offer_hold_s": 5, "lease_time_s": 1 << 30, "decline_hold_s": 10,
                     "rapid_commit": True})
    watcher = Watcher(server)
    reasons: Counter[str] = Counter()
    for i in range(FRAMES):
        server.now_s = i // SECOND
        message = invented(chance)
        payload = encoded(chance, message)
        vlans = chance.choice([(), (), (7,), (7, 8)])
        data = damaged(chance, framed(payload, vlans=vlans, src_mac=bytes([2, 1]) + bytes(4)))
        outer = chance.choice([None, None, None, 0x81000005])
        ready = chance.random() < 0.7
        before = server.refused()
        answer = server.ask(data, outer=outer, checksum_ready=ready)

        outcome = twin(data, int(outer is not None), ready)
        reason = outcome.reason
        # The server hears port 67 only.
        if reason == "ok" and outcome.payload:
            at, size = outcome.payload
            asked = Message.decode(data[at:at + size])
            to_server = data[at - 6:at - 4] == b"\0\x43"
            if not to_server:
                reason = "not_dhcp"
            elif not 1 <= asked.options.get(53, b"\0")[0] <= 18:
                reason = "no_message_type"
        reasons[reason] += 1
        if reason != "ok":
            assert answer is None
            refused = Counter(server.refused()) - Counter(before)
            # What is not for us is not looked into any further.
            assert refused in ({reason: 1}, {}), (reason, refused)
            continue
        assert not Counter(server.refused()) - Counter(before)
        watcher.see(asked, answer)
    known = server.leases.identity
    used = [row.tobytes() for row in known[known[:, 0] != 0]]
    assert len(set(used)) == len(used)
    if COMPILED:
        assert min(watcher.seen[kind.name] for kind in (OFFER, ACK, NAK)) > 500, watcher.seen
        assert len(reasons) > 6, reasons


def test_noise() -> None:
    """Octets that mean nothing, behind as much sound header as makes them matter."""
    chance = random.Random(7)
    server = Served()
    start = framed(request(DISCOVER).encode())
    for _ in range(several(3000, 200)):
        keep = chance.choice([0, 12, 14, 18, 34, 42, 44, 282])
        noise = chance.randbytes(chance.randrange(500))
        data = start[:keep] + noise
        if keep >= 34:
            size = len(data) - 14
            data = data[:16] + size.to_bytes(2, "big") + data[18:]
            if len(data) > 42:
                data = data[:38] + (size - 20).to_bytes(2, "big") + data[40:]
                data = repaired(data, udp=True)
        server.ask(data, checksum_ready=chance.random() < 0.5)
    assert sum(server.refused().values()) > several(2000, 130)
    assert int(server.leases.identity.any(axis=1).sum()) <= sum(server.sent().values())


def test_a_flood_of_clients_takes_offers_and_nothing_else() -> None:
    """More clients than addresses: those that are left over are told nothing, and counted."""
    server = Served({"end": IP("192.0.2.29"), "offer_hold_s": 5})
    clients = several(500, 60)
    offers = [server.ask(request(DISCOVER, bytes([2, 9, 0, 0, i >> 8, i & 255])))
              for i in range(clients)]
    addresses = [offer.message.yiaddr for offer in offers if offer]
    assert addresses == [IP(int(IP("192.0.2.10")) + i) for i in range(20)]
    assert server.causes() == {"ok": 20, "no_free_address": clients - 20}
    server.now_s = 7
    late = request(DISCOVER, b"\2later")
    assert server.must(late).message.yiaddr == IP("192.0.2.10")


def test_frames_as_large_as_a_slot() -> None:
    server = Served()
    for size in range(1300, 1680, 7):
        options = {61: bytes(size // 2), 82: bytes(size - size // 2)}
        answer = server.ask(request(DISCOVER, options=options))
        assert answer is None or len(answer.octets) <= 1514
    assert np.count_nonzero(server.leases.state) > 0


# --- nobody hears what another said --------------------------------------------------------------

# Damage does not turn one of these into another.
SECRETS = [sha256(bytes([number])).digest()[:12] for number in range(60)]
KINDS = (DISCOVER, DISCOVER, REQUEST, REQUEST, INFORM, RELEASE, DECLINE)


def talkative(chance: random.Random, number: int) -> bytes:
    """A message that says its client's secret wherever there is room for it."""
    mine, mac = SECRETS[number], bytes([2, 0, 0, 0, 0, number])
    codes = chance.sample([12, 43, 60, 61, 77, 81, 82, 125, 200, 254], chance.randrange(6))
    options = {code: mine * chance.choice([1, 1, 3, 15, 30]) for code in codes}
    if 82 in options:
        options[82] = b"\1" + bytes([len(mine)]) + mine + chance.choice([b"", mine, mine * 9])
    options[55] = bytes(chance.sample(range(1, 255), 40)) + b"\x2b\x3c\x51\x7d\xc8\xfe"
    options[57] = chance.choice([b"\2\x40", b"\5\xdc"])
    options[50] = IP(0xC000020A + number % 80).packed
    kind = chance.choice(KINDS)
    if kind == REQUEST and chance.random() < 0.7:
        options[54] = SERVER.packed
    message = request(
        kind, mac, options=options,
        sname=mine * chance.randrange(6), file=mine * chance.randrange(11),
        ciaddr=IP(0xC000020A + number % 80) if kind in (INFORM, RELEASE) else IP(0),
        giaddr=IP("192.0.2.200") if 82 in options else IP(0))
    if chance.random() < 0.1:
        del message.options[53]
    data = framed(encoded(chance, message))
    if chance.random() < 0.3:
        data = damaged(chance, data)
        # Who it is from stays true.
        data = data[:70] + mac + data[76:] if len(data) > 76 else data
    return data


def test_nobody_hears_what_another_said() -> None:
    """Not by scratch memory, not by slots used again, not by replies that wait or are spoilt."""
    chance = random.Random(77)
    faults = tuple(Fault(kind, rate=0.2, delay_s=0.001, jitter_s=0.002, option=option)
                   for kind in FAULT_KINDS for option in (51, 61, 82) if kind != "drop")
    many = {code: bytes([code % 100]) * 20 for code in range(128, 150)}
    server = Served({"faults": faults, "options": many, "offer_hold_s": 3, "bootp": True})
    heard: Counter[int] = Counter()
    for i in range(several(4000, 500)):
        server.now_s, server.now_us = i // 10, i * 700
        frames = [talkative(chance, chance.randrange(60)) for _ in range(chance.randrange(4))]
        for octets in server.batch(*frames, slots=chance.choice([1, 4, 8])):
            payload = octets[42:]
            # Canaries would be what a slot held before.
            assert b"\xa5\xa5\xa5" not in payload
            owner = payload[33]
            said = {number for number, one in enumerate(SECRETS) if one in payload}
            assert said <= {owner}, f"{owner} hears of {said}"
            heard[owner] += bool(said)
            # Only options are echoed (RFC 6842, RFC 3046), never `file` and `sname`.
            assert not any(one in payload[:240] for one in SECRETS)
    assert len(heard) > 50 and sum(heard.values()) > several(1000, 100), heard
