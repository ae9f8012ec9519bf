"""Several workers on one PostgreSQL: killed, frozen or drained, they lose nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.postgresql import PostgreSQL
from tests.system.builds import announce_build
from tests.system.several import alive, all_well, at_work, workers


def test_killed_workers_job_is_finished_by_another(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 2) as deployment:
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        deployment.kill(at_work(deployment))
        all_well(deployment)
        assert len(alive(deployment)) == 1


def test_frozen_workers_job_is_finished_by_another_and_it_ends_when_it_thaws(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 2) as deployment:
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        frozen = at_work(deployment)
        deployment.freeze(frozen)
        all_well(deployment)
        deployment.thaw(frozen)
        assert deployment.ends(frozen) == 1
        assert "has lost its lock in the database" in deployment.log(frozen)
        all_well(deployment)


@pytest.mark.long
def test_job_cancelled_anywhere_is_broken_off_where_it_runs(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 3) as deployment:
        announce_build(deployment, image={"size_mib": 512, "random_mib": 64})
        at_work(deployment)
        (job,) = deployment.jobs()
        deployment.fedimg("cancel", job.job)
        deployment.ended()
        assert deployment.live() == []
        assert all(not member.jobs for member in alive(deployment))


@pytest.mark.long
def test_drained_worker_ends_behind_its_job_and_takes_no_other(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 1) as deployment:
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        at_work(deployment)
        (row,) = deployment.fedimg("workers")
        assert (row["state"], len(row["jobs"])) == ("working", 1)
        (row,) = deployment.fedimg("drain", row["worker"])
        assert row["state"] == "draining"
        assert deployment.ends("one") == 6
        # It was alone, so that it has cleaned up behind its job, too.
        all_well(deployment)
        assert deployment.fedimg("workers") == []
        deployment.fedimg("drain", row["worker"], status=3)


@pytest.mark.long
def test_workers_come_back_when_postgresql_does(tmp_path: Path, postgresql: PostgreSQL) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 1) as deployment:
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        at_work(deployment)
        deployment.store().close()
        postgresql.stop()
        try:
            assert deployment.ends("one") == 1
            deployment.start_worker("one")
            error = deployment.fedimg("status", status=2)["error"]
            assert "check `database` in fedimg.toml" in error
            log = deployment.site.logs / "one.log"
            deployment.until(
                lambda: "waiting for the database" in log.read_text() or None, "it waiting"
            )
        finally:
            postgresql.start()
        all_well(deployment)


def test_worker_refuses_the_queues_older_tables(tmp_path: Path, postgresql: PostgreSQL) -> None:
    database = postgresql.blank()
    with workers(tmp_path / "site", database, 0) as deployment:
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE dbos_migrations SET version = version - 1")
        deployment.start_worker("one")
        assert deployment.ends("one") == 2
        log = deployment.log("one")
        assert "run 'fedimg store migrate'" in log
        assert "Traceback" not in log
        deployment.fedimg("store", "migrate")
        deployment.start_worker("one")
        deployment.until(lambda: alive(deployment) or None, "the worker at work")


def test_hold_keeps_every_worker_from_publishing_until_it_is_released(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    with workers(tmp_path / "site", postgresql.blank(), 2) as deployment:
        announce_build(deployment, image={"size_mib": 256, "random_mib": 32})
        at_work(deployment)
        by = deployment.fedimg("hold", "--reason", "release day")["by"]
        announce_build(deployment, release="1.2", image={"size_mib": 40})

        def waiting() -> bool | None:
            jobs = {job.state: job for job in deployment.jobs()}
            begun = jobs.get("running")
            held = begun and {each.step for each in begun.regions} == {"held"}
            return True if held and "queued" in jobs else None

        deployment.until(waiting, "one job held in all regions, the other queued")
        assert not any(row.get("public") for row in deployment.live())
        # A worker that starts meanwhile goes on with the job and keeps to the hold.
        busy = at_work(deployment)
        deployment.kill(busy)
        deployment.start_worker(busy)
        both = lambda: len(alive(deployment)) == 2 or None  # noqa: E731
        deployment.until(both, "two workers")
        deployment.until(waiting, "the job held again")
        assert not any(row.get("public") for row in deployment.live())
        assert f"by {by}: release day" in deployment.noted("status")
        deployment.fedimg("release")
        jobs = deployment.ended(2)
        assert [job["state"] for job in jobs] == ["complete"] * 2
        for name in ("one", "two"):
            assert "publishing is no longer held" in deployment.log(name)
