"""A site whose fedimg an operator has installed by README.md, on a machine with a systemd.

What fedimg talks to (EC2, Koji, a fedmsg bus, an AMQP broker) is a lab's, on the host's loopback.
"""

from __future__ import annotations

import json
import pprint
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab import disk
from lab.broker import Broker
from lab.bus import FEDIMG
from lab.site import Site
from tests.plans import ask
from tests.system.checkout import check_out, commands, index
from tests.system.container import Container
from tests.system.deployment import REGIONS, unhurried

NAME, VERSION = "Fedora-Cloud-Base", "43"
TOPIC = "buildsys.build.state.change"
TOPICS = (TOPIC, "buildsys.task.state.change")
HUB, WORKER, CONSUMER, WEB = "fedmsg-hub", "fedimg-worker", "fedimg-consumer", "fedimg-web"
UNITS = (HUB, WORKER, CONSUMER, WEB)
CHECKOUT = "/root/fedimg"
CERTIFICATES = "/etc/pki/fedmsg"
CONFIGURATION = "/etc/fedimg/fedimg.toml"
MESSAGING = "/etc/fedora-messaging/fedimg.toml"
KEYS = "/etc/fedimg/aws.env"
#: Of each wait: a busy machine takes its time.
PATIENCE = 240.0

T = TypeVar("T")


@dataclass
class InstalledSite:
    """A lab, and the machine on which fedimg's units run."""

    lab: Site
    broker: Broker
    machine: Container
    folder: Path

    def until(self, look: Callable[[], T | None], what: str) -> T:
        """Return the first answer of `look` that is neither None nor False."""
        deadline = time.monotonic() + PATIENCE
        while (answer := look()) is None or answer is False:
            if time.monotonic() > deadline:
                told = self.machine.run("journalctl --no-pager --lines=80", status=None)
                raise AssertionError(f"{what}: not within {PATIENCE} s\n{told}")
            time.sleep(0.5)
        return answer

    def announce(self, release: str, *, by_broker: bool = False) -> int:
        """Add a build with one image to Koji and announce it; return the build's id."""
        raw = disk.make_image(
            self.folder / f"{NAME}-{VERSION}-{release}.x86_64.raw",
            size_mib=24,
            random_mib=1,
            seed=int(release.partition(".")[0]),
        )
        build = self.lab.koji.add_build(NAME, VERSION, release, {"x86_64": [disk.compress(raw)]})
        message = self.lab.koji.build_message(build.id)
        if by_broker:
            self.broker.put(TOPIC, message)
        else:
            self.lab.bus.publish("build.state.change", message)
        return build.id

    def jobs(self) -> list[dict[str, Any]]:
        """Return the rows of `fedimg status --json`, as the user fedimg runs it."""
        printed = self.machine.run("runuser -u fedimg -- fedimg --json status", status=None)
        return json.loads(printed) if printed.startswith(("[", "{")) else []

    def job(self, build: int) -> dict[str, Any] | None:
        """Return the job of a build, where there is one."""
        return next((job for job in self.jobs() if job["job"].startswith(f"build-{build}-")), None)

    def published(self, build: int) -> dict[str, Any]:
        """Wait until a build's job has ended; return its row, which has to be complete."""

        def ended() -> dict[str, Any] | None:
            job = self.job(build)
            return job if job and job["state"] not in ("queued", "running") else None

        job = self.until(ended, f"the job of build {build}")
        assert (job["state"], job["error"]) == ("complete", None)
        return job

    def public(self) -> int:
        """Return the number of AMIs in EC2, each of which has to be public."""
        rows = [r for r in ask(self.lab.ec2, "ledger/live") if r["kind"] == "image"]
        own = [row for row in rows if row["public"]]
        return len(own)

    def active(self, unit: str) -> bool:
        """Return whether systemd has a unit as started and ready."""
        return self.machine.show(unit, "ActiveState") == "active"

    def pid(self, unit: str) -> int:
        """Return the main process of a unit, by its number in the machine; 0 if there is none."""
        return int(self.machine.show(unit, "MainPID"))

    def restarted(self, unit: str, before: int) -> bool:
        """Return whether another main process than `before` is ready."""
        return self.active(unit) and self.pid(unit) not in (0, before)


