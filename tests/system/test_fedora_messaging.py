"""Through a real RabbitMQ and `fedora-messaging consume`: announcements in, messages out.

Follows fedimg/bus/amqp_liveness.py.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fedimg_messages import MESSAGES
from fedora_image_uploader_messages import AwsPublishedV1
from fedora_messaging.message import ERROR, INFO, get_message
from koji_fedoramessaging_messages.build import BuildStateChangeV1
from koji_fedoramessaging_messages.task import TaskStateChangeV1

from lab.broker import Broker, NoBroker, consumer
from lab.bus import PUNGI
from lab.certificates import Authority
from lab.koji.composes import LOCATION, add_compose, compose_message
from lab.site import Site
from tests.system.deployment import Deployment, unhurried

NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "43", "20261127.0"
IMAGE = f"{NAME}-{VERSION}-{RELEASE}.x86_64"
COMPOSE = f"Fedora-Cloud-{VERSION}-{RELEASE}"
TASK, BUILD, PUNGI_TOPIC = (
    "buildsys.task.state.change",
    "buildsys.build.state.change",
    "pungi.compose.status.change",
)
QUEUE = "fedimg"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    try:
        broker = Broker(tmp_path_factory.mktemp("broker"))
    except NoBroker as error:
        pytest.skip(f"not run: {error}")
    broker.start()
    yield broker
    broker.stop()


@contextmanager
def deployed(
    state: Path,
    broker: Broker,
    bus: str = '"fedora-messaging"',
    regions: Any = ("us-east-1",),
    user: str = "",
    announcing: str = "",
) -> Iterator[Deployment]:
    """Run a site, its worker, fedimg's consumer, and a consumer that keeps fedimg's messages."""
    with ExitStack() as running:
        site = running.enter_context(Site(state, regions=regions))
        heard = running.enter_context(site.bus.listen())

        def change(text: str) -> str:
            places = (
                f'{announcing}[composes]\nlocations = ["{site.koji.top_url}/{LOCATION}"]\n\n[koji]'
            )
            return f"bus = {bus}\n{unhurried(text).replace('[koji]', places, 1)}"

        deployment = Deployment(site, heard, change)
        callback = "fedimg.callback:Callback"
        conf = broker.configuration(QUEUE, [TASK, BUILD, PUNGI_TOPIC], callback, user)
        deployment.environment["FEDORA_MESSAGING_CONF"] = str(conf)
        running.callback(deployment.close)
        with broker.connection() as connection:
            channel = connection.channel()
            # A second consumer's queue, which is there before anything is said.
            channel.queue_declare("heard", durable=True)
            channel.queue_purge("heard")
            for modname in ("fedimg", "fedora_image_uploader"):
                channel.queue_bind("heard", "amq.topic", f"org.fedoraproject.dev.{modname}.#")
            channel.queue_declare(QUEUE, durable=True)
            channel.queue_purge(QUEUE)
        deployment.start_worker()
        start_consumer(deployment)
        yield deployment


def start_consumer(deployment: Deployment) -> None:
    before = deployment.log("consumer").count("Successfully registered AMQP consumer")
    deployment.start("consumer", *consumer("fedimg.callback:Callback"))
    deployment.until(
        lambda: (
            deployment.log("consumer").count("Successfully registered AMQP consumer") > before
            or None
        ),
        "the consumer listening",
    )


def until_stored(deployment: Deployment, compose: str) -> None:
    """Wait until the consumer says that a compose's announcement is in the database."""
    deployment.until(
        lambda: f"compose:{compose} is stored" in deployment.log("consumer") or None,
        f"{compose} stored",
    )


def said(broker: Broker) -> list[Any]:
    """All that the second consumer has got, read and validated as fedora-messaging does."""
    found = []
    with broker.connection() as connection:
        channel = connection.channel()
        while True:
            frame, properties, body = channel.basic_get("heard", auto_ack=True)
            if frame is None:
                return found
            found.append(get_message(frame.routing_key, properties, body))


def announced(deployment: Deployment) -> bool | None:
    return True if not deployment.store().unannounced(1) else None


