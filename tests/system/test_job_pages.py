"""Debian's Chromium reads the pages about jobs of a `fedimg web` that runs.

Follows fedimg/web/templates/*.html, fedimg/web/static/*.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.progress import CheckResult, CheckState
from fedimg.store.store import Store
from tests.browser import axe, browser, console, violations  # noqa: F401 (fixtures)

#: An instance's console that would be more than text if it were believed.
HOSTILE = (
    "<script>document.title = 'hacked'</script>\n"
    "</pre><img src=x onerror=\"document.title='hacked'\">\n"
    "\x1b[31mred\x1b[0m \x00nul user\u202egnp.exe\n"
)
WAIT_SECONDS = 240.0


class Pages:
    """A site with jobs, and the address of its pages."""

    def __init__(self, store: Store, address: str) -> None:
        self.store = store
        self.address = address
        self.jobs = [self._image(number).job for number in range(3)]
        with closing(JobQueue(store)) as queue:
            for number in range(3):
                queue.submit(self._image(number))
        self.running, self.failed, _queued = self.jobs
        store.begin(self.running, 1)
        store.set_region(self.running, "us-east-1", step="write", detail="12 of 40 GiB")
        store.begin(self.failed, 1)
        ami = AMI("ami-1", "n", "us-east-1", AMIType(Virtualization.HVM, "gp3"), "snap-1")
        checks = [
            CheckResult("login", CheckState.PASSED, 1.5),
            CheckResult("units", CheckState.FAILED, 2, HOSTILE),
        ]
        store.set_region(self.failed, "us-east-1", step="failed", error="a unit failed")
        store.set_test(self.failed, ami, "failed", checks, "")
        store.end(self.failed, 1, "failed", "the boot check failed")
        # Past fedimg's own filter, as whoever may write the database could.
        with store.engine.begin() as connection:
            for statement in (
                "UPDATE fedimg_tests SET output = :text WHERE job = :job",
                "UPDATE fedimg_jobs SET error = :text WHERE job = :job",
            ):
                connection.execute(sa.text(statement), {"text": HOSTILE * 50, "job": self.failed})

    @staticmethod
    def _image(number: int) -> RawImage:
        url = f"https://koji.example.org/Fedora-Cloud-Base-28-{number}.x86_64.raw.xz"
        return RawImage(
            url, Architecture.X86_64, f"Fedora-Cloud-Base-28-{number}", f"build-{number}"
        )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("site")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    (folder / "fedimg.toml").write_text(
        f'state_directory = "state"\n[web]\noperations = "{address}"\n'
    )
    with closing(Store(folder / "state")) as store:
        web = subprocess.Popen(
            [Path(sys.executable).parent / "fedimg", "web"],
            env={**os.environ, "FEDIMG_CONFIG": str(folder / "fedimg.toml")},
        )
        try:
            made = Pages(store, f"http://{address}")
            until(lambda: answers(f"{made.address}/healthz"), "fedimg web answers")
            yield made
        finally:
            web.terminate()
            web.wait(240)


def answers(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(url, timeout=20).ok
    return False


def until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def text(browser: Chrome, selector: str = "main") -> str:  # noqa: F811
    return browser.find_element(By.CSS_SELECTOR, selector).text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_pages_have_no_barrier_and_no_error(
    pages: Pages,
    browser: Chrome,  # noqa: F811
    axe: str,  # noqa: F811
    scheme: str,
    width: int,
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.set_window_size(width, 900)
    console(browser)
    for path in ("/jobs", f"/jobs/{pages.running}", f"/jobs/{pages.failed}"):
        browser.get(pages.address + path)
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(22, 22, 22)") == (scheme == "dark")
        assert console(browser) == []
        # Chromium lets WebDriver run a program that the page's policy would refuse.
        assert violations(browser, axe) == [], path
        wider = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wider <= 0, path
    # Debian's fonts are not there to be asked for: nothing but the site's own files was.
    names = browser.execute_script(
        "return performance.getEntriesByType('resource').map((each) => each.name)"
    )
    assert names
    assert all(name.startswith(pages.address) for name in names)


def test_list_is_filtered_and_leads_to_a_job_by_the_keyboard(
    pages: Pages,
    browser: Chrome,  # noqa: F811
) -> None:
    browser.set_window_size(1200, 900)
    browser.get(f"{pages.address}/jobs")
    assert all(job in text(browser) for job in pages.jobs)
    browser.find_element(By.CSS_SELECTOR, "input[value=failed]").send_keys(Keys.SPACE)
    browser.find_element(By.CSS_SELECTOR, "form button").send_keys(Keys.ENTER)
    until(lambda: "state=failed" in browser.current_url, "the filter is asked for")
    found = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "tbody th a")]
    assert found == [pages.failed]
    assert browser.find_element(By.CSS_SELECTOR, "input[value=failed]").is_selected()
    browser.find_element(By.CSS_SELECTOR, "tbody th a").send_keys(Keys.ENTER)
    until(lambda: browser.current_url.endswith(pages.failed), "the job's page")
    assert "End of the console" in text(browser)
    # The first key leads past the head of the page.
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"


def test_hostile_console_stays_text(pages: Pages, browser: Chrome) -> None:  # noqa: F811
    for path in ("/jobs", f"/jobs/{pages.failed}"):
        browser.get(pages.address + path)
        time.sleep(0.5)
        assert browser.title.endswith("– fedimg")
        assert browser.find_elements(By.CSS_SELECTOR, "main script, main img") == []
        assert "<script>document.title = 'hacked'</script>" in text(browser)
    shown = text(browser, "pre")
    assert "red nul usergnp.exe" in shown
    assert not {"\x1b", "\x00", "\u202e"} & set(shown)


@pytest.mark.long
def test_page_of_a_running_job_refreshes_itself_until_it_is_paused_or_over(
    pages: Pages,
    browser: Chrome,  # noqa: F811
) -> None:
    browser.get(f"{pages.address}/jobs/{pages.running}")
    console(browser)
    assert "12 of 40 GiB" in text(browser)
    pages.store.set_region(pages.running, "us-east-1", step="write", detail="13 of 40 GiB")
    until(lambda: "13 of 40 GiB" in text(browser), "the page refreshes itself")
    button = browser.find_element(By.CSS_SELECTOR, "#refresh button")
    button.send_keys(Keys.ENTER)
    assert button.text == "Refresh again"
    pages.store.set_region(pages.running, "us-east-1", step="write", detail="14 of 40 GiB")
    time.sleep(12)
    assert "13 of 40 GiB" in text(browser)
    button.send_keys(Keys.ENTER)
    pages.store.end(pages.running, 1, "complete", None)
    until(lambda: not button.is_displayed(), "nothing refreshes any more")
    assert "complete" in text(browser, "dd")
    assert console(browser) == []


def test_pages_work_without_script(pages: Pages, browser: Chrome) -> None:  # noqa: F811
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{pages.address}/jobs")
        assert all(job in text(browser) for job in pages.jobs)
        assert not browser.find_element(By.ID, "refresh").is_displayed()
        browser.find_element(By.CSS_SELECTOR, "input[value=failed]").click()
        browser.find_element(By.CSS_SELECTOR, "form button").click()
        until(lambda: "state=failed" in browser.current_url, "the filter is asked for")
        browser.find_element(By.LINK_TEXT, pages.failed).click()
        until(lambda: "End of the console" in text(browser), "the job's page")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
