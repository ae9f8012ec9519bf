"""The ledger's comparison with what is recorded as public."""

from __future__ import annotations

from typing import Any

import pytest

from lab.leaks import Thing, forgotten

REGION = "eu-west-1"


def thing(id: str, *, public: bool = True, shared: bool = False, region: str = REGION) -> Thing:
    kind = "image" if id.startswith("ami") else "snapshot"
    return Thing(kind, id, region, "available", public, {}, shared)


def row(state: str, ami: str = "ami-1", snapshot: str = "snap-1") -> dict[str, Any]:
    return {"region": REGION, "ami": ami, "snapshot": snapshot, "state": state}


PUBLISHED = [thing("ami-1"), thing("snap-1")]
WITHDRAWN = [thing("ami-1", public=False), thing("snap-1", public=False)]


@pytest.mark.parametrize(
    ("things", "record"),
    [
        (PUBLISHED, [row("public")]),
        (WITHDRAWN, [row("withdrawn")]),
        # An AMI of the same snapshot is public.
        (PUBLISHED, [row("public"), row("withdrawn", ami="ami-2")]),
        ([thing("ami-1", public=False, shared=True), thing("snap-1")], [row("public")]),
        ([Thing("instance", "i-1", REGION, "running", True, {})], []),
    ],
)
def test_what_is_as_recorded_is_not_forgotten(
    things: list[Thing], record: list[dict[str, Any]]
) -> None:
    assert forgotten(things, record) == []


@pytest.mark.parametrize(
    ("things", "record", "expected"),
    [
        (
            PUBLISHED,
            [],
            [
                f"image ami-1 in {REGION} is public and unrecorded",
                f"snapshot snap-1 in {REGION} is public and unrecorded",
            ],
        ),
        (
            PUBLISHED,
            [row("withdrawn")],
            [
                f"image ami-1 in {REGION} is public, and recorded as withdrawn",
                f"snapshot snap-1 in {REGION} is public, and recorded as withdrawn",
            ],
        ),
        (
            [thing("ami-1", public=False), thing("snap-1", public=False, shared=True)],
            [row("withdrawn")],
            [f"snapshot snap-1 in {REGION} is public, and recorded as withdrawn"],
        ),
        (
            WITHDRAWN,
            [row("public")],
            [
                f"image ami-1 in {REGION} is recorded as public, and nobody else may use it",
                f"snapshot snap-1 in {REGION} is recorded as public, and nobody else may use it",
            ],
        ),
        # The same id in another region is another resource.
        (
            [*PUBLISHED, thing("ami-1", region="us-east-1")],
            [row("public")],
            ["image ami-1 in us-east-1 is public and unrecorded"],
        ),
    ],
)
def test_what_is_forgotten_is_named(
    things: list[Thing], record: list[dict[str, Any]], expected: list[str]
) -> None:
    assert forgotten(things, record) == expected
