"""Where bcc and headers are looked for, on systems made of empty files."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf import toolchain
from fastpath.errors import SystemRefused

SOURCE_ENV = "BCC_KERNEL_SOURCE"


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without anything, of one architecture."""
    monkeypatch.setenv(toolchain.ROOT_ENV, str(tmp_path))
    monkeypatch.delenv(SOURCE_ENV, raising=False)
    monkeypatch.setattr(toolchain, "_KHEADERS", tmp_path / "kheaders.tar.xz")
    # An absolute one takes the place of what stands before it.
    monkeypatch.setattr(platform, "release", lambda: str(tmp_path / "running"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return tmp_path


@pytest.fixture
def no_bcc_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name == "bcc" or name.startswith("bcc.")]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name == "bcc" or name.startswith("bcc.")]:
        del sys.modules[name]


def files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def debian(root: Path, version: str, common: str, arch: str = "x86", flavour: str = "amd64",
           ) -> tuple[Path, Path]:
    """The two trees of a kernel's headers."""
    place = root / "usr/src"
    own = place / f"linux-headers-{version}-{flavour}"
    shared = place / f"linux-headers-{common}"
    files(own, "include/generated/autoconf.h", "include/config/auto.conf",
          f"arch/{arch}/include/generated/asm/types.h")
    (own / "Makefile").write_text(f"include /usr/src/{shared.name}/Makefile\n")
    files(shared, "Makefile", "include/linux/kconfig.h", "include/uapi/linux/bpf.h",
          f"arch/{arch}/include/asm/page.h", f"arch/{arch}/Makefile")
    return own, shared


def bcc_at(root: Path, text: str) -> Path:
    place = root / "usr/lib/python3/dist-packages"
    files(place, "bcc/__init__.py", "bcc/libbcc.py")
    (place / "bcc/__init__.py").write_text(text)
    (place / "bcc/libbcc.py").write_text("")
    return place


