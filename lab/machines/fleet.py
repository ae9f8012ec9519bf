"""All machines of one kind: any thread's calls, carried to one event loop."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any, Generic, Protocol, TypeVar

from lab.machines import Disk, Launch, addresses
from lab.machines.console import Console

# Ending a machine takes some tens of milliseconds, and one that shuts down has a minute and a half;
# beyond this something is broken.
_SECONDS = 120
# Threads for the questions to security groups, which may wait for a lock that a caller holds who
# waits for us: there must be some left for the boots.
_THREADS = 64


class Member(Protocol):
    """One machine. Every method runs on the event loop."""

    @property
    def reachable(self) -> bool:
        """Return whether it answers on its network."""

    async def power_on(self, launch: Launch) -> None:
        """Begin to boot."""

    async def reboot(self) -> None:
        """Off and on again."""

    async def shut_down(self) -> None:
        """Off, by the operating system's own doing where it has one."""

    async def power_off(self) -> None:
        """Off; nothing of the machine is left when this returns."""

    async def plug(self, disk: Disk) -> None:
        """Show a disk to the machine."""

    async def unplug(self, volume_id: str) -> None:
        """Take a disk away."""


@dataclass(frozen=True)
class Place:
    """The address, held by a bound socket, and the folder that a machine has for its life."""

    folder: Path
    address: str
    holder: socket
    console: Console


M = TypeVar("M", bound=Member)


class Fleet(ABC, Generic[M]):
    """The `Machines` that all kinds share. Each answers SSH on its own loopback address at
    `ssh_port`; their files are in `state`.
    """

    def __init__(self, state: Path, ssh_port: int) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._state = state.resolve()
        self._ssh_port = ssh_port
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._machines: dict[str, M] = {}
        # Kept when a machine is gone: EC2 shows a terminated instance's console too.
        self._consoles: dict[str, Console] = {}
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, "lab-machines"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-machines")
        self._thread.daemon = True
        self._thread.start()

    @abstractmethod
    def _made(self, place: Place) -> M:
        """Make a machine that is switched off."""

    @abstractmethod
    def _removed(self, folder: Path) -> None:
        """Remove what a machine has left in its folder, which may never have been made."""

    def address(self, instance_id: str) -> str:
        """Reserve a loopback address for this instance until `terminate`."""
        with self._lock:
            return self._place(instance_id).address

    def start(self, launch: Launch) -> None:
        """Power the machine on. What keeps it from booting is said on its console, not raised."""
        with self._lock:
            machine = self._machines.get(launch.instance_id)
            if machine is None:
                machine = self._made(self._place(launch.instance_id))
                self._machines[launch.instance_id] = machine
        self._do(machine.power_on(launch))

    def attach(self, instance_id: str, disk: Disk) -> None:
        """Attach the disk to the running machine."""
        self._do(self._machines[instance_id].plug(disk))

    def detach(self, instance_id: str, volume_id: str) -> None:
        """Detach the disk from the machine as soon as its operating system lets go of it."""
        self._do(self._machines[instance_id].unplug(volume_id))

    def stop(self, instance_id: str) -> None:
        """Shut down; the disks stay. `start` may follow.

        What a virtual machine has yet to write belongs to the volumes, so this may take its time.
        """
        self._do(self._machines[instance_id].shut_down())

    def reboot(self, instance_id: str) -> None:
        """Off and on again, with the same disks."""
        self._do(self._machines[instance_id].reboot())

    def terminate(self, instance_id: str) -> None:
        """Off for good; nothing of the machine is left running when this returns.

        One that is already gone, or was never started, is no error.
        """
        with self._lock:
            machine = self._machines.pop(instance_id, None)
            place = self._places.pop(instance_id, None)
        if machine is not None:
            self._do(machine.power_off())
        if place is not None:
            place.holder.close()
            self._removed(place.folder)

    def console(self, instance_id: str) -> str:
        """Return the console output since the machine was first started."""
        console = self._consoles.get(instance_id)
        return console.text() if console is not None else ""

    def reachable(self, instance_id: str) -> bool:
        """Return whether the machine has answered on its network since it was switched on."""
        machine = self._machines.get(instance_id)
        return machine is not None and machine.reachable

    def close(self) -> None:
        """End every machine. No method may be called after this one."""
        with self._lock:
            left = [*self._places]
        for instance_id in left:
            self.terminate(instance_id)
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def _place(self, instance_id: str) -> Place:
        """Return the instance's own place. The caller holds the lock."""
        if instance_id not in self._places:
            address, holder = addresses.reserve(instance_id, self._ssh_port)
            console = self._consoles.setdefault(instance_id, Console())
            self._places[instance_id] = Place(self._state / instance_id, address, holder, console)
        return self._places[instance_id]

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)
