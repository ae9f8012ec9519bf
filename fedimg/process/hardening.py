"""What keeps a process's secrets from others of its own user."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Keep this process's memory and environment from its user's others, and out of core files.

    fedmsg-hub runs as the same user, which alone would let it read the keys that the worker has
    (/proc/PID/environ, ptrace). root still may. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot hide this process's memory: {os.strerror(number)}")
