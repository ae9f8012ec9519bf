"""Connect by a real PgBouncer: session mode works, the modes that share connections are refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from fedimg.cli.check import database
from fedimg.config import Settings
from fedimg.diagnostics import Status
from fedimg.store.database import StoreError, Unreachable
from fedimg.worker.pooler import refuse_shared_connections
from lab.processes import Process
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.process

PATIENCE = 240.0
REFUSED = "reached through a pooler that shares connections"
SHARING = [
    {"pool_mode": "transaction"},
    {"pool_mode": "transaction", "default_pool_size": "1"},
    {"pool_mode": "transaction", "server_round_robin": "1", "min_pool_size": "5"},
    {"pool_mode": "transaction", "server_reset_query_always": "1"},
    {"pool_mode": "statement"},
]

Pooled = Callable[[dict[str, str]], str]


@contextmanager
def bouncing(server: PostgreSQL, database: str, settings: dict[str, str]) -> Iterator[str]:
    """Run a PgBouncer with these settings; yield the URL of a database behind it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    values = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "ignore_startup_parameters": "extra_float_digits,options",
        **settings,
    }
    lines = "\n".join(f"{key} = {value}" for key, value in values.items())
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=fedimg\n[pgbouncer]\n{lines}\n"
    )
    # PgBouncer refuses to run as root.
    command = ["pgbouncer", str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
        nobody = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        command = ["setpriv", *nobody, "--pdeathsig", "KILL", "--", *command]
    process = Process(command, folder, {}, folder / "log")
    try:
        url = f"postgresql://fedimg@127.0.0.1:{port}/{database}"
        deadline = time.monotonic() + PATIENCE
        while True:
            process.check()
            try:
                psycopg.connect(url, connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, process.log.read_text()
                time.sleep(0.05)
        yield url
    finally:
        process.stop()
        shutil.rmtree(folder)


@pytest.fixture
def pooled(postgresql: PostgreSQL) -> Iterator[Pooled]:
    with ExitStack() as stack:
        name = postgresql.blank().rpartition("/")[2].partition("?")[0]
        yield lambda settings: stack.enter_context(bouncing(postgresql, name, settings))


def name_of(settings: dict[str, str]) -> str:
    return " ".join(settings.values())


@pytest.mark.parametrize("settings", SHARING, ids=name_of)
def test_pooler_that_shares_connections_is_refused(
    pooled: Pooled, settings: dict[str, str]
) -> None:
    with pytest.raises(StoreError, match=REFUSED) as refusal:
        refuse_shared_connections(pooled(settings))
    # A worker that gets an Unreachable would wait for the database.
    assert not isinstance(refusal.value, Unreachable)


def test_pooler_with_connections_to_spare_is_refused(pooled: Pooled) -> None:
    url = pooled({"pool_mode": "transaction", "server_round_robin": "1"})
    # With several idle connections a client may by chance get its own one again.
    with ExitStack() as stack:
        for _ in range(6):
            other = stack.enter_context(closing(psycopg.connect(url)))
            other.execute("SELECT 1")
    with pytest.raises(StoreError, match=REFUSED):
        refuse_shared_connections(url)


def test_pooler_in_session_mode_is_accepted(pooled: Pooled) -> None:
    refuse_shared_connections(pooled({"pool_mode": "session"}))


def test_postgresql_without_pooler_is_accepted(postgresql: PostgreSQL) -> None:
    refuse_shared_connections(postgresql.blank())


def test_probe_leaves_no_lock(postgresql: PostgreSQL) -> None:
    url = postgresql.blank()
    refuse_shared_connections(url)
    with psycopg.connect(url) as connection:
        locks = connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        ).fetchone()
    assert locks == (0,)


def test_server_that_does_not_answer_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=r"cannot use the database postgresql://\[hidden\]@127"):
        refuse_shared_connections(f"postgresql://fedimg@127.0.0.1:{port}/fedimg")


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_worker_check_and_migrate_refuse_a_shared_connection(
    pooled: Pooled, tmp_path: Path, mode: str
) -> None:
    url = pooled({"pool_mode": mode})
    settings = Settings(state_directory=tmp_path, database=url)
    (finding,) = database(settings)
    assert finding.status is Status.PROBLEM
    assert REFUSED in finding.text
    config = tmp_path / "fedimg.toml"
    config.write_text(f'state_directory = "{tmp_path}"\ndatabase = "{url}"\n')
    for command in (["worker"], ["store", "migrate"]):
        ended = subprocess.run(
            [Path(sys.executable).with_name("fedimg"), "--config", str(config), *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
        )
        assert ended.returncode == 2, ended.stderr
        assert REFUSED in ended.stderr
        assert "Traceback" not in ended.stderr


def test_check_accepts_a_pooler_in_session_mode(pooled: Pooled, tmp_path: Path) -> None:
    settings = Settings(state_directory=tmp_path, database=pooled({"pool_mode": "session"}))
    (finding,) = database(settings)
    assert finding.status is Status.OK, finding.text
