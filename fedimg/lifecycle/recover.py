"""Rebuild the record of jobs and AMIs from EC2's tags, after the database was lost.

Only what is unrecorded is recorded. An AMI that is private, and that nobody withdrew and no rule
disabled, becomes `unknown`: nothing publishes or removes it before a person decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedimg.aws import tags
from fedimg.bus import messages
from fedimg.formats import PLAIN, XZ, format_of
from fedimg.images import (
    Architecture,
    Disk,
    RawImage,
    in_url,
)
from fedimg.lifecycle.recovery_search import Found, Search
from fedimg.store import rows
from fedimg.store.recovered import NO_RUN, RecoveredJob, RecoveredTest
from fedimg.store.rows import CLEANING, LIVE, AMIRow, JobRow

#: The host of an image whose URL neither a tag nor a description tells; RFC 2606 reserves it.
UNKNOWN_HOST = "unknown.invalid"
#: EC2 stores no more characters of a description.
_DESCRIPTION_LENGTH = 255
_CHECKSUM = re.compile(r"(?:md5|sha1|sha256):[0-9a-f]+")


@dataclass(frozen=True)
class Recorded:
    """The present record: jobs by name, AMIs, and withdrawals or restorations by job.

    Of each withdrawal or restoration this has the time in epoch seconds, and whether the job is
    withdrawn since.
    """

    jobs: Mapping[str, JobRow] = field(default_factory=dict)
    amis: Sequence[AMIRow] = ()
    withdrawals: Mapping[str, tuple[float, bool]] = field(default_factory=dict)


def jobs(found: Search, recorded: Recorded, selected: Collection[str]) -> list[RecoveredJob]:
    """Return the jobs that have something unrecorded, in the order in which they were made.

    A job of which no run is recorded is always among them. A job that is queued or running records
    its AMIs itself, and is left out. `selected` are the regions for which the site publishes.
    """
    by_job: dict[str, list[Found]] = {}
    for each in found.found:
        by_job.setdefault(each.row.job, []).append(each)
    known: dict[str, list[AMIRow]] = {}
    for row in recorded.amis:
        known.setdefault(row.job, []).append(row)
    withdrawn = _withdrawn(by_job, recorded)
    regions_before: set[str] = set()
    result = []
    for job, its in sorted(by_job.items(), key=lambda item: min(one.created for one in item[1])):
        before = recorded.jobs.get(job)
        # The site published there before this job, so that the job should have done so, too.
        lacking = (regions_before & set(selected) & set(found.searched)) - {
            one.row.region for one in its
        }
        regions_before |= {one.row.region for one in its}
        if before is not None and (before.state in LIVE or before.step == CLEANING):
            continue
        made = _job(its, before, known.get(job, []), withdrawn.get(job), lacking)
        if before is None or before.run == NO_RUN or made.amis or made.hidden:
            result.append(made)
    return result


def busy(now: Iterable[JobRow], recorded: Recorded) -> set[str]:
    """Return the jobs that have begun, run or ended since the record was read."""
    known = {job: (row.run, row.updated) for job, row in recorded.jobs.items()}
    return {row.job for row in now if known.get(row.job) != (row.run, row.updated)}


def _job(
    its: Sequence[Found],
    before: JobRow | None,
    known: Sequence[AMIRow],
    withdrawn: float | None,
    lacking: Collection[str],
) -> RecoveredJob:
    image = before.image if before else _image(its)
    disk = next((disk for one in its if (disk := tags.disk_of(one.values))), None)
    decided = {(row.region, row.ami): row for row in known}
    new = [
        _described(_withdraw(one, withdrawn), image, disk)
        for one in its
        if (one.row.region, one.row.ami) not in decided
    ]
    hidden = [
        _withdraw(one, withdrawn)
        for one in its
        if (row := decided.get((one.row.region, one.row.ami)))
        and withdrawn is not None
        and row.state in (rows.PUBLIC, rows.RESTORING, *rows.AUDIENCES)
    ]
    state_of = {(row.region, row.ami): row.state for row in (*known, *new)}
    regions: dict[str, str | None] = {}
    for one in its:
        undecided = state_of[one.row.region, one.row.ami] == rows.UNKNOWN and not one.once_published
        if undecided:
            regions[one.row.region] = (
                f"AMI {one.row.ami} was private when the database was rebuilt; 'fedimg accept', "
                "'fedimg withdraw' or 'fedimg cleanup --remove' decides about it"
            )
        else:
            regions.setdefault(one.row.region, None)
    for region in lacking:
        regions[region] = "no AMI of the job was found when the database was rebuilt"
    if before is not None and before.run == NO_RUN:
        # Regions that were searched before, and are not now, keep what was found there.
        regions = {row.region: row.error for row in before.regions} | regions
    problems = [f"{region}: {why}" for region, why in sorted(regions.items()) if why]
    published = any(one.once_published for one in its) or any(row.public for row in known)
    state = "failed" if not published else "incomplete" if problems else "complete"
    times = [time for one in its for time in (one.created, one.row.published_at) if time]
    return RecoveredJob(
        image,
        state,
        "\n".join(problems) or None,
        min(one.created for one in its),
        max(times),
        disk,
        regions,
        new,
        hidden,
        list(_tests(its)),
        withdrawn,
        frozenset(row.region for row in (*new, *hidden) if row.state == rows.WITHDRAWING),
        _announced(its),
    )


def _image(its: Sequence[Found]) -> RawImage:
    """Return a job's image, by the first AMI that tells its URL; the rest by any that tells it."""
    first = its[0].row
    facts = [_facts(one) for one in its]

    def any_of(key: str) -> str | None:
        return next((fact[key] for fact in facts if fact.get(key)), None)

    size = any_of(tags.SIZE) or ""
    unknown = f"https://{UNKNOWN_HOST}/{in_url(first.image)}{XZ.suffix}"
    urls = [fact[tags.URL] for fact in facts if tags.URL in fact]
    source = first.source or ""
    for url in (*dict.fromkeys(urls), unknown):
        for build, checksum in (
            (any_of(tags.BUILD) or first.image, any_of(tags.CHECKSUM)),
            (first.image, None),
        ):
            try:
                image = RawImage(
                    url,
                    Architecture(first.architecture),
                    build,
                    source,
                    int(size) if size.isascii() and size.isdigit() and int(size) else None,
                    checksum,
                )
            except ValueError:
                # A person may have changed the tags.
                continue
            if image.job == first.job:
                return image
    return RawImage(unknown, Architecture(first.architecture), first.image, source)


