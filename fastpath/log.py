"""What a program says while it serves: lines of text or JSON that can neither stop nor fill.

The one thing to know: saying something never waits. A line that its output does not take at
once (a full pipe, a full disk, a reader that has gone) is dropped and counted, and so is what
exceeds the limits: one per kind of message (`limited`), and one for the whole program.
"""

from __future__ import annotations

import json
import math
import os
import re
import select
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastpath.errors import UserError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FORMS = ("text", "json")
_ALSO = {"warn": "warning", "err": "error"}

# One kind of message: so many at once, then so many a second.
BURST, RATE_PER_S = 10, 1.0
# The whole program, also at once and a second: 200 lines of 200 octets are 3.5 GB a day.
TOTAL_PER_S = 200
MOST_KEYS = 1024
# A line goes out in one write; a pipe holds 64 KiB.
MOST_LINE, MOST_TEXT, MOST_FIELD = 60_000, 10_000, 4_000
_NOTICE_PERIOD_S = 1.0

_UNSHOWN = re.compile(r"[^\n -~\xa0-\U0010ffff]|[\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff]")


def parse_level(text: str) -> str:
    """One of LEVELS, in whatever case, `warn` for short; raises UserError."""
    name = text.strip().lower()
    name = _ALSO.get(name, name)
    if name not in LEVELS:
        raise UserError(f"unknown log level {text!r}", f"there is: {', '.join(LEVELS)}")
    return name


def _escaped(text: str) -> str:
    return _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _shown(text: str, most: int) -> str:
    """`text` as it can be shown to a terminal: control characters escaped, of bounded length.

    A line after the first is indented, so that no peer's text can pass for a line of ours.
    """
    if len(text) > most:
        text = f"{text[:most]}… ({len(text) - most:,} more characters)"
    first, *rest = _escaped(text).split("\n")
    return "\n".join([first, *(line if line[:2] == "  " else f"  {line}" for line in rest)])


def _plain(value: Any, depth: int = 0) -> Any:
    """`value` as JSON can say it; octets as hex."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[:MOST_FIELD]).hex(":")
    if isinstance(value, dict) and depth < 8:
        return {_escaped(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) and depth < 8:
        return [_plain(inner, depth + 1) for inner in value]
    return _escaped(str(value)[:MOST_FIELD])


@dataclass(slots=True)
class _Bucket:
    """Tokens: `burst` at most, `rate_per_s` more each second."""

    burst: float
    rate_per_s: float
    tokens: float
    at_s: float
    suppressed: int = 0
    level: str = "info"
    last: str = ""
    event: str = ""

    def fill(self, now_s: float) -> float:
        self.tokens = min(self.burst, self.tokens + max(0.0, now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s
        return self.tokens

    def take(self, now_s: float) -> bool:
        if self.fill(now_s) < 1:
            return False
        self.tokens -= 1
        return True


class _Output:
    """A descriptor written to without waiting, and without changing it for others who have it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False
        self._most = MOST_LINE + 1
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # O_NONBLOCK belongs to the open file, which is our parent's too: open it once more.
            try:
                self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK
                                   | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                # It was another user's before sudo. A pipe that is ready takes so much at once.
                self._most = select.PIPE_BUF

    def write(self, line: bytes) -> bool:
        """True when all of `line` went out."""
        if self._torn:
            line = b"\n" + line
        try:
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            answers = ready.poll(0)
            if not (answers and answers[0][1] & select.POLLOUT and len(line) <= self._most):
                return False
            written = os.write(self._fd, line)
        except OSError:
            return False
        whole = written == len(line)
        self._torn = (self._torn and not written) or not whole
        return whole


