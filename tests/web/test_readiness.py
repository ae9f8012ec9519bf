from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from fedimg.store.heartbeats import CONSUMER, HUB, SILENT_SECONDS, WORKER
from fedimg.store.store import Store
from fedimg.store.tables import heartbeats
from tests.web.conftest import Get, ask

DATABASES = ["sqlite", "postgresql"]


def silence(store: Store, kind: str) -> None:
    with store.engine.begin() as connection:
        at = time.time() - SILENT_SECONDS - 1
        connection.execute(sa.update(heartbeats).where(heartbeats.c.kind == kind).values(at=at))


def test_site_whose_hub_and_worker_work_is_ready(store: Store, get: Get) -> None:
    store.beat(HUB)
    store.beat(WORKER, "worker")
    answer = get("/readyz")
    assert (answer.status, answer.text) == (200, "ok\n")


def test_site_on_which_nothing_has_run_is_not_ready(get: Get) -> None:
    answer = get("/readyz")
    assert answer.status == 503
    assert answer.text.splitlines() == [
        "fedmsg-hub has never run on this database",
        "the worker has never run on this database",
    ]


@pytest.mark.parametrize(("kind", "name"), [(HUB, "fedmsg-hub"), (WORKER, "the worker")])
def test_part_that_is_silent_is_named(store: Store, get: Get, kind: str, name: str) -> None:
    store.beat(HUB)
    store.beat(WORKER)
    silence(store, kind)
    answer = get("/readyz")
    assert answer.status == 503
    (line,) = answer.text.splitlines()
    assert line.startswith(f"{name} last said at 2")
    # The process that answers works all the same.
    assert get("/healthz").status == 200


def test_one_of_two_workers_is_enough(store: Store, get: Get) -> None:
    store.beat(HUB)
    store.beat(WORKER, "one")
    silence(store, WORKER)
    store.beat(WORKER, "two")
    assert get("/readyz").status == 200


def test_site_on_both_buses_needs_hub_and_consumer(store: Store, reader, settings) -> None:
    from fedimg.web.operations import operations

    both = settings.model_copy(update={"bus": ["fedmsg", "fedora-messaging"]})
    store.beat(HUB)
    store.beat(WORKER)
    app = operations(both, reader)
    assert "the consumer of fedora-messaging has never run" in ask(app, "/readyz").text
    store.beat(CONSUMER)
    assert ask(app, "/readyz").status == 200


@pytest.mark.file
def test_database_that_is_gone_is_told_in_words(store: Store, get: Get) -> None:
    store.close()
    for path in store.directory.iterdir():
        path.unlink()
    answer = get("/readyz")
    assert answer.status == 503
    assert "cannot read the database" in answer.text
    assert "No such file" in answer.text
    assert get("/healthz").status == 200
