"""Say which job, entry or region the log's records of this thread are about.

The values become fields of the journal's entries (fedimg.process.logs).
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

#: The names of the fields; a record's own attribute of such a name counts before the context's.
FIELDS = ("job", "entry", "region")

_context: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar(
    "log", default=None
)


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Add fields to all records that this thread, and threads with a copy of its context, log."""
    before = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(before)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the fields of a record that this thread logs, without empty ones."""
    context = _context.get() or {}
    found = {name: vars(record).get(name) or context.get(name) for name in FIELDS}
    return {name: str(value) for name, value in found.items() if value}
