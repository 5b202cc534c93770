"""Why the verdict of a result document is what it is, and what to look at first.

Every way in which a test can miss a pass has a sentence here; strangers among the servers are
named whatever the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from tester import language
from tester.language import Language
from tester.result import INCOMPLETE, Document, own_limits

# Strangers that are named one by one.
_MOST_NAMED = 3
# The row of all servers that found no room in the table of the test, and a MAC not seen.
_OTHERS, _NO_MAC = "0.0.0.0", "00:00:00:00:00:00"


def begun(document: Document) -> int:
    """How many exchanges began, by the plan and by themselves."""
    exchanges: dict[str, int] = document["exchanges"]
    return exchanges["started"] + exchanges["returned"]


def _why_bound(words: Language, document: Document) -> Iterator[str]:
    for limit in own_limits(document):
        if limit == "rx_ring":
            yield words(language.RING_LOST, n=document["losses"]["rx_ring"])
        elif limit == "missed_starts":
            yield words(language.STARTS_MISSED, n=document["missed_starts"],
                        begun=document["exchanges"]["started"])
        else:
            yield words(language.CPU_FULL, busy=document["generator"]["busy_percent"])


def _why_cut(words: Language, document: Document) -> Iterator[str]:
    """What was not begun, and by whose will."""
    exchanges, errors = document["exchanges"], document["errors"]
    left = exchanges["planned"] - exchanges["started"]
    if document["interrupted"]:
        yield words(language.INTERRUPTED)
    if "--max-drop" in document["stopped"]:
        yield words(language.STOPPED,
                    n=errors["discover_timeout"] + errors["request_timeout"])
    elif document["stopped"]:
        yield document["stopped"]
    cut = document["interrupted"] or document["stopped"]
    if left > 0 and (cut or document["config"]["duration_s"] is None):
        yield words(language.NOT_BEGUN, n=left)
    if document["verdict"] == INCOMPLETE and not begun(document):
        yield words(language.NONE_BEGUN)


def _hint(words: Language, document: Document) -> str:
    """What to look at where nothing at all answers."""
    config = document["config"]
    if document["errors"]["malformed"]:
        return words(language.ONLY_MALFORMED)
    if interfaces := document.get("interfaces"):
        return words(language.SAME_SEGMENTS, n=len(interfaces))
    if config["from"] == "broadcast":
        return words(language.SAME_SEGMENT, interface=config["interface"])
    if config["from"] == "relay":
        return words(language.CHECK_ROUTE)
    if config["relays"]:
        return words(language.IS_IT_THERE, server=config["server"], port=config["server_port"])
    return words(language.TRY_RELAY)


def _why_lost(words: Language, document: Document) -> Iterator[str]:
    """What began and did not come to a good end."""
    exchanges, legs = document["exchanges"], document["legs"]
    if exchanges["failed"]:
        yield words(language.FAILED, n=exchanges["failed"])
    if exchanges["in_flight"]:
        yield words(language.STILL_WAITING, n=exchanges["in_flight"])
    for name, phrase in language.LOST_LEGS.items():
        if legs[name]["lost"]:
            yield words(phrase, n=legs[name]["lost"])
    if document["clients"]["leases_lost"]:
        yield words(language.LEASES_LOST, n=document["clients"]["leases_lost"])
    answers = sum(sum(kind.values()) for kind in document["answers"].values())
    asked = any(leg.get("lost") or leg.get("open") for leg in legs.values())
    if asked and not answers:
        yield words(language.NO_ANSWER, hint=_hint(words, document))


def reasons(words: Language, document: Document) -> Iterator[Text]:
    """Why the verdict is what it is where it is not a pass; and strangers, whatever it is."""
    for why in (_why_bound, _why_cut, _why_lost):
        yield from (Text(reason, "yellow") for reason in why(words, document))
    for server in document["servers"]:
        # By what was heard: a socket shows the hardware address of none.
        if not server["offers"] + server["acks"] + server["naks"]:
            yield Text(words(language.SILENT, server=server["server_id"]), "yellow")
    rogues = in_order([server for server in document["servers"] if server["rogue"]])
    for server in rogues[:_MOST_NAMED]:
        yield Text(words(language.ROGUE, server=server_name(words, server), mac=seen_mac(server),
                         offers=server["offers"], acks=server["acks"], naks=server["naks"]),
                   "bold red")
    if more := len(rogues[_MOST_NAMED:]):
        yield Text(words(language.MORE_ROGUES, n=more), "bold red")


def in_order(servers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Strangers first, then by how much was heard of each; `others` are the last."""
    return sorted(servers, key=lambda row: (row["server_id"] == _OTHERS, not row["rogue"],
                                            -row["offers"] - row["acks"]))


def server_name(words: Language, server: dict[str, Any]) -> str:
    """Its server identifier; `others` for all that found no room."""
    named: str = server["server_id"]
    return words(language.OTHERS) if named == _OTHERS else named


def seen_mac(server: dict[str, Any]) -> str:
    """The hardware address, where one was seen: a socket shows none."""
    mac: str | None = server["mac"]
    return mac if mac and mac != _NO_MAC else "-"
