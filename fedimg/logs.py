"""What a worker logs: a line an event, on standard error, without secrets in it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType

from fedimg.quoting import plain

#: Libraries that tell each call, or print a traceback a try; fedimg's own lines say what matters.
_TALKATIVE = ("boto3", "botocore", "dbos", "paramiko", "s3transfer", "sqlalchemy", "urllib3")

#: Between the lines of what an instance printed, or of a traceback.
_JOIN = " | "
#: The journal begins a new entry behind 48 KiB of a line.
_LONGEST = 48 * 1024 - 512


class _Formatter(logging.Formatter):
    """Formats an event as one line, tracebacks of other people's libraries too.

    The journal takes each line for an entry, and `<3>` at its beginning for its priority: a line
    end in what somebody else said would let them write entries of their own.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = plain(super().format(record).replace("\r", "\n")).split("\n")
        text = _JOIN.join(part for each in lines if (part := each.strip().removeprefix("| ")))
        return text.encode(errors="replace")[:_LONGEST].decode(errors="ignore")


def to_standard_error() -> None:
    """Log to standard error, a line an event; the journal adds its own times."""
    form = "%(levelname)s %(name)s: %(message)s"
    if "JOURNAL_STREAM" not in os.environ:
        form = "%(asctime)s " + form
    formatter = _Formatter(form, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failed: _log_uncaught(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Have what nobody caught pass the formatter, too."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    told = (kind, error or kind(), traceback)
    logging.getLogger("fedimg").critical("an error that nobody expected", exc_info=told)
