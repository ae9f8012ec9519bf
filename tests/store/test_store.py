"""Jobs, AMIs and messages in the database.

Follows fedimg/store/amis.py, fedimg/store/outbox.py, fedimg/store/rows.py.
"""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from fedimg.config import FEDMSG
from fedimg.identity import Known, Validator
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.records import as_record
from fedimg.store import tables
from fedimg.store.rows import CLEANING
from fedimg.store.store import Store, StoreError
from fedimg.store.twins import Submission

URL = "https://koji.example.org/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
IMAGE = RawImage(
    URL, Architecture.X86_64, "Fedora-Cloud-Base-28-1.1", "build-7", 5, "sha256:" + "0" * 64
)
#: The same image, announced by another source.
TWIN = replace(IMAGE, source="task-8")
AMI_0 = AMI(
    "ami-00000000000000000",
    "Fedora-0",
    "us-east-1",
    AMIType(Virtualization.HVM, "gp2"),
    "snap-00000000000000000",
)

DATABASES = ("sqlite", "postgresql")


class Queue:
    """Records which runs were queued."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, _connection: object, run: int) -> None:
        self.runs.append(run)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def at_once(*calls) -> list:
    """Return the results of calls that several threads make at the same time."""
    gate = threading.Barrier(len(calls))

    def go(call):
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(go, calls))


def processes(script: str, *arguments: object, count: int = 1) -> list[subprocess.Popen]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]


# Adding


def test_new_job_waits_in_its_first_run(store, queue):
    assert store.add_job(IMAGE, queue=queue) == IMAGE.job
    row = store.job(IMAGE.job)
    assert (row.state, row.run, row.image, row.error) == ("queued", 1, IMAGE, None)
    assert queue.runs == [1]


def test_same_image_twice_is_one_job(store, queue):
    store.add_job(IMAGE, queue=queue)
    assert store.add_job(IMAGE, queue=queue) is None
    assert queue.runs == [1]
    assert len(store.jobs()) == 1


def test_same_bytes_from_a_second_source_are_one_job(store, queue):
    store.add_job(IMAGE, queue=queue)
    assert store.add_job(TWIN, queue=queue) is None
    assert queue.runs == [1]
    assert store.job(TWIN.job) is None


MD5, SHA256, OTHER = "md5:" + "1" * 32, "sha256:" + "2" * 64, "sha256:" + "3" * 64


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        ({"checksum": None}, {"checksum": None}, True),
        ({"checksum": None}, {"checksum": SHA256}, True),
        ({"checksum": MD5}, {"checksum": SHA256}, True),
        # Comparable checksums that differ mean two files, whatever their names are.
        ({"checksum": SHA256}, {"checksum": OTHER}, False),
        ({"checksum": MD5}, {"checksum": SHA256, "size": 7}, False),
        ({"checksum": None, "size": None}, {"checksum": None, "size": None}, False),
        ({"checksum": None, "size": None}, {"checksum": MD5}, False),
        ({"checksum": None}, {"checksum": MD5, "url": "https://x/Other-1.raw.xz"}, False),
    ],
)
def test_name_and_size_identify_twins_without_comparable_checksums(
    store, queue, first, second, twins
):
    one, other = replace(IMAGE, **{"size": 5} | first), replace(TWIN, **{"size": 5} | second)
    store.add_job(one, queue=queue)
    assert store.add_job(other, queue=queue) == (None if twins else other.job)
    assert store.twin(other) == (one.job if twins else None)


def test_message_is_announced_when_every_bus_has_confirmed_it(store):
    both = ("fedmsg", "fedora-messaging")
    for key in "01":
        store.announce(key, "image.copy", {})
    ids = [row.id for row in store.unannounced()]
    store.delivered(ids, "fedmsg", both)
    store.delivered(ids[:1], "fedora-messaging", both)
    assert store.unannounced(10, "fedmsg") == []
    assert [row.id for row in store.unannounced(10, "fedora-messaging")] == ids[1:]
    assert [row.id for row in store.unannounced()] == ids[1:]
    # A site that drops one of its buses does not wait for that bus.
    store.delivered((), "fedmsg", ("fedmsg",))
    assert store.unannounced() == []


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_failed_or_cancelled_twin_does_not_block(store, queue, ended):
    store.add_job(IMAGE, queue=queue)
    store.end(IMAGE.job, 1, ended, "reason")
    assert store.add_job(TWIN, queue=queue) == TWIN.job


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
@pytest.mark.parametrize("recorded", ["public", "offered", "once public"])
def test_failed_or_cancelled_twin_that_is_public_somewhere_blocks(
    store, queue, upload, ended, recorded
):
    store.add_job(IMAGE, queue=queue)
    store.record_ami(IMAGE, AMI_0)
    if recorded == "offered":
        store.offer(IMAGE.job, AMI_0.region, [AMI_0.id])
    else:
        store.publish_ami(AMI_0)
    if recorded == "once public":
        store.write(sa.update(tables.amis).values(public=False))
    store.end(IMAGE.job, 1, ended, "reason")
    assert store.add_job(TWIN, queue=queue) is None
    assert store.twin(TWIN) == IMAGE.job
    assert upload(replace(MIRRORED, checksum=IMAGE.checksum)).job == IMAGE.job
    # The job itself goes on.
    assert store.next_run(IMAGE.job, queue=queue) == 2


@pytest.mark.parametrize("ended", ["complete", "incomplete"])
def test_twin_that_is_public_blocks(store, queue, ended):
    store.add_job(IMAGE, queue=queue)
    store.end(IMAGE.job, 1, ended, None)
    assert store.add_job(TWIN, queue=queue) is None


def test_threads_that_add_an_image_make_one_job(store, queue):
    added = at_once(*[lambda: store.add_job(IMAGE, queue=queue)] * 12)
    assert [job for job in added if job] == [IMAGE.job]
    assert queue.runs == [1]


def test_threads_that_add_twins_make_one_job(store, queue):
    twins = [replace(IMAGE, source=f"task-{number}") for number in range(12)]
    added = at_once(*[lambda twin=twin: store.add_job(twin, queue=queue) for twin in twins])
    assert len([job for job in added if job]) == 1
    assert len(store.jobs()) == 1
    assert queue.runs == [1]


ADD = """
import dataclasses, json, os, pathlib, sys
from fedimg.images import RawImage
from fedimg.records import from_record
from fedimg.store.store import Store
store = Store(pathlib.Path(sys.argv[1]))
image = from_record(RawImage, json.loads(sys.argv[2]))
image = dataclasses.replace(image, source=f"task-{os.getpid()}")
print("ready", flush=True)
sys.stdin.read()
print(store.add_job(image, queue=lambda *_: None) or "")
"""


@pytest.mark.process
def test_processes_that_open_a_new_store_and_add_twins_make_one_job(tmp_path):
    state = tmp_path / "state"
    adding = processes(ADD, state, json.dumps(as_record(IMAGE)), count=3)
    ready = [process.stdout.readline() for process in adding]
    added = []
    for process in adding:
        process.stdin.close()
    for process in adding:
        added.append(process.stdout.read().strip())
        process.wait()
    assert ready == ["ready\n"] * 3
    assert len([job for job in added if job]) == 1
    assert len(Store(state).jobs()) == 1


def test_queue_that_fails_leaves_no_job(store):
    def broken(*_):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.add_job(IMAGE, queue=broken)
    assert store.jobs() == []
    assert store.add_job(IMAGE, queue=lambda *_: None) == IMAGE.job


# Runs


@pytest.fixture
def job(store, queue) -> str:
    store.add_job(IMAGE, queue=queue)
    queue.runs.clear()
    return IMAGE.job


def state(store: Store, job: str) -> tuple[str, int]:
    row = store.job(job)
    return row.state, row.run


def test_begin_counts_tries(store, job):
    assert [store.begin(job, 1), store.begin(job, 1)] == [1, 2]
    assert state(store, job) == ("running", 1)


def test_run_that_is_not_the_jobs_does_not_begin(store, job):
    assert store.begin(job, 2) is None
    assert store.begin("build-8-other", 1) is None
    assert state(store, job) == ("queued", 1)


def test_cancelled_run_does_not_begin(store, job, queue):
    assert store.cancel(job, queue=queue) == 1
    assert queue.runs == [1]
    assert store.begin(job, 1) is None
    assert state(store, job) == ("cancelled", 1)


def test_step_of_a_live_job_is_recorded(store, job):
    store.begin(job, 1)
    store.set_step(job, "copy")
    assert store.job(job).step == "copy"


def test_step_of_an_ended_job_is_not_recorded(store, job):
    store.end(job, 1, "complete", None)
    store.set_step(job, "copy")
    assert store.job(job).step == "complete"


def test_finish_leaves_the_clean_up_to_do(store, job, queue):
    store.begin(job, 1)
    assert store.finish(job, 1, queue=queue)
    assert queue.runs == [1]
    assert store.job(job).step == CLEANING
    store.end(job, 1, "incomplete", "eu-west-1: refused")
    row = store.job(job)
    assert (row.state, row.step, row.error) == ("incomplete", "incomplete", "eu-west-1: refused")


def test_finish_of_another_run_does_nothing(store, job, queue):
    store.begin(job, 1)
    assert not store.finish(job, 2, queue=queue)
    assert queue.runs == []


def test_ended_job_cannot_be_cancelled_or_finished(store, job, queue):
    store.end(job, 1, "complete", None)
    assert store.cancel(job, queue=queue) is None
    assert not store.finish(job, 1, queue=queue)
    assert state(store, job) == ("complete", 1)
    assert queue.runs == []


def test_unknown_job_is_none(store, queue):
    assert store.job("build-8-other") is None
    assert store.cancel("build-8-other", queue=queue) is None
    assert store.next_run("build-8-other", queue=queue) is None


def test_job_in_its_clean_up_is_not_cancelled(store, job, queue):
    store.finish(job, 1, queue=queue)
    assert store.cancel(job, queue=queue) is None
    assert queue.runs == [1]


def test_cancelled_job_stays_cancelled_whatever_its_run_ends_with(store, job, queue):
    store.begin(job, 1)
    store.cancel(job, queue=queue)
    assert not store.finish(job, 1, queue=queue)
    store.end(job, 1, "failed", "reason")
    assert state(store, job) == ("cancelled", 1)
    store.end(job, 1, "cancelled", None)
    assert store.job(job).step == "cancelled"


def test_cancel_and_finish_at_once_queue_one_clean_up(store, queue):
    for number in range(20):
        image = replace(IMAGE, source=f"task-{number}", checksum=None, size=None)
        store.add_job(image, queue=lambda *_: None)
        store.begin(image.job, 1)
        queue.runs.clear()
        cancelled, finished = at_once(
            lambda job=image.job: store.cancel(job, queue=queue),
            lambda job=image.job: store.finish(job, 1, queue=queue),
        )
        assert (cancelled is None) == finished
        assert queue.runs == [1]


def test_cancelled_twice_at_once_is_cancelled_once(store, job, queue):
    got = at_once(*[lambda: store.cancel(job, queue=queue)] * 4)
    assert [run for run in got if run] == [1]
    assert queue.runs == [1]


@pytest.mark.parametrize("ended", ["incomplete", "failed", "cancelled"])
def test_ended_job_gets_a_next_run(store, job, queue, ended):
    store.end(job, 1, ended, "reason")
    assert store.next_run(job, queue=queue) == 2
    assert queue.runs == [2]
    row = store.job(job)
    assert (row.state, row.run, row.error) == ("queued", 2, None)


def test_live_or_complete_job_gets_no_next_run(store, job, queue):
    assert store.next_run(job, queue=queue) is None
    store.begin(job, 1)
    assert store.next_run(job, queue=queue) is None
    store.end(job, 1, "complete", None)
    assert store.next_run(job, queue=queue) is None
    assert queue.runs == []


def test_retried_at_once_is_one_next_run(store, job, queue):
    store.end(job, 1, "failed", None)
    got = at_once(*[lambda: store.next_run(job, queue=queue)] * 6)
    assert [run for run in got if run] == [2]
    assert queue.runs == [2]


def test_job_whose_twin_took_over_gets_no_next_run(store, job, queue):
    store.end(job, 1, "failed", None)
    store.add_job(TWIN, queue=queue)
    queue.runs.clear()
    assert store.next_run(job, queue=queue) is None
    store.end(TWIN.job, 1, "complete", None)
    assert store.next_run(job, queue=queue) is None
    assert queue.runs == []


# Uploads

SAYS = Validator('"one"', "Sat, 28 Nov 2026 10:00:00 GMT")
#: Uploads name an image by its URL alone, without a checksum unless one is given.
UPLOADED = replace(RawImage.at(URL, Architecture.X86_64, None), size=5)
MIRRORED = replace(RawImage.at(URL.replace("koji", "mirror"), Architecture.X86_64, None), size=5)


class Upload:
    """Submits images as `fedimg upload` does, and records the runs that were queued."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runs: list[tuple[str, int]] = []

    def __call__(self, image: RawImage, said: Validator = SAYS, **given: bool) -> Submission:
        return self.store.add_upload(
            Known(image, said), queue=lambda _, job, run: self.runs.append((job, run)), **given
        )


