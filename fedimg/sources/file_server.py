"""Read files of a file server over HTTP, and restrict its redirects to trusted hosts."""

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

#: Most redirects in a row that are followed.
MOST_REDIRECTS = 5
#: Longest URL that is requested, in characters; web servers accept request lines of 8 KiB.
LONGEST_ADDRESS = 8000

#: Scheme, host and port of a URL, in a form that all programs read in the same way.
_AUTHORITY = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(:[0-9]{1,5})?(?=[/?#]|\Z)"
)


class RedirectRefused(QuotedError):
    """A URL must not be requested; the text says why, without the path of a redirect's target."""


@dataclass(frozen=True)
class Trusted:
    """The hosts to which a file server may redirect, beside itself, and that may use plain http.

    `plain_http` are hosts that may use http where https is required: in a redirect from https, and
    everywhere if `https_alone`.
    """

    redirects: Collection[str] = ()
    plain_http: Collection[str] = ()
    https_alone: bool = False

    @classmethod
    def of(cls, settings: EC2, image: RawImage) -> Trusted:
        """Return the trusted hosts for an image, by the settings."""
        return cls(
            redirects=settings.redirect_hosts,
            plain_http=settings.plain_http_hosts,
            # Without a checksum only https protects the bytes, and no person chose the URL.
            https_alone=image.checksum is None and not image.given_by_hand,
        )

    def refuse_untrusted(self, url: str) -> None:
        """Raise RedirectRefused when an image's own URL must not be requested."""
        if len(url) > LONGEST_ADDRESS:
            raise RedirectRefused(
                f"the URL {url[:80]}… has {len(url)} characters, more than the {LONGEST_ADDRESS} "
                "that can be requested"
            )
        parts = _AUTHORITY.match(url)
        if not parts:
            raise RedirectRefused(f"{url} is not an http or https address")
        if self.https_alone and not self._may_be_plain(parts):
            raise RedirectRefused(
                f"the image {url} has no checksum, and anybody on the network could change it over "
                "http; serve it over https, or add its host to ec2.plain_http_hosts in the "
                "configuration"
            )

    def refuse_untrusted_redirect(self, url: str, asked: str, target: str) -> None:
        """Raise RedirectRefused when `asked`, reached from `url`, may not redirect to `target`."""
        parts = _AUTHORITY.match(target)
        if not parts or not target.isprintable() or " " in target:
            raise RedirectRefused(f"{url} redirects to something that is not an http or https URL")
        if len(requote_uri(target)) > LONGEST_ADDRESS:
            raise RedirectRefused(
                f"{url} redirects to a URL of {len(requote_uri(target))} characters, more than the "
                f"{LONGEST_ADDRESS} that can be requested"
            )
        host = _host(parts)
        if host not in {urlsplit(url).hostname, *map(str.lower, self.redirects)}:
            raise RedirectRefused(
                f"{url} redirects to {host}, which is not trusted: if it should be, add it to "
                "ec2.redirect_hosts in the configuration"
            )
        needed = self.https_alone or asked.startswith("https:")
        if needed and not self._may_be_plain(parts):
            raise RedirectRefused(
                f"{url} redirects from https to {host} over http, where anybody on the network "
                "could change the file: if that is acceptable, add the host to "
                "ec2.plain_http_hosts in the configuration"
            )

    def _may_be_plain(self, parts: re.Match[str]) -> bool:
        return parts["scheme"] == "https" or _host(parts) in map(str.lower, self.plain_http)


class FileServer(requests.Session):
    """A session that follows redirects of a URL's own host to itself, and to trusted hosts.

    Any other redirect raises RedirectRefused before that host is contacted: somebody who can change
    the answers of Koji's file server must not choose the hosts that fedimg and its instances
    contact.
    """

    def __init__(self, url: str, trusted: Trusted) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        trusted.refuse_untrusted(url)
        self._url = url
        self._trusted = trusted

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the target of a redirect; None without one. Raises RedirectRefused."""
        try:
            target = super().get_redirect_target(resp)
            absolute = None if target is None else urljoin(resp.url, target)
        except ValueError as error:
            # An invalid IPv6 address, say, or bytes that are not text.
            raise RedirectRefused(
                f"{self._url} redirects to something that is not a URL"
            ) from error
        if absolute is not None:
            self._trusted.refuse_untrusted_redirect(self._url, resp.url, absolute)
        return target


def reason(error: BaseException) -> str:
    """Return why an answer is missing or incomplete, without the URL that failed.

    The errors of requests and urllib3 quote the whole URL, which may be a signed one.
    """
    if isinstance(error, requests.TooManyRedirects):
        return f"it redirects more than {MOST_REDIRECTS} times in a row"
    causes = list(_causes(error))
    if any(isinstance(each, (requests.exceptions.SSLError, SSLError)) for each in causes):
        return "the server's certificate is not valid for its name, or TLS failed"
    # urllib3 derives the error of a refused connection from that of a timeout.
    timeouts = [each for each in causes if not isinstance(each, NewConnectionError)]
    if any(isinstance(each, (requests.Timeout, HTTPTimeout, TimeoutError)) for each in timeouts):
        return "the server did not answer in time"
    for each in causes:
        if isinstance(each, OSError) and each.errno and each.strerror:
            return each.strerror
    if isinstance(error, (requests.ConnectionError, ProtocolError)):
        return "the connection ended before the answer was complete"
    return "the server's answer cannot be read"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _host(parts: re.Match[str]) -> str:
    return parts["host"].strip("[]").lower()
