"""Real DHCP programs from Debian's packages, unpacked privately and never installed.

The one thing to know: installing these packages would start daemons that answer on the user's
own network, so nothing here runs `dpkg -i`, a maintainer script or an apt hook. apt resolves
and fetches (its own cache, its own state, the host's package lists only read), `dpkg-deb -x`
unpacks into a cache folder, one tree a package: some of these packages push one another out.

    python -m tests.peers.unpack [--all | PACKAGE...]     fetch, and print what is there
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE_ENV = "DHCP_NETLAB_PEERS"
LISTS_ON_HOST = Path("/var/lib/apt/lists")
APT_TIMEOUT_S = 300
LISTS_FRESH_S = 3600
# Not from a tree when the host has it: a reader of captures never starts a daemon.
HOST_FIRST = frozenset({"tshark", "dumpcap"})
# Shipped by Debian as a link to busybox: (package, applet).
APPLETS = frozenset({"udhcpc", "udhcpd"})
PACKAGE_OF = {
    "kea-dhcp4": "kea-dhcp4-server",
    "kea-lfc": "kea-dhcp4-server",
    "perfdhcp": "kea-admin",
    "dhcpd": "isc-dhcp-server",
    "dhclient": "isc-dhcp-client",
    "dhcrelay": "isc-dhcp-relay",
    "dnsmasq": "dnsmasq-base",
    "dhcpcd": "dhcpcd-base",
    "udhcpc": "udhcpc",
    "udhcpd": "udhcpd",
    "tshark": "tshark",
    "dumpcap": "tshark",
    "arping": "iputils-arping",
    "systemd-networkd": "systemd",
}

_APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
Debug::NoLocking "true";
Dir::Cache "{apt}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{apt}/log";
Dir::State "{apt}/state";
Dir::State::status "/var/lib/dpkg/status";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Retries "2";
"""


class PeersUnavailable(Exception):
    """Why no real peer can be had here: `str()` of it is one line, fit for a skipped test."""


@dataclass(frozen=True)
class Program:
    """A real program and what it needs to run from where it was unpacked.

    command: absolute path, followed by the applet's name for busybox.
    env: added to the environment, LD_LIBRARY_PATH where libraries came along.
    tree: the root it was unpacked under; `/` for the host's own.
    """

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    tree: Path
    version: str

    @property
    def path(self) -> Path:
        return Path(self.command[0])

    def argv(self, *arguments: str, **env: str) -> list[str]:
        """A command line that needs no further environment, fit for `Namespace.popen`."""
        settings = [f"{key}={value}" for key, value in {**self.env, **env}.items()]
        return ["env", *settings, *self.command, *arguments]


def release() -> dict[str, str]:
    """What the distribution says of itself (os-release(5)); empty where it does not."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def cache_folder() -> Path:
    """Where the trees are kept: $DHCP_NETLAB_PEERS, else under this user's own home.

    The home is the passwd entry's, not $HOME: under sudo that may be another user's, and
    these programs run as root.
    """
    distribution = release()
    named = f"{distribution.get('ID', 'linux')}-{distribution.get('VERSION_ID', 'rolling')}"
    if place := os.environ.get(CACHE_ENV):
        return Path(place).absolute() / named
    home = pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home, ".cache", "dhcp-netlab", "peers", named)


def _say(line: str) -> None:
    print(f"peers: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another run that is unpacking")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _versions(tree: Path) -> dict[str, str] | None:
    """What `tree` was made of, {package: version}; None where it is not complete."""
    try:
        found: dict[str, str] = json.loads((tree / "versions.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def _apt(apt: Path, *arguments: str) -> str:
    """Run apt-get with private cache and state. Returns "" or its reason for failing."""
    command = ["apt-get", "-c", str(apt / "apt.conf"), "-qq", "-y", *arguments]
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=APT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"apt-get gave no answer in {APT_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    errors = [line[3:] for line in done.stderr.splitlines() if line.startswith("E: ")]
    return errors[0] if errors else f"apt-get ended with {done.returncode}"


def _fresh(lists: Path) -> bool:
    newest = max((f.stat().st_mtime for f in lists.glob("*_Packages*")), default=0.0)
    return time.time() - newest < LISTS_FRESH_S


def _host_lists(scratch: Path) -> Path:
    """A folder of links to the host's lists: apt changes the mode of what it finds in its own."""
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    for place in LISTS_ON_HOST.glob("*_dists_*"):
        (lists / place.name).symlink_to(place)
    return lists


def _fetch(folder: Path, package: str, archives: Path) -> list[Path]:
    """Download `package` and every dependency the host lacks into `archives`."""
    apt = folder / "apt"
    own_lists = apt / "state" / "lists"
    for needed in (archives / "partial", own_lists / "partial", apt / "cache", apt / "log"):
        needed.mkdir(parents=True, exist_ok=True)
    (apt / "apt.conf").write_text(_APT_CONF.format(apt=apt))
    wanted = ("--reinstall", "--download-only", "-o", f"Dir::Cache::archives={archives}")
    reasons = []
    # The host's lists save a download of 20 MB, where they exist and are not stale.
    for lists in (_host_lists(archives.parent), own_lists):
        place = f"Dir::State::lists={lists}"
        if lists == own_lists and not _fresh(lists):
            _say("reading package lists (a private copy)")
            reasons.append(_apt(apt, "-o", place, "update"))
        if any(lists.glob("*_Packages*")):
            reasons.append(_apt(apt, *wanted, "-o", place, "install", package))
            if not reasons[-1]:
                return sorted(archives.glob("*.deb"))
    reason = next(filter(None, reasons), "no package lists could be read")
    missing = " not found" if "Unable to locate" in reason else ""
    raise PeersUnavailable(f"package {package}{missing}: {reason}")


