"""Rehearse the publishing of an image in one region of the account; nothing becomes public."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from fedimg.aws import cleanup, resources, survey
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.plan import Plan
from fedimg.config import EC2
from fedimg.exceptions import EC2ServiceException
from fedimg.images import AMI, Disk, RawImage
from fedimg.progress import REHEARSED, CheckResult
from fedimg.services.ec2 import EC2Service
from fedimg.services.site import Site
from fedimg.values.audience import Audience

#: The source of a rehearsed image: no job has it, so that nobody takes the one for the other.
_SOURCE = "url-rehearsal"
#: How the steps of boot checks begin.
_BOOT_CHECK = "boot-check"
#: The steps in which a job would publish.
_NOT_DONE = ("publish", "share", REHEARSED)


@dataclass(frozen=True)
class BootedAMI:
    """An AMI that booted, and what its checks found."""

    ami: AMI
    checks: Sequence[CheckResult]


@dataclass(frozen=True)
class Rehearsal:
    """The result of a rehearsal. `steps` are the seconds that each step took, as they ended.

    The boot checks, one for each virtualization type, run beside each other.
    """

    plan: Plan
    job: str
    amis: Sequence[AMI]
    booted: Sequence[BootedAMI]
    steps: Sequence[tuple[str, float]]
    seconds: float
    disk: Disk | None
    removed: int


def rehearse(
    site: Site,
    image: RawImage,
    region: str,
    *,
    tell: Callable[[str], object] = lambda line: None,
    stop: threading.Event | None = None,
) -> Rehearsal:
    """Write, register, boot and check an image in one region, and remove all of it.

    Nothing is made public, recorded or announced. `tell` gets a line for each step and each check.
    Whatever happens, the resources are removed; what cannot be removed is in the error.
    Raises EC2ServiceException, EC2UtilityException or EC2TestException as an upload does, and
    Cancelled when `stop` is set.
    """
    began = time.monotonic()
    rehearsed = replace(image, source=f"{_SOURCE}-{secrets.token_hex(5)}")
    private = replace(site, settings=_in_region(site.settings, region), publish=False)
    observer = _Observer(tell)
    service = EC2Service(private, stop=stop)
    planned = service.plan(rehearsed)
    try:
        result = service.upload(rehearsed, observer)
    finally:
        observer.step("clean-up")
        removed = _remove(private, rehearsed, region)
        observer.step("")
    return Rehearsal(
        planned,
        rehearsed.job,
        [
            ami
            for by_region in (result.published, result.encrypted)
            for amis in by_region.values()
            for ami in amis
        ],
        observer.booted,
        observer.steps,
        time.monotonic() - began,
        observer.disk(),
        removed,
    )


def _in_region(settings: EC2, region: str) -> EC2:
    """Return settings by which one region is the origin, and the only one."""
    network = settings.network
    if region != settings.origin:
        subnet = settings.test.subnets.get(region, "")
        network = network.model_copy(update={"vpc": "", "subnet": subnet})
    return settings.model_copy(
        update={
            "origin": region,
            "regions": [region],
            "exclude_regions": [],
            "network": network,
            "test": settings.test.model_copy(update={"regions": []}),
        }
    )


def _remove(site: Site, image: RawImage, region: str) -> int:
    """Remove what carries the rehearsal's tag; return how many resources that were."""
    limits = site.settings.limits
    gone: list[resources.Leftover] = []
    # Not the rehearsal's own: a clean-up goes on when a person has stopped the rest.
    waiter = Waiter(limits, threading.Event())
    try:
        cleanup.remove(
            site.clients,
            waiter,
            survey.leftovers(
                site.clients,
                site.name,
                [region],
                job=image.job,
                bucket=site.settings.instance_store.bucket_in,
            ),
            limit=limits.instance_gone,
            removed=gone.append,
        )
    except EC2ServiceException as error:
        raise EC2ServiceException(
            f"the rehearsal {image.job} could not remove all of its resources in {region}; "
            f"'fedimg cleanup' lists and removes them: {error}"
        ) from error
    return len(gone)


@dataclass
class _Observer:
    """Takes the time of each step, and keeps what is known of the image."""

    tell: Callable[[str], object]
    steps: list[tuple[str, float]] = field(default_factory=list)
    booted: list[BootedAMI] = field(default_factory=list)
    _disk: Disk | None = None
    _boots: dict[str, float] = field(default_factory=dict)
    _step: str = ""
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self, name: str) -> None:
        """Note that a step begins, and so that the one before has ended; "" ends the last."""
        with self._lock:
            if name == self._step:
                return
            now = time.monotonic()
            if self._step:
                self.steps.append((self._step, now - self._since))
            self._step, self._since = name, now
        if name:
            self.tell(name)

    def started(self) -> None:
        """Do nothing: the first step tells it."""

    def lacks_tool(self, ami: str, tool: str) -> None:
        """Do nothing: the error that follows tells it."""

    def lacking_tools(self, ami: str) -> Collection[str]:
        """Return none: a rehearsal asks the utility instance itself."""
        return ()

    def written(self, disk: Disk) -> None:
        """Keep the uncompressed bytes."""
        self._disk = disk

    def disk(self) -> Disk | None:
        """Return the uncompressed bytes, if they are known."""
        return self._disk

    def registered(self, ami: AMI) -> None:
        """Tell of an AMI."""
        self.tell(f"registered {ami.id} ({ami.type})")

    def copied(self, ami: AMI, source: AMI) -> None:
        """Do nothing: a rehearsal has one region."""

    def dropped(self, ami: AMI, reason: str) -> None:
        """Tell that an AMI would not become public."""
        self.tell(f"{ami.id} ({ami.type}) would be left out: {reason}")

    def test_started(self, ami: AMI) -> None:
        """Tell that an AMI boots."""
        self._boots[ami.id] = time.monotonic()
        self.tell(f"booting {ami.id} ({ami.type})")

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        """Tell what the checks found."""
        seconds = time.monotonic() - self._boots[ami.id]
        with self._lock:
            self.steps.append((f"boot check of {ami.type}", seconds))
        self.booted.append(BootedAMI(ami, checks))
        for check in checks:
            self.tell(f"check {check.name}: {check.state} after {check.seconds:.1f} s")

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        """Tell what the checks found; the error that follows has the output."""
        self.test_completed(ami, checks)

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Refuse: a rehearsal publishes nothing."""
        raise AssertionError("a rehearsal makes nothing public")

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        """Do nothing: nothing was published."""

    def published(self, ami: AMI) -> bool:
        """Refuse: a rehearsal publishes nothing."""
        raise AssertionError("a rehearsal makes nothing public")

    def sharing(self, region: str, ids: Collection[str]) -> Collection[str]:
        """Refuse: a rehearsal shares nothing."""
        raise AssertionError("a rehearsal shares nothing")

    def shared(self, ami: AMI, audience: Audience) -> bool:
        """Refuse: a rehearsal shares nothing."""
        raise AssertionError("a rehearsal shares nothing")

    def progress(
        self,
        region: str,
        step: str,
        detail: str = "",
        error: str | None = None,
        needs: int = 0,
    ) -> None:
        """Note the step, and tell what it waits for.

        The boot checks, which go on beside the others, are timed one by one.
        """
        if not step.startswith(_BOOT_CHECK):
            self.step("" if step in _NOT_DONE else step)
        if error or detail:
            self.tell(f"{step}: {error or detail}")
