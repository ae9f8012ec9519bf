"""Missed entries are listed by the lab's Koji, over HTTP, and put on a real queue, once.

Follows fedimg/intake/watermarks.py.
"""

from __future__ import annotations

import threading
import time
import xmlrpc.client
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedimg import config
from fedimg.intake.catch_up import CatchUp, replay
from fedimg.intake.watermarks import Watermarks
from fedimg.jobs.queue import EntryState, JobQueue
from fedimg.sources import koji_listing
from fedimg.sources.identifiers import METHODS
from fedimg.sources.koji_listing import BUILDS, LISTS, KojiListing
from fedimg.sources.lookup import SourceUnavailable
from fedimg.store.store import Store
from lab.koji import Koji

NAME, VERSION = "Fedora-Cloud-Base", "43"
HOUR, DAY, WEEK = 3600.0, 86400.0, 7 * 86400.0


class Site:
    """The lab's Koji, with a database and the queue that catch-up fills."""

    def __init__(self, koji: Koji, store: Store, jobs: JobQueue, folder: Path) -> None:
        self.koji, self.store, self.jobs = koji, store, jobs
        self.stop = threading.Event()
        self.marks = Watermarks(store)
        self._file = folder / f"{NAME}.x86_64.raw.xz"
        self._file.write_bytes(b"an image")
        self._number = 0

    @property
    def lists(self) -> KojiListing:
        return KojiListing(config.Koji(hub=self.koji.hub_url, topurl=self.koji.top_url, timeout=5))

    def catch_up(self, jobs: JobQueue | None = None, **changes: Any) -> CatchUp:
        settings = config.CatchUp(**changes)
        return CatchUp(self.store, jobs or self.jobs, self.lists, settings, self.stop)

    def look(self, **changes: Any) -> bool:
        """Read the lists as a worker does that has just started."""
        return self.catch_up(**changes).read_listing()

    def build(self, **about: Any) -> str:
        self._number += 1
        files = {"x86_64": [self._file]}
        return f"build:{self.koji.add_build(NAME, VERSION, str(self._number), files, **about).id}"

    def task(self, **about: Any) -> str:
        self._number += 1
        files = {"x86_64": [self._file]}
        return f"task:{self.koji.add_task(NAME, VERSION, str(self._number), files, **about).id}"

    def stored(self) -> list[str]:
        """Return the entries in the queue."""
        with self.store.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT workflow_uuid FROM workflow_status")
            return sorted(row[0] for row in rows)

    def end(self, output: str = "NULL", entry: str = "%") -> None:
        """End the intake workflows of entries: by default, with no image that is published."""
        with self.store.engine.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE workflow_status SET status = 'SUCCESS', output = {output}"
                f" WHERE workflow_uuid LIKE '{entry}'"
            )

    def waits(self, entry: str) -> bool:
        return self.jobs.known(entry) is EntryState.QUEUED


@pytest.fixture
def site(koji: Koji, store: Store, jobs: JobQueue, tmp_path: Path) -> Site:
    return Site(koji, store, jobs, tmp_path)


@pytest.mark.parametrize("away", [HOUR, DAY, WEEK])
def test_missed_entry_is_queued_once(site: Site, away: float) -> None:
    assert site.look()
    missed = []
    for method in METHODS:
        site.koji.advance(away / len(METHODS))
        missed.append(site.build(method=method))
        if METHODS[method]:
            missed.append(site.task(method=method))
    missed.append(site.build(method=None, owner="mallory"))
    for _ in range(3):
        assert site.look()
        assert site.stored() == sorted(missed)


def test_builds_own_tasks_and_unfinished_ones_are_not_stored(site: Site) -> None:
    site.task(scratch=False)
    site.task(state="OPEN")
    site.task(state="FAILED")
    site.build(state="FAILED")
    assert site.look()
    assert site.stored() == []


def test_first_reading_goes_back_as_configured(site: Site) -> None:
    site.build()
    site.koji.advance(2 * DAY)
    recent = site.build()
    site.koji.advance(HOUR)
    assert site.look(look_back=0)
    assert site.stored() == []
    # Entries before the first watermark stay left out, whatever the overlap.
    assert site.look(look_back=WEEK, overlap=WEEK)
    assert site.stored() == []
    Watermarks(site.store).set(BUILDS, replay_from(site, 2 * DAY))
    assert site.look()
    assert site.stored() == [recent]


def replay_from(site: Site, age: float) -> Any:
    mark = site.marks.get(BUILDS)
    assert mark is not None
    begin = site.koji.clock() - age
    return replace(mark, begin=begin, until=begin)