@pytest.fixture
def upload(store) -> Upload:
    return Upload(store)


def second(image: RawImage) -> str:
    return replace(image, source=f"{image.source}.2").job


@pytest.mark.parametrize("checksum", [None, MD5, "sha256:" + "0" * 64])
@pytest.mark.parametrize("uploaded", [UPLOADED, MIRRORED])
@pytest.mark.parametrize("given", [None, "sha256:" + "0" * 64])
def test_image_that_koji_announced_is_not_uploaded(store, queue, upload, checksum, uploaded, given):
    store.add_job(replace(IMAGE, checksum=checksum), queue=queue)
    found = upload(replace(uploaded, checksum=given))
    assert (found.job, found.run) == (IMAGE.job, None)
    assert upload.runs == []
    assert len(store.jobs()) == 1


@pytest.mark.parametrize("checksum", [None, MD5, "sha256:" + "0" * 64])
@pytest.mark.parametrize("uploaded", [UPLOADED, MIRRORED])
@pytest.mark.parametrize("given", [None, "sha256:" + "0" * 64])
@pytest.mark.parametrize("source", ["build-7", "task-8", "compose-Fedora-28-20261128.0"])
def test_image_that_was_uploaded_is_not_taken_from_koji(
    store, queue, upload, checksum, uploaded, given, source
):
    job = upload(replace(uploaded, checksum=given)).job
    announced = replace(IMAGE, source=source, checksum=checksum)
    assert store.twin(announced) == job
    assert store.add_job(announced, queue=queue) is None
    assert queue.runs == []


