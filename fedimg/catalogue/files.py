"""Write files that a web server may read at any moment: each is there whole, or not at all."""

from __future__ import annotations

import fcntl
import filecmp
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedimg.catalogue.errors import CatalogueError

#: Any user may read the files: they are published.
_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755
_LOCK = ".lock"


class Directory:
    """The catalogue's directory, which is made if it is missing; raises CatalogueError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes on this host from writing to the directory meanwhile."""
        with self._told(self.root):
            _make(self.root)
            lock = os.open(self.root / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name, such as releases/43.json."""
        return (self.root / name).exists()

    def replace(self, name: str, parts: Iterable[bytes]) -> bool:
        """Write a file, unless it has this content already; return whether it was written.

        The content is written part by part, so that it need not be in memory as a whole.
        """
        path = self.root / name
        with self._told(path):
            temporary = self._prepare(path, parts)
            if path.exists() and filecmp.cmp(temporary, path, shallow=False):
                temporary.unlink()
                return False
            temporary.replace(path)
        return True

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that never changes; return whether it was written, and not there before."""
        path = self.root / name
        with self._told(path):
            temporary = self._prepare(path, [content])
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True

    def _prepare(self, path: Path, parts: Iterable[bytes]) -> Path:
        if path.parent != self.root:
            _make(path.parent)
        # The same name each time, so that a crash leaves one such file at most.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), _FILE_MODE)
        return temporary

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CatalogueError(
                f"cannot write the catalogue's file {path}: {error.strerror or error}; "
                "free space, or let fedimg's user write there"
            ) from error


def _make(directory: Path) -> None:
    """Make a directory that everybody may read, whatever the process's umask is."""
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(_DIRECTORY_MODE)
