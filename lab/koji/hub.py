"""The hub's XML-RPC calls, answered as an anonymous client of a Koji 1.36 hub sees them.

Only what a reader of image builds asks is here; a call that is not is refused as an unknown method.
"""

import inspect
import traceback
import xmlrpc.client
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from lab.koji.records import Archive, Build, Records, Task, Value

# Koji's fault codes (koji.GenericError, koji.ParameterError).
GENERIC_ERROR = 1000
PARAMETER_ERROR = 1019

_ARCHIVE_TYPES = {
    "raw-xz": "Raw disk image, xz compressed",
    "raw": "Raw disk image",
    "qcow2": "QCOW2 image",
    "ks": "Kickstart",
    "iso": "CD/DVD Image",
    "xml": "XML file",
    "json": "JSON data",
}
_QUERY_OPTIONS = {"limit", "offset", "order", "countOnly"}


class _Marshaller(xmlrpc.client.Marshaller):
    """Writes what Koji writes and Python's refuses: integers over 32 bits, as i8."""

    def __init__(self) -> None:
        super().__init__("utf-8", allow_none=True)
        self.dispatch = self.dispatch | {int: _write_integer}


def _write_integer(_: xmlrpc.client.Marshaller, value: int, write: Callable[[str], object]) -> None:
    tag = "int" if xmlrpc.client.MININT <= value <= xmlrpc.client.MAXINT else "i8"
    write(f"<value><{tag}>{value}</{tag}></value>\n")


def _document(value: tuple[Value] | xmlrpc.client.Fault) -> bytes:
    head = "<?xml version='1.0' encoding='utf-8'?>\n"
    body = _Marshaller().dumps(value)
    return f"{head}<methodResponse>\n{body}</methodResponse>\n".encode()


