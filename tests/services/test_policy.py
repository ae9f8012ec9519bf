"""docs/aws-policy.json: jobs run under it, and each part of it is needed.

The lab's EC2 evaluates the policy, with resources and conditions, for the keys of an IAM user.

Follows docs/aws-policy.json.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fedimg.aws import ami_options, cleanup, inventory, read_back, retirement, share, survey
from fedimg.aws import permissions as permissions_of
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.instance.network import prepare
from fedimg.aws.parameters import ParameterStore
from fedimg.aws.preflight import Preflight
from fedimg.aws.tags import Labels
from fedimg.config import Network
from fedimg.diagnostics import Status
from fedimg.exceptions import EC2ServiceException, EC2TestException
from fedimg.images import Architecture, Options
from fedimg.values.audience import Audience
from tests.services.conftest import ORIGIN, REGIONS, SITE, Lab
from tests.services.policies import FILE, REFUSED, policy, user

#: EC2's word for an AMI that is protected from deregistration, without a cool-down.
PROTECTED = "enabled-without-cooldown"
HVM = {"amis": {"types": ["hvm-gp2"]}}


def sids() -> list[str]:
    return [statement["Sid"] for statement in policy()["Statement"]]


def permissions() -> list[tuple[str, str]]:
    """Every action of every statement."""
    return [
        (statement["Sid"], action)
        for statement in policy()["Statement"]
        for action in listed(statement["Action"])
    ]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# What a worker does. Each returns what went wrong, in AWS's words; nothing, if nothing did.


def utility(lab: Lab, mine: Lab) -> str:
    """Publish an image written by an instance, with PV, in three regions; clean up after it."""
    image = lab.image()
    result = mine.upload(image, amis={"types": ["paravirtual-gp2", "hvm-gp2"]})
    mine.clean(image)
    if not result.failed:
        assert set(result.published) == set(REGIONS)
    return "\n".join(result.failed.values())


def direct(lab: Lab, mine: Lab) -> str:
    """Publish an image written without an instance, with a reboot in its check; clean up."""
    image = lab.image()
    changes = {"write_via": "direct", "regions": [ORIGIN, "us-east-2"], **HVM}
    result = mine.upload(image, test={"shipped": ["reboot"]}, **changes)
    mine.clean(image)
    return "\n".join(result.failed.values())


def unbootable(lab: Lab, mine: Lab) -> str:
    """Try an image that does not boot: the reason is found, and all that was made removed."""
    image = lab.image(boot_code=False, menu_lst=False)
    changes = {"write_via": "direct", "regions": [ORIGIN], "limits": {"ssh_ready": 2}, **HVM}
    with pytest.raises(EC2TestException):
        mine.upload(image, **changes)
    mine.clean(image)
    return ""


def regrouped(lab: Lab, mine: Lab) -> str:
    """Let a job go on after the worker has moved to another address."""
    labels, limits = Labels.of(SITE, lab.image()), lab.settings().limits
    for source in ("192.0.2.0/24", "198.51.100.0/24"):
        network = Network.model_validate({"allowed_source": source})
        waiter = Waiter(limits, threading.Event())
        prepare(mine.clients.ec2(ORIGIN), waiter, labels, network)
    return ""


def tidied(lab: Lab, mine: Lab) -> str:
    """`fedimg cleanup`, of a volume that outlived its instance."""
    labels = Labels.of(SITE, lab.image())
    lab.ec2().create_volume(
        AvailabilityZone=f"{ORIGIN}a",
        Size=1,
        TagSpecifications=labels.specifications(["volume"], "utility"),
    )
    waiter = Waiter(lab.settings().limits, threading.Event())
    found = survey.leftovers(mine.clients, SITE, [ORIGIN], job=labels.job)
    assert [item.resource_type for item in found] == ["volume"]
    cleanup.remove(mine.clients, waiter, found, limit=10)
    assert lab.live("volume") == []
    return ""


def checked(lab: Lab, mine: Lab) -> str:
    """`fedimg check`'s looks at the account."""
    account = Preflight(mine.clients, lab.settings())
    problems = []
    for looks in (lambda: account.checks([Architecture.X86_64]), account.region_checks):
        for look in looks().values():
            problems += [one.text for one in look() if one.status is not Status.OK]
    # The lab's account lacks what a real one has; only what is not allowed counts here.
    return "\n".join(text for text in problems if "nauthorized" in text)


