"""Finished entries, read from the lab's Koji over real XML-RPC, and from hubs that misbehave."""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fedimg import config
from fedimg.sources import koji_listing
from fedimg.sources.koji import METHODS, KojiRefused, KojiUnavailable
from fedimg.sources.koji_listing import BUILDS, LISTS, FinishedEntry, KojiListing
from lab.koji import Koji

NAME, VERSION = "Fedora-Cloud-Base", "43"
START = 1_700_000_000.0


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    path = tmp_path / f"{NAME}-{VERSION}.x86_64.raw.xz"
    path.write_bytes(b"an image")
    return {"x86_64": [path]}


def lists(koji: Koji) -> KojiListing:
    return KojiListing(config.Koji(hub=koji.hub_url, topurl=koji.top_url, timeout=5))


def at(koji: Koji, moment: float) -> None:
    koji.clock = lambda: moment


def entries(read: KojiListing, name: str, after: float) -> list[str]:
    return [one.entry for page in read.since(name, after) for one in page.found]


def test_every_list_has_the_entries_that_finished_since_a_time(koji: Koji, files: Any) -> None:
    expected: dict[str, list[str]] = {name: [] for name in LISTS}
    for day, method in enumerate(METHODS):
        at(koji, START + 86400 * day)
        build = koji.add_build(NAME, VERSION, str(day), files, method=method)
        expected[BUILDS].append(f"build:{build.id}")
        if METHODS[method]:
            task = koji.add_task(NAME, VERSION, str(day), files, method=method)
            expected[method].append(f"task:{task.id}")
    koji.add_build(NAME, VERSION, "broken", files, state="FAILED")
    koji.add_task(NAME, VERSION, "open", files, state="OPEN")
    read = lists(koji)
    # Builds' own tasks, children, and what is not finished are in none.
    assert {name: entries(read, name, START - 1) for name in LISTS} == expected
    assert entries(read, BUILDS, START + 86400 * 3) == expected[BUILDS][4:]


def test_finished_entries_are_described(koji: Koji, files: Any) -> None:
    at(koji, START)
    build = koji.add_build(NAME, VERSION, "1", files, owner="releng")
    task = koji.add_task(NAME, VERSION, "1", files, owner="ausil")
    read = lists(koji)
    (page,) = read.since(BUILDS, START - 1)
    assert page.found == [
        FinishedEntry(f"build:{build.id}", START, f"{NAME}-{VERSION}-1", "releng")
    ]
    assert page.until == START
    (page,) = read.since("image", START - 1)
    assert page.found == [FinishedEntry(f"task:{task.id}", START, "image", "ausil")]


def test_time_is_the_hubs(koji: Koji) -> None:
    koji.advance(7 * 86400)
    assert abs(lists(koji).now() - koji.clock()) < 30


def many(koji: Koji, files: Any, times: list[float]) -> list[str]:
    """Record builds that finished at these times."""
    at(koji, START)
    first = koji.add_build(NAME, VERSION, "first", files, method=None)
    made = [
        replace(first, id=first.id + number, release=str(number), completed=moment)
        for number, moment in enumerate(times)
    ]
    with koji.records.adding():
        koji.records._builds.update({build.id: build for build in made})
        koji.records.add()
    return [f"build:{build.id}" for build in sorted(made, key=lambda b: (b.completed, b.id))]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([START + 60 * n for n in range(25)], id="one a minute"),
        pytest.param([START + 60 * (n % 5) for n in range(25)], id="some at a time"),
        pytest.param([START] * 25, id="all at once"),
        pytest.param([START + 1e-6 * n for n in range(25)], id="within microseconds"),
        pytest.param([START] * 12 + [START + 9] * 13, id="two heaps"),
    ],
)
def test_every_page_is_read_once(
    koji: Koji, files: Any, monkeypatch: pytest.MonkeyPatch, times: list[float]
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 5)
    expected = many(koji, files, times)
    assert entries(lists(koji), BUILDS, START - 1) == expected


