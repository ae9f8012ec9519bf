"""EC2's own key pair, for which bundles of instance-store images are encrypted."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID


class Pair:
    """EC2's own key, for which bundles are encrypted; its certificate is for everybody."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def certificate(self) -> bytes:
        """Return a new certificate of the key, in PEM."""
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EC2 of the lab")])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=3650))
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    def read(self, encrypted: str) -> bytes:
        """Return the 16 bytes that a manifest has in hex digits. Raises ValueError."""
        text = self._key.decrypt(bytes.fromhex(encrypted), padding.PKCS1v15())
        found = bytes.fromhex(text.decode("ascii"))
        if len(found) != 16:
            raise ValueError("a key or vector is not of 16 bytes")
        return found