@pytest.mark.parametrize("size", [5, None])
def test_same_url_uploaded_twice_is_one_job(store, upload, size):
    image = replace(UPLOADED, size=size)
    assert upload(image) == Submission(image.job, 1)
    found = upload(image)
    assert (found.job, found.run, found.sure) == (image.job, None, size is not None)
    assert upload.runs == [(image.job, 1)]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (replace(UPLOADED, size=6), SAYS),
        (UPLOADED, replace(SAYS, etag='"two"')),
        (UPLOADED, Validator(None, "Sat, 28 Nov 2026 11:00:00 GMT")),
    ],
)
def test_respin_under_one_url_is_another_image(store, upload, image, said):
    assert upload(UPLOADED) == Submission(UPLOADED.job, 1)
    again = upload(image, said)
    assert again == Submission(second(UPLOADED), 1)
    # Each is recognised when it is uploaded again.
    assert upload(image, said).job == again.job
    assert upload(UPLOADED).job == UPLOADED.job
    assert upload.runs == [(UPLOADED.job, 1), (again.job, 1)]


def test_two_checksums_of_one_kind_are_two_images(store, upload, queue):
    first = upload(replace(UPLOADED, checksum=SHA256))
    other = upload(replace(UPLOADED, checksum=OTHER))
    assert [first.job, other.job] == [UPLOADED.job, second(UPLOADED)]
    third = replace(IMAGE, checksum="sha256:" + "4" * 64)
    assert store.add_job(third, queue=queue) == third.job


