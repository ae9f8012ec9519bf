"""Finished composes, read from a location's index page, and pages that are not believed."""

import os
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from fedimg import config
from fedimg.intake.catch_up import CatchUp, replay
from fedimg.intake.deferred import DeferReason, DeferredEntries
from fedimg.intake.watermarks import Watermarks
from fedimg.jobs.queue import EntryState, JobQueue
from fedimg.sources.compose_listing import ComposeListing, links
from fedimg.sources.lookup import LookupRefused, SourceUnavailable
from fedimg.store.store import Store
from lab.koji import Koji
from lab.koji.composes import LOCATION, add_compose

HOUR = 3600.0
#: 2026-11-20T00:00:00Z
THEN = 1_795_132_800.0


def lists(koji: Koji, location: str = LOCATION) -> ComposeListing:
    return ComposeListing(config.Composes(timeout=5), f"{koji.top_url}/{location}")


def compose(koji: Koji, name: str, finished: float, status: str = "FINISHED") -> str:
    folder = add_compose(koji.root, name, {}, status=status)
    os.utime(folder / "STATUS", (finished, finished))
    return f"compose:{name}"


def entries(read: ComposeListing, after: float) -> list[str]:
    return [one.entry for page in read.since(read.names[0], after) for one in page.found]


def test_composes_that_finished_since_a_time_are_listed_in_order(koji: Koji) -> None:
    late = compose(koji, "Fedora-Cloud-43-20261120.0", THEN + 5 * HOUR, "FINISHED_INCOMPLETE")
    early = compose(koji, "Fedora-Cloud-43-20261120.1", THEN + 3 * HOUR)
    compose(koji, "Fedora-Cloud-43-20261120.2", THEN + 4 * HOUR, "STARTED")
    compose(koji, "Fedora-Cloud-43-20261120.3", THEN + 4 * HOUR, "DOOMED")
    compose(koji, "Fedora-Cloud-43-20261119.0", THEN - HOUR)
    for other in ("latest-Fedora-Cloud-43", "Fedora-Cloud-43-20261399.0"):
        (koji.root / LOCATION / other).mkdir()
    # One that has only just begun has no STATUS.
    (koji.root / LOCATION / "Fedora-Cloud-43-20261120.4").mkdir()
    assert entries(lists(koji), THEN) == [early, late]


def test_missed_compose_is_stored_once(koji: Koji, store: Store, jobs: JobQueue) -> None:
    read = lists(koji)
    now = time.time()
    missed = compose(koji, time.strftime("Fedora-Cloud-43-%Y%m%d.0", time.gmtime(now)), now)
    old = compose(koji, "Fedora-Cloud-43-20200101.0", THEN - 9e7)
    later = DeferredEntries(store)
    for entry in ("compose:Fedora-Cloud-43-20261101.0", "build:1"):
        later.postpone(entry, DeferReason.SILENT, "no answer")
    for _ in range(2):
        assert CatchUp(store, jobs, read, config.CatchUp(), Event()).read_listing()
        assert (jobs.known(missed), jobs.known(old)) == (EntryState.QUEUED, EntryState.NEW)
    (look,) = Watermarks(store).readings()
    assert (look.name, look.error) == (read.names[0], None)
    # The location speaks; whether Koji does, that does not tell.
    due = {row.entry: row.due(time.time()) for row in later.all()}
    assert due == {"compose:Fedora-Cloud-43-20261101.0": True, "build:1": False}


def test_replay_shows_and_stores_composes(koji: Koji, jobs: JobQueue) -> None:
    missed = compose(koji, "Fedora-Cloud-43-20261120.0", THEN + HOUR)
    for dry_run in (True, False):
        (one,) = replay(lists(koji), jobs, THEN, dry_run=dry_run)
        assert (one.finished.entry, one.before) == (missed, EntryState.NEW)
        assert one.stored is not dry_run
    assert jobs.known(missed) is EntryState.QUEUED


def test_location_without_an_index_is_reported_and_delays_nothing(
    koji: Koji, store: Store, jobs: JobQueue
) -> None:
    assert CatchUp(store, jobs, lists(koji, "nothing"), config.CatchUp(), Event()).read_listing()
    (look,) = Watermarks(store).readings()
    assert "no index page" in (look.error or "")


def test_location_that_is_down_is_retried_soon(koji: Koji, store: Store, jobs: JobQueue) -> None:
    read = lists(koji)
    koji.close()
    assert not CatchUp(store, jobs, read, config.CatchUp(), Event()).read_listing()


Pages = Callable[[str], tuple[int, bytes]]
#: Of what a server shows, and when that was written.
Serve = Callable[..., ComposeListing]


