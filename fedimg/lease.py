"""The right to be the one worker on a state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from fedimg.store import StoreError


class WorkerRunning(StoreError):
    """Another worker holds this state directory."""


class Lease:
    """The right to be the one worker on a state directory, held until `release` or death.

    Raises WorkerRunning when another process has it, StoreError when it cannot be asked for.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "worker.lock"
        try:
            self._file: IO[str] = path.open("a+")
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
        try:
            # The kernel drops the lock with the process, however that ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise WorkerRunning(
                f"a worker (process {holder}) runs on {directory} already; stop it first"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let another worker start."""
        self._file.close()
