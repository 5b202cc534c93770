"""The verdict on what the VM left: green for a whole run alone, a fault for all that is not.

`good` is what a run without faults leaves. Each row spoils one thing of it.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import SystemRefused
from vagrant import vm_boot, vm_system, vm_test, vm_verdict
from vagrant.vm_verdict import GROUPS, STEPS

CLIENTS = 200
PLAN = {"netem": ["tests/lab/test_netem.py"],
        "eBPF": ["tests/lab/test_ebpf_path.py", "tests/unit/test_ebpf_times.py"]}
RIGHTLY = "this kernel has no TCX (Linux 6.6)"


def case(file: str, name: str, inside: str = "", of_class: str = "") -> str:
    module = file.removesuffix(".py").replace("/", ".") + of_class
    return f'<testcase classname="{module}" name="{name}" time="0.1">{inside}</testcase>'


def skipped(why: str) -> str:
    return f'<skipped type="pytest.skip" message="{why}">/x.py:7: {why}</skipped>'


def report(*cases: str) -> str:
    return ('<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">'
            f'{"".join(cases)}</testsuite></testsuites>')


CASES = [case(file, f"test_{n}") for files in PLAN.values() for file in files for n in range(2)]
CHECKS = [{"group": group, "check": name, "state": "ok", "found": f"{name} works"}
          for group, names in GROUPS.items() for name in names]
DEMO = {"verdict": "pass", "clients": {"bound": CLIENTS, "planned": CLIENTS}, "dora_per_s": 512}


def doctor(**changes: Any) -> str:
    return json.dumps({"kernel": "6.1.0", "checks": CHECKS} | changes)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "steps.tsv").write_text("".join(f"{name}\t0\t1.5\n" for name in STEPS))
    (tmp_path / "doctor.json").write_text(doctor())
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    (tmp_path / "tests.xml").write_text(report(*CASES, case(PLAN["netem"][0], "test_refused",
                                                            skipped(RIGHTLY))))
    return tmp_path


def faults(results: Path) -> list[str]:
    return vm_verdict.faults(results, PLAN, CLIENTS)


def test_a_whole_run_is_green_and_says_what_ran(good: Path) -> None:
    assert faults(good) == []
    found = vm_verdict.figures(good, PLAN)
    assert (found["kernel"], found["demo_clients"], found["demo_dora_per_s"]) == (
        "6.1.0", CLIENTS, 512)
    assert (found["tests_passed"], found["tests_left_out"], found["tests_s"]) == (6, 1, 1.5)
    assert found["features"] == {"netem": {"tests_passed": 2, "tests_left_out": 1},
                                 "eBPF": {"tests_passed": 4, "tests_left_out": 0}}
    assert found["ebpf"]["bcc"] == "bcc works"
    lines = "\n".join(vm_verdict.told(found))
    for said in ("demo_dora_per_s 512", "tests_passed 6", "eBPF: 4 tests passed",
                 "kernel headers: kernel headers works"):
        assert said in lines


def test_tests_of_a_class_and_of_other_files_are_told_apart(good: Path) -> None:
    cases = [case(file, "test_a", of_class=".TestA.TestB") for file in PLAN["eBPF"]]
    # Neither is the file that begins alike.
    cases += [case("tests/lab/test_netem2.py", "test_a"), case("tests/unit/test_netem.py", "a"),
              case("x/tests/lab/test_netem.py", "a"), case("", "a"), '<testcase name="b"/>']
    (good / "tests.xml").write_text(report(*cases))
    assert faults(good) == ["tests.xml: netem: no test of tests/lab/test_netem.py passed"]


FILES = ("steps.tsv", "doctor.json", "demo.json", "tests.xml")
SPOILED: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "cut in half": lambda data: data[:len(data) // 2],
    "without its end": lambda data: data[:-2],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: b"\xff\xfe\x00\x80" * 64,
    "a list": lambda _: b"[]",
    "a number": lambda _: b"7",
    "null": lambda _: b"null",
    "deep": lambda _: b"[" * 100_000,
    "an endless line": lambda _: b"\t" * 1_000_000,
    "another document": lambda _: b"<a><b/></a>",
    "a message of the kernel": lambda data: b"[  12.3] oom-kill: python\n" + data[:20],
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", SPOILED)
def test_a_file_that_is_spoiled_is_a_fault(good: Path, file: str, how: str) -> None:
    data = SPOILED[how]((good / file).read_bytes())
    if data is None:
        (good / file).unlink()
    else:
        (good / file).write_bytes(data)
    found = faults(good)
    assert found
    if file != "steps.tsv":
        assert all(line.startswith(f"{file}: ") for line in found)


@pytest.mark.parametrize("file", FILES)
def test_a_directory_of_that_name(good: Path, file: str) -> None:
    (good / file).unlink()
    (good / file).mkdir()
    assert faults(good)


@pytest.mark.parametrize(("lines", "said"), [
    ("doctor\t0\t1\ndemo\t0\t1\n", "tests: did not come to an end"),
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t0", "tests: did not come to an end"),
    # Written, but for the end of the line: the time may be cut too.
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t0\t1", "tests: did not come to an end"),
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t\t1\n", "tests: did not come to an end"),
    ("doctor\tno\t1\ndemo\t0\tx\ntests\t0\t1\n", "doctor: did not come to an end"),
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t1\t1\n", "tests: ended with 1"),
    ("doctor\t2\t1\ndemo\t0\t1\ntests\t0\t1\n", "doctor: ended with 2"),
    ("doctor\t0\t1\ndemo\t-9\t1\ntests\t0\t1\n", "demo: ended with -9"),
    # The last word counts, whatever came first.
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t0\t1\ntests\t137\t1\n", "tests: ended with 137"),
    ("doctor\t0\t1\ndemo\t0\t1\ntests\t0\t1\nmore\t3\t1\n", "more: ended with 3"),
])
def test_steps(good: Path, lines: str, said: str) -> None:
    (good / "steps.tsv").write_text(lines)
    assert said in faults(good)


@pytest.mark.parametrize(("document", "said"), [
    (doctor(kernel=""), "no name of a kernel"), (doctor(kernel=None), "no name of a kernel"),
    (json.dumps({"checks": CHECKS}), "KeyError: 'kernel'"),
    (doctor(checks=[]), "kernel: netem queues was not looked at"),
    (doctor(checks=None), "cannot be read"), (doctor(checks=["netem"]), "cannot be read"),
    (doctor(checks=CHECKS[1:]), f"kernel: {CHECKS[0]['check']} was not looked at"),
    (doctor(checks=CHECKS[:-1]), f"eBPF: {CHECKS[-1]['check']} was not looked at"),
    (doctor(checks=[*CHECKS[:-1], CHECKS[-1] | {"group": "else"}]), "was not looked at"),
    (doctor(checks=[*CHECKS[:-1], CHECKS[-1] | {"state": "missing", "found": "none"}]),
     f"eBPF: {CHECKS[-1]['check']}: none"),
    # A check that nobody named here counts too.
    (doctor(checks=[*CHECKS, {"group": "eBPF", "check": "new", "state": "limited",
                              "found": "half of it"}]), "eBPF: new: half of it"),
])
def test_doctor(good: Path, document: str, said: str) -> None:
    (good / "doctor.json").write_text(document)
    (line,) = [line for line in faults(good) if said in line]
    assert line.startswith("doctor.json: ")


@pytest.mark.parametrize("changes", [
    {"verdict": "fail"}, {"verdict": None}, {"clients": {"bound": 0, "planned": 0}},
    {"clients": {"bound": CLIENTS - 1, "planned": CLIENTS}}, {"clients": {}}, {"clients": None},
    # As few as it meant to bind: not what was asked for.
    {"clients": {"bound": 1, "planned": 1}}, {"clients": {"bound": str(CLIENTS)}},
    {"dora_per_s": 0}, {"dora_per_s": None}, {"dora_per_s": float("nan")}, {"dora_per_s": -1},
])
def test_demo(good: Path, changes: dict[str, Any]) -> None:
    (good / "demo.json").write_text(json.dumps(DEMO | changes))
    (line,) = faults(good)
    assert line.startswith("demo.json: ")


NETEM, PATH, TIMES = PLAN["netem"][0], *PLAN["eBPF"]


@pytest.mark.parametrize(("cases", "said"), [
    ([], [f"netem: no test of {NETEM} passed", f"eBPF: no test of {PATH} passed",
          f"eBPF: no test of {TIMES} passed"]),
    ([*CASES, case(PATH, "bad", "<failure message='no'/>")],
     ["tests.lab.test_ebpf_path::bad: failure"]),
    ([*CASES, case(PATH, "bad", "<error/>")], ["tests.lab.test_ebpf_path::bad: error"]),
    # One that passed and then left something behind: pytest writes it so.
    ([*CASES, case(PATH, "bad", "<failure/><error/>")],
     ["tests.lab.test_ebpf_path::bad: failure", "tests.lab.test_ebpf_path::bad: error"]),
    ([*CASES, case(PATH, "no", skipped("needs bcc"))],
     ["tests.lab.test_ebpf_path::no: left out: needs bcc"]),
    ([*CASES, case(PATH, "no", "<skipped/>")],
     ["tests.lab.test_ebpf_path::no: left out: without a reason"]),
    ([*CASES, case(PATH, "no", skipped("this kernel has no netem"))],
     ["tests.lab.test_ebpf_path::no: left out: this kernel has no netem"]),
    ([*CASES, case(PATH, "no", skipped(f"as {RIGHTLY}"))],
     [f"tests.lab.test_ebpf_path::no: left out: as {RIGHTLY}"]),
    # A whole file left out, rightly or not, has shown nothing.
    ([*CASES[2:], case(NETEM, "no", skipped(RIGHTLY))],
     [f"netem: no test of {NETEM} passed"]),
    ([*CASES[2:], case(NETEM, "bad", "<failure/>")],
     ["tests.lab.test_netem::bad: failure", f"netem: no test of {NETEM} passed"]),
    ([*CASES[2:], case(NETEM, "bad", f"<failure/>{skipped(RIGHTLY)}")],
     ["tests.lab.test_netem::bad: failure", f"netem: no test of {NETEM} passed"]),
])
def test_tests(good: Path, cases: list[str], said: list[str]) -> None:
    (good / "tests.xml").write_text(report(*cases))
    assert faults(good) == [f"tests.xml: {line}" for line in said]


def test_every_feature_has_tests_and_one_without_is_refused(tmp_path: Path) -> None:
    plan = vm_verdict.planned(vm_test.PROJECT)
    assert set(plan) == set(vm_verdict.FEATURES)
    assert "tests/lab/test_ebpf_path.py" in plan["eBPF"]
    for files in plan.values():
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    assert vm_verdict.planned(tmp_path) == plan
    (tmp_path / "tests/lab/test_vlan.py").unlink()
    with pytest.raises(SystemRefused, match=r"802\.1Q"):
        vm_verdict.planned(tmp_path)


@pytest.fixture
def made(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """`vm-test` as a whole, but for the system and the VM: that leaves what is in `good`."""
    monkeypatch.setattr(vm_verdict, "planned", lambda _: PLAN)
    monkeypatch.setattr(vm_test, "needs", lambda *_, **__: None)
    monkeypatch.setattr(vm_test, "make", lambda *_: None)
    for name in ("bare", "image"):
        monkeypatch.setattr(vm_system.System, name, lambda *_: None)
    monkeypatch.setattr(vm_system.System, "kernel", lambda _: (Path("k"), Path("i")))

    def boot(vm: vm_boot.Vm, *_: object) -> str:
        listed = (vm.results / "tests.list").read_text().splitlines()
        assert listed == [file for files in PLAN.values() for file in files]
        for path in good.iterdir():
            if path.is_file():
                (vm.results / path.name).write_bytes(path.read_bytes())
        return "tcg"

    monkeypatch.setattr(vm_boot.Vm, "boot", boot)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(results: Path) -> int:
        return vm_test.test(argparse.Namespace(
            install=False, dir=str(tmp_path / "work"), timeout=9.0, clients=CLIENTS,
            results=results))

    return run


def test_green_is_exit_code_0_and_figures(made: Callable[[Path], int], good: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    target = good / "out"
    assert made(target) == 0
    figures = json.loads((target / "figures.json").read_text())
    assert figures["accelerator"] == "tcg" and figures["demo_dora_per_s"] == 512
    said = capsys.readouterr().out
    assert "eBPF: 4 tests passed" in said and f"passed; see {target}" in said


@pytest.mark.parametrize("file", FILES)
def test_not_green_is_exit_code_1_and_says_why(made: Callable[[Path], int], good: Path, file: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    target = good / "out"
    (good / file).write_text("")
    assert made(target) == 1
    # Figures of a run with faults would be taken for those of a good one.
    assert not (target / "figures.json").exists()
    said = capsys.readouterr().out
    assert f"failed; see {target}" in said
    assert (file in said) or "did not come to an end" in said
