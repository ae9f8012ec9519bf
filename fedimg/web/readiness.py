"""Find out whether hub or consumer, worker and database work, by their last signs of life."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fedimg.config import FEDMSG, FEDORA_MESSAGING
from fedimg.store.heartbeats import CONSUMER, HUB, SILENT_SECONDS, WORKER, Heartbeat
from fedimg.store.reader import Reader
from fedimg.store.store import Store, StoreError

_LISTENERS = {
    FEDMSG: (HUB, "fedmsg-hub"),
    FEDORA_MESSAGING: (CONSUMER, "the consumer of fedora-messaging"),
}


def problems(reader: Reader, buses: Sequence[str]) -> list[str]:
    """Return a sentence for each part of the site that does not work; empty if all do.

    A worker that has ended is missed when its last sign of life is SILENT_SECONDS old.
    """
    parts = [_LISTENERS[bus] for bus in dict.fromkeys(buses)] + [(WORKER, "the worker")]

    def silent(store: Store) -> list[str]:
        found = [_silence(name, store.heartbeats(kind)) for kind, name in parts]
        return [text for text in found if text]

    try:
        return reader.read(silent)
    except StoreError as error:
        return [str(error)]


def _silence(name: str, beats: Sequence[Heartbeat]) -> str:
    """Return why a part does not work, by its heartbeats, latest first; empty if it works."""
    if not beats:
        return f"{name} has never run on this database"
    if beats[0].fresh:
        return ""
    at = datetime.fromtimestamp(beats[0].at, UTC)
    return (
        f"{name} last said at {at:%Y-%m-%dT%H:%M:%SZ} on {beats[0].host} that it works, more than "
        f"{SILENT_SECONDS:g} s ago"
    )
