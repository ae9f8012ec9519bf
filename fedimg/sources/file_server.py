"""The HTTP session in which a file server's files are read, and where it may send its clients."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import requote_uri
from urllib3.exceptions import NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from fedimg.config import EC2
from fedimg.images import RawImage
from fedimg.untrusted.quoting import QuotedError

#: How often in a row a server may send its clients elsewhere.
MOST_REDIRECTS = 5
#: The longest address that is asked, in characters; web servers take 8 KiB of a request's line.
LONGEST_ADDRESS = 8000

#: Whom an address names, in a form that no two programs read differently.
_AUTHORITY = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(:[0-9]{1,5})?(?=[/?#]|\Z)"
)


class RedirectRefused(QuotedError):
    """An address is none that may be asked; the text says why, and never where it led."""


@dataclass(frozen=True)
class Trusted:
    """Whom a file server may redirect its clients to, beside itself, and who may use plain http.

    `plain_http` are hosts that are read over http where https would be needed: behind a redirect
    from https, and, where it is `https_alone`, at all.
    """

    redirects: Collection[str] = ()
    plain_http: Collection[str] = ()
    https_alone: bool = False

    @classmethod
    def of(cls, settings: EC2, image: RawImage) -> Trusted:
        """Return what the settings say for an image."""
        return cls(
            redirects=settings.redirect_hosts,
            plain_http=settings.plain_http_hosts,
            # Nothing else vouches for its bytes, and no person gave the address.
            https_alone=image.checksum is None and not image.given_by_hand,
        )

    def check(self, url: str) -> None:
        """Raise RedirectRefused when the address of an image must not be asked itself."""
        if len(url) > LONGEST_ADDRESS:
            raise RedirectRefused(
                f"the address {url[:80]}… has {len(url)} characters, and {LONGEST_ADDRESS} is the "
                "most that can be asked for"
            )
        parts = _AUTHORITY.match(url)
        if not parts:
            raise RedirectRefused(f"{url} is not an http or https address")
        if self.https_alone and not self._may_be_plain(parts):
            raise RedirectRefused(
                f"{url} has no checksum, and http would let anybody on the way change it; serve it "
                "over https, or name its host in ec2.plain_http_hosts in the configuration"
            )

    def check_redirect(self, url: str, asked: str, target: str) -> None:
        """Raise RedirectRefused when what `url` led to, `asked`, may not lead on to `target`."""
        there = _AUTHORITY.match(target)
        if not there or not target.isprintable() or " " in target:
            raise RedirectRefused(f"{url} redirects to something that is not an http address")
        if len(requote_uri(target)) > LONGEST_ADDRESS:
            raise RedirectRefused(
                f"{url} redirects to an address of {len(requote_uri(target))} characters, and "
                f"{LONGEST_ADDRESS} is the most that can be asked for"
            )
        host = _host(there)
        if host not in {urlsplit(url).hostname, *map(str.lower, self.redirects)}:
            raise RedirectRefused(
                f"{url} redirects to {host}, which is neither its own host nor one of "
                "ec2.redirect_hosts in the configuration"
            )
        needed = self.https_alone or asked.startswith("https:")
        if needed and not self._may_be_plain(there):
            raise RedirectRefused(
                f"{url} redirects from https to {host} over http, where anybody on the way could "
                "change the file; ec2.plain_http_hosts in the configuration would allow that host"
            )

    def _may_be_plain(self, parts: re.Match[str]) -> bool:
        return parts["scheme"] == "https" or _host(parts) in map(str.lower, self.plain_http)


class FileServer(requests.Session):
    """A session that follows redirects of a URL's own host to itself, and to trusted hosts.

    Any other redirect raises RedirectRefused before anything is asked of that host: whoever can
    change what Koji's file server answers should not choose whom fedimg and its instances ask.
    """

    def __init__(self, url: str, trusted: Trusted) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        trusted.check(url)
        self._url = url
        self._trusted = trusted

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer sends its client, when that is allowed."""
        try:
            target = super().get_redirect_target(resp)
            there = None if target is None else urljoin(resp.url, target)
        except ValueError as error:
            # A host that is no IPv6 address, say, or bytes that are no text.
            raise RedirectRefused(f"{self._url} redirects to something that is no URL") from error
        if there is not None:
            self._trusted.check_redirect(self._url, resp.url, there)
        return target


def reason(error: BaseException) -> str:
    """Return why an answer did not come or did not come whole, without the address that failed.

    What requests and urllib3 say quotes the whole of it, which a server may have signed.
    """
    if isinstance(error, requests.TooManyRedirects):
        return f"it redirects more than {MOST_REDIRECTS} times"
    causes = list(_causes(error))
    if any(isinstance(each, (requests.exceptions.SSLError, SSLError)) for each in causes):
        return "its server's certificate is not valid for it, or TLS with it failed"
    # A connection that was refused is a time-out by its kind, and none.
    late = [each for each in causes if not isinstance(each, NewConnectionError)]
    if any(isinstance(each, (requests.Timeout, HTTPTimeout, TimeoutError)) for each in late):
        return "its server did not answer in time"
    for each in causes:
        if isinstance(each, OSError) and each.errno and each.strerror:
            return each.strerror
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        return "the connection ended before the answer did"
    return "its server's answer cannot be read"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _host(parts: re.Match[str]) -> str:
    return parts["host"].strip("[]").lower()
