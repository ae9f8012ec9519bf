"""Know whether AMIs can become public in a region, before anything is copied there.

Asked are the quota of public AMIs and how many of them are used, block public access for AMIs and
for snapshots, and encryption by default. The quota of AMI sharing counts accounts and organizations
and not "all", so that it does not limit what becomes public.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedimg.aws import ami_quota, tags
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.errors import FAILURES
from fedimg.aws.client.types import EC2Client
from fedimg.exceptions import EC2ServiceException

#: How to end what keeps AMIs of a region private.
UNBLOCK_AMIS = "aws ec2 disable-image-block-public-access"
UNBLOCK_SNAPSHOTS = "aws ec2 disable-snapshot-block-public-access"
UNENCRYPT = "aws ec2 disable-ebs-encryption-by-default"
UNBLOCKED = "unblocked"
#: How long answers stay valid, in seconds; the second is for those that keep AMIs private, as a
#: person may change that, and for those that lack one, as a single call may have failed.
_VALID_SECONDS, _OBSTACLE_SECONDS = 600.0, 60.0


@dataclass(frozen=True)
class Answers:
    """The answers of EC2 and Service Quotas for a region; None is unknown.

    `public` are the account's public AMIs, each with its job's tag.
    """

    quota: float | None
    public: dict[str, str]
    image_block: str | None
    snapshot_block: str | None
    encrypted: bool | None

    @property
    def known(self) -> bool:
        """Return whether every question was answered."""
        return None not in (self.quota, self.image_block, self.snapshot_block, self.encrypted)

    def obstacle(self, region: str) -> str:
        """Return what keeps every AMI private, and how a person changes that; empty if nothing."""
        for what, state, remedy in (
            ("block public access for AMIs", self.image_block, UNBLOCK_AMIS),
            ("block public access for snapshots", self.snapshot_block, UNBLOCK_SNAPSHOTS),
        ):
            if state not in (None, UNBLOCKED):
                return (
                    f"{what} is on in {region} ({state}), so no AMI can become public there: run "
                    f"'{remedy} --region {region}', then 'fedimg retry'"
                )
        if self.encrypted:
            return (
                f"encryption by default is on in {region}, and encrypted AMIs cannot be public: "
                f"run '{UNENCRYPT} --region {region}', then 'fedimg retry'"
            )
        return ""


def ask(ec2: EC2Client, clients: Clients, region: str) -> Answers:
    """Return the answers of a region, from four calls to EC2 and one to Service Quotas.

    What cannot be asked is unknown, such as when the worker's policy does not allow it. Raises
    EC2ServiceException where the region is known to be unavailable.
    """

    def answer(call: Callable[[], str]) -> str | None:
        try:
            return call()
        except FAILURES:
            return None

    image_block = answer(
        lambda: str(ec2.get_image_block_public_access_state()["ImageBlockPublicAccessState"])
    )
    snapshot_block = answer(lambda: str(ec2.get_snapshot_block_public_access_state()["State"]))
    encrypted = answer(
        lambda: "on" if ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] else ""
    )
    try:
        quota, public = ami_quota.public_amis(clients, region), _public(ec2)
    except FAILURES:
        quota, public = None, {}
    return Answers(
        quota,
        public,
        image_block,
        snapshot_block,
        None if encrypted is None else bool(encrypted),
    )


def room_left(clients: Clients, region: str) -> float | None:
    """Return how many more AMIs may be public in a region, or None if that is not known."""
    try:
        quota = ami_quota.public_amis(clients, region)
        return None if quota is None else quota - len(_public(clients.ec2_brief(region)))
    except FAILURES:
        return None


def _public(ec2: EC2Client) -> dict[str, str]:
    """Return the account's public AMIs of a region, each with its job's tag, or none."""
    images = ec2.describe_images(
        Owners=["self"], Filters=[{"Name": "is-public", "Values": ["true"]}]
    )["Images"]
    return {
        str(image["ImageId"]): tags.read(image.get("Tags")).get(tags.JOB, "") for image in images
    }


@dataclass
class _Region:
    """The answers of a region; `reserved` is how many public AMIs each job may have there."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: Answers | None = None
    at: float = 0.0
    reserved: dict[str, int] = field(default_factory=dict)

    @property
    def age(self) -> float:
        """Return the age of the answers in seconds."""
        return time.monotonic() - self.at

    def renew(self, ask: Callable[[], Answers]) -> None:
        """Ask the region."""
        self.answers, self.at = ask(), time.monotonic()

    def left(self, job: str) -> float | None:
        """Return how many public AMIs a job may have beside all others; None if unknown."""
        assert self.answers is not None
        if self.answers.quota is None:
            return None
        public = list(self.answers.public.values())
        others = sum(
            max(0, count - public.count(other))
            for other, count in self.reserved.items()
            if other != job
        )
        return self.answers.quota - len(public) - others


