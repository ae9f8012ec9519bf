"""Reads the queues' rows from the database."""

from fedimg.store.store import Store


def queued(store: Store) -> dict[str, tuple[str, str]]:
    """Return the rows of the queues, in order: workflow id → queue, status."""
    rows = (
        "SELECT workflow_uuid, queue_name, status FROM workflow_status "
        "ORDER BY created_at, workflow_uuid"
    )
    with store.engine.connect() as connection:
        return {row[0]: tuple(row[1:]) for row in connection.exec_driver_sql(rows)}
