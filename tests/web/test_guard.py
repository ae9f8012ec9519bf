from __future__ import annotations

import pytest

from fedimg.web.guard import Guard
from tests.web.conftest import Get


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8081", "LOCALHOST:1", "[::1]", "[::1]:8081"]
)
def test_known_host_is_answered(get: Get, host: str) -> None:
    assert get("/healthz", headers={"host": host}).text == "ok\n"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:",
        "localhost:80:80",
        "localhost:x",
        "localhost@evil.example",
        "evil.example/localhost",
        "[::1",
        "[::1]x",
        "[::2]:80",
        "::1",
        "[localhost]]",
    ],
)
def test_other_hosts_are_refused(get: Get, host: str) -> None:
    answer = get("/healthz", headers={"host": host})
    assert (answer.status, "web.hosts" in answer.text) == (400, True)


def test_request_without_a_host_or_with_two_is_refused(settings, reader) -> None:
    guard = Guard(None, ["localhost"], {})  # type: ignore[arg-type]
    for hosts in ([], [b"localhost", b"localhost"]):
        scope = {"type": "http", "method": "GET", "headers": [(b"host", each) for each in hosts]}
        refusal = guard._refusal(scope)
        assert refusal is not None
        assert refusal.status_code == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/jobs", "/nowhere"])
def test_methods_that_could_change_something_are_refused(get: Get, method: str, path: str) -> None:
    answer = get(path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_has_no_body(get: Get) -> None:
    answer = get("/healthz", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nowhere"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers_of_a_careful_site(get: Get, path: str, host: str) -> None:
    headers = get(path, headers={"host": host}).headers
    policy = dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    # No inline script or style, and nothing from another site.
    assert {policy[each] for each in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers
