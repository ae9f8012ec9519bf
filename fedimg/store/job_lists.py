"""Read jobs with their regions and boot checks: one, all, or those that a list shows."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from fedimg.progress import CheckResult
from fedimg.records import from_record
from fedimg.store.database import Database
from fedimg.store.rows import ENDED, LIVE, BootTestRow, JobRow, RegionRow, image_of
from fedimg.store.tables import jobs, regions, retries, tests


class JobLists(Database):
    """The jobs as commands and pages show them."""

    def job(self, job: str) -> JobRow | None:
        """Return one job with its regions and boot checks, or None."""
        return next(iter(self._read_jobs(jobs.c.job == job)), None)

    def jobs(self, states: Iterable[str] | None = None) -> list[JobRow]:
        """Return all jobs, or those in some states, with regions and boot checks; oldest first."""
        return self._read_jobs(sa.true() if states is None else jobs.c.state.in_(tuple(states)))

    def newest_jobs(
        self, limit: int, *, states: Iterable[str] = (), since: float = 0.0
    ) -> tuple[list[JobRow], int]:
        """Return the live jobs and then the others, the newest first, at most `limit` in all.

        Only jobs in one of `states`, if there are any, and that changed after `since`, in seconds
        since the epoch. Return also how many such jobs there are.
        """
        wanted = jobs.c.updated >= since
        if states := tuple(states):
            wanted &= jobs.c.state.in_(states)
        order = (jobs.c.state.in_(LIVE).desc(), jobs.c.created.desc(), jobs.c.job)
        query = sa.select(jobs.c.job).where(wanted).order_by(*order).limit(limit)
        with self.engine.connect() as connection:
            names = list(connection.execute(query).scalars())
            count = connection.execute(sa.select(sa.func.count()).where(wanted)).scalar_one()
        rows = {row.job: row for row in self._read_jobs(jobs.c.job.in_(names))}
        # A job that was deleted in between, as by a recovery, has no row.
        return [rows[name] for name in names if name in rows], int(count)

    def recent_jobs(
        self, limit: int | None, *, states: Iterable[str] = (), since: float = 0.0
    ) -> tuple[list[JobRow], int]:
        """Return the live jobs and the newest `limit` ended ones (at least 1), all for None.

        They are ordered from the oldest.

        Only jobs in one of `states`, if there are any, and that changed after `since`, in seconds
        since the epoch. Return also how many such jobs are left out.
        """
        wanted = sa.true() if not since else jobs.c.updated >= since
        if states := tuple(states):
            wanted &= jobs.c.state.in_(states)
        if limit is None:
            return self._read_jobs(wanted), 0
        # Said twice, as an index is read for each half of an OR, and for no half of a NOT.
        live, ended = wanted & jobs.c.state.in_(LIVE), wanted & jobs.c.state.in_(ENDED)
        order = (jobs.c.created, jobs.c.job)
        first = sa.select(*order).where(ended).order_by(*(each.desc() for each in order))
        with self.engine.connect() as connection:
            oldest = connection.execute(first.limit(1).offset(max(limit, 1) - 1)).first()
            if oldest is None:
                return self._read_jobs(wanted), 0
            older = ended & (sa.tuple_(*order) < sa.tuple_(*oldest))
            count = connection.execute(sa.select(sa.func.count()).where(older)).scalar_one()
        shown = ended & (sa.tuple_(*order) >= sa.tuple_(*oldest))
        return self._read_jobs(live | shown), int(count)

    def job_names(self, part: str) -> list[str]:
        """Return the names of the jobs that contain a text, oldest first."""
        query = sa.select(jobs.c.job).where(jobs.c.job.contains(part, autoescape=True))
        with self.engine.connect() as connection:
            names = connection.execute(query.order_by(jobs.c.created, jobs.c.job)).scalars()
            # SQLite's LIKE takes upper and lower case as equal.
            return [name for name in names if part in name]

    def count_jobs(self) -> int:
        """Return how many jobs there are."""
        with self.engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(jobs)
            return int(connection.execute(query).scalar_one())

    def _read_jobs(self, condition: sa.ColumnElement[bool]) -> list[JobRow]:
        chosen = sa.select(jobs.c.job).where(condition)
        with self.engine.connect() as connection:
            job_rows = connection.execute(
                sa.select(jobs).where(condition).order_by(jobs.c.created, jobs.c.job)
            ).all()
            retry_rows = connection.execute(
                sa.select(retries.c.job, retries.c.due).where(
                    retries.c.job.in_(chosen),
                    retries.c.what == "run",
                    ~retries.c.begun,
                )
            ).all()
            region_rows = connection.execute(
                sa.select(regions).where(regions.c.job.in_(chosen)).order_by(regions.c.region)
            ).all()
            test_rows = connection.execute(
                sa.select(tests).where(tests.c.job.in_(chosen)).order_by(*tests.primary_key)
            ).mappings()
            checked = [dict(row) for row in test_rows]
        due = {row.job: float(row.due) for row in retry_rows}
        rows = {
            row.job: JobRow(
                job=row.job,
                image=image_of(row),
                run=row.run,
                state=row.state,
                step=row.step,
                error=row.error,
                created=row.created,
                updated=row.updated,
                next=due.get(row.job) if row.state in ENDED else None,
            )
            for row in job_rows
        }
        for row in region_rows:
            # A job that was added between the two queries has no row here.
            if row.job in rows:
                rows[row.job].regions.append(
                    RegionRow(row.region, row.step, row.detail, row.error, row.updated)
                )
        for test in checked:
            if tested := rows.get(test.pop("job")):
                results = [from_record(CheckResult, check) for check in test.pop("checks")]
                tested.tests.append(BootTestRow(checks=results, **test))
        return list(rows.values())
