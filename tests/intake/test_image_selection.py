"""The choice of an entry's images, the age limit, and retries of a hub that is down."""

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedimg import config
from fedimg.exceptions import Cancelled
from fedimg.intake import image_selection
from fedimg.intake.deferred import Defer, DeferReason
from fedimg.intake.image_selection import Sources
from fedimg.sources.lookup import LookupResult
from lab.koji import Koji
from tests.intake.image_files import NAME, RELEASE, VERSION, files


def settings(koji: Koji, **changes: Any) -> config.Settings:
    given = {"hub": koji.hub_url, "topurl": koji.top_url, "timeout": 5, "retry_seconds": 0.2}
    return config.Settings(koji=config.Koji(**given | {"scratch_owners": ["ausil"]} | changes))


def ask(koji: Koji, entry: str, **changes: Any) -> list[str]:
    chosen = settings(koji, **changes)
    images = image_selection.images_to_publish(entry, Sources(chosen), chosen, threading.Event())
    return [image.file_name for image in images]


def test_images_that_the_default_policy_accepts(koji: Koji, tmp_path: Path) -> None:
    names = {
        "Fedora-Cloud-Base": True,
        "Fedora-Cloud-Atomic": True,
        "Fedora-Atomic": True,
        "Fedora-AtomicHost": True,
        "Fedora-Cloud-Base-Vagrant": False,
        "Fedora-Cloud-Docker-Base": False,
        "Fedora-Container-Base": False,
        "Fedora-Server": False,
        "My-Fedora-Cloud-Base": False,
        "Fedora-Cloudy": False,
    }
    for name, taken in names.items():
        build = koji.add_build(name, VERSION, RELEASE, files(tmp_path, name))
        assert bool(ask(koji, f"build:{build.id}")) is taken, name


@pytest.mark.parametrize("scratch", [False, True])
def test_image_in_several_formats_is_published_from_one(
    koji: Koji, tmp_path: Path, caplog: pytest.LogCaptureFixture, scratch: bool
) -> None:
    caplog.set_level(logging.INFO)
    stem = f"{NAME}-{VERSION}-{RELEASE}.x86_64"
    paths = [tmp_path / f"{stem}{suffix}" for suffix in (".raw", ".raw.gz", ".raw.zst", ".raw.xz")]
    for path in paths:
        path.write_bytes(path.name.encode())
    add = koji.add_task if scratch else koji.add_build
    entry = f"{'task' if scratch else 'build'}:{add(NAME, VERSION, RELEASE, {'x86_64': paths}).id}"
    assert ask(koji, entry) == [f"{stem}.raw.xz"]
    assert f"{stem}.raw.gz is left out: the same image is published from {stem}.raw.xz" in (
        caplog.text
    )
    assert ask(koji, entry, exclude_patterns=[r"\.xz$"]) == [f"{stem}.raw.zst"]
    assert ask(koji, entry, exclude_patterns=[r"\.(xz|zst)$"]) == [f"{stem}.raw.gz"]
    assert ask(koji, entry, name_patterns=[r"\.raw$"]) == [f"{stem}.raw"]


def test_scratch_task_needs_a_configured_owner(
    koji: Koji, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task = koji.add_task(NAME, VERSION, RELEASE, files(tmp_path), owner="mallory")
    assert ask(koji, f"task:{task.id}", scratch_owners=[]) == []
    assert ask(koji, f"task:{task.id}", build_owners=["mallory"]) == []
    assert '"mallory" is not in koji.scratch_owners' in caplog.text
    assert len(ask(koji, f"task:{task.id}", scratch_owners=["mallory"])) == 1


def test_build_needs_a_configured_owner(koji: Koji, tmp_path: Path) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files(tmp_path), owner="mallory")
    assert ask(koji, f"build:{build.id}", scratch_owners=["mallory"]) == []
    assert len(ask(koji, f"build:{build.id}", build_owners=["releng", "mallory"])) == 1


def test_architectures_are_chosen_by_kojis_names(koji: Koji, tmp_path: Path) -> None:
    made = files(tmp_path, arches=("x86_64", "aarch64", "ppc64le"))
    build = koji.add_build(NAME, VERSION, RELEASE, made)
    assert ask(koji, f"build:{build.id}", architectures=["aarch64"]) == [
        "Fedora-Cloud-Base-28-1.1.aarch64.raw.xz"
    ]
    assert len(ask(koji, f"build:{build.id}")) == 2


def test_entry_waits_while_koji_is_down(koji: Koji, tmp_path: Path) -> None:
    build = koji.add_build(NAME, VERSION, RELEASE, files(tmp_path))
    koji.down()
    timer = threading.Timer(1.0, koji.up)
    timer.start()
    began = time.monotonic()
    assert len(ask(koji, f"build:{build.id}")) == 1
    assert time.monotonic() - began >= 0.9
    timer.join()


def test_stop_ends_the_retries_of_a_lookup(koji: Koji) -> None:
    koji.down()
    chosen, stop = settings(koji, retry_seconds=60), threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        image_selection.images_to_publish("build:5", Sources(chosen), chosen, stop)
    assert time.monotonic() - began < 20
    timer.join()


def test_lookup_of_an_unfinished_entry_is_retried(koji: Koji, tmp_path: Path) -> None:
    task = koji.add_task(NAME, VERSION, RELEASE, files(tmp_path), state="OPEN")
    closed = koji.add_task(NAME, VERSION, RELEASE, files(tmp_path))

    def close() -> None:
        children = koji.records.children(closed.id)
        koji.records.add(
            [replace(closed, id=task.id), *(replace(each, parent=task.id) for each in children)]
        )

    timer = threading.Timer(0.5, close)
    timer.start()
    assert len(ask(koji, f"task:{task.id}")) == 1
    timer.join()


def test_entry_without_an_answer_is_deferred(
    koji: Koji, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_selection, "PATIENCE", 0.5)
    task = koji.add_task(NAME, VERSION, RELEASE, files(tmp_path), state="OPEN")
    with pytest.raises(Defer, match="not finished yet") as caught:
        ask(koji, f"task:{task.id}")
    assert caught.value.why is DeferReason.UNFINISHED
    build = koji.add_build(NAME, VERSION, RELEASE, files(tmp_path))
    koji.trouble(build.id, "KeyError: 'extra'")
    with pytest.raises(Defer, match="KeyError") as caught:
        ask(koji, f"build:{build.id}")
    assert caught.value.why is DeferReason.STUMBLES
    koji.down()
    with pytest.raises(Defer, match="503") as caught:
        ask(koji, f"build:{build.id}")
    assert caught.value.why is DeferReason.SILENT


def test_entry_that_koji_does_not_know_is_dropped(
    koji: Koji, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(koji, "build:999") == []
    assert "build:999 is dropped" in caplog.text


# Age


def add_old(koji: Koji, folder: Path, days: float, *, scratch: bool = False) -> str:
    """Add a build or a scratch task that finished `days` days ago; return its entry."""
    koji.clock = lambda: time.time() - days * 86400
    try:
        if scratch:
            return f"task:{koji.add_task(NAME, VERSION, RELEASE, files(folder)).id}"
        return f"build:{koji.add_build(NAME, VERSION, RELEASE, files(folder)).id}"
    finally:
        koji.clock = time.time


@pytest.mark.parametrize("scratch", [True, False])
def test_entry_older_than_the_age_limit_is_dropped_and_logged(
    koji: Koji, tmp_path: Path, caplog: pytest.LogCaptureFixture, scratch: bool
) -> None:
    entry = add_old(koji, tmp_path, 15, scratch=scratch)
    assert ask(koji, entry) == []
    (told,) = [each for each in caplog.messages if "is dropped" in each]
    assert f"{entry} is dropped: it finished at " in told
    assert "15 days ago" in told
    assert "fedimg replay --since" in told


@pytest.mark.parametrize("scratch", [True, False])
def test_entry_within_the_age_limit_is_published(koji: Koji, tmp_path: Path, scratch: bool) -> None:
    assert len(ask(koji, add_old(koji, tmp_path, 13, scratch=scratch))) == 1


def test_age_limit_is_configured(koji: Koji, tmp_path: Path) -> None:
    entry = add_old(koji, tmp_path, 15)
    for days, count in ((10.0, 0), (20.0, 1)):
        chosen = settings(koji).model_copy(update={"intake": config.Intake(max_age_days=days)})
        images = image_selection.images_to_publish(
            entry, Sources(chosen), chosen, threading.Event()
        )
        assert len(images) == count


def test_exempt_entry_may_be_of_any_age(koji: Koji, tmp_path: Path) -> None:
    entry = add_old(koji, tmp_path, 400)
    chosen = settings(koji)
    sources = Sources(chosen)
    assert image_selection.images_to_publish(
        entry, sources, chosen, threading.Event(), any_age=True
    )


def test_age_is_measured_by_the_hubs_clock() -> None:
    old = LookupResult("build:1", "releng", False, (), completed=1000.0, now=1000.0 + 13 * 86400)
    assert image_selection.too_old(old, 14) is None
    assert image_selection.too_old(replace(old, now=1000.0 + 15 * 86400), 14)
    assert image_selection.too_old(replace(old, completed=None), 14)
