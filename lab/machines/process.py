"""Machines that are confined processes of this host, without root."""

import os
from pathlib import Path

from lab.machines import guest
from lab.machines.confine import PROGRAMS
from lab.machines.fleet import Fleet, Place
from lab.machines.namespace_machine import NamespaceMachine
from lab.machines.programs import require, require_namespaces

# Besides what confines them: what boot looks into disks with, and what every cloud image has.
_PROGRAMS = (*PROGRAMS, "curl", "debugfs", "e2fsck", "gzip", "xz", "zstd")


class NoExecution(Exception):
    """The state directory is on a file system that runs no programs."""


class ProcessMachines(Fleet[NamespaceMachine]):
    """The `Machines` whose instances are confined processes.

    They answer SSH no sooner than `boot_seconds` after they were switched on. `default_user` is the
    user that an image would have. Raises MissingProgram, NoNamespaces or NoExecution when this host
    cannot run them.
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
        self._boot_seconds = boot_seconds
        self._default_user = default_user
        super().__init__(state, ssh_port)

    def _made(self, place: Place) -> NamespaceMachine:
        return NamespaceMachine(
            place.folder,
            place.address,
            place.holder,
            place.console,
            boot_seconds=self._boot_seconds,
            default_user=self._default_user,
        )

    def _removed(self, folder: Path) -> None:
        if folder.exists():
            guest.remove(folder)
