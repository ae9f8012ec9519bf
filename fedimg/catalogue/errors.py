"""The error of everything that the catalogue cannot do."""

from fedimg.untrusted.quoting import QuotedError


class CatalogueError(QuotedError):
    """The catalogue cannot be written; the text says what failed, where, and what to do."""