def test_image_of_unknown_size_is_identified_by_its_url(store, upload, queue):
    store.add_job(IMAGE, queue=queue)
    assert upload(replace(UPLOADED, size=None)).job == IMAGE.job
    assert upload(replace(MIRRORED, size=None)) == Submission(MIRRORED.job, 1)


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_failed_job_of_another_source_blocks_no_upload(store, upload, queue, ended):
    store.add_job(IMAGE, queue=queue)
    store.end(IMAGE.job, 1, ended, None)
    assert upload(UPLOADED) == Submission(UPLOADED.job, 1)


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_failed_upload_is_named_and_can_be_published_again(store, upload, ended):
    upload(UPLOADED)
    store.end(UPLOADED.job, 1, ended, None)
    found = upload(UPLOADED)
    assert (found.job, found.run) == (UPLOADED.job, None)
    assert upload(UPLOADED, on_purpose=True) == Submission(second(UPLOADED), 1)
    # That job is live now.
    assert upload(UPLOADED).job == second(UPLOADED)


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
@pytest.mark.parametrize(
    "changed",
    [
        {"checksum": "sha256:" + "1" * 64},
        {"checksum": "sha256:" + "1" * 64, "size": None},
        {"architecture": Architecture.ARM64},
        {"size": 6},
    ],
)
def test_image_of_a_failed_upload_can_be_described_anew(store, upload, ended, changed):
    upload(UPLOADED)
    store.begin(UPLOADED.job, 1)
    store.end(UPLOADED.job, 1, ended, None)
    right = replace(UPLOADED, **changed)
    found = upload(right)
    assert (found.job, found.run) == (UPLOADED.job, 2)
    row = store.job(UPLOADED.job)
    assert (row.state, row.run, row.image) == ("queued", 2, right)


