"""What a Koji hub says of a task or build: whose it is, and which raw images it made.

fedimg.intake.resolve decides which of them are published; fedimg.sources.xmlrpc calls the hub.
"""

from __future__ import annotations

import logging
import xmlrpc.client
from collections.abc import Iterable
from typing import Any

from fedimg.config import Koji
from fedimg.images import FILE_NAME, RAW_SUFFIX, Architecture, RawImage, in_url
from fedimg.sources.http import NoAnswer, TooLong
from fedimg.sources.identifiers import LARGEST_ID, METHODS
from fedimg.sources.lookup import (
    LookupRefused,
    LookupResult,
    NotFinished,
    SourceFails,
    SourceUnavailable,
)
from fedimg.sources.xmlrpc import Garbled, XMLRPCClient
from fedimg.untrusted.quoting import one_line

# koji.TASK_STATES and koji.BUILD_STATES.
_TASK_UNFINISHED, TASK_CLOSED = (0, 1, 4), 2
_BUILD_UNFINISHED, BUILD_COMPLETE = (0,), 1
#: koji.GenericError: the hub understood, and says no. Other faults are troubles of its own …
_SAYS_NO = 1000
#: … of which koji.RetryError and koji.ServerOffline concern all that is asked.
_SAYS_LATER = (1009, 1014)
#: koji.CHECKSUM_TYPES.
_CHECKSUM_TYPES = {0: "md5", 1: "sha1", 2: "sha256"}
#: Behind any time that can be: the year 5138, in seconds.
_NO_TIME = 1e11
#: More than Koji has architectures, by far.
_MOST_CHILDREN = 100

_log = logging.getLogger(__name__)


class KojiUnavailable(SourceUnavailable):
    """The hub did not answer; it has to be asked again."""


class KojiFails(KojiUnavailable, SourceFails):
    """The hub answers, and fails at what was asked: at this one, perhaps for good."""


class KojiNotFinished(NotFinished):
    """The hub knows the task or build, and says that it is not finished."""


class KojiRefused(LookupRefused):
    """There will never be images here: no such thing, not an image, failed, or malformed."""


class KojiHub:
    """A Koji hub, asked anonymously."""

    def __init__(self, settings: Koji) -> None:
        self._settings = settings
        self._client = XMLRPCClient(settings.hub, settings.timeout)

    def find(self, entry: str) -> LookupResult:
        """What `task:<id>` or `build:<id>` is, with all raw images that EC2 could run.

        A file of which the hub says something that cannot be is left out, and logged. Raises
        KojiUnavailable, KojiNotFinished or KojiRefused.
        """
        kind, _, number = entry.partition(":")
        if kind not in ("task", "build") or not (number.isascii() and number.isdecimal()):
            raise KojiRefused(f"{entry!r} is neither task:ID nor build:ID")
        return self._task(int(number)) if kind == "task" else self._build(int(number))

    def _task(self, task: int) -> LookupResult:
        info, children = self._ask(("getTaskInfo", task, True), ("getTaskChildren", task))
        if info is None:
            raise KojiRefused(f"{self._settings.hub} knows no task {task}")
        info = _row(info, f"task {task}")
        method = info.get("method")
        if not isinstance(method, str) or method not in METHODS:
            raise KojiRefused(f"task {task} is {method!r:.80}, which makes no images")
        _finished(f"task {task}", info.get("state"), _TASK_UNFINISHED, TASK_CLOSED)
        if not is_scratch(info.get("request")):
            raise KojiRefused(f"task {task} is no scratch build: its build is announced apart")
        holders = _closed_children(task, children, METHODS[method]) or [task]
        owner = info.get("owner")
        if type(owner) is not int or not 0 < owner <= LARGEST_ID:
            raise KojiRefused(f"the hub gives {owner!r:.80} as the owner of task {task}")
        (user, *results), now = self._dated(
            ("getUser", owner), *(("getTaskResult", holder) for holder in holders)
        )
        return LookupResult(
            entry=f"task:{task}",
            owner=_text(_row(user, f"the owner of task {task}").get("name"), "owner's name"),
            scratch=True,
            images=tuple(
                image
                for holder, result in zip(holders, results, strict=True)
                for image in self._scratch_images(holder, result)
            ),
            completed=_time(info.get("completion_ts")),
            now=now,
        )

    def _scratch_images(self, task: int, result: Any) -> Iterable[RawImage]:
        files = result.get("files") if isinstance(result, dict) else None
        if not isinstance(files, list):
            _log.info("task %d lists no files", task)
            return
        # Koji's taskrelpath: the remainder is not padded with zeros.
        folder = f"{self._settings.topurl}/work/tasks/{task % 10000}/{task}"
        for name in files:
            if not isinstance(name, str) or not name.endswith(RAW_SUFFIX):
                continue
            try:
                parts = [_name(result.get(key), key) for key in ("name", "version", "release")]
                yield RawImage(
                    url=f"{folder}/{in_url(_name(name, 'file'))}",
                    architecture=_architecture(result.get("arch")),
                    build="-".join(parts),
                    source=f"task-{task}",
                )
            except ValueError as error:
                _log.info("task %d, file %.200r is left out: %s", task, name, error)

    def _build(self, build: int) -> LookupResult:
        (info, archives), now = self._dated(
            ("getBuild", build),
            # Koji's way to pass keyword arguments.
            ("listArchives", {"buildID": build, "type": "image", "__starstar": True}),
        )
        if info is None:
            raise KojiRefused(f"{self._settings.hub} knows no build {build}")
        info = _row(info, f"build {build}")
        _finished(f"build {build}", info.get("state"), _BUILD_UNFINISHED, BUILD_COMPLETE)
        try:
            parts = [_name(info.get(key), key) for key in ("name", "version", "release")]
        except ValueError as error:
            raise KojiRefused(f"build {build}: {error}") from error
        if not isinstance(archives, list):
            raise KojiRefused(f"the archives of build {build} are no list")
        return LookupResult(
            entry=f"build:{build}",
            owner=_text(info.get("owner_name"), f"owner of build {build}"),
            scratch=False,
            images=tuple(self._build_images(build, parts, archives)),
            completed=_time(info.get("completion_ts")),
            now=now,
        )

    def _build_images(
        self, build: int, parts: list[str], archives: list[Any]
    ) -> Iterable[RawImage]:
        # Koji's pathinfo.imagebuild.
        folder = f"{self._settings.topurl}/packages/{'/'.join(map(in_url, parts))}/images"
        for archive in archives:
            name = archive.get("filename") if isinstance(archive, dict) else None
            if not isinstance(name, str) or not name.endswith(RAW_SUFFIX):
                continue
            if archive.get("metadata_only"):
                _log.info("build %d, file %.200r is left out: Koji has no such file", build, name)
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
                _log.info("build %d, file %.200r is left out: %s", build, name, error)

    def _ask(self, *calls: tuple[Any, ...]) -> list[Any]:
        """The hub's answers to some calls, in one request (Koji's multiCall)."""
        return self._dated(*calls)[0]

    def _dated(self, *calls: tuple[Any, ...]) -> tuple[list[Any], float | None]:
        """The same, and what time it is by the hub."""
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
            raise KojiUnavailable(f"{self._settings.hub} did not answer each of {len(calls)} calls")
        values = []
        for (method, *_), answer in zip(calls, answers, strict=True):
            if isinstance(answer, dict):
                raise refusal(
                    self._settings.hub, method, answer.get("faultCode"), answer.get("faultString")
                )
            if not isinstance(answer, list) or len(answer) != 1:
                raise KojiUnavailable(f"{self._settings.hub} gave no answer to {method}")
            values.append(answer[0])
        return values, now