def _unpack(folder: Path, package: str) -> None:
    """Make trees/PACKAGE: into a temporary folder first, then renamed, so never half there."""
    began = time.monotonic()
    _say(f"fetching {package}")
    with tempfile.TemporaryDirectory(prefix=f".{package}-", dir=folder) as scratch:
        tree, archives = Path(scratch, "tree"), Path(scratch, "archives")
        tree.mkdir()
        versions = {}
        for deb in _fetch(folder, package, archives):
            name, version = subprocess.run(
                ["dpkg-deb", "-W", "--showformat=${Package} ${Version}", str(deb)],
                check=True, capture_output=True, text=True).stdout.split()
            if name == "libc6":
                raise PeersUnavailable(f"package {package} needs libc6 {version}, newer than the "
                                       "host's: upgrade the host first")
            subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True)
            versions[name] = version
        if package not in versions:
            raise PeersUnavailable(f"package {package} not found: apt-get fetched no such file")
        (tree / "versions.json").write_text(json.dumps(versions, indent=1))
        target = folder / "trees" / package
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        tree.rename(target)
    _say(f"{package} {versions[package]} unpacked in {time.monotonic() - began:.1f} s")


_refused: dict[tuple[Path, str], PeersUnavailable] = {}


def _always(_: Path) -> bool:
    return True


def ensure(*packages: str, whole: Callable[[Path], bool] = _always) -> Path:
    """Have every package of `packages` unpacked; returns the folder with one tree for each.

    Milliseconds when they are there. A tree has only what the host lacked when it was made: one
    that is not `whole` any more is made again. A failure is remembered for this process, so that
    a machine without network is slow once and not once a test. Raises PeersUnavailable.
    """
    folder = cache_folder()
    trees = folder / "trees"

    def is_there(package: str) -> bool:
        return _versions(trees / package) is not None and whole(trees / package)

    missing = [package for package in packages if not is_there(package)]
    if not missing:
        return trees
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PeersUnavailable(f"no {tool} on this machine")
    for package in missing:
        if known := _refused.get((folder, package)):
            raise known
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.geteuid():
                raise PeersUnavailable(f"{folder} belongs to another user: set {CACHE_ENV}")
            with _locked(folder):
                if not is_there(package):
                    _unpack(folder, package)
                    if not is_there(package):
                        raise PeersUnavailable(f"package {package} does not bring all it needs")
        except PeersUnavailable as refused:
            _refused[(folder, package)] = refused
            raise
        except (OSError, subprocess.SubprocessError) as error:
            raise PeersUnavailable(f"cannot unpack into {folder}: {error}") from error
    return trees


def library_path(tree: Path) -> str:
    """Every folder of `tree` that holds shared libraries, in the loader's order."""
    roots = [tree / "usr/lib", tree / "lib"]
    # systemd keeps a library of its own one folder deeper.
    places = [place for root in roots for place in (
        *sorted(root.glob("*-linux-*")), *sorted(root.glob("*-linux-*/systemd")), root)]
    return ":".join(str(p) for p in places if any(p.glob("*.so*")))


def _in_tree(tree: Path, name: str) -> Path | None:
    for place in ("usr/sbin", "sbin", "usr/bin", "bin", "usr/lib/systemd", "lib/systemd"):
        # A link may point to an absolute path, which means another place outside the tree.
        if os.path.lexists(found := tree / place / name):
            return found
    return None


def program(name: str) -> Program:
    """The real program `name` of PACKAGE_OF, unpacked if need be. Raises PeersUnavailable."""
    if name in HOST_FIRST and (on_host := shutil.which(name)):
        return Program(name, (on_host,), {}, Path("/"), "the host's")
    package = PACKAGE_OF[name]
    tree = ensure(package) / package
    versions = _versions(tree) or {}
    wanted = "busybox" if name in APPLETS else name
    found = _in_tree(tree, wanted)
    # busybox, dumpcap: dependencies that the host may have already, and so not in the tree.
    path = str(found) if found else shutil.which(wanted)
    if path is None:
        raise PeersUnavailable(f"package {package} {versions.get(package)} has no {wanted}")
    command = (path, name) if name in APPLETS else (path,)
    libraries = library_path(tree)
    env = {"LD_LIBRARY_PATH": libraries} if libraries else {}
    return Program(name, command, env, tree, versions[package])


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    if any(word.startswith("-") and word != "--all" for word in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    every = [package for name, package in PACKAGE_OF.items()
             if name not in HOST_FIRST or shutil.which(name) is None]
    wanted = dict.fromkeys(every if "--all" in arguments else arguments)
    failed = 0
    for package in wanted:
        try:
            ensure(package)
        except PeersUnavailable as refused:
            _say(str(refused))
            failed = 1
    trees = cache_folder() / "trees"
    print(trees)
    for tree in sorted(trees.glob("*")):
        versions = _versions(tree) or {}
        names = [name for name, package in PACKAGE_OF.items() if package == tree.name]
        size_mib = sum(f.stat().st_size for f in tree.rglob("*") if f.is_file()
                       and not f.is_symlink()) / 2**20
        print(f"  {tree.name:18}{versions.get(tree.name, 'incomplete'):28}{size_mib:6.1f} MiB  "
              f"{', '.join(names)}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
