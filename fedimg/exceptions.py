"""Define the errors of publishing an image, with all that a person needs to act on them."""

from __future__ import annotations

import errno
from typing import Any

from fedimg.untrusted.failures import of_endpoint
from fedimg.untrusted.quoting import LONGEST, one_line, plain

#: Most bytes of output that a failure quotes, by the contract of the bus messages.
OUTPUT_TAIL = 32 * 1024


class EC2ServiceException(Exception):
    """Publishing an image failed at EC2.

    Args:
        problem: what was being done, to what, where, and what a person can do next.
        image: the image's name.
        region: the region where the failure happened.
        step: the step of the process.
        request_id: AWS's id of the failed request, if there is one.
        output: the output of the instance; its last 32 KiB are kept.
        later: whether a later try may succeed without a person's intervention.
        unknown: EC2's error code, if it is unknown whether a later try may succeed.
        away: whether the whole region does not answer; the job retries it automatically.
        no_room: how many AMIs cannot become public in the region, because its quota has no room
            for them; the job continues there by itself when there is room.
        over_quota: whether EC2 refused to make an AMI public because of a quota that seemed to have
            room, or whose figures are unknown; the job tries again by itself, at intervals.
    """

    #: Class attributes, because exceptions that an older version recorded lack the fields.
    unknown = ""
    away = False
    no_room = 0
    over_quota = False

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
        no_room: int = 0,
        over_quota: bool = False,
    ) -> None:
        # The text quotes AWS, servers and libraries: it is untrusted, and may hold a proxy's
        # password.
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
        self.no_room = no_room
        self.over_quota = over_quota
        # A character that the cut splits is dropped; one that cannot be encoded becomes a question
        # mark.
        tail = output[-OUTPUT_TAIL:].encode(errors="replace")[-OUTPUT_TAIL:]
        self.output = plain(tail.decode(errors="ignore"))

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.image, self.region, self.step) if part)
        text = f"{self.problem} [{where}]" if where else self.problem
        return f"{text} (AWS request {self.request_id})" if self.request_id else text

    @property
    def continues(self) -> bool:
        """Return whether the job continues in the region by itself, without counting a retry."""
        return self.away or self.no_room > 0 or self.over_quota

    @property
    def may_pass(self) -> bool:
        """Return whether another run may succeed before a person has changed something."""
        return self.later or self.continues or bool(self.unknown)

    @property
    def data(self) -> dict[str, Any]:
        """Return all fields, as JSON values, which the queue records beside the class."""
        return dict(vars(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Workflows that an earlier fedimg started are recorded as pickles to their end. The name
        # stands in those pickles, and workers of either version read the other's.
        return (_again, (type(self), self.problem, dict(self.__dict__)))


def _again(
    error_class: type[EC2ServiceException], problem: str, fields: dict[str, Any]
) -> EC2ServiceException:
    error = error_class(problem)
    error.__dict__.update(fields)
    return error


class EC2UtilityException(EC2ServiceException):
    """The utility instance did not write the image to its volume."""


class EC2TestException(EC2ServiceException):
    """The test instance did not boot from the image, or failed a check."""


class Cancelled(Exception):
    """The job was cancelled, or the worker is stopping: end at once, and record nothing."""


def for_operator(error: Exception) -> str:
    """Return an error for its operator: our own text, or a library's in plain words."""
    return str(error) if isinstance(error, EC2ServiceException) else of_endpoint(error)


#: The kernel's errors for a process that may have no more memory or file descriptors.
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def exhausted(error: BaseException | None) -> bool:
    """Return whether this process ran out of memory, file descriptors or threads.

    The causes of the error are searched, too. A full disk, and errors of other machines, do not
    count.
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
