"""Which job an image gets: one of its own, or the one that another source's same image has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from fedimg.identity import Known, Likeness, Validator, compare, same, same_url
from fedimg.images import RawImage
from fedimg.store.database import Database
from fedimg.store.rows import CLEANING
from fedimg.store.tables import amis as _amis
from fedimg.store.tables import jobs as _jobs
from fedimg.store.tables import offered as _offered

#: Puts a job's run on the queue within the given transaction, so that both happen or neither.
Queue = Callable[[sa.Connection, int], object]
#: The same for a job that is chosen within the transaction.
QueueJob = Callable[[sa.Connection, str, int], object]
#: What a transaction is about that must see no other job of the same image slip in.
TWINS = "twins"
#: States in which a job has made nothing public, and does nothing about it.
_NOTHING = ("failed", "cancelled")


@dataclass(frozen=True)
class Submission:
    """What became of an image that a person submitted.

    `run` is the run of `job` that was queued for it. Where that is None the job has the image
    already, by what both have in `common`; `sure` is False when too little is known to tell.
    """

    job: str
    run: int | None
    common: str = ""
    sure: bool = True


@dataclass(frozen=True)
class _Row:
    """A job, as far as another image is compared with its own."""

    job: str
    known: Known
    state: str
    on_purpose: bool

    @classmethod
    def of(cls, row: Any) -> _Row:
        image = RawImage.from_json(row.raw_image)
        validator = Validator.of(row.etag, row.last_modified)
        return cls(row.job, Known(image, validator), row.state, bool(row.on_purpose))

    def at_url_of(self, known: Known) -> bool:
        """Whether a person named this one's image by the same URL."""
        return self.known.image.given_by_hand and same_url(self.known.image, known.image)


