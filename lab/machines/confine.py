"""Confines an instance in namespaces that need no root, and says how a command gets into them."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.machines.programs import path_of

PROGRAMS = ("cat", "env", "mount", "nice", "nsenter", "prlimit", "setsid", "umount", "unshare")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Of the host's files an instance sees its programs, read-only, and the part of /etc without which
# they do not run or trust nobody.
_PROGRAM_TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SHARED_SETTINGS = (
    "/etc/alternatives",
    "/etc/crypto-policies",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# What an instance may write; everything in these lies in its own directory, under disk/.
OWN_TREES = ("etc", "home", "mnt", "opt", "root", "srv", "tmp", "usr/local", "var")

_SCRIPTS = Path(__file__).parent / "scripts"
_PLAIN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
# Instances leave the lab itself, and whoever waits for it, the processor first.
_NICENESS = "5"
# Some tens of mounts; only a host in trouble needs more.
_SECONDS = 60
# The limit on a file's size sends a signal too, which must not hide the error from dd.
_ENTER = 'cd "$HOME" 2>/dev/null || cd /; trap "" XFSZ; exec "$@"'


class PowerOnFailed(Exception):
    """The namespaces of an instance could not be made."""


@dataclass(frozen=True)
class Login:
    """Somebody a command runs as."""

    name: str
    uid: int
    home: str
    shell: str


class Confinement:
    """The namespaces of one instance, whose files are in `directory`/disk.

    Two mount namespaces: an outer one, in which this host's files are still visible and new
    devices can be mounted, and the instance's own below it, to which those mounts propagate. The
    first process of the instance ends when a pipe held here closes, and everything in the instance
    with it: also when the lab is killed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._outer: asyncio.subprocess.Process | None = None
        self._inner_pid = 0

    async def open(self, hostname: str) -> None:
        """Make the namespaces. Raises PowerOnFailed, with what the system said."""
        (self._directory / "root").mkdir(exist_ok=True)
        unshare = [path_of("unshare"), "--user", "--map-root-user", "--mount", "--"]
        script = [str(_SCRIPTS / "power_on.sh"), str(self._directory), hostname]
        outer = await asyncio.create_subprocess_exec(
            *["nice", "-n", _NICENESS, *unshare, "/bin/sh", *script, *_steps()],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_PLAIN_ENVIRONMENT,
            start_new_session=True,
        )
        self._outer = outer
        assert outer.stdout is not None
        assert outer.stderr is not None
        said = (await asyncio.wait_for(outer.stdout.readline(), _SECONDS)).split()
        if len(said) != 2 or said[0] != b"ready":
            reason = (await asyncio.wait_for(outer.stderr.read(), _SECONDS)).decode().strip()
            raise PowerOnFailed(f"could not confine {self._directory.name}: {reason}")
        self._inner_pid = int(said[1])

    async def plug(
        self, name: str, file: Path, *, sectors: int, serial: str, read_only: bool
    ) -> None:
        """Show `file` as the device `name`, in what runs already too. Raises PowerOnFailed."""
        lock = f"remount,bind,ro{_kept_options(str(file))}" if read_only else ""
        await self._outside("plug.sh", name, str(file), str(sectors), serial, lock)

    async def unplug(self, name: str, *, serial: str) -> None:
        """Take the device `name` away. Raises PowerOnFailed."""
        await self._outside("unplug.sh", name, serial)

    def command(
        self,
        login: Login,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        largest_file: int | None,
        terminal: bool = False,
    ) -> list[str]:
        """Return the host's command line that runs `words` in the instance as `login`, in its home.

        No file can grow beyond `largest_file` bytes. With `terminal`, standard input becomes the
        command's controlling terminal. The command is the only child of the process this starts,
        and leads a session of its own.
        """
        limits = ["--core=0"]
        if largest_file is not None:
            limits.append(f"--fsize={largest_file}:{largest_file}")
        own = {
            "PATH": SEARCH_PATH,
            "HOME": login.home,
            "USER": login.name,
            "LOGNAME": login.name,
            "SHELL": login.shell,
            "LANG": "C.UTF-8",
        }
        # A user namespace below the instance's: as root it holds no power over the instance's
        # mounts, and as anybody else it has to go through sudo for what is root's.
        become = ["unshare", "--user", f"--map-user={login.uid}", f"--map-group={login.uid}", "--"]
        return [
            *["nice", "-n", _NICENESS, "prlimit", *limits],
            *["nsenter", "--target", str(self._inner_pid), "--user", "--mount", "--pid", "--uts"],
            *["--ipc", "--preserve-credentials", "--"],
            *["setsid", *(["--ctty"] if terminal else []), *become],
            *["env", "-i", *(f"{key}={value}" for key, value in {**own, **environment}.items())],
            *["/bin/sh", "-c", _ENTER, "sh", *words],
        ]

    @staticmethod
    def environment() -> dict[str, str]:
        """Return the environment to run `command` in; none of it reaches the instance."""
        return dict(_PLAIN_ENVIRONMENT)

    async def close(self) -> None:
        """End every process in the instance, and wait until they are gone."""
        if self._outer is None:
            return
        outer, self._outer = self._outer, None
        assert outer.stdin is not None
        outer.stdin.close()
        try:
            await asyncio.wait_for(outer.wait(), _SECONDS)
        except TimeoutError:
            outer.kill()
            await outer.wait()

    async def _outside(self, script: str, *arguments: str) -> None:
        assert self._outer is not None
        done = await asyncio.create_subprocess_exec(
            *["nsenter", "--target", str(self._outer.pid), "--user", "--mount"],
            *["--preserve-credentials", "--", "/bin/sh", str(_SCRIPTS / script)],
            *[str(self._directory), *arguments],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_PLAIN_ENVIRONMENT,
        )
        _, said = await asyncio.wait_for(done.communicate(), _SECONDS)
        if done.returncode != 0:
            raise PowerOnFailed(
                f"{script} {arguments[0]} failed in {self._directory.name}: {said.decode().strip()}"
            )


