"""An entry's images are decided one by one; an entry that is asked again makes each job once.

Follows fedimg/worker/intake_workflow.py.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from fedimg import config
from fedimg.intake.catch_up import replay
from fedimg.intake.image_selection import Sources
from fedimg.jobs.entry_images import EntryImages
from fedimg.jobs.queue import EntryState, JobQueue
from fedimg.sources.composes import Composes
from fedimg.sources.koji_listing import KojiListing
from fedimg.steps import PlainSteps
from fedimg.store.store import Store
from fedimg.worker.intake_workflow import IntakeWorkflow
from lab.koji import Koji
from lab.koji.composes import LOCATION, add_compose
from tests.intake.image_files import NAME, RELEASE, VERSION, files

DAY = 86400.0
COMPOSE = "Fedora-Cloud-43-20261127.0"


class Site:
    """A site whose architectures are widened, and its queue."""

    def __init__(self, koji: Koji, store: Store, jobs: JobQueue) -> None:
        self.koji, self.store, self.jobs = koji, store, jobs
        self.policy: dict[str, Any] = {"architectures": ["x86_64"]}
        self.composes: dict[str, Any] = {}

    @property
    def settings(self) -> config.Settings:
        hub, top = self.koji.hub_url, self.koji.top_url
        locations = [f"{top}/{LOCATION}"]
        return config.Settings(
            koji=config.Koji(hub=hub, topurl=top, timeout=20, **self.policy),
            composes=config.Composes(locations=locations, timeout=20, **self.composes),
        )

    def resolve(self, entry: str) -> list[str]:
        """Resolve a queued entry as a worker does, and end its workflow; return the new jobs."""
        sources = Sources(self.settings)
        intake = IntakeWorkflow(
            self.settings, self.store, self.jobs, sources, PlainSteps(), threading.Event()
        )
        made = intake.resolve(entry)
        self.end(entry, made)
        return made

    def end(self, entry: str, made: list[str]) -> None:
        with self.store.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE workflow_status SET status = 'SUCCESS', output = '{json.dumps(made)}'"
                f" WHERE workflow_uuid = '{entry}'"
            )

    def build(self, tmp_path: Path, *arches: str) -> str:
        made = files(tmp_path, arches=arches)
        return f"build:{self.koji.add_build(NAME, VERSION, RELEASE, made).id}"


@pytest.fixture
def site(koji: Koji, store: Store, jobs: JobQueue) -> Site:
    return Site(koji, store, jobs)


def test_entry_of_which_a_setting_left_out_an_image_is_asked_again(
    site: Site, tmp_path: Path
) -> None:
    entry = site.build(tmp_path, "x86_64", "aarch64")
    site.jobs.enqueue_entry(entry)
    (first,) = site.resolve(entry)
    assert first.endswith("x86_64")
    site.policy = {}
    lists = KojiListing(site.settings.koji)
    (replayed,) = replay(lists, site.jobs, lists.now() - DAY, dry_run=False)
    assert (replayed.before, replayed.stored) == (EntryState.PARTLY, True)
    (second,) = site.resolve(entry)
    assert second.endswith("aarch64")
    # Now that all of it is taken, a message has no effect.
    assert site.jobs.enqueue_entry(entry) is EntryState.TAKEN
    assert len(site.store.jobs()) == 2


def test_announcement_of_a_partly_taken_entry_makes_no_second_job(
    site: Site, tmp_path: Path
) -> None:
    entry = site.build(tmp_path, "x86_64", "aarch64")
    for before in (EntryState.NEW, EntryState.PARTLY, EntryState.PARTLY):
        assert site.jobs.enqueue_entry(entry) is before
        assert site.jobs.known(entry) is EntryState.QUEUED
        site.resolve(entry)
    assert len(site.store.jobs()) == 1


def test_image_of_an_unsupported_architecture_does_not_reopen_the_entry(
    site: Site, tmp_path: Path
) -> None:
    entry = site.build(tmp_path, "x86_64", "s390x")
    site.jobs.enqueue_entry(entry)
    site.resolve(entry)
    assert site.jobs.known(entry) is EntryState.TAKEN


def test_entry_taken_by_a_former_version_is_decided_by_its_jobs(
    site: Site, store: Store, tmp_path: Path
) -> None:
    entry = site.build(tmp_path, "x86_64", "aarch64")
    site.jobs.enqueue_entry(entry)
    made = site.resolve(entry)
    # A former version has no record of the images.
    EntryImages(store).record(entry, [], [])
    site.end(entry, made)
    site.policy = {}
    assert site.jobs.enqueue_entry(entry) is EntryState.PARTLY
    assert [job.rsplit(".", 1)[-1] for job in site.resolve(entry)] == ["aarch64"]


def test_variant_chosen_later_brings_the_other_images_of_a_compose(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    entry = f"compose:{COMPOSE}"
    add_compose(site.koji.root, COMPOSE, files(tmp_path))
    site.composes = {"subvariants": ["Minimal"]}
    site.jobs.enqueue_entry(entry)
    assert site.resolve(entry) == []
    assert 'left out: its "Cloud_Base" is not in composes.subvariants' in caplog.text
    site.composes = {}
    assert site.jobs.enqueue_entry(entry) is EntryState.EMPTY
    assert len(site.resolve(entry)) == 1


@pytest.mark.parametrize("kind", ["ec2", "raw", "kvm", "a-type-of-next-year", "raw-xz"])
def test_images_of_a_compose_are_chosen_by_format_and_suffix(
    site: Site, tmp_path: Path, kind: str
) -> None:
    folder = add_compose(site.koji.root, COMPOSE, files(tmp_path))
    change(folder, type=kind)
    assert len(Composes(site.settings.composes).find(f"compose:{COMPOSE}").images) == 1


def test_images_left_out_of_a_compose_are_logged_with_reasons(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = add_compose(site.koji.root, COMPOSE, files(tmp_path))
    change(folder, type="qcow2", format="qcow2", path="Cloud/x86_64/images/a.qcow2")
    site.jobs.enqueue_entry(f"compose:{COMPOSE}")
    assert site.resolve(f"compose:{COMPOSE}") == []
    assert "a.qcow2 is left out: its format is qcow2" in caplog.text


def change(folder: Path, **fields: str) -> None:
    """Change the only image of a compose's metadata."""
    path = folder / "compose/metadata/images.json"
    metadata = json.loads(path.read_text())
    for arches in metadata["payload"]["images"].values():
        for images in arches.values():
            images[0].update(fields)
    path.write_text(json.dumps(metadata))
