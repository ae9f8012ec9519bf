"""A started EC2 for the tests of lab/ec2, with machines that only write down what they are told."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from lab.access_keys import AccessKey
from lab.ec2.server import EC2, Settings
from lab.ec2.states import Delays
from lab.machines import Disk, Launch

# One for all tests: a session keeps the parsed models of its services, which take half a second.
KEY = AccessKey.new()
SESSION = boto3.Session(aws_access_key_id=KEY.id, aws_secret_access_key=KEY.secret)

QUICK = Delays(
    instance_start=0.1,
    instance_stop=0.1,
    instance_terminate=0.1,
    snapshot=0.1,
    snapshot_copy=0.1,
    image=0.1,
    image_copy=0.1,
    volume=0.05,
)


@dataclass
class RecordedMachines:
    """Stands in for machines, which are another room: remembers every call."""

    told: list[tuple[str, str]] = field(default_factory=list)
    launches: dict[str, Launch] = field(default_factory=dict)
    disks: dict[str, list[Disk]] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def address(self, instance_id: str) -> str:
        return self.addresses.setdefault(instance_id, f"127.20.0.{len(self.addresses) + 1}")

    def start(self, launch: Launch) -> None:
        self.told.append(("start", launch.instance_id))
        self.launches[launch.instance_id] = launch
        self.disks[launch.instance_id] = list(launch.disks)

    def attach(self, instance_id: str, disk: Disk) -> None:
        self.told.append(("attach", disk.volume_id))
        self.disks[instance_id].append(disk)

    def detach(self, instance_id: str, volume_id: str) -> None:
        self.told.append(("detach", volume_id))

    def stop(self, instance_id: str) -> None:
        self.told.append(("stop", instance_id))

    def reboot(self, instance_id: str) -> None:
        self.told.append(("reboot", instance_id))

    def terminate(self, instance_id: str) -> None:
        self.told.append(("terminate", instance_id))

    def console(self, instance_id: str) -> str:
        return f"console of {instance_id}\n"

    def reachable(self, instance_id: str) -> bool:
        return instance_id not in self.silent

    def close(self) -> None:
        pass


@dataclass
class Site:
    """A running EC2 and clients for it."""

    ec2: EC2
    machines: RecordedMachines
    folder: Path

    def client(self, service: str = "ec2", region: str = "us-east-1") -> Any:
        return SESSION.client(
            service,
            region_name=region,
            endpoint_url=self.ec2.url,
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Start an EC2 with other settings than the usual ones."""
    started: list[EC2] = []

    def start_one(**settings: Any) -> Site:
        machines = RecordedMachines()
        folder = tmp_path / f"ec2-{len(started)}"
        ec2 = EC2(Settings(state=folder, **{"delays": QUICK, "key": KEY, **settings}), machines)
        started.append(ec2)
        return Site(ec2, machines, folder)

    yield start_one
    for ec2 in started:
        ec2.close()


@pytest.fixture
def ec2(start: Callable[..., Site]) -> Site:
    return start()


@pytest.fixture
def utility(ec2: Site, tmp_path: Path) -> str:
    """Register an image of Amazon's in us-east-1, one GiB, that begins with `boot`."""
    raw = tmp_path / "utility.raw"
    raw.write_bytes(b"boot")
    return ec2.ec2.default_image("us-east-1", raw, name="al2023-utility")
