"""Read a site's database in a process that must not write to it, such as `fedimg web`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa

from fedimg.process import permissions
from fedimg.store import read_only_file
from fedimg.store.store import Store, StoreError

T = TypeVar("T")

#: How often a read is repeated when a worker has begun to change the file meanwhile.
_ATTEMPTS = 3
#: How many threads read at once; the others wait.
_AT_ONCE = 4


class Reader:
    """A site's database, opened at each use, whose connections cannot write.

    Args:
        directory: the state directory, where the database is a file.
        url: the URL of the PostgreSQL, or empty.
    """

    def __init__(self, directory: Path, url: str = "") -> None:
        self._directory = directory
        self._url = url
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._store: Store | None = None

    def read(self, function: Callable[[Store], T]) -> T:
        """Return what `function` returns for the database.

        The function may be called several times. Raises StoreError, in words for a person, if the
        database cannot be read or lacks tables of this version.
        """
        with self._turns:
            for _ in range(_ATTEMPTS):
                try:
                    before = self._fingerprint()
                    result = function(self._open())
                    if self._fingerprint() == before:
                        return result
                except read_only_file.Unreadable as error:
                    raise StoreError(str(error)) from error
                except sa.exc.DatabaseError as error:
                    # Opened anew at the next use, as another version may have changed the tables.
                    self.close()
                    reason = str(getattr(error, "orig", None) or error).strip()
                    raise StoreError(f"cannot read the database: {reason}") from error
        raise StoreError("cannot read the database: a worker is about to start; try again")

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def _open(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = Store(self._directory, self._url, read_only=True)
            return self._store

    def _fingerprint(self) -> read_only_file.Fingerprint:
        """Return None for a PostgreSQL, or for a file that a running worker keeps consistent."""
        if self._url:
            return None
        return read_only_file.fingerprint(self._directory / permissions.DATABASE)
