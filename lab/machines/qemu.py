"""One QEMU process: its command line, its monitor, its serial console, and its end."""

import asyncio
import codecs
import contextlib
import itertools
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.machines import Disk
from lab.machines.programs import MissingProgram, path_of
from lab.machines.relays import LARGE
from lab.machines.resolver import LINK_LOCAL

# QEMU's own network, behind which a machine is alone, with router and resolver where a VPC has
# them. It holds the link-local addresses of EC2's metadata and resolver, which QEMU answers only
# inside of it.
NETWORK = "169.252.0.0/14"
_HOSTS = "host=169.252.0.1,dns=169.252.0.2,dhcpstart=169.252.0.15"
GUEST_ADDRESS = "169.252.0.15"
# What a machine finds here is on the lab's own loopback address; the lab's image knows it.
LAB_ADDRESS = "169.252.0.100"
METADATA_ADDRESS = "169.254.169.254"
# In the machine's network namespace, where nothing else is: not 127.0.0.1, which is what a machine
# finds at its router's address.
_SSH_ADDRESS = "127.0.0.22"

_SCRIPT = Path(__file__).parent / "scripts" / "network.sh"


@dataclass(frozen=True)
class Architecture:
    """The machine that QEMU makes for an architecture of EC2's, and its UEFI firmware.

    `emulated` and `native` are words of the command line for its processor, the second with KVM.
    """

    program: str
    machine: str
    emulated: str
    native: str
    firmware: Path
    variables: Path  # the firmware's memory as it is when it is new
    packages: tuple[str, str]  # that have the firmware, on Debian and on Fedora


_OVMF, _AAVMF = Path("/usr/share/OVMF"), Path("/usr/share/AAVMF")
X86 = Architecture(
    "qemu-system-x86_64",
    # Without graphics, SeaBIOS speaks on the serial port.
    "pc,graphics=off",
    "max",
    "host",
    _OVMF / "OVMF_CODE_4M.fd",
    _OVMF / "OVMF_VARS_4M.fd",
    ("ovmf", "edk2-ovmf"),
)
ARM = Architecture(
    "qemu-system-aarch64",
    "virt,gic-version=3",
    # Graviton 2's, that of t4g and m6g.
    "neoverse-n1",
    "host",
    _AAVMF / "AAVMF_CODE.fd",
    _AAVMF / "AAVMF_VARS.fd",
    ("qemu-efi-aarch64", "edk2-aarch64"),
)
ARCHITECTURES = {"x86_64": X86, "i386": X86, "arm64": ARM}

# QEMU answers its monitor in milliseconds; on a machine that swaps it may take seconds.
_MONITOR_SECONDS = 30.0
_RELEASE_TRIES, _RELEASE_PAUSE = 50, 0.1


class QemuError(Exception):
    """QEMU refused what it was asked for, or is not there any more."""


@dataclass(frozen=True)
class Direct:
    """A kernel that is started without any boot loader."""

    kernel: Path
    initrd: Path | None
    arguments: str


@dataclass(frozen=True)
class Hardware:
    """The machine. `services` maps ports that it reaches at LAB_ADDRESS to Unix sockets of this
    host. In `sockets`, a folder of its own, are those of its metadata and of its resolver, and
    while it runs that of its SSH port.
    """

    name: str
    architecture: Architecture
    acceleration: str  # kvm or tcg
    processors: int
    memory_mib: int
    identity: str  # in SMBIOS, where cloud-init looks for "ec2"
    product: str
    mac: str
    hostname: str  # with its domain
    nvme: bool  # volumes are NVMe disks with serial numbers, as on Nitro; else virtio ones without
    disks: Sequence[Disk]
    sockets: Path
    services: Mapping[int, Path]
    uefi_variables: Path | None = None  # None: BIOS
    direct: Direct | None = None

    @property
    def ssh(self) -> Path:
        """Return the Unix socket that leads to the machine's port 22."""
        return self.sockets / "ssh"

    @property
    def metadata(self) -> Path:
        """Return the Unix socket of its metadata service."""
        return self.sockets / "metadata"

    @property
    def names(self) -> tuple[Path, Path]:
        """Return the Unix sockets of its resolver: that of datagrams, and that of streams."""
        return self.sockets / "names", self.sockets / "names-stream"