class Log:
    """Says what happens, as `program`, from `level` upwards, as "text" or "json".

    Info and debug go to descriptor `out`, warnings and errors to `err`. For one thread.
    dropped: lines that the output did not take. over: lines beyond the total limit.
    Raises UserError on an unknown level or form.
    """

    def __init__(self, program: str, level: str = "info", form: str = "text", *, out: int = 1,
                 err: int = 2, total_per_s: int = TOTAL_PER_S,
                 clock: Callable[[], float] = time.monotonic,
                 wall: Callable[[], float] = time.time) -> None:
        if form not in FORMS:
            raise UserError(f"unknown log format {form!r}", f"there is: {', '.join(FORMS)}")
        self._program = program
        self._least = LEVELS[parse_level(level)]
        self._json = form == "json"
        self._out, self._err = _Output(out), _Output(err)
        self._clock, self._wall = clock, wall
        now = clock()
        self._total = _Bucket(total_per_s, total_per_s, total_per_s, now)
        self._keys: OrderedDict[str, _Bucket] = OrderedDict()
        self._others = _Bucket(BURST, RATE_PER_S, BURST, now)
        self._noticed_s = -math.inf
        self._said_over = self._said_dropped = 0
        self.dropped = self.over = 0

    def debug(self, message: str, /, *, event: str = "", **fields: Any) -> None:
        self._say("debug", message, event, fields)

    def info(self, message: str, /, *, event: str = "", **fields: Any) -> None:
        """Say `message`; `event` and `fields` are for readers of JSON."""
        self._say("info", message, event, fields)

    def warning(self, message: str, /, *, event: str = "", **fields: Any) -> None:
        self._say("warning", message, event, fields)

    def error(self, message: str, /, *, event: str = "", **fields: Any) -> None:
        self._say("error", message, event, fields)

    def wants(self, level: str) -> bool:
        """Whether lines of `level` are said at all: asked before a costly message is made."""
        return LEVELS[level] >= self._least

    def limited(self, key: str, level: str, message: str, /, *, event: str = "",
                **fields: Any) -> None:
        """Say `message`, unless too many with this `key` were said: then only count it.

        key: the kind of message, such as the reason of a refusal. Keys a peer can invent are
        safe: those beyond MOST_KEYS share one limit.
        """
        if not self.wants(level):
            return
        now_s = self._clock()
        bucket = self._bucket(key, now_s)
        bucket.level, bucket.last, bucket.event = level, message[:MOST_FIELD], event
        if not bucket.take(now_s):
            bucket.suppressed += 1
            return
        if bucket.suppressed:
            fields["suppressed"] = bucket.suppressed
            message = f"{message} ({bucket.suppressed:,} more like this)"
            bucket.suppressed = 0
        self._say(level, message, event, fields)

    def flush(self, *, final: bool = False) -> None:
        """Say how many were suppressed, for each kind that may speak again (`final`: for all).

        Cheap enough to call every second.
        """
        now_s = self._clock()
        for bucket in (*self._keys.values(), self._others):
            if bucket.suppressed and (bucket.take(now_s) or final):
                count, bucket.suppressed = bucket.suppressed, 0
                self._say(bucket.level, f"… {count:,} more like this: {bucket.last}",
                          bucket.event, {"suppressed": count})
        if self._total.fill(now_s) >= 1 or final:
            self._notice(now_s, final)

    def _bucket(self, key: str, now_s: float) -> _Bucket:
        bucket = self._keys.get(key)
        if bucket:
            self._keys.move_to_end(key)
            return bucket
        if len(self._keys) >= MOST_KEYS:
            oldest_key, oldest = next(iter(self._keys.items()))
            if oldest.suppressed or oldest.fill(now_s) < oldest.burst:
                return self._others
            del self._keys[oldest_key]
        bucket = self._keys[key] = _Bucket(BURST, RATE_PER_S, BURST, now_s)
        return bucket

    def _say(self, level: str, message: str, event: str, fields: dict[str, Any]) -> None:
        if not self.wants(level):
            return
        now_s = self._clock()
        if not self._total.take(now_s):
            self.over += 1
            return
        self._notice(now_s, False)
        self._write(level, message, event, fields)

    def _notice(self, now_s: float, final: bool) -> None:
        """Say what was lost since the last notice, at most once in a while."""
        over, dropped = self.over - self._said_over, self.dropped - self._said_dropped
        if not (over or dropped) or not (final or now_s - self._noticed_s >= _NOTICE_PERIOD_S):
            return
        self._noticed_s = now_s
        reasons = [f"{over:,} over the limit of {self._total.burst:,} a second"] if over else []
        if dropped:
            reasons.append(f"{dropped:,} that the output did not take")
        if self._write("warning", f"log lines left out: {', '.join(reasons)}", "log_lost",
                       {"over": over, "dropped": dropped}):
            self._said_over += over
            self._said_dropped += dropped
        else:
            # The notice itself is no loss: it is said again.
            self.dropped -= 1

    def _write(self, level: str, message: str, event: str, fields: dict[str, Any]) -> bool:
        if self._json:
            line = self._as_json(level, message, event, fields)
        else:
            line = f"{self._program}: {_shown(message, MOST_TEXT)}"
        output = self._err if LEVELS[level] >= LEVELS["warning"] else self._out
        if output.write(line.encode("utf-8", "backslashreplace") + b"\n"):
            return True
        self.dropped += 1
        return False

    def _as_json(self, level: str, message: str, event: str, fields: dict[str, Any]) -> str:
        at = datetime.fromtimestamp(self._wall(), UTC)
        head = {"ts": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z", "level": level,
                "program": self._program, "event": event or "message",
                "message": _escaped(message[:MOST_TEXT])}
        # A field that has the name of one of ours keeps its value under another name.
        more = {f"{name}_" if name in head else name: _plain(value)
                for name, value in fields.items()}
        line = json.dumps(head | more)
        if len(line) <= MOST_LINE:
            return line
        head["message"] = head["message"][:1000]
        return json.dumps(head | {"cut": True})
