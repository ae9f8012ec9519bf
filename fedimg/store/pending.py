"""Tells, by one query for all who ask, which tables hold rows that wait for somebody.

An idle worker would otherwise query each of these tables every second or two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import sqlalchemy as sa

from fedimg.progress import AWAY
from fedimg.store.shared_poll import NOW, SharedPoll
from fedimg.store.tables import (
    changes,
    deferred_entries,
    holds,
    outages,
    outbox,
    parameters,
    regions,
    retries,
)

#: The age limit of the answer, in seconds.
AGE = 1.0


@dataclass(frozen=True)
class Pending:
    """Flags: there are deferred entries, retries that may begin, outages, a hold.

    And there are changes of AMIs that are due, parameters that are not right yet, and messages that
    not every bus has confirmed.
    """

    entries: bool
    retries: bool
    outages: bool
    hold: bool
    changes: bool
    parameters: bool
    messages: bool


class PendingRows:
    """The answer of at most `age` seconds ago, for the threads of one worker."""

    def __init__(self, poll: SharedPoll, age: float = AGE) -> None:
        self._question = poll.question(_COLUMNS, age)

    def current(self) -> Pending:
        """Return the answer, read anew if it is older than `age`."""
        return Pending(*map(bool, self._question.answer()))


# A run that waits for a region begins when that is back, whatever its time.
_OF_AWAY_REGION = sa.exists().where(regions.c.job == retries.c.job, regions.c.step == AWAY)
_EXISTING: dict[str, sa.ColumnElement[bool]] = {
    "entries": sa.exists(deferred_entries.c.entry),
    "retries": sa.exists(retries.c.job).where(
        ~retries.c.begun, (retries.c.due <= NOW) | _OF_AWAY_REGION
    ),
    "outages": sa.exists(outages.c.region).where(outages.c.back.is_(None)),
    "hold": sa.exists(holds.c.since).where(holds.c.released.is_(None)),
    "changes": sa.exists(changes.c.job).where(changes.c.due <= NOW),
    "parameters": sa.exists(parameters.c.name).where(~parameters.c.right),
    "messages": sa.exists(outbox.c.id).where(outbox.c.announced.is_(None)),
}
_COLUMNS = [_EXISTING[field.name] for field in fields(Pending)]
