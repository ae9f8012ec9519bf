"""What asking about an announced entry comes to: whose it is and its images, or why there are none.

Koji is asked in fedimg.sources.koji, composes in fedimg.sources.composes.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedimg.images import RawImage
from fedimg.untrusted.quoting import QuotedError


class SourceUnavailable(QuotedError):
    """No answer; it has to be asked again."""


class SourceFails(SourceUnavailable):
    """Whoever is asked answers, and fails at this one, perhaps for good."""


class NotFinished(QuotedError):
    """It is known, and is not finished, or is not there yet."""


class LookupRefused(QuotedError):
    """There will never be images here: no such thing, not an image, failed, or malformed."""


@dataclass(frozen=True)
class LookupResult:
    """One entry by the word of who made it.

    Not `scratch` is a build that has been through Koji's policy. Of a compose `owner` is None:
    whoever may write to its location may publish. `completed` is when it finished, and `now`
    what time it is there, in seconds since the epoch; None where nobody tells.
    """

    entry: str
    owner: str | None
    scratch: bool
    images: tuple[RawImage, ...]
    completed: float | None = None
    now: float | None = None
