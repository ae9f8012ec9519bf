"""Forged announcements, the data that instances get, and secrets that no text holds.

One site runs all of it, since a job takes its time; each claim has a test of its own.
"""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from lab.site import Site
from tests.system.builds import IMAGE, NAME, RELEASE, VERSION
from tests.system.deployment import AMIS, REGIONS, Deployment
from tests.system.proxy import Proxy

#: Planted where an operator's would be, beside the keys that the worker signs with.
SECRETS = {
    "proxy password": "planted-proxy-password-03de",
    "URL password": "planted-url-password-e19a",
    "database password": "planted-database-password-b4c8",
}
#: Who wrote what is not fedimg: the lab's own machines and authorities, and AWS's files.
NOT_FEDIMGS = ("ec2", "machines", "koji", "made", "images", "pki", "aws")


@dataclass
class Ran:
    """All that one site did."""

    deployment: Deployment
    calls: list[dict[str, str]]
    secrets: dict[str, str]
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def launches(self) -> list[dict[str, str]]:
        return [call for call in self.calls if call.get("Action") == "RunInstances"]

    def user_data(self) -> list[dict[str, Any]]:
        texts = [base64.b64decode(call["UserData"]).decode() for call in self.launches()]
        return [json.loads(text.removeprefix("#cloud-config\n")) for text in texts]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    state = tmp_path_factory.mktemp("security") / "site"
    with Site(state, regions=REGIONS) as site, Proxy(site.ec2.url) as proxy:
        session = session_of(site)
        secrets = {
            "access key": session["AccessKeyId"],
            "secret key": session["SecretAccessKey"],
            "session token": session["SessionToken"],
            **SECRETS,
        }
        credentials = {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
            # Nobody listens there; what is on this machine is reached without.
            "HTTP_PROXY": f"http://somebody:{SECRETS['proxy password']}@127.0.0.1:9",
            "HTTPS_PROXY": f"http://somebody:{SECRETS['proxy password']}@127.0.0.1:9",
            "PGPASSWORD": SECRETS["database password"],
            "DATABASE_URL": f"postgresql://fedimg:{SECRETS['database password']}@127.0.0.1:9/f",
        }
        site.environment.update(credentials)
        with site.bus.listen() as heard:
            deployment = Deployment(site, heard)
            try:
                deployment.start_worker()
                deployment.start_hub()
                yield play(Ran(deployment, proxy.calls, secrets))
            finally:
                deployment.close()


def session_of(site: Site) -> dict[str, str]:
    """Return the credentials of a role that may do everything, as an instance profile would have
    them.
    """
    account = boto3.Session(*site.ec2.key, region_name=REGIONS[0])
    iam, sts = (account.client(name, endpoint_url=site.ec2.url) for name in ("iam", "sts"))
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
    allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    trusted, allowed = (
        json.dumps({"Version": "2012-10-17", "Statement": [each]}) for each in (trust, allow)
    )
    role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument=trusted)["Role"]["Arn"]
    iam.put_role_policy(RoleName="worker", PolicyName="all", PolicyDocument=allowed)
    return dict(sts.assume_role(RoleArn=role, RoleSessionName="worker")["Credentials"])


def play(ran: Ran) -> Ran:
    """Forged announcements and a true one, an upload that has to fail, a look at all of it."""
    deployment = ran.deployment
    koji, bus = deployment.site.koji, deployment.site.bus
    file = deployment.image(IMAGE)

    def announce(kind: str, message: dict[str, Any]) -> None:
        bus.publish(f"{kind}.state.change", message)

    # Whatever a message says of a stranger's scratch build, though Koji has signed it …
    task = koji.add_task(NAME, VERSION, "666", {"x86_64": [file]}, owner="mallory")
    forged = koji.task_message(task.id) | {"owner": "ausil"}
    forged["info"] = {**forged["info"], "owner": "ausil", "request": [], "children": []}
    announce("task", forged)
    # … or of a stranger's build, or as if the scratch build were one of releng's.
    build = koji.add_build(NAME, VERSION, "667", {"x86_64": [file]}, owner="mallory")
    announce("build", koji.build_message(build.id) | {"owner": "releng", "name": "Fedora-Cloud"})
    announce("build", koji.build_message(build.id) | {"owner": "releng", "build_id": task.id})
    # A failed build that is said to be complete.
    failed = koji.add_build(NAME, VERSION, "668", {"x86_64": [file]}, state="FAILED")
    announce("build", koji.build_message(failed.id) | {"new": 1})
    # A true one, of which all but the id is forged.
    true = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [file]})
    message = koji.build_message(true.id)
    message |= {"name": "Evil", "version": "$(reboot)", "release": "`id`", "owner": "mallory"}
    message |= {"base_url": "http://evil.example", "files_base_url": "http://evil.example/work"}
    announce("build", message)

    deployment.fedimg("upload", "https://images.example/Fedora-Cloud-Base-1-1.x86_64.raw.xz")
    jobs = deployment.ended(count=2)
    ran.jobs = {job["state"]: job for job in jobs}
    ran.said.append(json.dumps(jobs))
    secret = f"https://somebody:{SECRETS['URL password']}@images.example/a.raw.xz"
    for command in (["upload", secret], ["plan", secret], ["amis"], ["check"], ["cleanup"]):
        ran.said.append(json.dumps(deployment.fedimg(*command, status=None)))
    deployment.heard.wait_for("image.publish", 240, count=sum(AMIS.values()))
    deployment.stop("worker")
    deployment.stop("hub")
    return ran