def test_first_reading_goes_back_a_day_by_default(site: Site) -> None:
    site.build()
    site.koji.advance(1.5 * DAY)
    recent = site.build()
    site.koji.advance(HOUR)
    assert site.look()
    assert site.stored() == [recent]


def test_first_reading_that_is_cut_off_counts_for_every_list(site: Site) -> None:
    site.build(method=None)
    failing = Failing(site.store, 1, before=True)
    with pytest.raises(PowerLoss):
        site.catch_up(failing).read_listing()
    failing.close()
    site.koji.advance(HOUR)
    missed = site.task(method="appliance")
    site.koji.advance(WEEK)
    assert site.look()
    assert missed in site.stored()


def test_build_that_koji_shows_late_is_found(site: Site) -> None:
    """An import keeps the time at which it began; other builds finish and are listed meanwhile."""
    began = site.koji.clock()
    site.koji.advance(5 * HOUR)
    first = site.build()
    assert site.look()
    now, site.koji.clock = site.koji.clock, lambda: began
    late = site.build()
    site.koji.clock = now
    assert site.look()
    assert site.stored() == sorted([first, late])


def test_completion_time_that_lies_ahead_hides_nothing(site: Site) -> None:
    """A content generator sets the completion time of its build itself."""
    now = site.koji.clock
    site.koji.clock = lambda: now() + 50 * 365 * DAY
    ahead = site.build()
    site.koji.clock = now
    assert site.look()
    site.koji.advance(DAY)
    after = site.build()
    assert site.look()
    assert site.stored() == sorted([ahead, after])


def test_hubs_clock_that_jumps_hides_nothing(site: Site) -> None:
    assert site.look()
    site.koji.advance(-30 * DAY)
    back = site.build()
    assert site.look()
    site.koji.advance(400 * DAY)
    ahead = site.build()
    assert site.look()
    site.koji.advance(-370 * DAY)
    again = site.build()
    assert site.look()
    assert site.stored() == sorted([back, ahead, again])


def test_first_reading_of_a_hub_with_a_wrong_clock_misses_nothing(site: Site) -> None:
    site.koji.advance(400 * DAY)
    assert site.look()
    site.koji.advance(-400 * DAY)
    missed = site.build()
    assert site.look()
    assert site.stored() == [missed]


def test_clock_of_the_worker_does_not_matter(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    site.koji.clock = lambda: real()
    assert site.look()
    for ours in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda ours=ours: ours)
        missed = site.build()
        assert site.look()
        assert missed in site.stored()


def test_listing_is_retried_after_koji_was_down(site: Site, caplog: Any) -> None:
    missed = [site.build(), site.task()]
    site.koji.down()
    assert not site.look()
    assert "cannot list missed entries of" in caplog.text
    assert all(look.error and "503" in look.error for look in site.marks.readings())
    site.koji.up()
    assert site.look()
    assert site.stored() == missed
    assert all(look.succeeded and not look.error for look in site.marks.readings())


class PowerLoss(Exception):
    """Ends the process at this point."""


class Failing(JobQueue):
    """A queue whose process ends just before or after it queues the nth entry."""

    def __init__(self, store: Store, nth: int, *, before: bool) -> None:
        super().__init__(store)
        self._left, self._before = nth, before

    def enqueue_entry(self, entry: str, *, any_age: bool = False) -> EntryState:
        self._left -= 1
        if self._left == 0 and self._before:
            raise PowerLoss
        was = super().enqueue_entry(entry, any_age=any_age)
        if self._left == 0:
            raise PowerLoss
        return was


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 4, 5, 6, 9])
def test_reading_that_is_cut_off_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, nth: int, before: bool
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 5)
    missed = []
    for _ in range(12):
        site.koji.advance(60)
        missed.append(site.build(method=None))
    failing = Failing(site.store, nth, before=before)
    with pytest.raises(PowerLoss):
        site.catch_up(failing, overlap=0).read_listing()
    failing.close()
    # The entries that were queued have an answer, and must not be queued again.
    assert len(site.stored()) == nth - before
    assert site.look(overlap=0)
    assert site.stored() == sorted(missed)


def test_watermark_moves_past_queued_entries_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 5)
    for _ in range(12):
        site.koji.advance(60)
        site.build(method=None)
    failing = Failing(site.store, 8, before=True)
    with pytest.raises(PowerLoss):
        site.catch_up(failing).read_listing()
    failing.close()
    mark = site.marks.get(BUILDS)
    builds = sorted(site.koji.records.builds(), key=lambda build: build.id)
    assert mark is not None
    assert mark.until == builds[4].completed


