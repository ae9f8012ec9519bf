"""End a worker that cannot continue: at once, after logging the reason."""

import logging
import os
from typing import NoReturn

from fedimg.untrusted.failures import reason

_log = logging.getLogger(__name__)


def end_with_database(error: BaseException) -> NoReturn:
    """End the process because the database failed, for instance on a full disk."""
    _end_at_once(
        f"the worker exits because the database failed: {reason(error)}; check the disk, or that "
        "PostgreSQL is running; systemd restarts the worker, and jobs continue"
    )


def end_without_lease(reason: str) -> NoReturn:
    """End the process because another worker may have taken over its jobs."""
    _end_at_once(
        f"the worker exits because it has lost its lock in the database: {reason}; other workers "
        "take over its jobs"
    )


def end_exhausted(error: BaseException) -> NoReturn:
    """End the process because it has run out of memory, files or threads."""
    _end_at_once(
        "the worker exits because it has run out of memory, files or threads "
        f"({str(error) or type(error).__name__}); jobs continue after its restart; if this happens "
        "again, raise the limits of its unit or lower ec2.limits.jobs"
    )


def _end_at_once(reason: str) -> NoReturn:
    """Exit without another step, as its result could not be recorded; log the reason."""
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)
