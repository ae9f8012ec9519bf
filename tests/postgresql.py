"""The tests' PostgreSQL: one server a session, and one database a test."""

from __future__ import annotations

import psycopg

from fedimg.store.database import Database
from lab.postgresql import PostgreSQL as _PostgreSQL

#: The prepared database that each test's is a copy of.
_BLANK = "blank"


class PostgreSQL(_PostgreSQL):
    """A server whose databases are fedimg's."""

    def url(self, database: str) -> str:
        """Return the address of a database; the queue's tables are found by bare names."""
        return f"{super().url(database)}?options=-csearch_path%3Dpublic,dbos"

    def blank(self) -> str:
        """Return the address of a new database with fedimg's tables, made in a second."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            there = connection.execute(query, [_BLANK]).fetchone()
        if not there:
            url = self.create(name=_BLANK)
            Database(self.folder, url, migrate=True).close()
        return self.create(_BLANK)
