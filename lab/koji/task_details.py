"""The koji command's further questions: a task's files, its host, tags.

For its `taskinfo`, `buildinfo`, `list-builds`, and its downloads. Answers are those of Koji's
kojihub.py, for a Koji that has no tags, RPMs and buildroots.
"""

import os
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.koji import rows
from lab.koji.listing import GENERIC_ERROR
from lab.koji.records import Records, Value

VOLUME = "DEFAULT"


class TaskDetails:
    """Answers out of the records, and out of what lies under `root`."""

    # The arguments below are spelt as Koji spells them: callers name them in `__starstar` calls.

    def __init__(self, records: Records, root: Path) -> None:
        self._records = records
        self._root = root
        self.methods: dict[str, Callable[..., Value]] = {
            "listTaskOutput": self.list_task_output,
            "getHost": self.get_host,
            "getPackageID": self.get_package_id,
            "listTags": lambda build=None, package=None: [],
            "listRPMs": lambda buildID=None, arches=None: [],
            "listBuildroots": lambda taskID=None: [],
            "getMavenBuild": lambda buildInfo, strict=False: None,
            "getWinBuild": lambda buildInfo, strict=False: None,
        }

    def list_task_output(
        self, taskID: int, stat: bool = False, all_volumes: bool = False, strict: bool = False
    ) -> Value:
        """Return the files in a task's folder: as a list, or with what was asked about each, as a
        map.
        """
        task = self._records.find_task(taskID)
        if task is None and strict:
            raise xmlrpc.client.Fault(GENERIC_ERROR, "Task doesn't exist")
        files = dict(_files(self._root / "work" / task.folder)) if task else {}
        if not (stat or all_volumes):
            return list(files)
        if not stat:
            return {name: [VOLUME] for name in files}
        about = {name: _stat(path) for name, path in files.items()}
        return {name: {VOLUME: one} for name, one in about.items()} if all_volumes else about

    def get_host(self, hostInfo: int | str, strict: bool = False) -> Value:
        if hostInfo in (rows.HOST["id"], rows.HOST["name"]):
            return rows.HOST
        if strict:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid hostInfo: {hostInfo}")
        return None

    def get_package_id(self, name: str, strict: bool = False) -> Value:
        for build in self._records.builds():
            if build.name == name:
                return rows.package(build)
        if strict:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"No such package name: {name}")
        return None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path, _, names in os.walk(folder):
        for name in names:
            found = Path(path, name)
            yield str(found.relative_to(folder)), found


def _stat(path: Path) -> dict[str, Value]:
    """Return the size as text: some files have a size that is no XML-RPC integer."""
    about = path.stat()
    return {
        "st_size": str(about.st_size),
        "st_atime": about.st_atime,
        "st_mtime": about.st_mtime,
        "st_ctime": about.st_ctime,
    }
