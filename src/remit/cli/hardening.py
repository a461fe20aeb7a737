"""Keeps other processes of one's own uid from reading or tracing this one, where the kernel can."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def forbid_tracing() -> bool:
    """Forbid that processes of this uid trace this one or read its memory; no core is dumped either.

    Root still may. What this process executes is not affected. Returns whether it holds: only Linux
    has it (prctl(2), ``PR_SET_DUMPABLE``).
    """
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
