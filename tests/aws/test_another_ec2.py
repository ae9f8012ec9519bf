"""An EC2 that is not the lab's: moto's own server, which keeps less and answers less.

It drops the tags of RegisterImage, knows key pairs by their names alone, and does not have every
action: what an EC2 beside AWS's may well do, too.

Follows fedimg/aws/client/errors.py.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from fedimg.aws import amis, cleanup, resources, survey
from fedimg.aws.client.clients import Clients
from fedimg.aws.instance import key_pairs
from fedimg.aws.preflight import Preflight
from fedimg.config import EC2, AMIs
from fedimg.diagnostics import Status
from fedimg.images import AMIType, Virtualization
from fedimg.ssh import client
from tests.aws.conftest import ORIGIN, wait_until

HVM = AMIType(Virtualization.HVM, "gp2")


@pytest.fixture(scope="module")
def clients(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    with log, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        server = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)],
            env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
            stdout=log,
            stderr=log,
        )
        wait_until(lambda: answers(port), seconds=60)
        yield Clients()
        server.terminate()
        server.wait()


@pytest.fixture
def origin(clients):
    return clients.ec2(ORIGIN)


@pytest.fixture
def ami(origin, waiter, labels, image):
    """Register an AMI whose tags EC2 drops."""
    # moto does not look at the snapshot.
    basis = amis.Basis(image, ORIGIN, "snap-12345678", None, AMIs())
    made = amis.register(origin, waiter, labels, HVM, basis)
    assert not shown(origin, made.id)["Tags"]
    return made


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def shown(origin, ami: str) -> dict:
    return origin.describe_images(ImageIds=[ami])["Images"][0]


def left(clients, labels, ami) -> list[resources.Leftover]:
    """Return the leftovers of a job that has recorded an AMI."""
    known = resources.Leftover(resources.IMAGE, ami.id, ORIGIN, labels.job, ami.name)
    return survey.leftovers(clients, labels.site, [ORIGIN], job=labels.job, recorded=[known])


def test_recorded_ami_is_removed_though_ec2_dropped_its_tags(clients, waiter, labels, ami, origin):
    found = left(clients, labels, ami)
    assert [(item.resource_type, item.id, item.job) for item in found] == [
        ("image", ami.id, labels.job)
    ]
    cleanup.remove(clients, waiter, found, limit=5)
    assert left(clients, labels, ami) == []
    assert origin.describe_images(Owners=["self"])["Images"] == []


def test_recorded_ami_that_somebody_tagged_is_not_left_over(clients, labels, ami, origin):
    origin.create_tags(Resources=[ami.id], Tags=[{"Key": "Name", "Value": "kept"}])
    assert left(clients, labels, ami) == []


def test_recorded_ami_that_is_public_is_not_left_over(clients, labels, ami, origin):
    origin.modify_image_attribute(ImageId=ami.id, LaunchPermission={"Add": [{"Group": "all"}]})
    assert left(clients, labels, ami) == []


def test_recorded_ami_that_was_public_stays_by_the_record_alone(clients, labels, ami, origin):
    known = resources.Leftover(resources.IMAGE, ami.id, ORIGIN, labels.job, ami.name)
    seen = survey.take(
        clients, labels.site, [ORIGIN], job=labels.job, recorded=[known], published={ami.id}
    )
    assert not shown(origin, ami.id)["Public"]
    assert (seen.left, seen.once_public) == ([], [known])


def test_key_pairs_are_removed_by_their_names(clients, waiter, labels, origin):
    for role in ("test-hvm", "test-paravirtual"):
        key_pairs.imported(origin, waiter, labels, role, client.new_identity("test"))
    key_pairs.remove(origin, labels, "test-hvm")
    found = survey.leftovers(clients, labels.site, [ORIGIN], job=labels.job)
    assert [item.resource_type for item in found] == ["key-pair"]
    cleanup.remove(clients, waiter, found, limit=5)
    assert origin.describe_key_pairs()["KeyPairs"] == []


def test_check_tells_what_a_region_answers_and_what_it_does_not_have(clients):
    account = Preflight(clients, EC2(regions=[ORIGIN]))
    for look in account.checks([]).values():
        look()
    (look,) = account.region_checks().values()
    found = {one.name: one for one in look()}
    assert found["region"].status is Status.OK
    assert found["encryption by default"].status is Status.OK
    # moto answers what it does not have with a page.
    assert found["public AMIs"].status is Status.WARNING
    assert found["public AMIs"].text.startswith("unknown (")
    assert "the answer is not from AWS" in found["public AMIs"].hint
