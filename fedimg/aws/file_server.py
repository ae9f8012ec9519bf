"""The HTTP session in which a file server's files are read, and where it may send its clients."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urljoin, urlsplit

import requests

#: How often in a row a server may send its clients elsewhere.
MOST_REDIRECTS = 5


class RedirectRefused(Exception):
    """The server sends its clients to a host that this site does not trust; the text says which."""


class FileServer(requests.Session):
    """A session that follows redirects of a URL's own host to itself, and to `trusted` hosts.

    Any other redirect raises RedirectRefused before anything is asked of that host: whoever can
    change what Koji's file server answers should not choose whom fedimg and its instances ask.
    """

    def __init__(self, url: str, trusted: Collection[str]) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        self._hosts = {urlsplit(url).hostname, *trusted}

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer sends its client, when that is allowed."""
        target = super().get_redirect_target(resp)
        if target is not None:
            host = urlsplit(urljoin(resp.url, target)).hostname
            if host is not None and host not in self._hosts:
                raise RedirectRefused(
                    f"{resp.url} redirects to {host}, which is neither its own host nor one of "
                    "ec2.redirect_hosts in the configuration"
                )
        return target
