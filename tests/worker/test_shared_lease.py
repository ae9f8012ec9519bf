"""The leases of several workers on one PostgreSQL.

Follows fedimg/store/url.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from fedimg.store.database import Database, StoreError
from fedimg.store.url import postgresql_url
from fedimg.worker.shared_lease import SharedLease, alive
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.process

HOST = socket.gethostname()
PATIENCE = 240.0


class Lost:
    """Records the loss of a lease, at which a worker would exit."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> Any:
        self.reasons.append(reason)
        # In a thread of the lease nothing would catch the exception.
        if threading.current_thread() is threading.main_thread():
            raise SystemExit


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.create()


@pytest.fixture
def take(url: str) -> Iterator[Callable[..., SharedLease]]:
    leases: list[SharedLease] = []

    def take(seconds: float = 60, lost: Any = None) -> SharedLease:
        leases.append(SharedLease(postgresql_url(url), seconds, lost or Lost()))
        return leases[-1]

    yield take
    for lease in leases:
        lease.release()


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(url: str) -> set[str]:
    engine = create_engine(postgresql_url(url))
    try:
        return alive(engine, [HOST, f"{HOST}-2", f"{HOST}-3"])
    finally:
        engine.dispose()


def end_connection(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'fedimg worker' AND datname = current_database()"
        )


def test_workers_on_one_host_get_different_names(take: Any, url: str) -> None:
    assert [take().name, take().name] == [HOST, f"{HOST}-2"]
    assert names(url) == {HOST, f"{HOST}-2"}


def test_released_name_is_taken_again(take: Any, url: str) -> None:
    first = take()
    take()
    first.release()
    assert names(url) == {f"{HOST}-2"}
    assert take().name == HOST


def test_next_worker_leads_when_the_leader_is_gone(take: Any) -> None:
    first = take()
    until(first.leads.is_set)
    second = take()
    time.sleep(1.5)
    assert not second.leads.is_set()
    first.release()
    until(second.leads.is_set)


def test_lease_lasts_while_the_server_answers(take: Any, url: str) -> None:
    lost = Lost()
    lease = take(2, lost)
    time.sleep(3)
    lease.end_if_lost()
    assert lost.reasons == []
    assert names(url) == {HOST}


def test_lease_is_lost_when_the_server_ends_the_connection(take: Any, url: str) -> None:
    lost = Lost()
    take(60, lost)
    end_connection(url)
    until(lambda: lost.reasons)


FROZEN = """
import sys, time
from fedimg.store.url import postgresql_url
from fedimg.worker.shared_lease import SharedLease
def lost(reason):
    import os
    print(reason, flush=True)
    os._exit(1)
lease = SharedLease(postgresql_url(sys.argv[1]), 2, lost)
print(lease.name, flush=True)
time.sleep(600)
"""


def test_frozen_process_loses_its_lease_and_exits_when_it_thaws(take: Any, url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FROZEN, url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{HOST}\n"
        process.send_signal(signal.SIGSTOP)
        until(lambda: not names(url))
        assert take().name == HOST
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 1
        assert names(url) == {HOST}
    finally:
        process.kill()
        process.wait()


def test_lease_is_lost_by_the_clock_of_the_worker(
    take: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take(60, Lost())
    monkeypatch.setattr(
        "fedimg.worker.shared_lease._now", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + 61
    )
    with pytest.raises(SystemExit):
        lease.end_if_lost()


def test_error_about_the_server_hides_the_password() -> None:
    where = postgresql_url("postgresql://fedimg:geheim@127.0.0.1:9/fedimg")
    with pytest.raises(StoreError, match=r"\[hidden\]@127\.0\.0\.1") as caught:
        SharedLease(where, 60, Lost())
    assert "geheim" not in str(caught.value)


def test_error_about_the_database_hides_the_password(tmp_path: Any) -> None:
    with pytest.raises(StoreError, match="check `database` in fedimg.toml") as caught:
        Database(tmp_path, "postgresql://fedimg:geheim@127.0.0.1:9/fedimg")
    assert "geheim" not in str(caught.value)


def test_error_about_missing_tables_names_the_command(tmp_path: Any, url: str) -> None:
    with pytest.raises(StoreError, match="fedimg store migrate"):
        Database(tmp_path, url)
    Database(tmp_path, url, migrate=True).close()
    Database(tmp_path, url, migrate=True).close()
    Database(tmp_path, url).close()


def test_idle_transaction_is_ended_after_its_seconds(tmp_path: Any, postgresql: PostgreSQL) -> None:
    url = postgresql.blank()
    still, other = (Database(tmp_path, url, idle_seconds=2) for _ in range(2))
    with still.engine.connect() as standing:
        # The connection stays open, as that of a process that is frozen or cut off.
        still.lock(standing, "x")
        with other.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '120s'")
            began = time.monotonic()
            other.lock(connection, "x")
            assert 1 < time.monotonic() - began < 60
        standing.invalidate()
    still.close()
    other.close()


def test_leader_sends_few_statements_and_still_sees_the_end_of_its_connection(
    take: Any, url: str
) -> None:
    lost = Lost()
    lease = take(600, lost)
    until(lease.leads.is_set)

    def last_statement() -> Any:
        with psycopg.connect(url, autocommit=True) as connection:
            query = (
                "SELECT query_start FROM pg_stat_activity "
                "WHERE application_name = 'fedimg worker' AND datname = current_database()"
            )
            row = connection.execute(query).fetchone()
        assert row is not None
        return row[0]

    # One more follows at once: the lock of the leader was its first.
    time.sleep(1.5)
    before = last_statement()
    time.sleep(2.5)
    assert last_statement() == before
    assert lost.reasons == []
    end_connection(url)
    until(lambda: lost.reasons)
