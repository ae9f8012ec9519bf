"""Write the answers of commands: JSON for scripts, tables on a terminal, whole lines elsewhere."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fedimg.cli.page import Part
from fedimg.process.logs import print_error
from fedimg.untrusted.failures import reason
from fedimg.untrusted.quoting import plain, plain_values
from fedimg.untrusted.redaction import hide


@dataclass(frozen=True)
class Answer:
    """One answer in its three forms.

    `value` is printed as JSON; `rows` are the fields of the plain lines; `page` is shown on a
    terminal; `nothing` is the note on standard error when `rows` is empty. `header` names the
    fields of the plain lines, in a line before them.
    """

    value: Any
    rows: Sequence[Sequence[str]]
    page: Sequence[Part]
    nothing: str = ""
    header: Sequence[str] = ()


class Output:
    """Write to standard output and standard error, as JSON or for a person.

    A standard output that is closed or full is told in one line on standard error; the command goes
    on and exits with its own status.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # Python has no standard output where the caller closed it (`>&-`).
        self.live = not as_json and sys.stdout is not None and sys.stdout.isatty()
        #: Whether nobody reads standard output any more.
        self.lost = False

    def answer(self, answer: Answer) -> None:
        """Print an answer on standard output."""
        if self.as_json:
            self.value(answer.value)
        elif not answer.rows:
            self.note(answer.nothing)
        elif self.live:
            from fedimg.cli.terminal import drawn

            # Rich removes control characters from texts; its own colour codes have to stay.
            self._write(hide(drawn(answer.page)), end="")
        else:
            for line in _aligned([*([answer.header] if answer.header else []), *answer.rows]):
                self.line(line)

    def line(self, text: str) -> None:
        """Print a line of text on standard output."""
        self._write(plain(text))

    def value(self, value: Any) -> None:
        """Print a line of JSON on standard output."""
        self._write(json.dumps(plain_values(value)))

    def note(self, text: str) -> None:
        """Print a note for a person, which is not part of the answer, on standard error."""
        print(plain(text), file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Print an error on standard error, and with --json also as `{"error": text}`."""
        text = plain(text)
        if self.as_json:
            self.value({"error": text})
        print_error(f"fedimg: {text}")

    def _write(self, text: str, end: str = "\n") -> None:
        if self.lost:
            return
        try:
            if sys.stdout is None:
                raise BrokenPipeError(errno.EBADF, "it is closed")
            print(text, end=end, flush=True)
        except OSError as error:
            self.lost = True
            if sys.stdout is not None:
                # Otherwise Python would write the rest at its exit, and fail once more.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
            with suppress(OSError):
                self.note(
                    f"fedimg: cannot write to standard output: {reason(error)}; the command itself "
                    "is done"
                )


def when(seconds: float) -> str:
    """Format seconds since the epoch as an ISO-8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fields(row: Sequence[str]) -> list[str]:
    """Replace blanks in all fields but the last, so that awk and cut find each field."""
    return [*("-".join(field.split()) or "-" for field in row[:-1]), row[-1]]


def ago(seconds: float) -> str:
    """Format the age of a time in seconds since the epoch."""
    age = max(0, int(time.time() - seconds))
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if age >= unit:
            return f"{age // unit} {name} ago"
    return f"{age} s ago"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    filled = [fields(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    for row in filled:
        padded = (field.ljust(width) for field, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
