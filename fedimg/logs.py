"""What a worker logs: a line an event, on standard error, without secrets in it."""

from __future__ import annotations

import logging
import os
import time

from fedimg.secrets import hide

#: Libraries that tell each call, or print a traceback a try; fedimg's own lines say what matters.
_TALKATIVE = ("boto3", "botocore", "dbos", "paramiko", "s3transfer", "sqlalchemy", "urllib3")


class _Formatter(logging.Formatter):
    """Formats events, tracebacks of other people's libraries too, without secrets in them."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


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
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
