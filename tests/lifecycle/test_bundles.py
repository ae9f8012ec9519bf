"""The life of instance-store AMIs: compared, withdrawn, restored, removed, recovered, on the lab.

Follows fedimg/aws/bundle/place.py, fedimg/aws/bundle/listing.py, fedimg/aws/bundle/preflight.py.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fedimg.aws import amis, cleanup, publish, resources, survey, tags
from fedimg.aws.bundle import keys, preflight
from fedimg.aws.bundle.manifest import manifest
from fedimg.aws.bundle.objects import BundleStore
from fedimg.aws.bundle.place import place_of
from fedimg.aws.bundle.stream import BundleStream
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import Labels
from fedimg.config import AMIs, InstanceStore, Retention, Rule
from fedimg.diagnostics import Status
from fedimg.images import INSTANCE_STORE, AMIType, RawImage, Virtualization
from fedimg.jobs.recorder import Recorder
from fedimg.lifecycle import observation, recovery_search, retention, targets, verify
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.lifecycle.pruning import Pruning
from fedimg.lifecycle.retention import WorkerRetention
from fedimg.lifecycle.withdraw_and_restore import WithdrawAndRestore
from fedimg.progress import CheckResult, CheckState
from fedimg.steps import PlainSteps
from fedimg.store import rows, tables
from fedimg.store.changes import PendingChanges
from fedimg.store.prunings import Prunings
from fedimg.store.withdrawals import Withdrawals
from lab.ec2.server import EC2
from tests.aws.bundle.unbundler import pair
from tests.lifecycle.conftest import DISK, FURTHER, LIMITS, ORIGIN, RAW, REGIONS, Site

ACCOUNT = "123456789012"
TYPE = AMIType(Virtualization.HVM, INSTANCE_STORE)


class Bundled:
    """A site that makes instance-store AMIs, its buckets and keys."""

    def __init__(self, site: Site, ec2: EC2, folder: Path) -> None:
        self.site = site
        owner, certificate = pair(folder, "owner"), folder / "ec2.pem"
        certificate.write_bytes(ec2.certificate)
        self.settings = InstanceStore(
            bucket=f"{site.settings.site}-{{region}}",
            signing_key=owner.key,
            certificate=owner.certificate,
            ec2_certificate=certificate,
        )
        changed = site.settings.ec2.model_copy(update={"instance_store": self.settings})
        site.settings = site.settings.model_copy(update={"ec2": changed})
        self.keys = keys.read(owner.key, owner.certificate, certificate)
        for region in REGIONS:
            where: Any = {}
            if region != "us-east-1":
                where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
            self.s3(region).create_bucket(
                Bucket=self.settings.bucket_in(region),
                ObjectOwnership="BucketOwnerPreferred",
                **where,
            )

    def s3(self, region: str) -> Any:
        return self.site.clients.client("s3", region)

    def keys_in(self, region: str) -> list[str]:
        found = self.s3(region).list_objects_v2(Bucket=self.settings.bucket_in(region))
        return [each["Key"] for each in found.get("Contents", ())]

    def store(self, image: RawImage, region: str) -> str:
        """Store a bundle of RAW; return its id."""
        site = self.site
        place = place_of(self.settings.bucket_in(region), site.settings.site, image)
        key = self.keys.content_key(place.id)
        stream = BundleStream(image.name, len(RAW), key)
        parts = [*stream.add(RAW), *stream.finish()]
        store = BundleStore(self.s3(region), place)
        for index, part in enumerate(parts):
            store.put(place.part(index), part, {})
        text = manifest(stream.bundled(), image.architecture, ACCOUNT, self.keys, key)
        store.put(place.manifest, text, {})
        return place.id

    def publish(self) -> RawImage:
        """Make public AMIs of an image in the regions, and record them as a job does."""
        site, image = self.site, self.site.image()
        assert site.queue.submit(image)
        recorder = Recorder(site.store, image, 1, ORIGIN)
        site.store.begin(image.job, 1)
        recorder.written(DISK)
        original = None
        for region in REGIONS:
            client = site.clients.ec2(region)
            basis = amis.Basis(image, region, "", None, AMIs(), self.store(image, region))
            labels = Labels.of(site.settings.site, image)
            registered = amis.register_all(client, site.waiter, labels, [TYPE], basis)
            (ami,) = amis.available(client, site.waiter, registered, limit=10, partition="aws")
            if original is None:
                original = ami
                recorder.registered(ami)
                recorder.test_completed(ami, [CheckResult("boots", CheckState.PASSED, 1.0)])
            else:
                recorder.copied(ami, original)
            facts = tags.facts(image, DISK, ORIGIN)
            publish.publish_all(client, site.waiter, ami.snapshot, [ami], recorder, facts)
        site.store.finish(image.job, 1, queue=lambda *_: None)
        site.store.end(image.job, 1, "complete", None)
        return image

    def leftovers(self) -> list[str]:
        """Return the types of what a clean-up would remove."""
        found = survey.take(
            self.site.clients,
            self.site.settings.site,
            REGIONS,
            published=self.site.store.ever_public(),
            bucket=self.settings.bucket_in,
        )
        return [item.resource_type for item in found.left]


def differences(site: Site) -> list[Difference]:
    results = verify.verify_regions(site.settings, site.store, site.clients, REGIONS)
    assert [result.error for result in results] == [None] * len(REGIONS)
    return [each for result in results for each in result.differences]


def carry_out(site: Site) -> None:
    """Make every change that is due, as the workflows do."""
    stop, steps = threading.Event(), PlainSteps()
    withdrawing = WithdrawAndRestore(
        site.settings, site.store, site.queue, site.clients, steps, stop
    )
    pruning = Pruning(site.settings, site.store, site.clients, steps, stop)
    for change in PendingChanges(site.store).due():
        workflow: Any = withdrawing if change.what in ("withdraw", "restore") else pruning
        getattr(workflow, change.what)(change.job, change.region, change.at)


def prune(site: Site) -> None:
    """Do what the rules of retention demand, as the worker does."""
    client = WorkerRetention(site.settings, site.store, site.clients, threading.Event())._client
    made = observation.decisions(site.settings, site.store, client, REGIONS).made
    assert Prunings(site.store).ask(retention.requests(made), by="me")
    carry_out(site)


def aged(site: Site, image: RawImage, **columns: float) -> None:
    """Let the times of an image's AMIs be so many days ago."""
    times = {name: time.time() - days * 86400 for name, days in columns.items()}
    site.store.write(sa.update(tables.amis).where(tables.amis.c.job == image.job).values(**times))


