"""Log one line for each event, without secrets: in the worker, in a hub, and in a consumer."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import threading
import time
from types import TracebackType

from fedimg.untrusted.quoting import plain

#: Libraries that tell each call, or print a traceback a try; fedimg's own lines say what matters.
_TALKATIVE = ("boto3", "botocore", "dbos", "paramiko", "s3transfer", "sqlalchemy", "urllib3")

#: Between the lines of what an instance printed, or of a traceback.
_JOIN = " | "
#: The journal begins a new entry behind 48 KiB of a line.
_LONGEST = 48 * 1024 - 512


class _OneLine(logging.Formatter):
    """Format an event as one line: the lines of another formatter's text, joined.

    The journal takes each line for an entry, and `<3>` at its beginning for its priority. A line
    break in somebody else's text would let them write entries of their own.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        lines = plain(self._formatter.format(record).replace("\r", "\n")).split("\n")
        text = _JOIN.join(part for each in lines if (part := each.strip().removeprefix("| ")))
        return text.encode(errors="replace")[:_LONGEST].decode(errors="ignore")


def to_standard_error() -> None:
    """Log to standard error, a line an event; the journal adds its own times."""
    form = "%(levelname)s %(name)s: %(message)s"
    if "JOURNAL_STREAM" not in os.environ:
        form = "%(asctime)s " + form
    formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    one_line_each()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def one_line_each() -> None:
    """Make every event one line, in the form and to the place that is configured already.

    fedmsg-hub and `fedora-messaging consume` configure logging by files of the site's, and write
    the line breaks of a text as they are. Handlers that write no lines, such as one that sends
    mail, keep their formatters.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    ]
    if logging.lastResort:
        handlers.append(logging.lastResort)
    for handler in handlers:
        lines = isinstance(handler, (logging.StreamHandler, logging.handlers.SysLogHandler))
        if lines and not isinstance(handler.formatter, _OneLine):
            handler.setFormatter(_OneLine(handler.formatter or logging.Formatter()))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failed: _log_uncaught(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Have what nobody caught pass the formatter, too."""
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    told = (kind, error or kind(), traceback)
    logging.getLogger("fedimg").critical("an error that nobody expected", exc_info=told)
