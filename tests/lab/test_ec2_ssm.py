"""Parameter Store: names, tiers, values that EC2 confirms after the answer, policies, the ledger.

Follows lab/ec2/ssm.py and lab/ec2/parameters.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

NAME = "/fedora/43/x86_64/hvm-gp3/latest"


def put(ssm: Any, value: str, name: str = NAME, **options: Any) -> dict[str, Any]:
    options = {"Type": "String", "DataType": "aws:ec2:image", **options}
    answer: dict[str, Any] = ssm.put_parameter(Name=name, Value=value, **options)
    return answer


def shown(ssm: Any, name: str = NAME) -> str | None:
    found = ssm.get_parameters(Names=[name])["Parameters"]
    return found[0]["Value"] if found else None


def becomes(ssm: Any, value: str | None) -> None:
    deadline = time.monotonic() + 10
    while shown(ssm) != value:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


def test_image_is_confirmed_after_the_answer(ec2: Any, utility: str) -> None:
    ssm = ec2.client("ssm")
    assert put(ssm, utility)["Version"] == 1
    assert shown(ssm) is None
    becomes(ssm, utility)
    found = ssm.get_parameter(Name=NAME)["Parameter"]
    assert (found["DataType"], found["Type"], found["Version"]) == ("aws:ec2:image", "String", 1)
    assert found["ARN"].endswith(f":parameter{NAME}")
    assert shown(ec2.client("ssm", "eu-west-1")) is None
    with refused("ParameterAlreadyExists"):
        put(ssm, utility)
    # Another region's AMI, and one that there is not, are taken and never become the value.
    before = ec2.ec2.default_image("eu-west-1", Path(__file__), name="elsewhere")
    for value in (before, "ami-0123456789abcdef0"):
        assert put(ssm, value, Overwrite=True)["Version"] == 2
    time.sleep(0.6)
    assert shown(ssm) == utility
    ssm.delete_parameter(Name=NAME)
    with refused("ParameterNotFound"):
        ssm.delete_parameter(Name=NAME)
    with refused("ParameterNotFound"):
        ssm.get_parameter(Name=NAME)
    assert ssm.get_parameters(Names=[NAME])["InvalidParameters"] == [NAME]
    rows = [json.loads(line) for line in (ec2.folder / "ledger.jsonl").read_text().splitlines()]
    assert [(r["event"], r["kind"], r["id"]) for r in rows if r["kind"] == "parameter"] == [
        ("create", "parameter", NAME),
        ("delete", "parameter", NAME),
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fedora/43/latest", "ValidationException"),
        ("/fedora//latest", "ValidationException"),
        ("/fedora/", "ValidationException"),
        ("/fedora/4+3", "ValidationException"),
        ("/AWS/fedora", "AccessDeniedException"),
        ("/ssmfedora", "AccessDeniedException"),
        ("aws-fedora", "ValidationException"),
        ("/a" * 16, "HierarchyLevelLimitExceededException"),
        ("/" + "a" * 1000, "ValidationException"),
    ],
)
def test_name_is_refused(ec2: Any, utility: str, name: str, code: str) -> None:
    with refused(code):
        put(ec2.client("ssm"), utility, name)


def test_value_and_kind_are_refused(ec2: Any, utility: str) -> None:
    ssm = ec2.client("ssm")
    for options in ({"Type": "StringList"}, {"Type": "SecureString"}):
        with refused("UnsupportedParameterType"):
            put(ssm, utility, **options)
    for value in ("ami-1", "x" * 5000, "{{ssm:other}}"):
        with refused("ValidationException"):
            put(ssm, value)
    with refused("ValidationException"):
        put(ssm, utility, DataType="aws:ec2:instance")
    with refused("ValidationException"):
        ssm.get_parameters(Names=[f"/{number}" for number in range(11)])


def test_advanced_tier_does_not_become_the_standard_one(ec2: Any, utility: str) -> None:
    ssm = ec2.client("ssm")
    put(ssm, utility, Tier="Standard")
    becomes(ssm, utility)
    assert put(ssm, utility, Tier="Advanced", Overwrite=True)["Tier"] == "Advanced"
    time.sleep(0.5)
    with refused("can't downgrade"):
        put(ssm, utility, Tier="Standard", Overwrite=True)
    assert put(ssm, utility, Overwrite=True)["Tier"] == "Advanced"


def test_policies_count_and_images_are_described_in_the_callers_name(
    ec2: Any, utility: str
) -> None:
    def user(*statements: tuple[str, str]) -> Any:
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": action, "Resource": resource}
                for action, resource in statements
            ],
        }
        key = ec2.ec2.user(f"user-{time.monotonic_ns()}", json.dumps(policy))
        return boto3.client(
            "ssm",
            region_name="us-east-1",
            endpoint_url=ec2.ec2.url,
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
            config=Config(retries={"max_attempts": 1}),
        )

    on = "arn:aws:ssm:*:*:parameter/fedora/*"
    blind = user(("ssm:PutParameter", on), ("ssm:GetParameters", on))
    put(blind, utility)
    time.sleep(0.6)
    assert shown(blind) is None
    for call in (
        lambda: put(blind, utility, "/other"),
        lambda: blind.get_parameters(Names=[NAME, "/other"]),
        lambda: blind.delete_parameter(Name=NAME),
    ):
        with refused("AccessDeniedException"):
            call()
    seeing = user(("ssm:*", on), ("ec2:DescribeImages", "*"))
    put(seeing, utility)
    becomes(seeing, utility)
