from __future__ import annotations

from pathlib import Path

import pytest

from fedimg.config import Settings
from fedimg.config.catalogue import Catalogue
from fedimg.web.catalogue_site import catalogue_site
from tests.web.conftest import Get, ask


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "catalogue"
    (directory / "builds").mkdir(parents=True)
    (directory / "latest.json").write_text("{}")
    (directory / "index.html").write_text("<!doctype html><title>AMIs</title>")
    (directory / "feed.atom").write_text("<feed/>")
    (directory / "builds/b-1.json").write_text("{}")
    (directory / ".lock").write_text("")
    (directory / "builds/.b-2.json.new").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    (directory / "link").symlink_to(tmp_path / "secret")
    return directory


@pytest.fixture
def fetch(directory: Path, settings: Settings) -> Get:
    app = catalogue_site(settings.model_copy(update={"catalogue": Catalogue(directory=directory)}))
    return lambda path, **given: ask(app, path, **given)


@pytest.mark.parametrize(
    ("path", "kind", "cached"),
    [
        ("/", "text/html", "no-cache"),
        ("/latest.json", "application/json", "no-cache"),
        ("/feed.atom", "application/atom+xml", "no-cache"),
        ("/builds/b-1.json", "application/json", "public, max-age=31536000, immutable"),
    ],
)
def test_files_are_served_for_every_site(fetch: Get, path: str, kind: str, cached: str) -> None:
    answer = fetch(path)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["cache-control"] == cached
    assert answer.headers["access-control-allow-origin"] == "*"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy


def test_file_that_has_not_changed_is_not_sent_again(fetch: Get, directory: Path) -> None:
    tag = fetch("/latest.json").headers["etag"]
    assert fetch("/latest.json", headers={"if-none-match": tag}).status == 304
    (directory / "new").write_text('{"a": 1}')
    (directory / "new").replace(directory / "latest.json")
    assert fetch("/latest.json", headers={"if-none-match": tag}).status == 200


@pytest.mark.parametrize(
    "path",
    ["/.lock", "/builds/.b-2.json.new", "/../secret", "/%2e%2e/secret", "/link", "/builds", "/x"],
)
def test_nothing_else_is_served(fetch: Get, path: str) -> None:
    answer = fetch(path)
    assert (answer.status, "secret" in answer.text) == (404, False)


@pytest.mark.parametrize("path", ["/jobs", "/metrics", "/healthz", "/readyz"])
def test_operators_pages_are_not_there(fetch: Get, path: str) -> None:
    assert fetch(path).status == 404


def test_other_methods_and_hosts_are_refused(fetch: Get) -> None:
    assert fetch("/latest.json", method="PUT").status == 405
    assert fetch("/latest.json", headers={"host": "evil.example"}).status == 400


def test_directory_that_is_not_there_yet_is_no_error(fetch: Get, directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    assert fetch("/latest.json").status == 404
