"""Access keys: what a client signs its calls with."""

import secrets
import string
from typing import NamedTuple

# AWS's own: RFC 4648's base32 for ids, which name their account, and base64 for secrets.
_ID_LETTERS = string.ascii_uppercase + "234567"


class AccessKey(NamedTuple):
    """The public id of a key, and the secret that nobody but its holder has."""

    id: str
    secret: str

    @classmethod
    def new(cls) -> "AccessKey":
        """Make a key that nobody can guess."""
        id = "AKIA" + "".join(secrets.choice(_ID_LETTERS) for _ in range(16))
        return cls(id, secrets.token_urlsafe(30))

    def __repr__(self) -> str:
        return f"AccessKey({self.id})"
