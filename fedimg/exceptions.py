"""What goes wrong while an image is published, with everything a person needs to act on it."""

from __future__ import annotations

import errno
from typing import Any

from fedimg.untrusted.quoting import LONGEST, one_line, plain

#: The bus contract's limit for what a failure quotes, in bytes.
OUTPUT_TAIL = 32 * 1024


class EC2ServiceException(Exception):
    """Publishing an image failed at EC2.

    Args:
        problem: what was being done, to what, where, and what a person can do next.
        image: the image's name.
        region: the region where it happened.
        step: the step of the process.
        request_id: AWS's id of the refused request, where there is one.
        output: what the instance printed; its last 32 KiB are kept.
        later: whether the same may pass later, without anything being mended.
        unknown: EC2's code for a refusal of which nobody knows whether it passes.
        away: whether the whole region is away, and is asked again by itself.
    """

    #: Of an exception that an older version recorded, too.
    unknown = ""
    away = False

    def __init__(
        self,
        problem: str,
        *,
        image: str = "",
        region: str = "",
        step: str = "",
        request_id: str = "",
        output: str = "",
        later: bool = False,
        unknown: str = "",
        away: bool = False,
    ) -> None:
        # AWS, servers and libraries are quoted: anybody's words, and a proxy's password perhaps.
        problem = one_line(problem, LONGEST)
        super().__init__(problem)
        self.problem = problem
        self.image = image
        self.region = region
        self.step = step
        self.request_id = one_line(request_id)
        self.later = later
        self.unknown = unknown
        self.away = away
        # Half a character at the cut goes; what was no text to begin with shows as question marks.
        tail = output[-OUTPUT_TAIL:].encode(errors="replace")[-OUTPUT_TAIL:]
        self.output = plain(tail.decode(errors="ignore"))

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.image, self.region, self.step) if part)
        text = f"{self.problem} [{where}]" if where else self.problem
        return f"{text} (AWS request {self.request_id})" if self.request_id else text

    @property
    def data(self) -> dict[str, Any]:
        """What the queue records of it, beside its kind: all of its fields, as JSON."""
        return dict(vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Rows of an earlier fedimg hold pickles; a workflow's end is recorded as its beginning was.
        return (_again, (type(self), self.problem, dict(self.__dict__)))


def _again(
    kind: type[EC2ServiceException], problem: str, fields: dict[str, Any]
) -> EC2ServiceException:
    error = kind(problem)
    error.__dict__.update(fields)
    return error


class EC2UtilityException(EC2ServiceException):
    """The utility instance did not write the image to its volume."""


class EC2TestException(EC2ServiceException):
    """The test instance did not boot from the image, or failed a check."""


class Cancelled(Exception):
    """The job was cancelled, or the worker is stopping: leave at once, and record nothing."""


#: What the kernel says of a process that may have no more memory, files or threads.
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def exhausted(error: BaseException | None) -> bool:
    """Whether the reason, or the reason behind it, is that this process ran out of something.

    Another machine's lack of room is not meant, nor is a full disk.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno in _EXHAUSTED:
            return True
        # CPython's thread.start_new_thread has no exception of its own.
        if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
            return True
        error = error.__cause__ or error.__context__
    return False
