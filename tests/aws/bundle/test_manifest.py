"""Test manifests, by an unbundler of OpenSSL's and tar's commands.

Follows fedimg/aws/bundle/keys.py and fedimg/aws/bundle/manifest.py.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from fedimg.aws.bundle import keys
from fedimg.aws.bundle.keys import BundleKeys, KeysUnusable
from fedimg.aws.bundle.manifest import manifest, manifest_name, part_name
from fedimg.aws.bundle.stream import BundleStream
from fedimg.images import Architecture
from tests.aws.bundle.unbundler import Pair, pair, run, unbundle

ACCOUNT = "123456789012"
NAME = "Fedora-Cloud-Base-41"

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    """Return the pairs of the bundle's owner and of EC2."""
    folder = tmp_path_factory.mktemp("pairs")
    return pair(folder, "owner"), pair(folder, "ec2")


def read(pairs: tuple[Pair, Pair]) -> BundleKeys:
    user, ec2 = pairs
    return keys.read(user.key, user.certificate, ec2.certificate)


def bundle(raw: bytes, made: BundleKeys) -> tuple[bytes, dict[str, bytes]]:
    """Return the manifest and the parts of an image, by their names."""
    key = made.content_key("job")
    stream = BundleStream(NAME, len(raw), key)
    parts = [*stream.add(raw), *stream.finish()]
    text = manifest(stream.bundled(), Architecture.X86_64, ACCOUNT, made, key)
    return text, {part_name(NAME, index): part for index, part in enumerate(parts)}


@pytest.mark.parametrize("whose", ["user", "ec2"])
def test_openssl_and_tar_unbundle_an_image(
    pairs: tuple[Pair, Pair], whose: str, tmp_path: Path
) -> None:
    raw = random.Random(3).randbytes(12 * 1024 * 1024 + 513)
    text, parts = bundle(raw, read(pairs))
    reader = pairs[["user", "ec2"].index(whose)].key
    assert unbundle(text, parts.__getitem__, pairs[0], reader, whose, tmp_path) == raw
    assert list(parts) == [f"{NAME}.part.00", f"{NAME}.part.01"]
    assert manifest_name(NAME) == f"{NAME}.manifest.xml"


def test_changed_manifest_does_not_have_the_signature(
    pairs: tuple[Pair, Pair], tmp_path: Path
) -> None:
    text, parts = bundle(b"disk", read(pairs))
    changed = text.replace(b"<size>4</size>", b"<size>5</size>")
    with pytest.raises(AssertionError, match="openssl"):
        unbundle(changed, parts.__getitem__, pairs[0], pairs[0].key, "user", tmp_path)


def test_key_of_a_bundle_is_derived_from_the_signing_key_and_the_name(
    pairs: tuple[Pair, Pair],
) -> None:
    made, other = read(pairs), read((pairs[1], pairs[1]))
    assert made.content_key("job") == read(pairs).content_key("job")
    assert len({made.content_key("job").key, made.content_key("2").key,
                other.content_key("job").key}) == 3  # fmt: skip
    assert len(made.content_key("job").key) == len(made.content_key("job").iv) == 16
    assert not re.search("BundleKeys.*signing", repr(made))
    assert made.content_key("job").key.hex() not in repr(made.content_key("job"))


def test_unusable_keys_are_refused_in_words(pairs: tuple[Pair, Pair], tmp_path: Path) -> None:
    user, ec2 = pairs
    with pytest.raises(KeysUnusable, match="is not that of the signing key"):
        keys.read(user.key, ec2.certificate, ec2.certificate)
    with pytest.raises(KeysUnusable, match="cannot read EC2's certificate .*: No such file"):
        keys.read(user.key, user.certificate, tmp_path / "none")
    with pytest.raises(KeysUnusable, match="holds no certificate in PEM"):
        keys.read(user.key, user.certificate, user.key)
    text, other = tmp_path / "text", tmp_path / "ed25519"
    text.write_text("no key")
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", other)
    for file in (text, other):
        file.chmod(0o600)
    with pytest.raises(KeysUnusable, match="holds no private key"):
        keys.read(text, user.certificate, ec2.certificate)
    with pytest.raises(KeysUnusable, match="holds no RSA key"):
        keys.read(other, user.certificate, ec2.certificate)
    copy = tmp_path / "copy"
    copy.write_bytes(user.key.read_bytes())
    copy.chmod(0o640)
    with pytest.raises(KeysUnusable, match="others may know it"):
        keys.read(copy, user.certificate, ec2.certificate)
