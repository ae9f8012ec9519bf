"""Compare with whom private AMIs and their snapshots are shared with what is recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import reduce

from fedimg.aws.inventory import Inventory
from fedimg.lifecycle.comparison import PENDING, Difference, Kind
from fedimg.store import rows
from fedimg.store.rows import AMIRow
from fedimg.values.audience import Audience


def private(recorded: Iterable[AMIRow], maybe_shared: Collection[str] = ()) -> set[str]:
    """Return the ids of the AMIs that an audience may use, and of their snapshots.

    `maybe_shared` are AMIs that are recorded as private, and may be shared all the same.
    """
    its = _compared(recorded, maybe_shared)
    return {id for row in its for id in (row.ami, row.snapshot)}


def _compared(recorded: Iterable[AMIRow], maybe_shared: Collection[str]) -> list[AMIRow]:
    return [
        row
        for row in recorded
        if row.state != rows.DELETED and (row.audience is not None or row.ami in maybe_shared)
    ]


def compare(
    recorded: Sequence[AMIRow], seen: Inventory, maybe_shared: Collection[str] = ()
) -> list[Difference]:
    """Return the differences of the audiences of private AMIs and of their snapshots.

    What is withdrawn or disabled has none on EC2, and so have the `maybe_shared` AMIs, which are
    recorded as private. While EC2 has not confirmed a change, nothing is compared.
    """
    found: dict[tuple[Kind, str], Difference] = {}
    by_snapshot: dict[str, list[AMIRow]] = {}
    for row in _compared(recorded, maybe_shared):
        by_snapshot.setdefault(row.snapshot, []).append(row)
    for snapshot, its in by_snapshot.items():
        if any(row.state in PENDING for row in its):
            continue
        wanted = {row.ami: expected_audience(row) for row in its}
        together = reduce(Audience.plus, wanted.values())
        wanted[snapshot] = Audience(together.accounts)
        of_snapshot = max(its, key=lambda row: row.audience is not None)
        row_of = {row.ami: row for row in its} | {snapshot: of_snapshot}
        for id, audience in wanted.items():
            if id not in seen.audiences:
                continue
            shown, row = seen.audiences[id], row_of[id]
            if row.audience is None and id in seen.public_snapshots:
                # Of a public image: its other AMIs need the snapshot.
                continue
            beside = "beside its audience"
            if row.audience is None:
                beside = "although it is recorded as private: a run that did not end shared it"
            for kind, different, text in (
                (Kind.NOT_SHARED, audience.minus(shown), "of its audience cannot use it"),
                (Kind.SHARED_WITH_OTHERS, shown.minus(audience), f"can use it {beside}"),
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
