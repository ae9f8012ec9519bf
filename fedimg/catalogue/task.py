"""Writes the catalogue again when the record has changed, as a periodic task of the worker."""

from __future__ import annotations

import logging
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from fedimg.catalogue import signing_key
from fedimg.catalogue.errors import CatalogueError
from fedimg.catalogue.writer import CatalogueWriter

#: How often the record is compared with what was written last, in seconds.
INTERVAL = 30.0

_log = logging.getLogger(__name__)


class CatalogueTask:
    """The worker's writing of the catalogue: writes of 30 seconds are gathered into one.

    With a `key`, a file of the private key, publications get signed statements.
    """

    def __init__(self, writer: CatalogueWriter, key: Path | None = None) -> None:
        self._writer = writer
        self._key = key
        self._written: tuple[object, ...] | None = None
        self._unsigned = False
        self._problem = ""

    def write_if_changed(self) -> float:
        """Write the catalogue if the record has changed; return the seconds until the next call.

        A failure is logged at its beginning and at its end.
        """
        # Taken before anything is read: what changes during the writing is written next time.
        changed = self._writer.changed()
        signer, problem = self._read_key()
        if changed == self._written and not (self._unsigned and signer):
            self._tell(problem)
            return INTERVAL
        try:
            written = self._writer.write(signer)
        except CatalogueError as error:
            self._tell(str(error))
            return INTERVAL
        self._tell(problem)
        self._written, self._unsigned = changed, bool(problem)
        if written.files:
            _log.info(
                "wrote %d files of the catalogue in %s, which tells of %s",
                written.files,
                self._writer.root,
                written,
            )
        return INTERVAL

    def _read_key(self) -> tuple[CryptoSigner | None, str]:
        """Return the signer and why there is none; it is read each time, as rotation replaces it.

        Without it, the catalogue is written nevertheless, and the statements follow.
        """
        if self._key is None:
            return None, ""
        try:
            return signing_key.read(self._key), ""
        except CatalogueError as error:
            return None, str(error)

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("%s; it is tried again every %g s", problem, INTERVAL)
        elif self._problem and not problem:
            _log.warning("the catalogue in %s is written again, in full", self._writer.root)
        self._problem = problem