def put(broker: Broker, kind: Any, body: dict[str, Any]) -> None:
    """Send a message of Koji's, as its own schema allows it."""
    message = kind(body=json.loads(json.dumps(body)))
    message.validate()
    broker.put(kind.topic, body, schema=message._properties.headers["fedora_messaging_schema"])


def make_build(deployment: Deployment, **about: Any) -> Any:
    koji = deployment.site.koji
    image = deployment.image(IMAGE)
    return koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]}, **about)


def test_schema_valid_messages_in_public_amis_and_schema_valid_messages_out(
    broker: Broker, tmp_path: Path
) -> None:
    with deployed(tmp_path / "site", broker, regions=("us-east-1", "eu-west-1")) as deployment:
        koji = deployment.site.koji
        build = make_build(deployment, method="kiwiBuild")
        # Other bytes: the same ones would be the build's job.
        other = deployment.image(f"{NAME}-Other-{RELEASE}.x86_64", seed=1)
        add_compose(koji.root, COMPOSE, {"x86_64": [other]})
        put(broker, BuildStateChangeV1, koji.build_message(build.id))
        broker.put(PUNGI_TOPIC, compose_message(COMPOSE, location="http://127.0.0.1:1/evil"))
        jobs = deployment.ended(2)
        assert {job["state"] for job in jobs} == {"complete"}, jobs
        assert {job["job"].partition("-Fedora-Cloud-Base")[0] for job in jobs} == {
            f"build-{build.id}",
            f"compose-{COMPOSE}",
        }
        deployment.until(lambda: announced(deployment), "everything announced")
        messages = said(broker)
    publishing = {MESSAGES[f"image.{topic}"] for topic in ("upload", "test", "copy", "publish")}
    assert {type(message) for message in messages} == publishing
    assert {message.severity for message in messages} == {INFO}
    assert {message.compose for message in messages} == {f"{NAME}-{VERSION}-{RELEASE}", COMPOSE}
    for message in messages:
        assert message.topic.startswith("org.fedoraproject.dev.fedimg.image.")
        assert message.summary
        assert message.url
        assert str(message)


