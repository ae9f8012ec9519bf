"""The outcome of a campaign, as EC2, the bus and the database tell it, compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import boto3

from fedimg.store.rows import AMIRow
from lab import leaks
from tests.plans import ask
from tests.system.deployment import Deployment

#: Region, virtualization and volume type of one AMI.
Kind = tuple[str, str, str]


@dataclass
class Verdict:
    """The state after a campaign, and its faults: none, if all went well."""

    figures: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def judge(deployment: Deployment, images: Iterable[str], planned: Counter[Kind]) -> Verdict:
    """Compare all that exists with one complete job an image, each with the AMIs planned."""
    verdict = Verdict()
    _jobs(deployment, set(images), verdict)
    amis = _amis(deployment, planned, verdict)
    _messages(deployment, amis, verdict)
    _leaks(deployment, verdict)
    verdict.problems += forgotten(deployment)
    return verdict


def forgotten(deployment: Deployment) -> list[str]:
    """Return in words where EC2's ledger and the record of what is public contradict each other."""
    record = [asdict(row) for row in deployment.store().amis()]
    return leaks.forgotten(leaks.things(deployment.live()), record)


def removed_but(deployment: Deployment, retired: Iterable[AMIRow]) -> list[str]:
    """Return in words what is wrong about AMIs that the rules of retention have removed.

    Nothing of them is left, and each was announced as deprecated, withdrawn and deleted, once.
    """
    retired = list(retired)
    gone = {id for row in retired for id in (row.ami, row.snapshot)}
    problems = [f"not removed: {row['id']}" for row in deployment.live() if row["id"] in gone]
    # A message may be sent twice, with the same content.
    heard = {
        (one["topic"].partition(".fedimg.")[2], _text(one["msg"]))
        for one in list(deployment.heard.messages)
        if ".fedimg." in one["topic"]
    }
    said = Counter((topic, json.loads(text)["extra"].get("id")) for topic, text in heard)
    for row in retired:
        for topic in ("image.deprecate", "image.withdraw", "image.delete"):
            if (times := said[topic, row.ami]) != 1:
                problems.append(f"{topic} of {row.ami} was announced {times} times")
    return problems


def amis_of(deployment: Deployment) -> dict[str, list[dict[str, Any]]]:
    """Return the account's own AMIs as EC2 describes them, by the job that their tag names."""
    found: dict[str, list[dict[str, Any]]] = {}
    session = boto3.Session(
        aws_access_key_id=deployment.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=deployment.environment["AWS_SECRET_ACCESS_KEY"],
    )
    for region in deployment.site.regions:
        ec2 = session.client("ec2", region, endpoint_url=deployment.site.ec2.url)
        for image in ec2.describe_images(Owners=["self"])["Images"]:
            tags = {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
            found.setdefault(tags.get("fedimg:job", "nobody's"), []).append(
                {
                    "id": image["ImageId"],
                    "region": region,
                    "virt_type": image["VirtualizationType"],
                    "vol_type": image["BlockDeviceMappings"][0]["Ebs"]["VolumeType"],
                    "public": image["Public"] and image["State"] == "available",
                }
            )
    return found


def kinds(amis: Iterable[dict[str, Any]]) -> Counter[Kind]:
    """Return how many AMIs there are of each kind."""
    return Counter((ami["region"], ami["virt_type"], ami["vol_type"]) for ami in amis)


def _jobs(deployment: Deployment, images: set[str], verdict: Verdict) -> None:
    jobs = deployment.jobs()
    verdict.figures |= {"images": len(images), "jobs": len(jobs)}
    count = Counter(job.image.name for job in jobs)
    verdict.problems += [f"{name}: no job" for name in sorted(images - set(count))]
    verdict.problems += [f"{name}: {n} jobs" for name, n in count.items() if n > 1]
    verdict.problems += [
        f"{job.job}: {job.state}, run {job.run}: {job.error}"
        for job in jobs
        if (job.state, job.run, job.error) != ("complete", 1, None)
    ]


def _amis(
    deployment: Deployment, planned: Counter[Kind], verdict: Verdict
) -> dict[str, list[dict[str, Any]]]:
    amis = amis_of(deployment)
    verdict.figures["amis"] = sum(map(len, amis.values()))
    known = {row.ami for row in deployment.store().amis() if row.public}
    for job in deployment.jobs():
        there = amis.get(job.job, [])
        if kinds(there) != planned:
            verdict.problems.append(f"{job.job}: AMIs {kinds(there)}, planned {planned}")
        for ami in there:
            if not ami["public"]:
                verdict.problems.append(f"{job.job}: {ami['id']} is not public")
            if ami["id"] not in known:
                verdict.problems.append(f"{job.job}: 'fedimg amis' does not name {ami['id']}")
    foreign = set(amis) - {job.job for job in deployment.jobs()}
    verdict.problems += [f"AMIs of no job: {job}" for job in sorted(foreign)]
    return amis


def _messages(
    deployment: Deployment, amis: dict[str, list[dict[str, Any]]], verdict: Verdict
) -> None:
    heard = Counter(
        (one["topic"].partition(".fedimg.")[2], _text(one["msg"]))
        for one in list(deployment.heard.messages)
        if ".fedimg." in one["topic"]
    )
    said = [(topic, json.loads(text)) for topic, text in heard]
    verdict.figures |= {
        "messages": len(heard),
        "messages heard again": sum(heard.values()) - len(heard),
        "messages waiting": len(deployment.store().unannounced()),
    }
    if verdict.figures["messages waiting"]:
        verdict.problems.append("messages wait in the outbox")
    for job in deployment.jobs():
        mine = [(t, m) for t, m in said if m["image_name"] == job.image.name]
        there = amis.get(job.job, [])
        origin = [ami for ami in there if ami["region"] == "us-east-1"]
        virtualizations = {ami["virt_type"] for ami in origin}
        wanted = Counter(
            [("image.upload", "started")]
            + [("image.upload", "completed")] * len(origin)
            + [("image.test", "started"), ("image.test", "completed")] * len(virtualizations)
            + [("image.copy", None)] * (len(there) - len(origin))
            + [("image.publish", None)] * len(there)
        )
        got = Counter((topic, message.get("status")) for topic, message in mine)
        if got != wanted:
            verdict.problems.append(f"{job.job}: announced {got}, not {wanted}")
        published = {m["extra"]["id"] for t, m in mine if t == "image.publish"}
        if published != {ami["id"] for ami in there}:
            verdict.problems.append(f"{job.job}: image.publish of {sorted(published)}")


def _leaks(deployment: Deployment, verdict: Verdict) -> None:
    left = [row for row in deployment.live() if not row["public"]]
    verdict.problems += [f"left: {row['kind']} {row['id']} in {row['region']}" for row in left]
    rows = ask(deployment.site.ec2, "ledger")
    made = Counter(row["kind"] for row in rows if row["event"] == "create")
    verdict.figures |= {f"{kind}s made": n for kind, n in sorted(made.items())}
    verdict.figures["things left"] = len(left)
    verdict.problems += [
        f"removed though public: {row['kind']} {row['id']}"
        for row in rows
        if row["event"] == "delete" and row["public"]
    ]


def _text(message: Any) -> str:
    return json.dumps(message, sort_keys=True)
