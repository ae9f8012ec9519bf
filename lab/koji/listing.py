"""listBuilds and listTasks: which filters and query options a hub knows, and what it makes of them.

Read in Koji's kojihub.py (listBuilds, listTasks) and db.py (QueryProcessor), and compared to the
answers of a hub of Koji 1.35.3 on PostgreSQL. Koji ignores an option that it does not know; here
that is refused, since a client that gives one has a mistake.
"""

import xmlrpc.client
from collections.abc import Callable, Iterable, Set
from datetime import UTC, datetime
from typing import Any

from lab.koji import rows
from lab.koji.records import TASK_STATES, Build, Records, Task, Value

# Koji's fault codes (koji.GenericError, koji.ServerOffline, koji.ParameterError), and that of
# errors that are none of its own, such as its database's.
GENERIC_ERROR = 1000
SERVER_OFFLINE = 1014
PARAMETER_ERROR = 1019
OTHER_ERROR = 1

_QUERY_OPTIONS = {"limit", "offset", "order", "countOnly"}
# A filter of listTasks, and what it looks at.
_TASK_NUMBERS = ("owner", "host_id", "channel_id", "parent")
_TASK_TIMES = {
    "created": "create_ts",
    "started": "start_ts",
    "complete": "completion_ts",
    "completed": "completion_ts",
}
BUILD_TYPES = {"image", "maven", "win", "module"}


def list_builds(records: Records, **asked: Value) -> Value:
    """Return the answer to listBuilds, whose arguments are given by Koji's names."""
    kind = asked["type"]
    if kind is not None and kind not in BUILD_TYPES:
        raise _fault(GENERIC_ERROR, f"unsupported build type: {kind}")
    owner = None
    if asked["userID"] is not None:
        owner = records.find_user(who_is(asked["userID"]))
        if owner is None:
            return []
    if asked["state"] is not None:
        number("build.state", asked["state"])
    task, prefix = asked["taskID"], asked["prefix"]
    for name, moment in asked.items():
        # Looked at by the database whether there is a row or not.
        if moment and name.endswith(("Before", "After")):
            _seconds(moment)
    refuse(
        **{
            name: asked[name]
            for name in (
                "volumeID", "source", "typeInfo", "pattern", "cgID",
                "promotedBefore", "promotedAfter", "promoter",
            )
        }
    )  # fmt: skip

    def meets(build: Build) -> bool:
        return (
            kind in (None, "image")
            and asked["packageID"] in (None, build.name, rows.package(build))
            and (owner is None or build.owner == owner.id)
            and (task is None or build.task == task or (task == -1 and build.task is not None))
            and (not prefix or build.name.lower().startswith(prefix.lower()))
            and asked["state"] in (None, build.state)
            # No build of the lab's is a draft.
            and not asked["draft"]
            and _between(build.created, asked["createdAfter"], asked["createdBefore"])
            and _between(build.completed, asked["completeAfter"], asked["completeBefore"])
        )

    found = [
        rows.build_row(build, records.find_user(build.owner))
        for build in records.builds()
        if meets(build)
    ]
    return queried(found, rows.BUILD_COLUMNS, asked["queryOpts"])


def list_tasks(records: Records, opts: dict[str, Value] | None, query: Value) -> Value:
    """Return the answer to listTasks."""
    wanted = dict(opts or {})
    decode = wanted.pop("decode", False)
    found = [(task, _task_row(records, task, decode)) for task in records.tasks()]
    for option, value in wanted.items():
        meets = _task_filter(option, value)
        found = [(task, row) for task, row in found if meets(row)]
    return queried([row for _task, row in found], rows.TASK_COLUMNS, query)


def _task_filter(option: str, value: Value) -> Callable[[dict[str, Value]], bool]:
    name = option.removeprefix("not_")
    excluded = name != option
    if name in ("arch", "state"):
        if not isinstance(value, list) or not value:
            # Neither `state IN 2` nor `state IN ()` is SQL.
            raise _fault(OTHER_ERROR, f"syntax error: {option} is not a list: {value!r}")
        return lambda row: (row[name] in value) is not excluded
    if name in _TASK_NUMBERS:
        given = value if isinstance(value, list) else [value]
        if not all(number is None or type(number) is int for number in given):
            raise _fault(OTHER_ERROR, f"{option} is not a number: {value!r}")
        return lambda row: (row[name] in given) is not excluded
    if option == "method":
        # To the database, a list of one in parentheses is that one.
        wanted = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(wanted, str):
            raise _fault(OTHER_ERROR, f"operator does not exist: method = {value!r}")
        return lambda row: bool(row["method"] == wanted)
    if value is not None and option.endswith(("Before", "After")):
        _seconds(value)
    for moment, field in _TASK_TIMES.items():
        if option == f"{moment}After":
            return lambda row: value is None or _between(row[field], value, None)
        if option == f"{moment}Before":
            return lambda row: value is None or _between(row[field], None, value)
    raise _fault(GENERIC_ERROR, f"listTasks has no option {option!r} (Koji would ignore it)")


