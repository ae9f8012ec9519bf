"""Records: what an earlier fedimg wrote into queue and database is read, and written as before."""

import json
from typing import Any

import pytest

from fedimg.aws.boot.boot_check import Verdict
from fedimg.aws.instance.network import JobNetwork
from fedimg.aws.plan import Plan
from fedimg.images import AMI, AMIType, Architecture, RawImage
from fedimg.progress import CheckResult, CheckState
from fedimg.records import adapter, as_record, from_record

HVM = AMIType.parse("hvm-gp2")
#: As version 8d20456 recorded them.
RECORDED: list[tuple[object, Any]] = [
    (
        RawImage(
            "https://koji.example/Fedora-42-1.raw.xz", Architecture.X86_64, "f-42-1", "build-5", 7
        ),
        {
            "url": "https://koji.example/Fedora-42-1.raw.xz",
            "architecture": "x86_64",
            "build": "f-42-1",
            "source": "build-5",
            "size": 7,
            "checksum": None,
        },
    ),
    (
        AMI("ami-1", "Fedora-42-1", "us-east-1", HVM, "snap-1"),
        {
            "id": "ami-1",
            "name": "Fedora-42-1",
            "region": "us-east-1",
            "type": "hvm-gp2",
            "snapshot": "snap-1",
        },
    ),
    (
        Plan("us-east-1", {"us-east-1": [HVM]}, {"us-east-1": [HVM]}, {}, {"eu-west-1": "off"}),
        {
            "origin": "us-east-1",
            "types": {"us-east-1": ["hvm-gp2"]},
            "tested": {"us-east-1": ["hvm-gp2"]},
            "kernels": {},
            "left_out": {"eu-west-1": "off"},
        },
    ),
    (
        Verdict("ami-1", "no", "says", [CheckResult("boot", CheckState.FAILED, 1.5, "says")]),
        {
            "ami": "ami-1",
            "problem": "no",
            "output": "says",
            "checks": [{"name": "boot", "state": "failed", "seconds": 1.5, "output": "says"}],
        },
    ),
    (JobNetwork("sg-1", {"subnet-1": "a"}), {"group": "sg-1", "subnets": {"subnet-1": "a"}}),
]
#: Fields that came later, by type: an earlier fedimg reads past what it does not know.
ADDED: dict[type, dict[str, Any]] = {
    AMI: {"attributes": None, "options": None},
    Plan: {
        "public": True,
        "audience": {"accounts": [], "organizations": [], "organizational_units": []},
        "encrypted": {},
        "keys": {},
        "tested_encrypted": [],
    },
    RawImage: {"release": None, "subvariant": None},
}


def written(value: object, record: Any) -> Any:
    """Return the record that this version writes of a value that an earlier one recorded."""
    return {**record, **ADDED.get(type(value), {})}


@pytest.mark.parametrize(("value", "record"), RECORDED, ids=lambda each: type(each).__name__)
def test_format_of_a_recorded_value_is_unchanged(value: object, record: object) -> None:
    assert json.loads(json.dumps(as_record(value))) == written(value, record)
    assert from_record(type(value), record) == value


@pytest.mark.parametrize(("value", "record"), RECORDED, ids=lambda each: type(each).__name__)
def test_unknown_field_of_a_later_version_is_ignored(value: object, record: Any) -> None:
    assert from_record(type(value), {**record, "later": "1"}) == value


def test_format_of_a_recorded_list_of_amis_is_unchanged() -> None:
    ami, record = RECORDED[1]
    assert adapter(list[AMI]).dump_python([ami], mode="json") == [written(ami, record)]
    assert adapter(list[AMI]).validate_python([record]) == [ami]


def test_record_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not end in"):
        from_record(AMI, {**RECORDED[1][1], "type": "hvm-floppy"})
