"""Make the catalogue's documents from the rows of the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fedimg.catalogue import documents
from fedimg.catalogue.documents import (
    AMIFacts,
    AMIState,
    BootCheck,
    CheckRecord,
    ImageState,
    ImageSummary,
    PublishedImage,
)
from fedimg.editions import Edition, edition
from fedimg.store import rows
from fedimg.store.publications import PublishedJob
from fedimg.store.rows import AMIRow, BootTestRow

#: The state of an AMI for another account, by its state in the record.
_STATES = {
    rows.PUBLIC: documents.PUBLIC,
    rows.WITHDRAWING: documents.WITHDRAWN,
    rows.WITHDRAWN: documents.WITHDRAWN,
    rows.RESTORING: documents.WITHDRAWN,
    rows.DISABLING: documents.DISABLED,
    rows.DISABLED: documents.DISABLED,
    rows.DELETING: documents.DELETED,
    rows.DELETED: documents.DELETED,
}


def edition_of(job: PublishedJob) -> Edition | None:
    """Return the edition of a job's image; scratch builds and uploads have none."""
    return edition(job.image.name, job.image.source, job.image.build)


def state_of(row: AMIRow) -> str:
    """Return what another account can do with an AMI."""
    return _STATES.get(row.state, documents.PRIVATE)


def published_image(
    job: PublishedJob, checks: Iterable[BootTestRow], amis: Iterable[AMIRow]
) -> PublishedImage:
    """Return an image and these AMIs as they were published."""
    return PublishedImage(**_image(job, checks), amis=[AMIFacts(**_published(row)) for row in amis])


def image_state(
    job: PublishedJob, checks: Iterable[BootTestRow], amis: Sequence[AMIRow]
) -> ImageState:
    """Return an image and these AMIs with their states."""
    return ImageState(
        **_image(job, checks),
        files=_files(amis),
        amis=[
            AMIState(
                **_published(row),
                state=state_of(row),
                changed=documents.time(row.changed_at),
                reason=row.reason if state_of(row) == documents.WITHDRAWN else None,
                replacement=row.replacement if state_of(row) == documents.WITHDRAWN else None,
                deprecated=documents.time(row.deprecate_at),
                verified=documents.time(row.verified_at),
                difference=row.difference or None,
            )
            for row in amis
        ],
    )


def summary(job: PublishedJob, amis: Sequence[AMIRow]) -> ImageSummary:
    """Return an image's line in the list of all."""
    withdrawn = next((row for row in amis if state_of(row) == documents.WITHDRAWN), None)
    deprecated = [row.deprecate_at for row in amis if row.deprecate_at is not None]
    verified = [row.verified_at for row in amis]
    known = [at for at in verified if at is not None]
    return ImageSummary(
        image=job.image.name,
        architecture=str(job.image.architecture),
        kind=kind(job),
        build=job.image.build,
        published=documents.time(job.published),
        deprecated=documents.time(min(deprecated)) if deprecated else None,
        verified=documents.time(min(known)) if known and len(known) == len(verified) else None,
        states=dict(sorted(Counter(map(state_of, amis)).items())),
        reason=withdrawn.reason if withdrawn else None,
        replacement=withdrawn.replacement if withdrawn else None,
        files=_files(amis),
    )


def kind(job: PublishedJob) -> str:
    """Return the kind of an image's source: build, compose, task or url."""
    return job.image.source.partition("-")[0]


def _files(amis: Iterable[AMIRow]) -> list[str]:
    return sorted({row.publication for row in amis if row.publication})


def _image(job: PublishedJob, checks: Iterable[BootTestRow]) -> dict[str, Any]:
    image, found = job.image, edition_of(job)
    return {
        "image": image.name,
        "release": found.release if found else None,
        "architecture": str(image.architecture),
        "kind": kind(job),
        "build": image.build,
        "url": image.url,
        "checksum": image.checksum,
        "size": image.size,
        "disk_sha256": job.disk_sha256,
        "disk_length": job.disk_length,
        "boot_checks": [
            BootCheck(
                region=test.region,
                ami=test.ami,
                virtualization=test.virt_type,
                volume_type=test.volume_type,
                at=documents.time(test.updated) or "",
                checks=[
                    CheckRecord(check.name, str(check.state), round(check.seconds, 1))
                    for check in test.checks
                ],
            )
            for test in checks
        ],
    }


def _published(row: AMIRow) -> dict[str, Any]:
    attributes = row.attributes or {}
    return {
        "region": row.region,
        "ami": row.ami,
        "name": row.name,
        "snapshot": row.snapshot,
        "virtualization": row.virt_type,
        "volume_type": row.volume_type,
        **{
            name: attributes.get(name)
            for name in ("partition", "owner", "boot_mode", "tpm", "imds", "ena")
        },
        "published": documents.time(row.published_at),
    }