@pytest.mark.long
def test_connection_by_tls_with_client_certificates_works(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates", "bus")
    # By the bus's own authority, and nobody that the broker knows.
    for name in ("fedimg", "stranger"):
        authority.issue_tls(name)
    other = Authority(tmp_path / "others", "other")
    other.issue_tls("fedimg")
    try:
        broker = Broker(tmp_path / "broker", authority, ["fedimg"])
    except NoBroker as error:
        pytest.skip(f"not run: {error}")
    broker.start()
    with closing(broker), deployed(tmp_path / "site", broker, user="fedimg") as deployment:
        build = make_build(deployment)
        put(broker, BuildStateChangeV1, deployment.site.koji.build_message(build.id))
        (job,) = deployment.ended()
        assert job["state"] == "complete"
        deployment.until(lambda: announced(deployment), "everything announced")
        assert "PublishV1" in {type(message).__name__ for message in said(broker)}

        assert checked(deployment) == ("ok", "the message schemas are installed")
        conf = Path(deployment.environment["FEDORA_MESSAGING_CONF"])
        good = conf.read_text()
        conf.write_text(good.replace("/fedimg.", "/stranger."))
        assert checked(deployment) == ("problem", "rejects the login")
        conf.write_text(good.replace(f"{authority.folder}/fedimg.", f"{other.folder}/fedimg."))
        assert checked(deployment) == ("problem", "cannot connect to the AMQP broker")
        conf.write_text(good.replace(str(authority.certificate), str(other.certificate)))
        assert checked(deployment) == ("problem", "certificate verify failed")
        conf.write_text(good.replace("/fedimg.key", "/none.key"))
        assert checked(deployment) == ("problem", "cannot read the files that [tls]")


def checked(deployment: Deployment) -> tuple[str, str]:
    """Return the status of `fedimg check`, and what it says of the broker."""
    found = deployment.fedimg("check", status=None)
    (row,) = (row for row in found if row["name"] == "broker")
    known = (
        "the message schemas are installed",
        "rejects the login",
        "certificate verify failed",
        "cannot connect to the AMQP broker",
        "cannot read the files that [tls]",
    )
    return row["status"], next((words for words in known if words in row["text"]), row["text"])


@pytest.mark.long
def test_compose_that_nobody_announced_is_published(broker: Broker, tmp_path: Path) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        deployment.stop("worker")
        today = time.strftime(f"Fedora-Cloud-{VERSION}-%Y%m%d.0", time.gmtime())
        add_compose(deployment.site.koji.root, today, {"x86_64": [deployment.image(IMAGE)]})
        deployment.start_worker()
        (job,) = deployment.ended()
        assert (job["job"], job["state"]) == (f"compose-{today}-{IMAGE}", "complete")


def test_same_image_by_task_build_and_compose_on_both_buses_is_one_job(
    broker: Broker, tmp_path: Path
) -> None:
    both = '["fedmsg", "fedora-messaging"]'
    with deployed(tmp_path / "site", broker, both) as deployment:
        site, koji = deployment.site, deployment.site.koji
        deployment.start_hub()
        image = {"x86_64": [deployment.image(IMAGE)]}
        task = koji.add_task(NAME, VERSION, RELEASE, image)
        build = koji.add_build(NAME, VERSION, RELEASE, image, checksum_type="md5")
        add_compose(koji.root, COMPOSE, image)
        put(broker, TaskStateChangeV1, koji.task_message(task.id))
        put(broker, BuildStateChangeV1, koji.build_message(build.id))
        broker.put(PUNGI_TOPIC, compose_message(COMPOSE))
        site.bus.publish("task.state.change", koji.task_message(task.id))
        site.bus.publish("build.state.change", koji.build_message(build.id))
        site.bus.publish(
            "compose.status.change", compose_message(COMPOSE), modname="pungi", name=PUNGI
        )
        names = {f"task:{task.id}", f"build:{build.id}", f"compose:{COMPOSE}"}
        deployment.until(lambda: decided(deployment, names), "all three asked for")
        (job,) = deployment.ended()
        assert job["state"] == "complete"
        deployment.until(lambda: announced(deployment), "everything announced")
        over_amqp = [message.body for message in said(broker)]
        deployment.heard.wait_for("image.publish", 240)
    over_fedmsg = [one["msg"] for one in deployment.heard.messages if ".fedimg." in one["topic"]]
    assert over_amqp
    assert all(body in over_fedmsg for body in over_amqp)


def test_message_to_the_website_that_the_broker_refuses_is_parked_and_sent_again(
    broker: Broker, tmp_path: Path
) -> None:
    regions = ("us-east-1", "eu-west-1")
    also = '[announcing]\nalso = ["fedora-image-uploader"]\n\n'
    with deployed(tmp_path / "site", broker, regions=regions, announcing=also) as deployment:
        try:
            # The rights that Fedora gives to whoever announces: the topics of its own name.
            broker.limit_topics(r"^org\.fedoraproject\.dev\.(fedimg|pungi)\.")
            name = f"{NAME}-AmazonEC2-{VERSION}-{RELEASE}.x86_64"
            add_compose(deployment.site.koji.root, COMPOSE, {"x86_64": [deployment.image(name)]})
            broker.put(PUNGI_TOPIC, compose_message(COMPOSE))
            (job,) = deployment.ended()
            assert job["state"] == "complete"
            (parked,) = deployment.until(lambda: deployment.fedimg("outbox"), "the refusal")
            assert parked["topic"] == AwsPublishedV1.topic
            assert "does not allow this user to publish it" in parked["reason"]
            # The others have gone on, and nothing waits.
            deployment.until(
                lambda: deployment.store().waiting_messages() is None or None, "the others sent"
            )
            assert "is parked" in deployment.log("worker")
            found = {row["name"]: row for row in deployment.fedimg("check", status=None)}
            assert found["outbox"]["status"] == "warning"
            assert AwsPublishedV1.topic in found["outbox"]["text"]
            assert not any(isinstance(each, AwsPublishedV1) for each in said(broker))
            deployment.kill("worker")
        finally:
            broker.limit_topics(".*")
        deployment.start_worker()
        (again,) = deployment.fedimg("outbox", "--resend", str(parked["id"]))
        assert again["became"] == "sent again"
        deployment.until(lambda: announced(deployment), "the website's message")
        assert deployment.fedimg("outbox") == []
        (message,) = said(broker)
        assert isinstance(message, AwsPublishedV1)
        message.validate()
        assert message.topic == f"org.fedoraproject.dev.{AwsPublishedV1.topic}"
        hvm = [ami for ami in deployment.fedimg("amis") if ami["virt_type"] == "hvm"]
        assert message.body == {
            "architecture": "x86_64",
            "compose_id": COMPOSE,
            "image_name": name,
            "regions": {ami["region"]: ami["ami"] for ami in hvm},
            "release": int(VERSION),
            "subvariant": "Cloud_Base",
        }
        assert set(message.body["regions"]) == set(regions)
        with deployment.store().engine.connect() as connection:
            query = "SELECT count(*) FROM fedimg_outbox WHERE topic = ?"
            count = connection.exec_driver_sql(query, (AwsPublishedV1.topic,)).scalar_one()
        assert count == 1


def decided(deployment: Deployment, names: set[str]) -> bool | None:
    with deployment.store().engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT workflow_uuid FROM workflow_status "
            "WHERE name = 'fedimg.intake' AND status = 'SUCCESS'"
        )
        return True if names <= {row[0] for row in rows} else None