@contextmanager
def installed(folder: Path) -> Iterator[InstalledSite]:
    """Run a lab and a machine, and install fedimg there by the documentation's own commands."""
    with ExitStack() as running:
        lab = running.enter_context(Site(folder / "site", regions=REGIONS))
        broker = Broker(folder / "broker")
        broker.start()
        running.callback(broker.close)
        machine = Container(folder / "machine")
        running.callback(machine.close)
        site = InstalledSite(lab, broker, machine, folder)
        machine.boot()
        check_out(machine.root / CHECKOUT.lstrip("/"))
        for line in commands("README.md", "1. Install fedimg into an environment of its own"):
            machine.run(line, cwd=CHECKOUT, environment=index())
        for line in (
            *commands("README.md", "2. Create the user of hub and worker"),
            *commands("README.md", "3. Give only the worker AWS credentials"),
        ):
            machine.run(line, cwd=CHECKOUT)
        _write_hub_unit(machine)
        for line in commands("README.md", "4. Install the units"):
            machine.run(line, cwd=CHECKOUT)
        *user, _ = commands("docs/operations.md", "give the process a user of its own")
        for line in user:
            machine.run(line, cwd=CHECKOUT)
        _install_consumer(site)
        _configure(site)
        yield site


def _write_hub_unit(machine: Container) -> None:
    # The block is of two paragraphs and more: all that is indented up to the page's end.
    text = Path(__file__).parents[2].joinpath("docs/operations.md").read_text()
    page = text[text.index("## The hub's unit") :]
    lines = re.findall(r"(?m)^(?: {4}(\S.*))?$", page[page.index("    [Unit]") :])
    machine.write("/etc/systemd/system/fedmsg-hub.service", "\n".join(lines) + "\n")


def _install_consumer(site: InstalledSite) -> None:
    """As docs/migrating.md tells it, with the lab's broker."""
    text = Path(__file__).parents[2].joinpath("docs/migrating.md").read_text()
    (schemas,) = re.findall(r"`(/opt/fedimg/bin/pip install [^`]+fedimg-messages)`", text)
    (unit,) = re.findall(r"`(cp systemd/fedimg-consumer.service [^`]+)`", text)
    for line in (schemas, unit, "systemctl daemon-reload"):
        site.machine.run(line, cwd=CHECKOUT, environment=index())
    made = site.broker.configuration("fedimg", TOPICS, "fedimg.callback:Callback")
    site.machine.write(MESSAGING, made.read_text(), 0o640, "root:fedimg")
    with site.broker.connection() as connection:
        connection.channel().queue_declare("fedimg", durable=True)


def _configure(site: InstalledSite) -> None:
    """Lead fedimg and fedmsg to the lab, as a site's own files do."""
    machine, lab = site.machine, site.lab
    settings = unhurried(lab.fedimg_config.read_text())
    settings = re.sub(r"(?m)^state_directory = .*\n", "", settings)
    # The container has the host's network.
    operations, catalogue = _free_ports(2)
    own = (
        'bus = ["fedmsg", "fedora-messaging"]\n'
        f'[web]\noperations = "127.0.0.1:{operations}"\ncatalogue = "127.0.0.1:{catalogue}"\n'
        '[catalogue]\ndirectory = "/srv/fedimg"\nbase_url = "https://amis.example.org"\n'
    )
    head, table, rest = settings.partition("[koji]")
    machine.write(CONFIGURATION, f"{head}{own}{table}{rest}", 0o640, "root:fedimg")
    for line in commands("docs/catalogue.md", "has to belong to fedimg's user"):
        machine.run(line)
    keys = {name: value for name, value in lab.environment.items() if name.startswith("AWS_")}
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE"):
        del keys[name]
    machine.write(KEYS, "".join(f"{n}={v}\n" for n, v in keys.items()), 0o600)
    # After fedimg.py, by its name.
    shutil.copytree(lab.bus.authority.folder, machine.root / CERTIFICATES.lstrip("/"))
    machine.run(f"chown -R root:fedimg {CERTIFICATES} && chmod -R u=rwX,g=rX,o= {CERTIFICATES}")
    bus = pprint.pformat(lab.bus.config() | _certificates(site))
    machine.write("/etc/fedmsg.d/site.py", f"config = {bus}\n")


def _certificates(site: InstalledSite) -> dict[str, Any]:
    host = site.machine.run("uname -n").strip().split(".", 1)[0]
    here, there = str(site.lab.bus.authority.folder), CERTIFICATES
    config = site.lab.bus.config()
    moved = {
        name: config[name].replace(here, there)
        for name in ("ssldir", "ca_cert_location", "crl_location")
    }
    return {**moved, "certnames": {f"shell.{host}": FEDIMG, f"fedimg.{host}": FEDIMG}}


def _free_ports(count: int) -> list[int]:
    import socket

    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
