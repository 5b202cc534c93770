"""The relay once more, in plain words: what must leave when a frame is heard.

The one thing to know: nothing of `relay`'s kernels is used here, and nothing is fast. Options are
a list of (code, value) in the order of the wire.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from fastpath.errors import Malformed
from fastpath.packet import Frame
from relay.places import Place, Resolved

COOKIE = bytes([99, 130, 83, 99])
EVERYBODY = IPv4Address(0xFFFFFFFF)
Options = list[tuple[int, bytes]]
Sent = tuple[int, bytes]


class Discard(Exception):
    """Why a message is not relayed."""


def walk(field: bytes) -> tuple[Options, int]:
    """Options up to END, and where that stands; PAD is (0, b"")."""
    found: Options = []
    at = 0
    while at < len(field):
        code = field[at]
        if code == 255:
            return found, at
        if code == 0:
            found.append((0, b""))
            at += 1
            continue
        if at + 2 > len(field) or at + 2 + field[at + 1] > len(field):
            raise Discard("malformed")
        found.append((code, field[at + 2:at + 2 + field[at + 1]]))
        at += 2 + field[at + 1]
    return found, at


def wire(options: Options) -> bytes:
    return b"".join(b"\0" if code == 0 else bytes([code, len(value)]) + value
                    for code, value in options)


def joined(options: Options, code: int) -> bytes | None:
    """All pieces of an option as one (RFC 3396)."""
    parts = [value for each, value in options if each == code]
    return b"".join(parts) if parts else None


def blanked(field: bytes) -> bytes:
    """A field with PAD where option 82 stood."""
    options, end = walk(field)
    kept = b"".join(bytes(2 + len(value)) if code == 82 else wire([(code, value)])
                    for code, value in options)
    return kept + field[end:]


class Twin:
    """A relay of the same configuration. macs: of the next hops, None for not known."""

    def __init__(self, resolved: Resolved, macs: tuple[bytes | None, ...], up: int,
                 most: int = 1984) -> None:
        self.config, self.places = resolved.config, resolved.places
        self.macs, self.up, self.most = macs, up, most
        self.own = {each.ip for place in self.places for each in place.interface.addresses}
        self.own |= {place.giaddr for place in self.places if place.giaddr}
        self.casts = {each.network.broadcast_address for place in self.places
                      for each in place.interface.addresses} | {EVERYBODY}

    def hear(self, data: bytes, port: int, outer: int = -1,
             checksum_ready: bool = True) -> tuple[str, list[Sent]]:
        """(cause, (port, frame) of what leaves)."""
        try:
            return "relayed", self._hear(data, port, outer, checksum_ready)
        except Discard as why:
            return str(why), []

    def _hear(self, data: bytes, port: int, outer: int, checksum_ready: bool) -> list[Sent]:
        try:
            frame = Frame.decode(data, checksum_ready=checksum_ready, ports=(67,))
        except Malformed:
            raise Discard("malformed") from None
        tagged = frame.vlans or (outer >= 0 and outer & 0xFFF)
        if tagged or frame.dst_ip not in self.own | self.casts:
            raise Discard("elsewhere")
        said = frame.payload
        if len(said) < 240 or said[0] not in (1, 2) or said[2] > 16:
            raise Discard("malformed")
        main: Options = []
        end = len(said)
        everything: Options = []
        overload = 0
        if said[236:240] == COOKIE:
            main, at = walk(said[240:])
            end = 240 + at
            everything = list(main)
            over = joined(main, 52)
            overload = over[0] if over is not None and len(over) == 1 and 1 <= over[0] <= 3 else 0
            for bit, field in ((1, said[108:236]), (2, said[44:108])):
                if overload & bit:
                    # An option 52 in there means nothing.
                    everything += [each for each in walk(field)[0] if each[0] != 52]
            # Option 52 of another form stops the search, and what is in pieces stays so.
            if over is not None and not overload and len([1 for c, _ in main if c == 82]) > 1:
                everything = [(c, v if c != 82 else v + b"?" * 256) for c, v in main]
        agent = joined(everything, 82)
        kind = joined(everything, 53)
        number = kind[0] if kind is not None and len(kind) == 1 else 0
        body = main, end, overload
        if said[0] == 1:
            return self._request(said, body, agent, port)
        return self._reply(said, body, agent, port, number)

    def _request(self, said: bytes, body: tuple[Options, int, int], agent: bytes | None,
                 port: int) -> list[Sent]:
        place, config = self.places[port], self.config
        giaddr = IPv4Address(said[24:28])
        if not place.down:
            raise Discard("wrong_interface")
        if said[3] > config.max_hops:
            raise Discard("hops_exceeded")
        if int.from_bytes(said[8:10], "big") < config.min_secs:
            raise Discard("secs_below")
        if giaddr in self.own:
            raise Discard("giaddr_spoofed")
        first = giaddr == IPv4Address(0)
        add = remove = False
        if agent is not None:
            if first and not place.trusted and config.option82 != "keep":
                raise Discard("untrusted_option82")
            if config.option82 == "drop":
                raise Discard("option82_present")
            add = remove = config.option82 == "replace"
        elif first and config.option82 != "none" and said[236:240] == COOKIE:
            add = True
        if all(mac is None for mac in self.macs):
            raise Discard("no_next_hop")
        out = self.places[self.up]
        sent = []
        for server, mac in zip(config.servers, self.macs, strict=True):
            if mac is None:
                continue
            payload, added = self._rewritten(said, body, remove, place.option82 if add else b"",
                                             out)
            if payload is None:
                continue
            if first:
                new = out.address if place.selects and added else place.giaddr
                assert new is not None
                payload = payload[:24] + new.packed + payload[28:]
            payload = payload[:3] + bytes([payload[3] + 1]) + payload[4:]
            assert out.address is not None
            sent.append((self.up, Frame(out.interface.mac, mac, (), out.address, server, 67, 67,
                                        payload=payload).encode()))
        return sent

    def _reply(self, said: bytes, body: tuple[Options, int, int], agent: bytes | None, port: int,
               kind: int) -> list[Sent]:
        if not self.places[port].up:
            raise Discard("wrong_interface")
        giaddr = IPv4Address(said[24:28])
        fits = [i for i, place in enumerate(self.places) if place.down and (
            place.giaddr == giaddr or (place.selects and giaddr in self.own))]
        if not fits or giaddr == IPv4Address(0):
            raise Discard("unknown_giaddr")
        ours = [i for i in fits if agent is not None and self.places[i].option82[2:] == agent
                and self.places[i].option82]
        if not ours and len(fits) > 1:
            raise Discard("no_downlink")
        to = (ours or fits)[0]
        place = self.places[to]
        foreign = self.config.option82 == "replace" and agent is not None
        payload, _ = self._rewritten(said, body, bool(ours) or foreign, b"", place)
        if payload is None:
            return []
        ciaddr, yiaddr = IPv4Address(said[12:16]), IPv4Address(said[16:20])
        address, mac = ciaddr if int(ciaddr) else yiaddr, said[28:34]
        reachable = said[1] == 1 and said[2] == 6 and any(mac) and not mac[0] & 1
        if (said[10] & 0x80 or kind == 6 or not int(address) or not reachable
                or int(address) >= 0xE0000000):
            address, mac = EVERYBODY, b"\xff" * 6
        assert place.address is not None
        return [(to, Frame(place.interface.mac, mac, (), place.address, address, 67, 68,
                           payload=payload).encode())]

    def _rewritten(self, said: bytes, body: tuple[Options, int, int], remove: bool, add: bytes,
                   out: Place) -> tuple[bytes | None, bool]:
        """(the message as it leaves by `out`, None where it is too large; whether `add` is in)."""
        main, end, overload = body
        most = min(out.interface.mtu, self.most) - 28
        if not remove and not add:
            return (said.ljust(300, b"\0") if max(len(said), 300) <= most else None), False
        if max(end + 1, 300) > most:
            return None, False
        kept = wire([each for each in main if each[0] != 82])
        head = said[:240]
        if remove and overload & 1:
            head = head[:108] + blanked(head[108:236]) + head[236:]
        if remove and overload & 2:
            head = head[:44] + blanked(head[44:108]) + head[108:]
        fits = len(head) + len(kept) + len(add) + 1 <= most
        payload = head + kept + (add if fits else b"") + b"\xff"
        return payload.ljust(300, b"\0"), bool(add) and fits
