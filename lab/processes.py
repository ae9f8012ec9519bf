"""A program that runs beside us with its output in a log, and surely ends when we do."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A program that has not acted on SIGTERM by then is killed.
GRACE_SECONDS = 5.0
TAIL_LINES = 30

# Programs are told to die with us, kill -9 included. The kernel takes that to mean the thread that
# started them, and this one lives as long as we do.
_starter = ThreadPoolExecutor(1, "process starter")
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class ProcessError(Exception):
    """A program did not do its part; the text ends with the end of its log."""


class Process:
    """One running program, in a process group of its own.

    So all that it started ends with it, and a terminal's Ctrl-C is for us alone to act on.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._popen = _starter.submit(
                subprocess.Popen,
                [*_WITH_US, *command],
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        """The program's process id: setpriv, which starts it, becomes it."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, the negative number of the signal that ended it, or None."""
        return self._popen.poll()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def check(self) -> None:
        """Raise ProcessError when the program has ended."""
        status = self._popen.poll()
        if status is not None:
            raise ProcessError(f"{self.name} ended with status {status}; {self.tail()}")

    def wait_for(self, text: str, seconds: float) -> None:
        """Return when the log holds `text`. Raises ProcessError when that does not happen."""
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text(errors="replace"):
            self.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} did not start in {seconds} s; {self.tail()}")
            time.sleep(0.1)

    def tail(self) -> str:
        """Return the end of the log, with a line on where all of it is."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return f"its log {self.log} ends:\n" + "\n".join(f"    {line}" for line in lines)

    def kill(self) -> None:
        """End the program as a power cut does."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self, seconds: float) -> int:
        """Send SIGTERM alone, and return the status with which the program ends within `seconds`.

        Raises subprocess.TimeoutExpired when it does not.
        """
        self._popen.terminate()
        return self._popen.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Wait for the program to end, `seconds` at most, and return its status.

        Raises subprocess.TimeoutExpired when it does not.
        """
        return self._popen.wait(seconds)

    def stop(self) -> None:
        """End the program, politely first."""
        if self.running:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
