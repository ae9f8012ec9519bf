"""Machines that are virtual, run by QEMU without root."""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab.machines import qemu
from lab.machines.fleet import Fleet, Place
from lab.machines.programs import require, require_namespaces
from lab.machines.relays import NoRelay, Relays
from lab.machines.virtual_machine import Host, VirtualMachine

_PROGRAMS = ("debugfs", "ip", "mount", "nice", "setpriv", "socat", "unshare")
# No machine gets more, whatever its type has: as much as the smallest types that fedimg uses, and
# enough for a cloud image and for xz on top of it.
_MEMORY_MIB = 2048
# Emulated, a second processor costs more than it brings: they wait for each other.
_PROCESSORS = 1
# More machines at once than this wait for one of them to end: each wants memory and processors.
_MOST = 8


def require_programs() -> None:
    """Raise MissingProgram when this host cannot run virtual machines."""
    require(_PROGRAMS)
    qemu.require(qemu.X86)


class VirtualMachines(Fleet[VirtualMachine]):
    """The `Machines` whose instances are QEMU's.

    A machine's disks are the volumes' files themselves. lab.ec2 has made each of them as a copy of
    its snapshot that shares the blocks where the file system can, and holes elsewhere: that copy is
    the overlay, and one of QEMU's own on top would keep from the volume, and so from its
    snapshots, what the machine has written.

    `acceleration` is QEMU's name of one, kvm or tcg. On its network each is alone but for
    `services`, ports on this host's 127.0.0.1, its metadata and its resolver. Raises MissingProgram
    or NoNamespaces when this host cannot run them.
    """

    def __init__(
        self,
        state: Path,
        *,
        acceleration: str,
        ssh_port: int = 22000,
        services: Sequence[int] = (),
        memory_mib: int = _MEMORY_MIB,
        processors: int = _PROCESSORS,
        most: int = _MOST,
    ) -> None:
        require_programs()
        require_namespaces()
        # A socket's path may have 107 characters, and state directories lie deep.
        self._sockets = Path(tempfile.mkdtemp(prefix="lab-vm-"))
        self._relays = Relays(self._sockets, services)
        self._host = Host(
            acceleration=acceleration,
            processors=processors,
            memory_mib=memory_mib,
            services={port: self._relays.to(port) for port in services},
            sockets=self._sockets,
            places=asyncio.Semaphore(most),
        )
        super().__init__(state, ssh_port)
        try:
            self._do(self._relays.start())
        except NoRelay:
            self.close()
            raise

    def _made(self, place: Place) -> VirtualMachine:
        return VirtualMachine(place.folder, place.address, place.holder, place.console, self._host)

    def _removed(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def reboot(self, instance_id: str) -> None:
        """Begin to shut down, which takes its time, and to boot again with the same disks."""
        asyncio.run_coroutine_threadsafe(self._machines[instance_id].reboot(), self._loop)

    def close(self) -> None:
        """End every machine. No method may be called after this one."""
        self._do(self._relays.stop())
        super().close()
        shutil.rmtree(self._sockets, ignore_errors=True)
