"""Record and EC2 are compared: fedimg.lifecycle.comparison, verify and repair, on the lab's EC2.

Follows fedimg/aws/inventory.py, fedimg/aws/read_back.py, fedimg/lifecycle/comparison.py,
fedimg/lifecycle/problems.py, fedimg/lifecycle/disk_comparison.py,
fedimg/store/verifications.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from fedimg.aws import tags
from fedimg.config import Verify
from fedimg.jobs.retries import RetrySchedule
from fedimg.lifecycle import disk_comparison, repair, verify
from fedimg.lifecycle.comparison import Difference, Kind
from fedimg.lifecycle.problems import problems, room
from fedimg.lifecycle.verify import DailyVerification, RegionResult
from fedimg.progress import NO_ROOM
from fedimg.store import tables
from fedimg.store.verifications import RegionVerification, Verifications
from tests.lifecycle.by_hand import published_untested, snapshot_hidden
from tests.lifecycle.conftest import DISK, FURTHER, ORIGIN, RAW, REGIONS, Site


def compared(site: Site, **options: object) -> list[RegionResult]:
    return verify.verify_regions(site.settings, site.store, site.clients, REGIONS, **options)  # type: ignore[arg-type]


def differences(site: Site) -> list[Difference]:
    results = compared(site)
    assert [result.error for result in results] == [None] * len(REGIONS)
    return [each for result in results for each in result.differences]


def kinds(site: Site) -> list[tuple[str, str]]:
    return [(each.kind.value, each.id) for each in differences(site)]


def test_unchanged_amis_have_no_difference_and_the_comparison_is_recorded(site: Site) -> None:
    site.publish()
    before = time.time()
    assert differences(site) == []
    assert all(row.difference == "" for row in site.rows())
    assert all((row.verified_at or 0) >= before for row in site.rows())
    assert [each.region for each in Verifications(site.store).all()] == sorted(REGIONS)
    assert problems(site.store) == []


def test_attributes_that_the_record_lacks_are_recorded(site: Site) -> None:
    site.publish()
    recorded = [row.attributes for row in site.rows()]
    assert all(recorded)
    site.store.write(sa.update(tables.amis).values(attributes=None))
    compared(site)
    assert [row.attributes for row in site.rows()] == recorded


def test_calls_are_few(site: Site) -> None:
    for _ in range(3):
        site.publish()
    before = site.account.calls()
    compared(site)
    after = site.account.calls()
    made = {name: after[name] - before.get(name, 0) for name in after}
    assert {name: count for name, count in made.items() if count} == {
        "DescribeImages": len(REGIONS),
        "DescribeSnapshots": 2 * len(REGIONS),
        "GetImageBlockPublicAccessState": len(REGIONS),
        "GetSnapshotBlockPublicAccessState": len(REGIONS),
    }


def lost(site: Site) -> list[tuple[str, str]]:
    row = site.row(site.publish(), FURTHER)
    site.ec2(FURTHER).deregister_image(ImageId=row.ami)
    return [("missing", row.ami)]


def hidden(site: Site) -> list[tuple[str, str]]:
    row = site.row(site.publish())
    site.hide(row)
    return [("private", row.ami)]


def disabled(site: Site) -> list[tuple[str, str]]:
    row = site.row(site.publish())
    site.ec2().disable_image(ImageId=row.ami)
    return [("disabled", row.ami)]


def snapshot_lost(site: Site) -> list[tuple[str, str]]:
    rows = [row for row in site.rows(site.publish()) if row.region == ORIGIN]
    for row in rows:
        site.ec2().deregister_image(ImageId=row.ami)
    site.ec2().delete_snapshot(SnapshotId=rows[0].snapshot)
    return [
        each for row in rows for each in (("missing", row.ami), ("snapshot missing", row.snapshot))
    ]


def early(site: Site) -> list[tuple[str, str]]:
    row = site.row(site.publish())
    soon = datetime.now(UTC) + timedelta(days=90)
    site.ec2().enable_image_deprecation(ImageId=row.ami, DeprecateAt=soon)
    return [("deprecation", row.ami)]


def unrecorded(site: Site) -> list[tuple[str, str]]:
    registered = site.register(site.image(), FURTHER)
    return sorted(
        [("unrecorded", ami.id) for ami in registered] + [("unrecorded", registered[0].snapshot)]
    )


@pytest.mark.parametrize(
    "change",
    [
        lost,
        hidden,
        disabled,
        snapshot_hidden,
        snapshot_lost,
        early,
        unrecorded,
        published_untested,
    ],
)
def test_each_difference_is_found(
    site: Site, change: Callable[[Site], list[tuple[str, str]]]
) -> None:
    site.publish()
    expected = change(site)
    assert sorted(kinds(site)) == sorted(expected)
    assert problems(site.store)


def test_ec2s_own_date_of_deprecation_is_no_difference(site: Site) -> None:
    row = site.row(site.publish())
    created = datetime.fromisoformat(site.shown(row)["CreationDate"])
    site.ec2().enable_image_deprecation(ImageId=row.ami, DeprecateAt=created + timedelta(days=730))
    assert differences(site) == []


def test_ami_without_its_tags_is_found_by_its_id(site: Site) -> None:
    row = site.row(site.publish())
    site.ec2().delete_tags(Resources=[row.ami, row.snapshot], Tags=[{"Key": tags.SITE}])
    assert differences(site) == []


def test_ami_of_another_snapshot_is_reported_and_never_repaired(site: Site) -> None:
    """Whoever may register AMIs could put another one in the place of ours, under its name."""
    row = site.row(site.publish())
    other = site.row(site.publish())
    real = site.row(site.publish())
    site.store.forget_ami(real.ami, real.region)
    # The record says that real's AMI is made from row's snapshot.
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE fedimg_amis SET snapshot = '{other.snapshot}' WHERE ami = '{row.ami}'"
        )
    found = [each for each in differences(site) if each.id == row.ami]
    assert [each.kind for each in found] == [Kind.OTHER_SNAPSHOT]
    plan = repair.plan(found, site.store.all_amis(), site.store.job, [row.ami])
    assert plan.actions == []
    assert "only reported" in plan.left[0]


def test_block_public_access_is_reported(site: Site) -> None:
    site.publish()
    site.ec2().enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    site.ec2().enable_snapshot_block_public_access(State="block-all-sharing")
    try:
        assert [each for each in kinds(site) if each[0] == "blocked"] == [("blocked", ORIGIN)] * 2
    finally:
        site.ec2().disable_image_block_public_access()
        site.ec2().disable_snapshot_block_public_access()


def test_region_that_refuses_holds_up_no_other(site: Site) -> None:
    image = site.publish()
    site.hide(site.row(image, ORIGIN))
    site.account.refuse(FURTHER, DescribeImages="UnauthorizedOperation")
    results = {result.region: result for result in compared(site)}
    assert "UnauthorizedOperation" in str(results[FURTHER].error)
    assert len(results[ORIGIN].differences) == 1
    assert any(FURTHER in text for text in problems(site.store))


def test_bytes_of_a_snapshot_are_those_that_koji_built(site: Site) -> None:
    image = site.publish()
    readings = disk_comparison.prepare(site.clients, site.rows(image)).readings
    assert [reading.row.region for reading in readings] == sorted(REGIONS)
    assert {reading.disk for reading in readings} == {DISK}
    # The block of zeros is left out.
    assert {len(reading.listing.blocks) for reading in readings} == {2}
    assert [disk_comparison.compare(site.clients, reading) for reading in readings] == [None, None]


@pytest.mark.parametrize("where", ["inside", "behind"])
def test_snapshot_with_other_bytes_is_reported(site: Site, where: str) -> None:
    image = site.publish(regions=[ORIGIN])
    row = site.row(image)
    # The record is of another disk: one byte differs, or it is shorter by what is not zero.
    sha256 = "0" * 64 if where == "inside" else DISK.sha256
    length = DISK.length if where == "inside" else len(RAW) - 500
    with site.store.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE fedimg_amis SET disk_sha256 = '{sha256}', disk_length = {length}"
        )
    (reading,) = disk_comparison.prepare(site.clients, site.rows(image)).readings
    difference = disk_comparison.compare(site.clients, reading)
    assert difference is not None
    assert (difference.kind, difference.id) == (Kind.BYTES, row.snapshot)
    assert ("behind byte" in difference.text) == (where == "behind")


def daily(site: Site, interval: float) -> DailyVerification:
    settings = site.settings.model_copy(update={"verify": Verify(interval=interval)})
    return DailyVerification(settings, site.store, site.clients, lambda: REGIONS, threading.Event())


def test_worker_compares_once_an_interval_and_only_reports(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    row = site.row(site.publish())
    site.hide(row)
    with caplog.at_level(logging.INFO):
        assert daily(site, 3600).compare_if_due() > 0
        assert Verifications(site.store).all() == []  # the database is new
        daily(site, 0).compare_if_due()
        assert Verifications(site.store).all() == []  # it is switched off
        daily(site, 0.001).compare_if_due()
    assert f"record and EC2 differ: {row.ami} in {ORIGIN}" in caplog.text
    assert not site.shown(row)["Public"]
    before = Verifications(site.store).all()
    daily(site, 3600).compare_if_due()
    assert Verifications(site.store).all() == before


def test_room_for_public_amis_is_reported_by_region(site: Site) -> None:
    assert room(site.store, 4) is None
    site.publish()
    site.publish(regions=[ORIGIN])
    compared(site)
    assert told(site)[FURTHER].quota is not None
    quota = told(site)[FURTHER].quota or 0.0
    assert (told(site)[ORIGIN].public_amis, told(site)[FURTHER].public_amis) == (4, 2)
    said = room(site.store, 4)
    assert f"{ORIGIN}: 4 of {quota:g} used, {max(quota - 4, 0):g} left" in str(said)
    assert f"{FURTHER}: 2 of {quota:g} used, {max(quota - 2, 0):g} left" in str(said)
    # The quota is that of the account.
    assert "other public AMIs of the account leave less" in str(said)


def test_each_region_is_compared_an_interval_after_its_own_last_comparison(site: Site) -> None:
    row = site.row(site.publish(), FURTHER)
    compared(site)
    age(site, ORIGIN, 7200)
    age(site, FURTHER, 7200)
    site.hide(row)
    verify.verify_regions(site.settings, site.store, site.clients, [ORIGIN])
    assert told(site)[FURTHER].differences == []
    of_person = told(site)[ORIGIN].at
    daily(site, 3600).compare_if_due()
    assert len(told(site)[FURTHER].differences) == 1
    assert told(site)[ORIGIN].at == of_person


def test_region_that_fails_delays_no_other(site: Site) -> None:
    site.publish()
    compared(site)
    age(site, ORIGIN, 7200)
    Verifications(site.store).record_failure(FURTHER, time.time(), "it does not answer")
    daily(site, 3600).compare_if_due()
    assert time.time() - told(site)[ORIGIN].at < 3600
    assert told(site)[FURTHER].error == "it does not answer"


def test_comparison_of_a_region_that_is_compared_no_more_is_forgotten(site: Site) -> None:
    site.publish(regions=[ORIGIN])
    compared(site)
    Verifications(site.store).record_failure("mars-1", time.time(), "no such host")
    daily(site, 3600).compare_if_due()
    # A person may have compared it a moment ago.
    assert set(told(site)) == {*REGIONS, "mars-1"}
    age(site, "mars-1", 7200)
    daily(site, 3600).compare_if_due()
    assert set(told(site)) == set(REGIONS)


def test_comparison_of_some_amis_is_none_of_their_region(site: Site) -> None:
    row = site.row(site.publish())
    compared(site)
    before = told(site)
    site.account.refuse(ORIGIN, DescribeImages="UnauthorizedOperation")
    (result,) = verify.verify_regions(
        site.settings, site.store, site.clients, [ORIGIN], chosen=lambda each: each.ami == row.ami
    )
    assert result.error
    assert told(site) == before


def test_what_a_job_keeps_until_there_is_room_is_not_unrecorded(site: Site) -> None:
    image = site.image()
    assert site.queue.submit(image)
    site.store.begin(image.job, 1)
    site.register(image, FURTHER)
    site.store.set_region(image.job, FURTHER, step=NO_ROOM, error="no room", needs=2)
    site.store.end(image.job, 1, "incomplete", "no room")
    RetrySchedule(site.store).run_when_back(image.job, 1, site.settings.ec2.limits)
    assert differences(site) == []
    # It waits no more.
    RetrySchedule(site.store).forget(image.job)
    assert {each.kind for each in differences(site)} == {Kind.UNRECORDED}


def age(site: Site, region: str, seconds: float) -> None:
    """Let a region's last comparison be so many seconds old."""
    column = tables.verified.c
    site.store.write(
        sa.update(tables.verified).where(column.region == region).values(at=column.at - seconds)
    )


