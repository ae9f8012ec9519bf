"""scale: what workers on one PostgreSQL get done together, and how soon they replace each other.

All share this machine with EC2's stand-in: from some number of workers on, that is measured.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack

import psycopg

from bench.critical_path import table
from bench.deployment import Deployment, deployed, site
from bench.processes import cpu_seconds
from bench.results import Result, bars
from fedimg.store.store import Store
from fedimg.worker.registry import Registry
from fedimg.worker.shared_lease import alive
from lab.postgresql import PostgreSQL, serving
from lab.processes import Process

_WORKERS = (1, 2, 4, 8)
#: Jobs that a worker runs at once, and images a worker: enough for its places to stay taken.
_PLACES, _IMAGES = 2, 6
_REGIONS = 3
_SCALE = 0.1


def run(tiny: bool) -> Result:
    """Give each of 1, 2, 4 and 8 workers the same load; then kill one of each."""
    counts = (1, 2) if tiny else _WORKERS
    figures: dict[str, float] = {}
    plot: list[tuple[str, float]] = []
    delays, changes = table(_SCALE / 20 if tiny else _SCALE, _REGIONS)
    with serving(PostgreSQL) as server:
        for count in counts:
            with ExitStack() as running:
                # A site each: in Koji's lists the next workers would find what the last ones did.
                folder, told = running.enter_context(site(regions=_REGIONS, delays=delays))
                url = server.create()
                Store(folder, url, migrate=True).close()
                fedimg = running.enter_context(
                    deployed(
                        folder,
                        told,
                        changes={
                            **changes,
                            "state_directory": f'database = "{url}"\nstate_directory',
                            "[ec2.limits]\n": f"[ec2.limits]\njobs = {_PLACES}\n",
                        },
                    )
                )
                further = [
                    running.enter_context(fedimg.further_worker(number))
                    for number in range(1, count)
                ]
                store = Store(folder, url)
                running.callback(store.close)
                fedimg.until(lambda: True if len(_living(store)) == count else None)  # noqa: B023
                images = 1 if tiny else _IMAGES
                found = _load(fedimg, server, url, count * images)
                figures |= {f"{name}_{count}": value for name, value in found.items()}
                plot.append((f"{count} workers", found["jobs_an_hour"]))
                if further:
                    figures[f"takeover_seconds_{count}"] = _taken_over(fedimg, store, further)
    return Result("scale", figures, plot=bars("jobs an hour", plot, ""))


def _load(fedimg: Deployment, server: PostgreSQL, url: str, count: int) -> dict[str, float]:
    """Publish so many images, and see what that takes of the database."""
    images = [fedimg.build() for _ in range(count)]
    commits, cpu = _commits(url), _database_cpu(server)
    began = fedimg.announce(images)
    fedimg.ended(count)
    seconds = time.monotonic() - began
    return {
        "jobs": count,
        "jobs_an_hour": 3600 * count / seconds,
        "commits_a_job": (_commits(url) - commits) / count,
        "database_cpu_percent": 100 * (_database_cpu(server) - cpu) / seconds,
    }


def _taken_over(fedimg: Deployment, store: Store, further: Sequence[Process]) -> float:
    """Kill a worker; seconds until another has put back what it had."""
    members = Registry(store)
    (mine,) = [each.name for each in members.all() if each.pid == further[0].pid]
    further[0].kill()
    began = time.monotonic()
    while any(each.name == mine for each in members.all()):
        fedimg.worker.check()
        time.sleep(0.01)
    return time.monotonic() - began


def _living(store: Store) -> set[str]:
    return alive(store.engine, [each.name for each in Registry(store).all()])


def _commits(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _database_cpu(server: PostgreSQL) -> float:
    """Processor time of the server's processes that live."""
    total = 0.0
    for pid in server.processes():
        try:
            total += cpu_seconds(pid)
        except FileNotFoundError:
            continue
    return total
