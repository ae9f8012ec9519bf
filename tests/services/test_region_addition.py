"""An image is added to a region from the tested snapshot, unless the region is excluded by then.

Follows fedimg/services/region_addition.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedimg.aws.client.clients import Clients
from fedimg.exceptions import EC2ServiceException
from fedimg.services.outcome import Result
from fedimg.services.region_addition import RegionAddition
from fedimg.services.site import Coordination, Site
from fedimg.steps import PlainSteps
from tests.services.bundled import (
    bundling_settings,  # noqa: F401 (fixture)
    clean,
    keys,
    owner_pair,  # noqa: F401 (fixture)
)
from tests.services.conftest import ORIGIN, SITE, Lab, Recorder

NEW, OTHER = "eu-west-1", "us-east-2"
SMALL: dict[str, Any] = {"amis": {"types": ["hvm-gp2"]}}


def add(lab: Lab, **settings: Any) -> Result:
    """Publish an image in the origin, then add it to a region under other settings."""
    image = lab.image()
    published = lab.upload(image, **SMALL, regions=[ORIGIN]).published[ORIGIN]
    site = Site(lab.settings(**SMALL, **settings), SITE, (), Clients())
    addition = RegionAddition(site, Coordination())
    return addition.add(image, [NEW], published, Recorder(), PlainSteps())


def test_image_is_added_to_a_region(lab: Lab) -> None:
    result = add(lab, regions=[], exclude_regions=[OTHER])
    assert set(result.published) == {NEW}


@pytest.mark.parametrize(
    "settings", [{"regions": [], "exclude_regions": [NEW]}, {"regions": [ORIGIN, OTHER]}]
)
def test_exclusion_of_a_region_holds_against_an_addition_that_was_asked_for_before(
    lab: Lab, settings: dict[str, Any]
) -> None:
    with pytest.raises(EC2ServiceException) as failure:
        add(lab, **settings)
    assert f"{NEW}: the configuration excludes it" in failure.value.problem
    assert "'fedimg cancel'" in failure.value.problem
    assert not failure.value.may_pass
    assert not [row for row in lab.live() if row["region"] == NEW]


def test_bundle_is_copied_to_a_region_that_is_added(lab: Lab, settings: dict[str, Any]) -> None:
    image = lab.image()
    published = lab.upload(image, **{**settings, "regions": [ORIGIN]}).published[ORIGIN]
    before = keys(lab, ORIGIN)
    assert keys(lab, NEW) == []
    lab.forget_calls()
    site = Site(lab.settings(**settings), SITE, (), Clients())
    addition = RegionAddition(site, Coordination())
    result = addition.add(image, [NEW], published, Recorder(), PlainSteps())
    assert [str(ami.type) for ami in result.published[NEW]] == ["hvm-gp2", "hvm-instance"]
    assert result.published[NEW][1].snapshot.startswith(f"s3://amis-{NEW}/")
    assert keys(lab, NEW) == before
    assert "PutObject" not in lab.ask("calls")["S3"]

    # The others were dropped: there is no snapshot to begin with.
    alone = [ami for ami in published if ami.type.instance_store]
    with pytest.raises(EC2ServiceException, match="publish a new build in the region instead"):
        addition.add(image, [NEW], alone, Recorder(), PlainSteps())
    clean(lab, image, settings)
