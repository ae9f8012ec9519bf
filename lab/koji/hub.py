"""The hub's XML-RPC calls, answered as an anonymous client of a Koji 1.36 hub sees them.

Only what a reader of image builds asks is here; a call that is not is refused as an unknown method.
"""

import inspect
import traceback
import xmlrpc.client
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.koji import listing
from lab.koji.listing import (
    GENERIC_ERROR,
    OTHER_ERROR,
    PARAMETER_ERROR,
    SERVER_OFFLINE,
    who_is,
)
from lab.koji.records import TASK_STATES, Records, Task, Value
from lab.koji.rows import ARCHIVE_COLUMNS, archive_info, build_info, task_info
from lab.koji.task_details import TaskDetails

VERSION = "1.36.1"


class _Marshaller(xmlrpc.client.Marshaller):
    """Writes what Koji writes and Python's refuses: integers over 32 bits, as i8."""

    def __init__(self) -> None:
        super().__init__("utf-8", allow_none=True)
        self.dispatch = self.dispatch | {int: _write_integer}


def _write_integer(_: xmlrpc.client.Marshaller, value: int, write: Callable[[str], object]) -> None:
    if not -(2**63) <= value < 2**63:
        raise OverflowError("long int exceeds XML-RPC limits")
    tag = "int" if xmlrpc.client.MININT <= value <= xmlrpc.client.MAXINT else "i8"
    write(f"<value><{tag}>{value}</{tag}></value>\n")


def _document(value: tuple[Value] | xmlrpc.client.Fault) -> bytes:
    body = _Marshaller().dumps(value)
    return f"<?xml version='1.0'?>\n<methodResponse>\n{body}</methodResponse>\n".encode()


#: Methods whose answers describe builds or tasks.
_DESCRIBING = ("getBuild", "listBuilds", "getTaskInfo", "listTasks")


class Unreadable(Exception):
    """A request is no XML-RPC."""


class _Wordless(Exception):
    """An answer has a row that the hub cannot put into words."""


