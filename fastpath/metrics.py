"""Counts for Prometheus: the text format, and a small web server that hands it out.

The one thing to know: another process serves. The program only writes a snapshot into a pipe
about once a second, never waiting, and a scrape can neither hold up a packet nor be held up by
one. The child is started early, before tables and rings, shares nothing with the program but
the pipe, and dies with it, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import ipaddress
import json
import math
import os
import re
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from fastpath.errors import NetlabError, SystemRefused, UserError
from fastpath.privileges import User, die_with_parent, drop
from fastpath.process import keep_only

Snapshot = dict[str, Any]
Render = Callable[[Snapshot], str]
Labels = dict[str, str]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PERIOD_S = 1.0
# A connection lives so long, whatever it does, and so many live at a time.
MOST_CONNECTION_S, MOST_CONNECTIONS = 10.0, 16
_PIPE_OCTETS = 1 << 20
# The child refuses to gather more than this of one snapshot.
_MOST_SNAPSHOT = 64 << 20

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Distribution:
    """One histogram: `buckets` are (upper bound, how many were at most that), ascending."""

    count: int
    total: float
    buckets: tuple[tuple[float, int], ...]


class Exposition:
    """Writes families of samples in the Prometheus text format, version 0.0.4.

    A family without samples is left out. Raises ValueError for a name that the format forbids.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def counter(self, name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._family(name, "counter", text, [(name, *sample) for sample in samples])

    def gauge(self, name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._family(name, "gauge", text, [(name, *sample) for sample in samples])

    def histogram(self, name: str, text: str,
                  samples: Iterable[tuple[Labels, Distribution]]) -> None:
        rows: list[tuple[str, Labels, float]] = []
        for labels, found in samples:
            # Counts read while others are added may be one off: a histogram never decreases.
            least = 0
            for bound, below in found.buckets:
                least = max(least, below)
                if bound < math.inf:
                    rows.append((f"{name}_bucket", labels | {"le": _number(bound)}, least))
            count = max(least, found.count)
            rows += [(f"{name}_bucket", labels | {"le": "+Inf"}, count),
                     (f"{name}_sum", labels, found.total), (f"{name}_count", labels, count)]
        self._family(name, "histogram", text, rows)

    def text(self) -> str:
        return "".join(self._lines)

    def _family(self, name: str, kind: str, text: str,
                rows: list[tuple[str, Labels, float]]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no metric name")
        if rows:
            text = text.replace("\\", r"\\").replace("\n", r"\n")
            self._lines += [f"# HELP {name} {text}\n", f"# TYPE {name} {kind}\n"]
        self._lines += [f"{row}{_labels(labels)} {_number(value)}\n" for row, labels, value in rows]


def _labels(labels: Labels) -> str:
    for name in labels:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{name!r} is no label name")
    said = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return f"{{{','.join(said)}}}" if said else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def parse_listen(text: str) -> tuple[str, int]:
    """Address and port of `9100`, `10.0.0.1:9100` or `[::1]:9100`; loopback where none is named.

    Raises UserError.
    """
    address, separator, port = text.strip().rpartition(":")
    bracketed = address[:1] == "[" and address[-1:] == "]"
    address = {"localhost": "127.0.0.1"}.get(address, address) if separator else "127.0.0.1"
    try:
        where = ipaddress.ip_address(address[1:-1] if bracketed else address)
        if bracketed != (where.version == 6) or not (port.isascii() and port.isdigit()):
            raise ValueError
        if int(port) > 65535:
            raise ValueError
    except ValueError:
        raise UserError(f"{text!r} is not an address to serve metrics on",
                        "write 9100 (loopback only), 0.0.0.0:9100 or [::1]:9100") from None
    return str(where), int(port)


class MetricsServer:
    """Serves what `render` makes of the latest snapshot at http://ADDRESS:PORT/metrics.

    Opens its port at once; `start` (or `with`) forks the child that serves. port 0 takes a free
    one; `port` says which. ended: True once the child is found to have gone.
    Raises SystemRefused where the port cannot be had.
    """

    def __init__(self, address: str, port: int, render: Render) -> None:
        self._render = render
        self._child = self._pipe = -1
        self._rest = b""
        self._next = time.monotonic()
        self.ended = False
        self._listener = _listen(address, port)
        self.port = int(self._listener.getsockname()[1])
        shown = f"[{address}]" if ":" in address else address
        self.url = f"http://{shown}:{self.port}/metrics"

    def start(self, user: User | None = None) -> None:
        """Fork the child; it becomes `user` at once. To be called before tables are made.

        Memory that the program has by then would be copied as it changes.
        """
        read, self._pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        # More than the default where the system allows it: a snapshot goes out in one piece.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_OCTETS)
        parent = os.getpid()
        self._child = os.fork()
        if self._child:
            os.close(read)
            self._listener.close()
            return
        try:
            die_with_parent(parent)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            keep_only(0, 1, 2, read, self._listener.fileno())
            if user:
                drop(user)
            _serve(self._listener, read, self._render)
        except NetlabError as error:
            os.write(2, f"metrics: {error.what}\n".encode())
        finally:
            # Nothing may get past here: the rest of the program would run a second time.
            os._exit(1)

    def due(self) -> bool:
        """True when it is time for another snapshot."""
        return self._pipe >= 0 and time.monotonic() >= self._next

    def show(self, snapshot: Snapshot) -> None:
        """Hand one snapshot to the child; dropped while the one before is still on its way."""
        if self._pipe < 0:
            return
        self._next = time.monotonic() + PERIOD_S
        try:
            if not self._rest:
                self._rest = json.dumps(snapshot).encode() + b"\n"
            self._rest = self._rest[os.write(self._pipe, self._rest):]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.ended = True
            self.close()

    def close(self) -> None:
        """End the child, and give the port back."""
        self._listener.close()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            # It has nothing to finish; and another child may hold a copy of the pipe.
            with contextlib.suppress(PermissionError):
                os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)

    def __enter__(self) -> Self:
        if self._child < 0:
            self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _listen(address: str, port: int) -> socket.socket:
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        if ":" not in address:
            return socket.create_server((address, port))
        return socket.create_server((address, port), family=socket.AF_INET6,
                                    dualstack_ipv6=address == "::")
    except PermissionError:
        raise SystemRefused(f"cannot serve metrics on {where}: operation not permitted",
                            "take a port above 1023, or run with sudo") from None
    except OSError as error:
        # create_server puts its own words behind the system's.
        what = os.strerror(error.errno).lower() if error.errno else str(error)
        raise SystemRefused(f"cannot serve metrics on {where}: {what}",
                            f"see who has it: ss -ltnp 'sport = :{port}'"
                            if "in use" in what else "see the addresses here: ip address") from None


class _Latest:
    """The latest snapshot, gathered by one thread and rendered by those that serve."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._line = b""
        self._said: tuple[bytes, bytes] | None = None
        self._lock = threading.Lock()

    def gather(self, pipe: int) -> None:
        """Read snapshots until the program closes the pipe."""
        with open(pipe, "rb") as lines:
            while line := lines.readline(_MOST_SNAPSHOT):
                self._line = line

    def text(self) -> bytes | None:
        """What is served; None before the first snapshot."""
        with self._lock:
            line = self._line
            if not line:
                return None
            if self._said is None or self._said[0] is not line:
                said = self._render(json.loads(line)).encode("utf-8", "replace")
                self._said = (line, said)
            return self._said[1]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request, then the connection ends (HTTP/1.0)."""

    server_version, sys_version = "dhcp-netlab", ""
    timeout = 5.0
    latest: _Latest

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8",
                         b"<!doctype html><title>dhcp-netlab</title>"
                         b'<p><a href="/metrics">Metrics</a></p>\n')
        elif path != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"only /metrics is here\n")
        else:
            self._metrics()

    do_HEAD = do_GET

    def _metrics(self) -> None:
        try:
            text = self.latest.text()
        except Exception as error:
            said = f"the counts cannot be shown: {error!r}\n".encode("utf-8", "replace")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", said)
            return
        if text is None:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"no counts yet\n")
        else:
            self._answer(HTTPStatus.OK, CONTENT_TYPE, text)

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"only GET and HEAD\n",
                     ("Allow", "GET, HEAD"))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(self, status: HTTPStatus, kind: str, body: bytes,
                *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))),
                            ("Connection", "close"), *more):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what strangers ask is no news."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """One thread a connection, few connections, each for a short time."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[_Handler]) -> None:
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._ends: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._ends) >= MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._ends[request] = time.monotonic() + MOST_CONNECTION_S
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._ends.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End what is too old, such as a request that comes one octet at a time."""
        now = time.monotonic()
        for request, end in list(self._ends.items()):
            if now >= end:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that goes away in the middle is no error of ours."""


def _serve(listener: socket.socket, pipe: int, render: Render) -> None:
    """Serve until the program closes the pipe."""
    latest = _Latest(render)
    server = _Server(listener, type("Handler", (_Handler,), {"latest": latest}))
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    latest.gather(pipe)
