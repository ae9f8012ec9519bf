"""A whole site: EC2, Koji and bus together, and the files that say where each of them is.

What runs against it, fedimg or any other client, is not started here.
"""

import dataclasses
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any
from zlib import crc32

from lab import disk, image, instance_store
from lab.access_keys import AccessKey
from lab.bus import Bus, BusError, Ports
from lab.clients import SITE_NAME, Deployment, aws_environment, fedimg_toml, write_secret
from lab.control import Control
from lab.ec2.faults import Plan
from lab.ec2.iam.documents import Malformed
from lab.ec2.partitions import COMMERCIAL, ORIGINS, commercial, partitions_of
from lab.ec2.server import EC2, Settings
from lab.ec2.states import Delays
from lab.koji import Koji
from lab.machines import Machines, acceleration
from lab.machines.process import NoExecution, ProcessMachines
from lab.machines.programs import MissingProgram, NoNamespaces
from lab.machines.virtual_machines import VirtualMachines
from lab.processes import ProcessError
from lab.running import LOCK_FILE, SITE_FILE, SiteError, alone, read

#: Where sites of the partition `aws` write images.
ORIGIN = ORIGINS[COMMERCIAL]
LOGIN_USER = "fedora"
# Holds a kernel, a menu.lst and little else; nothing of it is used but that it can boot.
UTILITY_MIB = 32

# Configuration of fedmsg that the repository ships, installed on a site like on any machine.
SHIPPED_FEDMSG = Path(__file__).parent.parent / "fedmsg.d"
# The IAM policy that the repository ships, and the site's name in it, which stands for any.
SHIPPED_POLICY = Path(__file__).parent.parent / "docs" / "aws-policy.json"
EXAMPLE_SITE = "prod"


# What a person can do something about.
_CANNOT = (
    BusError,
    Malformed,
    ProcessError,
    MissingProgram,
    NoNamespaces,
    NoExecution,
    disk.DiskNotMade,
)


