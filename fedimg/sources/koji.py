"""Look up a task or build in Koji: its owner and its raw images.

fedimg.intake.image_selection decides which images are published; fedimg.sources.xmlrpc calls the
hub.
"""

from __future__ import annotations

import logging
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

from fedimg.config import Koji
from fedimg.formats import SUFFIXES, format_of
from fedimg.images import FILE_NAME, Architecture, RawImage, in_url
from fedimg.sources.http import NoAnswer, TooLong
from fedimg.sources.identifiers import LARGEST_ID, METHODS
from fedimg.sources.lookup import (
    LeftOut,
    LookupRefused,
    LookupResult,
    NotFinished,
    SourceFails,
    SourceUnavailable,
)
from fedimg.sources.xmlrpc import Garbled, XMLRPCClient
from fedimg.untrusted.quoting import one_line, quoted

# koji.TASK_STATES and koji.BUILD_STATES.
_TASK_UNFINISHED, TASK_CLOSED = (0, 1, 4), 2
_BUILD_UNFINISHED, BUILD_COMPLETE = (0,), 1
#: koji.GenericError: the hub rejects the call. Other faults are failures of the hub.
_REJECTED = 1000
#: koji.RetryError and koji.ServerOffline: the hub fails at all calls.
_UNAVAILABLE = (1009, 1014)
#: koji.CHECKSUM_TYPES.
_CHECKSUM_TYPES = {0: "md5", 1: "sha1", 2: "sha256"}
#: Later than any valid time, in seconds since the epoch: the year 5138.
_TIME_LIMIT = 1e11
#: The method of koji-image-builder's children: their results name no release, unless a distribution
#: was asked for, whose name it then is.
_WITHOUT_RELEASE = "imageBuilderBuildArch"
#: Most children of a task; Koji makes one for each architecture.
_MOST_CHILDREN = 100

_log = logging.getLogger(__name__)


class KojiUnavailable(SourceUnavailable):
    """The hub did not answer; a later try may succeed."""


class KojiFails(KojiUnavailable, SourceFails):
    """The hub answers, but fails at this call, perhaps permanently."""


class KojiNotFinished(NotFinished):
    """The task or build exists and is not finished."""


class KojiRefused(LookupRefused):
    """The task or build will never have images: it is unknown, failed, malformed or no image."""


