"""Images that do not boot, or fail a check, as EC2Service finds out."""

from __future__ import annotations

from typing import Any

import pytest

from fedimg.config import Check
from fedimg.exceptions import (
    EC2TestException,
)
from fedimg.images import Virtualization
from fedimg.progress import CheckState
from tests.services.conftest import (
    ORIGIN,
    SMALL,
    WITH_COPY,
    WITH_PV,
    Lab,
    Recorder,
)


def test_image_that_does_not_boot_is_never_public(lab: Lab) -> None:
    image, observer = lab.image(boot_code=False, menu_lst=False), Recorder()
    with pytest.raises(EC2TestException, match=r"hvm-gp2 AMI ami-.*no SSH login") as failure:
        # An instance that boots needs less; the utility instance has to.
        lab.upload(image, observer, limits={"ssh_ready": 6}, **WITH_COPY)
    assert failure.value.step == "boot-check:hvm"
    assert "Booting from Hard Disk" in failure.value.output
    (failed,) = observer.of("test failed")
    assert failed.output == failure.value.output
    (login,) = failed.checks
    assert (login.name, login.state) == ("login", CheckState.FAILED)
    assert "no SSH login" in login.output
    lab.leaves_nothing(image)


@pytest.mark.parametrize(
    ("check", "printed"),
    [
        ({"command": "echo unwell; exit 1"}, "unwell"),
        ({"command": "echo Fedora 27", "output": "^Fedora 28$"}, "Fedora 27"),
        ({"command": "echo begun; sleep 60", "timeout": 1}, "begun"),
    ],
    ids=["status", "output", "time"],
)
def test_image_that_fails_a_check_is_never_public(
    lab: Lab, check: dict[str, Any], printed: str
) -> None:
    image, observer = lab.image(), Recorder()
    checks = [
        Check(name="passes", command="echo all is well"),
        Check(name="the failing one", **check),
    ]
    with pytest.raises(EC2TestException, match="the failing one") as failure:
        lab.upload(image, observer, checks=checks, **SMALL)
    assert "all is well" in failure.value.output
    assert printed in failure.value.output
    (failed,) = observer.of("test failed")
    assert [(c.name, c.passed) for c in failed.checks] == [
        ("login", True),
        ("passes", True),
        ("the failing one", False),
    ]
    lab.leaves_nothing(image)


def test_image_that_boots_as_hvm_alone_loses_its_pv_amis_everywhere(lab: Lab) -> None:
    image, observer = lab.image(menu_lst=False), Recorder()
    result = lab.upload(image, observer, limits={"ssh_ready": 6}, **WITH_PV)
    assert {r: [str(a.type) for a in made] for r, made in result.published.items()} == {
        ORIGIN: ["hvm-gp2"],
        "eu-west-1": ["hvm-gp2"],
    }
    assert result.failed == {}
    dropped = observer.amis("dropped")
    assert sorted((ami.region, str(ami.type)) for ami in dropped) == [
        ("eu-west-1", "paravirtual-gp2"),
        (ORIGIN, "paravirtual-gp2"),
    ]
    (failed,) = observer.of("test failed")
    assert failed.ami
    assert failed.ami.type.virtualization is Virtualization.PARAVIRTUAL
    assert "menu.lst" in failed.output
    lab.clean(image)
    kinds = sorted(row["kind"] for row in lab.live())
    assert kinds == ["image", "image", "snapshot", "snapshot"]


def test_check_is_skipped_when_the_image_has_nothing_for_it(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    pv_alone = {"types": ["paravirtual"], "command": "exit 1"}
    checks = [
        Check(name="not here", command="echo no such thing; exit 77"),
        Check(name="expects it", command="exit 77", status=77),
        Check(name="of others", **pv_alone),
        Check(name="of arm", command="exit 1", architectures=["aarch64"]),
    ]
    lab.upload(image, observer, checks=checks, **SMALL)
    (told,) = observer.of("test completed")
    assert [(c.name, c.state, c.output) for c in told.checks[1:]] == [
        ("not here", CheckState.SKIPPED, "no such thing"),
        ("expects it", CheckState.PASSED, ""),
    ]
    assert (told.checks[0].name, told.checks[0].state) == ("login", CheckState.PASSED)
    lab.clean(image)
