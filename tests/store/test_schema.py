"""Upgrades of databases that an older version created.

Follows fedimg/store/tables/*.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from fedimg.identity import Known, Validator
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.store import schema
from fedimg.store.database import Database
from fedimg.store.store import Store, StoreError
from fedimg.store.tables import metadata
from tests.postgresql import PostgreSQL

DATABASES = ("sqlite", "postgresql")
FEDIMG = Path(sys.executable).parent / "fedimg"
CHECKSUM = "sha256:" + "a" * 64

#: Turn a new database into an older one: no table of deferred entries, no checksums, fewer indexes.
OLDER = (
    "DROP TABLE fedimg_waiting",
    "DROP INDEX ix_fedimg_jobs_checksum",
    "ALTER TABLE fedimg_jobs DROP COLUMN checksum",
    "DROP INDEX ix_fedimg_jobs_image",
    "DROP INDEX fedimg_outbox_waiting",
)


def image(number: int, checksum: str | None = None) -> RawImage:
    name = f"Fedora-Cloud-Base-43-{number}"
    url = f"https://koji.example.org/{name}.x86_64.raw.xz"
    return RawImage(url, Architecture.X86_64, name, f"build-{number}", number, checksum)


def make_older(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements or OLDER:
            connection.exec_driver_sql(statement)


@contextmanager
def opened(store: Store, *, migrate: bool = False) -> Iterator[Store]:
    """Open the database a second time, as another process does."""
    url = store.queue_url if store.shared else ""
    again = Store(store.directory, url, migrate=migrate)
    try:
        yield again
    finally:
        again.close()


def lacking(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return [lack.name for lack in schema.lacks(connection)]


def test_new_database_lacks_nothing(store: Store) -> None:
    assert lacking(store) == []


def test_older_database_gets_new_columns_and_keeps_its_rows(store: Store, jobs: JobQueue) -> None:
    assert jobs.submit(image(1))
    make_older(store.engine)
    assert lacking(store) == [
        "fedimg_jobs.checksum",
        "ix_fedimg_jobs_checksum",
        "ix_fedimg_jobs_image",
        "fedimg_outbox_waiting",
        "fedimg_waiting",
    ]
    with opened(store, migrate=store.shared) as grown:
        assert lacking(grown) == []
        (job,) = grown.jobs()
        assert (job.job, job.image) == (image(1).job, image(1))
        # The new column is in use.
        queue = JobQueue(grown)
        assert queue.submit(image(2, CHECKSUM))
        assert queue.submit(image(3, CHECKSUM)) is None
        queue.close()


def test_column_that_rows_would_have_no_value_for_is_named(store: Store) -> None:
    make_older(store.engine, "ALTER TABLE fedimg_jobs DROP COLUMN tries")
    with (
        pytest.raises(StoreError, match=r"an older fedimg.*fedimg_jobs\.tries"),
        opened(store, migrate=store.shared),
    ):
        pass


def test_older_version_goes_on_in_a_database_that_has_grown(store: Store, jobs: JobQueue) -> None:
    newer = sa.MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(newer)
    mine = newer.tables["fedimg_jobs"]
    mine.append_column(sa.Column("later", sa.String, index=True))
    mine.append_column(sa.Column("sure", sa.Integer, nullable=False, server_default="7"))
    assert jobs.submit(image(1))
    schema.grow(store.engine.begin, newer)
    with opened(store) as older:
        queue = JobQueue(older)
        assert queue.submit(image(2))
        queue.close()
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(mine.c.later, mine.c.sure)).all()
        assert rows == [(None, 7), (None, 7)]
        assert schema.lacks(connection, newer) == []


def test_version_before_reads_the_images_of_uploads(store: Store, jobs: JobQueue) -> None:
    given = replace(RawImage.at("https://x.example/a.raw.xz", Architecture.X86_64, None), size=5)
    jobs.upload(Known(given, Validator('"one"')))
    with store.engine.connect() as connection:
        row = connection.execute(sa.select(metadata.tables["fedimg_jobs"])).one()
    # The version before fails at an unknown key, so newer values have columns of their own.
    assert set(row.raw_image) == {"url", "architecture", "build", "source", "size", "checksum"}
    assert (row.etag, row.on_purpose) == ('"one"', False)


def test_job_that_the_version_before_made_is_known_again(store: Store, jobs: JobQueue) -> None:
    assert jobs.submit(image(1))
    columns = ("etag", "last_modified", "on_purpose", "release", "subvariant")
    make_older(store.engine, *(f"ALTER TABLE fedimg_jobs DROP COLUMN {c}" for c in columns))
    with opened(store, migrate=store.shared) as grown:
        queue = JobQueue(grown)
        again = replace(RawImage.at(image(1).url, Architecture.X86_64, None), size=1)
        assert queue.upload(Known(again, Validator('"one"'))).job == image(1).job
        queue.close()


def test_ami_that_the_version_before_recorded_is_not_encrypted(store: Store) -> None:
    kind = AMIType(Virtualization.HVM, "gp3")
    store.record_ami(image(1), AMI("ami-1", "a name", "us-east-1", kind, "snap-1"))
    make_older(store.engine, "ALTER TABLE fedimg_amis DROP COLUMN encrypted")
    with opened(store, migrate=store.shared) as grown:
        assert [row.type for row in grown.amis()] == [kind]


def test_upgrade_does_not_deadlock_with_a_reader_of_two_tables(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    newer = sa.MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(newer)
    changed = newer.sorted_tables[:2]
    for table in changed:
        table.append_column(sa.Column("later", sa.String))
    first, second = (sa.select(sa.func.count()).select_from(table) for table in changed)
    store = Store(tmp_path, postgresql.blank())
    with ThreadPoolExecutor(1) as threads, store.engine.connect() as reader:
        reader.execute(second)
        growing = threads.submit(schema.grow, store.engine.begin, newer)
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with store.engine.connect() as other:
            while not other.execute(waiting).scalar_one():
                time.sleep(0.01)
        reader.execute(first)
        reader.rollback()
        growing.result(240)
    store.close()


@pytest.fixture
def config(tmp_path: Path, postgresql: PostgreSQL) -> Path:
    """Write a fedimg.toml for a PostgreSQL that is prepared."""
    path = tmp_path / "fedimg.toml"
    path.write_text(f'state_directory = "state"\ndatabase = "{postgresql.blank()}"\n')
    return path


def fedimg(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FEDIMG, *arguments, "--config", config], capture_output=True, text=True)


def engine_of(config: Path) -> sa.Engine:
    url = config.read_text().split('"')[3]
    return sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))


def test_worker_refuses_an_older_database_until_it_is_migrated(config: Path) -> None:
    engine = engine_of(config)
    make_older(engine)
    engine.dispose()
    refused = fedimg(config, "worker")
    assert refused.returncode == 2
    assert "lacks fedimg_jobs.checksum, ix_fedimg_jobs_checksum, " in refused.stderr
    assert "run 'fedimg store migrate'" in refused.stderr
    assert fedimg(config, "status").returncode == 2
    assert fedimg(config, "store", "migrate").returncode == 0
    assert fedimg(config, "status").returncode == 0


def test_column_with_constraints_cannot_be_added(store: Store) -> None:
    changed = sa.MetaData()
    for table in metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["fedimg_jobs"].append_column(sa.Column("x", sa.String, unique=True))
    with store.engine.connect() as connection, pytest.raises(NotImplementedError, match="x"):
        schema.lacks(connection, changed)
