"""The messages that Koji's bus plugin makes of tasks and builds; sending them is the bus's part.

Shapes and extras are those of fedora-infra/koji-fedoramessaging: children whole and with results,
`base_url`, `files_base_url` and `url` added, times of tasks as floats in whole seconds, times of
builds as ISO text, and the fields that JSON libraries print differently taken out.
"""

from datetime import UTC, datetime

from lab.koji.records import BUILD_STATES, TASK_STATES, Build, Records, Task, Value
from lab.koji.rows import epoch, task_info

TASK_TOPIC = "task.state.change"
BUILD_TOPIC = "build.state.change"
MODNAME = "buildsys"

_LEFT_OUT = {"weight", "create_ts", "start_ts", "completion_ts"}


def task_message(records: Records, task: Task, base_url: str, top_url: str) -> dict[str, Value]:
    """Return the body of a task.state.change message for a parent task as it stands now."""
    info = _full_task(records, task, base_url)
    return {
        "attribute": "state",
        "old": "OPEN",
        "new": _name_of(TASK_STATES, task.state),
        "id": task.id,
        "instance": "primary",
        "owner": info["owner"],
        "srpm": str(task.request[0]).split("/")[-1],
        "method": task.method,
        "info": info,
        "base_url": base_url,
        "files_base_url": f"{top_url}/work",
    }


def build_message(records: Records, build: Build, base_url: str, top_url: str) -> dict[str, Value]:
    """Return the body of a build.state.change message for a build as it stands now."""
    task = None if build.task is None else records.find_task(build.task)
    return {
        "attribute": "state",
        "old": BUILD_STATES["BUILDING"],
        "new": build.state,
        "build_id": build.id,
        "name": build.name,
        "version": build.version,
        "release": build.release,
        "epoch": epoch(build),
        "owner": _owner(records, build.owner),
        "instance": "primary",
        "task_id": build.task,
        "task": None if task is None else _full_task(records, task, base_url),
        "request": None if task is None else task.request,
        "creation_time": _iso(build.created),
        "completion_time": None if build.completed is None else _iso(build.completed),
        "url": f"{base_url}/koji/buildinfo?buildID={build.id}",
        "base_url": base_url,
        "files_base_url": f"{top_url}/work",
    }


def _full_task(records: Records, task: Task, base_url: str) -> dict[str, Value]:
    info = task_info(task, request=True)
    return {name: value for name, value in info.items() if name not in _LEFT_OUT} | {
        "create_time": float(int(task.created)),
        "start_time": float(int(task.created)),
        "completion_time": None if task.completed is None else float(int(task.completed)),
        "owner": _owner(records, task.owner),
        "host_name": "builder.lab",
        "url": f"{base_url}/koji/taskinfo?taskID={task.id}",
        "result": None if task.failure else task.result,
        "children": [_full_task(records, child, base_url) for child in records.children(task.id)],
    }


def _owner(records: Records, owner: int) -> str | None:
    user = records.find_user(owner)
    return user.name if user else None


def _name_of(states: dict[str, int], number: int) -> str:
    return next(name for name, value in states.items() if value == number)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
