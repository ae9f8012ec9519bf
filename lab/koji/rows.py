"""A hub's answers: a task, a build, an archive, each as a row."""

from datetime import UTC, datetime

from lab.koji.records import Archive, Build, Records, Task, User, Value

# Number, description and extensions of each, as in Koji's schema.
ARCHIVE_TYPES = {
    "xml": (5, "XML file", "xml"),
    "iso": (18, "CD/DVD Image", "iso"),
    "raw": (19, "Raw disk image", "raw"),
    "qcow2": (21, "QCOW2 image", "qcow2"),
    "ks": (24, "Kickstart", "ks"),
    "raw-xz": (45, "xz compressed raw disk image", "raw.xz"),
    # Koji's schema has neither: a hub's administrators add them (addArchiveType).
    "raw-gz": (47, "gzip compressed raw disk image", "raw.gz"),
    "raw-zst": (48, "zstd compressed raw disk image", "raw.zst"),
    "json": (46, "JSON data", "json"),
}

#: The content generators, number and name, by the method whose builds they import.
GENERATORS = {"osbuildImage": (2, "osbuild")}

#: The one builder; what getHost says of it.
HOST: dict[str, Value] = {
    "id": 569,
    "user_id": 1,
    "name": "buildvm-x86-01.lab",
    "arches": "x86_64 i386 aarch64",
    "task_load": 0.0,
    "capacity": 4.0,
    "description": None,
    "comment": None,
    "ready": True,
    "enabled": True,
    "update_ts": None,
}


def task_info(task: Task, request: bool = False) -> dict[str, Value]:
    """Return a task as getTaskInfo gives it: the owner a number, the request if asked for."""
    row: dict[str, Value] = {
        "id": task.id,
        "parent": task.parent,
        "method": task.method,
        "arch": task.arch,
        "label": task.label,
        "owner": task.owner,
        "state": task.state,
        "channel_id": 14,
        "host_id": HOST["id"],
        "priority": 20 if task.parent is None else 19,
        "weight": 0.2,
        "waiting": task.parent is None and task.completed is None,
        "awaited": None if task.parent is None else False,
        "create_time": text_time(task.created),
        "create_ts": task.created,
        "start_time": text_time(task.created),
        "start_ts": task.created,
        "completion_time": text_time(task.completed),
        "completion_ts": task.completed,
    }
    return row | ({"request": task.request} if request else {})


def build_row(build: Build, owner: User | None) -> dict[str, Value]:
    """Return a build as listBuilds gives it: its number is `build_id` alone."""
    return {
        "build_id": build.id,
        "name": build.name,
        "package_name": build.name,
        "package_id": package(build),
        "version": build.version,
        "release": build.release,
        "epoch": epoch(build),
        "nvr": build.nvr,
        "state": build.state,
        "draft": False,
        "task_id": build.task,
        "source": build.source,
        "extra": build.extra,
        "owner_id": build.owner,
        "owner_name": owner.name if owner else None,
        "promoter_id": None,
        "promoter_name": None,
        "volume_id": 0,
        "volume_name": "DEFAULT",
        "creation_event_id": build.id,
        "creation_time": text_time(build.created),
        "creation_ts": build.created,
        "start_time": text_time(build.created),
        "start_ts": build.created,
        "completion_time": text_time(build.completed),
        "completion_ts": build.completed,
        "promotion_time": None,
        "promotion_ts": None,
    }


def build_info(records: Records, build: Build) -> dict[str, Value]:
    """Return a build as getBuild gives it."""
    owner = records.find_user(build.owner)
    task = None if build.task is None else records.find_task(build.task)
    # koji-osbuild's builds come in as a content generator's; the other methods are Koji's own.
    generator = GENERATORS.get(task.method if task else "")
    number, name = generator or (None, None)
    return build_row(build, owner) | {"id": build.id, "cg_id": number, "cg_name": name}


def archive_info(build: Build, archive: Archive, image: bool) -> dict[str, Value]:
    """Return an archive as listArchives gives it; those asked for as images have an arch."""
    number, description, extensions = ARCHIVE_TYPES[archive.type_name]
    row = {
        "id": archive.id,
        "build_id": build.id,
        "btype": "image",
        "btype_id": 4,
        "buildroot_id": None,
        "filename": archive.filename,
        "size": archive.size,
        "checksum": archive.checksum,
        "checksum_type": archive.checksum_type,
        "type_id": number,
        "type_name": archive.type_name,
        "type_description": description,
        "type_extensions": extensions,
        "compression_type": None,
        "metadata_only": archive.metadata_only,
        "extra": None,
    }
    return row | ({"arch": archive.arch} if image else {})


def epoch(build: Build) -> int | None:
    """Koji's builders say 0; who imports a build mostly says nothing."""
    return None if build.task is None else 0


def package(build: Build) -> int:
    """Return a number that is the same for every build of one name."""
    return 20000 + sum(build.name.encode())


def text_time(seconds: float | None) -> str | None:
    """Return a time as PostgreSQL, and so Koji, writes it, with its zone."""
    if seconds is None:
        return None
    return str(datetime.fromtimestamp(seconds, UTC))


_TASK = Task(0, None, "image", "noarch", None, 0, 0, [], 0.0, None)
_BUILD = Build(0, "", "", "", 0, 0, None, None, 0.0, None)
_ARCHIVE = Archive(0, "", 0, "", "", 0, "raw")
#: What the rows of each list can be put in order by, whether there are any or not.
TASK_COLUMNS = task_info(_TASK, request=True).keys() | {"result", "owner_name", "owner_type"}
BUILD_COLUMNS = build_row(_BUILD, None).keys()
ARCHIVE_COLUMNS = archive_info(_BUILD, _ARCHIVE, image=True).keys()
