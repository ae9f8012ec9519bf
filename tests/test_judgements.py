"""docs/security.md's judgements of known vulnerabilities: nothing uses what these are about.

Follows docs/security.md.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.bindings.openssl.binding import Binding

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text()
#: What runs in fedimg's processes and uses cryptography or pyOpenSSL, or listens.
USERS = ("fedimg", "fedmsg", "moksha.hub", "fedora_messaging", "paramiko", "pika", "txzmq")
#: What the judged advisories are about, and how a program would use it.
USES = {
    "cryptography's own verifier": r"x509\.verification|x509 import verification|PolicyBuilder\(",
    "DTLS": r"DTLS|set_cookie_(generate|verify)_callback",
    "a server-name callback": r"set_tlsext_servername_callback",
    "names that are set": r"X509Name\(|get_subject\(\)\.\w+ *=|X509Req\(",
    "a TLS server": r"listenSSL|server_side *= *True|SSL4ServerEndpoint|start_server\([^)]*ssl",
}


def test_openssl_of_the_wheels_is_the_one_that_is_judged() -> None:
    name, number, month = re.match(  # type: ignore[union-attr]
        r"(OpenSSL) (\S+) \d+ (\w+ \d+)", backend.openssl_version_text()
    ).groups()
    assert (name, number, month) == ("OpenSSL", "3.3.2", "Sep 2024")
    assert f"{name} {number} of September 2024" in " ".join(PAGE.split())
    for package in ("cryptography", "pyopenssl"):
        named = set(re.findall(rf"(?m)^\| {package} (\S+) \|", PAGE))
        assert named == {version(package)}, package
    # "The bug came with 45.0.0".
    assert int(version("cryptography").split(".")[0]) < 45


def test_raw_public_keys_cannot_be_turned_on() -> None:
    """A program turns them on by SSL_set1_server_cert_type or its like, which has no binding."""
    functions = dir(Binding().lib)
    assert "SSL_CTX_new" in functions
    told = [name for name in functions if "cert_type" in name.lower()]
    assert [name for name in told if not name.startswith("SSL_OP_")] == []


@pytest.mark.process
def test_https_is_pythons_own_ssl() -> None:
    """In a process that has loaded all of fedimg, and fedmsg and fedora-messaging with it."""
    loaded = (
        "import importlib, pkgutil, ssl, urllib3, fedimg, fedmsg.crypto, fedora_messaging.api\n"
        "for each in pkgutil.walk_packages(fedimg.__path__, 'fedimg.'):\n"
        "    importlib.import_module(each.name)\n"
        "import urllib3.util.ssl_ as used, requests, botocore.httpsession\n"
        "print(used.SSLContext is ssl.SSLContext, urllib3.util.IS_PYOPENSSL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", loaded],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]


def test_ssh_agrees_on_no_binary_curve() -> None:
    offered = {
        *paramiko.Transport._preferred_kex,
        *paramiko.Transport._preferred_keys,
        *paramiko.Transport._preferred_pubkeys,
    }
    curves = {each for each in offered if "ec" in each.split("-")[0] or "curve" in each}
    assert curves
    known = re.compile(r"(ecdh-sha2|ecdsa-sha2)-nistp(256|384|521).*|curve25519-sha256.*")
    assert [each for each in curves if not known.fullmatch(each)] == []


@pytest.mark.parametrize("what", USES)
def test_no_code_uses_the_functions_of_the_judged_advisories(what: str) -> None:
    found = []
    looked_at = 0
    for name in USERS:
        file = importlib.import_module(name).__file__
        assert file
        package = Path(file).parent
        for path in package.rglob("*.py"):
            # Of the path inside of the package: a checkout may itself lie in a folder "tests".
            if "tests" not in path.relative_to(package).parts:
                looked_at += 1
                if re.search(USES[what], path.read_text()):
                    found.append(str(path))
    assert looked_at > 100
    assert found == []
