"""A topology from a YAML file: docs/topology.md says how one is written.

The one thing to know: a file is read in stages (`draft`, `join`, `check`), each of which tells
all that it finds wrong, every error with its line.
"""

from __future__ import annotations

from pathlib import Path

from fastpath import document
from fastpath.configfile import content
from fastpath.document import AtLine
from fastpath.errors import UserError
from netlab.topology.check import Finding, check
from netlab.topology.draft import Draft, read_draft
from netlab.topology.join import join
from netlab.topology.model import Topology
from netlab.topology.problems import Problems, Several
from netlab.topology.spelling import Spelling


class WrongFile(UserError):
    """A file that describes no topology. each: all that is wrong, in the order of lines."""

    def __init__(self, each: tuple[UserError, ...], path: Path) -> None:
        more = f"{len(each) - 1} more: lab validate {path}" if len(each) > 1 else ""
        super().__init__(each[0].what, "; ".join(filter(None, (each[0].remedy, more))))
        self.each = each


def load(path: Path) -> Topology:
    """The topology that `path` describes. Raises WrongFile, whose errors open with `FILE:LINE: `,
    or UserError where the file cannot be read."""
    try:
        return parse(content(path), path.stem)
    except AtLine as error:
        found = error.each if isinstance(error, Several) else [error]
        raise WrongFile(tuple(UserError(f"{path}:{each.line}: {each.what}", each.remedy)
                              for each in found), path) from None


def parse(text: str, name: str) -> Topology:
    """The topology that a YAML text describes; `name` is its name where the text says none.

    Raises AtLine, which is Several where there is more than one error.
    """
    root = document.read(text)
    problems = Problems()
    draft = read_draft(root, Spelling(text), name, problems)
    problems.stop()
    found = join(draft, problems)
    for finding in check(found):
        problems.add(_line(finding, draft, found), finding.what, finding.remedy)
    problems.stop()
    return found


def _line(finding: Finding, draft: Draft, topology: Topology) -> int:
    """Where that stands of which a finding is."""
    kind, key = finding.about
    if kind == "impairment":
        return draft.impairments[int(key)][1]
    if kind == "node" and key in draft.nodes:
        return draft.nodes[str(key)].line
    if kind in ("segment", "subnet"):
        name = topology.subnets[int(key)].segment if kind == "subnet" else str(key)
        if draft.segments and name in draft.segments:
            return draft.segments[name].line
        # A segment that only links speak of.
        return next(link.segment.line for link in draft.links if link.segment.name == name)
    return draft.nodes_line
