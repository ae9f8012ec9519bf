"""Build the bodies of the messages that fedimg publishes.

fedimg.jobs.recorder and fedimg.lifecycle decide when each is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fedimg.exceptions import OUTPUT_TAIL
from fedimg.images import AMI, RawImage
from fedimg.progress import CheckResult, CheckState
from fedimg.untrusted.quoting import plain
from fedimg.values.audience import Audience

UPLOAD = "image.upload"
TEST = "image.test"
COPY = "image.copy"
PUBLISH = "image.publish"
WITHDRAW = "image.withdraw"
RESTORE = "image.restore"
DEPRECATE = "image.deprecate"
DELETE = "image.delete"
SHARE = "image.share"
#: The whole topic, after topic_prefix, of the message by which Fedora's website lists AMIs.
AWS_PUBLISHED = "fedora_image_uploader.published.v1.aws"

SERVICE = "EC2"

Status = Literal["started", "completed", "failed"]
Message = dict[str, Any]


def image_upload(image: RawImage, origin: str, status: Status, extra: Message) -> Message:
    """Return the body of image.upload; `extra` comes from `of_ami` or `of_failure`, or is empty."""
    return _with_status(image, origin, status, extra)


def image_test(
    image: RawImage,
    ami: AMI,
    status: Status,
    checks: Sequence[CheckResult] = (),
    output: str | None = None,
) -> Message:
    """Return the body of image.test; `output` is the output of a failed boot check.

    Skipped checks, which do not apply to the image, are left out.
    """
    run = [check for check in checks if check.state is not CheckState.SKIPPED]
    extra = of_ami(ami) | {"checks": [of_check(check) for check in run]}
    if output is not None:
        extra |= of_failure(output)
    return _with_status(image, ami.region, status, extra)


def image_copy(image: RawImage, ami: AMI, source: AMI) -> Message:
    """Return the body of image.copy, for `ami` copied from `source`."""
    return {
        "image_name": image.name,
        "destination": ami.region,
        "service": SERVICE,
        "compose_id": image.build,
        "architecture": str(image.architecture),
        "extra": of_ami(ami) | {"source_image_id": source.id},
    }


def image_publish(image: RawImage, ami: AMI) -> Message:
    """Return the body of image.publish."""
    return {
        "image_url": image.url,
        "image_name": image.name,
        "destination": ami.region,
        "service": SERVICE,
        "compose": image.build,
        "architecture": str(image.architecture),
        "extra": of_ami(ami),
    }


def image_withdraw(image: RawImage, ami: AMI, reason: str, replacement: str | None) -> Message:
    """Return the body of image.withdraw; `replacement` is the name of another image."""
    extra = {"reason": without_secrets(reason), "replacement": replacement}
    return _of_life(image, ami, extra)


def image_restore(image: RawImage, ami: AMI) -> Message:
    """Return the body of image.restore."""
    return _of_life(image, ami, {})


def image_deprecate(image: RawImage, ami: AMI, at: float) -> Message:
    """Return the body of image.deprecate; `at` is in seconds since the epoch."""
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _of_life(image, ami, {"deprecate_at": when})


def image_delete(image: RawImage, ami: AMI) -> Message:
    """Return the body of image.delete."""
    return _of_life(image, ami, {})


def image_share(image: RawImage, ami: AMI, audience: Audience) -> Message:
    """Return the body of image.share, which tells how many are in the audience, and no ids."""
    return _of_life(image, ami, audience.counts)


def aws_published(
    image: RawImage, release: int, subvariant: str, regions: Mapping[str, str]
) -> Message:
    """Return the body of fedora-image-uploader's message; `regions` is the AMI by region.

    `image_name` is the file's name without its suffix: the website looks for this very text. The
    names of fedimg's AMIs begin with it, and go on with what differs from region to region.
    """
    return {
        "architecture": image.architecture.koji,
        "compose_id": image.build,
        "image_name": image.name,
        "regions": dict(sorted(regions.items())),
        "release": release,
        "subvariant": subvariant,
    }


def of_ami(ami: AMI) -> Message:
    """Return the fields of `extra` that describe an AMI; `encrypted` is there if it is true."""
    fields: Message = {
        "id": ami.id,
        "virt_type": str(ami.type.virtualization),
        "vol_type": ami.type.volume_type,
    }
    return fields | ({"encrypted": True} if ami.type.encrypted else {})


def of_check(check: CheckResult) -> Message:
    """Return the element of `extra.checks` for a check that passed or failed."""
    return {"name": check.name, "passed": check.passed, "seconds": check.seconds}


def of_failure(output: str) -> Message:
    """Return the field of `extra` for a failure: the last 32 KiB of the output, without secrets."""
    encoded = without_secrets(output).encode(errors="replace")
    # A character that the cut splits is dropped: a replacement for it could exceed the limit.
    return {"data": encoded[-OUTPUT_TAIL:].decode(errors="ignore")}


def without_secrets(output: str) -> str:
    """Return the output of an instance without secrets and control characters."""
    return plain(output)


def _of_life(image: RawImage, ami: AMI, extra: Message) -> Message:
    return {
        "image_name": image.name,
        "destination": ami.region,
        "service": SERVICE,
        "compose": image.build,
        "architecture": str(image.architecture),
        "extra": of_ami(ami) | extra,
    }


def _with_status(image: RawImage, region: str, status: Status, extra: Message) -> Message:
    return {
        "image_url": image.url,
        "image_name": image.name,
        "destination": f"{SERVICE} ({region})",
        "status": status,
        "service": SERVICE,
        "compose": image.build,
        "extra": extra,
    }
