"""From a bus message to public AMIs in every region, as users see it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.koji.builds import METHODS
from lab.site import shipped_policy
from tests.system.builds import IMAGE, NAME, RELEASE, STEM, VERSION, announce_build, said
from tests.system.deployment import AMIS, Deployment, deployed, unhurried


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Like the others', and with no more permissions in AWS than an operator is told to give.

    Its worker writes and signs a catalogue.
    """
    catalogue = '\n[catalogue]\ndirectory = "catalogue"\nsigning_key = "catalogue.pem"\n'

    def configure(settings: str) -> str:
        return unhurried(settings) + catalogue

    with deployed(tmp_path / "site", configure=configure, policy=shipped_policy()) as running:
        yield running


def test_build_on_the_bus_becomes_public_amis_in_every_region(deployment: Deployment) -> None:
    tail(deployment)
    key = deployment.fedimg("keygen")["keyid"]
    announce_build(deployment)
    (job,) = deployment.ended()
    assert deployment.fedimg("status") == [job]
    assert (job["state"], job["error"]) == ("complete", None)
    assert {region["region"] for region in job["regions"]} == set(AMIS)
    deployment.nothing_but_published(AMIS)

    amis = deployment.fedimg("amis")
    assert len(amis) == sum(AMIS.values())
    assert all(ami["public"] and ami["architecture"] == "x86_64" for ami in amis)
    assert {(a["virt_type"], a["volume_type"]) for a in amis if a["region"] == "us-east-2"} == {
        ("hvm", "standard"),
        ("hvm", "gp2"),
    }
    check_messages(deployment, amis)
    check_catalogue(deployment, amis, key)
    for topic in ("image.upload", "image.test", "image.copy", "image.publish"):
        full = f"org.fedoraproject.dev.fedimg.{topic}"
        deployment.until(lambda full=full: full in deployment.log("tail"), f"{full} in the tail")


def tail(deployment: Deployment) -> None:
    """Start fedmsg-tail, and wait until it hears the bus."""
    command = deployment.site.bus.command("fedmsg-tail", "--really-pretty")
    deployment.start("tail", "env", "PYTHONUNBUFFERED=1", *command)

    def hears() -> bool:
        deployment.site.bus.publish("tail.hello", {})
        return "tail.hello" in deployment.log("tail")

    deployment.until(hears, "fedmsg-tail listening")


def check_catalogue(deployment: Deployment, amis: list[dict[str, Any]], key: str) -> None:
    """Expect what the worker wrote by itself to be what EC2 shows, signed."""
    folder = deployment.site.fedimg_config.parent / "catalogue"
    signed = folder / f"builds/{STEM}.intoto.jsonl"
    deployment.until(signed.exists, "the catalogue, signed")
    envelope = json.loads(signed.read_text())
    assert [each["keyid"] for each in envelope["signatures"]] == [key]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert {each["name"] for each in statement["subject"]} == {ami["name"] for ami in amis}
    (image,) = json.loads((folder / f"builds/{STEM}.json").read_text())["images"]
    listed = {(each["region"], each["ami"]): each for each in image["amis"]}
    assert set(listed) == {(ami["region"], ami["ami"]) for ami in amis}
    for live in deployment.live():
        if live["kind"] == "image":
            ami = listed[live["region"], live["id"]]
            assert ami["partition"] == "aws"
            assert ami["owner"].isdecimal()
            assert ami["ena"] == (ami["virtualization"] == "hvm")
            assert ami["imds"] == ("v2.0" if ami["virtualization"] == "hvm" else None)


def check_messages(deployment: Deployment, amis: list[dict[str, Any]]) -> None:
    deployment.heard.wait_for("image.publish", 240, count=len(amis))
    origin = [ami for ami in amis if ami["region"] == "us-east-1"]
    copies = [ami for ami in amis if ami["region"] != "us-east-1"]
    common = {"image_name": IMAGE, "service": "EC2"}

    uploads = said(deployment, "image.upload")
    assert [message["status"] for message in uploads] == ["started"] + ["completed"] * 4
    for message in uploads:
        assert message.items() >= common.items()
        assert set(message) == {
            "image_url", "image_name", "destination", "status", "service", "compose", "extra",
        }  # fmt: skip
        assert message["destination"] == "EC2 (us-east-1)"
        assert message["compose"] == STEM
        assert message["image_url"].endswith(f"/{IMAGE}.raw.xz")
    assert uploads[0]["extra"] == {}
    assert {m["extra"]["id"] for m in uploads[1:]} == {ami["ami"] for ami in origin}

    tests = said(deployment, "image.test")
    assert sorted((m["extra"]["virt_type"], m["status"]) for m in tests) == [
        ("hvm", "completed"),
        ("hvm", "started"),
        ("paravirtual", "completed"),
        ("paravirtual", "started"),
    ]
    passed = next(m for m in tests if m["status"] == "completed")
    assert passed["extra"]["checks"]
    assert all(check["passed"] for check in passed["extra"]["checks"])

    copied = said(deployment, "image.copy")
    assert len(copied) == len(copies)
    for message in copied:
        assert message.items() >= common.items()
        assert set(message) == {
            "image_name", "destination", "service", "compose_id", "architecture", "extra",
        }  # fmt: skip
        assert message["extra"]["source_image_id"] in {ami["ami"] for ami in origin}
    assert {(m["destination"], m["extra"]["id"]) for m in copied} == {
        (ami["region"], ami["ami"]) for ami in copies
    }

    published = said(deployment, "image.publish")
    assert {(m["destination"], m["extra"]["id"]) for m in published} == {
        (ami["region"], ami["ami"]) for ami in amis
    }
    assert len(published) == len(amis)
    assert set(published[0]) == {
        "image_url", "image_name", "destination", "service", "compose", "architecture", "extra",
    }  # fmt: skip


