"""A site's settings, and requests to the application for operators without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from fedimg.config import Settings, Web
from fedimg.store.reader import Reader
from fedimg.store.store import Store
from fedimg.web.operations import operations


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


Get = Callable[..., Answer]


def ask(app, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """Send one request to an application, as uvicorn does."""
    parts = urlsplit(path)
    given = {"host": "localhost:8081", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8081),
    }
    sent: list[Message] = []
    received: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not received:
            # A client that waits for the answer says nothing more.
            await asyncio.Event().wait()
        return received.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = next(each for each in sent if each["type"] == "http.response.start")
    # A server sends no body in answer to HEAD, whatever the application gives it.
    body = b"" if method == "HEAD" else b"".join(each.get("body", b"") for each in sent[1:])
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], names, body)


@pytest.fixture
def reader(store: Store) -> Iterator[Reader]:
    """Read the database of `store`."""
    url = store.engine.url.render_as_string(hide_password=False) if store.shared else ""
    reader = Reader(store.directory, url)
    yield reader
    reader.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_directory=tmp_path / "state", web=Web(hosts=["localhost", "::1"]))


@pytest.fixture
def get(reader: Reader, settings: Settings) -> Get:
    """Ask the application for operators."""
    app = operations(settings, reader)
    return lambda path, **given: ask(app, path, **given)
