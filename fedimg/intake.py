"""What an announcement means, whatever the bus: first which id, then which images to publish.

Who listens is in fedimg.consumers, and the queue between the two in fedimg.jobs.
"""

from __future__ import annotations

import logging
import re
import threading
import time

from fedimg.config import Koji
from fedimg.exceptions import Cancelled
from fedimg.images import Architecture, RawImage
from fedimg.koji import (
    LARGEST_ID,
    METHODS,
    Found,
    Hub,
    KojiRefused,
    KojiStumbles,
    KojiUnavailable,
    KojiUnfinished,
)
from fedimg.later import Later, Why

#: Topics, after the bus's prefix and environment.
TASK_TOPIC = "buildsys.task.state.change"
BUILD_TOPIC = "buildsys.build.state.change"

#: How long, in seconds, an entry without an answer keeps its place among those that are asked for.
PATIENCE = 60.0
#: The first pause before the hub is asked again, in seconds; each is twice as long as the last.
FIRST_PAUSE = 1.0

_log = logging.getLogger(__name__)


def entry(topic: str, message: object, koji: Koji) -> str | None:
    """`task:<id>` or `build:<id>` when a message may announce images, else None.

    `topic` comes without the bus's prefix and environment. The rest of the message is believed
    only where it says that there is nothing here for fedimg.
    """
    if not isinstance(message, dict) or message.get("instance") != koji.instance:
        return None
    if message.get("attribute") != "state":
        return None
    new = message.get("new")
    if topic == TASK_TOPIC and new == "CLOSED" and _makes_images(message):
        return _entry("task", message.get("id"))
    # True equals 1, and is no state.
    if topic == BUILD_TOPIC and type(new) is int and new == 1:
        task = message.get("task")
        # A build that was imported has no task.
        if task is None or (isinstance(task, dict) and _makes_images(task)):
            return _entry("build", message.get("build_id"))
    return None


def _makes_images(task: dict[str, object]) -> bool:
    method = task.get("method")
    return isinstance(method, str) and method in METHODS


def _entry(kind: str, number: object) -> str | None:
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return None
    return f"{kind}:{number}"


def wanted(found: Found, koji: Koji) -> list[RawImage]:
    """The images that the site publishes; why the others are left out is logged.

    Anyone who may build scratch images can name one Fedora-Cloud-Base: the owner counts first.
    """
    owners = koji.scratch_owners if found.scratch else koji.build_owners
    if found.owner not in owners:
        _log.info(
            "%s is left out: its owner %.80r is not in koji.%s",
            found.entry,
            found.owner,
            "scratch_owners" if found.scratch else "build_owners",
        )
        return []
    images = []
    for image in found.images:
        if reason := _unwanted(image, koji):
            _log.info("%s, %s is left out: %s", found.entry, image.file_name, reason)
        else:
            images.append(image)
    if not found.images:
        _log.info("%s has no raw image that EC2 could run", found.entry)
    return images


def _unwanted(image: RawImage, koji: Koji) -> str | None:
    if image.architecture not in map(Architecture.from_koji, koji.architectures):
        return f"{image.architecture} is not in koji.architectures"
    if not any(re.search(pattern, image.file_name) for pattern in koji.name_patterns):
        return "its name matches none of koji.name_patterns"
    for pattern in koji.exclude_patterns:
        if re.search(pattern, image.file_name):
            return f"its name matches {pattern!r} of koji.exclude_patterns"
    return None


def ask(entry: str, hub: Hub, koji: Koji, stop: threading.Event) -> list[RawImage]:
    """The images of an entry that the site publishes; empty when there will never be any.

    A hub that does not answer is asked again, for PATIENCE. Raises Later when that is over,
    Cancelled when `stop` is set.
    """
    until = time.monotonic() + PATIENCE
    pause = min(FIRST_PAUSE, koji.retry_seconds)
    while not stop.is_set():
        why, reason = Why.SILENT, ""
        try:
            return wanted(hub.find(entry), koji)
        except KojiRefused as error:
            _log.warning("%s is dropped: %s", entry, error)
            return []
        except KojiUnfinished as error:
            # A replica of the hub's database lags by seconds.
            why, reason = Why.UNFINISHED, str(error)
        except KojiStumbles as error:
            why, reason = Why.STUMBLES, str(error)
        except KojiUnavailable as error:
            reason = str(error)
        if time.monotonic() + pause > until:
            raise Later(why, reason)
        _log.warning("%s waits for Koji, asked again in %g s: %s", entry, pause, reason)
        stop.wait(pause)
        pause = min(pause * 2, koji.retry_seconds)
    raise Cancelled(f"{entry} waits for Koji until the worker runs again")