def test_image_of_a_published_upload_cannot_be_described_anew(store, upload):
    upload(UPLOADED)
    store.begin(UPLOADED.job, 1)
    store.record_ami(UPLOADED, AMI_0)
    store.publish_ami(AMI_0)
    store.end(UPLOADED.job, 1, "failed", None)
    found = upload(replace(UPLOADED, checksum=OTHER, architecture=Architecture.ARM64))
    assert (found.job, found.run) == (UPLOADED.job, None)
    # Other content is another image.
    assert upload(replace(UPLOADED, size=6)) == Submission(second(UPLOADED), 1)
    assert store.job(UPLOADED.job).image == UPLOADED


def test_upload_on_purpose_is_a_job_of_its_own_and_runs_again_beside_the_others(
    store, upload, queue
):
    store.add_job(IMAGE, queue=queue)
    queue.runs.clear()
    jobs = [upload(UPLOADED, on_purpose=True).job for _ in range(3)]
    assert jobs == [replace(UPLOADED, source=UPLOADED.source + n).job for n in ("", ".2", ".3")]
    for ended in ("failed", "incomplete"):
        run = store.job(jobs[1]).run
        store.begin(jobs[1], run)
        store.end(jobs[1], run, ended, None)
        assert store.twin(store.job(jobs[1]).image) is None
        assert store.next_run(jobs[1], queue=queue) == run + 1


def test_retry_of_a_respin_is_not_in_the_way_of_the_first(store, upload, queue):
    upload(UPLOADED)
    upload(UPLOADED, replace(SAYS, etag='"two"'))
    for job in (UPLOADED.job, second(UPLOADED)):
        store.begin(job, 1)
        store.end(job, 1, "incomplete", None)
        assert store.next_run(job, queue=queue) == 2


def test_threads_that_upload_and_announce_one_image_make_one_job(store, upload, queue):
    images = [replace(IMAGE, source=f"task-{number}", checksum=None) for number in range(6)]
    made = at_once(
        *[lambda image=image: store.add_job(image, queue=queue) for image in images],
        *[lambda image=image: upload(image).run for image in (UPLOADED, MIRRORED) * 3],
    )
    assert len([each for each in made if each]) == 1
    assert len(store.jobs()) == 1
    assert len(queue.runs) + len(upload.runs) == 1


UPLOAD = """
import json, sys
from pathlib import Path
from fedimg.identity import Known
from fedimg.images import RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.records import from_record
from fedimg.store.store import Store
store = Store(Path(sys.argv[1]), sys.argv[2])
image = from_record(RawImage, json.loads(sys.argv[3]))
print("ready", flush=True)
sys.stdin.read()
jobs = JobQueue(store)
print((jobs.upload(Known(image)).run if image.given_by_hand else jobs.submit(image)) or "")
"""


@pytest.mark.process
def test_processes_that_upload_and_announce_one_image_make_one_job(store):
    url = store.queue_url if store.shared else ""
    adding = [
        processes(UPLOAD, store.directory, url, json.dumps(as_record(image)))[0]
        for image in (UPLOADED, MIRRORED, replace(IMAGE, checksum=MD5))
    ]
    ready = [process.stdout.readline() for process in adding]
    for process in adding:
        process.stdin.close()
    added = [process.stdout.read().strip() for process in adding]
    for process in adding:
        process.wait()
    assert ready == ["ready\n"] * 3
    assert len([each for each in added if each]) == 1
    assert len(store.jobs()) == 1


