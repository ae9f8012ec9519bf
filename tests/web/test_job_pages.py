"""The pages about jobs, as the application for operators answers.

Follows fedimg/web/job_pages.py, fedimg/web/operations.py.
"""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa

from fedimg.images import AMI, AMIType, Architecture, RawImage, Virtualization
from fedimg.jobs.queue import JobQueue
from fedimg.progress import CheckResult, CheckState
from fedimg.store import tables
from fedimg.store.store import Store
from tests.web.conftest import Get

DATABASES = ["sqlite", "postgresql"]

#: Whatever an instance could print to be more than text.
HOSTILE = (
    "<script>alert(1)</script>\n"
    '"><img src=x onerror=alert(2)>\n'
    "</pre></main><h1>fedimg is hacked</h1>{{ 7 * 7 }}{% raw %}\n"
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00nul \x9b2Jc1 \x7f\n"
    "user\u202egnp.exe\u2066 \u200bzero \ufeffbom\n"
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
)
HVM = AMIType(Virtualization.HVM, "gp3")


def image(number: int) -> RawImage:
    url = f"https://koji.example.org/Fedora-Cloud-28-{number}.x86_64.raw.xz"
    return RawImage(url, Architecture.X86_64, f"Fedora-Cloud-28-{number}", f"build-{number}")


def submit(jobs: JobQueue, count: int) -> list[str]:
    for number in range(count):
        jobs.submit(image(number))
    return [image(number).job for number in range(count)]


def finish(store: Store, job: str, state: str, error: str | None = None) -> None:
    store.begin(job, 1)
    store.end(job, 1, state, error)


class Page(HTMLParser):
    """Gather the tags, the links to jobs and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.jobs: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        href = dict(attributes).get("href") or ""
        if href.startswith("/jobs/"):
            self.jobs.append(href.removeprefix("/jobs/"))

    def handle_data(self, data: str) -> None:
        self.text += data


def listed(get: Get, query: str = "") -> list[str]:
    answer = get(f"/jobs?{query}")
    assert answer.status == 200, answer.text
    return Page(answer.text).jobs


def test_start_leads_to_the_jobs(get: Get) -> None:
    answer = get("/")
    assert (answer.status, answer.headers["location"]) == (307, "/jobs")


def test_site_without_jobs_says_so(get: Get) -> None:
    assert "No job matches." in get("/jobs").text


def test_live_jobs_come_first_then_the_newest(store: Store, jobs: JobQueue, get: Get) -> None:
    names = submit(jobs, 4)
    finish(store, names[1], "complete")
    finish(store, names[3], "failed", "no")
    assert listed(get) == [names[2], names[0], names[3], names[1]]


def test_fifty_jobs_are_listed_unless_a_limit_is_given(
    store: Store, jobs: JobQueue, get: Get
) -> None:
    (first,) = submit(jobs, 1)
    finish(store, first, "complete")
    with store.engine.begin() as connection:
        row = dict(connection.execute(sa.select(tables.jobs)).mappings().one())
        more = [row | {"job": f"job-{n}", "created": row["created"] - n} for n in range(1, 60)]
        connection.execute(sa.insert(tables.jobs), more)
    assert len(listed(get)) == 50
    assert "50 of 60 jobs" in get("/jobs").text
    assert len(listed(get, "limit=60")) == 60
    assert listed(get, "limit=2") == [first, "job-1"]


def test_jobs_are_filtered_by_state_and_time(store: Store, jobs: JobQueue, get: Get) -> None:
    failed, complete, queued = submit(jobs, 3)
    finish(store, failed, "failed", "no")
    finish(store, complete, "complete")
    with store.engine.begin() as connection:
        old = sa.update(tables.jobs).where(tables.jobs.c.job == failed)
        connection.execute(old.values(updated=time.time() - 3 * 86400))
    assert listed(get, "state=failed") == [failed]
    assert listed(get, "state=failed&state=queued") == [queued, failed]
    assert listed(get, "since=1d") == [queued, complete]
    assert listed(get, "since=&limit=") == listed(get)
    # The form keeps what was asked.
    page = get("/jobs?state=failed&since=36h&limit=7").text
    assert 'value="failed" checked' in page
    assert 'value="36h"' in page
    assert 'value="7"' in page


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=faild", "unknown state"),
        ("state=%3Cscript%3E", "unknown state"),
        ("since=yesterday", "since: "),
        ("limit=0", "limit: give a number from 1 to 1000"),
        ("limit=1001", "limit: "),
        ("limit=x", "limit: "),
        ("limit=99999999999999999999", "limit: "),
        ("limit=%C2%B2", "limit: "),
        ("limit=0000000019999999", "limit: "),
        ("limit=1" + 5000 * "0", "limit: "),
    ],
)
def test_filter_that_nothing_can_match_is_refused_in_words(get: Get, query: str, said: str) -> None:
    answer = get(f"/jobs?{query}")
    assert (answer.status, said in answer.text) == (400, True)
    assert "<script>" not in answer.text


def test_job_has_its_regions_checks_and_console(store: Store, jobs: JobQueue, get: Get) -> None:
    (job,) = submit(jobs, 1)
    store.begin(job, 1)
    store.set_region(job, "us-east-1", step="boot-check:hvm", detail="login")
    store.set_region(job, "eu-west-1", step="failed", error="EC2 refused")
    ami = AMI("ami-1", "name", "us-east-1", HVM, "snap-1")
    checks = [
        CheckResult("login", CheckState.PASSED, 1.5),
        CheckResult("units", CheckState.FAILED, 2, "a failed unit"),
    ]
    console = "\n".join(f"line {n}" for n in range(150))
    store.set_test(job, ami, "failed", checks, console)
    page = Page(get(f"/jobs/{job}").text)
    for text in (
        "boot-check:hvm", "login", "EC2 refused", "a failed unit", "1.5", "ami-1",
        "line 149", "line 50", "Boot check of hvm-gp3 in us-east-1: failed",
    ):  # fmt: skip
        assert text in page.text
    # The end of the console alone.
    assert "line 49\n" not in page.text


def test_running_job_tells_what_it_waits_for(store: Store, jobs: JobQueue, get: Get) -> None:
    (job,) = submit(jobs, 1)
    store.begin(job, 1)
    store.set_region(
        job, "us-west-2", step="copy", detail="waiting for EC2 to answer, since 12:00:00 UTC"
    )
    assert "us-west-2: waiting for EC2 to answer" in Page(get("/jobs").text).text
    page = get(f"/jobs/{job}").text
    assert "us-west-2: waiting for EC2 to answer" in Page(page).text
    assert 'data-live="yes"' in page
    finish(store, job, "complete")
    assert 'data-live="no"' in get(f"/jobs/{job}").text


def test_long_error_is_one_line_in_the_list_and_whole_on_the_jobs_page(
    store: Store, jobs: JobQueue, get: Get
) -> None:
    (job,) = submit(jobs, 1)
    error = "\n".join(f"line {n} of the error" for n in range(100))
    finish(store, job, "failed", error)
    assert "line 1 of the error line 2" in Page(get("/jobs").text).text
    assert "line 99" not in get("/jobs").text
    assert error in Page(get(f"/jobs/{job}").text).text


@pytest.mark.parametrize("name", ["nothing", "%3Cscript%3Ealert(1)%3C/script%3E", "..%2f", "%00"])
def test_unknown_job_is_404_and_its_name_is_not_shown(get: Get, name: str) -> None:
    answer = get(f"/jobs/{name}")
    assert answer.status == 404
    assert "alert" not in answer.text


def written_past_the_filter(store: Store, job: str) -> None:
    """Write hostile texts as whoever may write the database could, without fedimg's filter."""
    encoded = json.dumps(
        [{"name": HOSTILE, "state": "failed", "seconds": 1.0, "output": HOSTILE}]
    ).replace("\\u0000", "")
    texts = HOSTILE.replace("\x00", "") if store.shared else HOSTILE
    with store.engine.begin() as connection:
        for statement in (
            "UPDATE fedimg_jobs SET error = :text, step = :text",
            "UPDATE fedimg_regions SET detail = :text, error = :text",
            "UPDATE fedimg_tests SET output = :text, ami = :text, status = :text, checks = :checks",
        ):
            values = {"text": texts, "checks": encoded}
            named = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(sa.text(statement), named)