class Site:
    """Everything that a fedimg talks to. It runs from its making until `close`.

    `state` may be the folder of an earlier site: Koji still knows its builds, the ports are the
    same where they are still free, and so is the account's own key; EC2 starts empty. Nobody but
    the folder's owner may look into it, since the keys are there. `faults` are what goes
    wrong there. The `regions` are of one partition, and its origin is among them. With `vm`,
    instances are virtual machines, and utility instances run the image of
    lab.image, which is built when it is not in the cache; `boot_seconds` is for the others. With
    the text of an IAM `policy`, the environment's keys are those of a user who has it; without,
    they are the account's own. With `instance_store`, it has buckets and keys for bundles, and its
    fedimg makes instance-store AMIs, too.
    """

    def __init__(
        self,
        state: Path,
        regions: Sequence[str] | None = None,
        *,
        delays: Delays | None = None,
        faults: Plan | None = None,
        boot_seconds: float = 0.5,
        vm: bool = False,
        policy: str | None = None,
        instance_store: bool = False,
    ) -> None:
        self.vm = vm
        self._instance_store = instance_store
        self._policy = policy
        self.state = state.absolute()
        self.file = self.state / SITE_FILE
        self.fedimg_config = self.state / "fedimg.toml"
        self.logs = self.state / "logs"
        self.regions = tuple(regions) if regions else commercial()
        try:
            (self.partition,) = partitions_of(self.regions)
        except ValueError as error:
            raise SiteError(str(error)) from error
        #: Where images are written.
        self.origin = ORIGINS[self.partition]
        _lock_away(self.state)
        with ExitStack() as running:
            running.enter_context(alone(self.state))
            self.logs.mkdir(exist_ok=True)
            before = read(self.state) if self.file.exists() else {}
            ports = _Ports.like(before)
            self.file.unlink(missing_ok=True)
            settings = Settings(
                state=self.state / "ec2",
                port=ports.ec2,
                key=AccessKey(*before["account_key"])
                if "account_key" in before
                else AccessKey.new(),
                regions=self.regions,
                delays=delays or Delays(),
                faults=faults or Plan(),
            )
            try:
                self.image = image.image(_say) if vm else None
                self._start(running, settings, ports, boot_seconds)
            except _CANNOT as error:
                raise SiteError(str(error)) from error
            self._write(ports)
            self._running = running.pop_all()

    def __enter__(self) -> "Site":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything. The folder stays, and a later site may go on with it."""
        self._running.close()

    def _start(
        self, running: ExitStack, settings: Settings, ports: "_Ports", boot_seconds: float
    ) -> None:
        """Start each part, and have `running` end it."""
        self.bus = Bus(
            self.state,
            Ports(ports.relay_inbound, ports.relay_outbound),
            installed=sorted(SHIPPED_FEDMSG.glob("*.py")),
        )
        running.callback(self.bus.close)
        # The relay's imports take seconds; the rest starts meanwhile.
        with ThreadPoolExecutor(1) as relay:
            relay_started = relay.submit(self.bus.start_relay)
            machines = self._machines(ports, boot_seconds)
            running.callback(machines.close)
            self.ec2 = EC2(settings, machines)
            running.callback(self.ec2.close)
            self.koji = Koji(self.state / "koji", port=ports.koji)
            running.callback(self.koji.close)
            self.utility_amis = self._utility_amis()
            relay_started.result()
        self.control = Control(self.koji, self.bus, self.ec2, port=ports.control)
        running.callback(self.control.close)
        key = self.ec2.key if self._policy is None else self.ec2.user("fedimg", self._policy)
        # What leads clients here: AWS's variables, fedmsg's and fedimg's.
        self.environment = {
            **aws_environment(self.state / "aws", self.ec2.url, self.origin, key),
            **self.bus.environment,
            "FEDIMG_CONFIG": str(self.fedimg_config),
        }

    def _machines(self, ports: "_Ports", boot_seconds: float) -> Machines:
        folder = self.state / "machines"
        if self.image is None:
            return ProcessMachines(
                folder, ssh_port=ports.ssh, boot_seconds=boot_seconds, default_user=LOGIN_USER
            )
        found = acceleration.find(self.image.kernel, image.cache())
        _say(f"virtual machines by {found.reason}")
        return VirtualMachines(
            folder, acceleration=found.name, ssh_port=ports.ssh, services=[ports.koji]
        )

    def _utility_amis(self) -> dict[str, str]:
        folder = self.state / "images"
        folder.mkdir(exist_ok=True)
        amis = {}
        for architecture, name in (("x86_64", "x86_64"), ("aarch64", "arm64")):
            raw = folder / f"utility-{architecture}.raw"
            if not raw.exists():
                # Under its name only when it is whole: a later site uses what it finds.
                new = raw.with_suffix(".new")
                uefi = architecture == "aarch64"
                disk.make_image(new, size_mib=UTILITY_MIB, uefi=uefi, architecture=architecture)
                new.replace(raw)
            if self.image is not None and architecture == "x86_64":
                raw = self.image.raw
            amis[architecture] = self.ec2.default_image(
                self.origin, raw, name=f"lab-utility-{name}", architecture=name
            )
        return amis

    def _write(self, ports: "_Ports") -> None:
        bundles = self.state / "bundles"
        deployment = Deployment(
            state_directory=self.state / "state",
            koji_hub=self.koji.hub_url,
            koji_files=self.koji.top_url,
            origin=self.origin,
            utility_amis=self.utility_amis,
            login_user=LOGIN_USER,
            ssh_port=ports.ssh,
            vm=self.vm,
            instance_store=instance_store.prepare(bundles, self.ec2, self.regions)
            if self._instance_store
            else "",
        )
        self.fedimg_config.write_text(fedimg_toml(deployment))
        # For a shell: `. env.sh`.
        write_secret(
            self.state / "env.sh",
            "".join(f"export {name}={quote(value)}\n" for name, value in self.environment.items()),
        )
        told = {
            "pid": os.getpid(),
            "ec2": self.ec2.url,
            "region": self.origin,
            "regions": list(self.regions),
            "koji_hub": self.koji.hub_url,
            "koji_files": self.koji.top_url,
            "control": self.control.url,
            "control_token": self.control.token,
            # Good for everything, also where those of the environment are a user's.
            "account_key": list(self.ec2.key),
            "relay": {"inbound": self.bus.inbound, "outbound": self.bus.outbound},
            "fedmsg_config": str(self.bus.folder),
            "fedmsg_config_file": str(self.bus.config_file),
            "fedmsg_hub": self.bus.command("fedmsg-hub"),
            "fedimg_config": str(self.fedimg_config),
            "working_directory": str(self.state),
            "environment": self.environment,
            "utility_amis": {
                architecture: {self.origin: ami} for architecture, ami in self.utility_amis.items()
            },
            "login_user": LOGIN_USER,
            "ssh_port": ports.ssh,
            "image": None if self.image is None else str(self.image.packed),
            "ports": dataclasses.asdict(ports),
        }
        write_secret(self.file, json.dumps(told, indent=2) + "\n")


def shipped_policy(partition: str = COMMERCIAL) -> str:
    """Return the policy that the repository ships, for the site's fedimg in a partition."""
    policy = SHIPPED_POLICY.read_text().replace(f'"{EXAMPLE_SITE}"', f'"{SITE_NAME}"')
    # As docs/security.md has it.
    return policy.replace('"arn:aws:', f'"arn:{partition}:')