def require(kind: Architecture) -> None:
    """Raise MissingProgram when this host cannot run machines of an architecture."""
    path_of(kind.program)
    if not kind.firmware.exists():
        debian, fedora = kind.packages
        raise MissingProgram(
            f"the lab needs UEFI firmware for QEMU in {kind.firmware}, which is not installed: "
            f"`apt install {debian}` on Debian, `dnf install {fedora}` on Fedora"
        )


def alone(sockets: Path) -> list[str]:
    """Return the beginning of a command line that runs the rest of it without any network.

    `sockets` is the folder of the Unix sockets that lead out, and in: see scripts/network.sh.
    """
    return [
        *[path_of("unshare"), "--user", "--map-root-user", "--mount", "--net", "--"],
        *["/bin/sh", str(_SCRIPT), str(os.getpid()), str(sockets), LINK_LOCAL, _SSH_ADDRESS],
    ]


def command(hardware: Hardware, monitor: int) -> list[str]:
    """Return the command line; `monitor` is a connected socket's file descriptor."""
    kvm = hardware.acceleration == "kvm"
    kind = hardware.architecture
    words = [
        *alone(hardware.sockets),
        # What an emulated machine wants of a processor is all of it. The site that it talks to goes
        # first, and so do the other tests of a run; much less, and eight of them never come up.
        path_of("nice"), "-n", "5", path_of(kind.program),
        "-name", hardware.name, "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", kind.machine,
        "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=256",
        "-cpu", kind.native if kvm else kind.emulated,
        "-smp", str(hardware.processors), "-m", str(hardware.memory_mib),
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        "-smbios", f"type=1,manufacturer=Amazon EC2,product={hardware.product},"
        f"serial={hardware.identity},uuid={hardware.identity}",
        "-netdev", _network(hardware),
        "-device", f"virtio-net-pci,netdev=network,mac={hardware.mac},romfile=",
    ]  # fmt: skip
    if hardware.uefi_variables is not None:
        for unit, path, access in (
            (0, kind.firmware, "on"),
            (1, hardware.uefi_variables, "off"),
        ):
            words += ["-drive", f"if=pflash,unit={unit},format=raw,readonly={access},file={path}"]
    if hardware.direct is not None:
        words += ["-kernel", str(hardware.direct.kernel), "-append", hardware.direct.arguments]
        if hardware.direct.initrd is not None:
            words += ["-initrd", str(hardware.direct.initrd)]
    for disk in hardware.disks:
        words += ["-blockdev", json.dumps(_block(disk))]
        words += ["-device", json.dumps(_device(disk, hardware.nvme))]
    return words


