"""Does on an instance what cloud_init read in user data; when that is due is machine's matter."""

import shlex
from collections.abc import Awaitable, Callable, Sequence

import asyncssh

from lab.machines.cloud_init import CloudInit, File
from lab.machines.console import Console

# What the lab makes where user data gives no host key; a real first boot also makes an RSA key,
# whose second of computing no client here has any use for.
_GENERATED_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256")
_KEY_FILES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}

# The output goes through the log, as on a real machine: a daemon that a script leaves behind may
# hold on to the log, and nobody waits for it.
_RUN = """
script=$(mktemp /var/lib/cloud/script.XXXXXX)
cat >$script
chmod 700 $script
log=/var/log/cloud-init-output.log
before=$(wc -c <$log)
INSTANCE_ID=$1 $script </dev/null >>$log 2>&1
status=$?
tail -c +$((before + 1)) $log
rm -f $script
exit $status
"""

# Runs shell as root in the instance, on that input and with those arguments, prints its output
# line by line, and tells whether it ended with 0.
RunAsRoot = Callable[[str, bytes, Sequence[str]], Awaitable[bool]]


class Initialiser:
    """cloud-init's work at one boot: `early`, then sshd may start, then `late`."""

    def __init__(
        self, cloud: CloudInit, instance_id: str, hostname: str, console: Console, run: RunAsRoot
    ) -> None:
        self._cloud = cloud
        self._instance_id = instance_id
        self._hostname = hostname
        self._console = console
        self._run = run
        self._failed = False

    async def early(self, *, first: bool) -> None:
        """Run bootcmd at every boot, write files at the `first`."""
        await self._status("running")
        for warning in self._cloud.warnings if first else ():
            self._console.say(f"cloud-init[1]: [WARNING]: {warning}")
        for script in self._cloud.early:
            await self._script(script)
        for file in self._cloud.files if first else ():
            self._failed |= not await self._write(file)

    async def late(self, *, first: bool) -> None:
        """Run runcmd and scripts at the `first` boot, and leave word that all is done."""
        for script in self._cloud.late if first else ():
            await self._script(script)
        state = "error" if self._failed else "degraded" if self._cloud.warnings else "done"
        await self._run("date >/var/lib/cloud/instance/boot-finished", b"", [])
        await self._status(state)

    async def host_keys(self) -> list[asyncssh.SSHKey]:
        """Install the host keys that user data gives, or new ones; none of them may be usable."""
        if self._cloud.host_keys is None:
            keys = [asyncssh.generate_private_key(kind) for kind in _GENERATED_KEYS]
        else:
            keys = [key for text in self._cloud.host_keys if (key := self._loaded(text))]
        for key in keys:
            path = f"/etc/ssh/ssh_host_{_key_file(key)}_key"
            private, public = key.export_private_key(), self._public(key).encode()
            await self._write(File(path, private, 0o600, append=False))
            await self._write(File(f"{path}.pub", public, 0o644, append=False))
        return keys

    def tell_keys(self, host_keys: Sequence[asyncssh.SSHKey]) -> None:
        """Print who may log in, and what the host proves itself with."""
        for user in self._cloud.users:
            if user.name == "root":
                continue
            keys = [key for line in user.authorized_keys if (key := _imported(line))]
            for key in keys:
                fingerprint = key.get_fingerprint()
                self._console.say(f"ci-info: authorized key of {user.name}: {fingerprint}")
            if not keys:
                self._console.say(
                    f"ci-info: no authorized SSH keys fingerprints found for user {user.name}."
                )
        if host_keys:
            fingerprints = [
                f"{key.get_fingerprint()} root@{self._hostname} ({_key_file(key).upper()})"
                for key in host_keys
            ]
            self._console.say(
                "-----BEGIN SSH HOST KEY FINGERPRINTS-----",
                *fingerprints,
                "-----END SSH HOST KEY FINGERPRINTS-----",
                "-----BEGIN SSH HOST KEY KEYS-----",
                *[self._public(key) for key in host_keys],
                "-----END SSH HOST KEY KEYS-----",
            )

    async def _script(self, script: bytes) -> None:
        self._failed |= not await self._run(_RUN, script, [self._instance_id])

    async def _write(self, file: File) -> bool:
        path = shlex.quote(file.path)
        arrow = ">>" if file.append else ">"
        # Everybody in the instance owns root's files, so that the owner's rights have to be those
        # of others; root needs none.
        mode = file.mode & 0o077 | (file.mode & 0o007) << 6
        script = f'mkdir -p "$(dirname {path})" && cat {arrow}{path} && chmod {mode:o} {path}'
        return await self._run(script, file.content, [])

    async def _status(self, state: str) -> None:
        """Write the files from which `cloud-init status` answers."""
        script = 'mkdir -p /run/cloud-init && echo "$1" >/run/cloud-init/status'
        await self._run(script, b"", [state])

    def _loaded(self, text: str) -> asyncssh.SSHKey | None:
        try:
            return asyncssh.import_private_key(text)
        except asyncssh.KeyImportError as error:
            self._console.say(f"sshd: Unable to load host key from ssh_keys: {error}")
            return None

    def _public(self, key: asyncssh.SSHKey) -> str:
        words = key.export_public_key().decode().split()[:2]
        return " ".join([*words, f"root@{self._hostname}"])


def _imported(line: str) -> asyncssh.SSHKey | None:
    try:
        return asyncssh.import_public_key(line)
    except asyncssh.KeyImportError:
        return None


def _key_file(key: asyncssh.SSHKey) -> str:
    """Return the word in the name of sshd's file for this kind of key."""
    return _KEY_FILES.get(key.get_algorithm(), "ecdsa")
