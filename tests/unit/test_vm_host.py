"""What a new Debian system is told of its host: hosts that say too much, too little, nonsense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vagrant import vm_host
from vagrant.vm_host import Mirrors

DEFAULT = Mirrors()


@pytest.mark.parametrize(("targets", "found"), [
    ([], DEFAULT),
    (["Debian|http://mirror/debian/", "Debian-Security|https://mirror/sec/"],
     Mirrors("http://mirror/debian", "https://mirror/sec")),
    # The first counts: the others are of other suites.
    (["Debian|http://a", "Debian|http://b"], Mirrors(main="http://a")),
    (["Ubuntu|http://archive.ubuntu.com", "Docker|https://download.docker.com"], DEFAULT),
    (["Debian Backports|http://backports", "debian|http://lower"], DEFAULT),
    # What debootstrap in a chroot cannot reach.
    (["Debian|file:/srv/mirror", "Debian|cdrom:[Debian 12]/", "Debian|copy:/x"], DEFAULT),
    (["Debian|file:/srv/mirror", "Debian|http://behind"], Mirrors(main="http://behind")),
    (["", "|", "Debian", "Debian|", "|http://nobody", "Debian||http://a", "\0|\0"], DEFAULT),
    (["Debian|http://a|b"], Mirrors(main="http://a|b")),
])
def test_mirrors(targets: list[str], found: Mirrors) -> None:
    assert vm_host.mirrors(targets) == found


def test_sources_name_each_suite_once() -> None:
    lines = Mirrors("http://m", "http://s").sources("bookworm").splitlines()
    assert lines == ["deb http://m bookworm main", "deb http://m bookworm-updates main",
                     "deb http://s bookworm-security main"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory that programs are found in; the test puts them there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(place: Path, name: str, body: str) -> None:
    (place / name).write_text(f"#!/bin/sh\n{body}\n")
    (place / name).chmod(0o755)


@pytest.mark.parametrize("body", [None, "exit 100", "echo 'Debian|http://no'; exit 1",
                                  r"printf '\377\376|\200\n'", "kill -9 $$"])
def test_an_apt_that_is_not_there_or_fails(programs: Path, body: str | None) -> None:
    if body:
        put(programs, "apt-get", body)
        put(programs, "apt-config", body.replace("Debian|", "http_proxy="))
    assert vm_host.mirrors() == DEFAULT
    assert vm_host.proxies({}) == {}


def test_a_file_of_that_name_that_cannot_be_run(programs: Path) -> None:
    (programs / "apt-get").write_text("no program")
    (programs / "apt-get").chmod(0o755)
    assert vm_host.mirrors() == DEFAULT


def test_proxies_of_the_environment_come_before_those_of_apt(programs: Path) -> None:
    put(programs, "apt-config", """echo "http_proxy='http://apt:3142'"
                                   echo "https_proxy='DIRECT'" """)
    assert vm_host.proxies({}) == {"http_proxy": "http://apt:3142"}
    assert vm_host.proxies({"http_proxy": "http://env", "no_proxy": "localhost", "https_proxy": "",
                            "ftp_proxy": "ftp://no"}) == {
        "http_proxy": "http://env", "no_proxy": "localhost"}


@pytest.mark.parametrize(("listing", "environment", "found"), [
    ("", {}, {}),
    ("global.index-url='https://a/simple'", {}, {"PIP_INDEX_URL": "https://a/simple"}),
    # An option of several lines is one of several words.
    ("global.find-links='\\n/opt/a\\n/opt/b'", {}, {"PIP_FIND_LINKS": "/opt/a /opt/b"}),
    ("install.no-deps='true'\nfreeze.user='x'\n:env:.cert='/c'", {}, {"PIP_NO_DEPS": "true"}),
    ("global.index-url='https://a'", {"PIP_INDEX_URL": "https://b"},
     {"PIP_INDEX_URL": "https://b"}),
    ("", {"PIP_CONFIG_FILE": "/etc/pip.conf", "PIP_CERT": "/c", "PIPX_HOME": "/x", "HOME": "/"},
     {"PIP_CERT": "/c"}),
    # What pip never says, but what stands before or after it may.
    ("WARNING: the cache\nglobal.a\nglobal.b=\nglobal.c=plain words\nglobal.d='cut sh", {}, {}),
    ("global.run=__import__('os').abort()\nglobal.ok='1'", {}, {"PIP_OK": "1"}),
])
def test_pip_settings(listing: str, environment: dict[str, str], found: dict[str, str]) -> None:
    assert vm_host.pip_settings(listing, environment) == found


def test_the_directories_that_pip_reads(tmp_path: Path) -> None:
    for name in ("index/simple", "more/simple", "wheels", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ca.crt").write_text("a file")
    found = vm_host.local_places({
        "PIP_INDEX_URL": f"file://{tmp_path}/index/simple",
        "PIP_EXTRA_INDEX_URL": f"https://pypi.org/simple file://{tmp_path}/more/simple/",
        "PIP_FIND_LINKS": f"{tmp_path}/wheels {tmp_path}/gone ./other other",
        "PIP_CERT": f"{tmp_path}/ca.crt", "PIP_TRUSTED_HOST": "pypi.org", "PIP_NO_DEPS": ""})
    assert found == [tmp_path / name for name in ("index", "more", "wheels")]


@pytest.mark.parametrize("name", ["PIP_FIND_LINKS", "PIP_INDEX_URL"])
@pytest.mark.parametrize("place", ["/", "file:///", "/usr/..", "file:///./", "//", "/proc/.."])
def test_the_root_of_the_host_is_never_lent(name: str, place: str) -> None:
    assert vm_host.local_places({name: place}) == []


def test_an_index_at_the_top_lends_nothing() -> None:
    top = next(entry.name for entry in os.scandir("/") if entry.is_dir() and not
               entry.is_symlink())
    assert vm_host.local_places({"PIP_INDEX_URL": f"file:///{top}"}) == []
    assert vm_host.local_places({"PIP_FIND_LINKS": f"/{top}"}) == [Path("/", top)]
