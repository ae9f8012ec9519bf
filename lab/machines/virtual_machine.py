"""The life of one virtual machine, from power on to power off, on the machines' event loop."""

import asyncio
import logging
import shutil
import socket
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.ec2.partitions import private_name
from lab.machines import Disk, Launch, metadata, qemu
from lab.machines.boot import Verdict, pv_grub
from lab.machines.console import Console
from lab.machines.devices import on_nitro
from lab.machines.gateway import Gateway
from lab.machines.metadata import MetadataService
from lab.machines.paravirtual import NotLoaded, load
from lab.machines.programs import MissingProgram
from lab.machines.qemu import X86, Architecture, Direct, Hardware, Qemu, QemuError
from lab.machines.resolver import Resolver, ResolverService

_log = logging.getLogger(__name__)

# An operating system that has not shut down by then is switched off, as EC2 does after minutes. It
# takes seconds, and ten times as long where many machines are emulated at once.
_SHUTDOWN_SECONDS = 90.0
# Linux lets go of a disk in well under a second; one that has not booted does not hear the request.
_UNPLUG_SECONDS = 30.0

_NAMESPACE = uuid.UUID("1c6cf7d8-4f0e-4a6c-8c8e-0a6a5d6d9b57")


@dataclass(frozen=True)
class Host:
    """The share of this host for machines. `services` are what they reach of it: its ports on
    127.0.0.1, and the Unix sockets that lead there.
    """

    acceleration: str
    processors: int
    memory_mib: int  # the most that one machine gets
    services: Mapping[int, Path]
    sockets: Path  # short, and nobody else's
    places: asyncio.Semaphore  # how many may run at once


