"""Poll the resources that all jobs wait for, with one Describe call for each region and resource
type.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedimg.aws.client.errors import missing
from fedimg.aws.client.types import EC2Client
from fedimg.aws.client.waiter import Waiter

T = TypeVar("T")
#: A resource as EC2 describes it.
Row = dict[str, Any]

#: EC2's limit on the values of one filter.
_MOST_VALUES = 200
#: The shortest of so many past waits is the estimate for the next one.
_PAST_WAITS = 5
# A thread that waits for another's poll checks so often, in seconds, whether it has to stop.
_STOP_CHECK_SECONDS = 0.2


@dataclass(frozen=True)
class _ResourceType:
    """The API call that describes one type of resource.

    A query by `filter` ignores unknown ids; a query by the `parameter` of ids fails for them, with
    EC2's own message.
    """

    operation: str
    filter: str
    parameter: str
    key: str
    rows: Callable[[dict[str, Any]], list[Row]]
    arguments: dict[str, Any] = field(default_factory=dict)

    def describe(self, ec2: EC2Client, ids: Sequence[str]) -> dict[str, Row]:
        """Return those of the resources that EC2 lists, by id."""
        rows = {}
        for start in range(0, len(ids), _MOST_VALUES):
            some = list(ids[start : start + _MOST_VALUES])
            filters = [{"Name": self.filter, "Values": some}]
            answer = getattr(ec2, self.operation)(Filters=filters, **self.arguments)
            rows.update({str(row[self.key]): row for row in self.rows(answer)})
        return rows

    def describe_one(self, ec2: EC2Client, id: str) -> Row:
        """Return one resource.

        Raises botocore's ClientError when EC2 does not know it, and EC2ServiceException for a
        deregistered AMI, which DescribeImages answers with an empty list.
        """
        rows = self.rows(getattr(ec2, self.operation)(**{self.parameter: [id]}))
        if not rows:
            raise missing(id)
        return rows[0]


_INSTANCE = _ResourceType(
    "describe_instances",
    "instance-id",
    "InstanceIds",
    "InstanceId",
    lambda answer: [row for each in answer["Reservations"] for row in each["Instances"]],
)
_IMAGE = _ResourceType(
    "describe_images",
    "image-id",
    "ImageIds",
    "ImageId",
    lambda answer: list(answer["Images"]),
    {"Owners": ["self"]},
)
_SNAPSHOT = _ResourceType(
    "describe_snapshots",
    "snapshot-id",
    "SnapshotIds",
    "SnapshotId",
    lambda answer: list(answer["Snapshots"]),
    {"OwnerIds": ["self"]},
)


class Poll:
    """The resources of one type in one region that any job waits for; safe to use from many
    threads.

    A poll asks EC2 for all of them, and a thread that would poll a moment later uses its answer.
    """

    def __init__(self, resource: _ResourceType) -> None:
        self._resource = resource
        self._lock = threading.Lock()
        self._awaited: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=_PAST_WAITS)
        # Held during a Describe call; it guards the last call's ids, time and response.
        self._describing = threading.Lock()
        self._asked: frozenset[str] = frozenset()
        self._at = 0.0
        self._seen: dict[str, Row] = {}

    def wait(
        self,
        ec2: EC2Client,
        waiter: Waiter,
        ids: Sequence[str],
        judge: Callable[[list[Row]], T | None],
        *,
        what: str,
        limit: float,
    ) -> T:
        """Return what `judge` returns for the resources, in their order, as soon as that is not
        None.

        `what` completes "waiting for …" in the error; `limit` is in seconds. Raises what `judge`
        and `Waiter.until` raise.
        """
        began = polled = time.monotonic()

        def poll() -> T | None:
            nonlocal polled
            # A poll by another thread in the second half of this pause is recent enough.
            seen = self._rows_since(ec2, waiter, ids, (polled + time.monotonic()) / 2)
            polled = time.monotonic()
            return judge(seen)

        with self._awaiting(ids):
            answer = waiter.until(poll, what=what, limit=limit, expected=self._expected())
        with self._lock:
            self._durations.append(time.monotonic() - began)
        return answer

    def _rows_since(
        self, ec2: EC2Client, waiter: Waiter, ids: Sequence[str], not_before: float
    ) -> list[Row]:
        while not self._describing.acquire(timeout=_STOP_CHECK_SECONDS):
            waiter.raise_if_over()
        try:
            if self._at < not_before or not self._asked.issuperset(ids):
                with self._lock:
                    asked = sorted(self._awaited)
                at = time.monotonic()
                self._seen = self._resource.describe(ec2, asked)
                self._asked, self._at = frozenset(asked), at
            seen = [self._seen.get(id) for id in ids]
        finally:
            self._describing.release()
        return [
            row or self._resource.describe_one(ec2, id) for row, id in zip(seen, ids, strict=True)
        ]

    @contextmanager
    def _awaiting(self, ids: Sequence[str]) -> Iterator[None]:
        with self._lock:
            self._awaited.update(ids)
        try:
            yield
        finally:
            with self._lock:
                self._awaited.subtract(ids)
                self._awaited = +self._awaited

    def _expected(self) -> float:
        with self._lock:
            return min(self._durations, default=0.0)


class BatchedPolling:
    """The polls of one region."""

    def __init__(self) -> None:
        self.instances = Poll(_INSTANCE)
        self.images = Poll(_IMAGE)
        self.snapshots = Poll(_SNAPSHOT)