@pytest.fixture
def bundled(site: Site, ec2: EC2, tmp_path: Path) -> Bundled:
    return Bundled(site, ec2, tmp_path)


def test_unchanged_bundles_have_no_difference_and_are_no_leftovers(bundled: Bundled) -> None:
    image = bundled.publish()
    assert differences(bundled.site) == []
    assert bundled.leftovers() == []
    assert {row.snapshot.split("/")[2] for row in bundled.site.rows(image)} == {
        bundled.settings.bucket_in(region) for region in REGIONS
    }


def test_missing_part_and_unrecorded_bundle_are_differences(bundled: Bundled) -> None:
    site = bundled.site
    image = bundled.publish()
    row = site.row(image, FURTHER)
    part = next(key for key in bundled.keys_in(FURTHER) if ".part." in key)
    bundled.s3(FURTHER).delete_object(Bucket=bundled.settings.bucket_in(FURTHER), Key=part)
    other = site.image()
    stray = bundled.store(other, ORIGIN)
    found = {(each.kind, each.id, each.job) for each in differences(site)}
    assert found == {
        (Kind.SNAPSHOT_MISSING, row.snapshot, image.job),
        (Kind.UNRECORDED, stray, other.job),
    }
    assert bundled.leftovers() == [resources.BUNDLE]
    waiter = Waiter(LIMITS, threading.Event())
    left = survey.leftovers(
        site.clients,
        site.settings.site,
        REGIONS,
        job=other.job,
        published=site.store.ever_public(),
        bucket=bundled.settings.bucket_in,
    )
    cleanup.remove(site.clients, waiter, left, limit=10)
    assert not any(stray.partition(f"{bundled.settings.bucket_in(ORIGIN)}/")[2] in key
                   for key in bundled.keys_in(ORIGIN))  # fmt: skip


