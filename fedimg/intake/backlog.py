"""What a person should know of announcements that nobody has given an answer about."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from fedimg.intake.deferred import DeferredEntries, whom
from fedimg.intake.watermarks import Watermarks
from fedimg.store.store import Store


def backlog_problems(store: Store) -> list[str]:
    """Which entries wait, and which lists could not be read; a sentence each, with the reason."""
    now = time.time()
    told = []
    for row in DeferredEntries(store).all():
        when = datetime.fromtimestamp(row.asked + row.pause, UTC)
        again = "at once" if row.due(now) else f"at {when:%Y-%m-%dT%H:%M:%SZ}"
        told.append(f"{row.entry} waits for {whom(row.entry)}, retries {again}: {row.reason}")
    failed: dict[str, list[str]] = {}
    for look in Watermarks(store).looks():
        if look.error:
            failed.setdefault(look.error, []).append(look.name)
    for error, names in failed.items():
        told.append(f"cannot list missed entries of {', '.join(names)}: {error}")
    return told