def test_headers_that_bcc_finds_by_itself(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian(system, "6.1.0-1", "6.1.0-1-common")
    assert len(toolchain.headers()) == 2
    with monkeypatch.context() as patch:
        patch.setenv(SOURCE_ENV, "/somewhere")
        assert toolchain.headers() == ()
    files(system, "kheaders.tar.xz")
    assert toolchain.headers() == ()
    (system / "kheaders.tar.xz").unlink()
    (system / "running/build").mkdir(parents=True)
    assert toolchain.headers() == ()


def test_a_link_to_headers_that_were_removed_is_none(system: Path) -> None:
    trees = debian(system, "6.1.0-1", "6.1.0-1-common")
    (system / "running").mkdir()
    (system / "running/build").symlink_to(system / "usr/src/linux-headers-of-yore")
    assert toolchain.headers() == trees


@pytest.mark.parametrize("prepare", ["nothing", "common alone", "another machine's", "half"])
def test_no_headers(system: Path, prepare: str) -> None:
    own, shared = debian(system, "6.1.0-1", "6.1.0-1-common",
                         arch="arm64" if prepare == "another machine's" else "x86")
    if prepare in ("nothing", "common alone"):
        own.rename(system / "elsewhere")
    if prepare == "nothing":
        shared.rename(system / "elsewhere too")
    if prepare == "half":
        (own / "include/generated/autoconf.h").unlink()
    with pytest.raises(SystemRefused, match="no kernel headers"):
        toolchain.headers()
    with pytest.raises(SystemRefused), toolchain.for_bcc():
        pass
    assert SOURCE_ENV not in os.environ


# As Debian 12, its backports, Debian 13 and Ubuntu name them, oldest first.
VERSIONS = (("5.10.0-8", "5.10.0-8-common", "amd64"), ("6.1.0-9", "6.1.0-9-common", "amd64"),
            ("6.1.0-10", "6.1.0-10-common", "amd64"),
            ("6.1.0-56", "6.1.0-56-common", "cloud-amd64"),
            ("6.1.0-57", "6.1.0-57-common-rt", "rt-amd64"),
            ("6.12.9+bpo", "6.12.9+bpo-common", "amd64"),
            ("6.12.41+deb13", "6.12.41+deb13-common", "amd64"),
            ("6.12.43+deb13", "6.12.43+deb13-common", "amd64"))


def test_the_newest_headers_with_what_goes_with_them(system: Path) -> None:
    for version, common, flavour in VERSIONS:
        trees = debian(system, version, common, flavour=flavour)
        assert toolchain.headers() == trees


@pytest.mark.parametrize("makefile", [None, "", "include ../other/Makefile", "\xff\xfe"])
def test_headers_in_one_tree(system: Path, makefile: str | None) -> None:
    """As Ubuntu has them, with links to what is common; the Makefile is anything."""
    own, _ = debian(system, "6.8.0-45", "6.8.0-45", flavour="generic")
    (own / "Makefile").unlink()
    if makefile is not None:
        (own / "Makefile").write_bytes(makefile.encode("latin-1"))
    assert toolchain.headers() == (own,)


def test_two_trees_look_like_one(system: Path) -> None:
    own, shared = debian(system, "6.1.0-1", "6.1.0-1-common")
    with toolchain.for_bcc():
        one = Path(os.environ[SOURCE_ENV])
        for name in ("include/generated/autoconf.h", "arch/x86/include/generated/asm/types.h"):
            assert (one / name).samefile(own / name)
        for name in ("include/linux/kconfig.h", "arch/x86/include/asm/page.h", "arch/x86/Makefile"):
            assert (one / name).samefile(shared / name)
    assert SOURCE_ENV not in os.environ and not one.exists()
    with pytest.raises(KeyError), toolchain.for_bcc():
        one = Path(os.environ[SOURCE_ENV])
        raise KeyError
    assert SOURCE_ENV not in os.environ and not one.exists()


def test_several_places_stand_for_the_system(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also named from where one stands, and with nothing between two colons."""
    monkeypatch.chdir(system)
    trees = debian(system / "b", "6.1.0-1", "6.1.0-1-common")
    place = bcc_at(system / "a", "")
    bcc_at(system / "b", "")
    monkeypatch.setenv(toolchain.ROOT_ENV, "nowhere:a::b")
    assert toolchain.headers() == trees
    assert toolchain.bcc_place() == place
    with toolchain.for_bcc():
        assert (Path(os.environ[SOURCE_ENV]) / "include/linux/kconfig.h").is_file()


def test_no_bcc(system: Path, no_bcc_yet: None) -> None:
    assert toolchain.bcc_place() is None
    with pytest.raises(SystemRefused, match="bcc is not installed"):
        toolchain.bcc()


def test_only_the_distribution_s_bcc(system: Path, monkeypatch: pytest.MonkeyPatch,
                                     no_bcc_yet: None) -> None:
    """PyPI has something else of that name; and the search for modules is as it was."""
    files(system / "site", "bcc/__init__.py")
    monkeypatch.syspath_prepend(str(system / "site"))
    place = bcc_at(system, "from .libbcc import __name__ as right\n")
    before = list(sys.path)
    assert toolchain.bcc().right == "bcc.libbcc"
    assert str(toolchain.bcc().__file__) == str(place / "bcc/__init__.py")
    assert sys.path == before


@pytest.mark.parametrize(("text", "why"), [
    ("raise OSError('libbcc.so.0: cannot open shared object file')", "libbcc.so.0"),
    ("import no_such_module", "no_such_module"),
    ("from .libbcc import gone", "gone"),
    ("raise AttributeError('symbol not found')", "symbol"),
    ("a syntax of tomorrow", "syntax"),
])
def test_a_bcc_that_does_not_start(system: Path, no_bcc_yet: None, text: str, why: str) -> None:
    bcc_at(system, text)
    for _ in range(2):
        with pytest.raises(SystemRefused, match="does not start") as refused:
            toolchain.bcc()
        assert why in refused.value.what and "\n" not in refused.value.what
        assert "bcc" not in sys.modules