class PublicAccess:
    """The answers of all regions, for all jobs and threads of a process.

    They are asked for once in ten minutes, and count down by what the process publishes; while they
    keep AMIs private, or one of them is unknown, once a minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._regions: dict[str, _Region] = {}

    def reserve(self, region: str, job: str, amis: int, ask: Callable[[], Answers]) -> None:
        """Reserve the room for so many public AMIs of a job in a region.

        Those that are public already need none. Raises EC2ServiceException when they cannot become
        public, or what `ask` raises.
        """
        state = self._of(region)
        with state.lock:
            if problem := self._problem(state, region, job, amis, ask):
                state.reserved.pop(job, None)
                raise problem
            state.reserved[job] = amis

    def published(self, region: str, job: str, ids: Collection[str]) -> None:
        """Note that AMIs of a job are public now."""
        state = self._of(region)
        with state.lock:
            if state.answers is not None:
                state.answers.public.update(dict.fromkeys(ids, job))

    def refused(
        self, region: str, job: str, amis: int, ask: Callable[[], Answers]
    ) -> EC2ServiceException | None:
        """Return the quota's problem after EC2 refused to make AMIs of a job public.

        The region is asked anew. Return None when the answers show room, or do not tell.
        """
        state = self._of(region)
        with state.lock:
            state.answers = None
            problem = self._problem(state, region, job, amis, ask)
            return problem if problem is not None and problem.no_room else None

    def encrypts(self, region: str) -> bool:
        """Return whether a region is known to encrypt by default."""
        answers = self._of(region).answers
        return bool(answers and answers.encrypted)

    def release(self, job: str) -> None:
        """Give back what a job has reserved in all regions."""
        with self._lock:
            states = list(self._regions.values())
        for state in states:
            with state.lock:
                state.reserved.pop(job, None)

    def _of(self, region: str) -> _Region:
        with self._lock:
            return self._regions.setdefault(region, _Region())

    def _problem(
        self, state: _Region, region: str, job: str, amis: int, ask: Callable[[], Answers]
    ) -> EC2ServiceException | None:
        known = state.answers is not None and state.answers.known
        if state.answers is None or state.age >= (_VALID_SECONDS if known else _OBSTACLE_SECONDS):
            state.renew(ask)
        problem = _judge(state, region, job, amis)
        if problem is not None and state.age >= _OBSTACLE_SECONDS:
            state.renew(ask)
            problem = _judge(state, region, job, amis)
        return problem


def _judge(state: _Region, region: str, job: str, amis: int) -> EC2ServiceException | None:
    assert state.answers is not None
    needed = amis - list(state.answers.public.values()).count(job)
    if needed <= 0:
        return None
    if obstacle := state.answers.obstacle(region):
        return EC2ServiceException(obstacle)
    left = state.left(job)
    if left is None or left >= needed:
        return None
    return EC2ServiceException(
        f"{region} has no room for {needed} more public AMIs: of {state.answers.quota:g}, "
        f"{len(state.answers.public)} are used, and jobs that run leave {max(left, 0):g}; the job "
        "continues there by itself when there is room; make AMIs private, or request a higher "
        f"quota ({ami_quota.PUBLIC_AMIS}) in Service Quotas",
        later=True,
        no_room=needed,
    )
