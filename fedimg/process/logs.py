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

#: Libraries that log each call, or a traceback for each retry; fedimg logs the outcome itself.
_VERBOSE = ("boto3", "botocore", "dbos", "paramiko", "s3transfer", "sqlalchemy", "urllib3")

#: Separates the lines of a traceback, or of an instance's output.
_JOIN = " | "
#: In bytes; the journal splits lines that are longer than 48 KiB.
_LONGEST = 48 * 1024 - 512


class _OneLine(logging.Formatter):
    """Join the lines of another formatter's text into one.

    The journal makes an entry of each line, and reads `<3>` at its start as its priority. A line
    break in a text from outside would let its author forge entries.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        lines = plain(self._formatter.format(record).replace("\r", "\n")).split("\n")
        text = _JOIN.join(part for each in lines if (part := each.strip().removeprefix("| ")))
        return text.encode(errors="replace")[:_LONGEST].decode(errors="ignore")


def to_standard_error() -> None:
    """Log to standard error, one line for each event; the journal adds times by itself."""
    form = "%(levelname)s %(name)s: %(message)s"
    if "JOURNAL_STREAM" not in os.environ:
        form = "%(asctime)s " + form
    formatter = logging.Formatter(form, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    one_line_each()
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)


def one_line_each() -> None:
    """Have all configured handlers write one line for each event, in their own format.

    fedmsg-hub and `fedora-messaging consume` configure logging by the site's files, and keep the
    line breaks of a text. Handlers that do not write lines, such as one that sends mail, keep their
    formatters.
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
    error_type: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Log an uncaught exception, so that it passes the formatter as well."""
    if issubclass(error_type, KeyboardInterrupt | SystemExit):
        return
    details = (error_type, error or error_type(), traceback)
    logging.getLogger("fedimg").critical("unexpected error; please report it", exc_info=details)
