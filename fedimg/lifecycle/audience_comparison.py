"""Compare with whom private AMIs and their snapshots are shared with what is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

from fedimg.aws.inventory import Inventory
from fedimg.lifecycle.comparison import PENDING, Difference, Kind
from fedimg.store import rows
from fedimg.store.rows import AMIRow
from fedimg.values.audience import Audience


def private(recorded: Iterable[AMIRow]) -> set[str]:
    """Return the ids of the AMIs with an audience, and of their snapshots."""
    return {
        id
        for row in recorded
        if row.audience is not None and row.state != rows.DELETED
        for id in (row.ami, row.snapshot)
    }


def compare(recorded: Sequence[AMIRow], seen: Inventory) -> list[Difference]:
    """Return the differences of the audiences of private AMIs and of their snapshots.

    What is withdrawn or disabled has none on EC2. While EC2 has not confirmed a change, nothing is
    compared.
    """
    found: dict[tuple[Kind, str], Difference] = {}
    by_snapshot: dict[str, list[AMIRow]] = {}
    for row in recorded:
        if row.audience is not None and row.state != rows.DELETED:
            by_snapshot.setdefault(row.snapshot, []).append(row)
    for snapshot, its in by_snapshot.items():
        if any(row.state in PENDING for row in its):
            continue
        wanted = {row.ami: expected_audience(row) for row in its}
        together = reduce(Audience.plus, wanted.values())
        wanted[snapshot] = Audience(together.accounts)
        row_of = {row.ami: row for row in its} | {snapshot: its[0]}
        for id, audience in wanted.items():
            if id not in seen.audiences:
                continue
            shown, row = seen.audiences[id], row_of[id]
            for kind, different, text in (
                (Kind.NOT_SHARED, audience.minus(shown), "of its audience cannot use it"),
                (Kind.SHARED_WITH_OTHERS, shown.minus(audience), "can use it beside its audience"),
            ):
                # A disabled one is another difference.
                disabled = seen.images.get(id, {}).get("State") == "disabled"
                if different and not (disabled and kind is Kind.NOT_SHARED):
                    found[kind, id] = Difference(
                        kind, row.region, id, row.job, row.image, f"{different} {text}"
                    )
    return list(found.values())


def expected_audience(row: AMIRow) -> Audience:
    """Return with whom EC2 should share a private AMI, by its state."""
    return (row.shared_with or Audience()) if row.state == rows.SHARED else Audience()
