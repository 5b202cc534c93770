"""From what the command line, the environment and the file say to a TestConfig.

Every refusal names the option that it is about, so that it can be found in the file too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from fastpath.cli import parse_duration_s
from fastpath.document import shown
from fastpath.errors import UserError
from fastpath.values import rate
from tester.behaviour import Behaviour, Times, balanced, malformed, parse_mix
from tester.cells import (
    MOST_SERVERS,
    OFFER_ALL,
    OFFER_FIRST,
    OFFER_SERVER,
    X_ABSENT,
    X_EQUAL,
    X_PRESENT,
)
from tester.config import Expectation, Limits, Patience, TestConfig
from tester.identify import code_of, identity_from, octets_of
from tester.options import BACKOFF, ENDLESS, MOST_CLIENTS, about
from tester.place import resolved, where_from
from tester.plan import (
    Avalanche,
    ClosedLoop,
    ConstantRate,
    OpenLoop,
    Plan,
    Ramp,
    Shape,
    starts_within,
)
from tester.stages import parse_stages

# Closed loop with --duration and no --clients: more than anything answers in a coffee break.
MANY_CLIENTS = 1_000_000
_LONGEST_S = 7 * 86400
# Times that are nothing where they are 0.
_LASTING = ("duration", "ramp")
# RFC 2131 section 4.1 stops at 64 s: five transmissions.
_BACKOFF_RETRIES = 4
# An avalanche goes on until all are bound, or somebody stops it.
_AVALANCHE_RETRIES = 200
_OFFER_WAIT_S = 0.5
_MAX_DROP = re.compile(r"(?P<number>[0-9]{1,12})|(?P<share>[0-9]{1,3}(?:\.[0-9]{1,12})?) ?%")

Given = Mapping[str, Any]


def configure(given: Given, ctx: click.Context) -> TestConfig:
    """The test that was asked for. Raises click.UsageError, UserError and SystemRefused."""
    _check_times(given)
    seed = secrets.randbits(32) if given["seed"] is None else given["seed"]
    where = where_from(given)
    plan, notes = _spread(_plan(given, seed), where.parts)
    identity = identity_from(given, where)
    clients = _clients(given, plan, len(identity.macs), where.parts)
    policy, server = _offer(given["offer"])
    wait_s = given["offer_wait"] if given["offer_wait"] is not None else _OFFER_WAIT_S
    secs_from_s, secs_to_s = _aging(given)
    config = TestConfig(
        clients=clients, plan=plan, where=where, identity=identity, patience=_patience(given, ctx),
        limits=_limits(given, plan), mix=_mix(given), renew_rate=given["renew_rate"],
        release_rate=given["release_rate"], time_scale=given["time_scale"],
        offer_policy=policy, offer_server=server,
        offer_wait_s=wait_s if policy == OFFER_ALL else 0.0,
        expects=tuple(_expectation(text) for text in given["expect"]),
        expect_servers=_expected_servers(given), secs_from_s=secs_from_s, secs_to_s=secs_to_s,
        seed=seed,
        ring_slots=given["ring_slots"], notes=notes)
    config.check()
    return config


def _check_times(given: Given) -> None:
    if not 0.001 <= given["timeout"] <= 3600:
        raise click.BadParameter("must be from 1ms to 1h", param_hint="--timeout")
    for name in ("duration", "warm_up", "drain", "return_after", "ramp", "offer_wait",
                 "aging_after", "aging_for"):
        value, option = given[name], f"--{name.replace('_', '-')}"
        if value is not None and value > _LONGEST_S:
            raise click.BadParameter("must be at most 7 days", param_hint=option)
        if value is not None and value < 0.001 and name in _LASTING:
            raise click.BadParameter("must be at least 1ms", param_hint=option)
    slots = given["ring_slots"]
    if slots & (slots - 1):
        raise click.BadParameter(f"{slots} is not a power of two", param_hint="--ring-slots")


def _aging(given: Given) -> tuple[float, float]:
    """From when to when `secs` counts up; never where nothing is said of it."""
    after_s, for_s = given["aging_after"], given["aging_for"]
    if after_s is None and for_s is None:
        return 0.0, 0.0
    from_s = after_s or 0.0
    return from_s, from_s + (_LONGEST_S if for_s is None else for_s)


def _expected_servers(given: Given) -> tuple[Any, ...]:
    servers = tuple(dict.fromkeys(given["expect_server"]))
    # The last row of the table of servers is that of all who find no room in it.
    if len(servers) >= MOST_SERVERS:
        raise click.BadParameter(f"{len(servers)} servers, {MOST_SERVERS - 1} is the most",
                                 param_hint="--expect-server")
    return servers


def _plan(given: Given, seed: int) -> Plan:
    """Closed loop where nothing about a rate is said."""
    shape: Shape | None = None
    chosen = [name for name in ("rate", "stages", "avalanche") if given[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]} are two loads: choose one")
    if given["rate"]:
        shape = ConstantRate(given["rate"])
        if given["ramp"]:
            shape = Ramp(given["rate"], given["ramp"])
    elif given["stages"]:
        with about("--stages"):
            shape = parse_stages(given["stages"])
    elif given["avalanche"]:
        shape = Avalanche()
    if given["ramp"] and not given["rate"]:
        raise click.BadParameter("it raises a rate: give --rate too", param_hint="--ramp")
    if shape is None:
        if given["poisson"]:
            raise click.BadParameter("it spaces a rate: give --rate or --stages too",
                                     param_hint="--poisson")
        return ClosedLoop(given["concurrency"])
    with about("--poisson"):
        return OpenLoop(shape, seed if given["poisson"] else None)


def _spread(plan: Plan, parts: int) -> tuple[Plan, tuple[str, ...]]:
    """On each interface a closed loop has one exchange in flight at least; and what to say of it.
    """
    if not isinstance(plan, ClosedLoop) or plan.window >= parts:
        return plan, ()
    return ClosedLoop(parts), (
        f"--concurrency {plan.window:,} is less than there are interfaces: one exchange in flight "
        f"on each, {parts:,} in all",)


def _clients(given: Given, plan: Plan, macs: int, parts: int) -> int:
    """How many clients, where it is not said: what the load comes to; one an interface at least.
    """
    if given["clients"]:
        return int(given["clients"])
    if macs:
        return macs
    usual = max(1000, parts)
    if isinstance(plan, ClosedLoop):
        return MANY_CLIENTS if given["duration"] and given["exchanges"] is None else usual
    if isinstance(plan.shape, Avalanche) or given["exchanges"] is not None:
        return usual
    lasts_s = given["duration"] or plan.shape.ends_s
    wanted = usual if lasts_s is None else starts_within(plan, lasts_s)
    if wanted > MOST_CLIENTS:
        raise click.UsageError(f"this load takes {wanted:,} clients: more than {MOST_CLIENTS:,}; "
                               "give --clients")
    return max(wanted + int(given["preload"]), 1)


def _patience(given: Given, ctx: click.Context) -> Patience:
    backoff = given["backoff"] or (BACKOFF if given["avalanche"] else None)
    retry = given["retry"] or bool(backoff)

    def tries(name: str) -> int:
        if not retry:
            return 1
        if given["avalanche"] and ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            return 1 + _AVALANCHE_RETRIES
        if given["backoff"] and ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            return 1 + _BACKOFF_RETRIES
        return 1 + int(given[name])

    return Patience(given["timeout"], tries("max_discover_retries"), tries("max_request_retries"),
                    _backoff(backoff) if backoff else None)


def _backoff(text: str) -> tuple[float, float]:
    first_text, _, most_text = text.partition("..")
    with about("--backoff"):
        first = parse_duration_s(first_text)
        most = parse_duration_s(most_text) if most_text else max(first, 64.0)
        if not 0.001 <= first <= most <= 3600:
            raise UserError(f"{text!r} is no back-off", "write 4s..64s: first wait, longest wait")
    return first, most


def _limits(given: Given, plan: Plan) -> Limits:
    exchanges, duration_s = given["exchanges"], given["duration"]
    if exchanges == 0:
        if duration_s is None:
            raise click.UsageError("--exchanges 0 goes on for ever: give --duration")
        exchanges = starts_within(plan, duration_s) if isinstance(plan, OpenLoop) else ENDLESS
    drops, percent = None, None
    if given["max_drop"] is not None:
        text = given["max_drop"].strip()
        found = _MAX_DROP.fullmatch(text)
        if not found or float(found["share"] or 0) > 100:
            raise click.BadParameter(f"{shown(text)}: write 10, or 1%", param_hint="--max-drop")
        drops = int(found["number"]) if found["number"] else None
        percent = float(found["share"]) if found["share"] else None
    return Limits(exchanges=exchanges, duration_s=duration_s, max_drop=drops,
                  max_drop_percent=percent, drain_s=given["drain"], preload=given["preload"],
                  warm_up_s=given["warm_up"])


def _offer(text: str) -> tuple[int, Any]:
    if text in ("first", "all"):
        return (OFFER_FIRST if text == "first" else OFFER_ALL), None
    with about("--offer"):
        return OFFER_SERVER, resolved(text)


def _mix(given: Given) -> tuple[tuple[Behaviour, float], ...]:
    chosen = [name for name in ("behaviour", "mix", "discover_only") if given[name]]
    if len(chosen) > 1:
        one, other = (name.replace("_", "-") for name in chosen[:2])
        raise click.UsageError(f"--{one} and --{other} both say what clients do: choose one")
    times = Times(given["hold"], given["return_after"], given["cycles"])
    text = "discover-only" if given["discover_only"] else given["mix"] or given["behaviour"]
    with about(f"--{chosen[0].replace('_', '-')}" if chosen else "--behaviour"):
        if given["behaviour"] and ("," in text or "=" in text):
            raise UserError(f"{text!r} is more than one behaviour", "use --mix")
        mix = parse_mix(text or "stay", times)
    return _with_malformed(mix, given["malform"])


def _with_malformed(mix: tuple[tuple[Behaviour, float], ...], texts: tuple[str, ...],
                    ) -> tuple[tuple[Behaviour, float], ...]:
    """Take the shares of malformed clients from the rest."""
    spoilt: list[tuple[Behaviour, float]] = []
    with about("--malform"):
        for text in texts:
            name, given, share_text = text.partition("=")
            share = rate(share_text) if given else 1.0 / len(texts)
            behaviour = malformed(name.strip())
            if any(behaviour == known for known, _ in spoilt):
                raise UserError(f"{behaviour.name.removeprefix('malformed ')} comes twice",
                                "give each one share")
            spoilt.append((behaviour, share))
        taken = sum(share for _, share in spoilt)
        if taken > 1 + 1e-9:
            raise UserError("shares come to more than all clients", "write no-cookie=5%")
        whole = [(behaviour, share * max(1 - taken, 0.0)) for behaviour, share in mix]
        return balanced([*whole, *spoilt]) if spoilt else mix


def _expectation(text: str) -> Expectation:
    with about("--expect"):
        if text.startswith("!"):
            return Expectation(text, code_of(text[1:]), X_ABSENT)
        name, given, value = text.partition("=")
        if not given:
            return Expectation(text, code_of(name), X_PRESENT)
        return Expectation(text, code_of(name), X_EQUAL, octets_of(name, value, "--expect"))


