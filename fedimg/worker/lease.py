"""The right to be a worker: the one on a state directory, or one of several on a PostgreSQL.

The latter's is in fedimg.worker.shared_lease.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from fedimg.process import permissions
from fedimg.store.database import StoreError

if TYPE_CHECKING:
    from fedimg.store.store import Store

#: The one worker's name on a state directory.
ALONE = "worker"


class WorkerRunning(StoreError):
    """Another worker holds this state directory."""


class Lease(Protocol):
    """The right to work under `name`, held until `release` or death.

    `leads` is set once this worker is the one that also does what only one may do at a time.
    """

    name: str
    leads: threading.Event

    def check(self) -> None:
        """End the process when the lease was lost."""

    def release(self) -> None:
        """Let another have it."""


class FileLease:
    """The right to be the one worker on a state directory.

    Raises WorkerRunning when another process has it, StoreError when it cannot be asked for.
    """

    def __init__(self, directory: Path) -> None:
        self.name = ALONE
        self.leads = threading.Event()
        self.leads.set()
        path = directory / permissions.LOCK
        try:
            permissions.create(path)
            # Not through a link: another file would be emptied.
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
            self._file: IO[str] = os.fdopen(descriptor, "a+")
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

    def check(self) -> None:
        """The kernel takes it from no process that lives."""

    def release(self) -> None:
        """Let another worker start."""
        self._file.close()


def living(store: Store, names: Sequence[str]) -> set[str]:
    """Which of these workers run, as far as can be seen from here."""
    if store.shared:
        # It loads libpq.
        from fedimg.worker.shared_lease import alive

        return alive(store.engine, names)
    try:
        os.kill(int((store.directory / permissions.LOCK).read_text()), 0)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return set()
    except OSError:
        # Somebody else's process, or somebody else's file: there is one, as far as can be seen.
        pass
    return set(names) & {ALONE}
