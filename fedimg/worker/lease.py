"""Grant the lease of a worker: the only one on a state directory, or one of several.

`fedimg.worker.shared_lease` has the lease of several workers on a PostgreSQL.
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

#: The name of the only worker on a state directory.
ALONE = "worker"


class WorkerRunning(StoreError):
    """Another worker has the lease of this state directory."""


class Lease(Protocol):
    """The right to be the worker `name`, held until `release` or the end of the process.

    `leads` is set once this worker is the leader, which runs the outbox relays and periodic tasks.
    """

    name: str
    leads: threading.Event

    def end_if_lost(self) -> None:
        """End the process if the lease is lost."""

    def release(self) -> None:
        """Give the lease back."""


class FileLease:
    """The lease of the only worker on a state directory.

    Raises WorkerRunning if another process has it, StoreError if the lock file cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self.name = ALONE
        self.leads = threading.Event()
        self.leads.set()
        path = directory / permissions.LOCK
        try:
            permissions.create(path)
            # O_NOFOLLOW, as the file is emptied below: a link could lead to any other file.
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
            self._file: IO[str] = os.fdopen(descriptor, "a+")
        except OSError as error:
            raise StoreError(f"cannot open the lock file {path}: {error.strerror}") from error
        try:
            # The kernel releases the lock when the process ends in any way.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise WorkerRunning(
                f"a worker (process {holder}) is already running on {directory}; stop it first"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def end_if_lost(self) -> None:
        """Do nothing, as a process cannot lose a lock of the kernel."""

    def release(self) -> None:
        """Release the lock, so that another worker can start."""
        self._file.close()


def living(store: Store, names: Sequence[str]) -> set[str]:
    """Return the names of those workers that are running, as far as this process can tell."""
    if store.shared:
        # Imported here, as it loads libpq.
        from fedimg.worker.shared_lease import alive

        return alive(store.engine, names)
    try:
        os.kill(int((store.directory / permissions.LOCK).read_text()), 0)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return set()
    except OSError:
        # This user may not signal the process or read the file: assume that the worker runs.
        pass
    return set(names) & {ALONE}
