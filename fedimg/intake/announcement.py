"""Read from a message of either bus the id of a task, build or compose, and no more.

This module runs inside the hub and the consumer, which make no requests. The worker looks the id up
in fedimg.intake.image_selection.
"""

from __future__ import annotations

from fedimg.config import Settings
from fedimg.sources.identifiers import COMPOSE_ID, FINISHED, LARGEST_ID, METHODS

#: Topics, after the bus's prefix and environment.
TASK_TOPIC = "buildsys.task.state.change"
BUILD_TOPIC = "buildsys.build.state.change"
COMPOSE_TOPIC = "pungi.compose.status.change"


def topics(settings: Settings) -> list[str]:
    """Return the topics that a site listens to, without the bus's prefix and environment."""
    return [TASK_TOPIC, BUILD_TOPIC, *([COMPOSE_TOPIC] if settings.composes.locations else [])]


def entry(topic: str, message: object, settings: Settings) -> str | None:
    """Return `task:<id>`, `build:<id>` or `compose:<id>` when a message may announce images.

    Return None for other messages. `topic` comes without the bus's prefix and environment. The
    other fields of the message are used only to ignore it; none of them causes a publication.
    """
    if not isinstance(message, dict):
        return None
    if topic == COMPOSE_TOPIC:
        return _compose(message) if settings.composes.locations else None
    if message.get("instance") != settings.koji.instance or message.get("attribute") != "state":
        return None
    new = message.get("new")
    if topic == TASK_TOPIC and new == "CLOSED" and _makes_images(message):
        return _entry("task", message.get("id"))
    # True equals 1, but is not a state.
    if topic == BUILD_TOPIC and type(new) is int and new == 1:
        task = message.get("task")
        # An imported build has no task.
        if task is None or (isinstance(task, dict) and _makes_images(task)):
            return _entry("build", message.get("build_id"))
    return None


def _compose(message: dict[str, object]) -> str | None:
    name, status = message.get("compose_id"), message.get("status")
    if not isinstance(name, str) or not isinstance(status, str) or status not in FINISHED:
        return None
    return f"compose:{name}" if COMPOSE_ID.fullmatch(name) else None


def _makes_images(task: dict[str, object]) -> bool:
    method = task.get("method")
    return isinstance(method, str) and method in METHODS


def _entry(kind: str, number: object) -> str | None:
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return None
    return f"{kind}:{number}"
