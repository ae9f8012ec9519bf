"""Decide which AMIs are the newest of their series: by build or compose, never by completion."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from fedimg.catalogue import documents
from fedimg.catalogue.documents import PUBLIC, Latest, LatestAMI
from fedimg.catalogue.record import edition_of, kind, state_of
from fedimg.editions import Edition, edition_by_name
from fedimg.store.publications import Publications, PublishedJob
from fedimg.store.rows import AMIRow

#: Images that Koji and composes call by these are of the same architecture.
_IN_NAME = re.compile(r"\.(?:x86_64|aarch64|arm64|noarch)\b")

#: How many images are read at once; each has over a hundred AMIs.
_JOBS_AT_ONCE = 50


@dataclass(frozen=True)
class _Candidate:
    edition: Edition
    job: PublishedJob
    row: AMIRow


class LatestFinder:
    """Finds the newest public AMIs among those of many jobs, which are added one by one.

    `kinds` are the kinds of sources whose images may be the newest: build, compose, task, url.
    """

    def __init__(self, kinds: Collection[str] = ("build", "compose")) -> None:
        self._kinds = kinds
        self._newest: dict[tuple[str, ...], dict[str, _Candidate]] = {}

    def add(self, job: PublishedJob, amis: Iterable[AMIRow]) -> None:
        """Add the AMIs of a job."""
        if kind(job) not in self._kinds:
            return
        found = edition_of(job) or _by_name(job)
        if found is None:
            return
        for row in amis:
            if state_of(row) != PUBLIC:
                continue
            key = (found.release, *found.series, row.architecture, row.virt_type, row.volume_type)
            by_region = self._newest.setdefault(key, {})
            before = by_region.get(row.region)
            if before is None or _order(before) < (found.order, row.name):
                by_region[row.region] = _Candidate(found, job, row)

    def latest(self) -> list[Latest]:
        """Return the newest AMIs, those of the newest release first."""
        found = [
            _document([by_region[region] for region in sorted(by_region)])
            for by_region in self._newest.values()
        ]
        found.sort(
            key=lambda each: (
                each.series,
                each.kind,
                each.architecture,
                each.virtualization,
                each.volume_type,
            )
        )
        return sorted(found, key=lambda each: newest_first(each.release))


def newest(publications: Publications, kinds: Collection[str]) -> list[Latest]:
    """Return the newest AMIs of all that were ever published, as the catalogue names them."""
    finder, jobs = LatestFinder(kinds), publications.jobs()
    for start in range(0, len(jobs), _JOBS_AT_ONCE):
        some = jobs[start : start + _JOBS_AT_ONCE]
        amis = publications.amis([job.job for job in some])
        for job in some:
            finder.add(job, amis[job.job])
    return finder.latest()


def newest_first(release: str | None) -> tuple[int, list[int], str]:
    """Return a sort key by which Rawhide and the like come first, then 43, 42, …, and no release
    last.
    """
    if release is None:
        return 2, [], ""
    numbers = [int(number) for number in re.findall(r"[0-9]+", release)]
    # Behind a common beginning, 10.1 is newer than 10.
    return (1, [*(-number for number in numbers), 1], release) if numbers else (0, [], release)


def _by_name(job: PublishedJob) -> Edition | None:
    """Return the edition of a scratch build or upload: the last published one is the newest."""
    if kind(job) not in ("task", "url"):
        return None
    return edition_by_name(job.image.name, job.image.source, job.published or 0.0)


def _order(candidate: _Candidate) -> tuple[tuple[int, ...], str]:
    return candidate.edition.order, candidate.row.name


def _document(candidates: Sequence[_Candidate]) -> Latest:
    newest = max(candidates, key=_order)
    job, row = newest.job, newest.row
    attributes = row.attributes or {}
    return Latest(
        release=newest.edition.release,
        series=_IN_NAME.sub("", newest.edition.series[1]),
        kind=kind(job),
        architecture=row.architecture,
        virtualization=row.virt_type,
        volume_type=row.volume_type,
        partition=attributes.get("partition"),
        owner=attributes.get("owner"),
        image=job.image.name,
        build=job.image.build,
        regions={
            each.row.region: LatestAMI(
                each.row.ami, each.job.image.name, documents.time(each.row.published_at)
            )
            for each in candidates
        },
    )
