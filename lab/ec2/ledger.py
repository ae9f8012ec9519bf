"""The record of every create and delete, kept apart from EC2's own state so that leaks show."""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KINDS = ("instance", "volume", "snapshot", "image", "security-group", "key-pair")


class Ledger:
    """An append-only file, one JSON object a line; thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
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
            self._rows.append(row)
            if not self._file.closed:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
