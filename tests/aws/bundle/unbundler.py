"""An unbundler made of the commands of OpenSSL and tar, which shares no line with fedimg."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


def run(*command: object, given: bytes = b"") -> bytes:
    """Run a command; return its standard output, of which a failure is an error."""
    ran = subprocess.run([str(each) for each in command], input=given, capture_output=True)
    assert ran.returncode == 0, (command[:3], ran.stderr)
    return ran.stdout


@dataclass(frozen=True)
class Pair:
    """An RSA key and its certificate, as files of OpenSSL's."""

    key: Path
    certificate: Path


def pair(folder: Path, name: str) -> Pair:
    """Make a key of 2048 bits, readable by its owner alone, and a certificate of its own."""
    made = Pair(folder / f"{name}.key.pem", folder / f"{name}.cert.pem")
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj",
        f"/CN={name}", "-keyout", made.key, "-out", made.certificate)  # fmt: skip
    made.key.chmod(0o600)
    return made


def sha1(data: bytes) -> str:
    return run("openssl", "dgst", "-sha1", "-r", given=data).split()[0].decode()


def unbundle(
    manifest: bytes,
    part: Callable[[str], bytes],
    user: Pair,
    reader: Path,
    whose: str,
    folder: Path,
) -> bytes:
    """Return the image's bytes, after each statement of the manifest was compared with them.

    `whose` is "ec2" or "user", whose encrypted key `reader`, a private key's file, can read.
    """
    root = ElementTree.fromstring(manifest)
    assert root.findtext("version") == "2007-10-10"
    _check_signature(manifest, root, user, folder)
    image = root.find("image")
    assert image is not None
    assert [each.tag for each in image] == [
        "name", "user", "type", "digest", "size", "bundled_size", "ec2_encrypted_key",
        "user_encrypted_key", "ec2_encrypted_iv", "user_encrypted_iv", "parts",
    ]  # fmt: skip

    def secret(name: str) -> str:
        encrypted = bytes.fromhex(image.findtext(f"{whose}_encrypted_{name}", ""))
        return run("openssl", "pkeyutl", "-decrypt", "-inkey", reader, "-pkeyopt",
                   "rsa_padding_mode:pkcs1", given=encrypted).decode()  # fmt: skip

    data = _parts(image, part)
    assert len(data) == int(image.findtext("bundled_size", ""))
    packed = run("openssl", "enc", "-d", "-aes-128-cbc", "-K", secret("key"), "-iv", secret("iv"),
                 given=data)  # fmt: skip
    archive = run("gzip", "-dc", given=packed)
    assert sha1(archive) == image.findtext("digest")
    assert run("tar", "-t", given=archive).decode().split() == [image.findtext("name")]
    raw = run("tar", "-xO", given=archive)
    assert len(raw) == int(image.findtext("size", ""))
    return raw


def _parts(image: ElementTree.Element, part: Callable[[str], bytes]) -> bytes:
    listed = image.findall("parts/part")
    parts = image.find("parts")
    assert parts is not None
    assert int(parts.get("count", "")) == len(listed)
    pieces = []
    for index, each in enumerate(listed):
        assert each.get("index") == str(index)
        piece = part(each.findtext("filename", ""))
        assert sha1(piece) == each.findtext("digest")
        pieces.append(piece)
    assert all(len(piece) == 10 * 1024 * 1024 for piece in pieces[:-1])
    return b"".join(pieces)


def _check_signature(manifest: bytes, root: ElementTree.Element, user: Pair, folder: Path) -> None:
    found = re.search(
        rb"(<machine_configuration>.*</machine_configuration>)(<image>.*</image>)", manifest
    )
    assert found
    signature, public = folder / "signature", folder / "public.pem"
    signature.write_bytes(bytes.fromhex(root.findtext("signature", "")))
    public.write_bytes(run("openssl", "x509", "-in", user.certificate, "-noout", "-pubkey"))
    verified = run("openssl", "dgst", "-sha1", "-verify", public, "-signature", signature,
                   given=found[1] + found[2])  # fmt: skip
    assert verified == b"Verified OK\n"
