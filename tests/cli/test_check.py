"""The findings of `fedimg check` about settings, account, Koji and buses.

Follows fedimg/aws/preflight.py, fedimg/aws/region_preflight.py, fedimg/aws/findings.py,
fedimg/aws/ami_quota.py, fedimg/diagnostics.py.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from fedimg import config
from fedimg.aws.client.clients import Clients
from fedimg.aws.preflight import AS_THE_WORKER, Preflight
from fedimg.cli import check
from fedimg.config import Settings
from fedimg.diagnostics import Finding, Status, gather
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.intake.watermarks import Watermarks
from fedimg.jobs.outages import Outages
from fedimg.store.store import Store
from lab.bus import Ports
from lab.ec2.world import Quotas
from lab.site import Site
from tests.plans import follow

REGIONS = ("us-east-1", "us-east-2", "eu-west-1")
EXAMPLE = Path(__file__).parent.parent.parent / "fedimg.toml.example"


@pytest.fixture(scope="module")
def site(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), REGIONS) as site:
        yield site


@pytest.fixture
def settings(site: Site, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    return config.load(site.fedimg_config)


@pytest.fixture
def switched(settings: Settings) -> Iterator[Any]:
    """EC2 in eu-west-1, whose switches are set back afterwards."""
    ec2 = boto3.session.Session().client("ec2", region_name="eu-west-1")
    yield ec2
    ec2.disable_image_block_public_access()
    ec2.disable_snapshot_block_public_access()
    ec2.disable_ebs_encryption_by_default()


def changed(settings: Settings, **ec2: Any) -> Settings:
    """Return the settings with some of [ec2] replaced, validated like a file's."""
    values = settings.model_dump(by_alias=True)
    values["ec2"]["amis"]["types"] = [str(each) for each in settings.ec2.amis.types]
    for name, value in ec2.items():
        old = values["ec2"][name]
        values["ec2"][name] = {**old, **value} if isinstance(old, dict) else value
    return Settings.model_validate(values)


def bad(found: list[Finding]) -> dict[str, str]:
    """Return the texts of warnings and problems, by the names of their findings."""
    texts: dict[str, str] = {}
    for one in found:
        if one.status is not Status.OK:
            texts[one.name] = "; ".join(filter(None, (texts.get(one.name), one.text)))
    return texts


