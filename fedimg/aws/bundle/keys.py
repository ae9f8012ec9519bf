"""Read the keys and certificates of bundles, and encrypt and sign with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedimg.aws.bundle.stream import ContentKey
from fedimg.process import private_file
from fedimg.process.private_file import NotPrivate

#: The longest file that is read, in bytes; a key or certificate of 4096 bits has about 3300.
_MOST_BYTES = 64 * 1024


class KeysUnusable(Exception):
    """A key or certificate cannot be used; the text says which one, and what to do."""


@dataclass(frozen=True)
class BundleKeys:
    """The signing key, the public half of it that its certificate has, and EC2's public key."""

    signing: RSAPrivateKey = field(repr=False)
    user: RSAPublicKey
    ec2: RSAPublicKey

    def content_key(self, bundle: str) -> ContentKey:
        """Return the AES key of a bundle, named by all that its bytes depend on.

        It is derived from the signing key, so that no file and no database has it, and a repeated
        pass makes the same parts.
        """
        return ContentKey.of(self.passphrase(bundle))

    def passphrase(self, bundle: str) -> str:
        """Return the text in hex digits from which a bundle's AES key is made."""
        secret = self.signing.private_bytes(
            Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        info = f"fedimg bundle {bundle}".encode()
        return HKDF(hashes.SHA256(), length=32, salt=None, info=info).derive(secret).hex()

    def for_ec2(self, secret: bytes) -> str:
        """Return a secret, in hex digits, encrypted for EC2, in hex digits again."""
        return _encrypted(self.ec2, secret)

    def for_user(self, secret: bytes) -> str:
        """Return a secret, in hex digits, encrypted for the signing key's owner."""
        return _encrypted(self.user, secret)

    def sign(self, text: bytes) -> str:
        """Return the signature of a text in hex digits. The format's is RSA with SHA-1."""
        return self.signing.sign(text, PKCS1v15(), hashes.SHA1()).hex()


def read(signing_key: Path, certificate: Path, ec2_certificate: Path) -> BundleKeys:
    """Return the keys of three PEM files: an RSA key, its certificate, and EC2's certificate.

    Raises KeysUnusable when one of them cannot be read, is no such thing, when others can read the
    signing key, or when the certificate is another key's.
    """
    try:
        content = private_file.read(signing_key, "the bundles' signing key", most=_MOST_BYTES)
    except NotPrivate as error:
        raise KeysUnusable(str(error)) from error
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeysUnusable(
            f"{signing_key} holds no private key that can be read: it has to be an RSA key in PEM "
            "without a password"
        ) from error
    if not isinstance(key, RSAPrivateKey):
        raise KeysUnusable(f"{signing_key} holds no RSA key, which EC2 asks for")
    user = _public_key(certificate, "the signing key's certificate")
    if user.public_numbers() != key.public_key().public_numbers():
        raise KeysUnusable(
            f"the certificate {certificate} is not that of the signing key {signing_key}"
        )
    return BundleKeys(key, user, _public_key(ec2_certificate, "EC2's certificate"))


def _public_key(path: Path, what: str) -> RSAPublicKey:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise KeysUnusable(f"cannot read {what} {path}: {error.strerror}") from error
    try:
        key = x509.load_pem_x509_certificate(content).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeysUnusable(f"{path} holds no certificate in PEM; it should be {what}") from error
    if not isinstance(key, RSAPublicKey):
        raise KeysUnusable(f"{what} {path} has no RSA key")
    return key


def _encrypted(key: RSAPublicKey, secret: bytes) -> str:
    return key.encrypt(secret.hex().encode(), PKCS1v15()).hex()
