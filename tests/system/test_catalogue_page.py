"""People find an AMI on the catalogue's page, in a real browser: fedimg/catalogue/page."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from fedimg.catalogue import writer
from fedimg.jobs.queue import JobQueue
from fedimg.store.store import Store
from tests.browser import axe, browser, console, violations  # noqa: F401 (fixtures)
from tests.catalogue.conftest import (
    FURTHER,
    ORIGIN,
    TYPES,
    Site,
    withdraw,  # noqa: F401 (fixture)
)

HOSTILE = "<img src=x onerror=alert(1)> & it does not boot"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as any web server does; yield its URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(
    store: Store,
    jobs: JobQueue,
    tmp_path: Path,
    browser: Chrome,  # noqa: F811
    withdraw: Callable[..., None],  # noqa: F811
) -> Iterator[str]:
    """Open the page of a site with four images; one of them is withdrawn."""
    site = Site(store, jobs)
    site.publish(site.build(1))
    site.publish(site.build(2, arch="arm64"), types=TYPES[:1])
    site.publish(site.build(3, release="44"))
    bad = site.build(4)
    site.publish(bad)
    withdraw(bad.job, reason=HOSTILE, replacement="Fedora-Cloud-Base-43-1.1.x86_64")
    writer.CatalogueWriter(store, tmp_path / "catalogue", site="prod", base_url="").write()
    with served(tmp_path / "catalogue") as url:
        browser.get(url)
        wait(browser, lambda: status(browser).endswith("AMIs"))
        browser.get_log("browser")
        yield url


def wait(browser: Chrome, condition: Callable[[], object]) -> None:  # noqa: F811
    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def status(browser: Chrome) -> str:  # noqa: F811
    return browser.find_element(By.ID, "status").text


def rows(browser: Chrome) -> list[list[str]]:  # noqa: F811
    """Return the text of each row's cells, without the last, which has the buttons."""
    return [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")][:-1]
        for row in browser.find_elements(By.CSS_SELECTOR, "#rows tr")
    ]


def choose(browser: Chrome, name: str, value: str) -> None:  # noqa: F811
    Select(browser.find_element(By.ID, name)).select_by_value(value)