def test_only_the_id_of_an_announcement_is_believed(ran: Ran) -> None:
    job = ran.jobs["complete"]
    assert job["image"] == IMAGE
    ran.deployment.nothing_but_published(AMIS)
    amis = json.loads(ran.said[3])
    assert len(amis) == sum(AMIS.values())
    assert {ami["image"] for ami in amis} == {IMAGE}
    log = ran.deployment.log("worker")
    # By the hub's word, each of them.
    assert '"mallory" is not in koji.scratch_owners' in log
    assert '"mallory" is not in koji.build_owners' in log
    assert "evil.example" not in json.dumps(ran.deployment.heard.messages[5:])
    assert "evil.example" not in log


def test_instances_answer_imdsv2_alone_and_have_no_profile(ran: Ran) -> None:
    # A utility instance, and a test instance of each virtualization.
    assert len(ran.launches()) == 3
    for call in ran.launches():
        assert call["MetadataOptions.HttpTokens"] == "required"
        assert call["MetadataOptions.HttpPutResponseHopLimit"] == "1"
        assert not [name for name in call if name.startswith("IamInstanceProfile")]
        assert call["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_instances_let_in_the_configured_source_alone(ran: Ran) -> None:
    settings = tomllib.loads(ran.deployment.site.fedimg_config.read_text())
    network = settings["ec2"]["network"]
    rules = [c for c in ran.calls if c.get("Action") == "AuthorizeSecurityGroupIngress"]
    assert rules
    for rule in rules:
        assert {n: v for n, v in rule.items() if n.startswith("IpPermissions")} == {
            "IpPermissions.1.IpProtocol": "tcp",
            "IpPermissions.1.FromPort": str(network["ssh_port"]),
            "IpPermissions.1.ToPort": str(network["ssh_port"]),
            "IpPermissions.1.IpRanges.1.CidrIp": network["allowed_source"],
        }
    guarded = {rule["GroupId"] for rule in rules}
    for call in ran.launches():
        groups = {v for n, v in call.items() if ".SecurityGroup" in n}
        assert len(groups) == 1
        assert groups <= guarded
    assert not [c for c in ran.calls if c.get("Action") == "AuthorizeSecurityGroupEgress"]


def test_every_instance_has_keys_of_its_own(ran: Ran) -> None:
    given = ran.user_data()
    host_keys = [each["ssh_keys"]["ed25519_public"] for each in given]
    # The utility instance's comes by user data, a test instance's as EC2's key pairs do.
    client_keys = [key for each in given for key in each.get("ssh_authorized_keys", ())]
    imports = [call for call in ran.calls if call.get("Action") == "ImportKeyPair"]
    client_keys += [base64.b64decode(call["PublicKeyMaterial"]).decode() for call in imports]
    assert len(host_keys) == len(client_keys) == len(given)
    assert len({key.split()[1] for key in host_keys + client_keys}) == 2 * len(given)
    assert {c["KeyName"] for c in ran.launches() if "KeyName" in c} == {
        call["KeyName"] for call in imports
    }
    assert all(each["ssh_deletekeys"] is True for each in given)
    # The client's private half never leaves the worker.
    assert not [key for key in client_keys if "PRIVATE" in key]


def written(ran: Ran) -> Iterator[tuple[str, bytes]]:
    """All that was written: files, what commands printed, what the bus carried."""
    root = ran.deployment.site.state
    for path in root.rglob("*"):
        if path.is_file() and path.relative_to(root).parts[0] not in NOT_FEDIMGS:
            yield str(path), path.read_bytes()
    yield "commands", "\n".join(ran.said).encode()
    yield "bus", json.dumps(ran.deployment.heard.messages).encode()


def test_planted_secrets_appear_nowhere(ran: Ran) -> None:
    assert "images.example" in ran.jobs["failed"]["error"]
    names = {Path(name).name for name, _ in written(ran)}
    assert {"fedimg.db", "worker.log", "hub.log", "commands", "bus"} <= names
    for name, content in written(ran):
        for what, secret in ran.secrets.items():
            assert secret.encode() not in content, f"{what} in {name}"


def test_private_keys_are_on_no_disk(ran: Ran) -> None:
    private = [each["ssh_keys"]["ed25519_private"] for each in ran.user_data()]
    lines = [line for key in private for line in key.splitlines() if "PRIVATE" not in line]
    # Its first line says no more than which kind of key it is.
    telling = {line.encode() for line in lines if not line.startswith("b3BlbnNzaC1rZXktdjE")}
    assert len(telling) >= 2 * len(private)
    for name, content in written(ran):
        assert b"PRIVATE KEY-----" not in content, name
        assert not [line for line in telling if line in content], name