def test_broker_killed_midway_loses_no_message(broker: Broker, tmp_path: Path) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        build = make_build(deployment)
        put(broker, BuildStateChangeV1, deployment.site.koji.build_message(build.id))
        deployment.until(lambda: deployment.jobs() or None, "the job")
        broker.kill()
        (job,) = deployment.ended()
        assert job["state"] == "complete"
        assert announced(deployment) is None
        broker.start()
        deployment.until(lambda: announced(deployment), "everything announced")
        amis = {ami["ami"] for ami in deployment.fedimg("amis")}
        heard = {what(message) for message in said(broker)}
        booted = {ami for topic, _, ami in heard if topic == "image.test"}
        # One of each virtualization.
        assert len(booted) == 2
        assert heard == {
            ("image.upload", "started", None),
            *(("image.upload", "completed", ami) for ami in amis),
            *(("image.test", status, ami) for ami in booted for status in ("started", "completed")),
            *(("image.publish", None, ami) for ami in amis),
        }
        # The consumer finds the broker again, too.
        broker.put(PUNGI_TOPIC, compose_message("Fedora-Cloud-43-20261127.9"))
        until_stored(deployment, "Fedora-Cloud-43-20261127.9")


@pytest.mark.long
def test_consumer_that_the_broker_has_forgotten_ends_to_be_started_again(
    broker: Broker, tmp_path: Path
) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        deployment.stop("consumer")
        conf = Path(deployment.environment["FEDORA_MESSAGING_CONF"])
        conf.write_text(conf.read_text().replace('exchange = "amq.topic"', 'exchange = "feed"'))
        exchange(broker, "feed")
        start_consumer(deployment)
        # An exchange that is not durable is gone then, so that the consumer cannot listen to it.
        broker.kill()
        broker.start()
        deployment.until(
            lambda: (
                "The connection failed with an unexpected" in deployment.log("consumer") or None
            ),
            "the consumer, without an exchange",
        )
        exchange(broker, "feed")
        assert deployment.ends("consumer") == 1
        assert f"the broker delivers queue {QUEUE} to no consumer" in deployment.log("consumer")
        start_consumer(deployment)
        broker.put(PUNGI_TOPIC, compose_message(COMPOSE), exchange="feed")
        until_stored(deployment, COMPOSE)


def exchange(broker: Broker, name: str) -> None:
    """Make an exchange that does not outlive the broker's end."""
    with broker.connection() as connection:
        connection.channel().exchange_declare(name, "topic", durable=False)


def test_database_that_is_locked_and_consumer_that_is_killed_lose_no_announcement(
    broker: Broker, tmp_path: Path
) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        deployment.until(lambda: "started (site" in deployment.log("worker") or None, "the worker")
        deployment.kill("worker")
        database = deployment.site.state / "state" / "fedimg.db"
        with sqlite3.connect(database, isolation_level=None) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            broker.put(PUNGI_TOPIC, compose_message(COMPOSE))
            deployment.until(
                lambda: "Consuming message" in deployment.log("consumer") or None, "the delivery"
            )
            deployment.kill("consumer")
            lock.execute("ROLLBACK")
        assert "is stored" not in deployment.log("consumer")
        start_consumer(deployment)
        until_stored(deployment, COMPOSE)
        deployment.until(lambda: broker.waiting(QUEUE) == 0 or None, "the queue empty")


