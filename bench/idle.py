"""idle: what a worker costs that has nothing to do, on a file and on a PostgreSQL.

And how soon it begins a job that is handed in then.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import psycopg

from bench import former
from bench.deployment import PATIENCE, until
from bench.processes import cpu_seconds, pss_mib
from bench.results import Result
from bench.silent_site import settings_file, silent_site
from fedimg.images import Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from lab.postgresql import PostgreSQL, serving
from lab.processes import Process

#: How long a worker rests before it is watched, and how long it is watched, in seconds.
_SETTLES, _WATCHED = 10.0, 30.0
#: Jobs that are handed in, one after the other, to see how soon each is begun.
_JOBS = 10
BUDGET = {
    "file_begun_seconds": 0.5,
    "postgresql_begun_seconds": 0.5,
    "postgresql_transactions_a_second": 3.0,
    "file_cpu_percent": 1.0,
    "postgresql_cpu_percent": 1.0,
    "file_pss_over_former": 0.65,
}


def run(tiny: bool) -> Result:
    """Watch one worker on each database; then the former version's, if it is beside this one."""
    watched = 1.0 if tiny else _WATCHED
    figures: dict[str, float] = {}
    versions = {"": former.here()} | ({"former_": beside} if (beside := former.programs()) else {})
    with serving(PostgreSQL) as server:
        for version, programs in versions.items():
            for database, url in (("file_", ""), ("postgresql_", server.create())):
                with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                    found = _idle(Path(folder), programs, url, watched, begin=not version)
                figures |= {f"{version}{database}{key}": value for key, value in found.items()}
    if "former_file_pss_mib" in figures:
        for database in ("file", "postgresql"):
            now, before = (figures[f"{each}{database}_pss_mib"] for each in ("", "former_"))
            figures[f"{database}_pss_over_former"] = now / before
    return Result("idle", figures, {key: most for key, most in BUDGET.items() if key in figures})


def _idle(
    folder: Path, programs: Path, url: str, watched: float, *, begin: bool
) -> dict[str, float]:
    with settings_file(folder, url).open("a") as settings:
        settings.write(f"[ec2.limits]\njobs = {_JOBS}\n")
    with silent_site(folder) as environment:
        program, log = str(programs / "fedimg"), folder / "logs" / "worker.log"
        if url:
            command = [program, "store", "migrate"]
            with Process(command, folder, environment, folder / "migrate.log") as made:
                made.wait(PATIENCE)
        with Process([program, "worker"], folder, environment, log) as worker:
            worker.wait_for(" started ", PATIENCE)
            time.sleep(_SETTLES if watched > 1 else 0)
            cpu, done, since = cpu_seconds(worker.pid), _transactions(url), time.monotonic()
            time.sleep(watched)
            cpu = cpu_seconds(worker.pid) - cpu
            # A connection counts its transactions at the server once in some seconds.
            done, seconds = _transactions(url) - done, time.monotonic() - since
            figures = {
                "cpu_percent": 100 * cpu / seconds,
                "pss_mib": pss_mib(worker.pid),
                "threads": len(os.listdir(f"/proc/{worker.pid}/task")),
            }
            if begin:
                figures["begun_seconds"] = _longest_to_begin(folder / "state", url)
            return figures | ({"transactions_a_second": done / seconds} if url else {})


def _longest_to_begin(directory: Path, url: str) -> float:
    """Hand in jobs at different moments of the worker's interval; return the longest wait, in s."""
    store = Store(directory, url)
    queue, longest = JobQueue(store), 0.0
    for number in range(_JOBS):
        file = f"https://koji.example/{number}.x86_64.raw.xz"
        job = queue.submit(RawImage.at(file, Architecture.X86_64, None))
        assert job is not None
        handed_in = time.monotonic()
        until(partial(_begun, store, job), pause=0.01)
        longest = max(longest, time.monotonic() - handed_in)
        time.sleep(0.5 + number / _JOBS * 0.4)
    queue.close()
    store.close()
    return longest


def _begun(store: Store, job: str) -> bool | None:
    row = store.job(job)
    return (row is not None and row.state != "queued") or None


def _transactions(url: str) -> int:
    """Return how many transactions a PostgreSQL's database has ended; 0 without one."""
    if not url:
        return 0
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
        row = connection.execute(query, [url.rpartition("/")[2]]).fetchone()
    assert row is not None
    return int(row[0])
