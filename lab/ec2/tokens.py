"""Client tokens: a token with the same parameters is one effect, however often it is sent."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.ec2.errors import EC2Error, invalid

LONGEST = 64


@dataclass
class _Entry:
    parameters: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    made: str | None = None


class Tokens:
    """The result of each client token. A call that fails frees its token, as on EC2."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, ...], _Entry] = {}

    def once(
        self, scope: tuple[str, ...], parameters: dict[str, Any], make: Callable[[], str]
    ) -> str:
        """Return the id that `make` returns, or returned when this token was first sent.

        `scope` is account, region and action. Raises IdempotentParameterMismatch when the token
        came with other parameters before, and InvalidParameterValue for one that is too long.
        """
        token = parameters.get("ClientToken")
        if not token:
            return make()
        if len(token) > LONGEST or not token.isascii():
            raise invalid(token, "clientToken", f"At most {LONGEST} ASCII characters.")
        sent = {name: value for name, value in parameters.items() if name != "ClientToken"}
        fingerprint = json.dumps(sent, sort_keys=True, default=str)
        key = (*scope, token)
        while True:
            with self._lock:
                entry = self._entries.setdefault(key, _Entry(fingerprint))
            with entry.lock:
                if self._entries.get(key) is not entry:
                    continue
                if entry.parameters != fingerprint:
                    raise EC2Error(
                        "IdempotentParameterMismatch",
                        "Arguments on this idempotent request are inconsistent with arguments "
                        "used in previous request(s).",
                    )
                if entry.made is None:
                    try:
                        entry.made = make()
                    except BaseException:
                        with self._lock:
                            del self._entries[key]
                        raise
                return entry.made
