"""Errors of a database that cannot be used."""

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from fedimg.store import database, schema
from fedimg.store.database import Database, StoreError, Unreachable
from tests.postgresql import PostgreSQL


def test_transaction_that_was_idle_for_too_long_may_be_tried_again(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = schema.lacks

    def frozen(connection: sa.Connection) -> Any:
        connection.execute(sa.text("SELECT 1"))
        # As long as a process that was stopped in the middle of its start.
        time.sleep(1)
        return real(connection)

    url = postgresql.blank()
    monkeypatch.setattr(schema, "lacks", frozen)
    with pytest.raises(Unreachable, match="idle-in-transaction"):
        Database(tmp_path, url, idle_seconds=0.2)


def test_missing_tables_are_no_passing_error(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with pytest.raises(StoreError, match="fedimg store migrate") as refused:
        Database(tmp_path, postgresql.create())
    assert not isinstance(refused.value, Unreachable)


def test_broken_connection_is_replaced_after_a_rest_and_not_tested_before(
    tmp_path: Path, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(database.time, "monotonic", lambda: clock[0])
    store = Database(tmp_path, postgresql.blank())

    def server_process() -> int:
        with store.engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())

    def broken() -> int:
        process = server_process()
        with psycopg.connect(postgresql.url("postgres")) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s, 10000)", [process])
        return process

    try:
        first = broken()
        # Within the second no transaction is spent on a test.
        with pytest.raises(sa.exc.OperationalError):
            server_process()
        second = broken()
        clock[0] += 1.0
        assert len({first, second, server_process()}) == 3
    finally:
        store.close()