@pytest.mark.long
def test_invalid_messages_are_dropped_and_the_consumer_goes_on(
    broker: Broker, tmp_path: Path
) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        deployment.kill("worker")
        for topic in (TASK, PUNGI_TOPIC):
            for body in (
                b"\xff\xfe",
                b"{",
                b"[" * 100_000,
                b"null",
                b'"text"',
                [1],
                {"compose_id": "../../etc/passwd-20260101.0", "status": "FINISHED"},
                {"compose_id": {"a": 1}, "status": ["FINISHED"]},
                {"id": 10**30, "new": "CLOSED", "attribute": "state", "instance": "primary"},
            ):
                broker.put(topic, body)
        broker.put(PUNGI_TOPIC, {}, headers={})
        broker.put(PUNGI_TOPIC, {}, headers={"fedora_messaging_schema": ["list"]})
        broker.put(PUNGI_TOPIC, {}, encoding="no-such-encoding")
        broker.put(TASK, {}, schema="koji_fedoramessaging.task.TaskStateChangeV1")
        broker.put(PUNGI_TOPIC, compose_message(COMPOSE))
        until_stored(deployment, COMPOSE)
        deployment.until(lambda: broker.waiting(QUEUE) == 0 or None, "the queue empty")
        assert deployment.log("consumer").count("is stored") == 1
        assert deployment.stop("consumer") == 0


@pytest.mark.long
def test_failed_job_is_announced_with_severity_error(broker: Broker, tmp_path: Path) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        build = make_build(deployment)
        (path,) = deployment.site.koji.root.rglob(f"{IMAGE}.raw.xz")
        # What Koji has a checksum of is something else.
        path.write_bytes(path.read_bytes()[:-1])
        put(broker, BuildStateChangeV1, deployment.site.koji.build_message(build.id))
        (job,) = deployment.ended()
        assert job["state"] == "failed"
        deployment.until(lambda: announced(deployment), "everything announced")
        messages = said(broker)
    assert [what(message)[:2] for message in messages] == [
        ("image.upload", "started"),
        ("image.upload", "failed"),
    ]
    assert [message.severity for message in messages] == [INFO, ERROR]
    assert set(messages[1].body["extra"]) == {"data"}


def test_message_that_cannot_be_stored_is_redelivered_until_it_is(
    broker: Broker, tmp_path: Path
) -> None:
    with deployed(tmp_path / "site", broker) as deployment:
        deployment.until(lambda: "started (site" in deployment.log("worker") or None, "the worker")
        deployment.stop("worker")
        state = deployment.site.state / "state"
        state.rename(state.with_name("away"))
        # A file where the directory should be.
        state.write_text("")
        entries = [f"Fedora-Cloud-{VERSION}-20261127.{number}" for number in (7, 8)]
        for compose in entries:
            broker.put(PUNGI_TOPIC, compose_message(compose))
        deployment.until(
            lambda: deployment.log("consumer").count("returning it to the broker") >= 3 or None,
            "three tries",
        )
        assert "is stored" not in deployment.log("consumer")
        state.unlink()
        state.with_name("away").rename(state)
        for compose in entries:
            until_stored(deployment, compose)
        deployment.until(lambda: broker.waiting(QUEUE) == 0 or None, "the queue empty")
        assert deployment.stop("consumer") == 0


def what(message: Any) -> tuple[str, str | None, str | None]:
    """Return a message's topic, status and AMI."""
    body = message.body
    topic = message.topic.rpartition("fedimg.")[2]
    return topic, body.get("status"), body["extra"].get("id")


def test_failed_status_has_severity_error() -> None:
    body = {
        "image_url": "https://x/y.raw.xz",
        "image_name": "y",
        "destination": "EC2 (us-east-1)",
        "status": "failed",
        "service": "EC2",
        "compose": "c",
        "extra": {"data": "why"},
    }
    message = MESSAGES["image.upload"](body=body)
    message.validate()
    assert message.severity == ERROR
    assert message._properties.headers["fedora_messaging_severity"] == ERROR
