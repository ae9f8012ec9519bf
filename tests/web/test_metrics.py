from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store import tables
from fedimg.store.measures import RUNS
from fedimg.store.reader import Reader
from fedimg.store.store import Store
from fedimg.store.tables import amis, heartbeats, outages, regions, verified
from fedimg.web.metrics import exposition
from tests.web.conftest import Get

#: The most seconds of a scrape, and the jobs of the database on which it is measured.
MOST_SECONDS, JOBS = 0.3, 10_000


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the values by the metric's name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_in_prometheus_formats(get: Get) -> None:
    plain = get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ("fedimg_jobs", "queued") in samples(plain.text)
    accept = "application/openmetrics-text; version=1.0.0"
    openmetrics = get("/metrics", headers={"accept": accept})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    odd = get("/metrics", headers={"accept": "application/openmetrics-text; version=x.y"})
    assert odd.status == 200
    assert odd.headers["content-type"].startswith("text/plain")


def test_every_metric_is_this_packages_and_has_a_help_text(get: Get) -> None:
    for family in text_string_to_metric_families(get("/metrics").text):
        assert family.name.startswith("fedimg_")
        assert family.documentation.endswith(".")


def test_workers_are_counted_by_their_signs_of_life(store: Store, get: Get) -> None:
    for name in ("one", "two", "dead"):
        store.beat("worker", name)
    with store.engine.begin() as connection:
        dead = sa.update(heartbeats).where(heartbeats.c.name == "dead")
        connection.execute(dead.values(at=time.time() - 121))
    assert samples(get("/metrics").text)["fedimg_listeners",] == 0
    store.beat("hub", "one")
    found = samples(get("/metrics").text)
    assert found["fedimg_workers",] == 2
    assert found["fedimg_listeners",] == 1
    assert found["fedimg_heartbeat_timestamp_seconds", "worker", "dead"] < time.time() - 120


def test_the_state_of_regions_is_told(store: Store, get: Get) -> None:
    with store.engine.begin() as connection:
        connection.execute(
            sa.insert(outages).values(region="eu-west-1", since=3.0, reason="", looks=0)
        )
        connection.execute(
            sa.insert(verified),
            [
                {"region": "us-east-1", "at": 7.0, "differences": ["a"], "public_amis": 3}
                | {"quota": 5.0, "error": None},
                {"region": "us-east-2", "at": 8.0, "differences": None, "public_amis": None}
                | {"quota": None, "error": "no"},
            ],
        )
    found = samples(get("/metrics").text)
    assert found["fedimg_regions_away",] == 1
    assert found["fedimg_region_away_since_timestamp_seconds", "eu-west-1"] == 3
    assert found["fedimg_differences", "us-east-1"] == 1
    assert found["fedimg_public_amis", "us-east-1"] == 3
    assert found["fedimg_public_amis_quota", "us-east-1"] == 5
    assert ("fedimg_public_amis", "us-east-2") not in found
    assert found["fedimg_verification_failed", "us-east-2"] == 1
    assert found["fedimg_verification_failed", "us-east-1"] == 0


def test_unfinished_changes_are_told_by_region_and_by_what_they_do(store: Store, get: Get) -> None:
    every = [
        ("one", "us-east-1", "withdraw"),
        ("two", "us-east-1", "withdraw"),
        ("two", "eu-west-1", "withdraw"),
        ("three", "us-east-1", "delete"),
    ]
    with store.engine.begin() as connection:
        connection.execute(
            sa.insert(tables.changes),
            [
                {"job": job, "region": region, "what": what, "at": 1.0, "tries": 0, "due": 1.0}
                for job, region, what in every
            ],
        )
    found = samples(get("/metrics").text)
    assert {key: value for key, value in found.items() if "changes" in key[0]} == {
        ("fedimg_changes_pending", "withdraw", "us-east-1"): 2,
        ("fedimg_changes_pending", "withdraw", "eu-west-1"): 1,
        ("fedimg_changes_pending", "delete", "us-east-1"): 1,
    }