def _steps() -> list[str]:
    """Return the mounts of power_on.sh, in order; see the actions there."""
    steps = []
    for tree in _PROGRAM_TREES:
        if os.path.islink(tree):
            steps.append(f"link:{tree}:{os.readlink(tree)}")
        elif os.path.isdir(tree):
            steps.append(f"share:{tree}")
            steps += [f"lock:{_kept_options(path)}:{path}" for path in _mounts_at(tree)]
    steps += [f"own:{tree}" for tree in OWN_TREES]
    if os.path.exists("/usr/bin/sudo"):
        steps.append("cover:/usr/bin/sudo")
    for tree in _SHARED_SETTINGS:
        if os.path.isdir(tree):
            steps.append(f"share:{tree}")
            steps += [f"lock:{_kept_options(path)}:{path}" for path in _mounts_at(tree)]
    steps += [f"folder:{path}" for path in ("/dev/pts", "/dev/disk", "/proc", "/run", "/sys/block")]
    steps += ["link:/dev/fd:/proc/self/fd", "link:/dev/stdin:/proc/self/fd/0"]
    steps += ["link:/dev/stdout:/proc/self/fd/1", "link:/dev/stderr:/proc/self/fd/2"]
    steps += ["link:/dev/ptmx:pts/ptmx", "link:/dev/shm:/tmp"]
    steps += [f"device:/dev/{name}" for name in _DEVICES if os.path.exists(f"/dev/{name}")]
    return steps


def _mounts_at(tree: str) -> list[str]:
    """`tree` itself, and what else is mounted below it: a bind mount is read-only one by one."""
    mounted = [tree]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = line.split()[4].encode().decode("unicode_escape")
        if path.startswith(tree + "/"):
            mounted.append(path)
    return mounted


def _kept_options(path: str) -> str:
    """Return the options that a mount at `path` has and that a user's remount may not drop."""
    flags = os.statvfs(path).f_flag
    names = {
        os.ST_NOSUID: "nosuid",
        os.ST_NODEV: "nodev",
        os.ST_NOEXEC: "noexec",
        os.ST_NOATIME: "noatime",
        os.ST_NODIRATIME: "nodiratime",
        os.ST_RELATIME: "relatime",
    }
    return "".join(f",{name}" for flag, name in names.items() if flags & flag)
