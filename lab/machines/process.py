"""Machines that are confined processes: any thread's calls, carried to one event loop."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from lab.machines import Disk, Launch, addresses, guest
from lab.machines.confine import PROGRAMS
from lab.machines.console import Console
from lab.machines.machine import Machine
from lab.machines.programs import require, require_namespaces

# Besides what confines them: what boot looks into disks with, and what every cloud image has.
_PROGRAMS = (*PROGRAMS, "curl", "debugfs", "e2fsck", "xz")
# Ending a machine takes some tens of milliseconds; beyond this something is broken.
_SECONDS = 120
# Threads for the questions to security groups, which may wait for a lock that a caller holds who
# waits for us: there must be some left for the boots.
_THREADS = 64


class NoExecution(Exception):
    """The state directory is on a file system that runs no programs."""


@dataclass(frozen=True)
class _Reserved:
    address: str
    holder: socket


class ProcessMachines:
    """The `Machines` whose instances are confined processes of this host, without root.

    Each instance answers SSH on its own loopback address at `ssh_port`, no sooner than
    `boot_seconds` after it was switched on. `default_user` is the user that an image would have.
    Raises MissingProgram, NoNamespaces or NoExecution when this host cannot run them.
    """

    def __init__(
        self,
        state: Path,
        *,
        ssh_port: int = 22000,
        boot_seconds: float = 0.3,
        default_user: str = "fedora",
    ) -> None:
        require(_PROGRAMS)
        require_namespaces()
        state.mkdir(parents=True, exist_ok=True)
        if os.statvfs(state).f_flag & os.ST_NOEXEC:
            raise NoExecution(
                f"{state} is on a file system mounted noexec, where instances can run nothing: "
                "give the lab a state directory elsewhere"
            )
        self._state = state.resolve()
        self._ssh_port = ssh_port
        self._boot_seconds = boot_seconds
        self._default_user = default_user
        self._lock = threading.Lock()
        self._reserved: dict[str, _Reserved] = {}
        self._machines: dict[str, Machine] = {}
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
                machine = Machine(
                    self._directory(launch.instance_id),
                    address,
                    self._reserved[launch.instance_id].holder,
                    console,
                    boot_seconds=self._boot_seconds,
                    default_user=self._default_user,
                )
                self._machines[launch.instance_id] = machine
        self._do(machine.power_on(launch))

    def attach(self, instance_id: str, disk: Disk) -> None:
        """The disk appears in the running machine."""
        self._do(self._machines[instance_id].plug(disk))

    def detach(self, instance_id: str, volume_id: str) -> None:
        """The disk is gone from the machine."""
        self._do(self._machines[instance_id].unplug(volume_id))

    def stop(self, instance_id: str) -> None:
        """Power off; the disks stay. `start` may follow."""
        self._do(self._machines[instance_id].power_off())

    def reboot(self, instance_id: str) -> None:
        """Off and on again, with the same disks."""
        self._do(self._machines[instance_id].reboot())

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
        directory = self._directory(instance_id)
        if directory.exists():
            guest.remove(directory)

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

    def _directory(self, instance_id: str) -> Path:
        return self._state / instance_id

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)
