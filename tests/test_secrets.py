import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedimg import config
from fedimg.exceptions import EC2UtilityException
from fedimg.images import Architecture, RawImage
from fedimg.secrets import hide

FEDIMG = Path(sys.executable).parent / "fedimg"
KEY = """-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEA
c2VjcmV0
-----END OPENSSH PRIVATE KEY-----"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing at all", "nothing at all"),
        ("https://koji.example/a@b", "https://koji.example/a@b"),
        ("https://user:hunter2@proxy:8080 is down", "https://[hidden]@proxy:8080 is down"),
        ("postgresql+psycopg://fedimg:hunter2@db/f", "postgresql+psycopg://[hidden]@db/f"),
        ("a://u:x@h b://v:y@h", "a://[hidden]@h b://[hidden]@h"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_passwords_of_urls_are_hidden(text: str, shown: str) -> None:
    assert hide(text) == shown


@pytest.mark.parametrize("start", [0, 10, 40, 60])
@pytest.mark.parametrize("end", [None, -10, -40])
def test_private_keys_are_hidden_whole_or_cut(start: int, end: int | None) -> None:
    # A tail begins, or ends, anywhere.
    text = f"before\n{KEY}\nafter"[start : len(KEY) + 7 + end if end else None]
    shown = hide(text)
    if "PRIVATE KEY-----" in text:
        assert "c2VjcmV0" not in shown
    assert shown.endswith("after") is text.endswith("after")


@pytest.mark.parametrize("piece", ["-", "BEGIN ", "-----BEGIN ", "://", "://u:p", "-----END A"])
def test_nothing_takes_long(piece: str) -> None:
    text = piece * (2**21 // len(piece)) + "-----END PRIVATE KEY-----"
    began = time.process_time()
    hide(text)
    # Of the processor's time, whoever else is busy; what grows with the square would take hours.
    assert time.process_time() - began < 30


def test_errors_hide_what_libraries_quote() -> None:
    error = EC2UtilityException("cannot connect to proxy http://user:hunter2@proxy:3128")
    assert "hunter2" not in str(error)
    assert "hunter2" not in error.problem


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@koji.example/Fedora-Cloud-1.raw.xz",
        "https://user:hun/ter2@koji.example/Fedora-Cloud-1.raw.xz",
        "https://user:80hunter2@koji.example/hunter2",
    ],
)
def test_image_with_credentials_is_refused_without_a_word_of_them(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        RawImage.at(url, Architecture.X86_64, None)
    assert "ter2" not in str(refused.value)


def test_koji_with_credentials_is_refused_without_a_word_of_them(tmp_path: Path) -> None:
    path = tmp_path / "fedimg.toml"
    path.write_text('[koji]\nhub = "https://user:hunter2@koji.example/kojihub"\n')
    with pytest.raises(config.ConfigError, match="credentials") as refused:
        config.load(path)
    assert "hunter2" not in str(refused.value)


def test_command_that_failed_tells_no_password(tmp_path: Path) -> None:
    (tmp_path / "fedimg.toml").write_text('state_directory = "state"\n')
    ran = subprocess.run(
        [FEDIMG, "--json", "upload", "https://user:hunter2@koji.example/a.raw.xz"],
        env={**os.environ, "FEDIMG_CONFIG": str(tmp_path / "fedimg.toml")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert "credentials" in json.loads(ran.stdout)["error"]
    assert "hunter2" not in ran.stdout + ran.stderr
