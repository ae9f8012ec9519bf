"""The life of one instance, from power on to power off, on the machines' event loop."""

import asyncio
import logging
import socket
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from lab.ec2.partitions import private_name
from lab.machines import BOOT, FULL, FULL_BYTES, LOGIN, Disk, Launch, cloud_init, guest
from lab.machines.boot import judge
from lab.machines.cloud_init import CloudInit
from lab.machines.confine import Confinement, Login
from lab.machines.console import Console
from lab.machines.devices import Devices
from lab.machines.initialise import Initialiser
from lab.machines.session import PowerOff, Session
from lab.machines.sshd import SshServer

# How long a boot may take to break off before it is told again.
_CANCEL_SECONDS = 5.0

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class NamespaceMachine:
    """One instance. Every method runs on the event loop; the machine's state is between calls."""

    def __init__(
        self,
        directory: Path,
        address: str,
        holder: socket.socket,
        console: Console,
        *,
        boot_seconds: float,
        default_user: str,
    ) -> None:
        self._directory = directory
        self._address = address
        self._holder = holder
        self._console = console
        self._boot_seconds = boot_seconds
        self._default_user = default_user
        self._lock = asyncio.Lock()
        self._launch: Launch | None = None
        self._disks: dict[str, Disk] = {}
        self._boots = 0
        self._booting: asyncio.Task[None] | None = None
        self._confinement: Confinement | None = None
        self._devices: Devices | None = None
        self._sshd: SshServer | None = None
        self._sessions: set[Session] = set()
        self._full = False
        # What the first boot settles; later boots are of the same instance, as for cloud-init.
        self._initialised = False
        self._hostname = ""
        self._cloud: CloudInit | None = None
        self._logins: dict[str, Login] = {}
        self._host_keys: list[asyncssh.SSHKey] = []

    async def power_on(self, launch: Launch) -> None:
        """Begin to boot; what becomes of it is on the console."""
        async with self._lock:
            await self._halt()
            self._launch = launch
            self._disks = {disk.volume_id: disk for disk in launch.disks}
            self._begin()

    async def reboot(self) -> None:
        """Off and on again, with the disks of this moment."""
        async with self._lock:
            if self._launch is not None:
                await self._halt()
                self._begin()

    @property
    def reachable(self) -> bool:
        """Return whether it answers on its network, which every machine that boots does."""
        return self._confinement is not None

    async def shut_down(self) -> None:
        """Power off: there is no operating system that could take its time."""
        await self.power_off()

    async def power_off(self) -> None:
        """End everything the machine runs, and give its disks' files back."""
        async with self._lock:
            await self._halt()

    async def plug(self, disk: Disk) -> None:
        """Show a disk to the machine, now if it has booted, else when it does."""
        async with self._lock:
            self._disks[disk.volume_id] = disk
            if self._devices is not None:
                await self._devices.plug(disk)

    async def unplug(self, volume_id: str) -> None:
        """Take a disk away."""
        async with self._lock:
            self._disks.pop(volume_id, None)
            if self._devices is not None:
                await self._devices.unplug(volume_id)

    def _begin(self) -> None:
        assert self._launch is not None
        self._boots += 1
        self._booting = asyncio.create_task(self._boot_or_say_why(self._launch))

    async def _halt(self) -> None:
        if self._booting is not None:
            # More than once: before Python 3.12, asyncio.wait_for loses a cancellation that comes
            # with what it waits for, and the boot would go on to wait for the lock that we hold.
            while not self._booting.done():
                self._booting.cancel()
                await asyncio.wait([self._booting], timeout=_CANCEL_SECONDS)
            self._booting = None
        if self._confinement is not None:
            self._console.say("reboot: Power down")
            # Gone first, so that no further command starts in what is about to end.
            confinement, self._confinement = self._confinement, None
            await confinement.close()
        if self._sshd is not None:
            await self._sshd.stop()
            self._sshd = None
        await asyncio.gather(*(session.end() for session in list(self._sessions)))
        if self._devices is not None:
            self._devices.give_back()
            self._devices = None

    async def _boot_or_say_why(self, launch: Launch) -> None:
        try:
            await self._boot(launch)
        except Exception as error:
            _log.exception("instance %s did not boot", launch.instance_id)
            self._console.say(f"lab: the boot of {launch.instance_id} broke off: {error}")

    async def _boot(self, launch: Launch) -> None:
        loop = asyncio.get_running_loop()
        ready_at = loop.time() + self._boot_seconds
        root = next((disk.path for disk in self._disks.values() if disk.root), None)
        verdict = await _finished(
            asyncio.to_thread(
                judge,
                root,
                architecture=launch.architecture,
                virtualization_type=launch.virtualization_type,
                boot_mode=launch.boot_mode,
            )
        )
        self._console.say(*verdict.console)
        if not verdict.boots:
            return
        self._full = await _finished(asyncio.to_thread(launch.strikes, BOOT)) == FULL

        first = not self._initialised
        if first:
            await self._furnish(launch, verdict.os_release)
        else:
            await _finished(asyncio.to_thread(guest.empty_scratch, self._directory / "disk"))

        self._confinement = Confinement(self._directory)
        await self._confinement.open(self._hostname)
        seed = f"{launch.instance_id} {self._boots}"
        self._devices = Devices(self._confinement, launch.instance_type, seed)
        async with self._lock:
            await self._devices.plug_all(list(self._disks.values()))
        name = _pretty_name(verdict.os_release)
        self._console.say(f"Welcome to {name}!", f"Hostname set to <{self._hostname}>.")
        await self._initialise(launch, first=first, ready_at=ready_at)
        self._console.say("", name, f"{self._hostname} login:")

    async def _furnish(self, launch: Launch, os_release: str | None) -> None:
        """Make the instance's own files; what a first boot that broke off has left is replaced."""
        self._cloud = cloud_init.read(
            launch.user_data, public_key=launch.public_key, default_user=self._default_user
        )
        self._logins = guest.logins(self._cloud)
        self._hostname = self._cloud.hostname or f"ip-{self._address.replace('.', '-')}"
        name = private_name(self._address, launch.region)
        identity = guest.Identity(
            launch.instance_id, self._hostname, name, self._address, os_release
        )
        disk = self._directory / "disk"
        if disk.exists():
            await _finished(asyncio.to_thread(guest.remove, disk))
        await _finished(
            asyncio.to_thread(guest.furnish, disk, identity, self._cloud, launch.user_data)
        )

    async def _initialise(self, launch: Launch, *, first: bool, ready_at: float) -> None:
        """Do the work of cloud-init and sshd, in their order."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert self._cloud is not None
        initialiser = Initialiser(
            self._cloud, launch.instance_id, self._hostname, self._console, self._as_root
        )
        stamp = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
        self._console.say(f"cloud-init[1]: running 'init' at {stamp}.")
        await initialiser.early(first=first)
        if first:
            self._host_keys = await initialiser.host_keys()
            self._initialised = True
        initialiser.tell_keys(self._host_keys)

        await asyncio.sleep(max(0.0, ready_at - loop.time()))
        if self._host_keys:
            self._sshd = SshServer(
                self._holder,
                host_keys=self._host_keys,
                admits=launch.admits,
                strikes=lambda: launch.strikes(LOGIN),
                authorized_keys=self._authorized_keys,
                guest=lambda user: _Guest(self, self._logins[user]),
            )
            await self._sshd.start()
            self._console.say("Started sshd.service - OpenSSH server daemon.")
        else:
            self._console.say("sshd: no hostkeys available -- exiting.")

        await initialiser.late(first=first)
        took = loop.time() - began
        stamp = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S +0000")
        self._console.say(
            f"cloud-init[1]: finished at {stamp}. Datasource DataSourceEc2Local. Up {took:.2f} s."
        )

    async def _as_root(self, script: str, given: bytes, arguments: Sequence[str]) -> bool:
        """Run shell in the instance; its output goes to the console. Whether it succeeded."""
        words = ["/bin/sh", "-c", script, "sh", *arguments]
        process = await asyncio.create_subprocess_exec(
            *self.command(self._logins["root"], words, {}, terminal=False),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=Confinement.environment(),
            start_new_session=True,
        )
        try:
            said, _ = await process.communicate(given)
        except asyncio.CancelledError:
            # What it runs in the instance ends with the instance, which is why we are cancelled.
            # It may have ended in this very moment.
            with suppress(ProcessLookupError):
                process.kill()
            raise
        for line in said.decode(errors="replace").splitlines():
            self._console.say(f"cloud-init[1]: {line}")
        wrong = self.restore_volumes()
        if wrong is not None:
            self._console.say(wrong)
        if process.returncode != 0:
            self._console.say(
                f"cloud-init[1]: [WARNING]: Failed to run a script: exit {process.returncode}"
            )
        return process.returncode == 0 and wrong is None

    async def _authorized_keys(self, user: str) -> str:
        """Read the instance's own file: keys that were added since the boot count, too."""
        login = self._logins.get(user)
        if login is None:
            return ""
        words = ["head", "-c", "1000000", ".ssh/authorized_keys"]
        process = await asyncio.create_subprocess_exec(
            *self.command(login, words, {}, terminal=False),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=Confinement.environment(),
        )
        said, _ = await process.communicate()
        return said.decode(errors="replace")

    def command(
        self, login: Login, words: Sequence[str], environment: Mapping[str, str], terminal: bool
    ) -> list[str]:
        """Return the command line, on this host, for `words` in the instance. Raises PowerOff."""
        if self._confinement is None:
            raise PowerOff("the machine is off")
        return self._confinement.command(
            login,
            words,
            environment=environment,
            largest_file=self._largest_file(),
            terminal=terminal,
        )

    def _largest_file(self) -> int | None:
        if self._full:
            return FULL_BYTES
        return self._devices.largest_file() if self._devices is not None else None

    def restore_volumes(self) -> str | None:
        """Bring the volumes to their sizes; which of them had been written beyond the end of."""
        grown = self._devices.restore() if self._devices is not None else []
        if not grown:
            return None
        names = ", ".join(f"/dev/{device.name} ({device.size} bytes)" for device in grown)
        return f"lab: written beyond the end of {names}: No space left on device"

    def session_began(self, session: Session) -> None:
        self._sessions.add(session)

    def session_ended(self, session: Session) -> None:
        self._sessions.discard(session)


@dataclass(frozen=True)
class _Guest:
    """The instance to a session of one user."""

    machine: NamespaceMachine
    login: Login

    @property
    def shell(self) -> str:
        return self.login.shell

    def command(
        self, words: Sequence[str], environment: Mapping[str, str], terminal: bool
    ) -> list[str]:
        return self.machine.command(self.login, words, environment, terminal)

    def command_began(self, session: Session) -> None:
        self.machine.session_began(session)

    def command_ended(self, session: Session) -> str | None:
        self.machine.session_ended(session)
        return self.machine.restore_volumes()


async def _finished(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await work in a thread to its end even when cancelled: a thread cannot be."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _pretty_name(os_release: str | None) -> str:
    for line in (os_release or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return "Linux"
