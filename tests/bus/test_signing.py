"""Signing beside fedmsg's own, with real keys."""

import copy
import socket
from pathlib import Path
from typing import Any

import fedmsg.crypto.x509_ng
import pytest

from fedimg.bus import signing
from tests.bus.certificates import write_certificate

MESSAGE = {"topic": "org.fedoraproject.prod.fedimg.image.upload", "msg": {"é": [1, None]}, "i": 1}


def signed(config: dict[str, Any]) -> dict[str, Any]:
    message = copy.deepcopy(MESSAGE)
    signing.sign(message, config)
    return message


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    write_certificate(tmp_path, "fedimg")
    host = socket.gethostname().split(".", 1)[0]
    return {"ssldir": str(tmp_path), "certnames": {f"shell.{host}": "fedimg"}}


def test_signature_equals_fedmsgs_byte_for_byte(config: dict[str, Any]) -> None:
    theirs = fedmsg.crypto.x509_ng.sign(copy.deepcopy(MESSAGE), config["ssldir"], "fedimg")
    assert signed(config) == theirs
    # The second one is made with the key that the first has read.
    assert signed(config) == theirs


def test_the_prefix_of_the_configuration_chooses_the_key(
    config: dict[str, Any], tmp_path: Path
) -> None:
    write_certificate(tmp_path, "other")
    host = socket.gethostname().split(".", 1)[0]
    config["cert_prefix"] = "fedimg"
    config["certnames"][f"fedimg.{host}"] = "other"
    theirs = fedmsg.crypto.x509_ng.sign(copy.deepcopy(MESSAGE), config["ssldir"], "other")
    assert signed(config) == theirs


def test_a_renewed_key_is_used_at_once(config: dict[str, Any], tmp_path: Path) -> None:
    before = signed(config)
    write_certificate(tmp_path, "fedimg")
    theirs = fedmsg.crypto.x509_ng.sign(copy.deepcopy(MESSAGE), config["ssldir"], "fedimg")
    assert signed(config) == theirs != before


def test_a_host_without_a_key_is_an_error(config: dict[str, Any]) -> None:
    config["certnames"] = {}
    with pytest.raises(KeyError, match="shell"):
        signed(config)
