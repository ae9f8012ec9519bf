"""Define the errors of a file that cannot become an AMI."""

from __future__ import annotations

from fedimg.untrusted.quoting import QuotedError


class ImageUnusable(QuotedError):
    """The file cannot become an AMI; the text says why."""


class ImageUnreachable(ImageUnusable):
    """The file could not be read now; a later try may succeed."""
