"""Report entries that wait for an answer of their source, and listings that failed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fedimg.intake.deferred import DeferredEntries, source_name
from fedimg.intake.watermarks import Watermarks
from fedimg.store.store import Store


def backlog_problems(store: Store) -> list[str]:
    """Return a sentence for each entry that waits and each failed listing, with the reason."""
    now = time.time()
    problems = []
    for row in DeferredEntries(store).all():
        when = datetime.fromtimestamp(row.asked + row.pause, UTC)
        again = "at once" if row.due(now) else f"at {when:%Y-%m-%dT%H:%M:%SZ}"
        problems.append(
            f"{row.entry} waits for {source_name(row.entry)}, retries {again}: {row.reason}"
        )
    failed: dict[str, list[str]] = {}
    for reading in Watermarks(store).readings():
        if reading.error:
            failed.setdefault(reading.error, []).append(reading.name)
    for error, names in failed.items():
        problems.append(f"cannot list missed entries of {', '.join(names)}: {error}")
    return problems
