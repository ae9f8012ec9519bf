"""Define the result of looking up an announced entry, and the reasons why a lookup fails.

fedimg.sources.koji looks up tasks and builds, fedimg.sources.composes composes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedimg.images import RawImage
from fedimg.untrusted.quoting import QuotedError


class SourceUnavailable(QuotedError):
    """The source did not answer; a later try may succeed."""


class SourceFails(SourceUnavailable):
    """The source answers, but fails at this entry, perhaps permanently."""


class NotFinished(QuotedError):
    """The entry is not finished, or not in the source yet."""


class LookupRefused(QuotedError):
    """The entry will never have images: it is unknown, failed, malformed or no image."""


@dataclass(frozen=True)
class LeftOut:
    """A file of an entry that is not published, and why.

    `by_setting` says that another setting would have it published.
    """

    name: str
    reason: str
    by_setting: bool = False


@dataclass(frozen=True)
class LookupResult:
    """An entry as its source describes it.

    A build that is not `scratch` has passed Koji's policy. `owner` is None for a compose: everybody
    who can write to its location may publish. `completed` is when the entry finished, and `now`
    the source's time, in seconds since the epoch; None if unknown. `left_out` are the files that
    the source itself left out.
    """

    entry: str
    owner: str | None
    scratch: bool
    images: tuple[RawImage, ...]
    completed: float | None = None
    now: float | None = None
    left_out: tuple[LeftOut, ...] = ()
