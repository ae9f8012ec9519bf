"""The records of the lab's Koji: users, tasks, builds and archives, kept in one JSON file.

How a hub words its answers is left to `hub`, what is on the bus to `announce`, bytes to `files`.
"""

import dataclasses
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

# XML-RPC values, as deep as Koji cares to nest them.
Value: TypeAlias = Any

TASK_STATES = {"FREE": 0, "OPEN": 1, "CLOSED": 2, "CANCELED": 3, "ASSIGNED": 4, "FAILED": 5}
BUILD_STATES = {"BUILDING": 0, "COMPLETE": 1, "DELETED": 2, "FAILED": 3, "CANCELED": 4}

# The first id is one whose last four digits begin with zeros: Koji's task folders are not padded.
FIRST_TASK = 110410060
FIRST_BUILD = 2211083
FIRST_ARCHIVE = 880001
FIRST_USER = 3445


@dataclass(frozen=True)
class User:
    id: int
    name: str


@dataclass(frozen=True)
class Failure:
    """The fault that a failed task has in place of a result."""

    code: int
    text: str


@dataclass(frozen=True)
class Task:
    """One task; times are seconds since the epoch. `result` means something once it is CLOSED."""

    id: int
    parent: int | None
    method: str
    arch: str
    label: str | None
    owner: int
    state: int
    request: list[Value]
    created: float
    completed: float | None
    result: Value = None
    failure: Failure | None = None

    @property
    def folder(self) -> str:
        """Koji's taskrelpath: where its files lie under work/, not zero padded."""
        return f"tasks/{self.id % 10000}/{self.id}"


@dataclass(frozen=True)
class Archive:
    """One file of a build. `checksum_type` is a key of Koji's: 0 md5, 1 sha1, 2 sha256."""

    id: int
    filename: str
    size: int
    arch: str
    checksum: str
    checksum_type: int
    type_name: str
    # Described by its importer alone: there is no such file.
    metadata_only: bool = False


@dataclass(frozen=True)
class Build:
    id: int
    name: str
    version: str
    release: str
    owner: int
    state: int
    task: int | None
    source: str | None
    created: float
    completed: float | None
    archives: tuple[Archive, ...] = ()
    # Whatever its importer says, of which Koji checks nothing.
    extra: Value = None

    @property
    def nvr(self) -> str:
        return f"{self.name}-{self.version}-{self.release}"

    @property
    def folder(self) -> str:
        """Koji's imagebuild path, under the top URL."""
        return f"packages/{self.name}/{self.version}/{self.release}/images"


class Records:
    """Everything added so far. Safe to use from many threads; on disk before a call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._users: dict[int, User] = {}
        self._tasks: dict[int, Task] = {}
        self._builds: dict[int, Build] = {}
        self._archives = FIRST_ARCHIVE
        if path.exists():
            self._load(json.loads(path.read_text()))

    def user(self, name: str) -> User:
        """Return the user of this name; make one where Koji does, at a first login."""
        with self._lock:
            for user in self._users.values():
                if user.name == name:
                    return user
            user = User(id=FIRST_USER + len(self._users), name=name)
            self._users[user.id] = user
            self._save()
            return user

    def next_task(self) -> int:
        with self._lock:
            return max(self._tasks, default=FIRST_TASK - 1) + 1

    def next_build(self) -> int:
        with self._lock:
            return max(self._builds, default=FIRST_BUILD - 1) + 1

    def next_archive(self) -> int:
        with self._lock:
            self._archives += 1
            return self._archives

    def add(self, tasks: Iterable[Task] = (), build: Build | None = None) -> None:
        """Store or replace; all of it or nothing."""
        with self._lock:
            self._tasks.update({task.id: task for task in tasks})
            if build is not None:
                self._builds[build.id] = build
            self._save()

    def adding(self) -> threading.RLock:
        """Held from the drawing of ids until the `add` that uses them."""
        return self._lock

    def users(self) -> list[User]:
        with self._lock:
            return list(self._users.values())

    def tasks(self) -> list[Task]:
        with self._lock:
            return list(self._tasks.values())

    def builds(self) -> list[Build]:
        with self._lock:
            return list(self._builds.values())

    def find_user(self, who: int | str) -> User | None:
        return next((user for user in self.users() if who in (user.id, user.name)), None)

    def find_task(self, task: int) -> Task | None:
        with self._lock:
            return self._tasks.get(task)

    def find_build(self, build: int | str) -> Build | None:
        return next((one for one in self.builds() if build in (one.id, one.nvr)), None)

    def children(self, task: int) -> list[Task]:
        return [child for child in self.tasks() if child.parent == task]

    def _save(self) -> None:
        whole = {
            "archives": self._archives,
            "users": [dataclasses.asdict(user) for user in self._users.values()],
            "tasks": [dataclasses.asdict(task) for task in self._tasks.values()],
            "builds": [dataclasses.asdict(build) for build in self._builds.values()],
        }
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(whole, indent=1))
        os.replace(new, self._path)

    def _load(self, whole: dict[str, Value]) -> None:
        self._archives = whole["archives"]
        self._users = {row["id"]: User(**row) for row in whole["users"]}
        for row in whole["tasks"]:
            failure = row.pop("failure")
            task = Task(**row, failure=Failure(**failure) if failure else None)
            self._tasks[task.id] = task
        for row in whole["builds"]:
            archives = tuple(Archive(**archive) for archive in row.pop("archives"))
            build = Build(**row, archives=archives)
            self._builds[build.id] = build
