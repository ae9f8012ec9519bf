"""Koji's file server: whatever lies in one folder, over HTTP with HEAD and Range, read only.

A folder asked for with a slash is answered with an index page, as Apache makes one.
"""

import html
import os
import re
import urllib.parse
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

# Big enough to keep system calls few, small enough that many clients cost little memory.
CHUNK = 256 * 1024


@dataclass(frozen=True)
class Span:
    """Bytes `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def send_file(request: BaseHTTPRequestHandler, root: Path, path: str) -> None:
    """Answer `request`, a HEAD or GET, with the file at the URL path `path` under `root`."""
    found = _inside(root, path)
    if found is not None and found.is_dir():
        _send_index(request, found)
        return
    if found is None:
        request.send_error(HTTPStatus.NOT_FOUND, "no such file")
        return
    with found.open("rb") as source:
        about = os.fstat(source.fileno())
        tag = f'"{about.st_mtime_ns:x}-{about.st_size:x}"'
        if request.headers.get("If-None-Match") == tag:
            request.send_response(HTTPStatus.NOT_MODIFIED)
            request.send_header("ETag", tag)
            request.end_headers()
            return
        whole = Span(0, about.st_size - 1)
        # A client that resumes says which version it has; of another one it needs all bytes.
        resumable = request.headers.get("If-Range", tag) == tag
        asked = request.headers.get("Range") if resumable else None
        try:
            part = parse_range(asked, about.st_size)
        except ValueError:
            request.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            request.send_header("Content-Range", f"bytes */{about.st_size}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
        if part:
            request.send_header("Content-Range", f"bytes {part.first}-{part.last}/{whole.length}")
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str((part or whole).length))
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("ETag", tag)
        request.send_header("Last-Modified", formatdate(about.st_mtime, usegmt=True))
        request.end_headers()
        if request.command == "GET":
            _stream(request, source.fileno(), part or whole)


def _send_index(request: BaseHTTPRequestHandler, folder: Path) -> None:
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in folder.iterdir())
    lines = [f'<a href="{urllib.parse.quote(name)}">{html.escape(name)}</a>' for name in names]
    page = "\n".join(["<html><body><pre>", '<a href="../">Parent Directory</a>', *lines]).encode()
    request.send_response(HTTPStatus.OK)
    request.send_header("Content-Type", "text/html;charset=UTF-8")
    request.send_header("Content-Length", str(len(page)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(page)


def parse_range(header: str | None, size: int) -> Span | None:
    """Return the one span that a Range header asks of `size` bytes; None means all of them.

    Several spans, or a header that is no range of bytes, also mean all, as RFC 9110 allows.
    Raises ValueError for a span that lies outside the file.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        span = Span(max(0, size - int(last)), size - 1)
    else:
        span = Span(int(first), min(int(last), size - 1) if last else size - 1)
    if last and first and int(last) < int(first):
        return None
    if span.length <= 0:
        raise ValueError(f"{header} lies outside of {size} bytes")
    return span


def _inside(root: Path, path: str) -> Path | None:
    """Find the file at a URL path under `root`, links followed, or the folder if the path ends with
    a slash.
    """
    plain = urllib.parse.unquote(path)
    if "\0" in plain:
        return None
    found = (root / plain.lstrip("/")).resolve()
    there = found.is_dir() if plain.endswith("/") else found.is_file()
    return found if there and found.is_relative_to(root.resolve()) else None


def _stream(request: BaseHTTPRequestHandler, source: int, part: Span) -> None:
    offset = part.first
    while offset <= part.last:
        block = os.pread(source, min(CHUNK, part.last - offset + 1), offset)
        if not block:
            # The file became shorter meanwhile: end the connection, so that the client notices.
            request.close_connection = True
            return
        request.wfile.write(block)
        offset += len(block)
