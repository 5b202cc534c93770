"""Sums that close in every result document, and between it and what the server counted.

The one thing to know: nothing here knows what happened. A leg that is counted twice, or an
answer that is in no class, breaks a sum whatever the test was about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]

# Legs by the type of their message.
LEGS_OF = {"discover": ("discover",), "request": ("request", "reboot", "renew", "rebind"),
           "inform": ("inform",), "release": ("release",), "decline": ("decline",)}
UNANSWERED = ("release", "decline")
REPLIES = ("offer", "ack", "nak")


def counted(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not 0 and not empty."""
    return {name: count for name, count in entries.items() if count}


def lost(document: Document, *legs: str) -> int:
    """How many legs of these names got no answer."""
    return int(sum(document["legs"][leg]["lost"] for leg in legs))


def again(document: Document, *legs: str) -> int:
    """How many transmissions of these legs got no answer in time: sent again, or given up."""
    repeated: int = sum(document["legs"][leg]["retransmitted"] for leg in legs)
    return lost(document, *legs) + repeated


def check_document(document: Document) -> None:
    """Every sum of one result document."""
    legs, messages, answers = document["legs"], document["messages"], document["answers"]
    for kind, names in LEGS_OF.items():
        assert messages[kind]["sent"] == sum(legs[name]["sent"] for name in names), kind
        for name in names:
            _check_leg(name, legs[name])
    for kind in REPLIES:
        assert messages[kind]["received"] == sum(answers[kind].values()), kind
    refused = sum(leg.get("refused", 0) for leg in legs.values())
    assert document["errors"]["nak"] == answers["nak"]["accepted"] == refused
    taken = answers["offer"]["accepted"] + answers["ack"]["accepted"]
    answered = sum(leg.get("answered", 0) for leg in legs.values())
    # Who asks for the address that he gave back takes the offer of another one for an answer.
    assert taken <= answered <= taken + answers["offer"]["not_chosen"]
    for kind in REPLIES:
        heard = sum(server[f"{kind}s"] for server in document["servers"])
        received, strange = messages[kind]["received"], answers[kind]["unknown_xid"]
        assert received - strange <= heard <= received, kind
    exchanges, errors = document["exchanges"], document["errors"]
    assert (exchanges["started"] + exchanges["returned"]
            == exchanges["completed"] + exchanges["failed"] + exchanges["in_flight"])
    assert errors["malformed"] == sum(errors["malformed_by_reason"].values())
    for name, kind in (("duplicate_answer", "duplicate"), ("late", "late"),
                       ("unknown_xid", "unknown_xid"), ("wrong_server", "wrong_server"),
                       ("wrong_address", "wrong_address"), ("unexpected_answer", "unexpected")):
        assert errors[name] == sum(answers[reply][kind] for reply in REPLIES), name


def _check_leg(name: str, leg: Mapping[str, int]) -> None:
    assert min(leg.values()) >= 0, name
    if name in UNANSWERED:
        assert leg["retransmitted"] == leg["lost"] == 0, name
        return
    ended = leg["answered"] + leg["refused"] + leg["lost"] + leg["ignored"] + leg["open"]
    assert leg["sent"] - leg["retransmitted"] == ended, name


def check_both(document: Document, stats: Mapping[str, Any]) -> None:
    """What one sent the other received, but for what a ring of our own had no room for."""
    check_document(document)
    messages = document["messages"]
    # Malformed, or meant for another server.
    refused = sum(stats["refused"].values()) + stats["elsewhere"]
    assert stats["rx_ring_drops"] == document["losses"]["rx_ring"] == 0
    sent = {kind: messages[kind]["sent"] for kind in LEGS_OF}
    arrived = {kind: stats["received"][kind] for kind in LEGS_OF}
    assert sum(sent.values()) == sum(arrived.values()) + refused
    if not refused:
        assert sent == arrived
    answers = {kind: stats["sent"][kind] for kind in REPLIES}
    received = {kind: messages[kind]["received"] for kind in REPLIES}
    malformed = document["errors"]["malformed"]
    assert sum(answers.values()) == sum(received.values()) + malformed
    if not malformed:
        assert answers == received
