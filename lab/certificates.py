"""A certificate authority as a bus has one: a certificate a service, and a list of revoked ones.

Made as fedmsg's x509 backend wants them, who may send what is the bus's to say.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

# A site may be looked at again long after it was made.
LIFETIME = timedelta(days=3650)
# fedmsg signs by RSA alone, and checks the key anew each time: 44 ms of work with 2048 bits, 7 ms
# with these, which are too few for anything but a lab. The authority's own key is of a kind that is
# made in no time.
_RSA_BITS = 1024


class Authority:
    """One authority in `folder`: ca.crt, crl.pem, and NAME.crt with NAME.key for each service.

    What an earlier one has left there is used again.
    """

    def __init__(self, folder: Path, name: str = "lab") -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.crl = folder / "crl.pem"
        self._key_file = folder / "ca.key"
        self._issuer = _named(f"{name} certificate authority")
        folder.mkdir(parents=True, exist_ok=True)
        if self.crl.exists():
            self._key = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        _write_key(self._key_file, self._key)
        self.certificate.write_bytes(
            self._signed(
                self._issuer,
                self._key.public_key(),
                x509.BasicConstraints(ca=True, path_length=0),
            )
        )
        self._write_crl([])

    def issue(self, name: str) -> None:
        """Give the service `name` a key and a certificate, unless it has them."""
        if not (self.folder / f"{name}.crt").exists():
            key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
            self._certify(name, key)

    def issue_tls(self, name: str, *places: IPv4Address | str) -> None:
        """Make a certificate for TLS, which demands a stronger key: for a client, or a server at
        `places`.
        """
        if not (self.folder / f"{name}.crt").exists():
            self._certify(name, ec.generate_private_key(ec.SECP256R1()), places)

    def _certify(
        self,
        name: str,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        places: Sequence[IPv4Address | str] = (),
    ) -> None:
        _write_key(self.folder / f"{name}.key", key)
        basics = x509.BasicConstraints(ca=False, path_length=None)
        made = self._signed(_named(name), key.public_key(), basics, places)
        (self.folder / f"{name}.crt").write_bytes(made)

    def revoke(self, name: str) -> None:
        """Put a service's certificate on the list of those that are good no more."""
        certificate = x509.load_pem_x509_certificate((self.folder / f"{name}.crt").read_bytes())
        before = [
            revoked.serial_number
            for revoked in x509.load_pem_x509_crl(self.crl.read_bytes())
            if revoked.serial_number != certificate.serial_number
        ]
        self._write_crl([*before, certificate.serial_number])

    def _signed(
        self,
        subject: x509.Name,
        key: object,
        basics: x509.BasicConstraints,
        places: Sequence[IPv4Address | str] = (),
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + LIFETIME)
            .add_extension(basics, critical=True)
        )
        if places:
            names = [x509.DNSName(p) if isinstance(p, str) else x509.IPAddress(p) for p in places]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        return made.public_bytes(serialization.Encoding.PEM)

    def renew(self, lifetime: timedelta) -> None:
        """Issue the list anew; it has its next update after `lifetime`."""
        before = x509.load_pem_x509_crl(self.crl.read_bytes())
        self._write_crl([revoked.serial_number for revoked in before], lifetime)

    def _write_crl(self, serial_numbers: list[int], lifetime: timedelta = LIFETIME) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._issuer)
            .last_update(now - timedelta(days=1))
            .next_update(now + lifetime)
        )
        for number in serial_numbers:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(number)
                .revocation_date(now - timedelta(minutes=1))
                .build()
            )
        made = builder.sign(self._key, hashes.SHA256())  # type: ignore[arg-type]
        # Never half of one: hubs read it while they run.
        new = self.crl.with_suffix(".new")
        new.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        os.replace(new, self.crl)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
