"""`fedimg upload` of images that others have announced, or will: one image, one publication.

Follows fedimg/cli/publishing_commands.py, fedimg/store/twins.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedimg import config
from fedimg.cli.commands import app
from fedimg.images import Architecture, RawImage
from fedimg.intake import image_selection
from fedimg.intake.image_selection import Sources
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from lab.koji import Koji

DATABASES = ("sqlite", "postgresql")
NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "28", "1.1"
IMAGE = f"{NAME}-{VERSION}-{RELEASE}.x86_64"
BYTES = b"an image as it was built"
SHA256 = hashlib.sha256(BYTES).hexdigest()

Run = Callable[..., Result]


@pytest.fixture
def run(store: Store, koji: Koji, tmp_path: Path) -> Run:
    path = tmp_path / "fedimg.toml"
    shared = f'database = "{store.queue_url}"\n' if store.shared else ""
    path.write_text(f'state_directory = "{store.directory}"\n{shared}')
    return lambda *arguments: CliRunner().invoke(app, ["--config", str(path), *arguments])


def put(koji: Koji, content: bytes = BYTES, folder: str = "images", mtime: int = 10**9) -> str:
    """Serve an image as of a time in seconds; its URL."""
    file = koji.root / folder / f"{IMAGE}.raw.xz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (mtime, mtime))
    return koji.url(file)


@dataclass(frozen=True)
class Announced:
    """An image of Koji's, and what became of it: its job, or None when another has the image."""

    url: str
    job: str | None


Announce = Callable[[], Announced]


@pytest.fixture(params=["scratch task", "build, md5", "build, sha256"])
def announce(
    request: pytest.FixtureRequest, koji: Koji, jobs: JobQueue, tmp_path: Path
) -> Announce:
    """Build the image in Koji, and let intake find it."""
    return lambda: announced(koji, jobs, tmp_path, request.param)


def announced(koji: Koji, jobs: JobQueue, tmp_path: Path, kind: str = "build, sha256") -> Announced:
    file = tmp_path / f"{IMAGE}.raw.xz"
    file.write_bytes(BYTES)
    scratch = kind == "scratch task"
    files = {"x86_64": [file]}
    if scratch:
        made: Any = koji.add_task(NAME, VERSION, RELEASE, files)
    else:
        made = koji.add_build(NAME, VERSION, RELEASE, files, checksum_type=kind.split()[-1])
    chosen = config.Settings(
        koji=config.Koji(hub=koji.hub_url, topurl=koji.top_url, scratch_owners=["ausil"]),
        ec2=config.EC2(plain_http_hosts=["127.0.0.1"]),
    )
    entry = f"{'task' if scratch else 'build'}:{made.id}"
    (image,) = image_selection.images_to_publish(entry, Sources(chosen), chosen, threading.Event())
    return Announced(image.url, jobs.submit(image))


def finish(store: Store, job: str, state: str) -> None:
    row = store.job(job)
    assert row is not None
    store.begin(job, row.run)
    store.end(job, row.run, state, "a reason" if state != "complete" else None)


def names(store: Store) -> list[str]:
    return [row.job for row in store.jobs()]


@pytest.mark.parametrize("checksum", [(), ("--checksum", SHA256)])
def test_image_that_koji_made_public_is_not_uploaded(
    run: Run, store: Store, koji: Koji, announce: Announce, checksum: tuple[str]
) -> None:
    found = announce()
    job = found.job
    assert job is not None
    finish(store, job, "complete")
    for address in (found.url, found.url.replace("http://", "HTTP://"), put(koji)):
        result = run("upload", address, *checksum)
        assert (result.exit_code, result.stdout.strip()) == (0, job)
        assert f"{job} has this image already (the same " in result.stderr
        assert "is complete; nothing was queued; 'fedimg upload --again'" in result.stderr
        shown = json.loads(run("upload", address, *checksum, "--json").stdout)
        assert (shown["job"], shown["state"], shown["new"]) == (job, "complete", False)
    assert names(store) == [job]


@pytest.mark.parametrize("state", ["queued", "complete"])
@pytest.mark.parametrize("checksum", [(), ("--checksum", SHA256)])
def test_image_that_was_uploaded_is_not_taken_from_koji(
    run: Run, store: Store, koji: Koji, announce: Announce, checksum: tuple[str], state: str
) -> None:
    shown = json.loads(run("upload", put(koji), *checksum, "--json").stdout)
    assert shown["new"] is True
    if state == "complete":
        finish(store, shown["job"], state)
    assert announce().job is None
    assert names(store) == [shown["job"]]


