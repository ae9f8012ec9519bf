"""How a worker ends that cannot go on: at once, with its reason in the log."""

import logging
import os
from typing import NoReturn

_log = logging.getLogger(__name__)


def end_with_database(error: BaseException) -> NoReturn:
    """The database failed: it may be full, gone, or held by somebody else."""
    _end_at_once(f"the database failed, so the worker ends; mend this and start it: {error}")


def end_without_lease(reason: str) -> NoReturn:
    """Another worker may have this one's jobs by now."""
    _end_at_once(f"the worker has lost its lock in the database, so it ends: {reason}")


def end_exhausted(error: BaseException) -> NoReturn:
    """This process has run out of memory, files or threads."""
    _end_at_once(
        f"this process may have no more memory, files or threads, so the worker ends: {error!r}. "
        "Its next start goes on from here; raise the limits of its unit, or lower "
        "ec2.limits.jobs, if it happens again"
    )


def _end_at_once(reason: str) -> NoReturn:
    """End the process: what happens now cannot be recorded, and the next worker finds it undone."""
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)
