"""The checks that fedimg brings, on test instances that are confined processes.

Follows fedimg/aws/boot/checks.py, fedimg/aws/boot/check_scripts/*.sh,
fedimg/aws/boot/boot_check.py, fedimg/aws/boot/reboot.py, fedimg/services/boot_checks.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import EC2TestException
from fedimg.progress import CheckState
from tests import plans
from tests.services.conftest import ORIGIN, Lab, Recorder

SMALL: dict[str, Any] = {"regions": [ORIGIN], "amis": {"types": ["hvm-gp2"]}}
EVERY = ["units", "cloud-init", "root-size", "pristine", "network", "clock", "selinux", "reboot"]


def test_checks_that_need_an_init_are_skipped_and_the_others_run(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    test = {
        "shipped": EVERY,
        "reach": [lab.web.address],
        "resolve": ["localhost"],
        "clock": lab.web.address,
    }
    lab.upload(image, observer, checks=[], test=test, **SMALL)
    (told,) = observer.of("test completed")
    assert [(check.name, str(check.state)) for check in told.checks] == [
        ("login", "passed"),
        ("units", "skipped"),
        ("cloud-init", "passed"),
        ("root-size", "skipped"),
        ("pristine", "skipped"),
        ("network", "passed"),
        ("clock", "passed"),
        ("selinux", "skipped"),
        ("reboot", "passed"),
    ], told.checks
    # The key pair went with the check; the instance is on its way.
    assert lab.live("key-pair") == []
    (made,) = lab.made_for(image, "key-pair")
    assert made["tags"]["fedimg:role"] == "test-hvm"
    (row,) = [r for r in lab.made_for(image, "instance") if r["tags"]["fedimg:role"] == "test-hvm"]
    instance = lab.ec2().describe_instances(InstanceIds=[row["id"]])
    assert instance["Reservations"][0]["Instances"][0]["KeyName"].startswith("fedimg-")
    lab.clean(image)


def test_image_without_login_after_a_reboot_fails(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    breaks = Check(name="breaks it", command="rm ~/.ssh/authorized_keys")
    with pytest.raises(EC2TestException, match='check "reboot": timed out after 20 s'):
        lab.upload(
            image,
            observer,
            checks=[breaks],
            test={"shipped": ["reboot"]},
            limits={"ssh_ready": 5, "instance_running": 15},
            **SMALL,
        )
    (told,) = observer.of("test failed")
    assert [(check.name, check.state) for check in told.checks] == [
        ("login", CheckState.PASSED),
        ("breaks it", CheckState.PASSED),
        ("reboot", CheckState.FAILED),
    ]
    assert "rejected the key" in told.checks[-1].output
    # One limit for all of it, not one for each login.
    assert told.checks[-1].seconds < 20 + 5
    lab.leaves_nothing(image)


def test_failed_check_spares_the_reboot(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    test = {"shipped": ["network", "reboot"], "reach": ["http://127.0.0.1:1"]}
    speaks = Check(name="speaks", command="printf out; printf err >&2; false")
    with pytest.raises(EC2TestException, match="failed checks on the test instance: network"):
        lab.upload(image, observer, checks=[speaks], test=test, **SMALL)
    (told,) = observer.of("test failed")
    assert [check.name for check in told.checks] == ["login", "network", "speaks"]
    assert "127.0.0.1" in told.checks[1].output
    assert told.checks[2].output == "out\nerr"
    lab.leaves_nothing(image)


def go(lab: Lab) -> Check:
    """Return a check that passes while the web server has a file `go`."""
    return Check(name="goes", command=f"curl -sf {lab.web.address}/go")


def test_every_ami_type_is_booted_and_in_further_regions_the_copies(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    result = lab.upload(
        image,
        observer,
        regions=[ORIGIN, "us-east-2", "eu-west-1"],
        amis={"types": ["hvm-standard", "hvm-gp2"]},
        test={"shipped": [], "amis": "types", "regions": ["us-east-2"]},
    )
    assert set(result.published) == {ORIGIN, "us-east-2", "eu-west-1"}
    booted = sorted((ami.region, str(ami.type)) for ami in observer.amis("test completed"))
    assert booted == [
        (ORIGIN, "hvm-gp2"),
        (ORIGIN, "hvm-standard"),
        ("us-east-2", "hvm-gp2"),
        ("us-east-2", "hvm-standard"),
    ]
    told = [(told.what, told.region) for told in observer.told]
    last = len(told) - 1 - told[::-1].index(("test completed", "us-east-2"))
    assert told.index(("published", "us-east-2")) > last
    lab.clean(image)
    assert {row["kind"] for row in lab.live()} == {"image", "snapshot"}


def test_region_whose_copy_fails_its_check_stays_private_and_delays_no_other(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    where: dict[str, Any] = {
        "regions": [ORIGIN, "us-east-2", "eu-west-1"],
        "amis": {"types": ["hvm-gp2"]},
        "test": {"shipped": [], "regions": ["us-east-2"]},
    }
    lab.web.put("go", b"")
    observer.when["test started us-east-2"] = lambda: lab.web.files.pop("/go")
    result = lab.upload(image, observer, checks=[go(lab)], **where)
    assert set(result.published) == {ORIGIN, "eu-west-1"}
    assert "failed checks on the test instance: goes" in result.failed["us-east-2"]
    assert "us-east-2, boot-check:us-east-2:hvm" in result.failed["us-east-2"]
    assert [ami.region for ami in observer.amis("test failed")] == ["us-east-2"]
    lab.clean(image)
    assert {row["region"] for row in lab.live()} == {ORIGIN, "eu-west-1"}

    # A later try completes it, and boots nothing that has passed.
    lab.web.put("go", b"")
    again = Recorder()
    result = lab.upload(image, again, rerun=True, checks=[go(lab)], **where)
    assert (set(result.published), result.failed) == ({*where["regions"]}, {})
    started = [told.region for told in again.of("test started")]
    assert started == ["us-east-2"]
    lab.clean(image)
    assert len(lab.live()) == 6


def test_pv_that_does_not_boot_from_a_copy_is_dropped_there_alone(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    check = Check(name="goes", command=go(lab).command, types=["paravirtual"])
    lab.web.put("go", b"")
    observer.when["test started eu-west-1 paravirtual"] = lambda: lab.web.files.pop("/go")
    result = lab.upload(
        image,
        observer,
        checks=[check],
        regions=[ORIGIN, "eu-west-1"],
        amis={"types": ["paravirtual-gp2", "hvm-gp2"]},
        test={"shipped": [], "regions": ["eu-west-1"]},
    )
    assert result.failed == {}
    made = {region: [str(ami.type) for ami in amis] for region, amis in result.published.items()}
    assert made == {ORIGIN: ["paravirtual-gp2", "hvm-gp2"], "eu-west-1": ["hvm-gp2"]}
    lab.clean(image)


def test_instance_that_ec2_terminates_does_not_fail_the_image(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lost = {"fault": "failed", "action": "InstanceStart", "message": "Internal error on launch"}
    # The utility instance comes first.
    plans.follow(lab, [{**lost, "skip": 1, "count": 1}])
    result = lab.upload(image, observer, **{**SMALL, "limits": {"attempts": 2}})
    assert set(result.published) == {ORIGIN}
    assert len(observer.of("test started")) == len(observer.of("test completed")) == 1
    tested = [
        row for row in lab.made_for(image, "instance") if row["tags"]["fedimg:role"] == "test-hvm"
    ]
    assert len(tested) == 2
    lab.clean(image)


def test_job_fails_for_now_if_ec2_terminates_every_instance(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    lost = {"fault": "failed", "action": "InstanceStart", "message": "Internal error on launch"}
    plans.follow(lab, [{**lost, "skip": 1}])
    words = (
        "could not check .* test instance i-.* was terminated: Server.InternalError: Internal error"
    )
    with pytest.raises(EC2TestException, match=words) as failure:
        lab.upload(image, observer, **{**SMALL, "limits": {"attempts": 2}})
    assert failure.value.later
    lab.leaves_nothing(image)