class Twins(Database):
    """Jobs and the images that they are for, each image once."""

    def add_job(self, image: RawImage, *, queue: Queue) -> str | None:
        """Remember a job and queue its first run; None when its image has a job already.

        The same image from a second source is the first source's job, unless that one failed or
        was cancelled.
        """
        with self.engine.begin() as connection:
            self.serialise(connection, TWINS)
            known = Known(image)
            if self._twin(connection, image.job, known) or not self._insert(connection, known):
                return None
            queue(connection, 1)
        return image.job

    def add_upload(self, known: Known, *, queue: QueueJob, on_purpose: bool = False) -> Submission:
        """Queue the publishing of an image that a person named by its URL.

        Where the image has a job already, that one is returned, unless the image is to be
        published again `on_purpose`. A job of the same URL that came to nothing runs again when
        its image is described otherwise now.
        """
        with self.engine.begin() as connection:
            self.serialise(connection, TWINS)
            found = None if on_purpose else self._job_of(connection, known)
            if found is None:
                named = self._named(connection, known)
                self._insert(connection, named, on_purpose=on_purpose)
                found = Submission(named.image.job, 1)
            if found.run is not None:
                queue(connection, found.job, found.run)
        return found

    def twin(self, image: RawImage) -> str | None:
        """Another job for the same image, which has published it or still may.

        None when the image's own job was to publish it again, on purpose.
        """
        with self.engine.connect() as connection:
            own = self._row(connection, image.job)
            if own is None:
                return self._twin(connection, image.job, Known(image))
            return None if own.on_purpose else self._twin(connection, own.job, own.known)

    def next_run(self, job: str, *, queue: Queue, behind: int | None = None) -> int | None:
        """Queue an ended job's next run, only `behind` a certain one if that is named.

        None when the job is live or complete already.

        So it is when another source's job for the same image is, and until a cancelled job is
        cleaned up: its next run must not meet that.
        """
        which = sa.and_(
            _jobs.c.state.in_(("incomplete", *_NOTHING)),
            sa.true() if behind is None else _jobs.c.run == behind,
        )
        with self.engine.begin() as connection:
            self.serialise(connection, TWINS)
            own = self._row(connection, job)
            if own is None or (not own.on_purpose and self._twin(connection, job, own.known)):
                return None
            run = self._run_again(connection, job, which, {})
            if run is not None:
                queue(connection, run)
        return run

    def _job_of(self, connection: sa.Connection, known: Known) -> Submission | None:
        """The job that has an image, or the new run of one that came to nothing; None for none."""
        rows = self._rows(connection, known)
        alive = [row for row in rows if row.state not in _NOTHING]
        for sure in (True, False):
            for row in alive:
                common = same(known, row.known)
                if common and sure == (compare(known, row.known)[0] is Likeness.SAME):
                    return Submission(row.job, None, common, sure)
        # The last one first: of the same URL it is the one that a person knows of.
        ended = [row for row in reversed(rows) if row.state in _NOTHING and row.at_url_of(known)]
        for row in ended:
            if common := same(known, row.known):
                otherwise = _said_otherwise(known.image, row.known.image)
                run = self._describe(connection, row.job, known) if otherwise else None
                return Submission(row.job, run, common)
        for row in ended:
            if run := self._describe(connection, row.job, known):
                return Submission(row.job, run)
        return None

    def _twin(self, connection: sa.Connection, job: str, known: Known) -> str | None:
        for row in self._rows(connection, known):
            if row.job != job and row.state not in _NOTHING and same(known, row.known):
                return row.job
        return None

    def _rows(self, connection: sa.Connection, known: Known) -> list[_Row]:
        """The jobs that may be for the same image, oldest first: an equal URL ends in one name."""
        alike = _jobs.c.image == known.image.name
        if known.image.checksum is not None:
            alike |= _jobs.c.checksum == known.image.checksum
        found = sa.select(_jobs).where(alike).order_by(_jobs.c.created, _jobs.c.job)
        return [_Row.of(row) for row in connection.execute(found)]

    def _row(self, connection: sa.Connection, job: str) -> _Row | None:
        found = connection.execute(sa.select(_jobs).where(_jobs.c.job == job)).first()
        return None if found is None else _Row.of(found)

    def _named(self, connection: sa.Connection, known: Known) -> Known:
        """The image under the first name of its URL that no job has."""
        image = known.image
        number = 1
        while self._row(connection, image.job) is not None:
            number += 1
            image = replace(known.image, source=f"{known.image.source}.{number}")
        return replace(known, image=image)

    def _insert(self, connection: sa.Connection, known: Known, *, on_purpose: bool = False) -> bool:
        now = time.time()
        added = connection.execute(
            self.insert(_jobs)
            .values(
                job=known.image.job,
                image=known.image.name,
                **_columns(known),
                on_purpose=on_purpose,
                run=1,
                tries=0,
                state="queued",
                step="queued",
                created=now,
                updated=now,
            )
            .on_conflict_do_nothing()
            .returning(_jobs.c.job)
        ).first()
        return added is not None

    def _describe(self, connection: sa.Connection, job: str, known: Known) -> int | None:
        """The next run of a job that published nothing, with what is known of its image now."""
        own = self._row(connection, job)
        assert own is not None
        image = replace(known.image, source=own.known.image.source)
        public = sa.exists().where(_amis.c.job == job, _amis.c.public)
        # After a crash, or where it is private again, it may be public without our knowing.
        offered = sa.exists().where(_offered.c.job == job)
        which = _jobs.c.state.in_(_NOTHING) & ~public & ~offered
        return self._run_again(connection, job, which, _columns(replace(known, image=image)))

    def _run_again(
        self,
        connection: sa.Connection,
        job: str,
        which: sa.ColumnElement[bool],
        values: dict[str, Any],
    ) -> int | None:
        changed = connection.execute(
            sa.update(_jobs)
            .where(_jobs.c.job == job, _jobs.c.step != CLEANING, which)
            .values(
                run=_jobs.c.run + 1,
                state="queued",
                step="queued",
                error=None,
                updated=time.time(),
                **values,
            )
            .returning(_jobs.c.run)
        ).first()
        return None if changed is None else int(changed.run)


def _columns(known: Known) -> dict[str, Any]:
    """What a row of the jobs tells of an image.

    The validator has columns of its own: the version before this one reads `raw_image`, and takes
    no key there that it does not know.
    """
    return {
        "raw_image": known.image.to_json(),
        "checksum": known.image.checksum,
        "etag": known.validator.etag,
        "last_modified": known.validator.modified,
    }


def _said_otherwise(image: RawImage, before: RawImage) -> bool:
    """Whether an image has another checksum or architecture now than a job was given."""
    return (before.checksum, before.architecture) != (
        image.checksum or before.checksum,
        image.architecture,
    )
