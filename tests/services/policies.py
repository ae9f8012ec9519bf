"""docs/aws-policy.json, and users of the lab's IAM who have it, or parts of it."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from fedimg.aws.client.clients import Clients
from tests.hands import Hands
from tests.services.conftest import ORIGIN, SITE, Lab

FILE = Path(__file__).parents[2] / "docs" / "aws-policy.json"
#: What EC2 says of a call that no policy allows.
REFUSED = "is not authorized to perform"

_users = itertools.count(1)


def policy() -> dict[str, Any]:
    """Return the policy for the tests' site, made as an operator makes it: by replacing the
    example's name.
    """
    return dict(json.loads(FILE.read_text().replace('"prod"', f'"{SITE}"')))


@dataclass(frozen=True)
class User:
    """A user of IAM, and the tests' lab as its keys see it."""

    arn: str
    lab: Lab


def user(lab: Lab, document: dict[str, Any]) -> User:
    """Make a user with one managed policy; return clients that sign with its key."""
    # A session of its own: boto3 keeps its own one with the environment of whoever asked first.
    iam, name = boto3.Session().client("iam"), f"fedimg-{next(_users)}"
    arn = iam.create_user(UserName=name)["User"]["Arn"]
    made = iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))
    iam.attach_user_policy(UserName=name, PolicyArn=made["Policy"]["Arn"])
    key = iam.create_access_key(UserName=name)["AccessKey"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patched.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        clients, hands = Clients(), Hands()
        # boto3 looks for keys when the first client is made, and keeps them.
        clients.ec2(ORIGIN)
        hands.ec2(ORIGIN)
    return User(arn, replace(lab, clients=clients, hands=hands))


def tagged(site: str, *kinds: str) -> list[dict[str, Any]]:
    """TagSpecifications that give things to a site."""
    return [{"ResourceType": kind, "Tags": tags(site)} for kind in kinds]


def tags(site: str) -> list[dict[str, str]]:
    """Return the tag of a site."""
    return [{"Key": "fedimg:site", "Value": site}]
