"""The machines behind the instances of the lab's EC2; each kind is a file here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: What may strike a connection to a machine: it is shown a host key that is nobody's, or breaks
#: when a command is asked for, or nothing passes any more when that has begun …
FOREIGN, DROPPED, FROZEN = "foreign", "dropped", "frozen"
#: … and its volumes, that no file can grow on them beyond FULL_BYTES.
FULL = "full"
FULL_BYTES = 4 << 20
#: When that is decided.
LOGIN, BOOT = "InstanceLogin", "InstanceBoot"


@dataclass(frozen=True)
class Disk:
    """A volume as a machine sees it: `path` holds the volume's real bytes, in a sparse file."""

    volume_id: str
    path: Path
    device_name: str
    root: bool


@dataclass(frozen=True)
class Launch:
    """Everything a machine is started from.

    `admits(source_address, port)` says whether the instance's security groups let a connection
    in at this moment. `user_data` is what RunInstances was given, decoded from base64. `strikes`,
    asked at each of `LOGIN` and `BOOT`, says what goes wrong with it; nothing when that is empty.
    """

    instance_id: str
    instance_type: str
    region: str
    architecture: str  # i386, x86_64 or arm64
    virtualization_type: str  # hvm or paravirtual
    boot_mode: str  # legacy-bios, uefi or uefi-preferred
    disks: Sequence[Disk]
    user_data: bytes
    key_name: str | None
    public_key: str | None  # the key pair's public half, in OpenSSH's form
    admits: Callable[[str, int], bool]
    strikes: Callable[[str], str] = lambda moment: ""
    memory_mib: int = 512  # its type's


class Machines(Protocol):
    """One kind of machine. Every method returns at once; a machine starts and ends by itself."""

    def address(self, instance_id: str) -> str:
        """Reserve a loopback address for this instance until `terminate`."""

    def start(self, launch: Launch) -> None:
        """Power the machine on. What keeps it from booting is said on its console, not raised."""

    def attach(self, instance_id: str, disk: Disk) -> None:
        """Attach the disk to the running machine."""

    def detach(self, instance_id: str, volume_id: str) -> None:
        """Detach the disk from the machine."""

    def stop(self, instance_id: str) -> None:
        """Power off; the disks stay. `start` may follow."""

    def reboot(self, instance_id: str) -> None:
        """Off and on again, with the same disks."""

    def terminate(self, instance_id: str) -> None:
        """Off for good; nothing of the machine is left running when this returns."""

    def console(self, instance_id: str) -> str:
        """Return the console output since the machine was first started."""

    def reachable(self, instance_id: str) -> bool:
        """Return whether the machine has answered on its network since it was switched on."""

    def close(self) -> None:
        """End every machine."""