class VirtualMachine:
    """One instance. Every method runs on the event loop; the machine's state is between calls."""

    def __init__(
        self, directory: Path, address: str, holder: socket.socket, console: Console, host: Host
    ) -> None:
        self._directory = directory
        self._address = address
        self._holder = holder
        self._console = console
        self._host = host
        self._lock = asyncio.Lock()
        self._launch: Launch | None = None
        self._disks: dict[str, Disk] = {}
        self._life: asyncio.Task[None] | None = None
        self._qemu: Qemu | None = None
        self._gateway: Gateway | None = None
        # One disk after the other: what is attached again may be on its way out.
        self._slots = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def reachable(self) -> bool:
        """Return whether it has answered on its network since it was switched on."""
        return self._gateway is not None and self._gateway.heard

    async def power_on(self, launch: Launch) -> None:
        """Begin to boot; what becomes of it is on the console."""
        async with self._lock:
            await self._halt()
            self._launch = launch
            self._disks = {disk.volume_id: disk for disk in launch.disks}
            self._begin(launch)

    async def reboot(self) -> None:
        """Shut down and boot again, with the disks of that moment."""
        async with self._lock:
            if self._launch is not None:
                await self._shut_down()
                self._begin(self._launch)

    async def shut_down(self) -> None:
        """Have the operating system power off; one that does not is switched off."""
        async with self._lock:
            await self._shut_down()

    async def power_off(self) -> None:
        """Pull the plug: nothing of the machine is left when this returns."""
        async with self._lock:
            await self._halt()

    async def plug(self, disk: Disk) -> None:
        """Show a disk to the machine, now if it runs, else when it does."""
        self._disks[disk.volume_id] = disk
        if self._qemu is not None:
            self._change(self._plug(self._qemu, disk))

    async def unplug(self, volume_id: str) -> None:
        """Begin to take a disk away; its operating system has to agree."""
        if self._disks.pop(volume_id, None) is not None and self._qemu is not None:
            self._change(self._unplug(self._qemu, volume_id))

    def _change(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _plug(self, machine: Qemu, disk: Disk) -> None:
        async with self._slots:
            try:
                await machine.plug(disk)
            except QemuError as error:
                self._console.say(f"lab: {disk.volume_id} is not attached: {error}")

    async def _unplug(self, machine: Qemu, volume_id: str) -> None:
        async with self._slots:
            try:
                if not await machine.unplug(volume_id, _UNPLUG_SECONDS):
                    self._console.say(f"lab: the machine does not let go of {volume_id}")
            except QemuError as error:
                self._console.say(f"lab: {volume_id} is not detached: {error}")

    def _begin(self, launch: Launch) -> None:
        self._life = asyncio.create_task(self._live_or_say_why(launch))

    async def _shut_down(self) -> None:
        if self._qemu is not None:
            await self._qemu.shut_down(_SHUTDOWN_SECONDS)
        await self._halt()

    async def _halt(self) -> None:
        if self._life is not None:
            self._life.cancel()
            for change in self._changes:
                change.cancel()
            await asyncio.gather(self._life, *self._changes, return_exceptions=True)
            self._life = None

    async def _live_or_say_why(self, launch: Launch) -> None:
        try:
            await self._live(launch)
        except (QemuError, NotLoaded) as error:
            self._console.say(f"lab: {launch.instance_id} does not run: {error}")
        except Exception as error:
            _log.exception("instance %s", launch.instance_id)
            self._console.say(f"lab: the boot of {launch.instance_id} broke off: {error}")

    async def _live(self, launch: Launch) -> None:
        """From power on to power off, whoever ends it."""
        root = next((disk.path for disk in self._disks.values() if disk.root), None)
        kind = qemu.ARCHITECTURES[launch.architecture]
        try:
            qemu.require(kind)
        except MissingProgram as missing:
            self._console.say(
                f"lab: no {launch.architecture} machine runs here: this instance never boots",
                f"lab: {missing}",
            )
            return
        direct = None
        if launch.virtualization_type == "paravirtual":
            direct = await self._pv_grub(root)
            if direct is None:
                return
        async with self._host.places:
            hardware = self._hardware(launch, kind, direct)
            told = metadata.metadata(
                launch,
                name=hardware.hostname,
                local=qemu.GUEST_ADDRESS,
                public=self._address,
                mac=hardware.mac,
            )
            shutil.rmtree(hardware.sockets, ignore_errors=True)
            hardware.sockets.mkdir()
            resolver = Resolver(
                hardware.hostname, qemu.GUEST_ADDRESS, qemu.NETWORK, qemu.METADATA_ADDRESS
            )
            names = ResolverService(resolver, *hardware.names)
            await names.start()
            service = MetadataService(hardware.metadata, launch, told)
            machine = Qemu(hardware, self._console.show)
            gateway = Gateway(self._holder, hardware.ssh, launch.admits)
            try:
                await machine.start()
                gateway.start()
                self._qemu, self._gateway = machine, gateway
                await machine.ended.wait()
                self._console.say("lab: the machine is off")
            finally:
                self._qemu = self._gateway = None
                await gateway.stop()
                await machine.end()
                await names.stop()
                service.close()
                shutil.rmtree(hardware.sockets, ignore_errors=True)

    async def _pv_grub(self, root: Path | None) -> Direct | None:
        """Return what PV-GRUB starts; None when it starts nothing, and the console says so."""
        if root is None:
            self._console.say("lab: the instance has no root volume")
            return None
        found = await asyncio.to_thread(pv_grub, root)
        self._console.say(*found.console)
        if isinstance(found, Verdict):
            return None
        self._directory.mkdir(parents=True, exist_ok=True)
        return await asyncio.to_thread(load, found, self._directory)

    def _hardware(self, launch: Launch, kind: Architecture, direct: Direct | None) -> Hardware:
        identity = uuid.uuid5(_NAMESPACE, launch.instance_id)
        variables = None
        if direct is None and launch.boot_mode in ("uefi", "uefi-preferred"):
            variables = self._uefi_variables(kind)
        return Hardware(
            name=launch.instance_id,
            architecture=kind,
            acceleration=self._host.acceleration if kind is X86 else "tcg",
            processors=self._host.processors,
            memory_mib=min(launch.memory_mib, self._host.memory_mib),
            identity=f"ec2{str(identity)[3:]}",
            product=launch.instance_type,
            hostname=private_name(self._address, launch.region),
            mac=":".join(f"{byte:02x}" for byte in (0x02, *identity.bytes[:5])),
            nvme=on_nitro(launch.instance_type),
            disks=list(self._disks.values()),
            sockets=self._host.sockets / launch.instance_id,
            services=self._host.services,
            uefi_variables=variables,
            direct=direct,
        )

    def _uefi_variables(self, kind: Architecture) -> Path:
        """Return the firmware's memory, which outlives a reboot."""
        kept = self._directory / "uefi-variables"
        if not kept.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kind.variables, kept)
        return kept
