"""The contract's fields, to the letter, and what never leaves with them."""

import json
from dataclasses import replace

import jsonschema
import pytest
from fedimg_messages import MESSAGES

from fedimg.bus import messages
from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.progress import CheckResult, CheckState
from fedimg.values.audience import Audience

URL = "https://koji.test/packages/x/images/Fedora-Cloud-Base-24-20160710.0.x86_64.raw.xz"
IMAGE = RawImage(URL, Architecture.X86_64, "Fedora-Cloud-Base-24-20160710.0", "build-5")
HVM = AMI("ami-1234fda", "name", "us-east-1", AMIType(Virtualization.HVM, "gp2"), "snap-1")
COPIED = AMI("ami-5678", "name", "eu-west-1", AMIType(Virtualization.HVM, "gp2"), "snap-2")
EXTRA = {"id": "ami-1234fda", "virt_type": "hvm", "vol_type": "gp2"}


def test_image_upload_is_the_contracts_example() -> None:
    message = messages.image_upload(IMAGE, "us-east-1", "completed", messages.of_ami(HVM))
    assert message == {
        "image_url": URL,
        "image_name": "Fedora-Cloud-Base-24-20160710.0.x86_64",
        "destination": "EC2 (us-east-1)",
        "status": "completed",
        "service": "EC2",
        "compose": "Fedora-Cloud-Base-24-20160710.0",
        "extra": EXTRA,
    }


def test_image_upload_without_an_ami() -> None:
    started = messages.image_upload(IMAGE, "us-east-1", "started", {})
    assert started["extra"] == {}
    failure = messages.of_failure("xz: corrupt")
    failed = messages.image_upload(IMAGE, "us-east-1", "failed", failure)
    assert (failed["status"], failed["extra"]) == ("failed", {"data": "xz: corrupt"})


def test_image_test() -> None:
    checks = [CheckResult("runs a command", CheckState.FAILED, 1.5, "no")]
    message = messages.image_test(IMAGE, HVM, "failed", checks, "no root device")
    assert message == {
        "image_url": URL,
        "image_name": "Fedora-Cloud-Base-24-20160710.0.x86_64",
        "destination": "EC2 (us-east-1)",
        "status": "failed",
        "service": "EC2",
        "compose": "Fedora-Cloud-Base-24-20160710.0",
        "extra": EXTRA
        | {
            "checks": [{"name": "runs a command", "passed": False, "seconds": 1.5}],
            "data": "no root device",
        },
    }
    assert messages.image_test(IMAGE, HVM, "started")["extra"] == EXTRA | {"checks": []}


def test_skipped_check_is_not_in_the_message() -> None:
    passed = CheckResult("login", CheckState.PASSED, 0.5, "")
    skipped = CheckResult("selinux", CheckState.SKIPPED, 0.25, "no SELinux here")
    told = messages.image_test(IMAGE, HVM, "completed", [passed, skipped])["extra"]["checks"]
    assert told == [{"name": "login", "passed": True, "seconds": 0.5}]


def test_image_copy() -> None:
    assert messages.image_copy(IMAGE, COPIED, HVM) == {
        "image_name": "Fedora-Cloud-Base-24-20160710.0.x86_64",
        "destination": "eu-west-1",
        "service": "EC2",
        "compose_id": "Fedora-Cloud-Base-24-20160710.0",
        "architecture": "x86_64",
        "extra": {
            "id": "ami-5678",
            "virt_type": "hvm",
            "vol_type": "gp2",
            "source_image_id": "ami-1234fda",
        },
    }


def test_image_publish() -> None:
    image = RawImage(URL, Architecture.ARM64, "Fedora-28", "task-1")
    assert messages.image_publish(image, COPIED) == {
        "image_url": URL,
        "image_name": "Fedora-Cloud-Base-24-20160710.0.x86_64",
        "destination": "eu-west-1",
        "service": "EC2",
        "compose": "Fedora-28",
        "architecture": "arm64",
        "extra": {"id": "ami-5678", "virt_type": "hvm", "vol_type": "gp2"},
    }