def test_withdrawn_image_keeps_its_bundle_and_is_restored_from_it(bundled: Bundled) -> None:
    site = bundled.site
    image = bundled.publish()
    kept = bundled.keys_in(ORIGIN)
    found = targets.to_withdraw(site.store, image.name)
    withdrawals = Withdrawals(site.store)
    withdrawals.withdraw(found.amis, found.regions, by="me", reason="a bug", replacement=None)
    carry_out(site)
    assert {row.state for row in site.rows(image)} == {rows.WITHDRAWN}
    shown = site.ec2().describe_images(ImageIds=[site.row(image).ami])["Images"][0]
    assert (shown["State"], shown["Public"]) == ("disabled", False)
    assert bundled.keys_in(ORIGIN) == kept
    assert differences(site) == []
    assert bundled.leftovers() == []
    found = targets.to_restore(site.store, image.name)
    assert found.left == []
    withdrawals.restore(found.amis, by="me")
    carry_out(site)
    assert {row.state for row in site.rows(image)} == {rows.PUBLIC}
    assert all(site.shown(row)["Public"] for row in site.rows(image))
    assert differences(site) == []


def test_retention_removes_amis_with_their_bundles(bundled: Bundled, ec2: EC2) -> None:
    site = bundled.site
    rule = Rule(disable_after=200, delete_after=230, keep_newest=0, unused_for=3)
    site.settings = site.settings.model_copy(update={"retention": Retention(rules=[rule])})
    image = bundled.publish()
    aged(site, image, published_at=210)
    for row in site.rows(image):
        ec2._world.images[row.ami].launches = [datetime.now(UTC) - timedelta(days=50)]
    prune(site)
    assert {row.state for row in site.rows(image)} == {rows.DISABLED}
    assert len(bundled.keys_in(FURTHER)) == 2
    aged(site, image, published_at=300, changed_at=100)
    prune(site)
    assert site.rows(image) == []
    assert bundled.keys_in(ORIGIN) == bundled.keys_in(FURTHER) == []


def test_lost_record_is_recovered_with_type_and_bundle(bundled: Bundled) -> None:
    site = bundled.site
    image = bundled.publish()
    recorded = {(row.region, row.ami, row.snapshot) for row in site.rows(image)}
    found = recovery_search.search(site.clients, site.waiter, site.settings.site, REGIONS)
    assert {(one.row.region, one.row.ami, one.row.snapshot) for one in found.found} == recorded
    assert {str(one.row.type) for one in found.found} == {"hvm-instance"}
    assert found.left == []


def test_preflight_says_what_keys_and_buckets_lack(bundled: Bundled) -> None:
    settings, clients = bundled.settings, bundled.site.clients
    assert [each.status for each in preflight.check_keys(settings)] == [Status.OK]
    (found,) = preflight.check_bucket(clients, settings, ORIGIN)
    assert found.status is Status.OK
    Path(settings.signing_key).chmod(0o640)
    (problem,) = preflight.check_keys(settings)
    assert (problem.status, "others may know it" in problem.text) == (Status.PROBLEM, True)
    bundled.s3(ORIGIN).put_bucket_ownership_controls(
        Bucket=settings.bucket_in(ORIGIN),
        OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
    )
    (problem,) = preflight.check_bucket(clients, settings, ORIGIN)
    assert "allows no ACLs" in problem.text
    other = settings.model_copy(update={"bucket": "absent-{region}"})
    (problem,) = preflight.check_bucket(clients, other, ORIGIN)
    assert problem.text == "absent-us-east-1: NoSuchBucket"