class Hub:
    """Answers calls out of the records."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._methods: dict[str, Callable[..., Value]] = {
            "echo": lambda *args: list(args),
            "hello": lambda *args: "Hello World",
            "getAPIVersion": lambda: 1,
            "getKojiVersion": lambda: "1.36.0",
            "getTaskInfo": self.get_task_info,
            "getTaskRequest": self.get_task_request,
            "getTaskResult": self.get_task_result,
            "getTaskChildren": self.get_task_children,
            "getTaskDescendents": self.get_task_descendents,
            "getBuild": self.get_build,
            "listBuilds": self.list_builds,
            "listArchives": self.list_archives,
            "listTasks": self.list_tasks,
            "getUser": self.get_user,
        }

    def answer(self, document: bytes) -> bytes:
        """One XML-RPC request document in, one response document out; never raises."""
        try:
            params, method = xmlrpc.client.loads(document, use_builtin_types=True)
        except Exception as error:  # a parser may raise anything on strange bytes
            return _document(xmlrpc.client.Fault(1, f"unreadable request: {error}"))
        try:
            return _document((self._dispatch(str(method), params),))
        except xmlrpc.client.Fault as fault:
            return _document(fault)

    def _dispatch(self, method: str, params: Sequence[Value]) -> Value:
        if method == "multiCall":
            return [self._one_of_many(call) for call in params[0]]
        if method not in self._methods:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid method: {method}")
        call = self._methods[method]
        args, keywords = _split_keywords(params)
        try:
            inspect.signature(call).bind(*args, **keywords)
        except TypeError as error:
            raise xmlrpc.client.Fault(PARAMETER_ERROR, f"{method}: {error}") from error
        return call(*args, **keywords)

    def _one_of_many(self, call: dict[str, Value]) -> Value:
        try:
            return [self._dispatch(call["methodName"], call.get("params", []))]
        except xmlrpc.client.Fault as fault:
            return {
                "faultCode": fault.faultCode,
                "faultString": fault.faultString,
                "traceback": traceback.format_exception(fault),
            }

    # The arguments below are spelt as Koji spells them: callers name them in `__starstar` calls.

    def get_task_info(self, task_id: int, request: bool = False, strict: bool = False) -> Value:
        task = self._records.find_task(task_id)
        if task is None:
            if strict:
                raise _no_task(task_id)
            return None
        return task_info(task, request)

    def get_task_request(self, taskId: int) -> Value:
        return self._task(taskId).request

    def get_task_result(self, taskId: int, raise_fault: bool = True) -> Value:
        task = self._task(taskId)
        if task.failure is not None:
            if raise_fault:
                raise xmlrpc.client.Fault(task.failure.code, task.failure.text)
            return {"faultCode": task.failure.code, "faultString": task.failure.text}
        if task.completed is None:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Task {taskId} has no result")
        return task.result

    def get_task_children(self, task_id: int, request: bool = False, strict: bool = False) -> Value:
        if strict:
            self._task(task_id)
        return [task_info(child, request) for child in self._records.children(task_id)]

    def get_task_descendents(self, task_id: int, request: bool = False) -> Value:
        found: dict[str, Value] = {}
        for child in self.get_task_children(task_id, request):
            found.setdefault(str(task_id), []).append(child)
            found.update(self.get_task_descendents(child["id"], request))
        return found

    def get_user(
        self,
        userInfo: int | str | None = None,
        strict: bool = False,
        krb_princs: bool = True,
    ) -> Value:
        user = None if userInfo is None else self._records.find_user(userInfo)
        if user is None:
            if strict:
                raise xmlrpc.client.Fault(GENERIC_ERROR, f"No such user: {userInfo!r}")
            return None
        row: dict[str, Value] = {"id": user.id, "name": user.name, "status": 0, "usertype": 0}
        return row | ({"krb_principals": []} if krb_princs else {})

    def get_build(
        self,
        buildInfo: int | str | dict[str, Value],
        strict: bool = False,
    ) -> Value:
        wanted = buildInfo
        if isinstance(wanted, dict):
            wanted = wanted.get("id") or "{name}-{version}-{release}".format_map(wanted)
        build = self._records.find_build(wanted)
        if build is None:
            if strict:
                raise xmlrpc.client.Fault(GENERIC_ERROR, f"No such build: {buildInfo!r}")
            return None
        return self.build_info(build) | {"extra": None, "cg_id": None, "cg_name": None}

    def list_builds(
        self,
        packageID: int | str | None = None,
        userID: int | str | None = None,
        taskID: int | None = None,
        prefix: str | None = None,
        state: int | None = None,
        volumeID: int | None = None,
        source: str | None = None,
        createdBefore: float | str | None = None,
        createdAfter: float | str | None = None,
        completeBefore: float | str | None = None,
        completeAfter: float | str | None = None,
        type: str | None = None,
        typeInfo: Value = None,
        queryOpts: dict[str, Value] | None = None,
    ) -> Value:
        _refuse(volumeID=volumeID, source=source, typeInfo=typeInfo)
        owner = None if userID is None else self._records.find_user(userID)
        builds = [
            build
            for build in self._records.builds()
            if type in (None, "image")
            and packageID in (None, build.name, _package(build))
            and (userID is None or (owner is not None and build.owner == owner.id))
            and taskID in (None, build.task)
            and (prefix is None or build.name.startswith(prefix))
            and state in (None, build.state)
            and _between(build.created, createdAfter, createdBefore)
            and _between(build.completed, completeAfter, completeBefore)
        ]
        return _queried([self.build_info(build) for build in builds], queryOpts)

    def list_archives(
        self,
        buildID: int | None = None,
        buildrootID: int | None = None,
        componentBuildrootID: int | None = None,
        hostID: int | None = None,
        type: str | None = None,
        filename: str | None = None,
        size: int | None = None,
        checksum: str | None = None,
        checksum_type: int | None = None,
        typeInfo: Value = None,
        queryOpts: dict[str, Value] | None = None,
    ) -> Value:
        _refuse(
            buildrootID=buildrootID,
            componentBuildrootID=componentBuildrootID,
            hostID=hostID,
            typeInfo=typeInfo,
        )
        rows = [
            _archive_info(build, archive, image=type == "image")
            for build in self._records.builds()
            if buildID in (None, build.id) and type in (None, "image")
            for archive in build.archives
            if filename in (None, archive.filename)
            and size in (None, archive.size)
            and checksum in (None, archive.checksum)
            and checksum_type in (None, archive.checksum_type)
        ]
        return _queried(rows, queryOpts)

    def list_tasks(
        self,
        opts: dict[str, Value] | None = None,
        queryOpts: dict[str, Value] | None = None,
    ) -> Value:
        wanted = dict(opts or {})
        decode = wanted.pop("decode", False)
        tasks = self._records.tasks()
        for name in ("method", "arch", "parent", "owner", "state"):
            if name not in wanted:
                continue
            asked = wanted.pop(name)
            if name == "owner" and isinstance(asked, str):
                user = self._records.find_user(asked)
                asked = -1 if user is None else user.id
            allowed = asked if isinstance(asked, list) else [asked]
            tasks = [task for task in tasks if getattr(task, name) in allowed]
        for field, name in (("created", "created"), ("completed", "complete")):
            after, before = wanted.pop(f"{name}After", None), wanted.pop(f"{name}Before", None)
            tasks = [task for task in tasks if _between(getattr(task, field), after, before)]
        _refuse(**wanted)
        return _queried([self._task_row(task, decode) for task in tasks], queryOpts)

    def build_info(self, build: Build) -> dict[str, Value]:
        """A build as listBuilds gives it; getBuild adds a few keys."""
        owner = self._records.find_user(build.owner)
        return {
            "build_id": build.id,
            "id": build.id,
            "name": build.name,
            "package_name": build.name,
            "package_id": _package(build),
            "version": build.version,
            "release": build.release,
            "epoch": None,
            "nvr": build.nvr,
            "state": build.state,
            "draft": False,
            "task_id": build.task,
            "source": build.source,
            "owner_id": build.owner,
            "owner_name": owner.name if owner else None,
            "volume_id": 0,
            "volume_name": "DEFAULT",
            "creation_event_id": build.id,
            "creation_time": text_time(build.created),
            "creation_ts": build.created,
            "start_time": text_time(build.created),
            "start_ts": build.created,
            "completion_time": text_time(build.completed),
            "completion_ts": build.completed,
        }

    def _task(self, task_id: int) -> Task:
        task = self._records.find_task(task_id)
        if task is None:
            raise _no_task(task_id)
        return task

    def _task_row(self, task: Task, decode: bool) -> dict[str, Value]:
        owner = self._records.find_user(task.owner)
        row = task_info(task, request=True) | {
            "owner_name": owner.name if owner else None,
            "owner_type": 0,
        }
        result: Value = task.result
        if task.failure is not None:
            result = {"faultCode": task.failure.code, "faultString": task.failure.text}
        if decode:
            return row | {"result": result}
        return row | {
            "request": xmlrpc.client.dumps(tuple(task.request), task.method, allow_none=True),
            "result": xmlrpc.client.dumps((result,), methodresponse=True, allow_none=True),
        }


def task_info(task: Task, request: bool = False) -> dict[str, Value]:
    """A task as getTaskInfo gives it: the owner a number, the request only when asked for."""
    row: dict[str, Value] = {
        "id": task.id,
        "parent": task.parent,
        "method": task.method,
        "arch": task.arch,
        "label": task.label,
        "owner": task.owner,
        "state": task.state,
        "channel_id": 14,
        "host_id": 569,
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


def text_time(seconds: float | None) -> str | None:
    """A time as PostgreSQL, and so Koji, writes it, with its zone."""
    if seconds is None:
        return None
    return str(datetime.fromtimestamp(seconds, UTC))


def _archive_info(build: Build, archive: Archive, image: bool) -> dict[str, Value]:
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
        "type_id": list(_ARCHIVE_TYPES).index(archive.type_name),
        "type_name": archive.type_name,
        "type_description": _ARCHIVE_TYPES[archive.type_name],
        "type_extensions": archive.type_name.replace("-", "."),
        "compression_type": None,
        "metadata_only": False,
        "extra": None,
    }
    return row | ({"arch": archive.arch} if image else {})


def _package(build: Build) -> int:
    """A number that is the same for every build of one name."""
    return 20000 + sum(build.name.encode())


def _split_keywords(params: Sequence[Value]) -> tuple[list[Value], dict[str, Value]]:
    """Koji's `decode_args`: keyword arguments travel as a last dict marked `__starstar`."""
    args = list(params)
    if args and isinstance(args[-1], dict) and args[-1].get("__starstar"):
        keywords = dict(args.pop())
        del keywords["__starstar"]
        return args, keywords
    return args, {}