def test_job_with_the_same_image_is_found(store, job, queue):
    assert store.twin(TWIN) == job
    assert store.twin(IMAGE) is None


def test_end_of_a_run_ends_its_regions(store, job, queue):
    store.begin(job, 1)
    store.set_region(job, "eu-west-1", step="public")
    store.set_region(job, "us-east-1", step="write", detail="9% written")
    store.set_region(job, "us-west-1", step="failed", error="refused")
    store.end(job, 1, "failed", "why")
    told = [(row.region, row.step, row.detail) for row in store.job(job).regions]
    assert told == [
        ("eu-west-1", "public", ""),
        ("us-east-1", "failed", ""),
        ("us-west-1", "failed", ""),
    ]


def test_tries_go_on_in_the_next_run(store, job, queue):
    store.begin(job, 1)
    store.end(job, 1, "failed", None)
    store.next_run(job, queue=queue)
    assert store.begin(job, 2) == 2


def test_cancelled_job_gets_no_next_run_before_it_is_cleaned_up(store, job, queue):
    store.cancel(job, queue=queue)
    assert store.next_run(job, queue=queue) is None
    store.end(job, 1, "cancelled", None)
    assert store.next_run(job, queue=queue) == 2


def test_late_end_of_an_earlier_run_does_not_end_the_next(store, job, queue):
    store.end(job, 1, "failed", None)
    store.next_run(job, queue=queue)
    store.end(job, 1, "failed", "late")
    assert state(store, job) == ("queued", 2)


def test_run_that_came_to_its_clean_up_does_not_begin_again(store, job, queue):
    # A worker may be killed after `finish` and before the queue records that step.
    store.begin(job, 1)
    store.finish(job, 1, queue=queue)
    assert store.begin(job, 1) is None
    assert store.cancel(job, queue=queue) is None


def test_next_run_that_cannot_be_queued_is_not_recorded(store, job):
    store.end(job, 1, "failed", "reason")

    def broken(*_):
        raise OSError

    with pytest.raises(OSError):
        store.next_run(job, queue=broken)
    assert state(store, job) == ("failed", 1)


# Regions, AMIs, listings


def test_region_shows_its_latest_step(store, job):
    store.set_region(job, "us-east-1", step="copy", detail="5%")
    store.set_region(job, "us-east-1", step="failed", error="refused")
    store.set_region(job, "af-south-1", step="copy")
    regions = store.job(job).regions
    assert [(r.region, r.step, r.detail, r.error) for r in regions] == [
        ("af-south-1", "copy", "", None),
        ("us-east-1", "failed", "", "refused"),
    ]


def test_jobs_are_listed_oldest_first_and_by_state(store, queue):
    images = [
        replace(IMAGE, source=f"task-{number}", checksum=None, size=None) for number in (3, 1, 2)
    ]
    for image in images:
        store.add_job(image, queue=queue)
    store.end(images[0].job, 1, "failed", None)
    assert [row.job for row in store.jobs()] == [image.job for image in images]
    assert [row.job for row in store.jobs(["failed"])] == [images[0].job]
    assert store.jobs([]) == []


def test_ami_is_private_until_it_is_published_and_gone_when_forgotten(store):
    store.record_ami(IMAGE, AMI_0)
    store.record_ami(IMAGE, AMI_0)
    (row,) = store.amis()
    assert (row.ami, row.job, row.virt_type, row.public) == (AMI_0.id, IMAGE.job, "hvm", False)
    store.publish_ami(AMI_0)
    store.record_ami(IMAGE, AMI_0)
    assert [row.public for row in store.amis()] == [True]
    store.forget_ami(AMI_0.id, "eu-west-1")
    assert len(store.amis()) == 1
    store.forget_ami(AMI_0.id, AMI_0.region)
    assert store.amis() == []


def test_encrypted_ami_and_its_boot_check_are_beside_the_plain_ones(store, queue):
    store.add_job(IMAGE, queue=queue)
    kind = AMIType(Virtualization.HVM, "gp2", encrypted=True)
    encrypted = replace(AMI_0, id="ami-00000000000000001", type=kind)
    for ami in (AMI_0, encrypted):
        store.record_ami(IMAGE, ami)
        store.set_test(IMAGE.job, ami, "completed", [], "")
    assert {row.ami: row.type for row in store.amis()} == {
        ami.id: ami.type for ami in (AMI_0, encrypted)
    }
    (job,) = store.jobs()
    assert {test.ami: test.volume_type for test in job.tests} == {
        AMI_0.id: "gp2",
        encrypted.id: "gp2-encrypted",
    }


