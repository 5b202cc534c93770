"""A machine for each test that asks for one, and a reason where there can be none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.machine import Machine, machine, stop_server


def _may_make_namespaces() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> 21 & 1)


@pytest.fixture(scope="session")
def _able() -> Iterator[None]:
    if not _may_make_namespaces():
        pytest.skip("needs CAP_SYS_ADMIN: network namespaces")
    for tool in ("ip", "nsenter", "unshare", "setpriv"):
        if not shutil.which(tool):
            pytest.skip(f"needs the program {tool}")
    yield
    stop_server()


@pytest.fixture
def host(_able: None) -> Iterator[Machine]:
    """A machine of the test's own."""
    with machine() as made:
        yield made


@pytest.fixture(scope="module")
def standing(_able: None) -> Iterator[Machine]:
    """A machine where a lab is up, for tests that change nothing."""
    with machine() as made:
        made.lab("setup")
        yield made