def told(site: Site) -> dict[str, RegionVerification]:
    return {each.region: each for each in Verifications(site.store).all()}


def test_options_that_somebody_changed_are_told(site: Site) -> None:
    site.set_amis(
        supported_instance_types={"x86_64": ["t3.*", "m5.*"]},
        gp3_throughput=250,
        deregistration_protection="on",
    )
    site.publish()
    assert differences(site) == []
    row = next(row for row in site.rows() if row.volume_type == "gp3")
    ec2 = site.ec2(row.region)
    ec2.replace_image_instance_type_specification(ImageId=row.ami)
    ec2.disable_image_deregistration_protection(ImageId=row.ami)
    told = [each for each in differences(site) if each.id == row.ami]
    assert {each.kind for each in told} == {"attributes"}
    assert [each.text for each in told] == [
        'its supported instance types is "none", recorded is "m5.*, t3.*"',
        'its deregistration protection is "disabled", recorded is "enabled-without-cooldown"',
    ]


def test_watermark_of_a_private_ami_is_told(site: Site) -> None:
    row = site.row(site.publish())
    site.hide(row)
    site.ec2(row.region).attach_image_watermark(ImageId=row.ami, WatermarkName="approved")
    told = [each.text for each in differences(site) if each.kind == "attributes"]
    assert len(told) == 1
    assert "it has the watermark" in told[0]
