"""Running as a program: asked to stop, ready, and who else has the port.

A signal only sets a number and wakes whatever sleeps on `fd`; nothing is torn from the
middle of a batch.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from types import FrameType

from fastpath import bpf
from fastpath.errors import SystemRefused


class Stop:
    """Counts requests to end: SIGINT and SIGTERM (and what else is named).

    asked: how often so far. fd: readable from the first request on.
    """

    def __init__(self, *signals: int) -> None:
        self.asked = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.fd = self._read
        self._before = {number: signal.signal(number, self._on_signal)
                        for number in (signal.SIGINT, signal.SIGTERM, *signals)}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        os.write(self._write, b"!")

    def heard(self) -> None:
        """Empty the pipe, so that the next wait sleeps until the next request."""
        try:
            os.read(self._read, 64)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Put the signals back as they were."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Stop:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def notify(state: str) -> None:
    """Tell whoever started us, where he asked to be told: sd_notify(3)."""
    place = os.environ.get("NOTIFY_SOCKET")
    if not place:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            # Whoever listened has gone; that is no reason to stop serving.
            return


def hold_port(port: int, interface: str) -> socket.socket:
    """Own UDP `port` on `interface` without reading from it; close the result to let go.

    Without an owner the kernel would answer unicast requests, which the ring has seen, with
    "port unreachable". It also keeps two servers from answering side by side.
    Raises SystemRefused when another program has it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        bpf.attach(sock, bpf.NOTHING)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemRefused(f"UDP port {port} on {interface!r} is in use",
                                f"see who: ss -lunp 'sport = {port}'") from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise SystemRefused(f"cannot take UDP port {port} on {interface!r}: "
                                "operation not permitted", "run with sudo") from None
        raise SystemRefused(f"cannot take UDP port {port} on {interface!r}: "
                            f"{error.strerror}") from None
    return sock
