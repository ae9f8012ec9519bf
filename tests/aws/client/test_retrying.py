"""Test clients that wait while the lab's EC2 does not answer.

Follows fedimg/aws/client/clients.py.
"""

import json
import threading
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, HTTPClientError

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.retrying import RetryingClient, once
from fedimg.aws.client.waiter import Waiter
from fedimg.config import Limits
from lab.ec2.server import EC2
from tests.aws.conftest import ORIGIN, Account
from tests.plans import follow

#: No outage of these tests takes a tenth of this on an idle machine.
OUTAGE = 60


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def patient(account: Account, heard: list[str]) -> RetryingClient:
    limits = Limits(wait_minimum=0.05, wait_maximum=0.2, outage=OUTAGE)
    return RetryingClient(account.clients, ORIGIN, Waiter(limits, threading.Event(), heard.append))


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "reset"},
        {"fault": "refused", "code": "RequestLimitExceeded"},
        {"fault": "refused", "code": "RequestExpired"},
    ],
    ids=str,
)
def test_calls_wait_until_the_outage_is_over(
    account: Account, patient: RetryingClient, heard: list[str], fault: dict[str, str]
) -> None:
    follow(account, [{**fault, "count": 6}])
    assert patient.describe_regions()["Regions"]
    assert "waiting for EC2" in heard[0]
    assert heard[-1] == ""


def test_refused_connections_are_waited_for(ec2, account: Account, patient: RetryingClient) -> None:
    ec2.down()
    back = threading.Timer(1, ec2.up)
    back.start()
    try:
        assert patient.describe_regions()["Regions"]
    finally:
        back.join()


def test_pages_begin_anew_when_one_fails(account: Account, patient: RetryingClient) -> None:
    follow(account, [{"fault": "reset", "action": "DescribeInstances", "count": 3}])
    pages = patient.get_paginator("describe_instances").paginate()
    assert [page["Reservations"] for page in pages] == [[]]


def test_other_refusals_are_raised_at_once(account: Account, patient: RetryingClient) -> None:
    with pytest.raises(ClientError, match="InvalidAMIID"):
        patient.describe_images(ImageIds=["ami-00000000000000000"])


def test_single_try_is_a_single_try(account: Account) -> None:
    follow(account, [{"fault": "reset", "action": "DescribeImages", "count": 1}])
    with pytest.raises(HTTPClientError):
        once(account.clients, ORIGIN).describe_images(Owners=["self"])
    once(account.clients, ORIGIN).describe_images(Owners=["self"])


def test_keys_that_were_changed_in_their_file_are_read_again(
    ec2: EC2, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 reads a file of keys once; new ones must not need a restart of the worker."""
    allowed = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    older, newer = ec2.user("older", policy), ec2.user("newer", policy)
    keys = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setattr("fedimg.aws.client.clients._RENEW_SECONDS", 0)
    written = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    keys.write_text(written.format(*older))
    own = Clients()
    limits = Limits(wait_minimum=0.05, wait_maximum=0.2, outage=OUTAGE)
    seen: list[str] = []

    def change(words: str) -> None:
        seen.append(words)
        keys.write_text(written.format(*newer))
        follow(account, [])

    patient = RetryingClient(own, ORIGIN, Waiter(limits, threading.Event(), change))
    follow(account, [{"fault": "refused", "code": "ExpiredToken"}])
    patient.describe_regions()
    assert "credentials" in seen[0]
    held = own.ec2(ORIGIN)._request_signer._credentials.access_key
    assert held == newer.id
    assert boto3.Session().get_credentials().access_key == held
