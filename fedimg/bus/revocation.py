"""Read and verify the lists of revoked certificates (CRLs) in a file.

fedmsg itself takes an empty file to mean that no certificate is revoked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

_PEM = re.compile(r"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class NoList(ValueError):
    """A file holds no valid list of revoked certificates; the text says why."""


@dataclass(frozen=True)
class RevocationList:
    """One list: its issuer, and when a newer list is due; None when the list does not say."""

    issuer: str
    next_update: datetime | None


def lists(text: str, authority: str) -> list[RevocationList]:
    """Return the lists in a file's text, each signed by one of the authority's certificates.

    `text` and `authority` are PEM. Raises NoList when the file holds no list, or a list that cannot
    be parsed or verified.
    """
    try:
        certificates = x509.load_pem_x509_certificates(authority.encode())
    except ValueError as error:
        raise NoList(
            f"the file of the certificate authority holds no certificate: {error}"
        ) from error
    verified = [_verified(match.group(), certificates) for match in _PEM.finditer(text)]
    if not verified:
        raise NoList("the file holds no list of revoked certificates")
    return verified


def _verified(text: str, certificates: list[x509.Certificate]) -> RevocationList:
    try:
        crl = x509.load_pem_x509_crl(text.encode())
        issuer = crl.issuer.rfc4514_string()
        next_update = crl.next_update_utc
    except ValueError as error:
        raise NoList(
            f"the file holds a list of revoked certificates that cannot be read: {error}"
        ) from error
    if not any(_signed(crl, each) for each in certificates if each.subject == crl.issuer):
        raise NoList(
            f"the list of revoked certificates issued by {ascii(issuer)[1:-1]:.100} is not signed "
            "by the certificate authority of the bus"
        )
    return RevocationList(issuer, next_update)


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def left(crl: RevocationList) -> float | None:
    """Return the seconds until a newer list is due; None when the list does not say."""
    if crl.next_update is None:
        return None
    return (crl.next_update - datetime.now(UTC)).total_seconds()
