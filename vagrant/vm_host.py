"""What of the host's configuration a new Debian system needs to be made: mirrors, proxies, pip's.

A host may have no way to the world but a mirror of its own: what it was told, the new system is
told while it is being made.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TARGETS = ("apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Mirrors:
    """Where a Debian host gets its packages; of another host, Debian's own."""

    main: str = "http://deb.debian.org/debian"
    security: str = "http://deb.debian.org/debian-security"

    def sources(self, suite: str) -> str:
        """sources.list of a system of that suite."""
        return (f"deb {self.main} {suite} main\ndeb {self.main} {suite}-updates main\n"
                f"deb {self.security} {suite}-security main\n")


def mirrors(targets: Iterable[str] | None = None) -> Mirrors:
    """targets: lines LABEL|URI, the label of a Release file; None to ask apt."""
    found: dict[str, str] = {}
    for line in _said(_TARGETS).splitlines() if targets is None else targets:
        label, _, uri = line.partition("|")
        if uri.startswith(("http://", "https://")):
            found.setdefault(label, uri.rstrip("/"))
    default = Mirrors()
    return Mirrors(found.get("Debian", default.main),
                   found.get("Debian-Security", default.security))


def proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The proxies of the environment, and apt's where that names none."""
    found = {name: environment[name] for name in _PROXIES if environment.get(name)}
    said = _said(("apt-config", "shell", "http_proxy", "Acquire::http::Proxy",
                  "https_proxy", "Acquire::https::Proxy"))
    for word in shlex.split(said):
        name, _, value = word.partition("=")
        if value and value != "DIRECT":
            found.setdefault(name, value)
    return found


def pip_settings(listing: str | None = None,
                 environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """pip's settings as variables. listing: what `pip config list` says, None to ask pip.

    Of a setting in several places the environment's is the one that counts, as pip has it.
    """
    if listing is None:
        listing = _said((sys.executable, "-m", "pip", "config", "list"))
    found = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(?:global|install)\.([\w-]+)=(.+)", line)
        if match:
            try:
                value = str(ast.literal_eval(match[2]))
            except (ValueError, SyntaxError):
                # Not pip's way of saying a setting: a warning that looks like one.
                continue
            found["PIP_" + match[1].upper().replace("-", "_")] = " ".join(value.split())
    # PIP_CONFIG_FILE names a file of the host; what it says is in the listing.
    return found | {name: value for name, value in environment.items()
                    if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"}


def local_places(settings: Mapping[str, str]) -> list[Path]:
    """The directories of this host that pip's settings name.

    The pages of an index link to files beside it, so of an index it is the directory above. Never
    `/`: lent to the new system, it would hide that from itself.
    """
    places = set()
    for name, value in settings.items():
        for word in value.split():
            place = Path(os.path.normpath(word.removeprefix("file://")))
            if place.is_absolute() and place.is_dir():
                places.add(place.parent if name.endswith("INDEX_URL") else place)
    return sorted(place for place in places if place != place.parent)


def _said(command: Sequence[str]) -> str:
    """What it prints; nothing where there is no such program, or it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace")
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
