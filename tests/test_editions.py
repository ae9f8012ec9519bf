"""Releases and orders of images: fedimg.editions."""

from __future__ import annotations

import pytest

from fedimg.editions import Edition, belongs_to_no_release, edition, edition_by_name


@pytest.mark.parametrize(
    ("image", "series", "release"),
    [
        ("Fedora-Cloud-Base-43-1.6.x86_64", "Fedora-Cloud-Base-43.x86_64", "43"),
        (
            "Fedora-Cloud-Base-Rawhide-20261101.n.0.aarch64",
            "Fedora-Cloud-Base-Rawhide.aarch64",
            "Rawhide",
        ),
        (
            "Fedora-Cloud-Base-AmazonEC2.x86_64-43-1.6",
            "Fedora-Cloud-Base-AmazonEC2.x86_64-43",
            "43",
        ),
    ],
)
def test_name_alone_tells_an_edition(image: str, series: str, release: str) -> None:
    found = edition_by_name(image, "task-7", 1.5)
    assert found == Edition(("task", series), (1_500_000,), release)


@pytest.mark.parametrize("image", ["disk", "my-image", "Fedora-43"])
def test_name_without_a_version_and_a_release_tells_none(image: str) -> None:
    assert edition_by_name(image, "url-0123456789", 1.0) is None


@pytest.mark.parametrize(
    ("image", "source", "build", "expected"),
    [
        (
            "Fedora-Cloud-Base-43-1.6.x86_64",
            "build-71",
            "Fedora-Cloud-Base-43-1.6",
            Edition(("build", "Fedora-Cloud-Base-43.x86_64"), (71,), "43"),
        ),
        # kiwi's own names have the architecture in front of the version.
        (
            "Fedora-Cloud-Base-AmazonEC2.x86_64-43-20261101.n.0",
            "build-72",
            "Fedora-Cloud-Base-AmazonEC2-43-20261101.n.0",
            Edition(("build", "Fedora-Cloud-Base-AmazonEC2.x86_64-43"), (72,), "43"),
        ),
        (
            "Fedora-Cloud-Base-AmazonEC2-Rawhide-20261101.n.1.aarch64",
            "compose-Fedora-Rawhide-20261101.n.1",
            "Fedora-Rawhide-20261101.n.1",
            Edition(
                ("compose", "Fedora-Cloud-Base-AmazonEC2-Rawhide.aarch64"), (20261101, 1), "Rawhide"
            ),
        ),
        # A labelled compose names its images by the label.
        (
            "Fedora-Cloud-Base-43-1.6.x86_64",
            "compose-Fedora-43-20261020.0",
            "Fedora-43-20261020.0",
            Edition(("compose", "Fedora-Cloud-Base-43.x86_64"), (20261020, 0), "43"),
        ),
        (
            "Fedora-Cloud-Base-43-20261101.0.x86_64",
            "compose-Fedora-Cloud-43-20261101.0",
            "Fedora-Cloud-43-20261101.0",
            Edition(("compose", "Fedora-Cloud-Base-43.x86_64"), (20261101, 0), "43"),
        ),
        (
            "Fedora-Cloud-Base-43-20261101.0.x86_64",
            "compose-Fedora-43-updates-20261101.0",
            "Fedora-43-updates-20261101.0",
            Edition(("compose", "Fedora-Cloud-Base-43.x86_64"), (20261101, 0), "43"),
        ),
        # What belongs to no release, and what the record does not tell.
        ("Fedora-Cloud-Base-43-1.6.x86_64", "task-71", "Fedora-Cloud-Base-43-1.6", None),
        ("Fedora-Cloud-Base-43-1.6.x86_64", "url-0a1b", "Fedora-Cloud-Base-43-1.6.x86_64", None),
        ("Fedora-Cloud-Base-43-1.6.x86_64", None, None, None),
        ("Fedora-Cloud-Base-43-1.6.x86_64", "build-71", None, None),
        ("Fedora-Cloud-Base-43-1.6.x86_64", "build-71", "Fedora-Cloud-Base-44-1.6", None),
        ("Fedora-Cloud-Base-43-1.6.x86_64", "compose-nightly", "nightly", None),
        ("disk", "build-71", "Fedora-Cloud-Base-43-1.6", None),
    ],
)
def test_release_and_order_come_from_the_record(
    image: str, source: str | None, build: str | None, expected: Edition | None
) -> None:
    assert edition(image, source, build) == expected


def test_composes_of_one_day_are_ordered_by_their_number() -> None:
    image = "Fedora-Cloud-Base-43-20261101.n.{}.x86_64"
    editions = [
        edition(image.format(n), f"compose-Fedora-43-20261101.n.{n}", f"Fedora-43-20261101.n.{n}")
        for n in (2, 10)
    ]
    assert editions[0] is not None
    assert editions[1] is not None
    assert editions[0].series == editions[1].series
    assert editions[0].order < editions[1].order


def test_scratch_builds_and_uploads_belong_to_no_release() -> None:
    sources = ("task-1", "url-0a", "build-1", "compose-Fedora-43-20261101.0", None)
    assert [source for source in sources if belongs_to_no_release(source)] == ["task-1", "url-0a"]