def command(site: Site, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "fedimg", "check", *arguments],
        env={**os.environ, **site.environment, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.process
def test_healthy_site_has_no_problem(site: Site) -> None:
    done = command(site, "--json")
    found = json.loads(done.stdout)
    assert [one for one in found if one["status"] != "ok"] == []
    assert done.returncode == 0
    assert {one["name"] for one in found} == {
        "configuration",
        "state directory",
        "Koji hub",
        "Koji files",
        "announcements",
        "bus, listening",
        "bus, refused",
        "bus, revocations",
        "bus, signatures",
        "bus, to the relay",
        "bus, from the relay",
        "credentials",
        "regions",
        "regions, away",
        "hold",
        "running",
        "network",
        *(f"ec2.{arch}.{key}" for arch in ("x86_64", "aarch64") for key in ("utility_ami",)),
        *(f"ec2.{arch}.{key}" for arch in ("x86_64", "aarch64") for key in ("utility_type",)),
        *(f"ec2.{arch}.{key}" for arch in ("x86_64", "aarch64") for key in ("test_type",)),
        "ec2.x86_64.test_type_paravirtual",
        "region",
        "public AMIs",
        "public snapshots",
        "encryption by default",
        "quota of public AMIs",
        "PV kernel",
    }
    assert all(one.keys() == {"name", "status", "text", "hint"} for one in found)


@pytest.mark.process
def test_marks_fit_the_encoding_of_the_terminal(site: Site) -> None:
    nowhere = {"FEDMSG_CONFIG": "/nowhere", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    for encoding, well, ill in (("utf-8", "✓", "✗"), ("ascii", "+", "x")):
        done = command(site, PYTHONIOENCODING=encoding, **nowhere)
        marks = {
            line.split(maxsplit=1)[1].split(":")[0]: line[0] for line in done.stdout.splitlines()
        }
        assert (marks["Koji hub"], marks["bus"], marks["credentials"]) == (well, ill, ill)
        assert done.returncode == 1


def test_unanswered_announcements_are_warnings(tmp_path: Path) -> None:
    settings = Settings(state_directory=tmp_path)
    assert check.announcements(settings) == [Finding("announcements", Status.OK, "none yet")]
    assert list(tmp_path.iterdir()) == []
    with contextlib.closing(Store(tmp_path)) as store:
        (well,) = check.announcements(settings)
        assert well.status is Status.OK
        DeferredEntries(store).postpone("build:7", DeferReason.STUMBLES, "KeyError")
        Watermarks(store).record_reading(["builds"], "it does not answer")
    found = check.announcements(settings)
    assert {one.status for one in found} == {Status.WARNING}
    assert ["build:7" in one.text for one in found] == [True, False]
    assert found[1].text == "cannot list missed entries of builds: it does not answer"


def test_unavailable_region_is_a_warning_unless_fedimg_no_longer_publishes_there(
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate({"state_directory": tmp_path})
    with contextlib.closing(Store(tmp_path)) as store:
        outages = Outages(store, settings.ec2.limits)
        outages.begin("ap-east-1", "no answer")
        outages.begin("me-south-1", "disabled")
        outages.stop_waiting(outages.all()[1], "excluded")
    unavailable, abandoned = check.unavailable_regions(settings)
    assert (unavailable.status, abandoned.status) == (Status.WARNING, Status.OK)
    assert "ap-east-1 has been unavailable since" in unavailable.text
    assert "no answer" in unavailable.text
    assert "ec2.exclude_regions" in unavailable.hint
    assert "no longer publishes" in abandoned.text


def test_settings_that_a_site_has_to_choose_are_named() -> None:
    found = check.configuration(Settings())
    assert set(bad(found)) == {
        "site",
        "ec2.x86_64.utility_ami",
        "ec2.aarch64.utility_ami",
        "ec2.network.allowed_source",
    }
    assert all(one.hint for one in found)


def test_missing_site_name_is_a_warning() -> None:
    (found,) = (one for one in check.configuration(Settings()) if one.name == "site")
    assert (found.status, "default" in found.text) == (Status.WARNING, True)
    named = check.configuration(Settings.model_validate({"site": "prod"}))
    assert "site" not in {one.name for one in named}


def test_direct_writing_needs_no_utility_ami() -> None:
    found = check.configuration(Settings.model_validate({"ec2": {"write_via": "direct"}}))
    assert set(bad(found)) == {"site", "ec2.network.allowed_source"}


def test_aarch64_needs_an_hvm_ami_type(settings: Settings) -> None:
    only_pv = changed(settings, amis={"types": ["paravirtual-gp2"]})
    assert set(bad(check.configuration(only_pv))) == {"ec2.amis.types"}


def test_example_configuration_is_complete_but_for_its_placeholders() -> None:
    found = bad(check.configuration(config.load(EXAMPLE)))
    assert found.keys() == {
        "ec2.x86_64.utility_ami",
        "ec2.aarch64.utility_ami",
        "ec2.network.allowed_source",
    }
    assert {text.partition(" ")[2] for text in found.values()} == {
        "is a placeholder of the example configuration"
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {
                "x86_64": {
                    "utility_type": "t2.micro",
                    "test_type": "t4g.small",
                    "test_type_paravirtual": "t3.small",
                },
                "aarch64": {"utility_type": "m5.large", "test_type": "m99.huge"},
                "network": {"subnet": "subnet-0123456789abcdef0"},
            },
            {
                "ec2.x86_64.utility_type": "not a Nitro type",
                "ec2.x86_64.test_type": "runs arm64",
                "ec2.x86_64.test_type_paravirtual": "does not boot PV",
                "ec2.aarch64.utility_type": "runs x86_64",
                "ec2.aarch64.test_type": "m99.huge",
                "network": "subnet-0123456789abcdef0",
            },
        ),
        (
            {
                "x86_64": {"utility_ami": "ami-0123456789abcdef0", "test_type": "m3.medium"},
                "network": {"vpc": "vpc-0123456789abcdef0"},
                "amis": {"ena": False, "tpm": True, "boot_mode": "uefi"},
            },
            {
                "ec2.x86_64.utility_ami": "ami-0123456789abcdef0",
                "ec2.x86_64.test_type": "does not support boot mode uefi",
                "ec2.aarch64.test_type": "only AMIs with ENA",
                "network": "vpc-0123456789abcdef0",
            },
        ),
    ],
)
def test_settings_that_ec2_would_refuse_are_problems(
    settings: Settings, wrong: dict[str, dict[str, object]], said: dict[str, str]
) -> None:
    found = bad(check.run(changed(settings, regions=["us-east-1"], **wrong)))
    assert found.keys() == said.keys()
    assert {name: text for name, text in said.items() if text not in found[name]} == {}


def test_utility_ami_of_the_wrong_architecture_is_a_problem(settings: Settings) -> None:
    x86, arm = settings.ec2.x86_64.utility_ami, settings.ec2.aarch64.utility_ami
    swapped = changed(settings, x86_64={"utility_ami": arm}, aarch64={"utility_ami": x86})
    found = bad(check.run(swapped))
    assert found == {
        "ec2.x86_64.utility_ami": f"{arm} is for arm64",
        "ec2.aarch64.utility_ami": f"{x86} is for x86_64",
    }


def test_subnet_of_another_vpc_is_a_problem(settings: Settings) -> None:
    ec2 = boto3.session.Session().client("ec2", region_name="us-east-1")
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    found = bad(check.run(changed(settings, network={"vpc": other, "subnet": subnet})))
    assert f"not in {other}" in found["network"]


def test_region_that_forbids_publishing_is_a_problem(settings: Settings, switched: Any) -> None:
    switched.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    switched.enable_snapshot_block_public_access(State="block-all-sharing")
    switched.enable_ebs_encryption_by_default()
    found = bad(check.run(settings))
    assert found == {
        "public AMIs": "block-new-sharing in eu-west-1",
        "public snapshots": "block-all-sharing in eu-west-1",
        "encryption by default": "on in eu-west-1",
    }


def test_region_that_is_not_enabled_is_a_problem(settings: Settings) -> None:
    found = bad(check.run(changed(settings, regions=["us-east-1", "xx-north-9"])))
    assert "xx-north-9" in found["regions"]


def test_too_small_quota_of_public_amis_is_a_problem(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.ec2._world, "quotas", Quotas(public_images=3))
    found = {one.name: one for one in check.run(settings)}["quota of public AMIs"]
    assert (found.status, found.text) == (
        Status.PROBLEM,
        "0 of 3 used; each image needs up to 4 in all 3 regions",
    )
    assert "L-0E3CBAB9" in found.hint


def test_quota_of_ami_sharing_is_checked_for_an_audience_alone(
    settings: Settings, site: Site, switched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What keeps AMIs from becoming public is no problem of a private site.
    switched.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    share = {"accounts": ["111122223333", "210987654321"]}
    monkeypatch.setattr(site.ec2._world, "quotas", Quotas(public_images=0, image_sharing=1))
    private = changed(settings, public=False, share=share)
    found = bad(check.run(private))
    assert found == {"quota of AMI sharing": "1; the audience is 2 accounts in all 3 regions"}
    monkeypatch.setattr(site.ec2._world, "quotas", Quotas(public_images=0, image_sharing=2))
    assert bad(check.run(private)) == {}


def test_missing_credentials_are_one_problem_and_hide_no_other_finding(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    all_found = check.run(settings)
    found = {one.name: one for one in all_found}
    assert found["credentials"].status is Status.PROBLEM
    assert "instance profile" in found["credentials"].hint
    assert f"as root: {AS_THE_WORKER} fedimg check" in found["credentials"].hint
    assert found["Koji hub"].status is Status.OK
    assert [one.name for one in all_found if "locate credentials" in one.text] == ["credentials"]


def test_unknown_profile_hides_no_other_finding(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    found = bad(check.run(settings))
    assert set(found) == {"credentials"}
    assert "nobody" in found["credentials"]


def test_koji_that_does_not_answer_is_a_problem(
    settings: Settings, site: Site, tmp_path: Path
) -> None:
    dead = f"http://127.0.0.1:{Ports.free().inbound}"
    koji = settings.koji.model_copy(update={"hub": dead, "topurl": dead})
    for (found,) in (check.koji_hub(koji), check.koji_files(koji)):
        assert found.status is Status.PROBLEM
        assert dead in found.text
    page = settings.koji.model_copy(update={"hub": site.ec2.url})
    assert check.koji_hub(page)[0].status is not Status.OK


@pytest.mark.process
def test_relay_that_is_down_is_a_problem(site: Site, tmp_path: Path) -> None:
    ports = Ports.free()
    file = tmp_path / "bus.py"
    relay = {"relay_inbound": [f"tcp://127.0.0.1:{ports.inbound}"]}
    outbound = {"endpoints": {"relay_outbound": [f"tcp://127.0.0.1:{ports.outbound}"]}}
    file.write_text(f"config = {relay | outbound}")
    done = command(site, "--json", FEDMSG_CONFIG=str(file), AWS_ENDPOINT_URL="http://127.0.0.1:1")
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["bus, listening"]["status"] == "problem"
    assert str(ports.inbound) in found["bus, to the relay"]["text"]
    assert str(ports.outbound) in found["bus, from the relay"]["text"]


def test_hub_that_hangs_is_a_problem(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_READ_SECONDS", 0.5)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        (found,) = check.koji_hub(settings.koji.model_copy(update={"hub": address}))
    assert found.status is Status.PROBLEM
    assert time.monotonic() - started < 20


def test_state_directory_has_to_be_a_writable_directory(tmp_path: Path) -> None:
    (found,) = check.state_directory(tmp_path / "new" / "state")
    assert found.status is Status.OK
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    (found,) = check.state_directory(tmp_path / "file")
    assert found.status is Status.PROBLEM


def test_aws_keys_in_the_state_directory_are_a_warning(settings: Settings, tmp_path: Path) -> None:
    shared = settings.model_copy(update={"state_directory": tmp_path})
    assert "AWS's keys" not in bad(check.run(shared))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\n")
    assert (
        f"{tmp_path}/.aws/credentials can be read by fedmsg-hub"
        in bad(check.run(shared))["AWS's keys"]
    )


def test_check_that_raises_or_hangs_hides_no_other() -> None:
    def raises() -> list[Finding]:
        raise RuntimeError("two\nlines")

    def hangs() -> list[Finding]:
        time.sleep(30)
        return []

    well = [Finding("well", Status.OK, "fine")]
    started = time.monotonic()
    found = gather({"hangs": hangs, "raises": raises, "well": lambda: well}, 0.5)
    assert time.monotonic() - started < 20
    assert found == {
        "hangs": [Finding("hangs", Status.PROBLEM, "no answer within 0.5 s")],
        "raises": [Finding("raises", Status.PROBLEM, "two lines")],
        "well": well,
    }


def test_ebs_direct_is_checked_only_for_direct_writing(settings: Settings, site: Site) -> None:
    def found(direct: Settings) -> list[Finding]:
        look = Preflight(Clients(), direct.ec2).checks([]).get("EBS direct")
        return look() if look else []

    assert found(settings) == []
    direct = changed(settings, write_via="direct")
    (one,) = found(direct)
    assert one.status is Status.OK, one.text
    for code, expected in (
        ("UnknownOperationException", Status.PROBLEM),
        ("AccessDeniedException", Status.OK),
    ):
        follow(site.ec2, [{"fault": "refused", "action": "ListSnapshotBlocks", "code": code}])
        try:
            (one,) = found(direct)
        finally:
            follow(site.ec2, [])
        assert one.status is expected
        assert ("ListSnapshotBlocks" in one.text) == (expected is Status.PROBLEM)