def _between(seconds: float | None, after: float | str | None, before: float | str | None) -> bool:
    if after is None and before is None:
        return True
    if seconds is None:
        return False
    return (after is None or seconds > _seconds(after)) and (
        before is None or seconds < _seconds(before)
    )


def _seconds(moment: float | str) -> float:
    if isinstance(moment, (int, float)):
        return float(moment)
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid time: {moment!r}") from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _queried(rows: list[dict[str, Value]], options: dict[str, Value] | None) -> Value:
    """Koji's queryOpts: `order` is a list of columns, comma separated, `-` for descending."""
    asked = dict(options or {})
    if unknown := set(asked) - _QUERY_OPTIONS:
        raise xmlrpc.client.Fault(GENERIC_ERROR, f"unsupported query options: {sorted(unknown)}")
    for column in reversed([name for name in (asked.get("order") or "").split(",") if name]):
        key = column.removeprefix("-")
        if rows and key not in rows[0]:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid order: {key}")
        # NULLs last going up and first going down, which is PostgreSQL's order.
        rows.sort(key=lambda row: _sortable(row[key]), reverse=column.startswith("-"))
    first = asked.get("offset") or 0
    limit = asked.get("limit")
    rows = rows[first:] if limit is None else rows[first : first + limit]
    return len(rows) if asked.get("countOnly") else rows


def _sortable(value: Value) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)


def _refuse(**given: Value) -> None:
    used = [name for name, value in given.items() if value is not None]
    if used:
        raise xmlrpc.client.Fault(
            GENERIC_ERROR, f"the lab's Koji does not look at {', '.join(used)}: add it to lab/koji"
        )


def _no_task(task_id: int) -> xmlrpc.client.Fault:
    return xmlrpc.client.Fault(GENERIC_ERROR, f"No such task: {task_id!r}")
