"""Run real fedmsg-hub processes with fedimg's consumer, and make Koji's messages for them."""

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lab.bus import Bus

#: fedimg's part of the fedmsg configuration, as it is installed.
INSTALLED = Path(__file__).parent.parent / "fedmsg.d" / "fedimg.py"
#: Timeout for a hub to start, in seconds.
START_SECONDS = 240.0
#: The build that is announced until a hub hears it.
PROBE = 2_000_000_000


@dataclass
class HubProcess:
    """One fedmsg-hub, its fedimg.toml and state directory below `folder`."""

    bus: Bus
    folder: Path
    toml: str = 'state_directory = "state"\n'
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        configuration = self.folder / "fedimg.toml"
        configuration.write_text(self.toml)
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                command or self.bus.command("fedmsg-hub"),
                cwd=self.folder,
                env={**os.environ, "FEDIMG_CONFIG": str(configuration), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def start_running(self) -> subprocess.Popen[bytes]:
        """Start the hub, and wait until its reactor runs and it handles signals."""
        process = self.start()

        def runs() -> bool:
            assert process.poll() is None, f"the hub has ended:\n{self.log}"
            return "Running the MokshaHub reactor" in self.log

        wait_until(runs, START_SECONDS)
        return process

    def start_listening(self, publish: Callable[[], object]) -> subprocess.Popen[bytes]:
        """Start the hub, and `publish` the announcement of build PROBE until the hub has heard it.

        ZeroMQ offers no other way to see that a subscription has arrived.
        """
        process = self.start_running()

        def heard() -> bool:
            publish()
            time.sleep(0.1)
            return any(entry == f"build:{PROBE}" for entry, *_ in self._entries())

        wait_until(heard, START_SECONDS)
        return process

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")

    @property
    def database(self) -> Path:
        return self.folder / "state" / "fedimg.db"

    def entries(self) -> list[tuple[str, str, str]]:
        """Return what the hub has stored, without the build that `start_listening` announces."""
        return [each for each in self._entries() if each[0] != f"build:{PROBE}"]

    def _entries(self) -> list[tuple[str, str, str]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(
                "SELECT workflow_uuid, name, queue_name FROM workflow_status ORDER BY 1"
            ).fetchall()

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute(statement)
            connection.commit()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Wait until the condition is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def task_message(number: object) -> dict[str, object]:
    message = {"attribute": "state", "old": "OPEN", "new": "CLOSED", "id": number}
    return message | {"instance": "primary", "method": "image", "owner": "ausil"}


def build_message(number: object) -> dict[str, object]:
    message = {"attribute": "state", "old": 0, "new": 1, "build_id": number, "task": None}
    return message | {"instance": "primary", "owner": "releng", "task_id": None}
