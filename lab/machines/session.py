"""Joins an SSH channel to a command that runs in an instance; who may open one is sshd's matter."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

import asyncssh

from lab.machines.confine import Confinement
from lab.machines.terminal import Terminal

# OpenSSH's AcceptEnv on Fedora and Debian.
_ACCEPTED_VARIABLES = ("LANG", "LC_")
_SFTP_SERVERS = (
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
)
# The signals that an SSH client can name, and be told of (RFC 4254, 6.10).
_SIGNALS = re.compile(r"ABRT|ALRM|FPE|HUP|ILL|INT|KILL|PIPE|QUIT|SEGV|TERM|USR[12]")
# A command whose client is gone gets this long to end by itself.
_HANGUP_SECONDS = 2.0


class PowerOff(Exception):
    """The machine is off, or about to be: no command starts in it any more."""


class Guest(Protocol):
    """The instance, as a session needs it for whoever has logged in."""

    @property
    def shell(self) -> str:
        """The login shell of who has logged in."""

    def command(
        self, words: Sequence[str], environment: Mapping[str, str], terminal: bool
    ) -> list[str]:
        """Return the command line, on this host, that runs `words` in the instance. Raises
        PowerOff.
        """

    def command_began(self, session: "Session") -> None:
        """Note that a command is about to start."""

    def command_ended(self, session: "Session") -> str | None:
        """Return what the command did to a volume that a real command cannot, if anything."""


class Session(asyncssh.SSHServerSession[bytes]):
    """A channel and a process: bytes both ways at the slower one's pace, ends of file, the end.

    `speaks` is called before anything that the command prints is passed on.
    """

    def __init__(self, guest: Guest, speaks: Callable[[], None]) -> None:
        self._guest = guest
        self._speaks = speaks
        self._channel: asyncssh.SSHServerChannel[bytes]
        self._words: Sequence[str] = ()
        self._terminal_size: tuple[int, int, int, int] | None = None
        self._terminal: Terminal | None = None
        self._process: asyncio.SubprocessTransport | None = None
        self._early = bytearray()
        self._input_ended = False
        self._input_paused = False
        self._disconnected = False
        self._start: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    # The channel's side: what asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal_size = term_size
        return True

    def shell_requested(self) -> bool:
        # A dash before the name, as login puts it, makes a shell a login shell; -l does as well.
        self._words = [self._guest.shell, "-l"]
        return True

    def exec_requested(self, command: str) -> bool:
        self._words = [self._guest.shell, "-c", command]
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        servers = [path for path in _SFTP_SERVERS if Path(path).exists()]
        if subsystem != "sftp" or not servers:
            return False
        self._words = servers[:1]
        return True

    def session_started(self) -> None:
        self._guest.command_began(self)
        self._start = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._process is None:
            # asyncssh resumes reading right after session_started: what comes is kept here.
            self._early += data
            self._channel.pause_reading()
        elif self._terminal is not None:
            self._terminal.write(data)
        elif (pipe := self._input()) is not None:
            pipe.write(data)

    def eof_received(self) -> bool:
        self._input_ended = True
        self._end_input()
        # The client may say no more and still listen.
        return True

    def signal_received(self, signal: str) -> None:
        if _SIGNALS.fullmatch(signal):
            self._kill(signal)

    def break_received(self, msec: int) -> bool:
        return False

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None:
            self._terminal.resize((width, height, pixwidth, pixheight))

    def pause_writing(self) -> None:
        if self._terminal is not None:
            self._terminal.pause()
        for pipe in self._outputs():
            pipe.pause_reading()

    def resume_writing(self) -> None:
        if self._terminal is not None:
            self._terminal.resume()
        for pipe in self._outputs():
            pipe.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disconnected = True
        self._hang_up()

    # The process's side.

    def output(self, data: bytes, *, error: bool = False) -> None:
        """Pass on what the command has printed."""
        self._speaks()
        if not self._disconnected and not self._channel.is_closing():
            self._channel.write(data, asyncssh.EXTENDED_DATA_STDERR if error else None)

    def pace_input(self, *, pause: bool) -> None:
        """Make the client wait, or go on, while the command is slow to read."""
        self._input_paused = pause
        if pause and not self._disconnected:
            self._channel.pause_reading()
        if not pause:
            # Not at once: asyncio calls this in the middle of a write, and what would be written
            # and closed then, it loses.
            asyncio.get_running_loop().call_soon(self._resume_input)

    def _resume_input(self) -> None:
        if not self._input_paused and not self._disconnected:
            self._channel.resume_reading()

    def process_ended(self, status: int | None) -> None:
        """Tell the client how the command ended; all of its output has been passed on."""
        if self._terminal is not None:
            self._terminal.close()
        self._end(0 if status is None else status)

    async def end(self) -> None:
        """End the command if it still runs, and wait until it has."""
        self._disconnected = True
        self._kill("KILL")
        await self._ended.wait()

    async def _run(self) -> None:
        environment = {
            name: value
            for name, value in self._channel.get_environment().items()
            if name.startswith(_ACCEPTED_VARIABLES)
        }
        client = self._channel.get_extra_info("peername")
        server = self._channel.get_extra_info("sockname")
        if client and server:
            environment["SSH_CLIENT"] = f"{client[0]} {client[1]} {server[1]}"
            environment["SSH_CONNECTION"] = f"{client[0]} {client[1]} {server[0]} {server[1]}"
        if self._terminal_size is not None:
            environment["TERM"] = self._channel.get_terminal_type() or "dumb"
            self._terminal = Terminal(self._terminal_size, self.output)
        ends = asyncio.subprocess.PIPE if self._terminal is None else self._terminal.slave
        try:
            words = self._guest.command(self._words, environment, self._terminal is not None)
            self._process, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Process(self),
                *words,
                stdin=ends,
                stdout=ends,
                stderr=ends,
                env=Confinement.environment(),
                start_new_session=True,
            )
        except (OSError, PowerOff) as error:
            self.output(f"lab: the command could not be started: {error}\n".encode(), error=True)
            self._end(255)
            return
        finally:
            if self._terminal is not None:
                os.close(self._terminal.slave)
        if self._disconnected:
            self._hang_up()
            return
        if self._early:
            self.data_received(bytes(self._early), None)
            self._early.clear()
        if not self._input_paused:
            self._channel.resume_reading()
        if self._input_ended:
            self._end_input()

    def _end(self, status: int) -> None:
        wrong = self._guest.command_ended(self)
        self._ended.set()
        if self._disconnected or self._channel.is_closing():
            return
        if wrong is not None:
            self.output(f"{wrong}\n".encode(), error=self._terminal is None)
            status = status or 1
        name = signal.Signals(-status).name.removeprefix("SIG") if status < 0 else ""
        if _SIGNALS.fullmatch(name):
            self._channel.exit_with_signal(name)
        else:
            # A signal that SSH has no name for is told the way a shell does.
            self._channel.exit(128 - status if status < 0 else status)

    def _end_input(self) -> None:
        if self._terminal is not None:
            self._terminal.end_input()
        elif (pipe := self._input()) is not None:
            pipe.close()

    def _hang_up(self) -> None:
        """End the session of a client that is gone: the command is hung up, as at a terminal."""
        if self._process is None or self._ended.is_set():
            return
        for pipe in self._outputs():
            pipe.close()
        self._kill("HUP")
        asyncio.get_running_loop().call_later(_HANGUP_SECONDS, self._kill, "KILL")

    def _kill(self, name: str) -> None:
        """Send a signal to the command and what it has started in its own process group."""
        if self._process is None or self._ended.is_set():
            return
        pid = self._process.get_pid()
        number = signal.Signals[f"SIG{name}"]
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            # Until it has its child, the process is still on its way into the instance.
            if not children and number in (signal.SIGKILL, signal.SIGHUP):
                os.kill(pid, signal.SIGKILL)
            for child in children:
                os.killpg(int(child), number)

    def _input(self) -> asyncio.WriteTransport | None:
        pipe = self._process.get_pipe_transport(0) if self._process is not None else None
        return cast(asyncio.WriteTransport, pipe) if pipe and not pipe.is_closing() else None

    def _outputs(self) -> list[asyncio.ReadTransport]:
        if self._process is None:
            return []
        pipes = [self._process.get_pipe_transport(fd) for fd in (1, 2)]
        return [cast(asyncio.ReadTransport, pipe) for pipe in pipes if pipe is not None]


class _Process(asyncio.SubprocessProtocol):
    """The receiver of asyncio's calls about the command's process."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport: asyncio.SubprocessTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._session.output(data, error=fd == 2)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        # Input that nobody will read must not hold the client up.
        if fd == 0:
            self._session.pace_input(pause=False)

    def pause_writing(self) -> None:
        self._session.pace_input(pause=True)

    def resume_writing(self) -> None:
        self._session.pace_input(pause=False)

    def process_exited(self) -> None:
        # asyncio waits for all three pipes, and something left behind may hold this one.
        pipe = self._transport.get_pipe_transport(0)
        if pipe is not None:
            pipe.close()

    def connection_lost(self, exc: Exception | None) -> None:
        status = self._transport.get_returncode()
        self._transport.close()
        self._session.process_ended(status)