def test_newest_amis_of_the_newest_release_are_shown_first(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    assert status(browser) == "4 AMIs"
    shown = rows(browser)
    assert {row[0] for row in shown} == {"Fedora-Cloud-Base-44-1.3.x86_64"}
    assert {row[3] for row in shown} == {ORIGIN, FURTHER}
    assert console(browser) == []


def test_filters_and_search_narrow_the_list_and_stay_in_the_address(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    choose(browser, "release", "43")
    wait(browser, lambda: status(browser) == "6 AMIs")
    choose(browser, "architecture", "arm64")
    wait(browser, lambda: status(browser) == "2 AMIs")
    choose(browser, "region", FURTHER)
    wait(browser, lambda: status(browser) == "1 AMI")
    ((image, architecture, kind, region, ami, _),) = rows(browser)
    assert (image, architecture, kind, region) == (
        "Fedora-Cloud-Base-43-1.2.arm64",
        "arm64",
        "hvm-gp3",
        FURTHER,
    )
    browser.refresh()
    wait(browser, lambda: status(browser) == "1 AMI")
    assert rows(browser)[0][4] == ami
    # A filter is taken back, too, whatever the address said.
    choose(browser, "region", "")
    wait(browser, lambda: status(browser) == "2 AMIs")
    choose(browser, "architecture", "")
    wait(browser, lambda: status(browser) == "6 AMIs")
    browser.find_element(By.ID, "search").send_keys("no such image")
    wait(browser, lambda: status(browser) == "0 AMIs")
    assert console(browser) == []


def test_withdrawn_image_is_shown_on_request_with_its_reason_as_text(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    choose(browser, "release", "43")
    browser.find_element(By.ID, "all").click()
    wait(browser, lambda: status(browser) == "10 AMIs")
    withdrawn = browser.find_elements(By.CSS_SELECTOR, "tr.withdrawn")
    assert len(withdrawn) == 4
    text = withdrawn[0].find_element(By.CLASS_NAME, "state").text
    assert text == f"withdrawn: {HOSTILE}; use Fedora-Cloud-Base-43-1.1.x86_64 instead"
    assert withdrawn[0].find_elements(By.TAG_NAME, "a") == []
    assert console(browser) == []


def test_id_command_and_launch_link_are_those_of_the_row(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    choose(browser, "region", FURTHER)
    wait(browser, lambda: status(browser) == "2 AMIs")
    row = browser.find_element(By.CSS_SELECTOR, "#rows tr")
    ami = row.find_element(By.TAG_NAME, "code").text
    link = row.find_element(By.TAG_NAME, "a").get_attribute("href")
    assert link == (
        f"https://{FURTHER}.console.aws.amazon.com/ec2/home?region={FURTHER}"
        f"#LaunchInstances:ami={ami}"
    )
    copied = {}
    browser.execute_script("navigator.clipboard.writeText = async text => { window.copied = text }")
    for button in row.find_elements(By.TAG_NAME, "button"):
        button.click()
        wait(browser, lambda: status(browser).startswith("Copied"))
        copied[button.text] = browser.execute_script("return window.copied")
    assert copied["Copy id"] == ami
    assert copied["AWS CLI"] == (
        f"aws ec2 run-instances --region {FURTHER} --image-id {ami} --instance-type t3.micro"
    )
    assert copied["Terraform"].splitlines() == [
        'resource "aws_instance" "this" {',
        f'  region        = "{FURTHER}"',
        f'  ami           = "{ami}"',
        '  instance_type = "t3.micro"',
        "}",
    ]
    assert console(browser) == []


def test_copied_id_is_in_the_clipboard(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    permissions = {"origin": page.rstrip("/"), "permissions": ["clipboardReadWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    row = browser.find_element(By.CSS_SELECTOR, "#rows tr")
    ami = row.find_element(By.TAG_NAME, "code").text
    row.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda: status(browser) == f"Copied: {ami}")
    # Where a page has no clipboard, as without https, the text is selected and copied.
    pasted = browser.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], error => arguments[0](String(error)))"
    )
    assert pasted == ami
    browser.execute_script(
        "document.execCommand = () => false; navigator.clipboard.writeText = null"
    )
    row.find_element(By.TAG_NAME, "button").click()
    wait(browser, lambda: "does not let the page copy" in status(browser))
    assert ami in status(browser)


def test_release_of_the_address_is_chosen_though_it_has_no_newest_ami(
    browser: Chrome,  # noqa: F811
    page: str,
    store: Store,
    tmp_path: Path,
    withdraw: Callable[..., None],  # noqa: F811
) -> None:
    for job in [job for job in store.jobs() if "-44-" in job.image.name]:
        withdraw(job.job, reason="it does not boot", replacement=None)
    writer.CatalogueWriter(store, tmp_path / "catalogue", site="prod", base_url="").write()
    browser.get("about:blank")
    browser.get(f"{page}#release=44&all=1")
    wait(browser, lambda: status(browser) == "4 AMIs")
    assert {row[0].split("\n")[0] for row in rows(browser)} == {"Fedora-Cloud-Base-44-1.3.x86_64"}


def test_keyboard_alone_reaches_and_copies_an_id(
    browser: Chrome,  # noqa: F811
    page: str,
) -> None:
    # The skip list of the page: each filter, the results, then the first row's buttons.
    for _ in range(12):
        focused = browser.switch_to.active_element
        if focused.text == "Copy id":
            break
        focused.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Copy id"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, lambda: status(browser).startswith("Copied: ami-"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_follows_wcag(
    browser: Chrome,  # noqa: F811
    axe: str,  # noqa: F811
    page: str,
    scheme: str,
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.find_element(By.ID, "all").click()
    choose(browser, "release", "43")
    wait(browser, lambda: status(browser) == "10 AMIs")
    assert violations(browser, axe) == []


def test_file_that_cannot_be_read_is_told(
    browser: Chrome,  # noqa: F811
    page: str,
    tmp_path: Path,
) -> None:
    shutil.rmtree(tmp_path / "catalogue/releases")
    browser.find_element(By.ID, "all").click()
    wait(browser, lambda: "cannot be read" in status(browser))
    assert "releases/44.json: the server answers 404" in status(browser)


def test_of_many_images_the_first_are_drawn_and_more_on_request(
    browser: Chrome,  # noqa: F811
    tmp_path: Path,
) -> None:
    """10,000 newest images; docs/catalogue.md has the time that the last line prints."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    for name in writer.PAGES:
        shutil.copy(Path(writer.__file__).parent / "page" / name, folder)
    latest = [
        {
            "release": str(50 - number // 2000),
            "series": "Fedora-Cloud-Base",
            "kind": "build",
            "architecture": "x86_64",
            "virtualization": "hvm",
            "volume_type": "gp3",
            "partition": "aws",
            "owner": "125523088429",
            "build": None,
            "image": f"Fedora-{number}",
            "regions": {
                ORIGIN: {
                    "ami": f"ami-{number:017x}",
                    "image": f"Fedora-{number}",
                    "published": None,
                }
            },
        }
        for number in range(10000)
    ]
    (folder / "latest.json").write_text(json.dumps({"latest": latest}))

    def drawn() -> int:
        return int(browser.execute_script("return document.querySelectorAll('#rows tr').length"))

    with served(folder) as url:
        browser.get(url)
        wait(browser, lambda: drawn() == 100)
        assert status(browser) == "2000 AMIs, the first 100 are shown"
        browser.find_element(By.ID, "more").click()
        wait(browser, lambda: drawn() == 200)
    first = "return performance.getEntriesByName('first rows')[0].startTime"
    print(f"first rows after {browser.execute_script(first):.0f} ms")
