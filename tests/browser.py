"""Debian's Chromium without a window, driven by WebDriver, and axe-core, which checks for WCAG."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

#: The version of axe-core, which npm fetches.
AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def browser(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Return a browser whose console and clipboard can be read."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is missing: tools/system-packages tests")
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        # Tests run as root, and in containers with a small /dev/shm.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--window-size=1200,900",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def axe(processes: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the program of axe-core."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("npm is missing: tools/system-packages tests")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        program = tar.extractfile("package/axe.min.js")
        assert program
        return program.read().decode()


def violations(browser: Chrome, axe: str) -> list[str]:
    """Return what violates WCAG 2.2 AA on the page, as `rule: element`."""
    browser.execute_script(axe)
    result: Any = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"
        ".then(done, error => done({error: String(error)}));"
    )
    assert "error" not in result, result["error"]
    return [
        f"{violation['id']}: {node['html']}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]


def console(browser: Chrome) -> list[str]:
    """Return what the page wrote to the browser's console, warnings and errors alone."""
    return [
        str(entry["message"])
        for entry in browser.get_log("browser")
        if entry["level"] in ("WARNING", "SEVERE")
    ]