def _task_row(records: Records, task: Task, decode: bool) -> dict[str, Value]:
    owner = records.find_user(task.owner)
    row = rows.task_info(task, request=True) | {
        "owner_name": owner.name if owner else None,
        "owner_type": 0,
    }
    result: Value = None
    if task.failure is not None:
        result = xmlrpc.client.Fault(task.failure.code, task.failure.text)
    elif task.state == TASK_STATES["CLOSED"]:
        result = (task.result,)
    if decode:
        # All that the stored answer holds: a list of one, unlike getTaskResult's.
        return row | {"result": result}
    return row | {
        "request": xmlrpc.client.dumps(tuple(task.request), task.method, allow_none=True),
        "result": result
        and xmlrpc.client.dumps(result, methodresponse=isinstance(result, tuple), allow_none=True),
    }


def queried(found: list[dict[str, Value]], columns: Set[str], options: Value) -> Value:
    """Koji's queryOpts: `order` is a list of columns, comma separated, `-` for descending.

    Without an order the rows come in none: here, the newest first.
    """
    asked = dict(options or {})
    if unknown := set(asked) - _QUERY_OPTIONS:
        raise _fault(GENERIC_ERROR, f"unsupported query options: {sorted(unknown)}")
    order = [] if asked.get("countOnly") else (asked.get("order") or "").split(",")
    found = found[::-1]
    for column in reversed([name for name in order if name]):
        key = column.removeprefix("-")
        if key not in columns:
            raise _fault(OTHER_ERROR, f"<class 'Exception'>: Invalid order: {key}")
        # NULLs last going up and first going down, which is PostgreSQL's order.
        found.sort(key=lambda row: _sortable(row[key]), reverse=column.startswith("-"))
    # As in `if optval:`, a limit of 0 is none; a fraction is cut off.
    first, limit = int(asked.get("offset") or 0), int(asked.get("limit") or 0)
    if first < 0 or limit < 0:
        raise _fault(OTHER_ERROR, "LIMIT and OFFSET must not be negative")
    found = found[first : first + limit] if limit else found[first:]
    return len(found) if asked.get("countOnly") else found


def number(column: str, value: Value) -> None:
    """Refuse what the database would not compare to a number."""
    try:
        int(value)
    except (TypeError, ValueError) as error:
        raise _fault(
            OTHER_ERROR, f"invalid input syntax for type integer: {column} = {value!r}"
        ) from error


def who_is(user: Value) -> int | str:
    """Return the id or name by which a caller names a user."""
    if not isinstance(user, (int, str)):
        raise _fault(GENERIC_ERROR, f"Invalid type for userInfo: {type(user)}")
    return user


def refuse(**given: Value) -> None:
    """Say so where a caller wants what Koji has and the lab has not."""
    used = [name for name, value in given.items() if value is not None]
    if used:
        raise _fault(
            GENERIC_ERROR, f"the lab's Koji does not look at {', '.join(used)}: add it to lab/koji"
        )


def _between(seconds: float | None, after: float | str | None, before: float | str | None) -> bool:
    bounds: Iterable[float | str | None] = (after, before)
    # 0 is no bound: Koji says `if completeAfter:`.
    if not any(bounds):
        return True
    if seconds is None:
        return False
    return (not after or seconds > _seconds(after)) and (not before or seconds < _seconds(before))


def _seconds(moment: float | str) -> float:
    if isinstance(moment, (int, float)):
        # Which refuses the years that no datetime has.
        return datetime.fromtimestamp(moment, UTC).timestamp()
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise _fault(OTHER_ERROR, f"invalid input syntax for type timestamp: {moment!r}") from error
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _sortable(value: Value) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)


def _fault(code: int, text: str) -> xmlrpc.client.Fault:
    return xmlrpc.client.Fault(code, text)
