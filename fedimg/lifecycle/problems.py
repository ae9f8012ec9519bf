"""Put into words, for `fedimg status`, what is not as the record says."""

from __future__ import annotations

from datetime import UTC, datetime

from fedimg.store import rows
from fedimg.store.store import Store
from fedimg.store.verifications import Verifications
from fedimg.store.withdrawals import Withdrawals

_UNFINISHED = {
    rows.WITHDRAWING: "its withdrawal",
    rows.RESTORING: "its restoration",
    rows.DISABLING: "its disabling",
    rows.DELETING: "its removal",
}


def problems(store: Store) -> list[str]:
    """Return a line for each region that differs from the record or has an unfinished change."""
    texts = []
    for each in Verifications(store).all():
        at = datetime.fromtimestamp(each.at, UTC)
        if each.error:
            texts.append(
                f"the record could not be compared with EC2 in {each.region} at "
                f"{at:%Y-%m-%dT%H:%M:%SZ}: {each.error}"
            )
        if each.differences:
            texts.append(
                f"record and EC2 differ in {each.region}, {len(each.differences)} times; 'fedimg "
                "verify' compares again and lists the differences"
            )
    for change in Withdrawals(store).changes():
        if change.error:
            texts.append(
                f"{change.job}: {change.what} in {change.region} is not finished: {change.error}"
            )
    unfinished: dict[tuple[str, str, str], int] = {}
    for row in store.all_amis():
        if row.state in _UNFINISHED:
            key = (row.region, row.image, row.state)
            unfinished[key] = unfinished.get(key, 0) + 1
    texts += [
        f"{image} in {region}: {_UNFINISHED[state]} is not finished for {count} AMIs"
        for (region, image, state), count in sorted(unfinished.items())
    ]
    return texts
