"""`python -m lab act`: the actions of a site's control page, by command line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lab.site import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), ("us-east-1",)) as site:
        yield site


def act(site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lab", "act", "--state", site.state, *arguments],
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ},
        capture_output=True,
        text=True,
    )


def listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_ec2_goes_down_and_comes_up_again(site: Site) -> None:
    assert act(site, "ec2.down").returncode == 0
    assert not listens(site.ec2.url)
    assert act(site, "ec2.up").returncode == 0
    assert listens(site.ec2.url)


def test_arguments_are_json_or_texts(site: Site) -> None:
    done = act(site, "bus.publish", "topic=build.state.change", 'message={"a": 1}')
    assert (done.returncode, done.stderr) == (0, "")
    (message,) = json.loads(done.stdout)
    assert message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ec2.dwon"], "no action 'ec2.dwon'; there are koji.add_build"),
        (["ec2.down", "now"], "'now' is no argument: write NAME=VALUE"),
        (["ec2.down", "x=1"], "ec2.down: "),
    ],
)
def test_action_that_fails_is_reported(site: Site, arguments: list[str], said: str) -> None:
    done = act(site, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