@pytest.fixture
def location() -> Iterator[Serve]:
    """Serve the given answer to every request."""
    servers: list[ThreadingHTTPServer] = []

    def serve(pages: Pages, written: float | None = None) -> ComposeListing:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = pages(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if written is not None:
                    self.send_header("Last-Modified", formatdate(written, usegmt=True))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_of_it: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/composes"
        return ComposeListing(config.Composes(timeout=5), url)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "index",
    [
        b'<a href="../../etc/Fedora-43-20261120.0/">',
        b'<a href="http://127.0.0.1:1/Fedora-43-20261120.0/">',
        b'<a href="Fedora-43-20261120.0%2f..">',
        b'<a href="Fedora-43-20261120.0/STATUS">',
        b'<img src="Fedora-43-20261120.0/">',
        b"<a href><a href=''><a href=\"<a\">",
        b"\x00\xff\xfe<!DOCTYPE [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>&x;",
        b"",
    ],
)
def test_links_that_lead_elsewhere_are_not_followed(location: Serve, index: bytes) -> None:
    asked: list[str] = []

    def pages(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, index

    assert entries(location(pages), THEN) == []
    assert asked == ["/composes/"]


def test_compose_without_a_finish_time_is_left_out(
    location: Serve,
) -> None:
    def pages(path: str) -> tuple[int, bytes]:
        if path.endswith("STATUS"):
            return 200, b"FINISHED\n"
        return 200, b'<a href="Fedora-43-20261120.0/">'

    assert entries(location(pages), THEN) == []


@pytest.mark.parametrize(
    ("status", "body", "raises"), [(200, b"<html>" * 500, False), (503, b"", True)]
)
def test_compose_whose_status_cannot_be_read_hides_no_other(
    location: Serve, status: int, body: bytes, raises: bool
) -> None:
    bad, good = "Fedora-43-20261120.0", "Fedora-43-20261120.1"

    def pages(path: str) -> tuple[int, bytes]:
        if path.endswith("STATUS"):
            return (status, body) if bad in path else (200, b"FINISHED\n")
        return 200, f'<a href="{bad}/"><a href="{good}/">'.encode()

    read = location(pages, THEN + HOUR)
    found = read.since(read.names[0], THEN)
    page = next(found)
    assert [one.entry for one in page.found] == [f"compose:{good}"]
    # What was not told may have finished before what was: it is looked for again.
    assert (page.until == THEN) is raises
    if raises:
        with pytest.raises(SourceUnavailable, match="503"):
            next(found)
    assert list(found) == []


@pytest.mark.parametrize(
    "line",
    [
        '<img src="x"><a href="{}/">{}/</a>   20-Nov-2026 05:00   -',
        "<tr><td><A class=\"x\" HREF='./none'></A><a\nhref='{}'>{}</a></td></tr>",
        "<li><a href={}/> {}</a>",
        '<a title="later" href="{}">{}</a>',
    ],
)
def test_links_are_found_on_the_pages_of_any_server(line: str) -> None:
    names = [f"Fedora-Cloud-43-202611{day}.n.0" for day in range(10, 30)]
    page = "<!DOCTYPE html><html><!-- index\n" + "\n".join(line.format(n, n) for n in names)
    assert links(page) == set(names)


def test_page_is_read_in_time_in_proportion_to_its_length() -> None:
    """Pages of links that never end: each begins where the one before is still looked at."""

    def seconds(length: int) -> float:
        page = ("<a " * length) + ("<a href='" * length) + "<a " + "x" * length
        began = time.process_time()
        assert links(page) == set()
        return time.process_time() - began

    seconds(1000)
    # 64 times as long: by the square it would be 4096 times.
    assert seconds(64_000) < 64 * 10 * max(seconds(1000), 0.001)


def test_reading_of_a_slow_location_ends_with_an_error(
    location: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedimg.sources.compose_listing._LISTING_SECONDS", 0.3)
    asked: list[str] = []

    def pages(path: str) -> tuple[int, bytes]:
        if not path.endswith("STATUS"):
            return 200, b"".join(b'<a href="Fedora-43-20261120.%d/">' % n for n in range(100))
        asked.append(path)
        time.sleep(0.1)
        return 200, b"FINISHED"

    read = location(pages, THEN + HOUR)
    found = read.since(read.names[0], THEN)
    page = next(found)
    assert page.until == THEN
    assert 0 < len(page.found) == len(asked) < 100
    with pytest.raises(SourceUnavailable, match="were not read"):
        next(found)


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (503, b"", SourceUnavailable),
        (200, b"x" * (5 * 1024 * 1024), SourceUnavailable),
        (403, b"", LookupRefused),
    ],
)
def test_index_that_cannot_be_read_is_an_error(
    location: Serve, status: int, body: bytes, raised: type[Exception]
) -> None:
    with pytest.raises(raised):
        location(lambda _path: (status, body)).now()
