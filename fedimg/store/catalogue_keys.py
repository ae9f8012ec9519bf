"""Record the public keys that signed the catalogue's statements; none is ever forgotten."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from fedimg.store.store import Store
from fedimg.store.tables import catalogue_keys


@dataclass(frozen=True)
class CatalogueKey:
    """A public key in PEM, and when it was first used, in seconds since the epoch."""

    keyid: str
    public: str
    since: float


class CatalogueKeys:
    """The public keys of the catalogue's statements."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, keyid: str, public: str) -> None:
        """Record a key, unless it is recorded."""
        if keyid in {key.keyid for key in self.all()}:
            return
        self._store.write(
            self._store.insert(catalogue_keys)
            .values(keyid=keyid, public=public, since=time.time())
            .on_conflict_do_nothing()
        )

    def all(self) -> list[CatalogueKey]:
        """Return the keys, the newest first."""
        query = sa.select(catalogue_keys).order_by(catalogue_keys.c.since.desc())
        with self._store.engine.connect() as connection:
            return [CatalogueKey(*row) for row in connection.execute(query)]