def looked_after(lab: Lab, mine: Lab) -> str:
    """Compare public AMIs with EC2, read one back, withdraw, share, hide and remove them."""
    image = lab.image()
    changes = {"write_via": "direct", "regions": [ORIGIN, "us-east-2"], **HVM}
    published = lab.upload(image, **changes).published
    waiter = Waiter(lab.settings().limits, threading.Event())
    for region, (ami,) in published.items():
        ec2 = mine.clients.ec2(region)
        taken = inventory.take(ec2, SITE, region, amis=[ami.id], snapshots=[ami.snapshot])
        assert ami.snapshot in taken.public_snapshots
        ebs = mine.clients.client("ebs", region)
        raw = lab.raw().read_bytes()
        disk = read_back.read(ebs, read_back.listed(ebs, ami.snapshot), len(raw))
        assert disk.sha256 == hashlib.sha256(raw).hexdigest()
        permissions_of.launch_permissions(ec2, ami.id)
        permissions_of.volume_permissions(ec2, ami.snapshot)
        permissions_of.mark(ec2, waiter, [ami.id, ami.snapshot], "2026-11-29T06:00:00+00:00")
        permissions_of.disable_ami(ec2, waiter, ami.id)
        permissions_of.enable_ami(ec2, waiter, ami.id, limit=10)
        permissions_of.share_ami(ec2, waiter, ami.id, permissions_of.EVERYBODY)
        retirement.deprecate(ec2, waiter, ami.id, time.time() + 3600, limit=10)
        permissions_of.hide_ami(ec2, waiter, ami.id)
        permissions_of.hide_snapshot(ec2, waiter, ami.snapshot)
        protected = replace(ami, options=Options(supported=("m5.*",), protection=PROTECTED))
        ami_options.specify(ec2, waiter, [protected])
        ami_options.protect(ec2, waiter, protected)
        retirement.deregister(ec2, ami.id, unprotect=True)
        retirement.delete_snapshot(ec2, waiter, ami.snapshot, limit=10)
        retirement.in_recycle_bin(ec2, mine.clients, region, [ami.id], ami.snapshot)
        retirement.recycle_bin_rules(mine.clients, region)
    assert lab.live("image") == lab.live("snapshot") == []
    return ""


def private(lab: Lab, mine: Lab) -> str:
    """Publish an image for an audience alone; change and compare that as a worker does."""
    image = lab.image()
    share_with = {"accounts": ["111122223333"]}
    changes = {"write_via": "direct", "regions": [ORIGIN, "us-east-2"], **HVM}
    result = mine.upload(image, public=False, share=share_with, **changes)
    waiter = Waiter(lab.settings().limits, threading.Event())
    for region, (ami,) in result.published.items():
        ec2 = mine.clients.ec2(region)
        ids = [ami.id, ami.snapshot]
        seen = inventory.look(ec2, region, amis=ids[:1], snapshots=ids[1:], private=ids)
        assert set(map(str, seen.audiences.values())) == {"1 account"}
        share.remove_others(ec2, waiter, ami.id, Audience())
        share.remove_others_of_snapshot(ec2, waiter, ami.snapshot, Audience())
    return "\n".join(result.failed.values())


def named(lab: Lab, mine: Lab) -> str:
    """Name the newest AMI by a parameter of SSM, and delete the parameter."""
    image = lab.image()
    changes = {"write_via": "direct", "regions": [ORIGIN], **HVM}
    (ami,) = lab.upload(image, **changes).published[ORIGIN]
    stop = threading.Event()
    store = ParameterStore(mine.clients, ORIGIN, lab.settings().limits, stop)
    name = "/fedora/43/x86_64/hvm-gp2/latest"
    store.put(name, ami.id, "the newest", tier="Standard", exists=False)
    waiter = Waiter(lab.settings().limits, stop)
    waiter.until(
        lambda: store.read([name]).get(name) == ami.id or None, what="the parameter", limit=30
    )
    store.delete(name)
    assert store.read([name]) == {}
    return ""


#: Which of them fails without a statement.
NEEDED_BY: dict[str, Callable[[Lab, Lab], str]] = {
    "Look": utility,
    "CheckTheAccount": checked,
    "LaunchFromAnywhere": utility,
    "LaunchHardenedInstances": utility,
    "MakeVolumesAndInterfacesOfInstances": utility,
    "MakeGroupsAndKeyPairs": utility,
    "MakeSnapshots": utility,
    "WriteSnapshotsWithoutParent": direct,
    "CopyFromSnapshots": direct,
    "MakeImages": direct,
    "TagWhatIsMade": utility,
    "TagFinishedSnapshots": direct,
    "MarkWhatIsPublished": direct,
    "NameTheNewest": named,
    "UseWhatIsTheSites": utility,
}


@pytest.fixture(scope="module")
def decisions(site: Lab) -> list[dict[str, Any]]:
    """Do all that a worker does as a user with the whole policy; return IAM's decisions."""
    worker = user(site, policy())
    acts = (utility, direct, private, unbootable, regrouped, tidied, checked, looked_after, named)
    for act in acts:
        assert act(site, worker.lab) == "", act.__doc__
        site.wipe()
    return [row for row in site.ask("decisions") if row["caller"] == worker.arn]


def test_whole_job_runs_under_the_policy(decisions: list[dict[str, Any]]) -> None:
    assert decisions
    # A clean-up may ask for the end of a volume that has gone with its instance, tags and all.
    refused = {row["action"] for row in decisions if not row["allowed"]}
    assert refused <= {"ec2:DeleteVolume"}


@pytest.mark.parametrize(("sid", "action"), permissions())
def test_every_permission_is_needed(decisions: list[dict[str, Any]], sid: str, action: str) -> None:
    """Each action of each statement has allowed something that no other statement would have."""
    assert [row for row in decisions if (row["action"], row["by"]) == (action, [sid])]


@pytest.mark.parametrize("sid", sids())
def test_job_fails_without_any_one_statement(lab: Lab, sid: str) -> None:
    document = policy()
    document["Statement"] = [each for each in document["Statement"] if each["Sid"] != sid]
    worker = user(lab, document)
    try:
        said = NEEDED_BY[sid](lab, worker.lab)
    except (EC2ServiceException, ClientError) as error:
        said = str(error)
    assert REFUSED in said


def test_policy_fits_into_a_managed_one() -> None:
    # IAM counts all but white space.
    assert len("".join(FILE.read_text().split())) <= 6144