class Qemu:
    """A running machine. What it prints goes to `heard`, and `ended` tells when it is over."""

    def __init__(self, hardware: Hardware, heard: Callable[[str], None]) -> None:
        self._hardware = hardware
        self._heard = heard
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._unplugged: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process
        self._monitor: asyncio.StreamWriter
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Power on. Raises QemuError when QEMU does not even start."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command(self._hardware, theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # Not a session of its own: Linux shares processors out between sessions before it
                # looks at who gives way to whom.
                process_group=0,
            )
        assert self._process.stdout is not None
        self._tasks.append(asyncio.create_task(self._listen(self._process.stdout)))
        reader, self._monitor = await asyncio.open_connection(sock=ours)
        self._tasks.append(asyncio.create_task(self._hear(reader)))
        await self.ask("qmp_capabilities")

    async def plug(self, disk: Disk) -> None:
        """Add a disk to the running machine."""
        await self.ask("blockdev-add", **_block(disk))
        await self.ask("device_add", **_device(disk, self._hardware.nvme))

    async def unplug(self, volume_id: str, seconds: float) -> bool:
        """Take a disk away; False when the machine has not let go of it in so many seconds."""
        gone = self._unplugged.setdefault(volume_id, asyncio.Event())
        await self.ask("device_del", id=volume_id)
        try:
            await asyncio.wait_for(gone.wait(), seconds)
        except TimeoutError:
            return False
        for _ in range(_RELEASE_TRIES):
            # The device is gone a moment before it has let go of its disk.
            with contextlib.suppress(QemuError):
                await self.ask("blockdev-del", **{"node-name": volume_id})
                return True
            await asyncio.sleep(_RELEASE_PAUSE)
        raise QemuError(f"QEMU keeps {volume_id} open")

    async def shut_down(self, seconds: float) -> None:
        """Press the power button, and wait for so long until the machine is off."""
        with contextlib.suppress(QemuError, TimeoutError):
            await self.ask("system_powerdown")
            await asyncio.wait_for(self.ended.wait(), seconds)

    async def end(self) -> None:
        """Pull the plug. Nothing of QEMU is left when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # Its output is read to the end; its monitor has nothing more to say.
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._monitor.close()

    async def ask(self, action: str, **arguments: Any) -> Any:
        """Let QEMU's monitor do something. Raises QemuError."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"execute": action, "arguments": arguments, "id": number}
        try:
            if self.ended.is_set():
                raise QemuError(f"{action}: the machine is off")
            self._monitor.write(json.dumps(request).encode() + b"\n")
            await self._monitor.drain()
            said = await asyncio.wait_for(answer, _MONITOR_SECONDS)
        except (OSError, TimeoutError) as error:
            raise QemuError(f"{action}: QEMU does not answer: {error}") from error
        finally:
            del self._answers[number]
        if "error" in said:
            raise QemuError(f"{action}: {said['error'].get('desc')}")
        return said.get("return")

    async def _listen(self, output: asyncio.StreamReader) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := await output.read(4096):
            self._heard(decoder.decode(chunk).replace("\r\n", "\n"))
        await self._process.wait()
        self.ended.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(QemuError("QEMU ended"))

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                said = json.loads(line)
                if said.get("event") == "DEVICE_DELETED":
                    device = said["data"].get("device")
                    if device in self._unplugged:
                        self._unplugged.pop(device).set()
                waiting = self._answers.get(said.get("id"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(said)


def _network(hardware: Hardware) -> str:
    host, _, domain = hardware.hostname.partition(".")
    # The namespace is what keeps a machine from this host's network and from the world. QEMU's own
    # restriction would also keep the router and the resolver out of its answers by DHCP.
    words = [
        "user,id=network",
        "ipv6=off",
        f"net={NETWORK}",
        _HOSTS,
        f"hostname={host}",
        f"domainname={domain}",
        f"hostfwd=tcp:{_SSH_ADDRESS}:22-:22",
    ]
    services = {(METADATA_ADDRESS, 80): hardware.metadata, (LINK_LOCAL, 53): hardware.names[1]}
    for number, target in hardware.services.items():
        services[LAB_ADDRESS, number] = target
    socat = " ".join([path_of("socat"), *LARGE])
    for (at, number), target in services.items():
        words.append(f"guestfwd=tcp:{at}:{number}-cmd:{socat} - UNIX-CONNECT:{target}")
    return ",".join(words)


def _block(disk: Disk) -> dict[str, Any]:
    return {
        "driver": "raw",
        "node-name": disk.volume_id,
        # Zeros that are written to a sparse file's hole leave it one.
        "discard": "unmap",
        "detect-zeroes": "unmap",
        # A flush brings bytes from the guest to this host's page cache, where CreateSnapshot reads
        # them; to wait for the host's disk as well would protect only from the host's own crash.
        "cache": {"no-flush": True},
        "file": {"driver": "file", "filename": str(disk.path), "discard": "unmap"},
    }


def _device(disk: Disk, nvme: bool) -> dict[str, Any]:
    kind: dict[str, Any] = {"driver": "virtio-blk-pci"}
    if nvme:
        kind = {"driver": "nvme", "serial": disk.volume_id.replace("-", "")}
    # 0 belongs to a kernel that is given directly.
    order = {"bootindex": 1} if disk.root else {}
    return {**kind, "id": disk.volume_id, "drive": disk.volume_id, **order}
