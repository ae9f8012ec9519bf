import json
import os
import string
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from fedimg import config
from fedimg.exceptions import EC2UtilityException
from fedimg.images import Architecture, RawImage
from fedimg.untrusted.redaction import HIDDEN, hide

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


KEY_ID, SECRET = "AKIA" + "IOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "text",
    [
        f"aws_secret_access_key = {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"aws configure set aws_secret_access_key {SECRET}",
        f"{KEY_ID} {SECRET}",
        f"{KEY_ID}:{SECRET}",
        f"{KEY_ID}\n{SECRET}",
        f'{{"AccessKeyId": "{KEY_ID}", "SecretAccessKey": "{SECRET}"}}',
        f'{{\\"AccessKeyId\\": \\"{KEY_ID}\\", \\"SecretAccessKey\\": \\"{SECRET}\\"}}',
        f"<AccessKeyId>{KEY_ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>",
        f"aws_secret_access_key%3D{SECRET.replace('/', '%2F')}",
        f"AccessKeyId=ASIA{KEY_ID[4:]}&SecretAccessKey={SECRET.replace('/', '%2F')}",
        f"SessionToken: {SECRET}",
        f"export AWS_SESSION_TOKEN='{SECRET}'",
        f"a token of its own, IQoJb3JpZ2luX2VjEAAaCXVzLWVhc3{SECRET}, is shown",
        f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/1/us-east-1, Signature={SECRET}",
        f"authorization: Bearer {SECRET}",
        f"password: {SECRET}",
        f"db_password='{SECRET}'",
    ],
)
def test_keys_and_tokens_are_hidden_in_every_shape(text: str) -> None:
    shown = hide(text)
    assert SECRET[:10] not in shown
    assert SECRET[-10:] not in shown
    assert KEY_ID[4:] not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize("beginning", ["IQoJb3JpZ2lu", "FQoGZXIvYXdz", "FwoGZXIvYXdz"])
@pytest.mark.parametrize("end", [SECRET, SECRET[:7]], ids=["long", "short"])
def test_session_token_is_hidden_whatever_follows_its_beginning(beginning: str, end: str) -> None:
    # Twelve letters of Base64 are nine whole bytes: any letter may be the next.
    for letter in f"{string.ascii_letters}{string.digits}+/-_":
        shown = hide(f"a token, {beginning}{letter}{end}, by itself")
        assert shown == f"a token, {HIDDEN}, by itself"


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Signature=s3cr3t",
        "AWSAccessKeyId=c&Expires=1&Signature=s3cr3t%3D",
        "Policy=s3cr3t&Signature=s3cr3t&Key-Pair-Id=s3cr3t",
        "sv=2024-01-01&se=2026-01-01&sr=b&sp=r&sig=s3cr3t%3D",
        "token=s3cr3t",
        "X-Goog-Signature=s3cr3t",
    ],
)
@pytest.mark.parametrize(
    "shape", ["https://h/f?{}", "Max retries exceeded with url: /f?{} (x)", "<a href='/f?{}'>"]
)
def test_signed_queries_are_hidden(query: str, shape: str) -> None:
    assert "s3cr3t" not in hide(shape.format(query))
    encoded = quote(shape.format(query), safe="")
    assert "s3cr3t" not in hide(encoded)
    assert "s3cr3t" not in hide(quote(encoded, safe=""))


@pytest.mark.parametrize(
    "text",
    [
        "https://koji.example/koji/taskinfo?taskID=4",
        "InvalidClientTokenId: The security token included in the request is invalid",
        f"checksum: the file has sha256:{'ab' * 32} in place of md5:{'cd' * 16}",
        f"sha1 {'0f' * 20} of Fedora-Cloud-Base-28-1.1.x86_64.raw.xz",
        "a signal killed the command (out of memory?)",
    ],
)
def test_text_without_secrets_stays_unchanged(text: str) -> None:
    assert hide(text) == text


def test_openssh_key_is_hidden_without_its_frame() -> None:
    assert "c2VjcmV0" not in hide("b3BlbnNzaC1rZXktdjEA\nc2VjcmV0\n")


@pytest.mark.parametrize("start", [0, 10, 40, 60])
@pytest.mark.parametrize("end", [None, -10, -40])
def test_private_keys_are_hidden_whole_or_cut(start: int, end: int | None) -> None:
    # A tail begins, or ends, anywhere.
    text = f"before\n{KEY}\nafter"[start : len(KEY) + 7 + end if end else None]
    shown = hide(text)
    if "PRIVATE KEY-----" in text:
        assert "c2VjcmV0" not in shown
    assert shown.endswith("after") is text.endswith("after")


@pytest.mark.parametrize(
    "piece",
    [
        *("-", "BEGIN ", "-----BEGIN ", "://", "://u:p", "://a@", "-----END A", "token:", "?"),
        *("%3F", "AKIA", f"{KEY_ID} ", "password='", "authorization: ", "bearer a", "secret_"),
        *("b3BlbnNzaC1rZXktdjEA", "a_pass", "x-amz-", "secret_key "),
    ],
)
def test_redaction_takes_linear_time(piece: str) -> None:
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
def test_image_url_with_credentials_is_refused_without_quoting_them(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        RawImage.at(url, Architecture.X86_64, None)
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize("key", ["hub", "topurl"])
def test_koji_url_with_credentials_is_refused_without_quoting_them(
    tmp_path: Path, key: str
) -> None:
    path = tmp_path / "fedimg.toml"
    path.write_text(f'[koji]\n{key} = "https://user:hunter2@koji.example/kojihub"\n')
    with pytest.raises(config.ConfigError, match="credentials") as refused:
        config.load(path)
    assert "hunter2" not in str(refused.value)


@pytest.mark.process
def test_failed_command_prints_no_password(tmp_path: Path) -> None:
    (tmp_path / "fedimg.toml").write_text('state_directory = "state"\n')
    ran = subprocess.run(
        [FEDIMG, "--json", "upload", "https://user:hunter2@koji.example/a.raw.xz"],
        env={**os.environ, "FEDIMG_CONFIG": str(tmp_path / "fedimg.toml")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "credentials" in json.loads(ran.stdout)["error"]
    assert "hunter2" not in ran.stdout + ran.stderr