@pytest.mark.parametrize(("content", "mtime"), [(BYTES + b"!", 10**9), (BYTES, 10**9 + 5)])
def test_respin_under_the_same_url_is_another_image(
    run: Run, store: Store, koji: Koji, content: bytes, mtime: int
) -> None:
    first = run("upload", put(koji)).stdout.strip()
    finish(store, first, "complete")
    assert run("upload", put(koji)).stdout.strip() == first
    url = put(koji, content, mtime=mtime)
    second = run("upload", url)
    assert (second.exit_code, second.stderr.count("already")) == (0, 0)
    assert run("upload", url).stdout == second.stdout
    assert names(store) == [first, second.stdout.strip()]


def test_again_publishes_an_image_on_purpose_each_time(
    run: Run, store: Store, jobs: JobQueue, koji: Koji, tmp_path: Path
) -> None:
    found = announced(koji, jobs, tmp_path)
    url, job = found.url, found.job
    assert job is not None
    made = [run("upload", url, "--again").stdout.strip() for _ in range(2)]
    assert names(store) == [job, *made]
    row = store.job(made[1])
    assert row is not None
    assert row.image.name == IMAGE
    # It is retried though the image is public by then.
    finish(store, job, "complete")
    finish(store, made[1], "failed")
    assert run("retry", made[1]).exit_code == 0
    row = store.job(made[1])
    assert row is not None
    assert row.state == "queued"


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_failed_upload_is_reported_with_advice(
    run: Run, store: Store, koji: Koji, ended: str
) -> None:
    url = put(koji)
    job = run("upload", url).stdout.strip()
    finish(store, job, ended)
    result = run("upload", url)
    assert (result.exit_code, result.stdout.strip()) == (1, job)
    assert f"is {ended}; 'fedimg retry {job}' runs it now" in result.stderr
    assert "'fedimg upload --again'" in result.stderr
    assert run("retry", job).exit_code == 0
    assert names(store) == [job]


def test_upload_that_failed_runs_again_for_the_file_that_is_there_now(
    run: Run, store: Store, koji: Koji
) -> None:
    job = run("upload", put(koji, BYTES[:7])).stdout.strip()
    finish(store, job, "failed")
    result = run("upload", put(koji), "--json")
    shown = json.loads(result.stdout)
    assert (shown["job"], shown["state"], shown["new"]) == (job, "queued", True)
    row = store.job(job)
    assert row is not None
    assert row.image.size == len(BYTES)


def test_waiting_follows_the_job_that_has_the_image(
    run: Run, store: Store, jobs: JobQueue, koji: Koji, tmp_path: Path
) -> None:
    found = announced(koji, jobs, tmp_path)
    url, job = found.url, found.job
    assert job is not None
    store.begin(job, 1)
    ending = threading.Timer(0.8, store.end, (job, 1, "incomplete", "a reason"))
    ending.start()
    result = run("upload", url, "--wait")
    ending.join()
    assert result.exit_code == 4
    assert result.stdout.splitlines()[-1].split()[:2] == [job, "incomplete"]


def test_image_whose_server_is_away_is_uploaded_with_a_note(
    run: Run, store: Store, jobs: JobQueue, koji: Koji, tmp_path: Path
) -> None:
    url = put(koji)
    koji.down(refusing=True)
    result = run("upload", url)
    assert result.exit_code == 0
    assert f"the size of {IMAGE}.raw.xz is unknown: {url} does not answer" in result.stderr
    # By its URL it is known again, in either order.
    assert run("upload", url).stdout == result.stdout
    koji.up()
    assert run("upload", url).stdout == result.stdout
    assert names(store) == [result.stdout.strip()]


def test_upload_of_a_former_version_is_known_again_by_its_url(
    run: Run, store: Store, jobs: JobQueue, koji: Koji
) -> None:
    # It noted neither size nor validator.
    former = RawImage.at(put(koji), Architecture.X86_64, None)
    jobs.submit(former)
    finish(store, former.job, "complete")
    result = run("upload", former.url)
    assert (result.exit_code, result.stdout.strip()) == (0, former.job)


def test_missing_file_is_uploaded_with_a_note(run: Run, koji: Koji) -> None:
    result = run("upload", put(koji).replace("/images/", "/nowhere/"))
    assert result.exit_code == 0
    assert "answers 404" in result.stderr
