"""A directory of real programs under their own names, for whoever looks for them by name.

The one thing to know: each is a script that ends in exec, so its pid is the program's own.
`dhcp-server`, `dhcp-relay` and `dhcp-tester` are this checkout's, installed or not.

    monkeypatch.setenv("DHCP_NETLAB_BIN", str(peers_bin("kea-dhcp4", "dhcrelay")))
"""

from __future__ import annotations

import atexit
import functools
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.peers.unpack import program

_REPOSITORY = Path(__file__).resolve().parents[2]
OURS = {"dhcp-server": "server", "dhcp-relay": "relay", "dhcp-tester": "tester"}


def _command(name: str) -> Sequence[str]:
    if name in OURS:
        return ("env", f"PYTHONPATH={_REPOSITORY}", sys.executable, "-m", f"{OURS[name]}.cli")
    return program(name).argv()


@functools.cache
def peers_bin(*names: str) -> Path:
    """Where each of `names` can be executed; removed when the interpreter ends.

    Raises PeersUnavailable.
    """
    folder = Path(tempfile.mkdtemp(prefix="dnt-bin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in names:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(_command(name))} "$@"\n')
        script.chmod(0o755)
    return folder
