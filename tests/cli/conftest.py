"""A configuration, its database and queue, and the command line of fedimg on them."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from fedimg.cli.commands import app
from fedimg.images import AMI, AMIType, Architecture, RawImage
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from lab.ec2.server import EC2
from lab.ec2.server import Settings as EC2Settings
from lab.machines.process import ProcessMachines

X86_URL = "https://kojipkgs.example.org/images/Fedora-Cloud-Base-28-1.1.x86_64.raw.xz"
X86 = RawImage.at(X86_URL, Architecture.X86_64, None)


FOLDER = "https://kojipkgs.example.org/images"
ARM_URL = f"{FOLDER}/Fedora-Cloud-Base-28-1.1.aarch64.raw.xz"
ARM = RawImage.at(ARM_URL, Architecture.ARM64, None)

Run = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "fedimg.toml"
    path.write_text('state_directory = "state"\n[ec2]\nregions = ["us-east-1", "eu-west-1"]\n')
    return path


@pytest.fixture
def run(config: Path) -> Run:
    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(config), *arguments])

    return command


@pytest.fixture
def store(config: Path) -> Iterator[Store]:
    with contextlib.closing(Store(config.parent / "state")) as store:
        yield store


@pytest.fixture
def jobs(store: Store) -> Iterator[JobQueue]:
    with contextlib.closing(JobQueue(store)) as jobs:
        yield jobs


@pytest.fixture
def x86_job(jobs: JobQueue) -> str:
    jobs.submit(X86)
    return X86.job


def finish(store: Store, job: str, state: str, error: str | None = None) -> None:
    row = store.job(job)
    assert row is not None
    store.begin(job, row.run)
    store.end(job, row.run, state, error)


def program(config: Path, *arguments: str, **given: Any) -> "subprocess.CompletedProcess[str]":
    """Run the installed command with its output in pipes."""
    return subprocess.run(
        [Path(sys.executable).parent / "fedimg", *arguments],
        env={**os.environ, "FEDIMG_CONFIG": str(config)},
        capture_output=True,
        text=True,
        **given,
    )


def on_terminal(
    config: Path,
    *arguments: str,
    seen: Callable[[str], None] = lambda so_far: None,
    columns: int = 100,
) -> str:
    """Run the installed command on a terminal; return its output with all control characters."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "fedimg", *arguments],
        env={**os.environ, "FEDIMG_CONFIG": str(config), "TERM": "xterm", "COLUMNS": str(columns)},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    # Linux reports the terminal's end as an error.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 4096):
            shown += chunk
            seen(shown.decode(errors="replace"))
    os.close(ours)
    process.wait()
    return shown.decode()


def record_amis(store: Store, image: RawImage, region: str, *types: str) -> None:
    for kind in map(AMIType.parse, types):
        identity = f"ami-{region}-{image.architecture}-{kind}"
        name = f"{image.name}-{kind.virtualization}-{region}-{kind.volume_type}-0"
        store.record_ami(image, AMI(identity, name, region, kind, f"snap-{region}"))


@pytest.fixture
def four_amis(store: Store, jobs: JobQueue) -> None:
    jobs.submit(X86)
    jobs.submit(ARM)
    record_amis(store, X86, "us-east-1", "hvm-gp2", "paravirtual-standard")
    record_amis(store, X86, "eu-west-1", "hvm-gp2")
    record_amis(store, ARM, "us-east-1", "hvm-standard")


@pytest.fixture(scope="session")
def ec2(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EC2]:
    state = tmp_path_factory.mktemp("ec2")
    with contextlib.closing(ProcessMachines(state / "machines", ssh_port=2222)) as machines:
        regions = ("us-east-1", "us-east-2", "eu-west-1")
        with EC2(EC2Settings(state=state / "ec2", regions=regions), machines) as ec2:
            yield ec2


@pytest.fixture
def aws(ec2: EC2, monkeypatch: pytest.MonkeyPatch) -> EC2:
    for name, value in {
        "AWS_ENDPOINT_URL": ec2.url,
        "AWS_ACCESS_KEY_ID": ec2.key.id,
        "AWS_SECRET_ACCESS_KEY": ec2.key.secret,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    return ec2


def client(region: str = "us-east-1") -> Any:
    return boto3.session.Session().client("ec2", region_name=region)
