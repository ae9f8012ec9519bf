"""What EC2 shows of all that is waited for: one Describe a region, a kind and a moment."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedimg.aws.client.errors import missing
from fedimg.aws.client.types import Client
from fedimg.aws.client.waiter import Waiter

T = TypeVar("T")
#: A resource as EC2 describes it.
Shown = dict[str, Any]

#: EC2's limit on the values of one filter.
_MOST_VALUES = 200
#: Of so many waits that ended, the shortest tells how long the next may take.
_REMEMBERED = 5
# How long one who waits for another's answer may take to notice that he is to stop.
_GLANCE_SECONDS = 0.2


@dataclass(frozen=True)
class _Kind:
    """How EC2 is asked for things of one kind: by a filter, which says nothing of what it does not
    know, and by their ids, of which an unknown one is an error in EC2's own words.
    """

    operation: str
    filter: str
    parameter: str
    key: str
    rows: Callable[[dict[str, Any]], list[Shown]]
    given: dict[str, Any] = field(default_factory=dict)

    def ask(self, ec2: Client, things: Sequence[str]) -> dict[str, Shown]:
        """Those of the things that EC2 shows, by id."""
        found = {}
        for start in range(0, len(things), _MOST_VALUES):
            some = list(things[start : start + _MOST_VALUES])
            filters = [{"Name": self.filter, "Values": some}]
            answer = getattr(ec2, self.operation)(Filters=filters, **self.given)
            found.update({str(row[self.key]): row for row in self.rows(answer)})
        return found

    def insist(self, ec2: Client, thing: str) -> Shown:
        """One thing. Raises botocore's ClientError when EC2 does not know it, and
        EC2ServiceException for a deregistered AMI, of which it shows nothing (DescribeImages).
        """
        rows = self.rows(getattr(ec2, self.operation)(**{self.parameter: [thing]}))
        if not rows:
            raise missing(thing)
        return rows[0]


_INSTANCE = _Kind(
    "describe_instances",
    "instance-id",
    "InstanceIds",
    "InstanceId",
    lambda answer: [row for each in answer["Reservations"] for row in each["Instances"]],
)
_IMAGE = _Kind(
    "describe_images",
    "image-id",
    "ImageIds",
    "ImageId",
    lambda answer: list(answer["Images"]),
    {"Owners": ["self"]},
)
_SNAPSHOT = _Kind(
    "describe_snapshots",
    "snapshot-id",
    "SnapshotIds",
    "SnapshotId",
    lambda answer: list(answer["Snapshots"]),
    {"OwnerIds": ["self"]},
)


class Poll:
    """The things of one kind in one region that anybody waits for; for many threads at once.

    Whoever looks asks EC2 for all of them, and who would look a moment later takes that answer.
    """

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._awaited: Counter[str] = Counter()
        self._took: deque[float] = deque(maxlen=_REMEMBERED)
        # Held while EC2 is asked; under it, what was asked for, when, and the answer.
        self._turn = threading.Lock()
        self._asked: frozenset[str] = frozenset()
        self._at = 0.0
        self._seen: dict[str, Shown] = {}

    def wait(
        self,
        ec2: Client,
        waiter: Waiter,
        things: Sequence[str],
        judge: Callable[[list[Shown]], T | None],
        *,
        what: str,
        limit: float,
    ) -> T:
        """What `judge` says of the things, in their order, as soon as that is not None.

        Raises what it raises, and what `Waiter.until` does.
        """
        began = looked = time.monotonic()

        def look() -> T | None:
            nonlocal looked
            # What others saw in the second half of this pause is as good as a look of one's own.
            seen = self._look(ec2, waiter, things, (looked + time.monotonic()) / 2)
            looked = time.monotonic()
            return judge(seen)

        with self._waited_for(things):
            answer = waiter.until(look, what=what, limit=limit, expected=self._expected())
        with self._lock:
            self._took.append(time.monotonic() - began)
        return answer

    def _look(
        self, ec2: Client, waiter: Waiter, things: Sequence[str], not_before: float
    ) -> list[Shown]:
        while not self._turn.acquire(timeout=_GLANCE_SECONDS):
            waiter.check()
        try:
            if self._at < not_before or not self._asked.issuperset(things):
                with self._lock:
                    asked = sorted(self._awaited)
                at = time.monotonic()
                self._seen = self._kind.ask(ec2, asked)
                self._asked, self._at = frozenset(asked), at
            seen = [self._seen.get(thing) for thing in things]
        finally:
            self._turn.release()
        return [
            shown or self._kind.insist(ec2, thing)
            for shown, thing in zip(seen, things, strict=True)
        ]

    @contextmanager
    def _waited_for(self, things: Sequence[str]) -> Iterator[None]:
        with self._lock:
            self._awaited.update(things)
        try:
            yield
        finally:
            with self._lock:
                self._awaited.subtract(things)
                self._awaited = +self._awaited

    def _expected(self) -> float:
        with self._lock:
            return min(self._took, default=0.0)


class BatchedPolling:
    """All that is waited for in one region."""

    def __init__(self) -> None:
        self.instances = Poll(_INSTANCE)
        self.images = Poll(_IMAGE)
        self.snapshots = Poll(_SNAPSHOT)
