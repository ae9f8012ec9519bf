"""fedimg's tables, a module for each group of them; importing the package defines them all.

Tables only grow, by tables, by indexes, and by columns that may be NULL or have a
`server_default`: so `store.schema` can upgrade a database of an older version. The database holds
DBOS's own tables as well.
"""

from fedimg.store.tables.announcing import delivered, outbox, parked, refused
from fedimg.store.tables.columns import metadata
from fedimg.store.tables.deployment import creation, heartbeats, runs, workers
from fedimg.store.tables.intake import (
    age_exempt,
    deferred_entries,
    entry_images,
    list_readings,
    listed_entries,
    watermarks,
)
from fedimg.store.tables.lifecycle import (
    amis,
    catalogue_keys,
    changes,
    offered,
    parameters,
    prunings,
    repairs,
    verified,
    withdrawals,
)
from fedimg.store.tables.publishing import (
    added,
    holds,
    jobs,
    lacking_tools,
    of_run,
    outages,
    regions,
    retries,
    semaphores,
    tests,
)

__all__ = [
    "added",
    "age_exempt",
    "amis",
    "catalogue_keys",
    "changes",
    "creation",
    "deferred_entries",
    "delivered",
    "entry_images",
    "heartbeats",
    "holds",
    "jobs",
    "lacking_tools",
    "list_readings",
    "listed_entries",
    "metadata",
    "of_run",
    "offered",
    "outages",
    "outbox",
    "parameters",
    "parked",
    "prunings",
    "refused",
    "regions",
    "repairs",
    "retries",
    "runs",
    "semaphores",
    "tests",
    "verified",
    "watermarks",
    "withdrawals",
    "workers",
]
