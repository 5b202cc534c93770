"""Where the programs run: here on Linux; on macOS and Windows in the project's VM.

The one thing to know: each console script calls `carried` before it imports anything that only
Linux has. On Linux that is one comparison.
"""

from __future__ import annotations

import sys

# Answered without a VM: nothing of it depends on Linux.
_ANSWERED_HERE = {"--help", "-h", "-help", "--version"}


def carried(program: str) -> None:
    """Return on Linux; elsewhere run `program` with our arguments in the VM and exit as it did.

    `--help` and `--version` of the program itself are answered on any system.
    """
    if sys.platform == "linux":
        return
    words = sys.argv[1:]
    if len(words) == 1 and words[0] in _ANSWERED_HERE:
        return
    from fastpath.vm_errand import carry

    sys.exit(carry(program, words))
