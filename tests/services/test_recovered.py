"""A job whose record was rebuilt from EC2's tags runs again: nothing is made or published twice.

Follows fedimg/lifecycle/recover.py.
"""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

from fedimg.aws.client.waiter import Waiter
from fedimg.images import RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import recover, recovery_search
from fedimg.store import rows
from fedimg.store.recovered import Recovered
from fedimg.store.store import Store
from tests.services.conftest import ORIGIN, SITE, Lab

FURTHER = "us-east-2"


def begun(store: Store, image: RawImage) -> Recorder:
    """Return the recorder of a new or another run of an image's job."""
    with closing(JobQueue(store)) as queue:
        run = 1 if queue.submit(image) else queue.retry(image.job)
    assert run is not None
    store.begin(image.job, run)
    return Recorder(store, image, run, ORIGIN)


def amis(lab: Lab, image: RawImage) -> dict[str, bool]:
    """Return the AMIs of an image on EC2, with whether each is public."""
    live = lab.live("image")
    return {row["id"]: row["public"] for row in live if row["tags"].get("fedimg:job") == image.job}


def test_run_after_a_recovery_makes_nothing_twice_and_stops_at_unknown_amis(
    lab: Lab, tmp_path: Path
) -> None:
    image, regions = lab.image(), [ORIGIN, FURTHER]
    lost = Store(tmp_path / "lost")
    lab.refuse({FURTHER: {"ModifyImageAttribute": "OperationNotPermitted"}})
    first = lab.service(regions=regions).upload(image, begun(lost, image))
    lab.refuse({})
    lost.close()
    before = amis(lab, image)
    assert set(first.failed) == {FURTHER}
    assert set(before.values()) == {True, False}

    store = Store(tmp_path / "rebuilt")
    found = recovery_search.search(
        lab.clients, Waiter(lab.settings().limits, threading.Event()), SITE, regions
    )
    for job in recover.jobs(found, recover.Recorded(), regions):
        Recovered(store).record(job)
    recovered = store.job(image.job)
    assert recovered is not None
    assert (recovered.state, recovered.image) == ("incomplete", image)
    states = {row.region: row.state for row in store.amis() if row.job == image.job}
    assert states == {ORIGIN: rows.PUBLIC, FURTHER: rows.UNKNOWN}

    again = lab.service(regions=regions).upload(image, begun(store, image), rerun=True)
    assert again.published == first.published
    assert "was private when the database was rebuilt" in again.failed[FURTHER]
    assert amis(lab, image) == before
    told = [row for row in store.unannounced() if row.topic == "image.publish"]
    assert told == []
    store.close()
