"""Find or create the job for an image: the same image from two sources has one job.

The jobs of one image are its twins; only one of them publishes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from fedimg.identity import Known, Likeness, Validator, compare, same, same_url
from fedimg.images import RawImage
from fedimg.store.database import Database
from fedimg.store.rows import CLEANING, image_columns, image_of
from fedimg.store.tables import amis, jobs, offered, withdrawals
from fedimg.untrusted.quoting import QuotedError

#: Queues a run of a job within a transaction, so that the rows and the queue agree.
Queue = Callable[[sa.Connection, int], object]
#: Queues a run of a job, by name, that was chosen within the transaction.
QueueJob = Callable[[sa.Connection, str, int], object]
#: The lock of transactions that look for an image's jobs and add one.
TWINS = "twins"
#: States in which nothing more becomes public; what did before, the records of the AMIs tell.
_GIVEN_UP = ("failed", "cancelled")
#: Whether an AMI of a job is or was public. An AMI that was offered before a crash may be public
#: although its row does not say so.
_EVER_PUBLIC = sa.or_(
    sa.exists().where(
        amis.c.job == jobs.c.job, sa.or_(amis.c.public, amis.c.published_at.is_not(None))
    ),
    sa.exists().where(offered.c.job == jobs.c.job),
)


class ImageWithdrawn(QuotedError):
    """An operator withdrew this image: nobody publishes it before it is restored."""


@dataclass(frozen=True)
class Submission:
    """The job of an image that an operator uploaded.

    `run` is the run of `job` that was queued for the image. When `run` is None, the job has the
    same image already: `common` says which properties are equal, and `sure` is False when these do
    not prove that the images are the same.
    """

    job: str
    run: int | None
    common: str = ""
    sure: bool = True


@dataclass(frozen=True)
class _Row:
    """The properties of a job that are compared with another image."""

    job: str
    known: Known
    #: Whether it has published nothing and is not going to.
    published_nothing: bool
    on_purpose: bool

    @classmethod
    def of(cls, row: Any) -> _Row:
        image = image_of(row)
        validator = Validator.of(row.etag, row.last_modified)
        nothing = row.state in _GIVEN_UP and not row.ever_public
        return cls(row.job, Known(image, validator), nothing, bool(row.on_purpose))

    def at_url_of(self, known: Known) -> bool:
        """Return whether an operator uploaded this job's image from the same URL."""
        return self.known.image.given_by_hand and same_url(self.known.image, known.image)


