"""The checks that fedimg brings, on test instances that are confined processes."""

from __future__ import annotations

from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import EC2TestException
from fedimg.observer import CheckState
from tests.services.conftest import ORIGIN, Lab, Recorder

SMALL: dict[str, Any] = {"regions": [ORIGIN], "amis": {"types": ["hvm-gp2"]}}
EVERY = ["units", "cloud-init", "root-size", "pristine", "network", "clock", "selinux", "reboot"]


def test_what_a_process_cannot_show_is_skipped_and_the_rest_is_checked(lab: Lab) -> None:
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


def test_image_that_lets_nobody_in_after_a_reboot_fails(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    breaks = Check(name="breaks it", command="rm ~/.ssh/authorized_keys")
    with pytest.raises(EC2TestException, match="check 'reboot': not back after"):
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
    assert "refused the key" in told.checks[-1].output
    lab.leaves_nothing(image)


def test_failed_check_spares_the_reboot(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    test = {"shipped": ["network", "reboot"], "reach": ["http://127.0.0.1:1"]}
    with pytest.raises(EC2TestException, match="failed on the test instance: network"):
        lab.upload(image, observer, checks=[], test=test, **SMALL)
    (told,) = observer.of("test failed")
    assert [check.name for check in told.checks] == ["login", "network"]
    assert "127.0.0.1" in told.checks[1].output
    lab.leaves_nothing(image)
