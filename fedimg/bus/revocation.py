"""The lists of revoked certificates in a file: that they are lists, the authority's, and how fresh.

fedmsg takes an empty file for the word that nothing is checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

_PEM = re.compile(r"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


class NoList(ValueError):
    """A file holds no list of revoked certificates that could be relied on; the text says why."""


@dataclass(frozen=True)
class RevocationList:
    """One list: who issued it, and when a newer one must be there, if it says so."""

    issuer: str
    next_update: datetime | None


def lists(text: str, authority: str) -> list[RevocationList]:
    """Return the lists in a file's text, each signed by one of the authority's certificates.

    Raises NoList when there is none, or when one of them does not parse or does not verify.
    """
    try:
        certificates = x509.load_pem_x509_certificates(authority.encode())
    except ValueError as error:
        raise NoList(f"the authority's file holds no certificate: {error}") from error
    found = [_verified(each.group(), certificates) for each in _PEM.finditer(text)]
    if not found:
        raise NoList("it holds no list of revoked certificates")
    return found


def _verified(text: str, certificates: list[x509.Certificate]) -> RevocationList:
    try:
        found = x509.load_pem_x509_crl(text.encode())
        issuer = found.issuer.rfc4514_string()
        next_update = found.next_update_utc
    except ValueError as error:
        raise NoList(f"it holds a list that cannot be read: {error}") from error
    if not any(_signed(found, each) for each in certificates if each.subject == found.issuer):
        raise NoList(f"its list of {issuer!a:.100} is not signed by the bus's authority")
    return RevocationList(issuer, next_update)


def _signed(found: x509.CertificateRevocationList, by: x509.Certificate) -> bool:
    try:
        return found.is_signature_valid(by.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def left(found: RevocationList) -> float | None:
    """Return for how many seconds from now a list is good; None when it does not say."""
    if found.next_update is None:
        return None
    return (found.next_update - datetime.now(UTC)).total_seconds()
