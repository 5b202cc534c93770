"""What clients do once they have an address, by name: `--behaviour flap`, `--mix stay=9,leave=1`.

A behaviour is a few numbers that kernels read; a new one is a row of BEHAVIOURS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastpath.errors import UserError
from tester.cells import (
    E_DECLINE,
    E_EXPIRE,
    E_HANDOVER,
    E_INFORM,
    E_LEAVE,
    E_REBOOT,
    E_RELEASE,
    E_STAY,
    O_BIND,
    O_LOOK,
    O_MALFORMED,
)
from tester.malformations import KINDS, NAMES

ENDLESS = 0
# In a mix; shares far beyond would not add up any more.
_MOST_SHARE = 1e9


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A client's life.

    opening: O_BIND, O_LOOK or O_MALFORMED + kind. hold_s: how long a lease is held, renewed at
    T1 and T2 where `renews`; inf: for ever. ending: what follows. return_s: how long a client
    is away. lives: how often all this happens; ENDLESS.
    """

    name: str
    opening: int = O_BIND
    hold_s: float = 0.0
    renews: bool = True
    ending: int = E_STAY
    return_s: float = 1.0
    lives: int = 1


@dataclass(frozen=True, slots=True)
class Times:
    """--hold, --return-after and --cycles; None where not given."""

    hold_s: float | None = None
    return_s: float | None = None
    cycles: int | None = None

    def lives(self, default: int) -> int:
        """Who is told when to come back comes back once, if not told how often."""
        if self.cycles is not None:
            return self.cycles
        return max(default, 2) if self.return_s is not None else default


def _life(name: str, ending: int, *, hold_s: float = 0.0, lives: int = 1,
          ) -> Callable[[Times], Behaviour]:
    def made(times: Times) -> Behaviour:
        return Behaviour(
            name, ending=ending, hold_s=hold_s if times.hold_s is None else times.hold_s,
            return_s=1.0 if times.return_s is None else times.return_s, lives=times.lives(lives))

    return made


def _expire(times: Times) -> Behaviour:
    return Behaviour("expire", hold_s=math.inf, renews=False, ending=E_EXPIRE,
                     return_s=times.return_s or 0.0, lives=times.lives(2))


def _cycled(name: str, ending: int) -> Callable[[Times], Behaviour]:
    """A behaviour in which nobody goes away, so that `return_s` has no meaning."""

    def made(times: Times) -> Behaviour:
        return Behaviour(name, ending=ending, hold_s=times.hold_s or 0.0,
                         lives=1 if times.cycles is None else times.cycles)

    return made


# name: (what it is, how it is made)
BEHAVIOURS: dict[str, tuple[str, Callable[[Times], Behaviour]]] = {
    "stay": ("bind, hold the lease for --hold, renewing it at T1 and T2, and keep it",
             _cycled("stay", E_STAY)),
    "discover-only": ("DISCOVER and OFFER, nothing more",
                      lambda times: Behaviour("discover-only", opening=O_LOOK)),
    "release": ("bind, hold, RELEASE", _life("release", E_RELEASE)),
    "leave": ("bind, hold, go away without a word", _life("leave", E_LEAVE)),
    "flap": ("bind, hold, RELEASE and come back, three times",
             _life("flap", E_RELEASE, hold_s=1.0, lives=3)),
    "decline": ("bind, DECLINE the address, wait ten seconds, bind again",
                _cycled("decline", E_DECLINE)),
    "reboot": ("bind, hold, ask for the same address again (INIT-REBOOT)",
               _cycled("reboot", E_REBOOT)),
    "inform": ("bind, hold, INFORM", _cycled("inform", E_INFORM)),
    "expire": ("bind, let the lease run out, come back", _expire),
    "handover": ("bind, hold, RELEASE; then another client asks for that address until it gets "
                 "it, which tells when it was free", _cycled("handover", E_HANDOVER)),
}
STAY = BEHAVIOURS["stay"][1](Times())


def malformed(name: str) -> Behaviour:
    """A client that says something malformed, and expects silence."""
    if name not in KINDS:
        raise UserError(f"no malformation is called {name!r}",
                        f"one of: {', '.join(row.name for row in NAMES)}")
    return Behaviour(f"malformed {name}", opening=O_MALFORMED + KINDS[name])


def parse_mix(text: str, times: Times) -> tuple[tuple[Behaviour, float], ...]:
    """`stay=70,release=20,leave=10` as behaviours with their shares, which add up to 1.

    Raises UserError naming the part that is wrong.
    """
    shares: list[tuple[Behaviour, float]] = []
    for part in text.split(","):
        name, given, number = part.partition("=")
        name = name.strip()
        if name not in BEHAVIOURS:
            raise UserError(f"no behaviour is called {name!r}", f"one of: {', '.join(BEHAVIOURS)}")
        if any(known.name == name for known, _ in shares):
            raise UserError(f"behaviour {name!r} comes twice", "give each one share")
        shares.append((BEHAVIOURS[name][1](times), _share(number if given else "1", part)))
    return balanced(shares)


def _share(text: str, part: str) -> float:
    try:
        share = float(text.strip().removesuffix("%"))
    except ValueError:
        share = -1.0
    if not 0 <= share <= _MOST_SHARE:
        raise UserError(f"{part.strip()!r}: {text!r} is no share", "write stay=70,release=30")
    return share


def balanced(shares: list[tuple[Behaviour, float]]) -> tuple[tuple[Behaviour, float], ...]:
    """Shares that add up to 1."""
    total = sum(share for _, share in shares)
    if total <= 0:
        raise UserError("all shares are 0", "write stay=70,release=30")
    return tuple((behaviour, share / total) for behaviour, share in shares if share)
