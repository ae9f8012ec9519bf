"""Keep the secrets of a process from other processes of the same user."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Make this process's memory and environment unreadable for its user, and disable core files.

    fedmsg-hub runs as the same user and could otherwise read the worker's AWS keys by
    /proc/PID/environ or ptrace. root can still read them. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot hide this process's memory: {os.strerror(number)}")
