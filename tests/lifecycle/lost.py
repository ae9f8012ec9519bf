"""A site loses its database, and recovers what EC2 tells."""

from __future__ import annotations

import sqlalchemy as sa

from fedimg.lifecycle import recover, recovery_search
from fedimg.store import tables
from fedimg.store.recovered import Recovered
from tests.lifecycle.conftest import REGIONS, Site


def lose(site: Site) -> None:
    """Delete every row of the database."""
    with site.store.engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))


def recovered(site: Site, regions: tuple[str, ...] = REGIONS) -> recovery_search.Search:
    """Recover what is unrecorded, as the command does."""
    store = site.store
    known = recover.Recorded(
        {row.job: row for row in store.jobs()}, store.all_amis(), Recovered(store).withdrawals()
    )
    found = recovery_search.search(site.clients, site.waiter, site.settings.site, regions)
    for job in recover.jobs(found, known, REGIONS):
        Recovered(store).record(job)
    return found
