"""What fedimg remembers: jobs and where they stand, here; the rest in the modules it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from fedimg.images import AMI, RawImage
from fedimg.progress import AWAY, FAILED, LEFT_OUT, PUBLIC, CheckResult
from fedimg.store.amis import AMIs
from fedimg.store.database import StoreError
from fedimg.store.outbox import Outbox
from fedimg.store.rejections import REFUSED_KEPT, Rejections
from fedimg.store.rows import CLEANING, ENDED, LIVE, BootTestRow, JobRow, RegionRow
from fedimg.store.tables import again
from fedimg.store.tables import jobs as _jobs
from fedimg.store.tables import made as _made
from fedimg.store.tables import regions as _regions
from fedimg.store.tables import tests as _tests
from fedimg.store.twins import Queue, Twins

__all__ = ["REFUSED_KEPT", "Queue", "Store", "StoreError"]


#: How a region's line ends by itself.
_LAST_STEPS = (PUBLIC, FAILED, AWAY, LEFT_OUT)


class Store(Twins, Outbox, AMIs, Rejections):
    """Everything, in one database: see fedimg.store.database for where that is."""

    def begin(self, job: str, run: int) -> int | None:
        """Note that a run is worked on; how often the job was by now, 1 the first time.

        None when the run is not the job's live one, as it was cancelled before it began, or has
        come to its clean-up.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run, _jobs.c.state.in_(LIVE))
                .where(_jobs.c.step != CLEANING)
                .values(
                    tries=_jobs.c.tries + 1, state="running", step="started", updated=time.time()
                )
                .returning(_jobs.c.tries)
            ).first()
        return None if changed is None else int(changed.tries)

    def set_step(self, job: str, step: str) -> None:
        """Note which step a live job is at."""
        self.write(
            sa.update(_jobs)
            .where(_jobs.c.job == job, _jobs.c.state.in_(LIVE))
            .values(step=step, updated=time.time())
        )

    def finish(self, job: str, run: int, *, queue: Queue, unknown: bool = False) -> bool:
        """Note that only the clean-up of a run is left, and queue it; False if it is not live.

        `unknown` says that nobody knows whether what failed it passes.
        """
        values = {"step": CLEANING} | ({"unknown_run": run} if unknown else {})
        return self._end_run(job, _jobs.c.run == run, values, lambda c, _run: queue(c, run))

    def failed_unknown(self, job: str, run: int) -> bool:
        """Whether nobody knows if what failed this run passes."""
        with self.engine.connect() as connection:
            found = connection.execute(sa.select(_jobs.c.unknown_run).where(_jobs.c.job == job))
            return bool(found.scalar() == run)

    def clean_again(
        self, job: str, run: int, *, queue: Callable[[sa.Connection, str, str | None], object]
    ) -> bool:
        """Queue another clean-up behind an ended run, with its state and error; False if it is not
        the last one, or is live.
        """
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run)
                .where(_jobs.c.state.in_(ENDED), _jobs.c.step != CLEANING)
                .values(step=CLEANING)
                .returning(_jobs.c.state, _jobs.c.error)
            ).first()
            if changed is None:
                return False
            queue(connection, str(changed.state), changed.error)
        return True

    def end(self, job: str, run: int, state: str, error: str | None) -> None:
        """Note how a run ended, its clean-up done; a cancelled one stays so."""
        with self.engine.begin() as connection:
            ended = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.run == run)
                .where((_jobs.c.state != "cancelled") | (state == "cancelled"))
                .values(state=state, step=state, error=error, updated=time.time())
            )
            if ended.rowcount:
                # Where nothing is public and nothing went wrong, the run was broken off.
                connection.execute(
                    sa.update(_regions)
                    .where(_regions.c.job == job, _regions.c.step.not_in(_LAST_STEPS))
                    .values(step=state, detail="")
                )
                connection.execute(
                    sa.delete(_tests).where(_tests.c.job == job, _tests.c.status == "started")
                )

    def cancel(self, job: str, *, queue: Queue) -> int | None:
        """Mark a live job cancelled and queue its clean-up; its run.

        None when the job is not live, or has come to its clean-up anyway.
        """
        runs: list[int] = []

        def note(connection: sa.Connection, run: int) -> None:
            runs.append(run)
            queue(connection, run)

        values = {"state": "cancelled", "step": CLEANING}
        self._end_run(job, _jobs.c.step != CLEANING, values, note)
        return runs[0] if runs else None

    def _end_run(
        self, job: str, which: sa.ColumnElement[bool], values: dict[str, Any], queue: Queue
    ) -> bool:
        with self.engine.begin() as connection:
            changed = connection.execute(
                sa.update(_jobs)
                .where(_jobs.c.job == job, _jobs.c.state.in_(LIVE), which)
                .values(updated=time.time(), **values)
                .returning(_jobs.c.run)
            ).first()
            if changed is None:
                return False
            queue(connection, int(changed.run))
        return True

    def set_region(
        self, job: str, region: str, *, step: str, detail: str = "", error: str | None = None
    ) -> None:
        """Note where a job stands in one region."""
        values = {"step": step, "detail": detail, "error": error, "updated": time.time()}
        self.write(
            self.insert(_regions)
            .values(job=job, region=region, **values)
            .on_conflict_do_update(index_elements=["job", "region"], set_=values)
        )

    def set_test(
        self, job: str, ami: AMI, status: str, checks: Iterable[CheckResult], output: str
    ) -> None:
        """Note how the boot check of an AMI stands."""
        key = {
            "job": job,
            "region": ami.region,
            "virt_type": str(ami.type.virtualization),
            "volume_type": ami.type.volume_type,
        }
        values = {
            "ami": ami.id,
            "status": status,
            "checks": [check.to_json() for check in checks],
            "output": output,
            "updated": time.time(),
        }
        with self.engine.begin() as connection:
            connection.execute(
                self.insert(_tests)
                .values(**key, **values)
                .on_conflict_do_update(index_elements=list(key), set_=values)
            )

    def made(self) -> float | None:
        """When this database was made, as far as it tells; no job of it is older.

        One that an older version made tells when its first job came; without any, nothing.
        """
        with self.engine.connect() as connection:
            made = connection.execute(sa.select(sa.func.min(_made.c.at))).scalar()
            first = connection.execute(sa.select(sa.func.min(_jobs.c.created))).scalar()
        known = [float(each) for each in (made, first) if each is not None]
        return min(known) if known else None

    def job(self, job: str) -> JobRow | None:
        """One job with its regions and boot checks."""
        return next(iter(self._read_jobs(_jobs.c.job == job)), None)

    def jobs(self, states: Iterable[str] | None = None) -> list[JobRow]:
        """All jobs with their regions, or those in some states; oldest first."""
        return self._read_jobs(sa.true() if states is None else _jobs.c.state.in_(tuple(states)))

    def _read_jobs(self, which: sa.ColumnElement[bool]) -> list[JobRow]:
        chosen = sa.select(_jobs.c.job).where(which)
        with self.engine.connect() as connection:
            jobs = connection.execute(
                sa.select(_jobs).where(which).order_by(_jobs.c.created, _jobs.c.job)
            ).all()
            nexts = connection.execute(
                sa.select(again.c.job, again.c.due).where(
                    again.c.job.in_(chosen), again.c.what == "run", ~again.c.begun
                )
            ).all()
            regions = connection.execute(
                sa.select(_regions).where(_regions.c.job.in_(chosen)).order_by(_regions.c.region)
            ).all()
            tests = connection.execute(
                sa.select(_tests).where(_tests.c.job.in_(chosen)).order_by(*_tests.primary_key)
            ).mappings()
            examined = [dict(row) for row in tests]
        due = {row.job: float(row.due) for row in nexts}
        rows = {
            row.job: JobRow(
                job=row.job,
                image=RawImage.from_json(row.raw_image),
                run=row.run,
                state=row.state,
                step=row.step,
                error=row.error,
                created=row.created,
                updated=row.updated,
                next=due.get(row.job) if row.state in ENDED else None,
            )
            for row in jobs
        }
        for row in regions:
            # A job that came in between the two reads has no row yet.
            if row.job in rows:
                rows[row.job].regions.append(
                    RegionRow(row.region, row.step, row.detail, row.error, row.updated)
                )
        for test in examined:
            if mine := rows.get(test.pop("job")):
                results = [CheckResult.from_json(check) for check in test.pop("checks")]
                mine.tests.append(BootTestRow(checks=results, **test))
        return list(rows.values())
