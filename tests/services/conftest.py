"""An EC2 whose instances run, a web server with images, and an EC2Service that publishes them."""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedimg.aws import cleanup, survey
from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.config import EC2, Check
from fedimg.images import AMI, Architecture, Disk, RawImage
from fedimg.progress import CheckResult
from fedimg.services.ec2 import EC2Service
from fedimg.services.outcome import Result
from fedimg.services.site import Coordination, Holds, Semaphores, Site
from fedimg.values.audience import Audience
from lab import disk
from lab.clients import aws_environment
from lab.ec2 import server
from lab.ec2.states import Delays
from lab.ec2.world import Quotas
from lab.machines.process import ProcessMachines
from tests import plans
from tests.aws.web import Web, serve
from tests.hands import Hands

SITE = "tests"
ORIGIN = "us-east-1"
#: us-east-1 and eu-west-1 have PV, us-east-2 has not.
REGIONS = (ORIGIN, "us-east-2", "eu-west-1")
#: Copies into this region do not end while a test runs.
SLOW_REGION = "ap-south-1"
#: No wait of these tests takes a tenth of this on an idle machine.
PATIENCE = 240.0
DELAYS = Delays(
    # A machine of the lab has booted by then: a first login that fails costs a second.
    instance_start=0.5,
    instance_terminate=0.1,
    instance_stop=0.1,
    snapshot=0.2,
    snapshot_copy=0.3,
    snapshot_copy_by_region={SLOW_REGION: 600},
    image=0.1,
    volume=0.05,
)
#: What one image takes in a region, and no more.
PUBLIC_AMIS = 4

#: What is enough where neither regions nor AMI types are what a test is about.
SMALL: dict[str, Any] = {"regions": [ORIGIN], "amis": {"types": ["hvm-gp2"]}}
WITH_COPY: dict[str, Any] = {**SMALL, "regions": [ORIGIN, "us-east-2"]}
WITH_PV: dict[str, Any] = {
    "regions": [ORIGIN, "eu-west-1"],
    "amis": {"types": ["paravirtual-gp2", "hvm-gp2"]},
}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Told:
    """One thing that the observer was told."""

    what: str
    region: str
    ami: AMI | None = None
    detail: str = ""
    output: str = ""
    checks: Sequence[CheckResult] = ()