def _facts(one: Found) -> dict[str, str]:
    """Return the tags that describe the image; where they are missing, by the AMI's description.

    The description is build, checksum and URL, cut after 255 characters.
    """
    told: dict[str, str] = {}
    build, *others = one.description.split(" ")
    if others:
        told[tags.BUILD] = build
    cut = len(one.description) >= _DESCRIPTION_LENGTH
    for word in others:
        if _CHECKSUM.fullmatch(word):
            told[tags.CHECKSUM] = word
        # What is left of another format's suffix may be that of a plain image.
        elif (found := format_of(word)) and not (cut and found is PLAIN):
            told[tags.URL] = word
    keys = (tags.URL, tags.BUILD, tags.CHECKSUM, tags.SIZE)
    return told | {key: one.values[key] for key in keys if one.values.get(key)}


def _withdrawn(by_job: Mapping[str, Sequence[Found]], recorded: Recorded) -> dict[str, float]:
    """Return by job the time of the withdrawal that is in force; the latest word decides.

    A withdrawal is of the image: jobs of the same checksum are withdrawn together.
    """
    last: dict[str, tuple[float, bool]] = {}
    for job, its in by_job.items():
        marks = [mark for one in its for mark in one.marks]
        # A tag has whole seconds: what is recorded within the same one is what the tag tells.
        if (known := recorded.withdrawals.get(job)) and not any(at > known[0] for at, _ in marks):
            last[job] = known
        elif marks:
            last[job] = max(marks)
    by_checksum: dict[str, tuple[float, bool]] = {}
    checksums: dict[str, str] = {}
    for job, its in by_job.items():
        for one in its:
            if checksum := _facts(one).get(tags.CHECKSUM):
                checksums[job] = checksum
                break
    for job, mark in last.items():
        if checksum := checksums.get(job):
            by_checksum[checksum] = max(mark, by_checksum.get(checksum, mark))
    result = {}
    for job in by_job:
        mark_of = by_checksum.get(checksums.get(job, ""), last.get(job))
        if mark_of and mark_of[1]:
            result[job] = mark_of[0]
    return result


def _withdraw(one: Found, withdrawn: float | None) -> AMIRow:
    """Return the row of an AMI with the state that the withdrawal of its job gives it."""
    if withdrawn is None:
        return one.row
    disabled = one.row.state == rows.DISABLED
    shared = one.row.state == rows.SHARED
    if one.row.public or shared or disabled or (one.marks and one.snapshot_public):
        # The withdrawal has not come to its end here, or the region was away: otherwise the tag of
        # one that a rule had disabled would tell of the withdrawal.
        return replace(one.row, state=rows.WITHDRAWING)
    if not one.marks:
        return one.row
    # Nobody could use what was never published, and nobody can after a restoration.
    once = tags.ever_offered(one.values)
    users: dict[str, Any] | None = None if once else {"launch": [], "snapshot": []}
    return replace(one.row, state=rows.WITHDRAWN, permissions=users)


def _described(row: AMIRow, image: RawImage, disk: Disk | None) -> AMIRow:
    return replace(
        row,
        build=image.build,
        checksum=image.checksum,
        disk_sha256=row.disk_sha256 or (disk.sha256 if disk else None),
        disk_length=row.disk_length or (disk.length if disk else None),
    )


def _tests(its: Iterable[Found]) -> Iterator[RecoveredTest]:
    """Yield a boot check for each type that was tested, on an AMI of the region of the test."""
    told = [(one.row, region) for one in its if (region := one.values.get(tags.TESTED))]
    # The AMI that was booted, if it is among them, comes first.
    told.sort(key=lambda each: each[0].region != each[1])
    seen = set()
    for row, region in told:
        key = (region, row.virt_type, row.type.storage)
        if key not in seen:
            seen.add(key)
            yield RecoveredTest(*key, row.ami)


def _announced(its: Iterable[Found]) -> dict[str, str]:
    """Return the keys of the messages that a job has announced of these AMIs, with their topics."""
    keys = {}
    for one in its:
        ami = one.row.ami
        keys[f"{messages.UPLOAD}:completed:{ami}"] = messages.UPLOAD
        keys[f"{messages.COPY}:{ami}"] = messages.COPY
        if one.once_published and one.row.audience is None:
            keys[f"{messages.PUBLISH}:{ami}"] = messages.PUBLISH
        if one.row.audience is not None:
            keys[f"{messages.SHARE}:{ami}"] = messages.SHARE
    return keys
