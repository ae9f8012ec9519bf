"""Machines that are virtual: any thread's calls, carried to one event loop."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from lab.machines import Disk, Launch, addresses
from lab.machines.console import Console
from lab.machines.programs import MissingProgram, require
from lab.machines.qemu import UEFI_CODE
from lab.machines.virtual_machine import Host, VirtualMachine

_PROGRAMS = ("debugfs", "qemu-system-x86_64", "setpriv", "socat")
# Enough for a cloud image and for xz on top of it.
_MEMORY_MIB = 512
# Emulated, a second processor costs more than it brings: they wait for each other.
_PROCESSORS = 1
# More machines at once than this wait for one of them to end: each wants memory and processors.
_MOST = 4
# A machine that shuts down has half a minute for it; beyond this something is broken.
_SECONDS = 120
_THREADS = 64


@dataclass(frozen=True)
class _Reserved:
    address: str
    holder: socket


class VirtualMachines:
    """The `Machines` whose instances are QEMU's, without root.

    A machine's disks are the volumes' files themselves. lab.ec2 has made each of them as a copy of
    its snapshot that shares the blocks where the file system can, and holes elsewhere: that copy is
    the overlay, and one of QEMU's own on top would keep from the volume, and so from its
    snapshots, what the machine has written.

    `acceleration` is QEMU's name of one, kvm or tcg. Each instance answers SSH on its own loopback
    address at `ssh_port`. On its network it is alone but for `services`, ports on this host's
    127.0.0.1, and its metadata. Raises MissingProgram when this host cannot run them.
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
        require(_PROGRAMS)
        if not UEFI_CODE.exists():
            raise MissingProgram(
                f"the lab needs UEFI firmware for QEMU in {UEFI_CODE}, which is not installed: "
                "`apt install ovmf` on Debian, `dnf install edk2-ovmf` on Fedora"
            )
        state.mkdir(parents=True, exist_ok=True)
        self._state = state.resolve()
        self._ssh_port = ssh_port
        # A socket's path may have 107 characters, and state directories lie deep.
        self._sockets = Path(tempfile.mkdtemp(prefix="lab-vm-"))
        self._host = Host(
            acceleration=acceleration,
            processors=processors,
            memory_mib=memory_mib,
            services=tuple(services),
            sockets=self._sockets,
            places=asyncio.Semaphore(most),
        )
        self._lock = threading.Lock()
        self._reserved: dict[str, _Reserved] = {}
        self._machines: dict[str, VirtualMachine] = {}
        # Kept when a machine is gone: EC2 shows a terminated instance's console too.
        self._consoles: dict[str, Console] = {}
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, "lab-machines"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-machines")
        self._thread.daemon = True
        self._thread.start()

    def address(self, instance_id: str) -> str:
        """A loopback address for this instance, its own until `terminate`."""
        with self._lock:
            if instance_id not in self._reserved:
                address, holder = addresses.reserve(instance_id, self._ssh_port)
                self._reserved[instance_id] = _Reserved(address, holder)
            return self._reserved[instance_id].address

    def start(self, launch: Launch) -> None:
        """Power the machine on. What keeps it from booting is said on its console, not raised."""
        address = self.address(launch.instance_id)
        with self._lock:
            machine = self._machines.get(launch.instance_id)
            if machine is None:
                console = self._consoles.setdefault(launch.instance_id, Console())
                machine = VirtualMachine(
                    self._directory(launch.instance_id),
                    address,
                    self._reserved[launch.instance_id].holder,
                    console,
                    self._host,
                )
                self._machines[launch.instance_id] = machine
        self._do(machine.power_on(launch))

    def attach(self, instance_id: str, disk: Disk) -> None:
        """The disk appears in the running machine."""
        self._do(self._machines[instance_id].plug(disk))

    def detach(self, instance_id: str, volume_id: str) -> None:
        """The disk is gone from the machine as soon as its operating system lets go of it."""
        self._do(self._machines[instance_id].unplug(volume_id))

    def stop(self, instance_id: str) -> None:
        """Shut down; the disks stay. `start` may follow.

        Unlike the other methods this one takes its time: what the machine has yet to write belongs
        to the volumes.
        """
        self._do(self._machines[instance_id].shut_down())

    def reboot(self, instance_id: str) -> None:
        """Off and on again, with the same disks."""
        asyncio.run_coroutine_threadsafe(self._machines[instance_id].reboot(), self._loop)

    def terminate(self, instance_id: str) -> None:
        """Off for good; nothing of the machine is left running when this returns.

        One that is already gone, or was never started, is no error.
        """
        with self._lock:
            machine = self._machines.pop(instance_id, None)
            reserved = self._reserved.pop(instance_id, None)
        if machine is not None:
            self._do(machine.power_off())
        if reserved is not None:
            reserved.holder.close()
        shutil.rmtree(self._directory(instance_id), ignore_errors=True)

    def console(self, instance_id: str) -> str:
        """What the machine has printed since it was first started."""
        console = self._consoles.get(instance_id)
        return console.text() if console is not None else ""

    def close(self) -> None:
        """End every machine. No method may be called after this one."""
        with self._lock:
            left = [*self._reserved]
        for instance_id in left:
            self.terminate(instance_id)
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _directory(self, instance_id: str) -> Path:
        return self._state / instance_id

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)