@dataclass
class Recorder:
    """An observer that remembers, and acts at chosen moments.

    `when` maps words to what is done, once, when they are heard: by the thread that tells them,
    which waits meanwhile.
    """

    told: list[Told] = field(default_factory=list)
    when: dict[str, Callable[[], object]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _note(self, told: Told) -> None:
        with self._lock:
            self.told.append(told)
            heard = f"{told.what} {told.region} {told.detail}"
            actions = [self.when.pop(words) for words in list(self.when) if words in heard]
        for action in actions:
            action()

    def of(self, what: str) -> list[Told]:
        """Return the events of one kind, in order."""
        return [told for told in self.told if told.what == what]

    def amis(self, what: str) -> list[AMI]:
        """Return the AMIs of the events of one kind: registered, copied, published and so on."""
        return [told.ami for told in self.of(what) if told.ami]

    def words(self) -> str:
        """All progress, a line each."""
        return "\n".join(f"{told.region} {told.detail}" for told in self.of("progress"))

    def started(self) -> None:
        self._note(Told("started", ORIGIN))

    def lacks_tool(self, ami: str, tool: str) -> None:
        self._note(Told("lacks tool", ORIGIN, detail=f"{ami} {tool}"))

    def lacking_tools(self, ami: str) -> Collection[str]:
        details = [told.detail.split() for told in self.of("lacks tool")]
        return [tool for lacking, tool in details if lacking == ami]

    def written(self, disk: Disk) -> None:
        self._note(Told("written", ORIGIN, detail=f"{disk.sha256} {disk.length}"))

    def disk(self) -> Disk | None:
        details = [told.detail.split() for told in self.of("written")]
        return Disk(details[-1][0], int(details[-1][1])) if details else None

    def registered(self, ami: AMI) -> None:
        self._note(Told("registered", ami.region, ami))

    def copied(self, ami: AMI, source: AMI) -> None:
        assert (source.type, source.region) == (ami.type, ORIGIN)
        self._note(Told("copied", ami.region, ami))

    def dropped(self, ami: AMI, reason: str) -> None:
        self._note(Told("dropped", ami.region, ami, reason))

    def test_started(self, ami: AMI) -> None:
        self._note(Told("test started", ami.region, ami, str(ami.type)))

    def test_completed(self, ami: AMI, checks: Sequence[CheckResult]) -> None:
        self._note(Told("test completed", ami.region, ami, checks=checks))

    def test_failed(self, ami: AMI, checks: Sequence[CheckResult], output: str) -> None:
        self._note(Told("test failed", ami.region, ami, output=output, checks=checks))

    def publishing(self, region: str, ids: Collection[str]) -> Collection[str]:
        before = {id for told in self.of("publishing") for id in told.detail.split()}
        self._note(Told("publishing", region, detail=" ".join(ids)))
        return set(ids) - before

    def unpublished(self, region: str, ids: Collection[str]) -> None:
        self._note(Told("unpublished", region, detail=" ".join(ids)))

    def published(self, ami: AMI) -> bool:
        self._note(Told("published", ami.region, ami))
        return True

    def sharing(self, region: str, ids: Collection[str]) -> Collection[str]:
        before = {id for told in self.of("sharing") for id in told.detail.split()}
        self._note(Told("sharing", region, detail=" ".join(ids)))
        return set(ids) - before

    def shared(self, ami: AMI, audience: Audience) -> bool:
        self._note(Told("shared", ami.region, ami, str(audience)))
        return True

    def progress(
        self, region: str, step: str, detail: str = "", error: str | None = None, needs: int = 0
    ) -> None:
        self._note(Told("progress", region, detail=f"{step} {detail} {error or ''}".strip()))


@dataclass
class Lab:
    """The running EC2, and what tests ask of it."""

    url: str
    token: str = field(repr=False)
    snapshots: Path
    made: Path
    web: Web
    utility: str
    ssh_port: int
    default_image: Callable[..., str]
    account: server.EC2
    clients: Clients = field(default_factory=Clients)
    hands: Hands = field(default_factory=Hands)
    _made: dict[str, Path] = field(default_factory=dict)

    # Images

    def raw(self, **attributes: Any) -> Path:
        """Return a raw disk image of the lab; equal attributes give the same one."""
        key = repr(sorted(attributes.items()))
        if key not in self._made:
            path = self.made / f"{len(self._made)}.raw"
            self._made[key] = disk.make_image(
                path, **{"size_mib": 24, "random_mib": 1, **attributes}
            )
        return self._made[key]

    def packed(self, *, streams: int = 1, **attributes: Any) -> bytes:
        """Return the raw disk image compressed as Koji would serve it."""
        raw = self.raw(**attributes)
        key = f"{raw} in {streams}"
        if key not in self._made:
            packed = disk.compress(raw, streams=streams)
            self._made[key] = packed.rename(packed.with_name(f"{raw.name}.{streams}.xz"))
        return self._made[key].read_bytes()

    def image(
        self,
        content: bytes | None = None,
        *,
        architecture: Architecture = Architecture.X86_64,
        checksum: str | None = "",
        size: int | None = None,
        suffix: str = ".raw.xz",
        **attributes: Any,
    ) -> RawImage:
        """Put a new image on the web server, with its right checksum unless another is given.

        `content` takes the place of the lab's image with these `attributes`.
        """
        number = next(_numbers)
        name = f"Fedora-Cloud-Base-28-1.{number}.x86_64"
        served = self.packed(**attributes) if content is None else content
        url = self.web.put(f"{name}{suffix}", served)
        right = f"sha256:{hashlib.sha256(served).hexdigest()}"
        return RawImage(
            url,
            architecture,
            f"Fedora-Cloud-Base-28-1.{number}",
            f"build-{number}",
            size,
            right if checksum == "" else checksum,
        )

    # EC2

    def ec2(self, region: str = ORIGIN) -> Any:
        return self.hands.ec2(region)

    def ask(self, page: str) -> Any:
        """Return the lab's description of itself."""
        return plans.ask(self, page)

    def refuse(self, refused: dict[str, dict[str, str]]) -> None:
        plans.follow(self, plans.refusing(refused))

    def forget_calls(self) -> None:
        plans.forget_calls(self)

    def live(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the resources in the account, of one type or all, as the ledger has them."""
        rows = self.ask("ledger/live")
        return [row for row in rows if kind in (None, row["kind"])]

    def made_for(self, image: RawImage, kind: str, event: str = "create") -> list[dict[str, Any]]:
        """Return the ledger's entries of what was made (or deleted) for an image."""
        return [
            row
            for row in self.ask("ledger")
            if (row["kind"], row["event"], row["tags"].get("fedimg:job"))
            == (kind, event, image.job)
        ]

    def public(self) -> list[str]:
        """Return the ids of everything that is public."""
        return [row["id"] for row in self.live() if row["public"]]

    def described(self, ami: AMI) -> dict[str, Any]:
        """Return an AMI as EC2 shows it."""
        (shown,) = self.ec2(ami.region).describe_images(ImageIds=[ami.id])["Images"]
        return dict(shown)

    def bytes_of(self, snapshot: str, size: int) -> bytes:
        """Return the first bytes that a snapshot holds; behind them it is a hole of up to a GiB."""
        with (self.snapshots / snapshot).open("rb") as file:
            return file.read(size)

    # The caller's part

    def settings(self, **changes: Any) -> EC2:
        """Return settings for this lab; a `changes` table is laid over the lab's own."""
        values: dict[str, Any] = {
            "origin": ORIGIN,
            "regions": list(REGIONS),
            "login_user": "fedora",
            "test_user": "fedora",
            "x86_64": {"utility_ami": self.utility},
            # Whoever tests these asks for them: a reboot takes seconds.
            "test": {"shipped": []},
            "network": {"ssh_port": self.ssh_port, "allowed_source": "127.0.0.1/32"},
            "limits": {
                "instance_running": PATIENCE,
                "instance_gone": PATIENCE,
                "ssh_ready": PATIENCE,
                "write": PATIENCE,
                "write_idle": PATIENCE,
                "snapshot": PATIENCE,
                "copy": 900,
                "image": PATIENCE,
                "settle": 3,
                "outage": 3,
                "attempts": 1,
                "image_gib": 1,
                "wait_minimum": 0.1,
                "wait_maximum": 0.3,
            },
        }
        for key, change in changes.items():
            inner = values.get(key)
            values[key] = {**inner, **change} if isinstance(inner, dict) else change
        return EC2.model_validate(values)

    def service(
        self,
        *,
        checks: Sequence[Check] = (Check(name="runs a command", command="/bin/true"),),
        stop: threading.Event | None = None,
        holds: Holds | None = None,
        semaphores: Semaphores | None = None,
        **settings: Any,
    ) -> EC2Service:
        return EC2Service(
            Site(self.settings(**settings), SITE, checks, self.clients),
            Coordination(semaphores, holds=holds),
            stop=stop,
        )

    def upload(
        self, image: RawImage, observer: Recorder | None = None, *, rerun: bool = False, **made: Any
    ) -> Result:
        """Publish an image with a service that is `made` for it."""
        return self.service(**made).upload(image, observer or Recorder(), rerun=rerun)

    def clean(self, image: RawImage) -> None:
        """Remove what a job left, as the worker does; only what is public of it is live then."""
        regions = [*REGIONS, SLOW_REGION]
        limits = self.settings().limits
        cleanup.remove(
            self.clients,
            Waiter(limits, threading.Event()),
            survey.leftovers(self.clients, SITE, regions, job=image.job),
            limit=limits.instance_gone,
        )
        mine = [row for row in self.live() if row["tags"].get("fedimg:job") == image.job]
        assert [row for row in mine if not row["public"]] == []

    def leaves_nothing(self, image: RawImage) -> None:
        """Expect nothing public of a failed job, and nothing at all after its clean-up."""
        assert self.public() == []
        self.clean(image)
        assert self.live() == []

    def wipe(self) -> None:
        """Everything goes, what is public too, so that the next test finds an empty account."""
        for row in self.live("instance"):
            self.ec2(row["region"]).terminate_instances(InstanceIds=[row["id"]])
        until(lambda: not self.live("instance"), "instances gone")
        removals: dict[str, Callable[[Any, str], object]] = {
            "image": lambda ec2, id: ec2.deregister_image(ImageId=id),
            "snapshot": lambda ec2, id: ec2.delete_snapshot(SnapshotId=id),
            "volume": lambda ec2, id: ec2.delete_volume(VolumeId=id),
            "security-group": lambda ec2, id: ec2.delete_security_group(GroupId=id),
            "key-pair": lambda ec2, id: ec2.delete_key_pair(KeyPairId=id),
        }
        for kind, remove in removals.items():
            for row in self.live(kind):
                remove(self.ec2(row["region"]), row["id"])


def until(look: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `look` is true."""
    deadline = time.monotonic() + patience
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def site(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One EC2 for the module: what starts another one makes moto forget this one's networks."""
    folder = tmp_path_factory.mktemp("lab")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        ssh_port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patched, serve() as web:
        machines = ProcessMachines(folder / "machines", ssh_port=ssh_port, boot_seconds=0.1)
        try:
            settings = server.Settings(
                folder / "ec2", delays=DELAYS, quotas=Quotas(public_images=PUBLIC_AMIS)
            )
            with server.EC2(settings, machines) as ec2:
                for name, value in aws_environment(
                    folder / "aws", ec2.url, ORIGIN, ec2.key
                ).items():
                    patched.setenv(name, value)
                raw = disk.make_image(folder / "utility.raw", size_mib=24, random_mib=1)
                utility = ec2.default_image(ORIGIN, raw, name="utility")
                (folder / "made").mkdir()
                yield Lab(
                    ec2.url,
                    ec2.token,
                    folder / "ec2" / "snapshots",
                    folder / "made",
                    web,
                    utility,
                    ssh_port,
                    ec2.default_image,
                    ec2,
                )
        finally:
            machines.close()


@pytest.fixture
def lab(site: Lab) -> Iterator[Lab]:
    """Empty the account; nothing is refused there, and the web server works."""
    yield site
    site.web.manner, site.web.times = "well", None
    site.web.asked.clear()
    site.refuse({})
    site.account.quota(PUBLIC_AMIS)
    site.wipe()


def waiting_check(lab: Lab) -> Check:
    """Return a check that passes when the web server has a file `go`."""
    command = f"echo waiting; until curl -sf {lab.web.address}/go; do sleep 0.1; done"
    return Check(name="waits", command=command, timeout=PATIENCE)
