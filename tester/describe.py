"""A test in words: how many clients do what, by which load, from where to where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tester import language
from tester.cells import DIRECT, RELAYS
from tester.config import TestConfig, Where
from tester.language import Language

_UNITS = ((1, "us"), (1_000, "ms"), (1_000_000, "s"))
# More stages than these are only counted.
_MOST_STAGES = 4


def duration_text(us: float) -> str:
    """Microseconds for people, three digits or more: `87 us`, `1.24 ms`, `3.20 s`, `3,600 s`."""
    for size, unit in _UNITS:
        value = us / size
        digits = 0 if size == 1 or value >= 99.95 else 1 if value >= 9.995 else 2
        text = f"{value:,.{digits}f}"
        if unit == "s" or len(text) < 5:
            break
    return f"{text} {unit}"


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _rate(value: float) -> str:
    return f"{value:,.10g}"


def _stages_text(words: Language, stages: list[dict[str, float]]) -> str:
    said = [words(language.STAGE, time=_seconds(stage["over_s"]), rate=_rate(stage["rate_per_s"]))
            for stage in stages[:_MOST_STAGES]]
    if more := len(stages) - len(said):
        said.append(words(language.AND_MORE, n=more))
    return ", ".join(said)


def _plan_text(words: Language, plan: Mapping[str, Any]) -> str:
    """A plan as it describes itself (`tester.plan`)."""
    shape = plan["shape"]
    if shape == "closed":
        return words(language.CLOSED_LOOP, n=plan["concurrency"])
    if shape == "constant":
        text = words(language.CONSTANT, rate=_rate(plan["rate_per_s"]))
    elif shape == "ramp":
        text = words(language.RAMP, rate=_rate(plan["rate_per_s"]), time=_seconds(plan["over_s"]))
    elif shape == "stages":
        text = words(language.STAGES, stages=_stages_text(words, plan["stages"]))
    else:
        text = words(language.AVALANCHE)
    return f"{text}, {words(language.POISSON)}" if plan["arrivals"] == "poisson" else text


def load_text(words: Language, config: Mapping[str, Any]) -> str:
    """The load, by these names of the document's `config`: plan, preload, warm_up_s,
    renew_rate_per_s, release_rate_per_s.
    """
    said = [_plan_text(words, config["plan"])]
    if config["preload"]:
        said.append(words(language.PRELOADED, n=config["preload"]))
    if config["warm_up_s"]:
        said.append(words(language.WARM_UP, time=_seconds(config["warm_up_s"])))
    if config["renew_rate_per_s"]:
        said.append(words(language.RENEWALS, rate=_rate(config["renew_rate_per_s"])))
    if config["release_rate_per_s"]:
        said.append(words(language.RELEASES, rate=_rate(config["release_rate_per_s"])))
    return ", ".join(said)


def patience_text(words: Language, config: Mapping[str, Any]) -> str:
    """How long answers are awaited, by `timeout_s` and `backoff_s` of the document's `config`."""
    if config["backoff_s"]:
        first, longest = config["backoff_s"]
        return words(language.BACKOFF, first=_seconds(first), longest=_seconds(longest))
    return words(language.AWAITED, time=_seconds(config["timeout_s"]))


def behaviour_text(words: Language, mix: Iterable[tuple[str, float]], time_scale: float) -> str:
    """What clients do, as (behaviour, share); empty where all just bind, in real time."""
    parts = list(mix)
    said = [f"{name} {100 * share:.3g} %" for name, share in parts]
    if len(parts) == 1:
        said = [name for name, _ in parts if name != "stay"]
    if time_scale != 1:
        said.append(words(language.FASTER, times=time_scale))
    return ", ".join(said)


def _where_text(words: Language, where: Where, local_port: int) -> str:
    values: dict[str, object] = {"interface": where.interface, "server": where.server,
                                 "port": where.server_port}
    if where.interfaces:
        text = words(language.BY_BROADCAST_ON_MANY, n=where.parts)
    elif where.mode == DIRECT:
        text = words(language.BY_BROADCAST, **values)
    elif where.mode == RELAYS:
        text = words(language.AS_RELAYS, n=len(where.relays), **values)
    else:
        text = words(language.BY_SOCKET, address=where.local_address or "*", local=local_port,
                     **values)
        if where.relays:
            text += f", {words(language.AS_ONE_RELAY)}"
    if where.tags:
        text += f", {words(language.TAGGED, n=len(where.tags))}"
    return text


def describe(config: TestConfig, local_port: int, lang: str | None = None) -> str:
    """One line on a test that is to begin. local_port: of its socket, where it has one."""
    words, limits = language.choose(lang), config.limits
    said = [words(language.SO_MANY, n=config.clients),
            behaviour_text(words, ((b.name, share) for b, share in config.mix),
                           config.time_scale),
            load_text(words, {
                "plan": config.plan.describe(), "preload": limits.preload,
                "warm_up_s": limits.warm_up_s, "renew_rate_per_s": config.renew_rate,
                "release_rate_per_s": config.release_rate})]
    if limits.duration_s is not None:
        said.append(words(language.FOR, time=_seconds(limits.duration_s)))
    said.append(_where_text(words, config.where, local_port))
    return "; ".join(filter(None, said))