def test_no_label_has_an_images_name(store: Store, jobs: JobQueue, get: Get) -> None:
    image = RawImage(
        "https://koji.example.org/Very-Special-28-1.raw.xz",
        Architecture.X86_64,
        "Very-Special-28-1",
        "build-1",
    )
    jobs.submit(image)
    store.set_region(image.job, "us-east-1", step="write", detail="waiting for EC2", error="e")
    assert "Very-Special" not in get("/metrics").text


def test_hostile_name_of_a_process_is_one_printable_label(store: Store, get: Get) -> None:
    store.beat("worker", 'x"}\n fedimg_workers 7\n\x1b[31m' + "y" * 500)
    found = samples(get("/metrics").text)
    assert found["fedimg_workers",] == 1
    (name,) = [key[2] for key in found if key[0] == "fedimg_heartbeat_timestamp_seconds"]
    assert len(name) <= 100
    assert name.isprintable()


def test_database_that_cannot_be_read_is_a_metric(store: Store, get: Get) -> None:
    assert samples(get("/metrics").text)["fedimg_database_readable",] == 1
    store.close()
    for path in store.directory.iterdir():
        path.unlink()
    assert samples(get("/metrics").text) == {("fedimg_database_readable",): 0}


def fill(store: Store) -> None:
    """Add ten thousand jobs with forty AMIs and ten regions each, and the last runs' steps."""
    now = time.time()
    names = [f"build-{n}-Fedora-Cloud-{20 + n % 30}-1" for n in range(JOBS)]
    places = [f"region-{n}" for n in range(10)]
    with store.engine.begin() as connection:
        connection.execute(
            sa.insert(tables.jobs),
            [
                {"job": name, "image": name, "run": 1, "tries": 1, "step": "complete"}
                | {"state": "running" if n % 1000 == 0 else "complete"}
                | {"created": now - n, "updated": now - n}
                | {
                    "raw_image": {
                        "url": f"https://koji.example.org/{name}.raw.xz",
                        "architecture": "x86_64",
                        "build": f"Fedora-Cloud-{20 + n % 30}-1",
                        "source": f"build-{n}",
                    }
                }
                for n, name in enumerate(names)
            ],
        )
        for n, name in enumerate(names):
            if n % 1000 == 0:
                connection.execute(
                    sa.insert(regions),
                    [
                        {"job": name, "region": place, "step": "copy", "detail": "waiting for EC2"}
                        | {"updated": now}
                        for place in places
                    ],
                )
            connection.execute(
                sa.insert(amis),
                [
                    {"ami": f"ami-{n}-{kind}", "region": place, "job": name, "image": name}
                    | {"name": name, "architecture": "x86_64", "virt_type": "hvm"}
                    | {"volume_type": str(kind), "snapshot": "snap", "public": True}
                    | {"published_at": now - n - kind}
                    for place in places
                    for kind in range(4)
                ],
            )
        for n in range(JOBS // 10):
            flow = f"fedimg.publish:{names[n]}:1"
            connection.exec_driver_sql(
                "INSERT INTO workflow_status (workflow_uuid, name, status, created_at, "
                f"completed_at) VALUES ('{flow}', 'fedimg.publish', 'SUCCESS', 1, {1000 + n})"
            )
            for step in range(100):
                connection.exec_driver_sql(
                    "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, "
                    "started_at_epoch_ms, completed_at_epoch_ms) VALUES "
                    f"('{flow}', {step}, 'step-{step % 20}:x', 5000, 6000)"
                )


@pytest.mark.long
def test_scrape_of_ten_thousand_jobs_is_cheap(store: Store, reader: Reader) -> None:
    fill(store)
    took = []
    for _ in range(5):
        # Of this process alone, as others may use the machine.
        begin = time.process_time()
        text = exposition(reader, "")[0].decode()
        took.append(time.process_time() - begin)
    found = samples(text)
    assert found["fedimg_jobs", "complete"] == JOBS - 10
    assert found["fedimg_ec2_waits", "region-0"] == 10
    assert found["fedimg_step_duration_seconds", "0.5", "step-0"] == 1
    assert sum(key[0] == "fedimg_last_publication_timestamp_seconds" for key in found) == 30
    assert found["fedimg_step_duration_runs",] == RUNS
    assert min(took) < MOST_SECONDS, took