# Outbox


def test_message_with_a_known_key_is_not_announced_again(store):
    store.announce("a", "image.upload", {"n": 1})
    store.announce("a", "image.upload", {"n": 2})
    (waiting,) = store.unannounced()
    assert (waiting.key, waiting.topic, waiting.body) == ("a", "image.upload", {"n": 1})
    store.delivered([waiting.id], FEDMSG, [FEDMSG])
    store.announce("a", "image.upload", {"n": 3})
    assert store.unannounced() == []


def test_outbox_keeps_its_order_and_takes_any_text(store):
    for number in range(5):
        store.announce(str(number), "image.test", {"output": "Grüße \x00 😀"})
    assert [waiting.key for waiting in store.unannounced()] == list("01234")
    assert [waiting.key for waiting in store.unannounced(limit=2)] == list("01")
    store.delivered([row.id for row in store.unannounced(limit=2)], FEDMSG, [FEDMSG])
    assert [waiting.key for waiting in store.unannounced()] == list("234")


def test_threads_that_announce_one_message_announce_it_once(store):
    at_once(*[lambda: store.announce("a", "image.upload", {})] * 8)
    assert len(store.unannounced()) == 1


# Opening


def test_hundreds_of_threads_write_at_once(store):
    def announce(number):
        for each in range(3):
            store.announce(f"{number}:{each}", "image.copy", {})

    at_once(*[lambda number=number: announce(number) for number in range(200)])
    assert len(store.unannounced(1000)) == 600


def test_rows_survive_reopening(tmp_path):
    first = Store(tmp_path)
    first.add_job(IMAGE, queue=lambda *_: None)
    first.announce("a", "image.upload", {})
    first.close()
    second = Store(tmp_path)
    assert [row.job for row in second.jobs()] == [IMAGE.job]
    assert len(second.unannounced()) == 1
    second.close()


def test_directory_may_have_an_odd_name(tmp_path):
    store = Store(tmp_path / "a b?c#d%20é")
    store.add_job(IMAGE, queue=lambda *_: None)
    assert (tmp_path / "a b?c#d%20é" / "fedimg.db").exists()
    store.close()


def test_error_names_an_unusable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/state/fedimg\.db.*state_directory"):
        Store(tmp_path / "file" / "state")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_error_names_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"fedimg\.db.*state_directory"):
        Store(tmp_path)


def test_error_names_a_file_that_is_not_a_database(tmp_path):
    (tmp_path / "fedimg.db").write_text("this is a letter to my aunt\n" * 100)
    with pytest.raises(StoreError, match=r"fedimg\.db.*not a database"):
        Store(tmp_path)


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.file
def test_store_opens_and_reads_while_another_process_writes(store, job):
    (holder,) = processes(HOLD, store.path)
    try:
        assert holder.stdout.readline() == "held\n"
        other = Store(store.directory)
        assert [row.job for row in other.jobs()] == [job]
        assert other.unannounced() == []
        other.close()
    finally:
        holder.stdin.close()
        holder.wait()


@pytest.mark.process
@pytest.mark.file
def test_writer_waits_for_another_process(store, job):
    (holder,) = processes(HOLD, store.path)
    assert holder.stdout.readline() == "held\n"
    release = threading.Timer(0.3, holder.stdin.close)
    release.start()
    assert store.begin(job, 1) == 1
    holder.wait()


@pytest.mark.file
def test_database_survives_loss_of_power(store):
    # FULL writes a commit to the disk before it returns; WAL's usual NORMAL does not.
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_file_of_another_program_keeps_its_tables(tmp_path):
    with sqlite3.connect(tmp_path / "fedimg.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "fedimg.db") as connection:
        connection.execute("SELECT x FROM theirs")


def test_failing_database_is_reported_and_a_rejected_row_is_not(tmp_path):
    store = Store(tmp_path)
    told: list[BaseException] = []
    store.on_failure(told.append)
    with pytest.raises(sa.exc.IntegrityError), store.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO fedimg_outbox (id) VALUES (1)")
    assert told == []
    with pytest.raises(sa.exc.OperationalError), store.engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM gone")
    assert len(told) == 1
    store.close()
