"""Turns volumes into the devices an instance sees, and keeps each volume at its size."""

import os
import random
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from lab.machines import Disk
from lab.machines.confine import Confinement

SECTOR = 512

# EC2's instance families on Xen, where volumes are /dev/xvd* and carry no serial number.
_XEN_FAMILIES = re.compile(
    r"c[134]|cc[12]|cg1|cr1|d2|f1|g[23]|g3s|h1|h[is]1|i[23]|m[1-4]|p[23]|r[34]|t[12]|x1e?"
)


def on_nitro(instance_type: str) -> bool:
    """Return whether volumes are NVMe disks with serial numbers."""
    return _XEN_FAMILIES.fullmatch(instance_type.partition(".")[0]) is None


@dataclass(frozen=True)
class Device:
    """A volume in an instance. `size` is bytes; `serial` is empty on Xen."""

    disk: Disk
    name: str
    serial: str
    size: int
    mode: int  # the file's own, given back when it is unplugged


class Devices:
    """The devices of one running instance.

    A volume is a plain file, not a block device, and three things follow. A limit on the size of
    files, that of the largest volume which can be written, takes the place of the end of the
    device: dd says "File too large" there, not "No space left on device". A smaller one can grow
    while a command runs, and one that is opened with O_TRUNC is cut: `restore` puts both right
    after each command. And the root volume is read-only, or its size would be the limit.
    """

    def __init__(self, confinement: Confinement, instance_type: str, seed: str) -> None:
        self._confinement = confinement
        self._nitro = on_nitro(instance_type)
        self._random = random.Random(seed)
        self._plugged: dict[str, Device] = {}
        self._order: list[int] = []

    async def plug_all(self, disks: list[Disk]) -> None:
        """Plug the disks of a machine that boots, in an order of this boot's own."""
        self._order = list(range(len(disks)))
        self._random.shuffle(self._order)
        for disk in disks:
            await self.plug(disk)

    async def plug(self, disk: Disk) -> None:
        """Make `disk` appear. The size its file has now is the volume's."""
        found = disk.path.stat()
        # Root in the instance has power only over files of a group that exists there.
        if found.st_gid != os.getegid():
            os.chown(disk.path, -1, os.getegid())
        device = Device(
            disk=disk,
            name=self._name(disk),
            serial=disk.volume_id.replace("-", "") if self._nitro else "",
            size=found.st_size,
            mode=stat.S_IMODE(found.st_mode),
        )
        # Everybody in the instance is the file's owner. Without the right to write, only root, who
        # needs none, writes: as on a machine, where the login user has to go through sudo.
        disk.path.chmod(device.mode & ~0o222)
        self._plugged[disk.volume_id] = device
        await self._confinement.plug(
            device.name,
            disk.path,
            sectors=device.size // SECTOR,
            serial=device.serial,
            read_only=disk.root,
        )

    async def unplug(self, volume_id: str) -> None:
        """Make a volume disappear and give its file back; one that is not there is no error."""
        device = self._plugged.pop(volume_id, None)
        if device is not None:
            await self._confinement.unplug(device.name, serial=device.serial)
            _give_back(device)

    def give_back(self) -> None:
        """Give every file back, after the instance has ended."""
        for device in self._plugged.values():
            _give_back(device)
        self._plugged.clear()

    def restore(self) -> list[Device]:
        """Bring every volume to its size again; those that a command wrote beyond the end of."""
        return [device for device in self._plugged.values() if _resize(device)]

    def largest_file(self) -> int | None:
        """Return the size in bytes of the largest volume that can be written."""
        return max((d.size for d in self._plugged.values() if not d.disk.root), default=None)

    def _name(self, disk: Disk) -> str:
        if not self._nitro:
            letters = re.sub(r"^/dev/(sd|xvd|hd)?|\d+$", "", disk.device_name)
            return f"xvd{letters}"
        taken = {device.name for device in self._plugged.values()}
        if self._order:
            return f"nvme{self._order.pop()}n1"
        return next(name for i in range(1000) if (name := f"nvme{i}n1") not in taken)


def _give_back(device: Device) -> None:
    if device.disk.path.exists():
        _resize(device)
        device.disk.path.chmod(device.mode)


def _resize(device: Device) -> bool:
    """Bring a volume's file to its size; whether it had grown."""
    path: Path = device.disk.path
    size = path.stat().st_size
    if size == device.size:
        return False
    path.chmod(device.mode)
    os.truncate(path, device.size)
    path.chmod(device.mode & ~0o222)
    return size > device.size
