"""The lab's EC2 in AWS's partitions: regions, endpoints, ARNs, quotas and policies.

Follows lab/ec2/partitions.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from lab.ec2.partitions import ORIGINS, regions_of
from lab.ec2.server import EC2, Settings
from lab.machines.process import ProcessMachines
from lab.site import Site, SiteError

DOMAINS = {
    "aws": "amazonaws.com",
    "aws-cn": "amazonaws.com.cn",
    "aws-us-gov": "amazonaws.com",
    "aws-eusc": "amazonaws.eu",
}


@pytest.mark.parametrize("partition", ORIGINS)
def test_partition_has_botocores_regions_and_endpoints(partition: str, tmp_path: Path) -> None:
    regions, origin = regions_of(partition), ORIGINS[partition]
    machines = ProcessMachines(tmp_path / "machines")
    ec2 = EC2(Settings(tmp_path / "ec2", regions=regions), machines)
    try:

        def client(service: str, key: Any = ec2.key) -> Any:
            return boto3.client(
                service,
                region_name=origin,
                endpoint_url=ec2.url,
                aws_access_key_id=key.id,
                aws_secret_access_key=key.secret,
            )

        assert origin in regions
        shown = client("ec2").describe_regions()["Regions"]
        assert {row["RegionName"]: row["Endpoint"] for row in shown} == {
            region: f"ec2.{region}.{DOMAINS[partition]}" for region in regions
        }
        zones = client("ec2").describe_availability_zones()["AvailabilityZones"]
        assert {zone["RegionName"] for zone in zones} == {origin}
        policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
            "Action": "ec2:CreateSecurityGroup", "Resource": "arn:%s:ec2:*:*:*"}]}"""
        (vpc,) = client("ec2").describe_vpcs()["Vpcs"]
        group = {"GroupName": "one", "Description": "one", "VpcId": vpc["VpcId"]}
        user = ec2.user("mine", policy % partition)
        assert client("sts", user).get_caller_identity()["Arn"].startswith(f"arn:{partition}:iam::")
        client("ec2", user).create_security_group(**group)
        other = ec2.user("other", policy % ("aws-cn" if partition == "aws" else "aws"))
        with pytest.raises(ClientError, match=f"arn:{partition}:ec2:{origin}"):
            client("ec2", other).create_security_group(**{**group, "GroupName": "two"})
        quotas = client("service-quotas")
        if partition == "aws":
            quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-0E3CBAB9")
        else:
            with pytest.raises(quotas.exceptions.NoSuchResourceException):
                quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-0E3CBAB9")
    finally:
        ec2.close()
        machines.close()


def test_regions_of_two_partitions_are_no_site(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="an account has those of one partition"):
        Site(tmp_path / "site", regions=("us-east-1", "cn-north-1"))
    with pytest.raises(SiteError, match="aws-iso"):
        Site(tmp_path / "site", regions=("us-iso-east-1",))
