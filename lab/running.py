"""A site as other processes see it: found by its folder, asked for things, removed when over.

Loads nothing of what a site is made of, so that commands are quick.
"""

import fcntl
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A site's first file and, once all is ready, its last.
LOCK_FILE = "site.lock"
SITE_FILE = "site.json"

# Publishing waits for the message to come back, and a ledger is long; a machine may be busy.
CALL_SECONDS = 240.0


class SiteError(Exception):
    """The lab cannot do what was asked; the text says why."""


def read(state: Path) -> dict[str, Any]:
    """Read the description of the site in `state`. Raises SiteError when no site has been ready
    there.
    """
    try:
        told: dict[str, Any] = json.loads((state / SITE_FILE).read_text())
    except FileNotFoundError as error:
        raise SiteError(
            f"no site is ready in {state}; start one with python -m lab up --state {state}"
        ) from error
    return told


def call(site: Mapping[str, Any], action: str, **arguments: Any) -> Any:
    """Let the running site do one of the actions of lab.control. `site` is what `read` gave.

    Raises SiteError with the site's reason when it does not.
    """
    return _open(
        urllib.request.Request(
            site["control"] + action, json.dumps(arguments).encode(), _admission(site)
        )
    )


def ask(site: Mapping[str, Any], page: str) -> Any:
    """One of the pages that the site's EC2 has below /lab/, such as `ledger/live`."""
    return _open(urllib.request.Request(f"{site['ec2']}/lab/{page}", headers=_admission(site)))


def post(site: Mapping[str, Any], page: str) -> Any:
    """Do what one of those pages is for, such as `calls/reset`. Raises SiteError."""
    return _open(
        urllib.request.Request(f"{site['ec2']}/lab/{page}", b"", _admission(site), method="POST")
    )


def tell(site: Mapping[str, Any], page: str, value: Any) -> Any:
    """Put a value on one of those pages. Raises SiteError with the site's reason if refused."""
    return _open(
        urllib.request.Request(
            f"{site['ec2']}/lab/{page}",
            data=json.dumps(value).encode(),
            headers=_admission(site),
            method="PUT",
        )
    )


def _admission(site: Mapping[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {site['control_token']}"}


def remove(state: Path) -> None:
    """Remove a folder in which a site has run. Raises SiteError when it is another, or runs."""
    if not state.exists() or not any(state.iterdir()):
        return
    if not (state / LOCK_FILE).exists():
        raise SiteError(f"{state} is not empty and no lab site (no {LOCK_FILE}): not touched")
    with alone(state):
        shutil.rmtree(state)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Keep other sites out of the folder: there would be two writers of each file."""
    with (state / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = f"process {read(state)['pid']}" if (state / SITE_FILE).exists() else "starting"
            raise SiteError(f"a site already runs in {state}: {who}") from error
        yield


def _open(request: urllib.request.Request) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=CALL_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SiteError(error.read().decode(errors="replace")) from error
    except OSError as error:
        raise SiteError(
            f"no site answers at {request.full_url} ({error}); is it still up?"
        ) from error
