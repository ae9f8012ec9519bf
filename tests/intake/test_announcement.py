"""Messages that announce an entry, and messages that are ignored."""

from pathlib import Path

import pytest

from fedimg import config
from fedimg.intake import announcement
from fedimg.sources.identifiers import METHODS
from lab.koji import Koji
from tests.intake.image_files import NAME, RELEASE, VERSION, files

SCRATCH_METHODS = [method for method in METHODS if METHODS[method]]
SETTINGS = config.Settings()


def task_message(**changes: object) -> dict[str, object]:
    message = {"attribute": "state", "old": "OPEN", "new": "CLOSED", "id": 10291407}
    return message | {"instance": "primary", "method": "image", "owner": "ausil"} | changes


def build_message(**changes: object) -> dict[str, object]:
    message = {"attribute": "state", "old": 0, "new": 1, "build_id": 77, "instance": "primary"}
    return message | {"owner": "releng", "task_id": 5, "task": {"method": "image"}} | changes


@pytest.mark.parametrize("method", SCRATCH_METHODS)
def test_entry_of_a_task_message_of_every_method(koji: Koji, tmp_path: Path, method: str) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files(tmp_path), method=method)
    message = koji.task_message(task.id)
    assert announcement.entry(announcement.TASK_TOPIC, message, SETTINGS) == f"task:{task.id}"


@pytest.mark.parametrize("method", [*METHODS, None])
def test_entry_of_a_build_message_of_every_method(
    koji: Koji, tmp_path: Path, method: str | None
) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files(tmp_path), method=method)
    message = koji.build_message(build.id)
    assert announcement.entry(announcement.BUILD_TOPIC, message, SETTINGS) == f"build:{build.id}"


@pytest.mark.parametrize(
    "message",
    [
        task_message(new="OPEN"),
        task_message(new=2),
        task_message(method="build"),
        task_message(method=["image"]),
        task_message(instance="s390"),
        task_message(instance=None),
        task_message(attribute="label"),
        task_message(id=True),
        task_message(id=0),
        task_message(id=-5),
        task_message(id=2**31),
        task_message(id=10**400),
        task_message(id="10291407"),
        task_message(id=1.0),
        task_message(id=None),
        task_message(id={"id": 5}),
        {},
        [],
        None,
        "CLOSED",
        5,
        [[[[]]]],
    ],
)
def test_task_message_without_an_image_is_ignored(message: object) -> None:
    assert announcement.entry(announcement.TASK_TOPIC, message, SETTINGS) is None


@pytest.mark.parametrize(
    "message",
    [
        build_message(new=0),
        build_message(new=True),
        build_message(new="COMPLETE"),
        build_message(task={"method": "build"}),
        build_message(task={"method": None}),
        build_message(task="image"),
        build_message(instance="riscv"),
        build_message(build_id=True),
        build_message(build_id="5"),
        build_message(build_id=2**31),
    ],
)
def test_build_message_without_an_image_is_ignored(message: object) -> None:
    assert announcement.entry(announcement.BUILD_TOPIC, message, SETTINGS) is None


def test_message_of_another_topic_is_ignored() -> None:
    assert announcement.entry("buildsys.repo.done", task_message(), SETTINGS) is None
    assert announcement.entry(announcement.BUILD_TOPIC, task_message(), SETTINGS) is None
