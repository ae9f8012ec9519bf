"""Read the file of a private key, which only its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MODE = 0o600


class NotPrivate(Exception):
    """The file cannot be read, is no file, or others may know its content; the text says which."""


def read(path: Path, what: str, *, most: int) -> bytes:
    """Return the first `most` bytes of a file that is this user's own, with mode 0600 or less.

    `what` names the file in errors. Raises NotPrivate; a link is not followed.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise NotPrivate(f"cannot read {what} {path}: {error.strerror}") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivate(f"{what} {path} is not a file")
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & ~_MODE:
            raise NotPrivate(
                f"{what} {path} is not read, since others may know it: make it the worker's "
                "user's own (chown), with chmod 600"
            )
        return os.read(file, most)
    finally:
        os.close(file)
