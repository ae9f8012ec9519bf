"""A pseudo-terminal's master side on an event loop; the command has the slave side."""

import asyncio
import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable

_READ_BYTES = 64 * 1024
_END_OF_FILE = b"\x04"


class Terminal:
    """A terminal whose output goes to `output`. Close `slave` once a process has it."""

    def __init__(self, size: tuple[int, int, int, int], output: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._output = output
        self._unwritten = bytearray()
        self._paused = False
        self._master, self.slave = os.openpty()
        os.set_blocking(self._master, False)
        self.resize(size)
        self._loop.add_reader(self._master, self._readable)

    def resize(self, size: tuple[int, int, int, int]) -> None:
        """`size` is columns, rows, and both again in pixels: SSH's order, not the ioctl's."""
        columns, rows, width, height = size
        shape = struct.pack("HHHH", rows, columns, width, height)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, shape)

    def write(self, data: bytes) -> None:
        """Type `data`."""
        self._unwritten += data
        self._writable()

    def end_input(self) -> None:
        """Type the end of file."""
        self.write(_END_OF_FILE)

    def pause(self) -> None:
        """Leave the output where it is, so that who writes it waits."""
        self._paused = True
        self._loop.remove_reader(self._master)

    def resume(self) -> None:
        self._paused = False
        if self._master >= 0:
            self._loop.add_reader(self._master, self._readable)

    def close(self) -> None:
        """Pass on what is left of the output, and hang up."""
        while self._master >= 0 and self._readable():
            pass
        self._shut()

    def _readable(self) -> bool:
        try:
            data = os.read(self._master, _READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            # How Linux says that nobody has the slave side open any more.
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            self._loop.remove_reader(self._master)
            return False
        self._output(data)
        return True

    def _writable(self) -> None:
        if self._master < 0:
            return
        self._loop.remove_writer(self._master)
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._master, self._unwritten)]
        except BlockingIOError:
            self._loop.add_writer(self._master, self._writable)

    def _shut(self) -> None:
        if self._master >= 0:
            self._loop.remove_reader(self._master)
            self._loop.remove_writer(self._master)
            os.close(self._master)
            self._master = -1