def _lock_away(folder: Path) -> None:
    """Let nobody but its owner into a site's folder, which is made where there is none.

    Raises SiteError for one that others use, too: that is not the lab's to close.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.stat().st_mode & 0o077:
        return
    if any(folder.iterdir()) and not (folder / LOCK_FILE).exists():
        raise SiteError(
            f"{folder} is open to other users and holds what is no lab site's; the site's keys "
            "will lie there: name a folder that is new, or chmod 700 this one"
        )
    try:
        folder.chmod(0o700)
    except OSError as error:
        raise SiteError(
            f"{folder} cannot be closed to other users ({error.strerror}), and the site's keys "
            "will lie there: name another folder"
        ) from error


def _say(text: str) -> None:
    """On standard error: a site's standard output is what its commands promise."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def delays(scale: float, regions: Sequence[str]) -> Delays:
    """Return the lab's own short delays times `scale`, and copies that are not equally far
    everywhere.
    """
    short = Delays()
    # How long EC2 tells of something, or does not, is the same everywhere.
    unscaled = ("instance_forgotten", "launch_told")
    names = [
        field.name
        for field in dataclasses.fields(Delays)
        if field.type is float and field.name not in unscaled
    ]
    return dataclasses.replace(
        short,
        **{name: getattr(short, name) * scale for name in names},
        snapshot_copy_by_region={
            region: short.snapshot_copy * scale * (1 + crc32(region.encode()) % 400 / 100)
            for region in regions
        },
    )


@dataclasses.dataclass(frozen=True)
class _Ports:
    ec2: int
    koji: int
    control: int
    relay_inbound: int
    relay_outbound: int
    ssh: int

    @classmethod
    def like(cls, before: Mapping[str, Any]) -> "_Ports":
        """Those of an earlier site where they are free, and free ones otherwise."""
        earlier = before.get("ports", {})
        names = [field.name for field in dataclasses.fields(cls)]
        # All are held at once, so that no two are the same.
        with ExitStack() as held:
            return cls(**{name: _free(earlier.get(name, 0), held) for name in names})


def _free(wanted: int, held: ExitStack) -> int:
    for port in (wanted, 0):
        probe = held.enter_context(socket.socket())
        # Connections of the last site may still be in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return int(probe.getsockname()[1])
    raise SiteError("this machine has no free port on 127.0.0.1")