def test_stop_ends_a_reading(site: Site) -> None:
    site.build()
    site.stop.set()
    assert not site.look()
    assert site.stored() == []


def test_left_out_entries_are_decided_once(site: Site) -> None:
    entry = site.build()
    assert site.look()
    site.end(entry=entry)
    for _ in range(2):
        assert site.look()
        assert not site.waits(entry)


def test_entry_of_a_forged_early_announcement_is_looked_up_when_it_has_finished(site: Site) -> None:
    assert site.look()
    number = site.koji.records.next_build()
    site.jobs.enqueue_entry(f"build:{number}")
    site.end()
    assert site.build() == f"build:{number}"
    assert site.look()
    assert site.waits(f"build:{number}")


def test_build_that_failed_and_was_built_again_is_asked_for_again(site: Site) -> None:
    entry = site.build()
    assert site.look()
    site.end(entry=entry)
    site.koji.advance(HOUR)
    build = site.koji.records.find_build(int(entry.removeprefix("build:")))
    assert build is not None
    site.koji.records.add(build=replace(build, completed=site.koji.clock()))
    assert site.look()
    assert site.waits(entry)


def test_entry_that_is_being_looked_up_is_examined_again(site: Site) -> None:
    """The last lookup may have come just before the entry finished."""
    entry = site.build()
    site.jobs.enqueue_entry(entry)
    assert site.look()
    site.end(entry=entry)
    assert site.look()
    assert site.waits(entry)


def test_entry_announced_and_listed_at_once_is_queued_once(site: Site) -> None:
    entries = [site.build() for _ in range(20)]
    live = JobQueue(site.store)
    announcing = threading.Thread(target=lambda: [live.enqueue_entry(entry) for entry in entries])
    announcing.start()
    assert site.look()
    announcing.join()
    live.close()
    assert site.stored() == sorted(entries)


def test_list_that_the_hub_refuses_hides_no_other(site: Site) -> None:
    methods = site.koji._hub._methods
    listed = methods["listTasks"]
    missed = [site.build(), site.task(method="livemedia")]

    def list_tasks(opts: Any = None, queryOpts: Any = None) -> Any:
        if opts["method"] == "image":
            raise xmlrpc.client.Fault(1000, "no such thing as an image here")
        return listed(opts, queryOpts)

    methods["listTasks"] = list_tasks
    assert site.look()
    assert site.stored() == missed
    errors = {look.name: look.error for look in site.marks.readings() if look.error}
    assert list(errors) == ["image"]
    assert "no such thing as an image here" in errors["image"]


def test_records_of_queued_entries_do_not_accumulate(site: Site) -> None:
    for _ in range(5):
        site.koji.advance(DAY)
        site.build()
        assert site.look()
    assert len(site.marks.stored(BUILDS)) == 2


# By hand


def test_replay_stores_what_has_no_job(site: Site) -> None:
    site.build()
    site.koji.advance(10 * DAY)
    taken, left_out, waiting, new = (site.build() for _ in range(4))
    for entry in (taken, left_out):
        site.jobs.enqueue_entry(entry)
    site.end()
    site.end("'[\"a-job\"]'", taken)
    site.jobs.enqueue_entry(waiting)
    since = site.koji.clock() - WEEK

    def shown(dry_run: bool) -> dict[str, tuple[str, bool]]:
        found = replay(site.lists, site.jobs, since, dry_run=dry_run)
        return {one.finished.entry: (one.before, one.stored) for one in found}

    before = site.stored()
    assert shown(dry_run=True) == {
        # No record tells which of its images were taken, as of a former version's entries.
        taken: ("partly", False),
        left_out: ("empty", False),
        waiting: ("queued", False),
        new: ("new", False),
    }
    assert site.stored() == before
    assert not site.waits(left_out)
    assert shown(dry_run=False) == {
        taken: ("partly", True),
        left_out: ("empty", True),
        waiting: ("queued", False),
        new: ("new", True),
    }
    assert site.stored() == sorted([taken, left_out, waiting, new])
    assert site.waits(left_out)


def test_replay_of_too_many_entries_reports_where_to_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 2)
    monkeypatch.setattr(koji_listing, "_MOST_PAGES", 2)
    for _ in range(6):
        site.koji.advance(60)
        site.build()
    with pytest.raises(SourceUnavailable, match="continue with --since"):
        list(replay(site.lists, site.jobs, site.koji.clock() - DAY, dry_run=True))


NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


def test_every_list_is_read(site: Site) -> None:
    assert site.look()
    assert {look.name for look in site.marks.readings()} == set(LISTS)
