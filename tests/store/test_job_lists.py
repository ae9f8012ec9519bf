"""Lists of jobs read what they show, and not all jobs of all years."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fedimg.images import Architecture, RawImage
from fedimg.store import tables
from fedimg.store.rows import image_columns
from fedimg.store.store import Store

both = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)


def add(store: Store, *states: str) -> list[str]:
    """Add a job in each state, each a second younger than the one before."""
    rows = []
    for number, state in enumerate(states):
        name = f"Job-{number}"
        url = f"https://k.example/{name}.raw.xz"
        image = RawImage(url, Architecture.X86_64, name, "b")
        rows.append(
            {"job": name, "image": name, "run": 1, "tries": 0, "state": state, "step": state}
            | {"created": 1000.0 + number, "updated": 2000.0 + number}
            | image_columns(image)
        )
    with store.engine.begin() as connection:
        connection.execute(sa.insert(tables.jobs), rows)
    return [row["job"] for row in rows]


@both
def test_active_jobs_and_the_newest_ended_ones_are_read(store: Store) -> None:
    names = add(store, "complete", "running", "failed", "queued", "cancelled", "incomplete")
    found, left_out = store.recent_jobs(2)
    assert ([row.job for row in found], left_out) == ([names[n] for n in (1, 3, 4, 5)], 2)
    for limit in (4, 50, None):
        found, left_out = store.recent_jobs(limit)
        assert ([row.job for row in found], left_out) == (names, 0)


@both
def test_jobs_of_one_second_are_told_apart_by_their_names(store: Store) -> None:
    names = add(store, "complete", "complete", "complete")
    with store.engine.begin() as connection:
        connection.execute(sa.update(tables.jobs).values(created=1000.0))
    found, left_out = store.recent_jobs(2)
    assert ([row.job for row in found], left_out) == (names[1:], 1)


@both
def test_states_and_time_choose_before_the_limit_does(store: Store) -> None:
    names = add(store, "failed", "complete", "failed", "complete")
    found, left_out = store.recent_jobs(1, states=["failed"])
    assert ([row.job for row in found], left_out) == ([names[2]], 1)
    found, left_out = store.recent_jobs(5, since=2001.0)
    assert ([row.job for row in found], left_out) == (names[1:], 0)


@both
def test_no_job_is_no_list(store: Store) -> None:
    assert store.recent_jobs(50) == ([], 0)
    assert store.count_jobs() == 0


@both
def test_part_of_a_name_is_found_as_it_is_written(store: Store) -> None:
    names = add(store, "complete", "failed")
    assert store.job_names("ob-") == names
    assert store.job_names("-1") == [names[1]]
    assert store.job_names("job") == store.job_names("%") == []


@pytest.mark.parametrize(
    "condition", ["state = 'queued'", "state IN ('complete', 'failed') ORDER BY created DESC"]
)
def test_lists_are_read_by_an_index(store: Store, condition: str) -> None:
    query = f"EXPLAIN QUERY PLAN SELECT created, job FROM fedimg_jobs WHERE {condition}"
    with store.engine.connect() as connection:
        plan = " ".join(str(row) for row in connection.exec_driver_sql(query))
    assert "fedimg_jobs_newest" in plan
