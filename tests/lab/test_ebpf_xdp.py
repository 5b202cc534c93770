"""An XDP program through the same compiler, loader, maps and attachment as the counters.

It is what a fast path in the driver will stand on: a file from elsewhere, with maps of its own.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ebpf import attach
from ebpf.module import Kind, Module
from fastpath.elsewhere import within
from fastpath.errors import SystemRefused
from netlab.features import probe
from tests.peers.net import INTERFACE, Net, two_namespaces, wait_until

pytestmark = [
    pytest.mark.root, pytest.mark.bcc,
    pytest.mark.skipif("xdp" not in probe().has, reason="needs XDP (CONFIG_BPF_SYSCALL)"),
]

# Counts frames of one type by the octet that comes first in them, STEP each; DROPS loses them.
_COUNTER = """
struct row { u64 frames, octets; };
BPF_PERCPU_ARRAY(seen, struct row, ROWS);

int count(struct xdp_md *ctx) {
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
    if (data + 15 > end || data[12] != 0x88 || data[13] != 0xb5)
        return XDP_PASS;
    u32 number = data[14];
    struct row *row = seen.lookup(&number);
    if (row) {
        row->frames += STEP;
        row->octets += end - data;
    }
    return DROPS ? XDP_DROP : XDP_PASS;
}
"""
_ROW = np.dtype([("frames", "u8"), ("octets", "u8")])
_TYPE = 0x88B5
_FRAME = bytes.fromhex("ffffffffffff 020000000001 88b5")
_OCTETS = 60
_ROWS = 200
# linux/if_link.h: XDP_ATTACHED_DRV, XDP_ATTACHED_SKB
_MODES = {True: 1, False: 2}
both = pytest.mark.parametrize("driver", [False, True], ids=["generic", "driver"])


@pytest.fixture
def net() -> Iterator[Net]:
    with two_namespaces(server_address="") as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "counter.c").write_text(_COUNTER)
    return str(tmp_path / "counter.c")


def counter(source: str, step: int = 1, drops: int = 0) -> Module:
    return Module(source, defines={"ROWS": _ROWS, "STEP": step, "DROPS": drops})


def put(net: Net, program: int, driver: bool, replace: bool = False) -> None:
    within(net.server.name, partial(attach.xdp, INTERFACE, program, driver=driver,
                                    replace=replace))


def sender(net: Net) -> socket.socket:
    def opened() -> socket.socket:
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        mouth.bind((INTERFACE, 0))
        return mouth

    return within(net.client.name, opened)


def ear(net: Net) -> socket.socket:
    """A socket that hears what XDP lets pass."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_TYPE))
        made.bind((INTERFACE, _TYPE))
        made.settimeout(5)
        return made

    return within(net.server.name, opened)


def send(mouth: socket.socket, numbers: range) -> None:
    """One frame with the first number, two with the second, three with the third."""
    for times, number in enumerate(numbers, 1):
        for _ in range(times):
            mouth.send(_FRAME + bytes([number]) + bytes(_OCTETS - len(_FRAME) - 1))


def frames(module: Module) -> list[int]:
    """By number; those of the CPUs added up."""
    rows = module.table("seen").rows(_ROW, per_cpu=True)
    assert (rows["octets"].sum(axis=1) % _OCTETS == 0).all()
    return [int(count) for count in rows["frames"].sum(axis=1)]


def await_frames(module: Module, total: int) -> list[int]:
    # In the driver a veth hands frames over to a task of its own.
    wait_until(f"{total} frames to be counted", lambda: sum(frames(module)) >= total)
    return frames(module)


def mode(net: Net) -> int:
    """0 where no XDP program runs."""
    return int(net.server.links()[INTERFACE].get("xdp", {}).get("mode", 0))


@both
def test_counted_replaced_and_removed(net: Net, source: str, driver: bool) -> None:
    with counter(source) as first, counter(source, step=1000) as second, sender(net) as mouth, \
            ear(net) as heard:
        put(net, first.load("count", Kind.XDP), driver)
        assert mode(net) == _MODES[driver]
        send(mouth, range(7, 10))
        assert await_frames(first, 6)[6:11] == [0, 1, 2, 3, 0]
        assert sum(frames(first)) == 6
        assert [heard.recv(100)[14] for _ in range(6)] == [7, 8, 8, 9, 9, 9], "passed on, in order"

        put(net, second.load("count", Kind.XDP), driver, replace=True)
        send(mouth, range(198, 200))
        assert await_frames(second, 3000)[197:] == [0, 1000, 2000]
        assert sum(frames(first)) == 6
        assert mode(net) == _MODES[driver]

        put(net, -1, driver)
        assert mode(net) == 0
        send(mouth, range(1))
        assert [heard.recv(100)[14] for _ in range(4)] == [198, 199, 199, 0]
        assert sum(frames(second)) == 3000


@both
def test_it_decides(net: Net, source: str, driver: bool) -> None:
    with counter(source, drops=1) as module, sender(net) as mouth, ear(net) as heard:
        put(net, module.load("count", Kind.XDP), driver)
        send(mouth, range(1, 4))
        assert await_frames(module, 6)[:5] == [0, 1, 2, 3, 0]
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(100)


@both
def test_somebody_s_program_is_not_pushed_out_unasked(net: Net, source: str, driver: bool) -> None:
    with counter(source) as ours, counter(source) as theirs, sender(net) as mouth:
        put(net, theirs.load("count", Kind.XDP), driver)
        with pytest.raises(OSError) as refused:
            put(net, ours.load("count", Kind.XDP), driver)
        assert refused.value.errno == errno.EBUSY
        send(mouth, range(1))
        assert await_frames(theirs, 1)[0] == 1
        assert sum(frames(ours)) == 0


@both
def test_an_interface_keeps_its_program_when_the_module_is_closed(net: Net, source: str,
                                                                  driver: bool) -> None:
    with counter(source, drops=1) as module:
        put(net, module.load("count", Kind.XDP), driver)
    assert mode(net) == _MODES[driver]
    with sender(net) as mouth, ear(net) as heard:
        send(mouth, range(3))
        heard.settimeout(0.2)
        with pytest.raises(TimeoutError):
            heard.recv(100)
        put(net, -1, driver)
        heard.settimeout(5)
        send(mouth, range(5, 6))
        assert heard.recv(100)[14] == 5


def test_no_such_interface(net: Net, source: str) -> None:
    with counter(source) as module, pytest.raises(OSError) as refused:
        program = module.load("count", Kind.XDP)
        within(net.server.name, lambda: attach.xdp("eth7", program))
    assert (refused.value.errno, refused.value.filename) == (errno.ENODEV, "eth7")


def test_a_file_that_does_not_compile_says_why(tmp_path: Path) -> None:
    (tmp_path / "wrong.c").write_text("int count(struct xdp_md *ctx) { return XDP_PAS; }\n")
    with pytest.raises(SystemRefused, match=r"wrong\.c.*XDP_PAS"):
        Module(str(tmp_path / "wrong.c"), defines={})


def test_a_program_that_reads_past_the_frame_is_refused(tmp_path: Path) -> None:
    (tmp_path / "past.c").write_text(
        "int count(struct xdp_md *ctx) { return *(u8 *)(long)ctx->data ? XDP_DROP : XDP_PASS; }\n")
    with Module(str(tmp_path / "past.c"), defines={}) as module, pytest.raises(
            SystemRefused, match="the kernel does not take count"):
        module.load("count", Kind.XDP)
