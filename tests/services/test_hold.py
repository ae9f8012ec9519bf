"""Publishing while the site is held: everything is made and tested, and nothing is public.

Follows fedimg/services/ec2.py, fedimg/jobs/holds.py.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedimg.exceptions import Cancelled
from fedimg.jobs.holds import Holds
from fedimg.store.store import Store
from tests.services.conftest import REGIONS, Lab, Recorder, until


def held_everywhere(observer: Recorder) -> bool:
    held = {told.region for told in observer.of("progress") if told.detail.startswith("held ")}
    return held == set(REGIONS)


def test_running_job_waits_before_anything_is_public_and_goes_on_when_released(
    lab: Lab, store: Store
) -> None:
    image, observer = lab.image(), Recorder()
    # In the middle of the job, as an operator does it.
    observer.when["write"] = lambda: Holds(store).begin("ann@hub", "a bad night")
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(lab.upload, image, observer, holds=Holds(store))
        until(lambda: upload.done() or held_everywhere(observer), "all regions held")
        assert not upload.done()
        assert observer.of("test completed")
        assert lab.public() == []
        assert "by ann@hub: a bad night" in observer.words()
        Holds(store).release("bob@hub")
        result = upload.result(240)
    assert set(result.published) == set(REGIONS)
    assert lab.public()


def test_cancelled_job_ends_though_the_site_is_held(lab: Lab, store: Store) -> None:
    image, observer, stop = lab.image(), Recorder(), threading.Event()
    Holds(store).begin("ann", "")
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(lab.upload, image, observer, holds=Holds(store), stop=stop)
        until(lambda: upload.done() or held_everywhere(observer), "all regions held")
        stop.set()
        with pytest.raises(Cancelled):
            upload.result(240)
    lab.leaves_nothing(image)