def test_list_that_changes_while_it_is_read_loses_no_entry(
    koji: Koji, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 5)
    expected = many(koji, files, [START + 60 * n for n in range(20)])
    pages = lists(koji).since(BUILDS, START - 1)
    found = [one.entry for one in next(pages).found]
    # Builds are deleted, and one shows up whose import began long ago: numbers shift both ways.
    for entry in expected[:3]:
        build = koji.records.find_build(int(entry.removeprefix("build:")))
        koji.records.add(build=replace(build, state=2))
    at(koji, START + 1)
    koji.add_build(NAME, VERSION, "late", files, method=None)
    found += [one.entry for page in pages for one in page.found]
    assert found == expected


@pytest.mark.parametrize("fault", ["", "it has no words"], ids=["unreadable", "fault"])
@pytest.mark.parametrize("which", [{0}, {3}, {11}, {4, 5, 6}, {10, 11}, set(range(12))], ids=str)
def test_build_that_the_hub_cannot_describe_hides_no_other(
    koji: Koji,
    files: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    fault: str,
    which: set[int],
) -> None:
    monkeypatch.setattr(koji_listing, "PAGE", 5)
    made = many(koji, files, [START + 60 * n for n in range(12)])
    for number in which:
        koji.wordless(int(made[number].removeprefix("build:")), fault)
    expected = [entry for number, entry in enumerate(made) if number not in which]
    assert entries(lists(koji), BUILDS, START - 1) == expected
    assert "that the hub fails to list" in caplog.text


