"""Put into words, for `fedimg status`, what is not as the record says."""

from __future__ import annotations

from datetime import UTC, datetime

from fedimg.store import rows
from fedimg.store.changes import PendingChanges
from fedimg.store.parameters import Parameters
from fedimg.store.store import Store
from fedimg.store.verifications import Verifications

_UNFINISHED = {
    rows.WITHDRAWING: "its withdrawal",
    rows.RESTORING: "its restoration",
    rows.SHARING: "the change of its audience",
    rows.DISABLING: "its disabling",
    rows.DELETING: "its removal",
}


def room(store: Store, needed: int) -> str | None:
    """Return, as one line, how many more AMIs may be public by region, or None if it is not known.

    Regions without room for an image, which needs up to `needed` AMIs, are named first. The quota
    is the account's, and the comparison sees this site's AMIs alone.
    """
    by_room: dict[tuple[float, float], list[str]] = {}
    for each in Verifications(store).all():
        if each.quota is not None and each.public_amis is not None:
            key = (each.quota - each.public_amis, each.quota)
            by_room.setdefault(key, []).append(each.region)
    if not by_room:
        return None
    parts = []
    for (left, quota), regions in sorted(by_room.items()):
        where = (
            ", ".join(regions) if left < needed or len(regions) < 3 else f"{len(regions)} regions"
        )
        parts.append(f"{where}: {quota - left:g} of {quota:g} used, {max(left, 0):g} left")
    return (
        "this site's public AMIs at the last comparison, of the account's quota; other public AMIs "
        f"of the account leave less ('fedimg check' counts them): {'; '.join(parts)}"
    )


def freed(store: Store, *, automatic: bool) -> str | None:
    """Return, as one line, how many public AMIs the rules of retention would disable by region.

    None if they would disable none. `automatic` says that the worker does so by itself.
    """
    by_count: dict[int, list[str]] = {}
    for each in Verifications(store).all():
        if each.would_free:
            by_count.setdefault(each.would_free, []).append(each.region)
    if not by_count:
        return None
    parts = [
        f"{', '.join(regions) if len(regions) < 3 else f'{len(regions)} regions'}: {count}"
        for count, regions in sorted(by_count.items(), reverse=True)
    ]
    who = "the worker frees it by itself" if automatic else "'fedimg prune' frees it"
    return f"room that the rules of retention would free: {'; '.join(parts)}; {who}"


def problems(store: Store) -> list[str]:
    """Return a line for each region that differs from the record or has an unfinished change.

    Parameters of SSM that cannot be set have a line each, too.
    """
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
    for change in PendingChanges(store).all():
        if change.error:
            texts.append(
                f"{change.job}: {change.what} in {change.region} is not finished: {change.error}"
            )
    for parameter in Parameters(store).all():
        where = f"parameter {parameter.name} in {parameter.region}"
        if parameter.error:
            wanted = f"is to name {parameter.ami}" if parameter.ami else "is to be deleted"
            texts.append(f"{where} {wanted}: {parameter.error}")
        if parameter.note:
            texts.append(f"{where}: {parameter.note}")
    if undecided := sum(store.count_amis([rows.UNKNOWN]).values()):
        texts.append(
            f"{undecided} AMIs were private when the database was rebuilt, and a person has to "
            "decide about them: 'fedimg amis --state unknown' lists them"
        )
    unfinished = store.count_amis(list(_UNFINISHED))
    texts += [
        f"{image} in {region}: {_UNFINISHED[state]} is not finished for {count} AMIs"
        for (region, image, state), count in sorted(unfinished.items())
    ]
    return texts
