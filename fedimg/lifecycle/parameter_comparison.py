"""Compare the recorded parameters of one region with what SSM shows there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.parameters import ParameterStore
from fedimg.config import Limits
from fedimg.exceptions import EC2ServiceException
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.store.parameters import ParameterRow, Parameters
from fedimg.store.store import Store
from fedimg.untrusted.failures import of_endpoint


def compare(
    store: Store, clients: Clients, region: str, limits: Limits, stop: threading.Event
) -> list[Difference]:
    """Return the differences of a region's parameters; without any, SSM is not asked."""
    recorded = Parameters(store).all(region)
    if not recorded:
        return []
    ssm = ParameterStore(clients, region, limits, stop)
    try:
        shown = ssm.read([row.name for row in recorded])
    except (*FAILURES, EC2ServiceException) as error:
        text = f"the parameters of SSM cannot be read: {of_endpoint(error)}"
        return [Difference(Kind.PARAMETER, region, region, "", "", text)]
    jobs = {row.ami: row.job for row in store.amis(region)}
    return [
        Difference(kind, region, row.name, jobs.get(row.ami or "", ""), row.image, text)
        for row in recorded
        for kind, text in _of(row, shown)
    ]


def _of(row: ParameterRow, shown: Mapping[str, str]) -> Iterator[tuple[Kind, str]]:
    value = shown.get(row.name)
    if value == row.ami:
        return
    says = f'it names "{value}"' if value else "it does not exist"
    wanted = f"{row.ami} is recorded" if row.ami else "it is to be deleted"
    why = f": {row.error}" if row.error else ""
    # What the worker has only begun is no difference yet.
    kind = Kind.PARAMETER if row.right or row.error else Kind.PENDING
    yield kind, f"{says}, and {wanted}{why}"
