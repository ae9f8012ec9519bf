"""Encrypted AMIs beside the public ones of their image: compared, withdrawn, restored, recovered.

Follows fedimg/lifecycle/comparison.py, fedimg/lifecycle/recover.py and fedimg/aws/region_survey.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import boto3
import pytest
import sqlalchemy as sa

from fedimg.aws import amis, copies, share, survey, tags
from fedimg.aws.tags import Labels
from fedimg.images import AMIType, RawImage
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import targets, verify
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.progress import CheckResult, CheckState
from fedimg.steps import PlainSteps
from fedimg.store import rows
from fedimg.store.changes import RESTORE, WITHDRAW, PendingChanges
from fedimg.store.publications import Publications
from fedimg.store.rows import AMIRow
from fedimg.store.tables import amis as table
from fedimg.store.tables import changes
from fedimg.values.audience import Audience
from tests.lifecycle.conftest import DISK, ORIGIN, REGIONS, Site
from tests.lifecycle.lost import lose, recovered

AUDIENCE = Audience(("210987654321",))
ENCRYPTED = AMIType.parse("hvm-gp3-encrypted")
PLAIN = AMIType.parse("hvm-gp3")


@dataclass
class Made:
    """An image whose plain AMI is public in the origin, and whose encrypted one is shared."""

    site: Site
    image: RawImage

    def row(self, *, encrypted: bool) -> AMIRow:
        return next(row for row in self.site.rows(self.image) if row.encrypted is encrypted)

    @property
    def states(self) -> tuple[str, str]:
        """Return the states of the plain AMI and of the encrypted one."""
        return self.row(encrypted=False).state, self.row(encrypted=True).state

    def users(self) -> list[dict[str, str]]:
        """Return who may launch the encrypted AMI, by EC2."""
        shown = self.site.ec2().describe_image_attribute(
            ImageId=self.row(encrypted=True).ami, Attribute="launchPermission"
        )
        return list(shown["LaunchPermissions"])

    def differences(self) -> list[str]:
        site = self.site
        results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
        return [verify.text_of(each) for result in results for each in result.differences]

    def change(self, what: str) -> None:
        """Withdraw or restore the image, as a worker does."""
        site = self.site
        workflow = WithdrawAndRestore(
            site.settings, site.store, site.queue, site.clients, PlainSteps(), threading.Event()
        )
        site.store.write(sa.update(changes).values(due=0))
        for change in PendingChanges(site.store).due():
            assert change.what == what
            getattr(workflow, change.what)(change.job, change.region, change.at)


@pytest.fixture
def made(site: Site) -> Made:
    image = site.publish(regions=(ORIGIN,), types=(PLAIN,))
    made = Made(site, image)
    plain = made.row(encrypted=False)
    ec2, labels = site.clients.ec2(ORIGIN), Labels.of(site.settings.site, image)
    snapshot = copies.copied(
        ec2,
        ec2,
        site.waiter,
        labels,
        copies.Source(ORIGIN, plain.snapshot, new_key(site)),
        find_first=False,
        limits=site.settings.ec2.limits,
    )
    basis = amis.Basis(image, ORIGIN, snapshot, None, site.settings.ec2.amis)
    registered = amis.register_all(ec2, site.waiter, labels, [ENCRYPTED], basis)
    (ami,) = amis.available(ec2, site.waiter, registered, limit=60, partition="aws")
    recorder = Recorder(site.store, image, 1, ORIGIN)
    recorder.registered(ami)
    recorder.test_completed(ami, [CheckResult("boots", CheckState.PASSED, 1.0)])
    facts = tags.facts(image, DISK, ORIGIN)
    share.share_all(ec2, site.waiter, snapshot, [ami], AUDIENCE, recorder, facts)
    return made


def new_key(site: Site) -> str:
    kms = boto3.Session().client("kms", ORIGIN)
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def test_encrypted_ami_is_compared_withdrawn_and_restored_with_its_image(made: Made) -> None:
    assert made.states == (rows.PUBLIC, rows.SHARED)
    assert made.differences() == []
    targets.withdraw(made.site.store, made.image.name, by="me", reason="a bad kernel")
    made.change(WITHDRAW)
    assert made.states == (rows.WITHDRAWN, rows.WITHDRAWN)
    assert made.users() == []
    targets.restore(made.site.store, made.image.name, by="me")
    made.change(RESTORE)
    assert made.states == (rows.PUBLIC, rows.SHARED)
    assert made.users() == [{"UserId": AUDIENCE.accounts[0]}]
    assert made.differences() == []


def test_encrypted_ami_is_recovered_and_in_no_catalogue(made: Made) -> None:
    before = made.row(encrypted=True)
    lose(made.site)
    recovered(made.site)
    after = made.row(encrypted=True)
    assert (after.ami, after.snapshot, after.state) == (before.ami, before.snapshot, rows.SHARED)
    assert after.shared_with == AUDIENCE
    assert made.row(encrypted=False).state == rows.PUBLIC
    job = made.image.job
    published = Publications(made.site.store).amis([job])[job]
    assert [row.ami for row in published] == [made.row(encrypted=False).ami]


def test_shared_encrypted_ami_is_no_leftover_and_one_that_was_not_shared_is(made: Made) -> None:
    site = made.site
    found = survey.leftovers(site.clients, site.settings.site, REGIONS)
    assert found == []
    row = made.row(encrypted=True)
    site.ec2().delete_tags(Resources=[row.ami, row.snapshot], Tags=[{"Key": tags.SHARED}])
    found = survey.leftovers(site.clients, site.settings.site, REGIONS)
    assert {each.id for each in found} == {row.ami, row.snapshot}
    # What the record says was shared stays all the same.
    kept = survey.leftovers(
        site.clients, site.settings.site, REGIONS, published=site.store.ever_public()
    )
    assert kept == []


def test_encrypted_ami_that_is_recorded_otherwise_is_a_difference(made: Made) -> None:
    of_it = table.c.ami == made.row(encrypted=True).ami
    made.site.store.write(sa.update(table).where(of_it).values(encrypted=False))
    (difference,) = made.differences()
    assert 'its snapshot is "encrypted", recorded is "not encrypted"' in difference