class Twins(Database):
    """The jobs, one for each image."""

    def add_job(self, image: RawImage, *, queue: Queue) -> str | None:
        """Add an image's job, queue its first run and return the job.

        Return None when the image has a job already. The same image from a second source gets a job
        of its own only when the first source's job failed or was cancelled before it was public
        anywhere.
        """
        with self.engine.begin() as connection:
            self.lock(connection, TWINS)
            known = Known(image)
            if self._twin(connection, image.job, known) or self._withdrawn(connection, known):
                return None
            if not self._insert(connection, known):
                return None
            queue(connection, 1)
        return image.job

    def add_upload(self, known: Known, *, queue: QueueJob, on_purpose: bool = False) -> Submission:
        """Queue the publishing of an image that an operator uploads by its URL.

        When the image has a job already, return that job, unless the image is to be published
        again `on_purpose`. A failed or cancelled job of the same URL runs again when the image is
        described differently now. Raises ImageWithdrawn when the image is withdrawn.
        """
        with self.engine.begin() as connection:
            self.lock(connection, TWINS)
            if job := self._withdrawn(connection, known):
                raise ImageWithdrawn(
                    f"{known.image.name} is the image of job {job}, which is withdrawn; "
                    f"'fedimg restore {job}' comes first"
                )
            submission = None if on_purpose else self._job_of(connection, known)
            if submission is None:
                named = self._named(connection, known)
                self._insert(connection, named, on_purpose=on_purpose)
                submission = Submission(named.image.job, 1)
            if submission.run is not None:
                queue(connection, submission.job, submission.run)
        return submission

    def twin(self, image: RawImage) -> str | None:
        """Return another job for the same image that has published it or may still do so.

        Return None when there is none, or when the image's own job is to publish it again on
        purpose.
        """
        with self.engine.connect() as connection:
            own = self._row(connection, image.job)
            if own is None:
                return self._twin(connection, image.job, Known(image))
            return None if own.on_purpose else self._twin(connection, own.job, own.known)

    def withdrawn(self, image: RawImage) -> str | None:
        """Return a withdrawn job that has this image, or None."""
        with self.engine.connect() as connection:
            return self._withdrawn(connection, Known(image), image.job)

    def next_run(
        self, job: str, *, queue: Queue, behind: int | None = None, complete: bool = False
    ) -> int | None:
        """Queue an ended job's next run and return its number.

        With `behind`, do so only when the job's last run is that one; with `complete`, only when
        the job is complete. Return None otherwise when this job, or another source's job for the
        same image, is live or complete; while the image is withdrawn; and until the clean-up of the
        job has ended: the next run must not overlap with it.
        """
        condition = sa.and_(
            jobs.c.state.in_(("complete",) if complete else ("incomplete", *_GIVEN_UP)),
            sa.true() if behind is None else jobs.c.run == behind,
        )
        with self.engine.begin() as connection:
            self.lock(connection, TWINS)
            own = self._row(connection, job)
            if own is None or (not own.on_purpose and self._twin(connection, job, own.known)):
                return None
            if self._withdrawn(connection, own.known, job):
                return None
            run = self._run_again(connection, job, condition, {})
            if run is not None:
                queue(connection, run)
        return run

    def _job_of(self, connection: sa.Connection, known: Known) -> Submission | None:
        """Return the job that has an image, maybe with a next run queued, or None."""
        rows = self._rows(connection, known)
        publishing = [row for row in rows if not row.published_nothing]
        for sure in (True, False):
            for row in publishing:
                common = same(known, row.known)
                if common and sure == (compare(known, row.known)[0] is Likeness.SAME):
                    return Submission(row.job, None, common, sure)
        # Newest first: the operator knows the newest job of a URL.
        ended = [row for row in reversed(rows) if row.published_nothing and row.at_url_of(known)]
        for row in ended:
            if common := same(known, row.known):
                differs = _described_differently(known.image, row.known.image)
                run = self._describe(connection, row.job, known) if differs else None
                return Submission(row.job, run, common)
        for row in ended:
            if run := self._describe(connection, row.job, known):
                return Submission(row.job, run)
        return None

    def _twin(self, connection: sa.Connection, job: str, known: Known) -> str | None:
        for row in self._rows(connection, known):
            if row.job == job or row.published_nothing:
                continue
            if same(known, row.known):
                return row.job
        return None

    def _withdrawn(
        self, connection: sa.Connection, known: Known, job: str | None = None
    ) -> str | None:
        """Return a withdrawn job that has the same image as another, or as `job`; or None."""
        rows = self._rows(connection, known)
        withdrawn = sa.select(withdrawals.c.job).where(
            withdrawals.c.job.in_([row.job for row in rows]),
            withdrawals.c.restored_at.is_(None),
        )
        withdrawn_jobs = set(connection.execute(withdrawn).scalars()) if rows else set()
        for row in rows:
            if row.job in withdrawn_jobs and (row.job == job or same(known, row.known)):
                return row.job
        return None

    def _rows(self, connection: sa.Connection, known: Known) -> list[_Row]:
        """Return the jobs that may be for the same image, oldest first.

        These have an equal checksum or an equal name, which images of one URL have.
        """
        similar = jobs.c.image == known.image.name
        if known.image.checksum is not None:
            similar |= jobs.c.checksum == known.image.checksum
        query = _described().where(similar).order_by(jobs.c.created, jobs.c.job)
        return [_Row.of(row) for row in connection.execute(query)]

    def _row(self, connection: sa.Connection, job: str) -> _Row | None:
        row = connection.execute(_described().where(jobs.c.job == job)).first()
        return None if row is None else _Row.of(row)

    def _named(self, connection: sa.Connection, known: Known) -> Known:
        """Return the image with the first free job name of `<source>`, `<source>.2` and so on."""
        image = known.image
        number = 1
        while self._row(connection, image.job) is not None:
            number += 1
            image = replace(known.image, source=f"{known.image.source}.{number}")
        return replace(known, image=image)

    def _insert(self, connection: sa.Connection, known: Known, *, on_purpose: bool = False) -> bool:
        now = time.time()
        added = connection.execute(
            self.insert(jobs)
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
            .returning(jobs.c.job)
        ).first()
        return added is not None

    def _describe(self, connection: sa.Connection, job: str, known: Known) -> int | None:
        """Store a new description of its image with a job that published nothing.

        Return the job's next run, or None when the job may have published something.
        """
        own = self._row(connection, job)
        assert own is not None
        image = replace(known.image, source=own.known.image.source)
        condition = jobs.c.state.in_(_GIVEN_UP) & ~_EVER_PUBLIC
        return self._run_again(connection, job, condition, _columns(replace(known, image=image)))

    def _run_again(
        self,
        connection: sa.Connection,
        job: str,
        condition: sa.ColumnElement[bool],
        values: dict[str, Any],
    ) -> int | None:
        changed = connection.execute(
            sa.update(jobs)
            .where(jobs.c.job == job, jobs.c.step != CLEANING, condition)
            .values(
                run=jobs.c.run + 1,
                state="queued",
                step="queued",
                error=None,
                updated=time.time(),
                **values,
            )
            .returning(jobs.c.run)
        ).first()
        return None if changed is None else int(changed.run)


def _described() -> sa.Select[Any]:
    """Return the query of jobs with what _Row needs."""
    return sa.select(jobs, _EVER_PUBLIC.label("ever_public"))


def _columns(known: Known) -> dict[str, Any]:
    """Return the columns of a job's row that describe its image and its file's validator."""
    return {
        **image_columns(known.image),
        "etag": known.validator.etag,
        "last_modified": known.validator.modified,
    }


def _described_differently(image: RawImage, before: RawImage) -> bool:
    """Return whether an image's checksum or architecture differs from the job's image `before`."""
    return (before.checksum, before.architecture) != (
        image.checksum or before.checksum,
        image.architecture,
    )
