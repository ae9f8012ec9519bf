"""Provide one EC2 for each module, and a site, an image and a waiter for each test."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedimg.aws.client.clients import Clients
from fedimg.aws.client.waiter import Waiter
from fedimg.aws.tags import SITE, Labels
from fedimg.config import Limits
from fedimg.images import Architecture, RawImage
from lab.ec2.server import EC2, Settings
from lab.ec2.states import Delays
from lab.machines.process import ProcessMachines
from tests.hands import Hands
from tests.plans import ask, follow, refusing

#: Two with PV kernels, one without.
ORIGIN, FURTHER, NO_KERNEL = REGIONS = ("us-east-1", "eu-west-1", "ap-east-1")

QUICK = Delays(
    instance_start=0.1,
    instance_stop=0.1,
    instance_terminate=0.2,
    snapshot=0.1,
    snapshot_copy=0.2,
    image=0.1,
    image_copy=0.1,
    volume=0.05,
)
LIMITS = Limits(wait_minimum=0.02, wait_maximum=0.1, settle=1, outage=1)

_numbers = itertools.count()


@dataclass(frozen=True)
class Account:
    """An account in a running EC2."""

    clients: Clients
    url: str
    token: str = field(repr=False)
    _refused: dict[str, dict[str, str]] = field(default_factory=dict)

    def refuse(self, region: str, **codes: str) -> None:
        """Let a region answer these actions with these errors from now on."""
        self._refused[region] = codes
        follow(self, refusing(self._refused))

    def refuse_nothing(self) -> None:
        self._refused.clear()
        follow(self, [])

    def live(self, site: str) -> list[dict[str, Any]]:
        """Return the existing resources with a site's tag, by the lab's ledger."""
        return [row for row in ask(self, "ledger/live") if row["tags"].get(SITE) == site]

    def kinds(self, site: str) -> list[str]:
        """Return the types of the resources that `live` returns."""
        return sorted(row["kind"] for row in self.live(site))

    def removals(self) -> list[dict[str, Any]]:
        """Return all removed resources, in the order of removal."""
        return [row for row in ask(self, "ledger") if row["event"] == "delete"]

    def calls(self) -> dict[str, int]:
        """Return how often each EC2 action was called so far."""
        return dict(ask(self, "calls").get("EC2", {}))


@pytest.fixture(scope="module")
def ec2(
    processes: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EC2]:
    """Run the module's EC2, with its `EC2_SETTINGS`."""
    state = tmp_path_factory.mktemp("ec2")
    machines = ProcessMachines(state / "machines")
    settings = {"regions": REGIONS, "delays": QUICK, **getattr(request.module, "EC2_SETTINGS", {})}
    with EC2(Settings(state=state / "ec2", **settings), machines) as server:
        yield server
    machines.close()


@pytest.fixture(scope="module")
def clients(ec2: EC2) -> Iterator[Clients]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", ec2.url)
        patch.setenv("AWS_ACCESS_KEY_ID", ec2.key.id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ec2.key.secret)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        yield Clients()


@pytest.fixture(scope="module")
def hands(clients: Clients) -> Hands:
    """Return further clients, for the tests' own calls."""
    return Hands()


@pytest.fixture
def account(ec2: EC2, clients: Clients) -> Iterator[Account]:
    account = Account(clients, ec2.url, ec2.token)
    yield account
    account.refuse_nothing()


@pytest.fixture
def origin(hands: Hands) -> Any:
    """Return boto3's client for the origin."""
    return hands.ec2(ORIGIN)


@pytest.fixture
def image() -> RawImage:
    name = f"Fedora-Cloud-Base-28-{next(_numbers)}.x86_64"
    url = f"https://koji.example.org/packages/{name}.raw.xz"
    checksum = "sha256:" + "5" * 64
    return RawImage(url, Architecture.X86_64, name, "build-7", 1000, checksum)


@pytest.fixture
def labels(image: RawImage) -> Labels:
    """Return the labels of a site that no other test uses."""
    return Labels.of(f"site-{next(_numbers)}", image)


@pytest.fixture
def waiter() -> Waiter:
    return Waiter(LIMITS, threading.Event())


@pytest.fixture
def make_volume(hands: Hands) -> Callable[..., str]:
    """Return a function that creates a blank volume and returns its id."""

    def make(labels: Labels, region: str = ORIGIN) -> str:
        client = hands.ec2(region)
        zone = client.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
        volume = client.create_volume(
            AvailabilityZone=zone,
            Size=1,
            TagSpecifications=labels.specifications(["volume"], "utility"),
        )["VolumeId"]
        wait_until(lambda: state_of(client.describe_volumes, "VolumeIds", volume) == "available")
        return str(volume)

    return make


@pytest.fixture
def make_snapshot(hands: Hands, make_volume: Callable[..., str]) -> Callable[..., str]:
    """Return a function that creates a snapshot, complete by default, and returns its id."""

    def make(labels: Labels, region: str = ORIGIN, *, completed: bool = True) -> str:
        client = hands.ec2(region)
        volume = make_volume(labels, region)
        snapshot = client.create_snapshot(
            VolumeId=volume, TagSpecifications=labels.specifications(["snapshot"], "snapshot")
        )["SnapshotId"]
        client.delete_volume(VolumeId=volume)
        if completed:
            wait_until(
                lambda: state_of(client.describe_snapshots, "SnapshotIds", snapshot) == "completed"
            )
        return str(snapshot)

    return make


@pytest.fixture
def snapshot(make_snapshot: Callable[..., str], labels: Labels) -> str:
    """Return a complete snapshot of the test's own job, in the origin."""
    return make_snapshot(labels)


def state_of(describe: Callable[..., Any], by: str, identity: str) -> str:
    (thing,) = next(v for k, v in describe(**{by: [identity]}).items() if k != "ResponseMetadata")
    return str(thing["State"])


def wait_until(so: Callable[[], bool], seconds: float = 240) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
