"""The report in the terminal: the verdict first, then why, then the numbers behind it.

Made from the result document alone, so that a document reads the same later, elsewhere. What
did not happen has no line: a test of plain exchanges stays short.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from fastpath.packet import mac_text
from tester import cells, language
from tester.arrays import Test
from tester.config import TestConfig
from tester.describe import behaviour_text, duration_text, load_text, patience_text
from tester.language import Language
from tester.listing import OUTCOMES
from tester.reasons import begun, in_order, reasons, seen_mac, server_name
from tester.result import GENERATOR_BOUND, INCOMPLETE, PASS, THRESHOLD, Document, own_limits
from tester.share import row_of

_STYLES = {PASS: "bold white on dark_green", INCOMPLETE: "bold white on dark_red",
           GENERATOR_BOUND: "bold black on yellow", THRESHOLD: "bold white on dark_red"}
_WIDTH = 120
# A closed loop above this leaves no doubt who was busy.
_BUSY_PERCENT = 90.0
# Of servers, of relays, of clients that failed and of interfaces so many are listed.
_MOST_SERVERS, _MOST_RELAYS, _MOST_FAILED, _MOST_INTERFACES = 10, 10, 20, 10
_FAILED_STATES = (cells.SELECTING, cells.REQUESTING, cells.TIMEOUT_DISCOVER,
                  cells.TIMEOUT_REQUEST, cells.REFUSED, cells.DUPLICATE)


def _one_each(document: Document) -> bool:
    """True where each client made one exchange, so that clients and exchanges are one number."""
    clients = document["clients"]
    return bool(begun(document) == clients["started"]
                and document["exchanges"]["completed"] == clients["bound"])


def _headline(words: Language, document: Document) -> Text:
    clients, rate = document["clients"], document["dora_per_s"]
    verdict = document["verdict"]
    line = Text()
    line.append(f" {words(language.VERDICTS[verdict])} ", _STYLES[verdict])
    values = {"bound": clients["bound"], "started": clients["started"]}
    done = document["exchanges"]["completed"]
    if done and not clients["bound"]:
        said = words(language.COMPLETED, done=done, begun=begun(document))
    elif rate and _one_each(document):
        # From the first DISCOVER to the last ACK: not the wait for those that never came.
        seconds = document["time_to_bind_all_s"] or clients["bound"] / rate
        said = words(language.BOUND_IN, time=duration_text(seconds * 1e6), **values)
    else:
        said = words(language.BOUND, **values)
    line.append(f"  {said}", "bold")
    if rate:
        line.append(" · ")
        line.append(f"{rate:,.0f} DORA/s", "bold")
    return line


def _success_rate(words: Language, document: Document) -> Text:
    """The line that programs look for."""
    said = words(language.SUCCESS_RATE, percent=document["success_rate_percent"])
    if begun(document) and document["clients"]["bound"] and not _one_each(document):
        said += words(language.OF_EXCHANGES, done=document["exchanges"]["completed"],
                      begun=begun(document))
    return Text(said)


def _table(titles: Iterable[str]) -> Table:
    """A table of numbers behind a name."""
    first, *others = titles
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _alarming(number: int) -> Text:
    return Text(f"{number:,}", "red" if number else "")


class _Legs:
    """Counts and latencies of each leg: one table, or two where it would be cut."""

    def __init__(self, words: Language, document: Document) -> None:
        self._words, self._latency = words, document["latency_us"]
        self._legs = {name: leg for name, leg in document["legs"].items() if leg["sent"]}
        self._names = dict(zip(cells.MESSAGE_NAMES, cells.LEG_NAMES, strict=False))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self._made(True, True)
        # Asked without the limit of this width: what the table would like to have.
        if console.measure(whole, options=options.update(max_width=1000)).maximum \
                <= options.max_width:
            yield from (whole, Text())
        else:
            yield from (self._made(True, False), Text(), self._made(False, True), Text())

    def _made(self, counts: bool, times: bool) -> Table:
        words = self._words
        table = _table(["", *map(words, language.COUNTS * counts),
                        *map(words, [*language.PERCENTILES.values()] * times)])
        for name, leg in self._legs.items():
            series = self._names.get(name)
            if series or counts:
                table.add_row(words(language.LEGS[name]), *self._counts(leg) * counts,
                              *self._times(series) * times)
        for series, title in language.SERIES.items():
            if times and series in self._latency and self._latency[series]["count"]:
                recorded = (Text(), Text(f"{self._latency[series]['count']:,}"), Text(), Text())
                table.add_row(words(title), *recorded * counts, *self._times(series))
        return table

    def _counts(self, leg: dict[str, int]) -> tuple[Text, ...]:
        sent, resent = Text(f"{leg['sent']:,}"), Text(f"{leg['retransmitted']:,}")
        if "answered" not in leg:
            return sent, Text(), Text(), Text()
        # A refusal is an answer.
        return sent, Text(f"{leg['answered'] + leg['refused']:,}"), _alarming(leg["lost"]), resent

    def _times(self, series: str | None) -> tuple[Text, ...]:
        entry = self._latency.get(series)
        if not entry or not entry["count"]:
            return tuple(Text("-" if series else "") for _ in language.PERCENTILES)
        return tuple(Text(duration_text(entry[p])) for p in language.PERCENTILES)


def _servers(words: Language, servers: list[dict[str, Any]]) -> Table:
    table = _table([*map(words, language.SERVERS), ""])
    ordered = in_order(servers)
    for row in ordered[:_MOST_SERVERS]:
        rogue = Text(words(language.IS_ROGUE), "bold red") if row["rogue"] else Text()
        numbers = (f"{row[name]:,}" for name in ("offers", "acks", "naks", "chosen"))
        table.add_row(server_name(words, row), seen_mac(row), *numbers, rogue)
    if more := len(ordered[_MOST_SERVERS:]):
        table.add_row(words(language.AND_MORE, n=more))
    return table


def _relay_row(title: str, row: dict[str, Any]) -> tuple[str | Text, ...]:
    times = (duration_text(row[name]) if row["completed"] else "-"
             for name in ("dora_mean_us", "dora_max_us"))
    return (title, f"{row['started']:,}", f"{row['completed']:,}", _alarming(row["failed"]),
            *times)


def _relays(words: Language, relays: list[dict[str, Any]]) -> Table:
    """The worst ones, and all together."""
    table = _table(map(words, language.RELAYS))
    worst = sorted(relays, key=lambda row: (-row["failed"], row["completed"] - row["started"],
                                            -row["dora_mean_us"]))
    for row in worst[:_MOST_RELAYS]:
        table.add_row(*_relay_row(row["giaddr"], row))
    total = {name: sum(row[name] for row in relays) for name in ("started", "completed", "failed")}
    spent_us = sum(row["dora_mean_us"] * row["completed"] for row in relays)
    total["dora_mean_us"] = spent_us / max(total["completed"], 1)
    total["dora_max_us"] = max(row["dora_max_us"] for row in relays)
    table.add_row(*_relay_row(words(language.ALL_OF_THEM, n=len(relays)), total))
    return table


def _interfaces(words: Language, rows: list[dict[str, Any]]) -> RenderableType:
    """The worst ones; one line where there is none."""
    bad = [row for row in rows if row["failed"] or row["rx_ring"]]
    if not bad:
        bound = all(row["bound"] == row["planned"] for row in rows)
        return Text(words(language.ALL_INTERFACES_BOUND if bound
                          else language.NONE_FAILED_ON_INTERFACES, n=len(rows)))
    table = _table(map(words, language.INTERFACES))
    worst = sorted(bad, key=lambda row: (-row["failed"], row["bound"] - row["planned"],
                                         -row["rx_ring"]))
    for row in worst[:_MOST_INTERFACES]:
        times = (duration_text(row[name]) if row["bound"] else "-"
                 for name in ("dora_p50_us", "dora_p99_us"))
        table.add_row(Text(row["interface"]), f"{row['planned']:,}", f"{row['bound']:,}",
                      _alarming(row["failed"]), *times, _alarming(row["rx_ring"]))
    if more := len(worst[_MOST_INTERFACES:]):
        table.add_row(words(language.AND_MORE, n=more))
    total = {name: sum(row[name] for row in rows)
             for name in ("planned", "bound", "failed", "rx_ring")}
    table.add_row(words(language.ALL_OF_THEM, n=len(rows)), f"{total['planned']:,}",
                  f"{total['bound']:,}", _alarming(total["failed"]), Text(), Text(),
                  _alarming(total["rx_ring"]))
    return table


def _name(words: Language, names: dict[str, language.Phrase], key: str) -> str:
    return words(names[key]) if key in names else key.replace("_", " ")


def _errors(words: Language, errors: dict[str, Any]) -> Text:
    def counted(entries: dict[str, Any], names: dict[str, language.Phrase]) -> Text:
        return Text(", ").join(
            Text(f"{_name(words, names, key)} {count:,}", "red")
            for key, count in entries.items() if isinstance(count, int) and count)

    line = counted(errors, language.ERROR_NAMES)
    if by_reason := errors["malformed_by_reason"]:
        line = Text.assemble(line, " (", counted(by_reason, language.MALFORMED_NAMES), ")")
    return line or Text(words(language.NO_ERRORS))


def _losses(words: Language, losses: dict[str, Any]) -> Text:
    """What was lost where; `none` only of what was measured."""
    named = {_name(words, language.PLACES, key): count for key, count in losses.items()}
    clean = ", ".join(name for name, count in named.items() if count == 0)
    blind = ", ".join(name for name, count in named.items() if count is None)
    lost = Text(", ").join(Text(f"{name} {count:,}", "red")
                           for name, count in named.items() if count)
    parts = [lost, Text(words(language.NONE_IN, places=clean)) if clean else Text(),
             Text(words(language.NOT_MEASURED, places=blind), "dim") if blind else Text()]
    return Text("; ").join(part for part in parts if part)


def _expectations(words: Language, document: Document) -> Text:
    """Each that was not met."""
    acks = document["answers"]["ack"]["accepted"]
    unmet = []
    for row in document["expectations"]:
        if how := [words(phrase, count=row[name]) for name, phrase in language.UNMET.items()
                   if row[name]]:
            unmet.append(Text(words(language.NOT_MET, what=row["expected"], how=", ".join(how),
                                    n=acks), "red"))
    return Text("\n").join(unmet) if unmet else Text(words(language.ALL_MET, n=acks))


def _life(words: Language, document: Document) -> Iterator[tuple[language.Phrase, Text]]:
    """Facts of tests in which clients do more than bind."""
    config, errors = document["config"], document["errors"]
    after_s = document["time_to_bind_all_s"]
    if after_s and not _one_each(document):
        yield language.ALL_BOUND, Text(words(language.AFTER, time=duration_text(after_s * 1e6)))
    counts = document["clients"] | {"returned": document["exchanges"]["returned"]}
    if events := [words(phrase, n=counts[name]) for name, phrase in language.EVENTS.items()
                  if counts[name]]:
        yield language.CLIENTS, Text(", ".join(events))
    if document["expectations"]:
        yield language.EXPECTED, _expectations(words, document)
    if document["malformed_sent"]:
        yield language.MALFORMED, Text(words(
            language.MALFORMED_SENT, n=document["malformed_sent"],
            answered=errors["malformed_answered"]))
    met = document["neighbours"]
    if any(met.values()):
        yield language.NEIGHBOURS, Text(words(language.ANSWERED, arp=met["arp_answered"],
                                              pings=met["pings_answered"]))
    mix = ((part["name"], part["share"]) for part in config["behaviours"])
    if behaviour := behaviour_text(words, mix, config["time_scale"]):
        yield language.BEHAVIOUR, Text(behaviour)


def _facts(words: Language, document: Document) -> Iterator[tuple[language.Phrase, Text]]:
    config, environment = document["config"], document["environment"]
    yield language.ERRORS, _errors(words, document["errors"])
    yield from _life(words, document)
    yield language.LOSSES, _losses(words, document["losses"])
    took = words(language.TOOK, time=duration_text(document["duration_s"] * 1e6))
    yield language.LOAD, Text(
        f"{load_text(words, config)}, {patience_text(words, config)}; {took}")
    place = words(language.ON, interface=config["interface"]) if config["interface"] else words(
        language.TO, server=config["server"], port=config["server_port"])
    if interfaces := document.get("interfaces"):
        place = words(language.ON_MANY, n=len(interfaces))
    yield language.GENERATOR, Text(words(
        language.ENGINE, engine=environment["engine"], place=place,
        busy=document["generator"]["busy_percent"], n=document["missed_starts"]))
    yield language.MACHINE, Text(words(
        language.CPUS, cpu=environment["cpu"], n=environment["cpus"],
        kernel=environment["kernel"]))


def _notes(words: Language, document: Document) -> Iterator[Text]:
    busy = document["generator"]["busy_percent"] >= _BUSY_PERCENT
    if busy and document["config"]["load"] == "closed" and "cpu" not in own_limits(document):
        yield Text(words(language.BUSY), "dim")
    for name, phrase in language.NOBODY.items():
        if document["pool"][name]:
            yield Text(words(phrase, n=document["pool"][name]), "dim")


def render(document: Document, lang: str | None = "en") -> RenderableType:
    """The report as something that rich can print; its first line is the verdict."""
    words = language.choose(lang)
    parts: list[RenderableType] = [
        _headline(words, document), _success_rate(words, document),
        *reasons(words, document), Text()]
    if any(leg["sent"] for leg in document["legs"].values()):
        parts.append(_Legs(words, document))
    servers, relays = document["servers"], document["relays"]
    if len(servers) > 1 or any(row["rogue"] for row in servers):
        parts += [_servers(words, servers), Text()]
    # One alone has the numbers of the whole test.
    if len(relays) > 1:
        parts += [_relays(words, relays), Text()]
    if interfaces := document.get("interfaces"):
        parts += [_interfaces(words, interfaces), Text()]
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    # Rich takes a blank that would stand in the last column behind wide characters for too much,
    # and by default would put dots there.
    facts.add_column(overflow="fold")
    for name, fact in _facts(words, document):
        facts.add_row(words(name), fact)
    return Group(*parts, facts, *_notes(words, document))


def _console() -> Console:
    """Standard output; wide enough for the table where that is no terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An arrow that a terminal cannot show is no reason to show nothing.
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def print_report(document: Document, lang: str | None = None) -> None:
    """Print the report. lang: "en", "ko", or None for the locale's."""
    _console().print(render(document, lang))


def print_failed(config: TestConfig, test: Test, lang: str | None = None) -> None:
    """List clients that failed: number, chaddr and outcome as in --clients-csv."""
    rows = row_of(np.arange(config.clients), config.clients, config.where.parts)
    state = test.clients.state[rows]
    failed = np.flatnonzero(np.isin(state, _FAILED_STATES)).tolist()
    listed = failed[:_MOST_FAILED]
    lines = [f"{client:>9,}  {mac_text(config.mac_of(client))}  {OUTCOMES[int(state[client])]}"
             for client in listed]
    if more := len(failed) - len(listed):
        lines.append(language.choose(lang)(language.AND_MORE, n=more))
    if lines:
        _console().print(Text("\n".join(lines)))
