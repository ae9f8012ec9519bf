from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.store.measures import RUNS, measure
from fedimg.store.store import Store
from fedimg.store.tables import amis, outages, regions, verified

DATABASES = ["sqlite", "postgresql"]
HVM = AMIType(Virtualization.HVM, "gp3")


def image(number: int, build: str = "Fedora-Cloud-Base-28-1.1", source: str = "build") -> RawImage:
    url = f"https://koji.example.org/{build}.x86_64.raw.xz"
    return RawImage(url, Architecture.X86_64, build, f"{source}-{number}")


def published(store: Store, queue: JobQueue, image: RawImage, at: float) -> None:
    queue.submit(image)
    ami = AMI(f"ami-{image.job}", "name", "us-east-1", HVM, "snap")
    store.record_ami(image, ami)
    store.publish_ami(ami)
    with store.engine.begin() as connection:
        connection.execute(sa.update(amis).where(amis.c.ami == ami.id).values(published_at=at))


def test_new_site_has_nothing(store: Store) -> None:
    measures = measure(store)
    assert set(measures.jobs.values()) == {0}
    assert set(measures.jobs) >= {"queued", "running", "failed", "complete", "incomplete"}
    assert (measures.live.count, measures.live.oldest) == (0, None)
    assert (measures.outbox.count, measures.outbox.oldest) == (0, None)
    for each in (measures.steps, measures.processes, measures.published, measures.regions):
        assert not each


def test_jobs_are_counted_and_a_retried_job_is_as_old_as_its_run(
    store: Store, jobs: JobQueue
) -> None:
    for number in range(3):
        jobs.submit(image(number))
    first = image(0).job
    store.begin(first, 1)
    store.end(first, 1, "failed", "no")
    with store.engine.begin() as connection:
        table = sa.table("fedimg_jobs", sa.column("created"))
        connection.execute(sa.update(table).values(created=1.0))
    before = time.time()
    measures = measure(store)
    assert (measures.jobs["queued"], measures.jobs["failed"]) == (2, 1)
    assert measures.live.count == 2
    jobs.retry(first)
    measures = measure(store)
    assert measures.live.count == 3
    assert measures.live.oldest is not None
    assert before - 60 < measures.live.oldest < time.time() + 1


def test_messages_that_wait_are_counted_with_the_age_of_the_oldest(store: Store) -> None:
    before = time.time()
    store.announce("one", "topic", {})
    store.announce("two", "topic", {})
    store.delivered([1], "fedmsg", ["fedmsg"])
    waiting = measure(store).outbox
    assert waiting.count == 1
    assert waiting.oldest is not None
    assert before <= waiting.oldest <= time.time()


def test_last_message_outlives_the_process_that_received_it(store: Store) -> None:
    store.beat("hub", "host", heard=5.0)
    store.beat("hub", "host")
    store.beat("worker", "one")
    hub, worker = measure(store).processes
    assert (hub.kind, hub.name, hub.heard) == ("hub", "host", 5.0)
    assert (worker.kind, worker.heard) == ("worker", None)


def test_steps_of_the_last_runs_are_measured_without_their_regions(store: Store) -> None:
    schema = "dbos." if store.shared else ""
    with store.engine.begin() as connection:
        for run in range(RUNS + 1):
            flow = f"fedimg.publish:job-{run}:1"
            connection.exec_driver_sql(
                f"INSERT INTO {schema}workflow_status (workflow_uuid, name, status, created_at, "
                f"completed_at) VALUES ('{flow}', 'fedimg.publish', 'SUCCESS', 1, {1000 + run})"
            )
            for number, (step, took) in enumerate(
                [("write", 1000 * run), ("copy:us-west-2", 2000), ("copy:eu-west-1", 4000)]
            ):
                connection.exec_driver_sql(
                    f"INSERT INTO {schema}operation_outputs (workflow_uuid, function_id, "
                    "function_name, started_at_epoch_ms, completed_at_epoch_ms) VALUES "
                    f"('{flow}', {number}, '{step}', 5000, {5000 + took})"
                )
    steps = measure(store).steps
    # The first run is not among the last ones.
    assert sorted(steps["write"]) == [float(run) for run in range(1, RUNS + 1)]
    assert sorted(set(steps["copy"])) == [2.0, 4.0]
    assert len(steps["copy"]) == 2 * RUNS


def test_regions_that_wait_are_away_or_differ_are_told(store: Store, jobs: JobQueue) -> None:
    for number in range(2):
        jobs.submit(image(number))
        store.set_region(image(number).job, "us-west-2", step="copy", detail="waiting for EC2")
    ended = image(1).job
    store.begin(ended, 1)
    store.end(ended, 1, "complete", None)
    with store.engine.begin() as connection:
        # A row of a job that has ended says nothing about EC2 now.
        connection.execute(sa.update(regions).values(detail="waiting for EC2 to answer"))
        connection.execute(
            sa.insert(outages),
            [
                {"region": "eu-west-1", "since": 3.0, "reason": "no", "looks": 0, "back": None},
                {"region": "eu-west-2", "since": 3.0, "reason": "no", "looks": 0, "back": 4.0},
            ],
        )
        connection.execute(
            sa.insert(verified).values(
                region="us-east-1", at=7.0, differences=["a", "b"], public_amis=3, quota=5.0
            )
        )
    measures = measure(store)
    assert measures.waits == {"us-west-2": 1}
    assert measures.away == {"eu-west-1": 3.0}
    (region,) = measures.regions
    assert (region.differences, region.public_amis, region.quota) == (2, 3, 5.0)
    assert not region.failed


def test_last_publication_is_told_by_release_and_architecture(store: Store, jobs: JobQueue) -> None:
    now = time.time()
    published(store, jobs, image(1), now - 500)
    published(store, jobs, image(2), now - 100)
    published(store, jobs, image(3, "Fedora-Rawhide-20261101.n.0", "compose"), now - 300)
    # A person's word is no sign that the pipeline works.
    published(store, jobs, image(4, source="task"), now)
    jobs.submit(image(5))
    assert measure(store).published == {
        ("28", "x86_64"): pytest.approx(now - 100),
        ("Rawhide", "x86_64"): pytest.approx(now - 300),
    }
