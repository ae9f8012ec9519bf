"""Putting tasks and builds into a Koji: their records, and their files where Koji keeps them."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lab.koji import builds
from lab.koji.records import (
    BUILD_STATES,
    TASK_STATES,
    Archive,
    Build,
    Failure,
    Records,
    Task,
    Value,
)

_CHECKSUM_TYPES = {"md5": 0, "sha1": 1, "sha256": 2}
# koji.BuildError.
_BUILD_FAILED = Failure(1005, "BuildError: the lab was asked to fail this build")

# The files of each architecture.
Files = Mapping[str, Sequence[Path]]


class Contents:
    """Records and files of a Koji, in `folder`.

    `clock` gives the time of whatever is added, in seconds since the epoch; it may be replaced.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.root = folder / "files"
        self.root.mkdir(parents=True, exist_ok=True)
        self.records = Records(folder / "records.json")

    def add_task(
        self,
        name: str,
        version: str,
        release: str,
        files: Files,
        *,
        method: str = "image",
        owner: str = "ausil",
        state: str = "CLOSED",
        failed_arches: Sequence[str] = (),
        scratch: bool = True,
    ) -> Task:
        """Add a finished parent task, with a child that holds the files of each architecture.

        `files` are copied. The children of `failed_arches` have failed, and all have when `state`
        is not CLOSED. osbuildImage has no children and leaves no files: only its build has some.
        """
        image = builds.Image(name, version, release)
        arches = [*files, *(arch for arch in failed_arches if arch not in files)]
        with self.records.adding():
            tasks = self._make_tasks(
                image, method, owner, arches, files, state, failed_arches, scratch
            )
            self.records.add(tasks)
        return tasks[0]

    def add_build(
        self,
        name: str,
        version: str,
        release: str,
        files: Files,
        *,
        owner: str = "releng",
        method: str | None = "image",
        state: str = "COMPLETE",
        checksum_type: str = "sha256",
    ) -> Build:
        """Add a build with its archives, and the task that made it unless `method` is None.

        `files` are copied. Sizes and checksums are those of the files as given here.
        """
        image = builds.Image(name, version, release)
        with self.records.adding():
            if self.records.find_build(image.stem) is not None:
                raise ValueError(f"Koji has a build {image.stem}; give another release")
            now = self.clock()
            built = state == "COMPLETE"
            tasks: list[Task] = []
            if method is not None:
                task_state = "CLOSED" if built else "FAILED"
                tasks = self._make_tasks(
                    image, method, owner, list(files), files if built else {}, task_state, (), False
                )
            build = Build(
                id=self.records.next_build(),
                name=name,
                version=version,
                release=release,
                owner=self.records.user(owner).id,
                state=BUILD_STATES[state],
                task=tasks[0].id if tasks else None,
                source=None,
                created=now - 900,
                completed=now,
            )
            if built:
                archives = self._import_files(image, build.folder, files, tasks, checksum_type)
                build = replace(build, archives=archives)
            self.records.add(tasks, build)
        return build

    def paths(self, record: Task | Build) -> list[Path]:
        """Return the paths, on this machine, of the files of a build or of a task's children."""
        if isinstance(record, Build):
            return [self.root / record.folder / archive.filename for archive in record.archives]
        folders = [self.root / "work" / one.folder for one in self.records.children(record.id)]
        return sorted(path for folder in folders for path in folder.glob("*"))

    def _make_tasks(
        self,
        image: builds.Image,
        method: str,
        owner: str,
        arches: Sequence[str],
        files: Files,
        state: str,
        failed_arches: Sequence[str],
        scratch: bool,
    ) -> list[Task]:
        """Make the parent and its children, parent first, their files in place."""
        request = builds.request(method, image, arches, scratch)
        child_method = builds.METHODS[method].child
        if child_method is None and scratch:
            raise ValueError(f"Koji has no scratch builds of {method}: add a build instead")
        first, now, user = self.records.next_task(), self.clock(), self.records.user(owner).id
        children = []
        for number, arch in enumerate(arches if child_method else [], start=first + 1):
            ended = "FAILED" if arch in failed_arches else state
            child = Task(
                id=number,
                parent=first,
                method=child_method or "",
                arch=arch,
                label=arch,
                owner=user,
                state=TASK_STATES[ended],
                request=builds.child_request(method, image, arch, request),
                created=now - 890,
                completed=None if ended == "OPEN" else now - 10,
                failure=_BUILD_FAILED if ended == "FAILED" else None,
            )
            if ended == "CLOSED":
                names = self._fill(child, image, files.get(arch, ()), owner if scratch else None)
                logs = [f"{name}.log" for name in ("oz", "root", "state")]
                result = builds.child_result(
                    number, image, arch, names, logs, child.request, child.method
                )
                child = replace(child, result=result)
            children.append(child)
        folders = [f"work/{child.folder}" for child in children]
        if not scratch:
            folders = [f"packages/{image.name}/{image.version}/{image.release}/images"]
        said: Value = builds.sentence(folders, scratch)
        if child_method is None:
            said = {"composer": {"server": "https://composer.lab/", "id": str(first)}, "koji": {}}
        parent = Task(
            id=first,
            parent=None,
            method=method,
            arch="noarch",
            label=None,
            owner=user,
            state=TASK_STATES[state],
            request=request,
            created=now - 900,
            completed=None if state == "OPEN" else now,
            result=said if state == "CLOSED" else None,
            failure=_BUILD_FAILED if state == "FAILED" else None,
        )
        return [parent, *children]

    def _fill(
        self, child: Task, image: builds.Image, files: Sequence[Path], scratch_owner: str | None
    ) -> list[str]:
        """Name what a child has built, and place it unless a build takes it over.

        Koji moves what is scratch to a folder of its owner's, and leaves links behind.
        """
        small = builds.by_products(image, child.arch, child.id)
        if scratch_owner is not None:
            folder = self.root / "work" / child.folder
            target = self.root / "scratch" / scratch_owner / f"task_{child.id}"
            for made in (folder, target):
                made.mkdir(parents=True)
            for path in files:
                shutil.copyfile(path, target / path.name)
            for name, text in small.items():
                (target / name).write_text(text)
            for path in target.iterdir():
                (folder / path.name).symlink_to(os.path.relpath(path, folder))
        return [*(path.name for path in files), *small]

    def _import_files(
        self,
        image: builds.Image,
        folder: str,
        files: Files,
        tasks: Sequence[Task],
        checksum_type: str,
    ) -> tuple[Archive, ...]:
        target = self.root / folder
        target.mkdir(parents=True)
        owned = [(arch, path.name, path) for arch, paths in files.items() for path in paths]
        for _arch, name, path in owned:
            shutil.copyfile(path, target / name)
        placed = [(arch, name) for arch, name, _path in owned]
        for task in tasks[1:]:
            for name, text in builds.by_products(image, task.arch, task.id).items():
                (target / name).write_text(text)
                placed.append((task.arch, name))
        return tuple(
            self._archive(target / name, arch, checksum_type)
            for arch, name in dict.fromkeys(placed)
        )

    def _archive(self, path: Path, arch: str, checksum_type: str) -> Archive:
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, checksum_type).hexdigest()
        return Archive(
            id=self.records.next_archive(),
            filename=path.name,
            size=path.stat().st_size,
            arch=arch,
            checksum=digest,
            checksum_type=_CHECKSUM_TYPES[checksum_type],
            type_name=builds.archive_type(path.name),
        )
