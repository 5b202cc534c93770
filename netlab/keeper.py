"""Who keeps a rootless lab: a process that does nothing but be in its user namespace.

Namespaces end with the last process in them, and `lab setup` ends. So it leaves a keeper, at
a socket whose name (unix(7): abstract) has no file and goes with it. A command that comes
gets the namespaces as descriptors and keeps its connection for as long as it lives: when the
last one is gone and no lab is left, the keeper ends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import NoReturn

from fastpath.errors import SystemRefused
from netlab.enter import NETNS_DIRECTORY
from netlab.state import DEFAULT_ROOT

# In the order in which one enters them: the first one's rights are those for the others.
KINDS = ("user", "mnt", "net")
# What is here while there is a lab: its namespaces, its journal.
_INHABITED = (NETNS_DIRECTORY, DEFAULT_ROOT)
_GREETING = b"dhcp-netlab"
_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_MOST_COMMANDS = 256
_ANSWER_TIMEOUT_S = 10.0


def address(world: str | None) -> bytes:
    """Where the keeper of this user's labs listens; `world` tells several of them apart."""
    suffix = "/" + hashlib.sha256(os.fsencode(world)).hexdigest()[:8] if world else ""
    return f"\0dhcp-netlab/{os.geteuid()}{suffix}".encode()


def join(where: bytes) -> tuple[socket.socket, list[int]] | None:
    """A connection to the keeper there, and descriptors of its namespaces, in order of KINDS.

    The keeper stays while the connection does. None when there is no keeper. SystemRefused
    when it is somebody else's, or does not answer.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_ANSWER_TIMEOUT_S)
        connection.connect(where)
        pid, uid = _peer(connection)
        if uid != os.geteuid():
            raise SystemRefused(f"pid {pid} of uid {uid} has taken the place of your labs' "
                                "keeper", f"end it: sudo kill {pid}")
        said, spaces, _, _ = socket.recv_fds(connection, len(_GREETING), len(KINDS),
                                             socket.MSG_CMSG_CLOEXEC)
    except TimeoutError:
        connection.close()
        raise SystemRefused(f"the keeper of your labs (pid {pid}) does not answer",
                            f"end it, and its labs: kill -9 {pid}") from None
    except (ConnectionRefusedError, ConnectionResetError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    if said != _GREETING or len(spaces) != len(KINDS):
        # It ended when we came.
        for descriptor in spaces:
            os.close(descriptor)
        connection.close()
        return None
    connection.settimeout(None)
    return connection, spaces


def listen(where: bytes) -> socket.socket | None:
    """The socket of a keeper to be; None when there is one. Who connects waits for `start`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    listener.listen()
    return listener


def start(listener: socket.socket) -> socket.socket:
    """Fork a keeper of the namespaces that this process is in; our connection to it."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        listener.close()
        return ours
    try:
        _stand_alone((listener.fileno(), theirs.fileno()))
        _keep(listener, theirs)
    finally:
        # Never back into the command that forked us, whatever happened.
        os._exit(1)


def _peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of who listens, or of who connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _ = _PEER.unpack(credentials)
    return pid, uid


def _stand_alone(kept: tuple[int, int]) -> None:
    """Let go of the terminal, the directory and the files of the command that forked us."""
    os.setsid()
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    last = 2
    for descriptor in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        os.closerange(last + 1, descriptor)
        last = descriptor
    # What `ps` and `top` show.
    Path("/proc/self/comm").write_text("lab-keeper")


def _keep(listener: socket.socket, first: socket.socket) -> NoReturn:
    spaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in KINDS]
    # Once more: who connects is told the pid of whom listened last, and that is to be ours.
    listener.listen()
    listener.setblocking(False)
    commands = {first.fileno(): first}
    poll = select.poll()
    poll.register(first, select.POLLIN)
    while commands or _inhabited():
        poll.register(listener, select.POLLIN if len(commands) < _MOST_COMMANDS else 0)
        for descriptor, _ in poll.poll():
            if descriptor != listener.fileno():
                # A command says nothing; this is its end.
                poll.unregister(descriptor)
                commands.pop(descriptor).close()
            elif (command := _welcome(listener, spaces)) is not None:
                commands[command.fileno()] = command
                poll.register(command, select.POLLIN)
    os._exit(0)


def _welcome(listener: socket.socket, spaces: list[int]) -> socket.socket | None:
    """The next connection, told where we are; None when it went away or is not our user's."""
    try:
        command, _ = listener.accept()
    except BlockingIOError:
        return None
    except OSError:
        # No descriptor, no memory: its command waits, and we are not to burn a core on that.
        time.sleep(0.1)
        return None
    with contextlib.suppress(OSError):
        command.setblocking(False)
        if _peer(command)[1] == os.geteuid():
            socket.send_fds(command, [_GREETING], spaces)
            return command
    command.close()
    return None


def _inhabited() -> bool:
    for place in _INHABITED:
        with contextlib.suppress(OSError):
            if any(place.iterdir()):
                return True
    return False
