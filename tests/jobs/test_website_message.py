"""The website's message, in the outbox once for what is public of an image."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from fedora_image_uploader_messages import AwsPublishedV1

from fedimg.bus import amqp_publisher
from fedimg.bus.messages import AWS_PUBLISHED
from fedimg.config import Settings
from fedimg.images import AMI, AMIType, Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.jobs.website_message import WebsiteMessage
from fedimg.store.store import Store

NAME = "Fedora-Cloud-Base-AmazonEC2-43-20261127.0.aarch64"
BUILD = RawImage(
    f"https://koji.test/{NAME}.raw.xz",
    Architecture.ARM64,
    "Fedora-Cloud-Base-AmazonEC2-43-20261127.0",
    "build-5",
)
COMPOSE = replace(
    BUILD, build="Fedora-43-20261127.0", source="compose-Fedora-43-20261127.0", release=43
)
TYPES = ["paravirtual-standard", "hvm-gp3", "hvm-gp2"]


def settings(**announcing: Any) -> Settings:
    return Settings.model_validate(
        {
            "bus": "fedora-messaging",
            "announcing": {"also": ["fedora-image-uploader"], **announcing},
            "ec2": {"amis": {"types": TYPES}},
        }
    )


def publish(store: Store, image: RawImage, *amis: tuple[str, str, str]) -> str:
    """Record a job and its public AMIs, each an id, a region and a type."""
    queue = JobQueue(store)
    queue.submit(image)
    queue.close()
    for ami, region, kind in amis:
        made = AMI(ami, f"{image.name}-{ami}", region, AMIType.parse(kind), f"snap-{region}")
        store.record_ami(image, made)
        store.publish_ami(made)
    return image.job


def announced(store: Store) -> list[Any]:
    return [row.body for row in store.unannounced() if row.topic == AWS_PUBLISHED]


def test_ami_of_the_first_hvm_type_is_announced_once_in_all_regions(store: Store) -> None:
    job = publish(
        store,
        BUILD,
        ("ami-1", "us-east-1", "hvm-gp2"),
        ("ami-2", "us-east-1", "hvm-gp3"),
        ("ami-3", "us-east-1", "paravirtual-standard"),
        ("ami-4", "eu-west-1", "hvm-gp3"),
    )
    for _ in range(2):
        WebsiteMessage(store, settings()).announce(job)
    (body,) = announced(store)
    assert body == {
        "architecture": "aarch64",
        "compose_id": "Fedora-Cloud-Base-AmazonEC2-43-20261127.0",
        "image_name": NAME,
        "regions": {"eu-west-1": "ami-4", "us-east-1": "ami-2"},
        "release": 43,
        "subvariant": "Cloud_Base",
    }
    message = amqp_publisher.message(AWS_PUBLISHED, body, "key")
    assert type(message) is AwsPublishedV1
    assert message.topic == "fedora_image_uploader.published.v1.aws"
    message.validate()


def test_region_that_follows_later_is_announced_with_the_others(store: Store) -> None:
    job = publish(store, BUILD, ("ami-1", "us-east-1", "hvm-gp3"))
    WebsiteMessage(store, settings()).announce(job)
    publish(store, BUILD, ("ami-2", "eu-west-1", "hvm-gp3"))
    for _ in range(2):
        WebsiteMessage(store, settings()).announce(job)
    assert [body["regions"] for body in announced(store)] == [
        {"us-east-1": "ami-1"},
        {"eu-west-1": "ami-2", "us-east-1": "ami-1"},
    ]


def test_release_and_subvariant_are_kept_beside_what_the_version_before_reads(
    store: Store,
) -> None:
    image = replace(COMPOSE, release=42, subvariant="Cloud_Base_UKI")
    row = store.job(publish(store, image))
    assert row is not None
    assert (row.image.release, row.image.subvariant) == (42, "Cloud_Base_UKI")


def test_release_and_subvariant_of_a_compose_are_its_metadatas(store: Store) -> None:
    # The name would tell Cloud_Base.
    image = replace(COMPOSE, release=42, subvariant="Cloud_Base_UKI")
    WebsiteMessage(store, settings()).announce(
        publish(store, image, ("ami-1", "us-east-1", "hvm-gp3"))
    )
    (body,) = announced(store)
    assert (body["release"], body["subvariant"]) == (42, "Cloud_Base_UKI")
    assert body["compose_id"] == "Fedora-43-20261127.0"


@pytest.mark.parametrize(
    ("name", "release", "subvariant"),
    [
        ("Fedora-Cloud-Base-43-20261127.0.x86_64", 43, "Cloud_Base"),
        ("Fedora-Cloud-Base-AmazonEC2.x86_64-41-1.4", 41, "Cloud_Base"),
        ("Fedora-Cloud-Base-UKI-43-20261127.0.x86_64", 43, "Cloud_Base_UKI"),
    ],
)
def test_names_of_fedoras_builds_tell_release_and_subvariant(
    store: Store, name: str, release: int, subvariant: str
) -> None:
    image = replace(BUILD, url=f"https://koji.test/{name}.raw.xz")
    WebsiteMessage(store, settings()).announce(
        publish(store, image, ("ami-1", "us-east-1", "hvm-gp3"))
    )
    (body,) = announced(store)
    assert (body["release"], body["subvariant"]) == (release, subvariant)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (
            replace(BUILD, url="https://koji.test/Fedora-Cloud-Base-Rawhide-1.x86_64.raw.xz"),
            "announcing.name_pattern finds no release",
        ),
        (replace(COMPOSE, release=None, subvariant="Cloud_Base"), "no number of a release"),
        (COMPOSE, "no valid subvariant"),
        (replace(BUILD, source="task-7"), 'catalogue.latest does not have "task"'),
    ],
)
def test_image_of_no_known_release_or_subvariant_is_logged_and_not_announced(
    store: Store, image: RawImage, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = publish(store, image, ("ami-1", "us-east-1", "hvm-gp3"))
    with caplog.at_level(logging.WARNING):
        WebsiteMessage(store, settings()).announce(job)
    assert announced(store) == []
    assert f"job {job}: no message to the website" in caplog.text
    assert why in caplog.text


def test_nothing_public_of_hvm_or_no_wish_for_it_is_no_message(store: Store) -> None:
    job = publish(store, BUILD, ("ami-1", "us-east-1", "paravirtual-standard"))
    WebsiteMessage(store, settings()).announce(job)
    publish(store, BUILD, ("ami-2", "us-east-1", "hvm-gp3"))
    WebsiteMessage(store, settings(also=[])).announce(job)
    assert announced(store) == []