def test_row_too_long_to_be_read_hides_no_other(
    koji: Koji, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.sources.xmlrpc.ANSWER_LIMIT", 40_000)
    made = []
    for number in range(5):
        at(koji, START + 60 * number)
        made.append(koji.add_task(NAME, VERSION, str(number), files))
    koji.records.add([replace(made[2], request=["long" * 12_000, {"scratch": True}])])
    read = entries(lists(koji), "image", START - 1)
    assert read == [f"task:{task.id}" for task in made if task is not made[2]]


def test_hub_that_fails_for_a_moment_hides_nothing(hub: Any) -> None:
    """A row is left out only while the hub is well, and fails at that row again."""
    rows = [row(1, START + 1), row(2, START + 2)]
    calls = iter(range(100))

    def answer(method: str, params: Any) -> Any:
        query = params[0]["queryOpts"]
        if query.get("countOnly"):
            return 1
        if next(calls) < 4:
            raise xmlrpc.client.Fault(1, "OperationalError: terminating connection")
        return rows[query["offset"] :][: query["limit"]]

    with pytest.raises(KojiUnavailable, match="terminating connection"):
        entries(hub(answer), BUILDS, START)


def test_offline_hub_is_unavailable(koji: Koji) -> None:
    koji.offline("planned outage")
    with pytest.raises(KojiUnavailable, match="planned outage"):
        lists(koji).now()
    with pytest.raises(KojiUnavailable, match="planned outage"):
        entries(lists(koji), BUILDS, START)


def test_hub_that_is_down_or_refuses_connections_is_unavailable(koji: Koji) -> None:
    koji.down()
    with pytest.raises(KojiUnavailable, match="503"):
        lists(koji).now()
    with pytest.raises(KojiUnavailable, match="503"):
        entries(lists(koji), BUILDS, START)


# Hubs that misbehave


Answer = Callable[[str, Any], Any]


@pytest.fixture
def hub() -> Iterator[Callable[[Answer], KojiListing]]:
    """Make a hub that answers each call with what a function returns."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answer: Answer, date: str | None = "Mon, 23 Nov 2026 20:00:00 GMT") -> KojiListing:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                params, method = xmlrpc.client.loads(body, use_builtin_types=True)
                try:
                    result = (answer(str(method), params),)
                    text = xmlrpc.client.dumps(result, methodresponse=True, allow_none=True)
                except xmlrpc.client.Fault as fault:
                    text = xmlrpc.client.dumps(fault)
                self.send_response_only(200)
                if date is not None:
                    self.send_header("Date", date)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/kojihub"
        return KojiListing(config.Koji(hub=url, timeout=5))

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def row(number: Any, completed: Any, **more: Any) -> dict[str, Any]:
    given = {"build_id": number, "completion_ts": completed, "nvr": f"n-{number}", "draft": False}
    return given | {"owner_name": "releng"} | more


def test_rows_with_impossible_values_are_left_out(hub: Any) -> None:
    rows: list[Any] = [
        row(1, START + 1),
        row(True, START + 2),
        row(0, START + 2),
        row(-7, START + 2),
        row("3", START + 2),
        row(4, None),
        row(5, "yesterday"),
        row(6, float("nan")),
        row(7, float("inf")),
        row(8, 1e300),
        row(9, -5.0),
        row(10, START - 5),
        row(11, START + 2, draft=True),
        None,
        [],
        "build",
        row(12, START + 3, nvr=None, owner_name="\u202ereleng"),
        row(1, START + 4),
    ]
    read = hub(lambda method, params: rows)
    (page,) = read.since(BUILDS, START)
    assert [one.entry for one in page.found] == ["build:1", "build:12"]
    assert page.found[1].owner == "?releng"
    assert page.until == START + 3


@pytest.mark.parametrize("answer", [None, 5, "rows", {"build_id": 1}])
def test_answer_that_is_no_list_is_refused(hub: Any, answer: Any) -> None:
    with pytest.raises(KojiUnavailable, match="other than a list of builds"):
        entries(hub(lambda method, params: answer), BUILDS, START)


def test_hub_that_repeats_itself_is_given_up(hub: Any) -> None:
    rows = [row(number, START + 1) for number in range(1, koji_listing.PAGE + 1)]
    with pytest.raises(KojiUnavailable, match="again and again"):
        entries(hub(lambda method, params: rows), BUILDS, START)


def test_endless_list_is_given_up(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(koji_listing, "_MOST_PAGES", 7)
    given = iter(range(1, 10**6))

    def answer(method: str, params: Any) -> Any:
        return [row(n, START + n) for n, _ in zip(given, range(koji_listing.PAGE), strict=False)]

    pages = list(hub(answer).since(BUILDS, START))
    assert [page.more for page in pages] == [False] * 6 + [True]


def test_rows_too_long_for_one_answer_are_asked_for_one_by_one(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever builds a scratch image says what is in its request.
    monkeypatch.setattr("fedimg.sources.xmlrpc.ANSWER_LIMIT", 50_000)
    made = [
        {"id": n, "completion_ts": START + n, "owner_name": "ausil"}
        | {"request": ["name", {"scratch": True, "comment": "x" * 30_000}]}
        for n in range(1, 6)
    ]

    def answer(method: str, params: Any) -> Any:
        wanted, query = params
        assert method == "listTasks"
        later = [one for one in made if one["completion_ts"] > wanted["completeAfter"]]
        return later[query["offset"] :][: query["limit"]]

    assert entries(hub(answer), "image", START) == [f"task:{n}" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("code", "error"), [(1000, KojiRefused), (1, KojiUnavailable), (1014, KojiUnavailable)]
)
def test_fault_raises_its_exception(hub: Any, code: int, error: type[Exception]) -> None:
    def answer(method: str, params: Any) -> Any:
        raise xmlrpc.client.Fault(code, "no")

    with pytest.raises(error, match="the list of builds"):
        entries(hub(answer), BUILDS, START)


@pytest.mark.parametrize("date", [None, "soon"])
def test_hub_without_a_clock_is_unavailable(hub: Any, date: str | None) -> None:
    with pytest.raises(KojiUnavailable, match="no valid Date header"):
        hub(lambda method, params: 1, date=date).now()
