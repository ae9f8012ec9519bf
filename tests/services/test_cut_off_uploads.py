"""Uploads that are cut off or stopped, and go on.

Follows fedimg/services/recorded.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fedimg.exceptions import Cancelled
from tests.services.conftest import (
    ORIGIN,
    PATIENCE,
    SLOW_REGION,
    SMALL,
    WITH_COPY,
    Lab,
    Recorder,
    until,
    waiting_check,
)

#: A stopped service has to let go within two seconds, on a machine that has nothing else to do.
PROMPTLY = 60.0


class PowerCut(BaseException):
    """An exception that nothing in fedimg expects."""


@pytest.mark.parametrize("moment", ["runs at", "registered", "published us-east-1"])
def test_upload_that_was_cut_off_is_completed_without_duplicates(lab: Lab, moment: str) -> None:
    image, observer = lab.image(), Recorder()

    def cut() -> None:
        raise PowerCut

    observer.when[moment] = cut
    with pytest.raises(PowerCut):
        lab.upload(image, observer, **WITH_COPY)
    result = lab.upload(image, rerun=True, **WITH_COPY)
    assert set(result.published) == {ORIGIN, "us-east-2"}
    assert result.failed == {}
    assert len(lab.made_for(image, "image")) == 2
    assert len(lab.made_for(image, "snapshot")) == 2
    lab.clean(image)
    assert len(lab.live()) == 4


def stops(upload: Callable[[threading.Event], object], moment: Callable[[], object]) -> None:
    """Stop an upload at a moment; it ends Cancelled, and soon."""
    stop, ended = threading.Event(), []

    def run() -> None:
        try:
            upload(stop)
        except BaseException as error:
            ended.append(error)

    job = threading.Thread(target=run)
    job.start()
    try:
        until(moment, "the moment to stop")
    finally:
        stop.set()
        stopped = time.monotonic()
        job.join(PATIENCE)
    assert not job.is_alive()
    assert time.monotonic() - stopped < PROMPTLY
    assert [type(error) for error in ended] == [Cancelled]


def test_stop_ends_a_write(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    observer.when["runs at"] = lambda: setattr(lab.web, "manner", "stalled")
    stops(
        lambda stop: lab.upload(image, observer, stop=stop, **SMALL),
        lambda: "% of" in observer.words(),
    )
    lab.leaves_nothing(image)


def test_stop_ends_a_boot_check(lab: Lab) -> None:
    image = lab.image()
    stops(
        lambda stop: lab.upload(image, stop=stop, checks=[waiting_check(lab)], **SMALL),
        lambda: "/go" in lab.web.asked,
    )
    lab.leaves_nothing(image)


def test_stop_ends_a_copy_and_keeps_what_is_public(lab: Lab) -> None:
    image, observer = lab.image(), Recorder()
    regions = [ORIGIN, SLOW_REGION]
    stops(
        lambda stop: lab.upload(image, observer, stop=stop, **{**SMALL, "regions": regions}),
        lambda: f"{ORIGIN} public" in observer.words(),
    )
    assert lab.made_for(image, "snapshot")[-1]["region"] == SLOW_REGION
    lab.clean(image)
    assert [row["region"] for row in lab.live()] == [ORIGIN, ORIGIN]
