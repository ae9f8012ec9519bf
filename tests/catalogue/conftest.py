"""A site's record, as jobs write it; what EC2 says of each AMI is made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from fedimg.images import AMI, AMIType, Architecture, Attributes, Disk, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.recorder import Recorder
from fedimg.progress import CheckResult, CheckState
from fedimg.store.store import Store

ORIGIN, FURTHER = "us-east-1", "eu-west-1"
TYPES = (
    AMIType(Virtualization.HVM, "gp3"),
    AMIType(Virtualization.PARAVIRTUAL, "standard"),
)
OWNER = "125523088429"
DISK = Disk("d" * 64, 5 << 30)


@dataclass
class Site:
    """A site that publishes images, by the record alone."""

    store: Store
    queue: JobQueue

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)

    def build(self, number: int, *, release: str = "43", arch: str = "x86_64") -> RawImage:
        """Return the image of a Koji build; later builds have higher numbers."""
        return self._image(f"Fedora-Cloud-Base-{release}-1.{number}", f"build-{number}", arch)

    def compose(self, date: str, *, release: str = "43", arch: str = "x86_64") -> RawImage:
        """Return the image of a compose, such as that of 20261101.0."""
        return self._image(
            f"Fedora-Cloud-Base-{release}-{date}",
            f"compose-Fedora-Cloud-{release}-{date}",
            arch,
            build=f"Fedora-Cloud-{release}-{date}",
        )

    def scratch(self, number: int) -> RawImage:
        """Return the image of a scratch build, which is named as a real one's."""
        return self._image(f"Fedora-Cloud-Base-43-1.{number}", f"task-{number}", "x86_64")

    def _image(self, name: str, source: str, arch: str, build: str = "") -> RawImage:
        return RawImage(
            f"https://koji.example.org/{name}.{arch}.raw.xz",
            Architecture(arch),
            build or name,
            source,
            1000 + next(self._numbers),
            f"sha256:{next(self._numbers):064x}",
        )

    def publish(
        self,
        image: RawImage,
        regions: Sequence[str] = (ORIGIN, FURTHER),
        types: Sequence[AMIType] = TYPES,
        *,
        ends: bool = True,
    ) -> list[AMI]:
        """Record what a job does that makes an image public; return its AMIs."""
        assert self.queue.submit(image)
        self.store.begin(image.job, 1)
        recorder = Recorder(self.store, image, 1, ORIGIN)
        recorder.written(DISK)
        originals = [self._ami(image, ORIGIN, each) for each in types]
        for ami in originals:
            recorder.registered(ami)
        check = CheckResult("boots", CheckState.PASSED, 12.34, "secret words")
        recorder.test_completed(originals[0], [check])
        made = []
        for region in regions:
            for original in originals:
                ami = original if region == ORIGIN else self._ami(image, region, original.type)
                if region != ORIGIN:
                    recorder.copied(ami, original)
                recorder.published(ami)
                made.append(ami)
        if ends:
            self.end(image)
        return made

    def follow(self, image: RawImage, region: str) -> AMI:
        """Record that a region that was away follows; return its AMI."""
        recorder = Recorder(self.store, image, 2, ORIGIN)
        original = self._ami(image, ORIGIN, TYPES[0])
        ami = self._ami(image, region, TYPES[0])
        recorder.copied(ami, original)
        recorder.published(ami)
        return ami

    def end(self, image: RawImage) -> None:
        """Record that the first run of an image's job ends well."""
        self.store.finish(image.job, 1, queue=lambda *_: None)
        self.store.end(image.job, 1, "complete", None)

    def _ami(self, image: RawImage, region: str, type: AMIType) -> AMI:
        number = next(self._numbers)
        hvm = type.virtualization is Virtualization.HVM
        attributes = Attributes(
            "aws", OWNER, "uefi-preferred" if hvm else None, None, "v2.0" if hvm else None, hvm
        )
        name = f"{image.name}-{type.virtualization}-{region}-{type.volume_type}-0"
        return AMI(f"ami-{number:017x}", name, region, type, f"snap-{number:017x}", attributes)


@pytest.fixture
def site(store: Store, jobs: JobQueue) -> Site:
    return Site(store, jobs)


@pytest.fixture
def withdraw(store: Store) -> Callable[..., None]:
    """Return a function that records that some AMIs are withdrawn, as a worker does."""
    from fedimg.store.withdrawals import Withdrawals

    def withdraw(job: str, **options: Any) -> None:
        affected = [row for row in store.amis() if row.job == job]
        Withdrawals(store).withdraw(
            {job: affected},
            {job: sorted({row.region for row in affected})},
            by="ann@host",
            **options,
        )

    return withdraw
