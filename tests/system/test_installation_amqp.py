"""A site without fedmsg: what fedimg-amqp.txt installs publishes over a real RabbitMQ.

Follows requirements/fedimg-amqp.txt and docs/operations.md. pip asks its index, and caches nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fedora_messaging.message import get_message

from lab.broker import Broker, NoBroker
from lab.site import Site
from tests.system.deployment import Deployment, unhurried

ROOT = Path(__file__).parent.parent.parent
NAME, VERSION, RELEASE = "Fedora-Cloud-Base", "43", "20261127.0"
BUILD = "buildsys.build.state.change"
#: What fedmsg brings or holds back; distributions by their normalised names.
ABSENT = {"fedmsg", "moksha-hub", "moksha-common", "txzmq", "txws", "pyzmq", "setuptools"}
# A slow index is no fault of the list; a hang is.
SECONDS = 600
# Almost all of it is pip, which asks an index for sixty packages.
pytestmark = pytest.mark.long


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install fedimg without fedmsg into an empty environment; return its folder of programs."""
    folder = tmp_path_factory.mktemp("amqp")
    programs = folder / "fedimg/bin"
    run(sys.executable, "-m", "venv", programs.parent)
    pip = [programs / "python", "-m", "pip", "--no-cache-dir", "--disable-pip-version-check"]
    # Debian's Python 3.11 puts setuptools into each new environment.
    run(*pip, "uninstall", "--quiet", "--yes", "setuptools")
    options = ("--quiet", "--require-hashes", "--only-binary=:all:")
    run(*pip, "install", *options, "-r", "requirements/fedimg-amqp.txt")
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*build, "--wheel-dir", wheels, ".", "./fedimg-messages")
    run(*pip, "install", "--quiet", "--no-deps", *wheels.glob("*.whl"))
    return programs


@pytest.mark.timeout(SECONDS)
def test_nothing_of_fedmsg_is_installed_and_nothing_else_is_missing(programs: Path) -> None:
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    listed = json.loads(run(*pip, "list", "--format=json"))
    versions = {row["name"].lower().replace(".", "-"): row["version"] for row in listed}
    assert not ABSENT & versions.keys()
    assert int(versions["cryptography"].partition(".")[0]) >= 50
    # fedimg's own metadata names the default, with fedmsg: it alone misses anything.
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True, timeout=SECONDS)
    others = [line for line in checked.stdout.splitlines() if not line.startswith("fedimg ")]
    assert not others


@pytest.mark.timeout(SECONDS)
def test_site_without_fedmsg_hears_publishes_and_announces(programs: Path, tmp_path: Path) -> None:
    try:
        broker = Broker(tmp_path / "broker")
    except NoBroker as error:
        pytest.skip(f"not run: {error}")
    broker.start()
    try:
        with Site(tmp_path / "site", regions=("us-east-1",)) as site, site.bus.listen() as heard:
            deployment = Deployment(
                site, heard, lambda text: f'bus = "fedora-messaging"\n{unhurried(text)}'
            )
            conf = broker.configuration("fedimg", [BUILD], "fedimg.callback:Callback", "")
            deployment.environment["FEDORA_MESSAGING_CONF"] = str(conf)
            try:
                publish(deployment, broker, programs)
            finally:
                deployment.close()
    finally:
        broker.stop()


def publish(deployment: Deployment, broker: Broker, programs: Path) -> None:
    """Announce a build, and expect its public AMI and our messages of it, by these programs."""
    with broker.connection() as connection:
        channel = connection.channel()
        channel.queue_declare("heard", durable=True)
        channel.queue_bind("heard", "amq.topic", "org.fedoraproject.dev.fedimg.#")
        channel.queue_declare("fedimg", durable=True)
    deployment.start("worker", str(programs / "fedimg"), "worker")
    consume = [str(programs / "fedora-messaging"), "consume", "--callback=fedimg.callback:Callback"]
    deployment.start("consumer", *consume)
    registered = "Successfully registered AMQP consumer"
    deployment.until(lambda: registered in deployment.log("consumer") or None, "the consumer")
    koji = deployment.site.koji
    image = deployment.image(f"{NAME}-{VERSION}-{RELEASE}.x86_64")
    build = koji.add_build(NAME, VERSION, RELEASE, {"x86_64": [image]})
    broker.put(BUILD, koji.build_message(build.id))
    (job,) = deployment.ended()
    assert job["state"] == "complete"
    deployment.until(lambda: not deployment.store().unannounced(1) or None, "all announced")
    classes = set()
    with broker.connection() as connection:
        channel = connection.channel()
        while (got := channel.basic_get("heard", auto_ack=True))[0] is not None:
            frame, properties, body = got
            classes.add(type(get_message(frame.routing_key, properties, body)).__name__)
    assert "PublishV1" in classes
