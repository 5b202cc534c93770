"""Whose fault it was: the user's, the environment's, or the peer's.

Each error carries what was wrong and where, and what to do about it (`remedy`); `cli.run`
prints both and turns the kind into an exit code. Anything else that escapes is our own bug.
"""

from __future__ import annotations


class NetlabError(Exception):
    """Base of every error that a user may see.

    what: one line, what was wrong and where.
    remedy: one line, what to do about it; empty where there is nothing to say.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class UserError(NetlabError):
    """Arguments, configuration or a file that cannot be used as given."""

    exit_code = 2


class SystemRefused(NetlabError):
    """The machine said no: privilege, a missing interface, memory, a missing program."""

    exit_code = 1


class Malformed(NetlabError):
    """A packet or file from a peer that is not what it claims to be.

    reason: a short name that counters use too (`fastpath.wire.Reason`).
    """

    def __init__(self, reason: str, what: str = "") -> None:
        super().__init__(what or reason)
        self.reason = reason
