"""Read the database in a process that may not write: as another user, with and without a worker.

Follows fedimg/store/reader.py, fedimg/store/read_only_file.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.jobs.queue import JobQueue
from fedimg.store.reader import Reader
from fedimg.store.store import Store, StoreError
from tests.postgresql import PostgreSQL

#: An id that no user or group of this machine has: the group of the state directory, and the user
#: who reads.
GROUP, USER = 54871, 54872
#: Outside of pytest's folders, which no other user may enter.
PARENT = Path("/tmp") / f"fedimg-reader-{os.getpid()}"
#: A database that is there to be opened once.
WARM = PARENT / "warm"


@pytest.fixture
def directory(blank: Path) -> Iterator[Path]:
    """Return a state directory of one hub's heartbeat that a group may read; others may not."""
    if os.geteuid():
        pytest.skip("only root can read as another user")
    PARENT.mkdir(mode=0o755)
    shutil.copytree(blank, WARM)
    directory = PARENT / "state"
    shutil.copytree(blank, directory)
    directory.chmod(0o750)
    with closing(Store(directory)) as store:
        store.beat("hub", "first")
    give_to_group(directory)
    yield directory
    shutil.rmtree(PARENT)


def give_to_group(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        os.chown(path, -1, GROUP)


def beat_and_die(directory: Path, name: str) -> None:
    """Write a heartbeat, and end as a worker that is killed: without closing the database."""
    run(
        f"store = Store(Path({str(directory)!r})); store.beat('hub', {name!r}); os._exit(0)",
        user=0,
    )
    give_to_group(directory)


def run(code: str, *, user: int = USER) -> str:
    """Run Python as another user, who is in the group; return its output.

    The process becomes that user after it has loaded its modules, as others may not be able to
    read Python's own files below root's home directory.
    """
    prelude = f"""
import os, time
from pathlib import Path
from fedimg.store.reader import Reader
from fedimg.store.store import Store
# Modules that are imported at the first use of a database.
Reader(Path({str(WARM)!r})).read(lambda store: store.jobs())
if {user}:
    os.setgroups([{GROUP}])
    os.setgid({user})
    os.setuid({user})
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        umask=0o027,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def read(directory: Path) -> str:
    """Return the names of the heartbeats that another user reads, or the error."""
    return run(
        f"""
        try:
            beats = Reader(Path({str(directory)!r})).read(lambda store: store.heartbeats("hub"))
            print(*sorted(beat.name for beat in beats))
        except Exception as error:
            print(type(error).__name__, error)
        """
    )


@pytest.mark.process
def test_another_user_reads_after_an_orderly_stop_and_leaves_no_file(directory: Path) -> None:
    assert [path.name for path in directory.iterdir()] == ["fedimg.db"]
    assert read(directory) == "first"
    assert [path.name for path in directory.iterdir()] == ["fedimg.db"]


@pytest.mark.process
def test_another_user_reads_what_a_killed_worker_wrote_last(directory: Path) -> None:
    beat_and_die(directory, "second")
    assert (directory / "fedimg.db-wal").stat().st_size > 0
    assert read(directory) == "first second"
    # The next worker still finds the changes there.
    assert (directory / "fedimg.db-wal").stat().st_size > 0
    assert (directory / "fedimg.db-shm").exists()


@pytest.mark.process
@pytest.mark.parametrize("suffix", ["wal", "shm"])
@pytest.mark.parametrize("how", ["absent", "unreadable"])
def test_changes_that_cannot_be_read_are_told_and_not_left_out(
    directory: Path, suffix: str, how: str
) -> None:
    beat_and_die(directory, "second")
    path = directory / f"fedimg.db-{suffix}"
    if how == "unreadable":
        path.chmod(0o600)
    else:
        path.unlink()
    if (suffix, how) == ("wal", "absent"):
        # Nobody can read what is gone.
        assert read(directory) == "first"
        return
    said = read(directory)
    assert said.startswith("StoreError cannot read the database")
    assert "-wal file holds changes" in said


@pytest.mark.process
def test_directory_that_may_not_be_entered_is_told_with_the_remedy(directory: Path) -> None:
    directory.chmod(0o700)
    said = read(directory)
    assert "Permission denied" in said
    assert "by the group fedimg" in said


@pytest.mark.process
def test_another_user_reads_beside_a_worker_that_writes(directory: Path) -> None:
    """Each state that is read is whole, and no writer is kept from writing or checkpointing."""
    with closing(Store(directory)) as store:
        give_to_group(directory)
        stop = threading.Event()
        written = 0

        def write() -> None:
            nonlocal written
            while not stop.is_set():
                with store.engine.begin() as connection:
                    for kind in ("even", "odd"):
                        connection.execute(
                            sa.text(
                                "INSERT INTO fedimg_heartbeats (kind, name, host, pid, at) "
                                f"VALUES ('{kind}', '{written}', 'h', 1, 0)"
                            )
                        )
                written += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            said = run(
                f"""
                reader = Reader(Path({str(directory)!r}))
                def counts(store):
                    with store.engine.connect() as connection:
                        query = "SELECT count(*) FROM fedimg_heartbeats WHERE kind = '%s'"
                        return [connection.exec_driver_sql(query % kind).scalar()
                                for kind in ("even", "odd")]
                seen = [reader.read(counts) for _ in range(100)]
                assert all(even == odd for even, odd in seen), seen
                print(seen[-1][0] > seen[0][0])
                """
            )
        finally:
            stop.set()
            writer.join()
    assert said == "True"
    assert written > 50


@pytest.mark.process
def test_worker_that_starts_while_the_file_is_read_alone_makes_it_read_again(
    directory: Path,
) -> None:
    reader = Reader(directory)
    seen = []

    def look(store: Store) -> int:
        seen.append(len(store.heartbeats("hub")))
        if len(seen) == 1:
            beat_and_die(directory, "second")
        return seen[-1]

    assert reader.read(look) == 2
    assert seen == [1, 2]
    reader.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Return the directory and URL of a database with tables."""
    directory, url = tmp_path / "state", ""
    if request.param == "postgresql":
        directory.mkdir()
        url = request.getfixturevalue("postgresql").blank()
    else:
        Store(directory).close()
    return directory, url


def test_nothing_can_be_written(database: tuple[Path, str]) -> None:
    reader = Reader(*database)
    for write in (
        lambda store: store.beat("hub"),
        lambda store: store.announce("key", "topic", {}),
        lambda store: store.set_step("job", "step"),
    ):
        with pytest.raises(StoreError, match=r"readonly database|read-only transaction"):
            reader.read(write)
    assert reader.read(lambda store: store.heartbeats("hub")) == []
    reader.close()


def test_missing_database_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Reader(tmp_path / "state").read(lambda store: store.jobs())
    assert not (tmp_path / "state").exists()


def test_database_of_an_older_version_is_not_upgraded(database: tuple[Path, str]) -> None:
    directory, url = database
    with closing(Store(directory, url)) as store, store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE fedimg_heartbeats DROP COLUMN heard")
    remedy = "fedimg store migrate" if url else "start the worker of this version"
    reader = Reader(directory, url)
    with pytest.raises(StoreError, match=remedy) as caught:
        reader.read(lambda store: store.jobs())
    assert "fedimg_heartbeats.heard" in str(caught.value)
    # When it has been upgraded, the same reader reads it.
    Store(directory, url, migrate=True).close()
    assert reader.read(lambda store: store.jobs()) == []
    reader.close()


@pytest.mark.process
def test_role_that_may_only_select_is_enough(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """The statements are those of docs/operations.md."""
    import re

    import psycopg

    from fedimg.store.measures import measure

    url = postgresql.blank()
    page = (Path(__file__).parent.parent.parent / "docs/operations.md").read_text()
    found = re.search(r"(?m)^    CREATE ROLE fedimg_web .*\n(?:    .+\n)+", page)
    assert found
    name = url.split("/")[-1].split("?")[0]
    statements = found[0].replace("ON DATABASE fedimg", f'ON DATABASE "{name}"')
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS fedimg_web")
        connection.execute(statements.replace("FOR ROLE fedimg", "FOR ROLE CURRENT_USER"))
    with closing(Store(tmp_path, url)) as store, closing(JobQueue(store)):
        store.beat("hub")
    as_role = sa.make_url(url).set(username="fedimg_web").render_as_string(hide_password=False)
    reader = Reader(tmp_path, as_role)
    assert [each.kind for each in reader.read(measure).processes] == ["hub"]
    reader.close()
    with psycopg.connect(as_role, autocommit=True) as connection:
        # Also where a client does not ask for read-only transactions.
        connection.execute("SET default_transaction_read_only = off")
        for statement in ("DELETE FROM fedimg_jobs", "CREATE TABLE public.mine (a int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
