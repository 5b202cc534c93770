"""What the VM left behind, and whether it is all that was to happen: figures, or what is wrong.

Nothing is taken for granted: a step that left no line, a check that the doctor did not make, a
test that was left out, a file of which no test passed are failures. What the VM wrote may be cut
short anywhere; that is a fault like others, never an error of ours.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused

STEPS = ("doctor", "demo", "tests")
# What the doctor must find: groups as a whole. Netem and 802.1Q devices are in the first, bcc,
# headers and tracepoints in the second.
GROUPS = {"kernel": ("netem queues", "802.1Q devices", "macvlan"),
          "eBPF": ("bcc", "kernel headers", "tracepoints")}
# What other kernels lack, and the files of tests that show it here.
FEATURES = {"netem": ("tests/lab/test_netem.py", "tests/lab/test_impair.py"),
            "802.1Q devices": ("tests/lab/test_vlan.py",),
            "macvlan": ("tests/lab/test_attach.py",),
            "eBPF": ("tests/lab/test_ebpf*.py", "tests/unit/test_ebpf*.py")}
# The only reasons for which a test may be left out: what the kernel of Debian 12, 6.1, is too old
# for.
_RIGHTLY_SKIPPED = ("this kernel has no TCX",)
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
               ET.ParseError)

Planned = Mapping[str, Sequence[str]]


def planned(project: Path) -> dict[str, list[str]]:
    """{feature: files of its tests}, relative to the project. SystemRefused where one has none."""
    found = {}
    for feature, patterns in FEATURES.items():
        files = [sorted(str(path.relative_to(project)) for path in project.glob(pattern))
                 for pattern in patterns]
        if not all(files):
            raise SystemRefused(f"{feature}: no {patterns[files.index([])]} in {project}",
                                "take the whole project")
        found[feature] = [name for each in files for name in each]
    return found


def steps(results: Path) -> dict[str, tuple[int, float]]:
    """{step: (exit code, seconds)}, of those that came to an end. A line cut short is none."""
    try:
        text = (results / "steps.tsv").read_text(errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines(keepends=True):
        row = line.rstrip("\n").split("\t")
        if line.endswith("\n") and len(row) == 3:
            try:
                found[row[0]] = int(row[1]), float(row[2])
            except ValueError:
                continue
    return found


def faults(results: Path, plan: Planned, clients: int) -> list[str]:
    """What is wrong, a line each; none when all that was to happen did, and well."""
    done = steps(results)
    found = [f"{name}: did not come to an end" for name in STEPS if name not in done]
    found += [f"{name}: ended with {code}" for name, (code, _) in done.items() if code]
    checks: dict[str, Callable[[Path], Iterator[str]]] = {
        "doctor.json": _doctor, "demo.json": lambda path: _demo(path, clients),
        "tests.xml": lambda path: _tests(path, plan)}
    for name, check in checks.items():
        try:
            found += [f"{name}: {said}" for said in check(results / name)]
        except _UNREADABLE as error:
            found.append(f"{name}: cannot be read: {type(error).__name__}: {error}")
    return found


def _doctor(path: Path) -> Iterator[str]:
    document = json.loads(path.read_text())
    if not isinstance(document["kernel"], str) or not document["kernel"]:
        yield "no name of a kernel"
    for group, names in GROUPS.items():
        here = {each["check"]: each for each in document["checks"] if each["group"] == group}
        yield from (f"{group}: {name} was not looked at" for name in names if name not in here)
        yield from (f"{group}: {name}: {each['found']}" for name, each in here.items()
                    if each["state"] != "ok")


def _demo(path: Path, wanted: int) -> Iterator[str]:
    document = json.loads(path.read_text())
    bound = document["clients"]["bound"]
    if document["verdict"] != "pass" or bound != wanted:
        yield f"{document['verdict']}: {bound} of {wanted} clients bound"
    if not document["dora_per_s"] > 0:
        yield f"{document['dora_per_s']} DORA/s"


def _tests(path: Path, plan: Planned) -> Iterator[str]:
    passed: Counter[str] = Counter()
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        wrong = [kind for kind in ("failure", "error") if case.find(kind) is not None]
        yield from (f"{name}: {kind}" for kind in wrong)
        skipped = case.find("skipped")
        if skipped is not None:
            why = skipped.get("message") or "without a reason"
            if not why.startswith(_RIGHTLY_SKIPPED):
                yield f"{name}: left out: {why}"
        elif not wrong:
            passed[_file(case)] += 1
    for feature, files in plan.items():
        yield from (f"{feature}: no test of {file} passed" for file in files if not passed[file])


def _file(case: ET.Element) -> str:
    """The file of a test, by the module that the report names: tests.lab.test_a or, of a class in
    it, tests.lab.test_a.TestB."""
    words = (case.get("classname") or "").split(".")
    module = next((at for at, word in enumerate(words) if word.startswith("test_")), len(words))
    return "/".join(words[:module + 1]) + ".py"


def figures(results: Path, plan: Planned) -> dict[str, Any]:
    """What is worth writing down of a run without faults."""
    doctor = json.loads((results / "doctor.json").read_text())
    demo = json.loads((results / "demo.json").read_text())
    cases = list(ET.parse(results / "tests.xml").iter("testcase"))
    found = {each["check"]: each["found"] for each in doctor["checks"] if each["group"] == "eBPF"}
    return {"kernel": doctor["kernel"], "ebpf": found,
            "demo_clients": demo["clients"]["bound"], "demo_dora_per_s": demo["dora_per_s"],
            **_counted(cases),
            "features": {feature: _counted([case for case in cases if _file(case) in files])
                         for feature, files in plan.items()},
            **{f"{name}_s": seconds for name, (_, seconds) in steps(results).items()}}


def _counted(cases: Sequence[ET.Element]) -> dict[str, int]:
    left_out = sum(case.find("skipped") is not None for case in cases)
    return {"tests_passed": len(cases) - left_out, "tests_left_out": left_out}


def told(figures: Mapping[str, Any]) -> list[str]:
    """Figures as lines for the user."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, Mapping)}
    return [", ".join(f"{name} {value}" for name, value in plain.items()),
            *(f"{feature}: {counted['tests_passed']} tests passed, "
              f"{counted['tests_left_out']} left out"
              for feature, counted in figures["features"].items()),
            *(f"{check}: {found}" for check, found in figures["ebpf"].items())]
