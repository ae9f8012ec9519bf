"""The record of every create and delete, kept apart from EC2's own state so that leaks show."""

import json
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KINDS = (
    "instance",
    "volume",
    "snapshot",
    "image",
    "security-group",
    "key-pair",
    "grant",
    "object",
    "parameter",
    "upload",
)


class Ledger:
    """An append-only file, one JSON object a line; thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._born: dict[tuple[str, str], float] = {}
        self._file = path.open("w", encoding="utf-8")

    def created(
        self, kind: str, id: str, region: str, account: str, tags: Mapping[str, str]
    ) -> None:
        self._write("create", kind, id, region, account, tags, False)

    def deleted(
        self,
        kind: str,
        id: str,
        region: str,
        account: str,
        tags: Mapping[str, str],
        public: bool = False,
    ) -> None:
        self._write("delete", kind, id, region, account, tags, public)

    def rows(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._rows)

    def ids(self, region: str) -> set[str]:
        """Return the resources that were ever created in a region."""
        with self._lock:
            return {id for where, id in self._born if where == region}

    def younger(self, seconds: float, region: str) -> set[str]:
        """Return the resources that were created in a region within the last `seconds`."""
        earliest = time.monotonic() - seconds
        with self._lock:
            born = self._born.items()
            return {id for (where, id), when in born if where == region and when > earliest}

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _write(
        self,
        event: str,
        kind: str,
        id: str,
        region: str,
        account: str,
        tags: Mapping[str, str],
        public: bool,
    ) -> None:
        row = {
            "time": datetime.now(UTC).isoformat(),
            "event": event,
            "kind": kind,
            "id": id,
            "region": region,
            "account": account,
            "tags": dict(tags),
            "public": public,
        }
        with self._lock:
            if event == "create":
                self._born[region, id] = time.monotonic()
            self._rows.append(row)
            if not self._file.closed:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
