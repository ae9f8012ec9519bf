"""An image goes the whole way in each partition of AWS: published, verified, withdrawn.

Follows lab/ec2/partitions.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.ec2.partitions import COMMERCIAL, ORIGINS, regions_of
from lab.site import shipped_policy
from tests.system.deployment import deployed

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "43", "20261127.0"
#: The other partitions; the rest of the system's tests runs in that one.
PARTITIONS = sorted(set(ORIGINS) - {COMMERCIAL})

#: Findings about what is not AWS.
_OTHERS = {"state directory", "running", "worker", "outbox", "jobs", "koji", "signatures"}


@pytest.mark.parametrize("partition", PARTITIONS)
def test_image_is_published_verified_and_withdrawn_in_every_region(
    partition: str, tmp_path: Path
) -> None:
    regions, policy = regions_of(partition), shipped_policy(partition)
    with deployed(tmp_path / "site", regions=regions, policy=policy) as deployment:
        koji = deployment.site.koji
        checked = {row["name"]: row for row in deployment.fedimg("check", status=None)}
        assert checked["partition"]["text"].startswith(f"{partition} has the services")
        # The origin and the account are of the partition.
        assert checked["credentials"]["text"].startswith(f"arn:{partition}:iam::")
        assert "none, so no PV AMIs" in checked["PV kernel"]["text"]
        assert checked["ec2.x86_64.test_type_paravirtual"]["text"].startswith("not used")
        assert "not told by Service Quotas" in checked["quota of public AMIs"]["text"]
        aws = {name: row for name, row in checked.items() if name not in _OTHERS}
        assert {row["status"] for row in aws.values()} == {"ok"}, aws

        image = deployment.image(f"{NAME}-{VERSION}-{RELEASE}.x86_64")
        build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
        deployment.site.bus.publish("build.state.change", koji.build_message(build.id))
        (job,) = deployment.ended()
        assert job["state"] == "complete", job
        # Of the four default types the two of HVM: there is no PV here.
        deployment.nothing_but_published(dict.fromkeys(regions, 2))
        amis = deployment.fedimg("amis")
        assert {ami["attributes"]["partition"] for ami in amis} == {partition}

        deployment.fedimg("verify")
        deployment.fedimg("withdraw", job["job"], "--reason", "a test", "--yes")
        deployment.until(
            lambda: {ami["state"] for ami in deployment.fedimg("amis")} == {"withdrawn"},
            "the withdrawal",
        )
        assert not any(row["public"] for row in deployment.live() if row["kind"] == "image")
        deployment.fedimg("verify")
