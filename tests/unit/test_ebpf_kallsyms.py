"""Where functions begin and end, from tables that are not always in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpf import kallsyms

TABLE = """\
ffffffff81000000 T _text
ffffffff81000300 t udp_second.part.0
ffffffff81000100 T udp_first
ffffffff81000200 t udp_second
ffffffff81000180 D some_data
ffffffff81000400 T udp_last
ffffffffc0000000 t udp_module\t[udp]
"""


def spans_of(text: str, *names: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[
        tuple[int, int]]:
    (place / "kallsyms").write_text(text)
    monkeypatch.setattr(kallsyms, "_TABLE", place / "kallsyms")
    found = kallsyms.spans(names)
    assert tuple(found) == names
    return list(found.values())


def test_a_function_ends_where_the_next_one_begins(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    base = 0xFFFFFFFF81000000
    assert spans_of(TABLE, "udp_first", "udp_second", "udp_none", place=tmp_path,
                    monkeypatch=monkeypatch) == [
        (base + 0x100, base + 0x200), (base + 0x200, base + 0x300), (0, 0)]


@pytest.mark.parametrize("text", ["", TABLE.replace("ffffffff81000", "0000000000000"),
                                  "nonsense\n", "zz T udp_first\n", "0 T\n"])
def test_what_the_kernel_does_not_say_is_no_span(text: str, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = text.replace("0000000000000100", "0" * 16)
    (begin, end), = spans_of(hidden, "udp_first", place=tmp_path, monkeypatch=monkeypatch)
    assert begin <= end and (begin == 0) == (end == 0)


def test_without_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kallsyms, "_TABLE", tmp_path / "none")
    assert kallsyms.spans(["udp_first"]) == {"udp_first": (0, 0)}