class Hub:
    """Answers calls out of the records, and of the files under `root`."""

    def __init__(self, records: Records, root: Path) -> None:
        self._records = records
        #: What every call is answered with while the hub is to be left alone.
        self.offline = ""
        #: Tasks and builds, by number, at which the hub itself fails, and with what words.
        self.troubles: dict[int, str] = {}
        #: Tasks and builds, by number, that it cannot put into words: every answer that has one of
        #: them is the fault that is said here or, with none, a document that lacks a tag's end.
        self.wordless: dict[int, str] = {}
        self._methods: dict[str, Callable[..., Value]] = {
            "echo": lambda *args: list(args),
            "hello": lambda *args: "Hello World",
            "getAPIVersion": lambda: 1,
            "getKojiVersion": lambda: VERSION,
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
            **TaskDetails(records, root).methods,
        }

    def answer(self, document: bytes) -> bytes:
        """One XML-RPC request document in, one response document out. Raises Unreadable alone."""
        if self.offline:
            return _document(xmlrpc.client.Fault(SERVER_OFFLINE, self.offline))
        try:
            if not document:
                raise ValueError("Empty request")
            params, method = xmlrpc.client.loads(document, use_builtin_types=True)
        except Exception as error:  # a parser may raise anything on strange bytes
            raise Unreadable(f"Invalid request: {error}") from error
        try:
            return _document((self._dispatch(str(method), params),))
        except xmlrpc.client.Fault as fault:
            return _document(fault)
        except _Wordless:
            return _document(([],)).replace(b"</params>", b"")
        except Exception as error:  # as Koji does with what its code did not foresee
            return _document(xmlrpc.client.Fault(OTHER_ERROR, f"{type(error)}: {error}"))

    def _dispatch(self, method: str, params: Sequence[Value]) -> Value:
        call = self._multi_call if method == "multiCall" else self._methods.get(method)
        if call is None:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid method: {method}")
        args, keywords = _split_keywords(params)
        try:
            inspect.signature(call).bind(*args, **keywords)
        except TypeError as error:
            raise xmlrpc.client.Fault(PARAMETER_ERROR, f"{method}: {error}") from error
        value = call(*args, **keywords)
        if method in _DESCRIBING:
            self._put_into_words(value)
        return value

    def _put_into_words(self, value: Value) -> None:
        for row in value if isinstance(value, list) else [value]:
            number = row.get("id", row.get("build_id")) if isinstance(row, dict) else None
            if number in self.wordless:
                if fault := self.wordless[number]:
                    raise xmlrpc.client.Fault(OTHER_ERROR, fault)
                raise _Wordless

    def _multi_call(self, calls: list[dict[str, Value]]) -> Value:
        return [self._one_of_many(call) for call in calls]

    def _one_of_many(self, call: dict[str, Value]) -> Value:
        try:
            return [self._dispatch(call["methodName"], call["params"])]
        except xmlrpc.client.Fault as fault:
            code, text, trace = (
                fault.faultCode,
                fault.faultString,
                traceback.format_exception(fault),
            )
        except _Wordless:  # it spoils the whole document
            raise
        except Exception as error:  # one call's, and not the others'
            code, trace = OTHER_ERROR, traceback.format_exception(error)
            text = ", ".join(map(str, error.args))
        return {"faultCode": code, "faultString": text, "traceback": trace}

    # The arguments below are spelt as Koji spells them: callers name them in `__starstar` calls.

    def get_task_info(self, task_id: int, request: bool = False, strict: bool = False) -> Value:
        self._stumble(task_id)
        task = self._task(task_id)
        if task is None:
            if strict:
                raise _no_rows()
            return None
        return task_info(task, request)

    def get_task_request(self, taskId: int) -> Value:
        task = self._task(taskId)
        if task is None:
            raise _no_rows()
        return task.request

    def get_task_result(self, taskId: int, raise_fault: bool = True) -> Value:
        task = self._task(taskId)
        if task is None:
            raise xmlrpc.client.Fault(GENERIC_ERROR, "No such task")
        if task.state == TASK_STATES["CANCELED"]:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Task {taskId} is canceled")
        if task.state not in (TASK_STATES["CLOSED"], TASK_STATES["FAILED"]):
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Task {taskId} is not finished")
        if task.failure is not None:
            if raise_fault:
                raise xmlrpc.client.Fault(task.failure.code, task.failure.text)
            return {"faultCode": task.failure.code, "faultString": task.failure.text}
        return task.result

    def get_task_children(self, task_id: int, request: bool = False, strict: bool = False) -> Value:
        if self._task(task_id) is None and strict:
            raise _no_rows()
        return [task_info(child, request) for child in self._records.children(task_id)]

    def get_task_descendents(self, task_id: int, request: bool = False) -> Value:
        children = self.get_task_children(task_id, request)
        found: dict[str, Value] = {str(task_id): children}
        for child in children:
            # One without children is named where nothing but it was asked about.
            grandchildren = self.get_task_descendents(child["id"], request)
            found.update({number: tasks for number, tasks in grandchildren.items() if tasks})
        return found

    def get_user(
        self,
        userInfo: int | str | None = None,
        strict: bool = False,
        krb_princs: bool = True,
    ) -> Value:
        if userInfo is None:
            raise xmlrpc.client.Fault(GENERIC_ERROR, "No user provided")
        user = self._records.find_user(who_is(userInfo))
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
        if not isinstance(wanted, (int, str, dict)):
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"Invalid type for argument: {type(wanted)}")
        if isinstance(wanted, str) and wanted.count("-") < 2:
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"invalid format: {wanted}")
        if isinstance(wanted, dict):
            wanted = wanted.get("id") or "{name}-{version}-{release}".format_map(wanted)
        build = self._records.find_build(wanted)
        if build is not None:
            self._stumble(build.id)
        if build is None:
            if strict:
                raise xmlrpc.client.Fault(GENERIC_ERROR, f"No such build: {buildInfo!r}")
            return None
        return build_info(self._records, build)

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
        pattern: str | None = None,
        cgID: int | str | None = None,
        draft: bool | None = None,
        promotedBefore: float | str | None = None,
        promotedAfter: float | str | None = None,
        promoter: int | str | None = None,
    ) -> Value:
        asked = {name: value for name, value in locals().items() if name != "self"}
        return listing.list_builds(self._records, **asked)

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
        imageID: int | None = None,
        archiveID: int | None = None,
        strict: bool = False,
    ) -> Value:
        listing.refuse(
            buildrootID=buildrootID,
            componentBuildrootID=componentBuildrootID,
            hostID=hostID,
            typeInfo=typeInfo,
            imageID=imageID,
            archiveID=archiveID,
            strict=strict or None,
        )
        if type not in (None, *listing.BUILD_TYPES):
            raise xmlrpc.client.Fault(GENERIC_ERROR, f"unsupported archive type: {type}")
        if buildID is not None:
            listing.number("build_id", buildID)
        rows = [
            archive_info(build, archive, image=type == "image")
            for build in self._records.builds()
            if buildID in (None, build.id) and type in (None, "image")
            for archive in build.archives
            if filename in (None, archive.filename)
            and size in (None, archive.size)
            and checksum in (None, archive.checksum)
            and checksum_type in (None, archive.checksum_type)
        ]
        return listing.queried(rows, ARCHIVE_COLUMNS, queryOpts)

    def list_tasks(
        self,
        opts: dict[str, Value] | None = None,
        queryOpts: dict[str, Value] | None = None,
    ) -> Value:
        return listing.list_tasks(self._records, opts, queryOpts)

    def _stumble(self, number: int) -> None:
        # As over a row that the hub's own code cannot cope with: no fault of Koji's own making.
        if isinstance(number, int) and number in self.troubles:
            raise xmlrpc.client.Fault(OTHER_ERROR, self.troubles[number])

    def _task(self, task_id: int) -> Task | None:
        if not isinstance(task_id, int):
            raise xmlrpc.client.Fault(
                PARAMETER_ERROR, f"Invalid type for value {task_id!r}: expected type {int}"
            )
        return self._records.find_task(task_id)


def _split_keywords(params: Sequence[Value]) -> tuple[list[Value], dict[str, Value]]:
    """Koji's `decode_args`: keyword arguments travel as a last dict marked `__starstar`."""
    args = list(params)
    if args and isinstance(args[-1], dict) and args[-1].get("__starstar"):
        keywords = dict(args.pop())
        del keywords["__starstar"]
        return args, keywords
    return args, {}


def _no_rows() -> xmlrpc.client.Fault:
    return xmlrpc.client.Fault(GENERIC_ERROR, "query returned no rows")