def refusal(hub: str, method: str, code: object, text: object) -> Exception:
    """What a hub's fault means: KojiRefused, KojiFails or KojiUnavailable."""
    kind: type[Exception] = KojiFails
    if code == _SAYS_NO:
        kind = KojiRefused
    elif code in _SAYS_LATER:
        kind = KojiUnavailable
    return kind(f"{hub} refuses {method} ({code!r:.20}): {one_line(str(text))}")


def no_answer(error: NoAnswer) -> KojiUnavailable:
    """What it means that nothing usable came: KojiFails where the hub did answer."""
    return (KojiFails if isinstance(error, (Garbled, TooLong)) else KojiUnavailable)(str(error))


def _row(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KojiRefused(f"the hub describes {what} by {value!r:.80}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise KojiRefused(f"the hub gives {value!r:.80} as the {what}")
    return value


def _finished(what: str, state: Any, unfinished: tuple[int, ...], finished: int) -> None:
    # True is 1 to Python, and 2.0 is 2; to Koji they are no states.
    if type(state) is not int or state not in (*unfinished, finished):
        raise KojiRefused(f"{what} failed, was cancelled or is gone: its state is {state!r:.80}")
    if state != finished:
        raise KojiNotFinished(f"{what} is not finished yet: its state is {state}")


def is_scratch(request: Any) -> bool:
    """Whether the options among a task's arguments, which each method puts elsewhere, say so."""
    return isinstance(request, list) and any(
        isinstance(argument, dict) and argument.get("scratch") is True for argument in request
    )


def _closed_children(task: int, children: Any, method: str | None) -> list[int]:
    if not isinstance(children, list) or len(children) > _MOST_CHILDREN:
        raise KojiRefused(f"the children of task {task} are no list of at most {_MOST_CHILDREN}")
    found = []
    for child in children:
        row = _row(child, f"a child of task {task}")
        number, state = row.get("id"), row.get("state")
        if method is None or row.get("method") != method or type(number) is not int:
            continue
        if not 0 < number <= LARGEST_ID:
            raise KojiRefused(f"a child of task {task} has the impossible id {number!r:.20}")
        # An architecture may be optional: it fails, and the parent is closed all the same.
        if type(state) is int and state == TASK_CLOSED:
            found.append(number)
        else:
            _log.info("task %d, child %d is left out: its state is %.80r", task, number, state)
    return found


def _time(value: Any) -> float | None:
    """A time of the hub's, in seconds since the epoch; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _NO_TIME else None


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not FILE_NAME.fullmatch(value) or not value.strip("."):
        raise ValueError(f"{what} {value!r:.200} is no name that Koji makes")
    return value


def _architecture(value: Any) -> Architecture:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no architecture")
    return Architecture.from_koji(value)


def _size(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{value!r:.80} is no size")
    return value


def _checksum(archive: dict[str, Any]) -> str | None:
    kind, digits = archive.get("checksum_type"), archive.get("checksum")
    if digits is None:
        return None
    if type(kind) is not int or kind not in _CHECKSUM_TYPES or not isinstance(digits, str):
        raise ValueError(f"checksum {digits!r:.80} of type {kind!r:.80} is none that Koji makes")
    return f"{_CHECKSUM_TYPES[kind]}:{digits.lower()}"
