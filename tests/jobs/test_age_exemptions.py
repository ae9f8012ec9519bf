"""Old entries are published by replay and catch-up, and never because of a message."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from fedimg import config
from fedimg.intake import catch_up, image_selection
from fedimg.intake.catch_up import CatchUp
from fedimg.intake.image_selection import Sources
from fedimg.jobs.age_exemptions import AgeExemptions
from fedimg.jobs.queue import JobQueue
from fedimg.sources.koji_listing import KojiListing
from fedimg.steps import PlainSteps
from fedimg.store.store import Store
from fedimg.worker.intake_workflow import IntakeWorkflow
from lab.koji import Koji
from lab.koji.composes import LOCATION, add_compose

DAY = 86400.0
COMPOSE = "Fedora-Cloud-43-20261127.0"
NAME = "Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(b"an image")
    return path


@pytest.fixture
def settings(koji: Koji) -> config.Settings:
    return config.Settings(
        koji=config.Koji(hub=koji.hub_url, topurl=koji.top_url, timeout=20, retry_seconds=0.2),
        composes=config.Composes(locations=[f"{koji.top_url}/{LOCATION}"], timeout=20),
    )


@pytest.fixture
def old(koji: Koji, image: Path) -> str:
    """Add a build that finished 20 days ago; return its entry."""
    build = koji.add_build("Fedora-Cloud-Base", "28", "1.1", {"x86_64": [image]})
    koji.advance(20 * DAY)
    return f"build:{build.id}"


def resolved(store: Store, jobs: JobQueue, settings: config.Settings, entry: str) -> list[str]:
    """Return the jobs that a worker makes of an entry."""
    intake = IntakeWorkflow(
        settings, store, jobs, Sources(settings), PlainSteps(), threading.Event()
    )
    return intake.resolve(entry)


def test_message_about_an_old_build_publishes_nothing(
    store: Store, jobs: JobQueue, settings: config.Settings, old: str
) -> None:
    jobs.enqueue_entry(old)
    assert resolved(store, jobs, settings, old) == []


def test_replay_publishes_an_old_build_once(
    store: Store, jobs: JobQueue, settings: config.Settings, old: str
) -> None:
    lists = KojiListing(settings.koji)
    (replayed,) = catch_up.replay(lists, jobs, lists.now() - 30 * DAY, dry_run=False)
    assert replayed.stored
    assert len(resolved(store, jobs, settings, old)) == 1
    # The exemption ends with the answer.
    assert not AgeExemptions(store).has(old)


def test_replay_that_is_only_shown_exempts_nothing(
    store: Store, jobs: JobQueue, settings: config.Settings, old: str
) -> None:
    lists = KojiListing(settings.koji)
    list(catch_up.replay(lists, jobs, lists.now() - 30 * DAY, dry_run=True))
    assert not AgeExemptions(store).has(old)


def test_missed_build_older_than_the_limit_is_published(
    store: Store, jobs: JobQueue, settings: config.Settings, old: str
) -> None:
    catching_up = config.CatchUp(look_back=30 * DAY)
    assert CatchUp(
        store, jobs, KojiListing(settings.koji), catching_up, threading.Event()
    ).read_listing()
    assert len(resolved(store, jobs, settings, old)) == 1


def test_entry_that_has_to_wait_stays_exempt(
    koji: Koji,
    store: Store,
    jobs: JobQueue,
    settings: config.Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_selection, "PATIENCE", 0.1)
    entry = "build:77"
    jobs.enqueue_entry(entry, any_age=True)
    koji.close()
    assert resolved(store, jobs, settings, entry) == []
    assert AgeExemptions(store).has(entry)


@pytest.mark.parametrize(("days", "count"), [(13, 1), (15, 0)])
def test_age_of_a_compose_is_that_of_its_status(
    koji: Koji, settings: config.Settings, image: Path, days: float, count: int
) -> None:
    add_compose(koji.root, COMPOSE, {"x86_64": [image]})
    (status,) = koji.root.glob(f"**/{COMPOSE}/STATUS")
    finished = koji.clock() - days * DAY
    os.utime(status, (finished, finished))
    images = image_selection.images_to_publish(
        f"compose:{COMPOSE}", Sources(settings), settings, threading.Event()
    )
    assert len(images) == count