def test_hostile_texts_stay_text(store: Store, jobs: JobQueue, get: Get) -> None:
    (job,) = submit(jobs, 1)
    store.begin(job, 1)
    store.set_region(job, "us-east-1", step="write")
    clean = CheckResult("login", CheckState.FAILED, 1, "out")
    store.set_test(job, AMI("ami-1", "n", "us-east-1", HVM, "s"), "failed", [clean], "out")
    before = {path: Page(get(path).text) for path in ("/jobs", f"/jobs/{job}")}
    written_past_the_filter(store, job)
    for path, clean_page in before.items():
        page = get(path).text
        found = Page(page)
        # Nothing of it became a tag or an attribute.
        assert found.attributes == clean_page.attributes
        assert found.tags.count("script") == 1
        assert not {"img", "b"} & set(found.tags)
        assert found.tags.count("h1") == found.tags.count("main") == 1
        assert "<script>alert(1)</script>" in found.text
        assert "{{ 7 * 7 }}" in found.text
        assert "49" not in found.text.replace("{{ 7 * 7 }}", "").split("hacked", 1)[1][:10]
        # No control character, no bidirectional override, no secret.
        odd = [c for c in page if not c.isprintable() and c != "\n"]
        assert odd == []
        assert "wJalrXUtnFEMI" not in page
    assert "red" in Page(get(f"/jobs/{job}").text).text


def test_pages_have_no_inline_script_or_style(store: Store, jobs: JobQueue, get: Get) -> None:
    (job,) = submit(jobs, 1)
    for path in ("/jobs", f"/jobs/{job}", "/jobs/nothing"):
        page = get(path).text
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert "<style" not in page
        assert {each for each in Page(page).attributes if each.startswith("on")} == set()
        assert "style" not in Page(page).attributes
        assert re.findall(r"""(?:src|href|action)="(?!/|#)""", page) == []


@pytest.mark.parametrize("name", ["style.css", "refresh.js", "icon.svg"])
def test_files_of_the_pages_are_served(get: Get, name: str) -> None:
    answer = get(f"/static/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(("text/", "image/svg+xml"))
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "path", ["/static/../templates/job.html", "/static/..%2ftemplates/job.html", "/static/", "/x"]
)
def test_nothing_else_is_served(get: Get, path: str) -> None:
    answer = get(path)
    assert answer.status == 404


@pytest.mark.file
def test_page_says_that_the_database_cannot_be_read(store: Store, get: Get) -> None:
    store.close()
    for path in store.directory.iterdir():
        path.unlink()
    for path in ("/jobs", "/jobs/job"):
        answer = get(path)
        assert answer.status == 503
        assert "cannot read the database" in answer.text
