"""What clients hold against what servers kept."""

from __future__ import annotations

import ipaddress
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab import verify
from netlab.verify import Held

NET = [ipaddress.IPv4Network("10.0.0.0/24")]
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


@pytest.mark.parametrize("held,store,expected", [
    ([], {}, {}),
    ([Held(A, "10.0.0.1", "")], {"10.0.0.1": A}, {"clients": 1, "agree": 1}),
    ([Held(A, "10.0.0.1", "")], {"10.0.0.1": A.upper()}, {"clients": 1, "agree": 1}),
    ([Held(A, "10.0.0.1", "")], {}, {"clients": 1, "missing": 1}),
    ([Held(A, "10.0.0.1", "")], {"10.0.0.1": B}, {"clients": 1, "differ": 1}),
    ([], {"10.0.0.1": A}, {"unheld": 1}),
    ([Held(A, "10.0.1.1", "")], {"10.0.1.1": A},
     {"clients": 1, "agree": 1, "wrong_subnet": 1}),
    ([Held(A, "10.0.0.1", ""), Held(B, "10.0.0.1", "")], {"10.0.0.1": A},
     {"clients": 2, "agree": 1, "differ": 1, "duplicates": 1}),
])
def test_each_way_to_disagree(held: list[Held], store: dict[str, str],
                              expected: dict[str, int]) -> None:
    found = verify.compare(held, [store], {"": NET})
    examples = found.pop("examples")
    assert {name: count for name, count in found.items() if count} == expected
    assert verify.sound(found) == (not examples)
    assert verify.line(found)


def test_two_stores_are_one_truth_and_a_stranger_is_named() -> None:
    found = verify.compare([Held(A, "10.0.0.1", "eth0"), Held(B, "10.9.9.9", "eth1")],
                           [{"10.0.0.1": A}, {"10.9.9.9": A}], {"eth0": NET})
    assert (found["agree"], found["differ"], found["wrong_subnet"]) == (1, 1, 0)
    assert found["examples"] == [f"{B} holds 10.9.9.9, which the store gives to {A}"]
    assert "1 given to others by the store" in verify.line(found)


_MACS = st.sampled_from([f"02:00:00:00:00:{i:02x}" for i in range(6)])
_ADDRESSES = st.sampled_from([f"10.0.{i // 4}.{i % 4 + 1}" for i in range(8)])


@given(st.lists(st.tuples(_MACS, _ADDRESSES), max_size=12),
       st.dictionaries(_ADDRESSES, _MACS, max_size=8))
def test_the_counts_add_up(rows: list[tuple[str, str]], store: dict[str, str]) -> None:
    found = verify.compare([Held(m, a, "") for m, a in rows], [store], {"": NET})
    assert found["clients"] == found["agree"] + found["missing"] + found["differ"] == len(rows)
    assert found["duplicates"] == len(rows) - len({a for _, a in rows})
    assert found["unheld"] == len(set(store) - {a for _, a in rows})
    assert found["agree"] == sum(store.get(a) == m for m, a in rows)
    assert found["wrong_subnet"] == sum(a.startswith("10.0.1.") for _, a in rows)
    wrong = Counter(example.split(" holds ")[0] for example in found["examples"])
    assert set(wrong) <= {m for m, _ in rows}


def test_only_bound_clients_are_read(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text("client,chaddr,outcome,yiaddr,interface\n"
                    f"0,{A.upper()},bound,10.0.0.1,eth7\n1,{B},nak,,eth7\n2,{B},bound,,eth7\n")
    assert list(verify.read_held(path)) == [Held(A, "10.0.0.1", "eth7")]


@pytest.mark.parametrize("document,bound,why", [
    ({}, 5, ""),
    ({"messages": {"release": {"sent": 1}}}, 5, "clients sent RELEASE"),
    ({"messages": {"decline": {"sent": 2}}}, 5, "clients sent DECLINE"),
    ({"clients": {"leases_lost": 1}}, 5, "clients lost leases during the test"),
    ({}, verify.MOST_COMPARED + 1, "more than 250,000 clients"),
])
def test_when_they_need_not_agree(document: dict, bound: int, why: str) -> None:
    assert verify.not_comparable(document, bound) == why
