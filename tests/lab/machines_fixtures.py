"""Real machines with real disks, and an SSH client that believes only the host key it was given."""

import io
import itertools
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh
import paramiko
import pytest

from lab import disk
from lab.machines import Disk, Launch
from lab.machines.process import ProcessMachines

SSH_PORT = 22400
BOOT_SECONDS = 0.1
PATIENCE_SECONDS = 240
MIB = 1024 * 1024

# Ids that no other run of these tests has: what is left behind is looked for on the whole host.
_numbers = itertools.count(os.getpid() << 20)


@dataclass(frozen=True)
class Key:
    """A key pair in the forms that user data, asyncssh and paramiko want."""

    pair: asyncssh.SSHKey = field(
        default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519")
    )

    @property
    def private(self) -> str:
        return self.pair.export_private_key().decode()

    @property
    def public(self) -> str:
        return self.pair.export_public_key().decode().strip()

    @property
    def paramiko(self) -> paramiko.PKey:
        return paramiko.Ed25519Key.from_private_key(io.StringIO(self.private))


@dataclass(frozen=True)
class Answer:
    status: int
    output: str
    errors: str


class Shell:
    """One SSH connection; a command that says nothing for `patience` seconds is given up."""

    def __init__(self, client: paramiko.SSHClient, patience: float = PATIENCE_SECONDS) -> None:
        self.client = client
        self.patience = patience

    def __call__(self, command: str, given: bytes = b"") -> Answer:
        stdin, stdout, stderr = self.client.exec_command(command, timeout=self.patience)
        stdin.channel.sendall(given)
        stdin.channel.shutdown_write()
        output, errors = stdout.read().decode(), stderr.read().decode()
        return Answer(stdout.channel.recv_exit_status(), output, errors)


@dataclass
class Rig:
    """Machines, the keys that their user data gives them, and a place for disks."""

    machines: ProcessMachines
    folder: Path
    root_image: Path
    host_key: Key
    client_key: Key

    def volume(self, size: int = 8 * MIB, *, root: bool = False, device: str = "/dev/sdf") -> Disk:
        number = next(_numbers)
        path = self.folder / f"volume-{number}"
        with path.open("wb") as file:
            file.truncate(size)
        return Disk(f"vol-{number:017x}", path, device, root)

    def root(self, image: Path | None = None) -> Disk:
        made = self.volume(0, root=True, device="/dev/sda1")
        made.path.write_bytes((image or self.root_image).read_bytes())
        return made

    def user_data(self, more: str = "") -> bytes:
        private = textwrap.indent(self.host_key.private, "    ")
        return (
            f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{private}"
            f"ssh_authorized_keys:\n  - {self.client_key.public}\n{more}"
        ).encode()

    def launch(
        self,
        *volumes: Disk,
        root: Disk | None = None,
        user_data: bytes | None = None,
        admits: Callable[[str, int], bool] = lambda source, port: True,
    ) -> Launch:
        return Launch(
            instance_id=f"i-{next(_numbers):017x}",
            instance_type="t3.micro",
            region="us-east-1",
            architecture="x86_64",
            virtualization_type="hvm",
            boot_mode="legacy-bios",
            disks=[root or self.root(), *volumes],
            user_data=self.user_data() if user_data is None else user_data,
            key_name=None,
            public_key=None,
            admits=admits,
        )

    def start(self, launch: Launch) -> Launch:
        self.machines.start(launch)
        return launch

    def connect(self, launch: Launch, user: str = "fedora", key: Key | None = None) -> Shell:
        """Log in, as soon as that works. A refused key is raised at once."""
        address = self.machines.address(launch.instance_id)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            client = paramiko.SSHClient()
            pinned = self.host_key.paramiko
            client.get_host_keys().add(f"[{address}]:{SSH_PORT}", pinned.get_name(), pinned)
            try:
                client.connect(
                    address,
                    SSH_PORT,
                    user,
                    pkey=(key or self.client_key).paramiko,
                    look_for_keys=False,
                    allow_agent=False,
                    timeout=PATIENCE_SECONDS,
                )
            except paramiko.AuthenticationException:
                raise
            except OSError:
                client.close()
                if time.monotonic() > deadline:
                    pytest.fail(self.machines.console(launch.instance_id))
                time.sleep(0.05)
            else:
                return Shell(client)

    def console_with(self, launch: Launch, words: str) -> str:
        """Wait until the console says `words`; return its text."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while words not in (text := self.machines.console(launch.instance_id)):
            if time.monotonic() > deadline:
                pytest.fail(f"the console never said {words!r}:\n{text}")
            time.sleep(0.05)
        return text

    def boots(self, image: Path, **changes: str) -> tuple[bool, str]:
        """Return whether a machine with this root disk got to its login prompt; and its console."""
        launch = replace(self.launch(root=self.root(image)), **changes)
        self.start(launch)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            text = self.machines.console(launch.instance_id)
            if "login:" in text or "lab:" in text:
                self.machines.terminate(launch.instance_id)
                return "login:" in text, text
            time.sleep(0.02)
        return pytest.fail("neither a login prompt nor a reason")


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """Return a rig whose machines are gone at the end."""
    machines = ProcessMachines(folder / "machines", ssh_port=SSH_PORT, boot_seconds=BOOT_SECONDS)
    try:
        image = disk.make_image(folder / "root.raw", size_mib=24, random_mib=1)
        yield Rig(machines, folder, image, Key(), Key())
    finally:
        machines.close()


def processes_naming(word: str) -> Sequence[str]:
    """Return the command lines, on this host, that hold `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            if word in line:
                found.append(line)
    return found