class KojiHub:
    """A Koji hub, which is called anonymously."""

    def __init__(self, settings: Koji) -> None:
        self._settings = settings
        self._client = XMLRPCClient(settings.hub, settings.timeout)

    def find(self, entry: str) -> LookupResult:
        """Look up `task:<id>` or `build:<id>`, with all raw images that EC2 can run.

        A file with invalid data is left out, and logged. Raises KojiUnavailable, KojiNotFinished or
        KojiRefused.
        """
        prefix, _, number = entry.partition(":")
        if prefix not in ("task", "build") or not (number.isascii() and number.isdecimal()):
            raise KojiRefused(f"{quoted(entry)} is neither of the form task:ID nor build:ID")
        return self._task(int(number)) if prefix == "task" else self._build(int(number))

    def _task(self, task: int) -> LookupResult:
        info, children = self._call(("getTaskInfo", task, True), ("getTaskChildren", task, True))
        if info is None:
            raise KojiRefused(f"{self._settings.hub} has no task {task}")
        info = _row(info, f"task {task}")
        method = info.get("method")
        if not isinstance(method, str) or method not in METHODS:
            raise KojiRefused(
                f"task {task} is of method {quoted(method, 80)}, which makes no images"
            )
        _finished(f"task {task}", info.get("state"), _TASK_UNFINISHED, TASK_CLOSED)
        if not is_scratch(info.get("request")):
            raise KojiRefused(
                f"task {task} is not a scratch build; its build is announced separately"
            )
        closed = _closed_children(task, children, METHODS[method])
        tasks = list(closed) or [task]
        requests = closed if METHODS[method] == _WITHOUT_RELEASE else {}
        owner = info.get("owner")
        if type(owner) is not int or not 0 < owner <= LARGEST_ID:
            raise KojiRefused(
                f"the hub returned an invalid owner of task {task}: {quoted(owner, 80)}"
            )
        left_out: list[LeftOut] = []
        (user, *results), now = self._dated_call(
            ("getUser", owner), *(("getTaskResult", each) for each in tasks)
        )
        return LookupResult(
            entry=f"task:{task}",
            owner=_text(_row(user, f"the owner of task {task}").get("name"), "owner's name"),
            scratch=True,
            images=tuple(
                image
                for each, result in zip(tasks, results, strict=True)
                for image in self._scratch_images(each, result, requests.get(each), left_out)
            ),
            completed=_time(info.get("completion_ts")),
            now=now,
            left_out=tuple(left_out),
        )

    def _scratch_images(
        self, task: int, result: Any, request: Any, left_out: list[LeftOut]
    ) -> Iterable[RawImage]:
        files = result.get("files") if isinstance(result, dict) else None
        if not isinstance(files, list):
            _log.info("left out task %d: its result lists no files", task)
            return
        # As koji.pathinfo.taskrelpath does: the remainder has no leading zeros.
        folder = f"{self._settings.topurl}/work/tasks/{task % 10000}/{task}"
        for name in files:
            if not isinstance(name, str) or not format_of(name):
                left_out.append(_not_raw(name))
                continue
            try:
                parts = [_name(result.get(key), key) for key in ("name", "version")]
                parts.append(_name(_release(result, request), "release"))
                yield RawImage(
                    url=f"{folder}/{in_url(_name(name, 'file'))}",
                    architecture=_architecture(result.get("arch")),
                    build="-".join(parts),
                    source=f"task-{task}",
                )
            except ValueError as error:
                left_out.append(LeftOut(one_line(name, 200), str(error)))

    def _build(self, build: int) -> LookupResult:
        (info, archives), now = self._dated_call(
            ("getBuild", build),
            # Koji passes keyword arguments in this form.
            ("listArchives", {"buildID": build, "type": "image", "__starstar": True}),
        )
        if info is None:
            raise KojiRefused(f"{self._settings.hub} has no build {build}")
        info = _row(info, f"build {build}")
        _finished(f"build {build}", info.get("state"), _BUILD_UNFINISHED, BUILD_COMPLETE)
        try:
            parts = [_name(info.get(key), key) for key in ("name", "version", "release")]
        except ValueError as error:
            raise KojiRefused(f"build {build}: {error}") from error
        if not isinstance(archives, list):
            raise KojiRefused(f"the hub returned no list of the archives of build {build}")
        left_out: list[LeftOut] = []
        images = tuple(self._build_images(build, parts, archives, left_out))
        return LookupResult(
            entry=f"build:{build}",
            owner=_text(info.get("owner_name"), f"owner of build {build}"),
            scratch=False,
            images=images,
            completed=_time(info.get("completion_ts")),
            now=now,
            left_out=tuple(left_out),
        )

    def _build_images(
        self, build: int, parts: list[str], archives: list[Any], left_out: list[LeftOut]
    ) -> Iterable[RawImage]:
        # As koji.pathinfo.imagebuild does.
        folder = f"{self._settings.topurl}/packages/{'/'.join(map(in_url, parts))}/images"
        for archive in archives:
            name = archive.get("filename") if isinstance(archive, dict) else None
            if not isinstance(name, str) or not format_of(name):
                left_out.append(_not_raw(name))
                continue
            if archive.get("metadata_only"):
                left_out.append(LeftOut(one_line(name, 200), "Koji has its metadata only"))
                continue
            try:
                yield RawImage(
                    url=f"{folder}/{in_url(_name(name, 'file'))}",
                    architecture=_architecture(archive.get("arch")),
                    build="-".join(parts),
                    source=f"build-{build}",
                    size=_size(archive.get("size")),
                    checksum=_checksum(archive),
                )
            except ValueError as error:
                left_out.append(LeftOut(one_line(name, 200), str(error)))

    def _call(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Return the hub's answers to some calls, made in one request (multiCall)."""
        return self._dated_call(*calls)[0]

    def _dated_call(self, *calls: tuple[Any, ...]) -> tuple[list[Any], float | None]:
        """Do what `_call` does; return also the hub's time, in seconds since the epoch."""
        try:
            answers, now = self._client.dated(
                "multiCall",
                [{"methodName": method, "params": list(params)} for method, *params in calls],
            )
        except xmlrpc.client.Fault as fault:
            raise refusal(
                self._settings.hub, "multiCall", fault.faultCode, fault.faultString
            ) from fault
        except NoAnswer as error:
            raise no_answer(error) from error
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise KojiUnavailable(f"{self._settings.hub} did not answer all of {len(calls)} calls")
        values = []
        for (method, *_), answer in zip(calls, answers, strict=True):
            if isinstance(answer, dict):
                raise refusal(
                    self._settings.hub, method, answer.get("faultCode"), answer.get("faultString")
                )
            if not isinstance(answer, list) or len(answer) != 1:
                raise KojiUnavailable(f"{self._settings.hub} returned no value for {method}")
            values.append(answer[0])
        return values, now


def refusal(hub: str, method: str, code: object, text: object) -> Exception:
    """Return the exception for a hub's fault: KojiRefused, KojiFails or KojiUnavailable."""
    error: type[Exception] = KojiFails
    if code == _REJECTED:
        error = KojiRefused
    elif code in _UNAVAILABLE:
        error = KojiUnavailable
    return error(f"{hub} answers {method} with fault {quoted(code, 20)}: {one_line(str(text))}")


def no_answer(error: NoAnswer) -> KojiUnavailable:
    """Return the exception for a missing or unreadable answer: KojiFails if the hub sent one."""
    return (KojiFails if isinstance(error, (Garbled, TooLong)) else KojiUnavailable)(str(error))


def _row(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KojiRefused(f"the hub returned invalid data of {what}: {quoted(value, 80)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise KojiRefused(f"the hub returned an invalid {what}: {quoted(value, 80)}")
    return value


def _finished(what: str, state: Any, unfinished: tuple[int, ...], finished: int) -> None:
    # Python takes True for 1 and 2.0 for 2, which are no states of Koji's.
    if type(state) is not int or state not in (*unfinished, finished):
        raise KojiRefused(
            f"{what} failed, was cancelled or was deleted: its state is {quoted(state, 80)}"
        )
    if state != finished:
        raise KojiNotFinished(f"{what} is not finished yet: its state is {state}")


def is_scratch(request: Any) -> bool:
    """Return whether a task is a scratch build, by its arguments.

    Each method has its options at another position among the arguments.
    """
    return isinstance(request, list) and any(
        isinstance(argument, dict) and argument.get("scratch") is True for argument in request
    )


def _release(result: dict[str, Any], request: Any) -> Any:
    """Return the release that a child built, of its result; of its request where that is given.

    A child's request begins with name, version and release.
    """
    asked = isinstance(request, list) and len(request) > 2
    return request[2] if asked else result.get("release")


def _closed_children(task: int, children: Any, method: str | None) -> dict[int, Any]:
    """Return the requests of the closed children, by their numbers."""
    if not isinstance(children, list) or len(children) > _MOST_CHILDREN:
        raise KojiRefused(
            f"the hub returned no list of at most {_MOST_CHILDREN} children of task {task}"
        )
    closed: dict[int, Any] = {}
    for child in children:
        row = _row(child, f"a child of task {task}")
        number, state = row.get("id"), row.get("state")
        if method is None or row.get("method") != method or type(number) is not int:
            continue
        if not 0 < number <= LARGEST_ID:
            raise KojiRefused(f"a child of task {task} has the invalid id {quoted(number, 20)}")
        # An optional architecture may fail while the parent succeeds.
        if type(state) is int and state == TASK_CLOSED:
            closed[number] = row.get("request")
        else:
            _log.info(
                "left out child %d of task %d: its state is %s", number, task, quoted(state, 80)
            )
    return closed


def _time(value: Any) -> float | None:
    """Return a time of the hub's, in seconds since the epoch; None if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _TIME_LIMIT else None


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not FILE_NAME.fullmatch(value) or not value.strip("."):
        raise ValueError(f"{what} {quoted(value, 200)} is not a name that Koji makes")
    return value


def _not_raw(name: Any) -> LeftOut:
    if not isinstance(name, str):
        return LeftOut("a file without a name", "its name is no text")
    return LeftOut(one_line(name, 200), f"its name does not end in {SUFFIXES}")


def _architecture(value: Any) -> Architecture:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value, 80)} is not an architecture")
    return Architecture.from_koji(value)


def _size(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{quoted(value, 80)} is not a size")
    return value


def _checksum(archive: dict[str, Any]) -> str | None:
    checksum_type, digits = archive.get("checksum_type"), archive.get("checksum")
    if digits is None:
        return None
    if (
        type(checksum_type) is not int
        or checksum_type not in _CHECKSUM_TYPES
        or not isinstance(digits, str)
    ):
        raise ValueError(
            f"checksum {quoted(digits, 80)} of type {quoted(checksum_type, 80)} is not one that "
            "Koji makes"
        )
    return f"{_CHECKSUM_TYPES[checksum_type]}:{digits.lower()}"