def test_message_tells_that_an_ami_is_encrypted() -> None:
    ami = replace(COPIED, type=AMIType(Virtualization.HVM, "gp2", encrypted=True))
    assert messages.image_copy(IMAGE, ami, HVM)["extra"] == {
        "id": "ami-5678",
        "virt_type": "hvm",
        "vol_type": "gp2",
        "encrypted": True,
        "source_image_id": "ami-1234fda",
    }


def test_messages_hold_plain_values() -> None:
    for message in (
        messages.image_copy(IMAGE, COPIED, HVM),
        messages.image_publish(IMAGE, HVM),
        messages.image_test(IMAGE, HVM, "completed", [CheckResult("a", CheckState.PASSED, 0.5)]),
    ):
        assert json.loads(json.dumps(message)) == message
        for value in (*message.values(), *message["extra"].values()):
            assert type(value) in (str, dict, list)


@pytest.mark.parametrize("letter", ["x", "é", "€", "\U0001f427", "\udc80"])
def test_data_is_the_tail_of_at_most_32_kib(letter: str) -> None:
    data = messages.of_failure("begin" + letter * 40_000 + "end")["data"]
    assert 32 * 1024 - 4 < len(data.encode()) <= 32 * 1024
    assert data.endswith("end")


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nb3BlbnNz",
        "AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "https://user:pass@koji.test/x",
        "?X-Amz-Signature=0123456789abcdef",
    ],
)
def test_messages_hold_no_secrets(secret: str) -> None:
    data = messages.of_failure(f"before {secret} after")["data"]
    assert data.startswith("before ")
    assert "[hidden]" in data
    for part in ("b3BlbnNz", "AKIA", "wJalr", "user:pass", "0123456789abcdef"):
        assert part not in data


def test_image_withdraw_and_restore() -> None:
    restored = messages.image_restore(IMAGE, COPIED)
    assert restored == {
        "image_name": "Fedora-Cloud-Base-24-20160710.0.x86_64",
        "destination": "eu-west-1",
        "service": "EC2",
        "compose": "Fedora-Cloud-Base-24-20160710.0",
        "architecture": "x86_64",
        "extra": EXTRA | {"id": "ami-5678"},
    }
    withdrawn = messages.image_withdraw(IMAGE, COPIED, "a bad kernel", None)
    assert withdrawn["extra"] == restored["extra"] | {
        "reason": "a bad kernel",
        "replacement": None,
    }
    assert withdrawn | {"extra": None} == restored | {"extra": None}


def test_image_deprecate_and_delete() -> None:
    deleted = messages.image_delete(IMAGE, COPIED)
    assert deleted == messages.image_restore(IMAGE, COPIED)
    deprecated = messages.image_deprecate(IMAGE, COPIED, 1_800_000_000.0)
    assert deprecated["extra"] == deleted["extra"] | {"deprecate_at": "2027-01-15T08:00:00Z"}
    assert deprecated | {"extra": None} == deleted | {"extra": None}


def test_image_share_tells_numbers_and_no_ids() -> None:
    audience = Audience(("123456789012", "210987654321"), ("arn:aws:organizations::1:o",))
    shared = messages.image_share(IMAGE, COPIED, audience)
    counts = {"accounts": 2, "organizations": 1, "organizational_units": 0}
    assert shared["extra"] == messages.image_restore(IMAGE, COPIED)["extra"] | counts
    assert "123456789012" not in str(shared)
    assert "arn:" not in str(shared)


def test_messages_of_an_amis_life_fit_their_schemas() -> None:
    bodies = {
        "image.withdraw": messages.image_withdraw(IMAGE, COPIED, "a bad kernel", None),
        "image.restore": messages.image_restore(IMAGE, COPIED),
        "image.deprecate": messages.image_deprecate(IMAGE, COPIED, 1_800_000_000.0),
        "image.delete": messages.image_delete(IMAGE, COPIED),
        "image.share": messages.image_share(IMAGE, COPIED, Audience(("123456789012",))),
    }
    for topic, body in bodies.items():
        jsonschema.validate(body, MESSAGES[topic].body_schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body | {"extra": {}}, MESSAGES[topic].body_schema)
