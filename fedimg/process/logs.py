"""Log one line for each event, without secrets: in the worker, in a hub, and in a consumer."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from fedimg.process.log_context import fields_of
from fedimg.untrusted.quoting import plain

#: Libraries that log each call, or a traceback for each retry; fedimg logs the outcome itself.
_VERBOSE = (
    *("boto3", "botocore", "dbos", "paramiko", "s3transfer", "sqlalchemy", "urllib3", "uvicorn"),
)

#: Separates the lines of a traceback, or of an instance's output.
_JOIN = " | "
#: In bytes; the journal splits lines that are longer than 48 KiB.
_LONGEST = 48 * 1024 - 512


#: Where the journal receives entries (systemd's "Native Journal Protocol").
_JOURNAL = "/run/systemd/journal/socket"
#: The journal's priorities, which are syslog's.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_ERROR_PRIORITY, _DEBUG_PRIORITY = 3, 7


class _WithFields(logging.Formatter):
    """Append the fields of log_context to each line."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the record's time in UTC."""
        return time.strftime(datefmt or "", time.gmtime(record.created))

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return super().format(record) + fields


class JournalHandler(logging.StreamHandler[TextIO]):
    """Send each record to the journal as one entry, with its priority and its fields.

    An entry that the journal does not take is printed on standard error instead, where the journal
    reads the priority from the line's beginning.

    Args:
        address: the journal's socket.
    """

    def __init__(self, address: str = _JOURNAL) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Send or print the record."""
        text, priority = self.format(record), _priority(record)
        entry = {
            "MESSAGE": text,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "fedimg",
            "LOGGER": record.name,
            **{f"FEDIMG_{name.upper()}": value for name, value in fields_of(record).items()},
        }
        lines = (f"{name}={_field(value)}\n" for name, value in entry.items())
        try:
            self._socket.sendto("".join(lines).encode(errors="replace"), self._address)
        except OSError:
            with suppress(OSError):
                print(f"<{priority}>{text}", file=sys.stderr, flush=True)


def _priority(record: logging.LogRecord) -> int:
    return next((each for level, each in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)


def _field(value: str) -> str:
    """Return a value that fits a line of the protocol: a line break would begin another field."""
    return " ".join(plain(value).splitlines())


def _journal_reads(stream: Any) -> bool:
    """Return whether systemd connected a stream to the journal (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def print_error(text: str) -> None:
    """Print an error on standard error, for the journal with an error's priority in each line."""
    priority = f"<{_ERROR_PRIORITY}>" if _journal_reads(sys.stderr) else ""
    lines = plain(text).splitlines()
    print("\n".join(f"{priority}{line}" for line in lines), file=sys.stderr, flush=True)


def _line_format(*, journal: bool) -> logging.Formatter:
    form = "%(levelname)s %(name)s: %(message)s"
    # The journal has time and fields of its own.
    return (
        logging.Formatter(form)
        if journal
        else _WithFields("%(asctime)s " + form, "%Y-%m-%dT%H:%M:%SZ")
    )


class _OneLine(logging.Formatter):
    """Join the lines of another formatter's text into one.

    The journal makes an entry of each line, and reads `<3>` at its start as its priority. A line
    break in a text from outside would let its author forge entries.

    Args:
        priority: begin the line with the record's priority, for the journal.
    """

    def __init__(self, formatter: logging.Formatter, *, priority: bool = False) -> None:
        super().__init__()
        self._formatter = formatter
        self._priority = priority

    def format(self, record: logging.LogRecord) -> str:
        lines = plain(self._formatter.format(record).replace("\r", "\n")).split("\n")
        text = _JOIN.join(part for each in lines if (part := each.strip().removeprefix("| ")))
        text = text.encode(errors="replace")[:_LONGEST].decode(errors="ignore")
        return f"<{_priority(record)}>{text}" if self._priority else text


def to_standard_error() -> None:
    """Log to standard error, one line for each event, or to the journal if it reads that.

    A line ends with the fields of fedimg.process.log_context, such as ` job=… region=…`; an entry
    of the journal has them as fields of its own, FEDIMG_JOB and so on, and has its priority.
    """
    handler: logging.Handler = logging.StreamHandler()
    if _journal_reads(sys.stderr):
        handler = JournalHandler()
    handler.setFormatter(_line_format(journal=isinstance(handler, JournalHandler)))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    one_line_each()
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)


def one_line_each() -> None:
    """Have all configured handlers write one line for each event, in their own format.

    fedmsg-hub and `fedora-messaging consume` configure logging by the site's files, and keep the
    line breaks of a text. Handlers that do not write lines, such as one that sends mail, keep their
    formatters. A line that the journal reads gets its record's priority, which it would not have by
    a site's format.
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
            journal = not isinstance(handler, JournalHandler) and _journal_reads(
                getattr(handler, "stream", None)
            )
            handler.setFormatter(
                _OneLine(handler.formatter or logging.Formatter(), priority=journal)
            )
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