@pytest.mark.long
def test_message_sent_three_times_is_one_job(deployment: Deployment) -> None:
    announce_build(deployment, times=3)
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    deployment.nothing_but_published(AMIS)
    assert said(deployment, "image.upload")[0]["status"] == "started"
    assert len([m for m in said(deployment, "image.upload") if m["status"] == "started"]) == 1


def test_scratch_build_is_taken_from_its_allowed_owner_alone(deployment: Deployment) -> None:
    koji, bus = deployment.site.koji, deployment.site.bus
    file = deployment.image(IMAGE)
    stranger = koji.add_task(NAME, VERSION, RELEASE, {"x86_64": [file]}, owner="mallory")
    forged = koji.task_message(stranger.id)
    # The message lies about its owner; the hub does not.
    forged["owner"] = "ausil"
    bus.publish("task.state.change", forged)
    friend = koji.add_task(NAME, VERSION, "2", {"x86_64": [file]}, owner="ausil")
    bus.publish("task.state.change", koji.task_message(friend.id))
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    assert "mallory" in deployment.log("worker")
    deployment.nothing_but_published(AMIS)
    assert deployment.stop("hub") == 0


def test_builds_and_tasks_of_every_image_method_are_taken(deployment: Deployment) -> None:
    koji, bus = deployment.site.koji, deployment.site.bus
    expected = set()
    for number, method in enumerate(METHODS):
        # Their publishing is the other tests' concern.
        files = {"x86_64": [deployment.image(f"{NAME}-{VERSION}-{number}.x86_64", seed=number)]}
        build = koji.add_build(NAME, VERSION, str(number), files, method=method)
        bus.publish("build.state.change", koji.build_message(build.id))
        expected.add(f"build-{build.id}-{NAME}-{VERSION}-{number}.x86_64")
        # An osbuildImage task leaves its files to its build.
        if METHODS[method].child:
            name = f"{NAME}-{VERSION}-{number}.scratch.x86_64"
            files = {"x86_64": [deployment.image(name, seed=100 + number)]}
            task = koji.add_task(NAME, VERSION, str(number), files, method=method)
            bus.publish("task.state.change", koji.task_message(task.id))
            expected.add(name)

    def taken() -> bool | None:
        jobs = {job.job for job in deployment.jobs()} | {j.image.name for j in deployment.jobs()}
        return True if expected <= jobs else None

    deployment.until(taken, f"the jobs {expected}")


def test_messages_wait_in_the_outbox_while_the_relay_is_down(deployment: Deployment) -> None:
    announce_build(deployment)
    deployment.heard.wait_for("image.upload", 240)
    deployment.site.bus.stop_relay()
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    deployment.kill("worker")
    deployment.site.bus.start_relay()
    deployment.start_worker()
    deployment.heard.wait_for("image.publish", 240, count=sum(AMIS.values()))
    published = [json.dumps(m, sort_keys=True) for m in said(deployment, "image.publish")]
    assert len(set(published)) == sum(AMIS.values())


def test_entries_wait_while_koji_is_down(tmp_path: Any) -> None:
    with deployed(tmp_path / "site") as deployment:
        koji = deployment.site.koji
        build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [deployment.image(IMAGE)]})
        message = koji.build_message(build.id)
        koji.down()
        deployment.site.bus.publish("build.state.change", message)
        deployment.until(
            lambda: "waits for Koji" in deployment.log("worker") or None, "the worker asking"
        )
        deployment.kill("worker")
        koji.up()
        deployment.start_worker()
        (job,) = deployment.ended()
        assert job["state"] == "complete"
