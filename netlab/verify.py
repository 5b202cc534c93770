"""What clients hold against what servers say that they gave: the two must be one.

Neither side is believed alone. A client that holds what no store knows will clash with the next
one; a lease that nobody holds is only waste.
"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# More clients than these are compared only when asked for: it takes a second each 200,000.
MOST_COMPARED = 250_000
_EXAMPLES = 8

Network = ipaddress.IPv4Network


@dataclass(frozen=True, slots=True)
class Held:
    """One client that ended bound. interface: where the tester emulated it, or ""."""

    chaddr: str
    address: str
    interface: str


def read_held(path: Path) -> Iterator[Held]:
    """The bound clients of a tester's --clients-csv file."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["outcome"] == "bound" and row["yiaddr"]:
                yield Held(row["chaddr"].lower(), row["yiaddr"], row.get("interface") or "")


def not_comparable(document: Mapping[str, Any], bound: int) -> str:
    """Why clients and stores need not agree at the end of this test, or ""."""
    messages = document.get("messages", {})
    for name in ("release", "decline"):
        if messages.get(name, {}).get("sent"):
            return f"clients sent {name.upper()}"
    if document.get("clients", {}).get("leases_lost"):
        return "clients lost leases during the test"
    if bound > MOST_COMPARED:
        return f"more than {MOST_COMPARED:,} clients"
    return ""


def compare(held: Iterable[Held], stores: Sequence[Mapping[str, str]],
            right: Mapping[str, Sequence[Network]]) -> dict[str, Any]:
    """Both sides as counts and a few examples.

    stores: {address: chaddr} a server. right: by interface, the networks whose addresses its
    clients should hold; no check where an interface is not in it. Returns {"clients", "agree",
    "missing", "differ", "unheld", "duplicates", "wrong_subnet", "examples"}: `missing` are
    addresses in no store, `differ` those that a store gave to another chaddr, `unheld` leases
    that no client holds, `duplicates` clients that hold another client's address.
    """
    kept: dict[str, set[str]] = {}
    for store in stores:
        for address, chaddr in store.items():
            kept.setdefault(address, set()).add(chaddr.lower())
    counts = dict.fromkeys(("clients", "agree", "missing", "differ", "unheld", "duplicates",
                            "wrong_subnet"), 0)
    examples: list[str] = []
    owners: dict[str, str] = {}
    for each in held:
        counts["clients"] += 1
        for wrong in _wrongs(each, kept, owners, right):
            counts[wrong] += 1
            if wrong != "agree" and len(examples) < _EXAMPLES:
                examples.append(_said(wrong, each, kept, owners))
        owners.setdefault(each.address, each.chaddr)
    counts["unheld"] = sum(address not in owners for address in kept)
    return {**counts, "examples": examples}


def _wrongs(each: Held, kept: Mapping[str, set[str]], owners: Mapping[str, str],
            right: Mapping[str, Sequence[Network]]) -> Iterator[str]:
    if each.address in owners:
        yield "duplicates"
    networks = right.get(each.interface)
    if networks is not None:
        address = ipaddress.IPv4Address(each.address)
        if not any(address in network for network in networks):
            yield "wrong_subnet"
    if each.address not in kept:
        yield "missing"
    elif each.chaddr not in kept[each.address]:
        yield "differ"
    else:
        yield "agree"


def _said(wrong: str, each: Held, kept: Mapping[str, set[str]],
          owners: Mapping[str, str]) -> str:
    what = {
        "missing": "which no server's store has",
        "differ": f"which the store gives to {', '.join(sorted(kept.get(each.address, ())))}",
        "duplicates": f"as {owners.get(each.address)} does",
        "wrong_subnet": "which is of another segment",
    }[wrong]
    return f"{each.chaddr} holds {each.address}, {what}"


def sound(leases: Mapping[str, Any]) -> bool:
    """Whether nothing speaks against the servers. A lease that nobody holds does not: a client
    may have given up before the answer came."""
    return not any(leases.get(name) for name in ("missing", "differ", "duplicates",
                                                 "wrong_subnet"))


def line(leases: Mapping[str, Any]) -> str:
    """One line of a report."""
    if "why" in leases:
        return f"not compared: {leases['why']}"
    said = {"missing": "in no server's store", "differ": "given to others by the store",
            "duplicates": "held twice", "wrong_subnet": "of the wrong subnet",
            "unheld": "in the store but held by no client"}
    wrong = [f"{leases[name]:,} {words}" for name, words in said.items() if leases[name]]
    agree = f"{leases['agree']:,} of {leases['clients']:,} clients and the servers' store agree"
    return "; ".join([agree, *wrong])
